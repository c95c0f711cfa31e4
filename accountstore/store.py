"""AccountStore: the facade over all configured storages."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from types import NoneType
from typing import TYPE_CHECKING, Literal, Self, cast, overload

from accountstore.backends.base import Capabilities, Usage, Version, WriteMode
from accountstore.batches import get_many, save_many
from accountstore.check import Check
from accountstore.config import StoreConfig
from accountstore.copies import Copied, Proof, copy_many
from accountstore.documents import Documents
from accountstore.errors import AccountStoreError, UnsupportedError
from accountstore.events import EventLog, Observer, Operation
from accountstore.listing import Entry, Folder, Skipped, list_documents
from accountstore.location import Location
from accountstore.model import Document
from accountstore.scope import Resolver
from accountstore.storage import Stored
from accountstore.validation import check_plain

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from accountstore.storages import Opening


class AccountStore(Documents):
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
        check_plain("the observer", observer)
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
        """Close all storages. A second call does nothing; a store made by `scoped` leaves them open.

        Raises:
            ClosedError: in another process, or on another event loop, than the store's: nothing is closed.
        """
        if self._resolver.only is None:
            await self._resolver.storages.aclose()

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
        check_plain("skipped", skipped)
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

    async def usage(self, storage: str | None = None, /) -> Usage:
        """How many bytes the file system of a storage has, and how many are used, by whomever: of a local storage.

        Raises:
            UnsupportedError: the storage does not tell, or the store is narrowed by `scoped`.
        """
        with Operation(self._log, "usage", None, storage=storage):
            client = self._resolver.storage(storage).client
            if self._resolver.only is not None:
                raise UnsupportedError("a scoped store does not tell how full its storage is: it would tell of others")
            usage = await client.usage()
            if usage is None:
                raise UnsupportedError(client.policy.about_storage("the storage does not tell how full it is"))
            return usage

    def scoped(self, folder: str, /, *, storage: str | None = None) -> AccountStore:
        """The same store narrowed to one folder of one storage: for one tenant.

        Locations are then relative to the folder, and name no storage, or that one; any other is as unknown as one that
        is not configured. The folder `""` is the whole storage: refuse a tenant's id that is empty. The narrowed store
        lives as long as this one, and equals another that is narrowed alike.

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccountStore) and self._resolver.reach == other._resolver.reach

    def __hash__(self) -> int:
        return hash(self._resolver.reach)

    def __repr__(self) -> str:
        return f"<AccountStore {', '.join(self.storages)}>"


def parts_of(store: AccountStore, /) -> tuple[Resolver, EventLog]:
    """What resolves a store's locations, and what hears of its operations: for a migration and a rotation."""
    return store._resolver, store._log  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  -- of this module
