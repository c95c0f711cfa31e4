"""A pytest fixture for services: a store that is empty for each test."""

from __future__ import annotations

import pytest

from accountstore.backends.memory import MemoryBackend
from accountstore.store import AccountStore
from accountstore.testing.faults import store_over

__all__ = ("account_store",)


@pytest.fixture
def account_store() -> AccountStore:
    """An empty store with one storage `default` in memory: `from accountstore.testing import account_store` in a
    `conftest.py` gives it to every test below.

    It is made without an event loop, so any plugin's tests may have it (anyio's, pytest-asyncio's, pytest-trio's), and
    needs no closing. For a store that fails, see `FaultyBackend` and `store_over`.
    """
    return store_over({"default": MemoryBackend()})
