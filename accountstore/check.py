"""Prove on a real storage what its backend declares."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Blob, Capabilities, Stat, Version, Write
from accountstore.client import StorageClient
from accountstore.errors import (
    BackendError,
    ConflictError,
    ExistsError,
    NotFoundError,
    SealError,
    TamperedError,
    UnsupportedError,
)
from accountstore.listing import Listing, Skipped
from accountstore.model import Account, PasswordCredentials
from accountstore.retry import Conditions, RetryPolicy
from accountstore.storage import Storage
from accountstore.validation import join

if TYPE_CHECKING:
    from accountstore.sealing.sealer import Sealer


class Step(Struct, frozen=True):
    """One thing that was tried. `problem` is empty where it went as it must. `unsupported` is what the backend says
    where it refuses to try.
    """

    name: str
    problem: str
    seconds: float
    unsupported: str = ""


class Sealing(Struct, frozen=True):
    """How a storage is sealed, as its configuration says: `mode` is `"required"`, `"optional"` (plaintext is read, too)
    or `"unsealing"` (the next write is plain); `key_ids` can open, the first seals.
    """

    mode: str
    id: str
    key_ids: tuple[str, ...]


class Check(Struct, frozen=True):
    """What `AccountStore.check` found.

    `create`, `update` and `delete` (of a version) say what was proven: True, it is kept; False, it is not, and the
    store refuses it; None, it was not tried, because the backend does not declare it (`declared`), the storage is
    read-only, or a request failed for another reason. Where `delete` alone is False on a storage whose conditions
    depend on its server, that is no problem. `versioned` says whether the storage keeps what was overwritten or
    deleted, old secrets too; None where that is not known.

    `skipped` has documents that no `Location` names, as other programs may have written them: listings leave them out,
    and that is no problem of the storage. There are at most 100, found
    within the storage's `timeout`; `complete` says whether these are all. `sealing` is None where the storage is not
    encrypted: its own document was sealed and opened, too. Where `versioned` is True, plaintext from before the first
    encryption is still kept.
    """

    storage: str
    create: bool | None
    update: bool | None
    delete: bool | None
    versioned: bool | None
    steps: tuple[Step, ...]
    declared: Capabilities
    skipped: tuple[Skipped, ...] = ()
    complete: bool = False
    sealing: Sealing | None = None

    @property
    def ok(self) -> bool:
        """Whether the storage is reachable and keeps what its backend declares."""
        return not any(step.problem for step in self.steps)

    @property
    def latency(self) -> float:
        """The median time of the requests that went as they must, in seconds; of all, where none did."""
        requests = [step for step in self.steps if step.name != _SEALING] or self.steps
        met = [step.seconds for step in requests if not step.problem]
        ordered = sorted(met or [step.seconds for step in requests])
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


_ANSWERS = (ConflictError, ExistsError, NotFoundError, UnsupportedError)
"""What answers a condition, rightly or wrongly."""
_SKIPPED = 100
_SEALING = "seal and open"


class _Steps:
    """What was tried so far."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.conclusive = True
        """Whether no request failed for another reason than its condition, or that the storage has no such request."""

    async def passes(
        self, name: str, call: Awaitable[object], wanted: type[BackendError] | None = None, /
    ) -> bool | None:
        """Whether a call succeeds, or fails with the error that is wanted. None: it failed for another reason than a
        condition, and proves nothing.
        """
        started = time.perf_counter()
        problem = "" if wanted is None else "the condition was ignored"
        unsupported, proves = "", True
        try:
            await call
        except (BackendError, UnsupportedError, SealError) as error:
            met = wanted is not None and isinstance(error, wanted)
            problem = "" if met else f"{type(error).__name__}: {error.message}"
            unsupported = error.message if isinstance(error, UnsupportedError) else ""
            proves = isinstance(error, _ANSWERS)
            self.conclusive = self.conclusive and (met or isinstance(error, UnsupportedError))
        self.done.append(Step(name, problem, time.perf_counter() - started, unsupported))
        return not problem if proves else None


async def check(storage: Storage, folder: str, /) -> Check:
    """Write, read, list, create, swap and remove a document of its own in a folder.

    Each request is made once, as it is: without the probe, further attempts, and a look at what a refusal met.
    """
    able = storage.client.backend.capabilities
    if able.read_only:
        return await _check_reading(storage, folder)
    policy = RetryPolicy(storage.client.policy.timeout, 1, storage.client.policy.storage)
    once = replace(able, verify=False, write_tokens=False)
    client = StorageClient(storage.name, storage.client.backend, policy, limit=storage.client.limit, capabilities=once)
    client.calls = storage.client.calls  # which closing the store ends
    by = client.deadline
    key = join(folder, f"check-{os.urandom(8).hex()}.account")
    documents: list[bytes] = [
        storage.encode(
            Account(host=host, port=1, credentials=PasswordCredentials(login="check", password=host)), Account
        )
        for host in ("first.invalid", "second.invalid", "third.invalid")
    ]
    steps, listed = _Steps(), None
    sealing = sealing_of(storage)
    if storage.sealer is not None and not await steps.passes(_SEALING, _seal(storage.sealer, key, documents, by())):
        return Check(storage.name, None, None, None, None, tuple(steps.done), able, sealing=sealing)
    first, second, third = documents
    create = update = delete = versioned = None
    removed: bool | None = False
    try:
        if await steps.passes("write", client.write(key, first, "overwrite", by())):
            if await steps.passes("read", _read_back(client, key, first)) and able.create:
                create = await steps.passes(
                    "create over a document", client.write(key, second, "create", by()), ExistsError
                )
            listed = await steps.passes("list", anext(client.pages(folder, recursive=False), None))
            if able.update:
                update, delete = await _swaps(client, key, steps, second, third, excused=able.verify)
            versioned = await client.versioned()
    finally:
        with anyio.CancelScope(shield=True):
            try:
                removed = await steps.passes("delete", client.delete(key, None, by()))
            except BaseException:  # Task.cancel() passes through the shield
                await client.delete(key, None, by())
                raise
    if removed:
        await steps.passes("read after delete", client.read(key, by()), NotFoundError)
    if steps.conclusive and create is not None and update is not None and delete is not None:
        unsupported = next((step.unsupported for step in steps.done if step.unsupported), "") if update else ""
        storage.client.record(Conditions(create, update, delete, unsupported))
    skipped: list[Skipped] = []
    complete = bool(listed) and await _look(client, folder, storage.name, skipped)
    proven = (create, update, delete, versioned)
    return Check(storage.name, *proven, tuple(steps.done), able, tuple(skipped), complete, sealing)


async def _check_reading(storage: Storage, folder: str, /) -> Check:
    """What can be tried where nothing may be written: a listing."""
    client, skipped, steps = storage.client, list[Skipped](), _Steps()
    listed = await steps.passes("list", anext(client.pages(folder, recursive=False), None))
    complete = bool(listed) and await _look(client, folder, storage.name, skipped)
    able, versioned, sealing = client.capabilities, await client.versioned(), sealing_of(storage)
    proven = (None, None, None, versioned)
    return Check(storage.name, *proven, tuple(steps.done), able, tuple(skipped), complete, sealing)


def sealing_of(storage: Storage, /) -> Sealing | None:
    """How a storage is sealed."""
    if (sealer := storage.sealer) is None:
        return None
    return Sealing(sealer.mode, sealer.storage_id, sealer.ring.key_ids())


async def _seal(sealer: Sealer, key: str, documents: list[bytes], by: float, /) -> None:
    """Put sealed documents in the place of plain ones, and open one."""
    plain = documents[0]
    documents[:] = [write.data for write in await sealer.seal_many([Write(key, d, "overwrite") for d in documents])]
    blob = Blob(documents[0], Stat(key, len(documents[0]), Version("sealed"), None))
    if (await sealer.open(key, blob, by)).data != plain:
        raise TamperedError("what was sealed opened as something else")


async def _look(client: StorageClient, folder: str, storage: str, skipped: list[Skipped], /) -> bool:
    """Find what listings leave out, as far as there is time. Whether all was looked at."""
    by = client.deadline()
    listing = Listing(folder, "", storage, recursive=True, folders=False)
    try:
        async for page in client.pages(folder, recursive=True):
            listing.read(page)
            skipped += listing.skipped[: _SKIPPED - len(skipped)]
            if len(skipped) == _SKIPPED or time.monotonic() > by:
                return False
    except BackendError:  # of a folder below, perhaps: what can be listed, "list" has tried
        return False
    return True


async def _swaps(
    client: StorageClient, key: str, steps: _Steps, second: bytes, third: bytes, /, *, excused: bool
) -> tuple[bool | None, bool | None]:
    versions: list[Version] = []
    by = client.deadline
    if not (there := await steps.passes("version", _take_version(client, key, versions))):
        return there, None
    swaps = [
        await steps.passes(
            "swap of an unknown version", client.write(key, second, Version("stale"), by()), ConflictError
        ),
        await steps.passes("swap of the current version", client.write(key, third, versions[0], by())),
        await steps.passes("swap of the version before", client.write(key, second, versions[0], by()), ConflictError),
    ]
    delete = await steps.passes("delete of the version before", client.delete(key, versions[0], by()), ConflictError)
    if not excused:
        return _all([*swaps, delete]), delete
    if delete is False and steps.conclusive:  # no problem: the store refuses what the storage ignores
        steps.done[-1] = replace(steps.done[-1], problem="")
    return _all(swaps), delete


def _all(proofs: Sequence[bool | None], /) -> bool | None:
    """False if one is, True if all are, else None."""
    return False if False in proofs else None if None in proofs else True


async def _take_version(client: StorageClient, key: str, versions: list[Version], /) -> None:
    stat = await client.stat(key, client.deadline())
    if stat.version is None:
        raise UnsupportedError("the backend returned no version")
    versions.append(stat.version)


async def _read_back(client: StorageClient, key: str, data: bytes, /) -> None:
    if (await client.read(key, client.deadline())).data != data:
        raise BackendError("read other bytes than were written")
