"""Commands that write a document: save, edit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer
from anyio.from_thread import BlockingPortal, start_blocking_portal

from accountstore import (
    Account,
    AccountStore,
    ConflictError,
    DocumentError,
    ExistsError,
    Location,
    MultiAccount,
    ProtocolType,
    SecurityOptions,
    UnsupportedError,
    Version,
)
from accountstore.cli.app import Create, Where, app, config_of, done, examples, in_store, location_of, mode_of
from accountstore.cli.completion import complete_protocol, complete_security
from accountstore.cli.documents import kind_at, read_given, warn_of_near_misses
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.fields import Fields, account_of
from accountstore.cli.help import Command
from accountstore.cli.listing import tell_storage_meant
from accountstore.cli.show import console, printable
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from accountstore.cli.editor import Room

__all__ = ("edit", "save")

W = TypeVar("W", ProtocolType, SecurityOptions)


def _one_of(kind: type[W], option: str, text: str | None, /) -> W | None:
    """The word that an option names, in any case."""
    if text is None:
        return None
    for word in kind:
        if word.casefold() == text.casefold():
            return word
    raise typer.BadParameter(f"{option} must be one of {', '.join(kind)}")


def _from_stdin(what: str, /) -> Any:
    return typer.Option(f"--{what}-stdin", help=f"Read the {what.replace('-', ' ')} from standard input: one line.")


@app.command(
    cls=Command,
    epilog=examples(
        "accountstore save mail/team-a/email.account < account.json",
        'accountstore get --json --reveal a.account | accountstore save "Archive:a.account"',
        "accountstore save mail/me.account   (asks, secrets hidden)",
        "pass mail | accountstore save me.account --host imap.example.com --port 993 --login me --password-stdin",
    ),
)
def save(
    context: typer.Context,
    location: Where,
    create: Create = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Make the account of options: the mail server.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="PORT", min=1, max=65535, help="Without it, the usual one of protocol and security."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="PROTOCOL",
            help=f"One of {', '.join(ProtocolType)}.",
            autocompletion=complete_protocol,
        ),
    ] = None,
    security: Annotated[
        str | None,
        typer.Option(
            "--security",
            metavar="SECURITY",
            help=f"One of {', '.join(SecurityOptions)}.",
            autocompletion=complete_security,
        ),
    ] = None,
    login: Annotated[
        str | None,
        typer.Option("--login", metavar="LOGIN", help="The login; without it, the server wants no credentials."),
    ] = None,
    password_stdin: Annotated[bool, _from_stdin("password")] = False,
    password_env: Annotated[
        str | None, typer.Option("--password-env", metavar="NAME", help="The environment variable with the password.")
    ] = None,
    refresh_token_stdin: Annotated[bool, _from_stdin("refresh-token")] = False,
    refresh_token_env: Annotated[
        str | None,
        typer.Option("--refresh-token-env", metavar="NAME", help="The environment variable with the refresh token."),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option("--client-id", metavar="ID", help="The OAuth client that may use the refresh token.")
    ] = None,
    client_secret_stdin: Annotated[bool, _from_stdin("client-secret")] = False,
    client_secret_env: Annotated[
        str | None,
        typer.Option("--client-secret-env", metavar="NAME", help="The environment variable with the client's secret."),
    ] = None,
    request_url: Annotated[
        str | None, typer.Option("--request-url", metavar="URL", help="Where access tokens are asked for.")
    ] = None,
) -> None:
    """Write a document.

    It is JSON from standard input or, on a terminal, made from your answers to questions. The JSON is checked before
    anything is written; fields that this release does not know are kept. It replaces a document that is there, unless
    --create is given.

    Options make a single account instead, for scripts. No secret is an argument, which other users of the machine could
    see: one comes from standard input, any from the environment.
    """
    with exit_codes():
        where = location_of(location)
        kind = kind_at(where)
        config = config_of(context)
        fields = Fields(
            host=host,
            port=port,
            protocol=_one_of(ProtocolType, "--protocol", protocol),
            security=_one_of(SecurityOptions, "--security", security),
            login=login,
            password="-" if password_stdin else password_env,
            client_id=client_id,
            client_secret="-" if client_secret_stdin else client_secret_env,
            refresh_token="-" if refresh_token_stdin else refresh_token_env,
            request_url=request_url,
        )
        if fields.given:
            if kind is MultiAccount:
                raise typer.BadParameter("options make a single account; several are saved as JSON")
            _write(context, where, JSON.encode(account_of(fields)), create=create)
        elif sys.stdin.isatty():
            _save_answers(context, where, kind, create=create)
        else:
            data = read_given(sys.stdin.buffer, kind, config.max_bytes)
            _write(context, where, data, create=create)
            warn_of_near_misses(data, kind)
        done(f"saved {where}")


def _write(context: typer.Context, where: Location, data: bytes, /, *, create: bool) -> None:
    async def work(store: AccountStore) -> None:
        await tell_storage_meant(store, where)
        await store.save_json(where, data, mode=mode_of(create))

    in_store(context, work)


def _save_answers(
    context: typer.Context, where: Location, kind: type[Account | MultiAccount], /, *, create: bool
) -> None:
    """Ask for a document and save it.

    The store's event loop is in another thread: on one in this thread, Ctrl-C would not end a question.
    """
    from accountstore.cli.prompts import ask_document

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(AccountStore.open(context.obj)) as store:
        portal.call(tell_storage_meant, store, where)
        exists = portal.call(store.exists, where)
        if exists and create:
            raise ExistsError("there is a document already", location=where)
        console(stderr=True).print(
            f"{printable(str(where))} {'will be replaced' if exists else 'is new'}. Ctrl-C leaves everything as it is.",
            soft_wrap=True,
        )
        data = JSON.encode(ask_document(kind))
        portal.call(lambda: store.save_json(where, data, mode=mode_of(create)))


@app.command(
    cls=Command,
    epilog=examples("accountstore edit mail/me.account", "EDITOR='code --wait' accountstore edit a.account"),
)
def edit(context: typer.Context, location: Where) -> None:
    """Edit a document's JSON in your editor.

    The editor is $VISUAL, else $EDITOR, else vi. It gets the whole document, secrets too, in a file that only you can
    read, in memory where your system has a place for that ($XDG_RUNTIME_DIR), and gone when the command ends. What your
    editor itself keeps elsewhere (undo files, backups) is yours to switch off.

    What you save is checked, and written if nobody else has changed the document meanwhile; else you may edit again.
    """
    with exit_codes():
        where = location_of(location)
        kind = kind_at(where)
        config = config_of(context)
        from accountstore.cli.editor import private_room

        with (
            private_room() as room,
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(AccountStore.open(context.obj)) as store,
        ):
            changed = _edit(portal, store, where, kind, room, config.max_bytes)
        done(f"saved {where}" if changed else f"{where} is unchanged")


def _edit(
    portal: BlockingPortal,
    store: AccountStore,
    where: Location,
    kind: type[Account | MultiAccount],
    room: Room,
    max_bytes: int,
    /,
) -> bool:
    """Whether the document was changed."""
    able = store.capabilities(where.storage)
    if able.read_only:
        raise UnsupportedError("the storage is opened read-only", location=where)
    if not able.update:
        raise UnsupportedError(
            "this storage cannot tell whether another changes the document meanwhile: get it with --json --reveal, and"
            " save it",
            location=where,
        )
    stored = portal.call(store.read_json, where)
    before = msgspec.json.format(stored.document, indent=2) + b"\n"
    room.write(before)
    while True:
        room.edit()
        try:
            return _save_edited(portal, store, where, kind, room.path, max_bytes, stored.version, before)
        except DocumentError as error:
            _ask_to_go_on(error, "Edit again?")
        except ConflictError as error:
            _ask_to_go_on(error, "Edit again, and replace what the other has written?")
            stored = portal.call(store.read_json, where)


def _save_edited(
    portal: BlockingPortal,
    store: AccountStore,
    where: Location,
    kind: type[Account | MultiAccount],
    path: str,
    max_bytes: int,
    version: Version,
    before: bytes,
    /,
) -> bool:
    with open(path, "rb") as file:
        data = read_given(file, kind, max_bytes, source="the edited text")
    if data == before.strip():
        return False
    compact = msgspec.json.format(data, indent=-1)
    portal.call(lambda: store.save_json(where, compact, mode=version))
    warn_of_near_misses(data, kind)
    return True


def _ask_to_go_on(error: DocumentError | ConflictError, question: str, /) -> None:
    """Ask whether to edit again. Raises the error where nobody can be asked, and ends the command at a no."""
    if not sys.stdin.isatty():
        raise error
    from accountstore.cli.prompts import ask_whether

    print_error(error)
    if not ask_whether(question, "nothing was written"):
        raise typer.Exit(1)
