"""Cloud storages for the benchmarks: a server in another process, stores on it, and this process on one processor."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accountstore import AccountStore, StorageConfig, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from accountstore.config import Engine

POOL = 128
"""Connections that a client may keep: that of the library's own clients, for all."""
BUCKET = "benchmarks"
S3_ACCESS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
"""As boto names it."""

_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


OBSTORE = "obstore"


def contender(package: str, /) -> str:
    """What the side of the library with this client below is called."""
    return f"accountstore, {package} engine"


class Service(NamedTuple):
    """A kind of cloud storage. `page` is how many documents a page of a listing holds, `package` the fsspec client."""

    name: str
    scheme: str
    page: int
    package: str
    options: Callable[[str], dict[str, Any]]

    @property
    def packages(self) -> tuple[str, str]:
        """The clients, the library's own first."""
        return OBSTORE, self.package

    def open(self, package: str, url: str, /) -> AbstractAsyncContextManager[AccountStore]:
        """A store on the server, which is trusted to honour conditions: nothing is tried."""
        engine: Engine = "obstore" if package == OBSTORE else "fsspec"
        config = StorageConfig(f"{self.scheme}://{BUCKET}", self.options(url), engine=engine, conditions="trust")
        return AccountStore.open(StoreConfig(storages={self.name: config}))


def s3_options(url: str, /) -> dict[str, Any]:
    """Options of s3fs for the server."""
    region = {"region_name": S3_ACCESS["region_name"]}
    keys = {"key": S3_ACCESS["aws_access_key_id"], "secret": S3_ACCESS["aws_secret_access_key"]}
    return {**keys, "endpoint_url": url, "client_kwargs": region}


def _gcs_options(url: str, /) -> dict[str, Any]:
    return {"project": "project", "token": "anon", "endpoint_url": url}


def _azure_options(url: str, /) -> dict[str, Any]:
    parts = ("DefaultEndpointsProtocol=http", f"AccountName={_ACCOUNT}", f"AccountKey={_ACCOUNT_KEY}")
    return {"connection_string": ";".join((*parts, f"BlobEndpoint={url}/{_ACCOUNT};"))}


S3 = Service("S3", "s3", 1000, "s3fs", s3_options)
GCS = Service("GCS", "gs", 1000, "gcsfs", _gcs_options)
AZURE = Service("Azure", "az", 5000, "adlfs", _azure_options)
SERVICES = (S3, GCS, AZURE)


def s3_config() -> Any:
    """The configuration that s3fs's client has in a store, for the bare one."""
    from aiobotocore.config import AioConfig

    return AioConfig(max_pool_connections=POOL, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)


def s3_client(url: str, /) -> Any:
    """The context of a bare aiobotocore client on the server."""
    from aiobotocore.session import get_session

    session: Any = get_session()
    return session.create_client("s3", **S3_ACCESS, endpoint_url=url, config=s3_config())


@contextmanager
def serving() -> Generator[Any]:
    """The fast server that the tests use too, in a process of its own, without its log."""
    folder = str(Path(__file__).parents[1] / "tests" / "servers")
    if folder not in sys.path:
        sys.path.append(folder)
    with import_module("cloudstub").Stub() as stub:
        stub.mode(log=False)
        yield stub


@contextmanager
def one_processor(server: int, /) -> Generator[str]:
    """Keep all threads that this process has now on one processor and the server on another, where the system can.

    Then no thread of a client waits for another one's lock while it burns time. Yields what was done.
    """
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        yield "client and server share the processors"
        return
    threads = {int(thread): os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")}
    mine, other, *more = sorted(os.sched_getaffinity(0))
    for thread in threads:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {mine})
    os.sched_setaffinity(server, {other})
    try:
        yield "client and server each on a processor of its own"
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread, threads.get(thread, {mine, other, *more}))
