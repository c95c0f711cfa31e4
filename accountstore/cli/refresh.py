"""The command `refresh`: access tokens that are about to end are renewed, as a cron job does it."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from accountstore import (
    Account,
    AccountStore,
    ConfigError,
    Folder,
    Location,
    MultiAccount,
    NoOAuthError,
    NotFoundError,
    OAuthCredentials,
)
from accountstore.cli.app import folder_of, in_store, location_of
from accountstore.cli.completion import complete_folder, complete_location
from accountstore.cli.documents import kind_at
from accountstore.cli.exits import exit_codes
from accountstore.cli.listing import no_documents
from accountstore.cli.many import documents_below, each
from accountstore.cli.show import console, on_terminal, printable

if TYPE_CHECKING:
    from collections.abc import Generator

    from accountstore import Exchange

__all__ = ("EXAMPLES", "refresh")

EXAMPLES = """\
accountstore refresh mail/team-a/email.account
accountstore refresh --endpoint google mail/me.account
*/5 * * * * accountstore refresh --all mail --within 10m   (in a crontab)"""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def refresh(
    context: typer.Context,
    location: Annotated[
        str | None,
        typer.Argument(
            metavar="[LOCATION]",
            help="Where the document is: [STORAGE:][FOLDER/]FILE.",
            show_default=False,
            autocompletion=complete_location,
        ),
    ] = None,
    everything: Annotated[
        str | None,
        typer.Option(
            "--all",
            metavar="FOLDER",
            help="All documents in a folder and below it: [STORAGE:][FOLDER].",
            autocompletion=complete_folder,
        ),
    ] = None,
    within: Annotated[
        str,
        typer.Option(
            "--within", metavar="TIME", help="Renew tokens that end within this time: 90s, 10m, 1h; 90 is seconds."
        ),
    ] = "1m",
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="The provider's token endpoint, or google, or microsoft; without it, each document's requestUrl.",
            show_default=False,
        ),
    ] = None,
    post: Annotated[
        bool, typer.Option("--post", help="Send the client's secret in the body, not in the Authorization header.")
    ] = False,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Also ask endpoints whose URL is not https: for tests.")
    ] = False,
) -> None:
    """Renew the access tokens of OAuth accounts that are about to end.

    Of all programs that do it at the same time, one asks the provider, and the others wait for its token. Documents
    without OAuth credentials are passed over with --all, and refused without. Prints nothing but errors unless on a
    terminal. Exits with 1 if one fails; the others are renewed all the same. A folder
    without any document is an error. Ctrl-C, SIGTERM and SIGHUP end it when a token that was asked for is saved.
    """
    with exit_codes(), _ended_as_by_ctrl_c():
        leeway = _seconds(within)
        exchange = _exchange(endpoint, "post" if post else "basic", insecure_http=insecure_http)
        if (location is None) == (everything is None):
            raise typer.BadParameter("give either a LOCATION or --all FOLDER")

        async def run(store: AccountStore) -> bool:
            work = _Work(store, exchange, leeway)
            if location is not None:
                await work.one(location_of(location))
                return True
            within = folder_of(everything or "")
            found, _ = await documents_below(store, within)
            if not found:
                raise NotFoundError(no_documents(store, within, str(Folder(within.folder, within.storage))))
            return await each(store, found, work.one_of_many)

        if not in_store(context, run):
            raise typer.Exit(1)


@contextmanager
def _ended_as_by_ctrl_c() -> Generator[None, None, None]:
    """Let the signals that end a job, such as from timeout(1) or systemd, do what Ctrl-C does: what has begun ends
    first, and a token that a provider has granted is saved. That one is not ignored then, as a shell has it for jobs in
    the background: the others come by it.
    """
    ctrl_c = signal.getsignal(signal.SIGINT)
    if ctrl_c is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # not what nohup ignores
    for number in numbers:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if ctrl_c is signal.SIG_IGN:
            signal.signal(signal.SIGINT, ctrl_c)


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


class _Work(NamedTuple):
    """Refreshes documents."""

    store: AccountStore
    exchange: Exchange
    leeway: float

    async def one_of_many(self, at: Location, /) -> None:
        """One document, if it has OAuth credentials."""
        with suppress(NoOAuthError):
            await self.one(at)

    async def one(self, at: Location, /) -> None:
        """One document, of either kind."""
        refresh = self.store.refresh if kind_at(at) is Account else self.store.refresh_multi
        document = (await refresh(at, self.exchange, leeway=self.leeway)).document
        if on_terminal():
            accounts = document.receive_accounts if isinstance(document, MultiAccount) else (document,)
            ends = [
                account.credentials.expires_at
                for account in accounts
                if isinstance(account.credentials, OAuthCredentials) and account.credentials.expires_at is not None
            ]
            until = f"valid until {min(ends):%Y-%m-%d %H:%M:%S} UTC" if ends else "valid"
            console().print(printable(f"{at}: {until}"), style="green", soft_wrap=True)


def _seconds(text: str, /) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise typer.BadParameter("--within takes a time such as 90s, 10m, 1h or 1d; a number alone is seconds")
    return float(int(match[1]) * _UNITS[match[2]])


def _exchange(endpoint: str | None, authentication: Literal["basic", "post"], /, *, insecure_http: bool) -> Exchange:
    try:
        from accountstore.oauth import GOOGLE, MICROSOFT, TokenEndpoint
    except ImportError as error:
        raise ConfigError(error.msg) from None
    url = {"google": GOOGLE, "microsoft": MICROSOFT}.get(endpoint or "", endpoint)
    try:
        return TokenEndpoint(url, authentication=authentication, insecure_http=insecure_http)
    except ConfigError:
        raise typer.BadParameter(
            "--endpoint takes google, microsoft or an https URL, without user or fragment (--insecure-http for tests)"
        ) from None
