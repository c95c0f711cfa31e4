"""Races among processes, threads, tasks and event loops: no lost update, one creator, no partial document.

Eight worker processes import the library once; a command goes to all of them, and they begin together (`racing`). They
are part of the long run; without it tasks and threads race here, and in the public suite.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import racing
from anyio.lowlevel import checkpoint
from cancelling import LOOPS
from racing import LARGE, account, login, numbered, opened
from running import HUNG
from samples import AT, next_port

from accountstore import Account, AccountStore, Location

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

WORKERS = 8
UPDATES = 50
ROUNDS = 60
TASKS = 64
FIRST = "first"
ATTEMPTS = 100
"""How often a race is run that has to be seen: on a loaded machine processes may take turns by chance."""


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Eight processes."""
    context = get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, racing.initialize, (context.Barrier(WORKERS),)) as pool:
        yield pool


def _answers(
    workers: ProcessPoolExecutor, command: Callable[[AccountStore, str], Awaitable[Any]], root: Path, /
) -> list[Any]:
    """What each worker answers to a command that all begin at the same moment."""
    return list(workers.map(partial(racing.run, command, str(root)), range(1, WORKERS + 1), timeout=HUNG))


def _begin(root: Path, /) -> None:
    async def put() -> None:
        async with opened(root) as store:
            await store.save(AT, account(FIRST))

    anyio.run(put)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A folder with a document."""
    _begin(tmp_path)
    return tmp_path


def _get(root: Path, at: Location = AT, /) -> Account | None:
    async def get() -> Account | None:
        async with opened(root) as store:
            return await store.get(at) if await store.exists(at) else None

    return anyio.run(get)


def _port(root: Path, /) -> int:
    document = _get(root)
    return 0 if document is None else document.port


def _login(root: Path, at: Location = AT, /) -> str | None:
    document = _get(root, at)
    return None if document is None else login(document)


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("loses", [False, True], ids=["update", "control"])
def test_updates_of_many_processes_all_count(workers: ProcessPoolExecutor, start: Path, loses: bool) -> None:
    """8 processes that add 1 to a document 50 times each make 400 more of it. The control: get and save lose some."""
    added = 0
    for _ in range(ATTEMPTS if loses else 1):
        _begin(start)
        _answers(workers, partial(racing.update, count=UPDATES, blindly=loses), start)
        added = _port(start) - 1
        if added < WORKERS * UPDATES:
            break
    assert 0 < added <= WORKERS * UPDATES
    assert (added < WORKERS * UPDATES) is loses


@pytest.mark.anyio
@pytest.mark.parametrize("loses", [False, True], ids=["update", "control"])
async def test_updates_of_many_tasks_all_count_in_memory(loses: bool) -> None:
    """64 tasks that each update one document in memory all count. The control: a get and a save lose some."""
    async with opened("memory://") as store:
        await store.save(AT, account(FIRST))

        async def add() -> None:
            if loses:
                before = await store.get(AT)
                await checkpoint()
                await store.save(AT, next_port(before))
            else:
                await store.update(AT, next_port)

        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(add)
        added = (await store.get(AT)).port - 1
        assert 0 < added <= TASKS
        assert (added < TASKS) is loses


def test_updates_of_many_loops_in_many_threads_all_count(start: Path) -> None:
    """Threads with event loops of all kinds, each with its own store on one folder, lose no update."""

    async def add_in_tasks() -> None:
        async with opened(start) as store, anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(partial(racing.update, store, "", count=5))

    kinds = ["asyncio", "trio"] + ["uvloop"] * (find_spec("uvloop") is not None)
    loops = [LOOPS[kind] for kind in kinds] * 2
    with ThreadPoolExecutor(len(loops)) as threads:
        done = [
            threads.submit(partial(anyio.run, add_in_tasks, backend=name, backend_options=of)) for name, of in loops
        ]
    assert [future.result() for future in done] == [None] * len(loops)
    assert _port(start) == 1 + len(loops) * 4 * 5


# --- creates ----------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("plain", [False, True], ids=["store", "control"])
def test_create_has_one_winner_among_processes(workers: ProcessPoolExecutor, tmp_path: Path, plain: bool) -> None:
    """Of 8 processes that create a document at once exactly one succeeds, and the document is its own. The control:
    with fsspec's `mode="create"`, which looks and then writes, several processes win a round.
    """
    for attempt in range(ATTEMPTS):
        root = tmp_path / str(attempt)
        answers = _answers(workers, partial(racing.create, count=ROUNDS, plain=plain), root)
        winners = {i: str(number) for number, won in enumerate(answers, 1) for i in won}
        if plain:
            if sum(map(len, answers)) > len(winners):
                return
            continue
        assert sum(map(len, answers)) == len(winners) == ROUNDS
        if len(set(winners.values())) > 1:
            logins = {i: _login(root, Location(f"{i}.account", folder="new")) for i in winners}
            assert logins == winners
            return
    pytest.fail("one process won all, every time: that was no race")


# --- one history ------------------------------------------------------------------------------------------------------


def _forks(swaps: Sequence[tuple[str, str]], /) -> list[str]:
    """Documents that more than one swap has replaced."""
    return [old for old, times in Counter(old for old, _ in swaps).items() if times > 1]


@pytest.mark.once
@pytest.mark.parametrize("blindly", [False, True], ids=["swap", "control"])
def test_swaps_of_many_processes_form_one_chain(workers: ProcessPoolExecutor, start: Path, blindly: bool) -> None:
    """Each successful swap replaced the very document that it had read: all of them form one chain without forks. The
    control: without compare-and-swap several saves replace a document that was read once.
    """
    for _ in range(ATTEMPTS):
        _begin(start)
        answers = _answers(workers, partial(racing.swap, count=UPDATES, blindly=blindly), start)
        swaps: list[tuple[str, str]] = [pair for answer in answers for pair in answer]
        if blindly:
            if _forks(swaps):
                return
            continue
        assert len(swaps) >= UPDATES
        assert not _forks(swaps)
        followers = dict(swaps)
        at, length = FIRST, 0
        while at in followers:
            at, length = followers[at], length + 1
        assert length == len(swaps)
        assert at == _login(start)
        if len({new.partition("-")[0] for _, new in swaps}) > 1:
            return
    pytest.fail("one process won all, every time: that was no race")


@pytest.mark.once
def test_swaps_deletes_and_creates_of_many_processes_have_one_order(workers: ProcessPoolExecutor, start: Path) -> None:
    """Every document was made by one swap or create, and was replaced by at most one swap or deleted."""
    answers = _answers(workers, partial(racing.swap_delete_create, count=UPDATES), start)
    done = [step for answer in answers for step in answer]
    swaps = [(old, new) for what, old, new in done if what == "swap"]
    creates = [new for what, _, new in done if what == "create"]
    deleted = {old for what, old, _ in done if what == "delete"}
    assert swaps
    assert creates
    assert not _forks(swaps)
    made = [FIRST, *creates, *(new for _, new in swaps)]
    replaced = {old for old, _ in swaps}
    assert replaced | deleted <= set(made)
    # Each chain begins with a create and ends with a delete, or with the document that is there now.
    ends = set(made) - replaced
    assert len(ends) == 1 + len(creates)
    assert ends - deleted == {_login(start)} - {None}


# --- a reader beside a writer -----------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.anyio
async def test_reader_beside_a_writer_sees_whole_documents(workers: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Beside a process that writes in a tight loop each read is a whole document, not older than the one before."""
    most = 0
    async with opened(tmp_path) as store:
        for _ in range(ATTEMPTS):
            await store.save(AT, numbered(1))
            writing = workers.submit(racing.run, partial(racing.rewrite, count=150), str(tmp_path), 0)
            seen = list[int]()
            while not writing.done():
                stored = await store.read(AT)
                assert stored.document == numbered(stored.document.port)
                assert stored.size > len(login(stored.document))
                seen.append(stored.document.port)
            assert writing.exception() is None
            assert seen == sorted(seen)
            most = max(most, len(set(seen)))
            if most > 5:
                break
    assert most > 5


@pytest.mark.once
def test_control_reader_beside_a_plain_writer_sees_parts(workers: ProcessPoolExecutor, start: Path) -> None:
    """Control: beside fsspec's `pipe_file` a reader sees partial documents."""
    path = start / AT.path
    path.write_bytes(b"A" * LARGE)
    parts = 0
    for _ in range(ATTEMPTS):
        writing = workers.submit(racing.run, partial(racing.rewrite, count=300, plain=True), str(start), 0)
        while not writing.done():
            data = path.read_bytes()
            parts += len(data) != LARGE or len(set(data)) > 1
        if parts:
            break
    assert parts > 0
