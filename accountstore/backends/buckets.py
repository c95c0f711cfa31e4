"""What the object stores have in common: URLs of buckets, options, the opening of a client, marks, and the meaning of
an HTTP status.

Outcomes are decided by the status of the answer, whatever exception a client makes of it.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from inspect import signature
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from accountstore.backends.base import Capabilities, Version
from accountstore.errors import (
    BackendError,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    UnavailableError,
)
from accountstore.validation import near_miss

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from accountstore.backends.base import WriteMode

__all__ = ("CAPABILITIES", "INSTANCE", "MARK", "Opening", "check_options", "failure", "split_url", "unsent")

T = TypeVar("T")

MARK = "accountstore_write"
"""The metadata field that holds the mark of a conditional write. Azure takes letters, digits and underscores only."""

CAPABILITIES = Capabilities(create=True, update=True, atomic=True, durable=True, proven=False, marks=True)
"""What each promises, if its server does its part."""

INSTANCE: Mapping[str, bool] = {"asynchronous": True, "skip_instance_cache": True, "use_listings_cache": False}
"""Options of a filesystem of fsspec's that is the store's own, and remembers nothing."""

_OWN = frozenset({*INSTANCE, "loop"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_EXISTS = frozenset({"BlobAlreadyExists"})
_FULL = frozenset({"QuotaExceeded", "AccountLimitExceeded", "XMinioStorageFull"})
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})


class Opening(Generic[T]):
    """A client that the first call opens for all, on asyncio.

    It is opened in a task of its own: a call that is cancelled or out of time meanwhile leaves it to the next one.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], /) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None
        self.client: T | None = None
        """None until it has been asked for."""

    async def ask(self) -> T:
        """The client. Raises what opening it raises; the next call then opens it anew."""
        if self._task is None or (self._task.done() and self.client is None):
            self._task = asyncio.create_task(self._open())
        return await asyncio.shield(self._task)

    async def _open(self) -> T:
        self.client = await self._make()
        return self.client

    async def take(self) -> T | None:
        """Take the client out, to close it; one that is being opened is waited for."""
        if self._task is not None:
            with suppress(Exception):  # which those who asked for the client have met
                await self._task
        client, self.client, self._task = self.client, None, None
        return client


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
            raise ConfigError(f"options: unknown {name!r}{near_miss(name, known)}")


def failure(status: int, code: str = "", mode: WriteMode | None = None, /) -> BackendError:
    """The error for an answer with this status and the service's own error code, to a request with this condition or
    to one without any.

    A code is shown only where it is a plain word.
    """
    shown = f" ({status} {code})" if re.fullmatch(r"\w{1,64}", code, re.ASCII) else f" ({status})"
    if code in _NO_BUCKET:
        return BackendError(f"the bucket or container does not exist{shown}")
    if status in {301, 307, 308} or code in _ELSEWHERE:
        return BackendError(f"the bucket is in another region{shown}")
    if code in _FULL or status == 507:  # before 403, with which Ceph tells of a quota
        return FullError(f"the storage is full{shown}")
    if status == 412 or code in _EXISTS:
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
