"""One call after another: what each does, and how it refuses."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import pytest

from accountstore.backends.base import Backend, Version, WriteMode
from accountstore.errors import (
    BackendError,
    ConflictError,
    ExistsError,
    NotFoundError,
    TooLargeError,
    UnsupportedError,
)
from accountstore.testing.conformance.harness import (
    KEY,
    Harness,
    Suite,
    get,
    keys_of,
    need_create,
    need_update,
    no_warnings,
    opened,
    put,
    refused,
    version_of,
)

__all__ = ("SequentialTests",)

_CONTENTS = {
    "one byte": b"{",
    "nothing": b"",
    "every byte": bytes(range(256)) * 3,
    "line ends": b"a\r\nb\nc\rd\n\r\n\n",
    "zeros": bytes(4096),
    "end of text": b"a\x1ab\x04c\xff\xf4d",
    "byte order mark": b"\xef\xbb\xbf{}",
    "not a text": b"\xff\xfe\x80\xc3(",
}


class SequentialTests(Suite):
    """The group `sequential`."""

    async def test_sequential_write_stores_the_bytes(self, harness: Harness, backend: Backend) -> None:
        """The storage holds exactly the bytes that were written."""
        for what, content in _CONTENTS.items():
            stat = await backend.write(KEY, content, mode="overwrite")
            assert await get(harness, KEY) == content, what
            assert (stat.key, stat.size) == (KEY, len(content))

    async def test_sequential_read_returns_the_bytes(self, harness: Harness, backend: Backend) -> None:
        """A read returns exactly the bytes that the storage holds."""
        for what, content in _CONTENTS.items():
            await put(harness, KEY, content)
            blob = await backend.read(KEY, limit=self.limit)
            assert blob.data == content, what
            assert (blob.stat.key, blob.stat.size) == (KEY, len(content))

    async def test_sequential_read_returns_the_version_of_the_write(self, backend: Backend) -> None:
        """A write and the reads after it return the same version."""
        written = await backend.write(KEY, b"first", mode="overwrite")
        first = await backend.read(KEY, limit=self.limit)
        second = await backend.read(KEY, limit=self.limit)
        assert version_of(written) == version_of(first.stat) == version_of(second.stat)

    async def test_sequential_version_changes_with_the_content(self, harness: Harness, backend: Backend) -> None:
        """Each new content has a new version, whoever wrote it and if it has the same size."""
        versions = [version_of(await backend.write(KEY, data, mode="overwrite")) for data in (b"first", b"other")]
        await put(harness, KEY, b"third")
        versions.append(version_of((await backend.read(KEY, limit=self.limit)).stat))
        assert len(set(versions)) == 3

    async def test_sequential_stat_agrees_with_read(self, harness: Harness, backend: Backend) -> None:
        """A stat agrees with a read. It may leave out the version where there is no compare-and-swap."""
        await put(harness, KEY, b"content")
        stat = await backend.stat(KEY)
        blob = await backend.read(KEY, limit=self.limit)
        assert (stat.key, stat.size) == (KEY, len(b"content"))
        if stat.version is not None or backend.capabilities.update:
            assert version_of(stat) == version_of(blob.stat)
        for modified in (stat.modified, blob.stat.modified):
            assert modified is None or modified.tzinfo is not None, "a time must have its zone"

    async def test_sequential_overwrite_leaves_nothing_of_the_old(self, harness: Harness, backend: Backend) -> None:
        """A shorter document replaces a longer one whole."""
        await backend.write(KEY, b"long" * 1000, mode="overwrite")
        await backend.write(KEY, b"short", mode="overwrite")
        assert await get(harness, KEY) == b"short"
        assert (await backend.read(KEY, limit=self.limit)).data == b"short"

    async def test_sequential_missing_document_is_not_found(self, harness: Harness, backend: Backend) -> None:
        """What is not there cannot be read or stat: at the root, in a folder and in a missing folder."""
        await put(harness, "mail/other.account", b"other")
        for key in ("none.account", "mail/none.account", "no/such/folder.account"):
            with refused(NotFoundError):
                await backend.read(key, limit=self.limit)
            with refused(NotFoundError):
                await backend.stat(key)
            assert await get(harness, key) is None

    async def test_sequential_delete_removes_one_document(self, harness: Harness, backend: Backend) -> None:
        """A delete removes its document and no other."""
        await put(harness, KEY, b"content")
        await put(harness, "mail/team-a/other.account", b"other")
        await backend.delete(KEY)
        assert await get(harness, KEY) is None
        with refused(NotFoundError):
            await backend.read(KEY, limit=self.limit)
        assert await get(harness, "mail/team-a/other.account") == b"other"

    async def test_sequential_delete_of_a_missing_document_is_no_error(
        self, harness: Harness, backend: Backend
    ) -> None:
        """A second delete, and one in a folder that is not there, do nothing."""
        await put(harness, KEY, b"content")
        await backend.delete(KEY)
        await backend.delete(KEY)
        await backend.delete("no/such/folder.account")
        assert await get(harness, KEY) is None

    async def test_sequential_write_after_delete(self, harness: Harness, backend: Backend) -> None:
        """A document can be written where one was deleted."""
        await backend.write(KEY, b"first", mode="overwrite")
        await backend.delete(KEY)
        await backend.write(KEY, b"second", mode="overwrite")
        assert await get(harness, KEY) == b"second"

    async def test_sequential_create_makes_a_document(self, harness: Harness, backend: Backend) -> None:
        """A create where nothing is writes the document, also after a delete."""
        need_create(backend)
        for data in (b"first", b"second"):
            stat = await backend.write(KEY, data, mode="create")
            assert await get(harness, KEY) == data
            assert version_of(stat) == version_of((await backend.read(KEY, limit=self.limit)).stat)
            await backend.delete(KEY)

    async def test_sequential_create_leaves_a_document_alone(self, harness: Harness, backend: Backend) -> None:
        """A create over a document is refused, whoever wrote that, and it stays."""
        need_create(backend)
        await put(harness, KEY, b"theirs")
        with refused(ExistsError):
            await backend.write(KEY, b"mine", mode="create")
        assert await get(harness, KEY) == b"theirs"

    async def test_sequential_swap_of_the_current_version(self, harness: Harness, backend: Backend) -> None:
        """A swap with the current version writes, and returns a new version that the next swap can use."""
        need_update(backend)
        await put(harness, KEY, b"0")
        version = version_of((await backend.read(KEY, limit=self.limit)).stat)
        for data in (b"1", b"2", b"3"):
            version = version_of(await backend.write(KEY, data, mode=version))
            assert await get(harness, KEY) == data

    async def test_sequential_swap_of_a_stale_version_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A swap is a conflict once the document was changed, through the backend or around it, and changes nothing."""
        need_update(backend)
        stale = version_of(await backend.write(KEY, b"first", mode="overwrite"))
        current = version_of(await backend.write(KEY, b"other", mode="overwrite"))
        with refused(ConflictError):
            await backend.write(KEY, b"mine", mode=stale)
        assert await get(harness, KEY) == b"other"
        await put(harness, KEY, b"third")
        with refused(ConflictError):
            await backend.write(KEY, b"mine", mode=current)
        assert await get(harness, KEY) == b"third"

    async def test_sequential_swap_of_an_unknown_version_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A version that the storage never gave is a conflict, not an error of another kind."""
        need_update(backend)
        await put(harness, KEY, b"theirs")
        with refused(ConflictError):
            await backend.write(KEY, b"mine", mode=Version("stale"))
        with refused(ConflictError):
            await backend.delete(KEY, version=Version("stale"))
        assert await get(harness, KEY) == b"theirs"

    async def test_sequential_swap_of_a_deleted_document_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A swap does not bring back a document that is gone."""
        need_update(backend)
        version = version_of(await backend.write(KEY, b"first", mode="overwrite"))
        await backend.delete(KEY)
        for key in (KEY, "no/such/folder.account"):
            with refused(NotFoundError, ConflictError):
                await backend.write(key, b"second", mode=version)
            assert await get(harness, key) is None

    async def test_sequential_conditional_delete(self, harness: Harness, backend: Backend) -> None:
        """A delete with a version removes that version only; of a missing document it is no error."""
        need_update(backend)
        stale = version_of(await backend.write(KEY, b"first", mode="overwrite"))
        current = version_of(await backend.write(KEY, b"other", mode="overwrite"))
        with refused(ConflictError):
            await backend.delete(KEY, version=stale)
        assert await get(harness, KEY) == b"other"
        await backend.delete(KEY, version=current)
        assert await get(harness, KEY) is None
        await backend.delete(KEY, version=current)

    async def test_sequential_limit(self, harness: Harness, backend: Backend) -> None:
        """A document of the limit's size is read; of a larger one the error says so, and the next call works."""
        largest = os.urandom(self.limit)
        await backend.write(KEY, largest, mode="overwrite")
        assert await get(harness, KEY) == largest
        assert (await backend.read(KEY, limit=self.limit)).data == largest
        for size in (self.limit + 1, self.limit * 8):
            await put(harness, "large.account", bytes(size))
            for _ in range(2):
                with refused(TooLargeError):
                    await backend.read("large.account", limit=self.limit)
            assert (await backend.read(KEY, limit=self.limit)).data == largest

    async def test_sequential_write_tokens_are_kept(self, harness: Harness, backend: Backend) -> None:
        """`stat` returns the token of the write that made the document, and none for one made without."""
        if not backend.capabilities.write_tokens:
            pytest.skip("keeps no write tokens")
        for token in ("0123456789abcdef", "fedcba9876543210"):
            await backend.write(KEY, b"content", mode="overwrite", write_token=token)
            assert (await backend.stat(KEY)).write_token == token
        await backend.write(KEY, b"content", mode="overwrite")
        assert (await backend.stat(KEY)).write_token is None
        await put(harness, "mail/other.account", b"content")
        assert (await backend.stat("mail/other.account")).write_token is None

    async def test_sequential_capabilities_stay_the_same(self, backend: Backend) -> None:
        """What is declared does not change while the backend is used."""
        before = backend.capabilities
        await backend.write(KEY, b"content", mode="overwrite")
        assert backend.capabilities == before
        assert before.batch >= 1

    async def test_sequential_errors_do_not_quote_documents(self, harness: Harness, backend: Backend) -> None:
        """No error that a backend raises has a part of a document in its text."""
        await put(harness, KEY, b"canary-" * (self.limit // 7 + 2))
        errors: list[Exception] = []
        modes: list[WriteMode] = []
        if backend.capabilities.create:
            modes.append("create")
        if backend.capabilities.update:
            modes.append(Version("stale"))
        calls: list[Callable[[], Awaitable[object]]] = [partial(backend.read, KEY, limit=self.limit)]
        calls += [partial(backend.write, KEY, b"canary-2", mode=mode) for mode in modes]
        for call in calls:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 -- whatever a backend raises is looked at
                errors.append(error)
        assert errors
        assert "canary" not in repr([(error, str(error), error.__cause__, error.__context__) for error in errors])

    async def test_sequential_versions_begin_with_the_current_one(self, harness: Harness, backend: Backend) -> None:
        """The newest version is the document, none is another document's, and one at most is the current one."""
        await put(harness, KEY, b"first")
        await put(harness, f"{KEY}.account", b"another")
        await backend.write(KEY, b"second", mode="overwrite")
        try:
            versions = await backend.versions(KEY)
        except UnsupportedError:
            pytest.skip("cannot be asked for versions")
        assert (versions[0].size, versions[0].version) == (len(b"second"), (await backend.stat(KEY)).version)
        assert [one.current for one in versions] == [True, *[False] * (len(versions) - 1)]
        assert [one.size for one in versions[1:]] == [len(b"first")] * (len(versions) - 1)
        await backend.delete(KEY)
        with suppress(FileNotFoundError):  # nothing is kept of it
            assert not any(one.current for one in await backend.versions(KEY))
        for key in ("none.account", "no/such/folder.account"):
            with refused(NotFoundError):
                await backend.versions(key)

    async def test_sequential_usage_is_possible(self, backend: Backend) -> None:
        """A storage that tells how full it is has some bytes in all, and no more than these are used. Whether it keeps
        old documents is known, or not, or may not be asked.
        """
        with suppress(BackendError, OSError):
            assert await backend.versioned() in {True, False, None}
        usage = await backend.usage()
        assert usage is None or 0 <= usage.used <= usage.total > 0

    async def test_sequential_filesystem_reaches_the_documents(self, backend: Backend) -> None:
        """The fsspec filesystem reads what the backend has written, under the root that comes with it."""
        await backend.write(KEY, b"content", mode="overwrite")
        try:
            fs, root = cast("tuple[Any, str]", await backend.filesystem())
        except UnsupportedError:
            pytest.skip("has no fsspec filesystem")
        path = f"{root.rstrip('/')}/{KEY}"
        read: Callable[[str], bytes] = fs.cat_file
        assert await anyio.to_thread.run_sync(read, path) == b"content"

    async def test_sequential_documents_outlive_their_backend(self, harness: Harness) -> None:
        """A backend opened later on the same storage reads what an earlier one has written."""
        if not harness.shared:
            pytest.skip("each backend has a storage of its own")
        async with opened(harness) as backend:
            written = await backend.write(KEY, b"content", mode="overwrite")
        async with opened(harness) as backend:
            blob = await backend.read(KEY, limit=self.limit)
            assert blob.data == b"content"
            assert version_of(blob.stat) == version_of(written)

    async def test_sequential_close_leaves_nothing_open(self, harness: Harness) -> None:
        """A backend that was closed, used or not, leaves no warning about something open."""
        with no_warnings():
            async with opened(harness):
                pass
            async with opened(harness) as backend:
                await backend.write(KEY, b"content", mode="overwrite")
                await backend.read(KEY, limit=self.limit)
                assert await keys_of(backend, "", recursive=True) == [KEY]
            del backend
