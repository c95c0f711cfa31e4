"""Batches against a backend that breaks its contract: no document is told as saved or read that was not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from accountstore import Account, AccountStoreError, Location, PasswordCredentials
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from accountstore.backends.base import Blob, Capabilities, Stat

pytestmark = pytest.mark.anyio

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
PLACES = [Location(f"{number}.account", folder="team") for number in range(3)]


class Batching(MemoryBackend):
    """Takes batches, and returns `more` results (below 0: fewer) than it was given documents."""

    def __init__(self, more: int, /) -> None:
        super().__init__()
        self.more = more

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, batch=10)

    def _all(self, results: Sequence[Any], /) -> list[Any]:
        return [*results, *results[:1]] if self.more > 0 else list(results)[: len(results) + self.more]

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return self._all([await self.read(key, limit=limit) for key in keys])

    async def write_many(self, writes: Sequence[Any], /) -> Sequence[Stat | Exception]:
        return self._all([await self.write(key, data, mode=mode) for key, data, mode in writes])


async def unbroken(results: AsyncIterator[tuple[Location, object]], /) -> list[object]:
    """The results that are no errors. That the iteration fails is an answer too."""
    try:
        return [result async for _, result in results if not isinstance(result, AccountStoreError)]
    except* (AccountStoreError, ValueError):
        pass
    return []


@pytest.mark.parametrize("more", [-3, -1, 1])
async def test_a_backend_that_returns_too_few_or_too_many_results_is_noticed(more: int) -> None:
    """Nobody knows which result is whose: none is told as a document's."""
    backend = Batching(more)
    store = store_over({"main": backend})
    assert await unbroken(store.save_many([(at, ACCOUNT) for at in PLACES])) == []
    for at in PLACES:
        await store.save(at, ACCOUNT)
    assert await unbroken(store.get_many(PLACES)) == []


async def test_control_a_backend_that_keeps_the_contract_is_believed() -> None:
    """The control: the same backend with one result for each document."""
    store = store_over({"main": Batching(0)})
    assert len(await unbroken(store.save_many([(at, ACCOUNT) for at in PLACES]))) == len(PLACES)
    assert len(await unbroken(store.get_many(PLACES))) == len(PLACES)
