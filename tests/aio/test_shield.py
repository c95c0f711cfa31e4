"""Deadlines and shields as a caller of the store meets them: what is left of a call in its task and on its loop."""

from __future__ import annotations

import asyncio
from selectors import DefaultSelector
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from accountstore import Account, Location, PasswordCredentials
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from selectors import SelectorKey

    from accountstore import AccountStore
    from accountstore.backends.base import Stat

AT = Location("email.account")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))


async def drained(store: AccountStore, /) -> None:
    async for _ in store.list():
        pass


CALLS: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "get": lambda store: store.get(AT),
    "save": lambda store: store.save(AT, ACCOUNT),
    "delete": lambda store: store.delete(AT),
    "list": drained,
}


class Clocked(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_has_ended_is_not_cancelled_later(name: str) -> None:
    """When the time of an ended call would have been up, its task is left alone, whatever it does by then."""

    async def work(loop: Clocked) -> str:
        store = store_over({"main": MemoryBackend()}, timeout=30)
        await store.save(AT, ACCOUNT)
        await CALLS[name](store)
        loop.ahead = 3600
        for _ in range(10):
            await asyncio.sleep(0)
        return "went on"

    async def main() -> tuple[bool, int, str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        task = asyncio.ensure_future(work(loop))
        await asyncio.wait((task,))
        return task.cancelled(), task.cancelling(), "" if task.cancelled() else task.result()

    with asyncio.Runner(loop_factory=Clocked) as runner:
        assert runner.run(main()) == (False, 0, "went on")


@pytest.mark.parametrize("name", ["get", "save"])
def test_control_a_call_that_has_not_ended_is_cancelled_by_then(name: str) -> None:
    """The control: the same clock ends a call that hangs."""

    class Hanging(MemoryBackend):
        async def read(self, key: str, /, *, limit: int) -> Any:
            await anyio.sleep_forever()

        async def write(self, key: str, data: bytes, /, **options: Any) -> Any:
            await anyio.sleep_forever()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        store = store_over({"main": Hanging()}, timeout=30)
        task = asyncio.ensure_future(CALLS[name](store))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        loop.ahead = 3600
        with pytest.raises(ConnectionError, match="no answer within 30 s"):
            await task

    with asyncio.Runner(loop_factory=Clocked) as runner:
        runner.run(main())


class Idling(DefaultSelector):
    """Counts how often the event loop had nothing to do and waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        self.waits += timeout is None or timeout > 0
        return super().select(timeout)


async def _waits(selector: Idling, chances: int, /) -> int:
    """How often the loop waits while this task sleeps a little: until it has waited or has had so many chances to."""
    before = selector.waits
    for _ in range(chances):
        await asyncio.sleep(0.001)
        if selector.waits != before:
            break
    return selector.waits - before


@pytest.mark.parametrize("call", ["save", "delete"])
def test_a_caller_that_is_cancelled_during_a_write_sleeps_until_its_end(call: str) -> None:
    """A cancelled scope cancels again and again what awaits in it. A call that awaits the end of its write is not woken
    by that: the loop goes to sleep meanwhile.
    """

    class Slow(MemoryBackend):
        async def write(self, key: str, data: bytes, /, **options: Any) -> Stat:
            begun.set()
            await end.wait()
            return await super().write(key, data, **options)

        async def delete(self, key: str, /, **options: Any) -> None:
            begun.set()
            await end.wait()
            await super().delete(key, **options)

    async def save(scope: anyio.CancelScope) -> None:
        with scope:
            await CALLS[call](store)

    async def main() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save, scope)
            await begun.wait()
            scope.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            waits.append(await _waits(selector, 2000))
            end.set()
        assert scope.cancelled_caught

    begun, end, selector, waits = asyncio.Event(), asyncio.Event(), Idling(), list[int]()
    store = store_over({"main": Slow()})
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())
    assert waits > [0]


def test_control_a_cancelled_scope_keeps_the_loop_busy() -> None:
    """The control: what awaits in a cancelled scope without a shield, whatever it does, lets the loop never sleep."""

    async def stubborn(scope: anyio.CancelScope) -> None:
        with scope:
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    continue

    async def main() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stubborn, scope)
            await asyncio.sleep(0)
            scope.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            waits.append(await _waits(selector, 100))
            end.set()

    end, selector, waits = asyncio.Event(), Idling(), list[int]()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())
    assert waits == [0]
