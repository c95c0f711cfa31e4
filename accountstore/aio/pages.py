"""Async iterators of pages that may be dropped before their end, on any event loop.

An async generator cannot: what it leaves open is closed by the event loop that it began on, if that still runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Paged(Generic[T]):
    """What `fetch` gives, one after another, until it gives None.

    It holds nothing between two of them. After an error or a cancellation the next step calls `fetch` again.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T | None]], /) -> None:
        self._fetch = fetch

    def __aiter__(self) -> Paged[T]:
        return self

    async def __anext__(self) -> T:
        found = await self._fetch()
        if found is None:
            raise StopAsyncIteration
        return found


def pages_of(pages: Iterable[T], /) -> Paged[T]:
    """Pages that are at hand, or that an iterator makes without blocking."""
    return Paged(partial(_next_page, iter(pages)))


async def _next_page(pages: Iterator[T], /) -> T | None:
    from anyio.lowlevel import checkpoint

    await checkpoint()
    return next(pages, None)


def pages_by_cursor(fetch: Callable[[str | None], Awaitable[tuple[T, str | None]]], /) -> Paged[T]:
    """Pages that a service gives one by one, each with the cursor that leads to the next.

    `fetch` takes a cursor, None for the first page, and returns a page and the next cursor, None after the last.
    """
    return Paged(_Cursor(fetch).next_page)


class _Cursor(Generic[T]):
    """How far a listing has come."""

    def __init__(self, fetch: Callable[[str | None], Awaitable[tuple[T, str | None]]], /) -> None:
        self._fetch = fetch
        self._cursor: str | None = None
        self._ended = False

    async def next_page(self) -> T | None:
        if self._ended:
            return None
        page, self._cursor = await self._fetch(self._cursor)
        self._ended = self._cursor is None
        return page


def items_of(fetch: Callable[[], Awaitable[Iterable[T] | None]], /) -> Paged[T]:
    """The items of pages that `fetch` gives until it gives None."""
    return Paged(partial(_next_item, deque(), fetch))


async def _next_item(waiting: deque[T], fetch: Callable[[], Awaitable[Iterable[T] | None]], /) -> T | None:
    while not waiting:
        page = await fetch()
        if page is None:
            return None
        waiting.extend(page)
    return waiting.popleft()
