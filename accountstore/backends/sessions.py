"""What the clients on aiohttp have in common: their sessions, and answers of a bounded size that lead nowhere else."""

from __future__ import annotations

import socket
import zlib
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict, CIMultiDictProxy

from accountstore.aio.sending import release
from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import BackendError, UnavailableError, check_size

MOST_TOLD = 64 << 20
"""More bytes than any answer has that is no document."""

_ZLIB_OR_GZIP = 47
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
_UNREADABLE = frozenset({"br", "zstd"})


class EndlessError(aiohttp.ClientPayloadError):
    """An answer has more than `MOST_TOLD` bytes."""


class BoundedAnswer(aiohttp.ClientResponse):
    """An answer of which no more than `MOST_TOLD` bytes are taken into memory at once."""

    async def read(self) -> bytes:
        """The whole body. Raises `EndlessError` where it is longer."""
        if self._body is None:
            body = await self.first(MOST_TOLD)
            if len(body) > MOST_TOLD:
                self.close()
                raise EndlessError(f"more than {MOST_TOLD} bytes")
            self._body = body
        return await super().read()

    async def first(self, limit: int, /) -> bytes:
        """As `read_at_most`; after an error or a cancellation the connection is closed."""
        try:
            return await read_at_most(self.content, limit)
        except BaseException:
            self.close()
            raise


class _Answer(BoundedAnswer):
    """Such an answer, which leads to no other address: a redirect is an answer as any other."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        found = super().headers
        if self.status // 100 != 3:
            return found
        return CIMultiDictProxy(CIMultiDict(one for one in found.items() if one[0].lower() not in {"location", "uri"}))


def prepare(session: Any, /, threads: ThreadPool, *, bounded: bool = False) -> None:
    """Make a client's session the store's own; aiohttp has no other way for most of it.

    It repeats no request whose connection was closed: a write that took effect would meet its own document, which could
    be a rival's as well. It tells when a request leaves. Names are looked up in these threads rather than in the event
    loop's default executor, which is the application's. No redirect is followed. And no request waits for a connection,
    for the store bounds their number, unless it is `bounded` by the configuration.
    """
    session._retry_connection = False  # noqa: SLF001
    session._response_class = _Answer  # noqa: SLF001
    leaving = aiohttp.TraceConfig()
    leaving.on_request_headers_sent.append(_leave)
    leaving.freeze()
    session.trace_configs.append(leaving)
    connector: Any = session.connector
    if not bounded:
        connector._limit = 0  # noqa: SLF001
    if isinstance(getattr(connector, "_resolver", None), aiohttp.ThreadedResolver):
        connector._resolver = _Resolver(threads)  # noqa: SLF001


async def _leave(*_: object) -> None:
    release()


class _Resolver(AbstractResolver):
    """Looks up names in threads of the store's own."""

    def __init__(self, threads: ThreadPool, /) -> None:
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in await self._threads.run(look_up)
        ]

    async def close(self) -> None:
        pass


async def read_at_most(stream: aiohttp.StreamReader, limit: int, /) -> bytes:
    """The bytes of an answer, or its first `limit + 1` where it has more."""
    data = bytearray()
    while chunk := await stream.read(limit + 1 - len(data)):
        data += chunk
    return bytes(data)


def unpacked(data: bytes, encoding: str, limit: int, /) -> bytes:
    """What stands in an answer with this `Content-Encoding`, of which no more than `limit` bytes are taken into memory.

    Raises:
        TooLargeError: there are more.
        BackendError: it is not what the encoding says.
    """
    encoding = encoding.strip().lower()
    if encoding in _UNREADABLE:
        raise BackendError(f"the object is stored with the Content-Encoding {encoding!r}, which is not understood")
    if encoding in _PACKED:
        unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
        try:
            data = unpacker.decompress(data, limit + 1)
        except zlib.error:
            raise BackendError(f"the object is not what its Content-Encoding says ({encoding})") from None
        if len(data) <= limit and not unpacker.eof:
            raise UnavailableError("the answer was cut short")
    check_size(len(data), limit)
    return data
