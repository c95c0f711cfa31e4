"""Retry: attempts and backoff, and the truth about a write whose answer was lost or refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import pytest
from doubles import Recording, raises
from msgspec.structs import replace
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, FAILING, FULL, OAUTH, next_port

from accountstore import Account, AccountStore, Location
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.errors import (
    BackendError,
    ConflictError,
    DeniedError,
    ExistsError,
    NotFoundError,
    UnavailableError,
    UncertainError,
)
from accountstore.retry import backoff
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from accountstore.backends.base import Capabilities, Stat, WriteMode
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

each_request = pytest.mark.parametrize(
    ("call", "operation"), [pair for pair in FAILING if not pair[1].endswith("_many")]
)


async def failing(operation: Operation, *errors: Exception, moment: Literal["before", "after"] = "before") -> Recording:
    """A backend with a document, whose first calls of an operation fail, or have done their work and then fail."""
    backend = Recording(None, [Fault(operation, nth, moment, error) for nth, error in enumerate(errors, 1)])
    await backend.put(AT, JSON.encode(ACCOUNT))
    return backend


async def content(store: AccountStore, /) -> dict[Location, Account]:
    return {entry.location: await store.get(entry.location) async for entry in store.list(recursive=True)}


@each_request
@pytest.mark.parametrize("attempts", [1, 3, 4])
async def test_what_fails_for_a_while_is_tried_again(
    call: str, operation: Operation, attempts: int, pauses: list[float]
) -> None:
    """A call whose first three requests fail needs four attempts, with a pause between two, and no other."""
    backend = await failing(operation, *[ConnectionResetError()] * 3)
    kind = UncertainError if operation in {"write", "delete"} else UnavailableError
    with nullcontext() if attempts == 4 else raises(UnavailableError, __class__=kind):
        await CALLS[call](store_over({"main": backend}, attempts=attempts))
    assert backend.calls[operation] == attempts + (attempts == 4 and call == "list")  # the page after the last
    assert len(pauses) == attempts - 1


@each_request
@pytest.mark.parametrize("error", [DeniedError("denied"), BackendError("broken"), NotFoundError("no such bucket")])
async def test_what_will_not_pass_is_not_tried_again(
    call: str, operation: Operation, error: Exception, pauses: list[float]
) -> None:
    """An error that is not temporary is that of the first attempt."""
    backend = await failing(operation, error)
    absent = call == "exists" and isinstance(error, NotFoundError)
    with nullcontext() if absent else pytest.raises(type(error)):
        assert await CALLS[call](store_over({"main": backend}, attempts=4)) is False
    assert backend.calls[operation] == 1
    assert pauses == []


async def test_pauses_are_longer_after_each_attempt(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    """A pause is a random part of what doubles from 0.1 s after each attempt, up to 5 s or the bound that is given."""
    monkeypatch.setattr("random.random", lambda: 1.0)
    for attempt in (0, 1, 5, 6, 10_000):
        await backoff(attempt)
    await backoff(2, 0.002, 0.25)
    await backoff(64, 0.002, 0.25)
    assert pauses == [0.1, 0.2, 3.2, 5.0, 5.0, 0.008, 0.25]
    monkeypatch.setattr("random.random", lambda: 0.5)
    await backoff(1)
    assert pauses[-1] == 0.1


@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.parametrize(
    ("call", "operation", "blind", "after"),
    [
        ("save", "write", True, {AT: OAUTH}),
        ("delete", "delete", True, {}),
        ("create", "write", False, {AT: ACCOUNT, ELSEWHERE: ACCOUNT}),
        ("swap", "write", False, {AT: OAUTH}),
        ("update", "write", False, {AT: next_port(ACCOUNT)}),
        ("move", "delete", False, {ELSEWHERE: ACCOUNT}),
        ("delete of a version", "delete", False, {}),
    ],
)
async def test_a_change_whose_answers_are_lost_is_made_once(
    call: str, operation: Operation, blind: bool, after: dict[Location, Account], attempts: int, pauses: list[float]
) -> None:
    """A conditional change whose answer was lost has succeeded; any other is made again, or is uncertain."""
    backend = await failing(operation, *[ConnectionResetError()] * 3, moment="after")
    store = store_over({"main": backend}, attempts=attempts)
    if blind and attempts == 1:
        with pytest.raises(UncertainError, match="the outcome of the write is unknown"):
            await CALLS[call](store)
    else:
        done = await CALLS[call](store)
        assert call != "update" or done == await store.read(AT)
    assert backend.calls[operation] == (attempts if blind else 1)
    assert len(pauses) == (attempts - 1 if blind else 0)
    assert await content(store) == after


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize(
    ("call", "look"),
    [("save", []), ("delete", []), ("create", ["read"]), ("swap", ["read"]), ("delete of a version", ["stat"])],
)
async def test_a_change_that_surely_was_not_made_is_not_uncertain(call: str, look: list[str], sent: bool) -> None:
    """A storage that is down is asked once more about a conditional change that may have been made."""
    backend = await failing("write")

    async def fail(_: str) -> None:
        raise ConnectionResetError if sent else ConnectionRefusedError

    backend.before = fail
    with raises(UnavailableError, __class__=UncertainError if sent else UnavailableError):
        await CALLS[call](store_over({"main": backend}))
    assert backend.log[1:] == (look if sent else [])


@pytest.mark.parametrize(("call", "location"), [("create", ELSEWHERE), ("swap", AT)])
async def test_a_lost_answer_and_another_writer_are_uncertain(call: str, location: Location) -> None:
    """Where another's document stands after a lost answer, who was first is unknown: no conflict, no success."""
    backend = await failing("write", ConnectionResetError(), moment="after")

    async def overtake(begun: str) -> None:
        if begun == "read":
            await backend.put(location, JSON.encode(FULL))

    backend.before = overtake
    with raises(UncertainError, match="another document is there now", temporary=True):
        await CALLS[call](store_over({"main": backend}, attempts=4))
    assert await backend.raw(location) == JSON.encode(FULL)


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(("error", "writes"), [(ConnectionResetError(), 2), (PermissionError(), 1)])
async def test_a_document_that_cannot_be_looked_at_decides_nothing(error: Exception, writes: int) -> None:
    """A look that fails for a while leads to another attempt; one that fails for good leaves the outcome uncertain."""
    backend = Recording(None, [Fault("write", 1, "after", ConnectionResetError()), Fault("read", 1, "before", error)])
    with nullcontext() if writes == 2 else pytest.raises(UncertainError, match="access is denied"):
        await CALLS["create"](store_over({"main": backend}, attempts=4))
    assert backend.calls["write"] == writes
    assert await backend.raw(ELSEWHERE) == JSON.encode(ACCOUNT)


class Rivalled(MemoryBackend):
    """A backend whose store saves a document of its own whenever it looks at one."""

    store: AccountStore

    async def stat(self, key: str, /) -> Stat:
        await self.store.save(AT, FULL)
        return await super().stat(key)


@pytest.mark.usefixtures("pauses")
async def test_a_lost_answer_and_a_later_write_of_the_same_store_are_uncertain() -> None:
    """A save whose answer was lost is not repeated over one that the same store has begun and done meanwhile: readers
    may have seen the first, then the second.
    """
    backend = Rivalled()
    faulty = FaultyBackend(backend, [Fault("write", 1, "after", ConnectionResetError())])
    backend.store = store_over({"main": faulty}, attempts=4)
    with pytest.raises(UncertainError, match="another document is there now"):
        await backend.store.save(AT, ACCOUNT)
    assert await backend.store.get(AT) == FULL


@pytest.mark.usefixtures("pauses")
async def test_control_a_lost_request_and_an_earlier_write_of_the_same_store_are_repeated() -> None:
    """The control: over a document that the store has saved before, a save that was lost is repeated."""
    backend = FaultyBackend(MemoryBackend(), [Fault("write", 2, "before", ConnectionResetError())])
    store = store_over({"main": backend}, attempts=4)
    await store.save(AT, FULL)
    await store.save(AT, ACCOUNT)
    assert await store.get(AT) == ACCOUNT
    assert backend.calls["write"] == 3


class Deleting(MemoryBackend):
    """A backend on which a rival deletes whatever is looked at."""

    async def stat(self, key: str, /) -> Stat:
        await self.delete(key)
        return await super().stat(key)


@pytest.mark.usefixtures("pauses")
async def test_a_lost_answer_and_a_delete_of_a_document_that_the_store_made_are_uncertain() -> None:
    """A save whose answer was lost does not bring back a document that the store has made before, and that is gone."""
    backend = FaultyBackend(Deleting(), [Fault("write", 2, "after", ConnectionResetError())])
    store = store_over({"main": backend}, attempts=4)
    await store.save(AT, FULL)
    with pytest.raises(UncertainError):
        await store.save(AT, ACCOUNT)
    assert not await content(store)


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("deleted", [False, True], ids=["unknown", "deleted by the store"])
async def test_control_a_lost_request_for_a_missing_document_is_repeated(deleted: bool) -> None:
    """The control: where the store knows of no document, or has deleted it itself, a save that was lost is repeated."""
    backend = FaultyBackend(MemoryBackend(), [Fault("write", 1 + deleted, "before", ConnectionResetError())])
    store = store_over({"main": backend}, attempts=4)
    if deleted:
        await store.save(AT, FULL)
        await store.delete(AT)
    await store.save(AT, ACCOUNT)
    assert await content(store) == {AT: ACCOUNT}


class Repeating(MemoryBackend):
    """A backend over a client that repeats requests: the answer to the last one is all that is seen.

    The first conditional write is answered by an error. The write is done before, unless `lands` is false. Each
    document keeps the token of its write.
    """

    def __init__(self, answer: Exception, /, *, lands: bool = True) -> None:
        super().__init__()
        self.answer = answer
        self.lands = lands
        self.tokens: dict[str, str] = {}
        self.writes = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, write_tokens=True)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self.writes += mode != "overwrite"
        answered = mode != "overwrite" and self.writes == 1
        if answered and not self.lands:
            raise self.answer
        stat = await super().write(key, data, mode=mode)
        self.tokens[key] = write_token
        if answered:
            raise self.answer
        return stat

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), write_token=self.tokens.get(key))


@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.parametrize(
    ("call", "answer", "location", "document"),
    [
        ("swap", ConflictError("it has changed"), AT, OAUTH),
        ("swap", NotFoundError("not there"), AT, OAUTH),
        ("update", NotFoundError("not there"), AT, next_port(ACCOUNT)),
        ("create", ExistsError("there is a document already"), ELSEWHERE, ACCOUNT),
    ],
    ids=["swap refused", "swap not found", "update not found", "create refused"],
)
async def test_a_refused_change_that_finds_its_own_document_has_succeeded(
    call: str, answer: Exception, location: Location, document: Account, attempts: int
) -> None:
    """The first request of a change was made and its answer lost; the client's second one is refused, or answered that
    there is no such document: the document has the write token of the change, so it succeeded.
    """
    backend = Repeating(answer)
    store = store_over({"main": backend}, attempts=attempts)
    await store.save(AT, ACCOUNT)
    await CALLS[call](store)
    assert backend.writes == 1
    assert await store.get(location) == document


@pytest.mark.parametrize("error", [ConflictError("it has changed"), NotFoundError("not there")])
async def test_control_a_refused_swap_that_finds_another_document_has_lost(error: Exception) -> None:
    """The control: where the document is another's, the refusal is the answer, and the other document stays."""
    backend = Repeating(error, lands=False)
    store = store_over({"main": backend}, attempts=4)
    await store.save(AT, FULL)
    with pytest.raises(type(error)):
        await CALLS["swap"](store)
    assert backend.writes == 1
    assert await store.get(AT) == FULL


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    ("call", "answer", "after"),
    [
        ("create", ExistsError("there"), {AT: ACCOUNT, ELSEWHERE: ACCOUNT}),
        ("swap", ConflictError("it has changed"), {AT: OAUTH}),
    ],
)
async def test_a_refusal_with_nothing_in_the_way_is_temporary(
    call: str, answer: Exception, after: dict[Location, Account], attempts: int
) -> None:
    """Whoever stood in the way of a create or a swap is gone: it is tried again, or fails for a while."""
    backend = Repeating(answer, lands=False)
    store = store_over({"main": backend}, attempts=attempts)
    await store.save(AT, ACCOUNT)
    with nullcontext() if attempts == 2 else raises(UnavailableError, match="nothing is in its way", temporary=True):
        await CALLS[call](store)
    assert await content(store) == (after if attempts == 2 else {AT: ACCOUNT})
    assert backend.writes == attempts
