"""What an operation costs on an object store: its requests, as the server counts them, and its connections."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cloudstub import Stub
from cloudtargets import ABSENT, AT, BUCKET, NEW, OLD, OTHER, Target, assert_closed, on_each_target

from accountstore import AccountStore, BackendError, ConflictError, ExistsError, Location, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@asynccontextmanager
async def opened(target: Target, stub: Stub, **settings: Any) -> AsyncGenerator[AccountStore]:
    """A store on the stub, whose connections are gone when it is closed."""
    before = stub.connections()["open"]
    async with AccountStore.open(target.config(stub.url, **settings)) as store:
        yield store
    await assert_closed(stub, before)


@pytest.fixture(scope="session")
def full() -> Iterator[Stub]:
    """A server with a folder of 2,500 documents for each service."""
    with Stub() as stub:
        for service in ("s3", "gcs", "azure"):
            for number in range(2500):
                stub.put(service, BUCKET, f"p/f/{number:04}.account", b"{}")
        yield stub


def requests(stub: Stub) -> list[str]:
    """What was asked for since the reset, by the names of the stub."""
    return [str(one["op"]) for one in stub.log()]


OPERATIONS: Mapping[str, tuple[Callable[[AccountStore, Any], Awaitable[object]], list[str]]] = {
    "get": (lambda store, _: store.get(AT), ["get"]),
    "read": (lambda store, _: store.read(AT), ["get"]),
    "stat": (lambda store, _: store.stat(AT), ["head"]),
    "exists": (lambda store, _: store.exists(AT), ["head"]),
    "save": (lambda store, _: store.save(AT, NEW), ["put"]),
    "create": (lambda store, _: store.save(ABSENT, NEW, mode="create"), ["create"]),
    "swap": (lambda store, version: store.save(AT, NEW, mode=version), ["swap"]),
    "update": (lambda store, _: store.update(AT, lambda _: NEW), ["get", "swap"]),
    "delete": (lambda store, _: store.delete(AT), ["delete"]),
    "delete a version": (lambda store, version: store.delete(AT, version=version), ["delete-if"]),
    "copy": (lambda store, _: store.copy(AT, OTHER), ["get", "put"]),
}


@on_each_target
@pytest.mark.parametrize("name", OPERATIONS)
async def test_requests_of_an_operation(stub: Stub, target: Target, name: str) -> None:
    """Each operation sends exactly the requests that the design promises, and the first call no others."""
    call, expected = OPERATIONS[name]
    target.put(stub, AT, OLD)
    async with opened(target, stub) as other:
        version = (await other.read(AT)).version
    stub.reset(keep=True)
    async with opened(target, stub) as store:
        await call(store, version)
        assert requests(stub) == expected
        assert [one["key"] for one in stub.log()] == [
            f"p/{(ABSENT if name == 'create' else OTHER if op == 'put' and name == 'copy' else AT).path}"
            for op in expected
        ]


@on_each_target
async def test_requests_of_refusals(stub: Stub, target: Target) -> None:
    """A refused create or swap costs one request more, the look; a refused delete up to two; what isn't there, none,
    or one where S3's answer to a HEAD does not say what is missing.

    Each says what it met, and changes nothing.
    """
    target.put(stub, AT, OLD)
    async with opened(target, stub) as store:
        stale = (await store.read(AT)).version
        target.put(stub, AT, NEW)
        calls: list[tuple[type[BackendError], set[int], Callable[[], Awaitable[object]]]] = [
            (ExistsError, {2}, lambda: store.save(AT, OLD, mode="create")),
            (ConflictError, {2}, lambda: store.save(AT, OLD, mode=stale)),
            (ConflictError, {1, 2, 3}, lambda: store.delete(AT, version=stale)),
            (NotFoundError, {1}, lambda: store.get(ABSENT)),
            (NotFoundError, {1 if target.name in {"gcs-fsspec", "azure-fsspec"} else 2}, lambda: store.stat(ABSENT)),
        ]
        for kind, counts, call in calls:
            stub.reset(keep=True)
            with pytest.raises(kind):
                await call()
            assert stub.count() in counts
        assert target.found(stub, AT) == NEW


PAGES = {"s3": 3, "gcs": 3, "azure": 1}


@on_each_target
@pytest.mark.parametrize("recursive", [False, True])
async def test_requests_of_a_listing(full: Stub, target: Target, recursive: bool) -> None:
    """A listing of 2,500 documents is one request a page, of the service's largest pages; it finds each once."""
    full.reset(keep=True)
    async with opened(target, full) as store:
        found = [entry.location.file_name async for entry in store.list("f", recursive=recursive)]
        assert len(found) == len(set(found)) == 2500
        assert requests(full) == ["list"] * PAGES[target.service]


async def conditional_calls(store: AccountStore) -> None:
    await store.save(ABSENT, OLD, mode="create")
    await store.update(ABSENT, lambda _: NEW)
    await store.delete(ABSENT, version=(await store.read(ABSENT)).version)


CONDITIONAL = ["create", "get", "swap", "get", "delete-if"]
PROBE = ["create", "create", "swap", "swap", "delete-if", "delete"]


@on_each_target
async def test_the_probe_runs_once_in_a_store(stub: Stub, target: Target) -> None:
    """The first call with a condition, and no other, is preceded by the probe's requests; each store has its own."""
    target.put(stub, AT, OLD)
    for _ in range(2):
        stub.reset(keep=True)
        async with opened(target, stub, conditions="probe") as store:
            await store.save(AT, NEW)
            assert requests(stub) == ["put"]
            stub.reset(keep=True)
            await conditional_calls(store)
            probe = [one["op"] for one in stub.log() if ".probe" in one["key"]]
            rest = [one["op"] for one in stub.log() if ".probe" not in one["key"]]
            # Some servers call a missing document a conflict, so that a refused delete is looked at.
            assert [op for op in probe if op != "head"] == PROBE
            assert probe.count("head") <= 1
            assert rest == CONDITIONAL
            stub.reset(keep=True)
            await conditional_calls(store)
            assert requests(stub) == CONDITIONAL
            assert stub.get(target.service, BUCKET, f"p/{ABSENT.path}") is None


@on_each_target
async def test_the_probe_runs_once_for_calls_at_the_same_time(stub: Stub, target: Target) -> None:
    """Many first calls at once wait for one probe."""
    async with opened(target, stub, conditions="probe") as store, anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(lambda at: store.save(at, OLD, mode="create"), Location(f"{number}.account", folder="f"))
    probes = [one["op"] for one in stub.log() if ".probe" in one["key"] and one["op"] != "head"]
    assert probes == PROBE
    assert len([one for one in stub.log() if ".probe" not in one["key"]]) == 8


CHECK = {"s3": 14, "gcs": 13, "azure": 14}
"""Requests of `check`, which is itself a probe. A version that Google cannot have given is refused without one."""


@on_each_target
async def test_requests_of_check(stub: Stub, target: Target) -> None:
    """`check` is all right, leaves nothing, sends a known number of requests, and spares the store its probe."""
    async with opened(target, stub, conditions="probe") as store:
        check = await store.check()
        assert check.ok, check
        assert (check.create, check.update) == (True, True)
        assert stub.count() == CHECK[target.service] + (target == ("s3", "obstore"))  # does a listing go on?
        keys = {one["key"] for one in stub.log() if one["key"]}
        assert all(stub.get(target.service, BUCKET, key) is None for key in keys)
        stub.reset(keep=True)
        await conditional_calls(store)
        assert requests(stub) == CONDITIONAL


@on_each_target
async def test_each_write_is_marked(stub: Stub, target: Target) -> None:
    """A document is under its key below the prefix, with a mark of each write's own. The mark is the one field of
    metadata, whose name all releases agree on.
    """

    def metadata(at: Location) -> dict[str, str] | None:
        return stub.metadata(target.service, BUCKET, f"p/{at.path}")

    async with opened(target, stub) as store:
        marks: list[dict[str, str] | None] = []
        await store.save(AT, OLD)
        assert target.found(stub, AT) == OLD
        marks.append(metadata(AT))
        await store.save(AT, NEW, mode=(await store.read(AT)).version)
        assert target.found(stub, AT) == NEW
        marks.append(metadata(AT))
        await store.save(ABSENT, OLD, mode="create")
        marks.append(metadata(ABSENT))
        await store.save(AT, OLD)
        marks.append(metadata(AT))
    assert all(mark is not None and [*mark] == ["accountstore_write"] for mark in marks)
    values = {value for mark in marks if mark for value in mark.values()}
    assert "" not in values
    assert len(values) == len(marks)


@on_each_target
async def test_two_stores_share_no_client(stub: Stub, target: Target) -> None:
    """Two stores with equal settings have connections of their own; closing one leaves the other's as they are."""
    target.put(stub, AT, OLD)
    async with opened(target, stub) as second:
        before = stub.connections()
        async with AccountStore.open(target.config(stub.url)) as first:
            await first.get(AT)
            assert stub.connections()["accepted"] == before["accepted"] + 1
            await second.get(AT)
            await second.get(AT)
            assert stub.connections() == {"open": before["open"] + 2, "accepted": before["accepted"] + 2}
        await assert_closed(stub, before["open"] + 1)
        assert await second.get(AT) == OLD
        assert stub.connections() == {"open": before["open"] + 1, "accepted": before["accepted"] + 2}


@on_each_target
@pytest.mark.parametrize("conditions", ["trust", "probe"])
async def test_opening_and_closing_send_nothing(stub: Stub, target: Target, conditions: str) -> None:
    """A store that is opened and closed sends no request and makes no connection."""
    before = stub.connections()
    async with opened(target, stub, conditions=conditions):
        pass
    assert stub.count() == 0
    assert stub.connections() == before
