"""A server for the benchmarks of the gateway: `python -m benchmarks.gateway_server KIND PORT URL`.

`gateway` is the gateway on a storage; `bare` a bare Starlette route that returns the same bytes with the same token
check. Both run on one uvicorn, with the same connections. It prints a token when it begins.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from accountstore import Secret, StorageConfig, StoreConfig, to_json
from accountstore.gateway import Client, GatewayConfig, gateway
from accountstore.gateway.config import Limits
from accountstore.gateway.server import server
from accountstore.gateway.tokens import Tokens
from benchmarks.samples import ACCOUNT

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

PATH = "/v4.0/email/client/account"
_KEY = Secret("k" * 43)
_HASH = "$argon2id$v=19$m=8,t=1,p=1$LI0XhDxDoBCTUizc19TM+Q$UoxTSFq+NlLqrYtAjSt1kx4ZMuuU3VcAJpNTzI+VhiA"


def bare() -> tuple[ASGIApp, str]:
    """The bare route, and a token for it."""
    tokens = Tokens([_KEY], 86400)
    body = bytes(to_json(ACCOUNT, reveal=True))

    async def get(request: Request) -> Response:
        if tokens.read(request.headers.get("authorization", "").removeprefix("Bearer ")) is None:
            return Response(status_code=401)
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route(PATH, get)]), tokens.sign("id")


def served(url: str, /) -> tuple[ASGIApp, str]:
    """The gateway on a storage, and a token for it."""
    from accountstore.gateway.clients import token_name

    config = GatewayConfig(
        keys=(_KEY,), clients={"id": Client(secrets=(_HASH,), folder="")}, limits=Limits(in_flight=1024)
    )
    app = gateway(StoreConfig(storages={"main": StorageConfig(url)}), config)
    return app, Tokens([_KEY], 86400).sign(token_name("id", _HASH))


def main() -> None:
    """Run the server."""
    kind, port, url = sys.argv[1:4]
    logging.basicConfig(level=logging.WARNING)
    app, token = bare() if kind == "bare" else served(url)
    print(token, flush=True)
    running = server(app, "127.0.0.1", int(port))
    running.config.timeout_keep_alive = 3600  # some connections wait long for their turn
    running.run()


if __name__ == "__main__":
    main()
