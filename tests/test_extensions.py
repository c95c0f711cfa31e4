"""Which file names which call takes, and that a wrong one is refused before any I/O."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from calls import EITHER, EVERY, MULTIPLE
from doubles import raises

from accountstore import AccountStore, ExtensionError, Location, LocationError, NotFoundError
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import Mapping


pytestmark = pytest.mark.anyio

Kind: TypeAlias = Literal["account", "multi"] | None

NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(["x.account", "x..account", "..account", "x.y.account", "\u00e9.account"], "account"),
    **dict.fromkeys(["multi.account", "xmulti.account", "x.Multi.account"], "account"),
    **dict.fromkeys(["x.account.account", "x.multi.account.account"], "account"),
    **dict.fromkeys(["x.multi.account", "..multi.account", "multi.multi.account"], "multi"),
    **dict.fromkeys(["x.multi.multi.account", "x.account.multi.account"], "multi"),
    **dict.fromkeys([".account", ".multi.account", "x", "account", "xaccount", "x.multi", "x.multiaccount"]),
    **dict.fromkeys(["x.Account", "x.ACCOUNT", "x.multi.Account", "x.accounts", "x.account.txt", "x.account "]),
    **dict.fromkeys(["x.account.", "x.acc\u043eunt"]),  # the latter with a Cyrillic letter
}
"""What each file name promises; None: no document."""


def counting() -> tuple[FaultyBackend, AccountStore]:
    """A backend that counts its calls, and a store on it."""
    backend = FaultyBackend(MemoryBackend())
    return backend, store_over({"only": backend})


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("folder", ["", "mail/team-a", None], ids=["root", "folder", "scoped"])
async def test_each_call_takes_its_names_and_refuses_others_before_any_io(call: str, folder: str | None) -> None:
    """Single, multi and other calls take their names, also in a narrowed store; a refused one reaches nothing."""
    for name, kind in NAMES.items():
        backend, store = counting()
        location = Location(name, folder=folder or "")
        taken = kind is not None and (call in EITHER or kind == ("multi" if call in MULTIPLE else "account"))
        with suppress(NotFoundError) if taken else raises(ExtensionError, location=location):
            await EVERY[call](store.scoped("tenants/a") if folder is None else store, location)
        assert bool(backend.calls) == taken, (name, backend.calls)


@pytest.mark.parametrize("call", ["copy", "move"])
async def test_both_sides_of_a_copy_hold_the_same_kind(call: str) -> None:
    """A copy or move between an account and a multi account is an `ExtensionError` about the target, before any I/O."""
    for source_name, source_kind in NAMES.items():
        for target_name, target_kind in NAMES.items():
            backend, store = counting()
            source, target = Location(source_name), Location(target_name, folder="new")
            fits = source_kind is not None and source_kind == target_kind
            about = source if fits or source_kind is None else target
            with raises(NotFoundError if fits else ExtensionError, location=about):
                await getattr(store, call)(source, target)
            assert backend.calls == ({"read": 1} if fits else {}), (source_name, target_name)


async def test_the_error_is_a_location_error_and_names_the_location() -> None:
    """An `ExtensionError` is a `LocationError` and a `ValueError`, and names the location and what is allowed."""
    assert issubclass(ExtensionError, LocationError)
    assert issubclass(ExtensionError, ValueError)
    _, store = counting()
    with pytest.raises(ExtensionError, match=r"^only:mail/x\.txt: .*\.account"):
        await store.get(Location("x.txt", folder="mail", storage="only"))
    with pytest.raises(ExtensionError, match=r"^only:x\.account: .*\.multi\.account"):
        await store.get_multi(Location("x.account", storage="only"))
