"""The worker's heartbeats, as readiness shows them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
import redis

from service import worker
from service.dev.stripe_standin import StripeStandin
from service.infra import health, queue
from service.infra.metrics import exposition
from service.infra.queue import QUEUE, Queue
from service.infra.resources import Resources
from service.settings import Settings
from tests.client import Shop, eventually


async def wait_for_state(shop: Shop, state: str) -> None:
    """Return once readiness shows this state of the worker; the service stays ready."""

    async def shows_state() -> bool:
        return bool((await shop.call("GET", "/health/ready", 200))["worker"] == state)

    await eventually(shows_state)


async def wait_for_late(shop: Shop, task: str) -> None:
    """Return once readiness shows that this task is late, whatever else is."""

    async def shows_task() -> bool:
        state = (await shop.call("GET", "/health/ready", 200))["worker"]
        return state.startswith("late: ") and task in state.removeprefix("late: ").split(", ")

    await eventually(shows_task)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    working = asyncio.create_task(worker.work(settings, stopping))
    try:
        yield
    finally:
        stopping.set()
        await working


@pytest.fixture
def hurried(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with which every task runs twice a second, and is late half a second after it was due."""
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(worker, "LATE_SECONDS", 0.5)
    for name in ("audit", "delete_expired", "measure_holds", "index_products"):
        task = worker.PERIODIC_TASKS[name]._replace(seconds=lambda settings: 0.5)
        monkeypatch.setitem(worker.PERIODIC_TASKS, name, task)
    return resources.settings.model_copy(update={"reconcile_seconds": 0.5})


async def paid_order(shop: Shop, stripe: StripeStandin) -> str:
    """The id of an order that is paid and not fulfilled, as no worker runs."""
    placed = await shop.checked_out_cart()
    stripe.pay(placed["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed["order_id"], "PAID")
    return str(placed["order_id"])


def test_readiness_and_the_worker_name_the_same_tasks() -> None:
    assert (*worker.PERIODIC_TASKS, worker.DELIVERING) == health.PERIODIC_TASKS


def test_every_wake_up_of_the_queue_is_a_job() -> None:
    assert {name for name in vars(Queue) if not name.startswith("_")} - {"close"} == set(worker.JOBS)


async def test_readiness_shows_a_late_task_of_a_worker_that_still_lives(
    shop: Shop, stripe: StripeStandin, hurried: Settings, redis_url: str, database: asyncpg.Connection
) -> None:
    """Goal: a task that hangs or fails is shown as late, although the worker's own heartbeat goes on.

    Method: Stripe hangs at a refund that the sweep creates: in the sweep's first run, then in a later one, while a job
    works on the same refund. At last Stripe fails every call of the reconciliation.
    """
    order_id = await paid_order(shop, stripe)
    await wait_for_state(shop, "not seen")

    stripe.set_faults([{"action": "hang", "path": "/v1/refunds", "times": 1, "seconds": 3}])
    await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 1})
    with redis.Redis.from_url(redis_url) as client:
        # Without its wake-up only the sweep finds the refund.
        client.flushall()
    async with running(hurried):
        await wait_for_late(shop, "sweep")
        await wait_for_state(shop, "ok")

        stripe.set_faults([{"action": "hang", "path": "/v1/refunds", "times": 2, "seconds": 3}])
        await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 1})
        await wait_for_late(shop, "sweep")
        await wait_for_state(shop, "ok")

        stripe.set_faults([{"action": "status", "path": "/v1/events"}])
        await wait_for_late(shop, "reconcile")
        assert b'worker_repairer_timestamp_seconds{repairer="delete_expired"} 1' in exposition()
    await wait_for_state(shop, "not seen")


async def test_a_worker_without_work_waits_before_each_poll(worker: None, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: _has_polled(client, 1))
        client.config_resetstat()

        await eventually(lambda: _has_polled(client, 4))

        assert client.info("commandstats")["cmdstat_blpop"]["calls"] >= 3


class TestWithoutPolls:
    """Wake-ups by themselves: the worker would not look at its queue again for an hour, nor would the sweep."""

    @pytest.fixture
    def changed_settings(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        monkeypatch.setattr(queue, "POLL_SECONDS", 3600)
        return {"SWEEP_SECONDS": "3600"}

    async def test_a_paid_order_is_fulfilled_at_once(self, shop: Shop, stripe: StripeStandin, worker: None) -> None:
        for _ in range(3):
            placed_order = await shop.checked_out_cart()
            stripe.pay(placed_order["payment"]["stripe_session_id"])
            await shop.wait_for_order(placed_order["order_id"], "FULFILLED")

    async def test_more_jobs_than_a_worker_runs_at_a_time_need_no_other_wake_up(
        self, worker: None, resources: Resources, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "MAX_TOKENS", 1)
        for _ in range(35):
            await resources.queue.post_payment_pipeline(uuid4())
        await resources.queue.close()

        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: _is_empty(client))


async def test_a_job_that_becomes_due_needs_no_wake_up(
    worker: None, resources: Resources, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.1)
    await resources.queue.expire_cart_later(uuid4(), timedelta(seconds=1))
    await resources.queue.close()

    with redis.Redis.from_url(redis_url) as client:
        assert client.zcard(QUEUE) == 1
        await eventually(lambda: _is_empty(client))


async def _has_polled(client: redis.Redis, times: int) -> bool:
    """Whether a worker has looked at its queue so often."""
    statistics = client.info("commandstats")
    return bool(statistics.get("cmdstat_zrangebyscore", {}).get("calls", 0) >= times)


async def _is_empty(client: redis.Redis) -> bool:
    return client.zcard(QUEUE) == 0
