"""Orders that are not paid end: Stripe's session first, then the order, and the units come back once."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from itertools import combinations_with_replacement
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import redis

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.replies import ApiError
from service.errors import ShopError
from service.infra.resources import Resources
from service.shop import expiry, reconcile, sweep
from tests.books import all_due, balance, deliver, emitted, hold_ends
from tests.client import Shop, eventually

CREATE = {"method": "POST", "path": "/v1/checkout/session[s]"}
SILENT = [{"action": "drop"}]
DEAD_REDIS = "redis://127.0.0.1:1/0"


async def cart_status(database: asyncpg.Connection, order_id: str) -> str:
    return str(
        await database.fetchval(
            "SELECT carts.status FROM carts JOIN orders ON carts.id = cart_id WHERE orders.id = $1", UUID(order_id)
        )
    )


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(ShopError) as error:
        await call
    return error.value.code


async def test_the_end_of_the_hold_closes_the_session_and_gives_all_back(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=3)
    placed = await shop.placed((product["id"], 2))
    order_id, session_id = UUID(placed["order_id"]), placed["payment"]["stripe_session_id"]
    await expiry.expire(resources, order_id)
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT", "its hold has not ended"
    await hold_ends(database, placed["order_id"])
    stripe.set_faults([{"action": "drop", "path": "/v1/checkout/sessions/*/expire"}])
    assert await refused(expiry.expire(resources, order_id)) == "payment_unavailable"
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT", "the session is still open"
    assert await shop.stock(product["id"]) == 1
    stripe.set_faults([])

    await asyncio.gather(*(expiry.expire(resources, order_id) for _ in range(3)))
    await expiry.expire(resources, order_id)

    assert stripe.session(session_id)["status"] == "expired"
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"], order["checkout_url"]) == ("CANCELLED", "EXPIRED", None)
    assert await shop.stock(product["id"]) == 3
    assert await cart_status(database, placed["order_id"]) == "OPEN"
    again = await shop.checkout(order["cart_id"])
    assert again["order_id"] != placed["order_id"]
    await balance(resources, stripe)


@pytest.mark.parametrize(
    "since",
    [
        "UPDATE payments SET status = 'PROCESSING' WHERE order_id = $1",
        "UPDATE payments SET stripe_session_id = 'cs_other' WHERE order_id = $1",
        "UPDATE orders SET status = 'PAID', paid_at = now() WHERE id = $1",
    ],
    ids=["processing", "another session", "paid"],
)
async def test_of_orders_cancelled_together_one_that_moved_on_is_left(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, since: str
) -> None:
    # Of the closed sessions, which would cancel the orders one by one.
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=5)
    placed = [await shop.placed((product["id"], 1)) for _ in range(3)]
    closed = {UUID(order["order_id"]): order["payment"]["stripe_session_id"] for order in placed}
    for order_id, session_id in closed.items():
        assert await expiry.close(resources, order_id, session_id)
    moved = UUID(placed[1]["order_id"])
    await database.execute(since, moved)
    for _ in range(2):
        await expiry.cancel_closed(resources, closed)
    cancelled = await database.fetch("SELECT id FROM orders WHERE status = 'CANCELLED'")
    assert {row["id"] for row in cancelled} == set(closed) - {moved}
    assert await shop.stock(product["id"]) == 4


@pytest.mark.parametrize("changed_settings", [{"HOLD_SECONDS": "1"}, {"HOLD_SECONDS": "1", "REDIS_URL": DEAD_REDIS}])
async def test_the_hold_is_a_setting_and_ends_by_itself(
    shop: Shop, stripe: StripeStandin, resources: Resources, worker: None
) -> None:
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    order = await shop.until(placed["order_id"], "CANCELLED", "EXPIRED")
    assert await resources.pool.fetchval("SELECT extract(EPOCH FROM expires_at - created_at) FROM orders") == 1
    assert order["cancelled_at"] > placed["expires_at"]
    assert await shop.stock(product["id"]) == 1
    await balance(resources, stripe)


async def test_paid_in_the_last_second_is_paid(
    caplog: pytest.LogCaptureFixture,
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    await hold_ends(database, placed["order_id"])
    stripe.pay(placed["payment"]["stripe_session_id"])
    await expiry.expire(resources, UUID(placed["order_id"]))
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"
    assert await shop.stock(product["id"]) == 0
    # That Stripe does not close a session which is not open is no failure.
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    await balance(resources, stripe)


@pytest.mark.parametrize("succeed", [True, False])
@pytest.mark.parametrize("lost", [True, False])
async def test_a_payment_on_its_way_keeps_its_units(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, succeed: bool, lost: bool
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    session_id = placed["payment"]["stripe_session_id"]
    stripe.pay(session_id, later=True)
    for _ in range(2):
        await hold_ends(database, placed["order_id"])
        await database.execute("UPDATE payments SET session_expires_at = now() - interval '1 day'")
        await sweep.sweep(resources)
        order = await shop.order(placed["order_id"])
        assert (order["status"], order["payment"]["status"]) == ("PENDING_PAYMENT", "PROCESSING")
    assert (await shop.call("POST", f"/orders/{order['id']}/cancel", 409))["code"] == "order_not_cancellable"
    assert await shop.stock(product["id"]) == 0
    timeline = (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"]
    assert [e["note"] for e in timeline] == [None, "payment processing"]
    waits = await database.fetchval("SELECT next_attempt_at - now() > interval '9 minutes' FROM orders")
    assert waits, "Stripe is not asked all the time about what takes days"

    stripe.settle(session_id, succeed=succeed)
    if lost:
        # Long before the hold would have ended, too.
        await database.execute("UPDATE orders SET expires_at = now() + interval '1 day', next_attempt_at = now()")
        await sweep.sweep(resources)
    else:
        kind = f"checkout.session.async_payment_{'succeeded' if succeed else 'failed'}"
        assert await deliver(shop, emitted(stripe, kind)) == "applied"
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"]) == (
        ("PAID", "SUCCEEDED") if succeed else ("CANCELLED", "FAILED")
    )
    assert await shop.stock(product["id"]) == (0 if succeed else 1)
    await balance(resources, stripe)


@pytest.mark.parametrize("why", ["another amount that is not there", "no such session"])
async def test_a_payment_on_its_way_that_can_become_no_payment_holds_no_units_for_ever(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, why: str
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    session_id = placed["payment"]["stripe_session_id"]
    stripe.pay(session_id, later=True)
    assert await deliver(shop, emitted(stripe, "checkout.session.completed")) == "applied"
    unknown = "/v1/checkout/sessions/*"
    if why == "another amount that is not there":
        stripe.settle(session_id)
        stripe.session(session_id)["amount_total"] = 1
        unknown = "/v1/payment_intents/*"
    stripe.set_faults([{"action": "status", "status": 404, "path": unknown}])
    await all_due(database)
    await sweep.sweep(resources)
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT", "not before its time"
    await hold_ends(database, placed["order_id"])
    await database.execute("UPDATE payments SET session_expires_at = now() - interval '11 minutes'")
    await sweep.sweep(resources)
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"]) == ("CANCELLED", "FAILED")
    assert await shop.stock(product["id"]) == 1


REFUSES_THE_KEY = [{"action": "status", "status": 401}]


@pytest.mark.parametrize(("sold", "faults"), [(False, SILENT), (True, SILENT), (False, REFUSES_THE_KEY)])
async def test_a_silent_stripe_is_waited_for_until_ten_minutes_after_the_sessions_end(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, sold: bool, faults: list[Any]
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    stripe.pay(placed["payment"]["stripe_session_id"])
    stripe.set_faults(faults)
    await hold_ends(database, placed["order_id"])
    for minutes, status in ((0, "PENDING_PAYMENT"), (9, "PENDING_PAYMENT"), (11, "CANCELLED")):
        await database.execute("UPDATE payments SET session_expires_at = now() - make_interval(mins => $1)", minutes)
        await all_due(database)
        await sweep.sweep(resources)
        assert (await shop.order(placed["order_id"]))["status"] == status, minutes
        soon = await database.fetchval("SELECT bool_and(next_attempt_at <= now() + interval '61 s') FROM orders")
        assert soon is not False, "an outage of Stripe does not keep the units for much longer than it lasts"
        await database.execute("UPDATE orders SET attempts = 20 WHERE next_attempt_at IS NOT NULL")
    assert await shop.stock(product["id"]) == 1
    timeline = (await shop.call("GET", f"/orders/{placed['order_id']}/timeline", 200))["items"]
    assert timeline[-1]["note"] == "Stripe did not answer"

    # The money is found later.
    stripe.set_faults([])
    if sold:
        await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    assert await reconcile.reconcile(resources) == 1
    await sweep.sweep(resources)
    order = await shop.order(placed["order_id"])
    ended = ("CANCELLED", "REFUNDED") if sold else ("FULFILLED", "SUCCEEDED")
    await all_due(database)
    await sweep.sweep(resources)
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"]) == ended
    await balance(resources, stripe)


@pytest.mark.parametrize("later", [False, True])
async def test_what_is_heard_while_stripe_is_given_up_counts(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, later: bool
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"], later=later)
    await hold_ends(database, placed["order_id"])
    await database.execute("UPDATE payments SET session_expires_at = now() - interval '1 day'")
    stripe.set_faults([{"action": "status", "seconds": 1}])
    expiring = asyncio.create_task(expiry.expire(resources, UUID(placed["order_id"])))

    async def asked() -> int:
        return stripe.requests["POST /v1/checkout/sessions/{id}/expire"]

    await eventually(asked)
    await deliver(shop, emitted(stripe, "checkout.session.completed"))
    await expiring
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"]) == (
        ("PENDING_PAYMENT", "PROCESSING") if later else ("PAID", "SUCCEEDED")
    )
    assert order["payment"]["stripe_session_id"] == session["id"]
    assert await shop.stock(product["id"]) == 0
    await balance(resources, stripe)


@pytest.mark.parametrize(
    ("fault", "made"),
    [
        ({"action": "drop"}, False),
        ({"action": "drop_after"}, True),
        ({"action": "status_after", "status": 500}, True),
        ({"action": "malformed"}, True),
    ],
)
async def test_what_a_crash_after_the_reserve_leaves_is_resolved_first(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    fault: dict[str, Any],
    made: bool,
) -> None:
    product = await shop.product(stock=2)
    stripe.set_faults([{**CREATE, **fault, "times": 2}])
    for _ in range(2):
        await shop.checkout(await shop.cart((product["id"], 1)), 503)
    stripe.set_faults([])
    assert len(list(stripe.sessions)) == (2 if made else 0)
    if made:
        # Whoever reads the page may still pay, whatever became of our process.
        stripe.set_webhooks(drop=True)
        stripe.pay(next(iter(stripe.sessions))["id"])
    # The process that held the claim was killed.
    await database.execute("UPDATE payments SET claimed_until = now() + interval '1 minute'")
    await database.execute("UPDATE orders SET expires_at = now() - interval '1 s', next_attempt_at = now()")
    await sweep.sweep(resources)
    statuses = "SELECT array_agg(status ORDER BY status) FROM orders"
    assert await database.fetchval(statuses) == ["PENDING_PAYMENT"] * 2, "a request may be creating the session"

    await database.execute("UPDATE payments SET claimed_until = now() - interval '1 s'")
    await all_due(database)
    await sweep.sweep(resources)
    assert await database.fetchval(statuses) == ["CANCELLED", "PAID" if made else "CANCELLED"]
    assert stripe.ledger()["open_sessions"] == []
    assert await shop.stock(product["id"]) == (1 if made else 2)
    await balance(resources, stripe)


async def test_what_can_no_longer_be_created_is_cancelled(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=1)
    stripe.set_faults([{**CREATE, "action": "drop"}])
    await shop.checkout(await shop.cart((product["id"], 1)), 503)
    stripe.set_faults([])
    # So late that Stripe minds `expires_at`, which shows that the key has never made a session.
    stripe.advance_clock(3600)
    order_id = await database.fetchval("SELECT id FROM orders")
    await hold_ends(database, str(order_id))
    await expiry.expire(resources, order_id)
    assert (await shop.order(str(order_id)))["status"] == "CANCELLED"
    assert list(stripe.sessions) == []
    assert await shop.stock(product["id"]) == 1
    await balance(resources, stripe)


# The customer cancels


async def test_a_customer_cancels_a_pending_order_and_no_other(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=2)
    placed = await shop.placed((product["id"], 1))
    path = f"/orders/{placed['order_id']}/cancel"
    stripe.set_faults(SILENT)
    assert (await shop.call("POST", path, 503))["code"] == "payment_unavailable"
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"
    stripe.set_faults([])

    first = await shop.call("POST", path, 200)
    assert (first["status"], first["payment"]["status"], first["checkout_url"]) == ("CANCELLED", "EXPIRED", None)
    assert await shop.call("POST", path, 200) == first
    assert await shop.stock(product["id"]) == 2
    assert stripe.ledger()["open_sessions"] == []
    assert await cart_status(database, placed["order_id"]) == "OPEN"

    paid = await shop.placed((product["id"], 1))
    stripe.pay(paid["payment"]["stripe_session_id"])
    for status in ("PAID", "FULFILLED"):
        await shop.until(paid["order_id"], status)
        path = f"/orders/{paid['order_id']}/cancel"
        assert (await shop.call("POST", path, 409))["code"] == "order_not_cancellable"
        await sweep.sweep(resources)
    await shop.call("POST", "/orders/00000000-0000-4000-8000-000000000000/cancel", 404)
    await balance(resources, stripe)


async def test_cancelling_learns_of_a_payment_whose_event_is_late(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    stripe.set_webhooks(drop=True)
    for later, ended in ((False, "PAID"), (True, "PENDING_PAYMENT")):
        placed = await shop.placed(((await shop.product())["id"], 1))
        stripe.pay(placed["payment"]["stripe_session_id"], later=later)
        path = f"/orders/{placed['order_id']}/cancel"
        assert (await shop.call("POST", path, 409))["code"] == "order_not_cancellable"
        assert (await shop.order(placed["order_id"]))["status"] == ended
    await balance(resources, stripe)


# At once

ACTIONS = ("cancel", "checkout", "expire", "pay", "event")


async def test_any_two_things_at_once_have_one_effect(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=100)
    moving_time = asyncio.Lock()

    async def one(first: str, second: str) -> None:
        placed = await shop.placed((product["id"], 1))
        order_id, session_id = placed["order_id"], placed["payment"]["stripe_session_id"]
        cart_id = (await shop.order(order_id))["cart_id"]
        if "expire" in (first, second):
            async with moving_time:
                await hold_ends(database, order_id)
        if "event" in (first, second):
            stripe.pay(session_id)

        async def act(action: str) -> None:
            if action == "cancel":
                await shop.http.post(f"/orders/{order_id}/cancel")
            elif action == "checkout":
                await shop.http.post(f"/carts/{cart_id}/checkout")
            elif action == "expire":
                await expiry.expire(resources, UUID(order_id))
            elif action == "event":
                await deliver(shop, emitted(stripe, "checkout.session.completed", session_id))
            elif action == "pay":
                with suppress(ApiError):  # The session may be closed by then.
                    stripe.pay(session_id)

        await asyncio.gather(act(first), act(second), act(first))
        if stripe.session(session_id)["payment_status"] == "paid":
            await shop.until(order_id, "PAID", "SUCCEEDED")
        elif {first, second} & {"cancel", "expire"}:
            assert (await shop.order(order_id))["status"] == "CANCELLED", (first, second)

    for first, second in combinations_with_replacement(ACTIONS, 2):
        await asyncio.gather(*(one(first, second) for _ in range(3)))
    live = await database.fetchval("SELECT count(*) FROM orders WHERE status <> 'CANCELLED'")
    assert await shop.stock(product["id"]) == 100 - live
    await balance(resources, stripe)


# Redis only wakes the worker


@pytest.mark.parametrize("changed_settings", [{}, {"REDIS_URL": DEAD_REDIS}])
async def test_without_redis_the_sweep_does_it_all(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    changed_settings: dict[str, str],
) -> None:
    product = await shop.product(stock=3)
    paid, late, left = [await shop.placed((product["id"], 1)) for _ in range(3)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    await shop.until(paid["order_id"], "PAID")
    await shop.call("POST", f"/orders/{late['order_id']}/cancel", 200)
    # Money that Stripe had promised already, for units that are gone by now.
    session = stripe.session(late["payment"]["stripe_session_id"])
    session["status"] = "open"
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    stripe.pay(session["id"])
    await shop.until(late["order_id"], "CANCELLED", "REFUND_PENDING")
    await hold_ends(database, left["order_id"])
    if not changed_settings:
        with redis.Redis.from_url(resources.settings.redis_url) as client:
            client.flushall()

    async def done() -> bool:
        await sweep.sweep(resources)
        orders = [await shop.order(placed["order_id"]) for placed in (paid, late, left)]
        return [(o["status"], o["payment"]["status"]) for o in orders] == [
            ("FULFILLED", "SUCCEEDED"),
            ("CANCELLED", "REFUNDED"),
            ("CANCELLED", "EXPIRED"),
        ]

    await eventually(done)
    await balance(resources, stripe)
