"""The options of a storage, checked at opening: names that no client takes, and values of the wrong type."""

from __future__ import annotations

import json
import os
import re
import stat
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any
from urllib.parse import urlsplit

from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import ConfigError
from accountstore.backends.kinds import Kinds
from accountstore.backends.logs import quietly
from accountstore.backends.object_store import INSTANCE
from accountstore.validation import did_you_mean

_OWN = frozenset({*INSTANCE, "loop"})

BYTES = frozenset({"SSECustomerKey", "CopySourceSSECustomerKey"})
"""Keys as they are, of which a client makes text."""

AWS_FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE")
"""Variables that name files for the clients of S3."""
_WORDS: Mapping[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Mapping: "a table",
}

_OTHERS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("region", "region_name", "aws_region", "aws_default_region"), ("client_kwargs", "client_kwargs.region_name")
    ),
    "aws_access_key_id": ("key", "key"),
    "aws_secret_access_key": ("secret", "secret"),
    "aws_session_token": ("token", "token"),
    **dict.fromkeys(("username", "password"), ("client_kwargs", "a part of the url: //user:password@host")),
    **dict.fromkeys(("host", "hostname", "port"), ("endpoint_url", "endpoint_url, which has host and port")),
}
"""What is known by other clients' names: an option, and what to say."""


def check_options(options: Mapping[str, object], client: Callable[..., object], kinds: Kinds, /, *more: str) -> None:
    """Raise `ConfigError` for an option that a client has no parameter for and would drop, that the store sets, or that
    is not of its kind.
    """
    for name in options:
        if name in _OWN:
            raise ConfigError(f"options: {name!r} is set by the store")
    check_names(options, [*[name for name in signature(client).parameters if name not in {"self", "kwargs"}], *more])
    check_kinds(options, kinds)


def check_names(options: Collection[str], known: Collection[str], /, place: str = "options") -> None:
    """Raise `ConfigError` for a name that is not known; `place` is where they stand."""
    for name in options:
        if name not in known:
            raise ConfigError(f"{place}: unknown {name!r}{hint(name, known)}")


def hint(name: str, known: Collection[str], /) -> str:
    """The end of a message about an unknown option: what other clients call so, or the nearest one."""
    option, said = _OTHERS.get(name.lower(), ("", ""))
    return f"; here it is {said}" if option in known else did_you_mean(name, known)


def check_kinds(options: Mapping[str, object], kinds: Kinds, /, place: str = "options") -> None:
    """Raise `ConfigError` for a value that is not of its kind, or of which no header can be made. None stands for the
    default.
    """
    for name, value in options.items():
        kind = kinds.get(name)
        if kind is None or value is None:
            continue
        if isinstance(value, str) and name not in BYTES and re.search(r"[\x00-\x1f\x7f]", value):
            raise ConfigError(f"{place}: {name!r} has a line break, or another character that is none of text")
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
            words = [_WORDS[one] for one in kind if one in _WORDS and not (one is int and float in kind)]
            shown = " or ".join(words or [one.__qualname__ for one in kind])
            raise ConfigError(f"{place}: {name!r} must be {shown}")


def trimmed(options: Mapping[str, object], name: str, /) -> Mapping[str, object]:
    """The options, one of them without the white space around it that a key from a file has."""
    value = options.get(name)
    return {**options, name: value.strip()} if isinstance(value, str) else options


def check_url(options: Mapping[str, object], name: str, /, place: str = "options") -> None:
    """Raise `ConfigError` for a server's address that is no URL, or has a user, a query or a fragment."""
    value = options.get(name)
    if isinstance(value, str) and not _is_server(value):
        raise ConfigError(f"{place}: {name!r} must be a URL: https://host or http://host:port")


def _is_server(url: str, /) -> bool:
    try:
        port = urlsplit(url).port
    except ValueError:  # of a port or of brackets
        return False
    return port != 0 and bool(re.fullmatch(r"https?://[^/@?#\s][^@?#\s]*", url, re.IGNORECASE))


def check_signature(text: object, name: str, /) -> None:
    """Raise `ConfigError` for what is no shared access signature: it would be sent all the same."""
    if text and not re.fullmatch(r"\??[^\s?;]*\bsig=[^\s?;]+", str(text)):
        raise ConfigError(f"options: {name!r} is no token of a shared access signature: sv=...&sig=...")


def check_no_key(token: str, /) -> None:
    """Raise `ConfigError` for a key file in base64: as a token it would be sent."""
    key: object = None
    with suppress(ValueError):
        key = json.loads(b64decode(token, validate=True))
    if isinstance(key, dict):
        raise ConfigError("options: 'token' is a key file in base64: give its text, or its path")


def check_no_pipes(variables: Collection[str], /) -> None:
    """Raise `ConfigError` for a variable of the environment that names a pipe: a client may wait for its other end."""
    for name in variables:
        try:
            mode = os.stat(os.path.expanduser(os.environ.get(name, ""))).st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISFIFO(mode):
            raise ConfigError(f"{name} names a pipe, which cannot be read twice: name a file")


def configured(*schemes: str) -> dict[str, Any]:
    """The options that fsspec's own configuration has: `FSSPEC_S3_KEY` and the like, and the files in its folder."""
    folder = os.environ.get("FSSPEC_CONFIG_DIR") or os.path.expanduser("~/.config/fsspec")
    if not os.path.isdir(folder) and not any(name.startswith("FSSPEC_") for name in os.environ):
        return {}
    known: Mapping[str, Mapping[str, Any]] = import_module("fsspec.config").conf
    return {name: value for scheme in schemes for name, value in known.get(scheme, {}).items()}


async def checked_apart(check: Callable[[], object], /) -> None:
    """Run a check that reads files or models, in a thread that is neither the event loop's nor the caller's."""
    threads = ThreadPool(1)
    try:
        await threads.run(partial(quietly, check))
    finally:
        threads.close()


def table(options: Mapping[str, object], name: str, /) -> Mapping[str, object]:
    """An option that is a table, checked before; empty where it is not given."""
    found = options.get(name)
    return found if isinstance(found, Mapping) else {}
