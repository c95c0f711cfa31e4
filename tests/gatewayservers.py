"""A gateway under real servers, each in a process of its own on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from gateways import HASH, KEY
from running import HUNG, PYTHON

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from cloudservers import Server

HOST = "127.0.0.1"
_HYPERCORN = ["hypercorn", "--keep-alive", "60", "--bind", f"{HOST}:{{port}}", "{app}:app"]
SERVERS: Mapping[str, list[str]] = {
    "uvicorn": ["uvicorn", "--http", "h11", "--lifespan", "on", "--host", HOST, "--port", "{port}", "{app}:app"],
    "hypercorn": _HYPERCORN,
    "hypercorn-trio": [*_HYPERCORN, "--worker-class", "trio"],
    "granian": ["granian", "--interface", "asgi", "--host", HOST, "--port", "{port}", "{app}:app"],
}
"""How each is started; `serve` is the project's own command."""

APP = """
import os
from accountstore.gateway import gateway, load_gateway_config
app = gateway("accountstore.toml", load_gateway_config("gateway.toml"))
"""


class Running(NamedTuple):
    """A server that answers."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def configure(folder: Path, storage: str = 'url = "data"', gateway: str = "") -> None:
    """Write the configurations of a store with a storage `First Storage`, and of a gateway with a client `id`."""
    folder.mkdir(exist_ok=True)
    (folder / "accountstore.toml").write_text(f'[storages."First Storage"]\n{storage}\n')
    (folder / "gateway.toml").touch(0o600)
    (folder / "gateway.toml").write_text(
        f'keys = ["{KEY}"]\n{gateway}\n[clients.id]\nsecrets = ["{HASH}"]\nfolder = ""\n'
    )
    (folder / "servedapp.py").write_text(APP)


def s3_storage(server: Server) -> str:
    """The configuration of a storage in a bucket of its own on a server."""
    bucket = f"gateway-{os.urandom(4).hex()}"
    server.bucket(bucket)
    options = ", ".join(f"{name} = {_toml(value)}" for name, value in server.options.items())
    return f'url = "s3://{bucket}"\noptions = {{ {options} }}'


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@contextmanager
def running(name: str, folder: Path, /, *, arguments: tuple[str, ...] = (), **environment: str) -> Generator[Running]:
    """A server of the gateway that is configured in a folder, once it answers."""
    port = free_port()
    program = [sys.executable, "-m"]
    if name == "serve":
        command = [*PYTHON, "-m", "accountstore", "serve", "--gateway", "gateway.toml", "--port", str(port), *arguments]
    elif name == "quick":
        command = [*PYTHON, "quick.py", str(port), *arguments]
    else:
        command = program + [part.format(port=port, app="servedapp") for part in SERVERS[name]]
    log = folder / f"{name}-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        try:
            scheme = "https" if arguments else "http"
            _await_answer(f"{scheme}://{HOST}:{port}", process, log)
            yield Running(f"{scheme}://{HOST}:{port}", port, process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(HUNG)


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import ssl

    context = None
    if url.startswith("https"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ends = time.monotonic() + HUNG
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health/live", timeout=5, context=context):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.05)


def exchange(port: int, *parts: bytes, pause: float = 0, wait: float = HUNG) -> bytes:
    """What a server answers to bytes, until it closes or is silent for a while after it began to answer."""
    with socket.create_connection((HOST, port), timeout=wait) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass  # closed by the server: what it has said is still to be read
        received = bytearray()
        try:
            while chunk := connection.recv(65536):
                received += chunk
                if complete(received):
                    break
        except (ConnectionResetError, TimeoutError):
            pass
        return bytes(received)


def complete(answer: bytes | bytearray) -> bool:
    """Whether an answer has all of its body, by its length."""
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    if not end or head.startswith(b"HTTP/1.1 100"):
        return False
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0])


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; what came before as 100 is left out."""
    while answer.startswith(b"HTTP/1.1 100"):
        answer = answer.partition(b"\r\n\r\n")[2]
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def tokens_of(url: str, secret: str = "secret") -> Any:
    """What `/connect/token` answers to the client `id`."""
    import httpx

    form = {"grant_type": "client_credentials", "client_id": "id", "client_secret": secret}
    return httpx.post(f"{url}/connect/token", data=form).json()
