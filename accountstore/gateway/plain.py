"""Which documents have nothing that a save must keep, so that it need not read them first."""

from __future__ import annotations

from collections import OrderedDict

from accountstore import AccountStore, Location, Version

__all__ = ("PlainVersions",)

_KEPT = 10_000


class PlainVersions:
    """Versions that this gateway has written itself, of documents without any field that a client does not know.

    A save that is given one swaps it in a single request; where somebody else has written meanwhile the storage refuses
    it, and the save reads. No contents are held.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[AccountStore, Location], Version] = OrderedDict()

    def take(self, store: AccountStore, location: Location, /) -> Version | None:
        """The version, which is then forgotten."""
        return self._versions.pop((store, location), None)

    def put(self, store: AccountStore, location: Location, version: Version, /) -> None:
        """Note a version, and forget the oldest of too many."""
        self._versions[store, location] = version
        if len(self._versions) > _KEPT:
            self._versions.popitem(last=False)
