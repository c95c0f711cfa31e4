"""A store or a storage that is opened read-only: it answers every question, and nothing is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from doubles import Recording
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, MULTI, MULTI_AT, OAUTH

from accountstore import AccountStore, ConfigError, Location, StorageConfig, StoreConfig, TokenGrant, UnsupportedError
from accountstore.backends.readonly import ReadOnlyBackend
from accountstore.blocking import BlockingAccountStore
from accountstore.migration import Options, migrate, plan, verify
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio
posix = pytest.mark.skipif(os.name != "posix", reason="elsewhere fsspec has folders, and its opening writes nothing")

READING = {
    "get",
    "get_multi",
    "read",
    "read_multi",
    "read_json",
    "stat",
    "exists",
    "versions",
    "list",
    "get_many",
    "check",
}


async def never(_: object) -> TokenGrant:
    raise AssertionError("nothing is exchanged here")


EVERY_CALL: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    **CALLS,
    "refresh": lambda store: store.refresh(AT, never),
    "refresh_multi": lambda store: store.refresh_multi(MULTI_AT, never),
    "copy with a lease": lambda store: store.copy(AT, ELSEWHERE, lease=30),
    "save in a scope": lambda store: store.scoped(AT.folder).save(ELSEWHERE, ACCOUNT),
}


def config(folder: Path, *, read_only: bool = False) -> StoreConfig:
    return StoreConfig(storages={"main": StorageConfig(str(folder), read_only=read_only)})


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Folders and files with their times: whatever is made or removed changes that of its folder."""
    found = [folder, *folder.rglob("*")]
    return {str(path): (status.st_mtime_ns, status.st_ino) for path in found for status in [path.stat()]}


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A folder with a document of each kind."""
    async with AccountStore.open(config(tmp_path)) as store:
        await store.save(AT, ACCOUNT)
        await store.save_multi(MULTI_AT, MULTI)
    # As a writer that was killed leaves it, for those that write to remove.
    tmp_path.joinpath(AT.folder, ".accountstore-0123456789abcdef.tmp").write_bytes(b"{}")
    return tmp_path


@pytest.mark.parametrize("call", EVERY_CALL)
async def test_every_call_reads_or_is_refused(call: str, folder: Path) -> None:
    """What reads works; all else is an `UnsupportedError` that says why, and leaves no trace in the folder, nor does
    the opening. It is the same for a storage that is configured so.
    """
    before = state(folder)
    async with AccountStore.open(config(folder), read_only=True) as store:
        if call in READING:
            await EVERY_CALL[call](store)
        else:
            with pytest.raises(UnsupportedError, match="opened read-only"):
                await EVERY_CALL[call](store)
    async with AccountStore.open(config(folder, read_only=True)) as store:
        with pytest.raises(UnsupportedError, match=r"mail/team-a/email\.account: the storage is opened read-only"):
            await store.delete(AT)
    assert state(folder) == before


@posix
async def test_a_store_that_writes_leaves_a_trace(folder: Path) -> None:
    """The control: the opening of a store that may write, and a write of the same bytes, are seen."""
    before = state(folder)
    async with AccountStore.open(config(folder)) as store:
        opened = state(folder)
        await store.save(AT, ACCOUNT)
    assert before != opened != state(folder)


async def test_it_says_what_it_is(folder: Path) -> None:
    """The capabilities say so and promise no condition, and the check tries no write."""
    async with AccountStore.open(config(folder), read_only=True) as store:
        able, check = store.capabilities(), await store.check()
        assert (able.read_only, able.create, able.update, able.verify, able.atomic) == (True, False, False, False, True)
        assert check.declared == able
        assert (check.ok, check.complete, [step.name for step in check.steps]) == (True, True, ["list"])
        assert (check.create, check.update, check.delete) == (None, None, None)
    async with AccountStore.open(config(folder)) as store:
        assert not store.capabilities().read_only


async def test_one_storage_of_two(folder: Path) -> None:
    """Documents are copied out of a read-only storage; a move and a migration into it are refused before they write,
    the plan of one likewise; both ends can be compared.
    """
    storages = {
        "Old": StorageConfig(str(folder / "mail"), read_only=True),
        "New": StorageConfig(str(folder / "new")),
    }
    before = state(folder / "mail")
    at, there = Location("email.account", folder="team-a"), Location("email.account", storage="New")
    async with AccountStore.open(StoreConfig(default="Old", storages=storages)) as store:
        with pytest.raises(UnsupportedError, match="opened read-only"):
            await store.move(at, there)
        assert not await store.exists(there)
        await store.copy(at, there)
        assert await store.get(there) == ACCOUNT
        for run in (migrate(store, "New:", "Old:", journal=folder / "journal"), plan(store, "New:", "Old:")):
            with pytest.raises(UnsupportedError, match="'Old' is opened read-only"):
                await anext(run)
        assert (await verify(store, "New:", "Old:")).ok is False
        for options in (Options(delete_source=True), Options(lease=30)):
            with pytest.raises(UnsupportedError, match="'Old' is opened read-only, and "):
                await anext(migrate(store, "Old:", "New:", journal=folder / "journal", options=options))
    assert state(folder / "mail") == before


async def test_a_copy_into_it_is_refused_before_the_source_is_touched() -> None:
    """Neither end is asked for anything, nor is a lease taken that would keep others waiting for nothing."""
    source, target = Recording(), Recording()
    async with store_over({"main": source, "ro": ReadOnlyBackend(target)}) as store:
        there = Location("x.account", storage="ro")
        await store.save(AT, OAUTH)
        source.log.clear()
        for call in (store.move(AT, there), store.copy(AT, there), store.copy(AT, there, lease=30)):
            with pytest.raises(UnsupportedError, match="opened read-only"):
                await call
        assert source.log == []
        async for _, result in store.copy_many([(AT, there)], lease=30):
            assert isinstance(result, UnsupportedError)
        assert (source.log, target.log) == (["read"], [])


@posix
async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Read-only, a missing folder is an error at opening: it is likelier a mistake in its name than empty."""
    with pytest.raises(ConfigError, match=r"storages\.main\.url: there is no such folder"):
        await AccountStore.open(config(tmp_path / "nope"), read_only=True)
    assert os.listdir(tmp_path) == []


def test_synchronous_code_has_it_too(tmp_path: Path) -> None:
    """`BlockingAccountStore.open` takes the same option; a token that is due cannot be stored, so none is exchanged."""
    with BlockingAccountStore.open(config(tmp_path)) as store:
        store.save(AT, OAUTH)
    with BlockingAccountStore.open(config(tmp_path), read_only=True) as store:
        assert store.get(AT) == OAUTH
        with pytest.raises(UnsupportedError, match="opened read-only"):
            store.refresh(AT, never)
