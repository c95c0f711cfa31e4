"""Clients that call a store and note each call before and after it, so that a kill leaves what was under way."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from time import monotonic_ns
from typing import Any

from msgspec import json
from msgspec.structs import replace

from accountstore.backends.base import Version
from accountstore.errors import AccountStoreError, ConflictError, ExistsError, NotFoundError, UncertainError
from accountstore.location import Location
from accountstore.model import Account, PasswordCredentials
from accountstore.store import AccountStore
from accountstore.testing.histories.checker import Call, CallName, Outcome

__all__ = ("Recorder", "exercise", "read_histories")

_NAMES: Sequence[CallName] = (
    *("get", "get", "get", "save", "save", "swap", "swap", "update", "update"),
    *("create", "delete", "remove"),
)


class Recorder:
    """A client of one document. Each method makes one call on the store and records it; it raises no error of ours."""

    def __init__(self, store: AccountStore, location: Location, log: int, by: str, /) -> None:
        """`log` is a descriptor of a file, opened for appending; `by` is a name that no other client has."""
        self._store = store
        self._location = location
        self._log = log
        self._by = by
        self._count = 0
        self._known: tuple[str, Version] | None = None

    async def get(self) -> None:
        """Read."""
        call = self._begin("get")
        stored, call = await self._outcome(call, self._store.read(self._location))
        if stored is not None:
            self._known = _value(stored.document), stored.version
            call = replace(call, seen=self._known[0])
        self._note(call)

    async def save(self) -> None:
        """Overwrite."""
        await self._write(self._begin("save", self._new()), "overwrite")

    async def create(self) -> None:
        """Create."""
        await self._write(self._begin("create", self._new()), "create")

    async def swap(self) -> None:
        """Save in place of the version that this client has seen last; if it has seen none, read."""
        if self._known is None:
            return await self.get()
        seen, version = self._known
        return await self._write(self._begin("swap", self._new(), seen), version)

    async def update(self) -> None:
        """Update."""
        call = self._begin("update", self._new())

        def change(account: Account) -> Account:
            nonlocal call
            call = replace(call, seen=_value(account))
            self._note(call)
            return _account(call.value or "")

        stored, ended = await self._outcome(call, self._store.update(self._location, change))
        self._note(replace(ended, seen=call.seen))
        if stored is not None:
            self._known = _value(stored.document), stored.version

    async def delete(self) -> None:
        """Delete whatever is there."""
        call = self._begin("delete")
        self._note((await self._outcome(call, self._store.delete(self._location)))[1])

    async def remove(self) -> None:
        """Delete the version that this client has seen last; if it has seen none, read."""
        if self._known is None:
            return await self.get()
        seen, version = self._known
        call = self._begin("remove", None, seen)
        return self._note((await self._outcome(call, self._store.delete(self._location, version=version)))[1])

    async def _write(self, call: Call, mode: Any, /) -> None:
        writing = self._store.save(self._location, _account(call.value or ""), mode=mode)
        version, call = await self._outcome(call, writing)
        self._note(call)
        if version is not None and call.value is not None:
            self._known = call.value, version

    def _new(self) -> str:
        return f"{self._by}-{self._count}"

    def _begin(self, name: CallName, value: str | None = None, seen: str | None = None, /) -> Call:
        call = Call(name, monotonic_ns(), value=value, seen=seen, by=self._by)
        self._count += 1
        self._note(call)
        return call

    def _note(self, call: Call, /) -> None:
        """The last record of a call is the one that counts."""
        os.write(self._log, json.encode((str(self._location), self._count, call)) + b"\n")

    async def _outcome(self, call: Call, awaitable: Awaitable[Any], /) -> tuple[Any, Call]:
        result, outcome = None, _DONE
        try:
            result = await awaitable
        except AccountStoreError as error:
            outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), _FAILED)
        return result, replace(call, end=monotonic_ns(), outcome=outcome)


_DONE: Outcome = "done"
_FAILED: Outcome = "failed"
_OUTCOMES: Sequence[tuple[type[AccountStoreError], Outcome]] = (
    (UncertainError, "unknown"),
    (NotFoundError, "missing"),
    (ExistsError, "refused"),
    (ConflictError, "refused"),
)


def _account(value: str, /) -> Account:
    return Account(host="h", port=1, credentials=PasswordCredentials(login=value, password="p"))  # noqa: S106 -- none


def _value(account: Account, /) -> str:
    return account.credentials.login


async def exercise(recorder: Recorder, random: Random, count: int, names: Sequence[CallName] = (), /) -> None:
    """Make so many calls, each drawn from the names; without names, from all."""
    for _ in range(count):
        call: Callable[[], Awaitable[None]] = getattr(recorder, random.choice(names or _NAMES))
        await call()


def read_histories(logs: Iterable[str | os.PathLike[str]], /) -> dict[str, list[Call]]:
    """What was recorded in files, by the documents' locations. A call without an end has the outcome `unknown`."""
    calls: dict[tuple[str, str, int], Call] = {}
    for path in logs:
        with open(path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # the last one may be cut off
                    location, number, call = json.decode(line, type=tuple[str, int, Call])
                    calls[location, call.by, number] = call
    histories: defaultdict[str, list[Call]] = defaultdict(list)
    for (location, _, _), call in calls.items():
        histories[location].append(call)
    return dict(histories)
