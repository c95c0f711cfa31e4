"""What the answer of an object store says of a document or a listing, what it must say to be one, and the errors where
there is none.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from accountstore.aio.pages import Paged
from accountstore.aio.sending import has_left
from accountstore.backends.base import (
    BackendError,
    Blob,
    ConflictError,
    Stat,
    UnavailableError,
    Version,
    pages_by_cursor,
)

T = TypeVar("T")

_UNCONNECTED = frozenset({"ConnectionRefusedError", "gaierror", "ClientConnectorError", "ConnectTimeoutError"})
_TLS = frozenset({"ClientSSLError", "SSLError", "CertificateError"})


class _Mark(NamedTuple):
    """Where a listing goes on, after so many pages; `earlier` is a mark before it, which a circle comes back to."""

    text: str
    earlier: str
    pages: int


def whole_blob(data: bytes, stat: Stat, /) -> Blob:
    """The blob of an answer. Raises `UnavailableError` where it has fewer or more bytes than it has told."""
    if len(data) != stat.size:
        raise UnavailableError("the answer was cut short")
    return Blob(data, stat)


def version_of(tag: object, /) -> Version:
    """The version of an answer that names it so. Raises `BackendError` where there is none."""
    if not tag:
        raise BackendError("the server gives no version (ETag) of the document, without which it is no storage")
    return Version(str(tag))


def written(tag: object, /) -> Version:
    """The version of a write, as its answer names it. Raises `UnavailableError` where it names none: it may be a
    proxy's, and the document itself must then tell whether the write was done.
    """
    if not tag:
        raise UnavailableError("the answer to the write has no version (ETag), and may not be the server's")
    return Version(str(tag))


def generation(version: Version, /) -> str:
    """The generation of a version of Google Cloud Storage. Raises `ConflictError` for one that it cannot have given."""
    if not re.fullmatch("[0-9]+", version.token):
        raise ConflictError("the document has changed since it was read")
    return version.token


def size_of(length: object, /) -> int:
    """The size that an answer tells. Raises `BackendError` where it tells none."""
    try:
        return int(str(length))
    except ValueError:
        raise BackendError("the server gives no length (Content-Length) of the document") from None


def pages_by_mark(fetch: Callable[[str | None], Awaitable[tuple[T, str | None]]], /) -> Paged[T]:
    """As `pages_by_cursor`. Raises `BackendError` where a mark is empty, or the marks go round in a circle.

    That is found by Brent's method, in the memory of two marks: each is compared with that of the last page whose
    number is a power of two.
    """

    async def page(mark: _Mark | None) -> tuple[T, _Mark | None]:
        found, text = await fetch(mark.text if mark else None)
        if text is None:
            return found, None
        earlier, pages = (mark.earlier, mark.pages + 1) if mark else ("", 1)
        if text in {"", earlier}:
            raise cut_off()
        return found, _Mark(text, earlier if pages & (pages - 1) else text, pages)

    return pages_by_cursor(page)


def cut_off() -> BackendError:
    """The error for a listing that has more, but does not say how to go on."""
    return BackendError("the listing is cut off: the server says that there is more, and not how it goes on")


def unreadable(error: Exception, /) -> UnavailableError:
    """The error for an answer in which a client failed: whether it is the server's, and what was done, nobody knows."""
    return UnavailableError(f"the answer cannot be read ({type(error).__name__})")


def unanswered(error: BaseException, /, *, answering: bool = False) -> BackendError:
    """The error for a request that got no answer; `answering`: it had begun to come."""
    what, names = type(error).__name__, _names(error)
    unconnected = bool(names & _UNCONNECTED) and not answering
    if "EndlessError" in names:
        return UnavailableError("the answer has no end", sent=has_left())
    if "FileNotFoundError" in names:
        return BackendError(f"a file that the options or the environment name is not there ({what})")
    if not names & _TLS:
        return UnavailableError(f"the storage cannot be reached ({what})", sent=has_left() and not unconnected)
    reason = f"TLS failed ({what}): check the server's certificate and its signer, or give http:// where it has no TLS"
    return BackendError(reason) if unconnected or not has_left() else UnavailableError(reason)


def _names(error: BaseException | None, /) -> set[str]:
    """The names of the classes of an error and of its causes."""
    names: set[str] = set()
    for _ in range(10):  # causes, which could go round in a circle
        if error is None:
            break
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return names
