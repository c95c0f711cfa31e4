"""Documents: what a store does with one document."""

from __future__ import annotations

from types import NoneType

from accountstore import refresh as refreshing
from accountstore import updating
from accountstore.backends.base import Version, VersionInfo, WriteMode
from accountstore.errors import NotFoundError
from accountstore.events import EventLog, Observer, Operation
from accountstore.grant import Exchange
from accountstore.leased import Terms, is_due
from accountstore.listing import Entry
from accountstore.location import Location
from accountstore.model import Account, Document, MultiAccount
from accountstore.scope import Resolver
from accountstore.secrets import SecretBytes, instead_of
from accountstore.storage import Stored
from accountstore.updating import Change


class Documents:
    """The operations of an `AccountStore` on one document."""

    def __init__(self, resolver: Resolver, observer: Observer | None = None, /) -> None:
        self._resolver = resolver
        self._log = EventLog(observer, resolver.names(), resolver.prefix)

    async def get(self, location: Location, /) -> Account:
        """The account at a `*.account` location (the API's Get). One request.

        Raises:
            NotFoundError: there is no such document.
            DecodeError: the file holds something else; the message names the field.
            TooLargeError: it is larger than the configured `max_bytes`.
        """
        with Operation(self._log, "get", location) as operation:
            return operation.record((await self._resolver.ref(location, "account").read(Account)).stored).document

    async def get_multi(self, location: Location, /) -> MultiAccount:
        """The accounts at a `*.multi.account` location (the API's GetMulti). As `get`."""
        with Operation(self._log, "get_multi", location) as operation:
            return operation.record((await self._resolver.ref(location, "multi").read(MultiAccount)).stored).document

    async def read(self, location: Location, /) -> Stored[Account]:
        """The account with its version, size and time, in one request. As `get`."""
        with Operation(self._log, "read", location) as operation:
            return operation.record((await self._resolver.ref(location, "account").read(Account)).stored)

    async def read_multi(self, location: Location, /) -> Stored[MultiAccount]:
        """The multi account with its version, size and time, in one request. As `get`."""
        with Operation(self._log, "read_multi", location) as operation:
            return operation.record((await self._resolver.ref(location, "multi").read(MultiAccount)).stored)

    async def save(self, location: Location, account: Account, /, *, mode: WriteMode = "overwrite") -> Version:
        """Write an account to a `*.account` location, with its folder, in one request (the API's Save).

        `mode` is `"overwrite"`; `"create"`, which has exactly one winner; or a `Version`, which writes only where that
        is still the current one. The result is the new version. An overwrite drops fields that this release does not
        know: `update` keeps them. In the place of a version that this process has read, whoever exchanges a refresh
        token of the document by `refresh` keeps the lease; an overwrite drops it.

        Raises:
            EncodeError: the account is not one that `get` would return; the message names the field.
            TooLargeError: it is larger than the configured `max_bytes`.
            ExistsError: `"create"` found a document.
            ConflictError: the version is no longer the current one.
            NotFoundError: a version was given and the document is gone.
            UnsupportedError: the storage cannot promise the mode.
        """
        if account.__class__ is not Account:
            account = instead_of(account)
        with Operation(self._log, "save", location) as operation:
            ref = self._resolver.ref(location, "account")
            if isinstance(mode, Version):
                stored = await updating.swap(ref, account, Account, mode)
            else:
                stored = await ref.write(account, Account, mode)
            return operation.record(stored).version

    async def save_multi(
        self, location: Location, account: MultiAccount, /, *, mode: WriteMode = "overwrite"
    ) -> Version:
        """Write a multi account to a `*.multi.account` location (the API's SaveMulti). As `save`."""
        if account.__class__ is not MultiAccount:
            account = instead_of(account)
        with Operation(self._log, "save_multi", location) as operation:
            ref = self._resolver.ref(location, "multi")
            if isinstance(mode, Version):
                stored = await updating.swap(ref, account, MultiAccount, mode)
            else:
                stored = await ref.write(account, MultiAccount, mode)
            return operation.record(stored).version

    async def update(self, location: Location, change: Change[Account], /) -> Stored[Account]:
        """Read, change and write back, so that no other writer's change is lost. Two requests without contention.

        `change` is a function, async or not, from the account to the new one. It runs again on a newer account when
        another writer was faster, so it should do nothing else; no lock is held meanwhile. Where it changes nothing,
        nothing is written. Fields that this release does not know stay.

        Raises:
            NotFoundError: there is no such document.
            ConflictError: other writers were faster 64 times in a row.
            UnsupportedError: the storage cannot compare and swap; nothing was read.
        """
        _check_function(change, _CHANGE)
        with Operation(self._log, "update", location) as operation:
            return await updating.update(operation, self._resolver.ref(location, "account"), change, Account)

    async def update_multi(self, location: Location, change: Change[MultiAccount], /) -> Stored[MultiAccount]:
        """As `update`, for a multi account."""
        _check_function(change, _CHANGE)
        with Operation(self._log, "update_multi", location) as operation:
            return await updating.update(operation, self._resolver.ref(location, "multi"), change, MultiAccount)

    async def refresh(
        self,
        location: Location,
        exchange: Exchange,
        /,
        *,
        leeway: float = 60,
        lease: float = 30,
        timeout: float = 90,  # noqa: ASYNC109 -- it bounds the wait for others, not the call
    ) -> Stored[Account]:
        """The account with an access token that is valid for at least `leeway` seconds. One request where it is.

        Of all callers, in all tasks, processes and machines, one runs `exchange` for an expiry, and the others get its
        token. It takes a lease in the document (three requests in all), and keeps others waiting for at most `lease`
        seconds: the exchange is given up after three quarters of them. A call waits for others for at most `timeout`
        seconds. A cancelled caller's own exchange is awaited to its end, so that no token is lost. A token that lasts
        for less than `leeway` when it is granted is returned all the same, and exchanged by each later call. Where this
        machine's clock is behind, a token that has ended can be returned until the store's first exchange there.

        Raises:
            NoOAuthError: the document has no OAuth credentials.
            RefusedError: the provider refused, and no other caller has stored newer tokens.
            NoAnswerError: the provider's answer was lost twice, or did not come in time.
            ExchangeError: the exchange raised something else, or returned no `TokenGrant`. A cancellation that nobody
                has asked for is such; an exception that is no `Exception` comes out as it is.
            LeaseError: others had the lease for longer than `timeout`.
            TooLargeError: there is no room for new tokens, and nothing was exchanged; or for the access token alone.
            UnsupportedError: the storage cannot compare and swap.
            Others as `get` and `save`.
        """
        _check_function(exchange, _EXCHANGE)
        with Operation(self._log, "refresh", location) as operation:
            ref, terms = self._resolver.ref(location, "account"), Terms(leeway, lease, timeout)
            return await refreshing.refresh(operation, ref, Account, exchange, terms)

    async def refresh_multi(
        self,
        location: Location,
        exchange: Exchange,
        /,
        *,
        leeway: float = 60,
        lease: float = 30,
        timeout: float = 90,  # noqa: ASYNC109 -- as above
    ) -> Stored[MultiAccount]:
        """As `refresh`, for each OAuth account that needs it: one exchange for each refresh token, also where several
        accounts have the same. All are tried before an error of one is raised.
        """
        _check_function(exchange, _EXCHANGE)
        with Operation(self._log, "refresh_multi", location) as operation:
            ref, terms = self._resolver.ref(location, "multi"), Terms(leeway, lease, timeout)
            return await refreshing.refresh(operation, ref, MultiAccount, exchange, terms)

    def _is_due(self, location: Location, stored: Stored[Document], /) -> bool:
        """Whether `refresh` would renew a token of what was read: for the gateway, which reads before it asks."""
        return is_due(self._resolver.storage(location.storage).clock, stored, 60)

    # --- either kind --------------------------------------------------------------------------------------------------

    async def read_json(self, location: Location, /) -> Stored[bytes]:
        """The JSON of a document of either kind, whole: checked, and with the fields that this release does not know.

        It is the same whatever the storage's codec; of a JSON storage, what the file holds. The bytes do not show in
        `repr`. Otherwise as `read`.

        Raises:
            EncodeError: the document has a value that JSON does not have.
        """
        with Operation(self._log, "read_json", location) as operation:
            return operation.record(await self._resolver.ref(location).read_json())

    async def save_json(self, location: Location, data: bytes, /, *, mode: WriteMode = "overwrite") -> Version:
        """Write the JSON of a document of either kind, whole, in the storage's codec.

        Fields that this release does not know are kept. Otherwise as `save`.

        Raises:
            EncodeError: it is not the JSON of such a document, or a secret in it is the mask of `to_json`; the message
                names the field.
        """
        try:
            data = SecretBytes(data)  # so that no traceback with locals shows it
        except TypeError:
            data = SecretBytes()
            raise TypeError("save_json takes bytes, such as those of `str.encode`") from None
        with Operation(self._log, "save_json", location) as operation:
            return operation.record(await self._resolver.ref(location).write_json(data, mode)).version

    async def stat(self, location: Location, /) -> Entry:
        """Size, version and time of a document of either kind.

        Raises:
            NotFoundError: there is no such document.
        """
        with Operation(self._log, "stat", location) as operation:
            stat = await self._resolver.ref(location).stat()
            operation.version = stat.version
            return Entry(location, stat.size, stat.version, stat.modified)

    async def exists(self, location: Location, /) -> bool:
        """Whether there is a document of either kind."""
        with Operation(self._log, "exists", location):
            try:
                await self._resolver.ref(location).stat()
            except NotFoundError:
                return False
            return True

    async def versions(self, location: Location, /) -> list[VersionInfo]:
        """What the storage keeps of a document of either kind, newest first: the current state, and as far as it tells,
        those that were overwritten or deleted. A storage that keeps none has the current one alone.

        All are in memory at once. Earlier ones are read by the storage's own tools, or through `filesystem`.

        Raises:
            NotFoundError: there is no such document, and nothing is kept of an earlier one.
            UnsupportedError: the storage cannot be asked, such as by obstore alone.
        """
        with Operation(self._log, "versions", location):
            return [*await self._resolver.ref(location).versions()]

    async def delete(self, location: Location, /, *, version: Version | None = None) -> None:
        """Remove a document of either kind. A missing one is no error.

        Raises:
            ConflictError: a version was given and is no longer the current one.
            UnsupportedError: a version was given and the storage cannot compare and swap.
        """
        if not isinstance(version, (Version, NoneType)):
            raise TypeError("version must be a Version, as `save`, `read` and `stat` return it, or None")
        with Operation(self._log, "delete", location) as operation:
            operation.version = version
            await self._resolver.ref(location).delete(version)

    async def copy(
        self, source: Location, target: Location, /, *, mode: WriteMode = "overwrite", lease: float | None = None
    ) -> Version:
        """Copy a document of either kind to a location of the same kind, on any storage. Returns the target's version.

        The document is checked and takes the target's codec; fields that this release does not know come along, but a
        lease of somebody who refreshes the source does not. With `lease`, OAuth tokens are copied while no `refresh`
        exchanges them: others wait for at most so many seconds.

        Raises:
            NotFoundError: there is no document at the source.
            LeaseError: others kept the lease for too long, or the copy took longer than its own: copy again.
            Others as `save`, about the target.
        """
        with Operation(self._log, "copy", source, target) as operation:
            refs = self._resolver.pair(source, target)
            return (await updating.copy(operation, *refs, mode, lease)).version

    async def move(self, source: Location, target: Location, /, *, mode: WriteMode = "overwrite") -> Version:
        """Copy a document and remove the source. Returns the target's version.

        A change of the source meanwhile is moved too, where the source's storage can compare and swap; and so are the
        tokens of a `refresh`: while one exchanges them the move waits, for at most a minute. Between the two steps the
        document is in both places.

        Raises:
            As `copy`; ConflictError where the source kept changing, or the target changed meanwhile: both stay.
            LeaseError: others kept the lease for too long: move again.
        """
        with Operation(self._log, "move", source, target) as operation:
            refs = self._resolver.pair(source, target)
            return (await updating.move(operation, *refs, mode)).version


_CHANGE = "change must be a function, async or not, from the old document to the new one"
_EXCHANGE = "exchange must be an async function from OAuthCredentials to a TokenGrant, such as a TokenEndpoint"


def _check_function(given: object, needed: str, /) -> None:
    if not callable(given) or isinstance(given, type):
        raise TypeError(needed)
