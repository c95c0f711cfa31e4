"""The journal: what was copied when, and marks by which a change of either end is known. Blocking functions.

SQLite on one connection, which is exclusive: it is the guard against a second run, and a race of several connections
in SQLite's write-ahead log (before 3.51.3) cannot happen. The file holds no content, no secret and no version, but
marks of versions (`accountstore.migration.marks`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from accountstore.errors import JournalError
from accountstore.migration.database import Translated, connect
from accountstore.migration.marks import Marks, default_key_file, make_key, read_key
from accountstore.migration.model import PROBLEMS, Place, Report, Total
from accountstore.migration.records import Done, Other, Row, outcome_of, printable

_FORMAT = "1"
_UNKEPT = frozenset({None, "foreign", "deleted"})
"""Outcomes of documents that a journal has nothing to say about the next time."""
_SCHEMA = """
create table about (key text primary key, value text) without rowid;
create table runs (number integer primary key, began real, ended real, totals text, options text);
create table documents (
    name text primary key, source blob, target blob, outcome text, run integer, time real, error text, bytes integer,
    source_time real, target_time real
) without rowid;
create table others (run integer, end text, name text, outcome text, reason text);
"""


class Journal:
    """An open journal. Its calls block; one at a time."""

    def __init__(self, path: str, database: sqlite3.Connection, /) -> None:
        self.path = path
        self._db = database
        self.run: int = 0
        self.totals: dict[str, Total] = {}
        self._runs: Sequence[tuple[int, float, float | None, dict[str, Total]]] = ()

    @classmethod
    def open(cls, path: str, about: Mapping[str, str], /) -> Journal:
        """Open a journal, or begin one for a migration that is `about` this: the options that it keeps to.

        Raises:
            JournalError: see there.
        """
        journal = cls(path, connect(path))
        try:
            journal._begin(about)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def read(cls, path: str, /) -> Journal:
        """Open a journal that is there, to report on it."""
        if not os.path.isfile(path):
            raise JournalError(f"{path}: there is no journal")
        journal = cls(path, connect(path))
        try:
            journal._check_format()
            journal.run, _, _, journal.totals = journal.runs()[-1]
        except IndexError:
            pass
        except BaseException:
            journal.close()
            raise
        return journal

    def _begin(self, about: Mapping[str, str], /) -> None:
        db = self._db
        if not db.execute("select 1 from sqlite_master where name = 'documents'").fetchone():
            db.executescript(f"begin immediate; {_SCHEMA}")
            told = {"format": _FORMAT, "id": os.urandom(16).hex(), **about}
            db.executemany("insert into about values (?, ?)", told.items())
            db.execute("commit")
            return
        self._check_format()
        self._check_same(self.about, about)

    def _check_format(self) -> None:
        if self.about.get("format") != _FORMAT:
            raise JournalError(f"{self.path}: is no journal of this release")

    @property
    def about(self) -> dict[str, str]:
        """What the journal is of: the id of its key, both ends, and the options."""
        try:
            return dict(self._db.execute("select key, value from about"))
        except sqlite3.DatabaseError:
            raise JournalError(f"{self.path}: is no journal") from None

    def marks(self, key_file: str | None = None, /) -> Marks:
        """The key of the marks, from its file; made where the journal has no marks yet."""
        path = self.key_path(key_file)
        try:
            return Marks(read_key(path))
        except FileNotFoundError:
            if self._db.execute("select 1 from documents where target is not null limit 1").fetchone():
                raise JournalError(
                    f"{self.path}: the key of its marks is missing, {path}: bring it from the machine where the journal"
                    " was begun, or begin another journal"
                ) from None
            return Marks(make_key(path))

    def key_path(self, key_file: str | None = None, /) -> str:
        """Where the key of the marks is."""
        return os.path.abspath(key_file or default_key_file(self.about["id"]))

    @property
    def count(self) -> int | None:
        """How many documents the last run that came to its end has met."""
        ended = [totals for _, _, end, totals in self._runs if end is not None]
        return sum(total.documents for total in ended[-1].values()) if ended else None

    def begin_run(self, meaning: Mapping[str, str], /) -> None:
        """Number a new run with these options.

        Raises:
            JournalError: the last run did not come to its end, and had others.
        """
        self._runs = self.runs()
        last = self._db.execute("select ended, options from runs order by number desc limit 1").fetchone()
        if last is not None and last[0] is None:
            self._check_same(msgspec.json.decode(last[1], type=dict[str, str]), meaning)
        with self._translated():
            self._db.execute("begin")
            found = self._db.execute(
                "insert into runs (began, totals, options) values (?, '{}', ?)",
                (time.time(), msgspec.json.encode(meaning).decode()),
            )
            self._db.execute("delete from others")
            self._db.execute("commit")
        self.run = found.lastrowid or 0
        self.totals = {}

    def _check_same(self, kept: Mapping[str, str], given: Mapping[str, str], /) -> None:
        for name, value in given.items():
            if kept.get(name) != value:
                raise JournalError(
                    f"{self.path}: was begun with {name} {kept.get(name)}, and this run has {value}: give the same, or"
                    " another journal"
                )

    def rows(self, after: str, most: int, /) -> list[Row]:
        """The next rows by name."""
        found = self._db.execute(
            "select name, source, target, outcome from documents where name > ? order by name limit ?", (after, most)
        )
        return [Row(*row) for row in found]

    def rows_of(self, names: Sequence[str], /) -> dict[str, Row]:
        """The rows of these names."""
        marks = ", ".join("?" * len(names))
        query = f"select name, source, target, outcome from documents where name in ({marks})"  # noqa: S608 -- question marks
        return {row[0]: Row(*row) for row in self._db.execute(query, tuple(names))}

    def record(self, done: Sequence[tuple[Done, Row | None]], others: Sequence[Other] = (), /) -> None:
        """Keep what was done, in one transaction that is on the disk when this returns; each with the row before."""
        now = time.time()
        changed = [
            (one.name, *_kept(one, row), one.outcome, self.run, now, one.error, one.size, *map(_seconds, _times(one)))
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
        with self._translated():
            self._db.execute("begin")
            self._db.executemany("insert or replace into documents values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", changed)
            self._db.executemany("delete from documents where name = ?", forgotten)
            self._db.executemany("insert into others values (?, ?, ?, ?, ?)", odd)
            self._keep_totals(None)
            self._db.execute("commit")

    def end_run(self) -> None:
        """The run came to its end."""
        with self._translated():
            self._db.execute("begin")
            self._keep_totals(time.time())
            self._db.execute("commit")

    def _keep_totals(self, ended: float | None, /) -> None:
        totals = msgspec.json.encode(self.totals).decode()
        self._db.execute("update runs set ended = ?, totals = ? where number = ?", (ended, totals, self.run))

    def _translated(self) -> Translated:
        return Translated(self.path)

    def runs(self) -> list[tuple[int, float, float | None, dict[str, Total]]]:
        """Each run: its number, when it began and came to its end, its totals."""
        found = self._db.execute("select number, began, ended, totals from runs order by number")
        return [(*row[:3], msgspec.json.decode(row[3], type=dict[str, Total])) for row in found]

    def report(self) -> Report:
        """What the last run came to, with the outcomes that are problems."""
        runs, about = self.runs(), self.about
        _, began, ended, totals = runs[-1] if runs else (0, 0.0, None, {})
        places = [Place.parse(about[end]) for end in ("source", "target")]
        return Report(
            action="migrate",
            source=about["source"],
            target=about["target"],
            complete=ended is not None,
            seconds=(ended or began) - began,
            totals=totals,
            outcomes=tuple(outcome_of(done, *places) for done in self.problems()),
        )

    def problems(self) -> Iterator[Done]:
        """What the last run has met that is not at the target as it is at the source, by name."""
        run = self._db.execute("select max(number) from runs").fetchone()[0]
        marks = ", ".join("?" * len(PROBLEMS))
        for name, outcome, size, source, target, error in self._db.execute(
            "select name, outcome, bytes, source_time, target_time, error from documents"  # noqa: S608 -- question marks
            f" where run = ? and outcome in ({marks}) order by name",
            (run, *PROBLEMS),
        ):
            yield Done(name, outcome, None, None, size, _moment(source), _moment(target), error)
        for name, outcome, reason in self._db.execute(
            "select name, outcome, reason from others where run = ? and outcome = 'refused' order by name", (run,)
        ):
            yield Done(name, outcome, reason=reason)

    def close(self) -> None:
        """Close the file. It stays."""
        self._db.close()


def _kept(done: Done, row: Row | None, /) -> tuple[bytes | None, bytes | None]:
    """The marks that a row has afterwards: new ones where both ends are known to be the same."""
    if done.target is not None or done.outcome == "moved" or row is None:
        return done.source, done.target
    return row.source, row.target


def _is_old(done: Done, row: Row, /) -> bool:
    """Whether a document is as the journal has it: that it was copied before is the more telling outcome."""
    if done.outcome in PROBLEMS or (done.source, done.target) not in {(row.source, row.target), (None, None)}:
        return False
    return done.outcome == row.outcome or (done.outcome == "same" and row.outcome in {"copied", "changed"})


def _times(done: Done, /) -> tuple[datetime | None, datetime | None]:
    return done.source_time, done.target_time


def _seconds(moment: datetime | None, /) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None, /) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
