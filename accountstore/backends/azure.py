"""Azure Blob Storage, through the client that adlfs opens: `az://container/prefix` (extra `azure`).

`abfs://container@account.dfs.core.windows.net/prefix` is understood too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)

from accountstore.backends.base import Blob, Capabilities, CursorPages, Stat, Version, classify_oserror, each
from accountstore.backends.buckets import (
    CAPABILITIES,
    INSTANCE,
    MARK,
    Opening,
    check_options,
    failure,
    split_url,
    unsent,
)
from accountstore.backends.fsspec import Lent, finalizers
from accountstore.backends.loops import AsyncioThread
from accountstore.errors import BackendError, ConfigError, ConflictError, DeniedError, NotFoundError, UnavailableError
from accountstore.validation import check_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from accountstore.backends.base import Write, WriteMode

__all__ = ("AzureBackend", "make", "open_backend")

_PAGE = 5000
_TIMEOUTS = ("timeout", "connection_timeout", "read_timeout")


class AzureBackend:
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each (a read of an empty document two); conditions stand in
    `If-None-Match` and `If-Match`.
    """

    def __init__(self, options: Mapping[str, Any], container: str, prefix: str, /) -> None:
        self._options = options
        self._name = container
        self._prefix = prefix
        self._each = {"retry_total": 0, **{name: options[name] for name in _TIMEOUTS if name in options}}
        self._loop = AsyncioThread()
        self._opening = Opening(self._open)
        self._answered = False
        self._lent = Lent(partial(AzureBlobFileSystem, **options), f"{container}/{prefix}".rstrip("/"))

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    # --- the client ---------------------------------------------------------------------------------------------------

    async def _open(self) -> tuple[Any, Any]:
        """The filesystem and the container's client; no request is sent for it."""
        fs: Any = await asyncio.to_thread(lambda: asyncio.run(self._make()))
        await _repeat_nothing(fs.service_client)
        return fs, fs.service_client.get_container_client(self._name)

    async def _make(self) -> Any:
        """Make the filesystem, on an event loop of a thread's own: it imports, and reads files with credentials."""
        options: dict[str, Any] = {**self._options, **INSTANCE}
        fs = AzureBlobFileSystem(**options)
        # They keep the filesystem alive for ever, and fail at exit: fsspec/adlfs#495. It is closed here instead.
        for finalizer in finalizers(fs):
            finalizer.detach()
        return fs

    async def _request(self, call: Callable[[Any], Awaitable[Any]], mode: WriteMode | None = None, /) -> Any:
        """What `call` returns, given the container's client; or an error of ours."""
        try:
            _, container = self._opening.client or await self._opening.ask()
            result = await call(container)
        except AzureError as error:
            refusal = self._failure(error, mode)
        else:
            self._answered = True
            return result
        raise refusal

    def _failure(self, error: AzureError, mode: WriteMode | None, /) -> BackendError:
        if isinstance(error, HttpResponseError) and error.status_code is not None:
            self._answered = True
            return failure(error.status_code, str(getattr(error, "error_code", None) or ""), mode)
        what = type(error).__name__
        if isinstance(error, ClientAuthenticationError):
            return DeniedError(f"no valid credentials were found ({what})")
        never = isinstance(error, ServiceRequestError) and unsent(error)
        return UnavailableError(f"the storage cannot be reached ({what})", sent=not never)

    def _blob(self, container: Any, key: str, /) -> Any:
        return container.get_blob_client(self._prefix + key)

    # --- documents ----------------------------------------------------------------------------------------------------

    async def read(self, key: str, /, *, limit: int) -> Blob:
        async def read(container: Any) -> Blob:
            blob = self._blob(container, key)
            try:
                stream = await blob.download_blob(offset=0, length=limit + 1, max_concurrency=1, **self._each)
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                # An empty document has no first byte to ask for.
                return Blob(b"", _stat(key, await blob.get_blob_properties(**self._each), 0))
            size = int(stream.properties.size)
            check_size(size, limit)
            data = await stream.readall()
            if len(data) != size:
                raise UnavailableError("the answer was cut short")
            return Blob(data, _stat(key, stream.properties, size))

        return cast("Blob", await self._run(read))

    async def _run(self, call: Callable[[Any], Awaitable[Any]], mode: WriteMode | None = None, /) -> Any:
        return await self._loop.run(lambda: self._request(call, mode))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await each(self.read(key, limit=limit) for key in keys)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, mark: str = "") -> Stat:
        async def write(container: Any) -> Stat:
            answer = await self._blob(container, key).upload_blob(
                data,
                length=len(data),
                overwrite=mode != "create",
                metadata={MARK: mark} if mark else None,
                **(_if_match(mode) if isinstance(mode, Version) else {}),
                **self._each,
            )
            return Stat(key, len(data), Version(answer["etag"]), answer["last_modified"])

        return cast("Stat", await self._run(write, mode))

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await each(self.write(key, data, mode=mode) for key, data, mode in writes)

    async def stat(self, key: str, /) -> Stat:
        async def stat(container: Any) -> Stat:
            try:
                found = await self._blob(container, key).get_blob_properties(**self._each)
            except ResourceNotFoundError:
                if not self._answered:  # the answer to a HEAD has no body to tell a missing container
                    await container.get_container_properties(**self._each)
                raise
            return _stat(key, found, int(found.size))

        return cast("Stat", await self._run(stat))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        async def delete(container: Any) -> None:
            condition = {} if version is None else _if_match(version)
            await self._blob(container, key).delete_blob(**condition, **self._each)

        with suppress(NotFoundError):
            try:
                await self._run(delete, version)
            except ConflictError:
                await self.stat(key)  # of a missing document it is none, whatever the server says
                raise

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return CursorPages(partial(self._page, prefix, recursive))

    async def _page(self, prefix: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        start = self._prefix + (f"{prefix}/" if prefix else "")

        async def page(container: Any) -> tuple[list[Stat], str | None]:
            listed = container.list_blobs if recursive else partial(container.walk_blobs, delimiter="/")
            pages = listed(name_starts_with=start or None, results_per_page=_PAGE, **self._each).by_page(cursor)
            # A folder in the listing has no ETag.
            found = [
                _stat(entry.name[len(self._prefix) :], entry, int(entry.size))
                async for entry in await anext(pages)
                if "etag" in entry and entry.etag
            ]
            return found, pages.continuation_token or None

        found: tuple[list[Stat], str | None] = await self._run(page)
        return found

    def classify(self, error: Exception, /) -> type[BackendError]:
        return classify_oserror(error)

    async def versioned(self) -> bool | None:
        async def ask(_: Any) -> bool:
            fs, _ = await self._opening.ask()
            # Blob versions are the account's setting, which a container's keys may not read; soft delete likewise.
            kept = await fs.service_client.get_service_properties(**self._each)
            return bool(kept["delete_retention_policy"].enabled)

        try:
            return True if await self._run(ask) else None
        except BackendError:
            return None

    def filesystem(self) -> tuple[object, str]:
        return self._lent.filesystem()

    async def aclose(self) -> None:
        await self._loop.run(self._close)
        await self._loop.aclose()
        await self._lent.aclose()

    async def _close(self) -> None:
        taken = await self._opening.take()
        if taken is not None:
            fs, _ = taken
            await fs.service_client.close()
            close = getattr(fs.credential, "close", None)
            if close is not None and iscoroutinefunction(close):
                await close()


async def _repeat_nothing(client: Any, /) -> None:
    """Turn off aiohttp's own repetition of a request whose connection was closed: a write that had landed would meet
    itself in it, and a rival's document could pass for the cause.
    """
    transport = client._pipeline._transport  # noqa: SLF001 -- neither the client nor aiohttp has another way
    await transport.open()
    transport.session._retry_connection = False  # noqa: SLF001


def _if_match(version: Version, /) -> dict[str, Any]:
    return {"etag": version.token, "match_condition": MatchConditions.IfNotModified}


def _stat(key: str, properties: Any, size: int, /) -> Stat:
    # A listing gives tags without their quotes.
    tag = properties.etag.strip('"')
    return Stat(key, size, Version(f'"{tag}"'), properties.last_modified, (properties.metadata or {}).get(MARK))


def make(url: str, options: Mapping[str, object], /) -> AzureBackend:
    """A storage in a container. Options are those of `adlfs.AzureBlobFileSystem`, which connects at the first call.

    Raises:
        ConfigError: an option is not known, the URL names no container, or no account is named.
    """
    check_options(options, AzureBlobFileSystem.__init__)
    container, prefix = split_url(url)
    container, at, host = container.partition("@")
    if at:
        options = {"account_name": host.partition(".")[0], **options}
    if not container:
        raise ConfigError("the url must name a container: az://container/prefix")
    return AzureBackend(options, container, prefix)


async def open_backend(url: str, options: Mapping[str, object], /) -> AzureBackend:
    """As `make`: for the registry."""
    return make(url, options)
