"""Google Cloud Storage through gcsfs: credentials and their refreshing, names in URLs, errors of any shape."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import AT, BUCKET, CALLS, CANARY, NEW, OLD, Target, denied, forget_credentials, on_asyncio

from accountstore import AccountStore, BackendError, DeniedError, Location, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]

GCS = Target("gcs", "fsspec")


def credentials(token: str | None, minutes: float | None = 60, error: Exception | None = None) -> Any:
    """Credentials that end in so many minutes (None: never), and are not valid without a token; `refreshes` has what
    runs where they were refreshed: an event loop, or None.
    """
    library: Any = pytest.importorskip("google.oauth2.credentials")

    class Credentials(library.Credentials):  # type: ignore[misc]  # of a package that may be missing
        def __init__(self) -> None:
            super().__init__(token, expiry=None if minutes is None else self.after(minutes))
            self.refreshes: list[object] = []

        @staticmethod
        def after(minutes: float) -> datetime:
            return datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)

        def refresh(self, request: object) -> None:
            self.refreshes.append(asyncio._get_running_loop())
            if error is not None:
                raise error
            self.token, self.expiry = "fresh", self.after(60)

    return Credentials()


@pytest.mark.parametrize(
    ("token", "minutes", "refreshes"),
    [(None, 60, [None]), ("kept", -1, [None]), ("kept", 4, [None]), ("kept", 60, []), ("kept", None, [])],
    ids=["none", "ended", "ending", "fresh", "endless"],
)
async def test_credentials_are_refreshed_before_the_request(
    stub: Stub, token: str | None, minutes: float | None, refreshes: list[object]
) -> None:
    """Credentials that are not valid, or not for long, are refreshed once, before the request, and never on an event
    loop, which a request for them would block; others are used as they are.
    """
    keys = credentials(token, minutes)
    options = GCS.options(stub.url) | {"token": keys}
    config = GCS.config_of(f"gs://{BUCKET}/p", options, conditions="trust")
    async with AccountStore.open(config) as store:
        await store.save(AT, OLD)
        assert await store.get(AT) == OLD
    assert keys.refreshes == refreshes
    bearer = "fresh" if refreshes else "kept"
    assert [f"authorization: bearer {bearer}\r\n" in head.lower() for head in stub.heads()] == [True, True]


NO_REFRESH_TOKEN = "The credentials do not contain the necessary fields need to refresh the access token."


@on_asyncio
@pytest.mark.parametrize(
    ("name", "text"),
    [("RefreshError", CANARY), ("RefreshError", NO_REFRESH_TOKEN), ("TransportError", CANARY)],
    ids=["refused", "without a refresh token", "of a server that is not there"],
)
async def test_credentials_that_cannot_be_refreshed(stub: Stub, name: str, text: str) -> None:
    """Where credentials cannot be renewed access is denied: nothing is sent, and no secret is told."""
    keys = credentials(None, error=getattr(pytest.importorskip("google.auth.exceptions"), name)(text))
    options = GCS.options(stub.url) | {"token": keys}
    async with AccountStore.open(GCS.config_of(f"gs://{BUCKET}/p", options)) as store:
        await denied(store, "no valid credentials were found")
    assert len(keys.refreshes) == len(CALLS)
    assert stub.count() == 0


@on_asyncio
async def test_credentials_that_are_not_there(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the machine has no credentials of Google's, access is denied, and nothing is sent."""
    forget_credentials(monkeypatch, str(tmp_path))
    options = {"token": "google_default", "endpoint_url": stub.url}
    async with AccountStore.open(GCS.config_of(f"gs://{BUCKET}/p", options)) as store:
        await denied(store, r"no valid credentials were found \(DefaultCredentialsError\)")
    assert stub.count() == 0


@on_asyncio
async def test_the_name_of_an_object_is_one_part_of_its_url(stub: Stub) -> None:
    """The slashes in a name are percent-encoded, as Google's interface asks for."""
    at = Location("a b.account", folder="f/g")
    async with AccountStore.open(GCS.config(stub.url)) as store:
        version = await store.save(at, OLD)
        await store.get(at)
        await store.stat(at)
        await store.delete(at, version=version)
    paths = [head.split(" ")[1].partition("?")[0] for head in stub.heads()]
    where = f"storage/v1/b/{BUCKET}/o"
    name = "p%2Ff%2Fg%2Fa%20b.account"
    assert paths == [f"/upload/{where}", f"/download/{where}/{name}", f"/{where}/{name}", f"/{where}/{name}"]


SHAPES = {
    "a list": "[]",
    "nothing in it": "{}",
    "null": "null",
    "a number": "3",
    "a text in it": '{"error": "no"}',
    "no reasons": '{"error": {"errors": [], "message": "no"}}',
    "reasons of another kind": '{"error": {"errors": 3, "message": "no"}}',
    "no message": '{"error": {"errors": [{"reason": "no"}]}}',
    "a page": "<html>no</html>",
    "no text": "\xff\xfe\x80",
    "nothing": "",
}


@on_asyncio
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_error_of_another_shape_is_named_by_its_status(stub: Stub, shape: str) -> None:
    """An answer that is not the error that Google describes, as of a proxy, is known by its status alone."""
    kinds = {403: DeniedError, 404: NotFoundError, 503: UnavailableError, 400: BackendError}
    answer = {"nth": 1, "times": 9, "kind": "answer", "body": SHAPES[shape], "headers": {"Content-Type": "text/x"}}
    async with AccountStore.open(GCS.config(stub.url, attempts=1)) as store:
        for status, kind in kinds.items():
            stub.faults([{**answer, "status": status}])
            with pytest.raises(BackendError) as caught:
                await store.get(AT)
            assert type(caught.value) is kind, status


@on_asyncio
async def test_an_object_without_a_time(stub: Stub) -> None:
    """What tells no time of change has none: in a listing, a stat and a read."""
    about = f'{{"name": "p/{AT.path}", "size": "2", "generation": "5"}}'
    answer = {"nth": 1, "times": 9, "kind": "answer", "status": 200, "headers": {"X-Goog-Generation": "5"}}
    GCS.put(stub, AT, NEW)
    data = stub.get("gcs", BUCKET, f"p/{AT.path}") or b""
    bodies = {"head": about, "list": f'{{"items": [{about}]}}', "get": data.decode()}
    stub.faults([{**answer, "op": op, "body": body} for op, body in bodies.items()])
    async with AccountStore.open(GCS.config(stub.url)) as store:
        found = [await store.stat(AT), *[entry async for entry in store.list(AT.folder)]]
        assert [(one.location, one.size, one.modified) for one in found] == [(AT, 2, None)] * 2
        read = await store.read(AT)
        assert (read.document, read.version, read.modified) == (NEW, found[0].version, None)


@on_asyncio
async def test_control_an_object_has_a_time(stub: Stub) -> None:
    """The control: where the time is told it is there, about now."""
    GCS.put(stub, AT, NEW)
    async with AccountStore.open(GCS.config(stub.url)) as store:
        listed = [one.modified async for one in store.list(AT.folder)]
        for told in ((await store.stat(AT)).modified, (await store.read(AT)).modified, *listed):
            assert told is not None
            assert abs(told - datetime.now(UTC)) < timedelta(minutes=5)


@on_asyncio
@pytest.mark.parametrize("as_it_comes", [False, True], ids=["", "control"])
async def test_a_delete_is_not_sent_again_below_the_store(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, as_it_comes: bool
) -> None:
    """A delete whose connection was closed without an answer is not sent again by aiohttp: it would remove what others
    have made meanwhile. The control: as aiohttp comes, it is.
    """
    backend: Any = pytest.importorskip("accountstore.backends.gcs").GCSBackend
    opened = backend._open

    async def open_as_it_comes(self: Any) -> Any:
        fs = await opened(self)
        fs.session._retry_connection = True
        return fs

    if as_it_comes:
        monkeypatch.setattr(backend, "_open", open_as_it_comes)
    GCS.put(stub, AT, OLD)
    async with AccountStore.open(GCS.config(stub.url, attempts=1)) as store:
        assert await store.exists(AT)  # aiohttp repeats on a connection that was used before
        stub.faults([{"nth": 1, "kind": "drop-after", "op": "delete"}])
        await store.delete(AT)
        assert [request["op"] for request in stub.log()].count("delete") == 1 + as_it_comes
