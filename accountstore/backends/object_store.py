"""What the object stores share. The HTTP status of an answer decides the outcome, whatever a client raises for it."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import signature
from typing import Any, Generic, TypeVar
from weakref import finalize, getweakrefs

from anyio import to_thread

from accountstore.aio.loops import AsyncioBridge, on_asyncio
from accountstore.aio.threads import Lazy
from accountstore.backends.base import (
    BackendError,
    Blob,
    Capabilities,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    Stat,
    UnavailableError,
    Version,
    WriteMode,
    pages_by_cursor,
)
from accountstore.validation import did_you_mean

T = TypeVar("T")

WRITE_TOKEN = "accountstore_write"  # noqa: S105 -- no password
"""The metadata field for the token of a conditional write. Azure takes letters, digits and underscores only."""

INSTANCE: Mapping[str, Any] = {"asynchronous": True, "skip_instance_cache": True, "use_listings_cache": False}
"""Options of an fsspec filesystem that is the store's own and caches nothing."""

_OWN = frozenset({*INSTANCE, "loop"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_FULL = frozenset({"QuotaExceeded", "AccountLimitExceeded", "XMinioStorageFull"})
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})


def whole_blob(data: bytes, stat: Stat, /) -> Blob:
    """The blob of an answer. Raises `UnavailableError` where it has fewer or more bytes than it has told."""
    if len(data) != stat.size:
        raise UnavailableError("the answer was cut short")
    return Blob(data, stat)


def generation(version: Version, /) -> str:
    """The generation of a version of Google Cloud Storage. Raises `ConflictError` for one that it cannot have given."""
    if not re.fullmatch("[0-9]+", version.token):
        raise ConflictError("the document has changed since it was read")
    return version.token


class Bucket(ABC, Generic[T]):
    """A bucket, and a client for it that the first call opens for all, on asyncio.

    It is opened in a task of its own: a call that is cancelled or out of time meanwhile leaves it to the next one.
    """

    # If its server keeps to the protocol.
    capabilities: Capabilities = Capabilities(
        create=True, update=True, atomic=True, durable=True, verify=True, write_tokens=True, folders=True
    )
    _failures: tuple[type[Exception], ...]
    """What the client raises."""

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, /) -> None:
        """`prefix` stands before each key."""
        self._options = options
        self._bucket = bucket
        self._prefix = prefix
        self._opening: asyncio.Task[T] | None = None
        self._answered = False
        self.bridge: AsyncioBridge = AsyncioBridge()

    @abstractmethod
    async def _open(self) -> T: ...

    @abstractmethod
    async def _shut(self, client: T, /) -> None: ...

    async def _opened(self) -> T:
        """The client. Raises what opening it raises; the next call then opens it anew."""
        task = self._opening
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._opening = asyncio.create_task(self._open())
        return task.result() if task.done() else await asyncio.shield(task)

    @asynccontextmanager
    async def _client(self, mode: WriteMode | None = None, /) -> AsyncGenerator[T]:
        """The client, for a request with this condition; what it raises within becomes an error of ours."""
        try:
            yield await self._opened()
        except self._failures as error:
            failure = self._error(error, mode)
        else:
            self._answered = True
            return
        raise failure

    @abstractmethod
    def _error(self, error: Any, mode: WriteMode | None, /) -> BackendError: ...

    async def aclose(self) -> None:
        await self._close()
        await self.bridge.aclose()

    @on_asyncio
    async def _close(self) -> None:
        """Close the client, if it was opened; one that is being opened is waited for."""
        if self._opening is not None:
            try:
                client = await self._opening
            except Exception:  # noqa: BLE001 -- which those who asked for the client have met
                return
            self._opening = None
            await self._shut(client)


class ObjectStore(Bucket[T]):
    """A bucket that fsspec has a client for. The fsspec filesystem that it hands out is blocking, made when it is asked
    for, never from fsspec's shared cache, and closed with it.
    """

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, kind: Callable[..., Any], /) -> None:
        """`kind` is the class of fsspec's filesystem, which takes the options."""
        super().__init__(options, bucket, prefix)
        make = partial(kind, **options, skip_instance_cache=True, use_listings_cache=False)
        self._filesystem: Lazy[Any] = Lazy(make)

    @on_asyncio
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        with suppress(NotFoundError):
            try:
                await self._delete(key, version)
            except ConflictError:
                await self.stat(key)  # of a missing document it is none, whatever the server says
                raise

    @abstractmethod
    async def _delete(self, key: str, version: Version | None, /) -> None: ...

    @on_asyncio
    async def stat(self, key: str, /) -> Stat:
        first = not self._answered
        try:
            return await self._head(key)
        except NotFoundError:
            if first:
                with suppress(DeniedError):  # a key may be allowed to read documents only
                    await self._require_bucket()
            raise

    @abstractmethod
    async def _head(self, key: str, /) -> Stat: ...

    async def _require_bucket(self) -> None:
        """Raise a `BackendError` if the bucket does not exist, where an answer to `_head` does not distinguish that."""

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        start = self._prefix + (f"{prefix}/" if prefix else "")
        return pages_by_cursor(partial(self._page, start, recursive))

    @abstractmethod
    def _page(
        self, start: str, recursive: bool, cursor: str | None, /
    ) -> Coroutine[Any, Any, tuple[list[Stat], str | None]]: ...

    async def filesystem(self) -> tuple[object, str]:
        return await to_thread.run_sync(self._filesystem.get), f"{self._bucket}/{self._prefix}".rstrip("/")

    async def aclose(self) -> None:
        await super().aclose()
        for finalizer in finalizers(self._filesystem.take()):  # fsspec's way to close a session
            await to_thread.run_sync(finalizer)


def finalizers(thing: object, /) -> list[finalize[..., Any]]:
    """The finalizers (`weakref.finalize`) of an object; None has none."""
    callbacks = [reference.__callback__ for reference in getweakrefs(thing)]
    return [callback for callback in callbacks if isinstance(callback, finalize)]


def folder(key: str, /) -> Stat:
    """A folder in a listing; its key ends in a slash."""
    return Stat(key, 0, None, None)


def split_url(url: str, /) -> tuple[str, str]:
    """The bucket or container of a URL, and what stands before each key in it: nothing, or a folder and a `/`.

    Raises:
        ConfigError: there is no bucket, or the URL has a query or a fragment.
    """
    place = url.partition("://")[2]
    if re.search("[?#]", place):
        raise ConfigError("the url of a bucket has no query and no fragment")
    bucket, _, prefix = place.partition("/")
    if not bucket:
        raise ConfigError("the url must name a bucket or container: scheme://bucket/prefix")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def check_options(options: Mapping[str, object], client: Callable[..., object], /, *more: str) -> None:
    """Raise `ConfigError` for an option that a client has no parameter for and would drop, or that the store sets."""
    known = [*list(signature(client).parameters)[1:], *more]
    for name in options:
        if name in _OWN:
            raise ConfigError(f"options: {name!r} is set by the store")
        if name not in known or name == "kwargs":
            raise ConfigError(f"options: unknown {name!r}{did_you_mean(name, known)}")


def error_for_status(status: int, code: str = "", mode: WriteMode | None = None, /) -> BackendError:
    """The error for an answer with this status and the service's own error code, to a request with this condition or
    to one without any.

    A code is shown only where it is a plain word.
    """
    shown = f" ({status} {code})" if re.fullmatch(r"\w{1,64}", code, re.ASCII) else f" ({status})"
    if code in _NO_BUCKET:
        return BackendError(f"the bucket or container does not exist{shown}")
    if status in {301, 307, 308} or code in _ELSEWHERE:
        return BackendError(f"the bucket is in another region{shown}")
    if code in _FULL or status == 507:  # before 403, with which Ceph reports a quota
        return FullError(f"the storage is full{shown}")
    if status == 412 or code == "BlobAlreadyExists":
        if mode == "create":
            return ExistsError("there is a document already")
        if isinstance(mode, Version):
            return ConflictError("the document has changed since it was read")
    if status in {404, 410}:
        return NotFoundError("there is no such document")
    if status in {401, 403}:
        return DeniedError(f"access is denied{shown}")
    if status in {408, 409, 425, 429} or status >= 500:
        return UnavailableError(f"the storage is busy{shown}")
    return BackendError(f"the storage refused the request{shown}")


def unsent(error: BaseException | None, /) -> bool:
    """Whether an error says that no connection was made, so that no request was sent."""
    for _ in range(10):  # causes, which could go round in a circle
        if error is None:
            return False
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"ConnectionRefusedError", "gaierror", "ClientConnectorError", "ConnectTimeoutError"}:
            return True
        error = error.__cause__ or error.__context__
    return False
