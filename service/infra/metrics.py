"""Metrics for Prometheus: of this process, or summed over all processes of one `serve`.

Every label has a closed list of values. Otherwise any client could add time series.
"""

import asyncio
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from os import environ
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread, Timer
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from service.settings import Settings, UnsafeSettings, is_loopback

# The limits for readers of the metrics: connections at a time, and seconds for each.
CONNECTIONS = 16
CONNECTION_SECONDS = 10.0
# The text of the metrics is reused for this long, and what changes with each request is sampled as often.
FRESH_SECONDS = 1.0

# Otherwise each counter is a second time series, with the time of its first use.
disable_created_metrics()  # type: ignore[no-untyped-call]

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

REQUESTS = Counter("http_requests_total", "HTTP requests that were answered", ["method", "route", "status"])
LATENCY = Histogram(
    "http_request_seconds",
    "Time from the first byte of a request to the last byte of its response",
    ["method", "route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
EVENTS = Counter("stripe_events_total", "Stripe events by outcome", ["outcome"])
TRANSITIONS = Counter("order_transitions_total", "Orders that reached a status", ["status"])
SWEPT = Counter("sweep_claims_total", "Due rows that the sweep claimed", ["what"])
# Other modes would add the process id as a label.
REPAIRED = Gauge(
    "worker_repairer_timestamp_seconds",
    "Unix time at which a periodic task last succeeded",
    ["repairer"],
    multiprocess_mode="mostrecent",
)
REFUNDS_FAILED = Counter("refunds_failed_total", "Refunds that Stripe refused, cancelled or reported as failed")
STUCK = Gauge("stuck", "What no repairer can finish; 0 is good", ["kind"], multiprocess_mode="mostrecent")
AUDIT = Gauge(
    "audit_violations",
    "Known violations of an audit rule; 0 is good",
    ["query"],
    multiprocess_mode="mostrecent",
)
AUDIT_PASSES = Gauge(
    "audit_pass_timestamp_seconds",
    "Unix time up to which an audit rule has checked all changes, or at which it has checked everything (full)",
    ["query", "pass"],
    multiprocess_mode="mostrecent",
)
AUDIT_FAILURES = Counter("audit_failures_total", "Runs in which an audit rule failed or ran out of time", ["query"])
UNITS_ON_HOLD = Gauge(
    "units_on_hold_ratio",
    "Units in unpaid holds, as a part of these and the units in stock, of the products with such holds",
    multiprocess_mode="mostrecent",
)

# What a process has in use. Sampled, because a gauge that follows each request costs more than counting it.
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum")
CONNECTIONS_OPEN = Gauge(
    "postgresql_connections", "Open connections to PostgreSQL", ["state"], multiprocess_mode="livesum"
)
WAITING = Gauge("limiter_waiting", "Callers in the queue of a limiter", ["limiter"], multiprocess_mode="livesum")
WAITED = Histogram(
    "limiter_wait_seconds",
    "Time that callers spent in the queue of a limiter; those that did not wait are not counted",
    ["limiter"],
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20),
)
REFUSED = Counter("limiter_refused_total", "Callers that a limiter refused or kept waiting for too long", ["limiter"])
CACHED_PAGE = Counter(
    "page_cache_requests_total",
    "Requests for the first page: answered from the cache (hit), or read from the tables (miss)",
    ["result"],
)

# Calls to the neighbours.
STRIPE = Histogram(
    "stripe_call_seconds",
    "Time of calls to Stripe, those that the rate limit refused included",
    ["operation", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
POSTGRESQL = Histogram(
    "postgresql_call_seconds",
    "Time of statements that succeeded, by their folder under sql/",
    ["folder"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10),
)
POSTGRESQL_FAILURES = Counter(
    "postgresql_failures_total",
    "Calls to PostgreSQL that failed, and whether they were repeated",
    ["reason", "retried"],
)
REDIS = Histogram(
    "redis_call_seconds",
    "Time of calls to Redis; none is made for a second after a failed one",
    ["operation"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2),
)
REDIS_FAILURES = Counter("redis_failures_total", "Calls to Redis that failed", ["operation", "reason"])

# The worker's.
JOBS = Histogram(
    "job_seconds",
    "Time of jobs by outcome: done, deferred to the sweep, or failed",
    ["job", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
DUE_ROWS = Gauge(
    "due_rows", "Rows that are due for repair, 10,000 at most", ["repairer"], multiprocess_mode="mostrecent"
)
OLDEST_DUE = Gauge(
    "oldest_due_seconds", "How long the oldest of these rows is due", ["repairer"], multiprocess_mode="mostrecent"
)
DELIVERIES = Counter("event_deliveries_total", "Attempts to deliver outgoing events: delivered or failed", ["outcome"])
DISPUTES = Counter("disputes_total", "Disputes of orders that reached a status of Stripe's", ["status"])
BUILD = Gauge(
    "build_info", "Always 1; the labels say what is running", ["version", "python"], multiprocess_mode="mostrecent"
)
# Stripe's statuses of disputes; a new one is counted as `other`.
DISPUTE_STATUSES = frozenset(
    "lost needs_response prevented under_review warning_closed warning_needs_response warning_under_review won".split()
)
try:
    _VERSION = version("commerce-core")
except PackageNotFoundError:
    _VERSION = "unknown"
BUILD.labels(_VERSION, platform.python_version()).set(1)
# What an alert waits for begins at 0: Prometheus sees no rise in a time series that begins at 1.
for status in (*DISPUTE_STATUSES, "other"):
    DISPUTES.labels(status)
for outcome in ("mismatch", "order_not_found", "unreadable", "livemode_mismatch"):
    EVENTS.labels(outcome)

logger = logging.getLogger(__name__)


@cache
def of_route(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The counter and the histogram of a route. Cached, because the look-up by labels takes as long as counting."""
    return REQUESTS.labels(method, route, status), LATENCY.labels(method, route)


def method_label(method: str) -> str:
    """A method as a label: unknown ones are `other`."""
    return method if method in METHODS else "other"


@asynccontextmanager
async def sampling(*samples: Callable[[], None]) -> AsyncIterator[None]:
    """Call each of `samples` every FRESH_SECONDS until the block ends, and once more then."""

    def sample_all() -> None:
        for sample in samples:
            sample()

    async def repeat() -> None:
        while True:
            sample_all()
            await asyncio.sleep(FRESH_SECONDS)

    repeating = asyncio.create_task(repeat())
    try:
        yield
    finally:
        repeating.cancel()
        sample_all()


def exposition() -> bytes:
    """The metrics in Prometheus' text format, summed over the processes if there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in environ:
        return generate_latest()
    for path in Path(environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
        _remove_if_dead(int(path.stem.rpartition("_")[2]))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _remove_if_dead(process_id: int) -> None:
    """Remove what a process has in use, if it was killed."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        multiprocess.mark_process_dead(process_id)  # type: ignore[no-untyped-call]


@contextmanager
def serving(settings: Settings, may_read: Callable[[str], bool]) -> Iterator[None]:
    """Serve `/metrics` on METRICS_HOST and METRICS_PORT from a thread of its own; port 0 means no metrics.

    If the address is not loopback, `may_read` decides by the Authorization header, in another thread. Raises
    UnsafeSettings if the port cannot be opened.
    """
    if not settings.metrics_port:
        yield
        return
    host, port = settings.metrics_host, settings.metrics_port
    try:
        server = _Server(host, port, (lambda _: True) if is_loopback(host) else may_read)
    except OSError as error:
        raise UnsafeSettings(f"METRICS_PORT: {host}, port {port}, cannot be used: {error.strerror}.") from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread per connection, at most CONNECTIONS."""

    def __init__(self, host: str, port: int, may_read: Callable[[str], bool]) -> None:
        self.may_read = may_read
        self._slots = BoundedSemaphore(CONNECTIONS)
        self._lock, self._stale_at, self._text = Lock(), 0.0, b""
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind only. HTTPServer's own method may share a port that is taken, and looks up our name in the DNS."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def text(self) -> bytes:
        """The metrics' text; the last one, if it is younger than FRESH_SECONDS."""
        with self._lock:
            if time.monotonic() >= self._stale_at:
                self._text = exposition()
                self._stale_at = time.monotonic() + FRESH_SECONDS
            return self._text

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection, or close it if all threads are busy."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection for at most CONNECTION_SECONDS: a slow client would keep its thread."""
        timer = Timer(CONNECTION_SECONDS, _shut_down, [request])
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of ours. A reader that disconnects is not one."""
        if not isinstance(sys.exception(), OSError):
            logger.exception("metrics request failed")


class _Handler(BaseHTTPRequestHandler):
    """A connection with one request."""

    server: _Server

    def do_GET(self) -> None:
        if not self.server.may_read(self.headers.get("Authorization", "")):
            self._respond(401, b"", ("WWW-Authenticate", "Bearer"))
        elif self.path.partition("?")[0] != "/metrics":
            self._respond(404, b"")
        else:
            self._respond(200, self.server.text(), ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"))

    def log_message(self, *_: object) -> None:
        """Log nothing: the text would come from the client."""

    def _respond(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
