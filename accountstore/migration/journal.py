"""The journal: what was copied when, and marks by which a change of either end is known. Blocking functions.

SQLite on one connection, which is exclusive: it is the guard against a second run, and a race of several connections
in SQLite's write-ahead log (before 3.51.3) cannot happen. The file holds no content, no secret and no version, but
marks of versions (`accountstore.migration.marks`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct, convert, json
from msgspec.structs import asdict

from accountstore.errors import JournalError
from accountstore.migration.database import ANOTHER, Database, Translated
from accountstore.migration.marks import Marks, default_key_file, make_key, make_private, read_key
from accountstore.migration.model import PROBLEMS, Place, Report, Total, Word
from accountstore.migration.records import Done, Other, Row, outcome_of, printable

_FORMAT = "4"
_UNKEPT = frozenset({None, "foreign", "deleted"})
"""Outcomes of documents that a journal has nothing to say about the next time."""
_COPIED = frozenset({"copied", "changed", "moved"})
_SCHEMA = (
    "create table about (key text primary key, value text) without rowid",
    "create table runs (number integer primary key, began real, ended real, totals text, options text)",
    """create table documents (
        name text primary key, source blob, target blob, outcome text, run integer, time real, error text,
        bytes integer, source_time real, target_time real, copied integer
    ) without rowid""",
    "create table others (run integer, end text, name text, outcome text, reason text)",
)


class About(Struct, frozen=True, kw_only=True):
    """What a journal is of: the id of its key, both ends, which part of the names; and keyed marks of the key itself
    and of where both ends' storages are.
    """

    format: str
    id: str
    source: str
    target: str
    shard: Annotated[str, Meta(pattern="^[0-9]{1,5}/[0-9]{1,5}$")]
    key: str = ""
    source_storage: str = ""
    target_storage: str = ""


class Run(Struct, frozen=True, array_like=True):
    """A run of a journal: when it began and came to its end, its totals and its options."""

    number: int
    began: float
    ended: float | None
    totals: Mapping[str, Total]
    options: Mapping[str, str]


class Journal:
    """An open journal. Its calls block; one at a time. They raise `JournalError` alone."""

    def __init__(self, path: str, /, *, reads: bool = False) -> None:
        self._db = Database(path, reads=reads)
        self._reads = reads
        self.path = path
        self.run: int = 0
        self.totals: dict[str, Total] = {}
        self._runs: Sequence[Run] = ()
        self._is_new = False
        self._new_key = ""

    @classmethod
    def open(cls, path: str, about: Mapping[str, str], /, *, reads: bool = False) -> Journal:
        """Open a journal, or begin one for a migration that is `about` this: the options that it keeps to. With
        `reads`, nothing is written into it, nor into the file of its key.

        Raises:
            JournalError: see there.
        """
        journal = cls(path, reads=reads)
        try:
            journal._is_new = not journal._db.select(tuple[str], "select name from sqlite_master")
            if journal._is_new:
                told = {"format": _FORMAT, "id": os.urandom(16).hex(), **about}
                journal._db.write(
                    *((table, None) for table in _SCHEMA), ("insert into about values (?, ?)", told.items())
                )
            journal._check_same(asdict(journal.about), about)
        except BaseException:
            if journal._is_new:  # nothing could be written into it
                with suppress(JournalError, OSError):
                    journal._db.remove()
            journal.close()
            raise
        return journal

    @classmethod
    def read(cls, path: str, /) -> Journal:
        """Open a journal that is there, to report on it."""
        if not os.path.isfile(path):
            raise JournalError(f"{path}: there is no journal")
        journal = cls(path, reads=True)
        try:
            _ = journal.about
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def about(self) -> About:
        """What the journal is of."""
        told = dict(self._db.select(tuple[str, str], "select key, value from about"))
        if told.get("format") != _FORMAT:
            raise JournalError(f"{self.path}: is no journal of this release: {ANOTHER}")
        with Translated(self.path):
            return convert(told, About)

    def marks(self, key_file: str | None = None, /) -> Marks:
        """The key of the marks, from its file; made where the journal has no marks yet."""
        path = self.key_path(key_file)
        try:
            marks = Marks(read_key(path))
        except FileNotFoundError:
            if self._reads or self._db.select(tuple[int], "select 1 from documents where target is not null limit 1"):
                raise JournalError(
                    f"{self.path}: the key of its marks is missing, {path}: bring it from the machine where the journal"
                    " was begun, or begin another journal"
                ) from None
            self._db.write(("delete from about where key in ('key', 'source_storage', 'target_storage')", None))
            marks = Marks(make_key(path))
            self._new_key = path
        if self.about.key not in {"", marks.of_text("key", self.about.id)}:
            raise JournalError(f"{self.path}: {path} is not the key of its marks: --key-file names the one")
        if not self._reads:
            make_private(path)
        return marks

    def key_path(self, key_file: str | None = None, /) -> str:
        """Where the key of the marks is."""
        return os.path.abspath(key_file or default_key_file(self.about.id))

    def check_storages(self, marks: Marks, storages: Mapping[str, str], /) -> None:
        """Refuse other storages than those that the journal was begun with, whatever they are called. Where it was not
        begun with any, it is now.
        """
        about = self.about
        told = {"key": marks.of_text("key", about.id)}
        for end, place in (("source", about.source), ("target", about.target)):
            name = f"{end}_storage"
            told[name] = storages[name]
            if getattr(about, name) not in {"", storages[name]}:
                raise JournalError(
                    f"{self.path}: was begun with another {end}: url, options, codec or encryption id of the storage of"
                    f" {place!r}, or the server that the environment names, are others now. Give what it was begun"
                    " with, or another journal: what is at the target already is compared, not copied again"
                )
        if not about.key and not self._reads:
            self._db.write(("insert or replace into about values (?, ?)", told.items()))

    def check_no_moves(self) -> None:
        """Refuse to mirror deletions where a run has removed at the source: the target may have the only copy."""
        if any(run.options.get("delete_source") == repr(True) for run in self.runs()):
            raise JournalError(
                f"{self.path}: its runs have moved documents (--delete-source), so that it cannot tell which are gone"
                " because others deleted them, as mirror_deletes (--mirror-deletes) needs: remove by hand at the target"
                " what is gone"
            )

    @property
    def count(self) -> int | None:
        """How many documents the last run that came to its end has met."""
        ended = [run.totals for run in self._runs if run.ended is not None]
        return sum(total.documents for total in ended[-1].values()) if ended else None

    def begin_run(self, meaning: Mapping[str, str], /) -> None:
        """Number a new run with these options.

        Raises:
            JournalError: the last run did not come to its end, and had others.
        """
        self._runs = self.runs()
        if self._runs and self._runs[-1].ended is None:
            self._check_same(self._runs[-1].options, meaning)
        self.run = self._runs[-1].number + 1 if self._runs else 1
        self.totals = {}
        row = (self.run, time.time(), json.encode(meaning).decode())
        self._db.write(
            ("insert into runs (number, began, totals, options) values (?, ?, '{}', ?)", [row]),
            ("delete from others", None),
        )

    def _check_same(self, kept: Mapping[str, str], given: Mapping[str, str], /) -> None:
        for name, value in given.items():
            if kept.get(name) != value:
                raise JournalError(
                    f"{self.path}: was begun with {name} {kept.get(name)} (this run has {value}): give the same, or"
                    " another journal: --journal with a path where there is none"
                )

    def rows(self, after: str, most: int, /) -> list[Row]:
        """The next rows by name."""
        return self._rows("name > ? order by name limit ?", after, most)

    def rows_of(self, names: Sequence[str], /) -> dict[str, Row]:
        """The rows of these names."""
        marks = ", ".join("?" * len(names))
        return {row.name: row for row in self._rows(f"name in ({marks})", *names)}

    def _rows(self, which: str, /, *given: object) -> list[Row]:
        query = f"select name, source, target, outcome, copied from documents where {which}"  # noqa: S608 -- question marks
        return self._db.select(Row, query, *given)

    def record(self, done: Sequence[tuple[Done, Row | None]], others: Sequence[Other] = (), /) -> None:
        """Keep what was done, in one transaction that is on the disk when this returns; each with the row before."""
        now = time.time()
        changed = [
            (
                *(one.name, *_kept(one, row), one.outcome, self.run, now, one.error, one.size),
                *map(_seconds, _times(one)),
                1 if one.outcome in _COPIED else 0 if row is None else row.copied,
            )
            for one, row in done
            if one.outcome not in _UNKEPT and (row is None or not _is_old(one, row))
        ]
        forgotten = [(one.name,) for one, row in done if row is not None and one.outcome in _UNKEPT]
        odd = [(self.run, other.end, printable(other.name), other.outcome, other.reason) for other in others]
        for word, size in [*((one.outcome, one.size) for one, _ in done), *((other.outcome, 0) for other in others)]:
            if word is not None:
                self.totals.setdefault(word, Total()).add(size)
        if not (changed or forgotten or odd):
            return  # the totals wait for the next
        self._db.write(
            ("insert or replace into documents values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", changed),
            ("delete from documents where name = ?", forgotten),
            ("insert into others values (?, ?, ?, ?, ?)", odd),
            self._totals(None),
        )

    def end_run(self) -> None:
        """The run came to its end."""
        self._db.write(self._totals(time.time()))

    def _totals(self, ended: float | None, /) -> tuple[str, Sequence[Sequence[object]]]:
        row = (ended, json.encode(self.totals).decode(), self.run)
        return "update runs set ended = ?, totals = ? where number = ?", [row]

    def runs(self) -> list[Run]:
        """Each run, the last one at the end."""
        found = self._db.select(
            tuple[int, float, float | None, str, str],
            "select number, began, ended, totals, options from runs order by number",
        )
        with Translated(self.path):
            return [
                Run(
                    number,
                    began,
                    ended,
                    json.decode(totals, type=dict[str, Total]),
                    json.decode(options, type=dict[str, str]),
                )
                for number, began, ended, totals, options in found
            ]

    def report(self) -> Report:
        """What the last run came to, with the outcomes that are problems."""
        runs, about = self.runs(), self.about
        last = runs[-1] if runs else Run(0, 0.0, None, {}, {})
        with Translated(self.path):
            places = [Place.parse(end) for end in (about.source, about.target)]
            outcomes = tuple(outcome_of(done, *places) for done in self._problems(last.number))
        return Report(
            action="migrate",
            source=about.source,
            target=about.target,
            complete=last.ended is not None,
            seconds=(last.ended or last.began) - last.began,
            totals=last.totals,
            outcomes=outcomes,
        )

    def _problems(self, run: int, /) -> Iterator[Done]:
        """What a run has met that is not at the target as it is at the source, by name."""
        marks = ", ".join("?" * len(PROBLEMS))
        for name, outcome, size, source, target, error in self._db.select(
            tuple[str, Word, int, float | None, float | None, str],
            "select name, outcome, bytes, source_time, target_time, error from documents"  # noqa: S608 -- question marks
            f" where run = ? and outcome in ({marks}) order by name",
            run,
            *PROBLEMS,
        ):
            yield Done(name, outcome, None, None, size, _moment(source), _moment(target), error)
        for name, outcome, reason in self._db.select(
            tuple[str, Word, str],
            f"select name, outcome, reason from others where run = ? and outcome in ({marks}) order by name",  # noqa: S608 -- as above
            run,
            *PROBLEMS,
        ):
            yield Done(name, outcome, reason=reason)

    def abandon(self) -> None:
        """Remove it where it is new and knows nothing yet, with the key that was made for it: a run could not begin."""
        known = "select 1 from documents union all select 1 from others limit 1"
        if not self._is_new or self._db.select(tuple[int], known):
            return
        self._is_new = False
        with suppress(OSError):
            self._db.remove()
            if self._new_key:
                os.unlink(self._new_key)

    def close(self) -> None:
        """Close the file. It stays."""
        self._db.close()


def _kept(done: Done, row: Row | None, /) -> tuple[bytes | None, bytes | None]:
    """The marks that a row has afterwards: new ones where both ends are known to be the same; of what was moved, that
    of the target alone.
    """
    if done.outcome == "moved":
        return None, done.target if done.target is not None or row is None else row.target
    if done.target is not None or row is None:
        return done.source, done.target
    return row.source, row.target


def _is_old(done: Done, row: Row, /) -> bool:
    """Whether a document is as the journal has it: that it was copied before is the more telling outcome."""
    if done.outcome == "gone" and row.moved:
        return True  # as the source has it no more, so was it before
    if done.outcome in PROBLEMS or (done.source, done.target) not in {(row.source, row.target), (None, None)}:
        return False
    return done.outcome == row.outcome or (done.outcome == "same" and row.outcome in {"copied", "changed"})


def _times(done: Done, /) -> tuple[datetime | None, datetime | None]:
    return done.source_time, done.target_time


def _seconds(moment: datetime | None, /) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None, /) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
