"""S3 and what speaks its protocol, through the client that s3fs opens: `s3://bucket/prefix` (extra `s3`).

s3fs itself drops keyword arguments that it does not know, so that a misspelt condition overwrites; asks twice for a
read; and repeats requests on its own. Its client does none of that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp
from aiobotocore import httpsession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 -- botocore's own name
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from msgspec.structs import replace
from s3fs import S3FileSystem

from accountstore.aio.loops import on_asyncio
from accountstore.aio.sending import has_left
from accountstore.aio.threads import ThreadPool
from accountstore.backends.answers import cut_off, size_of, unanswered, version_of, whole_blob, written
from accountstore.backends.base import (
    BackendError,
    Blob,
    Capabilities,
    DeniedError,
    Stat,
    UnavailableError,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
)
from accountstore.backends.moments import as_utc, moment_of
from accountstore.backends.object_store import (
    INSTANCE,
    WRITE_TOKEN,
    ObjectStore,
    error_for_status,
    folder,
    is_stale,
    split_url,
)
from accountstore.backends.options import checked_apart, table
from accountstore.backends.s3_options import OPERATIONS, check_s3
from accountstore.backends.sessions import BoundedAnswer, prepare
from accountstore.backends.versions import VersionsPage, all_versions
from accountstore.backends.web_pages import PAGE, is_page_error, page_error
from accountstore.errors import AccountStoreError

_UNREACHED = (HTTPClientError, ConnectionError, IncompleteReadError, aiohttp.ClientError)
_CONDITIONS: Mapping[str, Mapping[str, str]] = {"overwrite": {}, "create": {"IfNoneMatch": "*"}}
_ASKED = frozenset({*OPERATIONS, "GetBucketVersioning"})
_LISTINGS = {"ListObjectsV2": b"ListBucketResult", "ListObjectVersions": b"ListVersionsResult"}
_ROOT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?\?>\s*)?(?:<!--.*?-->\s*)*<(?:\w+:)?(\w+)", re.DOTALL)
_WITHOUT_CREDENTIALS = (
    *(NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, MetadataRetrievalError),
    *(ProfileNotFound, SSOError, TokenRetrievalError),
)
_httpsession: Any = httpsession  # which has types in some installations only
_Session: Any = _httpsession.AIOHTTPSession


class _Requests(_Session):  # type: ignore[misc]  # see the line before
    """aiobotocore's requests through sessions of aiohttp that are prepared."""

    def __init__(self, threads: ThreadPool, bounded: bool, /, **settings: Any) -> None:
        super().__init__(**settings)
        self._threads = threads
        self._prepare = partial(prepare, threads=threads, bounded=bounded)

    async def _get_session(self, proxy_url: str | None) -> Any:
        known = proxy_url in self._sessions
        session: Any = await super()._get_session(proxy_url)
        if not known:
            self._prepare(session)
        return session

    async def send(self, request: Any) -> Any:
        """Botocore follows a redirect to another region, by the region's name; without one it would ask without end."""
        answer = await super().send(request)
        if 300 <= answer.status_code < 400 and "x-amz-bucket-region" not in answer.headers:
            raise error_for_status(answer.status_code)
        return answer

    if hasattr(_Session, "_build_ssl_contexts"):  # newer releases, which do so in the application's executor

        async def _create_connector(self, proxy_url: str | None) -> Any:
            ours, proxys = await self._threads.run(partial(self._build_ssl_contexts, proxy_url))
            return _httpsession._ProxySSLTCPConnector(  # noqa: SLF001 -- the connector of the class below
                limit=self._max_pool_connections, ssl=ours, proxy_ssl_context=proxys, **self._connector_args
            )


class S3Backend(ObjectStore[tuple[Any, dict[str, dict[str, Any]]]]):
    """One client of its own, opened at the first call and closed with the store. A version is the ETag.

    Reads, writes and deletes are one request each, conditions stand in `If-None-Match` and `If-Match`. A stat is one,
    or two where the answer has no body that says why: of a missing document.
    """

    capabilities: Capabilities = replace(ObjectStore.capabilities, sorted=True)
    _failures = (ClientError, BotoCoreError, aiohttp.ClientError, ResponseParserError)

    async def _open(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        return await self._apart(self._make)

    async def _shut(self, client: tuple[Any, dict[str, dict[str, Any]]], /) -> None:
        await client[0].close()

    def _make(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The client and the options that go with each operation, in a thread: botocore reads models from the disk."""
        given = table(self._options, "config_kwargs")
        requests = partial(_Requests, self._threads, "max_pool_connections" in given)
        config = {**given, "retries": {"total_max_attempts": 1}, "http_session_cls": requests}
        fs: Any = S3FileSystem(**{**self._options, "config_kwargs": config}, **INSTANCE)
        client = asyncio.run(fs.set_session())
        if "session" not in self._options:  # whose owner may count on its parser
            # A date that no calendar has would take a whole page of a listing with it.
            parsers = fs.session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=partial(moment_of, parse=parse_timestamp))
        for name in _LISTINGS:
            client.meta.events.register(f"before-parse.s3.{name}", _check_listing)
        given = {**fs.s3_additional_kwargs, **fs.req_kw}
        taken = {name: client.meta.service_model.operation_model(name).input_shape.members for name in OPERATIONS}
        extra = {name: {key: given[key] for key in given if key in taken[name]} for name in OPERATIONS}
        return client, extra

    def _error(self, error: Any, mode: WriteMode | None, /) -> AccountStoreError:
        what = type(error).__name__
        if isinstance(error, ResponseParserError):
            return UnavailableError("the answer is not the server's (no XML)", sent=has_left())
        if isinstance(error, _WITHOUT_CREDENTIALS):
            return DeniedError(f"no credentials were found ({what})")
        if isinstance(error, ClientError):
            status, code = _answer(error)
            if error.operation_name not in _ASKED and status < 500:  # of the service that gives credentials
                return DeniedError(f"no credentials were found ({what})")
            return page_error(status) if is_page_error(status, code) else error_for_status(status, code, mode)
        if not isinstance(error, _UNREACHED):
            return BackendError(f"the request could not be made ({what})")
        return unanswered(error)

    def _is_stale(self, error: Any, /) -> bool:
        given = self._options.keys() & {"key", "username", "session"} or "aws_access_key_id" in table(
            self._options, "client_kwargs"
        )
        return not given and isinstance(error, ClientError) and is_stale(*_answer(error))

    def _at(self, key: str, /) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @on_asyncio
    async def read(self, key: str, /, *, limit: int) -> Blob:
        async with self._client() as (client, extra):
            answer = await client.get_object(**self._at(key), **extra["GetObject"])
            async with answer["Body"] as body:
                told = answer.get("ContentLength")  # None: of a body in chunks
                check_size(told or 0, limit)
                answered: BoundedAnswer = getattr(body, "raw_stream", body)  # newer releases have it within
                data = await answered.first(limit)
        check_size(len(data), limit)
        return whole_blob(data, _stat(key, answer, len(data) if told is None else int(told)))

    @on_asyncio
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        condition = _CONDITIONS[mode] if isinstance(mode, str) else {"IfMatch": mode.token}
        async with self._client(mode) as (client, extra):
            options: dict[str, Any] = {**extra["PutObject"], **condition}
            if write_token:
                options["Metadata"] = {**options.get("Metadata", {}), WRITE_TOKEN: write_token}
            answer = await client.put_object(**self._at(key), Body=data, **options)
        return Stat(key, len(data), written(answer.get("ETag")), None)

    async def _head(self, key: str, /) -> Stat:
        async with self._client() as (client, extra):
            try:
                answer = await client.head_object(**self._at(key), **extra["HeadObject"])
            except ClientError as error:
                status, code = _answer(error)
                if not (code.isdecimal() or code == PAGE) or status not in {400, 401, 403, 404}:
                    raise
                answer = await self._get_instead(key, client, extra, error)
        return _stat(key, answer, size_of(answer.get("ContentLength")))

    async def _get_instead(self, key: str, client: Any, extra: Mapping[str, Any], error: ClientError, /) -> Any:
        """The answer to a read in place of a HEAD's, which has no body that says whether the document is missing, or
        the bucket, or the credentials have ended.
        """
        try:
            answer = await client.get_object(**self._at(key), **extra["GetObject"])
        except ClientError as reason:
            if (_answer(error)[0], _answer(reason)[0]) == (404, 403):  # keys that may only ask
                raise error from None
            raise
        answer["Body"].close()
        return answer

    async def _delete(self, key: str, version: Version | None, /) -> None:
        condition = {} if version is None else {"IfMatch": version.token}
        async with self._client(version) as (client, extra):
            answer = await client.delete_object(**self._at(key), **condition, **extra["DeleteObject"])
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and _is_page(answer):  # a service says 204
                raise page_error(200)

    async def _page(self, start: str, recursive: bool, cursor: str | None, /) -> tuple[list[Stat], str | None]:
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": start}
        if not recursive:
            where["Delimiter"] = "/"
        if cursor:
            where["ContinuationToken"] = cursor
        async with self._client() as (client, extra):
            answer = await client.list_objects_v2(**where, **extra["ListObjectsV2"])
            found = [
                Stat(
                    entry["Key"][len(self._prefix) :],
                    int(entry["Size"]),
                    Version(entry["ETag"]) if entry.get("ETag") else None,
                    as_utc(entry.get("LastModified")),
                )
                for entry in answer.get("Contents", ())
            ]
            found += [folder(entry["Prefix"][len(self._prefix) :]) for entry in answer.get("CommonPrefixes", ())]
        # A server that does not know this kind of listing may give the mark of the older one.
        return found, answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else None

    @on_asyncio
    async def versions(self, key: str, /) -> list[VersionInfo]:
        return await all_versions(partial(self._versions, key))

    async def _versions(self, key: str, cursor: str | None, /) -> VersionsPage:
        """Versions of a document: they come before those of longer keys."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + key}
        if cursor:
            where |= {"KeyMarker": self._prefix + key, "VersionIdMarker": cursor}
        async with self._client() as (client, extra):
            answer = await client.list_object_versions(**where, **extra["ListObjectVersions"])
            found = [
                VersionInfo(
                    entry["VersionId"] if entry.get("VersionId", "null") != "null" else None,  # of a bucket without any
                    Version(entry["ETag"]) if entry.get("ETag") else None,
                    int(entry["Size"]),
                    as_utc(entry.get("LastModified")),
                    current=bool(entry["IsLatest"]),
                )
                for entry in answer.get("Versions", ())
                if entry["Key"] == self._prefix + key
            ]
        if not answer.get("IsTruncated"):
            return found, None
        if not answer.get("NextKeyMarker"):
            raise cut_off()
        return found, answer.get("NextVersionIdMarker") if answer["NextKeyMarker"] == self._prefix + key else None

    @on_asyncio
    async def versioned(self) -> bool | None:
        with suppress(BackendError):
            async with self._client() as (client, _):
                return bool((await client.get_bucket_versioning(Bucket=self._bucket)).get("Status"))
        return None


def _check_listing(operation_model: Any, response_dict: Mapping[str, Any], **_: object) -> None:
    """Raise `UnavailableError` for what a proxy may have put in a listing's place, and would pass for an empty one."""
    found = _ROOT.match(response_dict["body"])
    if response_dict["status_code"] < 300 and (not found or found[1] != _LISTINGS[operation_model.name]):
        raise UnavailableError("the answer is not the server's (no listing)")


def _answer(error: ClientError, /) -> tuple[int, str]:
    """The status of an answer that is an error, and its code."""
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    if (not code or code.isdecimal()) and _is_page(answer):
        code = PAGE
    return int(answer["ResponseMetadata"]["HTTPStatusCode"]), code


def _is_page(answer: Mapping[str, Any], /) -> bool:
    """Whether an answer is a web page, by its type: the client keeps no body that is not S3's."""
    return str(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("content-type", "")).startswith("text/html")


def _stat(key: str, answer: Mapping[str, Any], size: int, /) -> Stat:
    token: str | None = answer.get("Metadata", {}).get(WRITE_TOKEN)
    return Stat(key, size, version_of(answer.get("ETag")), as_utc(answer.get("LastModified")), token)


async def open_backend(url: str, options: Mapping[str, object], /) -> S3Backend:
    """A storage in a bucket. Options are those of `s3fs.S3FileSystem`; its client connects at the first call.

    Raises:
        ConfigError: an option is not known or has a wrong value, or the URL names no bucket.
    """
    bucket, prefix = split_url(url)
    await checked_apart(partial(check_s3, bucket, options))
    return S3Backend(options, bucket, prefix, S3FileSystem)
