"""What the facade adds to a dict look-up and a decode: in time, and in calls of the package's own functions."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec

import accountstore
from accountstore import Account, AccountStore, Location, PasswordCredentials
from benchmarks.harness import ADDED, Comparison, Contender, Count, Goal, Round, Tally, timed, timed_calls
from benchmarks.samples import SAMPLES, Sample, one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from benchmarks.harness import Case, Workspace

_BY_HAND = "dict and decode"
_PACKAGE = os.path.dirname(accountstore.__file__) + os.sep


async def _memory(work: Workspace, /) -> AsyncGenerator[Round]:
    async with AccountStore.open(one_storage("memory://")) as store:
        for sample in SAMPLES:
            location = Location(f"user{sample.extension}", folder="mail/team-a")
            await getattr(store, f"save{sample.methods}")(location, sample.document)
            yield Round(
                f"memory get, *{sample.extension}",
                _contenders(store, location, sample),
                (Comparison(_BY_HAND, ADDED, Goal("at most", 20)),),
                work.effort(10, 200),
            )


def _contenders(store: AccountStore, location: Location, sample: Sample, /) -> tuple[Contender, Contender]:
    get: Any = getattr(store, f"get{sample.methods}")
    table, decoder = {location: sample.json}, msgspec.json.Decoder(sample.plain_kind)
    return (
        Contender("accountstore", timed(lambda _: get(location))),
        Contender(_BY_HAND, timed_calls(lambda _: decoder.decode(table[location]))),
    )


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


async def _calls(work: Workspace, /) -> AsyncGenerator[Tally]:
    location = Location("user.account", folder="mail/team-a")
    account = Account(host="host", port=993, credentials=PasswordCredentials(login="login", password="password"))
    async with AccountStore.open(one_storage("memory://")) as store:
        save = await count_calls(lambda: store.save(location, account))
        get = await count_calls(lambda: store.get(location))
    counts = (Count("memory", "get", get, Goal("at most", 30)), Count("memory", "save", save, Goal("at most", 42)))
    yield Tally("calls of the package's functions", counts)


CASES: Mapping[str, Case] = {"memory": _memory, "calls": _calls}
