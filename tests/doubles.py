"""Backends that many tests put below a store."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
import pytest
from msgspec.structs import replace

from accountstore.backends.base import Capabilities
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import Fault, FaultyBackend, Harness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence

    from accountstore import Location, Version
    from accountstore.backends.base import Backend, Blob, Stat, Write, WriteMode
    from accountstore.testing.faults import Operation

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
P = ParamSpec("P")


class BatchMemory(MemoryBackend):
    """A memory backend that takes many documents at once, and keeps no write tokens."""

    def __init__(self, batch: int = 1000) -> None:
        super().__init__()
        self.batch = batch

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, certain=False, batch=self.batch, write_tokens=False)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return [await result(self.read(key, limit=limit)) for key in keys]

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return [await result(self.write(key, data, mode=mode)) for key, data, mode in writes]


class Selective(MemoryBackend):
    """Honours the conditions that are named, of "create", "swap" and "delete", and ignores the others."""

    def __init__(self, *honoured: str) -> None:
        super().__init__()
        self.honoured = honoured

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        kind = mode if isinstance(mode, str) else "swap"
        return await super().write(key, data, mode=mode if kind in self.honoured else "overwrite")

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key, version=version if "delete" in self.honoured else None)


class Recording(FaultyBackend):
    """Keeps the names of the calls in their order; `before` is called with the name of each that begins.

    Keywords replace what the backend below declares.
    """

    def __init__(self, backend: Backend | None = None, faults: Iterable[Fault] = (), /, **declared: bool) -> None:
        super().__init__(backend or MemoryBackend(), faults)
        self.declared = replace(super().capabilities, **declared)
        self.log: list[str] = []
        self.before: Callable[[Operation], Awaitable[object]] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self.declared

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.log.append(operation)
        if self.before is not None:
            await self.before(operation)
        return await super()._call(operation, call, *args, **kwargs)

    async def put(self, location: Location, data: bytes, /, *, minutes: float = 1) -> None:
        """Write a document past the store, and without a fault, as of some time ago."""
        await self._backend.write(location.path, data, mode="overwrite")
        fs: Any = (await self._backend.filesystem())[0]
        fs.store[f"/{location.path}"].modified -= timedelta(minutes=minutes)

    async def remove(self, key: str, /) -> None:
        """Remove a document past the store."""
        await self._backend.delete(key)

    async def raw(self, location: Location, /) -> bytes:
        """A document's bytes, read past the store."""
        return (await self._backend.read(location.path, limit=10**6)).data


async def result(call: Awaitable[T], /) -> T | Exception:
    """What a call returns or raises."""
    try:
        return await call
    except Exception as error:
        return error


async def drained(items: AsyncIterator[T], /) -> list[T]:
    """All of what is iterated over."""
    return [item async for item in items]


@contextmanager
def raises(
    kind: type[E], /, match: str | None = None, **attributes: object
) -> Generator[pytest.ExceptionInfo[E], None, None]:
    """As `pytest.raises`, of an error with these attributes."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert {name: getattr(caught.value, name) for name in attributes} == attributes


def skip_pauses(monkeypatch: pytest.MonkeyPatch, /) -> list[float]:
    """The pauses between two attempts from now on: they are kept instead of waited for."""
    kept: list[float] = []

    async def keep(seconds: float) -> None:
        kept.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("anyio.sleep", keep)
    return kept


def memory_harness(make: Callable[[], MemoryBackend] = MemoryBackend) -> Harness:
    """The conformance suite on backends in memory, each with a storage of its own; it looks into the latest."""
    opened: list[MemoryBackend] = []

    async def open_backend() -> MemoryBackend:
        opened.append(make())
        return opened[-1]

    async def put(key: str, data: bytes) -> None:
        fs: Any = (await opened[-1].filesystem())[0]
        fs.pipe_file(f"/{key}", data)

    async def get(key: str) -> bytes | None:
        fs: Any = (await opened[-1].filesystem())[0]
        return bytes(fs.cat_file(f"/{key}")) if fs.exists(f"/{key}") else None

    return Harness(open=open_backend, put=put, get=get, shared=False)
