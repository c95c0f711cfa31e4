"""Local storage against the same work by hand, many documents against one after another, and other libraries beside."""

from __future__ import annotations

import os
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio

from accountstore import AccountStore, AccountStoreError, Location, StorageConfig, StoreConfig
from benchmarks.harness import SPEEDUP, Comparison, Goal, Round, timed
from benchmarks.samples import ACCOUNT, ONE, PLAIN_ACCOUNT, SAMPLES, PlainAccount, decode, encode
from benchmarks.sides import FOLDER, NAMES, Side, by_hand, contenders, fill, in_threads, key_value, open_store, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from benchmarks.harness import Effort, Run, Workspace

_BY_HAND = "by hand"
_BY_TEMPFILE = "by hand, with tempfile"
_IN_TURN = "one get after another"
_MANY = 10_000


async def _by_hand(
    work: Workspace, name: str, comparisons: Sequence[Comparison], effort: Effort, /
) -> AsyncGenerator[Round]:
    for number, (sample, folder) in enumerate(product(SAMPLES, (FOLDER, ""))):
        root = f"{work.folder}/{name}-{number}"
        hand, by_tempfile = by_hand(f"{root}/{folder}".rstrip("/"), sample)
        async with open_store(root) as store:
            sides = {"accountstore": our_side(store, sample, folder), _BY_HAND: hand, _BY_TEMPFILE: by_tempfile}
            await fill(hand)
            compared = {side: sides[side] for side in ("accountstore", *(each.other for each in comparisons))}
            title = f"local {name}, *{sample.extension}, folder {folder!r}"
            yield Round(title, contenders(compared, name, timed), comparisons, effort)


def save(work: Workspace, /) -> AsyncGenerator[Round]:
    goals = Comparison(_BY_HAND, Goal("at most", 1.15)), Comparison(_BY_TEMPFILE)
    return _by_hand(work, "save", goals, work.effort(6, 10))


def get(work: Workspace, /) -> AsyncGenerator[Round]:
    return _by_hand(work, "get", [Comparison(_BY_HAND, Goal("at most", 1.3))], work.effort(20, 25))


async def blocking(work: Workspace, /) -> AsyncGenerator[Round]:
    from accountstore.blocking import BlockingAccountStore  # which an earlier release to compare with has not

    at = Location("user.account", folder=FOLDER)
    for name, url in (("local", f"{work.folder}/blocking"), ("memory", "memory://")):
        config = StoreConfig(storages={"First Storage": StorageConfig(url)})
        with BlockingAccountStore.open(config) as opened:
            async with open_store(url) as store:
                for call, arguments in (("save", (at, ACCOUNT)), ("get", (at,))):
                    runs = _both(getattr(opened, call), getattr(store, call), arguments)
                    title = f"{name} {call}, *.account, blocking"
                    yield Round(title, runs, [Comparison("AccountStore")], work.effort(10, 50))


def _both(
    blocks: Callable[..., object], call: Callable[..., Awaitable[object]], arguments: Sequence[Any]
) -> dict[str, Run]:
    async def blocked(times: int) -> float:
        started = perf_counter()
        for _ in range(times):
            blocks(*arguments)
        return perf_counter() - started

    return {"BlockingAccountStore": blocked, "AccountStore": timed(lambda _: call(*arguments))}


def _many(store: AccountStore, locations: Sequence[Location], /) -> dict[str, Run]:
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

    return {"get_many": together, _IN_TURN: timed(lambda i: store.get(locations[i % len(locations)]))}


async def get_many(work: Workspace, /) -> AsyncGenerator[Round]:
    effort = work.effort(1, _MANY)
    for folders in (1, 100):
        root = f"{work.folder}/get_many-{folders}"
        for i in range(folders):
            os.makedirs(f"{root}/mail/team-{i}", mode=0o700)
        # Neighbours in the list are in different folders.
        locations = [Location(f"user{i}.account", folder=f"mail/team-{i % folders}") for i in range(effort.operations)]
        for location in locations:
            with open(f"{root}/{location.path}", "wb") as file:
                file.write(ONE.json)
        async with open_store(root) as store:
            yield Round(
                f"local get_many, {effort.operations:,} *.account, folders: {folders}",
                _many(store, locations),
                [Comparison(_IN_TURN, Goal("at least", 5), SPEEDUP)],
                effort,
            )


def _fsspec(paths: Sequence[str], /) -> Side:
    """A plain fsspec filesystem."""
    from fsspec.implementations.local import LocalFileSystem

    fs: Any = LocalFileSystem(skip_instance_cache=True)

    def read(path: str) -> PlainAccount:
        return decode(fs.cat_file(path))

    def write(path: str) -> None:
        fs.pipe_file(path, encode(PLAIN_ACCOUNT))

    return in_threads(read, write, paths)


def _anyio_path(names: Sequence[str], /) -> Side:
    """`read_bytes` and `write_bytes`."""
    paths = [anyio.Path(name) for name in names]

    async def get(i: int) -> PlainAccount:
        return decode(await paths[i % NAMES].read_bytes())

    return Side(get, lambda i: paths[i % NAMES].write_bytes(encode(PLAIN_ACCOUNT)))


async def peers(work: Workspace, /) -> AsyncGenerator[Round]:
    from key_value.aio.stores.filetree import FileTreeStore

    folders = [f"{work.folder}/peers/{name}" for name in ("fsspec", "anyio", "key-value")]
    for folder in folders:
        os.makedirs(folder, mode=0o700)
    paths, others = ([f"{folder}/user{i}.account" for i in range(NAMES)] for folder in folders[:2])
    goals: dict[str, tuple[Side, Goal | None]] = {
        "fsspec pipe_file, cat_file (neither atomic nor durable)": (_fsspec(paths), None),
        "anyio.Path (neither atomic nor durable)": (_anyio_path(others), None),
        "py-key-value-aio file tree (atomic, its names not durable)": (
            key_value(FileTreeStore(data_directory=folders[2])),
            Goal("at most", 1),
        ),
    }
    async with open_store(f"{work.folder}/peers/accountstore") as store:
        sides = {"accountstore": our_side(store), **{name: side for name, (side, _) in goals.items()}}
        await fill(*sides.values())
        for name, effort in (("save", work.effort(4, 10)), ("get", work.effort(6, 20))):
            comparisons = [Comparison(peer, goal) for peer, (_, goal) in goals.items()]
            yield Round(f"local {name} beside others", contenders(sides, name, timed), comparisons, effort)
