"""The REST API of Aspose.Email Cloud's client accounts, self-hosted: an ASGI application over a store.

    app = gateway("accountstore.toml", load_gateway_config("accountstore-gateway.toml"))

Six languages' clients of that API save and get accounts through it on any storage. It needs the extra `gateway`;
`accountstore serve` runs it on uvicorn.
"""

from __future__ import annotations

try:
    import starlette as starlette
except ImportError:
    raise ModuleNotFoundError(
        "accountstore.gateway needs the package starlette: pip install 'accountstore[gateway]'", name="starlette"
    ) from None

from accountstore.gateway.app import Gateway, gateway
from accountstore.gateway.clients import Access, Authorize, hash_secret
from accountstore.gateway.config import Client, GatewayConfig, Limits, load_gateway_config
from accountstore.gateway.limits import Quota
from accountstore.gateway.metrics import Metrics

__all__ = (
    "Access",
    "Authorize",
    "Client",
    "Gateway",
    "GatewayConfig",
    "Limits",
    "Metrics",
    "Quota",
    "gateway",
    "hash_secret",
    "load_gateway_config",
)
