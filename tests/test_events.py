"""Events: one for each operation, with what happened and never with what is in the document."""

from __future__ import annotations

import logging
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
import pytest

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    Event,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    UncertainError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from accountstore.backends.base import Stat
    from accountstore.testing.faults import Operation as FaultOperation

pytestmark = pytest.mark.anyio

CANARY = "canary-5d1f"
ACCOUNT = Account(
    host=f"{CANARY}.example.org",
    port=993,
    credentials=PasswordCredentials(login=f"{CANARY}@example.org", password=f"{CANARY}-password"),
)
OAUTH = Account(
    host="imap.example.org",
    port=993,
    credentials=OAuthCredentials(
        login=f"{CANARY}@example.org",
        client_id=f"{CANARY}-id",
        client_secret=f"{CANARY}-secret",
        refresh_token=f"{CANARY}-refresh",
        access_token=f"{CANARY}-access",
    ),
)
MULTI = MultiAccount(receive_accounts=[ACCOUNT, OAUTH])

AT = Location("email.account", folder="mail")
MULTI_AT = Location("email.multi.account", folder="mail")
NEW = Location("new.account", folder="mail")
MISSING = Location("missing.account", folder="mail")
BROKEN = Location("broken.account", folder="mail")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def store(events: list[Event]) -> AsyncIterator[AccountStore]:
    """An open store whose events are in `events`, with documents at AT and MULTI_AT and none at NEW and MISSING."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config, observer=events.append) as opened:
        await opened.save(AT, ACCOUNT)
        await opened.save_multi(MULTI_AT, MULTI)
        filesystem, _ = await opened.filesystem()
        filesystem.pipe_file(f"/{BROKEN.path}", f'{{"host":"{CANARY}","port":"{CANARY}"}}'.encode())
        events.clear()
        yield opened


async def drained(items: AsyncIterator[object], /) -> list[object]:
    return [item async for item in items]


def replace_port(account: Account, /) -> Account:
    return msgspec.structs.replace(account, port=1)


def fail(_: Account, /) -> Account:
    raise KeyError(CANARY)


CALLS: Mapping[str, tuple[Callable[[AccountStore], Awaitable[object]], Location | None, str]] = {
    "get": (lambda store: store.get(AT), AT, "ok"),
    "get_multi": (lambda store: store.get_multi(MULTI_AT), MULTI_AT, "ok"),
    "read": (lambda store: store.read(AT), AT, "ok"),
    "read_multi": (lambda store: store.read_multi(MULTI_AT), MULTI_AT, "ok"),
    "save": (lambda store: store.save(AT, OAUTH), AT, "ok"),
    "save_multi": (lambda store: store.save_multi(MULTI_AT, MULTI), MULTI_AT, "ok"),
    "update": (lambda store: store.update(AT, replace_port), AT, "ok"),
    "update_multi": (lambda store: store.update_multi(MULTI_AT, lambda multi: multi), MULTI_AT, "ok"),
    "stat": (lambda store: store.stat(AT), AT, "ok"),
    "exists": (lambda store: store.exists(AT), AT, "ok"),
    "exists not": (lambda store: store.exists(MISSING), MISSING, "ok"),
    "delete": (lambda store: store.delete(AT), AT, "ok"),
    "copy": (lambda store: store.copy(AT, NEW), AT, "ok"),
    "move": (lambda store: store.move(AT, NEW), AT, "ok"),
    "get_many": (lambda store: drained(store.get_many([AT])), AT, "ok"),
    "save_many": (lambda store: drained(store.save_many([(AT, OAUTH)])), AT, "ok"),
    "check": (lambda store: store.check(), None, "ok"),
    "get of nothing": (lambda store: store.get(MISSING), MISSING, "NotFoundError"),
    "get of a wrong name": (lambda store: store.get(MULTI_AT), MULTI_AT, "ExtensionError"),
    "get of a broken document": (lambda store: store.get(BROKEN), BROKEN, "DecodeError"),
    "save of nonsense": (lambda store: store.save(AT, cast("Any", CANARY)), AT, "EncodeError"),
    "save over another": (lambda store: store.save(AT, OAUTH, mode="create"), AT, "ExistsError"),
    "save over a version": (lambda store: store.save(AT, OAUTH, mode=Version(CANARY)), AT, "ConflictError"),
    "update by a faulty function": (lambda store: store.update(AT, fail), AT, "KeyError"),
    "update of nothing": (lambda store: store.update(MISSING, fail), MISSING, "NotFoundError"),
    "delete of a version": (lambda store: store.delete(AT, version=Version(CANARY)), AT, "ConflictError"),
    "copy of nothing": (lambda store: store.copy(MISSING, NEW), MISSING, "NotFoundError"),
    "move onto another kind": (lambda store: store.move(AT, MULTI_AT), AT, "ExtensionError"),
    "get_many of nothing": (lambda store: drained(store.get_many([MISSING])), MISSING, "NotFoundError"),
    "save_many of nonsense": (
        lambda store: drained(store.save_many([(AT, cast("Any", CANARY))])),
        AT,
        "EncodeError",
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_makes_one_event(store: AccountStore, events: list[Event], name: str) -> None:
    """One call is one event with its operation, location and outcome, whether it succeeds or fails."""
    run, location, outcome = CALLS[name]
    try:
        await run(store)
    except (AccountStoreError, KeyError) as error:
        assert type(error).__name__ == outcome
    [event] = events
    assert event.operation == name.partition(" ")[0]
    assert (event.location, event.outcome, event.storage) == (location, outcome, "main")
    assert event.target == (
        (NEW if outcome != "ExtensionError" else MULTI_AT) if name[:4] in {"copy", "move"} else None
    )
    assert event.attempts == 1
    assert 0 <= event.seconds < 60


def test_every_operation_is_tried() -> None:
    """The table above has every operation of the store; `list` has a test of its own."""
    public = {name for name in vars(AccountStore) if not name.startswith("_")}
    silent = {"open", "aclose", "storages", "capabilities", "scoped", "filesystem"}
    assert {name.partition(" ")[0] for name in CALLS} | {"list"} == public - silent


async def test_events_tell_version_and_size(store: AccountStore, events: list[Event]) -> None:
    """What was read or written is told by version and bytes; a call that does neither tells none."""
    version = await store.save(AT, OAUTH)
    stored = await store.read(AT)
    await store.get(AT)
    await store.update(AT, lambda account: account)
    updated = await store.update(AT, replace_port)
    copied = await store.copy(AT, NEW)
    await drained(store.get_many([AT]))
    assert [(event.operation, event.version, event.bytes) for event in events] == [
        ("save", version, stored.size),
        ("read", version, stored.size),
        ("get", version, stored.size),
        ("update", version, stored.size),
        ("update", updated.version, updated.size),
        ("copy", copied, updated.size),
        ("get_many", updated.version, updated.size),
    ]
    events.clear()
    await store.exists(AT)
    with pytest.raises(AccountStoreError):
        await store.get(MISSING)
    with pytest.raises(AccountStoreError):
        await store.save(AT, OAUTH, mode="create")
    assert [(event.version, event.bytes) for event in events] == [(None, None)] * 3
    results = await drained(store.save_many([(AT, ACCOUNT), (NEW, ACCOUNT)]))
    sizes = [(await store.stat(at)).size for at in (AT, NEW)]
    saved = [event for event in events if event.operation == "save_many"]
    assert [(event.location, event.version) for event in saved] == results
    assert [event.bytes for event in saved] == sizes


async def test_events_count_the_attempts(store: AccountStore, events: list[Event]) -> None:
    """An `update` that lost two races tells three attempts."""
    lost: list[int] = []

    async def change(account: Account) -> Account:
        if len(lost) < 2:
            lost.append(account.port)
            await store.save(AT, msgspec.structs.replace(account, port=account.port + 1))
        return msgspec.structs.replace(account, host="changed")

    await store.update(AT, change)
    assert [(event.operation, event.attempts) for event in events] == [("save", 1), ("save", 1), ("update", 3)]


async def test_a_batch_makes_an_event_of_each_document(store: AccountStore, events: list[Event]) -> None:
    """`get_many` and `save_many` tell each document with its own outcome, in order."""
    locations = [AT, MISSING, MULTI_AT, Location("x"), BROKEN, Location("x.account", storage="nowhere")]
    await drained(store.get_many(locations))
    assert [event.location for event in events] == locations
    assert [event.outcome for event in events] == [
        "ok",
        "NotFoundError",
        "ok",
        "ExtensionError",
        "DecodeError",
        "LocationError",
    ]
    assert {event.operation for event in events} == {"get_many"}


async def test_a_listing_makes_events_of_its_pages(store: AccountStore, events: list[Event]) -> None:
    """Each page of a listing that was asked for is an event, without a location; one not begun makes none."""
    store.list("mail")
    assert not events
    await drained(store.list("mail"))
    assert events
    assert {(event.operation, event.storage, event.location, event.outcome) for event in events} == {
        ("list", "main", None, "ok")
    }


async def test_events_name_the_storage_that_is_meant(tmp_path: Path, events: list[Event]) -> None:
    """The storage of an event is that of the location, and the default one where it names none."""
    storages = {"main": StorageConfig("memory://"), "files": StorageConfig(str(tmp_path))}
    config = StoreConfig(default="main", storages=storages)
    async with AccountStore.open(config, observer=events.append) as store:
        await store.save(AT, ACCOUNT)
        await store.copy(AT, Location("x.account", storage="files"))
        await store.get(Location("x.account", storage="files"))
        await store.check("files")
        await drained(store.list(storage="files"))
        with pytest.raises(AccountStoreError):
            await store.get(Location("x.account", storage="nowhere"))
    told = [(event.operation, event.storage) for event in events]
    assert told[:4] == [("save", "main"), ("copy", "main"), ("get", "files"), ("check", "files")]
    assert told[4:][0] == ("list", "files")
    assert told[-1] == ("get", "nowhere")


async def test_events_of_a_scope_tell_documents_apart(store: AccountStore, events: list[Event]) -> None:
    """Who audits a store with several tenants sees whose document it was: events have the location in the storage."""
    for tenant in ("a", "b"):
        scoped = store.scoped(f"tenants/{tenant}")
        await scoped.save(AT, ACCOUNT)
        await scoped.copy(AT, NEW)
        await drained(scoped.get_many([AT]))
    assert [(event.operation, str(event.location), event.target and str(event.target)) for event in events] == [
        ("save", "tenants/a/mail/email.account", None),
        ("copy", "tenants/a/mail/email.account", "tenants/a/mail/new.account"),
        ("get_many", "tenants/a/mail/email.account", None),
        ("save", "tenants/b/mail/email.account", None),
        ("copy", "tenants/b/mail/email.account", "tenants/b/mail/new.account"),
        ("get_many", "tenants/b/mail/email.account", None),
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


# --- never contents ---------------------------------------------------------------------------------------------------


def inside(value: object, /) -> list[str]:
    """Every text that can be found in a value by its fields, items, `repr` and `str`."""
    found = [repr(value), str(value), f"{value}"]
    if isinstance(value, bytes):
        found.append(value.decode("latin-1"))
    elif isinstance(value, msgspec.Struct):
        found += [text for name in value.__struct_fields__ for text in inside(getattr(value, name))]
    elif isinstance(value, dict):
        found += [
            text for item in cast("dict[object, object]", value).items() for part in item for text in inside(part)
        ]
    elif isinstance(value, list | tuple | set | frozenset):
        found += [text for part in cast("Sequence[object]", value) for text in inside(part)]
    return found


# The version that these two give is the canary itself.
@pytest.mark.parametrize("name", [name for name in CALLS if not name.endswith("a version")])
async def test_no_event_holds_contents(store: AccountStore, events: list[Event], name: str) -> None:
    """Nothing in an event of any call, good or failing, is from a document."""
    with suppress(AccountStoreError, KeyError):
        await CALLS[name][0](store)
    assert len(events) == 1
    assert not [text for text in inside(events[0]) if CANARY in text]
    assert CANARY.encode() not in pickle.dumps(msgspec.to_builtins(events[0]))


def test_the_search_for_contents_finds_them() -> None:
    """The control: the search above finds the canary in documents, wherever they hide."""
    for value in (ACCOUNT, {"x": [ACCOUNT.host]}, JSON.encode(ACCOUNT), (b"", {CANARY}), KeyError(CANARY)):
        assert [text for text in inside(value) if CANARY in text]
    assert not [text for text in inside(ACCOUNT.port) if CANARY in text]


async def test_an_events_version_does_not_show(store: AccountStore, events: list[Event]) -> None:
    """The version in an event, which may be a digest of the document, is not in its `repr`."""
    version = await store.save(AT, ACCOUNT)
    assert events[0].version == version
    assert version.token not in repr(events[0])
    assert version.token not in str(events[0])


# --- observers --------------------------------------------------------------------------------------------------------


class Broken:
    """An observer that raises."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, event: Event) -> None:
        self.calls += 1
        local = CANARY
        raise RuntimeError(local)


async def test_an_observer_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Every call works with an observer that raises; each time is logged, without the exception's text or traceback."""
    observer = Broken()
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with caplog.at_level(logging.DEBUG):
        async with AccountStore.open(config, observer=observer) as store:
            await store.save(AT, ACCOUNT)
            assert await store.get(AT) == ACCOUNT
            assert len(await drained(store.get_many([AT, MISSING]))) == 2
            assert len(await drained(store.list("mail"))) == 1
            with pytest.raises(AccountStoreError):
                await store.get(MISSING)
    assert observer.calls >= 6
    records = [record for record in caplog.records if record.name == "accountstore"]
    assert len(records) == observer.calls
    for record in records:
        assert record.levelno == logging.ERROR
        assert "RuntimeError" in record.getMessage()
        assert record.exc_info in {None, (None, None, None)}
    assert CANARY not in caplog.text


async def test_an_observer_sees_no_error_in_flight(events: list[Event]) -> None:
    """What an observer raises on a failing call does not become part of that call's error."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config, observer=Broken()) as store:
        with pytest.raises(AccountStoreError) as caught:
            await store.get(MISSING)
    assert not isinstance(caught.value.__context__, RuntimeError)
    assert not isinstance(caught.value.__cause__, RuntimeError)
    assert not events


async def test_an_observer_that_stops_the_program_may(events: list[Event]) -> None:
    """An observer's `KeyboardInterrupt` or `SystemExit` is not swallowed."""

    def stop(event: Event) -> None:
        events.append(event)
        raise SystemExit(3)

    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config, observer=stop) as store:
        with pytest.raises(SystemExit):
            await store.save(AT, ACCOUNT)
    assert len(events) == 1


async def test_an_async_observer_is_refused() -> None:
    """An observer that is a coroutine function would see nothing: opening with one is an error."""

    async def observe(event: Event) -> None:
        raise AssertionError(event)

    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with pytest.raises((TypeError, ValueError), match="observer"):
        async with AccountStore.open(config, observer=observe) as store:
            await store.save(AT, ACCOUNT)


async def test_the_observer_of_a_scope_is_the_stores(store: AccountStore, events: list[Event]) -> None:
    """A narrowed store tells the same observer."""
    await store.scoped("mail").get(Location("email.account"))
    assert [event.operation for event in events] == ["get"]


async def test_the_event_comes_before_the_call_returns(store: AccountStore, events: list[Event]) -> None:
    """When a call has ended, its event was told."""
    for number in range(1, 4):
        await store.get(AT)
        assert len(events) == number


# --- the standard logger ----------------------------------------------------------------------------------------------


async def test_without_an_observer_events_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Without an observer each event is a line of the logger `accountstore` at DEBUG, with what was done to what."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with caplog.at_level(logging.DEBUG, logger="accountstore"):
        async with AccountStore.open(config) as store:
            await store.save(AT, ACCOUNT)
            with pytest.raises(AccountStoreError):
                await store.get(MISSING)
            await store.move(AT, NEW)
            await drained(store.list("mail"))
    records = [record for record in caplog.records if record.name == "accountstore"]
    assert {record.levelno for record in records} == {logging.DEBUG}
    lines = [record.getMessage() for record in records]
    parts = ("save", AT, "ok"), ("get", MISSING, "NotFoundError"), ("move", AT, NEW, "ok"), ("list", "main", "ok")
    assert len(lines) >= len(parts)
    for line, told in zip(lines, parts, strict=False):
        assert [part for part in told if str(part) not in line] == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_above_debug_nothing_is_logged(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """At INFO and above the library logs nothing of what it does, not even failures: those are raised."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    with caplog.at_level(level):
        async with AccountStore.open(config) as store:
            await store.save(AT, ACCOUNT)
            with pytest.raises(AccountStoreError):
                await store.get(MISSING)
    assert [record for record in caplog.records if record.name.startswith("accountstore")] == []


async def test_with_an_observer_nothing_is_logged(
    caplog: pytest.LogCaptureFixture, store: AccountStore, events: list[Event]
) -> None:
    """An observer takes the place of the logger."""
    with caplog.at_level(logging.DEBUG):
        await store.get(AT)
    assert [record for record in caplog.records if record.name.startswith("accountstore")] == []
    assert len(events) == 1


async def test_nothing_is_done_to_the_logger() -> None:
    """The library sets neither handler nor level: those are the application's."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config) as store:
        await store.save(AT, ACCOUNT)
    logger = logging.getLogger("accountstore")
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)


async def test_a_retry_of_move_counts() -> None:
    """A `move` whose source changed once tells two attempts."""
    events: list[Event] = []
    backend = Changing()
    store = store_over({"main": backend}, observer=events.append)
    await store.save(AT, ACCOUNT)
    await store.move(AT, NEW)
    assert [(event.operation, event.attempts, event.outcome) for event in events][1:] == [("move", 2, "ok")]


async def test_a_call_that_is_tried_again_makes_one_event() -> None:
    """Whatever fails for a while below is one event, with the outcome of the last attempt; it counts as one attempt,
    for those of `update` and `move` are what an event counts.
    """
    events: list[Event] = []
    operations: tuple[FaultOperation, ...] = ("write", "read")
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
    assert backend.calls == {"write": 3, "read": 3}
    assert [(event.operation, event.attempts, event.outcome) for event in events] == [
        *(("save", 1, "ok"), ("get", 1, "ok")),
        *(("save", 1, "UncertainError"), ("get", 1, "UnavailableError")),
    ]


class Changing(MemoryBackend):
    """Changes a document just before it is deleted, once."""

    changed: Stat | None = None

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        if self.changed is None:
            self.changed = await self.write(key, JSON.encode(OAUTH), mode="overwrite")
        await super().delete(key, version=version)
