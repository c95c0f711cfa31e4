"""The facade: what each call of `AccountStore` promises, on memory and on a local folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from doubles import Recording, drained
from msgspec.structs import replace
from samples import ACCOUNT, AT, ELSEWHERE, FULL, MULTI, MULTI_AT, OAUTH, next_port

from accountstore import (
    AccountStore,
    ConflictError,
    ExistsError,
    Location,
    LocationError,
    NotFoundError,
    StorageConfig,
    StoreConfig,
)
from accountstore.backends.base import digest
from accountstore.codecs import JSON
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from accountstore import Account, Version
    from accountstore.backends.base import WriteMode
    from accountstore.model import Document

pytestmark = pytest.mark.anyio

SAVES: Mapping[str, Callable[[AccountStore, Account, WriteMode], Awaitable[Version]]] = {
    "save": lambda store, account, mode: store.save(AT, account, mode=mode),
    "save_json": lambda store, account, mode: store.save_json(AT, JSON.encode(account), mode=mode),
}
each_save = pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)


# --- saving and getting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "document", "kind"),
    [(AT, FULL, ""), (AT, OAUTH, ""), (MULTI_AT, MULTI, "_multi")],
    ids=["password", "oauth", "multi"],
)
async def test_what_was_saved_is_read(store: Any, location: Location, document: Document, kind: str) -> None:
    """`get` and `read` return a document equal to the saved one, and `read` its version, size and time."""
    version = await getattr(store, f"save{kind}")(location, document)
    assert await getattr(store, f"get{kind}")(location) == document
    stored = await getattr(store, f"read{kind}")(location)
    assert (stored.document, stored.version) == (document, version)
    entry = await store.stat(location)
    assert (entry.location, entry.size, entry.version) == (location, stored.size, version)
    assert stored.size > 0
    assert stored.modified.tzinfo is not None
    assert entry.modified == stored.modified


@pytest.mark.parametrize("call", ["get", "read", "read_json", "stat"])
async def test_a_missing_document_is_not_found(store: AccountStore, call: str) -> None:
    """Reading a document that is not there is a `NotFoundError` with its location; in a missing folder too."""
    await store.save(Location("other.account", folder="mail"), ACCOUNT)
    for missing in (AT, replace(AT, folder="mail"), replace(AT, folder="no/such/folder")):
        with pytest.raises(NotFoundError) as caught:
            await getattr(store, call)(missing)
        assert caught.value.location == missing


async def test_exists_finds_documents_of_either_kind(store: AccountStore) -> None:
    """`exists` is true of what was saved and false of anything else."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    assert await store.exists(AT)
    assert await store.exists(MULTI_AT)
    assert not await store.exists(ELSEWHERE)
    assert not await store.exists(replace(AT, folder=""))


async def test_one_document_may_be_named_with_and_without_the_default_storage(store: AccountStore) -> None:
    """A location without a storage means the default one."""
    await store.save(AT, ACCOUNT)
    assert await store.get(replace(AT, storage="main")) == ACCOUNT


async def test_an_unknown_storage_is_a_location_error(store: AccountStore) -> None:
    """A storage that is not configured is a `LocationError`, with the location where there is one."""
    unknown = replace(AT, storage="mian")
    with pytest.raises(LocationError) as caught:
        await store.get(unknown)
    assert caught.value.location == unknown
    with pytest.raises(LocationError):
        store.capabilities("mian")
    with pytest.raises(LocationError):
        store.scoped("mail", storage="mian")
    with pytest.raises(LocationError):
        store.list("mail", storage="mian")
    for request in (store.check, store.filesystem):
        with pytest.raises(LocationError):
            await request("mian")


# --- modes ------------------------------------------------------------------------------------------------------------


@each_save
async def test_create_refuses_a_document_that_is_there(store: AccountStore, save: Any) -> None:
    """`mode="create"` writes where nothing is, and is an `ExistsError` where something is, which stays."""
    await save(store, ACCOUNT, "create")
    with pytest.raises(ExistsError) as caught:
        await save(store, OAUTH, "create")
    assert caught.value.location == AT
    assert await store.get(AT) == ACCOUNT


@each_save
async def test_a_version_writes_only_over_itself(store: AccountStore, save: Any) -> None:
    """A `Version` as mode writes over that version, and is a `ConflictError` over any other, which stays."""
    first = await save(store, ACCOUNT, "overwrite")
    second = await save(store, OAUTH, first)
    with pytest.raises(ConflictError) as caught:
        await save(store, ACCOUNT, first)
    assert caught.value.location == AT
    assert await store.get(AT) == OAUTH
    assert (await store.stat(AT)).version == second


@each_save
async def test_a_version_of_a_document_that_is_gone_writes_nothing(store: AccountStore, save: Any) -> None:
    """A `Version` as mode is a `NotFoundError` where the document was removed, and does not bring it back."""
    version = await save(store, ACCOUNT, "overwrite")
    await store.delete(AT)
    with pytest.raises(NotFoundError):
        await save(store, ACCOUNT, version)
    assert not await store.exists(AT)


@pytest.mark.parametrize("mode", ["Create", "creat", "replace", "", None, 1, b"create", True, []], ids=repr)
async def test_an_invalid_mode_writes_nothing(store: AccountStore, mode: Any) -> None:
    """A mode that is none, such as a misspelt one, is a `ValueError`; it does not overwrite."""
    await store.save(AT, ACCOUNT)
    for call in (
        SAVES["save"](store, OAUTH, mode),
        SAVES["save_json"](store, OAUTH, mode),
        store.save_multi(MULTI_AT, MULTI, mode=mode),
        store.copy(AT, ELSEWHERE, mode=mode),
        store.move(AT, ELSEWHERE, mode=mode),
    ):
        with pytest.raises(ValueError, match="mode must be"):
            await call
    with pytest.raises(ValueError, match="mode must be"):
        await drained(store.save_many([(AT, OAUTH)], mode=mode))
    assert await store.get(AT) == ACCOUNT
    assert [entry.location async for entry in store.list(recursive=True)] == [AT]


# --- delete -----------------------------------------------------------------------------------------------------------


async def test_delete_removes_and_takes_a_missing_document(store: AccountStore) -> None:
    """`delete` removes a document of either kind; of a missing one, also in a missing folder, it is no error."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    await store.delete(AT)
    await store.delete(AT)
    assert not await store.exists(AT)
    await store.delete(MULTI_AT)
    assert not await store.exists(MULTI_AT)
    await store.delete(Location("x.account", folder="no/such/folder"))


async def test_delete_of_a_version_spares_any_other(store: AccountStore) -> None:
    """`delete` with a version removes that version only; of a missing document it is no error."""
    old = await store.save(AT, ACCOUNT)
    new = await store.save(AT, OAUTH)
    with pytest.raises(ConflictError) as caught:
        await store.delete(AT, version=old)
    assert caught.value.location == AT
    assert await store.get(AT) == OAUTH
    await store.delete(AT, version=new)
    assert not await store.exists(AT)
    await store.delete(AT, version=new)


# --- requests ---------------------------------------------------------------------------------------------------------

VERSION = digest(JSON.encode(ACCOUNT))

REQUESTS: Mapping[str, tuple[Callable[[AccountStore], Awaitable[object]], list[str]]] = {
    "get": (lambda store: store.get(AT), ["read"]),
    "get_multi": (lambda store: store.get_multi(MULTI_AT), ["read"]),
    "read": (lambda store: store.read(AT), ["read"]),
    "read_multi": (lambda store: store.read_multi(MULTI_AT), ["read"]),
    "read_json": (lambda store: store.read_json(AT), ["read"]),
    "save": (lambda store: store.save(AT, OAUTH), ["write"]),
    "save_multi": (lambda store: store.save_multi(MULTI_AT, MULTI), ["write"]),
    "save_json": (lambda store: store.save_json(AT, JSON.encode(OAUTH)), ["write"]),
    "create": (lambda store: store.save(ELSEWHERE, ACCOUNT, mode="create"), ["write"]),
    "create of JSON": (lambda store: store.save_json(ELSEWHERE, JSON.encode(OAUTH), mode="create"), ["write"]),
    "swap": (lambda store: store.save(AT, OAUTH, mode=VERSION), ["write"]),
    "update": (lambda store: store.update(AT, next_port), ["read", "write"]),
    "update_multi": (
        lambda store: store.update_multi(MULTI_AT, lambda multi: replace(multi, send_account=None)),
        ["read", "write"],
    ),
    "update that changes nothing": (lambda store: store.update(AT, lambda account: account), ["read"]),
    "stat": (lambda store: store.stat(AT), ["stat"]),
    "exists": (lambda store: store.exists(AT), ["stat"]),
    "not exists": (lambda store: store.exists(ELSEWHERE), ["stat"]),
    "delete": (lambda store: store.delete(AT), ["delete"]),
    "delete of nothing": (lambda store: store.delete(ELSEWHERE), ["delete"]),
    "delete of a version": (lambda store: store.delete(AT, version=VERSION), ["delete"]),
    "copy": (lambda store: store.copy(AT, ELSEWHERE), ["read", "write"]),
    "move": (lambda store: store.move(AT, ELSEWHERE), ["read", "write", "delete"]),
    "scoped get": (lambda store: store.scoped("mail").get(Location("email.account", folder="team-a")), ["read"]),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_of_each_call(name: str) -> None:
    """Each call makes just the requests that the design counts."""
    backend = Recording()
    store = store_over({"main": backend})
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    backend.log.clear()
    run, requests = REQUESTS[name]
    await run(store)
    assert backend.log == requests


# --- storages ---------------------------------------------------------------------------------------------------------


async def test_storages_have_the_default_first() -> None:
    """`storages` has all names, the default one first and the others as configured; so has `repr`."""
    names = ("one", "two", "three")
    config = StoreConfig(default="two", storages={name: StorageConfig("memory://") for name in names})
    async with AccountStore.open(config) as store:
        assert store.storages == ("two", "one", "three")
        assert repr(store) == "<AccountStore two, one, three>"


async def test_capabilities_are_the_backends(tmp_path: Path) -> None:
    """`capabilities` says what each storage promises, of the default one without a name."""
    storages = {
        "main": StorageConfig(str(tmp_path)),
        "memory": StorageConfig("memory://"),
        "plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"}),
    }
    async with AccountStore.open(StoreConfig(default="main", storages=storages)) as store:
        local, memory, plain = (store.capabilities(name) for name in ("main", "memory", "plain"))
        assert store.capabilities() == local
    assert (local.create, local.update, local.atomic, local.durable) == (True, True, True, True)
    assert (memory.create, memory.update, memory.atomic, memory.durable) == (True, True, True, False)
    assert (plain.create, plain.update, plain.atomic, plain.durable) == (False, False, False, False)


async def test_filesystem_reaches_the_same_files(store: AccountStore) -> None:
    """`filesystem` gives an fsspec filesystem and the root in it, under which the documents are."""
    await store.save(AT, ACCOUNT)
    filesystem, root = await store.filesystem()
    path = f"{root.rstrip('/')}/{AT.path}"

    def edit() -> bytes:
        data = cast("bytes", filesystem.cat_file(path))
        filesystem.pipe_file(path, data.replace(b"imap.example.org", b"imap.example.net"))
        return data

    assert json.loads(await anyio.to_thread.run_sync(edit))["port"] == 993
    assert (await store.get(AT)).host == "imap.example.net"


# --- sharing ----------------------------------------------------------------------------------------------------------


async def test_one_store_serves_many_tasks(store: AccountStore) -> None:
    """Tasks that share a store do not disturb one another."""

    async def work(number: int) -> None:
        at = Location(f"{number}.account", folder=f"folder-{number % 3}")
        account = replace(ACCOUNT, port=number + 1)
        await store.save(at, account, mode="create")
        assert await store.get(at) == account
        await store.update(at, lambda before: replace(before, host=f"host-{number}"))
        await store.move(at, replace(at, folder="moved"))

    async with anyio.create_task_group() as tasks:
        for number in range(24):
            tasks.start_soon(work, number)
    found = {e.location.path: await store.get(e.location) async for e in store.list(recursive=True)}
    assert found == {
        f"moved/{number}.account": replace(ACCOUNT, port=number + 1, host=f"host-{number}") for number in range(24)
    }
