"""What `ls` prints: documents on stdout, a page at a time; on stderr a word of what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accountstore import AccountStore, Entry, Folder, Location, NotFoundError, Skipped
from accountstore.cli.exits import print_error
from accountstore.cli.show import console, on_terminal, show_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("leading_on", "print_listing")

_PAGE = 500
_NAMED = 10


async def print_listing(store: AccountStore, within: Location, /, *, recursive: bool) -> None:
    """List the folder of a location."""
    skipped: list[Skipped] = []
    page: list[Entry | Folder] = []
    documents = folders = shown = 0
    async for item in store.list(
        within.folder, storage=within.storage, recursive=recursive, folders=not recursive, skipped=skipped.append
    ):
        if isinstance(item, Folder):
            folders += 1
            if not on_terminal():  # a program reads documents
                continue
        else:
            documents += 1
        page.append(item)
        if len(page) == _PAGE:
            show_entries(page, first=not shown)
            shown += _PAGE
            page.clear()
    if page:
        show_entries(page, first=not shown)
    _print_skipped(skipped)
    below = f"{_number(folders, 'folder')} (-r also lists what is below)"
    if on_terminal():
        console().print(_number(documents, "document") + (f", {below}" if folders else ""), style="dim")
    elif folders:
        print_error(f"not listed: {below}")
    if not documents and not folders:
        name = _storage_meant(within, store.storages)
        lead = f"; the storage {name!r} is listed by: accountstore ls '{name}:'" if name else ""
        print_error(f"no documents in {str(Folder(within.folder, within.storage))!r}{lead}")


def _print_skipped(skipped: Sequence[Skipped], /) -> None:
    """What a listing left out, on stderr."""
    for left_out in skipped[:_NAMED]:
        print_error(f"not listed, as no location names it: {left_out.path!r} ({left_out.reason})")
    if len(skipped) > _NAMED:
        print_error(f"not listed, as no location names them: {len(skipped) - _NAMED:,} more")


def leading_on(error: NotFoundError, store: AccountStore, /) -> NotFoundError:
    """The error, with a word of the storage that was meant, where its name stands as a folder's."""
    at = error.location
    name = at and _storage_meant(at, store.storages)
    if at is None or not name:
        return error
    below = Location(at.file_name, folder=at.folder.partition("/")[2], storage=name)
    return NotFoundError(f"{error.message}; in the storage {name!r} it would be {str(below)!r}", location=at)


def _storage_meant(location: Location, storages: Sequence[str], /) -> str | None:
    """The storage that was meant where its name stands as a folder's, the colon behind it forgotten."""
    first = location.folder.partition("/")[0].casefold()
    return next((name for name in storages if location.storage is None and name.casefold() == first), None)


def _number(count: int, thing: str, /) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
