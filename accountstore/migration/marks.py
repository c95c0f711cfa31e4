"""Marks: keyed hashes of versions, and their key. Blocking functions.

A version may be a digest of the document, which would let whoever knows the rest of it test guesses of its password; so
a journal keeps marks. Their key is not in the journal and not beside it, for whoever gets one would have the other: it
has a file of its own in the user's data folder, and the journal names it by a random id.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from msgspec import Struct

from accountstore.backends.base import Version
from accountstore.errors import JournalError
from accountstore.files import FileTooLargeError, open_file, read_open

_KEY_BYTES = 32


class Marks(Struct, frozen=True):
    """The key of a journal's marks. It does not show in `repr`."""

    key: bytes

    def __repr__(self) -> str:
        return "Marks(...)"

    def of(self, end: str, version: Version, /) -> bytes:
        """The mark of a version at one end, `"source"` or `"target"`."""
        token = version.token.encode("utf-8", "surrogatepass")
        return blake2b(token, key=self.key, digest_size=16, person=end.encode()).digest()

    def of_text(self, what: str, text: str, /) -> str:
        """The mark of something else, such as of where a storage is."""
        return blake2b(
            text.encode("utf-8", "surrogatepass"), key=self.key, digest_size=16, person=what.encode()
        ).hexdigest()


def new_marks() -> Marks:
    """A key that is kept nowhere."""
    return Marks(os.urandom(_KEY_BYTES))


def default_key_file(journal: str, /) -> str:
    """Where the key of a journal's marks is kept by default."""
    from platformdirs import user_data_dir

    return os.path.join(user_data_dir("accountstore", appauthor=False), "journal-keys", f"{journal}.key")


def read_key(path: str, /) -> bytes:
    """The key of a journal's marks.

    Raises:
        FileNotFoundError: it is not there.
        JournalError: it cannot be read, or is none.
    """
    try:
        with open_file(path) as file:
            key = bytes(read_open(file, limit=_KEY_BYTES))
    except FileNotFoundError:
        raise
    except FileTooLargeError:
        key = b""
    except OSError as error:
        raise JournalError(f"{path}: the key of the marks cannot be read ({error.strerror})") from None
    if len(key) != _KEY_BYTES:
        raise JournalError(f"{path}: is no key of a journal's marks")
    return key


def make_private(path: str, /) -> None:
    """Let nobody else read the file of a key that is known to be one. Raises `JournalError`."""
    try:
        found = os.stat(path)
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.chmod(path, 0o600)
    except OSError as error:
        raise JournalError(f"{path}: the key of the marks cannot be made private ({error.strerror})") from None


def make_key(path: str, /) -> bytes:
    """A new key, on the disk when this returns."""
    key = os.urandom(_KEY_BYTES)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            try:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.unlink(path)  # a part of a key would be refused for good
                raise
    except OSError as error:
        raise JournalError(f"{path}: the key of the marks cannot be written ({error.strerror})") from None
    return key
