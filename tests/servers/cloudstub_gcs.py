"""Google Cloud Storage as the cloud stub speaks it: gcsfs's JSON API and obstore's XML API, on the same objects."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from cloudstub_objects import SPECIAL, Entry, World, element, iso, name_of, text, xml
from cloudstub_s3 import list_result
from cloudstub_wire import Answer, Clock, Request, ranged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JSON_PATHS = (b"/storage/v1/", b"/upload/storage/v1/", b"/download/storage/v1/", b"/batch/storage/v1")
_JSON = b"Content-Type: application/json; charset=UTF-8\r\n"
_XML = b"Content-Type: application/xml; charset=UTF-8\r\n"
# status: the JSON API's reason, the XML API's code, the message of both
_ERRORS = {
    400: ("invalid", "InvalidArgument", "Invalid argument."),
    401: ("authError", "AuthenticationRequired", "Invalid Credentials"),
    403: ("forbidden", "AccessDenied", "The caller does not have storage.objects access to the object."),
    404: ("notFound", "NoSuchKey", "No such object"),
    409: ("conflict", "Conflict", "A conflicting operation is in progress."),
    412: ("conditionNotMet", "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
    416: ("requestedRangeNotSatisfiable", "InvalidRange", "Request range not satisfiable"),
    429: ("rateLimitExceeded", "SlowDown", "The object exceeded the rate limit for object mutation operations."),
    500: ("backendError", "InternalError", "We encountered an internal error. Please try again."),
    501: ("notImplemented", "NotImplemented", "A feature that this server does not implement."),
    503: ("backendError", "ServiceUnavailable", "Backend Error"),
}
_BLANK_LINE = re.compile(rb"\r?\n(\r?\n)")
_BOUNDARY = re.compile(rb'boundary="?([^";]+)')
_PART_TYPE = re.compile(rb"^content-type:[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


def error(
    request: Request, status: int, message: str = "", code: str = "", headers: bytes = b"", reason: str = ""
) -> Answer:
    """An error as the API writes it that the request came through."""
    usual_reason, xml_code, usual = _ERRORS.get(status, ("", "", ""))
    message, reason = message or usual, reason or usual_reason
    if request.path.startswith(JSON_PATHS):
        one = {"message": message, "domain": "global", "reason": reason}
        said = {"error": {"code": status, "message": message, "errors": [one]}}
        return Answer(status, _JSON + headers, json.dumps(said).encode())
    body = "<?xml version='1.0' encoding='UTF-8'?>" + element("Error", {"Code": code or xml_code, "Message": message})
    return Answer(status, _XML + headers, body.encode())


def _multipart(request: Request) -> tuple[dict[str, Any], bytes, bytes | None]:
    """The metadata, the bytes and the type in a multipart/related upload, whichever line ends the client writes."""
    found = _BOUNDARY.search(request.header(b"content-type") or b"")
    mark = b"--" + (found.group(1) if found else b"")
    body = request.body
    second = body.index(b"\n" + mark, body.index(mark) + len(mark))
    metadata = body[_end_of_head(body, 0)[0] : second]
    start, line_end = _end_of_head(body, second + 1)
    stop = body.rindex(line_end + mark + b"--")
    kind = _PART_TYPE.search(body[second:start])
    return json.loads(metadata), body[start:stop], kind.group(1) if kind else None


def _end_of_head(body: bytes, at: int) -> tuple[int, bytes]:
    found = _BLANK_LINE.search(body, at)
    if found is None:
        raise ValueError("a part of an upload has no head")
    return found.end(), found.group(1)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _tag(generation: int) -> str:
    """The ETag of the JSON API: generation and metageneration in a protocol buffer."""
    return base64.b64encode(b"\x08" + _varint(generation) + b"\x10\x01").decode()


def _resource(bucket: bytes, key: bytes, entry: Entry) -> dict[str, Any]:
    """An object as the JSON API describes it."""
    when = iso(int(entry.modified))
    said: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{text(bucket)}/{text(key)}/{entry.generation}",
        "name": text(key),
        "bucket": text(bucket),
        "generation": str(entry.generation),
        "metageneration": "1",
        "contentType": text(entry.content_type),
        "storageClass": "STANDARD",
        "size": str(len(entry.data)),
        "md5Hash": base64.b64encode(hashlib.md5(entry.data, usedforsecurity=False).digest()).decode(),
        "etag": _tag(entry.generation),
        "timeCreated": when,
        "updated": when,
    }
    if entry.metadata:
        said["metadata"] = {text(name): text(value) for name, value in entry.metadata.items()}
    return said


def _json(said: Mapping[str, Any]) -> Answer:
    return Answer(200, _JSON, json.dumps(said).encode())


class Gcs:
    """The service. HEAD is served as GET is; the wire part leaves the body out."""

    name = "gcs"

    def __init__(self, world: World, clock: Clock) -> None:
        self._world = world
        self._clock = clock

    def route(self, request: Request) -> Callable[[Request], Answer]:
        """Find bucket, key and operation; the function that applies it."""
        request.service = "gcs"
        call = self._of_json(request) if request.path.startswith(JSON_PATHS) else self._of_xml(request)
        return self._special if request.bucket.startswith(SPECIAL[:3]) else call

    def _of_json(self, request: Request) -> Callable[[Request], Answer]:
        where, _, path = request.path.partition(b"storage/v1/b/")
        bucket, _, rest = path.partition(b"/")
        request.bucket = unquote_to_bytes(bucket)
        if where == b"/upload/" and request.method == b"POST":
            return self._of_upload(request)
        if rest.startswith(b"o/"):
            request.key = unquote_to_bytes(rest[2:])
            return self._of_object(request, media=where == b"/download/" or request.query.get("alt") == "media")
        if request.method == b"GET" and rest == b"o":
            request.op = "list"
            return self._list_json
        return self._about_bucket if where == b"/" and bucket and not rest else self._unknown

    def _of_upload(self, request: Request) -> Callable[[Request], Answer]:
        kind = request.query.get("uploadType")
        if kind == "multipart":
            metadata, data, content_type = _multipart(request)
            content_type = str(metadata["contentType"]).encode() if "contentType" in metadata else content_type
            request.key = str(metadata.get("name") or request.query.get("name", "")).encode()
            own = {k.encode(): str(v).encode() for k, v in metadata.get("metadata", {}).items()}
        elif kind == "media":
            data, content_type = request.body, request.header(b"content-type")
            request.key, own = request.query.get("name", "").encode(), {}
        else:
            return self._unknown
        return self._of_write(request, lambda: self._world.entry(data, content_type, own), self._answer_json)

    def _of_xml(self, request: Request) -> Callable[[Request], Answer]:
        request.bucket, _, key = request.path[1:].partition(b"/")
        request.key = unquote_to_bytes(key) if b"%" in key else key
        if request.key:
            if request.method != b"PUT":
                return self._of_object(request, media=True)
            if b"\r\nx-goog-copy-source:" in request.lower or request.query_string:
                return self._unknown
            return self._of_write(request, lambda: self._sent(request), self._answer_xml)
        if request.method == b"GET" and request.query.get("list-type") == "2":
            request.op = "list"
            return self._list_xml
        return (lambda _: Answer(200, _XML)) if request.method == b"HEAD" else self._unknown

    def _of_object(self, request: Request, *, media: bool) -> Callable[[Request], Answer]:
        if request.method == b"DELETE":
            request.op = "delete" if self._wanted(request) is None else "delete-if"
            return self._delete
        if request.method in {b"GET", b"HEAD"}:
            request.op = "get" if media and request.method == b"GET" else "head"
            return self._get if media else self._describe
        return self._unknown

    def _sent(self, request: Request) -> Entry:
        return self._world.entry(request.body, request.header(b"content-type"), request.headers(b"x-goog-meta-"))

    def _of_write(
        self, request: Request, make: Callable[[], Entry], answer: Callable[[Request, Entry], Answer]
    ) -> Callable[[Request], Answer]:
        """What stores an object where its condition holds."""
        wanted = self._wanted(request)
        request.op = "put" if wanted is None else "create" if wanted == "0" else "swap"

        def write(request: Request) -> Answer:
            current = self._world.bucket("gcs", request.bucket).entries.get(request.key)
            refusal = self._refusal(request, current)
            return refusal or answer(request, self._keep(request.bucket, request.key, make()))

        return write

    @staticmethod
    def _wanted(request: Request) -> str | None:
        """The generation that the request wants the object to have, "0" for none; None: any."""
        sent = request.header(b"x-goog-if-generation-match")
        if sent is not None:
            return text(sent)
        return request.query.get("ifGenerationMatch") if request.query_string else None

    def _refusal(self, request: Request, current: Entry | None) -> Answer | None:
        wanted = self._wanted(request)
        if wanted is None or self._world.ignore_conditions:
            return None
        if not wanted.isdecimal():
            return error(request, 400)
        return None if int(wanted) == (current.generation if current else 0) else error(request, 412)

    def store(self, bucket: bytes, key: bytes, data: bytes) -> Entry:
        """Store an object unconditionally."""
        return self._keep(bucket, key, self._world.entry(data, None, {}))

    def _keep(self, bucket: bytes, key: bytes, entry: Entry) -> Entry:
        entry.etag = b'"%b"' % hashlib.md5(entry.data, usedforsecurity=False).hexdigest().encode()
        metadata = b"".join([b"x-goog-meta-%b: %b\r\n" % (k.lower(), v) for k, v in entry.metadata.items()])
        entry.head = (
            b"ETag: %b\r\nLast-Modified: %b\r\nContent-Type: %b\r\nAccept-Ranges: bytes\r\nx-goog-generation: %d\r\n"
            b"x-goog-metageneration: 1\r\nx-goog-stored-content-length: %d\r\nx-goog-storage-class: STANDARD\r\n%b"
        ) % (entry.etag, self._clock.date(), entry.content_type, entry.generation, len(entry.data), metadata)
        self._world.bucket("gcs", bucket).put(key, entry)
        return entry

    def _answer_json(self, request: Request, entry: Entry) -> Answer:
        return _json(_resource(request.bucket, request.key, entry))

    def _answer_xml(self, request: Request, entry: Entry) -> Answer:
        headers = b"ETag: %b\r\nx-goog-generation: %d\r\nx-goog-metageneration: 1\r\nContent-Type: text/html\r\n"
        return Answer(200, headers % (entry.etag, entry.generation))

    def _current(self, request: Request) -> Entry | None:
        """The object that is asked for, also by its generation."""
        entry = self._world.bucket("gcs", request.bucket).entries.get(request.key)
        asked = request.query.get("generation") if request.query_string else None
        return None if entry and asked and asked != str(entry.generation) else entry

    def _absent(self, request: Request) -> Answer:
        return error(request, 404, f"No such object: {text(request.bucket)}/{text(request.key)}")

    def _get(self, request: Request) -> Answer:
        entry = self._current(request)
        if entry is None:
            return self._absent(request)
        answer = ranged(entry.data, request.header(b"range"))
        if answer.status == 416:
            return error(request, 416, headers=answer.headers)
        return Answer(answer.status, entry.head + answer.headers, answer.body)

    def _describe(self, request: Request) -> Answer:
        entry = self._current(request)
        return self._absent(request) if entry is None else self._answer_json(request, entry)

    def _delete(self, request: Request) -> Answer:
        entry = self._current(request)
        if entry is None:
            return self._absent(request)
        if refusal := self._refusal(request, entry):
            return refusal
        self._world.bucket("gcs", request.bucket).pop(request.key)
        return Answer(204)

    def _list_json(self, request: Request) -> Answer:
        query = request.query
        token, start = query.get("pageToken"), query.get("startOffset", "").encode()
        limit = self._world.limit(query.get("maxResults"), 1000)
        prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
        after = name_of(token) if token else b""
        page = self._world.bucket("gcs", request.bucket).page(prefix, delimiter, limit, after=after, start=start)
        said: dict[str, Any] = {"kind": "storage#objects"}
        if page.token:
            said["nextPageToken"] = page.token
        if prefixes := [text(name) for name, entry in page.items if entry is None]:
            said["prefixes"] = prefixes
        if items := [_resource(request.bucket, name, entry) for name, entry in page.items if entry]:
            said["items"] = items
        return _json(said)

    def _list_xml(self, request: Request) -> Answer:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        token = query.get("continuation-token")
        after = name_of(token) if token else query.get("start-after", "").encode()
        limit = self._world.limit(query.get("max-keys"), 1000)
        page = self._world.bucket("gcs", request.bucket).page(prefix.encode(), delimiter.encode(), limit, after=after)
        return list_result(request.bucket, page, xml, Prefix=prefix, MaxKeys=str(limit))

    def _about_bucket(self, request: Request) -> Answer:
        name = text(request.bucket)
        versioned = {"enabled": name.startswith("versioned")}
        said = {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"}
        return _json({**said, "projectNumber": "1", "metageneration": "1", "versioning": versioned})

    def _unknown(self, request: Request) -> Answer:
        return error(request, 501)

    def _special(self, request: Request) -> Answer:
        """Answer as a bucket does that is missing, forbidden, or meets bad credentials."""
        if request.bucket.startswith(b"missing"):
            return error(request, 404, "The specified bucket does not exist.", "NoSuchBucket")
        return error(request, 403 if request.bucket.startswith(b"forbidden") else 401)

    def fault(self, request: Request, status: int) -> Answer:
        """Refuse with a status, as the API of the request does."""
        return error(request, status)

    def refuse(self, request: Request, status: int, code: str) -> Answer:
        """Refuse with a status and an error code, as the API of the request does."""
        return error(request, status, "The request is refused.", code, reason=code)
