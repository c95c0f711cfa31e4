"""What the exchange of a refresh token brings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from re import search
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from msgspec import Struct
from msgspec.structs import force_setattr

from accountstore.model import OAuthCredentials
from accountstore.secrets import Secret
from accountstore.validation import check_seconds


class TokenGrant(Struct, frozen=True, kw_only=True):
    """A provider's answer to a refresh token (RFC 6749 section 5.1). Plain strings are taken for secrets.

    `expires_in` is the access token's lifetime in seconds, from the request on. `refresh_token` is None where the old
    one stays good. `scope` is None where it is as it was; it is not kept.

    Raises:
        TypeError, ValueError: it is no such answer; no text shows a token.
    """

    access_token: Secret
    expires_in: float
    refresh_token: Secret | None = None
    scope: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            access_token: Secret | str,
            expires_in: float,
            refresh_token: Secret | str | None = None,
            scope: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("access_token", "refresh_token"):
            given: object = getattr(self, name)
            if given is None and name == "refresh_token":
                continue
            force_setattr(self, name, None)  # so that no frame of an error shows it
            if not isinstance(given, (str, Secret)):
                del given
                raise TypeError(f"{name} must be a str or a Secret")
            force_setattr(self, name, Secret(given))
            del given
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
            if search("[\ud800-\udfff]", getattr(self, name).reveal()):  # which no document can hold
                raise ValueError(f"{name} is no Unicode text")
        check_seconds("expires_in", self.expires_in)
        if not isinstance(cast("Any", self.scope), str | None):
            raise TypeError("scope must be a str or None")


Exchange: TypeAlias = "Callable[[OAuthCredentials], Awaitable[TokenGrant]]"
"""An async function that gives a provider the credentials' refresh token, and returns what it grants.

It raises `RefusedError` where the provider refuses, and `NoAnswerError`, or Python's `ConnectionError` or
`TimeoutError`, where its answer did not come: such a call is made once more, with the same token. Of what it raises
`refresh` keeps the kind, and no text or attribute, which may show a token.

It is cancelled after three quarters of its lease. One that cannot be cancelled, as it waits for a function in a thread,
needs a time-out of its own: while it goes on others may take the lease over, and spend the same token.
"""
