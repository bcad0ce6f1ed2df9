"""Middleware, pure ASGI: request ids, standard headers, logs, metrics, and the response to an unhandled error."""

import logging
import re
import time
from collections.abc import Iterable
from typing import TypeAlias

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShopError
from service.http.responses import problem
from service.infra.logs import actor, cause, log_soon, new_span_id, new_trace_id, subject
from service.infra.metrics import method_label, of_route

RawHeaders = list[tuple[bytes, bytes]]

# Response headers that browsers show to pages of other origins.
EXPOSED = ["ETag", "Location", "Idempotent-Replayed", "Retry-After", "X-Request-ID"]
EXPOSED += ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
# Public content may be stored by browsers, but is revalidated: it can change at any time.
PUBLIC = ("/products", "/categories", "/docs", "/openapi.json", "/problems")
# A Content-Security-Policy that allows nothing; a page adds the sources that it needs.
NO_SOURCES = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# HSTS belongs to the proxy, which has the certificate.
SECURITY_HEADERS: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", NO_SOURCES.encode()),
    (b"x-frame-options", b"DENY"),
    # URLs contain the ids of carts and orders, which are capabilities.
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
PUBLIC_SECURITY_HEADERS: RawHeaders = [*SECURITY_HEADERS[:-1], (b"cache-control", b"no-cache")]
# The scope's key that tells inner middleware that a response has begun.
RESPONSE_STARTED = "commerce.response_started"
REQUEST_ID = re.compile(rb"[\w.:/+=-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may add fields, the version 00 has none.
TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)

logger = logging.getLogger("service.http")


# The ids of a request: ours, its trace's, and the client's own X-Request-ID, where it is valid. Ours is the trace's id
# and one that no other request has. The trace is the caller's, by its `traceparent`. A plain tuple, because a named one
# takes three times as long to make.
Ids: TypeAlias = tuple[str, str, str | None]


def ids_of(headers: Iterable[tuple[bytes, bytes]]) -> Ids:
    """The ids of a request with these headers."""
    supplied = traceparent = b""
    for name, value in headers:
        if name == b"x-request-id":
            supplied = supplied or value
        elif name == b"traceparent":
            traceparent = traceparent or value
    client = supplied.decode() if supplied and REQUEST_ID.fullmatch(supplied) else None
    span_id = new_span_id()
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    trace_id = match[1].decode() if match else new_trace_id(span_id)
    return f"{trace_id}-{span_id}", trace_id, client


def record_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request and write its log line. `route` is a path template."""
    method = method_label(method)
    requests, latency = of_route(method, route, status)
    requests.inc()
    latency.observe(seconds)
    log_soon(logger, "request", method=method, route=route, status=status, seconds=round(seconds, 5))


def with_standard_headers(headers: RawHeaders, request_id: str, defaults: RawHeaders = SECURITY_HEADERS) -> RawHeaders:
    """Add X-Request-ID and the default security headers; headers that the response set itself win."""
    names = {name for name, _ in headers}
    defaults = [header for header in defaults if header[0] not in names]
    return [*headers, *defaults, (b"x-request-id", request_id.encode())]


class RequestContextMiddleware:
    """Outermost: gives each request its id, standard headers, log line and metrics; CORS preflights too."""

    # The traced middleware replaces these two.
    ids_of, record = staticmethod(ids_of), staticmethod(record_request)

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and record it. Every response has X-Request-ID."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        # HEAD is answered by GET. The server keeps the true method and omits the body.
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        own_id, trace_id, client_id = self.ids_of(scope["headers"])
        request_id = client_id or own_id
        token = cause.set(f"request {own_id}")
        # Until a credential names someone else.
        actor.set("customer")
        subject.set({"trace_id": trace_id, "client_request_id": client_id} if client_id else {"trace_id": trace_id})
        defaults = PUBLIC_SECURITY_HEADERS if scope["path"].startswith(PUBLIC) else SECURITY_HEADERS
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                scope[RESPONSE_STARTED] = True
                message["headers"] = with_standard_headers(message["headers"], request_id, defaults)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        finally:
            # The template, because each path with an id would become a time series.
            route = getattr(scope.get("route"), "path", "unknown")
            # 499: the client left before the answer, or this process stopped.
            self.record(method, route, status or 499, time.perf_counter() - started)
            cause.reset(token)


class UnhandledErrorMiddleware:
    """Innermost, so that this response gets the CORS headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log an unhandled error, and answer 500 unless a response has begun."""
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("unhandled error")
            if RESPONSE_STARTED not in scope:
                response = problem(ShopError("internal", "The error is in our log, under the X-Request-ID."))
                await response(scope, receive, send)
