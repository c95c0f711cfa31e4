"""The front of the gateway: in-flight bound, time-out, an envelope for every error, headers, HEAD, the access log."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from logging import INFO, getLogger
from traceback import format_tb
from typing import TYPE_CHECKING

import anyio

from accountstore import AccountStoreError
from accountstore.aio.deadlines import Deadline, Deadlines
from accountstore.gateway.config import Limits
from accountstore.gateway.limits import Turns, too_busy
from accountstore.gateway.metrics import Metrics
from accountstore.gateway.problems import Problem, problem_of
from accountstore.gateway.wire import problem_response, too_large

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ("Front", "note")

_LOG = getLogger("accountstore.gateway")
_ACCESS_LOG = getLogger("accountstore.gateway.access")
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
_SECURITY = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")
_UNBOUNDED = frozenset({"/health/live", "/health/ready"})
"""What is answered however much there is to do."""
_UNPROVEN = "/connect/token"
"""What alone reads a body of who has proved nothing yet. Its turns are its own, so that nobody else is kept out."""
_NOTE = "accountstore.gateway"
_CLOSE = (b"connection", b"close")
_OF_A_BODY = frozenset({b"content-length", b"transfer-encoding"})


def note(scope: Scope, /, *, operation: str = "", client: str = "") -> None:
    """Tell the access log which operation a request is, and whose."""
    exchange: _Exchange | None = scope.get(_NOTE)
    if exchange is not None:
        exchange.operation = operation or exchange.operation
        exchange.client = client or exchange.client


def id_of(scope: Scope, /) -> str:
    """What the access log calls a request."""
    exchange: _Exchange = scope[_NOTE]
    return exchange.request_id


class Front:
    """Around the whole application, for HTTP."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics | None, /) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._turns = Turns(limits.in_flight, too_busy)
        self._token_turns = Turns(limits.in_flight, too_busy)
        self._deadlines = Deadlines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        scope[_NOTE] = exchange
        problem = await self._call(scope, exchange)
        if problem is not None and not exchange.status:
            with suppress(OSError, RuntimeError):  # as servers say that the client has gone
                await problem_response(problem, exchange.request_id)(scope, exchange.receive, exchange.send)
        if self._metrics is not None:
            self._metrics.answered(exchange.operation, exchange.status)
        exchange.log()

    async def _call(self, scope: Scope, exchange: _Exchange, /) -> Problem | None:
        """Call the application within the limits. The problem that it ended in is still to be told."""
        deadline = Deadline(self._deadlines, time.monotonic() + self._limits.request_seconds)
        try:
            self._check_length(scope)
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path in _UNBOUNDED:
                await self._app(scope, exchange.receive, exchange.send)
                return None
            with exchange.turn, deadline:
                exchange.turn.enter_context(self._token_turns if path == _UNPROVEN else self._turns)
                await self._app(scope, exchange.receive, exchange.send)
        except Problem as problem:
            return problem
        except AccountStoreError as error:
            return problem_of(error)
        except Exception as error:  # noqa: BLE001 -- every error is answered in the API's envelope
            if deadline.is_late:
                told = "the storage did not answer in time: the document is the old or the new one"
                return Problem(504, "timeout", told)
            if exchange.lost:
                return None
            exchange.log_failure(error)
            return Problem(500, "failed", "the gateway failed: its log says more")
        return None

    def _check_length(self, scope: Scope, /) -> None:
        """Refuse a body by the length that its headers give, before any of it is read."""
        limit = self._limits.body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(b"0" + value.lstrip(b"0")[:20]) > limit:
                raise too_large(limit)


class _Exchange:
    """A request under way, as the access log has it. What is sent gets its headers here, and HEAD no body.

    What is left of the request's body is read before it is answered, and dropped: a server may close the connection
    without a word where it is not, and a client lose the request that it sends next. One that waits for `100 Continue`
    has sent nothing.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, /) -> None:
        self.request_id = os.urandom(8).hex()
        self.operation = "unknown"
        self.client = "-"
        self.status = 0
        self.lost = False
        """Whether the server could not send: the client has gone."""
        self.turn = ExitStack()
        """Of those that are worked on: given back before the answer, for which a client may keep one waiting."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        names = {name for name, value in scope["headers"] if value != b"0"}
        self._has_more = b"expect" not in names and not names.isdisjoint(_OF_A_BODY)
        self._began = time.perf_counter()

    async def receive(self) -> Message:
        """Receive a message of the request."""
        message = await self._receive()
        self._has_more = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the answer."""
        if message["type"] == "http.response.start":
            self.turn.close()
            if self._has_more and _CLOSE not in message["headers"]:
                await self._drop_rest()
            self.status = message["status"]
            message["headers"] = self._headers(message["headers"])
        elif self._scope["method"] == "HEAD":
            message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        try:
            await self._send(message)
        except Exception:
            self.lost = True
            raise

    async def _drop_rest(self) -> None:
        """Read what is left of the body, as far as a body is read at all."""
        left = self._limits.body_bytes
        with anyio.move_on_after(self._limits.body_seconds):
            while self._has_more and left >= 0:
                left -= len((await self.receive()).get("body", b""))

    def _headers(self, headers: list[tuple[bytes, bytes]], /) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in headers}
        added = [pair for pair in _SECURITY if pair[0] not in names]
        if self._has_more and _CLOSE not in headers:
            added.append(_CLOSE)
        if self._scope.get("scheme") == "https":
            added.append(_TLS_ONLY)
        if self._scope.get("http_version", "1.1")[0] != "1":  # where a connection is not a request's to close
            headers, added = ([pair for pair in some if pair != _CLOSE] for some in (headers, added))
        return [*headers, *added, (b"x-request-id", self.request_id.encode())]

    def log(self) -> None:
        """Write the line of the access log: no path, no query, no header, no body."""
        if _ACCESS_LOG.isEnabledFor(INFO):
            method = self._scope["method"] if self._scope["method"] in _METHODS else "?"
            seconds = time.perf_counter() - self._began
            _ACCESS_LOG.info(
                "%s %s %d %.1f ms client=%s request=%s",
                *(method, self.operation, self.status, 1e3 * seconds, self.client, self.request_id),
            )

    def log_failure(self, error: Exception, /) -> None:
        """Log where the gateway failed, without the error's text, which may quote what the request held."""
        frames = "".join(format_tb(error.__traceback__))
        _LOG.error("request %s failed with %s:\n%s", self.request_id, type(error).__name__, frames)
