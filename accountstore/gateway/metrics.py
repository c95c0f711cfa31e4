"""Metrics of a gateway, from the store's events and its own requests. No name of a client, no location."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from accountstore import Event

__all__ = ("Metrics",)


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

    def answered(self, operation: str, status: int, /) -> None:
        """Count a request that was answered."""
        self._requests.labels(operation, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
