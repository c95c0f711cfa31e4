"""What the facade adds to a dict look-up and a decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from accountstore import AccountStore, Location
from benchmarks.blocks import Case, Comparison, Contender, Goal, Round, added, timed, timed_calls
from benchmarks.samples import ACCOUNT, MULTI, PLAIN_ACCOUNT, PLAIN_MULTI, PlainAccount, PlainMultiAccount, one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from benchmarks.blocks import Workspace

__all__ = ("CASES",)

_BY_HAND = "dict and decode"


async def _memory(work: Workspace, /) -> AsyncGenerator[Round]:
    async with AccountStore.open(one_storage("memory://")) as store:
        location = Location("user.account", folder="mail/team-a")
        await store.save(location, ACCOUNT)
        table = {location: msgspec.json.encode(PLAIN_ACCOUNT)}
        decoder = msgspec.json.Decoder(PlainAccount)
        yield Round(
            "memory get, account",
            (
                Contender("accountstore", timed(lambda _: store.get(location))),
                Contender(_BY_HAND, timed_calls(lambda _: decoder.decode(table[location]))),
            ),
            (Comparison(_BY_HAND, added, Goal("at most", 20)),),
            work.effort(10, 200),
        )
        several = Location("user.multi.account", folder="mail/team-a")
        await store.save_multi(several, MULTI)
        table[several] = msgspec.json.encode(PLAIN_MULTI)
        multi_decoder = msgspec.json.Decoder(PlainMultiAccount)
        yield Round(
            "memory get, multi account",
            (
                Contender("accountstore", timed(lambda _: store.get_multi(several))),
                Contender(_BY_HAND, timed_calls(lambda _: multi_decoder.decode(table[several]))),
            ),
            (Comparison(_BY_HAND, added, Goal("at most", 20)),),
            work.effort(10, 200),
        )


CASES = (Case("memory", _memory),)
