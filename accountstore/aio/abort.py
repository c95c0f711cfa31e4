"""Aborting a blocking call: what it waits on is ended from outside."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from accountstore.errors import UnavailableError

T = TypeVar("T")


class AbortHandle:
    """Aborts one call, by ending what it waits on: a connection, or a request on an event loop in another thread.

    Whatever the call begins after that raises `UnavailableError`.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._aborted = False
        self._end: Callable[[], object] = bool

    def abort(self) -> None:
        """End what the call waits on, so that the call ends and sends nothing more."""
        with self._turn:
            self._aborted = True
            self._end()

    @contextmanager
    def aborted_by(self, end: Callable[[], object], /) -> Generator[None]:
        """A block that `end` aborts. It is called on the event loop, so it must not block."""
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
            future = run_coroutine_threadsafe(_kept(request), loop)
            self._end = future.cancel
        outcome = future.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _check(self) -> None:
        if self._aborted:
            raise UnavailableError("it was given up", sent=False)


async def _kept(request: Callable[[], Coroutine[Any, Any, T]], /) -> T | Exception:
    """The outcome of a request: asyncio logs an error that an aborted call leaves, and what it shows."""
    try:
        return await request()
    except Exception as error:  # noqa: BLE001 -- raised again, if the call still waits for it
        return error
