"""Files that a configuration or a command names. Blocking functions, which wait for nobody at a pipe's other end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any

from accountstore.errors import ConfigError
from accountstore.secrets import SecretBytes

MAX_FILE = 16 * 1024 * 1024
"""Bytes of a file, where nothing else is said."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ACL = "system.posix_acl_access"
_WITHOUT_ACL = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularFileError(OSError):
    """A pipe, a socket or a device stands there."""


class FileTooLargeError(OSError):
    """The file is larger than what it is read for can be."""


def tables_of(text: str, /) -> dict[str, Any]:
    """The tables of a TOML text. Raises `ConfigError`."""
    from tomllib import loads

    try:
        return loads(text)
    except RecursionError:
        raise ConfigError("is nested too deep") from None
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        raise ConfigError(str(error)) from None


def read_file(path: str | os.PathLike[str], /, *, limit: int = MAX_FILE) -> SecretBytes:
    """The contents of a regular file.

    Raises `OSError`: it cannot be opened, is not regular, or has more than `limit` bytes.
    """
    with open_file(path) as file:
        return read_open(file, limit=limit)


def read_open(file: BufferedReader, /, *, limit: int = MAX_FILE) -> SecretBytes:
    """The contents of a file that `open_file` has opened. Raises `OSError`."""
    data = SecretBytes(file.read(limit + 1))
    if len(data) > limit:
        raise FileTooLargeError(errno.EFBIG, f"has more than {limit} bytes")
    return data


def check_private(file: BufferedReader, /, *, readable: bool = False) -> None:
    """Raise `ConfigError` where others than its owner can write a file that is open, or read it unless `readable`."""
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    read = stat.S_IRGRP | stat.S_IROTH if readable else 0
    if os.name == "posix" and mode & _OTHERS & ~read:
        raise ConfigError(f"others may read or write it ({mode:04o}): chmod 600")


def open_file(path: str | os.PathLike[str], /) -> BufferedReader:
    """A regular file, open for reading. Raises `OSError`."""
    try:
        file = open(path, "rb", opener=_open)  # noqa: SIM115 -- the caller closes it
    except ValueError:  # such as a NUL in the path
        raise FileNotFoundError(errno.ENOENT, "is no path") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegularFileError(errno.EINVAL, "is not a regular file")
    return file


def _open(path: str, flags: int, /) -> int:
    return os.open(path, flags | _FLAGS)


@contextmanager
def locked(folder: str, /) -> Generator[None]:
    """A folder, which is made where there is none, for one at a time; on Windows, which has no such lock, for all.

    Raises `OSError`.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def written_beside(path: str, data: bytes, /) -> Generator[str]:
    """A new file, on the disk already, that may take the place of another in one step: with its owner and mode, and
    where there is none yet, the user's alone. One that has not is removed.

    Raises `OSError`.
    """
    from tempfile import mkstemp

    descriptor, temporary = mkstemp(prefix=".accountstore-", dir=os.path.dirname(path))  # 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            own_as(path, descriptor)
            os.fsync(descriptor)
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def own_as(path: str, descriptor: int, /) -> None:
    """Give a new file what `take_over` does of the one that it replaces, so that a service can still read what root has
    changed.

    Raises `OSError`.
    """
    if os.name == "posix":
        with suppress(FileNotFoundError), open_file(path) as before:
            take_over(descriptor, before.fileno())


def take_over(descriptor: int, before: int, /, calls: Any = os) -> None:
    """Give a new file owner, group, mode and POSIX ACL of the open one that it replaces, as far as this process may.
    `calls` are its system calls.

    Raises `OSError`.
    """
    old, new = calls.fstat(before), calls.fstat(descriptor)
    same = (new.st_uid, new.st_gid, new.st_mode) == (old.st_uid, old.st_gid, old.st_mode)
    if same and not old.st_mode & stat.S_IRWXG:  # which are the mask of an ACL: it lets nobody in
        return
    acl = _acl_of(before, calls)
    if same and acl == _acl_of(descriptor, calls):
        return
    for owner in (old.st_uid, -1):
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):  # in a user namespace also EINVAL, of an owner that it does not map
                calls.fchown(descriptor, owner, old.st_gid)
                break
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if calls.fstat(descriptor).st_gid != old.st_gid or not _takes_acl(descriptor, acl, calls):
        mode &= ~stat.S_IRWXG  # which the other group was given, or those whom the ACL names
    calls.fchmod(descriptor, mode)
    calls.fsync(descriptor)


def _acl_of(descriptor: int, calls: Any, /) -> bytes | None:
    """The ACL of an open file; None where it has none, or the system has no such."""
    try:
        return calls.getxattr(descriptor, _ACL) if hasattr(os, "getxattr") else None
    except OSError as error:
        if error.errno in _WITHOUT_ACL:
            return None
        raise


def _takes_acl(descriptor: int, acl: bytes | None, calls: Any, /) -> bool:
    """Give an open file an ACL, or none, and say whether it has it."""
    with suppress(OSError):
        if acl is not None:
            calls.setxattr(descriptor, _ACL, acl)
        elif _acl_of(descriptor, calls) is not None:  # one of the folder's
            calls.removexattr(descriptor, _ACL)
        return True
    return False
