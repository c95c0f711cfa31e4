"""The commands about keys: `accountstore keys new | list | rotate | verify | reseal`."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import anyio
import typer

from accountstore import AccountStore, AccountStoreError, ConfigError, LocationError
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command, Group
from accountstore.cli.show import console, on_terminal, printable
from accountstore.config_file import load_config
from accountstore.sealing.keys import add_key, promote_key, read_keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from accountstore import Encryption, Location, Skipped, StoreConfig
    from accountstore.rotation import Rotated

    _Documents: TypeAlias = Callable[
        [AccountStore, Callable[[Skipped], object]], AsyncIterator[tuple[Location, Rotated | AccountStoreError]]
    ]

__all__ = ("keys",)

T = TypeVar("T")

keys: typer.Typer = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Make keys, and move a storage's documents to another one.",
)

_File = Annotated[str, typer.Argument(metavar="FILE", help="A key file, a JWK Set.", show_default=False)]
_Storage = Annotated[
    str | None,
    typer.Argument(metavar="[STORAGE]", help="The storage; without it, the default one.", show_default=False),
]
_Folder = Annotated[str, typer.Option("--folder", metavar="FOLDER", help="Only this folder, and those below it.")]
_EVERY = 1000


@keys.command(
    cls=Command, epilog="accountstore keys new keys.jwks\naccountstore keys new keys.jwks --id 2027-01 --primary"
)
def new(
    file: _File,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The key's id; without it, today's date and a random part.")
    ] = None,
    primary: Annotated[bool, typer.Option("--primary", help="Let it seal at once.")] = False,
) -> None:
    """Add a key to a key file, which is made (mode 0600) where there is none.

    A new key opens, and does not seal, unless it is the first: give it to all machines, then "accountstore keys rotate
    --to ID". Prints the key's id. Keep a copy of the file: without it what it seals is lost.
    """
    with exit_codes():
        try:
            made = add_key(file, key_id, primary=primary)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error.message}") from None
        sys.stdout.write(f"{printable(made)}\n")


@keys.command("list", cls=Command, epilog="accountstore keys list")
def show(context: typer.Context) -> None:
    """List the storages and the ids of their keys, the one that seals first."""
    from accountstore.rotation import sealing

    with exit_codes():
        config = load_config(context.obj)

        async def work(store: AccountStore) -> None:
            for name in store.storages:
                found = sealing(store, name)
                told = "not sealed"
                if found is not None:
                    told = f"{found.mode}, id {found.id!r}: {', '.join(found.key_ids)}"
                console().print(printable(f"{name}: {told}"), soft_wrap=True)

        _in_store(config, work)


@keys.command(
    cls=Command, epilog='accountstore keys rotate\naccountstore keys rotate "First Storage" --to 2026-11-27-1f0c99'
)
def rotate(
    context: typer.Context,
    storage: _Storage = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="ID", help="Let this key of the storage's key file seal from now on.", show_default=False
        ),
    ] = None,
    folder: _Folder = "",
) -> None:
    """Wrap each document's content key by the current key; contents stay as they are.

    Seals what is plain; or, where the configuration says `seal = false`, makes plain what is sealed. What others change
    meanwhile is not lost. Begun again, it goes on with what is left. Exits with 1 if a document could not be done.
    """
    from accountstore.rotation import rewrap

    with exit_codes():
        config = load_config(context.obj)
        if to is not None:
            name = storage or config.default_name()
            if name not in config.storages:
                raise LocationError(f"the storage {name!r} is not configured")
            _promote(config.storages[name].encryption, to)
            config = load_config(context.obj)
        _run(config, lambda store, skipped: rewrap(store, folder, storage=storage, skipped=skipped))


def _promote(encryption: Encryption | None, key_id: str, /) -> None:
    files = [source for source in encryption.sources() if isinstance(source, str)] if encryption else []
    files = [path for path in files if not path.startswith("env:")]
    for path in files:
        if key_id in read_keys(path):
            promote_key(path, key_id)
            return
    raise ConfigError(f"no key file of the storage has a key {key_id!r}")


@keys.command(cls=Command, epilog="accountstore keys verify")
def verify(context: typer.Context, storage: _Storage = None, folder: _Folder = "") -> None:
    """Prove that no document needs another key than the current one. Opens each, writes nothing.

    Exits with 1 if one needs another key, is plain, or does not open; or if one has a name that no LOCATION can have.
    Then take the old key out of the key file.
    """
    from accountstore.rotation import verify as documents

    with exit_codes():
        config = load_config(context.obj)
        _run(config, lambda store, skipped: documents(store, folder, storage=storage, skipped=skipped))


@keys.command(cls=Command, epilog="accountstore keys reseal\naccountstore keys reseal --before 2026-11-27T05:30:00")
def reseal(
    context: typer.Context,
    storage: _Storage = None,
    folder: _Folder = "",
    before: Annotated[
        datetime | None,
        typer.Option("--before", metavar="TIME", help="Leave what was written since (UTC): go on with a run."),
    ] = None,
) -> None:
    """Encrypt each document anew, with a new content key: for a key that leaked.

    "rotate" is not enough then: who had the key may have unwrapped the content keys. Change the passwords, too, if
    anybody may have read the files.
    """
    from accountstore.rotation import reseal as documents

    with exit_codes():
        config = load_config(context.obj)
        since = None if before is None else before.replace(tzinfo=UTC)
        print_error(f"began at {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}: --before goes on with this run")
        _run(config, lambda store, skipped: documents(store, folder, storage=storage, before=since, skipped=skipped))


def _in_store(config: StoreConfig, work: Callable[[AccountStore], Awaitable[T]], /) -> T:
    async def run() -> T:
        async with AccountStore.open(config) as store:
            return await work(store)

    return anyio.run(run)


def _run(config: StoreConfig, documents: _Documents, /) -> None:
    """Go through documents, with progress on a terminal; tell what is wrong as it comes, and at the end the numbers."""
    counts = Counter[str]()

    def skipped(one: Skipped) -> None:
        counts["skipped"] += 1
        print_error(f"{one.path!r} was not looked at: {one.reason}")

    async def work(store: AccountStore) -> None:
        async for location, result in documents(store, skipped):
            if isinstance(result, AccountStoreError):
                print_error(result)
                counts["failed"] += 1
            else:
                if result.outcome == "stale":
                    print_error(f"{location}: {', '.join(result.key_ids) or 'plaintext'}")
                counts[result.outcome] += 1
            if on_terminal() and not counts.total() % _EVERY:
                console(stderr=True).print(f"{counts.total():,} documents", end="\r")

    _in_store(config, work)
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
    sys.stdout.write(f"{told or 'no documents'}\n")
    if counts["failed"] + counts["stale"] + counts["skipped"]:
        raise typer.Exit(1)
