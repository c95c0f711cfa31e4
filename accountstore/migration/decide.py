"""What is to be done with a document, from what is known of both ends. Pure functions."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from accountstore.backends.base import Version, WriteMode
from accountstore.migration.marks import Marks
from accountstore.migration.model import Options, Word
from accountstore.migration.records import Row

Action: TypeAlias = Literal["migrate", "plan", "verify"]


class Missing(Struct, frozen=True):
    """There is no document at this end."""


class Unknown(Struct, frozen=True):
    """Whether there is a document, or which version, is not known: it has to be read."""


MISSING, UNKNOWN = Missing(), Unknown()
End: TypeAlias = Version | Missing | Unknown
"""What is known of a document at one end."""


class Settled(Struct, frozen=True):
    """Nothing is to be done; None: and nothing to be said, the document is nowhere any more."""

    outcome: Word | None
    reason: str = ""


class Read(Struct, frozen=True):
    """Both ends have to be read, and compared where the versions alone do not tell; or the target alone."""

    source: bool = True


class Write(Struct, frozen=True):
    """It is to be copied, with this mode."""

    mode: WriteMode
    outcome: Word


class Remove(Struct, frozen=True):
    """It is to be removed at the target, if it is still this version."""

    version: Version


Decision: TypeAlias = Settled | Read | Write | Remove
READ, READ_TARGET = Read(), Read(source=False)


def decide(
    source: End, target: End, row: Row | None, marks: Marks, options: Options, *, equal: bool | None = None
) -> Decision:
    """What is to be done. `equal` says whether the documents are, once they have been compared."""
    known = row if row is not None and row.known else None
    if known is None and isinstance(target, Missing) and not isinstance(source, Missing):
        return Write("create", "copied")
    if isinstance(source, Unknown) or isinstance(target, Unknown):
        return READ
    if isinstance(source, Missing):
        if row is not None and row.moved:
            return Settled(None if isinstance(target, Missing) else "gone")
        return _without_source(target, known, marks, options)
    if isinstance(target, Missing):
        return _without_target(source, known, marks, options)
    if equal:
        return Settled("same")
    return _with_both(source, target, row, marks, options, compared=equal is not None)


def _with_both(
    source: Version, target: Version, row: Row | None, marks: Marks, options: Options, /, *, compared: bool
) -> Decision:
    """What is to be done with two documents that are not known to be equal; those that are compared are not."""
    known = row if row is not None and row.known else None
    changed = known is None or marks.of("source", source) != known.source
    changed_there = known is None or marks.of("target", target) != known.target
    if changed and changed_there:
        why = "the target has another document" if known is None else "both ends have changed since it was copied"
        return _unlike(target, options, why) if compared else READ
    if changed:
        return Write(target, "changed")
    was_conflict = row is not None and row.outcome == "conflict"
    if not compared and (options.delete_source or was_conflict):
        return READ  # it must be seen at the target before it is removed, or is the same again
    if changed_there:
        return Settled("newer") if compared else READ_TARGET  # what is there now may be no document
    return _unlike(target, options, "both ends are as copied, and differ") if compared else Settled("same")


def _unlike(target: Version, options: Options, why: str, /) -> Decision:
    """The target has another document than the source, and is not to keep it where conflicts are to be overwritten."""
    return Write(target, "changed") if options.on_conflict == "overwrite" else Settled("conflict", why)


def _without_target(source: Version, known: Row | None, marks: Marks, options: Options, /) -> Decision:
    if options.on_conflict == "overwrite":
        return Write("create", "copied")
    if known is not None and marks.of("source", source) == known.source:
        return Settled("removed", "it was deleted at the target since it was copied")
    return Settled("conflict", "it was deleted at the target since, or is listed there under another name")


def _without_source(target: Version | Missing, known: Row | None, marks: Marks, options: Options, /) -> Decision:
    if isinstance(target, Missing):
        return Settled(None)
    if known is None:
        return Settled("foreign")
    if not options.mirror_deletes:
        return Settled("gone")
    if not known.copied:
        return Settled("gone", "no run of this journal has copied it: it is left")
    if marks.of("target", target) == known.target:
        return Remove(target)
    return Settled("conflict", "it was deleted at the source, and has changed at the target")
