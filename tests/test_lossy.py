"""The lossy network of `accountstore.testing`: what each fault does to a request and its answer."""

from __future__ import annotations

import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from running import HUNG
from samples import ACCOUNT

from accountstore import Location, Stored
from accountstore.backends.base import UnavailableError, Version
from accountstore.backends.local import backend as local
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import FaultyBackend, LossyBackend, LossyProxy, Schedule, store_over

if TYPE_CHECKING:
    from pathlib import Path

    from cloudstub import Stub

    from accountstore.testing.histories.network import Fault

LOST = (HTTPException, ConnectionError, TimeoutError)
OLD, NEW = b"old", b"new"
ETAG = '"149603e6c03516362a8da23f624db945"'
"""Of the old one."""


def put(port: int, condition: dict[str, str]) -> int:
    """The status of a PUT; 0: there was no answer."""
    headers = {"x-amz-date": "now", **condition}
    with closing(HTTPConnection("127.0.0.1", port, timeout=0.5)) as connection:
        try:
            connection.request("PUT", "/bucket/key", NEW, headers)
            response = connection.getresponse()
            response.read()
        except LOST:
            return 0
        return response.status if response.getheader("Content-Length") else 0  # a head may be cut between two lines


@pytest.mark.parametrize(
    ("fault", "condition", "answered", "landed"),
    [
        ("", False, True, 1),
        ("lose request", False, False, 0),
        ("cut request", False, False, 0),
        ("lose answer", False, False, 1),
        ("cut answer", False, False, 1),
        ("delay request", False, True, 1),
        ("delay answer", False, True, 1),
        ("repeat", False, True, 2),
        ("repeat", True, True, 2),
        ("late", False, True, 1),
        ("late", True, False, 1),
        ("silence", False, False, 0),
        ("silence after", False, False, 1),
    ],
)
def test_proxy_does_what_the_fault_says(stub: Stub, fault: Fault, condition: bool, answered: bool, landed: int) -> None:
    """A request is answered or not, and reaches the server or not, as the fault says; of a repetition, the answer of
    success comes back.
    """
    stub.put("s3", "bucket", "key", OLD)
    schedule = Schedule(1, rate=1, longest=0.01, faults=(fault,))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(LossyProxy(stub.port, schedule)) as proxy,
    ):
        assert put(proxy.port, {"If-Match": ETAG} if condition else {}) == (200 if answered else 0)
        end = time.monotonic() + HUNG
        while landed and stub.count() < landed:
            assert time.monotonic() < end
        assert stub.count() == landed
    assert stub.get("s3", "bucket", "key") == (NEW if landed else OLD)
    assert schedule.drawn == {fault: 1}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "swap", "answered", "landed"),
    [
        ("", False, True, 1),
        ("lose request", False, False, 0),
        ("cut request", False, False, 0),
        ("lose answer", False, False, 1),
        ("cut answer", False, False, 1),
        ("delay request", False, True, 1),
        ("delay answer", False, True, 1),
        ("repeat", False, True, 1),
        ("repeat", True, True, 2),
        ("silence", False, False, 0),
        ("silence after", False, False, 1),
    ],
)
async def test_backend_does_what_the_fault_says(fault: Fault, swap: bool, answered: bool, landed: int) -> None:
    """A write returns or not, and reaches the backend or not, as the fault says; only a swap is repeated."""
    below = FaultyBackend(MemoryBackend())
    version = (await below.write("key", OLD, mode="overwrite")).version
    assert isinstance(version, Version)
    backend = LossyBackend(below, Schedule(1, rate=1, longest=0.01, faults=(fault,)))
    assert not backend.capabilities.certain
    returned = False
    with anyio.move_on_after(0.2 if fault.startswith("silence") else HUNG):
        try:
            await backend.write("key", NEW, mode=version if swap else "overwrite")
            returned = True
        except UnavailableError:
            pass
    assert returned is answered
    assert below.calls["write"] == 1 + landed
    assert (await below.read("key", limit=10)).data == (NEW if landed else OLD)


@pytest.mark.anyio
async def test_many_documents_go_through_a_lossy_backend_one_by_one(tmp_path: Path) -> None:
    """Over a backend with batches, too."""
    inner = await local.open_backend(f"file://{tmp_path}", {})
    locations = [Location(f"{number}.account") for number in range(3)]
    async with store_over({"default": LossyBackend(inner, Schedule(1, rate=0.0))}) as store:
        saved = {at: version async for at, version in store.save_many((at, ACCOUNT) for at in locations)}
        assert {at: got.version async for at, got in store.get_many(locations) if isinstance(got, Stored)} == saved
    assert saved.keys() == {*locations}


def test_a_schedule_is_what_its_seed_says() -> None:
    """The same seed draws the same faults, another one others, as many as the rate says."""
    draws = [[schedule.draw() for _ in range(1000)] for schedule in (Schedule(1), Schedule(1), Schedule(2))]
    assert draws[0] == draws[1] != draws[2]
    assert 200 < sum(map(bool, draws[0])) < 400
