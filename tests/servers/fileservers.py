"""SFTP and FTP servers on loopback, each in a thread, that know their connections; and fixtures: a pytest plugin."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import fsspec
import pytest
from running import HUNG

from accountstore.backends.fsspec import FsspecBackend, open_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_USER, _PASSWORD = "mail", "pa55"
_CLIENTS: dict[str, dict[str, Any]] = {"sftp": {"look_for_keys": False, "allow_agent": False}, "ftp": {}, "ssh": {}}
"""The options of each client: fsspec's own two block and have one connection, the package sshfs is asynchronous."""


class FileServer:
    """A server: its folder, a client's options, its connections, and how many it has had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connections: set[Any] = set()
        self.seen = 0
        self.options: dict[str, Any] = {"username": _USER, "password": _PASSWORD}
        self.replies: dict[str, str] = {}
        """Of FTP: what is answered to a command, or to any about a path with this end. SFTP refuses such a path."""
        self.hang_up: Callable[[], object]

    def reply(self, command: str, path: str) -> str | None:
        """What is answered in the place of a command's own answer; None: nothing."""
        return self.replies.get(command) or self.replies.get(path.rpartition("/")[2])

    def add(self, connection: object) -> None:
        """Count a new connection."""
        self.connections.add(connection)
        self.seen += 1

    async def wait(self, connections: int) -> None:
        """Wait until there are so many connections; a server learns of a closed one a little later."""
        with anyio.move_on_after(HUNG):
            while len(self.connections) != connections:
                await anyio.sleep(0.005)
        assert len(self.connections) == connections


class Remote:
    """A new folder on a server."""

    def __init__(self, client: str, server: FileServer, name: str) -> None:
        self.server = server
        self.folder = server.folder / name
        self.folder.mkdir()
        self._url = f"{client}://127.0.0.1/{name}"
        self._options = server.options | _CLIENTS[client]

    async def open(self, below: str = "", **options: object) -> FsspecBackend:
        """A backend on the folder, or on one below it, with options of its own."""
        return await open_backend(self._url + below, self._options | options)


@pytest.fixture(params=_CLIENTS)
def remote(request: pytest.FixtureRequest, sftp_server: FileServer, ftp_server: FileServer, tmp_path: Path) -> Remote:
    """The folder of this test, on its server by each client."""
    server = ftp_server if request.param == "ftp" else sftp_server
    server.replies.clear()
    return Remote(request.param, server, tmp_path.name)


@pytest.fixture(scope="module")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """An SFTP server, and fsspec's own client for `sftp`, whose name the package of another client takes."""
    client = pytest.importorskip("fsspec.implementations.sftp")
    folder = tmp_path_factory.mktemp("sftp")
    asyncssh: Any = pytest.importorskip("asyncssh")
    server = FileServer(folder)

    class Login(asyncssh.SSHServer):  # type: ignore[misc]  # Any here
        def connection_made(self, conn: Any) -> None:
            self._conn = conn
            server.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            server.connections.discard(self._conn)

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (_USER, _PASSWORD)

    class Files(asyncssh.SFTPServer):  # type: ignore[misc]  # as above
        def scandir(self, path: bytes) -> Any:
            self._check(path)
            return super().scandir(path)

        def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
            self._check(path)
            return super().open(path, pflags, attrs)

        def remove(self, path: bytes) -> Any:
            self._check(path)
            return super().remove(path)

        def _check(self, path: bytes) -> None:
            if server.reply("", os.fsdecode(path)):
                raise asyncssh.SFTPPermissionDenied("no")

    def in_folder(channel: Any) -> Any:
        return Files(channel, chroot=str(folder).encode())

    def hang_up() -> None:
        for connection in list(server.connections):
            connection.abort()

    key = asyncssh.generate_private_key("ssh-ed25519")
    listen = partial(asyncssh.listen, server_host_keys=[key], server_factory=Login, sftp_factory=in_folder)
    before = fsspec.get_filesystem_class("sftp")
    fsspec.register_implementation("sftp", client.SFTPFileSystem, clobber=True)
    with anyio.from_thread.start_blocking_portal() as portal:
        listener = portal.call(listen, "127.0.0.1", 0)
        server.options["port"] = listener.get_port()
        server.hang_up = partial(portal.call, hang_up)
        yield server
        portal.call(hang_up)
        portal.call(listener.close)
        portal.call(listener.wait_closed)
    fsspec.register_implementation("sftp", before, clobber=True)


@pytest.fixture(scope="module")
def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """An FTP server."""
    # It stands on asyncore, which Python 3.11 deprecates; the warning is ignored here.
    authorizers: Any = pytest.importorskip("pyftpdlib.authorizers")
    handlers: Any = pytest.importorskip("pyftpdlib.handlers")
    ioloop: Any = pytest.importorskip("pyftpdlib.ioloop")
    servers: Any = pytest.importorskip("pyftpdlib.servers")
    folder = tmp_path_factory.mktemp("ftp")
    server = FileServer(folder)
    users = authorizers.DummyAuthorizer()
    users.add_user(_USER, _PASSWORD, str(folder), perm="elradfmwMT")
    stop, hang_up = threading.Event(), threading.Event()
    server.hang_up = hang_up.set

    class Handler(handlers.FTPHandler):  # type: ignore[misc]  # pyftpdlib has no types
        authorizer = users
        unicode_errors = "surrogateescape"

        def process_command(self, cmd: str, *args: str, **kwargs: object) -> None:
            reply = server.reply(cmd, "".join(args))
            if reply is None:
                super().process_command(cmd, *args, **kwargs)
            else:
                self.respond(reply)

        def on_connect(self) -> None:
            server.add(self)

        def on_disconnect(self) -> None:
            server.connections.discard(self)

        def log(self, *arguments: object, **more: object) -> None:
            pass

    loop = ioloop.IOLoop()
    listener = servers.FTPServer(("127.0.0.1", 0), Handler, ioloop=loop)
    server.options["port"] = listener.address[1]

    def serve() -> None:
        while not stop.is_set():
            loop.loop(timeout=0.005, blocking=False)
            if hang_up.is_set():
                hang_up.clear()
                for handler in list(server.connections):
                    handler.close()
        listener.close_all()
        loop.close()

    thread = threading.Thread(target=serve, name="FTP server")
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()
