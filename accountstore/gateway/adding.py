"""Add a client to the configuration's file. Blocking functions."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from secrets import token_urlsafe

from msgspec.structs import replace

from accountstore import ConfigError, Secret
from accountstore.files import read_file
from accountstore.gateway.clients import hash_secret
from accountstore.gateway.config import CLIENT_ID, Client, load_gateway_config

__all__ = ("add_to_file",)


def add_to_file(path: str, name: str, client: Client, /) -> Secret:
    """Add a client, with a secret of 256 random bits, to a file, which is made where there is none. Returns the secret.

    The file is replaced in one step, and is its owner's alone.

    Raises:
        ConfigError: the id cannot be one or is taken, or the file cannot be used or written.
    """
    if not re.fullmatch(CLIENT_ID, name):
        raise ConfigError("a client's id has letters, digits and -._~ only, at most 100")
    secret = Secret(token_urlsafe(32))
    added = _table(name, replace(client, secrets=(hash_secret(secret),)))
    try:
        before = read_file(path).decode()
        if name in load_gateway_config(path).clients:
            raise ConfigError(f"{path}: there is a client {name!r} already")
    except FileNotFoundError:
        before = f"# Keys that sign tokens, the newest first. Keep them secret.\nkeys = [{_text(token_urlsafe(32))}]\n"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    try:
        _replace(path, f"{before.rstrip()}\n\n{added}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({type(error).__name__})") from None
    return secret


def _table(name: str, client: Client, /) -> str:
    lines = [f"[clients.{_text(name)}]", f"secrets = [{_text(client.secrets[0])}]", f"folder = {_text(client.folder)}"]
    if client.storage is not None:
        lines.append(f"storage = {_text(client.storage)}")
    if client.rights != "write":
        lines.append(f"rights = {_text(client.rights)}")
    return "\n".join(lines) + "\n"


def _text(value: str, /) -> str:
    """Text as TOML writes it, whose basic strings have JSON's escapes."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _replace(path: str, text: str, /) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".accountstore-gateway-")  # 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
