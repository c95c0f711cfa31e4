"""Azure Blob Storage as the cloud stub speaks it, for the account devstoreaccount1; no signature is verified."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

from cloudstub_objects import Entry, Service, element, text, xml
from cloudstub_wire import Answer, Request, http_date

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNT = b"/devstoreaccount1"
_PROLOG = '<?xml version="1.0" encoding="utf-8"?>'
_XML = b"Content-Type: application/xml\r\n"
_ERRORS = {
    403: ("AuthorizationPermissionMismatch", "This request is not authorized to perform this operation."),
    404: ("BlobNotFound", "The specified blob does not exist."),
    409: ("OperationAborted", "A conflicting operation is in progress."),
    412: ("ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."),
    416: ("InvalidRange", "The range specified is invalid for the current size."),
    429: ("TooManyRequests", "Too many requests."),
    500: ("InternalError", "The server encountered an internal error. Please retry the request."),
    501: ("NotImplemented", "The requested operation is not implemented on the specified resource."),
    503: ("ServerBusy", "The server is currently unable to receive requests. Please retry your request."),
}
_PART = re.compile(rb"[Cc]ontent-I[Dd]: *([^\r\n]+).*?\r\n\r\n(DELETE [^\r\n]+ HTTP/1\.1\r\n.*?\r\n)\r\n", re.DOTALL)


class Azure(Service):
    """The service."""

    name = "azure"
    special: ClassVar = {
        b"missing": (404, "ContainerNotFound", "The specified container does not exist."),
        b"forbidden": (403, *_ERRORS[403]),
        b"badkeys": (403, "AuthenticationFailed", "Server failed to authenticate the request."),
    }
    exists = (409, "BlobAlreadyExists")
    metadata = b"x-ms-meta-"
    version = b"x-ms-version-id"

    def _route(self, request: Request) -> Callable[[Request], Answer]:
        self._place(request, request.path[len(ACCOUNT) + 1 :])
        request.content_type = request.header(b"x-ms-blob-content-type") or request.content_type
        method, kind, comp = request.method, request.query.get("restype"), request.query.get("comp")
        if request.key:
            put = method == b"PUT" and request.header(b"x-ms-blob-type") != b"BlockBlob"
            return self._unknown if put or comp else self._of_object(request)
        if method == b"GET" and kind == "container" and comp == "list":
            request.op = "list"
            return self._list
        if method == b"POST" and comp == "batch":
            request.op = "delete"
            doomed = [(number, Request(head)) for number, head in _PART.findall(request.body)]
            calls = [(number, one, self.route(one)) for number, one in doomed]
            request.key = doomed[0][1].key if len(doomed) == 1 else b""
            return lambda _: self._batch(calls)
        if method == b"GET" and kind == "service" and comp == "properties":
            return lambda _: Answer(200, _XML, (_PROLOG + element("StorageServiceProperties", {})).encode())
        if method in {b"GET", b"HEAD", b"PUT"} and kind == "container" and not comp:
            about = b'ETag: "0x8DD"\r\nLast-Modified: %b\r\n' % http_date(0)
            return lambda _: Answer(201 if method == b"PUT" else 200, about)
        return self._unknown

    def _etag(self, entry: Entry) -> bytes:
        return b'"0x%X"' % entry.generation

    def _headers(self, entry: Entry) -> bytes:
        return b"x-ms-blob-type: BlockBlob\r\n"

    def _written(self, request: Request, entry: Entry) -> Answer:
        about = entry.etag, http_date(int(entry.modified)), self._version(request.bucket, entry)
        return Answer(201, b"ETag: %b\r\nLast-Modified: %b\r\n%b" % about)

    def _batch(self, calls: list[tuple[bytes, Request, Callable[[Request], Answer]]]) -> Answer:
        """Apply the DELETEs in a batch one by one; each has its own answer in the answer."""
        out = b""
        for number, one, call in calls:
            status, headers, body = call(one)
            out += b"--batch\r\nContent-Type: application/http\r\nContent-ID: %b\r\n\r\n" % number
            out += b"HTTP/1.1 %d %b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), headers)
            out += b"Content-Length: %d\r\n\r\n%b\r\n" % (len(body), body)
        return Answer(202, b"Content-Type: multipart/mixed; boundary=batch\r\n", out + b"--batch--\r\n")

    def _list(self, request: Request) -> Answer:
        include, found = request.query.get("include", ""), list[tuple[bytes, Entry | None, bool]]()
        if "versions" in include:
            kept, token = self._versions(request, "marker")
            found += kept
        else:
            page = self._page(request, "maxresults", "marker", 5000)
            token = page.token
            found += ((name, entry, True) for name, entry in page.items)
        detailed = "metadata" in include
        blobs = ""
        for name, entry, current in found:
            if entry is None:
                blobs += element("BlobPrefix", {"Name": text(name)})
                continue
            about = {
                "BlobType": "BlockBlob",
                "Etag": text(entry.etag.strip(b'"')),
                "Content-Length": str(len(entry.data)),
            }
            about |= {"Last-Modified": text(http_date(int(entry.modified))), "Content-Type": text(entry.content_type)}
            metadata = {text(key): text(value) for key, value in entry.metadata.items()} if detailed else {}
            own = element("Properties", about) + (element("Metadata", metadata) if metadata else "")
            versioned = "versions" in include and self._version(request.bucket, entry)
            version = {"VersionId": str(entry.generation)} if versioned else {}
            version |= {"IsCurrentVersion": "true"} if versioned and current else {}
            blobs += element("Blob", {"Name": text(name), **version}, own)
        where = f' ServiceEndpoint="http://127.0.0.1{text(ACCOUNT)}/" ContainerName="{xml(request.bucket)}"'
        said = f"<Blobs>{blobs}</Blobs><NextMarker>{token}</NextMarker>"
        return Answer(200, _XML, (_PROLOG + element("EnumerationResults", {}, said, where)).encode())

    def refuse(self, request: Request, status: int, code: str = "", message: str = "", headers: bytes = b"") -> Answer:
        """As Azure writes it: the code in a header too, for the answers without a body."""
        usual, why = _ERRORS.get(status, ("", ""))
        said = {"Code": code or usual, "Message": message or (why if not code else "The request is refused.")}
        headers += _XML + b"x-ms-error-code: %b\r\n" % said["Code"].encode()
        return Answer(status, headers, (_PROLOG + element("Error", said)).encode())
