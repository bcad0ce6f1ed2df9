"""Wake-ups: sent together, each once, without a wait for the callers."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from signal import SIGCONT, SIGSTOP
from uuid import uuid4

import orjson
import pytest
from arq.connections import ArqRedis

from service.dev.servers import free_port, scratch_folder, valkey
from service.infra import queue as queue_module
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.queue import QUEUE, Queue, open_redis
from service.infra.resources import Resources
from service.settings import Settings
from tests.faults.processes import family


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    client = open_redis(settings)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def queue(redis: ArqRedis) -> Queue:
    return Queue(redis, CircuitBreaker(redis.connection_pool))


async def server_reads(redis: ArqRedis) -> int:
    """How often the server has read from a connection."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_jobs_that_are_added_together_are_sent_together(redis: ArqRedis, queue: Queue) -> None:
    orders = [uuid4() for _ in range(50)]
    before = await server_reads(redis)

    for order_id in [*orders, *orders]:
        await queue.post_payment_pipeline(order_id)
    await queue.expire_cart_later(orders[0], timedelta(hours=1))
    await queue.close()

    # Twenty thousand bytes, and the command that asks for this figure.
    assert await server_reads(redis) - before <= 5
    due = {job.decode(): score / 1000 for job, score in await redis.zrange(QUEUE, 0, -1, withscores=True)}
    now, later = f"post_payment_pipeline:{orders[0]}", f"expire_cart_later:{orders[0]}"
    assert set(due) == {f"post_payment_pipeline:{order_id}" for order_id in orders} | {later}
    assert due[later] - due[now] == pytest.approx(3600, abs=5)
    stored = orjson.loads(await redis.get(f"arq:job:{later}") or b"")
    assert (stored["f"], stored["a"]) == ("expire_cart_later", [str(orders[0])])


async def test_a_job_that_is_queued_stays_as_it_is(redis: ArqRedis, queue: Queue) -> None:
    order_id = uuid4()
    await queue.expire_cart_later(order_id, timedelta(hours=1))
    await queue.close()
    before = await redis.zscore(QUEUE, f"expire_cart_later:{order_id}")

    await queue.expire_cart_later(order_id, timedelta(hours=2))
    await queue.close()

    assert await redis.zscore(QUEUE, f"expire_cart_later:{order_id}") == before


async def test_jobs_beyond_the_limit_are_left_to_the_sweep(
    redis: ArqRedis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_WAITING", 3)

    for _ in range(10):
        await queue.settle_refunds(uuid4())
    await queue.close()

    assert await redis.zcard(QUEUE) == 3


async def test_no_caller_waits_for_a_redis_that_hangs(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "CALL_SECONDS", 0.2)
    port = free_port()
    settings = resources.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    with scratch_folder() as folder, valkey(folder, port=port, durable=False):
        client = open_redis(settings)
        queue = Queue(client, CircuitBreaker(client.connection_pool))
        await queue.settle_refunds(uuid4())
        await queue.close()
        server = family(int((folder / "pid").read_text()))
        for pid in server:
            os.kill(pid, SIGSTOP)
        try:
            adding = asyncio.create_task(queue.settle_refunds(uuid4()))
            # One turn of the event loop, in which a call that waits for anything cannot end.
            await asyncio.sleep(0)
            assert adding.done()
            await queue.close()
        finally:
            for pid in server:
                os.kill(pid, SIGCONT)
        await client.aclose(close_connection_pool=True)
