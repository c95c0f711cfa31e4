"""An SQLite file of one's own: private, locked, and on a local disk. Blocking functions."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from accountstore.errors import JournalError

T = TypeVar("T")

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs", "lustre"})
_BESIDE = ("", "-wal", "-shm", "-journal")
_DAMAGED = (msgspec.MsgspecError, ValueError, OverflowError)
"""What a value that nobody has written there leads to, such as a time that no calendar has."""
ANOTHER = "begin another journal: what is at the target already is compared, not copied again"


class Database:
    """An open file. Whatever is wrong with it, or in it, is a `JournalError` that names it."""

    def __init__(self, path: str, /, *, reads: bool = False) -> None:
        """With `reads`, nothing is made or changed, and the medium may be read-only."""
        self.path = path
        self._db = _connect(path, reads)

    def select(self, kind: type[T], query: str, /, *given: object) -> list[T]:
        """The rows that a query finds, each as a value of this type."""
        with Translated(self.path):
            return cast("list[T]", msgspec.convert(self._db.execute(query, given).fetchall(), list[kind]))  # type: ignore[valid-type]  # it is a value

    def write(self, *statements: tuple[str, Iterable[Sequence[object]] | None]) -> None:
        """Do each statement, for each of its rows, in one transaction that is on the disk when this returns."""
        with Translated(self.path):
            self._db.execute("begin immediate")
            try:
                for query, rows in statements:
                    if rows is None:
                        self._db.execute(query)
                    else:
                        self._db.executemany(query, rows)
                self._db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    def remove(self) -> None:
        """Remove it, while it is locked; what SQLite keeps beside it goes first."""
        with Translated(self.path):
            self._db.execute("pragma journal_mode = delete")
        os.unlink(self.path)

    def close(self) -> None:
        """Close it. It stays."""
        self._db.close()


class Translated:
    """A `with` block in which what is wrong with a file, and with what is in it, becomes a `JournalError`."""

    def __init__(self, path: str, /) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, _DAMAGED) or type(error) is sqlite3.DatabaseError:
            raise JournalError(f"{self._path}: the journal is damaged ({error}): {ANOTHER}") from None
        if isinstance(error, sqlite3.Error):
            raise JournalError(f"{self._path}: the journal cannot be read or written ({error})") from None


def _connect(path: str, reads: bool, /) -> sqlite3.Connection:
    """Open the file, or make it, and lock it; one that is only read is not made. Raises `JournalError`."""
    place = os.path.abspath(path)  # a name such as `:memory:` is one to SQLite
    kind = file_system(os.path.dirname(place))
    if kind in _NETWORK or kind.startswith("fuse."):
        raise JournalError(f"{path}: is on a network file system ({kind}), where SQLite may be corrupted")
    is_new = not os.path.lexists(place)
    try:
        for suffix in _BESIDE:
            _check_own(place + suffix, make=not suffix and not reads)
        db = sqlite3.connect(_url(place, reads), uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise JournalError(f"{path}: the journal cannot be opened ({reason})") from None
    try:
        if _is_ours(db, reads):
            _take(db, place, reads)
            return db
        reason = "is no journal"
    except sqlite3.OperationalError as error:
        is_locked = "locked" in str(error)
        reason = "another run is using the journal" if is_locked else f"the journal cannot be opened ({error})"
        if is_new and not is_locked:
            _remove_empty(place)
    except (sqlite3.DatabaseError, UnicodeError):
        reason = "is no journal"
    except OSError as error:
        reason = f"the journal cannot be made private ({error.strerror})"
    db.close()
    raise JournalError(f"{path}: {reason}")


def _is_ours(db: sqlite3.Connection, reads: bool, /) -> bool:
    """Whether it is a journal, or empty where one may be begun; another program's is left as it is."""
    db.execute("pragma locking_mode = exclusive")
    tables = {name for (name,) in db.execute("select name from sqlite_master")}
    return "about" in tables or not (tables or reads)


def _take(db: sqlite3.Connection, place: str, reads: bool, /) -> None:
    """Lock it, and let what is written be on the disk, and nobody else read it."""
    if not _is_fixed(place):
        for statement in ("pragma journal_mode = wal", "pragma synchronous = full", "begin immediate", "commit"):
            db.execute(statement)
    for suffix in () if reads else _BESIDE:
        _make_private(place + suffix)


def _url(place: str, reads: bool, /) -> str:
    """What SQLite is to open. Raises `OSError` where it could not be written, or has a log that would have to be."""
    if not _is_fixed(place):
        return f"{Path(place).as_uri()}?mode=rw"
    if not reads or os.path.exists(f"{place}-wal"):
        raise OSError(0, "the file system is read-only: copy it, and what is beside it, to another")
    return f"{Path(place).as_uri()}?immutable=1"


def _is_fixed(place: str, /) -> bool:
    """Whether nothing can be written where a file is."""
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def _check_own(path: str, /, *, make: bool) -> None:
    """Make a file that nobody else may read, or refuse a link and another user's. Raises `OSError`.

    One that is there is not opened: closing it would drop the lock of a run in this process (POSIX, `fcntl`).
    """
    if make:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(0, "a link, a folder or another user's file stands there")


def _make_private(path: str, /) -> None:
    """Let nobody else read a file that is there, and is known to be the journal's. Raises `OSError`."""
    with suppress(FileNotFoundError):
        if os.lstat(path).st_mode & 0o077:
            os.chmod(path, 0o600)


def _remove_empty(path: str, /) -> None:
    """Remove a new file in which nothing could be written."""
    with suppress(OSError):
        if not os.path.getsize(path):
            os.unlink(path)


def file_system(folder: str, mounts: str = "/proc/self/mountinfo", /) -> str:
    """The kind of the file system that a folder is on; empty where that cannot be told."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    with suppress(OSError), open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].replace("\\040", " ")
            if len(point) >= len(best) and (real == point or real.startswith(f"{point.rstrip('/')}/")):
                best, kind = point, after.split(" ")[0]
    return kind
