"""Storage and DocumentRef: documents to bytes and back, their limits, and the location in each error."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from doubles import Recording, drained
from msgspec.structs import asdict, replace
from samples import ACCOUNT, AT, ELSEWHERE, FULL, MULTI, MULTI_AT, OAUTH, RICH, RICH_MULTI, next_port

from accountstore import (
    Account,
    AccountStore,
    DecodeError,
    EncodeError,
    Event,
    ExtensionError,
    Location,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import CODECS, JSON, MSGPACK
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

pytestmark = pytest.mark.anyio

both_codecs = pytest.mark.parametrize("codec", CODECS)
both_kinds = pytest.mark.parametrize(
    ("location", "data"), [(AT, RICH), (MULTI_AT, RICH_MULTI)], ids=["account", "multi"]
)


def tree(codec: str, data: bytes, /) -> Any:
    """A document's bytes, taken apart."""
    return (msgspec.json if codec == "json" else msgspec.msgpack).decode(data)


def packed(codec: str, data: bytes, /) -> bytes:
    """A document's JSON in a codec."""
    return data if codec == "json" else msgspec.msgpack.encode(json.loads(data))


# --- what is written --------------------------------------------------------------------------------------------------


class Wrong(Account, frozen=True, kw_only=True):
    """An account with a field of its own, which no reader would get back."""

    secret_note: str = "kept nowhere"


@pytest.mark.parametrize(
    "document",
    [MULTI, {"host": "h"}, None, "text", Account, ACCOUNT.credentials, Wrong(**asdict(ACCOUNT))],
    ids=["multi", "dict", "none", "text", "class", "credentials", "subclass"],
)
async def test_save_refuses_what_is_no_account(store: AccountStore, document: Any) -> None:
    """Saving anything but an `Account` is an `EncodeError`, and nothing is written."""
    with pytest.raises(EncodeError) as caught:
        await store.save(AT, document)
    assert caught.value.location == AT
    with pytest.raises(EncodeError):
        await store.save_multi(MULTI_AT, document if document is not MULTI else cast("Any", ACCOUNT))
    assert await drained(store.list(recursive=True)) == []


@pytest.mark.parametrize(
    ("account", "field"),
    [
        (replace(ACCOUNT, port=2**31), "$.port"),
        (replace(ACCOUNT, host=""), "$.host"),
        (replace(ACCOUNT, credentials=PasswordCredentials(login="me", password="")), "$.credentials.password"),
    ],
    ids=["port", "host", "password"],
)
async def test_save_refuses_what_get_would_refuse(store: AccountStore, account: Account, field: str) -> None:
    """An account that could not be read back is an `EncodeError` that names the field; the old document stays."""
    await store.save(AT, OAUTH)
    with pytest.raises(EncodeError) as caught:
        await store.save(AT, account)
    assert (caught.value.field, caught.value.location) == (field, AT)
    assert await store.get(AT) == OAUTH


@both_codecs
async def test_a_storage_holds_documents_in_its_codec(codec: str) -> None:
    """A storage keeps documents of both kinds as JSON or MessagePack, as configured."""
    backend = Recording()
    store = store_over({"main": backend}, codec=codec)
    await store.save(AT, FULL)
    assert tree(codec, await backend.raw(AT))["credentials"]["login"] == "me@example.org"
    assert await store.get(AT) == FULL
    assert (await store.update(AT, next_port)).document == await store.get(AT) == next_port(FULL)
    await store.save_multi(MULTI_AT, MULTI)
    assert len(tree(codec, await backend.raw(MULTI_AT))["receiveAccounts"]) == 2
    assert await store.get_multi(MULTI_AT) == MULTI


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "$"),
        (b"canary-text", "$"),
        (b"\xff\xfe", "$"),
        (b'{"host":"canary-text","port":"canary-text"}', "$.port"),
        (MSGPACK.encode(ACCOUNT), "$"),
        (b'{"host":"h","port":1,"credentials":{"discriminator":"canary-text"}}', "$.credentials"),
    ],
    ids=["nothing", "text", "no text", "wrong type", "msgpack", "unknown class"],
)
async def test_what_is_no_document_is_a_decode_error(data: bytes, field: str) -> None:
    """A file that holds something else is a `DecodeError` that names location and field and quotes nothing."""
    backend = Recording()
    store = store_over({"main": backend})
    await backend.put(AT, data)
    calls: tuple[Awaitable[object], ...] = (
        store.get(AT),
        store.read(AT),
        store.read_json(AT),
        store.update(AT, next_port),
        store.copy(AT, ELSEWHERE),
    )
    for call in calls:
        with pytest.raises(DecodeError) as caught:
            await call
        assert caught.value.location == AT
        assert caught.value.field.startswith(field)
        assert "canary" not in str(caught.value)
    assert not await store.exists(ELSEWHERE)


@pytest.mark.parametrize(
    ("name", "value"), [("document", ACCOUNT), ("version", Version("other")), ("size", 1), ("modified", None)]
)
async def test_a_stored_document_cannot_be_changed(name: str, value: object) -> None:
    """No field of what `read` returns can be assigned: a version that is swapped on is the one that was read."""
    store = store_over({"main": MemoryBackend()})
    await store.save(AT, ACCOUNT)
    stored: Any = await store.read(AT)
    before = getattr(stored, name)
    with pytest.raises(AttributeError):
        setattr(stored, name, value)
    assert getattr(stored, name) == before


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory://", "{folder}"])
async def test_a_document_may_have_just_max_bytes(url: str, tmp_path: Path) -> None:
    """`max_bytes` bytes are saved and read; one more is a `TooLargeError`, and nothing is written."""
    storages = {"main": StorageConfig(url.format(folder=tmp_path))}
    longer = replace(ACCOUNT, host=f"{ACCOUNT.host}x")
    async with AccountStore.open(StoreConfig(storages=storages, max_bytes=len(JSON.encode(ACCOUNT)))) as store:
        await store.save(AT, ACCOUNT)
        calls: tuple[Awaitable[object], ...] = (
            store.save(AT, longer),
            store.save_json(AT, JSON.encode(longer)),
            store.update(AT, lambda _: longer),
        )
        for call in calls:
            with pytest.raises(TooLargeError) as caught:
                await call
            assert caught.value.location == AT
        assert [type(end) for _, end in await drained(store.save_many([(AT, longer)]))] == [TooLargeError]
        assert await store.get(AT) == ACCOUNT
        assert (await store.read_json(AT)).document == JSON.encode(ACCOUNT)


async def test_what_is_longer_than_max_bytes_is_not_read(tmp_path: Path) -> None:
    """A document that another store wrote and that is too long for this one is a `TooLargeError`; `stat` shows it."""
    storages = {"main": StorageConfig(str(tmp_path))}
    async with AccountStore.open(StoreConfig(storages=storages)) as store:
        await store.save(AT, ACCOUNT)
    async with AccountStore.open(StoreConfig(storages=storages, max_bytes=len(JSON.encode(ACCOUNT)) - 1)) as store:
        for call in (store.get, store.read, store.read_json):
            with pytest.raises(TooLargeError) as caught:
                await call(AT)
            assert caught.value.location == AT
        assert (await store.stat(AT)).size == len(JSON.encode(ACCOUNT))
        assert [type(end) for _, end in await drained(store.get_many([AT]))] == [TooLargeError]


# --- JSON, whole ------------------------------------------------------------------------------------------------------


@both_codecs
@both_kinds
async def test_read_json_returns_the_whole_document(codec: str, location: Location, data: bytes) -> None:
    """`read_json` returns a document of either kind as JSON, unknown fields included, with what `read` returns beside
    it; of a JSON storage, the very bytes of the file.
    """
    backend = Recording()
    await backend.put(location, packed(codec, data))
    store = store_over({"main": backend}, codec=codec)
    stored = await store.read_json(location)
    assert json.loads(stored.document) == json.loads(data)
    assert codec != "json" or stored.document == data
    typed = await (store.read(location) if location == AT else store.read_multi(location))
    assert (stored.version, stored.size, stored.modified) == (typed.version, typed.size, typed.modified)


@both_codecs
@both_kinds
async def test_save_json_writes_the_whole_document(codec: str, location: Location, data: bytes) -> None:
    """`save_json` writes a document of either kind in the storage's codec, unknown fields included, and returns its
    version; into a JSON storage, the very bytes.
    """
    backend = Recording()
    store = store_over({"main": backend}, codec=codec)
    version = await store.save_json(location, data)
    assert tree(codec, await backend.raw(location)) == json.loads(data)
    assert codec != "json" or await backend.raw(location) == data
    assert (await store.stat(location)).version == version
    assert await store.save_json(location, (await store.read_json(location)).document) == version


INVALID: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "$"),
    "no JSON": (MSGPACK.encode(ACCOUNT), "$"),
    "no document": (b"[]", "$"),
    "the other kind": (b'{"receiveAccounts":[]}', "$"),
    "a field missing": (b'{"host":"canary","port":1}', "$"),
    "a wrong type": (RICH.replace(b'"port":1', b'"port":"canary"'), "$.port"),
    "a value below the bound": (RICH.replace(b'"port":1', b'"port":0'), "$.port"),
    "an empty password": (RICH.replace(b'"password":"p"', b'"password":""'), "$.credentials.password"),
    "a key twice": (RICH.replace(b'"port":1', b'"canary":1,"canary":2,"port":1'), "$"),
}


@both_codecs
@pytest.mark.parametrize(("data", "field"), INVALID.values(), ids=INVALID)
async def test_save_json_refuses_what_get_would_refuse(codec: str, data: bytes, field: str) -> None:
    """What is not the JSON of such a document is an `EncodeError` that names location and field and quotes nothing;
    the storage is not asked.
    """
    backend = Recording()
    with pytest.raises(EncodeError) as caught:
        await store_over({"main": backend}, codec=codec).save_json(AT, data)
    assert (caught.value.field, caught.value.location) == (field, AT)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert backend.log == []


async def test_read_json_refuses_what_json_has_not() -> None:
    """A MessagePack document with a value that JSON does not have is an `EncodeError` with its location."""
    backend = Recording()
    await backend.put(AT, msgspec.msgpack.encode(json.loads(RICH) | {"new": float("inf")}))
    with pytest.raises(EncodeError) as caught:
        await store_over({"main": backend}, codec="msgpack").read_json(AT)
    assert caught.value.location == AT


@pytest.mark.parametrize("name", ["email.json", "email", "account"])
async def test_json_of_another_extension_is_refused(name: str) -> None:
    """A file name of neither kind is an `ExtensionError` with its location, and the storage is not asked."""
    backend = Recording()
    store = store_over({"main": backend})
    at = Location(name)
    calls: tuple[Awaitable[object], ...] = (store.read_json(at), store.save_json(at, RICH))
    for call in calls:
        with pytest.raises(ExtensionError) as caught:
            await call
        assert caught.value.location == at
    assert backend.log == []


@both_codecs
async def test_json_does_not_show_in_a_repr(codec: str) -> None:
    """What `read_json` returns holds the password, and neither its `repr` nor its bytes' shows it."""
    store = store_over({"main": MemoryBackend()}, codec=codec)
    await store.save_json(AT, RICH.replace(b'"p"', b'"canary"'))
    stored = await store.read_json(AT)
    assert b"canary" in stored.document
    assert "canary" not in f"{stored!r} {stored} {stored.document!r}"
    assert "canary" not in str(stored.document)


async def test_json_makes_events_of_its_own() -> None:
    """`read_json` and `save_json` are events of these names, with version and size, and with the error's class."""
    events: list[Event] = []
    store = store_over({"main": MemoryBackend()}, observer=events.append)
    version = await store.save_json(AT, RICH)
    await store.read_json(AT)
    with pytest.raises(EncodeError):
        await store.save_json(AT, b"")
    assert [(e.operation, e.location, e.outcome, e.version, e.bytes) for e in events] == [
        ("save_json", AT, "ok", version, len(RICH)),
        ("read_json", AT, "ok", version, len(RICH)),
        ("save_json", AT, "EncodeError", None, None),
    ]
