"""Middleware, pure ASGI: request ids, logs and metrics; limits on requests; the response to an unhandled error."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Iterable
from itertools import count
from os import urandom

from redis.asyncio import Redis
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShopError
from service.http import bodies
from service.http.bodies import COMPLETE, Arrivals
from service.http.identity import Clients
from service.http.responses import NO_SOURCES, problem
from service.infra import rate_limit
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.credentials import is_staff
from service.infra.logs import cause, log_soon
from service.infra.metrics import method_label, of_route
from service.infra.resources import Resources

RawHeaders = list[tuple[bytes, bytes]]

# Paths that are answered under any load.
OPERATORS = ("/health/",)
# How long a client may take to send its body; server/protocol.py bounds the head and the response.
CLIENT_SECONDS = 30.0
# Statuses after which the rest of a body is not read.
HANG_UP = (408, 429, 503)

# Response headers that browsers show to pages of other origins.
EXPOSED = ["ETag", "Location", "Idempotent-Replayed", "Retry-After", "X-Request-ID"]
EXPOSED += ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
# Public content may be stored by browsers, but is revalidated: it can change at any time.
PUBLIC = ("/products", "/categories", "/docs", "/openapi.json", "/problems")
# HSTS belongs to the proxy, which has the certificate.
SECURITY_HEADERS: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", NO_SOURCES.encode()),
    (b"x-frame-options", b"DENY"),
    # The ids of carts and orders in URLs are capabilities.
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
PUBLIC_SECURITY_HEADERS: RawHeaders = [*SECURITY_HEADERS[:-1], (b"cache-control", b"no-cache")]
REQUEST_ID = re.compile(rb"[\w.:/+=-]{1,128}")

logger = logging.getLogger("service.http")


# Random once a process: a random id for each request would take longer than the rest of its log line.
_PROCESS, _NUMBER = urandom(12).hex(), count()


def new_request_id() -> str:
    """An id for a request without one."""
    return f"{_PROCESS}{next(_NUMBER):08x}"


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-ID where it is valid, else a new one."""
    supplied = next((value for name, value in headers if name == b"x-request-id"), b"")
    return supplied.decode() if REQUEST_ID.fullmatch(supplied) else new_request_id()


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

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every response has X-Request-ID."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        # HEAD is answered by GET. The server keeps the true method and omits the body.
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        request_id = request_id_of(scope["headers"])
        token = cause.set(f"request {request_id}")
        defaults = PUBLIC_SECURITY_HEADERS if scope["path"].startswith(PUBLIC) else SECURITY_HEADERS
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = with_standard_headers(message["headers"], request_id, defaults)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499
        finally:
            # The template, because a path with an id would be a time series of its own.
            route = getattr(scope.get("route"), "path", "unknown")
            record_request(method, route, status, time.perf_counter() - started)
            cause.reset(token)


class ConcurrencyLimitMiddleware:
    """Limits the requests in flight; beyond the limit the answer is `busy`, at once.

    A request counts from when its body is complete, so that slow senders take no slot.
    """

    def __init__(self, app: ASGIApp, slots: int, clients: Clients, client_seconds: float = CLIENT_SECONDS) -> None:
        """`slots` is how many requests may be in flight; idle connections take none."""
        self.app = app
        self.free = slots
        self.clients = clients
        self.client_seconds = client_seconds
        self.arrivals = Arrivals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `busy` when no slot is free."""
        if scope["type"] != "http" or scope["path"].startswith(OPERATORS):
            await self.app(scope, receive, send)
        elif COMPLETE not in scope.get("extensions", ()):
            await self._when_complete(scope, receive, send)
        elif not self.free:
            await problem(_full())(scope, receive, send)
        else:
            self.free -= 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.free += 1

    async def _when_complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Random, so that bodies which began together do not time out together.
        seconds = random.uniform(0.8, 1) * self.client_seconds  # noqa: S311
        deadline = asyncio.get_running_loop().time() + seconds
        arrival = self.arrivals.begin(self.clients.digest(scope), deadline)
        complete = counted = False

        async def receive_in_time() -> Message:
            nonlocal complete, counted
            if complete:
                return await receive()
            message = await arrival.receive(receive)
            if not message.get("more_body"):
                complete = True
                self.arrivals.end(arrival)
                if not self.free:
                    raise _full()
                self.free -= 1
                counted = True
            return message

        async def send_and_hang_up(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete and message["status"] in HANG_UP:
                if arrival.refused:
                    # Random, so that connections which were refused together do not come back together.
                    await asyncio.sleep(random.uniform(1, 2) * bodies.LINGER_SECONDS)  # noqa: S311
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self.app(scope, receive_in_time, send_and_hang_up)
        finally:
            self.arrivals.end(arrival)
            self.free += counted


def _full() -> ShopError:
    return ShopError("busy", "Too many requests at once; try again.")


class RateLimitMiddleware:
    """Limits the requests of one client in a minute; each response says how many are left.

    This process counts first: a client over the limit here costs Redis nothing. Redis counts for all processes; while
    it does not answer, each process limits by its own count. The headers are RateLimit-Limit, -Remaining and -Reset:
    clients know these three, but rarely the single `RateLimit` of the newer IETF draft.
    """

    def __init__(self, app: ASGIApp, per_minute: int, clients: Clients, admin_token: str) -> None:
        self.app = app
        self.per_minute = per_minute
        self.clients = clients
        self.admin_token = admin_token
        self._local = rate_limit.LocalCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `rate_limited` beyond the limit. Staff, Stripe's webhooks and health checks are exempt."""
        if (
            scope["type"] != "http"
            or scope["path"].startswith((*OPERATORS, "/webhooks/"))
            or (self.admin_token and is_staff(Headers(scope=scope).get("authorization", ""), self.admin_token))
        ):
            await self.app(scope, receive, send)
            return
        # Clients without an address share one limit.
        client = self.clients.digest(scope) or b""
        used, left = local = self._local.count(client)
        if used <= self.per_minute:
            # Redis may have been emptied meanwhile, so the greater count is right.
            used, left = max(local, await rate_limit.count(*_redis(scope), client) or local)
        limits: RawHeaders = [
            (b"ratelimit-limit", b"%d" % self.per_minute),
            (b"ratelimit-remaining", b"%d" % max(0, self.per_minute - used)),
            (b"ratelimit-reset", b"%d" % left),
        ]
        if used > self.per_minute:
            response = problem(ShopError("rate_limited", f"A client may send {self.per_minute} requests a minute."))
            response.headers["Retry-After"] = str(left)
            response.raw_headers += limits
            await response(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A new list, because other responses may share this one.
                message["headers"] = [*message["headers"], *limits]
            await send(message)

        await self.app(scope, receive, send_with_limits)


def _redis(scope: Scope) -> tuple[Redis, CircuitBreaker]:
    resources: Resources = scope["app"].state.resources
    return resources.redis, resources.redis_breaker


class UnhandledErrorMiddleware:
    """Innermost, so that this response gets the CORS headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log an unhandled error, and answer 500 unless a response has begun."""
        begun = False

        async def send_observed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("unhandled error")
            if not begun:
                response = problem(ShopError("internal", "The error is in our log, under the X-Request-ID."))
                await response(scope, receive, send)
