"""What journals say of their last runs. Blocking functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from accountstore.errors import JournalError
from accountstore.migration.journal import About, Journal
from accountstore.migration.model import Report, Total


class _Part(NamedTuple):
    """What one journal says."""

    path: str
    about: About
    options: Mapping[str, str]
    report: Report

    @property
    def shard(self) -> str:
        return self.about.shard.partition("/")[0]

    def meaning(self) -> dict[str, object]:
        """What all parts of a migration have in common."""
        shards = self.about.shard.partition("/")[2]
        told = {name: value for name, value in self.options.items() if name != "shard"}
        return {"source": self.about.source, "target": self.about.target, "number of shards": shards, **told}


def read_report(*journals: str | os.PathLike[str]) -> Report:
    """What the journals say of their last runs, merged: those of all shards. Blocking.

    It is `complete` with the journals of all shards alone; `absent` names the others.

    Raises:
        JournalError: one is not there, is in use, is given twice, or is of another migration than the first one.
        ValueError: none was given.
    """
    if not journals:
        raise ValueError("read_report takes at least one journal")
    parts = [_read(os.fspath(path)) for path in journals]
    _check_one_migration(parts)
    shards = int(parts[0].about.shard.partition("/")[2])
    absent = tuple(shard for shard in range(1, shards + 1) if str(shard) not in {part.shard for part in parts})
    reports = [part.report for part in parts]
    totals: dict[str, Total] = {}
    for report in reports:
        for word, total in report.totals.items():
            kept = totals.setdefault(word, Total())
            kept.documents += total.documents
            kept.bytes += total.bytes
    return replace(
        reports[0],
        complete=all(report.complete for report in reports) and not absent,
        absent=absent,
        seconds=max(report.seconds for report in reports),
        totals=totals,
        outcomes=tuple(outcome for report in reports for outcome in report.outcomes),
    )


def _read(path: str, /) -> _Part:
    journal = Journal.read(path)
    try:
        runs = journal.runs()
        return _Part(path, journal.about, runs[-1].options if runs else {}, journal.report())
    finally:
        journal.close()


def _check_one_migration(parts: Sequence[_Part], /) -> None:
    """Refuse journals that are not the shards of one migration, each once."""
    first, meaning = parts[0], parts[0].meaning()
    for place, part in enumerate(parts):
        for name, value in part.meaning().items():
            if value != meaning.get(name, value):
                raise JournalError(
                    f"{part.path}: is of another migration than {first.path}, with {name} {value} and not"
                    f" {meaning[name]}: report on it by itself"
                )
        for other in parts[:place]:
            if part.shard == other.shard:
                raise JournalError(f"{part.path}: is of shard {part.about.shard}, as {other.path} is: give each once")
