"""What is to be done with a document, from what is known of both ends. Pure functions."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from accountstore.backends.base import Version, WriteMode
from accountstore.migration.journal import Marks, Row
from accountstore.migration.model import Options, Word

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
    """Both ends have to be read, and compared where the versions alone do not tell."""


class Write(Struct, frozen=True):
    """It is to be copied, with this mode."""

    mode: WriteMode
    outcome: Word


class Remove(Struct, frozen=True):
    """It is to be removed at the target, if it is still this version."""

    version: Version


Decision: TypeAlias = Settled | Read | Write | Remove
READ = Read()


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
        if row is not None and row.outcome == "moved":
            return Settled("gone")
        return _without_source(target, known, marks, options)
    overwrites = options.on_conflict == "overwrite"
    changed = known is None or marks.of("source", source) != known.source
    if isinstance(target, Missing):
        if not changed:
            return Settled("removed")
        return Write("create", "copied") if overwrites else Settled("conflict", "it was deleted at the target since")
    changed_there = known is None or marks.of("target", target) != known.target
    if not changed_there:
        if changed:
            return Write(target, "changed")
        return READ if options.delete_source and equal is None else Settled("same")
    if equal is None and (changed or options.delete_source):
        return READ
    if not changed:
        return Settled("newer")
    if equal:
        return Settled("same")
    why = "the target has another document" if known is None else "both ends have changed since it was copied"
    return Write(target, "changed") if overwrites else Settled("conflict", why)


def _without_source(target: Version | Missing, known: Row | None, marks: Marks, options: Options, /) -> Decision:
    if isinstance(target, Missing):
        return Settled(None)
    if known is None:
        return Settled("foreign")
    if not options.mirror_deletes:
        return Settled("gone")
    if marks.of("target", target) == known.target:
        return Remove(target)
    return Settled("conflict", "it was deleted at the source, and has changed at the target")
