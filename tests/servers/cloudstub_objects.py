"""The objects of the cloud stub: buckets that exist when named, listings, and what the services have alike."""

from __future__ import annotations

import base64
import hashlib
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, ClassVar, NamedTuple
from urllib.parse import unquote_to_bytes

from cloudstub_wire import Answer, Request, http_date, ranged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CONTROLS = {code: f"&#x{code:X};" for code in range(32) if code not in {9, 10}}


@dataclass
class Entry:
    """One object: its bytes, its generation and tag, and the header lines that every GET of it answers."""

    data: bytes
    generation: int
    content_type: bytes
    metadata: Mapping[bytes, bytes]
    modified: float = field(default_factory=time.time)
    etag: bytes = b""
    head: bytes = b""


class Page(NamedTuple):
    """A page of a listing: objects, and common prefixes (without an entry); `token` asks for the next page."""

    items: Sequence[tuple[bytes, Entry | None]]
    token: str


class Kept(NamedTuple):
    """A version in a listing of versions, and whether it is the current one."""

    key: bytes
    entry: Entry
    current: bool


def page_of(entries: Mapping[bytes, Entry], prefix: bytes, delimiter: bytes, limit: int, after: bytes) -> Page:
    """List the names with a prefix, in the order of their bytes, behind a name or a common prefix."""
    names = sorted(entries)
    found: dict[bytes, Entry | None] = {}
    for at in range(bisect_left(names, max(prefix, after)), len(names)):
        name = names[at]
        if not name.startswith(prefix):
            break
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        shown, entry = (name, entries[name]) if cut < 0 else (name[: cut + len(delimiter)], None)
        if shown <= after or shown in found:
            continue
        if len(found) == limit:
            return Page([*found.items()], base64.urlsafe_b64encode([*found][-1]).decode())
        found[shown] = entry
    return Page([*found.items()], "")


class World:
    """All that the server holds and how it behaves, for all services."""

    def __init__(self) -> None:
        self.buckets: defaultdict[tuple[str, bytes], dict[bytes, Entry]] = defaultdict(dict)
        self.kept: defaultdict[tuple[str, bytes], list[tuple[bytes, Entry]]] = defaultdict(list)
        """What was ever written in a bucket with versions, oldest first."""
        self.generation = 1_700_000_000_000_000
        self.ignore_conditions = False
        self.drop_metadata = False
        self.page = 0

    def entry(self, data: bytes, content_type: bytes | None, metadata: Mapping[bytes, bytes]) -> Entry:
        """A new object of the next generation, not yet in a bucket."""
        self.generation += 1
        kept = {} if self.drop_metadata else metadata
        return Entry(data, self.generation, content_type or b"application/octet-stream", kept)


class Service(ABC):
    """A service on the objects. HEAD is served as GET is; the wire part leaves the body out."""

    name: str
    special: ClassVar[Mapping[bytes, tuple[int, str, str]]]
    """How a bucket begins that is refused, and with what: the status, the code and the message."""
    exists: tuple[int, str] = (412, "")
    """What refuses a create where there is an object: the status and the code."""
    absent: int = 412
    """The status that refuses a swap where there is none."""
    metadata: bytes
    """How a header with metadata begins."""
    version: bytes = b""
    """The header for the version in a bucket with versions."""

    def __init__(self, world: World) -> None:
        self._world = world

    def route(self, request: Request) -> Callable[[Request], Answer]:
        """Say on the request what it asks for; the function that applies it."""
        request.service = self.name
        call = self._route(request)
        return self._special if request.bucket.startswith(tuple(self.special)) else call

    @abstractmethod
    def _route(self, request: Request) -> Callable[[Request], Answer]: ...

    @abstractmethod
    def refuse(self, request: Request, status: int, code: str = "", message: str = "", headers: bytes = b"") -> Answer:
        """Refuse with a status, in the service's own format; the code and the message are by default its usual ones."""

    def _wanted(self, request: Request) -> bytes | None:
        """The tag that the request wants the object to have, empty where it wants none to be there; None: any."""
        return b"" if request.header(b"if-none-match") == b"*" else request.header(b"if-match")

    def _headers(self, entry: Entry) -> bytes:
        """The headers of a GET that the service alone has."""
        return b""

    @abstractmethod
    def _written(self, request: Request, entry: Entry) -> Answer: ...

    def _place(self, request: Request, path: bytes) -> None:
        bucket, _, key = path.partition(b"/")
        request.bucket = unquote_to_bytes(bucket)
        request.key = unquote_to_bytes(key)

    def _of_object(self, request: Request) -> Callable[[Request], Answer]:
        """A request for an object, by its method and its condition."""
        if request.method in {b"GET", b"HEAD"}:
            request.op = request.method.decode().lower()
            return self._get
        wanted = self._wanted(request)
        if request.method == b"DELETE":
            request.op = "delete" if wanted is None else "delete-if"
            return self._delete
        if request.method == b"PUT":
            return self._of_write(request)
        return self._unknown

    def _of_write(self, request: Request) -> Callable[[Request], Answer]:
        wanted = self._wanted(request)
        request.op = "put" if wanted is None else "swap" if wanted else "create"
        return self._put

    def _found(self, request: Request) -> Entry | None:
        return self._world.buckets[self.name, request.bucket].get(request.key)

    def _refusal(self, request: Request, current: Entry | None) -> Answer | None:
        """Why the condition of a write or a delete forbids it; None: it holds."""
        wanted = self._wanted(request)
        if wanted is None or self._world.ignore_conditions:
            return None
        if not wanted:
            return self.refuse(request, *self.exists) if current else None
        if current is None:
            return self.refuse(request, self.absent)
        return None if wanted.strip(b'"') == self._tag(current).strip(b'"') else self.refuse(request, 412)

    def _put(self, request: Request) -> Answer:
        if refusal := self._refusal(request, self._found(request)):
            return refusal
        metadata = request.headers(self.metadata) if request.metadata is None else request.metadata
        entry = self._world.entry(request.body, request.content_type, metadata)
        return self._written(request, self._keep(request.bucket, request.key, entry))

    def _get(self, request: Request) -> Answer:
        entry = self._found(request)
        if entry is None:
            return self.refuse(request, 404)
        status, headers, data = ranged(entry.data, request.header(b"x-ms-range") or request.header(b"range"))
        return (
            self.refuse(request, 416, headers=headers) if status == 416 else Answer(status, entry.head + headers, data)
        )

    def _delete(self, request: Request) -> Answer:
        entry = self._found(request)
        if entry is None and self.name != "s3":  # where it is no error
            return self.refuse(request, 404)
        if refusal := self._refusal(request, entry):
            return refusal
        self._world.buckets[self.name, request.bucket].pop(request.key, None)
        return Answer(202 if self.name == "azure" else 204)

    def store(self, bucket: bytes, key: bytes, data: bytes) -> None:
        """Store an object unconditionally."""
        self._keep(bucket, key, self._world.entry(data, None, {}))

    def _etag(self, entry: Entry) -> bytes:
        return b'"%b"' % hashlib.md5(entry.data, usedforsecurity=False).hexdigest().encode()

    def _tag(self, entry: Entry) -> bytes:
        """What a condition names."""
        return entry.etag

    def _keep(self, bucket: bytes, key: bytes, entry: Entry) -> Entry:
        entry.etag = self._etag(entry)
        entry.head = (
            b"ETag: %b\r\nLast-Modified: %b\r\nContent-Type: %b\r\nAccept-Ranges: bytes\r\n"
            % (entry.etag, http_date(int(entry.modified)), entry.content_type)
            + self._headers(entry)
            + self._version(bucket, entry)
            + b"".join([b"%b%b: %b\r\n" % (self.metadata, *item) for item in entry.metadata.items()])
        )
        self._world.buckets[self.name, bucket][key] = entry
        if bucket.startswith(b"versioned"):
            self._world.kept[self.name, bucket].append((key, entry))
        return entry

    def _version(self, bucket: bytes, entry: Entry) -> bytes:
        kept = self.version and bucket.startswith(b"versioned")
        return b"%b: %d\r\n" % (self.version, entry.generation) if kept else b""

    def _page(self, request: Request, limit: str, token: str, largest: int = 1000) -> Page:
        """The page that a listing asks for by the parameters of these names."""
        query = request.query
        after = base64.urlsafe_b64decode(query.get(token, "")) or query.get("start-after", "").encode()
        size = min(int(query.get(limit) or largest), self._world.page or largest)
        prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
        return page_of(self._world.buckets[self.name, request.bucket], prefix, delimiter, size, after)

    def _versions(self, request: Request, token: str, *, newest_first: bool = False) -> tuple[list[Kept], str]:
        """A page of versions, by name and age; and the generation of its last, after which the next one begins."""
        place, prefix = (self.name, request.bucket), request.query.get("prefix", "").encode()
        now = self._world.buckets[place]
        kept = [
            Kept(key, entry, now.get(key) is entry)
            for key, entry in self._world.kept[place] or now.items()
            if key.startswith(prefix)
        ]
        kept.sort(key=lambda one: (one.key, -one.entry.generation if newest_first else one.entry.generation))
        seen = request.query.get(token)
        after = [str(one.entry.generation) for one in kept].index(seen) + 1 if seen else 0
        size = self._world.page or 1000
        page = kept[after : after + size]
        return page, str(page[-1].entry.generation) if after + size < len(kept) else ""

    def _unknown(self, request: Request) -> Answer:
        return self.refuse(request, 501)

    def _special(self, request: Request) -> Answer:
        """Answer as a bucket does that is missing, forbidden, elsewhere, or meets bad keys."""
        name = next(name for name in self.special if request.bucket.startswith(name))
        return self.refuse(request, *self.special[name])


@lru_cache(maxsize=256)
def iso(second: int) -> str:
    """A time as the listings write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(second))


def text(data: bytes) -> str:
    """Bytes as text, whatever they are."""
    return data.decode("utf-8", "replace")


def xml(value: bytes | str) -> str:
    """Escape text for XML; a carriage return and controls survive as character references."""
    return escape(value if isinstance(value, str) else text(value)).translate(_CONTROLS)


def element(name: str, fields: Mapping[str, str], rest: str = "", attributes: str = "") -> str:
    """An XML element with a child for each field, escaped, and then the rest as it is."""
    return f"<{name}{attributes}>" + "".join(f"<{k}>{xml(v)}</{k}>" for k, v in fields.items()) + f"{rest}</{name}>"
