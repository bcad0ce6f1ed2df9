"""What Prometheus reads, of this process or of all workers of one `serve`."""

import os
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
LATENCY = Histogram(
    "http_request_seconds",
    "Time from a request's first byte to its answer's last",
    ["method", "route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
EVENTS = Counter("stripe_events_total", "Stripe events by what became of them", ["outcome"])
TRANSITIONS = Counter("order_transitions_total", "Orders that reached a status", ["status"])
SWEPT = Counter("sweep_claims_total", "Due things that the sweep took up", ["what"])
REPAIRED = Gauge("worker_repairer_timestamp_seconds", "When a repairer last did its work, in Unix time", ["repairer"])
AUDIT = Gauge("audit_violations", "Rows that an audit query found; 0 when all is well", ["query"])


@cache
def of_route(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The two that every request counts in; looking them up by their labels costs as much as counting."""
    return REQUESTS.labels(method, route, status), LATENCY.labels(method, route)


def exposition() -> bytes:
    """The metrics in Prometheus' text format, summed over all processes where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
