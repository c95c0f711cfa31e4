"""What wraps content keys: keys at hand, or a key service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from hmac import compare_digest
from types import ModuleType
from typing import Any, Protocol, cast, final, runtime_checkable

from accountstore.errors import ConfigError, WrongKeyError
from accountstore.sealing.envelope import KEY_BYTES, KEY_ID_RULE, WrappedKey, is_key_id, require_cryptography
from accountstore.sealing.keys import ALGORITHM, parse_keys
from accountstore.secrets import SecretBytes, without_frames


class KeyProvider(Protocol):
    """Wraps and unwraps content keys, many at a time: a service does a hundred in the time of five.

    The context of a key is its document's place. Calls may be cancelled at any await. They raise `KeyDeniedError` or
    `KeyProviderError`; the store takes anything else for the latter, and what is no answer, too.
    """

    @property
    def algorithm(self) -> str:
        """The `alg` of what this provider wraps, its own one: no other provider is given such a key."""
        ...

    @property
    def binds_context(self) -> bool:
        """Whether what was wrapped in one context is refused in another. The document's header binds in any case."""
        ...

    @property
    def remote(self) -> bool:
        """Whether calls leave the process: they are then repeated while they fail for a while, within the operation's
        deadline, and unwrapped keys are kept for a while.
        """
        ...

    def key_ids(self) -> Sequence[str]:
        """The ids of the keys that it holds, for people; the primary one first."""
        ...

    def holds(self, key_id: str, /) -> bool:
        """Whether it can unwrap what this key has wrapped."""
        ...

    async def current(self) -> str:
        """The id of the key that `wrap` uses now."""
        ...

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
        """Each content key, wrapped in its context."""
        ...

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Sequence[bytes | Exception]:
        """Each content key, or `WrongKeyError`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections, for a storage is closed: once for each that was given this provider, the last of which
        may still be open. A call after it opens what it needs.
        """
        ...


@runtime_checkable
class Rewrapper(Protocol):
    """A provider that moves a wrapped key to its current key without giving it away."""

    async def rewrap(
        self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /
    ) -> Sequence[WrappedKey | Exception]:
        """Each key as `wrap` would wrap it now, or `WrongKeyError`."""
        ...


@cache
def _keywrap() -> ModuleType:
    from cryptography.hazmat.primitives import keywrap

    return keywrap


@final
class StaticKeys:
    """Keys at hand, by their ids; the first one is the primary one, which wraps (AES key wrap, RFC 3394).

    Raises:
        ConfigError: there is none, one is not of 32 bytes or has an id that no document can have, or `cryptography` is
            not installed.
    """

    __slots__ = ("_keys", "_primary")

    algorithm = ALGORITHM
    binds_context = False
    remote = False

    @without_frames
    def __init__(self, keys: Mapping[str, bytes], /) -> None:
        require_cryptography()
        given: Any = keys
        if not isinstance(given, Mapping) or not given:
            raise ConfigError("keys: there is none: give a dict of keys by their ids")
        for key_id, key in cast("Mapping[object, object]", given).items():
            if not is_key_id(key_id):
                raise ConfigError(f"keys: the id {KEY_ID_RULE}")
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise ConfigError(f"keys: each must be of {KEY_BYTES} bytes")
        self._keys = {str.__str__(key_id): SecretBytes(key) for key_id, key in keys.items()}
        self._primary = next(iter(self._keys))

    @classmethod
    @without_frames
    def parse(cls, data: bytes, /) -> StaticKeys:
        """The keys of a JWK Set. Raises `ConfigError`."""
        return cls(parse_keys(data))

    def __repr__(self) -> str:
        return f"StaticKeys({', '.join(map(repr, self._keys))})"

    def key_ids(self) -> Sequence[str]:
        return tuple(self._keys)

    def conflicts(self, other: StaticKeys, /) -> Sequence[str]:
        """The ids by which these and others name different keys."""
        return [kid for kid, key in self._keys.items() if not compare_digest(key, other._keys.get(kid, key))]

    def holds(self, key_id: str, /) -> bool:
        return key_id in self._keys

    async def current(self) -> str:
        return self._primary

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
        own, wrap = self._keys[self._primary], _keywrap().aes_key_wrap
        return [WrappedKey(ALGORITHM, self._primary, wrap(own, key)) for key in keys]

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Sequence[bytes | Exception]:
        return [self._unwrap(each) for each in wrapped]

    def _unwrap(self, wrapped: WrappedKey, /) -> bytes | Exception:
        keywrap = _keywrap()
        try:
            return SecretBytes(keywrap.aes_key_unwrap(self._keys[wrapped.key_id], wrapped.data))
        except keywrap.InvalidUnwrap:
            return WrongKeyError("the key does not open it", key_id=wrapped.key_id)

    async def aclose(self) -> None:
        pass
