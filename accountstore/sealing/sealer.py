"""Sealer: the documents of one storage, plain <-> sealed, many at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from accountstore.backends.base import Blob, Write
from accountstore.codecs import is_sealed, without_mark
from accountstore.errors import AccountStoreError, KeyDeniedError, KeyProviderError, NotSealedError, SealError
from accountstore.sealing.envelope import (
    Envelope,
    WrappedKey,
    moved,
    new_content_key,
    open_content,
    parse,
    place_in,
    place_of,
    seal,
)
from accountstore.sealing.providers import KeyProvider
from accountstore.sealing.ring import KeyRing
from accountstore.secrets import SecretBytes
from accountstore.turns import Turns

T = TypeVar("T")

Mode: TypeAlias = Literal["required", "optional", "unsealing"]
"""`"required"`: plaintext is refused. `"optional"`: it is read, and the next write seals. `"unsealing"`: it is read,
and the next write does not seal."""


_Ask: TypeAlias = (
    "Callable[[KeyProvider, Sequence[WrappedKey], Sequence[str], float], Awaitable[Sequence[T | SealError]]]"
)


class Sealed(Struct, frozen=True, eq=False, gc=False):
    """A sealed document with the key that opens it: `found` is the place in its header."""

    envelope: Envelope
    found: str
    place: str
    provider: KeyProvider
    key: WrappedKey


class Sealer:
    """Seals and opens the documents of one storage, by their keys there. `storage_id` is part of each one's place."""

    def __init__(self, ring: KeyRing, storage_id: str, mode: Mode, /) -> None:
        self.ring: KeyRing = ring
        self.storage_id: str = storage_id
        self.mode: Mode = mode
        self.turns: Turns = Turns()

    def __repr__(self) -> str:
        return f"Sealer({self.storage_id!r}, {self.mode})"

    # --- sealing ------------------------------------------------------------------------------------------------------

    async def seal(self, key: str, data: bytes, by: float, /) -> bytes:
        """The sealed document. Raises `KeyDeniedError`, `KeyProviderError`."""
        if self.mode == "unsealing":
            return data
        place, content_key = place_of(self.storage_id, key), new_content_key()
        return seal(place, data, content_key, await self.ring.wrap((content_key,), (place,), by))

    async def seal_many(self, writes: Sequence[Write], /) -> list[Write]:
        """The same writes, of sealed documents. As `seal`."""
        if self.mode == "unsealing" or not writes:
            return [*writes]
        places = [place_of(self.storage_id, write.key) for write in writes]
        keys = [new_content_key() for _ in places]
        wrapped = await self.ring.wrap(keys, places, self.ring.deadline())
        sealed: list[Write] = []
        for write, place, key, each in zip(writes, places, keys, wrapped, strict=True):
            await self.turns.take(len(write.data))
            sealed.append(write._replace(data=seal(place, write.data, key, (each,))))
        return sealed

    # --- opening ------------------------------------------------------------------------------------------------------

    async def open(self, key: str, blob: Blob, by: float, /) -> Blob:
        """The plain document that was read, which may have been plain where that is allowed. Raises `SealError`."""
        one = self._take_apart(key, blob.data)
        if one is None:
            return blob
        found = _explained(one, (await self.ring.unwrap(one.provider, (one.key,), (one.place,), by))[0])
        result = found if isinstance(found, SealError) else _open(one, found, blob)
        if isinstance(result, SealError):
            raise result
        return result

    async def open_many(
        self, keys: Sequence[str], blobs: Sequence[Blob | AccountStoreError], /
    ) -> list[Blob | AccountStoreError]:
        """Each plain document, or what is wrong with it; errors of reading stay as they are."""
        results, sealed = await self.take_apart(keys, blobs)
        unwrapped = await self._ask_for(sealed, self.ring.unwrap)
        for i, one in sealed.items():
            blob, content_key = results[i], unwrapped[i]
            if isinstance(content_key, SealError):
                results[i] = content_key
            elif isinstance(blob, Blob):
                await self.turns.take(len(blob.data))
                results[i] = _open(one, content_key, blob)
        return results

    async def take_apart(
        self, keys: Sequence[str], blobs: Sequence[Blob | AccountStoreError], /
    ) -> tuple[list[Blob | AccountStoreError], dict[int, Sealed]]:
        """What was read, with the errors of documents that cannot be opened; and those that are sealed, by their place
        in the sequence.
        """
        results = [*blobs]
        sealed: dict[int, Sealed] = {}
        for i, (key, blob) in enumerate(zip(keys, blobs, strict=True)):
            if isinstance(blob, Blob):
                await self.turns.take(len(blob.data))
                try:
                    one = self._take_apart(key, blob.data)
                except SealError as error:
                    results[i] = error.with_traceback(None)
                else:
                    if one is not None:
                        sealed[i] = one
        return results, sealed

    def _take_apart(self, key: str, data: bytes, /) -> Sealed | None:
        """None: it is plain, and may be. Raises `SealError`."""
        if self.mode != "required" and not is_sealed(data):
            return None
        try:
            envelope = parse(without_mark(data), self.ring.algorithms)
        except SealError:
            if is_sealed(data):
                raise
            raise NotSealedError("it is plaintext, or cut off, and the storage takes sealed documents only") from None
        place = place_of(self.storage_id, key)
        found = place_in(envelope, place)
        return Sealed(envelope, found, place, *self.ring.find(envelope.keys))

    async def _ask_for(self, sealed: dict[int, Sealed], ask: _Ask[T], /) -> dict[int, T | SealError]:
        """What the key providers answer for each one's key, by one call of each provider."""
        keys: dict[int, T | SealError] = {}
        for provider, places in _by_provider(sealed):
            mine = [sealed[i] for i in places]
            found: Sequence[T | SealError]
            try:
                found = await ask(provider, *_keys(mine), self.ring.deadline())
            except SealError as error:
                found = [copy(error.with_traceback(None)) for _ in mine]
            for i, one, key in zip(places, mine, found, strict=True):
                keys[i] = _explained(one, key)
        return keys

    # --- moving to another key ----------------------------------------------------------------------------------------

    async def rewrap_many(self, sealed: dict[int, Sealed], /) -> dict[int, WrappedKey | SealError]:
        """The content keys, wrapped by the key that seals now."""
        return await self._ask_for(sealed, self.ring.rewrap)

    async def proven(self, writes: Sequence[Write], current: tuple[str, str], /) -> list[Write | SealError]:
        """The same writes, of sealed documents; of one that another key than the current one seals, or that does not
        open by what the providers unwrap now, the error: it must not replace what opens.
        """
        results: list[Write | SealError] = [*writes]
        if self.mode == "unsealing":
            return results
        sealed: dict[int, Sealed] = {}
        for i, write in enumerate(writes):
            await self.turns.take(len(write.data))
            try:
                one = self._take_apart(write.key, write.data)
            except SealError:
                one = None
            if one is None:
                results[i] = _unproven()
            elif (one.key.algorithm, one.key.key_id) != current:
                results[i] = KeyProviderError(
                    f"the key provider has wrapped it by another key than {current[1]!r}, which seals: the document was"
                    " left as it was",
                    key_id=one.key.key_id,
                )
            else:
                sealed[i] = one
        for i, key in (await self._ask_for(sealed, self.ring.unwrap_anew)).items():
            one, write = sealed[i], writes[i]
            await self.turns.take(len(write.data))
            if isinstance(key, (KeyDeniedError, KeyProviderError)):
                results[i] = key
            elif isinstance(key, SealError) or isinstance(_content(one, key), SealError):
                results[i] = _unproven()
        return results

    async def aclose(self) -> None:
        """Forget the keys and close the providers."""
        await self.ring.aclose()


def _by_provider(sealed: dict[int, Sealed], /) -> Iterator[tuple[KeyProvider, list[int]]]:
    places: dict[int, list[int]] = {}  # a provider need not be hashable
    for i, one in sealed.items():
        places.setdefault(id(one.provider), []).append(i)
    for mine in places.values():
        yield sealed[mine[0]].provider, mine


def _keys(sealed: Sequence[Sealed], /) -> tuple[list[WrappedKey], list[str]]:
    """The keys of documents of one provider, and the places that they are for."""
    return [one.key for one in sealed], [one.place for one in sealed]


def _explained(one: Sealed, key: T | SealError, /) -> T | SealError:
    """A key, or its error; which a key service may have refused because the document was moved."""
    if isinstance(key, SealError) and not key.temporary and one.provider.binds_context and one.found != one.place:
        return moved(one.key.key_id)
    return key


def _open(one: Sealed, key: SecretBytes, blob: Blob, /) -> Blob | SealError:
    data = _content(one, key)
    return data if isinstance(data, SealError) else Blob(data, blob.stat)


def _content(one: Sealed, key: SecretBytes, /) -> SecretBytes | SealError:
    try:
        return open_content(one.envelope, key, one.found, one.place, one.key.key_id)
    except SealError as error:
        return error.with_traceback(None)


def _unproven() -> KeyProviderError:
    return KeyProviderError("what the key provider has wrapped anew does not open: the document was left as it is")
