"""Which file names which call takes, and that a wrong one is refused before any I/O."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgspec
import pytest

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ExtensionError,
    Location,
    LocationError,
    MultiAccount,
    NotFoundError,
    PasswordCredentials,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore.backends.base import Backend
    from accountstore.model import Document

pytestmark = pytest.mark.anyio

Kind: TypeAlias = Literal["account", "multi"] | None
Call: TypeAlias = "Callable[[AccountStore, Location], Awaitable[object]]"

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
MULTI = MultiAccount(receive_accounts=[ACCOUNT])

NAMES: Mapping[str, Kind] = {
    "x.account": "account",
    "x.multi.account": "multi",
    ".account": None,
    ".multi.account": None,
    "multi.account": "account",
    "x.Account": None,
    "x.ACCOUNT": None,
    "x.account.txt": None,
    "x": None,
    "account": None,
    "xaccount": None,
    "x.account ": None,
    "x.account.": None,
    "x.accounts": None,
    "x.multi": None,
    "x.multiaccount": None,
    "x.multi.Account": None,
    "x.Multi.account": "account",
    "x.multi.account.account": "account",
    "x.account.multi.account": "multi",
    "x..account": "account",
    "..account": "account",
    "multi.multi.account": "multi",
    "\u00e9.account": "account",
    "x.acc\u043eunt": None,  # a Cyrillic letter
}
"""What each file name promises; None: no document."""


class Recording:
    """A memory backend that keeps the names of the calls made."""

    def __init__(self) -> None:
        self.inner = MemoryBackend()
        self.calls: list[str] = []

    def __getattr__(self, name: str, /) -> Any:
        member = getattr(self.inner, name)
        if not callable(member) or name == "classify":
            return member

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            return member(*arguments, **options)

        return call


def opened(backend: Recording, /) -> AccountStore:
    return store_over({"only": cast("Backend", backend)})


async def first(results: Any, /) -> object:
    """The one result of a call on many; raised if it is an error."""
    [(_, result)] = [pair async for pair in results]
    if isinstance(result, AccountStoreError):
        raise result
    return result


def document(location: Location, /) -> Account | MultiAccount:
    return MULTI if location.file_name.endswith(".multi.account") else ACCOUNT


SINGLE: Mapping[str, Call] = {
    "get": lambda store, at: store.get(at),
    "read": lambda store, at: store.read(at),
    "save": lambda store, at: store.save(at, ACCOUNT),
    "update": lambda store, at: store.update(at, lambda account: msgspec.structs.replace(account, port=1)),
}
MULTIPLE: Mapping[str, Call] = {
    "get_multi": lambda store, at: store.get_multi(at),
    "read_multi": lambda store, at: store.read_multi(at),
    "save_multi": lambda store, at: store.save_multi(at, MULTI),
    "update_multi": lambda store, at: store.update_multi(at, lambda _: MultiAccount(receive_accounts=[])),
}
EITHER: Mapping[str, Call] = {
    "stat": lambda store, at: store.stat(at),
    "exists": lambda store, at: store.exists(at),
    "delete": lambda store, at: store.delete(at),
    "get_many": lambda store, at: first(store.get_many([at])),
    "save_many": lambda store, at: first(store.save_many([(at, document(at))])),
    "copy": lambda store, at: store.copy(at, msgspec.structs.replace(at, folder="elsewhere")),
    "copy onto": lambda store, at: store.copy(msgspec.structs.replace(at, folder="elsewhere"), at),
    "move": lambda store, at: store.move(at, msgspec.structs.replace(at, folder="elsewhere")),
    "move onto": lambda store, at: store.move(msgspec.structs.replace(at, folder="elsewhere"), at),
}
TAKES: Mapping[str, tuple[Call, frozenset[Kind]]] = (
    {name: (call, frozenset[Kind]({"account"})) for name, call in SINGLE.items()}
    | {name: (call, frozenset[Kind]({"multi"})) for name, call in MULTIPLE.items()}
    | {name: (call, frozenset[Kind]({"account", "multi"})) for name, call in EITHER.items()}
)


@pytest.mark.parametrize("call", TAKES)
@pytest.mark.parametrize("folder", ["", "mail/team-a"], ids=["root", "folder"])
async def test_each_call_takes_its_names_and_refuses_others_before_any_io(call: str, folder: str) -> None:
    """Single calls take `*.account`, multi calls `*.multi.account`, the others both; a refused name reaches nothing."""
    run, takes = TAKES[call]
    taken: dict[str, bool] = {}
    for name in NAMES:
        backend = Recording()
        location = Location(name, folder=folder)
        try:
            await run(opened(backend), location)
        except NotFoundError:
            taken[name] = True
        except ExtensionError as error:
            taken[name] = False
            assert error.location is not None, name
            assert error.location.file_name == name
        else:
            taken[name] = True
        assert bool(backend.calls) == taken[name], (name, backend.calls)
    assert taken == {name: kind in takes for name, kind in NAMES.items()}


@pytest.mark.parametrize("call", TAKES)
async def test_a_scoped_store_has_the_same_rule(call: str) -> None:
    """A narrowed store takes and refuses what the whole store does."""
    run, takes = TAKES[call]
    for name, kind in NAMES.items():
        backend = Recording()
        tenant = opened(backend).scoped("tenants/a")
        if kind in takes:
            with suppress(NotFoundError):
                await run(tenant, Location(name))
            assert backend.calls
        else:
            with pytest.raises(ExtensionError):
                await run(tenant, Location(name))
            assert not backend.calls


@pytest.mark.parametrize("call", ["copy", "move"])
async def test_both_sides_of_a_copy_hold_the_same_kind(call: str) -> None:
    """A copy or move between an account and a multi account is an `ExtensionError` about the target, before any I/O."""
    for source_name, source_kind in NAMES.items():
        for target_name, target_kind in NAMES.items():
            backend = Recording()
            source, target = Location(source_name), Location(target_name, folder="new")
            fits = source_kind is not None and source_kind == target_kind
            with pytest.raises(NotFoundError if fits else ExtensionError) as caught:
                await getattr(opened(backend), call)(source, target)
            assert backend.calls == (["read"] if fits else []), (source_name, target_name)
            assert caught.value.location == (source if fits or source_kind is None else target)


async def test_the_error_is_a_location_error_and_names_the_location() -> None:
    """An `ExtensionError` is a `LocationError` and a `ValueError`, and tells the location and what is allowed."""
    with pytest.raises(LocationError) as caught:
        await opened(Recording()).get(Location("x.txt", folder="mail", storage="only"))
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith("only:mail/x.txt: ")
    assert ".account" in str(caught.value)
    with pytest.raises(ExtensionError, match=r"only:x\.account: .*\.multi\.account"):
        await opened(Recording()).get_multi(Location("x.account", storage="only"))


async def test_many_goes_on_after_a_refused_name() -> None:
    """In `get_many` and `save_many` a refused name is one error among the results; the others are asked for."""
    backend = Recording()
    store = opened(backend)
    names = list(NAMES)
    saved = [
        result async for _, result in store.save_many((Location(name), document(Location(name))) for name in names)
    ]
    read = [result async for _, result in store.get_many(map(Location, names))]
    for name, version, stored in zip(names, saved, read, strict=True):
        assert isinstance(version, ExtensionError) == (NAMES[name] is None), name
        assert isinstance(stored, ExtensionError) == (NAMES[name] is None), name
    assert backend.calls == ["write_many", "read_many"]
    assert sorted([entry.location.file_name async for entry in store.list()]) == sorted(n for n in names if NAMES[n])


async def test_save_many_refuses_a_document_of_the_other_kind() -> None:
    """`save_many` writes an account only to `*.account` and a multi account only to `*.multi.account`."""
    backend = Recording()
    wrong: list[tuple[Location, Document]] = [(Location("x.account"), MULTI), (Location("x.multi.account"), ACCOUNT)]
    results = [result async for _, result in opened(backend).save_many(wrong)]
    assert [type(result).__name__ for result in results] == ["EncodeError", "EncodeError"]
    assert backend.calls == []
