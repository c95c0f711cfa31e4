"""What a read returns: a record of a state that was, which nobody changes in place."""

from __future__ import annotations

from typing import Any

import pytest

from accountstore import Account, Location, PasswordCredentials, Version
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

pytestmark = pytest.mark.anyio

AT = Location("email.account")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))


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
