"""Azure Blob Storage: what is asked for, what a listing holds, whose account it is, and errors of the client's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import AT, AZURE_KEY, BUCKET, CALLS, NEW, OLD, TARGETS, Target, on_asyncio

from accountstore import (
    AccountStore,
    BackendError,
    ConfigError,
    DeniedError,
    TooLargeError,
    UnavailableError,
    UncertainError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]

CANARY = "zQ7kzQ7k"
AZURE = Target("azure", "fsspec")
BLOB = {"ETag": '"0x1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", "x-ms-blob-type": "BlockBlob"}

by_each_engine = pytest.mark.parametrize(
    "target", [target for target in TARGETS if target.service == "azure"], ids=lambda target: target.engine
)


# --- requests and answers ---------------------------------------------------------------------------------------------


async def test_no_more_is_asked_for_than_a_document_may_have(stub: Stub) -> None:
    """A read asks for one byte more than the limit, so that a huge blob is not downloaded to be refused."""
    stub.put("azure", BUCKET, f"p/{AT.path}", b"x" * 100_000)
    stub.mode(heads=True)
    async with AccountStore.open(AZURE.config(stub.url, max_bytes=1000)) as store:
        with pytest.raises(TooLargeError):
            await store.get(AT)
    (head,) = stub.heads()
    assert "\r\nx-ms-range: bytes=0-1000\r\n" in head


async def test_a_blob_that_ends_before_its_size_is_no_document(stub: Stub) -> None:
    """Where the parts of a blob are fewer bytes than its size, the answer counts as one that did not come."""
    part = {"kind": "answer", "status": 206}
    stub.faults(
        [
            {**part, "nth": 1, "body": "x" * 50, "headers": {**BLOB, "Content-Range": "bytes 0-49/100"}},
            {**part, "nth": 2, "body": "x" * 10, "headers": {**BLOB, "Content-Range": "bytes 50-59/100"}},
        ]
    )
    async with AccountStore.open(AZURE.config(stub.url, attempts=1)) as store:
        with pytest.raises(UnavailableError, match="the answer was cut short"):
            await store.get(AT)
    assert stub.count() == 2


async def test_a_folder_in_a_listing_is_no_document(stub: Stub) -> None:
    """An account with a hierarchy lists its folders too, without a tag: they are left out, whatever their name."""
    about = "<Content-Length>0</Content-Length><BlobType>BlockBlob</BlobType>"
    folder = (
        f"<Blob><Name>p/f/b.account</Name><Properties>{about}<ResourceType>directory</ResourceType></Properties></Blob>"
    )
    blob = f"<Blob><Name>p/f/a.account</Name><Properties>{about}<Etag>0x1</Etag></Properties></Blob>"
    xml = f'<?xml version="1.0"?><EnumerationResults><Blobs>{folder}{blob}</Blobs><NextMarker/></EnumerationResults>'
    answer = {"nth": 1, "times": 9, "kind": "answer", "status": 200, "op": "list", "body": xml}
    stub.faults([{**answer, "headers": {"Content-Type": "application/xml"}}])
    async with AccountStore.open(AZURE.config(stub.url)) as store:
        for recursive in (False, True):
            assert [entry.location async for entry in store.list(AT.folder, recursive=recursive)] == [AT]


async def test_a_missing_container_is_told_where_the_answer_has_no_code(stub: Stub) -> None:
    """The first question about a document asks for the container too, where a server tells of neither in its answer."""
    stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": 404, "op": "head"}])
    for call in ("stat", "exists"):
        async with AccountStore.open(AZURE.config(stub.url, "missing-1")) as store:
            with pytest.raises(BackendError, match="the bucket or container does not exist") as caught:
                await getattr(store, call)(AT)
            assert type(caught.value) is BackendError
    async with AccountStore.open(AZURE.config(stub.url)) as store:
        assert not await store.exists(AT)


# --- the account ------------------------------------------------------------------------------------------------------


@by_each_engine
@pytest.mark.parametrize("scheme", ["abfs", "abfss", "az"])
async def test_a_url_names_the_account(
    stub: Stub, target: Target, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The host in a URL with `container@` names the account, unless an option does: its server is the one asked for.

    The client is sent through a proxy, which tells the name and refuses.
    """
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", stub.url)
    asked: list[str] = []
    for given in ({}, {"account_name": "theirs"}):
        stub.reset()
        stub.mode(heads=True)
        url, options = f"{scheme}://{BUCKET}@ours.dfs.core.windows.net/p", {"account_key": AZURE_KEY, **given}
        async with AccountStore.open(target.config_of(url, options, attempts=1)) as store:
            with pytest.raises(UnavailableError):
                await store.get(AT)
        asked += [head.split(" ")[1] for head in stub.heads()]
    assert asked == ["ours.blob.core.windows.net:443", "theirs.blob.core.windows.net:443"]


async def test_the_filesystem_has_the_account_of_the_url(stub: Stub) -> None:
    """The filesystem that a store hands out reaches the same container of the same account."""
    options = {"account_key": AZURE_KEY}
    url = f"abfs://{BUCKET}@ours.dfs.core.windows.net/p"
    async with AccountStore.open(AZURE.config_of(url, options)) as store:
        fs, root = await store.filesystem()
        account: Any = fs
        assert (account.account_name, root) == ("ours", f"{BUCKET}/p")
    assert stub.count() == 0


@by_each_engine
async def test_a_url_with_an_account_and_no_container_is_refused(target: Target) -> None:
    """A URL that names an account but no container does not open."""
    config = target.config_of("abfs://@ours.dfs.core.windows.net/p", {"account_key": AZURE_KEY})
    with pytest.raises(ConfigError, match="must name a container"):
        async with AccountStore.open(config):
            raise AssertionError("it opened")


class Credential:
    """Credentials of a machine's identity that are refused; a client asks for a token before it connects."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = 0

    async def get_token(self, *_scopes: str, **_options: Any) -> Any:
        self.asked += 1
        raise pytest.importorskip("azure.core.exceptions").ClientAuthenticationError(CANARY)

    async def close(self) -> None:
        self.closed += 1


class BlockingCredential(Credential):
    """The same of the blocking client, whose closing is no coroutine."""

    def close(self) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # as said
        self.closed += 1


async def test_credentials_that_are_refused(stub: Stub) -> None:
    """Without valid credentials access is denied: nothing is sent or tried again, no secret is told, and the
    credentials are closed with the store.
    """
    credential = Credential()
    options = {"account_name": "ours", "account_host": f"127.0.0.1:{stub.port}", "credential": credential}
    async with AccountStore.open(AZURE.config_of(f"az://{BUCKET}/p", options)) as store:
        for number, call in enumerate(CALLS.values(), 1):
            with pytest.raises(DeniedError, match="no valid credentials were found") as caught:
                await call(store)
            assert CANARY not in str(caught.value)
            assert not caught.value.temporary
            assert credential.asked == number
        assert credential.closed == 0
    assert credential.closed == 1
    assert stub.count() == 0


async def test_blocking_credentials_are_left_alone(stub: Stub) -> None:
    """Credentials whose closing would block are not closed: they are their owner's."""
    credential = BlockingCredential()
    options = {"account_name": "ours", "account_host": f"127.0.0.1:{stub.port}", "credential": credential}
    async with AccountStore.open(AZURE.config_of(f"az://{BUCKET}/p", options)) as store:
        with pytest.raises(DeniedError):
            await store.get(AT)
    assert credential.closed == 0


# --- errors of the client's own ---------------------------------------------------------------------------------------


def after_sending(monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Exception]) -> None:
    """Let the client's transport send each request, and then fail with an error of the library's."""
    transport: Any = pytest.importorskip("azure.core.pipeline.transport").AioHttpTransport
    send = transport.send

    async def sent(self: Any, request: Any, **options: Any) -> Any:
        await send(self, request, **options)
        raise make(pytest.importorskip("azure.core.exceptions"))

    monkeypatch.setattr(transport, "send", sent)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def in_a_circle() -> Exception:
    """An error whose causes go round in a circle, with none of them about a connection."""
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    return first


async def test_an_error_of_the_answer_is_uncertain_whatever_caused_it(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that the client had with an answer says that the request was sent, so that a write may have been made,
    also where a refused connection is among its causes.
    """
    async with AccountStore.open(AZURE.config(stub.url, attempts=1)) as store:
        await store.save(AT, OLD)
        after_sending(
            monkeypatch, lambda errors: caused(errors.ServiceResponseError("no answer"), ConnectionRefusedError())
        )
        with pytest.raises(UncertainError):
            await store.save(AT, NEW)
    assert AZURE.found(stub, AT) == NEW


@pytest.mark.parametrize(
    ("cause", "kind", "sent"),
    [(ConnectionRefusedError(), UnavailableError, False), (in_a_circle(), UncertainError, True)],
    ids=["refused", "circle"],
)
async def test_an_error_of_the_request_is_certain_where_no_connection_was_made(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, cause: Exception, kind: type[UnavailableError], sent: bool
) -> None:
    """An error that the client had with its request says that nothing was sent where a refused connection caused it;
    causes that go round in a circle are no reason, and are not followed for ever.
    """
    async with AccountStore.open(AZURE.config(stub.url, attempts=1)) as store:
        after_sending(monkeypatch, lambda errors: caused(errors.ServiceRequestError("not sent"), cause))
        with pytest.raises(UnavailableError) as caught:
            await store.save(AT, NEW)
    assert type(caught.value) is kind
    assert caught.value.sent is sent
