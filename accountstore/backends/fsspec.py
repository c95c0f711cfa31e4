"""Any other fsspec protocol as a storage: reads, writes, lists, and promises nothing more.

fsspec itself says of no operation whether it is atomic, exclusive or durable, so none of that is declared; a storage
with such abilities deserves a backend of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from accountstore.backends.base import Blob, Capabilities, Stat, classify_oserror, digest
from accountstore.backends.threads import Pages, Threads
from accountstore.errors import ConfigError, NotRegularError
from accountstore.validation import check_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from accountstore.backends.base import Version, Write, WriteMode
    from accountstore.errors import BackendError

__all__ = ("FsspecBackend", "open_backend")

_BATCH = 16
_THREADS = 16
# The names under which fsspec's filesystems give a modification time.
_TIMES = ("mtime", "last_modified", "LastModified", "modified", "updated", "modify")


class FsspecBackend:
    """One filesystem instance, never from fsspec's shared cache, called in threads through its blocking methods.

    fsspec does not promise that a blocking filesystem may be used by two threads, so it gets one at a time; an
    asynchronous one runs on fsspec's own event loop and takes many. Only methods that do not expand names are called.
    """

    def __init__(self, connect: Callable[[], Any], root: str, /, *, parallel: bool) -> None:
        self._connect = connect
        self._connected: Any = None
        self._connecting = Lock()
        self._root = root.rstrip("/")
        self._folders: set[str] = set()
        self._threads = Threads(_THREADS if parallel else 1)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create=False, update=False, atomic=False, durable=False, batch=_BATCH)

    def _fs(self) -> Any:
        with self._connecting:
            if self._connected is None:
                self._connected = self._connect()
                self._connected.dircache.use_listings_cache = False
            return self._connected

    def _path(self, key: str, /) -> str:
        return f"{self._root}/{key}" if key else self._root or "/"

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._threads.read(partial(self._read, key, limit))

    def _read(self, key: str, limit: int, /) -> Blob:
        fs, path = self._fs(), self._path(key)
        try:
            data: bytes = fs.cat_file(path, start=0, end=limit + 1)
        except Exception:
            if fs.exists(path):
                raise
            raise FileNotFoundError(path) from None
        check_size(len(data), limit)
        return Blob(data, Stat(key, len(data), digest(data), None))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await self._threads.read(lambda: [_attempt(self._read, key, limit) for key in keys])

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode) -> Stat:
        return await self._threads.write(partial(self._write, key, data))

    def _write(self, key: str, data: bytes, /) -> Stat:
        fs, path = self._fs(), self._path(key)
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            fs.makedirs(folder, exist_ok=True)
            self._folders.add(folder)
        try:
            fs.pipe_file(path, data)
        except FileNotFoundError:
            fs.makedirs(folder, exist_ok=True)
            fs.pipe_file(path, data)
        return Stat(key, len(data), digest(data), None)

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await self._threads.write(lambda: [_attempt(self._write, key, data) for key, data, _ in writes])

    async def stat(self, key: str, /) -> Stat:
        return await self._threads.read(partial(self._stat, key))

    def _stat(self, key: str, /) -> Stat:
        info = self._fs().info(self._path(key))
        if info["type"] != "file":
            raise NotRegularError("is not a regular file")
        return Stat(key, int(info["size"]), None, _modified(info))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._threads.write(partial(self._delete, key))

    def _delete(self, key: str, /) -> None:
        fs, path = self._fs(), self._path(key)
        try:
            fs.rm_file(path)
        except Exception:
            if fs.exists(path):
                raise

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return Pages(self._threads, self._scan(prefix, recursive=recursive))

    def _scan(self, prefix: str, /, *, recursive: bool) -> Iterator[list[Stat]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                entries = self._fs().ls(self._path(folder), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                continue
            page: list[Stat] = []
            for info in entries:
                name = info["name"].rstrip("/").rpartition("/")[2]
                key = f"{folder}/{name}" if folder else name
                if info["type"] == "file":
                    page.append(Stat(key, int(info["size"]), None, _modified(info)))
                elif recursive and info["type"] == "directory":
                    folders.append(key)
            yield page

    def classify(self, error: Exception, /) -> type[BackendError]:
        return classify_oserror(error)

    def filesystem(self) -> tuple[object, str]:
        return self._fs(), self._root or "/"

    async def aclose(self) -> None:
        if self._connected is not None:
            await self._threads.write(partial(_close, self._connected))


def _attempt(call: Callable[..., Any], /, *arguments: object) -> Any:
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001 -- an error is a result here
        return error


def _close(fs: Any, /) -> None:
    """Close what fsspec's filesystems hold open: most have no close() of their own, but clients that do."""
    for name in ("ftp", "client"):
        client = getattr(fs, name, None)
        if client is not None and hasattr(client, "close"):
            client.close()
            return


def _modified(info: Mapping[str, Any], /) -> datetime | None:
    for name in _TIMES:
        match info.get(name):
            case datetime() as moment:
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            case float() | int() as seconds:
                return datetime.fromtimestamp(seconds, UTC)
            case _:
                pass
    return None


async def open_backend(url: str, options: Mapping[str, object], /) -> FsspecBackend:
    """A storage on the filesystem that fsspec has for the URL's protocol. Options are that filesystem's own.

    The class is imported here, so a missing package is told at once; the connection is made at the first call.

    Raises:
        ConfigError: fsspec does not know the protocol, a package is missing, or URLs are chained.
    """
    return await to_thread.run_sync(_open, url, options)


def _open(url: str, options: Mapping[str, object], /) -> FsspecBackend:
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    if "::" in url:
        raise ConfigError("chained URLs are not supported: what a cache shows may be older than what was written")
    protocol = url.partition("://")[0]
    try:
        kind: Any = get_filesystem_class(protocol)
    except ImportError:
        hint = str(known_implementations.get(protocol, {}).get("err", "install the package that provides it"))
        raise ConfigError(f"the protocol {protocol!r} needs a package that is not installed: {hint}") from None
    except ValueError:
        from accountstore.validation import near_miss

        raise ConfigError(f"unknown scheme {protocol!r}{near_miss(protocol, known_implementations)}") from None
    connect = partial(kind, **{**kind._get_kwargs_from_urls(url), **options}, skip_instance_cache=True)  # noqa: SLF001 -- the only way that fsspec offers
    return FsspecBackend(connect, kind._strip_protocol(url), parallel=kind.async_impl)  # noqa: SLF001 -- as above
