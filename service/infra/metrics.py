"""What Prometheus reads: of this process, or of all processes of one `serve`.

The values of every label come from a closed list, or each stranger could add time series.
"""

import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import environ
from threading import BoundedSemaphore, Lock, Thread, Timer
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from service.infra.credentials import is_staff
from service.settings import Settings, UnsafeSettings, is_loopback

# What one reader may cost: connections at once, and seconds for each.
CONNECTIONS = 16
CONNECTION_SECONDS = 10.0
# At most one exposition in this time; requests in between get the last one again.
FRESH_SECONDS = 1.0

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

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
# Another mode would add the process id as a label.
REPAIRED = Gauge(
    "worker_repairer_timestamp_seconds",
    "When a repairer last did its work, in Unix time",
    ["repairer"],
    multiprocess_mode="mostrecent",
)
AUDIT = Gauge(
    "audit_violations",
    "Rows that an audit query found; 0 when all is well",
    ["query"],
    multiprocess_mode="mostrecent",
)


logger = logging.getLogger(__name__)


@cache
def of_route(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The two that every request counts in; looking them up by their labels costs as much as counting."""
    return REQUESTS.labels(method, route, status), LATENCY.labels(method, route)


def method_label(method: str) -> str:
    """The method as a label."""
    return method if method in METHODS else "other"


def exposition() -> bytes:
    """The metrics in Prometheus' text format, summed over all processes where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """Serve `/metrics` on METRICS_HOST and METRICS_PORT from a thread of its own, if there is a port.

    Off loopback it needs `Authorization: Bearer ADMIN_TOKEN`. Raises UnsafeSettings where the port cannot be had.
    """
    if not settings.metrics_port:
        yield
        return
    host, port = settings.metrics_host, settings.metrics_port
    token = "" if is_loopback(host) else settings.admin_token
    try:
        server = _Server(host, port, token)
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
    """A thread for each connection, up to CONNECTIONS of them."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.token = token
        self._slots = BoundedSemaphore(CONNECTIONS)
        self._lock, self._stale_at, self._text = Lock(), 0.0, b""
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind, and nothing else: HTTPServer may share a port that is taken, and asks a name server for our name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def text(self) -> bytes:
        """The exposition, made anew when the last one is older than FRESH_SECONDS."""
        with self._lock:
            if time.monotonic() >= self._stale_at:
                self._text = exposition()
                self._stale_at = time.monotonic() + FRESH_SECONDS
            return self._text

    def process_request(self, request: Any, client_address: Any) -> None:
        """Close a new connection when all threads are busy."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Hang up on who is too slow: a client that sends a byte now and then would keep its thread."""
        timer = Timer(CONNECTION_SECONDS, _hang_up, [request])
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong here; of readers that go away there is nothing to say."""
        if not isinstance(sys.exception(), OSError):
            logger.exception("the metrics could not be shown")


class _Handler(BaseHTTPRequestHandler):
    """One connection, of one request."""

    server: _Server

    def do_GET(self) -> None:
        if self.server.token and not is_staff(self.headers.get("Authorization", ""), self.server.token):
            self._answer(401, b"", ("WWW-Authenticate", "Bearer"))
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, b"")
        else:
            self._answer(200, self.server.text(), ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"))

    def log_message(self, *_: object) -> None:
        """Nothing: what it would log is what a stranger sent."""

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
