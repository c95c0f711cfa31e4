"""What the backend for any fsspec protocol adds to fsspec: connections, folders, one thread for a blocking client."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import Mock

import pytest
from anyio import create_task_group, sleep, to_thread
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
    """A blocking filesystem whose first read hangs until it is let go."""

    cachable = False
    made: ClassVar[list[_Slow]] = []

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.client = Mock()
        self.hanging = threading.Event()
        self.go_on = threading.Event()
        self.made.append(self)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.reads += 1
        if self is self.made[0] and self.reads == 1:
            self.hanging.set()
            self.go_on.wait(HUNG)
        return b"x"


@pytest.mark.parametrize("parallel", [False, True], ids=["blocking", "control"])
async def test_a_call_that_hangs_keeps_its_connection_to_itself(
    parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that hangs when its caller gives it up has its blocking filesystem for itself, which is closed; the next
    one connects anew, at once, and the backend can be closed. The control: an asynchronous filesystem is shared.
    """
    monkeypatch.setattr(_Slow, "made", made := list[_Slow]())
    backend = FsspecBackend(_Slow, "/root", parallel=parallel)
    async with create_task_group() as group:
        group.start_soon(partial(backend.read, "a.account", limit=10))
        while not (made and made[0].hanging.is_set()):
            await sleep(0.001)
        group.cancel_scope.cancel()
    assert (await backend.read("a.account", limit=10)).data == b"x"
    assert [fs.reads for fs in made] == ([2] if parallel else [1, 1])
    assert made[0].client.close.called is not parallel
    await backend.aclose()
    made[0].go_on.set()
