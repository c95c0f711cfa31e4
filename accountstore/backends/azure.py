"""Azure Blob Storage, through the client that adlfs opens: `az://container/prefix` (extra `azure`).

`abfs://container@account.dfs.core.windows.net/prefix` is understood too.
"""

from __future__ import annotations

import asyncio
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DeserializationError,
    HttpResponseError,
    ServiceRequestError,
)
from azure.storage.blob import BlobServiceClient

from accountstore.aio.loops import on_asyncio
from accountstore.aio.sending import has_left
from accountstore.backends.answers import size_of, unanswered, version_of, whole_blob, written
from accountstore.backends.base import (
    Blob,
    ConfigError,
    DeniedError,
    Stat,
    UnavailableError,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
)
from accountstore.backends.kinds import AZURE, AZURE_TIMEOUTS
from accountstore.backends.moments import as_utc
from accountstore.backends.object_store import (
    INSTANCE,
    WRITE_TOKEN,
    ObjectStore,
    error_for_status,
    finalizers,
    folder,
    is_stale,
    split_url,
)
from accountstore.backends.options import (
    check_options,
    check_signature,
    checked_apart,
    trimmed,
)
from accountstore.backends.sessions import prepare, unpacked
from accountstore.backends.versions import VersionsPage, all_versions
from accountstore.backends.web_pages import PAGE, is_page_error, page_error
from accountstore.errors import AccountStoreError

_PAGE = 5000
_ENVIRONMENT = "AZURE_STORAGE_"


class AzureBackend(ObjectStore[tuple[Any, Any]]):
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each (a read of an empty document two); conditions stand in
    `If-None-Match` and `If-Match`.
    """

    _failures = (AzureError, DeserializationError)

    def __init__(self, options: Mapping[str, Any], container: str, prefix: str, /) -> None:
        super().__init__(options, container, prefix, AzureBlobFileSystem)
        self._each: dict[str, Any] = {
            "retry_total": 0,
            "permit_redirects": False,
            **{name: options[name] for name in AZURE_TIMEOUTS if name in options},
        }

    async def _open(self) -> tuple[Any, Any]:
        """The filesystem and the container's client; no request is sent for it."""
        fs: Any = await self._apart(lambda: asyncio.run(self._make()))
        transport = fs.service_client._pipeline._transport  # noqa: SLF001 -- the client has no other way to its session
        await transport.open()
        prepare(transport.session, self._threads)
        # With its trust in the environment aiohttp reads ~/.netrc too: for each request, in the application's threads.
        transport.session._trust_env = False  # noqa: SLF001 -- as above
        self._each["proxies"] = _proxies(fs.service_client.url)
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

    def _error(self, error: Any, mode: WriteMode | None, /) -> AccountStoreError:
        answer, what = _answer(error), type(error).__name__
        if isinstance(error, DeserializationError) or (answer is not None and answer[0] < 300):
            return UnavailableError("the answer is not the server's, or has a date that is none", sent=has_left())
        # It is the storage's with a code of its own or a 401, and else that of the service that gives credentials.
        if isinstance(error, ClientAuthenticationError) and (answer is None or not (answer[1] or answer[0] == 401)):
            return DeniedError(f"no valid credentials were found ({what})")
        if answer is not None:
            return page_error(answer[0]) if is_page_error(*answer) else error_for_status(*answer, mode)
        return unanswered(error, answering=not isinstance(error, ServiceRequestError))

    def _is_stale(self, error: Any, /) -> bool:
        answer = _answer(error)
        return answer is not None and is_stale(*answer)

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        async with self._client() as (_, container):
            blob = container.get_blob_client(self._prefix + key)
            try:
                stream = await blob.download_blob(
                    offset=0, length=limit + 1, max_concurrency=1, decompress=False, **self._each
                )
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                # An empty document has no first byte to ask for.
                return Blob(b"", _stat(key, await blob.get_blob_properties(**self._each), 0))
            size = int(stream.properties.size)
            check_size(size, limit)
            data = await stream.readall()
        found = whole_blob(data, _stat(key, stream.properties, size))
        data = unpacked(data, stream.properties.content_settings.content_encoding or "", limit)
        return found if len(data) == size else Blob(data, _stat(key, stream.properties, len(data)))

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition = _if_match(mode) if isinstance(mode, Version) else {}
        metadata = {WRITE_TOKEN: write_token} if write_token else None
        async with self._client(mode) as (_, container):
            blob = container.get_blob_client(self._prefix + key)
            answer = await blob.upload_blob(
                data, length=len(data), overwrite=mode != "create", metadata=metadata, **condition, **self._each
            )
        return Stat(key, len(data), written(answer.get("etag")), as_utc(answer.get("last_modified")))

    async def _head(self, key: str, /) -> Stat:
        async with self._client() as (_, container):
            try:
                found = await container.get_blob_client(self._prefix + key).get_blob_properties(**self._each)
            except HttpResponseError as error:
                if _answer(error) == (404, ""):  # it has no body, and may mean the container
                    await self._require_container(container)
                raise
        return _stat(key, found, size_of(found.size))

    async def _require_container(self, container: Any, /) -> None:
        """Raise an error about the container if it does not exist."""
        try:
            await container.get_container_properties(**self._each)
        except HttpResponseError as error:
            if error.status_code == 404:
                raise error_for_status(404, "ContainerNotFound") from None  # outside of what `_client` translates

    async def _delete(self, key: str, version: Version | None, /) -> None:
        condition = {} if version is None else _if_match(version)
        async with self._client(version) as (_, container):
            await container.get_blob_client(self._prefix + key).delete_blob(**condition, **self._each)

    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        async with self._client() as (_, container):
            listed = container.list_blobs if recursive else partial(container.walk_blobs, delimiter="/")
            pages = listed(name_starts_with=start or None, results_per_page=_PAGE, **self._each).by_page(cursor)
            found: list[Stat] = []
            async for entry in await anext(pages):
                key = entry.name[len(self._prefix) :]
                if key.endswith("/"):
                    found.append(folder(key))
                elif entry.etag:
                    found.append(_stat(key, entry, int(entry.size)))
                elif entry.size:  # no folder of an account with a hierarchy
                    found.append(Stat(key, int(entry.size), None, as_utc(entry.last_modified)))
        return found, pages.continuation_token or None

    @on_asyncio
    async def versions(self, key: str, /) -> list[VersionInfo]:
        return (await all_versions(partial(self._versions, key)))[::-1]

    async def _versions(self, key: str, cursor: str | None, /) -> VersionsPage:
        """Versions of a document, oldest first: they come before those of longer names."""
        name = self._prefix + key
        async with self._client() as (_, container):
            listed = container.list_blobs(
                name_starts_with=name, include=["versions"], results_per_page=_PAGE, **self._each
            )
            pages = listed.by_page(cursor)
            entries = [entry async for entry in await anext(pages)]
            found = [
                VersionInfo(
                    entry.version_id,
                    stat.version,
                    stat.size,
                    stat.modified,
                    current=entry.version_id is None or bool(entry.is_current_version),
                )
                for entry in entries
                if entry.name == name
                for stat in (_stat(key, entry, int(entry.size)),)
            ]
        return found, (pages.continuation_token or None) if len(found) == len(entries) else None

    @on_asyncio
    async def versioned(self) -> bool | None:
        with suppress(AccountStoreError):
            async with self._client() as (fs, _):
                # Blob versions are the account's setting, which a container's keys may not read; soft delete likewise.
                kept = await fs.service_client.get_service_properties(**self._each)
            return True if kept["delete_retention_policy"].enabled else None
        return None


def _answer(error: Any, /) -> tuple[int, str] | None:
    """The status of an answer that is an error, and its code; None: there was no answer."""
    if not isinstance(error, HttpResponseError) or error.status_code is None:
        return None
    code = str(getattr(error, "error_code", None) or "")
    kind = str(getattr(error.response, "headers", {}).get("Content-Type", ""))
    if error.status_code == 404 and not code and kind.startswith("text/html"):
        code = PAGE
    return error.status_code, code


def _proxies(url: str, /) -> dict[str, str]:
    """The proxies that the environment names for a server."""
    if proxy_bypass(urlsplit(url).hostname or ""):
        return {}
    return {scheme: proxy for scheme, proxy in getproxies().items() if scheme in {"http", "https"}}


def _if_match(version: Version, /) -> dict[str, Any]:
    return {"etag": version.token, "match_condition": MatchConditions.IfNotModified}


def _stat(key: str, properties: Any, size: int, /) -> Stat:
    # A listing gives tags without their quotes.
    tag = (properties.etag or "").strip('"')
    version = version_of(tag and f'"{tag}"')
    return Stat(key, size, version, as_utc(properties.last_modified), (properties.metadata or {}).get(WRITE_TOKEN))


def _check(options: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for an option that the client would refuse later, or drop."""
    check_options(options, AzureBlobFileSystem.__init__, AZURE)
    name = options.get("account_name") or os.environ.get(f"{_ENVIRONMENT}ACCOUNT_NAME")
    connection = options.get("connection_string")
    if connection is not None:
        try:
            BlobServiceClient.from_connection_string(str(connection)).close()
        except (AzureError, ValueError, TypeError):
            raise ConfigError("options: 'connection_string' is none: AccountName=...;AccountKey=...;...") from None
    elif not name and not os.environ.get(f"{_ENVIRONMENT}CONNECTION_STRING"):
        raise ConfigError("options: no account is named: give 'account_name' or 'connection_string'")
    try:
        b64decode(str(options.get("account_key") or ""), validate=True)
    except ValueError:
        raise ConfigError("options: 'account_key' is not in base64") from None
    if not re.fullmatch(r"[\w.-]*", str(name or "")):  # it could be more, and is asked for
        raise ConfigError("options: 'account_name' names no server")
    if not re.fullmatch("[^?#@;]*", host := str(options.get("account_host") or "")) or "://" in host:
        raise ConfigError("options: 'account_host' must be a host, with its port and path where they are needed")
    check_signature(options.get("sas_token") or os.environ.get(f"{_ENVIRONMENT}SAS_TOKEN"), "sas_token")
    if signature := re.search("(?i)(?:^|;)SharedAccessSignature=([^;]*)", str(connection)):
        check_signature(signature[1], "connection_string")
    credential = options.get("credential")
    ways = ("get_token", "get_token_info", "signature", "named_key")
    if not (credential is None or isinstance(credential, (str, Mapping)) or any(hasattr(credential, w) for w in ways)):
        raise ConfigError("options: 'credential' must be a credential of azure.identity or azure.core, or a string")


async def open_backend(url: str, options: Mapping[str, object], /) -> AzureBackend:
    """A storage in a container. Options are those of `adlfs.AzureBlobFileSystem`, which connects at the first call.

    Raises:
        ConfigError: an option is not known or has a wrong value, the URL names no container, or no account is named.
    """
    container, prefix = split_url(url)
    container, at, host = container.partition("@")
    if at:
        options = {"account_name": host.partition(".")[0], **options}
    if not container:
        raise ConfigError("url: the url must name a container: az://container/prefix")
    options = trimmed(options, "account_key")
    await checked_apart(partial(_check, options))
    return AzureBackend(options, container, prefix)
