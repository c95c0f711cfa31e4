"""The commands of the gateway: `serve`, and `gateway add-client`."""

from __future__ import annotations

import errno
import re
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from accountstore import AccountStore, ConfigError, Secret
from accountstore.cli.app import storage_named
from accountstore.cli.completion import complete_storage
from accountstore.cli.exits import exit_codes
from accountstore.cli.help import Command, Group
from accountstore.config_file import load_config
from accountstore.files import open_file

if TYPE_CHECKING:
    from accountstore import Exchange
    from accountstore.gateway import GatewayConfig

__all__ = ("add_commands",)

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_NEEDED = frozenset({*("argon2", "httptools", "itsdangerous", "prometheus_client", "starlette", "uvicorn")})
_Gateway = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="PATH",
        help="The gateway's configuration, a TOML file. Without it: the file that ACCOUNTSTORE_GATEWAY names, else "
        "./accountstore-gateway.toml, else the one in your configuration folder.",
        show_default=False,
    ),
]


def add_commands(app: typer.Typer, /) -> None:
    """Add the gateway's commands to the program."""
    app.command(
        cls=Command,
        epilog="accountstore serve\n"
        "accountstore serve --host 0.0.0.0 --tls-certificate server.pem --tls-key server.key",
    )(serve)
    group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None)
    group.command(
        "add-client",
        cls=Command,
        epilog="accountstore gateway add-client team-a\n"
        'accountstore gateway add-client reports --folder mail --storage "First Storage" --read-only',
    )(add_client)
    group.callback()(_gateway)
    app.add_typer(group, name="gateway")


def _gateway() -> None:
    """Configure who may use the gateway that `accountstore serve` runs."""


def serve(
    context: typer.Context,
    gateway: _Gateway = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 without it.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="On which port; 8080 without it, 0 for any.")
    ] = 8080,
    tls_certificate: Annotated[
        str | None, typer.Option("--tls-certificate", metavar="PATH", help="The certificate chain.", show_default=False)
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", metavar="PATH", help="Its private key.", show_default=False)
    ] = None,
    refresh: Annotated[
        str | None,
        typer.Option(
            "--refresh",
            metavar="URL",
            help="Keep OAuth tokens fresh by this token endpoint of a provider (extra oauth): no get returns an "
            "expired access token, but from a storage that takes no conditional writes, which is told at the start.",
            show_default=False,
        ),
    ] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Take a URL of --refresh that is not https: for tests.")
    ] = False,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Listen beyond loopback without TLS, as behind a proxy that has it.")
    ] = False,
) -> None:
    """Serve the REST API of Aspose.Email Cloud's client accounts over the configured storages.

    The API's clients in six languages save and get accounts here with another base URL and nothing else changed.
    `accountstore gateway add-client` makes the id and secret that they ask for. One line a request goes to stderr,
    without names of documents and without contents. The description is at /openapi.json and /docs, health at
    /health/live and /health/ready. SIGTERM ends what has begun, then the program.
    """
    with exit_codes(), _extra():
        from accountstore.gateway.config import find_gateway_config, load_gateway_config

        if (tls_certificate is None) != (tls_key is None):
            raise typer.BadParameter("--tls-certificate and --tls-key belong together")
        if host not in _LOOPBACK and tls_certificate is None and not plain_http:
            raise ConfigError(
                f"secrets would go over the network in clear: give --tls-certificate and --tls-key to listen on {host},"
                " or --plain-http behind a proxy that has TLS"
            )
        for path in filter(None, (tls_certificate, tls_key)):
            try:
                open_file(path).close()
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
        exchange = _exchange(refresh, insecure_http=insecure_http)
        config = load_gateway_config(find_gateway_config(gateway))
        _check_free(host, port)
        _serve(context.obj, config, exchange, host, port, tls_certificate, tls_key)


def _exchange(endpoint: str | None, /, *, insecure_http: bool) -> Exchange | None:
    """The exchange with a provider's token endpoint; never with a URL that a client wrote."""
    if endpoint is None:
        return None
    try:
        from accountstore.oauth import TokenEndpoint
    except ImportError as error:
        failure = ConfigError(str(error))
    else:
        try:
            return TokenEndpoint(endpoint, insecure_http=insecure_http)
        except ConfigError:
            raise typer.BadParameter(
                "--refresh takes an https URL, without user or fragment (--insecure-http for tests)"
            ) from None
    raise failure


def _serve(
    given: str | None,
    config: GatewayConfig,
    refresh: Exchange | None,
    host: str,
    port: int,
    certificate: str | None,
    key: str | None,
    /,
) -> None:
    import logging

    import anyio

    from accountstore.gateway import gateway
    from accountstore.gateway.clients import Clients
    from accountstore.gateway.server import server

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    storages = load_config(given)
    app = gateway(storages, config, refresh=refresh)

    async def check() -> None:
        async with AccountStore.open(given) as store:
            Clients(store, config)

    anyio.run(check)  # so that what is wrong is told in one line
    try:
        server(app, host, port, certificate=certificate, key=key).run()
    except SystemExit:  # uvicorn's, which has said why
        raise typer.Exit(1) from None


def _check_free(host: str, port: int, /) -> None:
    """Tell in one line that another program listens there. What else may be wrong uvicorn tells."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            raise ConfigError(
                f"cannot listen on port {port} of {host} ({error.strerror}): --port names another"
            ) from None


def add_client(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="The client's id: letters, digits and -._~.")],
    gateway: _Gateway = None,
    folder: Annotated[
        str | None,
        typer.Option("--folder", metavar="FOLDER", help="What it reaches; without it, tenants/ID.", show_default=False),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="STORAGE",
            help="On which storage; without it, the default one.",
            show_default=False,
            callback=storage_named,
            autocompletion=complete_storage,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="It reaches all of all storages.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="It may read only.")] = False,
) -> None:
    """Add a client of the gateway, and print its secret: this once, for only a hash is kept.

    The first client makes the configuration, with a key that signs tokens. A running gateway reads it when it is
    started again.
    """
    with exit_codes(), _extra():
        from accountstore.gateway.adding import add_to_file
        from accountstore.gateway.config import CLIENT_ID, ID_RULE, Client, find_gateway_config

        if not re.fullmatch(CLIENT_ID, name):
            raise typer.BadParameter(f"this cannot be a client's id: {ID_RULE}")
        if everything and (folder is not None or storage is not None):
            raise typer.BadParameter("--everything goes without --folder and --storage")
        if storage is not None and storage not in (known := load_config(context.obj).storages):
            raise ConfigError(f"the storage {storage!r} is not configured; known: {', '.join(known)}")
        where = "" if everything else f"tenants/{name}" if folder is None else folder
        path = find_gateway_config(gateway)
        client = Client(secrets=(), folder=where, storage=storage, rights="read" if read_only else "write")
        secret = add_to_file(path, name, client)
        _print(path, name, secret)


def _print(path: str, name: str, secret: Secret, /) -> None:
    typer.echo(f"client id      {name}\nclient secret  {secret.reveal()}")
    typer.echo(f"Added to {path}. The secret shows this once.", err=True)


@contextmanager
def _extra() -> Generator[None]:
    """Say what to install where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        failure = ConfigError("the gateway needs more packages: pip install 'accountstore[gateway]'")
    else:
        return
    raise failure
