"""What a blocking call stands on, which ends when the call is given up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from accountstore.errors import UnavailableError

T = TypeVar("T")


class Standing:
    """What one call stands on: a connection, or the requests that it makes on an event loop in another thread.

    What it is asked for raises `UnavailableError` once the call was given up.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._given_up = False
        self._end: Callable[[], object] = bool

    def give_up(self) -> None:
        """End what the call stands on, so that the call ends and sends nothing more."""
        with self._turn:
            self._given_up = True
            self._end()

    @contextmanager
    def on(self, end: Callable[[], object], /) -> Generator[None]:
        """A block that `end` ends. It is called on the event loop, so it must not block."""
        with self._turn:
            self._check()
            self._end = end
        try:
            yield
        finally:
            with self._turn:
                self._end = bool

    def result(self, request: Callable[[], Coroutine[Any, Any, T]], loop: Any, /) -> T:
        """The result of a request on an asyncio event loop in another thread."""
        from asyncio import run_coroutine_threadsafe

        with self._turn:
            self._check()
            future = run_coroutine_threadsafe(request(), loop)
            self._end = future.cancel
        return future.result()

    def _check(self) -> None:
        if self._given_up:
            raise UnavailableError("it was given up", sent=False)
