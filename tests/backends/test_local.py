"""The backend of a local storage: its root, its URL and options, network file systems, its threads."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import Mock

import anyio
import pytest
from anyio import to_thread
from running import HUNG
from samples import ACCOUNT

from accountstore import AccountStore, DeniedError, Location, NotFoundError, StorageConfig, StoreConfig
from accountstore.backends.base import Capabilities, ConfigError, UnavailableError, Usage
from accountstore.backends.local import backend as module
from accountstore.backends.local import directories
from accountstore.backends.local.backend import open_backend
from accountstore.backends.local.syscalls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio

KEY = "mail/a.account"


async def test_root_may_be_reached_through_a_link(tmp_path: Path) -> None:
    """A symbolic link as the root, or above it, is followed: it is the configuration's."""
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    backend = await open_backend(f"file://{tmp_path}/link/root", {})
    await backend.write(KEY, b"1", mode="overwrite")
    assert (tmp_path / "root" / KEY).read_bytes() == b"1"
    await backend.aclose()


@pytest.mark.parametrize("below", ["", "root"])
async def test_root_that_is_no_folder_is_reported_at_opening(tmp_path: Path, below: str) -> None:
    """Where a file is in the place of the root, or of a folder above it, the store does not open, and names it."""
    path = tmp_path / "file"
    path.write_bytes(b"a file")
    reason = r"^storages\.main\.url: (what stands there is no folder|.*Not a directory)"
    with pytest.raises(ConfigError, match=reason) as caught:
        await AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(path / below))}))
    assert caught.value.message.endswith(f" [{path / below}]")
    assert path.read_bytes() == b"a file"


@pytest.mark.parametrize("url", ["root", "{}/root", "file://{}/root", "~/root"])
async def test_an_error_about_the_storage_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """What the system refuses is told with the storage's name and its whole folder; that a document is not there is
    about the document alone.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    storages = {"main": StorageConfig(url.format(tmp_path))}
    async with AccountStore.open(StoreConfig(storages=storages)) as store:
        with pytest.raises(NotFoundError) as missing:
            await store.get(Location("a.account"))
        assert missing.value.message == "there is no such document"
        monkeypatch.setattr(SystemCalls, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(DeniedError) as denied:
            await store.get(Location("a.account"))
        assert denied.value.message.startswith("access is denied (")
        assert denied.value.message.endswith(f" [storage 'main': {tmp_path}/root]")
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b": 1}, "options: unknown 'b'; known: file_mode, folder_mode, follow_links"),
        ({"file_mod": 0o640}, "options: unknown 'file_mod'; did you mean 'file_mode'?"),
        *(
            ({"file_mode": mode}, "options: 'file_mode' must be a mode such as '0600'")
            for mode in ("0400", 8, "x", 0o1777, -1)
        ),
        ({"folder_mode": "0600"}, "options: 'folder_mode' must be a mode such as '0700'"),
        ({"follow_links": "yes"}, "options: 'follow_links' must be true or false"),
    ],
)
async def test_wrong_options_are_refused(options: Mapping[str, object], message: str, tmp_path: Path) -> None:
    """An option that is not known, or has a value that cannot be meant, is named."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        await open_backend(f"file://{tmp_path}", options)


async def test_modes_are_options(tmp_path: Path) -> None:
    """Documents and folders that are made have the modes that the options say, as a number or as text."""
    backend = await open_backend(f"FILE://{tmp_path}/root", {"file_mode": "0640", "folder_mode": 0o750})
    await backend.write("mail/a.account", b"1", mode="overwrite")
    modes = [stat.S_IMODE((tmp_path / "root" / path).stat().st_mode) for path in ("", "mail", "mail/a.account")]
    assert modes == [0o750, 0o750, 0o640]
    await backend.aclose()


async def test_modes_that_the_file_system_has_fixed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no mode can be changed and those of the options are others, opening or the write says so; where they are
    the same, documents and folders are made.
    """
    monkeypatch.setattr(SystemCalls, "fchmod", Mock(side_effect=PermissionError(errno.EPERM, "not permitted")))
    backend = await open_backend(f"file://{tmp_path}/root", {})
    await backend.write(KEY, b"1", mode="overwrite")
    umask = os.umask(0o277)
    try:
        with pytest.raises(DeniedError, match=r"^file_mode and folder_mode must be as .* fixed them \(here 0400\)$"):
            await backend.write(KEY, b"2", mode="overwrite")
        with pytest.raises(ConfigError, match=r"^storages\.main: file_mode and folder_mode must be .* \(here 0500\)$"):
            await AccountStore.open(StoreConfig(storages={"main": StorageConfig(f"{tmp_path}/new")}))
    finally:
        os.umask(umask)
    assert (await backend.read(KEY, limit=9)).data == b"1"
    await backend.aclose()


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "ext4", None])
async def test_network_file_system_declares_no_swap(
    tmp_path: Path, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system compare-and-swap is not declared and nothing is locked; elsewhere it is."""
    flock = Mock()
    monkeypatch.setattr(module, "filesystem_type", Mock(return_value=kind))
    monkeypatch.setattr(SystemCalls, "flock", flock)
    backend = await open_backend(f"file://{tmp_path}", {})
    await backend.write(KEY, b"1", mode="overwrite")
    await backend.write(KEY, b"2", mode="overwrite")
    assert (await backend.read(KEY, limit=100)).data == b"2"
    swaps = kind in {"ext4", None}
    assert flock.called is swaps
    assert backend.capabilities == Capabilities(
        create=True, update=swaps, atomic=True, durable=True, certain=True, concurrency=64, batch=128, folders=True
    )
    await backend.aclose()


@pytest.mark.parametrize("instead", ["another mount", "another folder", "the same folder, mounted again"])
async def test_a_root_on_another_mount_is_refused(
    tmp_path: Path, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When what was mounted is gone, nothing is written to the folder below, nor missed there. A folder that takes the
    root's place, as after a restore, and the same one mounted again are as good as the first.
    """
    root = tmp_path / "root"
    backend = await open_backend(f"file://{root}", {})
    await backend.write(KEY, b"1", mode="overwrite")
    if instead != "the same folder, mounted again":
        root.rename(tmp_path / "mounted")
        root.mkdir()
    if instead != "another folder":
        monkeypatch.setattr(directories, "mount_of", Mock(return_value=-1))
    if instead == "the same folder, mounted again":
        monkeypatch.setattr(directories.Directories, "_inode", Mock(return_value=(-1, root.stat().st_ino)))
    if instead == "another mount":
        for call in (
            partial(backend.read, KEY, limit=9),
            partial(backend.stat, KEY),
            partial(backend.write, KEY, b"2", mode="overwrite"),
            partial(backend.delete, KEY),
            partial(anext, backend.scan("", recursive=True)),
            backend.usage,
            backend.filesystem,
        ):
            with pytest.raises(UnavailableError, match="on another mount than when it was opened") as caught:
                await call()
            assert not caught.value.sent
        assert not [*root.iterdir()]
        root.rmdir()
        (tmp_path / "mounted").rename(root)
        assert (await backend.read(KEY, limit=9)).data == b"1"
    for data in (b"2", b"3"):
        await backend.write(KEY, data, mode="overwrite")
        assert (root / KEY).read_bytes() == data
    await backend.aclose()


async def test_usage_is_what_the_file_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `df` has it of the root, in bytes; None where the file system tells nothing."""
    backend = await open_backend(f"file://{tmp_path}/root", {})
    for blocks, usage in ((10, Usage(used=7 * 512, total=10 * 512)), (0, None)):
        told = Mock(return_value=Mock(f_blocks=blocks, f_bfree=3, f_bavail=2, f_frsize=512, f_bsize=4096))
        monkeypatch.setattr("os.fstatvfs", told)
        assert await backend.usage() == usage
    monkeypatch.undo()
    assert await backend.usage() is not None
    (tmp_path / "root").rmdir()
    with pytest.raises(UnavailableError, match="is gone"):
        await backend.usage()
    await backend.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_close_ends_the_threads(tmp_path: Path) -> None:
    """The threads of single calls and those of batches end when the backend is closed, while it is still held."""
    before = threading.enumerate()
    backend = await open_backend(f"file://{tmp_path}", {})
    await backend.write(KEY, b"1", mode="overwrite")
    await backend.read_many([KEY], limit=100)
    threads = [thread for thread in threading.enumerate() if thread not in before and thread.name == "accountstore"]
    assert len(threads) == 2
    await backend.aclose()
    for thread in threads:
        await to_thread.run_sync(thread.join, HUNG)
        assert not thread.is_alive()


async def test_a_document_that_is_held_keeps_no_other_waiting(tmp_path: Path) -> None:
    """More writers than there are turns wait for a document that another process holds, and a delete too; others are
    read and written meanwhile. When it is free, all are done.
    """
    held, other = Location("held.account"), Location("other.account")
    storage = StorageConfig(str(tmp_path), concurrency=4)
    async with AccountStore.open(StoreConfig(storages={"main": storage})) as store:
        await store.save(held, ACCOUNT)
        await store.save(other, ACCOUNT)
        ended: list[str] = []

        async def change(name: str) -> None:
            await (store.delete(held) if name == "delete" else store.save(held, ACCOUNT))
            ended.append(name)

        async with anyio.create_task_group() as tasks:
            with (tmp_path / held.path).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                for name in ("delete", *map(str, range(8))):
                    tasks.start_soon(change, name)
                await anyio.sleep(0.2)
                assert await store.get(other) == ACCOUNT
                await store.save(other, ACCOUNT)
                assert ended == []
        assert len(ended) == 9
