"""Cancellation: at every step of every operation, by a scope and by the task, the document is old or new, and whole."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio import get_running_tasks
from msgspec.structs import replace
from running import HUNG

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    Location,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)
from accountstore.backends.local.backend import LocalBackend
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from accountstore.backends.base import Backend, Stat

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
"""For what asyncio alone has: cancelling a task from anywhere, with no scope."""

OLD = Account(host="old.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
NEW = replace(OLD, host="new.example.org")
AT, OTHER, ABSENT = (
    Location("a.account", folder="f"),
    Location("b.account", folder="f"),
    Location("c.account", folder="g"),
)
STEPS = 400
"""More than any operation has: a bound for what would otherwise not end."""


async def drained(items: AsyncIterator[object], /) -> None:
    async for _ in items:
        pass


async def slow_change(_: Account, /) -> Account:
    await anyio.lowlevel.checkpoint()
    return NEW


OPERATIONS: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "get": lambda store: store.get(AT),
    "read": lambda store: store.read(AT),
    "stat": lambda store: store.stat(AT),
    "exists": lambda store: store.exists(AT),
    "list": lambda store: drained(store.list(recursive=True)),
    "get_many": lambda store: drained(store.get_many([AT, OTHER, ABSENT])),
    "save": lambda store: store.save(AT, NEW),
    "save in a new folder": lambda store: store.save(ABSENT, NEW),
    "create": lambda store: store.save(ABSENT, NEW, mode="create"),
    "update": lambda store: store.update(AT, slow_change),
    "delete": lambda store: store.delete(AT),
    "copy": lambda store: store.copy(AT, ABSENT),
    "move": lambda store: store.move(AT, ABSENT),
    "save_many": lambda store: drained(store.save_many([(AT, NEW), (OTHER, NEW), (ABSENT, NEW)])),
    "check": lambda store: store.check(),
}
READS = {"get", "read", "stat", "exists", "list", "get_many"}

ALLOWED: Mapping[str, tuple[Mapping[Location, set[Account | None]], ...]] = {
    **dict.fromkeys(READS | {"check"}, ({AT: {OLD}, ABSENT: {None}},)),
    "save": ({AT: {OLD, NEW}},),
    "save in a new folder": ({ABSENT: {None, NEW}},),
    "create": ({ABSENT: {None, NEW}},),
    "update": ({AT: {OLD, NEW}},),
    "delete": ({AT: {OLD, None}},),
    "copy": ({AT: {OLD}, ABSENT: {None, OLD}},),
    "move": ({AT: {OLD}, ABSENT: {None, OLD}}, {AT: {None}, ABSENT: {OLD}}),
    "save_many": ({AT: {OLD, NEW}, OTHER: {OLD, NEW}, ABSENT: {None, NEW}},),
}
"""What may be found after an operation was cut off: one of these states. Documents not named are as before."""


def over(backend: object, /) -> AccountStore:
    return store_over({"main": cast("Backend", backend)})


async def found(store: AccountStore, location: Location, /) -> Account | None:
    try:
        return await store.get(location)
    except NotFoundError:
        return None


async def assert_whole(store: AccountStore, operation: str, /) -> None:
    """The documents are in an allowed state, nothing else is there, and the store goes on."""
    state = {location: await found(store, location) for location in (AT, OTHER, ABSENT)}
    before: dict[Location, set[Account | None]] = {AT: {OLD}, OTHER: {OLD}, ABSENT: {None}}
    allowed = [before | dict(choice) for choice in ALLOWED[operation]]
    assert any(all(state[at] in choice[at] for at in state) for choice in allowed), state
    listed = {entry.location async for entry in store.list(recursive=True)}
    assert listed == {location for location, account in state.items() if account is not None}
    last = replace(OLD, port=1)
    await store.save(AT, last)
    await store.update(AT, lambda account: replace(account, port=2))
    assert await store.get(AT) == replace(OLD, port=2)


class Stepping:
    """A memory backend with a step before and after each call; at step number `at` it cancels."""

    def __init__(self) -> None:
        self.inner: Any = MemoryBackend()
        self.steps = self.at = self.under_way = 0
        self.cancel: Callable[[], object] = lambda: None

    async def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.cancel()
        await anyio.lowlevel.checkpoint()

    def __getattr__(self, name: str, /) -> Any:
        member: Any = getattr(self.inner, name)
        if name == "capabilities":
            return member

        async def call(*arguments: Any, **options: Any) -> Any:
            self.under_way += 1
            try:
                await self.step()
                result = await member(*arguments, **options)
                await self.step()
                return result
            finally:
                self.under_way -= 1

        return call

    def scan(self, prefix: str, /, *, recursive: bool) -> _SteppingPages:
        return _SteppingPages(self, self.inner.scan(prefix, recursive=recursive))


class _SteppingPages:
    def __init__(self, backend: Stepping, pages: AsyncIterator[Sequence[Stat]], /) -> None:
        self.backend = backend
        self.pages = pages

    def __aiter__(self) -> _SteppingPages:
        return self

    async def __anext__(self) -> Sequence[Stat]:
        await self.backend.step()
        page = await anext(self.pages)
        await self.backend.step()
        return page


async def fill(store: AccountStore, /) -> None:
    await store.save(AT, OLD)
    await store.save(OTHER, OLD)


# --- memory, at each step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_by_a_scope_at_each_step(name: str) -> None:
    """Cancelled at any of its steps, an operation leaves old or new documents, and no call under way."""
    before = {task.id for task in get_running_tasks()}
    for at in range(1, STEPS):
        backend = Stepping()
        store = over(backend)
        await fill(store)
        with anyio.CancelScope() as scope:
            backend.steps, backend.at, backend.cancel = 0, at, scope.cancel
            await OPERATIONS[name](store)
        assert backend.under_way == 0
        assert {task.id for task in get_running_tasks()} == before
        cut, backend.at = backend.steps >= at, 0
        await assert_whole(store, name)
        if not cut:
            break
        assert scope.cancelled_caught or at > 1
    else:
        raise AssertionError("the operation does not end")
    assert at > 2


@on_asyncio
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_by_the_task_at_each_step(name: str) -> None:
    """The same for asyncio's own cancellation, which no scope sees and which `asyncio.timeout` uses."""
    before = {task.id for task in get_running_tasks()}
    for at in range(1, STEPS):
        backend = Stepping()
        store = over(backend)
        await fill(store)
        task = asyncio.ensure_future(OPERATIONS[name](store))
        backend.steps, backend.at, backend.cancel = 0, at, task.cancel
        await asyncio.wait([task])
        assert backend.under_way == 0
        assert {running.id for running in get_running_tasks()} == before
        cut, backend.at = backend.steps >= at, 0
        assert task.cancelled() == cut or task.exception() is None
        await assert_whole(store, name)
        if not cut:
            break
    else:
        raise AssertionError("the operation does not end")
    assert at > 2


class Tearing(Stepping):
    """Writes in two steps."""

    async def write(self, key: str, data: bytes, /, *, mode: Any, write_token: str = "") -> Any:
        await self.inner.write(key, data[:-5], mode=mode)
        await self.step()
        return await self.inner.write(key, data, mode="overwrite")


async def _cut_in_a_write() -> AccountStore:
    backend = Tearing()
    store = over(backend)
    await fill(store)
    with anyio.CancelScope() as scope:
        backend.steps, backend.at, backend.cancel = 0, 1, scope.cancel
        await store.save(AT, NEW)
    assert scope.cancelled_caught
    backend.at = 0
    return store


async def test_a_write_is_awaited_to_its_end() -> None:
    """The store lets even a backend that writes in two steps end, and only then takes its caller's cancellation."""
    assert await (await _cut_in_a_write()).get(AT) == NEW


async def test_control_without_the_wait_a_write_is_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: cancelled at the same step without the wait, the same write is found torn."""

    async def at_once(_deadline: object, call: Callable[..., Awaitable[object]], *arguments: object) -> object:
        return await call(*arguments)

    monkeypatch.setattr("accountstore.client.run_shielded", at_once)
    store = await _cut_in_a_write()
    with pytest.raises(AccountStoreError):
        await assert_whole(store, "save")


async def test_a_cancelled_change_writes_nothing() -> None:
    """An `update` that is cancelled while the function runs writes nothing."""
    store = over(MemoryBackend())
    await fill(store)
    with anyio.CancelScope() as scope:

        async def change(account: Account) -> Account:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            return NEW

        await store.update(AT, change)
    assert scope.cancelled_caught
    assert await store.get(AT) == OLD


async def test_a_deadline_that_has_passed_stops_an_update_between_attempts() -> None:
    """An `update` that keeps losing is cancelled in its pause, and not only after its last attempt."""
    store = over(MemoryBackend())
    await fill(store)
    attempts: list[int] = []
    often = anyio.Event()

    async def change(account: Account) -> Account:
        attempts.append(account.port)
        await store.save(AT, replace(account, port=account.port + 1))
        if len(attempts) == 3:
            often.set()
        return NEW

    async def time_is_up(scope: anyio.CancelScope) -> None:
        await often.wait()
        scope.deadline = anyio.current_time()

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(time_is_up, scope)
        with scope:
            await store.update(AT, change)
    assert scope.cancelled_caught
    assert 3 <= len(attempts) < 64


# --- local, at each system call ---------------------------------------------------------------------------------------


class Cutting:
    """The system calls, with a hook before each, and without waiting for the disk."""

    def __init__(self) -> None:
        self.calls = self.at = 0
        self.cut: Callable[[], object] = lambda: None
        self.lock = threading.Lock()

    def __getattr__(self, name: str, /) -> Any:
        member = getattr(SystemCalls, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with self.lock:
                self.calls += 1
                now = self.calls == self.at
            if now:
                self.cut()
            return None if name == "fsync" else member(*arguments, **options)

        return call


class Watched(Files):
    """Counts the writing calls that are under way in threads."""

    under_way = 0

    def write(self, *arguments: Any, **options: Any) -> Any:
        return self._watch(super().write, *arguments, **options)

    def write_many(self, *arguments: Any, **options: Any) -> Any:
        return self._watch(super().write_many, *arguments, **options)

    def delete(self, *arguments: Any, **options: Any) -> Any:
        return self._watch(super().delete, *arguments, **options)

    def _watch(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        self.under_way += 1
        try:
            return call(*arguments, **options)
        finally:
            self.under_way -= 1


def soon(call: Callable[[], object], /) -> Callable[[], None]:
    """`call` on the current event loop, for any thread; it returns when it was called."""
    import sniffio

    def from_thread(submit: Callable[[Callable[[], object]], object]) -> None:
        called = threading.Event()

        def call_and_tell() -> None:
            call()
            called.set()

        submit(call_and_tell)
        assert called.wait(HUNG)

    if sniffio.current_async_library() == "asyncio":
        loop = asyncio.get_running_loop()
        return lambda: from_thread(loop.call_soon_threadsafe)
    import trio

    token = trio.lowlevel.current_trio_token()
    return lambda: from_thread(token.run_sync_soon)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "check"])
async def test_cancelled_at_each_system_call(name: str, tmp_path: Path, anyio_backend: Any) -> None:
    """Cancelled while any system call is made in a thread, a write is awaited to its end; the document is whole."""
    # Each of the three event loops takes every third call, beginning with another one.
    first = 3 if anyio_backend[0] == "trio" else 2 if anyio_backend[1].get("use_uvloop") else 1
    for at in range(first, STEPS, 3):
        root = tmp_path / str(at)
        calls = Cutting()
        files = Watched(str(root), calls=cast("SystemCalls", calls))
        files.make_root()
        store = over(LocalBackend(files))
        await fill(store)
        with anyio.CancelScope() as scope:
            calls.calls, calls.at, calls.cut = 0, at, soon(scope.cancel)
            await OPERATIONS[name](store)
        assert files.under_way == 0
        with calls.lock:
            cut, calls.at = calls.calls >= at, 0
        await assert_whole(store, name)
        assert [path for path in root.rglob("*") if path.name.startswith(".accountstore-")] == []
        await store.aclose()
        if not cut:
            break
    else:
        raise AssertionError("the operation does not end")


async def test_a_listing_that_was_cancelled_goes_on_where_it_was(tmp_path: Path) -> None:
    """A wait for a page that is cancelled, at any system call, skips no document when the listing goes on."""
    calls = Cutting()
    files = Files(str(tmp_path), calls=cast("SystemCalls", calls))
    store = over(LocalBackend(files))
    await fill(store)
    for at in range(1, STEPS):
        listing = store.list(recursive=True)
        seen: list[Location] = []
        with anyio.CancelScope() as scope:
            calls.calls, calls.at, calls.cut = 0, at, soon(scope.cancel)
            while True:
                try:
                    entry = await anext(listing)
                except StopAsyncIteration:
                    break
                seen.append(entry.location)
        with calls.lock:
            cut, calls.at = calls.calls >= at, 0
        seen += [entry.location async for entry in listing]
        assert sorted(seen, key=str) == [AT, OTHER]
        if not cut:
            break
    await store.aclose()


class Slow(SystemCalls):
    """System calls of which one waits until it is let go."""

    def __init__(self, name: str, error: OSError | None = None, /) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.error = error
        call = getattr(SystemCalls, name)

        def wait(*arguments: Any, **options: Any) -> Any:
            self.entered.set()
            assert self.release.wait(HUNG)
            if self.error is not None:
                raise self.error
            return call(*arguments, **options)

        setattr(self, name, wait)


async def until(event: threading.Event, /) -> None:
    with anyio.fail_after(HUNG):
        while not event.is_set():
            await anyio.sleep(0.001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an old document."""
    folder = tmp_path / "root"
    files = Files(str(folder))
    files.make_root()
    files.write(AT.path, JSON.encode(OLD), "overwrite")
    return folder


def content(root: Path, /) -> Account:
    return JSON.decode((root / AT.path).read_bytes(), Account)


@on_asyncio
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("call", ["save", "save_many", "update", "delete"])
async def test_a_task_that_is_cancelled_during_a_write_ends_after_it(root: Path, call: str, times: int) -> None:
    """`task.cancel()`, once or often, while the disk is slow: the call ends when the write has ended, not before."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    store = over(LocalBackend(files))
    calls: dict[str, Awaitable[object]] = {
        "save": store.save(AT, NEW),
        "save_many": drained(store.save_many([(AT, NEW)])),
        "update": store.update(AT, slow_change),
        "delete": store.delete(AT),
    }
    task = asyncio.ensure_future(calls.pop(call))
    for other in calls.values():
        cast("Any", other).close()
    await until(slow.entered)
    for _ in range(times):
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        assert files.under_way == 1
    slow.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files.under_way == 0
    assert not (root / AT.path).exists() if call == "delete" else content(root) == NEW
    await store.aclose()


@on_asyncio
async def test_a_timeout_during_a_write_is_raised_after_it(root: Path) -> None:
    """`asyncio.timeout` around a save on a slow disk raises `TimeoutError` when the write has ended."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    store = over(LocalBackend(files))

    async def let_go(task: asyncio.Task[Any], timeout: asyncio.Timeout) -> None:
        await until(slow.entered)
        timeout.reschedule(asyncio.get_running_loop().time())
        with anyio.fail_after(HUNG):
            while not task.cancelling():
                await asyncio.sleep(0.001)
        assert files.under_way == 1
        slow.release.set()

    current = asyncio.current_task()
    assert current is not None
    timeout = asyncio.timeout(None)
    other = asyncio.ensure_future(let_go(current, timeout))
    with pytest.raises(TimeoutError):
        async with timeout:
            await store.save(AT, NEW)
    assert files.under_way == 0
    assert content(root) == NEW
    await other
    await store.aclose()


@on_asyncio
async def test_a_thread_alone_lets_a_write_land_after_its_caller_went_on(root: Path) -> None:
    """The control: the same write in anyio's `to_thread.run_sync` is still under way when its task has ended."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    write = anyio.to_thread.run_sync(files.write, AT.path, JSON.encode(NEW), "overwrite")
    task = asyncio.ensure_future(write)
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


async def test_a_scope_that_is_cancelled_during_a_write_ends_after_it(root: Path) -> None:
    """A scope's deadline during a write on a slow disk ends the call when the write has ended, on every loop."""
    slow = Slow("fsync")
    files = Watched(str(root), calls=slow)
    store = over(LocalBackend(files))
    ended: list[int] = []

    async def save(scope: anyio.CancelScope) -> None:
        with scope:
            await store.save(AT, NEW)
        ended.append(files.under_way)

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(save, scope)
        await until(slow.entered)
        scope.cancel()
        for _ in range(20):
            await anyio.sleep(0)
        assert not ended
        slow.release.set()
    assert ended == [0]
    assert content(root) == NEW
    await store.aclose()


@pytest.mark.parametrize("by", ["scope", "task"])
async def test_an_error_in_a_cancelled_write_is_no_noise(root: Path, by: str, anyio_backend_name: str) -> None:
    """A write that fails after its call was cancelled ends cancelled; the old document stays, and nothing warns."""
    if by == "task" and anyio_backend_name == "trio":
        by = "scope"
    slow = Slow("fsync", OSError(5, "text"))
    store = over(LocalBackend(Watched(str(root), calls=slow)))
    with anyio.CancelScope() as scope:
        if by == "scope":
            async with anyio.create_task_group() as tasks:

                async def save() -> None:
                    # On trio the error of a write that was awaited goes before the cancellation.
                    with suppress(AccountStoreError):
                        await store.save(AT, NEW)

                tasks.start_soon(save)
                await until(slow.entered)
                scope.cancel()
                slow.release.set()
        else:
            task = asyncio.ensure_future(store.save(AT, NEW))
            await until(slow.entered)
            task.cancel()
            await asyncio.sleep(0)
            slow.release.set()
            with pytest.raises((asyncio.CancelledError, AccountStoreError)):
                await task
    gc.collect()
    await anyio.sleep(0)
    assert content(root) == OLD
    assert [path for path in root.rglob("*") if path.name.startswith(".accountstore-")] == []
    await store.aclose()


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


async def test_a_cancelled_read_does_not_wait_for_a_slow_disk(root: Path) -> None:
    """A read is dropped when it is cancelled: the call ends while the disk has not answered, and the store goes on."""
    slow = Slow("read")
    store = over(LocalBackend(Files(str(root), calls=slow)))
    with anyio.fail_after(HUNG), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.get, AT)
            await until(slow.entered)
            scope.cancel()
    assert scope.cancelled_caught
    assert not slow.release.is_set()
    slow.release.set()
    assert await store.get(AT) == OLD
    await store.aclose()


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
    return store_over({f"s{number}": backend for number, backend in enumerate(backends)})


async def test_closing_goes_on_when_a_scope_is_cancelled() -> None:
    """A store that is left by cancellation closes all backends to the end."""
    backends = Closing(), Closing()
    with anyio.CancelScope() as scope:
        async with closing(backends):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
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
    state = {"steps": 0}

    def find(scheme: str, engine: str) -> Any:
        return factory

    async def factory(url: str, options: object) -> Closing:
        await step()
        backend = Closing()
        opened.append(backend)
        return backend

    async def step() -> None:
        state["steps"] += 1
        if state["steps"] == at:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    config = StoreConfig(default="a", storages={name: StorageConfig("x://") for name in "abc"})
    for at in range(1, 5):
        opened.clear()
        state["steps"] = 0
        with anyio.CancelScope() as scope:
            store = await AccountStore.open(config)
            await store.aclose()
        assert scope.cancelled_caught == (at < 4)
        assert len(opened) == min(at - 1, 3)
        assert all(backend.closed for backend in opened)
