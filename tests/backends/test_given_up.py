"""A call on a file server that its caller gives up ends there, sends nothing more, and keeps no other waiting."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from anyio import create_task_group, move_on_after, sleep, to_thread
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from running import HUNG

from accountstore.backends.fsspec import FsspecBackend, open_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.anyio


class _Ftp:
    """An FTP server with the documents `good` and `bad`: of `bad` a byte comes now and then, and the list of `endless`
    never ends. Where data are to be sent it waits, if it is told to.
    """

    def __init__(self) -> None:
        self.commands = list[str]()
        self.stored = list[bytes]()
        self.ended = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = threading.Event()  # where data are to be sent
        self.dripping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ftp://u:p@127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self.go_on.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        answers = {"USER": "331 go on", "PASS": "230 hello", "TYPE": "200 fine", "REST": "350 fine", "DELE": "250 gone"}
        with suppress(OSError), connection, socket.create_server(("127.0.0.1", 0)) as data:
            port = data.getsockname()[1]
            connection.sendall(b"220 hello\r\n")
            for line in connection.makefile("rb"):
                command, _, argument = line.decode().strip().partition(" ")
                self.commands.append(command)
                if command == "PASV":
                    self.asked.set()
                    self.go_on.wait(HUNG)
                    answer = f"227 here (127,0,0,1,{port >> 8},{port & 255})"
                elif command in {"MLSD", "RETR", "STOR"}:
                    connection.sendall(b"150 go\r\n")
                    with data.accept()[0] as transfer:
                        self._transfer(command, argument, transfer)
                    answer = "226 done"
                else:
                    answer = answers.get(command, "502 what")
                connection.sendall(f"{answer}\r\n".encode())

    def _transfer(self, command: str, argument: str, transfer: socket.socket) -> None:
        if command == "STOR":
            self.stored.append(b"".join(iter(partial(transfer.recv, 9999), b"")))
        elif "endless" in argument or "bad" in argument:
            self.dripping.set()
            try:
                while not self.ended.is_set():
                    transfer.sendall(b"type=file;size=1; a.account\r\n" * 99 if command == "MLSD" else b"x")
                    time.sleep(0.01)
            except OSError:
                self.commands.append("cut off")
        elif command == "MLSD":
            transfer.sendall(b"".join(b"type=file;size=999; %s.account\r\n" % name for name in (b"good", b"bad")))
        else:
            transfer.sendall(b"x")


@pytest.fixture
def ftp() -> Iterator[_Ftp]:
    server = _Ftp()
    yield server
    server.close()


async def _give_up(call: Callable[[], Awaitable[object]], begun: threading.Event) -> bool:
    """Cancel a call when it has begun to wait. Whether it has ended all the same."""
    begun.clear()
    outcome: list[object] = []

    async def run() -> None:
        outcome.append(await call())

    async with create_task_group() as group:
        group.start_soon(run)
        while not begun.is_set():
            await sleep(0.001)
        group.cancel_scope.cancel()
    return bool(outcome)


async def _list(backend: FsspecBackend, folder: str) -> list[str]:
    return [stat.key async for page in backend.scan(folder, recursive=False) for stat in page]


async def _until(condition: Callable[[], bool]) -> None:
    with move_on_after(HUNG):
        while not condition():
            await sleep(0.005)
    assert condition()


def _threads() -> int:
    return sum(thread.name == "accountstore" for thread in threading.enumerate())


@pytest.mark.parametrize("what", ["a document", "a listing"])
async def test_a_server_that_drips_keeps_no_other_call_waiting(ftp: _Ftp, what: str) -> None:
    """However often a read, or a listing, of FTP that goes on without end is given up, the server sees its connection
    for data end; others are answered, the backend can be closed, and no thread is left.
    """
    backend, before = await open_backend(ftp.url, {}), _threads()
    for _ in range(3):
        call = (
            partial(backend.read, "bad.account", limit=9999)
            if what == "a document"
            else partial(_list, backend, "endless")
        )
        assert not await _give_up(call, ftp.dripping)
        assert await _list(backend, "") == ["good.account", "bad.account"]
    await _until(lambda: ftp.commands.count("cut off") == 3)
    await backend.aclose()
    await _until(lambda: _threads() <= before)


async def test_a_write_that_was_given_up_is_not_stored_later(ftp: _Ftp) -> None:
    """A server that does not say where data are to go is waited for a moment; what was given up is not sent when it
    says so at last.
    """
    backend = await open_backend(ftp.url, {})
    await backend.write("good.account", b"x", mode="overwrite")
    ftp.go_on.clear()
    assert not await _give_up(partial(backend.write, "good.account", b"late", mode="overwrite"), ftp.asked)
    ftp.go_on.set()
    await backend.write("good.account", b"new", mode="overwrite")
    assert ftp.stored == [b"x", b"new"]
    await backend.aclose()


async def test_control_a_write_that_ends_in_a_moment_is_done(ftp: _Ftp) -> None:
    """No part of a file is left where its caller is cancelled amid a write: the result comes."""
    backend = await open_backend(ftp.url, {})
    ftp.go_on.clear()
    threading.Timer(1, ftp.go_on.set).start()
    assert await _give_up(partial(backend.write, "good.account", b"x", mode="overwrite"), ftp.asked)
    assert ftp.stored == [b"x"]
    await backend.aclose()


class _Waiting(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """An asynchronous filesystem in whose requests for `bad` something takes for ever."""

    cachable = False
    begun = threading.Event()

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = self.done = 0

    async def _wait(self, path: str) -> None:
        try:
            if "bad" in path:
                self.begun.set()
                await asyncio.sleep(HUNG)
        except asyncio.CancelledError:
            self.cancelled += 1
            if "lost" in path:
                raise ConnectionError("Authorization: zQ7k") from None
            raise
        self.done += 1

    async def _cat_file(self, path: str, **_: object) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        await self._wait(path)
        return b"x"

    async def _pipe_file(self, path: str, value: bytes, **_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await self._wait(path)

    async def _rm_file(self, path: str, **_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await self._wait(path)

    async def _info(self, path: str, **_: object) -> dict[str, Any]:
        await self._wait(path)
        return {"name": path, "type": "file", "size": 1}

    async def _ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
        await self._wait(path)
        return []


@pytest.mark.parametrize("call", ["read", "stat", "delete", "list"])
async def test_a_request_that_was_given_up_is_cancelled(call: str) -> None:
    """More calls of an asynchronous filesystem than there are threads may be given up: each request is cancelled, and
    others are made.
    """
    backend = FsspecBackend(_Waiting, "/root", parallel=True)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "read": partial(backend.read, "bad.account", limit=9),
        "stat": partial(backend.stat, "bad.account"),
        "delete": partial(backend.delete, "bad.account"),
        "list": partial(_list, backend, "bad"),
    }
    fs: Any = (await backend.filesystem())[0]
    for given_up in range(1, 40):
        assert not await _give_up(calls[call], fs.begun)
        await _until(lambda: fs.cancelled == given_up)  # noqa: B023 -- called here
    assert (await backend.read("good.account", limit=9)).data == b"x"
    assert fs.done == 1
    await backend.aclose()


async def test_an_error_of_a_request_that_was_given_up_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A request that fails while it is cancelled leaves nothing to asyncio, which would log the error."""
    backend = FsspecBackend(_Waiting, "/root", parallel=True)
    fs: Any = (await backend.filesystem())[0]
    for given_up in range(1, 4):
        assert not await _give_up(partial(backend.read, "bad/lost.account", limit=9), fs.begun)
        await _until(lambda: fs.cancelled == given_up)  # noqa: B023 -- called here
    await backend.read("good.account", limit=9)  # on the loop of the others
    gc.collect()
    await backend.aclose()
    assert "zQ7k" not in caplog.text


async def test_a_connection_that_is_given_up_is_made_anew() -> None:
    """Who asks for the filesystem while it connects for ever, and gives up, keeps the next call from nothing."""
    begun, go_on = threading.Event(), threading.Event()
    made: list[Any] = []

    def connect() -> Any:
        if not begun.is_set():
            begun.set()
            go_on.wait(HUNG)
        made.append(MemoryFileSystem())
        return made[-1]

    backend = FsspecBackend(connect, "/root", parallel=False)
    assert not await _give_up(backend.filesystem, begun)
    await backend.write("good.account", b"x", mode="overwrite")
    assert (await backend.filesystem())[0] is made[0]
    go_on.set()
    await backend.aclose()


async def test_a_size_that_a_file_server_does_not_tell_is_not_read() -> None:
    """FTP need not tell sizes, and its client cannot read such a document: that it is there is known all the same."""
    fs = Mock(protocol="ftp", async_impl=False)
    fs.info.return_value = {"name": "/root/a.account", "type": "file", "size": None}
    backend = FsspecBackend(lambda: fs, "/root", parallel=False)
    assert (await backend.stat("a.account")).size == 0
    assert not fs.cat_file.called
    await backend.aclose()


class _Hanging(BaseHTTPRequestHandler):
    """A web server that answers nothing about `bad` until its client hangs up, and a body without its size."""

    protocol_version = "HTTP/1.1"
    begun = threading.Event()
    left: threading.Semaphore

    def do_GET(self) -> None:
        if "bad" in self.path:
            self.begun.set()
            while self.connection.recv(9999):
                pass
            self.left.release()
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    do_HEAD = do_PUT = do_GET  # noqa: N815 -- the base's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as above
        pass


@pytest.mark.parametrize("call", ["read", "write"])
async def test_a_web_server_that_does_not_answer_loses_the_client_that_gives_up(call: str) -> None:
    """The connection of each request ends when it is given up, however many there are; others are made. A document
    whose size the server does not tell is read to know it.
    """
    pytest.importorskip("aiohttp")
    kind: Any = type("_Kind", (_Hanging,), {"left": threading.Semaphore(0), "begun": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = await open_backend(f"http://127.0.0.1:{server.server_port}", {})
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "read": partial(backend.read, "bad.account", limit=9),
        "write": partial(backend.write, "bad.account", b"x", mode="overwrite"),
    }
    for _ in range(33):
        assert not await _give_up(calls[call], kind.begun)
        assert await to_thread.run_sync(kind.left.acquire, True, HUNG)
    assert (await backend.read("good.account", limit=9)).data == b"abc"
    assert (await backend.stat("good.account")).size == 3
    await backend.aclose()
    await to_thread.run_sync(server.shutdown)
    await to_thread.run_sync(server.server_close)
