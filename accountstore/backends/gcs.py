"""Google Cloud Storage, through the session and the credentials of gcsfs: `gs://bucket/prefix` (extra `gcs`).

gcsfs itself has no compare-and-swap, repeats requests on its own, and its default class asks a gRPC interface about the
bucket before every call; so requests are made here, in its session, with its headers.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from inspect import signature
from typing import Any
from urllib.parse import quote

import aiohttp
from gcsfs.core import GCSFileSystem
from google.auth.exceptions import GoogleAuthError
from msgspec.structs import replace
from yarl import URL

from accountstore.aio.loops import on_asyncio
from accountstore.backends.answers import generation, size_of, unanswered, unreadable, version_of, written
from accountstore.backends.base import (
    BackendError,
    Blob,
    Capabilities,
    ConfigError,
    Stat,
    UnavailableError,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
)
from accountstore.backends.gcs_credentials import as_token, authorization, credentials_of, denied, refresh
from accountstore.backends.kinds import GCS
from accountstore.backends.moments import moment_of
from accountstore.backends.object_store import (
    INSTANCE,
    WRITE_TOKEN,
    ObjectStore,
    error_for_status,
    folder,
    is_stale,
    split_url,
)
from accountstore.backends.options import (
    check_names,
    check_options,
    check_url,
    checked_apart,
    table,
)
from accountstore.backends.sessions import MOST_TOLD, prepare, read_at_most, unpacked
from accountstore.backends.versions import VersionsPage, all_versions
from accountstore.backends.web_pages import PAGE, is_page, is_page_error, page_error
from accountstore.errors import AccountStoreError, TooLargeError

_PAGE = "1000"
_FIELDS = "items(name,size,generation,updated),prefixes,nextPageToken"
_VERSION_FIELDS = "items(name,size,generation,updated,timeDeleted),nextPageToken"
_FRESH = timedelta(minutes=10)
_TOLD = 4096
"""What is read of a refusal."""
_OURS = frozenset({"auto_decompress", "base_url", "loop", "raise_for_status"})
"""What changes each request of a session."""


class _Refused(Exception):  # noqa: N818 -- an answer, which becomes an error
    """The status of an answer that is an error, and its code."""

    def __init__(self, status: int, code: str, /) -> None:
        super().__init__(status)
        self.status = status
        self.code = code


class GCSBackend(ObjectStore[Any]):
    """One session of its own, opened at the first call and closed with the store. A version is the generation.

    Reads, writes and deletes are one request each, of the JSON API; conditions stand in `ifGenerationMatch`.
    """

    capabilities: Capabilities = replace(ObjectStore.capabilities, sorted=True)
    _failures = (_Refused, GoogleAuthError, aiohttp.ClientError)

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, /) -> None:
        super().__init__(options, bucket, prefix, _filesystem)
        self._at = f"b/{quote(bucket, safe='')}"
        self._renewing: asyncio.Task[None] | None = None

    async def _open(self) -> Any:
        """Make the filesystem, in a thread: finding credentials reads files and asks servers."""
        fs: Any = await self._apart(partial(_filesystem, **self._options, **INSTANCE))
        await fs._set_session()  # noqa: SLF001 -- what gcsfs has its asynchronous users await
        prepare(fs.session, self._threads, bounded="connector" in table(self._options, "session_kwargs"))
        return fs

    async def _shut(self, client: Any, /) -> None:
        await client.session.close()

    async def _renew(self, fs: Any, /) -> None:
        """Renew the credentials if they have ended or soon will, once for all calls that wait for it."""
        keys = fs.credentials.credentials
        if keys is None or (keys.valid and _is_fresh(keys.expiry)):
            return
        task = self._renewing
        if task is None or task.done():
            # Here it would block the event loop with a request.
            task = self._renewing = asyncio.create_task(self._apart(partial(refresh, fs.credentials)))
            task.add_done_callback(_forget)
        await asyncio.shield(task)

    @on_asyncio
    async def _close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        await super()._close()

    @on_asyncio
    async def _request(
        self,
        method: str,
        path: str,
        /,
        mode: WriteMode | None = None,
        limit: int | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of the answer: a document of at most `limit` bytes, or what the service says."""
        async with self._client(mode) as fs:
            await self._renew(fs)
            url = URL(f"{fs.base.removesuffix('/storage/v1/')}/{path}", encoded=True)
            call = fs.session.request(
                method,
                url.update_query(fs._get_params(query or {})),  # noqa: SLF001 -- it adds who pays
                data=data,
                headers={"Accept-Encoding": "gzip", **(headers or {}), **authorization(fs.credentials.credentials)},
                timeout=aiohttp.ClientTimeout(total=fs.requests_timeout),  # None: the store has its own deadline
                auto_decompress=False,  # which has no bound
            )
            async with call as answer:
                encoding = answer.headers.get("Content-Encoding", "")
                if answer.status >= 300:
                    raise _refusal(answer.status, await read_at_most(answer.content, _TOLD), encoding)
                if limit is None:
                    return answer.headers, _said(await read_at_most(answer.content, MOST_TOLD), encoding)
                check_size(answer.content_length or 0, limit)
                return answer.headers, unpacked(await read_at_most(answer.content, limit), encoding, limit)

    def _error(self, error: Any, mode: WriteMode | None, /) -> AccountStoreError:
        if isinstance(error, _Refused):
            if is_page_error(error.status, error.code):
                return page_error(error.status)
            return error_for_status(error.status, error.code, mode)
        if isinstance(error, aiohttp.ClientError):
            # aiohttp repeats no POST, and a write here is one.
            return unanswered(error)
        return denied(error)

    def _is_stale(self, error: Any, /) -> bool:
        return isinstance(error, _Refused) and is_stale(error.status, error.code)

    def _object(self, key: str, /) -> str:
        return f"{self._at}/o/{quote(self._prefix + key, safe='')}"

    async def read(self, key: str, /, *, limit: int) -> Blob:
        path = f"download/storage/v1/{self._object(key)}"
        headers, data = await self._request("GET", path, limit=limit, query={"alt": "media"})
        version = version_of(headers.get("X-Goog-Generation"))
        modified = moment_of(headers.get("Last-Modified"), parsedate_to_datetime)
        return Blob(data, Stat(key, len(data), version, modified))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        about: dict[str, object] = {
            "name": self._prefix + key,
            "metadata": {WRITE_TOKEN: write_token} if write_token else {},
        }
        query = {"uploadType": "multipart", **_condition(mode)}
        boundary = os.urandom(16).hex()
        body = _multipart(about, data, boundary)
        headers = {"Content-Type": f'multipart/related; boundary="{boundary}"'}
        path = f"upload/storage/v1/{self._at}/o"
        _, answer = await self._request("POST", path, mode=mode, data=body, headers=headers, query=query)
        made = _parsed(answer)
        modified = moment_of(made.get("updated"), datetime.fromisoformat)
        return Stat(key, len(data), written(made.get("generation")), modified)

    async def _head(self, key: str, /) -> Stat:
        _, answer = await self._request("GET", f"storage/v1/{self._object(key)}")
        return _stat(key, _parsed(answer))

    async def _delete(self, key: str, version: Version | None, /) -> None:
        query = {} if version is None else _condition(version)
        _, body = await self._request("DELETE", f"storage/v1/{self._object(key)}", mode=version, query=query)
        if is_page(body[:_TOLD].decode(errors="replace")):
            raise page_error(200)

    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        where = {"prefix": start, "maxResults": _PAGE, "fields": _FIELDS}
        where |= {} if recursive else {"delimiter": "/"}
        where |= {"pageToken": cursor} if cursor else {}
        _, answer = await self._request("GET", f"storage/v1/{self._at}/o", query=where)
        page = _listing(answer)
        found = [_stat(item["name"][len(self._prefix) :], item) for item in page.get("items", ())]
        found += [folder(name[len(self._prefix) :]) for name in page.get("prefixes", ())]
        return found, page.get("nextPageToken") or None

    @on_asyncio
    async def versions(self, key: str, /) -> list[VersionInfo]:
        return (await all_versions(partial(self._versions, key)))[::-1]

    async def _versions(self, key: str, cursor: str | None, /) -> VersionsPage:
        """Versions of a document, oldest first: they come before those of longer names."""
        name = self._prefix + key
        where = {"prefix": name, "versions": "true", "maxResults": _PAGE, "fields": _VERSION_FIELDS}
        where |= {"pageToken": cursor} if cursor else {}
        _, answer = await self._request("GET", f"storage/v1/{self._at}/o", query=where)
        page = _listing(answer)
        items = page.get("items", ())
        found = [
            VersionInfo(item["generation"], stat.version, stat.size, stat.modified, current="timeDeleted" not in item)
            for item in items
            if item["name"] == name
            for stat in (_stat(key, item),)
        ]
        return found, (page.get("nextPageToken") or None) if len(found) == len(items) else None

    async def versioned(self) -> bool | None:
        try:
            _, answer = await self._request("GET", f"storage/v1/{self._at}")
        except AccountStoreError:
            return None
        bucket = _parsed(answer)
        kept = int(bucket.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0))
        return bool(bucket.get("versioning", {}).get("enabled")) or kept > 0


def _multipart(about: Mapping[str, object], data: bytes, boundary: str, /) -> bytes:
    """Metadata and content in one body (RFC 2387)."""
    head = f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
    middle = f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    return b"".join((head.encode(), middle.encode(), data, f"\r\n--{boundary}--".encode()))


def _condition(mode: WriteMode, /) -> dict[str, str]:
    """What makes a request conditional."""
    if isinstance(mode, Version):
        return {"ifGenerationMatch": generation(mode)}
    return {"ifGenerationMatch": "0"} if mode == "create" else {}


def _said(body: bytes, encoding: str, /) -> bytes:
    """What an answer says that is no document. Raises `UnavailableError` where it is packed in no way that is known."""
    try:
        return unpacked(body, encoding, MOST_TOLD)
    except (BackendError, TooLargeError) as error:
        failure = unreadable(error)
    raise failure


def _parsed(answer: bytes, /) -> Mapping[str, Any]:
    """The object of an answer. Raises `UnavailableError` for what a proxy may have put in its place."""
    try:
        about: object = json.loads(answer)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise UnavailableError("the answer is not the server's (no JSON object)")
    return about


def _listing(answer: bytes, /) -> Mapping[str, Any]:
    """A page of a listing. Raises `UnavailableError` for any other object, which would pass for an empty one."""
    page = _parsed(answer)
    items: Any = page.get("items", ())
    whole = isinstance(items, Sequence) and all(
        isinstance(item, dict) and {"name", "size"} <= item.keys() for item in items
    )
    if not whole or not page.keys() <= {"kind", "items", "prefixes", "nextPageToken"}:
        raise UnavailableError("the answer is not the server's (no listing)")
    return page


def _stat(key: str, about: Mapping[str, Any], /) -> Stat:
    return Stat(
        key,
        size_of(about.get("size")),
        version_of(about.get("generation")),
        moment_of(about.get("updated"), datetime.fromisoformat),
        (about.get("metadata") or {}).get(WRITE_TOKEN),
    )


def _refusal(status: int, body: bytes, encoding: str, /) -> _Refused:
    # The JSON interface has one code for a missing object and a missing bucket, and a sentence for each.
    try:
        body = unpacked(body, encoding, _TOLD)
    except AccountStoreError:
        body = b""
    try:
        error = json.loads(body)["error"]
        code, said = str(error["errors"][0]["reason"]), str(error["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        said = body.decode(errors="replace")
        code = PAGE if is_page(said) else ""
    if status == 404 and "bucket" in said and "not exist" in said and not said.startswith("No such object"):
        code = "NoSuchBucket"
    return _Refused(status, code)


def _is_fresh(expiry: datetime | None, /) -> bool:
    return expiry is None or expiry.replace(tzinfo=UTC) - datetime.now(UTC) >= _FRESH


def _forget(task: asyncio.Task[None], /) -> None:
    """Let nobody miss an error that nobody waited for."""
    if not task.cancelled():
        task.exception()


def _filesystem(**options: Any) -> Any:
    """Gcsfs's filesystem, with the credentials that the options or the environment name and no others."""
    token, project = credentials_of(options)
    if project is not None and options.get("project") is None:
        options["project"] = project
    options["token"] = token
    try:
        return GCSFileSystem(**options)
    except ValueError as error:  # gcsfs's for a method by which there are no credentials
        failure = denied(error)
    raise failure


def _check(options: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for an option that the client would refuse later, drop, or send where it must not go."""
    check_options(options, GCSFileSystem.__init__, GCS)
    access = options.get("access")
    if access is not None and access not in GCSFileSystem.scopes:
        raise ConfigError(f"options: 'access' must be one of {', '.join(sorted(GCSFileSystem.scopes))}")
    check_names(
        table(options, "session_kwargs"), [*signature(aiohttp.ClientSession).parameters], "options.session_kwargs"
    )
    for name in table(options, "session_kwargs").keys() & _OURS:
        raise ConfigError(f"options.session_kwargs: {name!r} is set by the store")
    check_url(options, "endpoint_url")
    as_token(options.get("token"))


async def open_backend(url: str, options: Mapping[str, object], /) -> GCSBackend:
    """A storage in a bucket. Options are those of `gcsfs.GCSFileSystem`; its client connects at the first call.

    Raises:
        ConfigError: an option is not known or has a wrong value, or the URL names no bucket.
    """
    bucket, prefix = split_url(url)
    await checked_apart(partial(_check, options))
    return GCSBackend(options, bucket, prefix)
