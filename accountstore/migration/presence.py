"""Whether a place has any document of those that are migrated: one that has none may not be mounted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from unicodedata import normalize

from accountstore.errors import AccountStoreError, LocationError, NotFoundError, NotRegularError
from accountstore.listing import Folder, Skipped, storage_meant
from accountstore.location import Location
from accountstore.migration.model import Options, Place, named
from accountstore.outcomes import each
from accountstore.scope import Resolver
from accountstore.store import AccountStore

AT_ONCE = 16
"""Questions that are asked together, at most."""
LEFT = "the source has it under another Unicode form of its name: it is left"
_EXTENSION = ".account"


async def exist(store: AccountStore, locations: Sequence[Location], at_once: int, /) -> list[bool | AccountStoreError]:
    """Whether something is at each location, or why that cannot be told; so many are asked at once."""
    return await each(partial(_exists, store), locations, at_once)


async def _exists(store: AccountStore, at: Location, /) -> bool:
    try:
        return await store.exists(at)
    except NotRegularError:
        return True


async def check_source(store: AccountStore, place: Place, options: Options, /) -> None:
    """Refuse a source without any document, also one that is left out: its name may be misspelt; and one of which the
    patterns choose none.
    """
    left_out: list[Skipped] = []
    is_empty = True
    async for entry in store.list(place.folder, storage=place.storage, recursive=True, skipped=left_out.append):
        if options.matches(place.name_of(entry.location.path)):
            return
        is_empty = False
    if any(options.matches(place.name_of(one.path)) for one in left_out):
        return
    folder = str(Folder(place.folder, place.storage))
    if is_empty and not left_out:
        meant = place.storage is None and storage_meant(place.folder, store.storages)
        raise NotFoundError(
            f"no documents in {folder!r}" + (f"; the storage {meant!r} is {f'{meant}:'!r}" if meant else "")
        )
    patterns = (("include", options.include), ("exclude", options.exclude))
    chosen_by = ", ".join(f"{named(option)} {pattern!r}" for option, given in patterns for pattern in given)
    raise NotFoundError(
        f"no document in {folder!r} is chosen by {chosen_by}: patterns are for the path below it, and case counts"
    )


async def ignores_case(resolver: Resolver, at: Location, /) -> bool:
    """Whether a document that is there is found by a name that differs from its own in case alone."""
    return await _is_at(resolver, at, _EXTENSION, _EXTENSION.upper())


async def is_decomposed(resolver: Resolver, at: Location, name: str, /) -> bool:
    """Whether a document of this name below a place is there by the decomposed form of it, as some systems write it."""
    decomposed = normalize("NFD", name)
    return decomposed != name and await _is_at(resolver, at, name, decomposed)


async def _is_at(resolver: Resolver, at: Location, end: str, other: str, /) -> bool:
    """Whether something is where this location is, with another end of its key, which no location may have."""
    ref = resolver.ref(at)
    client = ref.storage.client
    try:
        await client.stat(ref.key.removesuffix(end) + other, client.deadline())
    except NotFoundError:
        return False
    return True


class Presence:
    """Looks for a document of those that are migrated, of whichever shard, and remembers the one that it has found."""

    def __init__(self, store: AccountStore, place: Place, options: Options, /) -> None:
        self._store = store
        self._place = place
        self._options = options
        self._at_once = min(AT_ONCE, options.concurrency)
        self.seen: Location | None = None

    async def is_there(self) -> bool:
        """Whether there is one now: a request, as long as the one that was found is there, and else a look for others.

        Raises:
            AccountStoreError: that cannot be told.
        """
        if self.seen is None or not await self._store.exists(self.seen):
            names = self._options.names
            self.seen = await (self._listed() if names is None else self._named(names))
        return self.seen is not None

    async def _listed(self) -> Location | None:
        place = self._place
        found = self._store.list(place.folder, storage=place.storage, recursive=True, skipped=_told_elsewhere)
        async for entry in found:
            if self._options.matches(place.name_of(entry.location.path)):
                return entry.location
        return None

    async def _named(self, names: Sequence[str], /) -> Location | None:
        unknown: AccountStoreError | None = None
        for begin in range(0, len(names), AT_ONCE):
            asked = [at for name in names[begin : begin + AT_ONCE] if (at := self._at(name)) is not None]
            for at, answer in zip(asked, await exist(self._store, asked, self._at_once), strict=True):
                if answer is True:
                    return at
                if isinstance(answer, AccountStoreError) and not isinstance(answer, LocationError):
                    unknown = answer
        if unknown is not None:
            raise unknown
        return None

    def _at(self, name: str, /) -> Location | None:
        """Where a name is; None: nowhere, or it is not migrated."""
        try:
            return self._place.at(name) if self._options.matches(name) else None
        except LocationError:
            return None


def _told_elsewhere(_: object, /) -> None:
    """What a listing leaves out is told by the listing of the run."""
