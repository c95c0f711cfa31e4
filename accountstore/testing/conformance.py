"""The suite for backends: what the seam promises, tried on a storage.

    class TestMine(BackendTests):
        @pytest.fixture
        def harness(self, tmp_path):
            return Harness.on_folder(tmp_path, lambda: open_backend(f"mine://{tmp_path}", {}))

Set-up and checks go around the backend, so an error in its `write` cannot hide one in its `read`. A test of something
that the backend does not declare is skipped, and says so.
"""

from __future__ import annotations

import errno
import gc
import os
import warnings
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from accountstore.backends.base import Blob, Stat, Version, Write
from accountstore.deadlines import Deadline, to_the_end
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from accountstore.location import Location
from accountstore.validation import MAX_BYTES, MAX_PATH, MAX_SEGMENT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence

    from accountstore.backends.base import Backend, WriteMode

__all__ = ("BackendTests", "Harness")


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


async def _put(harness: Harness, key: str, data: bytes, /) -> None:
    done = harness.put(key, data)
    if isawaitable(done):
        await done


async def _get(harness: Harness, key: str, /) -> bytes | None:
    found = harness.get(key)
    return await found if isawaitable(found) else found


@asynccontextmanager
async def _opened(harness: Harness, /) -> AsyncGenerator[Backend]:
    backend = await harness.open()
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()


@asynccontextmanager
async def _second(harness: Harness, backend: Backend, /) -> AsyncGenerator[Backend]:
    """Another backend on the same storage, or the same one where there is no other."""
    if harness.shared:
        async with _opened(harness) as other:
            yield other
    else:
        yield backend


def _named(backend: Backend, error: Exception, /) -> type[AccountStoreError]:
    if isinstance(error, AccountStoreError):
        return type(error)
    kind = backend.classify(error)
    assert isinstance(kind, type), f"classify({error!r}) must return a class"
    assert issubclass(kind, BackendError), f"classify({error!r}) must return a BackendError"
    return kind


@contextmanager
def _refused(backend: Backend, *kinds: type[AccountStoreError]) -> Generator[None]:
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- whatever a backend raises is to be named
        kind = _named(backend, error)
        assert issubclass(kind, kinds), f"{error!r} is a {kind.__name__}, not a {wanted}"
    else:
        pytest.fail(f"nothing was raised where {wanted} should be")


def _is(backend: Backend, result: object, kind: type[AccountStoreError], /) -> bool:
    return isinstance(result, Exception) and issubclass(_named(backend, result), kind)


def _need_create(backend: Backend, /) -> None:
    if not backend.capabilities.create:
        pytest.skip("declares no create with one winner")


def _need_update(backend: Backend, /) -> None:
    if not backend.capabilities.update:
        pytest.skip("declares no compare-and-swap")


def _need_atomic(backend: Backend, /) -> None:
    if not backend.capabilities.atomic:
        pytest.skip("declares no atomic write")


def _version(stat: Stat, /) -> Version:
    assert stat.version is not None, "read and write must tell a version"
    return stat.version


async def _scan(backend: Backend, prefix: str, /, *, recursive: bool) -> list[Stat]:
    return [stat async for page in backend.scan(prefix, recursive=recursive) for stat in page]


async def _keys(backend: Backend, prefix: str, /, *, recursive: bool) -> list[str]:
    return sorted(stat.key for stat in await _scan(backend, prefix, recursive=recursive))


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
            self.lost.add(_named(backend, error))


async def _steps(count: int, /) -> None:
    for _ in range(count):
        await checkpoint()


async def _cancelled(call: Callable[[], Awaitable[object]], moment: Callable[[], Awaitable[None]], /) -> None:
    """Make a call in a scope that is cancelled at a moment."""
    scope = anyio.CancelScope()

    async def cancel() -> None:
        await moment()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with scope:
            await call()
        group.cancel_scope.cancel()


_KEY = "mail/team-a/email.account"
_FOREVER = 600.0

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

_STEMS = (
    "email",
    "Email",
    "with space",
    " space before",
    "space after ",
    "two  spaces",
    "per%cent",
    "%2F",
    "%2e%2e",
    "%25",
    "a+b",
    "a&b=c;d,e",
    "a@b!$^(1)",
    'it\'s "quoted" `here`',
    "a<b>c|d",
    ".hidden",
    "..two dots",
    "...",
    "~",
    "~root",
    "-rf",
    "--",
    "_",
    "\u00e9\u00e8",
    "stra\u00dfe",
    "\u65e5\u672c\u8a9e",
    "\u043f\u043e\u0447\u0442\u0430",
    "\U0001f510 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05d3\u05d5\u05d0\u05e8",
    "no\u00a0break",
    "NUL",
    "a" * (MAX_SEGMENT - len(".account")),
    "\u00e9" * ((MAX_SEGMENT - len(".account")) // 2),
    "\U0001f511" * ((MAX_SEGMENT - len(".account")) // 4),
)

_ALIKE = (
    "a.account",
    "A.account",
    "a .account",
    " a.account",
    "a%20.account",
    "a+.account",
    "a..account",
    ".a.account",
    "\u0430.account",  # Cyrillic
    "\uff41.account",  # full width
    "\u00e5.account",
    "a\u200b.account",  # with a space of no width
    "a.multi.account",
    "a/b.account",
    "a%2Fb.account",
    "a-b.account",
    "a/b/c.account",
    "ab/c.account",
    "a/bc.account",
)


@pytest.mark.anyio
class BackendTests:
    """Derive a class from this one and give it a fixture `harness`.

    The class variables say how much is tried. Names tell the groups: `-k "not race"` leaves one out.
    """

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
        async with _opened(harness) as backend:
            yield backend

    # --- sequential ---------------------------------------------------------------------------------------------------

    async def test_sequential_write_stores_the_bytes(self, harness: Harness, backend: Backend) -> None:
        """The storage holds exactly the bytes that were written."""
        for what, content in _CONTENTS.items():
            stat = await backend.write(_KEY, content, mode="overwrite")
            assert await _get(harness, _KEY) == content, what
            assert (stat.key, stat.size) == (_KEY, len(content))

    async def test_sequential_read_returns_the_bytes(self, harness: Harness, backend: Backend) -> None:
        """A read returns exactly the bytes that the storage holds."""
        for what, content in _CONTENTS.items():
            await _put(harness, _KEY, content)
            blob = await backend.read(_KEY, limit=self.limit)
            assert blob.data == content, what
            assert (blob.stat.key, blob.stat.size) == (_KEY, len(content))

    async def test_sequential_read_tells_the_version_of_the_write(self, backend: Backend) -> None:
        """A write and the reads after it tell the same version."""
        written = await backend.write(_KEY, b"first", mode="overwrite")
        first = await backend.read(_KEY, limit=self.limit)
        second = await backend.read(_KEY, limit=self.limit)
        assert _version(written) == _version(first.stat) == _version(second.stat)

    async def test_sequential_version_changes_with_the_content(self, harness: Harness, backend: Backend) -> None:
        """Each new content has a new version, whoever wrote it and if it has the same size."""
        versions = [_version(await backend.write(_KEY, data, mode="overwrite")) for data in (b"first", b"other")]
        await _put(harness, _KEY, b"third")
        versions.append(_version((await backend.read(_KEY, limit=self.limit)).stat))
        assert len(set(versions)) == 3

    async def test_sequential_stat_tells_what_read_tells(self, harness: Harness, backend: Backend) -> None:
        """A stat agrees with a read. It may leave out the version where there is no compare-and-swap."""
        await _put(harness, _KEY, b"content")
        stat = await backend.stat(_KEY)
        blob = await backend.read(_KEY, limit=self.limit)
        assert (stat.key, stat.size) == (_KEY, len(b"content"))
        if stat.version is not None or backend.capabilities.update:
            assert _version(stat) == _version(blob.stat)
        for modified in (stat.modified, blob.stat.modified):
            assert modified is None or modified.tzinfo is not None, "a time must have its zone"

    async def test_sequential_overwrite_leaves_nothing_of_the_old(self, harness: Harness, backend: Backend) -> None:
        """A shorter document replaces a longer one whole."""
        await backend.write(_KEY, b"long" * 1000, mode="overwrite")
        await backend.write(_KEY, b"short", mode="overwrite")
        assert await _get(harness, _KEY) == b"short"
        assert (await backend.read(_KEY, limit=self.limit)).data == b"short"

    async def test_sequential_missing_document_is_not_found(self, harness: Harness, backend: Backend) -> None:
        """What is not there cannot be read or stat: at the root, in a folder and in a missing folder."""
        await _put(harness, "mail/other.account", b"other")
        for key in ("none.account", "mail/none.account", "no/such/folder.account"):
            with _refused(backend, NotFoundError):
                await backend.read(key, limit=self.limit)
            with _refused(backend, NotFoundError):
                await backend.stat(key)
            assert await _get(harness, key) is None

    async def test_sequential_delete_removes_one_document(self, harness: Harness, backend: Backend) -> None:
        """A delete removes its document and no other."""
        await _put(harness, _KEY, b"content")
        await _put(harness, "mail/team-a/other.account", b"other")
        await backend.delete(_KEY)
        assert await _get(harness, _KEY) is None
        with _refused(backend, NotFoundError):
            await backend.read(_KEY, limit=self.limit)
        assert await _get(harness, "mail/team-a/other.account") == b"other"

    async def test_sequential_delete_of_a_missing_document_is_no_error(
        self, harness: Harness, backend: Backend
    ) -> None:
        """A second delete, and one in a folder that is not there, do nothing."""
        await _put(harness, _KEY, b"content")
        await backend.delete(_KEY)
        await backend.delete(_KEY)
        await backend.delete("no/such/folder.account")
        assert await _get(harness, _KEY) is None

    async def test_sequential_write_after_delete(self, harness: Harness, backend: Backend) -> None:
        """A document can be written where one was deleted."""
        await backend.write(_KEY, b"first", mode="overwrite")
        await backend.delete(_KEY)
        await backend.write(_KEY, b"second", mode="overwrite")
        assert await _get(harness, _KEY) == b"second"

    async def test_sequential_create_makes_a_document(self, harness: Harness, backend: Backend) -> None:
        """A create where nothing is writes the document, also after a delete."""
        _need_create(backend)
        for data in (b"first", b"second"):
            stat = await backend.write(_KEY, data, mode="create")
            assert await _get(harness, _KEY) == data
            assert _version(stat) == _version((await backend.read(_KEY, limit=self.limit)).stat)
            await backend.delete(_KEY)

    async def test_sequential_create_leaves_a_document_alone(self, harness: Harness, backend: Backend) -> None:
        """A create over a document is refused, whoever wrote that, and it stays."""
        _need_create(backend)
        await _put(harness, _KEY, b"theirs")
        with _refused(backend, ExistsError):
            await backend.write(_KEY, b"mine", mode="create")
        assert await _get(harness, _KEY) == b"theirs"

    async def test_sequential_swap_of_the_current_version(self, harness: Harness, backend: Backend) -> None:
        """A swap with the current version writes, and tells a new version that the next swap can use."""
        _need_update(backend)
        await _put(harness, _KEY, b"0")
        version = _version((await backend.read(_KEY, limit=self.limit)).stat)
        for data in (b"1", b"2", b"3"):
            version = _version(await backend.write(_KEY, data, mode=version))
            assert await _get(harness, _KEY) == data

    async def test_sequential_swap_of_a_stale_version_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A swap is a conflict once the document was changed, through the backend or around it, and changes nothing."""
        _need_update(backend)
        stale = _version(await backend.write(_KEY, b"first", mode="overwrite"))
        current = _version(await backend.write(_KEY, b"other", mode="overwrite"))
        with _refused(backend, ConflictError):
            await backend.write(_KEY, b"mine", mode=stale)
        assert await _get(harness, _KEY) == b"other"
        await _put(harness, _KEY, b"third")
        with _refused(backend, ConflictError):
            await backend.write(_KEY, b"mine", mode=current)
        assert await _get(harness, _KEY) == b"third"

    async def test_sequential_swap_of_an_unknown_version_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A version that the storage never gave is a conflict, not an error of another kind."""
        _need_update(backend)
        await _put(harness, _KEY, b"theirs")
        with _refused(backend, ConflictError):
            await backend.write(_KEY, b"mine", mode=Version("stale"))
        with _refused(backend, ConflictError):
            await backend.delete(_KEY, version=Version("stale"))
        assert await _get(harness, _KEY) == b"theirs"

    async def test_sequential_swap_of_a_deleted_document_is_refused(self, harness: Harness, backend: Backend) -> None:
        """A swap does not bring back a document that is gone."""
        _need_update(backend)
        version = _version(await backend.write(_KEY, b"first", mode="overwrite"))
        await backend.delete(_KEY)
        for key in (_KEY, "no/such/folder.account"):
            with _refused(backend, NotFoundError, ConflictError):
                await backend.write(key, b"second", mode=version)
            assert await _get(harness, key) is None

    async def test_sequential_conditional_delete(self, harness: Harness, backend: Backend) -> None:
        """A delete with a version removes that version only; of a missing document it is no error."""
        _need_update(backend)
        stale = _version(await backend.write(_KEY, b"first", mode="overwrite"))
        current = _version(await backend.write(_KEY, b"other", mode="overwrite"))
        with _refused(backend, ConflictError):
            await backend.delete(_KEY, version=stale)
        assert await _get(harness, _KEY) == b"other"
        await backend.delete(_KEY, version=current)
        assert await _get(harness, _KEY) is None
        await backend.delete(_KEY, version=current)

    async def test_sequential_limit(self, harness: Harness, backend: Backend) -> None:
        """A document of the limit's size is read; of a larger one the error says so, and the next call works."""
        largest = os.urandom(self.limit)
        await backend.write(_KEY, largest, mode="overwrite")
        assert await _get(harness, _KEY) == largest
        assert (await backend.read(_KEY, limit=self.limit)).data == largest
        for size in (self.limit + 1, self.limit * 8):
            await _put(harness, "large.account", bytes(size))
            for _ in range(2):
                with _refused(backend, TooLargeError):
                    await backend.read("large.account", limit=self.limit)
            assert (await backend.read(_KEY, limit=self.limit)).data == largest

    async def test_sequential_read_many(self, harness: Harness, backend: Backend) -> None:
        """A batch gives in order what reads one by one give or raise, however often a key is in it."""
        await _put(harness, "a.account", b"a")
        await _put(harness, "mail/b.account", b"bb")
        await _put(harness, "large.account", bytes(self.limit + 1))
        keys = ["mail/b.account", "none.account", "a.account", "large.account", "no/such/folder.account", "a.account"]
        results = await backend.read_many(keys, limit=self.limit)
        assert [result.data if isinstance(result, Blob) else None for result in results] == [
            b"bb",
            None,
            b"a",
            None,
            None,
            b"a",
        ]
        assert _is(backend, results[1], NotFoundError)
        assert _is(backend, results[3], TooLargeError)
        assert _is(backend, results[4], NotFoundError)
        assert [result.stat.key for result in results if isinstance(result, Blob)] == [keys[0], keys[2], keys[5]]
        assert list(await backend.read_many([], limit=self.limit)) == []

    async def test_sequential_write_many(self, harness: Harness, backend: Backend) -> None:
        """A batch of overwrites in several folders stores each document and tells, in order, its version."""
        writes = [Write(f"{folder}/{i}.account", b"%d" % i, "overwrite") for i in range(5) for folder in ("a", "b/c")]
        results = await backend.write_many(writes)
        for write, result in zip(writes, results, strict=True):
            assert isinstance(result, Stat), result
            assert (result.key, result.size) == (write.key, len(write.data))
            assert _version(result) == _version((await backend.read(write.key, limit=self.limit)).stat)
            assert await _get(harness, write.key) == write.data
        assert list(await backend.write_many([])) == []

    async def test_sequential_create_many(self, harness: Harness, backend: Backend) -> None:
        """In a batch of creates, those over documents are refused, and the others succeed."""
        _need_create(backend)
        await _put(harness, "m/1.account", b"theirs")
        results = await backend.write_many([Write(f"m/{i}.account", b"mine", "create") for i in range(3)])
        assert [isinstance(result, Stat) for result in results] == [True, False, True]
        assert _is(backend, results[1], ExistsError)
        assert [await _get(harness, f"m/{i}.account") for i in range(3)] == [b"mine", b"theirs", b"mine"]

    async def test_sequential_swap_many(self, harness: Harness, backend: Backend) -> None:
        """In a batch of swaps, the stale one is a conflict, and the others succeed."""
        _need_update(backend)
        stats = [await backend.write(f"m/{i}.account", b"old %d" % i, mode="overwrite") for i in range(3)]
        await _put(harness, "m/1.account", b"theirs")
        results = await backend.write_many([Write(stat.key, b"mine", _version(stat)) for stat in stats])
        assert [isinstance(result, Stat) for result in results] == [True, False, True]
        assert _is(backend, results[1], ConflictError)
        assert [await _get(harness, f"m/{i}.account") for i in range(3)] == [b"mine", b"theirs", b"mine"]

    async def test_sequential_capabilities_stay_the_same(self, backend: Backend) -> None:
        """What is declared does not change while the backend is used."""
        before = backend.capabilities
        await backend.write(_KEY, b"content", mode="overwrite")
        assert backend.capabilities == before
        assert before.batch >= 1

    async def test_sequential_any_error_is_named(self, backend: Backend) -> None:
        """`classify` names every error, also one that it does not know."""
        for error in (
            Exception("unknown"),
            RuntimeError("no connection"),
            KeyError("size"),
            OSError("without a number"),
            OSError(errno.EIO, "I/O error"),
            TimeoutError(),
            EOFError(),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ):
            assert issubclass(_named(backend, error), BackendError)

    async def test_sequential_own_errors_keep_their_names(self, backend: Backend) -> None:
        """`classify` leaves the library's own errors as they are."""
        for kind in (NotFoundError, ExistsError, ConflictError, DeniedError, UnavailableError):
            error: BackendError = kind("message")
            assert backend.classify(error) is kind

    async def test_sequential_errors_do_not_quote_documents(self, harness: Harness, backend: Backend) -> None:
        """No error that a backend raises has a part of a document in its text."""
        await _put(harness, _KEY, b"canary-" * (self.limit // 7 + 2))
        errors: list[Exception] = []
        modes: list[WriteMode] = []
        if backend.capabilities.create:
            modes.append("create")
        if backend.capabilities.update:
            modes.append(Version("stale"))
        calls: list[Callable[[], Awaitable[object]]] = [partial(backend.read, _KEY, limit=self.limit)]
        calls += [partial(backend.write, _KEY, b"canary-2", mode=mode) for mode in modes]
        for call in calls:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 -- whatever a backend raises is looked at
                errors.append(error)
        assert errors
        assert "canary" not in repr([(error, str(error), error.__cause__, error.__context__) for error in errors])

    async def test_sequential_filesystem_reaches_the_documents(self, backend: Backend) -> None:
        """The fsspec filesystem reads what the backend has written, under the root that comes with it."""
        await backend.write(_KEY, b"content", mode="overwrite")
        try:
            fs, root = cast("tuple[Any, str]", await anyio.to_thread.run_sync(backend.filesystem))
        except UnsupportedError:
            pytest.skip("has no fsspec filesystem")
        path = f"{root.rstrip('/')}/{_KEY}"
        read: Callable[[str], bytes] = fs.cat_file
        assert await anyio.to_thread.run_sync(read, path) == b"content"

    async def test_sequential_documents_outlive_their_backend(self, harness: Harness) -> None:
        """A backend opened later on the same storage reads what an earlier one has written."""
        if not harness.shared:
            pytest.skip("each backend has a storage of its own")
        async with _opened(harness) as backend:
            written = await backend.write(_KEY, b"content", mode="overwrite")
        async with _opened(harness) as backend:
            blob = await backend.read(_KEY, limit=self.limit)
            assert blob.data == b"content"
            assert _version(blob.stat) == _version(written)

    async def test_sequential_close_leaves_nothing_open(self, harness: Harness) -> None:
        """A backend that was closed, used or not, leaves no warning about something open."""
        with _no_warnings():
            async with _opened(harness):
                pass
            async with _opened(harness) as backend:
                await backend.write(_KEY, b"content", mode="overwrite")
                await backend.read(_KEY, limit=self.limit)
                assert await _keys(backend, "", recursive=True) == [_KEY]
            del backend

    # --- unicode ------------------------------------------------------------------------------------------------------

    async def test_unicode_names_are_kept(self, harness: Harness, backend: Backend) -> None:
        """Every allowed name serves as folder and as file name: written, found under it in the storage, read, listed,
        deleted.
        """
        keys = [Location(f"{stem}.account", folder=stem).path for stem in _STEMS]
        wrong: dict[str, str] = {}
        for key in keys:
            await backend.write(key, key.encode(), mode="overwrite")
        for key, folder in zip(keys, _STEMS, strict=True):
            if await _get(harness, key) != key.encode():
                wrong[key] = "not under its name in the storage"
            elif (await backend.read(key, limit=self.limit)).data != key.encode():
                wrong[key] = "read otherwise"
            elif await _keys(backend, folder, recursive=False) != [key]:
                wrong[key] = "listed otherwise"
        assert not wrong
        assert await _keys(backend, "", recursive=True) == sorted(keys)
        for key in keys:
            await backend.delete(key)
            if await _get(harness, key) is not None:
                wrong[key] = "still there after delete"
        assert not wrong
        assert await _keys(backend, "", recursive=True) == []

    async def test_unicode_names_that_look_alike_are_different(self, harness: Harness, backend: Backend) -> None:
        """Keys that differ only in case, spaces, escapes or script are different documents."""
        for key in _ALIKE:
            await backend.write(key, key.encode(), mode="overwrite")
        assert {key: await _get(harness, key) for key in _ALIKE} == {key: key.encode() for key in _ALIKE}
        assert {key: (await backend.read(key, limit=self.limit)).data for key in _ALIKE} == {
            key: key.encode() for key in _ALIKE
        }
        await backend.delete(_ALIKE[0])
        assert await _keys(backend, "", recursive=True) == sorted(_ALIKE[1:])

    async def test_unicode_longest_paths(self, harness: Harness, backend: Backend) -> None:
        """Paths of the greatest length that a location may have can be used, in letters of any width."""
        keys: list[str] = []
        for letter in ("a", "\u00e9", "\U0001f511"):
            width = len(letter.encode())
            folder = "/".join([letter * (MAX_SEGMENT // width)] * 3)
            left = min(MAX_SEGMENT, MAX_PATH - len(folder.encode()) - 1) - len(".account")
            location = Location(f"{letter * (left // width)}.account", folder=folder)
            keys.append(location.path)
            await backend.write(location.path, folder.encode(), mode="overwrite")
            assert await _get(harness, location.path) == folder.encode()
            assert (await backend.read(location.path, limit=self.limit)).data == folder.encode()
            assert await _keys(backend, folder, recursive=False) == [location.path]
        assert await _keys(backend, "", recursive=True) == sorted(keys)

    # --- race ---------------------------------------------------------------------------------------------------------

    async def test_race_create_has_one_winner(self, harness: Harness, backend: Backend) -> None:
        """Of tasks that create one document, through two backends, exactly one succeeds, and its document stays."""
        _need_create(backend)
        async with _second(harness, backend) as other:
            for round_ in range(self.rounds):
                race = _Race(f"race/{round_ // 2}/{round_}.account")
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        group.start_soon(race.write, (backend, other)[i % 2], b"document of task %d" % i, "create")
                assert len(race.won) == 1, f"{len(race.won)} creates of one document have succeeded"
                assert await _get(harness, race.key) == race.won[0][0]
                assert race.lost <= {ExistsError}

    async def test_race_swap_has_one_winner(self, harness: Harness, backend: Backend) -> None:
        """Of tasks that swap the same version, through two backends, exactly one succeeds, and its document stays."""
        _need_update(backend)
        stat = await backend.write(_KEY, b"start", mode="overwrite")
        async with _second(harness, backend) as other:
            for round_ in range(self.rounds):
                race = _Race(_KEY)
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        data = b"round %d, task %d" % (round_, i)
                        group.start_soon(race.write, (backend, other)[i % 2], data, _version(stat))
                assert len(race.won) == 1, f"{len(race.won)} swaps of one version have succeeded"
                assert await _get(harness, _KEY) == race.won[0][0]
                assert race.lost <= {ConflictError}
                stat = race.won[0][1]

    async def test_race_no_update_is_lost(self, harness: Harness, backend: Backend) -> None:
        """Tasks that count in one document by compare-and-swap, through two backends, lose no count."""
        _need_update(backend)
        await _put(harness, _KEY, b"0")
        random = Random(1)  # noqa: S311 -- jitter

        async def count(through: Backend) -> None:
            for _ in range(self.rounds):
                for attempt in range(1000):
                    blob = await through.read(_KEY, limit=self.limit)
                    try:
                        await through.write(_KEY, b"%d" % (int(blob.data) + 1), mode=_version(blob.stat))
                        break
                    except Exception as error:  # noqa: BLE001 -- whatever a backend raises is to be named
                        assert issubclass(_named(through, error), (ConflictError, UnavailableError)), error
                        await anyio.sleep(random.random() * min(0.0005 * 2**attempt, 0.05))
                else:
                    pytest.fail("a swap did not succeed in 1000 attempts")

        async with _second(harness, backend) as other, anyio.create_task_group() as group:
            for i in range(self.tasks):
                group.start_soon(count, (backend, other)[i % 2])
        assert await _get(harness, _KEY) == b"%d" % (self.tasks * self.rounds)

    async def test_race_reader_sees_whole_documents(self, harness: Harness, backend: Backend) -> None:
        """A reader beside a writer sees only documents that were written, each with its own version."""
        _need_atomic(backend)
        large = min(100_000, self.limit)
        contents = [letter * size for letter, size in ((b"a", large), (b"b", large // 2), (b"c", 3))]
        stat = await backend.write(_KEY, contents[0], mode="overwrite")
        written = {(contents[0], _version(stat))}
        seen: set[tuple[bytes, Version]] = set()
        writing = True

        async def write() -> None:
            nonlocal writing
            for i in range(self.rounds * 3):
                data = contents[i % 3]
                written.add((data, _version(await backend.write(_KEY, data, mode="overwrite"))))
            writing = False

        async def read(through: Backend) -> None:
            while writing:
                await checkpoint()  # the backend need not have one
                blob = await through.read(_KEY, limit=self.limit)
                seen.add((blob.data, _version(blob.stat)))

        async with _second(harness, backend) as other, anyio.create_task_group() as group:
            group.start_soon(read, other)
            group.start_soon(read, other)
            group.start_soon(write)
        assert {data[:1] * len(data) for data, _ in seen} <= set(contents), "a part of a document was read"
        assert seen
        assert seen <= written, "a document was read with the version of another"

    async def test_race_writers_of_different_documents_do_not_meet(self, harness: Harness, backend: Backend) -> None:
        """Tasks that write in one new folder, through two backends, all succeed."""
        async with _second(harness, backend) as other:
            for round_ in range(max(1, self.rounds // 2)):
                async with anyio.create_task_group() as group:
                    for i in range(self.tasks):
                        write = partial((backend, other)[i % 2].write, mode="overwrite")
                        group.start_soon(write, f"new-{round_}/folder/{i}.account", b"%d" % i)
                found = [await _get(harness, f"new-{round_}/folder/{i}.account") for i in range(self.tasks)]
                assert found == [b"%d" % i for i in range(self.tasks)]

    async def test_race_readers_do_not_mix_documents_up(self, harness: Harness, backend: Backend) -> None:
        """Tasks that read different documents through one backend at the same time each get their own."""
        contents = {f"m/{i}.account": b"%d" % i * (1 + i * 500) for i in range(self.tasks)}
        for key, data in contents.items():
            await _put(harness, key, data)
        wrong: list[str] = []

        async def read(key: str) -> None:
            for _ in range(self.rounds):
                blob = await backend.read(key, limit=self.limit)
                wrong.extend([key] * (blob.data != contents[key]))

        async with anyio.create_task_group() as group:
            for key in contents:
                group.start_soon(read, key)
        assert not wrong

    # --- cancel -------------------------------------------------------------------------------------------------------

    async def test_cancel_before_a_call(self, harness: Harness, backend: Backend) -> None:
        """A call in a cancelled scope leaves the document old or new, and the next call works."""
        await _put(harness, _KEY, b"old")
        calls: list[tuple[Callable[[], Awaitable[object]], set[bytes | None]]] = [
            (partial(backend.read, _KEY, limit=self.limit), {b"old"}),
            (partial(backend.stat, _KEY), {b"old"}),
            (partial(backend.read_many, [_KEY], limit=self.limit), {b"old"}),
            (partial(_keys, backend, "", recursive=True), {b"old"}),
            (partial(backend.write, _KEY, b"new", mode="overwrite"), {b"old", b"new"}),
            (partial(backend.write_many, [Write(_KEY, b"new", "overwrite")]), {b"old", b"new"}),
            (partial(backend.delete, _KEY), {b"old", b"new", None}),
        ]
        for call, outcomes in calls:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert await _get(harness, _KEY) in outcomes
        await backend.write(_KEY, b"next", mode="overwrite")
        assert (await backend.read(_KEY, limit=self.limit)).data == b"next"

    def _moments(self) -> list[Callable[[], Awaitable[None]]]:
        """Moments to cancel a call at: after some steps of the event loop, and after some time."""
        return [*(partial(_steps, n) for n in range(self.steps)), *(partial(anyio.sleep, n) for n in self.pauses)]

    async def test_cancel_of_a_read(self, harness: Harness, backend: Backend) -> None:
        """Reads that are cancelled in their midst do not disturb those that follow at once."""
        contents = {f"{i}.account": b"%d" % i * 60_000 for i in range(4)}
        for key, data in contents.items():
            await _put(harness, key, data)
        for moment in self._moments():
            await _cancelled(partial(backend.read, "0.account", limit=self.limit), moment)
            await _cancelled(partial(backend.read_many, list(contents), limit=self.limit), moment)
            await _cancelled(partial(_keys, backend, "", recursive=True), moment)
            for key, data in contents.items():
                assert (await backend.read(key, limit=self.limit)).data == data
        assert await _keys(backend, "", recursive=True) == sorted(contents)

    async def test_cancel_of_a_write(self, harness: Harness, backend: Backend) -> None:
        """A write whose scope is cancelled, as the store awaits it, leaves the old or the new document for good."""
        await self._cancel_writes(harness, backend, _cancelled)

    async def test_cancel_of_a_task(self, harness: Harness, backend: Backend, anyio_backend_name: str) -> None:
        """A write in a task that asyncio cancels leaves, as the store waits, the old or the new document for good."""
        if anyio_backend_name != "asyncio":
            pytest.skip(f"{anyio_backend_name} has no Task.cancel()")
        import asyncio

        async def cancelled(call: Callable[[], Awaitable[object]], moment: Callable[[], Awaitable[None]]) -> None:
            task = asyncio.ensure_future(call())
            await moment()
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

        await self._cancel_writes(harness, backend, cancelled)

    async def _cancel_writes(
        self,
        harness: Harness,
        backend: Backend,
        cancelled: Callable[[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]], Awaitable[None]],
        /,
    ) -> None:
        new = b"new" * 20_000
        keys: list[str] = []
        for i, moment in enumerate(self._moments()):
            one, many, gone = f"one/{i}.account", f"many/{i}.account", f"gone/{i}.account"
            for key in (one, many, gone):
                await _put(harness, key, b"old")
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                partial(backend.write, one, new, mode="overwrite"),
                partial(backend.write_many, [Write(many, new, "overwrite")]),
                partial(backend.delete, gone),
            ]
            for call in calls:
                # As the store calls it.
                await cancelled(partial(to_the_end, call, Deadline(_FOREVER)), moment)
            for key, outcome in ((one, new), (many, new), (gone, None)):
                found = await _get(harness, key)
                assert found in {b"old", outcome}, f"{key} is neither old nor new after {moment}"
                await _put(harness, key, b"next")
            keys += one, many, gone
        await anyio.sleep(self.settling)
        late = [key for key in keys if await _get(harness, key) != b"next"]
        assert not late, "what was cancelled has happened after its call had ended"
        await backend.write(keys[0], b"last", mode="overwrite")
        assert await _get(harness, keys[0]) == b"last"

    # --- scan ---------------------------------------------------------------------------------------------------------

    async def test_scan_of_nothing_is_empty(self, backend: Backend) -> None:
        """An empty storage and a folder that is not there list as empty."""
        for prefix in ("", "none", "no/such/folder"):
            for recursive in (False, True):
                assert await _keys(backend, prefix, recursive=recursive) == []

    async def test_scan_finds_the_documents_of_a_folder(self, harness: Harness, backend: Backend) -> None:
        """A folder lists its own documents, or all below it; never those of a sibling whose name begins alike."""
        for key in _TREE:
            await _put(harness, key, key.encode())
        for prefix in ("", "a", "a/b", "a-b", "ab", "a/b/c/d"):
            start = f"{prefix}/" if prefix else ""
            below = sorted(key for key in _TREE if key.startswith(start))
            beside = [key for key in below if "/" not in key.removeprefix(start)]
            assert await _keys(backend, prefix, recursive=True) == below
            assert await _keys(backend, prefix, recursive=False) == beside

    async def test_scan_tells_what_stat_tells(self, harness: Harness, backend: Backend) -> None:
        """A listing has each document's size, and its version if it tells one."""
        for i in range(4):
            await _put(harness, f"m/{i}.account", b"x" * i)
        for stat in await _scan(backend, "m", recursive=False):
            blob = await backend.read(stat.key, limit=self.limit)
            assert stat.size == len(blob.data)
            assert stat.version in {None, blob.stat.version}
            assert stat.modified is None or stat.modified.tzinfo is not None, "a time must have its zone"

    async def test_scan_follows_writes_and_deletes(self, backend: Backend) -> None:
        """A listing shows what was just written and no longer what was just deleted."""
        for i in range(4):
            await backend.write(f"m/{i}.account", b"x", mode="overwrite")
            assert len(await _keys(backend, "m", recursive=False)) == i + 1
        await backend.delete("m/1.account")
        await backend.delete("m/3.account")
        assert await _keys(backend, "m", recursive=False) == ["m/0.account", "m/2.account"]

    async def test_scan_of_many_documents(self, harness: Harness, backend: Backend) -> None:
        """A listing of many pages has each document once."""
        keys = [f"{('m', 'm/n')[i % 5 == 0]}/{i:05}.account" for i in range(self.documents)]
        for key in keys:
            await _put(harness, key, b"x")
        found = Counter(await _keys(backend, "m", recursive=True))
        assert [key for key, times in found.items() if times > 1] == []
        assert sorted(found) == sorted(keys)

    async def test_scan_may_be_dropped_before_its_end(self, harness: Harness, backend: Backend) -> None:
        """A scan that nobody finishes, or begins, leaves no warning and disturbs no other call."""
        keys = [f"m/{i % 7}/{i:04}.account" for i in range(min(self.documents, 1500))]
        for key in keys:
            await _put(harness, key, b"x")
        with _no_warnings():
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
        assert await _keys(backend, "m", recursive=True) == sorted(keys)


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


@contextmanager
def _no_warnings() -> Generator[None]:
    """Fail if there are warnings, also from what is only now collected as garbage."""
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen] == []
