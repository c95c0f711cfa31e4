"""The sessions of the clients on aiohttp: what has left, in which threads they block, and how much they take in."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.abc
import pytest
from cloudtargets import AT, BUCKET, NEW, OLD, OTHER, Target, by_fsspec, on_asyncio
from running import HUNG

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    TooLargeError,
    UnavailableError,
    UncertainError,
)
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]


# --- what has left ----------------------------------------------------------------------------------------------------


@contextmanager
def full_queue() -> Generator[str]:
    """The address of a server that takes no connection: the queue of those that wait is full."""
    waiting: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        try:
            for _ in range(8):
                waiting.append(socket.socket())
                waiting[-1].settimeout(0.4)
                waiting[-1].connect(listener.getsockname())
            pytest.skip("this system's queue of connections has no end")
        except TimeoutError:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


async def unanswered(target: Target, url: str) -> UnavailableError:
    """The error of a save that gets no answer within its deadline."""
    async with AccountStore.open(target.config(url, timeout=2, attempts=1)) as store:
        with pytest.raises(UnavailableError) as caught:
            await store.save(AT, NEW)
    return caught.value


@by_fsspec
async def test_a_write_that_got_no_connection_is_not_uncertain(target: Target) -> None:
    """Where a server takes no connection, a save that its deadline cuts has surely not been sent."""
    with full_queue() as url:
        failure = await unanswered(target, url)
    assert type(failure) is UnavailableError
    assert failure.sent is False


@by_fsspec
@on_asyncio
async def test_control_a_client_that_does_not_tell_is_taken_to_have_sent(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the word that nothing has left yet, the same save is uncertain."""
    monkeypatch.setattr("accountstore.backends.object_store.hold", int)
    with full_queue() as url:
        assert type(await unanswered(target, url)) is UncertainError


@by_fsspec
async def test_a_write_that_has_left_is_uncertain(stub: Stub, target: Target) -> None:
    """Where the request has left and no answer comes, the outcome is unknown; the first call's client is opened."""
    async with AccountStore.open(target.config(stub.url, timeout=3, attempts=1)) as store:
        await store.save(AT, OLD)
        stub.faults([{"nth": 1, "times": 99, "kind": "hang-after"}])
        with pytest.raises(UncertainError):
            await store.save(AT, NEW)
    assert target.found(stub, AT) == NEW


@on_asyncio
async def test_a_write_that_waits_for_a_connection_is_not_uncertain(stub: Stub) -> None:
    """With fewer connections than operations, as an option may ask for, a save that waits for one was not sent."""
    target = Target("s3", "fsspec")
    options = target.options(stub.url)
    options["config_kwargs"] = {**options["config_kwargs"], "max_pool_connections": 1}
    failures: list[UnavailableError] = []
    async with AccountStore.open(target.config_of(f"s3://{BUCKET}/p", options, timeout=3, attempts=1)) as store:
        await store.save(AT, OLD)
        stub.faults([{"nth": 1, "times": 99, "kind": "hang"}])

        async def save(number: int) -> None:
            with pytest.raises(UnavailableError) as caught:
                await store.save(AT if number else OTHER, NEW)
            failures.append(caught.value)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(save, number)
    assert sorted(type(failure).__name__ for failure in failures) == ["UnavailableError"] * 2 + ["UncertainError"]


@by_fsspec
@on_asyncio
async def test_all_operations_in_flight_have_a_connection(stub: Stub, target: Target) -> None:
    """A client's own queue keeps nothing back: as many requests are under way as operations may be."""
    stub.mode(delay=0.5)
    async with AccountStore.open(target.config(stub.url)) as store:
        assert not await store.exists(AT)
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(store.exists, AT)
        assert stub.connections()["accepted"] >= 64


async def answer_plainly(connection: anyio.abc.ByteStream) -> None:
    """Answer whatever comes with what is no TLS."""
    async with connection:
        await connection.receive()
        await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@by_fsspec
@on_asyncio
async def test_tls_that_fails_is_named(target: Target) -> None:
    """Where no TLS connection comes about, here with a server that has none, each call says so, for good."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer_plainly)
        url = f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        config = target.config(url)
        if target.service == "azure":
            parts = target.options(url)["connection_string"].replace("Protocol=http;", "Protocol=https;")
            config = target.config_of(f"az://{BUCKET}/p", {"connection_string": parts})
        async with AccountStore.open(config) as store:
            for call in (partial(store.get, AT), partial(store.save, AT, NEW)):
                with pytest.raises(BackendError, match=r"TLS failed .*http:// where it has no TLS") as caught:
                    await call()
                assert type(caught.value) is BackendError
        group.cancel_scope.cancel()


# --- threads ----------------------------------------------------------------------------------------------------------


class Refusing(ThreadPoolExecutor):
    """An event loop's default executor that notes who asks for it, and does nothing."""

    asked: ClassVar[list[str]] = []

    def submit(self, function: Any, /, *_: Any, **__: Any) -> Any:
        Refusing.asked.append(f"{function!r} {getattr(function, 'args', '')!r}")
        raise RuntimeError("no thread for you")


async def use_all(target: Target, stub: Stub) -> list[str]:
    """For what the default executor was asked for by the whole life of a store whose server has a name."""
    Refusing.asked.clear()
    asyncio.get_running_loop().set_default_executor(Refusing(1))
    try:
        async with AccountStore.open(target.config(stub.url.replace("127.0.0.1", "localhost"), attempts=1)) as store:
            await store.save(AT, OLD)
            assert await store.get(AT) == OLD
            assert [entry.location async for entry in store.list(AT.folder)] == [AT]
            await store.filesystem()
    except AccountStoreError:
        assert Refusing.asked
    finally:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    return Refusing.asked


@by_fsspec
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": False})], ids=["asyncio"])
async def test_nothing_runs_in_the_default_executor(stub: Stub, target: Target) -> None:
    """What blocks, looking up names too, runs in threads of the storage's own; the application's executor is left."""
    assert await use_all(target, stub) == []


@by_fsspec
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": False})], ids=["asyncio"])
async def test_control_the_default_executor_is_noticed(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: opened by `asyncio.to_thread`, a client asks for the application's threads."""

    async def to_thread(_: Any, call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    monkeypatch.setattr("accountstore.backends.object_store.Bucket._apart", to_thread)
    assert await use_all(target, stub)


# --- bounded answers --------------------------------------------------------------------------------------------------

PACKED = [Target("gcs", "fsspec"), Target("azure", "fsspec")]
"""The services whose clients unpack what they read."""
by_unpacking = pytest.mark.parametrize("target", PACKED, ids=lambda target: target.service)


def packed_answer(data: bytes) -> dict[str, Any]:
    """An answer with these bytes, packed."""
    body = gzip.compress(data, mtime=0)
    headers = {
        "Content-Encoding": "gzip",
        "ETag": '"0x1"',
        "x-goog-generation": "1",
        "Last-Modified": "Wed, 25 Nov 2026 10:00:00 GMT",
        "x-ms-blob-type": "BlockBlob",
        "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}",
    }
    answer = {"nth": 1, "times": 9, "kind": "answer", "headers": headers, "body": body.decode("latin-1")}
    return answer | {"status": 200}


async def taken_in(stub: Stub, target: Target, data: bytes) -> tuple[object, int]:
    """What a read of a packed object gives or raises, and its peak of memory, in MiB."""
    answer = packed_answer(data)
    stub.faults([answer | ({"status": 206} if target.service == "azure" else {})])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(AccountStoreError):
            await store.save(AT, NEW)  # what the first call imports is not counted
        tracemalloc.start()
        try:
            outcome: object = await store.get(AT)
        except AccountStoreError as error:
            outcome = error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return outcome, peak >> 20


@by_unpacking
@on_asyncio
async def test_a_packed_object_takes_no_more_memory_than_a_document(stub: Stub, target: Target) -> None:
    """A small object that unpacks to more than a document may have is refused before it is in memory."""
    outcome, peak = await taken_in(stub, target, bytes(100 << 20))
    assert isinstance(outcome, TooLargeError)
    assert peak < 16


@by_unpacking
@on_asyncio
async def test_control_an_unbounded_answer_is_in_memory_first(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: unpacked as a whole, the same object takes its size."""

    def whole(data: bytes, *_: object) -> bytes:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data

    monkeypatch.setattr(f"accountstore.backends.{target.service}.unpacked", whole)
    assert (await taken_in(stub, target, bytes(100 << 20)))[1] > 90


@by_unpacking
@on_asyncio
async def test_a_packed_document_is_read(stub: Stub, target: Target) -> None:
    """A document that some tool has stored packed, and says so, is read."""
    document: Account = NEW
    assert (await taken_in(stub, target, JSON.encode(document)))[0] == document


@by_unpacking
@on_asyncio
@pytest.mark.parametrize(
    ("encoding", "words"), [("gzip", "is not what its Content-Encoding says"), ("br", "'br', which is not understood")]
)
async def test_an_object_in_another_encoding_is_named(stub: Stub, target: Target, encoding: str, words: str) -> None:
    """Bytes that are not packed as they say, or in a way that is not known, are an error that says so."""
    answer = packed_answer(b"")
    headers = {**answer["headers"], "Content-Encoding": encoding, "Content-Range": "bytes 0-1/2"}
    status = 206 if target.service == "azure" else 200
    stub.faults([answer | {"headers": headers, "body": "{}", "status": status}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with anyio.fail_after(HUNG):
            with pytest.raises(BackendError, match=words):
                await store.get(AT)
