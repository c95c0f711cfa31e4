"""Canary secrets, driven through every success and failure of the gateway: none shows but to who may have it."""

from __future__ import annotations

import json
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import Recording
from gateways import BASE, MULTI, STORAGE, ask_token, client, configured, request_of, serving

from accountstore import AccountStoreError, DeniedError, FullError, Location, UnavailableError, errors
from accountstore.gateway import Limits, Metrics, gateway
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

pytestmark = pytest.mark.anyio

MARK = "zQ7k"
KEY = f"{MARK}-key-" + "k" * 40
SECRET = f"{MARK}-client-secret"
HASH = "$argon2id$v=19$m=8,t=1,p=1$LI0XhDxDoBCTUizc19TM+Q$UoxTSFq+NlLqrYtAjSt1kx4ZMuuU3VcAJpNTzI+VhiA"
CREDENTIALS = {
    "login": "me",
    "discriminator": "EmailClientAccountOauthCredentials",
    "clientId": "id",
    "clientSecret": f"{MARK}-1",
    "refreshToken": f"{MARK}-2",
    "accessToken": f"{MARK}-3",
    "own": f"{MARK}-4",
}
ACCOUNT = {"host": "h", "port": 1, "credentials": CREDENTIALS}
AT = Location("a.account")


def bodies() -> Iterator[bytes]:
    """Bodies of saves, good and bad, with canaries at every place that an error could quote."""
    good = request_of(ACCOUNT)
    yield json.dumps(good).encode()
    for key in ("host", "port", "securityOptions", "credentials", "cacheFile"):
        wrong: tuple[Any, ...] = (MARK, {MARK: MARK}, [MARK], None)
        for value in wrong:
            yield json.dumps(request_of({**ACCOUNT, key: value})).encode()
    for key in CREDENTIALS:
        odd: tuple[Any, ...] = ({MARK: MARK}, 7, [MARK], "" if key == "refreshToken" else MARK)
        for value in odd:
            yield json.dumps(request_of({**ACCOUNT, "credentials": {**CREDENTIALS, key: value}})).encode()
    yield f'{{"{MARK}":'.encode()
    yield f'"{MARK}"'.encode()
    yield json.dumps(good).encode().replace(b'"port": 1', b'"port": 1, "port": "%s"' % MARK.encode())
    yield json.dumps({**good, "storageFile": {"fileName": "a.account", "folderPath": [MARK]}}).encode()
    yield b"\xff" + MARK.encode()


def shown(value: object) -> list[str]:
    """Where a canary shows in what error reporters make of an object: its attributes, to a depth."""
    hits: list[str] = []
    queue: deque[tuple[str, object, int]] = deque([("", value, 0)])
    seen: set[int] = set()
    while queue:
        path, each, depth = queue.popleft()
        if id(each) in seen or depth > 6:
            continue
        seen.add(id(each))
        if MARK in repr(each)[:100_000]:
            hits.append(path or type(each).__name__)
        parts: dict[str, Any] = dict(getattr(each, "__dict__", {}))
        for name in getattr(type(each), "__struct_fields__", ()):
            parts[name] = getattr(each, name)
        if isinstance(each, dict):
            parts |= {str(key): part for key, part in each.items()}
        elif isinstance(each, list | tuple):
            parts |= {str(at): part for at, part in enumerate(each)}
        if type(each).__module__.startswith(("accountstore.gateway", "builtins")):
            queue.extend((f"{path}.{name}", part, depth + 1) for name, part in parts.items())
    return hits


async def drive(http: httpx.AsyncClient) -> list[httpx.Response]:
    """Every call, with every body."""
    answers = [await http.put(BASE, content=body) for body in bodies()]
    answers += [await http.put(f"{STORAGE}/file/b.account", content=body) for body in bodies()]
    answers += [await http.put(MULTI, content=body.replace(b"a.account", b"a.multi.account")) for body in bodies()]
    for url in (BASE, MULTI):
        for name in ("a.account", "a.multi.account", f"{MARK}.txt", f"{MARK}.account", ".."):
            answers.append(await http.get(url, params={"fileName": name, "folder": MARK, "token": MARK}))
    for path in (f"/{MARK}", f"{STORAGE}/file/{MARK}", f"{STORAGE}/{MARK}/exist", f"{STORAGE}/folder/{MARK}/.."):
        answers.append(await http.get(path, params={"access_token": MARK}))
    answers.append(await http.request(f"{MARK}", BASE))
    for secret in (SECRET, f"{MARK}-wrong"):
        answers.append(await ask_token(http, f"{MARK}-nobody", secret))
        answers.append(await ask_token(http, "id", secret))
    answers.append(await http.get(BASE, headers={"authorization": f"Bearer {MARK}"}))
    answers.append(await http.get(BASE, headers={"authorization": f"Basic {MARK}", "cookie": MARK}))
    return answers


FAILURES: list[Any] = [
    None,
    *(kind(f"s3://{MARK}") for kind in (DeniedError, FullError, UnavailableError)),
    *(getattr(errors, name)(MARK) for name in ("BackendError", "NotRegularError", "UncertainError")),
    OSError(MARK),
    RuntimeError(MARK),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_no_canary_shows(failure: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    """In no error's body or header, no log at any level, and in no object of the gateway; whatever the storage does.

    A save that succeeded answers nothing, and a get its own document, which is the one place with canaries.
    """
    caplog.set_level(logging.DEBUG)
    backend = Recording()

    async def fail(operation: str) -> None:
        if failure is not None:
            raise failure

    config = configured({"id": client()}, keys=(KEY,), metrics=True, probe_seconds=0.05)
    metrics = Metrics()
    store = store_over({"main": backend}, observer=metrics.observe)
    async with serving(store, config, metrics=metrics) as http:
        await store.save_json(AT, json.dumps(ACCOUNT).encode())
        backend.before = fail
        answers = await drive(http)
        backend.before = None
        answers.append(await http.get("/metrics"))
        control = await http.get(BASE, params={"fileName": "a.account"})
    assert MARK in control.text  # whoever may have it gets it
    for answer in answers:
        assert MARK not in answer.text or answer.status_code == 200, answer.text
        assert MARK not in str(answer.headers), answer.headers
    assert {answer.status_code for answer in answers} >= {400, 401, 404, 405}
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [record.getMessage() for record in ours if MARK in record.getMessage() + repr(record.args)]
    assert not [record for record in ours if record.exc_info]
    assert any(record.name == "accountstore.gateway.access" for record in ours)
    app = gateway(store, config)
    assert shown(app) == []
    assert shown({"control": MARK})


async def test_a_time_out_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A save that is given up in the middle tells and logs nothing of what it held."""
    caplog.set_level(logging.DEBUG)
    backend = Recording()
    config = configured({"id": client()}, keys=(KEY,), limits=Limits(request_seconds=1))
    async with serving(store_over({"main": backend}), config) as http:

        async def hold(operation: str) -> None:
            await anyio.sleep(60)

        backend.before = hold
        answer = await http.put(BASE, json=request_of(ACCOUNT))
        assert answer.status_code == 504
        backend.before = None
    assert MARK not in answer.text
    assert not [record for record in caplog.records if MARK in record.getMessage()]


def test_every_error_of_the_store_is_told_without_its_own_text() -> None:
    """What a storage says stays inside; only what is about the request itself is told."""
    from accountstore.gateway.problems import problem_of

    told = {
        name
        for name in errors.__all__
        if issubclass(kind := getattr(errors, name), AccountStoreError) and MARK in problem_of(kind(MARK)).message
    }
    assert told == {"EncodeError", "ExtensionError", "LocationError", "TooLargeError", "UnknownFieldError"}
