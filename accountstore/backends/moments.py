"""When a document was written, as storages tell it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime


def as_utc(moment: datetime | None, /) -> datetime | None:
    """A moment in the standard library's own UTC, whatever class of time zone a client has for it; None where it is not
    in the years 1 to 9999 there.
    """
    if moment is None or moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    with suppress(OverflowError):
        return moment.astimezone(UTC)
    return None


def moment_of(text: str | None, /, parse: Callable[[str], datetime | None]) -> datetime | None:
    """The moment that a text tells; None where it tells none, or one that a calendar does not have."""
    with suppress(ValueError, OverflowError, TypeError):
        return as_utc(parse(text)) if text else None
    return None
