"""OpenTelemetry spans and metrics of what a store does (extra `otel`, which is opentelemetry-api alone)::

    async with AccountStore.open(observer=otel_observer()) as store: ...

A span is `accountstore.<operation>`; attributes of our own begin with `accountstore.`, and `error.type` is that of the
stable semantic conventions. No contents, and no names of folders and files unless asked for: they may be addresses of
people.
"""

from __future__ import annotations

import time
from collections.abc import Callable

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer_provider
except ImportError:
    raise ImportError(
        "accountstore.telemetry needs the package opentelemetry-api: pip install 'accountstore[otel]'",
        name="opentelemetry",
    ) from None

from accountstore.events import Event

__all__ = ("otel_observer",)

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def otel_observer(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None, paths: bool = False
) -> Callable[[Event], None]:
    """An observer that makes each event a span below the current one, and counts it: `AccountStore.open(observer=...)`.

    Metrics: the histogram `accountstore.operation.duration` in seconds, by `accountstore.operation`,
    `accountstore.storage` and, of a failure, `error.type` (the name of the error's class); the counter
    `accountstore.retries`, by `accountstore.storage`.

    Without providers, the process's own (`opentelemetry.trace.set_tracer_provider`) are used. `paths` adds
    `accountstore.location` and `accountstore.target` to the spans, never to the metrics.

    Raises:
        TypeError: a provider is none, or `paths` is no bool.
    """
    providers = (tracer_provider, TracerProvider), (meter_provider, MeterProvider)
    if not all(isinstance(given, kind | None) for given, kind in providers) or paths not in {True, False}:
        raise TypeError("tracer_provider and meter_provider must be OpenTelemetry's, and paths True or False")
    tracer = (tracer_provider or get_tracer_provider()).get_tracer("accountstore")
    meter = (meter_provider or get_meter_provider()).get_meter("accountstore")
    durations = meter.create_histogram(
        "accountstore.operation.duration",
        unit="s",
        description="How long operations took, retries included.",
        explicit_bucket_boundaries_advisory=_DURATIONS,
    )
    retries = meter.create_counter("accountstore.retries", unit="{request}", description="Requests that were repeated.")

    def observe(event: Event, /) -> None:
        attributes: dict[str, str | int] = {
            "accountstore.operation": event.operation,
            "accountstore.storage": event.storage,
        }
        if event.outcome != "ok":
            attributes["error.type"] = event.outcome
        durations.record(event.seconds, dict(attributes))
        for storage in event.retries:
            retries.add(1, {"accountstore.storage": storage})
        attributes |= {"accountstore.attempts": event.attempts, "accountstore.retries": len(event.retries)}
        if event.bytes is not None:
            attributes["accountstore.size"] = event.bytes
        for name, location in (("location", event.location), ("target", event.target)):
            if paths and location is not None:
                attributes[f"accountstore.{name}"] = str(location)
        ended = time.time_ns()
        began = ended - int(event.seconds * 1e9)
        span = tracer.start_span(
            f"accountstore.{event.operation}", kind=SpanKind.CLIENT, attributes=attributes, start_time=began
        )
        if event.outcome != "ok":
            span.set_status(Status(StatusCode.ERROR, event.outcome))
        span.end(ended)

    return observe
