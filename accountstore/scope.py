"""Resolver: which document of which storage a location means, for a store or for one folder of it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from accountstore.errors import AccountStoreError, ExtensionError, LocationError
from accountstore.location import NO_LOCATION, Located, Location
from accountstore.storage import DocumentRef, Storage
from accountstore.validation import Kind, check_folder, check_kind, check_path, join, kind_of

if TYPE_CHECKING:
    from accountstore.storages import Storages  # with the configuration and the registry, which only opening needs


class Resolver:
    """Resolves locations and folders within all storages of a store, or within one folder of one of them."""

    def __init__(self, storages: Storages, only: str | None = None, folder: str = "", /) -> None:
        """`only` is the one storage that a narrowed store reaches, and `folder` its folder there."""
        self.storages: Storages = storages
        self.only: str | None = only
        self.prefix: str = folder

    @property
    def reach(self) -> tuple[Storages, str | None, str]:
        """The same for resolvers that resolve alike."""
        return self.storages, self.only, self.prefix

    @property
    def default(self) -> str:
        """The name of the storage that a location without one means."""
        return self.storages.default if self.only is None else self.only

    def scoped(self, folder: str, storage: str | None, /) -> Resolver:
        """The resolver of a store that is narrowed to a folder.

        Raises:
            LocationError: the folder is not allowed, or the storage is not configured.
        """
        found, key = self.folder(folder, storage)
        return Resolver(self.storages, found.name, key)

    def names(self) -> tuple[str, ...]:
        """The names of the storages within reach, the default one first."""
        if self.only is not None:
            return (self.only,)
        default = self.storages.default
        return default, *(name for name in self.storages.names() if name != default)

    def storage(self, name: str | None, /) -> Storage:
        """A storage within reach (`Storages.find`)."""
        return self.storages.find(name, self.only)

    def folder(self, folder: str, storage: str | None, /) -> tuple[Storage, str]:
        """A folder's storage, and its key there."""
        check_folder(folder)
        found = self.storage(storage)
        key = join(self.prefix, folder)
        check_path(key, "x.account")
        return found, key

    def ref(self, location: Location, kind: Kind | None = None, /) -> DocumentRef:
        """The document of a location, whose file name promises this kind, or either.

        Raises:
            ExtensionError: the file name's extension does not fit.
            LocationError: as `storage`; or the scope makes the path too long.
        """
        if not isinstance(location, Location):
            raise TypeError(NO_LOCATION)
        try:
            promised = kind_of(location.file_name)
            if kind is not None and kind != promised:
                check_kind(location.file_name, kind)
            storage = self.storages.find(location.storage, self.only)
            key = "/".join(filter(None, (self.prefix, location.folder, location.file_name)))
            if self.prefix:
                check_path(*key.rsplit("/", 1))
        except AccountStoreError:
            with Located(location):
                raise
        return DocumentRef(storage, key, location, monotonic() + storage.client.policy.timeout)

    def pair(self, source: Location, target: Location, /) -> tuple[DocumentRef, DocumentRef]:
        """Two documents of one kind that are not the same by their names."""
        refs = self.ref(source), self.ref(target)
        if refs[0].kind is not refs[1].kind:
            raise ExtensionError("source and target must be of one kind: *.account or *.multi.account", location=target)
        if refs[0].same_as(refs[1]):
            raise LocationError("source and target are the same document", location=source)
        return refs
