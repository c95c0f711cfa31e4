"""A whole store against a dict of documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec.structs import replace

from accountstore.backends.base import Version, WriteMode
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    ExtensionError,
    LocationError,
    NotFoundError,
    UnsupportedError,
)
from accountstore.location import Location
from accountstore.model import (
    Account,
    Document,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)
from accountstore.storage import Stored
from accountstore.store import AccountStore
from accountstore.testing.stateful.machine import Machine

__all__ = ("store_machine",)

T = TypeVar("T")
_Outcome: TypeAlias = "Version | type[AccountStoreError]"

_picks = st.integers(0, 7)
_NAMES = ("a.account", "\u00e9 %2F~.account", "a.multi.account")
_PLACES = ("", "mail", "mail/team-a")
_text = st.text(min_size=1, max_size=12)
_ZONES = (UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9)))
_FIRST, _LAST = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001 -- the zone is drawn
_moments = st.datetimes(_FIRST, _LAST, timezones=st.sampled_from(_ZONES))  # in years that UTC has too
_accounts = st.builds(
    Account,
    host=_text,
    port=st.integers(1, 2**31 - 1),
    security_options=st.none() | st.sampled_from(SecurityOptions),
    protocol_type=st.none() | st.sampled_from(ProtocolType),
    credentials=st.builds(NoCredentials, login=st.just("") | _text)
    | st.builds(PasswordCredentials, login=_text, password=_text)
    | st.builds(
        OAuthCredentials,
        login=_text,
        client_id=st.none() | _text,
        client_secret=st.none() | _text,
        refresh_token=_text,
        request_url=st.none() | st.text(max_size=12),
        access_token=st.none() | _text,
        expires_at=st.none() | _moments,
    ),
    cache_file=st.none() | st.just(Location("cache.bin", folder="messages")),
)
_multi_accounts = st.builds(
    MultiAccount, receive_accounts=st.lists(_accounts, max_size=2), send_account=st.none() | _accounts
)


def store_machine(
    open_store: Callable[[], Awaitable[AccountStore]],
    /,
    *,
    loop: str = "asyncio",
    loop_options: Mapping[str, Any] | None = None,
) -> type[RuleBasedStateMachine]:
    """A state machine that compares a store, with all of its storages, with a dict of documents.

    `open_store` is called for each example and gives a store on empty storages. `loop` and `loop_options` are those of
    `anyio.run`. Where a storage does not declare what a call needs, the machine expects `UnsupportedError`.
    """

    class StoreMachine(_StoreMachine):
        def __init__(self) -> None:
            super().__init__(open_store, loop, loop_options or {})

    return StoreMachine


def _is_single(location: Location, /) -> bool:
    return not location.file_name.endswith(".multi.account")


def _fitting(location: Location, account: Account, multi: MultiAccount, /) -> Document:
    return account if _is_single(location) else multi


_Spot: TypeAlias = "tuple[str, str, int, int]"
_spots = st.tuples(st.sampled_from(_NAMES), st.sampled_from(_PLACES), st.integers(0, 3), st.integers(0, 15))


class _StoreMachine(Machine):
    """The model has a document and its version under each location with its storage's name."""

    def __init__(
        self, open_store: Callable[[], Awaitable[AccountStore]], loop: str, options: Mapping[str, Any], /
    ) -> None:
        super().__init__(loop, options)
        self.store = self.call(open_store)
        self.model: dict[Location, tuple[Document, Version]] = {}
        self.seen: dict[Location, list[Version]] = {}

    async def close(self) -> None:
        await self.store.aclose()

    def attempt(self, function: Callable[[], Awaitable[T]], /) -> T | type[AccountStoreError]:
        """The result, or the class of the library's error; any other is a failure."""
        try:
            return self.call(function)
        except AccountStoreError as error:
            return type(error)

    def at(self, spot: _Spot, /) -> Location:
        """One of the locations that have a document, or any on one of the storages, or without a storage's name."""
        name, folder, pick, known = spot
        if known >= 8 and self.model:
            return list(self.model)[known % len(self.model)]
        storages = (None, *self.store.storages)
        return Location(name, folder=folder, storage=storages[pick % len(storages)])

    def full(self, location: Location, /) -> Location:
        """The location with its storage's name."""
        return replace(location, storage=location.storage or self.store.storages[0])

    def mode(self, location: Location, pick: int, /) -> WriteMode:
        """Overwrite, create, or one of the versions that the location has had."""
        modes: list[WriteMode] = ["overwrite", "create", Version("stale"), *self.seen.get(self.full(location), [])[-5:]]
        return modes[-1 - pick % len(modes)]

    def unsupported(self, location: Location, mode: WriteMode, /) -> bool:
        """Whether the storage does not declare what the mode needs."""
        able = self.store.capabilities(location.storage)
        return (mode == "create" and not able.create) or (isinstance(mode, Version) and not able.update)

    def refused(self, location: Location, mode: WriteMode, /) -> tuple[type[AccountStoreError], ...]:
        """The errors of which a write must raise one; none where it must succeed."""
        at = self.full(location)
        if self.unsupported(location, mode):
            return (UnsupportedError,)
        if mode == "create":
            return (ExistsError,) if at in self.model else ()
        if mode == "overwrite":
            return ()
        if at not in self.model:
            return NotFoundError, ConflictError
        return () if mode == self.model[at][1] else (ConflictError,)

    def take_write(self, location: Location, document: Document, mode: WriteMode, result: _Outcome, /) -> None:
        """Compare what a write gave, and write in the model."""
        refused = self.refused(location, mode)
        if refused:
            assert not isinstance(result, Version), f"a write of {location} succeeded instead of {refused}"
            assert issubclass(result, refused)
            return
        assert isinstance(result, Version), f"a write of {location} raised {result}"
        at = self.full(location)
        if at in self.model and self.model[at][0] != document:
            assert result != self.model[at][1], "another document has the same version"
        self.model[at] = document, result
        self.seen.setdefault(at, []).append(result)

    def take_read(self, location: Location, result: Stored[Any] | type[AccountStoreError], /) -> None:
        """Compare what a read gave."""
        at = self.full(location)
        if at not in self.model:
            assert result is NotFoundError
            return
        assert isinstance(result, Stored), f"a read of {location} raised {result}"
        assert (result.document, result.version) == self.model[at]

    @rule(spot=_spots, account=_accounts, multi=_multi_accounts, pick=_picks)
    def save(self, spot: _Spot, account: Account, multi: MultiAccount, pick: int) -> None:
        """Save a document of the right kind in any mode; one of the wrong kind is refused."""
        location = self.at(spot)
        mode = self.mode(location, pick)
        saves = (
            lambda: self.store.save(location, account, mode=mode),
            lambda: self.store.save_multi(location, multi, mode=mode),
        )
        right, wrong = saves if _is_single(location) else saves[::-1]
        assert self.attempt(wrong) is ExtensionError
        self.take_write(location, _fitting(location, account, multi), mode, self.attempt(right))

    @rule(
        spots=st.lists(_spots, max_size=4),
        account=_accounts,
        multi=_multi_accounts,
        mode=st.sampled_from(["overwrite", "create"]),
    )
    def save_many(self, spots: list[_Spot], account: Account, multi: MultiAccount, mode: Any) -> None:
        """Save some documents, then get them and others."""
        # One of each: what happens to one document twice at once is a race.
        locations = {self.full(at): at for at in map(self.at, spots)}.values()
        documents = [(at, _fitting(at, account, multi)) for at in locations]
        results = self.call(lambda: _list(self.store.save_many(documents, mode=mode)))
        for (at, document), (location, result) in zip(documents, results, strict=True):
            assert location == at
            self.take_write(at, document, mode, type(result) if isinstance(result, AccountStoreError) else result)
        read = self.call(lambda: _list(self.store.get_many([*self.seen, *(at for at, _ in documents)])))
        assert [location for location, _ in read] == [*self.seen, *(at for at, _ in documents)]
        for at, stored in read:
            self.take_read(at, type(stored) if isinstance(stored, AccountStoreError) else stored)

    @rule(spot=_spots)
    def read(self, spot: _Spot) -> None:
        """Read, get, stat and ask for one document; a call for the other kind is refused."""
        at = self.at(spot)
        single = _is_single(at)
        self.take_read(at, self.attempt(lambda: self.store.read(at) if single else self.store.read_multi(at)))
        assert self.attempt(lambda: self.store.get_multi(at) if single else self.store.get(at)) is ExtensionError
        known = self.full(at) in self.model
        assert self.call(lambda: self.store.exists(at)) is known
        stat = self.attempt(lambda: self.store.stat(at))
        assert (stat is not NotFoundError) is known
        if not isinstance(stat, type):
            assert stat.location == at
            assert stat.version in {None, self.model[self.full(at)][1]}

    @rule(spot=_spots, host=_text, changes=st.booleans())
    def update(self, spot: _Spot, host: str, changes: bool) -> None:
        """Change a document's host, or nothing of it."""
        at = self.at(spot)

        def change(account: Account) -> Account:
            return replace(account, host=host) if changes else account

        def change_multi(multi: MultiAccount) -> MultiAccount:
            return replace(
                multi, receive_accounts=(*multi.receive_accounts[:2], *map(change, multi.receive_accounts[:1]))
            )

        result: Stored[Any] | type[AccountStoreError]
        if _is_single(at):
            result = self.attempt(lambda: self.store.update(at, change))
        else:
            result = self.attempt(lambda: self.store.update_multi(at, change_multi))
        if self.unsupported(at, Version("")):
            assert result is UnsupportedError
            return
        full = self.full(at)
        if full not in self.model:
            assert result is NotFoundError
            return
        assert isinstance(result, Stored), f"an update of {at} raised {result}"
        before, version = self.model[full]
        document = change(before) if isinstance(before, Account) else change_multi(before)
        assert result.document == document
        assert (result.version == version) is (document == before)
        self.model[full] = document, result.version
        self.seen[full].append(result.version)

    @rule(spot=_spots, pick=_picks)
    def delete(self, spot: _Spot, pick: int) -> None:
        """Delete, with or without a version."""
        at = self.at(spot)
        mode = self.mode(at, pick)
        version = mode if isinstance(mode, Version) else None
        result = self.attempt(lambda: self.store.delete(at, version=version))
        full = self.full(at)
        if version is not None and self.unsupported(at, version):
            assert result is UnsupportedError
        elif version is not None and full in self.model and self.model[full][1] != version:
            assert result is ConflictError
        else:
            assert result is None
            self.model.pop(full, None)

    @rule(spot=_spots, other=_spots, pick=_picks, move=st.booleans())
    def copy(self, spot: _Spot, other: _Spot, pick: int, move: bool) -> None:
        """Copy or move a document between any two locations, in any mode."""
        source, target = self.at(spot), self.at(other)
        mode = self.mode(target, pick)
        call = self.store.move if move else self.store.copy
        result = self.attempt(lambda: call(source, target, mode=mode))
        before = self.full(source)
        if _is_single(source) != _is_single(target):
            assert result is ExtensionError
        elif before == self.full(target):
            assert result is LocationError
        elif self.unsupported(target, mode):
            assert result is UnsupportedError
        elif before not in self.model:
            assert result is NotFoundError
        else:
            self.take_write(target, self.model[before][0], mode, result)
            if move and isinstance(result, Version):
                del self.model[before]

    @rule(folder=st.sampled_from((*_PLACES, "mai", "none")), recursive=st.booleans())
    def listing(self, folder: str, recursive: bool) -> None:
        """List a folder of each storage, in the whole store and in one narrowed to the folder."""
        for storage in (None, *self.store.storages):
            name = storage or self.store.storages[0]
            start = f"{folder}/" if folder else ""
            below = [at.path for at in self.model if at.storage == name and at.path.startswith(start)]
            expected = sorted(path for path in below if recursive or "/" not in path.removeprefix(start))
            entries = self.call(partial(_list, self.store.list(folder, storage=storage, recursive=recursive)))
            assert sorted(entry.location.path for entry in entries) == expected
            assert {entry.location.storage for entry in entries} <= {storage}
            narrowed = self.store.scoped(folder, storage=storage)
            entries = self.call(partial(_list, narrowed.list(recursive=recursive)))
            assert sorted(start + entry.location.path for entry in entries) == expected

    def teardown(self) -> None:
        try:
            self.listing("", recursive=True)
        finally:
            super().teardown()


async def _list(items: AsyncIterator[T], /) -> list[T]:
    return [item async for item in items]
