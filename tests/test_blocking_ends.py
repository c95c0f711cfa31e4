"""How the store for synchronous code ends: closed, interrupted, with the program; and what does not end it."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT, AT, OAUTH

from accountstore import Location, StorageConfig, StoreConfig, TokenGrant
from accountstore.blocking import BlockingAccountStore
from accountstore.errors import ClosedError, ConfigError, ExchangeError, NoAnswerError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from accountstore import Event


@pytest.fixture
def store() -> Iterator[BlockingAccountStore]:
    """An open store with one storage `main`, in memory."""
    with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as opened:
        yield opened


def test_closed_means_closed(store: BlockingAccountStore) -> None:
    """After `close` each call is a `ClosedError`, also of a narrowed store and of an iterator begun before."""
    store.save(AT, ACCOUNT)
    narrowed, entries = store.scoped(AT.folder), store.list(AT.folder)
    narrowed.close()
    assert store.exists(AT)
    store.close()
    store.close()
    for call in (lambda: store.get(AT), lambda: narrowed.exists(Location("a.account")), lambda: next(entries)):
        with pytest.raises(ClosedError, match="the store is closed"):
            call()
    assert not [thread for thread in threading.enumerate() if thread.name == "accountstore blocking"]


def test_what_cannot_be_opened_leaves_no_thread() -> None:
    """An error at opening is the facade's, and ends the thread."""
    with pytest.raises(ConfigError, match="did you mean"):
        BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("s4://bucket")}))
    assert not [thread for thread in threading.enumerate() if thread.name == "accountstore blocking"]


@pytest.mark.parametrize("call", ["update", "refresh"])
def test_within_a_function_of_a_call_it_cannot_be_closed(store: BlockingAccountStore, call: str) -> None:
    """It would wait for the function that closes it: an error says so, and the call goes on. A narrowed store may be
    closed there.
    """
    store.save(AT, OAUTH)

    def function(given: Any) -> Any:
        with store.scoped(AT.folder) as narrowed:
            assert narrowed.exists(Location(AT.file_name))
        with pytest.raises(RuntimeError, match="close the store after the call"):
            store.close()
        return TokenGrant(access_token="new", expires_in=3600) if call == "refresh" else replace(given, port=7)

    getattr(store, call)(AT, function)
    assert store.get(AT) != OAUTH
    store.close()
    with pytest.raises(ClosedError):
        store.get(AT)


class Odd(BaseException):
    """Neither an error nor an interrupt."""


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Odd])
@pytest.mark.parametrize("call", ["update", "refresh"])
def test_a_function_that_ends_its_thread_does_not_end_the_store(call: str, error: type[BaseException]) -> None:
    """What is no `Exception` comes out of the call as it is, its event names it, the store goes on, and nobody has a
    lease.
    """
    events: list[Event] = []
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with BlockingAccountStore.open(config, observer=events.append) as store:
        store.save(AT, OAUTH)

        def function(_: Any) -> Any:
            raise error

        with pytest.raises(error):
            getattr(store, call)(AT, function)
        assert events[-1].outcome == error.__name__
        assert store.get(AT) == OAUTH
        assert b"holder" not in store.read_json(AT).document


EXITS: dict[str, Callable[[BlockingAccountStore, Any], object]] = {
    "save_many": lambda store, items: [*store.save_many(items)],
    "get_many": lambda store, items: [*store.get_many(items)],
    "copy_many": lambda store, items: [*store.copy_many(items)],
    "skipped": lambda store, items: [*store.list(skipped=lambda _: next(items))],
    "observer": lambda store, _: store.versions(AT),
}


@pytest.mark.parametrize("call", EXITS)
def test_whatever_ends_its_thread_does_not_end_the_store(call: str, tmp_path: Path) -> None:
    """`SystemExit` of an iterable, of `skipped` or of an observer comes out of the call, and the store goes on."""

    def items() -> Iterator[Any]:
        sys.exit(call)
        yield

    def observe(event: Event) -> None:
        if event.operation == "versions":
            sys.exit(call)

    (tmp_path / "a#.account").write_bytes(b"")
    config = StoreConfig(storages={"main": StorageConfig(str(tmp_path))})
    with BlockingAccountStore.open(config, observer=observe) as store:
        store.save(AT, ACCOUNT)
        with pytest.raises(SystemExit, match=call):
            EXITS[call](store, items())
        assert store.get(AT) == ACCOUNT


def test_closed_by_many_threads_beside_calls_of_others() -> None:
    """Each thread that closes a store goes on when it is closed; a call meanwhile succeeds or is a `ClosedError`."""
    errors: list[BaseException] = []

    def call(store: BlockingAccountStore) -> None:
        try:
            while True:
                store.exists(AT)
        except ClosedError:
            pass
        except BaseException as error:
            errors.append(error)

    def close(store: BlockingAccountStore, together: threading.Barrier) -> None:
        together.wait(HUNG)
        try:
            store.close()
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            store = BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))
            together = threading.Barrier(6)
            threads = [threading.Thread(target=call, args=(store,), daemon=True) for _ in range(3)]
            threads += [threading.Thread(target=close, args=(store, together), daemon=True) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(HUNG)
            assert not [thread for thread in threads if thread.is_alive()]
            assert not errors
    finally:
        sys.setswitchinterval(interval)


def test_without_a_thread_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, opening is an `UnavailableError`, and an exchange is not called; an update needs none."""

    def fail(_: object) -> Any:
        raise RuntimeError("can't start new thread")

    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with BlockingAccountStore.open(config) as store:
        store.save(AT, OAUTH)
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(UnavailableError, match="no thread can be started"):
            BlockingAccountStore.open(config)
        with pytest.raises(NoAnswerError, match="the exchange was not called: no thread can be started") as caught:
            store.refresh(AT, fail)
        assert not caught.value.sent
        assert store.update(AT, lambda account: account).document == OAUTH
        monkeypatch.undo()

        def unavailable(_: object) -> Any:
            raise UnavailableError("mine")

        with pytest.raises(ExchangeError, match="the exchange raised UnavailableError"):
            store.refresh(AT, unavailable)


def test_without_a_descriptor_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has none for an event loop, opening is an `UnavailableError`."""

    def fail() -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("accountstore.aio.portal.new_event_loop", fail)
    with pytest.raises(UnavailableError, match="Too many open files"):
        BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))


FORKS = """
import os, signal
from accountstore import *
from accountstore.blocking import BlockingAccountStore

store = BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))
store.save(Location("a.account"), Account(host="host", port=1))
store.update(Location("a.account"), lambda account: account)
child = os.fork()
signal.alarm(60)  # that it does not hang is what is tested
if child:
    print(os.waitpid(child, 0)[1])
"""


SUSPENDED = """
from accountstore import *
from accountstore.blocking import BlockingAccountStore

def accounts():
    with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
        yield store
        yield store

class App:
    def __init__(self):
        self.store = BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))

    def __del__(self):
        try:
            self.store.exists(Location("a.account"))
        except ClosedError as error:
            print(error)
        self.store.close()

suspended, app = accounts(), App()
print(next(suspended).exists(Location("a.account")))
"""


def test_a_store_that_is_dropped_when_the_program_ends_does_not_hang() -> None:
    """A suspended generator closes its store, and a `__del__` calls it, when there is no thread any more."""
    done = subprocess.run([*PYTHON, "-c", SUSPENDED], capture_output=True, text=True, timeout=HUNG, check=False)
    lines = "False\nthe store's thread has ended with the program: close the store before\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, lines, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_who_does_not_close_it_ends_all_the_same() -> None:
    """A program, and a process that it has forked, end though the store was not closed."""
    done = subprocess.run(
        [*PYTHON, "-W", "ignore::DeprecationWarning", "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_it_says_so(store: BlockingAccountStore) -> None:
    """In a forked process a call is a `ClosedError` rather than a hang, and closing does nothing."""
    store.save(AT, ACCOUNT)
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        try:
            store.get(AT)
        except ClosedError as error:
            answers.put(str(error))
        store.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(HUNG)
    assert process.exitcode == 0
    assert answers.get() == "the store was opened in another process: open one in each, after the fork"
    assert store.get(AT) == ACCOUNT


PROGRAM = """
import signal, threading, time, anyio, anyio.lowlevel
from accountstore import *
from accountstore import storages
from accountstore.aio.callers import in_caller
from accountstore.aio.portal import LoopThread
from accountstore.blocking import BlockingAccountStore

at = Location("a.account")
account = Account(host="host", port=1, credentials=PasswordCredentials(login="login", password="password"))
ended, released = threading.Event(), threading.Event()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored

def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

async def change(account):
    threading.Timer(0.05, interrupt).start()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
        ended.set()

def exchange(credentials):
    interrupt()
    time.sleep(0.2)
    return TokenGrant(access_token="access", expires_in=3600, refresh_token="new")

async def stuck(account):
    threading.Timer(0.05, interrupt).start()
    try:
        await anyio.sleep_forever()
    finally:
        interrupt()
        with anyio.CancelScope(shield=True):
            while not released.is_set():
                await anyio.sleep(0.01)

with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
    store.save(at, account)
    try:
        store.update(at, change)
    except KeyboardInterrupt:
        print("interrupted", ended.is_set(), store.get(at) == account)
    try:
        store.update(at, stuck)
    except KeyboardInterrupt:
        print("and again")
    released.set()
    store.save(at, Account(host="host", port=1, credentials=OAuthCredentials(login="login", refresh_token="old")))
    try:
        store.refresh(at, exchange)
    except KeyboardInterrupt:
        print("exchanged", store.get(at).credentials.refresh_token.reveal())

async def slow(*arguments, **options):
    threading.Timer(0.05, interrupt).start()
    await anyio.sleep_forever()

storages.open_storages = slow
try:
    BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))
except KeyboardInterrupt:
    print("and while opening", [thread.name for thread in threading.enumerate()])

thread, closing = LoopThread("loop"), threading.Event()

def close(*_):
    closing.set()
    thread.close(anyio.lowlevel.checkpoint)

async def call():
    interrupt()
    while not closing.is_set():
        await anyio.sleep(0.01)
    await in_caller(print)

signal.signal(signal.SIGINT, close)
try:
    thread.run(call)
except ClosedError as error:
    print(error, [thread.name for thread in threading.enumerate()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signal to a thread")
def test_an_interrupt_cancels_the_call() -> None:
    """Ctrl-C comes out when the call that waits has ended, and a second one at once; the store goes on and closes. What
    an exchange brings is saved. A store that is being opened is not, and leaves no thread. A signal's handler may close
    one in the thread that waits.
    """
    done = subprocess.run([*PYTHON, "-c", PROGRAM], capture_output=True, text=True, timeout=HUNG, check=False)
    lines = ["interrupted True True", "and again", "exchanged new"]
    lines += ["and while opening ['MainThread']", "the store is closed ['MainThread']"]
    assert (done.stdout.splitlines(), done.stderr) == (lines, "")
