"""Work on many documents: whatever fails with one is said, and the others are gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from anyio import create_task_group

from accountstore import AccountStore, AccountStoreError, Location, LocationError, NotFoundError
from accountstore.cli.exits import print_error
from accountstore.cli.listing import leading_on, print_skipped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from accountstore import Skipped

__all__ = ("check_storages", "documents_below", "each", "folder_pairs")

T = TypeVar("T")

_AT_ONCE = 8


def check_storages(store: AccountStore, places: Iterable[Location], /) -> None:
    """Raise `LocationError` where the storage of a location is not configured."""
    for where in places:
        store.capabilities(where.storage)


async def each(
    store: AccountStore, items: Iterable[T], act: Callable[[T], Awaitable[object]], /, *, at_once: int = _AT_ONCE
) -> bool:
    """Whether `act` succeeded with all items. Each error of the store is printed as it comes."""
    failed: list[AccountStoreError] = []
    waiting = iter(items)
    try:
        async with create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(_work, store, waiting, act, failed)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return not failed


async def _work(
    store: AccountStore,
    waiting: Iterator[T],
    act: Callable[[T], Awaitable[object]],
    failed: list[AccountStoreError],
    /,
) -> None:
    for item in waiting:
        try:
            await act(item)
        except AccountStoreError as error:
            failed.append(error)
            print_error(leading_on(error, store) if isinstance(error, NotFoundError) else error)


async def documents_below(store: AccountStore, folder: Location, /) -> tuple[list[Location], bool]:
    """The documents in the folder of a location and below it, and whether these are all.

    They are listed to the end before anything is done with one: two storages may be names of one place.
    """
    skipped: list[Skipped] = []
    entries = store.list(folder.folder, storage=folder.storage, recursive=True, skipped=skipped.append)
    found = [entry.location async for entry in entries]
    print_skipped("left out", skipped)
    return sorted(found, key=str), not skipped


def folder_pairs(
    store: AccountStore, documents: Iterable[Location], source: Location, target: Location, /
) -> list[tuple[Location, Location]]:
    """Each document in the folder of `source` with its place in the folder of `target`.

    Raises:
        LocationError: the target is in the source, or a place has a name that is too long.
    """
    default = store.storages[0]
    inside = f"{target.folder}/".startswith(f"{source.folder}/") or not source.folder
    if inside and (source.storage or default) == (target.storage or default):
        raise LocationError("the target is in the source")
    start = len(source.folder) + 1 if source.folder else 0
    pairs: list[tuple[Location, Location]] = []
    for where in documents:
        path = "/".join(filter(None, (target.folder, where.path[start:])))
        folder, _, name = path.rpartition("/")
        pairs.append((where, Location(name, folder=folder, storage=target.storage)))
    return pairs
