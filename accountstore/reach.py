"""What a store reaches: all configured storages, or one folder of one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from accountstore.errors import AccountStoreError, ExtensionError, LocationError
from accountstore.events import Event, Operation, listening, tell
from accountstore.storage import Place
from accountstore.validation import check_folder, check_kind, check_path, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accountstore.backends.base import Stat
    from accountstore.events import Observer
    from accountstore.location import Location
    from accountstore.model import Document
    from accountstore.opening import Storages
    from accountstore.storage import Storage, Stored
    from accountstore.validation import Kind

__all__ = ("Reach", "Scope")


class Scope(Struct, frozen=True):
    """The one folder that a narrowed store reaches."""

    storage: str
    folder: str


class Reach:
    """Turns locations into places, and calls into events, for a store or a narrowed one."""

    def __init__(self, storages: Storages, observer: Observer | None = None, scope: Scope | None = None, /) -> None:
        self.storages: Storages = storages
        self.observer: Observer | None = observer
        self.scope: Scope | None = scope

    def narrowed(self, folder: str, storage: str | None, /) -> Reach:
        """What a store narrowed to a folder reaches."""
        found, within = self.folder(folder, storage)
        return Reach(self.storages, self.observer, Scope(found.name, within))

    def names(self) -> tuple[str, ...]:
        """The names of the storages in reach, the default one first."""
        if self.scope is not None:
            return (self.scope.storage,)
        default = self.storages.default
        return default, *(name for name in self.storages.names() if name != default)

    def operation(
        self, name: str, location: Location | None, target: Location | None = None, /, *, storage: str | None = None
    ) -> Operation:
        """A call, to be told of as an event when it has ended."""
        return Operation(self._tell, name, location, target, storage)

    def _tell(self, operation: Operation, outcome: str, seconds: float, /) -> None:
        if not listening(self.observer):
            return
        storage = operation.storage if operation.location is None else operation.location.storage
        if storage is None:
            storage = self.storages.default if self.scope is None else self.scope.storage
        event = Event(
            operation=operation.name,
            storage=storage,
            location=self._whole(operation.location),
            target=self._whole(operation.target),
            outcome=outcome,
            version=operation.version,
            bytes=operation.bytes,
            attempts=operation.attempts,
            seconds=seconds,
        )
        tell(self.observer, event)

    def _whole(self, location: Location | None, /) -> Location | None:
        """A location as the store that this one narrows has it."""
        if location is None or self.scope is None or not self.scope.folder:
            return location
        try:
            return replace(location, folder=self.scope.folder + (f"/{location.folder}" if location.folder else ""))
        except LocationError:
            return location  # too long: the operation is about to say so

    def storage(self, name: str | None, /) -> Storage:
        """A storage in reach.

        Raises:
            LocationError: it is not configured, or out of reach.
            ClosedError: the store is closed.
        """
        if self.scope is None:
            return self.storages.find(name or self.storages.default)
        # One error for what is not configured and what is out of reach.
        return self.storages.find(self.scope.storage if name in {None, self.scope.storage} else "")

    def folder(self, folder: str, storage: str | None, /) -> tuple[Storage, str]:
        """A folder's storage, and its key there."""
        check_folder(folder)
        found = self.storage(storage)
        above = "" if self.scope is None else self.scope.folder
        within = "/".join(part for part in (above, folder) if part)
        check_path(within, "x.account")
        return found, within

    def place(self, location: Location, kind: Kind | None = None, /) -> Place:
        """The place of a location, with a file name of this kind, or of either.

        Raises:
            ExtensionError: the file name's extension does not fit.
            LocationError: as `storage`; or the scope makes the path too long.
        """
        try:
            if kind is None:
                kind_of(location.file_name)
            else:
                check_kind(location.file_name, kind)
            storage = self.storage(location.storage)
            key = location.path
            if self.scope is not None and self.scope.folder:
                key = f"{self.scope.folder}/{key}"
                check_path(*key.rsplit("/", 1))
        except AccountStoreError as error:
            error.location = location
            raise
        return Place(storage, key, location)

    def place_or_error(self, location: Location, /) -> Place | AccountStoreError:
        """The place of a location, or the error that `place` raises."""
        try:
            return self.place(location)
        except AccountStoreError as error:
            return error.with_traceback(None)

    def two_places(self, source: Location, target: Location, /) -> tuple[Place, Place]:
        """Two different places for documents of one kind."""
        place, onto = self.place(source), self.place(target)
        if place.kind is not onto.kind:
            raise ExtensionError("source and target must be of one kind: *.account or *.multi.account", location=target)
        if place.same_as(onto):
            raise LocationError("source and target are the same document", location=source)
        return place, onto

    def report(
        self,
        name: str,
        locations: Sequence[Location],
        results: Sequence[Stored[Document] | Stat | AccountStoreError],
        seconds: float,
        /,
    ) -> None:
        """Make an event for each document of a window."""
        if not listening(self.observer):
            return
        for location, result in zip(locations, results, strict=True):
            operation = self.operation(name, location)
            if not isinstance(result, AccountStoreError):
                operation.version, operation.bytes = result.version, result.size
            self._tell(operation, type(result).__name__ if isinstance(result, AccountStoreError) else "ok", seconds)
