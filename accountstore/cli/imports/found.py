"""What a configuration file of another program says of its accounts, and where their secrets are."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from accountstore import ProtocolType, Secret, SecurityOptions

__all__ = (
    "Command",
    "Elsewhere",
    "Found",
    "NoLogin",
    "OAuthLogin",
    "PasswordLogin",
    "Refused",
    "Server",
    "Source",
    "lines_of",
    "port_of",
)

_PORT_DIGITS = 5


class Command(Struct, frozen=True):
    """A program that prints the text in its first line: a line for the shell, or a program with its arguments."""

    command: str | tuple[str, ...]


class Elsewhere(Struct, frozen=True):
    """A place that is not looked at, in words; empty where the file says nothing."""

    where: str = ""


Source: TypeAlias = Secret | Command | Elsewhere
"""Where a text comes from that may be secret."""


class PasswordLogin(Struct, frozen=True, kw_only=True):
    """A login with a password."""

    login: Source
    password: Source


class OAuthLogin(Struct, frozen=True, kw_only=True):
    """A login with a refresh token. `client_secret` is None where there is none."""

    login: Source
    refresh_token: Source
    client_id: Source = Elsewhere()
    client_secret: Source | None = None
    request_url: str | None = None


class NoLogin(Struct, frozen=True):
    """No login at all."""


class Server(Struct, frozen=True, kw_only=True):
    """A mail server, with the login there."""

    protocol: ProtocolType
    host: str
    port: int
    security: SecurityOptions
    login: PasswordLogin | OAuthLogin | NoLogin


class Found(Struct, frozen=True):
    """An account: a server to receive from, one to send by, or both. `left_out`, if not empty, is to be told."""

    name: str
    receive: Server | None
    send: Server | None
    left_out: str = ""


class Refused(Struct, frozen=True):
    """An account that cannot be imported, and why."""

    name: str
    reason: str


def lines_of(text: str, /) -> list[str]:
    """The lines of a text as those programs read it: Unicode has more ends of a line, which are a password's own."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def port_of(text: str, /) -> int | None:
    """The port that a text says; None where it is none, however long it is."""
    return int(text) if text.isdecimal() and len(text) <= _PORT_DIGITS else None
