"""Commands that look at documents: get, ls, tree, stat."""

from __future__ import annotations

import sys
from shlex import quote
from typing import Annotated

import msgspec
import typer

from accountstore import Account, AccountStore, EncodeError, Location, to_json
from accountstore.cli.app import (
    FolderArgument,
    Json,
    Where,
    app,
    examples,
    folder_of,
    in_store,
    location_of,
)
from accountstore.cli.completion import complete_location
from accountstore.cli.documents import document_kind_at, tree_of
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command
from accountstore.cli.listing import print_listing, print_tree
from accountstore.cli.many import check_storages, each
from accountstore.cli.show import Style, on_terminal, show_document, show_json, show_stat

__all__ = ("get", "ls", "stat", "tree")


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore get mail/team-a/email.account",
        "accountstore get --json --reveal mail/team-a/email.account > account.json",
    ),
)
def get(
    context: typer.Context,
    location: Where,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document's JSON.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show secrets instead of asterisks.")] = False,
) -> None:
    """Show a document, with secrets masked.

    Secrets, and fields that this release does not know, show as asterisks without --reveal. With --json --reveal in a
    pipe or file, the output is what the document's file holds, and `accountstore save` takes it back. It refuses masked
    JSON.
    """
    with exit_codes():
        where = location_of(location)
        kind = document_kind_at(where, f"ls {quote(str(where))}")

        async def work(store: AccountStore) -> bytes:
            try:
                return (await store.read_json(where)).document
            except EncodeError as error:
                if as_json:
                    raise
                print_error(f"warning: {error}: fields that are not known here are not shown")
            read = store.read if kind is Account else store.read_multi
            return to_json((await read(where)).document, reveal=True)

        data = in_store(context, work)
        if as_json and reveal and not on_terminal():
            sys.stdout.buffer.write(data.rstrip(b"\n") + b"\n")
            return
        shown = tree_of(data, kind, reveal=reveal)
        if as_json:
            show_json(msgspec.json.encode(shown))
        else:
            show_document(str(where), shown, masked=not reveal)


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore ls",
        'accountstore ls -r "First Storage:mail"',
        "accountstore ls -r --json | jq 'select(.bytes > 1000)'",
        "accountstore ls -r old | xargs -d '\\n' accountstore rm",
    ),
)
def ls(
    context: typer.Context,
    folder: FolderArgument = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also list the folders below.")] = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="Also show kinds, sizes and times.")] = False,
    as_json: Json = False,
) -> None:
    """List the documents in a folder.

    A table on a terminal, with the folders; else one location a line. Lines come as the storage gives them, so a large
    folder begins to show at once. A missing folder is empty. What was not listed is told on stderr: folders, and
    documents whose names no LOCATION can have.

    In a pipe the lines of --long are kind, bytes, time and location with tabs between them. --json has the folders too.
    A kind is account, multi or folder; a time is that of the last change, in UTC.
    """
    with exit_codes():
        where = folder_of(folder)
        style: Style = "json" if as_json else "long" if long else "names"

        async def work(store: AccountStore) -> None:
            check_storages(store, [where])
            await print_listing(store, where, style, recursive=recursive)

        in_store(context, work)


@app.command(cls=Command, epilog=examples("accountstore tree", 'accountstore tree --json "First Storage:mail"'))
def tree(context: typer.Context, folder: FolderArgument = "", as_json: Json = False) -> None:
    """Draw a folder and all that is below it.

    With --json it is one object, in whose "contents" the folders and documents nest.
    """
    with exit_codes():
        where = folder_of(folder)

        async def work(store: AccountStore) -> None:
            check_storages(store, [where])
            await print_tree(store, where, as_json=as_json)

        in_store(context, work)


@app.command(
    cls=Command,
    epilog=examples("accountstore stat mail/team-a/email.account", "accountstore stat --json a.account b.account"),
)
def stat(
    context: typer.Context,
    locations: Annotated[
        list[str],
        typer.Argument(
            metavar="LOCATION...", help="The documents.", show_default=False, autocompletion=complete_location
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show kind, size and time of documents, without reading them.

    Goes on after a document that fails, and then ends with 1.
    """
    with exit_codes():
        places = [location_of(location) for location in locations]
        for where in places:
            document_kind_at(where, f"ls {quote(str(where))}")

        async def work(store: AccountStore) -> bool:
            check_storages(store, places)
            return await each(store, places, lambda where: _show_stat(store, where, as_json=as_json), at_once=1)

        if not in_store(context, work):
            raise typer.Exit(1)


async def _show_stat(store: AccountStore, where: Location, /, *, as_json: bool) -> None:
    show_stat(await store.stat(where), where.storage or store.storages[0], as_json=as_json)
