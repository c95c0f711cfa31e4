"""The cloud stub does what it says, seen by the clients of the three services below the store and by plain HTTP."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import pytest
from cloudstub import COMMAND, Stub
from cloudtargets import BUCKET, Target, backend_of, on_asyncio, on_each_target
from doubles import drained, result
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.anyio, pytest.mark.once]

SERVICES = ["s3", "gcs", "azure"]
ODD = {
    "a b+c%20d.txt": b"",
    "\"quoted\" & 'so' <tag>.txt": b"x",
    "mail/ünï/😀.account": b"x" * 300_000,
    "x=1;y?z#w,v@u:t": bytes(range(256)) + b"\r\n--==0==\n",
    "tilde~(1)[2]{3}!$*|^`": b"\n",
}


@on_each_target
@on_asyncio
async def test_conditions_are_those_of_the_service(stub: Stub, target: Target) -> None:
    """A create refuses an existing object, a swap or delete one with another tag and an absent one, each with the
    status of the real service; a plain delete takes the one object that it names.
    """
    backend = await backend_of(target, stub)
    first = (await backend.write("k", b"one", mode="create")).version
    await result(backend.write("k", b"two", mode="create"))
    assert first is not None
    second = (await backend.write("k", b"two", mode=first)).version
    assert second != first
    for call in (
        backend.write("k", b"three", mode=first),
        backend.write("gone", b"one", mode=first),
        backend.delete("k", version=first),
        backend.delete("gone", version=first),
        backend.delete("gone"),
    ):
        await result(call)
    assert stub.get(target.service, BUCKET, "p/k") == b"two"
    await backend.delete("k", version=second)
    assert stub.get(target.service, BUCKET, "p/k") is None
    await backend.aclose()
    done, exists, absent, deleted = {"s3": (200, 412, 404, 204), "gcs": (200, 412, 412, 204)}.get(
        target.service, (201, 409, 412, 202)
    )
    nothing = deleted if target.name in {"s3-fsspec", "s3-obstore", "azure-obstore"} else 404
    assert [(one["op"], one["status"]) for one in stub.log() if one["op"] != "head"] == [
        *[("create", done), ("create", exists), ("swap", done), ("swap", 412), ("swap", absent)],
        *[("delete-if", 412), ("delete-if", 404), ("delete", nothing), ("delete-if", deleted)],
    ]


@on_each_target
@on_asyncio
async def test_a_listing_has_what_is_below_its_prefix(stub: Stub, target: Target) -> None:
    """Nothing beside the prefix is listed; with a delimiter what is deeper than one level is a folder."""
    for key in ("m/a", "m/b/1", "m/b/2", "m/c/d/3", "m", "mailbox", "n/1"):
        stub.put(target.service, BUCKET, f"p/{key}", b"x")
    backend = await backend_of(target, stub)
    for recursive, expected in ((True, ["m/a", "m/b/1", "m/b/2", "m/c/d/3"]), (False, ["m/a", "m/b/", "m/c/"])):
        found = await drained(backend.scan("m", recursive=recursive))
        assert sorted(stat.key for page in found for stat in page) == expected
    await backend.aclose()


def test_pages_with_a_delimiter_lose_and_repeat_nothing(stub: Stub) -> None:
    """Small pages of objects and common prefixes continue behind a whole prefix."""
    for key in ("a/1", "a/2", "b", "c/1", "c/2", "d", "e/1"):
        stub.put("s3", BUCKET, key, b"x")
    names, token = list[str](), ""
    for _ in range(5):
        said = _http(stub, "GET", f"/{BUCKET}?list-type=2&delimiter=/&max-keys=1{token}")[2].decode()
        names += re.findall("(?:<Key>|s><Prefix>)(.*?)<", said)
        token = "&continuation-token=" + quote("".join(re.findall("NextContinuationToken>(.*?)<", said)))
    assert names == ["a/", "b", "c/", "d", "e/"]
    assert token == "&continuation-token="


@on_each_target
@on_asyncio
async def test_odd_names_bytes_and_metadata_survive(stub: Stub, target: Target) -> None:
    """Any name and any bytes come back, by get and by listing, and metadata with them unless it is dropped."""
    backend = await backend_of(target, stub)
    for name, data in ODD.items():
        version = (await backend.write(name, data, mode="overwrite", write_token="me")).version
        read = await backend.read(name, limit=10**6)
        assert (read.data, read.stat.version) == (data, version)
        assert (await backend.stat(name)).write_token == "me"
        assert stub.get(target.service, BUCKET, f"p/{name}") == data
    found = await drained(backend.scan("", recursive=True))
    assert sorted(stat.key for page in found for stat in page) == sorted(ODD)
    stub.mode(drop_metadata=True)
    await backend.write("k", b"x", mode="overwrite", write_token="me")
    assert (await backend.stat("k")).write_token is None
    await backend.aclose()


AZURE_PUT = {"x-ms-blob-type": "BlockBlob"}


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "said"),
    [
        ("GET /badkeys/k", {}, 403, "<Code>InvalidAccessKeyId<"),
        ("GET /badkeys-signature/k", {}, 403, "<Code>SignatureDoesNotMatch<"),
        ("GET /storage/v1/b/badkeys/o/k", {}, 401, '"reason": "authError"'),
        ("GET /devstoreaccount1/badkeys/k", {}, 403, "x-ms-error-code: AuthenticationFailed"),
        ("GET /elsewhere/k", {}, 301, "(?s)x-amz-bucket-region: eu-west-1\n.*PermanentRedirect"),
        ("HEAD /elsewhere/k", {}, 400, "x-amz-bucket-region: eu-west-1"),
        ("PUT /b/k", {"If-None-Match": "*"}, 412, "<Code>PreconditionFailed<"),
        ("PUT /devstoreaccount1/b/k", {**AZURE_PUT, "If-None-Match": "*"}, 409, "x-ms-error-code: BlobAlreadyExists"),
        ("HEAD /devstoreaccount1/b/none", {}, 404, "x-ms-error-code: BlobNotFound"),
        ("POST /upload/storage/v1/b/b/o?name=k&ifGenerationMatch=0", {}, 412, '"reason": "conditionNotMet"'),
        ("PUT /versioned/k", {}, 200, "x-amz-version-id"),
        ("PUT /plain/k", {}, 200, r"(?s)\A(?!.*x-amz-version-id)"),
        ("PUT /devstoreaccount1/versioned/k", AZURE_PUT, 201, "x-ms-version-id"),
        ("GET /versioned?versioning", {}, 200, "<Status>Enabled</Status>"),
        ("GET /plain?versioning", {}, 200, r"(?s)\A(?!.*Status)"),
        ("GET /storage/v1/b/plain", {}, 200, '"versioning": {"enabled": false}'),
        ("HEAD /plain", {}, 200, ""),
        ("GET /b/k", {"Range": "bytes=2-4"}, 206, "(?s)Content-Range: bytes 2-4/10\n.*\n234$"),
        ("GET /b/k", {"Range": "bytes=-3"}, 206, "\n789$"),
        ("GET /b/k", {"Range": "bytes=10-"}, 416, ""),
        ("GET /b/empty", {"Range": "bytes=0-5"}, 416, ""),
    ],
)
def test_an_answer_is_that_of_the_service(
    stub: Stub, request_line: str, headers: dict[str, str], status: int, said: str
) -> None:
    """Refusals, versions and ranges are told by the statuses, headers and codes that clients read."""
    for service in SERVICES:
        stub.put(service, "b", "k", b"0123456789")
        stub.put(service, "b", "empty", b"")
    method, path = request_line.split()
    got, told, body = _http(stub, method, path, b"y" if method in {"PUT", "POST"} else None, headers)
    assert got == status
    assert re.search(said, "".join(f"{name}: {value}\n" for name, value in told.items()) + f"\n{body.decode()}")


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
    timeout: float = HUNG,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own; a plain path is S3's unless a header says otherwise."""
    with closing(http.client.HTTPConnection("127.0.0.1", stub.port, timeout=timeout)) as connection:
        connection.request(method, path, body, {"x-amz-date": "1", **(headers or {})})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def _put(stub: Stub, service: str, timeout: float = HUNG) -> tuple[int, dict[str, str], bytes]:
    """Write b"new" to the key of the service, by plain HTTP."""
    method, path = {
        "s3": ("PUT", "/b/k"),
        "gcs": ("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=k"),
        "azure": ("PUT", "/devstoreaccount1/b/k"),
    }[service]
    return _http(stub, method, path, b"new", AZURE_PUT if service == "azure" else {}, timeout)


def _until(reached: Callable[[], bool]) -> None:
    """Wait for what the server does by and by."""
    end = time.monotonic() + HUNG
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def _unanswered(stub: Stub, service: str) -> None:
    """Write to a server that does not answer, and go away when it has the request."""
    before = stub.count()
    with pytest.raises(TimeoutError):
        _put(stub, service, 0.1)
    _until(lambda: stub.count() > before)


@pytest.mark.parametrize("service", SERVICES)
class TestFaults:
    """Each fault once, by plain HTTP on each service."""

    @pytest.mark.parametrize("kind", ["drop-before", "drop-after", "hang", "hang-after"])
    def test_no_answer(self, stub: Stub, service: str, kind: str) -> None:
        """The connection is closed without an answer, or stays open without one, before or after the write."""
        stub.faults([{"nth": 1, "kind": kind}])
        if kind.startswith("hang"):
            _unanswered(stub, service)
        else:
            with pytest.raises(ConnectionError):
                _put(stub, service)
        assert stub.get(service, "b", "k") == (b"new" if kind.endswith("-after") else None)
        assert (stub.log()[-1]["status"], stub.log()[-1]["fault"]) == (None, kind)

    @pytest.mark.parametrize(
        "kind", ["403", "409", "412", "429", "500", "503", "409-after", "412-after", "500-after", "503-after"]
    )
    def test_refusal(self, stub: Stub, service: str, kind: str) -> None:
        """The service refuses in its own format, and writes nothing or did write before."""
        stub.faults([{"nth": 1, "kind": kind}])
        status, headers, body = _put(stub, service)
        assert status == int(kind[:3])
        if service == "gcs":
            assert json.loads(body)["error"]["code"] == status
        else:
            assert b"<Error><Code>" in body
        assert ("x-ms-error-code" in headers) is (service == "azure")
        assert stub.get(service, "b", "k") == (b"new" if kind.endswith("-after") else None)

    def test_slow_and_trickle(self, stub: Stub, service: str) -> None:
        """The answer comes late, or in pieces until then."""
        for kind in ("slow", "trickle"):
            stub.faults([{"nth": 1, "kind": kind, "seconds": 0.3}])
            start = time.monotonic()
            assert _put(stub, service)[0] < 300
            assert time.monotonic() - start > 0.25

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


@on_each_target
@on_asyncio
async def test_a_server_may_ignore_conditions(stub: Stub, target: Target) -> None:
    """In that mode every create succeeds, as on servers that know no preconditions."""
    stub.mode(ignore_conditions=True)
    backend = await backend_of(target, stub)
    for data in (b"one", b"two"):
        await backend.write("k", data, mode="create")
    await backend.aclose()
    assert stub.get(target.service, BUCKET, "p/k") == b"two"


@on_asyncio
async def test_a_delay_holds_no_other_request_up(stub: Stub) -> None:
    """Many requests with the same delay are all there before the first is answered, which is not before its time."""
    stub.mode(delay=HUNG)
    backend = await backend_of(Target("s3", "fsspec"), stub)
    answered: list[str] = []

    async def write(key: str) -> None:
        await backend.write(key, b"x", mode="overwrite")
        answered.append(key)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(write, f"k{number}")
        while stub.count() < 10:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert not answered
    stub.mode(delay=0.3)
    start = time.monotonic()
    await write("last")
    assert time.monotonic() - start >= 0.3
    await backend.aclose()


def test_counts_log_reset_and_connections() -> None:
    """Every request counts once; the log can be off; a reset forgets all, objects too unless told to keep them."""
    with Stub() as stub:  # of its own, where no client of another test has a connection
        before = stub.connections()["accepted"]
        for _ in range(3):
            _put(stub, "s3")
        assert stub.connections()["accepted"] == before + 3
        with socket.create_connection(("127.0.0.1", stub.port), timeout=HUNG):
            _until(lambda: stub.connections()["open"] == 2)
        _until(lambda: stub.connections()["open"] == 1)
        assert stub.count() == len(stub.log()) == 3
        assert stub.log()[0] == {
            "n": 1, "method": "PUT", "service": "s3", "op": "put", "bucket": "b", "key": "k",
            "status": 200, "fault": None,
        }  # fmt: skip
        stub.mode(log=False)
        _put(stub, "s3")
        assert (stub.count(), len(stub.log())) == (4, 3)
        stub.reset(keep=True)
        assert (stub.count(), stub.log(), stub.get("s3", "b", "k")) == (0, [], b"new")
        stub.reset()
        assert stub.get("s3", "b", "k") is None


def test_the_server_ends_with_its_input() -> None:
    """The script exits with 0 and says nothing more."""
    done = subprocess.run(COMMAND, input=b"", capture_output=True, check=True, timeout=HUNG)
    assert json.loads(done.stdout)["port"] > 0
    assert done.stderr == b""
