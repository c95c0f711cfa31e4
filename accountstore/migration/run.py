"""A run: both listings and the journal merged, what needs requests done in batches, and each outcome told."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio import CancelScope, move_on_after, to_thread
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from accountstore import errors
from accountstore.aio.shield import run_shielded
from accountstore.errors import AccountStoreError, NotFoundError
from accountstore.listing import list_documents
from accountstore.migration.cases import end_of, settled
from accountstore.migration.decide import Settled, decide
from accountstore.migration.failures import Failures, told_of_shortage
from accountstore.migration.identity import marks_of_storages
from accountstore.migration.inputs import Named, Others, Rows, copies_in, entries_of
from accountstore.migration.journal import Journal
from accountstore.migration.marks import Marks, new_marks
from accountstore.migration.merge import Item, Listed, Merged, Side, Spool, Stream
from accountstore.migration.model import Outcome, Report, Total
from accountstore.migration.preconditions import check_apart, check_journal, check_places
from accountstore.migration.presence import AT_ONCE, Presence, check_source, exist
from accountstore.migration.records import Done, outcome_of, outcome_of_other
from accountstore.migration.runners import Runner
from accountstore.migration.work import Job
from accountstore.store import AccountStore, parts_of

_LOOKED_FOR = 16
"""So many of a batch's copies are looked for until one is found."""
_COPIED = frozenset({"copied", "changed", "moved"})
_KEEPING = 30.0
"""Seconds for which a cancellation waits until what was done is in the journal."""


class Migration:
    """A run that was asked for: `async for outcome in run`, or `report = await run`.

    Nothing happens before. After a cancellation it goes on where it was. `async with run` closes the journal also where
    the loop is left early; without it, that happens when the run is dropped.

    Raises:
        JournalError: the journal cannot be used, or the temporary file in which a listing is sorted.
        ConfigError: the journal is in the source or in the target.
        LocationError: a storage is not configured; or both places are one, or one lies in the other: by what the
            configuration tells, and with `delete_source` by a file that is written there, too.
        NotFoundError: of the documents that are migrated, the source has none in the first run or with
            `mirror_deletes`, or has lost all while the run went on; or the target has none, though the journal knows
            copies there (`on_conflict="overwrite"` copies them again).
        UnsupportedError: the target has no conditional writes (`writes="blind"` does without).
        UnavailableError: the system has no more threads, processes or descriptors.
        AccountStoreError: a storage cannot be listed, or fails with every document: what was done is in the journal.
    """

    def __init__(
        self,
        store: AccountStore,
        job: Job,
        /,
        *,
        journal: str | None,
        key_file: str | None,
        runner: Callable[[Marks, str], Awaitable[Runner]],
    ) -> None:
        self._files: list[Journal | Spool] = []
        self._store = store
        self._job = job
        self._path = journal
        self._key_file = key_file
        self._make_runner = runner
        self._journal: Journal | None = None
        self._marks = new_marks()
        self._key_path = ""
        self._word = ""  # what names files of the library's own for this migration alone
        self._runner: Runner | None = None
        self._merged: Merged | Named | None = None
        self._source = Presence(store, job.source, job.options)
        self._others = Others(job.options)
        self._failures = Failures()
        self._unkept: list[tuple[Done, Item]] = []
        """What was done, and is not in the journal yet."""
        self._missed: list[tuple[Done, Item]] = []
        """What was listed, and was not found where it was to be copied."""
        self._waiting: deque[Outcome] = deque()
        self._totals: dict[str, Total] = {}
        self._began = time.monotonic()
        self._begun = False
        self._is_first = True  # there is no journal in which a run has begun
        self._listed = False
        self._some_gone = False
        """Whether something was listed at the source, and is no longer there, as where it was unmounted."""
        self._complete = False
        self._closed = False

    @property
    def report(self) -> Report:
        """What the run has come to so far."""
        job = self._job
        return Report(
            action=job.action,
            source=str(job.source),
            target=str(job.target),
            complete=self._complete,
            seconds=time.monotonic() - self._began,
            totals=dict(self._totals),
        )

    @property
    def expected(self) -> int | None:
        """How many documents there are to come to, as far as that is known: by the last run, or a listing's end."""
        counts = [file.count for file in self._files]
        return max((count for count in counts if count), default=None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while not self._waiting:
            if self._complete or self._closed:
                raise StopAsyncIteration
            try:
                await self._advance()
            except Exception as error:
                with CancelScope(shield=True), suppress(RuntimeError):  # the system has no thread
                    await to_thread.run_sync(self._abandon)
                await self.aclose()
                if (told := told_of_shortage(error)) is not None:
                    raise told from None
                raise
        return self._waiting.popleft()

    def __await__(self) -> Generator[Any, None, Report]:
        return self._whole().__await__()

    async def _whole(self) -> Report:
        keeps = self._job.action != "migrate"
        outcomes = [outcome async for outcome in self if keeps]
        return replace(self.report, outcomes=tuple(outcomes))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the journal and let the workers go. A second call does nothing."""
        self._closed = True
        with CancelScope(shield=True):
            try:
                if self._runner is not None:
                    await self._runner.aclose()
            finally:
                with suppress(RuntimeError):
                    await to_thread.run_sync(self._close_files)
                self._close_files()  # where the system has no thread

    def __del__(self) -> None:
        self._close_files()

    def _abandon(self) -> None:
        """Leave no new journal without a word in it behind, which the next run would refuse. Blocking."""
        if self._journal is not None and self._job.action == "migrate":
            with suppress(errors.JournalError):
                self._journal.abandon()

    def _close_files(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()

    # --- one step -----------------------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Take items, or results; and tell what became of them."""
        if not self._begun:
            await self._begin()
            self._begun = True
        merged, runner = self._merged, self._runner
        if merged is None or runner is None:
            raise errors.ClosedError("the run is over")
        if runner.room and not self._listed:
            items = [self._others.listed(item) for item in await merged.next(runner.size)]
            self._listed = not items
            rest = self._split(items)
            if rest:
                runner.submit(rest)
            await self._keep()
        elif runner.busy:
            batch = await runner.next()
            by_name = {item.name: item for item in batch.items}
            self._unkept += [(done, by_name[done.name]) for done in batch.done]
            self._failures.check(await self._keep(), by_name)
        else:
            await self._end()

    def _split(self, items: Sequence[Item], /) -> list[Item]:
        """Settle what there is nothing to do with, by the versions that the listings have; the rest is left."""
        rest: list[Item] = []
        for item in items:
            way = self._others.left(item) or decide(*end_of(item), item.row, self._marks, self._job.options)
            if isinstance(way, Settled) and self._job.action != "verify":
                self._unkept.append((settled(item, way), item))
            else:
                rest.append(item)
        return rest

    async def _keep(self) -> list[Done]:
        """Write what was done into the journal, and then tell it, whatever cancels the caller: that takes effect
        afterwards. What was listed and not found is looked for then; a cancellation leaves that for the next step.
        """
        with move_on_after(_KEEPING, shield=True) as limit:
            await self._look_for_copied()
        _check_answered(limit)
        self._missed += [each for each in self._unkept if _is_missed(*each)]
        self._unkept = [each for each in self._unkept if not _is_missed(*each)]
        kept = await self._recorded()
        while self._missed:
            asked = self._missed[:AT_ONCE]
            at = [self._job.source.at(item.name) for _, item in asked]
            answers: list[bool | AccountStoreError] = []
            with move_on_after(_KEEPING) as limit:
                answers = await exist(self._store, at, min(AT_ONCE, self._job.options.concurrency))
            _check_answered(limit)
            self._unkept += [*map(self._looked_for, asked, answers)]
            del self._missed[:AT_ONCE]
        if self._unkept:
            kept += await self._recorded()
        await checkpoint()
        return kept

    async def _recorded(self) -> list[Done]:
        done = [one for one, _ in self._unkept]
        with CancelScope(shield=True):
            await run_shielded(self._record)
        return done

    async def _record(self) -> None:
        done, others = self._unkept, self._others.found
        if self._journal is not None and self._job.action == "migrate":
            await to_thread.run_sync(self._journal.record, [(one, item.row) for one, item in done], others)
        self._unkept, self._others.found = [], []
        for word, size in [*((one.outcome, one.size) for one, _ in done), *((other.outcome, 0) for other in others)]:
            if word is not None:
                self._totals.setdefault(word, Total()).add(size)
        places = self._job.source, self._job.target
        self._waiting.extend(outcome_of(one, *places) for one, _ in done if one.outcome is not None)
        self._waiting.extend(outcome_of_other(other, *places) for other in others)

    def _looked_for(self, missed: tuple[Done, Item], answer: bool | AccountStoreError, /) -> tuple[Done, Item]:
        """What became of a document that was listed, and that whoever was to copy it has not found: it is gone; or it
        is there, and was looked for elsewhere, or has come back.
        """
        done, item = missed
        if isinstance(answer, AccountStoreError):
            raise answer
        if not answer:
            self._some_gone = self._some_gone or not done.surely
            return missed
        reason = "source: it is there, and was not found where it was to be copied: is that the same storage?"
        return replace(done, outcome="failed", error="NotFoundError", reason=reason), item

    async def _look_for_copied(self) -> None:
        """Whether what others say that they have copied is at the target, as one document of a batch shows, as a rule:
        a folder may be another one on another machine.
        """
        if self._runner is None or self._runner.own_store:
            return
        copied = [(place, item.name) for place, (done, item) in enumerate(self._unkept) if done.outcome in _COPIED]
        for _, name in copied[:_LOOKED_FOR]:
            if await self._store.exists(self._job.target.at(name)):
                return
        for place, _ in copied:
            done, item = self._unkept[place]
            reason = "target: it is not there, though it was copied: do all reach the same storage?"
            failed = replace(done, outcome="failed", source=None, target=None, error="NotFoundError", reason=reason)
            self._unkept[place] = failed, item

    # --- beginning and end --------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Refuse what cannot be done, and number a run that can. After a cancellation it goes on."""
        job = self._job
        await to_thread.run_sync(check_places, self._store, job)
        if self._path is not None and self._journal is None:
            await run_shielded(to_thread.run_sync, self._open_journal, self._path)
        if self._merged is None:
            self._merged = self._inputs()
        if self._is_first and isinstance(self._merged, Merged) and not await self._merged.finds_documents():
            await check_source(self._store, job.source, job.options)
        if job.action == "migrate" and job.options.delete_source:
            await check_apart(self._store, job, self._word)
        if self._runner is None:
            self._runner = await self._make_runner(self._marks, self._key_path)
        if job.options.mirror_deletes and not await self._source.is_there():
            raise NotFoundError(
                f"{job.source} has no document of those that are migrated: nothing is removed at {job.target} for that"
            )
        if isinstance(self._merged, Named) or not await self._merged.finds_copies():
            await self._check_lost()
        if self._journal is not None and job.action == "migrate" and not self._journal.run:
            await run_shielded(to_thread.run_sync, self._journal.begin_run, job.options.meaning())

    def _inputs(self) -> Merged | Named:
        """What the run goes through. Nothing is listed yet."""
        resolver, log = parts_of(self._store)
        job = self._job
        if job.options.names is not None:
            return Named(sorted(filter(job.options.wants, {*job.options.names})), self._journal)
        ends: list[Stream[Side]] = []
        for what, place in (("source", job.source), ("target", job.target)):
            found = list_documents(
                resolver, log, place.folder, place.storage,
                recursive=True, skipped=partial(self._others.add, what, place), others=True,
            )  # fmt: skip
            documents = Listed(entries_of(found), what, place.name_of, job.options.wants)
            fetch = documents.next
            if job.options.listing == "spool" or not self._store.capabilities(place.storage).sorted:
                self._files.append(spool := Spool(documents))
                fetch = spool.next
            ends.append(Stream(fetch, f"{what} {place}"))
        return Merged(ends[0], ends[1], Stream(Rows(self._journal, job.options.wants).next, "the journal"))

    async def _check_lost(self) -> None:
        """Refuse a target that has lost all of its copies, as where it is not mounted: `verify` names each, and others
        would take them for deleted.
        """
        if self._others.composed["target"]:
            return  # it has some, under other forms of their names
        job = self._job
        if self._journal is None or job.action == "verify" or job.options.on_conflict == "overwrite":
            return
        copies = await copies_in(self._journal, job.options)
        if copies and not await Presence(self._store, job.target, job.options).is_there():
            raise NotFoundError(
                f"the target {job.target} has no document of those that are migrated, though this journal has copied"
                f" {copies:,} there: is it mounted? on_conflict='overwrite' (--on-conflict overwrite) copies them again"
            )

    def _open_journal(self, path: str, /) -> None:
        """Open the journal. Blocking."""
        job = self._job
        check_journal(self._store, job, path)
        reads = job.action != "migrate"
        if reads and not (os.path.exists(path) and os.path.getsize(path)):
            return
        part, parts = job.options.shard
        about = {"source": str(job.source), "target": str(job.target), "shard": f"{part}/{parts}"}
        journal = Journal.open(path, about, reads=reads)
        try:
            self._marks = journal.marks(self._key_file)
            self._key_path = journal.key_path(self._key_file)
            self._word = self._marks.of_text("apart", journal.about.id)[:16]
            if job.options.mirror_deletes:
                journal.check_no_moves()
            self._is_first = not journal.runs()
            journal.check_storages(self._marks, marks_of_storages(parts_of(self._store)[0], job, self._marks))
        except BaseException:
            with suppress(errors.JournalError):
                journal.abandon()  # a new one, which none is that is only read
            journal.close()
            raise
        self._journal = journal
        self._files.append(journal)

    async def _end(self) -> None:
        self._others.end()
        if self._others.found or self._unkept or self._missed:
            await self._keep()
            return
        if self._some_gone and not await self._source.is_there():
            raise NotFoundError(
                f"{self._job.source} has no document any more, and had some: is it still mounted?"
                " If it is, run this again"
            )
        if self._journal is not None and self._job.action == "migrate":
            await to_thread.run_sync(self._journal.end_run)
        self._complete = True
        await self.aclose()


def _is_missed(done: Done, item: Item, /) -> bool:
    """Whether it was listed, and was not found where it was to be copied."""
    return done.outcome == "gone" and item.source is not None


def _check_answered(limit: CancelScope, /) -> None:
    if limit.cancelled_caught:
        raise errors.UnavailableError(f"no answer for {_KEEPING:g} s of whether documents are there: run it again")
