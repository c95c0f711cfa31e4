"""Documents in this process's memory, private to one store: `memory://`. The reference for every other backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from anyio.lowlevel import RunVar, checkpoint
from fsspec.implementations.memory import MemoryFileSystem
from msgspec.structs import replace

from accountstore.backends.base import (
    Blob,
    Capabilities,
    ConfigError,
    ConflictError,
    ExistsError,
    NotFoundError,
    Stat,
    Usage,
    Version,
    VersionInfo,
    WriteMode,
    check_size,
    digest,
    only_version,
    pages_of,
)
from accountstore.turns import Turns

_PAGE = 1000
_CONCURRENCY = 64
_SMALL = 4096
"""So many bytes take no time to digest."""
_TURNS: RunVar[Turns] = RunVar("accountstore_memory_turns")
"""Of an event loop: one backend may be used on several, one after another."""


class MemoryBackend:
    """An fsspec memory filesystem of its own: by default, fsspec shares one among all of a process.

    Every operation is one step after a checkpoint, so all of them are atomic among tasks. A version is the digest of
    the content, which whoever has the filesystem may change at any time: it is told anew for each read.
    """

    def __init__(self) -> None:
        self._fs: Any = MemoryFileSystem(skip_instance_cache=True)
        self._fs.store = {}
        self._fs.pseudo_dirs = [""]

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            create=True,
            update=True,
            atomic=True,
            durable=False,
            write_tokens=True,
            certain=True,
            concurrency=_CONCURRENCY,
            folders=True,
        )

    def _find(self, key: str, /) -> Blob:
        try:
            file = self._fs.store[f"/{key}"]
        except KeyError:
            raise NotFoundError("there is no such document") from None
        data = file.getvalue()
        return Blob(data, Stat(key, len(data), digest(data), file.modified))

    def _compare(self, key: str, version: Version, /) -> None:
        if self._find(key).stat.version != version:
            raise ConflictError("the document has changed since it was read")

    def _large(self, key: str, /) -> int:
        """The size of a document that takes a while to digest; 0 for any other."""
        file = self._fs.store.get(f"/{key}")
        return 0 if file is None or file.size <= _SMALL else file.size

    async def read(self, key: str, /, *, limit: int) -> Blob:
        await checkpoint()
        if size := self._large(key):
            check_size(size, limit)
            await _turn(size)
        blob = self._find(key)
        check_size(blob.stat.size, limit)
        return blob

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        await checkpoint()
        if isinstance(mode, Version) and (size := self._large(key)):
            await _turn(size)
        if mode == "create" and f"/{key}" in self._fs.store:
            raise ExistsError("there is a document already")
        if isinstance(mode, Version):
            self._compare(key, mode)
        self._fs.pipe_file(f"/{key}", data)
        self._fs.store[f"/{key}"].write_token = write_token or None
        return Stat(key, len(data), digest(data), self._fs.store[f"/{key}"].modified)

    async def stat(self, key: str, /) -> Stat:
        await checkpoint()
        if size := self._large(key):
            await _turn(size)
        return replace(self._find(key).stat, write_token=getattr(self._fs.store[f"/{key}"], "write_token", None))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await checkpoint()
        if version is not None and (size := self._large(key)):
            await _turn(size)
        if f"/{key}" in self._fs.store:
            if version is not None:
                self._compare(key, version)
            self._fs.rm_file(f"/{key}")

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        found = _scan(list(self._fs.store.items()), f"/{prefix}/" if prefix else "/", recursive=recursive)
        return pages_of(iter(lambda: list(islice(found, _PAGE)), []))

    async def versioned(self) -> bool | None:
        return False

    async def versions(self, key: str, /) -> list[VersionInfo]:
        return only_version(await self.stat(key))

    async def usage(self) -> Usage | None:
        return None

    async def filesystem(self) -> tuple[object, str]:
        return self._fs, "/"

    async def aclose(self) -> None:
        self._fs.store.clear()


async def _turn(size: int, /) -> None:
    """Wait for a turn of the event loop that has room to digest so many bytes."""
    try:
        turns = _TURNS.get()
    except LookupError:
        _TURNS.set(turns := Turns())
    await turns.take(size)


def _scan(files: Sequence[tuple[str, Any]], start: str, /, *, recursive: bool) -> Iterator[Stat]:
    folders: set[str] = set()
    for path, file in files:
        if path.startswith(start):
            folder, slash, _ = path[len(start) :].partition("/")
            if recursive or not slash:
                yield Stat(path[1:], file.size, None, file.modified)
            elif folder not in folders:
                folders.add(folder)
                yield Stat(f"{start[1:]}{folder}/", 0, None, None)


async def open_backend(url: str, options: Mapping[str, object], /) -> MemoryBackend:
    """Open an empty storage. There are no options, and the URL has no path."""
    if options:
        raise ConfigError(f"a memory storage has no options, but got {', '.join(sorted(options))}")
    return MemoryBackend()
