"""Prove on a real storage what its backend declares."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Version
from accountstore.client import StorageClient
from accountstore.errors import BackendError, ConflictError, ExistsError, NotFoundError, UnsupportedError
from accountstore.model import Account, PasswordCredentials
from accountstore.probe import Conditions
from accountstore.retry import RetryPolicy
from accountstore.storage import Storage, stored
from accountstore.validation import join


class Step(Struct, frozen=True):
    """One thing that was tried. `problem` is empty where it went as it must."""

    name: str
    problem: str
    seconds: float


class Check(Struct, frozen=True):
    """What `AccountStore.check` found.

    `create`, `update` and `delete` (of a version) say what was proven, None where it is not declared or could not be
    tried. Where `delete` alone is False on a storage whose conditions depend on its server, the store refuses such
    deletes, and that is no problem. `versioned` says whether the storage keeps what was overwritten or deleted, old
    secrets too; None where that is not known.
    """

    storage: str
    create: bool | None
    update: bool | None
    delete: bool | None
    versioned: bool | None
    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether the storage is reachable and keeps what its backend declares."""
        return not any(step.problem for step in self.steps)

    @property
    def latency(self) -> float:
        """The median time of a request, in seconds."""
        from statistics import median

        return median(step.seconds for step in self.steps)


class _Steps:
    """What was tried so far."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.conclusive = True
        """Whether no request failed for another reason than its condition, or that the storage has no such request."""

    async def passes(self, name: str, call: Awaitable[object], wanted: type[BackendError] | None = None, /) -> bool:
        """Whether a call succeeds, or fails with the error that is wanted."""
        started = time.perf_counter()
        problem = "" if wanted is None else "the condition was ignored"
        try:
            await call
        except (BackendError, UnsupportedError) as error:
            met = wanted is not None and isinstance(error, wanted)
            problem = "" if met else f"{type(error).__name__}: {error.message}"
            self.conclusive = self.conclusive and (met or isinstance(error, UnsupportedError))
        self.done.append(Step(name, problem, time.perf_counter() - started))
        return not problem


async def check(storage: Storage, folder: str, /) -> Check:
    """Write, read, list, create, swap and remove a document of its own in a folder.

    Each request is made once, as it is: without the probe, further attempts, and a look at what a refusal met.
    """
    able = storage.client.backend.capabilities
    policy = RetryPolicy(storage.client.policy.timeout, 1, storage.client.policy.storage)
    once = replace(able, verify=False, write_tokens=False)
    client = StorageClient(storage.name, storage.client.backend, policy, limit=storage.client.limit, capabilities=once)
    key = join(folder, f"check-{os.urandom(8).hex()}.account")
    first, second, third = (
        storage.encode(
            Account(host=host, port=1, credentials=PasswordCredentials(login="check", password=host)), Account
        )
        for host in ("first.invalid", "second.invalid", "third.invalid")
    )
    steps = _Steps()
    create = update = delete = versioned = None
    removed = False
    try:
        if await steps.passes("write", client.write(key, first, "overwrite")):
            if await steps.passes("read", _read_back(client, key, first)) and able.create:
                create = await steps.passes("create over a document", client.write(key, second, "create"), ExistsError)
            await steps.passes("list", anext(client.pages(folder, recursive=False), None))
            if able.update:
                update, delete = await _swaps(client, key, steps, second, third, excused=able.verify)
            versioned = await client.versioned()
    finally:
        with anyio.CancelScope(shield=True):
            try:
                removed = await steps.passes("delete", client.delete(key))
            except BaseException:  # Task.cancel() passes through the shield
                await client.delete(key)
                raise
    if removed:
        await steps.passes("read after delete", client.read(key), NotFoundError)
    if steps.conclusive and create is not None and update is not None and delete is not None:
        storage.client.record(Conditions(create, update, delete))
    return Check(storage.name, create, update, delete, versioned, tuple(steps.done))


async def _swaps(
    client: StorageClient, key: str, steps: _Steps, second: bytes, third: bytes, /, *, excused: bool
) -> tuple[bool, bool | None]:
    versions: list[Version] = []
    if not await steps.passes("version", _take_version(client, key, versions)):
        return False, None
    swaps = [
        await steps.passes("swap of an unknown version", client.write(key, second, Version("stale")), ConflictError),
        await steps.passes("swap of the current version", client.write(key, third, versions[0])),
        await steps.passes("swap of the version before", client.write(key, second, versions[0]), ConflictError),
    ]
    delete = await steps.passes("delete of the version before", client.delete(key, versions[0]), ConflictError)
    if not excused:
        return all(swaps) and delete, delete
    if not delete and steps.conclusive:  # no problem: the store refuses what the storage ignores
        steps.done[-1] = replace(steps.done[-1], problem="")
    return all(swaps), delete


async def _take_version(client: StorageClient, key: str, versions: list[Version], /) -> None:
    versions.append(stored(None, await client.stat(key)).version)


async def _read_back(client: StorageClient, key: str, data: bytes, /) -> None:
    if (await client.read(key)).data != data:
        raise BackendError("read other bytes than were written")
