"""An end that is not mounted, or has other names than it seems: what a run then refuses, asks again and leaves."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import raises
from migrating import SOURCE, TARGET, account, files, found, once, outcomes_of, put, source, target

from accountstore import AccountStore, LocationError, NotFoundError
from accountstore.backends.memory import MemoryBackend
from accountstore.client import StorageClient
from accountstore.codecs import JSON
from accountstore.migration import Options, Place, migrate, plan, verify
from accountstore.migration.presence import AT_ONCE
from accountstore.migration.runners import Here
from accountstore.scope import Resolver
from accountstore.storage import Storage
from accountstore.storages import Storages
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accountstore import Location
    from accountstore.backends.base import Blob, Stat, Version, WriteMode

pytestmark = pytest.mark.anyio

NAMES = [f"f{folder}/{number}.account" for folder in range(2) for number in range(3)]
CHOSEN: Mapping[str, dict[str, Any]] = {
    "pattern": {"include": ("f1/*",)},
    "names": {"names": (*NAMES[3:], "odd#.account", "f1/other.txt")},
}


@pytest.mark.parametrize("call", [migrate, plan, verify])
async def test_a_first_run_whose_source_has_no_document_is_refused(tmp_path: Path, call: Any) -> None:
    """Its name may be misspelt, the colon of a storage forgotten, or a pattern: no journal stays. A document that a
    listing leaves out is one, as is one of another shard; and once a run has moved all, an empty source is no fault.
    """
    old = MemoryBackend()
    async with store_over({"Old": old, "New": MemoryBackend()}) as store:
        with raises(NotFoundError, "no documents in 'Old:mail/'$"):
            await call(store, SOURCE, TARGET, **files(tmp_path))
        with raises(NotFoundError, "no documents in 'new/'; the storage 'New' is 'New:'$"):
            await call(store, "new", TARGET, **files(tmp_path))
        await old.write("mail/odd#.account", b"{}", mode="create")
        assert (await call(store, SOURCE, TARGET, options=Options(shard=(1, 9)), **files(tmp_path))).complete
        (tmp_path / "journal").unlink(missing_ok=True)
        with raises(NotFoundError, r"no document in 'Old:mail/' is chosen by include \(--include\) 'x/\*': patterns"):
            await call(store, SOURCE, TARGET, options=Options(include=("x/*",)), **files(tmp_path))
        assert not [*tmp_path.glob("journal*")]
        await put(store, source(NAMES[0]), "a")
        await old.delete("mail/odd#.account")
        for options in (Options(shard=(1, 9)), Options(shard=(9, 9)), Options(names=("other.account",))):
            with TemporaryDirectory(dir=tmp_path) as folder:
                assert (await call(store, SOURCE, TARGET, options=options, **files(Path(folder)))).complete
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"moved"}
        assert (await call(store, SOURCE, TARGET, **files(tmp_path))).complete


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("chosen", CHOSEN)
async def test_an_end_that_has_lost_what_is_migrated(tmp_path: Path, chosen: str, end: str) -> None:
    """Other documents at an end do not tell that those which are migrated are mounted: a run that would remove their
    copies, or take the copies for deleted, is refused, and changes nothing; with one of them there it is not.
    """
    options: dict[str, Any] = CHOSEN[chosen] | ({"mirror_deletes": True} if end == "source" else {})
    at = source if end == "source" else target
    async with store_over({"Old": MemoryBackend(), "New": MemoryBackend()}) as store:
        for name in NAMES:
            await put(store, source(name), "a")
        await once(store, tmp_path, **options)
        await put(store, target(NAMES[0]), "a")
        for name in NAMES[3:]:
            await store.delete(at(name))
        why = "nothing is removed" if end == "source" else "has copied 3 there: is it mounted"
        for call in (migrate, plan):
            with raises(NotFoundError, why):
                await call(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path))
        assert [await found(store, target(name)) for name in NAMES[3:]] == ["a" if end == "source" else None] * 3
        await put(store, at(NAMES[4]), "a")
        told = await outcomes_of(migrate(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path)))
        gone = "deleted" if end == "source" else "removed"
        assert [told[name] for name in NAMES[3:]] == [gone, "same", gone]


class Caseless(MemoryBackend):
    """Ignores the case of names, and lists them as they were made."""

    def _key(self, key: str, /) -> str:
        return next((path[1:] for path in self._fs.store if path[1:].lower() == key.lower()), key)

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await super().read(self._key(key), limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(self._key(key), data, mode=mode, write_token=write_token)

    async def stat(self, key: str, /) -> Stat:
        return await super().stat(self._key(key))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(self._key(key), version=version)


@pytest.mark.parametrize(("before", "after"), [("Anna", "anna"), ("anna", "Anna")])
async def test_a_target_that_ignores_case_keeps_its_copies(tmp_path: Path, before: str, after: str) -> None:
    """With `mirror_deletes`, a document that was renamed in its case alone keeps its copy, and the run says why."""
    async with store_over({"Old": MemoryBackend(), "New": Caseless()}) as store:
        await put(store, source(f"{before}.account"), "a")
        await once(store, tmp_path)
        await store.move(source(f"{before}.account"), source(f"{after}.account"))
        run = migrate(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path))
        told = {outcome.name: outcome async for outcome in run}
        assert told[f"{before}.account"].outcome == "gone"
        assert "the target ignores case" in told[f"{before}.account"].reason
        assert told[f"{after}.account"].outcome == "same"
        assert await found(store, target(f"{after}.account")) == "a"


@pytest.mark.parametrize(
    ("on_conflict", "why"), [("report", "listed there under another name"), ("overwrite", "finds it by another name")]
)
async def test_two_names_that_a_target_takes_for_one(tmp_path: Path, on_conflict: Any, why: str) -> None:
    """The second is a conflict, whose reason says that another name may be the cause."""
    async with store_over({"Old": MemoryBackend(), "New": Caseless()}) as store:
        for name in ("Anna.account", "anna.account"):
            await put(store, source(name), "a")
            await once(store, tmp_path)
        await put(store, source("anna.account"), "b")
        run = migrate(store, SOURCE, TARGET, options=Options(on_conflict=on_conflict), **files(tmp_path))
        told = {outcome.name: outcome async for outcome in run}
        assert told["anna.account"].outcome == "conflict"
        assert why in told["anna.account"].reason


async def test_where_both_ends_ignore_case_copies_are_removed(tmp_path: Path) -> None:
    """A source that ignores case, too, would have found the document under its other name."""
    async with store_over({"Old": Caseless(), "New": Caseless()}) as store:
        for name in ("a.account", "b.account"):
            await put(store, source(name), "a")
        await once(store, tmp_path)
        await store.delete(source("a.account"))
        assert {*(await once(store, tmp_path, mirror_deletes=True)).totals} == {"deleted", "same"}


async def test_what_is_gone_is_asked_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that were deleted after the listing are looked for once more, many at a time; a cancellation meanwhile
    leaves that for the next step, and each is told once. What is there was looked for elsewhere, and has failed.
    """
    names = [f"{number:03}.account" for number in range(AT_ONCE + 4)]
    asked = [0, 0]  # at present, and at most
    work = Here.next

    async def deleting(self: Here) -> Any:
        for name in names:
            await store.delete(source(name))
        return await work(self)

    async def counted(_: AccountStore, at: Location, /) -> bool:
        asked[0] += 1
        asked[1] = max(asked)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        asked[0] -= 1
        return at == source(names[1])

    async with store_over({"Old": MemoryBackend(), "New": MemoryBackend()}) as store:
        for name in (*names, "z.account"):
            await store.save(source(name), account("a"))
        monkeypatch.setattr("accountstore.migration.runners._FIRST", len(names))
        monkeypatch.setattr(Here, "next", deleting)
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        with monkeypatch.context() as patched:
            patched.setattr(AccountStore, "exists", counted)
            with anyio.CancelScope() as scope:
                await anext(run)
            assert scope.cancelled_caught
            asked = [0, 0]
            scope = anyio.CancelScope()
            told = {outcome.name: outcome.outcome async for outcome in run}
        assert asked == [0, AT_ONCE]
        assert told == dict.fromkeys(names, "gone") | {names[1]: "failed", "z.account": "copied"}


# --- one place by two names -------------------------------------------------------------------------------------------


def over_urls(old: tuple[str, Any], new: tuple[str, Any], /) -> AccountStore:
    """A store whose storages say to have these URLs and options, over one and the same backend."""
    backend = MemoryBackend()
    storages = {
        name: Storage(StorageClient(name, backend, limit=10**6), JSON, 10**6, url, options)
        for name, (url, options) in (("Old", old), ("New", new))
    }
    return AccountStore(Resolver(Storages(storages, "Old")))


@pytest.mark.parametrize(
    ("old", "new"),
    [("Old:", "New:"), ("Old:", "New:backup"), ("Old:mail/now", "New:mail")],
    ids=["same", "in", "around"],
)
@pytest.mark.parametrize(
    ("urls", "options"),
    [
        (("s3://b", "s3://b/"), ({"key": "a", "secret": "b"}, {"key": "c", "token": "d"})),
        (("sftp://u:p@h/x", "sftp://u:q@h/x"), ({"timeout": 1}, {"password": "r"})),
    ],
    ids=["s3", "sftp"],
)
async def test_one_place_with_two_credentials(old: str, new: str, urls: tuple[str, str], options: Any) -> None:
    """Two storages that differ in who asks alone are one: a place in itself is refused before anything is asked."""
    async with over_urls((urls[0], options[0]), (urls[1], options[1])) as store:
        with raises(LocationError, "are one place, or one lies in the other"):
            await plan(store, old, new)


@pytest.mark.parametrize(("old", "new"), [("Old:", "New:backup"), ("Old:mail/now", "New:mail")], ids=["in", "around"])
async def test_a_place_in_itself_by_two_endpoints(tmp_path: Path, old: str, new: str) -> None:
    """With `delete_source`, that one lies in the other is found out before anything is removed, whatever the servers
    are called; and nothing of the library's own is left.
    """
    ends = [("s3://b", {"endpoint_url": f"https://{name}.example"}) for name in ("a", "b")]
    async with over_urls(ends[0], ends[1]) as store:
        at = Place.parse(old).at("x.account")
        await put(store, at, "a")
        with raises(LocationError, "or one lies in the other: nothing was removed"):
            await migrate(store, old, new, options=Options(delete_source=True), **files(tmp_path))
        fs: Any = (await store.filesystem("Old"))[0]
        assert [*fs.store] == [f"/{at.path}"]
