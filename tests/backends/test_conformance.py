"""The public suite on every backend: memory, local, and fsspec's protocols against real servers on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import pytest
from anyio import CancelScope, create_task_group, move_on_after, sleep, to_thread
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from running import HUNG

from accountstore.backends.fsspec import FsspecBackend
from accountstore.backends.fsspec import open_backend as open_fsspec
from accountstore.backends.local.backend import LocalBackend
from accountstore.backends.local.backend import open_backend as open_local
from accountstore.backends.local.files import Files
from accountstore.backends.memory import MemoryBackend
from accountstore.errors import BackendError, NotRegularError, UnavailableError
from accountstore.testing import BackendTests, Harness, backend_machine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from pathlib import Path

_USER, _PASSWORD = "mail", "pa55"


# --- servers ----------------------------------------------------------------------------------------------------------


class Server:
    """A server in a thread: its folder, a client's options, how many connections it has, and has had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connections = 0
        self.seen = 0
        self.options: dict[str, Any] = {"username": _USER, "password": _PASSWORD}
        self.hang_up: Callable[[], object] = lambda: None

    def storage(self, name: str) -> Path:
        """A new empty folder on the server."""
        path = self.folder / name
        path.mkdir()
        return path

    async def wait(self, connections: int) -> None:
        """Wait until there are so many connections; a server learns of a closed one a little later."""
        with move_on_after(HUNG):
            while self.connections != connections:
                await sleep(0.005)
        assert self.connections == connections


@contextmanager
def _sftp_server(folder: Path) -> Generator[Server]:
    ssh = pytest.importorskip("asyncssh")
    ssh_server: Any = ssh.SSHServer
    server = Server(folder)
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    class Login(ssh_server):  # type: ignore[misc]  # it is Any here
        def connection_made(self, conn: Any) -> None:
            server.connections += 1
            server.seen += 1
            self._conn = conn
            open_connections.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            server.connections -= 1
            open_connections.discard(self._conn)

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (_USER, _PASSWORD)

    open_connections: set[Any] = set()

    def in_folder(channel: Any) -> Any:
        return ssh.SFTPServer(channel, chroot=str(folder).encode())

    async def serve() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        listener = await ssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[ssh.generate_private_key("ssh-ed25519")],
            server_factory=Login,
            sftp_factory=in_folder,
        )
        server.options["port"] = listener.get_port()
        server.hang_up = lambda: [loop.call_soon_threadsafe(conn.abort) for conn in list(open_connections)]
        started.set()
        await stopped.wait()
        for conn in list(open_connections):
            conn.abort()
        listener.close()
        await listener.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="SFTP server")
    thread.start()
    assert started.wait(HUNG)
    try:
        yield server
    finally:
        stop[0]()
        thread.join()


@contextmanager
def _ftp_server(folder: Path) -> Generator[Server]:
    # It stands on asyncore, which Python 3.11 deprecates; the warning is ignored here.
    authorizers, handlers, ioloop, servers = (
        pytest.importorskip(f"pyftpdlib.{name}") for name in ("authorizers", "handlers", "ioloop", "servers")
    )
    server = Server(folder)
    ftp_handler: Any = handlers.FTPHandler
    users = authorizers.DummyAuthorizer()
    users.add_user(_USER, _PASSWORD, str(folder), perm="elradfmwMT")
    connected: set[Any] = set()

    class Handler(ftp_handler):  # type: ignore[misc]  # pyftpdlib has no types
        authorizer = users

        def on_connect(self) -> None:
            server.connections += 1
            server.seen += 1
            connected.add(self)

        def on_disconnect(self) -> None:
            server.connections -= 1
            connected.discard(self)

        def log(self, *arguments: object, **more: object) -> None:
            pass

    loop = ioloop.IOLoop()
    listener = servers.FTPServer(("127.0.0.1", 0), Handler, ioloop=loop)
    server.options["port"] = listener.address[1]
    stop = threading.Event()
    hang_up = threading.Event()
    server.hang_up = hang_up.set

    def serve() -> None:
        while not stop.is_set():
            loop.loop(timeout=0.005, blocking=False)
            if hang_up.is_set():
                hang_up.clear()
                for handler in list(connected):
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


@pytest.fixture(scope="module")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An SFTP server, and fsspec's own client for `sftp`, whose name the package of another client takes."""
    client = pytest.importorskip("fsspec.implementations.sftp")
    before = fsspec.get_filesystem_class("sftp")
    fsspec.register_implementation("sftp", client.SFTPFileSystem, clobber=True)
    with _sftp_server(tmp_path_factory.mktemp("sftp")) as server:
        yield server
    fsspec.register_implementation("sftp", before, clobber=True)


@pytest.fixture(scope="module")
def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An FTP server."""
    with _ftp_server(tmp_path_factory.mktemp("ftp")) as server:
        yield server


@pytest.fixture
def name(tmp_path: Path) -> str:
    """The name of this test's folder on a server."""
    return tmp_path.name


# --- the suite --------------------------------------------------------------------------------------------------------


class TestMemory(BackendTests):
    """The reference."""

    @pytest.fixture
    def harness(self) -> Harness:
        backends: list[MemoryBackend] = []

        async def opened() -> MemoryBackend:
            backends.append(MemoryBackend())
            return backends[-1]

        def put(key: str, data: bytes) -> None:
            fs: Any = backends[-1].filesystem()[0]
            fs.pipe_file(f"/{key}", data)

        def get(key: str) -> bytes | None:
            fs: Any = backends[-1].filesystem()[0]
            return bytes(fs.cat_file(f"/{key}")) if fs.exists(f"/{key}") else None

        return Harness(open=opened, put=put, get=get, shared=False)


class TestLocal(BackendTests):
    """A folder."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return Harness.on_folder(tmp_path, lambda: open_local(f"file://{tmp_path}", {}))


class TestLocalWithoutLocks(BackendTests):
    """A folder on a network file system."""

    documents = 600

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        async def opened() -> LocalBackend:
            return LocalBackend(Files(str(tmp_path), locking=False), locking=False)

        return Harness.on_folder(tmp_path, opened)


@pytest.mark.once
class _OverTheWire(BackendTests):
    # Less of it: each test opens a connection.
    limit = 64 * 1024
    rounds = 4
    tasks = 6
    documents = 800
    steps = 4


class TestSftp(_OverTheWire):
    """Fsspec's SFTP, a blocking client with one connection, against a server on loopback."""

    @pytest.fixture
    def harness(self, sftp_server: Server, name: str) -> Harness:
        return Harness.on_folder(sftp_server.storage(name), lambda: _open_sftp(sftp_server, name))


class TestFtp(_OverTheWire):
    """Fsspec's FTP, another blocking client with one connection, against a server on loopback."""

    @pytest.fixture
    def harness(self, ftp_server: Server, name: str) -> Harness:
        return Harness.on_folder(ftp_server.storage(name), lambda: _open_ftp(ftp_server, name))


class TestAsynchronousSsh(_OverTheWire):
    """The package sshfs, an asynchronous fsspec filesystem with many requests at a time, against the SFTP server."""

    @pytest.fixture
    def harness(self, sftp_server: Server, name: str) -> Harness:
        assert fsspec.get_filesystem_class("ssh").async_impl
        return Harness.on_folder(sftp_server.storage(name), lambda: _open_ssh(sftp_server, name))


async def _open_sftp(server: Server, name: str) -> FsspecBackend:
    return await open_fsspec(
        f"sftp://127.0.0.1/{name}", {**server.options, "look_for_keys": False, "allow_agent": False}
    )


async def _open_ftp(server: Server, name: str) -> FsspecBackend:
    return await open_fsspec(f"ftp://127.0.0.1/{name}", server.options)


async def _open_ssh(server: Server, name: str) -> FsspecBackend:
    return await open_fsspec(f"ssh://127.0.0.1/{name}", server.options)


_OPENERS = {"sftp": _open_sftp, "ftp": _open_ftp, "ssh": _open_ssh}


@pytest.mark.once
@pytest.mark.parametrize("kind", ["sftp", "ftp", "ssh"])
def test_server_does_what_the_model_does(
    anyio_backend: Any, kind: str, sftp_server: Server, ftp_server: Server, name: str
) -> None:
    """Whatever is done to the storage, it answers as a dict would; `ACCOUNTSTORE_EXAMPLES` sets how often."""
    loop, options = anyio_backend
    server = ftp_server if kind == "ftp" else sftp_server
    numbers = count()

    async def opened() -> FsspecBackend:
        folder = f"{name}-{next(numbers)}"
        server.storage(folder)
        return await _OPENERS[kind](server, folder)

    examples = settings(max_examples=int(os.environ.get("ACCOUNTSTORE_EXAMPLES", "3")), stateful_step_count=20)
    run_state_machine_as_test(backend_machine(opened, loop=loop, loop_options=options), settings=examples)


# --- what fsspec's adapter adds ---------------------------------------------------------------------------------------


class Remote(NamedTuple):
    """A folder on a server, and how to open a backend on it."""

    server: Server
    folder: Path
    open: Callable[[], Awaitable[FsspecBackend]]


@pytest.fixture(params=["sftp", "ftp", "ssh"])
def remote(request: pytest.FixtureRequest, sftp_server: Server, ftp_server: Server, name: str) -> Remote:
    """The folder of this test, on each server by each client."""
    server = ftp_server if request.param == "ftp" else sftp_server
    return Remote(server, server.storage(name), partial(_OPENERS[request.param], server, name))


@pytest.mark.once
@pytest.mark.anyio
async def test_close_ends_the_connections(remote: Remote) -> None:
    """A closed backend has no connection left at the server."""
    before = remote.server.connections
    backend = await remote.open()
    await backend.write("a.account", b"x", mode="overwrite")
    assert remote.server.connections == before + 1
    await backend.aclose()
    await remote.server.wait(before)


@pytest.mark.once
@pytest.mark.anyio
async def test_opening_connects_at_the_first_call(remote: Remote) -> None:
    """Opening a backend asks the server nothing, and closing an unused one neither."""
    before = remote.server.seen
    backend = await remote.open()
    await backend.aclose()
    assert remote.server.seen == before


@pytest.mark.once
@pytest.mark.anyio
@pytest.mark.parametrize("remote", ["sftp", "ftp"], indirect=True)
async def test_lost_connection_is_an_error_and_then_made_anew(remote: Remote) -> None:
    """A server that hangs up is not taken for an empty one: the call fails, and the next one connects again."""
    calls: list[Callable[[FsspecBackend], Awaitable[object]]] = [
        lambda backend: backend.read("a.account", limit=100),
        lambda backend: backend.stat("a.account"),
        lambda backend: backend.delete("a.account"),
        lambda backend: backend.write("a.account", b"y", mode="overwrite"),
        lambda backend: anext(backend.scan("", recursive=True)),
    ]
    for call in calls:
        backend = await remote.open()
        await backend.write("a.account", b"x", mode="overwrite")
        remote.server.hang_up()
        await remote.server.wait(0)
        fs: Any = backend.filesystem()[0]
        path = f"/{remote.folder.name}/a.account"
        assert not await to_thread.run_sync(fs.exists, path), "control: fsspec says that it does not exist"
        with pytest.raises(Exception) as caught:
            await call(backend)
        assert backend.classify(caught.value) in {UnavailableError, BackendError}
        assert (await backend.read("a.account", limit=100)).data == b"x"
        await backend.aclose()


@pytest.mark.once
@pytest.mark.anyio
async def test_folder_removed_by_others_is_made_again(remote: Remote) -> None:
    """A write makes its folder whenever it is missing, not only the first time."""
    backend = await remote.open()
    for data in (b"1", b"2"):
        await backend.write("m/n/a.account", data, mode="overwrite")
        assert (remote.folder / "m/n/a.account").read_bytes() == data
        shutil.rmtree(remote.folder / "m")
    await backend.aclose()


@pytest.mark.once
@pytest.mark.anyio
async def test_folder_in_a_documents_place_is_not_read(remote: Remote) -> None:
    """A folder with a document's name is told from a missing document."""
    (remote.folder / "a.account").mkdir()
    backend = await remote.open()
    with pytest.raises(NotRegularError):
        await backend.read("a.account", limit=100)
    with pytest.raises(NotRegularError):
        await backend.stat("a.account")
    await backend.aclose()


@pytest.mark.once
@pytest.mark.anyio
async def test_modification_time_is_told(remote: Remote) -> None:
    """A stat and a listing have the document's modification time, in UTC."""
    (remote.folder / "a.account").write_bytes(b"x")
    os.utime(remote.folder / "a.account", (10**9, 10**9))
    backend = await remote.open()
    moment = datetime.fromtimestamp(10**9, UTC)
    assert (await backend.stat("a.account")).modified == moment
    assert [stat.modified async for page in backend.scan("", recursive=False) for stat in page] == [moment]
    await backend.aclose()


class _Slow(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A blocking filesystem that counts how many threads are in it at once."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.threads = 0
        self.most = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.threads += 1
        self.most = max(self.most, self.threads)
        self.entered.set()
        self.go_on.wait(HUNG)
        self.threads -= 1
        return b"x"


@pytest.mark.anyio
@pytest.mark.parametrize(("parallel", "most"), [(False, 1), (True, 2)], ids=["blocking", "control"])
async def test_cancelled_read_keeps_its_turn(parallel: bool, most: int) -> None:
    """A read left behind by its cancelled caller still has the blocking filesystem for itself."""
    fs = _Slow()
    backend = FsspecBackend(lambda: fs, "/root", parallel=parallel)
    async with create_task_group() as group:
        with CancelScope() as scope:

            async def cancel() -> None:
                await to_thread.run_sync(fs.entered.wait)
                fs.entered.clear()
                scope.cancel()

            group.start_soon(cancel)
            await backend.read("a.account", limit=10)

        async def release() -> None:
            # Who may enter does so, however late; who may not waits in vain, however long.
            await to_thread.run_sync(fs.entered.wait, HUNG if parallel else 0.1)
            fs.go_on.set()

        group.start_soon(release)
        assert (await backend.read("a.account", limit=10)).data == b"x"
    assert fs.most == most
