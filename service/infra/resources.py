"""What a process opens once, at its start."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from service.infra import db
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.limiters import KeyedLimiter
from service.infra.metrics import CACHED_PAGE, CONNECTIONS_OPEN, WAITING
from service.infra.page_cache import PageCache
from service.infra.queue import Queue, open_redis
from service.infra.stripe import Stripe
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings, and the connections to PostgreSQL, Redis and Stripe with what limits or guards their use."""

    settings: Settings
    pool: db.Pool
    checkout_limiter: KeyedLimiter
    redis: Redis
    redis_breaker: CircuitBreaker
    cache: PageCache
    queue: Queue
    stripe: Stripe

    def sample(self) -> None:
        """Show in the metrics what is in use now, and what the cache has answered since the last sample."""
        CONNECTIONS_OPEN.labels("used").set(self.pool.limiter.in_use)
        CONNECTIONS_OPEN.labels("idle").set(self.pool.idle)
        WAITING.labels("pool").set(self.pool.limiter.waiting)
        WAITING.labels("transactions").set(self.pool.transaction_limiter.waiting)
        WAITING.labels("checkout").set(self.checkout_limiter.waiting)
        hits, misses = self.cache.take_counts()
        CACHED_PAGE.labels("hit").inc(hits)
        CACHED_PAGE.labels("miss").inc(misses)


@asynccontextmanager
async def open_resources(
    settings: Settings, name: str, statement_seconds: int = db.STATEMENT_SECONDS
) -> AsyncIterator[Resources]:
    """Open the resources, and close them at the end; `name` is shown in `pg_stat_activity`.

    Connections are opened at their first use.
    """
    async with AsyncExitStack() as stack:
        redis = open_redis(settings)
        stack.push_async_callback(redis.aclose, close_connection_pool=True)
        # The page cache asks Redis at nearly every request. With a connection of its own it avoids the pool's check
        # before each use, which takes two iterations of the event loop.
        cache_redis = redis.client()
        stack.push_async_callback(cache_redis.aclose)
        stripe = Stripe(settings)
        stack.push_async_callback(stripe.close)
        pool = db.Pool(settings, name, statement_seconds)
        stack.push_async_callback(pool.aclose)
        # A third of the connections suffices for one lock: while one transaction commits, the next one already waits.
        checkout_limiter = KeyedLimiter(max(1, settings.db_pool_size // 3), name="checkout")
        breaker = CircuitBreaker(redis.connection_pool)
        queue = Queue(redis, breaker)
        stack.push_async_callback(queue.close)
        yield Resources(
            settings, pool, checkout_limiter, redis, breaker, PageCache(cache_redis, breaker), queue, stripe
        )
