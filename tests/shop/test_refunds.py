"""Refunds: of late payments, by staff and in Stripe's dashboard. Each is made once, and never more than was paid."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.infra.stripe import Stripe, StripeUnknown
from service.infra.transactions import run_transaction
from service.shop import audit, fulfilment, reconcile, refunds, retention, sweep, webhooks
from tests.client import Shop
from tests.database import make_everything_due, wait_for_blocked
from tests.queries import on
from tests.stripe_events import Event, deliver, end_sessions, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
DAY = 86_400

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def create_paid_order(shop: Shop, stripe: StripeStandin, *lines: tuple[int, int]) -> tuple[str, str]:
    """A paid order and its payment intent."""
    placed_order = await shop.checked_out_cart(*lines)
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    assert await deliver(shop, make_event(COMPLETED, session)) == "applied"
    return placed_order["order_id"], session["payment_intent"]


async def create_fulfilled_order(
    shop: Shop, stripe: StripeStandin, resources: Resources, *lines: tuple[int, int]
) -> tuple[str, str]:
    """A fulfilled order and its payment intent."""
    order_id, intent = await create_paid_order(shop, stripe, *lines)
    await fulfilment.fulfil(resources, UUID(order_id))
    return order_id, intent


async def create_late_payment(shop: Shop, stripe: StripeStandin, *lines: tuple[int, int]) -> tuple[str, Event]:
    """A cancelled order and the event of its late payment, which is not delivered yet."""
    placed_order = await shop.checked_out_cart(*lines)
    await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    # As if the customer had paid just before the cancel and Stripe had not reported it.
    session["status"] = "open"
    return placed_order["order_id"], make_event(COMPLETED, stripe.pay(session["id"]))


async def settle_by_many_workers(stripe: StripeStandin, resources: Resources, order_id: str) -> None:
    """Settle an order's refunds by six workers at once, while Stripe is slow, and then once more."""
    stripe.set_faults([{"action": "delay", "method": "POST", "path": "/v1/refunds", "seconds": 0.3}])
    workers = (refunds.settle(resources, UUID(order_id)) for _ in range(6))
    errors = [error for error in await asyncio.gather(*workers, return_exceptions=True) if error is not None]
    assert all(isinstance(error, StripeUnknown) for error in errors), errors  # Stripe's 409: the key is in use.
    stripe.set_faults([])
    await refunds.settle(resources, UUID(order_id))


async def request_refund(shop: Shop, order_id: str, expect: int = 200, **body: Any) -> Any:
    return await shop.call("POST", f"/orders/{order_id}/refund", expect, body)


async def remove_stock(shop: Shop, product: dict[str, Any], units: int) -> None:
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -units, "reason": "broken"})


# Late payments


async def test_a_late_payment_takes_its_units_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    tent, mug = await shop.create_product(stock=2), await shop.create_product(stock=1)
    order_id, late_event = await create_late_payment(shop, stripe, (tent["id"], 2), (mug["id"], 1))
    events = [late_event, late_event, {**late_event, "id": "evt_other"}]

    outcomes = await asyncio.gather(*(deliver(shop, event) for event in events))

    assert sorted(outcomes) == ["applied", "duplicate", "unchanged"]
    assert await shop.get_order_state(order_id) == ("PAID", "SUCCEEDED", 0)
    assert [await shop.get_stock(product["id"]) for product in (tent, mug)] == [0, 0]

    cart_id = (await shop.get_order(order_id))["cart_id"]
    assert (await shop.add_item(cart_id, tent["id"], expect=409))["code"] == "cart_not_open"

    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await assert_ledgers_agree(resources, stripe)


async def test_a_late_payment_gets_its_cart_back_and_other_lines_move_to_a_new_cart(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """The customer edits the cart between the cancel and the late payment, in each of these ways.

    An edit sets the units of a product; none removes it. Method: the old cart shows the order, the new one the edit.
    """
    tent, mug, sock = [await shop.create_product(stock=50) for _ in range(3)]
    dollar = await shop.create_product(stock=50, currency="USD")
    ordered = [(tent["id"], 2), (mug["id"], 1)]
    for edits in (
        [],
        [(tent, 0), (sock, 3)],
        [(tent, 3)],
        [(mug, 0)],
        [(sock, 1)],
        [(tent, 0), (mug, 0)],
        [(tent, 0), (mug, 0), (dollar, 1)],
        [(tent, 3), (tent, 2)],
    ):
        order_id, late_event = await create_late_payment(shop, stripe, *ordered)
        cart_id = (await shop.get_order(order_id))["cart_id"]
        await database.execute("UPDATE carts SET reference = 'web-1' WHERE id = $1", UUID(cart_id))
        for product, quantity in edits:
            line = f"/carts/{cart_id}/items/{product['id']}"
            await shop.call("PUT" if quantity else "DELETE", line, 200, {"quantity": quantity} if quantity else None)
        edited = await shop.call("GET", f"/carts/{cart_id}", 200)

        assert await deliver(shop, late_event) == "applied"

        assert await shop.get_order_state(order_id) == ("PAID", "SUCCEEDED", 0)
        cart = await shop.call("GET", f"/carts/{cart_id}", 200)
        assert [(line["product_id"], line["quantity"]) for line in cart["items"]] == ordered, edits
        assert (cart["status"], cart["currency"], cart["total_minor"]) == ("CHECKED_OUT", "EUR", 3750)
        moved = edited["items"] not in ([], cart["items"])
        assert (cart["replaced_by"] is not None) == moved, edits
        if moved:
            new_cart = await shop.call("GET", f"/carts/{cart['replaced_by']}", 200)
            assert new_cart == {**edited, "id": cart["replaced_by"], "reference": None}
            assert (new_cart["status"], new_cart["replaced_by"]) == ("OPEN", None)
            await shop.check_out(new_cart["id"])
        await assert_ledgers_agree(resources, stripe)

    # An abandoned cart is deleted, and no longer named.
    order_id, late_event = await create_late_payment(shop, stripe, *ordered)
    cart_id = (await shop.get_order(order_id))["cart_id"]
    await shop.add_item(cart_id, sock["id"])
    await deliver(shop, late_event)
    await database.execute("UPDATE carts SET created_at = '2000-01-01', updated_at = '2000-01-01'")
    await retention.delete_expired(resources)
    assert (await shop.call("GET", f"/carts/{cart_id}", 200))["replaced_by"] is None


async def test_a_cart_without_lines_to_move_keeps_its_first_replacement(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    tent, first = await shop.create_product(stock=50), await shop.create_cart()
    order_id, late_event = await create_late_payment(shop, stripe, (tent["id"], 1))
    cart_id = (await shop.get_order(order_id))["cart_id"]
    await database.execute("UPDATE carts SET replaced_by = $1 WHERE id = $2", UUID(first), UUID(cart_id))
    await shop.call("DELETE", f"/carts/{cart_id}/items/{tent['id']}", 200)

    assert await deliver(shop, late_event) == "applied"

    assert (await shop.call("GET", f"/carts/{cart_id}", 200))["replaced_by"] == first


@pytest.mark.parametrize("why", ["one line is short", "the cart has a new order"])
async def test_a_late_payment_is_refunded_once_where_its_order_cannot_be_restored(
    shop: Shop, stripe: StripeStandin, resources: Resources, why: str
) -> None:
    tent, mug = await shop.create_product(stock=9), await shop.create_product(stock=3)
    order_id, late_event = await create_late_payment(shop, stripe, (tent["id"], 2), (mug["id"], 3))
    if why == "one line is short":
        await remove_stock(shop, mug, 1)
    else:
        await shop.call("POST", f"/products/{mug['id']}/stock", 200, {"delta": 9, "reason": "delivery"})
        await shop.check_out((await shop.get_order(order_id))["cart_id"])
    before = [await shop.get_stock(product["id"]) for product in (tent, mug)]
    events = [late_event, late_event, *({**late_event, "id": f"evt_{number}"} for number in range(3))]

    outcomes = await asyncio.gather(*(deliver(shop, event) for event in events))

    assert sorted(outcomes) == ["duplicate", "late_money_refunded", *["unchanged"] * 3]
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUND_PENDING", 0)
    await assert_ledgers_agree(resources, stripe)

    await settle_by_many_workers(stripe, resources, order_id)
    await sweep.sweep(resources)
    total = (await shop.get_order(order_id))["total_minor"]
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", total)
    assert len(list(stripe.refunds)) == 1
    assert [await shop.get_stock(product["id"]) for product in (tent, mug)] == before
    timeline = (await shop.call("GET", f"/orders/{order_id}/timeline", 200))["items"]
    assert sum(e["note"] == "paid after it was cancelled: the payment is refunded" for e in timeline) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_as_many_late_payments_succeed_as_there_are_units(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=5)
    orders = [await create_late_payment(shop, stripe, (product["id"], 1)) for _ in range(5)]
    await remove_stock(shop, product, 3)

    async with database.transaction():
        await database.execute("SELECT FROM products FOR NO KEY UPDATE")
        deliveries = [asyncio.create_task(deliver(shop, event)) for _, event in orders]
        # Each has a snapshot that shows two units.
        await wait_for_blocked(database, 5)
    outcomes = await asyncio.gather(*deliveries)

    assert sorted(outcomes) == [*["applied"] * 2, *["late_money_refunded"] * 3]

    await sweep.sweep(resources)
    assert await shop.get_stock(product["id"]) == 0
    await assert_ledgers_agree(resources, stripe)


async def test_a_failed_refund_is_made_again_later_with_a_new_key(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """A refund fails three times, succeeds, and fails again after that."""
    product = await shop.create_product(stock=1)
    order_id, late_event = await create_late_payment(shop, stripe, (product["id"], 1))
    await remove_stock(shop, product, 1)
    await deliver(shop, late_event)
    stripe.refund_status = "pending"

    for failures in range(1, 4):
        # While Stripe shows no failure there is no second refund, however often it is settled.
        for _ in range(3):
            await refunds.settle(resources, UUID(order_id))
        assert len(list(stripe.refunds)) == failures
        assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUND_PENDING", 0)
        *_, newest = stripe.refunds
        stripe.set_refund(newest["id"], "failed")
        # Nor is there one at once after the failure.
        for _ in range(3):
            await refunds.settle(resources, UUID(order_id))
        assert len(list(stripe.refunds)) == failures
        await assert_ledgers_agree(resources, stripe)
        await make_everything_due(database)
        await sweep.sweep(resources)
        assert len(list(stripe.refunds)) == failures + 1

    *_, newest = stripe.refunds
    stripe.set_refund(newest["id"], "succeeded")
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 1250)

    # Stripe may report a failure even after a success.
    stripe.set_refund(newest["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUND_PENDING", 0)
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("seconds", [0, 2 * DAY])
async def test_a_refund_whose_answer_was_lost_is_made_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, seconds: int
) -> None:
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, ((await shop.create_product())["id"], 2))
    await request_refund(shop, order_id, amount_minor=1000)
    stripe.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/refunds", "times": 1}])

    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)

    # After a day Stripe has forgotten the key.
    stripe.advance_clock(seconds)
    await make_everything_due(database)
    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 1000)
    assert [refund["amount"] for refund in stripe.refunds] == [1000]
    await assert_ledgers_agree(resources, stripe)


async def test_a_refused_refund_stays_refused_after_stripe_forgets_its_key(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, order_id)
    # A refund in the dashboard makes Stripe refuse ours; then it fails, and Stripe forgets the key of ours.
    in_dashboard = await resources.stripe.create_refund(intent, 50, {}, "dashboard")
    await sweep.sweep(resources)
    stripe.set_refund(in_dashboard.id, "failed")
    stripe.advance_clock(2 * DAY)

    await refunds.settle(resources, UUID(order_id))

    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_whose_failure_stripe_replays_is_made_with_a_new_key(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=1)
    order_id, _ = await create_late_payment(shop, stripe, (product["id"], 1))
    await remove_stock(shop, product, 1)
    end_sessions(stripe)
    await reconcile.reconcile(resources)
    fault = {"action": "status", "method": "POST", "path": "/v1/refunds", "times": 1, "status": 500, "stored": True}
    stripe.set_faults([fault])

    for _ in range(3):
        await make_everything_due(database)
        await sweep.sweep(resources)

    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 1250)
    assert [refund["amount"] for refund in stripe.refunds] == [1250]
    await assert_ledgers_agree(resources, stripe)


class InterruptedStripe:
    """The Stripe client, which runs `interruption` between listing an order's refunds and creating one."""

    def __init__(self, client: Stripe, interruption: Callable[[], Awaitable[None]]) -> None:
        self.client = client
        self.interruption = interruption

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def create_refund(self, *arguments: Any, **options: Any) -> Any:
        await self.interruption()
        return await self.client.create_refund(*arguments, **options)


@pytest.mark.parametrize("cause", ["staff", "late payment"])
async def test_a_replayed_failure_is_checked_against_a_newer_list_of_refunds(
    shop: Shop, stripe: StripeStandin, resources: Resources, cause: str
) -> None:
    """A replayed failure is checked against a new list of refunds.

    Between one worker's list and its refund, another worker makes the refund and gets an error for it. Stripe replays
    this error to the first worker, whose list is older than the refund.
    """
    product = await shop.create_product(stock=1)
    if cause == "staff":
        order_id, _ = await create_fulfilled_order(shop, stripe, resources, (product["id"], 1))
        await request_refund(shop, order_id)
    else:
        order_id, late_event = await create_late_payment(shop, stripe, (product["id"], 1))
        await remove_stock(shop, product, 1)
        assert await deliver(shop, late_event) == "late_money_refunded"
    stripe.set_faults([{"action": "status_after", "method": "POST", "path": "/v1/refunds", "times": 1}])

    async def other_worker() -> None:
        with pytest.raises(StripeUnknown):
            await refunds.settle(resources, UUID(order_id))

    interrupted = InterruptedStripe(resources.stripe, other_worker)
    await refunds.settle(replace(resources, stripe=interrupted), UUID(order_id))  # type: ignore[arg-type]

    assert (await shop.get_order_state(order_id))[1:] == ("REFUNDED", 1250)
    assert len(list(stripe.refunds)) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_refunds_are_recorded_though_another_one_cannot_be_created(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    await resources.stripe.create_refund(intent, 1000, {}, "dashboard")
    await request_refund(shop, order_id, amount_minor=100)
    # A restricted API key that may read refunds but not create them.
    stripe.set_faults([{"action": "status", "method": "POST", "path": "/v1/refunds", "status": 403}])

    with pytest.raises(StripeUnknown):
        await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 1000)

    stripe.set_faults([])
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 1100)
    await assert_ledgers_agree(resources, stripe)


async def test_failed_refunds_of_a_cancelled_order_are_made_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, _ = await create_paid_order(shop, stripe)
    await request_refund(shop, order_id, amount_minor=450)
    await request_refund(shop, order_id, amount_minor=800)

    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 1250)

    for refund in list(stripe.refunds):
        stripe.set_refund(refund["id"], "failed")
        await refunds.settle(resources, UUID(order_id))
        await assert_ledgers_agree(resources, stripe)
        await make_everything_due(database)
        await sweep.sweep(resources)
        assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 1250)
    await assert_ledgers_agree(resources, stripe)


async def test_a_second_payment_of_an_order_is_refunded_though_a_refund_fails(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Another session pays for the same order: its payment is refunded, a second time after the first refund failed."""
    order_id, _ = await create_paid_order(shop, stripe)
    other = await shop.checked_out_cart()
    session = stripe.session(other["payment"]["stripe_session_id"])
    for metadata in (session["metadata"], session["_intent_metadata"]):
        metadata["order_id"] = order_id
    second = make_event(COMPLETED, stripe.pay(session["id"]))
    await shop.call("POST", f"/orders/{order_id}/cancel", 409)

    outcomes = [await deliver(shop, event) for event in (second, {**second, "id": "evt_other"})]
    assert outcomes == ["paid_twice", "paid_twice"]

    stripe.refund_status = "pending"
    await refunds.settle(resources, UUID(order_id))
    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    stripe.refund_status = "succeeded"
    await refunds.settle(resources, UUID(order_id))
    await make_everything_due(database)
    await sweep.sweep(resources)
    assert [r["status"] for r in stripe.refunds] == ["failed", "succeeded"]
    assert {r["payment_intent"] for r in stripe.refunds} == {session["payment_intent"]}
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await assert_ledgers_agree(resources, stripe)


# By staff


async def test_a_full_refund_before_fulfilment_cancels_the_order_and_restocks(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=2)
    order_id, intent = await create_paid_order(shop, stripe, (product["id"], 2))

    answer = await request_refund(shop, order_id)
    assert (answer["status"], answer["payment"]["status"]) == ("PAID", "REFUND_PENDING")

    await fulfilment.fulfil(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("PAID", "REFUND_PENDING", 0), (
        "an order being refunded is not fulfilled"
    )
    await assert_ledgers_agree(resources, stripe)

    await settle_by_many_workers(stripe, resources, order_id)
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 2500)
    assert await shop.get_stock(product["id"]) == 2
    assert (await shop.call("GET", f"/carts/{answer['cart_id']}", 200))["status"] == "OPEN"
    assert [r["amount"] for r in stripe.refunds] == [2500]

    # The payment's event, delivered again, does not revive the order.
    session = next(s for s in stripe.sessions if s["payment_intent"] == intent)
    assert await deliver(shop, make_event(COMPLETED, session)) == "unchanged"
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 2500)
    await assert_ledgers_agree(resources, stripe)


async def test_an_order_whose_full_refund_failed_is_fulfilled(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=1)
    order_id, _ = await create_paid_order(shop, stripe, (product["id"], 1))
    await request_refund(shop, order_id)
    stripe.refund_status = "pending"

    for _ in range(3):
        await make_everything_due(database)
        await sweep.sweep(resources)
        assert await shop.get_order_state(order_id) == ("PAID", "REFUND_PENDING", 0)

    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("PAID", "SUCCEEDED", 0)

    # The order is due at once, though the sweep has deferred it several times.
    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
    assert await shop.get_stock(product["id"]) == 0
    await assert_ledgers_agree(resources, stripe)


async def test_a_fulfilled_order_is_refunded_in_several_amounts(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=2)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (product["id"], 2))

    for amount, refunded in ((400, 400), (100, 500)):
        await request_refund(shop, order_id, amount_minor=amount)
        await refunds.settle(resources, UUID(order_id))
        assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", refunded)
        await assert_ledgers_agree(resources, stripe)

    assert (await request_refund(shop, order_id, 409, amount_minor=2001))["refundable_minor"] == 2000
    await request_refund(shop, order_id, 422, amount_minor=100, restock=True)

    await request_refund(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUNDED", 2500)
    assert await shop.get_stock(product["id"]) == 0, "a refund without restock returns no units"
    assert (await request_refund(shop, order_id, 409))["code"] == "order_not_refundable"
    assert [r["amount"] for r in stripe.refunds] == [400, 100, 2000]
    await assert_ledgers_agree(resources, stripe)


async def test_a_restock_returns_the_units_once_though_the_refund_fails(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=2)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (product["id"], 2))

    for attempt in range(2):
        await request_refund(shop, order_id, restock=True)
        assert await shop.get_stock(product["id"]) == (2 if attempt else 0)
        await refunds.settle(resources, UUID(order_id))
        assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUNDED", 2500)
        assert await shop.get_stock(product["id"]) == 2
        await assert_ledgers_agree(resources, stripe)
        if attempt == 0:
            (refund,) = stripe.refunds
            stripe.set_refund(refund["id"], "failed")
            await refunds.settle(resources, UUID(order_id))
            assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
            await assert_ledgers_agree(resources, stripe)


async def test_concurrent_refunds_never_exceed_what_was_paid(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, _ = await create_fulfilled_order(
        shop, stripe, resources, ((await shop.create_product(price_minor=1000))["id"], 1)
    )
    requests = [shop.http.post(f"/orders/{order_id}/refund", json={"amount_minor": 400}) for _ in range(8)]
    requests += [shop.http.post(f"/orders/{order_id}/refund") for _ in range(2)]

    answers = await asyncio.gather(*requests)

    assert {answer.status_code for answer in answers} == {200, 409}
    await settle_by_many_workers(stripe, resources, order_id)
    granted = await on(resources.pool).fetchval("SELECT sum(amount_minor) FROM refunds")
    assert granted <= 1000
    assert sum(refund["amount"] for refund in stripe.refunds) == granted
    await assert_ledgers_agree(resources, stripe)


async def test_an_unpaid_order_cannot_be_refunded(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    product = await shop.create_product()
    placed_order = await shop.checked_out_cart((product["id"], 1))

    for _ in range(2):
        answer = await request_refund(shop, placed_order["order_id"], 409)
        assert (answer["code"], answer["refundable_minor"]) == ("order_not_refundable", 0)
        await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)

    await request_refund(shop, str(uuid4()), 404)

    assert list(stripe.refunds) == []
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_with_a_key_is_made_once_by_many_workers(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, _ = await create_fulfilled_order(shop, stripe, resources)
    path, body = f"/orders/{order_id}/refund", {"amount_minor": 500}

    first = await shop.call("POST", path, 200, body, Idempotency_Key="one")
    assert await shop.call("POST", path, 200, body, Idempotency_Key="one") == first

    await settle_by_many_workers(stripe, resources, order_id)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 500)
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_that_stripe_refuses_leaves_the_order_refundable(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, order_id)
    # A partial refund in the dashboard came first.
    await resources.stripe.create_refund(intent, 50, {}, "dashboard")

    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 50)

    await request_refund(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUNDED", 1250)
    await assert_ledgers_agree(resources, stripe)


# By line


async def create_two_lines(shop: Shop) -> tuple[dict[str, Any], dict[str, Any]]:
    return await shop.create_product(stock=3, price_minor=1000), await shop.create_product(stock=2, price_minor=300)


def line(product: dict[str, Any], quantity: int, **more: Any) -> dict[str, Any]:
    return {"product_id": product["id"], "quantity": quantity, **more}


async def get_stocks(shop: Shop, *products: dict[str, Any]) -> list[int]:
    return [await shop.get_stock(product["id"]) for product in products]


async def test_a_refund_by_line_costs_its_units_and_returns_those_to_restock(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"price_minor": 5})

    answer = await request_refund(shop, order_id, items=[line(tent, 2, restock=True), line(mug, 1)], reason="broken")
    assert await get_stocks(shop, tent, mug) == [0, 0], "units return once Stripe shows the refund as succeeded"
    await refunds.settle(resources, UUID(order_id))

    (refund,) = answer["refunds"]
    assert (refund["amount_minor"], refund["reason"]) == (2300, "broken")
    assert refund["items"] == [line(tent, 2, restock=True), line(mug, 1, restock=False)]
    assert (await shop.get_order(order_id))["refunds"] == [{**refund, "status": "SUCCEEDED"}]
    notes = [event["note"] for event in (await shop.call("GET", f"/orders/{order_id}/timeline", 200))["items"]]
    assert f"refund of 2 × product {tent['id']}, 1 × product {mug['id']} for 2300 requested" in notes
    assert [r["amount"] for r in stripe.refunds] == [2300]
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 2300)
    assert await get_stocks(shop, tent, mug) == [2, 0]
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_by_line_is_never_more_than_what_is_left(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    """Units that other refunds name are gone, and money that was refunded by amount."""
    tent, mug = await create_two_lines(shop)
    other = await shop.create_product()
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))

    async def refusal(*items: dict[str, Any]) -> tuple[int, int, int]:
        problem = await request_refund(shop, order_id, 409, items=list(items))
        assert problem["code"] == "order_not_refundable"
        return problem["refundable_minor"], problem["product_id"], problem["refundable_quantity"]

    assert await refusal(line(mug, 1), line(tent, 4)) == (3600, tent["id"], 3)
    assert await refusal(line(other, 1)) == (3600, other["id"], 0)
    await request_refund(shop, order_id, items=[line(mug, 1)])
    assert await refusal(line(mug, 2)) == (3300, mug["id"], 1)
    # An amount names no units. It leaves the money for two tents.
    await request_refund(shop, order_id, amount_minor=1200)
    assert await refusal(line(tent, 3)) == (2100, tent["id"], 2)
    assert await refusal(line(tent, 2), line(mug, 1)) == (2100, mug["id"], 0)
    await request_refund(shop, order_id, items=[line(tent, 2)])
    await refunds.settle(resources, UUID(order_id))
    assert await refusal(line(mug, 1)) == (100, mug["id"], 0)

    await request_refund(shop, order_id)
    assert await refusal(line(mug, 1)) == (0, mug["id"], 0)
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUNDED", 3600)
    await assert_ledgers_agree(resources, stripe)


async def test_refunds_of_all_lines_before_fulfilment_cancel_the_order_and_return_each_unit_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """One line is back by its own refund, the other without restock: the cancel returns the rest.

    Then a refund fails, and is made again with its lines. No unit returns a second time.
    """
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_paid_order(shop, stripe, (tent["id"], 3), (mug["id"], 2))

    for items, stocks in (([line(tent, 2, restock=True)], [2, 0]), ([line(mug, 2)], [2, 0]), ([line(tent, 1)], [3, 2])):
        await request_refund(shop, order_id, items=items)
        await refunds.settle(resources, UUID(order_id))
        assert await get_stocks(shop, tent, mug) == stocks
        await assert_ledgers_agree(resources, stripe)
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 3600)

    for refund in list(stripe.refunds):
        stripe.set_refund(refund["id"], "failed")
        await refunds.settle(resources, UUID(order_id))
        await make_everything_due(database)
        await sweep.sweep(resources)
        await assert_ledgers_agree(resources, stripe)
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 3600)
    again = [refund["items"] for refund in (await shop.get_order(order_id))["refunds"][3:]]
    assert again == [[line(tent, 2, restock=True)], [line(mug, 2, restock=False)], [line(tent, 1, restock=False)]]
    assert await get_stocks(shop, tent, mug) == [3, 2]


async def test_a_refund_by_line_that_fails_after_its_units_are_back_returns_them_once(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))

    async def refund(quantity: int, stock: int) -> None:
        await request_refund(shop, order_id, items=[line(tent, quantity, restock=True)])
        await refunds.settle(resources, UUID(order_id))
        assert await shop.get_stock(tent["id"]) == stock
        await assert_ledgers_agree(resources, stripe)

    await refund(1, 1)
    (failed,) = stripe.refunds
    stripe.set_refund(failed["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    # The unit that is back counts for the first of the next ones.
    await refund(1, 1)
    await refund(2, 3)
    await request_refund(shop, order_id, 409, items=[line(tent, 1)])


async def test_two_refunds_that_succeed_together_return_the_units_of_both(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    await request_refund(shop, order_id, items=[line(tent, 1, restock=True), line(mug, 2, restock=True)])
    await request_refund(shop, order_id, items=[line(tent, 2, restock=True)])

    await settle_by_many_workers(stripe, resources, order_id)

    assert await get_stocks(shop, tent, mug) == [3, 2]
    await assert_ledgers_agree(resources, stripe)


async def test_a_restock_of_the_rest_returns_what_no_line_keeps_and_is_not_back(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    await request_refund(shop, order_id, items=[line(tent, 1, restock=True), line(mug, 1)])
    await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [1, 0]

    await request_refund(shop, order_id, restock=True)
    await refunds.settle(resources, UUID(order_id))

    # One mug was refunded and did not come back.
    assert await get_stocks(shop, tent, mug) == [3, 1]
    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUNDED", 3600)
    await assert_ledgers_agree(resources, stripe)


async def test_a_settle_that_returns_no_units_locks_no_product(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """While somebody edits the products of an order whose units are back, its refunds are settled."""
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    for body in ({"items": [line(tent, 1, restock=True)]}, {"restock": True}):
        await request_refund(shop, order_id, **body)
        await refunds.settle(resources, UUID(order_id))
        async with database.transaction():
            await database.execute("SELECT FROM products FOR NO KEY UPDATE")
            await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [3, 2]


async def test_units_return_with_their_own_refund(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    await request_refund(shop, order_id, items=[line(tent, 1, restock=True)])
    await refunds.settle(resources, UUID(order_id))
    stripe.refund_status = "pending"

    await request_refund(shop, order_id, items=[line(tent, 2, restock=True)])
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_stock(tent["id"]) == 1
    await assert_ledgers_agree(resources, stripe)

    *_, newest = stripe.refunds
    stripe.set_refund(newest["id"], "succeeded")
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_stock(tent["id"]) == 3
    await assert_ledgers_agree(resources, stripe)


async def test_a_restock_of_the_rest_waits_for_the_whole_refund_of_a_paid_order(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    """The refund of the rest succeeds, and an earlier one fails: the order is fulfilled, so its units are sold."""
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_paid_order(shop, stripe, (tent["id"], 3), (mug["id"], 2))
    stripe.refund_status = "pending"
    await request_refund(shop, order_id, amount_minor=100)
    await refunds.settle(resources, UUID(order_id))
    stripe.refund_status = "succeeded"
    await request_refund(shop, order_id, restock=True)
    await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [0, 0]

    pending, _ = stripe.refunds
    stripe.set_refund(pending["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    await fulfilment.fulfil(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 3500)
    await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [0, 0]
    await assert_ledgers_agree(resources, stripe)

    await request_refund(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [3, 2]
    await assert_ledgers_agree(resources, stripe)


async def test_a_restock_of_the_rest_of_a_fulfilled_order_waits_for_no_other_refund(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    stripe.refund_status = "pending"
    await request_refund(shop, order_id, amount_minor=100)
    await refunds.settle(resources, UUID(order_id))
    stripe.refund_status = "succeeded"
    await request_refund(shop, order_id, restock=True)
    await refunds.settle(resources, UUID(order_id))

    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUND_PENDING", 3500)
    assert await get_stocks(shop, tent, mug) == [3, 2]
    await assert_ledgers_agree(resources, stripe)


async def test_a_restock_of_the_rest_that_succeeds_after_the_order_was_fulfilled_returns_nothing(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """A line's refund fails while that of the rest is pending. A unit that returns nevertheless is found by the audit.

    So it stays once the refund of the whole payment has returned the units and fails.
    """
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_paid_order(shop, stripe, (tent["id"], 3), (mug["id"], 2))
    stripe.refund_status = "pending"
    for body in ({"items": [line(tent, 1)]}, {"restock": True}):
        await request_refund(shop, order_id, **body)
        await refunds.settle(resources, UUID(order_id))
    of_line, of_rest = stripe.refunds

    stripe.set_refund(of_line["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    await fulfilment.fulfil(resources, UUID(order_id))
    stripe.set_refund(of_rest["id"], "succeeded")
    await refunds.settle(resources, UUID(order_id))

    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 2600)
    assert await get_stocks(shop, tent, mug) == [0, 0]
    await assert_ledgers_agree(resources, stripe)
    async with database.transaction():
        await database.execute(
            "INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)"
            " SELECT $1, 1, 'refund:' || id, order_id, 1 FROM refunds WHERE restock",
            tent["id"],
        )
        await database.execute("UPDATE products SET stock = stock + 1 WHERE id = $1", tent["id"])
    assert [violation.subject for violation in (await audit.audit(resources.pool))["audit/units_add_up"]]
    await database.execute("DELETE FROM stock_movements WHERE reason LIKE 'refund:%'")
    await database.execute("UPDATE products SET stock = stock - 1 WHERE id = $1", tent["id"])

    stripe.refund_status = "succeeded"
    await request_refund(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await get_stocks(shop, tent, mug) == [3, 2]
    stripe.set_refund(of_rest["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 1000)
    assert await get_stocks(shop, tent, mug) == [3, 2]
    await assert_ledgers_agree(resources, stripe)


async def test_only_the_lines_of_a_refund_that_has_just_failed_are_refunded_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """A refund by line fails while the order is live. All that is left is then refunded by amount, which fails too."""
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_paid_order(shop, stripe, (tent["id"], 3), (mug["id"], 2))
    for body in ({"items": [line(tent, 1)]}, {}):
        await request_refund(shop, order_id, **body)
        await refunds.settle(resources, UUID(order_id))
        *_, newest = stripe.refunds
        if body or await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 3600):
            stripe.set_refund(newest["id"], "failed")
        await refunds.settle(resources, UUID(order_id))

    await make_everything_due(database)
    await sweep.sweep(resources)

    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 3600)
    shown = [(refund["amount_minor"], len(refund["items"])) for refund in (await shop.get_order(order_id))["refunds"]]
    assert shown == [(1000, 1), (3600, 0), (3600, 0)]
    await assert_ledgers_agree(resources, stripe)


async def test_lines_whose_money_went_back_in_the_dashboard_are_not_refunded_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, intent = await create_paid_order(shop, stripe, (tent["id"], 3), (mug["id"], 2))
    await request_refund(shop, order_id, items=[line(tent, 3), line(mug, 2)])
    await refunds.settle(resources, UUID(order_id))
    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    await resources.stripe.create_refund(intent, 100, {}, "dashboard")

    for _ in range(2):
        await make_everything_due(database)
        await sweep.sweep(resources)

    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 3600)
    shown = (await shop.get_order(order_id))["refunds"]
    assert sorted((r["status"], r["amount_minor"], len(r["items"])) for r in shown) == [
        ("FAILED", 3600, 2),
        ("FAILED", 3600, 2),
        ("SUCCEEDED", 100, 0),
        ("SUCCEEDED", 3500, 0),
    ]
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_has_one_form(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    tent, mug = await create_two_lines(shop)
    order_id, _ = await create_fulfilled_order(shop, stripe, resources, (tent["id"], 3), (mug["id"], 2))
    one = [line(tent, 1)]
    for body, pointer in (
        ({"items": []}, "/items"),
        ({"items": None}, "/items"),
        ({"items": one, "amount_minor": 1000}, "/items"),
        ({"items": one, "restock": True}, "/items"),
        ({"items": one + one}, "/items"),
        ({"items": [line(tent, 0)]}, "/items/0/quantity"),
        ({"items": [line(tent, 10_000)]}, "/items/0/quantity"),
        ({"items": [*one, line(mug, 1, restock=1)]}, "/items/1/restock"),
        ({"items": [{"quantity": 1}]}, "/items/0/product_id"),
        ({"items": [{"product_id": 2**63, "quantity": 1}]}, "/items/0/product_id"),
    ):
        problem = await request_refund(shop, order_id, 422, **body)
        assert [error["pointer"] for error in problem["errors"]] == [pointer], body
    assert (await shop.get_order(order_id))["refunds"] == []


async def test_concurrent_refunds_of_one_line_never_exceed_its_units(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    """Eight refunds of one line; then lines beside amounts, for another order of the same products."""
    tent, mug = (
        await shop.create_product(stock=9, price_minor=1000),
        await shop.create_product(stock=9, price_minor=300),
    )
    for amounts, quantity in ((0, 1), (4, 1), (4, 2)):
        lines = ((tent["id"], 3), (mug["id"], 3))
        order_id, _ = await create_fulfilled_order(shop, stripe, resources, *lines)
        bodies: list[dict[str, Any]] = [{"items": [line(tent, quantity, restock=True)]} for _ in range(8)]
        bodies += [{"amount_minor": 1300} for _ in range(amounts)] + [{"items": [line(mug, 3)]}] * bool(amounts)
        random.shuffle(bodies)

        answers = await asyncio.gather(*(shop.http.post(f"/orders/{order_id}/refund", json=body) for body in bodies))

        assert {answer.status_code for answer in answers} == {200, 409}
        await settle_by_many_workers(stripe, resources, order_id)
        rows = await on(resources.pool).fetch(
            "SELECT amount_minor, coalesce(sum(quantity) FILTER (WHERE product_id = $2), 0) AS tents FROM refunds"
            " LEFT JOIN refund_items ON id = refund_id WHERE order_id = $1 GROUP BY id",
            UUID(order_id),
            tent["id"],
        )
        assert sum(row["amount_minor"] for row in rows) <= 3900
        tents = sum(row["tents"] for row in rows)
        assert tents <= 3
        assert amounts or tents == 3, "as many as there are"
        await assert_ledgers_agree(resources, stripe)


# Concurrent with fulfilment


async def test_a_full_refund_may_run_concurrently_with_fulfilment(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=12)
    orders = [(await create_paid_order(shop, stripe, (product["id"], 1)))[0] for _ in range(12)]

    async def race(order_id: str) -> None:
        rivals = [fulfilment.fulfil(resources, UUID(order_id)), request_refund(shop, order_id)]
        random.shuffle(rivals)
        await asyncio.gather(*rivals, fulfilment.fulfil(resources, UUID(order_id)))
        await asyncio.gather(fulfilment.fulfil(resources, UUID(order_id)), refunds.settle(resources, UUID(order_id)))

    await asyncio.gather(*(race(order_id) for order_id in orders))

    final_states = [await shop.get_order_state(order_id) for order_id in orders]
    assert {state[1:] for state in final_states} == {("REFUNDED", 1250)}
    assert await shop.get_stock(product["id"]) == sum(state[0] == "CANCELLED" for state in final_states)
    await assert_ledgers_agree(resources, stripe)


# In the dashboard


async def test_a_refund_in_the_dashboard_is_settled_before_fulfilment(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=2)

    for amount, state in ((1250, ("CANCELLED", "REFUNDED", 1250)), (1000, ("FULFILLED", "SUCCEEDED", 1000))):
        order_id, intent = await create_paid_order(shop, stripe, (product["id"], 1))
        await resources.stripe.create_refund(intent, amount, {}, f"dashboard {amount}")
        assert await deliver(shop, last_event(stripe, "charge.refunded")) == "refund_to_settle"
        await fulfilment.fulfil(resources, UUID(order_id))
        assert (await shop.get_order_state(order_id))[0] == "PAID", "the refund that Stripe reported is settled first"
        for _ in range(2):
            await make_everything_due(database)
            await sweep.sweep(resources)
        assert await shop.get_order_state(order_id) == state
        await assert_ledgers_agree(resources, stripe)

    assert await shop.get_stock(product["id"]) == 1


async def test_staff_see_who_decided_each_refund(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, order_id, amount_minor=50)
    await resources.stripe.create_refund(intent, 70, {}, "dashboard")
    await refunds.settle(resources, UUID(order_id))

    shown = (await shop.get_order(order_id))["refunds"]
    # Under another name the demo is not open.
    to_others = (await shop.http.get(f"/orders/{order_id}", headers={"Host": "evil.example"})).json()["refunds"]

    assert [(refund["amount_minor"], refund["actor"]) for refund in shown] == [(50, "open"), (70, "stripe")]
    assert [refund.keys() & {"actor", "reason"} for refund in to_others] == [set(), set()]


async def test_a_payment_known_only_by_its_refund_is_not_fulfilled(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")
    await deliver(shop, last_event(stripe, "refund.created"))
    stripe.set_faults([{"action": "drop", "method": "GET", "path": "/v1/refunds"}])
    await sweep.sweep(resources)

    await fulfilment.fulfil(resources, UUID(placed_order["order_id"]))
    assert await shop.get_order_state(placed_order["order_id"]) == ("PAID", "SUCCEEDED", 0)

    stripe.set_faults([])
    await make_everything_due(database)
    await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1250)
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("kind", ["refund.created", "charge.refunded"])
async def test_a_refund_event_before_its_payment_event_is_settled_before_fulfilment(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, kind: str
) -> None:
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")

    assert await deliver(shop, last_event(stripe, kind)) == "refund_to_settle"
    assert await deliver(shop, make_event(COMPLETED, session)) == "applied"

    # The payment has queued a job, which runs before the sweep.
    await fulfilment.fulfil(resources, UUID(placed_order["order_id"]))
    assert await shop.get_order_state(placed_order["order_id"]) == ("PAID", "SUCCEEDED", 0)

    await make_everything_due(database)
    await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1250)
    assert await shop.get_stock(product["id"]) == 1
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("amounts", [(1250,), (300, 950), (300,)])
async def test_refunds_in_the_dashboard_are_recorded_in_any_order_of_events(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, amounts: tuple[int, ...]
) -> None:
    """The payment's event comes at every position among the shuffled events of the refunds."""
    whole = sum(amounts) == 1250
    for position in range(2 * len(amounts) + 1):
        product = await shop.create_product(stock=1)
        placed_order = await shop.checked_out_cart((product["id"], 1))
        session = stripe.pay(placed_order["payment"]["stripe_session_id"])
        events = []
        for amount in amounts:
            await resources.stripe.create_refund(session["payment_intent"], amount, {}, uuid4().hex)
            events += [last_event(stripe, kind) for kind in ("refund.created", "charge.refunded")]
        random.shuffle(events)
        events.insert(position, make_event(COMPLETED, session))

        for event in events:
            await asyncio.gather(deliver(shop, event), deliver(shop, event))
            await make_everything_due(database)
            await sweep.sweep(resources)
        await make_everything_due(database)
        await sweep.sweep(resources)

        order = await shop.get_order(placed_order["order_id"])
        assert order["payment"]["refunded_minor"] == sum(amounts)
        assert order["payment"]["status"] == ("REFUNDED" if whole else "SUCCEEDED")
        assert order["status"] in (("FULFILLED", "CANCELLED") if whole else ("FULFILLED",))
        if position and whole and len(amounts) == 1:
            assert order["status"] == "CANCELLED", "the refund was known before the payment"
        assert await shop.get_stock(product["id"]) == (order["status"] == "CANCELLED")

    await assert_ledgers_agree(resources, stripe)


async def test_a_pending_refund_in_the_dashboard_may_fail_later(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    stripe.refund_status = "pending"
    await resources.stripe.create_refund(intent, 1250, {}, "dashboard")
    (refund,) = stripe.refunds
    event = last_event(stripe, "refund.created")

    assert await deliver(shop, event) == "refund_to_settle"
    assert await webhooks.process_stored_event(resources, event["id"]) == "applied"
    assert await shop.get_order_state(order_id) == ("FULFILLED", "REFUND_PENDING", 0)
    assert (await request_refund(shop, order_id, 409))["code"] == "order_not_refundable"

    stripe.set_refund(refund["id"], "failed")
    await deliver(shop, last_event(stripe, "refund.failed"))
    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await assert_ledgers_agree(resources, stripe)


async def test_an_older_list_of_refunds_does_not_undo_a_newer_one(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    row = await database.fetchrow("SELECT id, stripe_refund_id FROM refunds")

    async def record(status: str) -> str:
        refund = {"refund_id": row["id"], "order_id": UUID(order_id), "stripe_payment_intent_id": intent}
        refund |= {"amount_minor": 1250, "status": status, "stripe_refund_id": row["stripe_refund_id"]}
        refund |= {"failure_reason": "declined" if status == "FAILED" else None}
        await run_transaction(resources.pool, lambda tx: refunds.RECORD_REFUND.run(tx, **refund))
        return str(await database.fetchval("SELECT status FROM refunds"))

    assert await record("PENDING") == "SUCCEEDED"
    assert await record("FAILED") == "FAILED"
    assert [await record(status) for status in ("PENDING", "SUCCEEDED")] == ["FAILED", "FAILED"]


async def test_refunds_of_other_shops_on_the_account_are_left_alone(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Refunds of payments whose order is unknown or not an order id, and of payments without an order or intent."""
    placed_order = await shop.checked_out_cart()
    session = stripe.session(placed_order["payment"]["stripe_session_id"])

    for number, order_id in enumerate((str(uuid4()), "17", None)):
        for metadata in (session["metadata"], session["_intent_metadata"]):
            metadata.clear()
            metadata.update({"order_id": order_id} if order_id else {})
        if number == 0:
            intent = stripe.pay(session["id"])["payment_intent"]
        stripe.intent(intent)["metadata"] = dict(session["metadata"])
        await resources.stripe.create_refund(intent, 100, {}, f"dashboard {number}")
        event = last_event(stripe, "refund.created")
        outcome = "not_ours" if number else "order_not_found"
        assert await deliver(shop, event) == "refund_to_settle"
        assert await webhooks.process_stored_event(resources, event["id"]) == outcome

    for subject in ({"id": "re_1"}, {"id": "re_2", "payment_intent": "pi_unknown"}):
        event = make_event("refund.updated", subject)
        await deliver(shop, event)
        assert await webhooks.process_stored_event(resources, event["id"]) == "not_ours"

    assert await database.fetchval("SELECT count(*) FROM stripe_events WHERE handled_at IS NULL") == 0
    assert await database.fetchval("SELECT count(*) FROM refunds") == 0
