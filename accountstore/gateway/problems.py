"""Problems: answers other than the one asked for, and which of them each error of the store is.

Statuses and codes are the gateway's own, since the API documents none. A message tells what its client may know: names
and fields, never a value, nothing of the storage below.
"""

from __future__ import annotations

from collections.abc import Mapping

from accountstore import (
    AccountStoreError,
    ClosedError,
    ConflictError,
    DecodeError,
    DeniedError,
    DocumentError,
    EncodeError,
    ExchangeError,
    ExistsError,
    FullError,
    KeyDeniedError,
    KeyProviderError,
    LeaseError,
    LocationError,
    NoAnswerError,
    NotFoundError,
    NotRegularError,
    RefreshError,
    RefusedError,
    SealError,
    TooLargeError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
)

__all__ = ("UNREADABLE", "Problem", "missing", "problem_of")


UNREADABLE = "read it with a release and keys that can, or delete it, or upload a whole file in its place"
"""What to do about a document that cannot be read."""


class Problem(Exception):  # noqa: N818 -- an answer, as in `application/problem+json`
    """An answer other than the one asked for: status, the envelope's code and message, headers."""

    def __init__(self, status: int, code: str, message: str, /, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers: Mapping[str, str] = headers or {}


_TABLE: tuple[tuple[type[AccountStoreError], int, str, str], ...] = (
    (LocationError, 400, "badName", ""),
    (EncodeError, 400, "badDocument", ""),
    (TooLargeError, 413, "tooLarge", ""),
    (DecodeError, 502, "badStored", f"what is stored there is not such a document: {UNREADABLE}"),
    (KeyProviderError, 503, "unavailable", "the service that has the storage's keys cannot be reached: try again"),
    (
        KeyDeniedError,
        503,
        "unavailable",
        "the service that has the storage's keys refuses the gateway",
    ),
    (SealError, 502, "badSealed", "what is stored there does not open with the storage's keys, or none can be sealed"),
    (NotFoundError, 404, "notFound", "there is no such document"),
    (ExistsError, 409, "exists", "there is a document already"),
    (ConflictError, 409, "conflict", "the document was changed by others meanwhile: read it again"),
    (UnsupportedError, 501, "notSupported", "the storage cannot promise this"),
    (DeniedError, 403, "denied", "the storage refuses it"),
    (NotRegularError, 409, "notRegular", "a folder or a special file stands there"),
    (FullError, 507, "full", "the storage is full; the old document is intact"),
    (NoAnswerError, 504, "notRefreshed", "the provider of the account's tokens did not answer: try again"),
    (LeaseError, 503, "notRefreshed", "the account's tokens are being refreshed by others: try again"),
    (RefusedError, 502, "notRefreshed", "the provider of the account's tokens refused to refresh them"),
    (RefreshError, 502, "notRefreshed", "the account's tokens were not refreshed"),
    (UncertainError, 504, "uncertain", "the storage did not answer: the document is the old one or the new one"),
    (UnavailableError, 503, "unavailable", "the storage cannot be reached or is busy: try again"),
    (ClosedError, 503, "unavailable", "the gateway is shutting down: try again"),
)
"""The first class that fits decides. Without a message, the error's own is told, which is about the request."""


def problem_of(error: AccountStoreError, /) -> Problem:
    """The problem that an error of the store is to a client."""
    if isinstance(error, ExchangeError) and error.in_own_words and not error.temporary:
        return Problem(502, "notRefreshed", f"the account's tokens were not refreshed: {error.message}")
    for kind, status, code, message in _TABLE:
        if isinstance(error, kind):
            field = error.field if isinstance(error, DocumentError) else "$"
            own = error.message if field == "$" else f"{field}: {error.message}"
            return Problem(status, code, message or own)
    return Problem(502, "storageFailed", "the storage failed")


def missing() -> Problem:
    """The problem of a document or storage that is not there, or is not this client's: both look the same."""
    return problem_of(NotFoundError(""))
