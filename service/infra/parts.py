"""Everything the shop works with, opened once per process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from service.infra import db
from service.infra.cache import PageCache
from service.infra.patience import Patience
from service.infra.queue import Queue, open_redis
from service.infra.stripe import Stripe
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The pool, Redis and the patience with it, the cache, the queue, Stripe, and the settings behind them."""

    settings: Settings
    pool: db.Pool
    redis: Redis
    patience: Patience
    cache: PageCache
    queue: Queue
    stripe: Stripe


@asynccontextmanager
async def open_parts(settings: Settings, name: str) -> AsyncIterator[Parts]:
    """Open them under the application name `name`; nothing is connected before it is used."""
    redis, patience, stripe = open_redis(settings), Patience(), Stripe(settings)
    try:
        async with db.open_pool(settings, name) as pool:
            yield Parts(settings, pool, redis, patience, PageCache(redis, patience), Queue(redis, patience), stripe)
    finally:
        await stripe.close()
        await redis.aclose(close_connection_pool=True)
