"""A run: what it leaves out, what stops it, what a race leads to, and how it goes on where it was broken off."""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from doubles import Recording, Selective, raises
from migrating import SOURCE, TARGET, account, config, files, found, once, outcomes_of, put, source, target
from msgspec.structs import replace
from samples import RICH

from accountstore import (
    AccountStore,
    BackendError,
    DeniedError,
    FullError,
    JournalError,
    Location,
    LocationError,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)
from accountstore.backends.base import ConflictError, NotFoundError, NotRegularError, digest
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.migration import Migration, Options, Place, merge, migrate, plan, read_report, verify
from accountstore.migration.journal import Journal
from accountstore.migration.merge import Listed
from accountstore.migration.pace import Pace
from accountstore.migration.runners import Here
from accountstore.migration.work import Worker
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from accountstore.testing.faults import Moment, Operation

pytestmark = pytest.mark.anyio

temporary = vars(merge)["_temporary"]
NAMES = [f"f{number % 3}/{number:03}.account" for number in range(40)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AccountStore]:
    """Two folders, with forty documents at the source."""
    async with AccountStore.open(config(tmp_path)) as opened:
        for name in NAMES:
            await put(opened, source(name), "a")
        yield opened


def over(old: Any = None, new: Any = None, /, **policy: Any) -> AccountStore:
    """A store on two backends."""
    return store_over({"Old": old or MemoryBackend(), "New": new or MemoryBackend()}, **policy)


async def filled(store: AccountStore, count: int = 40, /) -> AccountStore:
    for name in NAMES[:count]:
        await put(store, source(name), "a")
    return store


async def copies(store: AccountStore, /) -> set[str]:
    """The names of what is at the target."""
    return {entry.location.path.removeprefix("post/all/") async for entry in store.list(storage="New", recursive=True)}


# --- what is chosen ---------------------------------------------------------------------------------------------------


def _is_chosen(name: str, options: str, /) -> bool:
    match options:
        case "included":
            return name.startswith("f1/")
        case "excluded":
            return not name.startswith("f1/") and not name.endswith("9.account")
        case "both":
            return "/00" in name and not name.startswith("f0/")
        case _:
            return name in {"f0/000.account", "f2/002.account"}


CHOSEN: Mapping[str, dict[str, Any]] = {
    "included": {"include": ("f1/*",)},
    "excluded": {"exclude": ("f1/*", "*9.account")},
    "both": {"include": ("*/00?.account",), "exclude": ("f0/*",)},
    "named": {"names": ("f0/000.account", "f0/000.account", "f2/002.account")},
}


@pytest.mark.parametrize("chosen", CHOSEN)
async def test_only_what_is_chosen_is_migrated(store: AccountStore, tmp_path: Path, chosen: str) -> None:
    """Patterns and lists choose documents by their names; the others are not told, and stay in a later run."""
    options = CHOSEN[chosen]
    wanted = {name for name in NAMES if _is_chosen(name, chosen)}
    kept = files(tmp_path)
    told = await outcomes_of(migrate(store, SOURCE, TARGET, options=Options(**options), **kept))
    assert told == dict.fromkeys(wanted, "copied")
    assert await copies(store) == wanted
    await once(store, tmp_path)
    assert await copies(store) == {*NAMES}
    told = await outcomes_of(migrate(store, SOURCE, TARGET, options=Options(mirror_deletes=True, **options), **kept))
    assert told == dict.fromkeys(wanted, "same")
    assert await copies(store) == {*NAMES}


async def test_a_list_names_what_is_not_there(store: AccountStore, tmp_path: Path) -> None:
    """A name of the list without a document is told as missing, each time, and the run is not all right; nothing is
    listed.
    """
    backends = Recording(), Recording()
    async with over(*backends) as there:
        await put(there, source("a.account"), "a")
        names = ("a.account", "b.account")
        for word in ("copied", "same"):
            run = migrate(there, SOURCE, TARGET, options=Options(names=names), **files(tmp_path))
            assert await outcomes_of(run) == {"a.account": word, "b.account": "missing"}
            assert run.report.exit_code == 1
        for call in (plan, verify):
            asked = await call(there, SOURCE, TARGET, options=Options(names=names), **files(tmp_path))
            assert [each.outcome for each in asked.outcomes] == ["same", "missing"]
        assert not [call for backend in backends for call in backend.log if call == "scan"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"verify": "maybe"}, {"on_conflict": ""}, {"writes": "x"}, {"listing": "x"}, {"shard": (0, 1)},
        {"shard": (3, 2)}, {"concurrency": 0}, {"requests_per_second": 0}, {"delete_source": True, "verify": "none"},
        {"shard": (1, 10**9)}, {"concurrency": 10**19}, {"requests_per_second": float("inf")},
        {"requests_per_second": float("nan")}, {"requests_per_second": -1}, {"lease": float("nan")},
        {"names": "a.account"}, {"names": ("\ud800.account",)}, {"names": (1,)}, {"include": "*"}, {"exclude": "*"},
        {"delete_source": "no"}, {"delete_source": None}, {"mirror_deletes": "false"}, {"mirror_deletes": 1},
        {"concurrency": "8"}, {"concurrency": 1.5}, {"concurrency": True}, {"shard": 3}, {"shard": ("1", "2")},
        {"shard": (1.0, 2.0)}, {"shard": (1, 2, 3)}, {"requests_per_second": "5"}, {"requests_per_second": True},
        {"requests_per_second": 10**40}, {"lease": "5"}, {"names": {"a.account": 1}}, {"verify": ["read"]},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(wrong: Any) -> None:
    """A word that is not known, a number that cannot be, and a value of another type are a ValueError that begins with
    the option's name: "no" removes no source.
    """
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}"):
        Options(**wrong)


@pytest.mark.parametrize("call", [migrate, plan, verify])
async def test_what_is_no_place_or_no_options_says_what_to_write(
    store: AccountStore, tmp_path: Path, call: Any
) -> None:
    """A Location or a dict is a TypeError at the call, and the collector of garbage finds nothing to complain of."""
    with raises(TypeError, r"^options must be Options, such as `Options\(concurrency=3\)`$"):
        call(store, SOURCE, TARGET, options={"concurrency": 3}, **files(tmp_path))
    for ends, wrong in (((source("a.account"), TARGET), "source"), ((SOURCE, target("a.account")), "target")):
        with raises(TypeError, f"^{wrong} must be a place: text, such as"):
            call(store, *ends, **files(tmp_path))
    with raises(AttributeError, "concurrency"):
        Migration(store, Mock(spec=["source", "options"], options=object()), journal=None, key_file=None, runner=Mock())


@pytest.mark.parametrize("text", ["", "mail", "mail/team", "Old:", "Old:mail", "First Storage:mail/team-a"])
def test_a_place_is_what_its_text_says(text: str) -> None:
    """`Place.parse` reads what `str()` shows; a slash at the end is as good."""
    place = Place.parse(text)
    assert str(place) == text
    assert not place.folder or Place.parse(f"{text}/") == place


@pytest.mark.parametrize("text", [":mail", "Old:../mail", "a:b:c", "Old:/mail", "Old:x.account"])
def test_what_is_no_place_is_refused(text: str) -> None:
    """A storage or folder that no location has is a LocationError."""
    with pytest.raises(LocationError):
        Place.parse(text)


@pytest.mark.parametrize(
    ("old", "new"), [("Old:a", "Old:a"), ("Old:", "Old:a"), ("Old:a/b", "Old:a"), ("Same:a/b", "Old:a")]
)
async def test_a_place_in_itself_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """A place cannot be migrated onto itself or into itself, also where two storages have one folder."""
    storages = {name: StorageConfig(str(tmp_path)) for name in ("Old", "Same")}
    async with AccountStore.open(StoreConfig(storages=storages, default="Old")) as store:
        with raises(LocationError, "are one place, or one lies in the other"):
            await plan(store, old, new)
        await put(store, Location("x.account", folder="a"), "a")
        assert (await plan(store, "Old:a", "Old:ab")).ok


@pytest.mark.parametrize("deep", ["", "/deep"])
async def test_one_folder_by_two_options_is_one_place(tmp_path: Path, deep: str) -> None:
    """Storages whose options differ are one place where their folders are one, else a source would be its own copy."""
    storages = {"Old": StorageConfig(str(tmp_path)), "Same": StorageConfig(f"{tmp_path}{deep}", {"follow_links": True})}
    async with AccountStore.open(StoreConfig(storages=storages, default="Old")) as store:
        with raises(LocationError, "are one place, or one lies in the other"):
            await plan(store, "Old:", "Same:")


async def test_one_place_by_two_names_is_found_before_anything_is_removed(tmp_path: Path) -> None:
    """Two storages that no URL shows to be one, such as two endpoints of one bucket: nothing is removed, and nothing of
    the library's own is left. Without `delete_source` there is nothing to lose.
    """
    bucket = Recording()
    async with over(bucket, bucket) as store:
        await put(store, Location("x.account", storage="Old"), "a")
        with raises(LocationError, "are one place by two names"):
            await migrate(store, "Old:", "New:", options=Options(delete_source=True), **files(tmp_path))
        assert await found(store, Location("x.account", storage="Old")) == "a"
        report = await migrate(store, "Old:", "New:", journal=tmp_path / "other", key_file=tmp_path / "key")
        assert report.totals.keys() == {"same"}
        assert [[stat.key for stat in page] async for page in bucket.scan("", recursive=True)] == [["x.account"]]


async def test_a_scoped_store_is_migrated_in_one_process(store: AccountStore, tmp_path: Path) -> None:
    """Other processes would open the whole store, and reach outside the scope."""
    with raises(UnsupportedError, "a scoped store is migrated in one process"):
        migrate(store.scoped("mail"), "a", "b", processes=2, **files(tmp_path))


async def test_a_source_that_is_gone_removes_nothing(store: AccountStore, tmp_path: Path) -> None:
    """With `mirror_deletes` too, where the source has no document any more, as where it is not mounted."""
    await once(store, tmp_path)
    for name in NAMES:
        await store.delete(source(name))
    with raises(NotFoundError, "nothing is removed"):
        await outcomes_of(migrate(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path)))
    assert await copies(store) == {*NAMES}


@pytest.mark.parametrize("before", [{}, {"delete_source": True}], ids=["copied", "moved"])
async def test_a_target_that_has_lost_its_copies_is_refused(
    store: AccountStore, tmp_path: Path, before: dict[str, Any]
) -> None:
    """A target that lists nothing, though the journal knows copies there, as where it is not mounted, is no target
    whose documents were all deleted: a plan and a run are refused, and change nothing; with one copy there they are
    not, nor where they are to overwrite.
    """
    for _ in range(2):
        await once(store, tmp_path, **before)
    away = anyio.Path(tmp_path, "new", "post")
    await away.rename(tmp_path / "away")
    for call in (plan, migrate):
        for _ in range(2):
            with raises(NotFoundError, "though this journal has copied 40 there: is it mounted"):
                await call(store, SOURCE, TARGET, **files(tmp_path))
    assert (await anyio.to_thread.run_sync(read_report, tmp_path / "journal")).complete
    again = await once(store, tmp_path, on_conflict="overwrite")
    assert again.ok
    assert await copies(store) == (set() if before else {*NAMES})
    if not before:
        await store.delete(target(NAMES[0]))
        assert {*(await once(store, tmp_path)).totals} == {"removed", "same"}


@pytest.mark.parametrize("known", [False, True], ids=["of its own", "of another run"])
async def test_a_run_that_cannot_begin_leaves_no_journal(tmp_path: Path, known: bool) -> None:
    """A journal that was made for it is gone, and its key; one that knows documents stays, as does its key."""
    old = Failing(MemoryBackend())
    async with await filled(over(old), 3) as store:
        if known:
            await once(store, tmp_path)
        old.fail("scan", PermissionError())
        with raises(DeniedError):
            await once(store, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == (["journal", "key"] if known else [])
        old.heal()
        assert (await once(store, tmp_path)).totals.keys() == ({"same"} if known else {"copied"})


@pytest.mark.parametrize("options", [{}, {"mirror_deletes": True}, {"delete_source": True}], ids=str)
async def test_a_worker_that_reaches_another_source_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """What is listed, and not found by who is to copy it, though it is there, has failed: the run is never all right,
    and nothing is removed at the target.
    """
    new = MemoryBackend()
    async with await filled(over(None, new), 5) as store, over(None, new) as elsewhere:
        await once(store, tmp_path)
        for name in NAMES[:3]:
            await store.save(source(name), account("b"))

        def worker(_: AccountStore, job: Any, marks: Any) -> Worker:
            return Worker(elsewhere, job, marks)

        monkeypatch.setattr("accountstore.migration.calls.Worker", worker)
        run = migrate(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path))
        told = {outcome.name: outcome async for outcome in run}
        assert {told[name].outcome for name in NAMES[:3]} == {"failed"}
        assert "the same storage?" in told[NAMES[0]].reason
        assert (run.report.ok, run.report.exit_code) == (False, 1)
        assert await copies(store) == {*NAMES[:5]}


async def test_a_worker_that_reaches_another_target_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others say that they have copied, and is not at the target, has failed, and is copied by the next run."""
    old = MemoryBackend()
    async with await filled(over(old), 5) as store, over(old) as elsewhere:

        def worker(_: AccountStore, job: Any, marks: Any) -> Worker:
            return Worker(elsewhere, job, marks)

        with monkeypatch.context() as patched:
            patched.setattr("accountstore.migration.calls.Worker", worker)
            patched.setattr(Here, "own_store", False)
            report = await once(store, tmp_path)
            assert ({*report.totals}, report.exit_code) == ({"failed"}, 1)
        assert {*(await once(store, tmp_path)).totals} == {"copied"}
        assert await copies(store) == {*NAMES[:5]}


# --- odd files --------------------------------------------------------------------------------------------------------


async def test_odd_files_are_told_one_by_one_and_the_rest_is_copied(store: AccountStore, tmp_path: Path) -> None:
    """What is no document, too large, under a name that no location has, or of another extension is told by its name
    and reason, once, and never copied; a run with such documents is not all right.
    """
    odd = {
        "broken.account": b"{",
        "large.account": b" " * 300_000,
        "text.account": b"\xff\xfe",
        "kind.multi.account": JSON.encode(account("a")),
        "odd#name.account": JSON.encode(account("a")),
        "u\u0308.account": JSON.encode(account("a")),
        "notes.txt": b"notes",
        ".marker": b"",
        "f0/x.accounts": b"{}",
    }
    for name, data in odd.items():
        await anyio.Path(tmp_path, "old", "mail", name).write_bytes(data)
    await anyio.Path(tmp_path, "new", "post", "all").mkdir(parents=True)
    await anyio.Path(tmp_path, "new", "post", "all", "theirs.txt").write_bytes(b"theirs")
    refused = {
        "broken.account",
        "large.account",
        "text.account",
        "kind.multi.account",
        "odd#name.account",
        "u\u0308.account",
    }
    foreign = {"notes.txt", ".marker", "f0/x.accounts", "theirs.txt"}
    run = migrate(store, SOURCE, TARGET, **files(tmp_path))
    told = [outcome async for outcome in run]
    assert {outcome.name for outcome in told if outcome.outcome == "refused"} == refused
    assert {outcome.name for outcome in told if outcome.outcome == "foreign"} == foreign
    assert all(outcome.reason for outcome in told if outcome.outcome in {"refused", "foreign"})
    assert len(told) == len(NAMES) + len(refused) + len(foreign)
    assert await copies(store) == {*NAMES}
    assert (run.report.ok, run.report.exit_code, run.report.problems) == (False, 1, len(refused))
    journal = await anyio.to_thread.run_sync(Journal.read, str(tmp_path / "journal"))
    assert {outcome.name for outcome in (await anyio.to_thread.run_sync(journal.report)).outcomes} == refused
    await anyio.to_thread.run_sync(journal.close)


async def test_a_name_that_is_too_long_at_the_target_is_refused(tmp_path: Path) -> None:
    """A document whose path would be too long in the target's folder is refused by name; the others are copied."""
    async with over() as store:
        long = "/".join(["f" * 200] * 4)
        await put(store, source(f"{long}/x.account"), "a")
        await put(store, source("x.account"), "a")
        told = await outcomes_of(migrate(store, SOURCE, f"New:{'t' * 240}", **files(tmp_path)))
        assert told == {f"{long}/x.account": "refused", "x.account": "copied"}


# --- races ------------------------------------------------------------------------------------------------------------


class Rival(Recording):
    """Lets another writer change a document before the first call of an operation; None: delete it."""

    def __init__(self, operation: Operation, location: Location, word: str | None, /) -> None:
        super().__init__()
        self._operation: Operation = operation
        self._location = location
        self._word = word
        self._turn = anyio.Lock()
        self._acted = False
        self.before = self._meet

    async def _meet(self, operation: Operation) -> None:
        if operation != self._operation:
            return
        async with self._turn:  # calls that come meanwhile wait
            if self._acted:
                return
            self._acted = True
            if self._word is None:
                await self.remove(self._location.path)
            else:
                await self.put(self._location, JSON.encode(account(self._word)))


@pytest.mark.parametrize(
    ("word", "outcome"), [("other", "conflict"), ("a", "same")], ids=["another document", "the same document"]
)
async def test_what_another_writes_meanwhile_is_not_overwritten(tmp_path: Path, word: str, outcome: str) -> None:
    """A document that appears at the target after the listing stays; one that differs is a conflict, with its times."""
    new = Rival("write", target("x.account"), word)
    async with over(None, new) as store:
        await put(store, source("x.account"), "a")
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        [told] = [each async for each in run]
        assert told.outcome == outcome
        assert told.source_time is not None
        assert told.target_time is not None
        assert await found(store, target("x.account")) == word


@pytest.mark.parametrize(("options", "word"), [({}, "copied"), ({"delete_source": True}, "moved")])
async def test_what_goes_meanwhile_is_no_failure(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    """A document that is deleted at the source after the listing is told as gone, and the run is all right, also where
    the source has none any more, as the others were moved.
    """
    old = Rival("read", source("x.account"), None)
    async with over(old) as store:
        await store.save(source("x.account"), account("a"))
        await store.save(source("y.account"), account("a"))
        report = await once(store, tmp_path, **options)
        assert (report.ok, {*report.totals}) == (True, {"gone", word})
        assert await found(store, target("x.account")) is None


async def test_a_storage_that_does_not_answer_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not known whether a document is gone, as its storage is silent, the run ends with an error."""
    monkeypatch.setattr("accountstore.migration.run._KEEPING", 0.1)
    async with over(Rival("read", source("x.account"), None)) as store:
        for name in ("x.account", "y.account"):
            await store.save(source(name), account("a"))
        with monkeypatch.context() as patched:
            patched.setattr(AccountStore, "exists", _silent)
            with raises(UnavailableError, "no answer"):
                await once(store, tmp_path)
        assert (await once(store, tmp_path)).ok


async def _silent(*_: object) -> bool:
    await anyio.sleep_forever()
    return False


async def test_a_system_without_threads_ends_the_run(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of the library's, and lets go of the journal: the next run goes on."""
    with monkeypatch.context() as patched:
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        await anext(run)
        patched.setattr("accountstore.migration.run.to_thread", Mock(run_sync=_no_thread))
        with raises(UnavailableError, "no more threads"):
            await run
    assert (await once(store, tmp_path)).ok


async def _no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_listing_that_cannot_be_sorted_ends_the_run(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a temporary file is an error of the library's, which says what to do."""
    monkeypatch.setattr("accountstore.migration.merge._temporary", _full)
    with raises(JournalError, "cannot be sorted on the disk"):
        await once(store, tmp_path)
    monkeypatch.undo()
    assert (await once(store, tmp_path)).ok


def _full() -> sqlite3.Connection:
    """A temporary database in which nothing can be written."""
    database: sqlite3.Connection = temporary()
    database.execute("pragma query_only = 1")
    return database


@pytest.mark.parametrize(
    ("options", "known"),
    [({}, False), ({"delete_source": True}, False), ({"mirror_deletes": True}, True)],
    ids=["copied", "moved", "mirrored"],
)
async def test_a_source_that_disappears_stops_the_run(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], known: bool
) -> None:
    """A source whose documents all go while the run is under way is no run without anything to do: it says so, nothing
    is removed, not even what was gone before, and the next run goes on when the source is back.
    """
    if known:
        await once(store, tmp_path)
        await store.delete(source(NAMES[0]))
    mail, away = anyio.Path(tmp_path, "old", "mail"), anyio.Path(tmp_path, "away")
    work = Here.next

    async def unmounted(self: Here) -> Any:
        if await mail.exists():
            await mail.rename(away)
        return await work(self)

    with monkeypatch.context() as patched:
        patched.setattr(Here, "next", unmounted)
        run = migrate(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path))
        with raises(NotFoundError, "has no document any more, and had some"):
            await outcomes_of(run)
    assert not run.report.complete
    assert await copies(store) == ({*NAMES} if known else set())
    await away.rename(mail)
    assert (await once(store, tmp_path, **options)).ok
    assert await copies(store) == {*NAMES[1 if known else 0 :]}


async def test_a_source_that_changed_is_not_removed(tmp_path: Path) -> None:
    """With `delete_source`, a document that changes after it was copied stays, and is copied by the next run."""
    old = Rival("delete", source("x.account"), "b")
    async with over(old) as store:
        await put(store, source("x.account"), "a")
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"copied"}
        assert (await found(store, source("x.account")), await found(store, target("x.account"))) == ("b", "a")
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"moved"}
        assert (await found(store, source("x.account")), await found(store, target("x.account"))) == (None, "b")


async def test_a_removal_that_failed_forgets_nothing(tmp_path: Path) -> None:
    """With `delete_source`, what could not be removed is known to be copied: what it becomes at the source alone is
    copied by the next run, and is no conflict.
    """
    old = Failing(MemoryBackend())
    async with over(old) as store:
        await put(store, source("x.account"), "a")
        old.fail("delete", PermissionError())
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"failed"}
        old.heal()
        await put(store, source("x.account"), "b")
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"moved"}
        assert (await found(store, source("x.account")), await found(store, target("x.account"))) == (None, "b")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("true", "1"), ("true", "1.0"), ("1", "1.0"), ("false", "0"), ("0.0", "-0.0"), ("null", "0"),
        ('{"a": [true]}', '{"a": [1]}'), ('{"a": 0.0}', '{"a": -0.0}'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_types_and_signs_count(tmp_path: Path, codec: str, ours: str, theirs: str) -> None:
    """A document that differs in the type or the sign of a value alone is another one, which nothing is moved onto; a
    value is the same in either codec, however it is spaced.
    """
    told = config(tmp_path)
    new = {**told.storages, "New": replace(told.storages["New"], codec=codec)}
    async with AccountStore.open(replace(told, storages=new)) as store:
        for name, there in (("same.account", ours), ("other.account", theirs)):
            for at, value in ((source(name), ours), (target(name), there.replace(":", " : "))):
                await store.save_json(at, RICH.replace(b"2.50", value.encode()))
        told_of = await outcomes_of(verify(store, SOURCE, TARGET))
        assert told_of == {"same.account": "same", "other.account": "differs"}
        run = migrate(store, SOURCE, TARGET, options=Options(delete_source=True), **files(tmp_path))
        assert await outcomes_of(run) == {"same.account": "moved", "other.account": "conflict"}
        assert await store.exists(source("other.account"))


async def test_mirrored_deletions_never_meet_what_a_run_has_moved(tmp_path: Path) -> None:
    """What is gone at the source may have been moved by a run that was killed or had no answer, and its copy be the
    only one: a journal with such a run mirrors nothing. Another one leaves what it did not copy.
    """
    old = Failing(MemoryBackend())
    with pytest.raises(ValueError, match=r"delete_source .* excludes mirror_deletes"):
        Options(delete_source=True, mirror_deletes=True)
    async with over(old) as store:
        for name in ("x.account", "y.account"):
            await put(store, source(name), "a")
        await once(store, tmp_path)
        old.fail("delete", UncertainError("no answer"), "after")
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"failed"}
        old.heal()
        await put(store, source("y.account"), "a")
        for call in (migrate, plan):
            with pytest.raises(JournalError, match=r"mirror_deletes.* remove by hand at the target what is gone$"):
                await call(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path))
        assert await copies(store) == {"x.account", "y.account"}
        another = tmp_path / "another"
        another.mkdir()
        await put(store, source("z.account"), "a")
        assert (await once(store, another)).totals.keys() == {"foreign", "same", "copied"}
        for name in ("y.account", "z.account"):
            await store.delete(source(name))
        await put(store, source("w.account"), "a")
        run = migrate(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(another))
        left = {"x.account": "foreign", "y.account": "gone"}
        assert await outcomes_of(run) == left | {"z.account": "deleted", "w.account": "copied"}
        assert await copies(store) == {*left, "w.account"}


async def test_mirrored_deletions_leave_what_was_only_found_to_be_the_same(tmp_path: Path) -> None:
    """What another journal's runs have copied, and then moved, is the only copy. What this journal's have copied or
    replaced once is removed, whatever they found later.
    """
    async with over() as store:
        for name in ("same.account", "copied.account", "changed.account"):
            await put(store, source(name), "a")
        for name in ("same.account", "changed.account"):
            await put(store, target(name), "a")
        assert {*(await once(store, tmp_path)).totals} == {"same", "copied"}
        await put(store, source("changed.account"), "b")
        assert {*(await once(store, tmp_path)).totals} == {"same", "changed"}
        for end in (source, target):  # the same in other versions, which the journal takes over
            for name in ("same.account", "copied.account", "changed.account"):
                await put(store, end(name), "c")
        assert {*(await once(store, tmp_path)).totals} == {"same"}
        (tmp_path / "another").mkdir()
        await once(store, tmp_path / "another", delete_source=True)
        await put(store, source("kept.account"), "a")
        for call in (plan, migrate):
            run = call(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path))
            told = await outcomes_of(run)
            assert told.pop("kept.account") == "copied"
            assert told == {"same.account": "gone", "copied.account": "deleted", "changed.account": "deleted"}
        assert await copies(store) == {"same.account", "kept.account"}


async def test_a_removal_of_which_nothing_is_known_forgets_nothing(tmp_path: Path) -> None:
    """With `delete_source`, a removal whose answer was lost, and that was not done, leaves both ends known to be the
    same: what has changed at the target alone since is newer, and stays.
    """
    old = Failing(MemoryBackend())
    async with over(old) as store:
        await put(store, source("x.account"), "a")
        old.fail("delete", UncertainError("no answer"))
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"failed"}
        old.heal()
        await put(store, target("x.account"), "newer")
        await once(store, tmp_path, delete_source=True, on_conflict="overwrite")
        assert (await found(store, source("x.account")), await found(store, target("x.account"))) == (None, "newer")


async def test_what_is_at_the_source_again_is_not_removed_at_the_target(tmp_path: Path) -> None:
    """With `mirror_deletes`, the source is asked once more before a document is removed at the target."""
    old = Rival("stat", source("x.account"), "b")
    async with over(old) as store:
        for name in ("x.account", "y.account"):
            await put(store, source(name), "a")
        await once(store, tmp_path)
        await store.delete(source("x.account"))
        assert (await once(store, tmp_path, mirror_deletes=True)).totals.keys() == {"gone", "same"}
        assert await found(store, target("x.account")) == "a"


class Failing(FaultyBackend):
    """Fails until it is well again."""

    def fail(self, operation: Operation, error: Exception, moment: Moment = "before", /) -> None:
        """Every call of an operation fails from now on."""
        self._faults = {(operation, nth): Fault(operation, nth, moment, error) for nth in range(1, 1000)}

    def heal(self) -> None:
        """No call fails any more."""
        self._faults = {}


# --- storages that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "full"), FullError),
        (PermissionError(), DeniedError),
        (ConnectionResetError(), UnavailableError),
    ],
    ids=["full", "denied", "unreachable"],
)
async def test_a_target_that_fails_stops_the_run_which_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    """A target that is full, or refuses or loses every write, stops the run with its error; nothing is said to be
    copied that is not; and the next run copies the rest.
    """
    monkeypatch.setattr("accountstore.migration.runners.MOST", 20)
    monkeypatch.setattr("accountstore.migration.failures._IN_A_ROW", 20)
    new = Failing(MemoryBackend(), [Fault("write", nth, error=error) for nth in range(5, 1000)])
    async with await filled(over(None, new)) as store:
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        told: dict[str, str] = {}
        with raises(kind, "it goes on where it was"):
            async for outcome in run:
                told[outcome.name] = outcome.outcome
        assert not run.report.complete
        assert {name for name, word in told.items() if word == "copied"} <= await copies(store)
        new.heal()
        report = await once(store, tmp_path)
        assert report.ok
        assert report.documents == 40
        assert await copies(store) == {*NAMES}


class Archived(MemoryBackend):
    """What is in the first folder may not be read."""

    async def read(self, key: str, /, *, limit: int) -> Any:
        if "/f0/" in key:
            raise PermissionError
        return await super().read(key, limit=limit)


@pytest.mark.parametrize("stops", [False, True])
async def test_documents_that_cannot_be_read_and_come_first_keep_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """More of them than the first batch has fail by name, and the others are copied; and where they are so many that
    the run stops, the next one passes by those, and comes further.
    """
    monkeypatch.setattr("accountstore.migration.failures._IN_A_ROW", 16 if stops else 1_000)
    names = [f"f0/{number:03}.account" for number in range(40)]
    async with over(Archived()) as store:
        for name in [*names, "f1/a.account"]:
            await store.save(source(name), account("a"))
        if stops:
            with raises(DeniedError, "it goes on where it was"):
                await once(store, tmp_path)
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        assert await outcomes_of(run) == dict.fromkeys(names, "failed") | {"f1/a.account": "copied"}
        assert (run.report.complete, run.report.exit_code) == (True, 1)


@pytest.mark.parametrize("end", ["Old", "New"])
async def test_an_end_that_cannot_be_listed_stops_the_run(tmp_path: Path, end: str) -> None:
    """Without the permission to list nothing is copied, and the run says why."""
    backends = {name: Failing(MemoryBackend()) for name in ("Old", "New")}
    async with await filled(over(*backends.values()), 3) as store:
        backends[end].fail("scan", PermissionError())
        with raises(
            DeniedError, f"^{'source: Old:mail' if end == 'Old' else 'target: New:post/all'}/: access is denied"
        ):
            await once(store, tmp_path)
        backends[end].heal()
        assert (await once(store, tmp_path)).ok


class Unsorted(MemoryBackend):
    """Says that it sorts, and lists as it likes, as some servers of S3's protocol do."""

    @property
    def capabilities(self) -> Any:
        return replace(super().capabilities, sorted=True)


@pytest.mark.parametrize("end", ["Old", "New"])
async def test_a_listing_out_of_order_is_found(tmp_path: Path, end: str) -> None:
    """A storage that does not list in the order that it promises stops the run, which says what to do; nothing is taken
    for deleted; and sorted on the disk, the listing serves.
    """
    backends = {name: Unsorted() if name == end else MemoryBackend() for name in ("Old", "New")}
    async with over(*backends.values()) as store:
        for name in reversed(NAMES):
            for at in (source(name), target(name)):
                await put(store, at, "a")
        assert (await once(store, tmp_path, listing="spool")).ok
        with raises(BackendError, "out of order: migrate with listing='spool'"):
            await once(store, tmp_path)
        assert await copies(store) == {*NAMES}
        assert (await once(store, tmp_path, listing="spool")).totals.keys() == {"same"}


async def test_a_target_that_ignores_conditions_is_refused(tmp_path: Path) -> None:
    """Where another's document could be overwritten, nothing is written; `writes="blind"` does so."""

    class Ignoring(Selective):
        @property
        def capabilities(self) -> Any:
            return replace(super().capabilities, verify=True)

    async with await filled(over(None, Ignoring())) as store:
        with raises(UnsupportedError, "ignores the condition"):
            await once(store, tmp_path)
        assert await copies(store) == set()
        report = await migrate(store, SOURCE, TARGET, journal=tmp_path / "other", options=Options(writes="blind"))
        assert report.ok
        assert await copies(store) == {*NAMES}


@pytest.mark.parametrize(("before", "nth"), [("stat", 1), ("read", 2), ("write", 1)])
async def test_what_is_mended_while_it_is_to_be_overwritten_stays(tmp_path: Path, before: Operation, nth: int) -> None:
    """Overwriting replaces what is no document in the version that was read: what another writer puts in its place
    before that is written stays, and is `newer`.
    """
    new = Recording()
    async with over(None, new) as store:
        await put(store, source("x.account"), "a")
        await once(store, tmp_path)
        await new.put(target("x.account"), b"{broken")
        calls: list[Operation] = []

        async def mend(operation: Operation) -> None:
            calls.append(operation)
            if operation == before and calls.count(before) == nth:
                await new.put(target("x.account"), JSON.encode(account("mended")))

        new.before = mend
        assert (await once(store, tmp_path, on_conflict="overwrite")).totals.keys() == {"newer"}
        assert calls.count(before) >= nth
        assert await found(store, target("x.account")) == "mended"
        new.before = None
        await new.put(target("x.account"), b"{broken")
        assert (await once(store, tmp_path, on_conflict="overwrite")).totals.keys() == {"changed"}


@pytest.mark.parametrize(("conditions", "before"), [(True, "write"), (False, "read")], ids=["conditions", "none"])
@pytest.mark.parametrize("known", [False, True], ids=["created", "changed"])
async def test_a_blind_run_looks_before_it_writes(tmp_path: Path, conditions: bool, before: str, known: bool) -> None:
    """With `writes="blind"`, what another writer has done after the listing is a conflict: on a target with conditions
    always, for it is written on them; on one without, up to the look just before the write.
    """
    new = Recording(None, (), create=conditions, update=conditions)
    async with over(None, new) as store:
        await put(store, source("x.account"), "a")
        if known:
            await once(store, tmp_path, writes="blind")
            await put(store, source("x.account"), "b")
        reads = 0

        async def rival(operation: Operation) -> None:
            nonlocal reads
            reads += operation == before
            # What is there is read once for the decision.
            if operation == before and reads == 1 + (known and not conditions):
                await new.put(target("x.account"), JSON.encode(account("rival")))

        new.before = rival
        assert (await once(store, tmp_path, writes="blind")).totals.keys() == {"conflict"}
        assert await found(store, target("x.account")) == "rival"


async def test_what_has_no_conditions_at_all_is_refused_at_once(tmp_path: Path) -> None:
    """A target without conditional writes needs `writes="blind"`; deletes need conditions always."""
    plain = Recording(None, (), create=False, update=False)
    async with await filled(over(plain, plain), 1) as store:
        for options in ({}, {"writes": "blind", "mirror_deletes": True}, {"writes": "blind", "delete_source": True}):
            with raises(UnsupportedError):
                await once(store, tmp_path, **options)


async def test_one_document_that_fails_does_not_stop_the_run(tmp_path: Path) -> None:
    """An error of one document is its outcome, by class and reason; the run copies the others and is not all right."""
    new = FaultyBackend(MemoryBackend(), [Fault("write", 7, error=PermissionError())])
    async with await filled(over(None, new)) as store:
        report = await once(store, tmp_path)
        assert {word: total.documents for word, total in report.totals.items()} == {"copied": 39, "failed": 1}
        assert report.exit_code == 1
        assert (await once(store, tmp_path)).ok


@pytest.mark.parametrize("error", [NotRegularError("a folder"), ConflictError("x"), NotFoundError("x")])
async def test_what_stands_in_the_way_at_the_target_is_told(tmp_path: Path, error: Exception) -> None:
    """A refusal of one write is that document's outcome, and never an exception."""
    new = FaultyBackend(MemoryBackend(), [Fault("write", nth, error=error) for nth in range(1, 9)])
    async with await filled(over(None, new), 2) as store:
        report = await once(store, tmp_path)
        assert report.complete
        assert not {"copied", "changed"} & report.totals.keys()


class Corrupting(MemoryBackend):
    """Stores other bytes than it was given; without conditions, its versions are digests of what it was given."""

    def __init__(self, *, conditions: bool) -> None:
        super().__init__()
        self._conditions = conditions

    @property
    def capabilities(self) -> Any:
        return replace(super().capabilities, create=self._conditions, update=self._conditions)

    async def write(self, key: str, data: bytes, /, *, mode: Any, write_token: str = "") -> Any:
        stored = await super().write(key, data.replace(b"993", b"994"), mode=mode, write_token=write_token)
        return stored if self._conditions else replace(stored, version=digest(data))


@pytest.mark.parametrize("conditions", [True, False], ids=["conditions", "blind"])
@pytest.mark.parametrize(("proof", "outcome"), [("read", "failed"), ("write", "failed"), ("none", "copied")])
async def test_what_is_stored_otherwise_is_found(tmp_path: Path, proof: str, outcome: str, conditions: bool) -> None:
    """Reading back finds a document that is not what was written, also where the storage has no digest to answer, or
    one of what it was given; then it is not removed at the source. Without verification a later comparison finds it,
    though both versions are those of the copy, and overwriting does not settle for it either; but where the storage's
    version is of what it was given, it looks as if somebody had changed the target since.
    """
    async with await filled(over(None, Corrupting(conditions=conditions)), 1) as store:
        options: dict[str, Any] = {} if conditions else {"writes": "blind"}
        assert (await once(store, tmp_path, verify=proof, **options)).totals.keys() == {outcome}
        if proof == "none" and not conditions:
            assert (await verify(store, SOURCE, TARGET, **files(tmp_path))).totals.keys() == {"newer"}
        else:
            assert (await verify(store, SOURCE, TARGET, **files(tmp_path))).totals.keys() == {"differs"}
            assert (await once(store, tmp_path, delete_source=True, **options)).totals.keys() == {"conflict"}
            assert (await once(store, tmp_path, **options)).totals.keys() == {"conflict"}
            options |= {"delete_source": True, "on_conflict": "overwrite"}
            assert (await once(store, tmp_path, **options)).totals.keys() == {"failed"}
        assert await found(store, source(NAMES[0])) == "a"


@pytest.mark.parametrize("place", [source, target])
async def test_what_is_written_again_as_it_was_is_the_same(
    store: AccountStore, tmp_path: Path, place: Callable[[str], Location]
) -> None:
    """What a verification finds equal is `same`, whatever the versions say that the journal knows."""
    await once(store, tmp_path)
    await put(store, place(NAMES[0]), await found(store, place(NAMES[0])))
    assert (await verify(store, SOURCE, TARGET, **files(tmp_path))).totals.keys() == {"same"}


# --- broken off -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run as a kill does: nothing below catches it."""


@pytest.mark.parametrize("before", [True, False], ids=["before the journal is written", "after"])
@pytest.mark.parametrize("nth", [*(pytest.param(nth, marks=pytest.mark.once) for nth in (1, 3)), 2])
async def test_broken_off_at_each_step_of_the_journal(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, before: bool
) -> None:
    """Whatever was broken off before or after the journal was written is complete after the next run: nothing missing,
    nothing overwritten, and only the batch under way is met again.
    """
    record = Journal.record
    count = 0

    def killing(self: Journal, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count != nth:
            return record(self, *arguments)
        if not before:
            record(self, *arguments)
        raise Killed

    monkeypatch.setattr(Journal, "record", killing)
    monkeypatch.setattr("accountstore.migration.runners.MOST", 15)
    with pytest.raises(Killed):
        async with migrate(store, SOURCE, TARGET, **files(tmp_path)) as run:
            async for _ in run:
                pass
    done = await copies(store)
    monkeypatch.setattr(Journal, "record", record)
    newer = sorted(done)[:2]
    for name in newer:
        await store.save(target(name), account("newer"))
    report = await once(store, tmp_path)
    assert report.complete
    assert await copies(store) == {*NAMES}
    assert [await found(store, target(name)) for name in newer] == ["newer"] * len(newer)


async def test_control_a_journal_that_is_written_before_the_copy(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where outcomes are journaled before they are so, a run that is broken off in between loses documents."""
    from accountstore.backends.base import Version
    from accountstore.migration.records import Done
    from accountstore.migration.work import Worker

    work = Worker.work

    async def journaling_first(self: Any, items: Any) -> Any:
        opened = [(item, (await store.read(source(item.name))).version) for item in items]
        done = [
            Done(item.name, "copied", self._marks.of("source", version), self._marks.of("target", Version("none")))
            for item, version in opened
        ]
        journal: Any = vars(run)["_journal"]
        await anyio.to_thread.run_sync(journal.record, [(one, None) for one in done])
        raise Killed

    await put(store, target(NAMES[0]), "a")  # else its target is found to have lost all
    monkeypatch.setattr(Worker, "work", journaling_first)
    with pytest.raises(Killed):
        async with migrate(store, SOURCE, TARGET, **files(tmp_path)) as run:
            await anext(run)
    monkeypatch.setattr(Worker, "work", work)
    await once(store, tmp_path)
    assert await copies(store) != {*NAMES}


@pytest.mark.parametrize(
    "after", [*(pytest.param(after, marks=pytest.mark.once) for after in (0, 5, 60, 160)), 1, 20, 130, 200]
)
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"delete_source": True}),
        *(pytest.param(more, marks=pytest.mark.once) for more in ({"mirror_deletes": True}, {"listing": "spool"})),
    ],
    ids=str,
)
async def test_a_cancelled_run_goes_on_where_it_was(tmp_path: Path, after: int, options: dict[str, Any]) -> None:
    """A step that is cancelled is made again by the next one: each document is told once, and none is left out; what
    was removed at the source is told as such; and the journal has it.
    """
    backends = Recording(), Recording()
    async with await filled(over(*backends)) as store:
        calls = 0

        async def cancel_once(_: Operation) -> None:
            nonlocal calls
            calls += 1
            if calls == after:
                scope.cancel()
            await anyio.lowlevel.checkpoint()

        for backend in backends:
            backend.before = cancel_once
        told: list[str] = []
        run = migrate(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path))
        with anyio.CancelScope() as scope:
            async for outcome in run:
                told.append(outcome.name)  # noqa: PERF401 -- what was told before the cancellation counts
        told += [outcome.name async for outcome in run]
        assert sorted(told) == sorted(NAMES)
        assert await copies(store) == {*NAMES}
        assert run.report.ok
        assert run.report.totals.keys() <= ({"moved"} if "delete_source" in options else {"copied", "same"})
        report = await anyio.to_thread.run_sync(read_report, tmp_path / "journal")
        assert (report.ok, report.totals) == (True, run.report.totals)


@pytest.mark.parametrize("page", [True, False], ids=["of a page of the listing", "of a batch"])
async def test_a_cancellation_that_comes_with_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: bool
) -> None:
    """What was done, or listed, when a cancellation comes is told afterwards, and is in the journal at once."""
    async with await filled(over()) as store:
        for name in NAMES:
            await put(store, target(name), "other")
        monkeypatch.setattr("accountstore.migration.runners._FIRST", len(NAMES))
        kind: Any = Listed if page else Here
        fetch = kind.next

        async def cancelling(self: Any) -> Any:
            found = await fetch(self)
            scope.cancel()
            return found

        monkeypatch.setattr(kind, "next", cancelling)
        run = migrate(store, SOURCE, TARGET, options=Options(listing="spool"), **files(tmp_path))
        with anyio.CancelScope() as scope:
            await anext(run)
        assert scope.cancelled_caught
        if not page:
            rows = await anyio.to_thread.run_sync(vars(run)["_journal"].rows, "", 100)
            assert [row.name for row in rows] == sorted(NAMES)
        monkeypatch.undo()
        assert await outcomes_of(run) == dict.fromkeys(NAMES, "conflict")
        assert run.report.exit_code == 3


async def test_a_run_that_is_dropped_lets_go_of_its_journal(store: AccountStore, tmp_path: Path) -> None:
    """A loop that is left early keeps nothing open: the next run has the journal."""
    async for _ in migrate(store, SOURCE, TARGET, **files(tmp_path)):
        break
    assert (await once(store, tmp_path)).ok


async def test_batches_grow_while_they_are_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run tells of its first documents early, and of slow ones in small batches; quick ones have large ones."""
    clock = 0.0
    took = [0.1, 0.1, 3.0, 0.1, 3.0, 3.0, 3.0, 3.0, 0.1]
    sizes: list[int] = []

    async def work(items: Any) -> list[Any]:
        nonlocal clock
        sizes.append(len(items))
        clock += took[len(sizes) - 1]
        return []

    monkeypatch.setattr("accountstore.migration.runners.monotonic", lambda: clock)
    here = Here(Mock(work=work, in_a_second=None))
    for _ in took:
        here.submit(range(here.size))  # type: ignore[arg-type]
        await here.next()
    assert sizes == [16, 32, 64, 32, 64, 32, 16, 16, 16]


# --- pace -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pauses")
async def test_a_busy_target_is_given_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that answers that it is busy halves what is under way there, which its events tell; then it grows again.
    Nothing is lost.
    """
    limits: list[int] = []
    settle = Pace.settle

    def keep(self: Pace, *storages: str) -> None:
        settle(self, *storages)
        limits.append(self.concurrency)

    monkeypatch.setattr(Pace, "settle", keep)
    monkeypatch.setattr("accountstore.migration.runners.MOST", 5)
    new = FaultyBackend(MemoryBackend(), [Fault("write", nth, error=ConnectionRefusedError()) for nth in range(11, 30)])
    events: list[Any] = []
    async with await filled(over(None, new, attempts=8, observer=events.append)) as store:
        events.clear()
        assert (await once(store, tmp_path, concurrency=64)).ok
    assert limits[:2] == [32, 64]
    assert min(limits[2:]) < 64
    assert limits[-1] > min(limits[2:])
    assert {storage for event in events for storage in event.retries} == {"New"}


@pytest.mark.parametrize(("rate", "requests", "seconds"), [(10.0, 30, 3.0), (None, 30, 0.0)])
async def test_requests_a_second_are_kept(
    rate: float | None, requests: int, seconds: float, pauses: list[float]
) -> None:
    """Whoever asked for so many requests waits until those before have had their time."""
    pace = Pace(64, rate)
    await pace.wait(requests)
    await pace.wait(1)
    assert sum(pauses) == pytest.approx(seconds, abs=0.5)
