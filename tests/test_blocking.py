"""The store for synchronous code: nothing is missing, threads share it, and it does not hang."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT, AT, MULTI, MULTI_AT, OAUTH

from accountstore import AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig, TokenGrant
from accountstore.blocking import BlockingAccountStore
from accountstore.errors import ClosedError, ConfigError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from accountstore import Account, Event

THREADS, UPDATES = 16, 50


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingAccountStore]:
    """An open store with one storage `main`."""
    url = "memory://" if request.param == "memory" else str(tmp_path)
    with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig(url)})) as opened:
        yield opened


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_no_call_is_missing() -> None:
    """It has every public call of the facade, and `close` for `aclose`; each is documented."""
    assert _public(BlockingAccountStore) == _public(AccountStore) - {"aclose"} | {"close"}
    assert all(getattr(BlockingAccountStore, name).__doc__ for name in _public(BlockingAccountStore))


def test_every_kind_of_call_blocks(store: BlockingAccountStore) -> None:
    """What is saved is read, listed, changed and removed; iterators are plain ones."""
    version = store.save(AT, ACCOUNT, mode="create")
    assert store.read(AT).version == version
    assert store.update(AT, lambda account: replace(account, port=1)).document.port == 1
    store.save_multi(MULTI_AT, MULTI)
    assert store.update_multi(MULTI_AT, _unchanged).document == MULTI
    assert {entry.location for entry in store.list(AT.folder)} == {AT, MULTI_AT}
    ((location, got),) = store.get_many([AT])
    assert (location, getattr(got, "document", None)) == (AT, store.get(AT))
    assert [location for location, _ in store.save_many([(AT, ACCOUNT)])] == [AT]
    assert store.check().create
    assert store.scoped("folder").storages == store.storages == ("main",)
    store.delete(AT)
    assert not store.exists(AT)


async def _unchanged(document: Any) -> Any:
    return document


def test_a_token_is_refreshed_by_a_function_that_blocks(store: BlockingAccountStore) -> None:
    """The exchange is a plain function or a coroutine function; copies are made."""
    store.save(AT, OAUTH)

    def exchange(_: OAuthCredentials) -> TokenGrant:
        return TokenGrant(access_token="new", expires_in=3600)

    async def not_needed(_: OAuthCredentials) -> TokenGrant:
        raise AssertionError

    credentials: Any = store.refresh(AT, exchange).document.credentials
    assert credentials.access_token.reveal() == "new"
    assert store.refresh(AT, not_needed).document == store.get(AT)
    assert store.copy(AT, other := replace(AT, file_name="other.account")) == store.stat(other).version
    assert [at for at, _ in store.copy_many([(AT, other)])] == [AT]


def test_threads_lose_no_update(store: BlockingAccountStore) -> None:
    """Threads that update one document at once lose no change."""
    store.save(AT, replace(ACCOUNT, port=1))

    def update(_: int) -> None:
        for _ in range(UPDATES):
            store.update(AT, lambda account: replace(account, port=account.port + 1))

    with ThreadPoolExecutor(THREADS) as threads:
        assert [*threads.map(update, range(THREADS))] == [None] * THREADS
    assert store.get(AT).port == 1 + THREADS * UPDATES


def test_a_change_may_block(store: BlockingAccountStore) -> None:
    """The function of `update` keeps no other call waiting: it may call the store itself."""
    store.save(AT, ACCOUNT)
    other = replace(AT, file_name="other.account")

    def change(account: Account) -> Account:
        store.save(other, account)
        return account

    assert store.update(AT, change).document == store.get(other)
    with pytest.raises(TypeError, match="change must be a function"):
        store.update(AT, None)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match=r"BlockingAccountStore\.open\(config\)"):
        cast("Any", BlockingAccountStore)(StoreConfig(storages={}))


def test_changes_may_update_others_however_many_there_are(store: BlockingAccountStore) -> None:
    """Each of many changes at once updates another document, and all end."""
    many = [replace(AT, file_name=f"{number}.account") for number in range(60)]
    for at in many:
        store.save(at, ACCOUNT)
        store.save(replace(at, folder="other"), ACCOUNT)
    together = threading.Barrier(len(many))

    def change(at: Location) -> Account:
        def within(account: Account) -> Account:
            together.wait(HUNG)
            return store.update(replace(at, folder="other"), lambda other: replace(other, port=7)).document

        return store.update(at, within).document

    with ThreadPoolExecutor(len(many)) as threads:
        assert {account.port for account in threads.map(change, many)} == {7}


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
def test_a_function_that_ends_its_thread_does_not_end_the_store(
    store: BlockingAccountStore, call: str, error: type[BaseException]
) -> None:
    """What is no `Exception` comes out of the call as it is, the store goes on, and nobody has a lease."""
    store.save(AT, OAUTH)

    def function(_: Any) -> Any:
        raise error

    with pytest.raises(error):
        getattr(store, call)(AT, function)
    assert store.get(AT) == OAUTH
    assert b"holder" not in store.read_json(AT).document


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


def test_within_a_running_loop(store: BlockingAccountStore) -> None:
    """It works where an event loop runs already, such as a notebook's."""

    async def cell() -> Account:
        store.save(AT, ACCOUNT)
        assert store.capabilities().atomic
        assert store.scoped(AT.folder).storages
        return store.get(AT)

    assert asyncio.run(cell()) == ACCOUNT


def test_called_by_its_own_observer_it_says_so() -> None:
    """A call on the store's own event loop, which it would wait for itself, is an error and no hang."""
    errors: list[Exception] = []

    def observe(event: Event) -> None:
        try:
            own.exists(AT)
        except RuntimeError as error:
            errors.append(error)

    with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}), observer=observe) as own:
        own.save(AT, ACCOUNT)
    assert "event loop thread" in str(*errors)


PROGRAM = """
import signal, threading, anyio
from accountstore import *
from accountstore.blocking import BlockingAccountStore

at = Location("a.account")
account = Account(host="host", port=1, credentials=PasswordCredentials(login="login", password="password"))
ended = threading.Event()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored

async def change(account):
    threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    try:
        await anyio.sleep_forever()
    finally:
        ended.set()

with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
    store.save(at, account)
    try:
        store.update(at, change)
    except KeyboardInterrupt:
        print("interrupted", ended.wait(60), store.get(at) == account)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signal to a thread")
def test_an_interrupt_cancels_the_call() -> None:
    """Ctrl-C ends the call that waits, and the store goes on and closes."""
    done = subprocess.run([*PYTHON, "-c", PROGRAM], capture_output=True, text=True, timeout=HUNG, check=False)
    assert (done.stdout, done.stderr) == ("interrupted True True\n", "")


def test_no_traceback_shows_what_was_saved(store: BlockingAccountStore) -> None:
    """A traceback with the local variables of the frames shows no byte of a document."""
    with pytest.raises(EncodeError) as caught:
        store.save_json(AT, b'{"host": "h", "password": "canary-secret"}')
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    ours = shown[shown.index(os.path.join("accountstore", "blocking.py")) :]
    assert "canary-secret" not in ours
