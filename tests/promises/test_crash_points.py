"""The local write on a model of a file system: every crash point, every failing system call, every interleaving of two.

The model has what running processes see (volatile) and what a crash of the machine leaves (durable). The data of a file
becomes durable by fsync of the file, the names in a folder by fsync of the folder. At a crash any subset of the pending
changes of names has survived, and any of several parts of the data that was not yet durable.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, combinations, product
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

import pytest

from accountstore.backends.base import Version, Write, classify_error, digest
from accountstore.backends.local.files import Files
from accountstore.errors import (
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    UnavailableError,
)
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from accountstore.backends.base import WriteMode
    from accountstore.backends.local.syscalls import SystemCalls

ROOT = "/srv/accounts"
LIMIT = 1000
FOLDER = "mail"
KEY = "mail/a.account"
OTHER = "mail/other.account"
OLD = b"the old document"
NEW = b"the new document, which is longer"
THIRD = b"a third document"
BYSTANDER = b"nobody's business"

Tree: TypeAlias = "tuple[tuple[str, int, Tree | bytes], ...]"
"""What is on a disk: names with mode and content, a folder's content being a tree."""
Documents: TypeAlias = dict[str, bytes | None]
"""The bytes at each key; None where there is no document."""
Hook: TypeAlias = "Callable[[str], None]"

# --- the model --------------------------------------------------------------------------------------------------------


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
        self._fill(self.root, tree)

    def make(self, *, is_folder: bool, mode: int) -> Inode:
        inode = Inode(len(self.inodes) + 2, is_folder, mode)
        self.inodes.append(inode)
        return inode

    def _fill(self, folder: Inode, tree: Tree) -> None:
        for name, mode, content in tree:
            inode = self.make(is_folder=not isinstance(content, bytes), mode=mode)
            inode.links = 1
            folder.entries[name] = inode
            if isinstance(content, bytes):
                inode.data = content
                inode.sync()
            else:
                self._fill(inode, content)
        folder.sync()

    def crashes(self) -> Iterator[Tree]:
        """What the disk holds after a crash now: each legal outcome, some of them more than once."""
        folders = [inode for inode in self.inodes if inode.pending]
        files = [inode for inode in self.inodes if not inode.is_folder and len(inode.contents()) > 1]
        assert sum(len(folder.pending) for folder in folders) <= 12
        for survivors in product(*(list(_subsets(folder.pending)) for folder in folders)):
            names = dict(zip(folders, survivors, strict=True))
            for contents in product(*(sorted(file.contents()) for file in files)):
                yield self._after(self.root, names, dict(zip(files, contents, strict=True)))

    def _after(
        self, folder: Inode, survivors: Mapping[Inode, Sequence[dict[str, Inode | None]]], data: Mapping[Inode, bytes]
    ) -> Tree:
        entries = dict(folder.kept_entries)
        for names in survivors.get(folder, ()):
            _apply(entries, names)
        return tuple(
            (
                name,
                inode.mode,
                self._after(inode, survivors, data) if inode.is_folder else data.get(inode, inode.kept_data),
            )
            for name, inode in sorted(entries.items())
        )

    def now(self) -> Tree:
        """What running processes see."""

        def seen(folder: Inode) -> Tree:
            return tuple(
                (name, inode.mode, seen(inode) if inode.is_folder else inode.data)
                for name, inode in sorted(folder.entries.items())
            )

        return seen(self.root)


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
    return os.stat_result((kind | inode.mode, inode.number, 1, inode.links, 0, 0, len(inode.data), 0, 0, 0))


def _refuse(code: int, /) -> OSError:
    return OSError(code, os.strerror(code))


class Process:
    """The system calls of one process. `before` is called with the name of each before it does anything.

    Reads and writes are short, as they may be. The umask is 0: a mode is what the call says.
    """

    def __init__(self, disk: Disk, before: Hook = lambda _: None, /) -> None:
        self.chunk = 10
        self.disk = disk
        self.before: Hook = before
        self.descriptors: dict[int, Description] = {}
        self.published: set[str] = set()
        self._next = 3

    def files(self, *, locking: bool = True) -> Files:
        """The library on these system calls."""
        return Files(ROOT, locking=locking, calls=cast("SystemCalls", self))

    def kill(self) -> None:
        """End as by SIGKILL: locks go, names and data stay."""
        for description in self.descriptors.values():
            _unlock(description)
        self.descriptors.clear()

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self.before("open")
        folder, name = self._locate(path, dir_fd)
        inode = folder.entries.get(name) if name else folder
        if inode is None:
            if not flags & os.O_CREAT:
                raise _refuse(errno.ENOENT)
            inode = self.disk.make(is_folder=False, mode=mode)
            inode.links = 1
            folder.change({name: inode})
        elif flags & os.O_EXCL:
            raise _refuse(errno.EEXIST)
        if flags & os.O_DIRECTORY and not inode.is_folder:
            raise _refuse(errno.ENOTDIR)
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
        self.before("read")
        at = self.descriptors[fd]
        data = at.inode.data[at.position : at.position + min(size, self.chunk)]
        at.position += len(data)
        return data

    def write(self, fd: int, data: bytes | memoryview, /) -> int:
        self.before("write")
        at = self.descriptors[fd]
        part = bytes(data[: self.chunk])
        at.inode.data = at.inode.data[: at.position] + part
        at.position += len(part)
        return len(part)

    def fsync(self, fd: int, /) -> None:
        self.before("fsync")
        self.descriptors[fd].inode.sync()

    def fstat(self, fd: int, /) -> os.stat_result:
        self.before("fstat")
        return _status(self.descriptors[fd].inode)

    def fchmod(self, fd: int, mode: int, /) -> None:
        self.before("fchmod")
        self.descriptors[fd].inode.mode = mode

    def flock(self, fd: int, operation: int, /) -> None:
        self.before("flock")
        at = self.descriptors[fd]
        if operation == fcntl.LOCK_UN:
            _unlock(at)
            return
        assert operation == fcntl.LOCK_EX | fcntl.LOCK_NB
        if at.inode.holder not in {None, at}:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        at.inode.holder = at

    def stat(self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        self.before("stat")
        folder, name = self._locate(path, dir_fd)
        return _status(self._entry(folder, name))

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self.before("mkdir")
        folder, name = self._locate(path, dir_fd)
        if name in folder.entries:
            raise _refuse(errno.EEXIST)
        folder.change({name: self.disk.make(is_folder=True, mode=mode)})

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool = True) -> None:
        self.before("link")
        folder, name = self._locate(dst, dst_dir_fd)
        inode = self._entry(*self._locate(src, src_dir_fd))
        if name in folder.entries:
            raise _refuse(errno.EEXIST)
        inode.links += 1
        folder.change({name: inode})
        self.published.add(name)

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self.before("rename")
        source, old = self._locate(src, src_dir_fd)
        folder, new = self._locate(dst, dst_dir_fd)
        assert source is folder
        inode = self._entry(source, old)
        if new in folder.entries:
            folder.entries[new].links -= 1
        folder.change({old: None, new: inode})
        self.published.add(new)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self.before("unlink")
        folder, name = self._locate(path, dir_fd)
        self._entry(folder, name).links -= 1
        folder.change({name: None})
        self.published.add(name)

    def sleep(self, seconds: float, /) -> None:
        self.before("sleep")

    @contextmanager
    def scandir(self, fd: int, /) -> Generator[Iterator[Entry]]:
        self.before("scandir")
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
            raise _refuse(errno.ENOENT)
        return folder.entries[name]


def _unlock(description: Description, /) -> None:
    if description.inode.holder is description:
        description.inode.holder = None


def _disk(documents: Mapping[str, bytes], /) -> Disk:
    """A disk with these documents and their folders, all durable."""
    folders: dict[str, list[tuple[str, int, Tree | bytes]]] = {}
    for key, data in sorted(documents.items()):
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, []).append((name, 0o600, data))
    accounts: Tree = tuple((folder, 0o700, tuple(entries)) for folder, entries in sorted(folders.items()))
    return Disk((("srv", 0o755, (("accounts", 0o700, accounts),)),))


def _paths(tree: Tree, above: str = "", /) -> Iterator[tuple[str, int, bytes | None]]:
    """Path, mode and bytes of everything; None for a folder."""
    for name, mode, content in tree:
        yield f"{above}/{name}", mode, content if isinstance(content, bytes) else None
        if not isinstance(content, bytes):
            yield from _paths(content, f"{above}/{name}")


def _document(tree: Tree, key: str, /) -> bytes | None:
    return {path: data for path, _, data in _paths(tree)}.get(f"{ROOT}/{key}")


def _passing(tree: Tree, /) -> list[str]:
    return [path for path, _, _ in _paths(tree) if path.rpartition("/")[2].startswith(RESERVED_PREFIX)]


# --- what is done on it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """A change of documents: what is there before, what is there when it is acknowledged, and how it is done."""

    name: str
    before: Documents
    after: Documents
    run: Callable[[Files], Sequence[object]]

    def disk(self) -> Disk:
        return _disk({key: data for key, data in self.before.items() if data is not None} | {OTHER: BYSTANDER})


def _write(key: str, mode: WriteMode, /) -> Callable[[Files], Sequence[object]]:
    return lambda files: [files.write(key, NEW, mode)]


def _delete(version: Version | None, /) -> Callable[[Files], Sequence[object]]:
    def run(files: Files) -> Sequence[object]:
        files.delete(KEY, version)
        return [None]

    return run


_DEEP = "new/deep/er/a.account"
_MANY = {KEY: OLD, "mail/b.account": None, "fresh/c.account": None}
_WRITES = [
    Write(KEY, NEW, "overwrite"),
    Write("fresh/c.account", NEW, "overwrite"),
    Write("mail/b.account", NEW, "create"),
]

OPERATIONS = [
    Operation("overwrite-missing", {KEY: None}, {KEY: NEW}, _write(KEY, "overwrite")),
    Operation("overwrite-existing", {KEY: OLD}, {KEY: NEW}, _write(KEY, "overwrite")),
    Operation("create", {KEY: None}, {KEY: NEW}, _write(KEY, "create")),
    Operation("create-in-new-folders", {_DEEP: None}, {_DEEP: NEW}, _write(_DEEP, "create")),
    Operation("swap", {KEY: OLD}, {KEY: NEW}, _write(KEY, digest(OLD))),
    Operation("delete", {KEY: OLD}, {KEY: None}, _delete(None)),
    Operation("delete-a-version", {KEY: OLD}, {KEY: None}, _delete(digest(OLD))),
    Operation("write-many", _MANY, dict.fromkeys(_MANY, NEW), lambda files: files.write_many(_WRITES)),
]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.name for operation in OPERATIONS])
cold_and_warm = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


def _prepared(operation: Operation, process: Process, *, warm: bool) -> Files:
    """The library on a process; warm: it has written in the folder before."""
    files = process.files()
    if warm:
        files.write(f"{FOLDER}/warm.account", OLD, "overwrite")
        process.published.clear()
    return files


def _keys(operation: Operation, /) -> list[str]:
    return [*operation.before, OTHER, f"{FOLDER}/warm.account"]


# --- crash points -----------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What recovery met after all crashes of one operation."""

    crash_points: int = 0
    outcomes: int = 0
    states: set[tuple[Tree, bool]] = field(default_factory=set[tuple[Tree, bool]])
    with_leftovers: int = 0
    torn: int = 0
    lost: int = 0
    unswept: int = 0
    disturbed: int = 0
    exposed: int = 0

    @property
    def damage(self) -> int:
        return self.torn + self.lost + self.unswept + self.disturbed + self.exposed

    def __str__(self) -> str:
        return (
            f"{self.crash_points} crash points, {self.outcomes} outcomes, {len(self.states)} different states, "
            f"{self.with_leftovers} with leftovers: {self.torn} torn, {self.lost} acknowledged lost, "
            f"{self.unswept} unswept, {self.disturbed} other documents disturbed, {self.exposed} exposed"
        )


def _recover(tree: Tree, keys: Iterable[str], /, *, locking: bool = True) -> tuple[Documents, Tree]:
    """What a process that starts after the crash reads and lists, and what is on the disk then."""
    process = Process(Disk(tree))
    files = process.files(locking=locking)
    found: Documents = {}
    try:
        for key in keys:
            try:
                found[key] = files.read(key, limit=LIMIT).data
            except FileNotFoundError:
                found[key] = None
        listed = {stat.key for page in files.scan("", recursive=True) for stat in page}
    except UnavailableError:
        return dict.fromkeys(keys), tree
    assert listed == {key for key, data in found.items() if data is not None}
    assert not process.descriptors
    return found, process.disk.now()


def _first_write(tree: Tree, folder: str, /) -> Tree:
    """What is on the disk when a process that starts after the crash has written in a folder."""
    process = Process(Disk(tree))
    process.files().write(f"{folder}/next.account", NEW, "overwrite")
    return process.disk.now()


def _judge(findings: Findings, operation: Operation, disk: Disk, *, acknowledged: bool, locking: bool = True) -> None:
    """Crash now in every legal way, recover, and compare with what is allowed."""
    findings.crash_points += 1
    for tree in disk.crashes():
        findings.outcomes += 1
        if (tree, acknowledged) in findings.states:
            continue
        findings.states.add((tree, acknowledged))
        found, swept = _recover(tree, _keys(operation), locking=locking)
        for key, before in operation.before.items():
            after = operation.after[key]
            findings.torn += found[key] not in {before, after}
            findings.lost += acknowledged and found[key] != after
        findings.disturbed += found[OTHER] != BYSTANDER
        findings.exposed += sum(
            bool(mode & (0o077 if data is None else 0o177)) for path, mode, data in _paths(tree) if path > ROOT
        )
        findings.unswept += len(_passing(swept))
        leftovers = _passing(tree)
        findings.with_leftovers += bool(leftovers)
        for folder in {path.removeprefix(f"{ROOT}/").rpartition("/")[0] for path in leftovers} if locking else ():
            findings.unswept += any(f"{ROOT}/{folder}/" in path for path in _passing(_first_write(tree, folder)))


def _crash_everywhere(operation: Operation, *, warm: bool) -> Findings:
    findings = Findings()
    disk = operation.disk()
    process = Process(disk)
    files = _prepared(operation, process, warm=warm)
    process.before = lambda _: _judge(findings, operation, disk, acknowledged=False)
    results = operation.run(files)
    assert not any(isinstance(result, Exception) for result in results)
    _judge(findings, operation, disk, acknowledged=True)
    return findings


@cold_and_warm
@each_operation
def test_crash_leaves_the_old_or_the_new_document(operation: Operation, warm: bool) -> None:
    """After a crash at any system call a document is the old or the new one, and the new one if it was acknowledged."""
    findings = _crash_everywhere(operation, warm=warm)
    print(f"{operation.name} {'warm' if warm else 'cold'}: {findings}")
    assert findings.damage == 0, findings
    # A silent harness would be no proof: the fewest are those of a warm delete.
    assert findings.crash_points >= 8
    assert findings.outcomes >= 9
    assert len(findings.states) >= 3


def test_crashes_are_many_and_leave_something_to_sweep() -> None:
    """The enumeration covers thousands of outcomes, among them leftovers to sweep and both documents to find."""
    total = [_crash_everywhere(operation, warm=warm) for operation in OPERATIONS for warm in (False, True)]
    points, outcomes, states = (
        sum(findings.crash_points for findings in total),
        sum(findings.outcomes for findings in total),
        sum(len(findings.states) for findings in total),
    )
    print(f"in all {points} crash points, {outcomes} outcomes, {states} different states")
    assert points >= 400
    assert outcomes >= 4000
    assert states >= 300
    assert sum(findings.with_leftovers for findings in total) >= 100


def test_crash_while_the_root_is_made_loses_nothing_acknowledged() -> None:
    """A missing root is made durably: a document acknowledged in it survives, whatever was killed in the making."""
    operation = Operation("root", {KEY: None}, {KEY: NEW}, _write(KEY, "overwrite"))

    def make_and_write(process: Process) -> None:
        files = process.files()
        files.make_root()
        operation.run(files)

    findings = Findings()
    killed = True
    while killed:
        disk = Disk()
        killed = _run_and_kill(disk, make_and_write, findings.crash_points)
        findings.crash_points += 1
        make_and_write(Process(disk))
        for tree in disk.crashes():
            findings.outcomes += 1
            findings.lost += _document(tree, KEY) != NEW
    assert findings.crash_points >= 30
    assert findings.outcomes > findings.crash_points
    assert findings.lost == 0, findings


class _Killed(BaseException):
    """Ends a process at a system call; nothing of the library catches it."""


def _run_and_kill(disk: Disk, work: Callable[[Process], object], point: int, /) -> bool:
    """Run `work` in a process that is killed before its system call number `point`. Whether it got that far."""
    left = point

    def kill_at_point(call: str) -> None:
        nonlocal left
        if left == 0:
            raise _Killed
        left -= 1

    process = Process(disk, kill_at_point)
    try:
        work(process)
    except _Killed:
        return True
    else:
        return False
    finally:
        process.kill()


@each_operation
def test_process_after_a_killed_one_keeps_its_promises(operation: Operation) -> None:
    """What a process acknowledges survives a crash of the machine, also where a killed process left half its work."""
    outcomes = 0
    lost: list[str] = []
    point = 0
    while True:
        disk = operation.disk()
        killed = _run_and_kill(disk, lambda process: operation.run(process.files()), point)
        files = Process(disk).files()
        wanted: Documents = {}
        for key, after in operation.after.items():
            wanted[key] = None if after is None else THIRD
            if after is None:
                files.delete(key, None)
            else:
                files.write(key, THIRD, "overwrite")
        for tree in disk.crashes():
            outcomes += 1
            if {key: _document(tree, key) for key in wanted} != wanted:
                lost.append(f"killed before call {point}")
        list(files.scan("", recursive=True))
        assert not _passing(disk.now())
        if not killed:
            break
        point += 1
    assert point >= 10
    assert outcomes > point
    assert not lost


# --- the same harness on weaker writes --------------------------------------------------------------------------------


def _plain(process: Process) -> None:
    """As fsspec's local `pipe_file` does."""
    fd = process.open(f"{ROOT}/{KEY}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    _write_all(process, fd)
    process.close(fd)


def _renamed(process: Process, *, file: bool, folder: bool) -> None:
    at = process.open(f"{ROOT}/{FOLDER}", os.O_RDONLY | os.O_DIRECTORY)
    name = f"{RESERVED_PREFIX}0.tmp"
    fd = process.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
    _write_all(process, fd)
    if file:
        process.fsync(fd)
    process.close(fd)
    process.rename(name, "a.account", src_dir_fd=at, dst_dir_fd=at)
    if folder:
        process.fsync(at)
    process.close(at)


def _write_all(process: Process, fd: int) -> None:
    rest = NEW
    while rest:
        rest = rest[process.write(fd, rest) :]


def _crash_weaker(write: Callable[[Process], None], *, locking: bool = True) -> Findings:
    operation = OPERATIONS[1]
    findings = Findings()
    disk = operation.disk()
    process = Process(disk, lambda _: _judge(findings, operation, disk, acknowledged=False, locking=locking))
    write(process)
    _judge(findings, operation, disk, acknowledged=True, locking=locking)
    return findings


def test_control_plain_write_tears_loses_and_exposes() -> None:
    """Control: the harness finds a plain truncating write torn, lost after its acknowledgement, and readable by all."""
    findings = _crash_weaker(_plain)
    assert findings.torn > 0
    assert findings.lost > 0
    fresh = Findings()
    disk = OPERATIONS[0].disk()
    _plain(Process(disk, lambda _: _judge(fresh, OPERATIONS[0], disk, acknowledged=False)))
    assert fresh.exposed > 0


def test_control_rename_without_any_fsync_tears_and_loses() -> None:
    """Control: a rename without fsync leaves an empty document, and acknowledged writes are lost."""
    findings = _crash_weaker(lambda process: _renamed(process, file=False, folder=False))
    assert findings.torn > 0
    assert findings.lost > 0


def test_control_rename_without_fsync_of_the_file_tears() -> None:
    """Control: a rename whose folder alone is durable leaves a torn document."""
    assert _crash_weaker(lambda process: _renamed(process, file=False, folder=True)).torn > 0


def test_control_rename_without_fsync_of_the_folder_loses() -> None:
    """Control: without fsync of the folder the document is whole, but acknowledged writes are lost."""
    findings = _crash_weaker(lambda process: _renamed(process, file=True, folder=False))
    assert findings.torn == 0
    assert findings.lost > 0


def test_control_without_sweeping_leftovers_stay() -> None:
    """Control: where nothing sweeps, the harness finds the leftovers."""
    findings = _crash_weaker(lambda process: _renamed(process, file=True, folder=True), locking=False)
    assert findings.torn == findings.lost == 0
    assert findings.unswept > 0


# --- failing system calls ---------------------------------------------------------------------------------------------

FAULTS: dict[int, type[BackendError]] = {
    errno.ENOSPC: FullError,
    errno.EDQUOT: FullError,
    errno.EIO: BackendError,
    errno.EACCES: DeniedError,
    errno.EROFS: DeniedError,
    errno.EMFILE: UnavailableError,
    errno.ESTALE: UnavailableError,
}
each_fault = pytest.mark.parametrize("code", FAULTS, ids=[errno.errorcode[code] for code in FAULTS])


class Outcome(NamedTuple):
    """What came of an operation one or more of whose system calls failed."""

    call: str
    results: Sequence[object]
    process: Process
    disk: Disk


def _fail(
    operation: Operation, code: int, *, warm: bool, forever: bool, weak: Callable[[Process], None] | None = None
) -> Iterator[Outcome]:
    """Run the operation (or a weak one) anew for each of its system calls, which fails; `forever`: and all after it."""
    for point in range(300):
        disk = operation.disk()
        process = Process(disk)
        files = _prepared(operation, process, warm=warm)
        calls: list[str] = []

        def fail_at_point(call: str, *, point: int = point, calls: list[str] = calls) -> None:
            calls.append(call)
            if len(calls) == point + 1 or (forever and len(calls) > point):
                raise _refuse(code)

        process.before = fail_at_point
        try:
            if weak is None:
                results = operation.run(files)
            else:
                weak(process)
                results = [None]
        except (OSError, BackendError) as error:
            results = [error] * len(operation.before)
        process.before = lambda _: None
        if len(calls) <= point:
            break
        yield Outcome(calls[point], results, process, disk)


def _check_documents(operation: Operation, outcome: Outcome) -> None:
    """The new document where it was published, else the old; and durable where it was acknowledged."""
    keys = [write.key for write in _WRITES] if operation.name == "write-many" else list(operation.before)
    now = outcome.disk.now()
    for key, result in zip(keys, outcome.results, strict=True):
        published = key.rpartition("/")[2] in outcome.process.published
        acknowledged = not isinstance(result, Exception)
        assert _document(now, key) == (operation.after if published else operation.before)[key], outcome.call
        allowed = {operation.after[key]} if acknowledged else {operation.after[key], operation.before[key]}
        for tree in outcome.disk.crashes():
            assert _document(tree, key) in allowed, outcome.call
    assert _document(now, OTHER) == BYSTANDER


@each_fault
@cold_and_warm
@each_operation
def test_failing_call_is_a_typed_error_and_leaves_nothing(operation: Operation, warm: bool, code: int) -> None:
    """Whichever system call fails, the error has its class, the document is whole, and no file or descriptor stays."""
    failures = 0
    for outcome in _fail(operation, code, warm=warm, forever=False):
        for result in outcome.results:
            if isinstance(result, Exception):
                failures += 1
                assert classify_error(result) is FAULTS[code], outcome.call
        _check_documents(operation, outcome)
        assert not _passing(outcome.disk.now()), outcome.call
        assert not outcome.process.descriptors, outcome.call
    assert failures >= 8


@cold_and_warm
@each_operation
def test_failing_disk_is_a_typed_error_and_tears_nothing(operation: Operation, warm: bool) -> None:
    """Where every call fails from some point on, the document is whole and no descriptor stays."""
    failures = 0
    for outcome in _fail(operation, errno.EIO, warm=warm, forever=True):
        for result in outcome.results:
            if isinstance(result, Exception):
                failures += 1
                assert classify_error(result) is BackendError, outcome.call
        _check_documents(operation, outcome)
        assert not outcome.process.descriptors, outcome.call
    assert failures >= 8


def test_failing_call_while_reading_leaves_no_descriptor() -> None:
    """Reads, stats, listings and the making of the root close what they opened when a call fails."""
    reads: dict[str, Callable[[Files], object]] = {
        "read": lambda files: files.read(KEY, limit=LIMIT),
        "stat": lambda files: files.stat(KEY),
        "scan": lambda files: list(files.scan("", recursive=True)),
        "make_root": lambda files: files.make_root(),
    }
    failures = 0
    for name, read in reads.items():
        for point in range(100):
            disk = Disk() if name == "make_root" else OPERATIONS[1].disk()
            left = point + 1

            def fail_at_point(call: str) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise _refuse(errno.EIO)

            process = Process(disk, fail_at_point)
            try:
                read(process.files())
            except OSError as error:
                failures += 1
                assert classify_error(error) is BackendError
            assert not process.descriptors, (name, point)
            if left > 0:
                break
        else:
            pytest.fail("the operation has no end")
    assert failures >= 15


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EROFS, errno.EACCES], ids=["EINVAL", "EROFS", "EACCES"])
def test_existing_root_needs_no_fsync_of_the_folders_above_it(code: int) -> None:
    """A root that is there is opened where the folders above it cannot go to the disk, as on a read-only system."""
    calls: list[str] = []

    def refuse_fsync(call: str) -> None:
        calls.append(call)
        if call == "fsync":
            raise _refuse(code)

    process = Process(OPERATIONS[1].disk(), refuse_fsync)
    files = process.files()
    files.make_root()
    assert calls
    assert files.read(KEY, limit=LIMIT).data == OLD
    assert not process.descriptors


def test_control_fault_harness_finds_a_leaking_write() -> None:
    """Control: a write that does not clean up leaves a file and a descriptor in the fault harness."""
    operation = OPERATIONS[1]
    weak = partial(_renamed, file=True, folder=True)
    outcomes = list(_fail(operation, errno.ENOSPC, warm=False, forever=False, weak=weak))
    assert any(_passing(outcome.disk.now()) for outcome in outcomes)
    assert any(outcome.process.descriptors for outcome in outcomes)


# --- two processes at a time ------------------------------------------------------------------------------------------

ENDLESS = 10_000
STEP = 1 if os.environ.get("ACCOUNTSTORE_SCHEDULES") == "all" else 9
Folder: TypeAlias = Literal["cold", "warm", "new"]
"""Whether the folder is there, and whether the process has written in it before."""
FOLDERS: tuple[Folder, ...] = ("cold", "warm", "new")


@dataclass(frozen=True)
class Action:
    """What one of two processes does, and what it must come to alone: an error or None, and the document then."""

    name: str
    run: Callable[[Files], object]
    effect: Callable[[bytes | None], tuple[type[BackendError] | None, bytes | None]]


def _overwrite(data: bytes) -> Action:
    return Action("overwrite", lambda files: files.write(KEY, data, "overwrite"), lambda _: (None, data))


def _create(data: bytes) -> Action:
    return Action(
        "create",
        lambda files: files.write(KEY, data, "create"),
        lambda now: (None, data) if now is None else (ExistsError, now),
    )


def _swap(old: bytes, data: bytes) -> Action:
    def effect(now: bytes | None) -> tuple[type[BackendError] | None, bytes | None]:
        if now is None:
            return NotFoundError, None
        return (None, data) if now == old else (ConflictError, now)

    return Action("swap", lambda files: files.write(KEY, data, digest(old)), effect)


def _remove(old: bytes | None = None) -> Action:
    return Action(
        "delete" if old is None else "delete a version",
        lambda files: files.delete(KEY, None if old is None else digest(old)),
        lambda now: (None, None) if old is None or now in {None, old} else (ConflictError, now),
    )


LIST = Action("list", lambda files: list(files.scan("", recursive=True)), lambda now: (None, now))
PAIRS: list[tuple[bytes | None, Action, Action]] = [
    (None, _create(NEW), _create(THIRD)),
    (None, _create(NEW), _overwrite(THIRD)),
    (None, _create(NEW), _remove()),
    (None, _create(NEW), LIST),
    (None, _overwrite(NEW), _overwrite(THIRD)),
    (None, _overwrite(NEW), LIST),
    (OLD, _overwrite(NEW), _overwrite(THIRD)),
    (OLD, _overwrite(NEW), _create(THIRD)),
    (OLD, _overwrite(NEW), _remove()),
    (OLD, _overwrite(NEW), LIST),
    (OLD, _swap(OLD, NEW), _swap(OLD, THIRD)),
    (OLD, _swap(OLD, NEW), _overwrite(THIRD)),
    (OLD, _swap(OLD, NEW), _remove()),
    (OLD, _swap(OLD, NEW), _remove(OLD)),
    (OLD, _swap(OLD, NEW), LIST),
    (OLD, _remove(), _create(NEW)),
    (OLD, _remove(), _remove()),
    (OLD, _remove(OLD), _remove(OLD)),
]


class Turns:
    """A process, in a thread of its own, that makes as many system calls as it is told to."""

    def __init__(self, process: Process, work: Callable[[Files], object], files: Files) -> None:
        self.process = process
        self.result: object = None
        self.done = False
        self._left = 0
        self._go = Semaphore(0)
        self._pause = Semaphore(0)
        process.before = self._before
        self._thread = Thread(target=self._work, args=(work, files), daemon=True)
        self._thread.start()

    def _before(self, call: str) -> None:
        if call == "sleep":
            self._left = 0
        elif self._left == 0:
            self._pause.release()
            self._go.acquire()
        if self._left:
            self._left -= 1

    def _work(self, work: Callable[[Files], object], files: Files) -> None:
        self._go.acquire()
        try:
            self.result = work(files)
        except (OSError, BackendError) as error:
            self.result = error
        finally:
            self.done = True
            self._pause.release()

    def run(self, calls: int = ENDLESS) -> bool:
        """Make some calls, fewer where it ends or waits for the other. Whether the process has ended."""
        if calls and not self.done:
            self._left = calls
            self._go.release()
            self._pause.acquire()
            if self.done:
                self._thread.join()
        return self.done

    @property
    def error(self) -> type[BackendError] | None:
        return classify_error(self.result) if isinstance(self.result, Exception) else None


@dataclass
class Races:
    """What came of all interleavings of two actions."""

    schedules: int = 0
    outcomes: int = 0
    wrong: list[str] = field(default_factory=list[str])


def _start(disk: Disk, action: Action, folder: Folder, *, locking: bool) -> Turns:
    process = Process(disk)
    process.chunk = LIMIT
    files = process.files(locking=locking)
    if folder == "warm":
        files.write(f"{FOLDER}/warm.account", OLD, "overwrite")
    return Turns(process, action.run, files)


def _race(before: bytes | None, first: Action, second: Action, folder: Folder, /, *, locking: bool = True) -> Races:
    """The first makes k calls, the second m calls, the first the rest, the second the rest; for all k, and all m or
    every ninth."""
    races = Races()
    first_is_over = False
    for k in range(1, 200):
        for m in range(k % STEP, 200, STEP):
            documents = {} if folder == "new" else {OTHER: BYSTANDER}
            disk = _disk(documents if before is None else {**documents, KEY: before})
            one = _start(disk, first, folder, locking=locking)
            two = _start(disk, second, folder, locking=locking)
            first_is_over = one.run(k)
            second_is_over = two.run(m)
            for _ in range(100):
                if one.run():
                    break
                _judge_pause(races, before, (second, two), first, f"{k}, {m}", disk)
                two.run()
            _judge_pause(races, before, (first, one), second, f"{k}, {m}", disk)
            assert any(two.run() for _ in range(100))
            _judge_end(races, before, (first, one), (second, two), f"{k}, {m}", disk)
            if second_is_over or first_is_over:
                break
        if first_is_over:
            return races
    pytest.fail("the first action has no end")


def _judge_pause(
    races: Races, before: bytes | None, done: tuple[Action, Turns], other: Action, schedule: str, disk: Disk
) -> None:
    """While the other is under way, a crash must not lose what has been acknowledged."""
    action, turns = done
    if not turns.done or turns.error is not None:
        return
    alone = action.effect(before)[1]
    allowed = {alone, other.effect(alone)[1], action.effect(other.effect(before)[1])[1]}
    for tree in disk.crashes():
        races.outcomes += 1
        if _document(tree, KEY) not in allowed:
            races.wrong.append(f"{schedule}: {action.name} was acknowledged and is lost in a crash")


def _judge_end(
    races: Races, before: bytes | None, one: tuple[Action, Turns], two: tuple[Action, Turns], schedule: str, disk: Disk
) -> None:
    """Both results and the document are those of one after the other, also after a crash; nothing stays behind."""
    races.schedules += 1
    now = disk.now()
    allowed = set[tuple[object, ...]]()
    for first, second in ((one, two), (two, one)):
        first_error, between = first[0].effect(before)
        second_error, after = second[0].effect(between)
        errors = {id(first): first_error, id(second): second_error}
        allowed.add((errors[id(one)], errors[id(two)], after))
    found = (one[1].error, two[1].error, _document(now, KEY))
    if found not in allowed:
        races.wrong.append(f"{schedule}: {found}")
    for tree in disk.crashes():
        races.outcomes += 1
        if _document(tree, KEY) != found[2]:
            races.wrong.append(f"{schedule}: lost in a crash after the end")
    if _passing(now) or one[1].process.descriptors or two[1].process.descriptors:
        races.wrong.append(f"{schedule}: something stays behind")


@pytest.mark.parametrize(
    ("before", "first", "second", "folder"),
    [
        pytest.param(*pair, folder, id=f"{pair[1].name}-{pair[2].name}-{'new' if pair[0] is None else 'old'}-{folder}")
        for pair in PAIRS
        for folder in FOLDERS
        if folder != "new" or pair[0] is None
    ],
)
def test_interleaved_actions_are_as_one_after_the_other(
    before: bytes | None, first: Action, second: Action, folder: Folder
) -> None:
    """However the system calls of two processes fall, their results are those of one after the other, and durable."""
    for one, two in ((first, second), (second, first)) if first.name != second.name else ((first, second),):
        races = _race(before, one, two, folder)
        print(f"{one.name} + {two.name}: {races.schedules} schedules, {races.outcomes} outcomes")
        assert races.schedules >= 7
        assert races.outcomes >= races.schedules
        assert not races.wrong, races.wrong[:5]


def test_control_without_locking_a_swap_is_lost() -> None:
    """Control: where nothing is locked, two swaps of one version both succeed in some interleaving."""
    races = _race(OLD, _swap(OLD, NEW), _swap(OLD, THIRD), "warm", locking=False)
    assert races.wrong
