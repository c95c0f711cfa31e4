"""Stores in the cloud against bare clients and other libraries, engine against engine, loop against loop; requests."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from time import process_time
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

from anyio import CapacityLimiter, to_thread
from anyio.from_thread import start_blocking_portal
from msgspec.structs import replace

from accountstore import AccountStore, Location
from benchmarks import servers, sides
from benchmarks.harness import RATE, SPEEDUP, TASKS, Comparison, Count, Goal, Round, in_flight, timed
from benchmarks.samples import ACCOUNT, PLAIN_ACCOUNT, PlainAccount, decode, encode
from benchmarks.servers import BUCKET, OBSTORE, S3, SERVICES, Service, contender, one_processor, serving
from benchmarks.sides import KEYS, NAMES, OPERATIONS, Side, contenders, fill, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from benchmarks.harness import Run, Workspace

_BARE = "bare obstore"
_DELAY = 0.02
_MANY = 1001
_LOOPS = ("trio", "asyncio")
_ENGINES = [(service, package) for service in SERVICES for package in service.packages]


async def _engine_sides(stack: AsyncExitStack, service: Service, url: str, /) -> dict[str, Side]:
    """The library's side by each engine of a service; closed with the stack."""
    stores = {each: await stack.enter_async_context(service.open(each, url)) for each in service.packages}
    return {contender(package): our_side(store) for package, store in stores.items()}


async def cpu(work: Workspace, /) -> AsyncGenerator[Round]:
    cpu_of = partial(timed, clock=process_time)
    pairs = ((S3.package, "bare aiobotocore", sides.aiobotocore, 1.1), (OBSTORE, _BARE, sides.obstore, 1.25))
    for package, other, bare, bound in pairs:
        with serving() as stub:
            async with S3.open(package, stub.url) as store, bare(stub.url) as side:
                both = {contender(package): our_side(store), other: side}
                await fill(*both.values())
                with one_processor(stub.pid) as note:
                    for name in OPERATIONS:
                        title = f"S3 {name}, client CPU, one after another"
                        comparisons = [Comparison(other, Goal("at most", bound))]
                        yield Round(title, contenders(both, name, cpu_of), comparisons, work.effort(6, 40), note)


_GOALS = {"S3": Goal("at least", 5), "Azure": Goal("at least", 6)}


async def throughput(work: Workspace, /) -> AsyncGenerator[Round]:
    for service in SERVICES:
        comparisons = [Comparison(contender(service.package), _GOALS.get(service.name), SPEEDUP)]
        async with AsyncExitStack() as stack:
            stub = stack.enter_context(serving())
            engines = await _engine_sides(stack, service, stub.url)
            await fill(*engines.values())
            for name in OPERATIONS:
                title = f"{service.name} {name}, {TASKS} in flight"
                yield Round(title, contenders(engines, name), comparisons, work.effort(2, 4 * TASKS))


async def latency(work: Workspace, /) -> AsyncGenerator[Round]:
    ideal = f"{TASKS / _DELAY:,.0f} a second"
    comparisons = Comparison(ideal, Goal("at least", 0.9), RATE), Comparison(_BARE, None, RATE)
    far = f"{_DELAY * 1e3:g} ms"

    async def run(times: int) -> float:
        return times * _DELAY / TASKS

    with serving() as stub:
        async with S3.open(OBSTORE, stub.url) as store, sides.obstore(stub.url) as bare:
            both = {contender(OBSTORE): our_side(store), _BARE: bare}
            await fill(*both.values())
            stub.mode(delay=_DELAY)
            for name in OPERATIONS:
                yield Round(
                    f"S3 {name}, {TASKS} in flight, {far} away",
                    {**contenders(both, name), ideal: run},
                    comparisons,
                    work.effort(1, 32 * TASKS),
                    f"{ideal}: {TASKS} at once, {far} each; what {_BARE} gets is what can be had",
                )


def _on_a_loop(stack: ExitStack, loop: str, package: str, url: str, /) -> Mapping[str, Run]:
    """How to run the operations of a store on an event loop of its own, which waits in a thread in between."""
    portal = stack.enter_context(start_blocking_portal(loop))
    side = our_side(stack.enter_context(portal.wrap_async_context_manager(S3.open(package, url))))
    portal.call(fill, side)

    def on_the_loop(run: Run) -> Run:
        return lambda times: to_thread.run_sync(portal.call, run, times)

    return {name: on_the_loop(in_flight(getattr(side, name))) for name in OPERATIONS}


async def loops(work: Workspace, /) -> AsyncGenerator[Round]:
    comparisons = [Comparison("asyncio", Goal("at least", 0.75), RATE)]
    for package in S3.packages:
        with ExitStack() as stack:
            stub = stack.enter_context(serving())
            runs = {loop: _on_a_loop(stack, loop, package, stub.url) for loop in _LOOPS}
            for name in OPERATIONS:
                title = f"S3 {name}, {TASKS} in flight, {package} engine, trio and asyncio"
                yield Round(title, {loop: runs[loop][name] for loop in _LOOPS}, comparisons, work.effort(2, 4 * TASKS))


async def _count(stub: Any, store: AccountStore, label: str, pages: int, /) -> AsyncGenerator[Count]:
    """Each operation with its requests, and how many there may be."""
    location, other = Location("user.account", folder="mail/team-a"), Location("new.account", folder="mail/team-b")
    version = await store.save(location, ACCOUNT)

    async def list_all(folder: str) -> None:
        async for _ in store.list(folder):
            pass

    await list_all("mail/team-a")  # the first listing of a store finds out, by obstore, whether S3 goes on with one

    operations: dict[str, tuple[Callable[[], Awaitable[object]], int | None]] = {
        "get": (lambda: store.get(location), 1),
        "read": (lambda: store.read(location), 1),
        "stat": (lambda: store.stat(location), 1),
        "save, swap": (lambda: store.save(location, ACCOUNT, mode=version), 1),
        "save, overwrite": (lambda: store.save(location, ACCOUNT), 1),
        "save, create": (lambda: store.save(other, ACCOUNT, mode="create"), 1),
        "update": (lambda: store.update(location, lambda account: replace(account, port=993)), 2),
        "list, one page": (lambda: list_all("mail/team-b"), 1),
        f"list, {_MANY:,} documents": (lambda: list_all("many"), pages),
        "delete": (lambda: store.delete(other), 1),
        "check": (store.check, None),
    }
    for name, (operation, most) in operations.items():
        before = stub.count()
        await operation()
        goal = Goal("at most", most) if most else None
        yield Count("requests an operation", label, name, stub.count() - before, goal)


async def requests(work: Workspace, /) -> AsyncGenerator[list[Count]]:
    counts: list[Count] = []
    with serving() as stub:
        for service, package in _ENGINES:
            stub.reset()
            for i in range(_MANY):
                stub.put(service.name.lower(), BUCKET, f"many/user{i}.account", b"{}")
            async with service.open(package, stub.url) as store:
                label, pages = f"{service.name}, {package}", -(-_MANY // service.page)
                counts += [count async for count in _count(stub, store, label, pages)]
    yield counts


@asynccontextmanager
async def _s3fs(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """The two coroutines of s3fs that do the least, and pydantic."""
    from s3fs import S3FileSystem

    from benchmarks.samples_pydantic import PYDANTIC_ACCOUNT, PydanticAccount

    config = {"max_pool_connections": servers.POOL}
    options = servers.s3_options(url)
    fs: Any = S3FileSystem(**options, config_kwargs=config, asynchronous=True, skip_instance_cache=True)
    paths = [f"{BUCKET}/{key}" for key in KEYS]

    async def get(i: int) -> PydanticAccount:
        return PydanticAccount.model_validate_json(await fs._cat_file(paths[i % NAMES]))

    def save(i: int) -> Any:
        data = PYDANTIC_ACCOUNT.model_dump_json(by_alias=True, exclude_none=True).encode()
        return fs._pipe_file(paths[i % NAMES], data)

    client = await fs.set_session()
    try:
        yield Side(get, save)
    finally:
        await client.close()


@asynccontextmanager
async def _aioboto3(url: str, folder: str, /) -> AsyncGenerator[Side]:
    session: Any = import_module("aioboto3").Session(**servers.S3_ACCESS)  # it has no types
    async with session.client("s3", endpoint_url=url, config=servers.s3_config()) as client:
        yield sides.boto_side(client)


@asynccontextmanager
async def _cloudpathlib(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """`write_bytes` and `read_bytes` in threads, as many as tasks. It keeps files, and asks whether they are new."""
    from botocore.config import Config
    from botocore.session import Session
    from cloudpathlib import S3Client

    below: Any = Session()
    below.set_default_client_config(Config(max_pool_connections=servers.POOL))
    session: Any = import_module("boto3").Session(**servers.S3_ACCESS, botocore_session=below)
    client: Any = S3Client(boto3_session=session, endpoint_url=url, local_cache_dir=f"{folder}/cloudpathlib")

    def read(path: Any) -> PlainAccount:
        return decode(path.read_bytes())

    def write(path: Any) -> None:
        path.write_bytes(encode(PLAIN_ACCOUNT))

    paths = [client.CloudPath(f"s3://{BUCKET}/{key}") for key in KEYS]
    try:
        yield sides.in_threads(read, write, paths, CapacityLimiter(TASKS))
    finally:
        client.client.close()
        client.s3.meta.client.close()


@asynccontextmanager
async def _key_value(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """Its client is given it, with as many connections as the others have."""
    from key_value.aio.stores.s3 import S3Store

    async with servers.s3_client(url) as client:
        with catch_warnings(action="ignore", category=UserWarning):  # it says of itself that it may change
            store: Any = S3Store(client=client, bucket_name=BUCKET)
        async with store:
            yield sides.key_value(store)


_PEERS: dict[str, Callable[[str, str], AbstractAsyncContextManager[Side]]] = {
    "s3fs, pydantic": _s3fs,
    "aioboto3, msgspec": _aioboto3,
    "cloudpathlib in threads": _cloudpathlib,
    "py-key-value-aio": _key_value,
}


async def peers(work: Workspace, /) -> AsyncGenerator[Round]:
    comparisons: list[Comparison] = []
    async with AsyncExitStack() as stack:
        stub = stack.enter_context(serving())
        all_sides = await _engine_sides(stack, S3, stub.url)
        for peer, opened in _PEERS.items():
            all_sides[peer] = await stack.enter_async_context(opened(stub.url, work.folder))
            comparisons += [Comparison(peer, Goal("at most", 1)), Comparison(peer, ours=contender(S3.package))]
        await fill(*all_sides.values())
        for name in OPERATIONS:
            title = f"S3 {name} beside others, {TASKS} in flight"
            yield Round(title, contenders(all_sides, name), comparisons, work.effort(1, 4 * TASKS))
