"""An event loop in a thread of its own, for synchronous code."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

import anyio
from anyio.from_thread import BlockingPortal


class LoopThread:
    """An event loop in a thread, and the portal to it, until it is closed.

    Not anyio's `start_blocking_portal`: that is a generator, which waits for the thread when it is dropped. In a forked
    process, and when the interpreter ends, the thread is no longer there.
    """

    def __init__(self, name: str, /) -> None:
        started: Future[BlockingPortal] = Future()
        self._thread = Thread(target=_run, args=(started,), name=name, daemon=True)
        self._thread.start()
        self.portal: BlockingPortal = started.result()

    def close(self) -> None:
        """End the thread when the calls under way have ended."""
        with suppress(RuntimeError):  # it has ended
            self.portal.call(self.portal.stop)
        self._thread.join()


def _run(started: Future[BlockingPortal], /) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)  # such as of a system without descriptors


async def _serve(started: Future[BlockingPortal], /) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()
