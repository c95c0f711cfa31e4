"""The fault-injecting backend of `accountstore.testing`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import anyio
import pytest
from doubles import BatchMemory, memory_harness

from accountstore.backends.base import Blob, Write
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import BackendTests, Fault, FaultyBackend, Harness, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore.testing.faults import Operation


@pytest.mark.once
class TestWithoutFaults(BackendTests):
    """Without faults the wrapper is the backend itself."""

    @pytest.fixture
    def harness(self) -> Harness:
        memory = memory_harness(BatchMemory)

        async def open_backend() -> FaultyBackend:
            return FaultyBackend(await memory.open())

        return dataclasses.replace(memory, open=open_backend)


CALLS: Mapping[Operation, Callable[[FaultyBackend], Awaitable[object]]] = {
    "read": lambda backend: backend.read("a.account", limit=10),
    "read_many": lambda backend: backend.read_many(["a.account"], limit=10),
    "write": lambda backend: backend.write("a.account", b"new", mode="overwrite"),
    "write_many": lambda backend: backend.write_many([Write("a.account", b"new", "overwrite")]),
    "stat": lambda backend: backend.stat("a.account"),
    "delete": lambda backend: backend.delete("a.account"),
    "scan": lambda backend: anext(backend.scan("", recursive=True)),
    "aclose": lambda backend: backend.aclose(),
}


@pytest.fixture
async def memory() -> BatchMemory:
    """A backend with a document."""
    memory = BatchMemory()
    await memory.write("a.account", b"old", mode="overwrite")
    return memory


async def content(memory: BatchMemory, /) -> bytes | None:
    """What is in the document; None: there is none."""
    [blob] = await memory.read_many(["a.account"], limit=10)
    return blob.data if isinstance(blob, Blob) else None


@pytest.mark.anyio
@pytest.mark.parametrize("operation", CALLS)
async def test_a_fault_hits_the_call_that_it_names(memory: BatchMemory, operation: Operation) -> None:
    """Only the nth call of the operation fails, with the error given and without effect, and calls are counted."""
    error = OSError("broken")
    backend = FaultyBackend(memory, [Fault(operation, 2, "before", error)])
    await CALLS[operation](backend)
    await memory.write("a.account", b"old", mode="overwrite")
    with pytest.raises(OSError) as caught:
        await CALLS[operation](backend)
    assert caught.value is error
    assert await content(memory) == b"old"
    await CALLS[operation](backend)
    assert backend.calls == {operation: 3}


@pytest.mark.anyio
@pytest.mark.parametrize(("operation", "after"), [("write", b"new"), ("write_many", b"new"), ("delete", None)])
async def test_a_fault_after_a_call_has_its_effect(
    memory: BatchMemory, operation: Operation, after: bytes | None
) -> None:
    """A call that fails after its work has changed the storage."""
    backend = FaultyBackend(memory, [Fault(operation, 1, "after", ConnectionResetError())])
    with pytest.raises(ConnectionResetError):
        await CALLS[operation](backend)
    assert await content(memory) == after


@pytest.mark.anyio
@pytest.mark.parametrize("operation", CALLS)
async def test_a_hanging_call_ends_when_it_is_cancelled(memory: BatchMemory, operation: Operation) -> None:
    """A call that hangs does nothing until it is cancelled, and the next one works."""
    backend = FaultyBackend(memory, [Fault(operation, 1, "hang")])
    with anyio.move_on_after(0.05) as scope:
        await CALLS[operation](backend)
    assert scope.cancelled_caught
    assert await content(memory) == b"old"
    await CALLS[operation](backend)
    assert backend.calls[operation] == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Fault("save"), "operation must be one of a backend's: read, "),  # type: ignore[arg-type]
        (lambda: Fault("write", 1, "during"), "moment must be one of a backend's: before, "),  # type: ignore[arg-type]
        (lambda: Fault("write", 0), "nth must be 1 or more"),
        (lambda: Fault("write", 1, "before", OSError), "error must be an exception that is made"),  # type: ignore[arg-type]
        (lambda: Fault("write", 1, "before", None), "error must be an exception that is made"),  # type: ignore[arg-type]
        (lambda: store_over(MemoryBackend()), "by their storages' names"),  # type: ignore[arg-type]
        (lambda: store_over({}), "by their storages' names"),
        (lambda: store_over({"main": MemoryBackend()}, codec="yaml"), "codec must be one of json, msgpack"),
    ],
)
def test_what_would_never_happen_is_refused(make: Callable[[], object], said: str) -> None:
    """A fault that no call can meet, and a store on no backend, are errors where they are written."""
    with pytest.raises((TypeError, ValueError), match=said):
        make()
