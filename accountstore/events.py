"""Events: what happened to which document, for audit and tracing. Never what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from accountstore.backends.base import Version
from accountstore.errors import LocationError
from accountstore.location import Location
from accountstore.validation import join

if TYPE_CHECKING:
    from logging import Logger

_DEBUG = 10


class _State(Protocol):
    """A document's version and size."""

    @property
    def version(self) -> Version | None: ...
    @property
    def size(self) -> int: ...


S = TypeVar("S", bound=_State)


class Event(Struct, frozen=True, kw_only=True):
    """One operation on one document, folder or storage, finished.

    The locations are those in the whole store, also for a narrowed one.

    `storage` is one that the store has, and empty where a call named another. `outcome` is `"ok"` or the name of the
    error's class; of a document that `save_many` or `copy_many` had in hand when it was cancelled, that of the
    cancellation: it may be written. `version` and `bytes` are those of the document read or
    written, `attempts` counts the tries of an `update` or `move`, `seconds` the whole operation. `skipped` counts what
    a page of a listing left out (`Skipped`). `retries` names the storage of each request that was
    made again after a temporary failure, as a busy storage answers 503 or 429: of a batch, on one of its documents.
    Of a `refresh`, `polls` counts the reads while another had the lease, `exchanges` the calls of the exchange,
    `takeovers` the leases taken from holders whose time was up; all are 0 for a token that was valid, or that another
    task of the process has renewed.
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
    skipped: int = 0
    retries: tuple[str, ...] = ()
    polls: int = 0
    exchanges: int = 0
    takeovers: int = 0


Observer: TypeAlias = "Callable[[Event], object]"
"""Called with each event, on the event loop: it should return soon. What it raises is logged and forgotten."""


class EventLog(Struct, frozen=True, eq=False):
    """Where the events of a store go: to its observer, or to the standard logger `accountstore` at DEBUG.

    `storages` are those within reach, the first is the one that locations without a storage name mean; `folder` is the
    one that the store is narrowed to.
    """

    observer: Observer | None
    storages: tuple[str, ...]
    folder: str = ""

    def is_heard(self) -> bool:
        """Whether an event would reach anyone."""
        return self.observer is not None or _logger().isEnabledFor(_DEBUG)

    def emit(self, operation: Operation, outcome: str, seconds: float, /) -> None:
        """Make an operation an event."""
        location = operation.location if isinstance(operation.location, Location) else None
        storage = (operation.storage if location is None else location.storage) or self.storages[0]
        event = Event(
            operation=operation.name,
            storage=storage if storage in self.storages else "",  # what a caller makes up is no label of a metric
            location=self._whole(location),
            target=self._whole(operation.target if isinstance(operation.target, Location) else None),
            outcome=outcome,
            version=operation.version,
            bytes=operation.bytes,
            attempts=operation.attempts,
            seconds=seconds,
            skipped=operation.skipped,
            retries=operation.retries,
            polls=operation.polls,
            exchanges=operation.exchanges,
            takeovers=operation.takeovers,
        )
        if self.observer is None:
            what = str(event.location or event.storage) + (f" to {event.target}" if event.target is not None else "")
            _logger().debug("%s %s: %s (%.1f ms)", event.operation, what, event.outcome, event.seconds * 1e3)
            return
        try:
            self.observer(event)
        except Exception as error:  # noqa: BLE001 -- an observer must not break an operation
            _logger().error("the observer raised %s on %s", type(error).__name__, event.operation)

    def warning(self, text: str, /, *arguments: object) -> None:
        """Log something at WARNING, to the standard logger `accountstore`."""
        _logger().warning(text, *arguments)

    def _whole(self, location: Location | None, /) -> Location | None:
        """A location as the store that this one narrows has it."""
        if location is None or not self.folder:
            return location
        try:
            return replace(location, folder=join(self.folder, location.folder))
        except LocationError:
            return location  # too long: the operation is about to say so


@cache
def _logger() -> Logger:
    from logging import getLogger

    return getLogger("accountstore")


class Retries(Struct, kw_only=True, eq=False):
    """A `with` block that keeps the names of the storages which are asked again in it."""

    retries: tuple[str, ...] = ()
    outer: Token[Retries | None] | None = None

    def __enter__(self) -> Self:
        self.outer = _UNDER_WAY.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.outer is not None:
            _UNDER_WAY.reset(self.outer)


_UNDER_WAY: ContextVar[Retries | None] = ContextVar("retries", default=None)


def note_retry(storage: str, /) -> None:
    """A request to this storage is made again: note it where that is kept."""
    noting = _UNDER_WAY.get()
    if noting is not None:
        noting.retries = (*noting.retries, storage)


class Operation(Retries, eq=False):
    """A call under way: a `with` block that is an event when it ends."""

    log: EventLog
    name: str
    location: Location | None
    target: Location | None = None
    storage: str | None = None
    version: Version | None = None
    bytes: int | None = None
    attempts: int = 1
    skipped: int = 0
    polls: int = 0
    exchanges: int = 0
    takeovers: int = 0
    started: float = field(default_factory=time.perf_counter)

    def record(self, state: S, /) -> S:
        """Note which version was read or written, and return it."""
        self.version, self.bytes = state.version, state.size
        return state

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.outer is not None:  # as above, without a call
            _UNDER_WAY.reset(self.outer)
        log = self.log
        if log.observer is not None or _logger().isEnabledFor(_DEBUG):  # `is_heard`, without a call
            log.emit(self, "ok" if kind is None else kind.__name__, time.perf_counter() - self.started)
