"""`get` and `save` of one account, by the library or by another way: what most cases compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from accountstore import AccountStore, Location
from benchmarks.harness import TASKS, Contender, Operation, Run, in_flight
from benchmarks.samples import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = TASKS
"""So that each task has a document of its own."""
LOCATIONS = [Location(f"user{i}.account", folder="mail/team-a") for i in range(NAMES)]
KEYS = [location.path for location in LOCATIONS]


class Side(NamedTuple):
    """The two operations."""

    get: Operation
    save: Operation


def our_side(store: AccountStore, /) -> Side:
    """The library's."""

    def get(i: int) -> Any:
        return store.get(LOCATIONS[i % NAMES])

    def save(i: int) -> Any:
        return store.save(LOCATIONS[i % NAMES], ACCOUNT)

    return Side(get, save)


def contenders(sides: Mapping[str, Side], name: str, run: Callable[[Operation], Run] = in_flight, /) -> list[Contender]:
    """One operation of all sides."""
    return [Contender(label, run(getattr(side, name))) for label, side in sides.items()]


async def fill(*sides: Side) -> None:
    """Write every document and read one, so that what connects on first use has connected."""
    for side in sides:
        await in_flight(side.save)(NAMES)
        await side.get(0)
