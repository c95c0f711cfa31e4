"""msmtp's configuration (1.4 to 1.8): its accounts, with what they inherit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

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
    lines_of,
    port_of,
)

__all__ = ("parse",)

_TOKENS: Final = frozenset({"oauthbearer", "xoauth2"})
_BLANKS: Final = " \t"


def parse(text: str, evaluate: Callable[[str, int], str], /) -> list[Found | Refused]:
    """The accounts of a file.

    `evaluate` gives the line that the command of an `eval` stands for; it gets the line's number too.

    Raises:
        ConfigError: a line is not understood; the message names it.
    """
    file = _File()
    for number, line in enumerate(lines_of(text), 1):
        command, argument = _split(line)
        if command == "eval":
            command, argument = _split(evaluate(argument, number))
        if command:
            file.take(command, argument, number)
    return [_account(name, settings) for name, settings in file.accounts.items() if not file.is_alias(name)]


class _File:
    """The accounts of the lines so far."""

    def __init__(self) -> None:
        self._defaults: dict[str, str] = {}
        self._own: dict[str, dict[str, str]] = {}
        """What an account and those that it inherits from say themselves."""
        self._base: dict[str, dict[str, str]] = {}
        """The defaults where an account begins."""
        self._current: dict[str, str] | None = None

    def take(self, command: str, argument: str, number: int, /) -> None:
        """Take the next line."""
        if command == "defaults":
            self._current = self._defaults
        elif command == "account":
            self._begin(argument, number)
        elif self._current is None:
            raise ConfigError(f"line {number}: stands before any account")
        else:
            self._current[command] = argument

    def _begin(self, argument: str, number: int, /) -> None:
        name, colon, inherited = (part.strip(_BLANKS) for part in argument.partition(":"))
        if not name or name in self._own:
            raise ConfigError(f"line {number}: an account has no name, or one that is taken")
        own: dict[str, str] = {}
        for parent in [part.strip(_BLANKS) for part in inherited.split(",")] if colon else ():
            if parent not in self._own:
                raise ConfigError(f"line {number}: an account inherits from one that is not there")
            own |= self._own[parent]
        self._current = self._own[name] = own
        self._base[name] = dict(self._defaults)

    @property
    def accounts(self) -> dict[str, dict[str, str]]:
        """All settings of each account."""
        return {name: self._base[name] | own for name, own in self._own.items()}

    def is_alias(self, name: str, /) -> bool:
        """Whether an account only says which other one is the default."""
        others = [settings for other, settings in self.accounts.items() if other != name]
        return name == "default" and self.accounts[name] in others


def _split(line: str, /) -> tuple[str, str]:
    """The command of a line and its argument, without the quotes around it. Both are empty of a comment."""
    command, argument = [*re.split("[ \t]+", line.strip(_BLANKS), maxsplit=1), ""][:2]
    if command.startswith("#"):
        return "", ""
    if len(argument) > 1 and argument[0] == argument[-1] == '"':
        argument = argument[1:-1]
    return command, argument


def _account(name: str, settings: Mapping[str, str], /) -> Found | Refused:
    if settings.get("protocol", "smtp") != "smtp":
        return Refused(name, "protocol: only SMTP has a name here")
    if settings.get("socket"):
        return Refused(name, "socket: has no host")
    host = settings.get("host", "")
    if not host:
        return Refused(name, "host: is missing")
    secured = _is_on(settings, "tls", otherwise=False)
    explicit = _is_on(settings, "tls_starttls", otherwise=True)
    port = port_of(settings.get("port") or ("465" if secured and not explicit else "25"))
    if port is None:
        return Refused(name, "port: must be a number")
    security = SecurityOptions.SSL_EXPLICIT if explicit else SecurityOptions.SSL_IMPLICIT
    return Found(
        name,
        None,
        Server(
            protocol=ProtocolType.SMTP,
            host=host,
            port=port,
            security=security if secured else SecurityOptions.NONE,
            login=_login(settings),
        ),
        "user and password, as there is no `auth on`" if _has_idle_login(settings) else "",
    )


def _has_idle_login(settings: Mapping[str, str], /) -> bool:
    """Whether there is a login that msmtp does not use, and nothing says that this is meant."""
    return "auth" not in settings and any(settings.get(name) for name in ("user", "password", "passwordeval"))


def _login(settings: Mapping[str, str], /) -> PasswordLogin | OAuthLogin | NoLogin:
    method = settings.get("auth", "off")
    if method == "off":
        return NoLogin()
    login = Secret(settings["user"]) if settings.get("user") else Elsewhere()
    if method in _TOKENS:
        return OAuthLogin(login=login, refresh_token=Elsewhere("msmtp has access tokens only"))
    if settings.get("password"):
        return PasswordLogin(login=login, password=Secret(settings["password"]))
    if settings.get("passwordeval"):
        return PasswordLogin(login=login, password=Command(settings["passwordeval"]))
    return PasswordLogin(login=login, password=Elsewhere("msmtp looks into the keyring, then asks"))


def _is_on(settings: Mapping[str, str], command: str, /, *, otherwise: bool) -> bool:
    value = settings.get(command)
    return otherwise if value is None else value in {"", "on"}
