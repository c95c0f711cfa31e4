"""S3 as the cloud stub speaks it: path style, ListObjectsV2, conditional PUT and DELETE; no signature is verified."""

from __future__ import annotations

import hashlib
import re
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, unquote_to_bytes

from cloudstub_objects import SPECIAL, Entry, Page, World, element, iso, name_of, text, xml
from cloudstub_wire import Answer, Clock, Request, ranged, unchunk

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_PROLOG = '<?xml version="1.0" encoding="UTF-8"?>\n'
_ID = b"x-amz-request-id: STUB0123456789AB\r\n"
_XML = _ID + b"Content-Type: application/xml\r\n"
_REGION = b"x-amz-bucket-region: %b\r\n"
_FAULTS = {
    403: ("AccessDenied", "Access Denied"),
    409: ("ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation."),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
    429: ("TooManyRequests", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    501: ("NotImplemented", "A header or query you provided implies functionality that is not implemented."),
    503: ("SlowDown", "Please reduce your request rate."),
}
_UNKNOWN = ("acl", "partNumber", "restore", "select", "tagging", "uploadId", "uploads", "versionId")
_DELETED = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


def is_s3(request: Request) -> bool:
    """Whether a path-style request comes from an S3 client: a signed one, or botocore's without a signature.

    Google's XML API has the same paths and obstore reads there without any header, so all others are taken for it.
    """
    lower = request.lower
    return b"\r\nx-amz-" in lower or b"x-amz-" in request.query_string.lower() or b"\r\namz-sdk-" in lower


def error(status: int, code: str, message: str, headers: bytes = b"", **fields: str) -> Answer:
    """An error as S3 writes it."""
    said = {"Code": code, "Message": message, **fields, "RequestId": "STUB0123456789AB", "HostId": "stub"}
    return Answer(status, _XML + headers, (_PROLOG + element("Error", said)).encode())


def list_result(bucket: bytes, page: Page, encode: Callable[[bytes], str], **fields: str) -> Answer:
    """A page as ListObjectsV2 answers it, and Google's XML API in its manner."""
    said = {"Name": text(bucket), **fields, "KeyCount": str(len(page.items))}
    said["IsTruncated"] = "true" if page.token else "false"
    if page.token:
        said["NextContinuationToken"] = page.token
    shown = [_contents(encode(name), entry) for name, entry in page.items if entry is not None]
    shown += [f"<CommonPrefixes><Prefix>{encode(n)}</Prefix></CommonPrefixes>" for n, e in page.items if e is None]
    return Answer(200, _XML, (_PROLOG + element("ListBucketResult", said, "".join(shown), _NAMESPACE)).encode())


def _contents(name: str, entry: Entry) -> str:
    return (
        f"<Contents><Key>{name}</Key><LastModified>{iso(int(entry.modified))}</LastModified>"
        f"<ETag>{xml(entry.etag)}</ETag><Size>{len(entry.data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _url(name: bytes) -> str:
    return quote_plus(name, safe="/")


class S3:
    """The service. HEAD is served as GET is; the wire part leaves the body out."""

    name = "s3"

    def __init__(self, world: World, clock: Clock) -> None:
        self._world = world
        self._clock = clock

    def route(self, request: Request) -> Callable[[Request], Answer]:
        """Find bucket, key and operation; the function that applies it."""
        request.service = "s3"
        request.bucket, _, key = request.path[1:].partition(b"/")
        request.key = unquote_to_bytes(key) if b"%" in key else key
        call = self._of_object(request) if request.key else self._of_bucket(request)
        return self._special if request.bucket.startswith(SPECIAL) else call

    def _of_object(self, request: Request) -> Callable[[Request], Answer]:
        method, lower = request.method, request.lower
        if b"\r\nx-amz-copy-source" in lower or (
            request.query_string and any(name in request.query for name in _UNKNOWN)
        ):
            return self._unknown
        if method == b"PUT":
            swap, create = b"\r\nif-match:" in lower, b"\r\nif-none-match:" in lower
            request.op = "swap" if swap else "create" if create else "put"
            return self._put
        if method in {b"GET", b"HEAD"}:
            request.op = "get" if method == b"GET" else "head"
            return self._get
        if method == b"DELETE":
            request.op = "delete-if" if b"\r\nif-match:" in lower else "delete"
            return self._delete
        return self._unknown

    def _of_bucket(self, request: Request) -> Callable[[Request], Answer]:
        method, query = request.method, request.query
        if method == b"GET" and query.get("list-type") == "2":
            request.op = "list"
            return self._list
        if method == b"GET" and ("versioning" in query or "location" in query):
            return self._setting
        if method == b"POST" and "delete" in query:
            request.op = "delete"
            keys = self._doomed(request)
            request.key = keys[0] if len(keys) == 1 else b""
            return self._delete_many
        if method in {b"HEAD", b"PUT"} and request.bucket:
            return lambda _: Answer(200, _ID + _REGION % b"us-east-1")
        return self._unknown

    def store(self, bucket: bytes, key: bytes, data: bytes) -> Entry:
        """Store an object unconditionally."""
        return self._keep(bucket, key, self._world.entry(data, b"binary/octet-stream", {}))

    def _keep(self, bucket: bytes, key: bytes, entry: Entry) -> Entry:
        entry.etag = b'"%b"' % hashlib.md5(entry.data, usedforsecurity=False).hexdigest().encode()
        version = b"x-amz-version-id: stub%d\r\n" % entry.generation if bucket.startswith(b"versioned") else b""
        metadata = b"".join([b"x-amz-meta-%b: %b\r\n" % (k.lower(), v) for k, v in entry.metadata.items()])
        entry.head = b"%bETag: %b\r\nLast-Modified: %b\r\nContent-Type: %b\r\nAccept-Ranges: bytes\r\n%b%b" % (
            _ID,
            entry.etag,
            self._clock.date(),
            entry.content_type,
            version,
            metadata,
        )
        self._world.bucket("s3", bucket).put(key, entry)
        return entry

    def _put(self, request: Request) -> Answer:
        if refusal := self._refusal(request):
            return refusal
        body = request.body
        if b"aws-chunked" in (request.header(b"content-encoding") or b""):
            body = (unchunk(body) or (b"",))[0]
        metadata = request.headers(b"x-amz-meta-")
        entry = self._world.entry(body, request.header(b"content-type") or b"binary/octet-stream", metadata)
        self._keep(request.bucket, request.key, entry)
        return Answer(200, b"%bETag: %b\r\n%b" % (_ID, entry.etag, self._version(request, entry.generation)))

    def _version(self, request: Request, generation: int) -> bytes:
        return b"x-amz-version-id: stub%d\r\n" % generation if request.bucket.startswith(b"versioned") else b""

    def _refusal(self, request: Request) -> Answer | None:
        """Why the conditions of a PUT or DELETE forbid it; None: they hold. If-Match of an absent key is a 404."""
        if request.op in {"put", "delete"} or self._world.ignore_conditions:
            return None
        entry = self._world.bucket("s3", request.bucket).entries.get(request.key)
        if (absent := request.header(b"if-none-match")) is not None:
            if absent != b"*":
                return error(501, *_FAULTS[501], Header="If-None-Match")
            if entry is not None:
                return error(412, *_FAULTS[412], Condition="If-None-Match")
        if (wanted := request.header(b"if-match")) is not None:
            if entry is None:
                return self._no_such_key(request)
            if wanted.strip(b'"') not in {b"*", entry.etag.strip(b'"')}:
                return error(412, *_FAULTS[412], Condition="If-Match")
        return None

    def _no_such_key(self, request: Request) -> Answer:
        return error(404, "NoSuchKey", "The specified key does not exist.", Key=text(request.key))

    def _get(self, request: Request) -> Answer:
        entry = self._world.bucket("s3", request.bucket).entries.get(request.key)
        if entry is None:
            return self._no_such_key(request)
        answer = ranged(entry.data, request.header(b"range"))
        if answer.status == 416:
            return error(416, "InvalidRange", "The requested range is not satisfiable", answer.headers)
        return Answer(answer.status, entry.head + answer.headers, answer.body)

    def _delete(self, request: Request) -> Answer:
        if refusal := self._refusal(request):
            return refusal
        self._world.bucket("s3", request.bucket).pop(request.key)
        if not request.bucket.startswith(b"versioned"):
            return Answer(204, _ID)
        self._world.generation += 1
        return Answer(204, _ID + b"x-amz-delete-marker: true\r\n" + self._version(request, self._world.generation))

    @staticmethod
    def _doomed(request: Request) -> list[bytes]:
        return [unescape(text(key)).encode() for key in _DELETED.findall(request.body)]

    def _delete_many(self, request: Request) -> Answer:
        keys = self._doomed(request)
        bucket = self._world.bucket("s3", request.bucket)
        for key in keys:
            bucket.pop(key)
        quiet = b"<Quiet>true</Quiet>" in request.body
        deleted = "" if quiet else "".join(element("Deleted", {"Key": text(key)}) for key in keys)
        return Answer(200, _XML, (_PROLOG + element("DeleteResult", {}, deleted, _NAMESPACE)).encode())

    def _list(self, request: Request) -> Answer:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("start-after", "").encode()
        if token := query.get("continuation-token"):
            after = name_of(token)
        limit = self._world.limit(query.get("max-keys"), 1000)
        page = self._world.bucket("s3", request.bucket).page(prefix.encode(), delimiter.encode(), limit, after=after)
        coded = query.get("encoding-type") == "url"
        shown = {"Prefix": _url(prefix.encode()) if coded else prefix, "MaxKeys": str(limit)}
        if delimiter:
            shown["Delimiter"] = _url(delimiter.encode()) if coded else delimiter
        if coded:
            shown["EncodingType"] = "url"
        return list_result(request.bucket, page, _url if coded else xml, **shown)

    def _setting(self, request: Request) -> Answer:
        if "location" in request.query:
            return Answer(200, _XML, (_PROLOG + element("LocationConstraint", {}, "", _NAMESPACE)).encode())
        said = {"Status": "Enabled"} if request.bucket.startswith(b"versioned") else {}
        return Answer(200, _XML, (_PROLOG + element("VersioningConfiguration", said, "", _NAMESPACE)).encode())

    def _unknown(self, request: Request) -> Answer:
        return error(501, *_FAULTS[501])

    def _special(self, request: Request) -> Answer:
        """Answer as a bucket does that is missing, forbidden, elsewhere, or meets bad keys."""
        name = text(request.bucket)
        if name.startswith("missing"):
            return error(404, "NoSuchBucket", "The specified bucket does not exist", BucketName=name)
        if name.startswith("forbidden"):
            return error(403, *_FAULTS[403])
        if name.startswith("badkeys-signature"):
            return error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if name.startswith("badkeys"):
            return error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        if request.method == b"HEAD":
            return Answer(400, _XML + _REGION % b"eu-west-1")
        message = "The bucket you are attempting to access must be addressed using the specified endpoint."
        where = {"Endpoint": f"{name}.s3.eu-west-1.amazonaws.com", "Bucket": name}
        return error(301, "PermanentRedirect", message, _REGION % b"eu-west-1", **where)

    def fault(self, request: Request, status: int) -> Answer:
        """Refuse with a status, as S3 does."""
        condition = {"swap": "If-Match", "delete-if": "If-Match"}.get(request.op, "If-None-Match")
        fields = {"Condition": condition} if status in {409, 412} else {}
        return error(status, *_FAULTS[status], b"", **fields)

    def refuse(self, request: Request, status: int, code: str) -> Answer:
        """Refuse with a status and an error code."""
        return error(status, code, "The request is refused.")
