"""Keys, sealers and stores that the tests of encryption share."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography")

from accountstore import AccountStore
from accountstore.aio.shield import InFlight
from accountstore.client import StorageClient
from accountstore.codecs import CODECS
from accountstore.retry import RetryPolicy
from accountstore.scope import Resolver
from accountstore.sealing import StaticKeys
from accountstore.sealing.ring import KeyCache, KeyRing
from accountstore.sealing.sealer import Sealer
from accountstore.storage import Storage
from accountstore.storages import Storages
from accountstore.validation import MAX_BYTES, sealed_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accountstore import Observer
    from accountstore.backends.base import Backend
    from accountstore.sealing import KeyProvider
    from accountstore.sealing.sealer import Mode

KEYS = {"old": bytes(range(32)), "new": bytes(range(32, 64))}
BY = 1e12
"""A deadline that does not come."""


def b64(data: bytes, /) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str, /) -> bytes:
    return urlsafe_b64decode(text + "==")


def jwk(key_id: str = "old", /) -> dict[str, str]:
    """A key as a JWK."""
    return {"kty": "oct", "kid": key_id, "alg": "A256KW", "k": b64(KEYS[key_id])}


def jwks(*key_ids: str) -> str:
    """Keys as a JWK Set."""
    return json.dumps({"keys": [jwk(key_id) for key_id in key_ids]})


def write_keys(path: Any, /, *key_ids: str) -> str:
    """A key file."""
    path.write_text(jwks(*key_ids))
    os.chmod(path, 0o600)
    return str(path)


def static(*key_ids: str) -> StaticKeys:
    """Keys at hand; the first seals."""
    return StaticKeys({key_id: KEYS[key_id] for key_id in key_ids or ("old",)})


def sealer(
    *providers: KeyProvider,
    storage_id: str = "main",
    mode: Mode = "required",
    policy: RetryPolicy = RetryPolicy(attempts=1),  # noqa: B008 -- frozen
    cache: KeyCache | None = None,
) -> Sealer:
    """A sealer; by the key `old`, unless it is told otherwise."""
    ring = KeyRing(providers or (static(),), policy, InFlight(1), cache or KeyCache(0, 0))
    return Sealer(ring, storage_id, mode)


def sealed_over(
    backends: Mapping[str, Backend],
    sealers: Mapping[str, Sealer] | None = None,
    /,
    *,
    codecs: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    observer: Observer | None = None,
    attempts: int = 1,
    timeout: float = 30.0,
) -> AccountStore:
    """As `accountstore.testing.store_over`, with a sealer for each storage."""
    storages: dict[str, Storage] = {}
    for place, (name, backend) in enumerate(backends.items()):
        own = (sealers or {}).get(name) or sealer(storage_id=name)
        client = StorageClient(name, backend, RetryPolicy(timeout, attempts), limit=sealed_limit(max_bytes))
        codec = CODECS[codecs[place] if codecs else "json"]
        storages[name] = Storage(client, codec, max_bytes, f"test://{name}", {}, own)
    return AccountStore(Resolver(Storages(storages, next(iter(backends)))), observer)
