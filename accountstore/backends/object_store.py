"""What the object stores share. The HTTP status of an answer decides the outcome, whatever a client raises for it."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import finalize, getweakrefs

from anyio.lowlevel import checkpoint_if_cancelled

from accountstore.aio.loops import AsyncioBridge, on_asyncio
from accountstore.aio.sending import SENDING, Sending, has_left, hold
from accountstore.aio.threads import Lazy, ThreadPool
from accountstore.backends.answers import pages_by_mark, unreadable
from accountstore.backends.base import (
    BackendError,
    Capabilities,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    Stat,
    UnavailableError,
    UnsupportedError,
    Usage,
    Version,
    WriteMode,
    classify_error,
)
from accountstore.backends.kinds import SCHEMES
from accountstore.backends.logs import quiet, quietly
from accountstore.errors import AccountStoreError

T = TypeVar("T")
R = TypeVar("R")

WRITE_TOKEN = "accountstore_write"  # noqa: S105 -- no password
"""The metadata field for the token of a conditional write. Azure takes letters, digits and underscores only."""

INSTANCE: Mapping[str, Any] = {"asynchronous": True, "skip_instance_cache": True, "use_listings_cache": False}
"""Options of an fsspec filesystem that is the store's own and caches nothing."""

_THREADS = 4
"""For what blocks: opening a client, renewing its credentials, looking up names."""
_PATIENCE = 5.0
"""Seconds that an opening may take until another call begins a new one."""
_AGAIN = 1.0
"""Seconds before a client whose credentials were never taken is made anew for that."""

_NO_BUCKET = frozenset(
    ("NoSuchBucket", "NoSuchAccessPoint", "ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound")
)
_STALE = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidAuthenticationInfo", "AuthenticationFailed"),
    }
)
"""Credentials that are refused as such: there may be others by now."""
_FULL = frozenset({"QuotaExceeded", "AccountLimitExceeded", "XMinioStorageFull"})
_BUSY = frozenset(
    {
        *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "SlowDown", "Throttling"),
        *("ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
        *("TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded"),
    }
)
"""What botocore takes for temporary whatever its status, which is 400 of S3's."""
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_BUCKET = "[^:@]+|arn:[^@]*"
_CONTAINER = "[^:@]*(@[^@]*)?"
"""What may stand before the first slash of a URL, and is no user with a password. Azure's may name the account."""
_ARN = re.compile(
    "(arn:aws[^:/]*:s3[^:/]*:[^:/]*:[^:/]*:(?:outpost[:/][^:/]+[:/])?(?:accesspoint|bucket)[:/][^:/]+)(?:[:/](.*))?"
)


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
    _tells_sending = False
    """Whether the client tells when a request leaves."""
    _takes_turns = True
    """Whether a turn of the event loop prepares one request, which takes a client in Python a millisecond or two."""

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, /) -> None:
        """`prefix` stands before each key."""
        self._options = options
        self._bucket = bucket
        self._prefix = prefix
        self._opening: asyncio.Task[T] | None = None
        self._begun_at = self._opened_at = 0.0
        self._patience = _PATIENCE
        self._answered = False
        self._lent: list[T] = []
        self._turns = asyncio.Lock()
        self._retired: list[T] = []
        self._shutting: set[asyncio.Task[None]] = set()
        self._threads = ThreadPool(_THREADS)
        self.bridge: AsyncioBridge = AsyncioBridge()

    @abstractmethod
    async def _open(self) -> T: ...

    @abstractmethod
    async def _shut(self, client: T, /) -> None: ...

    async def _apart(self, call: Callable[[], R], /) -> R:
        """The result of a blocking call, in a thread of the storage's own."""
        return await self._threads.run(partial(quietly, call))

    async def _opened(self) -> T:
        """The client. Raises what opening it raises; the next call then opens it anew, as it does where that hangs."""
        while True:
            task = self._opening
            if task is None or self._is_lost(task):
                self._answered = False
                # A context of its own: what it sends is not the request of the call that happens to be the first.
                task = self._opening = asyncio.create_task(self._open_quietly(), context=Context())
                self._begun_at = monotonic()
            if not task.done():
                await asyncio.wait((task,))
            if not task.cancelled():
                return task.result()
            if self._opening in {None, task}:
                raise UnavailableError("the storage was closed", sent=False)

    def _is_lost(self, task: asyncio.Task[T], /) -> bool:
        """Whether an opening has failed, or takes longer than there is patience for, which is more each time: it may
        have asked a program, or a server, that never answers. It is then given up.
        """
        if task.done():
            return task.cancelled() or task.exception() is not None
        if monotonic() - self._begun_at < self._patience:
            return False
        self._patience *= 2
        task.cancel()
        return True

    async def _open_quietly(self) -> T:
        with quiet():
            client = await self._open()
        self._opened_at = monotonic()
        return client

    @asynccontextmanager
    async def _client(self, mode: WriteMode | None = None, /) -> AsyncGenerator[T]:
        """The client, for a request with this condition; what it raises within becomes an error of ours."""
        context = SENDING.set(SENDING.get() or Sending())  # a read has one of its own
        if self._tells_sending:
            hold()
        lent: list[T] = []
        try:
            lent.append(await self._opened())
            self._lent += lent
            await checkpoint_if_cancelled()  # a client may send before it first waits
            if self._takes_turns:
                async with self._turns:
                    await asyncio.sleep(0)
            with quiet():
                yield lent[0]
        except self._failures as error:
            failure = self._error(error, mode)
            if lent and self._is_stale(error):
                self._retire(lent[0])
        except AccountStoreError:
            raise
        except Exception as error:
            meaning = self._meaning(error)
            if meaning is None:
                raise
            failure = meaning
        else:
            self._answered = True
            return
        finally:
            for client in lent:
                self._lent.remove(client)
            self._shut_retired()
            SENDING.reset(context)
        raise failure

    def _meaning(self, error: Exception, /) -> AccountStoreError | None:
        """What an exception means that is none of the client's own; None: what it says by itself."""
        if isinstance(error, FileNotFoundError):  # it would pass for a missing document
            return DeniedError(f"a file that the credentials or certificates need is not there: {error.filename}")
        if self._tells_sending and has_left() and classify_error(error) is BackendError:
            return unreadable(error)
        return None

    @abstractmethod
    def _error(self, error: Any, mode: WriteMode | None, /) -> AccountStoreError: ...

    def _is_stale(self, error: Any, /) -> bool:
        """Whether an error says that the credentials were refused, and a new client may find others."""
        return False

    def _retire(self, client: T, /) -> None:
        """Let the next call open a new client, which asks for credentials anew. One that never got an answer has just
        done so.
        """
        task = self._opening
        current = task is not None and task.done() and not task.cancelled() and task.result() is client
        if current and (self._answered or monotonic() - self._opened_at >= _AGAIN):
            self._opening = None
            self._retired.append(client)

    def _shut_retired(self) -> None:
        """Shut the retired clients that no call uses any more."""
        for client in [client for client in self._retired if client not in self._lent]:
            self._retired.remove(client)
            task = asyncio.create_task(self._shut(client))
            self._shutting.add(task)
            task.add_done_callback(self._shutting.discard)

    async def usage(self) -> Usage | None:
        return None

    async def aclose(self) -> None:
        await self._close()
        await self.bridge.aclose()

    @on_asyncio
    async def _close(self) -> None:
        """Close the clients that were opened; one that is being opened is waited for."""
        try:
            await asyncio.gather(*self._shutting, *map(self._shut, self._retired))
            if self._opening is not None:
                try:
                    client = await self._opening
                except Exception:  # noqa: BLE001 -- which those who asked for the client have met
                    return
                self._opening = None
                await self._shut(client)
        finally:
            self._threads.close()


class ObjectStore(Bucket[T]):
    """A bucket that fsspec has a client for. The fsspec filesystem that it hands out is blocking, made when it is asked
    for, never from fsspec's shared cache, and closed with it.
    """

    _tells_sending = True

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
        return await self._head(key)

    @abstractmethod
    async def _head(self, key: str, /) -> Stat: ...

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        start = self._prefix + (f"{prefix}/" if prefix else "")
        return pages_by_mark(partial(self._found, start, recursive))

    @on_asyncio
    async def _found(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        """A page of keys, whatever they are: the store shows those that a location names."""
        try:
            return await self._page(start, recursive, cursor)
        except NotFoundError:  # a listing is of the bucket
            raise error_for_status(404, "NoSuchBucket") from None

    @abstractmethod
    def _page(
        self, start: str, recursive: bool, cursor: str | None, /
    ) -> Coroutine[Any, Any, tuple[list[Stat], str | None]]: ...

    @on_asyncio
    async def filesystem(self) -> tuple[object, str]:
        return await self._apart(self._filesystem.get), f"{self._bucket}/{self._prefix}".rstrip("/")

    @on_asyncio
    async def _close(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()  # it may hang, and nothing is open before it has ended
            await asyncio.wait((self._opening,))
            self._opening = None
        for finalizer in finalizers(self._filesystem.take()):  # fsspec's way to close a session
            await self._apart(finalizer)
        await super()._close()


def finalizers(thing: object, /) -> list[finalize[..., Any]]:
    """The finalizers (`weakref.finalize`) of an object; None has none."""
    callbacks = [reference.__callback__ for reference in getweakrefs(thing)]
    return [callback for callback in callbacks if isinstance(callback, finalize)]


def folder(key: str, /) -> Stat:
    """A folder in a listing; its key ends in a slash."""
    return Stat(key, 0, None, None)


def split_url(url: str, /) -> tuple[str, str]:
    """The bucket, access point or container of a URL, and what stands before each key in it: nothing, or a folder and
    a `/`.

    Raises:
        ConfigError: there is no bucket, or the URL has a user, a query or a fragment.
    """
    scheme, _, place = url.partition("://")
    if arn := _ARN.fullmatch(place):
        prefix = (arn[2] or "").strip("/")
        return arn[1], f"{prefix}/" if prefix else ""
    if re.search("[?#]", place):
        raise ConfigError("the url of a bucket has no query and no fragment")
    bucket, _, prefix = place.partition("/")
    if not bucket:
        raise ConfigError("url: the url must name a bucket or container: scheme://bucket/prefix")
    if not re.fullmatch(_CONTAINER if scheme.lower() in SCHEMES["azure"] else _BUCKET, bucket):
        raise ConfigError("url: the url of a bucket has no user, no password and no port; keys and server are options")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def error_for_status(status: int, code: str = "", mode: WriteMode | None = None, /) -> AccountStoreError:
    """The error for an answer with this status and the service's own error code, to a request with this condition or
    to one without any. A code is shown only where it is a plain word.
    """
    shown = f" ({status} {code})" if re.fullmatch(r"(?!\d+$)\w{1,64}", code, re.ASCII) else f" ({status})"
    # Where a write finds nothing, it is not the document that is missing.
    if code in _NO_BUCKET or (status == 404 and mode in {"overwrite", "create"}):
        return BackendError(f"the bucket or container does not exist{shown}")
    if 300 <= status < 400 or code in _ELSEWHERE:
        return BackendError(f"the bucket is in another region, or the server redirects, which is not followed{shown}")
    if code in _FULL or status == 507:  # before 403, with which Ceph reports a quota
        return FullError(f"the storage is full{shown}")
    if status in {501, 505} or code == "NotImplemented":  # never, not later
        return _unsupported(shown, mode)
    if (status == 412 or code == "BlobAlreadyExists") and mode == "create":
        return ExistsError("there is a document already")
    if status == 412 and isinstance(mode, Version):
        return ConflictError("the document has changed since it was read")
    if status in {404, 410}:
        return NotFoundError("there is no such document")
    if code in _BUSY or status in {408, 409, 425, 429} or status >= 500:
        return UnavailableError(f"the storage is busy{shown}")
    if status in {401, 403} or code in _STALE:
        return DeniedError(f"access is denied{shown}")
    return BackendError(f"the storage refused the request{shown}")


def _unsupported(shown: str, mode: WriteMode | None, /) -> AccountStoreError:
    if mode == "create" or isinstance(mode, Version):
        return UnsupportedError(f"the server does not know the condition of the write{shown}")
    return BackendError(f"the server does not support the request{shown}")


def is_stale(status: int, code: str, /) -> bool:
    """Whether an answer refuses the credentials themselves."""
    return status == 401 or code in _STALE
