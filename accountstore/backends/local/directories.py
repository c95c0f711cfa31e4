"""Folders under one root, by directory descriptors: private, durable, and never through a symbolic link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from accountstore.backends.base import UnavailableError
from accountstore.backends.local.syscalls import Descriptor, SystemCalls, mount_of, set_mode

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _ROOT | os.O_NOFOLLOW
_UNREADABLE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMEMBERED_FOLDERS = 10_000


class Directories:
    """Opens folders, each from the root down, and makes those that are missing.

    `sweep` is called with each name in a folder that is prepared for the first time.
    """

    def __init__(self, root: str, calls: SystemCalls, sweep: Callable[[int, str], object] | None, mode: int, /) -> None:
        """`mode` is that of the folders that are made."""
        self._root = root
        self._os = calls
        self._sweep = sweep
        self._mode = mode
        self._ready: dict[str, tuple[int, int]] = {}
        self._home: tuple[tuple[int, int], int] | None = None

    def make_root(self) -> None:
        """Create the root, and the folders above it that are missing, private and durably."""
        above = "/"
        for segment in self._root.strip("/").split("/"):
            path = os.path.join(above, segment)
            made = False
            with suppress(FileExistsError):
                self._make(path, None).close()
                made = True
            # Also of what exists: whoever made it may not have reached its fsync. But where this process may not look
            # into a folder, it has not made one there; and not every kind of file system can fsync a folder.
            with suppress(PermissionError if made else OSError), Descriptor(self._os, above, _ROOT) as fd:
                self._os.fsync(fd)
            above = path
        self._open_root().close()

    def _open_root(self) -> Descriptor:
        try:
            at = Descriptor(self._os, self._root, _ROOT)
        except (FileNotFoundError, NotADirectoryError):
            raise UnavailableError("the root folder of the storage is gone", sent=False) from None
        if self._home is not None:
            self._require_mount(at, *self._home)
        return at

    def stay(self) -> None:
        """From now on, refuse a root that is another folder on another mount: what was mounted is gone, and what is
        below shows, or has been covered. A folder that takes the root's place, and the same one mounted again, are as
        good.
        """
        with suppress(OSError):
            at = self._open_root()
            self._home = self._inode(at), mount_of(at.fd)
            at.close()

    def _require_mount(self, at: Descriptor, inode: tuple[int, int], mount: int, /) -> None:
        """Raise `UnavailableError`, and close it, unless an open root is as good as that of the store's opening."""
        now = self._inode(at)
        if now == inode:
            return
        if now[1] != inode[1] and mount_of(at.fd) != mount:
            at.close()
            what = "the root folder of the storage is on another mount than when it was opened"
            raise UnavailableError(f"{what}: mount it again, or open the store anew", sent=False)
        self._home = now, mount_of(at.fd)

    def open(self, folder: str, /) -> Descriptor:
        """A folder, opened."""
        at = self._open_root()
        for segment in folder.split("/") if folder else ():
            with at as above:
                at = Descriptor(self._os, segment, _FOLDER, above)
        return at

    def require(self, folder: str, /) -> None:
        """Raise an `OSError` unless the folder is there, or was when it was prepared."""
        if folder not in self._ready:
            self.open(folder).close()

    def prepare(self, folder: str, /) -> Descriptor:
        """Open a folder to write in. The first time, make it, make its name durable and sweep it."""
        if folder in self._ready:
            with suppress(FileNotFoundError):
                at = self.open(folder)
                if self._inode(at) == self._ready.get(folder):
                    return at
                at.close()  # others have made it anew, and its name may not be durable
        at = self._open_root()
        for segment in folder.split("/") if folder else ():
            with at as above:
                at = self._enter_or_make(above, segment)
        inode = self._inode(at)
        try:
            if self._sweep is not None:
                with self._os.scandir(at.fd) as entries:
                    for entry in entries:
                        self._sweep(at.fd, entry.name)
        except BaseException:
            at.close()
            raise
        if len(self._ready) >= _REMEMBERED_FOLDERS:
            self._ready.clear()
        self._ready[folder] = inode
        return at

    def _inode(self, at: Descriptor, /) -> tuple[int, int]:
        """Which folder an open one is. Closes it on an error."""
        try:
            status = self._os.fstat(at.fd)
        except BaseException:
            at.close()
            raise
        return status.st_dev, status.st_ino

    def _enter_or_make(self, above: int, segment: str, /) -> Descriptor:
        try:
            at = Descriptor(self._os, segment, _FOLDER, above)
        except FileNotFoundError:
            try:
                at = self._make(segment, above)
            except FileExistsError:
                at = Descriptor(self._os, segment, _FOLDER, above)
        try:
            # Also of one that exists: whoever made it may not have reached its fsync.
            self._os.fsync(above)
        except BaseException:
            at.close()
            raise
        return at

    def _make(self, path: str, above: int | None, /) -> Descriptor:
        """Make a folder, with its mode whatever the umask; its group is passed on where the folder above says so."""
        self._os.mkdir(path, self._mode, dir_fd=above)
        try:
            at = Descriptor(self._os, path, _FOLDER, above)
        except PermissionError:  # the umask takes the owner's own bits
            with Descriptor(self._os, path, _UNREADABLE, above) as fd:
                self._os.chmod(f"/proc/self/fd/{fd}", self._mode)
            at = Descriptor(self._os, path, _FOLDER, above)
        try:
            has = stat.S_IMODE(self._os.fstat(at.fd).st_mode)
            mode = self._mode | (has & stat.S_ISGID)
            if has != mode:
                set_mode(self._os, at.fd, mode)
        except BaseException:
            at.close()
            raise
        return at
