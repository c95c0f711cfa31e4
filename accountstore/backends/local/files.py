"""Documents as files on a POSIX file system: whole, durable, private, inside their root. Blocking functions.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from random import random
from typing import Any, TypeVar, TypeVarTuple

from accountstore.backends.base import (
    Blob,
    ConflictError,
    NotFoundError,
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
from accountstore.errors import UncertainError
from accountstore.validation import RESERVED_PREFIX, join

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Without O_NONBLOCK, opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TEMPORARY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 100
_LOCK_SECONDS = 0.05
_PAGE = 1000
_PASSES = 5
_SETTLED_NS = 100_000_000
_CHUNK = 1024 * 1024
_HASHED = 16 * _CHUNK
_NO_FENCE = nullcontext()
_WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LockedError(UnavailableError):
    """Another process holds the document's lock."""


class _VanishedError(Exception):
    """The temporary file, or the folder, was removed meanwhile."""


class Files:
    """The documents under one root folder.

    Every call opens the root anew and walks down from it by directory descriptors, never through a symbolic link.
    Without `locking` (network file systems) there is no compare-and-swap and no sweeping; without `links` (hard links)
    a create is not exclusive. Documents and folders that are made have the modes; a document that is replaced keeps its
    own, its owner and its group, as far as this process may.

    A write publishes behind its `fence`. What fails before has changed nothing.
    """

    def __init__(
        self,
        root: str,
        /,
        *,
        locking: bool = True,
        links: bool = True,
        file_mode: int = 0o600,
        folder_mode: int = 0o700,
        calls: SystemCalls | None = None,
    ) -> None:
        self.root = root
        self.locking = locking
        self.links = links
        self._file_mode = file_mode
        self._os = calls or SystemCalls()
        self._directories = Directories(root, self._os, self._sweep if locking else None, folder_mode)

    def make_root(self) -> None:
        """Create the root, and the folders above it that are missing, private and durably."""
        self._directories.make_root()

    def has_links(self) -> bool:
        """Whether a file under the root can have two names, as far as this process can find out."""
        name = f"{RESERVED_PREFIX}{os.urandom(8).hex()}.tmp"
        other = f"{name}.tmp"
        try:
            with self._directories.open("") as at, Descriptor(self._os, name, _TEMPORARY, at, 0o600):
                try:
                    self._os.link(name, other, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                    self._os.unlink(other, dir_fd=at)
                finally:
                    self._os.unlink(name, dir_fd=at)
        except OSError as error:
            return error.errno not in _WITHOUT_LINKS
        return True

    def read(self, key: str, /, *, limit: int) -> Blob:
        """The document at `key`: bytes and stat of one state."""
        with self._directories.open(key.rpartition("/")[0]) as at:
            return self._read(at, key, limit)

    def read_many(self, keys: Sequence[str], /, *, limit: int) -> list[Blob | Exception]:
        """What `read` returns or raises for each key; each folder is opened once, one at a time."""
        results: dict[int, Blob | Exception] = {}
        for folder, numbers in _by_folder(keys).items():
            try:
                with self._directories.open(folder) as at:
                    for number in numbers:
                        results[number] = _outcome(self._read, at, keys[number], limit)
            except Exception as error:  # noqa: BLE001 -- an error is a result here
                results |= dict.fromkeys(numbers, error)
        return [results[number] for number in range(len(keys))]

    def stat(self, key: str, /) -> Stat:
        """The stat that `read` returns. The version of a file too large to be a document is not its digest."""
        folder, _, name = key.rpartition("/")
        with self._directories.open(folder) as at, Descriptor(self._os, name, _FILE, at) as fd:
            status = self._regular(fd)
            return Stat(key, status.st_size, self._version(fd, status), _time(status), _identity(status))

    def write_many(
        self, writes: Sequence[Write], fence: AbstractContextManager[Any] = _NO_FENCE, /
    ) -> list[Stat | Exception]:
        """Write documents one after another; each folder goes to the disk once, before anything is acknowledged."""
        results: dict[int, Stat | Exception] = {}
        for folder, numbers in _by_folder([write.key for write in writes]).items():
            try:
                with self._directories.prepare(folder) as at:
                    for number in numbers:
                        results[number] = _outcome(self._write, at, *writes[number], fence)
                    self._sync(at)
            except Exception as error:  # noqa: BLE001 -- an error is a result here
                results |= {n: error for n in numbers if not isinstance(results.get(n), Exception)}
        return [results[number] for number in range(len(writes))]

    def write(self, key: str, data: bytes, mode: WriteMode, fence: AbstractContextManager[Any] = _NO_FENCE, /) -> Stat:
        """Write one document; it is on the disk when this returns.

        Raises:
            LockedError: another process holds the document.
            UncertainError: it was written, but the disk has failed to confirm it.
        """
        folder = key.rpartition("/")[0]
        if isinstance(mode, Version):
            self._directories.require(folder)  # a swap makes none
        for _ in range(_TRIES):
            try:
                with self._directories.prepare(folder) as at:
                    result = self._write(at, key, data, mode, fence)
                    self._sync(at)
            except FileNotFoundError:
                if isinstance(mode, Version):
                    raise
            except _VanishedError:
                pass
            else:
                return result
        raise UnavailableError("others keep removing the folder", sent=False)

    def delete(self, key: str, version: Version | None, fence: AbstractContextManager[Any] = _NO_FENCE, /) -> None:
        """Remove a document, durably. A missing one is no error. Raises as `write`."""
        folder, _, name = key.rpartition("/")
        try:
            opened = self._directories.open(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with opened as at:
            with suppress(FileNotFoundError), self._lock(at, name) as fd:
                if version is not None:
                    self._compare(fd, version)
                _publish(fence, self._os.unlink, name, dir_fd=at)
            # Also of a missing one: whoever removed it may not have reached its fsync.
            self._sync(at)

    def scan(self, prefix: str, /, *, recursive: bool) -> Iterator[list[Stat]]:
        """The documents in a folder, or below it, page by page; of one folder, the folders in it too. Dropping the
        iterator closes what it has open.
        """
        folders = [prefix]
        page: list[Stat] = []
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                if entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        page.append(Stat(join(folder, entry.name), status.st_size, None, _time(status)))
                elif entry.is_dir(follow_symlinks=False):
                    if recursive:
                        folders.append(join(folder, entry.name))
                    else:
                        page.append(Stat(f"{join(folder, entry.name)}/", 0, None, None))
                if len(page) >= _PAGE:
                    yield page
                    page = []
        yield page

    def _entries(self, folder: str, /) -> Iterator[os.DirEntry[str]]:
        """What is in a folder, temporary files excepted, which are swept; and what begins with two dots, the means by
        which a secret volume is replaced. A missing folder is empty.

        A file system may leave out what is being replaced (Linux's tmpfs does): where a folder changes meanwhile, it is
        read again until nothing is new, five times at the most.
        """
        try:
            opened = self._directories.open(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        seen: set[str] = set()
        with opened as at:
            for _ in range(_PASSES):
                began, changed, known = time.time_ns(), self._os.fstat(at).st_mtime_ns, len(seen)
                with self._os.scandir(at) as entries:
                    for entry in entries:
                        if (
                            entry.name not in seen
                            and not entry.name.startswith("..")
                            and not self._sweep(at, entry.name)
                        ):
                            seen.add(entry.name)
                            yield entry
                settled = changed < began - _SETTLED_NS and changed == self._os.fstat(at).st_mtime_ns
                if settled or (known and known == len(seen)):
                    return

    def _regular(self, fd: int, /) -> os.stat_result:
        status = self._os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError("is not a regular file")
        return status

    def _read(self, at: int, key: str, limit: int, /) -> Blob:
        with Descriptor(self._os, key.rpartition("/")[2], _FILE, at) as fd:
            status = self._regular(fd)
            size = status.st_size
            check_size(size, limit)
            data = self._os.read(fd, size + 1)
            while len(data) < size and (more := self._os.read(fd, size - len(data))):
                data += more
        version = digest(data) if size <= _HASHED else Version(f"stat:{_identity(status)}")
        return Blob(data, Stat(key, len(data), version, _time(status)))

    def _write(self, at: int, key: str, data: bytes, mode: WriteMode, fence: AbstractContextManager[Any], /) -> Stat:
        name = key.rpartition("/")[2]
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
                        self._give_name(at, temporary, fd, name, mode, fence)
                        version = digest(data) if len(data) <= _HASHED else Version(f"stat:{_identity(status)}")
                        return Stat(key, len(data), version, _time(status))
                except BaseException:
                    with suppress(OSError):
                        self._os.unlink(temporary, dir_fd=at)
                    raise
        raise UnavailableError("cannot keep a temporary file from being swept", sent=False)

    def _fill(self, fd: int, data: bytes, /) -> os.stat_result | None:
        """Bring a new temporary file to the disk: with its mode, and locked, as one that a crash left is not.

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
        if stat.S_IMODE(status.st_mode) != self._file_mode:  # the umask takes the owner's own bits
            self._os.fchmod(fd, self._file_mode)
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
                if not self.links:
                    _publish(fence, self._os.rename, temporary, name, src_dir_fd=at, dst_dir_fd=at)
                    return
                # rename() would replace a document that another process has just created; link() does not.
                _publish(fence, self._os.link, temporary, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
            except FileExistsError:
                if mode == "create":
                    raise
            except FileNotFoundError:
                raise _VanishedError from None
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
            self._take_over(fd, self._os.fstat(old))
            _publish(fence, self._os.rename, temporary, name, src_dir_fd=at, dst_dir_fd=at)
        return True

    def _take_over(self, fd: int, old: os.stat_result, /) -> None:
        """Give a temporary file owner, group and mode of the document that it replaces, as far as this process may."""
        new = self._os.fstat(fd)
        if (new.st_uid, new.st_gid, new.st_mode) == (old.st_uid, old.st_gid, old.st_mode):
            return
        for owner, group in ((old.st_uid, old.st_gid), (-1, old.st_gid)):
            if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
                with suppress(PermissionError):
                    self._os.fchown(fd, owner, group)
                    break
        mode = stat.S_IMODE(old.st_mode)
        if self._os.fstat(fd).st_gid != old.st_gid:
            mode &= ~0o070  # which the other group was given
        self._os.fchmod(fd, mode & 0o777)
        self._os.fsync(fd)

    def _sync(self, at: int, /) -> None:
        """Bring the names in a folder to the disk."""
        try:
            self._os.fsync(at)
        except OSError as error:
            raise UncertainError(f"it was done, but the disk has not confirmed it ({error.strerror})") from None

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

    def _sweep(self, at: int, name: str, /) -> bool:
        """Whether a file is a temporary one; if a crash has left it, it is removed."""
        if not name.startswith(RESERVED_PREFIX):
            return False
        if self.locking and name.endswith(".tmp"):
            with suppress(OSError), Descriptor(self._os, name, _FILE, at, locks=True) as fd:
                self._os.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._os.unlink(name, dir_fd=at)
        return True


def _publish(fence: AbstractContextManager[Any], call: Callable[..., None], /, *names: str, **options: Any) -> None:
    """The one step that makes a change seen."""
    with fence:
        try:
            call(*names, **options)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise NotRegularError("a file is mounted there, which cannot be replaced or removed") from None
            raise


def _by_folder(keys: Sequence[str], /) -> dict[str, list[int]]:
    """The numbers of the keys in each folder."""
    folders: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        folders.setdefault(key.rpartition("/")[0], []).append(number)
    return folders


def _outcome(call: Callable[[*Ts], T], /, *arguments: *Ts) -> T | Exception:
    try:
        return call(*arguments)
    except _VanishedError:
        return UnavailableError("the folder was removed meanwhile", sent=False)
    except Exception as error:  # noqa: BLE001 -- an error is a result here
        return error


def _identity(status: os.stat_result, /) -> str:
    """Of one state of a file, the same under each of its names."""
    return f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}"


def _time(status: os.stat_result, /) -> datetime | None:
    """The time of the last change; None where a calendar has no such (year 10,000, which some file systems keep)."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        return None
