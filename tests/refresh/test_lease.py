"""The lease by itself: copies under it, the clocks, and what object stores are asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from cloudtargets import OTHER, Target, on_each_target
from doubles import Selective, drained, raises, result
from msgspec.structs import replace
from providers import SmallProvider
from samples import ACCOUNT

from accountstore import (
    Account,
    AccountStore,
    Copied,
    DeniedError,
    LeaseError,
    Location,
    NotFoundError,
    OAuthCredentials,
    Secret,
    StorageConfig,
    StoreConfig,
    TokenGrant,
)
from accountstore import lease as leases
from accountstore.backends.memory import MemoryBackend
from accountstore.lease import FIELD, StorageClock, key_of
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from cloudstub import Stub

    from accountstore import Exchange
    from accountstore.backends.base import Capabilities, Stat, WriteMode

pytestmark = pytest.mark.anyio

AT = Location("a.account")
COPY = Location("copy.account")


def refresh_token(account: Account, /) -> str:
    """The refresh token of an account."""
    assert isinstance(account.credentials, OAuthCredentials)
    return account.credentials.refresh_token.reveal()


# --- copies ----------------------------------------------------------------------------------------------------------


async def test_a_copy_waits_for_an_exchange_under_way(store: AccountStore) -> None:
    """With `lease` the copy has the tokens that the exchange brings; without, those that are about to be spent. Nobody
    has a lease of the copy.
    """
    for lease, copied in ((None, "R0"), (5.0, "R1")):
        provider = SmallProvider()
        await store.save(AT, provider.account())
        begun = anyio.Event()

        async with anyio.create_task_group() as group:
            group.start_soon(store.refresh, AT, slow_exchange(provider, begun))
            await begun.wait()
            await store.copy(AT, COPY, lease=lease)
        assert refresh_token(await store.get(COPY)) == copied
        assert refresh_token(await store.get(AT)) == "R1"
        for at in (AT, COPY):
            assert b'"holder"' not in (await store.read_json(at)).document


@pytest.mark.parametrize("many", [False, True])
async def test_a_copy_does_not_take_somebodys_lease_along(store: AccountStore, many: bool) -> None:
    """Whoever has the lease of the original never drops one of the copy, which is refreshed at once. What else the
    field has comes along. The copy is not verified: it has a token that is about to be spent.
    """
    provider = SmallProvider()
    await put(store, {"holder": "live", "seconds": 3600, "previous": "older"})
    if many:
        [(_, copied)] = await drained(store.copy_many([(AT, COPY)], verify="read"))
        assert isinstance(copied, Copied)
        assert not copied.verified
    else:
        await store.copy(AT, COPY)
    assert await field(store, COPY) == {key_of(Secret("R0")): {"previous": "older"}}
    assert await field(store, AT) == {key_of(Secret("R0")): {"holder": "live", "seconds": 3600, "previous": "older"}}
    assert refresh_token((await store.refresh(COPY, provider.exchange, timeout=5)).document) == "R1"


def slow_exchange(provider: SmallProvider, begun: anyio.Event, /) -> Exchange:
    """An exchange with the provider that tells when it has begun, and takes a while."""

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        begun.set()
        await anyio.sleep(0.1)
        return provider.spend(credentials)

    return exchange


async def put(store: AccountStore, lease: dict[str, Any], /) -> None:
    """Save an account with a lease of its token."""
    tree = msgspec.json.decode(msgspec.json.encode(SmallProvider().account(), enc_hook=Secret.reveal))
    await store.save_json(AT, msgspec.json.encode(tree | {FIELD: {key_of(Secret("R0")): lease}}))


async def field(store: AccountStore, at: Location, /) -> Any:
    """What a document says of its leases."""
    return msgspec.json.decode((await store.read_json(at)).document).get(FIELD)


@pytest.mark.parametrize("conditions", [("create", "swap", "delete"), ("create", "swap")], ids=["all", "no delete"])
async def test_a_move_takes_the_tokens_of_an_exchange_along(conditions: tuple[str, ...]) -> None:
    """It waits for an exchange under way, whose tokens would be lost with the source, also where the storage ignores
    the condition of a delete. The token before the last comes along, and nobody has a lease at the target.
    """
    provider, begun = SmallProvider(), anyio.Event()
    backend = Verified(*conditions)
    store, others = store_over({"m": backend}), store_over({"m": backend})
    await store.save(AT, provider.account())

    async with anyio.create_task_group() as group:
        group.start_soon(store.refresh, AT, slow_exchange(provider, begun))
        await begun.wait()
        await others.move(AT, COPY)
    assert refresh_token(await store.get(COPY)) == "R1"
    assert await field(store, COPY) == {key_of(Secret("R1")): {"previous": "R0"}}
    assert not await store.exists(AT)


class Verified(Selective):
    """Has its conditions probed."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, verify=True)


async def test_nobody_exchanges_a_token_while_it_is_moved() -> None:
    """Who refreshes meanwhile waits for the end of the move, and finds no document: the token is spent at one place."""
    memory, provider = MemoryBackend(), SmallProvider()
    store, others = store_over({"m": memory, "slow": Slow()}), store_over({"m": memory})
    await store.save(AT, provider.account())
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: store.move(AT, Location("a.account", storage="slow")))
        await anyio.sleep(0.05)
        assert isinstance(await result(others.refresh(AT, provider.exchange)), NotFoundError)
    assert provider.exchanges == 0
    assert refresh_token(await store.get(Location("a.account", storage="slow"))) == "R0"


async def test_a_move_that_fails_leaves_no_lease() -> None:
    """The source stays as it was."""
    provider = SmallProvider()
    broken = FaultyBackend(MemoryBackend(), [Fault("write", 1, error=PermissionError())])
    store = store_over({"m": MemoryBackend(), "broken": broken})
    await store.save(AT, provider.account())
    before = (await store.stat(AT)).version
    with pytest.raises(DeniedError):
        await store.move(AT, Location("a.account", storage="broken"))
    assert (await store.stat(AT)).version == before


async def test_a_move_gives_up_where_others_keep_the_lease(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for twice its own lease, and writes nothing."""
    monkeypatch.setattr("accountstore.updating._LEASE", 0.1)
    await put(store, {"holder": "another", "seconds": 3600})
    with raises(LeaseError, location=AT):
        await store.move(AT, COPY)
    assert not await store.exists(COPY)
    assert await field(store, AT) == {key_of(Secret("R0")): {"holder": "another", "seconds": 3600}}


class Slow(MemoryBackend):
    """Takes its time to write."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        await anyio.sleep(0.2)
        return await super().write(key, data, mode=mode, write_token=write_token)


async def test_nobody_exchanges_a_token_while_it_is_copied() -> None:
    """Who refreshes meanwhile waits for the end of the copy."""
    memory, provider = MemoryBackend(), SmallProvider()
    order: list[str] = []

    class Noting(Slow):
        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            stat = await super().write(key, data, mode=mode, write_token=write_token)
            order.append("copied")
            return stat

    store, others = store_over({"m": memory, "slow": Noting()}), store_over({"m": memory})
    await store.save(AT, provider.account())

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        order.append("exchanged")
        return provider.spend(credentials)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: store.copy(AT, Location("a.account", storage="slow"), lease=5))
        await anyio.sleep(0.05)
        group.start_soon(others.refresh, AT, exchange)
    assert order == ["copied", "exchanged"]


async def test_a_copy_that_takes_longer_than_its_lease_says_so() -> None:
    """Another has taken over and spent the token meanwhile: the copy is no good, and the call tells it."""
    memory, provider = MemoryBackend(), SmallProvider()

    class Slow(MemoryBackend):
        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            await anyio.sleep(0.8)
            return await super().write(key, data, mode=mode, write_token=write_token)

    store, others = store_over({"m": memory, "slow": Slow()}), store_over({"m": memory})
    await store.save(AT, provider.account())
    caught: list[LeaseError] = []

    async def copy() -> None:
        with raises(LeaseError, location=AT) as raised:
            await store.copy(AT, Location("a.account", storage="slow"), lease=0.1)
        caught.append(raised.value)

    async with anyio.create_task_group() as group:
        group.start_soon(copy)
        await anyio.sleep(0.05)
        group.start_soon(others.refresh, AT, provider.exchange)
    assert "another has taken over" in str(caught[0])


async def test_a_copy_gives_up_where_others_keep_the_lease(store: AccountStore) -> None:
    """It waits for twice its own lease, and writes nothing."""
    await put(store, {"holder": "another", "seconds": 3600})
    with raises(LeaseError, location=AT):
        await store.copy(AT, COPY, lease=0.1)
    assert not await store.exists(COPY)


async def test_a_document_without_oauth_is_copied_without_a_lease(store: AccountStore) -> None:
    """Its version stays, as nothing is written at the source; unknown fields come along."""
    await store.save_json(AT, msgspec.json.encode(msgspec.to_builtins(ACCOUNT, enc_hook=Secret.reveal) | {"new": 5}))
    before = await store.read(AT)
    await store.copy(AT, COPY, lease=5)
    assert await store.read(AT) == before
    assert b'"new":5' in (await store.read_json(COPY)).document


# --- clocks ----------------------------------------------------------------------------------------------------------


class _Wrong(datetime):
    """A clock that is off."""

    by = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + cls.by

    @classmethod
    def fromtimestamp(cls, timestamp: float, tz: Any = None) -> Any:
        return datetime.fromtimestamp(timestamp, tz)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> type[_Wrong]:
    """The clock of this machine, as `StorageClock` sees it."""
    monkeypatch.setattr(leases, "datetime", _Wrong)
    monkeypatch.setattr(_Wrong, "by", timedelta(0))
    return _Wrong


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_is_found_by_a_write(off: type[_Wrong], hours: int) -> None:
    """After a write the time is the storage's where the two differ by far, and this machine's own where they do not."""
    clock = StorageClock()
    off.by = timedelta(hours=hours)
    assert abs(clock.now() - datetime.now(UTC) - off.by) < timedelta(seconds=5)
    clock.has_written(datetime.now(UTC), leases.elapsed())
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    off.by = timedelta(seconds=20)
    assert abs(clock.now() - datetime.now(UTC) - off.by) < timedelta(seconds=5)


def test_a_clock_that_is_behind_is_found_by_a_read(off: type[_Wrong]) -> None:
    """A document from the future tells that this machine's clock is behind; one from the past tells nothing."""
    clock = StorageClock()
    off.by = timedelta(hours=-1)
    clock.has_read(None)
    clock.has_read(datetime.now(UTC) - timedelta(days=1))
    assert abs(clock.now() - datetime.now(UTC) + timedelta(hours=1)) < timedelta(seconds=5)
    clock.has_read(datetime.now(UTC) - timedelta(minutes=10))
    assert abs(clock.now() - datetime.now(UTC) + timedelta(minutes=10)) < timedelta(seconds=5)
    for _ in range(2):
        clock.has_read(datetime(9999, 12, 31, 23, 59, 55, tzinfo=UTC))


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_steady_clock_that_has_stood_still_brings_back_no_token(
    off: type[_Wrong], hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that was paused, or whose clock was set: what was found before counts no more where it would make
    the time earlier, until the next write.
    """
    clock, steady = StorageClock(), leases.elapsed
    off.by = timedelta(hours=hours)
    clock.has_written(datetime.now(UTC), steady())
    off.by = timedelta(0)
    monkeypatch.setattr(leases, "elapsed", lambda: steady() - 7200)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    clock.has_written(datetime.now(UTC), steady() - 7200)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_write_that_took_long_tells_no_time(off: type[_Wrong]) -> None:
    """Its date may be of long ago: of a process that was suspended while the answer came."""
    clock = StorageClock()
    clock.has_written(datetime.now(UTC) - timedelta(minutes=10), leases.elapsed() - 600)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert not clock.is_known


async def test_a_clock_that_is_ahead_costs_no_exchange(off: type[_Wrong]) -> None:
    """A machine an hour ahead takes a good token for dead, takes the lease, sees by it what the time is, and asks
    nobody. Later it knows, and reads once. The control: one that does not look has an exchange.
    """
    provider, memory = SmallProvider(lifetime=1800), MemoryBackend()
    store = store_over({"m": memory})
    await store.save(AT, provider.account())
    await store.refresh(AT, provider.exchange)
    off.by = timedelta(hours=1)
    ahead = store_over({"m": memory})
    for _ in range(3):
        await ahead.refresh(AT, provider.exchange)
    assert provider.exchanges == 1
    assert b'"holder"' not in (await store.read_json(AT)).document
    version = (await store.read(AT)).version
    await ahead.refresh(AT, provider.exchange)
    assert (await store.read(AT)).version == version

    blind = store_over({"m": memory})
    storage = blind._resolver.storage(None)  # pyright: ignore[reportPrivateUsage]
    storage.clock.has_written = lambda *_: None  # type: ignore[method-assign]
    await blind.refresh(AT, provider.exchange)
    assert provider.exchanges == 2


# --- object stores ---------------------------------------------------------------------------------------------------


@pytest.mark.once
@on_each_target
async def test_requests_of_object_stores(target: Target, stub: Stub) -> None:
    """A valid token is one request, a refresh three; the first of a store one more where a write tells no time."""
    provider = SmallProvider()
    async with AccountStore.open(target.config(stub.url)) as store:
        await store.save(OTHER, provider.account())
        counts: list[int] = []
        for leeway in (60, 60, 4000, 4000):
            before = stub.count()
            await store.refresh(OTHER, provider.exchange, leeway=leeway)
            counts.append(stub.count() - before)
    print(target.name, counts)
    told = 0 if target.engine == "fsspec" and target.service != "s3" else 1
    assert counts == [3 + told, 1, 3, 3]
    assert provider.exchanges == 3


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_either_codec(codec: Any, tmp_path: Any) -> None:
    """The lease and the token before are kept in either format."""
    pytest.importorskip("msgpack")
    provider = SmallProvider(grace=True)
    config = StoreConfig(storages={"m": StorageConfig(str(tmp_path), codec=codec)})
    async with AccountStore.open(config) as store:
        await store.save(AT, provider.account())
        await store.refresh(AT, provider.exchange)
        tree = msgspec.json.decode((await store.read_json(AT)).document)
        assert tree[FIELD] == {key_of(Secret("R1")): {"previous": "R0"}}
        assert refresh_token((await store.refresh(AT, provider.exchange, leeway=4000)).document) == "R2"
