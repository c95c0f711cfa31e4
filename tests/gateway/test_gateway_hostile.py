"""Hostile requests: raw HTTP that is none, names that lead outside, cases that a fuzzer makes of the description.

Longer by hand: `ACCOUNTSTORE_FUZZ_HTTP=10000`, and `ACCOUNTSTORE_FUZZ_API=10000` for about as many cases.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import pytest
from cloudtls import make_authority
from gateways import BASE, KEY, MULTI, PASSWORD, STORAGE, client, configured, request_of, serving
from gatewayservers import HOST, configure, exchange, running, tokens_of
from running import HUNG

from accountstore import AccountStore, StorageConfig, StoreConfig
from accountstore.gateway import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatewayservers import Running

REQUESTS = int(os.environ.get("ACCOUNTSTORE_FUZZ_HTTP", "200"))
CASES = int(os.environ.get("ACCOUNTSTORE_FUZZ_API", "400"))
OPERATIONS = 19

QUICK = """
import socket, sys
from accountstore.gateway import gateway, load_gateway_config
from accountstore.gateway.server import Protocol, server
Protocol.head_seconds = 0.5
Protocol.write_seconds = 0.5
Protocol.connections_allowed = 20
app = gateway("accountstore.toml", load_gateway_config("gateway.toml"))
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that a page does not fit in it
listening.bind(("127.0.0.1", int(sys.argv[1])))
certificate = sys.argv[2] if len(sys.argv) > 2 else None
made = server(app, "127.0.0.1", 0, certificate=certificate)
made.config.timeout_keep_alive = 1
made.run(sockets=[listening])
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The gateway as `serve` runs it, but with short times."""
    folder = tmp_path_factory.mktemp("hostile")
    configure(folder, gateway="[limits]\nbody_seconds = 0.5\n")
    (folder / "quick.py").write_text(QUICK)
    with running("quick", folder) as started:
        yield started
        assert started.process.poll() is None
        log = started.log.read_text()
        assert "Traceback" not in log, log[-3000:]


@pytest.fixture(scope="module")
def token(served: Running) -> str:
    """A token, asked for before the garbled attempts, after which asking is slowed down for a while."""
    access: str = tokens_of(served.url)["access_token"]
    return access


def answers_of(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer in what a server has sent; it must hold nothing else."""
    found: list[tuple[int, bytes]] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, head
        if status[1] == b"100":
            continue
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        found.append((int(status[1]), data[:size]))
        assert len(data) >= size or not data
        data = data[size:]
    return found


def assert_told(data: bytes) -> None:
    """Each answer is an envelope, or a success; a closed connection has none."""
    for status, body in answers_of(data):
        if status >= 400 and body:
            error = json.loads(body)["error"]
            assert isinstance(error, str) or error["code"], body
        else:
            assert status in {200, 204, 304} or not body


def valid(token: str) -> list[bytes]:
    """Requests as they should be."""
    body = json.dumps(request_of(PASSWORD)).encode()
    head = f"Host: g\r\nAuthorization: Bearer {token}\r\n"
    form = b"grant_type=client_credentials&client_id=id&client_secret=secret"
    return [
        f"PUT {BASE} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body,
        f"GET {BASE}?fileName=a.account HTTP/1.1\r\n{head}\r\n".encode(),
        f"PUT {BASE} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\n\r\n",
        f"POST /connect/token HTTP/1.1\r\n{head}Content-Length: {len(form)}\r\n\r\n".encode() + form,
        f"DELETE {STORAGE}/file/b.account HTTP/1.1\r\n{head}\r\n".encode(),
        b"GET /health/live HTTP/1.0\r\n\r\n",
    ]


def mutated(requests: list[bytes], choose: random.Random) -> bytes:
    """A request that went wrong."""
    data = choose.choice(requests)
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(11):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + bytes([choose.randrange(256)]) + data[at + 1 :]
            case 2:
                data += choose.choice(requests)
            case 3:
                data = data.replace(
                    b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % choose.choice([0, 5, 10**6, 10**30]), 1
                )
            case 4:
                data = data.replace(
                    b"\r\n\r\n", b"\r\nX-Huge: %s\r\n\r\n" % (b"x" * choose.choice([100, 70_000, 300_000])), 1
                )
            case 5:
                data = data.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 1)
            case 6:
                data = data.replace(b"\r\n", b"\n")
            case 7:
                data = data[:at] + choose.choice([b"\0", b"\r\n", b" ", b"\xff\xfe", b"%", b"\r\n\r\n"]) + data[at:]
            case 8:
                data = data.replace(b"HTTP/1.1", choose.choice([b"HTTP/2", b"HTTP/9.9", b"http", b"HTTP/1.1 x"]), 1)
            case 9:
                data = data.replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 1)
            case _:
                data = data.replace(
                    b"/v4.0", choose.choice([b"//v4.0", b"http://x/v4.0", b"*", b"/v4.0/%00", b"\\"]), 1
                )
    return data


@pytest.mark.once
def test_raw_http_is_answered_with_an_envelope_or_not_at_all(served: Running, token: str) -> None:
    """Truncated, pipelined, doubled, huge and garbled requests: the process lives and tells, or closes."""
    requests = valid(token)
    for request in requests:  # control: they are what they should be
        assert answers_of(exchange(served.port, request))[0][0] == 200
    answered = 0
    for seed in range(REQUESTS):
        data = mutated(requests, random.Random(seed))
        answer = exchange(served.port, data, wait=2)
        try:
            assert_told(answer)
        except Exception:
            print(seed, data[:2000], answer[:2000])
            raise
        answered += bool(answer)
    assert answered > REQUESTS // 2
    assert answers_of(exchange(served.port, requests[0]))[0][0] == 200
    print(f"{REQUESTS} requests, {answered} answered")


@pytest.mark.once
def test_a_slow_head_and_a_slow_body_are_cut_off(served: Running, token: str) -> None:
    """A head that does not end is closed without an answer, blank lines too; a body that does not end has 408."""
    head = f"PUT {BASE} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n".encode()
    assert exchange(served.port) == b""
    assert exchange(served.port, head) == b""
    garbled = exchange(served.port, *[b"X-Slow: 1\r\n"] * 20, pause=0.1)
    assert garbled == b"" or answers_of(garbled)[0][0] == 400
    assert exchange(served.port, *[b"\r\n"] * 20, pause=0.1) == b""
    assert answers_of(exchange(served.port, head + b"Content-Length: 9\r\n\r\n{"))[0][0] == 408
    ended = answers_of(exchange(served.port, head + b"Content-Length: 9\r\n\r\n", *[b"{"] * 8, pause=0.1))
    assert ended[0][0] == 408


@pytest.mark.once
@pytest.mark.parametrize("pages", [1, 50], ids=["little", "much"])
def test_who_never_reads_is_cut_off(served: Running, pages: int) -> None:
    """A client that takes nothing of its answers loses its connection, be there little or much to send; the control:
    one that takes them has all.
    """
    request = b"GET /docs HTTP/1.1\r\nHost: g\r\n\r\n"
    assert answers_of(exchange(served.port, request))[0][0] == 200
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((HOST, served.port))
        silent.sendall(request * pages)
        silent.setblocking(False)
        ends = time.monotonic() + 60
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < ends:
                time.sleep(0.1)
                with suppress(BlockingIOError):
                    silent.send(b"G")


@pytest.mark.once
@pytest.mark.parametrize("part", [b"X-Huge: " + b"x" * 200_000 + b"\r\n", b"X: y\r\n" * 40_000], ids=["long", "many"])
def test_a_head_has_its_limit(served: Running, part: bytes) -> None:
    """A header that is too long, or too many of them, end in an envelope or a closed connection."""
    begin = f"GET {BASE} HTTP/1.1\r\nHost: g\r\n".encode()
    for end in (b"", b"\r\n"):
        answer = exchange(served.port, begin, part, end)
        assert_told(answer)
        assert 200 not in [status for status, _ in answers_of(answer)]


@pytest.mark.once
def test_a_trailer_that_never_ends_has_its_limit(served: Running) -> None:
    """It is refused by its length, and not by the time that a body has."""
    begin = b"POST /connect/token HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    assert [status for status, _ in answers_of(exchange(served.port, begin))] == [408]  # control: a short one
    answer = exchange(served.port, begin, *[b"x" * 65536] * 20)
    assert [status for status, _ in answers_of(answer)] in ([], [400])


@pytest.mark.once
def test_too_many_connections_are_closed(served: Running) -> None:
    """Beyond the bound a connection is closed at once; when others have gone, the next is served."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        assert exchange(served.port, b"GET /health/live HTTP/1.1\r\n\r\n") == b""
    while exchange(served.port, b"GET /health/live HTTP/1.1\r\n\r\n") == b"":
        pass


@pytest.mark.once
def test_connections_count_before_tls_begins(tmp_path: Path) -> None:
    """On a port with TLS too, one beyond the bound is closed, and who is silent is cut off as on any other; what is no
    TLS, and what comes together with the end of the handshake, harm nobody.
    """
    configure(tmp_path)
    (tmp_path / "quick.py").write_text(QUICK)
    _, certificate = make_authority(tmp_path)
    with running("quick", tmp_path, arguments=(certificate,)) as started, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((HOST, started.port), 30)) for _ in range(20)]
        assert exchange(started.port, b"\x16\x03", wait=5) == b""
        assert [one.recv(1) for one in silent] == [b""] * 20
        assert exchange(started.port, b"GET /health/live HTTP/1.1\r\n\r\n") == b""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(30):
            with context.wrap_socket(socket.create_connection((HOST, started.port), HUNG)) as connection:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
                assert connection.recv(9999).startswith(b"HTTP/1.1 200")
        assert "Traceback" not in started.log.read_text()


PATIENT = """
import asyncio.constants
asyncio.constants.SSL_SHUTDOWN_TIMEOUT = 1000
made.config.timeout_graceful_shutdown = None
made.run("""


@pytest.mark.once
def test_sigterm_waits_for_no_end_of_tls(tmp_path: Path) -> None:
    """Clients that are idle, before or within TLS or closed already, and do not end their side, keep no process from
    its end; nor does one that is answered first.
    """
    configure(tmp_path)
    (tmp_path / "quick.py").write_text(QUICK.replace("made.run(", PATIENT))
    _, certificate = make_authority(tmp_path)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with running("quick", tmp_path, arguments=(certificate,)) as started, ExitStack() as stack:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection((HOST, started.port), HUNG))

        def asked(request: bytes) -> ssl.SSLSocket:
            connection = stack.enter_context(context.wrap_socket(connected()))
            connection.sendall(request)
            return connection

        closed = asked(b"GET /health/live HTTP/1.1\r\n\r\n")
        while closed.recv(9999):
            pass
        busy = asked(b"POST /connect/token HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        idle, _ = asked(b"GET /health/live HTTP/1.1\r\n\r\n"), connected()
        assert idle.recv(9999).startswith(b"HTTP/1.1 200")
        started.process.send_signal(signal.SIGTERM)
        while idle.recv(9999):
            pass
        busy.sendall(b"x")
        assert busy.recv(9999).startswith(b"HTTP/1.1 400")
        assert started.process.wait(HUNG) in {0, -signal.SIGTERM}
        assert "Traceback" not in started.log.read_text()


@pytest.mark.once
def test_cases_of_the_description(tmp_path: Path) -> None:
    """What a fuzzer makes of the description is answered as it says: no undocumented status (500 is none), type or
    schema.
    """
    if find_spec("schemathesis") is None:
        pytest.skip("could not import 'schemathesis'")
    configure(tmp_path)
    with running("serve", tmp_path) as started:
        token = tokens_of(started.url)["access_token"]
        checks = ("status_code", "content_type", "response_headers", "response_schema")
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{started.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--seed", "1", "--workers", "1", "--no-color"),
            *("--checks", ",".join(f"{check}_conformance" for check in checks), "--continue-on-failure"),
            *("--max-examples", str(max(CASES // OPERATIONS, 5)), "--phases", "examples,coverage,fuzzing"),
            *("--suppress-health-check", "all", "--generation-database", "none", "--exclude-path", "/connect/token"),
        ]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20 * HUNG, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
        print(ended.stdout[-800:])
        log = started.log.read_text()
        statuses = set(re.findall(r" (\d{3}) [\d.]+ ms", log))
    assert "500" not in statuses
    assert {"200", "400", "404"} <= statuses
    print(sorted(statuses), log.count("INFO accountstore.gateway.access"), "requests")


# --- tenants ---------------------------------------------------------------------------------------------------------

PARTS = ("..", ".", "", "tenants", "b", "a", "secret", "a.account", "/", "\\", "%2e%2e", "..%2f", "\0", "main", "other")
CANARY = "zQ7k-canary"


def names(count: int) -> Iterator[tuple[str, str, str]]:
    """Folders, files and storages that would lead out of a tenant's folder."""
    choose = random.Random(0)
    for _ in range(count):
        parts = [choose.choice(PARTS) for _ in range(choose.randint(1, 6))]
        folder = choose.choice(["/", "\\", "//", "/./"]).join(parts)
        file = choose.choice(["secret.account", "../secret.account", "..\\secret.account", "/secret.account", *PARTS])
        yield folder, file, choose.choice(["", "main", "other", "..", "main/..", "MAIN", "tenants", "no"])


@pytest.mark.anyio
async def test_no_name_leads_out_of_a_tenants_folder(tmp_path: Path) -> None:
    """A thousand hostile names and storages in every call: nothing outside is read, written, removed or told.

    Control: a client of everything reads what is outside.
    """
    count = 1000
    document = json.dumps({**PASSWORD, "host": CANARY}).encode()
    config = StoreConfig(
        default="main", storages={name: StorageConfig(str(tmp_path / name)) for name in ("main", "other")}
    )
    outside = [
        tmp_path / place for place in ("main/secret.account", "main/tenants/b/secret.account", "other/secret.account")
    ]
    for place in outside:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(document)
    before = await anyio.to_thread.run_sync(_tree, tmp_path)
    limits = Limits(in_flight=10)
    clients = {"id": client(folder="tenants/a", storage="main")}
    answered = 0
    async with AccountStore.open(config) as store, serving(store, configured(clients, limits=limits)) as http:
        for folder, file, storage in names(count):
            path = quote(f"{folder}/{file}".encode("utf-8", "replace"), safe="/%").replace("..", "%2E%2E")
            body = request_of(PASSWORD, file, folderPath=folder, storage=storage)
            at = {"fileName": file, "folder": folder, "storage": storage}
            where = {"storageName": storage}
            calls: list[tuple[str, str, dict[str, str], object]] = [
                ("GET", BASE, at, None),
                ("GET", MULTI, at, None),
                ("PUT", BASE, {}, body),
                ("GET", f"{STORAGE}/file/{path}", where, None),
                ("PUT", f"{STORAGE}/file/{path}", where, PASSWORD),
                ("GET", f"{STORAGE}/folder/{path}", where, None),
                ("GET", f"{STORAGE}/exist/{path}", where, None),
                ("GET", f"{STORAGE}/version/{path}", where, None),
                ("DELETE", f"{STORAGE}/file/{path}", where, None),
                ("DELETE", f"{STORAGE}/folder/{path}", {**where, "recursive": "true"}, None),
                ("PUT", f"{STORAGE}/file/copy/{path}", {"destPath": "x.account", "srcStorageName": storage}, None),
                ("PUT", f"{STORAGE}/file/move/x.account", {"destPath": f"{folder}/{file}"}, None),
            ]
            for method, url, query, data in calls:
                answer = await http.request(method, url, params=query, json=data)
                assert CANARY not in answer.text
                assert answer.status_code in {200, 400, 404, 409}, (method, url, query, answer.text)
                answered += 1
        after = await anyio.to_thread.run_sync(_tree, tmp_path)
    assert {name: content for name, content in after.items() if not name.startswith("main/tenants/a/")} == before
    assert answered == 12 * count
    async with serving(config, configured()) as http:
        assert CANARY in (await http.get(BASE, params={"fileName": "secret.account"})).text


def _tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_key_is_not_in_the_code() -> None:
    """No key or secret of a gateway comes with the package."""
    import accountstore.gateway as package

    folder = Path(package.__file__).parent
    assert not [file for file in folder.glob("*.py") if KEY in file.read_text()]
