"""Thunderbird's autoconfiguration (`config-v1.1.xml`): a provider's servers, for one e-mail address.

The file lists servers in the order of preference; the first one of each kind that an account can say is taken. It never
has a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from msgspec import Struct

from accountstore import ConfigError, ProtocolType, Secret, SecurityOptions
from accountstore.cli.imports.found import (
    Elsewhere,
    Found,
    NoLogin,
    OAuthLogin,
    PasswordLogin,
    Refused,
    Server,
    port_of,
)

__all__ = ("Method", "parse")

Method: TypeAlias = Literal["password", "oauth"]

_PROTOCOLS: Final = {
    "imap": ProtocolType.IMAP,
    "pop3": ProtocolType.POP3,
    "smtp": ProtocolType.SMTP,
    "exchange": ProtocolType.EWS,
}
_SECURITY: Final = {
    "plain": SecurityOptions.NONE,
    "ssl": SecurityOptions.SSL_IMPLICIT,
    "tls": SecurityOptions.SSL_IMPLICIT,
    "starttls": SecurityOptions.SSL_EXPLICIT,
}
_PASSWORD: Final = frozenset({"password-cleartext", "plain", "password-encrypted", "secure", "ntlm"})
_NONE: Final = frozenset({"none", "client-ip-address"})


def parse(data: bytes, address: str | None, method: Method | None, /) -> list[Found | Refused]:
    """The account of a file, for an e-mail address that may stand in logins and hosts, and a way to log in if it must
    be that one.

    Raises:
        ConfigError: it is no such XML, or declares a document type or entities, which such a file never has.
    """
    root = _read(data)
    provider = root.find("emailProvider")
    if provider is None:
        raise ConfigError("has no emailProvider")
    name = address or provider.get("id") or "account"
    wanted = _Wanted(address, method, root.findtext("oAuth2/tokenURL"))
    receive, send = (_first(provider.findall(f"{way}Server"), wanted) for way in ("incoming", "outgoing"))
    if receive is None and send is None:
        return [Refused(name, "has no server that an account can say")]
    return [Found(name, receive, send)]


class _Wanted(Struct, frozen=True):
    address: str | None
    method: Method | None
    token_url: str | None


def _read(data: bytes, /) -> Element:
    """The root of an XML document without document type, and so without entities of its own."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ConfigError(f"is no XML: {expat.ErrorString(error.code)} (line {error.lineno})") from None
    except ConfigError:
        raise
    except (LookupError, ValueError):  # expat asks Python for what it does not know itself
        raise ConfigError("declares an encoding that cannot be read: save it as UTF-8") from None
    return builder.close()


def _refuse(*_: object) -> None:
    raise ConfigError("declares a document type: nothing of it is read")


def _first(elements: Sequence[Element], wanted: _Wanted, /) -> Server | None:
    found = [server for element in elements if (server := _server(element, wanted)) is not None]
    # Exchange stands first in some files, for programs that have an add-on for it.
    return next((server for server in found if server.protocol is not ProtocolType.EWS), next(iter(found), None))


def _server(element: Element, wanted: _Wanted, /) -> Server | None:
    """A server, or None of one that an account cannot say."""
    protocol = _PROTOCOLS.get(element.get("type", "").lower())
    host = _filled(element.findtext("hostname", ""), wanted.address)
    port = port_of(element.findtext("port", "").strip())
    security = _SECURITY.get(element.findtext("socketType", "").strip().lower())
    login = _login(element, wanted)
    if protocol is None or not host or port is None or security is None or login is None:
        return None
    return Server(protocol=protocol, host=host, port=port, security=security, login=login)


def _login(element: Element, wanted: _Wanted, /) -> PasswordLogin | OAuthLogin | NoLogin | None:
    """The first way in that an account can say; a password where the file names none."""
    text = _filled(element.findtext("username", ""), wanted.address)
    login = Secret(text) if text else Elsewhere()
    for named in [found.text or "" for found in element.findall("authentication")] or ["password-cleartext"]:
        way = named.strip().lower()
        if way in _PASSWORD and wanted.method != "oauth":
            return PasswordLogin(login=login, password=Elsewhere())
        if way == "oauth2" and wanted.method != "password":
            return OAuthLogin(login=login, refresh_token=Elsewhere(), request_url=wanted.token_url)
        if way in _NONE and wanted.method is None:
            return NoLogin()
    return None


def _filled(text: str, address: str | None, /) -> str:
    """A text with the parts of the address in it; empty where it needs one that is not given."""
    text = text.strip()
    if "%EMAIL" not in text:
        return text
    if address is None:
        return ""
    local, _, domain = address.rpartition("@")
    for name, part in (("%EMAILADDRESS%", address), ("%EMAILLOCALPART%", local), ("%EMAILDOMAIN%", domain)):
        text = text.replace(name, part)
    return text
