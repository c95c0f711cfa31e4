"""The Rust client obstore: what may be said of a document and of a write when something else than the storage fails."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import pytest
from anyio import to_thread
from cloudservers import ACCOUNT
from cloudtargets import (
    AT,
    BUCKET,
    CALLS,
    NEW,
    OLD,
    OTHER,
    Target,
    by_obstore,
    forget_credentials,
    hide_package_of,
    on_asyncio,
)
from cloudtls import make_authority, tls_before

from accountstore import (
    AccountStore,
    BackendError,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    NotFoundError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]
pytest.importorskip("obstore")

errors: Any = import_module("accountstore.backends.obstore.errors")
opening: Any = import_module("accountstore.backends.obstore.opening")
backend: Any = import_module("accountstore.backends.obstore.backend")

S3 = Target("s3", "obstore")
EACH: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    **CALLS,
    "create": lambda store: store.save(OTHER, NEW, mode="create"),
    "delete": lambda store: store.delete(AT),
}


def never(*_: object) -> bool:
    return False


def believed(*_: object) -> bool:
    return True


def unbounded(_: float) -> timedelta:
    return timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_credentials(monkeypatch, str(tmp_path))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)


# --- connections ------------------------------------------------------------------------------------------------------


@by_obstore
async def test_a_certificate_that_is_not_trusted(stub: Stub, target: Target, tmp_path: Path) -> None:
    """A server whose certificate is not trusted is an error that names TLS, for good and without doubt: no request of
    any call has reached it.
    """
    _, certificate = make_authority(tmp_path)
    async with tls_before(stub.port, certificate) as url, AccountStore.open(target.config(url)) as store:
        for name, call in EACH.items():
            with pytest.raises(BackendError, match=r"TLS: .* \(UnknownIssuer\)") as caught:
                await call(store)
            assert type(caught.value) is BackendError, name
            assert not caught.value.temporary
    assert stub.count() == 0


@by_obstore
async def test_control_a_certificate_that_is_trusted(
    stub: Stub, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with SSL_CERT_FILE, which each client of fsspec honours, the same server is trusted."""
    authority, certificate = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    async with tls_before(stub.port, certificate) as url, AccountStore.open(target.config(url)) as store:
        await store.save(AT, NEW)
        assert await store.get(AT) == NEW


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port that takes no connection: its queue is full, and what comes is dropped."""
    queue = [socket.socket() for _ in range(9)]
    listener = queue.pop()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for waiting in queue:
        waiting.settimeout(0.3)
        try:
            waiting.connect(listener.getsockname())
        except TimeoutError:
            break
    else:
        pytest.skip("the queue of connections has no end here")
    yield int(listener.getsockname()[1])
    for each in (listener, *queue):
        each.close()


@pytest.mark.parametrize("attempts", [1, 4])
@by_obstore
async def test_a_server_that_takes_no_connection(full_port: int, target: Target, attempts: int) -> None:
    """A write that finds no connection ends in an error without doubt: connecting may take half of an operation's time,
    and then it is known that nothing was sent. A further attempt, which the deadline cuts short, asks a question first.
    """
    config = target.config(f"http://127.0.0.1:{full_port}", timeout=2, attempts=attempts)
    async with AccountStore.open(config) as store:
        for call in (store.save(AT, NEW), store.delete(AT)):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert not isinstance(caught.value, UncertainError)


@by_obstore
async def test_control_a_further_attempt_that_asks_nothing(
    full_port: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the question the attempt that the deadline cuts short leaves the write in doubt."""

    async def told(*_: object) -> None:
        backend.release()

    monkeypatch.setattr(backend.ObstoreBackend, "_reach", told)
    async with AccountStore.open(target.config(f"http://127.0.0.1:{full_port}", timeout=2)) as store:
        with pytest.raises(UncertainError):
            await store.save(AT, NEW)


@by_obstore
async def test_control_connecting_without_a_bound(
    full_port: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where connecting may take for ever, the deadline of the operation leaves it in doubt."""
    monkeypatch.setattr(backend, "_bound_of", unbounded)
    config = target.config(f"http://127.0.0.1:{full_port}", timeout=1, attempts=1)
    async with AccountStore.open(config) as store:
        with pytest.raises(UncertainError):
            await store.save(AT, NEW)


# --- credentials ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(status: int) -> AsyncGenerator[str]:
    """The URL of a server in this event loop that answers each request with this status."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def without_keys(stub: Stub, monkeypatch: pytest.MonkeyPatch, metadata: str) -> Any:
    """A storage on S3 whose credentials obstore itself asks a metadata service for: botocore is not there."""
    for name in ("botocore", "botocore.session"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata)
    return S3.config_of(f"s3://{BUCKET}/p", {"endpoint_url": stub.url}, conditions="trust", attempts=2)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 412])
async def test_a_metadata_service_that_has_no_credentials(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Whatever a metadata service answers, it says nothing of a document: each call is denied, deleting also, and the
    bucket is not asked.
    """
    async with answering(status) as url, AccountStore.open(without_keys(stub, monkeypatch, url)) as store:
        for name, call in EACH.items():
            with pytest.raises(DeniedError, match=rf"no credentials were found.*\({status}\)"):
                await call(store)
            assert stub.count() == 0, name


async def test_control_an_answer_of_a_metadata_service_taken_for_the_storages(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: taken for the storage's own, a 404 of the metadata service says that there is no document."""
    monkeypatch.setattr(errors, "_is_in", believed)
    async with answering(404) as url, AccountStore.open(without_keys(stub, monkeypatch, url)) as store:
        await store.delete(AT)
        with pytest.raises(NotFoundError):
            await store.get(AT)
    assert stub.count() == 0


async def test_a_metadata_service_that_fails_for_a_while(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of credentials that is busy may be asked again, and leaves no doubt of a write: it was not sent."""
    async with answering(503) as url, AccountStore.open(without_keys(stub, monkeypatch, url)) as store:
        with pytest.raises((DeniedError, UnavailableError)) as caught:
            await store.save(AT, NEW)
        assert not isinstance(caught.value, UncertainError)
    assert stub.count() == 0


# --- buckets ----------------------------------------------------------------------------------------------------------


@by_obstore
async def test_a_missing_bucket_is_no_missing_document(stub: Stub, target: Target) -> None:
    """Each call says that the bucket is missing, however often; so does a question, whose answer has no body."""
    async with AccountStore.open(target.config(stub.url, "missing-bucket")) as store:
        for _ in range(2):
            for name, call in EACH.items():
                with pytest.raises(BackendError, match="the bucket or container does not exist"):
                    await call(store)
                assert name


@by_obstore
async def test_control_a_question_that_is_not_asked_twice(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: by the answer to the question alone a missing bucket passes for a missing document."""
    monkeypatch.setattr(backend, "_is_unclear", never)
    async with AccountStore.open(target.config(stub.url, "missing-bucket")) as store:
        assert not await store.exists(AT)


@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
async def test_a_signature_in_urls_hides_no_answer(stub: Stub, engine: Literal["obstore", "fsspec"]) -> None:
    """obstore tells no URL that has a signature: what the storage answers is the storage's word all the same."""
    target = Target("azure", engine)
    signed = f"BlobEndpoint={stub.url}/{ACCOUNT};SharedAccessSignature=sv=1&sig=c2ln"
    config = partial(target.config_of, options={"connection_string": signed}, conditions="trust", attempts=1)
    async with AccountStore.open(config(f"az://{BUCKET}/p")) as store:
        assert not await store.exists(AT)
        with pytest.raises(NotFoundError):
            await store.get(AT)
        version = await store.save(AT, OLD, mode="create")
        with pytest.raises(ExistsError):
            await store.save(AT, NEW, mode="create")
        await store.save(AT, NEW, mode=version)
        with pytest.raises(ConflictError):
            await store.save(AT, OLD, mode=version)
        stub.faults([{"nth": 1, "kind": "503"}])
        with pytest.raises(UnavailableError):
            await store.get(AT)
    async with AccountStore.open(config("az://missing-bucket/p")) as store:
        with pytest.raises(BackendError, match="the bucket or container does not exist"):
            await store.get(AT)


# --- listings ---------------------------------------------------------------------------------------------------------

ODD = ("f//x.account", "f/../q.account", "f/./q.account", "f/g//y.account")


async def listed(store: AccountStore, *, recursive: bool) -> list[str]:
    return [entry.location.path async for entry in store.list("f" if not recursive else "", recursive=recursive)]


@pytest.mark.parametrize("page", [0, 1, 3], ids=lambda page: f"pages of {page}")
@pytest.mark.parametrize("odd", ODD)
@by_obstore
async def test_an_odd_key_hides_no_other(stub: Stub, target: Target, odd: str, page: int) -> None:
    """A key that obstore takes for no path, made by another tool, takes no document out of a listing, none comes twice,
    and the next page after an error begins where the last one ended.
    """
    stub.mode(page=page)
    others = [f"f/{name}.account" for name in "abcd"] + ["f/g/z.account", "e.account"]
    for key in (*others, odd):
        stub.put(target.service, BUCKET, f"p/{key}", JSON.encode(OLD))
    async with AccountStore.open(target.config(stub.url)) as store:
        found = await listed(store, recursive=True)
        assert sorted(set(found) & set(others)) == sorted(others)
        assert len(found) == len({*found})
        found = await listed(store, recursive=False)
        assert sorted(set(found) & set(others)) == sorted(others[:4])


@by_obstore
async def test_an_odd_key_without_the_package(stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the service's package on fsspec, which lists the rest, the error names it."""
    stub.put(target.service, BUCKET, f"p/{ODD[0]}", JSON.encode(OLD))
    config = target.config(stub.url)
    hide_package_of(monkeypatch, target.service)
    async with AccountStore.open(config) as store:
        with pytest.raises(UnsupportedError, match=f"install 'accountstore\\[{target.service}\\]'"):
            await listed(store, recursive=True)


def phantoms(stub: Stub, target: Target) -> list[str]:
    """Put documents into a bucket, and keys that obstore would show as other documents; return the documents."""
    names = ["+a.account", "0.account", "k.account", "m/empty.account"]
    for key in names:
        stub.put(target.service, BUCKET, key, JSON.encode(OLD) if "empty" not in key else b"")
    for key in ("/k.account", "/-x.account", "/y.account", "/z/z.account", "c.account/", "m/d.account/"):
        stub.put(target.service, BUCKET, key, b"" if key.endswith("/") else JSON.encode(NEW))
    return names


@by_obstore
async def test_a_listing_shows_no_phantom(stub: Stub, target: Target) -> None:
    """A listing of a bucket's root shows no key with a `/` at its beginning and no marker of a folder as a document,
    and an empty document as one.
    """
    names = phantoms(stub, target)
    config = target.config_of(f"{target.scheme}://{BUCKET}", target.options(stub.url))
    async with AccountStore.open(config) as store:
        found = [entry.location.path async for entry in store.list(recursive=True)]
    assert sorted({*found}) == sorted(names)


@by_obstore
async def test_a_listing_of_the_root_costs_one_request_more(stub: Stub, target: Target) -> None:
    """In a bucket without such keys one document is looked at, and no more; S3 is asked once if it goes on."""
    for name in "abc":
        stub.put(target.service, BUCKET, f"{name}.account", JSON.encode(OLD))
    config = target.config_of(f"{target.scheme}://{BUCKET}", target.options(stub.url))
    async with AccountStore.open(config) as store:
        assert len([entry async for entry in store.list(recursive=True)]) == 3
    asked = ["list", "head"] if target.service != "s3" else ["list", "head", "list"]
    assert [request["op"] for request in stub.log()] == asked


@by_obstore
async def test_control_a_listing_that_is_believed(stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: as obstore gives it the listing has documents that are not there."""

    async def believed(_: Any, stats: Any, __: Any) -> Any:
        return stats

    monkeypatch.setattr(backend.ObstoreBackend, "_named", believed)
    names = phantoms(stub, target)
    config = target.config_of(f"{target.scheme}://{BUCKET}", target.options(stub.url))
    async with AccountStore.open(config) as store:
        found = [entry.location.path async for entry in store.list(recursive=True)]
    assert {*found} - {*names} >= {"y.account", "c.account"}


# --- panics -----------------------------------------------------------------------------------------------------------


async def test_a_panic_of_the_client_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic in Rust, which is no `Exception`, ends as a refusal of the options."""

    def panic(*_: object, **__: object) -> None:
        raise type("PanicException", (BaseException,), {})("xyzzy")

    monkeypatch.setitem(opening._KINDS, "s3", panic)
    with pytest.raises(ConfigError, match="can make no client of them"):
        await AccountStore.open(S3.config("http://127.0.0.1:1"))


async def test_control_what_is_no_panic_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a `BaseException` that is none of Rust's is not caught."""

    class Ended(BaseException):
        pass

    monkeypatch.setitem(opening._KINDS, "gcs", partial(_raise, Ended()))
    with pytest.raises(Ended):
        await to_thread.run_sync(opening.open_store, "gcs", BUCKET, {"token": "anon"}, timedelta(1))


def _raise(error: BaseException, *_: object, **__: object) -> None:
    raise error
