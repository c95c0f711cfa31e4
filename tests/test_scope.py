"""`scoped`: a store narrowed to one tenant's folder reaches nothing else."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ClosedError,
    ConflictError,
    ExistsError,
    Location,
    LocationError,
    MultiAccount,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    Stored,
    UnsupportedError,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from accountstore.backends.base import Stat, WriteMode

pytestmark = pytest.mark.anyio

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
MULTI = MultiAccount(receive_accounts=[ACCOUNT])
OTHER = msgspec.structs.replace(ACCOUNT, host="other.example.org")
AT = Location("email.account", folder="team")


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with two storages, of which `main` is the default."""
    folder = str(tmp_path / "main")
    main = StorageConfig("memory://" if request.param == "memory" else folder)
    storages = {"main": main, "other": StorageConfig("memory://")}
    async with AccountStore.open(StoreConfig(default="main", storages=storages)) as opened:
        yield opened


async def names(entries: AsyncIterator[Any], /) -> list[str]:
    return sorted([str(entry.location) async for entry in entries])


CALLS: Mapping[str, Callable[[AccountStore, Location], Awaitable[object]]] = {
    "get": lambda store, at: store.get(at),
    "read": lambda store, at: store.read(at),
    "save": lambda store, at: store.save(at, ACCOUNT),
    "update": lambda store, at: store.update(at, lambda account: account),
    "stat": lambda store, at: store.stat(at),
    "exists": lambda store, at: store.exists(at),
    "delete": lambda store, at: store.delete(at),
    "copy from": lambda store, at: store.copy(at, Location("new.account")),
    "copy to": lambda store, at: store.copy(AT, at),
    "move from": lambda store, at: store.move(at, Location("new.account")),
    "move to": lambda store, at: store.move(AT, at),
}


async def test_locations_are_relative_to_the_folder(store: AccountStore) -> None:
    """What a narrowed store saves is below its folder, and what it reads is nowhere else."""
    tenant = store.scoped("tenants/a")
    version = await tenant.save(AT, ACCOUNT)
    await tenant.save_multi(Location("x.multi.account"), MULTI)
    full = Location("email.account", folder="tenants/a/team")
    assert await store.get(full) == await tenant.get(AT) == ACCOUNT
    assert (await store.stat(full)).version == version
    assert await names(store.list(recursive=True)) == ["tenants/a/team/email.account", "tenants/a/x.multi.account"]
    await store.save(AT, OTHER)
    assert await tenant.get(AT) == ACCOUNT
    await tenant.update(AT, lambda account: msgspec.structs.replace(account, port=1))
    assert (await store.get(full)).port == 1
    await tenant.move(AT, Location("moved.account"))
    assert await names(tenant.list(recursive=True)) == ["moved.account", "x.multi.account"]
    assert await store.get(AT) == OTHER


async def test_results_have_the_locations_that_were_given(store: AccountStore) -> None:
    """Entries and results of a narrowed store carry its own locations, which it takes again."""
    tenant = store.scoped("tenants/a")
    await tenant.save(AT, ACCOUNT)
    assert (await tenant.stat(AT)).location == AT
    results = [pair async for pair in tenant.get_many([AT])]
    assert results[0][0] == AT
    assert isinstance(results[0][1], Stored)
    saved = [location async for location, _ in tenant.save_many([(AT, ACCOUNT)])]
    assert saved == [AT]
    assert await names(tenant.list("team")) == ["team/email.account"]
    assert await names(tenant.list("team", storage="main")) == ["main:team/email.account"]


async def test_two_tenants_do_not_meet(store: AccountStore) -> None:
    """Two folders are two worlds, also where the name of one begins like the other's."""
    one, two = store.scoped("tenants/a"), store.scoped("tenants/ab")
    await one.save(AT, ACCOUNT)
    await two.save(AT, OTHER)
    assert (await one.get(AT), await two.get(AT)) == (ACCOUNT, OTHER)
    assert await names(one.list(recursive=True)) == ["team/email.account"]
    await one.delete(AT)
    assert await two.get(AT) == OTHER


@pytest.mark.parametrize("folder", ["..", "../b", "team/../../b", "/b", "./b", "a//b", "~/b", "a\\..\\b", "%2e%2e"])
async def test_no_folder_leads_outside(store: AccountStore, folder: str) -> None:
    """No location, listing or nested scope of a narrowed store reaches a neighbour's folder."""
    await store.save(Location("email.account", folder="tenants/b"), OTHER)
    await store.save(Location("email.account", folder="b"), OTHER)
    tenant = store.scoped("tenants/a")
    seen: list[object] = []
    try:
        seen.append(await tenant.get(Location("email.account", folder=folder)))
    except AccountStoreError as error:
        assert isinstance(error, LocationError | NotFoundError)
    with suppress(LocationError):
        seen.extend(await names(tenant.list(folder, recursive=True)))
    with suppress(LocationError):
        seen.extend(await names(tenant.scoped(folder).list(recursive=True)))
    assert seen == []


async def test_a_link_in_the_folder_does_not_lead_outside(tmp_path: Path) -> None:
    """A symbolic link from one tenant's folder to another's is not followed."""
    storages = {"main": StorageConfig(str(tmp_path))}
    async with AccountStore.open(StoreConfig(storages=storages)) as store:
        await store.save(Location("email.account", folder="tenants/b"), OTHER)
        tenant = store.scoped("tenants/a")
        await tenant.save(Location("own.account"), ACCOUNT)
        os.symlink("../b", tmp_path / "tenants" / "a" / "team", target_is_directory=True)
        os.symlink("../b/email.account", tmp_path / "tenants" / "a" / "link.account")
        for at in (AT, Location("link.account")):
            for call in (tenant.get(at), tenant.save(at, ACCOUNT), tenant.stat(at)):
                with pytest.raises(AccountStoreError):
                    await call
        assert await names(tenant.list(recursive=True)) == ["own.account"]
        assert await store.get(Location("email.account", folder="tenants/b")) == OTHER


@pytest.mark.parametrize("call", CALLS)
async def test_other_storages_are_as_unknown_as_those_that_do_not_exist(store: AccountStore, call: str) -> None:
    """A configured storage out of reach gives the same error as one that is not configured: no tenant can tell."""
    tenant = store.scoped("tenants/a")
    await tenant.save(AT, ACCOUNT)
    await store.save(Location("email.account", folder="tenants/a", storage="other"), OTHER)
    told: list[tuple[object, ...]] = []
    for storage in ("other", "no-such"):
        at = Location("email.account", storage=storage)
        with pytest.raises(LocationError) as caught:
            await CALLS[call](tenant, at)
        assert caught.value.location == at
        told.append((type(caught.value), caught.value.message, caught.value.__cause__, repr(caught.value.__context__)))
    assert told[0] == told[1]


async def test_calls_on_storages_know_only_the_own_one(store: AccountStore) -> None:
    """Listing, capabilities, check and scopes of another storage are refused in the same way as of an unknown one."""
    tenant = store.scoped("tenants/a")
    told: set[str] = set()
    for storage in ("other", "no-such"):
        calls: tuple[Callable[[], object], ...] = (
            partial(tenant.list, storage=storage),
            partial(tenant.capabilities, storage),
            partial(tenant.scoped, "x", storage=storage),
        )
        for call in calls:
            with pytest.raises(LocationError) as caught:
                call()
            told.add(caught.value.message)
        with pytest.raises(LocationError) as caught:
            await tenant.check(storage)
        told.add(caught.value.message)
        for results in (
            [result async for _, result in tenant.get_many([Location("x.account", storage=storage)])],
            [result async for _, result in tenant.save_many([(Location("x.account", storage=storage), ACCOUNT)])],
        ):
            assert isinstance(results[0], LocationError)
            told.add(results[0].message)
    assert len(told) == 1
    assert "other" not in told.pop()


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
    """A scope of a scope is the folder in the folder, and never wider."""
    inner = store.scoped("tenants").scoped("a").scoped("team")
    await inner.save(Location("x.account"), ACCOUNT)
    assert await names(store.list(recursive=True)) == ["tenants/a/team/x.account"]
    assert await names(inner.scoped("").list()) == ["x.account"]
    with pytest.raises(LocationError):
        inner.scoped("..")
    with pytest.raises(LocationError):
        store.scoped("tenants").scoped("a", storage="other")


async def test_the_root_may_be_a_scope(store: AccountStore) -> None:
    """`scoped("")` is a whole storage, and that storage only."""
    tenant = store.scoped("", storage="other")
    await tenant.save(AT, ACCOUNT)
    assert await store.get(msgspec.structs.replace(AT, storage="other")) == ACCOUNT
    with pytest.raises(LocationError):
        await tenant.get(msgspec.structs.replace(AT, storage="main"))


async def test_a_path_may_be_as_long_as_anywhere(store: AccountStore) -> None:
    """Folder and location together may have 1,024 bytes, and one more is a `LocationError` about the location given."""
    folder = "/".join(["f" * 200] * 4)
    tenant = store.scoped(folder)
    fits = Location("x" * (1024 - 803 - 1 - 8) + ".account")
    assert len(f"{folder}/{fits}") == 1024
    await tenant.save(fits, ACCOUNT)
    assert await store.get(Location(fits.file_name, folder=folder)) == ACCOUNT
    long = Location("x" + fits.file_name)
    for call in CALLS:
        with pytest.raises(LocationError) as caught:
            await CALLS[call](tenant, long) if call not in {"copy to", "move to"} else await tenant.copy(fits, long)
        assert caught.value.location == long
    results = [result async for _, result in tenant.get_many([fits, long])]
    assert isinstance(results[0], Stored)
    assert isinstance(results[1], LocationError)
    assert results[1].location == long
    with pytest.raises(LocationError):
        tenant.list("g" * 250)
    with pytest.raises(LocationError):
        tenant.scoped("g" * 250)


async def test_errors_do_not_show_where_the_folder_is(store: AccountStore) -> None:
    """Errors of a narrowed store carry the location given; message, cause and traceback do not name its folder."""
    tenant = store.scoped("tenants/hidden-canary")
    await tenant.save(AT, ACCOUNT)
    version = await tenant.save(AT, OTHER)
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
        with pytest.raises(kind) as caught:
            await call
        assert caught.value.location == location
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


async def test_a_scope_gives_no_filesystem(store: AccountStore) -> None:
    """`filesystem` would reach outside the folder: it is an `UnsupportedError`; of another storage, as unknown."""
    tenant = store.scoped("tenants/a")
    for name in (None, "main"):
        with pytest.raises(UnsupportedError):
            await tenant.filesystem(name)
    with pytest.raises(LocationError):
        await tenant.filesystem("other")


class Keys(MemoryBackend):
    """Keeps the keys of what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self.written.append(key)
        return await super().write(key, data, mode=mode)


async def test_check_stays_in_the_folder() -> None:
    """`check` of a narrowed store writes in its folder only and leaves nothing; that of the store, at the root."""
    backend = Keys()
    store = store_over({"main": backend})
    assert (await store.scoped("tenants/a").check()).ok
    assert {key.rpartition("/")[0] for key in backend.written} == {"tenants/a"}
    assert await names(store.list(recursive=True)) == []
    backend.written.clear()
    assert (await store.check()).ok
    assert {key.rpartition("/")[0] for key in backend.written} == {""}


@pytest.mark.parametrize(
    "folder", ["/", "a/", "/a", "..", "a/../b", "a\\b", "x.account", "*", "a:b", "\x00", "a" * 256]
)
async def test_a_folder_that_is_not_allowed_is_refused(store: AccountStore, folder: str) -> None:
    """A scope on a folder that no location could name is a `LocationError`."""
    with pytest.raises(LocationError):
        store.scoped(folder)
