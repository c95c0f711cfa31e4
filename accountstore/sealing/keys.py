"""Keys as a JWK Set (RFC 7517): parsed, and kept in a file that nobody else may read. Blocking functions.

    {"keys": [{"kty": "oct", "kid": "2026-11-27-1f0c", "alg": "A256KW", "k": "..."}]}

The first key of a set is the primary one: it seals. All of them open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

from accountstore.errors import ConfigError, DecodeError, EnvelopeError
from accountstore.files import check_private, open_file, own_as, read_open
from accountstore.sealing.envelope import KEY_BYTES, KEY_ID_RULE, from_base64url, is_key_id, to_base64url
from accountstore.secrets import SecretBytes, without_frames
from accountstore.strict import check_json

_Members: TypeAlias = "list[dict[str, Any]]"
ALGORITHM = "A256KW"
_MAX_BYTES = 1024 * 1024


def new_key() -> tuple[str, SecretBytes]:
    """A key and its id: today's date and something random."""
    return f"{datetime.now(UTC):%Y-%m-%d}-{os.urandom(3).hex()}", SecretBytes(os.urandom(KEY_BYTES))


@without_frames
def parse_keys(data: bytes, /) -> dict[str, SecretBytes]:
    """The keys of a JWK Set by their ids, the primary one first.

    Raises:
        ConfigError: it is none, or has a key that is not for A256KW. The message holds nothing of a key.
    """
    keys: dict[str, SecretBytes] = {}
    for place, jwk in enumerate(_members(data)):
        where = f"keys[{place}]"
        kid = jwk.get("kid")
        if not is_key_id(kid):
            raise ConfigError(f"{where}.kid: {KEY_ID_RULE}")
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
    except (DecodeError, ValueError, TypeError, LookupError, AttributeError):
        pass
    raise ConfigError('is not a JWK Set: {"keys": [{"kty": "oct", "kid": ..., "alg": "A256KW", "k": ...}]}')


def _key(text: object, where: str, /) -> SecretBytes:
    with suppress(EnvelopeError):
        key = SecretBytes(from_base64url(text, where) if isinstance(text, str) else b"")
        if len(key) == KEY_BYTES:
            return key
    raise ConfigError(f"{where}: must be {KEY_BYTES} bytes in base64url, without padding")


def read_keys(path: str | os.PathLike[str], /) -> dict[str, SecretBytes]:
    """The keys of a file by their ids, the primary one first. In paths of key files, `~` is the user's home.

    Raises:
        ConfigError: it cannot be read, others than its owner can read or write it, or it is no JWK Set.
    """
    return parse_keys(_read(os.path.expanduser(path)))


def _read(path: str, /) -> SecretBytes:
    try:
        with open_file(path) as file:
            check_private(file)
            return read_open(file, limit=_MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError("does not exist: `accountstore keys new FILE` makes one") from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})") from None


@without_frames
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

    _edit(path, add, make=True)
    return kid


@without_frames
def promote_key(path: str | os.PathLike[str], key_id: str, /) -> None:
    """Make a key of a file the primary one; nothing is written where it is, but that is made durable. Raises
    `ConfigError`, as `read_keys`, or where there is no such key.
    """
    if next(iter(read_keys(path))) == key_id:
        _make_durable(os.path.realpath(os.path.expanduser(path)))
        return

    def promote(members: _Members) -> _Members:
        first = [jwk for jwk in members if jwk.get("kid") == key_id]
        if not first:
            raise ConfigError(f"there is no key {key_id!r}")
        return [*first, *(jwk for jwk in members if jwk not in first)]

    _edit(path, promote, make=False)


def _edit(path: str | os.PathLike[str], change: Callable[[_Members], _Members], /, *, make: bool) -> None:
    """Replace a file of keys in one step. Its new version is a lock, too: two at a time would lose one's key."""
    temporary = ""
    try:
        path = os.path.realpath(os.path.expanduser(path))
        temporary = f"{path}.new"
        os.scandir(os.path.dirname(path)).close()  # which `_make_durable` opens when it is too late to refuse
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{temporary} is there: somebody changes the keys, or a crash has left it") from None
    except (OSError, ValueError) as error:
        raise _unchanged(path, error) from None
    try:
        with open(fd, "wb") as file:
            members = _members(_read(path)) if os.path.exists(path) or not make else []
            changed: Mapping[str, object] = {"keys": change(members)}
            data = SecretBytes(json.dumps(changed, indent=1).encode() + b"\n")
            parse_keys(data)
            file.write(data)
            file.flush()
            own_as(path, fd)
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _unchanged(path, error) from None
        raise
    _make_durable(path)


def _make_durable(path: str, /) -> None:
    """A key must be on the disk under its name before it seals anything."""
    try:
        if os.name == "posix":
            fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise ConfigError(
            f"{path} was changed, but its folder cannot be synced ({_reason(error)}): a crash may undo it"
        ) from None


def _unchanged(path: str | os.PathLike[str], error: Exception, /) -> ConfigError:
    return ConfigError(f"{path} cannot be written ({_reason(error)}): nothing was changed")


def _reason(error: Exception, /) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
