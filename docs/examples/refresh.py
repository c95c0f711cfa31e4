"""Three processes share one mailbox whose access token has expired: the refresh token is exchanged once.

`python docs/examples/refresh.py` (with the extra `oauth`) starts a provider on loopback that takes each refresh token
once, three processes that refresh the same document in a temporary folder, and prints what the provider has counted.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import ClassVar
from urllib.parse import parse_qs

import anyio

from accountstore import Account, AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig
from accountstore.oauth import TokenEndpoint

AT = Location("me.account", folder="mail")


class Provider(BaseHTTPRequestHandler):
    """A token endpoint whose refresh tokens are good once: a second use revokes them all, as providers do."""

    lock: ClassVar[Lock] = Lock()
    good: ClassVar[set[str]] = {"refresh-0"}
    exchanges: ClassVar[int] = 0
    refusals: ClassVar[int] = 0

    def do_POST(self) -> None:
        """Exchange a refresh token."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        with Provider.lock:
            if form["refresh_token"][0] in Provider.good:
                Provider.exchanges += 1
                Provider.good = {f"refresh-{Provider.exchanges}"}
                status, body = 200, {"access_token": f"access-{Provider.exchanges}", "expires_in": 3600}
                body["refresh_token"] = f"refresh-{Provider.exchanges}"
            else:
                Provider.refusals += 1
                Provider.good = set()
                status, body = 400, {"error": "invalid_grant"}
        time.sleep(0.2)  # the others ask meanwhile
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- the name that it has above
        """Print nothing."""


def work(folder: str) -> None:
    """What each process does whenever it needs the mailbox."""

    async def main() -> None:
        config = StoreConfig(storages={"shared": StorageConfig(folder)})
        async with AccountStore.open(config) as store:
            stored = await store.refresh(AT, TokenEndpoint(insecure_http=True))  # http, as this provider has no TLS
        credentials = stored.document.credentials
        token = credentials.access_token if isinstance(credentials, OAuthCredentials) else None
        sys.stdout.write(f"a process has a token: {token}\n")  # at once: others write, too

    anyio.run(main)


async def save(folder: str, endpoint: str) -> None:
    """Save the mailbox as a first login leaves it."""
    async with AccountStore.open(StoreConfig(storages={"shared": StorageConfig(folder)})) as store:
        credentials = OAuthCredentials(login="me", client_id="mail", refresh_token="refresh-0", request_url=endpoint)
        await store.save(AT, Account(host="imap.example.com", port=993, credentials=credentials))


def main() -> None:
    """Start the provider and the processes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server, tempfile.TemporaryDirectory() as folder:
        Thread(target=server.serve_forever, daemon=True).start()
        anyio.run(save, folder, f"http://127.0.0.1:{server.server_port}/token")
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=work, args=(folder,)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        server.shutdown()
    print(f"exchanges: {Provider.exchanges}, refusals: {Provider.refusals}")


if __name__ == "__main__":
    main()
