"""Storage and DocumentRef: documents <-> bytes of one storage, and one document's address in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from anyio import sleep
from msgspec import Struct, field
from msgspec.structs import replace

from accountstore.aio.deadlines import Deadline
from accountstore.backends.base import Blob, Stat, Version, VersionInfo, WriteMode
from accountstore.client import StorageClient
from accountstore.codecs import BYTE_ORDER_MARK, JSON, Codec, is_sealed, refuse_mask, without_mark
from accountstore.errors import (
    AccountStoreError,
    BackendError,
    DecodeError,
    EncodeError,
    MissingKeyError,
    NotFoundError,
)
from accountstore.lease import FIELD, Flight, Lease, LeaseWatch, StorageClock, elapsed, field_of, leases_in
from accountstore.location import Located, Location, locate
from accountstore.model import Account, Document, MultiAccount
from accountstore.retry import Condition, condition_of, out_of_time
from accountstore.secrets import SecretBytes
from accountstore.turns import LARGE, Turns
from accountstore.validation import check_size, kind_of

if TYPE_CHECKING:
    from accountstore.sealing.sealer import Sealer  # noqa: TC004 -- with what only sealed storages need

D = TypeVar("D", bound=Account | MultiAccount)
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
_TO_GIVE: Mapping[str, str] = {"Stored": ": give its `document`", "dict": ": `from_json` makes one of JSON"}
"""What to give instead, by the type of what was given."""
_TO_RETURN = {**_TO_GIVE, "NoneType": ": a function that is given to an update returns the new document"}
"""As `_TO_GIVE`, of an update."""
_PAUSE = 0.02
_MANY = 500
"""Accounts that are about as large."""
_HOLDER = b"holder"
"""What the bytes of a document have, in any codec, where somebody has a lease there."""
_NO_FIELDS: Mapping[str, object] = MappingProxyType({})


class Stored(Struct, Generic[T_co], frozen=True):
    """A document with what its storage knows of it."""

    document: T_co
    version: Version
    size: int
    modified: datetime | None


class Opened(Struct, Generic[T_co], frozen=True, eq=False):
    """A document as it was read, and its plain bytes in its storage's codec."""

    stored: Stored[T_co]
    plain: bytes

    @property
    def version(self) -> Version:
        """The version that was read."""
        return self.stored.version

    @property
    def size(self) -> int:
        """In the storage, in bytes."""
        return self.stored.size


class Storage(Struct, frozen=True, eq=False):
    """A storage client with a codec, the limit of a document, and a sealer where it is encrypted.

    `url` and `options` decide whether two storages are one. They do not show in `repr`.
    """

    client: StorageClient
    codec: Codec
    max_bytes: int
    url: str
    options: Mapping[str, object]
    sealer: Sealer | None = None
    clock: StorageClock = field(default_factory=StorageClock)
    watch: LeaseWatch = field(default_factory=LeaseWatch)
    flights: dict[str, Flight] = field(default_factory=dict[str, Flight])
    """The refreshes under way in this process, by key."""
    plain_turns: Turns = field(default_factory=Turns)

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.client.name

    async def exchanged(self) -> None:
        """Wait until no refresh token is being exchanged any more: what was granted is saved, or its lease is over."""
        while any(flight.until > elapsed() for flight in self.flights.values()):  # noqa: ASYNC110 -- or their time is up
            await sleep(_PAUSE)

    @property
    def turns(self) -> Turns:
        """The turns that the documents take, with the sealer where there is one."""
        return self.plain_turns if self.sealer is None else self.sealer.turns

    async def turn(self, by: float, /) -> None:
        """Let other tasks go on, until there is a turn of the event loop for a large document.

        Raises `UnavailableError` at the operation's deadline, and `ClosedError`.
        """
        client = self.client
        with suppress(TimeoutError), Deadline(client.calls.deadlines, by):
            await self.turns.take(LARGE)
            if not client.calls.closed:
                return
        raise out_of_time(client)

    def __repr__(self) -> str:
        return f"Storage({self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name)]

    def encode(
        self,
        document: D,
        kind: type[D],
        original: bytes | None = None,
        fields: Mapping[str, object] = _NO_FIELDS,
        /,
    ) -> SecretBytes:
        """The document's bytes, with the fields of the original that the model does not know, and these instead of its
        own, top-level ones; None drops one.

        Raises `EncodeError`, `TooLargeError`.
        """
        if type(document) is not kind:
            wrong = type(document).__name__
            instead = (_TO_GIVE if original is None else _TO_RETURN).get(wrong, "")
            raise EncodeError(f"is not of type {kind.__name__}, but {wrong}{instead}")
        codec = self.codec
        if original is None:
            data = SecretBytes(codec.encode(document))
        else:
            given = {name: value for name, value in fields.items() if value is not None}
            data = SecretBytes(codec.merge(document, original, set=given, drop=fields.keys() - given))
        check_size(len(data), self.max_bytes)
        return data

    def transcode(self, data: bytes, source: Codec, kind: type[Document], /) -> SecretBytes:
        """The bytes of a document that `source` has decoded, in this storage's codec, unknown fields included."""
        if source is not self.codec:
            data = self.codec.encode_tree(source.decode_tree(data), kind)
        check_size(len(data), self.max_bytes)
        return SecretBytes(data)

    def leases(self, plain: bytes, /) -> dict[str, Lease]:
        """The leases that a document's plain bytes hold, by the keys of their tokens."""
        return leases_in(self.codec.unknown(plain, FIELD))

    def copied(self, opened: Opened[Document], source: Codec, kind: type[Document], /) -> SecretBytes:
        """The bytes for a copy of a document that `source` has decoded: as `transcode`, without the leases of those who
        have the original, as they know nothing of the copy.
        """
        data = self.transcode(opened.plain, source, kind)
        leases = self.leases(data)
        if not any(lease.holder for lease in leases.values()):
            return data
        free = {key: lease.free() for key, lease in leases.items()}
        return self.encode(opened.stored.document, kind, data, {FIELD: field_of(free)})

    def open(self, key: str, blob: Blob, kind: type[D], /) -> Opened[D]:
        """The document in the plain bytes of a key. Raises `DecodeError`, `TooLargeError`."""
        stat, data = blob.stat, blob.data
        if data.startswith(BYTE_ORDER_MARK) and self.codec is JSON:
            data = without_mark(data)
        if self.sealer is not None:
            check_size(len(data), self.max_bytes)  # the client's limit is that of sealed bytes
        try:
            document = self.codec.decode(data, kind)
        except DecodeError:
            if self.sealer is None and is_sealed(data):
                raise MissingKeyError(_sealed()) from None
            raise
        if _HOLDER in data:
            self.watch.has_read(key, blob.version, self.leases(data))
        return Opened(Stored(document, blob.version, stat.size, stat.modified), data)


class DocumentRef(Struct, frozen=True, eq=False):
    """One document's address: the storage, the key in it, and the location as the caller gave it.

    Errors are about that location, and carry no frame that held the document.
    """

    storage: Storage
    key: str
    location: Location
    by: float
    """When the operation must have ended, as a moment of `time.monotonic()`."""

    @property
    def kind(self) -> type[Account | MultiAccount]:
        """The class of document that the file name promises."""
        return Account if kind_of(self.location.file_name) == "account" else MultiAccount

    @property
    def folder(self) -> str:
        """The key of the folder."""
        return self.key.rpartition("/")[0]

    def same_as(self, other: DocumentRef, /) -> bool:
        """Whether both are one file by their names, also where two storages share or overlap."""
        return self.storage.options == other.storage.options and self._url() == other._url()

    def _url(self) -> str:
        return f"{self.storage.url.rstrip('/')}/{self.key}"

    async def read(self, kind: type[D], /) -> Opened[D]:
        """The document. Raises `NotFoundError`, `DecodeError`, `TooLargeError`, `SealError`."""
        storage = self.storage
        try:  # as `Located`, without its calls: this and `write` are the most frequent
            blob = await storage.client.read(self.key, self.by)
            if storage.sealer is not None:
                if len(blob.data) > LARGE:
                    await storage.turn(self.by)
                blob = await storage.sealer.open(self.key, blob, self.by)
            if len(blob.data) > LARGE:
                await storage.turn(self.by)
            return storage.open(self.key, blob, kind)
        except AccountStoreError as error:
            raise locate(error, self.location)  # noqa: B904 -- it is the same one

    async def stat(self) -> Stat:
        """Size, version and time. Raises `NotFoundError`."""
        with Located(self.location):
            return await self.storage.client.stat(self.key, self.by)

    async def versions(self) -> Sequence[VersionInfo]:
        """What the storage keeps of it, newest first. Raises `NotFoundError`, `UnsupportedError`."""
        with Located(self.location):
            return await self.storage.client.versions(self.key, self.by)

    async def present(self) -> Stat | None:
        """As `stat`; None where there is no document."""
        try:
            return await self.stat()
        except NotFoundError:
            return None

    async def write(self, document: D, kind: type[D], mode: WriteMode, original: bytes | None = None, /) -> Stored[D]:
        """Encode and write a document. Raises as `Storage.encode`, `Sealer.seal` and `StorageClient.write`."""
        storage = self.storage
        try:
            if isinstance(document, MultiAccount) and len(document.receive_accounts) > _MANY:
                await storage.turn(self.by)
            data: bytes = storage.encode(document, kind, original)
            if storage.sealer is not None:  # as `_put`, without a call
                data = await storage.sealer.seal(self.key, data, self.by)
            return stored(document, await storage.client.write(self.key, data, mode, self.by))
        except AccountStoreError as error:
            raise locate(error, self.location)  # noqa: B904 -- it is the same one

    async def _put(self, data: bytes, mode: WriteMode, /) -> Stat:
        """Write the bytes of a document, sealed where the storage is."""
        storage = self.storage
        if storage.sealer is not None:
            data = await storage.sealer.seal(self.key, data, self.by)
        return await storage.client.write(self.key, data, mode, self.by)

    async def rewrite(
        self, opened: Opened[D], document: D, kind: type[D], fields: Mapping[str, object], /
    ) -> Opened[D]:
        """Write a document where it still is what was opened, keeping its unknown fields but these. As `write`."""
        with Located(self.location):
            if len(opened.plain) > LARGE:
                await self.storage.turn(self.by)
            data = self.storage.encode(document, kind, opened.plain, fields)
            return Opened(stored(document, await self._put(data, opened.stored.version)), data)

    def renewed(self) -> Self:
        """The same with a deadline of its own: for one request of an operation that takes longer than one."""
        return replace(self, by=self.storage.client.deadline())

    async def write_copy(
        self, opened: Opened[D], source: Storage, mode: WriteMode, fields: Mapping[str, Any] | None = None, /
    ) -> Stored[D]:
        """Write a document that was opened on another storage, unknown fields included, and these; nobody's lease."""
        with Located(self.location):
            if len(opened.plain) > LARGE:
                await self.storage.turn(self.by)
            data = self.storage.copied(opened, source.codec, self.kind)
            if fields is not None:
                data = SecretBytes(self.storage.codec.merge(opened.stored.document, data, set=fields))
            return stored(opened.stored.document, await self._put(data, mode))

    async def read_json(self) -> Stored[bytes]:
        """The document's JSON, whole. As `read`."""
        opened = await self.read(self.kind)
        data, codec, stat = opened.plain, self.storage.codec, opened.stored
        if codec is not JSON:
            with Located(self.location):
                if len(data) > LARGE:
                    await self.storage.turn(self.by)
                data = SecretBytes(JSON.encode_tree(codec.decode_tree(data), self.kind))
        return Stored(data, stat.version, stat.size, stat.modified)

    async def write_json(self, data: bytes, mode: WriteMode, /) -> Stored[None]:
        """Check and write a document's JSON, whole. As `write`."""
        with Located(self.location):
            check_size(len(data), self.storage.max_bytes)
            if len(data) > LARGE:
                await self.storage.turn(self.by)
            data = without_mark(data)
            try:
                refuse_mask(JSON.decode(data, self.kind))
            except DecodeError as error:
                raise EncodeError(error.message, field=error.field) from None
            return stored(None, await self._put(self.storage.transcode(data, JSON, self.kind), mode))

    async def delete(self, version: Version | None = None, /) -> None:
        """Remove the document, if it has this version."""
        with Located(self.location):
            await self.storage.client.delete(self.key, version, self.by)

    async def require(self, condition: Condition, /) -> None:
        """Raise `UnsupportedError` unless the storage honours the condition."""
        with Located(self.location):
            await self.storage.client.require(condition, self.folder, self.by)

    async def require_mode(self, mode: WriteMode, /) -> None:
        """Raise `UnsupportedError` unless the storage takes a write in this mode; a read-only one, before any I/O."""
        if mode != "overwrite":
            await self.require(condition_of(mode))
        elif self.storage.client.capabilities.read_only:
            await self.require("create")

    async def honours(self, condition: Condition, /) -> bool:
        """Whether the storage honours the condition."""
        with Located(self.location):
            return await self.storage.client.honours(condition, self.folder, self.by)


def _sealed() -> str:
    """What is said where a document is sealed, and its storage has no keys."""
    from importlib.util import find_spec

    what = "the document is sealed (encrypted): give its storage `encryption` with the keys"
    return what if find_spec("cryptography") else f"{what}; that needs a package: pip install 'accountstore[crypto]'"


def stored(document: T, stat: Stat, /) -> Stored[T]:
    """A document with what the storage has returned. Raises `BackendError` where that has no version."""
    if stat.version is None:
        raise BackendError("the backend returned no version")
    return Stored(document, stat.version, stat.size, stat.modified)
