"""Pages: in order, to their end, none skipped after an error or a cancellation, nothing left when they are dropped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from running import HUNG

from accountstore.aio.pages import items_of, pages_by_cursor, pages_of
from accountstore.aio.threads import ThreadPool, pages_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accountstore.aio.pages import Paged

pytestmark = pytest.mark.anyio

PAGES: tuple[list[int], ...] = ([1, 2], [], [3])


class Service:
    """Gives pages, with cursors and without; so many of its first calls fail."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self.given = 0

    async def page(self) -> list[int] | None:
        self.calls += 1
        await anyio.sleep(0)
        if self.calls <= self.failures:
            raise OSError(self.calls)
        self.given += 1
        return PAGES[self.given - 1] if self.given <= len(PAGES) else None

    async def by_cursor(self, cursor: str | None) -> tuple[list[int], str | None]:
        assert cursor == (str(self.given) if self.given else None)
        page = await self.page()
        assert page is not None
        return page, str(self.given) if self.given < len(PAGES) else None


class Blocking:
    """A blocking iterator of pages that may have to wait, and may fail at its end."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.closed = False

    def pages(self) -> Iterator[list[int]]:
        try:
            for page in PAGES:
                self.entered.set()
                assert self.go_on.wait(HUNG)
                yield page
            if self.fails:
                raise OSError("at the end")
        finally:
            self.closed = True


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    threads = ThreadPool(4)
    yield threads
    threads.close()


ALL: dict[str, Callable[[ThreadPool], Paged[list[int]]]] = {
    "pages_of": lambda _: pages_of(PAGES),
    "pages_by_cursor": lambda _: pages_by_cursor(Service().by_cursor),
    "pages_in_threads": lambda pool: pages_in_threads(pool, Blocking().pages()),
}
FETCHED: dict[str, tuple[Callable[[Service], Paged[object]], object]] = {
    "pages_by_cursor": (lambda service: pages_by_cursor(service.by_cursor), [1, 2]),
    "items_of": (lambda service: items_of(service.page), 1),
}
"""What asks a service, and its first result."""
each_fetched = pytest.mark.parametrize(("make", "first"), FETCHED.values(), ids=FETCHED)


@pytest.mark.parametrize("name", ALL)
async def test_pages_come_in_order_and_then_end(name: str, pool: ThreadPool) -> None:
    """Each page comes once, empty ones too; the end stays the end."""
    pages = ALL[name](pool)
    assert [page async for page in pages] == [*PAGES]
    with pytest.raises(StopAsyncIteration):
        await anext(pages)


async def test_items_come_one_by_one_and_a_page_is_fetched_when_it_is_needed() -> None:
    """The items of all pages in order, also past an empty page; no page is fetched before those of the last are out."""
    service = Service()
    items = items_of(service.page)
    assert [await anext(items), await anext(items), service.calls] == [1, 2, 1]
    assert [item async for item in items] == [3]
    assert service.calls == 4


@each_fetched
async def test_an_error_skips_nothing(make: Callable[[Service], Paged[object]], first: object) -> None:
    """After an error the same page is asked for again, with the same cursor."""
    pages = make(Service(failures=2))
    for number in "12":
        with pytest.raises(OSError, match=number):
            await anext(pages)
    assert await anext(pages) == first


@each_fetched
async def test_a_cancelled_step_skips_nothing(make: Callable[[Service], Paged[object]], first: object) -> None:
    """A page whose step was cancelled is asked for again, if it was asked for before."""
    service = Service()
    pages = make(service)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(pages)
    assert scope.cancelled_caught
    assert await anext(pages) == first
    assert service.calls in {1, 2}


async def test_an_error_of_a_blocking_iterator_comes_again_and_again(pool: ThreadPool) -> None:
    """It has ended by the error: the error stands for the rest, which is not taken for the end."""
    pages = pages_in_threads(pool, Blocking(fails=True).pages())
    assert [await anext(pages) for _ in PAGES] == [*PAGES]
    for _ in range(2):
        with pytest.raises(OSError, match="at the end"):
            await anext(pages)


async def test_a_page_that_was_fetched_for_a_cancelled_step_is_the_next_ones(pool: ThreadPool) -> None:
    """The step ends at once and leaves its thread; the next one waits for that, and has the page that it fetched."""
    blocking = Blocking()
    blocking.go_on.clear()
    pages = pages_in_threads(pool, blocking.pages())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, pages)
        await anyio.to_thread.run_sync(blocking.entered.wait, HUNG)
        tasks.cancel_scope.cancel()
    blocking.go_on.set()
    assert [page async for page in pages] == [*PAGES]


async def test_a_blocking_iterator_that_is_dropped_is_closed(pool: ThreadPool) -> None:
    """Its own clean-up runs when the pages are dropped before their end."""
    blocking = Blocking()
    pages = pages_in_threads(pool, blocking.pages())
    await anext(pages)
    assert not blocking.closed
    del pages
    await pool.run(int)  # the thread has let go of what it ran before
    assert blocking.closed
