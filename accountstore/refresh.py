"""One token exchange for each expiry, whoever asks: the lease around it, in the document itself.

The lease is taken by compare-and-swap before the exchange, and dropped by the compare-and-swap that stores the new
tokens. Others poll; who has seen one holder for the lease's length, by a clock of its own, takes it over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from copy import copy as copy_error
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from math import inf
from os import urandom
from random import uniform
from time import monotonic
from typing import Generic, TypeVar

import anyio
from msgspec.structs import replace

from accountstore.aio.shield import is_failure, run_uninterrupted
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    DecodeError,
    ExchangeError,
    LeaseError,
    NoAnswerError,
    NoOAuthError,
    NotFoundError,
    RefusedError,
    SealError,
    TooLargeError,
)
from accountstore.events import Operation
from accountstore.grant import Exchange, TokenGrant
from accountstore.lease import NO_LEASE, Flight, Lease, elapsed, key_of
from accountstore.leased import FIRST_POLL, Leased, Terms, oauth_in, remaining
from accountstore.model import Account, Document, MultiAccount, OAuthCredentials
from accountstore.retry import backoff
from accountstore.storage import DocumentRef, Opened, Stored

D = TypeVar("D", bound=Account | MultiAccount)

_FOR_THE_EXCHANGE = 0.75
"""The part of a lease that an exchange may take: the rest is for the save."""
_RETRY = 1.0
_SAVES = 5
"""How often a save of new tokens is tried at least, and how often where the document is gone."""
_MOST_SAVES = 100
_LONGEST_LIFETIME = 10 * 365 * 86_400
_ADVICE = {
    "invalid_grant": ": the user must sign in again",
    "invalid_client": ": look at the client's id and its secret",
}
_LAST = datetime.max.replace(tzinfo=UTC)


def _with_tokens(document: D, spent: OAuthCredentials, new: OAuthCredentials, /) -> D:
    """The document with new tokens wherever the spent refresh token stands."""
    if isinstance(document, MultiAccount):
        send = document.send_account
        receive = tuple(_with_tokens(account, spent, new) for account in document.receive_accounts)
        send = None if send is None else _with_tokens(send, spent, new)
        return replace(document, receive_accounts=receive, send_account=send)
    old = document.credentials
    if not isinstance(old, OAuthCredentials) or old.refresh_token != spent.refresh_token:
        return document
    tokens = {"access_token": new.access_token, "refresh_token": new.refresh_token, "expires_at": new.expires_at}
    return replace(document, credentials=replace(old, **tokens))


def _tokens(credentials: OAuthCredentials, /) -> tuple[object, ...]:
    return credentials.refresh_token, credentials.access_token, credentials.expires_at


async def refresh(
    operation: Operation, ref: DocumentRef, kind: type[D], exchange: Exchange, terms: Terms, /
) -> Stored[D]:
    """The document with a valid access token (`AccountStore.refresh`)."""
    if not ref.storage.client.capabilities.update:
        await ref.require("update")  # which says so, before any I/O
    return await _Refresh(operation, Leased(operation, ref, kind, terms), exchange, terms).run()


class _Refresh(Generic[D]):
    """One call of `refresh`."""

    def __init__(self, operation: Operation, leased: Leased[D], exchange: Exchange, terms: Terms, /) -> None:
        self.operation = operation
        self.leased = leased
        self.exchange = exchange
        self.terms = terms
        self.known: set[tuple[object, ...]] = set()
        """The tokens that the document had when this call began."""
        self.granted: set[tuple[object, ...]] = set()
        self.failed: dict[str, ExchangeError] = {}

    async def run(self) -> Stored[D]:
        """Read; while a token is due, wait for this process's turn and renew it, or take what another task brought."""
        opened = await self.leased.read()
        self.known = {_tokens(found) for found in oauth_in(opened.stored.document)}
        if not self.known:
            raise NoOAuthError("the document has no OAuth credentials", location=self.leased.ref.location)
        while self.due(opened.stored.document) is not None:
            async with self.turn() as (flight, outcome):
                if outcome is None:
                    return await self.lead(flight, opened)
            if isinstance(outcome, AccountStoreError):
                error = copy_error(outcome)
                error.location = self.leased.ref.location  # another scope may call it otherwise
                raise error
            if self.due(outcome.document) is None:
                return self.operation.record(outcome)
            opened = await self.leased.read()
        return opened.stored

    def remaining(self, credentials: OAuthCredentials, /) -> float:
        """How many seconds an access token has left."""
        return remaining(credentials, self.leased.clock)

    def due(self, document: D, /) -> OAuthCredentials | None:
        """The first credentials that must be renewed.

        A token that was granted since this call began is good while it lasts: another would last no longer.
        """
        for found in oauth_in(document):
            left = self.remaining(found)
            is_good = left > self.terms.leeway or (left > 0 and _tokens(found) not in self.known)
            if not is_good and _tokens(found) not in self.granted and key_of(found.refresh_token) not in self.failed:
                return found
        return None

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[tuple[Flight, Stored[D] | AccountStoreError | None]]:
        """This task's turn among those of the process that refresh the document, and what an attempt of another has
        brought while it waited.
        """
        key, flights = self.leased.ref.key, self.leased.ref.storage.flights
        flight = flights.setdefault(key, Flight())
        flight.askers += 1
        before = flight.attempts
        try:
            with anyio.move_on_after(self.leased.by - monotonic()) as limit:
                await flight.turn.acquire()
            if limit.cancelled_caught:
                raise LeaseError(
                    f"the lease was not free for {self.terms.timeout:g} s: call again",
                    location=self.leased.ref.location,
                )
            try:
                yield flight, flight.outcome if flight.attempts > before else None
            finally:
                flight.turn.release()
        finally:
            flight.askers -= 1
            if not flight.askers:
                flights.pop(key, None)

    async def lead(self, flight: Flight, opened: Opened[D], /) -> Stored[D]:
        """Renew all that is due, for this task and those that wait for their turn."""
        self.leased.flight = flight
        try:
            while (due := self.due(opened.stored.document)) is not None:
                try:
                    opened = await self.renew(opened, due)
                except ExchangeError as failure:
                    failure.message = _placed(failure.message, opened.stored.document, due)
                    self.failed[key_of(due.refresh_token)] = failure.with_traceback(None)
                    opened = await self.leased.read()
            for failed in self.failed.values():
                raise failed
        except LeaseError:
            raise  # by this call's own timeout
        except AccountStoreError as error:
            flight.outcome = copy_error(error)
            flight.attempts += 1
            raise
        flight.outcome = opened.stored
        flight.attempts += 1
        return opened.stored

    async def renew(self, opened: Opened[D], due: OAuthCredentials, /) -> Opened[D]:
        """The document with other tokens than these, of this call's own exchange or of another's."""
        while (found := _find(opened, due)) is not None:
            lease = self.leased.lease(opened, found)
            if self.leased.is_free(lease):
                await self.leased.ref.renewed().require("update")
                try:
                    renewed = await run_uninterrupted(self.exchange_under_lease, opened, found, lease)
                finally:
                    self.leased.flight.until = 0.0
                if renewed is not None:
                    return renewed
            await self.leased.pause()
            opened = await self.leased.read()
        return opened

    async def exchange_under_lease(self, opened: Opened[D], due: OAuthCredentials, lease: Lease, /) -> Opened[D] | None:
        """Take the lease, exchange, save; None: another has the lease. It ends whatever cancels the caller."""
        begun, leased = elapsed(), self.leased
        leased.flight.until = begun + self.terms.lease
        mine = replace(lease, holder=urandom(8).hex(), seconds=self.terms.lease)
        leases = {key_of(due.refresh_token): mine}
        if not leased.has_room(opened, due):
            leases = leased.without_previous(opened, leases)
        taken = await leased.swap(opened, opened.stored.document, leases)
        if taken is None:
            return None
        self.operation.takeovers += bool(lease.holder)
        try:
            leased.check_room(taken, due)
            await leased.look_at_the_clock(taken, begun)
            return await self.exchange_and_save(taken, due, mine, begun + self.terms.lease * _FOR_THE_EXCHANGE)
        except (ExchangeError, GeneratorExit):
            raise  # the lease is dropped; or nothing can be awaited any more
        except BaseException:
            with anyio.CancelScope(shield=True):
                await leased.release_all(taken, mine.holder)
            raise

    async def exchange_and_save(
        self, taken: Opened[D], due: OAuthCredentials, mine: Lease, by: float, /
    ) -> Opened[D] | None:
        """The document with what the exchange brings by a moment of `elapsed()`, or by its failure; without the lease.
        None: another has taken over.
        """
        leased = self.leased
        if self.remaining(due) > self.terms.leeway:  # this machine's clock had it for dead
            return await leased.release_all(taken, mine.holder) or await leased.read()
        if elapsed() >= by:  # it stood still meanwhile: another may be about to take over
            await leased.release_all(taken, mine.holder)
            return None
        asked_at = leased.clock.now()
        try:
            new = _renewed(due, await self.ask(due, by), asked_at)
        except ExchangeError as error:
            failure = error.with_traceback(None)
        else:
            return await self.save(taken, due, new, mine)
        return await self.recover(taken, due, mine, failure, by)

    async def ask(self, credentials: OAuthCredentials, by: float, /) -> TokenGrant:
        """What the exchange returns, by a moment of `elapsed()`; after a lost answer, what it returns the second time.

        Raises `ExchangeError`, without a frame or a text of the caller's, which may hold a token. Whatever is no
        `Exception` goes on as it is, but for a cancellation that nobody has asked for.
        """
        failure = ExchangeError("the exchange returned no TokenGrant")
        for pause in (uniform(_RETRY / 2, _RETRY), inf):  # noqa: S311 -- jitter
            self.operation.exchanges += 1
            with anyio.move_on_after(by - elapsed()) as limit:
                try:
                    grant: object = self.exchange(credentials)
                    if isawaitable(grant):  # what a plain function grants is not lost
                        grant = await grant
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    failure = _failure_of(error)
                else:
                    if isinstance(grant, TokenGrant):
                        return grant
            if limit.cancelled_caught:
                failure = NoAnswerError(f"the exchange did not end within its lease of {self.terms.lease:g} s")
            if not isinstance(failure, NoAnswerError) or elapsed() + pause >= by:
                break
            await anyio.sleep(pause)
        failure.location = self.leased.ref.location
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        raise failure

    async def recover(
        self, opened: Opened[D], due: OAuthCredentials, mine: Lease, failure: ExchangeError, by: float, /
    ) -> Opened[D] | None:
        """After a failed exchange: another's newer tokens; or None, where another has taken over and is at it; else
        what the previous refresh token brings, for which some providers have a grace period; else the lease is dropped,
        and the failure raised.
        """
        with suppress(BackendError):
            opened = await self.leased.read()
        is_theirs = _find(opened, due) is None
        if not is_theirs and self.leased.lease(opened, due).holder not in {"", mine.holder}:
            return None
        is_dead = isinstance(failure, RefusedError) and failure.code == "invalid_grant" and not is_theirs
        if is_dead and mine.previous is not None and elapsed() < by:
            earlier, asked_at = replace(due, refresh_token=mine.previous), self.leased.clock.now()
            with suppress(ExchangeError):
                new = _renewed(earlier, await self.ask(earlier, by), asked_at)
                return await self.save(opened, due, new, mine)
        released = await self.leased.release_all(opened, mine.holder)
        if is_theirs:
            return released or opened
        raise failure

    async def save(self, opened: Opened[D], due: OAuthCredentials, new: OAuthCredentials, mine: Lease, /) -> Opened[D]:
        """Put new tokens in the place of these, unless others stand there already, whatever else has changed.

        The spent refresh token is kept until the next success. A holder that was so late that another has taken over
        waits for it, and writes only where that has failed. What fails is tried again until the lease ends, as the
        tokens are nowhere else; where they make the document too large, spent tokens are left out, then the access
        token.
        """
        previous = due.refresh_token if new.refresh_token != due.refresh_token else mine.previous
        leases = {key_of(due.refresh_token): NO_LEASE, key_of(new.refresh_token): Lease(previous=previous)}
        attempt = 0
        too_large: TooLargeError | None = None
        while self.is_spent(opened, due, new):
            try:
                if self.leased.is_free(self.leased.lease(opened, due), holder=mine.holder):
                    document = _with_tokens(opened.stored.document, due, new)
                    if too_large is not None:
                        leases = self.leased.without_previous(opened, leases)
                    if (saved := await self.leased.swap(opened, document, leases)) is not None:
                        self.granted.add(_tokens(new))
                        if new.access_token is None and too_large is not None:
                            raise too_large
                        return saved
                else:
                    await anyio.sleep(FIRST_POLL)
                opened = await self.leased.read()
            except TooLargeError as error:
                if new.access_token is None:
                    raise
                new = new if too_large is None else replace(new, access_token=None, expires_at=None)
                too_large = error.with_traceback(None)
            except (BackendError, SealError, DecodeError) as error:
                attempt += 1
                is_late = elapsed() >= self.leased.flight.until or isinstance(error, NotFoundError)
                if attempt == _MOST_SAVES or (attempt >= _SAVES and is_late):
                    raise
                await backoff(attempt)
        return await self.leased.release_all(opened, mine.holder) or opened

    def is_spent(self, opened: Opened[D], due: OAuthCredentials, new: OAuthCredentials, /) -> bool:
        """Whether the document still has the refresh token that brought new ones; where that stays good, with the
        access token before, or with none that lasts. An edit of anything else does not make it newer.
        """
        for found in oauth_in(opened.stored.document):
            if found.refresh_token == due.refresh_token:
                is_old = found.access_token == due.access_token or self.remaining(found) <= self.terms.leeway
                return is_old or new.refresh_token != due.refresh_token
        return False


def _failure_of(error: BaseException, /) -> ExchangeError:
    """What is said of an error of the caller's exchange."""
    if isinstance(error, RefusedError):
        code = error.code if error.code in RefusedError.CODES else "other"
        return RefusedError(f"the provider refused the exchange ({code}){_ADVICE.get(code, '')}", code=code)
    if isinstance(error, ExchangeError) and error.in_own_words:
        return copy_error(error)
    text = f"the exchange raised {type(error).__name__}"
    if isinstance(error, NoAnswerError):
        return NoAnswerError(text, sent=error.sent)
    return NoAnswerError(text) if isinstance(error, (ConnectionError, TimeoutError)) else ExchangeError(text)


def _find(opened: Opened[D], credentials: OAuthCredentials, /) -> OAuthCredentials | None:
    """The credentials as the document has them, if with the same tokens."""
    tokens = _tokens(credentials)
    return next((found for found in oauth_in(opened.stored.document) if _tokens(found) == tokens), None)


def _placed(message: str, document: Document, credentials: OAuthCredentials, /) -> str:
    """An exchange's message, with the place of the credentials if there may be several."""
    if not isinstance(document, MultiAccount):
        return message
    several = enumerate(document.receive_accounts)
    received = [f"receiveAccounts[{place}]" for place, account in several if account.credentials == credentials]
    place = f"$.{[*received, 'sendAccount'][0]}.credentials"
    field = message.removeprefix("$.credentials.")
    return f"{place}: {message}" if field == message else f"{place}.{field}"


def _renewed(spent: OAuthCredentials, grant: TokenGrant, at: datetime, /) -> OAuthCredentials:
    """The credentials with what was granted for a request that began at this time."""
    return replace(
        spent,
        access_token=grant.access_token,
        refresh_token=grant.refresh_token or spent.refresh_token,
        expires_at=at + min(timedelta(seconds=min(grant.expires_in, _LONGEST_LIFETIME)), _LAST - at),
    )
