"""The objects of the cloud stub: buckets that exist when named, pages of a listing, and what all services need."""

from __future__ import annotations

import base64
import time
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudstub_wire import Answer, Request

SPECIAL = (b"missing", b"forbidden", b"badkeys", b"elsewhere")

_ESCAPES = {code: f"&#x{code:X};" for code in range(32) if code not in {9, 10}} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
}


class Entry:
    """One object: its bytes, its tag and generation, and the header lines that every GET of it answers."""

    __slots__ = ("content_type", "data", "etag", "generation", "head", "metadata", "modified")

    def __init__(self, data: bytes, generation: int, content_type: bytes, metadata: Mapping[bytes, bytes]) -> None:
        self.data = data
        self.generation = generation
        self.content_type = content_type
        self.metadata = metadata
        self.modified = time.time()
        self.etag = b""
        self.head = b""


class Page(NamedTuple):
    """A page of a listing: objects, and common prefixes (without an entry); `token` asks for the next page."""

    items: list[tuple[bytes, Entry | None]]
    token: str


class Bucket:
    """The objects of one bucket by their keys; lists them in the order of their bytes."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self._names: list[bytes] | None = None

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an object."""
        if key not in self.entries:
            self._names = None
        self.entries[key] = entry

    def pop(self, key: bytes) -> None:
        """Forget an object that may be absent."""
        if self.entries.pop(key, None) is not None:
            self._names = None

    def page(self, prefix: bytes, delimiter: bytes, limit: int, *, after: bytes = b"", start: bytes = b"") -> Page:
        """List the names with a prefix: strictly after one name, and from another on."""
        if self._names is None:
            self._names = sorted(self.entries)
        names, items = self._names, list[tuple[bytes, Entry | None]]()
        at = max(bisect_left(names, max(prefix, start)), self._behind(names, prefix, delimiter, after))
        while at < len(names) and names[at].startswith(prefix) and len(items) < limit:
            name = names[at]
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                items.append((name, self.entries[name]))
                at += 1
            else:
                common = name[: cut + len(delimiter)]
                items.append((common, None))
                at = bisect_left(names, common + b"\xff", at)
        more = bool(items) and at < len(names) and names[at].startswith(prefix)
        return Page(items, base64.urlsafe_b64encode(items[-1][0]).decode() if more else "")

    @staticmethod
    def _behind(names: list[bytes], prefix: bytes, delimiter: bytes, after: bytes) -> int:
        """The index behind a name, or behind all names under it where it is a common prefix (no name holds 0xFF)."""
        if delimiter and after.endswith(delimiter) and len(after) > len(prefix):
            return bisect_left(names, after + b"\xff")
        return bisect_right(names, after) if after else 0


def name_of(token: str) -> bytes:
    """The name that a page's token continues after."""
    return base64.urlsafe_b64decode(token)


class World:
    """All that the server holds and how it behaves, for all services."""

    def __init__(self) -> None:
        self.buckets: dict[tuple[str, bytes], Bucket] = {}
        self.generation = 1_700_000_000_000_000
        self.ignore_conditions = False
        self.drop_metadata = False
        self.page = 0

    def bucket(self, service: str, name: bytes) -> Bucket:
        """The bucket of that name, which exists from now on."""
        found = self.buckets.get((service, name))
        if found is None:
            found = self.buckets[service, name] = Bucket()
        return found

    def limit(self, asked: str | None, largest: int) -> int:
        """How many names a page has: as many as are asked for, at most those of the service, or of the mode `page`."""
        return min(int(asked or largest), self.page or largest)

    def entry(self, data: bytes, content_type: bytes | None, metadata: Mapping[bytes, bytes]) -> Entry:
        """A new object of the next generation, not yet in a bucket."""
        self.generation += 1
        kept = {} if self.drop_metadata else metadata
        return Entry(data, self.generation, content_type or b"application/octet-stream", kept)


class Service(Protocol):
    """What the control part needs of a service."""

    name: str

    def route(self, request: Request) -> Callable[[Request], Answer]:
        """Say on the request what it asks for; the function that applies it."""
        ...

    def store(self, bucket: bytes, key: bytes, data: bytes) -> Entry:
        """Store an object unconditionally."""
        ...

    def fault(self, request: Request, status: int) -> Answer:
        """Refuse with a status, in the service's own format."""
        ...

    def refuse(self, request: Request, status: int, code: str) -> Answer:
        """Refuse with a status and an error code, in the service's own format."""
        ...


@lru_cache(maxsize=256)
def iso(second: int) -> str:
    """A time as the listings write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(second))


def text(data: bytes) -> str:
    """Bytes as text, whatever they are."""
    return data.decode("utf-8", "replace")


def xml(value: bytes | str) -> str:
    """Escape text for XML; a carriage return and controls survive as character references."""
    return (value if isinstance(value, str) else text(value)).translate(_ESCAPES)


def element(name: str, fields: Mapping[str, str], rest: str = "", attributes: str = "") -> str:
    """An XML element with a child for each field, escaped, and then the rest as it is."""
    return f"<{name}{attributes}>" + "".join(f"<{k}>{xml(v)}</{k}>" for k, v in fields.items()) + f"{rest}</{name}>"
