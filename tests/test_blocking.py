"""The store for synchronous code: nothing is missing, threads share it, and it does not hang."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT, AT, MULTI, MULTI_AT, OAUTH

from accountstore import AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig, TokenGrant
from accountstore.blocking import BlockingAccountStore
from accountstore.errors import EncodeError

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


def test_what_is_given_runs_in_the_thread_that_calls(store: BlockingAccountStore) -> None:
    """An iterable and a change may use what is bound to their thread, call the store, and wait for other threads."""
    threads: list[str] = []
    here = threading.current_thread().name
    rows: SimpleQueue[tuple[Location, Account] | None] = SimpleQueue()
    others = [replace(AT, file_name=f"{number}.account") for number in range(3)]
    store.save(AT, ACCOUNT)

    def feed() -> None:
        for at in others:
            rows.put((at, store.get(AT)))
        rows.put(None)

    def documents() -> Iterator[tuple[Location, Account]]:
        threading.Thread(target=feed, daemon=True).start()
        for row in iter(partial(rows.get, timeout=HUNG), None):
            threads.append(threading.current_thread().name)
            assert store.exists(AT)
            yield row

    def change(account: Account) -> Account:
        threads.append(threading.current_thread().name)
        return account

    assert [at for at, _ in store.save_many(documents())] == others
    store.update(AT, change)
    assert threads == [here] * 4


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


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_no_traceback_shows_what_was_saved(store: BlockingAccountStore, kind: Any) -> None:
    """A traceback with the local variables of the frames shows no byte of a document."""
    with pytest.raises(EncodeError) as caught:
        store.save_json(AT, kind(b'{"host": "h", "password": "canary-secret"}'))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    ours = shown[shown.index(os.path.join("accountstore", "blocking.py")) :]
    assert "canary-secret" not in ours
