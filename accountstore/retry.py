"""One policy for every operation: a deadline, attempts with backoff, the truth about a write whose answer was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ParamSpec, Protocol, TypeVar

import anyio
from msgspec import Struct

from accountstore.aio.shield import Deadline, time_limit
from accountstore.backends.base import Stat, Version, WriteMode
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    NotFoundError,
    UnavailableError,
    UncertainError,
)

T = TypeVar("T")
P = ParamSpec("P")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class RetryPolicy:
    """How long an operation may take in all, in seconds, and how often it is tried while its failure is temporary.

    `storage` names the storage in the errors that are about the storage itself.
    """

    __slots__ = ("attempts", "deadline", "storage", "timeout")

    def __init__(self, timeout: float = 30.0, attempts: int = 4, storage: str = "") -> None:
        self.timeout: float = timeout
        self.deadline: Deadline = Deadline(timeout, self.uncertain)
        self.attempts: int = attempts
        self.storage: str = storage

    def unanswered(self) -> UnavailableError:
        """The error of a call that changes nothing and had no answer in time."""
        return UnavailableError(self.about_storage(f"no answer within {self.timeout:g} s"))

    def uncertain(self, reason: str = "") -> UncertainError:
        """The error of a write whose outcome is unknown; without a reason, it had no answer in time."""
        reason = reason or f"no answer within {self.timeout:g} s"
        return UncertainError(self.about_storage(f"the outcome of the write is unknown ({reason})"))

    def about_storage(self, message: str, /) -> str:
        """The message with the storage's name."""
        return f"{message} [{self.storage}]" if self.storage and self.storage not in message else message


async def backoff(attempt: int, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE, /) -> None:
    """Wait with full jitter, longer after each attempt."""
    from random import random

    await anyio.sleep(random() * min(first * 2 ** min(attempt, 16), longest))  # noqa: S311 -- jitter


class Attempt(Protocol):
    """Makes one request."""

    async def __call__(self, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call. Raises an `AccountStoreError`."""
        ...


async def retry(
    policy: RetryPolicy, attempt: Attempt, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """The result of a call that changes nothing, attempted again while its error is temporary.

    Raises:
        AccountStoreError: what the last attempt raised; `UnavailableError` when the time is up.
    """
    attempts = 0
    with suppress(TimeoutError):
        async with time_limit(policy.timeout):
            while True:
                attempts += 1
                try:
                    return await attempt(call, *args, **kwargs)
                except AccountStoreError as error:
                    if not error.temporary or attempts >= policy.attempts:
                        raise
                await backoff(attempts)
    raise policy.unanswered()


class PendingWrite(Struct, frozen=True, eq=False):
    """A write or a delete: on which condition, how to send it, and how to observe what it has done."""

    condition: WriteMode
    """`"overwrite"` for an unconditional write or delete."""
    token: str | None
    """The write token, by which it recognises its own document; None for a delete."""
    send: Callable[[], Awaitable[Stat | None]]
    """Sends the request."""
    observe: Callable[[], Awaitable[Stat]]
    """Returns the document's stat as it is now."""
    final_on_refusal: bool
    """Whether a refusal at the first attempt is final, as no client below repeats a request."""

    def is_ours(self, now: Stat | None, /) -> bool:
        """Whether the document as it is now was made by this write."""
        return now is None if self.token is None else now is not None and now.write_token == self.token


async def retry_write(policy: RetryPolicy, attempt: Attempt, write: PendingWrite, /) -> Stat | None:
    """What a write returns; tried again while its error is temporary and its condition holds. The deadline is the
    caller's to keep.

    After a temporary error it is unknown whether the write was done; after a refusal, whether an earlier request of the
    same write stood in its way. The document itself then decides: a write that finds its own document has succeeded,
    one whose condition still holds is tried again, and one that finds another's has lost - or its outcome is unknown,
    if it may have been done and then overwritten.

    Raises:
        UncertainError: the outcome is unknown.
        AccountStoreError: what the last attempt raised, if it surely did nothing.
    """
    unknown = False
    attempts = 0
    while True:
        attempts += 1
        try:
            return await attempt(write.send)
        except AccountStoreError as error:
            failure = error
        refused = _is_refusal(failure, write.condition)
        final = not (refused or failure.temporary)
        if not unknown and (final or (refused and write.final_on_refusal)):
            raise failure
        unknown = unknown or (isinstance(failure, UnavailableError) and failure.sent)
        if write.condition != "overwrite" and (refused or unknown):
            observed = await _observe(attempt, write)
            if observed.done:
                return observed.now
            if observed.lost:
                raise policy.uncertain(observed.reason) if unknown else failure
            unknown = unknown or bool(observed.reason)
            if refused and not unknown:  # whoever stood in the way is gone
                failure = UnavailableError(policy.about_storage("the storage refused it, but nothing is in its way"))
        if final or attempts >= policy.attempts:
            raise policy.uncertain(failure.message) if unknown else failure
        await backoff(attempts)


class _Observed(Struct, frozen=True):
    """What the document shows of a conditional write that had no clear answer; undecided if nothing is set.

    `reason` is why the document shows no success.
    """

    done: bool = False
    now: Stat | None = None
    lost: bool = False
    reason: str = ""


async def _observe(attempt: Attempt, write: PendingWrite, /) -> _Observed:
    now: Stat | None = None
    try:
        now = await attempt(write.observe)
    except NotFoundError:
        pass
    except AccountStoreError as error:
        return _Observed(lost=not error.temporary, reason=error.message)
    if write.is_ours(now):
        return _Observed(done=True, now=now)
    holds = now is None if write.condition == "create" else now is not None and now.version == write.condition
    return _Observed() if holds else _Observed(lost=True, reason="another document is there now")


def _is_refusal(failure: AccountStoreError, condition: WriteMode, /) -> bool:
    if isinstance(failure, NotFoundError):
        return isinstance(condition, Version)
    return isinstance(failure, (ExistsError, ConflictError))
