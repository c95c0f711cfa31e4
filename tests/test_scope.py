"""`scoped`: a store narrowed to one tenant's folder reaches nothing else."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING

import pytest
from calls import EITHER, EVERY, SINGLE, ends
from doubles import drained, raises
from msgspec.structs import replace
from samples import ACCOUNT, AT, FULL, MULTI, MULTI_AT

from accountstore import AccountStore, Entry, Event, Location, StorageConfig, StoreConfig
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import (
    AccountStoreError,
    ClosedError,
    ConflictError,
    ExistsError,
    LocationError,
    NotFoundError,
    UnsupportedError,
)
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from accountstore.backends.base import Stat, WriteMode

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with two storages, of which `main` is the default."""
    main = StorageConfig("memory://" if request.param == "memory" else str(tmp_path / "main"))
    storages = {"main": main, "other": StorageConfig("memory://")}
    async with AccountStore.open(StoreConfig(default="main", storages=storages)) as opened:
        yield opened


async def names(entries: AsyncIterator[Entry], /) -> list[str]:
    return sorted(str(entry.location) for entry in await drained(entries))


async def test_locations_are_relative_to_the_folder(store: AccountStore) -> None:
    """What a narrowed store saves, reads and shows is below its folder, and named as it was given."""
    tenant = store.scoped("tenants/a")
    version = await tenant.save(AT, ACCOUNT)
    await tenant.save_multi(MULTI_AT, MULTI)
    full = replace(AT, folder=f"tenants/a/{AT.folder}")
    assert await store.get(full) == await tenant.get(AT) == ACCOUNT
    assert (await store.stat(full)).version == version
    assert await names(store.list(recursive=True)) == [f"tenants/a/{at}" for at in (AT, MULTI_AT)]
    await store.save(AT, FULL)
    assert await tenant.get(AT) == ACCOUNT
    await tenant.update(AT, lambda account: replace(account, port=1))
    assert (await store.get(full)).port == 1
    assert await drained(tenant.get_many([AT])) == [(AT, await tenant.read(AT))]
    assert (await tenant.stat(AT)).location == AT
    await tenant.move(AT, Location("moved.account"))
    assert await names(tenant.list(recursive=True)) == [str(MULTI_AT), "moved.account"]
    assert await names(tenant.list(AT.folder, storage="main")) == [f"main:{MULTI_AT}"]
    assert await store.get(AT) == FULL
    assert [location async for location, _ in tenant.save_many([(AT, ACCOUNT)])] == [AT]


async def test_two_tenants_do_not_meet(store: AccountStore) -> None:
    """Two folders are two worlds, also where the name of one begins like the other's."""
    one, two = store.scoped("tenants/a"), store.scoped("tenants/ab")
    await one.save(AT, ACCOUNT)
    await two.save(AT, FULL)
    assert (await one.get(AT), await two.get(AT)) == (ACCOUNT, FULL)
    assert await names(one.list(recursive=True)) == [str(AT)]
    await one.delete(AT)
    assert await two.get(AT) == FULL


@pytest.mark.parametrize("folder", ["..", "../b", "team/../../b", "/b", "./b", "a//b", "~/b", "a\\..\\b", "%2e%2e"])
async def test_no_folder_leads_outside(store: AccountStore, folder: str) -> None:
    """No location, listing or nested scope of a narrowed store reaches a neighbour's folder."""
    for neighbour in ("tenants/b", "b"):
        await store.save(Location("email.account", folder=neighbour), FULL)
    tenant = store.scoped("tenants/a")
    with pytest.raises((LocationError, NotFoundError)):
        await tenant.get(Location("email.account", folder=folder))
    with suppress(LocationError):
        assert await names(tenant.list(folder, recursive=True)) == []
    with suppress(LocationError):
        assert await names(tenant.scoped(folder).list(recursive=True)) == []


async def test_a_link_in_the_folder_does_not_lead_outside(tmp_path: Path) -> None:
    """A symbolic link from one tenant's folder to another's is not followed."""
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))})) as store:
        theirs = Location("email.account", folder="tenants/b")
        await store.save(theirs, FULL)
        tenant = store.scoped("tenants/a")
        await tenant.save(Location("own.account"), ACCOUNT)
        os.symlink("../b", tmp_path / "tenants" / "a" / "team", target_is_directory=True)
        os.symlink("../b/email.account", tmp_path / "tenants" / "a" / "link.account")
        for at in (Location("email.account", folder="team"), Location("link.account")):
            for call in (tenant.get(at), tenant.save(at, ACCOUNT), tenant.stat(at)):
                with pytest.raises(AccountStoreError):
                    await call
        assert await names(tenant.list(recursive=True)) == ["own.account"]
        assert await store.get(theirs) == FULL


ON_STORAGES: Mapping[str, Callable[[AccountStore, str], object]] = {
    "list": lambda store, name: store.list(storage=name),
    "capabilities": lambda store, name: store.capabilities(name),
    "scoped": lambda store, name: store.scoped("x", storage=name),
    "check": lambda store, name: store.check(name),
    "usage": lambda store, name: store.usage(name),
    "filesystem": lambda store, name: store.filesystem(name),
}


@pytest.mark.parametrize("call", [*EVERY, *ON_STORAGES])
async def test_other_storages_are_as_unknown_as_those_that_do_not_exist(store: AccountStore, call: str) -> None:
    """A configured storage out of reach gives the same error as one that is not configured: no tenant can tell."""
    tenant = store.scoped("tenants/a")
    await store.save(Location("email.account", folder="tenants/a", storage="other"), FULL)
    reported: list[tuple[object, ...]] = []
    for storage in ("other", "no-such"):
        at = Location("email.multi.account" if call.endswith("_multi") else "email.account", storage=storage)
        with pytest.raises(LocationError) as caught:
            done = EVERY[call](tenant, at) if call in EVERY else ON_STORAGES[call](tenant, storage)
            if isawaitable(done):
                await done
        error = caught.value
        assert error.location == (at if call in EVERY else None)
        assert error.message == "the storage is not configured"
        reported.append((type(error), error.__cause__, repr(error.__context__)))
    assert reported[0] == reported[1]


async def test_the_own_storage_may_be_named(store: AccountStore) -> None:
    """A narrowed store takes the name of its storage, and none, as the same."""
    for storage in ("main", "other"):
        tenant = store.scoped("tenants/a", storage=storage)
        await tenant.save(Location("x.account", storage=storage), ACCOUNT)
        assert await tenant.get(Location("x.account")) == ACCOUNT
        assert await store.get(Location("x.account", folder="tenants/a", storage=storage)) == ACCOUNT
        assert tenant.storages == (storage,)
        assert tenant.capabilities() == tenant.capabilities(storage) == store.capabilities(storage)
        assert repr(tenant) == f"<AccountStore {storage}>"


async def test_scopes_nest(store: AccountStore) -> None:
    """A scope of a scope is the folder in the folder, and never wider; the root is a whole storage, and that only."""
    inner = store.scoped("tenants").scoped("a").scoped("team")
    await inner.save(Location("x.account"), ACCOUNT)
    assert await names(store.list(recursive=True)) == ["tenants/a/team/x.account"]
    assert await names(inner.scoped("").list()) == ["x.account"]
    with pytest.raises(LocationError):
        inner.scoped("..")
    with pytest.raises(LocationError):
        store.scoped("tenants").scoped("a", storage="other")
    other = store.scoped("", storage="other")
    await other.save(AT, ACCOUNT)
    assert await store.get(replace(AT, storage="other")) == ACCOUNT
    with pytest.raises(LocationError):
        await other.get(replace(AT, storage="main"))


FOLDER = "/".join(["f" * 200] * 4)
FITS = Location("x" * (1024 - len(FOLDER) - len("/.account")) + ".account")
LONG = Location("x" + FITS.file_name)
"""Allowed in the whole store; in a store that is narrowed to FOLDER it is one byte too long."""


async def test_a_path_may_be_as_long_as_anywhere(store: AccountStore) -> None:
    """Folder and location together may have 1,024 bytes, and no more; that is one result of many, with its event."""
    assert len(f"{FOLDER}/{FITS}") == 1024
    whole = replace(FITS, folder=FOLDER)
    tenant = store.scoped(FOLDER)
    await tenant.save(FITS, ACCOUNT)
    assert await store.get(whole) == ACCOUNT
    for call in (tenant.list, tenant.scoped):
        with pytest.raises(LocationError):
            call("g" * 250)
    events: list[Event] = []
    tenant = store_over({"main": MemoryBackend()}, observer=events.append).scoped(FOLDER)
    results = [result async for _, result in tenant.save_many([(LONG, ACCOUNT), (FITS, ACCOUNT)])]
    assert isinstance(results[0], LocationError)
    assert await tenant.get(FITS) == ACCOUNT
    ends = [(event.location, event.outcome) for event in events]
    assert ends == [(LONG, "LocationError"), (whole, "ok"), (whole, "ok")]


@pytest.mark.parametrize("name", [*SINGLE, *EITHER])
async def test_a_location_that_is_too_long_is_an_error_and_an_event_as_it_was_given(name: str) -> None:
    """Error and event have the location as the caller gave it, for there is none in the whole store; the observer
    changes nothing of the error. The control: the other location of a copy, which fits, is that in the whole store.
    """
    said: list[str] = []
    events: list[Event] = []
    for observer in (None, events.append):
        tenant = store_over({"main": MemoryBackend()}, observer=observer).scoped(FOLDER)
        with raises(LocationError, location=LONG, __class__=LocationError) as caught:
            await EVERY[name](tenant, LONG)
        said.append(str(caught.value))
    assert said[0] == said[1]
    [event] = events
    assert (event.operation, event.storage, event.outcome) == (name.partition(" ")[0], "main", "LocationError")
    source, target = (
        at and (at if at == LONG else replace(at, folder=f"{FOLDER}/{at.folder}")) for at in ends(name, LONG)
    )
    assert (event.location, event.target) == (source, target)


async def test_errors_do_not_show_where_the_folder_is(store: AccountStore) -> None:
    """Errors of a narrowed store carry the location given; message, cause and traceback do not name its folder."""
    tenant = store.scoped("tenants/hidden-canary")
    version = await tenant.save(AT, FULL)
    await tenant.save(AT, ACCOUNT)
    missing = Location("no.account", folder="no")
    failing: list[tuple[Awaitable[object], type[AccountStoreError], Location]] = [
        (tenant.get(missing), NotFoundError, missing),
        (tenant.stat(missing), NotFoundError, missing),
        (tenant.save(AT, ACCOUNT, mode="create"), ExistsError, AT),
        (tenant.save(AT, ACCOUNT, mode=version), ConflictError, AT),
        (tenant.delete(AT, version=version), ConflictError, AT),
        (tenant.copy(missing, AT), NotFoundError, missing),
    ]
    for call, kind, location in failing:
        with raises(kind, location=location) as caught:
            await call
        shown = "".join(traceback.format_exception(caught.value, chain=True)) + repr(caught.value)
        assert "hidden-canary" not in shown


async def test_closing_a_scope_leaves_the_store_open(store: AccountStore) -> None:
    """`aclose` of a narrowed store, or leaving its block, closes nothing; closing the store closes it too."""
    async with store.scoped("tenants/a") as tenant:
        await tenant.save(AT, ACCOUNT)
    await tenant.aclose()
    assert await tenant.get(AT) == ACCOUNT
    await store.save(AT, ACCOUNT)
    await store.aclose()
    with pytest.raises(ClosedError):
        await tenant.get(AT)
    await tenant.aclose()


@pytest.mark.parametrize("name", [None, "main"])
async def test_a_scope_gives_no_filesystem_and_no_usage(store: AccountStore, name: str | None) -> None:
    """`filesystem` would reach outside the folder, and `usage` tell of it: each is an `UnsupportedError`."""
    tenant = store.scoped("tenants/a")
    for call in (tenant.filesystem, tenant.usage):
        with pytest.raises(UnsupportedError, match="a scoped store"):
            await call(name)


@pytest.mark.parametrize("folder", ["", "tenants/a"])
async def test_check_stays_in_the_folder(folder: str) -> None:
    """`check` of a narrowed store writes in its folder only and leaves nothing; that of the store, at the root."""
    written: list[str] = []

    class Keys(MemoryBackend):
        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            written.append(key)
            return await super().write(key, data, mode=mode)

    store = store_over({"main": Keys()})
    assert (await (store.scoped(folder) if folder else store).check()).ok
    assert {key.rpartition("/")[0] for key in written} == {folder}
    assert await names(store.list(recursive=True)) == []


def test_stores_that_are_narrowed_alike_are_equal() -> None:
    """However often a store is narrowed to a folder, it is one store to a dict; to another folder, or of another open
    store, it is another.
    """
    store, other = (store_over({"main": MemoryBackend(), "more": MemoryBackend()}) for _ in range(2))
    alike = {store.scoped("tenants/a"), store.scoped("tenants/a", storage="main"), store.scoped("tenants").scoped("a")}
    assert len(alike) == 1
    assert alike.isdisjoint({store, store.scoped("tenants/b"), store.scoped("tenants/a", storage="more")})
    assert alike.isdisjoint({other.scoped("tenants/a")})
