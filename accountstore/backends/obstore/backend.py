"""S3, Google Cloud Storage and Azure through the Rust client obstore: `engine = "obstore"` (extra `fast`).

It is used raw: its own fsspec layer overwrites where it was asked to create. It has no conditional delete and is no
fsspec filesystem; for these two the backend of the same URL on fsspec is asked, where its package is installed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, cast

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

from accountstore.aio.loops import AsyncioBridge, on_asyncio
from accountstore.aio.pages import Paged
from accountstore.backends.base import (
    Backend,
    BackendError,
    Blob,
    ConfigError,
    ConflictError,
    DeniedError,
    NotFoundError,
    Stat,
    UnavailableError,
    UnsupportedError,
    Version,
    WriteMode,
    check_size,
)
from accountstore.backends.object_store import CAPABILITIES, WRITE_TOKEN, LazyClient, error_for_status, split_url
from accountstore.backends.obstore.options import Service, open_store, service_of, settings_of

_PAGE = 1000
_WAKES = 5
_APART = 0.01
_VERSION = {"s3": "e_tag", "gcs": "version", "azure": "e_tag"}


class ObstoreBackend:
    """One client of its own, opened with the first call. Versions are those that the fsspec engine tells.

    Reads, writes and deletes are one request each. A listing of one folder is held in memory as a whole.
    """

    capabilities = CAPABILITIES

    def __init__(self, service: Service, url: str, options: Mapping[str, object], /) -> None:
        self._service: Service = service
        self._url = url
        self._options = options
        self._bucket, self._prefix = split_url(url)
        self._lazy = LazyClient(self._open, _wake)
        self._sibling: Backend | None = None
        self.bridge = AsyncioBridge()

    async def _open(self) -> Any:
        return await asyncio.to_thread(open_store, self._service, self._bucket, self._options)

    def _stat(self, key: str, meta: Mapping[str, Any], token: str | None = None, /) -> Stat:
        return Stat(key, int(meta["size"]), self._version(meta), meta["last_modified"], token)

    def _version(self, meta: Mapping[str, Any], /) -> Version | None:
        token = meta.get(_VERSION[self._service])
        if token is None:
            return None
        # A listing of Azure's gives tags without their quotes.
        return Version(str(token) if self._service != "azure" else f'"{token.strip(chr(34))}"')

    # --- documents ----------------------------------------------------------------------------------------------------

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        with _own_errors():
            found = await obstore.get_async(await self._lazy.get(), self._prefix + key)
            stat = self._stat(key, found.meta)  # once: it is made anew each time
            check_size(stat.size, limit)
            data: Any = await found.bytes_async()
        if len(data) != stat.size:
            raise UnavailableError("the answer was cut short")
        return Blob(data, stat)

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition: Any = mode
        if isinstance(mode, Version):
            self._check_version(mode)
            condition = {_VERSION[self._service]: mode.token}
        attributes: Any = {WRITE_TOKEN: write_token} if write_token else None
        with _own_errors(mode):
            store = await self._lazy.get()
            answer = await obstore.put_async(
                store, self._prefix + key, data, mode=condition, attributes=attributes, use_multipart=False
            )
        return Stat(key, len(data), self._version(answer), None)

    def _check_version(self, version: Version, /) -> None:
        """A version that this storage cannot have given is a conflict without asking."""
        if self._service == "gcs" and not re.fullmatch("[0-9]+", version.token):
            raise ConflictError("the document has changed since it was read")

    @on_asyncio
    async def stat(self, key: str, /) -> Stat:
        with _own_errors():
            # obstore's own head() does not return the write token.
            found = await obstore.get_async(await self._lazy.get(), self._prefix + key, options={"head": True})
            return self._stat(key, found.meta, cast("Mapping[str, str]", found.attributes).get(WRITE_TOKEN))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if version is None:
            return await self._delete(key)
        return await (await self._fsspec()).delete(key, version=version)

    @on_asyncio
    async def _delete(self, key: str, /) -> None:
        with suppress(NotFoundError), _own_errors():
            await obstore.delete_async(await self._lazy.get(), self._prefix + key)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return Paged(_Listing(self, (self._prefix + prefix).rstrip("/") or None, recursive=recursive).next_page)

    @on_asyncio
    async def page(self, listing: _Listing, /) -> list[Stat] | None:
        """The next page of a listing."""
        with _own_errors():
            found = await listing.fetch(await self._lazy.get())
        return None if found is None else [self._stat(meta["path"][len(self._prefix) :], meta) for meta in found]

    # --- what obstore cannot do ---------------------------------------------------------------------------------------

    async def _fsspec(self) -> Backend:
        """The backend of the same storage on fsspec.

        Raises:
            UnsupportedError: its package is not installed.
        """
        if self._sibling is None:
            try:
                module = await to_thread.run_sync(import_module, f"accountstore.backends.{self._service}")
            except ImportError:
                raise UnsupportedError(
                    f"obstore alone cannot do this; install: pip install 'accountstore[{self._service}]'"
                ) from None
            sibling: Backend = await module.open_backend(self._url, self._options)
            self._sibling = self._sibling or sibling  # type: ignore[redundant-expr]  # set by another call meanwhile
        return self._sibling

    async def versioned(self) -> bool | None:
        try:
            return await (await self._fsspec()).versioned()
        except UnsupportedError:
            return None

    async def filesystem(self) -> tuple[object, str]:
        return await (await self._fsspec()).filesystem()

    async def aclose(self) -> None:
        await self._close()
        if self._sibling is not None:
            await self._sibling.aclose()
        await self.bridge.aclose()

    @on_asyncio
    async def _close(self) -> None:
        await self._lazy.aclose()


async def _wake(_client: object, /) -> None:
    """Give obstore's threads something to do: else they may sleep, and the connections of a client that is gone stay
    open until another one is used. Without it 7 in 100 did; with it none in 1,800.
    """
    for _ in range(_WAKES):
        await obstore.list_with_delimiter_async(MemoryStore())
        await asyncio.sleep(_APART)


class _Listing:
    """Where a listing is: all documents below a folder come from one stream of the client; after an error, from a new
    one where it was. Those of the folder alone come at once.
    """

    def __init__(self, backend: ObstoreBackend, where: str | None, /, *, recursive: bool) -> None:
        self._backend = backend
        self._where = where
        self._recursive = recursive
        self._last: str | None = None
        self._stream: Any = None
        self._ended = False

    async def next_page(self) -> list[Stat] | None:
        return None if self._ended else await self._backend.page(self)

    async def fetch(self, store: Any, /) -> Sequence[Mapping[str, Any]] | None:
        """The next page, as obstore gives it."""
        if not self._recursive:
            folder = await obstore.list_with_delimiter_async(store, self._where)
            self._ended = True
            return cast("Sequence[Mapping[str, Any]]", folder["objects"])
        # A stream that was cancelled or has failed may have lost a page: it is kept only if neither happened.
        stream, self._stream = self._stream, None
        if stream is None:
            stream = obstore.list(store, self._where, offset=self._last, chunk_size=_PAGE)
        page: Sequence[Mapping[str, Any]] | None = await anext(stream, None)
        self._ended = page is None
        self._stream = stream
        if page:
            self._last = page[-1]["path"]
        return page


_STATUS = re.compile(r"status code: (\d{3})|\b(\d{3}) (?:[A-Z][a-z]+ ?)+:|Server error: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\"reason\": ?\"(\w+)\"")
_NO_CREDENTIALS = re.compile(r"Generic \w+ error: (?:\w+ credential error|Unable to decode service account)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")


@contextmanager
def _own_errors(mode: WriteMode | None = None, /) -> Generator[None]:
    """Raise errors of obstore's as errors of ours, about a request with this condition."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        failure = _error(error, mode)
    else:
        return
    raise failure


def _error(error: Exception, mode: WriteMode | None, /) -> Exception:
    """The error of ours for one of obstore's: by the HTTP status where it has one, else by its class.

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
        return error_for_status(number, code, mode)
    if "redirect without LOCATION" in text:
        return error_for_status(301)
    if isinstance(error, FileNotFoundError):
        return error_for_status(404)
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return error_for_status(412, "", mode)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return error_for_status(403)
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
