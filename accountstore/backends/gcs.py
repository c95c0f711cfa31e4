"""Google Cloud Storage, through the session and the credentials of gcsfs: `gs://bucket/prefix` (extra `gcs`).

gcsfs itself has no compare-and-swap, repeats requests on its own, and its default class asks a gRPC interface about the
bucket before every call; so requests are made here, in its session, with its headers.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import GoogleAuthError
from yarl import URL

from accountstore.aio.loops import on_asyncio
from accountstore.backends.base import (
    BackendError,
    Blob,
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
    generation,
    split_url,
    unsent,
)

_PAGE = "1000"
_FIELDS = "items(name,size,generation,updated),nextPageToken"
_FRESH = timedelta(minutes=10)
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)  # the store has its own deadline


class GCSBackend(ObjectStore[Any]):
    """One session of its own, opened at the first call and closed with the store. A version is the generation.

    Reads, writes and deletes are one request each, of the JSON API; conditions stand in `ifGenerationMatch`.
    """

    # HttpError and NonRetryableError are gcsfs's for a refusal.
    _failures = (GoogleAuthError, HttpError, NonRetryableError, aiohttp.ClientError)

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, /) -> None:
        super().__init__(options, bucket, prefix, GCSFileSystem)
        self._at = f"b/{quote(bucket, safe='')}"

    async def _open(self) -> Any:
        """Make the filesystem, in a thread: finding credentials reads files and asks servers."""
        fs: Any = await asyncio.to_thread(partial(GCSFileSystem, **self._options, **INSTANCE))
        await fs._set_session()  # noqa: SLF001 -- what gcsfs has its asynchronous users await
        fs.session._retry_connection = False  # noqa: SLF001 -- aiohttp has no other way
        return fs

    async def _shut(self, client: Any, /) -> None:
        await client.session.close()

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
        """The headers and the body of the answer."""
        async with self._client(mode) as fs:
            keys = fs.credentials.credentials
            if keys is not None and not (keys.valid and _is_fresh(keys.expiry)):
                # It would block the event loop with a request.
                await asyncio.to_thread(fs.credentials.maybe_refresh)
            url = URL(f"{fs.base.removesuffix('/storage/v1/')}/{path}", encoded=True)
            call = fs.session.request(
                method,
                url.update_query(fs._get_params(query or {})),  # noqa: SLF001 -- it adds who pays
                data=data,
                headers=fs._get_headers(headers),  # noqa: SLF001 -- it adds the credentials
                timeout=fs.requests_timeout or _NO_TIMEOUT,
            )
            async with call as answer:
                if answer.status >= 400:
                    raise _refusal(answer.status, (await answer.read())[:4096], mode)
                if limit is not None and answer.content_length is not None:
                    check_size(answer.content_length, limit)
                return answer.headers, await answer.read()

    def _error(self, error: Any, mode: WriteMode | None, /) -> BackendError:
        what = type(error).__name__
        if isinstance(error, aiohttp.ClientError):
            return UnavailableError(f"the storage cannot be reached ({what})", sent=not unsent(error))
        return DeniedError(f"no valid credentials were found ({what})")

    def _object(self, key: str, /) -> str:
        return f"{self._at}/o/{quote(self._prefix + key, safe='')}"

    async def read(self, key: str, /, *, limit: int) -> Blob:
        path = f"download/storage/v1/{self._object(key)}"
        headers, data = await self._request("GET", path, limit=limit, query={"alt": "media"})
        check_size(len(data), limit)
        modified = headers.get("Last-Modified")
        version = Version(headers["X-Goog-Generation"])
        return Blob(data, Stat(key, len(data), version, parsedate_to_datetime(modified) if modified else None))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        about = {"name": self._prefix + key, "metadata": {WRITE_TOKEN: write_token} if write_token else {}}
        query = {"uploadType": "multipart", **_condition(mode)}
        boundary = os.urandom(16).hex()
        body = _multipart(about, data, boundary)
        headers = {"Content-Type": f'multipart/related; boundary="{boundary}"'}
        path = f"upload/storage/v1/{self._at}/o"
        _, answer = await self._request("POST", path, mode=mode, data=body, headers=headers, query=query)
        return _stat(key, json.loads(answer))

    async def _head(self, key: str, /) -> Stat:
        _, answer = await self._request("GET", f"storage/v1/{self._object(key)}")
        return _stat(key, json.loads(answer))

    async def _delete(self, key: str, version: Version | None, /) -> None:
        query = {} if version is None else _condition(version)
        await self._request("DELETE", f"storage/v1/{self._object(key)}", mode=version, query=query)

    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        where = {"prefix": start, "maxResults": _PAGE, "fields": _FIELDS}
        where |= {} if recursive else {"delimiter": "/"}
        where |= {"pageToken": cursor} if cursor else {}
        _, answer = await self._request("GET", f"storage/v1/{self._at}/o", query=where)
        page = json.loads(answer)
        found = [_stat(item["name"][len(self._prefix) :], item) for item in page.get("items", ())]
        return found, page.get("nextPageToken")

    async def versioned(self) -> bool | None:
        try:
            _, answer = await self._request("GET", f"storage/v1/{self._at}")
        except BackendError:
            return None
        bucket = json.loads(answer)
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


def _stat(key: str, about: Mapping[str, Any], /) -> Stat:
    modified = about.get("updated")
    return Stat(
        key,
        int(about["size"]),
        Version(str(about["generation"])),
        datetime.fromisoformat(modified) if modified else None,
        about.get("metadata", {}).get(WRITE_TOKEN),
    )


def _refusal(status: int, body: bytes, mode: WriteMode | None, /) -> BackendError:
    # The JSON interface has one code for a missing object and a missing bucket, and a sentence for each.
    try:
        error = json.loads(body)["error"]
        code, said = str(error["errors"][0]["reason"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        code, said = "", body.decode(errors="replace")
    if status == 404 and "bucket" in said and "not exist" in said and not said.startswith("No such object"):
        code = "NoSuchBucket"
    return error_for_status(status, code, mode)


def _is_fresh(expiry: datetime | None, /) -> bool:
    return expiry is None or expiry.replace(tzinfo=UTC) - datetime.now(UTC) >= _FRESH


async def open_backend(url: str, options: Mapping[str, object], /) -> GCSBackend:
    """A storage in a bucket. Options are those of `gcsfs.GCSFileSystem`; its client connects at the first call.

    Raises:
        ConfigError: an option is not known, or the URL names no bucket.
    """
    check_options(options, GCSFileSystem.__init__)
    return GCSBackend(options, *split_url(url))
