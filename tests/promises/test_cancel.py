"""Cancellation: at every step of every operation, by a scope and by the task, the document is old or new, and whole."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import anyio
import pytest
from anyio import get_running_tasks
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import checkpoint
from cancelling import LOOPS, by_scope, by_task, by_timeout, cancelled_after, each_way, on_asyncio
from doubles import drained
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT as OLD
from samples import next_port

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ClosedError,
    Location,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    UncertainError,
)
from accountstore.backends.local.backend import LocalBackend
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.store import parts_of
from accountstore.testing import FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from cancelling import Way

    from accountstore import Version
    from accountstore.backends.base import Backend, Stat, WriteMode
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

T = TypeVar("T")
P = ParamSpec("P")
NEW = replace(OLD, host="new.example.org")
AT, OTHER, ABSENT = (Location(f"{name}.account", folder=folder) for name, folder in ("af", "bf", "cg"))
STEPS = 400
"""More than any operation has: a bound for what would otherwise not end."""


State: TypeAlias = "Mapping[Location, set[Account | None]]"


async def slow_change(_: Account, /) -> Account:
    await checkpoint()
    return NEW


OPERATIONS: Mapping[str, tuple[Callable[[AccountStore], Awaitable[object]], list[State]]] = {
    "get": (lambda store: store.get(AT), [{}]),
    "read": (lambda store: store.read(AT), [{}]),
    "stat": (lambda store: store.stat(AT), [{}]),
    "exists": (lambda store: store.exists(AT), [{}]),
    "versions": (lambda store: store.versions(AT), [{}]),
    "list": (lambda store: drained(store.list(recursive=True)), [{}]),
    "get_many": (lambda store: drained(store.get_many([AT, OTHER, ABSENT])), [{}]),
    "save": (lambda store: store.save(AT, NEW), [{AT: {OLD, NEW}}]),
    "save in a new folder": (lambda store: store.save(ABSENT, NEW), [{ABSENT: {None, NEW}}]),
    "create": (lambda store: store.save(ABSENT, NEW, mode="create"), [{ABSENT: {None, NEW}}]),
    "update": (lambda store: store.update(AT, slow_change), [{AT: {OLD, NEW}}]),
    "delete": (lambda store: store.delete(AT), [{AT: {OLD, None}}]),
    "copy": (lambda store: store.copy(AT, ABSENT), [{ABSENT: {None, OLD}}]),
    "move": (lambda store: store.move(AT, ABSENT), [{ABSENT: {None, OLD}}, {AT: {None}, ABSENT: {OLD}}]),
    "save_many": (
        lambda store: drained(store.save_many([(AT, NEW), (OTHER, NEW), (ABSENT, NEW)])),
        [{AT: {OLD, NEW}, OTHER: {OLD, NEW}, ABSENT: {None, NEW}}],
    ),
    "check": (lambda store: store.check(), [{}]),
}
"""Calls, and what may be found after one was cut off: one of these states. Documents not named are as before."""


def over(backend: Backend, /) -> AccountStore:
    return store_over({"main": backend})


async def filled(backend: Backend, /) -> AccountStore:
    """A store with two documents."""
    store = over(backend)
    await store.save(AT, OLD)
    await store.save(OTHER, OLD)
    return store


async def assert_whole(store: AccountStore, operation: str, /) -> None:
    """The documents are in an allowed state, nothing else is there, and the store goes on."""
    state = {at: await store.get(at) if await store.exists(at) else None for at in (AT, OTHER, ABSENT)}
    before: State = {AT: {OLD}, OTHER: {OLD}, ABSENT: {None}}
    allowed: list[State] = [{**before, **choice} for choice in OPERATIONS[operation][1]]
    assert any(all(state[at] in choice[at] for at in state) for choice in allowed), state
    listed = {entry.location async for entry in store.list(recursive=True)}
    assert listed == {location for location, account in state.items() if account is not None}
    await store.save(AT, replace(OLD, port=1))
    await store.update(AT, lambda account: replace(account, port=2))
    assert await store.get(AT) == replace(OLD, port=2)


class Stepping(FaultyBackend):
    """A memory backend with a step before and after each call; at step number `at` it cancels."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend())
        self.under_way = 0
        self.begin(0)

    def begin(self, at: int, cancel: Callable[[], object] = lambda: None) -> None:
        self.steps, self.at, self.cancel = 0, at, cancel

    async def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.cancel()
        await checkpoint()

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.under_way += 1
        try:
            await self.step()
            result = await super()._call(operation, call, *args, **kwargs)
            await self.step()
            return result
        finally:
            self.under_way -= 1

    async def versioned(self) -> bool | None:
        return await self._call("stat", super().versioned)


# --- memory, at each step ---------------------------------------------------------------------------------------------


@each_way(by_scope, by_task)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_each_step(name: str, by: Way) -> None:
    """Cancelled at any of its steps, an operation leaves old or new documents, and no call under way."""
    before = {task.id for task in get_running_tasks()}
    for at in range(1, STEPS):
        backend = Stepping()
        store = await filled(backend)
        cancelled = await by(partial(OPERATIONS[name][0], store), partial(backend.begin, at))
        assert backend.under_way == 0
        assert {task.id for task in get_running_tasks()} == before
        cut, backend.at = backend.steps >= at, 0
        await assert_whole(store, name)
        if not cut:
            assert not cancelled
            break
        assert cancelled or at > 1
    else:
        raise AssertionError("the operation does not end")
    assert at > 2


class Tearing(Stepping):
    """Writes in two steps."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        await self._backend.write(key, data[:-5], mode=mode)
        await self.step()
        return await self._backend.write(key, data, mode="overwrite")


async def _cut_in_a_write() -> AccountStore:
    backend = Tearing()
    store = await filled(backend)
    assert await by_scope(lambda: store.save(AT, NEW), partial(backend.begin, 1))
    return store


async def test_a_write_is_awaited_to_its_end() -> None:
    """The store lets even a backend that writes in two steps end, and only then takes its caller's cancellation."""
    assert await (await _cut_in_a_write()).get(AT) == NEW


async def test_control_without_the_wait_a_write_is_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: cancelled at the same step without the wait, the same write is found torn."""

    async def at_once(call: Callable[..., Awaitable[object]], *arguments: object) -> object:
        return await call(*arguments)

    monkeypatch.setattr("accountstore.client.run_shielded", at_once)
    store = await _cut_in_a_write()
    with pytest.raises(AccountStoreError):
        await assert_whole(store, "save")


async def test_a_cancelled_change_writes_nothing() -> None:
    """An `update` that is cancelled while the function runs writes nothing."""
    store = await filled(MemoryBackend())
    with anyio.CancelScope() as scope:

        async def change(account: Account) -> Account:
            scope.cancel()
            await checkpoint()
            return NEW

        await store.update(AT, change)
    assert scope.cancelled_caught
    assert await store.get(AT) == OLD


async def test_a_deadline_that_has_passed_stops_an_update_between_attempts() -> None:
    """An `update` that keeps losing is cancelled in its pause, and not only after its last attempt."""
    store = await filled(MemoryBackend())
    attempts: list[int] = []
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            group.cancel_scope.cancel()

        async def change(account: Account) -> Account:
            attempts.append(account.port)
            await store.save(AT, next_port(account))
            if len(attempts) == 3:
                group.start_soon(cancel)
            return NEW

        await store.update(AT, change)
    assert group.cancel_scope.cancelled_caught
    assert 3 <= len(attempts) < 64


# --- local, at each system call ---------------------------------------------------------------------------------------


class Cutting:
    """The system calls, without waiting for the disk; before number `at` the event loop is told to cancel."""

    def __init__(self, portal: BlockingPortal) -> None:
        self.portal = portal
        self.lock = threading.Lock()
        self.begin(0)

    def begin(self, at: int, cancel: Callable[[], object] = lambda: None) -> None:
        self.calls, self.at, self.cancel = 0, at, cancel

    def end(self) -> bool:
        """Cancel no more. Whether it got that far."""
        with self.lock:
            cut, self.at = self.calls >= self.at, 0
        return cut

    def __getattr__(self, name: str, /) -> Any:
        member = getattr(SystemCalls, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with self.lock:
                self.calls += 1
                now = self.calls == self.at
            if now:
                self.portal.start_task_soon(self.cancel).result(HUNG)
            return None if name == "fsync" else member(*arguments, **options)

        return call


def _watched(call: Any, /) -> Any:
    def watched(files: Watched, *arguments: Any, **options: Any) -> Any:
        files.under_way += 1
        try:
            return call(files, *arguments, **options)
        finally:
            files.under_way -= 1

    return watched


class Watched(Files):
    """Counts the writing calls that are under way in threads."""

    under_way = 0
    write = _watched(Files.write)
    write_many = _watched(Files.write_many)
    delete = _watched(Files.delete)


def temporary_files(root: Path, /) -> list[Path]:
    return list(root.rglob(".accountstore-*"))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "check"])
@pytest.mark.parametrize(("anyio_backend", "first"), list(zip(LOOPS.values(), (1, 2, 3), strict=True)), ids=LOOPS)
async def test_cancelled_at_each_system_call(name: str, first: int, tmp_path: Path) -> None:
    """Cancelled while any system call is made in a thread, a write is awaited to its end; the document is whole."""
    # Each of the three event loops takes every third call, beginning with another one.
    for at in range(first, STEPS, 3):
        async with BlockingPortal() as portal:
            calls = Cutting(portal)
            files = Watched(str(tmp_path / str(at)), calls=cast("SystemCalls", calls))
            files.make_root()
            store = await filled(LocalBackend(files))
            await by_scope(partial(OPERATIONS[name][0], store), partial(calls.begin, at))
            assert files.under_way == 0
            cut = calls.end()
            await assert_whole(store, name)
            assert temporary_files(tmp_path) == []
            await store.aclose()
            if not cut:
                break
    else:
        raise AssertionError("the operation does not end")


async def test_a_listing_that_was_cancelled_goes_on_where_it_was(tmp_path: Path) -> None:
    """A wait for a page that is cancelled, at any system call, skips no document when the listing goes on."""
    async with BlockingPortal() as portal:
        calls = Cutting(portal)
        store = await filled(LocalBackend(Files(str(tmp_path), calls=cast("SystemCalls", calls))))
        for at in range(1, STEPS):
            listing = store.list(recursive=True)
            seen: list[Location] = []
            with anyio.CancelScope() as scope:
                calls.begin(at, scope.cancel)
                async for entry in listing:
                    seen.append(entry.location)  # noqa: PERF401 -- what was seen is kept
            cut = calls.end()
            seen += [entry.location async for entry in listing]
            assert sorted(seen, key=str) == [AT, OTHER]
            if not cut:
                break
        await store.aclose()


class Slow(SystemCalls):
    """System calls of which one waits until it is let go, and may fail then."""

    def __init__(self, name: str, error: OSError | None = None, /) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        call = getattr(SystemCalls, name)

        def wait(*arguments: Any, **options: Any) -> Any:
            self.entered.set()
            assert self.release.wait(HUNG)
            if error is not None:
                raise error
            return call(*arguments, **options)

        setattr(self, name, wait)


async def until(event: threading.Event, /) -> None:
    with anyio.fail_after(HUNG):
        while not event.is_set():
            await anyio.sleep(0.001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an old document."""
    Files(str(tmp_path)).write(AT.path, JSON.encode(OLD), "overwrite")
    return tmp_path


def content(root: Path, /) -> Account | None:
    path = root / AT.path
    return JSON.decode(path.read_bytes(), Account) if path.exists() else None


async def cancel_in_a_write(slow: Slow, files: Watched, times: int, cancel: Callable[[], object], /) -> None:
    """Cancel a call, once or often, while the disk is slow; the write that is under way then goes on."""
    await until(slow.entered)
    for _ in range(times):
        cancel()
        for _ in range(20):
            await anyio.sleep(0)
        assert files.under_way == 1
    slow.release.set()


@each_way(by_scope, by_task, by_timeout)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", ["save", "save_many", "update", "delete"])
async def test_what_is_cancelled_during_a_write_ends_after_it(root: Path, name: str, times: int, by: Way) -> None:
    """Cancelled while the disk is slow, a call ends when the write has ended, not before."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    async with over(LocalBackend(files)) as store, anyio.create_task_group() as tasks:
        assert await by(
            partial(OPERATIONS[name][0], store),
            lambda cancel: tasks.start_soon(cancel_in_a_write, slow, files, times, cancel),
        )
        assert files.under_way == 0
    assert content(root) == (None if name == "delete" else NEW)


@on_asyncio
async def test_control_a_thread_alone_lets_a_write_land_after_its_caller_went_on(root: Path) -> None:
    """The control: the same write in anyio's `to_thread.run_sync` is still under way when its task has ended."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    task = asyncio.ensure_future(anyio.to_thread.run_sync(files.write, AT.path, JSON.encode(NEW), "overwrite"))
    await until(slow.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files.under_way == 1
    assert content(root) == OLD
    slow.release.set()
    with anyio.fail_after(HUNG):
        while files.under_way:
            await asyncio.sleep(0.001)
    assert content(root) == NEW


@each_way(by_scope, by_task)
async def test_an_error_in_a_cancelled_write_is_no_noise(root: Path, by: Way) -> None:
    """A write that fails after its call was cancelled ends cancelled; the old document stays, and nothing warns."""
    slow = Slow("fsync", OSError(5, "text"))
    files = Watched(str(root), calls=slow)
    async with over(LocalBackend(files)) as store:
        async with anyio.create_task_group() as tasks:
            # On trio the error of a write that was awaited goes before the cancellation.
            with suppress(AccountStoreError):
                await by(
                    partial(store.save, AT, NEW),
                    lambda cancel: tasks.start_soon(cancel_in_a_write, slow, files, 1, cancel),
                )
        gc.collect()
        await anyio.sleep(0)
        assert content(root) == OLD
        assert temporary_files(root) == []


async def test_a_call_that_waits_for_its_turn_is_withdrawn(root: Path) -> None:
    """With all threads busy, a backend's call that is cancelled ends at once and is never made."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    backend = LocalBackend(files)
    busy = 64
    async with anyio.create_task_group() as tasks:
        for number in range(busy):
            tasks.start_soon(partial(backend.write, f"f/{number}.account", b"{}", mode="overwrite"))
        await until(slow.entered)
        while not 0 < files.under_way < busy:
            await anyio.sleep(0.001)
        with anyio.fail_after(HUNG), anyio.move_on_after(0.02) as scope:
            await backend.write(AT.path, b"{}", mode="overwrite")
        assert scope.cancelled_caught
        slow.release.set()
    assert content(root) == OLD
    await backend.aclose()


class SlowFolder:
    """The system calls of a disk that does not confirm what was published until it is let go."""

    def __init__(self) -> None:
        self.published, self.entered, self.release = (threading.Event() for _ in range(3))

    def __getattr__(self, name: str, /) -> Any:
        member = getattr(SystemCalls, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "fsync" and self.published.is_set():
                self.entered.set()
                assert self.release.wait(HUNG)
            result = member(*arguments, **options)
            if name in {"rename", "link", "unlink"}:
                self.published.set()
            return result

        return call


PUBLISHED: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    **{name: OPERATIONS[name][0] for name in ("save", "update", "delete")},
    "create": lambda store: store.save(replace(AT, file_name="new.account"), NEW, mode="create"),
    "save_many": lambda store: _first_of(store.save_many([(AT, NEW)])),
}


async def _first_of(results: AsyncIterator[tuple[Location, Version | AccountStoreError]], /) -> None:
    async for _, result in results:
        if isinstance(result, AccountStoreError):
            raise result


async def errors_when_ended(
    call: Callable[[AccountStore], Awaitable[object]], store: AccountStore, entered: threading.Event, ended: str, /
) -> list[AccountStoreError]:
    """What a call raises whose deadline, or whose store, ends while the disk has not answered."""
    deadlines = parts_of(store)[0].storage(None).client.calls.deadlines
    failures: list[AccountStoreError] = []

    async def make() -> None:
        try:
            await call(store)
        except AccountStoreError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make)
        await until(entered)
        with anyio.fail_after(HUNG / 2):
            await (store.aclose() if ended == "closed" else deadlines.end_all())
    return failures


@pytest.mark.parametrize("control", [False, True], ids=["", "control"])
@pytest.mark.parametrize("ended", ["deadline", "closed"])
@pytest.mark.parametrize("name", PUBLISHED)
async def test_a_write_that_is_given_up_when_it_was_published_is_uncertain(
    root: Path, name: str, ended: str, control: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made, and the disk has not confirmed it: who repeats it must look first. The control: where the fence
    tells nobody that something has passed, the write that was made is said not to have been.
    """
    if control:
        monkeypatch.setattr("accountstore.aio.threads.releaser", lambda: bool)
    slow = SlowFolder()
    store = store_over({"main": LocalBackend(Files(str(root), calls=cast("SystemCalls", slow)))}, timeout=HUNG)
    failures = await errors_when_ended(PUBLISHED[name], store, slow.entered, ended)
    assert content(root) == {"delete": None, "create": OLD}.get(name, NEW)
    assert [isinstance(failure, UncertainError) for failure in failures] == [not control]
    slow.release.set()
    await store.aclose()


@pytest.mark.parametrize("ended", ["deadline", "closed"])
async def test_a_batch_that_is_given_up_tells_which_documents_were_not_made(root: Path, ended: str) -> None:
    """Only the document that was published is uncertain: those after it, in its folder and in others, were not sent,
    and are not made later.
    """
    slow = SlowFolder()
    backend = LocalBackend(Files(str(root), calls=cast("SystemCalls", slow)))
    store = store_over({"main": backend}, timeout=HUNG)
    later = [replace(AT, file_name="later.account"), replace(AT, folder="other", file_name="later.account")]
    results: dict[Location, Version | AccountStoreError] = {}

    async def save_all(_: AccountStore) -> None:
        pairs = [(location, NEW) for location in (AT, *later)]
        results.update({location: result async for location, result in store.save_many(pairs)})

    assert await errors_when_ended(save_all, store, slow.entered, ended) == []
    assert content(root) == NEW
    assert isinstance(results[AT], UncertainError)
    for location in later:
        failure = results[location]
        assert isinstance(failure, ClosedError if ended == "closed" else UnavailableError)
        assert not getattr(failure, "sent", False)
    slow.release.set()
    await store.aclose()
    with anyio.fail_after(HUNG):
        while temporary_files(root):
            await anyio.sleep(0.001)
    assert [path.name for path in root.rglob("*.account")] == [AT.file_name]


@pytest.mark.parametrize("ended", ["deadline", "closed"])
@pytest.mark.parametrize("name", ["save", "save_many", "delete"])
async def test_a_publication_that_hangs_does_not_outlive_its_deadline(
    root: Path, name: str, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server stops answering while a document is renamed or removed: the call ends all the same, soon after its
    deadline or the store's end, as an `UncertainError`, and what hangs ends in a thread of its own.
    """
    monkeypatch.setattr("accountstore.aio.threads._PUBLICATION", 0.05)
    slow = Slow("unlink" if name == "delete" else "rename")
    store = store_over({"main": LocalBackend(Files(str(root), calls=slow))}, timeout=HUNG)
    failures = await errors_when_ended(PUBLISHED[name], store, slow.entered, ended)
    assert not slow.release.is_set()
    assert [type(failure) for failure in failures] == [UncertainError]
    slow.release.set()
    await store.aclose()


async def test_a_cancelled_read_does_not_wait_for_a_slow_disk(root: Path) -> None:
    """A read is dropped when it is cancelled: the call ends while the disk has not answered, and the store goes on."""
    slow = Slow("read")
    async with over(LocalBackend(Files(str(root), calls=slow))) as store:
        with anyio.fail_after(HUNG):
            assert await cancelled_after(by_scope, partial(store.get, AT), partial(until, slow.entered))
        assert not slow.release.is_set()
        slow.release.set()
        assert await store.get(AT) == OLD


# --- opening and closing ----------------------------------------------------------------------------------------------


class Closing(MemoryBackend):
    """Closes in several steps."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.closed = False

    async def aclose(self) -> None:
        self.begun = True
        for _ in range(3):
            await anyio.sleep(0)
        self.closed = True
        await super().aclose()


def closing(backends: Sequence[Closing], /) -> AccountStore:
    return store_over(dict(zip("abc", backends, strict=False)))


async def test_closing_goes_on_when_a_scope_is_cancelled() -> None:
    """A store that is left by cancellation closes all backends to the end."""
    backends = Closing(), Closing()
    with anyio.CancelScope() as scope:
        async with closing(backends):
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    assert all(backend.closed for backend in backends)


@on_asyncio
async def test_closing_goes_on_when_the_task_is_cancelled() -> None:
    """`task.cancel()` during `aclose` leaves no backend that was not asked to close, and is raised."""
    backends = Closing(), Closing(), Closing()
    store = closing(backends)
    task = asyncio.ensure_future(store.aclose())
    while not backends[0].begun:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(backend.begun for backend in backends)
    assert all(backend.closed for backend in backends[1:])


async def test_opening_cancelled_at_each_step_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled at any step of opening, the backends that were opened are closed."""
    opened: list[Closing] = []

    async def factory(url: str, options: object) -> Closing:
        if len(opened) == at:
            scope.cancel()
        await checkpoint()
        opened.append(Closing())
        return opened[-1]

    def find(scheme: str, engine: str, timeout: float, read_only: bool) -> object:
        return factory

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    config = StoreConfig(default="a", storages={name: StorageConfig("x://") for name in "abc"})
    for at in range(4):
        opened.clear()
        with anyio.CancelScope() as scope:
            await (await AccountStore.open(config)).aclose()
        assert scope.cancelled_caught == (at < 3)
        assert len(opened) == at
        assert all(backend.closed for backend in opened)
