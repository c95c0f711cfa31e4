"""Who may do what: from a client's id and secret to a token, from a token to a narrowed store."""

from __future__ import annotations

import time
from base64 import b64decode
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias
from urllib.parse import unquote_plus
from weakref import WeakValueDictionary

import anyio
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from msgspec import Struct
from starlette.requests import HTTPConnection

from accountstore import AccountStore, ConfigError, LocationError, Secret
from accountstore.gateway.config import Client, GatewayConfig
from accountstore.gateway.limits import Bucket, Quota, Turns
from accountstore.gateway.problems import Problem
from accountstore.gateway.tokens import Tokens

__all__ = ("Access", "Authorize", "Clients", "hash_secret")


class Access(Struct, frozen=True, eq=False):
    """What a request may reach: a store, narrowed to its tenant, for reading only or for writing too.

    `name` is for the access log and shows in no answer. `quota` bounds the client's requests.
    """

    name: str
    store: AccountStore
    writes: bool = True
    quota: Quota | None = None


Authorize: TypeAlias = Callable[[HTTPConnection], Awaitable[Access | None]]
"""Says what a request may reach, by its headers; None is answered with 401."""

_HASHES_AT_ONCE = 2
_HASHES_WAITING = 32
_FAILURES_OF_ID = 10, 1 / 60
_FAILURES_OF_PEER = 60, 1.0
_FAILURES_KEPT = 10_000


def hash_secret(secret: Secret, /) -> str:
    """The argon2id hash of a client's secret, with the costs of RFC 9106 for little memory."""
    return PasswordHasher().hash(secret.reveal())


class Clients:
    """The clients of a configuration, on a store."""

    def __init__(self, store: AccountStore, config: GatewayConfig, /) -> None:
        """Raises `ConfigError` where a client's folder or storage cannot be."""
        self._tokens = Tokens(config.keys, config.token_seconds)
        self._clients = config.clients
        self._accesses = {name: _access(name, client, store) for name, client in config.clients.items()}
        self._by_mark = {
            token_name(name, secret): name for name, one in config.clients.items() for secret in one.secrets
        }
        self._work: list[str] = []
        """Hashes of which no client has more of any cost: what an attempt without success verifies."""
        for client in config.clients.values():
            self._work += _beyond(client.secrets, self._work)
        self._hashing = anyio.CapacityLimiter(_HASHES_AT_ONCE)
        self._waiting = Turns(_HASHES_WAITING, _too_many)
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._failures: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    async def authorize(self, connection: HTTPConnection, /) -> Access | None:
        """What the bearer of a token may reach (RFC 6750)."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        mark = self._tokens.read(token.strip()) if scheme.lower() == "bearer" else None
        name = None if mark is None else self._by_mark.get(mark)
        return None if name is None else self._accesses[name]

    async def grant(self, form: Mapping[str, str], authorization: str, peer: str, /) -> dict[str, object]:
        """A token for a client's id and secret, as RFC 6749 section 4.4 answers it.

        Each wrong secret costs the peer: of one id ten at once, then one a minute; of all ids sixty at once, then one a
        second. A peer's attempts go one after another, so that those at once are counted too. An unknown id is answered
        and counted as a known one, and takes as long: no answer tells whether there is a client.

        Raises:
            Problem: with the error of RFC 6749 as its code.
        """
        if form.get("grant_type") != "client_credentials":
            raise Problem(400, "unsupported_grant_type", "grant_type must be client_credentials")
        name, secret = _basic(authorization) or (form.get("client_id", ""), Secret(form.get("client_secret", "")))
        client = self._clients.get(name)
        with self._waiting:
            async with self._turns.setdefault(peer, anyio.Lock()):
                failures = self._failures_of(peer, ""), self._failures_of(peer, sha256(name.encode()).hexdigest())
                if not all(bucket.has() for bucket in failures):
                    raise Problem(429, "slow_down", "too many wrong secrets: wait a minute")
                for bucket in failures:  # also for an attempt that its caller gives up
                    bucket.take()
                found = await self._find(client.secrets if client else (), secret)
                if found is None:
                    raise Problem(400, "invalid_client", "no such client, or a wrong secret")
                for bucket in failures:
                    bucket.give()
        token = self._tokens.sign(token_name(name, found))
        return {"access_token": token, "token_type": "Bearer", "expires_in": self._tokens.seconds}

    async def _find(self, hashes: tuple[str, ...], secret: Secret, /) -> str | None:
        """Which of a client's hashes the secret has. Two secrets are hashed at once, in threads."""
        decoys = _beyond(self._work, hashes)
        return await anyio.to_thread.run_sync(_verify, hashes, decoys, secret, limiter=self._hashing)

    def _failures_of(self, peer: str, name: str, /) -> Bucket:
        size, rate = _FAILURES_OF_ID if name else _FAILURES_OF_PEER
        bucket = self._failures.pop((peer, name), None) or Bucket(rate, size)
        self._failures[peer, name] = bucket
        if len(self._failures) > _FAILURES_KEPT:
            self._failures.popitem(last=False)
        return bucket


def _access(name: str, client: Client, store: AccountStore, /) -> Access:
    try:
        whole = client.storage is None and not client.folder
        narrowed = store if whole else store.scoped(client.folder, storage=client.storage)
    except LocationError as error:
        raise ConfigError(f"clients.{name}: {error.message}") from None
    return Access(name, narrowed, client.rights == "write", Quota(client.rate, client.concurrency, time.monotonic))


def _too_many() -> Problem:
    return Problem(503, "temporarily_unavailable", "too many clients are asking for tokens: try again")


def token_name(name: str, secret_hash: str, /) -> str:
    """What a token names: the client by one of its secrets, so that it ends with that."""
    return f"{name}.{sha256(secret_hash.encode()).hexdigest()[:12]}"


def _verify(hashes: Sequence[str], decoys: Sequence[str], secret: Secret, /) -> str | None:
    """The first of the hashes that the secret has. Where it has none, the decoys are verified too, for the time."""
    hasher = PasswordHasher()
    for one in (*hashes, *decoys):
        try:
            hasher.verify(one, secret.reveal())
        except (Argon2Error, InvalidHashError):
            continue
        if one in hashes:
            return one
    return None


def _beyond(hashes: Iterable[str], counted: Iterable[str], /) -> list[str]:
    """Those of the hashes that are more, of one cost, than the ones counted."""
    left = Counter(map(_cost, counted))
    found: list[str] = []
    for one in hashes:
        left[_cost(one)] -= 1
        if left[_cost(one)] < 0:
            found.append(one)
    return found


def _cost(secret_hash: str, /) -> str:
    """What decides how long it takes to verify a hash: all of it but salt and digest."""
    return secret_hash.rsplit("$", 2)[0]


def _basic(authorization: str, /) -> tuple[str, Secret] | None:
    """Id and secret of a Basic header, which RFC 6749 section 2.3.1 has form-encoded in it."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, secret = b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        colon = name = secret = ""
    if not colon:
        raise Problem(400, "invalid_request", "the Authorization header is not Basic with an id and a secret")
    return unquote_plus(name), Secret(unquote_plus(secret))
