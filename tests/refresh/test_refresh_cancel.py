"""A refresh that is cancelled at any of its awaits: no token is lost, no lease stays, no other task is hurt."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from cancelling import by_scope, by_task, by_timeout, cancelled_after, each_way
from providers import SmallProvider

from accountstore import AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig, Stored, TokenGrant
from accountstore.backends.memory import MemoryBackend
from accountstore.lease import FIELD, key_of
from accountstore.secrets import Secret
from accountstore.testing import store_over

if TYPE_CHECKING:
    from pathlib import Path

    from cancelling import Way

    from accountstore import Account

pytestmark = pytest.mark.anyio

AT = Location("a.account")
STEPS = 400
"""More than a refresh has."""


@each_way(by_scope, by_task, by_timeout)
async def test_cancelled_at_each_step_no_token_is_lost(by: Way) -> None:
    """After so many turns of the event loop: the refresh token of the document is the one that the provider takes, the
    next refresh needs no lease's length, and there is at most one exchange for the expiry.
    """
    exchanges: set[int] = set()
    for steps in range(STEPS):
        provider = SmallProvider()
        store = store_over({"m": MemoryBackend()})
        await store.save(AT, provider.account())

        async def moment(steps: int = steps) -> None:
            for _ in range(steps):
                await checkpoint()

        cancelled = await cancelled_after(by, lambda s=store, p=provider: s.refresh(AT, p.exchange), moment)  # type: ignore[misc]
        exchanges.add(provider.exchanges)
        with anyio.fail_after(5):
            stored = await store.refresh(AT, provider.exchange)
        credentials = stored.document.credentials
        assert isinstance(credentials, OAuthCredentials)
        assert credentials.refresh_token.reveal() in provider.good
        assert (provider.exchanges, provider.refusals) == (1, 0)
        assert b'"holder"' not in (await store.read_json(AT)).document
        if not cancelled:
            break
    else:
        raise AssertionError("it was cancelled at every step, and never ended")
    assert 1 in exchanges  # cancelled during its exchange, or after it


@each_way(by_scope, by_task)
async def test_a_cancelled_asker_hurts_no_other(by: Way) -> None:
    """Of three tasks one is cancelled at any step, be it the one that exchanges or one that waits: the others get the
    token of one exchange.
    """
    for steps in range(STEPS):
        provider = SmallProvider()
        store = store_over({"m": MemoryBackend()})
        await store.save(AT, provider.account())
        found: list[Stored[Account]] = []

        async def ask(store=store, provider=provider, found=found) -> None:  # type: ignore[no-untyped-def]
            found.append(await store.refresh(AT, provider.exchange))

        async def moment(steps: int = steps) -> None:
            for _ in range(steps):
                await checkpoint()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                if steps % 2:
                    group.start_soon(ask)
                    await checkpoint()
                group.start_soon(cancelled_after, by, ask, moment)
                group.start_soon(ask)
                if not steps % 2:
                    group.start_soon(ask)
        assert len(found) >= 2
        assert len({stored.version for stored in found}) == 1
        assert (provider.exchanges, provider.refusals) == (1, 0)
        assert store._resolver.storage(None).flights == {}  # pyright: ignore[reportPrivateUsage]
        if len(found) == 3 and steps > 40:
            break
    else:
        raise AssertionError("it never ended")


@each_way(by_scope, by_task)
async def test_a_waiter_for_another_process_leaves_at_once(by: Way) -> None:
    """Who waits for a lease that is not its own store's is cancelled at once, and has changed nothing."""
    store = store_over({"m": MemoryBackend()})
    lease = {key_of(Secret("R0")): {"holder": "another", "seconds": 3600}}
    tree = msgspec.json.decode(msgspec.json.encode(SmallProvider().account(), enc_hook=Secret.reveal))
    await store.save_json(AT, msgspec.json.encode(tree | {FIELD: lease}))
    before = await store.read(AT)

    async def never(_: OAuthCredentials) -> TokenGrant:
        raise AssertionError("it was asked")

    with anyio.fail_after(5):
        assert await cancelled_after(by, lambda: store.refresh(AT, never), lambda: anyio.sleep(0.1))
    assert await store.read(AT) == before


@each_way(by_scope, by_task)
async def test_a_cancelled_caller_waits_for_its_exchange_and_no_longer(by: Way) -> None:
    """The exchange goes on and its tokens are saved; one that hangs ends with its lease, which is dropped."""
    store = store_over({"m": MemoryBackend()})
    provider = SmallProvider()
    await store.save(AT, provider.account())
    begun = anyio.Event()

    async def slow(credentials: OAuthCredentials) -> TokenGrant:
        begun.set()
        await anyio.sleep(0.2)
        return provider.spend(credentials)

    assert await cancelled_after(by, lambda: store.refresh(AT, slow), begun.wait)
    credentials = (await store.get(AT)).credentials
    assert isinstance(credentials, OAuthCredentials)
    assert credentials.refresh_token == Secret("R1")
    assert credentials.expires_at is not None
    assert credentials.expires_at > datetime.now(UTC) + timedelta(minutes=50)

    async def hang(_: OAuthCredentials) -> TokenGrant:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError("it was woken")

    begun = anyio.Event()
    with anyio.fail_after(5):
        assert await cancelled_after(by, lambda: store.refresh(AT, hang, leeway=10**6, lease=0.2), begun.wait)
    assert b'"holder"' not in (await store.read_json(AT)).document


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_somebody_cancels_in_its_exchange_ends_so() -> None:
    """As at the end of an event loop, which cancels all tasks: it is no failure of the exchange, and keeps no lease."""
    store = store_over({"m": MemoryBackend()})
    await store.save(AT, SmallProvider().account())

    async def exchange(_: OAuthCredentials) -> TokenGrant:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()
        raise AssertionError("it was woken")

    with pytest.raises(asyncio.CancelledError):
        await store.refresh(AT, exchange)
    assert b'"holder"' not in (await store.read_json(AT)).document


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["main returns", "ctrl-c", "cancels all tasks"])
def test_the_end_of_the_event_loop_loses_no_token(how: str, loop: str, tmp_path: Path) -> None:
    """A background task that has a store of its own exchanges. It ends with `asyncio.run`, or is cancelled with all
    other tasks by main, as services do at SIGTERM: the exchange goes on, and its tokens are saved.
    """
    new_loop = pytest.importorskip(loop).new_event_loop
    provider, config = SmallProvider(), StoreConfig(storages={"m": StorageConfig(str(tmp_path))})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def background(begun: asyncio.Event) -> None:
        async def exchange(credentials: OAuthCredentials) -> TokenGrant:
            grant = provider.spend(credentials)
            begun.set()
            await anyio.sleep(0.3)
            return grant

        async with AccountStore.open(config) as store:
            await store.save(AT, provider.account())
            await store.refresh(AT, exchange)

    async def main() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(background(begun))
        await begun.wait()
        if how == "ctrl-c":
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        if how == "cancels all tasks":
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for other in others:
                other.cancel()
            await asyncio.wait(others)
            assert task.cancelled()

    ends = pytest.raises(KeyboardInterrupt) if how == "ctrl-c" else nullcontext()
    try:
        with ends, asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert b'"refreshToken":"R1"' in (tmp_path / AT.path).read_bytes()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("waits", [False, True], ids=["running", "waiting"])
def test_ctrl_c_in_an_exchange_loses_no_token(loop: str, waits: bool) -> None:
    """It ends the program when the tokens are saved, be it that the exchange computes or waits at the moment."""
    provider, memory = SmallProvider(), MemoryBackend()
    # A shell's background jobs begin with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main() -> None:
        store = store_over({"m": memory})
        await store.save(AT, provider.account())

        async def exchange(credentials: OAuthCredentials) -> TokenGrant:
            grant = provider.spend(credentials)
            if waits:
                timer.start()
            else:
                signal.raise_signal(signal.SIGINT)
            await anyio.sleep(0.5)
            return grant

        await store.refresh(AT, exchange)
        await anyio.sleep_forever()

    timer = Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            anyio.run(main, backend=loop)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert b'"refreshToken":"R1"' in anyio.run(lambda: memory.read(AT.path, limit=10**6)).data
