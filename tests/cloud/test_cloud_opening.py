"""A cloud client is opened once, by the first call that needs it, whatever becomes of that call."""

from __future__ import annotations

import gc
import pkgutil
from threading import Event
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import get_running_tasks
from cloudtargets import AT, OLD, Target, assert_closed, need_packages, on_each_target
from running import HUNG

from accountstore import AccountStore, BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]

OPENERS = {"s3": "s3.S3FileSystem", "gcs": "gcs.GCSFileSystem", "azure": "azure.AzureBlobFileSystem"}


def before_opening(target: Target, monkeypatch: pytest.MonkeyPatch, step: Callable[[], object]) -> list[str]:
    """Have `step` called before a client is made, in its thread; each time is noted in what is returned."""
    need_packages(target.service, target.engine)
    name = "obstore.backend.open_store" if target.engine == "obstore" else OPENERS[target.service]
    make: Any = pkgutil.resolve_name(f"accountstore.backends.{name}")
    begun: list[str] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        begun.append(name)
        step()
        return make(*arguments, **options)

    monkeypatch.setattr(f"accountstore.backends.{name}", noted)
    return begun


@pytest.fixture
def gate() -> Iterator[Event]:
    """Opened by the test to let clients be made; at the end at the latest."""
    gate = Event()
    yield gate
    gate.set()


@pytest.fixture
def hold(stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch, gate: Event) -> Callable[[], list[str]]:
    """From its call on the making of clients, which are noted, waits for the gate. The document is there."""
    target.put(stub, AT, OLD)
    return lambda: before_opening(target, monkeypatch, lambda: gate.wait(HUNG))


async def cancel_while_it_opens(store: AccountStore, begun: list[str], times: int) -> None:
    """Cancel a call once the opening has begun so many times."""
    with anyio.fail_after(HUNG):
        async with anyio.create_task_group() as group:
            group.start_soon(store.get, AT)
            while len(begun) < times:
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()


@on_each_target
async def test_a_client_that_opens_slowly_is_opened_once(
    stub: Stub, target: Target, gate: Event, hold: Callable[[], list[str]]
) -> None:
    """Calls that are cancelled while they wait for the client leave its opening to those that follow."""
    async with AccountStore.open(target.config(stub.url)) as store:
        begun = hold()
        await cancel_while_it_opens(store, begun, 1)
        for _ in range(2):
            with anyio.move_on_after(0.02) as scope:
                await store.get(AT)
            assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(store.get, AT)
            await anyio.sleep(0.02)
            gate.set()
        assert await store.get(AT) == OLD
        assert len(begun) == 1
    await assert_closed(stub)


@on_each_target
async def test_an_opening_that_hangs_is_begun_again(
    stub: Stub, target: Target, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opening that takes long, as where a program for credentials hangs, keeps no later call: another is begun, and
    who waits for the first has the second's client.
    """
    monkeypatch.setattr("accountstore.backends.object_store._PATIENCE", 0.05)
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url)) as store:
        begun = before_opening(target, monkeypatch, lambda: len(begun) > 1 or gate.wait(HUNG))
        async with anyio.create_task_group() as group:
            group.start_soon(store.get, AT)
            while not begun:
                await anyio.sleep(0.005)
            await anyio.sleep(0.1)
            with anyio.fail_after(HUNG):
                assert await store.get(AT) == OLD
        assert len(begun) == 2
        gate.set()
    await assert_closed(stub)


@on_each_target
async def test_control_an_opening_that_belongs_to_its_caller_begins_again(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch, gate: Event, hold: Callable[[], list[str]]
) -> None:
    """The control: opened by the call itself, a client is opened again after each call that was cancelled."""

    async def get(client: Any) -> object:
        return await client._open()

    monkeypatch.setattr("accountstore.backends.object_store.Bucket._opened", get)
    async with AccountStore.open(target.config(stub.url)) as store:
        begun = hold()
        for times in (1, 2, 3):
            await cancel_while_it_opens(store, begun, times)
        gate.set()
    assert len(begun) == 3


@on_each_target
async def test_a_client_that_is_being_opened_is_closed_with_the_store(
    stub: Stub, target: Target, gate: Event, hold: Callable[[], list[str]]
) -> None:
    """A store that is closed while its client opens closes it, or does not wait for what has opened nothing yet."""
    tasks = {task.id for task in get_running_tasks()}
    store = await AccountStore.open(target.config(stub.url))
    await cancel_while_it_opens(store, hold(), 1)
    closed: list[bool] = []

    async def close() -> None:
        await store.aclose()
        closed.append(gate.is_set())

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        await anyio.sleep(0.2)
        assert closed == ([False] if target.engine == "fsspec" else [])
        gate.set()
    assert closed in ([False], [True])
    assert {task.id for task in get_running_tasks()} == tasks
    gc.collect()
    await assert_closed(stub)


@on_each_target
async def test_a_client_that_could_not_be_opened_is_tried_again(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while the client opens is that call's error; the next call opens it."""
    failures = [OSError("no such file of credentials")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        begun = before_opening(target, monkeypatch, fail_once)
        with pytest.raises(BackendError):
            await store.get(AT)
        assert await store.get(AT) == OLD
        assert len(begun) == 2
    await assert_closed(stub)
