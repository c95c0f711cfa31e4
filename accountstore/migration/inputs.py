"""What a run goes through: the journal's rows, a list of names, and what listings leave out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unicodedata import normalize

from anyio import to_thread
from msgspec.structs import replace

from accountstore.errors import ExtensionError
from accountstore.listing import Skipped
from accountstore.migration.decide import Settled
from accountstore.migration.journal import Journal
from accountstore.migration.merge import Item
from accountstore.migration.model import Options, Place
from accountstore.migration.presence import LEFT
from accountstore.migration.records import Other, Row
from accountstore.validation import kind_of

_PAGE = 1000


class Others:
    """What the listings leave out, and is wanted. It knows nothing of the run, which can be dropped."""

    def __init__(self, options: Options, /) -> None:
        self._options = options
        self._unread: tuple[str, ...] = ()
        self.composed: dict[str, set[str]] = {"source": set(), "target": set()}
        """The names of documents that an end has in another Unicode form, in that which a location has."""
        self.found: list[Other] = []
        self._in_place: dict[str, Other] = {}
        """What stands at the target in a document's place, until its name comes, which tells more."""

    def listed(self, item: Item, /) -> Item:
        """An item; one in a folder that could not be read at either end was not looked for, and one that the target may
        find by its name, though it lists another form of that or something else in its place, neither.
        """
        in_place = self._in_place.pop(item.name, None) is not None
        unseen = in_place or item.name.startswith(self._unread) or item.name in self.composed["target"]
        return replace(item, listed=False) if unseen else item

    def left(self, item: Item, /) -> Settled | None:
        """What is said of a copy that is not to be removed, as the source has its document by another form of its name;
        None: this is no such copy.
        """
        is_copy = item.source is None and item.target is not None and item.row is not None
        has_form = is_copy and item.name in self.composed["source"]
        return Settled("gone", LEFT) if has_form and self._options.mirror_deletes else None

    def add(self, end: str, place: Place, skipped: Skipped, /) -> None:
        """A listing has left this out."""
        name = place.name_of(skipped.path)
        if not name or name.endswith("/"):  # a folder below, or the place itself
            self._unread += (name,)
            self.found.append(Other(end, name, "failed", skipped.reason))
        elif self._options.wants(name):
            if (composed := normalize("NFC", name)) != name:
                self.composed[end].add(composed)
            if not _is_document(name.rpartition("/")[2]):
                self.found.append(Other(end, name, "foreign", skipped.reason))
            elif end == "source":
                self.found.append(Other(end, name, "refused", skipped.reason))
            else:
                self._in_place[name] = Other(end, name, "foreign", skipped.reason)

    def end(self) -> None:
        """No more names come."""
        self.found += self._in_place.values()
        self._in_place = {}


class Rows:
    """The journal's rows that are wanted, by name."""

    def __init__(self, journal: Journal | None, wants: Callable[[str], bool], /) -> None:
        self._journal = journal
        self._wants = wants
        self._last = ""

    async def next(self) -> list[tuple[str, Row]] | None:
        """The next of them; None at the end."""
        if self._journal is None:
            return None
        rows = await to_thread.run_sync(self._journal.rows, self._last, _PAGE)
        if not rows:
            return None
        self._last = rows[-1].name
        return [(row.name, row) for row in rows if self._wants(row.name)]


class Named:
    """The items of a list of names, at whose ends nobody has looked."""

    def __init__(self, names: Sequence[str], journal: Journal | None, /) -> None:
        self._names = names
        self._journal = journal
        self._at = 0

    async def next(self, most: int, /) -> list[Item]:
        """The next of them, so many at most; none at the end."""
        names = self._names[self._at : self._at + most]
        rows: dict[str, Row] = {}
        if self._journal is not None and names:
            rows = await to_thread.run_sync(self._journal.rows_of, names)
        self._at += len(names)
        return [Item(name, None, None, rows.get(name), listed=False) for name in names]


async def copies_in(journal: Journal, options: Options, /) -> int:
    """How many documents of those that are migrated the journal knows at the target."""
    count = 0
    if options.names is not None:
        named = Named([*filter(options.wants, {*options.names})], journal)
        while items := await named.next(_PAGE):
            count += sum(item.row is not None and (item.row.known or item.row.moved) for item in items)
        return count
    rows = Rows(journal, options.wants)
    while (page := await rows.next()) is not None:
        count += sum(row.known or row.moved for _, row in page)
    return count


def entries_of(found: Any, /) -> Any:
    """A listing without folders has entries alone."""
    return found


def _is_document(file_name: str, /) -> bool:
    try:
        kind_of(file_name)
    except ExtensionError:
        return False
    return True
