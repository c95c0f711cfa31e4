"""The local write on a model of a file system: every crash point, failing system call and interleaving of two."""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pytest
from modeldisk import ROOT, Disk, Process, disk_with, document, leftovers, refuse

from accountstore.backends.base import (
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    UnavailableError,
    UncertainError,
    Version,
    Write,
    classify_error,
    digest,
)
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from modeldisk import Tree

    from accountstore.backends.base import WriteMode
    from accountstore.backends.local.files import Files

LIMIT = 1000
MOST = 300
"""More system calls than any operation makes."""
FOLDER = "mail"
KEY = "mail/a.account"
OTHER = "mail/other.account"
WARM = "mail/warm.account"
OLD = b"the old document"
NEW = b"the new document, which is longer"
THIRD = b"a third document"
BYSTANDER = b"nobody's business"

Documents: TypeAlias = dict[str, bytes | None]
"""The bytes at each key; None where there is no document."""

# --- what is done -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Operation:
    """A change of documents: what is there before, what is there when it is acknowledged, and how it is done.

    `run` gives a result for each of them, in order; on a process, where it goes around the library.
    """

    name: str
    before: Documents
    after: Documents
    run: Callable[[Any], Sequence[object]]
    plain: bool = False
    bare: bool = False
    """Whether there is no root yet."""

    def disk(self) -> Disk:
        documents = {key: data for key, data in self.before.items() if data is not None}
        return Disk() if self.bare else disk_with({**documents, OTHER: BYSTANDER})

    def start(self, process: Process, *, warm: bool) -> Files | Process:
        """The library on a process; warm: it has written in the folder before."""
        files = process.files()
        if warm:
            files.write(WARM, OLD, "overwrite")
            process.published.clear()
        return process if self.plain else files


def _write(key: str, mode: WriteMode, /) -> Callable[[Files], Sequence[object]]:
    return lambda files: [files.write(key, NEW, mode)]


def _delete(version: Version | None, /) -> Callable[[Files], Sequence[object]]:
    return lambda files: [files.delete(KEY, version)]  # type: ignore[func-returns-value]  # None is its result


def _make_root(files: Files) -> Sequence[object]:
    files.make_root()
    return [files.write(KEY, NEW, "overwrite")]


_DEEP = "new/deep/er/a.account"
_MANY = {KEY: OLD, "fresh/c.account": None, "mail/b.account": None}
_WRITES = [Write(key, NEW, "create" if key == "mail/b.account" else "overwrite") for key in _MANY]

CREATE = Operation("create", {KEY: None}, {KEY: NEW}, _write(KEY, "create"))
OVERWRITE = Operation("overwrite-existing", {KEY: OLD}, {KEY: NEW}, _write(KEY, "overwrite"))
ROOT_MADE = Operation("root", {KEY: None}, {KEY: NEW}, _make_root, bare=True)
OPERATIONS = [
    Operation("overwrite-missing", {KEY: None}, {KEY: NEW}, _write(KEY, "overwrite")),
    OVERWRITE,
    CREATE,
    Operation("create-in-new-folders", {_DEEP: None}, {_DEEP: NEW}, _write(_DEEP, "create")),
    Operation("swap", {KEY: OLD}, {KEY: NEW}, _write(KEY, digest(OLD))),
    Operation("delete", {KEY: OLD}, {KEY: None}, _delete(None)),
    Operation("delete-a-version", {KEY: OLD}, {KEY: None}, _delete(digest(OLD))),
    Operation("write-many", _MANY, dict.fromkeys(_MANY, NEW), lambda files: files.write_many(_WRITES)),
]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
cold_and_warm = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


# --- crash points -----------------------------------------------------------------------------------------------------

DAMAGE = ("torn", "acknowledged and lost", "unswept", "other documents disturbed", "exposed")


def _damage(findings: Counter[str], /) -> set[str]:
    return {name for name in DAMAGE if findings[name]}


def _recover(tree: Tree, keys: Iterable[str], /, *, locking: bool) -> tuple[Documents, Tree]:
    """What a process that starts after the crash reads and lists, and what is on the disk then."""
    process = Process(Disk(tree))
    files = process.files(locking=locking)
    found: Documents = dict.fromkeys(keys)
    for key in found:
        with suppress(FileNotFoundError):
            found[key] = files.read(key, limit=LIMIT).data
    listed = {stat.key for page in files.scan("", recursive=True) for stat in page}
    assert listed == {key for key, data in found.items() if data is not None}
    assert not process.descriptors
    return found, process.disk.now()


def _first_write(tree: Tree, folder: str, /) -> Tree:
    """What is on the disk when a process that starts after the crash has written in a folder."""
    process = Process(Disk(tree))
    process.files().write(f"{folder}/next.account", NEW, "overwrite")
    return process.disk.now()


@cache
def _crash_everywhere(operation: Operation, *, warm: bool, locking: bool = True) -> Counter[str]:
    """Crash at every system call, in every legal way, and recover. What was found."""
    findings = Counter[str]()
    states: set[tuple[Tree, bool]] = set()

    def crash(*, acknowledged: bool) -> None:
        findings["crash points"] += 1
        trees = [(tree, acknowledged) for tree in disk.crashes()]
        findings["outcomes"] += len(trees)
        for tree, _ in set(trees) - states:
            found, swept = _recover(tree, [*operation.before, OTHER, WARM], locking=locking)
            for key, before in operation.before.items():
                after = operation.after[key]
                findings["torn"] += found[key] not in {before, after}
                findings["acknowledged and lost"] += acknowledged and found[key] != after
            findings["other documents disturbed"] += found[OTHER] != BYSTANDER
            findings["exposed"] += sum(
                bool(mode & (0o077 if data is None else 0o177)) for path, mode, data in tree if path > ROOT
            )
            findings["unswept"] += len(leftovers(swept))
            folders = {path.removeprefix(f"{ROOT}/").rpartition("/")[0] for path in leftovers(tree)}
            findings["with leftovers"] += bool(folders)
            for folder in folders if locking else ():
                left = leftovers(_first_write(tree, folder))
                findings["unswept"] += any(f"{ROOT}/{folder}/" in path for path in left)
        states.update(trees)

    disk = operation.disk()
    process = Process(disk)
    files = operation.start(process, warm=warm)
    process.before = lambda _: crash(acknowledged=False)
    results = operation.run(files)
    assert not any(isinstance(result, Exception) for result in results)
    crash(acknowledged=True)
    findings["states"] = len(states)
    print(f"{operation.name} {'warm' if warm else 'cold'}: {dict(findings)}")
    return findings


@cold_and_warm
@each_operation
def test_crash_leaves_the_old_or_the_new_document(operation: Operation, warm: bool) -> None:
    """After a crash at any system call a document is the old or the new one, and the new one if it was acknowledged."""
    findings = _crash_everywhere(operation, warm=warm)
    assert not _damage(findings)
    # A silent harness would be no proof: the fewest are those of a warm delete.
    assert findings["crash points"] >= 8
    assert findings["outcomes"] >= 9
    assert findings["states"] >= 3


def test_crashes_are_many_and_leave_something_to_sweep() -> None:
    """The enumeration covers many outcomes, among them leftovers to sweep and both documents to find."""
    total = Counter[str]()
    for operation in OPERATIONS:
        total += _crash_everywhere(operation, warm=False) + _crash_everywhere(operation, warm=True)
    print(f"in all {dict(total)}")
    assert total["crash points"] >= 400
    assert total["outcomes"] >= 1500
    assert total["states"] >= 300
    assert total["with leftovers"] >= 100


class FailAt:
    """Fails system call number `point`, and all after it if it lasts `forever`."""

    def __init__(self, point: int, error: Callable[[], BaseException], *, forever: bool = False) -> None:
        self.point, self.error, self.forever = point, error, forever
        self.calls: list[str] = []

    def __call__(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self.point + 1 or (self.forever and self.reached):
            raise self.error()

    @property
    def reached(self) -> bool:
        return len(self.calls) > self.point


class _Killed(BaseException):
    """Ends a process at a system call; nothing of the library catches it."""


@pytest.mark.parametrize("operation", [*OPERATIONS, ROOT_MADE], ids=lambda operation: operation.name)
def test_process_after_a_killed_one_keeps_its_promises(operation: Operation) -> None:
    """What a process acknowledges survives a crash of the machine, also where a killed process left half its work, on
    a document or on the root.
    """
    wanted = {key: None if after is None else THIRD for key, after in operation.after.items()}
    outcomes = 0
    for point in range(MOST):
        disk = operation.disk()
        kill = FailAt(point, _Killed)
        process = Process(disk, kill)
        with suppress(_Killed):
            operation.run(process.files())
        process.kill()
        files = Process(disk).files()
        files.make_root()
        for key, data in wanted.items():
            if data is None:
                files.delete(key, None)
            else:
                files.write(key, data, "overwrite")
        for tree in disk.crashes():
            outcomes += 1
            assert {key: document(tree, key) for key in wanted} == wanted
        list(files.scan("", recursive=True))
        assert not leftovers(disk.now())
        if not kill.reached:
            break
    else:
        pytest.fail("the operation has no end")
    assert outcomes > point >= 10


# --- the same harness on weaker writes --------------------------------------------------------------------------------


def _plain(process: Process) -> None:
    """As fsspec's local `pipe_file` does."""
    fd = process.open(f"{ROOT}/{KEY}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    _write_all(process, fd)
    process.close(fd)


def _renamed(process: Process, *, file: bool = True, folder: bool = True) -> None:
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


def _weak(write: Callable[..., object], operation: Operation = OVERWRITE, /, **how: bool) -> Operation:
    """An operation that is done in another way, on the process itself."""

    def run(process: Process) -> list[object]:
        return [write(process, **how)]

    return replace(operation, run=run, plain=True)


def test_control_plain_write_tears_loses_and_exposes() -> None:
    """Control: the harness finds a plain truncating write torn, lost after its acknowledgement, and readable by all."""
    findings = _crash_everywhere(_weak(_plain), warm=False)
    assert findings["torn"] > 0
    assert findings["acknowledged and lost"] > 0
    assert _crash_everywhere(_weak(_plain, CREATE), warm=False)["exposed"] > 0


@pytest.mark.parametrize(
    ("file", "folder", "damage"),
    [
        (False, False, {"torn", "acknowledged and lost"}),
        (False, True, {"torn", "acknowledged and lost"}),
        (True, False, {"acknowledged and lost"}),
        (True, True, set[str]()),
    ],
)
def test_control_rename_without_fsync_tears_and_loses(file: bool, folder: bool, damage: set[str]) -> None:
    """Control: without fsync of the file a rename leaves a torn document, and without fsync of the folder acknowledged
    writes are lost.
    """
    findings = _crash_everywhere(_weak(_renamed, file=file, folder=folder), warm=False)
    assert _damage(findings) == damage


def test_control_without_sweeping_leftovers_stay() -> None:
    """Control: where nothing sweeps, the harness finds the leftovers."""
    assert _damage(_crash_everywhere(_weak(_renamed), warm=False, locking=False)) == {"unswept"}


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
each_fault = pytest.mark.parametrize(
    ("code", "forever"),
    [
        *(pytest.param(code, False, id=errno.errorcode[code]) for code in FAULTS),
        pytest.param(errno.EIO, True, id="EIO-forever"),
    ],
)


class Outcome(NamedTuple):
    """What came of an operation one or more of whose system calls failed."""

    call: str
    results: Sequence[object]
    process: Process

    def check(self, operation: Operation, kind: type[BackendError]) -> int:
        """Errors have the class; the document is new where it was published, else old, and durable where it was
        acknowledged; no descriptor stays open. How many errors there are.
        """
        now = self.process.disk.now()
        crashes = list(self.process.disk.crashes())
        failures = 0
        for (key, after), result in zip(operation.after.items(), self.results, strict=True):
            before = operation.before[key]
            published = key.rpartition("/")[2] in self.process.published
            assert document(now, key) == (after if published else before), self.call
            allowed = {after}
            if isinstance(result, Exception):
                failures += 1
                assert classify_error(result) is (UncertainError if published else kind), self.call
                allowed = {after, before}
            assert {document(tree, key) for tree in crashes} <= allowed, self.call
        assert document(now, OTHER) == (None if operation.bare else BYSTANDER)
        assert not self.process.descriptors, self.call
        return failures


def _fail(operation: Operation, code: int, *, warm: bool = False, forever: bool = False) -> Iterator[Outcome]:
    """Run the operation anew for each of its system calls, which fails; `forever`: and all after it."""
    for point in range(MOST):
        process = Process(operation.disk())
        files = operation.start(process, warm=warm)
        process.before = fail = FailAt(point, partial(refuse, code), forever=forever)
        try:
            results = operation.run(files)
        except (OSError, BackendError) as error:
            results = [error] * len(operation.before)
        process.before = lambda _: None
        if not fail.reached:
            return
        yield Outcome(fail.calls[point], results, process)
    pytest.fail("the operation has no end")


@each_fault
@cold_and_warm
@each_operation
def test_failing_call_is_a_typed_error_and_leaves_nothing(
    operation: Operation, warm: bool, code: int, forever: bool
) -> None:
    """Whichever system call fails, or all from it on, the error has its class, the document is whole, no descriptor
    stays; nor a file, unless its removal fails.
    """
    failures = 0
    for outcome in _fail(operation, code, warm=warm, forever=forever):
        failures += outcome.check(operation, FAULTS[code])
        assert forever or outcome.call == "unlink" or not leftovers(outcome.process.disk.now()), outcome.call
    assert failures >= 8


READS: dict[str, Callable[[Files], object]] = {
    "read": lambda files: files.read(KEY, limit=LIMIT),
    "stat": lambda files: files.stat(KEY),
    "scan": lambda files: list(files.scan("", recursive=True)),
}


def _read(name: str, /) -> Operation:
    return Operation(name, {KEY: OLD}, {KEY: OLD}, lambda files: [READS[name](files)])


@pytest.mark.parametrize(
    ("operation", "fewest"),
    [*(pytest.param(_read(name), 3, id=name) for name in READS), pytest.param(ROOT_MADE, 15, id="root")],
)
def test_failing_call_in_a_read_or_for_the_root_leaves_no_descriptor(operation: Operation, fewest: int) -> None:
    """Reads, stats, listings and the making of the root close what they opened when a call fails."""
    assert sum(outcome.check(operation, BackendError) for outcome in _fail(operation, errno.EIO)) >= fewest


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EROFS, errno.EACCES], ids=["EINVAL", "EROFS", "EACCES"])
def test_existing_root_needs_no_fsync_of_the_folders_above_it(code: int) -> None:
    """A root that is there is opened where the folders above it cannot go to the disk, as on a read-only system."""
    calls: list[str] = []

    def refuse_fsync(call: str) -> None:
        calls.append(call)
        if call == "fsync":
            raise refuse(code)

    process = Process(OVERWRITE.disk(), refuse_fsync)
    files = process.files()
    files.make_root()
    assert "fsync" in calls
    assert files.read(KEY, limit=LIMIT).data == OLD
    assert not process.descriptors


def test_control_fault_harness_finds_a_leaking_write() -> None:
    """Control: a write that does not clean up leaves a file and a descriptor in the fault harness."""
    outcomes = list(_fail(_weak(_renamed), errno.ENOSPC))
    assert any(leftovers(outcome.process.disk.now()) for outcome in outcomes)
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
    return Action(
        "swap",
        lambda files: files.write(KEY, data, digest(old)),
        lambda now: (None, data) if now == old else (NotFoundError if now is None else ConflictError, now),
    )


def _remove(old: bytes | None = None) -> Action:
    return Action(
        "delete" if old is None else "delete a version",
        lambda files: files.delete(KEY, None if old is None else digest(old)),
        lambda now: (None, None) if old is None or now in {None, old} else (ConflictError, now),
    )


LIST = Action("list", lambda files: list(files.scan("", recursive=True)), lambda now: (None, now))
PAIRS: list[tuple[bytes | None, Action, Action]] = [
    *((None, _create(NEW), second) for second in (_create(THIRD), _overwrite(THIRD), _remove(), LIST)),
    *((None, _overwrite(NEW), second) for second in (_overwrite(THIRD), LIST)),
    *((OLD, _overwrite(NEW), second) for second in (_overwrite(THIRD), _create(THIRD), _remove(), LIST)),
    *((OLD, _swap(OLD, NEW), second) for second in (_swap(OLD, THIRD), _overwrite(THIRD), _remove(), _remove(OLD))),
    (OLD, _swap(OLD, NEW), LIST),
    *((OLD, _remove(), second) for second in (_create(NEW), _remove())),
    (OLD, _remove(OLD), _remove(OLD)),
]


class Turns:
    """A process, in a thread of its own, that makes a given number of system calls of an action at a time."""

    def __init__(self, disk: Disk, action: Action, folder: Folder, /, *, locking: bool) -> None:
        self.action = action
        self.process = Process(disk)
        self.process.chunk = LIMIT
        self.error: type[BackendError] | None = None
        self.done = False
        self._left = 0
        self._go, self._pause = Semaphore(0), Semaphore(0)
        self._files = self.process.files(locking=locking)
        if folder == "warm":
            self._files.write(WARM, OLD, "overwrite")
        self.process.before = self._before
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def _before(self, call: str) -> None:
        if call == "sleep":
            self._left = 0
        elif self._left == 0:
            self._pause.release()
            self._go.acquire()
        if self._left:
            self._left -= 1

    def _work(self) -> None:
        self._go.acquire()
        try:
            self.action.run(self._files)
        except (OSError, BackendError) as error:
            self.error = classify_error(error)
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


def _check_pause(before: bytes | None, done: Turns, other: Action, disk: Disk) -> int:
    """While the other is under way, a crash must not lose what has been acknowledged. How many outcomes there are."""
    if not done.done or done.error is not None:
        return 0
    alone = done.action.effect(before)[1]
    allowed = {alone, other.effect(alone)[1], done.action.effect(other.effect(before)[1])[1]}
    found = [document(tree, KEY) for tree in disk.crashes()]
    assert set(found) <= allowed, f"{done.action.name} was acknowledged and is lost in a crash"
    return len(found)


def _check_end(before: bytes | None, one: Turns, two: Turns, disk: Disk) -> int:
    """Both results and the document are those of one after the other, also after a crash; nothing stays behind."""
    allowed = set[tuple[object, ...]]()
    for first, second in ((one, two), (two, one)):
        first_error, between = first.action.effect(before)
        second_error, after = second.action.effect(between)
        allowed.add((first_error, second_error, after) if first is one else (second_error, first_error, after))
    now = disk.now()
    assert (one.error, two.error, document(now, KEY)) in allowed
    found = [document(tree, KEY) for tree in disk.crashes()]
    assert set(found) == {document(now, KEY)}, "lost in a crash after the end"
    assert not (leftovers(now) or one.process.descriptors or two.process.descriptors)
    return len(found)


def _race(before: bytes | None, first: Action, second: Action, folder: Folder, /, *, locking: bool = True) -> list[int]:
    """The first makes k calls, the second m calls, the first the rest, the second the rest; for all k, and all m or
    every ninth. How many outcomes each schedule has.
    """
    schedules: list[int] = []
    documents = {} if folder == "new" else {OTHER: BYSTANDER}
    if before is not None:
        documents[KEY] = before
    for k in range(1, 200):
        for m in range(k % STEP, 200, STEP):
            disk = disk_with(documents)
            one, two = (Turns(disk, action, folder, locking=locking) for action in (first, second))
            first_is_over, second_is_over = one.run(k), two.run(m)
            outcomes = 0
            for _ in range(100):
                if one.run():
                    break
                outcomes += _check_pause(before, two, first, disk)
                two.run()
            outcomes += _check_pause(before, one, second, disk)
            assert any(two.run() for _ in range(100))
            schedules.append(outcomes + _check_end(before, one, two, disk))
            if first_is_over:
                return schedules
            if second_is_over:
                break
    pytest.fail("the first action has no end")


@pytest.mark.parametrize(
    ("before", "first", "second", "folder"),
    [
        pytest.param(
            *pair,
            folder,
            marks=() if folder == "warm" and pair[0] else pytest.mark.once,
            id=f"{pair[1].name}-{pair[2].name}-{'new' if pair[0] is None else 'old'}-{folder}",
        )
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
        schedules = _race(before, one, two, folder)
        print(f"{one.name} + {two.name}: {len(schedules)} schedules, {sum(schedules)} outcomes")
        assert len(schedules) >= 7
        assert min(schedules) > 0


def test_control_without_locking_a_swap_is_lost() -> None:
    """Control: where nothing is locked, two swaps of one version both succeed in some interleaving."""
    with pytest.raises(AssertionError, match="None, None"):
        _race(OLD, _swap(OLD, NEW), _swap(OLD, THIRD), "warm", locking=False)
