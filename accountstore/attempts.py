"""One policy for every operation: a deadline, attempts with jitter, the truth about a write whose answer was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from msgspec import Struct

from accountstore.backends.base import Stat, Version
from accountstore.deadlines import Deadline, to_the_end
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    NotFoundError,
    UnavailableError,
    UncertainError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from accountstore.backends.base import WriteMode

__all__ = ("Change", "Policy", "ask", "pause", "settle", "within")

T = TypeVar("T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Policy:
    """How long an operation may take in all, in seconds, and how often it is tried while it fails for a while."""

    __slots__ = ("attempts", "deadline")

    def __init__(self, timeout: float = 30.0, attempts: int = 4) -> None:
        self.deadline: Deadline = Deadline(timeout)
        self.attempts: int = attempts

    @property
    def timeout(self) -> float:
        """Seconds."""
        return self.deadline.seconds


class Change(Protocol):
    """A write or a delete: what it does, on which condition, and how to see what became of it."""

    @property
    def condition(self) -> WriteMode:
        """`"overwrite"` for an unconditional write or delete."""
        ...

    @property
    def certain(self) -> bool:
        """Whether a refusal at the first attempt is the storage's last word, as no client below repeats a request."""
        ...

    def call(self) -> Awaitable[Stat | None]:
        """Make the change."""
        ...

    def look(self) -> Awaitable[Stat | None]:
        """The document as it is now, or None where there is none."""
        ...

    def done(self, now: Stat | None, /) -> bool:
        """Whether the document as it is now is this change's own doing."""
        ...


async def pause(attempt: int, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE, /) -> None:
    """Wait with full jitter, longer after each attempt."""
    from random import random

    await anyio.sleep(random() * min(first * 2 ** min(attempt, 16), longest))  # noqa: S311 -- jitter


async def ask(
    call: Callable[[], Awaitable[T]], name: Callable[[Exception], AccountStoreError], policy: Policy, /
) -> T | AccountStoreError:
    """The result of a call that changes nothing, or its error: tried again while that is temporary."""
    attempt = 0
    with policy.deadline.limit():
        while True:
            attempt += 1
            try:
                return await call()
            except Exception as error:  # noqa: BLE001 -- named here, raised outside its frames
                failure = name(error)
            if not failure.temporary or attempt >= policy.attempts:
                return failure
            await pause(attempt)
    return name(UnavailableError(f"no answer within {policy.timeout:g} s"))


def settle(
    change: Change, name: Callable[[Exception], AccountStoreError], policy: Policy, /
) -> Coroutine[Any, Any, Stat | AccountStoreError | None]:
    """To be awaited: the result of a change, or its error, within the deadline, whatever cancels the caller.

    After a temporary failure nobody knows whether the change was made; after a refusal, whether it was an earlier
    request of the same change that stood in its way. Then the document itself is looked at: a change that finds its own
    doing has succeeded, one whose condition still holds is tried again, and one that finds another's document has lost
    - or cannot know it, if it may have been made and then overwritten.
    """
    return within(lambda: _settle(change, name, policy), name, policy)


async def _settle(
    change: Change, name: Callable[[Exception], AccountStoreError], policy: Policy, /
) -> Stat | AccountStoreError | None:
    unknown = False
    attempt = 0
    while True:
        attempt += 1
        try:
            return await change.call()
        except Exception as error:  # noqa: BLE001 -- as in ask
            failure = name(error)
        refused = _is_refusal(failure, change.condition)
        final = not (refused or failure.temporary)
        if not unknown and (final or (refused and change.certain)):
            return failure
        unknown = unknown or (isinstance(failure, UnavailableError) and failure.sent)
        if change.condition != "overwrite" and (refused or unknown):
            seen = await _look(change, name)
            if seen.done:
                return seen.now
            if seen.lost:
                return _uncertain(name, seen.reason) if unknown else failure
            unknown = unknown or bool(seen.reason)
            if refused and not unknown:  # whoever stood in the way is gone
                failure = name(UnavailableError("the storage refused it, but nothing is in its way"))
        if final or attempt >= policy.attempts:
            return _uncertain(name, failure.message) if unknown else failure
        await pause(attempt)


class _Seen(Struct, frozen=True):
    """What the document tells of a conditional change that had no clear answer; the change is open if nothing is set.

    `reason` says why the document tells of no success.
    """

    done: bool = False
    now: Stat | None = None
    lost: bool = False
    reason: str = ""


async def _look(change: Change, name: Callable[[Exception], AccountStoreError], /) -> _Seen:
    try:
        now = await change.look()
    except Exception as error:  # noqa: BLE001 -- as in ask
        failure = name(error)
        return _Seen(lost=not failure.temporary, reason=failure.message)
    if change.done(now):
        return _Seen(done=True, now=now)
    holds = now is None if change.condition == "create" else now is not None and now.version == change.condition
    return _Seen() if holds else _Seen(lost=True, reason="another document is there now")


async def within(
    call: Callable[[], Coroutine[Any, Any, T]], name: Callable[[Exception], AccountStoreError], policy: Policy, /
) -> T | AccountStoreError:
    """The result of a call that changes something, awaited to its end within the deadline."""
    try:
        return await to_the_end(call, policy.deadline)
    except TimeoutError:
        return _uncertain(name, f"no answer within {policy.timeout:g} s")


def _is_refusal(failure: AccountStoreError, condition: WriteMode, /) -> bool:
    if isinstance(failure, NotFoundError):
        return isinstance(condition, Version)
    return isinstance(failure, (ExistsError, ConflictError))


def _uncertain(name: Callable[[Exception], AccountStoreError], reason: str, /) -> AccountStoreError:
    return name(UncertainError(f"nobody knows whether it was done ({reason})"))
