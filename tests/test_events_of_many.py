"""Events of many documents at a time: what was cancelled, and what was asked for again."""

from __future__ import annotations

import anyio
import pytest
from doubles import BatchMemory, drained
from samples import ACCOUNT, AT, MULTI_AT

from accountstore import Event, Location
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import Fault, FaultyBackend, store_over

pytestmark = pytest.mark.anyio

OTHER = Location("other.account")


@pytest.fixture
def events() -> list[Event]:
    """What an observer was called with."""
    return []


@pytest.mark.parametrize("call", ["save_many", "copy_many"])
async def test_a_cancelled_batch_makes_an_event_of_each_document(events: list[Event], call: str) -> None:
    """What was written is told, and of the rest that it was cancelled: it may be written."""
    backend = FaultyBackend(MemoryBackend(), [Fault("write", 4, "hang")])
    store = store_over({"main": backend}, observer=events.append, timeout=1)
    await store.save(AT, ACCOUNT)
    events.clear()
    targets = [Location(f"{number}.account") for number in range(4)]
    saved = store.save_many([(at, ACCOUNT) for at in targets], concurrency=1)
    copied = store.copy_many([(AT, at) for at in targets], concurrency=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drained, saved if call == "save_many" else copied)
        while backend.calls["write"] < 4:
            await anyio.sleep(0)
        tasks.cancel_scope.cancel()
    assert [event.target or event.location for event in events] == targets
    written = {event.target or event.location for event in events if event.outcome == "ok"}
    assert written == {entry.location for entry in await drained(store.list())} - {AT}
    assert any("Cancelled" in event.outcome for event in events)


@pytest.mark.usefixtures("pauses")
async def test_a_request_of_a_batch_that_is_made_again_is_told_once(events: list[Event]) -> None:
    """It counts for one document of the batch alone."""
    backend = FaultyBackend(BatchMemory(), [Fault("read_many", 1, "before", ConnectionResetError())])
    store = store_over({"main": backend}, observer=events.append, attempts=2)
    await drained(store.get_many([AT, OTHER, MULTI_AT]))
    assert backend.calls["read_many"] == 2
    assert sorted(event.retries for event in events) == [(), (), ("main",)]
