"""One policy for every operation: a deadline, attempts with backoff, the truth about a write whose answer was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from random import random
from time import monotonic
from types import TracebackType
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

import anyio
from msgspec import Struct, field
from msgspec.structs import replace

from accountstore.aio.deadlines import Deadline
from accountstore.aio.sending import SENDING, Sending
from accountstore.aio.shield import InFlight
from accountstore.backends.base import Capabilities, LockedError, Stat, Version, WriteMode
from accountstore.errors import (
    AccountStoreError,
    ClosedError,
    ConflictError,
    ExistsError,
    NotFoundError,
    UnavailableError,
    UncertainError,
)
from accountstore.events import note_retry

T = TypeVar("T")
P = ParamSpec("P")
Condition: TypeAlias = Literal["create", "update", "delete"]

CONDITIONS: dict[Condition, str] = {"create": "a create", "update": "a swap", "delete": "a delete of a version"}
"""What each is called in errors."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_REMEMBERED = 1000
_TOO_LATE = 0.02
"""The part of its time that a write must have left when it is sent."""
GONE = "gone"
"""Instead of a write token: that of a document which was deleted."""


class RetryPolicy(Struct, frozen=True):
    """How long an operation may take in all, in seconds, and how often it is tried while its failure is temporary.

    `storage` names the storage in the errors that are about the storage itself.
    """

    timeout: float = 30.0
    attempts: int = 4
    storage: str = ""

    def about_storage(self, message: str, /) -> str:
        """The message with the storage's name."""
        return f"{message} [{self.storage}]" if self.storage and self.storage not in message else message


async def backoff(attempt: int, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE, /) -> None:
    """Wait with full jitter, longer after each attempt."""
    await anyio.sleep(random() * min(first * 2 ** min(attempt, 16), longest))  # noqa: S311 -- jitter


def condition_of(mode: WriteMode, /) -> Condition:
    """What a conditional mode needs. Raises `ValueError` for what is no mode: a misspelt one must not overwrite."""
    if mode == "create":
        return "create"
    if isinstance(mode, Version):
        return "update"
    raise ValueError("mode must be 'overwrite', 'create' or a Version")


class Conditions(Struct, frozen=True):
    """Which conditions a storage honours: of a create, of a swap, of a delete."""

    create: bool
    update: bool
    delete: bool
    unsupported: str = ""  # what the backend says of the first that it refuses to try

    @classmethod
    def declared(cls, capabilities: Capabilities, /) -> Conditions:
        """Those that a backend declares."""
        return cls(capabilities.create, capabilities.update, capabilities.update)


class PendingWrite(Struct, frozen=True, eq=False):
    """A write, or a delete if it has no data, on a condition (`"overwrite"`: none); with the token by which a write
    recognises its own document.
    """

    key: str
    data: bytes | None
    condition: WriteMode
    token: str


class OwnWrites:
    """Which states of documents this client has made last, and until when: of the last thousand documents."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, float]] = {}

    def add(self, key: str, token: str, /) -> None:
        """A write is done. Without a token there is nothing to know it by."""
        if token:
            self._tokens.pop(key, None)
            self._tokens[key] = token, monotonic()
            if len(self._tokens) > _REMEMBERED:
                del self._tokens[next(iter(self._tokens))]

    def has(self, key: str, /) -> bool:
        """Whether this client has written or deleted the document."""
        return key in self._tokens

    def made(self, key: str, token: str | None, before: float, /) -> bool:
        """Whether a state of a document is one of them, made before a moment of `time.monotonic()`."""
        own = self._tokens.get(key)
        return own is not None and own[0] == token and own[1] <= before


class Client(Protocol):
    """Makes the requests: each method makes one. They raise an `AccountStoreError`."""

    name: str
    policy: RetryPolicy
    calls: InFlight
    capabilities: Capabilities
    own_writes: OwnWrites

    async def attempt(self, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a request that changes nothing."""
        ...

    def send(self, write: PendingWrite, /) -> Awaitable[Stat | None]:
        """What a write returns."""
        ...

    async def observe(self, write: PendingWrite, /) -> Stat | None:
        """The document of a write as it is now, or None."""
        ...

    async def conditions(self, folder: str, by: float, /) -> Conditions:
        """Those that the storage honours."""
        ...

    async def server_time(self, folder: str, /) -> datetime | None:
        """The time by the clock that dates the documents, after this call began; None where they have no date."""
        ...


def unavailable(client: Client, message: str, /, *, sent: bool = False) -> UnavailableError:
    """An error about the storage that may pass."""
    return UnavailableError(client.policy.about_storage(message), sent=sent)


def out_of_time(client: Client, /, *, sent: bool = False) -> AccountStoreError:
    """The error of a call that has changed nothing when its time was up or its storage was closed."""
    if client.calls.closed:
        return ClosedError("the store is closed")
    return unavailable(client, f"no answer within {client.policy.timeout:g} s", sent=sent)


def uncertain(client: Client, reason: str = "", /) -> UncertainError:
    """The error of a write whose outcome is unknown; without a reason, it had no answer in time."""
    if not reason:
        reason = "the store was closed" if client.calls.closed else f"no answer within {client.policy.timeout:g} s"
    return UncertainError(client.policy.about_storage(f"the outcome is unknown ({reason})"))


def _is_late(client: Client, by: float, /) -> bool:
    """Whether the time is up, or a write that was sent now would be cut short by then and its outcome be unknown."""
    return monotonic() > by - (0 if client.capabilities.certain else client.policy.timeout * _TOO_LATE)


class Turn(Struct, frozen=True, eq=False):
    """A turn among the operations in flight, for a block. Raises `ClosedError`, and `UnavailableError` without time."""

    client: Client
    by: float

    async def __aenter__(self) -> None:
        turns = self.client.calls.turns
        if turns.value:
            turns.acquire_nowait()
        else:
            await self._wait()
        if _is_late(self.client, self.by):
            turns.release()
            raise out_of_time(self.client)

    async def _wait(self) -> None:
        with suppress(TimeoutError), Deadline(self.client.calls.deadlines, self.by):
            return await self.client.calls.turns.acquire()
        raise out_of_time(self.client)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.client.calls.turns.release()


async def retry(
    client: Client,
    by: float,
    turns: anyio.Semaphore | None,
    call: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The result of a call that changes nothing, attempted again while its error is temporary; in one of the turns,
    unless it is part of an operation that has its own.

    `by` is the operation's deadline, a moment of `time.monotonic()`.

    Raises:
        AccountStoreError: what the last attempt raised; `UnavailableError` when the time is up.
    """
    attempts = 0
    with suppress(TimeoutError), Deadline(client.calls.deadlines, by):
        if turns is not None:
            try:  # `async with` would cost a `get` from memory a tenth of its time
                turns.acquire_nowait()
            except anyio.WouldBlock:
                await turns.acquire()
        try:
            while monotonic() < by:  # whoever was cut short for it may have said something else
                attempts += 1
                try:
                    return await client.attempt(call, *args, **kwargs)
                except AccountStoreError as error:
                    if not error.temporary or attempts >= client.policy.attempts:
                        raise
                note_retry(client.name)
                await backoff(attempts)
        finally:
            if turns is not None:
                turns.release()
    raise out_of_time(client, sent=attempts > 0)


async def retry_write(
    client: Client, by: float, write: PendingWrite, unanswered_since: float | None = None, /
) -> Stat | None:
    """What a write returns; attempted again while its error is temporary and that undoes nobody's change.

    After a temporary error it is unknown whether the write was done; after a refusal, whether an earlier request of the
    same write stood in its way. The document itself then decides: a write that finds its own document has succeeded;
    one whose condition still holds is tried again, and one without a condition on the condition that the document stays
    as it was before the first request; any other has lost - or its outcome is unknown, if it may have been done. Where
    a request that began at a moment of `time.monotonic()` has had no answer already, it begins with that.

    Raises:
        UncertainError: the outcome is unknown.
        AccountStoreError: what the last attempt raised, if it surely did nothing.
    """
    writing = _Writing(client, write, by)
    if unanswered_since is not None:
        writing.started, writing.unanswered, writing.looking = unanswered_since, True, True
        writing.failure = unavailable(client, "no answer", sent=True)
    with suppress(TimeoutError), Deadline(client.calls.deadlines, by):
        while not await writing.attempt():
            note_retry(client.name)
            await backoff(writing.attempts)
            if monotonic() > by if writing.looking else _is_late(client, by):
                raise TimeoutError
        return writing.stat
    raise uncertain(client) if writing.unknown else out_of_time(client)


class _Writing(Struct, eq=False):
    """A write under way, attempt after attempt."""

    client: Client
    write: PendingWrite
    by: float
    started: float = field(default_factory=monotonic)
    attempts: int = 0
    stat: Stat | None = None
    looking: bool = False
    """Whether the document is looked at before anything is sent again."""
    failure: Any = None
    """Of the last request: an `AccountStoreError`."""
    refused: bool = False
    sending: Sending | None = None
    unanswered: bool = False
    """Whether an earlier request may have been done."""

    @property
    def unknown(self) -> bool:
        """Whether it may have been done, by an earlier request or by the one that is being made."""
        return self.unanswered or (self.sending is not None and self.sending.sent)

    async def attempt(self) -> bool:
        """Whether it has succeeded. Raises what it has failed for, if there is to be no further attempt."""
        self.attempts += 1
        if not self.looking:
            self.sending = Sending()  # should it be cut short
            self.sending.sent = not self.client.capabilities.certain  # unless the backend tells otherwise
            context = SENDING.set(self.sending)
            try:
                self.stat = await self.client.send(self.write)
                return True  # noqa: TRY300 -- an else would stand far from its try
            except AccountStoreError as error:
                self.failure = error
            finally:
                SENDING.reset(context)
            self._judge()
        if self.looking and await self._look():
            return True
        if self.attempts >= self.client.policy.attempts or not (self.refused or self.failure.temporary):
            raise uncertain(self.client, self.failure.message) if self.unknown else self.failure
        return False

    def _judge(self) -> None:
        """What the failure of a request means. Raises it, if it is clear that nothing was done."""
        failure, able = self.failure, self.client.capabilities
        self.sending = None
        self.unanswered = self.unanswered or (isinstance(failure, UnavailableError) and failure.sent)
        self.refused = _is_refusal(failure, self.write.condition)
        clear = isinstance(failure, LockedError) or (self.refused and (able.certain or not able.write_tokens))
        nothing = not self.unknown and (clear or not (self.refused or failure.temporary))
        if nothing or isinstance(failure, UncertainError):
            raise failure
        self.looking = self.refused or self.unknown

    async def _look(self) -> bool:
        """Whether the document shows that it was done; if not, how it may be attempted again."""
        try:
            now = await self.client.observe(self.write)
            if _is_own(self.write, now):
                self.stat = now
                return True
            again = await self._again(now)
        except AccountStoreError as error:
            if not error.temporary:
                raise uncertain(self.client, error.message) from None
            self.unanswered = True
            return False
        if again is None:
            raise uncertain(self.client, "what is there now may be another's") if self.unknown else self.failure
        if not self.unknown:  # whoever stood in the way is gone
            self.failure = unavailable(self.client, "the storage refused it, but nothing is in its way")
        self.write = again
        self.looking = False
        return False

    async def _again(self, now: Stat | None, /) -> PendingWrite | None:
        """The write as it may be attempted again, if at all."""
        write = self.write
        if write.condition == "overwrite":
            return await self._repeatable(now)
        holds = now is None if write.condition == "create" else now is not None and now.version == write.condition
        return write if holds else None

    async def _repeatable(self, now: Stat | None, /) -> PendingWrite | None:
        """A write without condition on the condition that the document is still as it is now, if that is how it was
        before the first request; itself, where the storage honours no conditions; else None.
        """
        write, folder = self.write, self.write.key.rpartition("/")[0]
        if not self.client.capabilities.create:
            return write
        honoured = await self.client.conditions(folder, self.by)
        if not honoured.create:
            return write
        own = self.client.own_writes
        if now is None:  # as it was before, unless this client knows that there was a document
            known = own.has(write.key) and not own.made(write.key, GONE, self.started)
            return None if known else replace(write, condition="create")
        if now.version is None or not (honoured.delete if write.data is None else honoured.update):
            return None
        ours = own.made(write.key, now.write_token, self.started)
        return replace(write, condition=now.version) if ours or await self._predates(now, folder) else None

    async def _predates(self, now: Stat, folder: str, /) -> bool:
        """Whether a state of the document is older than the first request, by the server's own clock."""
        time = await self.client.server_time(folder)
        if time is None or now.modified is None:
            return False
        unit = timedelta(milliseconds=1) if now.modified.microsecond else timedelta(seconds=1)  # of the server's dates
        return time - now.modified > unit + timedelta(seconds=monotonic() - self.started)


def _is_own(write: PendingWrite, now: Stat | None, /) -> bool:
    """Whether the document as it is now was made by this write."""
    if write.data is None:
        return now is None
    return now is not None and write.token != "" and now.write_token == write.token


def _is_refusal(failure: AccountStoreError, condition: WriteMode, /) -> bool:
    if isinstance(failure, NotFoundError):
        return isinstance(condition, Version)
    return isinstance(failure, (ExistsError, ConflictError))
