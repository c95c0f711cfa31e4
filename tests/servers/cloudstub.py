"""A fast object-store server in memory: S3, Google Cloud Storage and Azure Blob on one port of 127.0.0.1.

`python tests/servers/cloudstub.py [--port N]` prints `{"port": N}` and serves until its standard input ends or SIGTERM
comes. Tests and benchmarks use it as `with Stub() as stub:`. It is for the cost of clients, for faults and for the
exact number of requests; it verifies no signature, and every bucket exists but those whose names begin with `missing`,
`forbidden`, `badkeys` or (S3) `elsewhere`. The objects of a `versioned...` bucket have versions.

The parts: cloudstub_wire.py (HTTP), cloudstub_objects.py (buckets and listings), cloudstub_s3.py, cloudstub_gcs.py,
cloudstub_azure.py (the services) and cloudstub_control.py (log, faults and modes, under /_control/).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

COMMAND = (sys.executable, os.path.abspath(__file__))
"""Starts the server. It imports nothing of the package."""

_SECONDS = 300.0
"""More than anything takes: they end a hang, and judge no speed."""


class Stub:
    """Runs the server as a child process for the time of a `with` block, and controls it over HTTP."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes]
        self._connection: http.client.HTTPConnection
        self._lock = threading.Lock()
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.port = json.loads(self._first_line())["port"]
        except BaseException:
            self._stop(0)
            raise
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._stop(_SECONDS)

    def _first_line(self) -> bytes:
        """The first line that the server writes; a server that writes none is killed after a while."""
        assert self._process.stdout is not None
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()

    def _stop(self, seconds: float) -> None:
        """End the server by the end of its input, or kill it where that takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()

    @property
    def url(self) -> str:
        """Where the server listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process of the server."""
        return self._process.pid

    def reset(self, *, keep: bool = False) -> None:
        """Forget objects (unless told to keep them), log, faults and modes."""
        self._post("reset", {"keep": keep})

    def log(self) -> list[dict[str, Any]]:
        """The requests since the reset: n, method, service, op, bucket, key, status, fault."""
        log: list[dict[str, Any]] = self._json("GET", "log")
        return log

    def heads(self) -> list[str]:
        """The request line and the headers of each request since the reset, in the mode `heads`."""
        heads: list[str] = self._json("GET", "heads")
        return heads

    def count(self) -> int:
        """How many requests came since the reset."""
        return int(self._json("GET", "count")["requests"])

    def faults(self, faults: Sequence[dict[str, Any]]) -> None:
        """Let the nth request from now on fail: `{"nth": 1, "kind": "503-after", "seconds": 0, "times": 1}`.

        With an `op` only a request so named does. The kind `answer` needs a `status` and either a `code`, for the
        service's own refusal, or `headers` and a `body` (Latin-1).
        """
        self._post("faults", list(faults))

    def land(self) -> int:
        """Apply now the requests that met the fault `late`; how many they were."""
        return int(self._json("POST", "land", b"{}")["landed"])

    def rival(self, nth: int, service: str, bucket: str, key: str, data: bytes) -> None:
        """Store bytes around the service in the midst of the nth request from now on, which has to meet a fault: when
        it has had its effect, if any, and before its answer is sent.
        """
        said = {"nth": nth, "service": service, "bucket": bucket, "key": key, "data": data.decode("latin-1")}
        self._post("rival", said)

    def mode(self, **modes: Any) -> None:
        """Set delay (seconds), log, heads (kept in the log), ignore_conditions, drop_metadata or page (names in a page
        of a listing, 0: the service's largest); what isn't named stays.
        """
        self._post("mode", modes)

    def connections(self) -> dict[str, int]:
        """How many connections are open and how many were ever accepted, with the one of this object."""
        counts: dict[str, int] = self._json("GET", "connections")
        return counts

    def get(self, service: str, bucket: str, key: str) -> bytes | None:
        """The bytes of an object, around the service; None: there is none."""
        status, body = self._call("GET", self._object(service, bucket, key))
        return body if status == 200 else None

    def metadata(self, service: str, bucket: str, key: str) -> dict[str, str] | None:
        """The metadata fields of an object by the names that the client gave them; None: there is no such object."""
        status, body = self._call("GET", self._object(service, bucket, key, "metadata"))
        return json.loads(body) if status == 200 else None

    def put(self, service: str, bucket: str, key: str, data: bytes) -> None:
        """Store bytes around the service: a new tag and generation, no request in the log."""
        self._call("PUT", self._object(service, bucket, key), data)

    @staticmethod
    def _object(service: str, bucket: str, key: str, what: str = "object") -> str:
        return f"{what}?" + urlencode({"service": service, "bucket": bucket, "key": key})

    def _post(self, name: str, said: Any) -> None:
        self._json("POST", name, json.dumps(said).encode())

    def _json(self, method: str, name: str, body: bytes | None = None) -> Any:
        return json.loads(self._call(method, name, body)[1])

    def _call(self, method: str, name: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One control request; one that the server cannot read is a ValueError."""
        with self._lock:
            self._connection.request(method, f"/_control/{name}", body)
            response = self._connection.getresponse()
            data = response.read()
        if response.status == 400:
            raise ValueError(data.decode())
        return response.status, data


async def _serve(port: int) -> None:
    """Serve until standard input ends or a signal comes."""
    from cloudstub_control import Hub
    from cloudstub_wire import Connection

    hub, stop, loop = Hub(), asyncio.Event(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(hub.serve, hub.connections), "127.0.0.1", port, backlog=1024)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_await_end_of_input, args=(loop, stop), daemon=True).start()
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()


def _await_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


def main() -> None:
    """Run the server on uvloop where that is installed."""
    parser = argparse.ArgumentParser(description="A fast object-store server in memory.")
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; 0: a free one")
    port = parser.parse_args().port
    runner: Any = importlib.import_module("uvloop" if importlib.util.find_spec("uvloop") else "asyncio")
    runner.run(_serve(port))


if __name__ == "__main__":
    main()
