"""Files of a local storage on a hostile system: sweepers, races, locks that others hold, interrupted calls."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    FullError,
    Location,
    NotRegularError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    UnavailableError,
    Version,
)
from accountstore.backends import posix as files
from accountstore.backends.local.syscalls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.anyio

AT = Location("email.account", folder="team")
NEW = Location("new.account", folder="team")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
OTHER = replace(ACCOUNT, port=143)

CALLS: Mapping[str, Callable[[AccountStore, Version], Awaitable[object]]] = {
    "overwrite": lambda store, _: store.save(AT, OTHER),
    "swap": lambda store, version: store.save(AT, OTHER, mode=version),
    "delete": lambda store, _: store.delete(AT),
    "delete a version": lambda store, version: store.delete(AT, version=version),
}
"""What locks the document at AT."""
WRITES: Mapping[str, Callable[[AccountStore, Version], Awaitable[object]]] = {
    "overwrite": CALLS["overwrite"],
    "swap": CALLS["swap"],
    "create": lambda store, _: store.save(NEW, OTHER, mode="create"),
    "overwrite nothing": lambda store, _: store.save(NEW, OTHER),
}


@pytest.fixture
def anyio_backend() -> str:
    """The work is done in threads, the same for every event loop."""
    return "asyncio"


class System:
    """The system calls as they are, watched: which descriptors are open, and which of them are of which file.

    `patch` puts a function in a call's place.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.open: dict[int, str] = {}
        self.real: dict[str, Any] = {}
        open_, close = self.patch("open", self._open), self.patch("close", self._close)
        self.real.update(open=open_, close=close)

    def patch(self, name: str, call: Callable[..., object], /) -> Any:
        """Have `call` called instead; returns the real one."""
        real = getattr(SystemCalls, name)
        self._monkeypatch.setattr(SystemCalls, name, staticmethod(call))
        return real

    def _open(self, path: str, *arguments: Any, **options: Any) -> int:
        fd: int = self.real["open"](path, *arguments, **options)
        self.open[fd] = path
        return fd

    def _close(self, fd: int, /) -> None:
        self.open.pop(fd, None)
        self.real["close"](fd)

    def is_document(self, fd: int, /) -> bool:
        return self.open.get(fd) == AT.file_name

    def is_temporary(self, fd: int, /) -> bool:
        return self.open.get(fd, "").endswith(".tmp")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def opened(root: Path, /, attempts: int = 1) -> AbstractAsyncContextManager[AccountStore]:
    return AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(root), attempts=attempts)}))


def names(root: Path, /) -> set[str]:
    """What is in the folder of the documents, temporary files included."""
    return set(os.listdir(root / "team"))


async def not_sent(call: Awaitable[object], /) -> UnavailableError:
    """The error of a call that was not made, which is known: it is temporary and not uncertain."""
    with pytest.raises(UnavailableError) as caught:
        await call
    assert type(caught.value) is UnavailableError
    assert not caught.value.sent
    assert caught.value.temporary
    return caught.value


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, BackendError), (errno.ENOSPC, FullError)])
async def test_a_folder_that_does_not_reach_the_disk_fails_its_own_documents(
    root: Path, system: System, code: int, kind: type[AccountStoreError]
) -> None:
    """Of a batch in two folders, one of which the disk does not take, each document in it is an error and each in the
    other is saved; no descriptor stays open.
    """

    def fsync(fd: int, /) -> None:
        if bad.exists() and os.path.samestat(os.fstat(fd), bad.stat()):
            raise OSError(code, os.strerror(code))
        real(fd)

    real, bad = system.patch("fsync", fsync), root / "bad"
    places = [Location(name, folder=folder) for name in ("a.account", "b.account") for folder in ("bad", "good")]
    async with opened(root) as store:
        results = {at: result async for at, result in store.save_many([(at, ACCOUNT) for at in places])}
        assert list(results) == places
        for at, result in results.items():
            if at.folder == "bad":
                assert isinstance(result, kind)
                assert type(result) is kind
                assert result.location == at
            else:
                assert isinstance(result, Version)
                assert (await store.read(at)).version == result
    assert system.open == {}


# --- temporary files --------------------------------------------------------------------------------------------------


async def test_a_temporary_file_is_private_from_its_first_moment(root: Path, system: System) -> None:
    """The file that a document is written to is the owner's alone in the call that makes it, whatever the umask."""

    def create(path: str, flags: int, *mode: int, **options: Any) -> int:
        fd: int = real(path, flags, *mode, **options)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    modes: list[int] = []
    real = system.patch("open", create)
    umask = os.umask(0)
    try:
        async with opened(root) as store:
            version = await store.save(AT, ACCOUNT, mode="create")
            await store.save(AT, OTHER, mode=version)
            await anext(store.save_many([(NEW, ACCOUNT)]))
    finally:
        os.umask(umask)
    assert modes == [0o600, 0o600, 0o600]


@contextmanager
def _sweeping(system: System, root: Path, times: int, *, locked: bool) -> Generator[list[str]]:
    """A sweeper that is faster than the writer's lock, so many times: it has the lock and removes the file soon, or has
    done so.
    """

    def flock(fd: int, how: int, /) -> None:
        path = root / "team" / system.open[fd]
        if how == fcntl.LOCK_UN:
            if path.name in swept:
                path.unlink(missing_ok=True)
        elif system.is_temporary(fd) and len(swept) < times:
            swept.append(path.name)
            if locked:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            path.unlink()
        real(fd, how)

    swept: list[str] = []
    real = system.patch("flock", flock)
    yield swept
    system.patch("flock", real)


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize("locked", [True, False], ids=["locked", "gone"])
async def test_a_temporary_file_that_is_swept_again_and_again(
    root: Path, system: System, locked: bool, call: str
) -> None:
    """A writer whose temporary file is swept makes another. After very many it gives up: the write was surely not made,
    the document is as it was, and nothing is left.
    """
    async with opened(root) as store:
        version = await store.save(AT, ACCOUNT)
        with _sweeping(system, root, 10**9, locked=locked) as swept:
            await not_sent(WRITES[call](store, version))
        assert len(swept) == len(set(swept)) > 10
        assert await store.get(AT) == ACCOUNT
        assert names(root) == {AT.file_name}
        with _sweeping(system, root, 3, locked=locked) as swept:
            await WRITES[call](store, version)
        assert len(swept) == 3
        assert await store.get(AT if call in CALLS else NEW) == OTHER
    assert system.open == {}


@pytest.mark.parametrize("gone", ["file", "folder"])
@pytest.mark.parametrize("call", ["overwrite", "create", "overwrite nothing"])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_what_is_removed_while_a_document_is_published(
    root: Path, system: System, attempts: int, call: str, gone: str
) -> None:
    """Somebody removes the temporary file, or the whole folder, just before the document gets its name: the write was
    surely not made, and can be tried again.
    """

    def removing(name: str) -> Any:
        def publish(source: str, target: str, **options: Any) -> None:
            if not removed and target.endswith(".account"):
                removed.append(source)
                if gone == "file":
                    (root / "team" / source).unlink()
                else:
                    shutil.rmtree(root / "team")
            real[name](source, target, **options)

        return publish

    async with opened(root, attempts) as store:
        version = await store.save(AT, ACCOUNT)
        removed: list[str] = []
        real = {"link": SystemCalls.link, "rename": SystemCalls.rename}
        for name in real:
            system.patch(name, removing(name))
        if attempts == 1:
            await not_sent(WRITES[call](store, version))
            assert not await store.exists(NEW)
            assert await store.exists(AT) == (gone == "file")
        else:
            await WRITES[call](store, version)
            assert await store.get(AT if call in CALLS else NEW) == OTHER
        assert len(removed) == 1
        if (root / "team").exists():
            assert names(root) <= {AT.file_name, NEW.file_name}
    assert system.open == {}


@pytest.mark.parametrize("times", [3, 10**9])
async def test_a_document_that_others_keep_creating_and_removing(root: Path, system: System, times: int) -> None:
    """An overwrite that finds no document, and then one where it would put its own, looks again. After very many times
    it gives up, and was surely not made.
    """

    def link(source: str, target: str, **options: Any) -> None:
        if len(met) < times:
            met.append(target)  # another has created it, and removes it before it is looked for
            raise FileExistsError(errno.EEXIST, "File exists")
        real(source, target, **options)

    async with opened(root) as store:
        await store.save(AT, ACCOUNT)
        met: list[str] = []
        real = system.patch("link", link)
        if times == 3:
            await store.save(NEW, OTHER)
            assert await store.get(NEW) == OTHER
        else:
            await not_sent(store.save(NEW, OTHER))
            assert len(met) > 10
            assert names(root) == {AT.file_name}
    assert system.open == {}


# --- the document's lock ----------------------------------------------------------------------------------------------


@contextmanager
def _held(path: Path, /) -> Generator[int]:
    """The lock of a document, in the hands of another."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("call", CALLS)
async def test_a_lock_that_another_holds_too_long(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whoever changes a document waits for another who holds its lock, and not for ever: then the change was surely not
    made, and it can be made when the lock is free.
    """
    async with opened(root) as store:
        version = await store.save(AT, ACCOUNT)
        with monkeypatch.context() as patched, _held(root / AT.path):
            patched.setattr(files, "_LOCK_SECONDS", 0.0)
            failure = await not_sent(CALLS[call](store, version))
            assert "lock" in failure.message
            assert await store.get(AT) == ACCOUNT  # a reader needs no lock
            assert names(root) == {AT.file_name}
        await CALLS[call](store, version)
        assert await store.exists(AT) == ("delete" not in call)
    assert system.open == {}


@pytest.mark.parametrize("call", CALLS)
async def test_a_lock_that_another_lets_go_is_waited_for(root: Path, system: System, call: str) -> None:
    """While another holds the lock the change sleeps and looks again, and goes on when it is free."""

    def sleep(seconds: float, /) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            fcntl.flock(held, fcntl.LOCK_UN)

    slept: list[float] = []
    async with opened(root) as store:
        version = await store.save(AT, ACCOUNT)
        system.patch("sleep", sleep)
        with _held(root / AT.path) as held:
            await CALLS[call](store, version)
        assert len(slept) == 5
        assert all(0 < seconds < 0.1 for seconds in slept)
        assert await store.exists(AT) == ("delete" not in call)
    assert system.open == {}


class Interrupted(BaseException):
    """What no clean-up but one for everything notices, as a signal's exception."""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("at", ["fstat", "flock", "stat"])
async def test_a_lock_that_is_interrupted_is_let_go(root: Path, system: System, at: str, call: str) -> None:
    """Whatever interrupts the taking of a document's lock, at any step, leaves neither a descriptor nor a lock."""

    def interrupt(what: int | str, *arguments: Any, **options: Any) -> Any:
        document = what == AT.file_name if isinstance(what, str) else system.is_document(what)
        unlocks = at == "flock" and arguments[0] == fcntl.LOCK_UN
        if not interrupted and document and not unlocks:
            interrupted.append(at)
            raise Interrupted
        return real(what, *arguments, **options)

    interrupted: list[str] = []
    async with opened(root) as store:
        version = await store.save(AT, ACCOUNT)
        real = system.patch(at, interrupt)
        with pytest.raises(Interrupted):
            await CALLS[call](store, version)
        assert interrupted == [at]
        assert system.open == {}
        with open(root / AT.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert names(root) == {AT.file_name}
        assert await store.get(AT) == ACCOUNT
        await CALLS[call](store, version)
    assert system.open == {}


@pytest.mark.parametrize("call", CALLS)
async def test_a_link_that_is_put_in_the_documents_place_meanwhile_is_not_followed(
    root: Path, system: System, call: str
) -> None:
    """Between opening and locking the document is moved away, and a link to it is put under its name: the name is no
    document any more. Neither the link nor the file is touched.
    """

    def flock(fd: int, how: int, /) -> None:
        if not moved.exists() and system.is_document(fd) and how & fcntl.LOCK_EX:
            path.rename(moved)
            path.symlink_to(moved)
        real(fd, how)

    path, moved = root / AT.path, root.parent / "moved.account"
    async with opened(root) as store:
        version = await store.save(AT, ACCOUNT)
        before = path.read_bytes()
        real = system.patch("flock", flock)
        with pytest.raises(NotRegularError):
            await CALLS[call](store, version)
    assert path.is_symlink()
    assert moved.read_bytes() == before
    assert names(root) == {AT.file_name}
    assert system.open == {}
