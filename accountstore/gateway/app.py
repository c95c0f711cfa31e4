"""The gateway as an ASGI application: routes, who may call them, and the store's life."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Literal, NoReturn, cast

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from accountstore import (
    AccountStore,
    ConfigError,
    DeniedError,
    Event,
    FullError,
    Observer,
    Secret,
    StoreConfig,
)
from accountstore.gateway import accounts, files, pages
from accountstore.gateway.clients import Authorize, Clients
from accountstore.gateway.config import GatewayConfig
from accountstore.gateway.front import Front, note
from accountstore.gateway.health import Health
from accountstore.gateway.metrics import Metrics
from accountstore.gateway.operations import OPERATIONS
from accountstore.gateway.problems import Problem
from accountstore.gateway.service import Call, Handler, Operation, Service
from accountstore.gateway.tokens import ETags

__all__ = ("gateway",)

VERSION = "/v4.0"
HANDLERS: Mapping[str, Handler] = {
    "client_account.get": accounts.get,
    "client_account.get_multi": accounts.get_multi,
    "client_account.save": accounts.save,
    "client_account.save_multi": accounts.save_multi,
    "file.copy_file": files.copy_file,
    "file.delete_file": files.delete_file,
    "file.download_file": files.download_file,
    "file.move_file": files.move_file,
    "file.upload_file": files.upload_file,
    "folder.create_folder": files.create_folder,
    "folder.delete_folder": files.delete_folder,
    "folder.get_files_list": files.get_files_list,
    "storage.exists": files.exists,
    "storage.object_exists": files.object_exists,
}
"""What serves which operation of the API."""
OPEN: Mapping[str, Mapping[str, Handler]] = {
    "/connect/token": {"POST": pages.token},
    "/docs": {"GET": pages.docs},
    "/health/live": {"GET": pages.live},
    "/health/ready": {"GET": pages.ready},
    "/metrics": {"GET": pages.metrics},
    "/openapi.json": {"GET": pages.openapi},
}
"""What needs no token."""
_MOST_WANTED = frozenset({"client_account.get", "client_account.save"})


def gateway(
    store: AccountStore | StoreConfig | str | os.PathLike[str] | None = None,
    config: GatewayConfig | None = None,
    /,
    *,
    authorize: Authorize | None = None,
    observer: Observer | None = None,
    metrics: Metrics | None = None,
) -> Starlette:
    """The REST API of Aspose.Email Cloud's client accounts over a store, as an ASGI application.

    `store` is an open store, which stays its owner's; or what `AccountStore.open` takes: the application's lifespan
    then opens and closes it. Either way the lifespan must run, for `/health/ready`: a service that mounts the
    application enters `app.router.lifespan_context(app)` in its own.

    `config` names the clients. `authorize` takes their place: it is called with each request's headers, and says what
    the request may reach; then there is no `/connect/token`. `observer` is called with the events of a store that the
    gateway opens; of an open one, pass `metrics.observe` where it is opened.

    Raises:
        ConfigError: neither clients nor `authorize` are given, or the configuration cannot be used.
    """
    config = config or GatewayConfig()
    if authorize is None:
        config.check()
        if not config.clients:
            raise ConfigError("clients: none; `accountstore gateway add-client NAME` makes one")
    metrics = metrics or Metrics()
    served = Served(config, metrics, authorize)
    if isinstance(store, AccountStore):
        served.begin(store)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        if isinstance(store, AccountStore):
            async with served.watched():
                yield
            return
        async with AccountStore.open(store, observer=_both(metrics.observe, observer)) as opened:
            served.begin(opened)
            async with served.watched():
                yield
            served.service = None

    app = Starlette(
        routes=served.routes(),
        lifespan=lifespan,
        middleware=[Middleware(Front, config.limits, metrics)],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False  # one client does not follow
    return app


class Served:
    """What a gateway serves: its routes, and what they work with while the store is open."""

    def __init__(self, config: GatewayConfig, metrics: Metrics, authorize: Authorize | None, /) -> None:
        self.service: Service | None = None
        self._config = config
        self._metrics = metrics
        self._authorize = authorize

    def begin(self, store: AccountStore, /) -> None:
        """Serve a store. Raises `ConfigError` where a client's folder or storage cannot be."""
        config = self._config
        clients = None if self._authorize else Clients(store, config)
        self.service = Service(
            store=store,
            config=config,
            authorize=self._authorize or cast("Clients", clients).authorize,
            clients=clients,
            etags=ETags(config.keys or [Secret(token_urlsafe())]),
            health=Health(store, config.probe_seconds),
            metrics=self._metrics,
        )

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Look at the storages meanwhile."""
        async with anyio.create_task_group() as tasks:
            if self.service is not None:
                tasks.start_soon(self.service.health.watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    def routes(self) -> list[Route]:
        """All routes; the most wanted first, for they are tried one after another."""
        by_path: dict[tuple[str, bool], dict[str, Operation]] = {}
        for method, path, name in sorted(OPERATIONS, key=lambda one: one.name not in _MOST_WANTED):
            access: Literal["read", "write"] = "read" if method == "GET" else "write"
            # A path of copy and move is that of a file or folder too, for other methods.
            alone = path.endswith(("copy/{path}", "move/{path}"))
            operation = Operation(name, access, HANDLERS.get(name))
            by_path.setdefault((VERSION + path.replace("{path}", "{path:path}"), alone), {})[method] = operation
        for path, handlers in self._open().items():
            by_path[path, False] = {
                method: Operation(handler.__name__, "open", handler) for method, handler in handlers.items()
            }
        return [
            Route(path, Endpoint(self, operations), methods=list(operations) if alone else None)
            for (path, alone), operations in by_path.items()
        ]

    def _open(self) -> Mapping[str, Mapping[str, Handler]]:
        """What is served without a token."""
        without = {"" if self._config.metrics else "/metrics", "/connect/token" if self._authorize else ""}
        return {path: handlers for path, handlers in OPEN.items() if path not in without}


class Endpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, served: Served, operations: Mapping[str, Operation], /) -> None:
        self._served = served
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self._operations.get(method)
        if operation is not None:
            note(scope, operation=operation.name)
            response = await self._serve(operation, Request(scope, receive))
            await response(scope, receive, send)
            return
        allow = {"allow": ", ".join(sorted({*self._operations, "OPTIONS", *["HEAD"] * ("GET" in self._operations)}))}
        if method != "OPTIONS":
            raise Problem(405, "methodNotAllowed", f"the method must be one of {allow['allow']}", headers=allow)
        await Response(None, 204, allow)(scope, receive, send)

    async def _serve(self, operation: Operation, request: Request, /) -> Response:
        service = self._served.service
        if service is None:
            raise Problem(503, "unavailable", "the gateway is starting or shutting down: try again")
        if operation.handler is None:
            raise Problem(501, "notImplemented", f"{operation.name} is not served here: it is about mail, not accounts")
        if operation.access == "open":
            return await operation.handler(Call(request, service, service.store))
        return await self._authorized(operation, operation.handler, request, service)

    async def _authorized(
        self, operation: Operation, handler: Handler, request: Request, service: Service, /
    ) -> Response:
        access = await service.authorize(request)
        if access is None:
            raise Problem(401, "unauthorized", "there is no valid token: ask /connect/token for one")
        note(request.scope, client=access.name)
        with access.quota.turn() if access.quota else nullcontext():
            if operation.access == "write" and not access.writes:
                raise Problem(403, "readOnly", "this client may read only")
            try:
                return await handler(Call(request, service, access.store))
            except (DeniedError, FullError):
                service.health.suspect()
                raise


async def _refuse(request: Request, error: Exception, /) -> NoReturn:
    """Give what the framework refuses to the front, which answers it as everything else."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = "notFound" if status == 404 else "refused"
    raise Problem(status, code, "there is no such operation" if status == 404 else HTTPStatus(status).phrase)


def _both(first: Observer, second: Observer | None, /) -> Observer:
    """One observer for two."""
    if second is None:
        return first

    def observe(event: Event) -> None:
        first(event)
        second(event)

    return observe
