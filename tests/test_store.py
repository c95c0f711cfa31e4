"""The facade: what each call of `AccountStore` promises, on memory and on a local folder."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import anyio
import msgspec
import pytest
from msgspec.structs import replace
from running import HUNG, PYTHON, patiently

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    ClosedError,
    ConfigError,
    ConflictError,
    DecodeError,
    DeniedError,
    EncodeError,
    ExistsError,
    Location,
    LocationError,
    MultiAccount,
    NotFoundError,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
    Version,
)
from accountstore.backends.base import Blob, Capabilities, Stat, Write
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON, MSGPACK
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from accountstore.backends.base import Backend, WriteMode
    from accountstore.model import Document
    from accountstore.testing.faults import Operation as FaultOperation

pytestmark = pytest.mark.anyio

AT = Location("email.account", folder="mail/team-a")
MULTI_AT = Location("email.multi.account", folder="mail/team-a")
ELSEWHERE = Location("copy.account", folder="archive")

ACCOUNT = Account(
    host="smtp.example.org",
    port=465,
    security_options=SecurityOptions.SSL_AUTO,
    protocol_type=ProtocolType.SMTP,
    credentials=PasswordCredentials(login="me@example.org", password="pw"),
    cache_file=Location("me.cache", folder="caches", storage="First Storage"),
)
OAUTH = Account(
    host="imap.example.org",
    port=993,
    credentials=OAuthCredentials(login="me", client_id="id", client_secret="cs", refresh_token="rt"),
)
MULTI = MultiAccount(receive_accounts=[OAUTH, ACCOUNT], send_account=ACCOUNT)

RICH = b"""{"host":"h","port":1,"new":{"deep":[1,2.50]},"credentials":{"login":"l","password":"p","hint":"?",
"discriminator":"EmailClientAccountPasswordCredentials"}}"""
"""A document with fields that the model does not know."""
RICH_MULTI = b'{"receiveAccounts":[%s],"label":"team","sendAccount":%s}' % (RICH, RICH)


def port(number: int, /) -> Callable[[Account], Account]:
    return lambda account: replace(account, port=number)


def next_port(account: Account, /) -> Account:
    return replace(account, port=account.port + 1)


def limited(
    *, create: bool = True, update: bool = True, atomic: bool = True, durable: bool = True, batch: int = 1
) -> Capabilities:
    return Capabilities(create=create, update=update, atomic=atomic, durable=durable, batch=batch)


class Recording:
    """A backend that keeps the names of the calls made; `before` is called with the name of each that begins."""

    def __init__(self, inner: Backend | None = None, /, capabilities: Capabilities | None = None) -> None:
        self.inner: Any = inner or MemoryBackend()
        self.capabilities: Capabilities = capabilities or self.inner.capabilities
        self.calls: list[str] = []
        self.before: Callable[[str], Awaitable[object]] | None = None

    def __getattr__(self, name: str, /) -> Any:
        member = getattr(self.inner, name)
        if name in {"classify", "filesystem"}:
            return member
        if name == "scan":
            self.calls.append(name)
            return member

        async def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.before is not None:
                await self.before(name)
            return await member(*arguments, **options)

        return call

    async def put(self, location: Location, data: bytes, /) -> None:
        """Write bytes past the store."""
        await self.inner.write(location.path, data, mode="overwrite")

    async def raw(self, location: Location, /) -> dict[str, Any]:
        """Read a JSON document past the store."""
        blob: Blob = await self.inner.read(location.path, limit=10_000)
        return cast("dict[str, Any]", json.loads(blob.data))


def over(codec: str = "json", /, **backends: object) -> AccountStore:
    """A store over backends; the first is the default."""
    return store_over(cast("dict[str, Backend]", backends), codec=codec)


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with one storage, in memory or in a folder."""
    url = "memory://" if request.param == "memory" else f"file://{tmp_path}"
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(url)})) as opened:
        yield opened


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two attempts, which are kept instead of waited for."""
    kept: list[float] = []

    async def keep(seconds: float) -> None:
        kept.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("anyio.sleep", keep)
    return kept


# --- saving and getting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("account", [ACCOUNT, OAUTH], ids=["password", "oauth"])
async def test_get_returns_what_save_wrote(store: AccountStore, account: Account) -> None:
    """`get` and `read` return an account equal to the saved one, and `read` its version, size and time."""
    version = await store.save(AT, account)
    assert await store.get(AT) == account
    stored = await store.read(AT)
    assert (stored.document, stored.version) == (account, version)
    entry = await store.stat(AT)
    assert (entry.location, entry.size, entry.version, entry.modified) == (AT, stored.size, version, stored.modified)
    assert stored.size > 0
    assert stored.modified is not None
    assert stored.modified.tzinfo is not None


async def test_get_multi_returns_what_save_multi_wrote(store: AccountStore) -> None:
    """`get_multi` and `read_multi` return a multi account equal to the saved one."""
    version = await store.save_multi(MULTI_AT, MULTI)
    assert await store.get_multi(MULTI_AT) == MULTI
    stored = await store.read_multi(MULTI_AT)
    assert (stored.document, stored.version) == (MULTI, version)


@pytest.mark.parametrize("call", ["get", "read", "stat"])
async def test_a_missing_document_is_not_found(store: AccountStore, call: str) -> None:
    """Reading a document that is not there is a `NotFoundError` with its location; in a missing folder too."""
    await store.save(Location("other.account", folder="mail"), ACCOUNT)
    for missing in (AT, Location("email.account", folder="mail"), Location("email.account", folder="no/such/folder")):
        with pytest.raises(NotFoundError) as caught:
            await getattr(store, call)(missing)
        assert caught.value.location == missing


async def test_exists_tells_documents_of_either_kind(store: AccountStore) -> None:
    """`exists` is true of what was saved and false of anything else."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    assert await store.exists(AT)
    assert await store.exists(MULTI_AT)
    assert not await store.exists(ELSEWHERE)
    assert not await store.exists(replace(AT, folder=""))


async def test_one_document_may_be_named_with_and_without_the_default_storage(store: AccountStore) -> None:
    """A location without a storage means the default one."""
    await store.save(AT, ACCOUNT)
    assert await store.get(replace(AT, storage="main")) == ACCOUNT


async def test_an_unknown_storage_is_a_location_error(store: AccountStore) -> None:
    """A storage that is not configured is a `LocationError` with the location."""
    unknown = replace(AT, storage="mian")
    with pytest.raises(LocationError) as caught:
        await store.get(unknown)
    assert caught.value.location == unknown
    with pytest.raises(LocationError):
        store.capabilities("mian")
    with pytest.raises(LocationError):
        store.scoped("mail", storage="mian")
    with pytest.raises(LocationError):
        store.list("mail", storage="mian")
    with pytest.raises(LocationError):
        await store.check("mian")


async def test_overwrite_replaces_and_changes_the_version(store: AccountStore) -> None:
    """A second save replaces the document and gives another version; the same content may give the same one."""
    first = await store.save(AT, ACCOUNT)
    second = await store.save(AT, OAUTH)
    assert first != second
    assert await store.get(AT) == OAUTH


async def test_create_refuses_a_document_that_is_there(store: AccountStore) -> None:
    """`mode="create"` writes where nothing is, and is an `ExistsError` where something is, which stays."""
    await store.save(AT, ACCOUNT, mode="create")
    with pytest.raises(ExistsError) as caught:
        await store.save(AT, OAUTH, mode="create")
    assert caught.value.location == AT
    assert await store.get(AT) == ACCOUNT


async def test_create_has_one_winner_among_tasks(store: AccountStore) -> None:
    """Of many tasks that create one document exactly one wins, and its document is there."""
    won: list[int] = []

    async def create(number: int) -> None:
        try:
            await store.save(AT, replace(ACCOUNT, port=number), mode="create")
        except ExistsError:
            return
        won.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(1, 17):
            tasks.start_soon(create, number)
    assert len(won) == 1
    assert (await store.get(AT)).port == won[0]


async def test_a_version_writes_only_over_itself(store: AccountStore) -> None:
    """A `Version` as mode writes over that version, and is a `ConflictError` over any other, which stays."""
    first = await store.save(AT, ACCOUNT)
    second = await store.save(AT, OAUTH, mode=first)
    with pytest.raises(ConflictError) as caught:
        await store.save(AT, ACCOUNT, mode=first)
    assert caught.value.location == AT
    assert await store.get(AT) == OAUTH
    assert (await store.stat(AT)).version == second


async def test_a_version_of_a_document_that_is_gone_writes_nothing(store: AccountStore) -> None:
    """A `Version` as mode is a `NotFoundError` where the document was removed, and does not bring it back."""
    version = await store.save(AT, ACCOUNT)
    await store.delete(AT)
    with pytest.raises(NotFoundError):
        await store.save(AT, ACCOUNT, mode=version)
    assert not await store.exists(AT)


async def test_an_unknown_mode_writes_nothing(store: AccountStore) -> None:
    """A mode that is none, such as a misspelt one, is refused; it does not overwrite."""
    await store.save(AT, ACCOUNT)
    modes: tuple[Any, ...] = ("Create", "creat", "replace", "", None, 1, b"create", True, [])
    for mode in modes:
        with pytest.raises((ValueError, TypeError)):
            await store.save(AT, OAUTH, mode=mode)
        with pytest.raises((ValueError, TypeError)):
            await store.copy(AT, ELSEWHERE, mode=mode)
        with pytest.raises((ValueError, TypeError)):
            await store.move(AT, ELSEWHERE, mode=mode)
        with pytest.raises((ValueError, TypeError)):
            assert [pair async for pair in store.save_many([(AT, OAUTH)], mode=mode)]
    assert await store.get(AT) == ACCOUNT
    assert not await store.exists(ELSEWHERE)


class Wrong(Account, frozen=True, kw_only=True):
    """An account with a field of its own, which no reader would get back."""

    secret_note: str = "kept nowhere"


@pytest.mark.parametrize(
    "document",
    [MULTI, {"host": "h"}, None, "text", Account, ACCOUNT.credentials, Wrong(**msgspec.structs.asdict(ACCOUNT))],
    ids=["multi", "dict", "none", "text", "class", "credentials", "subclass"],
)
async def test_save_refuses_what_is_no_account(store: AccountStore, document: Any) -> None:
    """Saving anything but an `Account` is an `EncodeError`, and nothing is written."""
    with pytest.raises(EncodeError) as caught:
        await store.save(AT, document)
    assert caught.value.location == AT
    with pytest.raises(EncodeError):
        await store.save_multi(MULTI_AT, document if document is not MULTI else cast("Any", ACCOUNT))
    assert not await store.exists(AT)
    assert not await store.exists(MULTI_AT)


@pytest.mark.parametrize(
    ("account", "field"),
    [
        (replace(ACCOUNT, port=0), "$.port"),
        (replace(ACCOUNT, port=2**31), "$.port"),
        (replace(ACCOUNT, host=""), "$.host"),
        (replace(ACCOUNT, credentials=PasswordCredentials(login="", password="pw")), "$.credentials.login"),
        (replace(ACCOUNT, credentials=PasswordCredentials(login="me", password="")), "$.credentials.password"),
    ],
    ids=["port 0", "port 2**31", "host", "login", "password"],
)
async def test_save_refuses_what_get_would_refuse(store: AccountStore, account: Account, field: str) -> None:
    """An account that could not be read back is an `EncodeError` that names the field; the old document stays."""
    await store.save(AT, OAUTH)
    with pytest.raises(EncodeError) as caught:
        await store.save(AT, account)
    assert (caught.value.field, caught.value.location) == (field, AT)
    assert await store.get(AT) == OAUTH


async def test_a_document_may_have_just_max_bytes(tmp_path: Path) -> None:
    """`max_bytes` bytes are saved and read; one more is a `TooLargeError` in both, and nothing is written."""
    size = len(JSON.encode(ACCOUNT))
    longer = replace(ACCOUNT, host=ACCOUNT.host + "x")
    for url in ("memory://", f"file://{tmp_path}"):
        storages = {"main": StorageConfig(url)}
        async with AccountStore.open(StoreConfig(storages=storages, max_bytes=size)) as store:
            await store.save(AT, ACCOUNT)
            with pytest.raises(TooLargeError) as caught:
                await store.save(AT, longer)
            assert caught.value.location == AT
            with pytest.raises(TooLargeError):
                await store.update(AT, lambda account: replace(account, host=account.host + "x"))
            assert await store.get(AT) == ACCOUNT
            assert [type(result) async for _, result in store.save_many([(AT, longer)])] == [TooLargeError]
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))}, max_bytes=5)) as store:
        for call in (store.get, store.read):
            with pytest.raises(TooLargeError):
                await call(AT)
        assert (await store.stat(AT)).size == size
        assert [type(result) async for _, result in store.get_many([AT])] == [TooLargeError]


async def test_what_is_no_document_is_a_decode_error() -> None:
    """A file that holds something else is a `DecodeError` that names location and field and quotes nothing."""
    backend = Recording()
    store = over(main=backend)
    for data, field in (
        (b"", "$"),
        (b"canary-text", "$"),
        (b"\xff\xfe", "$"),
        (b'{"host":"canary-text","port":"canary-text"}', "$.port"),
        (MSGPACK.encode(ACCOUNT), "$"),
        (b'{"host":"h","port":1,"credentials":{"discriminator":"canary-text"}}', "$.credentials"),
    ):
        await backend.put(AT, data)
        for call in (store.get(AT), store.read(AT), store.update(AT, port(1)), store.copy(AT, ELSEWHERE)):
            with pytest.raises(DecodeError) as caught:
                await call
            assert caught.value.location == AT
            assert caught.value.field.startswith(field)
            assert "canary" not in str(caught.value)
    assert not await store.exists(ELSEWHERE)


async def test_a_msgpack_storage_holds_msgpack() -> None:
    """A storage with `codec="msgpack"` keeps the same documents as MessagePack."""
    backend = Recording()
    store = over("msgpack", main=backend)
    await store.save(AT, ACCOUNT)
    data = (await backend.inner.read(AT.path, limit=10_000)).data
    assert msgspec.msgpack.decode(data)["credentials"]["login"] == "me@example.org"
    assert await store.get(AT) == ACCOUNT
    assert (await store.update(AT, port(7))).document == await store.get(AT)
    await store.save_multi(MULTI_AT, MULTI)
    assert await store.get_multi(MULTI_AT) == MULTI


async def test_a_local_file_holds_the_seeds_json(tmp_path: Path) -> None:
    """A saved account is a file at folder and name, with the seed's JSON in it."""
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))})) as store:
        await store.save(AT, ACCOUNT)
    assert json.loads((tmp_path / "mail" / "team-a" / "email.account").read_bytes()) == {
        "host": "smtp.example.org",
        "port": 465,
        "securityOptions": "SSLAuto",
        "protocolType": "SMTP",
        "credentials": {
            "discriminator": "EmailClientAccountPasswordCredentials",
            "login": "me@example.org",
            "password": "pw",
        },
        "cacheFile": {"fileName": "me.cache", "folderPath": "caches", "storage": "First Storage"},
    }


# --- requests ---------------------------------------------------------------------------------------------------------

REQUESTS: Mapping[str, tuple[Callable[[AccountStore, Version], Awaitable[object]], list[str]]] = {
    "get": (lambda store, _: store.get(AT), ["read"]),
    "get_multi": (lambda store, _: store.get_multi(MULTI_AT), ["read"]),
    "read": (lambda store, _: store.read(AT), ["read"]),
    "read_multi": (lambda store, _: store.read_multi(MULTI_AT), ["read"]),
    "save": (lambda store, _: store.save(AT, OAUTH), ["write"]),
    "save_multi": (lambda store, _: store.save_multi(MULTI_AT, MULTI), ["write"]),
    "create": (lambda store, _: store.save(ELSEWHERE, ACCOUNT, mode="create"), ["write"]),
    "swap": (lambda store, version: store.save(AT, OAUTH, mode=version), ["write"]),
    "update": (lambda store, _: store.update(AT, port(7)), ["read", "write"]),
    "update_multi": (
        lambda store, _: store.update_multi(MULTI_AT, lambda multi: replace(multi, send_account=None)),
        ["read", "write"],
    ),
    "update that changes nothing": (lambda store, _: store.update(AT, lambda account: account), ["read"]),
    "stat": (lambda store, _: store.stat(AT), ["stat"]),
    "exists": (lambda store, _: store.exists(AT), ["stat"]),
    "not exists": (lambda store, _: store.exists(ELSEWHERE), ["stat"]),
    "delete": (lambda store, _: store.delete(AT), ["delete"]),
    "delete of nothing": (lambda store, _: store.delete(ELSEWHERE), ["delete"]),
    "delete of a version": (lambda store, version: store.delete(AT, version=version), ["delete"]),
    "copy": (lambda store, _: store.copy(AT, ELSEWHERE), ["read", "write"]),
    "move": (lambda store, _: store.move(AT, ELSEWHERE), ["read", "write", "delete"]),
    "scoped get": (lambda store, _: store.scoped("mail").get(Location("email.account", folder="team-a")), ["read"]),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_of_each_call(name: str) -> None:
    """Each call makes just the requests that the design counts."""
    backend = Recording()
    store = over(main=backend)
    version = await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    backend.calls.clear()
    run, requests = REQUESTS[name]
    await run(store, version)
    assert backend.calls == requests


DOWN: Mapping[str, tuple[list[str], list[str]]] = {
    "get": (["read"], ["read"]),
    "read": (["read"], ["read"]),
    "stat": (["stat"], ["stat"]),
    "exists": (["stat"], ["stat"]),
    "update": (["read"], ["read"]),
    "copy": (["read"], ["read"]),
    "move": (["read"], ["read"]),
    "save": (["write"], ["write"]),
    "delete": (["delete"], ["delete"]),
    "create": (["write"], ["write", "read"]),
    "swap": (["write"], ["write", "read"]),
    "delete of a version": (["delete"], ["delete", "stat"]),
}
"""The requests of a call on a storage that is down: where none of them reaches it, and where each may have."""


@pytest.mark.parametrize("name", DOWN)
@pytest.mark.parametrize("sent", [False, True])
async def test_a_call_that_may_not_try_again_asks_once(name: str, sent: bool) -> None:
    """With one attempt, a storage that is down is asked once by each call, and once more for what became of a change
    under a condition, if it may have been made: then nobody knows, and else it is an `UnavailableError`.
    """
    backend = Recording()

    async def fail(_: str) -> None:
        raise ConnectionResetError if sent else ConnectionRefusedError

    store = over(main=backend)
    version = await store.save(AT, ACCOUNT)
    backend.calls.clear()
    backend.before = fail
    run, _ = REQUESTS[name]
    with pytest.raises(UnavailableError) as caught:
        await run(store, version)
    assert backend.calls == DOWN[name][sent]
    change = backend.calls[0] in {"write", "delete"}
    assert type(caught.value) is (UncertainError if change and sent else UnavailableError)
    assert (await backend.raw(AT))["port"] == ACCOUNT.port


# --- attempts and the deadline ----------------------------------------------------------------------------------------

RETRIED: Mapping[str, tuple[FaultOperation, Callable[[AccountStore], Awaitable[object]]]] = {
    "get": ("read", lambda store: store.get(AT)),
    "exists": ("stat", lambda store: store.exists(AT)),
    "save": ("write", lambda store: store.save(AT, OAUTH)),
    "create": ("write", lambda store: store.save(ELSEWHERE, ACCOUNT, mode="create")),
    "update": ("write", lambda store: store.update(AT, next_port)),
    "delete": ("delete", lambda store: store.delete(AT)),
    "list": ("scan", lambda store: drained(store.list(recursive=True))),
    "copy": ("read", lambda store: store.copy(AT, ELSEWHERE)),
}


def faulty(operation: FaultOperation, count: int, moment: Literal["before", "after", "hang"], /) -> FaultyBackend:
    """A backend whose first calls of an operation fail, or whose answers are lost."""
    return FaultyBackend(
        MemoryBackend(), [Fault(operation, nth, moment, ConnectionResetError()) for nth in range(1, count + 1)]
    )


async def filled(backend: FaultyBackend, /, **policy: Any) -> AccountStore:
    """A store over a backend with one document in it, that does not count."""
    await cast("Any", backend)._backend.write(AT.path, JSON.encode(ACCOUNT), mode="overwrite")
    return store_over({"main": backend}, **policy)


@pytest.mark.parametrize("call", RETRIED)
async def test_what_fails_for_a_while_is_tried_again(call: str, pauses: list[float]) -> None:
    """With four attempts a call succeeds at the fourth, with a pause after each that failed."""
    operation, run = RETRIED[call]
    backend = faulty(operation, 3, "before")
    await run(await filled(backend, attempts=4))
    assert backend.calls[operation] == 4 + (call == "list")  # the page after the last
    assert len(pauses) == 3
    for attempt, seconds in enumerate(pauses, 1):
        assert 0 <= seconds <= 0.1 * 2**attempt


@pytest.mark.parametrize("call", RETRIED)
async def test_attempts_are_bounded(call: str, pauses: list[float]) -> None:
    """A call that still fails at the last attempt is an error; with one attempt there is no pause, and no other."""
    operation, run = RETRIED[call]
    for attempts in (1, 4):
        backend = faulty(operation, 4, "before")
        store = await filled(backend, attempts=attempts)
        with pytest.raises(UnavailableError) as caught:
            await run(store)
        unknown = operation in {"write", "delete"}
        assert type(caught.value) is (UncertainError if unknown else UnavailableError)
        assert backend.calls[operation] == attempts
        assert len(pauses) == attempts - 1


async def test_what_will_not_pass_is_not_tried_again(pauses: list[float]) -> None:
    """An error that is not temporary is raised at the first attempt."""
    for error, kind in (
        (PermissionError(), DeniedError),
        (OSError(), BackendError),
        (NotFoundError("no"), NotFoundError),
    ):
        backend = FaultyBackend(
            MemoryBackend(), [Fault("read", 1, "before", error), Fault("write", 1, "before", error)]
        )
        store = await filled(backend, attempts=4)
        with pytest.raises(kind):
            await store.get(AT)
        with pytest.raises(kind):
            await store.save(AT, ACCOUNT)
        assert backend.calls == {"read": 1, "write": 1}
    assert pauses == []


@pytest.mark.parametrize("call", ["save", "create", "update", "delete"])
async def test_a_change_whose_answers_are_lost_is_made_once(call: str, pauses: list[float]) -> None:
    """A change that was made though its answers were lost succeeds; one under a condition asks no second time."""
    operation, run = RETRIED[call]
    backend = faulty(operation, 3, "after")
    store = await filled(backend, attempts=4)
    await run(store)
    blind = call in {"save", "delete"}
    assert backend.calls[operation] == (4 if blind else 1)
    assert len(pauses) == (3 if blind else 0)
    ports = {entry.location: (await store.get(entry.location)).port async for entry in store.list(recursive=True)}
    assert (
        ports
        == {
            "save": {AT: OAUTH.port},
            "create": {AT: ACCOUNT.port, ELSEWHERE: ACCOUNT.port},
            "update": {AT: ACCOUNT.port + 1},
            "delete": {},
        }[call]
    )


class Overtaking(MemoryBackend):
    """A write whose answer is lost, whereupon another writer is faster than whoever looks."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        await super().write(key, data, mode=mode)
        await super().write(key, JSON.encode(OAUTH), mode="overwrite")
        raise ConnectionResetError


@pytest.mark.parametrize("call", ["create", "swap"])
async def test_a_lost_answer_and_another_writer_are_uncertain(call: str) -> None:
    """Where another's document stands after a lost answer, nobody knows who was first: no conflict, no success."""
    backend = Overtaking()
    stat = await MemoryBackend.write(backend, AT.path, JSON.encode(ACCOUNT), mode="overwrite")
    store = store_over({"main": backend}, attempts=4)
    with pytest.raises(UncertainError, match="another document") as caught:
        if call == "create":
            await store.save(ELSEWHERE, ACCOUNT, mode="create")
        else:
            await store.save(AT, replace(ACCOUNT, port=1), mode=known_version(stat))
    assert caught.value.temporary


def known_version(stat: Stat, /) -> Version:
    assert stat.version is not None
    return stat.version


HANGING: Mapping[str, tuple[FaultOperation, Callable[[AccountStore], Awaitable[object]]]] = {
    **RETRIED,
    "get_many": ("read_many", lambda store: raised(store.get_many([AT]))),
    "save_many": ("write_many", lambda store: raised(store.save_many([(AT, ACCOUNT)]))),
    "create many": ("write_many", lambda store: raised(store.save_many([(ELSEWHERE, ACCOUNT)], mode="create"))),
    "move": ("delete", lambda store: store.move(AT, ELSEWHERE)),
}


async def raised(results: AsyncIterator[tuple[Location, object]], /) -> None:
    """Raise the first error among results."""
    async for location, result in results:
        if isinstance(result, AccountStoreError):
            assert result.location == location
            raise result


@pytest.mark.parametrize("call", HANGING)
@pytest.mark.parametrize("attempts", [1, 4])
async def test_the_deadline_ends_a_call_that_hangs(call: str, attempts: int) -> None:
    """A storage that does not answer in time is an `UnavailableError` of a read, and of a change, which may have been
    made, an `UncertainError`. There is no attempt after the deadline, and the store goes on.
    """
    operation, run = HANGING[call]
    backend = faulty(operation, 1, "hang")
    store = await filled(backend, timeout=0.1, attempts=attempts)
    started = anyio.current_time()
    with anyio.fail_after(HUNG), pytest.raises(UnavailableError, match=r"no answer within 0\.1 s") as caught:
        await run(store)
    assert anyio.current_time() - started >= 0.09
    unknown = operation in {"write", "write_many", "delete"}
    assert type(caught.value) is (UncertainError if unknown else UnavailableError)
    assert backend.calls[operation] == 1
    assert (await cast("Any", backend)._backend.read(AT.path, limit=10_000)).data == JSON.encode(ACCOUNT)
    with anyio.fail_after(HUNG):
        await patiently(lambda: run(store))


async def test_the_deadline_is_that_of_all_attempts() -> None:
    """Failures and pauses take their time from the same deadline: attempts end with it, however many are left."""
    backend = faulty("read", 1000, "before")
    store = await filled(backend, timeout=1, attempts=1000)
    with anyio.fail_after(HUNG), pytest.raises(UnavailableError, match=r"no answer within 1 s"):
        await store.get(AT)
    assert 1 < backend.calls["read"] < 1000


class Server(MemoryBackend):
    """A backend whose conditions depend on a server, which honours those that are named."""

    def __init__(self, *honoured: str) -> None:
        super().__init__()
        self.honoured = honoured

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, verify=True)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        kind = mode if isinstance(mode, str) else "swap"
        return await super().write(key, data, mode=mode if kind in self.honoured else "overwrite")

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key, version=version if "delete" in self.honoured else None)


CONDITIONAL: Mapping[str, Callable[[AccountStore, Version], Awaitable[object]]] = {
    "create": lambda store, _: store.save(ELSEWHERE, ACCOUNT, mode="create"),
    "swap": lambda store, version: store.save(AT, OAUTH, mode=version),
    "delete": lambda store, version: store.delete(AT, version=version),
}


@pytest.mark.parametrize(
    ("honoured", "requests"), [((), 3), (("create",), 5), (("create", "swap"), 6), (("create", "swap", "delete"), 6)]
)
async def test_conditions_are_tried_before_they_are_relied_on(honoured: tuple[str, ...], requests: int) -> None:
    """Where they depend on the server, the first conditional call tries them, once and leaving nothing; what the server
    ignores is an `UnsupportedError`, and the document is as it was. A plain call asks nothing of this.
    """
    backend = Recording(Server(*honoured))
    store = over(main=backend)
    await store.save(AT, ACCOUNT)
    assert backend.calls == ["write"]
    for name, call in CONDITIONAL.items():
        version = (await store.read(AT)).version
        backend.calls.clear()
        if name in honoured:
            await call(store, version)
        else:
            with pytest.raises(UnsupportedError, match="'main' ignores the condition"):
                await call(store, version)
        assert len(backend.calls) == (name in honoured) + requests
        requests = 0
    left = {entry.location: await store.get(entry.location) async for entry in store.list(recursive=True)}
    assert left == {
        **({ELSEWHERE: ACCOUNT} if "create" in honoured else {}),
        **({} if "delete" in honoured else {AT: OAUTH if "swap" in honoured else ACCOUNT}),
    }


async def test_control_without_the_trial_a_careless_server_overwrites() -> None:
    """The control: where the same server is believed, a create and a stale swap overwrite what is there."""
    store = over(main=Recording(Server(), capabilities=limited()))
    await store.save(AT, ACCOUNT)
    await store.save(AT, OAUTH, mode="create")
    assert await store.get(AT) == OAUTH
    await store.save(AT, ACCOUNT, mode=Version("stale"))
    assert await store.get(AT) == ACCOUNT


async def test_control_without_a_deadline_a_call_hangs_on() -> None:
    """The control: the same call under a long deadline still hangs when the short one would have ended it."""
    store = await filled(faulty("read", 1, "hang"))
    with anyio.move_on_after(0.3) as scope:
        await store.get(AT)
    assert scope.cancelled_caught


# --- update -----------------------------------------------------------------------------------------------------------


async def test_update_changes_and_returns_the_new_document(store: AccountStore) -> None:
    """`update` writes what the function returns, and returns it with its version, size and time."""
    before = await store.save(AT, ACCOUNT)
    result = await store.update(AT, port(7))
    assert result.document == replace(ACCOUNT, port=7)
    assert result == await store.read(AT)
    assert result.version != before
    await store.save_multi(MULTI_AT, MULTI)
    many = await store.update_multi(MULTI_AT, lambda multi: replace(multi, receive_accounts=[ACCOUNT]))
    assert many == await store.read_multi(MULTI_AT)
    assert many.document.receive_accounts == (ACCOUNT,)


async def test_update_takes_functions_of_every_colour(store: AccountStore) -> None:
    """The change may be a function, a coroutine function, a partial of either, or an object to be called."""

    async def slow(account: Account, step: int = 1) -> Account:
        await anyio.lowlevel.checkpoint()
        return replace(account, port=account.port + step)

    class Step:
        async def __call__(self, account: Account) -> Account:
            return await slow(account)

    await store.save(AT, replace(ACCOUNT, port=1))
    await store.update(AT, next_port)
    await store.update(AT, slow)
    await store.update(AT, partial(slow, step=10))
    await store.update(AT, lambda account: slow(account, 100))
    await store.update(AT, Step())
    assert (await store.get(AT)).port == 1 + 1 + 1 + 10 + 100 + 1


async def test_update_that_changes_nothing_writes_nothing(store: AccountStore) -> None:
    """Where the function returns an equal account, version and time stay."""
    await store.save(AT, ACCOUNT)
    before = await store.read(AT)
    result = await store.update(AT, lambda account: replace(account, port=465))
    assert result == before
    assert await store.read(AT) == before


async def test_update_keeps_fields_that_the_model_does_not_know() -> None:
    """`update` leaves unknown fields at every level as they are; `save` drops them."""
    backend = Recording()
    store = over(main=backend)
    await backend.put(AT, RICH)
    await store.update(AT, port(2))
    assert await backend.raw(AT) == json.loads(RICH) | {"port": 2}
    await backend.put(MULTI_AT, RICH_MULTI)
    await store.update_multi(
        MULTI_AT,
        lambda multi: replace(
            multi,
            receive_accounts=[replace(account, port=5) for account in multi.receive_accounts],
            send_account=None if multi.send_account is None else replace(multi.send_account, port=6),
        ),
    )
    rich = json.loads(RICH)
    assert await backend.raw(MULTI_AT) == {
        "receiveAccounts": [rich | {"port": 5}],
        "label": "team",
        "sendAccount": rich | {"port": 6},
    }
    await store.save(AT, await store.get(AT))
    assert set(await backend.raw(AT)) == {"host", "port", "credentials"}


async def test_update_of_a_missing_document_calls_nothing(store: AccountStore) -> None:
    """`update` of nothing is a `NotFoundError`, and the function is not called."""
    called: list[Account] = []

    def change(account: Account) -> Account:
        called.append(account)
        return account

    with pytest.raises(NotFoundError) as caught:
        await store.update(AT, change)
    assert caught.value.location == AT
    assert not called


async def test_update_does_not_bring_back_a_document_removed_meanwhile(store: AccountStore) -> None:
    """A document that is removed while the change runs stays removed: `NotFoundError`."""
    await store.save(AT, ACCOUNT)

    async def change(account: Account) -> Account:
        await store.delete(AT)
        return replace(account, port=1)

    with pytest.raises(NotFoundError):
        await store.update(AT, change)
    assert not await store.exists(AT)


@pytest.mark.parametrize("error", [ValueError("mine"), ConflictError("mine"), NotFoundError("mine"), KeyError("mine")])
async def test_an_error_of_the_change_comes_out_as_it_is(store: AccountStore, error: Exception) -> None:
    """What the function raises passes through untouched, is not taken for a lost race, and nothing is written."""
    before = await store.save(AT, ACCOUNT)
    calls: list[int] = []

    def change(account: Account) -> Account:
        calls.append(account.port)
        raise error

    with pytest.raises(type(error)) as caught:
        await store.update(AT, change)
    assert caught.value is error
    assert calls == [465]
    assert (await store.stat(AT)).version == before
    assert getattr(error, "location", None) is None


@pytest.mark.parametrize("result", [None, MULTI, {"host": "h"}, "text", 5], ids=["none", "multi", "dict", "str", "int"])
async def test_a_change_that_returns_no_account_writes_nothing(store: AccountStore, result: Any) -> None:
    """A function that returns anything but an account is an `EncodeError`: such as one that forgot its return."""
    before = await store.save(AT, ACCOUNT)
    with pytest.raises(EncodeError) as caught:
        await store.update(AT, lambda _: result)
    assert caught.value.location == AT
    with pytest.raises(EncodeError, match=r"\$\.port"):
        await store.update(AT, port(0))
    assert (await store.stat(AT)).version == before


async def test_update_holds_no_lock_while_the_change_runs(store: AccountStore) -> None:
    """The function may write the same document; then it runs again on the newer one."""
    await store.save(AT, replace(ACCOUNT, port=1))
    seen: list[int] = []

    async def change(account: Account) -> Account:
        seen.append(account.port)
        if len(seen) == 1:
            with anyio.fail_after(HUNG):
                await store.save(AT, replace(ACCOUNT, port=100, host="newer"))
        return next_port(account)

    result = await store.update(AT, change)
    assert seen == [1, 100]
    assert result.document == replace(ACCOUNT, port=101, host="newer")


async def test_update_gives_up_after_64_attempts(pauses: list[float]) -> None:
    """When others are always faster, `update` tries 64 times with a pause between, and is a `ConflictError`."""
    backend = Recording()
    store = over(main=backend)
    await store.save(AT, ACCOUNT)
    backend.calls.clear()
    ports: list[int] = []

    async def overtake(name: str) -> None:
        if name == "write":
            await backend.put(AT, JSON.encode(replace(ACCOUNT, port=1000 + len(ports))))

    def change(account: Account) -> Account:
        ports.append(account.port)
        return replace(account, port=1)

    backend.before = overtake
    with pytest.raises(ConflictError) as caught:
        await store.update(AT, change)
    assert caught.value.location == AT
    assert backend.calls == ["read", "write"] * 64
    assert ports == [465, *range(1001, 1064)]
    assert len(pauses) == 63
    assert 0 <= min(pauses) < max(pauses) <= 0.25
    assert (await backend.raw(AT))["port"] == 1064


async def test_update_loses_no_change_of_other_tasks(store: AccountStore) -> None:
    """Many tasks count up in one document, and no count is lost."""
    await store.save(AT, replace(ACCOUNT, port=1))

    async def count() -> None:
        for _ in range(5):
            await store.update(AT, next_port)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(count)
    assert (await store.get(AT)).port == 41


async def test_read_and_save_alone_lose_changes(store: AccountStore) -> None:
    """The control: the same count with `get` and `save` loses some."""
    await store.save(AT, replace(ACCOUNT, port=1))

    async def count() -> None:
        account = await store.get(AT)
        await anyio.sleep(0.001)
        await store.save(AT, next_port(account))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(count)
    assert (await store.get(AT)).port < 9


async def test_what_a_storage_cannot_promise_is_refused_before_any_io() -> None:
    """Modes that the backend does not declare are an `UnsupportedError`, and nothing was read or written."""
    plain = Recording(capabilities=limited(create=False, update=False))
    store = over(main=plain)
    version = Version("any")
    for call in (
        store.save(AT, ACCOUNT, mode="create"),
        store.save(AT, ACCOUNT, mode=version),
        store.update(AT, next_port),
        store.delete(AT, version=version),
        store.copy(AT, ELSEWHERE, mode="create"),
        store.copy(AT, ELSEWHERE, mode=version),
        store.move(AT, ELSEWHERE, mode="create"),
    ):
        with pytest.raises(UnsupportedError, match="main"):
            await call
    results = [result async for _, result in store.save_many([(AT, ACCOUNT)], mode="create")]
    assert [type(result) for result in results] == [UnsupportedError]
    assert plain.calls == []
    await store.save(AT, ACCOUNT)
    await store.delete(AT)
    assert plain.calls == ["write", "delete"]


# --- delete, copy, move -----------------------------------------------------------------------------------------------


async def test_delete_removes_and_takes_a_missing_document(store: AccountStore) -> None:
    """`delete` removes a document of either kind; of a missing one, also in a missing folder, it is no error."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    await store.delete(AT)
    await store.delete(AT)
    assert not await store.exists(AT)
    await store.delete(MULTI_AT)
    assert not await store.exists(MULTI_AT)
    await store.delete(Location("x.account", folder="no/such/folder"))


async def test_delete_of_a_version_spares_any_other(store: AccountStore) -> None:
    """`delete` with a version removes that version only; of a missing document it is no error."""
    old = await store.save(AT, ACCOUNT)
    new = await store.save(AT, OAUTH)
    with pytest.raises(ConflictError) as caught:
        await store.delete(AT, version=old)
    assert caught.value.location == AT
    assert await store.get(AT) == OAUTH
    await store.delete(AT, version=new)
    assert not await store.exists(AT)
    await store.delete(AT, version=new)


@pytest.mark.parametrize("call", ["copy", "move"])
async def test_copy_and_move_bring_the_whole_document(call: str, tmp_path: Path) -> None:
    """Between storages and codecs the document arrives whole, unknown fields included; `move` removes the source."""
    json_side, msgpack_side = tmp_path / "json", tmp_path / "msgpack"
    storages = {"json": StorageConfig(str(json_side)), "msgpack": StorageConfig(str(msgpack_side), codec="msgpack")}
    async with AccountStore.open(StoreConfig(default="json", storages=storages)) as store:
        for source, data in ((AT, RICH), (MULTI_AT, RICH_MULTI)):
            target = replace(source, storage="msgpack", folder="far/away")
            (json_side / source.folder).mkdir(parents=True, exist_ok=True)
            (json_side / source.path).write_bytes(data)
            version = await getattr(store, call)(source, target)
            assert (await store.stat(target)).version == version
            assert msgspec.msgpack.decode((msgpack_side / target.path).read_bytes()) == json.loads(data)
            assert await store.exists(source) == (call == "copy")
            await getattr(store, call)(target, source)
            assert json.loads((json_side / source.path).read_bytes()) == json.loads(data)


@pytest.mark.parametrize("call", ["copy", "move"])
async def test_modes_of_copy_and_move_are_about_the_target(store: AccountStore, call: str) -> None:
    """`"create"` and versions mean the target; where they fail, the error names it and both documents stay."""
    run = getattr(store, call)
    await store.save(AT, ACCOUNT)
    old = await store.save(ELSEWHERE, OAUTH)
    new = await store.save(ELSEWHERE, replace(OAUTH, port=1))
    for mode, error in (("create", ExistsError), (old, ConflictError)):
        with pytest.raises(error) as caught:
            await run(AT, ELSEWHERE, mode=mode)
        assert caught.value.location == ELSEWHERE
        assert await store.get(AT) == ACCOUNT
        assert await store.get(ELSEWHERE) == replace(OAUTH, port=1)
    await run(AT, ELSEWHERE, mode=new)
    assert await store.get(ELSEWHERE) == ACCOUNT
    assert await store.exists(AT) == (call == "copy")
    with pytest.raises(NotFoundError) as gone:
        await run(Location("no.account"), ELSEWHERE)
    assert gone.value.location == Location("no.account")
    assert await store.get(ELSEWHERE) == ACCOUNT


async def test_move_takes_a_change_made_meanwhile_along(pauses: list[float]) -> None:
    """A source that changes between the copy and the removal is copied again: the change is at the target."""
    backend = Recording()
    store = over(main=backend)
    await store.save(AT, ACCOUNT)
    newer = replace(ACCOUNT, port=7)

    async def change(name: str) -> None:
        if name == "delete" and not pauses:
            await backend.put(AT, JSON.encode(newer))

    backend.before = change
    await store.move(AT, ELSEWHERE, mode="create")
    assert await store.get(ELSEWHERE) == newer
    assert not await store.exists(AT)
    assert len(pauses) == 1


async def test_move_gives_up_when_the_source_keeps_changing(pauses: list[float]) -> None:
    """After 64 attempts `move` is a `ConflictError` about the source, and both documents stay."""
    backend = Recording()
    store = over(main=backend)
    await store.save(AT, ACCOUNT)
    backend.calls.clear()

    async def change(name: str) -> None:
        if name == "delete":
            await backend.put(AT, JSON.encode(replace(ACCOUNT, port=1 + len(backend.calls))))

    backend.before = change
    with pytest.raises(ConflictError) as caught:
        await store.move(AT, ELSEWHERE)
    assert caught.value.location == AT
    assert backend.calls == ["read", "write", "delete"] * 64
    assert len(pauses) == 63
    backend.before = None
    assert (await store.get(AT)).port == 193
    assert (await store.get(ELSEWHERE)).port == 190


async def test_move_does_not_overwrite_a_target_that_changed_meanwhile(pauses: list[float]) -> None:
    """When source and target both change between the steps, `move` is a `ConflictError` and both changes stay."""
    backend = Recording()
    store = over(main=backend)
    await store.save(AT, ACCOUNT)

    async def change(name: str) -> None:
        if name == "delete":
            await backend.put(AT, JSON.encode(replace(ACCOUNT, port=7)))
            await backend.put(ELSEWHERE, JSON.encode(replace(OAUTH, port=8)))

    backend.before = change
    with pytest.raises(ConflictError) as caught:
        await store.move(AT, ELSEWHERE)
    assert caught.value.location == ELSEWHERE
    assert (await store.get(AT)).port == 7
    assert (await store.get(ELSEWHERE)).port == 8
    assert len(pauses) == 1


async def test_move_onto_a_storage_without_swap_stops_at_the_first_conflict() -> None:
    """Where the target cannot compare and swap, a source that changed is a `ConflictError`, and both stay."""
    source, target = Recording(), Recording(capabilities=limited(create=False, update=False))
    store = over(main=source, plain=target)
    there = replace(ELSEWHERE, storage="plain")
    await store.save(AT, ACCOUNT)

    async def change(name: str) -> None:
        if name == "delete":
            await source.put(AT, JSON.encode(replace(ACCOUNT, port=7)))

    source.before = change
    with pytest.raises(ConflictError) as caught:
        await store.move(AT, there)
    assert caught.value.location == AT
    assert (await store.get(AT)).port == 7
    assert await store.get(there) == ACCOUNT
    assert target.calls == ["write", "read"]


async def test_move_from_a_storage_without_swap_removes_what_it_copied() -> None:
    """Where the source cannot compare and swap, `move` copies and removes, without a condition."""
    source, target = Recording(capabilities=limited(create=False, update=False)), Recording()
    store = over(plain=source, main=target)
    there = replace(ELSEWHERE, storage="main")
    await store.save(AT, ACCOUNT)
    await store.move(AT, there)
    assert await store.get(there) == ACCOUNT
    assert not await store.exists(AT)


async def test_a_move_that_cannot_remove_the_source_loses_nothing() -> None:
    """When the source cannot be removed the error says so, and both documents are there."""
    backend = Recording()
    store = over(main=backend)
    await store.save(AT, ACCOUNT)

    async def fail(name: str) -> None:
        if name == "delete":
            raise PermissionError

    backend.before = fail
    with pytest.raises(AccountStoreError) as caught:
        await store.move(AT, ELSEWHERE)
    assert caught.value.location == AT
    assert await store.get(AT) == await store.get(ELSEWHERE) == ACCOUNT


def _roots(folder: Path, /) -> dict[str, tuple[dict[str, StorageConfig], Location, Location]]:
    """Ways to name one file, `folder/deep/x.account`, by two locations."""
    inside = folder / "inside"
    inside.mkdir()
    (folder / "link").symlink_to(inside, target_is_directory=True)
    a, deep = Location("x.account", folder="deep", storage="a"), Location("x.account", storage="b")
    b = replace(a, storage="b")
    one = StorageConfig(str(inside))
    return {
        "the same location": ({"a": one}, a, a),
        "with and without the default": ({"a": one}, a, replace(a, storage=None)),
        "the same folder twice": ({"a": one, "b": one}, a, b),
        "path and URL": ({"a": one, "b": StorageConfig(f"file://{inside}/")}, a, b),
        "two schemes": ({"a": one, "b": StorageConfig(f"local://{inside}")}, a, b),
        "dots": ({"a": one, "b": StorageConfig(f"{inside}/../inside")}, a, b),
        "a symbolic link": ({"a": one, "b": StorageConfig(str(folder / "link"))}, a, b),
        "one root in the other": ({"a": one, "b": StorageConfig(str(inside / "deep"))}, a, deep),
        "fsspec's own backend": (
            {"a": one, "b": StorageConfig("dir://", {"path": str(inside), "target_protocol": "file"})},
            a,
            b,
        ),
        "two of fsspec's": (
            {
                "a": StorageConfig("dir://", {"path": str(inside), "target_protocol": "file"}),
                "b": StorageConfig("dir://", {"path": f"{inside}/", "target_protocol": "local"}),
            },
            a,
            b,
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "the same location",
        "with and without the default",
        "the same folder twice",
        "path and URL",
        "two schemes",
        "dots",
        "a symbolic link",
        "one root in the other",
        "fsspec's own backend",
        "two of fsspec's",
    ],
)
async def test_a_document_moved_onto_itself_survives(case: str, tmp_path: Path) -> None:
    """However one file is named twice, moving it onto itself does not remove it, in either direction."""
    storages, source, target = _roots(tmp_path)[case]
    async with AccountStore.open(StoreConfig(storages=storages, default="a")) as store:
        for one, other in ((source, target), (target, source)):
            await store.save(source, ACCOUNT)
            for call in (store.move, store.copy):
                try:
                    await call(one, other)
                except LocationError as error:
                    assert error.location is not None
                assert await store.get(source) == ACCOUNT
                assert await store.get(target) == ACCOUNT


async def test_two_memory_storages_are_two_places() -> None:
    """Documents move between two memory storages, also where one configuration object serves both."""
    same = StorageConfig("memory://")
    for other in (same, StorageConfig("memory://")):
        async with AccountStore.open(StoreConfig(default="a", storages={"a": same, "b": other})) as store:
            there = replace(AT, storage="b")
            await store.save(AT, ACCOUNT)
            await store.move(AT, there)
            assert await store.get(there) == ACCOUNT
            assert not await store.exists(AT)


async def test_a_document_moves_between_two_roots_with_the_same_names(tmp_path: Path) -> None:
    """The control of the test above: the same path under two roots is two documents."""
    storages = {"a": StorageConfig(str(tmp_path / "a")), "b": StorageConfig(str(tmp_path / "b"))}
    async with AccountStore.open(StoreConfig(default="a", storages=storages)) as store:
        await store.save(AT, ACCOUNT)
        await store.move(AT, replace(AT, storage="b"))
        assert await store.get(replace(AT, storage="b")) == ACCOUNT
        assert not await store.exists(AT)


# --- storages ---------------------------------------------------------------------------------------------------------


async def test_storages_have_the_default_first() -> None:
    """`storages` has all names, the default one first and the others as configured; so has `repr`."""
    names = ("one", "two", "three")
    config = StoreConfig(default="two", storages={name: StorageConfig("memory://") for name in names})
    async with AccountStore.open(config) as store:
        assert store.storages == ("two", "one", "three")
        assert repr(store) == "<AccountStore two, one, three>"


async def test_capabilities_are_the_backends(tmp_path: Path) -> None:
    """`capabilities` tells what each storage promises, of the default one without a name."""
    storages = {
        "main": StorageConfig(str(tmp_path)),
        "memory": StorageConfig("memory://"),
        "plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"}),
    }
    async with AccountStore.open(StoreConfig(default="main", storages=storages)) as store:
        local, memory, plain = (store.capabilities(name) for name in ("main", "memory", "plain"))
        assert store.capabilities() == local
    assert (local.create, local.update, local.atomic, local.durable) == (True, True, True, True)
    assert (memory.create, memory.update, memory.atomic, memory.durable) == (True, True, True, False)
    assert (plain.create, plain.update, plain.atomic, plain.durable) == (False, False, False, False)


async def test_filesystem_reaches_the_same_files(store: AccountStore) -> None:
    """`filesystem` gives an fsspec filesystem and the root in it, under which the documents are."""
    await store.save(AT, ACCOUNT)
    filesystem, root = await store.filesystem()
    path = f"{root.rstrip('/')}/{AT.path}"

    def edit() -> bytes:
        data = cast("bytes", filesystem.cat_file(path))
        filesystem.pipe_file(path, data.replace(b"smtp.example.org", b"smtp.example.net"))
        return data

    assert json.loads(await anyio.to_thread.run_sync(edit))["port"] == 465
    assert (await store.get(AT)).host == "smtp.example.net"
    with pytest.raises(LocationError):
        await store.filesystem("other")


# --- check ------------------------------------------------------------------------------------------------------------


async def listed(store: AccountStore, storage: str | None = None, /) -> list[str]:
    return sorted([entry.location.path async for entry in store.list(storage=storage, recursive=True)])


async def test_check_proves_a_good_storage_and_leaves_nothing(store: AccountStore) -> None:
    """`check` of a storage that keeps its promises is ok, tells what was proven, and leaves no document."""
    await store.save(AT, ACCOUNT)
    result = await store.check()
    assert result.ok
    assert (result.storage, result.create, result.update) == ("main", True, True)
    assert {"write", "read", "delete"} <= {step.name for step in result.steps}
    assert all(not step.problem and step.seconds >= 0 for step in result.steps)
    assert await listed(store) == [AT.path]


async def test_check_of_a_plain_storage_proves_what_it_declares(tmp_path: Path) -> None:
    """A storage that declares no conditions is ok without them: they are None."""
    storages = {"plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"})}
    async with AccountStore.open(StoreConfig(storages=storages)) as store:
        result = await store.check()
        assert result.ok
        assert (result.create, result.update) == (None, None)
        assert await listed(store) == []


class Careless(MemoryBackend):
    """Ignores the conditions that it declares."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite")

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key)


class CarelessCreate(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="overwrite" if mode == "create" else mode)


class CarelessSwap(MemoryBackend):
    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await super().write(key, data, mode="create" if mode == "create" else "overwrite")


class CarelessDelete(MemoryBackend):
    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await super().delete(key)


class Stubborn(MemoryBackend):
    """Refuses every swap."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        if isinstance(mode, Version):
            raise ConflictError("no")
        return await super().write(key, data, mode=mode)


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


class Down(MemoryBackend):
    """Fails in one call of each kind."""

    def __init__(self, call: str, /) -> None:
        super().__init__()
        self.call = call

    def _fail(self, call: str, /) -> None:
        if call == self.call:
            raise ConnectionRefusedError

    async def read(self, key: str, /, *, limit: int) -> Blob:
        self._fail("read")
        return await super().read(key, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        self._fail("write")
        return await super().write(key, data, mode=mode)

    async def stat(self, key: str, /) -> Stat:
        self._fail("stat")
        return await super().stat(key)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        self._fail("delete")
        await super().delete(key, version=version)


class Unversioned(MemoryBackend):
    """Tells no versions, though it declares compare-and-swap."""

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), version=None)


@pytest.mark.parametrize(
    ("backend", "create", "update"),
    [
        (Careless, False, False),
        (CarelessCreate, False, True),
        (CarelessSwap, True, False),
        (CarelessDelete, True, False),
        (Stubborn, True, False),
        (Forgetful, None, True),
        (Hoarding, True, True),
    ],
)
async def test_check_finds_a_backend_that_lies(
    backend: type[MemoryBackend], create: bool | None, update: bool | None
) -> None:
    """`check` is not ok where a backend does not do what it declares, and names the step."""
    result = await over(main=backend()).check()
    assert not result.ok
    assert any(step.problem for step in result.steps)
    assert (result.create, result.update) == (create, update)


@pytest.mark.parametrize("call", ["read", "write", "stat", "delete"])
async def test_check_tells_what_a_storage_refuses(call: str) -> None:
    """A storage that cannot be reached, in any of its calls, is a problem in the result and no exception."""
    backend = Down(call)
    result = await over(main=backend).check()
    assert not result.ok
    assert any(step.problem.startswith("UnavailableError") for step in result.steps)
    backend.call = ""
    assert await listed(over(main=backend)) == [] or call == "delete"


async def test_check_tells_of_missing_versions() -> None:
    """A backend that declares compare-and-swap and tells no versions is a problem in the result."""
    result = await over(main=Unversioned()).check()
    assert not result.ok
    assert not result.update


# --- opening and closing ----------------------------------------------------------------------------------------------


class Closing(MemoryBackend):
    """Counts how often it is closed, and may fail to."""

    def __init__(self, error: Exception | None = None, /) -> None:
        super().__init__()
        self.closed = 0
        self.error = error

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1
        if self.error is not None:
            raise self.error


async def test_a_store_may_be_awaited_and_closed_by_hand() -> None:
    """`await AccountStore.open(...)` gives an open store, that `aclose` or `async with` closes."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    store = await AccountStore.open(config)
    await store.save(AT, ACCOUNT)
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.get(AT)
    async with await AccountStore.open(config) as other:
        await other.save(AT, ACCOUNT)
    with pytest.raises(ClosedError):
        await other.get(AT)


async def test_an_opening_opens_nothing_until_it_is_used(tmp_path: Path) -> None:
    """`AccountStore.open` alone does nothing; each use of it opens a store of its own."""
    opening = AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path / "root"))}))
    assert not (tmp_path / "root").exists()
    async with opening as first, await opening as second:
        await first.save(AT, ACCOUNT)
        assert await second.get(AT) == ACCOUNT
        await first.aclose()
        assert await second.get(AT) == ACCOUNT


async def test_a_store_closes_every_backend_once() -> None:
    """`aclose` closes each backend once, however often it is called."""
    one, other = Closing(), Closing()
    store = over(a=one, b=other)
    async with store:
        await store.save(AT, ACCOUNT)
    await store.aclose()
    await store.aclose()
    assert (one.closed, other.closed) == (1, 1)


async def test_an_error_in_the_body_closes_the_store_and_comes_out() -> None:
    """`async with` closes the store after an error in its body and raises that error."""
    backend = Closing()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with over(main=backend):
            raise error
    assert caught.value is error
    assert backend.closed == 1


async def test_a_backend_that_fails_to_close_does_not_keep_others_open() -> None:
    """All backends are closed when some of them fail to; the error is typed; a second `aclose` does nothing."""
    one, two, three = Closing(ConnectionResetError()), Closing(RuntimeError("canary")), Closing()
    store = over(a=one, b=two, c=three)
    with pytest.raises(UnavailableError):
        await store.aclose()
    assert (one.closed, two.closed, three.closed) == (1, 1, 1)
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.get(AT)


async def test_an_error_while_closing_does_not_hide_the_one_in_the_body() -> None:
    """When body and closing both fail, both are told: the body's error is the context of the other."""
    with pytest.raises(BackendError) as caught:
        async with over(main=Closing(OSError())):
            raise KeyError("mine")
    assert isinstance(caught.value.__context__, KeyError)


async def test_a_failed_opening_closes_what_it_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one storage cannot be opened, those before it are closed, and its error comes out, also if they fail to."""
    opened = Closing(OSError())

    def find(scheme: str, engine: str) -> Any:
        async def factory(url: str, options: object) -> Any:
            if scheme == "good":
                return opened
            raise ConfigError("cannot")

        return factory

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    storages = {"a": StorageConfig("good://"), "b": StorageConfig("bad://")}
    with pytest.raises(ConfigError, match="'b': cannot"):
        await AccountStore.open(StoreConfig(default="a", storages=storages))
    assert opened.closed == 1


FORKED = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import anyio
from accountstore import Account, AccountStore, ClosedError, Location, PasswordCredentials, StorageConfig, StoreConfig

ACCOUNT = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
AT = Location("x.account")
config = StoreConfig(storages={"main": StorageConfig("memory://")})


def refused(call):
    try:
        call()
    except ClosedError as error:
        return "another process" in str(error)


def begin(coroutine):
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


async def elsewhere(store):
    async with AccountStore.open(config) as own:
        await own.save(AT, ACCOUNT)
    try:
        return await store.get(AT) == ACCOUNT and "it answers"
    except ClosedError as error:
        return "another process" in str(error)


def in_the_child(store, tenant, kind, control):
    results = []
    if control:
        storages = store._reach.storages
        storages._process, storages._loop = os.getpid(), None
    else:  # on the event loop that the fork copied
        calls = (
            lambda: begin(store.get(AT)),
            lambda: begin(store.save(AT, ACCOUNT)),
            lambda: begin(store.delete(AT)),
            lambda: begin(tenant.get(AT)),
            store.list,
            store.capabilities,
        )
        results = [refused(call) for call in calls]
    # On one of its own, in a thread that has none yet.
    return [*results, ThreadPoolExecutor(1).submit(anyio.run, elsewhere, store, backend=kind).result()]


async def main(kind, control):
    store = await AccountStore.open(config)
    await store.save(AT, ACCOUNT)
    tenant = store.scoped("folder")
    pid = os.fork()
    if pid == 0:
        try:
            print(in_the_child(store, tenant, kind, control), flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert await store.get(AT) == ACCOUNT
    await store.aclose()
    print("well")


anyio.run(main, sys.argv[1], sys.argv[2] == "control", backend=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("kind", ["asyncio", "trio"])
@pytest.mark.parametrize("control", [False, True])
def test_a_store_is_of_no_use_in_a_forked_child(kind: str, control: bool) -> None:
    """In a forked child every call on the parent's store is a `ClosedError`, before any I/O; a store of its own works
    there, and the parent's in the parent. The control: with the check undone, the child's copy answers.
    """
    command = [*PYTHON, "-W", "ignore", "-c", FORKED, kind, "control" if control else ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HUNG)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [repr(["it answers"] if control else [True] * 7), "well"]


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
@pytest.mark.parametrize("moment", ["opened", "made outside of any"])
def test_a_store_is_of_no_use_on_a_second_event_loop(kind: str, moment: str) -> None:
    """A store belongs to the event loop that opened it, or that first used it; on another, of either kind, every call
    is a `ClosedError`, and no backend is asked. What needs no event loop works outside of any.
    """
    backend = Recording()
    stores: list[AccountStore] = []

    async def first() -> None:
        stores.append(over(main=backend))
        await stores[0].save(AT, ACCOUNT)

    async def use() -> None:
        await stores[0].save(AT, ACCOUNT)
        assert await stores[0].get(AT) == ACCOUNT

    async def every_call() -> None:
        for call in CLOSED.values():
            with pytest.raises(ClosedError, match="another event loop"):
                await call(stores[0])

    if moment == "opened":
        anyio.run(first, backend=kind)
    else:
        stores.append(over(main=backend))
        anyio.run(use, backend=kind)
    backend.calls.clear()
    for other in ("asyncio", "trio"):
        anyio.run(every_call, backend=other)
    assert backend.calls == []
    assert stores[0].capabilities().create
    # The control: with the check undone the same calls are made.
    cast("Any", stores[0])._reach.storages._loop = None
    anyio.run(use, backend=kind)
    assert backend.calls == ["write", "read"]


async def drained(items: AsyncIterator[object], /) -> list[object]:
    return [item async for item in items]


async def nothing() -> None:
    """For calls that are not awaited."""


CLOSED: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "get": lambda store: store.get(AT),
    "get_multi": lambda store: store.get_multi(MULTI_AT),
    "read": lambda store: store.read(AT),
    "read_multi": lambda store: store.read_multi(MULTI_AT),
    "save": lambda store: store.save(AT, ACCOUNT),
    "save_multi": lambda store: store.save_multi(MULTI_AT, MULTI),
    "update": lambda store: store.update(AT, next_port),
    "update_multi": lambda store: store.update_multi(MULTI_AT, lambda multi: multi),
    "stat": lambda store: store.stat(AT),
    "exists": lambda store: store.exists(AT),
    "delete": lambda store: store.delete(AT),
    "copy": lambda store: store.copy(AT, ELSEWHERE),
    "move": lambda store: store.move(AT, ELSEWHERE),
    "list": lambda store: drained(store.list()),
    "get_many": lambda store: drained(store.get_many([AT])),
    "save_many": lambda store: drained(store.save_many([(AT, ACCOUNT)])),
    "check": lambda store: store.check(),
    "filesystem": lambda store: store.filesystem(),
    "capabilities": lambda store: (store.capabilities(), nothing())[1],
    "scoped": lambda store: (store.scoped("mail"), nothing())[1],
}


@pytest.mark.parametrize("call", CLOSED)
async def test_a_closed_store_is_of_no_use(call: str) -> None:
    """Every call on a closed store is a `ClosedError`, on one that was narrowed before too, and no backend is asked."""
    backend = Recording()
    store = over(main=backend)
    tenant = store.scoped("mail")
    await store.save(AT, ACCOUNT)
    await store.aclose()
    backend.calls.clear()
    with pytest.raises(ClosedError):
        await CLOSED[call](store)
    with pytest.raises(ClosedError):
        await CLOSED[call](tenant)
    assert backend.calls == []


def test_every_public_call_is_tried_on_a_closed_store() -> None:
    """The table above has every public method of the store but those that open and close it."""
    public = {name for name in vars(AccountStore) if not name.startswith("_")}
    assert set(CLOSED) == public - {"open", "aclose", "storages"}


async def test_iterators_made_before_the_end_notice_it() -> None:
    """A listing or batch that was begun is a `ClosedError` when it would go on after the store was closed."""
    store = over(main=MemoryBackend())
    await store.save(AT, ACCOUNT)
    iterators = store.list(recursive=True), store.get_many([AT]), store.save_many([(AT, ACCOUNT)])
    await store.aclose()
    for iterator in iterators:
        with pytest.raises(ClosedError):
            await anext(aiter(cast("AsyncIterator[object]", iterator)))


async def test_closing_during_calls_ends_each_with_a_result_or_a_typed_error(store: AccountStore) -> None:
    """A store that is closed while calls are under way ends each of them with its result or an error of the library."""
    await store.save(AT, ACCOUNT)
    ends: list[object] = []

    async def call(run: Callable[[], Awaitable[object]]) -> None:
        try:
            ends.append(await run())
        except AccountStoreError as error:
            ends.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            at = Location(f"{number}.account")
            tasks.start_soon(call, partial(store.get, AT))
            tasks.start_soon(call, partial(store.save, at, ACCOUNT))
            tasks.start_soon(call, partial(store.update, AT, next_port))
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await store.aclose()
    assert len(ends) == 24


async def test_one_store_serves_many_tasks(store: AccountStore) -> None:
    """Tasks that share a store do not disturb one another."""

    async def work(number: int) -> None:
        at = Location(f"{number}.account", folder=f"folder-{number % 3}")
        account = replace(ACCOUNT, port=number + 1)
        await store.save(at, account, mode="create")
        assert await store.get(at) == account
        await store.update(at, lambda before: replace(before, host=f"host-{number}"))
        await store.move(at, replace(at, folder="moved"))

    async with anyio.create_task_group() as tasks:
        for number in range(24):
            tasks.start_soon(work, number)
    found = {e.location.path: await store.get(e.location) async for e in store.list(recursive=True)}
    assert found == {
        f"moved/{number}.account": replace(ACCOUNT, port=number + 1, host=f"host-{number}") for number in range(24)
    }


async def test_a_batch_is_not_what_a_single_call_uses() -> None:
    """The control of the counting backend: it tells a batch from single calls, and keeps what is asked."""

    class Both(MemoryBackend):
        async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
            return await super().write_many(writes)

    backend = Recording(Both())
    store = over(main=backend)
    documents: list[tuple[Location, Document]] = [(AT, ACCOUNT), (ELSEWHERE, OAUTH)]
    assert len([pair async for pair in store.save_many(documents)]) == 2
    await store.save(AT, OAUTH)
    await store.aclose()
    assert backend.calls == ["write_many", "write", "aclose"]
