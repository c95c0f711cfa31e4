"""Listings: the documents and folders in a folder, a page of its storage at a time.

Whatever a listing shows can be read: a key that no location names is shown under no other name. It is told instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from functools import partial

from msgspec import Struct

from accountstore.aio.callers import in_caller
from accountstore.aio.pages import items_of
from accountstore.backends.base import Stat, Version
from accountstore.errors import AccountStoreError, LocationError
from accountstore.events import EventLog, Operation
from accountstore.location import Location
from accountstore.scope import Resolver
from accountstore.validation import RESERVED_PREFIX, check_folder, check_path, kind_of

_NAMED = 10


class Entry(Struct, frozen=True):
    """A document in a listing, or as `stat` finds it. In a listing, `version` may be None."""

    location: Location
    size: int
    version: Version | None
    modified: datetime | None


class Folder(Struct, frozen=True):
    """A folder in a listing: `path` and `storage` are what `list` and `scoped` take."""

    path: str
    storage: str | None

    def __str__(self) -> str:
        return f"{self.path}/" if self.storage is None else f"{self.storage}:{self.path}/"


class Skipped(Struct, frozen=True):
    """What a listing leaves out: a document, or a folder, whose path ends in `/`. No location names it, or something
    else than a file stands in its place, such as a symbolic link; or it is a folder that may not be read, or a link.
    """

    path: str
    storage: str | None
    reason: str


def list_documents(
    resolver: Resolver,
    log: EventLog,
    folder: str,
    storage: str | None,
    /,
    *,
    recursive: bool,
    folders: bool = False,
    skipped: Callable[[Skipped], object] | None = None,
    others: bool = False,
) -> AsyncIterator[Entry | Folder]:
    """The documents, and the `folders`, in a folder within reach, and below it if `recursive`. Each page is an event.

    `skipped` is called with what is left out, with `others` also with files that are no documents by their names;
    without it, a log record at WARNING names it.
    """
    found, prefix = resolver.folder(folder, storage)
    listing = Listing(prefix, folder, storage, recursive=recursive, folders=folders, others=others)
    pages = found.client.pages(prefix, recursive=recursive or (folders and not found.client.capabilities.folders))

    async def next_page() -> list[Entry | Folder] | None:
        with Operation(log, "list", None, storage=found.name) as operation:
            resolver.storages.find(found.name)  # as long as the store is open
            try:
                page = await anext(pages, None)
            except AccountStoreError as error:
                error.message = f"{Folder(folder, found.name)}: {error.message}"
                raise
            if page is None:
                return None
            entries = listing.read(page)
            left_out = listing.skipped
            operation.skipped = len(left_out)
        if left_out and skipped is None:
            _warn(log, found.name, left_out)
        elif left_out and skipped is not None:
            await in_caller(partial(_tell, skipped, left_out))
        return entries

    return items_of(next_page)


def storage_meant(folder: str, storages: Sequence[str], /) -> str | None:
    """The storage that was meant where its name stands as a folder's, the colon behind it forgotten."""
    first = folder.partition("/")[0].casefold()
    return next((name for name in storages if name.casefold() == first), None)


class Listing:
    """Reads the pages of a folder."""

    def __init__(
        self, key: str, path: str, storage: str | None, /, *, recursive: bool, folders: bool, others: bool = False
    ) -> None:
        """`key` is the folder's key, `path` the folder as the store that lists it has it."""
        self._start = f"{key}/" if key else ""
        self._path = f"{path}/" if path else ""
        self._storage = storage
        self._recursive = recursive
        self._folders: set[str] | None = set() if folders else None
        self._others = others
        self.skipped: list[Skipped] = []
        """What was left out of the page that was read last."""

    def read(self, page: Sequence[Stat], /) -> list[Entry | Folder]:
        """The entries of a page."""
        self.skipped = []
        entries: list[Entry | Folder] = []
        for stat in page:
            below = stat.key[len(self._start) :]
            if not stat.key.startswith(self._start) or _is_own(below):
                continue
            if self._folders is not None:
                entries += self._new_folders(below, self._folders)
            if self._recursive or "/" not in below:
                entry = self._entry(below, stat)
                if entry is not None:
                    entries.append(entry)
        return entries

    def _entry(self, below: str, stat: Stat, /) -> Entry | None:
        """A document, or None: of any other file, and of a document that cannot be read under its name."""
        path = self._path + below
        folder, _, name = path.rpartition("/")
        if not name:  # the marker of a folder, or what stands in a folder's place
            if stat.instead:
                self.skipped.append(Skipped(path, self._storage, f"it is {stat.instead}"))
            return None
        try:
            kind_of(name)
        except LocationError as error:
            if self._others:
                reason = f"it is {stat.instead}" if stat.instead else error.message
                self.skipped.append(Skipped(path, self._storage, reason))
            return None
        if stat.instead:
            self.skipped.append(Skipped(path, self._storage, f"it is {stat.instead}"))
            return None
        try:
            location = Location(name, folder=folder, storage=self._storage)
            if location.path != path:
                check_folder("/")  # it begins with a slash
        except LocationError as error:
            self.skipped.append(Skipped(path, self._storage, error.message))
            return None
        return Entry(location, stat.size, stat.version, stat.modified)

    def _new_folders(self, below: str, seen: set[str], /) -> Iterator[Folder]:
        """The folders that a key is in, each once."""
        segments = below.split("/")[:-1]
        for depth in range(1, len(segments) + 1 if self._recursive else min(len(segments), 1) + 1):
            path = self._path + "/".join(segments[:depth])
            if path in seen:
                continue
            seen.add(path)
            try:
                check_folder(path or "/")
                check_path(path, "x.account")
            except LocationError as error:
                self.skipped.append(Skipped(f"{path}/", self._storage, error.message))
            else:
                yield Folder(path, self._storage)


def _is_own(path: str, /) -> bool:
    """Whether something is the library's own: a temporary file or a probe."""
    return f"/{RESERVED_PREFIX}" in f"/{path}"


def _tell(skipped: Callable[[Skipped], object], left_out: Sequence[Skipped], /) -> None:
    for one in left_out:
        skipped(one)


def _warn(log: EventLog, storage: str, skipped: Sequence[Skipped], /) -> None:
    named = ", ".join(f"{one.path!r} ({one.reason})" for one in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    log.warning("a listing of %r leaves out %s%s", storage, named, more)
