"""The probe: where conditions depend on the server, the store relies on those that it has seen honoured."""

from __future__ import annotations

from errno import EIO, ENOSPC
from typing import TYPE_CHECKING

import anyio
import pytest
from doubles import Recording, Selective, raises
from msgspec.structs import replace
from samples import ACCOUNT, AT

from accountstore import Version
from accountstore.codecs import JSON
from accountstore.errors import (
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    UnavailableError,
    UnsupportedError,
)
from accountstore.probe import server_time
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore import AccountStore
    from accountstore.backends.base import Backend, Stat, WriteMode
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

NEW = replace(AT, file_name="new.account")
OTHER = replace(ACCOUNT, port=143)

CONDITIONAL: Mapping[str, Callable[[AccountStore, Version], Awaitable[object]]] = {
    "create": lambda store, _: store.save(NEW, ACCOUNT, mode="create"),
    "swap": lambda store, version: store.save(AT, OTHER, mode=version),
    "delete": lambda store, version: store.delete(AT, version=version),
    "move": lambda store, _: store.move(AT, NEW),
}
PROBE = ["write", "write", "write", "write", "delete", "delete"]
"""Its requests: a create, a second one, a swap, a stale one, a stale delete, and the delete of its document."""

MUST_FAIL = {"second create": ("write", 2), "stale swap": ("write", 4), "stale delete": ("delete", 1)}
each_request = pytest.mark.parametrize(("operation", "nth"), MUST_FAIL.values(), ids=MUST_FAIL)
"""The requests of the probe that must be refused."""


def server(*faults: Fault) -> Recording:
    """A server that honours every condition, whose requests may fail."""
    return Recording(None, faults, verify=True, write_tokens=False)


async def keys(backend: Backend, /) -> set[str]:
    """All keys in a storage, those included that the store does not list."""
    return {stat.key async for page in backend.scan("", recursive=True) for stat in page}


@pytest.mark.parametrize(
    ("honoured", "requests"), [((), 6), (("create",), 10), (("create", "swap"), 12), (("create", "swap", "delete"), 6)]
)
async def test_conditions_are_tried_before_they_are_relied_on(honoured: tuple[str, ...], requests: int) -> None:
    """Where they depend on the server, the first conditional call tries them, leaving nothing, and once more where one
    is ignored; that is an `UnsupportedError`, and the document is as it was. A plain call asks nothing of this.
    """
    backend = Recording(Selective(*honoured), verify=True)
    store = store_over({"main": backend})
    await store.save(AT, ACCOUNT)
    assert backend.log == ["write"]
    for name in ("create", "swap", "delete"):
        version = (await store.read(AT)).version
        backend.log.clear()
        if name in honoured:
            await CONDITIONAL[name](store, version)
        else:
            with pytest.raises(UnsupportedError, match="'main' ignores the condition"):
                await CONDITIONAL[name](store, version)
        assert len(backend.log) == (name in honoured) + requests
        requests = 0
    assert await keys(backend) == {AT.path} - {AT.path for _ in honoured[2:]} | {NEW.path for _ in honoured[:1]}
    if "delete" not in honoured:
        assert await store.get(AT) == (OTHER if "swap" in honoured else ACCOUNT)


async def test_control_without_the_probe_a_careless_server_overwrites() -> None:
    """The control: where the same server is believed, a create and a stale swap overwrite what is there."""
    store = store_over({"main": Selective()})
    await store.save(AT, ACCOUNT)
    await store.save(AT, OTHER, mode="create")
    assert await store.get(AT) == OTHER
    await store.save(AT, ACCOUNT, mode=Version("stale"))
    assert await store.get(AT) == ACCOUNT


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_another_probe_that_removes_the_document_changes_nothing(nth: int) -> None:
    """Of stores that probe one folder at once, one may remove the probe document before another has ended: that one
    finds what the server honours all the same, and no `NotFoundError` about a document that is none of the caller's.
    """

    class Removing(Selective):
        """A server where the probe document of a rival is, which the rival removes after the nth write."""

        writes = 0

        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            self.writes += 1
            if self.writes == 1:
                await super().write(key, b"a rival's", mode="overwrite")
            try:
                return await super().write(key, data, mode=mode, write_token=write_token)
            finally:
                if self.writes == nth:
                    await self.delete(key)

    store = store_over({"main": Recording(Removing("create", "swap", "delete"), verify=True)})
    await store.save(AT, ACCOUNT, mode="create")
    assert await store.get(AT) == ACCOUNT


@pytest.mark.parametrize("call", ["create", "swap", "delete"])
@each_request
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(), DeniedError),
        (UnavailableError("the storage is busy"), UnavailableError),
        (ConnectionResetError(), UnavailableError),
        (OSError(ENOSPC, "No space left on device"), FullError),
        (OSError(EIO, "Input/output error"), BackendError),
    ],
    ids=["denied", "busy", "lost", "full", "broken"],
)
async def test_a_failure_of_the_probe_proves_nothing(
    error: Exception, kind: type[BackendError], operation: Operation, nth: int, call: str
) -> None:
    """A condition counts as honoured where a request was refused for it. Where the request failed for any other reason
    the call fails for the same one and changes nothing; the next one probes again, and those after it do not.
    """
    if operation == "delete" and kind is DeniedError:
        pytest.skip("who may delete nothing may still create and swap")
    backend = server(Fault(operation, nth, "before", error))
    store = store_over({"main": backend})
    await backend.put(AT, JSON.encode(ACCOUNT))
    version = (await store.read(AT)).version
    with raises(kind, __class__=kind):
        await CONDITIONAL[call](store, version)
    assert await keys(backend) == {AT.path}
    assert await store.get(AT) == ACCOUNT

    backend.log.clear()
    await CONDITIONAL[call](store, version)
    assert backend.log[:-1] == PROBE
    assert await keys(backend) == {"create": {AT.path, NEW.path}, "swap": {AT.path}, "delete": set[str]()}[call]

    await store.save(AT, ACCOUNT)
    backend.log.clear()
    with pytest.raises(ExistsError):
        await store.save(AT, OTHER, mode="create")
    with pytest.raises(ConflictError):
        await store.save(AT, OTHER, mode=Version("stale"))
    assert backend.log == ["write", "write"]


async def test_a_probe_that_fails_for_a_while_is_tried_again() -> None:
    """A temporary failure takes an attempt, as in any other call."""
    backend = server(Fault("write", 2, "before", ConnectionResetError()))
    await store_over({"main": backend}, attempts=2).save(NEW, ACCOUNT, mode="create")
    assert backend.log == ["write", "write", "delete", *PROBE, "write"]
    assert await keys(backend) == {NEW.path}


async def test_what_a_backend_will_not_try_is_not_honoured() -> None:
    """A backend without a conditional delete still creates and swaps; such a delete is refused, and check says so."""
    backend = server(*(Fault("delete", nth, "before", UnsupportedError("no such request")) for nth in (1, 3, 5)))
    store = store_over({"main": backend})
    version = await store.save(AT, ACCOUNT, mode="create")
    version = await store.save(AT, OTHER, mode=version)
    with raises(UnsupportedError, location=AT):
        await store.delete(AT, version=version)
    assert await keys(backend) == {AT.path}
    found = await store.check()
    assert (found.create, found.update, found.delete) == (True, True, False)
    await store.delete(AT)
    assert await keys(backend) == set()


@pytest.mark.parametrize("declared", ["create", "update"])
async def test_a_backend_is_believed_just_what_it_declares(declared: str) -> None:
    """A backend that vouches for its creates only, or for its swaps only, serves those and no other condition."""
    create, update = declared == "create", declared == "update"
    store = store_over({"main": Recording(create=create, update=update)})
    version = await store.save(AT, ACCOUNT)
    if create:
        await CONDITIONAL["create"](store, version)
    if update:
        await CONDITIONAL["swap"](store, version)
    for name, error in (
        ("create", ExistsError if create else UnsupportedError),
        ("swap", ConflictError if update else UnsupportedError),
        ("delete", ConflictError if update else UnsupportedError),
    ):
        with pytest.raises(error):
            await CONDITIONAL[name](store, version)
    assert await store.exists(NEW) == create
    assert await store.get(AT) == (OTHER if update else ACCOUNT)
    if update:
        await store.delete(AT, version=(await store.read(AT)).version)
        assert not await store.exists(AT)


@pytest.mark.parametrize("call", CONDITIONAL)
async def test_the_probe_stays_in_the_documents_folder(call: str) -> None:
    """A caller with rights in one folder only makes conditional calls there: the probe writes nothing elsewhere."""
    backend = server()
    seen: set[str] = set()

    async def look(begun: str) -> None:
        if begun != "scan":
            seen.update(await keys(backend))

    backend.before = look
    store = store_over({"main": backend})
    version = await store.save(AT, ACCOUNT)
    await CONDITIONAL[call](store, version)
    assert any(key.endswith(".probe") for key in seen)
    assert {key.rpartition("/")[0] for key in seen} == {AT.folder}


async def test_the_probe_needs_no_right_to_delete() -> None:
    """Whoever may delete nothing may create and swap. The probe's document stays, but one: the next store finds it, and
    whoever asks for the server's time.
    """
    backend = server(*(Fault("delete", nth, "before", PermissionError()) for nth in range(1, 11)))
    for store in (store_over({"main": backend}), store_over({"main": backend})):
        version = await store.save(AT, ACCOUNT, mode="create")
        await store.save(AT, OTHER, mode=version)
        with pytest.raises(DeniedError):
            await store.delete(AT, version=version)
        assert await store.get(AT) == OTHER
        assert await server_time(backend, AT.folder) is not None
        assert len(await keys(backend)) == 2
        await backend.remove(AT.path)


async def test_the_servers_time_is_told_whoever_removes_the_document() -> None:
    """A probe that removes it before it was looked at leads to one of another name, and none stays."""
    backend = server()

    async def tidy(begun: str) -> None:
        if begun == "stat" and backend.log.count("stat") == 1:
            for key in await keys(backend):
                await backend.remove(key)

    backend.before = tidy
    assert await server_time(backend, AT.folder) is not None
    assert backend.log.count("stat") == 2
    assert not await keys(backend)


async def test_another_probe_meanwhile_does_not_deceive() -> None:
    """A create that succeeds twice, as another store has just removed the probe's document, is tried once more."""
    backend = server()

    async def tidy(begun: str) -> None:
        if begun == "write" and backend.log.count("write") == 2:
            for key in await keys(backend):
                await backend.remove(key)

    backend.before = tidy
    await store_over({"main": backend}).save(AT, ACCOUNT, mode="create")
    assert await keys(backend) == {AT.path}


@pytest.mark.parametrize("cancelled", [False, True])
@each_request
async def test_a_probe_that_is_given_up_leaves_nothing(operation: Operation, nth: int, cancelled: bool) -> None:
    """When the time is up in the middle of the probe its document is removed all the same, also for a caller who was
    cancelled meanwhile; as the document itself was not sent, nothing is uncertain.
    """
    backend = server(Fault(operation, nth, "hang"))

    async def cancel(begun: str) -> None:
        if cancelled and begun == operation and backend.calls[operation] == nth - 1:
            scope.cancel()

    backend.before = cancel
    with anyio.CancelScope() as scope, raises(UnavailableError, __class__=UnavailableError):
        await store_over({"main": backend}, timeout=0.1).save(NEW, ACCOUNT, mode="create")
    assert scope.cancelled_caught == scope.cancel_called
    assert backend.calls["write"] > 1
    assert await keys(backend) == set()


async def test_removing_the_probes_document_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that answers no delete either does not keep the caller much longer than the deadline."""
    monkeypatch.setattr("accountstore.probe._CLEANUP_SECONDS", 0.1)
    backend = server(Fault("write", 4, "hang"), Fault("delete", 1, "hang"))
    with pytest.raises(UnavailableError):
        await store_over({"main": backend}, timeout=0.2).save(NEW, ACCOUNT, mode="create")
    assert backend.log == ["write", "write", "write", "write", "delete"]
    assert NEW.path not in await keys(backend)
