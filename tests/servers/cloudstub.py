"""A fast object-store server in memory: S3, Google Cloud Storage and Azure Blob on one port of 127.0.0.1.

`python tests/servers/cloudstub.py` prints `{"port": N}` and serves until its standard input ends. Tests and benchmarks
use it as `with Stub() as stub:`. It is for the cost of clients, for faults and for the exact number of requests; it
verifies no signature, and every bucket exists but those whose names begin with `missing`, `forbidden`, `badkeys` or
(S3) `elsewhere`. The objects of a `versioned...` bucket have versions.

The parts: cloudstub_wire.py (HTTP), cloudstub_objects.py (buckets, listings, what the services have alike), then
cloudstub_s3.py, cloudstub_gcs.py, cloudstub_azure.py, and cloudstub_control.py (log, faults and modes: /_control/).
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = (sys.executable, os.path.abspath(__file__))
"""Starts the server. It imports nothing of the package."""

_HUNG = 300.0
"""Seconds that end a hang, and judge no speed."""


class Stub:
    """Runs the server as a child process for the time of a `with` block, and controls it over HTTP."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection
        self.port = 0
        self.pid = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # At the end its input is closed, and its own end waited for.
            process = stack.enter_context(
                subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdout is not None
            self.port, self.pid = json.loads(process.stdout.readline())["port"], process.pid
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_HUNG)
            self._connection = stack.enter_context(closing(connection))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the server listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self, *, keep: bool = False) -> None:
        """Forget objects (unless told to keep them), log, faults and modes."""
        self._ask("reset", keep=keep)

    def log(self) -> list[dict[str, Any]]:
        """The requests since the reset: n, method, service, op, bucket, key, status, fault."""
        return list(self._ask("log"))

    def heads(self) -> list[str]:
        """The request line and the headers of each request since the reset."""
        return list(self._ask("heads"))

    def count(self) -> int:
        """How many requests came since the reset."""
        return int(self._ask("count"))

    def faults(self, faults: Sequence[dict[str, Any]]) -> None:
        """Let the nth request from now on fail: `{"nth": 1, "kind": "503-after", "seconds": 0, "times": 1}`.

        With an `op` only a request so named does. The kind `answer` needs a `status` and either a `code`, for the
        service's own refusal, or `headers` and a `body` (Latin-1).
        """
        self._ask("faults", faults=faults)

    def land(self) -> int:
        """Apply now the requests that met the fault `late`; how many they were."""
        return int(self._ask("land"))

    def rival(self, nth: int, service: str, bucket: str, key: str, data: bytes) -> None:
        """Store bytes around the service in the midst of the nth request from now on, which has to meet a fault: when
        it has had its effect, if any, and before its answer is sent.
        """
        self._ask("rival", nth=nth, service=service, bucket=bucket, key=key, data=data.decode("latin-1"))

    def mode(self, **modes: Any) -> None:
        """Set delay (seconds), log, ignore_conditions, drop_metadata or page (names in a page of a listing, 0: the
        service's largest); what isn't named stays.
        """
        self._ask("mode", **modes)

    def connections(self) -> dict[str, int]:
        """How many connections are open and how many were ever accepted, with the one of this object."""
        return dict(self._ask("connections"))

    def get(self, service: str, bucket: str, key: str) -> bytes | None:
        """The bytes of an object, around the service; None: there is none."""
        found = self._ask("get", service=service, bucket=bucket, key=key)
        return found[0].encode("latin-1") if found else None

    def metadata(self, service: str, bucket: str, key: str) -> dict[str, str] | None:
        """The metadata fields of an object by the names that the client gave them; None: there is no such object."""
        found = self._ask("get", service=service, bucket=bucket, key=key)
        return found[1] if found else None

    def put(self, service: str, bucket: str, key: str, data: bytes) -> None:
        """Store bytes around the service: a new tag and generation, no request in the log."""
        self._ask("put", service=service, bucket=bucket, key=key, data=data.decode("latin-1"))

    def _ask(self, name: str, **said: Any) -> Any:
        """One control request; one that the server cannot read is a ValueError."""
        with self._lock:
            self._connection.request("POST", f"/_control/{name}", json.dumps(said))
            response = self._connection.getresponse()
            data = response.read()
        if response.status == 400:
            raise ValueError(data.decode())
        return json.loads(data)


async def _serve() -> None:
    """Serve until standard input ends."""
    from cloudstub_control import Hub

    server = await asyncio.start_server(Hub().talk, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Run the server on uvloop where that is installed; who interrupts the tests ends it by its input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runner: Any = importlib.import_module("uvloop" if importlib.util.find_spec("uvloop") else "asyncio")
    runner.run(_serve())


if __name__ == "__main__":
    main()
