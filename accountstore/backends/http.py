"""What fsspec's filesystem for HTTP needs beside: bounds, and the meaning of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from ssl import SSLContext
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from accountstore.backends.answers import unanswered, unreadable
from accountstore.backends.base import BackendError
from accountstore.backends.kinds import FLAG, NUMBER, TABLE, WHOLE, Kinds
from accountstore.backends.object_store import error_for_status
from accountstore.backends.options import check_kinds, check_names
from accountstore.backends.sessions import BoundedAnswer, read_at_most

_MISSING = frozenset({404, 410})
_BOTH: Kinds = {
    **dict.fromkeys(("headers", "cookies"), (Mapping, list, tuple)),
    "auth": (getattr(aiohttp, "BasicAuth", object),),  # which newer releases say that they will not have
    "timeout": (aiohttp.ClientTimeout,),
}
_KINDS: Kinds = {
    **_BOTH,
    **dict.fromkeys(("simple_links", "same_scheme", "encoded", "allow_redirects"), FLAG),
    "client_kwargs": TABLE,
    "max_redirects": WHOLE,
    "ssl": (*FLAG, SSLContext, aiohttp.Fingerprint),
    "timeout": (*NUMBER, aiohttp.ClientTimeout),
}


def confined(options: Mapping[str, Any], /) -> dict[str, Any]:
    """Options of fsspec's filesystem for HTTP, with which an answer is bounded, and a redirect is followed only by a
    read, and only within one server.

    What a session of one's own (`get_client`) takes is not known.

    Raises:
        ConfigError: `client_kwargs` is none that the session takes, or an option is none that a request takes.
    """
    given = options.get("client_kwargs") or {}
    check_kinds(options, _KINDS)
    if "get_client" not in options:
        check_names(given, [*signature(aiohttp.ClientSession).parameters], "options.client_kwargs")
        check_kinds(given, _BOTH, "options.client_kwargs")
    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(_stay)
    traces = [*given.get("trace_configs", ()), redirects]
    return {**options, "client_kwargs": {"response_class": BoundedAnswer, **given, "trace_configs": traces}}


async def _stay(_session: object, _context: object, redirect: aiohttp.TraceRequestRedirectParams, /) -> None:
    """Raise `BackendError` for a redirect that is not followed."""
    answer = redirect.response
    there = redirect.url.join(URL(answer.headers.get("Location", "")))
    same = (there.scheme, there.host, there.port) == (redirect.url.scheme, redirect.url.host, redirect.url.port)
    if redirect.method not in {"GET", "HEAD"} or not same:
        answer.close()
        raise error_for_status(answer.status)


async def first_bytes(fs: Any, url: str, size: int, /) -> bytes:
    """The first bytes of a file. The server may send all for a part, and packed; fsspec would take it into memory."""
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **fs.kwargs) as answer:
        fs._raise_not_found_for_status(answer, url)  # noqa: SLF001 -- as fsspec's own reads
        return await read_at_most(answer.content, size - 1)


def http_error(error: Exception, /) -> Exception:
    """What an error means. `info` calls a file missing whatever failed; only 404 and 410 say so (RFC 9110)."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, aiohttp.TooManyRedirects):
        return BackendError("the server redirects too often, as where it goes round in a circle")
    if isinstance(error.__cause__, HttpProcessingError):
        return unreadable(error.__cause__)  # to which aiohttp gives the status 400
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return FileNotFoundError(str(status)) if status in _MISSING else error_for_status(status)
    return unanswered(error) if isinstance(error, aiohttp.ClientError) else error
