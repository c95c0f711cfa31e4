"""A gateway that keeps OAuth tokens fresh by itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import Recording
from gateways import BASE, MULTI, OAUTH, PASSWORD, STORAGE, configured, request_of, serving, told
from msgspec.structs import replace
from sealed import sealed_over

from accountstore import (
    AccountStore,
    AccountStoreError,
    DeniedError,
    Exchange,
    ExchangeError,
    Location,
    NoAnswerError,
    OAuthCredentials,
    RefusedError,
    Secret,
    StorageConfig,
    StoreConfig,
    TokenGrant,
    UnsupportedError,
)
from accountstore.backends.base import Blob
from accountstore.backends.memory import MemoryBackend
from accountstore.gateway import Limits
from accountstore.lease import FIELD, key_of
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from accountstore.backends.base import Stat, WriteMode

pytestmark = pytest.mark.anyio

AT = {"fileName": "a.account"}


class Provider:
    """Grants tokens, one for each call; or raises."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.failure = failure

    async def __call__(self, credentials: OAuthCredentials, /) -> TokenGrant:
        await anyio.lowlevel.checkpoint()
        self.calls.append(credentials.refresh_token.reveal())
        if self.failure is not None:
            raise self.failure
        return TokenGrant(access_token=f"at-{len(self.calls)}", expires_in=3600, refresh_token=f"rt-{len(self.calls)}")


async def expire(store: AccountStore, name: str = "a.account") -> None:
    """Let the token of a document expire."""
    stored = json.loads((await store.read_json(Location(name))).document)
    accounts: Sequence[dict[str, dict[str, str]]] = stored.get("receiveAccounts", [stored])
    for account in accounts:
        account["credentials"]["expiresAt"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    await store.save_json(Location(name), json.dumps(stored).encode())


async def test_no_get_returns_an_expired_token(store: AccountStore) -> None:
    """A missing or expired token is refreshed once, for all who ask; a valid one, or a password, asks nobody."""
    provider = Provider()
    async with serving(store, refresh=provider) as http:
        await http.put(BASE, json=request_of(OAUTH))
        tokens: list[str] = []

        async def get() -> None:
            tokens.append((await http.get(BASE, params=AT)).json()["credentials"]["accessToken"])

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(get)
        assert tokens == ["at-1"] * 8
        await expire(store)
        await get()
        assert tokens[-1] == "at-2"
        assert provider.calls == ["refreshToken", "rt-1"]
        await http.put(BASE, json=request_of(PASSWORD, "p.account"))
        assert (await http.get(BASE, params={"fileName": "p.account"})).json() == PASSWORD
    assert len(provider.calls) == 2


async def test_a_multi_account_too(store: AccountStore) -> None:
    """Each account of a multi account has a valid token."""
    provider = Provider()
    multi = {"receiveAccounts": [OAUTH], "sendAccount": PASSWORD}
    async with serving(store, refresh=provider) as http:
        await http.put(MULTI, json=request_of(multi, "a.multi.account"))
        for calls in (1, 1, 2):
            if calls == 2:
                await expire(store, "a.multi.account")
            got = (await http.get(MULTI, params={"fileName": "a.multi.account"})).json()
            assert got["receiveAccounts"][0]["credentials"]["accessToken"] == f"at-{calls}"
            assert len(provider.calls) == calls


async def test_a_save_does_not_bring_a_spent_token_back(store: AccountStore) -> None:
    """A client that has read an account before its token was exchanged saves it: the good token stays, with what it
    grants; a token that is neither is another grant, and replaces it, also for who sends the spent one later.
    """
    provider = Provider()
    multi = {"receiveAccounts": [OAUTH, PASSWORD], "sendAccount": OAUTH}
    async with serving(store, refresh=provider) as http:
        for path, name, value in ((BASE, "a.account", OAUTH), (MULTI, "a.multi.account", multi)):
            await http.put(path, json=request_of(value, name))
            first = (await http.get(path, params={"fileName": name})).json()
            assert (await http.put(path, json=request_of({**value}, name))).status_code == 200
            after = (await http.get(path, params={"fileName": name})).json()
            assert after == first
        new = {**OAUTH, "credentials": {**OAUTH["credentials"], "refreshToken": "new"}}  # type: ignore[dict-item]
        for sent in (new, OAUTH):
            await http.put(BASE, json=request_of(sent))
        assert (await http.get(BASE, params=AT)).json()["credentials"]["refreshToken"] == "rt-3"
    assert provider.calls == ["refreshToken", "refreshToken", "new"]


def of(one: Any, **changes: str) -> dict[str, Any]:
    """An account with another host or protocol, or with other credentials."""
    if not changes.keys() & {"host", "protocolType"}:
        return {**one, "credentials": {**one["credentials"], **changes}}
    return {**one, **changes}


def credentials_in(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The credentials of a document of either kind."""
    accounts = [document, *document.get("receiveAccounts", ()), document.get("sendAccount", {})]
    return [account["credentials"] for account in accounts if "credentials" in account]


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "one login": lambda one: of(one, login="Me@example.com"),
    "one host": lambda one: of(one, host="other"),
    "host": lambda one: {"receiveAccounts": [of(one, host="other")]},
    "protocol": lambda one: {"receiveAccounts": [of(one, protocolType="IMAP")]},
    "login": lambda one: {"receiveAccounts": [of(one, login="Me@example.com")]},
    "twice": lambda one: {"receiveAccounts": [one, one, one]},
    "once": lambda one: {"receiveAccounts": [one]},
    "moved": lambda one: {"receiveAccounts": [], "sendAccount": one},
    "copied": lambda one: {"receiveAccounts": [one], "sendAccount": of(one, host="smtp", protocolType="SMTP")},
}
"""What a client makes of an account that it has read."""


@pytest.mark.parametrize("sends_all", [True, False], ids=["sends all", "drops unknown"])
@pytest.mark.parametrize("over", [store_over, sealed_over], ids=["plain", "sealed"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_spent_token_is_known_wherever_it_is_sent(
    change: Callable[[dict[str, Any]], dict[str, Any]], over: Callable[..., AccountStore], sends_all: bool
) -> None:
    """A client has read an account before its token was exchanged, and saves it as another one, twice, or in another
    place: the good token stands in each, with what it grants. One that is new stays as it is sent.
    """
    provider, store = Provider(), over({"main": MemoryBackend()})
    is_multi = "receiveAccounts" in change(OAUTH)
    path, name = (MULTI, "a.multi.account") if is_multi else (BASE, "a.account")
    async with serving(store, refresh=provider) as http:
        await http.put(path, json=request_of({"receiveAccounts": [OAUTH, OAUTH]} if is_multi else OAUTH, name))
        got = (await http.get(path, params={"fileName": name})).json()
        one = got["receiveAccounts"][0] if is_multi else got
        await expire(store, name)
        await http.get(path, params={"fileName": name})
        if not sends_all:
            del one["credentials"]["accessToken"], one["credentials"]["expiresAt"]
        new = of(OAUTH, refreshToken="new")
        for sent, tokens in ((one, {("rt-2", "at-2")}), (new, {("new", None)})):
            assert (await http.put(path, json=request_of(change(sent), name))).status_code == 200
            found = credentials_in(json.loads((await store.read_json(Location(name))).document))
            assert {(each["refreshToken"], each.get("accessToken")) for each in found} == tokens
    assert provider.calls == ["refreshToken", "rt-1"]


async def test_an_access_token_stays_with_its_client_id(store: AccountStore) -> None:
    """Who sends a spent refresh token with another client's id gets the good one, and no access token, its own neither:
    none was granted to that client.
    """
    async with serving(store, refresh=Provider()) as http:
        await http.put(BASE, json=request_of(OAUTH))
        await http.get(BASE, params=AT)
        await http.put(BASE, json=request_of(of(OAUTH, clientId="other", accessToken="at")))
    credentials = json.loads((await store.read_json(Location("a.account"))).document)["credentials"]
    assert (credentials["refreshToken"], credentials.get("accessToken")) == ("rt-1", None)


@pytest.mark.parametrize("name", ["a.account", "a.multi.account"])
@pytest.mark.parametrize("form", ["save", "PascalCase", "file"])
async def test_who_has_a_lease_is_not_for_a_client_to_say(store: AccountStore, form: str, name: str) -> None:
    """Whatever a body says of leases, those of the stored document stand, and where none are stored, none are: else a
    client could keep all others waiting, or let two exchange one token.
    """
    value, path = (OAUTH, BASE) if name == "a.account" else ({"receiveAccounts": [OAUTH]}, MULTI)
    key = key_of(Secret("refreshToken"))
    forged, stored = ({key: {"holder": holder, "seconds": 3600}} for holder in ("x", "y"))
    async with serving(store) as http:

        async def leases_after(said: dict[str, Any]) -> Any:
            body: dict[str, Any] = {**value, **said}
            if form == "PascalCase":
                body = {key[0].upper() + key[1:]: field for key, field in body.items()}
            if form == "file":
                answer = await http.put(f"{STORAGE}/file/{name}", json=body)
            else:
                answer = await http.put(path, json=request_of(body, name))
            assert answer.status_code == 200
            return json.loads((await store.read_json(Location(name))).document).get(FIELD)

        bodies: list[dict[str, Any]] = [{FIELD: forged}, {FIELD: {}}, {FIELD: None}, {}]
        for said in bodies:
            assert await leases_after(said) is None
        await store.save_json(Location(name), json.dumps({**value, FIELD: stored}).encode())
        for said in bodies:
            assert await leases_after(said) == stored


async def test_a_file_that_is_saved_around_an_exchange_brings_no_spent_token_back(store: AccountStore) -> None:
    """A client that has downloaded the file whole saves it twice, after its token was exchanged: the good one stays."""
    async with serving(store, refresh=Provider()) as http:
        await http.put(BASE, json=request_of(OAUTH))
        await http.get(BASE, params=AT)
        downloaded = (await http.get(f"{STORAGE}/file/a.account")).json()
        await expire(store)
        await http.get(BASE, params=AT)
        for host in ("one", "two"):
            await http.put(BASE, json=request_of({**downloaded, "host": host}))
            got = (await http.get(BASE, params=AT)).json()
            assert (got["host"], got["credentials"]["refreshToken"]) == (host, "rt-2")


@pytest.mark.parametrize("error", [UnsupportedError("zQ7k"), DeniedError("zQ7k")], ids=["no conditions", "no writes"])
async def test_where_new_tokens_are_not_taken_it_is_told(
    error: AccountStoreError, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a storage is found to refuse them when the first is written, a get answers that and no expired token, and
    the log names document and cause; nobody is asked.
    """
    backend, provider = Recording(None, [Fault("write", number, error=error) for number in (1, 2)]), Provider()
    await backend.put(Location("a.account"), json.dumps(OAUTH).encode())
    await backend.put(Location("a.multi.account"), json.dumps({"receiveAccounts": [OAUTH]}).encode())
    async with serving(store_over({"main": backend}), refresh=provider) as http:
        for path, name in ((BASE, "a.account"), (MULTI, "a.multi.account")):
            answer = await http.get(path, params={"fileName": name})
            assert told(answer) == (502, "notRefreshed")
            assert "zQ7k" not in answer.text
            assert f"{name}: the tokens were not refreshed: zQ7k ({type(error).__name__})" in caplog.messages[-1]
    assert not provider.calls


class Ahead(MemoryBackend):
    """Dates documents by a clock that is ten minutes ahead of this machine's."""

    async def read(self, key: str, /, *, limit: int) -> Blob:
        blob = await super().read(key, limit=limit)
        return Blob(blob.data, _ahead(blob.stat))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return _ahead(await super().write(key, data, mode=mode, write_token=write_token))


def _ahead(stat: Stat) -> Stat:
    assert stat.modified is not None
    return replace(stat, modified=stat.modified + timedelta(minutes=10))


@pytest.mark.parametrize(("kind", "token"), [(Ahead, "at-1"), (MemoryBackend, "old")], ids=["ahead", "control"])
async def test_a_token_has_expired_when_the_storages_clock_says_so(kind: type[MemoryBackend], token: str) -> None:
    """Of a machine whose clock is behind that of the storage, as `refresh` judges: one with five minutes left there."""
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    store = store_over({"main": kind()})
    await store.save_json(Location("a.account"), json.dumps(of(OAUTH, accessToken="old", expiresAt=soon)).encode())
    async with serving(store, refresh=Provider()) as http:
        assert (await http.get(BASE, params=AT)).json()["credentials"]["accessToken"] == token


@pytest.fixture
def endpoint() -> Exchange:
    """An exchange at a provider's endpoint."""
    pytest.importorskip("httpx2")
    from accountstore.oauth import TokenEndpoint

    return TokenEndpoint("https://provider.example/token")


async def test_an_account_of_another_provider_is_named(
    store: AccountStore, endpoint: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose `requestUrl` is of another host than the gateway's provider is told that, and so is the log: nobody has
    refused anything. Neither names a host or a token.
    """
    other = of(OAUTH, requestUrl="https://zQ7k.example/token")
    async with serving(store, refresh=endpoint) as http:
        for path, name, value in ((BASE, "a.account", other), (MULTI, "a.multi.account", {"receiveAccounts": [other]})):
            await http.put(path, json=request_of(value, name))
            answer = await http.get(path, params={"fileName": name})
            assert told(answer) == (502, "notRefreshed")
            (line,) = [line for line in caplog.messages if f"{name}: the tokens were not refreshed" in line]
            for text in (answer.text, line):
                assert "credentials.requestUrl: names another host than the endpoint" in text
                assert "refused" not in text
                assert "zQ7k" not in text


async def test_without_it_nobody_is_asked(store: AccountStore) -> None:
    """Control: by default a get returns what is stored."""
    async with serving(store) as http:
        await http.put(BASE, json=request_of(OAUTH))
        assert (await http.get(BASE, params=AT)).json() == OAUTH


async def test_what_cannot_be_saved_is_not_refreshed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From a read-only storage a get returns what is stored, of one account or several, and asks nobody; which is told
    at the start of that storage alone, and only where tokens are refreshed at all.
    """
    (tmp_path / "a.account").write_text(json.dumps(OAUTH))
    (tmp_path / "a.multi.account").write_text(json.dumps({"receiveAccounts": [OAUTH]}))
    provider = Provider()
    storages = {"main": StorageConfig(str(tmp_path), read_only=True), "other": StorageConfig("memory://")}
    config = StoreConfig(storages=storages, default="main")
    async with AccountStore.open(config) as store, serving(store):
        assert not caplog.messages
    async with AccountStore.open(config) as store, serving(store, refresh=provider) as http:
        (warning,) = caplog.messages
        assert warning.startswith("the storage 'main' takes no conditional writes: its OAuth tokens are not refreshed")
        assert (await http.get(BASE, params=AT)).json() == OAUTH
        multi = await http.get(MULTI, params={"fileName": "a.multi.account"})
        assert multi.json()["receiveAccounts"] == [OAUTH]
    assert not provider.calls


@pytest.mark.parametrize(
    ("failure", "status"),
    [(RefusedError("invalid_grant"), 502), (NoAnswerError("zQ7k"), 504), (ExchangeError("zQ7k"), 502)],
    ids=["refused", "no answer", "other"],
)
async def test_a_failed_refresh_is_told(
    store: AccountStore, failure: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather than an expired token, a get answers that it was not refreshed, and nothing of the provider's text; the
    log names the document.
    """
    async with serving(store, refresh=Provider(failure)) as http:
        await http.put(BASE, json=request_of(OAUTH))
        answer = await http.get(BASE, params=AT)
    assert told(answer) == (status, "notRefreshed")
    assert "zQ7k" not in answer.text + caplog.text
    assert "a.account: the tokens were not refreshed: the " in caplog.text


class Panicked(BaseException):
    """As a library in another language raises."""


async def test_what_is_no_exception_fails_its_own_request_alone(store: AccountStore) -> None:
    """It comes out of the request that refreshed; the gateway goes on."""
    provider = Provider(Panicked())
    async with serving(store, refresh=provider) as http:
        await http.put(BASE, json=request_of(OAUTH))
        with pytest.raises(Panicked):
            await http.get(BASE, params=AT)
        provider.failure = None
        assert (await http.get(BASE, params=AT)).status_code == 200
        assert (await http.get("/health/live")).status_code == 200


@pytest.mark.parametrize("closes", [False, True], ids=["goes on", "closes"])
async def test_a_get_does_not_wait_for_an_exchange_beyond_its_time(closes: bool) -> None:
    """Whoever exchanges, for one account or several, and whoever waits for that: each get is told in time that the
    tokens were not refreshed. An exchange that has begun goes on, also while the gateway closes, and what it brings is
    saved.
    """
    ends, called = anyio.Event(), list[str]()

    async def hang(credentials: OAuthCredentials, /) -> TokenGrant:
        called.append(credentials.refresh_token.reveal())
        await ends.wait()
        return TokenGrant(access_token="at", expires_in=3600, refresh_token=f"{credentials.refresh_token.reveal()}-2")

    async def end() -> None:
        await anyio.sleep(0.05)
        ends.set()

    store = store_over({"main": MemoryBackend()})
    multi = {"receiveAccounts": [OAUTH, of(OAUTH, refreshToken="other")]}
    asked = ((BASE, "a.account", OAUTH), (MULTI, "a.multi.account", multi))
    async with (
        anyio.create_task_group() as ending,
        serving(store, configured(limits=Limits(request_seconds=3)), refresh=hang) as http,
    ):

        async def get(path: str, name: str) -> None:
            assert told(await http.get(path, params={"fileName": name})) == (504, "notRefreshed")
            assert not ends.is_set()

        async with anyio.create_task_group() as gets:
            for path, name, value in asked:
                await http.put(path, json=request_of(value, name))
                gets.start_soon(get, path, name)
                gets.start_soon(get, path, name)
        ending.start_soon(end)
        for path, name, _ in () if closes else asked:
            assert (await http.get(path, params={"fileName": name})).status_code == 200
    assert called == ["refreshToken"] * 2 + ["other"] * (not closes)
    for _, name, _ in asked:
        found = credentials_in(json.loads((await store.read_json(Location(name))).document))
        assert found[0]["accessToken"] == "at"
