"""Around every request: its id, its log line, its numbers, and the answer when nobody foresaw what happened."""

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
from service.http.clients import Clients
from service.http.pages import NOTHING
from service.http.responses import problem
from service.infra import rate_limit
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.credentials import is_staff
from service.infra.logs import cause, log_soon
from service.infra.metrics import method_label, of_route
from service.infra.resources import Resources

RawHeaders = list[tuple[bytes, bytes]]

# What has to answer however much there is to do.
OPERATORS = ("/health/",)
# How long a client may take to send its body; `protocol.py` bounds the rest.
CLIENT_SECONDS = 30.0
# Statuses behind which the rest of a body is not worth reading.
HANG_UP = (408, 429, 503)

# What browsers of other origins may read of an answer besides its body.
EXPOSED = ["ETag", "Location", "Idempotent-Replayed", "Retry-After", "X-Request-ID"]
EXPOSED += ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
# What anybody may see may be stored, but is asked for again: it has an ETag, or changes at any time.
PUBLIC = ("/products", "/categories", "/docs", "/openapi.json", "/problems")
# HSTS is for the proxy to say, which has the certificate.
SAFE: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", NOTHING.encode()),
    (b"x-frame-options", b"DENY"),
    # Addresses hold the ids of carts and orders, which are all that it takes to see them.
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
SAFE_PUBLIC: RawHeaders = [*SAFE[:-1], (b"cache-control", b"no-cache")]
REQUEST_ID = re.compile(rb"[\w.:/+=-]{1,128}")

logger = logging.getLogger("service.http")


# Random once, as asking the system for each request takes longer than the rest of its name.
_PROCESS, _NUMBER = urandom(12).hex(), count()


def new_request_id() -> str:
    """The id of a request that brought none."""
    return f"{_PROCESS}{next(_NUMBER):08x}"


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a request brought, or one of ours."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else new_request_id()


def told(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered request and write its line into the log. `route` is one of our templates."""
    method = method_label(method)
    requests, latency = of_route(method, route, status)
    requests.inc()
    latency.observe(seconds)
    log_soon(logger, "request", method=method, route=route, status=status, seconds=round(seconds, 5))


def dress(headers: RawHeaders, request_id: str, safe: RawHeaders = SAFE) -> RawHeaders:
    """With what every answer carries, and what it is to a browser unless it says otherwise: data, for nobody else."""
    said = {name for name, _ in headers}
    return [*headers, *(header for header in safe if header[0] not in said), (b"x-request-id", request_id.encode())]


class Envelope:
    """Pure ASGI, outermost, around preflights too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with X-Request-ID, whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        # A HEAD is answered like its GET; the server leaves the body out, as it still knows what was asked.
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        request_id = request_id_of(scope["headers"])
        token = cause.set(f"request {request_id}")
        safe = SAFE_PUBLIC if scope["path"].startswith(PUBLIC) else SAFE
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = dress(message["headers"], request_id, safe)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499
        finally:
            # The template, not the path: ids would make a time series each.
            route = getattr(scope.get("route"), "path", "unknown")
            told(method, route, status, time.perf_counter() - started)
            cause.reset(token)


class Gate:
    """Pure ASGI: lets in as many requests as can be answered before their clients give up; the others learn at once.

    A request whose body is still arriving takes its place once that is complete: whoever sends nothing takes none.
    """

    def __init__(self, app: ASGIApp, places: int, clients: Clients, client_seconds: float = CLIENT_SECONDS) -> None:
        """`places` for requests in flight; connections that are idle take none."""
        self.app = app
        self.free = places
        self.clients = clients
        self.client_seconds = client_seconds
        self.arrivals = Arrivals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `busy` when all places are taken."""
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
        # Those of a crowd do not end at once either.
        seconds = random.uniform(0.8, 1) * self.client_seconds  # noqa: S311
        deadline = asyncio.get_running_loop().time() + seconds
        arrival = self.arrivals.begin(self.clients.digest(scope), deadline)
        complete = placed = False

        async def receive_in_time() -> Message:
            nonlocal complete, placed
            if complete:
                return await receive()
            message = await arrival.receive(receive)
            if not message.get("more_body"):
                complete = True
                self.arrivals.end(arrival)
                if not self.free:
                    raise _full()
                self.free -= 1
                placed = True
            return message

        async def send_and_hang_up(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete and message["status"] in HANG_UP:
                if arrival.refused:
                    # Not all at once, if many were refused at once.
                    await asyncio.sleep(random.uniform(1, 2) * bodies.LINGER_SECONDS)  # noqa: S311
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self.app(scope, receive_in_time, send_and_hang_up)
        finally:
            self.arrivals.end(arrival)
            self.free += placed


def _full() -> ShopError:
    return ShopError("busy", "Too many requests at once; try again.")


class RateLimit:
    """Pure ASGI: so many requests of one client in a minute, and what is left of them in each answer.

    This process counts first and refuses by itself, so that a crowd over its limit asks Redis nothing. For the others
    Redis counts all processes together. While it gives no answer, each process limits by its own count.
    The fields are RateLimit-Limit, -Remaining and -Reset, which clients know; `RateLimit` alone, as the IETF's draft
    has it by now, hardly any of them reads.
    """

    def __init__(self, app: ASGIApp, per_minute: int, clients: Clients, admin_token: str) -> None:
        self.app = app
        self.per_minute = per_minute
        self.clients = clients
        self.admin_token = admin_token
        self._here = rate_limit.LocalCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request; answer `rate_limited` when there were too many. Staff, Stripe and operators are free."""
        if (
            scope["type"] != "http"
            or scope["path"].startswith((*OPERATORS, "/webhooks/"))
            or (self.admin_token and is_staff(Headers(scope=scope).get("authorization", ""), self.admin_token))
        ):
            await self.app(scope, receive, send)
            return
        # Clients without an address share one limit.
        client = self.clients.digest(scope) or b""
        used, left = here = self._here.count(client)
        if used <= self.per_minute:
            # Redis may have been emptied meanwhile, so the greater count is the true one.
            used, left = max(here, await rate_limit.count(*_redis(scope), client) or here)
        limits: RawHeaders = [
            (b"ratelimit-limit", b"%d" % self.per_minute),
            (b"ratelimit-remaining", b"%d" % max(0, self.per_minute - used)),
            (b"ratelimit-reset", b"%d" % left),
        ]
        if used > self.per_minute:
            answer = problem(ShopError("rate_limited", f"Only {self.per_minute} requests a minute are answered."))
            answer.headers["Retry-After"] = str(left)
            answer.raw_headers += limits
            await answer(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Not into the list that came: other answers may share it.
                message["headers"] = [*message["headers"], *limits]
            await send(message)

        await self.app(scope, receive, send_with_limits)


def _redis(scope: Scope) -> tuple[Redis, CircuitBreaker]:
    resources: Resources = scope["app"].state.resources
    return resources.redis, resources.redis_breaker


class Unforeseen:
    """Pure ASGI, innermost, so that browsers of other origins may read this answer too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log what nobody foresaw, and answer 500 unless an answer has begun."""
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("unforeseen")
            if not begun:
                answer = problem(ShopError("internal", "The error is in our log under the X-Request-ID."))
                await answer(scope, receive, send)
