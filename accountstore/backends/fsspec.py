"""Any other fsspec protocol as a storage: reads, writes, lists, and promises nothing more.

fsspec itself says of no operation whether it is atomic, exclusive or durable, so none of that is declared; a storage
with such abilities deserves a backend of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias, TypeVar, cast

from anyio import to_thread

from accountstore.aio.threads import Fence, Lazy, ThreadPool, run_alone
from accountstore.backends.base import (
    BackendError,
    Blob,
    Capabilities,
    DeniedError,
    ExistsError,
    NotFoundError,
    NotRegularError,
    Stat,
    UnavailableError,
    Usage,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
    classify_error,
    digest,
    only_version,
    pages_by_cursor,
)
from accountstore.backends.file_servers import TRIES, close, entries_of, is_ambiguous, is_lost, meaning
from accountstore.backends.filesystems import filesystem_of
from accountstore.backends.logs import quiet
from accountstore.backends.moments import as_utc
from accountstore.backends.web_pages import is_listing, links_to_a_document
from accountstore.errors import AccountStoreError
from accountstore.validation import join

T = TypeVar("T")
_Folders: TypeAlias = list[str] | None

_THREADS = 16
_PAGE = 64 << 10  # bytes that tell what a web page is
_LOST = frozenset({BackendError, UnavailableError})  # after which the connection may be
_OF_DOCUMENTS = frozenset({NotFoundError, ExistsError, NotRegularError})
# The names under which fsspec's filesystems give a modification time.
_TIMES = ("mtime", "last_modified", "LastModified", "modified", "updated", "modify")


class FsspecBackend:
    """One filesystem instance, never from fsspec's shared cache, called in threads through its blocking methods.

    fsspec does not promise that a blocking filesystem may be used by two threads, so it gets one; an asynchronous one
    runs on fsspec's own event loop and takes many. Only methods that do not expand names are called. The next call
    connects anew after an error that means a lost connection, of a blocking one that may mean it, and after a blocking
    call that hung: that one keeps its thread, and its connection is closed. What was given up sends nothing more.
    """

    capabilities: Capabilities = Capabilities(create=False, update=False, atomic=False, durable=False, folders=True)

    def __init__(self, connect: Callable[[], Any], root: str, /, *, parallel: bool) -> None:
        self._connect = connect
        self._connection: Lazy[Any] = Lazy(partial(_connect, connect))
        self._root = root.rstrip("/")
        self._parallel = parallel
        self._threads = ThreadPool(_THREADS) if parallel else ThreadPool(1, self._renew)

    def _renew(self) -> None:
        """Leave the connection to the call that hangs on it, or while it is made, and close it, which may hang too."""
        left, self._connection = self._connection, Lazy(partial(_connect, self._connect))
        run_alone(partial(close, left.take()))

    @contextmanager
    def _use(self) -> Generator[Any]:
        """The filesystem, for one call."""
        connection = self._connection
        with quiet():
            fs = connection.get()
            if connection is not self._connection:  # the call was given up while it connected
                close(fs)
                raise UnavailableError("it was given up", sent=False)
            try:
                yield fs
            except Exception as error:
                lost = is_lost(error) if self._parallel else classify_error(error) in _LOST
                if lost and not isinstance(error, AccountStoreError):
                    connection.drop(fs)
                    close(fs)
                told = _told(fs, meaning(error))
                if told is error:
                    raise
                raise told from None

    def _path(self, key: str, /) -> str:
        return f"{self._root}/{key}" if key else self._root or "/"

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._threads.run(partial(self._read, key, limit))

    def _read(self, key: str, limit: int, /) -> Blob:
        path = self._path(key)
        with self._use() as fs:
            data = _content(fs, path, limit + 1)
        check_size(len(data), limit)
        return Blob(data, Stat(key, len(data), digest(data), None))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await self._threads.run_fenced(partial(self._write, key, data))

    def _write(self, key: str, data: bytes, fence: Fence, /) -> Stat:
        with self._use() as fs:
            _put(fs, self._path(key), data, fence)
        return Stat(key, len(data), digest(data), None)

    async def stat(self, key: str, /) -> Stat:
        return await self._threads.run(partial(self._stat, key))

    def _stat(self, key: str, /) -> Stat:
        with self._use() as fs:
            info = _info(fs, self._path(key))
        if info["type"] != "file":
            raise NotRegularError("is not a regular file")
        return _stat_of(key, info)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._threads.run_fenced(partial(self._delete, key))

    def _delete(self, key: str, fence: Fence, /) -> None:
        with self._use() as fs:
            _remove(fs, self._path(key), fence)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return pages_by_cursor(partial(self._page, prefix, recursive))

    async def _page(self, prefix: str, recursive: bool, folders: _Folders, /) -> tuple[list[Stat], _Folders]:
        return await self._threads.run(partial(self._last, prefix, recursive, folders or [prefix]))

    def _last(self, prefix: str, recursive: bool, folders: list[str], /) -> tuple[list[Stat], _Folders]:
        """What is in the last of these folders, and the folders that are left, if there are any."""
        *rest, folder = folders
        path = self._path(folder)
        entries: Any = ()
        page: list[Stat] = []
        with self._use() as fs:
            try:
                entries = entries_of(fs, path)
                if not entries and "http" in fs.protocol:
                    _check_listing(fs, path)
            except Exception as error:
                told = _told(fs, meaning(error))
                if isinstance(told, PermissionError) and folder != prefix:
                    page.append(Stat(f"{folder}/", 0, None, None, instead="a folder that may not be read"))
                elif not isinstance(told, FileNotFoundError | NotADirectoryError):
                    raise
        for stat in filter(None, (_found(folder, path, info) for info in entries)):
            if recursive and stat.key.endswith("/") and not stat.instead:
                rest.append(stat.key[:-1])
            else:
                page.append(stat)
        return page, rest or None

    async def versioned(self) -> bool | None:
        return None

    async def versions(self, key: str, /) -> list[VersionInfo]:
        return only_version(await self.stat(key))

    async def usage(self) -> Usage | None:
        return None

    async def filesystem(self) -> tuple[object, str]:
        return await self._threads.run(self._connection.get), self._root or "/"

    async def aclose(self) -> None:
        await self._threads.run(lambda: close(self._connection.take()))
        self._threads.close()


def _connect(connect: Callable[[], Any], /) -> Any:
    try:
        fs = connect()
    except TypeError as error:  # of the client, to which some filesystems pass on what they do not know
        named = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if named is None:
            raise
        raise BackendError(f"options: unknown {named[1]!r}") from None
    except Exception as error:  # noqa: BLE001 -- it is raised
        if classify_error(error) in _OF_DOCUMENTS:  # it would pass for a missing document, or an empty folder
            reason = type(error).__name__
            raise DeniedError(f"a file that the client needs, such as a key, cannot be read ({reason})") from None
        raise meaning(error) from None
    fs.dircache.use_listings_cache = False
    return fs


def _leave(fence: Fence, /) -> None:
    """A request that changes something is about to leave, unless it was given up."""
    with fence:
        pass


def _content(fs: Any, path: str, size: int, /) -> bytes:
    """The first bytes of a file. Raises `FileNotFoundError` where there is none."""
    tries = 0
    while True:
        tries += 1
        try:
            data = _first(fs, path, size)
        except Exception as error:
            _check_file(fs, path)
            if tries == TRIES or not is_ambiguous(error):
                raise
        else:
            if not data:
                _check_file(fs, path)  # FTP's folders read as empty
            return data


def _put(fs: Any, path: str, data: bytes, fence: Fence, /) -> None:
    """Write a file, and the folder that it is in where that is missing."""
    folder = path.rpartition("/")[0]
    for tries in range(1, TRIES + 1):
        try:
            _leave(fence)
            fs.pipe_file(path, data)
        except AccountStoreError:
            raise
        except Exception as error:  # a missing folder has no error in common; any other comes again
            if tries >= (TRIES if is_ambiguous(error) else 2):
                raise
            if _kind(fs, folder) is None:
                _make(fs, folder)
        else:
            return


def _remove(fs: Any, path: str, fence: Fence, /) -> None:
    """Remove a file, unless there is none."""
    for tries in range(1, TRIES + 1):
        try:
            _leave(fence)
            fs.rm_file(path)
        except AccountStoreError:
            raise
        except Exception as error:
            if _kind(fs, path) is None:
                return
            if tries == TRIES or not is_ambiguous(error):
                raise
        else:
            return


def _first(fs: Any, path: str, size: int, /) -> bytes:
    """The first bytes of a file."""
    if "http" not in fs.protocol:
        return bytes(fs.cat_file(path, start=0, end=size))
    # The server may send all for a part, and packed, and the client would take it into memory. With a size that file
    # does not ask for its own.
    found = bytearray()
    with fs.open(path, "rb", block_size=0, size=1) as file:
        while chunk := file.read(size - len(found)):
            found += chunk
    return bytes(found)


def _check_listing(fs: Any, path: str, /) -> None:
    """Raise `BackendError` where a web server's answer, in which nothing is listed, is no listing of the folder."""
    page = _first(fs, path, _PAGE).decode(errors="replace")
    if not is_listing(page):
        raise BackendError("the server's answer is no listing of a folder, but another page or file")
    if links_to_a_document(page):
        raise BackendError("the server's listing is of another folder: its links are not below the storage's URL")


def _kind(fs: Any, path: str, /) -> str | None:
    """What stands at a path: "file", "directory" or something else; None: nothing.

    fsspec's own `exists` says False of whatever it cannot find out, as when the connection is gone.
    """
    try:
        return str(_info(fs, path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def _info(fs: Any, path: str, /) -> Any:
    try:
        return fs.info(path)
    except FileNotFoundError as error:
        raise _told(fs, error) from None


def _told(fs: Any, error: Exception, /) -> Exception:
    """What an error means."""
    http: Any = import_module("accountstore.backends.http") if "http" in fs.protocol else None
    return error if http is None else cast("Exception", http.http_error(error))


def _check_file(fs: Any, path: str, /) -> None:
    kind = _kind(fs, path)
    if kind is None:
        raise FileNotFoundError(path) from None
    if kind != "file":
        raise NotRegularError("is not a regular file") from None


def _make(fs: Any, folder: str, /) -> None:
    """Make a folder, and those above it. Others may do so too: each time that one is faster, one more is there."""
    for left in reversed(range(folder.count("/") + 1)):
        try:
            fs.makedirs(folder, exist_ok=True)
        except Exception:
            if _kind(fs, folder) is not None:
                return
            if not left:
                raise
        else:
            return


def _found(folder: str, path: str, info: Mapping[str, Any], /) -> Stat | None:
    """What a listing says of an entry; a folder's key ends in a slash. None: it is the folder itself."""
    # With one slash at the end at most: more than that is the name of something else.
    name = info["name"].removesuffix("/").rpartition("/")[2]
    if not name or info["name"].strip("/") == path.strip("/"):
        return None
    key = join(folder, name)
    if info["type"] == "file" and not info["name"].endswith("/"):
        return _stat_of(key, info)
    if info["type"] != "directory":
        return Stat(key, 0, None, None, instead="a symbolic link" if info["type"] == "link" else "no regular file")
    odd = re.search("[\ud800-\udfff]", name)  # which cannot be asked for
    return Stat(f"{key}/", 0, None, None, instead="a folder whose name is not UTF-8" if odd else "")


def _stat_of(key: str, info: Mapping[str, Any], /) -> Stat:
    modified = None
    with suppress(ValueError, OverflowError, OSError):  # no moment, or one that a calendar does not have
        modified = next(filter(None, map(_moment, map(info.get, _TIMES))), None)
    return Stat(key, int(info["size"] or 0), None, modified)


def _moment(value: object, /) -> datetime | None:
    match value:
        case datetime():
            return as_utc(value)
        case float() | int():
            return datetime.fromtimestamp(value, UTC)
        case str() if value[:14].isdigit() and len(value) >= 14:  # FTP (RFC 3659 section 2.3)
            return datetime.strptime(value[:14] + "Z", "%Y%m%d%H%M%S%z")
        case _:
            return None


async def open_backend(url: str, options: Mapping[str, object], /) -> FsspecBackend:
    """A storage on the filesystem that fsspec has for the URL's protocol. Options are that filesystem's own.

    The class is imported here, so a missing package is reported at once; the connection is made at the first call.

    Raises:
        ConfigError: as `filesystem_of`.
    """
    connect, root, parallel = await to_thread.run_sync(filesystem_of, url, options)
    return FsspecBackend(connect, root, parallel=parallel)
