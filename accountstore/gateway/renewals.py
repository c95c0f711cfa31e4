"""Refreshes of tokens, of which a request waits for no more than its time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from accountstore.gateway.problems import Problem

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ("Renewals",)

T = TypeVar("T")


class Renewals:
    """Runs each refresh in a task of its own, while the gateway's lifespan has `tasks`; without it, in the caller's."""

    def __init__(self) -> None:
        self.tasks: TaskGroup | None = None

    async def run(self, refresh: Callable[[], Awaitable[T]], by: float, /) -> T:
        """What a refresh returns by a moment of `anyio.current_time()`. Then it is cancelled, but an exchange that has
        begun goes on to its end, and what it brings is saved.

        Raises:
            Problem: it took longer.
        """
        if self.tasks is None:
            return await refresh()
        renewal = _Renewal(refresh)
        self.tasks.start_soon(renewal.run)
        try:
            with anyio.CancelScope(deadline=by):
                await renewal.ended.wait()
        finally:
            renewal.scope.cancel()
        if not renewal.outcome:
            raise Problem(504, "notRefreshed", "the account's tokens were not refreshed in time: try again")
        [outcome] = renewal.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class _Renewal(Generic[T]):
    """A refresh, and what it returns or raises."""

    def __init__(self, refresh: Callable[[], Awaitable[T]], /) -> None:
        self.outcome: list[T | BaseException] = []
        self.ended: anyio.Event = anyio.Event()
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self._refresh = refresh

    async def run(self) -> None:
        try:
            with self.scope:
                self.outcome.append(await self._refresh())
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 -- raised where it is waited for: here it would end the gateway
            self.outcome.append(error)
        finally:
            self.ended.set()
