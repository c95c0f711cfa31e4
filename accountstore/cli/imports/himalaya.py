"""himalaya's configuration, of its releases 1 (`backend.type = "imap"`) and 2 (`imap.server = ...`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from tomllib import TOMLDecodeError, loads
from typing import Any, Final, cast
from urllib.parse import urlsplit

from accountstore import ConfigError, ProtocolType, Secret, SecurityOptions
from accountstore.cli.imports.found import (
    Command,
    Elsewhere,
    Found,
    NoLogin,
    OAuthLogin,
    PasswordLogin,
    Refused,
    Server,
    Source,
)

__all__ = ("parse",)

_SCHEMES: Final = {
    "imap": (ProtocolType.IMAP, False, 143),
    "imaps": (ProtocolType.IMAP, True, 993),
    "smtp": (ProtocolType.SMTP, False, 25),
    "smtps": (ProtocolType.SMTP, True, 465),
}
_ENCRYPTION: Final = {
    "tls": SecurityOptions.SSL_IMPLICIT,
    "ssl": SecurityOptions.SSL_IMPLICIT,
    "start-tls": SecurityOptions.SSL_EXPLICIT,
    "starttls": SecurityOptions.SSL_EXPLICIT,
    "none": SecurityOptions.NONE,
}


class _WrongError(Exception):
    """What keeps an account from being imported."""


def parse(text: str, /) -> list[Found | Refused]:
    """The accounts of a file.

    Raises:
        ConfigError: it is no TOML, or has no table of accounts.
    """
    try:
        accounts = loads(text).get("accounts")
    except TOMLDecodeError as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError):
        raise ConfigError("a number is too long, or values are too deep in others") from None
    if not isinstance(accounts, dict):
        raise ConfigError("accounts: must be a table")
    return [_account(name, table) for name, table in cast("dict[str, Any]", accounts).items()]


def _account(name: str, account: Any, /) -> Found | Refused:
    try:
        table = _table(account, "the account")
        receive = _modern(table, "imap") or _classic(name, table, ("backend",), ProtocolType.IMAP)
        send = _modern(table, "smtp") or _classic(name, table, ("message", "send", "backend"), ProtocolType.SMTP)
    except _WrongError as wrong:
        return Refused(name, str(wrong))
    if receive is None and send is None:
        return Refused(name, "has neither IMAP nor SMTP")
    return Found(name, receive, send)


def _modern(account: Mapping[str, Any], scheme: str, /) -> Server | None:
    """The server of release 2: an authority, which means the secure scheme, or a URL."""
    if scheme not in account:
        return None
    table = _table(account[scheme], scheme)
    server = _text(table, "server", scheme)
    try:
        url = urlsplit(server if "://" in server else f"{scheme}s://{server}")
        host, port = url.hostname, url.port
    except ValueError:
        host = port = url = None
    if url is None or not host or url.scheme not in {scheme, f"{scheme}s"}:
        raise _WrongError(f"{scheme}.server: must be a host, or a URL of {scheme} or {scheme}s")
    protocol, implicit, usual = _SCHEMES[url.scheme]
    explicit = SecurityOptions.SSL_EXPLICIT if table.get("starttls") is True else SecurityOptions.NONE
    return Server(
        protocol=protocol,
        host=host,
        port=port or usual,
        security=SecurityOptions.SSL_IMPLICIT if implicit else explicit,
        login=_sasl(table.get("sasl"), f"{scheme}.sasl"),
    )


def _sasl(sasl: Any, where: str, /) -> PasswordLogin | OAuthLogin | NoLogin:
    if sasl is None:
        return NoLogin()
    mechanisms = _table(sasl, where)
    if len(mechanisms) != 1:
        raise _WrongError(f"{where}: must name one mechanism")
    [(mechanism, value)] = mechanisms.items()
    where = f"{where}.{mechanism}"
    match mechanism:
        case "anonymous":
            return NoLogin()
        case "plain" | "login" | "scram-sha-256":
            table = _table(value, where)
            name = "authcid" if "authcid" in table else "username"
            password = "passwd" if "passwd" in table else "password"
            return PasswordLogin(
                login=_login(_text(table, name, where)), password=_secret(table.get(password), f"{where}.{password}")
            )
        case "oauthbearer" | "xoauth2":
            login = _login(_text(_table(value, where), "username", where))
            return OAuthLogin(login=login, refresh_token=Elsewhere("the file has an access token only"))
        case _:
            raise _WrongError(f"{where}: is not a mechanism that is known")


def _login(text: str, /) -> Secret:
    """A login, in which himalaya replaces variables of the environment."""
    return Secret(os.path.expandvars(text))


def _classic(name: str, account: Mapping[str, Any], path: tuple[str, ...], protocol: ProtocolType, /) -> Server | None:
    """The server of release 1: a backend of the protocol's type."""
    found: Any = account
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("type") != protocol.lower():
        return None
    table = cast("dict[str, Any]", found)
    where = ".".join(path)
    encryption = table.get("encryption", "tls")
    if isinstance(encryption, dict):
        encryption = cast("dict[str, Any]", encryption).get("type")
    if not isinstance(encryption, str) or encryption not in _ENCRYPTION:
        raise _WrongError(f"{where}.encryption: is not one that is known")
    port = table.get("port")
    if not isinstance(port, int):
        raise _WrongError(f"{where}.port: must be a number")
    return Server(
        protocol=protocol,
        host=_text(table, "host", where),
        port=port,
        security=_ENCRYPTION[encryption],
        login=_auth(f"{name}-{protocol.lower()}", table, where),
    )


def _auth(entry: str, table: Mapping[str, Any], where: str, /) -> PasswordLogin | OAuthLogin:
    login = Secret(_text(table, "login", where))
    where = f"{where}.auth"
    auth = _table(table.get("auth", {}), where)
    kind = auth.get("type", "password")
    if kind == "password":
        return PasswordLogin(login=login, password=_secret(auth, where))
    if kind != "oauth2":
        raise _WrongError(f"{where}.type: must be password or oauth2")

    def secret(key: str) -> Source:
        usual = {"keyring": f"{entry}-{key}"}  # where himalaya looks if the file does not say
        return _secret(auth.get(key, usual), f"{where}.{key}")

    return OAuthLogin(
        login=login,
        refresh_token=secret("refresh-token"),
        client_id=Secret(_text(auth, "client-id", where)),
        client_secret=secret("client-secret") if "client-secret" in auth else None,
        request_url=_text(auth, "token-url", where),
    )


def _secret(value: Any, where: str, /) -> Source:
    match value:
        case {"raw": str(raw)}:
            return Secret(raw)
        case {"command": str(line)} | {"cmd": str(line)} if line.strip():
            return Command(line)
        case {"command": [str(), *_] as words} | {"cmd": [str(), *_] as words}:
            return Command(tuple(map(str, words)))
        case {"keyring": str(entry)}:
            return Elsewhere(f"himalaya keeps it in the keyring, as {entry!r}")
        case None | {}:
            return Elsewhere()
        case _:
            raise _WrongError(f"{where}: must say raw, command or keyring")


def _table(value: Any, where: str, /) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError(f"{where}: must be a table")
    return cast("dict[str, Any]", value)


def _text(table: Mapping[str, Any], key: str, where: str, /) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise _WrongError(f"{where}.{key}: must be text")
    return value
