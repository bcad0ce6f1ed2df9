"""What becomes of payments, refunds and disputes at the stand-in, days and weeks later too."""

from itertools import pairwise
from typing import Any

import pytest

from service.dev.stripe_standin import StripeStandin
from tests.dev.world import SHOP, Receiver, World, eventually, refused, world_of

DAY = 86_400

# Payments that settle later


async def test_a_bank_transfer_is_complete_and_unpaid_at_first(world: World, receiver: Receiver) -> None:
    session = await world.create()

    status, location, _ = await world.press(session, "later")

    assert (status, location) == (303, f"{SHOP}/done?session_id={session.id}")
    promised = await world.sessions.retrieve_async(session.id)
    assert (promised.status, promised.payment_status) == ("complete", "unpaid")
    await receiver.until(2)
    assert sorted(receiver.types()) == ["checkout.session.completed", "payment_intent.processing"]
    assert receiver.event("checkout.session.completed")["data"]["object"]["payment_status"] == "unpaid"
    error = await refused(world.refunds.create_async({"payment_intent": promised.payment_intent}), 400)
    assert "does not have a successful charge to refund" in error.user_message


@pytest.mark.parametrize(
    ("succeed", "payment_status", "intent_status", "events"),
    [
        (True, "paid", "succeeded", ["checkout.session.async_payment_succeeded", "payment_intent.succeeded"]),
        (
            False, "unpaid", "requires_payment_method",
            ["checkout.session.async_payment_failed", "payment_intent.payment_failed"],
        ),
    ],
)  # fmt: skip
async def test_a_bank_transfer_settles_later(
    world: World,
    receiver: Receiver,
    succeed: bool,
    payment_status: str,
    intent_status: str,
    events: list[str],
) -> None:
    session = await world.create()
    await world.press(session, "later")
    await receiver.until(2)

    await world.control("POST", f"/sessions/{session.id}/settle", {"succeed": succeed})

    settled = await world.sessions.retrieve_async(session.id)
    assert settled.payment_status == payment_status
    assert (await world.intents.retrieve_async(settled.payment_intent)).status == intent_status
    await receiver.until(4)
    assert sorted(receiver.types()[2:]) == events


async def test_a_bank_transfer_settles_by_itself() -> None:
    async with world_of(StripeStandin(settle_seconds=10)) as world:
        session = await world.create()
        await world.press(session, "later")

        world.standin.advance_clock(9)
        before = await world.sessions.retrieve_async(session.id)
        world.standin.advance_clock(2)
        after = await world.sessions.retrieve_async(session.id)

    assert (before.payment_status, after.payment_status) == ("unpaid", "paid")


async def test_a_voucher_is_paid_days_later(world: World, receiver: Receiver) -> None:
    session = await world.create()

    await world.press(session, "voucher")
    printed = await world.intents.retrieve_async((await world.sessions.retrieve_async(session.id)).payment_intent)
    world.standin.advance_clock(2 * DAY)
    status, text = await world.page(session.url)
    await world.press(session, "settle")

    assert (printed.status, printed.next_action.type) == ("requires_action", "boleto_display_details")
    assert printed.latest_charge is None
    assert (status, "its payment settles later" in text) == (200, True)
    paid = await world.sessions.retrieve_async(session.id)
    intent = await world.intents.retrieve_async(paid.payment_intent)
    assert (paid.status, paid.payment_status) == ("complete", "paid")
    assert (intent.status, intent.amount_received, intent.next_action) == ("succeeded", 2500, None)
    await receiver.until(4)
    assert sorted(receiver.types()) == [
        "checkout.session.async_payment_succeeded", "checkout.session.completed",
        "payment_intent.requires_action", "payment_intent.succeeded",
    ]  # fmt: skip


async def test_a_voucher_that_nobody_pays_fails_after_three_days(world: World) -> None:
    session = await world.create()
    await world.press(session, "voucher")

    world.standin.advance_clock(3 * DAY)

    unpaid = await world.sessions.retrieve_async(session.id)
    intent = await world.intents.retrieve_async(unpaid.payment_intent)
    assert (unpaid.status, unpaid.payment_status, intent.status) == ("complete", "unpaid", "requires_payment_method")
    newest = [event["type"] for event in world.standin.events][-2:]
    assert newest == ["payment_intent.payment_failed", "checkout.session.async_payment_failed"]


async def test_the_page_offers_what_the_session_does(world: World) -> None:
    session = await world.create(excluded_payment_method_types=["sepa_debit", "boleto"])
    only_voucher = await world.create(allowed_payment_method_types=["boleto"])

    _, text = await world.page(session.url)
    _, voucher_text = await world.page(only_voucher.url)

    assert ("3-D Secure" in text, "bank transfer" in text, "Boleto" in text) == (True, False, False)
    assert ("3-D Secure" in voucher_text, "Boleto" in voucher_text) == (False, True)
    _, _, refusal = await world.press(session, "later")
    assert "does not offer sepa_debit" in refusal
    assert (await world.sessions.retrieve_async(session.id)).status == "open"


# 3-D Secure


@pytest.mark.parametrize(
    ("answer", "status", "intent_status", "event"),
    [
        ("pay", "complete", "succeeded", "payment_intent.succeeded"),
        ("decline", "open", "requires_payment_method", "payment_intent.payment_failed"),
    ],
)
async def test_3d_secure_is_passed_or_failed(
    world: World, answer: str, status: str, intent_status: str, event: str
) -> None:
    session = await world.create()

    _, _, question = await world.press(session, "secure", email="jo@example.com")
    asked = await world.sessions.retrieve_async(session.id)
    waiting = await world.intents.retrieve_async(asked.payment_intent)
    _, _, text = await world.press(session, answer)

    assert "Your bank asks" in question
    assert 'name="email" value="jo@example.com"' in question
    assert (asked.status, waiting.status, waiting.next_action.type) == ("open", "requires_action", "use_stripe_sdk")
    answered = await world.sessions.retrieve_async(session.id)
    assert (answered.status, answered.payment_intent) == (status, asked.payment_intent)
    assert (await world.intents.retrieve_async(asked.payment_intent)).status == intent_status
    assert ("failed authentication" in text) == (answer == "decline")
    emitted = [event["type"] for event in world.standin.events]
    assert emitted[:2] == ["payment_intent.requires_action", event]


async def test_a_session_that_waits_for_3d_secure_can_expire(world: World) -> None:
    session = await world.create()
    world.standin.require_action(session.id)

    expired = await world.sessions.expire_async(session.id)

    assert (await world.intents.retrieve_async(expired.payment_intent)).status == "canceled"


# Odd sessions


async def test_a_session_with_nothing_to_pay_needs_no_payment(world: World) -> None:
    session = await world.create()

    await world.control("POST", f"/sessions/{session.id}/pay", {"no_payment": True})

    done = await world.sessions.retrieve_async(session.id)
    assert (done.status, done.payment_status) == ("complete", "no_payment_required")
    assert (done.amount_total, done.amount_subtotal, done.payment_intent) == (0, 2500, None)
    assert world.standin.ledger()["payments"] == []


async def test_an_intent_is_shown_as_an_object_or_not_at_all(world: World) -> None:
    expanded, hidden = await world.create(), await world.create()
    await world.control("POST", f"/sessions/{expanded.id}/expand-intent")
    await world.control("POST", f"/objects/{hidden.id}", {"payment_intent": None})

    for session in (expanded, hidden):
        world.standin.pay(session.id)

    intent = (await world.sessions.retrieve_async(expanded.id)).payment_intent
    assert (intent.object, intent.status, intent.amount_received) == ("payment_intent", "succeeded", 2500)
    events = [event["data"]["object"] for event in world.standin.events]
    assert [e["payment_intent"] and e["payment_intent"]["id"] for e in events if "payment_intent" in e] == [
        intent.id, None,
    ]  # fmt: skip
    assert (await world.sessions.retrieve_async(hidden.id)).payment_intent is None
    # The true member is unchanged.
    assert world.standin.session(hidden.id)["payment_intent"].startswith("pi_")


async def test_addresses_and_phone_numbers_are_collected(world: World) -> None:
    session = await world.create(
        shipping_address_collection={"allowed_countries": ["DE", "AT"]}, phone_number_collection={"enabled": True}
    )

    world.standin.pay(session.id)

    paid = await world.sessions.retrieve_async(session.id)
    assert paid.collected_information.shipping_details.address.country == "DE"
    assert paid.customer_details.phone == "+14155550132"


# Refunds


async def test_a_payment_is_refunded_in_two_steps(world: World, receiver: Receiver) -> None:
    paid = await world.create_paid(2500)
    payment = {"payment_intent": paid.payment_intent}

    first = await world.refunds.create_async({**payment, "amount": 1000, "metadata": {"refund_id": "7"}})
    rest = await world.refunds.create_async({"charge": first.charge, "reason": "requested_by_customer"})

    assert (first.object, first.amount, first.currency, first.status) == ("refund", 1000, "usd", "succeeded")
    assert (first.payment_intent, first.metadata["refund_id"]) == (paid.payment_intent, "7")
    assert (rest.amount, rest.reason) == (1500, "requested_by_customer")
    page = await world.refunds.list_async(payment)
    assert [refund.id for refund in page.data] == [rest.id, first.id]
    assert (await world.refunds.retrieve_async(first.id)).to_dict() == first.to_dict()
    assert world.standin.ledger()["payments"][0]["refunded"] == 2500
    await receiver.until(6)
    assert (receiver.types().count("refund.created"), receiver.types().count("charge.refunded")) == (2, 2)


async def test_a_refund_above_the_unrefunded_amount_is_refused(world: World) -> None:
    paid = await world.create_paid(2500)
    payment = {"payment_intent": paid.payment_intent}
    await world.refunds.create_async({**payment, "amount": 1000})

    error = await refused(world.refunds.create_async({**payment, "amount": 1501}), 400, None, "amount")

    assert error.user_message == "Refund amount ($15.01) is greater than unrefunded amount on charge ($15.00)"


async def test_a_refund_after_a_whole_refund_is_refused(world: World) -> None:
    paid = await world.create_paid(2500)
    payment = {"payment_intent": paid.payment_intent}
    refund = await world.refunds.create_async(payment)

    error = await refused(world.refunds.create_async(payment), 400, "charge_already_refunded")

    assert error.user_message == f"Charge {refund.charge} has already been refunded."


async def test_a_key_remembers_a_refused_refund(world: World) -> None:
    paid = await world.create_paid(2500)
    parameters = {"payment_intent": paid.payment_intent, "amount": 2501}

    for _ in range(2):
        error = await refused(world.refunds.create_async(parameters, {"idempotency_key": "k"}), 400, None, "amount")

    assert error.headers["Idempotent-Replayed"] == "true"


async def test_a_pending_refund_is_not_refunded_yet(world: World) -> None:
    paid = await world.create_paid(2500)
    await world.control("PUT", "/refunds", {"status": "pending"})

    pending = await world.refunds.create_async({"payment_intent": paid.payment_intent})

    assert pending.status == "pending"
    assert world.standin.ledger()["payments"][0]["refunded"] == 0
    again = {"payment_intent": paid.payment_intent}
    await refused(world.refunds.create_async(again), 400, "charge_already_refunded")


async def test_the_amount_of_a_failed_refund_can_be_refunded_again(world: World, receiver: Receiver) -> None:
    paid = await world.create_paid(2500)
    await world.control("PUT", "/refunds", {"status": "pending"})
    pending = await world.refunds.create_async({"payment_intent": paid.payment_intent})

    await world.control("POST", f"/refunds/{pending.id}", {"status": "failed"})
    second = await world.refunds.create_async({"payment_intent": paid.payment_intent})
    await world.control("POST", f"/refunds/{second.id}", {"status": "succeeded"})

    failed = await world.refunds.retrieve_async(pending.id)
    assert failed.status == "failed"
    assert failed.failure_reason
    await eventually(lambda: "refund.failed" in receiver.types() and "refund.updated" in receiver.types())
    assert world.standin.ledger()["payments"][0]["refunded"] == 2500


async def refund_of(world: World, status: str) -> Any:
    """A refund in this status."""
    world.standin.refund_status = "pending" if status == "failed" else status
    refund = await world.refunds.create_async({"payment_intent": (await world.create_paid(2500)).payment_intent})
    if status == "failed":
        world.standin.set_refund(refund.id, status)
    return refund


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("pending", "requires_action"),
        ("pending", "succeeded"),
        ("pending", "failed"),
        ("pending", "canceled"),
        ("requires_action", "pending"),
        ("requires_action", "canceled"),
        ("succeeded", "failed"),
        ("succeeded", "canceled"),
    ],
)
async def test_a_refund_changes_weeks_later(world: World, receiver: Receiver, status: str, after: str) -> None:
    refund = await refund_of(world, status)
    world.standin.advance_clock(21 * DAY)
    before = len(list(world.standin.events))

    await world.control("POST", f"/refunds/{refund.id}", {"status": after})

    changed = (await world.refunds.retrieve_async(refund.id)).to_dict()
    reasons = {"failed": "lost_or_stolen_card", "canceled": "merchant_request"}
    assert changed["status"] == after
    # As at Stripe, other refunds have no such member.
    assert changed.get("failure_reason", "absent") == reasons.get(after, "absent")
    assert ("next_action" in changed) == (after == "requires_action")
    updates = ["refund.updated", "charge.refund.updated", *(["refund.failed"] if after == "failed" else [])]
    assert [event["type"] for event in world.standin.events][before:] == updates
    await receiver.until(before + len(updates))
    previous = receiver.event("refund.updated")["data"]["previous_attributes"]
    assert previous["status"] == status
    assert ("failure_reason" in previous) == (after in reasons)
    again = world.refunds.create_async({"payment_intent": refund.payment_intent})
    if after in reasons:
        assert (await again).amount == 2500
    else:
        await refused(again, 400, "charge_already_refunded")


@pytest.mark.parametrize(
    ("status", "after"),
    [("failed", "succeeded"), ("canceled", "pending"), ("succeeded", "pending"), ("pending", "lost")],
)
async def test_other_changes_of_a_refund_are_refused(world: World, status: str, after: str) -> None:
    refund = await refund_of(world, status)

    async with world.http.post(f"{world.base}/_control/refunds/{refund.id}", json={"status": after}) as response:
        assert response.status == 400

    assert (await world.refunds.retrieve_async(refund.id)).status == status


async def test_a_refund_says_why_it_failed(world: World) -> None:
    refund = await refund_of(world, "succeeded")

    world.standin.set_refund(refund.id, "failed", "expired_or_canceled_card")

    assert (await world.refunds.retrieve_async(refund.id)).failure_reason == "expired_or_canceled_card"


async def test_a_refund_is_made_in_the_dashboard(world: World) -> None:
    paid = await world.create_paid(2500)

    await world.control("POST", "/refunds", {"payment_intent": paid.payment_intent, "amount": 1000})

    assert [refund["amount"] for refund in world.standin.refunds] == [1000]


# Disputes


@pytest.mark.parametrize(
    ("statuses", "events", "moved"),
    [
        (["needs_response", "lost"], ["created", "funds_withdrawn", "closed"], [-2500]),
        (
            ["needs_response", "under_review", "won"],
            ["created", "funds_withdrawn", "updated", "closed", "funds_reinstated"],
            [-2500, 2500],
        ),
        (["warning_needs_response", "warning_closed"], ["created", "closed"], []),
        (["warning_needs_response", "prevented"], ["created", "closed"], []),
        (
            ["needs_response", "lost", "appeal_needs_response", "appeal_under_review", "won"],
            ["created", "funds_withdrawn", "closed", "updated", "updated", "closed", "funds_reinstated"],
            [-2500, 2500],
        ),
        (
            ["warning_needs_response", "warning_under_review", "needs_response", "lost"],
            ["created", "updated", "updated", "funds_withdrawn", "closed"],
            [-2500],
        ),
    ],
)
async def test_a_dispute_to_its_end(
    world: World, receiver: Receiver, statuses: list[str], events: list[str], moved: list[int]
) -> None:
    """Bring a dispute from its first status to its last, and compare the events that each change makes."""
    paid = await world.create_paid(2500)
    sent = len(list(world.standin.events))
    first, *others = statuses

    dispute = await world.control(
        "POST", "/disputes", {"payment_intent": paid.payment_intent, "reason": "product_not_received", "status": first}
    )
    for status in others:
        await world.control("POST", f"/disputes/{dispute['id']}", {"status": status})

    emitted = list(world.standin.events)[sent:]
    assert [event["type"] for event in emitted] == [f"charge.dispute.{kind}" for kind in events]
    last = emitted[-1]["data"]["object"]
    assert (last["id"], last["status"], last["reason"]) == (dispute["id"], statuses[-1], "product_not_received")
    assert [transaction["amount"] for transaction in last["balance_transactions"]] == moved
    changes = [e["data"]["previous_attributes"]["status"] for e in emitted if e["type"].endswith("updated")]
    closed = ("won", "lost", "warning_closed", "prevented")
    assert changes == [status for status, after in pairwise(statuses) if after not in closed]
    await receiver.until(sent + len(events))


async def test_a_part_of_a_payment_is_disputed(world: World) -> None:
    paid = await world.create_paid(2500)

    dispute = world.standin.dispute(paid.payment_intent, 700)

    assert (dispute["amount"], dispute["id"][:3]) == (700, "dp_")


async def test_a_dispute_does_not_change_after_its_end(world: World) -> None:
    paid = await world.create_paid(2500)
    dispute = world.standin.dispute(paid.payment_intent)
    world.standin.set_dispute(dispute["id"], "lost")

    async with world.http.post(f"{world.base}/_control/disputes/{dispute['id']}", json={"status": "won"}) as response:
        assert response.status == 400


async def test_a_refund_of_the_whole_payment_ends_an_inquiry(world: World) -> None:
    paid = await world.create_paid(2500)
    inquiry = world.standin.dispute(paid.payment_intent, status="warning_needs_response")

    await world.refunds.create_async({"payment_intent": paid.payment_intent})

    stored = world.standin.disputes.get(inquiry["id"])
    assert stored is not None
    assert stored["status"] == "warning_closed"


async def test_a_payment_whose_dispute_was_won_can_be_refunded(world: World) -> None:
    paid = await world.create_paid(2500)
    dispute = world.standin.dispute(paid.payment_intent)
    payment = {"payment_intent": paid.payment_intent}
    await refused(world.refunds.create_async(payment), 400, "charge_disputed")

    world.standin.set_dispute(dispute["id"], "won")

    assert (await world.refunds.create_async(payment)).amount == 2500


async def test_a_disputed_payment_cannot_be_refunded(world: World, receiver: Receiver) -> None:
    paid = await world.create_paid(2500)

    await world.control("POST", "/disputes", {"payment_intent": paid.payment_intent})

    await eventually(lambda: "charge.dispute.created" in receiver.types())
    dispute = receiver.event("charge.dispute.created")["data"]["object"]
    assert (dispute["payment_intent"], dispute["amount"]) == (paid.payment_intent, 2500)
    refund = {"payment_intent": paid.payment_intent}
    await refused(world.refunds.create_async(refund), 400, "charge_disputed")
