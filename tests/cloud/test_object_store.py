"""What the object stores have in common, on each service by either engine, seen through a store on the stub."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import anyio
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

from accountstore import (
    AccountStore,
    BackendError,
    DecodeError,
    FullError,
    Location,
    NotFoundError,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    UnavailableError,
    Version,
)
from accountstore.codecs import JSON

if TYPE_CHECKING:
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
}


@on_each_target
@on_asyncio
async def test_a_url_without_a_bucket_or_with_more_than_a_prefix_is_refused(stub: Stub, target: Target) -> None:
    """A URL without a bucket, or with a query or a fragment, does not open, and the message shows nothing of it."""
    for place, words in BROKEN_URLS.items():
        assert words in await refusal(target.config_of(f"{target.scheme}://{place}", target.options(stub.url)))
    async with AccountStore.open(target.config_of(f"{target.scheme}://{BUCKET}/p", target.options(stub.url))):
        pass


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


@by_fsspec
@on_asyncio
@pytest.mark.parametrize("question", ["stat", "exists"])
async def test_a_missing_bucket_is_told_by_the_first_question(stub: Stub, target: Target, question: str) -> None:
    """A question about a document in a bucket that does not exist says so, also where the answer to it has no body."""
    async with AccountStore.open(target.config(stub.url, "missing-1")) as store:
        with pytest.raises(BackendError, match="the bucket or container does not exist") as caught:
            await getattr(store, question)(ABSENT)
        assert type(caught.value) is BackendError


@on_each_target
@on_asyncio
async def test_a_missing_document_costs_one_question_more_at_most_once(stub: Stub, target: Target) -> None:
    """With the bucket there, a missing document is one; the bucket is asked for once at most, before any answer."""
    extra = int(target.engine == "fsspec" and target.service != "gcs")
    target.put(stub, AT, OLD)
    async with AccountStore.open(target.config(stub.url)) as store:
        for expected in (1 + extra, 1, 1):
            stub.reset(keep=True)
            with pytest.raises(NotFoundError):
                await store.stat(ABSENT)
            assert stub.count() == expected
    async with AccountStore.open(target.config(stub.url)) as store:
        await store.get(AT)
        stub.reset(keep=True)
        assert not await store.exists(ABSENT)
        assert stub.count() == 1


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
