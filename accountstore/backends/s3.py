"""S3 and what speaks its protocol, through the client that s3fs opens: `s3://bucket/prefix` (extra `s3`).

s3fs itself drops keyword arguments that it does not know, so that a misspelt condition overwrites; asks twice for a
read; and repeats requests on its own. Its client does none of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 -- botocore's own name
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from s3fs import S3FileSystem

from accountstore.aio.loops import on_asyncio
from accountstore.backends.base import (
    BackendError,
    Blob,
    DeniedError,
    NotFoundError,
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
    folder,
    split_url,
    unsent,
    whole_blob,
)

_POOL = 128
_UNREACHED = (HTTPClientError, ConnectionError, IncompleteReadError, aiohttp.ClientError)
_CONDITIONS: Mapping[str, Mapping[str, str]] = {"overwrite": {}, "create": {"IfNoneMatch": "*"}}
_OPERATIONS = ("GetObject", "PutObject", "HeadObject", "DeleteObject", "ListObjectsV2")
_Session: Any = AIOHTTPSession  # which has types in some installations only


class _OneRequest(_Session):  # type: ignore[misc]  # see the line before
    """aiobotocore's session without aiohttp's own repetition of a request whose connection was closed.

    A write that took effect would meet its own document, which could be a rival's as well.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        session: Any = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001 -- aiohttp has no other way
        return session


class S3Backend(ObjectStore[tuple[Any, dict[str, dict[str, Any]]]]):
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each, conditions stand in `If-None-Match` and `If-Match`.
    """

    _failures = (ClientError, BotoCoreError, aiohttp.ClientError)

    async def _open(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        return await asyncio.to_thread(self._make)

    async def _shut(self, client: tuple[Any, dict[str, dict[str, Any]]], /) -> None:
        await client[0].close()

    def _make(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The client and the options that go with each operation, in a thread: botocore reads models from the disk."""
        config = {"max_pool_connections": _POOL, **self._options.get("config_kwargs", {})}
        config |= {"retries": {"total_max_attempts": 1}, "http_session_cls": _OneRequest}
        fs: Any = S3FileSystem(**{**self._options, "config_kwargs": config}, **INSTANCE)
        client = asyncio.run(fs.set_session())
        given = {**fs.s3_additional_kwargs, **fs.req_kw}
        taken = {name: client.meta.service_model.operation_model(name).input_shape.members for name in _OPERATIONS}
        extra = {name: {key: given[key] for key in given if key in taken[name]} for name in _OPERATIONS}
        return client, extra

    def _error(self, error: Any, mode: WriteMode | None, /) -> BackendError:
        if isinstance(error, ClientError):
            self._answered = True
            answer: Any = error.response
            code = str(answer.get("Error", {}).get("Code", ""))
            return error_for_status(int(answer["ResponseMetadata"]["HTTPStatusCode"]), code, mode)
        what = type(error).__name__
        if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
            return DeniedError(f"no credentials were found ({what})")
        if isinstance(error, SSLError) or not isinstance(error, _UNREACHED):
            return BackendError(f"the request could not be made ({what})")
        return UnavailableError(f"the storage cannot be reached ({what})", sent=not unsent(error))

    def _at(self, key: str, /) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        async with self._client() as (client, extra):
            answer = await client.get_object(**self._at(key), **extra["GetObject"])
            async with answer["Body"] as body:
                size = int(answer["ContentLength"])
                check_size(size, limit)
                data = await body.read()
        return whole_blob(data, _stat(key, answer, size))

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition = _CONDITIONS[mode] if isinstance(mode, str) else {"IfMatch": mode.token}
        async with self._client(mode) as (client, extra):
            options: dict[str, Any] = {**extra["PutObject"], **condition}
            if write_token:
                options["Metadata"] = {**options.get("Metadata", {}), WRITE_TOKEN: write_token}
            answer = await client.put_object(**self._at(key), Body=data, **options)
        return Stat(key, len(data), Version(answer["ETag"]), None)

    async def _head(self, key: str, /) -> Stat:
        async with self._client() as (client, extra):
            answer = await client.head_object(**self._at(key), **extra["HeadObject"])
        return _stat(key, answer, int(answer["ContentLength"]))

    async def _require_bucket(self) -> None:
        try:
            async with self._client() as (client, _):
                await client.head_bucket(Bucket=self._bucket)
        except NotFoundError:
            raise error_for_status(404, "NoSuchBucket") from None

    async def _delete(self, key: str, version: Version | None, /) -> None:
        condition = {} if version is None else {"IfMatch": version.token}
        async with self._client(version) as (client, extra):
            await client.delete_object(**self._at(key), **condition, **extra["DeleteObject"])

    @on_asyncio
    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": start}
        if not recursive:
            where["Delimiter"] = "/"
        if cursor:
            where["ContinuationToken"] = cursor
        async with self._client() as (client, extra):
            answer = await client.list_objects_v2(**where, **extra["ListObjectsV2"])
        found = [
            Stat(entry["Key"][len(self._prefix) :], int(entry["Size"]), Version(entry["ETag"]), entry["LastModified"])
            for entry in answer.get("Contents", ())
        ]
        found += [folder(entry["Prefix"][len(self._prefix) :]) for entry in answer.get("CommonPrefixes", ())]
        return found, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    @on_asyncio
    async def versioned(self) -> bool | None:
        with suppress(BackendError):
            async with self._client() as (client, _):
                return bool((await client.get_bucket_versioning(Bucket=self._bucket)).get("Status"))
        return None


def _stat(key: str, answer: Mapping[str, Any], size: int, /) -> Stat:
    token: str | None = answer.get("Metadata", {}).get(WRITE_TOKEN)
    return Stat(key, size, Version(answer["ETag"]), answer.get("LastModified"), token)


async def open_backend(url: str, options: Mapping[str, object], /) -> S3Backend:
    """A storage in a bucket. Options are those of `s3fs.S3FileSystem`; its client connects at the first call.

    Raises:
        ConfigError: an option is not known, or the URL names no bucket.
    """
    check_options(options, S3FileSystem.__init__, "profile")
    return S3Backend(options, *split_url(url), S3FileSystem)
