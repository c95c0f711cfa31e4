"""Storage and DocumentRef: documents to bytes and back, their limits, and the location in each error."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from doubles import Recording
from msgspec.structs import asdict, replace
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, MULTI, MULTI_AT, OAUTH, RICH, RICH_MULTI, ended

from accountstore import (
    Account,
    AccountStore,
    Location,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    Stored,
    Version,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import CODECS, JSON, MSGPACK
from accountstore.errors import DecodeError, EncodeError, ExtensionError, TooLargeError
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


class Wrong(Account, frozen=True, kw_only=True):
    """An account with a field of its own, which no reader would get back."""

    secret_note: str = "kept nowhere"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (MULTI, "$"),
        ({"host": "h"}, "$"),
        (None, "$"),
        (Account, "$"),
        (Wrong(**asdict(ACCOUNT)), "$"),
        (replace(ACCOUNT, port=2**31), "$.port"),
        (replace(ACCOUNT, credentials=PasswordCredentials(login="me", password="")), "$.credentials.password"),
    ],
    ids=["multi", "dict", "none", "class", "subclass", "port", "password"],
)
async def test_save_refuses_what_get_would_not_return(store: AccountStore, document: Any, field: str) -> None:
    """Anything but an `Account` that can be read back is an `EncodeError` that names location and field; the old
    document stays.
    """
    await store.save(AT, OAUTH)
    with pytest.raises(EncodeError) as caught:
        await store.save(AT, document)
    assert (caught.value.field, caught.value.location) == (field, AT)
    with pytest.raises(EncodeError):
        await store.save_multi(MULTI_AT, document if document is not MULTI else cast("Any", ACCOUNT))
    assert await store.get(AT) == OAUTH
    assert not await store.exists(MULTI_AT)


@pytest.mark.parametrize(
    ("data", "field"),
    [(b"canary-text", "$"), (b'{"host":"canary-text","port":"canary-text"}', "$.port"), (MSGPACK.encode(ACCOUNT), "$")],
    ids=["text", "wrong type", "msgpack"],
)
async def test_what_is_no_document_is_a_decode_error(data: bytes, field: str) -> None:
    """A file that holds something else is a `DecodeError` that names location and field and quotes nothing."""
    backend = Recording()
    store = store_over({"main": backend})
    await backend.put(AT, data)
    for name in ("get", "read", "read_json", "update", "copy", "move", "get_many"):
        with pytest.raises(DecodeError) as caught:
            await CALLS[name](store)
        assert caught.value.location == AT
        assert caught.value.field == field
        assert "canary" not in str(caught.value)
    assert not await store.exists(ELSEWHERE)


def test_a_stored_document_cannot_be_changed() -> None:
    """No field of what `read` returns can be assigned: a version that is swapped on is the one that was read."""
    stored: Any = Stored(ACCOUNT, Version("1"), 1, None)
    for name in ("document", "version", "size", "modified"):
        with pytest.raises(AttributeError):
            setattr(stored, name, None)
    assert stored == Stored(ACCOUNT, Version("1"), 1, None)


async def test_a_document_may_have_just_max_bytes(tmp_path: Path) -> None:
    """`max_bytes` bytes are saved and read; one more is a `TooLargeError` in both, and `stat` still shows it."""
    longer = replace(ACCOUNT, host=f"{ACCOUNT.host}x")
    size = len(JSON.encode(ACCOUNT))
    config = StoreConfig(storages={"main": StorageConfig(str(tmp_path))}, max_bytes=size)
    async with AccountStore.open(config) as store:
        await store.save(AT, ACCOUNT)
        saves: tuple[Awaitable[object], ...] = (
            store.save(AT, longer),
            store.save_json(AT, JSON.encode(longer)),
            store.update(AT, lambda _: longer),
            ended(store.save_many([(AT, longer)])),
        )
        for call in saves:
            with pytest.raises(TooLargeError) as caught:
                await call
            assert caught.value.location == AT
        assert await store.get(AT) == ACCOUNT
        assert (await store.read_json(AT)).document == JSON.encode(ACCOUNT)
        (tmp_path / AT.path).write_bytes(JSON.encode(longer))
        for name in ("get", "read", "read_json", "update", "copy", "get_many"):
            with pytest.raises(TooLargeError) as caught:
                await CALLS[name](store)
            assert caught.value.location == AT
        assert (await store.stat(AT)).size == size + 1


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
