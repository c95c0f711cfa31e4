"""Tokens and ETags: signed with keys that all replicas share, so that any of them takes what another gave."""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence

from itsdangerous import BadSignature, TimestampSigner

from accountstore import Secret, Version

__all__ = ("ETags", "Tokens")

_SALT = "accountstore.gateway.token"
_ETAG_KEY = b"accountstore.gateway.etag"
_MAX_TOKEN = 400
_SKEW = 60
"""Seconds by which the clock of the replica that has signed may be ahead of another's."""


class Tokens:
    """Signs a client's name with the time, and reads it back while it is fresh. Nothing is kept of what was signed."""

    def __init__(self, keys: Sequence[Secret], seconds: int, /) -> None:
        """The first key signs; each verifies."""
        self.seconds = seconds
        self._signer = TimestampSigner(
            [key.reveal() for key in reversed(keys)], salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256
        )

    def sign(self, name: str, /) -> str:
        """A token for a name."""
        return self._signer.sign(name).decode()

    def read(self, token: str, /) -> str | None:
        """The name in a token; None where it is forged, or older than `seconds`. Compared in constant time."""
        if len(token) > _MAX_TOKEN or not token.isascii():
            return None
        try:
            name, signed_at = self._signer.unsign(token, return_timestamp=True)
        except (BadSignature, ValueError):
            return None
        return name.decode() if -_SKEW <= time.time() - signed_at.timestamp() <= self.seconds else None


class ETags:
    """Entity tags of documents: keyed, since by a version that is a digest guesses of a secret could be tested."""

    def __init__(self, keys: Iterable[Secret], /) -> None:
        self._keys = [hmac.digest(key.reveal().encode(), _ETAG_KEY, "sha256") for key in keys]

    def of(self, path: str, version: Version, /) -> str:
        """The tag of a version of the document at a path, in quotes."""
        return f'"{self.marks(path, version)[0]}"'

    def marks(self, path: str, version: Version, /) -> list[str]:
        """A version's tags without quotes, by the key that is used first and by each older one."""
        return [_mark(key, path, version) for key in self._keys]

    def matches(self, header: str, path: str, version: Version | None, /, *, weak: bool) -> bool:
        """Whether a header names the version that a document has, None where there is no document (RFC 9110, 13.1).

        Weak tags count where `weak` says so. Tags of an older key are good too.
        """
        if version is None:
            return False
        asked = {tag.strip() for tag in header.split(",")}
        if "*" in asked:
            return True
        if weak:
            asked = {tag.removeprefix("W/") for tag in asked}
        return any(f'"{mark}"' in asked for mark in self.marks(path, version))


def _mark(key: bytes, path: str, version: Version, /) -> str:
    token = version.token.encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(hmac.digest(key, path.encode() + b"\0" + token, "sha256")[:15]).decode()
