"""Orders reach the state that Stripe reports, whatever the order, number and content of its events."""

import asyncio
import random
from itertools import permutations
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop import sweep, webhooks
from tests.client import Shop
from tests.database import end_hold, make_everything_due
from tests.stripe_events import count_events, deliver, event_outcomes, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED, SUCCEEDED, FAILED, EXPIRED = KINDS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)


def with_new_id(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "id": f"evt_{uuid4().hex}"}


async def test_a_payment_event_may_arrive_before_the_session_is_stored(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=1)
    cart_id = await shop.create_cart((product["id"], 1))
    stripe.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/checkout/session[s]", "times": 1}])
    await shop.check_out(cart_id, 503)
    (session,) = stripe.sessions

    stripe.pay(session["id"])

    order = await shop.wait_for_order(session["metadata"]["order_id"], "PAID", "SUCCEEDED")
    assert order["payment"]["stripe_session_id"] == session["id"]
    assert (await shop.check_out(cart_id, 409))["code"] == "cart_not_open"
    await assert_ledgers_agree(resources, stripe)


# Events in any order


def create_events(stripe: StripeStandin, session_id: str, kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Bring a session at Stripe to the state that these events report; an event of each kind."""
    if COMPLETED in kinds or SUCCEEDED in kinds or FAILED in kinds:
        stripe.pay(session_id, later=True)
        if SUCCEEDED in kinds or FAILED in kinds:
            stripe.settle(session_id, succeed=SUCCEEDED in kinds)
    else:
        stripe.expire_session(session_id)
    session = stripe.session(session_id)
    return {
        COMPLETED: make_event(COMPLETED, session, status="complete", payment_status="unpaid"),
        SUCCEEDED: make_event(SUCCEEDED, session),
        FAILED: make_event(FAILED, session, status="complete", payment_status="unpaid"),
        EXPIRED: make_event(EXPIRED, session, status="expired", payment_status="unpaid"),
    }


def final_statuses(kinds: tuple[str, ...]) -> tuple[str, str]:
    """The statuses of the order and its payment after these events: captured money decides first."""
    if SUCCEEDED in kinds:
        return "PAID", "SUCCEEDED"
    if FAILED in kinds or EXPIRED in kinds:
        # Stripe never sends both of one session, nor reports a complete session as expired: the first one counts.
        return "CANCELLED", "EXPIRED" if kinds[0] == EXPIRED else "FAILED"
    return "PENDING_PAYMENT", "PROCESSING"


async def test_the_final_state_does_not_depend_on_the_order_of_events(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources
) -> None:
    """Every permutation of up to four events, each delivered three times at once, and all of them once more."""
    product = await shop.create_product(stock=100)
    units_sold = 0
    for kinds in (kinds for length in range(1, 5) for kinds in permutations(KINDS, length)):
        placed_order = await shop.checked_out_cart((product["id"], 1))
        events = create_events(stripe, placed_order["payment"]["stripe_session_id"], kinds)

        for kind in kinds:
            deliveries = (events[kind], events[kind], with_new_id(events[kind]))
            await asyncio.gather(*(deliver(shop, event) for event in deliveries))
        for kind in kinds:
            await deliver(shop, events[kind])
            await deliver(shop, with_new_id(events[kind]))

        order = await shop.get_order(placed_order["order_id"])
        assert (order["status"], order["payment"]["status"]) == final_statuses(kinds), kinds
        units_sold += order["status"] != "CANCELLED"
        assert await shop.get_stock(product["id"]) == 100 - units_sold, kinds
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("kinds", [KINDS, (COMPLETED, FAILED), (COMPLETED, SUCCEEDED)])
async def test_concurrent_events_reach_the_same_final_state(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, kinds: tuple[str, ...]
) -> None:
    product = await shop.create_product(stock=20)
    status, _ = final_statuses(kinds)

    async def deliver_to_new_order() -> None:
        placed_order = await shop.checked_out_cart((product["id"], 1))
        events = create_events(stripe, placed_order["payment"]["stripe_session_id"], kinds)
        deliveries = [events[kind] for kind in kinds] * 2 + [with_new_id(events[kind]) for kind in kinds]
        random.shuffle(deliveries)
        await asyncio.gather(*(deliver(shop, event) for event in deliveries))
        assert (await shop.get_order(placed_order["order_id"]))["status"] == status

    await asyncio.gather(*(deliver_to_new_order() for _ in range(5)))

    assert await shop.get_stock(product["id"]) == (20 if status == "CANCELLED" else 15)
    await assert_ledgers_agree(resources, stripe)


async def test_an_immediate_payment_is_paid_in_every_order_of_events(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources
) -> None:
    product = await shop.create_product(stock=100)
    for kinds in (kinds for length in range(1, 5) for kinds in permutations(KINDS, length) if COMPLETED in kinds):
        placed_order = await shop.checked_out_cart((product["id"], 1))
        session = stripe.pay(placed_order["payment"]["stripe_session_id"])

        for kind in kinds:
            changes = {} if kind in (COMPLETED, SUCCEEDED) else {"payment_status": "unpaid"}
            changes |= {"status": "expired"} if kind == EXPIRED else {}
            event = make_event(kind, session, **changes)
            await asyncio.gather(*(deliver(shop, sent) for sent in (event, event, with_new_id(event))))

        order = await shop.get_order(placed_order["order_id"])
        assert (order["status"], order["payment"]["status"]) == ("PAID", "SUCCEEDED"), kinds
    await assert_ledgers_agree(resources, stripe)


# Events that do not match our order


async def test_an_event_that_does_not_match_is_stored_and_stripe_is_asked(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, database: asyncpg.Connection
) -> None:
    """Each event differs in one field from the session at Stripe. The sweep then settles by Stripe's own answer."""
    product = await shop.create_product()
    # The changed fields, the outcome at first, and the outcome after Stripe was asked (None: it is not asked).
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"amount_total": 1}, "mismatch", "applied"),
        ({"currency": "usd"}, "mismatch", "applied"),
        ({"payment_intent": None}, "mismatch", "applied"),
        ({"metadata": {"order_id": str(uuid4())}}, "order_not_found", "applied"),
        ({"metadata": {"order_id": str(uuid4())}, "id": "cs_unknown"}, "order_not_found", "order_not_found"),
        ({"status": 7}, "unreadable", "applied"),
        ({"metadata": {"order_id": "17"}}, "not_ours", None),
        ({"metadata": {}}, "not_ours", None),
        ({"metadata": None}, "not_ours", None),
    ]
    for changes, outcome, final_outcome in cases:
        placed_order = await shop.checked_out_cart((product["id"], 1))
        session = stripe.pay(placed_order["payment"]["stripe_session_id"])
        count_before = count_events(outcome)

        assert await deliver(shop, make_event(COMPLETED, session, **changes)) == outcome

        assert count_events(outcome) == count_before + 1
        assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT", changes
        assert (await event_outcomes(database))[-1] == (outcome, final_outcome is None)

        assert await sweep.sweep(resources) == (final_outcome is not None)

        assert (await event_outcomes(database))[-1] == (final_outcome or outcome, True)
        paid = final_outcome == "applied"
        status = "PAID" if paid else "PENDING_PAYMENT"
        assert (await shop.get_order(placed_order["order_id"]))["status"] == status, changes
        assert await deliver(shop, make_event(COMPLETED, session)) == ("unchanged" if paid else "applied")
        await sweep.sweep(resources)
    await assert_ledgers_agree(resources, stripe)


async def test_an_event_that_says_paid_pays_nothing_while_stripe_says_open(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources
) -> None:
    product = await shop.create_product()
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    event = make_event(COMPLETED, session, status="complete", payment_status="paid", amount_total=1)

    assert await deliver(shop, event) == "mismatch"
    assert await webhooks.process_stored_event(resources, event["id"]) == "unchanged"

    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"
    await assert_ledgers_agree(resources, stripe)


async def test_the_end_of_another_session_does_not_cancel_the_order(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.session(placed_order["payment"]["stripe_session_id"])

    assert await deliver(shop, make_event(EXPIRED, session, id="cs_older", status="expired")) == "unchanged"

    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"


async def test_one_payment_does_not_pay_two_orders(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product()
    paid, other = [await shop.checked_out_cart((product["id"], 1)) for _ in range(2)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    event = last_event(stripe, COMPLETED)
    assert await deliver(shop, event) == "applied"
    session = event["data"]["object"]
    forged = make_event(COMPLETED, session, id="cs_test_other", metadata={"order_id": other["order_id"]})

    assert await deliver(shop, forged) == "mismatch"
    await sweep.sweep(resources)

    assert (await shop.get_order(other["order_id"]))["status"] == "PENDING_PAYMENT"
    handled = await database.fetchval("SELECT handled_at FROM stripe_events WHERE id = $1", forged["id"])
    assert handled is not None
    await assert_ledgers_agree(resources, stripe)


async def test_a_payment_of_one_paid_order_is_not_refunded_for_another(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources
) -> None:
    product = await shop.create_product()
    one, other = [await shop.checked_out_cart((product["id"], 1)) for _ in range(2)]
    for placed_order in (one, other):
        stripe.pay(placed_order["payment"]["stripe_session_id"])
        assert await deliver(shop, last_event(stripe, COMPLETED)) == "applied"
    session = stripe.session(one["payment"]["stripe_session_id"])

    assert await deliver(shop, make_event(COMPLETED, session, metadata={"order_id": other["order_id"]})) == "mismatch"
    await sweep.sweep(resources)

    assert list(stripe.refunds) == []
    await assert_ledgers_agree(resources, stripe)


# Shapes that we do not get today


SHAPES: dict[str, dict[str, Any]] = {
    "no intent": {"payment_intent": None},
    "an expanded intent": {"payment_intent": "expanded"},
    "an unknown intent": {"payment_intent": "pi_unknown", "amount_total": 1},
    "no payment required": {"payment_status": "no_payment_required", "payment_intent": None, "amount_total": 0},
    "a new word": {"payment_status": "perhaps"},
}


@pytest.mark.parametrize("learn", ["by event", "by the end of the hold"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_session_of_an_odd_shape_is_paid_refundable_or_listed(
    shop: Shop,
    stripe: StripeStandin,
    webhooks_dropped: None,
    resources: Resources,
    database: asyncpg.Connection,
    shape: str,
    learn: str,
) -> None:
    """Goal: such an order is neither in progress for ever, nor paid without a payment that can be refunded."""
    placed_order = await shop.checked_out_cart()
    order_id, session_id = placed_order["order_id"], placed_order["payment"]["stripe_session_id"]
    session = stripe.pay(session_id)
    if shape == "an expanded intent":
        stripe.expand_intent(session_id)
    else:
        stripe.show(session_id, **SHAPES[shape])

    if learn == "by event":
        event = make_event(COMPLETED, {**session, **SHAPES[shape]})
        if shape == "an expanded intent":
            event["data"]["object"]["payment_intent"] = dict(stripe.intent(session["payment_intent"]))
        await deliver(shop, event)
        for _ in range(2):
            await make_everything_due(database)
            await sweep.sweep(resources)
    await end_hold(database, order_id)
    await sweep.sweep(resources)

    order = await shop.get_order(order_id)
    listed = (await shop.call("GET", "/stuck", 200))["items"]
    if shape == "an expanded intent":
        assert order["status"] in ("PAID", "FULFILLED")
        assert await database.fetchval("SELECT stripe_payment_intent_id FROM payments") == session["payment_intent"]
        assert listed == []
    elif shape == "a new word":
        # Its payment intent shows that the whole amount was captured.
        assert order["status"] in ("PAID", "FULFILLED")
    else:
        assert (order["status"], order["payment"]["status"]) == ("CANCELLED", "EXPIRED")
        assert [(item["kind"], item["order_id"]) for item in listed] == [("unmatched_payment", order_id)]
