"""Health: whether the storages answer, found out beside the requests."""

from __future__ import annotations

import anyio

from accountstore import AccountStore, AccountStoreError, FullError, Location

__all__ = ("Health",)

_PROBED = "accountstore-readiness.account"


class Health:
    """Looks at each storage of a store every `seconds`; what a probe says is true within that time.

    A probe asks for a document that is not there. After a write to a storage found no space, a probe of that one is the
    store's own check too, which writes, until that finds space. A write that was refused says nothing of the storage:
    it may be one for reading only, or one document's permissions.
    """

    def __init__(self, store: AccountStore, seconds: float, /) -> None:
        self.failing: dict[str, str] | None = None
        """What is wrong with which storage; None before the first probe."""
        self._store = store
        self._seconds = seconds
        self._suspects: set[str] = set()

    @property
    def ready(self) -> bool:
        """Whether each storage was all right when it was looked at last."""
        return self.failing == {}

    def suspect(self, storage: str, /) -> None:
        """Note that a write found no space on a storage: the next probes of it write."""
        self._suspects.add(storage)

    async def watch(self) -> None:
        """Probe for ever."""
        while True:
            await self.probe()
            await anyio.sleep(self._seconds / 2)

    async def probe(self) -> None:
        """Look at each storage."""
        failing: dict[str, str] = {}
        async with anyio.create_task_group() as tasks:
            for name in self._store.storages:
                tasks.start_soon(self._probe, name, failing)
        self.failing = failing

    async def _probe(self, name: str, failing: dict[str, str], /) -> None:
        """Look at one storage, for half of the period."""
        with anyio.move_on_after(self._seconds / 2) as scope:
            try:
                await self._store.exists(Location(_PROBED, storage=name))
                if name in self._suspects:
                    steps = (await self._store.check(name)).steps
                    if any(step.problem.startswith(FullError.__name__) for step in steps):
                        failing[name] = FullError.__name__
                    else:
                        self._suspects.discard(name)
            except AccountStoreError as error:
                failing[name] = type(error).__name__
        if scope.cancelled_caught:
            failing[name] = "no answer in time"
