"""Large documents take turns with other tasks, in every call that works on many of them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from doubles import BatchMemory, drained
from samples import ACCOUNT
from sealed import sealed_over, sealer, static

from accountstore import (
    AccountStore,
    Location,
    MultiAccount,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    copies,
    rotation,
    to_json,
)
from accountstore.backends import memory
from accountstore.codecs import Codec
from accountstore.migration import migrate, verify
from accountstore.sealing import sealer as sealing
from accountstore.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

WORK: dict[object, tuple[str, ...]] = {
    Codec: ("encode", "decode", "merge", "encode_tree", "tree", "unknown"),
    sealing: ("parse", "seal", "open_content"),
    rotation: ("assemble",),
    copies: ("_is_md5_of",),
}
"""What is done with a document, each once in a turn."""
EACH = ["save", "get", "update", "copy", "read_json", "save_json"]
MANY = ["save_many", "get_many", "copy_many none", "copy_many write"]
MIGRATIONS = ["migrate", "verify migration", "verify changed"]
CALLS = [
    *(("json", call) for call in (*EACH, *MANY, *MIGRATIONS)),
    *(("sealed", call) for call in (*MANY, "copy_many read", "get", "save", "rewrap", "reseal", "verify", "migrate")),
    *(("msgpack", call) for call in EACH),
]
CONTROLS = [
    *(("sealed", call) for call in ("save_many", "get_many", "rewrap", "verify")),
    *(("json", call) for call in ("save", "save_many", "copy_many write", "migrate", "verify migration")),
]
AT = [Location(f"{i}.multi.account") for i in range(6)]
THERE = [Location(at.file_name, storage="other") for at in AT]
LARGE = MultiAccount(receive_accounts=(ACCOUNT,) * 600)
SMALL = MultiAccount(receive_accounts=(ACCOUNT,) * 2)


def named(calls: list[tuple[str, str]], /) -> pytest.MarkDecorator:
    rows = [
        pytest.param(*each, id=" ".join(each), marks=[pytest.mark.once] if each[0] == "msgpack" else [])
        for each in calls
    ]
    return pytest.mark.parametrize(("storage", "call"), rows)


@named(CALLS)
async def test_large_documents_leave_other_tasks_their_turns(
    storage: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many large documents are worked on at once, each turn of the event loop does a thing with one of them:
    two at most between two steps of another task, for trio runs the tasks of a turn in any order.
    """
    assert await _most_in_one_step(storage, call, LARGE, tmp_path, monkeypatch) in {1, 2}


@named(CONTROLS)
async def test_control_large_documents_without_turns(
    storage: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count shows several in a step where nobody takes turns."""
    monkeypatch.setattr(Turns, "take", _take_none)
    assert await _most_in_one_step(storage, call, LARGE, tmp_path, monkeypatch) > 2


@pytest.mark.parametrize("call", ["get", "read_json", "stat"])
async def test_reads_from_memory_leave_other_tasks_their_turns(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, which digests what it reads for the version, digests one large document in a turn."""
    monkeypatch.setitem(WORK, memory, ("digest",))
    assert await _most_in_one_step("json", call, LARGE, tmp_path, monkeypatch) in {1, 2}


@pytest.mark.parametrize("call", ["get", "read_json", "stat"])
async def test_control_reads_from_memory_without_turns(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count shows several in a step where nobody takes turns."""
    monkeypatch.setitem(WORK, memory, ("digest",))
    monkeypatch.setattr(Turns, "take", _take_none)
    assert await _most_in_one_step("json", call, LARGE, tmp_path, monkeypatch) > 2


@pytest.mark.parametrize("second", ["asyncio", "trio"])
@pytest.mark.parametrize("first", ["asyncio", "trio"])
def test_memory_belongs_to_no_event_loop(first: Any, second: Any) -> None:
    """A backend that one event loop has used works on the next, with large documents at once, too."""
    backend = memory.MemoryBackend()

    async def use() -> None:
        key = f"{AT[0]}"
        await backend.write(key, b"x" * 200_000, mode="overwrite")
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(backend.stat, key)

    for loop in (first, second):
        anyio.run(use, backend=loop)
    with pytest.raises(TooLargeError):
        anyio.run(partial(backend.read, f"{AT[0]}", limit=100_000))


@named([("json", "save"), ("sealed", "get_many"), ("sealed", "rewrap")])
async def test_small_documents_share_a_turn(
    storage: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have room in a turn together are done in one."""
    assert await _most_in_one_step(storage, call, SMALL, tmp_path, monkeypatch) > 2


async def test_documents_that_share_a_turn_are_64_kib() -> None:
    """As many as have room in a turn go on at once, also in the turn after a large one; the next one waits. Those of
    two turns may come between two steps of another task, as above.
    """
    turns, at_once = Turns(), [0]

    async def step() -> None:
        while True:
            at_once.append(0)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(step)
        await turns.take(65_536)
        for _ in range(20):
            await turns.take(10_000)
            at_once[-1] += 1
        tasks.cancel_scope.cancel()
    assert sum(at_once) == 20
    assert max(at_once) in range(6, 13)


async def _take_none(_: Turns, size: int = 0, /) -> None:
    assert size >= 0


async def _filled(storage: str, document: MultiAccount, /) -> AccountStore:
    """A store with two storages, `other` of the other codec; sealed ones move to a new key."""
    if storage == "sealed":
        backends = {"main": BatchMemory(3), "other": BatchMemory(3)}
        keys = {name: sealer(static("new", "old"), storage_id=name) for name in backends}
        before, store = sealed_over(backends), sealed_over(backends, keys)
    else:
        of_codec = StorageConfig("memory://", codec="json"), StorageConfig("memory://", codec="msgpack")
        main, other = of_codec if storage == "json" else of_codec[::-1]
        before = store = await AccountStore.open(StoreConfig(storages={"main": main, "other": other}, default="main"))
    await _all(before.save_many([(at, document) for at in (*AT, *THERE)]))
    return store


async def _most_in_one_step(
    storage: str, call: str, document: MultiAccount, folder: Path, monkeypatch: pytest.MonkeyPatch, /
) -> int:
    """How often the same thing is done with documents between two steps of another task, at the most."""
    data = to_json(document, reveal=True)
    done: Counter[object] = Counter()
    most = 0

    def counted(name: str, function: Any, /) -> Any:
        def call_and_count(*arguments: Any, **keywords: Any) -> Any:
            done[name, arguments[0] if isinstance(arguments[0], Codec) else None] += 1
            return function(*arguments, **keywords)

        return call_and_count

    async def step() -> None:
        nonlocal most
        while True:
            most = max(most, *done.values(), 0)
            done.clear()
            await anyio.lowlevel.checkpoint()

    async with await _filled(storage, document) as store, anyio.create_task_group() as tasks:
        for place, names in WORK.items():
            for name in names:
                monkeypatch.setattr(place, name, counted(name, getattr(place, name)))
        tasks.start_soon(step)
        if call in EACH:
            async with anyio.create_task_group() as calls:
                for at, there in zip(AT, THERE, strict=True):
                    calls.start_soon(_each, call, store, at, there, document, data)
        else:
            await _many(call, store, document, folder)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    return max(most, *done.values(), 0)


async def _each(
    call: str, store: AccountStore, at: Location, there: Location, document: MultiAccount, data: bytes, /
) -> None:
    match call:
        case "save":
            await store.save_multi(at, document)
        case "get":
            await store.get_multi(at)
        case "stat":
            await store.stat(at)
        case "update":
            await store.update_multi(at, lambda found: MultiAccount(receive_accounts=found.receive_accounts[1:]))
        case "copy":
            await store.copy(at, there)
        case "read_json":
            await store.read_json(at)
        case _:
            await store.save_json(at, data)


async def _many(call: str, store: AccountStore, document: MultiAccount, folder: Path, /) -> None:
    match call.split():
        case ["save_many"]:
            await _all(store.save_many([(at, document) for at in AT]))
        case ["get_many"]:
            await _all(store.get_many(AT))
        case ["copy_many", ("none" | "write" | "read") as proof]:
            await _all(store.copy_many(zip(AT, THERE, strict=True), verify=proof))
        case ["rewrap" | "reseal" | "verify"]:
            await _all(getattr(rotation, call)(store))
        case ["migrate"]:
            report = await migrate(store, "main:", "other:", journal=folder / "journal", key_file=folder / "key")
            assert report.totals["same"].documents == len(AT)
        case ["verify", "changed"]:
            changed = MultiAccount(receive_accounts=document.receive_accounts[1:])
            await _all(store.save_many([(there, changed) for there in THERE]))
            assert (await verify(store, "main:", "other:")).totals["differs"].documents == len(AT)
        case _:
            assert (await verify(store, "main:", "other:")).totals["same"].documents == len(AT)


async def _all(results: AsyncIterator[tuple[Location, object]], /) -> None:
    found = [result for _, result in await drained(results)]
    assert len(found) >= len(AT)
    assert not [result for result in found if isinstance(result, Exception)]
