"""Two gateways on one bucket: no save is lost, also when one of them dies. Longer: `ACCOUNTSTORE_GATEWAY_SAVES=800`."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from gateways import BASE, PASSWORD, request_of
from gatewayservers import configure, running, s3_storage, tokens_of
from running import HUNG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from cloudservers import Server
    from gatewayservers import Running
else:
    httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.once

SAVES = int(os.environ.get("ACCOUNTSTORE_GATEWAY_SAVES", "160"))
CLIENTS = 16
AT = {"fileName": "a.account"}


@pytest.fixture
def replicas(moto: Server, tmp_path: Path) -> Iterator[list[Running]]:
    """Two gateways in processes of their own, on one bucket."""
    pytest.importorskip("s3fs")
    configure(tmp_path, s3_storage(moto))
    with ExitStack() as stack:
        yield [stack.enter_context(running("serve", tmp_path)) for _ in range(2)]


def together(work: Callable[[int], None]) -> None:
    """Run the work of all clients at once, and raise what one of them raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * HUNG)
    if failures:
        raise failures[0]


def client_of(replica: Running) -> httpx.Client:
    """A client with a token."""
    token = tokens_of(replica.url)["access_token"]
    return httpx.Client(base_url=replica.url, headers={"authorization": f"Bearer {token}"}, timeout=60)


def increment(http: httpx.Client, *, conditional: bool) -> int:
    """Count the document's port one up. Returns how often others were faster."""
    lost = 0
    while True:
        got = http.get(BASE, params=AT)
        assert got.status_code == 200, got.text
        value = got.json()
        condition = {"if-match": got.headers["etag"]} if conditional else {}
        saved = http.put(BASE, json=request_of({**value, "port": value["port"] + 1}), headers=condition)
        if saved.status_code == 200:
            return lost
        assert saved.status_code in {409, 412, 503}, saved.text
        lost += 1


@pytest.mark.parametrize("conditional", [True, False], ids=["if-match", "control"])
def test_no_save_is_lost(replicas: list[Running], conditional: bool) -> None:
    """Sixteen clients of two gateways count one document up with If-Match: none of their saves is lost.

    Control: without If-Match they overwrite one another.
    """
    saves = SAVES if conditional else CLIENTS * 3
    with client_of(replicas[0]) as http:
        assert http.put(BASE, json=request_of({**PASSWORD, "port": 1})).status_code == 200
    lost = [0] * CLIENTS

    def work(number: int) -> None:
        with client_of(replicas[number % 2]) as http:
            for _ in range(saves // CLIENTS):
                lost[number] += increment(http, conditional=conditional)

    together(work)
    with client_of(replicas[1]) as http:
        port = http.get(BASE, params=AT).json()["port"]
    print(f"{saves} saves, {sum(lost)} conflicts, counted {port - 1}")
    assert (port - 1 == saves) is conditional
    assert sum(lost) > 0 or not conditional


def test_what_was_acknowledged_before_a_replica_died_is_there(replicas: list[Running]) -> None:
    """A gateway is killed in the middle: whatever either has acknowledged is read from the one that lives."""
    acknowledged: dict[int, int] = {}
    killed = threading.Event()

    def work(number: int) -> None:
        replica = replicas[number % 2]
        with client_of(replica) as http:
            for port in range(1, max(SAVES // CLIENTS, 8) + 1):
                if number == 0 and port == 5:
                    replicas[0].process.kill()
                    killed.set()
                with suppress(httpx.TransportError):
                    body = request_of({**PASSWORD, "port": port}, f"{number}.account")
                    if http.put(BASE, json=body).status_code == 200:
                        acknowledged[number] = port

    together(work)
    assert killed.is_set()
    with client_of(replicas[1]) as http:
        for number, port in acknowledged.items():
            got = http.get(BASE, params={"fileName": f"{number}.account"})
            assert got.json()["port"] >= port
    assert len(acknowledged) == CLIENTS
    assert min(acknowledged.values()) < max(acknowledged.values())
