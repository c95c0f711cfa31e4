"""Storage and DocumentRef: documents to bytes and back, their limits, and the location in each error."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from doubles import Recording, raises
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
from accountstore.errors import DecodeError, EncodeError, TooLargeError
from accountstore.testing import store_over

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

both_codecs = pytest.mark.parametrize("codec", CODECS)
both_kinds = pytest.mark.parametrize(
    ("location", "data"), [(AT, RICH), (MULTI_AT, RICH_MULTI)], ids=["account", "multi"]
)


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
    """What cannot be read back is an `EncodeError` with location and field; the old document stays."""
    await store.save(AT, OAUTH)
    with raises(EncodeError, field=field, location=AT):
        await store.save(AT, document)
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
        with raises(DecodeError, location=AT, field=field) as caught:
            await CALLS[name](store)
        assert "canary" not in str(caught.value)
    assert not await store.exists(ELSEWHERE)


def test_a_stored_document_cannot_be_changed() -> None:
    """No field of what `read` returns can be assigned: a version that is swapped on is the one that was read."""
    stored = Stored(ACCOUNT, Version("1"), 1, None)
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
        for call in (
            store.save(AT, longer),
            store.save_json(AT, JSON.encode(longer)),
            store.update(AT, lambda _: longer),
            ended(store.save_many([(AT, longer)])),
        ):
            with raises(TooLargeError, location=AT):
                await call
        assert await store.get(AT) == ACCOUNT
        assert (await store.read_json(AT)).document == JSON.encode(ACCOUNT)
        (tmp_path / AT.path).write_bytes(JSON.encode(longer))
        for name in ("get", "read", "read_json", "update", "copy", "get_many"):
            with raises(TooLargeError, location=AT):
                await CALLS[name](store)
        assert (await store.stat(AT)).size == size + 1


@both_codecs
@both_kinds
async def test_json_is_the_whole_document(codec: str, location: Location, data: bytes) -> None:
    """`save_json` writes a document of either kind in the storage's codec, unknown fields included, and returns its
    version; `read_json` returns it, with what `read` returns beside it. In a JSON storage the file has the very bytes.
    """
    backend = Recording()
    store = store_over({"main": backend}, codec=codec)
    version = await store.save_json(location, data)
    raw = await backend.raw(location)
    assert (msgspec.json if codec == "json" else msgspec.msgpack).decode(raw) == json.loads(data)
    assert codec != "json" or raw == data
    assert (await store.stat(location)).version == version
    stored = await store.read_json(location)
    assert json.loads(stored.document) == json.loads(data)
    assert codec != "json" or stored.document == data
    typed = await (store.read(location) if location == AT else store.read_multi(location))
    assert (stored.version, stored.size, stored.modified) == (typed.version, typed.size, typed.modified)
    assert await store.save_json(location, stored.document) == version


INVALID: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "$"),
    "no JSON": (MSGPACK.encode(ACCOUNT), "$"),
    "no document": (b"[]", "$"),
    "the other kind": (b'{"receiveAccounts":[]}', "$"),
    "a field missing": (b'{"host":"canary"}', "$"),
    "a wrong type": (RICH.replace(b'"port":1', b'"port":"canary"'), "$.port"),
    "a value below the bound": (RICH.replace(b'"port":1', b'"port":0'), "$.port"),
    "a masked password": (RICH.replace(b'"password":"p"', b'"password":"**********"'), "$.credentials.password"),
    "an empty password": (RICH.replace(b'"password":"p"', b'"password":""'), "$.credentials.password"),
    "a key twice": (RICH.replace(b'"port":1', b'"canary":1,"canary":2,"port":1'), "$"),
}


@both_codecs
@pytest.mark.parametrize(("data", "field"), INVALID.values(), ids=INVALID)
async def test_save_json_refuses_what_get_would_refuse(codec: str, data: bytes, field: str) -> None:
    """Any other JSON, and the mask of `to_json` for a secret, is an `EncodeError` with location and field that quotes
    nothing; the storage is not asked.
    """
    backend = Recording()
    with raises(EncodeError, field=field, location=AT) as caught:
        await store_over({"main": backend}, codec=codec).save_json(AT, data)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert backend.log == []


async def test_read_json_refuses_what_json_has_not() -> None:
    """A MessagePack document with a value that JSON does not have is an `EncodeError` with its location."""
    backend = Recording()
    await backend.put(AT, msgspec.msgpack.encode(json.loads(RICH) | {"new": float("inf")}))
    with raises(EncodeError, location=AT):
        await store_over({"main": backend}, codec="msgpack").read_json(AT)


@both_codecs
async def test_json_does_not_show_in_a_repr(codec: str) -> None:
    """What `read_json` returns holds the password, and neither its `repr` nor its bytes' shows it."""
    store = store_over({"main": MemoryBackend()}, codec=codec)
    await store.save_json(AT, RICH.replace(b'"p"', b'"canary"'))
    stored = await store.read_json(AT)
    assert b"canary" in stored.document
    assert "canary" not in f"{stored!r} {stored} {stored.document!r} {stored.document!s}"
