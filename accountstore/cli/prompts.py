"""Questions that make a document, for `save` on a terminal: click's prompts on stderr, secrets hidden."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from getpass import GetPassWarning
from typing import TYPE_CHECKING, Any

import click

from accountstore import (
    Account,
    AccountStoreError,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
    UnsupportedError,
)
from accountstore.cli.ports import protocol_of
from accountstore.cli.show import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from accountstore.model import Credentials

__all__ = ("ask_document", "ask_secret", "ask_text", "ask_whether")

_PORT = click.IntRange(1, 65535)


def ask_document(kind: type[Account | MultiAccount], /) -> Account | MultiAccount:
    """Ask for a document of this kind.

    Raises:
        EOFError: the terminal was closed.
        KeyboardInterrupt: Ctrl-C.
        UnsupportedError: the terminal would show what is typed as a secret.
    """
    with _questions():
        return _ask_account() if kind is Account else _ask_multi()


def ask_whether(question: str, without: str, /) -> bool:
    """Ask a question that is answered by yes or no; Enter means no. `without` says what an end of the input leaves.

    Raises:
        AccountStoreError: the terminal was closed.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        with _questions():
            return bool(_ask(printable(question), question=click.confirm, default=False))
    except EOFError:
        raise AccountStoreError(f"the question was not answered: {without}") from None


def ask_secret(label: str, /, *, required: bool = True) -> Secret:
    """Ask for a secret, without an echo. Errors as `ask_document`."""
    with _questions():
        return _ask_secret(printable(label), required=required)


def ask_text(label: str, /, *, required: bool = True) -> str | None:
    """Ask for a text; None where it was left empty. Errors as `ask_document`."""
    with _questions():
        return _ask_text(printable(label)) if required else _ask_optional(printable(label))


@contextmanager
def _questions() -> Generator[None, None, None]:
    """Turn click's exceptions into ours, and refuse a terminal that would show secrets."""
    try:
        with warnings.catch_warnings():
            # Where the echo cannot be turned off, getpass() would warn and go on.
            warnings.simplefilter("error", GetPassWarning)
            yield
    except GetPassWarning:
        raise UnsupportedError("this terminal would show the secret: pipe it into the command") from None
    except click.Abort as abort:  # click's for both
        raise (EOFError if isinstance(abort.__context__, EOFError) else KeyboardInterrupt) from None


def _ask_multi() -> MultiAccount:
    receive: list[Account] = []
    while _confirm("Add another receiving account?" if receive else "Add a receiving account?"):
        receive.append(_ask_account())
    send = _ask_account() if _confirm("Add the sending account?") else None
    return MultiAccount(receive_accounts=receive, send_account=send)


def _ask_account() -> Account:
    host = _ask_text("Host")
    port = int(_ask_needed("Port", _PORT))
    protocol = _choose("Protocol", ProtocolType, protocol_of(port) or "IMAP")
    security = _choose("Security", SecurityOptions, "SSLAuto")
    kind = _choose("Credentials", ("password", "OAuth", "none"), "password")
    if kind == "none":
        credentials: Credentials = NoCredentials()
    elif kind == "password":
        credentials = PasswordCredentials(login=_ask_text("Login"), password=_ask_secret("Password"))
    else:
        credentials = OAuthCredentials(
            login=_ask_text("Login"),
            client_id=_ask_optional("Client id"),
            client_secret=_ask_secret("Client secret", required=False),
            refresh_token=_ask_secret("Refresh token"),
            request_url=_ask_optional("Request URL"),
        )
    return Account(
        host=host,
        port=port,
        protocol_type=ProtocolType(protocol),
        security_options=SecurityOptions(security),
        credentials=credentials,
    )


def _ask(label: str, /, *, question: Callable[..., Any] = click.prompt, **options: Any) -> Any:
    while True:
        try:
            return question(label, err=True, **options)
        except UnicodeDecodeError:
            click.echo("Error: That is not text.", err=True)


def _ask_text(label: str, /) -> str:
    return str(_ask_needed(label, click.STRING))


def _ask_needed(label: str, kind: click.ParamType[Any], /, *, hide_input: bool = False) -> Any:
    def filled(answer: str) -> Any:
        if not answer.strip():
            raise click.BadParameter("It cannot be empty.")
        return kind.convert(answer if hide_input else answer.strip(), None, None)

    # With a default, as click asks again without a word after an empty line.
    return _ask(label, value_proc=filled, hide_input=hide_input, default="", show_default=False)


def _ask_optional(label: str, /) -> str | None:
    return _ask(f"{label} (may be left empty)", default="", show_default=False).strip() or None


def _ask_secret(label: str, /, *, required: bool = True) -> Secret:
    if required:
        return Secret(_ask_needed(f"{label} (hidden)", click.STRING, hide_input=True))
    return Secret(_ask(f"{label} (hidden, may be left empty)", hide_input=True, default="", show_default=False))


def _choose(label: str, choices: Iterable[str], default: str, /) -> str:
    # As plain strings: of an enum, click would offer the names.
    offered = click.Choice([*map(str, choices)], case_sensitive=False)
    return str(_ask(label, type=offered, default=default))


def _confirm(label: str, /) -> bool:
    return bool(_ask(label, question=click.confirm, default=None))
