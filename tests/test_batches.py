"""`get_many` and `save_many`: order, errors, bounds, and what is left when a loop is broken off."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import count, cycle, pairwise
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import anyio
import pytest
from anyio import get_running_tasks
from doubles import BatchMemory, drained
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT, MULTI

from accountstore import Account, AccountStore, Location, MultiAccount, StorageConfig, StoreConfig, Stored, Version
from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import Blob, Stat
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import CODECS
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    DecodeError,
    EncodeError,
    ExistsError,
    ExtensionError,
    LocationError,
    NotFoundError,
    UnavailableError,
    UncertainError,
)
from accountstore.testing import FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from accountstore.backends.base import Write, WriteMode
    from accountstore.model import Document
    from accountstore.testing.faults import Operation

T = TypeVar("T")
P = ParamSpec("P")

pytestmark = pytest.mark.anyio


def at(number: int, /, storage: str | None = None) -> Location:
    return Location(f"{number:04}.account", folder=f"folder-{number % 3}", storage=storage)


def numbered(number: int, /) -> Account:
    return replace(ACCOUNT, port=number + 1)


class Busy(FaultyBackend):
    """Keeps the keys of its batches, counts what is under way, and may take long or fail a batch as a whole."""

    def __init__(self, batch: int = 1, *, error: Exception | None = None) -> None:
        super().__init__(BatchMemory(batch))
        self.batch = batch
        self.error = error
        self.steps = 3
        self.keys: list[list[str]] = []
        self.under_way = self.most = 0

    @property
    def batches(self) -> list[int]:
        return list(map(len, self.keys))

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        assert operation.endswith("_many") == (self.batch > 1)
        asked: Any = args[0] if self.batch > 1 else args[:1]
        self.keys.append([getattr(item, "key", item) for item in asked])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(self.steps):
                await anyio.sleep(0)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return await super()._call(operation, call, *args, **kwargs)


async def read(store: AccountStore, locations: Sequence[Location], /, **options: Any) -> list[object]:
    """The result of each location, in order."""
    pairs = await drained(store.get_many(locations, **options))
    assert [location for location, _ in pairs] == locations
    return [result for _, result in pairs]


async def save(store: AccountStore, documents: Sequence[tuple[Location, Document]], /, **options: Any) -> list[object]:
    """The result of each document, in order."""
    pairs = await drained(store.save_many(documents, **options))
    assert [location for location, _ in pairs] == [location for location, _ in documents]
    return [result for _, result in pairs]


async def fill(store: AccountStore, locations: Sequence[Location], /, **options: Any) -> None:
    assert {type(result) for result in await save(store, [(at, ACCOUNT) for at in locations], **options)} == {Version}


def run_of(
    store: AccountStore, call: str, locations: Iterable[Location], /, **options: int
) -> AsyncIterator[tuple[Location, object]]:
    """The iterator of a call, whose documents are accounts."""
    if call == "get_many":
        return store.get_many(locations, **options)
    return store.save_many(((at, ACCOUNT) for at in locations), **cast("Any", options))


def tasks() -> set[int]:
    """The tasks that are running."""
    return {task.id for task in get_running_tasks()}


either_call = pytest.mark.parametrize("call", ["get_many", "save_many"])


async def test_results_come_in_the_order_asked_for(store: AccountStore) -> None:
    """Each location comes with its own version and document, in the order given, over two windows."""
    order = [number * 37 % 400 for number in range(400)]
    versions = dict(zip(order, await save(store, [(at(number), numbered(number)) for number in order]), strict=True))
    order.reverse()
    results = await read(store, list(map(at, order)))
    for number, stored in zip(order, results, strict=True):
        assert isinstance(stored, Stored)
        assert (stored.document, stored.version) == (numbered(number), versions[number])
    assert results[0] == await store.read(at(order[0]))


@pytest.mark.parametrize("backend", [MemoryBackend, BatchMemory])
async def test_each_document_has_its_own_error(backend: type[MemoryBackend]) -> None:
    """Missing, misnamed, wrong and broken documents are errors with their locations; others are done."""
    opened = backend()
    store = store_over({"main": opened})
    rows: list[tuple[Location, Any, type, type]] = [
        (at(0), ACCOUNT, Version, Stored),
        (Location("x.txt"), ACCOUNT, ExtensionError, ExtensionError),
        (at(1), MULTI, EncodeError, NotFoundError),
        (at(2), replace(ACCOUNT, port=0), EncodeError, NotFoundError),
        (at(3, "unknown"), ACCOUNT, LocationError, LocationError),
        (Location("x.multi.account"), MULTI, Version, Stored),
        (Location("y.multi.account"), ACCOUNT, EncodeError, NotFoundError),
        (at(4), None, EncodeError, NotFoundError),
        (at(5), ACCOUNT, Version, DecodeError),
    ]
    saved = await save(store, [(location, document) for location, document, _, _ in rows])
    await opened.write(at(5).path, b"canary", mode="overwrite")
    got = await read(store, [location for location, *_ in rows])
    assert [(type(one), type(other)) for one, other in zip(saved, got, strict=True)] == [row[2:] for row in rows]
    for (location, *_), *results in zip(rows, saved, got, strict=True):
        assert {result.location for result in results if isinstance(result, AccountStoreError)} <= {location}
    again = await save(store, [(at(0), ACCOUNT), (at(6), ACCOUNT)], mode="create")
    assert [type(result) for result in again] == [ExistsError, Version]


async def test_storages_codecs_and_kinds_may_be_mixed(tmp_path: Path) -> None:
    """One call may mix storages, kinds and codecs: the order stays, each document is in its storage's codec."""
    storages = {
        "memory": StorageConfig("memory://"),
        "local": StorageConfig(str(tmp_path / "local"), codec="msgpack"),
        "plain": StorageConfig("dir://", {"path": str(tmp_path / "plain"), "target_protocol": "file"}),
    }
    (tmp_path / "plain").mkdir()
    documents: list[tuple[Location, Document]] = []
    for number, name in zip(range(100), cycle([None, *storages, "nowhere"]), strict=False):
        multi = Location(f"{number}.multi.account", storage=name)
        documents.append((at(number, name), numbered(number)) if number % 2 else (multi, MULTI))
    async with AccountStore.open(StoreConfig(default="memory", storages=storages)) as store:
        saved = await save(store, documents)
        got = await read(store, [location for location, _ in documents])
    for (location, document), version, stored in zip(documents, saved, got, strict=True):
        if location.storage == "nowhere":
            assert isinstance(version, LocationError)
            assert isinstance(stored, LocationError)
        else:
            assert isinstance(stored, Stored)
            assert (stored.document, stored.version) == (document, version)
        if location.storage in {"local", "plain"}:
            codec = CODECS["msgpack" if location.storage == "local" else "json"]
            assert (tmp_path / location.storage / location.path).read_bytes() == codec.encode(document)


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
    """A batch that fails as a whole is an error of each document; of a write, perhaps of an unknown outcome."""
    bad = Busy(batch, error=error)
    store = store_over({"good": MemoryBackend(), "bad": bad})
    locations = [at(number, "bad" if number % 2 else "good") for number in range(20)]
    saved = await save(store, [(location, ACCOUNT) for location in locations])
    for results, kind in ((saved, saved_as), (await read(store, locations), read_as)):
        assert {type(result) for result in results[::2]} <= {Version, Stored}
        for location, result in zip(locations[1::2], results[1::2], strict=True):
            assert isinstance(result, kind)
            assert (type(result), result.location) == (kind, location)
            assert "canary" not in str(result)
            assert str(result).count("the outcome is unknown") == (kind is UncertainError)
    looks = 10 * (batch == 1 and saved_as is UncertainError)
    assert sorted(bad.batches) == ([1] * (20 + looks) if batch == 1 else [2, 2, 4, 4, 4, 4])


class Unversioned(BatchMemory):
    """Returns no versions, against the contract."""

    async def read(self, key: str, /, *, limit: int) -> Blob:
        blob = await super().read(key, limit=limit)
        return Blob(blob.data, replace(blob.stat, version=None))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return replace(await super().write(key, data, mode=mode), version=None)


class Miscounting(BatchMemory):
    """Returns `more` results (below 0: fewer) than it was given documents, against the contract."""

    def __init__(self, more: int, /) -> None:
        super().__init__()
        self.more = more

    def _all(self, results: Sequence[Any], /) -> list[Any]:
        return [*results, *results[:1]][: len(results) + self.more]

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return self._all(await super().read_many(keys, limit=limit))

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return self._all(await super().write_many(writes))


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Unversioned(1), "the backend returned no version"),
        (Unversioned(), "the backend returned no version"),
        (Miscounting(-3), "the backend returned 0 results for 3 documents"),
        (Miscounting(-1), "the backend returned 2 results for 3 documents"),
        (Miscounting(1), "the backend returned 4 results for 3 documents"),
        (Miscounting(0), None),
    ],
    ids=["no version", "no versions", "none", "too few", "too many", "control"],
)
async def test_a_backend_that_breaks_the_contract_is_an_error_of_each_document(
    backend: BatchMemory, message: str | None
) -> None:
    """No version, or results of nobody knows what, are an error of each document; the control breaks nothing."""
    wanted = [at(number) for number in range(3)]
    for location in wanted:
        await MemoryBackend.write(backend, location.path, CODECS["json"].encode(ACCOUNT), mode="overwrite")
    store = store_over({"main": backend})
    results = await save(store, [(location, ACCOUNT) for location in wanted]) + await read(store, wanted)
    if message is None:
        assert [type(result) for result in results] == [Version] * 3 + [Stored] * 3
    else:
        assert [type(result) for result in results] == [BackendError] * 6
        assert [str(result) for result in results] == [f"{location}: {message}" for location in wanted * 2]


async def test_each_location_has_its_results(store: AccountStore) -> None:
    """No locations give no results; a location that is given twice is created once and read twice; the end stays."""
    assert await read(store, []) == await save(store, []) == []
    saved = await save(store, [(at(0), ACCOUNT), (at(0), ACCOUNT)], mode="create")
    assert {type(result) for result in saved} == {Version, ExistsError}
    results = store.get_many([at(0), at(0)])
    assert [type(result) async for _, result in results] == [Stored, Stored]
    for _ in range(3):
        with pytest.raises(StopAsyncIteration):
            await anext(results)


class Flaky(BatchMemory):
    """Fails for a while with each document, whether in a batch or by itself."""

    def __init__(self, batch: int, failures: int, /) -> None:
        super().__init__(batch)
        self.failures = failures
        self.asked = Counter[str]()

    def _fail(self, key: str, /) -> None:
        self.asked[key] += 1
        if self.asked[key] <= self.failures:
            raise ConnectionResetError

    async def read(self, key: str, /, *, limit: int) -> Blob:
        self._fail(key)
        return await super().read(key, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self._fail(key)
        return await super().write(key, data, mode=mode)


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("failures", "attempts"), [(3, 4), (1000, 4), (1000, 1)])
async def test_what_fails_for_a_while_is_tried_again(batch: int, failures: int, attempts: int) -> None:
    """A document that keeps failing is tried as often as the policy says, a read in a batch once more than that, and
    with one attempt never again. A write whose answer was lost in a batch is looked for before it is made again.
    """
    wanted = [at(number) for number in range(10)]
    backend = Flaky(batch, failures)
    store = store_over({"main": backend}, attempts=attempts)
    ends = failures < attempts
    expected = {w.path: attempts for w in wanted}
    saved = await save(store, [(w, ACCOUNT) for w in wanted])
    assert {type(result) for result in saved} == {Version if ends else UncertainError}
    assert backend.asked == expected
    backend.asked.clear()
    expected = {w.path: attempts + (batch > 1 and attempts > 1 and not ends) for w in wanted}
    got = await read(store, wanted)
    assert {type(result) for result in got} == {Stored if ends else UnavailableError}
    assert backend.asked == expected
    assert [r.location for r in (*saved, *got) if isinstance(r, AccountStoreError)] == ([] if ends else wanted * 2)


@pytest.mark.parametrize("concurrency", [1, 3, 8, 20])
async def test_concurrency_bounds_what_is_under_way(concurrency: int) -> None:
    """At most, and where there is enough to do just, `concurrency` requests are under way, over all storages."""
    backend = Busy()
    store = store_over({"one": backend, "other": backend})
    locations = [at(number, ("one", "other")[number % 2]) for number in range(200)]
    await fill(store, locations, concurrency=concurrency)
    assert backend.most == concurrency
    backend.most = 0
    assert len(await read(store, locations, concurrency=concurrency)) == 200
    assert backend.most == concurrency
    assert backend.under_way == 0


@pytest.mark.parametrize("concurrency", [0, -1])
@either_call
async def test_a_concurrency_below_one_is_refused(store: AccountStore, call: str, concurrency: int) -> None:
    """`concurrency=0` is a `ValueError`, and nothing is written."""
    with pytest.raises(ValueError, match="concurrency"):
        await drained(run_of(store, call, [at(0)], concurrency=concurrency))
    assert not await store.exists(at(0))


@pytest.mark.parametrize("batch", [1, 7, 100])
async def test_batches_are_of_the_size_that_the_backend_likes(batch: int) -> None:
    """No batch is larger than what the backend declares, and all but the last of a window are of that size."""
    backend = Busy(batch)
    store = store_over({"main": backend})
    wanted = list(map(at, range(250)))
    await fill(store, wanted)
    assert sum(backend.batches) == 250
    assert max(backend.batches) == batch
    written = len(backend.batches)
    await read(store, wanted)
    assert sorted(backend.batches[written:]) == sorted(backend.batches[:written])


@either_call
async def test_a_batch_holds_a_folders_documents_together(call: str) -> None:
    """Of a window, documents of one folder stand together in the batches, whatever the order that they are given in."""
    backend = Busy(10)
    await drained(run_of(store_over({"main": backend}), call, map(at, range(60))))
    folders = [{key.partition("/")[0] for key in keys} for keys in backend.keys]
    assert sorted(map(sorted, folders)) == [["folder-0"]] * 2 + [["folder-1"]] * 2 + [["folder-2"]] * 2


@pytest.mark.parametrize("calls", [10, 300])
async def test_local_documents_share_thread_hops(calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a local storage up to 128 documents go in one thread hop; one by one each takes its own."""
    hops: list[str] = []
    for way in ("run", "run_fenced"):
        run = getattr(ThreadPool, way)

        async def count_and_run(self: ThreadPool, call: Any, run: Any = run) -> object:
            hops.append(call.func.__name__)
            return cast("object", await run(self, call))

        monkeypatch.setattr(ThreadPool, way, count_and_run)
    wanted = list(map(at, range(calls)))
    batches = -(-calls // 128)
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))})) as store:
        await fill(store, wanted)
        await read(store, wanted)
        for location in wanted[:10]:
            await store.get(location)
            await store.save(location, ACCOUNT)
        assert hops == ["_write_many"] * batches + ["read_many"] * batches + ["read", "write"] * 10


class Tap:
    """An endless source of locations that counts how many were taken."""

    taken = 0

    def __iter__(self) -> Iterator[Location]:
        for number in count():
            self.taken += 1
            yield at(number)


@either_call
async def test_an_endless_input_is_taken_window_by_window(call: str) -> None:
    """Nothing is taken or written before the first result is asked for, and then no more than the window under way."""
    backend, tap = Busy(), Tap()
    results = run_of(store_over({"main": backend}), call, tap, concurrency=4)
    await anyio.sleep(0)
    assert (tap.taken, backend.batches) == (0, [])
    for number in range(100):
        location, result = await anext(results)
        assert location == at(number)
        assert isinstance(result, NotFoundError if call == "get_many" else Version)
        assert number < tap.taken <= number + 1 + 4 * 8


@either_call
@pytest.mark.parametrize(("accounts", "most"), [(1, 8 * 128), (1000, 100)], ids=["small", "large"])
async def test_a_window_of_large_documents_has_fewer(call: str, accounts: int, most: int) -> None:
    """The first window has 128 documents; the others as many as there may be, unless 8 MiB hold fewer of such a size.
    The control: small documents come a thousand at a time.
    """
    document = MultiAccount(receive_accounts=(ACCOUNT,) * accounts)
    store = store_over({"main": BatchMemory(128)})
    places = [Location(f"{number}.multi.account") for number in range(2)]
    taken = 0

    def endless() -> Iterator[tuple[Location, MultiAccount]]:
        nonlocal taken
        for at in cycle(places):
            taken += 1
            yield at, document

    for at in places:
        await store.save_multi(at, document)
    results: AsyncIterator[tuple[Location, Any]] = (
        store.save_many(endless()) if call == "save_many" else store.get_many(at for at, _ in endless())
    )
    await anext(results)
    windows = [taken]
    while len(windows) < 3:
        await anext(results)
        if taken > windows[-1]:
            windows.append(taken)
    sizes = [end - start for start, end in pairwise([0, *windows])]
    assert sizes[0] == 128
    assert sizes[1] == sizes[2]
    assert most / 2 < sizes[1] <= most


@either_call
async def test_breaking_off_leaves_nothing_running(store: AccountStore, call: str) -> None:
    """A loop that is broken off leaves no task and warns of nothing, and the store goes on."""
    before = tasks()
    run = run_of(store, call, Tap())
    async for location, _ in run:
        assert location == at(0)
        break
    assert tasks() == before
    del run
    gc.collect()
    await anyio.sleep(0)
    await store.save(at(1), ACCOUNT)
    assert await store.get(at(1)) == ACCOUNT


@either_call
async def test_a_result_that_was_waited_for_in_vain_comes_later(call: str) -> None:
    """A wait that is cancelled, as by a timeout for each result, skips no document: the next one goes on with it. It
    ends at once for reads, and for writes when they have ended, here at their deadline; no request is under way then.
    """
    backend = Busy()
    wanted = [at(number) for number in range(20)]
    await fill(store_over({"main": backend}), wanted)
    run = run_of(store_over({"main": backend}, timeout=0.3 if call == "save_many" else HUNG), call, wanted)
    before = tasks()
    backend.steps = 10**9
    started = anyio.current_time()

    async def cancel_when_begun() -> None:
        while not backend.under_way:
            await anyio.sleep(0.001)
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when_begun)
            await anext(run)
    assert scope.cancelled_caught
    waited = anyio.current_time() - started
    assert waited >= 0.29 if call == "save_many" else waited < HUNG / 2
    assert backend.under_way == 0
    assert tasks() == before
    backend.steps = 0
    results = await drained(run)
    assert [location for location, _ in results] == wanted
    # On a loaded machine a write may miss its short deadline here too.
    assert not [result for _, result in results if isinstance(result, AccountStoreError) and not result.temporary]


@either_call
async def test_errors_of_the_caller_come_out_as_they_are(store: AccountStore, call: str) -> None:
    """What the input or the loop's body raises passes through untouched, and no request is under way any more."""
    error = KeyError("mine")
    before = tasks()

    def failing() -> Iterator[Location]:
        yield at(0)
        raise error

    with pytest.raises(KeyError) as caught:
        await drained(run_of(store, call, failing()))
    assert caught.value is error
    with pytest.raises(KeyError) as caught:
        async for _ in run_of(store, call, Tap()):
            raise error
    assert caught.value is error
    assert tasks() == before


@either_call
async def test_locations_that_are_out_of_reach_fill_a_window(store: AccountStore, call: str) -> None:
    """However many name a storage that is not configured, no more are taken than a window holds."""
    taken = 0

    def endless() -> Iterator[Location]:
        nonlocal taken
        while True:
            taken += 1
            yield Location("a.account", storage="Nowhere")

    _, result = await anext(run_of(store, call, endless()))
    assert isinstance(result, LocationError)
    assert taken <= 128


@either_call
async def test_tasks_that_share_the_results_have_each_once(call: str) -> None:
    """Of several tasks that take from one iterator each has other results, also where one is cancelled now and then."""
    store = store_over({"main": Busy()})
    wanted = list(map(at, range(100)))
    await fill(store, wanted)
    results = run_of(store, call, wanted, concurrency=2)
    found: list[Location] = []

    async def take(impatient: bool) -> None:
        while True:
            with anyio.move_on_after(0.001 if impatient else HUNG):
                try:
                    location, _ = await anext(results)
                except StopAsyncIteration:
                    return
                found.append(location)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(take, number == 0)
    assert sorted(map(str, found)) == sorted(map(str, wanted))
