"""Listings: every document below a folder, and nothing else."""

from __future__ import annotations

import gc
from collections import Counter

import anyio
import pytest
from anyio.lowlevel import checkpoint

from accountstore.backends.base import Backend
from accountstore.testing.conformance.harness import Harness, Suite, keys_of, no_warnings, put, scan

__all__ = ("ScanTests",)


class ScanTests(Suite):
    """The group `scan`."""

    async def test_scan_of_nothing_is_empty(self, backend: Backend) -> None:
        """An empty storage and a folder that is not there list as empty."""
        for prefix in ("", "none", "no/such/folder"):
            for recursive in (False, True):
                assert await keys_of(backend, prefix, recursive=recursive) == []

    async def test_scan_finds_the_documents_of_a_folder(self, harness: Harness, backend: Backend) -> None:
        """A folder lists its own documents, or all below it; never those of a sibling whose name begins alike."""
        for key in _TREE:
            await put(harness, key, key.encode())
        for prefix in ("", "a", "a/b", "a-b", "ab", "a/b/c/d"):
            start = f"{prefix}/" if prefix else ""
            below = sorted(key for key in _TREE if key.startswith(start))
            beside = [key for key in below if "/" not in key.removeprefix(start)]
            assert await keys_of(backend, prefix, recursive=True) == below
            assert await keys_of(backend, prefix, recursive=False) == beside

    async def test_scan_has_the_folders_of_a_folder(self, harness: Harness, backend: Backend) -> None:
        """A scan that is not recursive has each folder in the folder once, where the backend declares that."""
        if not backend.capabilities.folders:
            pytest.skip("declares no folders in a scan")
        for key in _TREE:
            await put(harness, key, key.encode())
        for prefix, folders in (("", "A/ a b/ a-b/ a/ ab/ b/"), ("a", "a/b/"), ("a/b/c", "a/b/c/d/"), ("ab", "")):
            pages = [page async for page in backend.scan(prefix, recursive=False)]
            found = sorted(stat.key for page in pages for stat in page if stat.key.endswith("/"))
            assert " ".join(found) == folders

    async def test_scan_is_sorted_where_that_is_declared(self, harness: Harness, backend: Backend) -> None:
        """A recursive scan has its keys in the order of their UTF-8 bytes, where the backend declares that."""
        if not backend.capabilities.sorted:
            pytest.skip("declares no order of a scan")
        for key in _TREE:
            await put(harness, key, key.encode())
        for prefix in ("", "a"):
            keys = [stat.key async for page in backend.scan(prefix, recursive=True) for stat in page]
            assert keys == sorted(keys, key=str.encode)

    async def test_scan_agrees_with_stat(self, harness: Harness, backend: Backend) -> None:
        """A listing has each document's size, and its version if it has one."""
        for i in range(4):
            await put(harness, f"m/{i}.account", b"x" * i)
        for stat in await scan(backend, "m", recursive=False):
            blob = await backend.read(stat.key, limit=self.limit)
            assert stat.size == len(blob.data)
            assert stat.version in {None, blob.stat.version}
            assert stat.modified is None or stat.modified.tzinfo is not None, "a time must have its zone"

    async def test_scan_follows_writes_and_deletes(self, backend: Backend) -> None:
        """A listing shows what was just written and no longer what was just deleted."""
        for i in range(4):
            await backend.write(f"m/{i}.account", b"x", mode="overwrite")
            assert len(await keys_of(backend, "m", recursive=False)) == i + 1
        await backend.delete("m/1.account")
        await backend.delete("m/3.account")
        assert await keys_of(backend, "m", recursive=False) == ["m/0.account", "m/2.account"]

    async def test_scan_of_many_documents(self, harness: Harness, backend: Backend) -> None:
        """A listing of many pages has each document once."""
        keys = [f"{('m', 'm/n')[i % 5 == 0]}/{i:05}.account" for i in range(self.documents)]
        for key in keys:
            await put(harness, key, b"x")
        found = Counter(await keys_of(backend, "m", recursive=True))
        assert [key for key, times in found.items() if times > 1] == []
        assert sorted(found) == sorted(keys)

    async def test_scan_may_be_dropped_before_its_end(self, harness: Harness, backend: Backend) -> None:
        """A scan that nobody finishes, or begins, leaves no warning and disturbs no other call."""
        keys = [f"m/{i % 7}/{i:04}.account" for i in range(min(self.documents, 1500))]
        for key in keys:
            await put(harness, key, b"x")
        with no_warnings():
            async for page in backend.scan("", recursive=True):
                if page:
                    break
            pages = backend.scan("m", recursive=True)
            await anext(pages)
            backend.scan("", recursive=False)
            del pages
            await checkpoint()
            gc.collect()
            await anyio.sleep(0.01)
        assert await keys_of(backend, "m", recursive=True) == sorted(keys)


_TREE = (
    "x.account",
    "a.account",
    "a/x.account",
    "a/y.multi.account",
    "a/b/x.account",
    "a/b/c/d/e/x.account",
    "a-b/x.account",
    "a-b/c/x.account",
    "ab/x.account",
    "a b/x.account",
    "A/x.account",
    "b/a/x.account",
)
