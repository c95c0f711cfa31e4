"""What a backend author implements and imports: a backend reads and writes bytes under keys.

Names, codecs, retries and error wrapping are the store's work. `accountstore.testing.BackendTests` is the test suite.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, final

from msgspec import Struct

from accountstore.aio.pages import pages_by_cursor, pages_of
from accountstore.backends.classify import classify_error
from accountstore.errors import (
    BackendError,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    NotFoundError,
    NotRegularError,
    TooLargeError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)
from accountstore.secrets import SecretBytes
from accountstore.validation import check_size

__all__ = (
    "Backend",
    "BackendError",
    "BackendFactory",
    "BatchBackend",
    "Blob",
    "Capabilities",
    "ConfigError",
    "ConflictError",
    "DeniedError",
    "ExistsError",
    "FullError",
    "LockedError",
    "NotFoundError",
    "NotRegularError",
    "Stat",
    "TooLargeError",
    "UnavailableError",
    "UncertainError",
    "UnsupportedError",
    "Usage",
    "Version",
    "VersionInfo",
    "Write",
    "WriteMode",
    "check_size",
    "classify_error",
    "digest",
    "only_version",
    "pages_by_cursor",
    "pages_of",
)


class Version(Struct, frozen=True):
    """An opaque token of one state of a document; it belongs to the storage that gave it.

    Where it is a digest of the content, someone who knows the rest of a document could test guesses of its password
    against it, so it does not show in `repr`. `str(version)` may be shown: it is keyed by a random key of this process,
    the same for the same version and different for different ones, and no token. Another process shows another text.
    """

    token: str

    def __str__(self) -> str:
        from hashlib import blake2b  # on first use, as the key

        return blake2b(self.token.encode("utf-8", "surrogatepass"), key=_process_key(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return "Version(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("token", "...")]


class LockedError(UnavailableError):
    """Another process holds the document for a moment: the write has changed nothing.

    A backend that raises it does not wait for long: the store tries again for ten seconds, and waits without a turn
    among the operations in flight, so that one document that is held keeps no other waiting.
    """


@cache
def _process_key() -> bytes:
    """What keys the texts of versions in this process."""
    return os.urandom(32)


WriteMode: TypeAlias = Literal["overwrite", "create"] | Version
"""`"overwrite"`: whatever is there. `"create"`: only where nothing is. A `Version`: only if it is the current one."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a backend promises beyond reading, overwriting, listing and deleting.

    `BackendTests` tries `create`, `update`, `atomic`, `write_tokens` and `batch`; `durable` is the author's word.
    """

    create: bool
    """`mode="create"` has exactly one winner, among processes too."""
    update: bool
    """A `Version` as mode is compare-and-swap, in `write` and in `delete`."""
    atomic: bool
    """No reader ever sees a part of a write."""
    durable: bool
    """What a write has acknowledged survives a crash of the machine."""
    verify: bool = False
    """Whether `create` and `update` depend on the server: the store then tries them on a document of its own (the
    probe) before it relies on them."""
    write_tokens: bool = False
    """A write's `write_token` is stored with the document, and `stat` returns it."""
    certain: bool = False
    """A write or delete that fails or is cancelled has surely changed nothing, now and later, unless its error is an
    `UncertainError`."""
    concurrency: int = 64
    """How many operations may be in flight at once."""
    batch: int = 1
    """How many documents a `BatchBackend` is best given at once; 1: the backend is none."""
    sorted: bool = False
    """A recursive `scan` has its keys in the order of their UTF-8 bytes, if its server keeps to the protocol."""
    folders: bool = False
    """A `scan` that is not recursive has the folders too. Without it, the store finds them by a recursive one."""
    read_only: bool = False
    """Every write and delete is an `UnsupportedError`: the storage or the store is configured so."""


class Stat(Struct, frozen=True, gc=False):
    """What a storage knows of one document.

    `version` may be None in a `scan`, and in a `stat` of a backend that does not declare `update`; `modified` where the
    storage does not keep it. `write_token` is that of the write which made this state; only `stat` returns it.
    `instead` says what a `scan` has found in a document's place, such as a symbolic link; or of a folder below,
    whose key ends in `/`, that it may not be read, or is a link. It is listed as left out.
    """

    key: str
    size: int
    version: Version | None
    modified: datetime | None
    write_token: str | None = None
    instead: str = ""


class VersionInfo(Struct, frozen=True):
    """One state of a document that its storage keeps: the `current` one, or one that was overwritten or deleted.

    `id` is the service's own name of it; None where the service gives none. It is no `Version`, which `version` is,
    where the storage tells it.
    """

    id: str | None
    version: Version | None
    size: int
    modified: datetime | None
    current: bool


class Usage(Struct, frozen=True):
    """How many bytes a storage's file system has in all, and how many are used, by whomever."""

    used: int
    total: int


@final
class Blob:
    """A document's bytes, which show nowhere, and its stat, which must have the version.

    Raises:
        BackendError: it has none.
    """

    __slots__ = ("data", "stat", "version")

    def __init__(self, data: bytes, stat: Stat, /) -> None:
        if stat.version is None:
            raise BackendError("the backend returned no version")
        self.data: bytes = SecretBytes(data)
        self.stat: Stat = stat
        self.version: Version = stat.version

    def __repr__(self) -> str:
        return f"Blob(..., {self.stat!r})"


class Backend(Protocol):
    """Bytes under keys.

    Keys are valid: non-empty segments joined by `/`, as `Location` has them. A backend never sees a mode or a
    `version` that its capabilities do not declare. Methods raise one of the errors of this module or an `OSError`
    (`classify_error`); the store takes anything else for a `BackendError`.

    Any call may be cancelled at any await: it then lets go at once, and the next call works. The store cancels a write
    only when its deadline has passed, and reports that its outcome is unknown; so a backend need not shield anything.
    But a write must not go on in the background after its call has returned. A client's own retries must be off: the
    store repeats what may be repeated.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this storage promises; the same as long as the backend is open."""
        ...

    async def read(self, key: str, /, *, limit: int) -> Blob:
        """Bytes and stat, version included, from one state of the document and in one request.

        Raises `TooLargeError` (`check_size`) rather than take much more than `limit` bytes into memory; `NotFoundError`
        or a `FileNotFoundError` when there is no document.
        """
        ...

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        """Store a document, with its folder where the storage has such. The result has the new version.

        `write_token`, if not empty, is kept with the document by a backend that declares `write_tokens`: a write whose
        answer was lost recognises its own document by it.

        Raises `ExistsError` or a `FileExistsError` for `"create"` over a document; `ConflictError` for a version that
        is not current; one of `ConflictError`, `NotFoundError` and `FileNotFoundError` for a version of a document that
        is gone.
        """
        ...

    async def stat(self, key: str, /) -> Stat:
        """What `read` returns beside the bytes, as far as it can be known without them."""
        ...

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        """Remove a document. A missing one is no error; a version that is not current is a `ConflictError`."""
        ...

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        """Pages of the documents in the folder `prefix` (`""`: the root), and below it if `recursive`.

        Where the capability `folders` is declared, a scan that is not recursive also has each folder in the folder: a
        `Stat` whose key ends in `/`, of size 0. Keys that no location names may be there: the store leaves them out.

        In any order, O(n) in all; a folder that is not there is empty. After an error or a cancellation, the next page
        asked for is the same one, or the same error: none is skipped. The iterator may be dropped before its end, which
        an async generator cannot bear on every event loop: return what `pages_of` or `pages_by_cursor` makes.
        """
        ...

    async def versioned(self) -> bool | None:
        """Whether the storage keeps what was overwritten or deleted, old secrets too; None where that is not known."""
        ...

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        """What the storage keeps of a document, newest first, as far as it tells: also what was overwritten or deleted.

        A storage that keeps the current state alone returns `only_version` of it. Raises `NotFoundError` or a
        `FileNotFoundError` when there is none; `UnsupportedError` where the storage cannot be asked.
        """
        ...

    async def usage(self) -> Usage | None:
        """How full the storage is; None where nobody tells."""
        ...

    async def filesystem(self) -> tuple[object, str]:
        """An fsspec filesystem that reaches the same documents, and the path of the root in it.

        Raises `UnsupportedError` where there is none.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; called once. No call comes after it; one that is under way may fail."""
        ...


class Write(NamedTuple):
    """One document for `BatchBackend.write_many`. The bytes do not show in `repr`."""

    key: str
    data: bytes
    mode: WriteMode

    def __repr__(self) -> str:
        return f"Write({self.key!r}, ...)"

    def __rich_repr__(self) -> Sequence[str]:
        return (self.key,)


class BatchBackend(Backend, Protocol):
    """A backend that gains from many documents at once. `Capabilities.batch` above 1 declares it."""

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        """One result for each key, in order: what `read` would return or raise."""
        ...

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        """One result for each write, in order: what `write` would return or raise."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `accountstore.backends` names: opens a backend, connecting as late as it can.

    It raises `ConfigError` for an option that it does not know.
    """

    async def __call__(self, url: str, options: Mapping[str, object], /) -> Backend: ...


def digest(data: bytes | Iterable[bytes], /) -> Version:
    """The version of a document that is known by its content: SHA-256."""
    import hashlib

    total = hashlib.sha256()
    for chunk in (data,) if isinstance(data, bytes) else data:
        total.update(chunk)
    return Version(f"sha256:{total.hexdigest()}")


def only_version(stat: Stat, /) -> list[VersionInfo]:
    """The versions of a document of which the storage keeps the current state alone."""
    return [VersionInfo(None, stat.version, stat.size, stat.modified, current=True)]
