"""Answers that are none of an object store's: redirects, pages of a proxy, listings that end too early or never."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from cloudtargets import AT, BUCKET, CALLS, NEW, OLD, Target, by_fsspec, on_asyncio, on_each_target

from accountstore import (
    AccountStore,
    AccountStoreError,
    BackendError,
    DeniedError,
    Folder,
    Location,
    UnavailableError,
    UncertainError,
)
from accountstore.backends.answers import pages_by_mark
from accountstore.outcomes import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]


async def listed(store: AccountStore) -> list[str]:
    """The names of the documents in the folder of `AT`, and below."""
    return [entry.location.file_name async for entry in store.list(AT.folder, recursive=True)]


async def deleted(store: AccountStore) -> None:
    """The document of `AT` is no more."""
    await store.delete(AT)


async def refused(store: AccountStore, match: str) -> None:
    """The listing fails with these words, for good or for now."""
    with pytest.raises(BackendError, match=match):
        await listed(store)


@by_fsspec
@pytest.mark.parametrize("status", [302, 307])
async def test_no_redirect_is_followed(stub: Stub, target: Target, status: int) -> None:
    """Whatever is asked, another server that the storage's names is not: a document would go there, or come."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        headers = {"Location": f"http://127.0.0.1:{other.getsockname()[1]}/b/a.account"}
        stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": status, "headers": headers}])
        async with AccountStore.open(target.config(stub.url, attempts=1, timeout=5)) as store:
            for call in (*CALLS.values(), deleted, listed):
                with pytest.raises(BackendError, match="redirects, which is not followed") as caught:
                    await call(store)
                assert type(caught.value) is BackendError
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("target", [Target("s3", "fsspec"), Target("azure", "fsspec")], ids=["s3", "azure"])
@pytest.mark.parametrize("op", ["get", "list"])
async def test_an_answer_without_end_is_not_taken_into_memory(
    stub: Stub, target: Target, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal, or a listing, that is longer than any is given up."""
    monkeypatch.setattr("accountstore.backends.sessions.MOST_TOLD", 1000)
    status = 500 if op == "get" else 200
    stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": status, "op": op, "body": " " * 5000}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(UnavailableError, match="the answer has no end"):
            await (store.get(AT) if op == "get" else listed(store))


# --- listings ---------------------------------------------------------------------------------------------------------

PAGE = "<html><body><p>Please log in</p></body></html>"
NONE = {
    "s3": (PAGE, "", "<ListVersionsResult/>"),
    "gcs": ('{"error": {"code": 503}}', '{"detail": "log in"}', PAGE, ""),
}


@pytest.mark.parametrize(("service", "body"), [(one, body) for one, bodies in NONE.items() for body in bodies])
async def test_an_answer_that_is_no_listing_is_no_empty_one(stub: Stub, service: str, body: str) -> None:
    """What a proxy has put in a listing's place, with status 200, is an error that is tried again."""
    target = Target(service, "fsspec")  # type: ignore[arg-type]  # one of the two
    target.put(stub, AT, OLD)
    stub.faults([{"nth": 1, "kind": "answer", "status": 200, "op": "list", "body": body}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(UnavailableError, match="the answer is not the server's"):
            await listed(store)
    stub.faults([{"nth": 1, "kind": "answer", "status": 200, "op": "list", "body": body}])
    async with AccountStore.open(target.config(stub.url)) as store:
        assert await listed(store) == [AT.file_name]


def s3_page(*names: str, more: str = "") -> str:
    """A page of a listing of S3."""
    about = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>e</ETag><Size>2</Size>"
    rows = "".join(f"<Contents><Key>p/f/{name}.account</Key>{about}</Contents>" for name in names)
    return f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{rows}</ListBucketResult>"


def gcs_page(*names: str, more: str) -> str:
    """A page of a listing of Google Cloud Storage's JSON interface."""
    items = [{"name": f"p/f/{name}.account", "size": "2", "generation": "1"} for name in names]
    return json.dumps({"items": items, "nextPageToken": more})


def azure_page(*blobs: str, more: str = "") -> str:
    """A page of a listing of Azure."""
    rows = f"<Blobs>{''.join(blobs)}</Blobs><NextMarker>{more}</NextMarker>"
    return f'<?xml version="1.0"?><EnumerationResults>{rows}</EnumerationResults>'


def blob(name: str, tag: str) -> str:
    """A blob in such a page; `name` is its element."""
    moment = "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>"
    about = f"{moment}{tag}<Content-Length>2</Content-Length><Content-Type>x/y</Content-Type>"
    return f"<Blob>{name}<Properties>{about}<BlobType>BlockBlob</BlobType></Properties></Blob>"


OLDER = "<NextMarker>p/f/b.account</NextMarker>"
SAME = "<NextContinuationToken>x</NextContinuationToken>"
CUT = {
    "no mark": ("s3", "fsspec", s3_page("a", "b", more=OLDER)),
    "no mark, by obstore": ("s3", "obstore", s3_page("a", "b", more=OLDER)),
    "an empty mark": ("s3", "fsspec", s3_page("a", "b", more="<NextContinuationToken/>")),
    "one mark": ("s3", "fsspec", s3_page("a", "b", more=SAME)),
    "one mark, by obstore": ("s3", "obstore", s3_page("a", "b", more=SAME)),
    "one mark and nothing else": ("s3", "fsspec", s3_page(more=SAME)),
    "one mark of Google's": ("gcs", "fsspec", gcs_page("a", "b", more="x")),
}


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("recursive", [True, False])
async def test_a_listing_that_stops_or_goes_round_is_an_error(stub: Stub, case: str, recursive: bool) -> None:
    """A server that has more, and does not say how to go on, or the same for ever, is told; no part passes for all."""
    service, engine, body = CUT[case]
    if case == "one mark, by obstore" and not recursive:
        return  # it takes all pages of a folder at once: the deadline ends it
    stub.faults([{"nth": 1, "times": 9999, "kind": "answer", "status": 200, "op": "list", "body": body}])
    async with AccountStore.open(Target(service, engine).config(stub.url)) as store:  # type: ignore[arg-type]
        with pytest.raises(BackendError, match="the listing is cut off"):
            _ = [entry async for entry in store.list(AT.folder, recursive=recursive)]


def azure_circle(mark: str) -> str:
    """A page of a listing of Azure that goes on at a mark."""
    return azure_page(blob("<Name>p/f/a.account</Name>", "<Etag>0x1</Etag>"), more=mark)


def s3_circle(mark: str) -> str:
    """As above, of S3."""
    return s3_page("a", more=f"<NextContinuationToken>{mark}</NextContinuationToken>")


def gcs_circle(mark: str) -> str:
    """As above, of Google's."""
    return gcs_page("a", more=mark)


ROUNDS: dict[str, Callable[[str], str]] = {"s3": s3_circle, "gcs": gcs_circle, "azure": azure_circle}


def go_round(stub: Stub, marks: str, page: Callable[[str], str]) -> None:
    """Let the stub's listing go on at one mark after another, and at the first again."""
    answer = {"kind": "answer", "status": 200, "op": "list", "headers": {"Content-Type": "application/xml"}}
    stub.faults([{"nth": n + 1, **answer, "body": page(marks[n % len(marks)])} for n in range(99)])


@pytest.mark.parametrize("service", ROUNDS)
@pytest.mark.parametrize("marks", ["xy", "vwxyz"])
@pytest.mark.parametrize("recursive", [True, False])
async def test_a_listing_that_goes_round_by_several_marks_is_an_error(
    stub: Stub, service: str, marks: str, recursive: bool
) -> None:
    """A circle of any length ends: no more pages are asked for than a few times round it."""
    go_round(stub, marks, ROUNDS[service])
    async with AccountStore.open(Target(service, "fsspec").config(stub.url)) as store:  # type: ignore[arg-type]
        with pytest.raises(BackendError, match="the listing is cut off"):
            _ = [entry async for entry in store.list(AT.folder, recursive=recursive)]
    assert stub.count() <= 4 * len(marks)


async def test_versions_that_go_round_are_an_error(stub: Stub) -> None:
    """What is kept of a document is listed by the same marks."""
    go_round(stub, "xy", gcs_circle)
    async with AccountStore.open(Target("gcs", "fsspec").config(stub.url)) as store:
        with pytest.raises(BackendError, match="the listing is cut off"):
            await store.versions(AT)


async def test_a_page_that_is_asked_for_twice_is_no_circle() -> None:
    """Each page of a long listing that fails, or is lost, the first time comes in its turn."""
    asked: list[str | None] = []

    async def fetch(mark: str | None) -> tuple[int, str | None]:
        number = int(mark or "0")
        asked.append(mark)
        if asked.count(mark) == 1:
            raise OSError
        return number, str(number + 1) if number < 1000 else None

    pages, found = pages_by_mark(fetch), list[int]()
    while len(found) <= 1000:
        with suppress(OSError):
            found.append(await anext(pages))
    assert found == [*range(1001)]
    assert await anext(pages, None) is None


@on_each_target
async def test_a_listing_of_no_bucket_is_no_missing_document(stub: Stub, target: Target) -> None:
    """A bare 404, of a proxy or an emulator, says that there is no bucket: a listing is of no document."""
    stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": 404, "headers": {}, "body": ""}])
    async with AccountStore.open(target.config(stub.url)) as store:
        await refused(store, "the bucket or container does not exist")


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
async def test_blobs_without_a_tag_or_with_an_encoded_name_are_listed(stub: Stub, engine: str) -> None:
    """Azure encodes a name that XML does not have; neither that nor a missing tag leaves a document out."""
    name = '<Name Encoded="true">p%2Ff%2Fa%EF%BF%BEb.account</Name>'
    body = azure_page(blob(name, "<Etag>0x1</Etag>"), blob("<Name>p/f/b.account</Name>", ""))
    answer = {"kind": "answer", "status": 200, "op": "list", "body": body}
    stub.faults([{"nth": 1, "times": 9, **answer, "headers": {"Content-Type": "application/xml"}}])
    async with AccountStore.open(Target("azure", engine).config(stub.url)) as store:  # type: ignore[arg-type]
        assert await listed(store) == ["a\ufffeb.account", "b.account"]


@pytest.mark.parametrize("recursive", [True, False])
async def test_an_encoded_name_at_the_root_is_listed_as_it_is(stub: Stub, *, recursive: bool) -> None:
    """Without a prefix, too, obstore's listing of Azure shows encoded names as they are, and folders; and a name that
    looks encoded and is not.
    """
    encoded = '<Name Encoded="true">%s%%EF%%BF%%BE%s</Name>'
    folder = f"<BlobPrefix>{encoded % ('f', '%2F')}</BlobPrefix>"
    blobs = blob(encoded % ("a", ".account"), "<Etag>0x1</Etag>"), blob("<Name>b%EF%BF%BE.account</Name>", "")
    answer = {"kind": "answer", "status": 200, "op": "list", "body": azure_page(*blobs, "" if recursive else folder)}
    stub.faults([{"nth": 1, "times": 9, **answer, "headers": {"Content-Type": "application/xml"}}])
    target = Target("azure", "obstore")
    async with AccountStore.open(target.config_of(f"az://{BUCKET}", target.options(stub.url))) as store:
        found = store.list(recursive=recursive, folders=True)
        names = {entry.path if isinstance(entry, Folder) else entry.location.path async for entry in found}
    assert names == {"a\ufffe.account", "b%EF%BF%BE.account"} | ({"f\ufffe"} if not recursive else set())


# --- documents --------------------------------------------------------------------------------------------------------


@on_each_target
async def test_a_write_whose_answer_names_no_version_is_looked_for(stub: Stub, target: Target) -> None:
    """Such an answer may be a proxy's: the write that it hides is found by its token, or made again."""
    status = 201 if target.service == "azure" else 200
    stub.faults([{"nth": 1, "kind": "answer", "status": status, "op": "put", "headers": {}, "body": PAGE}])
    async with AccountStore.open(target.config(stub.url)) as store:
        await store.save(AT, NEW)
        assert await store.get(AT) == NEW
    answer = {"kind": "answer", "status": status, "headers": {}, "body": PAGE}
    stub.faults([{"nth": 1, "times": 99, **answer}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(UncertainError):
            await store.save(AT, NEW)


ODD: dict[str, tuple[str, int, dict[str, str], str]] = {
    "gcs, no size": ("gcs", 200, {}, '{"generation": "7"}'),
    "gcs, other members": ("gcs", 200, {}, '{"generation": "7", "size": "x", "metadata": [1], "updated": 5}'),
    "gcs, too deep": ("gcs", 200, {}, "[" * 100_000),
    "gcs, no gzip": ("gcs", 200, {"Content-Encoding": "gzip"}, "zzz"),
    "gcs, an encoding": ("gcs", 200, {"Content-Encoding": "br"}, "zzz"),
    "s3, no number": ("s3", 200, {"ETag": '"x"', "x-amz-object-size": "abc"}, ""),
    "azure, no gzip": ("azure", 201, {"ETag": '"x"', "Content-Encoding": "gzip"}, "zzz"),
}
"""Answers to a write: a service, a status, headers and a body."""


@pytest.mark.parametrize("case", ODD)
async def test_a_write_whose_answer_cannot_be_read_is_looked_for(stub: Stub, case: str) -> None:
    """Where a client fails in an answer, what was asked for may be done; what is not needed of it is not looked at."""
    service, status, headers, body = ODD[case]
    target = Target(service, "fsspec")  # type: ignore[arg-type]
    fault = {"nth": 1, "kind": "answer", "status": status, "headers": headers, "body": body}
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        stub.faults([fault])
        told = await outcome_of(store.save(AT, NEW))
    if not isinstance(told, AccountStoreError):
        assert service == "s3" or "generation" in body  # S3's older clients do not know the header
        return
    assert type(told) is UncertainError
    async with AccountStore.open(target.config(stub.url)) as store:
        stub.faults([fault])
        await store.save(AT, NEW)
        assert await store.get(AT) == NEW


@pytest.mark.parametrize("service", ["gcs", "azure"])
async def test_what_fails_before_it_is_sent_is_told_as_it_is(
    stub: Stub, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a client, or in its options, is none of an answer: nothing is in doubt, and nothing is tried again."""
    aiohttp = pytest.importorskip("aiohttp")
    request = Mock(side_effect=TypeError)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", request)
    async with AccountStore.open(Target(service, "fsspec").config(stub.url)) as store:  # type: ignore[arg-type]
        for number, call in enumerate(CALLS.values(), 1):
            with pytest.raises(BackendError, match="TypeError") as caught:
                await call(store)
            assert (type(caught.value), request.call_count) == (BackendError, number)


ENTRIES = {
    "s3, no size": ("s3", "<Contents><Key>p/f/b.account</Key></Contents>"),
    "s3, no key": ("s3", "<Contents><Size>5</Size></Contents>"),
    "s3, no number": ("s3", "<Contents><Key>p/f/b.account</Key><Size>x</Size></Contents>"),
    "gcs, no size": ("gcs", {"name": "p/f/b.account", "generation": "1"}),
    "gcs, no name": ("gcs", {"size": "5", "generation": "1"}),
    "gcs, none": ("gcs", None),
    "azure, no size": ("azure", "<Blob><Name>p/f/b.account</Name><Properties><Etag>x</Etag></Properties></Blob>"),
}


@pytest.mark.parametrize("case", ENTRIES)
async def test_a_listing_with_an_entry_that_is_none_is_not_the_servers(stub: Stub, case: str) -> None:
    """What an entry must have is asked of a listing as of an answer: it is an error that is tried again."""
    service, entry = ENTRIES[case]
    pages = {"azure": azure_page(str(entry)), "gcs": json.dumps({"items": [entry]})}
    body = pages.get(service, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>")
    answer = {"kind": "answer", "status": 200, "op": "list", "body": body}
    stub.faults([{"nth": 1, **answer, "headers": {"Content-Type": "application/xml"}}])
    async with AccountStore.open(Target(service, "fsspec").config(stub.url, attempts=1)) as store:  # type: ignore[arg-type]
        with pytest.raises(UnavailableError, match=r"the answer (cannot be read|is not the server's)"):
            await listed(store)


async def test_googles_metadata_that_is_null_is_none(stub: Stub) -> None:
    """A document without metadata is one, however that is told."""
    about = {"name": "p/f/a.account", "size": "5", "generation": "1", "metadata": None}
    stub.faults([{"nth": 1, "kind": "answer", "status": 200, "body": json.dumps(about)}])
    async with AccountStore.open(Target("gcs", "fsspec").config(stub.url)) as store:
        assert (await store.stat(AT)).size == 5


@on_each_target
@pytest.mark.parametrize("call", ["get", "stat", "exists"])
async def test_an_answer_that_names_no_version_is_no_document(stub: Stub, target: Target, call: str) -> None:
    """A login page with status 200, which has no ETag, does not pass for a document that is there."""
    headers = {"Content-Type": "text/html", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": 200, "headers": headers, "body": PAGE}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(BackendError):
            await getattr(store, call)(AT)


# --- deletes of Azure by obstore, each in a batch ---------------------------------------------------------------------

AZURE = Target("azure", "obstore")
PART = "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {}\r\nx: y\r\n\r\n--b--"
NO_BATCH = {
    "a page": ("text/html", PAGE),
    "empty": ("multipart/mixed; boundary=b", ""),
    "cut off": ("multipart/mixed; boundary=b", PART.format("202 Accepted")[:60]),
    "no number": ("multipart/mixed; boundary=b", PART.format("202 Accepted").replace("Content-ID: 0\r\n", "")),
}


def batch(body: str, kind: str = "multipart/mixed; boundary=b") -> dict[str, object]:
    """The answer to a delete."""
    return {"nth": 1, "kind": "answer", "op": "delete", "status": 202, "headers": {"Content-Type": kind}, "body": body}


@pytest.mark.parametrize("case", NO_BATCH)
async def test_a_delete_whose_answer_cannot_be_read_is_in_doubt(stub: Stub, case: str) -> None:
    """Such an answer may hide a delete that was done: the document is looked for, and the delete made again."""
    kind, body = NO_BATCH[case]
    async with AccountStore.open(AZURE.config(stub.url, attempts=1)) as store:
        await store.save(AT, OLD)
        stub.faults([batch(body, kind)])
        with pytest.raises(UncertainError):
            await store.delete(AT)
    async with AccountStore.open(AZURE.config(stub.url)) as store:
        await store.save(AT, NEW)
        stub.faults([batch(body, kind)])
        await store.delete(AT)
    assert AZURE.found(stub, AT) is None


async def test_a_refusal_in_the_answer_to_a_delete_is_understood(stub: Stub) -> None:
    """The status within the answer counts: a refusal is final, and a delete of a busy storage is made again; whatever
    the name of the document says.
    """
    at = Location("(code 404).account", folder="HTTP error, decoded")
    async with AccountStore.open(AZURE.config(stub.url)) as store:
        await store.save(at, OLD)
        stub.faults([batch(PART.format("403 Not permitted"))])
        with pytest.raises(DeniedError):
            await store.delete(at)
        assert AZURE.found(stub, at) == OLD
        for busy in ("500 Internal", "503 Busy"):
            await store.save(at, OLD)
            stub.faults([batch(PART.format(busy))])
            await store.delete(at)
            assert AZURE.found(stub, at) is None
