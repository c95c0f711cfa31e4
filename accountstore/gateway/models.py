"""The bodies of requests and answers, as the description of the gateway has them."""

from __future__ import annotations

from msgspec import Struct

from accountstore import Account, Location, MultiAccount


class InnerError(Struct, rename="camel"):
    """Which request failed, and when."""

    request_id: str
    date: str


class ErrorDetails(Struct, rename="camel"):
    """What is wrong."""

    code: str
    message: str
    description: str
    inner_error: InnerError


class Error(Struct):
    """Every error has this form."""

    error: ErrorDetails


class SaveRequest(Struct, rename="camel"):
    """An account, and where it belongs."""

    storage_file: Location
    value: Account


class SaveMultiRequest(Struct, rename="camel"):
    """A multi account, and where it belongs."""

    storage_file: Location
    value: MultiAccount


class Exists(Struct, rename="camel"):
    """Whether there is a storage."""

    exists: bool


class ObjectExists(Struct, rename="camel"):
    """Whether there is a document or folder."""

    exists: bool
    is_folder: bool


class FileEntry(Struct, rename="camel", omit_defaults=True):
    """A document or folder in a folder."""

    name: str
    is_folder: bool
    path: str
    size: int = 0
    modified_date: str = ""


class FileVersion(FileEntry, kw_only=True):
    """A version of a document."""

    version_id: str
    is_latest: bool


class FileVersionsList(Struct):
    """The versions of a document, newest first."""

    value: list[FileVersion]


class DiscUsage(Struct, rename="camel"):
    """How full a storage is, in bytes."""

    used_size: int
    total_size: int


class FilesList(Struct):
    """What is in a folder."""

    value: list[FileEntry]


class Uploaded(Struct):
    """What was uploaded."""

    uploaded: list[str]
    errors: list[str]


class Token(Struct):
    """A token, good for so many seconds."""

    access_token: str
    token_type: str
    expires_in: int


class Refusal(Struct):
    """Why there is no token (RFC 6749 section 5.2)."""

    error: str
    error_description: str


class Health(Struct):
    """How the gateway is."""

    status: str


MODELS = (
    *(Account, MultiAccount, SaveRequest, SaveMultiRequest, Error, Exists, ObjectExists, FilesList, Uploaded),
    *(FileVersionsList, DiscUsage, Token, Refusal, Health),
)
