"""Results of many calls: each a value or an error, at its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from accountstore.errors import AccountStoreError, BackendError

A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


async def outcome_of(call: Awaitable[T], /) -> T | AccountStoreError:
    """The result of a call, or its error: as one result of many."""
    try:
        return await call
    except AccountStoreError as error:
        return error.with_traceback(None)


async def each(call: Callable[[A], Awaitable[T]], items: Sequence[A], at_once: int, /) -> list[T | AccountStoreError]:
    """The result of a call for each item, or its error; some at a time."""
    if at_once == 1:
        return [await outcome_of(call(item)) for item in items]
    results: dict[int, T | AccountStoreError] = {}
    turn = anyio.CapacityLimiter(at_once)

    async def run(place: int, item: A) -> None:
        async with turn:
            results[place] = await outcome_of(call(item))

    async with anyio.create_task_group() as tasks:
        for place, item in enumerate(items):
            tasks.start_soon(run, place, item)
    return [results[place] for place in range(len(items))]


async def one_for_each(
    call: Callable[Concatenate[Sequence[T], P], Awaitable[Sequence[R]]],
    documents: Sequence[T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Sequence[R]:
    """What a batch returns. Raises `BackendError` if nobody knows which result is whose."""
    results = await call(documents, *args, **kwargs)
    if len(results) != len(documents):
        raise BackendError(f"the backend returned {len(results)} results for {len(documents)} documents")
    return results
