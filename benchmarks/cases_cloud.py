"""Stores in the cloud against the bare clients, engine against engine, loop against loop; and requests, counted."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from time import process_time
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread
from anyio.from_thread import start_blocking_portal

from accountstore import AccountStore, Location
from benchmarks.blocks import (
    Case,
    Comparison,
    Contender,
    Count,
    Effort,
    Goal,
    LeftOut,
    Round,
    Tally,
    in_flight,
    rate,
    ratio,
    speedup,
    timed,
)
from benchmarks.cloud import (
    AZURE,
    BUCKET,
    ENGINES,
    GCS,
    KEYS,
    NAMES,
    PLACES,
    S3,
    TASKS,
    Side,
    bare_aiobotocore,
    contenders,
    engine_sides,
    fill,
    missing,
    one_processor,
    our_side,
    s3_client,
    s3_options,
    serving,
    store_config,
)
from benchmarks.samples import ACCOUNT, PLAIN_ACCOUNT, PlainAccount

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from benchmarks.blocks import Run, Workspace
    from benchmarks.cloud import Engine

__all__ = ("CASES",)

_BOTOCORE = "bare aiobotocore"
_OBSTORE = "bare obstore"
_DELAY = 0.02
_MANY = 1001
_LOOPS = ("trio", "asyncio")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PlainAccount)


def _bare_obstore(client: Any, /) -> Side:
    import obstore

    async def get(i: int) -> PlainAccount:
        answer = await obstore.get_async(client, KEYS[i % NAMES])
        return _decoder.decode(await answer.bytes_async())

    async def save(i: int) -> Any:
        return await obstore.put_async(client, KEYS[i % NAMES], _encoder.encode(PLAIN_ACCOUNT), use_multipart=False)

    return Side(get, save)


# --- client CPU -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _s3fs_pair(url: str, /) -> AsyncGenerator[tuple[Side, Side]]:
    async with (
        AccountStore.open(store_config(S3, S3.fsspec, url)) as store,
        s3_client(url) as client,
    ):
        yield our_side(store), bare_aiobotocore(client)


@asynccontextmanager
async def _obstore_pair(url: str, /) -> AsyncGenerator[tuple[Side, Side]]:
    from accountstore.backends.obstore.options import open_store

    engine, _ = ENGINES[S3]
    async with AccountStore.open(store_config(S3, engine, url)) as store:
        yield our_side(store), _bare_obstore(open_store("s3", BUCKET, s3_options(url)))


async def _cpu(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    pairs = ((S3.fsspec, _BOTOCORE, _s3fs_pair, 1.1), (ENGINES[S3][0], _OBSTORE, _obstore_pair, 1.25))
    for engine, other, pair, bound in pairs:
        if absent := missing(engine.package):
            yield LeftOut(f"S3, client CPU, {engine.package}", absent)
            continue
        with serving() as stub:
            async with pair(stub.url) as (ours, bare):
                await fill(ours)
                await fill(bare)
                with one_processor(stub.pid) as notes:
                    for name in Side._fields:
                        yield Round(
                            f"S3 {name}, client CPU, one after another",
                            (
                                Contender(engine.contender, timed(getattr(ours, name), process_time)),
                                Contender(other, timed(getattr(bare, name), process_time)),
                            ),
                            (Comparison(other, ratio, Goal("at most", bound)),),
                            work.effort(6, 40),
                            notes,
                        )


# --- 64 in flight -----------------------------------------------------------------------------------------------------

_GOALS = {S3: Goal("at least", 5), AZURE: Goal("at least", 6), GCS: None}


async def _throughput(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    for service, goal in _GOALS.items():
        engines = ENGINES[service]
        if absent := missing(*(engine.package for engine in engines)):
            yield LeftOut(f"{service.name}, {TASKS} in flight", absent)
            continue
        async with AsyncExitStack() as stack:
            stub = stack.enter_context(serving())
            sides = await engine_sides(stack, service, stub.url)
            for side in sides.values():
                await fill(side)
            for name in Side._fields:
                yield Round(
                    f"{service.name} {name}, {TASKS} in flight",
                    contenders(sides, name),
                    (Comparison(engines[1].contender, speedup, goal),),
                    work.effort(2, 4 * TASKS),
                )


async def _latency(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    engine, _ = ENGINES[S3]
    ideal = f"{TASKS / _DELAY:,.0f} a second"
    if absent := missing(engine.package):
        yield LeftOut(f"S3, {TASKS} in flight, {_DELAY * 1e3:g} ms away", absent)
        return

    async def run(count: int) -> float:
        return count * _DELAY / TASKS

    with serving() as stub:
        async with _obstore_pair(stub.url) as (ours, bare):
            await fill(ours)
            await fill(bare)
            stub.mode(delay=_DELAY)
            for name in Side._fields:
                yield Round(
                    f"S3 {name}, {TASKS} in flight, {_DELAY * 1e3:g} ms away",
                    (
                        Contender(engine.contender, in_flight(getattr(ours, name), TASKS)),
                        Contender(ideal, run),
                        Contender(_OBSTORE, in_flight(getattr(bare, name), TASKS)),
                    ),
                    (Comparison(ideal, rate, Goal("at least", 0.9)), Comparison(_OBSTORE, rate)),
                    Effort(1, 2 * TASKS) if work.quick else Effort(1, 32 * TASKS),
                    (f"{ideal}: {TASKS} at once, {_DELAY * 1e3:g} ms each; what {_OBSTORE} gets is what can be had",),
                )


# --- trio and asyncio -------------------------------------------------------------------------------------------------


def _on_a_loop(stack: ExitStack, loop: str, engine: Engine, url: str, /) -> dict[str, Run]:
    """How to run the operations of a store on an event loop of its own, which waits in a thread in between."""
    portal = stack.enter_context(start_blocking_portal(loop))
    opening = AccountStore.open(store_config(S3, engine, url))
    side = our_side(stack.enter_context(portal.wrap_async_context_manager(opening)))
    portal.call(fill, side)

    def on_the_loop(run: Run) -> Run:
        return lambda count: to_thread.run_sync(portal.call, run, count)

    return {name: on_the_loop(in_flight(getattr(side, name), TASKS)) for name in Side._fields}


async def _loops(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    for engine in ENGINES[S3]:
        if absent := missing(engine.package, "trio"):
            yield LeftOut(f"trio and asyncio, {engine.package} engine", absent)
            continue
        with ExitStack() as stack:
            stub = stack.enter_context(serving())
            runs = {loop: _on_a_loop(stack, loop, engine, stub.url) for loop in _LOOPS}
            for name in Side._fields:
                yield Round(
                    f"S3 {name}, {TASKS} in flight, {engine.package} engine, trio and asyncio",
                    [Contender(loop, runs[loop][name]) for loop in _LOOPS],
                    (Comparison("asyncio", rate, Goal("at least", 0.75)),),
                    work.effort(2, 4 * TASKS),
                )


# --- requests ---------------------------------------------------------------------------------------------------------


async def _count(stub: Any, store: AccountStore, /) -> AsyncGenerator[tuple[str, int, int | None]]:
    """Each operation with its requests, and how many there may be."""
    place, other = PLACES[0], Location("new.account", folder="mail/team-b")
    version = await store.save(place, ACCOUNT)

    async def list_all(folder: str) -> None:
        async for _ in store.list(folder):
            pass

    operations: dict[str, tuple[Callable[[], Awaitable[object]], int | None]] = {
        "get": (lambda: store.get(place), 1),
        "read": (lambda: store.read(place), 1),
        "stat": (lambda: store.stat(place), 1),
        "save, swap": (lambda: store.save(place, ACCOUNT, mode=version), 1),
        "save, overwrite": (lambda: store.save(place, ACCOUNT), 1),
        "save, create": (lambda: store.save(other, ACCOUNT, mode="create"), 1),
        "update": (lambda: store.update(place, lambda account: msgspec.structs.replace(account, port=993)), 2),
        "list, one page": (lambda: list_all("mail/team-b"), 1),
        f"list, {_MANY:,} documents": (lambda: list_all("many"), -1),
        "delete": (lambda: store.delete(other), 1),
        "check": (store.check, None),
    }
    for name, (operation, most) in operations.items():
        before = stub.count()
        await operation()
        yield name, stub.count() - before, most


async def _requests(work: Workspace, /) -> AsyncGenerator[Tally | LeftOut]:
    counts: list[Count] = []
    with serving() as stub:
        for service, engine in ((service, engine) for service, engines in ENGINES.items() for engine in engines):
            label = f"{service.name}, {engine.package}"
            if absent := missing(service.fsspec.package, engine.package):  # obstore checks with the help of the other
                yield LeftOut(f"requests an operation, {label}", absent)
                continue
            stub.reset()
            for i in range(_MANY):
                stub.put(service.name.lower(), BUCKET, f"many/user{i}.account", b"{}")
            pages = -(-_MANY // service.page)
            async with AccountStore.open(store_config(service, engine, stub.url)) as store:
                async for name, requests, most in _count(stub, store):
                    bound = pages if most == -1 else most
                    goal = None if bound is None else Goal("at most", bound)
                    counts.append(Count(label, name, requests, goal))
    if counts:
        yield Tally("requests an operation", counts)


CASES = (
    Case("cloud-cpu", _cpu),
    Case("cloud-throughput", _throughput),
    Case("cloud-latency", _latency),
    Case("cloud-loops", _loops),
    Case("cloud-requests", _requests),
)
