"""Add a client to the configuration's file. Blocking functions."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Any

from msgspec.structs import replace

from accountstore import ConfigError, Secret
from accountstore.files import locked, tables_of, written_beside
from accountstore.gateway.clients import hash_secret
from accountstore.gateway.config import CLIENT_ID, ID_RULE, Client, config_of, read_tables

__all__ = ("add_to_file",)


def add_to_file(path: str, name: str, client: Client, /) -> Secret:
    """Add a client, with a secret of 256 random bits, to a file, which is made where there is none. Returns the secret.

    The file is replaced in one step, and stays its owner's alone; a link to it is followed. Those who add at once wait
    for one another.

    Raises:
        ConfigError: the id cannot be one or is taken; the client, or the file, is none that a gateway would start with;
            others can read the file; or it cannot be written.
    """
    if not re.fullmatch(CLIENT_ID, name):
        raise ConfigError(f"this cannot be a client's id: {ID_RULE}")
    secret = Secret(token_urlsafe(32))
    added = _table(name, replace(client, secrets=(hash_secret(secret),)))
    try:
        real = os.path.realpath(path)
        with locked(os.path.dirname(real)):
            extended = _extended(*_read(real), name, added).encode()
            with written_beside(real, extended) as temporary:
                os.replace(temporary, real)
    except ConfigError as error:
        failure = ConfigError(f"{path}: {error.message}")  # raised below, without the frames that held the keys
    except OSError as error:
        failure = ConfigError(f"{path}: cannot be written ({type(error).__name__})")
    else:
        return secret
    raise failure


def _read(path: str, /) -> tuple[str, Mapping[str, Any]]:
    """The text of the file, or of a new one, and its tables."""
    if os.path.exists(path):
        return read_tables(path)
    key = token_urlsafe(32)
    return f"# Keys that sign tokens, the newest first. Keep them secret.\nkeys = [{_text(key)}]\n", {"keys": [key]}


def _extended(before: str, tables: Mapping[str, Any], name: str, added: str, /) -> str:
    """The text with one more client. Raises `ConfigError` unless a gateway would start with it."""
    if name in config_of(tables).clients:
        raise ConfigError(f"there is a client {name!r} already: for a new secret, take its table out of the file first")
    after = f"{before.rstrip()}\n\n{added}"
    try:
        extended = tables_of(after)
    except ConfigError:
        raise ConfigError("cannot be extended as it is written: add the client by hand") from None
    config_of(extended)
    return after


def _table(name: str, client: Client, /) -> str:
    lines = [f"[clients.{_text(name)}]", f"secrets = [{_text(client.secrets[0])}]", f"folder = {_text(client.folder)}"]
    if client.storage is not None:
        lines.append(f"storage = {_text(client.storage)}")
    if client.rights != "write":
        lines.append(f"rights = {_text(client.rights)}")
    return "\n".join(lines) + "\n"


def _text(value: str, /) -> str:
    """Text as TOML writes it, whose basic strings have JSON's escapes, but none for a half of a character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
