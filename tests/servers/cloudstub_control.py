"""The control part of the cloud stub: which service a request is for, its log, and the faults that a test asks for."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudstub_azure import ACCOUNT, Azure
from cloudstub_gcs import JSON_PATHS, Gcs
from cloudstub_objects import Service, World, text
from cloudstub_s3 import S3, is_s3
from cloudstub_wire import Answer, Request, encode, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CONTROL = b"/_control/"
_REFUSED = {str(status): status for status in (403, 409, 412, 429, 500, 503)}
_REFUSED_AFTER = {f"{status}-after": status for status in (409, 412, 500, 503)}
_UNAPPLIED = {"answer", "drop-before", "hang", "late", *_REFUSED}
_KINDS = {"drop-after", "hang-after", "slow", "trickle", "truncate", *_UNAPPLIED, *_REFUSED_AFTER}
_SILENT = {"hang", "hang-after", "late"}
_DROPPED = {"drop-before", "drop-after"}
_NO_FAULT: Mapping[str, Any] = {"kind": ""}
_PIECES = 10
_JSON = b"Content-Type: application/json\r\n"
_MODES = {"delay": 0, "ignore_conditions": False, "drop_metadata": False, "log": True, "page": 0}


def _is_due(fault: Mapping[str, Any], number: int, op: str) -> bool:
    """Whether the request of this number and name meets a fault."""
    return number in range(fault["nth"], fault["nth"] + fault.get("times", 1)) and op == fault.get("op", op)


def _answer(request: Request, service: Service, said: Mapping[str, Any]) -> Answer:
    """The answer of a test's own: the service's refusal with a code, or these headers and this body (Latin-1)."""
    if "code" in said:
        return service.refuse(request, said["status"], said["code"])
    headers = "".join(f"{name}: {value}\r\n" for name, value in said.get("headers", {}).items())
    return Answer(said["status"], headers.encode(), said.get("body", "").encode("latin-1"))


class Hub:
    """Serves every connection: hands each request to its service, logs it, and misbehaves as it was told."""

    def __init__(self) -> None:
        self._connections = {"open": 0, "accepted": 0}
        self._world = World()
        services = S3(self._world), Gcs(self._world), Azure(self._world)
        self._services: dict[str, Service] = {service.name: service for service in services}
        self._late: list[Callable[[], Answer]] = []
        self._rivals: dict[int, Callable[[], object]] = {}
        self._log: list[tuple[Request, int | None, str | None]] = []  # status None: the client saw none
        self._modes: dict[str, Any] = dict(_MODES)
        self._count = 0
        self._faults: Sequence[Mapping[str, Any]] = []
        self._faults_since = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after another, until either side closes it."""
        self._connections["open"] += 1
        self._connections["accepted"] += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._serve(await read_request(reader, writer), reader, writer):
                    pass
        finally:
            self._connections["open"] -= 1
            writer.close()

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; whether the connection goes on."""
        if request.path.startswith(_CONTROL):
            writer.write(b"".join(encode(self._command(request), request.method)))
            return True
        service = self._service(request)
        call = service.route(request)
        self._count += 1
        if self._faults or self._modes["delay"]:
            return await self._misbehave(request, service, call, reader, writer)
        answer = call(request)
        self._note(request, answer.status, None)
        writer.write(b"".join(encode(answer, request.method)))
        return request.header(b"connection") != b"close"

    def _service(self, request: Request) -> Service:
        if request.path.startswith(ACCOUNT):
            return self._services["azure"]
        return self._services["s3" if not request.path.startswith(JSON_PATHS) and is_s3(request) else "gcs"]

    def _note(self, request: Request, status: int | None, fault: str | None) -> None:
        if self._modes["log"]:
            self._log.append((request, status, fault or None))

    async def _misbehave(
        self,
        request: Request,
        service: Service,
        call: Callable[[Request], Answer],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Serve a request with its fault and the delay; whether the connection goes on."""
        number, delay = self._count - self._faults_since, self._modes["delay"]
        fault = next((one for one in self._faults if _is_due(one, number, request.op)), _NO_FAULT)
        kind, seconds = fault["kind"], fault.get("seconds", 0)
        answer = Answer(500) if kind in _UNAPPLIED else call(request)
        if rival := self._rivals.pop(self._count, None):
            rival()
        if refused := _REFUSED.get(kind) or _REFUSED_AFTER.get(kind):
            answer = service.refuse(request, refused)
        if kind == "answer":
            answer = _answer(request, service, fault)
        if kind == "late":
            self._late.append(partial(call, request))
        self._note(request, None if kind in _SILENT | _DROPPED else answer.status, kind)
        await _wait(reader, None if kind in _SILENT else delay + (seconds if kind == "slow" else 0))
        if kind in _SILENT | _DROPPED:
            return False
        head, body = encode(answer, request.method)
        if kind == "truncate":
            writer.write(head + body[: len(body) // 2] if body else head[: len(head) // 2])
            return False
        wire = head + body
        size = -(-len(wire) // _PIECES) if kind == "trickle" else len(wire)
        for at in range(0, len(wire), size):
            if kind == "trickle":
                await _wait(reader, seconds / _PIECES)
            writer.write(wire[at : at + size])
        return True

    def _command(self, request: Request) -> Answer:
        """Obey a control request; what it cannot read is a 400 that says why."""
        name = text(request.path[len(_CONTROL) :])
        try:
            said = getattr(self, f"do_{name}")(**json.loads(request.body))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Answer(400, _JSON, json.dumps({"error": repr(error)}).encode())
        return Answer(200, _JSON, json.dumps(said).encode())

    def do_reset(self, *, keep: bool) -> None:
        """Forget all but, where told so, the objects; what was to be applied late never will be."""
        self._late.clear()
        self._rivals.clear()
        if not keep:
            self._world.buckets.clear()
            self._world.kept.clear()
        self._log.clear()
        self._count = 0
        self.do_mode(**_MODES)
        self.do_faults([])

    def do_faults(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Have these faults instead of others, from the next request on."""
        for fault in faults:
            if fault["kind"] not in _KINDS:
                raise ValueError(f"there is no fault {fault['kind']!r}; there are {', '.join(sorted(_KINDS))}")
        self._faults = faults
        self._faults_since = self._count

    def do_land(self) -> int:
        """Apply what was to come late; how much that was."""
        late, self._late = self._late, []
        return len([call() for call in late])

    def do_rival(self, nth: int, **place: str) -> None:
        """Let a rival write when a request that meets a fault has been served, and its answer is not sent yet."""
        self._rivals[self._count + nth] = partial(self.do_put, **place)

    def do_mode(self, **modes: Any) -> None:
        """Set these modes."""
        if unknown := modes.keys() - _MODES:
            raise ValueError(f"there is no mode {unknown}")
        self._modes |= modes
        self._world.page = self._modes["page"]
        self._world.ignore_conditions = self._modes["ignore_conditions"]
        self._world.drop_metadata = self._modes["drop_metadata"]

    def do_heads(self) -> list[str]:
        """The head of each request in the log."""
        return [text(request.head) for request, _, _ in self._log]

    def do_log(self) -> list[dict[str, Any]]:
        """What was asked for and what became of it."""
        log: list[dict[str, Any]] = []
        for number, (request, status, fault) in enumerate(self._log, 1):
            about = {"n": number, "method": text(request.method), "service": request.service, "op": request.op}
            place = {"bucket": text(request.bucket), "key": text(request.key)}
            log.append({**about, **place, "status": status, "fault": fault})
        return log

    def do_count(self) -> int:
        """How many requests came."""
        return self._count

    def do_connections(self) -> dict[str, int]:
        """How many are open, and how many were ever accepted."""
        return self._connections

    def do_put(self, service: str, bucket: str, key: str, data: str) -> None:
        """Store an object around the service."""
        self._services[service].store(bucket.encode(), key.encode(), data.encode("latin-1"))

    def do_get(self, service: str, bucket: str, key: str) -> tuple[str, dict[str, str]] | None:
        """The bytes of an object, and its metadata; None: there is none."""
        entry = self._world.buckets[service, bucket.encode()].get(key.encode())
        metadata = {text(name): text(value) for name, value in entry.metadata.items()} if entry else {}
        return (entry.data.decode("latin-1"), metadata) if entry else None


async def _wait(reader: asyncio.StreamReader, seconds: float | None) -> None:
    """Wait for some seconds, or until the client has gone; None: for that alone."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await reader.read()
            raise ConnectionResetError
