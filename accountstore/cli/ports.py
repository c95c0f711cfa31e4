"""The ports of mail services (RFC 8314, RFC 6409), where protocol and security say which is meant."""

from __future__ import annotations

from accountstore import ProtocolType, SecurityOptions

__all__ = ("port_of", "protocol_of")

_PORTS = {
    (ProtocolType.IMAP, SecurityOptions.SSL_IMPLICIT): 993,
    (ProtocolType.IMAP, SecurityOptions.SSL_EXPLICIT): 143,
    (ProtocolType.IMAP, SecurityOptions.NONE): 143,
    (ProtocolType.POP3, SecurityOptions.SSL_IMPLICIT): 995,
    (ProtocolType.POP3, SecurityOptions.SSL_EXPLICIT): 110,
    (ProtocolType.POP3, SecurityOptions.NONE): 110,
    (ProtocolType.SMTP, SecurityOptions.SSL_IMPLICIT): 465,
    (ProtocolType.SMTP, SecurityOptions.SSL_EXPLICIT): 587,
    (ProtocolType.SMTP, SecurityOptions.NONE): 25,
    (ProtocolType.EWS, SecurityOptions.SSL_IMPLICIT): 443,
}
_PROTOCOLS = {port: protocol for (protocol, _), port in _PORTS.items()}


def port_of(protocol: ProtocolType | None, security: SecurityOptions | None, /) -> int | None:
    """The port of a service that is secured so; None where that does not say it."""
    return _PORTS.get((protocol, security)) if protocol and security else None


def protocol_of(port: int, /) -> ProtocolType | None:
    """The protocol that is spoken at a port."""
    return _PROTOCOLS.get(port)
