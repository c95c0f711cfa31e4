"""Turns: the documents of a storage and other tasks, by turns."""

from __future__ import annotations

from typing import final

from anyio import Lock

LARGE = 65_536
"""From so many bytes on, a document has a turn of the event loop of its own; smaller ones share one until they are as
many bytes together.
"""


@final
class Turns:
    """The turns of the event loop, shared out among all tasks that work on documents of one storage."""

    __slots__ = ("_lock", "_used")

    def __init__(self) -> None:
        self._lock = Lock()
        self._used = 0

    async def take(self, size: int = 0, /) -> None:
        """Let other tasks go on, where this turn has no room for a document of so many bytes, until there is one that
        has. Who does not know the size yet takes a turn with room for any, and then tells it: `used`.
        """
        if self._used + size >= LARGE:
            async with self._lock:  # which yields, and wakes the next in the turn after
                self._used = 0
        self._used += size

    def used(self, size: int, /) -> None:
        """A document of so many bytes was done in this turn."""
        self._used += size
