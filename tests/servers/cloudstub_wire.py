"""The wire part of the cloud stub: HTTP/1.1 parsed by hand on bytes, one request at a time on a connection."""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Callable

CRLF = b"\r\n"
_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_TRICKLES = 10


class Answer(NamedTuple):
    """What a service answers: the status, the header lines but Date and Content-Length, and the body."""

    status: int
    headers: bytes = b""
    body: bytes = b""


class Request:
    """One HTTP request in bytes; its headers and its query are looked up when somebody asks.

    The service that it is for fills in `service`, `op`, `bucket` and `key`.
    """

    __slots__ = ("_query", "body", "bucket", "head", "key", "lower", "method", "op", "path", "query_string", "service")

    def __init__(self, head: bytes) -> None:
        self.head = head  # the request line and the headers, each line with its end
        self.lower = head.lower()
        self.method, target, _ = head[: head.index(CRLF)].split(b" ", 2)
        self.path, _, self.query_string = target.partition(b"?")
        self.body = b""
        self.service = ""
        self.op = "other"
        self.bucket = b""
        self.key = b""
        self._query: dict[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query, decoded; one without a value is empty."""
        if self._query is None:
            self._query = dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))
        return self._query

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its name in lower case."""
        start = self.lower.find(b"\r\n" + name + b":")
        if start < 0:
            return None
        start += len(name) + 3
        return self.head[start : self.head.find(CRLF, start)].strip()

    def headers(self, prefix: bytes) -> dict[bytes, bytes]:
        """The headers whose name begins so, by the rest of their names as the client wrote them."""
        found: dict[bytes, bytes] = {}
        at = self.lower.find(b"\r\n" + prefix)
        while at >= 0:
            start = at + 2 + len(prefix)
            at = self.head.find(CRLF, start)
            name, _, value = self.head[start:at].partition(b":")
            found[name] = value.strip()
            at = self.lower.find(b"\r\n" + prefix, at)
        return found


def unchunk(data: bytes, at: int = 0) -> tuple[bytes, int] | None:
    """Decode a chunked body, also AWS's, from an index on: its bytes and where it ends; None: it has not ended."""
    parts: list[bytes] = []
    while (line := data.find(CRLF, at)) >= 0:
        size = int(data[at:line].partition(b";")[0], 16)
        at = line + 2
        if not size:
            return _after_trailers(data, at, b"".join(parts))
        parts.append(data[at : at + size])
        at += size + 2
    return None


def _after_trailers(data: bytes, at: int, body: bytes) -> tuple[bytes, int] | None:
    while (line := data.find(CRLF, at)) >= 0:
        if line == at:
            return body, at + 2
        at = line + 2
    return None


class Clock:
    """Tells the time; the HTTP date is formatted once in a second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""

    def date(self) -> bytes:
        """The time now as HTTP writes it."""
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, formatdate(now, usegmt=True).encode()
        return self._date


def encode(answer: Answer, method: bytes, date: bytes) -> tuple[bytes, bytes]:
    """The head and the body of an answer as they go over the wire; HEAD and 204 have no body."""
    status, headers, body = answer
    if status == HTTPStatus.NO_CONTENT:
        return b"%bDate: %b\r\n%b\r\n" % (_LINES[status], date, headers), b""
    head = b"%bDate: %b\r\nContent-Length: %d\r\n%b\r\n" % (_LINES[status], date, len(body), headers)
    return head, b"" if method == b"HEAD" else body


class Connections:
    """Counts the connections, for all of them."""

    def __init__(self) -> None:
        self.open = 0
        self.accepted = 0


class Connection(asyncio.Protocol):
    """One connection: hands each whole request to `serve`, which answers at once or says how it will.

    After `hold` no further request of the connection is served before `release`: answers keep their order.
    """

    def __init__(self, serve: Callable[[Request, Connection], None], connections: Connections) -> None:
        self._serve = serve
        self._connections = connections
        self._transport: asyncio.Transport
        self._pieces: list[bytes] = []  # what came and was not consumed
        self._size = 0
        self._wanted = 0  # fewer bytes than these make no whole request
        self._request: Request | None = None  # its head came, its body not yet
        self._held = False
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.open += 1
        self._connections.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open -= 1

    def data_received(self, data: bytes) -> None:
        if self._pieces:
            self._size += len(data)
            self._pieces.append(data)
            if self._held or self._size < self._wanted:
                return
            data = b"".join(self._pieces)
        elif self._held:
            self._keep(data, 0)
            return
        self._consume(data)

    def _keep(self, rest: bytes, wanted: int) -> None:
        self._pieces = [rest] if rest else []
        self._size, self._wanted = len(rest), wanted

    def _consume(self, data: bytes) -> None:
        """Serve the whole requests in the data and keep the rest."""
        at = 0
        while not self._held and at < len(data):
            request, at, wanted = self._next(data, at)
            if request is None:
                self._keep(data[at:], wanted)
                return
            self._last = request.header(b"connection") == b"close"
            self._serve(request, self)
        self._keep(data[at:], 0)

    def _next(self, data: bytes, at: int) -> tuple[Request | None, int, int]:
        """The request at an index and where it ends; None: where its rest begins and how many bytes that needs."""
        request = self._request
        if request is None:
            end = data.find(b"\r\n\r\n", at)
            if end < 0:
                return None, at, 0
            request = Request(data[at : end + 2])
            at = end + 4
        if b"\r\ntransfer-encoding:" in request.lower:
            whole, wanted = unchunk(data, at), len(data) - at + 1
        else:
            wanted = int(request.header(b"content-length") or 0)
            whole = (data[at : at + wanted], at + wanted) if at + wanted <= len(data) else None
        if whole is None:
            self._await_body(request)
            return None, at, wanted
        request.body, at = whole
        self._request = None
        return request, at, 0

    def _await_body(self, request: Request) -> None:
        if self._request is None and b"\r\nexpect: 100-continue" in request.lower:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._request = request

    def write(self, wire: bytes) -> None:
        """Send an answer, or a piece of one."""
        if not self._transport.is_closing():
            self._transport.write(wire)
            if self._last and not self._held:
                self._transport.close()

    def hold(self) -> None:
        """Serve nothing more here before `release`."""
        self._held = True

    def release(self, wire: bytes) -> None:
        """Send the answer that was waited for and serve what came meanwhile."""
        self._held = False
        self.write(wire)
        if self._pieces:
            self._consume(b"".join(self._pieces))

    def cut(self, wire: bytes) -> None:
        """Send this much and close the connection."""
        self.hold()
        self.write(wire)
        self._transport.close()

    def trickle(self, wire: bytes, seconds: float) -> None:
        """Send an answer in small pieces, spread over some seconds."""
        loop = asyncio.get_running_loop()
        step = -(-len(wire) // _TRICKLES)
        pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
        for number, piece in enumerate(pieces, 1):
            send = self.release if number == len(pieces) else self.write
            loop.call_later(seconds * number / len(pieces), send, piece)


_RANGE = re.compile(rb"bytes=(\d*)-(\d*)$")


def ranged(data: bytes, asked: bytes | None) -> Answer:
    """The bytes that a Range header asks for: 200 with all, 206 with a part, or 416 without a body."""
    found = _RANGE.match(asked) if asked else None
    if found is None or found.group() == b"bytes=-":
        return Answer(200, b"", data)
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= len(data) or stop <= start:
        return Answer(416, b"Content-Range: bytes */%d\r\n" % len(data))
    return Answer(206, b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, len(data)), data[start:stop])
