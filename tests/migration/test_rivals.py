"""Services write at both ends while a migration runs; and the cut-over of the README loses no update."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from migrating import SOURCE, TARGET, account, config, files, found, put, source, target
from msgspec.structs import replace
from running import patiently

from accountstore import AccountStore, ConflictError, ExistsError, NotFoundError
from accountstore.migration import Options, migrate, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from accountstore import Account, Location

pytestmark = pytest.mark.anyio

NAMES = [f"f{number % 3}/{number:03}.account" for number in range(60)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AccountStore]:
    async with AccountStore.open(config(tmp_path)) as opened:
        for name in NAMES:
            await put(opened, source(name), "first")
        yield opened


class Service:
    """Creates, updates and deletes documents, and knows what it was acknowledged last for each."""

    def __init__(self, store: AccountStore, at: Callable[[str], Location], seed: int, /) -> None:
        self._store = store
        self._at = at
        self._random = random.Random(seed)
        self.last: dict[str, str | None] = {}
        self.count = 0

    async def write(self, times: int, /) -> None:
        """So many changes of any document."""
        for _ in range(times):
            self.count += 1
            name, word = self._random.choice(NAMES), f"{self._at(NAMES[0]).storage}-{self.count}".lower()
            kind = self._random.choice(["save", "save", "create", "delete"])
            try:
                if kind == "delete":
                    await self._store.delete(self._at(name))
                    self.last[name] = None
                else:
                    await self._store.save(
                        self._at(name), account(word), mode="create" if kind == "create" else "overwrite"
                    )
                    self.last[name] = word
            except ExistsError:
                pass
            await anyio.sleep(0)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.once) for seed in (1, 2, 3))])
async def test_writers_at_both_ends(store: AccountStore, tmp_path: Path, seed: int) -> None:
    """Services update, create and delete at both ends while runs pass over them. Nothing that the target's service was
    acknowledged is overwritten or put back; the source is never written; what differs at last is a conflict that is
    told, newer at the target, or removed there; and a further pass finds nothing to do.
    """
    kept = files(tmp_path)
    old, new = Service(store, source, seed), Service(store, target, seed + 100)
    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(old.write, 40)
            tasks.start_soon(new.write, 40)
            async for _ in migrate(store, SOURCE, TARGET, **kept):
                await anyio.sleep(0)
    told = {outcome.name: outcome.outcome async for outcome in migrate(store, SOURCE, TARGET, **kept)}
    for name in NAMES:
        ends = await found(store, source(name)), await found(store, target(name))
        if name in old.last:
            assert ends[0] == old.last[name]
        if name in new.last and ends[1] != new.last[name]:
            # A migration may only have put a document where the service had left none that the journal knew.
            assert ends[1] is not None
            assert ends[1].startswith(("old-", "first"))
            assert new.last[name] is None
        match told.get(name):
            case "same" | "copied" | "changed":
                assert ends[0] == ends[1]
            case "conflict":
                assert ends[0] not in {None, ends[1]}
            case "newer":
                assert None not in ends
            case "removed":
                assert ends[1] is None
            case "gone" | "foreign":
                assert ends[0] is None
            case word:
                assert word is None
                assert ends == (None, None)
    again = [outcome.outcome async for outcome in migrate(store, SOURCE, TARGET, **kept)]
    assert not {"copied", "changed"} & {*again}


def counted(account: Account, /) -> Account:
    return replace(account, port=account.port + 1)


async def test_the_cut_over_loses_no_update(store: AccountStore, tmp_path: Path) -> None:
    """As the README has it: pass after pass while the services update at the old place, then each service begins to use
    the new place, and the last passes. Every acknowledged update is in the document at the end, or in the conflict that
    names it; and the old place is empty but for these.
    """
    kept = files(tmp_path)
    updates: defaultdict[str, int] = defaultdict(int)
    missed: set[str] = set()
    place = {"at": source}

    async def service(number: int) -> None:
        """Updates documents of its own where the configuration says they are, which it reads again at each update."""
        mine = NAMES[number::4]
        turns = random.Random(number)
        for _ in range(60):
            name = turns.choice(mine)
            try:
                await patiently(partial(store.update, place["at"](name), counted))
            except NotFoundError:
                missed.add(name)
            else:
                updates[name] += 1
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(service, number)
        copied = len(NAMES)
        while copied > 15:
            report = await migrate(store, SOURCE, TARGET, **kept)
            copied = sum(report.totals[word].documents for word in ("copied", "changed") if word in report.totals)
        place["at"] = target
    report = await migrate(store, SOURCE, TARGET, **kept)
    assert report.complete
    conflicts = {
        outcome.name async for outcome in migrate(store, SOURCE, TARGET, **kept) if outcome.outcome == "conflict"
    }
    checked = await verify(store, SOURCE, TARGET, **kept)
    assert {outcome.outcome for outcome in checked.outcomes if outcome.name not in conflicts} <= {"same", "newer"}
    await migrate(store, SOURCE, TARGET, options=Options(delete_source=True), **kept)
    assert sum(updates.values()) > 100
    assert not missed
    lost = 0
    for name in NAMES:
        new = (await store.get(target(name))).port - account("first").port
        if name in conflicts:
            old = (await store.get(source(name))).port - account("first").port
            assert new < updates[name] <= old + new
        else:
            assert await found(store, source(name)) is None
            lost += updates[name] - new
    assert lost == 0
    assert len(conflicts) < len(NAMES)


async def test_control_a_plain_copy_loses_updates(store: AccountStore) -> None:
    """Control: copied again without conditions, as a synchronisation does, the update at the new place is lost."""
    name = NAMES[0]
    await store.copy(source(name), target(name))
    await store.update(target(name), counted)
    await store.copy(source(name), target(name))
    assert (await store.get(target(name))).port == account("first").port
    with pytest.raises(ConflictError):
        await store.copy(source(name), target(name), mode=(await store.read(source(name))).version)
