"""The local backend on real file systems: modes, links, odd files, full and read-only disks, big folders, leftovers."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import tracemalloc
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from running import HUNG, PYTHON

from accountstore import (
    Account,
    AccountStore,
    ConflictError,
    LocationError,
    NotRegularError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from accountstore import Location as At
from accountstore.backends import local
from accountstore.backends.base import Version, Write, classify_error, digest
from accountstore.backends.local.backend import open_backend
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls, filesystem_type
from accountstore.errors import BackendError, DeniedError, ExistsError, FullError, NotFoundError
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from contextlib import AbstractAsyncContextManager

    from accountstore.backends.base import WriteMode

LIMIT = 1_000_000
KEY = "mail/a.account"
OLD = b"the old document"
NEW = b"the new document"
OUTSIDE = b"a document outside the root"
NOBODY = 65534
ACCOUNT = Account(host="imap.example", port=1, credentials=PasswordCredentials(login="me", password="secret"))

READS: dict[str, Callable[[Files, str], object]] = {
    "read": lambda files, key: files.read(key, limit=LIMIT),
    "stat": lambda files, key: files.stat(key),
    "read_many": lambda files, key: _only(files.read_many([key], limit=LIMIT)),
}
WRITES: dict[str, Callable[[Files, str], object]] = {
    "overwrite": lambda files, key: files.write(key, NEW, "overwrite"),
    "create": lambda files, key: files.write(key, NEW, "create"),
    "swap": lambda files, key: files.write(key, NEW, digest(OUTSIDE)),
    "write_many": lambda files, key: _only(files.write_many([Write(key, NEW, "overwrite")])),
}
DELETES: dict[str, Callable[[Files, str], object]] = {
    "delete": lambda files, key: files.delete(key, None),
    "delete a version": lambda files, key: files.delete(key, digest(OUTSIDE)),
}
CALLS = READS | WRITES | DELETES


def _only(results: list[Any], /) -> object:
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _failure(call: Callable[[Files, str], object], files: Files, key: str = KEY, /) -> type[BackendError] | None:
    """The class of the error that a call ends with."""
    try:
        call(files, key)
    except (OSError, BackendError) as error:
        return classify_error(error)
    return None


def _listed(files: Files, /) -> set[str]:
    return {found.key for page in files.scan("", recursive=True) for found in page}


def _leftovers(root: Path, /) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(RESERVED_PREFIX)]


def _state(root: Path, /) -> dict[str, bytes | str]:
    """All paths with their bytes, or what they are."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() and not path.is_symlink() else "no file"
        for path in root.rglob("*")
    }


@contextmanager
def _running(script: str, *arguments: object) -> Generator[subprocess.Popen[str]]:
    """A Python process that runs a script."""
    with subprocess.Popen(
        [*PYTHON, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _report(script: str, *arguments: object) -> Any:
    """What a script prints as JSON."""
    done = subprocess.run(
        [*PYTHON, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with one document."""
    path = tmp_path / "root"
    (path / "mail").mkdir(parents=True)
    (path / KEY).write_bytes(OLD)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root, with a document of the same name."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "a.account").write_bytes(OUTSIDE)
    return path


def _store(root: Path, /, **policy: Any) -> AbstractAsyncContextManager[AccountStore]:
    storage = StorageConfig(url=f"file://{root}", **policy)
    return AccountStore.open(StoreConfig(default="disk", storages={"disk": storage}))


def _same(account: Account, /) -> Account:
    return account


def _drop(entry: object, /) -> None:
    """Keep nothing."""


# --- modes ------------------------------------------------------------------------------------------------------------

MODES = """
import json, os, stat, sys
from accountstore.backends.base import digest
from accountstore.backends.local.files import Files
from accountstore.validation import RESERVED_PREFIX

above, user = sys.argv[1], int(sys.argv[2])
digest(b"")
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
found = {}
for umask in (0, 0o022, 0o077, 0o277):
    os.umask(umask)
    root = f"{above}/{umask:o}/deep/root"
    files = Files(root)
    files.make_root()
    files.write("a.account", b"1", "overwrite")
    files.write("a.account", b"2", digest(b"1"))
    files.write("new/er/b.account", b"1", "create")
    files.write_many([("many/c.account", b"1", "overwrite")])
    for folder, folders, names in os.walk(f"{above}/{umask:o}"):
        for name in folders + names:
            path = os.path.join(folder, name)
            mode = os.stat(path).st_mode
            found[os.path.relpath(path, above)] = [stat.S_ISDIR(mode), stat.S_IMODE(mode)]
json.dump(found, sys.stdout)
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of a user without privileges, which that user can reach."""
    path = Path(tempfile.mkdtemp(prefix="accountstore-test-"))
    try:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
            if not all(above.stat().st_mode & stat.S_IXOTH for above in path.parents):
                pytest.skip("the folder for temporary files is not open to other users")
        yield path
    finally:
        shutil.rmtree(path)


def _unprivileged() -> int:
    """The user that a script becomes; 0 where it is without privileges already."""
    return NOBODY if os.geteuid() == 0 else 0


@pytest.mark.parametrize("privileged", [True, False])
def test_folders_are_0700_and_files_0600_whatever_the_umask(shared: Path, privileged: bool) -> None:
    """The root, folders and documents are the owner's alone, under a umask that gives all and one that takes more."""
    found = _report(MODES, shared, 0 if privileged else _unprivileged())
    assert len(found) == 4 * (2 + 6)
    wrong = {
        path: oct(mode)
        for path, (is_folder, mode) in found.items()
        if "/" in path
        if mode != (0o700 if is_folder else 0o600)
    }
    assert not wrong


def test_control_plain_write_follows_the_umask(tmp_path: Path) -> None:
    """Control: under umask 0 a plain write leaves a file that all may read and write."""
    before = os.umask(0)
    try:
        (tmp_path / "a.account").write_bytes(OLD)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.account").stat().st_mode) == 0o666


def test_overwrite_makes_a_readable_document_private(root: Path) -> None:
    """A document that another program left readable is 0600 after it is written."""
    (root / KEY).chmod(0o644)
    Files(str(root)).write(KEY, NEW, "overwrite")
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o600


# --- symbolic links ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_root_may_be_reached_through_a_link(root: Path, tmp_path: Path) -> None:
    """A symbolic link as the root, or above it, is followed: it is the configuration's."""
    (tmp_path / "link").symlink_to(tmp_path)
    backend = await open_backend(f"file://{tmp_path}/link/root", {})
    assert (await backend.read(KEY, limit=LIMIT)).data == OLD
    await backend.write(KEY, NEW, mode="overwrite")
    assert (root / KEY).read_bytes() == NEW


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("target", ["outside", "root/other", "nowhere"])
def test_linked_folder_is_refused(root: Path, outside: Path, tmp_path: Path, name: str, target: str) -> None:
    """Nothing is read, written or removed through a symbolic link in a folder's place, wherever it leads."""
    (root / "other").mkdir()
    (root / "other/a.account").write_bytes(OUTSIDE)
    (root / "link").symlink_to(tmp_path / target)
    before = _state(tmp_path)
    failure = _failure(CALLS[name], Files(str(root)), "link/a.account")
    # A delete may take a folder that is none for a missing one.
    assert failure is NotRegularError or (name in DELETES and failure is None)
    assert _state(tmp_path) == before


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("target", ["outside/a.account", "root/other.account", "nowhere"])
def test_linked_document_is_refused(root: Path, outside: Path, tmp_path: Path, name: str, target: str) -> None:
    """Nothing is read, written or removed through a symbolic link in a document's place, wherever it leads."""
    (root / "other.account").write_bytes(OUTSIDE)
    (root / "link.account").symlink_to(tmp_path / target)
    before = _state(tmp_path)
    assert _failure(CALLS[name], Files(str(root)), "link.account") is (
        ExistsError if name == "create" else NotRegularError
    )
    assert (root / "link.account").is_symlink()
    assert _state(tmp_path) == before


def test_links_are_not_listed(root: Path, outside: Path) -> None:
    """A listing shows neither a linked document nor what is behind a linked folder."""
    (root / "folder").symlink_to(outside)
    (root / "link.account").symlink_to(outside / "a.account")
    files = Files(str(root))
    assert _listed(files) == {KEY}
    assert list(files.scan("folder", recursive=True)) == [[]]


def test_control_plain_access_follows_links(root: Path, outside: Path) -> None:
    """Control: a plain write through a linked folder lands outside the root."""
    (root / "link").symlink_to(outside)
    (root / "link/a.account").write_bytes(NEW)
    assert (outside / "a.account").read_bytes() == NEW


SWAPPER = """
import ctypes, sys
one, two = (text.encode() for text in sys.argv[1:])
swap = ctypes.CDLL(None, use_errno=True).renameat2
AT_FDCWD, RENAME_EXCHANGE = -100, 2
print("ready", flush=True)
while not swap(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE):
    pass
"""


@contextmanager
def _swapping(one: Path, two: Path) -> Generator[None]:
    """Another process exchanges two names all the time."""
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("this system cannot exchange two names in one step")
    with _running(SWAPPER, one, two) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        if process.poll() is not None:
            pytest.skip("this file system cannot exchange two names in one step")


def test_folder_swapped_for_a_link_meanwhile_lets_nothing_out(root: Path, outside: Path) -> None:
    """A folder that alternates with a link to the outside is refused or used, and nothing gets outside."""
    (root / "swap").symlink_to(outside)
    files = Files(str(root))
    results = Counter[object]()
    # The race must take place: each call is refused sometimes, and goes well sometimes.
    both = {(name, result) for name in ("read", "overwrite") for result in (None, NotRegularError)}
    with _swapping(root / "mail", root / "swap"):
        for i in range(50_000):
            if i > 600 and both <= set(results):
                break
            for name, call in CALLS.items():
                if name not in DELETES or i % 10 == 0:
                    results[name, _failure(call, files)] += 1
            with suppress(OSError):
                results[files.read(KEY, limit=LIMIT).data] += 1
            results["listed"] += len(next(iter(files.scan("mail", recursive=True))))
    assert both <= set(results)
    assert _state(outside) == {"a.account": OUTSIDE}
    assert results[OUTSIDE] == 0
    failures = {key[1] for key in results if isinstance(key, tuple)}
    assert failures <= {None, NotRegularError, NotFoundError, ExistsError, ConflictError}


def test_document_swapped_for_a_link_meanwhile_is_never_read_through(root: Path, outside: Path) -> None:
    """A document that alternates with a link to the outside is refused or read, never the file outside."""
    (root / "mail/swap").symlink_to(outside / "a.account")
    files = Files(str(root))
    results = Counter[object]()
    with _swapping(root / KEY, root / "mail/swap"):
        for i in range(300_000):
            if i > 3000 and len(results) > 1:
                break
            try:
                results[files.read(KEY, limit=LIMIT).data] += 1
            except OSError as error:
                results[classify_error(error)] += 1
    assert set(results) == {OLD, NotRegularError}


def test_control_looking_before_opening_lets_something_out(root: Path, outside: Path) -> None:
    """Control: a reader that looks whether the folder is a link and then opens by path reads what is outside."""
    (root / "swap").symlink_to(outside)
    found = set[bytes]()
    with _swapping(root / "mail", root / "swap"):
        for _ in range(300_000):
            if not (root / "mail").is_symlink():
                found.add((root / KEY).read_bytes())
            if OUTSIDE in found:
                break
    assert OUTSIDE in found


# --- what is no document ----------------------------------------------------------------------------------------------


def _make(kind: str, path: Path, /) -> None:
    """Something other than a regular file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket may have 107 bytes only.
        at = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{at}/{path.name}")
        except OSError as error:
            pytest.skip(f"cannot make a socket there: {error}")
        finally:
            os.close(at)
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can make a device")
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            pytest.skip("no devices can be made here")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device"])
def test_what_is_no_regular_file_is_refused(root: Path, kind: str, name: str) -> None:
    """A folder, pipe, socket or device in a document's place is refused, without waiting, and stays."""
    path = root / "odd.account"
    _make(kind, path)
    before = path.lstat()
    assert _failure(CALLS[name], Files(str(root)), path.name) is (ExistsError if name == "create" else NotRegularError)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not _leftovers(root)


def test_what_is_no_regular_file_is_not_listed(root: Path) -> None:
    """Pipes and folders do not show among the documents."""
    _make("fifo", root / "odd.account")
    _make("folder", root / "other.account")
    assert _listed(Files(str(root))) == {KEY}


@pytest.mark.parametrize("name", CALLS)
def test_file_in_the_place_of_a_folder_is_refused(root: Path, name: str) -> None:
    """A file where a folder belongs is refused, and stays."""
    (root / "file").write_bytes(OLD)
    failure = _failure(CALLS[name], Files(str(root)), "file/a.account")
    assert failure is NotRegularError or (name in DELETES and failure is None)
    assert (root / "file").read_bytes() == OLD


@pytest.mark.anyio
async def test_store_names_what_is_no_document(root: Path) -> None:
    """Through the store the error is NotRegularError and names the location."""
    _make("fifo", root / "odd.account")
    location = At("odd.account")
    async with _store(root) as store:
        calls: list[Callable[[At], Awaitable[object]]] = [
            store.get,
            store.stat,
            store.exists,
            store.delete,
            lambda at: store.save(at, ACCOUNT),
        ]
        for call in calls:
            with pytest.raises(NotRegularError) as caught:
                await call(location)
            assert caught.value.location == location


def test_hard_linked_document_is_read_and_replaced(root: Path, tmp_path: Path) -> None:
    """A document with a second name elsewhere is read; writing it replaces this name and leaves the other."""
    os.link(root / KEY, tmp_path / "second")
    files = Files(str(root))
    assert files.read(KEY, limit=LIMIT).data == OLD
    files.write(KEY, NEW, digest(OLD))
    assert files.read(KEY, limit=LIMIT).data == NEW
    assert (tmp_path / "second").read_bytes() == OLD


def test_huge_file_is_never_held_in_memory(root: Path) -> None:
    """A file far beyond the limit in a document's place is refused by a read, and told by a stat in little memory."""
    size = 100_000_000
    with (root / "huge.account").open("wb") as file:
        file.truncate(size)
    files = Files(str(root))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            files.read("huge.account", limit=LIMIT)
        assert files.stat("huge.account").size == size
        assert _failure(WRITES["swap"], files, "huge.account") is ConflictError
        assert tracemalloc.get_traced_memory()[1] < size / 10
    finally:
        tracemalloc.stop()


def test_longest_names_are_written(tmp_path: Path) -> None:
    """A folder and a document whose names have 255 bytes are written, read and listed."""
    key = f"{'f' * 255}/{'d' * 247}.account"
    files = Files(str(tmp_path))
    files.write(key, NEW, "create")
    assert files.read(key, limit=LIMIT).data == NEW
    assert _listed(files) == {key}


# --- disks that refuse ------------------------------------------------------------------------------------------------


@contextmanager
def _mounted(path: Path, options: str) -> Generator[None]:
    """A file system in memory."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("options", ["size=64k", "nr_inodes=12"])
def test_full_disk_keeps_the_old_documents(tmp_path: Path, options: str) -> None:
    """On a disk without space or inodes a write is a FullError, leaves nothing, and each document stays as it was."""
    root = tmp_path / "disk"
    with _mounted(root, options):
        files = Files(str(root))
        wanted = dict[str, bytes]()
        refused = Counter[str]()

        def write(key: str, data: bytes, mode: WriteMode) -> bool:
            failure = _failure(lambda files, key: files.write(key, data, mode), files, key)
            assert failure in {None, FullError}
            if failure is None:
                wanted[key] = data
            else:
                refused["swap" if isinstance(mode, Version) else mode] += 1
            return failure is None

        while write(f"{len(wanted)}.account", bytes([len(wanted)]) * 5000, "create"):
            pass
        assert len(wanted) >= 4
        # What is longer, and the new folder, takes the rest of the space.
        for _ in range(20):
            write(f"folder/{len(wanted)}.account", NEW, "overwrite")
        for key, data in list(wanted.items()):
            write(key, data * 2, digest(data))
            write(key, data * 3, "overwrite")
        assert refused["create"] == 1
        assert refused["overwrite"] > 0
        assert refused["swap"] > 0
        assert {key: files.read(key, limit=LIMIT).data for key in wanted} == wanted
        assert _listed(files) == set(wanted)
        assert not _leftovers(root)
        for key in list(wanted)[:3]:
            files.delete(key, None)
        files.write("again.account", NEW, "create")
        assert files.read("again.account", limit=LIMIT).data == NEW


LIMITED = """
import json, resource, sys
from accountstore.backends.base import classify_error, digest
from accountstore.backends.local.files import Files

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
files = Files(sys.argv[1])
names = []
for mode in ("overwrite", digest(b"the old document")):
    try:
        files.write("mail/a.account", bytes(10_000), mode)
    except OSError as error:
        names.append(classify_error(error).__name__)
json.dump(names, sys.stdout)
"""


def test_write_that_stops_half_way_leaves_the_old_document(root: Path) -> None:
    """A write that the system ends after a part of it is an error; the old document stays, and no half of the new."""
    names = _report(LIMITED, root)
    assert len(names) == 2
    assert set(names) <= {"BackendError", "FullError"}
    assert _state(root) == {"mail": "no file", KEY: OLD}


DENIED = """
import json, os, sys
from accountstore.backends.base import Write, classify_error, digest
from accountstore.backends.local.files import Files

root, user = sys.argv[1], int(sys.argv[2])
digest(b"")
files = Files(root)
for folder in ("closed", "sealed", "open"):
    files.write(f"{folder}/a.account", b"old", "create")
    files.write(f"{folder}/b.account", b"old", "create")
    if user:
        for path in (folder, f"{folder}/a.account", f"{folder}/b.account"):
            os.chown(f"{root}/{path}", user, user)
os.chmod(f"{root}/closed", 0o500)
os.chmod(f"{root}/sealed", 0o000)
os.chmod(f"{root}/open/a.account", 0o000)
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
calls = {
    "overwrite": lambda key: files.write(key, b"new", "overwrite"),
    "create": lambda key: files.write(key, b"new", "create"),
    "swap": lambda key: files.write(key, b"new", digest(b"old")),
    "delete": lambda key: files.delete(key, None),
    "read": lambda key: files.read(key, limit=100),
    "stat": files.stat,
    "list": lambda key: list(files.scan(os.path.dirname(key), recursive=False)),
}
found = {}
for name, call in calls.items():
    for key in ("closed/a.account", "closed/new.account", "closed/new/a.account", "sealed/a.account", "open/a.account"):
        try:
            call(key)
        except Exception as error:
            found[f"{name} {key}"] = classify_error(error).__name__
        else:
            found[f"{name} {key}"] = "went well"
os.chmod(f"{root}/sealed", 0o700)
json.dump(found, sys.stdout)
"""


def test_denied_access_is_a_typed_error(shared: Path) -> None:
    """Folders and documents that the user may not read or write are a DeniedError, and stay as they are."""
    found = _report(DENIED, shared, _unprivileged())
    denied = {name for name, result in found.items() if result == "DeniedError"}
    for name in ("overwrite", "swap", "delete", "read", "stat", "list"):
        assert f"{name} sealed/a.account" in denied
    for name in ("overwrite", "swap", "delete"):
        assert f"{name} closed/a.account" in denied
        assert f"{name} open/a.account" in denied
    assert {"create closed/new.account", "create closed/new/a.account", "overwrite closed/new/a.account"} <= denied
    assert {"read open/a.account", "stat open/a.account"} <= denied
    assert found["read closed/a.account"] == found["list closed/a.account"] == "went well"
    assert set(found.values()) <= {"DeniedError", "NotFoundError", "ExistsError", "went well"}
    assert set(os.listdir(shared / "closed")) == set(os.listdir(shared / "open")) == {"a.account", "b.account"}
    assert (shared / "closed/a.account").stat().st_size == len(b"old")


def test_read_only_disk_reads_and_refuses_writes(tmp_path: Path) -> None:
    """On a read-only disk documents are read and listed, beside leftovers too; writes and deletes are a DeniedError."""
    root = tmp_path / "disk"
    with _mounted(root, "size=1m"):
        Files(str(root)).write(KEY, OLD, "create")
        leftover = root / f"mail/{RESERVED_PREFIX}0123456789abcdef.tmp"
        leftover.write_bytes(NEW)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        files = Files(str(root))
        for name in ("overwrite", "write_many"):
            assert _failure(WRITES[name], files) is DeniedError
            assert _failure(WRITES[name], files, "new/a.account") is DeniedError
        assert _failure(lambda files, key: files.write(key, NEW, digest(OLD)), files) is DeniedError
        assert _failure(DELETES["delete"], files) is DeniedError
        assert files.read(KEY, limit=LIMIT).data == OLD
        assert _listed(files) == {KEY}


# --- the root ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CALLS, "scan"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_vanished_root_is_unavailable_and_not_made_again(root: Path, name: str, warm: bool, instead: str) -> None:
    """When the root is gone each call is an UnavailableError, and none makes it again; when it is back, all is well."""
    files = Files(str(root))
    if warm:
        files.write("mail/other.account", OLD, "overwrite")
    moved = root.rename(root.with_name("moved"))
    if instead == "file":
        root.write_bytes(b"")
    before = _state(root.parent)
    call = CALLS.get(name, lambda files, _: list(files.scan("", recursive=True)))
    assert _failure(call, files) is UnavailableError
    assert _failure(call, files, "new/folder/a.account") is UnavailableError
    assert _state(root.parent) == before
    if instead == "file":
        root.unlink()
    moved.rename(root)
    assert files.read(KEY, limit=LIMIT).data == OLD


@pytest.mark.anyio
async def test_store_without_its_root_is_unavailable(root: Path) -> None:
    """Through the store every call on a vanished root is an UnavailableError, which is temporary; also a listing. None
    is uncertain, of a write neither: it surely was not made.
    """
    location = At("a.account", folder="mail")
    async with _store(root, attempts=2) as store:
        root.rename(root.with_name("moved"))
        calls: list[Callable[[At], Awaitable[object]]] = [
            store.get,
            store.read,
            store.stat,
            store.exists,
            store.delete,
            lambda at: store.save(at, ACCOUNT),
            lambda at: store.update(at, _same),
        ]
        for call in calls:
            with pytest.raises(UnavailableError) as caught:
                await call(location)
            assert type(caught.value) is UnavailableError
            assert not caught.value.sent
            assert caught.value.temporary
            assert caught.value.location == location
        with pytest.raises(UnavailableError):
            [entry async for entry in store.list("mail")]
        for results in (store.get_many([location]), store.save_many([(location, ACCOUNT)])):
            assert [type(result) async for _, result in results] == [UnavailableError]
    assert not root.exists()


def test_replaced_root_is_used_as_it_is(root: Path) -> None:
    """Another folder in the root's place is the root from then on: its documents are found, and folders made anew."""
    files = Files(str(root))
    files.write(KEY, NEW, "overwrite")
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert _failure(READS["read"], files) is NotFoundError
    assert _listed(files) == set()
    files.write(KEY, OLD, "create")
    assert files.read(KEY, limit=LIMIT).data == OLD
    assert root.with_name("moved").joinpath(KEY).read_bytes() == NEW


def test_removed_folder_is_made_again(root: Path) -> None:
    """A folder that someone removed after the first write in it is made again by the next."""
    files = Files(str(root))
    files.write("new/deep/a.account", OLD, "create")
    shutil.rmtree(root / "new")
    files.write("new/deep/a.account", NEW, "create")
    assert files.read("new/deep/a.account", limit=LIMIT).data == NEW


def test_root_is_made_below_a_folder_that_cannot_be_read(shared: Path) -> None:
    """A root is made where a folder above it may be passed through but not listed."""
    above = shared / "above"
    (above / "mine").mkdir(parents=True)
    for path in (above, above / "mine"):
        os.chown(path, _unprivileged() or os.geteuid(), -1)
    above.chmod(0o300)
    made = _report(MADE, above / "mine/new/root", _unprivileged())
    above.chmod(0o700)
    assert made == ["a.account"]
    assert stat.S_IMODE((above / "mine/new/root").stat().st_mode) == 0o700


MADE = """
import json, os, sys
from accountstore.backends.local.files import Files
from accountstore.backends.base import digest

digest(b"")
if int(sys.argv[2]):
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
files = Files(sys.argv[1])
files.make_root()
files.write("a.account", b"1", "create")
json.dump([found.key for page in files.scan("", recursive=True) for found in page], sys.stdout)
"""

# --- big folders ------------------------------------------------------------------------------------------------------


class Counted:
    """System calls that are counted, and the entries of folders that were asked for."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.entries = 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        real = getattr(SystemCalls, name)

        def call(*arguments: Any, **options: Any) -> object:
            self.calls[name] += 1
            return real(*arguments, **options)

        return call

    @contextmanager
    def scandir(self, fd: int) -> Generator[Iterator[os.DirEntry[str]]]:
        self.calls["scandir"] += 1
        with os.scandir(fd) as entries:
            yield self._count(entries)

    def _count(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            self.entries += 1
            yield entry


@pytest.fixture(scope="module")
def crowded() -> Iterator[Path]:
    """A root with 10,000 documents in one folder and 100,000 in another."""
    memory = "/dev/shm"  # faster than a disk, where there is one
    above = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="accountstore-test-", dir=above) as path:
        for folder, count in (("some", 10_000), ("many", 100_000)):
            (Path(path) / folder).mkdir()
            at = os.open(Path(path) / folder, os.O_RDONLY | os.O_DIRECTORY)
            for i in range(count):
                os.close(os.open(f"{i}.account", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=at))
            os.close(at)
        yield Path(path)


def test_listing_is_linear(crowded: Path) -> None:
    """A listing asks for each entry once, and makes as many system calls in a folder ten times as big."""
    made = list[Counter[str]]()
    for folder, count in (("some", 10_000), ("many", 100_000)):
        counted = Counted()
        pages = Files(str(crowded), calls=cast("SystemCalls", counted)).scan(folder, recursive=True)
        first = next(pages)
        assert counted.entries == len(first) < 5_000
        assert len(first) + sum(map(len, pages)) == count
        assert counted.entries == count
        made.append(counted.calls)
    assert made[0] == made[1]
    assert made[0]["scandir"] == 1


async def _peak(root: Path, keep: Callable[[object], None]) -> int:
    """List 100,000 documents; the most memory that ten pages in the middle take."""
    found = peak = 0
    async with _store(root) as store:
        async for entry in store.list("many"):
            found += 1
            keep(entry)
            if found == 50_000:
                tracemalloc.start()
            elif found == 60_000:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
    assert found == 100_000
    return peak


def test_listing_holds_a_page(crowded: Path) -> None:
    """The store lists 100,000 documents and holds about a page of entries at a time."""
    assert 0 < anyio.run(_peak, crowded, _drop) < 1_000_000


def test_control_keeping_a_listing_takes_memory(crowded: Path) -> None:
    """Control: the measure sees entries that are kept."""
    kept = list[object]()
    assert anyio.run(_peak, crowded, kept.append) > 2_000_000


def test_dropped_listing_closes_its_folder(crowded: Path) -> None:
    """A listing that is dropped after its first page leaves no descriptor open."""
    before = set(os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else [])
    pages = Files(str(crowded)).scan("many", recursive=True)
    assert next(pages)
    del pages
    assert set(os.listdir("/proc/self/fd") if before else []) <= before


# --- leftovers --------------------------------------------------------------------------------------------------------

LEFTOVER = f"{RESERVED_PREFIX}0123456789abcdef.tmp"


@pytest.mark.anyio
async def test_leftover_is_invisible_and_swept_by_a_listing(root: Path) -> None:
    """A crashed write's file shows in no call; a listing removes it."""
    (root / "mail" / LEFTOVER).write_bytes(b"half of a docu")
    async with _store(root) as store:
        for call in (At, At.parse):
            with pytest.raises(LocationError):
                call(LEFTOVER)
        with pytest.raises(LocationError):
            At("a.account", folder=LEFTOVER)
        assert not await store.exists(At("b.account", folder="mail"))
        assert (root / "mail" / LEFTOVER).exists()
        found = [str(entry.location) async for entry in store.list(recursive=True)]
    assert found == [KEY]
    assert not _leftovers(root)


@pytest.mark.parametrize("name", ["overwrite", "create", "write_many"])
def test_leftover_is_swept_by_the_first_write_in_its_folder(root: Path, name: str) -> None:
    """The first write of a process in a folder removes what crashes left there, and not in other folders."""
    (root / "mail" / LEFTOVER).write_bytes(OLD)
    (root / LEFTOVER).write_bytes(OLD)
    assert _failure(WRITES[name], Files(str(root)), "mail/new.account") is None
    assert _leftovers(root) == [root / LEFTOVER]


def test_files_of_others_are_not_swept(root: Path) -> None:
    """Sweeping removes the library's own passing files only, and leaves folders and links of such a name."""
    (root / f"{RESERVED_PREFIX}note.txt").write_bytes(OLD)
    (root / "a.tmp").write_bytes(OLD)
    (root / f"{RESERVED_PREFIX}folder.tmp").mkdir()
    (root / f"{RESERVED_PREFIX}link.tmp").symlink_to(root / KEY)
    before = _state(root)
    files = Files(str(root))
    assert _listed(files) == {KEY, "a.tmp"}
    files.write("new.account", NEW, "create")
    files.delete("new.account", None)
    assert _state(root) == before


PAUSED = """
import os, sys
from accountstore.backends.local.files import Files, SystemCalls

class Paused(SystemCalls):
    first = True

    def fsync(self, fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".tmp"):
            print("paused", flush=True)
            sys.stdin.readline()
        os.fsync(fd)

Files(sys.argv[1], calls=Paused()).write("mail/a.account", b"the new document", "overwrite")
print("written", flush=True)
"""


@contextmanager
def _paused(root: Path) -> Generator[subprocess.Popen[str]]:
    """Another process in the middle of a write."""
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("the paused process needs /proc")
    with _running(PAUSED, root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "paused\n"
        yield process


def test_passing_file_of_a_living_writer_is_not_swept(root: Path) -> None:
    """While its writer lives, a passing file survives listings and first writes; the write ends well."""
    with _paused(root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        files = Files(str(root))
        assert _listed(files) == {KEY}
        files.write("mail/other.account", OLD, "create")
        assert len(_leftovers(root)) == 1
        assert files.read(KEY, limit=LIMIT).data == OLD
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
    assert files.read(KEY, limit=LIMIT).data == NEW
    assert not _leftovers(root)


def test_passing_file_of_a_killed_writer_is_swept(root: Path) -> None:
    """When its writer is killed, the same passing file is swept by the next listing."""
    with _paused(root) as process:
        process.kill()
        process.wait()
    assert len(_leftovers(root)) == 1
    files = Files(str(root))
    assert _listed(files) == {KEY}
    assert not _leftovers(root)
    assert files.read(KEY, limit=LIMIT).data == OLD


FORKED = """
import os, sys
from accountstore.backends.local.files import Files, SystemCalls

class Forking(SystemCalls):
    child = 0

    def rename(self, *names, **folders):
        # All locks are held here: on the old document and on the passing file.
        if not self.child:
            self.child = os.fork()
            if not self.child:
                print("forked", flush=True)
                sys.stdin.readline()
                os._exit(0)
        os.rename(*names, **folders)

calls = Forking()
Files(sys.argv[1], calls=calls).write("mail/a.account", b"the new document", "overwrite")
print("written", flush=True)
os.waitpid(calls.child, 0)
"""


def test_child_forked_in_a_write_does_not_keep_its_locks(root: Path) -> None:
    """A child process that was forked in the middle of a write does not keep others from the document afterwards."""
    with _running(FORKED, root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"forked\n", "written\n"}
        files = Files(str(root))
        files.write(KEY, OLD, digest(NEW))
        assert files.read(KEY, limit=LIMIT).data == OLD
        process.stdin.close()
        process.wait()


# --- network file systems ---------------------------------------------------------------------------------------------

MOUNTS = """\
21 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
28 1 {device} / /mnt/a rw,relatime shared:1 master:2 - {type} server:/export rw,vers=4.2
29 1 {device} /below /mnt/b\\040c rw - {type} server:/export rw
bad line
"""


def _mounts(path: Path, kind: str) -> str:
    device = os.stat(path).st_dev
    text = MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", type=kind)
    (path / "mountinfo").write_text(text)
    return str(path / "mountinfo")


@pytest.mark.parametrize("kind", ["ext4", "nfs4", "fuse.sshfs", "-"])
def test_filesystem_type_is_read_from_the_mounts(tmp_path: Path, kind: str) -> None:
    """The file system of a path is the one that is mounted from its device."""
    assert filesystem_type(str(tmp_path), mounts=_mounts(tmp_path, kind)) == kind


def test_filesystem_type_is_none_where_it_is_not_told(tmp_path: Path) -> None:
    """A system without the list of mounts, or a list without the device, tells nothing."""
    (tmp_path / "mountinfo").write_text(MOUNTS.format(device="999:999", type="nfs"))
    assert filesystem_type(str(tmp_path), mounts=str(tmp_path / "mountinfo")) is None
    assert filesystem_type(str(tmp_path), mounts=str(tmp_path / "missing")) is None


def test_filesystem_type_of_this_system_is_known(tmp_path: Path) -> None:
    """Linux tells the type of the file system with the temporary files."""
    with _mounted(tmp_path / "disk", "size=64k"):
        assert filesystem_type(str(tmp_path / "disk")) == "tmpfs"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "ext4", None])
async def test_network_file_system_declares_no_swap(
    root: Path, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system a compare-and-swap is not declared and refused; elsewhere it is."""

    def told(path: str) -> str | None:
        return kind

    monkeypatch.setattr(local, "filesystem_type", told)
    location = At("b.account")
    async with _store(root) as store:
        version = await store.save(location, ACCOUNT)
        if kind in {"ext4", None}:
            assert store.capabilities().update
            assert await store.save(location, ACCOUNT, mode=version) == version
            return
        assert not store.capabilities().update
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.save(location, ACCOUNT, mode=version),
            lambda: store.update(location, _same),
            lambda: store.delete(location, version=version),
        ]
        for call in calls:
            with pytest.raises(UnsupportedError):
                await call()
        assert await store.get(location) == ACCOUNT


def test_without_locking_leftovers_are_invisible_but_stay(root: Path) -> None:
    """Where locks tell nothing, a passing file may be another machine's: it does not show and is not swept."""
    (root / "mail" / LEFTOVER).write_bytes(OLD)
    files = Files(str(root), locking=False)
    assert _listed(files) == {KEY}
    files.write("mail/b.account", NEW, "overwrite")
    assert _leftovers(root) == [root / "mail" / LEFTOVER]
