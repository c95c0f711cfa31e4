"""A network that loses, delays, cuts and repeats requests and answers: around a backend, or as a proxy for HTTP.

It does to a request what a client can bear. One without a condition that came twice, the second time after others had
written, would undo their writes whatever a client did: so a repetition goes out together with the request, in one
piece, and the answer that comes back is the last one of success. And a request whose connection was lost has reached
the server before, or never does. Only one for a certain version may come later ("late"): it can do no harm. A request
that is delayed past the deadline of its operation comes late, too: the operation has ended in an `UncertainError` then.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Literal, ParamSpec, Self, TypeAlias, TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from msgspec.structs import replace

from accountstore.backends.base import Backend, Blob, Capabilities, Stat, Usage, Version, VersionInfo, WriteMode
from accountstore.errors import BackendError, UnavailableError

__all__ = ("LossyBackend", "LossyProxy", "Schedule")

T = TypeVar("T")
P = ParamSpec("P")
Fault: TypeAlias = Literal[
    "",
    "lose request",
    "lose answer",
    "cut request",
    "cut answer",
    "delay request",
    "delay answer",
    "repeat",
    "late",
    "silence",
    "silence after",
]
_LOST: list[Fault] = ["lose request", "lose answer", "lose answer", "lose answer", "cut request", "cut answer"]
_LATE: list[Fault] = ["delay request", "delay answer", "repeat"]
_RARE: list[Fault] = ["late", "late", "silence", "silence after"]
_FAULTS: Sequence[Fault] = _LOST * 6 + _LATE * 8 + _RARE
_HEAD = 1 << 20
_CLOSED = (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_OF_A_VERSION = re.compile(rb"if-match:|generation-?match[:=] *[1-9]")


class Schedule:
    """Which request meets which fault, by a seed: a share `rate` of them meets one. `drawn` counts them."""

    def __init__(
        self, seed: object, /, *, rate: float = 0.3, longest: float = 0.05, faults: Sequence[Fault] = _FAULTS
    ) -> None:
        """`longest` bounds a delay, in seconds; each of the faults is as likely as the others."""
        self._random = Random(str(seed))  # noqa: S311 -- no secret
        self._rate = rate
        self._longest = longest
        self._faults = faults
        self.drawn: Counter[Fault] = Counter()

    def draw(self) -> Fault:
        """The fault of the next request; empty: it meets none."""
        fault: Fault = self._random.choice(self._faults) if self._random.random() < self._rate else ""
        self.drawn[fault] += 1
        return fault

    async def delay(self) -> None:
        """Wait."""
        await anyio.sleep(self._random.random() * self._longest)


class LossyBackend:
    """A backend whose requests and answers get lost on the way to and from another one.

    Several stores may be on it at once. Only a write of a certain version is repeated. It is not `certain`,
    and has no batches: each document's request is lost by itself.
    """

    def __init__(self, backend: Backend, schedule: Schedule, /) -> None:
        self._backend = backend
        self._schedule = schedule

    async def _call(self, call: Callable[P, Awaitable[T]], repeated: bool, /, *args: P.args, **kwargs: P.kwargs) -> T:
        fault = self._schedule.draw()
        if fault in {"lose request", "cut request"}:
            raise UnavailableError("the request was lost")
        if fault == "silence":
            await anyio.sleep_forever()
        if fault == "delay request":
            await self._schedule.delay()
        result = await call(*args, **kwargs)
        if fault == "repeat" and repeated:
            with suppress(BackendError, OSError):
                await call(*args, **kwargs)
        if fault in {"lose answer", "cut answer"}:
            raise UnavailableError("the answer was lost")
        if fault == "silence after":
            await anyio.sleep_forever()
        if fault == "delay answer":
            await self._schedule.delay()
        return result

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._backend.capabilities, certain=False, batch=1)

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._call(self._backend.read, False, key, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        repeated = isinstance(mode, Version)
        return await self._call(self._backend.write, repeated, key, data, mode=mode, write_token=write_token)

    async def stat(self, key: str, /) -> Stat:
        return await self._call(self._backend.stat, False, key)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._call(self._backend.delete, version is not None, key, version=version)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return self._backend.scan(prefix, recursive=recursive)

    async def versioned(self) -> bool | None:
        return await self._backend.versioned()

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        return await self._call(self._backend.versions, False, key)

    async def usage(self) -> Usage | None:
        return await self._backend.usage()

    async def filesystem(self) -> tuple[object, str]:
        return await self._backend.filesystem()

    async def aclose(self) -> None:
        await self._backend.aclose()


class LossyProxy:
    """A proxy on a port of 127.0.0.1 before an HTTP server on another one: `async with LossyProxy(port, schedule)`."""

    def __init__(self, server: int, schedule: Schedule, /) -> None:
        self._server = server
        self._schedule = schedule
        self._stack = AsyncExitStack()
        self.port: int = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            stack.push_async_callback(listener.aclose)
            self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 -- no database
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(listener.serve, self._talk)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _talk(self, client: SocketStream, /) -> None:
        with suppress(*_CLOSED):
            async with client, await anyio.connect_tcp("127.0.0.1", self._server) as server:
                connection = _Connection(client, server, self._schedule)
                while await connection.relay():
                    pass


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: SocketStream, server: SocketStream, schedule: Schedule, /) -> None:
        self._client = client
        self._server = server
        self._requests = BufferedByteReceiveStream(client)
        self._answers = BufferedByteReceiveStream(server)
        self._schedule = schedule

    async def relay(self) -> bool:
        """Pass one request on, and its answer back; whether the connection goes on."""
        request = await self._request()
        fault = self._schedule.draw()
        if not await self._arrives(request, fault):
            return False
        await self._server.send(request * (2 if fault == "repeat" else 1))
        answer = await self._answer(request)
        if fault == "repeat":
            second = await self._answer(request)
            answer = second if _succeeded(second) else answer
        return await self._return(answer, fault)

    async def _arrives(self, request: bytes, fault: Fault, /) -> bool:
        """Whether the request is to reach the server; after the time that it takes."""
        if fault == "late" and _OF_A_VERSION.search(request.lower()):
            await self._client.aclose()
        if fault in {"delay request", "late"}:
            await self._schedule.delay()
        if fault == "cut request":
            await self._server.send(request[: len(request) // 2])
        if fault == "silence":
            await self._client.receive()  # until the client has gone
        return fault not in {"lose request", "cut request", "silence"}

    async def _return(self, answer: bytes, fault: Fault, /) -> bool:
        """Answer the client; whether the connection goes on."""
        if fault == "delay answer":
            await self._schedule.delay()
        if fault == "cut answer":
            answer = answer[: len(answer) // 2]
        if fault == "silence after":
            await self._client.receive()
        if fault in {"lose answer", "silence after"}:
            return False
        await self._client.send(answer)
        return fault != "cut answer"

    async def _request(self) -> bytes:
        head = await self._requests.receive_until(b"\r\n\r\n", _HEAD) + b"\r\n\r\n"
        asked = re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE)
        if asked:  # the server is not asked, as it is to take the request in one piece
            await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = head[: asked.start()] + head[asked.end() :]
        return head + await _body(self._requests, head)

    async def _answer(self, request: bytes, /) -> bytes:
        head = await self._answers.receive_until(b"\r\n\r\n", _HEAD) + b"\r\n\r\n"
        empty = request.startswith(b"HEAD ") or head.split(b" ", 2)[1] in {b"204", b"304"}
        return head if empty else head + await _body(self._answers, head)


def _succeeded(answer: bytes, /) -> bool:
    return answer.split(b" ", 2)[1].startswith(b"2")


async def _body(stream: BufferedByteReceiveStream, head: bytes, /) -> bytes:
    """The body that follows a head, as it came."""
    lower = head.lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", lower)
    if length:
        return await stream.receive_exactly(int(length[1]))
    body = b""
    while b"\r\ntransfer-encoding: chunked" in lower:
        size = await stream.receive_until(b"\r\n", _HEAD)
        chunk = int(size.partition(b";")[0], 16)
        body += size + b"\r\n" + await stream.receive_exactly(chunk + 2)
        if not chunk:
            break
    return body
