"""A narrowed store: a location that is too long for its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from accountstore import Account, Event, Location, LocationError, PasswordCredentials
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore import AccountStore

pytestmark = pytest.mark.anyio

FOLDER = "/".join(["f" * 200] * 3)
LONG = Location("email.account", folder=FOLDER)
"""Allowed in the whole store; in a store that is narrowed to a folder of this length it is too long."""
SHORT = Location("email.account")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))

CALLS: Mapping[str, tuple[Callable[[AccountStore], Awaitable[object]], Location, Location | None]] = {
    "get": (lambda store: store.get(LONG), LONG, None),
    "save": (lambda store: store.save(LONG, ACCOUNT), LONG, None),
    "delete": (lambda store: store.delete(LONG), LONG, None),
    "copy": (lambda store: store.copy(SHORT, LONG), Location("email.account", folder=FOLDER), LONG),
}
"""Each call with the location and the target of its event."""


@pytest.mark.parametrize("name", CALLS)
async def test_a_location_that_is_too_long_is_an_event_as_it_was_given(name: str) -> None:
    """The event has the location as the caller gave it, for there is none in the whole store; the observer changes
    nothing of the error.
    """
    call, location, target = CALLS[name]
    events: list[Event] = []
    errors: list[LocationError] = []
    for observer in (None, events.append):
        store = store_over({"main": MemoryBackend()}, observer=observer).scoped(FOLDER)
        with pytest.raises(LocationError) as caught:
            await call(store)
        errors.append(caught.value)
    assert [type(error) for error in errors] == [LocationError, LocationError]
    assert str(errors[0]) == str(errors[1])
    assert [error.location for error in errors] == [LONG, LONG]
    (event,) = events
    assert (event.operation, event.storage, event.outcome) == (name, "main", "LocationError")
    assert (event.location, event.target) == (location, target)


async def test_a_location_that_is_too_long_is_one_result_of_many() -> None:
    """Among many documents it is the error of that one, with its event."""
    events: list[Event] = []
    store = store_over({"main": MemoryBackend()}, observer=events.append).scoped(FOLDER)
    saved = [result async for _, result in store.save_many([(LONG, ACCOUNT), (SHORT, ACCOUNT)])]
    assert isinstance(saved[0], LocationError)
    assert await store.get(SHORT) == ACCOUNT
    assert [(event.location, event.outcome) for event in events[:2]] == [
        (LONG, "LocationError"),
        (Location("email.account", folder=FOLDER), "ok"),
    ]


async def test_control_a_location_that_is_short_enough_is_an_event_in_the_whole_store() -> None:
    """The control: the event of another location has it with the folder of the scope before it."""
    events: list[Event] = []
    store = store_over({"main": MemoryBackend()}, observer=events.append).scoped(FOLDER)
    await store.save(SHORT, ACCOUNT)
    assert [event.location for event in events] == [Location("email.account", folder=FOLDER)]
