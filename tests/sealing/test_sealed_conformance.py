"""The public suite, the state machine and recorded histories, with sealing between them and every kind of storage."""

from __future__ import annotations

import os
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import cancelling
import pytest
from cloudtargets import BUCKET, TARGETS, Target, need_packages
from doubles import memory_harness
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from sealed import BY, sealed_over, sealer

from accountstore.aio.pages import Paged
from accountstore.backends.base import (
    BatchBackend,
    Blob,
    Stat,
    TooLargeError,
    UnsupportedError,
    Version,
    Write,
    check_size,
)
from accountstore.backends.local.backend import open_backend
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import is_sealed
from accountstore.errors import SealError
from accountstore.registry import find_backend
from accountstore.sealing.envelope import WrappedKey, place_of, seal
from accountstore.testing import BackendTests, Harness, store_machine
from accountstore.validation import sealed_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from cloudstub import Stub

    from accountstore import AccountStore
    from accountstore.backends.base import Backend, Capabilities, Usage, VersionInfo, WriteMode

_SETTINGS = settings(max_examples=int(os.environ.get("ACCOUNTSTORE_EXAMPLES") or 2), stateful_step_count=20)
PAIRS = [
    (Target("s3", "obstore"), "trio"),
    (Target("gcs", "fsspec"), "asyncio"),
    (Target("azure", "obstore"), "uvloop"),
]
"""Each service, each loop, both engines; the state machine below takes all of them with all."""


def plain(stat: Stat, /) -> Stat:
    """With the size of the document instead of its file's."""
    wrapped = WrappedKey("A256KW", "old", bytes(40))
    empty = len(seal(place_of("main", stat.key), b"", bytes(32), [wrapped]))
    return replace(stat, size=(stat.size - empty) * 3 // 4)


async def plain_pages(pages: AsyncIterator[Sequence[Stat]], /) -> Sequence[Stat] | None:
    page = await anext(pages, None)
    return None if page is None else [plain(stat) if stat.key[-1] != "/" else stat for stat in page]


class Sealing:
    """A backend that seals what it is given and opens what it reads, as a store does between codec and backend."""

    def __init__(self, backend: Any) -> None:
        self.below = backend

    @property
    def capabilities(self) -> Capabilities:
        return self.below.capabilities  # type: ignore[no-any-return]  # as the backend below has it

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._open(key, await self.below.read(key, limit=sealed_limit(limit)), limit)

    async def _open(self, key: str, blob: Blob, limit: int) -> Blob:
        opened = await sealer().open(key, blob, BY)
        check_size(len(opened.data), limit)
        return Blob(opened.data, plain(opened.stat))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        made = await sealer().seal(key, data, BY)
        return plain(await self.below.write(key, made, mode=mode, write_token=write_token))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        below: BatchBackend = self.below
        results: list[Blob | Exception] = [*await below.read_many(keys, limit=sealed_limit(limit))]
        for i, (key, found) in enumerate(zip(keys, results, strict=True)):
            if isinstance(found, Blob):
                try:
                    results[i] = await self._open(key, found, limit)
                except (SealError, TooLargeError) as error:
                    results[i] = error
        return results

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        below: BatchBackend = self.below
        stats = await below.write_many(await sealer().seal_many(writes))
        return [plain(stat) if isinstance(stat, Stat) else stat for stat in stats]

    async def stat(self, key: str, /) -> Stat:
        return plain(await self.below.stat(key))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self.below.delete(key, version=version)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return Paged(partial(plain_pages, self.below.scan(prefix, recursive=recursive)))

    async def versioned(self) -> bool | None:
        return await self.below.versioned()  # type: ignore[no-any-return]  # so

    async def versions(self, key: str, /) -> Sequence[VersionInfo]:
        return [
            replace(one, size=plain(Stat(key, one.size, None, None)).size) for one in await self.below.versions(key)
        ]

    async def usage(self) -> Usage | None:
        return await self.below.usage()  # type: ignore[no-any-return]  # so

    async def filesystem(self) -> tuple[object, str]:
        raise UnsupportedError("what a filesystem reaches is sealed")

    async def aclose(self) -> None:
        await self.below.aclose()


def sealing(harness: Harness, /) -> Harness:
    """The suite's view of a storage with sealed documents on it, which it looks into by opening them."""

    async def opened() -> Backend:
        return Sealing(await harness.open())

    async def put(key: str, data: bytes) -> None:
        done: Any = harness.put(key, await sealer().seal(key, data, BY))
        if done is not None and hasattr(done, "__await__"):
            await done

    async def get(key: str) -> bytes | None:
        found: Any = harness.get(key)
        data = await found if hasattr(found, "__await__") else found
        if data is None:
            return None
        assert is_sealed(data)
        return (await sealer().open(key, Blob(data, Stat(key, len(data), Version("1"), None)), BY)).data

    return Harness(open=opened, put=put, get=get, shared=harness.shared)


class TestSealedMemory(BackendTests):
    """Memory."""

    @pytest.fixture
    def harness(self) -> Harness:
        return sealing(memory_harness())


@pytest.mark.once
class TestSealedFolder(BackendTests):
    """A folder."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return sealing(Harness.on_folder(tmp_path, lambda: open_backend(f"file://{tmp_path}", {})))


@pytest.mark.once
class TestSealedObjectStores(BackendTests):
    """The object stores, on the project's own server."""

    # Less of it: each call is a request, and the suite itself runs on each in full elsewhere.
    limit = 64 * 1024
    rounds = 2
    tasks = 4
    documents = 60
    steps = 3

    @pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
    def pair(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def anyio_backend(self, pair: tuple[Target, str]) -> Any:
        """That of the pair."""
        if pair[1] == "uvloop":
            pytest.importorskip("uvloop")
        return cancelling.LOOPS[pair[1]]

    @pytest.fixture
    def harness(self, pair: tuple[Target, str], stub: Stub, tmp_path: Path) -> Harness:
        target, _ = pair
        need_packages(target.service, target.engine)
        stub.mode(log=False)
        factory = find_backend(target.scheme, target.engine)
        bucket = f"t{sha256(str(tmp_path).encode()).hexdigest()[:24]}"

        async def opened() -> Backend:
            return await factory(f"{target.scheme}://{bucket}/p", target.options(stub.url))

        def put(key: str, data: bytes) -> None:
            stub.put(target.service, bucket, f"p/{key}", data)

        return sealing(Harness(open=opened, put=put, get=lambda key: stub.get(target.service, bucket, f"p/{key}")))


@pytest.mark.once
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_sealed_object_store_does_what_the_model_does(anyio_backend: Any, target: Target, stub: Stub) -> None:
    """Whatever is done to a store of sealed storages, one of them an object store, it answers as a dict would."""
    need_packages(target.service, target.engine)
    stub.mode(log=False)
    buckets = iter(range(1000))

    factory = find_backend(target.scheme, target.engine)

    async def opened() -> AccountStore:
        url = f"{target.scheme}://{BUCKET}/{anyio_backend[0]}{next(buckets)}"
        backends = {"First Storage": await factory(url, target.options(stub.url)), "Second": MemoryBackend()}
        return sealed_over(backends, codecs=("json", "msgpack"))

    machine: Callable[..., Any] = store_machine
    run_state_machine_as_test(machine(opened, loop=anyio_backend[0], loop_options=anyio_backend[1]), settings=_SETTINGS)
