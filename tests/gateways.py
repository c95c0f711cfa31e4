"""What tests of the gateway share: clients with cheap hashes, the application in process, the wire of six clients."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import httpx

from accountstore.gateway import Client, GatewayConfig, gateway
from accountstore.gateway.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from accountstore import AccountStore, StoreConfig

SECRET = "secret"
HASH = "$argon2id$v=19$m=8,t=1,p=1$LI0XhDxDoBCTUizc19TM+Q$UoxTSFq+NlLqrYtAjSt1kx4ZMuuU3VcAJpNTzI+VhiA"
"""An argon2 hash of it, of the least cost."""
OTHER_HASH = "$argon2id$v=19$m=8,t=1,p=1$V40dD7O4QvA+DcwDyEXk7w$bVgJeHBy3bp6CBK+43MMz8ixG5COdFiuWYwjNy1dufo"
"""One of `other`."""
KEY = "k" * 43
BASE = "/v4.0/email/client/account"
MULTI = f"{BASE}/multi"
STORAGE = "/v4.0/email/storage"

PASSWORD = {
    "host": "imap.example.org",
    "port": 993,
    "securityOptions": "SSLAuto",
    "protocolType": "IMAP",
    "credentials": {"login": "me", "discriminator": "EmailClientAccountPasswordCredentials", "password": "pw-5150"},
}
OAUTH = {
    "host": "smtp.example.com",
    "port": 465,
    "credentials": {
        "login": "example@example.com",
        "discriminator": "EmailClientAccountOauthCredentials",
        "clientId": "clientId",
        "clientSecret": "clientSecret",
        "refreshToken": "refreshToken",
    },
}


def client(**more: Any) -> Client:
    """A client that reaches everything, unless told otherwise."""
    fields: dict[str, Any] = {"secrets": (HASH,), "folder": "", **more}
    return Client(**fields)


def configured(clients: dict[str, Client] | None = None, /, **more: Any) -> GatewayConfig:
    """A configuration, with one client `id` unless told otherwise."""
    fields: dict[str, Any] = {"keys": (KEY,), **more}
    return GatewayConfig(clients=clients or {"id": client()}, **fields)


@asynccontextmanager
async def serving(
    store: AccountStore | StoreConfig, config: GatewayConfig | None = None, /, *, token: bool = True, **more: Any
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a gateway in this process; with a token of its own of the client `id`, unless told otherwise."""
    app = gateway(store, config or configured(), **more)
    async with app.lifespan():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            if token:
                answer = await ask_token(http)
                http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
            yield http


async def ask_token(http: httpx.AsyncClient, name: str = "id", secret: str = SECRET) -> httpx.Response:
    """What the gateway answers to who asks for a token."""
    form = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
    return await http.post("/connect/token", data=form)


def request_of(value: Any, name: str = "a.account", **more: str) -> dict[str, Any]:
    """The body of a save."""
    return {"storageFile": {"fileName": name, **more}, "value": value}


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, which must be an envelope as all clients read it."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert list(error) == ["code", "message", "description", "innerError"]
    assert answer.text.startswith('{"error":{"code":"')
    assert len(error["date"] if "date" in error else error["innerError"]["date"]) == len("2026-11-26T13:40:28Z")
    return answer.status_code, error["code"]


def signer(*keys: str, seconds: int = 60) -> Tokens:
    """What signs tokens with these keys."""
    from accountstore import Secret

    return Tokens([Secret(key) for key in keys], seconds)
