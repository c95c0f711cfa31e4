"""The control part of the cloud stub: which service a request is for, its log, and the faults that a test asks for."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudstub_azure import ACCOUNT, Azure
from cloudstub_gcs import JSON_PATHS, Gcs
from cloudstub_objects import Service, World, text
from cloudstub_s3 import S3, is_s3
from cloudstub_wire import Answer, Clock, Connection, Connections, Request, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CONTROL = b"/_control/"
_REFUSED = {str(status): status for status in (403, 409, 412, 429, 500, 503)}
_REFUSED_AFTER = {f"{status}-after": status for status in (409, 412, 500, 503)}
_UNAPPLIED = {"answer", "drop-before", "hang", "late", *_REFUSED}
_KINDS = {"drop-after", "hang-after", "slow", "trickle", "truncate", *_UNAPPLIED, *_REFUSED_AFTER}
_SILENT = {"hang", "hang-after", "late"}
_JSON = b"Content-Type: application/json\r\n"
_MODES = {"delay": 0, "heads": False, "ignore_conditions": False, "drop_metadata": False, "log": True, "page": 0}


class Fault(NamedTuple):
    """What the requests from the first to the last meet, numbered since the faults were asked for; with an `op`, only
    those that are so named. `said` has what an answer is made of.
    """

    kind: str
    first: int
    last: int
    seconds: float
    op: str
    said: Mapping[str, Any]

    def is_due(self, number: int, op: str) -> bool:
        """Whether the request of this number and name meets it."""
        return self.first <= number <= self.last and self.op in {"", op}


class Record(NamedTuple):
    """One request in the log; status None: the client saw none."""

    method: bytes
    service: str
    op: str
    bucket: bytes
    key: bytes
    status: int | None
    fault: str | None
    head: bytes


_NO_FAULT = Fault("", 0, 0, 0, "", {})


def _fault(said: dict[str, Any]) -> Fault:
    if said["kind"] not in _KINDS:
        raise ValueError(f"there is no fault {said['kind']!r}; there are {', '.join(sorted(_KINDS))}")
    last = said["nth"] + said.get("times", 1) - 1
    return Fault(said["kind"], said["nth"], last, said.get("seconds", 0), said.get("op", ""), said)


def _answer(request: Request, service: Service, said: Mapping[str, Any]) -> Answer:
    """The answer of a test's own: the service's refusal with a code, or these headers and this body (Latin-1)."""
    if "code" in said:
        return service.refuse(request, said["status"], said["code"])
    headers = "".join(f"{name}: {value}\r\n" for name, value in said.get("headers", {}).items())
    return Answer(said["status"], headers.encode(), said.get("body", "").encode("latin-1"))


class Hub:
    """Serves every request: hands it to its service, logs it, and misbehaves as it was told."""

    def __init__(self) -> None:
        self.connections = Connections()
        self._clock = Clock()
        self._world = World()
        self._s3, self._gcs = S3(self._world, self._clock), Gcs(self._world, self._clock)
        self._azure = Azure(self._world, self._clock)
        self._services: dict[str, Service] = {"s3": self._s3, "gcs": self._gcs, "azure": self._azure}
        self._late: list[Callable[[], Answer]] = []
        self._rivals: dict[int, Callable[[], object]] = {}
        self._log: list[Record] = []
        self._logging = True
        self._heads = False
        self._count = 0
        self._delay = 0.0
        self._faults: list[Fault] = []
        self._faults_since = 0
        self._plain = True
        self._commands: dict[str, Callable[[Any], Any]] = {
            "faults": self._set_faults,
            "land": self._land,
            "mode": self._mode,
            "reset": self._reset,
            "rival": self._set_rival,
        }
        self._questions: dict[str, Callable[[], Any]] = {
            "connections": self._show_connections,
            "count": self._show_count,
            "heads": lambda: [text(one.head) for one in self._log],
            "log": self._show_log,
        }

    def serve(self, request: Request, connection: Connection) -> None:
        """Answer a request; the plain path, without faults and delay, is the short one."""
        if request.path.startswith(_CONTROL):
            connection.write(b"".join(encode(self._command(request), request.method, self._clock.date())))
            return
        service = self._service(request)
        call = service.route(request)
        self._count += 1
        if self._plain:
            answer = call(request)
            self._note(request, answer.status, None)
            connection.write(b"".join(encode(answer, request.method, self._clock.date())))
            return
        fault = self._due(request)
        status = self._misbehave(request, service, call, fault, connection)
        self._note(request, status, fault.kind)

    def _service(self, request: Request) -> Service:
        if request.path.startswith(ACCOUNT):
            return self._azure
        if request.path.startswith(JSON_PATHS):
            return self._gcs
        return self._s3 if is_s3(request) else self._gcs

    def _note(self, request: Request, status: int | None, fault: str | None) -> None:
        if self._logging:
            head = request.head if self._heads else b""
            asked = request.method, request.service, request.op, request.bucket, request.key
            self._log.append(Record(*asked, status, fault or None, head))

    def _due(self, request: Request) -> Fault:
        """The fault of this request; one without a kind where none is due."""
        number = self._count - self._faults_since
        return next((fault for fault in self._faults if fault.is_due(number, request.op)), _NO_FAULT)

    def _misbehave(
        self,
        request: Request,
        service: Service,
        call: Callable[[Request], Answer],
        fault: Fault,
        connection: Connection,
    ) -> int | None:
        """Serve a request with its fault and the delay; the status that the client sees, None: none."""
        kind, loop = fault.kind, asyncio.get_running_loop()
        connection.hold()
        answer = Answer(500) if kind in _UNAPPLIED else call(request)
        if self._count in self._rivals:
            self._rivals.pop(self._count)()
        refused = _REFUSED.get(kind) or _REFUSED_AFTER.get(kind)
        if refused is not None:
            answer = service.fault(request, refused)
        if kind == "answer":
            answer = _answer(request, service, fault.said)
        if kind == "late":
            self._late.append(partial(call, request))
        if kind in _SILENT:
            return None
        if kind in {"drop-before", "drop-after"}:
            loop.call_later(self._delay, connection.cut, b"")
            return None
        head, body = encode(answer, request.method, self._clock.date())
        if kind == "truncate":
            half = head + body[: len(body) // 2] if body else head[: len(head) // 2]
            loop.call_later(self._delay, connection.cut, half)
        elif kind == "trickle":
            connection.trickle(head + body, self._delay + fault.seconds)
        else:
            loop.call_later(self._delay + (fault.seconds if kind == "slow" else 0), connection.release, head + body)
        return answer.status

    def _command(self, request: Request) -> Answer:
        """Obey a control request; what it cannot read is a 400 that says why."""
        name = text(request.path[len(_CONTROL) :])
        if name in {"object", "metadata"}:
            return self._object(request, about=name == "metadata")
        try:
            if request.method == b"POST":
                said = self._commands[name](json.loads(request.body or b"{}"))
            else:
                said = self._questions[name]()
        except (KeyError, TypeError, ValueError) as error:
            return Answer(400, _JSON, json.dumps({"error": repr(error)}).encode())
        return Answer(200, _JSON, json.dumps(said).encode())

    def _reset(self, said: dict[str, Any]) -> dict[str, Any]:
        """Forget all but, where told so, the objects; what was to be applied late never will be."""
        self._late.clear()
        self._rivals.clear()
        if not said.get("keep", False):
            self._world.buckets.clear()
        self._log = []
        self._count = 0
        self._mode(_MODES)
        return self._set_faults([])

    def _set_faults(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        self._faults = [_fault(one) for one in said]
        self._faults_since = self._count
        self._plain = not self._faults and not self._delay
        return {}

    def _land(self, _said: object) -> dict[str, Any]:
        """Apply what was to come late; how much that was."""
        late, self._late = self._late, []
        for call in late:
            call()
        return {"landed": len(late)}

    def _set_rival(self, said: dict[str, Any]) -> dict[str, Any]:
        """Let a rival write when a request that meets a fault has been served, and its answer is not sent yet."""
        place = said["bucket"].encode(), said["key"].encode(), said["data"].encode("latin-1")
        self._rivals[self._count + said["nth"]] = partial(self._services[said["service"]].store, *place)
        return {}

    def _mode(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := said.keys() - _MODES:
            raise ValueError(f"there is no mode {unknown}")
        self._delay = float(said.get("delay", self._delay))
        self._logging = bool(said.get("log", self._logging))
        self._heads = bool(said.get("heads", self._heads))
        self._world.page = int(said.get("page", self._world.page))
        self._world.ignore_conditions = bool(said.get("ignore_conditions", self._world.ignore_conditions))
        self._world.drop_metadata = bool(said.get("drop_metadata", self._world.drop_metadata))
        self._plain = not self._faults and not self._delay
        return {}

    def _show_log(self) -> list[dict[str, Any]]:
        return [
            {
                "n": number,
                "method": text(one.method),
                "service": one.service,
                "op": one.op,
                "bucket": text(one.bucket),
                "key": text(one.key),
                "status": one.status,
                "fault": one.fault,
            }
            for number, one in enumerate(self._log, 1)
        ]

    def _show_count(self) -> dict[str, Any]:
        return {"requests": self._count}

    def _show_connections(self) -> dict[str, Any]:
        return {"open": self.connections.open, "accepted": self.connections.accepted}

    def _object(self, request: Request, *, about: bool) -> Answer:
        """Read or write an object around the service's API, or read its metadata."""
        service, bucket, key = (request.query.get(name, "") for name in ("service", "bucket", "key"))
        if service not in self._services:
            return Answer(400, _JSON, b'{"error": "no such service"}')
        if request.method == b"PUT":
            self._services[service].store(bucket.encode(), key.encode(), request.body)
            return Answer(200)
        entry = self._world.bucket(service, bucket.encode()).entries.get(key.encode())
        if entry is None:
            return Answer(404)
        if about:
            return Answer(200, _JSON, json.dumps({text(k): text(v) for k, v in entry.metadata.items()}).encode())
        return Answer(200, b"Content-Type: application/octet-stream\r\n", entry.data)
