"""Middleware, pure ASGI, that limits requests: how many are in flight, and how many a client sends per minute."""

import asyncio
import random
from contextlib import suppress

from redis.asyncio import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShopError
from service.http.identity import client_of, identify
from service.http.policy import UNREAD
from service.http.responses import problem
from service.http.server import bodies
from service.http.server.bodies import COMPLETE, MAX_LINGERING, Arrivals
from service.infra import rate_limit
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.clients import Clients
from service.infra.metrics import IN_FLIGHT
from service.infra.resources import Resources
from service.shop.principals import ADMIN, GUEST

# Paths that are answered under any load.
OPERATORS = ("/health/",)
# How long a client may take to send its body; protocol.py bounds the head and the response.
CLIENT_SECONDS = 30.0
# Statuses after which the rest of a body is not read.
HANG_UP = (408, 429, 503)


class ConcurrencyLimitMiddleware:
    """Limits the requests in flight; beyond the limit the answer is `busy`, at once.

    A request takes a slot once its body is complete, so that slow senders take none.
    """

    def __init__(self, app: ASGIApp, slots: int, clients: Clients, client_seconds: float = CLIENT_SECONDS) -> None:
        """`slots` is how many requests may be in flight; idle connections take none."""
        self.app = app
        self.slots = self.free = slots
        self.clients = clients
        self.client_seconds = client_seconds
        self.arrivals = Arrivals()
        self.lingering = 0

    def sample(self) -> None:
        """Show in the metrics how many requests are in flight."""
        IN_FLIGHT.set(self.slots - self.free)

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
            else:
                self.arrivals.grow(arrival, len(message["body"]))
            return message

        async def send_and_hang_up(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete and message["status"] in HANG_UP:
                if arrival.refused and self.lingering < MAX_LINGERING:
                    self.lingering += 1
                    # Random, so that connections which were refused together do not come back together.
                    await asyncio.sleep(random.uniform(1, 2) * bodies.LINGER_SECONDS)  # noqa: S311
                    self.lingering -= 1
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
    """Limits the requests of one client per minute; each response says how many are left.

    This process counts first: a client over the limit here costs Redis nothing. Redis counts for all processes; while
    it does not answer, each process limits by its own count. The headers are RateLimit-Limit, -Remaining and -Reset:
    clients know these three, but rarely the single `RateLimit` of the newer IETF draft.
    """

    def __init__(self, app: ASGIApp, per_minute: int, clients: Clients) -> None:
        self.app = app
        self.per_minute = per_minute
        self.clients = clients
        self._local = rate_limit.LocalCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `rate_limited` beyond the limit. ADMIN_TOKEN, Stripe's webhooks and health checks are exempt."""
        if scope["type"] != "http" or scope["path"].startswith((*OPERATORS, "/webhooks/")):
            await self.app(scope, receive, send)
            return
        # Clients without an address share one limit.
        client = address = self.clients.digest(scope) or b""
        # Who is over the limit by address cannot make us verify one more credential.
        if not scope["path"].startswith(UNREAD) and (
            scope["app"].state.identity.at_hand(scope) or self._local.used(address) < self.per_minute
        ):
            principal = GUEST
            with suppress(ShopError):
                principal = await identify(scope)
            if principal is ADMIN:
                await self.app(scope, receive, send)
                return
            named = client_of(self.clients, scope, principal)
            client = named.digest if named else address
        used, left = local = self._local.count(client)
        if used <= self.per_minute:
            # The greater count is right, because Redis may have lost its data.
            used, left = max(local, await rate_limit.count(*_redis(scope), client) or local)
        limits = [
            (b"ratelimit-limit", b"%d" % self.per_minute),
            (b"ratelimit-remaining", b"%d" % max(0, self.per_minute - used)),
            (b"ratelimit-reset", b"%d" % left),
        ]
        if used > self.per_minute:
            response = problem(ShopError("rate_limited", f"A client may send {self.per_minute} requests per minute."))
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
