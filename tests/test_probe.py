"""The probe: where conditions depend on the server, the store relies on those that it has seen honoured."""

from __future__ import annotations

from errno import EIO, ENOSPC
from typing import TYPE_CHECKING

import anyio
import pytest
from doubles import Recording, Selective
from msgspec.structs import replace
from samples import ACCOUNT, AT

from accountstore import (
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    FullError,
    Location,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore import AccountStore
    from accountstore.backends.base import Backend, Capabilities, Stat, WriteMode

pytestmark = pytest.mark.anyio

NEW = replace(AT, file_name="new.account")
OTHER = replace(ACCOUNT, port=143)

CONDITIONAL: Mapping[str, Callable[[AccountStore, Version], Awaitable[object]]] = {
    "create": lambda store, _: store.save(NEW, ACCOUNT, mode="create"),
    "swap": lambda store, version: store.save(AT, OTHER, mode=version),
    "delete": lambda store, version: store.delete(AT, version=version),
    "move": lambda store, _: store.move(AT, NEW),
}


class Server(MemoryBackend):
    """A server that honours every condition, but answers chosen requests with an error, or not at all (None)."""

    def __init__(self, **answers: Exception | None) -> None:
        super().__init__()
        self.answers = answers
        self.keys: list[str] = []
        self.on_hanging: Callable[[], None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, verify=True)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        current = await self._current(key)
        if isinstance(mode, Version):
            await self._answer(key, "swap" if mode == current else "stale_swap")
        elif mode == "create":
            await self._answer(key, "create" if current is None else "second_create")
        return await super().write(key, data, mode=mode)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        stale = version is not None and version != await self._current(key)
        await self._answer(key, "delete" if version is None else "stale_delete" if stale else "conditional_delete")
        await super().delete(key, version=version)

    async def _current(self, key: str, /) -> Version | None:
        try:
            return (await self.stat(key)).version
        except NotFoundError:
            return None

    async def _answer(self, key: str, request: str, /) -> None:
        self.keys.append(key)
        if request not in self.answers:
            return
        error = self.answers[request]
        if error is not None:
            raise error
        if self.on_hanging is not None:
            self.on_hanging()
        await anyio.sleep_forever()

    def probed(self) -> int:
        """How many of the requests were about another document than the tests' own."""
        return sum(key not in {AT.path, NEW.path} for key in self.keys)


async def documents(backend: Backend, /) -> set[str]:
    """All keys in a storage, those included that the store does not list."""
    return {stat.key async for page in backend.scan("", recursive=True) for stat in page}


# --- what counts as honoured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("honoured", "requests"), [((), 3), (("create",), 5), (("create", "swap"), 6), (("create", "swap", "delete"), 6)]
)
async def test_conditions_are_tried_before_they_are_relied_on(honoured: tuple[str, ...], requests: int) -> None:
    """Where they depend on the server, the first conditional call tries them, once and leaving nothing; what the server
    ignores is an `UnsupportedError`, and the document is as it was. A plain call asks nothing of this.
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
    left = {entry.location: await store.get(entry.location) async for entry in store.list(recursive=True)}
    assert left == {
        **({NEW: ACCOUNT} if "create" in honoured else {}),
        **({} if "delete" in honoured else {AT: OTHER if "swap" in honoured else ACCOUNT}),
    }


async def test_control_without_the_probe_a_careless_server_overwrites() -> None:
    """The control: where the same server is believed, a create and a stale swap overwrite what is there."""
    store = store_over({"main": Selective()})
    await store.save(AT, ACCOUNT)
    await store.save(AT, OTHER, mode="create")
    assert await store.get(AT) == OTHER
    await store.save(AT, ACCOUNT, mode=Version("stale"))
    assert await store.get(AT) == ACCOUNT


FAILURES: Mapping[str, tuple[Exception, type[BackendError]]] = {
    "denied": (PermissionError(), DeniedError),
    "busy": (UnavailableError("the storage is busy"), UnavailableError),
    "lost": (ConnectionResetError(), UnavailableError),
    "full": (OSError(ENOSPC, "No space left on device"), FullError),
    "broken": (OSError(EIO, "Input/output error"), BackendError),
}


@pytest.mark.parametrize("call", ["create", "swap", "delete"])
@pytest.mark.parametrize("request_", ["second_create", "stale_swap", "stale_delete"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_of_the_probe_proves_nothing(failure: str, request_: str, call: str) -> None:
    """A condition counts as honoured where a request was refused for it. Where the request failed for any other reason
    the call fails for the same one and changes nothing; the next one probes again.
    """
    error, kind = FAILURES[failure]
    server = Server(**{request_: error})
    store = store_over({"main": server})
    version = await store.save(AT, ACCOUNT)
    with pytest.raises(kind) as caught:
        await CONDITIONAL[call](store, version)
    assert type(caught.value) is kind
    assert await documents(server) == {AT.path}
    assert await store.get(AT) == ACCOUNT

    server.answers.clear()
    server.keys.clear()
    await CONDITIONAL[call](store, version)
    assert server.probed() > 0
    assert await documents(server) == {"create": {AT.path, NEW.path}, "swap": {AT.path}, "delete": set[str]()}[call]

    server.keys.clear()
    await store.save(AT, ACCOUNT)
    with pytest.raises(ExistsError):
        await store.save(AT, OTHER, mode="create")
    with pytest.raises(ConflictError):
        await store.save(AT, OTHER, mode=Version("stale"))
    assert server.probed() == 0


async def test_a_probe_that_fails_for_a_while_is_tried_again() -> None:
    """A temporary failure takes an attempt, as in any other call."""

    class Busy(Server):
        async def _answer(self, key: str, request: str, /) -> None:
            try:
                await super()._answer(key, request)
            finally:
                self.answers.pop(request, None)

    server = Busy(second_create=ConnectionResetError())
    store = store_over({"main": server}, attempts=2)
    await store.save(NEW, ACCOUNT, mode="create")
    assert await documents(server) == {NEW.path}


async def test_what_a_backend_will_not_try_is_not_honoured() -> None:
    """A backend without a conditional delete still creates and swaps; such a delete is refused, and check says so."""
    refusal = UnsupportedError("no such request")
    server = Server(stale_delete=refusal, conditional_delete=refusal)
    store = store_over({"main": server})
    version = await store.save(AT, ACCOUNT, mode="create")
    version = await store.save(AT, OTHER, mode=version)
    with pytest.raises(UnsupportedError) as caught:
        await store.delete(AT, version=version)
    assert caught.value.location == AT
    assert await documents(server) == {AT.path}
    found = await store.check()
    assert (found.create, found.update, found.delete) == (True, True, False)
    await store.delete(AT)
    assert await documents(server) == set()


@pytest.mark.parametrize("declared", ["create", "update"])
async def test_a_backend_is_believed_just_what_it_declares(declared: str) -> None:
    """A backend that vouches for its creates only, or for its swaps only, serves those and no other condition."""
    backend = Recording(create=declared == "create", update=declared == "update")
    store = store_over({"main": backend})
    version = await store.save(AT, ACCOUNT)
    if declared == "create":
        await store.save(NEW, ACCOUNT, mode="create")
        with pytest.raises(ExistsError):
            await store.save(NEW, OTHER, mode="create")
        with pytest.raises(UnsupportedError):
            await store.save(AT, OTHER, mode=version)
        with pytest.raises(UnsupportedError):
            await store.delete(AT, version=version)
        assert await store.get(AT) == ACCOUNT
    else:
        swapped = await store.save(AT, OTHER, mode=version)
        with pytest.raises(ConflictError):
            await store.save(AT, ACCOUNT, mode=version)
        with pytest.raises(ConflictError):
            await store.delete(AT, version=version)
        await store.delete(AT, version=swapped)
        with pytest.raises(UnsupportedError):
            await store.save(NEW, ACCOUNT, mode="create")
        assert not await store.exists(NEW)


# --- where it is tried, and what it leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", CONDITIONAL)
async def test_the_probe_stays_in_the_documents_folder(call: str) -> None:
    """A caller with rights in one folder only makes conditional calls there: the probe asks for nothing elsewhere."""

    class Fenced(Server):
        async def _answer(self, key: str, request: str, /) -> None:
            await super()._answer(key, request)
            if key.rpartition("/")[0] != AT.folder:
                raise PermissionError

    server = Fenced()
    store = store_over({"main": server})
    version = await store.save(AT, ACCOUNT)
    await CONDITIONAL[call](store, version)
    assert server.probed() > 0
    with pytest.raises(DeniedError):
        await store.delete(Location("email.account", folder="elsewhere"))


async def test_the_probe_needs_no_right_to_delete() -> None:
    """Where its own document cannot be removed, creates and swaps go on: the refusal to remove it is no failure."""
    server = Server(delete=PermissionError())
    store = store_over({"main": server})
    version = await store.save(AT, ACCOUNT, mode="create")
    await store.save(AT, OTHER, mode=version)
    assert await store.get(AT) == OTHER
    with pytest.raises(DeniedError):
        await store.delete(AT)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("hanging", ["second_create", "stale_swap", "stale_delete"])
async def test_a_probe_that_is_given_up_leaves_nothing(hanging: str, cancelled: bool) -> None:
    """When the time is up in the middle of the probe its document is removed all the same, also for a caller who was
    cancelled meanwhile.
    """
    server = Server(**{hanging: None})
    store = store_over({"main": server}, timeout=0.2)
    with anyio.CancelScope() as scope:
        server.on_hanging = scope.cancel if cancelled else None
        with pytest.raises(UnavailableError) as caught:
            await store.save(NEW, ACCOUNT, mode="create")
        assert type(caught.value) is UnavailableError  # the document itself was not sent
    assert scope.cancelled_caught == scope.cancel_called
    assert server.probed() > 0
    assert await documents(server) == set()


async def test_removing_the_probes_document_is_bounded() -> None:
    """A storage that answers no delete either does not keep the caller much longer than the deadline."""
    server = Server(stale_swap=None, delete=None)
    store = store_over({"main": server}, timeout=0.2)
    with pytest.raises(UnavailableError):
        await store.save(NEW, ACCOUNT, mode="create")
    assert NEW.path not in await documents(server)
