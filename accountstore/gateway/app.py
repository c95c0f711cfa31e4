"""The gateway as an ASGI application, and the life of its store."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from logging import getLogger
from secrets import token_urlsafe
from typing import TYPE_CHECKING

import anyio
from starlette.routing import Router

from accountstore import AccountStore, ConfigError, Event, Exchange, Observer, Secret, StoreConfig
from accountstore.gateway.clients import Authorize, Clients
from accountstore.gateway.config import GatewayConfig
from accountstore.gateway.front import Front
from accountstore.gateway.health import Health
from accountstore.gateway.metrics import Metrics
from accountstore.gateway.plain import PlainVersions
from accountstore.gateway.renewals import Renewals
from accountstore.gateway.routing import Routes
from accountstore.gateway.service import Service
from accountstore.gateway.tokens import ETags

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ("Gateway", "gateway")


def gateway(
    store: AccountStore | StoreConfig | str | os.PathLike[str] | None = None,
    config: GatewayConfig | None = None,
    /,
    *,
    authorize: Authorize | None = None,
    observer: Observer | None = None,
    metrics: Metrics | None = None,
    refresh: Exchange | None = None,
) -> Gateway:
    """The REST API of Aspose.Email Cloud's client accounts over a store, as an ASGI application.

    `store` is an open store, which stays its owner's; or what `AccountStore.open` takes: the application's lifespan
    then opens and closes it. Either way the lifespan must run, for `/health/ready` and for refreshes that go on where
    their request may not wait: a service that mounts the application enters `app.lifespan()` in its own.

    `config` names the clients. `authorize` takes their place: it is called with each request's headers, and says what
    the request may reach; then there is no `/connect/token`. `observer` is called with the events of a store that the
    gateway opens. With `metrics`, or where the configuration has them, `/metrics` is served; of an open store, pass
    `metrics.observe` where it is opened. With `refresh`, no get returns an expired access token: the gateway keeps
    OAuth tokens fresh by this exchange, of which one runs for an expiry (`AccountStore.refresh`). Give one that asks a
    fixed endpoint: a `requestUrl` is whatever a client wrote. A refresh that fails is answered as such, with a warning
    in the log. A storage that declares no conditional writes would not take the new tokens: a get returns what it has,
    and a warning names it at the start.

    Raises:
        ConfigError: neither clients nor `authorize` are given, or the configuration cannot be used.
    """
    config = config or GatewayConfig()
    config.check(without_clients=authorize is not None)
    if authorize is None and not config.clients:
        raise ConfigError("clients: none; `accountstore gateway add-client NAME` makes one")
    return Gateway(store, config, authorize, observer, metrics or (Metrics() if config.metrics else None), refresh)


class Gateway:
    """What `gateway` makes."""

    def __init__(
        self,
        store: AccountStore | StoreConfig | str | os.PathLike[str] | None,
        config: GatewayConfig,
        authorize: Authorize | None,
        observer: Observer | None,
        metrics: Metrics | None,
        refresh: Exchange | None,
        /,
    ) -> None:
        self._given = store
        self._config = config
        self._authorize = authorize
        self._observer = observer
        self._metrics = metrics
        self._refresh = refresh
        without = {"" if metrics else "/metrics", "/connect/token" if authorize else ""}
        self._front = Front(Routes(lambda: self._service, frozenset(without)), config.limits, metrics)
        self._router = Router(lifespan=lambda _: self.lifespan())
        self._service = self._made(store) if isinstance(store, AccountStore) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
            return
        with self._metrics.in_flight.track_inprogress() if self._metrics else nullcontext():
            await self._front(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Open the store, unless an open one was given, and look at its storages meanwhile.

        Raises:
            ConfigError: the store cannot be opened, or a client's folder or storage cannot be.
        """
        if isinstance(self._given, AccountStore):
            async with self._watched(self._service or self._made(self._given)):
                yield
            return
        async with AccountStore.open(self._given, observer=_both(self._metrics, self._observer)) as opened:
            self._service = self._made(opened)
            try:
                async with self._watched(self._service):
                    yield
            finally:
                self._service = None

    def _made(self, store: AccountStore, /) -> Service:
        self._tell(store)
        clients = None if self._authorize else Clients(store, self._config)
        authorize = self._authorize or (clients.authorize if clients else None)
        assert authorize is not None  # noqa: S101 -- one of the two is there
        return Service(
            store=store,
            config=self._config,
            authorize=authorize,
            clients=clients,
            etags=ETags(self._config.keys or [Secret(token_urlsafe())]),
            health=Health(store, self._config.probe_seconds),
            plain=PlainVersions(),
            metrics=self._metrics,
            refresh=self._refresh,
            renewals=Renewals(),
        )

    def _tell(self, store: AccountStore, /) -> None:
        """Warn of the storages that would not take new tokens."""
        for name in store.storages:
            if self._refresh is not None and not store.capabilities(name).update:
                getLogger("accountstore").warning(
                    "the storage %r takes no conditional writes: its OAuth tokens are not refreshed, and a get returns"
                    " them as they are stored, expired or not",
                    name,
                )

    @asynccontextmanager
    async def _watched(self, service: Service, /) -> AsyncGenerator[None]:
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.health.watch)
            service.renewals.tasks = tasks
            try:
                yield
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 -- raised below, out of the task group, which would wrap it
                failure = error
            finally:
                service.renewals.tasks = None
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _both(metrics: Metrics | None, observer: Observer | None, /) -> Observer | None:
    """One observer for metrics and for the caller's own."""
    if metrics is None or observer is None:
        return observer if metrics is None else metrics.observe

    def observe(event: Event) -> None:
        metrics.observe(event)
        observer(event)

    return observe
