"""One opened storage, and one place in it: encode, gate, call the backend, name its errors once."""

from __future__ import annotations

from datetime import datetime
from errno import errorcode
from functools import partial
from os import strerror, urandom
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.attempts import Policy, ask, settle, within
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
    UncertainError,
    UnsupportedError,
)
from accountstore.location import Location
from accountstore.model import Account, MultiAccount
from accountstore.proving import Proof, prove
from accountstore.secrets import SecretBytes
from accountstore.validation import check_size, kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from accountstore.backends.base import Backend, Blob, Capabilities, Stat, WriteMode
    from accountstore.codecs import Codec

__all__ = ("Place", "Storage", "Stored", "check_mode", "known")

D = TypeVar("D", bound=Account | MultiAccount)
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


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
    UncertainError: "nobody knows whether it was done",
    BackendError: "the storage failed",
}

_OF_THE_DOCUMENT = (NotFoundError, ExistsError, ConflictError, NotRegularError)


class Storage:
    """A backend with its name, codec, limit and policy."""

    __slots__ = (
        "_proof",
        "_proving",
        "_trusted",
        "backend",
        "capabilities",
        "codec",
        "limit",
        "name",
        "options",
        "policy",
        "url",
        "where",
    )

    def __init__(
        self,
        name: str,
        backend: Backend,
        codec: Codec,
        limit: int,
        /,
        *,
        url: str,
        options: dict[str, object],
        where: str = "",
        policy: Policy | None = None,
        trusted: bool = False,
    ) -> None:
        self.name: str = name
        self.backend: Backend = backend
        self.codec: Codec = codec
        self.limit: int = limit
        self.url: str = url
        self.options: dict[str, object] = options
        self.where: str = where
        self.policy: Policy = policy or Policy()
        self.capabilities: Capabilities = backend.capabilities
        self._trusted = trusted
        believed = self.capabilities.proven or trusted
        self._proof: Proof | None = Proof.believed(self.capabilities) if believed else None
        self._proving = anyio.Lock()

    def named(self, error: Exception, /, location: Location | None) -> AccountStoreError:
        """The error to raise for one that came from below.

        It carries no traceback from there, whose frames hold documents and credentials. Nor does it carry a foreign
        text: the cause is an operating system error's number, where there is one.
        """
        cause: OSError | None = None
        if isinstance(error, AccountStoreError):
            from copy import copy

            failure = copy(error)  # one error may stand for many documents
        else:
            kind = self.backend.classify(error)
            if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in errorcode:
                cause = OSError(error.errno, strerror(error.errno))
            detail = "" if kind in {NotFoundError, ExistsError} else f" ({cause or type(error).__name__})"
            failure = kind(_REASONS.get(kind, _REASONS[BackendError]) + detail)
            if isinstance(failure, UnavailableError):
                failure.sent = not isinstance(error, ConnectionRefusedError)
        about_storage = isinstance(failure, BackendError) and not isinstance(failure, _OF_THE_DOCUMENT)
        if about_storage and self.where and self.where not in failure.message:
            failure.message = f"{failure.message} [storage {self.name!r}: {self.where}]"
            failure.args = (failure.message,)
        failure.__traceback__ = failure.__context__ = None
        failure.__cause__ = cause
        failure.location = location
        return failure

    async def proof(self, folder: str, location: Location | None, /) -> Proof:
        """What the storage honours: as its backend declares; or, where that depends on the server, as it is tried in a
        folder the first time that it is asked for.
        """
        if self._proof is not None:
            return self._proof
        async with self._proving:
            if self._proof is None:
                name = partial(self.named, location=location)
                outcome = await within(lambda: self._prove(folder, name), name, self.policy)
                if isinstance(outcome, AccountStoreError):
                    raise outcome
                self._proof = outcome
        return self._proof

    def learn(self, proof: Proof, /) -> None:
        """Take over what was seen, unless the backend or the configuration vouches for the storage."""
        if not self.capabilities.proven and not self._trusted:
            self._proof = proof

    async def _prove(self, folder: str, name: Callable[[Exception], AccountStoreError], /) -> Proof | AccountStoreError:
        return await ask(lambda: prove(self.backend, folder), name, self.policy)

    async def require(self, mode: WriteMode, folder: str, location: Location | None, /) -> None:
        """Raise `UnsupportedError` unless the storage honours what the mode needs; `ValueError` for no mode at all."""
        check_mode(mode)
        if mode == "overwrite":
            return
        able = self.capabilities
        if not (able.create if mode == "create" else able.update):
            raise UnsupportedError(
                f"storage {self.name!r} cannot "
                + ("promise that a create has one winner" if mode == "create" else "compare and swap"),
                location=location,
            )
        proof = await self.proof(folder, location)
        if not (proof.create if mode == "create" else proof.update):
            raise UnsupportedError(
                f"storage {self.name!r} ignores the condition of "
                + ("a create: a second one was not refused" if mode == "create" else "a swap"),
                location=location,
            )


class Place(Struct, frozen=True, eq=False):
    """One document's place: the storage, the key in it, and the location as the caller gave it."""

    storage: Storage
    key: str
    location: Location

    @property
    def kind(self) -> type[Account | MultiAccount]:
        """The class of document that the file name promises."""
        return Account if kind_of(self.location.file_name) == "account" else MultiAccount

    def same_as(self, other: Place, /) -> bool:
        """Whether both are one file, also where two storages share or overlap."""
        return self.storage.options == other.storage.options and self._url() == other._url()

    def _url(self) -> str:
        return f"{self.storage.url.rstrip('/')}/{self.key}"

    def _run(self, call: Callable[[Unpack[Ts]], R], /, *data: *Ts) -> R:
        try:
            return call(*data)
        except Exception as error:  # noqa: BLE001 -- named and raised below, outside the frames that held the document
            failure = self.storage.named(error, self.location)
        raise failure

    def encode(self, document: D, kind: type[D], /) -> SecretBytes:
        """The document's bytes. Raises `EncodeError`, `TooLargeError`."""
        self._check_type(document, kind)
        return self._run(self._sized, self.storage.codec.encode, document)

    def merge(self, document: D, kind: type[D], original: Blob, /) -> SecretBytes:
        """The document's bytes, with fields of the original that the model does not know."""
        self._check_type(document, kind)
        return self._run(self._sized, self.storage.codec.merge, document, original.data)

    def transcode(self, blob: Blob, target: Place, /) -> SecretBytes:
        """The bytes of a document of this place for another one."""
        codec, kind = self.storage.codec, self.kind
        self._run(codec.decode, blob.data, kind)
        return target._run(target._sized, codec.transcode, blob.data, target.storage.codec, kind)

    def _check_type(self, document: object, kind: type, /) -> None:
        if type(document) is not kind:
            raise EncodeError(f"is not of type {kind.__name__}", location=self.location)

    def _sized(self, make: Callable[[Unpack[Ts]], bytes], /, *data: *Ts) -> SecretBytes:
        made = SecretBytes(make(*data))
        check_size(len(made), self.storage.limit)
        return made

    def decode(self, blob: Blob, kind: type[D], /) -> Stored[D]:
        """The document in the bytes. Raises `DecodeError`."""
        document = self._run(self.storage.codec.decode, blob.data, kind)
        stat = blob.stat
        return Stored(document, self._run(known, stat), stat.size, stat.modified)

    def read(self) -> Coroutine[Any, Any, Blob]:
        """To be awaited: the document's bytes and stat."""
        return self._ask(lambda: self.storage.backend.read(self.key, limit=self.storage.limit))

    def stat(self) -> Coroutine[Any, Any, Stat]:
        """To be awaited: size, version and time."""
        return self._ask(lambda: self.storage.backend.stat(self.key))

    async def _ask(self, call: Callable[[], Awaitable[R]], /) -> R:
        outcome = await ask(call, self._named, self.storage.policy)
        if isinstance(outcome, AccountStoreError):
            raise outcome
        return outcome

    def _named(self, error: Exception, /) -> AccountStoreError:
        return self.storage.named(error, self.location)

    async def require(self, mode: WriteMode, /) -> None:
        """As `Storage.require`, tried in this place's folder."""
        await self.storage.require(mode, self._folder, self.location)

    async def can_delete_version(self) -> bool:
        """Whether a delete can be conditional."""
        able = self.storage.capabilities
        return able.update and (await self.storage.proof(self._folder, self.location)).delete

    @property
    def _folder(self) -> str:
        return self.key.rpartition("/")[0]

    async def write(self, data: bytes, mode: WriteMode, /) -> Stat:
        """Write bytes that `encode`, `merge` or `transcode` made."""
        if mode != "overwrite":
            await self.require(mode)
        stat = await settle(_Write(self, data, mode), self._named, self.storage.policy)
        if isinstance(stat, AccountStoreError):
            raise stat
        if stat is None:
            raise AssertionError("unreachable: a write ends with a document")
        self._run(known, stat)
        return stat

    async def delete(self, version: Version | None, /) -> None:
        """Remove the document, if it has this version."""
        if version is not None:
            await self.require(version)
            if not await self.can_delete_version():
                raise UnsupportedError(
                    f"storage {self.storage.name!r} ignores the condition of a delete", location=self.location
                )
        outcome = await settle(_Delete(self, version), self._named, self.storage.policy)
        if isinstance(outcome, AccountStoreError):
            raise outcome

    async def look(self) -> Stat | None:
        """The document's stat, or None where there is no document; or what the backend raises."""
        return await self._unless_missing(lambda: self.storage.backend.stat(self.key))

    async def compare(self, data: bytes, mark: str, /) -> Stat | None:
        """As `look`, on a backend that keeps no marks: the mark tells whether the document has these bytes."""
        backend, limit = self.storage.backend, self.storage.limit
        blob = await self._unless_missing(lambda: backend.read(self.key, limit=limit))
        return None if blob is None else replace(blob.stat, mark=mark if blob.data == data else None)

    async def _unless_missing(self, call: Callable[[], Awaitable[R]], /) -> R | None:
        try:
            return await call()
        except Exception as error:
            if isinstance(self._named(error), NotFoundError):
                return None
            raise


class _Write:
    """A document's write, as a change to settle."""

    __slots__ = ("_data", "_mark", "_place", "certain", "condition")

    def __init__(self, place: Place, data: bytes, mode: WriteMode, /) -> None:
        self._place = place
        self._data = data
        self._mark = "" if mode == "overwrite" else urandom(8).hex()
        self.condition: WriteMode = mode
        self.certain: bool = not place.storage.capabilities.marks

    def call(self) -> Awaitable[Stat]:
        mark = "" if self.certain else self._mark
        return self._place.storage.backend.write(self._place.key, self._data, mode=self.condition, mark=mark)

    def look(self) -> Awaitable[Stat | None]:
        return self._place.compare(self._data, self._mark) if self.certain else self._place.look()

    def done(self, now: Stat | None, /) -> bool:
        return now is not None and now.mark == self._mark


class _Delete:
    """A document's removal, as a change to settle."""

    __slots__ = ("_place", "_version")

    def __init__(self, place: Place, version: Version | None, /) -> None:
        self._place = place
        self._version = version

    @property
    def condition(self) -> WriteMode:
        return "overwrite" if self._version is None else self._version

    @property
    def certain(self) -> bool:
        return not self._place.storage.capabilities.marks

    def call(self) -> Awaitable[None]:
        return self._place.storage.backend.delete(self._place.key, version=self._version)

    def look(self) -> Awaitable[Stat | None]:
        return self._place.look()

    def done(self, now: Stat | None, /) -> bool:
        return now is None
