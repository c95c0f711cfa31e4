"""StorageClient: a backend as the store uses it. Keys and bytes in, typed errors out; it knows no document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from copy import copy
from errno import errorcode
from functools import partial
from os import strerror, urandom
from typing import Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, cast

import anyio
from msgspec.structs import replace

from accountstore.aio.pages import Paged
from accountstore.aio.shield import run_shielded
from accountstore.backends.base import (
    Backend,
    BatchBackend,
    Blob,
    Capabilities,
    Stat,
    Version,
    Write,
    WriteMode,
    classify_error,
)
from accountstore.errors import (
    AccountStoreError,
    BackendError,
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
from accountstore.probe import Conditions, probe
from accountstore.retry import PendingWrite, RetryPolicy, retry, retry_write

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Condition: TypeAlias = Literal["create", "update", "delete"]

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
_OF_THE_DOCUMENT = (NotFoundError, ExistsError, ConflictError, NotRegularError)
_CONDITIONS: dict[Condition, str] = {"create": "a create", "update": "a swap", "delete": "a delete of a version"}


def condition_of(mode: WriteMode, /) -> Condition:
    """What a conditional mode needs. Raises `ValueError` for what is no mode: a misspelt one must not overwrite."""
    if mode == "create":
        return "create"
    if isinstance(mode, Version):
        return "update"
    raise ValueError("mode must be 'overwrite', 'create' or a Version")


class StorageClient:
    """A backend with one deadline, one retry policy, the probe of its conditions, and typed errors.

    Every call may raise, beside what it names itself, what the storage said: `DeniedError`, `FullError`,
    `NotRegularError`, `UnavailableError`, `BackendError`. No error carries a frame or a text from below, which may hold
    documents and credentials.
    """

    __slots__ = ("_conditions", "_probing", "backend", "capabilities", "limit", "name", "policy")

    def __init__(
        self,
        name: str,
        backend: Backend,
        policy: RetryPolicy | None = None,
        /,
        *,
        limit: int,
        capabilities: Capabilities | None = None,
    ) -> None:
        """`limit` bounds what a read takes into memory, in bytes; `capabilities` replace the backend's own."""
        self.name: str = name
        self.backend: Backend = backend
        self.policy: RetryPolicy = policy or RetryPolicy()
        self.limit: int = limit
        self.capabilities: Capabilities = capabilities or backend.capabilities
        verify = self.capabilities.verify
        self._conditions: Conditions | None = None if verify else Conditions.declared(self.capabilities)
        self._probing = anyio.Lock()

    def read(self, key: str, /) -> Awaitable[Blob]:
        """The document's bytes and stat. Raises `NotFoundError`, `TooLargeError`."""
        return retry(self.policy, self.attempt, self.backend.read, key, limit=self.limit)

    def stat(self, key: str, /) -> Awaitable[Stat]:
        """Size, version and time. Raises `NotFoundError`."""
        return retry(self.policy, self.attempt, self.backend.stat, key)

    async def write(self, key: str, data: bytes, mode: WriteMode, /) -> Stat:
        """Store the bytes, awaited to its end whatever cancels the caller.

        Raises:
            ExistsError, ConflictError, NotFoundError: the mode's condition does not hold.
            UnsupportedError: the storage does not honour the mode's condition.
            UncertainError: the outcome is unknown.
        """
        token = ""
        if mode != "overwrite":
            await self.require(condition_of(mode), _folder(key))
            token = urandom(8).hex()
        tokens = self.capabilities.write_tokens
        send = partial(self.backend.write, key, data, mode=mode, write_token=token if tokens else "")
        if tokens:
            observe = partial(self.backend.stat, key)
        else:
            observe = partial(_compare, self.backend, key, self.limit, data, token)
        return cast("Stat", await self._settle(PendingWrite(mode, token, send, observe, not tokens)))

    async def delete(self, key: str, version: Version | None = None, /) -> None:
        """Remove the document, if it has this version. Otherwise as `write`; a missing document is no error."""
        if version is not None:
            await self.require("delete", _folder(key))
        send = partial(self.backend.delete, key, version=version)
        final = not self.capabilities.write_tokens
        await self._settle(PendingWrite(version or "overwrite", None, send, partial(self.backend.stat, key), final))

    def _settle(self, write: PendingWrite, /) -> Awaitable[Stat | None]:
        return run_shielded(self.policy.deadline, retry_write, self.policy, self.attempt, write)

    def pages(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        """Pages of the documents in a folder, and below it if `recursive`; each is asked for under the retry policy."""
        return Paged(partial(self._next_page, self.backend.scan(prefix, recursive=recursive)))

    async def _next_page(self, pages: AsyncIterator[Sequence[Stat]], /) -> Sequence[Stat] | None:
        return await retry(self.policy, self.attempt, anext, pages, None)

    async def read_many(self, keys: Sequence[str], /) -> list[Blob | AccountStoreError]:
        """What `read` returns or raises for each key; in one call of the backend where that pays."""
        if self.capabilities.batch == 1:
            return [await _outcome(self.read(key)) for key in keys]
        read_many = cast("BatchBackend", self.backend).read_many
        blobs = await _outcome(retry(self.policy, self.attempt, _results, read_many, keys, limit=self.limit))
        if isinstance(blobs, AccountStoreError):
            return [blobs] * len(keys)
        return [
            await _outcome(self._read_again(key, blob)) if isinstance(blob, Exception) else blob
            for key, blob in zip(keys, blobs, strict=True)
        ]

    async def _read_again(self, key: str, error: Exception, /) -> Blob:
        """A document of a batch by itself, where its error was temporary."""
        failure = await _outcome(self.attempt(_fail, error))
        if not failure.temporary or self.policy.attempts == 1:
            raise failure
        return await self.read(key)

    async def write_many(self, writes: Sequence[Write], /) -> list[Stat | AccountStoreError]:
        """What `write` returns or raises for each write; in one call of the backend where that pays."""
        if self.capabilities.batch == 1:
            return [await _outcome(self.write(key, data, mode)) for key, data, mode in writes]
        stats = await _outcome(run_shielded(self.policy.deadline, self._attempt_many, writes))
        if isinstance(stats, AccountStoreError):
            return [stats] * len(writes)
        return [
            await _outcome(self._write_again(write, stat)) if isinstance(stat, Exception) else stat
            for write, stat in zip(writes, stats, strict=True)
        ]

    async def _attempt_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        try:
            return await _results(cast("BatchBackend", self.backend).write_many, writes) if writes else ()
        except Exception as error:  # noqa: BLE001 -- one error for all of the batch
            return [error] * len(writes)

    async def _write_again(self, write: Write, error: Exception, /) -> Stat:
        """A document of a batch by itself, where its error was temporary and the write may be repeated."""
        failure = await _outcome(self.attempt(_fail, error))
        if not isinstance(failure, UnavailableError):
            raise failure
        if (write.mode == "overwrite" or not failure.sent) and self.policy.attempts > 1:
            return await self.write(*write)
        raise self.policy.uncertain(failure.message) if failure.sent else failure

    async def require(self, condition: Condition, folder: str, /) -> None:
        """Raise `UnsupportedError` unless the storage honours the condition of a create, a swap or a delete."""
        if not await self.honours(condition, folder):
            what = "ignores" if self._declares(condition) else "does not promise"
            raise UnsupportedError(f"storage {self.name!r} {what} the condition of {_CONDITIONS[condition]}")

    async def honours(self, condition: Condition, folder: str, /) -> bool:
        """Whether the storage honours a condition: as its backend declares; or, where that depends on the server, as
        the probe finds in a folder the first time.
        """
        if not self._declares(condition):
            return False
        if self._conditions is None:
            async with self._probing:
                if self._conditions is None:
                    self._conditions = await self._probe(folder)
        return bool(getattr(self._conditions, condition))

    def _declares(self, condition: Condition, /) -> bool:
        return self.capabilities.create if condition == "create" else self.capabilities.update

    async def _probe(self, folder: str, /) -> Conditions:
        try:
            return await run_shielded(self.policy.deadline, self._retry_probe, folder)
        except UncertainError:
            failure = self.policy.unanswered()
        raise failure

    async def _retry_probe(self, folder: str, /) -> Conditions:
        return await retry(self.policy, self.attempt, probe, self.backend, folder)

    def record(self, conditions: Conditions, /) -> None:
        """Take over what a check has found, unless the backend or the configuration vouches for the storage."""
        if self.capabilities.verify:
            self._conditions = conditions

    async def versioned(self) -> bool | None:
        """Whether the storage keeps what was overwritten or deleted; None where that cannot be known."""
        with anyio.move_on_after(self.policy.timeout), suppress(AccountStoreError):
            return await self.attempt(self.backend.versioned)
        return None

    async def filesystem(self) -> tuple[object, str]:
        """The fsspec filesystem below, and its root. Raises `UnsupportedError`."""
        return await self.attempt(self.backend.filesystem)

    async def aclose(self) -> None:
        """Close the backend, within the deadline."""
        await self.attempt(_close, self.backend, self.policy.timeout)

    async def attempt(self, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of one request, or its error, typed and raised outside of the frames that held the document."""
        try:
            return await call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- whatever a backend raises
            failure = self._typed(error)
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
                failure.sent = not isinstance(error, ConnectionRefusedError)
        if isinstance(failure, BackendError) and not isinstance(failure, _OF_THE_DOCUMENT):
            failure.message = self.policy.about_storage(failure.message)
            failure.args = (failure.message,)
        failure.__traceback__ = failure.__context__ = None
        failure.__cause__ = cause
        return failure


async def _compare(backend: Backend, key: str, limit: int, data: bytes, token: str, /) -> Stat:
    """The document's stat on a backend that keeps no write tokens: it has this one if it has these bytes."""
    blob = await backend.read(key, limit=limit)
    return replace(blob.stat, write_token=token if blob.data == data else None)


async def _outcome(call: Awaitable[T], /) -> T | AccountStoreError:
    """The result of a call, or its error: as one result of many."""
    try:
        return await call
    except AccountStoreError as error:
        return error.with_traceback(None)


async def _results(
    call: Callable[Concatenate[Sequence[T], P], Awaitable[Sequence[R]]],
    documents: Sequence[T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Sequence[R]:
    """What a batch returns. Raises `BackendError` if nobody knows which result is whose."""
    results = await call(documents, *args, **kwargs)
    if len(results) != len(documents):
        raise BackendError(f"the backend returned {len(results)} results for {len(documents)} documents")
    return results


async def _fail(error: Exception, /) -> AccountStoreError:
    raise error


async def _close(backend: Backend, seconds: float, /) -> None:
    with anyio.fail_after(seconds, shield=True):
        await backend.aclose()


def _folder(key: str, /) -> str:
    return key.rpartition("/")[0]
