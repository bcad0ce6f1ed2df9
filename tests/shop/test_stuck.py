"""What no repairer can finish: failed refunds, unmatched payments, disputes and events are listed until they end."""

import asyncio
import logging
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.metrics import exposition
from service.infra.resources import Resources
from service.shop import refunds, stuck, sweep
from service.shop.audit import audit
from tests.client import Shop
from tests.database import make_everything_due
from tests.shop.test_refunds import (
    create_fulfilled_order,
    create_late_payment,
    create_paid_order,
    remove_stock,
    request_refund,
)
from tests.stripe_events import deliver, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def list_stuck(shop: Shop, query: str = "") -> list[dict[str, Any]]:
    page = await shop.call("GET", f"/stuck{query}", 200)
    assert page["next_cursor"] is None
    return list(page["items"])


async def notes_of(shop: Shop, order_id: str) -> list[str]:
    timeline = await shop.call("GET", f"/orders/{order_id}/timeline", 200)
    return [line["note"] for line in timeline["items"] if line["note"]]


def gauge(kind: str) -> float:
    (line,) = [line for line in exposition().decode().splitlines() if line.startswith(f'stuck{{kind="{kind}"')]
    return float(line.split()[-1])


def warnings(caplog: pytest.LogCaptureFixture, kind: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if getattr(record, "kind", None) == kind]


# Refunds


@pytest.mark.parametrize(
    ("how", "word"), [("failed", "lost_or_stolen_card"), ("canceled", "canceled"), ("refused", "charge_disputed")]
)
async def test_a_failed_refund_of_a_live_order_stays_visible(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    caplog: pytest.LogCaptureFixture,
    how: str,
    word: str,
) -> None:
    """Goal: a refund that Stripe fails after it succeeded, cancels or refuses is shown, not only its absence.

    The order shows it with its reason, the timeline has a note, one WARNING and the gauge say it, and the list has it
    until a later refund succeeds.
    """
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    if how == "refused":
        stripe.dispute(intent)
    await request_refund(shop, order_id, amount_minor=500, reason="a scratch")
    await sweep.sweep(resources)
    if how != "refused":
        (at_stripe,) = stripe.refunds
        at_stripe |= {"status": how, "failure_reason": word if how == "failed" else None}
        stripe.charges.get(at_stripe["charge"])["amount_refunded"] = 0
        event = make_event("charge.refund.updated", at_stripe)
        assert await deliver(shop, event) == "refund_to_settle"
        await sweep.sweep(resources)

    order = await shop.get_order(order_id)
    assert (order["status"], order["payment"]["status"]) == ("FULFILLED", "SUCCEEDED")
    (refund,) = order["refunds"]
    assert refund == {
        **refund,
        "amount_minor": 500,
        "currency": "EUR",
        "status": "FAILED",
        "failure_reason": word,
        "items": [],
        "reason": "a scratch",
    }
    assert any(refund["id"] in note and word in note for note in await notes_of(shop, order_id))
    (item,) = await list_stuck(shop, "?kind=refund_failed")
    assert (item["id"], item["order_id"]) == (refund["id"], order_id)
    assert word in item["reason"]
    assert gauge("refund_failed") == 1
    (warning,) = warnings(caplog, "refund_failed")
    assert warning["levelno"] == logging.WARNING
    assert (warning["order_id"], warning["id"]) == (order_id, refund["id"])
    assert (warning["stripe_refund_id"] is None) == (how == "refused")

    for _ in range(2):
        await refunds.settle(resources, UUID(order_id))
    assert len(warnings(caplog, "refund_failed")) == 1
    if how == "refused":
        await shop.call("POST", f"/stuck/refund_failed/{refund['id']}/resolve", 200, {"reason": "paid in cash"})
    else:
        await request_refund(shop, order_id, amount_minor=500)
    await sweep.sweep(resources)
    assert await list_stuck(shop, "?kind=refund_failed") == []
    assert gauge("refund_failed") == 0
    await assert_ledgers_agree(resources, stripe)


async def test_a_refund_that_fails_after_its_units_are_back_says_so(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    """The unit of a paid order is sold to the next customer. Staff refund it again, and it does not return twice."""
    tent, mug = await shop.create_product(stock=1), await shop.create_product(stock=1)
    order_id, _ = await create_paid_order(shop, stripe, (tent["id"], 1), (mug["id"], 1))
    body = {"items": [{"product_id": tent["id"], "quantity": 1, "restock": True}]}
    await request_refund(shop, order_id, **body)
    await refunds.settle(resources, UUID(order_id))
    await create_paid_order(shop, stripe, (tent["id"], 1))
    (refund,) = stripe.refunds
    stripe.set_refund(refund["id"], "failed")
    await refunds.settle(resources, UUID(order_id))

    (item,) = await list_stuck(shop, "?kind=refund_failed")
    assert item["reason"].endswith("; its units are back in stock")
    assert any(note.endswith("; its units are back in stock") for note in await notes_of(shop, order_id))
    await assert_ledgers_agree(resources, stripe)

    await request_refund(shop, order_id, **body)
    await refunds.settle(resources, UUID(order_id))
    assert await list_stuck(shop) == []
    assert [await shop.get_stock(product["id"]) for product in (tent, mug)] == [0, 0]
    await assert_ledgers_agree(resources, stripe)


async def test_customers_see_refunds_without_the_staffs_reasons(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    order_id, _ = await create_fulfilled_order(shop, stripe, resources)
    answer = await request_refund(shop, order_id, amount_minor=500, reason="our mistake")
    shown = (await shop.get_order(order_id))["refunds"]

    assert [refund["reason"] for refund in answer["refunds"]] == ["our mistake"]
    assert [refund["reason"] for refund in shown] == ["our mistake"]


async def test_a_failed_refund_of_a_cancelled_order_is_listed_once_until_its_repetition_succeeds(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=1)
    order_id, late_event = await create_late_payment(shop, stripe, (product["id"], 1))
    await remove_stock(shop, product, 1)
    await deliver(shop, late_event)
    stripe.refund_status = "pending"
    await sweep.sweep(resources)
    for _ in range(3):
        *_, newest = stripe.refunds
        stripe.set_refund(newest["id"], "failed")
        await refunds.settle(resources, UUID(order_id))
        assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUND_PENDING", 0)
        assert len(await list_stuck(shop)) == 1
        await make_everything_due(database)
        await sweep.sweep(resources)

    *_, newest = stripe.refunds
    stripe.set_refund(newest["id"], "succeeded")
    await refunds.settle(resources, UUID(order_id))

    assert await list_stuck(shop) == []
    assert [refund["status"] for refund in (await shop.get_order(order_id))["refunds"]] == [
        *["FAILED"] * 3,
        "SUCCEEDED",
    ]


async def test_what_people_settled_elsewhere_is_not_refunded_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: staff who paid a customer by bank transfer end the attempts at Stripe.

    Method: resolve a failed refund of a cancelled order, whose repetition waits; make all due; count the refunds.
    """
    product = await shop.create_product(stock=1)
    order_id, late_event = await create_late_payment(shop, stripe, (product["id"], 1))
    await remove_stock(shop, product, 1)
    await deliver(shop, late_event)
    stripe.refund_status = "failed"
    await sweep.sweep(resources)
    await refunds.settle(resources, UUID(order_id))
    (item,) = await list_stuck(shop)
    path = f"/stuck/{item['kind']}/{item['id']}/resolve"

    resolved = await shop.call("POST", path, 200, {"reason": "paid back by bank transfer"}, Idempotency_Key="a")
    again = await shop.call("POST", path, 200, {"reason": "paid back by bank transfer"}, Idempotency_Key="a")
    assert resolved == again == item
    assert (await shop.call("POST", path, 404, {"reason": "paid back by bank transfer"}))["code"] == "not_found"
    for _ in range(3):
        await make_everything_due(database)
        await sweep.sweep(resources)

    assert len(list(stripe.refunds)) == 1
    assert await list_stuck(shop) == []
    assert gauge("refund_failed") == 0
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUND_PENDING", 0)
    assert any("settled elsewhere: paid back by bank transfer" in note for note in await notes_of(shop, order_id))
    await assert_ledgers_agree(resources, stripe, settled_elsewhere={order_id})


async def test_an_unmatched_payment_is_listed_until_it_is_refunded_or_resolved(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    for ends in ("refunded", "resolved"):
        placed = await shop.checked_out_cart()
        session = stripe.session(placed["payment"]["stripe_session_id"])
        session["amount_total"] = 1490
        stripe.pay(session["id"])
        stripe.refund_status = "pending" if ends == "refunded" else "failed"
        await deliver(shop, last_event(stripe, COMPLETED))
        for _ in range(2):
            await sweep.sweep(resources)
        (item,) = await list_stuck(shop, "?kind=unmatched_payment")
        assert (item["id"], item["order_id"]) == (session["payment_intent"], placed["order_id"])
        assert "1490 EUR" in item["reason"]
        before = len(list(stripe.refunds))

        if ends == "refunded":
            stripe.set_refund([*stripe.refunds][-1]["id"], "succeeded")
        else:
            await shop.call("POST", f"/stuck/unmatched_payment/{item['id']}/resolve", 200, {"reason": "paid in cash"})
        for _ in range(2):
            await make_everything_due(database)
            await sweep.sweep(resources)

        assert await list_stuck(shop, "?kind=unmatched_payment") == []
        assert len(list(stripe.refunds)) == before


async def test_a_refund_that_is_open_for_a_day_is_listed_until_stripe_decides_it(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    order_id, _ = await create_fulfilled_order(shop, stripe, resources)
    stripe.refund_status = "requires_action"
    await request_refund(shop, order_id, amount_minor=500)
    await sweep.sweep(resources)
    assert await list_stuck(shop) == []

    await database.execute("UPDATE refunds SET created_at = now() - interval '25 hours', next_attempt_at = now()")
    await asyncio.gather(*(sweep.sweep(resources) for _ in range(3)))
    (item,) = await list_stuck(shop)
    assert (item["kind"], item["order_id"]) == ("refund_open", order_id)
    assert gauge("refund_open") == 1
    assert len(warnings(caplog, "refund_open")) == 1

    next(iter(stripe.refunds))["status"] = "succeeded"
    await refunds.settle(resources, UUID(order_id))
    assert await list_stuck(shop) == []


async def test_what_people_settled_elsewhere_leaves_the_audit(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: an open refund and an unhandled event that people settled are overdue no more; others still are."""
    order_id, _ = await create_fulfilled_order(shop, stripe, resources)
    stripe.refund_status = "pending"
    for _ in range(2):
        await request_refund(shop, order_id, amount_minor=500)
        await deliver(shop, make_event("refund.updated", {"id": "re_1", "payment_intent": "pi_unknown"}))
    await refunds.settle(resources, UUID(order_id))
    await database.execute("UPDATE refunds SET created_at = now() - interval '25 hours', next_attempt_at = now()")
    await database.execute(
        "UPDATE stripe_events SET received_at = now() - interval '25 hours' WHERE handled_at IS NULL"
    )
    refund_ids = await database.fetch("SELECT id FROM refunds ORDER BY id")
    event_ids = await database.fetch("SELECT id FROM stripe_events WHERE handled_at IS NULL ORDER BY id")
    await stuck.list_open(
        resources, refund_ids=[row["id"] for row in refund_ids], event_ids=[e["id"] for e in event_ids]
    )

    overdue = [violation.subject for violation in (await audit(resources.pool))["audit/nothing_is_overdue"]]
    assert len(overdue) == 4
    for kind, item_id in (("refund_open", refund_ids[0]["id"]), ("event_unhandled", event_ids[0]["id"])):
        await shop.call("POST", f"/stuck/{kind}/{item_id}/resolve", 200, {"reason": "Stripe's support did it"})

    overdue = [violation.subject for violation in (await audit(resources.pool))["audit/nothing_is_overdue"]]
    assert overdue == [f"event {event_ids[1]['id']}", f"refund {refund_ids[1]['id']}"]


# Disputes


async def test_a_dispute_that_needs_another_answer_is_listed_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: an inquiry that people answered becomes a chargeback, which has another deadline and is not silent."""
    order_id, intent = await create_fulfilled_order(shop, stripe, resources)
    dispute = stripe.dispute(intent, status="warning_needs_response")
    inquiry = last_event(stripe, "charge.dispute.created")
    await deliver(shop, inquiry)
    path = f"/stuck/dispute_open/{dispute['id']}/resolve"
    await shop.call("POST", path, 200, {"reason": "answered in the dashboard"})
    await deliver(shop, {**inquiry, "id": "evt_again"})
    assert await list_stuck(shop) == []

    stripe.set_dispute(dispute["id"], "needs_response")
    chargeback = last_event(stripe, "charge.dispute.updated")
    await deliver(shop, {**chargeback, "created": inquiry["created"] + 1})

    (item,) = await list_stuck(shop)
    assert (item["kind"], item["id"], item["order_id"]) == ("dispute_open", dispute["id"], order_id)
    assert item["reason"].endswith(" needs_response")
    assert len(warnings(caplog, "dispute_open")) == 2
    await shop.call("POST", path, 200, {"reason": "answered in the dashboard"})
    await deliver(shop, {**chargeback, "id": "evt_again too", "created": inquiry["created"] + 1})
    assert await list_stuck(shop) == []


# The list


async def test_the_list_is_read_page_by_page(shop: Shop, database: asyncpg.Connection) -> None:
    kinds = [*stuck.KINDS, *stuck.KINDS, "refund_open"]
    for number, kind in enumerate(kinds):
        await database.execute("INSERT INTO stuck_items (kind, id, reason) VALUES ($1, $2, 'x')", kind, f"id {number}")

    of_kind = [f"id {number}" for number, kind in enumerate(kinds) if kind == "refund_open"]
    for query, expected in (("", [f"id {n}" for n in range(len(kinds))]), ("&kind=refund_open", of_kind)):
        seen: list[str] = []
        cursor = 0
        while cursor is not None:
            page = await shop.call("GET", f"/stuck?limit=2&after_id={cursor}{query}", 200)
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert seen == expected
    assert (await shop.call("GET", "/stuck?kind=mood", 422))["code"] == "invalid"


async def test_only_what_is_listed_can_be_resolved(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO stuck_items (kind, id, reason) VALUES ('event_unhandled', 'evt_1', 'x')")
    for path in ("event_unhandled/evt_2", "refund_open/evt_1", "mood/evt_1", f"refund_failed/{uuid4()}"):
        assert (await shop.call("POST", f"/stuck/{path}/resolve", 404, {"reason": "x"}))["code"] == "not_found"
    for body in ({}, {"reason": ""}, {"reason": " "}, {"reason": 1}, {"reason": "x" * 501}):
        assert (await shop.call("POST", "/stuck/event_unhandled/evt_1/resolve", 422, body))["code"] == "invalid"

    await shop.call("POST", "/stuck/event_unhandled/evt_1/resolve", 200, {"reason": "applied by hand"})

    assert await list_stuck(shop) == []
