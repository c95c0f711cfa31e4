"""`refresh` and `refresh_multi`: what they return, what each failure is, how often they ask, what events tell."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import msgspec
import pytest
from cancelling import stray
from doubles import Recording, raises
from msgspec.structs import replace
from providers import SmallProvider
from samples import ACCOUNT, FULL

from accountstore import (
    Account,
    AccountStore,
    Event,
    ExchangeError,
    ExtensionError,
    LeaseError,
    Location,
    MultiAccount,
    NoAnswerError,
    NoOAuthError,
    NotFoundError,
    OAuthCredentials,
    RefusedError,
    Secret,
    TokenGrant,
    UnavailableError,
    UnsupportedError,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.lease import FIELD, key_of
from accountstore.testing import Fault, store_over

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.anyio

AT = Location("me.account", folder="mail")
MULTI_AT = Location("me.multi.account", folder="mail")
SOON = datetime(2031, 5, 6, tzinfo=UTC)


def tokens(account: Account, /) -> tuple[str, str | None]:
    """The refresh and the access token of an account."""
    credentials = account.credentials
    assert isinstance(credentials, OAuthCredentials)
    access = credentials.access_token
    return credentials.refresh_token.reveal(), None if access is None else access.reveal()


async def leases(store: AccountStore, location: Location = AT, /) -> dict[str, Any]:
    """What a document says of its leases."""
    return dict(msgspec.json.decode((await store.read_json(location)).document).get(FIELD, {}))


def lease_of(token: str, /, **entry: object) -> dict[str, Any]:
    """What it says of one."""
    return {key_of(Secret(token)): entry}


async def put(store: AccountStore, account: Account, field: object = None, /) -> None:
    """Save an account with a field for its leases."""
    tree = msgspec.json.decode(msgspec.json.encode(account, enc_hook=Secret.reveal))
    await store.save_json(AT, msgspec.json.encode(tree if field is None else tree | {FIELD: field}))


async def edit(store: AccountStore, change: Callable[[OAuthCredentials], OAuthCredentials], /) -> None:
    """Change the credentials."""

    def changed(account: Account) -> Account:
        assert isinstance(account.credentials, OAuthCredentials)
        return replace(account, credentials=change(account.credentials))

    await store.update(AT, changed)


def expired(credentials: OAuthCredentials, /) -> OAuthCredentials:
    """The same, an hour too old."""
    return replace(credentials, expires_at=datetime.now(UTC) - timedelta(hours=1))


async def never(credentials: OAuthCredentials, /) -> TokenGrant:
    raise AssertionError("it was asked")


# --- what it returns -------------------------------------------------------------------------------------------------


async def test_it_brings_a_valid_token_and_keeps_it(store: AccountStore) -> None:
    """The result has the new tokens and their expiry, the document too, with the token before and without a lease; a
    second call asks nobody. What else the document has stays.
    """
    provider = SmallProvider()
    await put(store, replace(provider.account(), port=1143))
    before = datetime.now(UTC)
    stored = await store.refresh(AT, provider.exchange)
    credentials = stored.document.credentials
    assert isinstance(credentials, OAuthCredentials)
    assert (tokens(stored.document), stored.document.port) == (("R1", "A1"), 1143)
    assert credentials.expires_at is not None
    assert before < credentials.expires_at - timedelta(hours=1) < datetime.now(UTC)
    assert await store.read(AT) == stored
    assert await leases(store) == lease_of("R1", previous="R0")
    assert await store.refresh(AT, never) == stored
    assert provider.exchanges == 1


async def test_each_expiry_has_one_exchange(store: AccountStore) -> None:
    """Again and again: the newest refresh token is spent, and one token before it is kept."""
    provider = SmallProvider()
    await store.save(AT, provider.account())
    for number in range(1, 5):
        assert tokens((await store.refresh(AT, provider.exchange)).document) == (f"R{number}", f"A{number}")
        assert await leases(store) == lease_of(f"R{number}", previous=f"R{number - 1}")
        await edit(store, expired)
    assert (provider.exchanges, provider.refusals) == (4, 0)


async def test_a_provider_that_does_not_rotate(store: AccountStore) -> None:
    """Where no new refresh token is granted the old one stays, and nothing is left of the lease."""
    provider = SmallProvider(rotates=False)
    await store.save(AT, provider.account())
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R0", "A1")
    assert await leases(store) == {}
    await edit(store, expired)
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R0", "A2")


@pytest.mark.parametrize(("left", "exchanges"), [(3600, 0), (61, 0), (59, 1), (-1, 1), (None, 1)])
async def test_the_leeway_decides(store: AccountStore, left: float | None, exchanges: int) -> None:
    """A token that lasts for less than `leeway`, or whose end nobody knows, is renewed; any other is not."""
    provider = SmallProvider()
    expires_at = None if left is None else datetime.now(UTC) + timedelta(seconds=left)
    credentials = OAuthCredentials(login="me", refresh_token="R0", access_token="A0", expires_at=expires_at)
    await store.save(AT, replace(provider.account(), credentials=credentials))
    await store.refresh(AT, provider.exchange, leeway=60)
    assert provider.exchanges == exchanges


async def test_a_token_that_lasts_for_less_than_the_leeway_is_good_once(store: AccountStore) -> None:
    """A provider whose tokens are shorter than `leeway` is asked once a call, not for ever."""
    provider = SmallProvider(lifetime=30)
    await store.save(AT, provider.account())
    for number in (1, 2):
        assert tokens((await store.refresh(AT, provider.exchange, leeway=60)).document) == (f"R{number}", f"A{number}")


async def test_tasks_of_a_process_share_one_attempt(store: AccountStore) -> None:
    """A hundred tasks, some through a narrowed store: one exchange, one version for all."""
    provider = SmallProvider()
    await store.save(AT, provider.account())
    narrowed = store.scoped("mail")
    found: list[object] = []

    async def ask(number: int) -> None:
        one, at = (narrowed, Location("me.account")) if number % 2 else (store, AT)
        found.append((await one.refresh(at, provider.exchange)).version)

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(ask, number)
    assert (len(found), len({*found}), provider.exchanges) == (100, 1, 1)


async def test_several_stores_share_one_exchange() -> None:
    """As processes do, stores wait for whoever has the lease."""
    provider, memory = SmallProvider(), MemoryBackend()
    stores = [store_over({"m": memory}) for _ in range(8)]
    await stores[0].save(AT, provider.account())
    async with anyio.create_task_group() as group:
        for store in stores:
            group.start_soon(store.refresh, AT, provider.exchange)
    assert (provider.exchanges, provider.refusals) == (1, 0)


# --- several accounts ------------------------------------------------------------------------------------------------


def oauth(token: str, **more: Any) -> Account:
    """An account with a refresh token."""
    return replace(ACCOUNT, credentials=OAuthCredentials(login="me", refresh_token=token, **more))


async def test_a_multi_account_has_one_exchange_for_each_refresh_token(store: AccountStore) -> None:
    """Accounts with one refresh token get the same new tokens of one exchange; a valid one and a password stay."""
    valid = oauth("V", access_token="AV", expires_at=datetime.now(UTC) + timedelta(hours=1))
    await store.save_multi(
        MULTI_AT, MultiAccount(receive_accounts=[oauth("S"), FULL, oauth("T"), valid], send_account=oauth("S"))
    )
    asked: list[str] = []

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        asked.append(credentials.refresh_token.reveal())
        return TokenGrant(access_token=f"A{asked[-1]}", refresh_token=f"{asked[-1]}1", expires_in=3600)

    document = (await store.refresh_multi(MULTI_AT, exchange)).document
    assert asked == ["S", "T"]
    assert document.send_account is not None
    first, full, second, unchanged = document.receive_accounts
    assert [tokens(one) for one in (first, second, document.send_account)] == [
        ("S1", "AS"),
        ("T1", "AT"),
        ("S1", "AS"),
    ]
    assert (full, unchanged) == (FULL, valid)
    assert await leases(store, MULTI_AT) == lease_of("S1", previous="S") | lease_of("T1", previous="T")


async def test_one_refused_account_does_not_keep_the_others_from_being_refreshed(store: AccountStore) -> None:
    """All accounts are tried before the first error is raised, which says where it was."""
    await store.save_multi(MULTI_AT, MultiAccount(receive_accounts=[oauth("S"), oauth("T")]))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        if credentials.refresh_token.reveal() == "S":
            raise RefusedError("spent", code="invalid_grant")
        return TokenGrant(access_token="AT", refresh_token="T1", expires_in=3600)

    with raises(RefusedError, match=r": \$\.receiveAccounts\[0\]", code="invalid_grant", location=MULTI_AT):
        await store.refresh_multi(MULTI_AT, exchange)
    assert [tokens(one) for one in (await store.get_multi(MULTI_AT)).receive_accounts] == [("S", None), ("T1", "AT")]
    assert await leases(store, MULTI_AT) == lease_of("T1", previous="T")


# --- each failure ----------------------------------------------------------------------------------------------------


async def test_what_cannot_be_refreshed(store: AccountStore) -> None:
    """No OAuth credentials, no document, another kind of document: typed errors, and nobody is asked."""
    await store.save(AT, ACCOUNT)
    await store.save_multi(MULTI_AT, MultiAccount(receive_accounts=[FULL]))
    with raises(NoOAuthError, location=AT):
        await store.refresh(AT, never)
    with raises(NoOAuthError, location=MULTI_AT):
        await store.refresh_multi(MULTI_AT, never)
    with raises(NotFoundError):
        await store.refresh(Location("none.account"), never)
    with raises(ExtensionError):
        await store.refresh(MULTI_AT, never)


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ({"leeway": -1}, ValueError),
        ({"lease": 0}, ValueError),
        ({"lease": 3601}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        *(({name: 10**400}, ValueError) for name in ("leeway", "lease", "timeout")),
        *(({name: float("inf")}, ValueError) for name in ("leeway", "lease", "timeout")),
        ({"timeout": "1"}, TypeError),
        ({"lease": True}, TypeError),
    ],
)
async def test_terms_are_positive_numbers_of_seconds(
    store: AccountStore, terms: dict[str, Any], kind: type[Exception]
) -> None:
    """What is none is refused before anything is read; so is the lease of a copy."""
    with pytest.raises(kind, match=next(iter(terms))):
        await store.refresh(AT, never, **terms)
    if "lease" in terms:
        await store.save(AT, ACCOUNT)
        pair = AT, replace(AT, file_name="other.account")
        for copy in (lambda: store.copy(*pair, **terms), lambda: anext(store.copy_many([pair], **terms))):
            with pytest.raises(kind, match="lease"):
                await copy()


async def test_a_storage_without_compare_and_swap_is_refused() -> None:
    """Without the condition there is no lease: nothing is read, and nobody is asked."""
    backend = Recording(update=False)
    store = store_over({"m": backend})
    await store.save(AT, oauth("R0"))
    backend.log.clear()
    with raises(UnsupportedError, location=AT):
        await store.refresh(AT, never)
    assert backend.log == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("invalid_grant", r"\(invalid_grant\): the user must sign in again"),
        ("invalid_client", r"\(invalid_client\): look at the client's id and its secret"),
        ("interaction_required canary", r"\(other\)"),
    ],
)
async def test_a_refusal(store: AccountStore, code: str, advice: str) -> None:
    """The provider's refusal is raised with its code, if it is one of the RFC's, and says what to do, where that is
    known; the document is free and the same.
    """
    await store.save(AT, oauth("R0"))

    async def refuse(credentials: OAuthCredentials) -> TokenGrant:
        raise RefusedError("canary", code=code)

    with raises(RefusedError, location=AT, code=code if "canary" not in code else "other") as caught:
        await store.refresh(AT, refuse)
    assert "canary" not in str(caught.value)
    assert re.search(f"{advice}$", caught.value.message)
    assert isinstance(caught.value, PermissionError)
    assert not caught.value.temporary
    assert (tokens(await store.get(AT)), await leases(store)) == (("R0", None), {})


async def test_a_refused_exchange_adopts_a_newer_token(store: AccountStore) -> None:
    """Who is refused looks again, and returns what somebody else has stored meanwhile: it is not cleared."""
    await store.save(AT, oauth("R0"))

    async def refuse(credentials: OAuthCredentials) -> TokenGrant:
        await edit(
            store,
            lambda old: replace(
                old, refresh_token=Secret("N1"), access_token=Secret("NA"), expires_at=datetime.now(UTC) + timedelta(1)
            ),
        )
        raise RefusedError("spent", code="invalid_grant")

    assert tokens((await store.refresh(AT, refuse)).document) == ("N1", "NA")
    assert tokens(await store.get(AT)) == ("N1", "NA")
    assert await leases(store) == {} or all("holder" not in entry for entry in (await leases(store)).values())


async def test_the_token_before_is_tried_when_the_newest_is_refused(store: AccountStore) -> None:
    """A provider that has lost the newest token, and still takes the one before it: that brings another."""
    provider = SmallProvider(grace=True)
    await put(store, oauth("lost"), lease_of("lost", previous="R0"))
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")
    assert (provider.exchanges, provider.refusals) == (1, 1)
    assert await leases(store) == lease_of("R1", previous="lost")


async def test_both_tokens_refused(store: AccountStore) -> None:
    """Where the one before is refused too, the refusal is raised, and both stay."""
    provider = SmallProvider()
    await put(store, oauth("lost"), lease_of("lost", previous="older"))
    with raises(RefusedError):
        await store.refresh(AT, provider.exchange)
    assert provider.refusals == 2
    assert await leases(store) == lease_of("lost", previous="older")


@pytest.mark.parametrize("kind", [NoAnswerError, ConnectionResetError, TimeoutError])
async def test_after_a_lost_answer_the_same_token_is_tried_once_more(
    store: AccountStore, kind: type[Exception], pauses: list[float]
) -> None:
    """The second try succeeds within a few seconds; a third there is not."""
    await store.save(AT, oauth("R0"))
    asked: list[str] = []

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        asked.append(credentials.refresh_token.reveal())
        if len(asked) == 1:
            raise kind("canary")
        return TokenGrant(access_token="A", expires_in=3600)

    assert tokens((await store.refresh(AT, exchange)).document) == ("R0", "A")
    assert asked == ["R0", "R0"]
    assert 0 < sum(pauses) < 5

    async def lose(credentials: OAuthCredentials) -> TokenGrant:
        asked.append(credentials.refresh_token.reveal())
        raise kind("canary")

    await edit(store, expired)
    asked.clear()
    with raises(NoAnswerError, location=AT, temporary=True) as caught:
        await store.refresh(AT, lose)
    assert asked == ["R0", "R0"]
    assert "canary" not in str(caught.value)
    assert await leases(store) == {}


class MineError(NoAnswerError):
    """An error of a caller's own, which quotes what a provider says."""

    def __init__(self, status: int, body: str) -> None:  # as no error of ours is made
        ExchangeError.__init__(self, f"{status}: {body}")
        self.body = body


def fail(error: BaseException, /) -> NoReturn:
    raise error


FAULTS: list[tuple[Callable[[str], Any], str]] = [
    (lambda _: 1 / 0, "raised ZeroDivisionError"),
    (lambda _: TokenGrant(access_token="", expires_in=1), "raised ValueError"),
    (lambda _: TokenGrant(access_token="A\ud800", expires_in=1), "raised ValueError"),
    (lambda _: TokenGrant(access_token="A", expires_in=10**400), "raised ValueError"),
    (lambda _: "A1", "returned no TokenGrant"),
    (lambda _: stray(), "raised Cancelled"),
    (lambda token: fail(ExchangeError(token)), "raised ExchangeError"),
    (lambda token: fail(MineError(418, token)), "raised MineError"),
    (lambda token: fail(RefusedError(token, code=token)), r"refused the exchange \(other\)"),
]
"""What an exchange does with a token, and what is said of it."""


@pytest.mark.parametrize(("fault", "message"), FAULTS)
async def test_an_exchange_that_fails(
    store: AccountStore, pauses: list[float], fault: Callable[[str], Any], message: str
) -> None:
    """Whatever a caller's function raises or returns instead of a grant is an `ExchangeError`; the lease is free.
    Nothing of the error is kept that could show a token.
    """
    await store.save(AT, oauth("canary"))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        outcome = fault(credentials.refresh_token.reveal())
        return await outcome if isawaitable(outcome) else outcome  # type: ignore[no-any-return]

    with raises(ExchangeError, match=message, location=AT) as caught:
        await store.refresh(AT, exchange)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "canary" not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert type(caught.value) in {ExchangeError, NoAnswerError, RefusedError}
    assert (tokens(await store.get(AT)), await leases(store)) == (("canary", None), {})


async def test_what_is_no_exception_goes_on_and_keeps_no_lease(store: AccountStore) -> None:
    """Such as an interrupt: it comes out of the call as it is."""

    class Interrupt(BaseException):
        pass

    await store.save(AT, oauth("R0"))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        raise Interrupt

    with pytest.raises(Interrupt):
        await store.refresh(AT, exchange)
    assert (tokens(await store.get(AT)), await leases(store)) == (("R0", None), {})


async def test_an_exchange_that_never_returns(store: AccountStore) -> None:
    """It is given up within its lease, which is free then."""
    await store.save(AT, oauth("R0"))

    async def hang(credentials: OAuthCredentials) -> TokenGrant:
        await anyio.sleep_forever()
        raise AssertionError("it was woken")

    with raises(NoAnswerError, match="did not end within its lease"):
        await store.refresh(AT, hang, lease=0.2)
    assert await leases(store) == {}


async def test_a_lease_of_another_is_waited_for_and_then_taken_over(store: AccountStore) -> None:
    """A holder that is gone keeps others waiting for the lease's length, and no longer; events tell of it."""
    provider = SmallProvider()
    await put(store, provider.account(), lease_of("R0", holder="gone", seconds=0.2))
    started = anyio.current_time()
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")
    assert anyio.current_time() - started >= 0.2


async def test_the_wait_for_others_is_bounded(store: AccountStore) -> None:
    """Whoever has waited for `timeout` seconds is told so, may call again, and has changed nothing."""
    await put(store, oauth("R0"), lease_of("R0", holder="another", seconds=3600))
    before = await store.read(AT)
    with raises(LeaseError, location=AT, temporary=True):
        await store.refresh(AT, never, timeout=0.2)
    assert await store.read(AT) == before


@pytest.mark.parametrize("field", [5, [], {"x": 1}, {"x": {"holder": 1}}, {"x": {"holder": "h", "seconds": "s"}}, None])
async def test_a_field_that_is_not_ours_is_no_lease(store: AccountStore, field: object) -> None:
    """Whatever stands in the field, there is a lease or there is none."""
    provider = SmallProvider()
    await put(store, provider.account(), field)
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")
    assert await leases(store) == lease_of("R1", previous="R0")


async def test_an_edit_of_the_expiry_meanwhile_does_not_lose_the_tokens(store: AccountStore) -> None:
    """Somebody declares the token expired while it is exchanged: the new tokens are stored all the same."""
    provider = SmallProvider()
    await store.save(AT, provider.account())

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await edit(store, expired)
        return provider.spend(credentials)

    assert tokens((await store.refresh(AT, exchange)).document) == ("R1", "A1")
    assert tokens(await store.get(AT)) == ("R1", "A1")


async def test_an_access_token_that_is_dropped_meanwhile_is_replaced(store: AccountStore) -> None:
    """Somebody drops the access token during the exchange, at a provider that does not rotate: what was granted is
    stored, in one exchange, and nothing is left of the lease.
    """
    provider = SmallProvider(rotates=False)
    await store.save(AT, provider.account())
    await edit(store, lambda now: replace(now, access_token="A0"))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await edit(store, lambda now: replace(now, access_token=None))
        return provider.spend(credentials)

    assert tokens((await store.refresh(AT, exchange)).document) == ("R0", "A1")
    assert (tokens(await store.get(AT)), provider.exchanges) == (("R0", "A1"), 1)
    assert await leases(store) == {}


async def test_a_better_access_token_meanwhile_survives(store: AccountStore) -> None:
    """Somebody stores another that lasts, with the same refresh token: it stays, and nothing is left of the lease."""
    provider = SmallProvider(rotates=False)
    await store.save(AT, provider.account())
    later = datetime.now(UTC) + timedelta(hours=1)

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await edit(store, lambda now: replace(now, access_token="theirs", expires_at=later))
        return provider.spend(credentials)

    assert tokens((await store.refresh(AT, exchange)).document) == ("R0", "theirs")
    assert await leases(store) == {}


async def test_an_edit_meanwhile_survives(store: AccountStore) -> None:
    """Somebody changes the host during the exchange: both are there afterwards."""
    provider = SmallProvider()
    await store.save(AT, provider.account())

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await store.update(AT, lambda account: replace(account, host="new.example.org"))
        return provider.spend(credentials)

    document = (await store.refresh(AT, exchange)).document
    assert (document.host, tokens(document)) == ("new.example.org", ("R1", "A1"))
    assert await store.get(AT) == document


@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
async def test_a_save_by_version_meanwhile_keeps_the_lease(store: AccountStore, multi: bool) -> None:
    """Somebody who has read the document while a token is exchanged, and writes it by its version, once and again, does
    not let another exchange the same token at the same time.
    """
    provider = SmallProvider()
    account = provider.account()
    await (store.save_multi(MULTI_AT, MultiAccount(receive_accounts=[account])) if multi else store.save(AT, account))
    begun, saved = anyio.Event(), anyio.Event()

    async def slow(credentials: OAuthCredentials) -> TokenGrant:
        grant = provider.spend(credentials)
        begun.set()
        await saved.wait()
        await anyio.sleep(0.05)
        return grant

    async def refresh() -> None:
        await (store.refresh_multi(MULTI_AT, slow) if multi else store.refresh(AT, slow))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refresh)
        await begun.wait()
        if multi:
            read = await store.read_multi(MULTI_AT)
            saving = replace(read.document, send_account=ACCOUNT)
            version = await store.save_multi(MULTI_AT, saving, mode=read.version)
            await store.save_multi(MULTI_AT, saving, mode=version)
        else:
            one = await store.read(AT)
            version = await store.save(AT, replace(one.document, port=2), mode=one.version)
            await store.save(AT, replace(one.document, port=1), mode=version)
        assert len(await leases(store, MULTI_AT if multi else AT)) == 1
        saved.set()
    found = (await store.get_multi(MULTI_AT)).receive_accounts[0] if multi else await store.get(AT)
    assert (tokens(found), provider.refusals) == (("R1", "A1"), 0)
    assert found.port == (account.port if multi else 1)


async def test_another_login_meanwhile_survives(store: AccountStore) -> None:
    """Somebody signs in anew during the exchange: those tokens stay, and are returned."""
    provider = SmallProvider()
    await store.save(AT, provider.account())
    new = oauth("N0", access_token="NA", expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await store.save(AT, new)
        return provider.spend(credentials)

    assert (await store.refresh(AT, exchange)).document == new
    assert await store.get(AT) == new


async def test_a_document_that_is_deleted_meanwhile(store: AccountStore, pauses: list[float]) -> None:
    """It is not brought back."""
    await store.save(AT, oauth("R0"))

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await store.delete(AT)
        return TokenGrant(access_token="A", expires_in=3600)

    with raises(NotFoundError):
        await store.refresh(AT, exchange)
    assert not await store.exists(AT)


async def test_a_storage_that_fails_for_a_while_does_not_lose_the_tokens(pauses: list[float]) -> None:
    """The save of new tokens outlasts what makes an ordinary save fail."""
    provider = SmallProvider()
    faults = [Fault("write", nth, error=UnavailableError("busy")) for nth in range(3, 7)]
    store = store_over({"m": Recording(None, faults)})
    await store.save(AT, provider.account())
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")
    assert tokens(await store.get(AT)) == ("R1", "A1")


@pytest.mark.parametrize("nth", [2, 3])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_answer_of_the_storage_costs_no_exchange(nth: int, moment: Any) -> None:
    """Where the answer to the write of the lease or of the tokens is lost, the document tells what became of it."""
    provider = SmallProvider()
    fault = Fault("write", nth, moment, UnavailableError("lost"))
    store = store_over({"m": Recording(None, [fault])}, attempts=4)
    await store.save(AT, provider.account())
    assert tokens((await store.refresh(AT, provider.exchange)).document) == ("R1", "A1")
    assert (provider.exchanges, await leases(store)) == (1, lease_of("R1", previous="R0"))


# --- what it costs, and what is told ---------------------------------------------------------------------------------


@pytest.fixture
def counted() -> Recording:
    return Recording()


async def test_requests(counted: Recording) -> None:
    """A valid token costs one read, an uncontended refresh a read, a lease and a save."""
    provider = SmallProvider()
    store = store_over({"m": counted})
    await store.save(AT, provider.account())
    counted.log.clear()
    await store.refresh(AT, provider.exchange)
    assert counted.log == ["read", "write", "write"]
    counted.log.clear()
    await store.refresh(AT, never)
    assert counted.log == ["read"]


async def test_a_waiters_polls_are_bounded(counted: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lease of 30 seconds to its end reads some forty times, less and less often."""
    now = [0.0]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("accountstore.lease.elapsed", lambda: now[0])
    for module in ("leased", "refresh"):
        monkeypatch.setattr(f"accountstore.{module}.monotonic", lambda: now[0])
    provider = SmallProvider()
    store = store_over({"m": counted})
    await put(store, provider.account(), lease_of("R0", holder="gone", seconds=30))
    counted.log.clear()
    monkeypatch.setattr("anyio.sleep", sleep)
    await store.refresh(AT, provider.exchange)
    reads = counted.log.count("read")
    print(f"{reads} reads in {now[0]:.1f} s, pauses from {min(pauses):.3f} to {max(pauses):.3f} s")
    assert 30 <= now[0] <= 31
    assert 30 < reads < 70


async def test_events_tell_of_waits_exchanges_and_takeovers() -> None:
    """One event a call: polls, exchanges and take-overs of its own, none for a valid token."""
    events: list[Event] = []
    provider = SmallProvider()
    store = store_over({"m": MemoryBackend()}, observer=events.append)
    await put(store, provider.account(), lease_of("R0", holder="gone", seconds=0.3))
    await store.refresh(AT, provider.exchange)
    await store.refresh(AT, never)
    await edit(store, expired)
    await store.refresh(AT, provider.exchange)
    with raises(NotFoundError):
        await store.refresh(Location("none.account"), never)
    told = [(event.outcome, event.exchanges, event.takeovers) for event in events if event.operation == "refresh"]
    assert told == [("ok", 1, 1), ("ok", 0, 0), ("ok", 1, 0), ("NotFoundError", 0, 0)]
    polls = [event.polls for event in events if event.operation == "refresh"]
    assert polls[0] > 1
    assert polls[1:] == [0, 0, 0]
