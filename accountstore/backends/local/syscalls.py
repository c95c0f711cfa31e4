"""The system calls of the local backend, and what the machine says of a file system."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from accountstore.errors import DeniedError


def _fsync(fd: int, /) -> None:
    if sys.platform == "darwin":
        # fsync() there leaves the data in the drive's cache (Apple's manual page of fsync).
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


class SystemCalls:
    """The system calls of `accountstore.backends.local.files`, in one place for tests to count, break and model."""

    open: staticmethod[..., int] = staticmethod(os.open)
    close: staticmethod[[int], None] = staticmethod(os.close)
    read: staticmethod[[int, int], bytes] = staticmethod(os.read)
    write: staticmethod[[int, bytes | memoryview], int] = staticmethod(os.write)
    fsync: staticmethod[[int], None] = staticmethod(_fsync)
    fstat: staticmethod[[int], os.stat_result] = staticmethod(os.fstat)
    fchmod: staticmethod[[int, int], None] = staticmethod(os.fchmod)
    fchown: staticmethod[[int, int, int], None] = staticmethod(os.fchown)
    chmod: staticmethod[..., None] = staticmethod(os.chmod)
    if sys.platform == "linux":
        getxattr: staticmethod[..., bytes] = staticmethod(os.getxattr)
        setxattr: staticmethod[..., None] = staticmethod(os.setxattr)
        removexattr: staticmethod[..., None] = staticmethod(os.removexattr)
    flock: staticmethod[[int, int], None] = staticmethod(fcntl.flock)
    stat: staticmethod[..., os.stat_result] = staticmethod(os.stat)
    mkdir: staticmethod[..., None] = staticmethod(os.mkdir)
    link: staticmethod[..., None] = staticmethod(os.link)
    rename: staticmethod[..., None] = staticmethod(os.rename)
    unlink: staticmethod[..., None] = staticmethod(os.unlink)
    readlink: staticmethod[..., Any] = staticmethod(os.readlink)
    sleep: staticmethod[[float], None] = staticmethod(time.sleep)
    scandir: staticmethod[[int], AbstractContextManager[Iterator[os.DirEntry[str]]]] = staticmethod(os.scandir)


class Descriptor:
    """An open file or folder, which the end of its `with` block closes.

    One that `locks` is unlocked before: closing alone would leave its lock to a child forked meanwhile.
    """

    __slots__ = ("_calls", "_locks", "fd")

    def __init__(
        self, calls: SystemCalls, path: str, flags: int, at: int | None = None, mode: int = 0, /, *, locks: bool = False
    ) -> None:
        self.fd: int = calls.open(path, flags, mode, dir_fd=at)
        self._calls = calls
        self._locks = locks

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. An error here says nothing new of a write: `fsync` came before."""
        try:  # suppress() costs more, and every call closes several times
            try:
                if self._locks:
                    self._calls.flock(self.fd, fcntl.LOCK_UN)
            finally:
                self._calls.close(self.fd)
        except OSError:
            pass


def set_mode(calls: SystemCalls, fd: int, mode: int, /) -> None:
    """Give a new file or folder its mode. Raises `DeniedError` where the file system has modes of its own, as vfat."""
    try:
        calls.fchmod(fd, mode)
    except PermissionError:
        has = stat.S_IMODE(calls.fstat(fd).st_mode)
        what = f"file_mode and folder_mode must be as the file system has fixed them (here {has:04o})"
        raise DeniedError(what) from None


def filesystem_type(path: str, /, *, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that holds `path`, as Linux names it in proc(5); None where it does not say."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            fields = line.split()
            if len(fields) > 2 and fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return None


def mount_of(fd: int, /) -> int:
    """A number of the mount that an open file is on, as Linux has it in proc(5); elsewhere that of its device."""
    with suppress(OSError), open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return int(line[len("mnt_id:") :])
    return os.fstat(fd).st_dev
