"""What the facade adds to a dict look-up and a decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from accountstore import AccountStore, Location
from benchmarks.harness import ADDED, Comparison, Contender, Goal, Round, timed, timed_calls
from benchmarks.samples import SAMPLES, Sample, one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from benchmarks.harness import Case, Workspace

_BY_HAND = "dict and decode"


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


CASES: Mapping[str, Case] = {"memory": _memory}
