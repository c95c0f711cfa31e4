"""What the backend for any fsspec protocol adds to fsspec: connections, folders, one thread for a blocking client."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from anyio import CancelScope, create_task_group, to_thread
from fsspec.implementations.memory import MemoryFileSystem
from running import HUNG

from accountstore.backends.base import BackendError, NotRegularError, UnavailableError, classify_error
from accountstore.backends.fsspec import FsspecBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fileservers import Remote

pytestmark = pytest.mark.anyio
pytest_plugins = ["fileservers"]


@pytest.mark.once
async def test_connections_begin_with_the_first_call_and_end_with_the_backend(remote: Remote) -> None:
    """Opening a backend asks the server nothing, closing an unused one neither; a closed one has no connection left."""
    connections, seen = len(remote.server.connections), remote.server.seen
    unused, backend = await remote.open(), await remote.open()
    await unused.aclose()
    assert remote.server.seen == seen
    await backend.write("a.account", b"x", mode="overwrite")
    assert len(remote.server.connections) == connections + 1
    await backend.aclose()
    await remote.server.wait(connections)


@pytest.mark.once
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
        await to_thread.run_sync(remote.server.hang_up)
        await remote.server.wait(0)
        fs: Any = (await backend.filesystem())[0]
        path = f"/{remote.folder.name}/a.account"
        assert not await to_thread.run_sync(fs.exists, path), "control: fsspec says that it does not exist"
        with pytest.raises(Exception) as caught:
            await call(backend)
        assert classify_error(caught.value) in {UnavailableError, BackendError}
        assert (await backend.read("a.account", limit=100)).data == b"x"
        await backend.aclose()


@pytest.fixture
async def backend(remote: Remote) -> AsyncIterator[FsspecBackend]:
    opened = await remote.open()
    yield opened
    await opened.aclose()


@pytest.mark.once
async def test_folder_removed_by_others_is_made_again(remote: Remote, backend: FsspecBackend) -> None:
    """A write makes its folder whenever it is missing, not only the first time."""
    for data in (b"1", b"2"):
        await backend.write("m/n/a.account", data, mode="overwrite")
        assert (remote.folder / "m/n/a.account").read_bytes() == data
        shutil.rmtree(remote.folder / "m")


@pytest.mark.once
async def test_folder_in_a_documents_place_is_not_read(remote: Remote, backend: FsspecBackend) -> None:
    """A folder with a document's name is an error, and not a missing document."""
    (remote.folder / "a.account").mkdir()
    for call in (backend.read("a.account", limit=100), backend.stat("a.account")):
        with pytest.raises(NotRegularError):
            await call


@pytest.mark.once
async def test_modification_time_is_returned(remote: Remote, backend: FsspecBackend) -> None:
    """A stat and a listing have the document's modification time, in UTC."""
    (remote.folder / "a.account").write_bytes(b"x")
    os.utime(remote.folder / "a.account", (10**9, 10**9))
    moment = datetime.fromtimestamp(10**9, UTC)
    assert (await backend.stat("a.account")).modified == moment
    assert [stat.modified async for page in backend.scan("", recursive=False) for stat in page] == [moment]


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


@pytest.mark.parametrize(("parallel", "most"), [(False, 1), (True, 2)], ids=["blocking", "control"])
async def test_cancelled_read_keeps_its_turn(parallel: bool, most: int) -> None:
    """A read left behind by its cancelled caller still has the blocking filesystem for itself."""
    fs = _Slow()
    backend = FsspecBackend(lambda: fs, "/root", parallel=parallel)

    async def cancel() -> None:
        await to_thread.run_sync(fs.entered.wait)
        fs.entered.clear()
        scope.cancel()

    async def release() -> None:
        await to_thread.run_sync(fs.entered.wait, HUNG if parallel else 0.1)
        fs.go_on.set()

    async with create_task_group() as group:
        group.start_soon(cancel)
        with CancelScope() as scope:
            await backend.read("a.account", limit=10)
        group.start_soon(release)
        assert (await backend.read("a.account", limit=10)).data == b"x"
    assert fs.most == most
