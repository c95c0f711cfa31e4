"""What the object stores have in common, on each service by either engine, seen through a store on the stub."""

from __future__ import annotations

import threading
import time
from copy import copy
from datetime import UTC
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import anyio
import anyio.lowlevel
import pytest
from cloudtargets import (
    ABSENT,
    AT,
    BUCKET,
    CANARY,
    NEW,
    OLD,
    Target,
    backend_of,
    by_fsspec,
    on_asyncio,
    on_each_target,
    refusal,
)
from msgspec.structs import replace

from accountstore import (
    AccountStore,
    BackendError,
    DecodeError,
    DeniedError,
    FullError,
    Location,
    NotFoundError,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
    Version,
)
from accountstore.backends import logs
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]

# --- opening ----------------------------------------------------------------------------------------------------------


BROKEN_URLS = {
    **dict.fromkeys(("", "/", "/p"), "must name a bucket or container"),
    **dict.fromkeys(
        (f"{BUCKET}?password={CANARY}", f"{BUCKET}#{CANARY}", f"{BUCKET}/p?versionId={CANARY}", f"{BUCKET}/p#{CANARY}"),
        "no query and no fragment",
    ),
    **dict.fromkeys(
        (
            f"me:{CANARY}@{BUCKET}/p",
            f":{CANARY}@{BUCKET}",
            f"me:pa/{CANARY}@{BUCKET}/p",
            f"me:p@{CANARY}@{BUCKET}",
            "h:9000/b",
        ),
        "no user, no password and no port",
    ),
}


@on_each_target
@on_asyncio
async def test_a_url_without_a_bucket_or_with_more_than_a_prefix_is_refused(stub: Stub, target: Target) -> None:
    """A URL without a bucket, or with a user and password, a query or a fragment, does not open, and the message shows
    nothing of it; nothing is sent.
    """
    for place, words in BROKEN_URLS.items():
        assert words in await refusal(target.config_of(f"{target.scheme}://{place}", target.options(stub.url)))
    async with AccountStore.open(target.config_of(f"{target.scheme}://{BUCKET}/p@q:r", target.options(stub.url))):
        pass
    assert stub.count() == 0


@on_each_target
@on_asyncio
async def test_only_a_container_stands_before_an_at(stub: Stub, target: Target) -> None:
    """`container@account` is Azure's way to name both; a bucket's URL has no user."""
    config = target.config_of(f"{target.scheme}://{BUCKET}@account.example.org/p", target.options(stub.url))
    if target.service != "azure":
        assert "no user, no password and no port" in await refusal(config)
        return
    async with AccountStore.open(config) as store:
        target.put(stub, AT, OLD)
        assert await store.get(AT) == OLD


OPTIONS = {
    **dict.fromkeys(("asynchronous", "skip_instance_cache", "use_listings_cache", "loop"), "is set by the store"),
    **dict.fromkeys(("endpiont_url", "kwargs"), "unknown"),
}
"""What the store decides for its own client; a misspelt name, and the one under which a client would take any."""


@on_each_target
@on_asyncio
@pytest.mark.parametrize("name", OPTIONS)
async def test_options_that_no_client_takes_are_refused(stub: Stub, target: Target, name: str) -> None:
    """An option that is the store's own, or nobody's, does not open, and the message names it."""
    options = {**target.options(stub.url), name: CANARY}
    said = await refusal(target.config_of(f"{target.scheme}://{BUCKET}/p", options))
    assert repr(name) in said
    assert target.engine == "obstore" or OPTIONS[name] in said


@by_fsspec
@on_asyncio
async def test_a_misspelt_option_is_told_with_the_nearest_known_one(stub: Stub, target: Target) -> None:
    """The message about an unknown option names the one that was probably meant."""
    known = "connection_string" if target.service == "azure" else "endpoint_url"
    options = {**target.options(stub.url), f"{known}s": CANARY}
    said = await refusal(target.config_of(f"{target.scheme}://{BUCKET}/p", options))
    assert f"did you mean {known!r}?" in said


@on_each_target
@on_asyncio
async def test_what_an_object_store_promises(stub: Stub, target: Target) -> None:
    """A write is whole, lasts and may be conditional; each document is a request of its own."""
    backend = await backend_of(target, stub)
    able = backend.capabilities
    assert (able.create, able.update, able.atomic, able.durable, able.batch) == (True, True, True, True, 1)
    await backend.aclose()


# --- documents --------------------------------------------------------------------------------------------------------


@on_each_target
@on_asyncio
async def test_a_document_of_exactly_the_limit_is_read(stub: Stub, target: Target) -> None:
    """A document of `max_bytes` bytes is read; one with a byte more is too large."""
    target.put(stub, AT, OLD)
    size = len(JSON.encode(OLD))
    async with AccountStore.open(target.config(stub.url, max_bytes=size)) as store:
        assert await store.get(AT) == OLD
    async with AccountStore.open(target.config(stub.url, max_bytes=size - 1)) as store:
        with pytest.raises(TooLargeError, match=f"has {size} bytes, more than the {size - 1} allowed"):
            await store.get(AT)


@on_each_target
@on_asyncio
async def test_an_empty_object_is_an_empty_document(stub: Stub, target: Target, tmp_path: Path) -> None:
    """An empty object at a document's place is what an empty file is in a folder: a document that cannot be decoded."""
    said: list[str] = []
    folder = tmp_path / AT.folder
    await anyio.Path(folder).mkdir()
    await anyio.Path(folder / AT.file_name).write_bytes(b"")
    stub.put(target.service, BUCKET, f"p/{AT.path}", b"")
    for config in (StoreConfig(storages={"cloud": StorageConfig(str(tmp_path))}), target.config(stub.url)):
        async with AccountStore.open(config) as store:
            with pytest.raises(DecodeError) as caught:
                await store.get(AT)
            said.append(str(caught.value))
            assert (await store.stat(AT)).size == 0
    assert said[0] == said[1]


@on_each_target
@on_asyncio
async def test_a_version_is_the_same_whoever_tells_it(stub: Stub, target: Target) -> None:
    """A save, a read, a stat and a listing tell the same version of a document, and a swap takes it from each."""
    async with AccountStore.open(target.config(stub.url)) as store:
        version: Version | None = await store.save(AT, OLD)
        for teller in ("read", "stat", "list"):
            (listed,) = [entry async for entry in store.list(AT.folder)]
            told = listed.version if teller == "list" else (await getattr(store, teller)(AT)).version
            if teller == "list" and target.name == "gcs-obstore":
                assert told is None  # its interface lists none
                told = version
            assert told == version
            assert told is not None
            version = await store.save(AT, NEW, mode=told)
        assert version is not None
        await store.delete(AT, version=version)
        assert target.found(stub, AT) is None


@on_each_target
@on_asyncio
@pytest.mark.parametrize("recursive", [False, True])
async def test_a_listing_goes_on_after_its_first_page(stub: Stub, target: Target, recursive: bool) -> None:
    """Where the service gives its names in small pages, each document is listed, and once."""
    here = [Location(f"{number}.account", folder="f") for number in range(7)]
    below = [Location(f"{number}.account", folder="f/g") for number in range(5)]
    for at in (*here, *below):
        target.put(stub, at, OLD)
    stub.mode(page=2)
    async with AccountStore.open(target.config(stub.url)) as store:
        found = [entry.location async for entry in store.list("f", recursive=recursive)]
    assert sorted(found, key=str) == sorted((*here, *below) if recursive else here, key=str)
    assert stub.count() > 3


PHANTOMS = ("p//x.account", "p/f//x.account", "p/c.account/", "p/f/c.account/", "p//", "/x.account", "//p/x.account")
"""Keys that no location names, put there by other tools."""


async def unreadable(stub: Stub, target: Target, prefix: str) -> list[str]:
    """What a listing shows and no call can read."""
    target.put(stub, AT, OLD)
    for key in PHANTOMS:
        stub.put(target.service, BUCKET, key, b"{}")
    config = target.config_of(f"{target.scheme}://{BUCKET}{prefix}", target.options(stub.url))
    found: list[Location] = []
    async with AccountStore.open(config) as store:
        for recursive in (False, True):
            for folder in ("", "f"):
                found += [entry.location async for entry in store.list(folder, recursive=recursive)]
        assert Location(AT.file_name, folder=AT.folder if prefix else f"p/{AT.folder}") in found
        return [at.path for at in found if not await store.exists(at)]


@by_fsspec
@on_asyncio
@pytest.mark.parametrize("prefix", ["/p", ""])
async def test_whatever_a_listing_shows_can_be_read(stub: Stub, target: Target, prefix: str) -> None:
    """Keys with empty segments, and the markers that other tools leave for folders, are shown under no name."""
    assert await unreadable(stub, target, prefix) == []


async def zones(stub: Stub, target: Target) -> list[object]:
    """The time zones, of the moments that a store tells, which are not the standard library's UTC."""
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url)) as store:
        told = [(await store.stat(AT)).modified, (await store.read(AT)).modified]
        told += [entry.modified async for entry in store.list(AT.folder)]
    return [moment.tzinfo for moment in told if moment is not None and moment.tzinfo is not UTC]


@by_fsspec
@on_asyncio
async def test_times_are_in_the_standard_utc(stub: Stub, target: Target) -> None:
    """A moment has the standard library's own UTC, so that what an application keeps depends on no client."""
    assert await zones(stub, target) == []


@on_asyncio
async def test_control_a_client_has_time_zones_of_its_own(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: as botocore gives them, moments have a class of another package."""
    monkeypatch.setattr("accountstore.backends.s3.as_utc", copy)
    monkeypatch.setattr("accountstore.backends.s3.moment_of", _as_botocore)
    assert await zones(stub, Target("s3", "fsspec"))


def _as_botocore(text: str, parse: Any) -> Any:
    return parse(text)


@on_each_target
@on_asyncio
async def test_folders_come_with_the_documents_of_a_folder(stub: Stub, target: Target) -> None:
    """Tenants are enumerated without a listing of what is below them, also where names come in small pages."""
    tenants = {f"f/{number}" for number in range(5)}
    for tenant in tenants:
        for number in range(9):
            target.put(stub, Location(f"{number}.account", folder=f"{tenant}/deep"), OLD)
    target.put(stub, Location("x.account", folder="f"), OLD)
    stub.mode(page=2)
    async with AccountStore.open(target.config(stub.url)) as store:
        found = [str(getattr(item, "location", item)) async for item in store.list("f", folders=True)]
    assert sorted(found) == sorted(["f/x.account", *(f"{tenant}/" for tenant in tenants)])
    assert stub.count() <= 5


# --- errors -----------------------------------------------------------------------------------------------------------

FULL = [(507, "InsufficientStorage"), (507, "XMinioStorageFull"), (409, "AccountLimitExceeded"), (403, "QuotaExceeded")]
"""A proxy or file server, MinIO, and two of a quota; Ceph gives its own with the status of a denial."""


@on_each_target
@on_asyncio
@pytest.mark.parametrize(("status", "code"), FULL, ids=str)
async def test_a_full_storage_is_full(stub: Stub, target: Target, status: int, code: str) -> None:
    """Where a write is refused for want of space or quota, that is what is told, and it is not tried again."""
    async with AccountStore.open(target.config(stub.url)) as store:
        stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": status, "code": code}])
        with pytest.raises(FullError, match=f"the storage is full \\({status} {code}\\)") as caught:
            await store.save(AT, OLD)
        assert not caught.value.temporary
        assert stub.count() == 1


async def listed(store: AccountStore) -> list[object]:
    """A listing of everything."""
    return [entry async for entry in store.list(recursive=True)]


QUESTIONS: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "stat": lambda store: store.stat(ABSENT),
    "exists": lambda store: store.exists(ABSENT),
    "get": lambda store: store.get(ABSENT),
    "save": lambda store: store.save(ABSENT, NEW),
    "create": lambda store: store.save(ABSENT, NEW, mode="create"),
    "delete": lambda store: store.delete(ABSENT),
    "list": listed,
}


@by_fsspec
@on_asyncio
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_missing_bucket_is_told_by_each_call(stub: Stub, target: Target, question: str) -> None:
    """A call in a bucket that does not exist says so each time, also where the answer to it has no body."""
    async with AccountStore.open(target.config(stub.url, "missing-1")) as store:
        for _ in range(2):
            with pytest.raises(BackendError, match="the bucket or container does not exist") as caught:
                await QUESTIONS[question](store)
            assert type(caught.value) is BackendError


@by_fsspec
@on_asyncio
async def test_a_bucket_that_goes_missing_is_told(stub: Stub, target: Target) -> None:
    """A bucket that is deleted while the store is open is no missing document either."""
    async with AccountStore.open(target.config(stub.url)) as store:
        assert not await store.exists(ABSENT)
        code = "ContainerNotFound" if target.service == "azure" else "NoSuchBucket"
        body = (
            "the specified bucket does not exist" if target.service == "gcs" else f"<Error><Code>{code}</Code></Error>"
        )
        headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
        stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": 404, "headers": headers, "body": body}])
        with pytest.raises(BackendError, match="the bucket or container does not exist") as caught:
            await store.exists(ABSENT)
        assert type(caught.value) is BackendError


PAGES = {
    "nginx": "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body><hr><center>nginx</center></body></html>",
    "well-formed": "<!DOCTYPE html><html><body><p>No such page</p></body></html>",
}


@on_each_target
@on_asyncio
@pytest.mark.parametrize("page", PAGES)
async def test_a_proxys_page_is_no_missing_document(stub: Stub, target: Target, page: str) -> None:
    """A web page with 404 is not the storage's word: a document is not missing for it, and has not been deleted."""
    target.put(stub, AT, OLD)
    headers = {"Content-Type": "text/html; charset=utf-8"}
    answer = {"nth": 1, "times": 99, "kind": "answer", "status": 404, "headers": headers, "body": PAGES[page]}
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        stub.faults([answer])
        for call in (store.exists(AT), store.get(AT), store.delete(AT), store.save(AT, NEW)):
            with pytest.raises(UnavailableError, match="a web page"):
                await call
        stub.faults([])
        assert await store.get(AT) == OLD
        stub.faults([{**answer, "headers": {}, "body": ""}])
        with pytest.raises(NotFoundError):  # control: without a page, 404 says so
            await store.get(AT)


@pytest.mark.parametrize("target", [Target("s3", "fsspec"), Target("gcs", "fsspec")], ids=lambda one: one.name)
@on_asyncio
async def test_a_delete_that_a_page_answers_is_uncertain(stub: Stub, target: Target) -> None:
    """A login's page with 200 does not say that a document was deleted."""
    target.put(stub, AT, OLD)
    headers = {"Content-Type": "text/html"}
    answer = {"nth": 1, "kind": "answer", "status": 200, "headers": headers, "body": "<html>Log in</html>"}
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        stub.faults([{**answer, "op": "delete"}])
        with pytest.raises(UncertainError):
            await store.delete(AT)
        assert await store.exists(AT)
        await store.delete(AT)
        assert not await store.exists(AT)


@on_each_target
@on_asyncio
async def test_a_missing_document_costs_one_question_more_at_most(stub: Stub, target: Target) -> None:
    """With the bucket there, a missing document is one. Where the answer to a HEAD tells nothing (by s3fs and obstore),
    another request tells them apart.
    """
    requests = 1 if target.name in {"gcs-fsspec", "azure-fsspec"} else 2
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url)) as store:
        for _ in range(2):
            stub.reset(keep=True)
            with pytest.raises(NotFoundError):
                await store.stat(ABSENT)
            assert stub.count() == requests
            stub.reset(keep=True)
            assert await store.exists(AT)
            assert stub.count() == 1


EXPIRED = [(400, "ExpiredToken"), (400, "InvalidToken"), (403, "InvalidAccessKeyId"), (401, "AuthenticationFailed")]


@by_fsspec
@on_asyncio
@pytest.mark.parametrize(("status", "code"), EXPIRED, ids=str)
async def test_credentials_that_are_refused_are_a_denial(stub: Stub, target: Target, status: int, code: str) -> None:
    """Whatever the status, an answer that refuses the credentials denies access: on each call, and for good."""
    async with AccountStore.open(target.config(stub.url)) as store:
        stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": status, "code": code}])
        for question in QUESTIONS.values():
            with pytest.raises(DeniedError, match=f"access is denied \\({status} {code}\\)"):
                await question(store)


@by_fsspec
@on_asyncio
async def test_a_missing_file_of_credentials_is_no_missing_document(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a client finds a file missing that it needs, in opening or for a request, that is not the document."""
    missing = AsyncMock(side_effect=FileNotFoundError(2, "no such file", "/run/secrets/token"))
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        monkeypatch.setattr("accountstore.backends.object_store.Bucket._opened", missing)
        for question in QUESTIONS.values():
            with pytest.raises(DeniedError, match="need is not there: /run/secrets/token"):
                await question(store)


@by_fsspec
@on_asyncio
async def test_a_server_that_does_not_know_conditions(stub: Stub, target: Target) -> None:
    """A server that answers 501 to a condition is asked no second time: what needs one is unsupported, at once."""
    config = target.config(stub.url, conditions="probe")
    stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": 501, "code": "NotImplemented", "op": "create"}])
    async with AccountStore.open(config) as store:
        for requests in (None, 0):
            stub.reset(keep=True) if requests == 0 else None
            with pytest.raises(UnsupportedError) as caught:
                await store.save(ABSENT, NEW, mode="create")
            assert not caught.value.temporary
        assert stub.count() == 0
        await store.save(AT, OLD)


@by_fsspec
@on_asyncio
async def test_a_request_that_a_server_does_not_know_is_refused_for_good(stub: Stub, target: Target) -> None:
    """A 501 to anything else is an error for good with the server's own code, after one request, and no doubt."""
    stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": 501, "code": "NotImplemented"}])
    async with AccountStore.open(target.config(stub.url)) as store:
        with pytest.raises(BackendError, match="does not support the request \\(501 NotImplemented\\)") as caught:
            await store.save(AT, OLD)
        assert not caught.value.temporary
        assert stub.count() == 1


@by_fsspec
@on_asyncio
async def test_control_a_server_that_is_busy_is_asked_again(stub: Stub, target: Target) -> None:
    """The control: a 503, which means later, is asked again, and the call succeeds."""
    stub.faults([{"nth": 1, "times": 1, "kind": "answer", "status": 503, "code": "SlowDown"}])
    async with AccountStore.open(target.config(stub.url)) as store:
        await store.save(AT, OLD)
        assert stub.count() >= 2


@pytest.mark.parametrize("target", [Target("s3", "fsspec"), Target("s3", "obstore")], ids=lambda one: one.engine)
@on_asyncio
@pytest.mark.parametrize(("status", "code"), [(400, "RequestTimeout"), (400, "SlowDown"), (403, "RequestThrottled")])
async def test_a_refusal_that_is_for_now_is_asked_again(stub: Stub, target: Target, status: int, code: str) -> None:
    """S3 says by a code, whatever the status, that it had no time for a request: a write and a read come again."""
    fault = {"nth": 1, "kind": "answer", "status": status, "code": code}
    async with AccountStore.open(target.config(stub.url)) as store:
        stub.faults([fault])
        await store.save(AT, OLD)
        stub.faults([fault])
        assert await store.get(AT) == OLD
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        stub.faults([fault])
        with pytest.raises(UnavailableError, match=code):
            await store.get(AT)


@by_fsspec
@on_asyncio
async def test_a_write_whose_answer_has_no_version_looks_for_it(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the document itself tells its version, and by its token that it is this one, the write returns that."""
    monkeypatch.setattr("accountstore.client.urandom", bytes)
    async with AccountStore.open(target.config(stub.url)) as store:
        version = await store.save(AT, OLD)
        body = '{"size": "5"}' if target.service == "gcs" else ""
        status = 201 if target.service == "azure" else 200
        stub.faults([{"nth": 1, "kind": "answer", "status": status, "op": "put", "headers": {}, "body": body}])
        assert await store.save(AT, OLD) == version


@on_each_target
@on_asyncio
async def test_a_bucket_that_may_not_be_asked_for_its_versions(stub: Stub, target: Target) -> None:
    """Where the question about old versions is denied, the answer is 'not known', and `check` finds nothing wrong."""
    stub.faults([{"nth": 1, "times": 99, "kind": "403", "op": "other"}])
    backend = await backend_of(target, stub)
    assert await backend.versioned() is None
    await backend.aclose()
    assert [(one["op"], one["status"]) for one in stub.log()] == [("other", 403)]
    async with AccountStore.open(target.config(stub.url)) as store:
        check = await store.check()
    assert check.versioned is None
    assert check.ok


@on_each_target
@on_asyncio
async def test_control_a_bucket_that_tells_its_versions(stub: Stub, target: Target) -> None:
    """The control: where the question is answered, so is `check`'s; Azure alone does not say it of a container."""
    for bucket, answer in ((BUCKET, False), ("versioned-1", True)):
        async with AccountStore.open(target.config(stub.url, bucket)) as store:
            assert (await store.check()).versioned is (None if target.service == "azure" else answer)


@on_each_target
@on_asyncio
async def test_versions_of_a_document(stub: Stub, target: Target) -> None:
    """A bucket with versions tells them all, newest first, a page after another, by the service's own ids; also when
    the document is gone. The control: a bucket without has the current one alone, which no service but Google names.
    """
    for bucket in ("versioned-1", BUCKET):
        async with AccountStore.open(target.config(stub.url, bucket)) as store:
            await store.save(replace(AT, file_name=f"{AT.file_name}.account"), OLD)
            written = [await store.save(AT, account) for account in (OLD, NEW, OLD)][::-1]
            stub.reset(keep=True)
            stub.mode(page=2)
            found = await store.versions(AT)
            assert [one["op"] for one in stub.log()] == ["list"] * (2 if bucket == "versioned-1" else 1)
            expected = written if bucket == "versioned-1" else written[:1]
            assert [one.version for one in found] == expected
            assert [one.current for one in found] == [True, *[False] * (len(expected) - 1)]
            assert {one.size for one in found} <= {len(JSON.encode(account)) for account in (OLD, NEW)}
            assert all(one.modified is not None and one.modified.tzinfo is UTC for one in found)
            named = {one.id for one in found} - {None}
            assert len(named) == len(expected) if target.service == "gcs" or len(expected) > 1 else not named
            await store.delete(AT)
            if bucket == BUCKET:
                with pytest.raises(NotFoundError):
                    await store.versions(AT)
            else:
                assert [one.current for one in await store.versions(AT)] == [False] * 3
            stub.faults([{"nth": 1, "kind": "answer", "status": 404, "headers": {}, "body": ""}])
            with pytest.raises(BackendError, match="bucket or container does not exist") as caught:
                await store.versions(AT)
            assert not isinstance(caught.value, NotFoundError)


@on_each_target
@on_asyncio
async def test_an_answer_that_is_cut_short_is_no_document(stub: Stub, target: Target) -> None:
    """Half a document is never returned: it counts as an answer that did not come, and is asked for again."""
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        stub.faults([{"nth": 1, "times": 99, "kind": "truncate"}])
        with pytest.raises(UnavailableError) as caught:
            await store.get(AT)
        assert caught.value.temporary
    async with AccountStore.open(target.config(stub.url, attempts=2)) as store:
        stub.faults([{"nth": 1, "kind": "truncate"}])
        assert await store.get(AT) == OLD


# --- closing ----------------------------------------------------------------------------------------------------------


@on_each_target
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_closing_on_trio_ends_the_thread(stub: Stub, target: Target) -> None:
    """A client of asyncio's has a thread on trio, which ends when the store is closed."""
    target.put(stub, AT, OLD)
    config = target.config(stub.url)
    before = set(threading.enumerate())

    def own_threads() -> list[str]:
        """The threads since then, but those that trio and fsspec keep for everybody."""
        names = [thread.name for thread in threading.enumerate() if thread not in before]
        return [name for name in names if not name.startswith(("Trio thread", "fsspecIO"))]

    async with AccountStore.open(config) as store:
        assert await store.get(AT) == OLD
        assert own_threads()
    deadline = time.monotonic() + 20
    while left := own_threads():
        assert time.monotonic() < deadline, left
        await anyio.sleep(0.005)


@by_fsspec
@on_asyncio
async def test_each_turn_of_the_event_loop_prepares_one_request(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many reads begin at once, other tasks go on between two requests, which a client takes a millisecond or
    more to sign and build.
    """
    steps, begun = 0, list[int]()

    def quiet() -> Any:
        begun.append(steps)
        return before()

    async def step() -> None:
        nonlocal steps
        while True:
            steps += 1
            await anyio.lowlevel.checkpoint()

    before = logs.quiet
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url)) as store:
        await store.get(AT)
        monkeypatch.setattr("accountstore.backends.object_store.quiet", quiet)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
            async with anyio.create_task_group() as reads:
                for _ in range(16):
                    reads.start_soon(store.get, AT)
            tasks.cancel_scope.cancel()
    assert len(begun) == 16
    assert len({*begun}) == 16
