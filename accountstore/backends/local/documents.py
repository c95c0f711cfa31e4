"""Documents as files in an open folder: whole, durable, private. Blocking functions.

A write goes to a temporary file in the document's folder, to the disk, and then in one step to the document's name, so
a crash leaves the old or the new document. Whoever changes or removes a document holds a lock on the file itself while
it compares and renames; the lock is checked to be on the file that still has the name, and dies with its holder. A
temporary file is locked by its writer, so one that can be locked was left by a crash and is swept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from random import random
from typing import Any

from accountstore.backends.base import (
    Blob,
    ConflictError,
    LockedError,
    NotFoundError,
    NotRegularError,
    Stat,
    UnavailableError,
    Version,
    WriteMode,
    check_size,
    digest,
)
from accountstore.backends.local.syscalls import Descriptor, SystemCalls, set_mode
from accountstore.files import take_over
from accountstore.validation import RESERVED_PREFIX

# Without O_NONBLOCK, opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TEMPORARY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 100
_LOCK_SECONDS = 0.05
_CHUNK = 1024 * 1024
_HASHED = 16 * _CHUNK
_WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class VanishedError(Exception):
    """The temporary file, or the folder, was removed meanwhile."""


class Documents:
    """What is done with a document in an open folder, `at`. Its `key` is for its stat.

    Without `locking` there is no compare-and-swap and no sweeping; without `links` (hard links) a create is not
    exclusive. A document that is made has the mode; one that is replaced keeps its own, its owner, group and ACL, as
    far as this process may.
    """

    def __init__(self, calls: SystemCalls, mode: int, /, *, locking: bool, links: bool) -> None:
        self._os = calls
        self._mode = mode
        self._locking = locking
        self._links = links

    def read(self, at: int, name: str, key: str, limit: int, /) -> Blob:
        """Bytes and stat of one state."""
        with self._open(at, name) as fd:
            status = self._regular(fd)
            size = status.st_size
            check_size(size, limit)
            data = self._os.read(fd, size + 1)
            while len(data) < size and (more := self._os.read(fd, size - len(data))):
                data += more
        version = digest(data) if size <= _HASHED else Version(f"stat:{_identity(status)}")
        return Blob(data, Stat(key, len(data), version, time_of(status)))

    def stat(self, at: int, name: str, key: str, /) -> Stat:
        """The stat that `read` returns. The version of a file too large to be a document is not its digest."""
        with self._open(at, name) as fd:
            status = self._regular(fd)
            return Stat(key, status.st_size, self._version(fd, status), time_of(status), _identity(status))

    def write(self, at: int, key: str, data: bytes, mode: WriteMode, fence: AbstractContextManager[Any], /) -> Stat:
        """Write a document behind the fence; the folder is still to go to the disk.

        Raises:
            LockedError: another process holds the document.
            VanishedError: the folder was removed meanwhile.
        """
        name = key.rpartition("/")[2]
        if isinstance(mode, Version):  # a conflict is found before the disk has work with the new document
            with self._open(at, name) as fd:
                self._regular(fd)
                self._compare(fd, mode)
        for _ in range(_TRIES):
            temporary = f"{RESERVED_PREFIX}{os.urandom(8).hex()}.tmp"
            with Descriptor(self._os, temporary, _TEMPORARY, at, 0o600, locks=self._locking) as fd:
                try:
                    status = self._fill(fd, data)
                    if status is not None:
                        self._give_name(at, temporary, fd, name, mode, fence)
                        version = digest(data) if len(data) <= _HASHED else Version(f"stat:{_identity(status)}")
                        return Stat(key, len(data), version, time_of(status))
                except BaseException:
                    with suppress(OSError):
                        self._os.unlink(temporary, dir_fd=at)
                    raise
        raise UnavailableError("cannot keep a temporary file from being swept", sent=False)

    def _fill(self, fd: int, data: bytes, /) -> os.stat_result | None:
        """Bring a new temporary file to the disk: with its mode, and locked, as one that a crash left is not.

        None when a sweeper was faster than the lock: the file is its to remove.
        """
        if self._locking:
            try:
                self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        rest = memoryview(data)
        while rest:
            rest = rest[self._os.write(fd, rest) :]
        self._os.fsync(fd)
        status = self._os.fstat(fd)
        if stat.S_IMODE(status.st_mode) != self._mode:  # the umask takes the owner's own bits
            set_mode(self._os, fd, self._mode)
            self._os.fsync(fd)
        return status if status.st_nlink else None

    def _give_name(
        self, at: int, temporary: str, fd: int, name: str, mode: WriteMode, fence: AbstractContextManager[Any], /
    ) -> None:
        """Give the temporary file the document's name, if the mode allows it."""
        for _ in range(_TRIES):
            try:
                if mode != "create" and self._replace(at, temporary, fd, name, mode, fence):
                    return
                if not self._links:
                    _publish(fence, self._os.rename, temporary, name, src_dir_fd=at, dst_dir_fd=at)
                    return
                # rename() would replace a document that another process has just created; link() does not.
                _publish(fence, self._os.link, temporary, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
            except FileExistsError:
                if mode == "create":
                    raise
            except FileNotFoundError:
                raise VanishedError from None
            else:
                with suppress(OSError):  # it is swept later
                    self._os.unlink(temporary, dir_fd=at)
                return
        raise UnavailableError("others keep creating and removing the document", sent=False)

    def _replace(
        self, at: int, temporary: str, fd: int, name: str, mode: WriteMode, fence: AbstractContextManager[Any], /
    ) -> bool:
        """Rename the temporary file over the document, which is held meanwhile. False: there is none to overwrite."""
        try:
            held = self._lock(at, name)
        except FileNotFoundError:
            if mode == "overwrite":
                return False
            raise NotFoundError("there is no such document") from None
        with held as old:
            if isinstance(mode, Version):
                self._compare(old, mode)
            take_over(fd, old, self._os)
            _publish(fence, self._os.rename, temporary, name, src_dir_fd=at, dst_dir_fd=at)
        return True

    def delete(self, at: int, name: str, version: Version | None, fence: AbstractContextManager[Any], /) -> None:
        """Remove a document. Raises `FileNotFoundError` where there is none."""
        with self._lock(at, name) as fd:
            if version is not None:
                self._compare(fd, version)
            _publish(fence, self._os.unlink, name, dir_fd=at)

    def sweep(self, at: int, name: str, /) -> bool:
        """Whether a file is a temporary one; if a crash has left it, it is removed."""
        if not name.startswith(RESERVED_PREFIX):
            return False
        if self._locking and name.endswith(".tmp"):
            with suppress(OSError), Descriptor(self._os, name, _FILE, at, locks=True) as fd:
                self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._os.unlink(name, dir_fd=at)
        return True

    def has_links(self, at: int, /) -> bool:
        """Whether a file can have two names, as far as this process can find out."""
        name = f"{RESERVED_PREFIX}{os.urandom(8).hex()}.tmp"
        other = f"{name}.tmp"
        try:
            with Descriptor(self._os, name, _TEMPORARY, at, 0o600):
                try:
                    self._os.link(name, other, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                    self._os.unlink(other, dir_fd=at)
                finally:
                    self._os.unlink(name, dir_fd=at)
        except OSError as error:
            return error.errno not in _WITHOUT_LINKS
        return True

    def _open(self, at: int, name: str, /, *, locks: bool = False) -> Descriptor:
        try:
            return Descriptor(self._os, name, _FILE, at, locks=locks)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        raise NotRegularError(
            "a symbolic link stands there, through which nothing is written or removed; with the storage's option"
            " follow_links = true those are read that stay in its folder"
        )

    def _regular(self, fd: int, /) -> os.stat_result:
        status = self._os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError("is not a regular file")
        return status

    def _lock(self, at: int, name: str, /) -> Descriptor:
        """Hold the document itself: the file that has the name, and goes on having it until it is closed."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            file = self._open(at, name, locks=self._locking)
            try:
                mine = self._regular(file.fd)
                if not self._locking or self._try_lock(at, name, file.fd, mine):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
            if time.monotonic() > deadline:
                raise LockedError("another process holds the document's lock", sent=False)
            self._os.sleep(0.0002 + 0.001 * random())  # noqa: S311 -- jitter

    def _try_lock(self, at: int, name: str, fd: int, mine: os.stat_result, /) -> bool:
        try:
            self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        named = self._os.stat(name, dir_fd=at, follow_symlinks=False)
        return os.path.samestat(named, mine)

    def _version(self, fd: int, status: os.stat_result, /) -> Version:
        """The digest of the content; of what is too large to be a document, what the system knows of it."""
        if status.st_size > _HASHED:
            return Version(f"stat:{_identity(status)}")
        return digest(iter(lambda: self._os.read(fd, _CHUNK), b""))

    def _compare(self, fd: int, version: Version, /) -> None:
        if self._version(fd, self._os.fstat(fd)) != version:
            raise ConflictError("the document has changed since it was read")


def _publish(fence: AbstractContextManager[Any], call: Callable[..., None], /, *names: str, **options: Any) -> None:
    """The one step that makes a change seen."""
    with fence:
        try:
            call(*names, **options)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise NotRegularError("a file is mounted there, which cannot be replaced or removed") from None
            raise


def _identity(status: os.stat_result, /) -> str:
    """Of one state of a file, the same under each of its names."""
    return f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}"


def time_of(status: os.stat_result, /) -> datetime | None:
    """The time of the last change; None where a calendar has no such (year 10,000, which some file systems keep)."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        return None
