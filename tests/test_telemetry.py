"""OpenTelemetry: what an observer of the package makes of events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk", exc_type=ImportError)

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from samples import ACCOUNT, AT

from accountstore import NotFoundError, UnavailableError
from accountstore.backends.memory import MemoryBackend
from accountstore.telemetry import otel_observer
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio


async def _observed(*, paths: bool) -> tuple[list[Any], Mapping[str, Any], str]:
    """The spans and the metrics' points of a save that is retried and a get that fails; and all of it as text."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    observer = otel_observer(tracer_provider=tracers, meter_provider=meters, paths=paths)
    fault = Fault("write", 1, "before", UnavailableError("busy", sent=False))
    async with store_over({"main": FaultyBackend(MemoryBackend(), [fault])}, observer=observer, attempts=2) as store:
        with tracers.get_tracer("service").start_as_current_span("request"):
            await store.save(AT, ACCOUNT)
        await store.delete(AT)
        with pytest.raises(NotFoundError):
            await store.get(AT)
    data: Any = reader.get_metrics_data()
    metrics = {
        metric.name: list(metric.data.data_points) for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    spans = list(exporter.get_finished_spans())
    return spans, metrics, data.to_json() + json.dumps([span.to_json() for span in spans])


async def test_events_are_spans_and_metrics(pauses: list[float]) -> None:
    """A span and a duration for each operation, an error by its type, a count of retries, and no name of a file."""
    spans, metrics, text = await _observed(paths=False)
    assert [span.name for span in spans] == [
        "accountstore.save",
        "request",
        "accountstore.delete",
        "accountstore.get",
    ]
    save, request, _, get = spans
    assert save.parent.span_id == request.get_span_context().span_id
    assert dict(save.attributes) == {
        "accountstore.operation": "save",
        "accountstore.storage": "main",
        "accountstore.attempts": 1,
        "accountstore.retries": 1,
        "accountstore.size": save.attributes["accountstore.size"],
    }
    assert (get.attributes["error.type"], get.status.is_ok) == ("NotFoundError", False)
    assert save.status.is_unset
    durations = metrics["accountstore.operation.duration"]
    assert sorted(point.attributes["accountstore.operation"] for point in durations) == ["delete", "get", "save"]
    assert [point.attributes["error.type"] for point in durations if "error.type" in point.attributes] == [
        "NotFoundError"
    ]
    assert [(point.value, dict(point.attributes)) for point in metrics["accountstore.retries"]] == [
        (1, {"accountstore.storage": "main"})
    ]
    assert AT.file_name not in text


async def test_paths_are_told_on_request(pauses: list[float]) -> None:
    """With `paths`, spans have the location, and metrics do not; the control of the test above."""
    spans, metrics, text = await _observed(paths=True)
    assert spans[0].attributes["accountstore.location"] == str(AT)
    assert AT.file_name in text
    assert not [
        point for point in metrics["accountstore.operation.duration"] if "accountstore.location" in point.attributes
    ]


@pytest.mark.parametrize("given", [{"tracer_provider": 3}, {"meter_provider": "x"}, {"paths": "yes"}])
def test_what_is_no_provider_is_refused(given: Any) -> None:
    """At once, by its type; names of files are shown by no other word than True."""
    with pytest.raises(TypeError, match="tracer_provider and meter_provider must be"):
        otel_observer(**given)
