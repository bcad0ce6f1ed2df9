"""Requests of each client within a minute, counted in this process and, for all processes, in Redis.

A client's minute begins with its first request.
"""

import time
from collections import OrderedDict
from math import ceil

from redis.asyncio import Redis

from service.infra.circuit_breaker import CircuitBreaker

WINDOW_SECONDS = 60
# About 15 MB.
MAX_CLIENTS = 50_000


class LocalCounts:
    """The counts of this process. Beyond MAX_CLIENTS the oldest window is dropped."""

    def __init__(self) -> None:
        # By client, ordered by the end of the window: requests, and that end (monotonic).
        self._windows: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def used(self, client: bytes) -> int:
        """The requests in the client's window, without counting one."""
        used, end = self._windows.get(client, (0, 0.0))
        return used if end > time.monotonic() else 0

    def count(self, client: bytes) -> tuple[int, int]:
        """Count a request. Returns the requests in the client's window, and the seconds until it ends."""
        now = time.monotonic()
        while self._windows:
            oldest = next(iter(self._windows))
            if self._windows[oldest][1] > now and (len(self._windows) < MAX_CLIENTS or client in self._windows):
                break
            del self._windows[oldest]
        used, end = self._windows.get(client, (0, now + WINDOW_SECONDS))
        self._windows[client] = used + 1, end
        return used + 1, ceil(end - now)


async def count(redis: Redis, redis_breaker: CircuitBreaker, client: bytes) -> tuple[int, int] | None:
    """`LocalCounts.count` for all processes together; None without Redis."""

    async def increment() -> tuple[int, int]:
        async with redis.pipeline(transaction=True) as pipe:
            key = b"rate:" + client
            pipe.incr(key)
            pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.ttl(key)
            used, _, seconds_left = await pipe.execute()
            return used, max(1, seconds_left)

    return await redis_breaker.call(increment, operation="count_request")
