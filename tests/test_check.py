"""`check`: what is proven on a storage, what a bad one is found to do, and that each request is made once."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from doubles import Recording, Selective
from msgspec.structs import replace
from samples import ACCOUNT, AT, ELSEWHERE

from accountstore import AccountStore, StorageConfig, StoreConfig, Version
from accountstore.backends.base import Blob, Stat
from accountstore.backends.memory import MemoryBackend
from accountstore.check import Check, Step
from accountstore.errors import BackendError, ConflictError, UnsupportedError
from accountstore.testing import Fault, store_over
from accountstore.validation import join

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accountstore.backends.base import Backend
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio


async def paths(store: AccountStore, /) -> list[str]:
    return [entry.location.path async for entry in store.list(recursive=True)]


def found(result: Check, /) -> tuple[bool | None, ...]:
    """What was found of the conditions: of a create, a swap and a delete."""
    return result.create, result.update, result.delete


def problems(result: Check, /) -> dict[str, str]:
    """The problems of the steps that have one."""
    return {step.name: step.problem for step in result.steps if step.problem}


async def test_check_proves_a_good_storage_and_leaves_nothing(store: AccountStore) -> None:
    """`check` of a storage that keeps its promises is ok, says what was proven, and leaves no document."""
    await store.save(AT, ACCOUNT)
    result = await store.check()
    assert result.ok
    assert (result.storage, *found(result), result.versioned) == ("main", True, True, True, False)
    assert ", ".join(step.name for step in result.steps) == (
        "write, read, create over a document, list, version, swap of an unknown version, swap of the current version, "
        "swap of the version before, delete of the version before, delete, read after delete"
    )
    assert not problems(result)
    seconds = sorted(step.seconds for step in result.steps)
    assert seconds[0] >= 0
    assert result.latency == seconds[len(seconds) // 2]
    assert await paths(store) == [AT.path]


async def test_the_latency_is_that_of_requests() -> None:
    """What sealing takes by itself is a step, but no request of the storage."""
    steps = (Step("seal and open", "", 9.0), Step("write", "", 1.0), Step("read", "", 3.0), Step("list", "failed", 8.0))
    result = Check("main", None, None, None, None, steps, MemoryBackend().capabilities)
    assert result.latency == 2.0
    assert replace(result, steps=steps[:1]).latency == 9.0


async def test_check_of_a_plain_storage_proves_what_it_declares(tmp_path: Path) -> None:
    """A storage that declares no conditions is ok without them: they are None."""
    storages = {"plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"})}
    async with AccountStore.open(StoreConfig(storages=storages)) as store:
        result = await store.check()
        assert (result.ok, *found(result)) == (True, None, None, None)
        assert not result.declared.create
        assert await paths(store) == []


@pytest.mark.parametrize("declared", [{}, {"verify": True}, {"write_tokens": True}], ids=str)
async def test_check_makes_each_request_once(declared: dict[str, bool]) -> None:
    """A check asks for each thing once, without a probe before a condition or a look at what a refusal met."""
    backend = Recording(**declared)
    assert (await store_over({"main": backend}, attempts=4).check()).ok
    assert " ".join(backend.log) == "write read write scan stat write write write delete delete read scan"


async def test_check_tries_nothing_again() -> None:
    """What fails for a while is a problem, where any other call of the store would try it again."""
    backend = Recording(None, [Fault("read", 1, "before", ConnectionResetError())])
    assert list(problems(await store_over({"main": backend}, attempts=4).check())) == ["read"]
    assert backend.calls["read"] == 2


@pytest.mark.parametrize("verify", [True, False])
async def test_what_check_has_found_spares_the_probe(verify: bool) -> None:
    """Where conditions depend on the server, the store relies on what a check has found, and only there."""
    backend = Recording(Selective("swap", "delete"), verify=verify)
    store = store_over({"main": backend})
    assert found(await store.check()) == (False, True, True)
    version = await store.save(AT, ACCOUNT)
    backend.log.clear()
    with pytest.raises(UnsupportedError, match="ignores the condition") if verify else nullcontext():
        await store.save(ELSEWHERE, ACCOUNT, mode="create")
    await store.delete(AT, version=version)
    assert backend.log == (["delete"] if verify else ["write", "delete"])


@pytest.mark.parametrize(
    ("operation", "nth", "name"),
    [
        ("read", 1, "read"),
        ("write", 2, "create over a document"),
        ("write", 3, "swap of an unknown version"),
        ("delete", 1, "delete of the version before"),
    ],
)
async def test_a_failure_of_check_proves_nothing(operation: Operation, nth: int, name: str) -> None:
    """A request that failed for another reason than its condition proves nothing: the next such call probes."""
    backend = Recording(None, [Fault(operation, nth, "before", PermissionError())], verify=True)
    store = store_over({"main": backend})
    result = await store.check()
    assert problems(result)[name].startswith("DeniedError: ")
    assert False not in found(result)
    backend.log.clear()
    await store.delete(AT, version=await store.save(AT, ACCOUNT, mode="create"))
    assert len(backend.log) == 6 + 2


class Forgetful(MemoryBackend):
    """Reads other bytes than were written."""

    async def read(self, key: str, /, *, limit: int) -> Blob:
        blob = await super().read(key, limit=limit)
        return Blob(blob.data + b" ", blob.stat)


class Hoarding(MemoryBackend):
    """Deletes nothing."""

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if version is not None:
            await super().delete(key, version=version)


class Unversioned(MemoryBackend):
    """Returns no versions, though it declares compare-and-swap."""

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), version=None)


REFUSED = Fault("write", 4, "before", ConflictError("no"))
"""Of the swap of the current version."""


@pytest.mark.parametrize(
    ("backend", "conditions", "steps"),
    [
        (Selective, (False, False, False), {"create over a document", "swap of an unknown version"}),
        (partial(Selective, "swap", "delete"), (False, True, True), {"create over a document"}),
        (partial(Selective, "create", "delete"), (True, False, True), {"swap of an unknown version"}),
        (partial(Selective, "create", "swap"), (True, False, False), {"delete of the version before"}),
        (partial(Recording, None, [REFUSED]), (True, False, True), {"swap of the current version"}),
        (Forgetful, (None, True, True), {"read"}),
        (Hoarding, (True, True, True), {"read after delete"}),
        (Unversioned, (True, False, None), {"version"}),
        (lambda: Recording(Selective("create", "swap"), verify=True), (True, True, False), set()),
    ],
    ids=["careless", "create", "swap", "delete", "stubborn", "forgetful", "hoarding", "unversioned", "verified"],
)
async def test_check_finds_a_backend_that_lies(
    backend: Callable[[], Backend], conditions: tuple[bool | None, ...], steps: set[str]
) -> None:
    """A backend that does not do what it declares is found; deletes that depend on the server may be ignored."""
    result = await store_over({"main": backend()}).check()
    assert result.ok == (not steps)
    assert found(result) == conditions
    assert steps <= problems(result).keys()


@pytest.mark.parametrize("call", ["read", "write", "stat", "delete", "scan"])
async def test_check_reports_what_a_storage_refuses(call: str) -> None:
    """A storage that cannot be reached, in any of its calls, is a problem in the result and no exception."""
    backend = Recording()

    async def fail(name: str) -> None:
        if name == call:
            raise ConnectionRefusedError

    backend.before = fail
    store = store_over({"main": backend})
    result = await store.check()
    assert not result.ok
    assert any(problem.startswith("UnavailableError: ") for problem in problems(result).values())
    backend.before = None
    assert await paths(store) == [] or call == "delete"


@pytest.mark.parametrize("failing", range(1, 13))
async def test_what_could_not_be_tried_is_not_known(failing: int) -> None:
    """Where the storage is gone from some request on, nothing is said that was not seen: True, or None, never False."""
    backend = Recording()

    async def fail(_: str) -> None:
        if len(backend.log) >= failing:
            raise ConnectionRefusedError

    backend.before = fail
    result = await store_over({"main": backend}).check()
    assert result.ok == (failing > 11)
    assert False not in found(result)
    assert result.declared.create
    assert result.declared.update
    assert found(result).count(None) == (3 if failing < 4 else 2 if failing < 10 else 0)
    assert not result.complete


async def test_a_failure_that_counted_as_an_answer_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where any error counts as an answer to a condition, a storage that is gone denies its promises."""
    monkeypatch.setattr("accountstore.check._ANSWERS", BackendError)
    backend = Recording(None, [Fault("write", 2, "before", ConnectionRefusedError())])
    assert (await store_over({"main": backend}).check()).create is False


@pytest.mark.parametrize("prefix", ["", "tenant"])
async def test_check_names_what_listings_leave_out(prefix: str) -> None:
    """`check` has the documents that no location names, of a scope those in it, and is ok all the same."""
    backend = MemoryBackend()
    for name in ("x/a#b.account", "e\u0301.account", "x/ok.account"):
        await backend.write(join(prefix, name), b"", mode="overwrite")
    await backend.write("other/c#.account", b"", mode="overwrite")
    result = await store_over({"main": backend}).scoped(prefix).check()
    left_out = {item.path: item.reason for item in result.skipped}
    assert left_out.keys() == {"x/a#b.account", "e\u0301.account", *(() if prefix else ("other/c#.account",))}
    assert left_out["e\u0301.account"].startswith("file name: is not in Unicode normal form C")
    assert {item.storage for item in result.skipped} == {"main"}
    assert (result.ok, result.complete) == (True, True)


@pytest.mark.parametrize("limit", ["names", "time", "error"])
async def test_a_look_at_names_that_ended_early_says_so(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Where there are too many such names, too little time, or a folder that is denied, `complete` is False."""
    faults = [Fault("scan", 2, "before", PermissionError())] if limit == "error" else []
    backend = MemoryBackend()
    for number in range(101 if limit == "names" else 3):
        await backend.write(f"{number}#.account", b"", mode="overwrite")

    if limit == "time":
        late = Mock(wraps=time, monotonic=Mock(return_value=math.inf))
        monkeypatch.setattr("accountstore.check.time", late)
    result = await store_over({"main": Recording(backend, faults)}).check()
    assert (result.complete, len(result.skipped)) == (False, {"names": 100, "time": 3, "error": 0}[limit])
    assert result.ok
