"""From what a file says to a document: secrets come from the file, its commands, or the user; none is made up."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal, TypeAlias

from accountstore import (
    Account,
    AccountStoreError,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    Secret,
    UnsupportedError,
)
from accountstore.cli.imports.found import (
    Command,
    Elsewhere,
    Found,
    NoLogin,
    OAuthLogin,
    PasswordLogin,
    Server,
    Source,
    lines_of,
)
from accountstore.model import Credentials

__all__ = ("Commands", "document_of", "evaluate", "words_of")

Commands: TypeAlias = Literal["ask", "run", "refuse"]
"""Whether commands in the file are run: where the user says yes, without asking, or not at all, in a dry run."""

_UNKNOWN = "?"
"""Stands in a dry run for what the file does not say itself."""

_PATIENCE = 120.0
"""Seconds that a command has, in which it may ask for a passphrase."""


def document_of(found: Found, commands: Commands, /) -> Account | MultiAccount:
    """The document of an account: a multi account where it both receives and sends.

    Of a dry run, nobody is asked for it, and it is good for a check alone.

    Raises:
        UnsupportedError: a secret is missing and nobody can be asked.
        AccountStoreError: a command failed.
    """
    servers = [server for server in (found.receive, found.send) if server is not None]
    accounts = [_account(found.name, server, commands) for server in servers]
    if len(accounts) == 1:
        return accounts[0]
    receive, send = accounts
    return MultiAccount(receive_accounts=[receive], send_account=send)


def _account(name: str, server: Server, commands: Commands, /) -> Account:
    return Account(
        host=server.host,
        port=server.port,
        protocol_type=server.protocol,
        security_options=server.security,
        credentials=_credentials(f"{name}, {server.protocol}", server.login, commands),
    )


def _credentials(whose: str, login: PasswordLogin | OAuthLogin | NoLogin, commands: Commands, /) -> Credentials:
    if isinstance(login, NoLogin):
        return NoCredentials()
    name = _text(f"{whose}: login", login.login, commands)
    if isinstance(login, PasswordLogin):
        return PasswordCredentials(login=name, password=_secret(f"{whose}: password", login.password, commands))
    refresh_token = _secret(f"{whose}: refresh token", login.refresh_token, commands)
    client_id = _text(f"{whose}: client id", login.client_id, commands)
    secret = login.client_secret
    return OAuthCredentials(
        login=name,
        client_id=client_id,
        client_secret=None if secret is None else _secret(f"{whose}: client secret", secret, commands),
        refresh_token=refresh_token,
        request_url=login.request_url,
    )


def _text(what: str, source: Source, commands: Commands, /) -> str:
    if isinstance(source, Elsewhere) and commands != "refuse":
        from accountstore.cli.prompts import ask_text

        _require_terminal(what, source)
        return ask_text(what) or ""
    return _secret(what, source, commands).reveal()


def _secret(what: str, source: Source, commands: Commands, /) -> Secret:
    if isinstance(source, Secret):
        return source
    if commands == "refuse":
        return Secret(_UNKNOWN)
    if isinstance(source, Command):
        shown = source.command if isinstance(source.command, str) else " ".join(source.command)
        if commands == "run" or _may_run(what, shown):
            return Secret(_first_line(what, source))
        source = Elsewhere("from a command that was not run; --run-commands runs it")
    from accountstore.cli.prompts import ask_secret

    _require_terminal(what, source)
    return ask_secret(f"{what} ({source.where})" if source.where else what)


def _require_terminal(what: str, source: Elsewhere, /) -> None:
    if not sys.stdin.isatty():
        raise UnsupportedError(f"{what}: {source.where or 'the file does not say it'}; nobody can be asked here")


def _may_run(what: str, command: str, /) -> bool:
    if not sys.stdin.isatty():
        return False
    from accountstore.cli.prompts import ask_whether

    return ask_whether(f"{what}: run {command!r}?", "nothing was imported")


def evaluate(command: str, line: int, commands: Commands, /) -> str:
    """What an `eval` of msmtp's stands for."""
    if commands == "run" or (commands == "ask" and _may_run(f"line {line}", command)):
        return _first_line(f"line {line}", Command(command))
    raise UnsupportedError(f"line {line}: eval runs a command: allow it by --run-commands")


def _first_line(what: str, command: Command, /) -> str:
    """The first line that a command prints. Its error says nothing of what it printed."""
    try:
        done = subprocess.run(  # noqa: S603 -- as the program does whose file it is
            command.command,
            shell=isinstance(command.command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=_PATIENCE,
        )
        line = lines_of(done.stdout.decode())[0]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise AccountStoreError(f"{what}: the command failed ({type(error).__name__})") from None
    if done.returncode or not line:
        raise AccountStoreError(f"{what}: the command ended with {done.returncode} and no line") from None
    return line


def words_of(server: Server, /) -> dict[str, object]:
    """A server for showing, with words for where each secret comes from."""
    fields: dict[str, object] = {
        "protocol": server.protocol,
        "host": server.host,
        "port": server.port,
        "security": server.security,
    }
    if isinstance(server.login, NoLogin):
        return fields | {"credentials": "none"}
    fields["login"] = server.login.login.reveal() if isinstance(server.login.login, Secret) else "asked for"
    if isinstance(server.login, PasswordLogin):
        return fields | {"password": _words(server.login.password)}
    return fields | {"refresh token": _words(server.login.refresh_token)}


def _words(source: Source, /) -> str:
    if isinstance(source, Secret):
        return "in the file"
    return "from a command" if isinstance(source, Command) else "asked for"
