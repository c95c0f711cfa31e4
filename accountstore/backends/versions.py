"""The versions of one document, from the pages in which an object store lists them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from accountstore.backends.answers import pages_by_mark
from accountstore.backends.base import NotFoundError, VersionInfo
from accountstore.backends.object_store import error_for_status

VersionsPage: TypeAlias = tuple[list[VersionInfo], str | None]


async def all_versions(fetch: Callable[[str | None], Awaitable[VersionsPage]], /) -> list[VersionInfo]:
    """All versions that `fetch` gives, a page for a cursor, in their order. Raises `NotFoundError` where it is none."""
    try:
        found = [version async for page in pages_by_mark(fetch) for version in page]
    except NotFoundError:  # a listing is of the bucket
        raise error_for_status(404, "NoSuchBucket") from None
    if not found:
        raise NotFoundError("there is no such document")
    return found
