"""Wake-ups for the worker, through arq. They are best effort: the sweep finds what a lost one was for."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
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
# A list with a token for each job that was added and is due. A worker without work waits for the next one.
WAKE = "commerce:wake"
# Tokens that nobody takes. Others would only make workers look once more.
MAX_TOKENS = 100
# How long a worker waits for a token: a job that becomes due later runs this much too late at most.
POLL_SECONDS = 1.0
# A job that is due at once is due this long ago, because the clocks of two machines differ.
_CLOCK_SKEW = timedelta(seconds=1)
# Longer than other calls to Redis: nobody waits for this one, and a busy event loop reads the answer late.
CALL_SECONDS = 2.0
# Wake-ups that may wait to be sent; further ones are left to the sweep.
MAX_WAITING = 10_000
# How long a job that no worker runs stays in Redis.
_TTL = timedelta(days=1)


class QueueReader(ArqRedis):
    """The client of arq's worker, which polls the queue: without work, a poll waits here for the next token."""

    _found_jobs = True

    async def zrangebyscore(self, *args: Any, **options: Any) -> Any:
        """The jobs that are due. If there was none before, wait until one is added, or for POLL_SECONDS."""
        if not self._found_jobs:
            await self.execute_command("BLPOP", WAKE, POLL_SECONDS)  # type: ignore[no-untyped-call]
            # arq's limit is the time before the wait.
            options["max"] = timestamp_ms()
        jobs = await super().zrangebyscore(*args, **options)
        self._found_jobs = bool(jobs)
        return jobs


def open_redis(settings: Settings, client: type[ArqRedis] = ArqRedis) -> ArqRedis:
    """A client that connects at its first use, returns bytes, and stores jobs as JSON instead of pickles."""
    # A pool that makes callers wait. The default pool raises an error when all connections are busy, which would look
    # like a Redis that is down.
    pool: ConnectionPool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=64,
        timeout=1,
        socket_connect_timeout=1,
        health_check_interval=0,
        # Redis may have closed an idle connection, so a command is sent once more. If it runs twice, at worst a request
        # is counted twice.
        retry_on_error=[RedisConnectionError],
    )
    return client(pool, job_serializer=orjson.dumps, job_deserializer=orjson.loads, default_queue_name=QUEUE)


@dataclass(slots=True)
class WakeUp:
    """A job to run once, after `delay`."""

    job: str
    order_id: UUID
    delay: timedelta


class Queue:
    """Jobs, each for one order. Operators see the names and ids in Redis.

    The methods return before Redis has the job. Jobs that are added meanwhile are sent together.
    """

    def __init__(self, redis: ArqRedis, redis_breaker: CircuitBreaker) -> None:
        self._redis = redis
        self._redis_breaker = redis_breaker
        self._waiting: dict[str, WakeUp] = {}
        self._sending: asyncio.Task[None] | None = None

    async def post_payment_pipeline(self, order_id: UUID) -> None:
        """Fulfil a paid order now."""
        self._add("post_payment_pipeline", order_id)

    async def expire_cart_later(self, order_id: UUID, delay: timedelta) -> None:
        """Cancel an order after `delay`, when its hold expires, if it is still pending."""
        self._add("expire_cart_later", order_id, delay)

    async def settle_refunds(self, order_id: UUID) -> None:
        """Settle an order's refunds with Stripe now."""
        self._add("settle_refunds", order_id)

    async def close(self) -> None:
        """Wait until every job has been sent or given up."""
        if self._sending is not None:
            await self._sending

    def _add(self, job: str, order_id: UUID, delay: timedelta = timedelta(0)) -> None:
        # Several wake-ups for the same work have one id, and so become one job.
        if len(self._waiting) < MAX_WAITING:
            self._waiting[f"{job}:{order_id}"] = WakeUp(job, order_id, delay)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            await self._redis_breaker.call(partial(self._enqueue, batch), operation="enqueue", seconds=CALL_SECONDS)

    async def _enqueue(self, batch: dict[str, WakeUp]) -> None:
        """What `ArqRedis.enqueue_job` does, in one round trip for all jobs instead of three for each."""
        now = timestamp_ms()
        due = sum(not wake_up.delay for wake_up in batch.values())
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, wake_up in batch.items():
                job = serialize_job(wake_up.job, (str(wake_up.order_id),), {}, None, now, serializer=orjson.dumps)
                # A job with this id that is queued or running stays as it is.
                pipe.set(job_key_prefix + job_id, job, px=wake_up.delay + _TTL, nx=True)
                due_at = now + (wake_up.delay or -_CLOCK_SKEW) // timedelta(milliseconds=1)
                pipe.zadd(QUEUE, {job_id: due_at}, nx=True)
            if due:
                pipe.lpush(WAKE, *min(due, MAX_TOKENS) * [b""])
                pipe.ltrim(WAKE, 0, MAX_TOKENS - 1)
            await pipe.execute()
