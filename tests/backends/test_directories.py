"""Folders of a local storage: private whatever the umask, denied, made again, remembered within bounds."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from accountstore.backends.base import Write, digest
from accountstore.backends.local import directories as module
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

NOBODY = 65534


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder of a user without privileges, who runs the test."""
    user = os.geteuid()
    path = Path(tempfile.mkdtemp(prefix="accountstore-test-"))
    try:
        if user == 0:
            os.chown(path, NOBODY, NOBODY)
            if not all(above.stat().st_mode & stat.S_IXOTH for above in path.parents):
                pytest.skip("the folder for temporary files is not open to other users")
            os.seteuid(NOBODY)
        yield path
    finally:
        os.seteuid(user)
        for folder, below, _ in os.walk(path):
            for name in below:
                os.chmod(f"{folder}/{name}", 0o700)
        shutil.rmtree(path)


@contextmanager
def _umask(mask: int) -> Generator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o277], ids=oct)
def test_folders_are_0700_and_documents_0600_whatever_the_umask(nobodys: Path, umask: int) -> None:
    """All that is made, the root included, is the owner's alone, from its first moment on."""

    def mkdir(path: str, mode: int = 0o777, /, **at: Any) -> None:
        os.mkdir(path, mode, **at)
        first_modes.append(os.stat(path, **at).st_mode)

    def create(path: str, flags: int, mode: int = 0o777, /, **at: Any) -> int:
        fd = os.open(path, flags, mode, **at)
        if flags & os.O_CREAT:
            first_modes.append(os.fstat(fd).st_mode)
        return fd

    first_modes: list[int] = []
    calls = SystemCalls()
    vars(calls).update(mkdir=mkdir, open=create)
    files = Files(f"{nobodys}/above/root", calls=calls)
    with _umask(umask):
        files.make_root()
        files.write("a.account", b"1", "overwrite")
        files.write("a.account", b"2", digest(b"1"))
        files.write("new/er/b.account", b"1", "create")
        files.write_many([Write("many/c.account", b"1", "overwrite")])
    assert len(first_modes) == 5 + 4
    assert not any(mode & 0o077 for mode in first_modes)
    modes = {path: path.stat().st_mode for path in nobodys.rglob("*")}
    assert len(modes) == 5 + 3
    wrong = [path for path, mode in modes.items() if stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600)]
    assert not wrong


def test_control_plain_calls_follow_the_umask(tmp_path: Path) -> None:
    """Control: under umask 0 a folder and a file that are made without a mode are open to all."""
    with _umask(0):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666


def test_folder_that_the_user_may_not_enter_or_change_is_denied(nobodys: Path) -> None:
    """Documents behind it are a `DeniedError`, as is a listing; they stay as they are."""
    files = Files(str(nobodys))
    changes: list[Callable[[str], object]] = [
        lambda key: files.write(key, b"new", "overwrite"),
        lambda key: files.write(f"{key}.account", b"new", "create"),
        lambda key: files.write(key, b"new", digest(b"old")),
        lambda key: files.delete(key, None),
    ]
    every: list[Callable[[str], object]] = [
        *changes,
        files.stat,
        lambda key: files.read(key, limit=100),
        lambda key: list(files.scan(os.path.dirname(key), recursive=False)),
    ]
    for key, mode, calls in (("sealed/a.account", 0, every), ("closed/a.account", 0o500, changes)):
        files.write(key, b"old", "create")
        (nobodys / key).parent.chmod(mode)
        for call in calls:
            with pytest.raises(PermissionError):
                call(key)
    assert files.read("closed/a.account", limit=100).data == b"old"


def test_root_is_made_below_a_folder_that_cannot_be_read(nobodys: Path) -> None:
    """A root is made where a folder above it may be passed through but not listed."""
    (nobodys / "above/mine").mkdir(parents=True)
    (nobodys / "above").chmod(0o300)
    root = nobodys / "above/mine/new/root"
    files = Files(str(root))
    files.make_root()
    files.write("a.account", b"1", "create")
    assert files.read("a.account", limit=100).data == b"1"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_swap_makes_no_folder(tmp_path: Path) -> None:
    """A swap in a folder that is not there finds no document, and leaves no folder."""
    with pytest.raises(FileNotFoundError):
        Files(str(tmp_path)).write("new/deep/a.account", b"1", digest(b"0"))
    assert os.listdir(tmp_path) == []


def test_removed_folder_is_made_again(tmp_path: Path) -> None:
    """A folder that someone removed after the first write in it is made again by the next."""
    files = Files(str(tmp_path))
    for data in (b"1", b"2"):
        files.write("new/deep/a.account", data, "create")
        assert files.read("new/deep/a.account", limit=100).data == data
        shutil.rmtree(tmp_path / "new")


@pytest.mark.parametrize(("remembered", "swept"), [(2, True), (100, False)])
def test_folders_are_remembered_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int, swept: bool
) -> None:
    """The first write in a folder prepares it; one that was forgotten, of too many, is prepared again."""
    monkeypatch.setattr(module, "_REMEMBERED_FOLDERS", remembered)
    keys = [f"{folder}/email.account" for folder in ("one", "two", "three", "four")]
    files = Files(str(tmp_path))
    for key in keys:
        files.write(key, b"1", "overwrite")
    leftover = tmp_path / "one" / f"{RESERVED_PREFIX}0123456789abcdef.tmp"
    leftover.write_bytes(b"half of a docu")
    files.write(keys[0], b"1", "overwrite")
    assert leftover.exists() != swept
    assert [files.read(key, limit=100).data for key in keys] == [b"1"] * len(keys)
