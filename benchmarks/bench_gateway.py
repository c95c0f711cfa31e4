"""The gateway: requests a second against a bare route, and saves against the store's own; latency; memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager, suppress
from statistics import quantiles
from time import perf_counter, sleep
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from accountstore import to_json
from benchmarks.gateway_server import PATH
from benchmarks.harness import RATE, TASKS, Comparison, Count, Goal, Round, in_flight
from benchmarks.samples import ACCOUNT
from benchmarks.sides import open_store, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from anyio.abc import SocketStream

    from benchmarks.harness import Operation, Workspace

_HOST = "127.0.0.1"
_BARE = "bare Starlette route"
_OWN = "the store's own save"
_SECONDS = 60


class Server(NamedTuple):
    """A server in another process."""

    port: int
    token: str
    process: subprocess.Popen[str]

    def memory(self) -> int:
        """How many bytes of memory the process has."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def get(self, number: int, /) -> bytes:
        """The request that gets a document."""
        return self._request("GET", f"{PATH}?fileName=user{number % TASKS}.account")

    def save(self, number: int, /) -> bytes:
        """The request that saves it."""
        file = {"fileName": f"user{number % TASKS}.account"}
        body = msgspec.json.encode({"storageFile": file, "value": msgspec.Raw(to_json(ACCOUNT, reveal=True))})
        return self._request("PUT", PATH, body)

    def _request(self, method: str, target: str, body: bytes = b"") -> bytes:
        head = f"{method} {target} HTTP/1.1\r\nHost: {_HOST}\r\nAuthorization: Bearer {self.token}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def serving(kind: str, url: str = "memory://", /) -> Generator[Server]:
    """A server, once it takes connections."""
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-P", "-c", _PROGRAM, kind, str(port), url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        ends = perf_counter() + _SECONDS
        while not _takes_connections(port):
            assert process.poll() is None
            assert perf_counter() < ends
            sleep(0.02)
        yield Server(port, token, process)
    finally:
        process.terminate()
        process.wait(_SECONDS)


_PROGRAM = "import runpy, sys; sys.path.append('.'); runpy.run_module('benchmarks.gateway_server', run_name='__main__')"


def _takes_connections(port: int, /) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False


async def exchange(stream: SocketStream, request: bytes, /) -> None:
    """Send a request and take its answer, which must be 200."""
    await stream.send(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive()


class Connections:
    """Connections to a server, each for one request at a time."""

    def __init__(self, streams: Sequence[SocketStream], /) -> None:
        self._free = [*streams]

    async def call(self, request: bytes, /) -> None:
        """One request, on a connection that has none."""
        stream = self._free.pop()
        try:
            await exchange(stream, request)
        finally:
            self._free.append(stream)


async def connected(stack: AsyncExitStack, server: Server, number: int = TASKS, /) -> Connections:
    """So many connections, for as long as the stack is open."""
    return Connections(
        [await stack.enter_async_context(await anyio.connect_tcp(_HOST, server.port)) for _ in range(number)]
    )


def getting(server: Server, connections: Connections, /) -> Operation:
    """Getting a document by a request."""
    return lambda number: connections.call(server.get(number))


def saving(server: Server, connections: Connections, /) -> Operation:
    """Saving a document by a request."""
    return lambda number: connections.call(server.save(number))


async def gateway(work: Workspace, /) -> AsyncGenerator[Round | Sequence[Count]]:
    async with AsyncExitStack() as stack:
        ours, bare = (stack.enter_context(serving(kind)) for kind in ("gateway", "bare"))
        here, there = [await connected(stack, server) for server in (ours, bare)]
        await in_flight(saving(ours, here))(TASKS)
        calls = {"accountstore gateway": getting(ours, here), _BARE: getting(bare, there)}
        yield Round(
            "get on memory, 64 in flight, one uvicorn worker",
            {name: in_flight(call) for name, call in calls.items()},
            [Comparison(_BARE, Goal("at least", 0.7), RATE)],
            work.effort(2, 2000),
        )
        rate = 100.0 if work.quick else await _rate(calls["accountstore gateway"]) / 2
        counts: list[Count] = []
        for name, call in calls.items():
            p50, p99 = await _latency(call, rate, 20 if work.quick else 4000)
            counts += [
                Count(f"latency at {rate:.0f} requests a second", name, what, round(1e6 * seconds))
                for what, seconds in (("p50, us", p50), ("p99, us", p99))
            ]
        yield counts
        yield await _memory(ours, here, scale=0.001 if work.quick else 1)
    folder = os.path.join(work.folder, "gateway")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serving("gateway", folder))
        store = await stack.enter_async_context(open_store(os.path.join(work.folder, "own")))
        connections = await connected(stack, server)
        yield Round(
            "save on local storage, 64 in flight, one uvicorn worker",
            {"accountstore gateway": in_flight(saving(server, connections)), _OWN: in_flight(our_side(store).save)},
            [Comparison(_OWN, Goal("at least", 0.6), RATE)],
            work.effort(2, 500),
        )


async def _rate(operation: Operation, /) -> float:
    """Operations a second, 64 in flight."""
    return 4000 / await in_flight(operation)(4000)


async def _latency(operation: Operation, rate: float, times: int, /) -> tuple[float, float]:
    """Median and 99th percentile of operations that begin at this rate, whether those before have ended or not."""
    seconds: list[float] = []
    turns = anyio.CapacityLimiter(TASKS)  # as many as there are connections; waiting for one counts

    async def one(number: int, due: float) -> None:
        async with turns:
            await operation(number)
        seconds.append(perf_counter() - due)

    began = perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(times):
            due = began + number / rate
            await anyio.sleep(max(0, due - perf_counter()))
            tasks.start_soon(one, number, due)
    cuts = quantiles(seconds, n=100)
    return cuts[49], cuts[98]


async def _memory(server: Server, connections: Connections, /, *, scale: float) -> list[Count]:
    """Memory after many requests, as a share of that after a thousand; the same for dropped connections."""
    title, goal = "memory, % of that after 1,000", Goal("at most", 105)
    counts: list[Count] = []
    get = in_flight(getting(server, connections))

    async def drop(times: int) -> None:
        for number in range(times):
            stream = await anyio.connect_tcp(_HOST, server.port)
            await stream.send(server.get(number)[: 40 if number % 2 else None])
            await stream.aclose()

    for name, run, times in (("requests", get, 100_000), ("dropped connections", drop, 10_000)):
        await run(max(8, int(1000 * scale)))
        before = server.memory()
        await run(max(8, int((times - 1000) * scale)))
        counts.append(Count(title, "memory", f"{times:,} {name}", round(100 * server.memory() / before), goal))
    return counts
