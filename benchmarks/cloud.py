"""Cloud storages for the benchmarks: a server in another process, stores on it, and this process on one processor."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from accountstore import AccountStore, Location, StorageConfig, StoreConfig
from benchmarks.blocks import Contender, in_flight
from benchmarks.samples import ACCOUNT, PLAIN_ACCOUNT, PlainAccount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence


__all__ = (
    "AZURE",
    "BUCKET",
    "ENGINES",
    "GCS",
    "KEYS",
    "NAMES",
    "PLACES",
    "POOL",
    "S3",
    "S3_ACCESS",
    "TASKS",
    "Engine",
    "Service",
    "Side",
    "bare_aiobotocore",
    "contenders",
    "engine_sides",
    "fill",
    "missing",
    "one_processor",
    "our_side",
    "s3_client",
    "s3_config",
    "s3_options",
    "serving",
    "store_config",
)

TASKS = 64
"""Operations in flight."""
NAMES = TASKS
"""So that each task has a document of its own."""
POOL = 128
"""Connections that a client may keep: that of the library's own clients, for all."""
BUCKET = "benchmarks"
PLACES = [Location(f"user{i}.account", folder="mail/team-a") for i in range(NAMES)]
KEYS = [place.path for place in PLACES]

S3_ACCESS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
"""As boto names it."""

_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Engine(NamedTuple):
    """A client below the store: its name in `StorageConfig`, and the package."""

    engine: str
    package: str

    @property
    def contender(self) -> str:
        """What its side of a comparison is called."""
        return f"accountstore, {self.package} engine"


class Service(NamedTuple):
    """A kind of cloud storage, with its two engines."""

    name: str
    scheme: str
    fsspec: Engine
    page: int
    """How many documents a page of a listing holds."""


_OBSTORE = Engine("obstore", "obstore")
S3 = Service("S3", "s3", Engine("fsspec", "s3fs"), 1000)
GCS = Service("GCS", "gs", Engine("fsspec", "gcsfs"), 1000)
AZURE = Service("Azure", "az", Engine("fsspec", "adlfs"), 5000)
ENGINES: Mapping[Service, tuple[Engine, Engine]] = {kind: (_OBSTORE, kind.fsspec) for kind in (S3, GCS, AZURE)}


class Side(NamedTuple):
    """The two operations that are compared."""

    get: Callable[[int], Awaitable[object]]
    save: Callable[[int], Awaitable[object]]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PlainAccount)


def our_side(store: AccountStore, /) -> Side:
    """The library's."""

    def get(i: int) -> Any:
        return store.get(PLACES[i % NAMES])

    def save(i: int) -> Any:
        return store.save(PLACES[i % NAMES], ACCOUNT)

    return Side(get, save)


def bare_aiobotocore(client: Any, /) -> Side:
    """The same by hand, with a client of aiobotocore or aioboto3."""

    async def get(i: int) -> PlainAccount:
        answer = await client.get_object(Bucket=BUCKET, Key=KEYS[i % NAMES])
        async with answer["Body"] as body:
            return _decoder.decode(await body.read())

    def save(i: int) -> Any:
        return client.put_object(Bucket=BUCKET, Key=KEYS[i % NAMES], Body=_encoder.encode(PLAIN_ACCOUNT))

    return Side(get, save)


async def engine_sides(stack: AsyncExitStack, service: Service, url: str, /) -> dict[str, Side]:
    """The library's side by each engine of a service, under its contender's name; closed with the stack."""
    stores = {
        engine.contender: await stack.enter_async_context(AccountStore.open(store_config(service, engine, url)))
        for engine in ENGINES[service]
    }
    return {contender: our_side(store) for contender, store in stores.items()}


def contenders(sides: Mapping[str, Side], name: str, /) -> list[Contender]:
    """One operation of all sides, as many in flight as there are tasks."""
    return [Contender(label, in_flight(getattr(side, name), TASKS)) for label, side in sides.items()]


async def fill(side: Side, /) -> None:
    """Write every document and read one, so that what connects on first use has connected."""
    await in_flight(side.save)(NAMES)
    await side.get(0)


def missing(*packages: str) -> str:
    """Why what needs these packages is left out; empty if they are all there."""
    absent = [package for package in packages if find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def serving() -> Generator[Any]:
    """The fast server that the tests use too, in a process of its own, without its log."""
    folder = str(Path(__file__).parents[1] / "tests" / "servers")
    if folder not in sys.path:
        sys.path.append(folder)
    with import_module("cloudstub").Stub() as stub:
        stub.mode(log=False)
        yield stub


def s3_options(url: str, /) -> dict[str, Any]:
    """Options of s3fs for the server."""
    return {
        "key": S3_ACCESS["aws_access_key_id"],
        "secret": S3_ACCESS["aws_secret_access_key"],
        "endpoint_url": url,
        "client_kwargs": {"region_name": S3_ACCESS["region_name"]},
    }


def s3_config() -> Any:
    """The configuration that s3fs's client has in a store, for the bare one."""
    from aiobotocore.config import AioConfig

    return AioConfig(max_pool_connections=POOL, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)


def s3_client(url: str, /) -> Any:
    """The context of a bare aiobotocore client on the server."""
    from aiobotocore.session import get_session

    session: Any = get_session()
    return session.create_client("s3", **S3_ACCESS, endpoint_url=url, config=s3_config())


def _options(service: Service, url: str, /) -> dict[str, Any]:
    if service is S3:
        return s3_options(url)
    if service is GCS:
        return {"project": "project", "token": "anon", "endpoint_url": url}
    parts = ("DefaultEndpointsProtocol=http", f"AccountName={_ACCOUNT}", f"AccountKey={_ACCOUNT_KEY}")
    return {"connection_string": ";".join((*parts, f"BlobEndpoint={url}/{_ACCOUNT};"))}


def store_config(service: Service, engine: Engine, url: str, /) -> StoreConfig:
    """The configuration of a store on the server, which is trusted to honour conditions: nothing is tried."""
    config = StorageConfig(
        f"{service.scheme}://{BUCKET}", _options(service, url), engine=engine.engine, conditions="trust"
    )
    return StoreConfig(storages={service.name: config})


@contextmanager
def one_processor(server: int, /) -> Generator[Sequence[str]]:
    """Keep all threads that this process has now on one processor and the server on another, where the system can.

    Then no thread of a client waits for another one's lock while it burns time. Yields what was done, as notes.
    """
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        yield ("client and server share the processors",)
        return
    threads = {int(thread): os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")}
    mine, other, *more = sorted(os.sched_getaffinity(0))
    for thread in threads:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {mine})
    os.sched_setaffinity(server, {other})
    try:
        yield ("client and server each on a processor of its own",)
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread, threads.get(thread, {mine, other, *more}))
