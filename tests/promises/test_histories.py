"""What several processes did with documents through a lossy network, killed at random, is the history of a register.

Every call is recorded with its start and its end by one monotonic clock; each document's history is then checked by
itself. `ACCOUNTSTORE_HISTORIES` says how many there are for each backend.

The judge of the object stores is the project's own stub: its compare-and-swap is one step of one event loop, so that a
history which is none of a register is the library's doing. Between it and the stores is a proxy; unconditional writes
are among the calls. On memory several stores in one process share a lossy backend, and tasks are cancelled.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
import recording
from anyio.from_thread import start_blocking_portal
from cloudtargets import BUCKET, Target, need_packages, on_each_target
from recording import Plan
from running import HUNG, PYTHON
from sealed import sealed_over, write_keys

from accountstore import Location, Version
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import (
    Call,
    LossyBackend,
    LossyProxy,
    Recorder,
    Schedule,
    exercise,
    find_violation,
    read_histories,
    store_over,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudstub import Stub

    from accountstore.backends.base import Backend, Stat, WriteMode
    from accountstore.testing.histories.checker import CallName
    from accountstore.testing.histories.network import Fault

HISTORIES = int(os.environ.get("ACCOUNTSTORE_HISTORIES", "20"))
sealed_or_not = pytest.mark.parametrize("is_sealed", [False, True], ids=["plain", "sealed"])
DOCUMENTS = 20 if HISTORIES < 200 else 50
ROUNDS = -(-HISTORIES // DOCUMENTS)
ROUNDS_OF_CONTROL = 50


def _violations(histories: Mapping[str, Sequence[Call]], *, recreating: bool) -> list[str]:
    """A text for each history that is none of a register, as short as it can be."""
    wrong = {at: find_violation(calls, recreating=recreating) for at, calls in histories.items()}
    return ["\n  ".join([at, *map(str, calls)]) for at, calls in wrong.items() if calls]


def _report(name: str, histories: Mapping[str, Sequence[Call]], killed: int = 0, *, recreating: bool) -> None:
    """Print what was recorded; fail for each violation."""
    calls = [call for history in histories.values() for call in history]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in Counter(call.outcome for call in calls).items())
    undone = len(_violations(histories, recreating=False)) if recreating else 0
    wrong = _violations(histories, recreating=recreating)
    print(f"\n{name}: {len(histories)} histories, {len(calls)} calls ({outcomes}), {killed} kills; ", end="")
    print(f"{len(wrong)} violations, {undone - len(wrong)} deletes undone by a repeated write", *wrong, sep="\n")
    assert len(histories) == ROUNDS * DOCUMENTS
    assert not wrong, "\n".join(wrong)


# --- processes --------------------------------------------------------------------------------------------------------


def _record(plan: Plan) -> tuple[dict[str, list[Call]], int]:
    """The histories of a plan, and how many processes were killed."""
    command = [*PYTHON, "-W", "error", str(Path(__file__).parents[1] / "recording.py")]
    wait = HUNG + 120 * plan.rounds
    run = subprocess.run(command, input=msgspec.json.encode(plan), capture_output=True, timeout=wait, check=False)
    assert (run.returncode, run.stderr.decode()) == (0, "")
    return read_histories(Path(plan.folder).glob("*.log")), int(run.stdout)


@pytest.mark.once
@sealed_or_not
def test_processes_on_a_folder_are_a_register(is_sealed: bool, tmp_path: Path) -> None:
    """Processes that write, swap and delete documents in a folder, and are killed, leave histories of a register."""
    logs = tmp_path / "logs"
    logs.mkdir()
    keys = write_keys(tmp_path / "keys.jwks", "old") if is_sealed else ""
    plan = Plan(str(logs), f"file://{tmp_path}/root", {}, {}, rounds=ROUNDS, documents=DOCUMENTS, keys=keys)
    histories, killed = _record(plan)
    _report("local", histories, killed, recreating=False)


def _record_through_proxy(target: Target, stub: Stub, folder: Path, schedule: Schedule, **plan: Any) -> Any:
    """The histories of processes on the stub through a proxy."""
    need_packages(target.service, target.engine)
    stub.mode(log=False)
    straight, url = target.options(stub.url), f"{target.scheme}://{BUCKET}/p"
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(LossyProxy(stub.port, schedule)) as proxy,
    ):
        lossy = target.options(f"http://127.0.0.1:{proxy.port}")
        return _record(Plan(str(folder), url, lossy, straight, target.engine, documents=DOCUMENTS, **plan))


@pytest.mark.once
@on_each_target
def test_processes_on_an_object_store_are_a_register(target: Target, stub: Stub, tmp_path: Path) -> None:
    """Processes that call an object store through a lossy network, and are killed, leave histories of a register, but
    that a write which is repeated after its answer was lost may undo a delete of what it wrote.
    """
    histories, killed = _record_through_proxy(target, stub, tmp_path, Schedule(target.name), rounds=ROUNDS)
    _report(target.name, histories, killed, recreating=True)


@pytest.mark.once
def test_processes_on_a_sealed_object_store_are_a_register(stub: Stub, tmp_path: Path) -> None:
    """As above, of sealed documents."""
    how = {"rounds": ROUNDS, "keys": write_keys(tmp_path / "keys.jwks", "old")}
    histories, killed = _record_through_proxy(Target("s3", "obstore"), stub, tmp_path, Schedule("sealed"), **how)
    _report("s3-obstore, sealed", histories, killed, recreating=True)


@pytest.mark.once
@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
def test_control_blind_repetitions_on_an_object_store_are_found(engine: Any, stub: Stub, tmp_path: Path) -> None:
    """The control: where a write is repeated without a look at what is there, some history is none of a register."""
    for seed in range(ROUNDS_OF_CONTROL):
        folder = tmp_path / str(seed)
        folder.mkdir()
        schedule = Schedule(seed, rate=0.4, faults=("lose answer",))
        how = {"seed": seed, "blindly": True, "names": ["get", "save"]}
        histories, _ = _record_through_proxy(Target("s3", engine), stub, folder, schedule, **how)
        if _violations(histories, recreating=True):
            return
    pytest.fail("no blind repetition was found")


# --- tasks ------------------------------------------------------------------------------------------------------------


async def _record_tasks(
    backend: Backend,
    schedule: Schedule,
    seed: int,
    folder: Path,
    names: Sequence[CallName] = (),
    store_of: Any = store_over,
) -> dict[str, list[Call]]:
    """The histories of tasks on two stores on a backend, of which some are cancelled."""
    path = folder / f"{seed}.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lossy = LossyBackend(backend, schedule)
    random = Random(seed)
    locations = [Location(f"{seed}-{i}.account", folder="histories") for i in range(DOCUMENTS)]
    stores = [store_of({"one": lossy}, attempts=4, timeout=0.3) for _ in range(2)]

    async def call(recorder: Recorder, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await exercise(recorder, Random(seconds), 8, names)

    async with anyio.create_task_group() as tasks:
        for location in locations:
            for client in range(4):
                recorder = Recorder(stores[client % 2], location, log, str(client))
                seconds = random.uniform(0, 0.3) if random.random() < 0.2 else 100 + random.random()
                tasks.start_soon(call, recorder, seconds)
    undisturbed = store_of({"one": backend})
    for location in locations:
        await Recorder(undisturbed, location, log, "end").get()
    os.close(log)
    for store in stores:
        await store.aclose()
    return read_histories([path])


@pytest.mark.parametrize("is_sealed", [False, pytest.param(True, marks=pytest.mark.once)], ids=["plain", "sealed"])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_tasks_on_memory_are_a_register(loop: str, is_sealed: bool, tmp_path: Path) -> None:
    """Tasks that call two stores on one lossy backend, and are cancelled, leave histories of a register, but that a
    write which is repeated after its answer was lost may undo a delete of what it wrote.
    """
    histories: dict[str, list[Call]] = {}
    schedule = Schedule(loop)
    for seed in range(ROUNDS):
        store_of = sealed_over if is_sealed else store_over
        histories |= anyio.run(_record_tasks, MemoryBackend(), schedule, seed, tmp_path, (), store_of, backend=loop)
    _report(f"memory on {loop}", histories, recreating=True)


class Forgetful(MemoryBackend):
    """A backend that now and then acknowledges a write and drops it."""

    def __init__(self) -> None:
        super().__init__()
        self._random = Random(1)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        before = self._fs.store.get(f"/{key}")
        stat = await super().write(key, data, mode=mode, write_token=write_token)
        if before is not None and self._random.random() < 0.05:
            self._fs.store[f"/{key}"] = before
        return stat


class LastWriterWins(MemoryBackend):
    """A backend that ignores the version of a swap."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        mode = "overwrite" if isinstance(mode, Version) else mode
        return await super().write(key, data, mode=mode, write_token=write_token)


@pytest.mark.parametrize(
    ("backend", "faults", "names"),
    [
        (Forgetful, (), ()),
        (LastWriterWins, ("delay request",), ()),
        (MemoryBackend, ("lose answer",), ("get", "save")),
    ],
    ids=["lost write", "last writer wins", "blind repetition"],
)
def test_control_a_history_that_is_no_register_is_found(
    backend: type[MemoryBackend],
    faults: Sequence[Fault],
    names: Sequence[CallName],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: a backend that loses a write, one that swaps whatever is there, and a store that repeats a write
    without a look at what is there, are found.
    """
    if backend is MemoryBackend:
        monkeypatch.setattr("accountstore.retry._Writing._repeatable", recording.repeat_blindly)
    for seed in range(ROUNDS_OF_CONTROL):
        schedule = Schedule(seed, rate=0.4 if faults else 0, faults=faults)
        histories = anyio.run(_record_tasks, backend(), schedule, seed, tmp_path, names)
        if _violations(histories, recreating=True):
            return
    pytest.fail("nothing was found")
