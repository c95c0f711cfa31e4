"""Commands that prove something: demo, check."""

from __future__ import annotations

from typing import Annotated

import typer

from accountstore import AccountStore
from accountstore.cli.app import Json, StorageArgument, app, examples, in_store
from accountstore.cli.exits import exit_codes
from accountstore.cli.help import Command
from accountstore.cli.show import check_fields, show_check, show_line, show_outcomes

__all__ = ("check", "demo")


@app.command(cls=Command, epilog=examples("accountstore demo"))
def demo() -> None:
    """Show on samples, in a temporary folder, what the store promises.

    Saves and reads a single and a multi account, updates one from eight tasks at once, provokes errors. Takes a second,
    needs no configuration and leaves nothing behind. Exits with 1 if a promise did not hold.
    """
    from accountstore.cli.demo import run_demo

    with exit_codes():
        outcomes = run_demo()
        show_outcomes(outcomes)
        if not all(outcome.held for outcome in outcomes):
            raise typer.Exit(1)


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore check", 'accountstore check "First Storage"', "accountstore check --all --json | jq .ok"
    ),
)
def check(
    context: typer.Context,
    storage: StorageArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Check all storages, one after another.")] = False,
    as_json: Json = False,
) -> None:
    """Prove that a storage is reachable and keeps its promises.

    Writes, reads, swaps and removes a document of its own at the storage's root. Exits with 1 if a step fails.
    """
    if every and storage is not None:
        raise typer.BadParameter("name a storage or say --all, not both")

    async def work(store: AccountStore) -> bool:
        held = True
        for name in store.storages if every else (store.storages[:1] if storage is None else (storage,)):
            result = await store.check(name)
            if as_json:
                show_line(check_fields(result))
            else:
                show_check(result)
            held = held and result.ok
        return held

    with exit_codes():
        if not in_store(context, work):
            raise typer.Exit(1)
