"""What obstore's errors mean: by what the storage has answered, or by how far the request came."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from accountstore.backends.base import BackendError, DeniedError, UnavailableError, WriteMode
from accountstore.backends.object_store import error_for_status
from accountstore.backends.web_pages import PAGE, is_page, is_page_error, page_error
from accountstore.errors import AccountStoreError

_REQUEST = re.compile(r"Error performing \w+ (\S+) in [^\n]*? - ")
_STATUS = re.compile(r"status code: (\d{3})|\b(\d{3}) (?:[A-Z][a-z]+ ?)+:|Server error: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\"reason\": ?\"(\w+)\"")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_NO_CREDENTIALS = re.compile(
    r"Generic \w+ error: (?:\w+ credential error|(?:Unable to|Failed to) \w+ (?:service|token))"
)
_FOUND_NONE = re.compile(r"External \w+ credential provider: (\w+)")
_METADATA = re.compile(r"/latest/|/computeMetadata/|/metadata/identity")
_TLS = re.compile(
    r"\b(?:InvalidCertificate|InvalidCertRevocationList|AlertReceived|InvalidMessage|PeerIncompatible|PeerMisbehaved|"
    r"InappropriateMessage|InappropriateHandshakeMessage|NoCertificatesPresented|UnsupportedNameType|BadMaxFragmentSize|"
    r"DecryptError|InvalidEncryptedClientHello|PeerSentOversizedRecord|NoApplicationProtocol)\b(?:\(\s*(\w+))?"
)
"""Errors of rustls, and what is within."""
_PART = re.compile(r"Generic \w+ error: Bulk delete request failed for key .*\(code: (\d{3})\)", re.DOTALL)
"""What Azure answers to the one delete in a batch of them, the only way in which obstore deletes there."""
_NO_PARTS = re.compile(r"Generic \w+ error: (?:Got invalid bulk delete response|Bulk delete request failed due)")
_LACKING = re.compile("Header missing from response|Invalid last modified")
_ODD_DATE = re.compile("list response: (?:missing field `Last|input )")
_UNCONNECTED = re.compile(r"kind: Connect\b|legacy::Error\(\s*Connect\b")


class OddKeyError(BackendError):
    """A listing has a key that obstore takes for no path, such as `a//b`, or a date that it takes for none."""


class Answer(NamedTuple):
    """What a server has answered to a request."""

    status: int
    code: str
    ours: bool
    """Whether the storage itself has answered, and no server that gives out credentials."""


def answer_of(text: str, bucket: str, /) -> Answer | None:
    """The answer that the text of an error tells of, if there was one."""
    text = text.partition("\n\nDebug source:")[0]
    if part := _PART.fullmatch(text):
        return Answer(int(part[1]), "", ours=True)
    request = _REQUEST.search(text)
    # What is before the answer, and what is behind it, names the key and the bucket.
    said = text[request.end() :] if request else text
    status = _STATUS.search(said)
    if not status:
        return None
    body = said[status.end() :]
    word = _CODE.search(body)
    code = str(word[word.lastindex or 0]) if word else ""
    number = int(status[status.lastindex or 0])
    if number == 404 and not word and _NO_BUCKET.search(body):
        code = "NoSuchBucket"
    elif is_page(body[body.find("<") :]):
        code = PAGE
    return Answer(number, code, not request or _is_in(bucket, request[1]))


def error_of(error: Exception, bucket: str, mode: WriteMode | None, /) -> AccountStoreError:
    """The error for what obstore raised. By the status of the answer where there is one, else by obstore's class, which
    alone calls each 409 a document that is there, and some 404 a condition that does not hold.
    """
    text = str(error)
    answer = answer_of(text, bucket)
    below = text.rpartition("inner: Http(")[2]
    request = _REQUEST.search(text)
    if request and not _is_in(bucket, request[1]):
        return _without_credentials(request[1], answer)
    if answer and is_page_error(answer.status, answer.code):
        return page_error(answer.status)
    if answer:
        return error_for_status(answer.status, answer.code, mode)
    if "redirect without LOCATION" in text:
        return error_for_status(301)
    if tls := _TLS.search(below):
        return BackendError(f"TLS: the server's certificate or protocol is not accepted ({tls[1] or tls[0]})")
    if "builder error" in text:
        return BackendError("the request could not be made: the endpoint is no URL that obstore takes")
    if "error sending request" in text or "HTTP error" in text or "decod" in text:
        return UnavailableError("the storage cannot be reached", sent=not _UNCONNECTED.search(below))
    return _by_class(error, text, mode)


def _by_class(error: Exception, text: str, mode: WriteMode | None, /) -> AccountStoreError:
    if isinstance(error, InvalidPathError):
        return OddKeyError("a key in the bucket is none that obstore can list")
    if _NO_PARTS.match(text):
        return UnavailableError("the answer to the delete is not the server's")
    if _LACKING.search(text):
        return UnavailableError("the answer lacks a version (ETag), a length or a date, and may not be the server's")
    if "Got invalid list response" in text:
        odd = _ODD_DATE.search(text)
        return (OddKeyError if odd else UnavailableError)("the answer is not the server's (no listing)")
    if isinstance(error, FileNotFoundError):
        return error_for_status(404)
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return error_for_status(412, "", mode)
    if found := _FOUND_NONE.search(text):
        return DeniedError(f"no valid credentials were found ({found[1]})")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return error_for_status(403)
    if _NO_CREDENTIALS.match(text):
        return DeniedError(f"no valid credentials were found ({type(error).__name__})")
    return BackendError(f"the request could not be made ({type(error).__name__})")


def _without_credentials(url: str, answer: Answer | None, /) -> BackendError:
    """Of a server that gives out credentials: its answer says nothing of a document, and the storage was not asked."""
    shown = f" ({answer.status})" if answer else ""
    if (answer and answer.status < 500 and answer.status != 429) or _METADATA.search(url):
        return DeniedError(f"no credentials were found: the server that should give them did not{shown}")
    return UnavailableError(f"the server that gives the credentials cannot be reached or is busy{shown}", sent=False)


def _is_in(bucket: str, url: str, /) -> bool:
    """Whether a URL is of a bucket, whose name is the first part of its host or one of its path. Of those that show a
    signature, which are the storage's, obstore shows nothing.
    """
    parts = urlsplit(url)
    return url == "REDACTED" or parts.netloc.startswith(f"{bucket}.") or f"/{bucket}/" in unquote(parts.path) + "/"
