"""What ends a run: a storage that has failed as a whole, and a system that has no more resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accountstore import errors
from accountstore.errors import AccountStoreError, BackendError, UnavailableError
from accountstore.migration.merge import Item
from accountstore.migration.records import Done

_NO_ANSWER = 16
"""So many documents of a batch, all of which failed, without an answer are a storage that does not answer."""
_IN_A_ROW = 1_000
"""So many that may not be read or written, with none between that may, are a storage that lets nobody in: fewer may be
those that come first, such as archived objects, another key's or another user's.
"""


class Failures:
    """The documents that have failed one after another."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def check(self, batch: Sequence[Done], items: Mapping[str, Item], /) -> None:
        """Raise the error of a storage that has failed as a whole, as this batch shows.

        What the last run could not do either is passed by, so that a run comes further than the one before.
        """
        for done in batch:
            if done.stop:
                raise _stopped(done)
        failed = [done for done in batch if done.outcome == "failed"]
        if len(failed) < len(batch):
            self._in_a_row = 0
            return
        unanswered = [done for done in failed if _kind(done).temporary]
        refused = [done for done in failed if not _kind(done).temporary and not _failed_before(items.get(done.name))]
        self._in_a_row += len(refused)
        if len(unanswered) >= _NO_ANSWER:
            raise _stopped(unanswered[-1])
        if refused and self._in_a_row >= _IN_A_ROW:
            raise _stopped(refused[-1])


def told_of_shortage(error: Exception, /) -> UnavailableError | None:
    """What is told of an error of the system: it has no thread, process or descriptor more. None: it is another."""
    if isinstance(error, AccountStoreError):
        return None
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        reason = "no more threads"
    else:
        return None
    return UnavailableError(f"the migration has stopped; it goes on when it is run again ({reason})", sent=False)


def _kind(done: Done, /) -> type[AccountStoreError]:
    return getattr(errors, done.error, BackendError)


def _failed_before(item: Item | None, /) -> bool:
    return item is not None and item.row is not None and item.row.outcome == "failed"


def _stopped(done: Done, /) -> AccountStoreError:
    return _kind(done)(f"the migration has stopped; it goes on where it was when it is run again ({done.reason})")
