"""Google Cloud Storage as the cloud stub speaks it: gcsfs's JSON API and obstore's XML API, on the same objects."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote_to_bytes

from cloudstub_objects import Entry, Service, element, iso, text
from cloudstub_s3 import list_result
from cloudstub_wire import Answer, Request

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
_BOUNDARY = re.compile(rb'boundary="?([^";]+)')
_PART = re.compile(rb"\r?\n(.*?(\r?\n))\2(.*)\2", re.DOTALL)
"""The head of a part of an upload, the end of its lines, whichever the client writes, and the content."""


def _resource(bucket: bytes, key: bytes, entry: Entry) -> dict[str, Any]:
    """An object as the JSON API describes it."""
    said: dict[str, Any] = {"kind": "storage#object", "name": text(key), "bucket": text(bucket)}
    said |= {"generation": str(entry.generation), "metageneration": "1", "contentType": text(entry.content_type)}
    said |= {"storageClass": "STANDARD", "size": str(len(entry.data)), "etag": text(entry.etag)}
    said |= dict.fromkeys(("timeCreated", "updated"), iso(int(entry.modified)))
    if entry.metadata:
        said["metadata"] = {text(name): text(value) for name, value in entry.metadata.items()}
    return said


def _json(said: Mapping[str, Any]) -> Answer:
    return Answer(200, _JSON, json.dumps(said).encode())


class Gcs(Service):
    """The service."""

    name = "gcs"
    special: ClassVar = {
        b"missing": (404, "NoSuchBucket", "The specified bucket does not exist."),
        b"forbidden": (403, "", ""),
        b"badkeys": (401, "", ""),
    }
    metadata = b"x-goog-meta-"

    def _route(self, request: Request) -> Callable[[Request], Answer]:
        return self._of_json(request) if request.path.startswith(JSON_PATHS) else self._of_xml(request)

    def _of_json(self, request: Request) -> Callable[[Request], Answer]:
        where, _, path = request.path.partition(b"storage/v1/b/")
        bucket, _, rest = path.partition(b"/")
        request.bucket = unquote_to_bytes(bucket)
        if where == b"/upload/" and request.method == b"POST":
            return self._of_upload(request)
        if rest.startswith(b"o/"):
            request.key = unquote_to_bytes(rest[2:])
            call = self._of_object(request)
            if request.op != "get" or where == b"/download/" or request.query.get("alt") == "media":
                return call
            request.op = "head"
            return self._describe
        if request.method == b"GET" and rest == b"o":
            request.op = "list"
            return self._list_versions if request.query.get("versions") == "true" else self._list
        return self._about_bucket if where == b"/" and bucket and not rest else self._unknown

    def _of_upload(self, request: Request) -> Callable[[Request], Answer]:
        request.metadata = {}
        request.key = request.query.get("name", "").encode()
        if request.query.get("uploadType") == "multipart":
            mark = _BOUNDARY.findall(request.content_type or b"")[0]
            _, first, rest = request.body.split(b"--" + mark, 2)
            about, content = _PART.fullmatch(first), _PART.fullmatch(rest.rpartition(b"--" + mark + b"--")[0])
            if about is None or content is None:
                return self._unknown
            said = json.loads(about[3])
            request.key, request.body = said["name"].encode(), content[3]
            request.content_type = content[1].partition(b":")[2].strip()
            request.metadata = {k.encode(): v.encode() for k, v in said.get("metadata", {}).items()}
        return self._of_write(request)

    def _of_xml(self, request: Request) -> Callable[[Request], Answer]:
        self._place(request, request.path[1:])
        if request.key:
            odd = b"\r\nx-goog-copy-source:" in request.lower or (request.method == b"PUT" and request.query_string)
            return self._unknown if odd else self._of_object(request)
        if request.method == b"GET" and request.query.get("list-type") == "2":
            request.op = "list"
            return lambda request: list_result(request, self._page(request, "max-keys", "continuation-token"))
        return (lambda _: Answer(200, _XML)) if request.method == b"HEAD" else self._unknown

    def _wanted(self, request: Request) -> bytes | None:
        sent = request.header(b"x-goog-if-generation-match")
        if sent is None and "ifGenerationMatch" in request.query:
            sent = request.query["ifGenerationMatch"].encode()
        return b"" if sent == b"0" else sent

    def _refusal(self, request: Request, current: Entry | None) -> Answer | None:
        wanted = self._wanted(request)
        return self.refuse(request, 400) if wanted and not wanted.isdigit() else super()._refusal(request, current)

    def _tag(self, entry: Entry) -> bytes:
        return b"%d" % entry.generation

    def _headers(self, entry: Entry) -> bytes:
        generation = b"x-goog-generation: %d\r\nx-goog-metageneration: 1\r\n" % entry.generation
        return generation + b"x-goog-stored-content-length: %d\r\n" % len(entry.data)

    def _written(self, request: Request, entry: Entry) -> Answer:
        if request.path.startswith(JSON_PATHS):
            return _json(_resource(request.bucket, request.key, entry))
        return Answer(200, b"ETag: %b\r\n" % entry.etag + self._headers(entry))

    def _describe(self, request: Request) -> Answer:
        entry = self._found(request)
        return self.refuse(request, 404) if entry is None else _json(_resource(request.bucket, request.key, entry))

    def _list(self, request: Request) -> Answer:
        page = self._page(request, "maxResults", "pageToken")
        said: dict[str, Any] = {"kind": "storage#objects"}
        said |= {"nextPageToken": page.token} if page.token else {}
        said["prefixes"] = [text(name) for name, entry in page.items if entry is None]
        said["items"] = [_resource(request.bucket, name, entry) for name, entry in page.items if entry]
        return _json(said)

    def _list_versions(self, request: Request) -> Answer:
        page, token = self._versions(request, "pageToken")
        said: dict[str, Any] = {"kind": "storage#objects"} | ({"nextPageToken": token} if token else {})
        said["items"] = [
            _resource(request.bucket, name, entry) | ({} if current else {"timeDeleted": iso(int(entry.modified))})
            for name, entry, current in page
        ]
        return _json(said)

    def _about_bucket(self, request: Request) -> Answer:
        name = text(request.bucket)
        versioned = {"enabled": name.startswith("versioned")}
        return _json({"kind": "storage#bucket", "id": name, "name": name, "versioning": versioned})

    def refuse(self, request: Request, status: int, code: str = "", message: str = "", headers: bytes = b"") -> Answer:
        """As the API writes it that the request came through."""
        reason, usual, why = _ERRORS.get(status, ("", "", ""))
        if code and not message:
            reason, message = code, "The request is refused."
        elif status == 404 and not message:
            message = f"No such object: {text(request.bucket)}/{text(request.key)}"
        message = message or why
        if request.path.startswith(JSON_PATHS):
            one = {"message": message, "domain": "global", "reason": reason}
            said = {"error": {"code": status, "message": message, "errors": [one]}}
            return Answer(status, _JSON + headers, json.dumps(said).encode())
        body = "<?xml version='1.0' encoding='UTF-8'?>" + element("Error", {"Code": code or usual, "Message": message})
        return Answer(status, _XML + headers, body.encode())
