"""Holds are shorter while most units of a product are in unpaid holds."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.infra.metrics import UNITS_ON_HOLD
from service.infra.queue import QUEUE
from service.infra.resources import Resources
from service.settings import Settings
from service.shop import pressure
from tests.client import Shop, eventually
from tests.conftest import served

DUE = "UPDATE hold_pressure SET measured_at = now() - interval '9 seconds'"


def hold_seconds(placed_order: dict[str, Any]) -> float:
    return (datetime.fromisoformat(placed_order["expires_at"]) - datetime.now(UTC)).total_seconds()


async def test_new_holds_are_shorter_while_most_units_are_in_unpaid_holds(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, settings: Settings
) -> None:
    tent, other = await shop.create_product(stock=20), await shop.create_product(stock=20)
    paid = await shop.checked_out_cart((tent["id"], 1))
    stripe.pay(paid["payment"]["stripe_session_id"])
    await shop.wait_for_order(paid["order_id"], "PAID")

    async def place_order(product: dict[str, Any], units: int = 1) -> dict[str, Any]:
        await database.execute(DUE)
        await pressure.measure_holds(resources)
        return await shop.checked_out_cart((product["id"], units))

    assert hold_seconds(await place_order(tent, 9)) == pytest.approx(1800, abs=10)
    # Nine of the nineteen unpaid units are on hold, then ten.
    assert hold_seconds(await place_order(tent)) == pytest.approx(1800, abs=10)
    assert UNITS_ON_HOLD._value.get() == pytest.approx(9 / 19)
    pressed = await place_order(tent)
    assert hold_seconds(pressed) == pytest.approx(600, abs=10)
    assert UNITS_ON_HOLD._value.get() == pytest.approx(10 / 19)
    # Of the other product nothing is on hold, then one unit, then half of all, which is not most.
    for units in (1, 9, 1):
        assert hold_seconds(await place_order(other, units)) == pytest.approx(1800, abs=10)

    # Stripe allows no session that short; our expiry closes it. The worker wakes when the hold ends.
    session = stripe.session(pressed["payment"]["stripe_session_id"])
    assert session["expires_at"] - datetime.now(UTC).timestamp() == pytest.approx(2100, abs=10)
    due_at = await eventually(lambda: due_time(resources, pressed["order_id"]))
    assert due_at - datetime.now(UTC).timestamp() == pytest.approx(600, abs=10)

    # A hold is never longer than HOLD_SECONDS.
    async with served(create_app(settings.model_copy(update={"hold_seconds": 300}))) as url, Shop(url) as short:
        assert hold_seconds(await short.checked_out_cart((tent["id"], 1))) == pytest.approx(300, abs=10)

    # Without a worker, holds are as long as ever.
    await database.execute("UPDATE hold_pressure SET measured_at = now() - interval '50 seconds'")
    assert hold_seconds(await shop.checked_out_cart((tent["id"], 1))) == pytest.approx(600, abs=10)
    await database.execute("UPDATE hold_pressure SET measured_at = now() - interval '61 seconds'")
    assert hold_seconds(await shop.checked_out_cart((tent["id"], 1))) == pytest.approx(1800, abs=10)


async def due_time(resources: Resources, order_id: str) -> float | None:
    """The Unix time at which an order's job is due in Redis."""
    jobs = await resources.redis.zrange(QUEUE, 0, -1, withscores=True)
    return next((score / 1000 for job, score in jobs if order_id.encode() in job), None)


async def test_one_worker_measures_at_a_time(shop: Shop, resources: Resources, database: asyncpg.Connection) -> None:
    await shop.checked_out_cart()
    measured_at = "SELECT measured_at FROM hold_pressure"
    await pressure.measure_holds(resources)
    first = await database.fetchval(measured_at)

    await pressure.measure_holds(resources)
    assert await database.fetchval(measured_at) == first
    await database.execute(DUE)
    async with database.transaction():
        before = await database.fetchval(f"{measured_at} FOR NO KEY UPDATE")
        await pressure.measure_holds(resources)
    assert await database.fetchval(measured_at) == before

    await pressure.measure_holds(resources)
    assert await database.fetchval(measured_at) > first
    assert UNITS_ON_HOLD._value.get() == pytest.approx(0.1)
