"""Moving the documents of a storage to another key, from plaintext to sealed, and back.

    async for location, result in rewrap(store, storage="First Storage"):
        ...

Each document is written on the version that was read, so no other writer's change is lost; a store reads with every
key of its ring meanwhile. A run that was killed is begun again, and goes on with what is left: a document that is as
the configuration wants it costs a read. What no `Location` names is not reached: `skipped` is called with each.

Results are `Rotated` or an error about the location; documents that are deleted meanwhile have none. All functions
raise `ConfigError`, the storage has no `encryption`; `rewrap` and `reseal` also `UnsupportedError`, it cannot compare
and swap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.aio.pages import items_of
from accountstore.backends.base import Blob, Write
from accountstore.check import Sealing, sealing_of
from accountstore.errors import (
    AccountStoreError,
    ConfigError,
    ConflictError,
    NotFoundError,
    SealError,
    TooLargeError,
    UncertainError,
)
from accountstore.events import EventLog, Operation
from accountstore.listing import Entry, Listing, Skipped
from accountstore.location import Located, Location
from accountstore.probe import server_time
from accountstore.retry import backoff, retry
from accountstore.scope import Resolver
from accountstore.sealing.envelope import WrappedKey, assemble, moved
from accountstore.sealing.sealer import Sealed, Sealer
from accountstore.storage import Storage
from accountstore.store import AccountStore
from accountstore.validation import check_plain, check_size

__all__ = ("Rotated", "Sealing", "reseal", "resume_time", "rewrap", "sealing", "verify")

T = TypeVar("T")

_Mode: TypeAlias = Literal["rewrap", "reseal", "verify"]
_BATCH = 64
_ATTEMPTS = 64
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.25
_SECOND = timedelta(seconds=1)


class Rotated(Struct, frozen=True):
    """What was done with a document.

    `outcome` is `"current"`: it is as the configuration wants it, and was left; `"written"`; or, of a verification,
    `"stale"`: it needs another key than the current one, or is plain, or is sealed where it should not be. `key_ids`
    are the keys, any of which opens it now; a plain document has none.
    """

    outcome: Literal["current", "written", "stale"]
    key_ids: tuple[str, ...]


_Result: TypeAlias = "Rotated | AccountStoreError"


class _Member(NamedTuple):
    location: Location
    key: str


def sealing(store: AccountStore, storage: str | None = None, /) -> Sealing | None:
    """How a storage is sealed, and by which keys; None where it is not."""
    return sealing_of(_parts(store)[0].storage(storage))


def rewrap(
    store: AccountStore,
    folder: str = "",
    /,
    *,
    storage: str | None = None,
    concurrency: int = 8,
    skipped: Callable[[Skipped], object] | None = None,
) -> AsyncIterator[tuple[Location, Rotated | AccountStoreError]]:
    """Wrap the content key of each document in a folder and below it by the current key, and leave the contents; on the
    key service, where that can. Plain documents are sealed; with `seal = false` sealed ones are made plain.
    """
    return _rotate(store, folder, storage, "rewrap", concurrency, skipped)


def reseal(
    store: AccountStore,
    folder: str = "",
    /,
    *,
    storage: str | None = None,
    before: datetime | None = None,
    concurrency: int = 8,
    skipped: Callable[[Skipped], object] | None = None,
) -> AsyncIterator[tuple[Location, Rotated | AccountStoreError]]:
    """Encrypt each document anew, with a new content key: for a key that leaked, with which somebody may have unwrapped
    the content keys. A run that was killed goes on with `before`, which `resume_time` returned before it began: what
    was written since, by the storage's clock, is left if the current key seals it. `rewrap` nothing in between, which
    writes documents with the content keys that they have.

    Raises `ValueError`: `before` has no time zone.
    """
    if before is not None and before.tzinfo is None:
        raise ValueError("before must have a time zone")
    return _rotate(store, folder, storage, "reseal", concurrency, skipped, before)


async def resume_time(store: AccountStore, folder: str = "", /, *, storage: str | None = None) -> datetime | None:
    """The `before` of a `reseal` that begins after this call: later than any document that is there, by the clock that
    dates them, for some storages date by whole seconds. Their machines may differ, too: what a run wrote in the second
    after `before`, the next run writes again.

    Writes and removes a file of its own. None: the storage dates no documents, and a run that was killed is begun anew.
    """
    found, prefix = _parts(store)[0].folder(folder, storage)
    now = await _now(found, prefix)
    return None if now is None else now.replace(microsecond=0) + _SECOND


async def _now(storage: Storage, prefix: str, /) -> datetime | None:
    client = storage.client
    return await retry(client, client.deadline(), client.calls.turns, server_time, client.backend, prefix)


def verify(
    store: AccountStore,
    folder: str = "",
    /,
    *,
    storage: str | None = None,
    concurrency: int = 8,
    skipped: Callable[[Skipped], object] | None = None,
) -> AsyncIterator[tuple[Location, Rotated | AccountStoreError]]:
    """Open each document and write nothing: `"stale"` is one that needs another key than the current one. Where none is
    stale, none is an error and nothing was skipped, no other key is needed.
    """
    return _rotate(store, folder, storage, "verify", concurrency, skipped)


def _rotate(
    store: AccountStore,
    folder: str,
    storage: str | None,
    mode: _Mode,
    concurrency: int,
    skipped: Callable[[Skipped], object] | None,
    before: datetime | None = None,
    /,
) -> AsyncIterator[tuple[Location, _Result]]:
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    tell = skipped or _ignore
    check_plain("skipped", tell)
    resolver, log = _parts(store)
    found, prefix = resolver.folder(folder, storage)
    if found.sealer is None:
        raise ConfigError(f"the storage {found.name!r} has no `encryption` in the configuration")
    listing = Listing(prefix, folder, storage, recursive=True, folders=False)
    pages = found.client.pages(prefix, recursive=True)
    rotation = _Rotation(found, found.sealer, mode, None, concurrency)
    members: list[_Member] = []  # of the page under way: one whose work was cancelled is done again

    async def next_page() -> list[tuple[Location, _Result]] | None:
        nonlocal rotation
        resolver.storages.find(found.name)  # as long as the store is open
        if mode != "verify":
            await found.client.require("update", prefix, found.client.deadline())
        rotation = await rotation.since(before, prefix)
        if not members:
            page = await anext(pages, None)
            if page is None:
                return None
            entries = [entry for entry in listing.read(page) if isinstance(entry, Entry)]
            members.extend(_Member(entry.location, resolver.ref(entry.location).key) for entry in entries)
            for one in listing.skipped:
                tell(one)
        results = await rotation.page(members)
        members.clear()
        for location, result in results if log.is_heard() else ():
            outcome = "ok" if isinstance(result, Rotated) else type(result).__name__
            log.emit(Operation(log, mode, location), outcome, 0.0)
        return results

    return items_of(next_page)


def _ignore(_: Skipped, /) -> None: ...


def _parts(store: AccountStore, /) -> tuple[Resolver, EventLog]:
    """What a store's own methods are made of."""
    return store._resolver, store._log  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- as one of them


class _Rotation(NamedTuple):
    """Does a page of documents at a time."""

    storage: Storage
    sealer: Sealer
    mode: _Mode
    done: tuple[datetime, datetime] | None
    """When the run that is resumed has written, by the storage's clock: from its start until now."""
    concurrency: int

    async def since(self, before: datetime | None, prefix: str, /) -> _Rotation:
        """The same, which goes on with a run."""
        if before is None or self.done is not None:
            return self
        now = await _now(self.storage, prefix)
        return self if now is None else self._replace(done=(min(before, now) + _SECOND, now))

    async def page(self, members: Sequence[_Member], /) -> list[tuple[Location, _Result]]:
        """Each document of a page with its result; one that is gone meanwhile is left out."""
        size = max(_BATCH, self.storage.client.capabilities.batch)
        turn = anyio.CapacityLimiter(max(1, self.concurrency * self.storage.client.capabilities.batch // size))
        results: dict[Location, _Result] = {}

        async def work(batch: Sequence[_Member]) -> None:
            async with turn:
                await self._batch(batch, results)

        async with anyio.create_task_group() as tasks:
            for start in range(0, len(members), size):
                tasks.start_soon(work, members[start : start + size])
        return [(member.location, results[member.location]) for member in members if member.location in results]

    async def _batch(self, members: Sequence[_Member], results: dict[Location, _Result], /) -> None:
        """Read, write what is not as it should be on the version that was read, and again what others have changed."""
        current = await _outcome(self.sealer.ring.current(self.sealer.ring.deadline()))
        rest = [*members]
        for attempt in range(1, _ATTEMPTS + 1):
            rest = await self._try(rest, current, results)
            if not rest:
                return
            await backoff(attempt, _FIRST_PAUSE, _LONGEST_PAUSE)

    async def _try(
        self, members: Sequence[_Member], current: tuple[str, str] | SealError, results: dict[Location, _Result], /
    ) -> list[_Member]:
        """Those of the documents that others have changed meanwhile."""
        if isinstance(current, SealError):
            results |= {member.location: _located(member, current) for member in members}
            return []
        keys = [member.key for member in members]
        blobs = await self.storage.client.read_many(keys, at_once=self.concurrency)
        read, sealed = await self.sealer.take_apart(keys, blobs)
        writes = await self._changes(keys, read, sealed, current)
        changed = [i for i, write in enumerate(writes) if isinstance(write, Write)]
        stats = await self.storage.client.write_many(
            [write for write in writes if isinstance(write, Write)], at_once=self.concurrency
        )
        written = dict(zip(changed, stats, strict=True))
        again: list[_Member] = []
        for i, (member, write) in enumerate(zip(members, writes, strict=True)):
            failure = written.get(i, write)
            results.pop(member.location, None)
            if isinstance(failure, (ConflictError, UncertainError)):
                again.append(member)
            if isinstance(failure, NotFoundError):
                continue  # deleted meanwhile
            if isinstance(failure, AccountStoreError):
                results[member.location] = _located(member, failure)
            elif isinstance(write, Rotated):
                results[member.location] = write
            else:
                ids = () if self.sealer.mode == "unsealing" else (current[1],)
                results[member.location] = Rotated("written", ids)
        return again

    async def _changes(
        self,
        keys: Sequence[str],
        read: Sequence[Blob | AccountStoreError],
        sealed: dict[int, Sealed],
        current: tuple[str, str],
        /,
    ) -> list[Write | Rotated | AccountStoreError]:
        """What is to be written, on the version that was read; or what there is to say."""
        results = [self._look(blob, sealed.get(i), current) for i, blob in enumerate(read)]
        again: list[int] = []
        rewrapped: dict[int, Sealed] = {}
        for i, blob in enumerate(read):
            if isinstance(blob, AccountStoreError) or not self._is_due(results[i], blob):
                continue
            if i in sealed and self.mode == "rewrap" and self.sealer.mode != "unsealing":
                rewrapped[i] = sealed[i]
            else:
                again.append(i)
        for i, key in (await self.sealer.rewrap_many(rewrapped)).items():
            await self.sealer.turns.take(len(sealed[i].envelope.content))
            results[i] = _rewrapped(keys[i], read[i], sealed[i], key)
        writes: dict[int, Write] = {}
        opened = await self.sealer.open_many([keys[i] for i in again], [read[i] for i in again])
        for i, plain in zip(again, (_sized(each, self.storage.max_bytes) for each in opened), strict=True):
            if isinstance(plain, AccountStoreError):
                results[i] = plain
            elif self.mode != "verify":
                writes[i] = Write(keys[i], plain.data, plain.version)
        results = await self._seal(results, writes)
        due = [i for i, write in enumerate(results) if isinstance(write, Write)]
        proven = await self.sealer.proven([write for write in results if isinstance(write, Write)], current)
        for i, write in zip(due, proven, strict=True):
            results[i] = write
        return results

    async def _seal(
        self, results: list[Write | Rotated | AccountStoreError], plain: dict[int, Write], /
    ) -> list[Write | Rotated | AccountStoreError]:
        """The results with the sealed documents, or the key service's failure, in the place of the plain ones."""
        sealed = await _outcome(self.sealer.seal_many([*plain.values()]))
        for place, i in enumerate(plain):
            results[i] = copy(sealed) if isinstance(sealed, SealError) else sealed[place]
        return results

    def _look(
        self, blob: Blob | AccountStoreError, one: Sealed | None, current: tuple[str, str], /
    ) -> Write | Rotated | AccountStoreError:
        """What there is to say of a document before anything is done with it."""
        if isinstance(blob, AccountStoreError):
            return blob
        ids = tuple(key.key_id for key in one.envelope.keys) if one else ()
        return Rotated("current" if self._is_current(one, current) else "stale", ids)

    def _is_due(self, found: Write | Rotated | AccountStoreError, blob: Blob, /) -> bool:
        """Whether a document is to be opened, or written."""
        if self.mode == "verify" or (isinstance(found, Rotated) and found.outcome == "stale"):
            return True
        return self.mode == "reseal" and not self._is_done(blob)

    def _is_current(self, one: Sealed | None, current: tuple[str, str], /) -> bool:
        if one is None or self.sealer.mode == "unsealing":
            return (one is None) == (self.sealer.mode == "unsealing")
        return [(key.algorithm, key.key_id) for key in one.envelope.keys] == [current]

    def _is_done(self, blob: Blob, /) -> bool:
        """Whether a document was written since the resealing that is resumed began, or is to be plain."""
        if self.sealer.mode == "unsealing":
            return True
        modified = blob.stat.modified
        return self.done is not None and modified is not None and self.done[0] <= modified <= self.done[1]


async def _outcome(call: Awaitable[T], /) -> T | SealError:
    try:
        return await call
    except SealError as error:
        return error.with_traceback(None)


def _sized(plain: Blob | AccountStoreError, limit: int, /) -> Blob | AccountStoreError:
    """A plain document that a store can read; the client's limit is that of sealed bytes, which are more."""
    try:
        if isinstance(plain, Blob):
            check_size(len(plain.data), limit)
    except TooLargeError as error:
        return error.with_traceback(None)
    return plain


def _rewrapped(
    at: str, blob: Blob | AccountStoreError, one: Sealed, key: WrappedKey | SealError, /
) -> Write | AccountStoreError:
    """The write of a document whose content key is wrapped anew."""
    if isinstance(blob, AccountStoreError):
        return blob
    if isinstance(key, SealError):
        return key
    if one.found != one.place:
        return moved(one.key.key_id)
    return Write(at, assemble(replace(one.envelope, keys=(key,))), blob.version)


def _located(member: _Member, error: AccountStoreError, /) -> AccountStoreError:
    try:
        with Located(member.location):
            raise copy(error)  # one error may stand for many documents
    except AccountStoreError as located:
        return located.with_traceback(None)
