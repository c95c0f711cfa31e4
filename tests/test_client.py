"""StorageClient: one request or one batch, its deadline, what it refuses to ask for, and its typed errors."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, cast

import anyio
import pytest
from doubles import BatchMemory, Recording, raises
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, FAILING, MULTI_AT

from accountstore import AccountStore, Version
from accountstore.backends.base import Blob, Stat, Write, digest
from accountstore.backends.memory import MemoryBackend
from accountstore.client import StorageClient
from accountstore.codecs import JSON
from accountstore.errors import (
    AccountStoreError,
    ClosedError,
    ConflictError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)
from accountstore.retry import RetryPolicy
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from accountstore.backends.base import WriteMode
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

CHANGES = {"write", "write_many", "delete"}

# Of the calls that make the same request in the same way, one is quick.
QUICK = {"get", "update", "save", "delete", "move", "stat", "save_many", "get_many", "list"}
each_request = pytest.mark.parametrize(
    ("call", "operation"),
    [pytest.param(*pair, marks=() if pair[0] in QUICK else pytest.mark.once) for pair in FAILING],
)


async def holding(*faults: Fault) -> Recording:
    """A backend with a document at AT, that takes batches."""
    backend = Recording(BatchMemory(), faults)
    await backend.put(AT, JSON.encode(ACCOUNT))
    return backend


OF_THE_STORAGE = (OSError(), UnavailableError("busy"), UnavailableError("busy [storage 'main': url]"))
OF_THE_DOCUMENT = (NotFoundError("own"), ConflictError("own"), TooLargeError("own"), UnsupportedError("own"))


@pytest.mark.parametrize("error", [*OF_THE_STORAGE, *OF_THE_DOCUMENT], ids=repr)
async def test_an_error_of_the_storage_itself_names_it_once(error: Exception) -> None:
    """An error that is about the storage, and not about a document in it, says which one it is."""
    backend = await holding(Fault("read", 1, "before", error))
    policy = RetryPolicy(attempts=1, storage="storage 'main': url")
    with pytest.raises(AccountStoreError) as caught:
        client = StorageClient("main", backend, policy, limit=10)
        await client.read("a", client.deadline())
    assert caught.value.message.count(" [storage 'main': url]") == (error in OF_THE_STORAGE)


def lengthen(store: AccountStore, /) -> None:
    """Give later calls of a store all the time that they need on a busy machine."""
    client = cast("Any", store)._resolver.storage(None).client
    client.policy = replace(client.policy, timeout=HUNG)


@each_request
async def test_the_deadline_ends_a_call_that_hangs(call: str, operation: Operation) -> None:
    """A storage that does not answer in time is an `UnavailableError` of a read, and of a change, which may have been
    made, an `UncertainError`; about the document, which is as it was. There is no attempt after the deadline, and the
    store goes on.
    """
    backend = await holding(Fault(operation, 1, "hang"))
    store = store_over({"main": backend}, timeout=0.1, attempts=4)
    started = anyio.current_time()
    kind = UncertainError if operation in CHANGES else UnavailableError
    with raises(UnavailableError, match=r"no answer within 0\.1 s", __class__=kind) as caught:
        await CALLS[call](store)
    assert anyio.current_time() - started >= 0.09
    assert caught.value.location in ({None} if call == "list" else {AT, ELSEWHERE, MULTI_AT})
    assert backend.calls[operation] == 1
    assert await backend.raw(AT) == JSON.encode(ACCOUNT)
    lengthen(store)
    await CALLS[call](store)


async def test_control_without_a_deadline_a_call_hangs_on() -> None:
    """The control: the same call under a long deadline still hangs when the short one would have ended it."""
    store = store_over({"main": await holding(Fault("read", 1, "hang"))})
    with anyio.move_on_after(0.3) as scope:
        await store.get(AT)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("call", "operation"), [("get", "read"), ("list", "scan"), ("save", "write"), ("create", "write")]
)
async def test_the_deadline_is_that_of_all_attempts(
    call: str, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses take their time from the same deadline: one that would last forever ends with it, and so does the call."""

    async def pause(_: float) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr("anyio.sleep", pause)
    backend = await holding(Fault(operation, 1, "before", ConnectionRefusedError()))
    with pytest.raises(UnavailableError, match=r"no answer within 0\.1 s"):
        await CALLS[call](store_over({"main": backend}, timeout=0.1, attempts=4))
    assert backend.calls[operation] == 1


@each_request
async def test_a_call_that_hangs_can_be_cancelled(call: str, operation: Operation) -> None:
    """A cancelled read is dropped at once, a change when its deadline has passed; the same call then works."""
    backend = await holding(Fault(operation, 1, "hang"))
    store = store_over({"main": backend}, timeout=0.1 if operation in CHANGES else HUNG)

    async def cancel(begun: str) -> None:
        if begun == operation:
            scope.cancel()

    backend.before = cancel
    with anyio.CancelScope() as scope:
        await CALLS[call](store)
    assert scope.cancelled_caught
    assert await backend.raw(AT) == JSON.encode(ACCOUNT)
    lengthen(store)
    await CALLS[call](store)


@pytest.mark.parametrize("error", [None, PermissionError(), RuntimeError()], ids=repr)
async def test_a_storage_that_does_not_say_whether_it_keeps_versions_may(error: Exception | None) -> None:
    """Where that question fails, or has no answer in time, it is not known, and no error."""

    class Unsure(MemoryBackend):
        async def versioned(self) -> bool | None:
            if error is None:
                await anyio.sleep_forever()
            raise error or AssertionError

    assert await StorageClient("main", Unsure(), RetryPolicy(0.1), limit=10).versioned() is None


async def test_what_a_storage_cannot_promise_is_refused_before_any_io() -> None:
    """Conditions that the backend does not declare are an `UnsupportedError`, and nothing was read or written."""
    backend = Recording(create=False, update=False)
    store = store_over({"main": backend})
    creates = ("create", "create of JSON", "create many")
    swaps = ("swap", "swap of JSON", "update", "update_multi", "delete of a version")
    for call in (
        *(CALLS[name](store) for name in (*creates, *swaps)),
        store.copy(AT, ELSEWHERE, mode="create"),
        store.copy(AT, ELSEWHERE, mode=Version("any")),
        store.move(AT, ELSEWHERE, mode="create"),
    ):
        with pytest.raises(UnsupportedError, match="'main' does not promise") as caught:
            await call
        assert caught.value.location in {AT, ELSEWHERE, MULTI_AT}
    assert backend.log == []
    await store.save(AT, ACCOUNT)
    await store.delete(AT)
    assert backend.log == ["write", "delete"]


@pytest.mark.parametrize("batch", [1, 2])
async def test_a_batch_is_one_call_of_a_backend_that_takes_batches(batch: int) -> None:
    """A backend that declares batches is given one, unless it is empty; any other, each document by itself."""
    backend = Recording(BatchMemory(batch))
    client = StorageClient("main", backend, limit=10)
    assert await client.write_many([]) == []
    stats = await client.write_many([Write("a", b"1", "overwrite"), Write("b", b"2", "create")])
    blobs = await client.read_many(["a", "b", "c"])
    assert [stat.version for stat in stats if isinstance(stat, Stat)] == [digest(b"1"), digest(b"2")]
    assert [blob.data if isinstance(blob, Blob) else type(blob) for blob in blobs] == [b"1", b"2", NotFoundError]
    assert backend.log == (["write"] * 2 + ["read"] * 3 if batch == 1 else ["write_many", "read_many"])


class Partial(BatchMemory):
    """Each document of a batch fails with an error; what is asked for by itself does not."""

    def __init__(self, error: Exception, /) -> None:
        super().__init__()
        self.error = error

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return [self.error for _ in keys]

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return [self.error for _ in writes]


class Lost(BatchMemory):
    """A batch is written, its answer is lost, and another writer comes."""

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        for write in writes:
            await self.write(write.key, b"another", mode="overwrite")
        self.answer()
        return [ConnectionResetError() for _ in writes]

    def answer(self) -> None:
        """When the answer is due."""


@pytest.mark.parametrize(
    ("error", "attempts", "ends"),
    [
        (ConnectionResetError(), 1, [UncertainError, UncertainError, UnavailableError]),
        (ConnectionResetError(), 2, [Stat, Stat, Blob]),
        (ConnectionRefusedError(), 1, [UnavailableError, UnavailableError, UnavailableError]),
        (ConnectionRefusedError(), 2, [Stat, Stat, Blob]),
        (ConflictError("changed"), 2, [ConflictError, ConflictError, ConflictError]),
    ],
    ids=["lost, one attempt", "lost", "not sent, one attempt", "not sent", "not temporary"],
)
async def test_what_failed_for_a_while_in_a_batch_is_asked_for_by_itself(
    error: Exception, attempts: int, ends: list[type]
) -> None:
    """Where there are attempts left, a document whose error in a batch was temporary is asked for by itself."""
    backend = Recording(Partial(error))
    client = StorageClient("main", backend, RetryPolicy(attempts=attempts), limit=10)
    written = await client.write_many([Write("a", b"1", "overwrite"), Write("b", b"2", "create")])
    read = await client.read_many(["a"])
    assert [type(end) for end in (*written, *read)] == ends
    looks = ["stat"] * (isinstance(error, ConnectionResetError) and Stat in ends)
    writes = [*looks, "write"] * ends.count(Stat)
    assert backend.log == ["write_many", *writes, "read_many", *["read"] * ends.count(Blob)]


async def test_a_write_that_was_lost_in_a_batch_undoes_nobodys_change() -> None:
    """It is looked for before it is made again: over what others wrote meanwhile it is not."""
    backend = Lost()
    client = StorageClient("main", backend, limit=10)
    [written] = await client.write_many([Write("a", b"1", "overwrite")])
    assert isinstance(written, UncertainError)
    assert (await client.read("a", client.deadline())).data == b"another"


@pytest.mark.parametrize("passed", [0.985, 1.5], ids=["late", "too late"])
async def test_a_write_that_was_lost_in_a_batch_is_uncertain_where_no_time_is_left(
    passed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it was not made again does not tell that it was not made."""
    backend = Lost()
    client = StorageClient("main", backend, limit=10)
    later = time.monotonic() + client.policy.timeout * passed
    monkeypatch.setattr(backend, "answer", lambda: monkeypatch.setattr("accountstore.retry.monotonic", lambda: later))
    [written] = await client.write_many([Write("a", b"1", "overwrite")])
    assert isinstance(written, UncertainError)


async def test_no_more_operations_are_in_flight_than_may_be() -> None:
    """An operation that finds all turns taken waits for the next, within its deadline; what got none was not sent."""
    backend = await holding(*(Fault("read", nth, "hang") for nth in (1, 2)))
    client = StorageClient("main", backend, RetryPolicy(timeout=1, attempts=1), limit=1000, concurrency=2)
    failures: list[AccountStoreError] = []
    late: list[float] = []

    def hang() -> Awaitable[object]:
        late.append(client.deadline())
        return client.read(AT.path, late[-1])

    async def call(request: Callable[[], Awaitable[object]]) -> None:
        try:
            await request()
        except AccountStoreError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(call, hang)
        await anyio.wait_all_tasks_blocked()
        for request in (
            lambda: client.read(AT.path, min(late) - 0.9),
            lambda: client.write(AT.path, b"1", "overwrite", min(late) - 0.9),
        ):
            tasks.start_soon(call, request)
    assert Counter((type(error), getattr(error, "sent", None)) for error in failures) == {
        (UnavailableError, False): 2,
        (UnavailableError, True): 2,
    }
    assert backend.calls["write"] == 0
    assert (await client.read(AT.path, client.deadline())).data == JSON.encode(ACCOUNT)


WRITES: dict[str, Callable[[StorageClient, float], Awaitable[object]]] = {
    "save": lambda client, by: client.write(AT.path, b"1", "overwrite", by),
    "create": lambda client, by: client.write("new.account", b"1", "create", by),
    "delete": lambda client, by: client.delete(AT.path, None, by),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_whose_time_is_nearly_up_is_not_sent(write: str) -> None:
    """A write that has its turn when a fiftieth of its time is left, or less, was surely not made: it would be cut
    short, and its outcome be unknown. Others then have the turn.
    """
    backend = await holding()
    client = StorageClient("main", backend, RetryPolicy(timeout=HUNG, attempts=1), limit=1000, concurrency=1)
    for late in (time.monotonic() + HUNG * 0.019, time.monotonic() - 1):
        with raises(UnavailableError, match="no answer within", sent=False, __class__=UnavailableError):
            await WRITES[write](client, late)
    assert not backend.calls
    await WRITES[write](client, client.deadline())


@pytest.mark.parametrize("write", WRITES)
async def test_control_a_write_that_is_sent_too_late_is_uncertain(write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the bound it is sent when its time is up, and nobody knows whether it was made."""
    monkeypatch.setattr("accountstore.retry._TOO_LATE", float("-inf"))
    backend = await holding(Fault("write", 1, "hang"), Fault("delete", 1, "hang"))
    client = StorageClient("main", backend, RetryPolicy(timeout=HUNG, attempts=1), limit=1000, concurrency=1)
    with pytest.raises(UncertainError):
        await WRITES[write](client, time.monotonic() - 1)
    assert backend.calls["write"] + backend.calls["delete"] == 1


@pytest.mark.parametrize(("passed", "attempts"), [(0.985, 1), (0.9, 2)], ids=["late", "control"])
async def test_an_attempt_is_not_made_when_the_time_is_nearly_up(
    passed: float, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that was not sent, and whose pause ends when its time is nearly up, is surely not made. The control: with
    time left it is attempted again.
    """

    async def pause(_: float) -> None:
        monkeypatch.setattr("accountstore.retry.monotonic", lambda: time.monotonic() + HUNG * passed)

    monkeypatch.setattr("accountstore.retry.backoff", pause)
    backend = await holding(Fault("write", 1, "before", UnavailableError("refused", sent=False)))
    client = StorageClient("main", backend, RetryPolicy(timeout=HUNG), limit=1000)
    with raises(UnavailableError, sent=False, __class__=UnavailableError) if attempts == 1 else nullcontext():
        await client.write(AT.path, b"1", "overwrite", client.deadline())
    assert backend.calls["write"] == attempts


@pytest.mark.parametrize("write", WRITES)
async def test_a_storage_that_is_never_uncertain_is_written_to_up_to_the_deadline(write: str) -> None:
    """Memory and folders do not leave a write that was cut short unknown: it is sent while there is any time."""
    backend = Recording(certain=True)
    await backend.write(AT.path, b"0", mode="overwrite")
    client = StorageClient("main", backend, RetryPolicy(timeout=HUNG, attempts=1), limit=1000)
    await WRITES[write](client, time.monotonic() + HUNG * 0.019)
    with raises(UnavailableError, sent=False, __class__=UnavailableError):
        await WRITES[write](client, time.monotonic() - 1)


@pytest.mark.parametrize("passed", [0.985, 1.5], ids=["late", "too late"])
async def test_a_write_without_an_answer_is_looked_for_up_to_the_deadline(
    passed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is too late to send it again keeps nobody from learning that it was made."""

    async def pause(_: float) -> None:
        later = time.monotonic() + HUNG * passed
        monkeypatch.setattr("accountstore.retry.monotonic", lambda: later)

    monkeypatch.setattr("accountstore.retry.backoff", pause)
    lost = Fault("write", 1, "after", ConnectionResetError()), Fault("stat", 1, "before", ConnectionResetError())
    backend = Recording(MemoryBackend(), lost)
    client = StorageClient("main", backend, RetryPolicy(timeout=HUNG), limit=1000)
    with nullcontext() if passed < 1 else pytest.raises(UncertainError):
        await client.write(AT.path, b"1", "overwrite", client.deadline())
    assert (backend.calls["write"], backend.calls["stat"]) == (1, 2 if passed < 1 else 1)


async def test_a_read_whose_time_is_up_is_not_sent() -> None:
    """A read that has its turn when its time is up asks nothing of the storage."""
    backend = await holding()
    client = StorageClient("main", backend, limit=1000)
    with raises(UnavailableError, match="no answer within", sent=False):
        await client.read(AT.path, time.monotonic())
    assert backend.calls["read"] == 0


async def test_a_closed_client_sends_nothing() -> None:
    """Closing ends the operations under way: a read with `ClosedError`, a write that may have been done uncertain. What
    is asked for later is refused before it is sent.
    """
    backend = await holding(Fault("read", 1, "hang"), Fault("write", 1, "hang"))
    client = StorageClient("main", backend, limit=1000)
    kinds: list[type[Exception]] = []

    async def call(request: Callable[[], Awaitable[object]]) -> None:
        try:
            await request()
        except AccountStoreError as error:
            kinds.append(type(error))

    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: client.read(AT.path, client.deadline()),
        lambda: client.write(AT.path, b"1", "overwrite", client.deadline()),
    ]
    async with anyio.create_task_group() as tasks:
        for request in requests:
            tasks.start_soon(call, request)
        await anyio.wait_all_tasks_blocked()
        await client.aclose()
    assert sorted(kind.__name__ for kind in kinds) == ["ClosedError", "UncertainError"]
    sent = backend.calls.total()
    kinds.clear()
    for request in requests:
        await call(request)
    assert kinds == [ClosedError, ClosedError]
    assert backend.calls.total() == sent


async def test_each_document_of_many_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of a document that waits for its turn among many begins when it is asked for."""
    clock = [time.monotonic()]
    seen: list[float] = []

    class Slow(MemoryBackend):
        async def read(self, key: str, /, *, limit: int) -> Blob:
            clock[0] += 100
            return await super().read(key, limit=limit)

    monkeypatch.setattr("accountstore.client.monotonic", lambda: clock[0])
    client = StorageClient("main", Slow(), RetryPolicy(timeout=1000), limit=1000)
    read = client.read

    def reading(key: str, by: float, /) -> Awaitable[Blob]:
        seen.append(by)
        return read(key, by)

    monkeypatch.setattr(StorageClient, "read", staticmethod(reading))
    await client.read_many([f"{number}.account" for number in range(6)], at_once=2)
    assert len(seen) == 6
    assert seen[5] - seen[0] >= 200


async def test_a_backend_that_makes_an_error_of_its_cancellation_is_not_asked_again() -> None:
    """The deadline holds also where the call that it cut short says something else, which may pass."""
    asked = 0

    class Stubborn(MemoryBackend):
        async def _fail(self) -> NoReturn:
            nonlocal asked
            asked += 1
            try:
                await anyio.sleep_forever()
            finally:
                raise ConnectionResetError

        async def read(self, key: str, /, *, limit: int) -> Blob:
            await self._fail()

        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            await self._fail()

    async with store_over({"main": Stubborn()}, timeout=0.05, attempts=4) as store:
        with anyio.fail_after(HUNG):
            with pytest.raises(UnavailableError):
                await store.get(AT)
            with pytest.raises(UnavailableError):
                await store.save(AT, ACCOUNT)
    assert asked == 2
