"""The gateway on uvicorn: what HTTP itself refuses is told in the API's envelope too, and who is slow is cut off."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from accountstore import ConfigError
from accountstore.gateway.problems import Problem
from accountstore.gateway.wire import envelope

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ("Protocol", "server")

_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 10.0
_WRITE_SECONDS = 20.0
_CONNECTIONS = 4096
_BACKLOG = 2048
_GRACE_SECONDS = 30
_LOOK_SECONDS = 0.1


class _HeadError(Exception):
    """Ends the parsing of a request."""


class Protocol(HttpToolsProtocol):
    """One connection.

    A request's head has at most `head_bytes` and comes within `head_seconds`. A trailer, what stands between the chunks
    of a body, and a head that comes while a request is worked on have `head_bytes` too. A client that does not take its
    answers within `write_seconds` is cut off, at the latest after twice as long, also where its connection is being
    closed. Of more than `connections_allowed` the newest is closed. Nothing is upgraded: `Upgrade` is no part of a
    request here. With `tls` a connection counts before TLS begins, which has `head_seconds` too.
    """

    head_bytes = _HEAD_BYTES
    head_seconds = _HEAD_SECONDS
    write_seconds = _WRITE_SECONDS
    connections_allowed = _CONNECTIONS
    tls: ssl.SSLContext | None = None

    _head_size = 0
    _without_upgrade = b""
    _head_timer: Any = None
    _write_timer: Any = None
    _blocked_since: float | None = None
    _under_way: Any = None
    _handshake: Any = None
    _early = b""
    _refused = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request, or for TLS."""
        super().connection_made(transport)
        self._socket = transport
        self._watch_writes()
        if len(self.connections) > self.connections_allowed:
            self.transport.close()
        elif self.tls is not None:
            self._handshake = self.loop.create_task(self._begin_tls(self.tls))
        else:
            self._wait_for_head()

    async def _begin_tls(self, context: ssl.SSLContext, /) -> None:
        """Begin TLS, then to wait for a request, which may have come already."""
        begun = None
        with suppress(OSError, RuntimeError):  # it is no TLS, too late, or lost
            begun = await self.loop.start_tls(
                self.transport, self, context, server_side=True, ssl_handshake_timeout=self.head_seconds
            )
        self._handshake = None
        if begun is None:
            self.connection_lost(None)
            return
        super().connection_made(begun)
        self._wait_for_head()
        if self._early:
            self.data_received(self._early)

    def shutdown(self) -> None:
        """Close the connection; where a request is under way, behind its answer."""
        super().shutdown()
        if self.tls is not None:
            self._end_tls()

    def _end_tls(self) -> None:
        """End the connection once it is closed and all is sent: without what the client might say to the end of TLS."""
        if self.transport.is_closing() and not self._socket.get_write_buffer_size():
            self._socket.abort()
        else:
            self.loop.call_later(_LOOK_SECONDS, self._end_tls)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_wait()
        self._write_timer.cancel()
        super().connection_lost(exc)
        if self._under_way is not None:
            self._under_way.disconnected = True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Begin to work on a request: of several that came at once, not the last one, which is all that uvicorn ends
        when the connection is lost.
        """
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer who has sent a whole request and only listens now, then close. TLS has no half of a connection."""
        cycle: Any = self.cycle
        if self.scheme == "https" or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Note that the client does not take what is sent."""
        self._blocked_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it has."""
        self._blocked_since = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came. What is no body is counted: the parser keeps what has not ended, and copies it each time."""
        if self._handshake is not None:
            self._early += data
            return
        if self._refused:
            return
        self._head_size += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserError:
            self._refuse()
            return
        under_way: Any = self.cycle  # None before the first request, whatever its type says
        if self._head_size > self.head_bytes:
            self._refuse()
        elif (under_way is None or under_way.response_complete) and not self.transport.is_closing():
            self._wait_for_head()

    def _feed(self, data: memoryview, /) -> None:
        """Parse. The head of a request that would upgrade is parsed again without that (RFC 9110 section 7.8): the
        parser takes what follows it for another protocol, and not for its body.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self.parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(self._without_upgrade)
            else:
                return

    def on_message_begin(self) -> None:
        """Count a head anew."""
        super().on_message_begin()
        self._counted = 0
        self._has_head = False

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. One of a trailer is counted, and no header (RFC 9110 section 6.5.1)."""
        self._count(name + value)
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to work on a request."""
        if self.parser.should_upgrade():
            self._without_upgrade = self._head_without_upgrade()
            return
        self._end_wait()
        self._head_size = 0
        self._has_head = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which is no head."""
        self._head_size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head."""
        if self.parser.should_upgrade():
            return
        self._head_size = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        """Read no more. The whole requests that came before are answered first: what they do is done."""
        self._refused = True
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._under_way
        if last is None or last.response_complete or (last.more_body and not last.response_started):
            self.send_400_response("")
        else:
            self.cycle = last
            last.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request in the API's envelope, and close the connection."""
        problem = Problem(400, "badRequest", "this is not an HTTP request that can be understood")
        body = envelope(problem, "-")
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"x-content-type-options: nosniff\r\ncache-control: no-store\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        if not self.transport.is_closing():
            self.transport.write(head + body)
            self.transport.close()
        if self._under_way is not None:  # has nowhere to answer to
            self._under_way.disconnected = True
            self._under_way.message_event.set()

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise _HeadError
        headers = (b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(headers))

    def _count(self, part: bytes, /) -> None:
        self._counted += len(part)
        if self._counted > self.head_bytes:
            raise _HeadError

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _watch_writes(self) -> None:
        """Cut the client off where it has taken too long; look again later."""
        now = self.loop.time()
        if self._blocked_since is None and self.transport.is_closing():
            self._blocked_since = now  # what is left to be sent may be too little for `pause_writing`
        if self._blocked_since is not None and now - self._blocked_since >= self.write_seconds:
            self.transport.abort()
        self._write_timer = self.loop.call_later(self.write_seconds, self._watch_writes)

    def _end_wait(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def server(
    app: ASGIApp, host: str, port: int, /, *, certificate: str | None = None, key: str | None = None
) -> uvicorn.Server:
    """A server of one process. At SIGTERM it takes no more connections and ends what it has begun.

    Connections take half of the descriptors that the process may have, at the most: the others are the storages'.

    Raises `ConfigError` where the certificate and its key are none.
    """
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, password=str)
        except OSError as error:
            files = f"{certificate} and {key}" if key else certificate
            raise ConfigError(
                f"{files}: no certificate with its key, in PEM and without a passphrase ({type(error).__name__})"
            ) from None

    class Bounded(Protocol):
        connections_allowed = min(Protocol.connections_allowed, _descriptors() // 2)
        tls = context

    class Server(uvicorn.Server):
        def _log_started_message(self, listeners: Any) -> None:
            self.config.ssl = context  # which it is to tell of, and not to begin
            super()._log_started_message(listeners)

    return Server(
        uvicorn.Config(
            app,
            host,
            port,
            loop="auto" if context is None else "asyncio",  # uvloop may read before `start_tls` is ready
            http=Bounded,
            backlog=min(_BACKLOG, _descriptors() // 8),  # so many are accepted at once, before any is counted
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # it has queries; the gateway has its own
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


def _descriptors() -> int:
    """How many descriptors this process may have; where the system does not say, more than are ever used."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
    except ImportError:  # Windows
        return 2 * _CONNECTIONS
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return 2 * _CONNECTIONS if soft == RLIM_INFINITY else soft
