"""Calls at the same time, through two backends on one storage."""

from __future__ import annotations

from functools import partial
from random import Random

import anyio
import pytest
from anyio.lowlevel import checkpoint

from accountstore.backends.base import Backend, Stat, Version, WriteMode
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    UnavailableError,
)
from accountstore.testing.conformance.harness import (
    KEY,
    Harness,
    Suite,
    get,
    kind_of_error,
    need_create,
    need_update,
    put,
    second,
    version_of,
)

__all__ = ("RaceTests",)


class _Race:
    """Writes of one document at the same time: which have won, and how the others were refused."""

    def __init__(self, key: str, /) -> None:
        self.key = key
        self.won: list[tuple[bytes, Stat]] = []
        self.lost: set[type[AccountStoreError]] = set()

    async def write(self, backend: Backend, data: bytes, mode: WriteMode, /) -> None:
        try:
            self.won.append((data, await backend.write(self.key, data, mode=mode)))
        except Exception as error:  # noqa: BLE001 -- whatever a backend raises is to be named
            self.lost.add(kind_of_error(error))


def _need_atomic(backend: Backend, /) -> None:
    if not backend.capabilities.atomic:
        pytest.skip("declares no atomic write")


class RaceTests(Suite):
    """The group `race`."""

    async def test_race_create_has_one_winner(self, harness: Harness, backend: Backend) -> None:
        """Of tasks that create one document, through two backends, exactly one succeeds, and its document stays."""
        need_create(backend)
        async with second(harness, backend) as other:
            for round_ in range(self.rounds):
                race = _Race(f"race/{round_ // 2}/{round_}.account")
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        group.start_soon(race.write, (backend, other)[i % 2], b"document of task %d" % i, "create")
                assert len(race.won) == 1, f"{len(race.won)} creates of one document have succeeded"
                assert await get(harness, race.key) == race.won[0][0]
                assert race.lost <= {ExistsError}

    async def test_race_swap_has_one_winner(self, harness: Harness, backend: Backend) -> None:
        """Of tasks that swap the same version, through two backends, exactly one succeeds, and its document stays."""
        need_update(backend)
        stat = await backend.write(KEY, b"start", mode="overwrite")
        async with second(harness, backend) as other:
            for round_ in range(self.rounds):
                race = _Race(KEY)
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        data = b"round %d, task %d" % (round_, i)
                        group.start_soon(race.write, (backend, other)[i % 2], data, version_of(stat))
                assert len(race.won) == 1, f"{len(race.won)} swaps of one version have succeeded"
                assert await get(harness, KEY) == race.won[0][0]
                assert race.lost <= {ConflictError}
                stat = race.won[0][1]

    async def test_race_no_update_is_lost(self, harness: Harness, backend: Backend) -> None:
        """Tasks that count in one document by compare-and-swap, through two backends, lose no count."""
        need_update(backend)
        await put(harness, KEY, b"0")
        random = Random(1)  # noqa: S311 -- jitter

        async def count(through: Backend) -> None:
            for _ in range(self.rounds):
                for attempt in range(1000):
                    blob = await through.read(KEY, limit=self.limit)
                    try:
                        await through.write(KEY, b"%d" % (int(blob.data) + 1), mode=version_of(blob.stat))
                        break
                    except Exception as error:  # noqa: BLE001 -- whatever a backend raises is to be named
                        assert issubclass(kind_of_error(error), (ConflictError, UnavailableError)), error
                        await anyio.sleep(random.random() * min(0.0005 * 2**attempt, 0.05))
                else:
                    pytest.fail("a swap did not succeed in 1000 attempts")

        async with second(harness, backend) as other, anyio.create_task_group() as group:
            for i in range(self.tasks):
                group.start_soon(count, (backend, other)[i % 2])
        assert await get(harness, KEY) == b"%d" % (self.tasks * self.rounds)

    async def test_race_reader_sees_whole_documents(self, harness: Harness, backend: Backend) -> None:
        """A reader beside a writer sees only documents that were written, each with its own version."""
        _need_atomic(backend)
        large = min(100_000, self.limit)
        contents = [letter * size for letter, size in ((b"a", large), (b"b", large // 2), (b"c", 3))]
        stat = await backend.write(KEY, contents[0], mode="overwrite")
        written = {(contents[0], version_of(stat))}
        seen: set[tuple[bytes, Version]] = set()
        writing = True

        async def write() -> None:
            nonlocal writing
            for i in range(self.rounds * 3):
                await checkpoint()  # the backend need not have one
                data = contents[i % 3]
                written.add((data, version_of(await backend.write(KEY, data, mode="overwrite"))))
            writing = False

        async def read(through: Backend) -> None:
            while writing:
                await checkpoint()
                blob = await through.read(KEY, limit=self.limit)
                seen.add((blob.data, version_of(blob.stat)))

        async with second(harness, backend) as other, anyio.create_task_group() as group:
            group.start_soon(read, other)
            group.start_soon(read, other)
            group.start_soon(write)
        assert {data[:1] * len(data) for data, _ in seen} <= set(contents), "a part of a document was read"
        assert seen
        assert seen <= written, "a document was read with the version of another"

    async def test_race_writers_of_different_documents_do_not_meet(self, harness: Harness, backend: Backend) -> None:
        """Tasks that write in one new folder, through two backends, all succeed."""
        async with second(harness, backend) as other:
            for round_ in range(max(1, self.rounds // 2)):
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        write = partial((backend, other)[i % 2].write, mode="overwrite")
                        group.start_soon(write, f"new-{round_}/folder/{i}.account", b"%d" % i)
                found = [await get(harness, f"new-{round_}/folder/{i}.account") for i in range(self.tasks)]
                assert found == [b"%d" % i for i in range(self.tasks)]

    async def test_race_readers_do_not_mix_documents_up(self, harness: Harness, backend: Backend) -> None:
        """Tasks that read different documents through one backend at the same time each get their own."""
        contents = {f"m/{i}.account": b"%d" % i * (1 + i * 500) for i in range(self.tasks)}
        for key, data in contents.items():
            await put(harness, key, data)
        wrong: list[str] = []

        async def read(key: str) -> None:
            for _ in range(self.rounds):
                blob = await backend.read(key, limit=self.limit)
                wrong.extend([key] * (blob.data != contents[key]))

        async with anyio.create_task_group() as group:
            for key in contents:
                group.start_soon(read, key)
        assert not wrong
