"""Events: what happened to which document, for audit and tracing. Never what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Self, TypeAlias

from msgspec import Struct

from accountstore.backends.base import Version
from accountstore.location import Location

if TYPE_CHECKING:
    from logging import Logger
    from types import TracebackType


__all__ = ("Event", "Observer", "Operation", "Stopwatch", "listening", "tell")


_DEBUG = 10


class Event(Struct, frozen=True, kw_only=True):
    """One operation on one document, folder or storage, finished.

    The locations are those in the whole store, also for a narrowed one.

    `outcome` is `"ok"` or the name of the error's class. `version` and `bytes` are those of the document read or
    written, `attempts` counts the tries of an `update` or `move`, `seconds` the whole operation.
    """

    operation: str
    storage: str
    location: Location | None
    target: Location | None
    outcome: str
    version: Version | None
    bytes: int | None
    attempts: int
    seconds: float


Observer: TypeAlias = "Callable[[Event], object]"
"""Called with each event, on the event loop: it should return soon. What it raises is logged and forgotten."""


def listening(observer: Observer | None, /) -> bool:
    """Whether an event would reach anyone."""
    return observer is not None or _logger().isEnabledFor(_DEBUG)


@cache
def _logger() -> Logger:
    from logging import getLogger

    return getLogger("accountstore")


class Stopwatch:
    """A `with` block and how long it took, in seconds."""

    seconds: float

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        self.seconds = time.perf_counter() - self._started


class Operation(Struct, eq=False):
    """A call; as a `with` block, `report` is called at its end with how it ended and the seconds it took."""

    report: Callable[[Operation, str, float], None]
    name: str
    location: Location | None
    target: Location | None
    storage: str | None
    version: Version | None = None
    bytes: int | None = None
    attempts: int = 1
    started: float = 0.0

    def __enter__(self) -> Self:
        self.started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.report(self, "ok" if kind is None else kind.__name__, time.perf_counter() - self.started)


def tell(observer: Observer | None, event: Event, /) -> None:
    """Hand an event to the observer, or to the standard logger `accountstore` at DEBUG."""
    if observer is None:
        what = str(event.location or event.storage) + (f" to {event.target}" if event.target is not None else "")
        _logger().debug("%s %s: %s (%.1f ms)", event.operation, what, event.outcome, event.seconds * 1e3)
        return
    try:
        observer(event)
    except Exception as error:  # noqa: BLE001 -- an observer must not break an operation
        _logger().error("the observer raised %s on %s", type(error).__name__, event.operation)
