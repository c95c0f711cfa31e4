"""The wire part of the cloud stub: HTTP/1.1 on asyncio's streams, one request at a time on a connection."""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

CRLF = b"\r\n"
_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_RANGE = re.compile(rb"bytes=(\d*)-(\d*)$")


class Answer(NamedTuple):
    """What a service answers: the status, the header lines but Date and Content-Length, and the body."""

    status: int
    headers: bytes = b""
    body: bytes = b""


class Request:
    """One HTTP request in bytes; its service fills in the rest. `metadata` is None where the headers have it."""

    def __init__(self, head: bytes, body: bytes = b"") -> None:
        self.head = head  # the request line and the headers, each line with its end
        self.lower = head.lower()
        self.method, target, _ = head[: head.index(CRLF)].split(b" ", 2)
        self.path, _, self.query_string = target.partition(b"?")
        self.body = body
        self.service = ""
        self.op = "other"
        self.bucket = b""
        self.key = b""
        self.content_type = self.header(b"content-type")
        self.metadata: Mapping[bytes, bytes] | None = None
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
        """The headers whose name begins so, by the rest of their names."""
        found = re.findall(rb"\r\n%b([^:\r]+):([^\r]*)" % prefix, self.head, re.IGNORECASE)
        return {name: value.strip() for name, value in found}


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    """The next request, with its body decoded. Raises `IncompleteReadError` where the client has gone."""
    request = Request((await reader.readuntil(b"\r\n\r\n"))[:-2])
    if request.header(b"expect") == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.header(b"transfer-encoding"):
        request.body = await _unchunked(reader)
    else:
        request.body = await reader.readexactly(int(request.header(b"content-length") or 0))
    if b"aws-chunked" in (request.header(b"content-encoding") or b""):
        inner = asyncio.StreamReader()
        inner.feed_data(request.body)
        request.body = await _unchunked(inner)
    return request


async def _unchunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    while await reader.readline() != CRLF:
        pass  # a trailer
    return b"".join(parts)


@lru_cache(maxsize=256)
def http_date(second: int) -> bytes:
    """A time as HTTP writes it."""
    return formatdate(second, usegmt=True).encode()


def encode(answer: Answer, method: bytes) -> tuple[bytes, bytes]:
    """The head and the body of an answer as they go over the wire; HEAD and 204 have no body."""
    status, headers, body = answer
    date = http_date(int(time.time()))
    if status == HTTPStatus.NO_CONTENT:
        return b"%bDate: %b\r\n%b\r\n" % (_LINES[status], date, headers), b""
    head = b"%bDate: %b\r\nContent-Length: %d\r\n%b\r\n" % (_LINES[status], date, len(body), headers)
    return head, b"" if method == b"HEAD" else body


def ranged(data: bytes, asked: bytes | None) -> Answer:
    """The bytes that a Range header asks for: 200 with all, 206 with a part, or 416 without a body."""
    found = _RANGE.match(asked) if asked else None
    if found is None:
        return Answer(200, b"", data)
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= len(data):
        return Answer(416, b"Content-Range: bytes */%d\r\n" % len(data))
    return Answer(206, b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, len(data)), data[start:stop])
