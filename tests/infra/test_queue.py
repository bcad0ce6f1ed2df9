"""Wake-ups: sent together, once each, and nobody waits for them."""

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
from service.infra import queue
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.queue import QUEUE, Queue, open_redis
from service.infra.resources import Resources
from service.settings import Settings
from tests.faults.stage import family


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    client = open_redis(settings)
    yield client
    await client.aclose(close_connection_pool=True)


async def reads(redis: ArqRedis) -> int:
    """How often the server has read from a connection."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_what_is_asked_for_at_once_goes_there_in_one_go(redis: ArqRedis) -> None:
    wakers, orders = Queue(redis, CircuitBreaker(redis.connection_pool)), [uuid4() for _ in range(50)]
    before = await reads(redis)
    for order_id in [*orders, *orders]:
        await wakers.post_payment_pipeline(order_id)
    await wakers.expire_cart_later(orders[0], timedelta(hours=1))
    await wakers.close()
    # Twenty thousand bytes, and this question.
    assert await reads(redis) - before <= 5
    queued = {job.decode(): score / 1000 for job, score in await redis.zrange(QUEUE, 0, -1, withscores=True)}
    assert set(queued) == {f"post_payment_pipeline:{order_id}" for order_id in orders} | {
        f"expire_cart_later:{orders[0]}"
    }
    late = queued[f"expire_cart_later:{orders[0]}"] - queued[f"post_payment_pipeline:{orders[0]}"]
    assert late == pytest.approx(3600, abs=5)
    stored = orjson.loads(await redis.get(f"arq:job:expire_cart_later:{orders[0]}") or b"")
    assert (stored["f"], stored["a"]) == ("expire_cart_later", [str(orders[0])])


async def test_one_that_is_queued_or_running_stays_as_it_is(redis: ArqRedis) -> None:
    wakers, order_id = Queue(redis, CircuitBreaker(redis.connection_pool)), uuid4()
    await wakers.expire_cart_later(order_id, timedelta(hours=1))
    await wakers.close()
    before = await redis.zscore(QUEUE, f"expire_cart_later:{order_id}")
    await wakers.expire_cart_later(order_id, timedelta(hours=2))
    await wakers.close()
    assert await redis.zscore(QUEUE, f"expire_cart_later:{order_id}") == before


async def test_more_than_it_holds_are_left_to_the_sweep(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING", 3)
    wakers = Queue(redis, CircuitBreaker(redis.connection_pool))
    for _ in range(10):
        await wakers.settle_refunds(uuid4())
    await wakers.close()
    assert await redis.zcard(QUEUE) == 3


async def test_nobody_waits_for_a_redis_that_hangs(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "CALL_SECONDS", 0.2)
    port = free_port()
    there = resources.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    with scratch_folder() as folder, valkey(folder, port=port, durable=False):
        client = open_redis(there)
        wakers = Queue(client, CircuitBreaker(client.connection_pool))
        await wakers.settle_refunds(uuid4())
        await wakers.close()
        server = family(int((folder / "pid").read_text()))
        for pid in server:
            os.kill(pid, SIGSTOP)
        try:
            # Not even a turn of the loop: it would not be over by then.
            asking = asyncio.create_task(wakers.settle_refunds(uuid4()))
            await asyncio.sleep(0)
            assert asking.done()
            await wakers.close()
        finally:
            for pid in server:
                os.kill(pid, SIGCONT)
        await client.aclose(close_connection_pool=True)
