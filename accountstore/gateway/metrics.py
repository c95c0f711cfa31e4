"""Metrics and traces of a gateway, from the store's events and its own requests. No name of a client, no location."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from accountstore import Event

__all__ = ("Metrics", "span_observer")


class Metrics:
    """Counts requests and the store's operations, in a registry of its own.

    An embedding service that opens the store itself passes `observe` as its observer.
    """

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self._operations = Counter(
            "accountstore_operations",
            "Operations of the store.",
            ("operation", "storage", "outcome"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "accountstore_operation_seconds", "How long they took.", ("operation", "storage"), registry=self.registry
        )
        self._requests = Counter(
            "accountstore_gateway_requests",
            "Requests by operation and status.",
            ("operation", "status"),
            registry=self.registry,
        )
        self.in_flight: Gauge = Gauge("accountstore_gateway_in_flight", "Requests in flight.", registry=self.registry)
        self.ready: Gauge = Gauge("accountstore_gateway_ready", "Whether the storages answer.", registry=self.registry)

    def observe(self, event: Event, /) -> None:
        """Count an operation of the store."""
        self._operations.labels(event.operation, event.storage, event.outcome).inc()
        self._seconds.labels(event.operation, event.storage).observe(event.seconds)

    def answered(self, operation: str, status: int, in_flight: int, /) -> None:
        """Count a request that was answered, and those that are still under way."""
        self.in_flight.set(in_flight)
        self._requests.labels(operation, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class Tracer(Protocol):
    """An OpenTelemetry tracer."""

    def start_span(self, name: str, /, *, attributes: Any, start_time: int) -> Any:
        """Begin a span, at so many nanoseconds since 1970."""
        ...


def span_observer(tracer: Tracer, /) -> Callable[[Event], None]:
    """An observer that makes each event a span below the current one: `AccountStore.open(observer=...)`.

    `tracer` is OpenTelemetry's, whose own ASGI middleware makes the span of the request.
    """

    def observe(event: Event) -> None:
        now = time.time_ns()
        attributes = {"accountstore.storage": event.storage, "accountstore.outcome": event.outcome}
        began = now - int(event.seconds * 1e9)
        tracer.start_span(f"accountstore.{event.operation}", attributes=attributes, start_time=began).end(end_time=now)

    return observe
