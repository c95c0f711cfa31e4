"""The facade's own tests, through the store for synchronous code."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest
import test_listing
import test_scope
import test_store

from accountstore import StorageConfig, StoreConfig
from accountstore.blocking import BlockingAccountStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

for _module in (test_store, test_scope, test_listing):
    globals().update(
        (name, test)
        for name, test in vars(_module).items()
        if name.startswith("test_") and "store" in inspect.signature(test).parameters
    )


class Awaited:
    """A blocking store with the facade's interface."""

    def __init__(self, store: BlockingAccountStore) -> None:
        self._store = store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._store.close()

    def __repr__(self) -> str:
        return repr(self._store).replace("Blocking", "")

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, "close" if name == "aclose" else name)
        if name in {"storages", "capabilities"}:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "scoped":
                return Awaited(value(*args, **kwargs))
            if name in {"list", "get_many", "save_many", "copy_many"}:
                return Items(value(*args, **kwargs))
            return anyio.to_thread.run_sync(partial(value, *args, **kwargs))

        return call


class Items:
    """An iterator as an asynchronous one."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> Any:
        item = await anyio.to_thread.run_sync(next, self._items, self)
        if item is self:
            raise StopAsyncIteration
        return item


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the tests, which is not the store's."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Blocking calls are what is tested."""


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Awaited]:
    """A blocking store with two storages, of which `main` is the default."""
    main = StorageConfig("memory://" if request.param == "memory" else str(tmp_path))
    storages = {"main": main, "other": StorageConfig("memory://")}
    with BlockingAccountStore.open(StoreConfig(default="main", storages=storages)) as opened:
        yield Awaited(opened)
