"""The worker's signs of life, as readiness tells them."""

import asyncio

import asyncpg
import pytest
import redis

from service import worker
from service.dev.stripe_standin import StripeStandin
from service.infra.metrics import exposition
from service.infra.resources import Resources
from tests.client import Shop, eventually


async def told(shop: Shop, state: str) -> None:
    """Return once readiness says this of the worker, and is not kept from being ready by it."""

    async def says() -> bool:
        return bool((await shop.call("GET", "/health/ready", 200))["worker"] == state)

    await eventually(says)


async def test_a_worker_whose_sweep_hangs_is_seen_to_be_late_and_not_only_to_be_there(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    redis_url: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.5)
    monkeypatch.setattr(worker, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(worker, "AUDIT_SECONDS", 0.5)
    monkeypatch.setattr(worker, "TIDY_SECONDS", 0.5)
    hurried = resources.settings.model_copy(update={"reconcile_seconds": 0.5})
    placed = await shop.checked_out_cart()
    stripe.pay(placed["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed["order_id"], "PAID")
    await told(shop, "not seen")
    stopping, working = asyncio.Event(), None
    try:
        # In its first turn; and in a later one, where a job has the same refund in hand.
        for hanging in (1, 2):
            stripe.set_faults([{"action": "hang", "path": "/v1/refunds", "times": hanging, "seconds": 3}])
            await shop.call("POST", f"/orders/{placed['order_id']}/refund", 200, {"amount_minor": 1})
            if not working:
                with redis.Redis.from_url(redis_url) as client:
                    client.flushall()
                working = asyncio.create_task(worker.work(hurried, stopping))
            await told(shop, "late: sweep")
            await told(shop, "ok")
        # One that fails each time does not its work either.
        stripe.set_faults([{"action": "status", "path": "/v1/checkout/sessions"}])
        await told(shop, "late: reconcile")
        assert b'worker_repairer_timestamp_seconds{repairer="tidy"} 1' in exposition()
    finally:
        stopping.set()
        if working:
            await working
    await told(shop, "not seen")
