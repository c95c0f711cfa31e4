"""From the configuration to a Sealer: key files, the environment and key services."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from logging import getLogger
from typing import TYPE_CHECKING, Any, Protocol, cast

from anyio import to_thread

from accountstore.config import Encryption
from accountstore.errors import ConfigError
from accountstore.retry import RetryPolicy
from accountstore.sealing.envelope import require_cryptography
from accountstore.sealing.keys import promote_key, read_keys
from accountstore.sealing.providers import KeyProvider, StaticKeys
from accountstore.sealing.ring import KeyCache, KeyRing
from accountstore.sealing.sealer import Mode, Sealer
from accountstore.secrets import without_frames
from accountstore.validation import did_you_mean

if TYPE_CHECKING:
    from accountstore.aio.shield import InFlight

_SERVICES: Mapping[str, str] = {"transit": "transit", "aws-kms": "aws_kms"}
"""The modules of key services by their names in the configuration, which are those of their extras, too."""
_PREFIX = "env:"
_LIKE_KEYS = re.compile(r"""[{}"\n]|[\w+=-]{43}|(?:\A|/)[\w+/=~:,'\\\s-]{22,}\Z""", re.ASCII)
"""Text that may be a set of keys, have one of 32 bytes, or be one of 16 or more in base64 or hexadecimal."""
_VARIABLE = re.compile(r"env:[A-Z]+(_[A-Z0-9]+)+")


class _Service(Protocol):
    def open_keys(self, options: Mapping[str, object], /) -> KeyProvider: ...


async def open_sealer(encryption: Encryption, name: str, policy: RetryPolicy, calls: InFlight, /) -> Sealer:
    """The sealer of a storage.

    Raises:
        ConfigError: keys are missing, malformed, or readable by others; or a package is not installed.
    """
    services: list[str] = [source["provider"] for source in encryption.sources() if isinstance(source, dict)]
    try:
        extra = next((name for name in services if name in _SERVICES), "crypto")
        await to_thread.run_sync(require_cryptography, extra)
    except ConfigError as error:
        raise ConfigError(f"keys: {error.message}") from None
    providers = await to_thread.run_sync(_open_keys, encryption)
    cache = KeyCache(encryption.cache_keys, encryption.cache_seconds)
    mode: Mode = "required" if encryption.required else "optional" if encryption.seal else "unsealing"
    if mode == "optional":
        getLogger("accountstore").warning(
            "the storage %r takes plaintext, too, and seals it with the next write: set encryption.required once"
            " `accountstore keys verify` finds none",
            name,
        )
    return Sealer(KeyRing(providers, policy, calls, cache), encryption.id or name, mode)


def _open_keys(encryption: Encryption, /) -> list[KeyProvider]:
    return [_open_source(source) for source in encryption.sources()]


@without_frames
def _open_source(source: Any, /) -> KeyProvider:
    try:
        return _provider(source)
    except ConfigError as error:
        what = error.message
    if isinstance(source, str) and may_be_keys(source):
        raise ConfigError(
            "keys: looks like keys, which are not shown, and no such file can be read: name the file that has them, or"
            " env:NAME"
        )
    raise ConfigError(f"keys: {source}: {what}" if isinstance(source, str) else f"keys: {what}")


def may_be_keys(source: str, /) -> bool:
    """Whether a source may be keys, as `${NAME}` brings them where `env:NAME` is meant: what follows the folders that
    are there is looked at, for the configuration's own comes before.
    """
    path = folder = os.path.expanduser(source)
    if os.path.lexists(path) or _VARIABLE.fullmatch(source) or source.removeprefix(_PREFIX) in os.environ:
        return False
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return _LIKE_KEYS.search(path[len(folder.rstrip("/")) :]) is not None


def same_source(one: Any, other: Any, /) -> bool:
    """Whether two sources are one, be it one key file under two names."""
    if isinstance(one, str) and isinstance(other, str):
        paths = os.path.expanduser(one), os.path.expanduser(other)
        if all(map(os.path.exists, paths)):
            return os.path.samefile(*paths)
    return bool(one == other)


def promote(encryption: Encryption | None, key_id: str, /) -> None:
    """Let a key seal that is in the key file which comes first in a storage's `keys`.

    Raises:
        ConfigError: it is elsewhere, or nowhere; the message says what to do.
    """
    for place, source in enumerate(encryption.sources() if encryption else ()):
        if not isinstance(source, str) or key_id not in (ids := _open_source(source).key_ids()):
            continue
        if place:
            raise ConfigError(
                f"the key {key_id!r} is in {source}, and what comes first in the storage's `keys` seals: put {source}"
                " first in the configuration, and rotate again"
            )
        if not source.startswith(_PREFIX):
            return promote_key(source, key_id)
        if ids[0] != key_id:
            raise ConfigError(f"the first key of {source} seals: put {key_id!r} first there, and rotate again")
        return None
    raise ConfigError(f"no key file of the storage has a key {key_id!r}")


def _provider(source: Any, /) -> KeyProvider:
    if isinstance(source, str):
        if not source.startswith(_PREFIX):
            return StaticKeys(read_keys(source))
        text = os.environ.get(source.removeprefix(_PREFIX))
        if not text:
            raise ConfigError("the variable is not set")
        return StaticKeys.parse(text.encode("utf-8", "surrogateescape"))
    if isinstance(source, dict):
        return _service(cast("dict[str, object]", source))
    return cast("KeyProvider", source)


def _service(table: Mapping[str, object], /) -> KeyProvider:
    name = str(table["provider"])
    if name not in _SERVICES:
        raise ConfigError(f"unknown provider {name!r}{did_you_mean(name, _SERVICES)}")
    options = {key: value for key, value in table.items() if key != "provider"}
    try:
        module = cast("_Service", import_module(f"accountstore.sealing.{_SERVICES[name]}"))
    except ImportError as error:
        raise ConfigError(
            f"the provider {name!r} needs the package {error.name}; install it with: pip install 'accountstore[{name}]'"
        ) from None
    return module.open_keys(options)
