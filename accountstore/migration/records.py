"""What a journal keeps and is told of a document: values, and no I/O."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from accountstore.migration.model import Outcome, Place, Word


class Row(Struct, frozen=True, array_like=True):
    """What the journal knows of a document: the marks of both versions when it was last known to be the same at both
    ends, if it ever was; that of the target alone, where it was then removed at the source; its last outcome; and 1
    where this journal's runs have once copied it.
    """

    name: str
    source: bytes | None
    target: bytes | None
    outcome: str
    copied: int = 0

    @property
    def known(self) -> bool:
        """Whether it was ever the same at both ends, and has not been moved since."""
        return self.source is not None and self.target is not None

    @property
    def moved(self) -> bool:
        """Whether this journal's runs have copied it, and have removed it at the source."""
        return self.source is None and (self.target is not None or self.outcome == "moved")


class Done(Struct, frozen=True, array_like=True):
    """What is to be journaled of a document."""

    name: str
    outcome: Word | None
    """None: it is at neither end any more."""
    source: bytes | None = None
    target: bytes | None = None
    size: int = 0
    source_time: datetime | None = None
    target_time: datetime | None = None
    error: str = ""
    reason: str = ""
    stop: bool = False
    """Whether the storage's error is about all documents."""
    surely: bool = False
    """Whether the source had others when this one was gone: it was not unmounted."""


def outcome_of(done: Done, source: Place, target: Place, /) -> Outcome:
    """What is told of a document."""
    return Outcome(
        outcome=done.outcome or "gone",
        name=done.name,
        source=source.path_of(done.name),
        target=target.path_of(done.name),
        bytes=done.size,
        source_time=done.source_time,
        target_time=done.target_time,
        error=done.error,
        reason=done.reason,
    )


class Other(Struct, frozen=True, array_like=True):
    """A file at one end that is no document, or whose name no location has."""

    end: str
    name: str
    outcome: Word
    reason: str


def outcome_of_other(other: Other, source: Place, target: Place, /) -> Outcome:
    """What is told of a file that is no document."""
    name = printable(other.name)
    return Outcome(
        outcome=other.outcome,
        name=name,
        source=source.path_of(name),
        target=target.path_of(name),
        reason=f"{other.end}: {other.reason}",
    )


def printable(name: str, /) -> str:
    """A name that can be written, whatever is in it."""
    return name.encode("utf-8", "backslashreplace").decode()
