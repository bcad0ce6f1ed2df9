"""Waking the worker through arq. A wake-up is a courtesy: the sweep finds whatever one did not come for."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import orjson
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from service.infra.circuit_breaker import CircuitBreaker
from service.settings import Settings

QUEUE = "commerce:jobs"
# Nobody waits for a wake-up, so it may take as long as a loop that has much to do needs to hear the answer.
PATIENCE_SECONDS = 2.0
# More than these are left to the sweep.
MOST_WAITING = 10_000
_KEPT = timedelta(days=1)


def open_redis(settings: Settings) -> ArqRedis:
    """A client that connects when first used, speaks bytes, and sends jobs as JSON instead of pickles."""
    # One that lets a crowd wait: an error there would be taken for a Redis that is gone.
    pool: ConnectionPool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=64,
        timeout=1,
        socket_connect_timeout=1,
        health_check_interval=0,
        # Once, on a new connection: Redis may have closed one that nobody used. What is asked may be asked twice, at
        # worst a request is counted twice.
        retry_on_error=[RedisConnectionError],
    )
    return ArqRedis(pool, job_serializer=orjson.dumps, job_deserializer=orjson.loads, default_queue_name=QUEUE)


@dataclass(slots=True)
class WakeUp:
    """A job that is to run once, so long from now."""

    job: str
    order_id: UUID
    delay: timedelta


class Queue:
    """Jobs by name and order; both the names and the job ids are what `worker.py` and operators see in Redis.

    Those who ask do not wait until Redis has it: what is asked for meanwhile goes there in one go.
    """

    def __init__(self, redis: ArqRedis, redis_breaker: CircuitBreaker) -> None:
        self._redis = redis
        self._redis_breaker = redis_breaker
        self._waiting: dict[str, WakeUp] = {}
        self._sending: asyncio.Task[None] | None = None

    async def post_payment_pipeline(self, order_id: UUID) -> None:
        """Fulfil a paid order now."""
        self._wake("post_payment_pipeline", order_id)

    async def expire_cart_later(self, order_id: UUID, delay: timedelta) -> None:
        """Cancel an order that is still pending when its hold ends, `delay` from now."""
        self._wake("expire_cart_later", order_id, delay)

    async def settle_refunds(self, order_id: UUID) -> None:
        """Take an order's refunds to Stripe, or over from there, now."""
        self._wake("settle_refunds", order_id)

    async def close(self) -> None:
        """Return once all that was asked for is sent, or given up."""
        if self._sending is not None:
            await self._sending

    def _wake(self, job: str, order_id: UUID, delay: timedelta = timedelta(0)) -> None:
        # The id makes one job of several wake-ups for the same thing.
        if len(self._waiting) < MOST_WAITING:
            self._waiting[f"{job}:{order_id}"] = WakeUp(job, order_id, delay)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            await self._redis_breaker.call(lambda batch=batch: self._enqueue(batch), seconds=PATIENCE_SECONDS)  # type: ignore[misc]

    async def _enqueue(self, batch: dict[str, WakeUp]) -> None:
        """What `ArqRedis.enqueue_job` does for one, in three round trips, for all in one."""
        now = timestamp_ms()
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, wake in batch.items():
                job = serialize_job(wake.job, (str(wake.order_id),), {}, None, now, serializer=orjson.dumps)
                # One that is queued or running stays as it is.
                pipe.set(job_key_prefix + job_id, job, px=wake.delay + _KEPT, nx=True)
                pipe.zadd(QUEUE, {job_id: now + wake.delay // timedelta(milliseconds=1)}, nx=True)
            await pipe.execute()
