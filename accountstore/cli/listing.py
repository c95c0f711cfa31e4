"""What `ls` and `tree` print: documents on stdout; on stderr a word of what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accountstore import AccountStore, AccountStoreError, Entry, Folder, Location, LocationError, NotFoundError, Skipped
from accountstore.cli.exits import print_error
from accountstore.cli.show import Style, console, entry_fields, on_terminal, printable, show_entries, show_line
from accountstore.listing import storage_meant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = (
    "check_documents",
    "check_target",
    "counted",
    "leading_on",
    "no_documents",
    "print_listing",
    "print_skipped",
    "print_tree",
    "tell_storage_meant",
)

_PAGE = 500
_NAMED = 10


async def print_listing(store: AccountStore, within: Location, style: Style, /, *, recursive: bool) -> None:
    """List the folder of a location, a page at a time."""
    skipped: list[Skipped] = []
    page: list[Entry | Folder] = []
    documents = folders = shown = 0
    async for item in store.list(
        within.folder, storage=within.storage, recursive=recursive, folders=not recursive, skipped=skipped.append
    ):
        if isinstance(item, Folder):
            folders += 1
            if style != "json" and not on_terminal():  # a program reads documents
                continue
        else:
            documents += 1
        page.append(item)
        if len(page) == _PAGE:
            show_entries(page, first=not shown, style=style)
            shown += _PAGE
            page.clear()
    if page:
        show_entries(page, first=not shown, style=style)
    print_skipped("not listed", skipped)
    below = f"{counted(folders, 'folder')} (-r also lists what is below)"
    if style == "json":
        return
    if on_terminal():
        console().print(counted(documents, "document") + (f", {below}" if folders else ""), style="dim")
    elif folders:
        print_error(f"not listed: {below}")
    if not documents and not folders:
        _print_empty(store, within)


async def print_tree(store: AccountStore, within: Location, /, *, as_json: bool) -> None:
    """Draw a folder with all that is in it and below it, sorted. All names are in memory."""
    skipped: list[Skipped] = []
    found = [
        item
        async for item in store.list(
            within.folder, storage=within.storage, recursive=True, folders=True, skipped=skipped.append
        )
    ]
    root: dict[str, Any] = {"location": str(Folder(within.folder, within.storage)), "kind": "folder", "contents": []}
    folders = {within.folder: root}
    for item in sorted(found, key=_path):
        node = entry_fields(str(item if isinstance(item, Folder) else item.location), item)
        if isinstance(item, Folder):
            node["contents"] = []
            folders[item.path] = node
        folders[_path(item).rpartition("/")[0]]["contents"].append(node)
    if as_json:
        show_line(root)
    else:
        _draw(root)
    print_skipped("not listed", skipped)
    if on_terminal() and not as_json:
        documents = sum(isinstance(item, Entry) for item in found)
        console().print(f"{counted(documents, 'document')}, {counted(len(folders) - 1, 'folder')}", style="dim")
    if not found:
        _print_empty(store, within)


def _path(item: Entry | Folder, /) -> str:
    return item.path if isinstance(item, Folder) else item.location.path


def _draw(root: Mapping[str, Any], /) -> None:
    from rich.text import Text
    from rich.tree import Tree

    drawn = Tree(Text(printable(root["location"])))
    below = [(drawn, root)]
    while below:
        branch, folder = below.pop()
        for node in folder["contents"]:
            name = node["location"].rstrip("/").rpartition("/")[2].rpartition(":")[2]
            is_folder = node["kind"] == "folder"
            leaf = branch.add(Text(printable(name) + "/" * is_folder, "bold" if is_folder else ""))
            if is_folder:
                below.append((leaf, node))
    console().print(drawn)


def _print_empty(store: AccountStore, within: Location, /) -> None:
    print_error(no_documents(store, within, str(Folder(within.folder, within.storage))))


def no_documents(store: AccountStore, within: Location, folder: str, /) -> str:
    """What is said of a folder without documents, with a word of the storage that was meant."""
    name = _storage_meant(within, store.storages)
    lead = f"; the storage {name!r} is listed by: accountstore ls '{name}:'" if name else ""
    return f"no documents in {folder!r}{lead}"


async def check_documents(store: AccountStore, within: Location, /) -> None:
    """Raise `NotFoundError` for a folder without any document, also one that is left out: its name may be misspelt."""
    left_out: list[Skipped] = []
    async for _ in store.list(within.folder, storage=within.storage, recursive=True, skipped=left_out.append):
        return
    if not left_out:
        raise NotFoundError(no_documents(store, within, str(Folder(within.folder, within.storage))))


def check_target(store: AccountStore, onto: Location, /) -> None:
    """Raise `LocationError` where a folder is to be written to that has a storage's name, the colon forgotten."""
    name = _storage_meant(onto, store.storages)
    if name and "/" not in onto.folder:
        folder = f"{store.storages[0]}:{onto.folder}"
        raise LocationError(f"{onto.folder!r} is a storage: its root is '{name}:', a folder of that name {folder!r}")


async def tell_storage_meant(store: AccountStore, onto: Location, /) -> None:
    """Say on stderr where a new folder is written to that has a storage's name, the colon forgotten perhaps."""
    first, _, rest = onto.folder.partition("/")
    if onto.storage is not None or first not in store.storages:
        return
    others: list[Skipped] = []
    try:
        async for _ in store.list(first, recursive=True, skipped=others.append):
            return
    except AccountStoreError:  # who may write need not be allowed to list
        return
    if others:
        return
    folder, storage = f"{first!r} is a new folder of the storage {store.storages[0]!r}", f"{first}:{rest}"
    print_error(f"warning: {folder}; in the storage {first!r} it would be {storage!r}")


def print_skipped(what: str, skipped: Sequence[Skipped], /) -> None:
    """What a listing left out, on stderr."""
    for left_out in skipped[:_NAMED]:
        print_error(f"{what}: {left_out.path!r} ({left_out.reason})")
    if len(skipped) > _NAMED:
        print_error(f"{what}: {len(skipped) - _NAMED:,} more")


def leading_on(error: NotFoundError, store: AccountStore, /) -> NotFoundError:
    """The error, with a word of the storage that was meant, where its name stands as a folder's."""
    at = error.location
    name = at and _storage_meant(at, store.storages)
    if at is None or not name:
        return error
    below = Location(at.file_name, folder=at.folder.partition("/")[2], storage=name)
    return NotFoundError(f"{error.message}; in the storage {name!r} it would be {str(below)!r}", location=at)


def _storage_meant(location: Location, storages: Sequence[str], /) -> str | None:
    return None if location.storage is not None else storage_meant(location.folder, storages)


def counted(count: int, thing: str, /) -> str:
    """A number of things, in words."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
