"""What the facade adds to a dict look-up and a decode: in time, and in calls of the package's own functions."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

import accountstore
from accountstore import Account, AccountStore, Location, PasswordCredentials
from benchmarks.harness import ADDED, Comparison, Count, Goal, Round, timed
from benchmarks.samples import SAMPLES, Sample
from benchmarks.sides import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from benchmarks.harness import Run, Workspace

_BY_HAND = "dict and decode"
_PACKAGE = os.path.dirname(accountstore.__file__) + os.sep
_AT = Location("user.account", folder="mail/team-a")


async def memory(work: Workspace, /) -> AsyncGenerator[Round]:
    async with open_store("memory://") as store:
        for sample in SAMPLES:
            location = Location(f"user{sample.extension}", folder="mail/team-a")
            await getattr(store, f"save{sample.methods}")(location, sample.document)
            comparison = Comparison(_BY_HAND, Goal("at most", 20), ADDED)
            runs = _contenders(store, location, sample)
            yield Round(f"memory get, *{sample.extension}", runs, [comparison], work.effort(10, 200))


def _contenders(store: AccountStore, location: Location, sample: Sample, /) -> dict[str, Run]:
    get: Any = getattr(store, f"get{sample.methods}")
    table, decoder = {location: sample.json}, msgspec.json.Decoder(sample.plain_kind)

    async def by_hand(times: int) -> float:
        started = perf_counter()
        for _ in range(times):
            decoder.decode(table[location])
        return perf_counter() - started

    return {"accountstore": timed(lambda _: get(location)), _BY_HAND: by_hand}


async def count_calls(operation: Callable[[], Awaitable[object]], /) -> int:
    """How often the operation enters a function of the package; a coroutine that goes on is entered again.

    It is done once before, so that what only the first call does is not counted.
    """
    calls = 0

    def note(frame: Any, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(_PACKAGE)

    await operation()
    sys.setprofile(note)
    try:
        await operation()
    finally:
        sys.setprofile(None)
    return calls


async def calls(work: Workspace, /) -> AsyncGenerator[list[Count]]:
    account = Account(host="host", port=993, credentials=PasswordCredentials(login="login", password="password"))
    async with open_store("memory://") as store:
        save = await count_calls(lambda: store.save(_AT, account))
        get = await count_calls(lambda: store.get(_AT))
    numbers = {"get": (get, Goal("at most", 30)), "save": (save, Goal("at most", 42))}
    yield [Count("calls of the package's functions", "memory", name, *number) for name, number in numbers.items()]
