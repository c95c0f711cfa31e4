"""The documents under one root folder of a POSIX file system. Blocking functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from accountstore.backends.base import (
    Blob,
    NotRegularError,
    Stat,
    UnavailableError,
    UncertainError,
    Usage,
    Version,
    Write,
    WriteMode,
)
from accountstore.backends.local.directories import Directories
from accountstore.backends.local.documents import Documents, VanishedError, time_of
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.validation import join

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TRIES = 100
_PAGE = 1000
_PASSES = 5
_SETTLED_NS = 100_000_000
_NO_FENCE = nullcontext()


class Files:
    """The documents under one root folder.

    Every call opens the root anew and walks down from it by directory descriptors, never through a symbolic link. Where
    `follow_links` says so, a call that reads goes first where a link leads, inside the root. On a file system that may
    leave out of a folder what is being replaced (Linux's tmpfs), a listing `rereads` one that changes. The others are
    those of `Documents`, and the mode of folders that are made.

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
        follow_links: bool = False,
        rereads: bool = False,
        calls: SystemCalls | None = None,
    ) -> None:
        self.root = root
        self.locking = locking
        self.links = links
        self._follow_links = follow_links
        self._rereads = rereads
        self._os = calls or SystemCalls()
        self._documents = Documents(self._os, file_mode, locking=locking, links=links)
        self._directories = Directories(root, self._os, self._documents.sweep if locking else None, folder_mode)

    def make_root(self) -> None:
        """Create the root, and the folders above it that are missing, private and durably."""
        self._directories.make_root()

    def stay(self) -> None:
        """From now on, refuse a root on another mount: `Directories.stay`."""
        self._directories.stay()

    def require_root(self) -> None:
        """Raise `UnavailableError` unless the root is there."""
        self._directories.open("").close()

    def usage(self) -> Usage | None:
        """As `df` tells it of the root; None where its file system does not tell."""
        with self._directories.open("") as at:
            found = os.fstatvfs(at)
        used, total = (blocks * found.f_frsize for blocks in (found.f_blocks - found.f_bfree, found.f_blocks))
        return Usage(used, total) if total else None

    def has_links(self) -> bool:
        """Whether a file under the root can have two names, as far as this process can find out."""
        with self._directories.open("") as at:
            return self._documents.has_links(at)

    def read(self, key: str, /, *, limit: int) -> Blob:
        """The document at `key`: bytes and stat of one state."""
        return self._follow(key, self._documents.read, limit)

    def read_many(self, keys: Sequence[str], /, *, limit: int) -> list[Blob | Exception]:
        """What `read` returns or raises for each key; each folder is opened once, one at a time."""
        if self._follow_links:
            return [_outcome(partial(self.read, limit=limit), key) for key in keys]
        results: dict[int, Blob | Exception] = {}
        for folder, numbers in _by_folder(keys).items():
            try:
                with self._directories.open(folder) as at:
                    for number in numbers:
                        key = keys[number]
                        results[number] = _outcome(self._documents.read, at, key.rpartition("/")[2], key, limit)
            except Exception as error:  # noqa: BLE001 -- an error is a result here
                results |= dict.fromkeys(numbers, error)
        return [results[number] for number in range(len(keys))]

    def stat(self, key: str, /) -> Stat:
        """The stat that `read` returns."""
        return self._follow(key, self._documents.stat)

    def write_many(
        self, writes: Sequence[Write], fence_of: Callable[[str], AbstractContextManager[Any]] = nullcontext, /
    ) -> list[Stat | Exception]:
        """Write documents one after another, each behind the fence of its key; each folder goes to the disk once,
        before anything is acknowledged.
        """
        results: dict[int, Stat | Exception] = {}
        for folder, numbers in _by_folder([write.key for write in writes]).items():
            try:
                with self._directories.prepare(folder) as at:
                    for number in numbers:
                        write = writes[number]
                        results[number] = _outcome(self._documents.write, at, *write, fence_of(write.key))
                    self._sync(at)
            except Exception as error:  # noqa: BLE001 -- an error is a result here
                results |= {n: error for n in numbers if not isinstance(results.get(n), Exception)}
        for number, write in enumerate(writes):
            if isinstance(results[number], FileNotFoundError | VanishedError):  # `write` makes the folder again
                results[number] = _outcome(self.write, *write, fence_of(write.key))
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
                    result = self._documents.write(at, key, data, mode, fence)
                    self._sync(at)
            except FileNotFoundError:
                if isinstance(mode, Version):
                    raise
            except VanishedError:
                pass
            else:
                return result
        raise UnavailableError("others keep removing the folder", sent=False)

    def delete(self, key: str, version: Version | None, fence: AbstractContextManager[Any] = _NO_FENCE, /) -> None:
        """Remove a document, durably. A missing one is no error. Raises as `write`."""
        folder, _, name = key.rpartition("/")
        try:
            opened = self._directories.open(folder)
        except FileNotFoundError:
            return
        with opened as at:
            with suppress(FileNotFoundError):
                self._documents.delete(at, name, version, fence)
            # Also of a missing one: whoever removed it may not have reached its fsync.
            self._sync(at)

    def scan(self, prefix: str, /, *, recursive: bool) -> Iterator[list[Stat]]:
        """The documents in a folder, or below it, page by page; of one folder, the folders in it too. One below it that
        may not be read, and what is none, are told as such. Dropping the iterator closes what it has open.
        """
        folders = [prefix]
        page: list[Stat] = []
        while folders:
            folder = folders.pop()
            try:
                for entry in self._entries(folder):
                    stat = self._found(folder, entry)
                    if stat is None:
                        continue
                    if recursive and stat.key.endswith("/") and not stat.instead:
                        folders.append(stat.key[:-1])
                    else:
                        page.append(stat)
                    if len(page) >= _PAGE:
                        yield page
                        page = []
            except PermissionError:
                if folder == prefix:
                    raise
                page.append(Stat(f"{folder}/", 0, None, None, instead="a folder that may not be read"))
            except NotADirectoryError:
                page.append(Stat(f"{folder}/", 0, None, None, instead="a file or a symbolic link"))
        yield page

    def _found(self, folder: str, entry: os.DirEntry[str], /) -> Stat | None:
        """What a listing says of an entry; a folder's key ends in a slash. None: it has just been removed."""
        key = join(folder, entry.name)
        followed = self._follow_links and self._leads_to_a_document(folder, entry)
        if followed or entry.is_file(follow_symlinks=False):
            try:
                status = entry.stat(follow_symlinks=followed)
            except FileNotFoundError:
                return None
            return Stat(key, status.st_size, None, time_of(status))
        if entry.is_dir(follow_symlinks=False):
            return Stat(f"{key}/", 0, None, None)
        if self._follow_links and _is_linked_folder(entry):
            key += "/"  # documents in it are read, and are not listed
        return Stat(key, 0, None, None, instead="a symbolic link" if entry.is_symlink() else "no regular file")

    def _entries(self, folder: str, /) -> Iterator[os.DirEntry[str]]:
        """What is in a folder, temporary files excepted, which are swept. A missing folder is empty.

        A folder that changes meanwhile is read again until nothing is new, five times at the most.
        """
        try:
            opened = self._directories.open(folder)
        except FileNotFoundError:
            return
        seen: set[str] = set()
        with opened as at:
            mounted = self._is_secret_volume(at)
            for _ in range(_PASSES if self._rereads else 1):
                began, changed, known = time.time_ns(), self._changed(at), len(seen)
                with self._os.scandir(at) as entries:
                    for entry in entries:
                        if entry.name in seen or (mounted and entry.name.startswith("..")):
                            continue
                        if self._rereads:
                            seen.add(entry.name)
                        if not self._documents.sweep(at, entry.name):
                            yield entry
                settled = changed < began - _SETTLED_NS and changed == self._changed(at)
                if settled or (known and known == len(seen)):
                    return

    def _changed(self, at: int, /) -> int:
        return self._os.fstat(at).st_mtime_ns if self._rereads else 0

    def _follow(self, key: str, call: Callable[[int, str, str, *Ts], T], /, *more: *Ts) -> T:
        """What a call returns for the folder and the name of the file that a key leads to. Where that has gone, and the
        key leads elsewhere by now, as in a secret volume that is renewed, it is called again.
        """
        real = self._real(key)
        for _ in range(_TRIES):
            folder, _, name = real.rpartition("/")
            try:
                with self._directories.open(folder) as at:
                    return call(at, name, key, *more)
            except FileNotFoundError:
                before, real = real, self._real(key)
                if real == before:
                    raise
        raise UnavailableError("others keep changing where the link leads", sent=False)

    def _real(self, key: str, /) -> str:
        """The key of the file that a key leads to."""
        if not self._follow_links:
            return key
        path = os.path.realpath(f"{self.root}/{key}")
        if not path.startswith(f"{self.root}/"):
            raise NotRegularError("a symbolic link leads out of the storage's folder")
        return path[len(self.root) + 1 :]

    def _leads_to_a_document(self, folder: str, entry: os.DirEntry[str], /) -> bool:
        """Whether a symbolic link leads to a file inside the root."""
        try:
            return entry.is_symlink() and entry.is_file() and bool(self._real(join(folder, entry.name)))
        except OSError:
            return False

    def _is_secret_volume(self, at: int, /) -> bool:
        """Whether the folder is one that Kubernetes mounts: all in it are links into a folder `..data`, itself a link
        to the folder of the present state.
        """
        try:
            return bool(self._os.readlink("..data", dir_fd=at).startswith(".."))
        except OSError:
            return False

    def _sync(self, at: int, /) -> None:
        """Bring the names in a folder to the disk."""
        try:
            self._os.fsync(at)
        except OSError as error:
            raise UncertainError(f"it was done, but the disk has not confirmed it ({error.strerror})") from None


def _is_linked_folder(entry: os.DirEntry[str], /) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # it leads to itself, say
        return False


def _by_folder(keys: Sequence[str], /) -> dict[str, list[int]]:
    """The numbers of the keys in each folder."""
    folders: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        folders.setdefault(key.rpartition("/")[0], []).append(number)
    return folders


def _outcome(call: Callable[[*Ts], T], /, *arguments: *Ts) -> T | Exception:
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001 -- an error is a result here
        return error
