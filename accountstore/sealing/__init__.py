"""Encryption of documents at rest. Needs the extra `crypto`.

What an application and the author of a key provider import:

- `new_key`, `read_keys`, `StaticKeys`: keys as a JWK Set, in a file, in the environment, or given in Python;
- `KeyProvider`, `Rewrapper`, `WrappedKey`: what a provider of another key service implements;
- `TransitKeys` (extra `transit`) and `AwsKmsKeys` (extra `aws-kms`), in `accountstore.sealing.transit` and `.aws_kms`.

A sealed document is a JWE (RFC 7516) that any JOSE tool opens which has the key.
"""

from __future__ import annotations

from accountstore.sealing.envelope import WrappedKey
from accountstore.sealing.keys import add_key, new_key, promote_key, read_keys
from accountstore.sealing.providers import KeyProvider, Rewrapper, StaticKeys

__all__ = ("KeyProvider", "Rewrapper", "StaticKeys", "WrappedKey", "add_key", "new_key", "promote_key", "read_keys")
