"""The seam between the store and a storage: what a backend author implements.

A backend reads and writes bytes under keys. Names, codecs, capability gates and error wrapping are the store's work,
so a backend is small. `accountstore.testing.BackendTests` says whether one is right.
"""

from __future__ import annotations

import errno
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, final

from msgspec import Struct

from accountstore.errors import (
    BackendError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    NotRegularError,
    UnavailableError,
)
from accountstore.secrets import SecretBytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

__all__ = (
    "Backend",
    "BackendFactory",
    "Blob",
    "Capabilities",
    "CursorPages",
    "Pages",
    "Stat",
    "Version",
    "Write",
    "WriteMode",
    "classify_oserror",
    "digest",
    "each",
)


T = TypeVar("T")


class Version(Struct, frozen=True):
    """An opaque token of one state of a document.

    It belongs to the storage that gave it. Where it is a digest of the content, someone who knows the rest of a
    document could test guesses of its password against it, so it does not show in `repr`.
    """

    token: str

    def __repr__(self) -> str:
        return "Version(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("token", "...")]


WriteMode: TypeAlias = Literal["overwrite", "create"] | Version
"""`"overwrite"`: whatever is there. `"create"`: only where nothing is. A `Version`: only if it is the current one."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a backend promises beyond reading, overwriting, listing and deleting. Each is proven by `BackendTests`."""

    create: bool
    """`mode="create"` has exactly one winner, among processes too."""
    update: bool
    """A `Version` as mode is compare-and-swap, in `write` and in `delete`."""
    atomic: bool
    """No reader ever sees a part of a write."""
    durable: bool
    """What a write has acknowledged survives a crash of the machine."""
    proven: bool = True
    """Whether `create` and `update` are the backend's own work. If not, they depend on the server: the store tries them
    on a passing document before it relies on them."""
    marks: bool = False
    """A write's `mark` is stored with the document, and `stat` tells it."""
    batch: int = 1
    """How many documents `read_many` and `write_many` are best given at once: 1 where each is a request of its own."""


class Stat(Struct, frozen=True, gc=False):
    """What a storage knows of one document.

    `version` may be None in a `scan`, and in a `stat` of a backend that does not declare `update`; `modified` where the
    storage does not tell it. `mark` is that of the write which made this state; only `stat` tells it.
    """

    key: str
    size: int
    version: Version | None
    modified: datetime | None
    mark: str | None = None


@final
class Blob:
    """A document's bytes and what the storage knows of it. The bytes show nowhere."""

    __slots__ = ("data", "stat")

    def __init__(self, data: bytes, stat: Stat, /) -> None:
        self.data: bytes = SecretBytes(data)
        self.stat: Stat = stat

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, Blob) and self.data == other.data and self.stat == other.stat

    def __hash__(self) -> int:
        return hash((self.data, self.stat))

    def __repr__(self) -> str:
        return f"Blob(..., {self.stat!r})"


class Write(NamedTuple):
    """One document for `write_many`. The bytes do not show in `repr`."""

    key: str
    data: bytes
    mode: WriteMode

    def __repr__(self) -> str:
        return f"Write({self.key!r}, ...)"

    def __rich_repr__(self) -> Sequence[str]:
        return (self.key,)


class Backend(Protocol):
    """Bytes under keys.

    Keys are valid: non-empty segments joined by `/`, as `Location` has them. A backend never sees a mode or a
    `version` that its capabilities do not declare. Methods raise what the storage raises, for `classify` to name; or,
    where the storage has no error of its own, `ConflictError`, `ExistsError`, `NotRegularError` or `TooLargeError`.

    Any call may be cancelled at any await: it then lets go at once, and the next call works. The store cancels a write
    only when its deadline has passed, and says that its outcome is unknown; so a backend need not shield anything. But
    a write must not go on in the background after its call has returned. A client's own retries must be off: the store
    repeats what may be repeated.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this storage promises; the same as long as the backend is open."""
        ...

    async def read(self, key: str, /, *, limit: int) -> Blob:
        """Bytes and stat, version included, from one state of the document and in one request.

        Raises `TooLargeError` rather than take much more than `limit` bytes into memory; an error that `classify`
        calls `NotFoundError` when there is no document.
        """
        ...

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        """One result for each key, in order: what `read` would return or raise. `each` does it one by one."""
        ...

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, mark: str = "") -> Stat:
        """Store a document, with its folder where the storage has such. The result has the new version.

        `mark`, if not empty, is kept with the document by a backend that declares `marks`: a write whose answer was
        lost knows its own document by it.

        Raises `ExistsError` or an error so classified for `"create"` over a document; `ConflictError` for a version
        that is not current; an error classified as `NotFoundError` or `ConflictError` for a version of a document that
        is gone.
        """
        ...

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        """One result for each write, in order: what `write` would return or raise. `each` does it one by one."""
        ...

    async def stat(self, key: str, /) -> Stat:
        """What `read` would tell beside the bytes, as far as it can be known without them."""
        ...

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        """Remove a document. A missing one is no error; a version that is not current is a `ConflictError`."""
        ...

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        """Pages of the documents in the folder `prefix` (`""`: the root), and below it if `recursive`.

        In any order, O(n) in all; a folder that is not there is empty. After an error or a cancellation, the next page
        asked for is the same one, or the same error: none is skipped. The iterator may be dropped before its end: an
        async generator cannot bear that on every event loop, `Pages` can.
        """
        ...

    def classify(self, error: Exception, /) -> type[BackendError]:
        """Name an error that another method raised."""
        ...

    async def versioned(self) -> bool | None:
        """Whether the storage keeps what was overwritten or deleted, old secrets too; None where it does not tell."""
        ...

    def filesystem(self) -> tuple[object, str]:
        """An fsspec filesystem that reaches the same documents, and the path of the root in it.

        Raises `UnsupportedError` where there is none. It may block, for it may import and connect.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; called once. No call comes after it; one that is under way may fail."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `accountstore.backends` names: opens a backend, connecting as late as it can.

    It raises `ConfigError` for an option that it does not know.
    """

    async def __call__(self, url: str, options: Mapping[str, object], /) -> Backend: ...


class Pages:
    """Pages that are at hand, or that an iterator makes without blocking, as what `scan` returns.

    Unlike an async generator it may be dropped before its end on any event loop.
    """

    def __init__(self, pages: Iterable[Sequence[Stat]], /) -> None:
        self._pages = iter(pages)

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> Sequence[Stat]:
        from anyio.lowlevel import checkpoint

        await checkpoint()
        page = next(self._pages, None)
        if page is None:
            raise StopAsyncIteration
        return page


class CursorPages:
    """Pages that a service gives one by one, each with the cursor that leads to the next, as what `scan` returns.

    `fetch` takes a cursor, None for the first page, and returns a page and the next cursor, None after the last.
    """

    def __init__(self, fetch: Callable[[str | None], Awaitable[tuple[Sequence[Stat], str | None]]], /) -> None:
        self._fetch = fetch
        self._cursor: str | None = None
        self._ended = False

    def __aiter__(self) -> CursorPages:
        return self

    async def __anext__(self) -> Sequence[Stat]:
        if self._ended:
            raise StopAsyncIteration
        page, self._cursor = await self._fetch(self._cursor)
        self._ended = self._cursor is None
        return page


async def each(calls: Iterable[Awaitable[T]], /) -> list[T | Exception]:
    """Results or errors of one call after another: a `read_many` for backends that gain nothing from a batch."""
    results: list[T | Exception] = []
    for call in calls:
        try:
            results.append(await call)
        except Exception as error:  # noqa: BLE001 -- an error is a result here
            results.append(error)
    return results


def digest(data: bytes | Iterable[bytes], /) -> Version:
    """The version of a document that is known by its content: SHA-256."""
    import hashlib

    total = hashlib.sha256()
    for chunk in (data,) if isinstance(data, bytes) else data:
        total.update(chunk)
    return Version(f"sha256:{total.hexdigest()}")


_ERRNOS: dict[int, type[BackendError]] = {
    errno.ENOSPC: FullError,
    errno.EDQUOT: FullError,
    errno.EROFS: DeniedError,
    errno.ELOOP: NotRegularError,
    errno.ENOTDIR: NotRegularError,
    errno.EISDIR: NotRegularError,
    errno.ENOTEMPTY: NotRegularError,
    errno.ENXIO: NotRegularError,  # a socket
    errno.ESTALE: UnavailableError,
    errno.EAGAIN: UnavailableError,
    errno.EBUSY: UnavailableError,
    errno.EMFILE: UnavailableError,
    errno.ENFILE: UnavailableError,
    errno.EHOSTDOWN: UnavailableError,
    errno.EHOSTUNREACH: UnavailableError,
    errno.ENETDOWN: UnavailableError,
    errno.ENOTCONN: UnavailableError,
    errno.ENETUNREACH: UnavailableError,
}
_OSERRORS: tuple[tuple[type[OSError], type[BackendError]], ...] = (
    (FileNotFoundError, NotFoundError),
    (FileExistsError, ExistsError),
    (PermissionError, DeniedError),
    (ConnectionError, UnavailableError),
    (TimeoutError, UnavailableError),
    (BlockingIOError, UnavailableError),
)


def classify_oserror(error: Exception, /) -> type[BackendError]:
    """The class for one of Python's own operating system errors, by errno and then by type."""
    if isinstance(error, BackendError):
        return type(error)
    if isinstance(error, OSError):
        if type(error).__name__ == "gaierror":  # of socket, which this module does not need; its numbers are no errnos
            return UnavailableError
        if isinstance(error.errno, int) and error.errno in _ERRNOS:
            return _ERRNOS[error.errno]
        for kind, name in _OSERRORS:
            if isinstance(error, kind):
                return name
    return UnavailableError if isinstance(error, EOFError) else BackendError
