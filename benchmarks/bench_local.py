"""Local storage against the same work written by hand, and many documents against one after another."""

from __future__ import annotations

import os
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from accountstore import AccountStore, AccountStoreError, Location
from benchmarks import baseline
from benchmarks.harness import SPEEDUP, Comparison, Contender, Goal, Round, timed
from benchmarks.samples import SAMPLES, Sample, one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

    from benchmarks.harness import Case, Run, Workspace

_NAMES = 16
_OURS = "accountstore"
_BY_HAND = "by hand"
_BY_TEMPFILE = "by hand, with tempfile"
_IN_TURN = "one get after another"
_MANY = 10_000


class _Folder:
    """Names of one kind in a folder, which exists, of a storage of its own."""

    def __init__(self, root: str, folder: str, sample: Sample, /) -> None:
        self.root = f"{root}/{sample.extension[1:]}-{folder.replace('/', '-')}"
        self.path = f"{self.root}/{folder}".rstrip("/")
        self.names = [f"user{i}{sample.extension}" for i in range(_NAMES)]
        self.locations = [Location(name, folder=folder) for name in self.names]
        self.sample = sample
        self.title = f"*{sample.extension}, folder {folder!r}"
        os.makedirs(self.path, mode=0o700)

    def saves(self, store: AccountStore, /) -> Sequence[Contender]:
        ours: Any = getattr(store, f"save{self.sample.methods}")
        document, plain = self.sample.document, self.sample.plain

        def by_hand(save: Any) -> Run:
            return timed(lambda i: to_thread.run_sync(save, self.path, self.names[i % _NAMES], plain))

        return (
            Contender(_OURS, timed(lambda i: ours(self.locations[i % _NAMES], document))),
            Contender(_BY_HAND, by_hand(baseline.save)),
            Contender(_BY_TEMPFILE, by_hand(baseline.save_by_tempfile)),
        )

    def gets(self, store: AccountStore, /) -> Sequence[Contender]:
        ours: Any = getattr(store, f"get{self.sample.methods}")
        decoder = msgspec.json.Decoder(self.sample.plain_kind)
        for name in self.names:
            baseline.save(self.path, name, self.sample.plain)

        def by_hand(i: int) -> Any:
            return to_thread.run_sync(baseline.get, self.path, self.names[i % _NAMES], decoder)

        return (
            Contender(_OURS, timed(lambda i: ours(self.locations[i % _NAMES]))),
            Contender(_BY_HAND, timed(by_hand)),
        )


def _folders(root: str, /) -> Iterator[_Folder]:
    for sample, folder in product(SAMPLES, ("mail/team-a", "")):
        yield _Folder(root, folder, sample)


async def _save(work: Workspace, /) -> AsyncGenerator[Round]:
    comparisons = (Comparison(_BY_HAND, goal=Goal("at most", 1.15)), Comparison(_BY_TEMPFILE))
    for folder in _folders(f"{work.folder}/save"):
        async with AccountStore.open(one_storage(folder.root)) as store:
            yield Round(f"local save, {folder.title}", folder.saves(store), comparisons, work.effort(6, 10))


async def _get(work: Workspace, /) -> AsyncGenerator[Round]:
    comparisons = (Comparison(_BY_HAND, goal=Goal("at most", 1.3)),)
    for folder in _folders(f"{work.folder}/get"):
        async with AccountStore.open(one_storage(folder.root)) as store:
            yield Round(f"local get, {folder.title}", folder.gets(store), comparisons, work.effort(20, 25))


def _many(store: AccountStore, locations: Sequence[Location], /) -> Sequence[Contender]:
    async def together(times: int) -> float:
        wanted, found = locations[:times], 0
        started = perf_counter()
        async for _, result in store.get_many(wanted):
            if isinstance(result, AccountStoreError):
                raise result
            found += 1
        seconds = perf_counter() - started
        if found != times:
            raise AssertionError(f"{found} of {times} documents")
        return seconds

    in_turn = timed(lambda i: store.get(locations[i % len(locations)]))
    return Contender("get_many", together), Contender(_IN_TURN, in_turn)


async def _get_many(work: Workspace, /) -> AsyncGenerator[Round]:
    effort = work.effort(1, _MANY)
    for folders in (1, 100):
        root = f"{work.folder}/get_many-{folders}"
        for i in range(folders):
            os.makedirs(f"{root}/mail/team-{i}", mode=0o700)
        # Neighbours in the list are in different folders.
        locations = [Location(f"user{i}.account", folder=f"mail/team-{i % folders}") for i in range(effort.operations)]
        for location in locations:
            with open(f"{root}/{location.path}", "wb") as file:
                file.write(SAMPLES[0].json)
        async with AccountStore.open(one_storage(root)) as store:
            yield Round(
                f"local get_many, {effort.operations:,} *.account, folders: {folders}",
                _many(store, locations),
                (Comparison(_IN_TURN, SPEEDUP, Goal("at least", 5)),),
                effort,
            )


CASES: Mapping[str, Case] = {"save": _save, "get": _get, "get_many": _get_many}
