"""What a call of the gateway works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from accountstore import AccountStore, Exchange
from accountstore.gateway.clients import Authorize, Clients
from accountstore.gateway.config import GatewayConfig
from accountstore.gateway.health import Health
from accountstore.gateway.metrics import Metrics
from accountstore.gateway.plain import PlainVersions
from accountstore.gateway.renewals import Renewals
from accountstore.gateway.tokens import ETags

__all__ = ("Call", "Handler", "Operation", "Service")


class Service(Struct, frozen=True, eq=False):
    """A gateway while its store is open. Without `clients`, the embedding service says who may do what."""

    store: AccountStore
    config: GatewayConfig
    authorize: Authorize
    clients: Clients | None
    etags: ETags
    health: Health
    plain: PlainVersions
    metrics: Metrics | None
    refresh: Exchange | None
    renewals: Renewals


class Call(Struct, frozen=True, eq=False):
    """One request, the name of its operation, and the store as its client may reach it."""

    operation: str
    request: Request
    service: Service
    store: AccountStore


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


class Operation(Struct, frozen=True, eq=False):
    """One operation: who may call it, and what serves it. Without a handler it is answered with 501."""

    name: str
    access: Literal["open", "read", "write"]
    handler: Handler | None
