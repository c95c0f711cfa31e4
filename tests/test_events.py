"""Events: one for each operation, with what happened and never with what is in the document."""

from __future__ import annotations

import logging
import pickle
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest.mock import Mock

import anyio
import msgspec
import pytest
from calls import EVERY, MULTIPLE, ends, other
from doubles import Recording, drained
from samples import AT, MULTI_AT

from accountstore import (
    AccountStore,
    AccountStoreError,
    Event,
    Location,
    StorageConfig,
    StoreConfig,
    TokenGrant,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.errors import UnavailableError, UncertainError
from accountstore.model import Account, MultiAccount, OAuthCredentials, PasswordCredentials
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from accountstore.events import Observer
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

CANARY = "canary-5d1f"
NONSENSE: Any = CANARY
PASSWORD = PasswordCredentials(login=CANARY, password=CANARY)
TOKENS = OAuthCredentials(
    login=CANARY, client_id=CANARY, client_secret=CANARY, refresh_token=CANARY, access_token=CANARY
)
ACCOUNT = Account(host=f"{CANARY}.example.org", port=993, credentials=PASSWORD)
OAUTH = Account(host="imap.example.org", port=993, credentials=TOKENS)
MULTI = MultiAccount(receive_accounts=[ACCOUNT, OAUTH])


NEW = Location("new.account", folder="mail")
MISSING = Location("missing.account", folder="mail")
BROKEN = Location("broken.account", folder="mail")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def store(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AccountStore]:
    """An open store whose events are in `events`, with documents but at NEW and MISSING; calls write the canary too."""
    monkeypatch.setattr("calls.ACCOUNT", ACCOUNT)
    monkeypatch.setattr("calls.MULTI", MULTI)
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config, observer=events.append) as opened:
        for at in (AT, other(AT)):
            await opened.save(at, OAUTH)
        await opened.save_multi(MULTI_AT, MULTI)
        filesystem, _ = await opened.filesystem()
        filesystem.pipe_file(f"/{BROKEN.path}", f'{{"host":"{CANARY}","port":"{CANARY}"}}'.encode())
        events.clear()
        yield opened


def over_memory(observer: Observer | None = None, /) -> AccountStore:
    return store_over({"main": MemoryBackend()}, observer=observer)


def fail(_: Account, /) -> Account:
    raise KeyError(CANARY)


async def grant(_: OAuthCredentials, /) -> TokenGrant:
    return TokenGrant(access_token=CANARY, refresh_token=CANARY, expires_in=3600)


async def fail_to_grant(_: OAuthCredentials, /) -> TokenGrant:
    raise KeyError(CANARY)


Case: TypeAlias = "tuple[Callable[[AccountStore], Awaitable[object]], Location | None, Location | None, str]"
"""A call, the location and the target of its event, and the outcome."""


def well(name: str, /) -> Case:
    at = MULTI_AT if name in MULTIPLE else AT
    return (lambda store: EVERY[name](store, at), *ends(name, at), "ok")


CALLS: Mapping[str, Case] = {
    **{name: well(name) for name in EVERY},
    "check": (lambda store: store.check(), None, None, "ok"),
    "usage": (lambda store: store.usage(), None, None, "UnsupportedError"),
    "refresh": (lambda store: store.refresh(AT, grant), AT, None, "ok"),
    "refresh_multi": (lambda store: store.refresh_multi(MULTI_AT, grant), MULTI_AT, None, "ok"),
    "refresh by a faulty exchange": (lambda store: store.refresh(AT, fail_to_grant), AT, None, "ExchangeError"),
    "exists not": (lambda store: store.exists(MISSING), MISSING, None, "ok"),
    "get of nothing": (lambda store: store.get(MISSING), MISSING, None, "NotFoundError"),
    "get of a wrong name": (lambda store: store.get(MULTI_AT), MULTI_AT, None, "ExtensionError"),
    "get of a broken document": (lambda store: store.get(BROKEN), BROKEN, None, "DecodeError"),
    "read_json of a broken document": (lambda store: store.read_json(BROKEN), BROKEN, None, "DecodeError"),
    "save of nonsense": (lambda store: store.save(AT, NONSENSE), AT, None, "EncodeError"),
    "save over another": (lambda store: store.save(AT, OAUTH, mode="create"), AT, None, "ExistsError"),
    "save over a version": (lambda store: store.save(AT, OAUTH, mode=Version(CANARY)), AT, None, "ConflictError"),
    "save_json of nonsense": (lambda store: store.save_json(AT, CANARY.encode()), AT, None, "EncodeError"),
    "update by a faulty function": (lambda store: store.update(AT, fail), AT, None, "KeyError"),
    "update of nothing": (lambda store: store.update(MISSING, fail), MISSING, None, "NotFoundError"),
    "delete of a version": (lambda store: store.delete(AT, version=Version(CANARY)), AT, None, "ConflictError"),
    "copy of nothing": (lambda store: store.copy(MISSING, NEW), MISSING, NEW, "NotFoundError"),
    "move onto another kind": (lambda store: store.move(AT, MULTI_AT), AT, MULTI_AT, "ExtensionError"),
    "get_many of nothing": (lambda store: drained(store.get_many([MISSING])), MISSING, None, "NotFoundError"),
    "save_many of nonsense": (lambda store: drained(store.save_many([(AT, NONSENSE)])), AT, None, "EncodeError"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_makes_one_event(store: AccountStore, events: list[Event], name: str) -> None:
    """One call is one event with its operation, location and outcome, whether it succeeds or fails."""
    run, location, target, outcome = CALLS[name]
    try:
        await run(store)
    except (AccountStoreError, KeyError) as error:
        assert type(error).__name__ == outcome
    [event] = events
    assert event.operation == name.partition(" ")[0]
    assert (event.location, event.target, event.outcome, event.storage) == (location, target, outcome, "main")
    assert event.attempts == 1
    assert 0 <= event.seconds < 60


def test_every_operation_is_tried() -> None:
    """The table above has every operation of the store; `list` has a test of its own."""
    public = {name for name in dir(AccountStore) if not name.startswith("_")}
    silent = {"open", "aclose", "storages", "capabilities", "scoped", "filesystem"}
    assert {name.partition(" ")[0] for name in CALLS} | {"list"} == public - silent


async def test_events_have_version_and_size(store: AccountStore, events: list[Event]) -> None:
    """What was read or written is in version and bytes; a call that does neither has none."""
    version = await store.save(AT, OAUTH)
    stored = await store.read(AT)
    await store.get(AT)
    await store.read_json(AT)
    await store.update(AT, lambda account: account)
    updated = await store.update(AT, lambda account: msgspec.structs.replace(account, port=1))
    copied = await store.copy(AT, NEW)
    await drained(store.get_many([AT]))
    saved = await store.save_json(AT, JSON.encode(OAUTH))
    assert [(event.operation, event.version, event.bytes) for event in events] == [
        *((operation, version, stored.size) for operation in ("save", "read", "get", "read_json", "update")),
        ("update", updated.version, updated.size),
        ("copy", copied, updated.size),
        ("get_many", updated.version, updated.size),
        ("save_json", saved, stored.size),
    ]
    events.clear()
    await store.exists(AT)
    with pytest.raises(AccountStoreError):
        await store.get(MISSING)
    with pytest.raises(AccountStoreError):
        await store.save(AT, OAUTH, mode="create")
    assert [(event.version, event.bytes) for event in events] == [(None, None)] * 3
    events.clear()
    results = await drained(store.save_many([(AT, ACCOUNT), (NEW, ACCOUNT)]))
    assert [(event.location, event.version) for event in events] == results
    assert [event.bytes for event in events] == [(await store.stat(at)).size for at in (AT, NEW)]


async def test_events_count_the_attempts(events: list[Event]) -> None:
    """An `update` that lost two races counts three attempts, a `move` whose source changed once two."""
    backend = Recording()
    store = store_over({"main": backend}, observer=events.append)
    await store.save(AT, ACCOUNT)

    async def change_before_the_first_delete(operation: Operation) -> None:
        if operation == "delete" and backend.log.count("delete") == 1:
            await backend.put(AT, JSON.encode(OAUTH))

    async def change(account: Account) -> Account:
        if account.port < 995:
            await store.save(AT, msgspec.structs.replace(account, port=account.port + 1))
        return msgspec.structs.replace(account, host="changed")

    await store.update(AT, change)
    backend.before = change_before_the_first_delete
    await store.move(AT, NEW)
    counts = [("save", 1), ("save", 1), ("save", 1), ("update", 3), ("move", 2)]
    assert [(event.operation, event.attempts) for event in events] == counts


@pytest.mark.usefixtures("pauses")
async def test_a_call_that_is_tried_again_makes_one_event(events: list[Event]) -> None:
    """What fails for a while below is one event of one attempt, with the outcome of the last."""
    operations: tuple[Operation, ...] = ("write", "read")
    faults = [Fault(operation, nth, "before", ConnectionResetError()) for operation in operations for nth in (1, 2)]
    backend = FaultyBackend(MemoryBackend(), faults)
    store = store_over({"main": backend}, observer=events.append, attempts=3)
    await store.save(AT, ACCOUNT)
    await store.get(AT)
    once = store_over({"main": FaultyBackend(MemoryBackend(), faults)}, observer=events.append)
    with pytest.raises(UncertainError):
        await once.save(AT, ACCOUNT)
    with pytest.raises(UnavailableError):
        await once.get(AT)
    assert (backend.calls["write"], backend.calls["read"]) == (3, 3)
    outcomes = [("save", 1, "ok"), ("get", 1, "ok"), ("save", 1, "UncertainError"), ("get", 1, "UnavailableError")]
    assert [(event.operation, event.attempts, event.outcome) for event in events] == outcomes


async def test_a_batch_makes_an_event_of_each_document(store: AccountStore, events: list[Event]) -> None:
    """`get_many` reports each document with its own outcome, in order."""
    outcomes = {
        AT: "ok",
        MISSING: "NotFoundError",
        MULTI_AT: "ok",
        Location("x"): "ExtensionError",
        BROKEN: "DecodeError",
        Location("x.account", storage="nowhere"): "LocationError",
    }
    await drained(store.get_many(outcomes))
    assert [(event.location, event.outcome) for event in events] == list(outcomes.items())
    assert {event.operation for event in events} == {"get_many"}


async def test_a_listing_makes_events_of_its_pages(store: AccountStore, events: list[Event]) -> None:
    """Each page of a listing that was asked for is an event, without a location; one not begun makes none."""
    store.list("mail")
    assert not events
    await drained(store.list("mail"))
    assert events
    seen = {(event.operation, event.storage, event.location, event.outcome) for event in events}
    assert seen == {("list", "main", None, "ok")}


async def test_events_name_the_storage_that_is_meant(tmp_path: Path, events: list[Event]) -> None:
    """The storage of an event is that of the location, and the default one where it names none; what the store does not
    have is no storage, as metrics have a series for each.
    """
    storages = {"main": StorageConfig("memory://"), "files": StorageConfig(str(tmp_path))}
    async with AccountStore.open(StoreConfig(default="main", storages=storages), observer=events.append) as store:
        await store.save(AT, ACCOUNT)
        await store.copy(AT, Location("x.account", storage="files"))
        await store.get(Location("x.account", storage="files"))
        await store.check("files")
        await anext(store.list(storage="files"))
        with pytest.raises(AccountStoreError):
            await store.get(Location("x.account", storage="nowhere"))
        with pytest.raises(AccountStoreError):
            await store.check("nowhere")
        with pytest.raises(AccountStoreError):
            await store.scoped("tenant", storage="files").get(Location("x.account", storage="main"))
    meant = [("save", "main"), ("copy", "main"), *((name, "files") for name in ("get", "check", "list"))]
    assert [(event.operation, event.storage) for event in events] == [*meant, ("get", ""), ("check", ""), ("get", "")]
    assert events[-3].location == Location("x.account", storage="nowhere")


async def test_events_of_a_scope_tell_documents_apart(store: AccountStore, events: list[Event]) -> None:
    """The observer of the store gets the events of its tenants too, with the location in the storage."""
    for tenant in ("a", "b"):
        scoped = store.scoped(f"tenants/{tenant}")
        await scoped.save(AT, ACCOUNT)
        await scoped.copy(AT, NEW)
        await drained(scoped.get_many([AT]))
    a, b, target = f"tenants/a/{AT}", f"tenants/b/{AT}", "tenants/{}/" + str(NEW)
    assert [(event.operation, str(event.location), str(event.target)) for event in events] == [
        *(("save", a, "None"), ("copy", a, target.format("a")), ("get_many", a, "None")),
        *(("save", b, "None"), ("copy", b, target.format("b")), ("get_many", b, "None")),
    ]


async def test_a_cancelled_call_makes_an_event(store: AccountStore, events: list[Event]) -> None:
    """A call that is cancelled makes one event, whose outcome is the name of the cancellation."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.get(AT)
    assert scope.cancelled_caught
    [event] = events
    assert (event.operation, event.location) == ("get", AT)
    assert "Cancelled" in event.outcome


def traces(value: object, /) -> bytes:
    """All that a value holds, at any depth, and what it shows."""
    plain = msgspec.to_builtins(value, builtin_types=[bytes], enc_hook=repr)
    return f"{value!r} {value}".encode() + pickle.dumps(plain)


# The version that these two give is the canary itself.
@pytest.mark.parametrize("name", [name for name in CALLS if not name.endswith("a version")])
async def test_no_event_holds_contents(store: AccountStore, events: list[Event], name: str) -> None:
    """Nothing in an event of any call is from a document, and `repr` hides its version: it may be a digest."""
    with suppress(AccountStoreError, KeyError):
        await CALLS[name][0](store)
    [event] = events
    assert CANARY.encode() not in traces(event)
    assert event.version is None or event.version.token not in repr(event) + str(event)


def test_the_search_for_contents_finds_them() -> None:
    """The control: the search above finds the canary in documents, wherever they hide."""
    for value in (ACCOUNT, {"x": [ACCOUNT.host]}, JSON.encode(ACCOUNT), (b"", {CANARY}), KeyError(CANARY)):
        assert CANARY.encode() in traces(value)
    assert CANARY.encode() not in traces(ACCOUNT.port)


def logged(caplog: pytest.LogCaptureFixture, /) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("accountstore")]


async def test_an_observer_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Calls work with an observer that raises; its error is logged each time, without its text or traceback."""
    observer = Mock(side_effect=RuntimeError(CANARY))
    store = over_memory(observer)
    with caplog.at_level(logging.DEBUG):
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT
        assert len(await drained(store.get_many([AT, MISSING]))) == 2
        assert len(await drained(store.list(AT.folder))) == 1
        with pytest.raises(AccountStoreError) as caught:
            await store.get(MISSING)
    assert not isinstance(caught.value.__context__, RuntimeError)
    assert not isinstance(caught.value.__cause__, RuntimeError)
    assert len(logged(caplog)) == observer.call_count >= 6
    for record in logged(caplog):
        assert record.levelno == logging.ERROR
        assert "RuntimeError" in record.getMessage()
        assert record.exc_info in {None, (None, None, None)}
    assert CANARY not in caplog.text


async def test_an_observer_that_stops_the_program_may() -> None:
    """An observer's `KeyboardInterrupt` or `SystemExit` is not swallowed."""
    observer = Mock(side_effect=SystemExit(3))
    with pytest.raises(SystemExit):
        await over_memory(observer).save(AT, ACCOUNT)
    assert observer.call_count == 1


async def test_an_async_observer_is_refused() -> None:
    """An observer that is a coroutine function, or whose `__call__` is one, would see nothing: opening with it is an
    error.
    """

    class Observer:
        async def __call__(self, event: Event) -> None:
            raise AssertionError(event)

    async def observe(event: Event) -> None:
        raise AssertionError(event)

    observers: list[Any] = [observe, Observer(), Observer().__call__, partial(observe)]
    for observer in observers:
        with pytest.raises(TypeError, match="observer"):
            AccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}), observer=observer)


async def test_without_an_observer_events_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Without an observer each event is a line of the logger `accountstore` at DEBUG, with what was done to what."""
    store = over_memory()
    with caplog.at_level(logging.DEBUG, logger="accountstore"):
        await store.save(AT, ACCOUNT)
        with pytest.raises(AccountStoreError):
            await store.get(MISSING)
        await store.move(AT, NEW)
        await drained(store.list("mail"))
    assert {(record.name, record.levelno) for record in logged(caplog)} == {("accountstore", logging.DEBUG)}
    lines = [record.getMessage() for record in logged(caplog)]
    parts = ("save", AT, "ok"), ("get", MISSING, "NotFoundError"), ("move", AT, NEW, "ok"), ("list", "main", "ok")
    assert len(lines) >= len(parts)
    for line, expected in zip(lines, parts, strict=False):
        assert [part for part in expected if str(part) not in line] == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize(("level", "observer"), [(logging.INFO, None), (logging.WARNING, None), (logging.DEBUG, repr)])
async def test_nothing_else_is_logged(caplog: pytest.LogCaptureFixture, level: int, observer: Observer | None) -> None:
    """Above DEBUG nothing is logged, not even failures: they are raised; an observer takes the logger's place."""
    store = over_memory(observer)
    logger = logging.getLogger("accountstore")
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    with caplog.at_level(level):
        await store.save(AT, ACCOUNT)
        with pytest.raises(AccountStoreError):
            await store.get(MISSING)
    assert logged(caplog) == []
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
