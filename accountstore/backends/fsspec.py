"""Any other fsspec protocol as a storage: reads, writes, lists, and promises nothing more.

fsspec itself says of no operation whether it is atomic, exclusive or durable, so none of that is declared; a storage
with such abilities deserves a backend of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from anyio import to_thread

from accountstore.aio.abort import AbortHandle
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
from accountstore.backends.file_servers import TRIES, close, entries_of, is_ambiguous, is_lost, meaning, shut
from accountstore.backends.filesystems import filesystem_of
from accountstore.backends.logs import quiet
from accountstore.backends.walks import Rest, entries, stat_of, step
from accountstore.backends.web_pages import is_listing, links_to_a_document
from accountstore.errors import AccountStoreError

T = TypeVar("T")

_THREADS = 16
_PAGE = 64 << 10  # bytes that tell what a web page is
_MOST_READ = 4 << 20  # bytes of a document whose size is only known when it is read; a longer one counts as so long
_LOST = frozenset({BackendError, UnavailableError})  # after which the connection may be
_OF_DOCUMENTS = frozenset({NotFoundError, ExistsError, NotRegularError})


class FsspecBackend:
    """One filesystem instance, never from fsspec's shared cache, called in threads through its blocking methods.

    fsspec does not promise that a blocking filesystem may be used by two threads, so it gets one; an asynchronous one
    runs on fsspec's own event loop and takes many. Only methods that do not expand names are called. The next call
    connects anew after an error that means a lost connection, of a blocking one that may mean it, and after a blocking
    call that was given up: its connection is cut off, on FTP and SFTP, as the request of an asynchronous one is
    cancelled, so that it ends and sends nothing more.
    """

    capabilities: Capabilities = Capabilities(create=False, update=False, atomic=False, durable=False, folders=True)

    def __init__(self, connect: Callable[[], Any], root: str, /, *, parallel: bool) -> None:
        self._connect = connect
        self._connection: Lazy[Any] = Lazy(partial(_connect, connect))
        self._root = root.rstrip("/")
        self._parallel = parallel
        self._threads = ThreadPool(_THREADS if parallel else 1)

    def _leave(self, connection: Lazy[Any], /) -> Any:
        """Leave the connection to the call that is on it, or while it is made: the next call makes another. Its
        filesystem, if it was made.
        """
        if connection is self._connection:
            self._connection = Lazy(partial(_connect, self._connect))
        return connection.take()

    def _cut(self, connection: Lazy[Any], /) -> None:
        """End the call that is on the connection."""
        fs = self._leave(connection)
        shut(fs)
        run_alone(partial(close, fs))  # which may hang

    @contextmanager
    def _use(self, call: AbortHandle, /) -> Generator[Any]:
        """The filesystem, for one call."""
        connection = self._connection
        with quiet(), nullcontext() if self._parallel else call.aborted_by(partial(self._cut, connection)):
            fs = connection.get()
            if connection is not self._connection:  # the call was given up while it connected
                close(fs)
                raise UnavailableError("it was given up", sent=False)
            try:
                yield _Requests(fs, call) if fs.async_impl else fs
            except Exception as error:
                lost = is_lost(error) if self._parallel else classify_error(error) in _LOST
                if lost and not isinstance(error, AccountStoreError):
                    connection.drop(fs)
                    close(fs)
                told = _told(fs, meaning(error))
                if told is error:
                    raise
                raise told from None
            finally:
                if connection is not self._connection:  # a client may have connected anew
                    close(fs)

    async def _run(self, function: Callable[[AbortHandle], T], /) -> T:
        call = AbortHandle()
        return await self._threads.run(partial(function, call), call.abort)

    async def _change(self, function: Callable[[AbortHandle, Fence], T], /) -> T:
        call = AbortHandle()
        return await self._threads.run_fenced(partial(function, call), call.abort)

    def _path(self, key: str, /) -> str:
        return f"{self._root}/{key}" if key else self._root or "/"

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._run(partial(self._read, key, limit))

    def _read(self, key: str, limit: int, call: AbortHandle, /) -> Blob:
        path = self._path(key)
        with self._use(call) as fs:
            data = _content(fs, path, limit + 1)
        check_size(len(data), limit)
        return Blob(data, Stat(key, len(data), digest(data), None))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await self._change(partial(self._write, key, data))

    def _write(self, key: str, data: bytes, call: AbortHandle, fence: Fence, /) -> Stat:
        with self._use(call) as fs:
            _put(fs, self._path(key), data, fence)
        return Stat(key, len(data), digest(data), None)

    async def stat(self, key: str, /) -> Stat:
        return await self._run(partial(self._stat, key))

    def _stat(self, key: str, call: AbortHandle, /) -> Stat:
        with self._use(call) as fs:
            info = _info(fs, path := self._path(key))
            if info["type"] != "file":
                raise NotRegularError("is not a regular file")
            if info["size"] is None and "http" in fs.protocol:  # a server may tell only that of what is packed
                info = info | {"size": len(_content(fs, path, _MOST_READ))}
        return stat_of(key, info)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._change(partial(self._delete, key))

    def _delete(self, key: str, call: AbortHandle, fence: Fence, /) -> None:
        with self._use(call) as fs:
            _remove(fs, self._path(key), fence)

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return pages_by_cursor(partial(self._page, prefix, recursive))

    async def _page(self, prefix: str, recursive: bool, rest: Rest | None, /) -> tuple[list[Stat], Rest | None]:
        return await self._run(partial(self._last, prefix, recursive, rest or Rest([(prefix, ())])))

    def _last(self, prefix: str, recursive: bool, rest: Rest, call: AbortHandle, /) -> tuple[list[Stat], Rest | None]:
        """What is in the last of these folders, and what is left, if anything is."""
        folder = rest.folders[-1][0]
        path = self._path(folder)
        infos: Any = ()
        closed: list[Stat] = []
        with self._use(call) as fs:
            try:
                infos = entries_of(fs, path)
                if not infos and "http" in fs.protocol:
                    _check_listing(fs, path)
            except Exception as error:
                told = _told(fs, meaning(error))
                if isinstance(told, PermissionError) and folder != prefix:
                    closed.append(Stat(f"{folder}/", 0, None, None, instead="a folder that may not be read"))
                elif not isinstance(told, FileNotFoundError | NotADirectoryError):
                    raise
        found = entries(folder, path, infos)
        if not recursive:
            return [stat for stat, _ in found], None
        page, left = step(found, rest)
        return closed + page, left

    async def versioned(self) -> bool | None:
        return None

    async def versions(self, key: str, /) -> list[VersionInfo]:
        return only_version(await self.stat(key))

    async def usage(self) -> Usage | None:
        return None

    async def filesystem(self) -> tuple[object, str]:
        return await self._run(self._opened), self._root or "/"

    def _opened(self, call: AbortHandle, /) -> Any:
        with self._use(call):
            return self._connection.get()

    async def aclose(self) -> None:
        self._threads.close()
        await ThreadPool(1).run(partial(close, self._leave(self._connection)))  # whatever hangs in the others


class _Requests:
    """An asynchronous filesystem, for one call: what it is asked for is cancelled when the call is given up."""

    def __init__(self, fs: Any, call: AbortHandle, /) -> None:
        self._fs = fs
        self._call = call

    def __getattr__(self, name: str, /) -> Any:
        method = getattr(self._fs, name)
        if not iscoroutinefunction(getattr(method, "__wrapped__", None)):
            return method
        return partial(self.result, getattr(self._fs, f"_{name}"))  # of which fsspec makes the blocking one

    def result(self, request: Callable[..., Coroutine[Any, Any, T]], /, *arguments: Any, **options: Any) -> T:
        return self._call.result(partial(request, *arguments, **options), self._fs.loop)


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
            # What is cut off may leave a part of a file, so whoever gives up waits a moment for its end. Not on HTTP,
            # whose requests are whole.
            with nullcontext() if "http" in fs.protocol else fence:
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
    http: Any = import_module("accountstore.backends.http")
    return bytes(fs.result(http.first_bytes, fs, path, size))


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


async def open_backend(url: str, options: Mapping[str, object], /) -> FsspecBackend:
    """A storage on the filesystem that fsspec has for the URL's protocol. Options are that filesystem's own.

    The class is imported here, so a missing package is reported at once; the connection is made at the first call.

    Raises:
        ConfigError: as `filesystem_of`.
    """
    connect, root, parallel = await to_thread.run_sync(filesystem_of, url, options)
    return FsspecBackend(connect, root, parallel=parallel)
