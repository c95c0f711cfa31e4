"""Processes that call stores on the same documents at once, record it, and are killed at random.

`python recording.py`, with a `Plan` as JSON on its standard input, imports the library once. Each round it forks
clients, which open a store each and begin together; it kills one of them in the midst of most rounds; at last one that
nothing disturbs reads each document. Each process writes a log of its own: `ROUND-PROCESS.log`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import anyio
import msgspec

from accountstore import AccountStore, AccountStoreError, Encryption, Location, StorageConfig, StoreConfig, retry
from accountstore.registry import find_backend
from accountstore.testing import Recorder, exercise
from accountstore.testing.histories.checker import CallName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLIENTS = 3
TASKS = 2
CALLS = 6
LOG_OF_A_DOCUMENT = 1500
LOOPS = ("asyncio", "trio")


class Plan(msgspec.Struct):
    """What to do: so many rounds with so many documents each. The storage is reached by its options, and by the last
    reader by others. `blindly` takes the look before a repetition away. With `keys`, a key file, documents
    are sealed. `names` are the calls to make, by default all.
    """

    folder: str
    url: str
    options: dict[str, Any]
    undisturbed: dict[str, Any]
    engine: Literal["fsspec", "obstore"] = "fsspec"
    rounds: int = 1
    documents: int = 20
    seed: int = 0
    timeout: float = 4.0
    blindly: bool = False
    keys: str = ""
    names: Sequence[CallName] = ()


async def repeat_blindly(writing: Any, _: object) -> Any:
    """Instead of a condition on what is there: as a store would do that does not look."""
    return writing.write


def locations(plan: Plan, number: int) -> list[Location]:
    """The documents of a round."""
    return [Location(f"{plan.seed}-{number}-{i}.account", folder="histories") for i in range(plan.documents)]


def opened(plan: Plan, options: dict[str, Any], timeout: float) -> Any:
    """A store."""
    encryption = Encryption(keys=plan.keys, required=True) if plan.keys else None
    storage = StorageConfig(plan.url, options, engine=plan.engine, timeout=timeout, encryption=encryption)
    return AccountStore.open(StoreConfig(storages={"one": storage}))


async def call(plan: Plan, number: int, client: int, log: int, begin: int) -> None:
    """What a client does: calls on each document, in several tasks."""
    async with opened(plan, plan.options, plan.timeout) as store:
        with suppress(AccountStoreError):
            await store.exists(Location("first.account"))
        os.read(begin, 1)
        async with anyio.create_task_group() as tasks:
            for location in locations(plan, number):
                for task in range(TASKS):
                    recorder = Recorder(store, location, log, f"{client}.{task}")
                    tasks.start_soon(exercise, recorder, Random(f"{location} {client} {task}"), CALLS, plan.names)


async def read(plan: Plan, number: int, log: int) -> None:
    """What the last reader does."""
    async with opened(plan, plan.undisturbed, 60.0) as store:
        for location in locations(plan, number):
            await Recorder(store, location, log, "end").get()


def fork(path: str, loop: str, call: Callable[[int], Awaitable[None]]) -> int:
    """Start a process that runs a call, which is told the descriptor of its log."""
    child = os.fork()
    if not child:
        try:
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            anyio.run(call, log, backend=loop)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    return child


def run_round(plan: Plan, number: int, random: Random) -> bool:
    """Run the clients of a round, then the last reader; whether a client was killed."""
    begin, start = os.pipe()
    children: list[int] = []
    for client in range(CLIENTS):
        path = f"{plan.folder}/{number}-{client}.log"
        client_of = partial(_begin_together, plan, number, client, begin, start)
        children.append(fork(path, random.choice(LOOPS), client_of))
    os.close(start)
    os.close(begin)
    doomed = random.randrange(CLIENTS) if random.random() < 0.7 else None
    if doomed is not None:
        _wait_for(f"{plan.folder}/{number}-{doomed}.log", random.randrange(plan.documents * LOG_OF_A_DOCUMENT))
        os.kill(children[doomed], signal.SIGKILL)  # it may have ended: it is not waited for yet
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    killed = doomed is not None and codes[doomed] == -signal.SIGKILL
    assert [code for code in codes if code] == [-signal.SIGKILL] * killed, codes
    last = fork(f"{plan.folder}/{number}-end.log", "asyncio", partial(read, plan, number))
    assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
    return killed


def _wait_for(log: str, size: int) -> None:
    """Until a log has a size, or does not grow."""
    before, at = -1, time.monotonic()
    while time.monotonic() < at + 1:
        with suppress(FileNotFoundError):
            now = os.stat(log).st_size
            if now >= size:
                return
            before, at = now, at if now == before else time.monotonic()
        time.sleep(0.0005)


async def _begin_together(plan: Plan, number: int, client: int, begin: int, start: int, log: int) -> None:
    os.close(start)
    await call(plan, number, client, log, begin)


def main() -> None:
    """Run the plan; print how many clients were killed."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    find_backend(StorageConfig(plan.url).scheme, plan.engine)
    for loop in LOOPS:
        anyio.run(anyio.sleep, 0, backend=loop)
    if plan.blindly:
        retry._Writing._repeatable = repeat_blindly  # type: ignore[method-assign]
    random = Random(plan.seed)
    print(sum(run_round(plan, number, random) for number in range(plan.rounds)))


if __name__ == "__main__":
    main()
