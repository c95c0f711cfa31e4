"""What a backend tells of a write that may be cut short: whether anything of it has left."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


class Sending:
    """A request of a write. It counts as sent unless the backend tells that it is not, or not yet."""

    _told: bool = False
    sent: bool = True
    _keys: frozenset[str] = frozenset()

    def hold(self) -> None:
        """Nothing has left yet, unless it was told before that something has."""
        if not self._told:
            self._told = True
            self.sent = False

    def release(self, key: str | None = None, /) -> None:
        """It is about to leave, or was just done; of a batch, the write of this key. In any thread."""
        if key is not None:
            self._keys |= {key}
        self.sent = True

    def has_sent(self, key: str, /) -> bool:
        """Whether the write of this key may have left: any, unless it was told of which."""
        return self.sent and (not self._keys or key in self._keys)


SENDING: ContextVar[Sending | None] = ContextVar("accountstore_sending", default=None)
"""The request of the write that this task makes; None: it makes none."""


def hold() -> None:
    """Tell that nothing has left yet of the request that this task makes."""
    if (sending := SENDING.get()) is not None:
        sending.hold()


def release() -> None:
    """Tell that the request that this task makes is about to leave."""
    releaser()(None)


def releaser() -> Callable[[str | None], None]:
    """What tells it from another thread."""
    sending = SENDING.get()
    return _nobody if sending is None else sending.release


def _nobody(_: str | None, /) -> None: ...


def has_left() -> bool:
    """Whether something may have left of the request that this task makes."""
    sending = SENDING.get()
    return sending is None or sending.sent
