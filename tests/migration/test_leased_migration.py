"""Services refresh OAuth tokens while their documents are migrated: with the lease no token is lost."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import Recording, drained, raises
from migrating import SOURCE, TARGET, config, files, found, once, put, source, target
from msgspec.structs import replace
from providers import SmallProvider

from accountstore import (
    Account,
    AccountStore,
    Copied,
    LeaseError,
    NotFoundError,
    OAuthCredentials,
    Secret,
    TokenGrant,
    UnsupportedError,
    to_json,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.lease import FIELD, key_of
from accountstore.migration import Options, migrate
from accountstore.testing import store_over

if TYPE_CHECKING:
    from pathlib import Path

    from accountstore import Event, Location
    from accountstore.migration import Report

pytestmark = pytest.mark.anyio

OLD, NEW = source("x.account"), target("x.account")
LONG = 300.0
"""A lease that does not run out in a test."""


def over(old: Any = None, new: Any = None, /, **policy: Any) -> AccountStore:
    """A store on two backends."""
    return store_over({"Old": old or MemoryBackend(), "New": new or MemoryBackend()}, **policy)


async def hold(store: AccountStore, /) -> None:
    """Let another hold the document, for long."""
    tree = json.loads((await store.read_json(OLD)).document)
    held = {key_of(Secret("R0")): {"holder": "another", "seconds": LONG}}
    await store.save_json(OLD, json.dumps(tree | {FIELD: held}).encode())


async def token_of(store: AccountStore, at: Location, /) -> str | None:
    """The refresh token that a document has; None: there is no document."""
    try:
        credentials = (await store.get(at)).credentials
    except NotFoundError:
        return None
    assert isinstance(credentials, OAuthCredentials)
    return credentials.refresh_token.reveal()


class Service:
    """Refreshes a document where it is: at the source, and when it has gone from there, at the target."""

    def __init__(self, store: AccountStore, name: str, /) -> None:
        self._store = store
        self._name = name
        self.provider = SmallProvider()
        self.exchanging, self.goes_on = anyio.Event(), anyio.Event()

    async def exchange(self, credentials: OAuthCredentials, /) -> TokenGrant:
        """As its provider's; the answer comes when it may."""
        granted = await self.provider.exchange(credentials)
        self.exchanging.set()
        await self.goes_on.wait()
        return granted

    async def refresh(self) -> Account | None:
        """One token; None: the document went while it was exchanged."""
        for at in (source(self._name), target(self._name)):
            before = self.provider.exchanges
            try:
                return (await self._store.refresh(at, self.exchange, leeway=1e6, lease=LONG, timeout=LONG)).document
            except NotFoundError:
                if self.provider.exchanges != before:
                    return None
        raise AssertionError("it is nowhere")


@pytest.mark.parametrize("lease", [LONG, None], ids=["with the lease", "without it"])
async def test_a_refresh_that_is_under_way_loses_no_token(tmp_path: Path, lease: float | None) -> None:
    """A document whose token is just being exchanged is copied, and removed at the source, when the new token is in it.
    Without the lease it is copied at once, with the token that is about to be spent, and stays until the next pass.
    """
    async with over() as store:
        service = Service(store, "x.account")
        await store.save(OLD, service.provider.account())
        told: list[Any] = []
        reports: list[Report] = []
        done = anyio.Event()

        async def refresh() -> None:
            told.append(await service.refresh())

        async def pass_over() -> None:
            reports.append(await once(store, tmp_path, delete_source=True, lease=lease))
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refresh)
            await service.exchanging.wait()
            tasks.start_soon(pass_over)
            if lease is None:
                await done.wait()
            await anyio.sleep(0.2)
            assert done.is_set() == (lease is None)
            service.goes_on.set()
        assert reports[0].totals.keys() == {"copied" if lease is None else "moved"}
        if lease is None:
            assert (await token_of(store, OLD), await token_of(store, NEW)) == ("R1", "R0")
            assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"moved"}
        assert (await token_of(store, OLD), await token_of(store, NEW)) == (None, "R1")
        assert told[0].credentials.refresh_token == Secret("R1")
        assert (await store.refresh(NEW, service.exchange, leeway=1e6)).document != told[0]


async def test_services_that_refresh_all_the_time_lose_none(tmp_path: Path) -> None:
    """Passes that copy and remove go over documents that services refresh again and again: in the end all are at the
    target alone, each with the newest token of its provider, which has refused none.
    """
    async with over() as store:
        services = [Service(store, f"{number}.account") for number in range(8)]
        for number, service in enumerate(services):
            service.goes_on.set()
            await store.save(source(f"{number}.account"), service.provider.account())

        async def refresh(service: Service) -> None:
            for _ in range(30):
                assert await service.refresh() is not None
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            for service in services:
                tasks.start_soon(refresh, service)
            for _ in range(4):
                await once(store, tmp_path, delete_source=True, lease=LONG)
        report = await once(store, tmp_path, delete_source=True, lease=LONG)
        assert report.ok, report
        for number, service in enumerate(services):
            assert await token_of(store, source(f"{number}.account")) is None
            assert await token_of(store, target(f"{number}.account")) == f"R{service.provider.exchanges}"
            assert service.provider.refusals == 0


async def test_a_leased_copy_leaves_nothing_to_do(tmp_path: Path) -> None:
    """The copy has no trace of the lease nor of an earlier one; the version that is left at the source is journaled, so
    that the next pass writes nothing; and a document without tokens costs no request more.
    """
    old, new = Recording(), Recording()
    async with over(old, new) as store:
        service = Service(store, "x.account")
        service.goes_on.set()
        await store.save(OLD, service.provider.account())
        await service.refresh()
        assert FIELD.encode() in (await store.read_json(OLD)).document
        await put(store, source("y.account"), "a")
        old.log.clear()
        new.log.clear()
        assert (await once(store, tmp_path, lease=LONG)).totals.keys() == {"copied"}
        calls = [call for call in old.log + new.log if "scan" not in str(call)]
        assert len(calls) == 2 * 3 + 2
        assert b'"holder"' not in (await store.read_json(NEW)).document
        old.log.clear()
        new.log.clear()
        assert (await once(store, tmp_path, lease=LONG)).totals.keys() == {"same"}
        assert "write" not in old.log + new.log
        (tmp_path / "journal").unlink()
        assert (await once(store, tmp_path)).totals.keys() == {"same"}


async def test_a_document_that_is_held_stays_at_the_source(tmp_path: Path) -> None:
    """A document that is the same at both ends, but whose token is being exchanged, is not removed at the source."""
    async with over() as store:
        account = SmallProvider().account()
        await store.save(OLD, account)
        await store.copy(OLD, NEW)
        await hold(store)
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"same"}
        assert await token_of(store, OLD) == "R0"
        await store.save(OLD, account)
        assert (await once(store, tmp_path, delete_source=True)).totals.keys() == {"moved"}


class Slow(MemoryBackend):
    """Lets something happen in the middle of a write."""

    meanwhile: Any = None

    async def write(self, key: str, data: bytes, /, **how: Any) -> Any:
        stat = await super().write(key, data, **how)
        if self.meanwhile is not None:
            await self.meanwhile()
        return stat


async def test_a_lease_that_is_lost_leaves_the_copy_unverified(tmp_path: Path) -> None:
    """Where another has taken over while the document was written, the copy counts as one of an older version: it stays
    at the source, and the next pass copies it again.
    """
    new = Slow()
    async with over(None, new) as store:
        account = SmallProvider().account()
        await store.save(OLD, account)

        async def take_over() -> None:
            await store.save(OLD, replace(account, port=7))

        new.meanwhile = take_over
        [(_, result)] = await drained(store.copy_many([(OLD, target("y.account"))], verify="read", lease=LONG))
        assert isinstance(result, Copied)
        assert not result.verified
        await store.delete(target("y.account"))
        await store.save(OLD, account)
        assert (await once(store, tmp_path, delete_source=True, lease=LONG)).totals.keys() == {"copied"}
        new.meanwhile = None
        assert (await once(store, tmp_path, delete_source=True, lease=LONG)).totals.keys() == {"moved"}
        assert (await store.get(NEW)).port == 7


async def test_a_lease_that_never_comes_free_is_told(tmp_path: Path) -> None:
    """A document that others hold for too long has failed, by name, and the others are copied."""
    async with over() as store:
        await store.save(OLD, SmallProvider().account())
        await put(store, source("y.account"), "a")
        await hold(store)
        run = migrate(store, SOURCE, TARGET, options=Options(lease=0.05), **files(tmp_path))
        told = {outcome.name: (outcome.outcome, outcome.error) async for outcome in run}
        assert told == {"x.account": ("failed", LeaseError.__name__), "y.account": ("copied", "")}
        assert await found(store, NEW) is None


async def test_events_are_those_of_copies() -> None:
    """A leased copy is one event of `copy_many`, as any."""
    events: list[Event] = []
    async with over(observer=events.append) as store:
        await store.save(OLD, SmallProvider().account())
        events.clear()
        await drained(store.copy_many([(OLD, NEW)], lease=LONG))
        assert [(event.operation, event.location, event.target) for event in events] == [("copy_many", OLD, NEW)]


@pytest.mark.parametrize("lease", [0, -1, float("nan"), 1e9])
def test_what_is_no_lease_is_refused(lease: float) -> None:
    """A lease is a positive number of seconds, an hour at most, for a run as for `copy_many`."""
    with pytest.raises(ValueError, match="lease"):
        Options(lease=lease)
    with pytest.raises(ValueError, match="lease"):
        over().copy_many([], lease=lease)


async def test_a_source_without_conditions_has_no_leases(tmp_path: Path) -> None:
    """A lease on a source that cannot compare and swap is refused before anything is done."""
    async with over(Recording(None, (), create=False, update=False)) as store:
        with raises(UnsupportedError, "which a lease needs"):
            await once(store, tmp_path, lease=LONG)


@pytest.mark.once
async def test_other_processes_hold_leases_as_well(tmp_path: Path) -> None:
    """Processes that do the work take the leases too: a document that another holds has failed, and stays."""
    told = config(tmp_path)
    async with AccountStore.open(told) as store:
        await store.save(OLD, SmallProvider().account())
        await hold(store)
        await store.save(source("y.account"), SmallProvider().account())
        options = Options(lease=0.05, delete_source=True)
        run = migrate(store, SOURCE, TARGET, options=options, processes=2, config=told, **files(tmp_path))
        assert {outcome.name: outcome.outcome async for outcome in run} == {"x.account": "failed", "y.account": "moved"}
        assert FIELD.encode() not in (await store.read_json(target("y.account"))).document


async def test_a_document_without_room_for_a_lease_is_refused(tmp_path: Path) -> None:
    """Its reason says that it is the lease that has no room; without one the document is copied, up to the limit."""
    plain = json.loads(to_json(SmallProvider().account(), reveal=True))
    async with over(max_bytes=2000) as store:
        short = len(json.dumps(plain | {"x": ""}, separators=(",", ":")))
        for name, room in (("full.account", 0), ("roomy.account", 200)):
            data = json.dumps(plain | {"x": "y" * (2000 - short - room)}, separators=(",", ":"))
            await store.save_json(source(name), data.encode())
        run = migrate(store, SOURCE, TARGET, options=Options(lease=LONG), **files(tmp_path))
        told = {outcome.name: (outcome.outcome, outcome.reason) async for outcome in run}
        word, reason = told.pop("full.account")
        assert (word, told) == ("refused", {"roomy.account": ("copied", "")})
        assert re.fullmatch(
            r"source: no room for the lease, with which the document has 2\d\d\d bytes, more than the 2000 allowed",
            reason,
        )
        assert (await once(store, tmp_path)).totals.keys() == {"copied", "same"}
