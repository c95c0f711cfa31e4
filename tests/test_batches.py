"""`get_many` and `save_many`: order, errors, bounds, and what is left when a loop is broken off."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from anyio import get_running_tasks
from msgspec.structs import replace

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    DecodeError,
    EncodeError,
    ExistsError,
    ExtensionError,
    Location,
    LocationError,
    MultiAccount,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    Stored,
    UnavailableError,
    UncertainError,
    Version,
)
from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import Blob, Capabilities, Stat
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import CODECS
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from accountstore.backends.base import Write, WriteMode
    from accountstore.model import Document

pytestmark = pytest.mark.anyio

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
MULTI = MultiAccount(receive_accounts=[ACCOUNT])


def at(number: int, /, storage: str | None = None) -> Location:
    return Location(f"{number:04}.account", folder=f"folder-{number % 3}", storage=storage)


def numbered(number: int, /) -> Account:
    return replace(ACCOUNT, port=number + 1)


class Busy(MemoryBackend):
    """A memory backend that counts its batches, what is under way, and may take or fail a batch as a whole.

    Where a batch is one document, `read` and `write` are what counts, and the others are not to be called.
    """

    def __init__(self, *, batch: int = 1, error: Exception | None = None, steps: int = 3) -> None:
        super().__init__()
        self.batch = batch
        self.error = error
        self.steps = steps
        self.keys: list[list[str]] = []
        self.under_way = self.most = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create=True, update=True, atomic=True, durable=False, batch=self.batch)

    @property
    def batches(self) -> list[int]:
        return list(map(len, self.keys))

    async def _take(self, keys: list[str], /) -> None:
        self.keys.append(keys)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(self.steps):
                await anyio.sleep(0)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error

    async def read(self, key: str, /, *, limit: int) -> Blob:
        if self.batch == 1:
            await self._take([key])
        return await super().read(key, limit=limit)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        assert self.batch > 1
        await self._take(list(keys))
        return await super().read_many(keys, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if self.batch == 1:
            await self._take([key])
        return await super().write(key, data, mode=mode)

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        assert self.batch > 1
        await self._take([write.key for write in writes])
        return await super().write_many(writes)


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with one storage, in memory or in a folder."""
    url = "memory://" if request.param == "memory" else f"file://{tmp_path}"
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(url)})) as opened:
        yield opened


async def fill(store: AccountStore, numbers: range, /, storage: str | None = None) -> None:
    async for _, version in store.save_many((at(number, storage), numbered(number)) for number in numbers):
        assert isinstance(version, Version)


# --- results ----------------------------------------------------------------------------------------------------------


async def test_results_come_in_the_order_asked_for(store: AccountStore) -> None:
    """Each location comes with its own version and document, in the order given, over several windows."""
    order = [number * 37 % 1500 for number in range(1500)]
    saved = [pair async for pair in store.save_many((at(number), numbered(number)) for number in order)]
    assert [location for location, _ in saved] == [at(number) for number in order]
    versions = {location: version for location, version in saved if isinstance(version, Version)}
    order.reverse()
    read = [pair async for pair in store.get_many(at(number) for number in order)]
    assert [location for location, _ in read] == [at(number) for number in order]
    for number, (location, stored) in zip(order, read, strict=True):
        assert isinstance(stored, Stored)
        assert (stored.document, stored.version) == (numbered(number), versions[location])
        assert stored.size > 0
    assert read[0][1] == await store.read(at(order[0]))


async def test_each_document_has_its_own_error(store: AccountStore) -> None:
    """Missing, misnamed and wrong documents are errors among the results, with their locations; others are done."""
    there, refused = at(0), Location("x.txt")
    documents: list[tuple[Location, Document]] = [
        (there, ACCOUNT),
        (refused, ACCOUNT),
        (at(1), MULTI),
        (at(2), replace(ACCOUNT, port=0)),
        (at(3, "unknown"), ACCOUNT),
        (Location("x.multi.account"), MULTI),
        (at(4), cast("Any", None)),
    ]
    saved = [pair async for pair in store.save_many(documents)]
    assert [location for location, _ in saved] == [location for location, _ in documents]
    kinds = [Version, ExtensionError, EncodeError, EncodeError, LocationError, Version, EncodeError]
    assert [type(result) for _, result in saved] == kinds
    read = [pair async for pair in store.get_many(location for location, _ in documents)]
    kinds = [Stored, ExtensionError, NotFoundError, NotFoundError, LocationError, Stored, NotFoundError]
    assert [type(result) for _, result in read] == kinds
    for location, result in (*saved, *read):
        if isinstance(result, AccountStoreError):
            assert result.location == location
    again = [pair async for pair in store.save_many([(there, ACCOUNT), (at(5), ACCOUNT)], mode="create")]
    assert [type(result) for _, result in again] == [ExistsError, Version]


async def test_a_broken_document_does_not_stop_the_others() -> None:
    """A document that cannot be decoded is a `DecodeError` among the results."""
    backend = MemoryBackend()
    store = store_over({"main": backend})
    await fill(store, range(3))
    await backend.write(at(1).path, b"canary", mode="overwrite")
    results = [result async for _, result in store.get_many(map(at, range(3)))]
    assert [type(result) for result in results] == [Stored, DecodeError, Stored]
    assert isinstance(results[1], DecodeError)
    assert results[1].location == at(1)


async def test_storages_codecs_and_kinds_may_be_mixed(tmp_path: Path) -> None:
    """One call may name several storages, codecs and both kinds of documents; the order stays."""
    storages = {
        "memory": StorageConfig("memory://"),
        "local": StorageConfig(str(tmp_path / "local"), codec="msgpack"),
        "plain": StorageConfig("dir://", {"path": str(tmp_path / "plain"), "target_protocol": "file"}),
    }
    (tmp_path / "plain").mkdir()
    names = [None, "memory", "local", "plain", "nowhere"]
    async with AccountStore.open(StoreConfig(default="memory", storages=storages)) as store:
        documents: list[tuple[Location, Document]] = []
        for number in range(100):
            name = names[number % 5]
            if number % 2:
                documents.append((at(number, name), numbered(number)))
            else:
                documents.append((Location(f"{number}.multi.account", storage=name), MULTI))
        saved = [pair async for pair in store.save_many(documents)]
        read = [pair async for pair in store.get_many(location for location, _ in documents)]
    for (location, document), (saved_at, version), (read_at, stored) in zip(documents, saved, read, strict=True):
        assert location == saved_at == read_at
        if location.storage == "nowhere":
            assert isinstance(version, LocationError)
            assert isinstance(stored, LocationError)
        else:
            assert isinstance(stored, Stored)
            assert (stored.document, stored.version) == (document, version)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("error", "read_as", "saved_as"),
    [
        (ConnectionResetError(), UnavailableError, UncertainError),
        (ConnectionRefusedError(), UnavailableError, UnavailableError),
        (UnavailableError("the folder is gone"), UnavailableError, UncertainError),
        (UnavailableError("the folder is gone", sent=False), UnavailableError, UnavailableError),
        (NotFoundError("there is no such bucket"), NotFoundError, NotFoundError),
        (RuntimeError("canary"), BackendError, BackendError),
        (ExceptionGroup("canary", [ValueError("canary")]), BackendError, BackendError),
    ],
    ids=["oserror", "oserror, not sent", "ours", "ours, not sent", "not found", "other", "group"],
)
async def test_a_batch_that_fails_as_a_whole_is_an_error_of_each_document(
    error: Exception, read_as: type[BackendError], saved_as: type[BackendError], batch: int
) -> None:
    """When a whole batch fails, each of its documents has an error of its own, with its own location; of a write that
    may have been made, that nobody knows.
    """
    good, bad = Busy(), Busy(batch=batch, error=error)
    store = store_over({"good": good, "bad": bad})
    locations = [at(number, "bad" if number % 2 else "good") for number in range(20)]
    saved = [pair async for pair in store.save_many((location, ACCOUNT) for location in locations)]
    read = [pair async for pair in store.get_many(locations)]
    for pairs, kind in ((saved, saved_as), (read, read_as)):
        for wanted, (location, result) in zip(locations, pairs, strict=True):
            assert location == wanted
            if location.storage == "bad":
                assert isinstance(result, kind)
                assert (type(result), result.location) == (kind, location)
                assert "canary" not in str(result)
                assert str(result).count("nobody knows") == (kind is UncertainError)
            else:
                assert isinstance(result, Version | Stored)
    assert sorted(bad.batches) == ([1] * 20 if batch == 1 else [2, 2, 4, 4, 4, 4])


# --- attempts ---------------------------------------------------------------------------------------------------------


class Flaky(MemoryBackend):
    """Fails for a while with each document, whether in a batch or by itself."""

    def __init__(self, batch: int, failures: int, error: type[ConnectionError] = ConnectionResetError, /) -> None:
        super().__init__()
        self.batch = batch
        self.failures = failures
        self.error = error
        self.asked = Counter[str]()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create=True, update=True, atomic=True, durable=False, batch=self.batch)

    def _fail(self, key: str, /) -> None:
        self.asked[key] += 1
        if self.asked[key] <= self.failures:
            raise self.error

    async def read(self, key: str, /, *, limit: int) -> Blob:
        self._fail(key)
        return await super().read(key, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self._fail(key)
        return await super().write(key, data, mode=mode)


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(attempt: int, /) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.retry.backoff", pause)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("batch", [1, 4])
async def test_what_fails_for_a_while_is_tried_again(batch: int) -> None:
    """With four attempts each document that fails for a while is read and saved in the end, in its place."""
    wanted = [at(number) for number in range(10)]
    backend = Flaky(batch, 3)
    store = store_over({"main": backend}, attempts=4)
    saved = [pair async for pair in store.save_many((w, ACCOUNT) for w in wanted)]
    assert [(location, type(result)) for location, result in saved] == [(w, Version) for w in wanted]
    assert backend.asked == {w.path: 4 for w in wanted}
    backend.asked.clear()
    read = [pair async for pair in store.get_many(wanted)]
    assert [(location, type(result)) for location, result in read] == [(w, Stored) for w in wanted]
    assert backend.asked == {w.path: 4 for w in wanted}


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("attempts", [1, 4])
async def test_attempts_are_bounded(batch: int, attempts: int) -> None:
    """A document that keeps failing is tried as often as the policy says: by itself where each is a request of its own;
    in a batch once more than that, and with one attempt never again.
    """
    wanted = [at(number) for number in range(10)]
    backend = Flaky(batch, 1000)
    store = store_over({"main": backend}, attempts=attempts)
    expected = {w.path: attempts + (batch > 1 and attempts > 1) for w in wanted}
    saved = [result async for _, result in store.save_many((w, ACCOUNT) for w in wanted)]
    assert {type(result) for result in saved} == {UncertainError}
    assert backend.asked == expected
    backend.asked.clear()
    read = [result async for _, result in store.get_many(wanted)]
    assert {type(result) for result in read} == {UnavailableError}
    assert backend.asked == expected
    assert [result.location for result in (*saved, *read) if isinstance(result, AccountStoreError)] == wanted * 2


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError])
async def test_a_create_of_a_batch_is_not_tried_blindly(error: type[ConnectionError]) -> None:
    """A create in a batch is tried again where it surely was not made. Else it is uncertain: made again, it would meet
    its own document.
    """
    backend = Flaky(4, 1, error)
    store = store_over({"main": backend}, attempts=4)
    results = [r async for _, r in store.save_many([(at(0), ACCOUNT), (at(1), ACCOUNT)], mode="create")]
    unknown = error is ConnectionResetError
    assert {type(result) for result in results} == {UncertainError if unknown else Version}
    assert backend.asked == dict.fromkeys((at(0).path, at(1).path), 1 if unknown else 2)


@pytest.mark.parametrize("batch", [1, 4])
async def test_the_deadline_ends_a_batch_that_hangs(batch: int) -> None:
    """The time of a batch is the policy's for one operation, and when it is up no document of it is tried again."""
    backend = Busy(batch=batch, steps=10**9)
    store = store_over({"main": backend}, timeout=0.1, attempts=4)
    wanted = [at(number) for number in range(4)]
    with anyio.fail_after(5):
        saved = [result async for _, result in store.save_many((w, ACCOUNT) for w in wanted)]
        read = [result async for _, result in store.get_many(wanted)]
    assert [type(result) for result in (*saved, *read)] == [UncertainError] * 4 + [UnavailableError] * 4
    for location, result in zip(wanted * 2, (*saved, *read), strict=True):
        assert isinstance(result, AccountStoreError)
        assert result.location == location
        assert "no answer within 0.1 s" in str(result)
    assert backend.batches == [batch] * (4 // batch) * 2
    assert backend.under_way == 0


class Unversioned(MemoryBackend):
    """Tells no version of what it wrote, against the contract."""

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return [replace(stat, version=None) for stat in await super().write_many(writes) if isinstance(stat, Stat)]

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        blobs = await super().read_many(keys, limit=limit)
        return [
            blob if isinstance(blob, Exception) else Blob(blob.data, replace(blob.stat, version=None)) for blob in blobs
        ]


async def test_a_backend_without_versions_is_an_error_of_each_document() -> None:
    """A backend that tells no version makes a `BackendError` of each document, not an exception group of the call."""
    store = store_over({"main": Unversioned()})
    saved = [result async for _, result in store.save_many([(at(1), ACCOUNT), (at(2), ACCOUNT)])]
    assert [type(result) for result in saved] == [BackendError, BackendError]
    read = [result async for _, result in store.get_many([at(1), at(2)])]
    assert [type(result) for result in read] == [BackendError, BackendError]
    assert [result.location for result in read if isinstance(result, BackendError)] == [at(1), at(2)]


async def test_nothing_in_is_nothing_out(store: AccountStore) -> None:
    """No locations and no documents give no results."""
    assert [pair async for pair in store.get_many([])] == []
    assert [pair async for pair in store.save_many([])] == []


async def test_one_location_twice_has_two_results(store: AccountStore) -> None:
    """A location that is given twice is read twice, and created once."""
    saved = [result async for _, result in store.save_many([(at(0), ACCOUNT), (at(0), ACCOUNT)], mode="create")]
    assert [type(result) for result in saved] == [Version, ExistsError]
    read = [result async for _, result in store.get_many([at(0), at(0)])]
    assert [type(result) for result in read] == [Stored, Stored]


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3, 8, 20])
async def test_concurrency_bounds_what_is_under_way(concurrency: int) -> None:
    """At most, and where there is enough to do just, `concurrency` requests are under way, over all storages."""
    one, other = Busy(), Busy()
    shared = {"most": 0}

    class Both(Busy):
        async def _take(self, keys: list[str], /) -> None:
            shared["most"] = max(shared["most"], one.under_way + other.under_way + 1)
            await super()._take(keys)

    one, other = Both(), Both()
    store = store_over({"one": one, "other": other})
    locations = [at(number, ("one", "other")[number % 2]) for number in range(200)]
    saved = [p async for p in store.save_many(((at_, ACCOUNT) for at_ in locations), concurrency=concurrency)]
    assert len(saved) == 200
    assert shared["most"] == concurrency
    shared["most"] = 0
    assert len([p async for p in store.get_many(locations, concurrency=concurrency)]) == 200
    assert shared["most"] == concurrency
    assert one.under_way == other.under_way == 0


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_a_concurrency_below_one_is_refused(store: AccountStore, concurrency: int) -> None:
    """`concurrency=0` is a `ValueError`, and nothing is written."""
    with pytest.raises(ValueError, match="concurrency"):
        assert [p async for p in store.get_many([at(0)], concurrency=concurrency)]
    with pytest.raises(ValueError, match="concurrency"):
        assert [p async for p in store.save_many([(at(0), ACCOUNT)], concurrency=concurrency)]
    assert not await store.exists(at(0))


@pytest.mark.parametrize("batch", [1, 7, 100])
async def test_batches_are_of_the_size_that_the_backend_likes(batch: int) -> None:
    """No batch is larger than what the backend declares, and all but the last of a window are of that size."""
    backend = Busy(batch=batch)
    store = store_over({"main": backend})
    await fill(store, range(250))
    assert sum(backend.batches) == 250
    assert max(backend.batches) == batch
    written = len(backend.batches)
    assert len([p async for p in store.get_many(map(at, range(250)))]) == 250
    assert sorted(backend.batches[written:]) == sorted(backend.batches[:written])


async def test_a_batch_holds_a_folders_documents_together() -> None:
    """Of a window, documents of one folder stand together in the batches, whatever the order that they are given in."""
    backend = Busy(batch=10)
    store = store_over({"main": backend})
    wanted = [at(number) for number in range(60)]
    for results in (store.save_many((w, ACCOUNT) for w in wanted), store.get_many(wanted)):
        backend.keys.clear()
        assert [location async for location, _ in cast("AsyncIterator[tuple[Location, object]]", results)] == wanted
        folders = [{key.partition("/")[0] for key in keys} for keys in backend.keys]
        assert sorted(map(sorted, folders)) == [["folder-0"]] * 2 + [["folder-1"]] * 2 + [["folder-2"]] * 2


@pytest.mark.parametrize("calls", [10, 300])
async def test_local_documents_share_thread_hops(calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a local storage up to 128 documents go in one thread hop; one by one each takes its own."""
    hops: list[str] = []
    run = ThreadPool.run

    async def count_and_run(self: ThreadPool, call: Any) -> object:
        hops.append(call.func.__name__)
        return cast("object", await run(self, call))

    monkeypatch.setattr(ThreadPool, "run", count_and_run)
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))})) as store:
        await fill(store, range(calls))
        assert hops == ["write_many"] * -(-calls // 128)
        hops.clear()
        assert len([p async for p in store.get_many(map(at, range(calls)))]) == calls
        assert hops == ["read_many"] * -(-calls // 128)
        hops.clear()
        for number in range(10):
            await store.get(at(number))
            await store.save(at(number), ACCOUNT)
        assert hops == ["read", "write"] * 10


# --- lazy input, early ends -------------------------------------------------------------------------------------------


class Tap:
    """An endless source of locations that counts how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Location]:
        for number in count():
            self.taken += 1
            yield at(number)


async def test_nothing_happens_before_the_first_result_is_asked_for() -> None:
    """A call that is not iterated over takes nothing from its input, and writes nothing."""
    backend, tap = Busy(), Tap()
    store = store_over({"main": backend})
    store.get_many(tap)
    store.save_many((location, ACCOUNT) for location in tap)
    await anyio.sleep(0)
    assert (tap.taken, backend.batches) == (0, [])


async def test_an_endless_input_is_taken_window_by_window() -> None:
    """An endless input is consumed no further than the window under way, and in step with the results."""
    backend, tap = Busy(), Tap()
    store = store_over({"main": backend})
    results = store.get_many(tap, concurrency=4)
    for number in range(100):
        location, result = await anext(results)
        assert location == at(number)
        assert isinstance(result, NotFoundError)
        assert number < tap.taken <= number + 1 + 4 * 8
    tap = Tap()
    written = store.save_many(((location, ACCOUNT) for location in tap), concurrency=4)
    for number in range(100):
        assert isinstance((await anext(written))[1], Version)
        assert number < tap.taken <= number + 1 + 4 * 8


@pytest.mark.parametrize("call", ["get_many", "save_many"])
async def test_breaking_off_leaves_nothing_running(store: AccountStore, call: str) -> None:
    """A loop that is broken off leaves no task and warns of nothing, and the store goes on."""
    before = {task.id for task in get_running_tasks()}
    tap = Tap()
    run = store.get_many(tap) if call == "get_many" else store.save_many((location, ACCOUNT) for location in tap)
    async for location, _ in cast("AsyncIterator[tuple[Location, object]]", run):
        assert location == at(0)
        break
    assert {task.id for task in get_running_tasks()} == before
    del run
    gc.collect()
    await anyio.sleep(0)
    await store.save(at(1), ACCOUNT)
    assert await store.get(at(1)) == ACCOUNT


async def test_an_error_in_the_body_leaves_nothing_running() -> None:
    """An exception in the loop's body comes out as it is, and no request is under way any more."""
    backend = Busy()
    store = store_over({"main": backend})
    before = {task.id for task in get_running_tasks()}
    with pytest.raises(KeyError, match="mine"):
        async for _ in store.get_many(Tap()):
            raise KeyError("mine")
    assert backend.under_way == 0
    assert {task.id for task in get_running_tasks()} == before


async def test_a_cancelled_batch_leaves_nothing_running() -> None:
    """Cancelling a window ends all of its requests before the call has ended."""
    backend = Busy(steps=10**9)
    store = store_over({"main": backend})
    before = {task.id for task in get_running_tasks()}
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                async for _ in store.get_many(map(at, range(100)), concurrency=5):
                    raise AssertionError("no request can end")

            tasks.start_soon(read)
            while backend.under_way < 5:
                await anyio.sleep(0)
            scope.cancel()
    assert scope.cancelled_caught
    assert (backend.most, backend.under_way) == (5, 0)
    assert {task.id for task in get_running_tasks()} == before


@pytest.mark.parametrize("call", ["get_many", "save_many"])
async def test_a_result_that_was_waited_for_in_vain_comes_later(call: str) -> None:
    """A wait that is cancelled, as by a timeout for each result, skips no document: the next one goes on with it. It
    ends at once for reads, and for writes when they have ended, here at their deadline.
    """
    backend = Busy()
    store = store_over({"main": backend}, timeout=0.3 if call == "save_many" else 30)
    await fill(store, range(20))
    wanted = [at(number) for number in range(20)]
    run: Any = store.get_many(wanted) if call == "get_many" else store.save_many((w, ACCOUNT) for w in wanted)
    backend.steps = 10**9
    started = anyio.current_time()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel_when_begun() -> None:
                while not backend.under_way:
                    await anyio.sleep(0.001)
                scope.cancel()

            group.start_soon(cancel_when_begun)
            await anext(run)
    assert scope.cancelled_caught
    waited = anyio.current_time() - started
    assert waited >= 0.29 if call == "save_many" else waited < 20
    assert backend.under_way == 0
    backend.steps = 0
    results = [pair async for pair in run]
    assert [location for location, _ in results] == wanted
    assert not [result for _, result in results if isinstance(result, AccountStoreError)]


async def test_an_error_of_the_input_comes_out_as_it_is(store: AccountStore) -> None:
    """What the input raises passes through untouched, after the windows before it."""
    error = KeyError("mine")

    def documents() -> Iterator[tuple[Location, Document]]:
        yield at(0), ACCOUNT
        raise error

    with pytest.raises(KeyError) as caught:
        assert [p async for p in store.save_many(documents())]
    assert caught.value is error
    with pytest.raises(KeyError) as caught:
        assert [p async for p in store.get_many(location for location, _ in documents())]
    assert caught.value is error


async def test_the_end_stays_the_end(store: AccountStore) -> None:
    """After its last result an iterator ends, however often it is asked."""
    results = store.get_many([at(0)])
    await anext(results)
    for _ in range(3):
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_a_codec_is_that_of_its_storage(tmp_path: Path) -> None:
    """Documents of one call are encoded by their own storage's codec."""
    storages = {name: StorageConfig(str(tmp_path / name), codec=name) for name in CODECS}
    locations = [at(0, name) for name in CODECS]
    async with AccountStore.open(StoreConfig(default="json", storages=storages)) as store:
        assert len([p async for p in store.save_many((location, ACCOUNT) for location in locations)]) == 2
        for name, codec in CODECS.items():
            assert (tmp_path / name / at(0).path).read_bytes() == codec.encode(ACCOUNT)
        async for _, stored in store.get_many(locations):
            assert isinstance(stored, Stored)
            assert stored.document == ACCOUNT
