"""The public calls."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from accountstore.aio.loops import asyncio_loop
from accountstore.config import StoreConfig
from accountstore.errors import UnsupportedError
from accountstore.migration.decide import Action
from accountstore.migration.identity import marks_of_storages
from accountstore.migration.marks import Marks
from accountstore.migration.model import Options, Place
from accountstore.migration.run import Migration
from accountstore.migration.runners import Here, Runner
from accountstore.migration.work import Job, Worker
from accountstore.store import AccountStore, parts_of

Path = str | os.PathLike[str]

_MOST_PROCESSES = 1_000


def migrate(
    store: AccountStore,
    source: Place | str,
    target: Place | str,
    /,
    *,
    journal: Path,
    key_file: Path | None = None,
    options: Options | None = None,
    processes: int = 1,
    client: Any = None,
    config: StoreConfig | Path | None = None,
) -> Migration:
    """Copy what is new or has changed: iterate over the outcomes (`async for`), or `await` the report.

    `source` and `target` are places, as `Place.parse` reads them: `"First Storage:mail"`. Each document is checked,
    takes the target's codec and keeps the fields that this release does not know. It is written where there is none, or
    over the version that the journal knows: one that has changed at both ends is a `conflict`, and stays.

    `journal` is a file, made where it is not there; run again on it, a migration goes on where it was killed, and
    copies what has changed since. It must be on a local file system. `key_file` has the key of its marks; without it,
    that is in the user's data folder.

    `processes` does the work in so many processes of this machine, `client` on the workers of a `distributed.Client`
    (extra `dask`, asyncio alone). They open stores of their own from `config`: a path, which they read where they run.
    Without it, processes open what the store was opened from, and Dask's workers what `AccountStore.open` finds there.
    A `StoreConfig` goes to Dask's workers by TLS alone. Whatever they open, both ends have to be the same storages.

    Raises:
        ValueError: processes is below 1, or above 1,000.
        TypeError: a place or the options are none.
        UnsupportedError: `client` on trio; or something would have to travel in the clear.
        Others as `Migration`, when it is iterated over.
    """
    if not 1 <= processes <= _MOST_PROCESSES:
        raise ValueError(f"processes must be 1 to {_MOST_PROCESSES:,}")
    if (processes > 1 or client is not None) and parts_of(store)[0].only is not None:
        raise UnsupportedError("a scoped store is migrated in one process: others would open the whole store")
    job = _job("migrate", source, target, options)
    if client is None and processes == 1:
        make = partial(_here, store, job)
    else:
        told = os.fspath(config) if config is not None and not isinstance(config, StoreConfig) else config
        make = partial(_elsewhere, store, job, processes, client, told)
    return _migration(store, job, journal, key_file, make)


def plan(
    store: AccountStore,
    source: Place | str,
    target: Place | str,
    /,
    *,
    journal: Path | None = None,
    key_file: Path | None = None,
    options: Options | None = None,
) -> Migration:
    """Say what `migrate` would do, document by document, and change nothing. As `migrate`, and refused as that is.

    What would be copied is read, as it may be refused. A journal that is there is consulted; awaited, the report has
    the outcomes.
    """
    job = _job("plan", source, target, options)
    return _migration(store, job, journal, key_file, partial(_here, store, job))


def verify(
    store: AccountStore,
    source: Place | str,
    target: Place | str,
    /,
    *,
    journal: Path | None = None,
    key_file: Path | None = None,
    options: Options | None = None,
) -> Migration:
    """Read both ends and compare them, document by document, and change nothing. As `plan`."""
    job = _job("verify", source, target, options)
    return _migration(store, job, journal, key_file, partial(_here, store, job))


def _job(action: Action, source: Place | str, target: Place | str, options: Options | None, /) -> Job:
    if not isinstance(options, Options | None):
        raise TypeError("options must be Options, such as `Options(concurrency=3)`")
    return Job(action, _place("source", source), _place("target", target), options or Options())


def _place(end: str, place: Place | str, /) -> Place:
    if not isinstance(place, Place | str):
        raise TypeError(f'{end} must be a place: text, such as "Old:mail", or `Place("mail", "Old")`')
    return Place.parse(place) if isinstance(place, str) else place


def _migration(store: AccountStore, job: Job, journal: Path | None, key_file: Path | None, make: Any, /) -> Migration:
    return Migration(
        store,
        job,
        journal=None if journal is None else os.fspath(journal),
        key_file=None if key_file is None else os.fspath(key_file),
        runner=make,
    )


async def _here(store: AccountStore, job: Job, marks: Marks, key_file: str, /) -> Runner:
    return Here(Worker(store, job, marks))


async def _elsewhere(
    store: AccountStore,
    job: Job,
    processes: int,
    client: Any,
    config: StoreConfig | str | None,
    marks: Marks,
    key_file: str,
    /,
) -> Runner:
    resolver, _ = parts_of(store)
    for place in (job.source, job.target):
        if (storage := resolver.storage(place.storage)).url.startswith("memory://"):
            raise UnsupportedError(f"storage {storage.name!r} is in the memory of this process, which no other reaches")
    storages = marks_of_storages(resolver, job, marks)
    if client is None:
        from accountstore.migration.processes import Processes

        config = config or resolver.storages.config
        if config is None:
            raise UnsupportedError("this store was made of backends, which no other process can open")
        return Processes(processes, config, job, marks, storages)
    if asyncio_loop() is None:
        raise UnsupportedError("a Dask client works on asyncio alone")
    try:
        from accountstore.migration.dask import Cluster
    except ImportError:
        raise UnsupportedError("client= needs the package distributed: pip install 'accountstore[dask]'") from None
    return await Cluster.start(client, config, job, marks, key_file, storages)
