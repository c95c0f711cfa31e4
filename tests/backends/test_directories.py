"""Folders of a local storage: private when they are made, told when they are of no use, remembered within bounds."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from accountstore import Account, AccountStore, ConfigError, Location, PasswordCredentials, StorageConfig, StoreConfig
from accountstore.backends import folders as directories
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.anyio

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
LEFTOVER = f"{RESERVED_PREFIX}0123456789abcdef.tmp"


@pytest.fixture
def anyio_backend() -> str:
    """The work is done in threads, the same for every event loop."""
    return "asyncio"


@pytest.fixture
def _open_umask() -> Iterator[None]:
    """A umask that takes nothing from anybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def opened(root: Path, /) -> AbstractAsyncContextManager[AccountStore]:
    return AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(root))}))


@pytest.mark.usefixtures("_open_umask")
async def test_folders_are_private_from_their_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root, the folders above it and those below are the owner's alone in the call that makes them: nobody enters
    before the mode is set.
    """
    real: Any = SystemCalls.mkdir
    modes: dict[str, int] = {}

    def mkdir(path: str, mode: int = 0o777, /, **at: Any) -> None:
        real(path, mode, **at)
        modes[os.path.basename(path)] = stat.S_IMODE(os.stat(path, **at).st_mode)

    monkeypatch.setattr(SystemCalls, "mkdir", staticmethod(mkdir))
    async with opened(tmp_path / "above" / "root") as store:
        await store.save(Location("email.account", folder="new/deep"), ACCOUNT)
        await anext(store.save_many([(Location("email.account", folder="many"), ACCOUNT)]))
    assert modes == dict.fromkeys(("above", "root", "new", "deep", "many"), 0o700)


@pytest.mark.usefixtures("_open_umask")
def test_control_a_plain_folder_is_open_to_all(tmp_path: Path) -> None:
    """The control: under the same umask a folder that is made without a mode is open to everyone."""
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o777


@pytest.mark.parametrize("below", [False, True])
async def test_a_root_that_is_no_folder_is_told_at_opening(tmp_path: Path, below: bool) -> None:
    """A file in the place of the root, or of a folder above it, is a fault of the configuration: the store does not
    open, rather than fail later.
    """
    path = tmp_path / "file"
    path.write_bytes(b"a file")
    with pytest.raises(ConfigError, match="storage 'main'"):
        async with opened(path / "root" if below else path):
            pass
    assert path.read_bytes() == b"a file"


@pytest.mark.parametrize(("remembered", "swept"), [(2, True), (100, False)])
async def test_folders_are_remembered_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int, swept: bool
) -> None:
    """A folder is prepared (made, made durable, swept) by the first write in it. Only so many are remembered as such:
    one that was forgotten is prepared again by its next write, and nothing is lost.
    """
    monkeypatch.setattr(directories, "_REMEMBERED_FOLDERS", remembered)
    places = [Location("email.account", folder=folder) for folder in ("one", "two", "three", "four")]
    async with opened(tmp_path) as store:
        for at in places:
            await store.save(at, ACCOUNT)
        leftover = tmp_path / "one" / LEFTOVER
        leftover.write_bytes(b"half of a docu")
        await store.save(places[0], ACCOUNT)
        assert leftover.exists() != swept
        assert [await store.get(at) for at in places] == [ACCOUNT] * len(places)
