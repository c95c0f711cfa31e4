"""The lease on a refresh token, as a document holds it, and what one process knows of the leases of others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, cast

import anyio
import msgspec
from msgspec import Struct

from accountstore.backends.base import Version
from accountstore.secrets import Secret

FIELD = "accountstoreRefresh"
"""The top-level field of a document with its leases. The model does not have it, so other writers keep it or drop it
whole."""
LONGEST = 3600.0
"""The longest lease, in seconds."""
_TOLERANCE = timedelta(seconds=30)
_WATCHED = 10_000


def elapsed() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps, where the system has such."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Lease(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a document says of one refresh token: who exchanges it, and the token before it.

    `holder` is random for each lease, and `""` where nobody has it; `seconds` says how long it may keep others waiting,
    from the moment at which they see it.
    """

    holder: str = ""
    seconds: float = 0.0
    previous: Secret | None = None

    def free(self) -> Lease:
        """The same, which nobody has."""
        return msgspec.structs.replace(self, holder="", seconds=0.0)


NO_LEASE = Lease()


def key_of(refresh_token: Secret, /) -> str:
    """What a document's leases call a refresh token: a digest, so that an entry fits no other token."""
    from hashlib import blake2b  # on first use

    return blake2b(refresh_token.reveal().encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def leases_in(value: object, /) -> dict[str, Lease]:
    """The leases that a document's field holds, by the tokens' keys; none, where it is not of this library's making."""
    leases: dict[str, Lease] = {}
    for key, entry in cast("dict[object, object]", value).items() if isinstance(value, dict) else ():
        with suppress(msgspec.ValidationError, TypeError):  # one that is none says nothing of the others
            leases[msgspec.convert(key, str)] = msgspec.convert(entry, Lease, dec_hook=lambda _, text: Secret(text))
    return leases


def field_of(leases: Mapping[str, Lease], /) -> dict[str, Any] | None:
    """The field's value for these leases; None: a document without the field says the same."""
    kept = {key: lease for key, lease in leases.items() if lease != NO_LEASE}
    return {key: {k: v for k, v in msgspec.structs.asdict(lease).items() if v} for key, lease in kept.items()} or None


class LeaseWatch:
    """Since when this process has seen which holder: no clock of another machine is asked; and which documents it has
    read while somebody had a lease on a token there.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._read: dict[tuple[str, Version], dict[str, Lease]] = {}

    def has_read(self, key: str, version: Version, leases: dict[str, Lease], /) -> None:
        """A document has these leases at a version."""
        if any(lease.holder for lease in leases.values()):
            self._read[key, version] = leases
            while len(self._read) > _WATCHED:
                del self._read[next(iter(self._read))]

    def leases_at(self, key: str, version: Version, /) -> dict[str, Lease]:
        """The leases of a document at a version; none, where that was not read here while somebody had one."""
        return self._read.get((key, version), {})

    def is_over(self, lease: Lease, /) -> bool:
        """Whether the holder has been seen for the lease's whole length: it is dead, or its time is up."""
        length = lease.seconds if isfinite(lease.seconds) and 0 < lease.seconds <= LONGEST else LONGEST
        while len(self._since) > _WATCHED:
            del self._since[next(iter(self._since))]
        return elapsed() - self._since.setdefault(lease.holder, elapsed()) >= length


class StorageClock:
    """The time by the clock that dates a storage's documents, which all who use the storage share.

    It is this machine's own until the two are found to differ by more than half a minute: by a lease that this process
    has written, or by a document that is dated in the future. Then expiries are told by the storage's. So a clock that
    is ahead takes no good token for dead, as a lease comes before each exchange; one that is behind takes a dead token
    for good until then.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        """The storage's time less `elapsed()`: as good when this machine's clock is set."""
        self._apart: float = 0.0
        """This machine's time less `elapsed()`, when that was found."""
        self.is_known: bool = False
        """Whether it was told by a write, and not only bounded by what was read."""

    def now(self) -> datetime:
        """The time. Where it is not sure the later one: a token that is good is looked at again, and none is taken that
        has ended.
        """
        own, steady = datetime.now(UTC), elapsed()
        if self._offset is None:
            return own
        try:
            storages = datetime.fromtimestamp(self._offset + steady, UTC)
        except (ValueError, OverflowError):  # of a file that claims to be of the year 9999
            return own
        if abs(storages - own) <= _TOLERANCE:
            return own
        if abs(own.timestamp() - steady - self._apart) <= _TOLERANCE.total_seconds():
            return storages
        return max(storages, own)  # since then a clock of this machine was set, or has stood still

    def has_read(self, modified: datetime | None, /) -> None:
        """A document was written at a time that may not have come yet by this machine's clock."""
        if modified is not None and modified - self.now() > _TOLERANCE:
            self._note(modified)

    def has_written(self, modified: datetime | None, begun: float, /) -> None:
        """A document was written just now, since a moment of `elapsed()`. A write that took long, such as of a process
        that stood still, tells nothing.
        """
        if modified is not None and elapsed() - begun <= _TOLERANCE.total_seconds():
            self._note(modified)
            self.is_known = True

    def _note(self, modified: datetime, /) -> None:
        steady = elapsed()
        self._offset, self._apart = modified.timestamp() - steady, datetime.now(UTC).timestamp() - steady


class Flight:
    """The refresh of one document in this process: its tasks take turns, and share what an attempt has brought."""

    def __init__(self) -> None:
        self.turn: anyio.Lock = anyio.Lock(fast_acquire=True)
        self.askers: int = 0
        self.attempts: int = 0
        self.outcome: Any = None
        self.until: float = 0.0
        """Until when an exchange is under way, at the most, as a moment of `elapsed()`."""
