"""The credentials among S3's options, checked at opening on either engine: none given twice, and none by half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accountstore.backends.base import ConfigError
from accountstore.backends.options import table

_KEY = (("key", "username"), "aws_access_key_id")
_SECRET = (("secret", "password"), "aws_secret_access_key")
_TOKEN = (("token",), "aws_session_token")
"""The names of one, and that among `client_kwargs`."""


def check_keys(options: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for a key, a secret or a token that has two names here, or lacks what goes with it: a client
    would fail later, or take others from the environment.
    """
    key = _given(options, *_KEY)
    secret = _given(options, *_SECRET)
    token = _given(options, *_TOKEN)
    if options.get("anon"):
        return
    if key and not secret:
        raise ConfigError(f"options: 'secret' is missing, which goes with {key}")
    if secret and not key:
        raise ConfigError(f"options: 'key' is missing, which goes with {secret}")
    if token and not key:
        raise ConfigError(f"options: 'key' and 'secret' are missing, which go with {token}")


def without_own(around: Mapping[str, Any], options: Mapping[str, object], /) -> dict[str, Any]:
    """What fsspec's own configuration has, without what the storage itself has under whichever name."""
    client = table(options, "client_kwargs")
    own = [one for one in (_KEY, _SECRET, _TOKEN) if client.get(one[1]) or any(map(options.get, one[0]))]
    gone = {name for names, below in own for name in (*names, below)}
    left = {name: value for name, value in around.items() if name not in gone}
    if below := table(left, "client_kwargs"):
        left["client_kwargs"] = {name: value for name, value in below.items() if name not in gone}
    return left


def _given(options: Mapping[str, object], names: tuple[str, ...], below: str, /) -> str:
    """The option that is given, of those that are one, as a message has it; empty where none is."""
    found = [repr(name) for name in names if options.get(name)]
    if table(options, "client_kwargs").get(below):
        found.append(f"client_kwargs {below!r}")
    if len(found) > 1:
        raise ConfigError(f"options: {found[0]} and {found[1]} are two names of one; give one of them")
    return "".join(found)
