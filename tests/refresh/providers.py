"""Identity providers for tests: a real one, and a small one of our own for what the real one cannot be made to do."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import install_provider
from anyio.lowlevel import checkpoint
from cloudservers import Missing
from running import HUNG

from accountstore import Account, OAuthCredentials, RefusedError, TokenGrant

if TYPE_CHECKING:
    from collections.abc import Generator

SECRET = "a secret: with % and &"
CLIENTS = ("mail-basic", "mail-post", "mail-public")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Provider:
    """The real one, as its tests control it."""

    def __init__(self, port: int, /) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.endpoint = f"{self.url}/token"

    def _ask(self, path: str, body: bytes | None = b"", /) -> Any:
        with _DIRECT.open(urllib.request.Request(f"{self.url}{path}", data=body), timeout=HUNG) as answer:
            return json.load(answer)

    def credentials(self, client: str = "mail-post", /) -> OAuthCredentials:
        """Those of a new family, as a login would have given them."""
        return OAuthCredentials(
            login="alice",
            client_id=client,
            client_secret=None if client == "mail-public" else SECRET,
            refresh_token=self._ask(f"/seed?client={client}")["refresh_token"],
            request_url=self.endpoint,
        )

    def account(self, client: str = "mail-post", /) -> Account:
        """An account with them."""
        return Account(host="imap.example.org", port=993, credentials=self.credentials(client))

    def counts(self) -> dict[str, Any]:
        """How many exchanges, refusals and revoked families there have been."""
        return dict(self._ask("/counts", None))

    def set(self, **settings: float) -> None:
        """Seconds that access tokens live (ttl); milliseconds of grace and of delay."""
        self._ask(f"/set?{urlencode(settings)}")

    def honours(self, account: Account, /) -> bool:
        """Whether the account's access token is good."""
        credentials = account.credentials
        assert isinstance(credentials, OAuthCredentials)
        assert credentials.access_token is not None
        return bool(
            self._ask("/introspect", json.dumps({"token": credentials.access_token.reveal()}).encode())["active"]
        )


@contextmanager
def real_provider() -> Generator[Provider]:
    """Start it, for the time of the block. It is looked for in the folder that ACCOUNTSTORE_OIDC_PROVIDER names."""
    folder = os.environ.get("ACCOUNTSTORE_OIDC_PROVIDER")
    command = install_provider.command(Path(folder)) if folder else None
    if command is None:
        raise Missing(
            "no oidc-provider: run tests/refresh/install_provider.py FOLDER, and name it in ACCOUNTSTORE_OIDC_PROVIDER"
        )
    # Its warnings are for those who run it in production.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield Provider(int(process.stdout.readline()))


class SmallProvider:
    """Refresh tokens `R0`, `R1`, ... of one family, in this process. Each is good once: whoever uses a spent one
    revokes them all. With `grace`, a spent one is taken again, and brings yet another.
    """

    def __init__(self, *, grace: bool = False, lifetime: float = 3600.0, rotates: bool = True) -> None:
        self.grace = grace
        self.lifetime = lifetime
        self.rotates = rotates
        self.good = {"R0"}
        self.spent: set[str] = set()
        self.exchanges = 0
        self.refusals = 0

    def account(self, refresh_token: str = "R0", /) -> Account:
        """An account with a refresh token, and no access token."""
        credentials = OAuthCredentials(login="me", client_id="id", refresh_token=refresh_token)
        return Account(host="imap.example.org", port=993, credentials=credentials)

    def spend(self, credentials: OAuthCredentials, /) -> TokenGrant:
        """The endpoint's work, in one step."""
        given = credentials.refresh_token.reveal()
        if given not in self.good and not (self.grace and given in self.spent):
            self.refusals += 1
            if given in self.spent:
                self.good.clear()
            raise RefusedError("spent", code="invalid_grant")
        self.exchanges += 1
        new = f"R{self.exchanges}" if self.rotates else None
        if new is not None:
            self.good -= {given}
            self.spent.add(given)
            self.good.add(new)
        return TokenGrant(access_token=f"A{self.exchanges}", refresh_token=new, expires_in=self.lifetime)

    async def exchange(self, credentials: OAuthCredentials, /) -> TokenGrant:
        """An exchange that takes a moment before and after."""
        await checkpoint()
        grant = self.spend(credentials)
        await checkpoint()
        return grant
