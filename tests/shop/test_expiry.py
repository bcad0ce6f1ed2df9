"""Unpaid orders end: first the session at Stripe is closed, then the order is cancelled and its units are released."""

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
from tests.client import ADMIN_TOKEN, Shop, eventually
from tests.database import end_hold, make_everything_due
from tests.queries import on
from tests.stripe_events import deliver, end_sessions, last_event
from tests.stripe_ledger import assert_ledgers_agree

CREATE = {"method": "POST", "path": "/v1/checkout/session[s]"}
DROP_EVERY_CALL = [{"action": "drop"}]
REFUSE_API_KEY = [{"action": "status", "status": 401}]
DEAD_REDIS = "redis://127.0.0.1:1/0"


async def cart_status(database: asyncpg.Connection, order_id: str) -> str:
    return str(
        await database.fetchval(
            "SELECT carts.status FROM carts JOIN orders ON carts.id = cart_id WHERE orders.id = $1", UUID(order_id)
        )
    )


async def refusal_code(call: Awaitable[object]) -> str:
    with pytest.raises(ShopError) as error:
        await call
    return error.value.code


async def test_an_expired_hold_closes_the_session_and_releases_the_units(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Expire an order before its hold ends, while Stripe does not answer, and four times when both are ready."""
    product = await shop.create_product(stock=3)
    placed_order = await shop.checked_out_cart((product["id"], 2))
    order_id, session_id = UUID(placed_order["order_id"]), placed_order["payment"]["stripe_session_id"]

    await expiry.expire(resources, order_id)
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT", "its hold has not ended"

    await end_hold(database, placed_order["order_id"])
    stripe.set_faults([{"action": "drop", "path": "/v1/checkout/sessions/*/expire"}])
    assert await refusal_code(expiry.expire(resources, order_id)) == "payment_unavailable"
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT", "the session is still open"
    assert await shop.get_stock(product["id"]) == 1

    stripe.set_faults([])
    await asyncio.gather(*(expiry.expire(resources, order_id) for _ in range(3)))
    await expiry.expire(resources, order_id)
    assert stripe.session(session_id)["status"] == "expired"
    order = await shop.get_order(placed_order["order_id"])
    assert (order["status"], order["payment"]["status"], order["checkout_url"]) == ("CANCELLED", "EXPIRED", None)
    assert await shop.get_stock(product["id"]) == 3
    assert await cart_status(database, placed_order["order_id"]) == "OPEN"
    next_order = await shop.check_out(order["cart_id"])
    assert next_order["order_id"] != placed_order["order_id"]
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE payments SET status = 'PROCESSING' WHERE order_id = $1",
        "UPDATE payments SET stripe_session_id = 'cs_other' WHERE order_id = $1",
        "UPDATE orders SET status = 'PAID', paid_at = now() WHERE id = $1",
    ],
    ids=["processing", "another session", "paid"],
)
async def test_an_order_that_changed_is_left_out_of_a_batch_of_cancels(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, change: str
) -> None:
    """Three sessions are closed and one order changes before the orders are cancelled in one batch."""
    # The webhooks of the closed sessions would cancel the orders one by one.
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=5)
    orders = [await shop.checked_out_cart((product["id"], 1)) for _ in range(3)]
    closed = {UUID(order["order_id"]): order["payment"]["stripe_session_id"] for order in orders}
    for order_id, session_id in closed.items():
        assert await expiry.close(resources, order_id, session_id)
    changed = UUID(orders[1]["order_id"])
    await database.execute(change, changed)

    for _ in range(2):
        await expiry.cancel_closed(resources, closed)

    cancelled = await database.fetch("SELECT id FROM orders WHERE status = 'CANCELLED'")
    assert {row["id"] for row in cancelled} == set(closed) - {changed}
    assert await shop.get_stock(product["id"]) == 4


@pytest.mark.parametrize("changed_settings", [{"HOLD_SECONDS": "1"}, {"HOLD_SECONDS": "1", "REDIS_URL": DEAD_REDIS}])
async def test_a_hold_lasts_as_long_as_the_setting_and_ends_by_itself(
    shop: Shop, stripe: StripeStandin, resources: Resources, worker: None
) -> None:
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))

    order = await shop.wait_for_order(placed_order["order_id"], "CANCELLED", "EXPIRED")

    assert await on(resources.pool).fetchval("SELECT extract(EPOCH FROM expires_at - created_at) FROM orders") == 1
    assert order["cancelled_at"] > placed_order["expires_at"]
    assert await shop.get_stock(product["id"]) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_an_order_paid_in_the_last_second_is_paid(
    caplog: pytest.LogCaptureFixture,
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
) -> None:
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    await end_hold(database, placed_order["order_id"])
    stripe.pay(placed_order["payment"]["stripe_session_id"])

    await expiry.expire(resources, UUID(placed_order["order_id"]))

    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"
    assert await shop.get_stock(product["id"]) == 0
    # Stripe refuses to close a session that is not open; this is expected and not logged as a warning.
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("succeed", [True, False])
@pytest.mark.parametrize("event_dropped", [True, False])
async def test_a_payment_in_progress_keeps_its_units(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    succeed: bool,
    event_dropped: bool,
) -> None:
    """A bank payment in progress: its hold ends twice, then it succeeds or fails.

    The service learns the end by Stripe's event or, where that is dropped, by the sweep.
    """
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session_id = placed_order["payment"]["stripe_session_id"]
    stripe.pay(session_id, later=True)

    for _ in range(2):
        await end_hold(database, placed_order["order_id"])
        await database.execute("UPDATE payments SET session_expires_at = now() - interval '1 day'")
        await sweep.sweep(resources)
        order = await shop.get_order(placed_order["order_id"])
        assert (order["status"], order["payment"]["status"]) == ("PENDING_PAYMENT", "PROCESSING")
    assert await shop.get_stock(product["id"]) == 0
    timeline = (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"]
    assert [e["note"] for e in timeline] == [None, "payment processing"]
    deferred = await database.fetchval("SELECT next_attempt_at - now() > interval '9 minutes' FROM orders")
    assert deferred, "Stripe is asked rarely about a payment that takes days"

    stripe.settle(session_id, succeed=succeed)
    if event_dropped:
        # The order is due long before its hold ends.
        await database.execute("UPDATE orders SET expires_at = now() + interval '1 day', next_attempt_at = now()")
        await sweep.sweep(resources)
    else:
        kind = f"checkout.session.async_payment_{'succeeded' if succeed else 'failed'}"
        assert await deliver(shop, last_event(stripe, kind)) == "applied"

    order = await shop.get_order(placed_order["order_id"])
    statuses = ("PAID", "SUCCEEDED") if succeed else ("CANCELLED", "FAILED")
    assert (order["status"], order["payment"]["status"]) == statuses
    assert await shop.get_stock(product["id"]) == (0 if succeed else 1)
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("why", ["another amount that is not there", "no such session"])
async def test_a_payment_in_progress_that_cannot_succeed_releases_its_units(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, why: str
) -> None:
    """Stripe has no session or no intent for a payment in progress: its order is cancelled after Stripe's deadline."""
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session_id = placed_order["payment"]["stripe_session_id"]
    stripe.pay(session_id, later=True)
    assert await deliver(shop, last_event(stripe, "checkout.session.completed")) == "applied"
    unknown = "/v1/checkout/sessions/*"
    if why == "another amount that is not there":
        stripe.settle(session_id)
        stripe.session(session_id)["amount_total"] = 1
        unknown = "/v1/payment_intents/*"
    stripe.set_faults([{"action": "status", "status": 404, "path": unknown}])

    await make_everything_due(database)
    await sweep.sweep(resources)
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT", "not before the deadline"

    await end_hold(database, placed_order["order_id"])
    await database.execute("UPDATE payments SET session_expires_at = now() - interval '11 minutes'")
    await sweep.sweep(resources)
    order = await shop.get_order(placed_order["order_id"])
    assert (order["status"], order["payment"]["status"]) == ("CANCELLED", "FAILED")
    assert await shop.get_stock(product["id"]) == 1


@pytest.mark.parametrize(
    ("sold", "faults"), [(False, DROP_EVERY_CALL), (True, DROP_EVERY_CALL), (False, REFUSE_API_KEY)]
)
async def test_an_order_waits_for_stripe_until_ten_minutes_after_its_session_ends(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, sold: bool, faults: list[Any]
) -> None:
    """The order of a paid session whose payment nobody can confirm is cancelled ten minutes after the session's end.

    When Stripe answers again, the late payment takes its units again, or is refunded where they were sold meanwhile.
    """
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    stripe.set_faults(faults)
    await end_hold(database, placed_order["order_id"])

    for minutes, status in ((0, "PENDING_PAYMENT"), (9, "PENDING_PAYMENT"), (11, "CANCELLED")):
        await database.execute("UPDATE payments SET session_expires_at = now() - make_interval(mins => $1)", minutes)
        await make_everything_due(database)
        await sweep.sweep(resources)
        assert (await shop.get_order(placed_order["order_id"]))["status"] == status, minutes
        soon = await database.fetchval("SELECT bool_and(next_attempt_at <= now() + interval '61 s') FROM orders")
        assert soon is not False, "units are released soon after an outage of Stripe ends"
        await database.execute("UPDATE orders SET attempts = 20 WHERE next_attempt_at IS NOT NULL")
    assert await shop.get_stock(product["id"]) == 1
    timeline = (await shop.call("GET", f"/orders/{placed_order['order_id']}/timeline", 200))["items"]
    assert timeline[-1]["note"] == "Stripe did not answer"

    # Stripe answers again and reports the payment.
    stripe.set_faults([])
    if sold:
        await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    end_sessions(stripe)
    assert await reconcile.reconcile(resources) == 1
    await sweep.sweep(resources)
    await make_everything_due(database)
    await sweep.sweep(resources)
    order = await shop.get_order(placed_order["order_id"])
    statuses = ("CANCELLED", "REFUNDED") if sold else ("FULFILLED", "SUCCEEDED")
    assert (order["status"], order["payment"]["status"]) == statuses
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("later", [False, True])
async def test_an_event_that_arrives_while_an_order_expires_is_applied(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, later: bool
) -> None:
    """The payment's event arrives while the expiry waits for Stripe, whose deadline has passed."""
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session = stripe.pay(placed_order["payment"]["stripe_session_id"], later=later)
    await end_hold(database, placed_order["order_id"])
    await database.execute("UPDATE payments SET session_expires_at = now() - interval '1 day'")
    stripe.set_faults([{"action": "status", "seconds": 1}])

    async def stripe_was_asked() -> int:
        return stripe.requests["POST /v1/checkout/sessions/{id}/expire"]

    expiring = asyncio.create_task(expiry.expire(resources, UUID(placed_order["order_id"])))
    await eventually(stripe_was_asked)
    await deliver(shop, last_event(stripe, "checkout.session.completed"))
    await expiring

    order = await shop.get_order(placed_order["order_id"])
    statuses = ("PENDING_PAYMENT", "PROCESSING") if later else ("PAID", "SUCCEEDED")
    assert (order["status"], order["payment"]["status"]) == statuses
    assert order["payment"]["stripe_session_id"] == session["id"]
    assert await shop.get_stock(product["id"]) == 0
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize(
    ("fault", "session_exists"),
    [
        ({"action": "drop"}, False),
        ({"action": "drop_after"}, True),
        ({"action": "status_after", "status": 500}, True),
        ({"action": "malformed"}, True),
    ],
)
async def test_a_checkout_that_crashed_after_its_reservation_is_resolved_at_stripe_first(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    fault: dict[str, Any],
    session_exists: bool,
) -> None:
    """Two checkouts die after their reservation, with or without sessions at Stripe, one of which is paid.

    While the claims run the sweep leaves the orders alone. After the claims it pays or cancels them.
    """
    product = await shop.create_product(stock=2)
    stripe.set_faults([{**CREATE, **fault, "times": 2}])
    for _ in range(2):
        await shop.check_out(await shop.create_cart((product["id"], 1)), 503)
    stripe.set_faults([])
    assert len(list(stripe.sessions)) == (2 if session_exists else 0)
    if session_exists:
        # The customer may pay on Stripe's page after our process has died.
        stripe.set_webhooks(drop=True)
        stripe.pay(next(iter(stripe.sessions))["id"])

    # The claims of the killed processes have not ended.
    await database.execute("UPDATE payments SET claimed_until = now() + interval '1 minute'")
    await database.execute("UPDATE orders SET expires_at = now() - interval '1 s', next_attempt_at = now()")
    await sweep.sweep(resources)
    statuses = "SELECT array_agg(status ORDER BY status) FROM orders"
    assert await database.fetchval(statuses) == ["PENDING_PAYMENT"] * 2, "a request may be creating the session"

    await database.execute("UPDATE payments SET claimed_until = now() - interval '1 s'")
    await make_everything_due(database)
    await sweep.sweep(resources)
    assert await database.fetchval(statuses) == ["CANCELLED", "PAID" if session_exists else "CANCELLED"]
    assert stripe.ledger()["open_sessions"] == []
    assert await shop.get_stock(product["id"]) == (1 if session_exists else 2)
    await assert_ledgers_agree(resources, stripe)


async def test_an_order_whose_session_can_no_longer_be_created_is_cancelled(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=1)
    stripe.set_faults([{**CREATE, "action": "drop"}])
    await shop.check_out(await shop.create_cart((product["id"], 1)), 503)
    stripe.set_faults([])
    # Now Stripe refuses `expires_at` as past, which shows that the key has never created a session.
    stripe.advance_clock(3600)
    order_id = await database.fetchval("SELECT id FROM orders")
    await end_hold(database, str(order_id))

    await expiry.expire(resources, order_id)

    assert (await shop.get_order(str(order_id)))["status"] == "CANCELLED"
    assert list(stripe.sessions) == []
    assert await shop.get_stock(product["id"]) == 1
    await assert_ledgers_agree(resources, stripe)


class TestWithStaff:
    """With an ADMIN_TOKEN, only staff end a payment that is in progress."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"ADMIN_TOKEN": ADMIN_TOKEN, "PROCESSING_DAYS": "14"}

    @pytest.mark.parametrize("how", ["staff", "days", "days without Stripe"])
    @pytest.mark.parametrize("late", [True, False])
    async def test_a_payment_in_progress_is_ended(
        self,
        shop: Shop,
        stripe: StripeStandin,
        resources: Resources,
        database: asyncpg.Connection,
        how: str,
        late: bool,
    ) -> None:
        """Its units return to stock, its payment is FAILED, and what comes later is a late payment."""
        stripe.set_webhooks(drop=True)
        shop.http.headers["Authorization"] = f"Bearer {ADMIN_TOKEN}"
        product = await shop.create_product(stock=1)
        del shop.http.headers["Authorization"]
        placed_order = await shop.checked_out_cart((product["id"], 1))
        order_id, session_id = placed_order["order_id"], placed_order["payment"]["stripe_session_id"]
        stripe.pay(session_id, later=True)
        await end_hold(database, order_id)
        await sweep.sweep(resources)
        path = f"/orders/{order_id}/cancel"
        assert (await shop.call("POST", path, 409))["code"] == "order_not_cancellable"

        if how == "staff":
            stripe.set_faults(DROP_EVERY_CALL)
            staff = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            assert (await shop.call("POST", path, 503, **staff))["code"] == "payment_unavailable"
            stripe.set_faults([])
            await shop.call("POST", path, 200, **staff)
        else:
            if how == "days without Stripe":
                stripe.set_faults(DROP_EVERY_CALL)
            for days, hours, status in ((13, 23, "PENDING_PAYMENT"), (15 if "without" in how else 14, 0, "CANCELLED")):
                await database.execute(
                    "UPDATE orders SET created_at = now() - make_interval(days => $1, hours => $2),"
                    " next_attempt_at = now()",
                    days,
                    hours,
                )
                await sweep.sweep(resources)
                assert (await shop.get_order(order_id))["status"] == status
            stripe.set_faults([])

        assert await shop.get_order_state(order_id) == ("CANCELLED", "FAILED", 0)
        assert await shop.get_stock(product["id"]) == 1
        stripe.settle(session_id, succeed=late)
        kind = f"checkout.session.async_payment_{'succeeded' if late else 'failed'}"
        assert await deliver(shop, last_event(stripe, kind)) == ("applied" if late else "unchanged")
        expected = ("PAID", "SUCCEEDED", 0) if late else ("CANCELLED", "FAILED", 0)
        assert await shop.get_order_state(order_id) == expected
        await assert_ledgers_agree(resources, stripe)

    async def test_staff_cannot_cancel_what_was_paid_meanwhile(
        self, shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
    ) -> None:
        stripe.set_webhooks(drop=True)
        staff = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        product = await shop.call(
            "POST", "/products", 201, {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1}, **staff
        )
        placed_order = await shop.checked_out_cart((product["id"], 1))
        session_id = placed_order["payment"]["stripe_session_id"]
        stripe.pay(session_id, later=True)
        await end_hold(database, placed_order["order_id"])
        await sweep.sweep(resources)
        stripe.settle(session_id)

        answer = await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 409, **staff)

        assert answer["code"] == "order_not_cancellable"
        assert await shop.get_order_state(placed_order["order_id"]) == ("PAID", "SUCCEEDED", 0)


# The customer cancels


async def test_a_customer_can_cancel_a_pending_order_only(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Cancel an order that is pending, cancelled, paid, fulfilled or unknown."""
    product = await shop.create_product(stock=2)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    path = f"/orders/{placed_order['order_id']}/cancel"

    stripe.set_faults(DROP_EVERY_CALL)
    assert (await shop.call("POST", path, 503))["code"] == "payment_unavailable"
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"

    stripe.set_faults([])
    first = await shop.call("POST", path, 200)
    assert (first["status"], first["payment"]["status"], first["checkout_url"]) == ("CANCELLED", "EXPIRED", None)
    assert await shop.call("POST", path, 200) == first
    assert await shop.get_stock(product["id"]) == 2
    assert stripe.ledger()["open_sessions"] == []
    assert await cart_status(database, placed_order["order_id"]) == "OPEN"

    paid = await shop.checked_out_cart((product["id"], 1))
    stripe.pay(paid["payment"]["stripe_session_id"])
    for status in ("PAID", "FULFILLED"):
        await shop.wait_for_order(paid["order_id"], status)
        path = f"/orders/{paid['order_id']}/cancel"
        assert (await shop.call("POST", path, 409))["code"] == "order_not_cancellable"
        await sweep.sweep(resources)

    await shop.call("POST", "/orders/00000000-0000-4000-8000-000000000000/cancel", 404)
    await assert_ledgers_agree(resources, stripe)


async def test_a_cancel_asks_stripe_and_finds_a_payment_without_its_event(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    stripe.set_webhooks(drop=True)
    for later, status in ((False, "PAID"), (True, "PENDING_PAYMENT")):
        placed_order = await shop.checked_out_cart()
        stripe.pay(placed_order["payment"]["stripe_session_id"], later=later)

        problem = await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 409)

        assert problem["code"] == "order_not_cancellable"
        assert (await shop.get_order(placed_order["order_id"]))["status"] == status

    await assert_ledgers_agree(resources, stripe)


# Concurrent actions

ACTIONS = ("cancel", "checkout", "expire", "pay", "event")


async def test_any_two_concurrent_actions_have_one_effect(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Each pair of actions runs concurrently on a new order, three times; it ends as payment and hold decide."""
    product = await shop.create_product(stock=100)
    one_statement_at_a_time = asyncio.Lock()

    async def run_pair(first: str, second: str) -> None:
        placed_order = await shop.checked_out_cart((product["id"], 1))
        order_id, session_id = placed_order["order_id"], placed_order["payment"]["stripe_session_id"]
        cart_id = (await shop.get_order(order_id))["cart_id"]
        if "expire" in (first, second):
            async with one_statement_at_a_time:
                await end_hold(database, order_id)
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
                await deliver(shop, last_event(stripe, "checkout.session.completed", session_id))
            elif action == "pay":
                with suppress(ApiError):  # The session may already be closed.
                    stripe.pay(session_id)

        await asyncio.gather(act(first), act(second), act(first))

        if stripe.session(session_id)["payment_status"] == "paid":
            await shop.wait_for_order(order_id, "PAID", "SUCCEEDED")
        elif {first, second} & {"cancel", "expire"}:
            assert (await shop.get_order(order_id))["status"] == "CANCELLED", (first, second)

    for first, second in combinations_with_replacement(ACTIONS, 2):
        await asyncio.gather(*(run_pair(first, second) for _ in range(3)))

    live = await database.fetchval("SELECT count(*) FROM orders WHERE status <> 'CANCELLED'")
    assert await shop.get_stock(product["id"]) == 100 - live
    await assert_ledgers_agree(resources, stripe)


# Redis only wakes the worker


@pytest.mark.parametrize("changed_settings", [{}, {"REDIS_URL": DEAD_REDIS}])
async def test_the_sweep_finishes_everything_without_redis(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    changed_settings: dict[str, str],
) -> None:
    """A paid order, a late payment without units and an order past its hold; Redis is emptied or never reachable."""
    product = await shop.create_product(stock=3)
    paid, cancelled, unpaid = [await shop.checked_out_cart((product["id"], 1)) for _ in range(3)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    await shop.wait_for_order(paid["order_id"], "PAID")
    await shop.call("POST", f"/orders/{cancelled['order_id']}/cancel", 200)
    # A late payment for units that are gone.
    session = stripe.session(cancelled["payment"]["stripe_session_id"])
    session["status"] = "open"
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    stripe.pay(session["id"])
    await shop.wait_for_order(cancelled["order_id"], "CANCELLED", "REFUND_PENDING")
    await end_hold(database, unpaid["order_id"])
    if not changed_settings:
        with redis.Redis.from_url(resources.settings.redis_url) as client:
            client.flushall()

    async def sweep_finishes_everything() -> bool:
        await sweep.sweep(resources)
        orders = [await shop.get_order(placed_order["order_id"]) for placed_order in (paid, cancelled, unpaid)]
        return [(o["status"], o["payment"]["status"]) for o in orders] == [
            ("FULFILLED", "SUCCEEDED"),
            ("CANCELLED", "REFUNDED"),
            ("CANCELLED", "EXPIRED"),
        ]

    await eventually(sweep_finishes_everything)

    await assert_ledgers_agree(resources, stripe)
