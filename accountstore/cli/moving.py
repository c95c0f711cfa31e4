"""Commands that copy, move and remove documents, and folders of them: cp, mv, rm."""

from __future__ import annotations

import sys
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from accountstore import AccountStore, ExtensionError, Location, LocationError, NotFoundError, UnsupportedError
from accountstore.cli.app import (
    Create,
    app,
    check_lasting,
    done,
    examples,
    folder_of,
    in_store,
    location_of,
    mode_of,
)
from accountstore.cli.completion import complete_folder, complete_location
from accountstore.cli.documents import document_kind_at, kind_at
from accountstore.cli.exits import exit_codes
from accountstore.cli.help import Command
from accountstore.cli.listing import check_target, counted, no_documents, tell_storage_meant
from accountstore.cli.many import check_storages, documents_below, each, folder_pairs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


__all__ = ("cp", "mv", "rm")

_Mode: TypeAlias = Literal["create", "overwrite"]
_Verb: TypeAlias = Literal["copied", "moved"]

_Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="The document's location; with -r also a folder's.",
        show_default=False,
        autocompletion=complete_location,
    ),
]
_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The new location. A folder, ending in / or :, takes the source under its own name.",
        show_default=False,
        autocompletion=complete_folder,
    ),
]
_Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Take a folder with all that is below it.")]


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore cp a.account b.account",
        'accountstore cp a.account "Archive:2024/"',
        'accountstore cp -r mail "Archive:"',
    ),
)
def cp(
    context: typer.Context, source: _Source, target: _Target, create: Create = False, recursive: _Recursive = False
) -> None:
    """Copy a document, also to another storage; with -r a folder.

    Fields that this release does not know come along. It replaces a document that is there, unless --create is given.

    Of a folder, what can be copied is, whatever fails with another document; then it ends with 1. What somebody saves
    there meanwhile may be left out.
    """
    with exit_codes():
        transfer = _transfer_folder if recursive and _is_folder(source) else _transfer
        transfer(context, source, target, mode_of(create), "copied")


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore mv a.account mail/a.account",
        'accountstore mv a.account "Archive:"',
        "accountstore mv -r mail/team-a mail/team-b",
    ),
)
def mv(
    context: typer.Context, source: _Source, target: _Target, create: Create = False, recursive: _Recursive = False
) -> None:
    """Move a document, also to another storage; with -r a folder.

    It is copied, then removed at the source. A change of the source meanwhile is moved too, where its storage can tell.
    It replaces a document that is there, unless --create is given. A folder is moved document by document, as with cp;
    of a local storage it stays where it was, empty.
    """
    with exit_codes():
        transfer = _transfer_folder if recursive and _is_folder(source) else _transfer
        transfer(context, source, target, mode_of(create), "moved")


def _is_folder(text: str, /) -> bool:
    """Whether a text names a folder: the last part of a document's location has its extension."""
    return not text.endswith(".account")


def _source_and_target(source: str, target: str, verb: _Verb, /) -> tuple[Location, Location]:
    where = location_of(source)
    kind = document_kind_at(where, f"{'cp' if verb == 'copied' else 'mv'} -r {quote(source)} {quote(target)}")
    onto = location_of(f"{target}{where.file_name}" if target[-1:] in {"/", ":"} else target, target)
    if kind is not kind_at(onto):
        raise ExtensionError("source and target must be of one kind: *.account or *.multi.account", location=onto)
    return where, onto


def _transfer(context: typer.Context, source: str, target: str, mode: _Mode, verb: _Verb) -> None:
    """Copy or move a document."""
    where, onto = _source_and_target(source, target, verb)
    check_lasting(context, onto.storage, moves=verb == "moved")

    async def work(store: AccountStore) -> None:
        await tell_storage_meant(store, onto)
        await _call(store, verb)(where, onto, mode=mode)

    in_store(context, work)
    done(f"{verb} {where} to {onto}")


def _call(store: AccountStore, verb: _Verb) -> Callable[..., Awaitable[object]]:
    return store.copy if verb == "copied" else store.move


def _transfer_folder(context: typer.Context, source: str, target: str, mode: _Mode, verb: _Verb) -> None:
    """Copy or move a folder, document by document."""
    within = folder_of(source)
    own_name = within.folder.rpartition("/")[2] if target[-1:] in {"/", ":"} else ""
    onto = folder_of(f"{target}{own_name}" if own_name else target)
    check_lasting(context, onto.storage, moves=verb == "moved")

    async def work(store: AccountStore) -> bool:
        check_storages(store, (within, onto))
        check_target(store, onto)
        await tell_storage_meant(store, onto)
        documents, complete = await documents_below(store, within)
        if not documents:
            raise NotFoundError(no_documents(store, within, source))
        pairs = folder_pairs(store, documents, within, onto)
        transfer = _call(store, verb)
        held = await each(store, pairs, lambda pair: transfer(*pair, mode=mode))
        if held:
            done(f"{verb} {counted(len(pairs), 'document')}")
        return held and complete

    if not in_store(context, work):
        raise typer.Exit(1)


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore rm mail/team-a/email.account",
        "accountstore rm -f a.account b.account",
        "accountstore rm -r mail/team-a",
        'accountstore rm -r --yes "Archive:"',
    ),
)
def rm(
    context: typer.Context,
    locations: Annotated[
        list[str],
        typer.Argument(
            metavar="LOCATION...",
            help="The documents to remove; with -r also folders.",
            show_default=False,
            autocompletion=complete_location,
        ),
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="A document that is not there is no error.")] = False,
    recursive: _Recursive = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove folders without asking.")] = False,
) -> None:
    """Remove documents; with -r folders.

    All names are checked before anything is removed. What can be removed is removed, whatever fails with another.

    Folders are looked through, and you are asked, before anything is removed. The root of a storage is removed by the
    storage's name and a colon only. The emptied folders of a local storage stay.
    """
    with exit_codes():
        folders = [_removable(text) for text in locations if recursive and _is_folder(text)]
        places = [location_of(text) for text in locations if not (recursive and _is_folder(text))]
        for where in places:
            document_kind_at(where, f"rm -r {quote(str(where))}")
        complete = True
        found: list[Location] = []
        if folders:
            found, complete = in_store(context, lambda store: _found_in(store, folders, force=force))
            _ask(found, [text for text in locations if _is_folder(text)], yes=yes)

        async def work(store: AccountStore) -> bool:
            check_storages(store, places)
            named = await each(store, places, lambda where: _remove(store, where, force=force), at_once=1)
            return await each(store, found, store.delete) and named

        held = in_store(context, work)
        if held and found:
            done(f"removed {counted(len(found), 'document')}")
        if not (held and complete):
            raise typer.Exit(1)


def _removable(text: str, /) -> Location:
    """The folder that a text names, unless it is a root that nobody may mean: of `"$UNSET"` or `"Mail:$UNSET/"`."""
    within = folder_of(text)
    if not within.folder and (within.storage is None or text.endswith("/")):
        raise LocationError(f"{text!r}: is a root: to remove all that is in a storage, name it with its colon only")
    return within


async def _found_in(store: AccountStore, folders: list[Location], /, *, force: bool) -> tuple[list[Location], bool]:
    check_storages(store, folders)
    found: list[Location] = []
    complete = True
    for within in folders:
        below, all_of_it = await documents_below(store, within)
        if not below and not force:
            raise NotFoundError(no_documents(store, within, str(within).removesuffix(within.file_name)))
        found += below
        complete = complete and all_of_it
    return list(dict.fromkeys(found)), complete


def _ask(found: list[Location], folders: list[str], /, *, yes: bool) -> None:
    """Ask whether documents shall be removed, and end the command where they shall not."""
    if yes or not found:
        return
    what = f"{counted(len(found), 'document')} in {', '.join(map(repr, folders))}"
    if not sys.stdin.isatty():
        raise UnsupportedError(f"would remove {what}: nobody can be asked here, so say --yes")
    from accountstore.cli.prompts import ask_whether

    if not ask_whether(f"Remove {what}?", "nothing was removed"):
        raise typer.Exit(1)


async def _remove(store: AccountStore, where: Location, /, *, force: bool) -> None:
    if not force and not await store.exists(where):
        raise NotFoundError("there is no such document", location=where)
    await store.delete(where)
    done(f"removed {where}")
