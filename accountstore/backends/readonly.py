"""A backend that is only read, whatever it could write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NoReturn, cast

from msgspec.structs import replace

from accountstore.backends.base import (
    Backend,
    BatchBackend,
    Blob,
    Capabilities,
    Stat,
    UnsupportedError,
    Usage,
    Version,
    VersionInfo,
    Write,
    WriteMode,
)

__all__ = ("ReadOnlyBackend",)


class ReadOnlyBackend:
    """Another backend, which is read through this one and never told to write: each write is an `UnsupportedError`."""

    def __init__(self, backend: Backend, /) -> None:
        self._backend = backend

    @property
    def capabilities(self) -> Capabilities:
        own = self._backend.capabilities
        return replace(own, create=False, update=False, verify=False, write_tokens=False, read_only=True)

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._backend.read(key, limit=limit)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await cast("BatchBackend", self._backend).read_many(keys, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> NoReturn:
        raise _refusal()

    async def write_many(self, writes: Sequence[Write], /) -> NoReturn:
        raise _refusal()

    async def stat(self, key: str, /) -> Stat:
        return await self._backend.stat(key)

    async def delete(self, key: str, /, *, version: Version | None = None) -> NoReturn:
        raise _refusal()

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return self._backend.scan(prefix, recursive=recursive)

    async def versioned(self) -> bool | None:
        return await self._backend.versioned()

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        return await self._backend.versions(key)

    async def usage(self) -> Usage | None:
        return await self._backend.usage()

    async def filesystem(self) -> NoReturn:
        raise UnsupportedError("the storage is opened read-only, and a filesystem would write")

    async def aclose(self) -> None:
        await self._backend.aclose()


def _refusal() -> UnsupportedError:
    return UnsupportedError("the storage is opened read-only")
