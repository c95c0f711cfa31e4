"""Files of a local storage: links, odd files, the root, big folders, leftovers, sweepers, rivals, held locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import tempfile
import tracemalloc
from collections import Counter, deque
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from accountstore import errors
from accountstore.backends.base import BackendError, Stat, UnavailableError, Version, Write, classify_error, digest
from accountstore.backends.local import documents as module
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

LIMIT = 1_000_000
KEY = "mail/a.account"
ABSENT = "mail/new.account"
OLD = b"the old document"
NEW = b"the new document"
OLD_VERSION = digest(OLD)
OUTSIDE = b"a document outside the root"
ACL = "system.posix_acl_access"
LEFTOVER = f"{RESERVED_PREFIX}0123456789abcdef.tmp"

Call: TypeAlias = "Callable[[Files, str, Version], object]"
READS: dict[str, Call] = {
    "read": lambda files, key, _: files.read(key, limit=LIMIT),
    "stat": lambda files, key, _: files.stat(key),
    "read_many": lambda files, key, _: _only(files.read_many([key], limit=LIMIT)),
}
WRITES: dict[str, Call] = {
    "overwrite": lambda files, key, _: files.write(key, NEW, "overwrite"),
    "create": lambda files, key, _: files.write(key, NEW, "create"),
    "swap": lambda files, key, version: files.write(key, NEW, version),
    "write_many": lambda files, key, _: _only(files.write_many([Write(key, NEW, "overwrite")])),
}
DELETES: dict[str, Call] = {
    "delete": lambda files, key, _: files.delete(key, None),
    "delete a version": lambda files, key, version: files.delete(key, version),
}
CALLS = READS | WRITES | DELETES
EVERY: dict[str, Call] = {**CALLS, "list": lambda files, key, _: listed(files, os.path.dirname(key))}
LOCKING = ("overwrite", "swap", *DELETES)
"""What locks the document."""


def _only(results: list[Any], /) -> object:
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def failure(name: str, files: Files, key: str = KEY, version: Version = OLD_VERSION, /) -> type[BackendError] | None:
    """The class of the error that a call ends with."""
    try:
        CALLS[name](files, key, version)
    except (OSError, BackendError) as error:
        return classify_error(error)
    return None


def not_sent(call: Call, files: Files, key: str = KEY, /) -> UnavailableError:
    """The error of a call that was surely not made, and can be made again."""
    with pytest.raises(UnavailableError) as caught:
        call(files, key, OLD_VERSION)
    assert not caught.value.sent
    return caught.value


def listed(files: Files, folder: str = "", /) -> set[str]:
    return {found.key for page in files.scan(folder, recursive=True) for found in page if not found.instead}


def state(root: Path, /) -> dict[str, bytes | str]:
    """All paths with the bytes of those that are files."""
    paths = {str(path.relative_to(root)): path for path in root.rglob("*")}
    return {key: path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else "no file" for key, path in paths.items()}


class System(SystemCalls):
    """The system calls, counted, with the paths of what is open and the inodes of what was; some are patched."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.before: Callable[[], object] = int  # called before each
        self.paths: dict[int, str] = {}
        self.inodes: set[int] = set()
        self.patch("open", self._open)
        self.patch("close", self._close)

    def __getattribute__(self, name: str, /) -> Any:
        if name in vars(SystemCalls):
            self.calls[name] += 1
            self.before()
        return super().__getattribute__(name)

    def patch(self, name: str, call: Callable[..., object], /) -> None:
        """Have `call` called instead."""
        setattr(self, name, call)

    def _open(self, path: str, *arguments: Any, **options: Any) -> int:
        fd = SystemCalls.open(path, *arguments, **options)
        self.paths[fd] = path
        self.inodes.add(os.fstat(fd).st_ino)
        return fd

    def _close(self, fd: int, /) -> None:
        del self.paths[fd]
        SystemCalls.close(fd)


def _filled(root: Path) -> Path:
    (root / "mail").mkdir(parents=True)
    (root / KEY).write_bytes(OLD)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with one document."""
    return _filled(tmp_path / "root")


@pytest.fixture
def system() -> Iterator[System]:
    """Those of `files`; no descriptor of theirs stays open."""
    calls = System()
    yield calls
    assert calls.paths == {}


@pytest.fixture
def files(root: Path, system: System) -> Files:
    return Files(str(root), calls=system)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root, with a document of the same name."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "a.account").write_bytes(OUTSIDE)
    return path


LINKS = {"link out": "outside", "link within": "root/other", "dangling link": "nowhere"}
MODES = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}


def _make(kind: str, path: Path, tmp_path: Path, below: str) -> None:
    """Something odd; or a link to what is below a folder."""
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(OLD)
    elif kind in LINKS:
        path.symlink_to(tmp_path / LINKS[kind] / below)
    else:
        try:
            os.mknod(path, MODES[kind] | 0o600, os.makedev(1, 5))
            if kind == "device":
                os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            pytest.skip(f"no {kind} can be made here")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("place", "kind"), [*product(["document"], ["folder", *MODES, *LINKS]), *product(["folder"], ["file", *LINKS])]
)
def test_what_is_no_document_or_no_folder_is_refused(
    root: Path, files: Files, outside: Path, tmp_path: Path, place: str, kind: str, name: str
) -> None:
    """Nothing is read, written or removed by way of what is no regular file or no folder, links included; it stays."""
    (root / "other").mkdir()
    (root / "other/a.account").write_bytes(OUTSIDE)
    path = root / "odd.account"
    key = path.name if place == "document" else f"{path.name}/a.account"
    _make(kind, path, tmp_path, "a.account" if place == "document" else "")
    before, odd = state(tmp_path), path.lstat()
    error = failure(name, files, key, digest(OUTSIDE))
    if place == "document":
        assert error is (errors.ExistsError if name == "create" else errors.NotRegularError)
        assert listed(files) == {KEY, "other/a.account"}
    else:
        assert error is errors.NotRegularError
        told = {stat.key: stat.instead for page in files.scan(path.name, recursive=True) for stat in page}
        assert told == {f"{path.name}/": "a file or a symbolic link"}
    assert (path.lstat().st_ino, path.lstat().st_mode) == (odd.st_ino, odd.st_mode)
    assert state(tmp_path) == before


def test_linked_folder_that_is_followed_is_read_and_not_changed(root: Path) -> None:
    """With `follow_links` documents in a linked folder are read; nothing is written or removed there, and no such call
    passes for done. A listing tells of the folder, and does not go into it.
    """
    (root / "linked").symlink_to("mail")
    for name, to in (("loop", "loop"), ("dangling", "nowhere")):
        (root / name).symlink_to(to)
    files, key = Files(str(root), follow_links=True), "linked/a.account"
    for name in CALLS:
        assert failure(name, files, key) is (None if name in READS else errors.NotRegularError)
    assert (root / KEY).read_bytes() == OLD
    for recursive, folder in ((True, KEY), (False, "mail/")):
        found = {stat.key: stat.instead for page in files.scan("", recursive=recursive) for stat in page}
        assert found == {folder: "", **dict.fromkeys(("linked/", "loop", "dangling"), "a symbolic link")}


@pytest.mark.parametrize("name", READS)
def test_a_link_that_leads_elsewhere_meanwhile_is_followed_again(root: Path, system: System, name: str) -> None:
    """A document of a secret volume (`follow_links`) that is renewed between the look and the reading is there; one
    that is renewed again and again is a temporary error.
    """

    def opened(path: str, *arguments: Any, **options: Any) -> int:
        if path == str(root) and len(states) <= times:
            states.append(f"..{len(states)}")
            shutil.move(root / states[-2], root / states[-1])
            (root / "..new").symlink_to(states[-1])
            (root / "..new").rename(root / "..data")
        return system._open(path, *arguments, **options)  # pyright: ignore[reportPrivateUsage]

    shutil.move(root / "mail", root / "..0")
    (root / "..data").symlink_to("..0")
    (root / "a.account").symlink_to("..data/a.account")
    system.patch("open", opened)
    files = Files(str(root), follow_links=True, calls=system)
    times, states = 2, ["..0"]
    assert failure(name, files, "a.account") is None
    assert len(states) == 3
    times = 10**9
    not_sent(CALLS[name], files, "a.account")
    assert len(states) > 10
    assert failure(name, files, "b.account") is errors.NotFoundError


def test_control_plain_access_follows_links(root: Path, outside: Path) -> None:
    """Control: a plain write through a linked folder lands outside the root."""
    (root / "link").symlink_to(outside)
    (root / "link/a.account").write_bytes(NEW)
    assert (outside / "a.account").read_bytes() == NEW


def _look_and_open(calls: SystemCalls, path: str) -> None:
    """Look whether there is a link in the way, and then open by path."""
    looked = [calls.stat(part, follow_symlinks=False).st_mode for part in (os.path.dirname(path), path)]
    if not any(map(stat.S_ISLNK, looked)):
        calls.close(calls.open(path, os.O_RDONLY))


@pytest.mark.parametrize("name", [*EVERY, "control"])
@pytest.mark.parametrize("swapped", ["folder", "document"])
def test_what_gives_way_to_a_link_meanwhile_lets_nothing_out(
    tmp_path: Path, system: System, outside: Path, name: str, swapped: str
) -> None:
    """Whatever is replaced by a link before any one of a call's system calls, nothing outside is opened, or changed.

    The control: what looks before it opens, opens the document outside.
    """

    def swap() -> None:
        if system.calls.total() == point:
            if place.exists():
                place.rename(tmp_path / f"moved {point}")
            place.symlink_to(outside if swapped == "folder" else outside / "a.account")

    key = ABSENT if name == "create" else KEY
    point = 0
    system.before = swap
    while system.calls.total() >= point:
        point += 1
        system.calls.clear()
        root = _filled(tmp_path / f"root {point}")
        place = root / ("mail" if swapped == "folder" else key)
        with suppress(OSError, BackendError):
            if name == "control":
                _look_and_open(system, f"{root}/{key}")
            else:
                EVERY[name](Files(str(root), calls=system), key, OLD_VERSION)
    assert point > 2
    inodes = {path.stat().st_ino for path in (outside, outside / "a.account")}
    assert bool(system.inodes & inodes) is (name == "control")
    assert state(outside) == {"a.account": OUTSIDE}


@pytest.mark.parametrize("name", ["overwrite", "swap", "write_many"])
def test_shared_document_is_read_and_replaced(root: Path, files: Files, tmp_path: Path, name: str) -> None:
    """A document that all may read, under two names, is read; a write keeps its mode and leaves the other name."""
    (root / KEY).chmod(0o644)
    os.link(root / KEY, tmp_path / "second")
    assert files.read(KEY, limit=LIMIT).data == OLD
    assert failure(name, files) is None
    assert files.read(KEY, limit=LIMIT).data == NEW
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o644
    assert (tmp_path / "second").read_bytes() == OLD


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="this system has no POSIX ACLs")
@pytest.mark.parametrize("mode", [0o600, 0o640], ids=oct)
@pytest.mark.parametrize("name", ["overwrite", "swap", "write_many"])
def test_document_that_is_replaced_keeps_its_acl(root: Path, system: System, name: str, mode: int) -> None:
    """An ACL that keeps the owning group out still does after a write; without it the mode would let the group in."""
    who = 0xFFFFFFFF
    entries = [(1, 6, who), (2, 4, 1002), (4, 0, who), (16, 4, who), (32, 0, who)]  # user 1002 may read, the group not
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(root / KEY, ACL, acl)
    except OSError as error:
        pytest.skip(f"no ACL can be set here: {error}")
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o640
    assert failure(name, Files(str(root), calls=system, file_mode=mode)) is None
    assert (root / KEY).read_bytes() == NEW
    assert os.getxattr(root / KEY, ACL) == acl


def test_documents_without_bits_for_a_group_cost_no_look_for_an_acl(files: Files, system: System) -> None:
    """The private documents that this library makes are replaced without a further system call."""
    files.write(ABSENT, NEW, "create")
    files.write(ABSENT, OLD, "overwrite")
    assert not system.calls["getxattr"]


def test_mode_that_the_umask_has_taken_is_durable(files: Files, system: System) -> None:
    """A mode that is set after the temporary file was made goes to the disk before the file has the document's name."""
    steps: list[str] = []

    def noted(name: str, *arguments: Any, **options: Any) -> object:
        steps.append(name)
        return getattr(SystemCalls, name)(*arguments, **options)

    for name in ("fchmod", "fsync", "link"):
        system.patch(name, partial(noted, name))
    umask = os.umask(0o277)
    try:
        files.write(ABSENT, NEW, "create")
    finally:
        os.umask(umask)
    assert steps[-5:] == ["fsync", "fchmod", "fsync", "link", "fsync"]


def test_huge_file_is_never_held_in_memory(root: Path, files: Files) -> None:
    """A file far beyond the limit is refused by a read, and looked at by a stat and a swap in little memory."""
    size = 100_000_000
    with (root / "huge.account").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        with pytest.raises(errors.TooLargeError):
            files.read("huge.account", limit=LIMIT)
        assert files.stat("huge.account").size == size
        assert failure("swap", files, "huge.account") is errors.ConflictError
        assert tracemalloc.get_traced_memory()[1] < size / 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_folder_that_does_not_reach_the_disk_fails_its_own_documents(
    root: Path, files: Files, system: System, code: int
) -> None:
    """Of a batch in two folders, one of which the disk does not take, each document in the other is written; what
    became of those in the first is uncertain, as they have their names already.
    """

    def fsync(fd: int, /) -> None:
        if bad.exists() and os.path.samestat(os.fstat(fd), bad.stat()):
            raise OSError(code, os.strerror(code))
        SystemCalls.fsync(fd)

    system.patch("fsync", fsync)
    bad = root / "bad"
    keys = [f"{folder}/{name}.account" for name in "ab" for folder in ("bad", "good")]
    results = files.write_many([Write(key, NEW, "overwrite") for key in keys])
    for key, result in zip(keys, results, strict=True):
        if key.startswith("bad"):
            assert isinstance(result, errors.UncertainError)
        else:
            assert isinstance(result, Stat)
            assert files.read(key, limit=LIMIT).version == result.version


# --- the root ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_vanished_root_is_unavailable_and_not_made_again(
    root: Path, files: Files, name: str, warm: bool, instead: str
) -> None:
    """When the root is gone each call is a temporary error, and none makes it again; when it is back, all is well."""
    if warm:
        files.write("mail/other.account", OLD, "overwrite")
    moved = root.rename(root.with_name("moved"))
    if instead == "file":
        root.write_bytes(b"")
    before = state(root.parent)
    for key in (KEY, "new/folder/a.account"):
        assert "root" in not_sent(EVERY[name], files, key).message
    assert state(root.parent) == before
    if instead == "file":
        root.unlink()
    moved.rename(root)
    assert files.read(KEY, limit=LIMIT).data == OLD


def test_replaced_root_is_used_as_it_is(root: Path, files: Files) -> None:
    """Another folder in the root's place is the root from then on: its documents are found, and folders made anew."""
    files.write(KEY, NEW, "overwrite")
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert failure("read", files) is errors.NotFoundError
    assert listed(files) == set()
    files.write(KEY, OLD, "create")
    assert files.read(KEY, limit=LIMIT).data == OLD
    assert root.with_name("moved").joinpath(KEY).read_bytes() == NEW


SOME, MANY = 2_000, 20_000


@pytest.fixture(scope="module")
def crowded() -> Iterator[Path]:
    """A root with many documents in one folder, and a tenth of them in another."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # faster than a disk, where there is one
    with tempfile.TemporaryDirectory(prefix="accountstore-test-", dir=memory) as path:
        for count in (SOME, MANY):
            Path(path, str(count)).mkdir()
            for i in range(count):
                Path(path, str(count), f"{i}.account").touch()
        yield Path(path)


def test_listing_is_linear(crowded: Path, system: System) -> None:
    """A listing asks for each entry once, and makes as many system calls in a folder ten times as big."""

    @contextmanager
    def scandir(fd: int) -> Generator[Iterator[os.DirEntry[str]]]:
        with SystemCalls.scandir(fd) as entries:
            yield counted(entries)

    def counted(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            asked.append(entry.name)
            yield entry

    system.patch("scandir", scandir)
    made: list[Counter[str]] = []
    for count in (SOME, MANY):
        asked: list[str] = []
        system.calls.clear()
        pages = Files(str(crowded), calls=system).scan(str(count), recursive=True)
        first = next(pages)
        assert len(asked) == len(first) < SOME
        assert len(first) + sum(map(len, pages)) == count
        assert len(set(asked)) == len(asked) == count
        made.append(system.calls.copy())
    assert made[0] == made[1]
    assert made[0]["scandir"] == 1


@pytest.mark.parametrize("kept", [1, MANY], ids=["page", "control"])
def test_listing_holds_a_page(crowded: Path, system: System, kept: int) -> None:
    """A listing holds about a page at a time. The control: the measure sees pages that are kept."""
    pages = Files(str(crowded), calls=system).scan(str(MANY), recursive=True)
    tracemalloc.start()
    try:
        deque(pages, maxlen=kept)
        assert (tracemalloc.get_traced_memory()[1] < 1_500_000) is (kept == 1)
    finally:
        tracemalloc.stop()


# --- leftovers --------------------------------------------------------------------------------------------------------


def test_leftover_is_swept_by_a_listing(root: Path, files: Files) -> None:
    """A crashed write's file does not show in a listing, which removes it; a read and a stat leave it."""
    leftover = root / "mail" / LEFTOVER
    leftover.write_bytes(b"half of a docu")
    for name in READS:
        assert failure(name, files, ABSENT) is errors.NotFoundError
    assert leftover.exists()
    assert listed(files) == {KEY}
    assert state(root) == {"mail": "no file", KEY: OLD}


@pytest.mark.parametrize("name", ["overwrite", "create", "write_many"])
def test_leftover_is_swept_by_the_first_write_in_its_folder(root: Path, files: Files, name: str) -> None:
    """The first write of a process in a folder removes what crashes left there, and not in other folders."""
    for folder in (root / "mail", root):
        (folder / LEFTOVER).write_bytes(OLD)
    assert failure(name, files, ABSENT) is None
    assert set(state(root)) == {"mail", KEY, ABSENT, LEFTOVER}


def test_files_of_others_are_not_swept(root: Path, files: Files) -> None:
    """Sweeping removes the library's own temporary files only, and leaves folders and links of such a name."""
    (root / f"{RESERVED_PREFIX}note.txt").write_bytes(OLD)
    (root / "a.tmp").write_bytes(OLD)
    (root / f"{RESERVED_PREFIX}folder.tmp").mkdir()
    (root / f"{RESERVED_PREFIX}link.tmp").symlink_to(root / KEY)
    before = state(root)
    assert listed(files) == {KEY, "a.tmp"}
    files.write("new.account", NEW, "create")
    files.delete("new.account", None)
    assert state(root) == before


def test_leftover_that_cannot_be_removed_is_no_error(root: Path, files: Files, system: System) -> None:
    """On a disk that takes no removal, as a read-only one, a listing and a first write go on beside a leftover."""

    def unlink(name: str, **options: Any) -> None:
        refused.append(name)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    refused: list[str] = []
    (root / "mail" / LEFTOVER).write_bytes(OLD)
    system.patch("unlink", unlink)
    assert listed(files) == {KEY}
    assert failure("overwrite", files) is None
    assert refused == [LEFTOVER] * 2


def test_without_locking_leftovers_are_invisible_but_stay(root: Path, system: System) -> None:
    """Where locks say nothing, a temporary file may be another machine's: it does not show and is not swept."""
    leftover = root / "mail" / LEFTOVER
    leftover.write_bytes(OLD)
    files = Files(str(root), locking=False, calls=system)
    assert listed(files) == {KEY}
    files.write(ABSENT, NEW, "overwrite")
    assert leftover.exists()


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("locked", [True, False], ids=["locked", "gone"])
def test_temporary_file_that_is_swept_again_and_again(
    root: Path, files: Files, system: System, locked: bool, name: str
) -> None:
    """A writer whose temporary file is swept, before it has the lock or just then, makes another.

    After very many it gives up: the write was surely not made, the document is as it was, and nothing is left.
    """

    def flock(fd: int, how: int, /) -> None:
        path = root / "mail" / system.paths[fd]
        if how == fcntl.LOCK_UN:
            if path.name in swept:
                path.unlink(missing_ok=True)
        elif path.suffix == ".tmp" and len(swept) < times:
            swept.append(path.name)
            if locked:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            path.unlink()
        SystemCalls.flock(fd, how)

    system.patch("flock", flock)
    system.patch("fsync", os.fstat)  # which takes less time
    key = ABSENT if name == "create" else KEY
    before = state(root)
    times, swept = 10**9, list[str]()
    not_sent(CALLS[name], files, key)
    assert len(swept) == len(set(swept)) > 10
    assert state(root) == before
    times, swept = 3, []
    assert failure(name, files, key) is None
    assert len(swept) == 3
    assert state(root) == before | {key: NEW}


@pytest.mark.parametrize("gone", ["file", "folder"])
@pytest.mark.parametrize(
    ("name", "key"), [("overwrite", KEY), *((name, ABSENT) for name in ("create", "overwrite", "write_many"))]
)
def test_what_is_removed_while_a_document_is_published(
    root: Path, files: Files, system: System, name: str, key: str, gone: str
) -> None:
    """A write whose temporary file or folder goes just before the document gets its name is made again."""

    def publish(call: str, source: str, target: str, /, **options: Any) -> None:
        if not removed:
            removed.append(source)
            if gone == "file":
                (root / "mail" / source).unlink()
            else:
                shutil.rmtree(root / "mail")
        getattr(SystemCalls, call)(source, target, **options)

    removed: list[str] = []
    for call in ("link", "rename"):
        system.patch(call, partial(publish, call))
    assert failure(name, files, key) is None
    assert len(removed) == 1
    assert state(root) == {"mail": "no file", **({KEY: OLD} if gone == "file" else {}), key: NEW}


@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_others_remove_again_and_again(root: Path, files: Files, system: System, name: str) -> None:
    """A write, and one of a batch, that finds the empty folder gone makes it again, and gives up after very many. A
    swap finds no document.
    """

    def opened(path: str, *arguments: Any, **options: Any) -> int:
        if path.endswith(".tmp") and len(met) < times:
            met.append(path)
            shutil.rmtree(root / "mail")
        return system._open(path, *arguments, **options)  # pyright: ignore[reportPrivateUsage]

    system.patch("open", opened)
    times, met = 3, list[str]()
    if name.startswith("swap"):
        assert failure(name, files, KEY) is errors.NotFoundError
        return
    assert failure(name, files, ABSENT) is None
    assert len(met) == 3
    assert state(root) == {"mail": "no file", ABSENT: NEW}
    times, met = 10**9, []
    not_sent(CALLS[name], files, "mail/more.account")
    assert len(met) > 10


@pytest.mark.parametrize("times", [3, 10**9])
def test_document_that_others_keep_creating_and_removing(root: Path, files: Files, system: System, times: int) -> None:
    """An overwrite that finds no document, and then one in its place, looks again; not for ever."""

    def link(source: str, target: str, **options: Any) -> None:
        if len(met) < times:
            met.append(target)  # another has created it, and removes it before it is looked for
            raise FileExistsError(errno.EEXIST, "File exists")
        SystemCalls.link(source, target, **options)

    met: list[str] = []
    system.patch("link", link)
    if times == 3:
        files.write(ABSENT, NEW, "overwrite")
        assert files.read(ABSENT, limit=LIMIT).data == NEW
    else:
        not_sent(CALLS["overwrite"], files, ABSENT)
        assert len(met) > 10
        assert state(root) == {"mail": "no file", KEY: OLD}


# --- the document's lock ----------------------------------------------------------------------------------------------


@contextmanager
def _held(path: Path, /) -> Generator[int]:
    """The lock of a document, in the hands of another."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@pytest.mark.parametrize("name", LOCKING)
def test_lock_that_another_holds_too_long(root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A change waits for another who holds the lock, not for ever, and can be made when the lock is free."""
    before = state(root)
    with monkeypatch.context() as patched, _held(root / KEY):
        patched.setattr(module, "_LOCK_SECONDS", 0.0)
        assert "lock" in not_sent(CALLS[name], files).message
        assert files.read(KEY, limit=LIMIT).data == OLD  # a reader needs no lock
        assert state(root) == before
    assert failure(name, files) is None
    assert (root / KEY).exists() == (name not in DELETES)


@pytest.mark.parametrize("name", LOCKING)
def test_lock_that_another_lets_go_is_waited_for(root: Path, files: Files, system: System, name: str) -> None:
    """While another holds the lock the change sleeps and looks again, and goes on when it is free."""

    def sleep(seconds: float, /) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            fcntl.flock(held, fcntl.LOCK_UN)

    slept: list[float] = []
    system.patch("sleep", sleep)
    with _held(root / KEY) as held:
        assert failure(name, files) is None
    assert len(slept) == 5
    assert all(0 < seconds < 0.1 for seconds in slept)
    assert (root / KEY).exists() == (name not in DELETES)


@pytest.mark.parametrize("name", LOCKING)
@pytest.mark.parametrize("at", ["fstat", "flock", "stat"])
def test_lock_that_is_interrupted_is_let_go(root: Path, files: Files, system: System, at: str, name: str) -> None:
    """Whatever interrupts the taking of a document's lock, at any step, leaves neither a descriptor nor a lock."""

    def interrupt(what: int | str, *arguments: Any, **options: Any) -> Any:
        document = (what if isinstance(what, str) else system.paths[what]) == "a.account"
        unlocks = at == "flock" and arguments[0] == fcntl.LOCK_UN
        if not interrupted and document and not unlocks:
            interrupted.append(at)
            raise KeyboardInterrupt
        return getattr(SystemCalls, at)(what, *arguments, **options)

    interrupted: list[str] = []
    system.patch(at, interrupt)
    before = state(root)
    with pytest.raises(KeyboardInterrupt):
        failure(name, files)
    assert interrupted == [at]
    assert system.paths == {}
    with (root / KEY).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert state(root) == before
    assert failure(name, files) is None


@pytest.mark.parametrize("name", LOCKING)
def test_link_that_is_put_in_the_documents_place_meanwhile_is_not_followed(
    root: Path, files: Files, system: System, name: str
) -> None:
    """Neither a link that is put under the document's name between opening and locking nor its file is touched."""

    def flock(fd: int, how: int, /) -> None:
        if not moved.exists() and system.paths[fd] == "a.account" and how & fcntl.LOCK_EX:
            path.rename(moved)
            path.symlink_to(moved)
        SystemCalls.flock(fd, how)

    path, moved = root / KEY, root.parent / "moved.account"
    system.patch("flock", flock)
    assert failure(name, files) is errors.NotRegularError
    assert path.is_symlink()
    assert moved.read_bytes() == OLD
    assert set(state(root)) == {"mail", KEY}


@pytest.mark.parametrize("released", [True, False], ids=["released", "control"])
def test_child_forked_in_a_write_does_not_keep_its_locks(
    root: Path, files: Files, system: System, monkeypatch: pytest.MonkeyPatch, released: bool
) -> None:
    """A process forked in a write, which shares its descriptors as copies do, does not keep others from the document.

    The control: locks that only a closing lets go do.
    """

    def rename(*names: str, **folders: int) -> None:
        copies.extend(os.dup(fd) for fd in system.paths)  # all locks are held here
        SystemCalls.rename(*names, **folders)

    def flock(fd: int, how: int, /) -> None:
        if released or how != fcntl.LOCK_UN:
            SystemCalls.flock(fd, how)

    copies: list[int] = []
    system.patch("rename", rename)
    system.patch("flock", flock)
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
    files.write(KEY, NEW, "overwrite")
    other = Files(str(root))
    if released:
        other.write(KEY, OLD, digest(NEW))
        assert files.read(KEY, limit=LIMIT).data == OLD
    else:
        not_sent(CALLS["overwrite"], other)
    for fd in copies:
        os.close(fd)
