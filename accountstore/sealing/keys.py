"""Keys as a JWK Set (RFC 7517): parsed, and kept in a file that nobody else may read. Blocking functions.

    {"keys": [{"kty": "oct", "kid": "2026-11-27-1f0c", "alg": "A256KW", "k": "..."}]}

The first key of a set is the primary one: it seals. All of them open.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

from accountstore.errors import ConfigError, DecodeError, EnvelopeError
from accountstore.sealing.envelope import KEY_BYTES, MAX_KEY_ID, from_base64url, to_base64url
from accountstore.secrets import SecretBytes
from accountstore.strict import check_json

_Members: TypeAlias = "list[dict[str, Any]]"
ALGORITHM = "A256KW"
_MAX_BYTES = 1024 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def new_key() -> tuple[str, SecretBytes]:
    """A key and its id: today's date and something random."""
    return f"{datetime.now(UTC):%Y-%m-%d}-{os.urandom(3).hex()}", SecretBytes(os.urandom(KEY_BYTES))


def parse_keys(data: bytes, /) -> dict[str, SecretBytes]:
    """The keys of a JWK Set by their ids, the primary one first.

    Raises:
        ConfigError: it is none, or has a key that is not for A256KW. The message holds nothing of a key.
    """
    keys: dict[str, SecretBytes] = {}
    for place, jwk in enumerate(_members(data)):
        where = f"keys[{place}]"
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KEY_ID or not kid.isprintable():
            raise ConfigError(f"{where}.kid: must be text of at most {MAX_KEY_ID} characters")
        if kid in keys:
            raise ConfigError(f"{where}.kid: two keys have the id {kid!r}")
        wanted = {"kty": "oct", "alg": ALGORITHM, "use": "enc"}
        for name, value in wanted.items():
            if jwk.get(name, value if name != "kty" else None) != value:
                raise ConfigError(f"{where}.{name}: must be {value!r}")
        keys[kid] = _key(jwk.get("k"), f"{where}.k")
    if not keys:
        raise ConfigError("keys: there is none: `accountstore keys new FILE` makes one")
    return keys


def _members(data: bytes, /) -> _Members:
    try:
        check_json(data)
        tree: Any = json.loads(data)
        members: Any = tree["keys"]
        if all(isinstance(jwk, dict) for jwk in members) and isinstance(members, list):
            return cast("_Members", members)
    except (DecodeError, ValueError, TypeError, LookupError):
        pass
    raise ConfigError('is not a JWK Set: {"keys": [{"kty": "oct", "kid": ..., "alg": "A256KW", "k": ...}]}')


def _key(text: object, where: str, /) -> SecretBytes:
    with suppress(EnvelopeError):
        key = SecretBytes(from_base64url(text, where) if isinstance(text, str) else b"")
        if len(key) == KEY_BYTES:
            return key
    raise ConfigError(f"{where}: must be {KEY_BYTES} bytes in base64url, without padding")


def read_keys(path: str | os.PathLike[str], /) -> dict[str, SecretBytes]:
    """The keys of a file by their ids, the primary one first.

    Raises:
        ConfigError: it cannot be read, others than its owner can read or write it, or it is no JWK Set.
    """
    return parse_keys(_read(os.fspath(path)))


def _read(path: str, /) -> SecretBytes:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if os.name == "posix" and found.st_mode & _OTHERS:
                raise ConfigError(f"others may read or write it ({stat.S_IMODE(found.st_mode):04o}): chmod 600")
            data = SecretBytes(file.read(_MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"cannot be read ({type(error).__name__})") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError("is too large to be a JWK Set")
    return data


def add_key(path: str | os.PathLike[str], key_id: str | None = None, /, *, primary: bool = False) -> str:
    """Add a new key to a file, which is made with mode 0600 where there is none, and return its id.

    It seals at once if it is `primary`, or the only one; else when `promote_key` says so, and opens until then: give it
    to all processes first.

    Raises `ConfigError`, as `read_keys`.
    """
    made, key = new_key()
    kid = made if key_id is None else key_id
    jwk: dict[str, Any] = {"kty": "oct", "kid": kid, "alg": ALGORITHM, "k": to_base64url(key)}

    def add(members: _Members) -> _Members:
        return [jwk, *members] if primary else [*members, jwk]

    _edit(os.fspath(path), add, make=True)
    return kid


def promote_key(path: str | os.PathLike[str], key_id: str, /) -> None:
    """Make a key of a file the primary one. Raises `ConfigError`, as `read_keys`, or where there is no such key."""
    if key_id not in read_keys(path):
        raise ConfigError(f"there is no key {key_id!r}")

    def promote(members: _Members) -> _Members:
        return sorted(members, key=lambda jwk: bool(jwk["kid"] != key_id))

    _edit(os.fspath(path), promote, make=False)


def _own_as(path: str, fd: int, /) -> None:
    """Give a new file the owner of the one that it replaces, so that a service can still read what root has changed."""
    if os.name == "posix" and os.path.exists(path):
        before = os.stat(path)
        with suppress(PermissionError):
            os.fchown(fd, before.st_uid, before.st_gid)


def _make_durable(folder: str, /) -> None:
    """A key must be on the disk under its name before it seals anything."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _edit(path: str, change: Callable[[_Members], _Members], /, *, make: bool) -> None:
    """Replace a file of keys in one step. Its new version is a lock, too: two at a time would lose one's key."""
    path = os.path.realpath(path)
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{temporary} is there: somebody changes the keys, or a crash has left it") from None
    except OSError as error:
        raise ConfigError(f"cannot be written ({type(error).__name__})") from None
    try:
        with open(fd, "wb") as file:
            members = _members(_read(path)) if os.path.exists(path) or not make else []
            changed: Mapping[str, object] = {"keys": change(members)}
            data = SecretBytes(json.dumps(changed, indent=1).encode() + b"\n")
            parse_keys(data)
            file.write(data)
            file.flush()
            _own_as(path, fd)
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _make_durable(os.path.dirname(path))
