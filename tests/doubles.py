"""Backends that many tests put below a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from accountstore.backends.base import Capabilities
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import Harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from accountstore.backends.base import Blob, Stat, Write


T = TypeVar("T")


class BatchMemory(MemoryBackend):
    """A memory backend that takes many documents at once."""

    def __init__(self, batch: int = 1000) -> None:
        super().__init__()
        self.batch = batch

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create=True, update=True, atomic=True, durable=False, batch=self.batch)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return [await result(self.read(key, limit=limit)) for key in keys]

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return [await result(self.write(key, data, mode=mode)) for key, data, mode in writes]


async def result(call: Awaitable[T], /) -> T | Exception:
    """What a call returns or raises."""
    try:
        return await call
    except Exception as error:
        return error


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
