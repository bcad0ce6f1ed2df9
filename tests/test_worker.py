"""The worker's signs of life, as readiness tells them."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
import redis

from service import worker
from service.dev.stripe_standin import StripeStandin
from service.infra import health
from service.infra.parts import Parts
from service.settings import Settings
from tests.client import Shop, eventually


async def told(shop: Shop, state: str) -> None:
    async def says() -> bool:
        return bool((await shop.call("GET", "/health/ready", 200))["worker"] == state)

    await eventually(says)


async def test_a_worker_whose_sweep_hangs_is_seen_to_be_late_and_not_only_to_be_there(
    shop: Shop, stripe: StripeStandin, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(worker, "LATE_SECONDS", 0.5)
    placed = await shop.placed(((await shop.product())["id"], 1))
    stripe.pay(placed["payment"]["stripe_session_id"])
    await shop.until(placed["order_id"], "PAID")
    stopping, working = asyncio.Event(), None
    # In its first turn; and in a later one, where a job has the same refund in hand.
    for hanging in (1, 2):
        stripe.set_faults([{"action": "hang", "path": "/v1/refunds", "times": hanging, "seconds": 3}])
        await shop.call("POST", f"/orders/{placed['order_id']}/refund", 200, {"amount_minor": 1})
        if not working:
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            working = asyncio.create_task(worker.work(settings, stopping))
        await told(shop, "late: sweep")
        await told(shop, "ok")
    stopping.set()
    assert working
    await working


async def test_one_that_is_well_is_enough_and_one_that_is_gone_is_forgotten(
    shop: Shop, parts: Parts, database: asyncpg.Connection
) -> None:
    await told(shop, "not seen")
    well, late = uuid4(), uuid4()
    await health.beat(parts, late, ["audit", "sweep"])
    await told(shop, "late: audit,sweep")
    await health.beat(parts, well, [])
    await told(shop, "ok")
    await database.execute("UPDATE worker_heartbeats SET seen_at = now() - interval '16 s' WHERE worker_id = $1", well)
    await told(shop, "late: audit,sweep")
    await database.execute("UPDATE worker_heartbeats SET seen_at = now() - interval '61 minutes'")
    await told(shop, "not seen")
    await health.beat(parts, late, [])
    assert [row["worker_id"] for row in await database.fetch("SELECT worker_id FROM worker_heartbeats")] == [late]
