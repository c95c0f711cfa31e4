"""Azure Blob Storage, through the client that adlfs opens: `az://container/prefix` (extra `azure`).

`abfs://container@account.dfs.core.windows.net/prefix` is understood too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError

from accountstore.aio.loops import on_asyncio
from accountstore.backends.base import (
    BackendError,
    Blob,
    ConfigError,
    DeniedError,
    Stat,
    UnavailableError,
    Version,
    WriteMode,
    check_size,
)
from accountstore.backends.object_store import (
    INSTANCE,
    WRITE_TOKEN,
    ObjectStore,
    check_options,
    error_for_status,
    finalizers,
    folder,
    split_url,
    unsent,
    whole_blob,
)

_PAGE = 5000
_TIMEOUTS = ("timeout", "connection_timeout", "read_timeout")


class AzureBackend(ObjectStore[tuple[Any, Any]]):
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each (a read of an empty document two); conditions stand in
    `If-None-Match` and `If-Match`.
    """

    _failures = (AzureError,)

    def __init__(self, options: Mapping[str, Any], container: str, prefix: str, /) -> None:
        super().__init__(options, container, prefix, AzureBlobFileSystem)
        self._each = {"retry_total": 0, **{name: options[name] for name in _TIMEOUTS if name in options}}

    async def _open(self) -> tuple[Any, Any]:
        """The filesystem and the container's client; no request is sent for it."""
        fs: Any = await asyncio.to_thread(lambda: asyncio.run(self._make()))
        await _repeat_nothing(fs.service_client)
        return fs, fs.service_client.get_container_client(self._bucket)

    async def _make(self) -> Any:
        """Make the filesystem, on an event loop of a thread's own: it imports, and reads files with credentials."""
        fs: Any = AzureBlobFileSystem(**self._options, **INSTANCE)
        # They keep the filesystem alive for ever, and fail at exit: fsspec/adlfs#495. It is closed here instead.
        for finalizer in finalizers(fs):
            finalizer.detach()
        return fs

    async def _shut(self, client: tuple[Any, Any], /) -> None:
        fs, _ = client
        await fs.service_client.close()
        close = getattr(fs.credential, "close", None)
        if close is not None and iscoroutinefunction(close):
            await close()

    def _error(self, error: Any, mode: WriteMode | None, /) -> BackendError:
        if isinstance(error, HttpResponseError) and error.status_code is not None:
            self._answered = True
            return error_for_status(error.status_code, str(getattr(error, "error_code", None) or ""), mode)
        what = type(error).__name__
        if isinstance(error, ClientAuthenticationError):
            return DeniedError(f"no valid credentials were found ({what})")
        never = isinstance(error, ServiceRequestError) and unsent(error)
        return UnavailableError(f"the storage cannot be reached ({what})", sent=not never)

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        async with self._client() as (_, container):
            blob = container.get_blob_client(self._prefix + key)
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
        return whole_blob(data, _stat(key, stream.properties, size))

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition = _if_match(mode) if isinstance(mode, Version) else {}
        metadata = {WRITE_TOKEN: write_token} if write_token else None
        async with self._client(mode) as (_, container):
            blob = container.get_blob_client(self._prefix + key)
            answer = await blob.upload_blob(
                data, length=len(data), overwrite=mode != "create", metadata=metadata, **condition, **self._each
            )
        return Stat(key, len(data), Version(answer["etag"]), answer["last_modified"])

    async def _head(self, key: str, /) -> Stat:
        async with self._client() as (_, container):
            found = await container.get_blob_client(self._prefix + key).get_blob_properties(**self._each)
        return _stat(key, found, int(found.size))

    async def _require_bucket(self) -> None:
        async with self._client() as (_, container):
            await container.get_container_properties(**self._each)

    async def _delete(self, key: str, version: Version | None, /) -> None:
        condition = {} if version is None else _if_match(version)
        async with self._client(version) as (_, container):
            await container.get_blob_client(self._prefix + key).delete_blob(**condition, **self._each)

    @on_asyncio
    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        async with self._client() as (_, container):
            listed = container.list_blobs if recursive else partial(container.walk_blobs, delimiter="/")
            pages = listed(name_starts_with=start or None, results_per_page=_PAGE, **self._each).by_page(cursor)
            found: list[Stat] = []
            async for entry in await anext(pages):
                key = entry.name[len(self._prefix) :]
                if key.endswith("/"):
                    found.append(folder(key))
                elif "etag" in entry and entry.etag:
                    found.append(_stat(key, entry, int(entry.size)))
        return found, pages.continuation_token or None

    @on_asyncio
    async def versioned(self) -> bool | None:
        with suppress(BackendError):
            async with self._client() as (fs, _):
                # Blob versions are the account's setting, which a container's keys may not read; soft delete likewise.
                kept = await fs.service_client.get_service_properties(**self._each)
            return True if kept["delete_retention_policy"].enabled else None
        return None


async def _repeat_nothing(client: Any, /) -> None:
    """Turn off aiohttp's own repetition of a request whose connection was closed: a write that took effect would meet
    its own document, which could be a rival's as well.
    """
    transport = client._pipeline._transport  # noqa: SLF001 -- neither the client nor aiohttp has another way
    await transport.open()
    transport.session._retry_connection = False  # noqa: SLF001


def _if_match(version: Version, /) -> dict[str, Any]:
    return {"etag": version.token, "match_condition": MatchConditions.IfNotModified}


def _stat(key: str, properties: Any, size: int, /) -> Stat:
    # A listing gives tags without their quotes.
    tag = properties.etag.strip('"')
    return Stat(key, size, Version(f'"{tag}"'), properties.last_modified, (properties.metadata or {}).get(WRITE_TOKEN))


async def open_backend(url: str, options: Mapping[str, object], /) -> AzureBackend:
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
