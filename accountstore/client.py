"""StorageClient: a backend as the store uses it. Keys and bytes in, typed errors out; it knows no document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime
from errno import errorcode
from functools import partial
from os import strerror, urandom
from random import random
from time import monotonic
from typing import ParamSpec, TypeVar, cast

import anyio

from accountstore.aio.deadlines import Deadline
from accountstore.aio.pages import Paged
from accountstore.aio.sending import SENDING, Sending, has_left
from accountstore.aio.shield import InFlight, run_shielded
from accountstore.backends.base import (
    Backend,
    BatchBackend,
    Blob,
    Capabilities,
    LockedError,
    Stat,
    Usage,
    Version,
    VersionInfo,
    Write,
    WriteMode,
    classify_error,
)
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    ClosedError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    NotRegularError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)
from accountstore.outcomes import each, one_for_each, outcome_of
from accountstore.probe import probe, server_time
from accountstore.retry import (
    CONDITIONS,
    GONE,
    Condition,
    Conditions,
    OwnWrites,
    PendingWrite,
    RetryPolicy,
    Turn,
    condition_of,
    out_of_time,
    retry,
    retry_write,
    uncertain,
)

T = TypeVar("T")
P = ParamSpec("P")

_REASONS: dict[type[BackendError], str] = {
    NotFoundError: "there is no such document",
    ExistsError: "there is a document already",
    ConflictError: "the document has changed since it was read",
    DeniedError: "access is denied",
    NotRegularError: "a folder, link or device stands there",
    FullError: "the storage is full",
    UnavailableError: "the storage cannot be reached or is busy",
    BackendError: "the storage failed",
}
_LOCK_SECONDS = 10.0
_LOCK_PAUSE = 0.1
_OF_THE_DOCUMENT = (NotFoundError, ExistsError, ConflictError, NotRegularError)


class StorageClient:
    """A backend with one deadline, one retry policy, the probe of its conditions, and typed errors.

    Every call may raise, beside what it names itself, what the storage said: `DeniedError`, `FullError`,
    `NotRegularError`, `UnavailableError`, `BackendError`. No error carries a frame or a text from below, which may hold
    documents and credentials.
    """

    __slots__ = ("_conditions", "_probing", "backend", "calls", "capabilities", "limit", "name", "own_writes", "policy")

    def __init__(
        self,
        name: str,
        backend: Backend,
        policy: RetryPolicy | None = None,
        /,
        *,
        limit: int,
        capabilities: Capabilities | None = None,
        concurrency: int | None = None,
    ) -> None:
        """`limit` bounds what a read takes into memory, in bytes; `capabilities` and `concurrency`, how many operations
        may be in flight, replace the backend's own.
        """
        self.name: str = name
        self.backend: Backend = backend
        self.policy: RetryPolicy = policy or RetryPolicy()
        self.limit: int = limit
        self.capabilities: Capabilities = capabilities or backend.capabilities
        self.calls: InFlight = InFlight(concurrency or self.capabilities.concurrency)
        verify = self.capabilities.verify
        self._conditions: Conditions | None = None if verify else Conditions.declared(self.capabilities)
        self._probing = anyio.Lock()
        self.own_writes: OwnWrites = OwnWrites()

    def deadline(self) -> float:
        """When an operation that begins now must have ended, as a moment of `time.monotonic()`."""
        return monotonic() + self.policy.timeout

    def read(self, key: str, by: float, /) -> Awaitable[Blob]:
        """The document's bytes and stat. Raises `NotFoundError`, `TooLargeError`."""
        return retry(self, by, self.calls.turns, self.backend.read, key, limit=self.limit)

    def stat(self, key: str, by: float, /) -> Awaitable[Stat]:
        """Size, version and time. Raises `NotFoundError`."""
        return retry(self, by, self.calls.turns, self.backend.stat, key)

    async def write(self, key: str, data: bytes, mode: WriteMode, by: float, /) -> Stat:
        """Store the bytes, awaited to its end whatever cancels the caller.

        Raises:
            ExistsError, ConflictError, NotFoundError: the mode's condition does not hold.
            UnsupportedError: the storage does not honour the mode's condition.
            UncertainError: the outcome is unknown.
        """
        if mode != "overwrite":
            await self.require(condition_of(mode), key.rpartition("/")[0], by)
        token = urandom(8).hex() if self.capabilities.write_tokens else ""
        began = monotonic()
        while True:
            try:
                async with Turn(self, by):
                    stat = await run_shielded(retry_write, self, by, PendingWrite(key, data, mode, token))
                break
            except LockedError as held:
                await _wait_for_lock(held, began)
        if token and not self.capabilities.certain:
            self.own_writes.add(key, token)
        return cast("Stat", stat)

    async def delete(self, key: str, version: Version | None, by: float, /) -> None:
        """Remove the document, if it has this version. Otherwise as `write`; a missing document is no error."""
        if version is not None:
            await self.require("delete", key.rpartition("/")[0], by)
        began = monotonic()
        while True:
            try:
                async with Turn(self, by):
                    await run_shielded(retry_write, self, by, PendingWrite(key, None, version or "overwrite", ""))
                break
            except LockedError as held:
                await _wait_for_lock(held, began)
        if self.capabilities.write_tokens:
            self.own_writes.add(key, GONE)

    def send(self, write: PendingWrite, /) -> Awaitable[Stat | None]:
        """One request of a write or a delete."""
        key, data, mode = write.key, write.data, write.condition
        if data is None:
            return self.attempt(self.backend.delete, key, version=mode if isinstance(mode, Version) else None)
        return self.attempt(self.backend.write, key, data, mode=mode, write_token=write.token)

    async def observe(self, write: PendingWrite, /) -> Stat | None:
        """The document of a write as it is now; None: there is none."""
        try:
            return await self.attempt(self.backend.stat, write.key)
        except NotFoundError:
            return None

    def pages(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        """Pages of the documents in a folder, and below it if `recursive`; each is asked for under the retry policy."""
        return Paged(partial(self._next_page, self.backend.scan(prefix, recursive=recursive)))

    async def _next_page(self, pages: AsyncIterator[Sequence[Stat]], /) -> Sequence[Stat] | None:
        return await retry(self, self.deadline(), self.calls.turns, anext, pages, None)

    async def read_many(self, keys: Sequence[str], /, *, at_once: int = 1) -> list[Blob | AccountStoreError]:
        """What `read` returns or raises for each key; in one call of the backend where that pays, else `at_once`."""
        if self.capabilities.batch == 1:
            return await each(self._read_in_time, keys, at_once)
        by = self.deadline()
        blobs = await outcome_of(self._read_batch(keys, by))
        if isinstance(blobs, AccountStoreError):
            return [blobs] * len(keys)
        return [
            await outcome_of(self._read_again(key, blob, by)) if isinstance(blob, Exception) else blob
            for key, blob in zip(keys, blobs, strict=True)
        ]

    def _read_batch(self, keys: Sequence[str], by: float, /) -> Awaitable[Sequence[Blob | Exception]]:
        read_many = cast("BatchBackend", self.backend).read_many
        return retry(self, by, self.calls.turns, one_for_each, read_many, keys, limit=self.limit)

    async def _read_again(self, key: str, error: Exception, by: float, /) -> Blob:
        """A document of a batch by itself, where its error was temporary."""
        failure = self._typed(error)
        if not failure.temporary or self.policy.attempts == 1:
            raise failure
        return await self.read(key, by)

    def _read_in_time(self, key: str, /) -> Awaitable[Blob]:
        """Read one of many: its time begins now."""
        return self.read(key, self.deadline())

    def _write_in_time(self, write: Write, /) -> Awaitable[Stat]:
        """Write one of many, as above."""
        return self.write(*write, self.deadline())

    async def write_many(self, writes: Sequence[Write], /, *, at_once: int = 1) -> list[Stat | AccountStoreError]:
        """What `write` returns or raises for each write; in one call of the backend where that pays, else `at_once`."""
        if self.capabilities.batch == 1:
            return await each(self._write_in_time, writes, at_once)
        started, by = monotonic(), self.deadline()
        stats = await outcome_of(self._write_batch(writes, by))
        if isinstance(stats, AccountStoreError):
            return [stats] * len(writes)
        return [
            await outcome_of(self._write_again(write, stat, started, by)) if isinstance(stat, Exception) else stat
            for write, stat in zip(writes, stats, strict=True)
        ]

    async def _write_batch(self, writes: Sequence[Write], by: float, /) -> Sequence[Stat | Exception]:
        async with Turn(self, by):
            return await run_shielded(self._attempt_batch, writes, by)

    async def _attempt_batch(self, writes: Sequence[Write], by: float, /) -> Sequence[Stat | Exception]:
        if not writes:
            return ()
        sending = Sending()
        sending.sent = not self.capabilities.certain
        context = SENDING.set(sending)
        try:
            with Deadline(self.calls.deadlines, by):
                return await self.attempt(one_for_each, cast("BatchBackend", self.backend).write_many, writes)
        except AccountStoreError as error:
            return [error] * len(writes)
        except TimeoutError:
            pass
        finally:
            SENDING.reset(context)
        return [uncertain(self) if sending.has_sent(write.key) else out_of_time(self) for write in writes]

    async def _write_again(self, write: Write, error: Exception, started: float, by: float, /) -> Stat:
        """A document of a batch by itself, where its error was temporary and the write may be repeated."""
        failure = self._typed(error)
        if not isinstance(failure, UnavailableError) or isinstance(failure, UncertainError):
            raise failure
        if self.policy.attempts == 1:
            raise uncertain(self, failure.message) if failure.sent else failure
        if not failure.sent:
            return await self.write(*write, by)
        again = PendingWrite(write.key, write.data, write.mode, "")  # as the batch wrote it
        try:
            async with Turn(self, by):
                return cast("Stat", await run_shielded(retry_write, self, by, again, started))
        except UncertainError:
            raise
        except AccountStoreError as error_again:
            failure = error_again
        raise uncertain(self, failure.message)

    async def require(self, condition: Condition, folder: str, by: float, /) -> None:
        """Raise `UnsupportedError` unless the storage honours the condition of a create, a swap or a delete."""
        if not await self.honours(condition, folder, by):
            if self.capabilities.read_only:
                raise UnsupportedError("the storage is opened read-only")
            what, why = "ignores" if self._declares(condition) else "does not promise", ""
            if self._conditions is not None and self._conditions.unsupported:
                what, why = "refuses", f": {self._conditions.unsupported}"
            raise UnsupportedError(f"storage {self.name!r} {what} the condition of {CONDITIONS[condition]}{why}")

    async def honours(self, condition: Condition, folder: str, by: float, /) -> bool:
        """Whether the storage honours a condition: as its backend declares; or, where that depends on the server, as
        the probe finds in a folder the first time.
        """
        if not self._declares(condition):
            return False
        if self._conditions is None:
            async with Turn(self, by):
                await self.conditions(folder, by)
        return bool(getattr(self._conditions, condition))

    def _declares(self, condition: Condition, /) -> bool:
        return self.capabilities.create if condition == "create" else self.capabilities.update

    async def conditions(self, folder: str, by: float, /) -> Conditions:
        """Those that the storage honours, which the probe finds, or has found; for an operation that has its turn."""
        if self._conditions is not None:
            return self._conditions
        with suppress(TimeoutError), Deadline(self.calls.deadlines, by):
            async with self._probing:
                if self._conditions is None:
                    self._conditions = await run_shielded(self._probe, folder, by)
                return self._conditions
        raise out_of_time(self)

    async def _probe(self, folder: str, by: float, /) -> Conditions:
        return await retry(self, by, None, probe, self.backend, folder)

    async def server_time(self, folder: str, /) -> datetime | None:
        """The time by the clock that dates the documents, after this call began; None where they have no date."""
        return await self.attempt(server_time, self.backend, folder)

    def record(self, conditions: Conditions, /) -> None:
        """Take over what a check has found, unless the backend or the configuration vouches for the storage."""
        if self.capabilities.verify:
            self._conditions = conditions

    async def versioned(self) -> bool | None:
        """Whether the storage keeps what was overwritten or deleted; None where that cannot be known."""
        with suppress(AccountStoreError):
            return await self._once(self.backend.versioned)
        return None

    def versions(self, key: str, by: float, /) -> Awaitable[Sequence[VersionInfo]]:
        """What the storage keeps of a document, newest first. Raises `NotFoundError`, `UnsupportedError`."""
        return retry(self, by, self.calls.turns, self.backend.versions, key)

    def usage(self) -> Awaitable[Usage | None]:
        """How full the storage is; None where nobody tells."""
        return retry(self, self.deadline(), self.calls.turns, self.backend.usage)

    async def filesystem(self) -> tuple[object, str]:
        """The fsspec filesystem below, and its root. Raises `UnsupportedError`."""
        return await self._once(self.backend.filesystem)

    async def _once(self, call: Callable[[], Awaitable[T]], /) -> T:
        with suppress(TimeoutError), Deadline(self.calls.deadlines, self.deadline()):
            return await self.attempt(call)
        raise out_of_time(self, sent=True)

    async def aclose(self) -> None:
        """End the operations under way and close the backend, within the deadline. Nothing is sent afterwards."""
        await self.calls.aclose(self.deadline())
        try:
            with anyio.fail_after(self.policy.timeout, shield=True):
                await self.backend.aclose()
        except Exception as error:  # noqa: BLE001 -- whatever a backend raises
            failure = self._typed(error)
        else:
            return
        raise failure

    async def attempt(self, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of one request, or its error, typed and raised outside of the frames that held the document."""
        if self.calls.closed:
            raise ClosedError("the store is closed")
        try:
            return await call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- whatever a backend raises
            failure = self._typed(error)
        except BaseException as ended:  # noqa: BLE001 -- cancellation goes on, without the frames below
            ended.__context__ = ended.__cause__ = None
            raise ended.with_traceback(None)  # noqa: B904 -- it is the same one
        raise failure

    def _typed(self, error: Exception, /) -> AccountStoreError:
        """The error of ours for what a backend raised, without its traceback, its context and its text.

        The cause is an operating system error's number, where there is one.
        """
        cause: OSError | None = None
        if isinstance(error, AccountStoreError):
            failure = copy(error)  # one error may stand for many documents
        else:
            kind = classify_error(error)
            if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in errorcode:
                cause = OSError(error.errno, strerror(error.errno))
            detail = "" if kind in {NotFoundError, ExistsError} else f" ({cause or type(error).__name__})"
            failure = kind(_REASONS[kind] + detail)
            if isinstance(failure, UnavailableError):
                certain = self.capabilities.certain or isinstance(error, ConnectionRefusedError)
                failure.sent = not certain and has_left()
        if isinstance(failure, BackendError) and not isinstance(failure, _OF_THE_DOCUMENT):
            failure.message = self.policy.about_storage(failure.message)
        failure.__traceback__ = failure.__context__ = None
        failure.__cause__ = cause
        return failure


async def _wait_for_lock(held: LockedError, began: float, /) -> None:
    """Wait for whoever holds a document, without a turn. Raises the error if that has taken too long."""
    if monotonic() > began + _LOCK_SECONDS:
        raise held
    await anyio.sleep(random() * _LOCK_PAUSE)  # noqa: S311 -- jitter
