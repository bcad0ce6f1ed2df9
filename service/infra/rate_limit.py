"""How often a client has asked within its minute, counted in this process and by Redis in all of them.

A minute begins with a client's first request.
"""

import time
from collections import OrderedDict
from math import ceil

from redis.asyncio import Redis

from service.infra.circuit_breaker import CircuitBreaker

WINDOW_SECONDS = 60
# About 15 MB of them.
MAX_CLIENTS = 50_000


class LocalCounts:
    """The counts of this process. Of more than MAX_CLIENTS clients it forgets the one whose minute began first."""

    def __init__(self) -> None:
        # Each client's requests and the end of its minute (monotonic), in the order in which the minutes end.
        self._windows: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def count(self, client: bytes) -> tuple[int, int]:
        """The requests of the client's present minute, with this one, and the seconds left of it."""
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
    """The same of all processes together; None without Redis."""

    async def ask() -> tuple[int, int]:
        async with redis.pipeline(transaction=True) as pipe:
            key = b"rate:" + client
            pipe.incr(key)
            pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.ttl(key)
            used, _, left = await pipe.execute()
            return used, max(1, left)

    return await redis_breaker.call(ask)
