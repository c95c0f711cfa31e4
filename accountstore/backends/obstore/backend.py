"""S3, Google Cloud Storage and Azure through the Rust client obstore: `engine = "obstore"` (extra `fast`).

It is used raw: its own fsspec layer overwrites where it was asked to create. It has no conditional delete and is no
fsspec filesystem; for these two the backend of the same URL on fsspec is asked, where its package is installed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
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

from accountstore.aio.loops import on_asyncio
from accountstore.backends.base import (
    Backend,
    BackendError,
    Blob,
    DeniedError,
    NotFoundError,
    Stat,
    UnavailableError,
    UnsupportedError,
    Version,
    WriteMode,
    check_size,
    pages_by_cursor,
)
from accountstore.backends.object_store import (
    WRITE_TOKEN,
    Bucket,
    error_for_status,
    folder,
    generation,
    split_url,
    whole_blob,
)
from accountstore.backends.obstore.options import Service, open_store, service_of, settings_of

_PAGE = 1000
_WAKES = 5
_APART = 0.01
_VERSION = {"s3": "e_tag", "gcs": "version", "azure": "e_tag"}

_STATUS = re.compile(r"status code: (\d{3})|\b(\d{3}) (?:[A-Z][a-z]+ ?)+:|Server error: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\"reason\": ?\"(\w+)\"")
_NO_CREDENTIALS = re.compile(r"Generic \w+ error: (?:\w+ credential error|Unable to decode service account)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")


class ObstoreBackend(Bucket[Any]):
    """One client of its own, opened at the first call. Versions are those of the fsspec engine.

    Reads, writes and deletes are one request each. A listing of one folder is held in memory as a whole.
    """

    _failures = (BaseError, FileNotFoundError)

    def __init__(self, service: Service, url: str, options: Mapping[str, object], /) -> None:
        super().__init__(options, *split_url(url))
        self._service: Service = service
        self._url = url
        self._sibling: Backend | None = None

    async def _open(self) -> Any:
        return await asyncio.to_thread(open_store, self._service, self._bucket, self._options)

    async def _shut(self, client: Any, /) -> None:
        """Give obstore's threads something to do: else they may sleep, and the connections of a client that is gone
        stay open until another one is used. Without it 7 in 100 did; with it none in 1,800.
        """
        for _ in range(_WAKES):
            await obstore.list_with_delimiter_async(MemoryStore())
            await asyncio.sleep(_APART)

    def _stat(self, key: str, meta: Mapping[str, Any], token: str | None = None, /) -> Stat:
        return Stat(key, int(meta["size"]), self._version(meta), meta["last_modified"], token)

    def _version(self, meta: Mapping[str, Any], /) -> Version | None:
        token = meta.get(_VERSION[self._service])
        if token is None:
            return None
        # A listing of Azure's gives tags without their quotes.
        return Version(str(token) if self._service != "azure" else f'"{token.strip(chr(34))}"')

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        async with self._client() as client:
            found = await obstore.get_async(client, self._prefix + key)
            stat = self._stat(key, found.meta)  # once: it is made anew each time
            check_size(stat.size, limit)
            data: Any = await found.bytes_async()
        return whole_blob(data, stat)

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition: Any = mode
        if isinstance(mode, Version):
            condition = {_VERSION[self._service]: generation(mode) if self._service == "gcs" else mode.token}
        attributes: Any = {WRITE_TOKEN: write_token} if write_token else None
        async with self._client(mode) as client:
            answer = await obstore.put_async(
                client, self._prefix + key, data, mode=condition, attributes=attributes, use_multipart=False
            )
        return Stat(key, len(data), self._version(answer), None)

    @on_asyncio
    async def stat(self, key: str, /) -> Stat:
        async with self._client() as client:
            # obstore's own head() does not return the write token.
            found = await obstore.get_async(client, self._prefix + key, options={"head": True})
            return self._stat(key, found.meta, cast("Mapping[str, str]", found.attributes).get(WRITE_TOKEN))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if version is None:
            return await self._delete(key)
        return await (await self._fsspec()).delete(key, version=version)

    @on_asyncio
    async def _delete(self, key: str, /) -> None:
        with suppress(NotFoundError):
            async with self._client() as client:
                await obstore.delete_async(client, self._prefix + key)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        where = (self._prefix + prefix).rstrip("/") or None
        return pages_by_cursor(partial(self._below, where, []) if recursive else partial(self._in, where))

    @on_asyncio
    async def _in(self, where: str | None, _: str | None, /) -> tuple[list[Stat], str | None]:
        """The documents of a folder alone, which come at once."""
        async with self._client() as client:
            found = await obstore.list_with_delimiter_async(client, where)
        folders = [folder(f"{name[len(self._prefix) :]}/") for name in found["common_prefixes"]]
        return folders + self._stats(cast("Sequence[Mapping[str, Any]]", found["objects"])), None

    @on_asyncio
    async def _below(self, where: str | None, kept: list[Any], last: str | None, /) -> tuple[list[Stat], str | None]:
        """The next of all documents below a folder, from one stream; after an error, from a new one where it was."""
        async with self._client() as client:
            # A stream that was cancelled or has failed may have lost a page: it is kept only if neither happened.
            stream: Any = kept.pop() if kept else obstore.list(client, where, offset=last, chunk_size=_PAGE)
            page: Sequence[Mapping[str, Any]] | None = await anext(stream, None)
            kept.append(stream)
        if page is None:
            return [], None
        return self._stats(page), page[-1]["path"] if page else last or ""

    def _stats(self, found: Sequence[Mapping[str, Any]], /) -> list[Stat]:
        return [self._stat(meta["path"][len(self._prefix) :], meta) for meta in found]

    async def _fsspec(self) -> Backend:
        """The backend of the same storage on fsspec, for what obstore cannot do.

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
        await super().aclose()
        if self._sibling is not None:
            await self._sibling.aclose()

    def _error(self, error: Exception, mode: WriteMode | None, /) -> BackendError:
        """By the HTTP status where the error has one, else by its class, which alone calls each 409 a document that is
        there, and some 404 a condition that does not hold.
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
    await to_thread.run_sync(settings_of, service, split_url(url)[0], options)
    return ObstoreBackend(service, url, options)
