"""The public suite and the whole store on the object stores, against real servers on loopback, by either engine.

Google Cloud Storage by obstore runs on the project's own stub server: fake-gcs-server does not take its writes.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest
from anyio import create_task_group, to_thread
from cloudtargets import need_packages
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from running import HUNG, PYTHON

from accountstore import (
    Account,
    AccountStore,
    BackendError,
    Location,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    UnsupportedError,
)
from accountstore.probe import Conditions, probe
from accountstore.registry import find_backend
from accountstore.testing import BackendTests, Harness, backend_machine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from pathlib import Path

    from cloudservers import Server
    from cloudstub import Stub

    from accountstore.backends.base import Backend

pytestmark = [pytest.mark.once]


class Target(NamedTuple):
    """A server's storage: a bucket, a prefix in it, and how to look into it around the library."""

    url: str
    options: Mapping[str, Any]
    engine: str
    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes | None]

    def config(self, **more: Any) -> StoreConfig:
        """A store on it."""
        return StoreConfig(storages={"cloud": StorageConfig(self.url, dict(self.options), engine=self.engine, **more)})

    def harness(self) -> Harness:
        """The suite's view of it."""
        factory = find_backend(self.url.partition("://")[0], self.engine)

        async def opened() -> Backend:
            return await factory(self.url, self.options)

        return Harness(open=opened, put=self.put, get=self.get)


def target_on(server: Server, path: Path, engine: str, prefix: str = "some/prefix/") -> Target:
    """A bucket of this test's own. Where a server counts the prefix among a key's 1,024 bytes, there is none."""
    need_packages({"gs": "gcs", "az": "azure"}.get(server.scheme, server.scheme), engine)
    bucket = f"t{sha256(str(path).encode()).hexdigest()[:24]}"
    server.bucket(bucket)

    def put(key: str, data: bytes) -> None:
        server.put(bucket, f"{prefix}{key}", data)

    def get(key: str) -> bytes | None:
        return server.get(bucket, f"{prefix}{key}")

    return Target(f"{server.scheme}://{bucket}/{prefix}", server.options, engine, put, get)


def google_on(stub: Stub, path: Path, engine: str) -> Target:
    """A bucket of Google Cloud Storage on the project's own server."""
    need_packages("gcs", engine)
    bucket = f"t{sha256(str(path).encode()).hexdigest()[:24]}"
    options = {"project": "p", "token": "anon", "endpoint_url": stub.url}

    def put(key: str, data: bytes) -> None:
        stub.put("gcs", bucket, key, data)

    def get(key: str) -> bytes | None:
        return stub.get("gcs", bucket, key)

    return Target(f"gs://{bucket}", options, engine, put, get)


# --- the suite --------------------------------------------------------------------------------------------------------


class _Cloud(BackendTests):
    # Less of it: each call is a request.
    limit = 128 * 1024
    rounds = 4
    tasks = 6
    documents = 1050  # a page has 1,000
    steps = 6

    engine: ClassVar[str]


class _Moto(_Cloud):
    @pytest.fixture
    def harness(self, moto: Server, tmp_path: Path) -> Harness:
        return target_on(moto, tmp_path, self.engine).harness()


class _SeaweedFS(_Cloud):
    tasks = 2  # it stalls where three race

    @pytest.fixture
    def harness(self, seaweedfs: Server, tmp_path: Path) -> Harness:
        return target_on(seaweedfs, tmp_path, self.engine, "").harness()


class _Azurite(_Cloud):
    documents = 250  # a page has 5,000, more than are written here either way

    @pytest.fixture
    def harness(self, azurite: Server, tmp_path: Path) -> Harness:
        return target_on(azurite, tmp_path, self.engine).harness()


class _StubGoogle(_Cloud):
    @pytest.fixture
    def harness(self, stub: Stub, tmp_path: Path) -> Harness:
        return google_on(stub, tmp_path, self.engine).harness()


class TestMoto(_Moto):
    """S3 through s3fs, against moto."""

    engine = "fsspec"


class TestMotoByObstore(_Moto):
    """S3 through obstore, against moto."""

    engine = "obstore"


class TestSeaweedFS(_SeaweedFS):
    """S3 through s3fs, against SeaweedFS."""

    engine = "fsspec"


class TestSeaweedFSByObstore(_SeaweedFS):
    """S3 through obstore, against SeaweedFS."""

    engine = "obstore"


class TestAzurite(_Azurite):
    """Azure Blob Storage through adlfs, against Azurite."""

    engine = "fsspec"


class TestAzuriteByObstore(_Azurite):
    """Azure Blob Storage through obstore, against Azurite."""

    engine = "obstore"


class TestGoogle(_StubGoogle):
    """Google Cloud Storage through gcsfs, against the project's own server."""

    engine = "fsspec"


class TestGoogleByObstore(_StubGoogle):
    """Google Cloud Storage through obstore, against the project's own server."""

    engine = "obstore"


class TestFakeGCS(_Cloud):
    """Google Cloud Storage through gcsfs, against fake-gcs-server."""

    @pytest.fixture
    def harness(self, fake_gcs: Server, tmp_path: Path) -> Harness:
        return target_on(fake_gcs, tmp_path, "fsspec").harness()

    async def test_sequential_conditional_delete(self, harness: Harness, backend: Backend) -> None:
        """This server ignores the condition of a delete, which the probe finds, so that the store refuses such ones."""
        assert await probe(backend, "") == Conditions(create=True, update=True, delete=False)


# --- the store --------------------------------------------------------------------------------------------------------

_TARGETS = ("moto", "seaweedfs", "azurite", "fake_gcs")
_AT = Location("email.account", folder="mail/team-a")
_MASTER = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))


@pytest.fixture(
    params=[(name, engine) for name in (*_TARGETS, "stub") for engine in ("fsspec", "obstore") if name != "fake_gcs"]
    + [("fake_gcs", "fsspec")],
    ids="-".join,
)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """Each server by each engine that it serves."""
    name, engine = request.param
    server = request.getfixturevalue(name)
    if name == "stub":
        return google_on(server, tmp_path, engine)
    return target_on(server, tmp_path, engine, "" if name == "seaweedfs" else "some/prefix/")


@pytest.fixture(params=["fsspec", "obstore"])
def careless(request: pytest.FixtureRequest, rclone: Server, tmp_path: Path) -> Target:
    """A server that takes conditions and ignores them."""
    return target_on(rclone, tmp_path, request.param)


@asynccontextmanager
async def opened(target: Target, **more: Any) -> AsyncGenerator[AccountStore]:
    async with AccountStore.open(target.config(**more)) as store:
        yield store


async def found(target: Target, location: Location = _AT) -> bytes | None:
    return await to_thread.run_sync(target.get, location.path)


async def _count(store: AccountStore, tasks: int, updates: int) -> None:
    async def work() -> None:
        for _ in range(updates):
            await store.update(_AT, lambda account: replace(account, port=account.port + 1))

    async with create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(work)


@pytest.mark.anyio
async def test_no_update_is_lost(target: Target) -> None:
    """Tasks of two stores that count in one document lose no count."""
    tasks, updates = 2, 6
    async with opened(target) as one, opened(target) as other:
        await one.save(_AT, _MASTER, mode="create")
        async with create_task_group() as group:
            group.start_soon(_count, one, tasks // 2, updates)
            group.start_soon(_count, other, tasks - tasks // 2, updates)
        assert (await one.get(_AT)).port == 1 + tasks * updates


@pytest.mark.anyio
async def test_control_without_a_condition_updates_are_lost(target: Target) -> None:
    """The control: the same count by get and save loses some."""
    async with opened(target) as store:
        await store.save(_AT, _MASTER)

        async def work() -> None:
            for _ in range(6):
                account = await store.get(_AT)
                await store.save(_AT, replace(account, port=account.port + 1))

        async with create_task_group() as group:
            for _ in range(4):
                group.start_soon(work)
        assert (await store.get(_AT)).port < 25


@pytest.mark.anyio
async def test_check_proves_the_storage(target: Target, request: pytest.FixtureRequest) -> None:
    """`check` finds the storage reachable, its conditions kept, and leaves nothing behind."""
    honest = "fake_gcs" not in request.node.name  # that one ignores the condition of a delete
    async with opened(target) as store:
        result = await store.check()
        assert [step for step in result.steps if step.problem] == []
        assert (result.create, result.update, result.delete) == (True, True, honest)
        assert result.latency > 0
        assert [entry async for entry in store.list(recursive=True)] == []


@pytest.mark.anyio
async def test_conditions_work_on_a_storage_that_keeps_them(target: Target) -> None:
    """Create, swap and conditional delete are promised after the probe, which leaves nothing behind."""
    async with opened(target) as store:
        version = await store.save(_AT, _MASTER, mode="create")
        newer = await store.save(_AT, replace(_MASTER, port=9), mode=version)
        assert (await store.read(_AT)).version == newer
        assert [entry.location async for entry in store.list("mail/team-a")] == [_AT]


@pytest.mark.anyio
async def test_a_storage_that_ignores_conditions_is_refused(careless: Target) -> None:
    """Where conditions are ignored, `check` says so; create, swap, update and conditional delete are refused from the
    first call on, and change nothing.
    """
    async with opened(careless) as store:
        version = await store.save(_AT, _MASTER)
        before = await found(careless)
        other = Location("other.account", folder="mail/team-a")
        for call in (
            lambda: store.save(other, _MASTER, mode="create"),
            lambda: store.save(_AT, replace(_MASTER, port=9), mode=version),
            lambda: store.update(_AT, lambda account: replace(account, port=9)),
            lambda: store.delete(_AT, version=version),
        ):
            with pytest.raises(UnsupportedError, match="ignores the condition"):
                await call()
        assert await found(careless) == before
        assert [entry.location async for entry in store.list("mail/team-a")] == [_AT]
        result = await store.check()
        assert (result.create, result.update) == (False, False)
        assert not result.ok


@pytest.mark.anyio
async def test_control_a_trusted_storage_that_ignores_conditions_loses(careless: Target) -> None:
    """The control: where the configuration vouches for such a storage, a stale swap overwrites."""
    async with opened(careless, conditions="trust") as store:
        version = await store.save(_AT, _MASTER)
        await store.save(_AT, replace(_MASTER, port=9))
        await store.save(_AT, replace(_MASTER, port=2), mode=version)
        assert (await store.get(_AT)).port == 2


@pytest.fixture
def misspelt(moto: Server, tmp_path: Path) -> tuple[Target, Harness]:
    """S3 by s3fs; its module is imported here, outside of the event loop."""
    target = target_on(moto, tmp_path, "fsspec")
    return target, target.harness()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_misspelt_condition_writes_nothing(misspelt: tuple[Target, Harness]) -> None:
    """A keyword that S3 does not know is refused by the client that the backend uses. The control: s3fs's own write
    drops it and overwrites.
    """
    target, harness = misspelt
    backend: Any = await harness.open()
    await backend.write("a.account", b"theirs", mode="overwrite")
    at = backend._at("a.account")
    with pytest.raises(BackendError, match="ParamValidationError"):
        async with backend._client() as (client, _):
            await client.put_object(**at, Body=b"mine", IfMtach="stale")
    assert await found(target, Location("a.account")) == b"theirs"
    fs, _ = await backend.filesystem()
    await to_thread.run_sync(partial(fs.pipe_file, f"{at['Bucket']}/{at['Key']}", b"mine", IfMtach="stale"))
    assert await found(target, Location("a.account")) == b"mine"
    await backend.aclose()


def test_storage_does_what_the_model_does(anyio_backend: Any, target: Target) -> None:
    """Whatever is done to the storage, it answers as a dict would; `ACCOUNTSTORE_EXAMPLES` sets how often."""
    if target.url.startswith("gs:") and "/some/prefix" in target.url:
        pytest.skip("fake-gcs-server ignores the condition of a delete")
    loop, options = anyio_backend
    numbers = count()
    factory = find_backend(target.url.partition("://")[0], target.engine)

    async def opened() -> Backend:
        return await factory(f"{target.url.rstrip('/')}/{next(numbers)}", target.options)

    examples = settings(max_examples=int(os.environ.get("ACCOUNTSTORE_EXAMPLES", "2")), stateful_step_count=15)
    run_state_machine_as_test(backend_machine(opened, loop=loop, loop_options=options), settings=examples)


# --- processes --------------------------------------------------------------------------------------------------------

_USE = """
import json, sys, anyio
from accountstore import Account, AccountStore, Location, PasswordCredentials, StorageConfig, StoreConfig

async def main():
    url, options, engine = json.loads(sys.argv[1])
    at = Location("a.account", folder="m")
    account = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
    async with AccountStore.open(StoreConfig(storages={"c": StorageConfig(url, options, engine=engine)})) as store:
        version = await store.save(at, account, mode="create")
        assert await store.get(at) == account
        assert [entry.location async for entry in store.list(recursive=True)] == [at]
        fs, root = await store.filesystem()
        assert await anyio.to_thread.run_sync(fs.exists, f"{root.rstrip('/')}/m/a.account")
        await store.delete(at)
    # And one that nobody uses.
    async with AccountStore.open(StoreConfig(storages={"c": StorageConfig(url, options, engine=engine)})):
        pass

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_process_ends_in_silence(target: Target, loop: str) -> None:
    """A process that has used and closed a store prints nothing, warns of nothing that is open, and ends with 0."""
    storage = json.dumps([target.url, dict(target.options), target.engine])
    done = subprocess.run(
        [*PYTHON, "-W", "error::ResourceWarning", "-c", _USE, storage, loop],
        capture_output=True,
        check=False,
        timeout=HUNG,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_nothing_of_the_object_stores_is_imported_for_a_folder() -> None:
    """With all extras installed, the package, all its public names and a local store import none of them."""
    script = """
import sys, anyio
import accountstore
from accountstore import *
async def main():
    async with AccountStore.open(StoreConfig(storages={"m": StorageConfig("memory://")})) as store:
        assert not await store.exists(Location("a.account"))
anyio.run(main)
print(sorted({"s3fs", "gcsfs", "adlfs", "obstore", "aiohttp", "botocore", "azure", "google"} & set(sys.modules)))
"""
    for package in ("s3fs", "gcsfs", "adlfs", "obstore"):
        pytest.importorskip(package)
    done = subprocess.run([*PYTHON, "-c", script], capture_output=True, check=True, timeout=HUNG, text=True)
    assert done.stdout == "[]\n"
