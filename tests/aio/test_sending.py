"""What a backend tells of a write that may be cut short."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from accountstore.aio.loops import AsyncioBridge
from accountstore.aio.sending import SENDING, Sending, has_left, hold, release

pytestmark = pytest.mark.anyio


def test_a_request_of_which_nothing_is_told_counts_as_sent() -> None:
    """A backend that tells nothing is taken to have sent it; so is whatever is no write."""
    assert Sending().sent
    hold()
    assert has_left()


def test_a_request_that_has_left_stays_so() -> None:
    """Nothing has left before the word that it does; after it, a further request of that write takes nothing back."""
    sending = Sending()
    context = SENDING.set(sending)
    try:
        hold()
        assert (sending.sent, has_left()) == (False, False)
        release()
        hold()
        assert (sending.sent, has_left()) == (True, True)
    finally:
        SENDING.reset(context)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_is_told_from_another_threads_event_loop() -> None:
    """On trio, what the asyncio client tells reaches the call that it works for, and no other."""
    bridge = AsyncioBridge()

    async def tells() -> None:
        hold()

    async def call(sendings: list[Sending], told: bool) -> None:
        sending = Sending()
        SENDING.set(sending)
        await bridge.run(tells if told else partial(anyio.sleep, 0))
        sendings.append(sending)

    held: list[Sending] = []
    left: list[Sending] = []
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(call, held, True)
            group.start_soon(call, left, False)
    await bridge.aclose()
    assert [sending.sent for sending in held] == [False] * 8
    assert [sending.sent for sending in left] == [True] * 8
