"""S3 as the cloud stub speaks it: path style, both ListObjects, CopyObject, conditional PUT and DELETE; no signature is
verified.
"""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote_plus, unquote_to_bytes

from cloudstub_objects import Entry, Page, Service, element, iso, text
from cloudstub_wire import Answer, Request

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_PROLOG = '<?xml version="1.0" encoding="UTF-8"?>\n'
_XML = b"Content-Type: application/xml\r\n"
_REGION = b"x-amz-bucket-region: %b\r\n"
_ERRORS = {
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    409: ("ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation."),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
    416: ("InvalidRange", "The requested range is not satisfiable"),
    429: ("TooManyRequests", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    501: ("NotImplemented", "A header or query you provided implies functionality that is not implemented."),
    503: ("SlowDown", "Please reduce your request rate."),
}
_LISTED = {"delimiter", "encoding-type", "marker", "max-keys", "prefix", "x-id"}
"""The parameters of the first ListObjects."""
_UNKNOWN = {"acl", "partNumber", "restore", "select", "tagging", "uploadId", "uploads", "versionId"}
_DELETED = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


def is_s3(request: Request) -> bool:
    """Whether a path-style request comes from an S3 client: a signed one, or botocore's without a signature.

    Google's XML API has the same paths and obstore reads there without any header, so all others are taken for it.
    """
    lower = request.lower
    return b"\r\nx-amz-" in lower or b"x-amz-" in request.query_string.lower() or b"\r\namz-sdk-" in lower


def list_result(request: Request, page: Page) -> Answer:
    """A page as ListObjectsV2 answers it, and Google's XML API in its manner."""
    coded = request.query.get("encoding-type") == "url"
    said = {"Name": text(request.bucket), "KeyCount": str(len(page.items))}
    said |= {"EncodingType": "url"} if coded else {}
    said |= {"IsTruncated": "true", "NextContinuationToken": page.token} if page.token else {"IsTruncated": "false"}
    if page.token and request.query.get("list-type") != "2":
        said["NextMarker"] = quote_plus(page.items[-1][0], safe="/") if coded else text(page.items[-1][0])
    shown = ""
    for name, entry in page.items:
        key = quote_plus(name, safe="/") if coded else text(name)
        if entry is None:
            shown += element("CommonPrefixes", {"Prefix": key})
        else:
            about = {"LastModified": iso(int(entry.modified)), "ETag": text(entry.etag), "Size": str(len(entry.data))}
            shown += element("Contents", {"Key": key, **about, "StorageClass": "STANDARD"})
    return _xml("ListBucketResult", said, shown)


def _xml(name: str, said: dict[str, str], rest: str = "") -> Answer:
    return Answer(200, _XML, (_PROLOG + element(name, said, rest, _NAMESPACE)).encode())


class S3(Service):
    """The service."""

    name = "s3"
    special: ClassVar = {
        b"missing": (404, "NoSuchBucket", "The specified bucket does not exist"),
        b"forbidden": (403, "AccessDenied", "Access Denied"),
        b"badkeys-signature": (403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
        b"badkeys": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        b"elsewhere": (301, "PermanentRedirect", "The bucket must be addressed using the specified endpoint."),
    }
    absent = 404
    metadata = b"x-amz-meta-"
    version = b"x-amz-version-id"

    def _route(self, request: Request) -> Callable[[Request], Answer]:
        self._place(request, request.path[1:])
        method, query = request.method, request.query
        if request.key:
            if request.header(b"x-amz-copy-source") and method == b"PUT":
                request.op = "copy"
                return self._copy
            return self._unknown if _UNKNOWN & query.keys() else self._of_object(request)
        if method == b"GET" and query.get("list-type") == "2":
            request.op = "list"
            return lambda request: list_result(request, self._page(request, "max-keys", "continuation-token"))
        if method == b"GET" and request.bucket and query.keys() <= _LISTED:
            request.op = "list"
            query["start-after"] = query.get("marker", "")
            return lambda request: list_result(request, self._page(request, "max-keys", "marker-token"))
        if method == b"GET" and "versions" in query:
            request.op = "list"
            return self._list_versions
        if method == b"GET" and "versioning" in query:
            said = {"Status": "Enabled"} if request.bucket.startswith(b"versioned") else {}
            return lambda _: _xml("VersioningConfiguration", said)
        if method == b"POST" and "delete" in query:
            request.op = "delete"
            keys = [unescape(text(key)).encode() for key in _DELETED.findall(request.body)]
            request.key = keys[0] if len(keys) == 1 else b""
            return lambda request: self._delete_many(request, keys)
        if method in {b"HEAD", b"PUT"} and request.bucket:
            return lambda _: Answer(200, _REGION % b"us-east-1")
        return self._unknown

    def _list_versions(self, request: Request) -> Answer:
        page, token = self._versions(request, "version-id-marker", newest_first=True)
        coded = request.query.get("encoding-type") == "url"
        shown = ""
        for name, entry, current in page:
            key = quote_plus(name, safe="/") if coded else text(name)
            version = str(entry.generation) if self._version(request.bucket, entry) else "null"
            about = {"Key": key, "VersionId": version, "IsLatest": str(current).lower(), "ETag": text(entry.etag)}
            about |= {"LastModified": iso(int(entry.modified)), "Size": str(len(entry.data))}
            shown += element("Version", about)
        said = {"Name": text(request.bucket), "IsTruncated": str(bool(token)).lower()}
        said |= {"EncodingType": "url"} if coded else {}
        if token:
            last = page[-1].key
            said |= {"NextKeyMarker": quote_plus(last, safe="/") if coded else text(last), "NextVersionIdMarker": token}
        return _xml("ListVersionsResult", said, shown)

    def _written(self, request: Request, entry: Entry) -> Answer:
        return Answer(200, b"ETag: %b\r\n%b" % (entry.etag, self._version(request.bucket, entry)))

    def _copy(self, request: Request) -> Answer:
        """Copy an object, with its metadata, within the service."""
        bucket, _, key = unquote_to_bytes(request.header(b"x-amz-copy-source") or b"").lstrip(b"/").partition(b"/")
        source = self._world.buckets["s3", bucket].get(key)
        if source is None:
            return self.refuse(request, 404)
        if refusal := self._refusal(request, self._found(request)):
            return refusal
        entry = self._world.entry(source.data, source.content_type, source.metadata)
        kept = self._keep(request.bucket, request.key, entry)
        return _xml("CopyObjectResult", {"ETag": text(kept.etag), "LastModified": iso(int(kept.modified))})

    def _delete_many(self, request: Request, keys: list[bytes]) -> Answer:
        for key in keys:
            self._world.buckets["s3", request.bucket].pop(key, None)
        quiet = b"<Quiet>true</Quiet>" in request.body
        return _xml("DeleteResult", {}, "" if quiet else "".join(element("Deleted", {"Key": text(k)}) for k in keys))

    def refuse(self, request: Request, status: int, code: str = "", message: str = "", headers: bytes = b"") -> Answer:
        if status == 301:
            headers = _REGION % b"eu-west-1"
            status = 400 if request.method == b"HEAD" else 301
        usual, why = _ERRORS.get(status, ("", ""))
        said = {"Code": code or usual, "Message": message or (why if not code else "The request is refused.")}
        said |= {"Key": text(request.key), "RequestId": "STUB0123456789AB"}
        return Answer(status, _XML + headers, (_PROLOG + element("Error", said)).encode())
