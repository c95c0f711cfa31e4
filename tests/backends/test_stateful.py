"""The state machines on backends and stores; and controls: suite and machines find wrong backends."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from itertools import count, product
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import pytest
from anyio import sleep
from anyio.lowlevel import checkpoint
from doubles import BatchMemory, memory_harness
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace

from accountstore import AccountStore, StorageConfig, StoreConfig, Version
from accountstore.backends.base import Blob, Stat
from accountstore.backends.fsspec import FsspecBackend
from accountstore.backends.local.backend import open_backend as open_local
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import ConflictError, ExistsError, NotFoundError, TooLargeError
from accountstore.testing import BackendTests, backend_machine, store_machine, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from fileservers import Remote

    from accountstore.backends.base import Backend, Capabilities, WriteMode

K = TypeVar("K", bound=type[BatchMemory])
pytest_plugins = ["fileservers"]

# How many examples a machine runs.
_EXAMPLES = os.environ.get("ACCOUNTSTORE_EXAMPLES")
_SETTINGS = settings(max_examples=int(_EXAMPLES or 12), stateful_step_count=30)
_OVER_THE_WIRE = settings(max_examples=int(_EXAMPLES or 3), stateful_step_count=20)
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


async def _open_memory(folder: Path) -> Backend:
    return MemoryBackend()


async def _open_undeclared(folder: Path) -> Backend:
    """A backend that declares nothing, on a filesystem without a server."""
    fs: Any = (await MemoryBackend().filesystem())[0]
    return FsspecBackend(lambda: fs, "/root", parallel=False)


async def _open_local(folder: Path) -> Backend:
    return await open_local(str(folder), {})


async def _open_store(folder: Path) -> AccountStore:
    storages = {"First Storage": StorageConfig("memory://"), "Second": StorageConfig(str(folder), codec="msgpack")}
    return await AccountStore.open(StoreConfig(default="First Storage", storages=storages))


async def _open_undeclared_store(folder: Path) -> AccountStore:
    return store_over({"undeclared": await _open_undeclared(folder), "memory": MemoryBackend()})


def _run(machine: Any, opened: Callable[[], Awaitable[Any]], loop: Any, sizes: settings = _SETTINGS) -> None:
    run_state_machine_as_test(machine(opened, loop=loop[0], loop_options=loop[1]), settings=sizes)


@pytest.mark.parametrize(
    ("machine", "opened"),
    [
        pytest.param(backend_machine, _open_memory, id="memory"),
        pytest.param(backend_machine, _open_undeclared, marks=pytest.mark.once, id="fsspec"),
        pytest.param(backend_machine, _open_local, id="local"),
        pytest.param(store_machine, _open_store, id="store on memory and a folder, in two codecs"),
        pytest.param(
            store_machine,
            _open_undeclared_store,
            marks=pytest.mark.once,
            id="store on a backend that declares nothing",
        ),
    ],
)
def test_it_does_what_the_model_does(
    anyio_backend: Any, machine: Any, opened: Callable[[Path], Awaitable[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is done to a storage, it answers as a dict would, or refuses what it does not declare."""
    _run(machine, lambda: opened(tmp_path_factory.mktemp("storage")), anyio_backend)


@pytest.mark.once
def test_server_does_what_the_model_does(anyio_backend: Any, remote: Remote) -> None:
    """Whatever is done to the folder on a server, it answers as a dict would."""
    numbers = count()

    async def opened() -> FsspecBackend:
        path = remote.folder / str(next(numbers))
        path.mkdir()
        return await remote.open(f"/{path.name}")

    _run(backend_machine, opened, anyio_backend, _OVER_THE_WIRE)


# --- controls: wrong backends -----------------------------------------------------------------------------------------

_FAILS: dict[type[BatchMemory], set[str]] = {BatchMemory: set()}
"""The tests of the suite that a backend fails."""


def _fails(*tests: str) -> Callable[[K], K]:
    def note(kind: K) -> K:
        _FAILS[kind] = set(tests)
        return kind

    return note


@_fails("race_create_has_one_winner", "sequential_create_leaves_a_document_alone", "batch_create_many")
class _CreateOverwrites(BatchMemory):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite" if mode == "create" else mode)


@_fails("race_create_has_one_winner")
class _CreateLooksFirst(BatchMemory):
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


@_fails("race_no_update_is_lost", "race_swap_has_one_winner")
class _SwapLooksFirst(BatchMemory):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if isinstance(mode, Version):
            if (await self.stat(key)).version != mode:
                raise ConflictError("the document has changed since it was read")
            mode = "overwrite"
        return await super().write(key, data, mode=mode)


@_fails(
    *("race_no_update_is_lost", "race_swap_has_one_winner", "batch_swap_many"),
    *("sequential_swap_of_a_deleted_document_is_refused", "sequential_swap_of_a_stale_version_is_refused"),
    "sequential_swap_of_an_unknown_version_is_refused",
)
class _SwapIgnoresVersions(BatchMemory):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite" if isinstance(mode, Version) else mode)


@_fails("sequential_conditional_delete", "sequential_delete_of_a_missing_document_is_no_error")
class _DeleteRaises(BatchMemory):
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self.stat(key)
        await super().delete(key, version=version)


@_fails("sequential_conditional_delete", "sequential_swap_of_an_unknown_version_is_refused")
class _DeleteIgnoresVersions(BatchMemory):
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key)


@_fails("race_no_update_is_lost", "race_reader_sees_whole_documents")
class _WritesInTwoSteps(BatchMemory):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        stat = await super().write(key, data[: len(data) // 2], mode=mode)
        await sleep(0.002)  # longer than those who lost wait before they try again
        assert stat.version is not None
        return await super().write(key, data, mode=stat.version)


@_fails("cancel_of_a_task", "cancel_of_a_write")
class _AcknowledgesEarly(BatchMemory):
    """What it has acknowledged happens when the suite has looked at the document and written it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[tuple[str, bytes, int]] = []

    async def filesystem(self) -> tuple[object, str]:
        self.late = [(key, data, looks - 1) for key, data, looks in self.late]
        for key, data, looks in self.late:
            if not looks:
                self._fs.pipe_file(f"/{key}", data)
        return await super().filesystem()

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if len(data) != len(b"new") * 20_000:
            return await super().write(key, data, mode=mode)
        await checkpoint()
        self.late.append((key, data, 3))
        return Stat(key, len(data), Version("early"), None)


@_fails(
    *("race_no_update_is_lost", "race_swap_has_one_winner", "sequential_conditional_delete"),
    *("sequential_swap_of_a_stale_version_is_refused", "sequential_version_changes_with_the_content"),
)
class _VersionIsSize(BatchMemory):
    def _find(self, key: str, /) -> Blob:
        blob = super()._find(key)
        return Blob(blob.data, replace(blob.stat, version=Version(f"{blob.stat.size}")))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return replace(await super().write(key, data, mode=mode), version=Version(f"{len(data)}"))


@_fails("sequential_stat_agrees_with_read")
class _StatHasNoVersion(BatchMemory):
    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), version=None)


@_fails("unicode_names_are_kept", "unicode_names_that_look_alike_are_different")
class _UnquotesNames(BatchMemory):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await super().read(unquote(key), limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(unquote(key), data, mode=mode)


@_fails("scan_finds_the_documents_of_a_folder", "scan_has_the_folders_of_a_folder")
class _ScansByPrefix(BatchMemory):
    async def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        async for page in super().scan("", recursive=True):
            found = [stat for stat in page if stat.key.startswith(prefix)]
            yield found if recursive else [stat for stat in found if "/" not in stat.key[len(prefix) + 1 :]]


@_fails(
    *("cancel_of_a_read", "scan_finds_the_documents_of_a_folder", "scan_follows_writes_and_deletes"),
    *("scan_has_the_folders_of_a_folder", "scan_may_be_dropped_before_its_end", "scan_of_many_documents"),
    "sequential_close_leaves_nothing_open",
    *("unicode_longest_paths", "unicode_names_are_kept", "unicode_names_that_look_alike_are_different"),
)
class _ScansTwice(BatchMemory):
    async def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        async for page in super().scan(prefix, recursive=recursive):
            yield page
            yield page[-1:]


@_fails("sequential_limit", "batch_read_many")
class _ReadsAnySize(BatchMemory):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await super().read(key, limit=1 << 40)


@_fails("batch_read_many")
class _ReadManyForgetsMissing(BatchMemory):
    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        results = await super().read_many(keys, limit=limit)
        return [result for result in results if not isinstance(result, NotFoundError)]


@_fails("batch_read_many", "sequential_delete_removes_one_document", "sequential_missing_document_is_not_found")
class _RaisesForeignErrors(BatchMemory):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        try:
            return await super().read(key, limit=limit)
        except NotFoundError:
            raise KeyError("there is no such document") from None


@_fails("sequential_errors_do_not_quote_documents")
class _QuotesDocuments(BatchMemory):
    async def read(self, key: str, /, *, limit: int) -> Blob:
        try:
            return await super().read(key, limit=limit)
        except TooLargeError as error:
            error.message = f"{error.message}: {self._fs.cat_file(f'/{key}')[:20]!r}"
            raise


@_fails()
class _KeepsTokens(BatchMemory):
    """Not wrong."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, write_tokens=True)


@_fails("sequential_write_tokens_are_kept")
class _LosesTokens(_KeepsTokens):
    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), write_token=None)


@_fails("sequential_write_tokens_are_kept")
class _KeepsOldTokens(_KeepsTokens):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if not write_token and mode != "create":
            with suppress(NotFoundError):
                write_token = (await self.stat(key)).write_token or ""
        return await super().write(key, data, mode=mode, write_token=write_token)


@_fails("sequential_usage_is_possible")
class _HasNoVersioned(BatchMemory):
    versioned: Any = None


class _Suite(BackendTests):
    """Less of it, as it runs often here."""

    rounds = 5
    documents = 300
    settling = 0
    pauses = (0.001,)


async def _failing(kind: type[BatchMemory], loop: str = "asyncio") -> set[str]:
    """The names of the suite's tests that fail on a backend."""
    failing: set[str] = set()
    suite = _Suite()
    for name, test in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        harness = memory_harness(kind)
        values = {"harness": harness, "backend": await harness.open(), "anyio_backend_name": loop}
        try:
            await test(**{parameter: values[parameter] for parameter in inspect.signature(test).parameters})
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception, BaseExceptionGroup):
            failing.add(name.removeprefix("test_"))
    return failing


@pytest.mark.once
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("kind", "failing"), _FAILS.items(), ids=[kind.__name__ for kind in _FAILS])
async def test_suite_finds_wrong_backends(kind: type[BatchMemory], failing: set[str]) -> None:
    """On a wrong backend the suite fails just where that is wrong; on the right one nowhere."""
    assert await _failing(kind) == failing


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_suite_finds_a_scan_that_cannot_be_dropped() -> None:
    """On trio the suite warns of a scan by an asynchronous generator, whose clean-up has no event loop left."""
    assert await _failing(_ScansByPrefix, "trio") >= {"scan_may_be_dropped_before_its_end"}


@pytest.mark.anyio
async def test_suite_asks_for_a_harness() -> None:
    """A class without the fixture fails, and says why."""
    with pytest.raises(pytest.fail.Exception, match="fixture `harness`"):
        inspect.unwrap(BackendTests.harness)(BackendTests())


# --- controls: the machines -------------------------------------------------------------------------------------------

_FOUND_BY_BOTH = (*(_CreateOverwrites, _SwapIgnoresVersions, _DeleteRaises, _DeleteIgnoresVersions, _ScansTwice),)
# A store shows nothing of what a scan gives beyond its folder.
_FOUND_BY_ONE = (_ScansByPrefix, _VersionIsSize, _StatHasNoVersion, _ReadsAnySize)


@pytest.mark.once
@pytest.mark.parametrize(
    ("machine", "kind"),
    [*product([backend_machine, store_machine], _FOUND_BY_BOTH), *product([backend_machine], _FOUND_BY_ONE)],
)
def test_machines_find_wrong_backends(machine: Any, kind: type[BatchMemory]) -> None:
    """The machine for backends fails on a wrong one; that for stores where a backend below is wrong."""

    async def opened() -> Any:
        return kind() if machine is backend_machine else store_over({"a": MemoryBackend(), "b": kind()})

    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(opened), settings=_CONTROL)
