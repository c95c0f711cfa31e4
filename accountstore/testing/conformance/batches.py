"""Many documents at once, by a backend that declares batches: each has the result that it has by itself."""

from __future__ import annotations

from accountstore.backends.base import Backend, Blob, Stat, Write
from accountstore.errors import AccountStoreError, ConflictError, ExistsError, NotFoundError, TooLargeError
from accountstore.testing.conformance.harness import (
    Harness,
    Suite,
    get,
    kind_of_error,
    need_batch,
    need_create,
    need_update,
    put,
    version_of,
)

__all__ = ("BatchTests",)


def _is(result: object, kind: type[AccountStoreError], /) -> bool:
    return isinstance(result, Exception) and issubclass(kind_of_error(result), kind)


class BatchTests(Suite):
    """The group `batch`."""

    async def test_batch_read_many(self, harness: Harness, backend: Backend) -> None:
        """A batch gives in order what reads one by one give or raise, however often a key is in it."""
        batch = need_batch(backend)
        await put(harness, "a.account", b"a")
        await put(harness, "mail/b.account", b"bb")
        await put(harness, "large.account", bytes(self.limit + 1))
        keys = ["mail/b.account", "none.account", "a.account", "large.account", "no/such/folder.account", "a.account"]
        results = await batch.read_many(keys, limit=self.limit)
        assert [result.data if isinstance(result, Blob) else None for result in results] == [
            b"bb",
            None,
            b"a",
            None,
            None,
            b"a",
        ]
        assert _is(results[1], NotFoundError)
        assert _is(results[3], TooLargeError)
        assert _is(results[4], NotFoundError)
        assert [result.stat.key for result in results if isinstance(result, Blob)] == [keys[0], keys[2], keys[5]]
        assert list(await batch.read_many([], limit=self.limit)) == []

    async def test_batch_write_many(self, harness: Harness, backend: Backend) -> None:
        """A batch of overwrites in several folders stores each document and returns, in order, its version."""
        batch = need_batch(backend)
        writes = [Write(f"{folder}/{i}.account", b"%d" % i, "overwrite") for i in range(5) for folder in ("a", "b/c")]
        results = await batch.write_many(writes)
        for write, result in zip(writes, results, strict=True):
            assert isinstance(result, Stat), result
            assert (result.key, result.size) == (write.key, len(write.data))
            assert version_of(result) == version_of((await backend.read(write.key, limit=self.limit)).stat)
            assert await get(harness, write.key) == write.data
        assert list(await batch.write_many([])) == []

    async def test_batch_create_many(self, harness: Harness, backend: Backend) -> None:
        """In a batch of creates, those over documents are refused, and the others succeed."""
        batch = need_batch(backend)
        need_create(backend)
        await put(harness, "m/1.account", b"theirs")
        results = await batch.write_many([Write(f"m/{i}.account", b"mine", "create") for i in range(3)])
        assert [isinstance(result, Stat) for result in results] == [True, False, True]
        assert _is(results[1], ExistsError)
        assert [await get(harness, f"m/{i}.account") for i in range(3)] == [b"mine", b"theirs", b"mine"]

    async def test_batch_swap_many(self, harness: Harness, backend: Backend) -> None:
        """In a batch of swaps, the stale one is a conflict, and the others succeed."""
        batch = need_batch(backend)
        need_update(backend)
        stats = [await backend.write(f"m/{i}.account", b"old %d" % i, mode="overwrite") for i in range(3)]
        await put(harness, "m/1.account", b"theirs")
        results = await batch.write_many([Write(stat.key, b"mine", version_of(stat)) for stat in stats])
        assert [isinstance(result, Stat) for result in results] == [True, False, True]
        assert _is(results[1], ConflictError)
        assert [await get(harness, f"m/{i}.account") for i in range(3)] == [b"mine", b"theirs", b"mine"]
