"""Every fault at every request of every operation on the object stores: no call lies, and each ends in time.

The judge is the server itself: what it holds after a call decides whether the call's outcome was true.
"""

from __future__ import annotations

import socket
import traceback
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from cloudstub import Stub
from cloudtargets import BUCKET, NEW, OLD, Target, by_fsspec, on_asyncio, on_each_target
from running import HUNG, patiently

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    Location,
    NotFoundError,
    UnavailableError,
    UncertainError,
    Version,
)
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from accountstore.backends.base import Stat
    from accountstore.retry import Client, PendingWrite

pytestmark = [pytest.mark.anyio, pytest.mark.once]

PATIENCE = (0.4, 4.0, 40.0)
"""Deadlines in seconds for what a server does not answer, one after another: on a loaded machine the request may not be
on its way before the first of them, and then nothing was tried.
"""
CALM = 2 * HUNG
"""The deadline where it plays no part."""
RIVAL = Account(host="rival.example.org", port=1, credentials=OLD.credentials)

SILENT = ("hang", "hang-after", "late")
REFUSALS = ("500", "503", "409", "412", "500-after", "503-after", "409-after", "412-after")
FAULTS = ("drop-before", "drop-after", *REFUSALS, "truncate", "slow", *SILENT)


@dataclass(frozen=True)
class Operation:
    """A call on a document, and what it makes of it."""

    call: Callable[[AccountStore, Location, Version], Awaitable[object]]
    before: Account | None = OLD
    after: Account | None = OLD
    conditional: bool = False
    requests: int = 1

    @property
    def writes(self) -> bool:
        return self.before != self.after


async def listed(store: AccountStore, at: Location) -> Sequence[Location]:
    return [entry.location async for entry in store.list(at.folder)]


OPERATIONS: Mapping[str, Operation] = {
    "get": Operation(lambda store, at, _: store.get(at)),
    "stat": Operation(lambda store, at, _: store.stat(at)),
    "list": Operation(lambda store, at, _: listed(store, at)),
    "save": Operation(lambda store, at, _: store.save(at, NEW), after=NEW),
    "create": Operation(lambda store, at, _: store.save(at, NEW, mode="create"), None, NEW, conditional=True),
    "swap": Operation(lambda store, at, was: store.save(at, NEW, mode=was), after=NEW, conditional=True),
    "update": Operation(lambda store, at, _: store.update(at, lambda _: NEW), after=NEW, conditional=True, requests=2),
    "delete": Operation(lambda store, at, _: store.delete(at), after=None),
    "delete-if": Operation(lambda store, at, was: store.delete(at, version=was), after=None, conditional=True),
}


class Schedule(NamedTuple):
    """An operation, and what its requests meet: from a number on, so often, a fault."""

    operation: str
    faults: tuple[tuple[int, int, str], ...]
    attempts: int = 4

    @property
    def lasting(self) -> int:
        """The number of the first request that keeps the call until its deadline; 0: there is none.

        Azure's own client asks again, after a second each time, where an answer is cut short.
        """
        lasting = [n for n, times, kind in self.faults if kind in SILENT or (kind == "truncate" and times > 1)]
        return min(lasting, default=0)


def schedules(operations: Iterable[str] = OPERATIONS, *, thin: bool = False) -> Iterator[Schedule]:
    """Each fault at each request once and for good, with attempts and without; and each at the look after a loss."""
    for name in operations:
        operation = OPERATIONS[name]
        for nth in range(1, operation.requests + 1):
            for kind in FAULTS:
                if kind in {"hang", "hang-after"} and (thin or (kind == "hang" and not operation.writes)):
                    continue  # they cost their deadline, and to a read they are the same
                yield Schedule(name, ((nth, 1, kind),))
                if not thin:
                    if kind not in {"hang", "late"}:
                        yield Schedule(name, ((nth, 1, kind),), attempts=1)
                    # Where each answer is a refusal, the look's too, the storage's word is all that there is.
                    if kind not in SILENT and kind != "slow" and not kind.startswith("412"):
                        yield Schedule(name, ((nth, 99, kind),))
        if operation.conditional:
            lost = ("drop-after", "503-after", "503") if not thin else ("503-after",)
            for first in lost:
                for kind in FAULTS:
                    at = operation.requests
                    if kind not in SILENT or (first == "drop-after" and not thin):
                        yield Schedule(name, ((at, 1, first), (at + 1, 1, kind)))


class Outcome(NamedTuple):
    """How a run ended, and what was wrong with that."""

    name: str
    wrong: str


@dataclass
class Lane:
    """A server, where one schedule after another is run and judged."""

    target: Target
    stub: Stub
    number: int = 0

    async def run(self, store: AccountStore, schedule: Schedule, rival: Account | None = None) -> Outcome | None:
        """Run a schedule, on a document of its own. The rival, if any, writes while the first request is answered.

        None: the deadline came before the request that was to meet it.
        """
        self.number += 1
        at = Location("a.account", folder=f"f{self.number}")
        operation = OPERATIONS[schedule.operation]
        version = Version("")
        if operation.before is not None:
            self.target.put(self.stub, at, operation.before)
            version = (await patiently(lambda: store.read(at))).version
        else:
            await patiently(lambda: store.exists(at))  # a connection is there, as it would be
        faults = [{"nth": nth, "times": times, "kind": kind, "seconds": 0.1} for nth, times, kind in schedule.faults]
        self.stub.faults(faults)
        if rival:
            self.stub.rival(1, self.target.service, BUCKET, f"p/{at.path}", JSON.encode(rival))
        asked = self.stub.count()
        result: object = None
        error: AccountStoreError | None = None
        try:
            with anyio.fail_after(HUNG):
                result = await operation.call(store, at, version)
        except AccountStoreError as failure:
            error = failure
        early = self.stub.count() - asked < schedule.lasting
        self.stub.land()  # what comes late comes now, before the judgement
        self.stub.faults([])
        odd = type(error) is BackendError and any(kind.startswith("412") for _, _, kind in schedule.faults)
        # A request without a condition that is refused for its condition is refused, that is all.
        wrong = "" if odd else self._judge(operation, at, result, error, rival=rival is not None)
        wrong = wrong or await self._after(store, at, result)
        if early and not wrong:
            return None
        return Outcome("ok" if error is None else type(error).__name__, wrong and f"{schedule}: {wrong}")

    def _judge(
        self, operation: Operation, at: Location, result: object, error: AccountStoreError | None, *, rival: bool
    ) -> str:
        truth = self.target.found(self.stub, at)
        if error is None:
            if isinstance(result, Account) and result != OLD:
                return "read what is not there"
            if isinstance(result, list) and result != [at]:
                return f"listed {result}"
            return "" if truth == operation.after else f"a false success: {truth and truth.host}"
        if isinstance(error, (ConflictError, ExistsError, NotFoundError)):
            return "" if rival and truth in {RIVAL, None} else f"a false {type(error).__name__}"
        if not isinstance(error, UnavailableError):
            return f"an unclear failure: {error!r}"
        if operation.writes and not isinstance(error, UncertainError) and truth == operation.after:
            return "said that nothing was written"
        if not operation.writes and isinstance(error, UncertainError):
            return "a read is never uncertain"
        return ""

    async def _after(self, store: AccountStore, at: Location, result: object) -> str:
        """The next call works, and tells the version that the run returned."""
        truth = self.target.found(self.stub, at)
        if truth is None:
            return "" if not await patiently(lambda: store.exists(at)) else "the next call found what is not there"
        now = await patiently(lambda: store.read(at))
        if now.document != truth:
            return "the next call read another document"
        told = result if isinstance(result, Version) else getattr(result, "version", now.version)
        return "" if told == now.version else "told a version that is not the current one"


async def warm(store: AccountStore) -> None:
    """Open all clients: the first call imports much, which a short deadline does not allow for."""
    at = Location("warm.account", folder="warm")
    version = await patiently(lambda: store.save(at, OLD))
    await patiently(lambda: store.delete(at, version=version))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once, so that many runs take little time."""

    async def no_pause(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.retry.backoff", no_pause)


@pytest.fixture(scope="session")
def servers() -> Iterator[list[Stub]]:
    """Two servers, since faults are counted by the requests of a whole server."""
    with Stub() as one, Stub() as two:
        yield [one, two]


@pytest.fixture
def stubs(servers: list[Stub]) -> list[Stub]:
    """The servers as after their start."""
    for stub in servers:
        stub.reset()
    return servers


async def run_all(
    target: Target, stubs: Sequence[Stub], runs: Iterable[Schedule], rival: Account | None = None
) -> dict[Schedule, Outcome]:
    """The outcomes of all schedules, each lane taking the next one."""
    left = iter(list(runs))
    outcomes: dict[Schedule, Outcome] = {}

    async def lane(stub: Stub) -> None:
        stores: dict[tuple[float, int], AccountStore] = {}
        here = Lane(target, stub)
        async with AsyncExitStack() as stack:
            for schedule in left:
                for timeout in PATIENCE if schedule.lasting else (CALM,):
                    kind = timeout, schedule.attempts
                    if kind not in stores:
                        config = target.config(stub.url, timeout=timeout, attempts=schedule.attempts)
                        stores[kind] = await stack.enter_async_context(AccountStore.open(config))
                        await warm(stores[kind])
                    outcome = await here.run(stores[kind], schedule, rival)
                    if outcome is not None:
                        outcomes[schedule] = outcome
                        break
                else:
                    raise AssertionError(f"the deadline always comes before the request: {schedule}")

    async with anyio.create_task_group() as group:
        for stub in stubs:
            group.start_soon(lane, stub)
    return outcomes


def wrong(outcomes: Mapping[Schedule, Outcome]) -> list[str]:
    return [outcome.wrong for outcome in outcomes.values() if outcome.wrong]


@on_each_target
async def test_fault_schedules(stubs: list[Stub], quick: None, target: Target, anyio_backend: Any) -> None:
    """No success, conflict or refusal is false, every call is back within its deadline, and the next one works.

    The whole table on asyncio, a thinner one on uvloop and trio.
    """
    thin = anyio_backend != ("asyncio", {"debug": False})
    outcomes = await run_all(target, stubs, schedules(thin=thin))
    assert wrong(outcomes) == []
    passing = {
        schedule: outcome.name
        for schedule, outcome in outcomes.items()
        if schedule.attempts > 1
        and all(times == 1 and kind not in SILENT and "412" not in kind for _, times, kind in schedule.faults)
    }
    assert len(passing) > 60
    # What is unconditional is not repeated over a document that somebody made just now, as the judge does.
    unclear = {schedule.operation for schedule, name in passing.items() if name == "UncertainError"}
    assert unclear <= {"save", "delete"}
    assert set(passing.values()) <= {"ok", "UncertainError"}


# --- where another writes too -----------------------------------------------------------------------------------------

RIVALRY = [
    Schedule(name, ((OPERATIONS[name].requests, 1, kind),))
    for name in ("create", "swap", "delete-if")
    for kind in ("slow", "drop-before", "503", "409", "412", "drop-after", "503-after", "412-after")
]


@on_each_target
async def test_fault_schedules_with_a_rival(stubs: list[Stub], quick: None, target: Target) -> None:
    """Where another client writes while the answer is on its way, nobody takes its document for their own.

    A call that returned had its effect before; one whose first request was lost has not, and must not say so.
    """
    outcomes = await run_all(target, stubs, RIVALRY, rival=RIVAL)
    for schedule, outcome in outcomes.items():
        kind = schedule.faults[0][2]
        if kind == "slow":  # it was done, and the answer came
            assert outcome.name == "ok", schedule
        else:
            assert outcome.name in {"UncertainError", "ConflictError", "ExistsError"}, (schedule, outcome)
        # It was done and then overwritten, which nobody can know. aiohttp repeats a request whose connection was cut by
        # itself: there the repeated one's refusal is all that is known.
        if kind == "503-after" or (
            kind == "drop-after" and target.engine == "obstore" and "-if" not in schedule.operation
        ):
            assert outcome.name == "UncertainError", (schedule, outcome)


# --- controls ---------------------------------------------------------------------------------------------------------


async def plainly(client: Client, _: float, write: PendingWrite, /) -> Stat | None:
    """What `retry_write` would be without looking: one attempt."""
    return await client.send(write)


async def naively(client: Client, _: float, write: PendingWrite, /) -> Stat | None:
    """What `retry_write` would be without looking: another attempt while the error is temporary."""
    for _ in range(client.policy.attempts - 1):
        with suppress(UnavailableError):
            return await client.send(write)
    return await client.send(write)


CONTROL = [Schedule(name, ((1, 1, "drop-after"),)) for name in ("create", "swap")]


async def run_control(target: Target, stubs: list[Stub]) -> list[str]:
    """What is wrong where the answer to a write was lost, on servers as after their start."""
    for stub in stubs:
        stub.reset()
    return wrong(await run_all(target, stubs, CONTROL))


@on_each_target
@on_asyncio
async def test_control_without_the_look_conflicts_are_false(
    stubs: list[Stub], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same judge finds false conflicts where a lost answer is answered by a second attempt only."""
    monkeypatch.setattr("accountstore.client.retry_write", naively)
    assert ["a false" in one for one in await run_control(target, stubs)] == [True] * len(CONTROL)
    monkeypatch.undo()
    assert await run_control(target, stubs) == []


def as_it_comes(session: Any, /, *_: object, **__: object) -> None:
    """Leave a session of aiohttp as it is, but for the answers, whose bodies the backend reads."""
    from accountstore.backends.sessions import BoundedAnswer

    session._response_class = BoundedAnswer


@by_fsspec
@on_asyncio
async def test_clients_repeat_nothing(stubs: list[Stub], target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose connection was closed is not sent again below the store. The control: as aiohttp comes, a PUT is,
    and meets itself.
    """
    monkeypatch.setattr("accountstore.client.retry_write", plainly)
    assert all("false" not in one for one in await run_control(target, stubs))
    if target.service != "gcs":  # whose writes are POSTs, which aiohttp does not repeat
        monkeypatch.setattr(f"accountstore.backends.{target.service}.prepare", as_it_comes)
        assert ["a false" in one for one in await run_control(target, stubs)] == [True] * len(CONTROL)


# --- writes that land after the deadline ------------------------------------------------------------------------------


@on_each_target
async def test_writes_that_land_late_were_uncertain(stubs: list[Stub], target: Target) -> None:
    """A write that the server makes after the deadline ended with `UncertainError`, never as a plain failure."""
    stub = stubs[0]
    names = [name for name, operation in OPERATIONS.items() if operation.writes and operation.requests == 1]

    async def run(store: AccountStore, name: str, version: Version) -> None:
        at = Location("a.account", folder=name)
        with pytest.raises(UncertainError) as caught:
            await OPERATIONS[name].call(store, at, version)
        assert caught.value.temporary
        assert caught.value.location == at
        assert target.found(stub, at) == OPERATIONS[name].before

    for timeout in PATIENCE:
        async with AccountStore.open(target.config(stub.url, timeout=timeout, attempts=1)) as store:
            versions: dict[str, Version] = {}
            await warm(store)
            for name in names:
                at = Location("a.account", folder=name)
                target.put(stub, at, OLD)
                versions[name] = (await patiently(partial(store.read, at))).version
                if OPERATIONS[name].before is None:
                    await patiently(partial(store.delete, at))
            stub.faults([{"nth": 1, "times": 99, "kind": "late"}])
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(run, store, name, versions[name])
            stub.faults([])
            if stub.land() == len(names):
                break
    else:
        pytest.fail("the deadline always comes before the requests")
    for name in names:
        assert target.found(stub, Location("a.account", folder=name)) == OPERATIONS[name].after


# --- where nothing can work -------------------------------------------------------------------------------------------

CANARY = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnk="
CALLS: Mapping[str, Callable[[AccountStore, Location], Awaitable[object]]] = {
    "get": lambda store, at: store.get(at),
    "save": lambda store, at: store.save(at, NEW),
    "create": lambda store, at: store.save(at, NEW, mode="create"),
    "list": listed,
    "versions": lambda store, at: store.versions(at),
}


def closed_port() -> int:
    """A port of the loopback where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def refused(target: Target, endpoint: str, bucket: str, name: str) -> AccountStoreError:
    """The error of a call on a place that cannot work; it names the place and shows no secret."""
    config = target.config(endpoint, bucket, secret=CANARY, timeout=CALM)
    async with AccountStore.open(config) as store:
        with pytest.raises(AccountStoreError) as caught:
            await CALLS[name](store, Location("a.account", folder="f"))
    failure = caught.value
    shown = traceback.TracebackException.from_exception(failure, capture_locals=True)
    # The frames of this module hold the configuration on purpose; those of the library must not.
    texts = [str(failure), repr(failure), *(str(frame.locals) for frame in shown.stack if __file__ != frame.filename)]
    assert all(CANARY not in text for text in texts)
    assert "pw" not in str(failure)
    assert failure.__cause__ is None or CANARY not in repr(failure.__cause__)
    assert failure.__context__ is None
    assert "'cloud'" in failure.message
    assert endpoint in failure.message
    assert f"://{bucket}/p" in failure.message
    return failure


@on_each_target
@on_asyncio
async def test_an_endpoint_that_cannot_be_reached(quick: None, target: Target) -> None:
    """Where nobody listens, a call is unavailable and surely not sent: a write is not uncertain."""
    for name in CALLS:
        failure = await refused(target, f"http://127.0.0.1:{closed_port()}", BUCKET, name)
        assert type(failure) is UnavailableError, name
        assert failure.sent is False, name
        assert failure.temporary, name


@on_each_target
@on_asyncio
@pytest.mark.parametrize(
    ("bucket", "kind", "words"),
    [
        ("missing-1", BackendError, "does not exist"),
        ("forbidden-1", DeniedError, "denied"),
        ("badkeys-1", DeniedError, "denied"),
        ("elsewhere-1", BackendError, "another region"),
    ],
)
async def test_a_bucket_where_nothing_works(
    stubs: list[Stub], quick: None, target: Target, bucket: str, kind: type[BackendError], words: str
) -> None:
    """One clear error of the right class for each reason, after at most two requests."""
    if bucket.startswith("elsewhere") and target.service != "s3":
        return
    for name in CALLS:
        stubs[0].reset()
        failure = await refused(target, stubs[0].url, bucket, name)
        assert type(failure) is kind, (name, failure)
        assert words in failure.message, (name, failure)
        assert not failure.temporary
        assert 1 <= stubs[0].count() <= 2, (name, stubs[0].log())


@on_each_target
async def test_a_busy_storage_is_asked_no_more_often_than_allowed(
    stubs: list[Stub], quick: None, target: Target
) -> None:
    """A storage that stays busy gets at most `attempts` requests for each call, of a write one and then looks only."""
    stub, at = stubs[0], Location("a.account", folder="f")
    async with AccountStore.open(target.config(stub.url, timeout=CALM, attempts=4)) as store:
        for name, call in CALLS.items():
            stub.reset()
            stub.faults([{"nth": 1, "times": 1000, "kind": "503"}])
            with pytest.raises(UnavailableError) as caught:
                await call(store, at)
            assert isinstance(caught.value, UncertainError) == (name in {"save", "create"})
            asked = Counter("look" if one["op"] == "head" else "call" for one in stub.log())
            assert asked == ({"call": 1, "look": 4} if name in {"save", "create"} else {"call": 4}), name


@on_each_target
@on_asyncio
async def test_a_document_is_missing_from_a_bucket_of_any_name(stubs: list[Stub], target: Target) -> None:
    """A document that is not there is told from a bucket that is not there, also where names sound like the latter."""
    async with AccountStore.open(target.config(stubs[0].url, "my-bucket")) as store:
        at = Location("the bucket does not exist NoSuchBucket.account", folder="status code 503")
        for call in (store.get, store.stat):
            with pytest.raises(NotFoundError):
                await call(at)
        assert not await store.exists(at)
        await store.delete(at)
        assert await listed(store, at) == []
