"""Around every request: its id, its log line, its numbers, and the answer when nobody foresaw what happened."""

import asyncio
import logging
import re
import time
from uuid import uuid4

from redis.asyncio import Redis
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShopError
from service.http.clients import Clients
from service.http.pages import NOTHING
from service.http.requests import is_staff
from service.http.responses import problem
from service.infra import rates
from service.infra.logs import cause
from service.infra.metrics import LATENCY, REQUESTS
from service.infra.parts import Parts
from service.infra.patience import Patience

# What has to answer however much there is to do.
OPERATORS = ("/health/", "/metrics")
# How long a client may take to send its body, or to take a part of the answer, before its place goes to another.
CLIENT_SECONDS = 30.0

# What browsers of other origins may read of an answer besides its body.
EXPOSED = ["ETag", "Location", "Idempotent-Replayed", "Retry-After", "X-Request-ID"]
EXPOSED += ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
# What anybody may see may be stored, but is asked for again: it has an ETag, or changes at any time.
PUBLIC = ("/products", "/categories", "/docs", "/openapi.json", "/problems")
# HSTS is for the proxy to say, which has the certificate.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": NOTHING,
    "X-Frame-Options": "DENY",
    # Addresses hold the ids of carts and orders, which are all that it takes to see them.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

logger = logging.getLogger("service.http")


def new_request_id() -> str:
    """The id of a request that brought none."""
    return uuid4().hex


def dress(headers: MutableHeaders, request_id: str) -> None:
    """What every answer carries, and what it is to a browser unless it says otherwise itself: data, for nobody else."""
    headers["X-Request-ID"] = request_id
    for name, value in SAFE.items():
        headers.setdefault(name, value)


class Envelope:
    """Pure ASGI, outermost, around preflights too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with X-Request-ID, whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A HEAD is answered like its GET; the server leaves the body out, as it still knows what was asked.
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w.:/+=-]{1,128}", given, re.ASCII) else new_request_id()
        token = cause.set(f"request {request_id}")
        public = scope["path"].startswith(PUBLIC)
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if public:
                    headers.setdefault("Cache-Control", "no-cache")
                dress(headers, request_id)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499
        finally:
            seconds = time.perf_counter() - started
            # The template, not the path: ids would make a time series each.
            route = getattr(scope.get("route"), "path", "unknown")
            REQUESTS.labels(scope["method"], route, status).inc()
            LATENCY.labels(scope["method"], route).observe(seconds)
            logger.info(
                "request",
                extra={"method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 5)},
            )
            cause.reset(token)


class Gate:
    """Pure ASGI: lets in as many requests as can be answered before their clients give up; the others learn at once."""

    def __init__(self, app: ASGIApp, places: int, client_seconds: float = CLIENT_SECONDS) -> None:
        """`places` for requests in flight; connections that are idle take none."""
        self.app = app
        self.free = places
        self.client_seconds = client_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `busy` when all places are taken."""
        if scope["type"] != "http" or scope["path"].startswith(OPERATORS):
            await self.app(scope, receive, send)
            return
        if not self.free:
            await problem(ShopError("busy", "Too many requests at once; try again."))(scope, receive, send)
            return
        deadline: float | None = asyncio.get_running_loop().time() + self.client_seconds

        async def receive_in_time() -> Message:
            nonlocal deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ShopError("request_timeout", "The body did not come in time.") from None
            if not message.get("more_body"):
                # From here on it is only told that the client has gone.
                deadline = None
            return message

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self.client_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        self.free -= 1
        try:
            await self.app(scope, receive_in_time, send_in_time)
        finally:
            self.free += 1


class RateLimit:
    """Pure ASGI: so many requests of one client in a minute, and what is left of them in each answer.

    The fields are RateLimit-Limit, -Remaining and -Reset, which clients know; `RateLimit` alone, as the IETF's draft
    has it by now, hardly any of them reads. Redis counts; while it is gone nobody is limited.
    """

    def __init__(self, app: ASGIApp, per_minute: int, clients: Clients, admin_token: str) -> None:
        self.app = app
        self.per_minute = per_minute
        self.clients = clients
        self.admin_token = admin_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request; answer `rate_limited` when there were too many. Staff, Stripe and operators are free."""
        if (
            scope["type"] != "http"
            or scope["path"].startswith((*OPERATORS, "/webhooks/"))
            or (self.admin_token and is_staff(Headers(scope=scope).get("authorization", ""), self.admin_token))
            or (client := self.clients.digest(scope)) is None
            or (counted := await rates.count(*_redis(scope), client)) is None
        ):
            await self.app(scope, receive, send)
            return
        used, left = counted
        limits = {
            "RateLimit-Limit": str(self.per_minute),
            "RateLimit-Remaining": str(max(0, self.per_minute - used)),
            "RateLimit-Reset": str(left),
        }
        if used > self.per_minute:
            answer = problem(ShopError("rate_limited", f"Only {self.per_minute} requests a minute are answered."))
            answer.headers.update({**limits, "Retry-After": str(left)})
            await answer(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limits)
            await send(message)

        await self.app(scope, receive, send_with_limits)


def _redis(scope: Scope) -> tuple[Redis, Patience]:
    parts: Parts = scope["app"].state.parts
    return parts.redis, parts.patience


class Unforeseen:
    """Pure ASGI, innermost, so that browsers of other origins may read this answer too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log what nobody foresaw, and answer 500 unless an answer has begun."""
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("unforeseen")
            if not begun:
                answer = problem(ShopError("internal", "The error is in our log under the X-Request-ID."))
                await answer(scope, receive, send)
