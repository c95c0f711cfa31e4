"""Other ways to keep the same documents on S3, 64 at a time."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import catch_warnings

import msgspec
from anyio import CapacityLimiter, to_thread

from benchmarks import baseline
from benchmarks.harness import TASKS, Comparison, Goal, LeftOut, Round, missing
from benchmarks.samples import PLAIN_ACCOUNT, PlainAccount, decode, encode
from benchmarks.servers import BUCKET, POOL, S3, S3_ACCESS, engine_sides, s3_client, s3_config, s3_options, serving
from benchmarks.sides import KEYS, NAMES, Side, contenders, fill

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.harness import Case, Workspace


class _Peer(NamedTuple):
    """Another way, with the packages that it needs. `open` is given the server's URL and a folder."""

    name: str
    packages: Sequence[str]
    open: Callable[[str, str], AbstractAsyncContextManager[Side]]


@asynccontextmanager
async def _s3fs(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """The two coroutines of s3fs that do the least, and pydantic."""
    from s3fs import S3FileSystem

    from benchmarks.samples_pydantic import PYDANTIC_ACCOUNT, PydanticAccount

    config = {"max_pool_connections": POOL}
    fs: Any = S3FileSystem(**s3_options(url), config_kwargs=config, asynchronous=True, skip_instance_cache=True)
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
    session: Any = import_module("aioboto3").Session(**S3_ACCESS)  # it has no types
    async with session.client("s3", endpoint_url=url, config=s3_config()) as client:
        yield baseline.boto_side(client)


@asynccontextmanager
async def _cloudpathlib(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """`write_bytes` and `read_bytes` in threads, as many as tasks. It keeps files, and asks whether they are new."""
    from botocore.config import Config
    from botocore.session import Session
    from cloudpathlib import S3Client

    below: Any = Session()
    below.set_default_client_config(Config(max_pool_connections=POOL))
    session: Any = import_module("boto3").Session(**S3_ACCESS, botocore_session=below)
    client: Any = S3Client(boto3_session=session, endpoint_url=url, local_cache_dir=f"{folder}/cloudpathlib")
    paths: list[Any] = [client.CloudPath(f"s3://{BUCKET}/{key}") for key in KEYS]
    threads = CapacityLimiter(TASKS)

    def read(path: Any) -> PlainAccount:
        return decode(path.read_bytes())

    def write(path: Any) -> None:
        path.write_bytes(encode(PLAIN_ACCOUNT))

    def get(i: int) -> Any:
        return to_thread.run_sync(read, paths[i % NAMES], limiter=threads)

    def save(i: int) -> Any:
        return to_thread.run_sync(write, paths[i % NAMES], limiter=threads)

    try:
        yield Side(get, save)
    finally:
        client.client.close()
        client.s3.meta.client.close()


@asynccontextmanager
async def _key_value(url: str, folder: str, /) -> AsyncGenerator[Side]:
    """A value there is a dictionary. Its client is given it, with as many connections as the others have."""
    from key_value.aio.stores.s3 import S3Store

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(s3_client(url))
        with catch_warnings(action="ignore", category=UserWarning):  # it says of itself that it may change
            store: Any = S3Store(client=client, bucket_name=BUCKET)
        await stack.enter_async_context(store)

        async def get(i: int) -> PlainAccount:
            return msgspec.convert(await store.get(f"user{i % NAMES}", collection="mail"), PlainAccount)

        def save(i: int) -> Any:
            return store.put(f"user{i % NAMES}", msgspec.to_builtins(PLAIN_ACCOUNT), collection="mail")

        yield Side(get, save)


_PEERS = (
    _Peer("s3fs, pydantic", ("s3fs", "pydantic"), _s3fs),
    _Peer("aioboto3, msgspec", ("aioboto3",), _aioboto3),
    _Peer("cloudpathlib in threads", ("cloudpathlib", "boto3"), _cloudpathlib),
    _Peer("py-key-value-aio", ("key_value", "aiobotocore"), _key_value),
)


async def _peers(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    if absent := missing(*(engine.package for engine in S3.engines)):
        yield LeftOut(f"S3 beside others, {TASKS} in flight", absent)
        return
    comparisons: list[Comparison] = []
    async with AsyncExitStack() as stack:
        stub = stack.enter_context(serving())
        sides = await engine_sides(stack, S3, stub.url)
        for peer in _PEERS:
            if absent := missing(*peer.packages):
                yield LeftOut(peer.name, absent)
                continue
            sides[peer.name] = await stack.enter_async_context(peer.open(stub.url, work.folder))
            comparisons += [
                Comparison(peer.name, goal=Goal("at most", 1)),
                Comparison(peer.name, ours=S3.fsspec.contender),
            ]
        await fill(*sides.values())
        for name in Side._fields:
            yield Round(
                f"S3 {name} beside others, {TASKS} in flight",
                contenders(sides, name),
                comparisons,
                work.effort(1, 4 * TASKS),
            )


CASES: Mapping[str, Case] = {"cloud-peers": _peers}
