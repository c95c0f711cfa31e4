"""Every error that the library raises.

    AccountStoreError
    ├── ConfigError          (ValueError)           the configuration cannot be used
    ├── LocationError        (ValueError)           a storage, folder or file name is not allowed
    │   └── ExtensionError                          the file name's extension does not fit the call
    ├── DocumentError        (ValueError)           not an account document
    │   ├── EncodeError                             what was given to save, or to `from_json`
    │   │   └── UnknownFieldError                   `from_json` met a field that the model does not have
    │   ├── DecodeError                             what the storage holds
    │   └── TooLargeError                           more bytes than the store allows
    ├── SealError                                   a sealed document does not open, or nothing can be sealed
    │   ├── MissingKeyError                         none of the keys that open it is at hand
    │   ├── WrongKeyError                           the key of that id is not the one that sealed it
    │   ├── TamperedError                           contents or header are not what was sealed
    │   ├── MovedError                              it was sealed for another place
    │   ├── NotSealedError                          plaintext where only sealed documents are read
    │   ├── AlgorithmError                          an algorithm that is not allowed
    │   ├── EnvelopeError                           not the format of sealed documents
    │   ├── KeyDeniedError   (PermissionError)      the key service refused access
    │   └── KeyProviderError (ConnectionError)      the key service may work later: `temporary` is true
    ├── UnsupportedError     (NotImplementedError)  the storage cannot promise what was asked
    ├── ClosedError          (RuntimeError)         the store is not open here
    ├── JournalError         (RuntimeError)         the journal of a migration cannot be used
    ├── RefreshError                                `refresh` has not brought a valid access token
    │   ├── NoOAuthError     (ValueError)           the document has no OAuth credentials
    │   ├── LeaseError       (TimeoutError)         others had the lease for longer than `timeout`: `temporary`
    │   └── ExchangeError                           the exchange failed
    │       ├── RefusedError (PermissionError)      the provider refused it; `code` says why
    │       └── NoAnswerError (ConnectionError)     nobody knows whether the provider did it: `temporary`
    └── BackendError                                the storage failed, nothing more precise is known
        ├── NotFoundError    (FileNotFoundError)
        ├── ExistsError      (FileExistsError)      mode="create" met a document
        ├── ConflictError                           the version is no longer the current one
        ├── DeniedError      (PermissionError)
        ├── NotRegularError  (OSError)              a folder, link or device where a document belongs
        ├── FullError        (OSError)              no space or quota left
        └── UnavailableError (ConnectionError)      may work later: `temporary` is true
            └── UncertainError                      and the outcome of the write is unknown

Each class is also the standard exception in brackets, so code written for files keeps working. Messages name the
location and the field, never a value of a document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from accountstore.location import Location

__all__ = (
    "AccountStoreError",
    "AlgorithmError",
    "BackendError",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "DecodeError",
    "DeniedError",
    "DocumentError",
    "EncodeError",
    "EnvelopeError",
    "ExchangeError",
    "ExistsError",
    "ExtensionError",
    "FullError",
    "JournalError",
    "KeyDeniedError",
    "KeyProviderError",
    "LeaseError",
    "LocationError",
    "MissingKeyError",
    "MovedError",
    "NoAnswerError",
    "NoOAuthError",
    "NotFoundError",
    "NotRegularError",
    "NotSealedError",
    "RefreshError",
    "RefusedError",
    "SealError",
    "TamperedError",
    "TooLargeError",
    "UnavailableError",
    "UncertainError",
    "UnknownFieldError",
    "UnsupportedError",
    "WrongKeyError",
)

_E = TypeVar("_E", bound="AccountStoreError")


class AccountStoreError(Exception):
    """The root of every error of the library.

    `location` is the document that the call was about, or None. `temporary` says whether the same call may succeed
    later without anything being repaired.
    """

    temporary: ClassVar[bool] = False

    def __init__(self, message: str, /, *, location: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location

    def __str__(self) -> str:
        return self.message if self.location is None else f"{self.location}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    if not TYPE_CHECKING:  # which knows it as an attribute of every exception

        @property
        def args(self) -> tuple[str]:
            """The text, with location and field: what is kept where an error is made anew from class and `args`, as
            Celery does with results in JSON. Pickling and copying keep everything.
            """
            return (str(self),)

        @args.setter
        def args(self, _: object) -> None:
            """What others put there is dropped: it could quote a document."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the constructor: a class derived by another package may have one of its own.
        return _new, (type(self),), self.__dict__

    def __copy__(self) -> Self:
        other = _new(type(self))
        other.__dict__.update(self.__dict__)
        return other


def _new(kind: type[_E], /) -> _E:
    return kind.__new__(kind)


class ConfigError(AccountStoreError, ValueError):
    """The configuration, or an option in it, cannot be used."""


class LocationError(AccountStoreError, ValueError):
    """A storage, folder or file name is not allowed, or the storage is not configured."""


class ExtensionError(LocationError):
    """The file name's extension does not fit the call: raised before any I/O."""


class DocumentError(AccountStoreError, ValueError):
    """Bytes or an object that are not an account document. `field` is a path such as `$.credentials.login`."""

    def __init__(self, message: str, /, *, field: str = "$", location: Location | None = None) -> None:
        super().__init__(message, location=location)
        self.field = field

    def __str__(self) -> str:
        text = self.message if self.field == "$" else f"{self.field}: {self.message}"
        return text if self.location is None else f"{self.location}: {text}"


class EncodeError(DocumentError):
    """The document given to a save, or to `from_json`, is not one that a get would return; nothing was written."""


class UnknownFieldError(EncodeError):
    """The JSON given to `from_json` has a field that the model does not have; the rest was not looked at."""


class DecodeError(DocumentError):
    """The storage holds bytes that are not the document asked for."""


class TooLargeError(DocumentError):
    """The document is larger than the store's `max_bytes`."""


class SealError(AccountStoreError):
    """A sealed document does not open, or a document cannot be sealed. Nothing was written.

    `key_id` names the key that it is about, or is None. There is never a fallback to plaintext.
    """

    def __init__(self, message: str, /, *, key_id: str | None = None, location: Location | None = None) -> None:
        super().__init__(message if key_id is None else f"{message} (key {key_id!r})", location=location)
        self.key_id = key_id


class MissingKeyError(SealError):
    """None of the keys that open the document is in the storage's key ring."""


class WrongKeyError(SealError):
    """The key with the document's key id does not open it: another key has that id, or the wrapped key was changed."""


class TamperedError(SealError):
    """The contents or the header of the document are not what was sealed."""


class MovedError(SealError):
    """The document was sealed for another storage, folder or file name: somebody moved or swapped the file."""


class NotSealedError(SealError):
    """The document is plaintext, and the storage's `required` takes sealed ones only."""


class AlgorithmError(SealError):
    """The document names an algorithm that is not on the fixed list."""


class EnvelopeError(SealError):
    """The document is no sealed one of this format: cut off, malformed, or with members that it does not have."""


class KeyDeniedError(SealError, PermissionError):
    """The key service refused access to the key."""


class KeyProviderError(SealError, ConnectionError):
    """The key service cannot be reached, was too slow or answered what makes no sense; the call may succeed later."""

    temporary: ClassVar[bool] = True


class UnsupportedError(AccountStoreError, NotImplementedError):
    """The storage does not declare the capability that the call needs; nothing was read or written."""


class ClosedError(AccountStoreError, RuntimeError):
    """The store is not open here: it was closed, or opened in another process or on another event loop."""


class JournalError(AccountStoreError, RuntimeError):
    """The journal of a migration cannot be used: by another run at the same time, on a network file system, or with
    other options than it was begun with. The message says which.
    """


class RefreshError(AccountStoreError):
    """`refresh` has not brought a valid access token."""


class NoOAuthError(RefreshError, ValueError):
    """The document has no OAuth credentials; nothing was asked of a provider."""


class LeaseError(RefreshError, TimeoutError):
    """Other tasks or processes had the lease for longer than the call's `timeout`; the call has exchanged nothing."""

    temporary: ClassVar[bool] = True


class ExchangeError(RefreshError):
    """The exchange of the refresh token failed, or returned no `TokenGrant`; the document is as it was.

    Of one that a caller's exchange raises, `refresh` keeps which of these three classes it is, `code` and `sent`, and
    not the text, which may quote a provider, who may quote a token.
    """

    in_own_words: bool = False
    """Whether the text is this library's own, as that of `TokenEndpoint`, which is kept."""


class RefusedError(ExchangeError, PermissionError):
    """The provider refused the exchange: raised by an exchange, with the provider's code.

    `code` is one of RFC 6749 section 5.2 or, whatever else a provider says, `"other"`. After `"invalid_grant"` the
    user must sign in again, as the refresh token is expired, revoked or spent.
    """

    CODES: ClassVar[frozenset[str]] = frozenset(
        {
            *("invalid_request", "invalid_client", "invalid_grant"),
            *("unauthorized_client", "unsupported_grant_type", "invalid_scope"),
        }
    )

    code: str = "other"

    def __init__(self, message: str, /, *, code: str = "other", location: Location | None = None) -> None:
        super().__init__(message, location=location)
        # Any other text is the provider's, and may quote what it was sent.
        self.code = code if code in self.CODES else "other"


class NoAnswerError(ExchangeError, ConnectionError):
    """The provider gave no answer in time, or none that says what it did: it may have spent the refresh token.

    An exchange raises it, and `refresh` then tries once more. `sent` is False where the request surely did not leave.
    """

    temporary: ClassVar[bool] = True
    sent: bool = True

    def __init__(self, message: str, /, *, sent: bool = True, location: Location | None = None) -> None:
        super().__init__(message, location=location)
        self.sent = sent


class BackendError(AccountStoreError):
    """The storage failed in a way that has no more precise class."""


class NotFoundError(BackendError, FileNotFoundError):
    """There is no such document."""


class ExistsError(BackendError, FileExistsError):
    """`mode="create"` found a document at the location; it was left as it is.

    It may be the call's own, where something between store and storage repeats requests on its own and another has
    changed the document before the repetition came: the storage then refuses the repetition.
    """


class ConflictError(BackendError):
    """The document changed since the version that the call gave; it was left as it is."""


class DeniedError(BackendError, PermissionError):
    """The storage refused access."""


class NotRegularError(BackendError, OSError):
    """A folder, a symbolic link or a device stands where a document or folder belongs."""


class FullError(BackendError, OSError):
    """The storage has no space or quota left; the old document is intact."""


class UnavailableError(BackendError, ConnectionError):
    """The storage cannot be reached or is busy; the call may succeed later.

    `sent` is False where the request surely did not reach the storage.
    """

    temporary: ClassVar[bool] = True

    def __init__(self, message: str, /, *, sent: bool = True, location: Location | None = None) -> None:
        super().__init__(message, location=location)
        self.sent = sent


class UncertainError(UnavailableError):
    """The storage did not answer in time, or its answer was lost: the document may be the old one or the new one.

    A call that is made again finds out: an overwrite makes it so, a swap or a create meets its own document.
    """
