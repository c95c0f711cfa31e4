"""Migrations between plain and sealed storages, and from key to key: equal documents, and nothing plain left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

pytest.importorskip("cryptography")

from doubles import drained, raises
from migrating import SOURCE, TARGET, account, files, found, once, outcomes_of, put, source, target
from msgspec.structs import replace
from samples import RICH
from sealed import sealed_over, sealer, static, write_keys

from accountstore import (
    AccountStore,
    Copied,
    Encryption,
    JournalError,
    KeyDeniedError,
    Location,
    MissingKeyError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import is_sealed
from accountstore.migration import Options, migrate, plan, verify

if TYPE_CHECKING:
    from pathlib import Path

    from accountstore.backends.base import Version

pytestmark = pytest.mark.anyio

NAMES = [f"f{number % 3}/{number:03}.account" for number in range(40)]
CANARY = "canary-5d90"
ENDS = [("plain", "old"), ("old", "new"), ("new", "plain"), ("old", "old")]


def config(folder: Path, old: str, new: str, /) -> StoreConfig:
    """Two folders, JSON and MessagePack, each plain or sealed by a key of that name, and by no other."""
    sealing = {
        end: None if key == "plain" else Encryption(keys=write_keys(folder / f"{end}.jwks", key), required=True)
        for end, key in (("Old", old), ("New", new))
    }
    storages = {
        "Old": StorageConfig(f"{folder}/old", encryption=sealing["Old"]),
        "New": StorageConfig(f"{folder}/new", codec="msgpack", encryption=sealing["New"]),
    }
    return StoreConfig(storages=storages, default="Old")


async def fill(store: AccountStore, /) -> None:
    secret = replace(account("a"), credentials=PasswordCredentials(login=CANARY, password=CANARY))
    async for _, result in store.save_many((source(name), secret) for name in NAMES[1:]):
        assert not isinstance(result, Exception)
    await store.save_json(source(NAMES[0]), RICH)


@pytest.mark.parametrize("end", ["Old", "New"])
async def test_a_journal_keeps_to_the_encryption_id(tmp_path: Path, end: str) -> None:
    """Documents do not open under another id, nor where a storage is sealed that was plain: a run on the journal is
    refused, and says so. Where a key is new, it goes on.
    """
    told = config(tmp_path, "old", "new")
    seals = told.storages[end].encryption
    assert seals is not None

    def over(encryption: Encryption | None, /) -> StoreConfig:
        return replace(told, storages={**told.storages, end: replace(told.storages[end], encryption=encryption)})

    async with AccountStore.open(told) as store:
        await put(store, source("a.account"), "a")
        await once(store, tmp_path)
    for other in (replace(seals, id="other"), None):
        async with AccountStore.open(over(other)) as store:
            for call in (migrate, plan):
                with raises(JournalError, "codec or encryption id of the storage of"):
                    await call(store, SOURCE, TARGET, **files(tmp_path))
    keys = [write_keys(tmp_path / "next.jwks", "new" if end == "Old" else "old"), *seals.sources()]
    async with AccountStore.open(over(replace(seals, keys=keys))) as store:
        assert (await once(store, tmp_path)).totals.keys() == {"same"}


def held(folder: Path, /) -> list[bytes]:
    """What the files of a storage hold."""
    return [path.read_bytes() for path in folder.rglob("*.account")]


@pytest.mark.parametrize("how", ["read", *(pytest.param(how, marks=pytest.mark.once) for how in ("write", "none"))])
@pytest.mark.parametrize(("old", "new"), ENDS)
async def test_documents_are_sealed_anew(tmp_path: Path, old: str, new: str, how: Any) -> None:
    """Whatever seals either end, the documents are equal, unknown fields included, each sealed by the target's key for
    its place there; the next pass and a verification find nothing; and only a plain end holds anything plain.
    """
    async with AccountStore.open(config(tmp_path, old, new)) as store:
        await fill(store)
        kept = files(tmp_path)
        options = Options(verify=how)
        foretold = await outcomes_of(plan(store, SOURCE, TARGET, options=options))
        run = migrate(store, SOURCE, TARGET, options=options, **kept)
        assert await outcomes_of(run) == foretold == dict.fromkeys(NAMES, "copied")
        for name in NAMES:
            ends = [(await store.read_json(at)).document for at in (source(name), target(name))]
            assert json.loads(ends[0]) == json.loads(ends[1])
        assert (await once(store, tmp_path, verify=how)).totals.keys() == {"same"}
        assert (await verify(store, SOURCE, TARGET)).totals.keys() == {"same"}
    for key, end in ((old, "old"), (new, "new")):
        data = held(tmp_path / end)
        assert len(data) == len(NAMES)
        assert all(is_sealed(one) == (key != "plain") for one in data)
        assert (CANARY.encode() in b"".join(data)) == (key == "plain")
        if key != "plain":
            assert {json.loads(one)["recipients"][0]["header"]["kid"] for one in data} == {key}


async def test_journal_and_report_hold_no_version(tmp_path: Path) -> None:
    """No secret, no version of either end and no digest of what was sealed is in the journal, a line or the report.
    Control: a version is found where it is.
    """
    async with AccountStore.open(config(tmp_path, "old", "new")) as store:
        await fill(store)
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        await anext(run)
        told = b"".join(path.read_bytes() for path in tmp_path.glob("journal*"))
        lines = [repr(outcome) async for outcome in run] + [repr(run.report)]
        versions = [(await store.read(at(name))).version for name in NAMES for at in (source, target)]
    told += (tmp_path / "journal").read_bytes() + "".join(lines).encode()
    assert NAMES[5].encode() in told
    assert CANARY.encode() not in told
    assert not any(_shows(told, version) for version in versions)
    assert _shows(told + versions[0].token.encode(), versions[0])


def _shows(told: bytes, version: Version, /) -> bool:
    token = version.token.partition(":")[2] or version.token
    return token.encode() in told or bytes.fromhex(token) in told


@pytest.mark.once
@pytest.mark.parametrize(("old", "new"), ENDS)
async def test_other_processes_seal_as_well(tmp_path: Path, old: str, new: str) -> None:
    """Processes that do the work read the keys by themselves."""
    told = config(tmp_path, old, new)
    async with AccountStore.open(told) as store:
        await fill(store)
        report = await migrate(store, SOURCE, TARGET, processes=2, config=told, **files(tmp_path))
        assert (report.ok, report.documents) == (True, len(NAMES))
        assert (await verify(store, SOURCE, TARGET)).totals.keys() == {"same"}
    assert all(is_sealed(one) == (new != "plain") for one in held(tmp_path / "new"))


async def test_what_does_not_open_is_refused_by_name(tmp_path: Path) -> None:
    """Documents that were changed, swapped, cut off, or that are plain where that is not allowed are refused by name,
    many of them too, and the rest is copied; one that does not open at the target is a conflict, and stays.
    """
    async with AccountStore.open(config(tmp_path, "old", "new")) as store:
        await fill(store)
        await put(store, target(NAMES[30]), "a")
    root = tmp_path / "old" / "mail"
    broken = NAMES[1:30]
    for number, name in enumerate(broken):
        path = anyio.Path(root / name)
        data = await path.read_bytes()
        changed = [data[:-40], b'{"host": "h"}', data.replace(b'"ciphertext":"', b'"ciphertext":"AAAA')]
        await path.write_bytes(changed[number % 3] if number else await anyio.Path(root / NAMES[31]).read_bytes())
    there = anyio.Path(tmp_path, "new", "post", "all", NAMES[30])
    await there.write_bytes((await there.read_bytes())[:-40])
    async with AccountStore.open(config(tmp_path, "old", "new")) as store:
        told = await outcomes_of(migrate(store, SOURCE, TARGET, **files(tmp_path)))
    wanted = dict.fromkeys(NAMES, "copied") | dict.fromkeys(broken, "refused") | {NAMES[30]: "conflict"}
    assert told == wanted


async def test_a_missing_key_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key of so many documents in a row nothing is copied, and the run stops with its error."""
    monkeypatch.setattr("accountstore.migration.failures._IN_A_ROW", len(NAMES))
    async with AccountStore.open(config(tmp_path, "old", "old")) as store:
        await fill(store)
    async with AccountStore.open(config(tmp_path, "new", "old")) as store:
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        with raises(MissingKeyError, "it goes on where it was"):
            await run
        assert not run.report.complete
    assert not held(tmp_path / "new")


class WrapsOnly:
    """A key service that seals, and may not open."""

    def __init__(self) -> None:
        self._keys = static("new")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keys, name)

    async def unwrap(self, *arguments: Any) -> Any:
        raise KeyDeniedError("may not")


@pytest.mark.parametrize(("how", "kept"), [("read", True), ("none", False)], ids=["read back", "control: not read"])
async def test_what_is_read_back_has_to_open(tmp_path: Path, how: Any, kept: bool) -> None:
    """A copy that nobody will be able to open is not verified: it is an error, and the source is not removed. Control:
    unread, it counts as copied.
    """
    ends = {"Old": MemoryBackend(), "New": MemoryBackend()}
    wraps_only: Any = WrapsOnly()
    sealers = {"Old": sealer(static("old")), "New": sealer(wraps_only)}
    async with sealed_over(ends, sealers) as store:
        await put(store, source("x.account"), "a")
        if kept:
            report = await once(store, tmp_path, verify=how, delete_source=True)
            assert report.totals.keys() == {"failed"}
            assert await found(store, source("x.account")) == "a"
        [(_, result)] = await drained(store.copy_many([(source("x.account"), target("y.account"))], verify=how))
        assert isinstance(result, KeyDeniedError if kept else Copied)


class Counting(MemoryBackend):
    """Counts the requests that are under way on all of its kind."""

    def __init__(self, counts: list[int], /) -> None:
        super().__init__()
        self._counts = counts

    async def write(self, key: str, data: bytes, /, **how: Any) -> Any:
        self._counts.append((self._counts or [0])[-1] + 1)
        await anyio.sleep(0.001)
        self._counts.append(self._counts[-1] - 1)
        return await super().write(key, data, **how)


class Service(WrapsOnly):
    """A key service, and how often it was asked to wrap."""

    remote = True
    asked = 0

    async def wrap(self, *arguments: Any) -> Any:
        self.asked += 1
        return await self._keys.wrap(*arguments)


async def test_a_key_service_is_asked_once_a_window_and_storages_share_the_requests() -> None:
    """Copies to two sealed storages in one window: each asks its key service once for all of its documents, and no more
    requests are under way than were asked for.
    """
    counts: list[int] = []
    services: list[Any] = [Service(), Service()]
    ends = {"Old": MemoryBackend(), "New": Counting(counts), "Newer": Counting(counts), "Plain": Counting(counts)}
    sealers = {"New": sealer(services[0]), "Newer": sealer(services[1])}
    async with sealed_over(ends, sealers) as store:
        pairs: list[tuple[Location, Location]] = []
        for number in range(30):
            at = source(f"{number}.account")
            await store.save(at, account("a"))
            pairs.append((at, replace(at, storage=("New", "Newer", "Plain")[number % 3])))
        results = await drained(store.copy_many(pairs, concurrency=4))
        assert all(isinstance(result, Copied) for _, result in results)
        assert [service.asked for service in services] == [1, 1]
        assert max(counts) == 4
