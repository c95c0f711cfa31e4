"""Google Cloud Storage through gcsfs: credentials and their refreshing, names in URLs, errors of any shape."""

from __future__ import annotations

import asyncio
import json
import threading
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cloudtargets import AT, BUCKET, CALLS, CANARY, NEW, OLD, OTHER, Target, denied, forget_credentials, on_asyncio
from running import HUNG

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
    """An answer that is not the error that Google describes, as of a proxy, is known by its status alone; but a page
    with 404 says nothing of a document.
    """
    missing = UnavailableError if shape == "a page" else NotFoundError
    kinds = {403: DeniedError, 404: missing, 503: UnavailableError, 400: BackendError}
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
@pytest.mark.parametrize(
    "odd", ["9999-12-31T23:59:59.999-01:00", "0000-00-00T00:00:00Z", "soon", "2026-13-41T99:99:99Z"]
)
async def test_one_odd_date_hides_nothing(stub: Stub, odd: str) -> None:
    """A date that no calendar has is none: its document and the others are listed, and it is read."""
    GCS.put(stub, AT, NEW)
    data = (stub.get("gcs", BUCKET, f"p/{AT.path}") or b"").decode()
    dates = {AT: odd, OTHER: "2026-11-27T12:00:00.000Z"}
    about = [
        json.dumps({"name": f"p/{at.path}", "size": "2", "generation": "5", "updated": date})
        for at, date in dates.items()
    ]
    answer = {"nth": 1, "times": 9, "kind": "answer", "status": 200}
    headers = {"X-Goog-Generation": "5", "Last-Modified": odd}
    bodies = {"head": about[0], "list": f'{{"items": [{", ".join(about)}]}}', "get": data}
    stub.faults([{**answer, "op": op, "body": body, "headers": headers} for op, body in bodies.items()])
    async with AccountStore.open(GCS.config(stub.url)) as store:
        found = {entry.location: entry.modified async for entry in store.list(AT.folder)}
        assert found == {AT: None, OTHER: datetime(2026, 11, 27, 12, tzinfo=UTC)}
        assert (await store.stat(AT)).modified is None
        assert (await store.read(AT)).document == NEW


@on_asyncio
async def test_control_an_object_has_a_time(stub: Stub) -> None:
    """The control: where the time is told it is there, about now."""
    GCS.put(stub, AT, NEW)
    async with AccountStore.open(GCS.config(stub.url)) as store:
        listed = [one.modified async for one in store.list(AT.folder)]
        for told in ((await store.stat(AT)).modified, (await store.read(AT)).modified, *listed):
            assert told is not None
            assert abs(told - datetime.now(UTC)) < timedelta(minutes=5)


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that anything below asks for beside the storage itself; none of them is reached."""
    asked: list[str] = []

    def ask(_session: object, method: str, url: str, **_: object) -> None:
        assert method
        asked.append(url)
        raise pytest.importorskip("requests").ConnectionError

    monkeypatch.setattr(pytest.importorskip("requests").Session, "request", ask)
    return asked


def key_file() -> dict[str, str]:
    """The content of a service account's key file, whose token server is nowhere."""
    rsa: Any = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    forms: Any = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    secret = rsa.generate_private_key(65537, 2048).private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    about = {"type": "service_account", "client_email": "a@example.org", "token_uri": "https://127.0.0.1:9/token"}
    return {**about, "private_key": secret.decode()}


async def save_with(stub: Stub, token: object) -> Exception | None:
    """The error of a save with a token."""
    async with AccountStore.open(GCS.config_of(f"gs://{BUCKET}/p", GCS.options(stub.url) | {"token": token})) as store:
        try:
            await store.save(AT, OLD)
        except BackendError as error:
            return error
    return None


@on_asyncio
async def test_a_bearer_token_goes_to_the_storage_alone(stub: Stub, asked: list[str]) -> None:
    """A token in the options is used as it is; no service is asked what it is."""
    assert await save_with(stub, f"ya29.{CANARY}") is None
    assert f"authorization: bearer ya29.{CANARY.lower()}" in stub.heads()[0].lower()
    assert asked == []


@on_asyncio
@pytest.mark.parametrize("form", ["text", "table", "file"])
async def test_a_key_is_taken_in_each_form(stub: Stub, asked: list[str], tmp_path: Path, form: str) -> None:
    """The text of a key file, its table and its path are one: its own token server is asked, and no other."""
    key = key_file()
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key))
    error = await save_with(stub, {"text": json.dumps(key), "table": key, "file": str(path)}[form])
    assert isinstance(error, DeniedError)
    assert set(asked) == {"https://127.0.0.1:9/token"}
    assert stub.count() == 0


@on_asyncio
async def test_control_gcsfs_sends_what_it_does_not_understand(
    stub: Stub, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: handed on as it is, the text of a key goes to a service that is asked what token it is."""
    monkeypatch.setattr("accountstore.backends.gcs_credentials.as_token", copy)
    assert await save_with(stub, json.dumps(key_file())) is not None
    assert set(asked) == {"https://oauth2.googleapis.com/tokeninfo"}


@on_asyncio
@pytest.mark.parametrize("token", [None, "google_default"])
async def test_a_key_file_that_is_missing_is_named(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None
) -> None:
    """Where the environment names a key file that is not there, access is denied by that name, and nobody's rights are
    used instead.
    """
    forget_credentials(monkeypatch, str(tmp_path))
    path = tmp_path / "missing-key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    error = await save_with(stub, token)
    assert isinstance(error, DeniedError)
    assert f"GOOGLE_APPLICATION_CREDENTIALS names no file that is there: {path}" in str(error)
    assert stub.count() == 0
    path.write_text("{}")
    assert f"GOOGLE_APPLICATION_CREDENTIALS names {path}" in str(await save_with(stub, token))


@on_asyncio
async def test_a_variable_that_holds_a_key_shows_nowhere(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the variable holds the key itself by mistake, the error names the variable only."""
    forget_credentials(monkeypatch, str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f'{{"private_key": "{CANARY}"}}')
    error = await save_with(stub, None)
    assert "GOOGLE_APPLICATION_CREDENTIALS names no file" in str(error)
    assert CANARY not in str(error)


@on_asyncio
async def test_control_without_the_variable_nobodys_rights_are_used(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The control: where nothing names credentials, gcsfs finds none, and a public bucket can be used."""
    forget_credentials(monkeypatch, str(tmp_path))
    assert await save_with(stub, None) is None


class Slow:
    """Credentials whose server does not answer before the gate is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = 0

    def refresh(self, keys: Any, _request: object) -> None:
        self.begun += 1
        self.gate.wait(HUNG)
        keys.token, keys.expiry = "fresh", keys.after(60)


async def wait_together(stub: Stub, slow: Slow) -> int:
    """How many threads wait for a token server that does not answer, for forty calls, twice."""
    keys = credentials(None)
    keys.refresh = partial(slow.refresh, keys)
    options = GCS.options(stub.url) | {"token": keys}
    try:
        async with AccountStore.open(GCS.config_of(f"gs://{BUCKET}/p", options, timeout=1, attempts=1)) as store:

            async def get() -> None:
                with pytest.raises(UnavailableError, match="no answer within 1 s"):
                    await store.get(AT)

            for _ in range(2):
                async with anyio.create_task_group() as group:
                    for _ in range(40):
                        group.start_soon(get)
            waiting = slow.begun
            slow.gate.set()
            with pytest.raises(NotFoundError):
                await store.get(AT)
    finally:
        slow.gate.set()
    return waiting


async def test_one_thread_waits_for_a_token_server(stub: Stub) -> None:
    """While a token server does not answer, one thread waits for it, whatever the number of calls; each is back within
    its deadline, and all work again when it answers.
    """
    assert await wait_together(stub, Slow()) == 1


@on_asyncio
async def test_control_each_call_has_a_thread(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where each call renews for itself, as many threads wait as there are."""

    async def renew(backend: Any, fs: Any) -> None:
        if not fs.credentials.credentials.valid:
            await backend._apart(lambda: fs.credentials.credentials.refresh(None))

    monkeypatch.setattr("accountstore.backends.gcs.GCSBackend._renew", renew)
    assert await wait_together(stub, Slow()) > 1


@on_asyncio
async def test_a_request_to_a_token_server_has_a_deadline(stub: Stub) -> None:
    """What a thread waits for a token server is bounded, for nobody can stop it."""
    keys = credentials(None)
    bounds: list[object] = []

    def refresh(request: Any) -> None:
        bounds.append(request.keywords["timeout"])
        keys.token, keys.expiry = "fresh", keys.after(60)

    keys.refresh = refresh
    assert await save_with(stub, keys) is None
    assert bounds == [10.0]


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
