"""Refunds: decided here, made at Stripe, or made in its dashboard and taken over.

A refund is a row before Stripe hears of it. One function, `settle`, takes rows to Stripe and Stripe's list back,
and `_balance` makes of both what the payment and its order are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from service.errors import ShopError, invalid
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement
from service.infra.stripe import StripeRefused, StripeUnknown
from service.shop import orders, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.orders import Order
from service.shop.transitions import AfterCommit, LockedOrder

# Stripe's words for a refund's state -> ours.
STATUSES = {
    "pending": "PENDING",
    "requires_action": "PENDING",
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "canceled": "FAILED",
}


@dataclass(slots=True)
class Refund:
    """A refund of an order, in minor units of its currency; not `due` while it waits to be tried again."""

    id: UUID
    stripe_payment_intent_id: str
    amount_minor: int
    cause: str
    restock: bool
    status: str
    stripe_refund_id: str | None
    due: bool


@dataclass(slots=True)
class UnmatchedPayment:
    """A payment that does not match its order: what it captured, in the minor unit of its own currency."""

    stripe_payment_intent_id: str
    amount_minor: int


@dataclass(slots=True)
class PaidOrder:
    """The order that a payment intent paid."""

    order_id: UUID


ADD_UNMATCHED = Statement("refunds/add_unmatched", NoRow)
LIST_UNMATCHED = Statement("refunds/list_unmatched", UnmatchedPayment)
SETTLE_UNMATCHED = Statement("refunds/settle_unmatched", NoRow)
LIST_REFUNDS = Statement("refunds/list_refunds", Refund)
ADD_REFUND = Statement("refunds/add_refund", NoRow)
RECORD_REFUND = Statement("refunds/record_refund", NoRow)
FAIL_REFUND = Statement("refunds/fail_refund", NoRow)
SET_BALANCE = Statement("refunds/set_balance", NoRow)
FIND_ORDER = Statement("refunds/find_order", PaidOrder)


async def find_order(reader: Connection, payment_intent: str) -> UUID | None:
    """The order that a payment intent paid, as far as we know."""
    found = await FIND_ORDER.maybe(reader, payment_intent)
    return found.order_id if found else None


async def refund(
    resources: Resources, key: IdempotencyKey | None, order_id: UUID, amount_minor: int | None, restock: bool
) -> StoredResponse:
    """200 with the Order once the refund is decided; the worker takes it to Stripe, so it may still be pending.

    Raises as `request` does, and the idempotency key's errors.
    """

    async def decide(tx: Connection) -> Order:
        await request(tx, order_id, amount_minor, restock)
        return await orders.view(tx, order_id)

    answer = await run_once(resources.pool, key, 200, decide)
    await resources.queue.settle_refunds(order_id)
    return answer


async def request(tx: Connection, order_id: UUID, amount_minor: int | None, restock: bool) -> None:
    """Decide a refund by staff: of `amount_minor`, or of all that is left.

    Raises `order_not_refundable` (with what could be refunded) when that much was not paid or is given back
    already, `invalid` for a restock with only a part.
    """
    order = await transitions.lock(tx, order_id)
    known = await LIST_REFUNDS.all(tx, order_id)
    given = sum(_given_back(order.stripe_payment_intent_id, known))
    left = order.total_minor - given if order.payment_status == "SUCCEEDED" else 0
    amount = left if amount_minor is None else amount_minor
    if not 0 < amount <= left or order.stripe_payment_intent_id is None:
        raise ShopError("order_not_refundable", "That much cannot be given back.", refundable_minor=left)
    if restock and amount != left:
        raise invalid("/restock", "only a refund of all that is left puts the units back")
    await ADD_REFUND.run(tx, uuid4(), order_id, order.stripe_payment_intent_id, amount, "staff", restock, 0.0)
    await transitions.add_note(tx, order, f"refund of {amount} requested")
    # Nothing can follow: what is only requested makes no payment REFUNDED.
    await _balance(tx, AfterCommit(), order)


async def add_late_money(
    tx: Connection, after: AfterCommit, order: LockedOrder, payment_intent: str, amount_minor: int
) -> bool:
    """Decide to give back a payment that no live order stands for; False when that was decided before."""
    added = await ADD_REFUND.run(tx, uuid4(), order.id, payment_intent, amount_minor, "late_money", False, 0.0)
    settle_later(after, order.id)
    return added == 1


async def add_unmatched(
    tx: Connection, after: AfterCommit, order: LockedOrder, payment_intent: str, amount_minor: int, currency: str
) -> bool:
    """Keep what a payment that does not match the order captured, for `settle` to give back; False if it was kept."""
    added = await ADD_UNMATCHED.run(tx, payment_intent, order.id, amount_minor, currency)
    settle_later(after, order.id)
    return added == 1


def settle_later(after: AfterCommit, order_id: UUID) -> None:
    """Wake the worker to settle an order's refunds, after the commit."""
    after.add(lambda resources: resources.queue.settle_refunds(order_id))


async def settle(resources: Resources, order_id: UUID) -> None:
    """Ask Stripe for every refund that it does not have yet, and take over all it has. Raises StripeUnknown."""
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, order_id)
        known = await LIST_REFUNDS.all(reader, order_id)
        unmatched = await LIST_UNMATCHED.all(reader, order_id)
    intents = {row.stripe_payment_intent_id for row in known} | {row.stripe_payment_intent_id for row in unmatched}
    if order.stripe_payment_intent_id is not None:
        intents.add(order.stripe_payment_intent_id)
    refunds_of = partial(resources.stripe.refunds_of, order_id=order_id)
    # Before anything is asked for: Stripe forgets a key after a day, its list it does not forget.
    listed = [(intent, refund) for intent in sorted(intents) for refund in await refunds_of(intent)]
    there = {refund.refund_id for _, refund in listed}
    refused: list[Refund] = []
    unanswered: StripeUnknown | None = None
    for row in known:
        if row.status == "REQUESTED" and row.due and str(row.id) not in there:
            metadata = {"order_id": str(order_id), "refund_id": str(row.id)}
            # The row is the key: a new one only comes after Stripe has shown that this one failed.
            intent, key = row.stripe_payment_intent_id, f"refund:{row.id}"
            try:
                made = await resources.stripe.create_refund(intent, row.amount_minor, metadata, key, order_id=order_id)
                listed.append((intent, made))
            except StripeRefused:
                refused.append(row)
            except StripeUnknown as unknown:
                if not unknown.replayed:
                    # It keeps no other refund from being written down.
                    unanswered = unknown
                    continue
                # A stored failure, replayed. Whatever that call did is on a list that is newer than its end: another
                # worker may have made it since the first was read.
                again = [refund for refund in await refunds_of(intent) if refund.refund_id == str(row.id)]
                listed += [(intent, refund) for refund in again]
                if not again:
                    refused.append(row)

    async def work(tx: Connection, after: AfterCommit) -> bool:
        held = await transitions.lock(tx, order_id)
        for row in refused:
            if await FAIL_REFUND.run(tx, row.id):
                await transitions.add_note(tx, held, f"Stripe refused a refund of {row.amount_minor}")
        ours = {str(row.id): row.id for row in await LIST_REFUNDS.all(tx, order_id)}
        for intent, refund in listed:
            # One made in the dashboard gets an id that is the same however often it is listed.
            row_id = ours.get(refund.refund_id or "") or uuid5(NAMESPACE_URL, refund.id)
            status = STATUSES.get(refund.status, "PENDING")
            await RECORD_REFUND.run(tx, row_id, order_id, intent, refund.amount_minor, status, refund.id)
        decided = await _balance(tx, after, held)
        await SETTLE_UNMATCHED.run(tx, order_id)
        return decided

    decided = await transitions.run_transition(resources, work)
    if unanswered:
        raise unanswered
    if decided:
        await settle(resources, order_id)


async def _balance(tx: Connection, after: AfterCommit, order: LockedOrder) -> bool:
    """Make the payment what its refunds say, and the order what the payment then says.

    True when a refund was decided that can be made at once.
    """
    if not order.captured:
        return False
    rows = await LIST_REFUNDS.all(tx, order.id)
    decided = await _decide_owed(tx, order, rows)
    refunded, pending = _given_back(order.stripe_payment_intent_id, rows)
    whole = refunded + pending >= order.captured_minor
    if refunded == order.captured_minor:
        status = "REFUNDED"
    elif whole or order.status == "CANCELLED":
        status = "REFUND_PENDING"
    else:
        status = "SUCCEEDED"
    await SET_BALANCE.run(tx, order.id, refunded, status)
    if (refunded, status) == (order.refunded_minor, order.payment_status):
        return decided
    await transitions.add_note(tx, order, f"payment {status}, {refunded} refunded")
    if status == "SUCCEEDED" and order.status == "PAID":
        # Fulfilment waited for a whole refund, which failed.
        after.add(lambda resources: resources.queue.post_payment_pipeline(order.id))
    if status != "REFUNDED":
        return decided
    if order.status == "PAID":
        await transitions.cancel(tx, after, [order], status, "refunded before it was fulfilled")
    elif order.status == "FULFILLED" and any(row.restock and row.status == "SUCCEEDED" for row in rows):
        await transitions.return_stock(tx, after, [order])
    return decided


async def _decide_owed(tx: Connection, order: LockedOrder, rows: Sequence[Refund]) -> bool:
    """Decide to give back what no live order stands for, as far as that is neither done nor under way.

    True when one of these refunds can be made at once; one that follows a failure waits.
    """
    # By payment, as the first decision had it; the order may have been paid twice.
    owed = {row.stripe_payment_intent_id: row.amount_minor for row in reversed(rows) if row.cause == "late_money"}
    owed |= {row.stripe_payment_intent_id: row.amount_minor for row in await LIST_UNMATCHED.all(tx, order.id)}
    decided = False
    if order.status == "CANCELLED" and order.stripe_payment_intent_id is not None:
        owed[order.stripe_payment_intent_id] = order.captured_minor
    failures = sum(row.status == "FAILED" for row in rows)
    for intent, amount in owed.items():
        left = amount - sum(_given_back(intent, rows))
        if left <= 0:
            continue
        # One refund of late money at a time may stand; what another refund left open is no late money.
        stands = any(
            (row.stripe_payment_intent_id, row.cause) == (intent, "late_money") and row.status != "FAILED"
            for row in rows
        )
        first = all(row.cause == "stripe" for row in rows if row.stripe_payment_intent_id == intent)
        # Up to a day: a disputed payment cannot be refunded for months, and may never be.
        wait_seconds = 0.0 if first else min(86_400.0, 10.0 * 2 ** min(failures, 14))
        why = "staff" if stands else "late_money"
        await ADD_REFUND.run(tx, uuid4(), order.id, intent, left, why, False, wait_seconds)
        text = f"refund of {left} decided" if first else "a refund failed: it is tried again"
        await transitions.add_note(tx, order, text)
        decided |= first
    return decided


def _given_back(intent: str | None, rows: Sequence[Refund]) -> tuple[int, int]:
    """Of one payment: what has been refunded, and what is on its way."""
    own = [row for row in rows if row.stripe_payment_intent_id == intent]
    return (
        sum(row.amount_minor for row in own if row.status == "SUCCEEDED"),
        sum(row.amount_minor for row in own if row.status in ("REQUESTED", "PENDING")),
    )
