"""The same work on the workers of a Dask cluster (extra `dask`). No version, option or document travels in the clear.

Each worker opens one store, from a configuration that it reads itself. What travels are names, keyed marks and
outcomes, and by TLS the key of the marks; without TLS the workers read it from its file, as the configuration.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from os import urandom
from typing import Any

from anyio import move_on_after
from distributed import KilledWorker, WorkerPlugin, get_worker
from distributed.client import ClosedClientError
from msgspec.structs import replace

from accountstore.aio.loops import asyncio_loop
from accountstore.config import StoreConfig
from accountstore.errors import AccountStoreError, BackendError, UnavailableError, UnsupportedError
from accountstore.migration.identity import check_storages
from accountstore.migration.marks import Marks, read_key
from accountstore.migration.merge import Item, Side
from accountstore.migration.records import Done
from accountstore.migration.runners import MOST, Batch, Task, told_by_worker
from accountstore.migration.work import Job, Worker
from accountstore.store import AccountStore

_DEPTH = 4
"""Batches that a worker has at a time, so that none waits for the client."""

_POLL = 1.0
"""After so many seconds without a result it looks for a scheduler and a worker."""
_PATIENCE = 15.0
"""So many seconds a cluster may be without any worker."""
_FAREWELL = 10.0
_BROKEN = (OSError, RuntimeError, ClosedClientError)
"""What distributed raises where the connection to the scheduler is broken, and where its client was closed since."""


class StorePlugin(WorkerPlugin):
    """On each worker: one store, and the worker of a migration on it."""

    def __init__(
        self, name: str, config: StoreConfig | str | None, job: Job, key: bytes | str, storages: dict[str, str], /
    ) -> None:
        """`key` is that of the marks, or the path of its file; `storages` are the marks of both ends'."""
        self.name = name
        self._config = config
        self._job = job
        self._key = key
        self._storages = storages
        self._store: AccountStore | None = None
        self.migration: Worker | None = None
        self.failure: AccountStoreError | None = None

    def __repr__(self) -> str:
        return f"StorePlugin({self.name!r})"

    async def setup(self, worker: Any) -> None:
        """Open the store, on the worker's event loop."""
        try:
            marks = Marks(self._key if isinstance(self._key, bytes) else read_key(self._key))
            self._store = await AccountStore.open(self._config)
            check_storages(self._store, self._job, marks, self._storages)
        except AccountStoreError as error:
            self.failure = error.with_traceback(None)  # Dask only logs it for a worker that joins later
            raise
        self.migration = Worker(self._store, self._job, marks)

    async def teardown(self, worker: Any) -> None:
        """Close the store."""
        if self._store is not None:
            await self._store.aclose()


async def work(plugin: str, items: Sequence[Item], /) -> list[Done]:
    """Do a batch: the task. It runs on the event loop of the worker."""
    found: Any = get_worker().plugins[plugin]
    if found.failure is not None:
        raise found.failure
    return list(await found.migration.work(items))


class Cluster:
    """Does batches on the workers of a cluster. A batch that keeps killing its worker is done in halves in the end."""

    own_store = False

    def __init__(self, client: Any, plugin: str, workers: int, job: Job, /) -> None:
        self._client = client
        self._plugin = plugin
        self._registered = True
        self._workers = workers
        self._job = job
        self._sent: dict[asyncio.Task[list[Any]], tuple[Any, Task]] = {}
        self._ready: deque[Batch] = deque()
        self._suspects: deque[Task] = deque()

    @classmethod
    async def start(
        cls,
        client: Any,
        config: StoreConfig | str | None,
        job: Job,
        marks: Marks,
        key_file: str,
        storages: dict[str, str],
        /,
    ) -> Cluster:
        """Let each worker of the cluster open a store.

        Raises:
            UnsupportedError: not on asyncio; or a `StoreConfig` would travel in the clear.
            UnavailableError: the cluster has no worker.
        """
        if asyncio_loop() is None or not client.asynchronous:
            raise UnsupportedError("a Dask client works on asyncio alone, and has to be `Client(asynchronous=True)`")
        await _wait_for_worker(client)
        private = await _is_private(client)
        if isinstance(config, StoreConfig) and not private:
            raise UnsupportedError(
                "a StoreConfig, with its secrets, travels to Dask's workers by TLS alone, and the scheduler or a worker"
                " does without: give the path of a file that they have, or set ACCOUNTSTORE_CONFIG where they run"
            )
        workers = len(await client.nthreads())
        options = job.options
        rate = options.requests_per_second
        share = replace(
            options,
            concurrency=max(1, options.concurrency // workers),
            requests_per_second=None if rate is None else rate / workers,
            names=None,
        )
        name = f"accountstore-migration-{urandom(8).hex()}"
        key = marks.key if private else key_file
        plugin = StorePlugin(name, config, replace(job, options=share), key, storages)
        cluster = cls(client, name, workers, job)
        try:
            await client.register_plugin(plugin)
        except AccountStoreError:
            await cluster.aclose()
            raise
        except Exception as error:  # noqa: BLE001 -- whatever a worker's answer is
            failure = BackendError(f"the Dask workers could not open a store ({type(error).__name__})")
        else:
            return cluster
        await cluster.aclose()
        raise failure

    @property
    def room(self) -> int:
        """A few batches a worker, less those that are out."""
        return 0 if self._suspects else self._workers * _DEPTH - len(self._sent) - len(self._ready)

    @property
    def size(self) -> int:
        """Of a batch: long work on a worker's event loop would keep it from its heartbeats."""
        return MOST

    @property
    def busy(self) -> bool:
        """Whether a batch is not done."""
        return bool(self._sent or self._ready or self._suspects)

    def submit(self, items: Sequence[Item], /) -> None:
        """Take a batch."""
        self._send(Task([_without_versions(item) for item in items]))

    def _send(self, task: Task, /) -> None:
        try:
            # Not pure: the same names may have to be done again.
            future = self._client.submit(work, self._plugin, task.items, pure=False)
        except _BROKEN:
            gone = _gone()
        else:
            # Each by itself, for `as_completed` never tells a future whose result is lost and whose repetition fails.
            self._sent[asyncio.create_task(_result(self._client, future))] = future, task
            return
        raise gone

    async def next(self) -> Batch:
        """A batch that is done, of whichever worker.

        Raises:
            UnavailableError: the scheduler or the last worker is gone. What was done is in the journal.
        """
        while not self._ready:
            if not self._sent:
                self._send(self._suspects.popleft())  # alone, so that it is clear who is to blame
            ended = await self._ended()
            future, task = self._sent.pop(ended)
            if ended.cancelled() or isinstance(error := ended.exception(), _BROKEN):
                raise _gone()
            if error is not None:
                self._failed(task, error)
            elif ended.result():
                # Dask repeats what a worker died with, and does not tell.
                self._ready.append(told_by_worker(task.items, ended.result()[0], self._job))
            elif future.status == "error":
                self._failed(task, await future.exception())
            else:  # the result went with its worker
                self._send(task)
            future.release()
        return self._ready.popleft()

    async def _ended(self) -> asyncio.Task[list[Any]]:
        """What came to its end first; while nothing does, there have to be a scheduler and a worker."""
        while True:
            ended, _ = await asyncio.wait(self._sent, timeout=_POLL, return_when=asyncio.FIRST_COMPLETED)
            if self._client.status != "running":
                raise _gone()
            if ended:
                return ended.pop()
            await _wait_for_worker(self._client)

    def _failed(self, task: Task, error: object, /) -> None:
        if not isinstance(error, KilledWorker):
            if isinstance(error, AccountStoreError):
                raise error.with_traceback(None)
            raise BackendError(f"a Dask worker failed ({type(error).__name__})")
        if len(task.items) == 1 and not task.deaths:
            self._suspects.append(Task(task.items, 1))  # another task of that worker may have killed it
            return
        after = Task(task.items, 1).after_death()  # Dask has tried several times
        if isinstance(after, Batch):
            self._ready.append(after)
        else:
            for half in after:
                self._send(Task(half.items))

    async def aclose(self) -> None:
        """Let the workers close their stores, where the scheduler is still there."""
        for waiting in self._sent:
            waiting.cancel()
        await asyncio.gather(*self._sent, return_exceptions=True)
        if self._registered and self._client.status == "running":
            self._registered = False
            with suppress(Exception), move_on_after(_FAREWELL):  # it may be gone, which `next` has said
                await self._client.unregister_worker_plugin(self._plugin)


def _gone() -> UnavailableError:
    return UnavailableError(
        "the Dask scheduler is gone, or the client is closed: run it again with another one", sent=False
    )


async def _result(client: Any, future: Any, /) -> list[Any]:
    """Wait for a future's end, and for its result; none if it failed or was cancelled."""
    return list(await client.gather([future], errors="skip"))


async def _wait_for_worker(client: Any, /) -> None:
    """Wait until a cluster has a worker, for so long. Raises `UnavailableError`: it has none, or no scheduler."""
    failure = UnavailableError(
        f"the Dask cluster has had no worker for {_PATIENCE:g} s: run it again when it has one", sent=False
    )
    try:
        with move_on_after(_PATIENCE):
            await client.wait_for_workers(1)
            return
    except _BROKEN:
        failure = _gone()
    raise failure


async def _is_private(client: Any, /) -> bool:
    """Whether TLS, or this very process, is the only way to each worker, and to the scheduler, also for later ones."""

    def ways(dask_scheduler: Any) -> list[str]:
        return [*(listener.contact_address for listener in dask_scheduler.listeners), *dask_scheduler.workers]

    found = [client.scheduler.address]
    try:
        found += await client.run_on_scheduler(ways)
    except Exception:  # noqa: BLE001 -- of one that does not say it, nothing is known
        return False
    return all(address.startswith(("tls://", "inproc://")) for address in found)


def _without_versions(item: Item, /) -> Item:
    """The item as it may travel: a version may be a digest of the document."""
    return Item(item.name, _sealed(item.source), _sealed(item.target), item.row, item.listed)


def _sealed(side: Side | None, /) -> Side | None:
    return None if side is None else replace(side, version=None)
