"""`get` and `save` of one document, by the library or by another way, as safe on a disk: what most cases compare."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from anyio import to_thread

from accountstore import AccountStore, Location, StorageConfig, StoreConfig
from benchmarks.harness import TASKS, Operation, Run, in_flight
from benchmarks.samples import ONE, PLAIN_ACCOUNT, PlainAccount, Sample, decode, encode
from benchmarks.servers import BUCKET, S3_ACCESS, s3_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from anyio import CapacityLimiter

_Blocking: TypeAlias = "Callable[[Any], object]"
NAMES = TASKS
"""So that each task has a document of its own."""
OPERATIONS = ("get", "save")
FOLDER = "mail/team-a"
KEYS = [f"{FOLDER}/user{i}.account" for i in range(NAMES)]


@dataclass
class Side:
    """The two operations."""

    get: Operation
    save: Operation


def contenders(sides: Mapping[str, Side], name: str, run: Callable[[Operation], Run] = in_flight, /) -> dict[str, Run]:
    """One operation of all sides."""
    return {label: run(getattr(side, name)) for label, side in sides.items()}


async def fill(*sides: Side) -> None:
    """Write every document and read one, so that what connects on first use has connected."""
    for side in sides:
        await in_flight(side.save)(NAMES)
        await side.get(0)


def open_store(url: str, /) -> AbstractAsyncContextManager[AccountStore]:
    """A store with one storage."""
    return AccountStore.open(StoreConfig(storages={"First Storage": StorageConfig(url)}))


def our_side(store: AccountStore, sample: Sample = ONE, folder: str = FOLDER, /) -> Side:
    """The library's."""
    locations = [Location(f"user{i}{sample.extension}", folder=folder) for i in range(NAMES)]
    get: Any = getattr(store, f"get{sample.methods}")
    save: Any = getattr(store, f"save{sample.methods}")
    document = sample.document
    return Side(lambda i: get(locations[i % NAMES]), lambda i: save(locations[i % NAMES], document))


def in_threads(get: _Blocking, save: _Blocking, paths: Sequence[Any], limiter: CapacityLimiter | None = None) -> Side:
    """By blocking functions, in one thread hop an operation."""
    return Side(
        lambda i: to_thread.run_sync(get, paths[i % NAMES], limiter=limiter),
        lambda i: to_thread.run_sync(save, paths[i % NAMES], limiter=limiter),
    )


def by_hand(folder: str, sample: Sample, /) -> tuple[Side, Side]:
    """In the fewest steps, and by the standard library's `tempfile`, which leaves nothing behind by an error."""
    document, decoder = sample.plain, msgspec.json.Decoder(sample.plain_kind)

    def get(name: str) -> Any:
        with open(f"{folder}/{name}", "rb") as file:
            return decoder.decode(file.read())

    def save(name: str) -> None:
        data = encode(document)
        temporary = f"{folder}/{name}.{os.urandom(8).hex()}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, f"{folder}/{name}")
        _fsync_folder(folder)

    def save_by_tempfile(name: str) -> None:
        data = encode(document)
        fd, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, f"{folder}/{name}")
        except BaseException:
            os.unlink(temporary)
            raise
        _fsync_folder(folder)

    os.makedirs(folder, mode=0o700, exist_ok=True)
    names = [f"user{i}{sample.extension}" for i in range(NAMES)]
    return in_threads(get, save, names), in_threads(get, save_by_tempfile, names)


def _fsync_folder(folder: str, /) -> None:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def boto_side(client: Any, /) -> Side:
    """By a client of aiobotocore or aioboto3."""

    async def get(i: int) -> PlainAccount:
        answer = await client.get_object(Bucket=BUCKET, Key=KEYS[i % NAMES])
        async with answer["Body"] as body:
            return decode(await body.read())

    return Side(get, lambda i: client.put_object(Bucket=BUCKET, Key=KEYS[i % NAMES], Body=encode(PLAIN_ACCOUNT)))


@asynccontextmanager
async def aiobotocore(url: str, /) -> AsyncGenerator[Side]:
    """By aiobotocore's client."""
    async with s3_client(url) as client:
        yield boto_side(client)


@asynccontextmanager
async def obstore(url: str, /) -> AsyncGenerator[Side]:
    """By obstore's client, with the configuration that it has in a store."""
    from obstore import get_async, put_async
    from obstore.store import S3Store

    client = S3Store(
        BUCKET,
        endpoint=url,
        access_key_id=S3_ACCESS["aws_access_key_id"],
        secret_access_key=S3_ACCESS["aws_secret_access_key"],
        region=S3_ACCESS["region_name"],
        client_options={"allow_http": True, "timeout": timedelta(days=1)},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
    )

    async def get(i: int) -> PlainAccount:
        answer = await get_async(client, KEYS[i % NAMES])
        return decode(await answer.bytes_async())

    yield Side(get, lambda i: put_async(client, KEYS[i % NAMES], encode(PLAIN_ACCOUNT), use_multipart=False))


def key_value(store: Any, /) -> Side:
    """By a store of py-key-value-aio, where a value is a dictionary."""

    async def get(i: int) -> PlainAccount:
        return msgspec.convert(await store.get(f"user{i % NAMES}", collection="mail"), PlainAccount)

    return Side(get, lambda i: store.put(f"user{i % NAMES}", msgspec.to_builtins(PLAIN_ACCOUNT), collection="mail"))
