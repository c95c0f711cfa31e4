"""AccountStore: the facade over all configured storages."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from inspect import iscoroutinefunction
from types import NoneType
from typing import TYPE_CHECKING, Literal, Self, cast, overload

from accountstore import refresh as refreshing
from accountstore import updating
from accountstore.backends.base import Capabilities, Version, WriteMode
from accountstore.batches import get_many, save_many
from accountstore.check import Check
from accountstore.config import StoreConfig
from accountstore.copies import Copied, Proof, copy_many
from accountstore.errors import AccountStoreError, NotFoundError, UnsupportedError
from accountstore.events import EventLog, Observer, Operation
from accountstore.grant import Exchange
from accountstore.leased import Terms
from accountstore.listing import Entry, Folder, Skipped, list_documents
from accountstore.location import Location
from accountstore.model import Account, Document, MultiAccount
from accountstore.scope import Resolver
from accountstore.secrets import SecretBytes
from accountstore.storage import Stored
from accountstore.updating import Change

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from accountstore.storages import Opening


class AccountStore:
    """Reads and writes account documents on configured storages. Open one with `AccountStore.open`.

    `get`, `get_multi`, `save` and `save_multi` are the operations of Aspose.Email Cloud's client-account API.

    A store may be shared by all tasks of one event loop. Every operation may raise, beside what it names itself:

    - `ExtensionError`, `LocationError` (the storage is not configured), `ClosedError`: before any I/O;
    - `DeniedError`, `FullError`, `NotRegularError`, `UnavailableError`, `BackendError`: what the storage said.

    A cancelled read is dropped. A cancelled write either has not begun or is awaited to its end, so that it cannot land
    later; the document is then the old or the new one, whole.
    """

    if not TYPE_CHECKING:  # checkers shall see the parameters

        def __new__(cls, *arguments: object, **_: object) -> Self:
            if not (arguments and isinstance(arguments[0], Resolver)):
                raise TypeError("a store is opened, not made: `async with AccountStore.open(config) as store`")
            return super().__new__(cls)

    def __init__(self, resolver: Resolver, observer: Observer | None = None, /) -> None:
        self._resolver = resolver
        self._log = EventLog(observer, resolver.default, resolver.prefix)

    @classmethod
    def open(
        cls,
        config: StoreConfig | str | os.PathLike[str] | None = None,
        /,
        *,
        observer: Observer | None = None,
        read_only: bool = False,
    ) -> Opening[AccountStore]:
        """Open all configured storages: `async with AccountStore.open() as store`, or `store = await
        AccountStore.open()` and `await store.aclose()` later.

        `config` is a `StoreConfig` or a TOML file's path; without one, the file that the environment variable
        `ACCOUNTSTORE_CONFIG` names, else `accountstore.toml` in the working directory or in the user's configuration
        folder, else one storage `default` in the user's data folder. `observer` is called with one `Event` for each
        operation, never with contents; without one, events go to the logger `accountstore` at DEBUG. With `read_only`
        nothing is written, on no storage: every call that would write is an `UnsupportedError`.

        Raises:
            TypeError: the observer is no function, or a coroutine function, whose events nobody would await; the
                configuration is neither a `StoreConfig` nor a path.
            ConfigError: at opening, for whatever is wrong with the configuration.
        """
        if iscoroutinefunction(observer) or not (observer is None or callable(observer)):
            raise TypeError("the observer must be a plain function, not a coroutine function")
        if not isinstance(config, (StoreConfig, str, bytes, os.PathLike, NoneType)):
            raise TypeError(
                f"a store is opened with a StoreConfig or the path of a TOML file, not with {type(config).__name__}:"
                " AccountStore.open(StoreConfig(storages={'main': StorageConfig(url)}))"
            )
        from accountstore.storages import Opening

        return Opening(config, lambda storages: cls(Resolver(storages), observer), read_only=read_only)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all storages. A second call does nothing; a store made by `scoped` leaves them open."""
        if self._resolver.only is None:
            await self._resolver.storages.aclose()

    # --- one document -------------------------------------------------------------------------------------------------

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
        know: `update` keeps them.

        Raises:
            EncodeError: the account is not one that `get` would return; the message names the field.
            TooLargeError: it is larger than the configured `max_bytes`.
            ExistsError: `"create"` found a document.
            ConflictError: the version is no longer the current one.
            NotFoundError: a version was given and the document is gone.
            UnsupportedError: the storage cannot promise the mode.
        """
        with Operation(self._log, "save", location) as operation:
            stored = await self._resolver.ref(location, "account").write(account, Account, mode)
            return operation.record(stored).version

    async def save_multi(
        self, location: Location, account: MultiAccount, /, *, mode: WriteMode = "overwrite"
    ) -> Version:
        """Write a multi account to a `*.multi.account` location (the API's SaveMulti). As `save`."""
        with Operation(self._log, "save_multi", location) as operation:
            stored = await self._resolver.ref(location, "multi").write(account, MultiAccount, mode)
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
        seconds. A cancelled caller's own exchange is awaited to its end, so that no token is lost. Tokens that last
        for less than `leeway` are returned as they were granted.

        Raises:
            NoOAuthError: the document has no OAuth credentials.
            RefusedError: the provider refused, and no other caller has stored newer tokens.
            NoAnswerError: the provider's answer was lost twice, or did not come in time.
            ExchangeError: the exchange raised something else, or returned no `TokenGrant`. A cancellation that nobody
                has asked for is such; an exception that is no `Exception` comes out as it is.
            LeaseError: others had the lease for longer than `timeout`.
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
            EncodeError: it is not the JSON of such a document; the message names the field.
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

    # --- many documents -----------------------------------------------------------------------------------------------

    @overload
    def list(
        self,
        folder: str = "",
        /,
        *,
        storage: str | None = None,
        recursive: bool = False,
        folders: Literal[False] = False,
        skipped: Callable[[Skipped], object] | None = None,
    ) -> AsyncIterator[Entry]: ...
    @overload
    def list(
        self,
        folder: str = "",
        /,
        *,
        storage: str | None = None,
        recursive: bool = False,
        folders: bool,
        skipped: Callable[[Skipped], object] | None = None,
    ) -> AsyncIterator[Entry | Folder]: ...
    def list(
        self,
        folder: str = "",
        /,
        *,
        storage: str | None = None,
        recursive: bool = False,
        folders: bool = False,
        skipped: Callable[[Skipped], object] | None = None,
    ) -> AsyncIterator[Entry | Folder]:
        """The documents in a folder, and below it if `recursive`, in any order. A missing folder is empty.

        With `folders`, a `Folder` for each folder too, once; below the folder those that have files. A page is held in
        memory, and with `folders` the names of the folders; each request for a page is an event. Where a backend does
        not declare `Capabilities.folders`, they are found by a recursive listing.

        What is listed can be read. Files that are no documents do not show. Documents and folders whose names no
        `Location` can have (other programs wrote them: decomposed umlauts, `#`, `:`, a backslash, an empty segment),
        and symbolic links, pipes and the like in a document's place, are left out and told: `skipped` is called with
        each; without it, a record of the logger `accountstore` at WARNING names up to ten of a page. `Event.skipped`
        counts them, and `check` names them.

        Raises:
            TypeError: `skipped` is a coroutine function, which nobody would await.
        """
        if iscoroutinefunction(skipped):
            raise TypeError("skipped must be a plain function, not a coroutine function")
        return list_documents(
            self._resolver, self._log, folder, storage, recursive=recursive, folders=folders, skipped=skipped
        )

    def get_many(
        self, locations: Iterable[Location], /, *, concurrency: int = 8
    ) -> AsyncIterator[tuple[Location, Stored[Document] | AccountStoreError]]:
        """Each location with its document, of either kind, or its error; in the order of the locations.

        A document is what the model has of it: `save_many` of what was read here drops fields that this release does
        not know. `update` keeps them, `copy` takes them along, `read_json` and `save_json` have them.

        Results come in windows: a window is read with at most `concurrency` requests under way, and memory holds one
        window. Storages that gain from it read many documents in one go.
        """
        return get_many(self._resolver, self._log, locations, concurrency)

    def save_many(
        self,
        documents: Iterable[tuple[Location, Document]],
        /,
        *,
        mode: Literal["overwrite", "create"] = "overwrite",
        concurrency: int = 8,
    ) -> AsyncIterator[tuple[Location, Version | AccountStoreError]]:
        """Save each document; yield its location with its new version or its error, in the order given.

        As with `save`, fields that this release does not know are dropped from a document that is overwritten:
        `update`, `copy` and `save_json` keep them.

        Nothing is written unless the result is iterated over. Of two documents for one location either may come last.
        Iterated on after a cancellation, a window is saved again, so that a `"create"` may meet its own document.
        Otherwise as `get_many` and `save`.
        """
        return save_many(self._resolver, self._log, documents, mode, concurrency)

    def copy_many(
        self,
        copies: Iterable[tuple[Location, Location] | tuple[Location, Location, WriteMode]],
        /,
        *,
        verify: Proof = "none",
        concurrency: int = 8,
        lease: float | None = None,
    ) -> AsyncIterator[tuple[Location, Copied | AccountStoreError]]:
        """Copy each source to its target, with a mode of `copy`; yield the source with both versions or its error.

        The error names the end it is about. `verify="read"` reads each copy back; `"write"` takes the MD5 that a
        storage such as S3 answers as its version, and reads back where there is none. With `lease`, as in `copy`, but a
        lease that was lost leaves the copy unverified. Otherwise as `save_many`, `copy`.
        """
        return copy_many(self._resolver, self._log, copies, verify, concurrency, lease)

    # --- storages -----------------------------------------------------------------------------------------------------

    @property
    def storages(self) -> tuple[str, ...]:
        """The names of the storages that locations may name; the default one first."""
        return self._resolver.names()

    def capabilities(self, storage: str | None = None, /) -> Capabilities:
        """What a storage promises, as its backend declares it; `check` proves it."""
        return self._resolver.storage(storage).client.capabilities

    async def check(self, storage: str | None = None, /) -> Check:
        """Prove on a storage that it is reachable and honours conditions.

        It writes and removes a document of its own at the storage's root, or in the folder of a scoped store; where
        that is read-only, it lists. What the storage refuses is in the result, not raised.
        """
        from accountstore.check import check

        with Operation(self._log, "check", None, storage=storage):
            return await check(*self._resolver.folder("", storage))

    def scoped(self, folder: str, /, *, storage: str | None = None) -> AccountStore:
        """The same store narrowed to one folder of one storage: for one tenant.

        Locations are then relative to the folder, and name no storage, or that one; any other is as unknown as one that
        is not configured. The narrowed store lives as long as this one.

        Raises:
            LocationError: the folder is not allowed, or the storage is not configured.
        """
        return AccountStore(self._resolver.scoped(folder, storage), self._log.observer)

    async def filesystem(self, storage: str | None = None, /) -> tuple[AbstractFileSystem, str]:
        """The fsspec filesystem that reaches the same files, and the storage's root in it: the escape hatch.

        What is done through it is outside every promise of this library.

        Raises:
            UnsupportedError: the backend has none, or the store is narrowed by `scoped`.
        """
        found = self._resolver.storage(storage)
        if self._resolver.only is not None:
            raise UnsupportedError("a scoped store gives no filesystem: it would reach outside its folder")
        return cast("tuple[AbstractFileSystem, str]", await found.client.filesystem())

    def __repr__(self) -> str:
        return f"<AccountStore {', '.join(self.storages)}>"


_CHANGE = "change must be a function, async or not, from the old document to the new one"
_EXCHANGE = "exchange must be an async function from OAuthCredentials to a TokenGrant, such as a TokenEndpoint"


def _check_function(given: object, needed: str, /) -> None:
    if not callable(given) or isinstance(given, type):
        raise TypeError(needed)


def parts_of(store: AccountStore, /) -> tuple[Resolver, EventLog]:
    """What resolves a store's locations, and what hears of its operations: for `accountstore.migration`."""
    return store._resolver, store._log  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  -- of this module
