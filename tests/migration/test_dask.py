"""A migration on Dask: complete whatever dies, true to its journal; nothing of the options on the wire or in logs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cloudtargets import on_asyncio
from doubles import raises
from migrating import SOURCE, TARGET, account, config, files, found, once, put, source, target
from msgspec.structs import replace
from running import HUNG

from accountstore import (
    AccountStore,
    ConfigError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    UnsupportedError,
)
from accountstore.migration import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.once,
    # Of distributed's own, which leaves sockets and processes to the collector of garbage.
    pytest.mark.filterwarnings("ignore"),
]

NAMES = [f"f{number % 3}/{number:03}.account" for number in range(60)]
CANARY = "canary-77e0"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accountstore.migration.dask.MOST", 5)
    # A busy machine takes its time to start a worker in the place of one that has died.
    monkeypatch.setattr("accountstore.migration.dask._PATIENCE", HUNG)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AccountStore]:
    """Two folders, with a configuration file that the workers read."""
    await anyio.Path(tmp_path, "accountstore.toml").write_text(
        f'default = "Old"\n[storages.Old]\nurl = "{tmp_path}/old"\n[storages.New]\nurl = "{tmp_path}/new"\n'
        f'codec = "msgpack"\noptions = {{ file_mode = "${{{CANARY.replace("-", "_").upper()}}}" }}\n'
    )
    async with AccountStore.open(config(tmp_path)) as opened:
        for name in NAMES:
            await put(opened, source(name), "a")
        yield opened


@asynccontextmanager
async def cluster(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncGenerator[Any]:
    """A cluster of two worker processes, and a client."""
    from distributed import Client as Connected
    from distributed import LocalCluster as Started

    local: Any = Started
    connected: Any = Connected

    monkeypatch.setenv(CANARY.replace("-", "_").upper(), "0600")
    told: dict[str, Any] = {"n_workers": 2, "processes": True, "threads_per_worker": 1, "dashboard_address": None}
    async with (
        local(asynchronous=True, host="127.0.0.1", **{**told, **settings}) as started,
        connected(started, asynchronous=True) as client,
    ):
        client.workers = started.workers
        yield client


async def plugins(client: Any, /) -> list[str]:
    """Those of migrations, of all workers and of the scheduler, which gives them to workers that join."""

    def on_worker(dask_worker: Any) -> list[str]:
        return [*dask_worker.plugins]

    def to_come(dask_scheduler: Any) -> list[str]:
        return [*dask_scheduler.worker_plugins]

    there: list[list[str]] = [*(await client.run(on_worker)).values(), await client.run_on_scheduler(to_come)]
    return [name for names in there for name in names if name.startswith("accountstore")]


def run_on(client: Any, store: AccountStore, folder: Path, /, **options: Any) -> Any:
    given: dict[str, Any] = {"config": folder / "accountstore.toml", **files(folder), **options}
    return migrate(store, SOURCE, TARGET, client=client, **given)


@on_asyncio
async def test_a_worker_that_is_killed(store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers is killed in the middle: everything is copied, told once, and in the journal; the second run
    finds it the same. A StoreConfig, which has secrets, does not travel in the clear; workers with another storage
    are refused.
    """
    async with cluster(monkeypatch) as client:
        with raises(UnsupportedError, "by TLS alone"):
            await run_on(client, store, tmp_path, config=config(tmp_path))
        other = anyio.Path(tmp_path, "other.toml")
        await other.write_text(await anyio.Path(tmp_path, "accountstore.toml").read_text())
        await other.write_text((await other.read_text()).replace(f"{tmp_path}/old", f"{tmp_path}/other"))
        with raises(ConfigError, "is another one where the work is done"):
            await run_on(client, store, tmp_path, config=other)
        assert not await plugins(client)
        told: list[str] = []
        async for outcome in run_on(client, store, tmp_path):
            told.append(outcome.name)
            if len(told) == 11:
                os.kill(next(iter(client.workers.values())).pid, signal.SIGKILL)
        assert sorted(told) == sorted(NAMES)
        assert {await found(store, target(name)) for name in NAMES} == {"a"}
    assert (await once(store, tmp_path)).totals.keys() == {"same"}


@on_asyncio
@pytest.mark.parametrize("after", ["while it works", "when it hands the result over"])
async def test_a_document_that_kills_its_worker_is_named(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """A batch whose worker dies each time is done in halves: the one document is told as failed, the rest is copied.
    So it is if the first worker dies with a result that it has not handed over.
    """
    import dask.config

    if after == "while it works":
        await anyio.Path(tmp_path, "done").touch()
    await anyio.Path(tmp_path, "poison.py").write_text(
        "import functools, os, pathlib\n"
        "from accountstore.migration.work import Worker\n"
        f"done, mine = pathlib.Path({str(tmp_path / 'done')!r}), []\n"
        "async def poisoned(self, items, work=Worker.work):\n"
        f"    if any(item.name == {NAMES[7]!r} for item in items):\n"
        "        if done.exists():\n"
        "            os._exit(9)\n"
        "        done.touch()\n"
        "        mine.append(1)\n"
        "    return await work(self, items)\n"
        "if Worker.work.__name__ != 'poisoned':\n"
        "    Worker.work = poisoned\n"
        "def dask_setup(worker):\n"
        "    hand_over = worker.handlers['get_data']\n"
        "    @functools.wraps(hand_over)\n"
        "    def dying(*args, **kwargs):\n"
        "        if mine:\n"
        "            os._exit(9)\n"
        "        return hand_over(*args, **kwargs)\n"
        "    worker.handlers['get_data'] = dying\n"
    )
    with dask.config.set({
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.preload": [str(tmp_path / "poison.py")],
    }):  # fmt: skip
        async with cluster(monkeypatch) as client:
            run = run_on(client, store, tmp_path)
            told = {outcome.name: outcome.outcome async for outcome in run}
    assert told.pop(NAMES[7]) == "failed"
    assert told.keys() == {*NAMES} - {NAMES[7]}
    assert {*told.values()} <= {"copied", "same"}  # the same: done by a worker that died before it said so
    assert run.report.exit_code == 1


@on_asyncio
async def test_a_cluster_without_workers(store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has none yet, and one that loses all of them, end the run in words; the next run goes on."""
    monkeypatch.setattr("accountstore.migration.dask._PATIENCE", 1.0)
    async with cluster(monkeypatch, n_workers=0) as client:
        with anyio.fail_after(HUNG), raises(UnavailableError, "has had no worker"):
            await run_on(client, store, tmp_path)
        client.cluster.scale(1)
        await client.wait_for_workers(1)
        run = run_on(client, store, tmp_path)
        await anext(run)
        client.cluster.scale(0)
        with anyio.fail_after(HUNG), raises(UnavailableError, "has had no worker"):
            await run
    assert (await once(store, tmp_path)).ok


@on_asyncio
async def test_a_worker_that_joins_without_a_configuration(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that it had when it joined ends the run, in its own words; closed twice, the run logs nothing."""
    copy = anyio.Path(tmp_path, "there.toml")
    await copy.write_text(await anyio.Path(tmp_path, "accountstore.toml").read_text())
    async with cluster(monkeypatch, n_workers=1) as client:
        run = run_on(client, store, tmp_path, config=copy)
        await anext(run)
        await copy.unlink()
        client.cluster.scale(2)
        await client.wait_for_workers(2)
        await client.retire_workers([next(iter(client.workers.values())).worker_address])
        with anyio.fail_after(HUNG), raises(ConfigError, r"there\.toml: does not exist"):
            await run
        await run.aclose()
        assert not await plugins(client)
    assert not [record for record in caplog.records if "unregister_worker_plugin" in record.getMessage()]


@on_asyncio
async def test_a_client_that_is_closed(store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed in the midst, it ends the run in an error of the library's."""
    async with cluster(monkeypatch, n_workers=1) as client:
        run = run_on(client, store, tmp_path)
        await anext(run)
        await client.close()
        with anyio.fail_after(HUNG), raises(UnavailableError, "the client is closed"):
            await run


@on_asyncio
async def test_a_scheduler_that_is_gone(store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed scheduler is an error at once, and the next run goes on from the journal."""
    from distributed import Client as Connected

    connected: Any = Connected
    monkeypatch.setenv(CANARY.replace("-", "_").upper(), "0600")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dask = (sys.executable, "-m", "dask")
    address = f"tcp://127.0.0.1:{port}"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet),
        subprocess.Popen(
            [*dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "30"], **quiet
        ),
    ]
    try:
        async with connected(address, asynchronous=True, timeout=15) as client:
            told = 0
            with raises(UnavailableError, "scheduler is gone"):
                async for _ in run_on(client, store, tmp_path):
                    told += 1
                    if told == 6:
                        started[0].kill()
            assert 6 <= told < len(NAMES)
    finally:
        for process in started:
            process.kill()
            process.wait()
    report = await once(store, tmp_path)
    assert report.ok
    assert report.totals["same"].documents >= told - 5
    assert {await found(store, target(name)) for name in NAMES} == {"a"}


class Wire:
    """Everything that goes through a port of this machine to another one."""

    def __init__(self) -> None:
        self._port = 0
        self.seen = bytearray()

    async def serve(self, port: int, *, task_status: Any) -> None:
        self._port = port
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
        await listener.serve(self._pass_on)

    async def _pass_on(self, client: Any) -> None:
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self._port) as server,
            anyio.create_task_group() as both,
        ):
            both.start_soon(self._copy, client, server)
            both.start_soon(self._copy, server, client)

    async def _copy(self, source: Any, sink: Any) -> None:
        try:
            while True:
                data = await source.receive()
                self.seen += data
                await sink.send(data)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            await sink.aclose()


@on_asyncio
async def test_nothing_secret_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No byte of a document, no version or digest, no key and no value of an option is on the wire between client and
    scheduler, nor in what anybody logs; the names are there, which shows that the wire was read.
    """
    from distributed import Client as Connected

    connected: Any = Connected

    secret = replace(account("a"), credentials=PasswordCredentials(login=CANARY, password=CANARY))
    await anyio.Path(tmp_path, "accountstore.toml").write_text(
        f'default = "Old"\n[storages.Old]\nurl = "{tmp_path}/old"\n[storages.New]\nurl = "{tmp_path}/new"\n'
        'codec = "msgpack"\noptions = { file_mode = "0600", folder_mode = "0710" }\n'
    )
    wire, told, logs = Wire(), list[str](), list[Any]()
    async with AccountStore.open(config(tmp_path)) as store:
        versions = [await store.save(source(name), secret) for name in NAMES[:20]]
        async with cluster(monkeypatch, dashboard_address="127.0.0.1:0") as inner, anyio.create_task_group() as tasks:
            port = await tasks.start(wire.serve, int(inner.scheduler.address.rpartition(":")[2]))
            async with connected(f"tcp://127.0.0.1:{port}", asynchronous=True) as client:
                run = run_on(client, store, tmp_path)
                told += [repr(outcome) async for outcome in run]
                logs += [await client.get_scheduler_logs(), await client.get_worker_logs()]
            tasks.cancel_scope.cancel()
    assert len(told) == 20
    seen = bytes(wire.seen)
    assert NAMES[3].encode() in seen
    key = await anyio.Path(tmp_path, "key").read_bytes()
    held = seen + "".join([*told, repr(logs), *capfd.readouterr(), caplog.text]).encode()
    assert key not in held
    assert b"0710" not in held
    assert CANARY.encode() not in held
    for version in versions:
        digest = version.token.partition(":")[2]
        assert digest.encode() not in held
        assert bytes.fromhex(digest) not in held


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_it_is_refused(tmp_path: Path) -> None:
    """Dask has asyncio alone: on trio `client=` is an UnsupportedError."""
    async with AccountStore.open(config(tmp_path)) as store:
        await put(store, source(NAMES[0]), "a")
        with raises(UnsupportedError, "asyncio alone"):
            await migrate(store, SOURCE, TARGET, client=object(), **files(tmp_path))


@on_asyncio
async def test_by_tls_a_configuration_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TLS the workers take the StoreConfig and the key of the marks, and need no file."""
    pytest.importorskip("cryptography")
    from distributed.security import Security

    security: Any = Security

    told = StoreConfig(
        storages={"Old": StorageConfig(str(tmp_path / "old")), "New": StorageConfig(str(tmp_path / "new"))},
        default="Old",
    )
    async with AccountStore.open(told) as store:
        await put(store, source("x.account"), "a")
        async with cluster(monkeypatch, n_workers=1, security=security.temporary(), protocol="tls://") as client:
            assert (await run_on(client, store, tmp_path, config=told)).ok
        assert await found(store, target("x.account")) == "a"


@on_asyncio
@pytest.mark.parametrize(
    ("listens", "worker", "private"),
    [(["inproc"], "inproc", True), (["inproc", "tcp"], "inproc", False), (["inproc"], "tcp", False)],
)
async def test_one_way_in_the_clear_is_enough(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: list[str], worker: str, private: bool
) -> None:
    """Whatever way the client itself has: where the scheduler listens without TLS, so that a worker may join there, or
    a worker does, no StoreConfig travels, and no key of the marks.
    """
    from distributed import Client as Connected
    from distributed import Scheduler as Scheduling
    from distributed import Worker as Working

    from accountstore.migration.dask import StorePlugin

    connected: Any = Connected
    scheduling: Any = Scheduling
    working: Any = Working
    keys: list[bytes | str] = []

    async def seen(plugin: Any, worker: Any) -> None:
        keys.append(plugin._key)
        raise ConfigError("seen")

    monkeypatch.setattr(StorePlugin, "setup", seen)
    ports: dict[str, Any] = {"port": [0] * len(listens), "host": [None, "127.0.0.1"][: len(listens)]}
    async with scheduling(protocol=listens, dashboard=False, **ports) as scheduler:
        inproc = scheduler.listeners[0].contact_address
        async with (
            working(inproc, nthreads=1, protocol=worker, dashboard=False),
            connected(inproc, asynchronous=True) as client,
        ):
            with raises(ConfigError, "seen"):
                await run_on(client, store, tmp_path)
            assert isinstance(keys[0], bytes) is private
            refusal, said = (ConfigError, "seen") if private else (UnsupportedError, "or a worker does without")
            with raises(refusal, said):
                await run_on(client, store, tmp_path, config=config(tmp_path))
            assert len(keys) == 1 + private
