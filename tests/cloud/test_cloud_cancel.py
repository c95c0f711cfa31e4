"""Cancelled at each await, forked, or on another event loop: a store on an object store leaves whole documents only."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio import get_running_tasks
from cancelling import by_scope, by_task, cancelled_after, each_way
from cloudtargets import NEW, OLD, TARGETS, Target, assert_closed, need_packages, on_each_target
from running import HUNG, PYTHON, patiently

from accountstore import Account, AccountStore, Location, UnavailableError, UncertainError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from cancelling import Way
    from cloudstub import Stub

    from accountstore.backends.base import Backend

pytestmark = [pytest.mark.anyio, pytest.mark.once]

STEPS = (1, 2, 3, 5, 8, 13, 21)
MOMENTS = (0.1, 0.5, 0.9, 1.2)
"""Parts of the time that the call takes when nothing disturbs it."""
CALM = 2 * HUNG
"""The deadline where it plays no part."""
PATIENCE = (0.4, 4.0, 40.0)
"""Deadlines in seconds, one after another: on a loaded machine a request may not be on its way before the first."""


async def listed(store: AccountStore, at: Location) -> None:
    assert [entry.location async for entry in store.list(at.folder)] == [at]


async def swapped(store: AccountStore, at: Location) -> None:
    await store.save(at, NEW, mode=(await store.read(at)).version)


OPERATIONS: Mapping[str, tuple[Callable[[AccountStore, Location], Awaitable[object]], set[Account | None]]] = {
    "get": (lambda store, at: store.get(at), {OLD}),
    "list": (listed, {OLD}),
    "save": (lambda store, at: store.save(at, NEW), {OLD, NEW}),
    "create": (lambda store, at: store.save(at, NEW, mode="create"), {None, NEW}),
    "swap": (swapped, {OLD, NEW}),
    "update": (lambda store, at: store.update(at, lambda _: NEW), {OLD, NEW}),
    "delete": (lambda store, at: store.delete(at), {OLD, None}),
}


def tasks_of(store: AccountStore) -> int:
    """How many tasks run on the event loop that the store keeps in a thread for trio."""
    backend: Any = cast("Any", store)._resolver.storages.find("cloud").client.backend
    count = 0
    for one in (backend, getattr(backend, "_sibling", None)):
        loop = getattr(getattr(one, "bridge", None), "_loop", None)
        count += 0 if loop is None else len(asyncio.all_tasks(loop))
    return count


@asynccontextmanager
async def opened(target: Target, stub: Stub, **settings: Any) -> AsyncGenerator[AccountStore]:
    """A store whose client is open, and that leaves no task and no connection when it is closed."""
    tasks = {task.id for task in get_running_tasks()}
    async with AccountStore.open(target.config(stub.url, **settings)) as store:
        await patiently(lambda: store.exists(Location("warm.account", folder="warm")))
        yield store
        await nothing_runs(store, tasks)
    assert {task.id for task in get_running_tasks()} == tasks
    gc.collect()
    await assert_closed(stub)


async def nothing_runs(store: AccountStore, tasks: set[int]) -> None:
    """The store has no task of its own left, on this event loop or on its thread's."""
    deadline = time.monotonic() + HUNG
    while {task.id for task in get_running_tasks()} != tasks or tasks_of(store):
        assert time.monotonic() < deadline, (get_running_tasks(), tasks_of(store))
        await anyio.sleep(0.005)


class Cut:
    """Documents of their own for calls that are cut off, and what became of them."""

    def __init__(self, target: Target, stub: Stub, store: AccountStore, name: str) -> None:
        self.target, self.stub, self.store, self.name = target, stub, store, name
        self.left: dict[Location, Account | None] = {}

    async def make(self, by: Way, moment: Callable[[], Awaitable[object]], times: int = 1) -> bool:
        """Make a call that is cancelled at a moment, and look at its document. Whether it was cut off."""
        at = Location("a.account", folder=f"f{len(self.left)}")
        call, allowed = OPERATIONS[self.name]
        if self.name != "create":
            self.target.put(self.stub, at, OLD)
        cancelled = await cancelled_after(by, partial(call, self.store, at), moment, times)
        found = self.left[at] = self.target.found(self.stub, at)
        assert found in allowed, (at, found)
        return cancelled

    async def look_again(self) -> None:
        """A while later, each document is as it was when its call ended, and the store goes on."""
        await anyio.sleep(0.06)
        assert {at: self.target.found(self.stub, at) for at in self.left} == self.left
        self.stub.mode(delay=0)
        at = Location("next.account", folder="next")
        await self.store.save(at, OLD)
        assert (await self.store.update(at, lambda _: NEW)).document == NEW
        assert self.target.found(self.stub, at) == NEW


async def turns(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@each_way(by_scope, by_task)
@on_each_target
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_each_await(stub: Stub, target: Target, name: str, by: Way) -> None:
    """Cancelled after some steps, twice, or at some moment while the server answers, the document is old or new."""
    async with opened(target, stub, timeout=CALM) as store:
        cut = Cut(target, stub, store, name)
        stub.mode(delay=0.01)
        started = time.monotonic()
        assert not await cut.make(by, anyio.sleep_forever)
        whole = time.monotonic() - started
        assert await cut.make(by, partial(turns, 0), times=2)
        for steps in STEPS:
            await cut.make(by, partial(turns, steps), times=2)
        for part in MOMENTS:
            await cut.make(by, partial(anyio.sleep, whole * part))
        assert stub.connections()["open"] < 24
        await cut.look_again()


@on_each_target
async def test_a_call_in_a_cancelled_scope_sends_nothing(stub: Stub, target: Target) -> None:
    """A backend that is called when its caller is cancelled already makes no request, which could arrive later."""
    async with opened(target, stub, timeout=CALM) as store:
        backend: Backend = cast("Any", store)._resolver.storages.find("cloud").client.backend
        before = stub.count()
        for call in (
            partial(backend.read, "f/a.account", limit=1),
            partial(backend.stat, "f/a.account"),
            partial(backend.write, "f/a.account", b"{}", mode="overwrite"),
            partial(backend.delete, "f/a.account"),
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        await anyio.sleep(0.06)
        assert stub.count() == before


async def cancelled_when_sent(stub: Stub, call: Callable[[], Awaitable[object]]) -> bool:
    """Cancel a call when the server has a request of it; whether it was cancelled: its deadline may have come first."""
    before = stub.count()

    async def sent() -> None:
        while stub.count() == before:
            await anyio.sleep(0.005)

    with suppress(UnavailableError):
        return await cancelled_after(by_scope, call, sent)
    return False


@on_each_target
@pytest.mark.parametrize("name", ["get", "list"])
async def test_a_read_that_hangs_is_left_at_once(stub: Stub, target: Target, name: str) -> None:
    """A read from a server that never answers ends when it is cancelled, and not only with its deadline."""
    async with opened(target, stub, timeout=CALM) as store:
        at = Location("a.account", folder="f")
        target.put(stub, at, OLD)
        stub.faults([{"nth": 1, "kind": "hang"}])
        with anyio.fail_after(HUNG):
            assert await cancelled_when_sent(stub, partial(OPERATIONS[name][0], store, at))
        await OPERATIONS[name][0](store, at)


@on_each_target
@pytest.mark.parametrize("name", ["save", "create", "delete"])
async def test_a_cancelled_write_waits_no_longer_than_its_deadline(stub: Stub, target: Target, name: str) -> None:
    """A write to a server that never answers is awaited though it is cancelled, until its deadline and no longer."""
    for timeout in PATIENCE:
        stub.reset()
        async with opened(target, stub, timeout=timeout) as store:
            at = Location("a.account", folder="f")
            if name != "create":
                target.put(stub, at, OLD)
            stub.faults([{"nth": 1, "kind": "hang-after"}])
            started = time.monotonic()
            with anyio.fail_after(HUNG):
                cancelled = await cancelled_when_sent(stub, partial(OPERATIONS[name][0], store, at))
            if not cancelled:
                continue
            assert time.monotonic() - started > 0.9 * timeout
            assert target.found(stub, at) == (None if name == "delete" else NEW)
            stub.faults([{"nth": 1, "kind": "hang"}])
            with pytest.raises(UncertainError):
                await store.save(at, NEW)
            break
    else:
        pytest.fail("the deadline always comes before the request")


# --- processes --------------------------------------------------------------------------------------------------------


def python(script: str, *arguments: str, flags: tuple[str, ...] = ("-X", "dev")) -> subprocess.CompletedProcess[str]:
    """Run a script that finds what these tests share; it ends by itself, or is ended.

    What asyncio's debug mode says of a slow machine is left out.
    """
    tests = Path(__file__).parents[1]
    head = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests / 'servers')!r}]\n"
    head += "import asyncio, json, logging, os, time, anyio\n"
    head += "logging.getLogger('asyncio').addFilter(lambda one: not one.getMessage().startswith('Executing '))\n"
    head += "from accountstore import *\nfrom cloudtargets import *\ntargets = [Target(*one) for one in "
    head += "json.loads(sys.argv[2])]\nurl = sys.argv[1]\nat = Location('a.account', folder='f')\n"
    command = [*PYTHON, *flags, "-c", head + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HUNG, check=False)


FORKED = """
async def refused(store):
    for call in (store.get(at), store.save(at, OLD), store.save(at, OLD, mode="create"), store.delete(at)):
        try:
            with anyio.fail_after(300):
                await call
        except ClosedError:
            continue
        return False
    return True
async def main(target):
    async with AccountStore.open(target.config(url, timeout=600)) as store:
        await store.save(at, OLD)
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if asyncio.run(refused(store)) else 2
            finally:
                os._exit(code)
        deadline = time.monotonic() + 300
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            assert time.monotonic() < deadline, "the child hangs"
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(status) == 0
        await store.save(at, NEW)
        assert await store.get(at) == NEW
    other = await AccountStore.open(target.config(url, timeout=600))
    await other.get(at)
    assert await anyio.to_thread.run_sync(anyio.run, refused, other)
    assert await other.get(at) == NEW
    await other.aclose()
import warnings
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
for target in targets:
    anyio.run(main, target)
print("done")
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("target", TARGETS[::3], ids=lambda target: target.name)
async def test_after_a_fork_and_on_another_loop_a_store_is_closed(stub: Stub, target: Target) -> None:
    """In a child and on a second event loop a store says `ClosedError` at once; where it was opened it goes on."""
    need_packages(target.service, target.engine)
    run = python(FORKED, stub.url, json.dumps([target]))
    assert (run.stdout, run.stderr, run.returncode) == ("done\n", "", 0)


TWICE = """
import gc
async def main(target):
    async with AccountStore.open(target.config(url, timeout=600)) as store:
        await store.save(at, OLD)
        assert (await store.update(at, lambda _: NEW)).document == NEW
        assert await store.get(at) == NEW
        assert [entry.location async for entry in store.list("f")] == [at]
        await store.delete(at, version=(await store.read(at)).version)
for target in targets:
    for loop in sys.argv[3:]:
        anyio.run(main, target, backend=loop)
        gc.collect()
"""


@on_each_target
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stores_on_loops_one_after_another_leave_nothing(stub: Stub, target: Target) -> None:
    """Event loops one after another have a store each; nothing is printed, not at the exit either, and the code is 0.

    Warnings are errors in the second run.
    """
    need_packages(target.service, target.engine)
    run = python(TWICE, stub.url, json.dumps([target]), "asyncio", "asyncio", "trio")
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    # What the clients themselves do at import is not ours.
    run = python(TWICE, stub.url, json.dumps([target]), "asyncio", flags=("-X", "dev", "-W", "error::ResourceWarning"))
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)


@on_each_target
async def test_closing_after_a_read_that_hung_leaves_nothing(stub: Stub, target: Target) -> None:
    """A read that has hung until its deadline leaves no connection when its store is closed."""
    async with opened(target, stub, timeout=0.4, attempts=1) as store:
        stub.faults([{"nth": 1, "kind": "hang"}])
        with pytest.raises(UnavailableError):
            await store.get(Location("a.account", folder="f"))
