"""The fault-injecting backend, and what the store makes of a storage that fails."""

from __future__ import annotations

import errno
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from anyio import CancelScope, create_task_group, sleep
from msgspec.structs import replace

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    ClosedError,
    ConflictError,
    DeniedError,
    FullError,
    Location,
    MultiAccount,
    NotFoundError,
    PasswordCredentials,
    Stored,
    UnavailableError,
    UncertainError,
    Version,
)
from accountstore.backends.base import Blob, Stat, Write
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import BackendTests, Fault, FaultyBackend, Harness, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

_CANARY = "canary-7f3a"
_AT = Location("email.account", folder="mail")
_OTHER = Location("other.account", folder="mail")
_MULTI = Location("all.multi.account", folder="mail")


def _account(port: int = 143) -> Account:
    return Account(host="h", port=port, credentials=PasswordCredentials(login="l", password=f"{_CANARY}-{port}"))


def _broken(error: Exception, *faults: tuple[Operation, int]) -> list[Fault]:
    return [Fault(operation, nth, "before", error) for operation, nth in faults]


async def _port(backend: MemoryBackend) -> int | None:
    """The port in the document, seen without the faulty backend; None: there is none."""
    store = store_over({"around": backend})
    return (await store.get(_AT)).port if await store.exists(_AT) else None


class TestWithoutFaults(BackendTests):
    """Without faults the wrapper is the backend itself."""

    @pytest.fixture
    def harness(self) -> Harness:
        opened: list[FaultyBackend] = []

        async def open_backend() -> FaultyBackend:
            opened.append(FaultyBackend(MemoryBackend()))
            return opened[-1]

        def put(key: str, data: bytes) -> None:
            fs: Any = opened[-1].filesystem()[0]
            fs.pipe_file(f"/{key}", data)

        def get(key: str) -> bytes | None:
            fs: Any = opened[-1].filesystem()[0]
            return bytes(fs.cat_file(f"/{key}")) if fs.exists(f"/{key}") else None

        return Harness(open=open_backend, put=put, get=get, shared=False)


# --- the backend ------------------------------------------------------------------------------------------------------


async def _first_page(backend: FaultyBackend) -> Sequence[Stat]:
    return await anext(backend.scan("", recursive=True))


_CALLS: dict[Operation, Callable[[FaultyBackend], Awaitable[object]]] = {
    "read": lambda backend: backend.read("a.account", limit=10),
    "read_many": lambda backend: backend.read_many(["a.account"], limit=10),
    "write": lambda backend: backend.write("a.account", b"new", mode="overwrite"),
    "write_many": lambda backend: backend.write_many([Write("a.account", b"new", "overwrite")]),
    "stat": lambda backend: backend.stat("a.account"),
    "delete": lambda backend: backend.delete("a.account"),
    "scan": _first_page,
    "aclose": lambda backend: backend.aclose(),
}


@pytest.mark.parametrize("operation", _CALLS)
async def test_fault_hits_the_call_that_it_names(operation: Operation) -> None:
    """Only the nth call of the operation fails, with the error given, and calls are counted."""
    memory = MemoryBackend()
    error = OSError(errno.EIO, "broken")
    backend = FaultyBackend(memory, [Fault(operation, 2, "before", error)])
    await memory.write("a.account", b"old", mode="overwrite")
    await _CALLS[operation](backend)
    await memory.write("a.account", b"old", mode="overwrite")
    with pytest.raises(OSError) as caught:
        await _CALLS[operation](backend)
    assert caught.value is error
    assert (await memory.read("a.account", limit=10)).data == b"old"
    await _CALLS[operation](backend)
    assert backend.calls == {operation: 3}


@pytest.mark.parametrize(("operation", "after"), [("write", b"new"), ("write_many", b"new"), ("delete", None)])
async def test_fault_after_a_call_has_its_effect(operation: Operation, after: bytes | None) -> None:
    """A call that fails after its work has changed the storage."""
    memory = MemoryBackend()
    await memory.write("a.account", b"old", mode="overwrite")
    backend = FaultyBackend(memory, [Fault(operation, 1, "after", ConnectionResetError())])
    with pytest.raises(ConnectionResetError):
        await _CALLS[operation](backend)
    found = await memory.read_many(["a.account"], limit=10)
    assert [blob.data if isinstance(blob, Blob) else None for blob in found] == [after]


@pytest.mark.parametrize("operation", _CALLS)
async def test_hanging_call_ends_when_it_is_cancelled(operation: Operation) -> None:
    """A call that hangs does nothing until it is cancelled, and the next one works."""
    memory = MemoryBackend()
    await memory.write("a.account", b"old", mode="overwrite")
    backend = FaultyBackend(memory, [Fault(operation, 1, "hang")])
    with CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(_cancel_when_called, backend, operation, scope)
            await _CALLS[operation](backend)
    assert scope.cancelled_caught
    assert (await memory.read("a.account", limit=10)).data == b"old"
    await _CALLS[operation](backend)
    assert backend.calls[operation] == 2


async def _cancel_when_called(backend: FaultyBackend, operation: str, scope: CancelScope) -> None:
    while not backend.calls[operation]:
        await sleep(0)
    scope.cancel()


# --- the store on it --------------------------------------------------------------------------------------------------


async def _list(store: AccountStore) -> list[Location]:
    return [entry.location async for entry in store.list("mail")]


def _next_port(account: Account) -> Account:
    return replace(account, port=account.port + 1)


_STORE_CALLS: dict[str, tuple[Operation, Callable[[AccountStore], Awaitable[object]]]] = {
    "get": ("read", lambda store: store.get(_AT)),
    "read": ("read", lambda store: store.read(_AT)),
    "save": ("write", lambda store: store.save(_AT, _account(993))),
    "save create": ("write", lambda store: store.save(_OTHER, _account(993), mode="create")),
    "save_multi": ("write", lambda store: store.save_multi(_MULTI, MultiAccount(receive_accounts=[_account(993)]))),
    "update, reading": ("read", lambda store: store.update(_AT, _next_port)),
    "update, writing": ("write", lambda store: store.update(_AT, _next_port)),
    "stat": ("stat", lambda store: store.stat(_AT)),
    "exists": ("stat", lambda store: store.exists(_AT)),
    "delete": ("delete", lambda store: store.delete(_AT)),
    "copy, reading": ("read", lambda store: store.copy(_AT, _OTHER)),
    "copy, writing": ("write", lambda store: store.copy(_AT, _OTHER)),
    "move, deleting": ("delete", lambda store: store.move(_AT, _OTHER)),
    "list": ("scan", _list),
}
_ERRORS: list[tuple[Exception, type[BackendError], bool]] = [
    (OSError(errno.EIO, f"Input/output error: {_CANARY}"), BackendError, False),
    (OSError(errno.ENOSPC, "No space left on device"), FullError, False),
    (PermissionError(errno.EACCES, "Permission denied", _CANARY), DeniedError, False),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), UnavailableError, True),
    (TimeoutError(_CANARY), UnavailableError, True),
    (RuntimeError(f"cannot store {_CANARY}"), BackendError, False),
]


@pytest.mark.parametrize("call", _STORE_CALLS)
async def test_store_names_what_the_storage_raises(call: str) -> None:
    """A failing storage is one typed error with its location, shows no document, and leaves the old one."""
    operation, function = _STORE_CALLS[call]
    for raised, kind, temporary in _ERRORS:
        memory = MemoryBackend()
        store = store_over({"default": FaultyBackend(memory, _broken(raised, (operation, 1)))})
        await store_over({"around": memory}).save(_AT, _account())
        error = await _failure(function(store))
        unknown = kind is UnavailableError and operation in {"write", "delete"}
        assert type(error) is (UncertainError if unknown else kind)
        assert error.temporary is temporary
        assert error.location in {_AT, _OTHER, _MULTI, None}
        assert (error.location is None) is (call == "list")
        assert _CANARY not in _shown(error)
        assert await _port(memory) == 143
        await function(store)  # the next try works


async def _failure(call: Awaitable[object]) -> AccountStoreError:
    """The error that a call raises, with a traceback that begins here: the tests' own frames hold canaries."""
    try:
        await call
    except AccountStoreError as error:
        return error
    pytest.fail("nothing was raised")


def _shown(error: BaseException) -> str:
    """All that a traceback with locals and what it leads to would show."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return "".join(lines) + repr(error) + str(error.args)


async def test_control_raw_error_shows_the_document() -> None:
    """The same traceback of the error that the storage raised does show the document: the check can fail."""
    backend = FaultyBackend(MemoryBackend(), _broken(RuntimeError("broken"), ("write", 1)))

    async def write(data: bytes) -> None:
        await backend.write("a.account", data, mode="overwrite")

    with pytest.raises(RuntimeError) as caught:
        await write(f'{{"password": "{_CANARY}"}}'.encode())
    assert _CANARY in _shown(caught.value)


@pytest.mark.parametrize(("call", "port"), [("save", 993), ("delete", None), ("copy, writing", 143)])
async def test_lost_answer_is_uncertain(call: str, port: int | None) -> None:
    """When the storage did its work but the answer was lost, an unconditional change that may not be tried again says
    that nobody knows; the document is the new one.
    """
    operation, function = _STORE_CALLS[call]
    memory = MemoryBackend()
    store = store_over({"default": FaultyBackend(memory, [Fault(operation, 1, "after", ConnectionResetError())])})
    await store_over({"around": memory}).save(_AT, _account())
    error = await _failure(function(store))
    assert type(error) is UncertainError
    assert _CANARY not in _shown(error)
    assert await _port(memory) == port


@pytest.mark.parametrize(("call", "port"), [("save create", 143), ("update, writing", 144), ("move, deleting", None)])
async def test_lost_answer_of_a_condition_is_found_out(call: str, port: int | None) -> None:
    """When the answer of a conditional change was lost, the document itself tells that it was done."""
    operation, function = _STORE_CALLS[call]
    memory = MemoryBackend()
    store = store_over({"default": FaultyBackend(memory, [Fault(operation, 1, "after", ConnectionResetError())])})
    await store_over({"around": memory}).save(_AT, _account())
    await function(store)
    assert await _port(memory) == port


async def test_update_with_a_lost_answer_writes_nothing_twice() -> None:
    """An update whose answer was lost finds its change done, tells its version, and does not write again."""
    memory = MemoryBackend()
    backend = FaultyBackend(memory, [Fault("write", 1, "after", ConnectionResetError())])
    store = store_over({"default": backend}, attempts=4)
    await store_over({"around": memory}).save(_AT, _account())
    stored = await store.update(_AT, lambda account: replace(account, port=993))
    assert stored == await store.read(_AT)
    assert stored.document.port == 993
    assert backend.calls == {"read": 3, "write": 1}


async def test_update_tries_again_after_conflicts() -> None:
    """An update reads and writes again as long as its swap is a conflict, and counts its attempts."""
    memory = MemoryBackend()
    backend = FaultyBackend(memory, _broken(ConflictError("changed"), ("write", 1), ("write", 2), ("write", 3)))
    attempts: list[int] = []
    store = store_over({"default": backend}, observer=lambda event: attempts.append(event.attempts))
    await store_over({"around": memory}).save(_AT, _account())
    assert (await store.update(_AT, _next_port)).document.port == 144
    assert backend.calls == {"read": 4, "write": 4}
    assert attempts == [4]


async def test_requests_are_as_many_as_promised() -> None:
    """Get, save, create and swap are one request each; an update without contention two; a closed store none."""
    backend = FaultyBackend(MemoryBackend())
    store = store_over({"default": backend})

    async def count(call: Awaitable[Any]) -> dict[str, int]:
        backend.calls.clear()
        await call
        return dict(backend.calls)

    assert await count(store.save(_AT, _account(), mode="create")) == {"write": 1}
    assert await count(store.save(_AT, _account(144))) == {"write": 1}
    version = (await store.read(_AT)).version
    assert await count(store.save(_AT, _account(145), mode=version)) == {"write": 1}
    assert await count(store.get(_AT)) == {"read": 1}
    assert await count(store.read(_AT)) == {"read": 1}
    assert await count(store.update(_AT, _next_port)) == {"read": 1, "write": 1}
    assert await count(store.update(_AT, lambda account: account)) == {"read": 1}
    assert await count(store.copy(_AT, _OTHER)) == {"read": 1, "write": 1}
    assert await count(store.stat(_AT)) == {"stat": 1}
    assert await count(store.exists(_AT)) == {"stat": 1}
    assert await count(store.delete(_AT)) == {"delete": 1}
    await store.aclose()
    backend.calls.clear()
    with pytest.raises(ClosedError):
        await store.get(_AT)
    assert not backend.calls


async def test_move_that_fails_at_its_end_leaves_both() -> None:
    """When the source cannot be removed, the document is in both places, and moving again ends the move."""
    memory = MemoryBackend()
    store = store_over({"default": FaultyBackend(memory, _broken(PermissionError(errno.EACCES, ""), ("delete", 1)))})
    await store.save(_AT, _account())
    with pytest.raises(DeniedError):
        await store.move(_AT, _OTHER)
    assert await store.get(_AT) == await store.get(_OTHER) == _account()
    await store.move(_AT, _OTHER)
    assert [await store.exists(_AT), await store.exists(_OTHER)] == [False, True]


async def test_batch_that_fails_is_an_error_of_each_document() -> None:
    """When a storage fails a whole batch, each document of it has its own error, and other storages are not touched."""
    broken = FaultyBackend(MemoryBackend(), _broken(ConnectionResetError(_CANARY), ("read_many", 2), ("write_many", 1)))
    store = store_over({"sound": MemoryBackend(), "broken": broken})
    locations = [Location(f"{i}.account", storage=("sound", "broken")[i % 2]) for i in range(6)]
    documents = [(at, _account()) for at in locations]

    async def save() -> dict[Location, Version | AccountStoreError]:
        return {at: result async for at, result in store.save_many(documents)}

    async def get() -> dict[Location, Stored[Any] | AccountStoreError]:
        return {at: result async for at, result in store.get_many(locations)}

    saved = await save()
    assert [isinstance(saved[at], Version) for at in locations] == [True, False] * 3
    errors = _errors(saved.values())
    assert [error.location for error in errors] == locations[1::2]
    assert all(type(error) is UncertainError and _CANARY not in _shown(error) for error in errors)
    assert all(isinstance(result, Version) for result in (await save()).values())
    assert all(isinstance(result, Stored) for result in (await get()).values())
    got = await get()
    assert [isinstance(got[at], Stored) for at in locations] == [True, False] * 3
    assert [error.location for error in _errors(got.values())] == locations[1::2]


def _errors(results: Iterable[object]) -> list[AccountStoreError]:
    return [result for result in results if isinstance(result, AccountStoreError)]


async def test_listing_that_fails_in_its_midst_is_an_error_there() -> None:
    """Entries before the failing page come, then the error; nothing is passed over in silence."""
    memory = MemoryBackend()
    for i in range(1500):
        await memory.write(f"{i}.account", b"{}", mode="overwrite")
    store = store_over({"default": FaultyBackend(memory, _broken(TimeoutError(), ("scan", 2)))})
    seen: set[Location] = set()

    with pytest.raises(UnavailableError):
        async for entry in store.list():
            seen.add(entry.location)
    assert len(seen) == 1000


@pytest.mark.parametrize("call", _STORE_CALLS)
async def test_cancelled_call_leaves_the_old_document(call: str) -> None:
    """A call that hangs in the storage can be cancelled: a read at once, a change when its deadline has passed. The
    document is the old one, and the same call then works.
    """
    operation, function = _STORE_CALLS[call]
    memory = MemoryBackend()
    backend = FaultyBackend(memory, [Fault(operation, 1, "hang")])
    store = store_over({"default": backend}, timeout=0.1)
    await store_over({"around": memory}).save(_AT, _account())
    with CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(_cancel_when_called, backend, operation, scope)
            await function(store)
    assert scope.cancelled_caught
    assert await _port(memory) == 143
    assert backend.calls[operation] == 1
    await function(store_over({"default": backend}))  # where no short deadline can disturb it
    assert backend.calls[operation] == 2 + (operation == "scan")


async def test_close_closes_every_storage_whatever_fails() -> None:
    """A storage that fails to close does not keep the others open; its error is raised, and the store is closed."""
    sound = FaultyBackend(MemoryBackend())
    broken = FaultyBackend(MemoryBackend(), _broken(OSError(errno.EIO, _CANARY), ("aclose", 1)))
    store = store_over({"broken": broken, "sound": sound})
    error = await _failure(store.aclose())
    assert type(error) is BackendError
    assert _CANARY not in _shown(error)
    assert sound.calls["aclose"] == 1
    with pytest.raises(ClosedError):
        await store.get(_AT)
    await store.aclose()
    assert broken.calls["aclose"] == 1


async def test_errors_of_the_backends_own_keep_their_class() -> None:
    """An error of the library that a backend raises comes out with its class and the location."""
    for error in (NotFoundError("gone"), ConflictError("changed"), UnavailableError("busy")):
        store = store_over({"default": FaultyBackend(MemoryBackend(), _broken(error, ("read", 1)))})
        with pytest.raises(type(error)) as caught:
            await store.get(_AT)
        assert caught.value.location == _AT
