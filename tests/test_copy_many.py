"""`copy_many`: results in order, modes, proof, unknown fields, and retries in its events."""

from __future__ import annotations

from hashlib import md5
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import BatchMemory, Recording, drained
from msgspec.structs import replace
from samples import ACCOUNT, AT, MULTI, RICH

from accountstore import (
    AccountStore,
    BackendError,
    ConflictError,
    Copied,
    DecodeError,
    Event,
    ExistsError,
    ExtensionError,
    Location,
    LocationError,
    NotFoundError,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    UnsupportedError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from accountstore.backends.base import Stat

pytestmark = pytest.mark.anyio


def at(number: int, /, storage: str = "Old") -> Location:
    return Location(f"{number:04}.account", folder=f"folder-{number % 3}", storage=storage)


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """Two storages, JSON and MessagePack, with 30 documents in one."""
    urls = ["memory://"] * 2 if request.param == "memory" else [f"{tmp_path}/{end}" for end in ("old", "new")]
    storages = {"Old": StorageConfig(urls[0]), "New": StorageConfig(urls[1], codec="msgpack")}
    async with AccountStore.open(StoreConfig(storages=storages, default="Old")) as opened:
        for number in range(30):
            await opened.save(at(number), replace(ACCOUNT, port=number + 1))
        yield opened


async def copied(store: AccountStore, copies: Any, /, **options: Any) -> list[Any]:
    return [result for _, result in await drained(store.copy_many(copies, **options))]


@pytest.mark.parametrize("verify", ["none", "write", "read"])
async def test_each_copy_has_its_versions(store: AccountStore, verify: Any) -> None:
    """Results come in the order of the copies, each with the versions of both ends; verified where asked for."""
    pairs = [(at(number), at(number, "New")) for number in range(30)]
    told = await drained(store.copy_many(pairs, verify=verify))
    assert [location for location, _ in told] == [source for source, _ in pairs]
    for (source, target), (_, result) in zip(pairs, told, strict=True):
        there = await store.read(target)
        assert result == Copied((await store.read(source)).version, there.version, there.size, verify != "none")
        assert there.document == await store.get(source)


async def test_fields_that_are_not_known_come_along(store: AccountStore) -> None:
    """A copy has the whole document, in the target's codec."""
    await store.save_json(AT, RICH)
    [result] = await copied(store, [(AT, at(0, "New"))], verify="read")
    assert result.verified
    assert b'"deep":[1,2.5]' in (await store.read_json(at(0, "New"))).document


async def test_modes_and_errors_are_each_copys_own(store: AccountStore, tmp_path: Path) -> None:
    """Each copy has its mode, and each error is that copy's result, about the end that it is about."""
    there = await store.save(at(1, "New"), ACCOUNT)
    await store.save(at(2, "New"), ACCOUNT)
    missing, multi = Location("x.account", storage="Old"), Location("x.multi.account", storage="New")
    results = await copied(
        store,
        [
            (at(0), at(0, "New"), "create"),
            (at(1), at(1, "New"), there),
            (at(2), at(2, "New"), "create"),
            (at(3), at(2, "New"), Version("stale")),
            (missing, at(4, "New")),
            (at(5), at(5)),
            (at(6), multi),
            (at(7), at(7, "Nowhere")),
            (at(8), at(8, "New"), "overwrite"),
        ],
    )
    kinds = [Copied, Copied, ExistsError, ConflictError, NotFoundError]
    kinds += [LocationError, ExtensionError, LocationError, Copied]
    assert [type(result) for result in results] == kinds
    about = [getattr(result, "location", None) for result in results]
    assert about == [None, None, *[at(2, "New")] * 2, missing, at(5), multi, at(7, "Nowhere"), None]


@pytest.mark.parametrize("copies", [[AT], [(AT,)], [(AT, "x")], ["xy"], [(AT, AT, "create", 1)], [None]], ids=str)
async def test_what_is_no_copy_is_refused(store: AccountStore, copies: Any) -> None:
    """Anything but pairs of locations is a TypeError, which says in public names what is taken."""
    with pytest.raises(TypeError, match=r"\(source, target\) or \(source, target, mode\)|is a Location"):
        await copied(store, copies)


async def test_what_is_no_mode_or_proof_is_refused(store: AccountStore) -> None:
    """A misspelt mode must not overwrite, nor a misspelt proof leave out one."""
    with pytest.raises(ValueError, match="mode"):
        await copied(store, [(at(0), at(0, "New"), "creat")])
    with pytest.raises(ValueError, match="verify"):
        await copied(store, [], verify="reed")
    with pytest.raises(ValueError, match="concurrency"):
        await copied(store, [], concurrency=0)


async def test_what_cannot_be_copied_is_left() -> None:
    """A document that is none, or that is larger than allowed, is an error, and nothing is written."""
    old = MemoryBackend()
    async with store_over({"Old": old, "New": MemoryBackend()}, max_bytes=400) as store:
        for name, data in {"broken": b"{", "large": RICH + b" " * 400, "fits": RICH}.items():
            await old.write(f"{name}.account", data, mode="overwrite")
        pairs = [
            (Location(f"{name}.account"), at(place, "New")) for place, name in enumerate(("broken", "large", "fits"))
        ]
        assert [type(result) for result in await copied(store, pairs)] == [DecodeError, TooLargeError, Copied]
        assert [await store.exists(target) for _, target in pairs] == [False, False, True]


@pytest.mark.parametrize("batch", [1, 4, 100])
async def test_sources_are_read_together_for_a_batch_of_the_target(batch: int) -> None:
    """As many sources are read at a time as `concurrency` says, also where the target takes many documents at once."""
    old = Recording()
    counts = [0, 0]  # of reads under way: at present, and at most

    async def counted(operation: str) -> None:
        if operation == "read":
            counts[0] += 1
            counts[1] = max(counts)
            await anyio.wait_all_tasks_blocked()
            counts[0] -= 1

    async with store_over({"Old": old, "New": BatchMemory(batch)}) as store:
        for number in range(8):
            await store.save(at(number), ACCOUNT)
        old.before = counted
        results = await copied(store, [(at(number), at(number, "New")) for number in range(8)], concurrency=8)
        assert all(isinstance(result, Copied) for result in results)
        assert counts == [0, 8]


class Etags(MemoryBackend):
    """Answers a write with the MD5 of what it got, as S3 does, and counts reads."""

    reads = 0

    async def write(self, key: str, data: bytes, /, *, mode: Any, write_token: str = "") -> Stat:
        stat = await super().write(key, data, mode=mode, write_token=write_token)
        return replace(stat, version=Version(f'"{md5(self.kept(data)).hexdigest()}"'))

    def kept(self, data: bytes, /) -> bytes:
        return data

    async def read(self, key: str, /, *, limit: int) -> Any:
        self.reads += 1
        return await super().read(key, limit=limit)


class Encrypting(Etags):
    """Answers another tag, as S3 does where a key service encrypts."""

    def kept(self, data: bytes, /) -> bytes:
        return b"encrypted" + data


@pytest.mark.parametrize(("backend", "reads"), [(Etags, 0), (Encrypting, 1), (MemoryBackend, None)])
async def test_the_storages_own_digest_is_proof(backend: type[MemoryBackend], reads: int | None) -> None:
    """With `verify="write"` a version that is the MD5 of the bytes spares the reading back; any other does not."""
    new = backend()
    async with store_over({"Old": MemoryBackend(), "New": new}) as store:
        await store.save(at(0), ACCOUNT)
        [result] = await copied(store, [(at(0), at(0, "New"))], verify="write")
        if isinstance(new, Encrypting):
            assert not result.verified  # the tag that it reads is another one yet
        else:
            assert result.verified
        assert reads is None or new.reads == reads  # type: ignore[attr-defined]  # of Etags


class Damaging(MemoryBackend):
    """Returns other bytes than it was given, under the same version."""

    async def read(self, key: str, /, *, limit: int) -> Any:
        from accountstore.backends.base import Blob

        blob = await super().read(key, limit=limit)
        return Blob(blob.data.replace(b"993", b"994"), blob.stat)


async def test_damage_is_found() -> None:
    """What is read back is compared, whole: a document that differs is an error of the target."""
    async with store_over({"Old": MemoryBackend(), "New": Damaging()}) as store:
        await store.save(at(0), ACCOUNT)
        [result] = await copied(store, [(at(0), at(0, "New"))], verify="read")
        assert isinstance(result, BackendError)
        assert result.location == at(0, "New")
        assert "not what was written" in str(result)


async def test_a_target_without_conditions_refuses_them() -> None:
    """A conditional copy to a storage that has no conditions is that copy's error."""
    async with store_over({"Old": MemoryBackend(), "New": Recording(None, (), create=False, update=False)}) as store:
        await store.save(at(0), ACCOUNT)
        results = await copied(store, [(at(0), at(0, "New"), "create"), (at(0), at(0, "New"))])
        assert [type(result) for result in results] == [UnsupportedError, Copied]


@pytest.mark.parametrize("batch", [1, 7])
async def test_an_endless_input_is_taken_window_by_window(batch: int) -> None:
    """No more copies are taken than the window under way holds."""
    taken = 0

    def endless() -> Iterator[tuple[Location, Location]]:
        nonlocal taken
        for number in count():
            taken += 1
            yield at(number), at(number, "New")

    async with store_over({"Old": BatchMemory(batch), "New": BatchMemory(batch)}) as store:
        results = store.copy_many(endless(), concurrency=2)
        assert taken == 0
        for number in range(100):
            location, result = await anext(results)
            assert (location, type(result)) == (at(number), NotFoundError)
            assert number < taken <= number + 1 + 2 * max(8, batch)


async def test_a_cancelled_window_is_copied_again(store: AccountStore) -> None:
    """A wait that is cancelled leaves no copy out: the next one goes on with the window."""
    results = store.copy_many([(at(number), at(number, "New")) for number in range(30)], verify="read")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(results)
    assert scope.cancelled_caught
    told = await drained(results)
    assert [location for location, _ in told] == [at(number) for number in range(30)]
    assert {type(result) for _, result in told} == {Copied}


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("call", ["get_many", "save_many", "copy_many", "get", "save"])
async def test_events_tell_retries(call: str, batch: int) -> None:
    """An event names the storage of each request that was made again, and of no other; of a batch, on each document."""
    operation: Any = ("write" if "save" in call else "read") + ("_many" if batch > 1 and call.endswith("_many") else "")
    below = BatchMemory(batch)
    busy = FaultyBackend(below, [Fault(operation, nth, error=ConnectionRefusedError()) for nth in (2, 3)])
    events: list[Event] = []
    async with store_over({"Old": busy, "New": MemoryBackend()}, attempts=4, observer=events.append) as store:
        for number in range(2):
            await below.write(at(number).path, JSON.encode(ACCOUNT), mode="overwrite")  # fmt: skip
        for _ in range(2):
            match call:
                case "get":
                    await store.get(at(0))
                case "save":
                    await store.save(at(0), ACCOUNT)
                case "get_many":
                    await drained(store.get_many([at(0)]))
                case "save_many":
                    await drained(store.save_many([(at(0), ACCOUNT)]))
                case _:
                    await drained(store.copy_many([(at(0), at(0, "New"))]))
    assert [event.operation for event in events] == [call] * 2
    if operation == "write_many":  # a document of a batch is written again by itself
        assert [event.retries for event in events] == [(), ()]
    else:
        assert [event.retries for event in events] == [(), ("Old", "Old")]


async def test_a_retry_is_told_of_its_own_operation(pauses: list[float]) -> None:
    """Operations at the same time do not tell one another's retries."""
    busy = FaultyBackend(MemoryBackend(), [Fault("read", 1, error=ConnectionRefusedError())])
    events: list[Event] = []
    async with store_over({"Old": busy, "New": MemoryBackend()}, attempts=4, observer=events.append) as store:
        for location in (at(0), at(0, "New")):
            await store.save(location, ACCOUNT)
        events.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.get, at(0))
            tasks.start_soon(store.get, at(0, "New"))
    assert {event.storage: event.retries for event in events} == {"Old": ("Old",), "New": ()}
    assert len(pauses) == 1


async def test_a_multi_account_is_copied(store: AccountStore) -> None:
    """Either kind of document is copied."""
    source, target = (Location("m.multi.account", storage=name) for name in ("Old", "New"))
    await store.save_multi(source, MULTI)
    [result] = await copied(store, [(source, target)])
    assert isinstance(result, Copied)
    assert await store.get_multi(target) == MULTI
