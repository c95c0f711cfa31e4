"""The command line itself: its options, and what all commands share. A LOCATION is what `Location.parse` reads."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import anyio
import typer

from accountstore import (
    AccountStore,
    Location,
    LocationError,
    NotFoundError,
    StoreConfig,
    UnsupportedError,
    __version__,
)
from accountstore.cli.completion import complete_file, complete_folder, complete_location, complete_storage
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Group
from accountstore.cli.listing import leading_on
from accountstore.cli.show import console, on_terminal, printable
from accountstore.config_file import load_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = (
    "Create",
    "FolderArgument",
    "Json",
    "StorageArgument",
    "Where",
    "app",
    "check_lasting",
    "config_of",
    "done",
    "examples",
    "folder_of",
    "group",
    "in_store",
    "location_of",
    "mode_of",
    "not_a_folder",
    "storage_named",
)

T = TypeVar("T")


def storage_named(text: str | None) -> str | None:
    """The name of a storage, which may be written with the colon that a location has behind it."""
    return text and (text.removesuffix(":") or text)


Where = Annotated[
    str,
    typer.Argument(
        metavar="LOCATION",
        help="Where the document is: [STORAGE:][FOLDER/]FILE.",
        show_default=False,
        autocompletion=complete_location,
    ),
]
FolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="[STORAGE:][FOLDER]",
        help="The folder; without it, the root.",
        show_default=False,
        autocompletion=complete_folder,
    ),
]
StorageArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[STORAGE]",
        help="The storage; without it, the default one.",
        show_default=False,
        callback=storage_named,
        autocompletion=complete_storage,
    ),
]
Create = Annotated[bool, typer.Option("--create", help="Fail if there is a document already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def group(*, without_command: bool = False) -> typer.Typer:
    """A group of commands that is drawn as all are, and shows no local variables in a traceback."""
    return typer.Typer(
        add_completion=False,  # `accountstore completion` has it
        cls=Group,
        invoke_without_command=without_command,
        no_args_is_help=not without_command,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


app: typer.Typer = group()


def _print_version(asked: bool) -> None:
    if asked:
        with exit_codes():
            sys.stdout.write(f"accountstore {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="The configuration, a TOML file. Without it: the file that ACCOUNTSTORE_CONFIG names, else "
            "./accountstore.toml, else the one in your configuration folder, else one local storage 'default'.",
            show_default=False,
            autocompletion=complete_file,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Keep e-mail account credentials on any storage.

    A LOCATION names a document as STORAGE:FOLDER/FILE, such as "First Storage:mail/team-a/email.account". Without
    STORAGE it is the default one; without FOLDER, its root. One account is in *.account, several in *.multi.account.

    Exit codes: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage; 3 conflicts (migrate); 130
    interrupted.
    """
    context.obj = config


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n".join(lines)


def config_of(context: typer.Context, /) -> StoreConfig:
    """The configuration that the command line names."""
    return load_config(context.obj)


def check_lasting(context: typer.Context, storage: str | None, /, *, moves: bool) -> None:
    """Warn of a storage that ends with this command, as its memory does; refuse to move documents there."""
    config = config_of(context)
    name = storage or config.default_name()
    if name not in config.storages or config.storages[name].scheme.lower() != "memory":
        return
    what = f"{name}: is in the memory of this command alone, and ends with it"
    if moves:
        raise UnsupportedError(f"{what}: nothing is moved there")
    print_error(f"warning: {what}")


def location_of(text: str, given: str | None = None, /) -> Location:
    """The location that a text names; an error quotes what was `given`."""
    try:
        return Location.parse(text)
    except LocationError as error:
        raise LocationError(f"{given or text!r}: {error.message}") from None


def folder_of(text: str, /) -> Location:
    """A location in the folder that a text names, whose file name means nothing."""
    path = text.removesuffix("/")
    try:
        return location_of(f"{path}{'' if path[-1:] in {'', ':'} else '/'}any.account", text)
    except LocationError as error:
        raise LocationError(f"{error.message}{not_a_folder(text)}") from None


def not_a_folder(text: str, /) -> str:
    """What is said besides where a document's location stands in a folder's place."""
    if not text.removesuffix("/").endswith(".account"):
        return ""
    return "; a folder is wanted here (accountstore get shows a document, accountstore cp copies one)"


def in_store(context: typer.Context, work: Callable[[AccountStore], Awaitable[T]], /) -> T:
    """What `work` does with the store of the configuration that the command line names."""

    async def run() -> T:
        async with AccountStore.open(context.obj) as store:
            try:
                return await work(store)
            except NotFoundError as error:
                raise leading_on(error, store) from None

    return anyio.run(run)


def done(what: str, /) -> None:
    """Tell people what was done; a program needs no word."""
    if on_terminal():
        console().print(printable(what), style="green", soft_wrap=True)


def mode_of(create: bool, /) -> Literal["create", "overwrite"]:
    """The mode of a write."""
    return "create" if create else "overwrite"
