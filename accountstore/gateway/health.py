"""Health: whether the storages answer, found out beside the requests."""

from __future__ import annotations

import anyio

from accountstore import AccountStore, AccountStoreError, Location

__all__ = ("Health",)

_PROBED = "accountstore-readiness.account"


class Health:
    """Looks at each storage of a store every `seconds`; what a probe says is true within that time.

    A probe asks for a document that is not there. After a write was refused, or found no space, it is the store's own
    check, which writes, until that passes.
    """

    def __init__(self, store: AccountStore, seconds: float, /) -> None:
        self.failing: dict[str, str] | None = None
        """What is wrong with which storage; None before the first probe."""
        self._store = store
        self._seconds = seconds
        self._suspect = False

    @property
    def ready(self) -> bool:
        """Whether each storage was all right when it was looked at last."""
        return self.failing == {}

    def suspect(self) -> None:
        """Note that a write was refused: the next probes write."""
        self._suspect = True

    async def watch(self) -> None:
        """Probe for ever."""
        while True:
            await self.probe()
            await anyio.sleep(self._seconds / 2)

    async def probe(self) -> None:
        """Look at each storage."""
        failing: dict[str, str] = {}
        deep = self._suspect
        async with anyio.create_task_group() as tasks:
            for name in self._store.storages:
                tasks.start_soon(self._probe, name, deep, failing)
        self._suspect = self._suspect and (bool(failing) or not deep)
        self.failing = failing

    async def _probe(self, name: str, deep: bool, failing: dict[str, str], /) -> None:
        """Look at one storage, for half of the period."""
        with anyio.move_on_after(self._seconds / 2) as scope:
            try:
                if deep:
                    problem = next((step.problem for step in (await self._store.check(name)).steps if step.problem), "")
                else:
                    problem = ""
                    await self._store.exists(Location(_PROBED, storage=name))
            except AccountStoreError as error:
                problem = type(error).__name__
            if problem:
                failing[name] = problem
        if scope.cancelled_caught:
            failing[name] = "no answer in time"
