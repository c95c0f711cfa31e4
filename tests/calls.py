"""Every call of a store on a document, by its name: for tests of what holds for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from msgspec.structs import replace
from samples import ACCOUNT, MULTI

from accountstore import AccountStore, AccountStoreError, Location
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from accountstore.model import Document

T = TypeVar("T")
Call: TypeAlias = "Callable[[AccountStore, Location], Awaitable[object]]"


def is_multi(at: Location, /) -> bool:
    return at.file_name.endswith(".multi.account")


def document(at: Location, /) -> Document:
    """A document of the kind that a location promises."""
    return MULTI if is_multi(at) else ACCOUNT


def other(at: Location, /) -> Location:
    """Another location of the same kind, in the default storage."""
    return Location("other.multi.account" if is_multi(at) else "other.account", folder="elsewhere")


async def drained(items: AsyncIterator[T], /) -> list[T]:
    """All that an iterator yields."""
    return [item async for item in items]


async def first(results: AsyncIterator[tuple[Location, object]], /) -> object:
    """The one result of a call on many; raised if it is an error."""
    [(_, result)] = await drained(results)
    if isinstance(result, AccountStoreError):
        raise result
    return result


SINGLE: Mapping[str, Call] = {
    "get": AccountStore.get,
    "read": AccountStore.read,
    "save": lambda store, at: store.save(at, ACCOUNT),
    "update": lambda store, at: store.update(at, lambda account: replace(account, port=1)),
}
MULTIPLE: Mapping[str, Call] = {
    "get_multi": AccountStore.get_multi,
    "read_multi": AccountStore.read_multi,
    "save_multi": lambda store, at: store.save_multi(at, MULTI),
    "update_multi": lambda store, at: store.update_multi(at, lambda multi: replace(multi, send_account=None)),
}
EITHER: Mapping[str, Call] = {
    "read_json": AccountStore.read_json,
    "save_json": lambda store, at: store.save_json(at, JSON.encode(document(at))),
    "stat": AccountStore.stat,
    "exists": AccountStore.exists,
    "delete": AccountStore.delete,
    "copy": lambda store, at: store.copy(at, other(at)),
    "copy onto": lambda store, at: store.copy(other(at), at),
    "move": lambda store, at: store.move(at, other(at)),
    "move onto": lambda store, at: store.move(other(at), at),
    "get_many": lambda store, at: first(store.get_many([at])),
    "save_many": lambda store, at: first(store.save_many([(at, document(at))])),
}
EVERY: Mapping[str, Call] = {**SINGLE, **MULTIPLE, **EITHER}


def ends(name: str, at: Location, /) -> tuple[Location, Location | None]:
    """The source and the target of a call, as its event has them."""
    if name.partition(" ")[0] not in {"copy", "move"}:
        return at, None
    return (other(at), at) if name.endswith(" onto") else (at, other(at))
