"""The wire: queries and bodies as the API's clients send them, and answers as all of them take them.

Six clients differ in the case of keys, the escapes of queries and what of an error they show; an answer suits all. JSON
is ASCII, begins with `{` and has the credentials' discriminator first; every error is the API's envelope.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_plus

import anyio
import msgspec
from msgspec import Raw
from starlette.responses import Response

from accountstore import Location
from accountstore.gateway.config import Limits
from accountstore.gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

_MARK = b"\xef\xbb\xbf"
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_MAX_PARAMETERS = 32
RETRY_SECONDS = 1
"""What `Retry-After` says: the vendor's Python client waits so long, four times, whatever it is told."""


def envelope(problem: Problem, request_id: str, /) -> bytes:
    """A problem as the API's error: `code` and `message` first, for a client that shows 120 characters of it."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    error = {
        "code": problem.code,
        "message": problem.message,
        "description": f"{problem.message}; request {request_id}",
        "innerError": {"requestId": request_id, "date": date},
    }
    return ascii_json(msgspec.json.encode({"error": error}))


def problem_response(problem: Problem, request_id: str, /) -> Response:
    """The answer that tells a problem."""
    headers = dict(problem.headers)
    if problem.status in {429, 503}:
        headers["retry-after"] = str(RETRY_SECONDS)
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(envelope(problem, request_id), problem.status, headers, "application/json")


def json_response(tree: object, /, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of a JSON object."""
    return Response(ascii_json(msgspec.json.encode(tree)), 200, headers, "application/json")


def ascii_json(data: bytes, /) -> bytes:
    """JSON with every other character than those of ASCII escaped: one client reads bytes by its machine's locale."""
    if data.isascii():
        return data
    return re.sub(r"[^\x00-\x7f]", _escape, data.decode()).encode()


def _escape(found: re.Match[str], /) -> str:
    return json.dumps(found[0])[1:-1]


def lower_first(key: str, /) -> str:
    """A key as the API answers it: one client sends `FileName` for `fileName`."""
    return key[:1].lower() + key[1:]


def query_of(request: Request, /) -> dict[str, str]:
    """The parameters of a query, decoded as a form: `+` is a space, `%XX` is UTF-8. Empty ones are left out.

    Raises `Problem` for what is not UTF-8 and for a parameter that stands twice.
    """
    return parse_form(request.scope["query_string"])


def parse_form(data: bytes, /) -> dict[str, str]:
    """The fields of a form, as `query_of`."""
    try:
        pairs = [(_decoded(key), _decoded(value)) for key, _, value in _parts(data.decode()) if value]
    except ValueError:
        raise Problem(400, "badRequest", "the query or form is not UTF-8, or has too many fields") from None
    fields = {lower_first(key): value for key, value in pairs}
    if len(fields) != len(pairs):
        raise Problem(400, "badRequest", "the query or form has a field twice")
    return fields


def _parts(text: str, /) -> list[tuple[str, str, str]]:
    """Key, `=` and value of each field. `urllib.parse.parse_qsl` takes four times as long."""
    parts = text.split("&", _MAX_PARAMETERS)
    if len(parts) > _MAX_PARAMETERS:
        raise ValueError
    return [part.partition("=") for part in parts]


def _decoded(text: str, /) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


async def read_body(request: Request, limits: Limits, /) -> bytes:
    """The body of a request. Raises `Problem` as soon as it is larger than allowed, whatever its headers said, and
    where it is too slow.
    """
    body = bytearray()
    with anyio.move_on_after(limits.body_seconds):
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "badRequest", "the request ended before its body did")
            body += message.get("body", b"")
            if len(body) > limits.body_bytes:
                raise too_large(limits.body_bytes)
            if not message.get("more_body", False):
                return bytes(body)
    raise Problem(408, "tooSlow", "the body did not come in time", headers={"connection": "close"})


def too_large(limit: int, /) -> Problem:
    """The problem of a body that is larger than the limit."""
    return Problem(
        413, "tooLarge", f"the body is larger than the {limit} bytes allowed", headers={"connection": "close"}
    )


def check_object(body: bytes, /) -> bytes:
    """A body without a byte order mark. Raises `Problem` unless it is UTF-8 JSON in which no key stands twice."""
    data = body.removeprefix(_MARK)
    try:
        json.loads(data.decode(), object_pairs_hook=_distinct, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Problem(400, "badRequest", "the body is not JSON") from None
    return data


def _distinct(pairs: list[tuple[str, object]], /) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Problem(400, "badRequest", "the body has a key twice")
    return fields


def _refuse(constant: str, /) -> NoReturn:
    raise ValueError(constant)


def fields_of(data: bytes | Raw, where: str, rename: Callable[[str], str] = lower_first, /) -> dict[str, Raw]:
    """The fields of a JSON object, each as it stands, by keys whose first letter is lower unless `rename` is another.

    Raises `Problem` for anything else, and for two keys that differ by that letter alone.
    """
    try:
        found = _FIELDS.decode(data)
    except msgspec.ValidationError:
        raise Problem(400, "badRequest", f"{where}: must be an object") from None
    except msgspec.DecodeError:
        told = "has half of a character: what is between \\ud800 and \\udfff comes in pairs"
        raise Problem(400, "badRequest", f"{where}: {told}") from None
    except RecursionError:
        raise Problem(400, "badRequest", f"{where}: is nested too deep") from None
    fields = {rename(key): value for key, value in found.items()}
    if len(fields) != len(found):
        raise Problem(400, "badRequest", f"{where}: has a key twice")
    return fields


def value_in(fields: Mapping[str, Raw], key: str, where: str, /) -> Any:
    """The value of a field that `fields_of` left as it stands; None where it is missing. Raises `Problem` for a number
    that Python does not have, and for what is nested too deep.
    """
    try:
        return msgspec.json.decode(fields[key]) if key in fields else None
    except msgspec.MsgspecError:
        raise Problem(400, "badRequest", f"{where}.{key}: has a number that is out of range") from None
    except RecursionError:
        raise Problem(400, "badRequest", f"{where}.{key}: is nested too deep") from None


def text_in(fields: Mapping[str, Raw], key: str, where: str, /) -> str:
    """The text of a field; empty where it is missing or null. Raises `Problem` for anything else."""
    value = value_in(fields, key, where)
    if not isinstance(value, str | None):
        raise Problem(400, "badRequest", f"{where}.{key}: must be text")
    return value or ""


def location_of(name: str, folder: str, storage: str, /) -> Location:
    """The location that a request names. Empty text means the root, or the default storage.

    A slash may stand at either end of a folder. Raises `LocationError`, and `Problem` where the name is missing.
    """
    if not name:
        raise Problem(400, "badRequest", "fileName: is missing")
    return Location(name, folder=folder_of(folder), storage=storage or None)


def folder_of(path: str, /) -> str:
    """A folder as the store has it: without the slash that some clients put at either end."""
    return path.removeprefix("/").removesuffix("/")
