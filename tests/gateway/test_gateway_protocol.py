"""One connection of the gateway's server, byte by byte, over a transport that only notes what is sent."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn")

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn import Config
from uvicorn.server import ServerState

from accountstore.gateway.server import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Scope, Send

GET = b"GET / HTTP/1.1\r\nHost: g\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = b"PUT / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
GARBAGE = b"\0\r\n\r\n"
SMALL, LARGE = 1000, 1_000_000


class Wire(asyncio.Transport):
    """Notes what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connection:
    """A connection to an application that reads a request's body, and answers when `go_on` is set."""

    def __init__(self, head_bytes: int) -> None:
        self.bodies: list[bytes] = []
        self.go_on = asyncio.Event()
        self.wire = Wire()
        self.protocol = Protocol(Config(self._app, interface="asgi3", log_config=None), ServerState(), {})
        self.protocol.head_bytes = head_bytes
        self.protocol.connection_made(self.wire)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            self.bodies.append(await Request(scope, receive).body())
            await self.go_on.wait()
            await Response(b"done")(scope, receive, send)

    async def send(self, *parts: bytes) -> int:
        """Send until the connection is closed. How much was sent."""
        sent = 0
        for part in parts:
            if not self.wire.closed:
                self.protocol.data_received(part)
                sent += len(part)
            await asyncio.sleep(0)
        return sent

    async def answers(self) -> list[bytes]:
        """The statuses of what is answered, once the application goes on."""
        self.go_on.set()
        for _ in range(50):
            await asyncio.sleep(0)
        self.protocol.connection_lost(None)
        return re.findall(rb"HTTP/1.1 (\d+)", self.wire.sent)


def run(head_bytes: int, test: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a connection."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await test(Connection(head_bytes))

    asyncio.run(main())


@pytest.mark.parametrize(
    "begin", [b"0\r\nX: ", b"0\r\n", b"4\r\nbody\r\n1;", b"4;"], ids=["value", "name", "chunk", "first chunk"]
)
def test_what_is_no_body_has_its_limit(begin: bytes) -> None:
    """What stands between the chunks of a body, or behind them, and never ends closes the connection, and is not kept;
    the control: with a larger limit it goes on. A body of any length does.
    """

    async def refused(connection: Connection) -> None:
        assert await connection.send(CHUNKED + begin, *[b"x" * 100] * 1000) < SMALL + 300
        assert connection.wire.closed
        assert await connection.answers() == [b"400"]

    async def goes_on(connection: Connection) -> None:
        await connection.send(CHUNKED + begin, *[b"x" * 100] * 1000)
        assert not connection.wire.closed

    async def body(connection: Connection) -> None:
        parts = (b"64\r\n" + b"x" * 100 + b"\r\n",) * 1000
        await connection.send(CHUNKED, *parts, b"0\r\n\r\n")
        assert await connection.answers() == [b"200"]
        assert connection.bodies == [b"x" * 100_000]

    run(SMALL, refused)
    run(LARGE, goes_on)
    run(SMALL, body)


def test_a_head_behind_a_request_has_its_limit() -> None:
    """A head that comes while a request is worked on is not kept beyond the limit, and the request is answered."""
    parts = (PUT, GET[:-2] + b"X: ", *[b"x" * 100] * 1000, b"\r\n\r\n")

    async def refused(connection: Connection) -> None:
        await connection.send(*parts)
        assert await connection.answers() == [b"200"]
        assert connection.wire.closed

    async def goes_on(connection: Connection) -> None:
        await connection.send(*parts)
        assert await connection.answers() == [b"200", b"200"]

    run(SMALL, refused)
    run(LARGE, goes_on)


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [
        ((PUT, GARBAGE), [b"200"]),
        ((PUT + GARBAGE, GARBAGE), [b"200"]),
        ((PUT, GET[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n"), [b"200"]),
        ((PUT, PUT, GARBAGE), [b"200", b"200"]),
        ((PUT, PUT, CHUNKED, GARBAGE), [b"200", b"200"]),
        ((PUT, CHUNKED, GARBAGE), [b"200"]),
        ((CHUNKED, GARBAGE), [b"400"]),
        ((GARBAGE,), [b"400"]),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_whole_requests_are_answered_before_one_that_is_none(
    parts: tuple[bytes, ...], statuses: list[bytes], at_once: bool
) -> None:
    """What is no request, or never becomes one, takes the answer from none that came before it; then the connection is
    closed.
    """

    async def test(connection: Connection) -> None:
        await connection.send(*[b"".join(parts)] if at_once else parts)
        assert await connection.answers() == statuses
        assert connection.wire.closed
        assert connection.wire.sent.count(b"connection: close") == 1
        assert connection.bodies == [b"body"] * statuses.count(b"200")

    run(SMALL, test)
