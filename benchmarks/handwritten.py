"""What somebody would write without the library: as safe on disk, and no safer elsewhere."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from benchmarks.samples import PlainAccount, PlainMultiAccount

__all__ = ("get", "save", "save_by_tempfile")

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def save(folder: str, name: str, document: PlainAccount | PlainMultiAccount, /) -> None:
    """Encode, write a passing file, fsync it, rename it, fsync the folder, in the fewest steps. For one thread hop."""
    data = _encoder.encode(document)
    passing = f"{folder}/{name}.{os.urandom(8).hex()}.tmp"
    fd = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(passing, f"{folder}/{name}")
    _fsync_folder(folder)


def save_by_tempfile(folder: str, name: str, document: PlainAccount | PlainMultiAccount, /) -> None:
    """The same by the standard library's `tempfile`, and with nothing left behind by an error."""
    data = _encoder.encode(document)
    fd, passing = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(passing, f"{folder}/{name}")
    except BaseException:
        os.unlink(passing)
        raise
    _fsync_folder(folder)


def _fsync_folder(folder: str, /) -> None:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def get(folder: str, name: str, decoder: msgspec.json.Decoder[T], /) -> T:
    """Open, read, decode. For one thread hop."""
    with open(f"{folder}/{name}", "rb") as file:
        return decoder.decode(file.read())
