"""An account from the options of `save`: secrets come from standard input or the environment, never as an argument."""

from __future__ import annotations

import os
import sys

import typer
from msgspec import Struct

from accountstore import (
    Account,
    DecodeError,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
)
from accountstore.cli.ports import port_of
from accountstore.model import Credentials

__all__ = ("Fields", "account_of")

_LONGEST = 64 * 1024
_STDIN = "-"


class Fields(Struct, frozen=True, kw_only=True):
    """What the options say. A secret is the name of an environment variable, `-` for standard input, or None."""

    host: str | None
    port: int | None
    protocol: ProtocolType | None
    security: SecurityOptions | None
    login: str | None
    password: str | None
    client_id: str | None
    client_secret: str | None
    refresh_token: str | None
    request_url: str | None

    @property
    def given(self) -> bool:
        """Whether any option was given."""
        return any(getattr(self, name) is not None for name in self.__struct_fields__)


def account_of(fields: Fields, /) -> Account:
    """The account that the options make.

    Raises:
        typer.BadParameter: options are missing, or do not go together.
        DecodeError: standard input has no secret.
    """
    if fields.host is None:
        raise typer.BadParameter("an account by options needs --host")
    port = fields.port or port_of(fields.protocol, fields.security)
    if port is None:
        raise typer.BadParameter("say --port, or --protocol and a --security that tell it")
    return Account(
        host=fields.host,
        port=port,
        protocol_type=fields.protocol,
        security_options=fields.security,
        credentials=_credentials_of(fields),
    )


def _credentials_of(fields: Fields, /) -> Credentials:
    secrets = {name: getattr(fields, name) for name in ("password", "client_secret", "refresh_token")}
    if [*secrets.values()].count(_STDIN) > 1:
        raise typer.BadParameter("standard input has one secret: the others come from the environment")
    is_oauth = any(value is not None for value in (fields.client_secret, fields.refresh_token, fields.client_id))
    if fields.login is None:
        if is_oauth or fields.password is not None or fields.request_url is not None:
            raise typer.BadParameter("credentials need --login")
        return NoCredentials()
    if is_oauth and fields.password is not None:
        raise typer.BadParameter("an account has a password or OAuth credentials, not both")
    if fields.password is not None:
        return PasswordCredentials(login=fields.login, password=_secret("password", fields.password))
    if fields.refresh_token is None:
        raise typer.BadParameter("--login needs --password-stdin, --password-env or one of the refresh token's")
    return OAuthCredentials(
        login=fields.login,
        client_id=fields.client_id,
        client_secret=None if fields.client_secret is None else _secret("client secret", fields.client_secret),
        refresh_token=_secret("refresh token", fields.refresh_token),
        request_url=fields.request_url,
    )


def _secret(what: str, source: str, /) -> Secret:
    if source == _STDIN:
        return _typed(what) if sys.stdin.isatty() else _piped(what)
    if not os.environ.get(source):
        state = "is empty" if source in os.environ else "is not set"
        raise typer.BadParameter(f"the environment variable {source!r} of the {what} {state}")
    return Secret(os.environ[source])


def _typed(what: str, /) -> Secret:
    from accountstore.cli.prompts import ask_secret

    return ask_secret(what.capitalize())


def _piped(what: str, /) -> Secret:
    """The one line on standard input, without its end, and the byte order mark that a shell may put before it."""
    data = sys.stdin.buffer.read(_LONGEST + 2)
    is_too_long = len(data) > _LONGEST + 1  # with a line's end
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    line = text.removesuffix("\n").removesuffix("\r")
    del data, text
    if is_too_long:
        raise DecodeError(f"standard input: the {what} is longer than {_LONGEST} bytes")
    if not line or "\n" in line or "\0" in line:
        raise DecodeError(f"standard input: the {what} must be one line of UTF-8 text")
    return Secret(line)
