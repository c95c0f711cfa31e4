"""The vendor's Python client, and the exact wire of the other five, against the gateway on real servers."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

import pytest
from cloudtls import make_authority
from gateways import BASE, MULTI, OAUTH, PASSWORD, SECRET
from gatewayservers import HOST, SERVERS, configure, exchange, parsed, running, s3_storage, tokens_of
from running import HUNG, PYTHON
from starlette.applications import Starlette

from accountstore.gateway.server import Protocol, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gatewayservers import Running

pytestmark = pytest.mark.once

SDK = Path(__file__).with_name("vendorclient.py")
CASES = [line[9:].partition("(")[0] for line in SDK.read_text().splitlines() if line.startswith("def case_")]


def sdk(url: str) -> str:
    """What the vendor's client prints: a process of its own, that is ended after a while."""
    ended = subprocess.run(
        [*PYTHON, "-W", "ignore", str(SDK), url, "id", SECRET],
        check=False,
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("server", ["serve", *SERVERS])
def test_the_vendors_client_holds_on_every_server(server: str, tmp_path: Path) -> None:
    """The vendor's Python client, unchanged, holds all cases on uvicorn, hypercorn (asyncio, trio) and granian."""
    pytest.importorskip("AsposeEmailCloudSdk")
    if server != "serve" and find_spec(SERVERS[server][0]) is None:
        pytest.skip(f"could not import {SERVERS[server][0]!r}")
    configure(tmp_path)
    with running(server, tmp_path) as started:
        assert sdk(started.url).split("\n")[:-1] == [f"ok {case}" for case in CASES]
        log = started.log.read_text()
    for canary in ("clientSecret", "refreshToken", "password", "Traceback"):
        assert canary not in log


@pytest.mark.parametrize("server", ["serve", *SERVERS])
def test_what_is_refused_before_its_body_has_come_keeps_its_connection(server: str, tmp_path: Path) -> None:
    """A client sends head and body apart, and its next request on the same connection: a server closes it without a
    word where the body was not read, and a POST that it has just sent is lost.
    """
    if server != "serve" and find_spec(SERVERS[server][0]) is None:
        pytest.skip(f"could not import {SERVERS[server][0]!r}")
    configure(tmp_path)
    with (
        running(server, tmp_path) as started,
        closing(http.client.HTTPConnection("127.0.0.1", started.port, timeout=HUNG)) as connection,
    ):
        connection.connect()
        connection.auto_open = 0
        for length in (5, 100_000):
            connection.putrequest("PUT", BASE)
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            time.sleep(0.3)
            connection.send(b"x" * length)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("connection")) in {(401, None), (401, "keep-alive")}
            answer.read()
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    configure(folder)
    with running("serve", folder) as started:
        yield started


@pytest.fixture(scope="module", params=["memory", "local", "S3", "sealed"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The gateway on a storage of each kind."""
    folder = tmp_path_factory.mktemp(f"on-{request.param}")
    storage = 'url = "memory://"' if request.param == "memory" else 'url = "data"'
    if request.param == "S3":
        pytest.importorskip("s3fs")
        storage = s3_storage(request.getfixturevalue("moto"))
    if request.param == "sealed":
        pytest.importorskip("accountstore.sealing", exc_type=ImportError)
        storage += '\nencryption = { keys = "keys.jwks", required = true, id = "mail" }'
        key = {"kty": "oct", "kid": "one", "alg": "A256KW", "k": token_urlsafe(32)}
        (folder / "keys.jwks").write_text(json.dumps({"keys": [key]}))
        (folder / "keys.jwks").chmod(0o600)
    configure(folder, storage)
    with running("serve", folder) as started:
        yield started
        if request.param == "sealed":
            assert list(folder.rglob("*.account"))
            assert not [file for file in folder.rglob("*.account") if b"discriminator" in file.read_bytes()]


# --- the wire of six clients ------------------------------------------------------------------------------------------

FOLDER = "file/location/folder/on/storage"
SEED: dict[str, Any] = {
    "storageFile": {"storage": "First Storage", "folderPath": FOLDER, "fileName": "{name}"},
    "value": {
        "host": "smtp.example.com",
        "port": 465,
        "securityOptions": "SSLAuto",
        "protocolType": "SMTP",
        "credentials": {
            "login": "example@example.com",
            "discriminator": "EmailClientAccountOauthCredentials",
            "clientId": "clientId",
            "clientSecret": "clientSecret",
            "refreshToken": "refreshToken",
        },
    },
}
SEED_MULTI: dict[str, Any] = {
    "storageFile": SEED["storageFile"],
    "value": {
        "receiveAccounts": [
            {
                "host": "imap.gmail.com",
                "port": 993,
                "securityOptions": "SSLAuto",
                "credentials": {
                    "login": "example@gmail.com",
                    "discriminator": "EmailClientAccountPasswordCredentials",
                    "password": "password",
                },
            },
            {
                "host": "exchange@outlook.com",
                "port": 443,
                "protocolType": "EWS",
                "credentials": SEED["value"]["credentials"],
            },
        ],
        "sendAccount": {**SEED["value"], "host": "smtp.gmail.com"},
    },
}


def own_first(tree: Any) -> Any:
    """A tree whose credentials have the fields of their own class before those of the base class."""
    if isinstance(tree, dict):
        base = {"login", "discriminator"}
        return {key: own_first(tree[key]) for key in sorted(tree, key=base.__contains__)}
    return [own_first(item) for item in tree] if isinstance(tree, list) else tree


def pascal(tree: Any) -> Any:
    """A tree with the keys of .NET."""
    if isinstance(tree, dict):
        return {key[:1].upper() + key[1:]: pascal(value) for key, value in tree.items()}
    return [pascal(item) for item in tree] if isinstance(tree, list) else tree


BODIES: dict[str, Callable[[Any], str]] = {
    "python": json.dumps,
    "node": lambda tree: json.dumps(tree, separators=(",", ":"), ensure_ascii=False),
    "ruby": lambda tree: json.dumps(tree, separators=(",", ":"), ensure_ascii=False),
    "php": lambda tree: json.dumps(own_first(tree), indent=4).replace("/", r"\/"),
    "java": lambda tree: json.dumps(own_first(tree), separators=(",", ":")).replace("=", r"\u003d"),
    "dotnet": lambda tree: json.dumps(pascal(own_first(tree)), separators=(",", ":")),
}
HEADERS = {
    "python": "Accept-Encoding: identity\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    "x-aspose-client: python sdk\r\nx-aspose-version: 19.9\r\nUser-Agent: python sdk 19.9",
    "node": "Accept: application/json\r\nContent-Type: application/json\r\nx-aspose-client: node.js sdk\r\n"
    "x-aspose-client-version: 19.9.0\r\nConnection: close",
    "ruby": "Accept-Encoding: gzip, deflate, identity\r\nAccept: application/json\r\n"
    "Content-Type: application/json\r\nx-aspose-client: ruby sdk",
    "php": "Accept: application/json\r\nContent-Type: application/json\r\nx-aspose-client: php sdk\r\n"
    "x-aspose-client-version: 1.0",
    "java": "Accept: text/html, image/gif, image/jpeg, */*; q=0.2\r\nContent-Type: application/json\r\n"
    "x-aspose-client: java sdk\r\nUser-Agent: Java/17",
    "dotnet": "Content-Type: application/json\r\nExpect: 100-continue\r\nx-aspose-client: .net sdk",
}
QUERIES = {
    "python": "fileName={name}&folder=file%2Flocation%2Ffolder%2Fon%2Fstorage&storage=First+Storage",
    "node": "fileName={name}&folder=file%2Flocation%2Ffolder%2Fon%2Fstorage&storage=First%20Storage",
    "ruby": "fileName={name}&folder=file%2Flocation%2Ffolder%2Fon%2Fstorage&storage=First+Storage",
    "php": "fileName={name}&folder=file%2Flocation%2Ffolder%2Fon%2Fstorage&storage=First+Storage",
    "java": "fileName={name}&folder=file/location/folder/on/storage&storage=First%20Storage",
    "dotnet": "fileName={name}&folder=file%2flocation%2ffolder%2fon%2fstorage&storage=First+Storage",
}
FORMS = {
    "python": "grant_type=client_credentials&client_id=id&client_secret={secret}",
    "node": "grant_type=client_credentials&client_id=id&client_secret={secret}",
    "ruby": "client_id=id&client_secret={secret}&grant_type=client_credentials",
    "php": "grant_type=client_credentials&client_id=id&client_secret={secret}",
    "java": "grant_type=client_credentials&client_id=id&client_secret={secret}",
    "dotnet": "grant_type=client_credentials&client_id=id&client_secret={secret}",
}
LANGUAGES = tuple(BODIES)


def request(method: str, target: str, headers: str, body: str = "", token: str = "") -> bytes:
    """A request as it goes over the wire."""
    length = f"Content-Length: {len(body.encode())}\r\n" if method != "GET" or body else ""
    lines = f"{method} {target} HTTP/1.1\r\nHost: gateway\r\n{length}{headers}\r\nAuthorization: Bearer {token}\r\n\r\n"
    return lines.encode() + body.encode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_asks_for_a_token(served: Running, language: str) -> None:
    """The first call has no token, and 401; the token's form is as each sends it; the answer is exactly 200."""
    bare = parsed(exchange(served.port, request("GET", f"{BASE}?fileName=a.account", HEADERS[language])))
    assert (bare[0], json.loads(bare[2])["error"]["code"]) == (401, "unauthorized")
    form = FORMS[language].format(secret=SECRET)
    kind = "Content-Type: application/x-www-form-urlencoded\r\nAccept: application/json"
    status, headers, body = parsed(exchange(served.port, request("POST", "/connect/token", kind, form)))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["access_token"]


@pytest.mark.parametrize("writer", LANGUAGES)
@pytest.mark.parametrize(("path", "sample", "suffix"), [(BASE, SEED, ""), (MULTI, SEED_MULTI, ".multi")])
def test_what_one_language_saves_each_other_reads(
    stored: Running, writer: str, path: str, sample: dict[str, Any], suffix: str
) -> None:
    """Both samples of the seed, saved as one language sends them, are answered alike to each one's own query."""
    token = tokens_of(stored.url)["access_token"]
    name = f"{writer}{suffix}.account"
    body = BODIES[writer](sample).replace("{name}", name)
    saved = parsed(exchange(stored.port, request("PUT", path, HEADERS[writer], body, token)))
    assert (saved[0], saved[2]) == (200, b"")
    answers: set[bytes] = set()
    for reader in LANGUAGES:
        target = f"{path}?{QUERIES[reader].format(name=name)}"
        status, headers, answer = parsed(exchange(stored.port, request("GET", target, HEADERS[reader], "", token)))
        assert (status, headers["content-type"]) == (200, "application/json")
        assert not {"content-encoding", "transfer-encoding"} & headers.keys()
        answers.add(answer)
    (answer,) = answers
    assert json.loads(answer) == sample["value"]
    assert answer.startswith(b'{"')
    assert answer.count(b'"credentials":{"discriminator":"') == answer.count(b'"credentials"') > 0


def test_continue_is_sent_before_the_body(served: Running) -> None:
    """.NET sends its body only when told to; where the answer needs no body it comes at once."""
    token = tokens_of(served.url)["access_token"]
    body = BODIES["dotnet"](SEED).replace("{name}", "continue.account")
    whole = request("PUT", BASE, HEADERS["dotnet"], body, token)
    head, _, rest = whole.partition(b"\r\n\r\n")
    answer = exchange(served.port, head + b"\r\n\r\n", rest, pause=0.3)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert parsed(answer)[0] == 200
    without = request("PUT", BASE, HEADERS["dotnet"], body, "").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert exchange(served.port, without).startswith(b"HTTP/1.1 401")


def test_raw_bytes_in_a_target_are_refused_in_the_envelope(served: Running) -> None:
    """Java sends other characters than ASCII as they are: the server's own refusal is an envelope too."""
    answer = parsed(
        exchange(served.port, b"GET %s?fileName=\xc3\xa9.account HTTP/1.1\r\nHost: g\r\n\r\n" % BASE.encode())
    )
    assert answer[0] in {400, 401}
    assert json.loads(answer[2])["error"]["code"] in {"badRequest", "unauthorized"}


UPGRADES = (
    "Upgrade: h2c",
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x",
    "Upgrade: TLS/1.2",
)


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket", "tls"])
@pytest.mark.parametrize("pause", [0, 0.3], ids=["at-once", "split"])
def test_a_request_with_upgrade_is_served_as_any_other(served: Running, upgrade: str, pause: float) -> None:
    """curl's `--http2` and the JDK's client send `Upgrade: h2c`: the body is read, the next request answered too."""
    token = tokens_of(served.url)["access_token"]
    body = BODIES["python"](SEED).replace("{name}", "upgrade.account")
    headers = f"Connection: Upgrade, HTTP2-Settings\r\n{upgrade}"
    head, _, rest = request("PUT", BASE, headers, body, token).partition(b"\r\n\r\n")
    live = request("GET", "/health/live", f"{headers}, close", token=token)
    parts = (head + b"\r\n\r\n", rest + live)
    with socket.create_connection((HOST, served.port), timeout=HUNG) as connection:
        for part in parts if pause else [b"".join(parts)]:
            connection.sendall(part)
            time.sleep(pause)
        answers = b""
        while b'"live"' not in answers:
            answers += connection.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200"]
    target = f"{BASE}?{QUERIES['python'].format(name='upgrade.account')}"
    assert parsed(exchange(served.port, request("GET", target, headers, token=token)))[0] == 200
    assert "WebSocket" not in served.log.read_text()


@pytest.mark.parametrize("method", ["PUT", "CONNECT"])
def test_a_body_behind_upgrade_is_no_request(served: Running, method: str) -> None:
    """What stands in a request's body is not run as one, as where a proxy passes `Upgrade` on."""
    token = tokens_of(served.url)["access_token"]
    body = BODIES["python"](SEED).replace("{name}", "smuggled.account")
    assert parsed(exchange(served.port, request("PUT", BASE, HEADERS["python"], body, token)))[0] == 200
    inner = request("DELETE", f"/v4.0/email/storage/file/{FOLDER}/smuggled.account", HEADERS["python"], token=token)
    outer = request(method, BASE, "Connection: Upgrade\r\nUpgrade: h2c", inner.decode(), token)
    assert parsed(exchange(served.port, outer[: -len(inner)], inner, pause=0.3))[0] == 400
    target = f"{BASE}?{QUERIES['python'].format(name='smuggled.account')}"
    assert parsed(exchange(served.port, request("GET", target, HEADERS["python"], token=token)))[0] == 200
    assert parsed(exchange(served.port, inner))[0] == 200  # control: it is a request
    assert parsed(exchange(served.port, request("GET", target, HEADERS["python"], token=token)))[0] == 404


@pytest.mark.parametrize("pause", [0, 0.3], ids=["at-once", "split"])
def test_a_trailer_is_no_header(served: Running, pause: float) -> None:
    """Fields behind a chunked body have no say, wherever packets end (RFC 9110 section 6.5.1)."""
    token = tokens_of(served.url)["access_token"]
    target = f"{BASE}?fileName=no.account"
    begin = f"GET {target} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n".encode()
    proof = f"Authorization: Bearer {token}\r\n".encode()
    assert parsed(exchange(served.port, begin + b"\r\n0\r\n", proof + b"\r\n", pause=pause))[0] == 401
    assert parsed(exchange(served.port, begin + proof + b"\r\n0\r\n", proof + b"\r\n", pause=pause))[0] == 404


# --- serve -----------------------------------------------------------------------------------------------------------


def test_sigterm_ends_what_has_begun(tmp_path: Path) -> None:
    """A request under way when the signal comes is answered, then the process ends; the document is there."""
    configure(tmp_path)
    with running("serve", tmp_path) as started:
        token = tokens_of(started.url)["access_token"]
        body = json.dumps({"storageFile": {"fileName": "a.account"}, "value": PASSWORD})
        head, _, rest = request("PUT", BASE, HEADERS["python"], body, token).partition(b"\r\n\r\n")
        answers: list[bytes] = []

        def put() -> None:
            answers.append(exchange(started.port, head + b"\r\n\r\n", rest, pause=1))

        sending = threading.Thread(target=put)
        sending.start()
        time.sleep(0.3)
        started.process.send_signal(signal.SIGTERM)
        sending.join(HUNG)
        assert parsed(answers[0])[0] == 200
        # Uvicorn ends as the signal says, once all is done.
        assert started.process.wait(HUNG) in {0, -signal.SIGTERM}
        assert (tmp_path / "data" / "a.account").exists()
        assert "Traceback" not in started.log.read_text()


def test_tls(tmp_path: Path) -> None:
    """With a certificate it speaks TLS, and says that browsers are to stay with it."""
    import httpx

    configure(tmp_path)
    authority, certificate = make_authority(tmp_path)
    arguments = ("--tls-certificate", certificate, "--tls-key", certificate)
    with running("serve", tmp_path, arguments=arguments) as started:
        context = ssl.create_default_context(cafile=authority)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        answer = httpx.get(f"{started.url}/health/live", verify=context)
    assert answer.status_code == 200
    assert "strict-transport-security" in answer.headers


@pytest.mark.parametrize("key", ["gateway.toml", "encrypted.pem"])
def test_a_certificate_that_is_none_is_told_in_a_line(tmp_path: Path, key: str) -> None:
    """A file that is no key, or has one with a passphrase, which nobody is asked for."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    configure(tmp_path)
    encrypted = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"zQ7k")
    )
    (tmp_path / "encrypted.pem").write_bytes(encrypted)
    _, certificate = make_authority(tmp_path)
    arguments = ("--gateway", "gateway.toml", "--port", "0", "--tls-certificate", certificate, "--tls-key", key)
    command = [*PYTHON, "-m", "accountstore", "serve", *arguments]
    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=HUNG)
    assert ended.returncode == 1
    assert f"{certificate} and {key}: no certificate with its key" in ended.stderr.splitlines()[-1]


def _limits(soft: int, resource: int) -> tuple[int, int]:
    return soft, soft


def test_connections_leave_descriptors_to_the_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half of what the process may have, and no more than thousands."""
    resource = pytest.importorskip("resource")
    for soft, most in ((1024, 512), (1_000_000, 4096), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr("resource.getrlimit", partial(_limits, soft))
        http = server(Starlette(), "127.0.0.1", 0).config.http
        assert isinstance(http, type)
        assert issubclass(http, Protocol)
        assert http.connections_allowed == most


def test_a_configuration_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    """What is wrong with storages or clients ends the program with one line and no traceback."""
    configure(tmp_path)
    (tmp_path / "gateway.toml").write_text((tmp_path / "gateway.toml").read_text() + 'storage = "Unknown"\n')
    command = [*PYTHON, "-m", "accountstore", "serve", "--gateway", "gateway.toml", "--port", "0"]
    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=HUNG)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "clients.id: " in ended.stderr
    assert json.dumps(OAUTH) not in ended.stderr
