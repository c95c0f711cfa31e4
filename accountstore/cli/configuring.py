"""Commands about the configuration: storages, storages add, config show."""

from __future__ import annotations

import os
import re
import sys
from tomllib import loads
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from accountstore import AccountStore, ConfigError, LocationError
from accountstore.cli.app import Json, app, config_of, done, examples, group, in_store
from accountstore.cli.exits import exit_codes, print_error
from accountstore.cli.help import Command
from accountstore.cli.show import on_terminal, printable, show_line, show_storages, storage_fields
from accountstore.config import CodecName, Engine
from accountstore.config_file import find_config, load_config
from accountstore.files import read_file
from accountstore.validation import check_storage_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accountstore import StoreConfig

__all__ = ("add", "show", "storages")

storages: typer.Typer = group(without_command=True)
config: typer.Typer = group()
_SECRET = re.compile(r"(?i)pass|secret|token|credential|connection_string|(^|_)(key|sas)")


@storages.callback(epilog=examples("accountstore storages", "accountstore --config accountstore.toml storages --json"))
def _list_storages(context: typer.Context, as_json: Json = False) -> None:
    """List the configured storages and what each promises.

    create: of all who save with --create, one wins. update: no change is lost to another writer. atomic: nobody reads a
    part of a write. durable: what was written survives a crash. "if the server does": it is tried before it is relied
    on, and refused where the server does not do its part. "trusted": your configuration vouches for the server.
    "accountstore check" proves the first two.

    URLs show without credentials.
    """
    if context.invoked_subcommand is not None:
        return
    with exit_codes():
        configured = config_of(context)

        async def capabilities(store: AccountStore) -> None:
            found = {name: store.capabilities(name) for name in store.storages}
            if not as_json:
                show_storages(configured, found)
                return
            for name, can in found.items():
                show_line(storage_fields(configured, name, can))

        in_store(context, capabilities)


@storages.command(
    cls=Command,
    epilog=examples(
        "accountstore storages add Mail ~/mail",
        "accountstore storages add Archive sftp://backup.example.org/mail -o username=me --option-env password=PASS",
        "accountstore storages add Cloud s3://bucket/mail --engine obstore -o client_kwargs.region_name=eu-central-1",
    ),
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The storage's name.", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="URL", help="Its fsspec URL, or a folder.", show_default=False)],
    options: Annotated[
        list[str],
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=TEXT",
            help="An option of its client, nested by dots; KEY:=VALUE for a number, true, false or other TOML.",
        ),
    ] = [],  # noqa: B006 -- read only
    variables: Annotated[
        list[str],
        typer.Option(
            "--option-env", metavar="KEY=NAME", help="An option that is read from an environment variable, for secrets."
        ),
    ] = [],  # noqa: B006
    codec: Annotated[
        str | None,
        typer.Option("--codec", metavar="CODEC", help=f"Of its documents: {' or '.join(get_args(CodecName))}."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="ENGINE", help=f"Its client: {' or '.join(get_args(Engine))}.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="What bounds one operation.")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Make it the storage of locations that name none.")
    ] = False,
) -> None:
    """Add a storage to the configuration file.

    The file is the one that is read, else a new one in your configuration folder. Its comments stay, it is checked as a
    whole, and it is replaced in one step. A folder that is not absolute is one beside the file. Its scheme and options
    are checked, where the variables that it names are set. Nothing is reached: "accountstore check NAME" does that.

    A secret does not belong in the file: --option-env writes ${NAME} there, which is replaced from the environment.
    """
    with exit_codes():
        from accountstore.cli.configfile import add_storage, file_to_write, unset_variables

        try:
            check_storage_name(name)
        except LocationError as error:
            raise ConfigError(f"{name!r}: {error.message}") from None
        if re.search(r"://[^/@]*:(?!\$\{\w+\}@)[^/]*@", url):
            raise ConfigError("the URL has a password: leave it out, and give it by --option-env, or as ${NAME}")
        fields = {
            "codec": codec,
            "engine": engine,
            "timeout": timeout,
            "options": _options_of(options, variables) or None,
        }
        table = {"url": url} | {key: value for key, value in fields.items() if value is not None}
        path = file_to_write(context.obj)
        given = find_config(context.obj) is not None
        add_storage(path, name, table, given=given, default=default)
        if on_terminal():
            done(f"added {name!r} to {path}; try it by: accountstore check {name!r}")
        else:
            print_error(f"added {name!r} to {path}")
        for variable in unset_variables(table):
            print_error(f"{variable} is not set here: until it is, no command can open this configuration")


def _options_of(options: Sequence[str], variables: Sequence[str], /) -> dict[str, Any]:
    """The options as a tree.

    Raises:
        typer.BadParameter: one is not understood. No message quotes a value.
        ConfigError: one looks like a secret.
    """
    found: dict[str, Any] = {}
    for text in options:
        given, mark, value = text.partition("=")
        key = given.removesuffix(":")
        if not mark or not key:
            raise typer.BadParameter("--option: must be KEY=TEXT or KEY:=VALUE")
        if _SECRET.search(key) and not re.fullmatch(r"\$\{\w+\}", value):
            raise ConfigError(f"--option {key}: looks like a secret: give it by --option-env {key}=NAME")
        _put(found, key, _toml(key, value) if given.endswith(":") else value)
    for text in variables:
        key, mark, name = text.partition("=")
        if not (key and key[-1] != ":" and mark and name.isidentifier()):
            raise typer.BadParameter("--option-env: must be KEY=NAME, with the name of an environment variable")
        _put(found, key, f"${{{name}}}")
    return found


def _toml(key: str, value: str, /) -> Any:
    try:
        return loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        raise typer.BadParameter(f"--option {key}: is no TOML value; KEY=TEXT is for text") from None


def _put(found: dict[str, Any], key: str, value: Any, /) -> None:
    *folders, last = key.split(".")
    for name in folders:
        found = found.setdefault(name, {})
        if not isinstance(found, dict):
            raise typer.BadParameter(f"--option {key}: is given twice")
    if last in found:
        raise typer.BadParameter(f"--option {key}: is given twice")
    found[last] = value


@config.callback(epilog=examples("accountstore config show"))
def _config() -> None:
    """Look at the configuration."""


@config.command(cls=Command, epilog=examples("accountstore config show", "accountstore config show --json"))
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show the configuration file, masked.

    URLs show without user and query. Options show where they are known to be harmless or name an environment variable,
    as ${NAME}, and keys by their file or as env:NAME; others are asterisks. Ends with 1 if the configuration cannot be
    used, or a storage not be opened, and says why. Nothing is reached or made.
    """
    with exit_codes():
        from accountstore.cli.configfile import masked

        path = find_config(context.obj)
        tree = _tree(path)
        whole = path and os.path.abspath(path)
        if as_json:
            show_line({"file": whole, **masked(tree)})
        else:
            from tomlkit import dumps

            sys.stdout.write(f"# {printable(whole) if whole else 'no file: what serves without one'}\n")
            sys.stdout.write("".join(c if c == "\n" else printable(c) for c in dumps(masked(tree))))
        sys.stdout.flush()
        if not _opens(load_config(context.obj), path):
            raise typer.Exit(1)


def _opens(config: StoreConfig, path: str | None, /) -> bool:
    """Whether each storage can be opened; of those that cannot the reason is printed."""
    from accountstore.cli.configfile import check_opens

    held = True
    for name in config.storages:
        try:
            check_opens(config, name)
        except ConfigError as error:
            held = False
            print_error(f"{path}: {error.message}" if path else error)
    return held


def _tree(path: str | None, /) -> dict[str, Any]:
    """What the file says, or what serves without one."""
    if path is None:
        served = load_config()
        return {
            "default": served.default_name(),
            "storages": {name: {"url": storage.url} for name, storage in served.storages.items()},
        }
    try:
        return loads(read_file(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        load_config(path)
        raise ConfigError(f"{path}: cannot be read") from None


app.add_typer(storages, name="storages")
app.add_typer(config, name="config")
