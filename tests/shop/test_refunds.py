"""Money that goes back: late money, refunds by staff, refunds made in Stripe's dashboard; each once, none too many."""

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
from service.shop import fulfilment, reconcile, refunds, sweep, webhooks
from tests.books import Event, all_due, balance, deliver, emitted, event
from tests.client import Shop, waiting

COMPLETED = "checkout.session.completed"
DAY = 86_400


@pytest.fixture(autouse=True)
def lost(stripe: StripeStandin) -> None:
    """No webhook comes by itself: a test delivers what it wants, when it wants."""
    stripe.set_webhooks(drop=True)


async def paid(shop: Shop, stripe: StripeStandin, *lines: tuple[int, int]) -> tuple[str, str]:
    """A paid order, and its payment intent."""
    placed = await shop.placed(*lines)
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    assert await deliver(shop, event(COMPLETED, session)) == "applied"
    return placed["order_id"], session["payment_intent"]


async def fulfilled(
    shop: Shop, stripe: StripeStandin, resources: Resources, *lines: tuple[int, int]
) -> tuple[str, str]:
    order_id, intent = await paid(shop, stripe, *lines)
    await fulfilment.fulfil(resources, UUID(order_id))
    return order_id, intent


async def late(shop: Shop, stripe: StripeStandin, *lines: tuple[int, int]) -> tuple[str, Event]:
    """A cancelled order, and the event of its money, which comes after all."""
    placed = await shop.placed(*lines)
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    session = stripe.session(placed["payment"]["stripe_session_id"])
    # As if the customer had been a moment faster than our cancelling, which Stripe never told us.
    session["status"] = "open"
    return placed["order_id"], event(COMPLETED, stripe.pay(session["id"]))


async def states(shop: Shop, order_id: str) -> tuple[str, str, int]:
    order = await shop.order(order_id)
    return order["status"], order["payment"]["status"], order["payment"]["refunded_minor"]


async def settle_at_once(stripe: StripeStandin, resources: Resources, order_id: str) -> None:
    """Several workers settle an order's refunds, all of which Stripe has not made yet; then one does once more."""
    stripe.set_faults([{"action": "delay", "method": "POST", "path": "/v1/refunds", "seconds": 0.3}])
    workers = (refunds.settle(resources, UUID(order_id)) for _ in range(6))
    failed = [found for found in await asyncio.gather(*workers, return_exceptions=True) if found is not None]
    assert all(isinstance(found, StripeUnknown) for found in failed), failed  # Stripe's 409: the key is in use.
    stripe.set_faults([])
    await refunds.settle(resources, UUID(order_id))


async def give_back(shop: Shop, order_id: str, expect: int = 200, **body: Any) -> Any:
    return await shop.call("POST", f"/orders/{order_id}/refund", expect, body)


async def take_out(shop: Shop, product: dict[str, Any], units: int) -> None:
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -units, "reason": "broken"})


# Late money


async def test_late_money_takes_its_stock_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    tent, mug = await shop.product(stock=2), await shop.product(stock=1)
    order_id, event_late = await late(shop, stripe, (tent["id"], 2), (mug["id"], 1))
    again = [event_late, event_late, {**event_late, "id": "evt_other"}]
    outcomes = await asyncio.gather(*(deliver(shop, sent) for sent in again))
    assert sorted(outcomes) == ["applied", "duplicate", "unchanged"]
    assert await states(shop, order_id) == ("PAID", "SUCCEEDED", 0)
    assert [await shop.stock(product["id"]) for product in (tent, mug)] == [0, 0]
    cart_id = (await shop.order(order_id))["cart_id"]
    assert (await shop.add(cart_id, tent["id"], expect=409))["code"] == "cart_not_open"
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await balance(resources, stripe)


@pytest.mark.parametrize("why", ["one line is short", "the cart has a new order"])
async def test_late_money_goes_back_once_where_nothing_can_stand_for_it(
    shop: Shop, stripe: StripeStandin, resources: Resources, why: str
) -> None:
    tent, mug = await shop.product(stock=9), await shop.product(stock=3)
    order_id, event_late = await late(shop, stripe, (tent["id"], 2), (mug["id"], 3))
    if why == "one line is short":
        await take_out(shop, mug, 1)
    else:
        await shop.call("POST", f"/products/{mug['id']}/stock", 200, {"delta": 9, "reason": "delivery"})
        await shop.checkout((await shop.order(order_id))["cart_id"])
    before = [await shop.stock(product["id"]) for product in (tent, mug)]
    again = [event_late, event_late, *({**event_late, "id": f"evt_{number}"} for number in range(3))]
    outcomes = await asyncio.gather(*(deliver(shop, sent) for sent in again))
    assert sorted(outcomes) == ["duplicate", "late_money_refunded", *["unchanged"] * 3]
    assert await states(shop, order_id) == ("CANCELLED", "REFUND_PENDING", 0)
    await balance(resources, stripe)

    await settle_at_once(stripe, resources, order_id)
    await sweep.sweep(resources)
    total = (await shop.order(order_id))["total_minor"]
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", total)
    assert len(list(stripe.refunds)) == 1
    assert [await shop.stock(product["id"]) for product in (tent, mug)] == before
    timeline = (await shop.call("GET", f"/orders/{order_id}/timeline", 200))["items"]
    assert sum(e["note"] == "paid after it was cancelled: the payment is refunded" for e in timeline) == 1
    await balance(resources, stripe)


async def test_late_money_for_few_units_left_goes_to_as_many_as_there_are(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=5)
    orders = [await late(shop, stripe, (product["id"], 1)) for _ in range(5)]
    await take_out(shop, product, 3)
    async with database.transaction():
        await database.execute("SELECT FROM products FOR NO KEY UPDATE")
        deliveries = [asyncio.create_task(deliver(shop, sent)) for _, sent in orders]
        # All have a snapshot by then in which there are two.
        await waiting(database, 5)
    outcomes = await asyncio.gather(*deliveries)
    assert sorted(outcomes) == [*["applied"] * 2, *["late_money_refunded"] * 3]
    await sweep.sweep(resources)
    assert await shop.stock(product["id"]) == 0
    await balance(resources, stripe)


async def test_a_refund_that_failed_is_made_again_with_a_new_key_after_a_while(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=1)
    order_id, event_late = await late(shop, stripe, (product["id"], 1))
    await take_out(shop, product, 1)
    await deliver(shop, event_late)
    stripe.refund_status = "pending"
    for failures in range(1, 4):
        # Asked any number of times while Stripe has not shown a failure: no second refund.
        for _ in range(3):
            await refunds.settle(resources, UUID(order_id))
        assert len(list(stripe.refunds)) == failures
        assert await states(shop, order_id) == ("CANCELLED", "REFUND_PENDING", 0)
        *_, made = stripe.refunds
        stripe.set_refund(made["id"], "failed")
        # Nor at once after it, however often we hear of it.
        for _ in range(3):
            await refunds.settle(resources, UUID(order_id))
        assert len(list(stripe.refunds)) == failures
        await balance(resources, stripe)
        await all_due(database)
        await sweep.sweep(resources)
        assert len(list(stripe.refunds)) == failures + 1
    *_, made = stripe.refunds
    stripe.set_refund(made["id"], "succeeded")
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 1250)
    # It can fail even now.
    stripe.set_refund(made["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("CANCELLED", "REFUND_PENDING", 0)
    await balance(resources, stripe)


@pytest.mark.parametrize("seconds", [0, 2 * DAY])
async def test_a_refund_whose_answer_was_lost_is_not_made_twice(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, seconds: int
) -> None:
    order_id, _ = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 2))
    await give_back(shop, order_id, amount_minor=1000)
    stripe.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/refunds", "times": 1}])
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    # After a day Stripe has forgotten the key.
    stripe.advance_clock(seconds)
    await all_due(database)
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 1000)
    assert [refund["amount"] for refund in stripe.refunds] == [1000]
    await balance(resources, stripe)


async def test_a_refund_that_stripe_refused_is_not_made_once_its_key_is_forgotten(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, intent = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    await give_back(shop, order_id)
    made = await resources.stripe.create_refund(intent, 50, {}, "dashboard")
    await sweep.sweep(resources)
    stripe.set_refund(made.id, "failed")
    stripe.advance_clock(2 * DAY)
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await balance(resources, stripe)


async def test_a_refund_whose_failure_stripe_keeps_replaying_has_failed(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, _ = await late(shop, stripe, (product := (await shop.product(stock=1))["id"], 1))
    await shop.call("POST", f"/products/{product}/stock", 200, {"delta": -1, "reason": "broken"})
    await reconcile.reconcile(resources)
    fault = {"action": "status", "method": "POST", "path": "/v1/refunds", "times": 1, "status": 500, "stored": True}
    stripe.set_faults([fault])
    for _ in range(3):
        await all_due(database)
        await sweep.sweep(resources)
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 1250)
    assert [refund["amount"] for refund in stripe.refunds] == [1250]
    await balance(resources, stripe)


class Between:
    """The Stripe client, while another does `work` between listing an order's refunds and creating one."""

    def __init__(self, real: Stripe, work: Callable[[], Awaitable[None]]) -> None:
        self.real = real
        self.work = work

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def create_refund(self, *arguments: Any, **options: Any) -> Any:
        await self.work()
        return await self.real.create_refund(*arguments, **options)


@pytest.mark.parametrize("why", ["staff", "late money"])
async def test_a_replayed_failure_counts_by_a_list_that_is_newer(
    shop: Shop, stripe: StripeStandin, resources: Resources, why: str
) -> None:
    """Another worker makes the refund and is told of a failure, which Stripe replays to who listed before that."""
    product = await shop.product(stock=1)
    if why == "staff":
        order_id, _ = await fulfilled(shop, stripe, resources, (product["id"], 1))
        await give_back(shop, order_id)
    else:
        order_id, sent = await late(shop, stripe, (product["id"], 1))
        await take_out(shop, product, 1)
        assert await deliver(shop, sent) == "late_money_refunded"
    stripe.set_faults([{"action": "status_after", "method": "POST", "path": "/v1/refunds", "times": 1}])

    async def other_worker() -> None:
        with pytest.raises(StripeUnknown):
            await refunds.settle(resources, UUID(order_id))

    await refunds.settle(replace(resources, stripe=Between(resources.stripe, other_worker)), UUID(order_id))  # type: ignore[arg-type]
    assert (await states(shop, order_id))[1:] == ("REFUNDED", 1250)
    assert len(list(stripe.refunds)) == 1
    await balance(resources, stripe)


async def test_a_refund_that_cannot_be_asked_for_keeps_no_other_from_being_written_down(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, intent = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    await resources.stripe.create_refund(intent, 1000, {}, "dashboard")
    await give_back(shop, order_id, amount_minor=100)
    # A restricted key that may read refunds and not make them.
    stripe.set_faults([{"action": "status", "method": "POST", "path": "/v1/refunds", "status": 403}])
    with pytest.raises(StripeUnknown):
        await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 1000)
    stripe.set_faults([])
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 1100)
    await balance(resources, stripe)


async def test_what_two_refunds_of_a_cancelled_order_left_open_is_given_back(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, _ = await paid(shop, stripe, ((await shop.product())["id"], 1))
    await give_back(shop, order_id, amount_minor=450)
    await give_back(shop, order_id, amount_minor=800)
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 1250)
    for made in list(stripe.refunds):
        stripe.set_refund(made["id"], "failed")
        await refunds.settle(resources, UUID(order_id))
        await balance(resources, stripe)
        await all_due(database)
        await sweep.sweep(resources)
        assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 1250)
    await balance(resources, stripe)


async def test_a_second_payment_of_an_order_goes_back_whatever_fails(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, _ = await paid(shop, stripe, ((await shop.product())["id"], 1))
    other = await shop.placed(((await shop.product())["id"], 1))
    session = stripe.session(other["payment"]["stripe_session_id"])
    for metadata in (session["metadata"], session["_intent_metadata"]):
        metadata["order_id"] = order_id
    second = event(COMPLETED, stripe.pay(session["id"]))
    await shop.call("POST", f"/orders/{order_id}/cancel", 409)
    outcomes = [await deliver(shop, sent) for sent in (second, {**second, "id": "evt_other"})]
    assert outcomes == ["paid_twice", "paid_twice"]
    stripe.refund_status = "pending"
    await refunds.settle(resources, UUID(order_id))
    (made,) = stripe.refunds
    stripe.set_refund(made["id"], "failed")
    stripe.refund_status = "succeeded"
    await refunds.settle(resources, UUID(order_id))
    await all_due(database)
    await sweep.sweep(resources)
    assert [r["status"] for r in stripe.refunds] == ["failed", "succeeded"]
    assert {r["payment_intent"] for r in stripe.refunds} == {session["payment_intent"]}
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await balance(resources, stripe)


# By staff


async def test_a_whole_refund_before_fulfilment_cancels_and_restocks(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=2)
    order_id, intent = await paid(shop, stripe, (product["id"], 2))
    answer = await give_back(shop, order_id)
    assert (answer["status"], answer["payment"]["status"]) == ("PAID", "REFUND_PENDING")
    await fulfilment.fulfil(resources, UUID(order_id))
    assert await states(shop, order_id) == ("PAID", "REFUND_PENDING", 0), "not fulfilled: it goes back"
    await balance(resources, stripe)
    await settle_at_once(stripe, resources, order_id)
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 2500)
    assert await shop.stock(product["id"]) == 2
    assert (await shop.call("GET", f"/carts/{answer['cart_id']}", 200))["status"] == "OPEN"
    assert [r["amount"] for r in stripe.refunds] == [2500]
    # The payment's event once more, and its refunds': nothing comes back to life.
    session = next(s for s in stripe.sessions if s["payment_intent"] == intent)
    assert await deliver(shop, event(COMPLETED, session)) == "unchanged"
    assert await states(shop, order_id) == ("CANCELLED", "REFUNDED", 2500)
    await balance(resources, stripe)


async def test_a_failed_whole_refund_lets_the_order_go_on(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=1)
    order_id, _ = await paid(shop, stripe, (product["id"], 1))
    await give_back(shop, order_id)
    stripe.refund_status = "pending"
    for _ in range(3):
        await all_due(database)
        await sweep.sweep(resources)
        assert await states(shop, order_id) == ("PAID", "REFUND_PENDING", 0)
    (made,) = stripe.refunds
    stripe.set_refund(made["id"], "failed")
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("PAID", "SUCCEEDED", 0)
    # Due at once, though the sweep had put it off again and again.
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    assert await shop.stock(product["id"]) == 0
    await balance(resources, stripe)


async def test_parts_and_the_rest_of_a_fulfilled_order(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    product = await shop.product(stock=2)
    order_id, _ = await fulfilled(shop, stripe, resources, (product["id"], 2))
    for amount, refunded in ((400, 400), (100, 500)):
        await give_back(shop, order_id, amount_minor=amount)
        await refunds.settle(resources, UUID(order_id))
        assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", refunded)
        await balance(resources, stripe)
    assert (await give_back(shop, order_id, 409, amount_minor=2001))["refundable_minor"] == 2000
    await give_back(shop, order_id, 422, amount_minor=100, restock=True)
    await give_back(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "REFUNDED", 2500)
    assert await shop.stock(product["id"]) == 0, "nobody said that the units came back"
    assert (await give_back(shop, order_id, 409))["code"] == "order_not_refundable"
    assert [r["amount"] for r in stripe.refunds] == [400, 100, 2000]
    await balance(resources, stripe)


async def test_a_restock_returns_the_units_once_whatever_becomes_of_the_refund(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=2)
    order_id, _ = await fulfilled(shop, stripe, resources, (product["id"], 2))
    for round_ in range(2):
        await give_back(shop, order_id, restock=True)
        assert await shop.stock(product["id"]) == (2 if round_ else 0)
        await refunds.settle(resources, UUID(order_id))
        assert await states(shop, order_id) == ("FULFILLED", "REFUNDED", 2500)
        assert await shop.stock(product["id"]) == 2
        await balance(resources, stripe)
        if round_ == 0:
            (made,) = stripe.refunds
            stripe.set_refund(made["id"], "failed")
            await refunds.settle(resources, UUID(order_id))
            assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
            await balance(resources, stripe)


async def test_never_more_than_was_paid(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    order_id, _ = await fulfilled(shop, stripe, resources, ((await shop.product(price_minor=1000))["id"], 1))
    asked = [shop.http.post(f"/orders/{order_id}/refund", json={"amount_minor": 400}) for _ in range(8)]
    asked += [shop.http.post(f"/orders/{order_id}/refund") for _ in range(2)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200, 409}
    await settle_at_once(stripe, resources, order_id)
    granted = await resources.pool.fetchval("SELECT sum(amount_minor) FROM refunds")
    assert granted <= 1000
    assert sum(refund["amount"] for refund in stripe.refunds) == granted
    await balance(resources, stripe)


async def test_what_was_not_paid_cannot_be_refunded(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    product = await shop.product()
    placed = await shop.placed((product["id"], 1))
    for _ in range(2):
        answer = await give_back(shop, placed["order_id"], 409)
        assert (answer["code"], answer["refundable_minor"]) == ("order_not_refundable", 0)
        await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    await give_back(shop, str(uuid4()), 404)
    assert list(stripe.refunds) == []
    await balance(resources, stripe)


async def test_a_refund_is_decided_once_with_a_key_and_made_once_by_many_workers(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, _ = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    path, body = f"/orders/{order_id}/refund", {"amount_minor": 500}
    first = await shop.call("POST", path, 200, body, Idempotency_Key="one")
    assert await shop.call("POST", path, 200, body, Idempotency_Key="one") == first
    await settle_at_once(stripe, resources, order_id)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 500)
    await balance(resources, stripe)


async def test_stripe_refuses_a_refund(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    order_id, intent = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    await give_back(shop, order_id)
    # Somebody was faster in the dashboard, with a part.
    await resources.stripe.create_refund(intent, 50, {}, "dashboard")
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 50)
    await give_back(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    assert await states(shop, order_id) == ("FULFILLED", "REFUNDED", 1250)
    await balance(resources, stripe)


# At once with fulfilment


async def test_fulfilment_and_a_whole_refund_at_once(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    product = await shop.product(stock=12)
    orders = [(await paid(shop, stripe, (product["id"], 1)))[0] for _ in range(12)]

    async def race(order_id: str) -> None:
        both = [fulfilment.fulfil(resources, UUID(order_id)), give_back(shop, order_id)]
        random.shuffle(both)
        await asyncio.gather(*both, fulfilment.fulfil(resources, UUID(order_id)))
        await asyncio.gather(fulfilment.fulfil(resources, UUID(order_id)), refunds.settle(resources, UUID(order_id)))

    await asyncio.gather(*(race(order_id) for order_id in orders))
    ends = [await states(shop, order_id) for order_id in orders]
    assert {end[1:] for end in ends} == {("REFUNDED", 1250)}
    assert await shop.stock(product["id"]) == sum(end[0] == "CANCELLED" for end in ends)
    await balance(resources, stripe)


# In the dashboard


async def test_a_refund_in_the_dashboard_is_heeded_before_fulfilment(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=2)
    for amount, end in ((1250, ("CANCELLED", "REFUNDED", 1250)), (1000, ("FULFILLED", "SUCCEEDED", 1000))):
        order_id, intent = await paid(shop, stripe, (product["id"], 1))
        await resources.stripe.create_refund(intent, amount, {}, f"dashboard {amount}")
        assert await deliver(shop, emitted(stripe, "charge.refunded")) == "refund_to_settle"
        await fulfilment.fulfil(resources, UUID(order_id))
        assert (await states(shop, order_id))[0] == "PAID", "what Stripe told has to be looked into first"
        for _ in range(2):
            await all_due(database)
            await sweep.sweep(resources)
        assert await states(shop, order_id) == end
        await balance(resources, stripe)
    assert await shop.stock(product["id"]) == 1


async def test_a_payment_heard_of_by_its_refund_is_not_fulfilled_first(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")
    await deliver(shop, emitted(stripe, "refund.created"))
    stripe.set_faults([{"action": "drop", "method": "GET", "path": "/v1/refunds"}])
    await sweep.sweep(resources)
    await fulfilment.fulfil(resources, UUID(placed["order_id"]))
    assert await states(shop, placed["order_id"]) == ("PAID", "SUCCEEDED", 0)
    stripe.set_faults([])
    await all_due(database)
    await sweep.sweep(resources)
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1250)
    await balance(resources, stripe)


@pytest.mark.parametrize("kind", ["refund.created", "charge.refunded"])
async def test_a_refund_that_came_before_its_payment_is_looked_into_before_fulfilment(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, kind: str
) -> None:
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")
    assert await deliver(shop, emitted(stripe, kind)) == "refund_to_settle"
    assert await deliver(shop, event(COMPLETED, session)) == "applied"
    # The job that the payment woke is faster than the sweep.
    await fulfilment.fulfil(resources, UUID(placed["order_id"]))
    assert await states(shop, placed["order_id"]) == ("PAID", "SUCCEEDED", 0)
    await all_due(database)
    await sweep.sweep(resources)
    assert await states(shop, placed["order_id"]) == ("CANCELLED", "REFUNDED", 1250)
    assert await shop.stock(product["id"]) == 1
    await balance(resources, stripe)


@pytest.mark.parametrize("amounts", [(1250,), (300, 950), (300,)])
async def test_refunds_in_the_dashboard_are_taken_over_in_whatever_order_events_come(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, amounts: tuple[int, ...]
) -> None:
    whole = sum(amounts) == 1250
    for position in range(2 * len(amounts) + 1):
        product = await shop.product(stock=1)
        placed = await shop.placed((product["id"], 1))
        session = stripe.pay(placed["payment"]["stripe_session_id"])
        events = []
        for amount in amounts:
            await resources.stripe.create_refund(session["payment_intent"], amount, {}, uuid4().hex)
            events += [emitted(stripe, kind) for kind in ("refund.created", "charge.refunded")]
        random.shuffle(events)
        events.insert(position, event(COMPLETED, session))
        for sent in events:
            await asyncio.gather(deliver(shop, sent), deliver(shop, sent))
            await all_due(database)
            await sweep.sweep(resources)
        await all_due(database)
        await sweep.sweep(resources)
        order = await shop.order(placed["order_id"])
        assert order["payment"]["refunded_minor"] == sum(amounts)
        assert order["payment"]["status"] == ("REFUNDED" if whole else "SUCCEEDED")
        assert order["status"] in (("FULFILLED", "CANCELLED") if whole else ("FULFILLED",))
        if position and whole and len(amounts) == 1:
            assert order["status"] == "CANCELLED", "its refund was known before its payment"
        assert await shop.stock(product["id"]) == (order["status"] == "CANCELLED")
    await balance(resources, stripe)


async def test_a_refund_in_the_dashboard_settles_later(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, intent = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    stripe.refund_status = "pending"
    await resources.stripe.create_refund(intent, 1250, {}, "dashboard")
    (made,) = stripe.refunds
    sent = emitted(stripe, "refund.created")
    assert await deliver(shop, sent) == "refund_to_settle"
    assert await webhooks.process_stored_event(resources, sent["id"]) == "applied"
    assert await states(shop, order_id) == ("FULFILLED", "REFUND_PENDING", 0)
    assert (await give_back(shop, order_id, 409))["code"] == "order_not_refundable"
    stripe.set_refund(made["id"], "failed")
    await deliver(shop, emitted(stripe, "refund.failed"))
    await sweep.sweep(resources)
    assert await states(shop, order_id) == ("FULFILLED", "SUCCEEDED", 0)
    await balance(resources, stripe)


async def test_what_stripe_listed_earlier_does_not_undo_what_it_listed_later(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order_id, intent = await fulfilled(shop, stripe, resources, ((await shop.product())["id"], 1))
    await give_back(shop, order_id)
    await refunds.settle(resources, UUID(order_id))
    row = await database.fetchrow("SELECT id, stripe_refund_id FROM refunds")

    async def written(status: str) -> str:
        listed = {"refund_id": row["id"], "order_id": UUID(order_id), "stripe_payment_intent_id": intent}
        listed |= {"amount_minor": 1250, "status": status, "stripe_refund_id": row["stripe_refund_id"]}
        await run_transaction(resources.pool, lambda tx: refunds.RECORD_REFUND.run(tx, **listed))
        return str(await database.fetchval("SELECT status FROM refunds"))

    assert await written("PENDING") == "SUCCEEDED"
    assert await written("FAILED") == "FAILED"
    assert [await written(status) for status in ("PENDING", "SUCCEEDED")] == ["FAILED", "FAILED"]


async def test_refunds_of_other_shops_on_the_account_are_left_alone(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = stripe.session(placed["payment"]["stripe_session_id"])
    for number, order_id in enumerate((str(uuid4()), "17", None)):
        for metadata in (session["metadata"], session["_intent_metadata"]):
            metadata.clear()
            metadata.update({"order_id": order_id} if order_id else {})
        if number == 0:
            intent = stripe.pay(session["id"])["payment_intent"]
        stripe.intent(intent)["metadata"] = dict(session["metadata"])
        await resources.stripe.create_refund(intent, 100, {}, f"dashboard {number}")
        sent = emitted(stripe, "refund.created")
        assert await deliver(shop, sent) == "refund_to_settle"
        assert await webhooks.process_stored_event(resources, sent["id"]) == (
            "not_ours" if number else "order_not_found"
        )
    for subject in ({"id": "re_1"}, {"id": "re_2", "payment_intent": "pi_unknown"}):
        sent = event("refund.updated", subject)
        await deliver(shop, sent)
        assert await webhooks.process_stored_event(resources, sent["id"]) == "not_ours"
    assert await database.fetchval("SELECT count(*) FROM stripe_events WHERE handled_at IS NULL") == 0
    assert await database.fetchval("SELECT count(*) FROM refunds") == 0
