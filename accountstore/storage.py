"""One opened storage, and one place in it: encode, gate, call the backend, name its errors once."""

from __future__ import annotations

from copy import copy
from datetime import datetime
from errno import errorcode
from os import strerror
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

from accountstore.backends.base import Version
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    ConflictError,
    DeniedError,
    EncodeError,
    ExistsError,
    FullError,
    NotFoundError,
    NotRegularError,
    UnavailableError,
    UnsupportedError,
)
from accountstore.model import Account, MultiAccount
from accountstore.secrets import SecretBytes
from accountstore.validation import check_size, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from accountstore.backends.base import Backend, Blob, Stat, WriteMode
    from accountstore.codecs import Codec
    from accountstore.location import Location

__all__ = ("Place", "Storage", "Stored", "check_mode", "known")

D = TypeVar("D", bound=Account | MultiAccount)
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


class Stored(Struct, Generic[T_co], frozen=True):
    """A document with what its storage knows of it."""

    document: T_co
    version: Version
    size: int
    modified: datetime | None


def known(stat: Stat, /) -> Version:
    """The version that a read or a write must tell (`Backend`)."""
    if stat.version is None:
        raise BackendError("the backend told no version")
    return stat.version


def check_mode(mode: WriteMode, /) -> None:
    """Raise `ValueError` for what is no mode: a misspelt one must not overwrite."""
    if not isinstance(mode, Version) and mode not in ("overwrite", "create"):
        raise ValueError("mode must be 'overwrite', 'create' or a Version")


_REASONS: dict[type[BackendError], str] = {
    NotFoundError: "there is no such document",
    ExistsError: "there is a document already",
    ConflictError: "the document has changed since it was read",
    DeniedError: "access is denied",
    NotRegularError: "a folder, link or device stands there",
    FullError: "the storage is full",
    UnavailableError: "the storage cannot be reached or is busy",
    BackendError: "the storage failed",
}


class Storage:
    """A backend with its name, codec and limit."""

    __slots__ = ("backend", "codec", "limit", "name", "options", "url")

    def __init__(
        self, name: str, backend: Backend, codec: Codec, limit: int, /, *, url: str, options: dict[str, object]
    ) -> None:
        self.name: str = name
        self.backend: Backend = backend
        self.codec: Codec = codec
        self.limit: int = limit
        self.url: str = url
        self.options: dict[str, object] = options

    def named(self, error: Exception, location: Location | None, /) -> AccountStoreError:
        """The error to raise for one that came from below.

        It carries no traceback from there, whose frames hold documents and credentials. Nor does it carry a foreign
        text: the cause is an operating system error's number, where there is one.
        """
        cause: OSError | None = None
        if isinstance(error, AccountStoreError):
            failure = copy(error)  # one error may stand for many documents
        else:
            kind = self.backend.classify(error)
            if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in errorcode:
                cause = OSError(error.errno, strerror(error.errno))
            detail = "" if kind in {NotFoundError, ExistsError} else f" ({cause or type(error).__name__})"
            failure = kind(_REASONS.get(kind, _REASONS[BackendError]) + detail)
        failure.__traceback__ = failure.__context__ = None
        failure.__cause__ = cause
        failure.location = location
        return failure

    def require(self, mode: WriteMode, location: Location | None, /) -> None:
        """Raise `UnsupportedError` unless the backend declares what the mode needs; `ValueError` for no mode at all."""
        check_mode(mode)
        capabilities = self.backend.capabilities
        if mode == "create" and not capabilities.create:
            raise UnsupportedError(
                f"storage {self.name!r} cannot promise that a create has one winner", location=location
            )
        if isinstance(mode, Version) and not capabilities.update:
            raise UnsupportedError(f"storage {self.name!r} cannot compare and swap", location=location)


class Place:
    """One document's place: the storage, the key in it, and the location as the caller gave it."""

    __slots__ = ("key", "location", "storage")

    def __init__(self, storage: Storage, key: str, location: Location, /) -> None:
        self.storage: Storage = storage
        self.key: str = key
        self.location: Location = location

    @property
    def kind(self) -> type[Account | MultiAccount]:
        """The class of document that the file name promises."""
        return Account if kind_of(self.location.file_name) == "account" else MultiAccount

    def same_as(self, other: Place, /) -> bool:
        """Whether both are one file, also where two storages share or overlap."""
        return self.storage.options == other.storage.options and self._url() == other._url()

    def _url(self) -> str:
        return f"{self.storage.url.rstrip('/')}/{self.key}"

    def _run(self, call: Callable[[], R], /) -> R:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 -- named and raised below, outside the frames that held the document
            failure = self.storage.named(error, self.location)
        raise failure

    def encode(self, document: D, kind: type[D], /) -> SecretBytes:
        """The document's bytes. Raises `EncodeError`, `TooLargeError`."""
        if type(document) is not kind:
            raise EncodeError(f"is not of type {kind.__name__}", location=self.location)
        return self._sized(lambda: self.storage.codec.encode(document))

    def merge(self, document: D, kind: type[D], original: Blob, /) -> SecretBytes:
        """The document's bytes, with fields of the original that the model does not know."""
        if type(document) is not kind:
            raise EncodeError(f"is not of type {kind.__name__}", location=self.location)
        return self._sized(lambda: self.storage.codec.merge(document, original.data))

    def transcode(self, blob: Blob, target: Place, /) -> SecretBytes:
        """The bytes of a document of this place for another one."""
        codec, kind = self.storage.codec, self.kind
        self._run(lambda: codec.decode(blob.data, kind))
        return target._sized(lambda: codec.transcode(blob.data, target.storage.codec, kind))

    def _sized(self, make: Callable[[], bytes], /) -> SecretBytes:
        def sized() -> SecretBytes:
            data = SecretBytes(make())
            check_size(len(data), self.storage.limit)
            return data

        return self._run(sized)

    def decode(self, blob: Blob, kind: type[D], /) -> Stored[D]:
        """The document in the bytes. Raises `DecodeError`."""
        stat = blob.stat
        return self._run(
            lambda: Stored(self.storage.codec.decode(blob.data, kind), known(stat), stat.size, stat.modified)
        )

    async def read(self) -> Blob:
        """The document's bytes and stat."""
        try:
            return await self.storage.backend.read(self.key, limit=self.storage.limit)
        except Exception as error:  # noqa: BLE001 -- as in _run
            failure = self.storage.named(error, self.location)
        raise failure

    async def write(self, data: SecretBytes, mode: WriteMode, /) -> Stat:
        """Write bytes that `encode`, `merge` or `transcode` made."""
        self.storage.require(mode, self.location)
        try:
            stat = await self.storage.backend.write(self.key, data, mode=mode)
            known(stat)
        except Exception as error:  # noqa: BLE001 -- as in _run
            failure = self.storage.named(error, self.location)
        else:
            return stat
        raise failure

    async def stat(self) -> Stat:
        """Size, version and time."""
        try:
            return await self.storage.backend.stat(self.key)
        except Exception as error:  # noqa: BLE001 -- as in _run
            failure = self.storage.named(error, self.location)
        raise failure

    async def delete(self, version: Version | None, /) -> None:
        """Remove the document, if it has this version."""
        if version is not None:
            self.storage.require(version, self.location)
        try:
            return await self.storage.backend.delete(self.key, version=version)
        except Exception as error:  # noqa: BLE001 -- as in _run
            failure = self.storage.named(error, self.location)
        raise failure
