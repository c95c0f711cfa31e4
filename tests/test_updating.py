"""Read, change, swap, again: `update`, `copy` and `move`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import Recording, drained, raises
from msgspec.structs import replace
from samples import ACCOUNT, AT, ELSEWHERE, FULL, MULTI, MULTI_AT, OAUTH, next_port

from accountstore import Account, AccountStore, Location, StorageConfig, StoreConfig
from accountstore.client import StorageClient
from accountstore.codecs import JSON
from accountstore.errors import ConflictError, DeniedError, EncodeError, ExistsError, LocationError, NotFoundError
from accountstore.scope import Resolver
from accountstore.storages import Storages
from accountstore.store import parts_of
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def holding(*faults: Fault) -> tuple[Recording, AccountStore]:
    """A backend with ACCOUNT at AT, and a store over it."""
    backend = Recording(None, faults, write_tokens=False)
    await backend.put(AT, JSON.encode(ACCOUNT))
    return backend, store_over({"main": backend})


def numbered(port: int, /) -> bytes:
    return JSON.encode(replace(ACCOUNT, port=port))


def before(operation: str, change: Callable[[], Awaitable[object]], /) -> Callable[[str], Awaitable[None]]:
    """What another writer does just before each request of this kind."""

    async def rival(begun: str) -> None:
        if begun == operation:
            await change()

    return rival


async def test_update_changes_and_returns_the_new_document(store: AccountStore) -> None:
    """`update` writes what the function returns, and returns it with its version, size and time."""
    await store.save(AT, ACCOUNT)
    assert (await store.update(AT, next_port)).document == next_port(ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    many = await store.update_multi(MULTI_AT, lambda multi: replace(multi, receive_accounts=[ACCOUNT]))
    assert many == await store.read_multi(MULTI_AT)
    assert many.document.receive_accounts == (ACCOUNT,)


async def test_update_takes_functions_of_every_colour(store: AccountStore) -> None:
    """The change may be a function, a coroutine function, a partial of either, or an object to be called."""

    async def slow(account: Account, step: int = 1) -> Account:
        await anyio.lowlevel.checkpoint()
        return replace(account, port=account.port + step)

    def later(account: Account) -> Awaitable[Account]:
        return slow(account, 100)

    class Step:
        async def __call__(self, account: Account) -> Account:
            return await slow(account)

    await store.save(AT, replace(ACCOUNT, port=1))
    for change in (next_port, slow, partial(slow, step=10), later, Step()):
        await store.update(AT, change)
    assert (await store.get(AT)).port == 1 + 1 + 1 + 10 + 100 + 1


async def test_update_does_not_bring_back_a_document(store: AccountStore) -> None:
    """A document that is removed while the change runs stays removed; of one that is missing nothing is called."""
    await store.save(AT, ACCOUNT)
    called: list[Account] = []

    async def change(account: Account) -> Account:
        called.append(account)
        await store.delete(AT)
        return next_port(account)

    for _ in range(2):
        with raises(NotFoundError, location=AT):
            await store.update(AT, change)
        assert called == [ACCOUNT]
        assert not await store.exists(AT)


@pytest.mark.parametrize("error", [ValueError("mine"), ConflictError("mine"), NotFoundError("mine"), KeyError("mine")])
async def test_an_error_of_the_change_comes_out_as_it_is(store: AccountStore, error: Exception) -> None:
    """What the function raises passes through untouched, is not taken for a lost race, and nothing is written."""
    version = await store.save(AT, ACCOUNT)
    calls: list[Account] = []

    def change(account: Account) -> Account:
        calls.append(account)
        raise error

    with pytest.raises(type(error)) as caught:
        await store.update(AT, change)
    assert caught.value is error
    assert calls == [ACCOUNT]
    assert (await store.stat(AT)).version == version
    assert getattr(error, "location", None) is None


@pytest.mark.parametrize("result", [None, MULTI, {"host": "h"}, "text", replace(ACCOUNT, port=0)], ids=type)
async def test_a_change_that_returns_no_account_writes_nothing(store: AccountStore, result: Any) -> None:
    """A function that returns anything but an account is an `EncodeError`: such as one that forgot its return."""
    version = await store.save(AT, ACCOUNT)
    with raises(EncodeError, location=AT) as caught:
        await store.update(AT, lambda _: result)
    if type(result) is not Account:
        assert f"is not of type Account, but {type(result).__name__}" in str(caught.value)
    assert ("a function that is given to an update" in str(caught.value)) is (result is None)
    with raises(EncodeError, location=AT) as caught:
        await store.save(AT, result)
    assert "update" not in str(caught.value)
    assert (await store.stat(AT)).version == version


async def test_update_holds_no_lock_while_the_change_runs(store: AccountStore) -> None:
    """The function may write the same document; then it runs again on the newer one."""
    await store.save(AT, ACCOUNT)
    seen: list[Account] = []

    async def change(account: Account) -> Account:
        seen.append(account)
        if len(seen) == 1:
            await store.save(AT, FULL)
        return next_port(account)

    stored = await store.update(AT, change)
    assert seen == [ACCOUNT, FULL]
    assert stored.document == next_port(FULL)


async def test_update_gives_up_after_64_attempts(pauses: list[float]) -> None:
    """When others are always faster, `update` tries 64 times with a pause between, and is a `ConflictError`."""
    backend, store = await holding()
    ports: list[int] = []

    def change(account: Account) -> Account:
        ports.append(account.port)
        return OAUTH

    backend.before = before("write", lambda: backend.put(AT, numbered(1000 + len(ports))))
    with raises(ConflictError, location=AT):
        await store.update(AT, change)
    assert backend.log == ["read", "write"] * 64
    assert ports == [993, *range(1001, 1064)]
    assert len(pauses) == 63
    assert 0 <= min(pauses) < max(pauses) <= 0.25
    assert await backend.raw(AT) == numbered(1064)


@pytest.mark.parametrize("call", ["copy", "move"])
async def test_modes_of_copy_and_move_are_about_the_target(store: AccountStore, call: str) -> None:
    """Modes mean the target, and errors name it; the result is the target's new version."""
    run = getattr(store, call)
    await store.save(AT, ACCOUNT)
    old = await store.save(ELSEWHERE, OAUTH)
    new = await store.save(ELSEWHERE, FULL)
    for mode, error in (("create", ExistsError), (old, ConflictError)):
        with raises(error, location=ELSEWHERE):
            await run(AT, ELSEWHERE, mode=mode)
        assert (await store.get(AT), await store.get(ELSEWHERE)) == (ACCOUNT, FULL)
    version = await run(AT, ELSEWHERE, mode=new)
    stored = await store.read(ELSEWHERE)
    assert (stored.document, stored.version) == (ACCOUNT, version)
    assert await store.exists(AT) == (call == "copy")
    missing = Location("missing.account")
    with raises(NotFoundError, location=missing):
        await run(missing, ELSEWHERE)
    assert (await store.stat(ELSEWHERE)).version == version


@pytest.mark.parametrize("call", ["copy", "move"])
@pytest.mark.parametrize("control", [False, True], ids=["", "one storage"])
async def test_the_time_of_one_end_does_not_run_while_the_other_is_asked(
    call: str, control: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two storages each has its own time; within one, both documents share it."""
    passed, given = [0.0], dict[str, float]()

    async def slow(operation: str) -> None:
        passed[0] += 1000 * (operation in {"read", "write"})

    monkeypatch.setattr("accountstore.updating.monotonic", lambda: time.monotonic() + passed[0])
    for method in ("write", "delete"):
        monkeypatch.setattr(StorageClient, method, _noting(getattr(StorageClient, method), given))
    old, new = Recording(), Recording()
    async with store_over({"old": old, "new": new}) as store:
        await store.save(AT, ACCOUNT)
        old.before = new.before = slow
        await getattr(store, call)(AT, replace(AT, file_name="b.account", storage="old" if control else "new"))
    late = [by - time.monotonic() > 500 for by in given.values()]
    assert late == [not control] * (1 if call == "copy" else 2)


async def test_the_targets_time_does_not_run_while_a_removal_at_the_source_conflicts(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """A slow source that has changed when it is removed: the target has its own time left for the second copy."""
    passed, given = [0.0], dict[str, float]()
    monkeypatch.setattr("accountstore.updating.monotonic", lambda: time.monotonic() + passed[0])
    monkeypatch.setattr(StorageClient, "write", _noting(StorageClient.write, given))
    old, new = Recording(), Recording()

    async def change(operation: str) -> None:
        if operation == "delete" and not passed[0]:
            passed[0] = 1000
            await old.put(AT, numbered(7))

    async with store_over({"old": old, "new": new}) as store:
        await store.save(AT, ACCOUNT)
        old.before = change
        await store.move(AT, replace(AT, storage="new"))
    assert len(pauses) == 1
    assert given["write"] - time.monotonic() > 500


def _noting(method: Callable[..., Awaitable[Any]], given: dict[str, float], /) -> Any:
    """A method of the client that notes its deadline."""

    async def noting(client: StorageClient, *arguments: Any) -> Any:
        given[method.__name__] = arguments[-1]
        return await method(client, *arguments)

    return noting


async def test_move_takes_a_change_made_meanwhile_along(pauses: list[float]) -> None:
    """A source that changes between the copy and the removal is copied again: the change is at the target."""
    backend, store = await holding()

    async def change(begun: str) -> None:
        if begun == "delete" and not pauses:
            await backend.put(AT, numbered(7))

    backend.before = change
    await store.move(AT, ELSEWHERE, mode="create")
    assert await backend.raw(ELSEWHERE) == numbered(7)
    assert not await store.exists(AT)
    assert len(pauses) == 1


async def test_move_gives_up_when_the_source_keeps_changing(pauses: list[float]) -> None:
    """After 64 attempts `move` is a `ConflictError` about the source, and both documents stay."""
    backend, store = await holding()
    backend.before = before("delete", lambda: backend.put(AT, numbered(len(backend.log))))
    with raises(ConflictError, location=AT):
        await store.move(AT, ELSEWHERE)
    assert backend.log == ["read", "stat", "write", "delete", *["read", "write", "delete"] * 63]
    assert len(pauses) == 63
    assert await backend.raw(AT) == numbered(193)
    assert await backend.raw(ELSEWHERE) == numbered(190)


async def test_move_does_not_overwrite_a_target_that_changed_meanwhile(pauses: list[float]) -> None:
    """When source and target both change between the steps, `move` is a `ConflictError` and both changes stay."""
    backend, store = await holding()

    async def change() -> None:
        await backend.put(AT, numbered(7))
        await backend.put(ELSEWHERE, numbered(8))

    backend.before = before("delete", change)
    with raises(ConflictError, location=ELSEWHERE):
        await store.move(AT, ELSEWHERE)
    assert await backend.raw(AT) == numbered(7)
    assert await backend.raw(ELSEWHERE) == numbered(8)
    assert len(pauses) == 1


async def test_move_onto_a_storage_without_swap_stops_at_the_first_conflict() -> None:
    """Where the target cannot compare and swap, a source that changed is a `ConflictError`, and both stay."""
    source, _ = await holding()
    target = Recording(create=False, update=False)
    there = replace(ELSEWHERE, storage="plain")
    source.before = before("delete", lambda: source.put(AT, numbered(7)))
    with raises(ConflictError, location=AT):
        await store_over({"main": source, "plain": target}).move(AT, there)
    assert await source.raw(AT) == numbered(7)
    assert await target.raw(there) == JSON.encode(ACCOUNT)
    assert target.log == ["stat", "write"]


async def test_move_from_a_storage_without_swap_removes_what_it_copied() -> None:
    """Where the source cannot compare and swap, `move` copies and removes, without a condition."""
    store = store_over({"plain": Recording(create=False, update=False), "main": Recording()})
    there = replace(ELSEWHERE, storage="main")
    await store.save(AT, ACCOUNT)
    await store.move(AT, there)
    assert await store.get(there) == ACCOUNT
    assert not await store.exists(AT)


async def test_a_move_that_cannot_remove_the_source_loses_nothing() -> None:
    """When the source cannot be removed the error says so, both documents are there, and moving again ends the move."""
    _, store = await holding(Fault("delete", 1, "before", PermissionError()))
    with raises(DeniedError, location=AT):
        await store.move(AT, ELSEWHERE)
    assert await store.get(AT) == await store.get(ELSEWHERE) == ACCOUNT
    await store.move(AT, ELSEWHERE)
    assert [entry.location for entry in await drained(store.list(recursive=True))] == [ELSEWHERE]


def fsspecs(path: str, protocol: str = "file", /) -> StorageConfig:
    return StorageConfig("dir://", {"path": path, "target_protocol": protocol})


SAME: Mapping[str, Callable[[str], tuple[StorageConfig, StorageConfig]]] = {
    "the same folder": lambda folder: (StorageConfig(folder), StorageConfig(folder)),
    "path and URL": lambda folder: (StorageConfig(folder), StorageConfig(f"file://{folder}/")),
    "two schemes": lambda folder: (StorageConfig(folder), StorageConfig(f"local://{folder}")),
    "dots": lambda folder: (StorageConfig(folder), StorageConfig(f"{folder}/../inside")),
    "a symbolic link": lambda folder: (StorageConfig(folder), StorageConfig(f"{folder}/../link")),
    "one root in the other": lambda folder: (StorageConfig(folder), StorageConfig(f"{folder}/deep")),
    "fsspec's own backend": lambda folder: (StorageConfig(folder), fsspecs(folder)),
    "two of fsspec's": lambda folder: (fsspecs(folder), fsspecs(f"{folder}/", "local")),
}
"""Two storages that share a folder."""


@pytest.mark.parametrize("case", SAME)
async def test_a_document_moved_onto_itself_survives(case: str, tmp_path: Path) -> None:
    """However one file is named twice, moving it onto itself does not remove it, in either direction."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inside", target_is_directory=True)
    one, other = SAME[case](str(tmp_path / "inside"))
    here = Location("x.account", folder="deep", storage="a")
    there = replace(here, folder="" if case == "one root in the other" else "deep", storage="b")
    async with AccountStore.open(StoreConfig(storages={"a": one, "b": other}, default="a")) as store:
        for source, target in ((here, there), (there, here), (here, here), (here, replace(here, storage=None))):
            await store.save(here, ACCOUNT)
            for call in (store.move, store.copy):
                try:
                    await call(source, target)
                except LocationError as error:
                    assert error.location is not None
                assert await store.get(here) == await store.get(there) == ACCOUNT


@pytest.mark.parametrize("codecs", [("json", "msgpack"), ("msgpack", "json")], ids="-".join)
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("document", [ACCOUNT, OAUTH], ids=["password", "OAuth"])
async def test_a_move_onto_itself_in_another_codec_leaves_the_codec(
    codecs: tuple[str, str], document: Account, *, tokens: bool
) -> None:
    """Two storages with codecs of their own share a backend: a refused move leaves the document as its source reads it,
    whether the storage tells who wrote it or not.
    """
    backend = Recording(write_tokens=tokens)
    storages = {
        name: parts_of(store_over({name: backend}, codec=codec))[0].storage(None)
        for name, codec in zip(("one", "two"), codecs, strict=True)
    }
    store = AccountStore(Resolver(Storages(storages, "one")))
    await store.save(AT, document)
    with raises(LocationError, location=AT):
        await store.move(AT, replace(AT, storage="two"))
    assert await store.get(AT) == document


@pytest.mark.parametrize("urls", [("memory://", "memory://"), ("{}/a", "{}/b")], ids=["memory", "two folders"])
async def test_control_one_name_in_two_storages_is_two_documents(urls: tuple[str, str], tmp_path: Path) -> None:
    """The control: a document moves between storages that share nothing but the names in them."""
    storages = {name: StorageConfig(url.format(tmp_path)) for name, url in zip("ab", urls, strict=True)}
    async with AccountStore.open(StoreConfig(default="a", storages=storages)) as store:
        await store.save(AT, ACCOUNT)
        await store.move(AT, replace(AT, storage="b"))
        assert await store.get(replace(AT, storage="b")) == ACCOUNT
        assert not await store.exists(AT)
