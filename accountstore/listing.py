"""Listings: the documents in a folder, a page of its storage at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from msgspec import Struct

from accountstore.aio.pages import items_of
from accountstore.backends.base import Version
from accountstore.errors import LocationError
from accountstore.events import EventLog, Operation
from accountstore.location import Location
from accountstore.scope import Resolver
from accountstore.validation import kind_of


class Entry(Struct, frozen=True):
    """A document in a listing, or as `stat` finds it. In a listing, `version` may be None."""

    location: Location
    size: int
    version: Version | None
    modified: datetime | None


def list_documents(
    resolver: Resolver, log: EventLog, folder: str, storage: str | None, /, *, recursive: bool
) -> AsyncIterator[Entry]:
    """The documents in a folder within reach, and below it if `recursive`. Each page is an event."""
    found, prefix = resolver.folder(folder, storage)
    above = len(prefix) - len(folder) if folder else len(prefix) + bool(prefix)
    pages = found.client.pages(prefix, recursive=recursive)

    async def next_page() -> list[Entry] | None:
        with Operation(log, "list", None, storage=found.name):
            resolver.storages.find(found.name)  # as long as the store is open
            page = await anext(pages, None)
        if page is None:
            return None
        entries: list[Entry] = []
        for stat in page:
            below, _, name = stat.key[above:].rpartition("/")
            try:
                kind_of(name)
                location = Location(name, folder=below, storage=storage)
            except LocationError:
                continue
            entries.append(Entry(location, stat.size, stat.version, stat.modified))
        return entries

    return items_of(next_page)
