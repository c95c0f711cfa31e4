"""mbsync's configuration (isync 1.0 to 1.5): the IMAP accounts, and the IMAP stores that are accounts themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from accountstore import ConfigError, ProtocolType, Secret, SecurityOptions
from accountstore.cli.imports.found import (
    Command,
    Elsewhere,
    Found,
    OAuthLogin,
    PasswordLogin,
    Refused,
    Server,
    Source,
    lines_of,
    port_of,
)

__all__ = ("parse",)

_TYPES: Final = {
    "none": SecurityOptions.NONE,
    "starttls": SecurityOptions.SSL_EXPLICIT,
    "imaps": SecurityOptions.SSL_IMPLICIT,
}
_SECTIONS: Final = frozenset({"imapaccount", "imapstore", "maildirstore", "channel", "group"})
_TOKENS: Final = frozenset({"XOAUTH2", "OAUTHBEARER"})
_SPACES: Final = " \t\n\v\f\r"
"""C's, and none of Unicode's: those are characters of a word."""


def parse(text: str, /) -> list[Found | Refused]:
    """The accounts of a file.

    Raises:
        ConfigError: a quote is not closed; the message names the line.
    """
    found: list[Found | Refused] = []
    for kind, name, section in _sections(text):
        if kind == "imapaccount" or (kind == "imapstore" and "account" not in section):
            found.append(_account(name, section))
    return found


def _sections(text: str, /) -> Iterator[tuple[str, str, Mapping[str, list[str]]]]:
    """Each section with the words behind its keywords: it begins with its own and ends at an empty line."""
    kind, name, section = "", "", dict[str, list[str]]()
    for number, line in enumerate([*lines_of(text), ""], 1):
        if line.lstrip(_SPACES).startswith("#"):
            continue
        words = _words(line, number)
        keyword = words[0].lower() if words else ""
        if not words or keyword in _SECTIONS:
            if kind:
                yield kind, name, section
            kind, name, section = keyword, " ".join(words[1:2]), {}
        elif kind:
            section[keyword] = words[1:]


def _words(line: str, number: int, /) -> list[str]:
    """The words of a line; double quotes keep spaces, a backslash keeps the next character, # begins a comment."""
    words: list[str] = []
    word, quoted, begun = "", False, False
    characters = iter(line)
    for c in characters:
        if c == "\\":
            word, begun = word + next(characters, ""), True
        elif c == '"':
            quoted, begun = not quoted, True
        elif quoted or c not in _SPACES:
            if c == "#" and not begun:
                break
            word, begun = word + c, True
        elif begun:
            words.append(word)
            word, begun = "", False
    if quoted:
        raise ConfigError(f"line {number}: a quote is not closed")
    return [*words, word] if begun else words


def _account(name: str, section: Mapping[str, list[str]], /) -> Found | Refused:
    def value(*keywords: str) -> str:
        return next((section[keyword][0] for keyword in keywords if section.get(keyword)), "")

    host = value("host")
    if "tunnel" in section:
        return Refused(name, "is reached by a tunnel, which no account here can say")
    security = _security(value("tlstype", "ssltype"), value("useimaps"), value("requiressl"), host)
    if security is None:
        return Refused(name, "TLSType: must be None, STARTTLS or IMAPS")
    host = host.removeprefix("imaps:").removeprefix("imap:")
    if not host:
        return Refused(name, "Host: is missing")
    port = port_of(value("port") or ("993" if security is SecurityOptions.SSL_IMPLICIT else "143"))
    if port is None:
        return Refused(name, "Port: must be a number")
    login = _source(value("user"), value("usercmd"), "")
    password = _source(value("pass"), value("passcmd"), _keychain(value("usekeychain")))
    mechanisms = {word.upper() for word in section.get("authmechs", section.get("authmech", []))}
    # Only where every way in is one by token, the password is an access token.
    is_token = bool(mechanisms) and mechanisms <= _TOKENS
    refresh_token = Elsewhere("mbsync has access tokens only")
    return Found(
        name,
        Server(
            protocol=ProtocolType.IMAP,
            host=host,
            port=port,
            security=security,
            login=OAuthLogin(login=login, refresh_token=refresh_token)
            if is_token
            else PasswordLogin(login=login, password=password),
        ),
        None,
    )


def _security(word: str, use_imaps: str, require: str, host: str, /) -> SecurityOptions | None:
    """What secures a connection; None for a word that is not known. Releases before 1.2 have two switches instead."""
    if word:
        return _TYPES.get(word.lower())
    if _is_yes(use_imaps) or host.startswith("imaps:"):
        return SecurityOptions.SSL_IMPLICIT
    return SecurityOptions.SSL_AUTO if require and not _is_yes(require) else SecurityOptions.SSL_EXPLICIT


def _is_yes(word: str, /) -> bool:
    return word.lower() in {"yes", "true", "on", "1"}


def _keychain(word: str, /) -> str:
    return "mbsync has it from the macOS Keychain" if _is_yes(word) else ""


def _source(text: str, command: str, where: str, /) -> Source:
    if text:
        return Secret(text)
    return Command(command.removeprefix("+")) if command else Elsewhere(where)
