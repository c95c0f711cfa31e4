"""A backend whose chosen calls fail, and a store on it.

Together: `store_over({"default": FaultyBackend(MemoryBackend(), [Fault("write", 2, "after")])})`.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, ParamSpec, TypeAlias, TypeVar, cast, get_args

from anyio import sleep_forever
from msgspec.structs import replace

from accountstore.aio.pages import Paged
from accountstore.backends.base import (
    Backend,
    BatchBackend,
    Blob,
    Capabilities,
    Stat,
    Usage,
    Version,
    VersionInfo,
    Write,
    WriteMode,
)
from accountstore.client import StorageClient
from accountstore.codecs import CODECS
from accountstore.events import Observer
from accountstore.retry import RetryPolicy
from accountstore.scope import Resolver
from accountstore.storage import Storage
from accountstore.storages import Storages
from accountstore.store import AccountStore
from accountstore.validation import MAX_BYTES

__all__ = ("Fault", "FaultyBackend", "Operation", "store_over")

T = TypeVar("T")
P = ParamSpec("P")
Operation: TypeAlias = Literal[
    "read", "read_many", "write", "write_many", "stat", "delete", "scan", "versions", "usage", "aclose"
]

Moment: TypeAlias = Literal["before", "after", "hang"]


def _io_error() -> Exception:
    return OSError(errno.EIO, "Input/output error")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the `nth` call, counted from 1, of an operation; for `scan`, with its nth page.

    `"before"`: it raises `error` and does nothing. `"after"`: it does its work and then raises, as when the answer is
    lost. `"hang"`: it does nothing until it is cancelled.

    Raises:
        ValueError: it would never happen: a backend has no such call, no call is the 0th, or no such moment is known.
        TypeError: the error is none, such as its class alone.
    """

    operation: Operation
    nth: int = 1
    moment: Moment = "before"
    error: Exception = field(default_factory=_io_error)

    def __post_init__(self) -> None:
        for what, given, kind in (("operation", self.operation, Operation), ("moment", self.moment, Moment)):
            if given not in (known := get_args(kind)):
                raise ValueError(f"{what} must be one of a backend's: {', '.join(known)}")
        if not isinstance(cast("object", self.nth), int) or self.nth < 1:
            raise ValueError("nth must be 1 or more")
        if not isinstance(cast("object", self.error), BaseException):
            raise TypeError("error must be an exception that is made, such as TimeoutError()")


class FaultyBackend:
    """Passes every call on to another backend, but for those that its faults name.

    `calls` counts the calls of each operation, so a test can tell how often the store has asked.
    """

    def __init__(self, backend: Backend, faults: Iterable[Fault] = (), /) -> None:
        self._backend = backend
        self._faults = {(fault.operation, fault.nth): fault for fault in faults}
        self.calls: Counter[str] = Counter()

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.calls[operation] += 1
        fault = self._faults.get((operation, self.calls[operation]))
        if fault is None:
            return await call(*args, **kwargs)
        if fault.moment == "hang":
            await sleep_forever()
        if fault.moment == "after":
            await call(*args, **kwargs)
        raise fault.error

    @property
    def _batch(self) -> BatchBackend:
        return cast("BatchBackend", self._backend)

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._backend.capabilities, certain=False)

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._call("read", self._backend.read, key, limit=limit)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await self._call("read_many", self._batch.read_many, keys, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await self._call("write", self._backend.write, key, data, mode=mode, write_token=write_token)

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await self._call("write_many", self._batch.write_many, writes)

    async def stat(self, key: str, /) -> Stat:
        return await self._call("stat", self._backend.stat, key)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._call("delete", self._backend.delete, key, version=version)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        pages = self._backend.scan(prefix, recursive=recursive)
        return Paged(partial(self._call, "scan", anext, pages, None))

    async def versioned(self) -> bool | None:
        return await self._backend.versioned()

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        return await self._call("versions", self._backend.versions, key)

    async def usage(self) -> Usage | None:
        return await self._call("usage", self._backend.usage)

    async def filesystem(self) -> tuple[object, str]:
        return await self._backend.filesystem()

    async def aclose(self) -> None:
        await self._call("aclose", self._backend.aclose)


def store_over(
    backends: Mapping[str, Backend],
    /,
    *,
    codec: str = "json",
    max_bytes: int = MAX_BYTES,
    observer: Observer | None = None,
    timeout: float = 30.0,
    attempts: int = 1,
) -> AccountStore:
    """A store on opened backends, by the names of their storages; the first is the default one.

    It is an asynchronous context manager, and closes the backends. It tries nothing twice unless `attempts` says so.
    """
    if not isinstance(cast("object", backends), Mapping) or not backends:
        raise TypeError("store_over takes opened backends by their storages' names, such as {'main': MemoryBackend()}")
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}")
    storages: dict[str, Storage] = {}
    for name, backend in backends.items():
        client = StorageClient(name, backend, RetryPolicy(timeout, attempts), limit=max_bytes)
        storages[name] = Storage(client, CODECS[codec], max_bytes, f"test://{name}", {})
    return AccountStore(Resolver(Storages(storages, next(iter(backends)))), observer)
