"""A document under its leases: read, swapped, and held still while something else is done with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from os import urandom
from random import uniform
from time import monotonic
from typing import Generic, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Version
from accountstore.errors import AccountStoreError, ConflictError, LeaseError, TooLargeError, UncertainError
from accountstore.events import Operation
from accountstore.lease import FIELD, LONGEST, NO_LEASE, Flight, Lease, StorageClock, field_of, key_of
from accountstore.model import Account, Document, MultiAccount, OAuthCredentials
from accountstore.storage import DocumentRef, Opened, Storage, Stored
from accountstore.validation import check_seconds

D = TypeVar("D", bound=Account | MultiAccount)

FIRST_POLL = 0.05
"""How soon, in seconds, the document is read again while another has the lease; later less often."""
_LONGEST_POLL = 1.0
_RELEASES = 64


class Terms(Struct, frozen=True):
    """How long, in seconds, a token must last, a lease may keep others waiting, and a call waits for others."""

    leeway: float
    lease: float
    timeout: float

    def __post_init__(self) -> None:
        check_seconds("leeway", self.leeway, or_zero=True)
        check_seconds("lease", self.lease, most=LONGEST)
        check_seconds("timeout", self.timeout, or_zero=True)


def oauth_in(document: Document, /) -> Iterator[OAuthCredentials]:
    """The OAuth credentials of a document; of several with one refresh token, those whose access token ends first."""
    first: dict[object, OAuthCredentials] = {}
    for account in _accounts(document):
        credentials = account.credentials
        if isinstance(credentials, OAuthCredentials):
            other = first.setdefault(credentials.refresh_token, credentials)
            if _end_of(credentials) < _end_of(other):
                first[credentials.refresh_token] = credentials
    yield from first.values()


def _end_of(credentials: OAuthCredentials, /) -> datetime:
    """When the access token ends: long ago, where there is none or nobody knows."""
    if credentials.access_token is None or credentials.expires_at is None:
        return datetime.min.replace(tzinfo=UTC)
    return credentials.expires_at


def remaining(credentials: OAuthCredentials, clock: StorageClock, /) -> float:
    """How many seconds an access token has left: none, where nobody knows."""
    if credentials.access_token is None or credentials.expires_at is None:
        return 0.0
    return (credentials.expires_at - clock.now()).total_seconds()


def is_due(clock: StorageClock, stored: Stored[Document], leeway: float, /) -> bool:
    """Whether a document that was just read has a token that `refresh` renews."""
    clock.has_read(stored.modified)
    return any(remaining(found, clock) <= leeway for found in oauth_in(stored.document))


def _accounts(document: Document, /) -> Iterator[Account]:
    if isinstance(document, Account):
        yield document
    else:
        yield from document.receive_accounts
        if document.send_account is not None:
            yield document.send_account


def leases_of(storage: Storage, opened: Opened[Document], /) -> dict[str, Lease]:
    """The leases of the refresh tokens that a document has, by the tokens' keys."""
    leases = storage.leases(opened.plain)
    keys = (key_of(found.refresh_token) for found in oauth_in(opened.stored.document))
    return {key: leases.get(key, NO_LEASE) for key in keys}


async def is_held(storage: Storage, opened: Opened[Document], /) -> bool:
    """Whether somebody is exchanging a refresh token of a document, whose copy will not have the new one. Takes a turn
    of the event loop where the document is large.
    """
    await storage.turns.take(len(opened.plain))
    return any(lease.holder for lease in leases_of(storage, opened).values())


class Hold(Struct):
    """A document that is held: as it is, but for the leases; and afterwards, the version that is left.

    `left` is None where the block took longer than the lease and another has taken over: what it did with the document,
    it did with one that may have changed. A block that removes the document says so by `is_gone`.
    """

    opened: Opened[Document]
    left: Version | None = None
    is_gone: bool = False


@asynccontextmanager
async def held(
    operation: Operation, ref: DocumentRef, lease: float, opened: Opened[Document] | None = None, /
) -> AsyncGenerator[Hold]:
    """The document as it is while this block has the leases of all its refresh tokens, for `lease` seconds.

    `opened` is it as it was read last. A document without OAuth credentials has no leases.

    Raises:
        LeaseError: others kept a lease for too long.
    """
    leased = Leased(operation, ref, ref.kind, Terms(0, lease, 2 * lease))
    opened = opened or await leased.read()
    if not any(oauth_in(opened.stored.document)):
        yield Hold(opened, opened.version)
        return
    await ref.renewed().require("update")
    holder = urandom(8).hex()
    taken = await leased.take_all(opened, holder)
    hold, after = Hold(taken), None
    try:
        hold.opened = Opened(taken.stored, ref.storage.copied(taken, ref.storage.codec, ref.kind))
        yield hold
    finally:
        if not hold.is_gone:
            with anyio.CancelScope(shield=True):
                after = await leased.release_all(taken, holder)
    if after is not None:
        hold.left = after.version if _is_same(leased, after, taken) else taken.version


def _is_same(leased: Leased[Document], one: Opened[Document], other: Opened[Document], /) -> bool:
    """Whether two states of a document differ in their leases at the most."""
    return leased.without_leases(one) == leased.without_leases(other)


class Leased(Generic[D]):
    """A document's reads and swaps, with its leases."""

    def __init__(self, operation: Operation, ref: DocumentRef, kind: type[D], terms: Terms, /) -> None:
        self.operation = operation
        self.ref = ref
        self.kind = kind
        self.terms = terms
        self.by: float = monotonic() + terms.timeout
        self.clock: StorageClock = ref.storage.clock
        self.flight: Flight = Flight()

    async def read(self) -> Opened[D]:
        """The document as it is now."""
        opened = await self.ref.renewed().read(self.kind)
        self.clock.has_read(opened.stored.modified)
        self.operation.record(opened.stored)
        return opened

    def leases(self, opened: Opened[D], /) -> dict[str, Lease]:
        """The leases that the document holds, by the keys of their tokens."""
        return self.ref.storage.leases(opened.plain)

    def lease(self, opened: Opened[D], credentials: OAuthCredentials, /) -> Lease:
        """The lease of the credentials' refresh token."""
        return self.leases(opened).get(key_of(credentials.refresh_token), NO_LEASE)

    def is_free(self, lease: Lease, /, *, holder: str = "") -> bool:
        """Whether this holder may write where the lease stands: nobody else has it, or its time is up."""
        return lease.holder in {"", holder} or self.ref.storage.watch.is_over(lease)

    async def swap(self, opened: Opened[D], document: D, leases: dict[str, Lease], /) -> Opened[D] | None:
        """Write the document with these leases instead of those of the same keys; None: another was faster.

        Leases of refresh tokens that it does not have are dropped.
        """
        keys = {key_of(credentials.refresh_token) for credentials in oauth_in(document)}
        wanted = self.leases(opened) | leases
        kept = {key: lease for key, lease in wanted.items() if key in keys and lease != NO_LEASE}
        try:
            swapped = await self.ref.renewed().rewrite(opened, document, self.kind, {FIELD: field_of(kept)})
        except ConflictError:
            return None
        except UncertainError:
            swapped = await self.read()
            if self.leases(swapped) != kept:
                return None
        self.operation.record(swapped.stored)
        return swapped

    def has_room(self, opened: Opened[D], credentials: OAuthCredentials, /) -> bool:
        """Whether the document could take a refresh token twice as long as it has, with nothing else new."""
        size = len(opened.plain) + len(credentials.refresh_token.reveal().encode("utf-8", "surrogatepass"))
        return size <= self.ref.storage.max_bytes

    def check_room(self, opened: Opened[D], credentials: OAuthCredentials, /) -> None:
        """Raise `TooLargeError` where a longer refresh token might have no room: before the one that is there is spent,
        and while its successor is not lost.
        """
        if not self.has_room(opened, credentials):
            raise TooLargeError(
                f"the document has {len(opened.plain)} bytes, and no room for new tokens within the"
                f" {self.ref.storage.max_bytes} allowed: nothing was exchanged",
                location=self.ref.location,
            )

    def without_previous(self, opened: Opened[D], leases: dict[str, Lease], /) -> dict[str, Lease]:
        """The document's leases with these in their places, and without the spent tokens that are kept there."""
        return {key: replace(lease, previous=None) for key, lease in (self.leases(opened) | leases).items()}

    async def look_at_the_clock(self, written: Opened[D], begun: float, /) -> None:
        """Note when a document was written, since a moment of `elapsed()`. A storage that does not say it is asked, the
        first time.
        """
        modified = written.stored.modified
        if modified is None and not self.clock.is_known:
            with suppress(AccountStoreError):
                modified = (await self.ref.renewed().stat()).modified
        self.clock.has_written(modified, begun)

    async def pause(self) -> None:
        """Wait for a moment, with jitter, for whoever has the lease. Raises `LeaseError` where time is up."""
        left = self.by - monotonic()
        if left <= 0:
            raise LeaseError(
                f"others had the lease for {self.terms.timeout:g} s: call again", location=self.ref.location
            )
        self.operation.polls += 1
        longest = min(FIRST_POLL * 1.5 ** min(self.operation.polls, 16), _LONGEST_POLL)
        await anyio.sleep(min(uniform(longest / 2, longest), left))  # noqa: S311 -- jitter

    async def take_all(self, opened: Opened[D], holder: str, /) -> Opened[D]:
        """Take the leases of all refresh tokens."""
        while True:
            leases = leases_of(self.ref.storage, opened)
            if all(map(self.is_free, leases.values())):
                taken = {key: replace(lease, holder=holder, seconds=self.terms.lease) for key, lease in leases.items()}
                try:
                    swapped = await self.swap(opened, opened.stored.document, taken)
                except TooLargeError as error:
                    error.message = f"no room for the lease, with which {error.message}"
                    raise
                if swapped is not None:
                    return swapped
            await self.pause()
            opened = await self.read()

    def without_leases(self, opened: Opened[D], /) -> bytes:
        """The document's plain bytes, without a trace of its leases."""
        return self.ref.storage.encode(opened.stored.document, self.kind, opened.plain, {FIELD: None})

    async def release_all(self, opened: Opened[D], holder: str, /) -> Opened[D] | None:
        """Drop this holder's leases from the newest document. The document then, as far as can be seen; None: it had
        none there any more.

        Where the storage fails, they run out.
        """
        with suppress(AccountStoreError):
            for _ in range(_RELEASES):
                held = {key: lease for key, lease in self.leases(opened).items() if lease.holder == holder}
                if not held:
                    return None
                free = {key: lease.free() for key, lease in held.items()}
                if (swapped := await self.swap(opened, opened.stored.document, free)) is not None:
                    return swapped
                opened = await self.read()
        return opened
