"""S3 and what speaks its protocol, through the client that s3fs opens: `s3://bucket/prefix` (extra `s3`).

s3fs itself drops keyword arguments that it does not know, so that a misspelt condition overwrites; asks twice for a
read; and repeats requests on its own. Its client does none of that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 -- botocore's own name
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from s3fs import S3FileSystem

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
from accountstore.backends.fsspec import Lent
from accountstore.backends.loops import AsyncioThread
from accountstore.errors import BackendError, ConflictError, DeniedError, NotFoundError, UnavailableError
from accountstore.validation import check_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from accountstore.backends.base import Write, WriteMode

__all__ = ("S3Backend", "make", "open_backend")

_POOL = 128
_UNREACHED = (HTTPClientError, ConnectionError, aiohttp.ClientError)
_CONDITIONS: Mapping[str, Mapping[str, str]] = {"overwrite": {}, "create": {"IfNoneMatch": "*"}}
_OPERATIONS = ("GetObject", "PutObject", "HeadObject", "DeleteObject", "ListObjectsV2")


_Session: Any = AIOHTTPSession  # which has types in some installations only


class _OneRequest(_Session):  # type: ignore[misc]  # see the line before
    """aiobotocore's session without aiohttp's own repetition of a request whose connection was closed.

    A write that had landed would meet itself in it, and a rival's document could pass for the cause.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        session: Any = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001 -- aiohttp has no other way
        return session


class S3Backend:
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each, conditions stand in `If-None-Match` and `If-Match`.
    """

    def __init__(self, options: Mapping[str, Any], bucket: str, prefix: str, /) -> None:
        self._options = options
        self._bucket = bucket
        self._prefix = prefix
        self._loop = AsyncioThread()
        self._opening = Opening(lambda: asyncio.to_thread(self._open))
        self._answered = False
        self._lent = Lent(partial(S3FileSystem, **options), f"{bucket}/{prefix}".rstrip("/"))

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    # --- the client ---------------------------------------------------------------------------------------------------

    async def _request(
        self, operation: str, call: Callable[[Any, dict[str, Any]], Awaitable[Any]], mode: WriteMode | None = None, /
    ) -> Any:
        """What `call` returns, given the client and the options that go with such a request; or an error of ours."""
        try:
            client, extra = self._opening.client or await self._opening.ask()
            result = await call(client, extra[operation])
        except (ClientError, BotoCoreError, aiohttp.ClientError) as error:
            refusal = self._failure(error, mode)
        else:
            self._answered = True
            return result
        raise refusal

    def _open(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Open the client, in a thread: botocore reads its models from the disk."""
        config = {"max_pool_connections": _POOL, **self._options.get("config_kwargs", {})}
        options: dict[str, Any] = {
            **self._options,
            "config_kwargs": {**config, "retries": {"total_max_attempts": 1}, "http_session_cls": _OneRequest},
            **INSTANCE,
        }
        fs: Any = S3FileSystem(**options)
        client = asyncio.run(fs.set_session())
        given = {**fs.s3_additional_kwargs, **fs.req_kw}
        taken = {name: client.meta.service_model.operation_model(name).input_shape.members for name in _OPERATIONS}
        extra = {name: {key: given[key] for key in given if key in taken[name]} for name in _OPERATIONS}
        return client, extra

    def _failure(self, error: Exception, mode: WriteMode | None, /) -> BackendError:
        if isinstance(error, ClientError):
            self._answered = True
            answer: Any = error.response
            code = str(answer.get("Error", {}).get("Code", ""))
            return failure(int(answer["ResponseMetadata"]["HTTPStatusCode"]), code, mode)
        what = type(error).__name__
        if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
            return DeniedError(f"no credentials were found ({what})")
        if isinstance(error, SSLError) or not isinstance(error, _UNREACHED):
            return BackendError(f"the request could not be made ({what})")
        return UnavailableError(f"the storage cannot be reached ({what})", sent=not unsent(error))

    def _at(self, key: str, /) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    # --- documents ----------------------------------------------------------------------------------------------------

    async def read(self, key: str, /, *, limit: int) -> Blob:
        async def read(client: Any, extra: dict[str, Any]) -> Blob:
            answer = await client.get_object(**self._at(key), **extra)
            async with answer["Body"] as body:
                size = int(answer["ContentLength"])
                check_size(size, limit)
                data = await body.read()
            if len(data) != size:
                raise UnavailableError("the answer was cut short")
            return Blob(data, _stat(key, answer, size))

        return await self._loop.run(lambda: self._request("GetObject", read))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await each(self.read(key, limit=limit) for key in keys)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, mark: str = "") -> Stat:
        async def write(client: Any, extra: dict[str, Any]) -> Stat:
            condition = {"IfMatch": mode.token} if isinstance(mode, Version) else _CONDITIONS[mode]
            marked = {**extra, "Metadata": {**extra.get("Metadata", {}), MARK: mark}} if mark else extra
            answer = await client.put_object(**self._at(key), Body=data, **condition, **marked)
            return Stat(key, len(data), Version(answer["ETag"]), None)

        return await self._loop.run(lambda: self._request("PutObject", write, mode))

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await each(self.write(key, data, mode=mode) for key, data, mode in writes)

    async def stat(self, key: str, /) -> Stat:
        return await self._loop.run(lambda: self._stat(key))

    async def _stat(self, key: str, /) -> Stat:
        async def stat(client: Any, extra: dict[str, Any]) -> Stat:
            answer = await client.head_object(**self._at(key), **extra)
            return _stat(key, answer, int(answer["ContentLength"]))

        fresh = not self._answered
        try:
            found: Stat = await self._request("HeadObject", stat)
        except NotFoundError:
            if fresh:  # the answer to a HEAD has no body to tell a missing bucket
                await self._request("HeadObject", self._head_bucket)
            raise
        return found

    async def _head_bucket(self, client: Any, extra: dict[str, Any], /) -> None:
        try:
            await client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            answer: Any = error.response
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise failure(404, "NoSuchBucket") from None

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        async def delete(client: Any, extra: dict[str, Any]) -> None:
            condition = {} if version is None else {"IfMatch": version.token}
            await client.delete_object(**self._at(key), **condition, **extra)

        with suppress(NotFoundError):
            try:
                await self._loop.run(lambda: self._request("DeleteObject", delete, version))
            except ConflictError:
                await self.stat(key)  # of a missing document it is none, whatever the server says
                raise

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return CursorPages(partial(self._page, prefix, recursive))

    async def _page(self, prefix: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + (f"{prefix}/" if prefix else "")}
        if not recursive:
            where["Delimiter"] = "/"
        if cursor:
            where["ContinuationToken"] = cursor

        async def page(client: Any, extra: dict[str, Any]) -> Any:
            return await client.list_objects_v2(**where, **extra)

        answer = await self._loop.run(lambda: self._request("ListObjectsV2", page))
        found = [
            Stat(entry["Key"][len(self._prefix) :], int(entry["Size"]), Version(entry["ETag"]), entry["LastModified"])
            for entry in answer.get("Contents", ())
        ]
        return found, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    def classify(self, error: Exception, /) -> type[BackendError]:
        return classify_oserror(error)

    async def versioned(self) -> bool | None:
        async def ask(client: Any, extra: dict[str, Any]) -> bool:
            return bool((await client.get_bucket_versioning(Bucket=self._bucket)).get("Status"))

        try:
            return bool(await self._loop.run(lambda: self._request("HeadObject", ask)))
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
            await taken[0].close()


def _stat(key: str, answer: Mapping[str, Any], size: int, /) -> Stat:
    mark: str | None = answer.get("Metadata", {}).get(MARK)
    return Stat(key, size, Version(answer["ETag"]), answer.get("LastModified"), mark)


def make(url: str, options: Mapping[str, object], /) -> S3Backend:
    """A storage in a bucket. Options are those of `s3fs.S3FileSystem`; its client connects at the first call.

    Raises:
        ConfigError: an option is not known, or the URL names no bucket.
    """
    check_options(options, S3FileSystem.__init__, "profile")
    return S3Backend(options, *split_url(url))


async def open_backend(url: str, options: Mapping[str, object], /) -> S3Backend:
    """As `make`: for the registry."""
    return make(url, options)
