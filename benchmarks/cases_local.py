"""Local storage against the same work written by hand, and many documents against one after another."""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from accountstore import AccountStore, AccountStoreError, Location
from benchmarks import handwritten
from benchmarks.blocks import Case, Comparison, Contender, Goal, Round, ratio, speedup, timed
from benchmarks.samples import (
    ACCOUNT,
    MULTI,
    PLAIN_ACCOUNT,
    PLAIN_MULTI,
    PlainAccount,
    PlainMultiAccount,
    one_storage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from benchmarks.blocks import Workspace

__all__ = ("CASES",)

_NAMES = 16
_KINDS = (".account", ".multi.account")
_FOLDERS = ("mail/team-a", "")
_OURS = "accountstore"
_BY_HAND = "by hand"
_BY_TEMPFILE = "by hand, with tempfile"
_IN_TURN = "one get after another"
_MANY = 10_000


class _Places:
    """A set of names in one folder of a storage of its own, whose folders exist."""

    def __init__(self, root: str, folder: str, extension: str, /) -> None:
        self.root = f"{root}/{extension[1:]}-{folder.replace('/', '-')}"
        self.folder = f"{self.root}/{folder}".rstrip("/")
        self.names = [f"user{i}{extension}" for i in range(_NAMES)]
        self.locations = [Location(name, folder=folder) for name in self.names]
        os.makedirs(self.folder, mode=0o700)


async def _save(work: Workspace, /) -> AsyncGenerator[Round]:
    for extension in _KINDS:
        for folder in _FOLDERS:
            places = _Places(f"{work.folder}/save", folder, extension)
            plain = PLAIN_ACCOUNT if extension == ".account" else PLAIN_MULTI
            async with AccountStore.open(one_storage(places.root)) as store:

                def save(i: int, store: AccountStore = store, places: _Places = places) -> Any:
                    return store.save(places.locations[i % _NAMES], ACCOUNT)

                def save_multi(i: int, store: AccountStore = store, places: _Places = places) -> Any:
                    return store.save_multi(places.locations[i % _NAMES], MULTI)

                def by_hand(i: int, places: _Places = places, plain: Any = plain) -> Any:
                    return to_thread.run_sync(handwritten.save, places.folder, places.names[i % _NAMES], plain)

                def by_tempfile(i: int, places: _Places = places, plain: Any = plain) -> Any:
                    name = places.names[i % _NAMES]
                    return to_thread.run_sync(handwritten.save_by_tempfile, places.folder, name, plain)

                ours = save if extension == ".account" else save_multi
                yield Round(
                    f"local save, *{extension}, folder {folder!r}",
                    (
                        Contender(_OURS, timed(ours)),
                        Contender(_BY_HAND, timed(by_hand)),
                        Contender(_BY_TEMPFILE, timed(by_tempfile)),
                    ),
                    (Comparison(_BY_HAND, ratio, Goal("at most", 1.15)), Comparison(_BY_TEMPFILE)),
                    work.effort(6, 10),
                )


async def _get(work: Workspace, /) -> AsyncGenerator[Round]:
    for extension in _KINDS:
        for folder in _FOLDERS:
            places = _Places(f"{work.folder}/get", folder, extension)
            single = extension == ".account"
            for name in places.names:
                handwritten.save(places.folder, name, PLAIN_ACCOUNT if single else PLAIN_MULTI)
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(PlainAccount if single else PlainMultiAccount)
            async with AccountStore.open(one_storage(places.root)) as store:
                get: Any = store.get if single else store.get_multi

                def ours(i: int, get: Any = get, places: _Places = places) -> Any:
                    return get(places.locations[i % _NAMES])

                def by_hand(i: int, places: _Places = places, decoder: Any = decoder) -> Any:
                    return to_thread.run_sync(handwritten.get, places.folder, places.names[i % _NAMES], decoder)

                yield Round(
                    f"local get, *{extension}, folder {folder!r}",
                    (Contender(_OURS, timed(ours)), Contender(_BY_HAND, timed(by_hand))),
                    (Comparison(_BY_HAND, ratio, Goal("at most", 1.3)),),
                    work.effort(20, 25),
                )


class _Many:
    """Reads a number of documents, all together or one after another."""

    def __init__(self, store: AccountStore, locations: list[Location], /) -> None:
        self._store = store
        self._locations = locations

    async def together(self, count: int, /) -> float:
        wanted = self._locations[:count]
        started = perf_counter()
        found = 0
        async for _, result in self._store.get_many(wanted):
            if isinstance(result, AccountStoreError):
                raise result
            found += 1
        seconds = perf_counter() - started
        if found != count:
            raise AssertionError(f"{found} of {count} documents")
        return seconds

    async def in_turn(self, count: int, /) -> float:
        wanted = self._locations[:count]
        started = perf_counter()
        for location in wanted:
            await self._store.get(location)
        return perf_counter() - started


async def _get_many(work: Workspace, /) -> AsyncGenerator[Round]:
    data = msgspec.json.encode(PLAIN_ACCOUNT)
    effort = work.effort(1, _MANY)
    for folders in (1, 100):
        root = f"{work.folder}/get_many-{folders}"
        for i in range(folders):
            os.makedirs(f"{root}/mail/team-{i}", mode=0o700)
        # Neighbours in the list are in different folders.
        locations = [Location(f"user{i}.account", folder=f"mail/team-{i % folders}") for i in range(effort.operations)]
        for location in locations:
            with open(f"{root}/{location.path}", "wb") as file:
                file.write(data)
        async with AccountStore.open(one_storage(root)) as store:
            many = _Many(store, locations)
            yield Round(
                f"local get_many, {effort.operations:,} *.account, folders: {folders}",
                (Contender("get_many", many.together), Contender(_IN_TURN, many.in_turn)),
                (Comparison(_IN_TURN, speedup, Goal("at least", 5)),),
                effort,
            )


CASES = (Case("save", _save), Case("get", _get), Case("get_many", _get_many))
