"""A list of documents in a file: a name a line, or lines of JSON as `--json` prints them."""

from __future__ import annotations

import sys

import msgspec

from accountstore import ConfigError
from accountstore.files import read_file

__all__ = ("read_names",)

_MAX_NAMES = 256 * 1024 * 1024


class _Line(msgspec.Struct):
    """What a line of JSON says. The last one, of the run, has totals and no name."""

    name: str | None = None
    totals: object = None


def read_names(path: str, /) -> tuple[str, ...]:
    """The names of a file; `-` is the standard input. A report of a run without problems has none.

    A line ends with a line feed alone, as a name may have other separators in it (U+0085, U+2028).

    Raises:
        ConfigError: a line is none, and the message has its number; or the file is empty, or cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else read_file(path, limit=_MAX_NAMES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise ConfigError(f"{path}: is empty: is it the list that was meant?")
    lines = enumerate(data.split(b"\n"), 1)
    return tuple(filter(None, (_name_in(line.removesuffix(b"\r"), f"{path}, line {number}") for number, line in lines)))


def _name_in(line: bytes, where: str, /) -> str:
    try:
        if line.startswith(b"{") and line.endswith(b"}"):  # no document's name ends so
            told = msgspec.json.decode(line, type=_Line)
            if told.name is not None or told.totals is not None:
                return told.name or ""
        else:
            return line.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise ConfigError(f"{where}: is neither a name nor a line of JSON with a `name`, in UTF-8")
