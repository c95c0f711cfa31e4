"""A document of a batch: what is known of it so far, and what becomes of it. No I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Version
from accountstore.errors import (
    AccountStoreError,
    AlgorithmError,
    DocumentError,
    EnvelopeError,
    FullError,
    LocationError,
    MovedError,
    NotFoundError,
    NotRegularError,
    NotSealedError,
    TamperedError,
    UnsupportedError,
)
from accountstore.lease import FIELD
from accountstore.location import Location
from accountstore.migration.decide import MISSING, UNKNOWN, Decision, End, Missing, Settled
from accountstore.migration.marks import Marks
from accountstore.migration.merge import Item, Side
from accountstore.migration.model import Word
from accountstore.migration.records import Done
from accountstore.model import Document
from accountstore.storage import Opened, Storage

UNREADABLE = (DocumentError, TamperedError, MovedError, NotSealedError, EnvelopeError, AlgorithmError)
"""What is wrong with the bytes of one document. A key that is missing or denied is wrong with all of a storage's."""
_REFUSED = (*UNREADABLE, NotRegularError, LocationError)
"""What is wrong with one document."""
_STOPPING = (FullError, UnsupportedError)


class Case(Struct, eq=False):
    """A document, and what is known of it so far."""

    item: Item
    source: End
    target: End
    at: Location = Location("x")
    to: Location = Location("x")
    size: int = 0
    source_time: datetime | None = None
    target_time: datetime | None = None
    opened: Opened[Document] | None = None
    opened_there: Opened[Document] | None = None
    replaceable: bool = False
    """Whether the target is no document, in a version that may be overwritten."""
    removable: Version | None = None
    """The version at the source that may be removed, as the target has it."""
    surely: bool = False
    """Whether the source had others when this one was gone."""
    done: Done | None = None

    def settle(self, outcome: Word, reason: str = "", error: AccountStoreError | None = None, /) -> None:
        """This has become of it. That both ends are the same stays known, but for a source that was removed."""
        before = self.done
        marks = (None, None) if before is None else (None if outcome == "moved" else before.source, before.target)
        self.done = Done(
            self.item.name,
            outcome,
            *marks,
            size=self.size,
            source_time=self.source_time,
            target_time=self.target_time,
            error="" if error is None else type(error).__name__,
            reason=reason,
            stop=isinstance(error, _STOPPING),
        )

    def mark(self, marks: Marks, source: Version, target: Version, /) -> None:
        """Both ends are known to be the same, in these versions."""
        if self.done is not None:
            self.done = replace(self.done, source=marks.of("source", source), target=marks.of("target", target))

    def fail(self, error: AccountStoreError, /, *, stop: bool = False) -> None:
        """It was refused, or a storage failed; and stops the run."""
        end = "target" if error.location == self.to else "source"
        field = getattr(error, "field", "$")
        reason = f"{end}: {error.message}" + (f" (at {field})" if field != "$" else "")
        self.settle("refused" if isinstance(error, _REFUSED) else "failed", reason, error)
        if stop and self.done is not None:
            self.done = replace(self.done, stop=True)

    def found(self, opened: Opened[Document] | AccountStoreError, /) -> None:
        """What a read of the source gave."""
        self.opened = None
        if isinstance(opened, Opened):
            self.opened, self.source = opened, opened.version
            self.size, self.source_time = opened.size, opened.stored.modified or self.source_time
        elif isinstance(opened, NotFoundError):
            self.source = MISSING
        else:
            self.fail(opened)

    def found_there(self, opened: Opened[Document] | Version | AccountStoreError, /) -> None:
        """What a read of the target gave. One that is no document is a conflict: it is left as it is, unless this is
        the version of it that may be overwritten.
        """
        self.opened_there, self.replaceable = None, isinstance(opened, Version)
        if isinstance(opened, Version):
            self.target = opened
        elif isinstance(opened, Opened):
            self.opened_there, self.target = opened, opened.version
            self.target_time = opened.stored.modified or self.target_time
        elif isinstance(opened, NotFoundError):
            self.target = MISSING
        elif isinstance(opened, _REFUSED) and not isinstance(self.source, Missing):
            self.settle("conflict", f"target: {opened.message}", opened)
        elif isinstance(opened, _REFUSED):
            self.settle("foreign", f"target: {opened.message}", opened)
        else:
            self.fail(opened)


def end_of(item: Item, /) -> tuple[End, End]:
    """What the listings know of both ends."""
    return _end(item.source, item.listed), _end(item.target, item.listed)


def _end(side: Side | None, listed: bool, /) -> End:
    if side is None:
        return MISSING if listed else UNKNOWN
    return UNKNOWN if side.version is None else side.version


def settled(item: Item, way: Settled, /) -> Done:
    """What is said of a document with which there is nothing to do, by what the listings have of it."""
    source, target = item.source, item.target
    return Done(
        item.name,
        way.outcome,
        size=0 if source is None else source.size,
        source_time=None if source is None else source.modified,
        target_time=None if target is None else target.modified,
        reason=way.reason,
    )


def nowhere(case: Case, /) -> Done:
    """What is said of a document at neither end: it was listed, or asked for by its name, or nobody has asked."""
    item = case.item
    if item.source is not None:
        return Done(item.name, "gone", size=case.size, reason="it was deleted while the migration ran")
    if item.listed:
        return Done(item.name, None)
    if item.row is not None and item.row.outcome != "missing":
        return Done(item.name, "gone")
    return Done(item.name, "missing", reason="it is at neither end")


def compare(case: Case, way: Decision, /) -> None:
    """Say how the ends differ, in the words of a verification."""
    if isinstance(case.source, Missing) or (case.done is not None and case.done.outcome in {"same", "newer"}):
        return
    case.settle(
        "missing" if isinstance(case.target, Missing) else "differs", way.reason if isinstance(way, Settled) else ""
    )


async def tree_of(storage: Storage, opened: Opened[Document], /) -> dict[str, Any]:
    """All fields of a document but its leases, decoded in a turn of its own where it is large."""
    await storage.turns.take(len(opened.plain))
    return {name: _typed(value) for name, value in storage.codec.tree(opened.plain).items() if name != FIELD}


def _typed(tree: object, /) -> object:
    """A value whose equality tells types and signs: to Python `true` is 1 is 1.0, and 0.0 is -0.0."""
    if isinstance(tree, dict):
        return {_typed(name): _typed(value) for name, value in cast("dict[object, object]", tree).items()}
    if isinstance(tree, list):
        return [*map(_typed, cast("list[object]", tree))]
    return type(tree), repr(tree) if isinstance(tree, float) else tree
