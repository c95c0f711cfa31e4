"""Listings: the documents in a folder, a page of its storage at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial

from msgspec import Struct

from accountstore.aio.pages import items_of
from accountstore.backends.base import Stat, Version
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
    return items_of(partial(_next_page, resolver, log, pages, found.name, above, storage))


async def _next_page(
    resolver: Resolver,
    log: EventLog,
    pages: AsyncIterator[Sequence[Stat]],
    name: str,
    above: int,
    storage: str | None,
    /,
) -> list[Entry] | None:
    with Operation(log, "list", None, storage=name):
        resolver.storages.find(name)  # as long as the store is open
        page = await anext(pages, None)
    if page is None:
        return None
    entries: list[Entry] = []
    for stat in page:
        folder, _, name = stat.key[above:].rpartition("/")
        try:
            kind_of(name)
            location = Location(name, folder=folder, storage=storage)
        except LocationError:
            continue
        entries.append(Entry(location, stat.size, stat.version, stat.modified))
    return entries
