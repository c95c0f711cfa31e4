"""All storages of a store: opened and closed together, found by name, in the process and on the loop of their own."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import traceback
from contextlib import suppress
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock, Mock

import anyio
import pytest
from cancelling import on_asyncio
from doubles import Recording, result
from running import HUNG, PYTHON
from samples import ACCOUNT, AT, CALLS, MULTI_AT, next_port

from accountstore import AccountStore, Location, MultiAccount, StorageConfig, StoreConfig
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import AccountStoreError, BackendError, ClosedError, ConfigError, UnavailableError
from accountstore.testing import Fault, FaultyBackend, store_over
from accountstore.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from accountstore import OAuthCredentials, TokenGrant
    from accountstore.backends.base import Stat, WriteMode

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"


def closing(error: Exception | None = None, /) -> FaultyBackend:
    """A backend that fails to close, if there is an error."""
    return FaultyBackend(MemoryBackend(), [Fault("aclose", 1, "before", error)] if error else [])


async def test_a_store_may_be_awaited_and_closed_by_hand() -> None:
    """`await AccountStore.open(...)` gives an open store, that `aclose` or `async with` closes."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    store = await AccountStore.open(config)
    await store.save(AT, ACCOUNT)
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.get(AT)
    async with await AccountStore.open(config) as other:
        await other.save(AT, ACCOUNT)
    with pytest.raises(ClosedError):
        await other.get(AT)


async def test_an_opening_opens_nothing_until_it_is_used(tmp_path: Path) -> None:
    """`AccountStore.open` alone does nothing; each use of it opens a store of its own."""
    opening = AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path / "root"))}))
    assert not (tmp_path / "root").exists()
    async with opening as first, await opening as second:
        await first.save(AT, ACCOUNT)
        assert await second.get(AT) == ACCOUNT
        await first.aclose()
        assert await second.get(AT) == ACCOUNT


async def test_every_backend_is_closed_once_whatever_fails() -> None:
    """`aclose` closes every backend, and raises the last error, typed; a second one does nothing."""
    kinds = {None: type(None), ConnectionResetError(CANARY): UnavailableError, RuntimeError(CANARY): BackendError}
    for failures in product(kinds, repeat=3):
        backends = [closing(failure) for failure in failures]
        store = store_over({str(number): backend for number, backend in enumerate(backends)})
        end = await result(store.aclose())
        assert type(end) is [type(None), *(kinds[failure] for failure in failures if failure)][-1]
        assert end is None or CANARY not in "".join(traceback.format_exception(end))
        assert await result(store.aclose()) is None
        assert [backend.calls["aclose"] for backend in backends] == [1, 1, 1]
        with pytest.raises(ClosedError):
            await store.get(AT)


async def test_a_backend_that_does_not_end_closing_is_given_up() -> None:
    """A backend that hangs while it closes is an `UnavailableError` at the deadline; the others are closed."""
    hanging, sound = FaultyBackend(MemoryBackend(), [Fault("aclose", 1, "hang")]), closing()
    with pytest.raises(UnavailableError):
        await store_over({"hanging": hanging, "sound": sound}, timeout=0.1).aclose()
    assert (hanging.calls["aclose"], sound.calls["aclose"]) == (1, 1)


async def test_an_error_in_the_body_closes_the_store_and_comes_out() -> None:
    """An error in the body comes out of `async with`; as the context, where closing fails too."""
    error = KeyError("mine")
    for backend, kind in ((closing(), KeyError), (closing(OSError()), BackendError)):
        with pytest.raises(kind) as caught:
            async with store_over({"main": backend}):
                raise error
        assert (caught.value if kind is KeyError else caught.value.__context__) is error
        assert backend.calls["aclose"] == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("no such option"), "no such option"),
        (PermissionError(errno.EACCES, CANARY), "cannot be opened (PermissionError: Permission denied)"),
        (OSError(CANARY), "cannot be opened (OSError)"),
        (RuntimeError(CANARY), "cannot be opened (RuntimeError)"),
    ],
)
async def test_a_failed_opening_closes_what_it_opened(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storages opened before are closed, also if they fail to; the error names the storage, without foreign text."""
    opened = closing(OSError())
    factory = AsyncMock(side_effect=[opened, error])
    monkeypatch.setattr("accountstore.storages.find_backend", Mock(return_value=factory))
    storages = {"a": StorageConfig("good://"), "b": StorageConfig("bad://")}
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(StoreConfig(default="a", storages=storages))
    place = "" if isinstance(error, ConfigError) else " [bad://]"
    assert str(caught.value) == f"storages.b: {said}{place}"
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert opened.calls["aclose"] == 1


FORKED = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import anyio
from accountstore import Account, AccountStore, ClosedError, Location, PasswordCredentials, StorageConfig, StoreConfig

ACCOUNT = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
AT = Location("x.account")
config = StoreConfig(storages={"main": StorageConfig("memory://")})

def refused(call):
    try:
        call().send(None)
    except ClosedError as error:
        return "another process" in str(error)

async def elsewhere(store):
    async with AccountStore.open(config) as own:
        await own.save(AT, ACCOUNT)
    try:
        return await store.get(AT) == ACCOUNT and "it answers"
    except ClosedError as error:
        return "another process" in str(error)

def in_the_child(store, tenant, kind, control):
    results = []
    if control:
        store._resolver.storages._process, store._resolver.storages._loop = os.getpid(), None
    else:  # on the event loop that the fork copied
        asked = lambda: store.get(AT), lambda: store.save(AT, ACCOUNT), lambda: store.delete(AT), lambda: tenant.get(AT)
        results = [refused(call) for call in (*asked, store.list, store.capabilities, store.aclose)]
    # On one of its own, in a thread that has none yet.
    return [*results, ThreadPoolExecutor(1).submit(anyio.run, elsewhere, store, backend=kind).result()]

async def main(kind, control):
    store = await AccountStore.open(config)
    await store.save(AT, ACCOUNT)
    tenant = store.scoped("folder")
    pid = os.fork()
    if pid == 0:
        try:
            print(in_the_child(store, tenant, kind, control), flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert await store.get(AT) == ACCOUNT
    await store.aclose()
    print("well")

anyio.run(main, sys.argv[1], sys.argv[2] == "control", backend=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("kind", ["asyncio", "trio"])
@pytest.mark.parametrize("control", [False, True])
def test_a_store_is_of_no_use_in_a_forked_child(kind: str, control: bool) -> None:
    """In a forked child every call of the parent's store, `aclose` too, is a `ClosedError`; a new store works. Control:
    unchecked, it answers.
    """
    command = [*PYTHON, "-W", "ignore", "-c", FORKED, kind, "control" if control else ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HUNG)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [repr(["it answers"] if control else [True] * 8), "well"]


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
@pytest.mark.parametrize("moment", ["opened", "made outside of any"])
def test_a_store_is_of_no_use_on_a_second_event_loop(kind: str, moment: str) -> None:
    """On another loop than that of its opening or first use every call, `aclose` too, is a `ClosedError`, before any
    I/O: the store stays open on its own.
    """
    backend = Recording()

    async def opening() -> AccountStore:
        return store_over({"main": backend})

    async def use() -> None:
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT

    async def every_call() -> None:
        for call in (*CALLS.values(), AccountStore.aclose):
            with pytest.raises(ClosedError, match="another event loop"):
                await call(store)

    if moment == "opened":
        store = anyio.run(opening, backend=kind)
    else:
        store = store_over({"main": backend})
        anyio.run(use, backend=kind)
    backend.log.clear()
    for other in ("asyncio", "trio"):
        anyio.run(every_call, backend=other)
    assert backend.log == []
    assert store.capabilities().create
    # The control: with the check undone the same calls are made.
    cast("Any", store)._resolver.storages._loop = None
    anyio.run(use, backend=kind)
    assert backend.log == ["write", "read"]


async def never(_: OAuthCredentials) -> TokenGrant:
    raise AssertionError("nothing is exchanged here")


EVERY_CALL: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    **CALLS,
    "usage": lambda store: store.usage(),
    "refresh": lambda store: store.refresh(AT, never),
    "refresh_multi": lambda store: store.refresh_multi(MULTI_AT, never),
}


@pytest.mark.parametrize("call", EVERY_CALL)
async def test_a_closed_store_is_of_no_use(call: str) -> None:
    """Every call on a closed store is a `ClosedError`, on one that was narrowed before too, and no backend is asked."""
    backend = Recording()
    store = store_over({"main": backend})
    tenant = store.scoped("mail")
    await store.save(AT, ACCOUNT)
    await store.aclose()
    backend.log.clear()
    for closed in (store, tenant):
        with pytest.raises(ClosedError):
            await EVERY_CALL[call](closed)
        with pytest.raises(ClosedError):
            closed.capabilities()
        with pytest.raises(ClosedError):
            closed.scoped("mail")
    assert backend.log == []


def test_every_public_call_is_tried_on_a_closed_store() -> None:
    """The table of calls has every public method that is awaited, but those that open and close the store."""
    public = {name for name in dir(AccountStore) if not name.startswith("_")}
    assert public - set(EVERY_CALL) == {"open", "aclose", "storages", "capabilities", "scoped"}


async def test_iterators_made_before_the_end_notice_it() -> None:
    """A listing or batch that was begun is a `ClosedError` when it would go on after the store was closed."""
    store = store_over({"main": MemoryBackend()})
    await store.save(AT, ACCOUNT)
    iterators = store.list(recursive=True), store.get_many([AT]), store.save_many([(AT, ACCOUNT)])
    await store.aclose()
    for iterator in iterators:
        with pytest.raises(ClosedError):
            await anext(aiter(cast("AsyncIterator[object]", iterator)))


async def test_closing_during_calls_ends_each_with_a_result_or_a_typed_error(store: AccountStore) -> None:
    """A store that is closed while calls are under way ends each of them with its result or an error of the library."""
    await store.save(AT, ACCOUNT)
    ends: list[object] = []

    async def end(call: Awaitable[object]) -> None:
        ends.append(await result(call))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(end, store.get(AT))
            tasks.start_soon(end, store.save(Location(f"{number}.account"), ACCOUNT))
            tasks.start_soon(end, store.update(AT, next_port))
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await store.aclose()
    assert len(ends) == 24
    assert all(isinstance(end, AccountStoreError) for end in ends if isinstance(end, Exception))


@on_asyncio
async def test_closing_goes_on_whatever_cancels_it() -> None:
    """A caller that gives up waits until every backend is closed, also one with a write that cannot be cut short."""

    class Slow(FaultyBackend):
        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            while not go_on.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            return await super().write(key, data, mode=mode, write_token=write_token)

    go_on = asyncio.Event()
    backends = [Slow(MemoryBackend()), FaultyBackend(MemoryBackend())]
    store = store_over({"slow": backends[0], "other": backends[1]})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(result, store.save(AT, ACCOUNT)))
        await anyio.wait_all_tasks_blocked()
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.aclose(), 0.01)
    assert [backend.calls["aclose"] for backend in backends] == [1, 1]


async def test_who_waits_to_decode_is_told_that_the_store_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large documents that wait for their turn of the event loop end with the store, and at their deadline."""

    async def take(*_: object) -> None:
        await anyio.sleep_forever()

    document = MultiAccount(receive_accounts=(ACCOUNT,) * 1000)
    for timeout, kind in ((60.0, ClosedError), (0.1, UnavailableError)):
        store = store_over({"main": MemoryBackend()}, timeout=timeout)
        await store.save_multi(MULTI_AT, document)
        answers: list[object] = []

        async def read(store: AccountStore, answers: list[object]) -> None:
            answers.append(await result(store.get_multi(MULTI_AT)))

        monkeypatch.setattr(Turns, "take", take)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, store, answers)
            await anyio.wait_all_tasks_blocked()
            if kind is ClosedError:
                await store.aclose()
        monkeypatch.undo()
        assert [type(answer) for answer in answers] == [kind]
        await store.aclose()
