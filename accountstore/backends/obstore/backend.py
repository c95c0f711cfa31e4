"""S3, Google Cloud Storage and Azure through the Rust client obstore: `engine = "obstore"` (extra `fast`).

It is used raw: its own fsspec layer overwrites where it was asked to create. It has no conditional delete and is no
fsspec filesystem; for these two the backend of the same URL on fsspec is asked, where its package is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any, cast

import obstore
from anyio import to_thread
from msgspec.structs import replace
from obstore.exceptions import BaseError
from obstore.store import MemoryStore

from accountstore.aio.loops import on_asyncio
from accountstore.aio.sending import hold, release
from accountstore.backends.answers import cut_off, generation, version_of, whole_blob, written
from accountstore.backends.base import (
    Backend,
    Blob,
    Capabilities,
    NotFoundError,
    Stat,
    UnavailableError,
    UnsupportedError,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
    pages_by_cursor,
)
from accountstore.backends.kinds import Service
from accountstore.backends.object_store import (
    WRITE_TOKEN,
    Bucket,
    error_for_status,
    folder,
    is_stale,
    split_url,
)
from accountstore.backends.obstore.errors import Answer, OddKeyError, answer_of, error_of
from accountstore.backends.obstore.opening import open_store, start
from accountstore.backends.obstore.options import service_of
from accountstore.errors import AccountStoreError

_PAGE = 1000
_CONNECT = timedelta(seconds=5)
_WAKES = 5
_APART = 0.01
_ENCODED = "%EF%BF%B"
"""In a name that Azure tells encoded, as XML has no U+FFFE and no U+FFFF; obstore takes it for the name itself."""
_VERSION = {"s3": "e_tag", "gcs": "version", "azure": "e_tag"}


class ObstoreBackend(Bucket[Any]):
    """One client of its own, opened at the first call. Versions are those of the fsspec engine.

    Reads, writes and deletes are one request each. A listing of one folder is held in memory as a whole.
    """

    _failures = (BaseError, FileNotFoundError)
    _tells_sending = True
    _takes_turns = False

    def __init__(
        self, service: Service, url: str, options: Mapping[str, object], connect: timedelta = _CONNECT, /
    ) -> None:
        """`connect` is how long connecting may take."""
        super().__init__(options, *split_url(url))
        # Azure's accounts with a hierarchical namespace list folder by folder.
        self.capabilities: Capabilities = replace(self.capabilities, sorted=service != "azure")
        self._service: Service = service
        self._url = url
        self._container = self._bucket.partition("@")[0]
        self._connect = connect
        self._sibling: Backend | None = None
        self._unconnected = False
        self._proven = service != "s3"

    async def _open(self) -> Any:
        await self._apart(start)
        return await self._apart(partial(open_store, self._service, self._bucket, self._options, self._connect))

    async def _shut(self, client: Any, /) -> None:
        """Give obstore's threads something to do: else they may sleep, and the connections of a client that is gone
        stay open until another one is used. Without it 7 in 100 did; with it none in 1,800.
        """
        for _ in range(_WAKES):
            await obstore.list_with_delimiter_async(MemoryStore())
            await asyncio.sleep(_APART)

    def _stat(self, key: str, meta: Mapping[str, Any], token: str | None = None, /) -> Stat:
        return Stat(key, int(meta["size"]), version_of(self._tag(meta)), meta["last_modified"], token)

    def _tag(self, meta: Mapping[str, Any], /) -> str | None:
        tag = meta.get(_VERSION[self._service])
        # A listing of Azure's gives tags without their quotes.
        return tag if self._service != "azure" or not tag else f'"{tag.strip(chr(34))}"'

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
            await self._reach(client, key)
            answer = await obstore.put_async(
                client, self._prefix + key, data, mode=condition, attributes=attributes, use_multipart=False
            )
        return Stat(key, len(data), written(self._tag(answer)), None)

    @on_asyncio
    async def stat(self, key: str, /) -> Stat:
        async with self._client() as client:
            try:
                # obstore's own head() does not return the write token.
                found = await obstore.get_async(client, self._prefix + key, options={"head": True})
            except self._failures as error:
                if not _is_unclear(answer_of(str(error), self._container)):
                    raise
            else:
                return self._stat(key, found.meta, cast("Mapping[str, str]", found.attributes).get(WRITE_TOKEN))
            # The answer to HEAD has no body to say why: that there is no bucket, or that a token has expired.
            found = await obstore.get_async(client, self._prefix + key)
            return self._stat(key, found.meta, cast("Mapping[str, str]", found.attributes).get(WRITE_TOKEN))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if version is None:
            return await self._delete(key)
        return await (await self._fsspec()).delete(key, version=version)

    @on_asyncio
    async def _delete(self, key: str, /) -> None:
        with suppress(NotFoundError):
            async with self._client() as client:
                await self._reach(client, key)
                await obstore.delete_async(client, self._prefix + key)

    async def _reach(self, client: Any, key: str, /) -> None:
        """Before a write: if the last request found no connection, a question must find one first. What is cut short
        until then was not sent, which obstore does not tell.
        """
        if self._unconnected:
            try:
                await obstore.head_async(client, self._prefix + key)
            except self._failures as error:
                if answer_of(str(error), self._container) is None:
                    raise
            self._unconnected = False
        release()

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        where = (self._prefix + prefix).rstrip("/") or None
        return pages_by_cursor(partial(self._page, _Listing(prefix, where, recursive)))

    async def _page(self, listing: _Listing, last: str | None, /) -> tuple[list[Stat], str | None]:
        """The documents after `last`. Where obstore fails for an odd key, the backend on fsspec lists from there on."""
        if listing.rest is None:
            try:
                return await (self._below if listing.recursive else self._in)(listing, last)
            except NotFoundError:  # a listing is of the bucket
                raise error_for_status(404, "NoSuchBucket") from None
            except OddKeyError:
                listing.rest = (await self._fsspec()).scan(listing.prefix, recursive=listing.recursive)
        page = await anext(listing.rest, None)
        if page is None:
            return [], None
        return [stat for stat in page if last is None or self._prefix + stat.key > last], last or ""

    @on_asyncio
    async def _in(self, listing: _Listing, _: str | None, /) -> tuple[list[Stat], str | None]:
        """The documents of a folder alone, which come at once."""
        async with self._client() as client:
            found = await obstore.list_with_delimiter_async(client, listing.where)
            listing.goes_round(cast("Sequence[Mapping[str, Any]]", found["objects"]))
            await self._prove(client, listing)
        folders = [folder(f"{self._key(path)}/") for path in found["common_prefixes"]]
        return folders + self._stats(cast("Sequence[Mapping[str, Any]]", found["objects"])), None

    @on_asyncio
    async def _below(self, listing: _Listing, last: str | None, /) -> tuple[list[Stat], str | None]:
        """The next of all documents below a folder, from one stream; after an error, from a new one where it was."""
        async with self._client() as client:
            # A stream that was cancelled or has failed may have lost a page: it is kept only if neither happened.
            kept, listing.stream = listing.stream, None
            stream: Any = kept or obstore.list(client, listing.where, offset=last or None, chunk_size=_PAGE)
            page: Sequence[Mapping[str, Any]] | None = await anext(stream, None)
            if page is None:
                await self._prove(client, listing)
                return [], None
        if listing.goes_round(page):
            raise cut_off()
        stats = await self._named(self._stats(page), listing)
        listing.stream = stream
        return stats, page[-1]["path"] if page else last or ""

    async def _prove(self, client: Any, listing: _Listing, /) -> None:
        """At the end of the first listing of S3, if it is of one page, ask for what is behind it. A server that does
        not know this kind of listing ends each after a page, which obstore does not tell; and it then begins anew.

        Raises:
            BackendError: it does.
        """
        if self._proven or not listing.greatest or listing.count > _PAGE:
            return
        stream: Any = obstore.list(client, listing.where, offset=listing.greatest, chunk_size=_PAGE)
        behind: Sequence[Mapping[str, Any]] | None = await anext(stream, None)
        if any(meta["size"] and meta["path"] < listing.greatest for meta in behind or ()):
            raise cut_off()
        self._proven = True

    async def _named(self, stats: list[Stat], listing: _Listing, /) -> list[Stat]:
        """Those whose key is as it is shown. obstore drops a `/` at its end, where a folder's marker has one, which is
        empty; and at its beginning, where it has one only before all keys that begin with a letter or a digit.
        """
        if not listing.at_root and all(stat.size for stat in stats):
            return stats
        named: list[Stat] = []
        for stat in stats:
            if listing.at_root or not stat.size:
                now = await self._seen(stat.key)
                if now is None:
                    continue
                same = now.size == stat.size and stat.version in {None, now.version}
                listing.at_root &= stat.key < "0" or not same
            named.append(stat)
        return named

    async def _seen(self, key: str, /) -> Stat | None:
        with suppress(NotFoundError):
            return await self.stat(key)
        return None

    def _stats(self, found: Sequence[Mapping[str, Any]], /) -> list[Stat]:
        return [
            Stat(self._key(meta["path"]), int(meta["size"]), Version(tag) if tag else None, meta["last_modified"])
            for meta in found
            for tag in (self._tag(meta),)
        ]

    def _key(self, path: str, /) -> str:
        if not path.startswith(self._prefix) or (self._service == "azure" and _ENCODED in path):
            raise OddKeyError("a key in the bucket is told in a way that obstore does not understand")
        return path[len(self._prefix) :]

    async def _fsspec(self) -> Backend:
        """The backend of the same storage on fsspec, for what obstore cannot do.

        Raises:
            UnsupportedError: its package is not installed.
        """
        if self._sibling is None:
            hold()
            try:
                module = await to_thread.run_sync(import_module, f"accountstore.backends.{self._service}")
            except ModuleNotFoundError:
                raise UnsupportedError(
                    f"obstore alone cannot do this; install: pip install 'accountstore[{self._service}]'"
                ) from None
            except (ImportError, OSError) as error:  # of a process that may open no more files
                raise UnavailableError(f"a package cannot be imported ({type(error).__name__})", sent=False) from None
            sibling: Backend = await module.open_backend(self._url, self._options)
            self._sibling = self._sibling or sibling  # type: ignore[redundant-expr]  # set by another call meanwhile
        return self._sibling

    async def versioned(self) -> bool | None:
        try:
            return await (await self._fsspec()).versioned()
        except UnsupportedError:
            return None

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        return await (await self._fsspec()).versions(key)

    async def filesystem(self) -> tuple[object, str]:
        return await (await self._fsspec()).filesystem()

    async def aclose(self) -> None:
        await super().aclose()
        if self._sibling is not None:
            await self._sibling.aclose()

    def _error(self, error: Exception, mode: WriteMode | None, /) -> AccountStoreError:
        failure = error_of(error, self._container, mode)
        self._unconnected = isinstance(failure, UnavailableError) and not failure.sent
        return failure

    def _is_stale(self, error: Exception, /) -> bool:
        answer = answer_of(str(error), self._container)
        return answer is not None and answer.ours and is_stale(answer.status, answer.code)


def _is_unclear(answer: Answer | None, /) -> bool:
    """Whether another request may tell more than this answer: of a missing bucket, or of a token that has expired."""
    return answer is not None and answer.ours and not answer.code and answer.status in {400, 401, 403, 404}


class _Listing:
    """A listing under way."""

    def __init__(self, prefix: str, where: str | None, recursive: bool, /) -> None:
        self.prefix = prefix
        self.where = where
        self.recursive = recursive
        self.at_root: bool = recursive and where is None
        """Whether a key that begins with a `/` may come."""
        self.stream: Any = None
        self.last: object = None
        self.count: int = 0
        self.greatest: str = ""
        """The last key, in the order of the keys, that is no folder's marker."""
        self.rest: AsyncIterator[Sequence[Stat]] | None = None

    def goes_round(self, page: Sequence[Mapping[str, Any]], /) -> bool:
        """Whether a page has an object twice, or one of the page before: the server gives one mark again and again."""
        rows = [(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"]) for meta in page]
        before, self.last = self.last, rows[-1] if rows else self.last
        self.count += len(rows)
        self.greatest = max(self.greatest, *(path for path, size, *_ in rows if size), "")
        return len(set(rows)) < len(rows) or before in rows


def _bound_of(seconds: float, /) -> timedelta:
    """How long connecting may take in an operation of so many seconds: it is then known that nothing was sent."""
    return timedelta(seconds=min(_CONNECT.total_seconds(), seconds / 2))


async def open_backend(url: str, options: Mapping[str, object], /, *, seconds: float = 30.0) -> ObstoreBackend:
    """A storage in a bucket. Options are those of the fsspec filesystem of the URL, translated. `seconds` is what an
    operation may take.

    Raises:
        ConfigError: an option has no counterpart in obstore, no client can be made of them, or the URL names no bucket.
    """
    service, connect = service_of(url), _bound_of(seconds)
    await to_thread.run_sync(open_store, service, split_url(url)[0], options, connect)
    return ObstoreBackend(service, url, options, connect)
