"""The cloud stub does what it says, seen by the real clients of the three services and by plain HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from cloudstub import COMMAND
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from cloudstub import Stub

pytestmark = pytest.mark.once

SERVICES = ["s3", "gcs", "azure"]
# Azurite's published key: the stub verifies no signature, the clients want one to sign with.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoMGGw=="
ODD_NAMES = [
    "a b+c%20d.txt",
    "\"quoted\" & 'so' <tag>.txt",
    "mail/ünï/😀.account",
    "x=1;y?z#w,v@u:t",
    "tilde~(1)[2]{3}!$*|^`",
]


class BotocoreClient:
    """S3 through aiobotocore, without retries."""

    service = "s3"

    @asynccontextmanager
    async def open(self, stub: Stub, bucket: str = "acct") -> AsyncGenerator[BotocoreClient]:
        session = pytest.importorskip("aiobotocore.session").get_session()
        config = pytest.importorskip("aiobotocore.config").AioConfig(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=HUNG
        )
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "testtest", "region_name": "us-east-1"}
        async with session.create_client("s3", endpoint_url=stub.url, config=config, **keys) as self.client:
            self.bucket = bucket
            yield self

    async def put(self, key: str, data: bytes, tag: str | None = None, *, create: bool = False) -> str:
        conditions = {"IfNoneMatch": "*"} if create else {"IfMatch": tag} if tag else {}
        said = await self.client.put_object(
            Bucket=self.bucket, Key=key, Body=data, Metadata={"owner": "me"}, **conditions
        )
        return str(said["ETag"])

    async def get(self, key: str) -> tuple[bytes, str, dict[str, str]]:
        said = await self.client.get_object(Bucket=self.bucket, Key=key)
        async with said["Body"] as body:
            return await body.read(), said["ETag"], said["Metadata"]

    async def delete(self, key: str, tag: str | None = None) -> None:
        await self.client.delete_object(Bucket=self.bucket, Key=key, **({"IfMatch": tag} if tag else {}))

    async def names(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [one["Key"] async for page in pages for one in page.get("Contents", [])]

    async def tree(self, prefix: str) -> tuple[list[str], list[str]]:
        said = await self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
        return [one["Key"] for one in said["Contents"]], [one["Prefix"] for one in said["CommonPrefixes"]]


class GcsfsClient:
    """Google's JSON API through gcsfs; conditions go through its own request method."""

    service = "gcs"

    @asynccontextmanager
    async def open(self, stub: Stub, bucket: str = "acct") -> AsyncGenerator[GcsfsClient]:
        core = pytest.importorskip("gcsfs.core")
        self.bucket = bucket
        self.fs = core.GCSFileSystem(
            project="p", token="anon", endpoint_url=stub.url, asynchronous=True, skip_instance_cache=True
        )
        session = await self.fs._set_session()
        try:
            yield self
        finally:
            await session.close()

    async def put(self, key: str, data: bytes, tag: str | None = None, *, create: bool = False) -> str:
        metadata = json.dumps({"name": key, "metadata": {"owner": "me"}}).encode()
        head = b"--==0==\nContent-Type: application/json\n\n%b\n--==0==\nContent-Type: text/plain\n\n" % metadata
        said = await self.fs._call(
            "POST",
            f"{self.fs._location}/upload/storage/v1/b/{self.bucket}/o",
            uploadType="multipart",
            ifGenerationMatch="0" if create else tag,
            headers={"Content-Type": 'multipart/related; boundary="==0=="'},
            data=head + data + b"\n--==0==--",
            json_out=True,
        )
        return str(said["generation"])

    async def get(self, key: str) -> tuple[bytes, str, dict[str, str]]:
        headers, data = await self.fs._call("GET", self.fs.url(f"{self.bucket}/{key}"))
        return bytes(data), headers["x-goog-generation"], {"owner": headers.get("x-goog-meta-owner", "")}

    async def delete(self, key: str, tag: str | None = None) -> None:
        await self.fs._call("DELETE", "b/{}/o/{}", self.bucket, key, ifGenerationMatch=tag)

    async def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(f"{self.bucket}/") for name in await self.fs._find(f"{self.bucket}/{prefix}")]

    async def tree(self, prefix: str) -> tuple[list[str], list[str]]:
        found = await self.fs._ls(f"{self.bucket}/{prefix}", detail=True)
        names = [(one["name"].removeprefix(f"{self.bucket}/").rstrip("/"), one["type"]) for one in found]
        return [n for n, kind in names if kind == "file"], [f"{n}/" for n, kind in names if kind == "directory"]


class AzureClient:
    """Azure through azure-storage-blob, without retries."""

    service = "azure"

    @asynccontextmanager
    async def open(self, stub: Stub, bucket: str = "acct") -> AsyncGenerator[AzureClient]:
        blob = pytest.importorskip("azure.storage.blob.aio")
        account = f"{stub.url}/devstoreaccount1"
        async with blob.BlobServiceClient(account, AZURE_KEY, retry_total=0) as service:
            self.client = service.get_container_client(bucket)
            yield self

    @staticmethod
    def _condition(tag: str | None) -> dict[str, Any]:
        same = pytest.importorskip("azure.core").MatchConditions.IfNotModified
        return {"etag": tag, "match_condition": same} if tag else {}

    async def put(self, key: str, data: bytes, tag: str | None = None, *, create: bool = False) -> str:
        blob = self.client.get_blob_client(key)
        condition = self._condition(tag)
        said = await blob.upload_blob(data, overwrite=not create, metadata={"owner": "me"}, **condition)
        return str(said["etag"])

    async def get(self, key: str) -> tuple[bytes, str, dict[str, str]]:
        stream = await self.client.get_blob_client(key).download_blob()
        return await stream.readall(), stream.properties.etag, stream.properties.metadata

    async def delete(self, key: str, tag: str | None = None) -> None:
        await self.client.get_blob_client(key).delete_blob(**self._condition(tag))

    async def names(self, prefix: str) -> list[str]:
        return [str(name) async for name in self.client.list_blob_names(name_starts_with=prefix)]

    async def tree(self, prefix: str) -> tuple[list[str], list[str]]:
        found = [one.name async for one in self.client.walk_blobs(name_starts_with=prefix)]
        return [name for name in found if name[-1] != "/"], [name for name in found if name[-1] == "/"]


class ObstoreClient:
    """A service through obstore; a tag is what its put or get says, for GCS the generation."""

    def __init__(self, service: str) -> None:
        self.service = service

    @asynccontextmanager
    async def open(self, stub: Stub, bucket: str = "acct") -> AsyncGenerator[ObstoreClient]:
        stores = pytest.importorskip("obstore.store")
        options: dict[str, Any] = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
        if self.service == "s3":
            keys = {"access_key_id": "test", "secret_access_key": "testtest", "region": "us-east-1"}
            self.store = stores.S3Store(
                bucket, endpoint=stub.url, virtual_hosted_style_request=False, **keys, **options
            )
        elif self.service == "gcs":
            account = {"gcs_base_url": stub.url, "disable_oauth": True, "client_email": ""}
            key = json.dumps({**account, "private_key": "", "private_key_id": ""})
            self.store = stores.GCSStore(bucket, service_account_key=key, **options)
        else:
            where = {"account_name": "devstoreaccount1", "endpoint": f"{stub.url}/devstoreaccount1"}
            self.store = stores.AzureStore(bucket, access_key=AZURE_KEY, **where, **options)
        yield self

    def _tag(self, said: Any) -> str:
        return str(said["version"] if self.service == "gcs" else said["e_tag"])

    async def put(self, key: str, data: bytes, tag: str | None = None, *, create: bool = False) -> str:
        mode = "create" if create else {"e_tag": tag, "version": tag} if tag else "overwrite"
        return self._tag(await self.store.put_async(key, data, mode=mode, attributes={"owner": "me"}))

    async def get(self, key: str) -> tuple[bytes, str, dict[str, str]]:
        said = await self.store.get_async(key)
        return bytes(await said.bytes_async()), self._tag(said.meta), {"owner": said.attributes.get("owner", "")}

    async def delete(self, key: str) -> None:
        await self.store.delete_async(key)

    async def names(self, prefix: str) -> list[str]:
        return [one["path"] for one in await self.store.list(prefix or None).collect_async()]

    async def tree(self, prefix: str) -> tuple[list[str], list[str]]:
        said = await self.store.list_with_delimiter_async(prefix)
        return [one["path"] for one in said["objects"]], [f"{name}/" for name in said["common_prefixes"]]


CLIENTS: dict[str, Callable[[], Any]] = {
    "aiobotocore": BotocoreClient,
    "gcsfs": GcsfsClient,
    "azure-storage-blob": AzureClient,
    **{f"obstore-{name}": partial(ObstoreClient, name) for name in SERVICES},
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    """Each test with a client runs with all of them."""
    return CLIENTS[request.param]()


async def _refused(stub: Stub, call: Any) -> int | None:
    """The status that made a call fail."""
    with pytest.raises(Exception) as caught:
        await call
    assert not isinstance(caught.value, AssertionError | TypeError), repr(caught.value)
    status: int | None = stub.log()[-1]["status"]
    return status


def test_create_and_swap_have_exactly_the_conditions_of_the_service(stub: Stub, client: Any) -> None:
    """Create refuses an existing object, swap one with another tag and an absent one, as the real services do."""
    exists, absent = {"s3": (412, 404), "gcs": (412, 412), "azure": (409, 412)}[client.service]

    async def main() -> None:
        async with client.open(stub) as c:
            first = await c.put("k", b"one", create=True)
            assert await _refused(stub, c.put("k", b"two", create=True)) == exists
            second = await c.put("k", b"two", first)
            assert second != first
            assert await _refused(stub, c.put("k", b"three", first)) == 412
            assert await _refused(stub, c.put("gone", b"one", first)) == absent
            assert (await c.get("k"))[:2] == (b"two", second)
        assert [one["op"] for one in stub.log()] == ["create", "create", "swap", "swap", "swap", "get"]

    asyncio.run(main())


@pytest.mark.parametrize("native", [BotocoreClient, GcsfsClient, AzureClient])
def test_delete_has_exactly_the_conditions_of_the_service(stub: Stub, native: Callable[[], Any]) -> None:
    """A conditional delete refuses another tag; deleting an absent object is fine on S3 alone."""

    async def main() -> None:
        async with native().open(stub) as c:
            stale = await c.put("k", b"one")
            await c.put("k", b"two")
            await c.delete("plain") if c.service == "s3" else await _refused(stub, c.delete("plain"))
            assert stub.log()[-1]["op"] == "delete"
            assert await _refused(stub, c.delete("k", stale)) == 412
            assert await _refused(stub, c.delete("absent", stale)) == 404
            await c.delete("k", (await c.get("k"))[1])
            assert stub.get(c.service, "acct", "k") is None
            assert await _refused(stub, c.get("k")) == 404

    asyncio.run(main())


def test_a_deleted_object_is_gone(stub: Stub, client: Any) -> None:
    """A plain delete takes the one object that it names, also through a batch request."""

    async def main() -> None:
        async with client.open(stub) as c:
            for key in ("d/a b&c", "d/other"):
                await c.put(key, b"x")
            await c.delete("d/a b&c")
            assert await c.names("d/") == ["d/other"]
        assert (stub.log()[-2]["op"], stub.log()[-2]["key"]) == ("delete", "d/a b&c")

    asyncio.run(main())


def test_a_listing_has_pages(stub: Stub, client: Any) -> None:
    """2,500 objects come in pages of 1,000 (Azure: 5,000), each once, in order, and nothing beside the prefix."""
    expected = [f"mail/{number:04}.account" for number in range(2500)]
    for key in [*expected, "mail", "mailbox", "other/1"]:
        stub.put(client.service, "acct", key, b"x")

    async def main() -> None:
        async with client.open(stub) as c:
            assert await c.names("mail/") == expected
            lists = [one for one in stub.log() if one["op"] == "list"]
            assert len(lists) == {"s3": 3, "gcs": 3, "azure": 1}[c.service]

    asyncio.run(main())


def test_a_listing_with_a_delimiter_rolls_up(stub: Stub, client: Any) -> None:
    """What is deeper than one level shows as one common prefix."""
    for key in ("m/a", "m/b/1", "m/b/2", "m/c/d/3", "n"):
        stub.put(client.service, "acct", key, b"x")

    async def main() -> None:
        async with client.open(stub) as c:
            assert await c.tree("m/") == (["m/a"], ["m/b/", "m/c/"])

    asyncio.run(main())


def test_pages_with_a_delimiter_lose_and_repeat_nothing(stub: Stub) -> None:
    """Small pages of objects and common prefixes continue behind a whole prefix."""
    for key in ("a/1", "a/2", "b", "c/1", "c/2", "d", "e/1"):
        stub.put("s3", "acct", key, b"x")
    names, token = list[str](), ""
    for _ in range(10):
        said = _http(stub, "GET", f"/acct?list-type=2&delimiter=/&max-keys=1{token}")[2].decode()
        names += [
            part.partition("<")[0] for part in said.replace("<Key>", "\0").replace("s><Prefix>", "\0").split("\0")[1:]
        ]
        if "NextContinuationToken" not in said:
            break
        token = "&continuation-token=" + quote(said.split("NextContinuationToken>")[1][:-2])
    assert names == ["a/", "b", "c/", "d", "e/"]


def test_odd_names_bytes_and_metadata_survive(stub: Stub, client: Any) -> None:
    """Any name and any bytes come back, by get and by listing, and user metadata with them."""

    async def main() -> None:
        async with client.open(stub) as c:
            for number, name in enumerate(ODD_NAMES):
                data = bytes(range(256)) + b"\r\n--==0==\n" + bytes([number])
                tag = await c.put(name, data)
                assert await c.get(name) == (data, tag, {"owner": "me"})
                assert stub.get(c.service, "acct", name) == data
            assert sorted(await c.names("")) == sorted(ODD_NAMES)
            stub.mode(drop_metadata=True)
            await c.put("k", b"x")
            assert (await c.get("k"))[2].get("owner", "") == ""

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_sizes_survive(stub: Stub, client: Any, size: int) -> None:
    """An empty object and one that comes in many packets are read back whole."""

    async def main() -> None:
        async with client.open(stub) as c:
            tag = await c.put("k", b"x" * size)
            assert (await c.get("k"))[:2] == (b"x" * size, tag)

    asyncio.run(main())


@pytest.mark.parametrize(("bucket", "status"), [("missing-1", 404), ("forbidden-1", 403)])
def test_special_buckets_refuse(stub: Stub, client: Any, bucket: str, status: int) -> None:
    """Missing and forbidden buckets answer as the real ones do."""

    async def main() -> None:
        async with client.open(stub, bucket) as c:
            assert await _refused(stub, c.get("k")) == status
            assert await _refused(stub, c.put("k", b"x")) == status

    asyncio.run(main())
    assert stub.get(client.service, bucket, "k") is None


def test_bad_keys_are_refused(stub: Stub) -> None:
    """Each service has its own way to say that it doesn't know the keys."""
    assert b"<Code>InvalidAccessKeyId<" in _http(stub, "GET", "/badkeys/k")[2]
    assert b"<Code>SignatureDoesNotMatch<" in _http(stub, "GET", "/badkeys-signature/k")[2]
    assert _http(stub, "GET", "/storage/v1/b/badkeys/o/k")[0] == 401
    assert _http(stub, "GET", "/devstoreaccount1/badkeys/k")[1]["x-ms-error-code"] == "AuthenticationFailed"


def test_a_bucket_elsewhere_says_where(stub: Stub) -> None:
    """S3 redirects to the region of the bucket, without a body on HEAD."""
    status, headers, body = _http(stub, "GET", "/elsewhere/k")
    assert (status, headers["x-amz-bucket-region"]) == (301, "eu-west-1")
    assert b"PermanentRedirect" in body
    assert _http(stub, "HEAD", "/elsewhere/k")[0] == 400


def test_the_errors_have_the_codes_that_clients_read(stub: Stub) -> None:
    """S3 names the condition that failed, Azure the code in a header, Google the reason in JSON."""
    for service in SERVICES:
        stub.put(service, "b", "k", b"x")
    status, _, body = _http(stub, "PUT", "/b/k", b"y", {"If-None-Match": "*"})
    assert status == 412
    assert b"<Condition>If-None-Match</Condition>" in body
    azure = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}
    assert _http(stub, "PUT", "/devstoreaccount1/b/k", b"y", azure)[1]["x-ms-error-code"] == "BlobAlreadyExists"
    assert _http(stub, "HEAD", "/devstoreaccount1/b/none")[1]["x-ms-error-code"] == "BlobNotFound"
    body = _http(stub, "POST", "/upload/storage/v1/b/b/o?uploadType=media&name=k&ifGenerationMatch=0", b"y")[2]
    assert json.loads(body)["error"]["errors"][0]["reason"] == "conditionNotMet"


def test_versioned_buckets_say_so(stub: Stub) -> None:
    """A write to a versioned bucket returns a version, and the bucket says that it is versioned."""
    assert "x-amz-version-id" in _http(stub, "PUT", "/versioned/k", b"x")[1]
    assert "x-amz-version-id" not in _http(stub, "PUT", "/plain/k", b"x")[1]
    azure = _http(stub, "PUT", "/devstoreaccount1/versioned/k", b"x", {"x-ms-blob-type": "BlockBlob"})
    assert "x-ms-version-id" in azure[1]
    assert b"<Status>Enabled</Status>" in _http(stub, "GET", "/versioned?versioning")[2]
    assert b"Status" not in _http(stub, "GET", "/plain?versioning")[2]
    assert json.loads(_http(stub, "GET", "/storage/v1/b/plain")[2])["versioning"] == {"enabled": False}
    assert _http(stub, "HEAD", "/plain")[0] == 200


def test_ranges(stub: Stub) -> None:
    """A range is a 206 with its part; one of an empty object or behind the end is a 416."""
    for key, data in (("k", b"0123456789"), ("empty", b"")):
        stub.put("s3", "b", key, data)
    status, headers, body = _http(stub, "GET", "/b/k", headers={"Range": "bytes=2-4"})
    assert (status, headers["Content-Range"], body) == (206, "bytes 2-4/10", b"234")
    assert _http(stub, "GET", "/b/k", headers={"Range": "bytes=-3"})[2] == b"789"
    assert _http(stub, "GET", "/b/k", headers={"Range": "bytes=10-"})[0] == 416
    assert _http(stub, "GET", "/b/empty", headers={"Range": "bytes=0-5"})[0] == 416


def test_chunked_bodies_and_pipelined_requests_are_read(stub: Stub) -> None:
    """Chunked and aws-chunked bodies are decoded; requests in one packet or byte by byte are answered in order."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n"
    aws = b"3;chunk-signature=00\r\nabc\r\n0;chunk-signature=00\r\nx-amz-checksum-crc32: 00\r\n\r\n"
    put = b"PUT /b/%b HTTP/1.1\r\nHost: x\r\nx-amz-date: 1\r\n%b"
    wire = put % (b"chunked", chunked)
    wire += put % (b"aws", b"Content-Encoding: aws-chunked\r\nContent-Length: %d\r\n\r\n" % len(aws) + aws)
    wire += b"GET /b/aws HTTP/1.1\r\nHost: x\r\nx-amz-date: 1\r\nConnection: close\r\n\r\n"
    for step in (1, len(wire)):
        answer = _raw(stub, *[wire[at : at + step] for at in range(0, len(wire), step)])
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.endswith(b"\r\n\r\nabc")
        assert stub.get("s3", "b", "chunked") == b"abcde"


def test_expect_is_answered_before_the_body(stub: Stub) -> None:
    """A client that expects 100-continue gets it once, before it sends the body."""
    with socket.create_connection(("127.0.0.1", stub.port), timeout=HUNG) as raw:
        raw.sendall(b"PUT /b/k HTTP/1.1\r\nx-amz-date: 1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"bo")
        raw.sendall(b"dy")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert stub.get("s3", "b", "k") == b"body"


def _raw(stub: Stub, *pieces: bytes) -> bytes:
    """Send pieces on a connection of their own and read until the server closes it."""
    with socket.create_connection(("127.0.0.1", stub.port), timeout=HUNG) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            raw.sendall(piece)
        return b"".join(iter(lambda: raw.recv(65536), b""))


def _http(
    stub: Stub,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    timeout: float = HUNG,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own; a plain path is S3's unless a header says otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", stub.port, timeout=timeout)
    try:
        connection.request(method, path, body, {"x-amz-date": "1", **(headers or {})})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def _put(stub: Stub, service: str, *, timeout: float = HUNG) -> tuple[int, dict[str, str], bytes]:
    """Write b"new" to the key of the service, by plain HTTP."""
    path, method, headers = {
        "s3": ("/b/k", "PUT", {}),
        "gcs": ("/upload/storage/v1/b/b/o?uploadType=media&name=k", "POST", {}),
        "azure": ("/devstoreaccount1/b/k", "PUT", {"x-ms-blob-type": "BlockBlob"}),
    }[service]
    return _http(stub, method, path, b"new", headers, timeout=timeout)


def _open(stub: Stub, expected: int) -> int:
    """How many connections are open, with the stub's own, once that is as expected or after a long while."""
    _until(lambda: stub.connections()["open"] == expected)
    return stub.connections()["open"]


def _until(reached: Callable[[], bool]) -> None:
    """Wait for what the server does by and by; whether it was reached is for the caller to see."""
    end = time.monotonic() + HUNG
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)


def _unanswered(stub: Stub, service: str) -> None:
    """Write to a server that does not answer, and go away when it has the request."""
    before = stub.count()
    with pytest.raises(TimeoutError):
        _put(stub, service, timeout=0.1)
    _until(lambda: stub.count() > before)


@pytest.mark.parametrize("service", SERVICES)
class TestFaults:
    """Each fault once, by plain HTTP on each service."""

    @pytest.mark.parametrize(("kind", "applied"), [("drop-before", False), ("drop-after", True)])
    def test_drop(self, stub: Stub, service: str, kind: str, applied: bool) -> None:
        """The connection closes without an answer, before or after the write."""
        stub.faults([{"nth": 1, "kind": kind}])
        with pytest.raises(ConnectionError):
            _put(stub, service)
        assert (stub.get(service, "b", "k") is not None) is applied
        assert (stub.log()[-1]["status"], stub.log()[-1]["fault"]) == (None, kind)

    @pytest.mark.parametrize("status", [403, 409, 412, 429, 500, 503])
    def test_refusal_without_effect(self, stub: Stub, service: str, status: int) -> None:
        """The service refuses in its own format and writes nothing."""
        stub.faults([{"nth": 1, "kind": str(status)}])
        got, headers, body = _put(stub, service)
        assert got == status
        if service == "gcs":
            assert json.loads(body)["error"]["code"] == status
        else:
            assert b"<Error><Code>" in body
        assert ("x-ms-error-code" in headers) is (service == "azure")
        assert stub.get(service, "b", "k") is None

    @pytest.mark.parametrize("status", [409, 412, 500, 503])
    def test_refusal_after_the_effect(self, stub: Stub, service: str, status: int) -> None:
        """The service writes and then refuses."""
        stub.faults([{"nth": 1, "kind": f"{status}-after"}])
        assert _put(stub, service)[0] == status
        assert stub.get(service, "b", "k") == b"new"

    def test_slow_and_trickle(self, stub: Stub, service: str) -> None:
        """The answer comes late, or in pieces until then."""
        for kind in ("slow", "trickle"):
            stub.faults([{"nth": 1, "kind": kind, "seconds": 0.3}])
            start = time.monotonic()
            assert _put(stub, service)[0] < 300
            assert time.monotonic() - start > 0.25

    @pytest.mark.parametrize(("kind", "applied"), [("hang", False), ("hang-after", True)])
    def test_hang(self, stub: Stub, service: str, kind: str, applied: bool) -> None:
        """No answer ever comes and the connection stays open."""
        stub.faults([{"nth": 1, "kind": kind}])
        _unanswered(stub, service)
        assert (stub.get(service, "b", "k") is not None) is applied

    def test_late(self, stub: Stub, service: str) -> None:
        """The write has its effect after the client has gone, when it is told to."""
        stub.faults([{"nth": 1, "kind": "late"}])
        _unanswered(stub, service)
        assert stub.get(service, "b", "k") is None
        assert stub.land() == 1
        assert stub.get(service, "b", "k") == b"new"
        assert stub.land() == 0

    def test_a_rival_writes_before_the_answer(self, stub: Stub, service: str) -> None:
        """A rival's write comes after the effect of the request that it was told, and before its answer; once."""
        for kind in ("drop-after", "drop-before"):
            stub.faults([{"nth": 2, "kind": kind, "times": 2}])
            stub.rival(2, service, "b", "k", b"rival \xff")
            _put(stub, service)
            assert stub.get(service, "b", "k") == b"new"
            with pytest.raises(ConnectionError):
                _put(stub, service)
            assert stub.get(service, "b", "k") == b"rival \xff"
            with pytest.raises(ConnectionError):
                _put(stub, service)
            assert stub.get(service, "b", "k") == (b"new" if kind == "drop-after" else b"rival \xff")


def test_a_reset_forgets_what_was_to_be_late(stub: Stub) -> None:
    """What one test left to be applied late doesn't reach the next."""
    stub.faults([{"nth": 1, "kind": "late"}])
    _unanswered(stub, "s3")
    stub.reset()
    assert stub.land() == 0
    assert stub.get("s3", "b", "k") is None


def test_truncate(stub: Stub) -> None:
    """An answer has half of its body under a whole head; one without a body has half of its head."""
    stub.put("s3", "b", "k", b"x" * 100)
    stub.faults([{"nth": 1, "kind": "truncate", "times": 2}])
    head, _, body = _raw(stub, b"GET /b/k HTTP/1.1\r\nx-amz-date: 1\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 100" in head
    assert body == b"x" * 50
    answer = _raw(stub, b"PUT /b/k HTTP/1.1\r\nx-amz-date: 1\r\nContent-Length: 1\r\n\r\ny")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in answer
    assert stub.get("s3", "b", "k") == b"y"


def test_faults_come_to_the_requests_that_they_name(stub: Stub) -> None:
    """A fault meets the nth request since it was asked for, as often as told; control requests don't count."""
    _put(stub, "s3")
    stub.faults([{"nth": 2, "kind": "503", "times": 2}, {"nth": 5, "kind": "500"}])
    stub.count()
    assert [_put(stub, "s3")[0] for _ in range(6)] == [200, 503, 503, 200, 500, 200]
    assert [one["fault"] for one in stub.log()] == [None, None, "503", "503", None, "500", None]
    with pytest.raises(ValueError, match="no fault 'nonsense'"):
        stub.faults([{"nth": 1, "kind": "nonsense"}])


def test_a_lost_answer_turns_a_success_into_a_conflict(stub: Stub) -> None:
    """A real client that repeats a create whose answer was lost is refused by its own write."""
    s3fs = pytest.importorskip("s3fs")

    async def main() -> None:
        fs = s3fs.S3FileSystem(
            key="test", secret="testtest", endpoint_url=stub.url, asynchronous=True, skip_instance_cache=True
        )
        session = await fs.set_session()
        stub.faults([{"nth": 1, "kind": "503-after"}])
        with pytest.raises(FileExistsError):
            await fs._pipe_file("acct/k", b"x", mode="create")
        await session.close()

    asyncio.run(main())
    assert [one["status"] for one in stub.log()] == [503, 412]


def test_a_server_may_ignore_conditions(stub: Stub, client: Any) -> None:
    """In that mode every create succeeds, as on servers that know no preconditions."""
    stub.mode(ignore_conditions=True)

    async def main() -> None:
        async with client.open(stub) as c:
            await c.put("k", b"one", create=True)
            await c.put("k", b"two", create=True)

    asyncio.run(main())
    assert stub.get(client.service, "acct", "k") == b"two"


def test_a_delay_holds_no_other_request_up(stub: Stub) -> None:
    """Many requests with the same delay are all there before the first is answered, which is not before its time."""

    async def main() -> None:
        async with BotocoreClient().open(stub) as c:
            requests = [asyncio.ensure_future(c.put(f"k{number}", b"x")) for number in range(10)]
            while stub.count() < len(requests):
                await asyncio.sleep(0.01)
            assert not any(request.done() for request in requests)
            for request in requests:
                request.cancel()
            await asyncio.wait(requests)
            stub.mode(delay=0.3)
            start = time.monotonic()
            await c.put("last", b"x")
            assert time.monotonic() - start >= 0.3

    stub.mode(delay=HUNG)
    asyncio.run(main())


def test_counts_log_reset_and_connections(stub: Stub) -> None:
    """Every request counts once; the log can be off; a reset forgets all, objects too unless told to keep them."""
    before = stub.connections()["accepted"]
    for _ in range(3):
        _put(stub, "s3")
    assert stub.connections()["accepted"] == before + 3
    with socket.create_connection(("127.0.0.1", stub.port), timeout=HUNG):
        assert _open(stub, 2) == 2
    assert _open(stub, 1) == 1
    assert stub.count() == len(stub.log()) == 3
    assert stub.log()[0] == {
        "n": 1, "method": "PUT", "service": "s3", "op": "put", "bucket": "b", "key": "k", "status": 200, "fault": None
    }  # fmt: skip
    stub.mode(log=False)
    _put(stub, "s3")
    assert (stub.count(), len(stub.log())) == (4, 3)
    stub.reset(keep=True)
    assert (stub.count(), stub.log(), stub.get("s3", "b", "k")) == (0, [], b"new")
    stub.reset()
    assert stub.get("s3", "b", "k") is None


def test_the_server_ends_with_its_input_and_on_a_signal() -> None:
    """The script exits with 0 and says nothing more, whichever way it is told to end."""
    for end in ("stdin", "signal"):
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["port"] > 0
            process.stdin.close() if end == "stdin" else process.terminate()
            assert process.wait(HUNG) == 0
            assert process.stdout.read() + process.stderr.read() == b""
