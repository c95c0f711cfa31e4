"""Documents as files on a POSIX file system: whole, durable, private, inside their root. Blocking functions.

A write goes to a temporary file in the document's folder, to the disk, and then in one step to the document's name, so
a crash leaves the old or the new document. Whoever changes or removes a document holds a lock on the file itself while
it compares and renames; the lock is checked to be on the file that still has the name, and dies with its holder. A
temporary file is locked by its writer, so one that can be locked was left by a crash and is swept.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from random import random

from accountstore.backends.base import (
    Blob,
    ConflictError,
    NotRegularError,
    Stat,
    UnavailableError,
    Version,
    Write,
    WriteMode,
    check_size,
    digest,
)
from accountstore.backends.local.directories import Directories
from accountstore.backends.local.syscalls import Descriptor, SystemCalls
from accountstore.validation import RESERVED_PREFIX, join

# Without O_NONBLOCK, opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TEMPORARY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 100
_LOCK_SECONDS = 10.0
_PAGE = 1000
_CHUNK = 1024 * 1024


class Files:
    """The documents under one root folder.

    Every call opens the root anew and walks down from it by directory descriptors, never through a symbolic link.
    Without `locking` (network file systems) there is no compare-and-swap and no sweeping.
    """

    def __init__(self, root: str, /, *, locking: bool = True, calls: SystemCalls | None = None) -> None:
        self.root = root
        self.locking = locking
        self._os = calls or SystemCalls()
        self._directories = Directories(root, self._os, self._sweep if locking else None)

    def make_root(self) -> None:
        """Create the root, and the folders above it that are missing, private and durably."""
        self._directories.make_root()

    def read(self, key: str, /, *, limit: int) -> Blob:
        """The document at `key`: bytes and stat of one state."""
        folder, _, name = key.rpartition("/")
        with self._directories.open(folder) as at:
            return self._read(at, key, name, limit)

    def read_many(self, keys: Sequence[str], /, *, limit: int) -> list[Blob | Exception]:
        """What `read` returns or raises for each key; each folder is opened once."""
        results: list[Blob | Exception] = []
        with _Folders(self._directories.open) as folders:
            for key in keys:
                folder, _, name = key.rpartition("/")
                try:
                    results.append(self._read(folders.at(folder), key, name, limit))
                except Exception as error:  # noqa: BLE001 -- an error is a result here
                    results.append(error)
        return results

    def stat(self, key: str, /) -> Stat:
        """The stat that `read` returns, of a document of any size."""
        folder, _, name = key.rpartition("/")
        with self._directories.open(folder) as at, Descriptor(self._os, name, _FILE, at) as fd:
            status = self._regular(fd)
            return Stat(key, status.st_size, self._version(fd), _time(status))

    def write_many(self, writes: Sequence[Write], /) -> list[Stat | Exception]:
        """Write documents one after another; each folder goes to the disk once, before anything is acknowledged."""
        results: list[Stat | Exception] = []
        with _Folders(self._directories.prepare) as folders:
            for key, data, mode in writes:
                folder, _, name = key.rpartition("/")
                try:
                    results.append(self._write(folders.at(folder), key, name, data, mode))
                except Exception as error:  # noqa: BLE001 -- an error is a result here
                    results.append(error)
            for folder, at in folders.opened.items():
                try:
                    self._os.fsync(at)
                except OSError as error:
                    for i, write in enumerate(writes):
                        if write.key.rpartition("/")[0] == folder and isinstance(results[i], Stat):
                            results[i] = error
        return results

    def write(self, key: str, data: bytes, mode: WriteMode, /) -> Stat:
        """Write one document; it is on the disk when this returns."""
        folder, _, name = key.rpartition("/")
        if isinstance(mode, Version):
            self._directories.require(folder)  # a swap makes none
        with self._directories.prepare(folder) as at:
            result = self._write(at, key, name, data, mode)
            self._os.fsync(at)
        return result

    def delete(self, key: str, version: Version | None, /) -> None:
        """Remove a document, durably. A missing one is no error."""
        folder, _, name = key.rpartition("/")
        try:
            opened = self._directories.open(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with opened as at:
            with suppress(FileNotFoundError), self._lock(at, name) as fd:
                if version is not None:
                    self._compare(fd, version)
                self._os.unlink(name, dir_fd=at)
            # Also of a missing one: whoever removed it may not have reached its fsync.
            self._os.fsync(at)

    def scan(self, prefix: str, /, *, recursive: bool) -> Iterator[list[Stat]]:
        """The documents in a folder, page by page. Dropping the iterator closes what it has open."""
        folders = [prefix]
        page: list[Stat] = []
        while folders:
            folder = folders.pop()
            try:
                opened = self._directories.open(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with opened as at, self._os.scandir(at) as entries:
                for entry in entries:
                    path = join(folder, entry.name)
                    if entry.is_file(follow_symlinks=False):
                        if self._sweep(at, entry.name):
                            continue
                        with suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            page.append(Stat(path, status.st_size, None, _time(status)))
                        if len(page) >= _PAGE:
                            yield page
                            page = []
                    elif recursive and entry.is_dir(follow_symlinks=False):
                        folders.append(path)
        yield page

    def _regular(self, fd: int, /) -> os.stat_result:
        status = self._os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError("is not a regular file")
        return status

    def _read(self, at: int, key: str, name: str, limit: int, /) -> Blob:
        with Descriptor(self._os, name, _FILE, at) as fd:
            status = self._regular(fd)
            size = status.st_size
            check_size(size, limit)
            data = self._os.read(fd, size + 1)
            while len(data) < size and (more := self._os.read(fd, size - len(data))):
                data += more
        return Blob(data, Stat(key, len(data), digest(data), _time(status)))

    def _version(self, fd: int, /) -> Version:
        return digest(iter(lambda: self._os.read(fd, _CHUNK), b""))

    def _write(self, at: int, key: str, name: str, data: bytes, mode: WriteMode, /) -> Stat:
        if isinstance(mode, Version):  # a conflict is found before the disk has work with the new document
            with Descriptor(self._os, name, _FILE, at) as fd:
                self._regular(fd)
                self._compare(fd, mode)
        for _ in range(_TRIES):
            temporary = f"{RESERVED_PREFIX}{os.urandom(8).hex()}.tmp"
            with Descriptor(self._os, temporary, _TEMPORARY, at, 0o600, locks=self.locking) as fd:
                try:
                    status = self._fill(fd, data)
                    if status is not None:
                        self._publish(at, temporary, name, mode)
                        return Stat(key, len(data), digest(data), _time(status))
                except BaseException:
                    with suppress(OSError):
                        self._os.unlink(temporary, dir_fd=at)
                    raise
        raise UnavailableError("cannot keep a temporary file from being swept", sent=False)

    def _fill(self, fd: int, data: bytes, /) -> os.stat_result | None:
        """Bring a new temporary file to the disk: 0600, and locked, as one that a crash left is not.

        None when a sweeper was faster than the lock: the file is its to remove.
        """
        if self.locking:
            try:
                self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        rest = memoryview(data)
        while rest:
            rest = rest[self._os.write(fd, rest) :]
        self._os.fsync(fd)
        status = self._os.fstat(fd)
        if stat.S_IMODE(status.st_mode) != 0o600:  # the umask takes the owner's own bits
            self._os.fchmod(fd, 0o600)
            self._os.fsync(fd)
        return status if status.st_nlink else None

    def _publish(self, at: int, temporary: str, name: str, mode: WriteMode, /) -> None:
        """Give the temporary file the document's name, if the mode allows it."""
        for _ in range(_TRIES):
            if mode != "create":
                try:
                    with self._lock(at, name) as fd:
                        if isinstance(mode, Version):
                            self._compare(fd, mode)
                        self._os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                        return
                except FileNotFoundError:
                    if mode != "overwrite":
                        raise
            # rename() would replace a document that another process has just created; link() does not.
            try:
                self._os.link(temporary, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
            except FileExistsError:
                if mode == "create":
                    raise
            except FileNotFoundError:
                raise UnavailableError("the folder or the temporary file was removed meanwhile", sent=False) from None
            else:
                self._os.unlink(temporary, dir_fd=at)
                return
        raise UnavailableError("others keep creating and removing the document", sent=False)

    def _lock(self, at: int, name: str, /) -> Descriptor:
        """Hold the document itself: the file that has the name, and goes on having it until it is closed."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            file = Descriptor(self._os, name, _FILE, at, locks=self.locking)
            try:
                mine = self._regular(file.fd)
                if not self.locking or self._try_lock(at, name, file.fd, mine):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
            if time.monotonic() > deadline:
                held = f"another process has held the document's lock for {_LOCK_SECONDS:.0f} s"
                raise UnavailableError(held, sent=False)
            self._os.sleep(0.0002 + 0.001 * random())  # noqa: S311 -- jitter

    def _try_lock(self, at: int, name: str, fd: int, mine: os.stat_result, /) -> bool:
        try:
            self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        named = self._os.stat(name, dir_fd=at, follow_symlinks=False)
        return os.path.samestat(named, mine)

    def _compare(self, fd: int, version: Version, /) -> None:
        if self._version(fd) != version:
            raise ConflictError("the document has changed since it was read")

    def _sweep(self, at: int, name: str, /) -> bool:
        """Whether a file is a temporary one; if a crash has left it, it is removed."""
        if not name.startswith(RESERVED_PREFIX):
            return False
        if self.locking and name.endswith(".tmp"):
            with suppress(OSError), Descriptor(self._os, name, _FILE, at, locks=True) as fd:
                self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._os.unlink(name, dir_fd=at)
        return True


class _Folders(ExitStack):
    """Folders, each opened when it is first asked for, and all of them closed at the end of the `with` block."""

    def __init__(self, enter: Callable[[str], Descriptor], /) -> None:
        super().__init__()
        self.opened: dict[str, int] = {}
        self._enter = enter

    def at(self, folder: str, /) -> int:
        """The folder's descriptor."""
        if folder not in self.opened:
            self.opened[folder] = self.enter_context(self._enter(folder))
        return self.opened[folder]


def _time(status: os.stat_result, /) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)
