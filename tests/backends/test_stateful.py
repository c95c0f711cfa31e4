"""The state machines on the embedded storages; and controls, which show that suite and machines find wrong backends.

`ACCOUNTSTORE_EXAMPLES` sets how many examples a machine runs.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from anyio import sleep
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from accountstore import AccountStore, StorageConfig, StoreConfig, Version
from accountstore.backends.base import Blob, Stat
from accountstore.backends.fsspec import FsspecBackend
from accountstore.backends.local.backend import open_backend as open_local
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import ConflictError, ExistsError, NotFoundError
from accountstore.testing import BackendTests, Harness, backend_machine, store_machine, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from accountstore.backends.base import Backend, WriteMode

_EXAMPLES = int(os.environ.get("ACCOUNTSTORE_EXAMPLES", "12"))
_SETTINGS = settings(max_examples=_EXAMPLES, stateful_step_count=30)
# A failure is expected here: it need not be made small, nor kept.
# It ends with the first failure, and which example that is depends on the modules that are loaded: so many are allowed.
_CONTROL = settings(
    max_examples=5000,
    phases=[Phase.generate],
    derandomize=True,
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


async def _open_memory() -> Backend:
    return MemoryBackend()


async def _open_undeclared() -> Backend:
    """A backend that declares nothing, on a filesystem without a server."""
    fs: Any = MemoryBackend().filesystem()[0]
    return FsspecBackend(lambda: fs, "/root", parallel=False)


def _folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    return lambda: str(tmp_path_factory.mktemp("storage"))


# --- the machines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_backend", [_open_memory, _open_undeclared], ids=["memory", "fsspec"])
def test_backend_does_what_the_model_does(anyio_backend: Any, open_backend: Any) -> None:
    """Whatever is done to the storage, it answers as a dict would."""
    loop, options = anyio_backend
    run_state_machine_as_test(backend_machine(open_backend, loop=loop, loop_options=options), settings=_SETTINGS)


def test_local_backend_does_what_the_model_does(anyio_backend: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is done to the folder, it answers as a dict would."""
    loop, options = anyio_backend
    folder = _folders(tmp_path_factory)
    machine = backend_machine(lambda: open_local(folder(), {}), loop=loop, loop_options=options)
    run_state_machine_as_test(machine, settings=_SETTINGS)


def test_store_does_what_the_model_does(anyio_backend: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is done to a store on memory and a folder, in two codecs, it answers as a dict would."""
    loop, options = anyio_backend
    folder = _folders(tmp_path_factory)

    async def opened() -> AccountStore:
        storages = {
            "First Storage": StorageConfig("memory://"),
            "Second": StorageConfig(folder(), codec="msgpack"),
        }
        return await AccountStore.open(StoreConfig(default="First Storage", storages=storages))

    run_state_machine_as_test(store_machine(opened, loop=loop, loop_options=options), settings=_SETTINGS)


def test_store_refuses_what_a_storage_does_not_declare(anyio_backend: Any) -> None:
    """A store on a backend that declares nothing refuses creates and swaps, and does all else."""
    loop, options = anyio_backend

    async def opened() -> AccountStore:
        return store_over({"undeclared": await _open_undeclared(), "memory": MemoryBackend()})

    run_state_machine_as_test(store_machine(opened, loop=loop, loop_options=options), settings=_SETTINGS)


# --- controls: wrong backends -----------------------------------------------------------------------------------------


class _CreateOverwrites(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite" if mode == "create" else mode)


class _CreateLooksFirst(MemoryBackend):
    """As fsspec's own `mode="create"` does."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if mode == "create":
            try:
                await self.stat(key)
            except NotFoundError:
                mode = "overwrite"
            else:
                raise ExistsError("there is a document already")
        return await super().write(key, data, mode=mode)


class _SwapLooksFirst(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if isinstance(mode, Version):
            if (await self.stat(key)).version != mode:
                raise ConflictError("the document has changed since it was read")
            mode = "overwrite"
        return await super().write(key, data, mode=mode)


class _SwapIgnoresVersions(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite" if isinstance(mode, Version) else mode)


class _DeleteRaises(MemoryBackend):
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self.stat(key)
        await super().delete(key, version=version)


class _DeleteIgnoresVersions(MemoryBackend):
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key)


class _WritesInTwoSteps(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        stat = await super().write(key, data[: len(data) // 2], mode=mode)
        await sleep(0.002)  # longer than those who lost wait before they try again
        assert stat.version is not None
        return await super().write(key, data, mode=stat.version)


class _AcknowledgesEarly(MemoryBackend):
    """What it has acknowledged happens when the suite's next write of the document has happened."""

    def __init__(self) -> None:
        super().__init__()
        self.late: dict[str, bytes] = {}

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if len(data) != len(b"new") * 20_000:
            return await super().write(key, data, mode=mode)
        await checkpoint()
        self.late[key] = data
        return Stat(key, len(data), Version("early"), None)


class _VersionIsSize(MemoryBackend):
    def _find(self, key: str, /) -> Blob:
        blob = super()._find(key)
        return Blob(blob.data, Stat(key, blob.stat.size, Version(f"{blob.stat.size}"), blob.stat.modified))


class _StatTellsNoVersion(MemoryBackend):
    async def stat(self, key: str, /) -> Stat:
        stat = await super().stat(key)
        return Stat(key, stat.size, None, stat.modified)


class _UnquotesNames(MemoryBackend):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await super().read(unquote(key), limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(unquote(key), data, mode=mode)


class _ScansByPrefix(MemoryBackend):
    async def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        async for page in super().scan("", recursive=True):
            yield [
                stat
                for stat in page
                if stat.key.startswith(prefix) and (recursive or "/" not in stat.key[len(prefix) + 1 :])
            ]


class _ScansTwice(MemoryBackend):
    async def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        async for page in super().scan(prefix, recursive=recursive):
            yield page
            yield page[-1:]


class _ReadsAnySize(MemoryBackend):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await super().read(key, limit=1 << 40)


class _ReadManyForgetsMissing(MemoryBackend):
    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        results = await super().read_many(keys, limit=limit)
        return [result for result in results if not isinstance(result, NotFoundError)]


class _NamesNothing(MemoryBackend):
    def classify(self, error: Exception, /) -> Any:
        return type(error)


class _QuotesDocuments(MemoryBackend):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        try:
            return await super().read(key, limit=limit)
        except ValueError as error:
            error.args = (f"{error.args[0]}: {self._fs.cat_file(f'/{key}')[:20]!r}",)
            raise


class _Suite(BackendTests):
    """Less of it, as it runs often here."""

    rounds = 5
    documents = 300
    settling = 0
    pauses = (0.001,)


async def _failing(kind: type[MemoryBackend], loop: str = "asyncio") -> set[str]:
    """The names of the suite's tests that fail on a backend."""
    failing: set[str] = set()
    suite = _Suite()
    for name, test in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        opened: list[MemoryBackend] = []
        harness = _harness(kind, opened)
        backend = await harness.open()
        values = {"harness": harness, "backend": backend, "anyio_backend_name": loop}
        try:
            await test(**{parameter: values[parameter] for parameter in inspect.signature(test).parameters})
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception, BaseExceptionGroup):
            failing.add(name.removeprefix("test_"))
        for other in opened:
            await other.aclose()
    return failing


def _harness(kind: type[MemoryBackend], opened: list[MemoryBackend]) -> Harness:
    async def open_backend() -> Backend:
        opened.append(kind())
        return opened[-1]

    def put(key: str, data: bytes) -> None:
        fs: Any = opened[-1].filesystem()[0]
        fs.pipe_file(f"/{key}", data)
        late = opened[-1].late.pop(key, None) if isinstance(opened[-1], _AcknowledgesEarly) else None
        if late is not None:
            fs.pipe_file(f"/{key}", late)

    def get(key: str) -> bytes | None:
        fs: Any = opened[-1].filesystem()[0]
        return bytes(fs.cat_file(f"/{key}")) if fs.exists(f"/{key}") else None

    return Harness(open=open_backend, put=put, get=get, shared=False)


_WRONG: dict[type[MemoryBackend], set[str]] = {
    MemoryBackend: set(),
    _CreateOverwrites: {
        "race_create_has_one_winner",
        "sequential_create_leaves_a_document_alone",
        "sequential_create_many",
    },
    _CreateLooksFirst: {"race_create_has_one_winner"},
    _SwapLooksFirst: {"race_no_update_is_lost", "race_swap_has_one_winner"},
    _SwapIgnoresVersions: {
        "race_no_update_is_lost",
        "race_swap_has_one_winner",
        "sequential_swap_many",
        "sequential_swap_of_a_deleted_document_is_refused",
        "sequential_swap_of_a_stale_version_is_refused",
        "sequential_swap_of_an_unknown_version_is_refused",
    },
    _DeleteRaises: {
        "sequential_conditional_delete",
        "sequential_delete_of_a_missing_document_is_no_error",
    },
    _DeleteIgnoresVersions: {
        "sequential_conditional_delete",
        "sequential_swap_of_an_unknown_version_is_refused",
    },
    _WritesInTwoSteps: {
        "race_no_update_is_lost",
        "race_reader_sees_whole_documents",
    },
    _AcknowledgesEarly: {"cancel_of_a_task", "cancel_of_a_write"},
    _VersionIsSize: {
        "race_no_update_is_lost",
        "race_swap_has_one_winner",
        "sequential_conditional_delete",
        "sequential_swap_of_a_stale_version_is_refused",
        "sequential_version_changes_with_the_content",
    },
    _StatTellsNoVersion: {"sequential_stat_tells_what_read_tells"},
    _UnquotesNames: {"unicode_names_are_kept", "unicode_names_that_look_alike_are_different"},
    _ScansByPrefix: {"scan_finds_the_documents_of_a_folder"},
    _ScansTwice: {
        "cancel_of_a_read",
        "scan_finds_the_documents_of_a_folder",
        "scan_follows_writes_and_deletes",
        "scan_may_be_dropped_before_its_end",
        "scan_of_many_documents",
        "sequential_close_leaves_nothing_open",
        "unicode_longest_paths",
        "unicode_names_are_kept",
        "unicode_names_that_look_alike_are_different",
    },
    _ReadsAnySize: {"sequential_limit", "sequential_read_many"},
    _ReadManyForgetsMissing: {"sequential_read_many"},
    _NamesNothing: {"sequential_any_error_is_named"},
    _QuotesDocuments: {"sequential_errors_do_not_quote_documents"},
}


@pytest.mark.once
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("kind", "failing"), _WRONG.items(), ids=[kind.__name__ for kind in _WRONG])
async def test_suite_finds_wrong_backends(kind: type[MemoryBackend], failing: set[str]) -> None:
    """On a wrong backend the suite fails just where that is wrong; on the right one nowhere."""
    assert await _failing(kind) == failing


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_suite_finds_a_scan_that_cannot_be_dropped() -> None:
    """On trio the suite warns of a scan by an asynchronous generator, whose clean-up has no event loop left."""
    assert await _failing(_ScansByPrefix, "trio") >= {"scan_may_be_dropped_before_its_end"}


@pytest.mark.anyio
async def test_suite_asks_for_a_harness() -> None:
    """A class that forgets its fixture is told so."""
    with pytest.raises(pytest.fail.Exception, match="fixture `harness`"):
        inspect.unwrap(BackendTests.harness)(BackendTests())


# --- controls: the machines -------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    "kind",
    [
        _CreateOverwrites,
        _SwapIgnoresVersions,
        _DeleteRaises,
        _DeleteIgnoresVersions,
        _VersionIsSize,
        _StatTellsNoVersion,
        _ScansByPrefix,
        _ScansTwice,
        _ReadsAnySize,
    ],
)
def test_backend_machine_finds_wrong_backends(kind: type[MemoryBackend]) -> None:
    """The machine for backends fails on a wrong one."""

    async def opened() -> Backend:
        return kind()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(backend_machine(opened), settings=_CONTROL)


@pytest.mark.once
@pytest.mark.parametrize(
    "kind",
    [_CreateOverwrites, _SwapIgnoresVersions, _DeleteRaises, _DeleteIgnoresVersions, _ScansByPrefix, _ScansTwice],
)
def test_store_machine_finds_wrong_backends(kind: type[MemoryBackend]) -> None:
    """The machine for stores fails where a backend below is wrong."""

    async def opened() -> AccountStore:
        return store_over({"a": MemoryBackend(), "b": kind()})

    with pytest.raises(AssertionError):
        run_state_machine_as_test(store_machine(opened), settings=_CONTROL)
