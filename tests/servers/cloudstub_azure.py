"""Azure Blob Storage as the cloud stub speaks it, for the account devstoreaccount1; no signature is verified."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from cloudstub_objects import SPECIAL, Entry, World, element, name_of, text, xml
from cloudstub_wire import Answer, Clock, Request, ranged

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNT = b"/devstoreaccount1"
_PROLOG = '<?xml version="1.0" encoding="utf-8"?>'
_ID = b"x-ms-request-id: 00000000-0000-0000-0000-000000000000\r\nx-ms-version: 2023-11-03\r\n"
_XML = _ID + b"Content-Type: application/xml\r\n"
_FAULTS = {
    403: ("AuthorizationPermissionMismatch", "This request is not authorized to perform this operation."),
    409: ("OperationAborted", "A conflicting operation is in progress."),
    412: ("ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."),
    429: ("TooManyRequests", "Too many requests."),
    500: ("InternalError", "The server encountered an internal error. Please retry the request."),
    501: ("NotImplemented", "The requested operation is not implemented on the specified resource."),
    503: ("ServerBusy", "The server is currently unable to receive requests. Please retry your request."),
}
_BLOB_HEAD = (
    b"%bETag: %b\r\nLast-Modified: %b\r\nContent-Type: %b\r\nAccept-Ranges: bytes\r\nx-ms-blob-type: BlockBlob\r\n"
    b"x-ms-creation-time: %b\r\nx-ms-lease-status: unlocked\r\nx-ms-lease-state: available\r\n"
    b"x-ms-server-encrypted: true\r\n%b%b"
)
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_PART = re.compile(rb"\r\n(DELETE [^\r\n]+ HTTP/1\.1\r\n.*?\r\n)\r\n", re.DOTALL)
_PART_ID = re.compile(rb"content-id: *([^\r\n]+)", re.IGNORECASE)


def error(status: int, code: str, message: str, headers: bytes = b"") -> Answer:
    """An error as Azure writes it: the code in a header too, for the answers without a body."""
    body = _PROLOG + element("Error", {"Code": code, "Message": message})
    return Answer(status, _XML + b"x-ms-error-code: %b\r\n" % code.encode() + headers, body.encode())


def _name(name: bytes) -> str:
    """The element with a name in a listing; what XML cannot hold is percent-encoded and marked so."""
    shown = text(name)
    return f'<Name Encoded="true">{quote(shown)}</Name>' if _NOT_XML.search(shown) else f"<Name>{xml(shown)}</Name>"


class Azure:
    """The service. HEAD is served as GET is; the wire part leaves the body out."""

    name = "azure"

    def __init__(self, world: World, clock: Clock) -> None:
        self._world = world
        self._clock = clock

    def route(self, request: Request) -> Callable[[Request], Answer]:
        """Find container, blob and operation; the function that applies it."""
        request.service = "azure"
        request.bucket, _, key = request.path[len(ACCOUNT) + 1 :].partition(b"/")
        request.key = unquote_to_bytes(key) if b"%" in key else key
        call = self._of_blob(request) if request.key else self._of_container(request)
        return self._special if request.bucket.startswith(SPECIAL[:3]) else call

    def _of_blob(self, request: Request) -> Callable[[Request], Answer]:
        method, lower = request.method, request.lower
        if b"\r\nx-ms-copy-source:" in lower or (request.query_string and "comp" in request.query):
            return self._unknown
        if method == b"PUT" and b"\r\nx-ms-blob-type: blockblob" in lower:
            create = request.header(b"if-none-match") == b"*"
            request.op = "create" if create else "swap" if b"\r\nif-match:" in lower else "put"
            return self._put
        if method in {b"GET", b"HEAD"}:
            request.op = "get" if method == b"GET" else "head"
            return self._get
        if method == b"DELETE":
            request.op = "delete-if" if b"\r\nif-match:" in lower else "delete"
            return self._delete
        return self._unknown

    def _of_container(self, request: Request) -> Callable[[Request], Answer]:
        method, query = request.method, request.query
        kind, comp = query.get("restype"), query.get("comp")
        if method == b"GET" and kind == "container" and comp == "list":
            request.op = "list"
            return self._list
        if method == b"POST" and comp == "batch":
            request.op = "delete"
            doomed = [self._part(part)[0] for part in self._parts(request)]
            request.key = doomed[0].key if len(doomed) == 1 else b""
            return self._batch
        if method in {b"GET", b"HEAD"} and (kind == "account" or (kind == "service" and comp == "properties")):
            return self._properties
        if method in {b"GET", b"HEAD", b"PUT"} and kind == "container" and not comp:
            return self._container
        return self._unknown

    def store(self, bucket: bytes, key: bytes, data: bytes) -> Entry:
        """Store a blob unconditionally."""
        return self._keep(bucket, key, self._world.entry(data, None, {}))

    def _keep(self, bucket: bytes, key: bytes, entry: Entry) -> Entry:
        entry.etag = b'"0x%X"' % (0x8DD000000000000 + entry.generation % 0x1000000000000)
        date = self._clock.date()
        metadata = b"".join([b"x-ms-meta-%b: %b\r\n" % item for item in entry.metadata.items()])
        version = self._version(bucket, entry)
        entry.head = _BLOB_HEAD % (_ID, entry.etag, date, entry.content_type, date, version, metadata)
        self._world.bucket("azure", bucket).put(key, entry)
        return entry

    @staticmethod
    def _version(bucket: bytes, entry: Entry) -> bytes:
        """The header with a version: a time, which is unique."""
        if not bucket.startswith(b"versioned"):
            return b""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(entry.modified)).encode()
        return b"x-ms-version-id: %b.%07dZ\r\n" % (second, entry.generation % 10_000_000)

    def _put(self, request: Request) -> Answer:
        current = self._world.bucket("azure", request.bucket).entries.get(request.key)
        if request.op == "create" and current is not None and not self._world.ignore_conditions:
            return error(409, "BlobAlreadyExists", "The specified blob already exists.")
        if refusal := self._refusal(request, current):
            return refusal
        content_type = request.header(b"x-ms-blob-content-type") or request.header(b"content-type")
        entry = self._world.entry(request.body, content_type, request.headers(b"x-ms-meta-"))
        self._keep(request.bucket, request.key, entry)
        headers = b"%bETag: %b\r\nLast-Modified: %b\r\nx-ms-request-server-encrypted: true\r\n%b"
        version = self._version(request.bucket, entry)
        return Answer(201, headers % (_ID, entry.etag, self._clock.date(), version))

    def _refusal(self, request: Request, current: Entry | None) -> Answer | None:
        """Why the tags in the conditions of a PUT or DELETE forbid it; None: they hold."""
        if self._world.ignore_conditions:
            return None
        tag = current.etag.strip(b'"') if current is not None else None
        wanted, unwanted = request.header(b"if-match"), request.header(b"if-none-match")
        if wanted is not None and (tag is None or wanted.strip(b'"') not in {b"*", tag}):
            return error(412, *_FAULTS[412])
        if unwanted is not None and tag is not None and unwanted.strip(b'"') == tag:
            return error(412, *_FAULTS[412])
        return None

    def _get(self, request: Request) -> Answer:
        entry = self._world.bucket("azure", request.bucket).entries.get(request.key)
        if entry is None:
            return self._not_found()
        asked = None
        if request.method == b"GET":
            asked = request.header(b"x-ms-range") or request.header(b"range")
        answer = ranged(entry.data, asked)
        if answer.status == 416:
            return error(416, "InvalidRange", "The range specified is invalid for the current size.", answer.headers)
        return Answer(answer.status, entry.head + answer.headers, answer.body)

    @staticmethod
    def _not_found() -> Answer:
        return error(404, "BlobNotFound", "The specified blob does not exist.")

    def _delete(self, request: Request) -> Answer:
        bucket = self._world.bucket("azure", request.bucket)
        current = bucket.entries.get(request.key)
        if current is None:
            return self._not_found()
        if refusal := self._refusal(request, current):
            return refusal
        bucket.pop(request.key)
        return Answer(202, _ID + b"x-ms-delete-type-permanent: true\r\n")

    @staticmethod
    def _parts(request: Request) -> list[bytes]:
        mark = (request.header(b"content-type") or b"").partition(b"boundary=")[2].strip(b'"')
        return request.body.split(b"--" + mark)[1:-1]

    def _part(self, part: bytes) -> tuple[Request, Callable[[Request], Answer]]:
        """One request in a batch, and what applies it."""
        found = _PART.search(part)
        request = Request(found.group(1) if found else b"POST / HTTP/1.1\r\n")
        return request, self.route(request)

    def _batch(self, request: Request) -> Answer:
        """Apply the DELETEs in a batch one by one; each has its own answer in the answer."""
        out: list[bytes] = []
        for part in self._parts(request):
            one, call = self._part(part)
            answer, number = call(one), _PART_ID.search(part)
            out.append(
                b"--batchresponse\r\nContent-Type: application/http\r\nContent-ID: %b\r\n\r\nHTTP/1.1 %d %b\r\n%b"
                b"Content-Length: %d\r\n\r\n%b\r\n"
                % (
                    number.group(1) if number else b"0",
                    answer.status,
                    HTTPStatus(answer.status).phrase.encode(),
                    answer.headers,
                    len(answer.body),
                    answer.body,
                )
            )
        head = _ID + b"Content-Type: multipart/mixed; boundary=batchresponse\r\n"
        return Answer(202, head, b"".join(out) + b"--batchresponse--\r\n")

    def _list(self, request: Request) -> Answer:
        query = request.query
        prefix, delimiter, marker = (query.get(name, "") for name in ("prefix", "delimiter", "marker"))
        limit = self._world.limit(query.get("maxresults"), 5000)
        bucket = self._world.bucket("azure", request.bucket)
        page = bucket.page(prefix.encode(), delimiter.encode(), limit, after=name_of(marker) if marker else b"")
        detailed = "metadata" in query.get("include", "")
        blobs = "".join(
            f"<BlobPrefix>{_name(name)}</BlobPrefix>" if entry is None else self._blob(name, entry, detailed)
            for name, entry in page.items
        )
        said = {"Prefix": prefix, "Marker": marker, "MaxResults": str(limit), "Delimiter": delimiter}
        rest = f"<Blobs>{blobs}</Blobs>" + (
            f"<NextMarker>{page.token}</NextMarker>" if page.token else "<NextMarker />"
        )
        where = f' ServiceEndpoint="http://127.0.0.1{text(ACCOUNT)}/" ContainerName="{xml(request.bucket)}"'
        shown = element("EnumerationResults", {name: value for name, value in said.items() if value}, rest, where)
        return Answer(200, _XML, (_PROLOG + shown).encode())

    @staticmethod
    def _blob(name: bytes, entry: Entry, detailed: bool) -> str:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(entry.modified))
        said = {
            "Creation-Time": date,
            "Last-Modified": date,
            "Etag": text(entry.etag.strip(b'"')),
            "Content-Length": str(len(entry.data)),
            "Content-Type": text(entry.content_type),
            "BlobType": "BlockBlob",
            "LeaseStatus": "unlocked",
            "LeaseState": "available",
            "ServerEncrypted": "true",
        }
        metadata = {text(key): text(value) for key, value in entry.metadata.items()} if detailed else {}
        own = element("Metadata", metadata) if metadata else ""
        return f"<Blob>{_name(name)}{element('Properties', said)}{own}</Blob>"

    def _properties(self, request: Request) -> Answer:
        if request.query.get("restype") == "account":
            kind = b"x-ms-sku-name: Standard_LRS\r\nx-ms-account-kind: StorageV2\r\nx-ms-is-hns-enabled: false\r\n"
            return Answer(200, _ID + kind)
        return Answer(
            200, _XML, (_PROLOG + element("StorageServiceProperties", {"DefaultServiceVersion": ""})).encode()
        )

    def _container(self, request: Request) -> Answer:
        tag = b'%bETag: "0x8DD000000000000"\r\nLast-Modified: %b\r\n' % (_ID, self._clock.date())
        states = (
            b"x-ms-lease-status: unlocked\r\nx-ms-lease-state: available\r\nx-ms-has-immutability-policy: false\r\n"
        )
        return Answer(201, tag) if request.method == b"PUT" else Answer(200, tag + states)

    def _unknown(self, request: Request) -> Answer:
        return error(501, *_FAULTS[501])

    def _special(self, request: Request) -> Answer:
        """Answer as a container does that is missing, forbidden, or meets bad keys."""
        if request.bucket.startswith(b"missing"):
            return error(404, "ContainerNotFound", "The specified container does not exist.")
        if request.bucket.startswith(b"forbidden"):
            return error(403, *_FAULTS[403])
        return error(403, "AuthenticationFailed", "Server failed to authenticate the request.")

    def fault(self, request: Request, status: int) -> Answer:
        """Refuse with a status, as Azure or a proxy before it does."""
        return error(status, *_FAULTS[status])

    def refuse(self, request: Request, status: int, code: str) -> Answer:
        """Refuse with a status and an error code."""
        return error(status, code, "The request is refused.")
