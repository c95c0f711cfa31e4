"""A batch of documents: looked at where the listings do not tell, copied, verified, removed. The same everywhere.

It is done in the process that lists, in others of this machine, and in Dask's workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Version, WriteMode
from accountstore.batches import open_many
from accountstore.copies import Copied, Copy
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    LocationError,
    NotFoundError,
)
from accountstore.events import Event, Observer
from accountstore.leased import is_held
from accountstore.location import Located, Location
from accountstore.migration.cases import UNREADABLE, Case, compare, end_of, nowhere, tree_of
from accountstore.migration.decide import (
    READ,
    READ_TARGET,
    UNKNOWN,
    Action,
    Decision,
    Missing,
    Read,
    Remove,
    Settled,
    Unknown,
    Write,
    decide,
)
from accountstore.migration.marks import Marks
from accountstore.migration.merge import Item
from accountstore.migration.model import Options, Place
from accountstore.migration.pace import Pace
from accountstore.migration.presence import LEFT, Presence, exist, ignores_case, is_decomposed
from accountstore.migration.records import Done
from accountstore.model import Document
from accountstore.storage import Opened
from accountstore.store import AccountStore, parts_of

_RACED = (NotFoundError, ExistsError, ConflictError)
_REQUESTS = {"none": 2, "write": 2, "read": 3}


class Job(Struct, frozen=True):
    """What a worker has to know: what is done, from where, to where, and how."""

    action: Action
    source: Place
    target: Place
    options: Options


class _Observers(Struct, frozen=True):
    """Hands an event to several observers."""

    observers: tuple[Observer | None, ...]

    def __call__(self, event: Event, /) -> None:
        for observer in self.observers:
            if observer is not None:
                observer(event)


class Worker:
    """Does batches for one job on an open store. Errors of documents and of storages are outcomes."""

    def __init__(self, store: AccountStore, job: Job, marks: Marks, /) -> None:
        self._pace = Pace(job.options.concurrency, job.options.requests_per_second)
        self._resolver, log = parts_of(store)
        self._store = AccountStore(self._resolver, _Observers((log.observer, self._pace.observe)))
        _, self._log = parts_of(self._store)
        self._job = job
        self._marks = marks
        self._source = Presence(self._store, job.source, job.options)
        self._items: Sequence[Item] = ()
        self._cases: Sequence[Case] = ()
        default = self._resolver.default
        self._storages = {job.source.storage or default, job.target.storage or default}

    @property
    def concurrency(self) -> int:
        """How many documents it has under way at a time, at present."""
        return self._pace.concurrency

    @property
    def in_a_second(self) -> int | None:
        """How many documents the rate allows in a second, at least one; None: any."""
        rate = self._job.options.requests_per_second
        return None if rate is None else max(1, int(rate))

    async def work(self, items: Sequence[Item], /) -> list[Done]:
        """What became of each document; of one that is at neither end any more, that it is `None`.

        The same items once more, after a cancellation, go on where they were.
        """
        if items is not self._items:
            self._items, self._cases = items, [self._case(item) for item in items]
        cases = self._cases
        decided = await self._decide([case for case in cases if case.done is None])
        match self._job.action:
            case "migrate":
                await self._copy([(case, way) for case, way in decided if isinstance(way, Write)])
                removable = await self._removable([(case, way) for case, way in decided if isinstance(way, Remove)])
                await self._each(self._remove, removable)
                if self._job.options.delete_source:
                    await self._move(cases)
            case "plan":
                await self._plan([(case, way) for case, way in decided if not isinstance(way, Settled)])
            case "verify":
                for case, way in decided:
                    compare(case, way)
        self._pace.settle(*self._storages)
        self._items = self._cases = ()
        return [replace(case.done or nowhere(case), surely=case.surely) for case in cases]

    def _case(self, item: Item, /) -> Case:
        source, target = item.source, item.target
        case = Case(item, *end_of(item))
        if source is not None:
            case.size, case.source_time = source.size, source.modified
        if target is not None:
            case.target_time = target.modified
        try:
            case.at, case.to = self._job.source.at(item.name), self._job.target.at(item.name)
        except LocationError as error:  # too long in the target's folder
            case.fail(error)
        return case

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def _decide(self, cases: Sequence[Case], /) -> list[tuple[Case, Decision]]:
        """What is to be done with each that is not done yet, read where that does not tell by itself; and settle what
        there is nothing to do with.
        """
        await self._look(cases)
        decided: list[tuple[Case, Decision]] = []
        for case in cases:
            equal = await self._equal(case)
            if case.done is None:
                way = self._way(case, equal)
                if isinstance(way, Remove) and case.item.source is not None:
                    way = Settled("gone", "it was deleted while the migration ran")
                decided.append((case, way))
                await self._settle(*decided[-1])
        return decided

    def _way(self, case: Case, equal: bool | None, /) -> Decision:
        if case.replaceable and isinstance(case.source, Version) and isinstance(case.target, Version):
            return Write(case.target, "changed")
        way = decide(case.source, case.target, case.item.row, self._marks, self._job.options, equal=equal)
        return Settled("newer") if way == READ_TARGET and case.opened_there is not None else way

    async def _settle(self, case: Case, way: Decision, /) -> None:
        if not isinstance(way, Settled) or way.outcome is None:
            return
        has_copy = way.outcome in {"same", "newer"} and case.opened_there is not None and not await self._is_held(case)
        case.settle(way.outcome, way.reason)
        if isinstance(case.source, Version) and isinstance(case.target, Version):
            if way.outcome == "same":
                case.mark(self._marks, case.source, case.target)
            if has_copy:
                case.removable = case.source

    async def _is_held(self, case: Case, /) -> bool:
        """Whether somebody is exchanging a token of the source, which would be lost with it."""
        return case.opened is not None and await is_held(self._resolver.storage(case.at.storage), case.opened)

    async def _look(self, cases: Sequence[Case], /) -> None:
        """Read the ends whose versions the listings do not tell; and then the others, where those do not settle it."""
        for known in (Unknown, Version):
            sources = [c for c in self._unsettled(cases, READ) if isinstance(c.source, known) and c.opened is None]
            for case, found in zip(sources, await self._read([case.at for case in sources]), strict=True):
                case.found(found)
            unsettled = self._unsettled(cases, READ, READ_TARGET)
            targets = [c for c in unsettled if isinstance(c.target, known) and c.opened_there is None]
            for case, found in zip(targets, await self._read([case.to for case in targets]), strict=True):
                case.found_there(await self._replaceable(case, found) or found)

    async def _replaceable(self, case: Case, found: object, /) -> Opened[Document] | Version | AccountStoreError | None:
        """The version of what stands at the target and is no document, where conflicts are to be overwritten; what is
        there by now, where somebody has mended it. The version is taken first: it is then of what was read, or old.
        """
        asked = self._job.options.on_conflict == "overwrite" and self._job.action != "verify"
        if not asked or not isinstance(found, UNREADABLE) or isinstance(case.source, Missing):
            return None
        try:
            version = (await self._store.stat(case.to)).version
        except AccountStoreError as error:
            return error
        [now] = await self._read([case.to])
        return version if isinstance(now, UNREADABLE) else now

    def _unsettled(self, cases: Sequence[Case], /, *ways: Read) -> list[Case]:
        """Those of which it is not known yet what is to be done, for one of these reads; all that a verification is to
        compare.
        """
        verifies = self._job.action == "verify"
        return [case for case in cases if case.done is None and (verifies or self._way(case, None) in ways)]

    async def _read(self, at: Sequence[Location], /) -> list[Opened[Document] | AccountStoreError]:
        await self._pace.wait(len(at))
        return [found async for _, found in open_many(self._resolver, self._log, at, self.concurrency)]

    async def _equal(self, case: Case, /) -> bool | None:
        """Whether the documents are equal, the fields that this release does not know included, but not their leases,
        which come and go. None: not both read.
        """
        if case.opened is None or case.opened_there is None:
            return None
        source, target = (self._resolver.storage(at.storage) for at in (case.at, case.to))
        if source.codec is target.codec and case.opened.plain == case.opened_there.plain:
            return True
        try:
            return await tree_of(source, case.opened) == await tree_of(target, case.opened_there)
        except AccountStoreError as error:
            case.fail(error)
            return None

    # --- doing --------------------------------------------------------------------------------------------------------

    async def _copy(self, ways: Sequence[tuple[Case, Write]], /) -> None:
        """Copy. What is no longer as it was decided on is looked at once more, and reported as it is then."""
        options = self._job.options
        raced: list[Case] = []
        blind = bool(ways) and await self._is_blind(ways[0][0])
        if blind:
            raced += await self._changed([(case, way.mode) for case, way in ways])
            ways = [(case, way) for case, way in ways if case.done is None and case not in raced]
        copies = [Copy(case.at, case.to, "overwrite" if blind else way.mode) for case, way in ways]
        await self._pace.wait(len(copies) * (_REQUESTS[options.verify] + (2 if options.lease else 0)))
        results = self._store.copy_many(
            copies, verify=options.verify, concurrency=self.concurrency, lease=options.lease
        )
        for case, way in ways:
            _, result = await anext(results)
            if isinstance(result, Copied):
                case.settle(way.outcome)
                case.mark(self._marks, result.source_version, result.version)
                case.removable = result.source_version if result.verified else None
            elif isinstance(result, _RACED):
                raced.append(case)
            else:
                case.fail(result)
        for case in raced:
            case.source = case.target = UNKNOWN
            case.opened = case.opened_there = None
        for case, again in await self._decide(raced):
            if not isinstance(again, Settled):
                case.settle("conflict", "it keeps changing, or the target finds it by another name")

    async def _is_blind(self, case: Case, /) -> bool:
        """Whether nothing is written on a condition: it is not asked for, and the target honours none."""
        if self._job.options.writes != "blind":
            return False
        ref = self._resolver.ref(case.to)
        return not (await ref.honours("create") and await ref.honours("update"))

    async def _changed(self, ways: Sequence[tuple[Case, WriteMode]], /) -> list[Case]:
        """Those whose target is no longer as the mode of the write says, which is looked at just before."""
        changed: list[Case] = []
        for (case, mode), found in zip(ways, await self._read([case.to for case, _ in ways]), strict=True):
            if isinstance(found, Opened):
                if found.version != mode:
                    changed.append(case)
            elif not isinstance(found, NotFoundError):
                case.found_there(found)
            elif mode != "create":
                changed.append(case)
        return changed

    async def _plan(self, ways: Sequence[tuple[Case, Decision]], /) -> None:
        """Say what a run would do; what it would copy is read, and put in the target's codec, as it may be refused; and
        what it would remove is asked for.
        """
        await self._removable([(case, way) for case, way in ways if isinstance(way, Remove)])
        unread = [case for case, way in ways if isinstance(way, Write) and case.opened is None]
        for case, found in zip(unread, await self._read([case.at for case in unread]), strict=True):
            case.found(found)
        for case, way in ways:
            if case.done is None and isinstance(way, Write) and case.opened is not None:
                await self._try(case, case.opened)
            if case.done is None:
                gone = isinstance(case.source, Missing) and isinstance(way, Write)
                case.settle("gone" if gone else way.outcome if isinstance(way, Write) else "deleted")

    async def _try(self, case: Case, opened: Opened[Document], /) -> None:
        """Refuse what the target's codec cannot carry, or what is too large in it."""
        source, target = self._resolver.storage(case.at.storage), self._resolver.ref(case.to)
        await target.storage.turns.take(len(opened.plain))
        try:
            with Located(case.to):
                target.storage.copied(opened, source.codec, target.kind)
        except AccountStoreError as error:
            case.fail(error)

    async def _each(
        self, call: Callable[[Case, Version], Awaitable[None]], ways: Sequence[tuple[Case, Any]], /
    ) -> None:
        """Do something with a version of each, so many at a time."""
        turns = anyio.CapacityLimiter(self.concurrency)
        async with anyio.create_task_group() as tasks:
            for case, way in ways:
                await self._pace.wait(1)
                tasks.start_soon(_in_turn, turns, call, case, way if isinstance(way, Version) else way.version)

    async def _removable(self, ways: Sequence[tuple[Case, Remove]], /) -> Sequence[tuple[Case, Remove]]:
        """Those to remove at the target of what is gone at the source, which is asked once more; and then whether it
        has anything, as a source that was unmounted meanwhile has not.
        """
        await self._each(self._ask_again, ways)
        ways = [(case, way) for case, way in ways if case.done is None]
        if not ways:
            return ()
        try:
            if not await self._source.is_there():
                raise NotFoundError(f"{self._job.source} has no document any more, and had some: is it still mounted?")
            there = self._source.seen or ways[0][0].at
            left = await ignores_case(self._resolver, ways[0][0].to) and not await ignores_case(self._resolver, there)
        except AccountStoreError as error:
            for case, _ in ways:
                case.fail(error, stop=True)
            return ()
        if left:
            for case, _ in ways:
                case.settle("gone", "the target ignores case, so that it may be there under another name: it is left")
            return ()
        return ways

    async def _ask_again(self, case: Case, _: Version, /) -> None:
        try:
            if await self._store.exists(case.at):
                case.settle("gone", "it is at the source again")
            elif await is_decomposed(self._resolver, case.at, case.item.name):
                case.settle("gone", LEFT)
        except AccountStoreError as error:
            case.fail(error)

    async def _remove(self, case: Case, version: Version, /) -> None:
        """Remove a document at the target."""
        try:
            await self._store.delete(case.to, version=version)
        except ConflictError:
            case.settle("conflict", "it was deleted at the source, and has changed at the target")
        except AccountStoreError as error:
            case.fail(error)
        else:
            case.settle("deleted")

    async def _move(self, cases: Sequence[Case], /) -> None:
        """Remove at the source what the target has. What is gone there is asked for before, and then one that is to be
        removed: that it is there tells that the source is, which nothing does afterwards.
        """
        removable = [(case, case.removable) for case in cases if case.removable]
        gone = [case for case in cases if isinstance(case.source, Missing) and case.item.source is not None]
        if gone and removable:
            await self._pace.wait(len(gone) + 1)
            back = any(await exist(self._store, [case.at for case in gone], self.concurrency))
            [mounted] = await exist(self._store, [removable[0][0].at], 1)
            for case in gone:
                case.surely = mounted is True and not back
        await self._each(self._remove_source, removable)

    async def _remove_source(self, case: Case, version: Version, /) -> None:
        """Remove at the source what the target has, verified, if it is still what was copied."""
        try:
            await self._store.delete(case.at, version=version)
        except ConflictError:
            pass  # the next run copies what it is now
        except AccountStoreError as error:
            case.fail(error)
        else:
            case.settle("moved")
        case.removable = None


async def _in_turn(
    turns: anyio.CapacityLimiter, call: Callable[[Case, Version], Awaitable[None]], case: Case, version: Version, /
) -> None:
    async with turns:
        await call(case, version)
