"""What somebody would write without the library: the least code that is as safe on disk, and no safer elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from benchmarks.samples import PlainAccount, PlainMultiAccount

__all__ = ("get", "save")

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def save(folder: str, name: str, document: PlainAccount | PlainMultiAccount, /) -> None:
    """Encode, write a passing file, fsync it, rename it, fsync the folder. Blocking: for one thread hop."""
    data = _encoder.encode(document)
    passing = f"{folder}/{name}.{os.urandom(8).hex()}.tmp"
    fd = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(passing, f"{folder}/{name}")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def get(folder: str, name: str, decoder: msgspec.json.Decoder[T], /) -> T:
    """Open, read, decode. Blocking: for one thread hop."""
    with open(f"{folder}/{name}", "rb") as file:
        return decoder.decode(file.read())
