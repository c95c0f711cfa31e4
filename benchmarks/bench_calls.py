"""How many calls of the package's Python functions one operation is: counted, so the same on every machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import accountstore
from accountstore import Account, AccountStore, Location, PasswordCredentials
from benchmarks.harness import Count, Goal, Tally
from benchmarks.samples import one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from benchmarks.harness import Case, Workspace

_PACKAGE = os.path.dirname(accountstore.__file__) + os.sep


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


CASES: Mapping[str, Case] = {"calls": _calls}
