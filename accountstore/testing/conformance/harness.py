"""The storage under test: how to open a backend on it, and how to look into it without one."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import ClassVar, cast

import anyio
import pytest

from accountstore.backends.base import Backend, BatchBackend, Stat, Version, classify_error
from accountstore.errors import AccountStoreError
from accountstore.validation import MAX_BYTES

__all__ = (
    "KEY",
    "Harness",
    "Suite",
    "batch_of",
    "get",
    "keys_of",
    "kind_of_error",
    "need_batch",
    "need_create",
    "need_update",
    "no_warnings",
    "opened",
    "put",
    "refused",
    "scan",
    "second",
    "version_of",
)

KEY = "mail/team-a/email.account"


@dataclass(frozen=True, kw_only=True)
class Harness:
    """How the suite opens a backend on one storage, and how it looks into that storage without the backend.

    The storage is empty. `put` and `get` may be asynchronous or block; `get` gives None where there is no document.
    """

    open: Callable[[], Awaitable[Backend]]
    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes | Awaitable[bytes | None] | None]
    shared: bool = True
    """Whether a second backend that `open` gives reaches the same documents."""

    @classmethod
    def on_folder(
        cls, folder: str | os.PathLike[str], opener: Callable[[], Awaitable[Backend]], /, *, shared: bool = True
    ) -> Harness:
        """For a backend, or a server behind it, that keeps documents as files under their keys in a local folder."""
        root = Path(folder)

        def put(key: str, data: bytes) -> None:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(data)

        def get(key: str) -> bytes | None:
            try:
                return (root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

        return cls(open=opener, put=put, get=get, shared=shared)


async def put(harness: Harness, key: str, data: bytes, /) -> None:
    """Place a document without the backend."""
    done = harness.put(key, data)
    if isawaitable(done):
        await done


async def get(harness: Harness, key: str, /) -> bytes | None:
    """Look at a document without the backend."""
    found = harness.get(key)
    return await found if isawaitable(found) else found


@asynccontextmanager
async def opened(harness: Harness, /) -> AsyncGenerator[Backend]:
    """A backend on the storage, closed behind the block."""
    backend = await harness.open()
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()


@asynccontextmanager
async def second(harness: Harness, backend: Backend, /) -> AsyncGenerator[Backend]:
    """Another backend on the same storage, or the same one where there is no other."""
    if harness.shared:
        async with opened(harness) as other:
            yield other
    else:
        yield backend


def kind_of_error(error: Exception, /) -> type[AccountStoreError]:
    """The class that the store raises for an error of a backend, which is one of ours or an `OSError`."""
    assert isinstance(error, (AccountStoreError, OSError)), f"{error!r} is neither an error of ours nor an OSError"
    return type(error) if isinstance(error, AccountStoreError) else classify_error(error)


@contextmanager
def refused(*kinds: type[AccountStoreError]) -> Generator[None]:
    """Fail unless the block raises an error of one of these classes."""
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- whatever a backend raises is looked at
        kind = kind_of_error(error)
        assert issubclass(kind, kinds), f"{error!r} is a {kind.__name__}, not a {wanted}"
    else:
        pytest.fail(f"nothing was raised where {wanted} should be")


def need_create(backend: Backend, /) -> None:
    """Skip a test of what the backend does not declare."""
    if not backend.capabilities.create:
        pytest.skip("declares no create with one winner")


def need_update(backend: Backend, /) -> None:
    """Skip a test of what the backend does not declare."""
    if not backend.capabilities.update:
        pytest.skip("declares no compare-and-swap")


def batch_of(backend: Backend, /) -> BatchBackend | None:
    """The backend, if it declares batches."""
    return cast("BatchBackend", backend) if backend.capabilities.batch > 1 else None


def need_batch(backend: Backend, /) -> BatchBackend:
    """Skip a test of what the backend does not declare."""
    batch = batch_of(backend)
    if batch is None:
        pytest.skip("declares no batches")
    return batch


def version_of(stat: Stat, /) -> Version:
    """The version that a read or a write must return."""
    assert stat.version is not None, "read and write must return a version"
    return stat.version


async def scan(backend: Backend, prefix: str, /, *, recursive: bool) -> list[Stat]:
    """The stats of a listing's documents, page after page."""
    pages = backend.scan(prefix, recursive=recursive)
    return [stat async for page in pages for stat in page if not stat.key.endswith("/")]


async def keys_of(backend: Backend, prefix: str, /, *, recursive: bool) -> list[str]:
    """The keys of a listing, sorted."""
    return sorted(stat.key for stat in await scan(backend, prefix, recursive=recursive))


@contextmanager
def no_warnings() -> Generator[None]:
    """Fail if there are warnings, also from what is only now collected as garbage."""
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


@pytest.mark.anyio
class Suite:
    """Tests of a backend on the storage of a fixture `harness`, and how much they try."""

    limit: ClassVar[int] = MAX_BYTES
    """The largest document that is read; storages must take one of this size."""
    rounds: ClassVar[int] = 10
    """How often a race is run."""
    tasks: ClassVar[int] = 8
    """How many tasks take part in it."""
    documents: ClassVar[int] = 2500
    """How many documents a long listing has."""
    steps: ClassVar[int] = 8
    """Up to how many steps of the event loop a call may take before it is cancelled."""
    pauses: ClassVar[Sequence[float]] = (0.0002, 0.001, 0.005)
    """Seconds after which calls are cancelled."""
    settling: ClassVar[float] = 0.1
    """Seconds in which something that a cancelled call has left behind would show."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The storage under test: supplied by the derived class."""
        pytest.fail("give the class a fixture `harness` that returns an accountstore.testing.Harness")

    @pytest.fixture
    async def backend(self, harness: Harness) -> AsyncIterator[Backend]:
        """A backend on the storage, closed after the test."""
        async with opened(harness) as backend:
            yield backend
