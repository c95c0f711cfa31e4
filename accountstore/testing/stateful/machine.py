"""An event loop in a thread, for a state machine, which knows no asynchronous functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio.from_thread
from hypothesis.stateful import RuleBasedStateMachine

__all__ = ("Machine",)

T = TypeVar("T")


class Machine(RuleBasedStateMachine):
    """Calls asynchronous functions on an event loop in a thread of its own."""

    def __init__(self, loop: str, options: Mapping[str, Any], /) -> None:
        super().__init__()
        self._portal_scope = anyio.from_thread.start_blocking_portal(loop, dict(options))
        self._portal = self._portal_scope.__enter__()

    def call(self, function: Callable[[], Awaitable[T]], /) -> T:
        """The result of an asynchronous function."""
        return self._portal.call(function)

    def close(self) -> Awaitable[None]:
        """Close what the machine has opened."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Close, and end the event loop."""
        try:
            self.call(self.close)
        finally:
            self._portal_scope.__exit__(None, None, None)
