"""A folder of the local machine as a storage: `file:///path`, on POSIX systems."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

from anyio import to_thread

from accountstore.aio.threads import ThreadPool, pages_in_threads
from accountstore.backends.base import Blob, Capabilities, ConfigError, Stat, Version, Write, WriteMode
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import filesystem_type

_BATCH = 128
_THREADS = 32
_READERS = 2

# File systems whose locks and caches do not carry compare-and-swap between machines; FUSE's count as such.
_NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"]
)


class LocalBackend:
    """Documents as files, 0600 in folders 0700, through `accountstore.backends.local.files.Files`.

    A version is the digest of the content. On a network file system `update` is not declared.
    """

    def __init__(self, files: Files, /) -> None:
        self._files = files
        self._threads = ThreadPool(_THREADS)
        # Reading many small files keeps the interpreter busy: more threads would only wait for one another.
        self._readers = ThreadPool(_READERS)
        self.capabilities: Capabilities = Capabilities(
            create=True, update=files.locking, atomic=True, durable=True, batch=_BATCH
        )

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._threads.run(partial(self._files.read, key, limit=limit))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await self._readers.run(partial(self._files.read_many, keys, limit=limit))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await self._threads.run(partial(self._files.write, key, data, mode))

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await self._threads.run(partial(self._files.write_many, writes))

    async def stat(self, key: str, /) -> Stat:
        return await self._threads.run(partial(self._files.stat, key))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._threads.run(partial(self._files.delete, key, version))

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return pages_in_threads(self._threads, self._files.scan(prefix, recursive=recursive))

    async def versioned(self) -> bool | None:
        return False

    async def filesystem(self) -> tuple[object, str]:
        return await to_thread.run_sync(_filesystem), self._files.root

    async def aclose(self) -> None:
        self._threads.close()
        self._readers.close()


def _filesystem() -> object:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(auto_mkdir=True, skip_instance_cache=True)


async def open_backend(url: str, options: Mapping[str, object], /) -> LocalBackend:
    """Open the folder that `url` names, making it if it is missing. There are no options."""
    if options:
        raise ConfigError(f"a local storage has no options, but got {', '.join(sorted(options))}")
    return await to_thread.run_sync(_open, url)


def _open(url: str, /) -> LocalBackend:
    root = os.path.realpath(os.path.expanduser(url.removeprefix("file://").removeprefix("local://")))
    Files(root).make_root()
    kind = filesystem_type(root) or ""
    return LocalBackend(Files(root, locking=kind not in _NETWORK and kind.partition(".")[0] != "fuse"))
