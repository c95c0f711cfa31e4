"""Questions that make a document, for `save` on a terminal. Secrets are typed hidden."""

from __future__ import annotations

import warnings
from enum import StrEnum
from getpass import GetPassWarning, getpass
from typing import TYPE_CHECKING, TypeVar

from accountstore import (
    Account,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
    UnsupportedError,
)
from accountstore.cli.show import console

if TYPE_CHECKING:
    from accountstore.model import Credentials

__all__ = ("ask_document",)

C = TypeVar("C", bound=StrEnum)

_OPTIONAL = " (may be left empty)"
_LARGEST_PORT = 2**31 - 1
_USUAL = {
    25: ProtocolType.SMTP,
    110: ProtocolType.POP3,
    143: ProtocolType.IMAP,
    443: ProtocolType.EWS,
    465: ProtocolType.SMTP,
    587: ProtocolType.SMTP,
    993: ProtocolType.IMAP,
    995: ProtocolType.POP3,
}


class _Kind(StrEnum):
    PASSWORD = "password"  # noqa: S105 -- the word itself
    OAUTH = "OAuth"


def ask_document(kind: type[Account | MultiAccount], /) -> Account | MultiAccount:
    """A document of this kind, from the answers of whoever is at the terminal.

    Raises:
        EOFError: the terminal was closed.
        UnsupportedError: the terminal would show what is typed as a secret.
    """
    if kind is Account:
        return _ask_account()
    receive: list[Account] = []
    while _agrees("another receiving account" if receive else "a receiving account"):
        receive.append(_ask_account())
    return MultiAccount(
        receive_accounts=receive, send_account=_ask_account() if _agrees("the sending account") else None
    )


def _ask_account() -> Account:
    host = _ask("Host")
    port = _ask_port()
    protocol = _choose("Protocol", ProtocolType, _USUAL.get(port, ProtocolType.IMAP))
    security = _choose("Security", SecurityOptions, SecurityOptions.SSL_AUTO)
    credentials = _ask_credentials(_choose("Credentials", _Kind, _Kind.PASSWORD))
    return Account(host=host, port=port, protocol_type=protocol, security_options=security, credentials=credentials)


def _ask_credentials(kind: _Kind, /) -> Credentials:
    login = _ask("Login")
    if kind is _Kind.PASSWORD:
        return PasswordCredentials(login=login, password=_ask_secret("Password"))
    return OAuthCredentials(
        login=login,
        client_id=_ask("Client id", _OPTIONAL, or_nothing=True) or None,
        client_secret=_ask_secret("Client secret"),
        refresh_token=_ask_secret("Refresh token"),
        request_url=_ask("Request URL", _OPTIONAL, or_nothing=True) or None,
    )


def _say(text: str, /, *, end: str = "\n") -> None:
    console(stderr=True).print(text, end=end, soft_wrap=True)


def _ask(label: str, hint: str = "", /, *, or_nothing: bool = False) -> str:
    while True:
        _say(f"{label}{hint}: ", end="")
        try:
            answer = input().strip()
        except UnicodeDecodeError:
            _say("  That is not text.")
            continue
        if answer or or_nothing:
            return answer
        _say("  It cannot be empty.")


def _agrees(what: str, /) -> bool:
    while True:
        match _ask(f"Add {what}?", " [y/n]").casefold():
            case "y" | "yes":
                return True
            case "n" | "no":
                return False
            case _:
                _say("  Answer y or n.")


def _ask_port() -> int:
    while True:
        answer = _ask("Port")
        if answer.isascii() and answer.isdigit() and 1 <= int(answer[:11]) <= _LARGEST_PORT:
            return int(answer)
        _say(f"  A port is a number from 1 to {_LARGEST_PORT}.")


def _choose(label: str, choices: type[C], default: C, /) -> C:
    known = {choice.value.casefold(): choice for choice in choices}
    names = ", ".join(choice.value for choice in choices)
    while True:
        answer = _ask(label, f" ({names}) [{default.value}]", or_nothing=True).casefold()
        if not answer:
            return default
        if answer in known:
            return known[answer]
        _say(f"  One of {names}.")


def _ask_secret(label: str, /) -> Secret:
    while True:
        try:
            with warnings.catch_warnings():
                # Where the echo cannot be turned off, getpass() would warn and go on.
                warnings.simplefilter("error", GetPassWarning)
                answer = Secret(getpass(f"{label} (hidden): "))
        except GetPassWarning:
            raise UnsupportedError("this terminal would show the secret: pipe the document into the command") from None
        except UnicodeDecodeError:
            _say("  That is not text.")
            continue
        if answer:
            return answer
        _say("  It cannot be empty.")
