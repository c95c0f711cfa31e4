"""Calls that are cancelled, before they begin and in their midst."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from accountstore.aio.loops import asyncio_loop
from accountstore.aio.shield import run_shielded
from accountstore.backends.base import Backend, Write
from accountstore.testing.conformance.harness import KEY, Harness, Suite, batch_of, get, keys_of, put

__all__ = ("CancelTests",)


async def _steps(count: int, /) -> None:
    for _ in range(count):
        await checkpoint()


async def _cancelled_at(call: Callable[[], Awaitable[object]], moment: Callable[[], Awaitable[None]], /) -> None:
    """Make a call in a scope that is cancelled at a moment."""
    scope = anyio.CancelScope()

    async def cancel() -> None:
        await moment()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with scope:
            await call()
        group.cancel_scope.cancel()


async def _cancelled_as_task(
    call: Callable[[], Coroutine[Any, Any, object]], moment: Callable[[], Awaitable[None]], /
) -> None:
    """Make a call in a task of asyncio that is cancelled at a moment."""
    loop = asyncio_loop()
    assert loop is not None
    ended = anyio.Event()
    task = loop.create_task(call())
    task.add_done_callback(lambda _: ended.set())
    await moment()
    task.cancel()
    await ended.wait()
    if not task.cancelled():
        task.result()


class CancelTests(Suite):
    """The group `cancel`."""

    async def test_cancel_before_a_call(self, harness: Harness, backend: Backend) -> None:
        """A call in a cancelled scope leaves the document old or new, and the next call works."""
        batch = batch_of(backend)
        await put(harness, KEY, b"old")
        calls: list[tuple[Callable[[], Awaitable[object]], set[bytes | None]]] = [
            (partial(backend.read, KEY, limit=self.limit), {b"old"}),
            (partial(backend.stat, KEY), {b"old"}),
            (partial(keys_of, backend, "", recursive=True), {b"old"}),
            (partial(backend.write, KEY, b"new", mode="overwrite"), {b"old", b"new"}),
            (partial(backend.delete, KEY), {b"old", b"new", None}),
        ]
        if batch is not None:
            calls.insert(0, (partial(batch.read_many, [KEY], limit=self.limit), {b"old"}))
            calls.append((partial(batch.write_many, [Write(KEY, b"new", "overwrite")]), {b"old", b"new", None}))
        for call, outcomes in calls:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert await get(harness, KEY) in outcomes
        await backend.write(KEY, b"next", mode="overwrite")
        assert (await backend.read(KEY, limit=self.limit)).data == b"next"

    def _moments(self) -> list[Callable[[], Awaitable[None]]]:
        """Moments to cancel a call at: after some steps of the event loop, and after some time."""
        return [*(partial(_steps, n) for n in range(self.steps)), *(partial(anyio.sleep, n) for n in self.pauses)]

    async def test_cancel_of_a_read(self, harness: Harness, backend: Backend) -> None:
        """Reads that are cancelled in their midst do not disturb those that follow at once."""
        batch = batch_of(backend)
        contents = {f"{i}.account": b"%d" % i * 60_000 for i in range(4)}
        for key, data in contents.items():
            await put(harness, key, data)
        for moment in self._moments():
            await _cancelled_at(partial(backend.read, "0.account", limit=self.limit), moment)
            if batch is not None:
                await _cancelled_at(partial(batch.read_many, list(contents), limit=self.limit), moment)
            await _cancelled_at(partial(keys_of, backend, "", recursive=True), moment)
            for key, data in contents.items():
                assert (await backend.read(key, limit=self.limit)).data == data
        assert await keys_of(backend, "", recursive=True) == sorted(contents)

    async def test_cancel_of_a_write(self, harness: Harness, backend: Backend) -> None:
        """A write whose scope is cancelled, as the store awaits it, leaves the old or the new document for good."""
        await self._cancel_writes(harness, backend, _cancelled_at)

    async def test_cancel_of_a_task(self, harness: Harness, backend: Backend, anyio_backend_name: str) -> None:
        """A write in a task that asyncio cancels leaves, as the store waits, the old or the new document for good."""
        if anyio_backend_name != "asyncio":
            pytest.skip(f"{anyio_backend_name} has no Task.cancel()")
        await self._cancel_writes(harness, backend, _cancelled_as_task)

    async def _cancel_writes(
        self,
        harness: Harness,
        backend: Backend,
        cancelled: Callable[
            [Callable[[], Coroutine[Any, Any, object]], Callable[[], Awaitable[None]]], Awaitable[None]
        ],
        /,
    ) -> None:
        batch = batch_of(backend)
        new = b"new" * 20_000
        keys: list[str] = []
        for i, moment in enumerate(self._moments()):
            one, many, gone = f"one/{i}.account", f"many/{i}.account", f"gone/{i}.account"
            for key in (one, many, gone):
                await put(harness, key, b"old")
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                partial(backend.write, one, new, mode="overwrite"),
                partial(backend.delete, gone),
            ]
            if batch is not None:
                calls.append(partial(batch.write_many, [Write(many, new, "overwrite")]))
            for call in calls:
                # As the store calls it.
                await cancelled(partial(run_shielded, call), moment)
            for key, outcome in ((one, new), (many, new), (gone, None)):
                found = await get(harness, key)
                assert found in {b"old", outcome}, f"{key} is neither old nor new after {moment}"
                await put(harness, key, b"next")
            keys += one, many, gone
        await anyio.sleep(self.settling)
        late = [key for key in keys if await get(harness, key) != b"next"]
        assert not late, "what was cancelled has happened after its call had ended"
        await backend.write(keys[0], b"last", mode="overwrite")
        assert await get(harness, keys[0]) == b"last"
