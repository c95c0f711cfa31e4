"""The command that takes over accounts of other programs: import."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ConfigError,
    ExistsError,
    ExtensionError,
    Location,
    LocationError,
    MultiAccount,
    StoreConfig,
)
from accountstore.cli.app import Json, app, config_of, done, examples, folder_of, in_store, location_of
from accountstore.cli.completion import complete_file, complete_folder
from accountstore.cli.documents import kind_at
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command
from accountstore.cli.listing import tell_storage_meant
from accountstore.cli.many import each
from accountstore.cli.show import printable, show_line
from accountstore.codecs import JSON
from accountstore.files import read_file
from accountstore.location import Located

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from accountstore.cli.imports.autoconfig import Method
    from accountstore.cli.imports.found import Found, Refused
    from accountstore.cli.imports.resolving import Commands

__all__ = ("import_accounts",)

T = TypeVar("T")
R = TypeVar("R")

_LONGEST = 1024 * 1024
_FORMATS = ("himalaya", "mbsync", "msmtp", "autoconfig")


@app.command(
    "import",
    cls=Command,
    epilog=examples(
        "accountstore import himalaya ~/.config/himalaya/config.toml mail/",
        "accountstore import mbsync ~/.mbsyncrc --dry-run",
        'accountstore import msmtp ~/.msmtprc "Archive:" --account work --run-commands',
        "accountstore import autoconfig gmail.com.xml --email me@gmail.com --auth password",
    ),
)
def import_accounts(
    context: typer.Context,
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(_FORMATS)}.", show_default=False)],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The other program's file.", show_default=False, autocompletion=complete_file
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="[TARGET]",
            help="The folder for the documents, or the location of the one document.",
            show_default=False,
            autocompletion=complete_folder,
        ),
    ] = "",
    names: Annotated[
        list[str], typer.Option("--account", metavar="NAME", help="Import this account; may be repeated.")
    ] = [],  # noqa: B006 -- read only
    email: Annotated[
        str | None, typer.Option("--email", metavar="ADDRESS", help="Whose account it will be, for autoconfig.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="METHOD", help="For autoconfig: password or oauth, where a server takes both."),
    ] = None,
    run_commands: Annotated[
        bool,
        typer.Option("--run-commands", help="Run the file's commands for secrets without asking."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace documents that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be imported; ask for nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Import the accounts of another mail program.

    himalaya (config.toml), mbsync (mbsyncrc), msmtp (msmtprc), or an autoconfiguration of Thunderbird's (XML). An
    account that receives and sends becomes NAME.multi.account, any other NAME.account.

    Secrets are taken from where the file says: from the file, or by its command, which you are asked about. Any other
    is asked for. A document that is there is left as it is, unless --replace is given.

    What cannot be imported is told; the rest is. Then it ends with 1.
    """
    if form not in _FORMATS:
        raise typer.BadParameter(f"FORMAT must be one of {', '.join(_FORMATS)}")
    if auth not in {None, "password", "oauth"}:
        raise typer.BadParameter("--auth must be password or oauth")
    with exit_codes():
        _check_storage(config_of(context), target)  # before anything is asked
        commands: Commands = "run" if run_commands else "refuse" if dry_run else "ask"
        method: Method | None = "password" if auth == "password" else "oauth" if auth else None
        accounts, complete = _chosen(file, _parsed(form, file, email, method, commands), names)
        if len(accounts) > 1 and target.endswith(".account"):
            raise LocationError(f"{target!r}: is one location for several accounts: choose one by --account")
        # Everything is asked for before the store is opened, whose event loop must not wait.
        secrets: Commands = "refuse" if dry_run else commands
        documents = _each_of(_places(target, accounts), lambda place: _document(*place, secrets))
        if dry_run:
            for (found, where), _ in documents:
                _show(where, found, as_json=as_json)
            held = True
        else:
            held = _save(context, [(where, data) for (_, where), data in documents], as_json=as_json, replace=replace)
        if not (held and complete and len(documents) == len(accounts)):
            raise typer.Exit(1)


def _check_storage(config: StoreConfig, target: str, /) -> None:
    """Raise `LocationError` where the storage of the target is not configured."""
    storage = (location_of(target) if target.endswith(".account") else folder_of(target)).storage
    if storage is not None and storage not in config.storages:
        raise LocationError(f"the storage {storage!r} is not configured; known: {', '.join(config.storages)}")


def _each_of(items: Iterable[T], act: Callable[[T], R], /) -> list[tuple[T, R]]:
    """Each item with what `act` makes of it, but for those with which it fails, which is told."""
    made: list[tuple[T, R]] = []
    for item in items:
        try:
            made.append((item, act(item)))
        except AccountStoreError as error:
            print_error(error)
    return made


def _parsed(
    form: str, file: str, email: str | None, method: Method | None, commands: Commands, /
) -> list[Found | Refused]:
    try:
        return _parse(form, read_file(file, limit=_LONGEST), email, method, commands)
    except AccountStoreError as error:
        raise type(error)(f"{file}: {error.message}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None


def _parse(
    form: str, data: bytes, email: str | None, method: Method | None, commands: Commands, /
) -> list[Found | Refused]:
    from accountstore.cli.imports import autoconfig, himalaya, mbsync, msmtp
    from accountstore.cli.imports.resolving import evaluate

    if form == "autoconfig":
        return autoconfig.parse(data, email, method)
    text = data.decode("utf-8-sig")
    if form == "msmtp":
        return msmtp.parse(text, lambda command, line: evaluate(command, line, commands))
    parse: Callable[[str], list[Found | Refused]] = himalaya.parse if form == "himalaya" else mbsync.parse
    return parse(text)


def _chosen(file: str, accounts: Sequence[Found | Refused], names: Sequence[str], /) -> tuple[list[Found], bool]:
    """The accounts that are named, or all, and whether all of them can be imported. Tells of those that cannot."""
    from accountstore.cli.imports.found import Found

    unknown = [name for name in names if name not in {account.name for account in accounts}]
    if unknown:
        known = ", ".join(repr(account.name) for account in accounts)
        raise ConfigError(f"{file}: has no account {unknown[0]!r}; known: {known}")
    chosen = [account for account in accounts if not names or account.name in names]
    if not chosen:
        raise ConfigError(f"{file}: has no account")
    for account in chosen:
        if not isinstance(account, Found):
            print_error(f"{account.name!r} is not imported: {account.reason}")
        elif account.left_out:
            print_error(f"{account.name!r} is imported without {account.left_out}")
    found = [account for account in chosen if isinstance(account, Found)]
    return found, len(found) == len(chosen)


def _places(target: str, accounts: Sequence[Found], /) -> list[tuple[Found, Location]]:
    """Each account with where it goes, but for those that have no place, or one with another account, which is told."""
    places = _each_of(accounts, lambda found: _place(target, found))
    counts = Counter(where for _, where in places)
    for where, count in counts.items():
        if count > 1:
            print_error(f"{where}: {count} accounts of the file would be this document: none of them is imported")
    return [(found, where) for found, where in places if counts[where] == 1]


def _place(target: str, found: Found, /) -> Location:
    """Where an account goes."""
    extension = ".multi.account" if found.receive and found.send else ".account"
    if target.endswith(".account"):
        where = location_of(target)
    else:
        folder = folder_of(target)
        try:
            where = Location(f"{found.name}{extension}", folder=folder.folder, storage=folder.storage)
        except LocationError as error:
            raise LocationError(f"the account {found.name!r}: {error.message}: give its location as TARGET") from None
    if kind_at(where) is not (MultiAccount if found.receive and found.send else Account):
        raise ExtensionError(f"the account needs a file name in {extension}", location=where)
    return where


def _document(found: Found, where: Location, commands: Commands, /) -> bytes:
    """The JSON of an account's document, checked."""
    from accountstore.cli.imports.resolving import document_of

    document = document_of(found, commands)
    with Located(where):
        return JSON.encode(document)


def _show(where: Location, found: Found, /, *, as_json: bool) -> None:
    from accountstore.cli.imports.resolving import words_of

    servers = {
        kind: words_of(server) for kind, server in (("receives", found.receive), ("sends", found.send)) if server
    }
    if as_json:
        show_line({"location": str(where), **servers})
        return
    sys.stdout.write(f"{printable(str(where))}\n")
    for kind, words in servers.items():
        sys.stdout.write(f"  {kind}: {printable(', '.join(f'{key} {value}' for key, value in words.items()))}\n")


def _save(
    context: typer.Context, documents: Sequence[tuple[Location, bytes]], /, *, as_json: bool, replace: bool
) -> bool:
    """Whether all documents were saved."""

    async def work(store: AccountStore) -> bool:
        for where, _ in documents[:1]:  # all are in one folder
            await tell_storage_meant(store, where)

        async def save(item: tuple[Location, bytes]) -> None:
            try:
                await store.save_json(*item, mode="overwrite" if replace else "create")
            except ExistsError as error:
                raise ExistsError(f"{error.message}: --replace replaces it", location=error.location) from None
            if as_json:
                show_line({"location": str(item[0])})
            done(f"imported {item[0]}")

        return await each(store, documents, save, at_once=1)

    return in_store(context, work)
