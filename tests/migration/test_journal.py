"""The journal: its lock, its keys, what it refuses, and that it holds nothing that could be guessed from."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from doubles import raises
from migrating import SOURCE, TARGET, account, config, files, once, outcomes_of, put, source, target
from msgspec.structs import replace
from running import PYTHON

from accountstore import AccountStore, ConfigError, JournalError, Location, PasswordCredentials, StorageConfig
from accountstore.backends.memory import MemoryBackend
from accountstore.client import StorageClient
from accountstore.codecs import CODECS, JSON
from accountstore.migration import Options, Place, migrate, plan, read_report, verify
from accountstore.migration.database import file_system
from accountstore.migration.identity import marks_of_storages
from accountstore.migration.journal import Journal
from accountstore.migration.marks import Marks, default_key_file
from accountstore.migration.records import Done
from accountstore.migration.work import Job
from accountstore.scope import Resolver
from accountstore.storage import Storage
from accountstore.storages import Storages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio

CANARY = "canary-8c41"
_ON_ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""The file is what it is on any."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AccountStore]:
    async with AccountStore.open(config(tmp_path)) as opened:
        for number in range(5):
            await put(opened, source(f"{number}.account"), "a")
        yield opened


async def test_a_second_run_at_the_same_time_is_refused(store: AccountStore, tmp_path: Path) -> None:
    """While a run has the journal, another one, a plan and a report are refused; when it has ended, they are not."""
    async with migrate(store, SOURCE, TARGET, **files(tmp_path)) as run:
        await anext(run)
        with raises(JournalError, "another run is using"):
            await once(store, tmp_path)
        with raises(JournalError, "another run is using"):
            await plan(store, SOURCE, TARGET, **files(tmp_path))
        with raises(JournalError, "another run is using"):
            await anyio.to_thread.run_sync(read_report, tmp_path / "journal")
        # Nor has one of these dropped the lock, which POSIX does where a process closes a file that it has locked.
        elsewhere = "import sys; from accountstore.migration import read_report; read_report(sys.argv[1])"
        done = await anyio.run_process([*PYTHON, "-c", elsewhere, str(tmp_path / "journal")], check=False)
        assert b"JournalError" in done.stderr.splitlines()[-1]
        assert b"another run is using" in done.stderr
    assert (await once(store, tmp_path)).ok
    assert (await anyio.to_thread.run_sync(read_report, tmp_path / "journal")).ok


async def test_its_files_are_private_and_its_key_is_elsewhere(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journal and key have mode 0600, whatever they had; the key lies in the user's data folder, not beside the journal
    nor in it. What its name means to SQLite is no matter.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    await migrate(store, SOURCE, TARGET, journal=folder / "journal")
    await anyio.to_thread.run_sync(_check_files, folder)
    for path in (folder / "journal", *(tmp_path / "data").rglob("*.key")):
        path.chmod(0o666)
    await migrate(store, SOURCE, TARGET, journal=folder / "journal")
    await anyio.to_thread.run_sync(_check_files, folder)
    monkeypatch.chdir(tmp_path)
    await migrate(store, SOURCE, TARGET, journal=":memory:", key_file=tmp_path / "key")
    assert (await anyio.to_thread.run_sync(read_report, ":memory:")).documents == 5


@_ON_ONE_LOOP
@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
async def test_no_link_is_followed(store: AccountStore, tmp_path: Path, suffix: str) -> None:
    """A symbolic link where SQLite would write is refused, and what it leads to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    (tmp_path / f"journal{suffix}").symlink_to(victim)
    with raises(JournalError, "a link, a folder or another user's file"):
        await once(store, tmp_path)
    assert victim.read_bytes() == b"precious" * 1000


def _check_files(folder: Path, /) -> None:
    journal = Journal.read(str(folder / "journal"))
    key = default_key_file(journal.about.id)
    journal.close()
    assert stat.S_IMODE((folder / "journal").stat().st_mode) == stat.S_IMODE(os.stat(key).st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["journal"]
    with open(key, "rb") as file:
        assert file.read() not in (folder / "journal").read_bytes()


async def test_it_holds_no_secret_and_no_digest(tmp_path: Path) -> None:
    """No byte of a secret, and no digest or version of a document at either end, is in the journal, in a line that is
    told, or in the report. Control: names and marks are there.
    """
    secret = replace(account("a"), credentials=PasswordCredentials(login=CANARY, password=CANARY))
    async with AccountStore.open(config(tmp_path)) as store:
        versions = [await store.save(source("x.account"), secret)]
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        await anext(run)
        held = b"".join(path.read_bytes() for path in tmp_path.glob("journal*"))
        lines = [repr(outcome) async for outcome in run] + [repr(run.report)]
        versions.append((await store.read(target("x.account"))).version)
    held += (tmp_path / "journal").read_bytes() + "".join(lines).encode()
    assert b"x.account" in held
    assert CANARY.encode() not in held
    for version in versions:
        token = version.token.partition(":")[2] or version.token
        assert token.encode() not in held
        assert bytes.fromhex(token) not in held
    for codec in CODECS.values():
        for name in ("md5", "sha1", "sha256", "blake2b"):
            digest = hashlib.new(name, codec.encode(secret))
            assert digest.hexdigest().encode() not in held
            assert digest.digest() not in held


@pytest.mark.parametrize("mark", [None, b"m"], ids=["told by another", "marked"])
def test_what_was_moved_stays_known(tmp_path: Path, mark: bytes | None) -> None:
    """However often it is then found to be gone at the source; what was moved may not have a mark of the target."""
    about = {"source": SOURCE, "target": TARGET, "shard": "1/1"}
    with closing(Journal.open(str(tmp_path / "journal"), about)) as journal:
        journal.begin_run({})
        journal.record([(Done("a.account", "moved", target=mark), None)])
        for _ in range(2):
            [row] = journal.rows("", 10)
            assert (row.moved, row.known, row.source, row.target) == (True, False, None, mark)
            journal.record([(Done("a.account", "gone"), row)])


async def test_without_its_key_it_is_refused(store: AccountStore, tmp_path: Path) -> None:
    """Marks that nobody can tell make no conflicts of all documents: the journal is refused, and says where it was."""
    await once(store, tmp_path)
    key = tmp_path / "key"
    moved = key.rename(tmp_path / "moved")
    with raises(JournalError, f"the key of its marks is missing, {key}"):
        await once(store, tmp_path)
    key.write_bytes(b"short")
    with raises(JournalError, "is no key"):
        await once(store, tmp_path)
    moved.rename(key)
    assert (await once(store, tmp_path)).totals.keys() == {"same"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"exclude": ("x*",)}, "exclude"),
        ({"verify": "none"}, "verify"),
        ({"on_conflict": "overwrite"}, "on_conflict"),
        ({"mirror_deletes": True}, "mirror_deletes"),
        ({"names": ("a.account",)}, "names"),
    ],
)
async def test_a_run_that_was_broken_off_goes_on_with_its_options(
    store: AccountStore, tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    """Other options than those of the run that did not end are refused by name; how fast it goes is no such option; and
    when a run has ended, the next one may have others.
    """
    kept = files(tmp_path)
    async with migrate(store, SOURCE, TARGET, **kept) as run:
        await anext(run)
    other = Options(**changed)  # type: ignore[arg-type]  # of the table
    with raises(JournalError, f"was begun with {named}"):
        await migrate(store, SOURCE, TARGET, options=other, **kept)
    assert (await once(store, tmp_path, concurrency=3, requests_per_second=1e9)).ok
    assert (await migrate(store, SOURCE, TARGET, options=other, **kept)).complete


async def test_it_is_of_one_migration(store: AccountStore, tmp_path: Path) -> None:
    """Another source, target or shard than the journal's is refused."""
    await once(store, tmp_path)
    for ends, shard in (((SOURCE, "New:other"), (1, 1)), (("Old:other", TARGET), (1, 1)), ((SOURCE, TARGET), (1, 2))):
        with raises(JournalError, r"was begun with .* \(this run has .*\): give the same"):
            await migrate(
                store, *ends,
                options=Options(shard=shard), **files(tmp_path),
            )  # fmt: skip


async def test_it_is_of_two_storages(store: AccountStore, tmp_path: Path) -> None:
    """Where the names mean other storages than when the journal was begun, or its marks have another key, a run and a
    plan are refused, and say what to do: else what is nowhere would be taken for removed.
    """
    await once(store, tmp_path)
    told = config(tmp_path)
    for end, name in (("source", "Old"), ("target", "New")):
        moved = {**told.storages, name: StorageConfig(f"{tmp_path}/moved", codec="msgpack")}
        async with AccountStore.open(replace(told, storages=moved)) as other:
            for call in (migrate, plan):
                with raises(JournalError, f"was begun with another {end}: url, options, .* or another journal"):
                    await call(other, SOURCE, TARGET, **files(tmp_path))
    options = {"file_mode": "0640"}
    same = {
        name: StorageConfig(f"{tmp_path}/x/../{name.lower()}", options, each.codec)
        for name, each in told.storages.items()
    }
    async with AccountStore.open(replace(told, storages=same)) as other:
        assert (await once(other, tmp_path)).totals.keys() == {"same"}
    (tmp_path / "key").write_bytes(b"k" * 32)
    with raises(JournalError, "is not the key of its marks"):
        await once(store, tmp_path)


@pytest.mark.parametrize(("end", "name", "codec"), [("source", "Old", "msgpack"), ("target", "New", "json")])
async def test_it_is_of_two_codecs(store: AccountStore, tmp_path: Path, end: str, name: str, codec: str) -> None:
    """Where an end has another codec than when the journal was begun, its documents do not open any more, whatever
    their versions: a run and a plan are refused, and say what has changed.
    """
    await once(store, tmp_path)
    told = config(tmp_path)
    other = {**told.storages, name: replace(told.storages[name], codec=codec)}
    async with AccountStore.open(replace(told, storages=other)) as changed:
        for call in (migrate, plan):
            with raises(JournalError, f"was begun with another {end}: .* codec or encryption id of the storage of"):
                await call(changed, SOURCE, TARGET, **files(tmp_path))


_S3 = {"endpoint_url": "https://s3.example", "client_kwargs": {"region_name": "r"}, "key": "k", "session": object()}
_AZURE = {"connection_string": "AccountName=a;AccountKey=b;BlobEndpoint=https://blob.example"}


@pytest.mark.parametrize(
    ("url", "options", "others", "same"),
    [
        ("s3://b/x", _S3, {**_S3, "key": "l", "secret": "m", "session": object()}, True),
        ("s3://b/x", _S3, {**_S3, "endpoint_url": "https://other.example"}, False),
        ("s3://b/x", _S3, {**_S3, "client_kwargs": {"region_name": "s"}}, False),
        ("abfs://c", _AZURE, {"connection_string": _AZURE["connection_string"].replace("=b", "=c")}, True),
        ("abfs://c", _AZURE, {"connection_string": _AZURE["connection_string"].replace("blob.", "blub.")}, False),
        ("sftp://h/x", {"username": "u", "password": "p"}, {"username": "u", "password": "q"}, True),
        ("sftp://h/x", {"username": "u"}, {"username": "v"}, False),
        ("sftp://h/x", {"timeout": 1}, {"timeout": 2}, True),
        ("s3://b/x", _S3, {**_S3, "config_kwargs": {"read_timeout": 9, "retries": {"max_attempts": 2}}}, True),
        ("/srv/\udcff", {}, {"file_mode": "0640"}, True),
        ("/srv/x", {}, {"file_mode": "0640"}, True),
    ],
)
def test_secrets_do_not_tell_storages_apart(url: str, options: Any, others: Any, same: bool) -> None:
    """A storage is the same with other credentials, which change while a migration goes on, and another one at another
    server. What is kept shows neither.
    """
    found = [_marks(url, each) for each in (options, others)]
    assert (found[0] == found[1]) is same
    assert found[0]["source_storage"] != found[0]["target_storage"]
    assert "example" not in repr(found)


def _marks(url: str, options: Any, /) -> dict[str, str]:
    client = StorageClient("S", MemoryBackend(), limit=1)
    resolver = Resolver(Storages({"S": Storage(client, JSON, 1, url, options)}, "S"))
    return marks_of_storages(resolver, Job("migrate", Place(), Place("f"), Options()), Marks(b"k" * 32))


@pytest.mark.parametrize(
    ("url", "options", "variable", "values", "same"),
    [
        ("s3://b/x", {}, "AWS_ENDPOINT_URL", ("https://a.example", "https://b.example"), False),
        ("s3://b/x", {}, "AWS_ENDPOINT_URL", ("https://u:p@a.example", "https://u:q@a.example"), True),
        ("s3://b/x", {}, "AWS_ACCESS_KEY_ID", ("a", "b"), True),
        ("s3://b/x", _S3, "AWS_ENDPOINT_URL", ("https://a.example", "https://b.example"), True),
        ("gs://b/x", {}, "STORAGE_EMULATOR_HOST", ("http://a.example", "http://b.example"), False),
        ("abfs://c", {}, "AZURE_STORAGE_ACCOUNT_NAME", ("a", "b"), False),
        ("abfs://c", _AZURE, "AZURE_STORAGE_ACCOUNT_NAME", ("a", "b"), True),
        ("abfs://c", {}, "AZURE_STORAGE_CONNECTION_STRING", ("AccountName=a;x=b", "AccountName=c;x=b"), False),
        ("abfs://c", {}, "AZURE_STORAGE_CONNECTION_STRING", ("AccountName=a;SasKey=b", "AccountName=a;SasKey=c"), True),
        ("/srv/x", {}, "AWS_ENDPOINT_URL", ("https://a.example", "https://b.example"), True),
    ],
)
def test_a_server_that_the_environment_names_tells_storages_apart(
    monkeypatch: pytest.MonkeyPatch, url: str, options: Any, variable: str, values: tuple[str, str], same: bool
) -> None:
    """Where no option names the server, and the environment does, another one is another storage."""
    found: list[dict[str, str]] = []
    for value in values:
        monkeypatch.setenv(variable, value)
        found.append(_marks(url, options))
    assert (found[0] == found[1]) is same


DAMAGE: Mapping[str, str] = {
    "a table is gone": "drop table runs",
    "totals": "update runs set totals = 'x'",
    "options": "update runs set options = '[]', ended = null",
    "its source": "delete from about where key = 'source'",
    "its shard": "update about set value = 'x' where key = 'shard'",
    "a place": "update about set value = 'a:b:c' where key = 'source'",
    "its id": "delete from about where key = 'id'",
    "marks": "update documents set source = 'x', target = 1.5",
    "a name": "insert into documents (name, target, outcome) values (x'ff00', x'00', 'copied')",
    "an outcome": "update documents set outcome = x'ff'",
    "its last run": "update runs set number = 9223372036854775807",
    "a time": "update documents set source_time = 9e999, outcome = 'failed'",
    "the name of a table": "create table runz (x)",
    "its pages": "",
}


@_ON_ONE_LOOP
@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_journal_is_refused(store: AccountStore, tmp_path: Path, damage: str) -> None:
    """Whatever is wrong in it, a run and a report raise a JournalError that names the file, and nothing else."""
    await once(store, tmp_path)
    path = tmp_path / "journal"
    if DAMAGE[damage]:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(DAMAGE[damage])
    data = path.read_bytes()
    if "runz" in DAMAGE[damage]:
        path.write_bytes(data.replace(b"runz", b"r\xee\xb7z"))
    elif not DAMAGE[damage]:
        path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    refused: list[str] = []
    for call in (partial(anyio.to_thread.run_sync, partial(read_report, path)), partial(once, store, tmp_path)):
        try:
            await call()
        except JournalError as error:
            refused.append(str(error))
    assert all(str(path) in message for message in refused)
    assert refused


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def _too_full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize(
    ("at", "fails"),
    [("marks.os.fsync", _full), ("database._take", _too_full), ("journal._SCHEMA", ("create",))],
)
async def test_a_disk_that_is_full_leaves_nothing(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, fails: Any
) -> None:
    """Neither an empty key nor an empty journal stays, which later runs would refuse: with room again, they begin."""
    with monkeypatch.context() as patched:
        patched.setattr(f"accountstore.migration.{at}", fails)
        with raises(JournalError):
            await once(store, tmp_path)
    assert not {"journal", "key"} & {path.name for path in tmp_path.iterdir()}
    assert (await once(store, tmp_path)).ok


async def test_a_file_of_another_program_is_left(store: AccountStore, tmp_path: Path) -> None:
    """An SQLite file of another program is no journal, and nothing is written to it."""
    path = tmp_path / "journal"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table theirs (x)")
    before = path.read_bytes()
    with raises(JournalError, "is no journal"):
        await once(store, tmp_path)
    assert path.read_bytes() == before


async def test_what_is_no_journal_is_refused(store: AccountStore, tmp_path: Path) -> None:
    """A file that is no journal is refused and left as it is; so is a folder that is not there."""
    (tmp_path / "journal").write_bytes(b"something else\n" * 100)
    with raises(JournalError, "is no journal"):
        await once(store, tmp_path)
    assert (tmp_path / "journal").read_bytes() == b"something else\n" * 100
    with raises(JournalError, "cannot be opened"):
        await migrate(store, SOURCE, TARGET, journal=tmp_path / "no" / "journal")
    with raises(JournalError, "there is no journal"):
        await anyio.to_thread.run_sync(read_report, tmp_path / "nothing")


@pytest.mark.parametrize("place", ["old/mail", "old/mail/team", "new/post/all"])
async def test_a_journal_among_the_documents_is_refused(store: AccountStore, tmp_path: Path, place: str) -> None:
    """It is neither to be listed nor to be moved with them; above the two folders it may be."""
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for call in (plan, migrate):
        with raises(ConfigError, "the journal is in (Old:mail|New:post/all)"):
            await call(store, SOURCE, TARGET, journal=folder / "journal", key_file=tmp_path / "key")
    assert not (folder / "journal").exists()
    assert (await migrate(store, SOURCE, TARGET, journal=tmp_path / "old" / "journal", key_file=tmp_path / "key")).ok


@pytest.mark.parametrize("contents", [b"", b"notes", b"k" * 32], ids=["empty", "text", "as long as a key"])
async def test_files_of_others_are_left_as_they_are(store: AccountStore, tmp_path: Path, contents: bytes) -> None:
    """Neither a report, a plan and a verification nor a run with the wrong key changes a file that is no journal, or no
    key of this one: neither its mode nor a byte of it.
    """
    await once(store, tmp_path)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(contents)
    theirs.chmod(0o664)
    with raises(JournalError, "theirs: is no journal"):
        await anyio.to_thread.run_sync(read_report, theirs)
    for call in (plan, verify):
        with suppress(JournalError):  # an empty one is none yet
            await call(store, SOURCE, TARGET, journal=theirs, key_file=tmp_path / "key")
        with raises(JournalError, "theirs(:| is)"):
            await call(store, SOURCE, TARGET, journal=tmp_path / "journal", key_file=theirs)
    with raises(JournalError, "theirs(:| is)"):
        await migrate(store, SOURCE, TARGET, journal=tmp_path / "journal", key_file=theirs)
    assert (theirs.read_bytes(), stat.S_IMODE(theirs.stat().st_mode)) == (contents, 0o664)


async def test_a_journal_on_a_read_only_medium_is_read(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report, a plan and a verification read it, and write nothing; a run says what is the matter, and so do all
    where a run that was broken off has left its log beside it.
    """
    await once(store, tmp_path)
    before = (tmp_path / "journal").read_bytes()
    monkeypatch.setattr("accountstore.migration.database.os.statvfs", Mock(return_value=Mock(f_flag=os.ST_RDONLY)))
    assert (await anyio.to_thread.run_sync(read_report, tmp_path / "journal")).documents == 5
    for call in (plan, verify):
        assert {*(await call(store, SOURCE, TARGET, **files(tmp_path))).totals} == {"same"}
    with raises(JournalError, "the file system is read-only"):
        await once(store, tmp_path)
    assert [*tmp_path.glob("journal*")] == [tmp_path / "journal"]
    assert (tmp_path / "journal").read_bytes() == before
    (tmp_path / "journal-wal").touch()
    with raises(JournalError, "the file system is read-only"):
        await anyio.to_thread.run_sync(read_report, tmp_path / "journal")


def test_the_file_system_is_told(tmp_path: Path) -> None:
    """The kind of file system that a folder is on is that of the innermost mount."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /home rw shared:1 - nfs4 server:/home rw\n"
        "3 2 0:6 / /home/me/the\\040disk rw - ext4 /dev/sdb rw\n"
    )
    assert file_system("/home/me", str(mounts)) == "nfs4"
    assert file_system("/homeless", str(mounts)) == "ext4"
    assert file_system("/home/me/the disk/x", str(mounts)) == "ext4"
    assert file_system("/home", str(tmp_path / "nothing")) == ""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
async def test_a_network_file_system_is_refused(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SQLite's locks do not hold there: the journal is refused, with the kind, and not made."""

    def told(folder: str, /) -> str:
        return kind if str(tmp_path) == folder else ""

    monkeypatch.setattr("accountstore.migration.database.file_system", told)
    with raises(JournalError, f"network file system \\({kind}\\)"):
        await once(store, tmp_path)
    assert not (tmp_path / "journal").exists()


async def test_shards_are_parts_whose_reports_are_one(store: AccountStore, tmp_path: Path) -> None:
    """Each document is in one shard; the report of all journals has them all, and is not complete before they are."""
    told: dict[str, str] = {}
    journals = [tmp_path / f"journal{part}" for part in (1, 2, 3)]
    for part, journal in enumerate(journals, 1):
        if part == 3:
            async with migrate(store, SOURCE, TARGET, journal=journal, options=Options(shard=(3, 3))) as broken:
                await anext(broken, None)
            assert not (await anyio.to_thread.run_sync(read_report, *journals)).complete
        outcomes = await outcomes_of(migrate(store, SOURCE, TARGET, journal=journal, options=Options(shard=(part, 3))))
        assert not told.keys() & outcomes.keys()
        told |= outcomes
    assert len(told) == 5
    report = await anyio.to_thread.run_sync(read_report, *journals)
    assert report.ok
    assert report.documents == 5
    alone = await anyio.to_thread.run_sync(read_report, journals[1])
    assert (alone.complete, alone.absent, alone.exit_code) == (False, (1, 3), 1)
    with raises(JournalError, "is of shard 2/3, as .* is: give each once"):
        await anyio.to_thread.run_sync(read_report, journals[1], journals[1])


@_ON_ONE_LOOP
@pytest.mark.parametrize(
    ("ends", "options", "named"),
    [
        ((SOURCE, "New:other"), {}, "target"),
        (("Old:other", TARGET), {}, "source"),
        ((SOURCE, TARGET), {"shard": (2, 3)}, "number of shards"),
        ((SOURCE, TARGET), {"shard": (2, 2), "include": ("1*",)}, "include"),
    ],
)
async def test_other_migrations_are_not_merged(
    store: AccountStore, tmp_path: Path, ends: tuple[str, str], options: dict[str, Any], named: str
) -> None:
    """Journals that are not of one migration have no common report: the message says in what they differ."""
    await once(store, tmp_path, shard=(1, 2))
    await put(store, Location("x.account", folder="other"), "a")
    other = tmp_path / "other"
    given: dict[str, Any] = {"shard": (2, 2), **options}
    await migrate(store, *ends, journal=other, options=Options(**given))
    with raises(JournalError, f"{other}: is of another migration than .*, with {named} "):
        await anyio.to_thread.run_sync(read_report, tmp_path / "journal", other)
