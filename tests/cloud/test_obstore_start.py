"""The Rust client obstore: its threads start with the first call, of a process that may be short of descriptors."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread
from cloudtargets import AT, NEW, Target, on_asyncio
from running import HUNG, PYTHON

from accountstore import AccountStore, BackendError

if TYPE_CHECKING:
    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]
pytest.importorskip("obstore")

opening: Any = import_module("accountstore.backends.obstore.opening")
S3 = Target("s3", "obstore")

SHORT = """
import asyncio, json, os, resource, sys
from accountstore import *
from accountstore.backends.obstore import opening

url, options, free, looks = json.loads(sys.argv[1])
if not looks:
    opening._require_descriptors = lambda: None
config = StoreConfig(storages={"cloud": StorageConfig(url, options, engine="obstore", attempts=1)})
at, account = Location("a.account", folder="f"), Account(host="host", port=1)
taken = []

def take():
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass

def give(count):
    for _ in range(count):
        os.close(taken.pop())

async def told(call):
    try:
        await call
    except BaseException as error:
        print(type(error).__name__)
    else:
        print("done")

async def main():
    store = await AccountStore.open(config)
    take()
    give(free)
    await told(store.get(at))
    await told(store.save(at, account))
    give(len(taken))
    await told(store.save(at, account))
    await told(store.aclose())
    store = await AccountStore.open(config)
    await told(store.get(at))
    await told(store.aclose())
    take()
    try:
        await AccountStore.open(config)
    except ConfigError as error:
        print("Too many open files" in str(error))

asyncio.run(main())
"""


async def short(stub: Stub, free: int, *, looks: bool = True) -> list[str]:
    """What the calls of a program say that has so many free descriptors at its first two calls."""
    pytest.importorskip("resource")
    storage = S3.config(stub.url).storages["cloud"]
    given = json.dumps([storage.url, dict(storage.options), free, looks])
    run = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HUNG)
    return (await to_thread.run_sync(run, [*PYTHON, "-c", SHORT, given])).stdout.split()


@pytest.mark.parametrize("free", [0, 1, 2, 3, 8])
async def test_a_first_call_without_descriptors_breaks_nothing(stub: Stub, free: int) -> None:
    """It is told as a failure that may pass, of which nothing was sent; with descriptors the store works, as does every
    other. A store that cannot open for want of them says so.
    """
    assert await short(stub, free) == ["UnavailableError"] * 2 + ["done"] * 4 + ["True"]


@pytest.mark.parametrize("free", [1, 2])
async def test_control_without_the_look_at_descriptors_obstore_works_no_more(stub: Stub, free: int) -> None:
    """The control: obstore's threads are not started a second time in a process."""
    said = await short(stub, free, looks=False)
    assert said[:3] == ["BackendError"] * 3


async def test_threads_that_cannot_be_started_are_an_error(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic at the start, as where the system has no threads, is an error of the storage; anything else goes on."""

    class Ended(BaseException):
        pass

    def fail(kind: type[BaseException]) -> None:
        raise kind

    async with AccountStore.open(S3.config(stub.url)) as store:
        panic = type("PanicException", (BaseException,), {})
        monkeypatch.setattr(opening, "MemoryStore", partial(fail, panic))
        with pytest.raises(BackendError, match="threads cannot be started"):
            await store.get(AT)
        monkeypatch.setattr(opening, "MemoryStore", partial(fail, Ended))
        with pytest.raises(Ended):
            await to_thread.run_sync(opening.start)
        monkeypatch.undo()
        await store.save(AT, NEW)
