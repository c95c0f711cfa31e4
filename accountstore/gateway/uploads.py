"""What an upload sends: a file in a multipart form (RFC 7578), or the file itself."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from accountstore.gateway.config import Limits
from accountstore.gateway.problems import Problem
from accountstore.gateway.wire import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ("uploaded",)

_MOST_PARTS = 16
_LONGEST_HEAD = 2048
_BOUNDARY = r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]"
"""RFC 2046 section 5.1.1."""


async def uploaded(request: Request, limits: Limits, /) -> bytes:
    """The first file of a form, or the whole body. Nothing of it is written to a temporary file.

    Raises `Problem` where a form has no file, more than 16 parts, or is not whole. A part within a part is no file.
    """
    body = await read_body(request, limits)
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        return body
    boundary = _parameter(kind, "boundary") or ""
    if re.fullmatch(_BOUNDARY, boundary):
        # The last piece is what follows the last boundary: no part.
        parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), _MOST_PARTS + 1)[1:-1]
        for part in takewhile(lambda part: part.startswith(b"\r\n"), parts):
            head, blank, _ = part[:_LONGEST_HEAD].partition(b"\r\n\r\n")
            if blank and _is_file(head.decode("latin-1")):
                return part[len(head) + len(blank) :]
    raise Problem(400, "badRequest", "the body is not a multipart form with a file")


def _is_file(head: str, /) -> bool:
    """Whether the headers of a part are those of a file, sent as it is."""
    fields = {name.lower(): value for name, _, value in (line.partition(":") for line in head.split("\r\n"))}
    plain = fields.get("content-transfer-encoding", "binary").strip().lower() in {"binary", "7bit", "8bit"}
    return plain and _parameter(fields.get("content-disposition", ""), "filename") is not None


def _parameter(header: str, name: str, /) -> str | None:
    """A parameter of a header, without its quotes."""
    found = re.finditer(r';\s*([\w-]+)\*?=("(?:[^"\\]|\\.)*"|[^;"]*)', header[:_LONGEST_HEAD])
    return next((each[2].strip('" ') for each in found if each[1].lower() == name), None)
