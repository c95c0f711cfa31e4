"""Ways to cancel a call, on each event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import anyio
import pytest
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Call: TypeAlias = Callable[[], Awaitable[object]]
    Begin: TypeAlias = Callable[[Callable[[], object]], object]
    Way: TypeAlias = Callable[[Call, Begin], Awaitable[bool]]

LOOPS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
on_asyncio = pytest.mark.parametrize("anyio_backend", [LOOPS["asyncio"], LOOPS["uvloop"]], ids=["asyncio", "uvloop"])
"""For what asyncio alone has: cancelling a task from anywhere, with no scope."""


async def by_scope(call: Call, begin: Begin, /) -> bool:
    """Make a call in a scope; `begin` is given what cancels it. Whether that has cancelled it."""
    with anyio.CancelScope() as scope:
        begin(scope.cancel)
        await call()
    return scope.cancelled_caught


async def by_task(call: Call, begin: Begin, /) -> bool:
    """Make a call in a task of asyncio, which no scope sees."""
    task = asyncio.ensure_future(call())
    begin(task.cancel)
    await asyncio.wait([task], timeout=HUNG)
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def by_timeout(call: Call, begin: Begin, /) -> bool:
    """Make a call in `asyncio.timeout`."""

    def expire() -> None:
        if not timeout.expired():
            timeout.reschedule(asyncio.get_running_loop().time())

    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            begin(expire)
            await call()
    except TimeoutError:
        return True
    return False


def each_way(*ways: Way) -> pytest.MarkDecorator:
    """A test for each way to cancel, `by`, on each event loop that has it."""
    rows = [
        pytest.param(loop, by, id=f"{name}-{by.__name__}")
        for by in ways
        for name, loop in LOOPS.items()
        if by is by_scope or name != "trio"
    ]
    return pytest.mark.parametrize(("anyio_backend", "by"), rows)


async def cancelled_after(by: Way, call: Call, moment: Call, times: int = 1) -> bool:
    """Whether a call was cancelled, so many times in a row, when `moment` had passed: it may end before."""

    async def cancel_then(cancel: Callable[[], object]) -> None:
        await moment()
        for _ in range(times):
            cancel()
            await anyio.sleep(0)

    cancelled = False
    async with anyio.create_task_group() as group:
        cancelled = await by(call, lambda cancel: group.start_soon(cancel_then, cancel))
        group.cancel_scope.cancel()
    return cancelled


async def stray() -> NoReturn:
    """Raise a cancellation that nobody has asked for: that of a scope that is over."""
    kept: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(0)
        except anyio.get_cancelled_exc_class() as error:
            kept = error
    assert kept is not None
    raise kept
