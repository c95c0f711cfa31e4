"""The commands: their arguments, help and output. A LOCATION is what `Location.parse` reads."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import anyio
import msgspec
import typer
from anyio.from_thread import start_blocking_portal

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ExistsError,
    ExtensionError,
    Location,
    LocationError,
    MultiAccount,
    NotFoundError,
    StoreConfig,
    __version__,
)
from accountstore.cli import refresh as refreshing
from accountstore.cli.documents import kind_at, read_given, tree
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command, Group
from accountstore.cli.listing import leading_on, print_listing
from accountstore.cli.serve import add_commands
from accountstore.cli.show import (
    console,
    on_terminal,
    printable,
    show_check,
    show_document,
    show_json,
    show_outcomes,
    show_storages,
)
from accountstore.codecs import JSON
from accountstore.config import load_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from accountstore import Check

__all__ = ("app",)

T = TypeVar("T")

app: typer.Typer = typer.Typer(
    add_completion=False,
    cls=Group,
    no_args_is_help=True,
    # Its tracebacks would show local variables.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_Where = Annotated[
    str, typer.Argument(metavar="LOCATION", help="Where the document is: [STORAGE:][FOLDER/]FILE.", show_default=False)
]
_Create = Annotated[bool, typer.Option("--create", help="Fail if there is a document already.")]


def _print_version(asked: bool) -> None:
    if asked:
        with exit_codes():
            sys.stdout.write(f"accountstore {__version__}\n")
        raise typer.Exit


def _examples(*lines: str) -> str:
    return "\n".join(lines)


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
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Keep e-mail account credentials on any storage.

    A LOCATION names a document as STORAGE:FOLDER/FILE, such as "First Storage:mail/team-a/email.account". Without
    STORAGE it is the default one; without FOLDER, its root. One account is in *.account, several in *.multi.account.

    Exit codes: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage; 130 interrupted.
    """
    context.obj = config


def _config(context: typer.Context, /) -> StoreConfig:
    return load_config(context.obj)


def _location(text: str, given: str | None = None, /) -> Location:
    try:
        return Location.parse(text)
    except LocationError as error:
        raise LocationError(f"{given or text!r}: {error.message}") from None


def _in_store(config: StoreConfig, work: Callable[[AccountStore], Awaitable[T]], /) -> T:
    async def run() -> T:
        async with AccountStore.open(config) as store:
            try:
                return await work(store)
            except NotFoundError as error:
                raise leading_on(error, store) from None

    return anyio.run(run)


def _done(what: str, /) -> None:
    if on_terminal():
        console().print(printable(what), style="green", soft_wrap=True)


def _mode(create: bool, /) -> Literal["create", "overwrite"]:
    return "create" if create else "overwrite"


@app.command(cls=Command, epilog=_examples("accountstore demo"))
def demo() -> None:
    """Show on samples, in a temporary folder, what the store promises.

    Saves and reads a single and a multi account, updates one from eight tasks at once, provokes errors. Takes a second,
    needs no configuration and leaves nothing behind. Exits with 1 if a promise did not hold.
    """
    from accountstore.cli.demo import run_demo

    with exit_codes():
        outcomes = run_demo()
        show_outcomes(outcomes)
        if not all(outcome.held for outcome in outcomes):
            raise typer.Exit(1)


@app.command(cls=Command, epilog=_examples("accountstore storages", "accountstore --config accountstore.toml storages"))
def storages(context: typer.Context) -> None:
    """List the configured storages and what each promises.

    create: of all who save with --create, one wins. update: no change is lost to another writer. atomic: nobody reads a
    part of a write. durable: what was written survives a crash. "if the server does": it is tried before it is relied
    on, and refused where the server does not do its part. "trusted": your configuration vouches for the server.
    "accountstore check" proves the first two.

    URLs show without credentials.
    """
    with exit_codes():
        config = _config(context)

        async def capabilities(store: AccountStore) -> None:
            show_storages(config, {name: store.capabilities(name) for name in store.storages})

        _in_store(config, capabilities)


def _check_storage(store: AccountStore, name: str | None, /) -> None:
    if name is not None and name not in store.storages:
        raise LocationError(f"the storage {name!r} is not configured; known: {', '.join(store.storages)}")


@app.command(cls=Command, epilog=_examples("accountstore check", 'accountstore check "First Storage"'))
def check(
    context: typer.Context,
    storage: Annotated[
        str | None,
        typer.Argument(metavar="[STORAGE]", help="The storage; without it, the default one.", show_default=False),
    ] = None,
) -> None:
    """Prove that a storage is reachable and keeps its promises.

    Writes, reads, swaps and removes a document of its own at the storage's root. Exits with 1 if a step fails.
    """

    async def work(store: AccountStore) -> Check:
        _check_storage(store, storage)
        return await store.check(storage)

    with exit_codes():
        result = _in_store(_config(context), work)
        show_check(result)
        if not result.ok:
            raise typer.Exit(1)


@app.command(
    cls=Command,
    epilog=_examples(
        "accountstore save mail/team-a/email.account < account.json",
        'accountstore get --json --reveal a.account | accountstore save "Archive:a.account"',
        "accountstore save mail/me.account   (asks, secrets hidden)",
    ),
)
def save(context: typer.Context, location: _Where, create: _Create = False) -> None:
    """Write a document.

    It is JSON from standard input or, on a terminal, made from your answers to questions. The JSON is checked before
    anything is written; fields that this release does not know are kept. It replaces a document that is there, unless
    --create is given.
    """
    with exit_codes():
        where = _location(location)
        kind = kind_at(where)
        config = _config(context)
        if sys.stdin.isatty():
            _save_answers(config, where, kind, create=create)
        else:
            data = read_given(sys.stdin.buffer, kind, config.max_bytes)
            _in_store(config, lambda store: store.save_json(where, data, mode=_mode(create)))
        _done(f"saved {where}")


def _save_answers(config: StoreConfig, where: Location, kind: type[Account | MultiAccount], /, *, create: bool) -> None:
    """Ask for a document and save it.

    The store's event loop is in another thread: on one in this thread, Ctrl-C would not end a question.
    """
    from accountstore.cli.prompts import ask_document

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(AccountStore.open(config)) as store:
        exists = portal.call(store.exists, where)
        if exists and create:
            raise ExistsError("there is a document already", location=where)
        console(stderr=True).print(
            f"{printable(str(where))} {'will be replaced' if exists else 'is new'}. Ctrl-C leaves everything as it is.",
            soft_wrap=True,
        )
        data = JSON.encode(ask_document(kind))
        portal.call(lambda: store.save_json(where, data, mode=_mode(create)))


@app.command(
    cls=Command,
    epilog=_examples(
        "accountstore get mail/team-a/email.account",
        "accountstore get --json --reveal mail/team-a/email.account > account.json",
    ),
)
def get(
    context: typer.Context,
    location: _Where,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document's JSON.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show secrets instead of asterisks.")] = False,
) -> None:
    """Show a document, with secrets masked.

    Secrets, and fields that this release does not know, show as asterisks without --reveal. With --json --reveal in a
    pipe or file, the output is what the document's file holds, and `accountstore save` takes it back. It refuses masked
    JSON.
    """
    with exit_codes():
        where = _location(location)
        kind = kind_at(where)
        data = _in_store(_config(context), lambda store: store.read_json(where)).document
        if as_json and reveal and not on_terminal():
            sys.stdout.buffer.write(data.rstrip(b"\n") + b"\n")
            return
        shown = tree(data, kind, reveal=reveal)
        if as_json:
            show_json(msgspec.json.encode(shown))
        else:
            show_document(str(where), shown, masked=not reveal)


@app.command(
    "ls",
    cls=Command,
    epilog=_examples(
        "accountstore ls",
        'accountstore ls -r "First Storage:mail"',
        "accountstore ls -r old | xargs -d '\\n' accountstore rm",
    ),
)
def ls(
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="[STORAGE:][FOLDER]", help="The folder; without it, the root.", show_default=False)
    ] = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also list the folders below.")] = False,
) -> None:
    """List the documents in a folder.

    A table on a terminal, with the folders; else one location a line. Lines come as the storage gives them, so a large
    folder begins to show at once. A missing folder is empty. What was not listed is told on stderr: folders, and
    documents whose names no LOCATION can have.
    """
    with exit_codes():
        path = folder.removesuffix("/")
        # Any file name will do: this reads and checks the folder.
        where = _location(f"{path}{'' if path[-1:] in {'', ':'} else '/'}any.account", folder)

        async def work(store: AccountStore) -> None:
            _check_storage(store, where.storage)
            await print_listing(store, where, recursive=recursive)

        _in_store(_config(context), work)


@app.command(
    cls=Command, epilog=_examples("accountstore rm mail/team-a/email.account", "accountstore rm -f a.account b.account")
)
def rm(
    context: typer.Context,
    locations: Annotated[
        list[str], typer.Argument(metavar="LOCATION...", help="The documents to remove.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="A document that is not there is no error.")] = False,
) -> None:
    """Remove documents.

    All names are checked before anything is removed. What can be removed is removed, whatever fails with another.
    """
    with exit_codes():
        places = [_location(location) for location in locations]
        for where in places:
            kind_at(where)

        async def work(store: AccountStore) -> bool:
            held = True
            for where in places:
                _check_storage(store, where.storage)
            for where in places:
                try:
                    if not force and not await store.exists(where):
                        raise NotFoundError("there is no such document", location=where)
                    await store.delete(where)
                except AccountStoreError as error:
                    print_error(leading_on(error, store) if isinstance(error, NotFoundError) else error)
                    held = False
                else:
                    _done(f"removed {where}")
            return held

        if not _in_store(_config(context), work):
            raise typer.Exit(1)


_Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The document's location.", show_default=False)]
_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The new location. A folder, ending in / or :, takes the document under its own name.",
        show_default=False,
    ),
]


def _source_and_target(source: str, target: str, /) -> tuple[Location, Location]:
    where = _location(source)
    onto = _location(f"{target}{where.file_name}" if target[-1:] in {"/", ":"} else target, target)
    if kind_at(where) is not kind_at(onto):
        raise ExtensionError("source and target must be of one kind: *.account or *.multi.account", location=onto)
    return where, onto


@app.command(
    cls=Command, epilog=_examples("accountstore cp a.account b.account", 'accountstore cp a.account "Archive:2024/"')
)
def cp(context: typer.Context, source: _Source, target: _Target, create: _Create = False) -> None:
    """Copy a document, also to another storage.

    Fields that this release does not know come along. It replaces a document that is there, unless --create is given.
    """
    with exit_codes():
        where, onto = _source_and_target(source, target)
        _in_store(_config(context), lambda store: store.copy(where, onto, mode=_mode(create)))
        _done(f"copied {where} to {onto}")


@app.command(
    cls=Command, epilog=_examples("accountstore mv a.account mail/a.account", 'accountstore mv a.account "Archive:"')
)
def mv(context: typer.Context, source: _Source, target: _Target, create: _Create = False) -> None:
    """Move a document, also to another storage.

    It is copied, then removed at the source. A change of the source meanwhile is moved too, where its storage can tell.
    It replaces a document that is there, unless --create is given.
    """
    with exit_codes():
        where, onto = _source_and_target(source, target)
        _in_store(_config(context), lambda store: store.move(where, onto, mode=_mode(create)))
        _done(f"moved {where} to {onto}")


app.command(cls=Command, epilog=refreshing.EXAMPLES)(refreshing.refresh)
add_commands(app)
