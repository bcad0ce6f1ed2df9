"""Payments that match no order: what Stripe captured is refunded once, and a warning is logged."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop import expiry, reconcile, refunds, sweep
from service.shop.audit import audit
from tests.client import Shop
from tests.database import end_hold, make_everything_due
from tests.stripe_events import deliver, end_sessions, last_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
RULE = "audit/unmatched_payments_are_refunded"
WARNING = "payment does not match its order"
# Changes of the session at Stripe; its order is over 12.50 EUR.
AMOUNTS: dict[str, dict[str, Any]] = {
    "more": {"amount_total": 1490},
    "less": {"amount_total": 1},
    "another currency": {"currency": "usd"},
}
each_amount = pytest.mark.parametrize("amount", AMOUNTS)

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def check_out_mismatch(shop: Shop, stripe: StripeStandin, amount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check out a product's only unit; the order, and its session, which has another amount or currency."""
    placed_order = await shop.checked_out_cart(((await shop.create_product(stock=1))["id"], 1))
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    session.update(AMOUNTS[amount])
    return placed_order, session


async def pay_twice(shop: Shop, stripe: StripeStandin, amount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A paid order, and a second session of it that was paid with another amount or currency."""
    first = await shop.checked_out_cart()
    stripe.pay(first["payment"]["stripe_session_id"])
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "applied"
    _, second = await check_out_mismatch(shop, stripe, amount)
    for metadata in (second["metadata"], second["_intent_metadata"]):
        metadata["order_id"] = first["order_id"]
    stripe.pay(second["id"])
    return first, second


def warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == WARNING]


# The ways in which the service learns of such a payment.
Learn = Callable[[Shop, StripeStandin, Resources, asyncpg.Connection, dict[str, Any]], Awaitable[None]]


async def by_event(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    assert await shop.get_order_state(placed_order["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0), (
        "an event's body decides nothing"
    )
    await sweep.sweep(resources)


async def by_events_at_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    event = last_event(stripe, COMPLETED)
    for number in range(5):
        assert await deliver(shop, {**event, "id": f"evt_{number}"}) == "mismatch"
    await asyncio.gather(*(sweep.sweep(resources) for _ in range(3)), reconcile.reconcile(resources))


async def by_the_end_of_the_hold(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    await end_hold(database, placed_order["order_id"])
    await sweep.sweep(resources)


async def by_its_job(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    await end_hold(database, placed_order["order_id"])
    await expiry.expire(resources, UUID(placed_order["order_id"]))


async def by_the_list(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    end_sessions(stripe)
    assert await reconcile.settle_sessions(resources) == 1


async def by_cancelling(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed_order: dict[str, Any]
) -> None:
    await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)


@each_amount
@pytest.mark.parametrize(
    "learn",
    [by_event, by_events_at_once, by_the_end_of_the_hold, by_its_job, by_the_list, by_cancelling],
    ids=lambda learn: learn.__name__,
)
async def test_a_mismatched_payment_is_refunded_once_however_it_is_learned(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    amount: str,
    learn: Learn,
) -> None:
    """A paid session of another amount or currency, learned in six ways.

    The order is cancelled, its units are released, a warning is logged and the audit reports the payment until the
    sweep has refunded it. Learning of it again changes nothing.
    """
    placed_order, session = await check_out_mismatch(shop, stripe, amount)
    stripe.pay(session["id"])
    captured, currency = session["amount_total"], session["currency"].upper()

    await learn(shop, stripe, resources, database, placed_order)

    order_id = placed_order["order_id"]
    order = await shop.get_order(order_id)
    assert (order["status"], order["payment"]["status"]) == ("CANCELLED", "REFUND_PENDING")
    assert await shop.get_stock(order["items"][0]["product_id"]) == 1
    assert (await shop.call("GET", f"/carts/{order['cart_id']}", 200))["status"] == "OPEN"
    (violation,) = (await audit(resources.pool))[RULE]
    assert violation.subject == f"order {order_id}"
    warning = warnings(caplog)[0]
    assert warning["levelno"] == logging.WARNING
    assert (warning["order_id"], warning["payment_intent"]) == (order_id, session["payment_intent"])
    assert (warning["captured_minor"], warning["currency"]) == (captured, currency)

    await make_everything_due(database)
    await sweep.sweep(resources)
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", captured)
    assert [refund["amount"] for refund in stripe.refunds] == [captured]
    await assert_ledgers_agree(resources, stripe)

    assert await deliver(shop, {**last_event(stripe, COMPLETED), "id": "evt_again"}) == "unchanged"
    await sweep.sweep(resources)
    assert len(list(stripe.refunds)) == 1


@each_amount
async def test_a_late_payment_of_another_amount_is_refunded(
    shop: Shop, stripe: StripeStandin, resources: Resources, amount: str
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, amount)
    await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)
    session["status"] = "open"
    stripe.pay(session["id"])

    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", session["amount_total"])
    await assert_ledgers_agree(resources, stripe)


@each_amount
async def test_a_second_payment_of_another_amount_is_refunded_and_the_order_stays(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, amount: str
) -> None:
    first, second = await pay_twice(shop, stripe, amount)

    event = last_event(stripe, COMPLETED, second["id"])
    for number in range(2):
        assert await deliver(shop, {**event, "id": f"evt_{number}"}) == "mismatch"
        await sweep.sweep(resources)
    await make_everything_due(database)
    await sweep.sweep(resources)

    (refund,) = stripe.refunds
    assert (refund["payment_intent"], refund["amount"]) == (second["payment_intent"], second["amount_total"])
    assert await shop.get_order_state(first["order_id"]) == ("FULFILLED", "SUCCEEDED", 0)


@pytest.mark.parametrize("in_dashboard", [400, 1490])
async def test_an_amount_refunded_in_the_dashboard_is_not_refunded_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, in_dashboard: int
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    await resources.stripe.create_refund(session["payment_intent"], in_dashboard, {}, "dashboard")

    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert sorted(r["amount"] for r in stripe.refunds) == sorted({in_dashboard, 1490 - in_dashboard} - {0})
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await assert_ledgers_agree(resources, stripe)


async def test_a_failed_refund_of_a_mismatched_payment_is_made_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    stripe.refund_status = "pending"
    await sweep.sweep(resources)
    await refunds.settle(resources, UUID(placed_order["order_id"]))
    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    stripe.refund_status = "succeeded"
    await refunds.settle(resources, UUID(placed_order["order_id"]))
    assert (await audit(resources.pool))[RULE]

    await make_everything_due(database)
    await sweep.sweep(resources)

    assert [(r["amount"], r["status"]) for r in stripe.refunds] == [(1490, "failed"), (1490, "succeeded")]
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await assert_ledgers_agree(resources, stripe)


async def test_a_bank_payment_of_another_amount_is_refunded_when_it_settles(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "less")
    stripe.pay(session["id"], later=True)
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "applied"
    stripe.settle(session["id"])

    await make_everything_due(database)
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1)
    await assert_ledgers_agree(resources, stripe)


async def test_a_captured_amount_that_matches_pays_though_the_session_differs(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    stripe.intent(session["payment_intent"])["amount_received"] = 1250

    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)

    assert await shop.get_order_state(placed_order["order_id"]) == ("PAID", "SUCCEEDED", 0)
    assert list(stripe.refunds) == []


async def test_nothing_is_decided_while_the_captured_amount_is_unknown(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"

    stripe.set_faults([{"action": "status", "status": 500, "path": "/v1/payment_intents/*"}])
    await end_hold(database, placed_order["order_id"])
    await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0)

    stripe.set_faults([])
    await make_everything_due(database)
    await sweep.sweep(resources)
    await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await assert_ledgers_agree(resources, stripe)


async def test_the_api_can_cancel_an_order_beside_a_refund_in_the_dashboard(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    """The role of the API may not record Stripe's refunds; the worker's role may."""
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    await resources.stripe.create_refund(session["payment_intent"], 400, {}, "dashboard")

    await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)
    await sweep.sweep(resources)

    assert [refund["amount"] for refund in stripe.refunds] == [400, 1090]
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("in_dashboard", [400, 1490])
async def test_a_second_payment_is_refunded_in_full_though_refunds_fail(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, in_dashboard: int
) -> None:
    """A refund in the dashboard and ours of the rest both fail; both amounts are refunded again."""
    first, second = await pay_twice(shop, stripe, "more")
    stripe.refund_status = "pending"
    await resources.stripe.create_refund(second["payment_intent"], in_dashboard, {}, "dashboard")

    assert await deliver(shop, last_event(stripe, COMPLETED, second["id"])) == "mismatch"
    for _ in range(2):
        await sweep.sweep(resources)
    assert [violation.subject for violation in (await audit(resources.pool))[RULE]] == [f"order {first['order_id']}"]

    for refund in list(stripe.refunds):
        stripe.set_refund(refund["id"], "failed")
    stripe.refund_status = "succeeded"
    for _ in range(3):
        await make_everything_due(database)
        await sweep.sweep(resources)
    succeeded = sum(refund["amount"] for refund in stripe.refunds if refund["status"] == "succeeded")
    assert succeeded == second["amount_total"]
    assert (await audit(resources.pool))[RULE] == []


async def test_a_refund_that_fails_after_its_success_is_made_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    for _ in range(2):
        await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "REFUNDED", 1490)

    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    await refunds.settle(resources, UUID(placed_order["order_id"]))
    assert (await audit(resources.pool))[RULE]

    for _ in range(2):
        await make_everything_due(database)
        await sweep.sweep(resources)
    assert [refund["status"] for refund in stripe.refunds] == ["failed", "succeeded"]
    assert (await audit(resources.pool))[RULE] == []
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("why", ["nothing was captured", "another order's intent"])
async def test_a_payment_that_cannot_be_refunded_here_pays_nothing(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    why: str,
) -> None:
    placed_order, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    intent = stripe.intent(session["payment_intent"])
    if why == "nothing was captured":
        intent["amount_received"] = 0
    else:
        intent["metadata"] = {"order_id": str(UUID(int=7))}

    assert await deliver(shop, last_event(stripe, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    (warning,) = warnings(caplog)
    assert (warning["order_id"], warning["id"]) == (placed_order["order_id"], session["payment_intent"])
    assert await shop.get_order_state(placed_order["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0)

    await end_hold(database, placed_order["order_id"])
    await sweep.sweep(resources)
    assert await shop.get_order_state(placed_order["order_id"]) == ("CANCELLED", "EXPIRED", 0)
    assert list(stripe.refunds) == []


async def test_a_checkout_can_be_repeated_after_stripe_did_not_name_the_captured_amount(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    stripe.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/checkout/session[s]"}])
    await shop.check_out(cart, 503)
    (session,) = stripe.sessions
    session["amount_total"] = 1490
    stripe.pay(session["id"])

    stripe.set_faults([{"action": "status", "status": 500, "path": "/v1/payment_intents/*"}])
    assert (await shop.check_out(cart, 503))["code"] == "payment_unavailable"

    stripe.set_faults([])
    assert (await shop.check_out(cart, 409))["code"] == "checkout_in_progress"
    assert (await shop.check_out(cart, 201))["status"] == "PENDING_PAYMENT"

    await sweep.sweep(resources)
    assert [refund["amount"] for refund in stripe.refunds] == [1490]


async def test_a_payment_of_another_order_is_not_refunded(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    paid = await shop.checked_out_cart()
    intent = stripe.intent(stripe.pay(paid["payment"]["stripe_session_id"])["payment_intent"])
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "applied"
    other, session = await check_out_mismatch(shop, stripe, "more")
    stripe.pay(session["id"])
    # One intent for both sessions: it names no order, and more was captured than either order asks for.
    intent.update({"metadata": {}, "amount_received": 1490})
    session["payment_intent"] = intent["id"]

    await shop.call("POST", f"/orders/{other['order_id']}/cancel", 200)
    await sweep.sweep(resources)

    assert list(stripe.refunds) == []
    assert await shop.get_order_state(other["order_id"]) == ("CANCELLED", "EXPIRED", 0)
