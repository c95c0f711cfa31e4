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
from test_refresh import AT, MULTI_AT, leases, never, put, tokens

from accountstore import (
    AccountStore,
    ClosedError,
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


@pytest.mark.parametrize("error", [FullError("full"), DeniedError("no")], ids=["full", "denied"])
async def test_a_save_that_is_refused_once_loses_no_token(error: Exception) -> None:
    """The first write takes the lease, the second has the only copy of the new token: it is tried again."""
    provider = SmallProvider()
    backend = Recording(MemoryBackend(), [Fault("write", 3, "before", error)])
    store = store_over({"main": backend})
    await put(store, provider.account())
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")


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
