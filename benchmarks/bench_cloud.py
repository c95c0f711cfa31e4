"""Stores in the cloud against the bare clients, engine against engine, loop against loop; and requests, counted."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from time import process_time
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread
from anyio.from_thread import start_blocking_portal

from accountstore import AccountStore, Location
from benchmarks import baseline
from benchmarks.harness import (
    RATE,
    SPEEDUP,
    TASKS,
    Comparison,
    Contender,
    Count,
    Effort,
    Goal,
    LeftOut,
    Round,
    Tally,
    in_flight,
    missing,
    timed,
)
from benchmarks.samples import ACCOUNT
from benchmarks.servers import BUCKET, S3, SERVICES, engine_sides, one_processor, serving
from benchmarks.sides import LOCATIONS, Side, contenders, fill, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from benchmarks.harness import Case, Operation, Run, Workspace
    from benchmarks.servers import Engine

_OBSTORE = "bare obstore"
_DELAY = 0.02
_MANY = 1001
_LOOPS = ("trio", "asyncio")
_ENGINES = [(service, engine) for service in SERVICES for engine in service.engines]

# --- client CPU -------------------------------------------------------------------------------------------------------


def _cpu_of(operation: Operation, /) -> Run:
    return timed(operation, process_time)


async def _cpu(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    pairs = ((S3.fsspec, "bare aiobotocore", baseline.aiobotocore, 1.1), (S3.obstore, _OBSTORE, baseline.obstore, 1.25))
    for engine, other, bare, bound in pairs:
        if absent := missing(engine.package):
            yield LeftOut(f"S3, client CPU, {engine.package}", absent)
            continue
        with serving() as stub:
            async with S3.open(engine, stub.url) as store, bare(stub.url) as side:
                sides = {engine.contender: our_side(store), other: side}
                await fill(*sides.values())
                with one_processor(stub.pid) as notes:
                    for name in Side._fields:
                        yield Round(
                            f"S3 {name}, client CPU, one after another",
                            contenders(sides, name, _cpu_of),
                            (Comparison(other, goal=Goal("at most", bound)),),
                            work.effort(6, 40),
                            notes,
                        )


# --- 64 in flight -----------------------------------------------------------------------------------------------------

_GOALS = {"S3": Goal("at least", 5), "Azure": Goal("at least", 6)}


async def _throughput(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    for service in SERVICES:
        if absent := missing(*(engine.package for engine in service.engines)):
            yield LeftOut(f"{service.name}, {TASKS} in flight", absent)
            continue
        async with AsyncExitStack() as stack:
            stub = stack.enter_context(serving())
            sides = await engine_sides(stack, service, stub.url)
            await fill(*sides.values())
            for name in Side._fields:
                yield Round(
                    f"{service.name} {name}, {TASKS} in flight",
                    contenders(sides, name),
                    (Comparison(service.fsspec.contender, SPEEDUP, _GOALS.get(service.name)),),
                    work.effort(2, 4 * TASKS),
                )


async def _latency(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    if absent := missing(S3.obstore.package):
        yield LeftOut(f"S3, {TASKS} in flight, {_DELAY * 1e3:g} ms away", absent)
        return
    ideal = f"{TASKS / _DELAY:,.0f} a second"

    async def run(times: int) -> float:
        return times * _DELAY / TASKS

    with serving() as stub:
        async with S3.open(S3.obstore, stub.url) as store, baseline.obstore(stub.url) as bare:
            sides = {S3.obstore.contender: our_side(store), _OBSTORE: bare}
            await fill(*sides.values())
            stub.mode(delay=_DELAY)
            for name in Side._fields:
                yield Round(
                    f"S3 {name}, {TASKS} in flight, {_DELAY * 1e3:g} ms away",
                    [*contenders(sides, name), Contender(ideal, run)],
                    (Comparison(ideal, RATE, Goal("at least", 0.9)), Comparison(_OBSTORE, RATE)),
                    Effort(1, 2 * TASKS) if work.quick else Effort(1, 32 * TASKS),
                    (f"{ideal}: {TASKS} at once, {_DELAY * 1e3:g} ms each; what {_OBSTORE} gets is what can be had",),
                )


# --- trio and asyncio -------------------------------------------------------------------------------------------------


def _on_a_loop(stack: ExitStack, loop: str, engine: Engine, url: str, /) -> Mapping[str, Run]:
    """How to run the operations of a store on an event loop of its own, which waits in a thread in between."""
    portal = stack.enter_context(start_blocking_portal(loop))
    side = our_side(stack.enter_context(portal.wrap_async_context_manager(S3.open(engine, url))))
    portal.call(fill, side)

    def on_the_loop(run: Run) -> Run:
        return lambda times: to_thread.run_sync(portal.call, run, times)

    return {name: on_the_loop(in_flight(getattr(side, name))) for name in Side._fields}


async def _loops(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    for engine in S3.engines:
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
                    (Comparison("asyncio", RATE, Goal("at least", 0.75)),),
                    work.effort(2, 4 * TASKS),
                )


# --- requests ---------------------------------------------------------------------------------------------------------


async def _count(stub: Any, store: AccountStore, pages: int, /) -> AsyncGenerator[tuple[str, int, int | None]]:
    """Each operation with its requests, and how many there may be."""
    location, other = LOCATIONS[0], Location("new.account", folder="mail/team-b")
    version = await store.save(location, ACCOUNT)

    async def list_all(folder: str) -> None:
        async for _ in store.list(folder):
            pass

    operations: dict[str, tuple[Callable[[], Awaitable[object]], int | None]] = {
        "get": (lambda: store.get(location), 1),
        "read": (lambda: store.read(location), 1),
        "stat": (lambda: store.stat(location), 1),
        "save, swap": (lambda: store.save(location, ACCOUNT, mode=version), 1),
        "save, overwrite": (lambda: store.save(location, ACCOUNT), 1),
        "save, create": (lambda: store.save(other, ACCOUNT, mode="create"), 1),
        "update": (lambda: store.update(location, lambda account: msgspec.structs.replace(account, port=993)), 2),
        "list, one page": (lambda: list_all("mail/team-b"), 1),
        f"list, {_MANY:,} documents": (lambda: list_all("many"), pages),
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
        for service, engine in _ENGINES:
            label = f"{service.name}, {engine.package}"
            if absent := missing(service.fsspec.package, engine.package):  # obstore checks with the help of the other
                yield LeftOut(f"requests an operation, {label}", absent)
                continue
            stub.reset()
            for i in range(_MANY):
                stub.put(service.name.lower(), BUCKET, f"many/user{i}.account", b"{}")
            async with service.open(engine, stub.url) as store:
                async for name, requests, most in _count(stub, store, -(-_MANY // service.page)):
                    counts.append(Count(label, name, requests, Goal("at most", most) if most else None))
    if counts:
        yield Tally("requests an operation", counts)


CASES: Mapping[str, Case] = {
    "cloud-cpu": _cpu,
    "cloud-throughput": _throughput,
    "cloud-latency": _latency,
    "cloud-loops": _loops,
    "cloud-requests": _requests,
}
