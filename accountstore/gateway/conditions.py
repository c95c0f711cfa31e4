"""Conditions of a request: `If-Match` and `If-None-Match` (RFC 9110 section 13.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from accountstore import Location, Version
from accountstore.gateway.problems import Problem
from accountstore.gateway.tokens import ETags

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ("Conditions", "conditions_of", "precondition")

_HEADERS = (b"if-match", b"if-none-match")


class Conditions(Struct, frozen=True):
    """What a request asks of the document's state. A header in several lines is one list (RFC 9110 section 5.3)."""

    match: str | None
    none_match: str | None

    def __bool__(self) -> bool:
        return self.match is not None or self.none_match is not None

    def check(self, etags: ETags, location: Location, version: Version | None, /) -> None:
        """Raise `Problem` (412) unless a write may go on where the document has this version, or is not there."""
        if self.is_known(etags, location, version):
            raise precondition()

    def is_known(self, etags: ETags, location: Location, version: Version | None, /) -> bool:
        """Whether the client has this version already. Raises `Problem` (412) where it asks for another."""
        if self.match is not None and not etags.matches(self.match, location.path, version, weak=False):
            raise precondition()
        return self.none_match is not None and etags.matches(self.none_match, location.path, version, weak=True)


def conditions_of(request: Request, /) -> Conditions:
    """The conditions of a request."""
    lines: dict[bytes, str] = {}
    for name, value in request.scope["headers"]:
        if name in _HEADERS:
            line = value.decode("latin-1")
            lines[name] = f"{lines[name]},{line}" if name in lines else line
    return Conditions(*map(lines.get, _HEADERS))


def precondition() -> Problem:
    """The problem of a condition that does not hold."""
    return Problem(412, "changed", "the document is not in the state that the request asks for: read it again")
