"""Races among processes, threads, tasks and event loops: no lost update, one creator, no partial document.

Eight worker processes import the library once. A command goes to some of them; when all have opened their stores they
begin together, and each answers with what it did.
"""

from __future__ import annotations

import json
import select
import subprocess
from collections import Counter
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from running import PYTHON

from accountstore import (
    Account,
    AccountStore,
    Location,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

WORKERS = 8
UPDATES = 50
ROUNDS = 60
TASKS = 64
ATTEMPTS = 100
"""How often a race is run that has to be seen: on a loaded machine processes may take turns by chance."""
AT = Location("a.account", folder="mail")
FIRST = "first"

WORKER = r"""
import json, random, sys
from functools import partial

import anyio
from fsspec.implementations.local import LocalFileSystem
from msgspec.structs import replace

from accountstore import Account, AccountStore, ConflictError, ExistsError, Location, NotFoundError
from accountstore import PasswordCredentials, StorageConfig, StoreConfig

AT = Location("a.account", folder="mail")
me = sys.argv[1]
random.seed(me)


def account(port=1, login="me", **more):
    return Account(host="h", port=port, credentials=PasswordCredentials(login=login, password="p"), **more)


async def update(store, count):
    for _ in range(count):
        await store.update(AT, lambda before: replace(before, port=before.port + 1))


async def get_and_save(store, count):
    for _ in range(count):
        before = await store.get(AT)
        await store.save(AT, replace(before, port=before.port + 1))


async def create(store, count):
    won = []
    for i in range(count):
        try:
            await store.save(Location(f"{i}.account", folder="new"), account(login=me), mode="create")
        except ExistsError:
            continue
        won.append(i)
    return won


async def create_through_fsspec(store, count):
    files, root = LocalFileSystem(auto_mkdir=True), (await store.filesystem())[1]
    won = []
    for i in range(count):
        try:
            files.pipe_file(f"{root}/new/{i}.account", me.encode(), mode="create")
        except FileExistsError:
            continue
        won.append(i)
    return won


async def swap(store, count):
    swaps = []
    for i in range(count):
        stored = await store.read(AT)
        new = f"{me}-{i}"
        try:
            await store.save(AT, account(login=new), mode=stored.version)
        except ConflictError:
            continue
        swaps.append((stored.document.credentials.login, new))
    return swaps


async def swap_blindly(store, count):
    swaps = []
    for i in range(count):
        stored = await store.read(AT)
        await store.save(AT, account(login=f"{me}-{i}"))
        swaps.append((stored.document.credentials.login, f"{me}-{i}"))
    return swaps


async def swap_delete_create(store, count):
    done = []
    for i in range(count):
        new = f"{me}-{i}"
        try:
            stored = await store.read(AT)
            old = stored.document.credentials.login
            if random.random() < 0.7:
                await store.save(AT, account(login=new), mode=stored.version)
                done.append(("swap", old, new))
            else:
                await store.delete(AT, version=stored.version)
                done.append(("delete", old, None))
        except ConflictError:
            continue
        except NotFoundError:
            try:
                await store.save(AT, account(login=new), mode="create")
            except ExistsError:
                continue
            done.append(("create", None, new))
    return done


async def rewrite(store, count):
    for i in range(1, count + 1):
        await store.save(AT, account(port=i, login=f"{i}." * (20_000 if i % 2 else 10)))


async def rewrite_through_fsspec(store, count):
    files, root = LocalFileSystem(auto_mkdir=True), (await store.filesystem())[1]
    for i in range(1, count + 1):
        files.pipe_file(f"{root}/{AT.path}", bytes([65 + i % 26]) * 200_000)


async def run(command, root, count):
    config = StoreConfig(default="disk", storages={"disk": StorageConfig(url=f"file://{root}")})
    async with AccountStore.open(config) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        return await globals()[command](store, count)


for line in sys.stdin:
    print(json.dumps(anyio.run(run, *json.loads(line))), flush=True)
"""


class Worker:
    """A process that runs commands."""

    def __init__(self, number: int) -> None:
        command = [*PYTHON, "-c", WORKER, str(number)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input = self.process.stdin
        self._output = self.process.stdout

    def tell(self, text: str) -> None:
        self._input.write(text + "\n")
        self._input.flush()

    def hear(self) -> str:
        line = self._output.readline()
        assert line, "the worker has ended"
        return line

    def has_answered(self) -> bool:
        return bool(select.select([self._output], [], [], 0)[0])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._input.close()
        self._output.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Eight processes that wait for a command."""
    started: list[Worker] = []
    try:
        started.extend(Worker(number) for number in range(WORKERS))
        yield started
    finally:
        for worker in started:
            worker.end()


def _begin(workers: Sequence[Worker], command: str, root: Path, count: int, /) -> None:
    """Let workers run a command `count` times, all from the same moment."""
    for worker in workers:
        worker.tell(json.dumps([command, str(root), count]))
    for worker in workers:
        assert worker.hear() == "ready\n"
    for worker in workers:
        worker.tell("go")


def _answers(workers: Sequence[Worker], command: str, root: Path, count: int, /) -> list[Any]:
    _begin(workers, command, root, count)
    return [json.loads(worker.hear()) for worker in workers]


def _account(port: int = 1, login: str = FIRST) -> Account:
    return Account(host="h", port=port, credentials=PasswordCredentials(login=login, password="p"))


def _open(url: object) -> AbstractAsyncContextManager[AccountStore]:
    return AccountStore.open(StoreConfig(default="one", storages={"one": StorageConfig(url=str(url))}))


def _put(root: Path, account: Account) -> None:
    async def put() -> None:
        async with _open(root) as store:
            await store.save(AT, account)

    anyio.run(put)


def _get(root: Path) -> Account:
    async def get() -> Account:
        async with _open(root) as store:
            return await store.get(AT)

    return anyio.run(get)


# --- updates ----------------------------------------------------------------------------------------------------------


def test_updates_of_many_processes_all_count(workers: list[Worker], tmp_path: Path) -> None:
    """8 processes that add 1 to a document 50 times each make 400 more of it."""
    _put(tmp_path, _account(port=1))
    _answers(workers, "update", tmp_path, UPDATES)
    assert _get(tmp_path).port == 1 + WORKERS * UPDATES


def test_control_get_and_save_of_many_processes_loses_some(workers: list[Worker], tmp_path: Path) -> None:
    """Control: the same with a get and a save loses additions."""
    for _ in range(ATTEMPTS):
        _put(tmp_path, _account(port=1))
        _answers(workers, "get_and_save", tmp_path, UPDATES)
        if _get(tmp_path).port < 1 + WORKERS * UPDATES:
            break
    assert 1 < _get(tmp_path).port < 1 + WORKERS * UPDATES


@pytest.mark.anyio
async def test_updates_of_many_tasks_all_count_in_memory() -> None:
    """64 tasks that each update one document in memory all count."""
    async with _open("memory://") as store:
        await store.save(AT, _account(port=1))

        async def add() -> None:
            for _ in range(2):
                await store.update(AT, lambda account: replace(account, port=account.port + 1))

        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(add)
        assert (await store.get(AT)).port == 1 + TASKS * 2


@pytest.mark.anyio
async def test_control_get_and_save_of_many_tasks_loses_some() -> None:
    """Control: the same with a get and a save loses additions."""
    async with _open("memory://") as store:
        await store.save(AT, _account(port=1))

        async def add() -> None:
            before = await store.get(AT)
            await checkpoint()
            await store.save(AT, replace(before, port=before.port + 1))

        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(add)
        assert 1 < (await store.get(AT)).port < 1 + TASKS


def test_updates_of_many_loops_in_many_threads_all_count(tmp_path: Path) -> None:
    """ThreadPool with event loops of all kinds, each with its own store on one folder, lose no update."""
    _put(tmp_path, _account(port=1))
    failures: list[BaseException] = []

    async def add(store: AccountStore) -> None:
        for _ in range(5):
            await store.update(AT, lambda account: replace(account, port=account.port + 1))

    async def add_in_tasks() -> None:
        async with _open(tmp_path) as store, anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(add, store)

    def run(backend: str, options: dict[str, Any]) -> None:
        try:
            anyio.run(add_in_tasks, backend=backend, backend_options=options)
        except BaseException as error:
            failures.append(error)

    loops: list[tuple[str, dict[str, Any]]] = [("asyncio", {}), ("trio", {})]
    if find_spec("uvloop"):
        loops.append(("asyncio", {"use_uvloop": True}))
    threads = [Thread(target=run, args=loop) for loop in loops * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert _get(tmp_path).port == 1 + len(threads) * 4 * 5


# --- creates ----------------------------------------------------------------------------------------------------------


def test_create_has_one_winner_among_processes(workers: list[Worker], tmp_path: Path) -> None:
    """Of 8 processes that create a document at once exactly one succeeds, and the document is its own."""
    for attempt in range(ATTEMPTS):
        root = tmp_path / str(attempt)
        root.mkdir()
        answers = _answers(workers, "create", root, ROUNDS)
        winners = Counter(i for won in answers for i in won)
        assert winners == dict.fromkeys(range(ROUNDS), 1)
        if sum(bool(won) for won in answers) > 1:
            break
    else:
        pytest.fail("one process won all, every time: that was no race")

    async def authors() -> list[str]:
        async with _open(root) as store:
            return [(await store.get(Location(f"{i}.account", folder="new"))).credentials.login for i in range(ROUNDS)]

    expected = {i: str(number) for number, won in enumerate(answers) for i in won}
    assert dict(enumerate(anyio.run(authors))) == expected


def test_control_looking_before_creating_has_several_winners(workers: list[Worker], tmp_path: Path) -> None:
    """Control: with fsspec's `mode="create"`, which looks and then writes, several processes win a round."""
    most = 0
    for attempt in range(ATTEMPTS):
        answers = _answers(workers, "create_through_fsspec", tmp_path / str(attempt), ROUNDS)
        most = max(Counter(i for won in answers for i in won).values())
        if most > 1:
            break
    assert most > 1


# --- one history ------------------------------------------------------------------------------------------------------


def _forks(swaps: Sequence[tuple[str, str]], /) -> list[str]:
    """Documents that more than one swap has replaced."""
    return [old for old, times in Counter(old for old, _ in swaps).items() if times > 1]


def test_swaps_of_many_processes_form_one_chain(workers: list[Worker], tmp_path: Path) -> None:
    """Each successful swap replaced the very document that it had read: all of them form one chain without forks."""
    for _ in range(ATTEMPTS):
        _put(tmp_path, _account())
        swaps = [(old, new) for answer in _answers(workers, "swap", tmp_path, UPDATES) for old, new in answer]
        assert len(swaps) >= UPDATES
        assert not _forks(swaps)
        followers = dict(swaps)
        at, length = FIRST, 0
        while at in followers:
            at, length = followers[at], length + 1
        assert length == len(swaps)
        assert at == _get(tmp_path).credentials.login
        if len({new.partition("-")[0] for _, new in swaps}) > 1:
            break
    else:
        pytest.fail("one process won all, every time: that was no race")


def test_control_blind_saves_fork_the_chain(workers: list[Worker], tmp_path: Path) -> None:
    """Control: without compare-and-swap several saves replace a document that was read once."""
    swaps: list[tuple[str, str]] = []
    for _ in range(ATTEMPTS):
        _put(tmp_path, _account())
        swaps = [(old, new) for answer in _answers(workers, "swap_blindly", tmp_path, UPDATES) for old, new in answer]
        if _forks(swaps):
            break
    assert _forks(swaps)


def test_swaps_deletes_and_creates_of_many_processes_have_one_order(workers: list[Worker], tmp_path: Path) -> None:
    """Every document was made by one swap or create, and was replaced by at most one swap or deleted."""
    _put(tmp_path, _account())
    done = [tuple(step) for answer in _answers(workers, "swap_delete_create", tmp_path, UPDATES) for step in answer]
    swaps = [(old, new) for what, old, new in done if what == "swap"]
    creates = [new for what, _, new in done if what == "create"]
    deleted = {old for what, old, _ in done if what == "delete"}
    assert len(swaps) > 10
    assert len(creates) > 10
    assert not _forks(swaps)
    made = [FIRST, *creates, *(new for _, new in swaps)]
    replaced = {old for old, _ in swaps}
    assert replaced | deleted <= set(made)
    # Each chain begins with a create and ends with a delete, or with the document that is there now.
    ends = set(made) - replaced
    assert len(ends) == 1 + len(creates)
    still_there = ends - deleted
    assert len(still_there) <= 1

    async def now() -> set[str]:
        async with _open(tmp_path) as store:
            try:
                return {(await store.get(AT)).credentials.login}
            except FileNotFoundError:
                return set()

    assert anyio.run(now) == still_there


# --- a reader beside a writer -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_reader_beside_a_writer_sees_whole_documents(workers: list[Worker], tmp_path: Path) -> None:
    """Beside a process that writes in a tight loop each read is a whole document, not older than the one before."""
    most = 0
    async with _open(tmp_path) as store:
        for _ in range(ATTEMPTS):
            await store.save(AT, _account(port=1, login="1." * 20_000))
            _begin(workers[:1], "rewrite", tmp_path, 150)
            seen = list[int]()
            while not workers[0].has_answered():
                stored = await store.read(AT)
                port = stored.document.port
                assert stored.document.credentials.login == f"{port}." * (20_000 if port % 2 else 10)
                assert stored.size > len(stored.document.credentials.login)
                seen.append(port)
            workers[0].hear()
            assert seen == sorted(seen)
            most = max(most, len(set(seen)))
            if most > 5:
                break
    assert most > 5


def test_control_reader_beside_a_plain_writer_sees_parts(workers: list[Worker], tmp_path: Path) -> None:
    """Control: beside fsspec's `pipe_file` a reader sees partial documents."""
    _put(tmp_path, _account())
    path = tmp_path / AT.path
    path.write_bytes(b"A" * 200_000)
    parts = 0
    for _ in range(ATTEMPTS):
        _begin(workers[:1], "rewrite_through_fsspec", tmp_path, 300)
        while not workers[0].has_answered():
            data = path.read_bytes()
            parts += len(data) != 200_000 or len(set(data)) > 1
        workers[0].hear()
        if parts:
            break
    assert parts > 0
