"""A migration in several processes: the same outcomes, whatever dies, and nothing of it left behind."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from anyio import to_thread
from cloudtargets import on_asyncio
from doubles import raises
from migrating import SOURCE, TARGET, account, config, files, found, once, put, source, target
from running import HUNG

from accountstore import (
    AccountStore,
    ConfigError,
    JournalError,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    UnsupportedError,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.migration import Options, migrate, processes
from accountstore.migration.processes import Processes
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.once]

NAMES = [f"f{number % 3}/{number:03}.account" for number in range(60)]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accountstore.migration.processes.MOST", 7)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AccountStore]:
    async with AccountStore.open(config(tmp_path)) as opened:
        for name in NAMES:
            await put(opened, source(name), "a")
        yield opened


def names_at(folder: Path, /) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.account")}


async def test_processes_do_the_same(store: AccountStore, tmp_path: Path) -> None:
    """Two processes copy everything once, with the configuration that they are given, and end with the run."""
    await put(store, target(NAMES[3]), "other")
    run = migrate(store, SOURCE, TARGET, processes=2, config=config(tmp_path), **files(tmp_path))
    told = {outcome.name: outcome.outcome async for outcome in run}
    assert told == dict.fromkeys(NAMES, "copied") | {NAMES[3]: "conflict"}
    assert run.report.exit_code == 3
    assert names_at(tmp_path / "new" / "post" / "all") == {*NAMES}
    assert not children()
    again = await migrate(store, SOURCE, TARGET, processes=2, config=config(tmp_path), **files(tmp_path))
    assert {word: total.documents for word, total in again.totals.items()} == {"same": 59, "conflict": 1}


@on_asyncio
async def test_processes_open_what_the_store_was_opened_from(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `config=`, whatever configuration is found where they run. With one that has other storages, and of a
    store that has none, the run is refused, and nothing is copied.
    """
    other = tmp_path / "other.toml"
    await anyio.Path(other).write_text('default = "Old"\n[storages.Old]\nurl = "o1"\n[storages.New]\nurl = "o2"\n')
    monkeypatch.setenv("ACCOUNTSTORE_CONFIG", str(other))
    with raises(ConfigError, "the storage of 'Old:mail' is another one where the work is done"):
        await migrate(store, SOURCE, TARGET, processes=2, config=other, **files(tmp_path))
    async with store_over({"Old": MemoryBackend(), "New": MemoryBackend()}) as made:
        await put(made, source(NAMES[0]), "a")
        with raises(UnsupportedError, "was made of backends"):
            await migrate(made, SOURCE, TARGET, processes=2, journal=tmp_path / "made", key_file=tmp_path / "key")
    memory = {"Old": StorageConfig(f"{tmp_path}/old"), "New": StorageConfig("memory://")}
    async with AccountStore.open(StoreConfig(storages=memory, default="Old")) as lost:
        with raises(UnsupportedError, "'New' is in the memory of this process"):
            await migrate(lost, SOURCE, TARGET, processes=2, journal=tmp_path / "lost", key_file=tmp_path / "key")
    assert not (tmp_path / "new" / "post").exists()
    assert (await migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path))).ok
    assert names_at(tmp_path / "new" / "post" / "all") == {*NAMES}
    assert not children()


def children() -> list[int]:
    """The processes that this one has started and that live."""
    listed = (path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for pids in listed for pid in pids.split() if _is_worker(int(pid))]


def _is_worker(pid: int, /) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            return b"accountstore.migration.processes" in line.read()
    except OSError:
        return False


async def test_a_process_that_dies_is_replaced(store: AccountStore, tmp_path: Path) -> None:
    """What a killed process had is done by another: nothing is missing, and nothing is told twice."""
    run = migrate(store, SOURCE, TARGET, processes=2, config=config(tmp_path), **files(tmp_path))
    told: list[str] = []
    async for outcome in run:
        told.append(outcome.name)
        if len(told) in {1, 20}:
            os.kill(children()[0], signal.SIGKILL)
    assert sorted(told) == sorted(NAMES)
    assert run.report.ok
    assert names_at(tmp_path / "new" / "post" / "all") == {*NAMES}


@on_asyncio
async def test_a_document_that_kills_its_process_is_named(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose process dies each time is done again, then in halves: the one document is told, the rest copied."""
    program = tmp_path / "poisoned.py"
    await anyio.Path(program).write_text(
        "import os\n"
        "from accountstore.migration import processes\n"
        "work = processes.Worker.work\n"
        "async def poisoned(self, items):\n"
        f"    if any(item.name == {NAMES[11]!r} for item in items):\n"
        "        os._exit(9)\n"
        "    return await work(self, items)\n"
        "processes.Worker.work = poisoned\n"
        "processes.main()\n"
    )
    monkeypatch.setattr("accountstore.migration.processes._COMMAND", (str(program),))
    run = migrate(store, SOURCE, TARGET, processes=2, config=config(tmp_path), **files(tmp_path))
    told = {outcome.name: outcome.outcome async for outcome in run}
    assert told == dict.fromkeys(NAMES, "copied") | {NAMES[11]: "failed"}
    assert run.report.exit_code == 1
    assert await found(store, target(NAMES[11])) is None


@on_asyncio
async def test_what_a_process_moved_before_it_died_is_told_as_moved(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process that dies had removed at the source is told as moved, as the rest. Control: what is at the target
    alone, and was not at the source, is foreign.
    """
    await put(store, target("other.account"), "a")
    program = tmp_path / "dying.py"
    await anyio.Path(program).write_text(
        "import os\n"
        "from accountstore.migration import processes\n"
        "remove = processes.Worker._remove_source\n"
        "async def dying(self, case, version):\n"
        "    await remove(self, case, version)\n"
        f"    if case.item.name == {NAMES[11]!r}:\n"
        "        os._exit(9)\n"
        "processes.Worker._remove_source = dying\n"
        "processes.main()\n"
    )
    monkeypatch.setattr("accountstore.migration.processes._COMMAND", (str(program),))
    options = Options(delete_source=True)
    run = migrate(store, SOURCE, TARGET, processes=2, options=options, **files(tmp_path))
    told = {outcome.name: outcome.outcome async for outcome in run}
    assert told == dict.fromkeys(NAMES, "moved") | {"other.account": "foreign"}
    assert run.report.ok
    assert not names_at(tmp_path / "old")


HARMING = """
import os
from pathlib import Path
from accountstore.migration import processes
work = processes.Worker.work
folder, harm = Path({folder!r}), {harm!r}
async def harming(self, items):
    done = await work(self, items)
    if items[0].name == {name!r}:
        if harm == "unseen":
            (folder / "new" / "post" / "all" / {name!r}).rename(folder / "away")
        elif harm == "dies each time" or not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(9)
    return done
processes.Worker.work = harming
processes.main()
"""


@on_asyncio
@pytest.mark.parametrize(
    ("harm", "outcome"), [("dies once", "gone"), ("dies each time", "failed"), ("unseen", "failed")]
)
async def test_what_may_have_been_moved_by_another_process_keeps_its_only_copy(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, outcome: str
) -> None:
    """A document that was copied before, and is removed at the source by a process that dies then, or whose copy cannot
    be seen from here for a moment, is told as such, and `mirror_deletes` is refused afterwards.
    """
    await once(store, tmp_path)
    for end in (source, target):
        await put(store, end(NAMES[0]), f"of {end(NAMES[0]).storage}")  # a conflict, so that the source is not empty
    program = tmp_path / "harming.py"
    await anyio.Path(program).write_text(HARMING.format(folder=str(tmp_path), harm=harm, name=NAMES[11]))
    monkeypatch.setattr("accountstore.migration.processes._COMMAND", (str(program),))
    monkeypatch.setattr("accountstore.migration.processes.MOST", 1)
    run = migrate(store, SOURCE, TARGET, processes=2, options=Options(delete_source=True), **files(tmp_path))
    told = {outcome.name: outcome.outcome async for outcome in run}
    assert told == dict.fromkeys(NAMES, "moved") | {NAMES[0]: "conflict", NAMES[11]: outcome}
    if harm == "unseen":
        (tmp_path / "away").rename(tmp_path / "new" / "post" / "all" / NAMES[11])
    with pytest.raises(JournalError, match="mirror_deletes"):
        await once(store, tmp_path, mirror_deletes=True)
    assert names_at(tmp_path / "new" / "post" / "all") == {*NAMES}


@on_asyncio
async def test_what_others_print_and_read_in_a_process_is_no_reply(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word on standard output, of a package that is loaded or used in the process, is no length of a reply for which
    the run waits; and who reads standard input there takes no batch.
    """
    program = tmp_path / "talkative.py"
    await anyio.Path(program).write_text(
        "print('this package is deprecated', flush=True)\n"
        "import os, sys\n"
        "from accountstore.migration import processes\n"
        "work = processes.Worker.work\n"
        "async def talkative(self, items):\n"
        "    print('a word', os.read(0, 1), flush=True)\n"
        "    os.write(1, b'another')\n"
        "    return await work(self, items)\n"
        "processes.Worker.work = talkative\n"
        "processes.main()\n"
    )
    monkeypatch.setattr("accountstore.migration.processes._COMMAND", (str(program),))
    with anyio.fail_after(HUNG):
        report = await migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path))
    assert (report.ok, report.documents) == (True, len(NAMES))


@on_asyncio
async def test_a_module_of_the_current_folder_is_not_loaded(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process does not look for modules in the current folder, as the command does not, its processes do not
    either. Control: they do, where this one does.
    """
    await anyio.Path(tmp_path / "queue.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    elsewhere = [folder for folder in sys.path if folder]
    for path, outcome in (elsewhere, "copied"), ([*elsewhere, str(tmp_path)], "failed"):
        monkeypatch.setattr(sys, "path", path)
        run = migrate(store, SOURCE, TARGET, processes=2, options=Options(names=(NAMES[0],)), **files(tmp_path))
        assert [each.outcome async for each in run] == [outcome]
        await store.save(source(NAMES[0]), account("b"))


async def test_a_cancelled_run_goes_on(store: AccountStore, tmp_path: Path) -> None:
    """A step that is cancelled loses no batch; when the run is left, its processes end."""
    told: list[str] = []
    async with migrate(store, SOURCE, TARGET, processes=2, config=config(tmp_path), **files(tmp_path)) as run:
        for seconds in (0.0, 0.3, 0.6):
            with anyio.move_on_after(seconds):
                async for outcome in run:
                    told.append(outcome.name)  # noqa: PERF401 -- what was told before the cancellation counts
        assert len(told) < len(NAMES) or run.report.complete
        told += [outcome.name async for outcome in run]
    assert sorted(told) == sorted(NAMES)
    assert not children()


async def test_a_cancellation_that_comes_with_a_reply(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is kept for the next step, which neither waits for it once more nor does its batch again."""
    receive = vars(processes)["_receive"]

    async def cancelling(child: Any, replies: Any, inner: Any) -> None:
        await receive(child, replies, inner)
        scope.cancel()

    monkeypatch.setattr(processes, "_receive", cancelling)
    async with migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path)) as run:
        with anyio.CancelScope() as scope:
            await anext(run)
        assert scope.cancelled_caught
        monkeypatch.undo()
        with anyio.fail_after(HUNG):
            told = [outcome async for outcome in run]
    assert sorted((each.name, each.outcome) for each in told) == [(name, "copied") for name in sorted(NAMES)]


@on_asyncio
async def test_a_process_that_a_cancellation_ends_blames_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was cancelled while it was sent ends its process, and is done by another, however often."""
    child = vars(processes)["_Child"]
    send = child.send

    async def hanging(self: Any, frame: bytes) -> None:
        await send(self, frame)
        if self.given and scope is not None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(child, "send", hanging)
    async with AccountStore.open(config(tmp_path)) as store:
        await put(store, source("x.account"), "a")
        async with migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path)) as run:
            for _ in range(3):
                with anyio.CancelScope() as scope:
                    await anext(run)
                assert scope.cancelled_caught
            scope = None  # type: ignore[assignment]  # no more
            assert [outcome.outcome async for outcome in run] == ["copied"]


@on_asyncio
async def test_a_run_that_is_dropped_ends_its_processes(
    store: AccountStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At once and without a word, also where the loop is left without `async with`: nobody records what they do."""
    run = migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path))
    await anext(run)
    assert len(children()) == 2
    del run
    gc.collect()
    with anyio.fail_after(HUNG):
        while children():
            await anyio.sleep(0.01)
    assert capfd.readouterr().err == ""
    assert (await once(store, tmp_path)).ok


@on_asyncio
@pytest.mark.parametrize("torn", [b"", b"\0", b"\0\0\1\0a"])
async def test_a_process_whose_run_was_killed_begins_no_other_batch(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    """At the end of its input, wherever in a message that is, it drops what it has, and ends without a word, also where
    it cannot tell what it did.
    """
    sent: list[bytes] = []
    child = vars(processes)["_Child"]
    send = child.send

    async def keep(self: Any, frame: bytes) -> None:
        sent.append(len(frame).to_bytes(4, "big") + frame)
        await send(self, frame)

    first, second = (sorted(NAMES[:14])[part] for part in (slice(7), slice(7, 14)))
    options = Options(names=(*first, *second))
    with monkeypatch.context() as patched:
        patched.setattr(child, "send", keep)
        assert (await migrate(store, SOURCE, TARGET, processes=2, options=options, **files(tmp_path))).ok
    await to_thread.run_sync(shutil.rmtree, tmp_path / "new")
    setup = sent[0]
    batches = sorted({*sent} - {setup}, key=lambda frame: second[0].encode() in frame)
    command = await to_thread.run_sync(vars(processes)["_command"])
    out, gone = os.pipe()
    os.close(out)
    for stdout in (subprocess.DEVNULL, gone):
        done = await anyio.run_process(command, input=b"".join([setup, *batches, torn]), stdout=stdout, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    os.close(gone)
    assert not names_at(tmp_path / "new" / "post" / "all") & {*second}


@on_asyncio
async def test_a_configuration_that_they_cannot_open_is_told(store: AccountStore, tmp_path: Path) -> None:
    """What is wrong with the configuration where they run is the run's error; what cannot travel is refused before."""
    with raises(ConfigError, "nowhere.toml"):
        await migrate(store, SOURCE, TARGET, processes=2, config=tmp_path / "nowhere.toml", **files(tmp_path))
    odd = StoreConfig(storages={"Old": StorageConfig("memory://", options={"x": object()})})
    with raises(UnsupportedError, "give the path"):
        await migrate(store, SOURCE, TARGET, processes=2, config=odd, **files(tmp_path))
    with pytest.raises(ValueError, match="processes"):
        migrate(store, SOURCE, TARGET, processes=0, **files(tmp_path))
    assert not children()


@on_asyncio
async def test_a_system_without_processes_ends_the_run(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of the library's, and lets go of the journal."""
    with monkeypatch.context() as patched:
        patched.setattr(anyio, "open_process", Mock(side_effect=BlockingIOError(errno.EAGAIN, "no more processes")))
        with raises(UnavailableError, "no more processes"):
            await migrate(store, SOURCE, TARGET, processes=2, **files(tmp_path))
    assert (await once(store, tmp_path)).ok


@on_asyncio
async def test_they_share_what_was_asked_for(
    store: AccountStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrency and requests a second are those of all processes together."""
    shares: list[Any] = []
    init = Processes.__init__

    def keep(self: Processes, *arguments: Any) -> None:
        from msgspec import msgpack

        init(self, *arguments)
        shares.append(msgpack.decode(vars(self)["_setup"])["job"]["options"])

    monkeypatch.setattr(Processes, "__init__", keep)
    options = Options(concurrency=10, requests_per_second=1e6)
    assert (
        await migrate(store, SOURCE, TARGET, processes=2, options=options, config=config(tmp_path), **files(tmp_path))
    ).ok
    assert [(share["concurrency"], share["requests_per_second"]) for share in shares] == [(5, 5e5)]
