"""Every call of a store on a document, by its name, for any location; `samples.CALLS` has them for fixed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace
from samples import ACCOUNT, MULTI, copied, ended, next_port

from accountstore import AccountStore, Location
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore.model import Document

Call: TypeAlias = "Callable[[AccountStore, Location], Awaitable[object]]"


def is_multi(at: Location, /) -> bool:
    return at.file_name.endswith(".multi.account")


def document(at: Location, /) -> Document:
    """A document of the kind that a location promises."""
    return MULTI if is_multi(at) else ACCOUNT


def other(at: Location, /) -> Location:
    """Another location of the same kind, in the default storage."""
    return Location("other.multi.account" if is_multi(at) else "other.account", folder="elsewhere")


SINGLE: Mapping[str, Call] = {
    "get": lambda store, at: store.get(at),
    "read": lambda store, at: store.read(at),
    "save": lambda store, at: store.save(at, ACCOUNT),
    "update": lambda store, at: store.update(at, next_port),
}
MULTIPLE: Mapping[str, Call] = {
    "get_multi": lambda store, at: store.get_multi(at),
    "read_multi": lambda store, at: store.read_multi(at),
    "save_multi": lambda store, at: store.save_multi(at, MULTI),
    "update_multi": lambda store, at: store.update_multi(at, lambda multi: replace(multi, send_account=None)),
}
EITHER: Mapping[str, Call] = {
    "read_json": lambda store, at: store.read_json(at),
    "save_json": lambda store, at: store.save_json(at, JSON.encode(document(at))),
    "stat": lambda store, at: store.stat(at),
    "exists": lambda store, at: store.exists(at),
    "versions": lambda store, at: store.versions(at),
    "delete": lambda store, at: store.delete(at),
    "copy": lambda store, at: store.copy(at, other(at)),
    "copy onto": lambda store, at: store.copy(other(at), at),
    "copy_many": lambda store, at: copied(store, at, other(at)),
    "copy_many onto": lambda store, at: copied(store, other(at), at),
    "move": lambda store, at: store.move(at, other(at)),
    "move onto": lambda store, at: store.move(other(at), at),
    "get_many": lambda store, at: ended(store.get_many([at])),
    "save_many": lambda store, at: ended(store.save_many([(at, document(at))])),
}
EVERY: Mapping[str, Call] = {**SINGLE, **MULTIPLE, **EITHER}


def ends(name: str, at: Location, /) -> tuple[Location, Location | None]:
    """The source and the target of a call, as its event has them."""
    if name.partition(" ")[0] not in {"copy", "copy_many", "move"}:
        return at, None
    return (other(at), at) if name.endswith(" onto") else (at, other(at))
