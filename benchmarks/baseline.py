"""What somebody would write without the library: as safe on disk, and no safer elsewhere."""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.samples import PLAIN_ACCOUNT, PlainAccount, decode, encode
from benchmarks.servers import BUCKET, S3_ACCESS, s3_client
from benchmarks.sides import KEYS, NAMES, Side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import msgspec

T = TypeVar("T")

# --- a local folder ---------------------------------------------------------------------------------------------------


def save(folder: str, name: str, document: msgspec.Struct, /) -> None:
    """Encode, write a temporary file, fsync, rename, fsync the folder, in the fewest steps. For one thread hop."""
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


def save_by_tempfile(folder: str, name: str, document: msgspec.Struct, /) -> None:
    """The same by the standard library's `tempfile`, and with nothing left behind by an error."""
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


def _fsync_folder(folder: str, /) -> None:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def get(folder: str, name: str, decoder: msgspec.json.Decoder[T], /) -> T:
    """Open, read, decode. For one thread hop."""
    with open(f"{folder}/{name}", "rb") as file:
        return decoder.decode(file.read())


# --- S3 ---------------------------------------------------------------------------------------------------------------


def boto_side(client: Any, /) -> Side:
    """By a client of aiobotocore or aioboto3."""

    async def get(i: int) -> PlainAccount:
        answer = await client.get_object(Bucket=BUCKET, Key=KEYS[i % NAMES])
        async with answer["Body"] as body:
            return decode(await body.read())

    def save(i: int) -> Any:
        return client.put_object(Bucket=BUCKET, Key=KEYS[i % NAMES], Body=encode(PLAIN_ACCOUNT))

    return Side(get, save)


@asynccontextmanager
async def aiobotocore(url: str, /) -> AsyncGenerator[Side]:
    """By aiobotocore's client, with the configuration that it has in a store."""
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

    def save(i: int) -> Any:
        return put_async(client, KEYS[i % NAMES], encode(PLAIN_ACCOUNT), use_multipart=False)

    yield Side(get, save)
