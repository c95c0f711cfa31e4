"""Azure Blob Storage: what is asked for, what a listing holds, whose account it is, and errors of the client's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cloudservers import ACCOUNT_KEY
from cloudtargets import AT, BUCKET, CALLS, CANARY, NEW, OLD, TARGETS, Target, denied, on_asyncio, refusal

from accountstore import AccountStore, BackendError, TooLargeError, UnavailableError, UncertainError

if TYPE_CHECKING:
    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]

AZURE = Target("azure", "fsspec")
BLOB = {"ETag": '"0x1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", "x-ms-blob-type": "BlockBlob"}

by_each_engine = pytest.mark.parametrize(
    "target", [target for target in TARGETS if target.service == "azure"], ids=lambda target: target.engine
)


async def test_no_more_is_asked_for_than_a_document_may_have(stub: Stub) -> None:
    """A read asks for one byte more than the limit, so that a huge blob is not downloaded to be refused."""
    stub.put("azure", BUCKET, f"p/{AT.path}", b"x" * 100_000)
    async with AccountStore.open(AZURE.config(stub.url, max_bytes=1000)) as store:
        with pytest.raises(TooLargeError):
            await store.get(AT)
    (head,) = stub.heads()
    assert "\r\nx-ms-range: bytes=0-1000\r\n" in head


async def test_a_blob_that_ends_before_its_size_is_no_document(stub: Stub) -> None:
    """Where the parts of a blob are fewer bytes than its size, the answer counts as one that did not come."""
    part = {"kind": "answer", "status": 206}
    first = {**part, "nth": 1, "body": "x" * 50, "headers": {**BLOB, "Content-Range": "bytes 0-49/100"}}
    second = {**part, "nth": 2, "body": "x" * 10, "headers": {**BLOB, "Content-Range": "bytes 50-59/100"}}
    stub.faults([first, second])
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
        url, options = f"{scheme}://{BUCKET}@ours.dfs.core.windows.net/p", {"account_key": ACCOUNT_KEY, **given}
        async with AccountStore.open(target.config_of(url, options, attempts=1)) as store:
            with pytest.raises(UnavailableError):
                await store.get(AT)
        asked += [head.split(" ")[1] for head in stub.heads()]
    assert asked == ["ours.blob.core.windows.net:443", "theirs.blob.core.windows.net:443"]


async def test_the_filesystem_has_the_account_of_the_url(stub: Stub) -> None:
    """The filesystem that a store hands out reaches the same container of the same account."""
    config = AZURE.config_of(f"abfs://{BUCKET}@ours.dfs.core.windows.net/p", {"account_key": ACCOUNT_KEY})
    async with AccountStore.open(config) as store:
        fs, root = await store.filesystem()
        account: Any = fs
        assert (account.account_name, root) == ("ours", f"{BUCKET}/p")
    assert stub.count() == 0


@by_each_engine
async def test_a_url_with_an_account_and_no_container_is_refused(target: Target) -> None:
    """A URL that names an account but no container does not open."""
    config = target.config_of("abfs://@ours.dfs.core.windows.net/p", {"account_key": ACCOUNT_KEY})
    assert "must name a container" in await refusal(config)


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


@pytest.mark.parametrize(("kind", "closed"), [(Credential, 1), (BlockingCredential, 0)])
async def test_credentials_that_are_refused(stub: Stub, kind: type[Credential], closed: int) -> None:
    """Without valid credentials access is denied: nothing is sent or tried again, no secret is told, and the
    credentials are closed with the store; those whose closing would block are left to their owner.
    """
    credential = kind()
    options = {"account_name": "ours", "account_host": f"127.0.0.1:{stub.port}", "credential": credential}
    async with AccountStore.open(AZURE.config_of(f"az://{BUCKET}/p", options)) as store:
        await denied(store, "no valid credentials were found")
        assert (credential.asked, credential.closed) == (len(CALLS), 0)
    assert credential.closed == closed
    assert stub.count() == 0


def in_a_circle() -> Exception:
    """An error whose causes go round in a circle, with none of them about a connection."""
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize(
    ("name", "cause", "kind", "sent"),
    [
        ("ServiceResponseError", ConnectionRefusedError(), UncertainError, True),
        ("ServiceRequestError", ConnectionRefusedError(), UnavailableError, False),
        ("ServiceRequestError", in_a_circle(), UncertainError, True),
    ],
    ids=["answer", "refused", "circle"],
)
async def test_an_error_is_certain_where_no_connection_was_made(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    cause: Exception,
    kind: type[UnavailableError],
    sent: bool,
) -> None:
    """An error that the client had with its request says that nothing was sent where a refused connection caused it;
    one with the answer never does. Causes that go round in a circle are no reason, and are not followed for ever.
    """
    transport: Any = pytest.importorskip("azure.core.pipeline.transport").AioHttpTransport
    send = transport.send

    async def sends_and_fails(self: Any, request: Any, **options: Any) -> Any:
        await send(self, request, **options)
        raise getattr(pytest.importorskip("azure.core.exceptions"), name)("no answer") from cause

    async with AccountStore.open(AZURE.config(stub.url, attempts=1)) as store:
        await store.save(AT, OLD)
        monkeypatch.setattr(transport, "send", sends_and_fails)
        with pytest.raises(UnavailableError) as caught:
            await store.save(AT, NEW)
    assert type(caught.value) is kind
    assert caught.value.sent is sent
    assert AZURE.found(stub, AT) == NEW
