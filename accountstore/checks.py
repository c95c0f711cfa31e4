"""Prove on a real storage what its backend declares."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

from accountstore.backends.base import Version
from accountstore.errors import BackendError, ConflictError, ExistsError, NotFoundError
from accountstore.location import Location
from accountstore.model import Account, PasswordCredentials
from accountstore.storage import Place, known

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from accountstore.secrets import SecretBytes
    from accountstore.storage import Storage

__all__ = ("Check", "Step", "check_storage")


class Step(Struct, frozen=True):
    """One thing that was tried. `problem` is empty where it went as it must."""

    name: str
    problem: str
    seconds: float


class Check(Struct, frozen=True):
    """What `AccountStore.check` found. `create` and `update` say what was proven, None where it is not declared."""

    storage: str
    create: bool | None
    update: bool | None
    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether the storage is reachable and keeps what its backend declares."""
        return not any(step.problem for step in self.steps)


class _Steps:
    def __init__(self) -> None:
        self.done: list[Step] = []

    async def succeeds(self, name: str, call: Awaitable[object], /) -> bool:
        return await self._take(name, call, None)

    async def refused(self, name: str, call: Awaitable[object], error: type[BackendError], /) -> bool:
        return await self._take(name, call, error)

    async def _take(self, name: str, call: Awaitable[object], wanted: type[BackendError] | None, /) -> bool:
        started = time.perf_counter()
        problem = "" if wanted is None else "the condition was ignored"
        try:
            await call
        except BackendError as error:
            problem = (
                "" if wanted is not None and isinstance(error, wanted) else f"{type(error).__name__}: {error.message}"
            )
        self.done.append(Step(name, problem, time.perf_counter() - started))
        return not problem


async def check_storage(storage: Storage, folder: str, /) -> Check:
    """Write, read, swap and remove a passing document in a folder."""
    capabilities = storage.backend.capabilities
    name = f"check-{os.urandom(8).hex()}.account"
    location = Location(name, folder=folder, storage=storage.name)
    place = Place(storage, location.path, location)
    first, second, third = (
        place.encode(Account(host=host, port=1, credentials=PasswordCredentials(login="check", password=host)), Account)
        for host in ("first.invalid", "second.invalid", "third.invalid")
    )
    steps = _Steps()
    create = update = None
    removed = False
    try:
        if await steps.succeeds("write", place.write(first, "overwrite")):
            if await steps.succeeds("read", _read_back(place, first)) and capabilities.create:
                create = await steps.refused("create over a document", place.write(second, "create"), ExistsError)
            if capabilities.update:
                update = await _swaps(place, steps, second, third)
    finally:
        with anyio.CancelScope(shield=True):
            try:
                removed = await steps.succeeds("delete", place.delete(None))
            except BaseException:  # Task.cancel() passes through the shield
                await place.delete(None)
                raise
    if removed:
        await steps.refused("read after delete", place.read(), NotFoundError)
    return Check(storage.name, create, update, tuple(steps.done))


async def _swaps(place: Place, steps: _Steps, second: SecretBytes, third: SecretBytes, /) -> bool:
    versions: list[Version] = []

    async def ask() -> None:
        versions.append(known(await place.stat()))

    if not await steps.succeeds("version", ask()):
        return False
    stale = Version("stale")
    return all(
        [
            await steps.refused("swap of a stale version", place.write(second, stale), ConflictError),
            await steps.refused("delete of a stale version", place.delete(stale), ConflictError),
            await steps.succeeds("swap of the current version", place.write(third, versions[0])),
            await steps.refused("swap of the version before", place.write(second, versions[0]), ConflictError),
        ]
    )


async def _read_back(place: Place, data: bytes, /) -> None:
    if (await place.read()).data != data:
        raise BackendError("read other bytes than were written")
