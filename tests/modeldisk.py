"""A file system in memory, as running processes see it and as a crash of the machine leaves it.

The data of a file becomes durable by fsync of the file, the names in a folder by fsync of the folder. At a crash any
subset of the pending changes of names has survived, and any of several parts of the data that was not yet durable.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

ROOT = "/srv/accounts"

Tree: TypeAlias = "tuple[tuple[str, int, bytes | None], ...]"
"""Path, mode and bytes of everything on a disk, folders first; None for a folder."""
_HOOKED = {name for name in vars(SystemCalls) if not name.startswith("_")} - {"close"}


@dataclass(eq=False)
class Inode:
    """A file or a folder: as running processes see it, as the disk has it, and what the disk does not have yet."""

    number: int
    is_folder: bool
    mode: int
    links: int = 0
    data: bytes = b""
    kept_data: bytes = b""
    synced: bool = False
    entries: dict[str, Inode] = field(default_factory=dict[str, "Inode"])
    kept_entries: dict[str, Inode] = field(default_factory=dict[str, "Inode"])
    pending: list[dict[str, Inode | None]] = field(default_factory=list[dict[str, "Inode | None"]])
    holder: Description | None = None

    def change(self, names: dict[str, Inode | None], /) -> None:
        """Change names in a folder, in one step: at a crash all of them or none has survived."""
        _apply(self.entries, names)
        self.pending.append(names)

    def sync(self) -> None:
        """Make what processes see durable."""
        self.synced = True
        self.kept_data = self.data
        self.kept_entries = dict(self.entries)
        self.pending.clear()

    def contents(self) -> set[bytes]:
        """What a file can hold after a crash."""
        if self.synced and self.kept_data == self.data:
            return {self.data}
        return {self.kept_data, b"", bytes(len(self.data)), self.data[: len(self.data) // 2], self.data}


def _apply(entries: dict[str, Inode], names: Mapping[str, Inode | None], /) -> None:
    for name, inode in names.items():
        if inode is None:
            entries.pop(name, None)
        else:
            entries[name] = inode


@dataclass(eq=False)
class Description:
    """What a file descriptor stands for."""

    inode: Inode
    position: int = 0


class Disk:
    """A file system without symbolic links."""

    def __init__(self, tree: Tree = ()) -> None:
        self.inodes: list[Inode] = []
        self.root = self.make(is_folder=True, mode=0o755)
        made = {"": self.root}
        for path, mode, data in tree:
            above, _, name = path.rpartition("/")
            inode = made[path] = made[above].entries[name] = self.make(is_folder=data is None, mode=mode)
            inode.links = 1
            inode.data = data or b""
        for inode in self.inodes:
            inode.sync()

    def make(self, *, is_folder: bool, mode: int) -> Inode:
        inode = Inode(len(self.inodes) + 2, is_folder, mode)
        self.inodes.append(inode)
        return inode

    def crashes(self) -> Iterator[Tree]:
        """What the disk holds after a crash now: each legal outcome, some of them more than once."""
        folders = [inode for inode in self.inodes if inode.pending]
        files = [inode for inode in self.inodes if not inode.is_folder and len(inode.contents()) > 1]
        assert sum(len(folder.pending) for folder in folders) <= 12
        for survivors in product(*(list(_subsets(folder.pending)) for folder in folders)):
            entries = {folder: dict(folder.kept_entries) for folder in folders}
            for folder, changes in zip(folders, survivors, strict=True):
                for names in changes:
                    _apply(entries[folder], names)
            for contents in product(*(sorted(file.contents()) for file in files)):
                yield self._tree(entries, dict(zip(files, contents, strict=True)))

    def now(self) -> Tree:
        """What running processes see."""
        return self._tree({inode: inode.entries for inode in self.inodes}, {inode: inode.data for inode in self.inodes})

    def _tree(self, entries: Mapping[Inode, Mapping[str, Inode]], data: Mapping[Inode, bytes], /) -> Tree:
        def below(folder: Inode, above: str) -> Iterator[tuple[str, int, bytes | None]]:
            for name, inode in sorted(entries.get(folder, folder.kept_entries).items()):
                path = f"{above}/{name}"
                yield path, inode.mode, None if inode.is_folder else data.get(inode, inode.kept_data)
                yield from below(inode, path)

        return tuple(below(self.root, ""))


def _subsets(changes: Sequence[dict[str, Inode | None]], /) -> Iterator[tuple[dict[str, Inode | None], ...]]:
    return chain.from_iterable(combinations(changes, count) for count in range(len(changes) + 1))


class Entry(NamedTuple):
    """What `os.scandir` yields, as far as `Files` uses it."""

    name: str
    inode: Inode

    def is_file(self, *, follow_symlinks: bool) -> bool:
        return not self.inode.is_folder

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return self.inode.is_folder

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        return _status(self.inode)


def _status(inode: Inode, /) -> os.stat_result:
    kind = stat.S_IFDIR if inode.is_folder else stat.S_IFREG
    status = (kind | inode.mode, inode.number, 1, inode.links, 0, 0, len(inode.data), 0, 0, 0)
    return os.stat_result(status, {"st_mtime_ns": 0})


def refuse(code: int, /) -> OSError:
    """The error of a system call."""
    return OSError(code, os.strerror(code))


class Process:
    """The system calls of one process. `before` is called with the name of each before it does anything.

    Reads and writes are short, as they may be. The umask is 0: a mode is what the call says.
    """

    def __init__(self, disk: Disk, before: Callable[[str], None] = lambda _: None, /) -> None:
        self.chunk = 10
        self.disk = disk
        self.before: Callable[[str], None] = before
        self.descriptors: dict[int, Description] = {}
        self.published: set[str] = set()
        self._next = 3

    def __getattribute__(self, name: str, /) -> Any:
        if name in _HOOKED:
            self.before(name)
        return super().__getattribute__(name)

    def files(self, *, locking: bool = True) -> Files:
        """The library on these system calls."""
        return Files(ROOT, locking=locking, calls=cast("SystemCalls", self))

    def kill(self) -> None:
        """End as by SIGKILL: locks go, names and data stay."""
        for description in self.descriptors.values():
            _unlock(description)
        self.descriptors.clear()

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        folder, name = self._locate(path, dir_fd)
        inode = folder.entries.get(name) if name else folder
        if inode is None:
            if not flags & os.O_CREAT:
                raise refuse(errno.ENOENT)
            inode = self.disk.make(is_folder=False, mode=mode)
            inode.links = 1
            folder.change({name: inode})
        elif flags & os.O_EXCL:
            raise refuse(errno.EEXIST)
        if flags & os.O_DIRECTORY and not inode.is_folder:
            raise refuse(errno.ENOTDIR)
        if flags & os.O_TRUNC:
            inode.data = b""
        self._next += 1
        self.descriptors[self._next] = Description(inode)
        return self._next

    def close(self, fd: int, /) -> None:
        try:
            self.before("close")
        finally:
            _unlock(self.descriptors.pop(fd))

    def read(self, fd: int, size: int, /) -> bytes:
        at = self.descriptors[fd]
        data = at.inode.data[at.position : at.position + min(size, self.chunk)]
        at.position += len(data)
        return data

    def write(self, fd: int, data: bytes | memoryview, /) -> int:
        at = self.descriptors[fd]
        part = bytes(data[: self.chunk])
        at.inode.data = at.inode.data[: at.position] + part
        at.position += len(part)
        return len(part)

    def fsync(self, fd: int, /) -> None:
        self.descriptors[fd].inode.sync()

    def fstat(self, fd: int, /) -> os.stat_result:
        return _status(self.descriptors[fd].inode)

    def fchmod(self, fd: int, mode: int, /) -> None:
        self.descriptors[fd].inode.mode = mode

    def chmod(self, path: str, mode: int, /) -> None:
        self.fchmod(int(path.rpartition("/")[2]), mode)

    def flock(self, fd: int, operation: int, /) -> None:
        at = self.descriptors[fd]
        if operation == fcntl.LOCK_UN:
            _unlock(at)
            return
        assert operation == fcntl.LOCK_EX | fcntl.LOCK_NB
        if at.inode.holder not in {None, at}:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        at.inode.holder = at

    def stat(self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        folder, name = self._locate(path, dir_fd)
        return _status(self._entry(folder, name))

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        folder, name = self._locate(path, dir_fd)
        if name in folder.entries:
            raise refuse(errno.EEXIST)
        folder.change({name: self.disk.make(is_folder=True, mode=mode)})

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool = True) -> None:
        folder, name = self._locate(dst, dst_dir_fd)
        inode = self._entry(*self._locate(src, src_dir_fd))
        if name in folder.entries:
            raise refuse(errno.EEXIST)
        inode.links += 1
        folder.change({name: inode})
        self.published.add(name)

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        source, old = self._locate(src, src_dir_fd)
        folder, new = self._locate(dst, dst_dir_fd)
        assert source is folder
        inode = self._entry(source, old)
        if new in folder.entries:
            folder.entries[new].links -= 1
        folder.change({old: None, new: inode})
        self.published.add(new)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        folder, name = self._locate(path, dir_fd)
        self._entry(folder, name).links -= 1
        folder.change({name: None})
        self.published.add(name)

    def readlink(self, path: str, *, dir_fd: int) -> str:
        raise refuse(errno.EINVAL if path in self.descriptors[dir_fd].inode.entries else errno.ENOENT)

    def sleep(self, seconds: float, /) -> None:
        pass

    @contextmanager
    def scandir(self, fd: int, /) -> Generator[Iterator[Entry]]:
        yield (Entry(name, inode) for name, inode in sorted(self.descriptors[fd].inode.entries.items()))

    def _locate(self, path: str, dir_fd: int | None) -> tuple[Inode, str]:
        """The folder that a path leads to, and the name in it."""
        folder = self.disk.root if dir_fd is None else self.descriptors[dir_fd].inode
        *segments, name = path.strip("/").split("/")
        for segment in segments:
            folder = self._entry(folder, segment)
        return folder, name

    def _entry(self, folder: Inode, name: str) -> Inode:
        if name not in folder.entries:
            raise refuse(errno.ENOENT)
        return folder.entries[name]


def _unlock(description: Description, /) -> None:
    if description.inode.holder is description:
        description.inode.holder = None


def disk_with(documents: Mapping[str, bytes], /) -> Disk:
    """A disk with these documents and their folders, all durable."""
    folders = ["/srv", ROOT, *sorted({f"{ROOT}/{key.rpartition('/')[0]}" for key in documents})]
    files = [(f"{ROOT}/{key}", 0o600, data) for key, data in documents.items()]
    return Disk((*((folder, 0o755 if folder == "/srv" else 0o700, None) for folder in folders), *files))


def document(tree: Tree, key: str, /) -> bytes | None:
    """The bytes of a document; None where there is none."""
    return {path: data for path, _, data in tree}.get(f"{ROOT}/{key}")


def leftovers(tree: Tree, /) -> list[str]:
    """The paths of temporary files."""
    return [path for path, _, _ in tree if path.rpartition("/")[2].startswith(RESERVED_PREFIX)]
