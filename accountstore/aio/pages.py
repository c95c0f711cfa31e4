"""Async iterators of pages that may be dropped before their end, on any event loop.

An async generator cannot: what it leaves open is closed by the event loop that it began on, if that still runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from anyio import Lock

T = TypeVar("T")
C = TypeVar("C")


class Paged(Generic[T]):
    """What `fetch` gives, one after another, until it gives None.

    It holds nothing between two of them. After an error or a cancellation the next step calls `fetch` again.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T | None]], /) -> None:
        self._fetch = fetch

    def __aiter__(self) -> Paged[T]:
        return self

    if not TYPE_CHECKING:  # checkers shall say what is not there

        def __await__(self) -> NoReturn:
            raise TypeError("this is iterated over, not awaited: `async for item in ...`")

        def __iter__(self) -> NoReturn:
            raise TypeError("this is iterated over asynchronously: `async for item in ...`")

    async def __anext__(self) -> T:
        found = await self._fetch()
        if found is None:
            raise StopAsyncIteration
        return found


def pages_of(pages: Iterable[T], /) -> Paged[T]:
    """Pages that are at hand, or that an iterator makes without blocking."""
    from anyio.lowlevel import checkpoint

    rest = iter(pages)

    async def next_page() -> T | None:
        await checkpoint()
        return next(rest, None)

    return Paged(next_page)


def pages_by_cursor(fetch: Callable[[C | None], Awaitable[tuple[T, C | None]]], /) -> Paged[T]:
    """Pages that a service gives one by one, each with the cursor that leads to the next.

    `fetch` takes a cursor, None for the first page, and returns a page and the next cursor, None after the last.
    """
    cursor: C | None = None
    ended = False

    async def next_page() -> T | None:
        nonlocal cursor, ended
        if ended:
            return None
        page, cursor = await fetch(cursor)
        ended = cursor is None
        return page

    return Paged(next_page)


def items_of(fetch: Callable[[], Awaitable[Iterable[T] | None]], /) -> Paged[T]:
    """The items of pages that `fetch` gives until it gives None; of several tasks that take them each has others."""
    waiting: deque[T] = deque()
    fetching = Lock(fast_acquire=True)

    async def next_item() -> T | None:
        while not waiting:
            async with fetching:
                if waiting:
                    continue
                page = await fetch()
                if page is None:
                    return None
                waiting.extend(page)
        return waiting.popleft()

    return Paged(next_item)
