"""`refresh` where something is odd: a storage that fails at the save, a closing store, hostile fields, other terms."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cloudtls import make_authority
from doubles import Recording, result
from msgspec.structs import replace
from providers import SmallProvider
from running import HUNG
from test_refresh import AT, MULTI_AT, lease_of, leases, never, put, tokens

from accountstore import (
    AccountStore,
    ClosedError,
    KeyDeniedError,
    LeaseError,
    MultiAccount,
    NoAnswerError,
    OAuthCredentials,
    StorageConfig,
    StoreConfig,
    TokenGrant,
    TooLargeError,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import DeniedError, FullError
from accountstore.lease import FIELD
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [FullError("full"), DeniedError("no"), KeyDeniedError("no")], ids=type)
async def test_a_save_that_is_refused_for_a_while_loses_no_token(error: Exception, pauses: list[float]) -> None:
    """The first write takes the lease, the next has the only copy of the new token: it is tried again, and again."""
    provider = SmallProvider()
    backend = Recording(MemoryBackend(), [Fault("write", nth, "before", error) for nth in range(3, 23)])
    store = store_over({"main": backend})
    await put(store, provider.account())
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")


@pytest.mark.parametrize("odd", [b"", b'{"host": "h", "po', None], ids=["empty", "half", "gone"])
async def test_a_document_that_is_none_for_a_moment_loses_no_token(odd: bytes | None, pauses: list[float]) -> None:
    """Such as while somebody's editor writes it: what was granted is saved as soon as it is one again."""
    provider, backend = SmallProvider(), Recording()
    store = store_over({"main": backend})
    await put(store, provider.account())

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        whole, calls = await backend.raw(AT), 0

        async def restore(_: str) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                await backend.put(AT, whole)

        backend.before = restore
        await (backend.remove(AT.path) if odd is None else backend.put(AT, odd))
        return await provider.exchange(credentials)

    assert tokens((await store.refresh(AT, exchange)).document) == ("R1", "A1")
    assert tokens(await store.get(AT)) == ("R1", "A1")


async def test_what_a_plain_function_grants_is_not_lost(store: AccountStore) -> None:
    """A forgotten `async` spends no token for nothing."""
    provider: Any = SmallProvider()
    await put(store, provider.account())
    assert tokens((await store.refresh(AT, provider.spend)).document) == ("R1", "A1")


async def test_spent_tokens_make_room_for_new_ones() -> None:
    """Where a document has no room for the spent token beside the new ones, it is not kept."""
    provider = SmallProvider()
    store = store_over({"main": MemoryBackend()}, max_bytes=2500)
    await put(store, provider.account("R0".ljust(1000)))
    provider.good = {"R0".ljust(1000)}
    assert tokens((await store.refresh(AT, padded(provider))).document) == ("R1".ljust(1000), "A1".ljust(900))
    assert (provider.exchanges, await leases(store)) == (1, {})


async def test_without_room_for_new_tokens_none_is_spent() -> None:
    """A document that is full is refused before the exchange, and keeps no lease; once it may be larger it goes on."""
    provider, memory = SmallProvider(), MemoryBackend()
    await put(store_over({"main": memory}), provider.account("R0".ljust(1000)))
    provider.good = {"R0".ljust(1000)}
    store = store_over({"main": memory}, max_bytes=1800)
    with pytest.raises(TooLargeError, match="nothing was exchanged"):
        await store.refresh(AT, padded(provider))
    assert (provider.exchanges, await leases(store)) == (0, {})
    await store_over({"main": memory}).refresh(AT, padded(provider))


async def test_room_that_spent_tokens_take_is_used() -> None:
    """The token before the last gives its room to an exchange which would be refused for want of it."""
    provider, memory = SmallProvider(), MemoryBackend()
    before = lease_of("R0".ljust(1000), previous="R".ljust(1000))
    await put(store_over({"main": memory}), provider.account("R0".ljust(1000)), before)
    provider.good = {"R0".ljust(1000)}
    store = store_over({"main": memory}, max_bytes=2400)
    assert len((await store.read_json(AT)).document) > 2100
    await store.refresh(AT, padded(provider, access=20))
    assert (provider.exchanges, provider.refusals) == (1, 0)


def padded(provider: SmallProvider, /, *, access: int = 900) -> Any:
    """An exchange whose tokens are long."""

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        grant = await provider.exchange(credentials)
        assert grant.refresh_token is not None
        longer = grant.refresh_token.reveal().ljust(1000)
        provider.good.add(longer)
        return TokenGrant(access_token=grant.access_token.reveal().ljust(access), expires_in=60, refresh_token=longer)

    return exchange


async def test_an_access_token_that_is_too_large_costs_no_refresh_token() -> None:
    """The document keeps the new refresh token, and the caller is told."""
    provider = SmallProvider()

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        grant = await provider.exchange(credentials)
        return TokenGrant(access_token="x" * 5000, expires_in=60, refresh_token=grant.refresh_token)

    store = store_over({"main": MemoryBackend()}, max_bytes=3000)
    await put(store, provider.account())
    with pytest.raises(TooLargeError):
        await store.refresh(AT, exchange)
    assert tokens(await store.get(AT)) == ("R1", None)


async def test_closing_waits_for_an_exchange(tmp_path: Path) -> None:
    """What a provider has granted is saved before the store is closed."""
    provider, config = SmallProvider(), StoreConfig(storages={"main": StorageConfig(str(tmp_path))})
    store = await AccountStore.open(config)
    await put(store, provider.account())
    begun = anyio.Event()

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        begun.set()
        await anyio.sleep(0.05)
        return await provider.exchange(credentials)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(result, store.refresh(AT, exchange))
        await begun.wait()
        await store.aclose()
    with pytest.raises(ClosedError):
        await store.get(AT)
    async with AccountStore.open(config) as opened:
        assert tokens(await opened.get(AT)) == ("R1", "A1")


@pytest.mark.parametrize("field", [b"1e400", b"9" * 5000, b'{"other": {"holder": null}}'], ids=["inf", "long", "odd"])
async def test_a_hostile_field_stops_nobody(field: bytes) -> None:
    """A field of leases that is none is as good as no field."""
    provider = SmallProvider()
    store = store_over({"main": MemoryBackend()})
    await put(store, provider.account())
    data = bytes((await store.read_json(AT)).document)
    await store.save_json(AT, data[:-1] + b',"' + FIELD.encode() + b'":' + field + b"}")
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")


async def test_an_odd_entry_does_not_hide_a_live_lease(store: AccountStore) -> None:
    """One entry that is no lease says nothing of the others."""
    provider = SmallProvider()
    await put(store, provider.account(), {"other": {"holder": None}})
    lease = await _key(store)
    await put(store, provider.account(), {"other": {"holder": None}, lease: {"holder": "live", "seconds": 60}})
    with pytest.raises(LeaseError):
        await store.refresh(AT, never, timeout=0)


async def _key(store: AccountStore) -> str:
    """What the document calls its refresh token."""
    from accountstore.lease import key_of

    credentials = (await store.get(AT)).credentials
    assert isinstance(credentials, OAuthCredentials)
    return key_of(credentials.refresh_token)


async def test_calls_that_wait_for_less_than_a_lease_take_over_in_the_end(store: AccountStore) -> None:
    """What one call has seen of a dead holder, the next one of the process knows."""
    provider = SmallProvider()
    await put(store, provider.account(), {})
    await put(store, provider.account(), {await _key(store): {"holder": "dead", "seconds": 0.2}})
    for _ in range(100):
        outcome = await result(store.refresh(AT, provider.exchange, timeout=0.05))
        if not isinstance(outcome, LeaseError):
            break
    assert tokens(await store.get(AT)) == ("R1", "A1")
    assert await leases(store) != {}


async def test_lost_swaps_end_with_the_timeout() -> None:
    """A rival that edits before each swap keeps a call busy for its `timeout`, and no longer."""
    provider, memory = SmallProvider(), MemoryBackend()
    backend = Recording(memory)
    store = store_over({"main": backend})
    await put(store, provider.account())
    other = store_over({"main": memory})
    count = 0

    async def edit(operation: str) -> None:
        nonlocal count
        if operation == "write":
            count += 1
            await put(other, replace(provider.account(), port=1 + count))

    backend.before = edit
    with pytest.raises(LeaseError):
        await store.refresh(AT, provider.exchange, timeout=0.2)
    assert 0 < count < 100
    assert provider.exchanges == 0


async def test_of_accounts_with_one_refresh_token_the_oldest_counts(store: AccountStore) -> None:
    """An account without an access token gets one, though another with the same refresh token has one that is good."""
    provider = SmallProvider()
    account = provider.account()
    assert isinstance(account.credentials, OAuthCredentials)
    later = datetime.now(UTC) + timedelta(hours=1)
    good = replace(account, credentials=replace(account.credentials, access_token="good", expires_at=later))
    await store.save_multi(MULTI_AT, MultiAccount(receive_accounts=[good], send_account=account))
    multi = (await store.refresh_multi(MULTI_AT, provider.exchange)).document
    assert multi.send_account is not None
    assert {tokens(each) for each in (*multi.receive_accounts, multi.send_account)} == {("R1", "A1")}


async def test_an_error_of_another_asker_names_the_own_location() -> None:
    """A narrowed store does not learn where its folder is from who refreshed the same document."""
    provider = SmallProvider()
    store = store_over({"main": MemoryBackend()})
    await put(store, provider.account())
    tenant, at = store.scoped("mail"), replace(AT, folder="")
    begun = anyio.Event()

    async def fail(_: OAuthCredentials) -> TokenGrant:
        begun.set()
        await anyio.sleep(0.05)
        raise ValueError

    outcomes: list[Any] = []

    async def ask() -> None:
        await begun.wait()
        outcomes.append(await result(tenant.refresh(at, never)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(result, store.refresh(AT, fail))
    assert [(outcome.location, AT.folder in str(outcome)) for outcome in outcomes] == [(at, False)]


@pytest.mark.once
@pytest.mark.parametrize("scheme", ["https", "HTTPS", "hTTps"])
async def test_a_server_without_a_good_certificate_gets_no_token(scheme: str, tmp_path: Path) -> None:
    """However the scheme is written, the server's certificate is checked before anything is sent."""
    endpoint = await anyio.to_thread.run_sync(pytest.importorskip, "accountstore.oauth")
    _, server = await anyio.to_thread.run_sync(make_authority, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await anyio.to_thread.run_sync(context.load_cert_chain, server)
    got: list[bytes] = []

    def serve() -> None:
        stream, _ = listener.accept()
        with suppress(OSError), stream, context.wrap_socket(stream, server_side=True) as wrapped:
            got.append(wrapped.recv(9999))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HUNG)
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/token"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve)
            with pytest.raises(NoAnswerError):
                await endpoint.TokenEndpoint(url)(_credentials())
    assert got == []


def _credentials() -> OAuthCredentials:
    return OAuthCredentials(login="me", client_id="id", client_secret="s", refresh_token="canary")
