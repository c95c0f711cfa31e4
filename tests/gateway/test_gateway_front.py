"""Errors, limits and manners of the whole gateway: an envelope for everything, nothing told that is not a client's."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import anyio
import pytest
from doubles import Recording
from gateways import BASE, OAUTH, PASSWORD, STORAGE, ask_token, client, configured, request_of, serving, told
from starlette.applications import Starlette
from starlette.routing import Mount

from accountstore import AccountStore, Location, LocationError, StorageConfig, StoreConfig, errors
from accountstore.gateway import GatewayConfig, Limits, gateway
from accountstore.gateway.operations import OPERATIONS
from accountstore.gateway.problems import problem_of
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

pytestmark = pytest.mark.anyio

GET = f"{BASE}?fileName=a.account"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "notFound"),
        ("GET", "/v4.0", 404, "notFound"),
        ("GET", "/v3.0/email/client/email-client-account", 404, "notFound"),
        ("GET", f"{BASE}/", 404, "notFound"),
        ("GET", "/metrics", 404, "notFound"),
        ("GET", "/\xff", 404, "notFound"),
        ("POST", BASE, 405, "methodNotAllowed"),
        ("BREW", BASE, 405, "methodNotAllowed"),
        ("DELETE", "/connect/token", 405, "methodNotAllowed"),
        ("PUT", f"{STORAGE}/folder/copy/a?destPath=b", 501, "notImplemented"),
        ("DELETE", f"{STORAGE}/file/a.account%0A", 404, "notFound"),
    ],
)
async def test_every_refusal_is_an_envelope(
    store: AccountStore, method: str, path: str, status: int, code: str
) -> None:
    """Unknown paths, methods and operations are told as everything else, whatever the client says it accepts."""
    async with serving(store) as http:
        answer = await http.request(method, path, headers={"accept": "text/html, image/gif, */*; q=0.2"})
    assert told(answer) == (status, code)
    assert "retry-after" not in answer.headers


async def test_all_other_operations_of_the_api_are_told_by_name(store: AccountStore) -> None:
    """What the API has and the gateway does not is 501, with its name, before any token is asked for."""
    served = 0
    async with serving(store, token=False) as http:
        for method, path, name in OPERATIONS:
            url = "/v4.0" + path.replace("{path}", "x.account").replace("{storageName}", "main")
            status, code = told(answer := await http.request(method, url))
            if status == 501:
                assert code == "notImplemented"
                assert name in answer.json()["error"]["message"]
            else:
                assert (status, code) == (401, "unauthorized")
                served += 1
    assert served == 16


def test_the_operations_are_those_of_the_vendors_client() -> None:
    """The list has each operation of the vendor's Python client, by method and path."""
    import ast
    import importlib.util
    import re
    from pathlib import Path

    found = importlib.util.find_spec("AsposeEmailCloudSdk")
    if found is None or found.origin is None:
        pytest.skip("the vendor's client is not installed")
    theirs: set[tuple[str, str]] = set()
    for file in Path(found.origin).parent.glob("api/*_api.py"):
        with pytest.warns(SyntaxWarning) if "\\&" in (text := file.read_text()) else _nothing():
            tree = ast.parse(text)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            body = ast.get_source_segment(text, function) or ""
            path = re.search(r"path = '(/[^']+)'", body)
            method = re.search(r"'(GET|PUT|POST|DELETE)'", body)
            if path and method:
                theirs.add((method[1], re.sub(r"\{srcPath\}", "{path}", path[1])))
    assert {(one.method, one.path) for one in OPERATIONS} == theirs


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


async def test_head_and_options(store: AccountStore) -> None:
    """HEAD is GET without its body; OPTIONS names the methods of a path, and needs no token."""
    async with serving(store) as http:
        await http.put(BASE, json=request_of(PASSWORD))
        got, head = await http.get(GET), await http.head(GET)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]
        assert head.headers["etag"] == got.headers["etag"]
        missing = await http.head(f"{BASE}?fileName=no.account")
        assert (missing.status_code, missing.content) == (404, b"")
    async with serving(store, token=False) as http:
        for path, allowed in ((BASE, "GET, HEAD, OPTIONS, PUT"), ("/connect/token", "OPTIONS, POST")):
            options = await http.options(path)
            assert (options.status_code, options.headers["allow"]) == (204, allowed)
        assert (await http.post(BASE)).headers["allow"] == "GET, HEAD, OPTIONS, PUT"


async def test_every_answer_has_its_headers(store: AccountStore) -> None:
    """No answer is stored, sniffed, framed or sent on; over TLS, browsers stay there. Nothing names the server."""
    async with serving(store) as http:
        for url in (GET, "/no", "/health/live", "https://gateway/no"):
            headers = (await http.get(url)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert ("strict-transport-security" in headers) is url.startswith("https")
            assert not {"server", "content-encoding", "set-cookie", "access-control-allow-origin"} & headers.keys()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ("UnavailableError", 503, "unavailable"),
        ("UncertainError", 504, "uncertain"),
        ("FullError", 507, "full"),
        ("DeniedError", 403, "denied"),
        ("NotRegularError", 409, "notRegular"),
        ("BackendError", 502, "storageFailed"),
        ("UnsupportedError", 501, "notSupported"),
        ("KeyDeniedError", 503, "unavailable"),
    ],
)
async def test_what_the_storage_says_is_told(error: str, status: int, code: str) -> None:
    """Each failure of a storage has its status and code, and nothing of the storage's own text."""
    canary = "s3://bucket-zQ7k"
    operations: tuple[Literal["read", "write"], ...] = ("read", "write")
    for operation in operations:
        if (error, operation) == ("UnsupportedError", "write"):
            continue  # it overwrites then
        more = {"sent": False} if error == "UnavailableError" else {}
        fault = Fault(operation, error=getattr(errors, error)(canary, **more))
        async with serving(store_over({"main": Recording(None, [fault])})) as http:
            call = http.get(GET) if operation == "read" else http.put(BASE, json=request_of(PASSWORD))
            answer = await call
        assert told(answer) == (status, code)
        assert canary not in answer.text
        assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


def test_each_error_of_the_store_is_told_as_what_it_is() -> None:
    """Every class that an operation raises has a code of its own kind; only what nobody foresees is `storageFailed`."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    unknown = {kind for kind in kinds if problem_of(kind("text")).code == "storageFailed"}
    assert {errors.AccountStoreError, errors.BackendError} <= unknown
    backends = {kind for kind in kinds if issubclass(kind, errors.BackendError)}
    documents = {kind for kind in kinds if issubclass(kind, (errors.EncodeError, errors.DecodeError, LocationError))}
    assert not unknown & (documents | backends - {errors.BackendError})


async def test_a_failure_of_the_gateway_is_an_envelope(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody foresaw is 500 in the envelope; the log has where, and not the error's text."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("zQ7k")

    async with serving(store) as http:
        monkeypatch.setattr(AccountStore, "read", fail)
        answer = await http.get(GET)
    assert told(answer) == (500, "failed")
    assert "RuntimeError" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text
    assert (
        'in fail\n    raise RuntimeError("zQ7k")' in caplog.text
    )  # the source's line; the text comes from nowhere else
    assert caplog.text.count("zQ7k") == 1


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_body_has_its_limit(store: AccountStore) -> None:
    """A body is refused by its length before it is read, and by what has come of it where no length was told."""
    body = b"x" * 2000
    async with serving(store, configured(limits=Limits(body_bytes=1000))) as http:
        for path in (BASE, f"{STORAGE}/file/a.account", "/connect/token", "/no"):
            method = "POST" if path == "/connect/token" else "PUT"
            answer = await http.request(method, path, content=body)
            assert told(answer) == (413, "tooLarge")
            assert answer.headers["connection"] == "close"
            assert "retry-after" not in answer.headers
        exact = await http.put(BASE, content=b"x" * 1000)
        assert told(exact) == (400, "badRequest")
        token = http.headers["authorization"].partition(" ")[2]
    chunks = iter(range(0, len(body), 100))

    async def receive() -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        at = next(chunks)
        return {"type": "http.request", "body": body[at : at + 100], "more_body": True}

    app = gateway(store, configured(limits=Limits(body_bytes=1000)))
    status, told_so = await call(app, receive, token=token)
    assert (status, b"tooLarge" in told_so) == (413, True)
    assert next(chunks) < len(body) - 100


async def call(app: Any, body: Any, *, method: str = "PUT", path: str = BASE, token: str = "") -> tuple[int, bytes]:
    """A call of an ASGI application by hand. `body` is what `receive` is."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(method, path, token), body, send)
    return sent[0]["status"], sent[1]["body"]


def scope_of(method: str, path: str, token: str) -> dict[str, Any]:
    """What a server says of a request."""
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": headers,
    }


async def test_a_body_that_is_slow_or_breaks_off_is_told(store: AccountStore) -> None:
    """A body that does not come in time is 408, one that ends early 400; nothing is written."""
    app = gateway(store, configured(limits=Limits(body_seconds=0.05)))
    async with serving(store) as http:
        token = http.headers["authorization"].partition(" ")[2]

    async def never() -> None:
        await anyio.sleep_forever()

    async def gone() -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    for body, status, code in ((never, 408, b"tooSlow"), (gone, 400, b"badRequest")):
        assert (answer := await call(app, body, token=token))[0] == status
        assert code in answer[1]
    assert not [entry async for entry in store.list()]


async def test_a_client_that_has_gone_is_no_failure(store: AccountStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where the server cannot send any more, nothing is logged as a failure; the save has been made."""
    app = gateway(store, configured())
    async with serving(store) as http:
        token = http.headers["authorization"].partition(" ")[2]
    body = json.dumps(request_of(PASSWORD)).encode()

    async def receive() -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise OSError("gone")

    for path in (BASE, "/no"):
        await app(scope_of("PUT", path, token), receive, send)
    assert "failed" not in caplog.text
    assert await store.exists(Location("a.account"))


async def test_a_request_has_its_time() -> None:
    """A storage that does not answer in time is 504 in the envelope."""
    backend = Recording()

    async def wait(operation: str) -> None:
        if operation == "read":
            await anyio.sleep_forever()

    async with serving(store_over({"main": backend}), configured(limits=Limits(request_seconds=1))) as http:
        backend.before = wait
        assert told(await http.get(GET)) == (504, "timeout")
        backend.before = None
        assert told(await http.get(GET)) == (404, "notFound")


async def test_a_time_out_of_somebody_else_is_not_the_storages() -> None:
    """A `TimeoutError` that something within raises, as a service's own check of a token may, is a failure of the
    gateway's, which its log tells, and says nothing of a document.
    """

    async def authorize(_: object) -> None:
        raise TimeoutError

    store = store_over({"main": Recording()})
    async with serving(store, GatewayConfig(), authorize=authorize, token=False) as http:
        assert told(await http.get(GET)) == (500, "failed")


async def held(http: httpx.AsyncClient, backend: Recording, calls: int, then: Any) -> list[httpx.Response]:
    """The answers of gets that the storage holds until `then` has run."""
    go_on = anyio.Event()
    begun = 0
    answers: list[httpx.Response] = []

    async def hold(operation: str) -> None:
        nonlocal begun
        if operation == "read":
            begun += 1
            await go_on.wait()

    async def get() -> None:
        answers.append(await http.get(GET))

    backend.before = hold
    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(get)
        with anyio.fail_after(60):
            while begun < calls:
                await anyio.sleep(0.001)
        await then()
        go_on.set()
    return answers


async def test_so_many_requests_are_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a request is refused at once with 503, health and those under way are not."""
    backend = Recording()
    async with serving(store_over({"main": backend}), configured(limits=Limits(in_flight=3))) as http:

        async def then() -> None:
            refused = await http.get(GET)
            assert told(refused) == (503, "busy")
            assert refused.headers["retry-after"] == "1"
            assert (await http.get("/health/live")).status_code == 200
            # A path that only ends as that of health is bounded too.
            assert told(await http.get(f"{STORAGE}/file/health/live")) == (503, "busy")

        answers = await held(http, backend, 3, then)
        assert [told(answer) for answer in answers] == [(404, "notFound")] * 3
        assert told(await http.get(GET)) == (404, "notFound")


async def test_who_has_proved_nothing_keeps_nobody_out(store: AccountStore) -> None:
    """Those who ask for a token and do not send what it takes have turns of their own: as many, and no others."""
    go_on = anyio.Event()
    begun = anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b""

    async with serving(store, configured(limits=Limits(in_flight=1))) as http, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(http.post, "/connect/token", content=slow()))
        await begun.wait()
        assert told(await http.get(GET)) == (404, "notFound")
        assert told(await http.post("/connect/token")) == (503, "busy")
        go_on.set()


@pytest.mark.parametrize(("method", "path"), [("GET", "/openapi.json"), ("GET", "/docs"), ("OPTIONS", BASE)])
@pytest.mark.parametrize("waits", ["for the body", "for who reads"])
async def test_an_answer_keeps_nobody_out(store: AccountStore, method: str, path: str, waits: str) -> None:
    """Who is answered without a token, and sends no body that was announced or reads nothing, holds no turn."""
    begun, go_on = anyio.Event(), anyio.Event()
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if waits == "for the body":
            begun.set()
            await go_on.wait()
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        begun.set()
        await go_on.wait()
        statuses.append(message.get("status", 0))

    app = gateway(store, configured(limits=Limits(in_flight=1)))
    scope = scope_of(method, path, "")
    scope["headers"] = [(b"content-length", b"1")]
    async with serving(store) as http, anyio.create_task_group() as tasks:
        token = http.headers["authorization"].partition(" ")[2]
        tasks.start_soon(app, scope, receive, send)
        await begun.wait()
        assert (await call(app, _empty, method="GET", path=f"{STORAGE}/main/exist", token=token))[0] == 200
        go_on.set()
    assert statuses[0] in {200, 204}


async def test_a_client_has_so_many_at_once() -> None:
    """Beyond a client's own bound it is refused with 429; another client is not."""
    backend = Recording()
    clients = {"id": client(concurrency=2), "b": client()}
    async with serving(store_over({"main": backend}), configured(clients)) as http:
        token = (await ask_token(http, "b")).json()["access_token"]

        async def then() -> None:
            assert told(await http.get(GET)) == (429, "tooMany")
            headers = {"authorization": f"Bearer {token}"}
            assert (await http.get(f"{STORAGE}/main/exist", headers=headers)).status_code == 200

        await held(http, backend, 2, then)


async def test_a_shutdown_ends_what_it_has_begun() -> None:
    """When the lifespan ends, the store is closed; what comes then is told 503."""
    app = gateway(StoreConfig(storages={"main": StorageConfig("memory://")}), configured())
    body = partial(_empty)
    for _ in range(2):
        async with app.lifespan():
            assert (await call(app, body, method="GET", path="/health/live"))[0] == 200
        assert (await call(app, body, method="GET", path=f"{STORAGE}/main/exist"))[0] == 503


async def _empty() -> dict[str, Any]:
    await anyio.lowlevel.checkpoint()
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_it_can_be_mounted(store: AccountStore) -> None:
    """Within another application it serves the same below its path."""
    import httpx

    app = gateway(store, configured())
    outer = Starlette(routes=[Mount("/mail", app)])
    transport = httpx.ASGITransport(outer)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://g") as http:
        http.base_url = "http://g/mail"
        token = (await ask_token(http)).json()["access_token"]
        http.headers["authorization"] = f"Bearer {token}"
        assert (await http.put(BASE, json=request_of(PASSWORD))).status_code == 200
        assert (await http.get(GET)).json() == PASSWORD
        assert told(await http.get("/no")) == (404, "notFound")


@pytest.mark.parametrize("is_open", [True, False], ids=["open store", "own store"])
async def test_an_error_of_the_service_comes_out_as_it_is(store: AccountStore, is_open: bool) -> None:
    """What a service raises while the gateway's lifespan runs in its own is in no group of exceptions."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with gateway(store if is_open else config, configured()).lifespan():
            raise error
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None


async def test_what_is_no_http_is_passed_by(store: AccountStore) -> None:
    """A WebSocket is closed."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = gateway(store, configured())
    await app({"type": "websocket", "path": BASE, "headers": []}, _empty, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


# --- logs ------------------------------------------------------------------------------------------------------------


async def test_the_access_log_has_no_names_and_no_secrets(
    store: AccountStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A line a request: method, operation, status, time, client, request. No path, query, header or body, anywhere."""
    caplog.set_level(logging.DEBUG)
    async with serving(store, configured({"id": client(), "b": client()}), token=False) as http:
        token = (await ask_token(http)).json()["access_token"]
        http.headers["authorization"] = f"Bearer {token}"
        await http.put(BASE, json=request_of(OAUTH, "zQ7k.account"))
        answer = await http.get(f"{BASE}?fileName=zQ7k.account&access_token=zQ7k")
        await http.get("/zQ7k")
        await http.put(f"{STORAGE}/file/zQ7k.account", content=b"zQ7k")
        await ask_token(http, "zQ7k", "zQ7k")
    lines = [r.getMessage() for r in caplog.records if r.name == "accountstore.gateway.access"]
    assert len(lines) == 6
    assert "GET client_account.get 200 " in lines[2]
    assert lines[2].endswith(f"client=id request={answer.headers['x-request-id']}")
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("accountstore.gateway")]
    assert not [line for line in ours if "zQ7k" in line or token in line]
    everything = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert not [secret for secret in ("clientSecret", "refreshToken", token, "secret=") if secret in everything]


async def test_a_gateway_of_no_clients_is_refused(store: AccountStore) -> None:
    """A gateway that nobody could use is not made."""
    with pytest.raises(errors.ConfigError, match="keys: none"):
        gateway(store, GatewayConfig())
