"""Everything the shop works with, opened once per process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from redis.asyncio import Redis

from service.infra import db
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.limiters import KeyedLimiter
from service.infra.page_cache import PageCache
from service.infra.queue import Queue, open_redis
from service.infra.stripe import Stripe
from service.settings import Settings

CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Resources:
    """The pool and the lanes before it, Redis and the patience with it, the cache, the queue, Stripe, the settings."""

    settings: Settings
    pool: db.Pool
    checkout_limiter: KeyedLimiter
    redis: Redis
    redis_breaker: CircuitBreaker
    cache: PageCache
    queue: Queue
    stripe: Stripe


@asynccontextmanager
async def open_resources(
    settings: Settings, name: str, statement_seconds: int = db.STATEMENT_SECONDS
) -> AsyncIterator[Resources]:
    """Open them under the application name `name`; nothing is connected before it is used."""
    redis, stripe = open_redis(settings), Stripe(settings)
    patience = CircuitBreaker(redis.connection_pool)
    # A third of the connections keeps a lock busy: while one commits, the next waits at the server already.
    lanes = KeyedLimiter(max(1, settings.db_pool_size // 3))
    # Redis is asked for the page's generation all the time: by a connection of its own, as one of the pool is first
    # looked at for what it might have to read, which takes two turns of the loop.
    asking = redis.client()
    try:
        pool = await db.open_pool(settings, name, statement_seconds)
        cache, queue = PageCache(asking, patience), Queue(redis, patience)
        try:
            yield Resources(settings, pool, lanes, redis, patience, cache, queue, stripe)
        finally:
            await queue.close()
            # A server that hangs says no goodbye.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()
    finally:
        await stripe.close()
        await asking.aclose()
        await redis.aclose(close_connection_pool=True)
