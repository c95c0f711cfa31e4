"""Keeps what the clients below log of their requests out of every log: it has options, tokens and keys in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_FOREIGN = frozenset(
    {
        *("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "google_auth_oauthlib"),
        *("httpcore2", "httpx2", "msal", "requests", "requests_oauthlib", "s3fs", "urllib3"),
        *("asyncssh", "paramiko", "smbprotocol"),
    }
)
"""The first part of the names of their loggers."""

_QUIET: ContextVar[bool] = ContextVar("accountstore_quiet", default=False)
_seen: set[str] = set()


def _is_shown(record: logging.LogRecord) -> bool:
    # httpx2 logs each request's URL and what the server calls its answer, at INFO.
    return record.levelno >= (logging.WARNING if record.name == "httpx2" else logging.INFO) or not _QUIET.get()


def _hush() -> None:
    """Have every foreign logger ask first. Clients make loggers whenever they import something more."""
    loggers = logging.root.manager.loggerDict
    if len(loggers) == len(_seen):
        return
    for name in [*loggers]:
        if name not in _seen and name.partition(".")[0] in _FOREIGN:
            logging.getLogger(name).addFilter(_is_shown)
        _seen.add(name)


@contextmanager
def quiet() -> Generator[None]:
    """A block whose foreign log records below INFO are dropped, httpx2's at INFO too. Those of the program's own use of
    a client are not.
    """
    _hush()
    before = _QUIET.get()
    _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.set(before)


def quietly(call: Callable[[], T], /) -> T:
    """The result of a call in such a block."""
    with quiet():
        return call()
