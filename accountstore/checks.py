"""Prove on a real storage what its backend declares."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.attempts import within
from accountstore.backends.base import Version
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    ConflictError,
    ExistsError,
    NotFoundError,
    UnsupportedError,
)
from accountstore.location import Location
from accountstore.model import Account, PasswordCredentials
from accountstore.proving import Proof
from accountstore.storage import Place, known

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from accountstore.backends.base import WriteMode
    from accountstore.storage import Storage

__all__ = ("Check", "Step", "check_storage")

T = TypeVar("T")

_IGNORED = "the condition was ignored"


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
    secrets too; None where it does not tell.
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


class _Document:
    """The passing document, and the requests that are tried on it: as they are, without gates and second attempts."""

    def __init__(self, storage: Storage, location: Location, /) -> None:
        self._storage = storage
        self._key = location.path
        self._name = partial(storage.named, location=location)

    async def _call(self, call: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        async def named() -> T | AccountStoreError:
            try:
                return await call()
            except Exception as error:  # noqa: BLE001 -- named here, raised outside its frames
                return self._name(error)

        outcome = await within(named, self._name, self._storage.policy)
        if isinstance(outcome, AccountStoreError):
            raise outcome
        return outcome

    async def write(self, data: bytes, mode: WriteMode, /) -> None:
        await self._call(lambda: self._storage.backend.write(self._key, data, mode=mode))

    async def read(self) -> bytes:
        blob = await self._call(lambda: self._storage.backend.read(self._key, limit=self._storage.limit))
        return blob.data

    async def version(self) -> Version:
        return known(await self._call(lambda: self._storage.backend.stat(self._key)))

    async def delete(self, version: Version | None, /) -> None:
        await self._call(lambda: self._storage.backend.delete(self._key, version=version))

    async def list(self) -> None:
        pages = self._storage.backend.scan(self._key.rpartition("/")[0], recursive=False)

        async def first() -> None:
            await anext(pages, None)

        await self._call(first)


class _Steps:
    """What was tried so far."""

    def __init__(self) -> None:
        self.done: list[Step] = []

    async def succeeds(self, name: str, call: Awaitable[object], /) -> bool:
        return await self._take(name, call, None)

    async def refused(self, name: str, call: Awaitable[object], error: type[BackendError], /) -> bool:
        return await self._take(name, call, error)

    async def _take(self, name: str, call: Awaitable[object], wanted: type[BackendError] | None, /) -> bool:
        started = time.perf_counter()
        problem = "" if wanted is None else _IGNORED
        try:
            await call
        except (BackendError, UnsupportedError) as error:
            met = wanted is not None and isinstance(error, wanted)
            problem = "" if met else f"{type(error).__name__}: {error.message}"
        self.done.append(Step(name, problem, time.perf_counter() - started))
        return not problem

    def excuse(self) -> None:
        """Take the problem from the last step: the store refuses what the storage ignores."""
        self.done[-1] = replace(self.done[-1], problem="")


async def check_storage(storage: Storage, folder: str, /) -> Check:
    """Write, read, list, create, swap and remove a passing document in a folder."""
    able = storage.capabilities
    location = Location(f"check-{os.urandom(8).hex()}.account", folder=folder, storage=storage.name)
    document = _Document(storage, location)
    first, second, third = (
        Place(storage, location.path, location).encode(
            Account(host=host, port=1, credentials=PasswordCredentials(login="check", password=host)), Account
        )
        for host in ("first.invalid", "second.invalid", "third.invalid")
    )
    steps = _Steps()
    create = update = delete = versioned = None
    removed = False
    try:
        if await steps.succeeds("write", document.write(first, "overwrite")):
            if await steps.succeeds("read", _read_back(document, first)) and able.create:
                create = await steps.refused("create over a document", document.write(second, "create"), ExistsError)
            await steps.succeeds("list", document.list())
            if able.update:
                update, delete = await _swaps(document, steps, second, third, believed=able.proven)
            versioned = await _versioned(storage)
    finally:
        with anyio.CancelScope(shield=True):
            try:
                removed = await steps.succeeds("delete", document.delete(None))
            except BaseException:  # Task.cancel() passes through the shield
                await document.delete(None)
                raise
    if removed:
        await steps.refused("read after delete", document.read(), NotFoundError)
    if create is not None and update is not None and delete is not None:
        storage.learn(Proof(create, update, delete))
    return Check(storage.name, create, update, delete, versioned, tuple(steps.done))


async def _swaps(
    document: _Document, steps: _Steps, second: bytes, third: bytes, /, *, believed: bool
) -> tuple[bool, bool | None]:
    versions: list[Version] = []

    async def ask() -> None:
        versions.append(await document.version())

    if not await steps.succeeds("version", ask()):
        return False, None
    stale = Version("stale")
    swaps = [
        await steps.refused("swap of an unknown version", document.write(second, stale), ConflictError),
        await steps.succeeds("swap of the current version", document.write(third, versions[0])),
        await steps.refused("swap of the version before", document.write(second, versions[0]), ConflictError),
    ]
    delete = await steps.refused("delete of the version before", document.delete(versions[0]), ConflictError)
    if believed:
        return all(swaps) and delete, delete
    if not delete:
        steps.excuse()
    return all(swaps), delete


async def _versioned(storage: Storage, /) -> bool | None:
    with anyio.move_on_after(storage.policy.timeout):
        try:
            return await storage.backend.versioned()
        except Exception:  # noqa: BLE001 -- it is no promise
            return None
    return None


async def _read_back(document: _Document, data: bytes, /) -> None:
    if await document.read() != data:
        raise BackendError("read other bytes than were written")
