"""Listings: the documents in a folder, a page of its storage at a time."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from accountstore.attempts import ask
from accountstore.backends.base import Version
from accountstore.batches import Batches
from accountstore.errors import AccountStoreError, LocationError
from accountstore.location import Location
from accountstore.validation import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from accountstore.backends.base import Stat
    from accountstore.reach import Reach
    from accountstore.storage import Storage

__all__ = ("Entry", "list_documents")


class Entry(Struct, frozen=True):
    """A document in a listing, or what `stat` tells of one. In a listing, `version` may be None."""

    location: Location
    size: int
    version: Version | None
    modified: datetime | None


def list_documents(reach: Reach, folder: str, storage: str | None, /, *, recursive: bool) -> AsyncIterator[Entry]:
    """The documents in a folder within reach, and below it if `recursive`. Each page is an event."""
    found, prefix = reach.folder(folder, storage)
    above = len(prefix) - len(folder) if folder else len(prefix) + bool(prefix)
    pages = found.backend.scan(prefix, recursive=recursive)

    async def next_entries() -> Iterable[Entry]:
        entries: Iterable[Entry] = ()
        while not entries:
            page = await _next_page(reach, found, pages)
            if page is None:
                break
            entries = [entry for stat in page if (entry := _entry(stat, stat.key[above:], storage))]
        return entries

    return Batches(next_entries)


async def _next_page(reach: Reach, storage: Storage, pages: AsyncIterator[Sequence[Stat]], /) -> Sequence[Stat] | None:
    with reach.operation("list", None, storage=storage.name):
        reach.storages.find(storage.name)

        async def next_page() -> Sequence[Stat] | None:
            return await anext(pages, None)

        page = await ask(next_page, partial(storage.named, location=None), storage.policy)
        if isinstance(page, AccountStoreError):
            raise page
        return page


def _entry(stat: Stat, path: str, storage: str | None, /) -> Entry | None:
    folder, _, name = path.rpartition("/")
    try:
        kind_of(name)
        location = Location(name, folder=folder, storage=storage)
    except LocationError:
        return None
    return Entry(location, stat.size, stat.version, stat.modified)
