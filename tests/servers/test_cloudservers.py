"""The cloud servers of the tests: what is put around the library is what fsspec reads, and nothing is left running."""

from __future__ import annotations

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Barrier, BrokenBarrierError
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import cloudservers
import pytest
from fsspec.asyn import sync
from motoserver import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.skipif(os.name != "posix", reason="looks at POSIX processes")]

NAMES = [
    "plain",
    "folder/inner folder/name.account",
    "a%2Fb +&é🔐.account",
    "quotes ' and \" and `",
    "?query=1&x",
    "no. #1",
    "semi;colon:at@comma,=$!*()[]{}|^~<>",
    "e\N{COMBINING ACUTE ACCENT} is not é",
    "trailing.dot.",
    "." + "long" * 40,
]
BINARY = bytes(range(256)) * 8


@pytest.fixture(scope="module", params=list(cloudservers.SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[cloudservers.Server]:
    with cloudservers.or_skip(cloudservers.SERVERS[request.param]) as server:
        server.bucket("bucket")
        yield server


@pytest.fixture
def read(server: cloudservers.Server) -> Iterator[Callable[[str], bytes]]:
    """Read objects with the fsspec package of the server's scheme, and close its session."""
    module, name = {
        "s3": ("s3fs", "S3FileSystem"),
        "gs": ("gcsfs.core", "GCSFileSystem"),
        "az": ("adlfs", "AzureBlobFileSystem"),
    }[server.scheme]
    fs: Any = getattr(pytest.importorskip(module), name)(**server.options, skip_instance_cache=True)
    yield fs.cat_file
    opened = {"s3": "_s3", "gs": "_session", "az": "service_client"}[server.scheme]
    sync(fs.loop, getattr(fs, opened).close)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_put_is_read_by_both(server: cloudservers.Server, read: Callable[[str], bytes], name: str) -> None:
    server.put("bucket", name, BINARY)
    assert server.get("bucket", name) == BINARY
    assert read(f"bucket/{name}") == BINARY
    server.delete("bucket", name)
    assert server.get("bucket", name) is None


def test_putting_again_replaces_and_empty_is_something(server: cloudservers.Server) -> None:
    for data in (b"first", b"", b"third"):
        server.put("bucket", "replaced", data)
        assert server.get("bucket", "replaced") == data


def test_a_refusal_says_why(server: cloudservers.Server) -> None:
    with pytest.raises(cloudservers.ServerError, match=r"no-such-bucket.* answered 404: .*[Nn]ot"):
        server.put("no-such-bucket", "name", b"")


@pytest.mark.parametrize("name", list(cloudservers.SERVERS))
def test_the_process_ends_with_the_block(name: str) -> None:
    with cloudservers.or_skip(cloudservers.SERVERS[name]) as server:
        assert server.running
        os.kill(server.process.pid, 0)
        home = server.log.parent
    assert not server.running
    assert not home.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server.process.pid, 0)


def test_what_is_not_installed_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCOUNTSTORE_AZURITE", raising=False)
    monkeypatch.delenv("ACCOUNTSTORE_SERVERS", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(cloudservers.Missing, match=r"install_azurite\.py"):
        cloudservers.azurite()
    with pytest.raises(pytest.skip.Exception, match=r"install_azurite\.py"), cloudservers.or_skip(cloudservers.azurite):
        pytest.fail("a server that is not installed was started")
    monkeypatch.setenv("ACCOUNTSTORE_SERVERS", "required")
    with pytest.raises(cloudservers.Missing), cloudservers.or_skip(cloudservers.azurite):
        pytest.fail("a server that is not installed was started")


def test_a_server_that_dies_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", Mock(return_value=str(tmp_path)))
    program = tmp_path / "rclone"
    program.write_text("#!/bin/sh\necho no such command: $1\nexit 2\n")
    program.chmod(0o700)
    with (
        pytest.raises(cloudservers.ServerError, match=r"(?s)rclone died with code 2:.*no such command: serve"),
        cloudservers.rclone(),
    ):
        pytest.fail("a dead server was handed out")


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_moto_handles_one_request_at_a_time(guarded: bool) -> None:
    """Of two requests the second one begins when the answer of the first is whole. The control: else they meet."""
    meeting = Barrier(2)

    def answer(_environ: dict[str, Any], _start_response: object) -> Iterable[bytes]:
        yield b"alone, "
        # Who may be in here together meets, however late; who may not waits in vain, however long.
        try:
            meeting.wait(0.05 if guarded else 60)
        except BrokenBarrierError:
            yield b"to the end"
        else:
            yield b"until another came"

    app = one_at_a_time(answer) if guarded else answer

    def request(body: bytes) -> bytes:
        return b"".join(app({"CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body)}, None))

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(request, (b"one", b"two")))
    assert answers == [b"alone, to the end" if guarded else b"alone, until another came"] * 2
