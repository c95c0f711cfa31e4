"""What the backend for any fsspec protocol adds to fsspec: connections, folders, one thread for a blocking client."""

from __future__ import annotations

import errno
import ftplib
import gc
import logging
import os
import shutil
import socket
import threading
import zlib
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import Mock

import pytest
from anyio import create_task_group, sleep, to_thread
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from running import HUNG
from samples import ACCOUNT, AT

from accountstore import ClosedError
from accountstore.backends import file_servers
from accountstore.backends.base import (
    BackendError,
    DeniedError,
    FullError,
    NotFoundError,
    NotRegularError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
    classify_error,
)
from accountstore.backends.fsspec import FsspecBackend, open_backend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fileservers import Remote

LOG = logging.getLogger("fsspec.odd")
"""A client's."""

_FTP = file_servers._FtpFileSystem  # pyright: ignore[reportPrivateUsage]
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


def calls_on(key: str) -> list[Callable[[FsspecBackend], Awaitable[object]]]:
    """Each way to ask for a document, or to change it."""
    return [
        lambda backend: backend.read(key, limit=100),
        lambda backend: backend.stat(key),
        lambda backend: backend.delete(key),
        lambda backend: backend.write(key, b"y", mode="overwrite"),
        lambda backend: anext(backend.scan("", recursive=True)),
    ]


@pytest.mark.once
async def test_lost_connection_is_an_error_and_then_made_anew(remote: Remote) -> None:
    """A server that hangs up is not taken for an empty one: the call fails, and the next one connects again."""
    for call in calls_on("a.account"):
        backend = await remote.open()
        await backend.write("a.account", b"x", mode="overwrite")
        await to_thread.run_sync(remote.server.hang_up)
        await remote.server.wait(0)
        fs: Any = (await backend.filesystem())[0]
        path = f"/{remote.folder.name}/a.account"
        if not fs.async_impl:
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


@pytest.mark.once
@pytest.mark.parametrize(
    ("entry", "key", "instead"),
    [
        (b"M\xfcller.account", "M\udcfcller.account", ""),
        (b"M\xfcller/", "M\udcfcller/", "a folder whose name is not UTF-8"),
        (b"closed/", "closed/", "a folder that may not be read"),
    ],
    ids=["document", "folder", "closed"],
)
async def test_an_entry_that_cannot_be_named_or_read_hides_no_other(
    remote: Remote, backend: FsspecBackend, entry: bytes, key: str, instead: str
) -> None:
    """A name that is not UTF-8, of a document or a folder, and a closed folder are told, among the others."""
    for name in (b"a.account", b"m/b.account", entry + b"c.account" if entry.endswith(b"/") else entry):
        path = os.path.join(os.fsencode(remote.folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")
    remote.server.replies["closed"] = "550 no"
    found = {stat.key: stat.instead async for page in backend.scan("", recursive=True) for stat in page}
    assert found == {"a.account": "", "m/b.account": "", key: instead}
    if entry == b"closed/":
        with pytest.raises(Exception) as caught:
            await anext(backend.scan("closed", recursive=True))
        assert classify_error(caught.value) is DeniedError


@pytest.mark.once
async def test_a_refused_document_is_not_missing(remote: Remote, backend: FsspecBackend) -> None:
    """A server that refuses a document says so, by each client."""
    await backend.write("a.account", b"x", mode="overwrite")
    remote.server.replies["a.account"] = "550 no"
    for call in (
        backend.read("a.account", limit=100),
        backend.delete("a.account"),
        backend.write("a.account", b"y", mode="overwrite"),
    ):
        with pytest.raises(Exception) as caught:
            await call
        assert classify_error(caught.value) is DeniedError


_BUSY = "425 no connection for data"


@pytest.mark.once
@pytest.mark.parametrize("remote", ["ftp"], indirect=True)
@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({"PASV": _BUSY, "EPSV": _BUSY, "DELE": "450 busy"}, UnavailableError),
        (dict.fromkeys(["MLSD", "LIST", "RETR", "STOR", "DELE"], "450 busy"), UnavailableError),
        (dict.fromkeys(["MLSD", "LIST", "RETR", "STOR", "DELE"], "421 idle for too long"), UnavailableError),
        (dict.fromkeys(["MLSD", "LIST", "RETR", "STOR", "DELE"], "550 no"), DeniedError),
        (dict.fromkeys(["USER"], "421 too many connections"), UnavailableError),
        (dict.fromkeys(["USER"], "530 no"), DeniedError),
    ],
    ids=["no data", "busy", "idle", "forbidden", "too many", "no login"],
)
async def test_what_an_ftp_server_refuses_is_not_missing(
    remote: Remote, replies: dict[str, str], kind: type[Exception]
) -> None:
    """A server that is busy, or does not allow it, has no fewer documents, and has removed none."""
    (remote.folder / "m").mkdir()
    (remote.folder / "m/a.account").write_bytes(b"x")
    remote.server.replies.update(replies)
    calls = calls_on("m/a.account")
    calls.append(lambda backend: anext(backend.scan("m", recursive=True)))
    backend = await remote.open()
    for call in calls:
        with pytest.raises(Exception) as caught:
            await call(backend)
        assert classify_error(caught.value) is kind
    remote.server.replies.clear()
    assert (await backend.read("m/a.account", limit=100)).data == b"x"
    await backend.aclose()


class _Lister:
    """What an FTP client says of folders: per command the lines and how the answer ends, or the code of a refusal."""

    def __init__(self, answers: dict[str, bytes | str]) -> None:
        self._answers = answers

    def retrbinary(self, command: str, take: Callable[[bytes], object]) -> str:
        answer = self._answers.get(command, b"226 done")
        if isinstance(answer, str):
            raise (ftplib.error_temp if answer.startswith("4") else ftplib.error_perm)(answer)
        *lines, ending = answer.split(b"\n")
        take(b"\r\n".join(lines))
        return ending.decode()

    def close(self) -> None:
        pass


def _ftp_over(answers: dict[str, bytes | str], monkeypatch: pytest.MonkeyPatch) -> FsspecBackend:
    """A backend on the root of a server that answers so."""

    def connect(fs: Any) -> None:
        fs.ftp = _Lister(answers)

    monkeypatch.setattr(_FTP, "_connect", connect)
    return FsspecBackend(partial(_FTP, "127.0.0.1", skip_instance_cache=True), "/", parallel=False)


_LS = (
    b"total 8\n-rw-r--r-- 1 u g 3 Jan 01 00:00 a.account\nlrwxrwxrwx 1 u g 9 Jan 01 00:00 l.account -> a.account\n"
    b"drwxr-xr-x 1 u g 0 Jan 01 00:00 .\ndrwxr-xr-x 1 u g 0 Jan 01 00:00 m\n226 done"
)
_MLS = b"type=cdir; .\nType=file;Size=3; a.account\ntype=OS.unix=slink:a; l.account\ntype=dir; m\n226 done"
_DOS = b"01-01-26  12:00AM  3 a.account\n226 done"
_UNOPENED = b"226 Transfer done (but failed to open directory)."
_BELOW = {"a.account", "l.account", "m/"}


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"MLSD /m": _MLS}, _BELOW),
        ({"MLSD /m": "500 what", "LIST /m": _LS}, _BELOW),
        ({"MLSD /m": "500 what", "LIST /m": b"total 0\n226 done"}, set[str]()),
        ({"MLSD /m": "500 what", "LIST /m": _DOS}, BackendError),
        ({"MLSD /m": "500 what", "LIST /m": _UNOPENED, "MLSD /": b"type=dir; m\n226 done"}, DeniedError),
        ({"MLSD /m": "500 what", "LIST /m": _UNOPENED}, set[str]()),
        ({"MLSD /m": "550 no", "LIST /m": b"226 done", "MLSD /": b"type=dir; m\n226 done"}, DeniedError),
        ({"MLSD /m": "550 no", "MLSD /": b"type=dir; m.account\n226 done"}, set[str]()),
        ({"MLSD /m": "550 no", "MLSD /": "550 no"}, DeniedError),
        ({"MLSD /m": "550 no", "MLSD /": b"type=file;size=1; m\n226 done"}, set[str]()),
        ({"MLSD /m": "450 no such folder"}, set[str]()),
        ({"MLSD /m": "450 busy", "MLSD /": b"type=dir; m\n226 done"}, UnavailableError),
        ({"MLSD /m": "425 no connection for data"}, UnavailableError),
        ({"MLSD /m": "502 no", "LIST /m": "502 no"}, BackendError),
    ],
)
async def test_an_ftp_folder_is_empty_where_the_server_says_so(
    answers: dict[str, bytes | str], found: set[str] | type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that the server refuses is missing where the folder above does not have it, and else an error; lines of
    LIST are taken where there is no MLSD, if they are lines of ls.
    """
    backend = _ftp_over(answers, monkeypatch)
    seen: set[str] | type[Exception]
    try:
        seen = {stat.key.removeprefix("m/") async for page in backend.scan("m", recursive=False) for stat in page}
    except Exception as error:
        seen = classify_error(error)
    assert seen == found
    await backend.aclose()


async def test_an_ftp_listing_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of a listing is taken into memory than a folder may have; the next call connects anew."""
    answers: dict[str, bytes | str] = {"MLSD /m": b"type=file;size=1; a.account\n226 done"}
    backend = _ftp_over(answers, monkeypatch)
    monkeypatch.setattr(file_servers, "_MOST_LISTED", 27)
    before = (await backend.filesystem())[0]
    assert [stat.key async for page in backend.scan("m", recursive=False) for stat in page] == ["m/a.account"]
    monkeypatch.setattr(file_servers, "_MOST_LISTED", 26)
    with pytest.raises(BackendError, match="listing has more than"):
        await anext(backend.scan("m", recursive=False))
    assert (await backend.filesystem())[0] is not before
    await backend.aclose()


async def test_an_ftp_folder_that_others_make_meanwhile_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is missing when it is listed, and there when the folder above is, is listed again: a server has one
    code for what is missing and what may not be seen.
    """
    answers: dict[str, bytes | str] = {"MLSD /m": "550 no", "MLSD /": b"type=dir; m\n226 done"}
    backend = _ftp_over(answers, monkeypatch)
    info = _FTP.info

    def made(fs: Any, path: str) -> Any:
        answers["MLSD /m"] = b"type=file;size=3; a.account\n226 done"
        return info(fs, path)

    monkeypatch.setattr(_FTP, "info", made)
    [page] = [page async for page in backend.scan("m", recursive=False)]
    assert [stat.key for stat in page] == ["m/a.account"]
    await backend.aclose()


@pytest.mark.parametrize("kind", [_FTP, FTPFileSystem], ids=["", "control"])
def test_an_ftp_client_that_could_not_be_made_goes_quietly(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is printed when it is dropped. The control: fsspec's own."""
    hook = Mock()
    monkeypatch.setattr("sys.unraisablehook", hook)
    with pytest.raises(TypeError, match="host"):
        kind()
    gc.collect()
    assert hook.called == (kind is FTPFileSystem)


def test_closing_an_ftp_client_ends_a_call_that_hangs() -> None:
    """Neither the call nor whoever closes the client waits for a server that does not answer."""
    ours, theirs = socket.socketpair()
    fs: Any = _FTP.__new__(_FTP)
    fs.ftp = ftplib.FTP()
    fs.ftp.sock, fs.ftp.file = ours, ours.makefile("r")
    outcome = Mock()

    def call() -> None:
        try:
            fs.ftp.voidcmd("NOOP")
        except (EOFError, AttributeError, OSError, ValueError):  # as it has not begun to read, or has
            outcome("it ended")

    threads = [threading.Thread(target=call, daemon=True)]
    threads[0].start()
    theirs.recv(100)
    threads.append(threading.Thread(target=file_servers.close, args=(fs,), daemon=True))
    threads[1].start()
    for thread in threads:
        thread.join(HUNG / 10)
    theirs.close()
    assert not any(thread.is_alive() for thread in threads)
    outcome.assert_called_once()


@pytest.mark.parametrize("call", ["read", "write", "delete"])
@pytest.mark.parametrize(
    ("refusals", "asked", "kind"),
    [
        (["550 missing"] * 2, 3, None),
        (["550 forbidden"] * 9, 5, DeniedError),
        (["552 full"] * 9, 1, FullError),
        (["450 busy"] * 9, 1, UnavailableError),
        (["550 missing"] * 2 + ["552 full"] * 9, 3, FullError),
    ],
    ids=["made meanwhile", "forbidden", "full", "busy", "made meanwhile, and full"],
)
async def test_what_an_ftp_server_refuses_is_asked_for_again(
    call: str, refusals: list[str], asked: int, kind: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others make and remove between a request and the look at what is there is not forbidden; what is, and what
    is refused for another reason, is an error after all. A write is made twice whatever it is refused for.
    """
    left = iter(refusals)

    def ask(*_: object, **__: object) -> bytes:
        for answer in left:
            raise (ftplib.error_temp if answer.startswith("4") else ftplib.error_perm)(answer)
        return b"x"

    backend = _ftp_over({}, monkeypatch)
    monkeypatch.setattr(_FTP, "info", Mock(return_value={"name": "/m/a.account", "type": "file", "size": 1}))
    monkeypatch.setattr(_FTP, {"read": "cat_file", "write": "pipe_file", "delete": "rm_file"}[call], ask)
    with nullcontext() if kind is None else pytest.raises(kind):
        match call:
            case "read":
                await backend.read("m/a.account", limit=9)
            case "write":
                await backend.write("m/a.account", b"x", mode="overwrite")
            case _:
                await backend.delete("m/a.account")
    requests = max(asked, 2) if call == "write" else asked
    assert len([*left]) == max(len(refusals) - requests, 0)
    await backend.aclose()


async def test_who_may_list_nothing_on_an_ftp_server_learns_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can know what is there, nothing is asked for again: however deep the folder, each of those above it
    is listed once.
    """
    asked: list[str] = []

    def refuse(_: object, command: str) -> list[str]:
        asked.append(command)
        raise ftplib.error_perm("550 no")

    backend = _ftp_over({}, monkeypatch)
    monkeypatch.setattr(_FTP, "_lines", refuse)
    with pytest.raises(DeniedError):
        await anext(backend.scan("a/b/c", recursive=False))
    assert asked == ["MLSD /a/b/c", "MLSD /a/b", "MLSD /a", "MLSD /"]
    await backend.aclose()


async def test_a_listing_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that could not be listed for a moment is asked for again: nothing is left out, nothing comes twice."""
    answers: dict[str, bytes | str] = {"MLSD /": b"type=dir; m\n226 done", "MLSD /m": _BUSY}
    backend = _ftp_over(answers, monkeypatch)
    pages = backend.scan("", recursive=True)
    found = [*await anext(pages)]
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await anext(pages)
    answers["MLSD /m"] = b"type=file;size=3; a.account\ntype=file;size=3; b.account\n226 done"
    found += [stat async for page in pages for stat in page]
    assert [stat.key for stat in found] == ["m/a.account", "m/b.account"]
    await backend.aclose()


async def test_a_folder_below_is_listed_by_a_client_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client cannot be made anew amid a listing, the rest is neither empty nor a closed folder."""
    answers: dict[str, bytes | str] = {"MLSD /": b"type=dir; m\n226 done", "MLSD /m": _BUSY}
    backend = _ftp_over(answers, monkeypatch)
    pages = backend.scan("", recursive=True)
    await anext(pages)
    with pytest.raises(UnavailableError):
        await anext(pages)
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        monkeypatch.setattr(_FTP, "_connect", Mock(side_effect=OSError(number, "no")))
        with pytest.raises(PermissionError):
            await anext(pages)
    await backend.aclose()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP])
async def test_what_the_client_does_not_find_is_no_missing_document(number: int) -> None:
    """What a client lacks while it is made is told as access that is denied, whatever is asked for; and no path."""
    backend = FsspecBackend(Mock(side_effect=OSError(number, "no", "/canary")), "/root", parallel=True)
    for call in calls_on("a.account"):
        with pytest.raises(DeniedError, match=r"^a file that the client needs.* \(\w+\)$"):
            await call(backend)
    with pytest.raises(DeniedError):
        await backend.filesystem()
    await backend.aclose()


@pytest.mark.once
@pytest.mark.parametrize(
    ("remote", "options"),
    [
        ("sftp", {"key_filename": "/no/such"}),
        ("ssh", {"client_keys": ["/no/such"]}),
        ("ssh", {"known_hosts": "/no/such"}),
        ("ssh", {"config": ["/no/such"]}),
    ],
    indirect=["remote"],
)
async def test_a_missing_file_of_an_ssh_client_is_no_empty_storage(remote: Remote, options: dict[str, Any]) -> None:
    """A key, or hosts that are known, whose file is not there on this side denies access to what is on the other."""
    (remote.folder / "a.account").write_bytes(b"x")
    backend = await remote.open(**options)
    for call in calls_on("a.account"):
        with pytest.raises(DeniedError):
            await call(backend)
    await backend.aclose()
    assert (remote.folder / "a.account").read_bytes() == b"x"


@pytest.mark.once
@pytest.mark.parametrize("remote", ["sftp"], indirect=True)
async def test_a_client_that_is_not_made_anew_has_lost_its_connection(
    remote: Remote, backend: FsspecBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where paramiko's connection must be made anew for odd names, and cannot be, a listing is no shorter."""
    kind: Any = import_module("fsspec.implementations.sftp").SFTPFileSystem
    for name in (b"a.account", b"m/M\xfcller.account"):
        path = os.path.join(os.fsencode(remote.folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")
    pages = backend.scan("", recursive=True)
    await anext(pages)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "_connect", Mock(side_effect=FileNotFoundError))
        with pytest.raises(ConnectionError):
            await anext(pages)
    assert [stat.key for stat in await anext(pages)] == ["m/M\udcfcller.account"]


class _Endless(BaseHTTPRequestHandler):
    """A web server that sends 256 MB whatever part it is asked for, packed or not, and counts them."""

    packed: ClassVar = False
    sent: ClassVar = 0

    def do_GET(self) -> None:
        piece = bytes(2**20)
        self.send_response(200)
        if self.packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        packer = zlib.compressobj(wbits=31)
        with suppress(OSError):
            for _ in range(256):
                self.wfile.write(packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) if self.packed else piece)
                type(self).sent += len(piece)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        pass


async def _sent(kind: type[_Endless], read: Callable[[FsspecBackend], Awaitable[object]], /) -> int:
    """How many bytes a server of this kind sends, unpacked, to a client that reads a document."""
    kind.sent = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = False  # which waits for what is being sent
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    backend = await open_backend(f"http://127.0.0.1:{server.server_port}", {})
    try:
        await read(backend)
    finally:
        await backend.aclose()
        await to_thread.run_sync(server.shutdown)
        thread.join()
        await to_thread.run_sync(server.server_close)
    return kind.sent


@pytest.mark.once
@pytest.mark.parametrize("packed", [False, True])
async def test_no_more_of_a_body_is_taken_than_a_document_may_have(packed: bool) -> None:
    """A web server that sends all for a part, packed or not, costs the memory of a document; the rest is not read."""
    pytest.importorskip("aiohttp")

    async def read(backend: FsspecBackend) -> None:
        with pytest.raises(TooLargeError):
            await backend.read("a.account", limit=1000)

    kind = type("_Kind", (_Endless,), {"packed": packed})
    assert await _sent(kind, read) < (256 if packed else 64) * 2**20


@pytest.mark.once
async def test_control_the_client_takes_all_of_a_body() -> None:
    """fsspec's own read of a part takes whatever the server sends."""
    pytest.importorskip("aiohttp")

    async def read(backend: FsspecBackend) -> None:
        from fsspec.implementations.http import HTTPFileSystem

        _, root = await backend.filesystem()
        fs: Any = HTTPFileSystem(skip_instance_cache=True)
        await to_thread.run_sync(partial(fs.cat_file, f"{root}/a.account", start=0, end=1000))
        await to_thread.run_sync(file_servers.close, fs)  # or the garbage collector would, on the test's event loop

    assert await _sent(type("_Kind", (_Endless,), {}), read) == 256 * 2**20


class _Redirecting(BaseHTTPRequestHandler):
    """A web server that sends everybody, but for the document, to the address in the path."""

    def do_GET(self) -> None:
        _, port, name = self.path.split("/")
        self.send_response(302 if port != "0" else 200)
        self.send_header("Location", f"http://127.0.0.1:{port}/0/{name}")
        self.send_header("Content-Length", "0" if port != "0" or self.command == "HEAD" else "3")
        self.end_headers()
        if port == "0" and self.command == "GET":
            self.wfile.write(b"abc")

    do_HEAD = do_PUT = do_GET  # noqa: N815 -- as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        pass


async def test_a_web_server_leads_to_no_other_and_a_write_nowhere() -> None:
    """A redirect is followed by a read alone, and only to the same server: a document would go elsewhere, or come."""
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting) as server, socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        same = await open_backend(f"{base}/{server.server_port}", {})
        there = await open_backend(f"{base}/{other.getsockname()[1]}", {})
        try:
            assert (await same.read("a.account", limit=100)).data == b"abc"
            for call in (
                there.read("a.account", limit=100),
                there.stat("a.account"),
                there.write("a.account", b"secret", mode="overwrite"),
                same.write("a.account", b"secret", mode="overwrite"),
            ):
                with pytest.raises(BackendError, match="redirects, which is not followed"):
                    await call
            with pytest.raises(BlockingIOError):
                other.accept()
        finally:
            await same.aclose()
            await there.aclose()
            await to_thread.run_sync(server.shutdown)
            thread.join()


class _Circling(BaseHTTPRequestHandler):
    """A web server that sends everybody to where they are."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 -- as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        pass


async def test_redirects_in_a_circle_are_told_as_such() -> None:
    """The error of a read says what the server does."""
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Circling) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        backend = await open_backend(f"http://127.0.0.1:{server.server_port}", {})
        try:
            for call in (backend.read("a.account", limit=100), backend.stat("a.account")):
                with pytest.raises(BackendError, match="redirects too often"):
                    await call
        finally:
            await backend.aclose()
            await to_thread.run_sync(server.shutdown)
            thread.join()


class _Refusing(BaseHTTPRequestHandler):
    """A web server that answers with the status in the path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")  # with a body fsspec may leave the answer unclosed
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 -- as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        pass


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, DeniedError),
        (404, NotFoundError),
        (410, NotFoundError),
        (503, UnavailableError),
        (0, UnavailableError),
    ],
    ids=["403", "404", "410", "503", "no server"],
)
async def test_only_a_web_server_that_says_so_has_no_document(status: int, kind: type[Exception]) -> None:
    """Of HTTP a document is missing where the answer is 404 or 410, and not where there was another, or none."""
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    backend = await open_backend(f"http://127.0.0.1:{server.server_port}/{status}", {})
    thread = threading.Thread(target=server.serve_forever)
    if status:
        thread.start()
    else:
        server.server_close()
    try:
        for call in (backend.read("a.account", limit=100), backend.stat("a.account")):
            with pytest.raises(Exception) as caught:
                await call
            assert classify_error(caught.value) is kind
    finally:
        await backend.aclose()
        if status:
            await to_thread.run_sync(server.shutdown)
            thread.join()
            server.server_close()


class _Garbling(_Refusing):
    """A web server whose answers have a header that is none."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nBad Header: x\r\nContent-Length: 0\r\n\r\n")

    do_HEAD = do_PUT = do_GET  # noqa: N815 -- as above


async def test_an_answer_of_a_web_server_that_cannot_be_read_refuses_nothing() -> None:
    """The client calls such an answer a 400, which the server never said: what was asked for may be done."""
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Garbling) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        backend = await open_backend(f"http://127.0.0.1:{server.server_port}", {})
        try:
            for call in (
                backend.write("a.account", b"x", mode="overwrite"),
                backend.read("a.account", limit=100),
                backend.stat("a.account"),
            ):
                with pytest.raises(UnavailableError, match="the answer cannot be read") as caught:
                    await call
                assert caught.value.sent
        finally:
            await backend.aclose()
            await to_thread.run_sync(server.shutdown)
            thread.join()


_NGINX = (
    b'<html><head><title>Index of /x/</title></head><body><h1>Index of /x/</h1><hr><pre><a href="../">../</a></pre>'
)
_PAGES: dict[str, tuple[bytes, str]] = {
    "nginx": (_NGINX, ""),
    "Apache": (b'<h1>Index of /x</h1><ul><li><a href="/"> Parent Directory</a></li></ul>', ""),
    "Python": (b"<title>Directory listing for /x/</title><h1>Directory listing for /x/</h1><hr><ul></ul><hr>", ""),
    "Go": (b'<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n</pre>\n', ""),
    "IIS": (b'<title>h - /x/</title><pre><A HREF="/">[To Parent Directory]</A><br><br></pre>', ""),
    "Tomcat in French": (
        "<h1>Liste du répertoire pour [/x/] - <a href='/'><b>Jusqu'à [/]</b></a></h1><hr class='line'>".encode(),
        "",
    ),
    "a prefix that is lost": (
        b'<title>Index of /</title><pre><a href="/other/a.account">a.account</a></pre>',
        "another folder",
    ),
    "a sign-in form": (
        b'<html><title>Sign in</title><form action="/login"><input name="password"></form></html>',
        "no listing",
    ),
    "a bucket": (b"<?xml version='1.0'?><ListBucketResult><Key>a.account</Key></ListBucketResult>", "no listing"),
    "nothing": (b"", "no listing"),
}


@pytest.mark.parametrize("name", _PAGES)
async def test_a_page_that_is_no_listing_is_no_empty_folder(name: str) -> None:
    """What a web server answers for an empty folder is an empty listing. Any other page is an error, and so is a
    listing whose links lead out of the storage.
    """
    pytest.importorskip("aiohttp")
    page, message = _PAGES[name]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/xml" if name == "a bucket" else "text/html")
            self.send_header("Content-Length", f"{len(page)}")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    backend = await open_backend(f"http://127.0.0.1:{server.server_port}/x", {})
    try:
        with pytest.raises(BackendError, match=message) if message else nullcontext():
            assert [stat async for page in backend.scan("", recursive=True) for stat in page] == []
    finally:
        await backend.aclose()
        await to_thread.run_sync(server.shutdown)
        thread.join()
        server.server_close()


class _Slow(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A blocking filesystem whose first read hangs until it is let go."""

    cachable = False
    made: ClassVar[list[_Slow]] = []

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.closed_in = list[int]()
        self.client = Mock(close=lambda: self.closed_in.append(threading.get_ident()))
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
    """A read that hangs when its caller gives it up has its blocking filesystem for itself, which is closed, and not on
    the event loop, for that may hang too; the next one connects anew, at once, and the backend can be closed. The
    control: an asynchronous filesystem is shared.
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
    while not (made[0].closed_in or parallel):
        await sleep(0.001)
    assert threading.get_ident() not in made[0].closed_in
    assert not (made[0].closed_in and parallel)
    await backend.aclose()
    made[0].go_on.set()


class _Odd(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A filesystem that waits before it is there, whose entries are odd, and that logs and keeps what is written."""

    cachable = False
    ENTRIES: ClassVar[list[dict[str, Any]]] = [
        {"name": "/root/a.account", "size": 1, "type": "file", "mtime": 10**9},
        {"name": "/root/link.account", "size": 1, "type": "link"},
        {"name": "/root/pipe.account", "size": 0, "type": "other"},
        {"name": "/root/sizeless.account", "size": None, "type": "file"},
        {"name": "/root/far.account", "size": 1, "type": "file", "mtime": 3 * 10**11},
        {"name": "/root/none.account", "size": 1, "type": "file", "mtime": float("nan")},
        {"name": "/root/ftp.account", "size": 1, "type": "file", "modify": "00000000000000"},
    ]
    connecting = threading.Event()
    go_on = threading.Event()
    written: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.connecting.set()
        self.go_on.wait(HUNG)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        LOG.debug("the password is %s", "canary")
        self.written.append(path)
        if self.written.count(path) == 1 and "/m/" in path:
            raise FileNotFoundError(path)

    def rm_file(self, path: str) -> None:
        self.written.append(path)
        if "kept" in path:
            raise NotImplementedError

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[dict[str, Any]]:
        return self.ENTRIES


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> FsspecBackend:
    """A backend on the odd filesystem, which does not wait."""
    _Odd.written.clear()
    _Odd.connecting.clear()
    _Odd.go_on.set()
    return FsspecBackend(_Odd, "/root", parallel=True)


async def test_an_odd_entry_hides_no_other_and_is_told(odd: FsspecBackend) -> None:
    """A time that no calendar has and a size that is not known hide nothing; what is no file is told as such."""
    found = [stat async for page in odd.scan("", recursive=True) for stat in page]
    assert [stat.key for stat in found] == [entry["name"].removeprefix("/root/") for entry in _Odd.ENTRIES]
    assert [stat.instead for stat in found if stat.instead] == ["a symbolic link", "no regular file"]
    assert [stat.key for stat in found if stat.modified] == ["a.account"]
    await odd.aclose()


async def test_what_a_protocol_does_not_have_is_unsupported(
    odd: FsspecBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has no request to delete, as that for HTTP, has not failed."""
    monkeypatch.setattr(_Odd, "info", Mock(return_value={"name": "/root/kept.account", "type": "file", "size": 1}))
    with pytest.raises(UnsupportedError, match="no such request"):
        await odd.delete("kept.account")
    await odd.aclose()


@pytest.mark.parametrize("call", ["save", "save_many", "delete"])
async def test_a_change_that_was_given_up_sends_nothing_more(odd: FsspecBackend, call: str) -> None:
    """A write, or a delete, that is given up while its connection is made sends nothing when that is there; and it has
    surely not been done.
    """
    _Odd.go_on.clear()
    store = store_over({"default": odd}, timeout=HUNG)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "save": lambda: store.save(AT, ACCOUNT),
        "save_many": lambda: anext(store.save_many([(AT, ACCOUNT)])),
        "delete": lambda: store.delete(AT),
    }
    outcome: list[object] = []

    async def begin() -> None:
        try:
            outcome.append(await calls[call]())
        except Exception as error:
            outcome.append(error)

    async with create_task_group() as group:
        group.start_soon(begin)
        while not _Odd.connecting.is_set():
            await sleep(0.001)
        await store.aclose()
    told = outcome[0][1] if isinstance(outcome[0], tuple) else outcome[0]
    assert isinstance(told, ClosedError)
    _Odd.go_on.set()
    while any(thread.name == "accountstore" for thread in threading.enumerate()):
        await sleep(0.001)
    assert _Odd.written == []


async def test_control_a_change_that_is_not_given_up_is_sent(
    odd: FsspecBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent again where its folder was missing, and nothing that the client logs of it shows."""
    caplog.set_level(logging.DEBUG)
    await odd.write("m/a.account", b"x", mode="overwrite")
    await odd.delete("a.account")
    await odd.aclose()
    assert _Odd.written == ["/root/m/a.account"] * 2 + ["/root/a.account"]
    assert "canary" not in caplog.text


async def test_control_the_client_logs_what_it_likes(caplog: pytest.LogCaptureFixture) -> None:
    """The program's own use of the filesystem is logged as ever."""
    caplog.set_level(logging.DEBUG)
    _Odd.go_on.set()
    _Odd().pipe_file("/a.account", b"x")
    assert "canary" in caplog.text
