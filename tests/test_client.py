"""StorageClient: one request or one batch, its deadline, what it refuses to ask for, and its typed errors."""

from __future__ import annotations

import errno
import traceback
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from doubles import BatchMemory, Recording, drained, result
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT, AT, ELSEWHERE, MULTI, MULTI_AT, OAUTH, next_port

from accountstore import (
    AccountStore,
    AccountStoreError,
    BackendError,
    ConflictError,
    DeniedError,
    FullError,
    NotFoundError,
    PasswordCredentials,
    UnavailableError,
    UncertainError,
    UnsupportedError,
    Version,
)
from accountstore.backends.base import Blob, Stat, Write, digest
from accountstore.backends.memory import MemoryBackend
from accountstore.client import StorageClient
from accountstore.codecs import JSON
from accountstore.retry import RetryPolicy
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from accountstore import Location
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"
HELD = replace(ACCOUNT, credentials=PasswordCredentials(login="me", password=CANARY))
"""The document at AT."""
VERSION = digest(JSON.encode(HELD))


async def raised(results: AsyncIterator[tuple[Location, object]], /) -> None:
    """Raise the error among results, which is about its location."""
    for location, end in await drained(results):
        if isinstance(end, AccountStoreError):
            assert end.location == location
            raise end


CALLS: Mapping[str, tuple[Operation, Callable[[AccountStore], Awaitable[object]]]] = {
    "get": ("read", lambda store: store.get(AT)),
    "read_json": ("read", lambda store: store.read_json(AT)),
    "save": ("write", lambda store: store.save(AT, OAUTH)),
    "save_multi": ("write", lambda store: store.save_multi(MULTI_AT, MULTI)),
    "save_json": ("write", lambda store: store.save_json(AT, JSON.encode(OAUTH))),
    "create": ("write", lambda store: store.save(ELSEWHERE, HELD, mode="create")),
    "swap": ("write", lambda store: store.save(AT, OAUTH, mode=VERSION)),
    "update, reading": ("read", lambda store: store.update(AT, next_port)),
    "update, writing": ("write", lambda store: store.update(AT, next_port)),
    "stat": ("stat", lambda store: store.stat(AT)),
    "exists": ("stat", lambda store: store.exists(AT)),
    "delete": ("delete", lambda store: store.delete(AT)),
    "delete of a version": ("delete", lambda store: store.delete(AT, version=VERSION)),
    "copy, reading": ("read", lambda store: store.copy(AT, ELSEWHERE)),
    "copy, writing": ("write", lambda store: store.copy(AT, ELSEWHERE)),
    "move, deleting": ("delete", lambda store: store.move(AT, ELSEWHERE)),
    "list": ("scan", lambda store: drained(store.list(recursive=True))),
    "get_many": ("read_many", lambda store: raised(store.get_many([AT]))),
    "save_many": ("write_many", lambda store: raised(store.save_many([(AT, OAUTH)]))),
    "create many": ("write_many", lambda store: raised(store.save_many([(ELSEWHERE, HELD)], mode="create"))),
}
"""The calls of a store with the request of theirs that fails."""
CHANGES = {"write", "write_many", "delete"}


async def holding(*faults: Fault) -> Recording:
    """A backend with a document at AT, that takes batches."""
    backend = Recording(BatchMemory(), faults)
    await backend.put(AT, JSON.encode(HELD))
    return backend


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS: Sequence[tuple[Exception, type[BackendError]]] = [
    (OSError(errno.EIO, f"Input/output error: {CANARY}"), BackendError),
    (OSError(errno.ENOSPC, "No space left on device"), FullError),
    (PermissionError(errno.EACCES, "Permission denied", CANARY), DeniedError),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), UnavailableError),
    (TimeoutError(CANARY), UnavailableError),
    (RuntimeError(f"cannot store {CANARY}"), BackendError),
]


@pytest.mark.parametrize("call", CALLS)
async def test_what_a_storage_raises_is_one_typed_error(call: str) -> None:
    """A failing storage is one typed error about the document, which shows nothing of it; the old document stays, and
    the next try works.
    """
    operation, run = CALLS[call]
    for error, kind in ERRORS:
        backend = await holding(Fault(operation, 1, "before", error))
        store = store_over({"main": backend})
        failure = await result(run(store))
        assert isinstance(failure, BackendError)
        uncertain = kind is UnavailableError and operation in CHANGES
        assert type(failure) is (UncertainError if uncertain else kind)
        assert failure.temporary is (kind is UnavailableError)
        assert (failure.location is None) is (call == "list")
        assert failure.location in {AT, ELSEWHERE, MULTI_AT, None}
        assert CANARY not in shown(failure)
        assert await backend.raw(AT) == JSON.encode(HELD)
        await run(store)


def shown(error: BaseException, /) -> str:
    """All that a traceback with locals and what it leads to would show."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return "".join(lines) + repr(error) + str(error.args)


async def test_control_the_raw_error_shows_the_document() -> None:
    """The control: the same traceback of the error that a backend raises shows the document."""
    backend = await holding(Fault("write", 1, "before", RuntimeError("broken")))

    async def write(data: bytes) -> None:
        await backend.write(AT.path, data, mode="overwrite")

    failure = await result(write(JSON.encode(HELD)))
    assert isinstance(failure, RuntimeError)
    assert CANARY in shown(failure)


DOWN: Mapping[str, tuple[list[str], list[str]]] = {
    "get": (["read"], ["read"]),
    "stat": (["stat"], ["stat"]),
    "exists": (["stat"], ["stat"]),
    "update, reading": (["read"], ["read"]),
    "copy, reading": (["read"], ["read"]),
    "save": (["write"], ["write"]),
    "delete": (["delete"], ["delete"]),
    "create": (["write"], ["write", "read"]),
    "swap": (["write"], ["write", "read"]),
    "delete of a version": (["delete"], ["delete", "stat"]),
    "list": (["scan"], ["scan"]),
    "get_many": (["read_many"], ["read_many"]),
    "save_many": (["write_many"], ["write_many"]),
    "create many": (["write_many"], ["write_many"]),
}
"""The requests of a call on a storage that is down: where none of them reaches it, and where each may have."""


@pytest.mark.parametrize("call", DOWN)
@pytest.mark.parametrize("sent", [False, True])
async def test_a_storage_that_is_down_is_asked_once(call: str, sent: bool) -> None:
    """With one attempt, each call asks a storage that is down once, and once more about the outcome of a change under a
    condition, if it may have been made: it is then uncertain, and else an `UnavailableError`.
    """
    operation, run = CALLS[call]
    backend = await holding()

    async def fail(_: str) -> None:
        raise ConnectionResetError if sent else ConnectionRefusedError

    backend.before = fail
    failure = await result(run(store_over({"main": backend})))
    assert type(failure) is (UncertainError if sent and operation in CHANGES else UnavailableError)
    assert backend.log == DOWN[call][sent]
    assert await backend.raw(AT) == JSON.encode(HELD)


# --- the deadline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("attempts", [1, 4])
async def test_the_deadline_ends_a_call_that_hangs(call: str, attempts: int) -> None:
    """A storage that does not answer in time is an `UnavailableError` of a read, and of a change, which may have been
    made, an `UncertainError`. There is no attempt after the deadline, and the store goes on.
    """
    operation, run = CALLS[call]
    backend = await holding(Fault(operation, 1, "hang"))
    store = store_over({"main": backend}, timeout=0.1, attempts=attempts)
    started = anyio.current_time()
    with pytest.raises(UnavailableError, match=r"no answer within 0\.1 s") as caught:
        await run(store)
    assert anyio.current_time() - started >= 0.09
    assert type(caught.value) is (UncertainError if operation in CHANGES else UnavailableError)
    assert backend.calls[operation] == 1
    assert await backend.raw(AT) == JSON.encode(HELD)
    lengthen(store)
    await run(store)


def lengthen(store: AccountStore, /) -> None:
    """Give later calls of a store all the time that they need on a busy machine."""
    policy = cast("Any", store)._resolver.storage(None).client.policy
    policy.timeout = policy.deadline.seconds = HUNG


async def test_control_without_a_deadline_a_call_hangs_on() -> None:
    """The control: the same call under a long deadline still hangs when the short one would have ended it."""
    store = store_over({"main": await holding(Fault("read", 1, "hang"))})
    with anyio.move_on_after(0.3) as scope:
        await store.get(AT)
    assert scope.cancelled_caught


@pytest.mark.parametrize("call", ["get", "save", "create", "delete", "list"])
async def test_the_deadline_is_that_of_all_attempts(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses take their time from the same deadline: one that would last forever ends with it, and so does the call."""
    operation, run = CALLS[call]

    async def pause(_: float) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr("anyio.sleep", pause)
    backend = await holding(Fault(operation, 1, "before", ConnectionRefusedError()))
    with pytest.raises(UnavailableError, match=r"no answer within 0\.1 s"):
        await run(store_over({"main": backend}, timeout=0.1, attempts=4))
    assert backend.calls[operation] == 1


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_hangs_can_be_cancelled(call: str) -> None:
    """A read is dropped at once, a change when its deadline has passed. The document is the old one, and the same call
    then works.
    """
    operation, run = CALLS[call]
    backend = await holding(Fault(operation, 1, "hang"))
    store = store_over({"main": backend}, timeout=0.1 if operation in CHANGES else HUNG)

    async def cancel(begun: str) -> None:
        if begun == operation:
            scope.cancel()

    backend.before = cancel
    with anyio.CancelScope() as scope:
        await run(store)
    assert scope.cancelled_caught
    assert await backend.raw(AT) == JSON.encode(HELD)
    lengthen(store)
    await run(store)


class Unsure(MemoryBackend):
    """Fails to say whether it keeps old versions, or does not answer."""

    def __init__(self, error: Exception | None = None, /) -> None:
        super().__init__()
        self.error = error

    async def versioned(self) -> bool | None:
        if self.error is None:
            await anyio.sleep_forever()
        raise self.error or AssertionError


@pytest.mark.parametrize("error", [None, PermissionError(), RuntimeError(CANARY)], ids=repr)
async def test_a_storage_that_does_not_say_whether_it_keeps_versions_may(error: Exception | None) -> None:
    """Where the question fails, or has no answer in time, it is not known, and that is no error."""
    policy = RetryPolicy(0.1)
    assert await StorageClient("main", Unsure(error), policy, limit=10).versioned() is None
    assert await StorageClient("main", MemoryBackend(), policy, limit=10).versioned() is False


# --- what a storage cannot promise ------------------------------------------------------------------------------------


async def test_what_a_storage_cannot_promise_is_refused_before_any_io() -> None:
    """Conditions that the backend does not declare are an `UnsupportedError`, and nothing was read or written."""
    backend = Recording(create=False, update=False)
    store = store_over({"main": backend})
    version = Version("any")
    for call in (
        store.save(AT, ACCOUNT, mode="create"),
        store.save(AT, ACCOUNT, mode=version),
        store.save_json(AT, JSON.encode(ACCOUNT), mode="create"),
        store.save_json(AT, JSON.encode(ACCOUNT), mode=version),
        store.update(AT, next_port),
        store.delete(AT, version=version),
        store.copy(AT, ELSEWHERE, mode="create"),
        store.copy(AT, ELSEWHERE, mode=version),
        store.move(AT, ELSEWHERE, mode="create"),
        raised(store.save_many([(AT, ACCOUNT)], mode="create")),
    ):
        with pytest.raises(UnsupportedError, match="'main' cannot") as caught:
            await call
        assert caught.value.location in {AT, ELSEWHERE}
    assert backend.log == []
    await store.save(AT, ACCOUNT)
    await store.delete(AT)
    assert backend.log == ["write", "delete"]


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
async def test_a_batch_is_one_call_of_a_backend_that_takes_batches(batch: int) -> None:
    """A backend that declares batches is given one; of any other each document is a call of its own."""
    backend = Recording(BatchMemory(batch))
    client = StorageClient("main", backend, limit=10)
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


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    ("error", "read", "overwritten", "created"),
    [
        (ConnectionResetError(), UnavailableError, UncertainError, UncertainError),
        (ConnectionRefusedError(), UnavailableError, UnavailableError, UnavailableError),
        (ConflictError("changed"), ConflictError, ConflictError, ConflictError),
    ],
    ids=["answer lost", "not sent", "not temporary"],
)
async def test_what_failed_for_a_while_in_a_batch_is_asked_for_by_itself(
    error: Exception, read: type, overwritten: type, created: type, attempts: int
) -> None:
    """Where there are attempts left, a document whose error in a batch was temporary is asked for by itself; but a
    create that may have been made is not, for it would meet its own document.
    """
    backend = Recording(Partial(error))
    client = StorageClient("main", backend, RetryPolicy(attempts=attempts), limit=10)
    writes = [Write("a", b"1", "overwrite"), Write("b", b"2", "create")]
    results: Sequence[Any] = [*await client.write_many(writes), *await client.read_many(["a"])]
    again = attempts > 1 and not isinstance(error, ConflictError)
    expected = [overwritten, created, read]
    if again:
        expected = [Stat, created if created is UncertainError else Stat, Blob]
    assert [type(end) for end in results] == expected
    singly = ["write"] * expected.count(Stat) + ["read_many"] + ["read"] * again
    assert backend.log == ["write_many", *singly]
