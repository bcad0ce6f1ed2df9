"""Waking the worker through arq. A wake-up is a courtesy: the sweep finds whatever one did not come for."""

from datetime import timedelta
from uuid import UUID

import orjson
from arq.connections import ArqRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool

from service.infra.patience import Patience
from service.settings import Settings

QUEUE = "commerce:jobs"


def open_redis(settings: Settings) -> ArqRedis:
    """A client that connects when first used, speaks bytes, and sends jobs as JSON instead of pickles."""
    # One that lets a crowd wait: an error there would be taken for a Redis that is gone.
    pool: ConnectionPool = BlockingConnectionPool.from_url(
        settings.redis_url, max_connections=64, timeout=1, socket_connect_timeout=1, health_check_interval=0
    )
    return ArqRedis(pool, job_serializer=orjson.dumps, job_deserializer=orjson.loads, default_queue_name=QUEUE)


class Queue:
    """Jobs by name and order; both the names and the job ids are what `worker.py` and operators see in Redis."""

    def __init__(self, redis: ArqRedis, patience: Patience) -> None:
        self._redis = redis
        self._patience = patience

    async def post_payment_pipeline(self, order_id: UUID) -> None:
        """Fulfil a paid order now."""
        await self._wake("post_payment_pipeline", order_id)

    async def expire_cart_later(self, order_id: UUID, delay: timedelta) -> None:
        """Cancel an order that is still pending when its hold ends, `delay` from now."""
        await self._wake("expire_cart_later", order_id, delay)

    async def settle_refunds(self, order_id: UUID) -> None:
        """Take an order's refunds to Stripe, or over from there, now."""
        await self._wake("settle_refunds", order_id)

    async def _wake(self, job: str, order_id: UUID, delay: timedelta | None = None) -> None:
        # The id makes one job of several wake-ups for the same thing.
        await self._patience.ask(
            lambda: self._redis.enqueue_job(job, str(order_id), _job_id=f"{job}:{order_id}", _defer_by=delay)
        )
