"""The facade: what each call of `AccountStore` promises, on memory and on a local folder."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from doubles import Recording, drained, raises
from msgspec.structs import astuple, replace
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, FULL, MULTI, MULTI_AT, OAUTH, RICH

from accountstore import AccountStore, Location, StorageConfig, StoreConfig, Stored
from accountstore.codecs import JSON
from accountstore.errors import ConflictError, ExistsError, LocationError, NotFoundError
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore import Account, Event, Version
    from accountstore.backends.base import WriteMode
    from accountstore.model import Document

pytestmark = pytest.mark.anyio

each_save = pytest.mark.parametrize("call", ["save", "save_json"])


async def save(store: AccountStore, call: str, account: Account, mode: WriteMode = "overwrite", /) -> Version:
    """Save an account at AT, as itself or as its JSON."""
    if call == "save":
        return await store.save(AT, account, mode=mode)
    return await store.save_json(AT, JSON.encode(account), mode=mode)


@pytest.mark.parametrize(
    ("location", "document", "kind"),
    [(AT, FULL, ""), (AT, OAUTH, ""), (MULTI_AT, MULTI, "_multi")],
    ids=["password", "oauth", "multi"],
)
async def test_what_was_saved_is_read(store: Any, location: Location, document: Document, kind: str) -> None:
    """`get` and `read` return a document equal to the saved one, and `read` its version, size and time."""
    version = await getattr(store, f"save{kind}")(location, document)
    assert await getattr(store, f"get{kind}")(location) == document
    stored = await getattr(store, f"read{kind}")(location)
    assert (stored.document, stored.version) == (document, version)
    entry = await store.stat(location)
    assert (entry.location, entry.size, entry.version) == (location, stored.size, version)
    assert stored.size > 0
    assert stored.modified.tzinfo is not None
    assert entry.modified == stored.modified


@pytest.mark.parametrize("call", ["get", "read", "read_json", "stat"])
async def test_a_missing_document_is_not_found(store: AccountStore, call: str) -> None:
    """Reading a document that is not there is a `NotFoundError` with its location; in a missing folder too."""
    await store.save(Location("other.account", folder="mail"), ACCOUNT)
    for missing in (AT, replace(AT, folder="mail"), replace(AT, folder="no/such/folder")):
        with raises(NotFoundError, location=missing):
            await getattr(store, call)(missing)


async def test_an_unknown_storage_is_a_location_error(store: AccountStore) -> None:
    """A storage that is not configured is a `LocationError`, with the location where there is one."""
    unknown = replace(AT, storage="mian")
    with raises(LocationError, location=unknown):
        await store.get(unknown)
    with pytest.raises(LocationError, match="the storage 'mian' is not configured; known: main"):
        store.capabilities("mian")
    for narrow in (store.scoped, store.list):
        with pytest.raises(LocationError):
            narrow("mail", storage="mian")
    for request in (store.check, store.usage, store.filesystem):
        with pytest.raises(LocationError):
            await request("mian")


@each_save
async def test_create_refuses_a_document_that_is_there(store: AccountStore, call: str) -> None:
    """`mode="create"` writes where nothing is, and is an `ExistsError` where something is, which stays."""
    await save(store, call, ACCOUNT, "create")
    with raises(ExistsError, location=AT):
        await save(store, call, OAUTH, "create")
    assert await store.get(AT) == ACCOUNT


@each_save
async def test_a_version_writes_only_over_itself(store: AccountStore, call: str) -> None:
    """A `Version` as mode writes over that version only, and does not bring back a document that was removed."""
    first = await save(store, call, ACCOUNT)
    second = await save(store, call, OAUTH, first)
    with raises(ConflictError, location=AT):
        await save(store, call, ACCOUNT, first)
    assert await store.get(AT) == OAUTH
    assert (await store.stat(AT)).version == second
    await store.delete(AT)
    with pytest.raises(NotFoundError):
        await save(store, call, ACCOUNT, second)
    assert not await store.exists(AT)


@pytest.mark.parametrize("mode", ["Create", "creat", "replace", "", None, 1, b"create", True, []], ids=repr)
async def test_an_invalid_mode_writes_nothing(store: AccountStore, mode: Any) -> None:
    """A mode that is none, such as a misspelt one, is a `ValueError`; it does not overwrite."""
    await store.save(AT, ACCOUNT)
    for call in (
        store.save(AT, OAUTH, mode=mode),
        store.save_json(AT, JSON.encode(OAUTH), mode=mode),
        store.save_multi(MULTI_AT, MULTI, mode=mode),
        store.copy(AT, ELSEWHERE, mode=mode),
        store.move(AT, ELSEWHERE, mode=mode),
    ):
        with pytest.raises(ValueError, match="mode must be"):
            await call
    with pytest.raises(ValueError, match="mode must be"):
        await drained(store.save_many([(AT, OAUTH)], mode=mode))
    assert await store.get(AT) == ACCOUNT
    assert [entry.location async for entry in store.list(recursive=True)] == [AT]


async def test_delete_removes_and_takes_a_missing_document(store: AccountStore) -> None:
    """`delete` removes a document of either kind; of a missing one, also in a missing folder, it is no error."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MULTI)
    for location in (AT, AT, MULTI_AT, Location("x.account", folder="no/such/folder")):
        await store.delete(location)
        assert not await store.exists(location)


async def test_delete_of_a_version_spares_any_other(store: AccountStore) -> None:
    """`delete` with a version removes that version only; of a missing document it is no error."""
    old = await store.save(AT, ACCOUNT)
    new = await store.save(AT, OAUTH)
    with raises(ConflictError, location=AT):
        await store.delete(AT, version=old)
    assert await store.get(AT) == OAUTH
    for _ in range(2):
        await store.delete(AT, version=new)
        assert not await store.exists(AT)


REQUESTS: Mapping[str, str] = {
    **dict.fromkeys(["get", "get_multi", "read", "read_multi", "read_json"], "read"),
    **dict.fromkeys(["save", "save_multi", "save_json", "create", "create of JSON", "swap", "swap of JSON"], "write"),
    **dict.fromkeys(["update", "update_multi", "copy"], "read write"),
    **dict.fromkeys(["stat", "exists"], "stat"),
    "versions": "versions",
    **dict.fromkeys(["delete", "delete of a version"], "delete"),
    "move": "read stat write delete",
}


@pytest.mark.parametrize("call", REQUESTS)
async def test_requests_of_each_call(call: str) -> None:
    """Each call makes just the requests that the design counts, also through a narrowed store."""
    backend = Recording()
    store = store_over({"main": backend})
    for scope in (store, store.scoped("tenant")):
        await scope.save(AT, ACCOUNT)
        await scope.save_multi(MULTI_AT, MULTI)
        backend.log.clear()
        await CALLS[call](scope)
        assert " ".join(backend.log) == REQUESTS[call]


async def test_requests_of_what_is_not_there() -> None:
    """What is missing is asked for once, and an update that changes nothing does not write."""
    backend = Recording()
    store = store_over({"main": backend})
    assert not await store.exists(AT)
    await store.delete(AT)
    await backend.put(AT, JSON.encode(ACCOUNT))
    assert await store.update(AT, lambda account: replace(account, port=993)) == await store.read(AT)
    assert backend.log == ["stat", "delete", "read", "read"]


async def test_storages_have_the_default_first() -> None:
    """`storages` has all names, the default one first and the others as configured; so has `repr`."""
    names = ("one", "two", "three")
    config = StoreConfig(default="two", storages={name: StorageConfig("memory://") for name in names})
    async with AccountStore.open(config) as store:
        assert store.storages == ("two", "one", "three")
        assert repr(store) == "<AccountStore two, one, three>"


async def test_capabilities_are_the_backends(tmp_path: Path) -> None:
    """`capabilities` are what each storage promises (create, update, atomic, durable), without a name the default."""
    storages = {
        "main": StorageConfig(str(tmp_path)),
        "memory": StorageConfig("memory://"),
        "plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"}),
    }
    async with AccountStore.open(StoreConfig(default="main", storages=storages)) as store:
        assert store.capabilities() == store.capabilities("main")
        promises = {name: astuple(store.capabilities(name))[:4] for name in storages}
    assert promises == {"main": (True,) * 4, "memory": (True, True, True, False), "plain": (False,) * 4}


PLACES: Mapping[str, Callable[[AccountStore, Any], Awaitable[object]]] = {
    "get": lambda store, place: store.get(place),
    "get_multi": lambda store, place: store.get_multi(place),
    "read": lambda store, place: store.read(place),
    "read_json": lambda store, place: store.read_json(place),
    "save": lambda store, place: store.save(place, ACCOUNT),
    "save_multi": lambda store, place: store.save_multi(place, MULTI),
    "save_json": lambda store, place: store.save_json(place, b"{}"),
    "update": lambda store, place: store.update(place, lambda account: account),
    "stat": lambda store, place: store.stat(place),
    "exists": lambda store, place: store.exists(place),
    "delete": lambda store, place: store.delete(place),
    "copy from": lambda store, place: store.copy(place, AT),
    "copy to": lambda store, place: store.copy(AT, place),
    "move": lambda store, place: store.move(place, AT),
    "get_many": lambda store, place: drained(store.get_many([place])),
    "save_many": lambda store, place: drained(store.save_many([(place, ACCOUNT)])),
}


@pytest.mark.parametrize(
    "place", ["x.account", None, ACCOUNT, ("x.account",)], ids=["text", "none", "account", "tuple"]
)
@pytest.mark.parametrize("call", PLACES)
async def test_what_is_no_location_is_told(call: str, place: Any) -> None:
    """Text, or anything else, in the place of a location is a `TypeError` that says how one is made, before any I/O,
    with an observer and in a narrowed store too.
    """
    backend = Recording()
    events: list[Event] = []
    whole = store_over({"main": backend}, observer=events.append)
    for store in (whole, whole.scoped("tenant")):
        with pytest.raises(TypeError, match=r"Location\('x\.account', folder='mail'\)"):
            await PLACES[call](store, place)
    assert backend.log == []


MISUSES: Mapping[str, tuple[Callable[[AccountStore], object], str]] = {
    "one location": (lambda store: store.get_many(cast("Any", AT)), r"get_many\(\[location\]\)"),
    "no pairs": (lambda store: drained(store.save_many(cast("Any", [ACCOUNT]))), "pairs of a Location and a document"),
    "no function": (lambda store: store.update(AT, cast("Any", ACCOUNT)), "change must be a function"),
    "no function for several": (lambda store: store.update_multi(MULTI_AT, cast("Any", MULTI)), "must be a function"),
    "no exchange": (lambda store: store.refresh(AT, cast("Any", 5)), "exchange must be an async function"),
    "no exchange for several": (lambda store: store.refresh_multi(MULTI_AT, cast("Any", None)), "TokenEndpoint"),
    "no version": (lambda store: store.delete(AT, version=cast("Any", "etag")), "version must be a Version"),
    "text for bytes": (lambda store: store.save_json(AT, cast("Any", "{}")), "save_json takes bytes"),
    "a location for a folder": (lambda store: store.list(cast("Any", AT)), "folder: must be text"),
    "a folder that is none": (lambda store: store.scoped(cast("Any", None)), "folder: must be text"),
    "a path for a name": (lambda _: Location(cast("Any", Path("x.account"))), "file name: must be text"),
    "a listing awaited": (lambda store: cast("Any", store.list()), "async for"),
    "a batch awaited": (lambda store: cast("Any", store.get_many([AT])), "async for"),
    "a listing iterated over": (lambda store: list(cast("Any", store.list())), "async for"),
    "a call": (lambda _: AccountStore(cast("Any", StoreConfig(storages={}))), r"AccountStore\.open\(config\)"),
    "an empty call": (lambda _: cast("Any", AccountStore)(), r"AccountStore\.open\(config\)"),
    "a named call": (lambda _: cast("Any", AccountStore)(config=None), r"AccountStore\.open\(config\)"),
    "no async": (lambda _: cast("Any", AccountStore.open()).__enter__(), r"async with AccountStore\.open\(config\)"),
    "a class": (lambda store: store.refresh(AT, cast("Any", Recording)), "such as a TokenEndpoint"),
    "no observer": (lambda _: AccountStore.open(observer=cast("Any", "x")), "a plain function, not str$"),
    "an async observer": (lambda _: AccountStore.open(observer=cast("Any", drained)), "not a coroutine function$"),
}


@pytest.mark.parametrize("name", MISUSES)
async def test_a_misuse_says_what_to_write(name: str) -> None:
    """A call that cannot be meant is a `TypeError` in the words of the public interface, and writes nothing."""
    backend = Recording()
    misuse, said = MISUSES[name]
    with pytest.raises(TypeError, match=said):
        await cast("Any", misuse(store_over({"main": backend})))
    assert backend.log == []


@pytest.mark.parametrize("member", ["get", "save", "list", "aclose", "storages"])
async def test_an_opening_that_is_not_awaited_says_so(member: str) -> None:
    """A member of the store on what `open` returns is an error that names `await` and `async with`."""
    opening = AccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")}))
    with pytest.raises(AttributeError, match=r"async with AccountStore\.open\(config\).*await"):
        getattr(opening, member)
    # The control: the store has it.
    async with opening as store:
        assert hasattr(store, member)


async def test_text_given_for_json_shows_in_no_frame() -> None:
    """`save_json` with text in the place of bytes is refused without the text in a frame of the library."""
    store = store_over({"main": Recording()})
    with pytest.raises(TypeError) as caught:
        await store.save_json(AT, cast("Any", "canary-text"))
    entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert "canary-text" not in "".join(f"{entry.locals}" for entry in entries)


@pytest.mark.parametrize("call", ["get", "read_json", "update", "copy", "get_many"])
async def test_a_document_with_a_byte_order_mark_is_read(call: str) -> None:
    """A JSON document with a byte order mark, as some editors write it, is read by every call; the mark is not kept."""
    backend = Recording()
    store = store_over({"main": backend})
    await backend.put(AT, b"\xef\xbb\xbf" + JSON.encode(ACCOUNT))
    await CALLS[call](store)
    assert not (await store.read_json(AT)).document.startswith(b"\xef")
    await store.save_json(ELSEWHERE, b"\xef\xbb\xbf" + JSON.encode(ACCOUNT))
    assert (await backend.read(ELSEWHERE.path, limit=1000)).data == JSON.encode(ACCOUNT)


async def test_get_many_and_save_many_drop_what_is_not_known() -> None:
    """What `get_many` read and `save_many` writes has no fields that this release does not know; the calls that the
    documentation names keep them.
    """
    backend = Recording()
    store = store_over({"main": backend})

    async def kept() -> bool:
        return b'"new"' in (await store.read_json(AT)).document

    await store.save_json(AT, RICH)
    await store.update(AT, lambda account: replace(account, port=2))
    await store.copy(AT, ELSEWHERE)
    await store.save_json(AT, (await store.read_json(ELSEWHERE)).document)
    assert await kept()
    got = [(at, stored.document) async for at, stored in store.get_many([AT]) if isinstance(stored, Stored)]
    await drained(store.save_many(got))
    assert not await kept()
    for method in (AccountStore.get_many, AccountStore.save_many):
        assert "`update`" in str(method.__doc__)
