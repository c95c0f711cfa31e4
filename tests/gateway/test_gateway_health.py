"""Health, metrics and traces."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from doubles import Recording
from gateways import BASE, PASSWORD, configured, request_of, serving, told

from accountstore import AccountStore, DeniedError, Event, FullError, StorageConfig, StoreConfig, UnavailableError
from accountstore.gateway import Metrics, gateway
from accountstore.gateway.health import Health
from accountstore.testing import Fault, store_over

pytestmark = pytest.mark.anyio


async def ready_as(http: Any, wanted: int) -> None:
    """Wait until `/health/ready` has this status."""
    with anyio.fail_after(60):
        while (await http.get("/health/ready")).status_code != wanted:
            await anyio.sleep(0.01)


async def test_ready_once_the_storages_have_answered(store: AccountStore) -> None:
    """Live at once; ready after the first probe, without a token."""
    async with serving(store, token=False) as http:
        assert (await http.get("/health/live")).json() == {"status": "live"}
        await ready_as(http, 200)
        assert (await http.get("/health/ready")).json() == {"status": "ready"}


async def test_before_any_probe_it_is_not_ready(store: AccountStore) -> None:
    """Nothing is said to be ready that has not been looked at."""
    health = Health(store, 10)
    assert not health.ready
    await health.probe()
    assert health.ready


@pytest.mark.parametrize(
    ("error", "problem"),
    [(UnavailableError("x"), "UnavailableError"), (DeniedError("x"), "DeniedError")],
)
async def test_a_storage_that_fails_is_told(error: Exception, problem: str) -> None:
    """An unreachable or refusing storage makes the gateway unready, until it answers again; which one stays inside."""
    backend = Recording()
    async with serving(store_over({"main": Recording(), "b": backend}), configured(probe_seconds=0.04)) as http:
        await ready_as(http, 200)

        async def fail(operation: str) -> None:
            raise error

        backend.before = fail
        await ready_as(http, 503)
        answer = await http.get("/health/ready")
        assert told(answer) == (503, "notReady")
        assert problem not in answer.text
        assert (await http.get("/health/live")).status_code == 200
        backend.before = None
        await ready_as(http, 200)


async def test_a_probe_names_what_fails() -> None:
    """Each storage that fails is named with the class of its error, or as slow; within half of the period."""
    slow = Recording()

    async def wait(operation: str) -> None:
        await anyio.sleep_forever()

    slow.before = wait
    broken = Recording(None, [Fault("stat", error=UnavailableError("x"))])
    health = Health(store_over({"main": Recording(), "slow": slow, "broken": broken}), 0.1)
    await health.probe()
    assert health.failing == {"slow": "no answer in time", "broken": "UnavailableError"}


async def test_a_full_storage_is_told_until_it_takes_writes_again() -> None:
    """After a write found no space, probes write; when one goes through, the gateway is ready and they read again."""
    backend = Recording()
    full = True

    async def fill(operation: str) -> None:
        if operation == "write" and full:
            raise FullError("no space")

    backend.before = fill
    async with serving(store_over({"main": backend}), configured(probe_seconds=0.04)) as http:
        await ready_as(http, 200)
        assert told(await http.put(BASE, json=request_of(PASSWORD))) == (507, "full")
        await ready_as(http, 503)
        full = False
        await ready_as(http, 200)
        await probed(backend)
        assert {*backend.log} == {"stat"}


async def test_a_refused_write_says_nothing_of_a_storage() -> None:
    """After a write was denied on a storage that is for reading only, or about one document, the gateway stays ready,
    and no probe writes; nor to it when another storage is full.
    """
    archive, main = Recording(), Recording()

    async def refuse(operation: str) -> None:
        if operation == "write":
            raise DeniedError("read-only")

    async def fill(operation: str) -> None:
        if operation == "write":
            raise FullError("no space")

    archive.before = refuse
    async with serving(store_over({"main": main, "archive": archive}), configured(probe_seconds=0.04)) as http:
        await ready_as(http, 200)
        assert told(await http.put(BASE, json=request_of(PASSWORD, storage="archive"))) == (403, "denied")
        await probed(archive)
        assert (await http.get("/health/ready")).status_code == 200
        assert {*archive.log} == {"stat"}
        main.before = fill
        assert told(await http.put(BASE, json=request_of(PASSWORD, storage="main"))) == (507, "full")
        await ready_as(http, 503)
        await probed(archive)
        assert {*archive.log} == {"stat"}
        main.before = None
        await ready_as(http, 200)


async def probed(backend: Recording) -> None:
    """Wait until a storage has been looked at three times."""
    backend.log.clear()
    with anyio.fail_after(60):
        while len(backend.log) < 3:
            await anyio.sleep(0.01)


async def test_metrics_count_requests_and_operations() -> None:
    """Where they are switched on, metrics have requests by operation and status, and the store's own operations."""
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    events: list[Event] = []
    async with serving(config, configured(metrics=True), observer=events.append) as http:
        await ready_as(http, 200)
        await http.put(BASE, json=request_of(PASSWORD, "zQ7k.account"))
        await http.get(f"{BASE}?fileName=no.account")
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert 'accountstore_gateway_requests_total{operation="client_account.save",status="200"} 1.0' in text
    assert 'accountstore_gateway_requests_total{operation="client_account.get",status="404"} 1.0' in text
    assert 'accountstore_operations_total{operation="save_json",outcome="ok",storage="main"} 1.0' in text
    assert 'accountstore_operations_total{operation="read",outcome="NotFoundError",storage="main"} 1.0' in text
    assert "accountstore_gateway_ready 1.0" in text
    assert "zQ7k" not in text
    assert "save_json" in {event.operation for event in events}


async def test_the_requests_in_flight_are_those_of_the_moment() -> None:
    """Requests count from their beginning to their end, with the scrape itself."""
    backend, go_on, begun = Recording(), anyio.Event(), list[str]()

    async def hold(operation: str) -> None:
        if operation == "read":
            begun.append(operation)
            await go_on.wait()

    async def in_flight() -> float:
        text = (await http.get("/metrics")).text
        return float(text.split("\naccountstore_gateway_in_flight ")[1].split()[0])

    backend.before = hold
    async with serving(store_over({"main": backend}), configured(metrics=True)) as http:
        async with anyio.create_task_group() as gets:
            for _ in range(3):
                gets.start_soon(http.get, f"{BASE}?fileName=no.account")
            with anyio.fail_after(60):
                while len(begun) < 3:
                    await anyio.sleep(0.01)
            assert await in_flight() == await in_flight() == 4
            go_on.set()
        assert await in_flight() == 1


async def test_the_metrics_of_an_open_store(tmp_path: Any) -> None:
    """A service that opens the store itself passes the metrics' observer there."""
    metrics = Metrics()
    async with (
        AccountStore.open(
            StoreConfig(storages={"main": StorageConfig("memory://")}), observer=metrics.observe
        ) as store,
        serving(store, configured(metrics=True), metrics=metrics) as http,
    ):
        await http.get(f"{BASE}?fileName=no.account")
        assert "accountstore_operations_total" in (await http.get("/metrics")).text


async def test_events_become_spans() -> None:
    """Each event is a span with the time that it took, below the span of whoever asked; no location is in it."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    telemetry = pytest.importorskip("accountstore.telemetry")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    config = StoreConfig(storages={"main": StorageConfig("memory://")})
    async with AccountStore.open(config, observer=telemetry.otel_observer(tracer_provider=provider)) as store:
        with tracer.start_as_current_span("request") as outer:
            async with serving(store) as http:
                await http.put(BASE, json=request_of(PASSWORD, "zQ7k.account"))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    saved = spans["accountstore.save_json"]
    assert saved.parent.span_id == outer.get_span_context().span_id
    assert saved.end_time > saved.start_time
    assert saved.attributes["accountstore.storage"] == "main"
    assert "zQ7k" not in saved.to_json()


def test_a_gateway_begins_no_task_by_itself() -> None:
    """Making an application does no I/O and needs no event loop."""
    app = gateway(StoreConfig(storages={"main": StorageConfig("memory://")}), configured())
    assert callable(app)
