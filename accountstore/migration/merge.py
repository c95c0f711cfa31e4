"""Both ends and the journal side by side: three streams by name, merged in bounded memory."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar, TypeVarTuple

from anyio import to_thread
from msgspec import Struct, msgpack

from accountstore.backends.base import Version
from accountstore.errors import AccountStoreError, BackendError, JournalError
from accountstore.listing import Entry
from accountstore.migration.records import Row

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PAGE = 1000


class Side(Struct, frozen=True, array_like=True):
    """What a listing has of a document at one end."""

    size: int
    modified: datetime | None
    version: Version | None


class Item(Struct, frozen=True, array_like=True):
    """A name, and what the listings and the journal have of it. `listed` is False where nobody has looked."""

    name: str
    source: Side | None
    target: Side | None
    row: Row | None
    listed: bool = True


class Stream(Generic[T]):
    """Pairs of a name and what it has, in the order of the names, of which the first is at hand."""

    def __init__(self, fetch: Callable[[], Awaitable[Sequence[tuple[str, T]] | None]], what: str, /) -> None:
        """`fetch` gives the next pairs, and None at the end; `what` names the stream in an error."""
        self._fetch = fetch
        self._what = what
        self._waiting: deque[tuple[str, T]] = deque()
        self._last = ""
        self._ended = False

    async def head(self) -> str | None:
        """The name that comes next; None at the end."""
        while not self._waiting and not self._ended:
            page = await self._fetch()
            if page is None:
                self._ended = True
            else:
                self._waiting.extend(page)
        return self._waiting[0][0] if self._waiting else None

    def take(self, name: str, /) -> T | None:
        """What the name has, if it comes next.

        Raises:
            BackendError: the names are not in order.
        """
        if not self._waiting or self._waiting[0][0] != name:
            return None
        if name <= self._last:
            raise BackendError(
                f"{self._what} lists {name!r} behind {self._last!r}, out of order: migrate with listing='spool'"
                " (--spool)"
            )
        self._last = name
        return self._waiting.popleft()[1]


class Merged:
    """The items of two listings and the journal."""

    def __init__(self, source: Stream[Side], target: Stream[Side], rows: Stream[Row], /) -> None:
        self._source, self._target, self._rows = source, target, rows
        self._items: list[Item] = []

    async def finds_documents(self) -> bool:
        """Whether the source has anything that is wanted, before the first item was taken."""
        return await self._source.head() is not None

    async def finds_copies(self) -> bool:
        """Whether the target has anything, before the first item was taken."""
        return await self._target.head() is not None

    async def next(self, most: int, /) -> list[Item]:
        """The next items, so many at most; none at the end. After an error or a cancellation it goes on."""
        while len(self._items) < most:
            heads = await self._source.head(), await self._target.head(), await self._rows.head()
            names = [name for name in heads if name is not None]
            if not names:
                break
            name = min(names)
            item = Item(name, self._source.take(name), self._target.take(name), self._rows.take(name))
            self._items.append(item)
        items, self._items = self._items, []
        return items


class Listed:
    """The documents of a listing that are wanted, by name, a page at a time."""

    def __init__(
        self,
        entries: AsyncIterator[Entry],
        end: str,
        name_of: Callable[[str], str],
        wants: Callable[[str], bool],
        /,
    ) -> None:
        self._entries = entries
        self._end = end
        self._name_of = name_of
        self._wants = wants
        self._page: list[tuple[str, Side]] = []

    async def next(self) -> list[tuple[str, Side]] | None:
        """The next page, in the order of the listing; None at the end."""
        try:
            async for entry in self._entries:
                name = self._name_of(entry.location.path)
                if self._wants(name):
                    self._page.append((name, Side(entry.size, entry.modified, entry.version)))
                    if len(self._page) == _PAGE:
                        break
        except AccountStoreError as error:
            error.message = f"{self._end}: {error.message}"
            raise
        page, self._page = self._page, []
        return page or None


class Spool:
    """A listing that is sorted on the disk: in a temporary database without a name, which goes with its connection."""

    def __init__(self, listing: Listed, /) -> None:
        self._listing = listing
        self._db: sqlite3.Connection | None = None
        self._page: Sequence[tuple[str, Side]] = ()
        self._full = False
        self._count = 0
        self._last = ""

    async def next(self) -> list[tuple[str, Side]] | None:
        """The next documents in the order of their names, when all are listed; None at the end."""
        if self._db is None:
            self._db = await _on_disk(_temporary)
        while not self._full:
            self._page = self._page or await self._listing.next() or ()
            await _on_disk(_spool, self._db, self._page)
            self._full = not self._page
            self._count += len(self._page)
            self._page = ()
        found = await _on_disk(_spooled, self._db, self._last)
        if found:
            self._last = found[-1][0]
        return found or None

    @property
    def count(self) -> int | None:
        """How many documents there are, when all are listed."""
        return self._count if self._full else None

    def close(self) -> None:
        """Drop it."""
        if self._db is not None:
            self._db.close()


async def _on_disk(call: Callable[[*Ts], T], /, *given: *Ts) -> T:
    """Do something with the temporary database, in a thread. Raises `JournalError`."""
    try:
        return await to_thread.run_sync(call, *given)
    except sqlite3.Error as error:
        raise JournalError(
            f"a listing cannot be sorted on the disk ({error}): is there room for temporary files? The environment"
            " variable SQLITE_TMPDIR names their folder"
        ) from None


def _temporary() -> sqlite3.Connection:
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute("create table found (name text primary key, side blob) without rowid")
    return db


def _spool(db: sqlite3.Connection, page: Sequence[tuple[str, Side]], /) -> None:
    rows = [(name, msgpack.encode(side)) for name, side in page]
    db.execute("begin")
    db.executemany("insert or replace into found values (?, ?)", rows)
    db.execute("commit")


def _spooled(db: sqlite3.Connection, after: str, /) -> list[tuple[str, Side]]:
    found = db.execute("select name, side from found where name > ? order by name limit ?", (after, _PAGE))
    return [(name, msgpack.decode(side, type=Side)) for name, side in found]
