"""S3, Google Cloud Storage and Azure through the Rust client obstore: `engine = "obstore"` (extra `fast`).

It is used raw: its own fsspec layer overwrites where it was asked to create. It has no conditional delete and is no
fsspec filesystem; for these two the backend of the same URL on fsspec is asked, where its package is installed.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

import obstore
from anyio import to_thread
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore

from accountstore.backends.base import Blob, Capabilities, CursorPages, Stat, Version, classify_oserror, each
from accountstore.backends.buckets import CAPABILITIES, MARK, Opening, failure, split_url
from accountstore.backends.loops import AsyncioThread
from accountstore.backends.obstore_options import Service, open_store, service_of, settings_of
from accountstore.errors import (
    BackendError,
    ConfigError,
    ConflictError,
    DeniedError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from accountstore.validation import check_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence

    from accountstore.backends.base import Backend, Write, WriteMode

__all__ = ("ObstoreBackend", "open_backend")

T = TypeVar("T")

_PAGE = 1000
_WAKES = 5
_APART = 0.01
_UPDATE = {"s3": "e_tag", "gcs": "version", "azure": "e_tag"}


class ObstoreBackend:
    """One client of its own, opened with the first call. Versions are those that the fsspec engine tells.

    Reads, writes and deletes are one request each. A listing of one folder is held in memory as a whole.
    """

    def __init__(self, service: Service, url: str, options: Mapping[str, object], /) -> None:
        self._service: Service = service
        self._url = url
        self._options = options
        self._bucket, self._prefix = split_url(url)
        self._loop = AsyncioThread()
        self._opening = Opening(lambda: asyncio.to_thread(open_store, service, self._bucket, options))
        self._sibling: Backend | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    # --- the client ---------------------------------------------------------------------------------------------------

    async def _request(self, call: Callable[[Any], Awaitable[T]], mode: WriteMode | None, /) -> T:
        """What `call` returns, given the client; or an error of ours."""
        try:
            return await call(self._opening.client or await self._opening.ask())
        except (BaseError, FileNotFoundError) as error:
            refusal = _failure(error, mode)
        raise refusal

    def run(self, call: Callable[[Any], Awaitable[T]], mode: WriteMode | None = None, /) -> Coroutine[Any, Any, T]:
        """To be awaited: what `call` returns, given the client, on asyncio or trio; or an error of ours."""
        return self._loop.run(lambda: self._request(call, mode))

    def _stat(self, key: str, meta: Mapping[str, Any], mark: str | None = None, /) -> Stat:
        return Stat(key, int(meta["size"]), self._version(meta), meta["last_modified"], mark)

    def _version(self, meta: Mapping[str, Any], /) -> Version | None:
        token = meta.get(_UPDATE[self._service])
        if token is None:
            return None
        # A listing of Azure's gives tags without their quotes.
        return Version(str(token) if self._service != "azure" else f'"{token.strip(chr(34))}"')

    # --- documents ----------------------------------------------------------------------------------------------------

    def read(self, key: str, /, *, limit: int) -> Coroutine[Any, Any, Blob]:
        return self.run(lambda store: self._read(store, key, limit))

    async def _read(self, store: Any, key: str, limit: int, /) -> Blob:
        found = await obstore.get_async(store, self._prefix + key)
        stat = self._stat(key, found.meta)  # once: it is made anew each time
        check_size(stat.size, limit)
        data: Any = await found.bytes_async()
        if len(data) != stat.size:
            raise UnavailableError("the answer was cut short")
        return Blob(data, stat)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await each(self.read(key, limit=limit) for key in keys)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, mark: str = "") -> Stat:
        condition: Any = mode
        if isinstance(mode, Version):
            self._check(mode)
            condition = {_UPDATE[self._service]: mode.token}
        attributes: Any = {MARK: mark} if mark else None

        def write(store: Any) -> Awaitable[Mapping[str, Any]]:
            return obstore.put_async(
                store, self._prefix + key, data, mode=condition, attributes=attributes, use_multipart=False
            )

        answer = await self.run(write, mode)
        return Stat(key, len(data), self._version(answer), None)

    def _check(self, version: Version, /) -> None:
        """A version that this storage cannot have given is a conflict without asking."""
        if self._service == "gcs" and not re.fullmatch("[0-9]+", version.token):
            raise ConflictError("the document has changed since it was read")

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await each(self.write(key, data, mode=mode) for key, data, mode in writes)

    async def stat(self, key: str, /) -> Stat:
        # obstore's own head() does not tell the mark.
        found = await self.run(lambda store: obstore.get_async(store, self._prefix + key, options={"head": True}))
        return self._stat(key, found.meta, cast("Mapping[str, str]", found.attributes).get(MARK))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if version is not None:
            return await (await to_thread.run_sync(self._fsspec)).delete(key, version=version)

        try:
            await self.run(lambda store: obstore.delete_async(store, self._prefix + key))
        except NotFoundError:
            return None

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        where = (self._prefix + prefix).rstrip("/") or None
        return CursorPages(_Listing(self, where).page if recursive else partial(self._folder, where))

    async def _folder(self, where: str | None, _: str | None, /) -> tuple[list[Stat], str | None]:
        found = await self.run(lambda store: obstore.list_with_delimiter_async(store, where))
        return self.stats(found["objects"]), None

    def stats(self, found: Sequence[Mapping[str, Any]], /) -> list[Stat]:
        """What a listing tells of each document."""
        return [self._stat(meta["path"][len(self._prefix) :], meta) for meta in found]

    def classify(self, error: Exception, /) -> type[BackendError]:
        return classify_oserror(error)

    # --- what obstore cannot do ---------------------------------------------------------------------------------------

    def _fsspec(self) -> Backend:
        """The backend of the same storage on fsspec. It imports, so it blocks.

        Raises:
            UnsupportedError: its package is not installed.
        """
        if self._sibling is None:
            try:
                module = import_module(f"accountstore.backends.{self._service}")
            except ImportError:
                raise UnsupportedError(
                    f"obstore alone cannot do this; install: pip install 'accountstore[{self._service}]'"
                ) from None
            self._sibling = cast("Backend", module.make(self._url, self._options))
        return self._sibling

    async def versioned(self) -> bool | None:
        try:
            return await (await to_thread.run_sync(self._fsspec)).versioned()
        except UnsupportedError:
            return None

    def filesystem(self) -> tuple[object, str]:
        return self._fsspec().filesystem()

    async def aclose(self) -> None:
        await self._loop.run(self._close)
        if self._sibling is not None:
            await self._sibling.aclose()
        await self._loop.aclose()

    async def _close(self) -> None:
        if await self._opening.take() is not None:
            await _wake()


async def _wake() -> None:
    """Give obstore's threads something to do: else they may sleep, and the connections of a client that is gone stay
    open until another one is used. Without it 7 in 100 did; with it none in 1,800.
    """
    for _ in range(_WAKES):
        await obstore.list_with_delimiter_async(MemoryStore())
        await asyncio.sleep(_APART)


class _Listing:
    """All documents below a folder, from one stream of the client; after an error, from a new one where it was."""

    def __init__(self, backend: ObstoreBackend, where: str | None, /) -> None:
        self._backend = backend
        self._where = where
        self._stream: Any = None

    async def page(self, last: str | None, /) -> tuple[list[Stat], str | None]:
        """The page after the document `last`, and the last document in it."""

        async def page(store: Any) -> Sequence[Mapping[str, Any]]:
            # Nobody knows what a stream has lost that was cancelled or has failed: it is put back if neither happened.
            stream, self._stream = self._stream, None
            if stream is None:
                stream = obstore.list(store, self._where, offset=last, chunk_size=_PAGE)
            try:
                found: Sequence[Mapping[str, Any]] = await anext(stream)
            except StopAsyncIteration:
                return ()
            self._stream = stream
            return found

        found = await self._backend.run(page)
        return self._backend.stats(found), found[-1]["path"] if found else None


_STATUS = re.compile(r"status code: (\d{3})|\b(\d{3}) (?:[A-Z][a-z]+ ?)+:|Server error: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\"reason\": ?\"(\w+)\"")
_NO_CREDENTIALS = re.compile(r"Generic \w+ error: (?:\w+ credential error|Unable to decode service account)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")


def _failure(error: Exception, mode: WriteMode | None, /) -> Exception:
    """The error of ours for one of obstore's: by the HTTP status where it tells one, else by its class.

    Its class alone calls each 409 a document that is there, and some 404 a condition that does not hold.
    """
    text = str(error)
    status = _STATUS.search(text)
    # What is before the answer, and what is behind it, names the key and the bucket.
    answer = text[status.end() :].partition("\n\nDebug source:")[0] if status else ""
    word = _CODE.search(answer)
    code = str(word[word.lastindex or 0]) if word else ""
    if status:
        number = int(status[status.lastindex or 0])
        if number == 404 and not word and _NO_BUCKET.search(answer):
            code = "NoSuchBucket"
        return failure(number, code, mode)
    if "redirect without LOCATION" in text:
        return failure(301)
    if isinstance(error, FileNotFoundError):
        return failure(404)
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return failure(412, "", mode)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return failure(403)
    if _NO_CREDENTIALS.match(text):
        return DeniedError(f"no valid credentials were found ({type(error).__name__})")
    if "error sending request" in text or "HTTP error" in text or "decod" in text:
        unsent = "client error (Connect)" in text or "ConnectError" in text
        return UnavailableError("the storage cannot be reached", sent=not unsent)
    return BackendError(f"the request could not be made ({type(error).__name__})")


async def open_backend(url: str, options: Mapping[str, object], /) -> ObstoreBackend:
    """A storage in a bucket. Options are those of the fsspec filesystem of the URL, translated.

    Raises:
        ConfigError: an option has no counterpart in obstore, or the URL names no bucket.
    """
    service = service_of(url)
    bucket, _ = split_url(url)
    if service == "azure" and bucket.startswith("@"):
        raise ConfigError("the url must name a container: az://container/prefix")
    await to_thread.run_sync(settings_of, service, bucket, options)
    return ObstoreBackend(service, url, options)
