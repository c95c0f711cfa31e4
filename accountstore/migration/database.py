"""An SQLite file of one's own: private, locked, and on a local disk. Blocking functions."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from accountstore.errors import JournalError

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs", "lustre"})


def connect(path: str, /) -> sqlite3.Connection:
    """Open the file, or make it, and lock it. Raises `JournalError`."""
    folder = os.path.dirname(os.path.abspath(path))
    if (kind := file_system(folder)) in _NETWORK or kind.startswith("fuse."):
        raise JournalError(f"{path}: is on a network file system ({kind}), where SQLite may be corrupted")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise JournalError(f"{path}: the journal cannot be opened ({reason})") from None
    try:
        for pragma in ("locking_mode = exclusive", "journal_mode = wal", "synchronous = full"):
            db.execute(f"pragma {pragma}")
        db.execute("begin immediate")
        db.execute("commit")
    except sqlite3.OperationalError as error:
        db.close()
        if "locked" in str(error):
            raise JournalError(f"{path}: another run is using the journal") from None
        raise JournalError(f"{path}: the journal cannot be opened ({error})") from None
    except sqlite3.DatabaseError:
        db.close()
        raise JournalError(f"{path}: is no journal") from None
    return db


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


class Translated:
    """A `with` block in which SQLite's errors become ours."""

    def __init__(self, path: str, /) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise JournalError(f"{self._path}: the journal cannot be written ({error})") from None
