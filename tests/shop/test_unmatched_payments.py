"""Payments that match no order: what Stripe captured is given back once, and people are told."""

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
from tests.books import all_due, balance, deliver, emitted, hold_ends
from tests.client import Shop

COMPLETED = "checkout.session.completed"
RULE = "audit/unmatched_payments_are_refunded"
WARNING = "payment does not match its order"
# What Stripe says of the session of an order over 12.50 EUR.
AMOUNTS: dict[str, dict[str, Any]] = {
    "more": {"amount_total": 1490},
    "less": {"amount_total": 1},
    "another currency": {"currency": "usd"},
}
amounts = pytest.mark.parametrize("amount", AMOUNTS)


@pytest.fixture
def silent(stripe: StripeStandin) -> StripeStandin:
    """Stripe, whose webhooks do not come: a test delivers what it wants and when."""
    stripe.set_webhooks(drop=True)
    return stripe


async def place(shop: Shop, stripe: StripeStandin, amount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkout of one product's only unit, and its session, of another amount or currency."""
    placed = await shop.placed(((await shop.product(stock=1))["id"], 1))
    session = stripe.session(placed["payment"]["stripe_session_id"])
    session.update(AMOUNTS[amount])
    return placed, session


async def pay_twice(shop: Shop, stripe: StripeStandin, amount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A paid order's checkout, and a second session of the order that was paid with another amount or currency."""
    first = await shop.placed(((await shop.product())["id"], 1))
    stripe.pay(first["payment"]["stripe_session_id"])
    assert await deliver(shop, emitted(stripe, COMPLETED)) == "applied"
    _, second = await place(shop, stripe, amount)
    for metadata in (second["metadata"], second["_intent_metadata"]):
        metadata["order_id"] = first["order_id"]
    stripe.pay(second["id"])
    return first, second


async def states(shop: Shop, order_id: str) -> tuple[str, str, int]:
    order = await shop.order(order_id)
    return order["status"], order["payment"]["status"], order["payment"]["refunded_minor"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == WARNING]


Learn = Callable[[Shop, StripeStandin, Resources, asyncpg.Connection, dict[str, Any]], Awaitable[None]]


async def by_event(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    assert await deliver(shop, emitted(stripe, COMPLETED)) == "mismatch"
    assert await states(shop, placed["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0), "a body decides nothing"
    await sweep.sweep(resources)


async def by_events_at_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    sent = emitted(stripe, COMPLETED)
    for number in range(5):
        assert await deliver(shop, {**sent, "id": f"evt_{number}"}) == "mismatch"
    await asyncio.gather(*(sweep.sweep(resources) for _ in range(3)), reconcile.reconcile(resources))


async def by_the_end_of_the_hold(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    await hold_ends(database, placed["order_id"])
    await sweep.sweep(resources)


async def by_its_job(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    await hold_ends(database, placed["order_id"])
    await expiry.expire(resources, UUID(placed["order_id"]))


async def by_the_list(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    assert await reconcile.settle_sessions(resources) == 1


async def by_cancelling(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, placed: dict[str, Any]
) -> None:
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)


@amounts
@pytest.mark.parametrize(
    "learn",
    [by_event, by_events_at_once, by_the_end_of_the_hold, by_its_job, by_the_list, by_cancelling],
    ids=lambda learn: learn.__name__,
)
async def test_what_was_captured_goes_back_once_however_it_is_learned(
    shop: Shop,
    silent: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    amount: str,
    learn: Learn,
) -> None:
    placed, session = await place(shop, silent, amount)
    silent.pay(session["id"])
    captured, currency = session["amount_total"], session["currency"].upper()

    await learn(shop, silent, resources, database, placed)

    order_id = placed["order_id"]
    order = await shop.order(order_id)
    assert (order["status"], order["payment"]["status"]) == ("CANCELLED", "REFUND_PENDING")
    assert await shop.stock(order["items"][0]["product_id"]) == 1
    assert (await shop.call("GET", f"/carts/{order['cart_id']}", 200))["status"] == "OPEN"
    (violation,) = (await audit(resources.pool))[RULE]
    assert violation.subject == f"order {order_id}"
    said = warnings(caplog)[0]
    assert said["levelno"] == logging.WARNING
    assert (said["order_id"], said["payment_intent"]) == (order_id, session["payment_intent"])
    assert (said["captured_minor"], said["currency"]) == (captured, currency)

    await all_due(database)
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", captured)
    assert [refund["amount"] for refund in silent.refunds] == [captured]
    await balance(resources, silent)
    # Learned again, nothing more happens.
    assert await deliver(shop, {**emitted(silent, COMPLETED), "id": "evt_again"}) == "unchanged"
    await sweep.sweep(resources)
    assert len(list(silent.refunds)) == 1


@amounts
async def test_a_late_payment_of_another_amount_goes_back(
    shop: Shop, silent: StripeStandin, resources: Resources, amount: str
) -> None:
    placed, session = await place(shop, silent, amount)
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    session["status"] = "open"
    silent.pay(session["id"])

    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", session["amount_total"])
    await balance(resources, silent)


@amounts
async def test_a_second_payment_of_another_amount_goes_back_and_the_order_stays(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection, amount: str
) -> None:
    first, second = await pay_twice(shop, silent, amount)

    for number in range(2):
        assert await deliver(shop, {**emitted(silent, COMPLETED, second["id"]), "id": f"evt_{number}"}) == "mismatch"
        await sweep.sweep(resources)
    await all_due(database)
    await sweep.sweep(resources)

    assert [(r["payment_intent"], r["amount"]) for r in silent.refunds] == [
        (second["payment_intent"], second["amount_total"])
    ]
    assert await states(shop, first["order_id"]) == ("FULFILLED", "SUCCEEDED", 0)


@pytest.mark.parametrize("dashboard", [400, 1490])
async def test_what_the_dashboard_gave_back_is_not_given_back_again(
    shop: Shop, silent: StripeStandin, resources: Resources, dashboard: int
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    await resources.stripe.create_refund(session["payment_intent"], dashboard, {}, "dashboard")

    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert sorted(r["amount"] for r in silent.refunds) == sorted({dashboard, 1490 - dashboard} - {0})
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await balance(resources, silent)


async def test_a_refund_that_fails_is_made_again(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    silent.refund_status = "pending"
    await sweep.sweep(resources)
    await refunds.settle(resources, UUID(placed["order_id"]))
    (made,) = silent.refunds
    silent.set_refund(made["id"], "failed")
    silent.refund_status = "succeeded"
    await refunds.settle(resources, UUID(placed["order_id"]))
    assert (await audit(resources.pool))[RULE]

    await all_due(database)
    await sweep.sweep(resources)

    assert [(r["amount"], r["status"]) for r in silent.refunds] == [(1490, "failed"), (1490, "succeeded")]
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await balance(resources, silent)


async def test_a_slow_payment_of_another_amount_goes_back_when_it_settles(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed, session = await place(shop, silent, "less")
    silent.pay(session["id"], later=True)
    assert await deliver(shop, emitted(silent, COMPLETED)) == "applied"
    silent.settle(session["id"])

    await all_due(database)
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1)
    await balance(resources, silent)


async def test_a_payment_of_the_right_amount_pays_though_its_session_says_another(
    shop: Shop, silent: StripeStandin, resources: Resources
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    silent.intent(session["payment_intent"])["amount_received"] = 1250

    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)

    assert await states(shop, placed["order_id"]) == ("PAID", "SUCCEEDED", 0)
    assert list(silent.refunds) == []


async def test_while_stripe_does_not_say_what_was_captured_nothing_is_decided(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    silent.set_faults([{"action": "status", "status": 500, "path": "/v1/payment_intents/*"}])
    await hold_ends(database, placed["order_id"])
    await sweep.sweep(resources)
    assert await states(shop, placed["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0)

    silent.set_faults([])
    await all_due(database)
    await sweep.sweep(resources)
    await sweep.sweep(resources)

    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await balance(resources, silent)


async def test_the_api_decides_beside_a_refund_in_the_dashboard(
    shop: Shop, silent: StripeStandin, resources: Resources
) -> None:
    """Its role may not write down what Stripe lists: that is the worker's."""
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    await resources.stripe.create_refund(session["payment_intent"], 400, {}, "dashboard")

    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    await sweep.sweep(resources)

    assert [refund["amount"] for refund in silent.refunds] == [400, 1090]
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    await balance(resources, silent)


@pytest.mark.parametrize("dashboard", [400, 1490])
async def test_of_a_second_payment_all_goes_back_whichever_refund_fails(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection, dashboard: int
) -> None:
    first, second = await pay_twice(shop, silent, "more")
    silent.refund_status = "pending"
    await resources.stripe.create_refund(second["payment_intent"], dashboard, {}, "dashboard")

    assert await deliver(shop, emitted(silent, COMPLETED, second["id"])) == "mismatch"
    for _ in range(2):
        await sweep.sweep(resources)
    assert [violation.subject for violation in (await audit(resources.pool))[RULE]] == [f"order {first['order_id']}"]
    for refund in list(silent.refunds):
        silent.set_refund(refund["id"], "failed")
    silent.refund_status = "succeeded"
    for _ in range(3):
        await all_due(database)
        await sweep.sweep(resources)

    succeeded = sum(refund["amount"] for refund in silent.refunds if refund["status"] == "succeeded")
    assert succeeded == second["amount_total"]
    assert (await audit(resources.pool))[RULE] == []


async def test_a_refund_that_fails_after_it_succeeded_opens_the_payment_again(
    shop: Shop, silent: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    for _ in range(2):
        await sweep.sweep(resources)
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1490)
    (made,) = silent.refunds

    silent.set_refund(made["id"], "failed")
    await refunds.settle(resources, UUID(placed["order_id"]))
    assert (await audit(resources.pool))[RULE]
    for _ in range(2):
        await all_due(database)
        await sweep.sweep(resources)

    assert [refund["status"] for refund in silent.refunds] == ["failed", "succeeded"]
    assert (await audit(resources.pool))[RULE] == []
    await balance(resources, silent)


@pytest.mark.parametrize("why", ["nothing was captured", "another order's intent"])
async def test_what_cannot_be_given_back_here_pays_nothing(
    shop: Shop,
    silent: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    why: str,
) -> None:
    placed, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    intent = silent.intent(session["payment_intent"])
    if why == "nothing was captured":
        intent["amount_received"] = 0
    else:
        intent["metadata"] = {"order_id": str(UUID(int=7))}

    assert await deliver(shop, emitted(silent, COMPLETED)) == "mismatch"
    await sweep.sweep(resources)
    assert warnings(caplog)[0]["outcome"] == "mismatch"
    assert await states(shop, placed["order_id"]) == ("PENDING_PAYMENT", "INITIATED", 0)
    await hold_ends(database, placed["order_id"])
    await sweep.sweep(resources)

    assert await states(shop, placed["order_id"]) == ("CANCELLED", "EXPIRED", 0)
    assert list(silent.refunds) == []


async def test_a_checkout_that_learned_nothing_can_be_asked_for_again(
    shop: Shop, silent: StripeStandin, resources: Resources
) -> None:
    cart = await shop.cart(((await shop.product())["id"], 1))
    silent.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/checkout/session[s]"}])
    await shop.checkout(cart, 503)
    (session,) = silent.sessions
    session["amount_total"] = 1490
    silent.pay(session["id"])

    silent.set_faults([{"action": "status", "status": 500, "path": "/v1/payment_intents/*"}])
    assert (await shop.checkout(cart, 503))["code"] == "payment_unavailable"
    silent.set_faults([])
    assert (await shop.checkout(cart, 409))["code"] == "checkout_in_progress"
    assert (await shop.checkout(cart, 201))["status"] == "PENDING_PAYMENT"

    await sweep.sweep(resources)
    assert [refund["amount"] for refund in silent.refunds] == [1490]


async def test_what_paid_another_order_is_not_given_back(
    shop: Shop, silent: StripeStandin, resources: Resources
) -> None:
    paid = await shop.placed(((await shop.product())["id"], 1))
    intent = silent.intent(silent.pay(paid["payment"]["stripe_session_id"])["payment_intent"])
    assert await deliver(shop, emitted(silent, COMPLETED)) == "applied"
    other, session = await place(shop, silent, "more")
    silent.pay(session["id"])
    # It names no order, and more was captured than either order asks for.
    intent.update({"metadata": {}, "amount_received": 1490})
    session["payment_intent"] = intent["id"]

    await shop.call("POST", f"/orders/{other['order_id']}/cancel", 200)
    await sweep.sweep(resources)

    assert list(silent.refunds) == []
    assert await states(shop, other["order_id"]) == ("CANCELLED", "EXPIRED", 0)
