"""Retry: attempts and backoff, and the truth about a write whose answer was lost or refused."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

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
from accountstore.retry import PendingWrite, backoff
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
    """A call whose first three requests fail needs four attempts, with a pause between two, and no other. Of a storage
    without conditions, unless the call has one: what is looked at before a repetition is another test's.
    """
    backend = await failing(operation, *[ConnectionResetError()] * 3)
    if call in {"save", "save_multi", "save_json", "copy", "delete"}:
        backend.declared = replace(backend.declared, create=False, update=False)
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
    """An error that is not temporary is that of the first attempt; of a storage whose refusals are not looked at."""
    backend = await failing(operation, error)
    backend.declared = replace(backend.declared, write_tokens=False)
    absent = call == "exists" and isinstance(error, NotFoundError)
    with nullcontext() if absent else pytest.raises(type(error)):
        assert await CALLS[call](store_over({"main": backend}, attempts=4)) is False
    assert backend.calls[operation] == 1
    assert pauses == []


async def test_pauses_are_longer_after_each_attempt(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    """A pause is a random part of what doubles from 0.1 s after each attempt, up to 5 s or the bound that is given."""
    monkeypatch.setattr("accountstore.retry.random", lambda: 1.0)
    for attempt in (0, 1, 5, 6, 10_000):
        await backoff(attempt)
    await backoff(2, 0.002, 0.25)
    await backoff(64, 0.002, 0.25)
    assert pauses == [0.1, 0.2, 3.2, 5.0, 5.0, 0.008, 0.25]
    monkeypatch.setattr("accountstore.retry.random", lambda: 0.5)
    await backoff(1)
    assert pauses[-1] == 0.1


@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.parametrize(
    ("call", "operation", "after"),
    [
        ("save", "write", {AT: OAUTH}),
        ("delete", "delete", {}),
        ("create", "write", {AT: ACCOUNT, ELSEWHERE: ACCOUNT}),
        ("swap", "write", {AT: OAUTH}),
        ("update", "write", {AT: next_port(ACCOUNT)}),
        ("move", "delete", {ELSEWHERE: ACCOUNT}),
        ("delete of a version", "delete", {}),
    ],
)
async def test_a_change_whose_answers_are_lost_is_made_once(
    call: str, operation: Operation, after: dict[Location, Account], attempts: int, pauses: list[float]
) -> None:
    """A change whose answer was lost has succeeded if the document has its write token, or is gone after a delete."""
    backend = await failing(operation, *[ConnectionResetError()] * 3, moment="after")
    store = store_over({"main": backend}, attempts=attempts)
    done = await CALLS[call](store)
    assert call != "update" or done == await store.read(AT)
    assert backend.calls[operation] == 1
    assert pauses == []
    assert await content(store) == after


UNCONDITIONAL = pytest.mark.parametrize(("call", "operation"), [("save", "write"), ("delete", "delete")])


@UNCONDITIONAL
@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("blind", [False, True], ids=["looks", "control"])
async def test_a_repetition_undoes_nobodys_change(
    call: str, operation: Operation, blind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have saved after a change without condition whose answer was lost stays: the outcome is uncertain.
    The control: a change that is repeated without a look undoes it.
    """
    backend = await failing(operation, ConnectionResetError(), moment="after")

    async def overtake(begun: str) -> None:
        if begun == "stat" and backend.calls[operation] == 1:
            await backend.put(AT, JSON.encode(FULL), minutes=0)

    async def repeat(writing: Any, _: object) -> PendingWrite:
        return cast("PendingWrite", writing.write)

    backend.before = overtake
    if blind:
        monkeypatch.setattr("accountstore.retry._Writing._repeatable", repeat)
    store = store_over({"main": backend}, attempts=4)
    with nullcontext() if blind else raises(UncertainError, match="what is there now may be another's"):
        await CALLS[call](store)
    assert (await content(store) == {AT: FULL}) is not blind


@UNCONDITIONAL
@pytest.mark.parametrize("first", ["by this store", "by another, long ago"])
@pytest.mark.usefixtures("pauses")
async def test_a_change_that_was_lost_on_its_way_to_a_quiet_document_is_made_again(
    call: str, operation: Operation, first: str
) -> None:
    """A change without condition that did not reach its document is made again where the document is older than the
    first request: this store's last one, or by the clock of the storage. It is made on the condition that it stays.
    """
    backend = await failing(operation, ConnectionResetError())
    store = store_over({"main": backend}, attempts=4)
    if first == "by this store":
        backend.calls["write"] -= 1
        await store.save(AT, FULL)
    await CALLS[call](store)
    assert await content(store) == ({AT: OAUTH} if call == "save" else {})


class Dated(Recording):
    """A storage that dates its documents at an end of the calendar."""

    moment = datetime.max.replace(tzinfo=UTC)

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), modified=self.moment)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return replace(await super().write(key, data, mode=mode, write_token=write_token), modified=self.moment)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.usefixtures("pauses")
async def test_a_date_at_an_end_of_the_calendar_tells_nothing(moment: datetime) -> None:
    """A save that was lost on its way to such a document ends as one whose outcome is not known."""
    backend = Dated(None, [Fault("write", 1, "before", ConnectionResetError())])
    backend.moment = moment
    await backend.put(AT, JSON.encode(ACCOUNT))
    with raises(UncertainError, match="what is there now may be another's"):
        await CALLS["save"](store_over({"main": backend}, attempts=4))


@pytest.mark.usefixtures("pauses")
async def test_a_save_that_was_lost_on_its_way_is_a_create_where_nothing_is() -> None:
    """A save whose request was lost is made again as a create where there is no document: a rival's stays."""
    backend = Recording(None, [Fault("write", 1, "before", ConnectionResetError())])
    store = store_over({"main": backend}, attempts=4)
    await store.save(AT, ACCOUNT)
    assert await store.get(AT) == ACCOUNT


@pytest.mark.usefixtures("pauses")
@UNCONDITIONAL
async def test_a_storage_without_conditions_is_asked_again_blindly(call: str, operation: Operation) -> None:
    """Where a storage has no conditions at all, a change without condition is repeated as it is."""
    backend = Recording(None, [Fault(operation, 1, "before", ConnectionResetError())], create=False, update=False)
    await backend.put(AT, JSON.encode(ACCOUNT))
    await CALLS[call](store_over({"main": backend}, attempts=4))
    assert backend.calls[operation] == 2


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("call", ["save", "delete", "create", "swap", "delete of a version"])
async def test_a_change_that_surely_was_not_made_is_not_uncertain(call: str, sent: bool) -> None:
    """A storage that is down is asked once more about a change that may have been made."""
    backend = await failing("write")

    async def fail(_: str) -> None:
        raise ConnectionResetError if sent else ConnectionRefusedError

    backend.before = fail
    with raises(UnavailableError, __class__=UncertainError if sent else UnavailableError):
        await CALLS[call](store_over({"main": backend}))
    assert backend.log[1:] == (["stat"] if sent else [])


@pytest.mark.parametrize(("call", "location"), [("create", ELSEWHERE), ("swap", AT)])
async def test_a_lost_answer_and_another_writer_are_uncertain(call: str, location: Location) -> None:
    """Where another's document stands after a lost answer, who was first is unknown: no conflict, no success."""
    backend = await failing("write", ConnectionResetError(), moment="after")

    async def overtake(begun: str) -> None:
        if begun == "stat":
            await backend.put(location, JSON.encode(FULL))

    backend.before = overtake
    with raises(UncertainError, match="what is there now may be another's", temporary=True):
        await CALLS[call](store_over({"main": backend}, attempts=4))
    assert await backend.raw(location) == JSON.encode(FULL)


async def test_equal_bytes_do_not_prove_who_wrote_them() -> None:
    """Where a storage keeps no write tokens, a document with the bytes of a lost swap may be another's."""
    backend = await failing("write", ConnectionResetError(), moment="after")
    backend.declared = replace(backend.declared, write_tokens=False)
    with raises(UncertainError, match="what is there now may be another's"):
        await CALLS["swap"](store_over({"main": backend}, attempts=4))


@pytest.mark.parametrize("call", ["save", "create"])
@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("error", [ConnectionResetError(), PermissionError()])
async def test_a_document_that_cannot_be_looked_at_decides_nothing(call: str, error: Exception) -> None:
    """A look that fails for a while is taken again, before anything is sent; one that fails for good leaves the outcome
    uncertain.
    """
    backend = Recording(None, [Fault("write", 1, "after", ConnectionResetError()), Fault("stat", 1, "before", error)])
    good = isinstance(error, ConnectionResetError)
    with nullcontext() if good else pytest.raises(UncertainError, match="access is denied"):
        await CALLS[call](store_over({"main": backend}, attempts=4))
    assert (backend.calls["write"], backend.calls["stat"]) == (1, 1 + good)


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
    with pytest.raises(UncertainError, match="what is there now may be another's"):
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

    The first conditional write is answered by an error. The write is done before, unless `lands` is false.
    """

    def __init__(self, answer: Exception, /, *, lands: bool = True) -> None:
        super().__init__()
        self.answer = answer
        self.lands = lands
        self.writes = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, certain=False)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self.writes += mode != "overwrite"
        answered = mode != "overwrite" and self.writes == 1
        if answered and not self.lands:
            raise self.answer
        stat = await super().write(key, data, mode=mode, write_token=write_token)
        if answered:
            raise self.answer
        return stat


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
