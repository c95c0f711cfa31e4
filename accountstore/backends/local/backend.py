"""A folder of the local machine as a storage: `file:///path`, on POSIX systems."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial

from anyio import to_thread

from accountstore.aio.threads import Fence, ThreadPool, pages_in_threads
from accountstore.backends.base import (
    Blob,
    Capabilities,
    ConfigError,
    Stat,
    Usage,
    Version,
    VersionInfo,
    Write,
    WriteMode,
    only_version,
)
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import filesystem_type
from accountstore.validation import did_you_mean

_BATCH = 128
_THREADS = 32
_READERS = 2
_CONCURRENCY = 64
_OPTIONS = ("file_mode", "follow_links", "folder_mode")

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
            create=files.links,
            update=files.locking,
            atomic=True,
            durable=True,
            certain=True,
            concurrency=_CONCURRENCY,
            batch=_BATCH,
            folders=True,
        )

    async def read(self, key: str, /, *, limit: int) -> Blob:
        return await self._threads.run(partial(self._files.read, key, limit=limit))

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        return await self._readers.run(partial(self._files.read_many, keys, limit=limit))

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        return await self._threads.run_fenced(partial(self._files.write, key, data, mode))

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        return await self._threads.run_fenced(partial(self._write_many, writes))

    def _write_many(self, writes: Sequence[Write], fence: Fence, /) -> list[Stat | Exception]:
        return self._files.write_many(writes, fence.of)

    async def stat(self, key: str, /) -> Stat:
        return await self._threads.run(partial(self._files.stat, key))

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        await self._threads.run_fenced(partial(self._files.delete, key, version))

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return pages_in_threads(self._threads, self._files.scan(prefix, recursive=recursive))

    async def versioned(self) -> bool | None:
        return False

    async def versions(self, key: str, /) -> list[VersionInfo]:
        return only_version(await self.stat(key))

    async def usage(self) -> Usage | None:
        return await self._threads.run(self._files.usage)

    async def filesystem(self) -> tuple[object, str]:
        await self._threads.run(self._files.require_root)
        return await to_thread.run_sync(_filesystem), self._files.root

    async def aclose(self) -> None:
        self._threads.close()
        self._readers.close()


def _filesystem() -> object:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(auto_mkdir=True, skip_instance_cache=True)


async def open_backend(url: str, options: Mapping[str, object], /, *, read_only: bool = False) -> LocalBackend:
    """Open the folder that `url` names, making it if it is missing; with `read_only`, as it is.

    Options: `file_mode` and `folder_mode`, the modes of documents and folders that are made (0600 and 0700 without
    them), as a number or as text such as `"0640"`; `follow_links`, whether symbolic links are read that stay inside the
    folder, as in a mounted secret volume.

    Raises:
        ConfigError: an option is not known or has a value that cannot be meant.
    """
    for name in options:
        if name not in _OPTIONS:
            raise ConfigError(f"options: unknown {name!r}{did_you_mean(name, _OPTIONS)}")
    follow_links = options.get("follow_links", False)
    if not isinstance(follow_links, bool):
        raise ConfigError("options: 'follow_links' must be true or false")
    make = partial(
        Files,
        file_mode=_mode("file_mode", options, 0o600),
        folder_mode=_mode("folder_mode", options, 0o700),
        follow_links=follow_links,
    )
    return await to_thread.run_sync(_open, url, make, read_only)


def _mode(name: str, options: Mapping[str, object], least: int, /) -> int:
    value = options.get(name, least)
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if not isinstance(mode, int) or mode & least != least or not 0 <= mode <= 0o777:
        raise ConfigError(f"options: {name!r} must be a mode such as '{least:04o}', which leaves the owner all")
    return mode


def _open(url: str, make: Callable[..., Files], read_only: bool, /) -> LocalBackend:
    root = os.path.realpath(os.path.expanduser(re.sub("(?i)^(file|local)://", "", url)))
    files = make(root)
    if os.path.lexists(root) and not os.path.isdir(root):
        raise ConfigError(f"url: what stands there is no folder [{root}]")
    if not read_only:
        files.make_root()
    elif not os.path.isdir(root):
        raise ConfigError(f"url: there is no such folder, and a read-only storage makes none [{root}]")
    kind = filesystem_type(root) or ""
    # What is read only is not swept of temporary files either.
    locking = not read_only and kind not in _NETWORK and kind.partition(".")[0] != "fuse"
    rereads = kind in {"tmpfs", "ramfs"}
    files = make(root, locking=locking, links=read_only or files.has_links(), rereads=rereads)
    files.stay()
    return LocalBackend(files)
