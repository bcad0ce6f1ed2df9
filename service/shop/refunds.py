"""Refunds: decided by staff or by the shop, or made in Stripe's dashboard and recorded here.

A refund is stored as a row before Stripe is asked for it. `settle` takes the rows to Stripe and records Stripe's list.
`_balance` then derives the status of the payment and of its order.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from uuid import NAMESPACE_URL, UUID, uuid5

from service.errors import ShopError, invalid
from service.infra import stripe
from service.infra.db import Connection, connection
from service.infra.ids import new_id
from service.infra.logs import actor
from service.infra.metrics import REFUNDS_FAILED
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import PaymentIntent, StripeRefused, StripeUnknown
from service.shop import audit_log, orders, outbox, stuck, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.orders import Order
from service.shop.principals import SERVICE, Principal
from service.shop.transitions import AfterCommit, LockedOrder

# The status of a refund at Stripe -> ours.
STATUSES = {
    "pending": "PENDING",
    "requires_action": "PENDING",
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "canceled": "FAILED",
}


# Lines that a note names. The refund itself has all of them.
MOST_NAMED = 20
# The failure reason of a refund that is not made, because people paid the money back in another way.
SETTLED_ELSEWHERE = "settled_elsewhere"


@dataclass(slots=True)
class Refund:
    """A refund of an order, in minor units of its currency; `due` unless it waits for another attempt."""

    id: UUID
    stripe_payment_intent_id: str
    amount_minor: int
    cause: str
    restock: bool
    status: str
    stripe_refund_id: str | None
    failure_reason: str | None
    due: bool


@dataclass(slots=True)
class UnmatchedPayment:
    """A payment that does not match its order; the captured amount is in minor units of the payment's own currency."""

    stripe_payment_intent_id: str
    amount_minor: int


@dataclass(slots=True)
class SettledPayment:
    """A payment that does not match its order, once its refunds have covered it, or no longer do."""

    stripe_payment_intent_id: str
    amount_minor: int
    currency: str
    refunded: bool


@dataclass(slots=True)
class StripeState:
    """Stripe's state of an order's refunds: those it lists, each with its payment intent, and those it refused.

    A refund that Stripe refused comes with the reason. `unanswered` is the last error of a refund that may or may not
    have been made.
    """

    listed: list[tuple[str, stripe.Refund]]
    refused: list[tuple[Refund, str]] = field(default_factory=list)
    unanswered: StripeUnknown | None = None


@dataclass(slots=True)
class RefundLine:
    """Units of a line to refund, and whether they return to the stock."""

    product_id: int
    quantity: int
    restock: bool


@dataclass(slots=True)
class RefundableLine:
    """A line's price in minor units, and its units that no refund names, apart from failed ones."""

    product_id: int
    unit_price_minor: int
    quantity_left: int


@dataclass(slots=True)
class ReturnedUnits:
    """Units of a line that a refund returns to the stock."""

    refund_id: UUID
    product_id: int
    quantity: int


ADD_UNMATCHED = statement("refunds/add_unmatched")
LIST_UNMATCHED = statement("refunds/list_unmatched", UnmatchedPayment)
SETTLE_UNMATCHED = statement("refunds/settle_unmatched", SettledPayment)
LIST_REFUNDS = statement("refunds/list_refunds", Refund)
ADD_REFUND = statement("refunds/add_refund")
LIST_LINES = statement("refunds/list_lines", RefundableLine)
ADD_ITEMS = statement("refunds/add_items")
LIST_RETURNS = statement("refunds/list_returns", ReturnedUnits)
RETURN_UNITS = statement("refunds/return_units", transitions.MovedUnits)
RECORD_REFUND = statement("refunds/record_refund")
FAIL_REFUND = statement("refunds/fail_refund")
SET_BALANCE = statement("refunds/set_balance")
FIND_ORDER = statement("refunds/find_order", UUID)


async def find_order(reader: Connection, payment_intent: str) -> UUID | None:
    """The order that a payment intent paid; None if no payment by it has been recorded."""
    return await FIND_ORDER.one_or_none(reader, stripe_payment_intent_id=payment_intent)


async def refund(
    resources: Resources,
    key: IdempotencyKey | None,
    principal: Principal,
    order_id: UUID,
    *,
    amount_minor: int | None,
    restock: bool,
    reason: str | None,
    items: Sequence[RefundLine] = (),
) -> StoredResponse:
    """200 with the Order once the refund is decided. The worker makes it at Stripe, so it may still be pending.

    Raises what `request` raises, and the errors of the idempotency key.
    """

    after = AfterCommit()

    async def decide(tx: Connection) -> Order:
        nonlocal after
        after = AfterCommit()
        await request(tx, after, order_id, amount_minor=amount_minor, restock=restock, reason=reason, items=items)
        return await orders.view(tx, principal, await orders.read(tx, SERVICE, order_id))

    response = await run_once(resources.pool, key, 200, decide, order_id=order_id)
    await after.run(resources)
    await resources.queue.settle_refunds(order_id)
    return response


async def request(
    tx: Connection,
    after: AfterCommit,
    order_id: UUID,
    *,
    amount_minor: int | None,
    restock: bool,
    reason: str | None,
    items: Sequence[RefundLine] = (),
) -> None:
    """Decide a refund for staff, who may say why: of `items`, of `amount_minor`, or of everything that is left.

    Raises `order_not_refundable` with what is left to refund when it is less, and `invalid` for a restock with a
    partial amount.
    """
    order = await transitions.lock(tx, order_id)
    rows = await LIST_REFUNDS.all(tx, order_id=order_id)
    refunded = sum(_refunded_and_pending(order.stripe_payment_intent_id, rows))
    left = order.total_minor - refunded if order.payment_status == "SUCCEEDED" else 0
    if items:
        amount = await _price(tx, order, items, left)
    else:
        amount = left if amount_minor is None else amount_minor
    if not 0 < amount <= left or order.stripe_payment_intent_id is None:
        raise ShopError("order_not_refundable", "This amount cannot be refunded.", refundable_minor=left)
    if restock and amount != left:
        raise invalid("/restock", "must be false unless all that is left is refunded")
    refund_id = new_id()
    await ADD_REFUND.run(
        tx,
        refund_id=refund_id,
        order_id=order_id,
        stripe_payment_intent_id=order.stripe_payment_intent_id,
        amount_minor=amount,
        cause="staff",
        actor=actor.get(),
        restock=restock,
        reason=reason,
        wait_seconds=0.0,
    )
    await _add_items(tx, refund_id, items)
    await transitions.add_note(tx, order, f"refund of {_named(items, amount)} requested")
    decided = {"refund_id": str(refund_id), "amount_minor": amount, "currency": order.currency}
    decided |= {"items": [asdict(item) for item in items]} if items else {"restock": restock}
    await audit_log.add(tx, "refund_order", f"order:{order_id}", before=None, after=decided)
    after.log("refund decided", order_id, refund_id=refund_id, amount_minor=amount, decided_by="staff")
    await _balance(tx, after, order)


async def _price(tx: Connection, order: LockedOrder, items: Sequence[RefundLine], left: int) -> int:
    """What the units cost, at the prices of the order. `left` is what can be refunded.

    Raises `order_not_refundable` with the first line of which too much is asked.
    """
    lines = {line.product_id: line for line in await LIST_LINES.all(tx, order_id=order.id)}
    total = 0
    for item in items:
        line = lines.get(item.product_id)
        quantity = min(line.quantity_left, (left - total) // line.unit_price_minor) if line else 0
        if line is None or item.quantity > quantity:
            raise ShopError(
                "order_not_refundable",
                "So many units of this line cannot be refunded.",
                refundable_minor=left,
                product_id=item.product_id,
                refundable_quantity=quantity,
            )
        total += item.quantity * line.unit_price_minor
    return total


async def _add_items(tx: Connection, refund_id: UUID, items: Sequence[RefundLine]) -> None:
    if items:
        await ADD_ITEMS.run(
            tx,
            refund_id=refund_id,
            product_ids=[item.product_id for item in items],
            quantities=[item.quantity for item in items],
            restocks=[item.restock for item in items],
        )


def _named(items: Sequence[RefundLine], amount: int) -> str:
    """What a refund is of, in a note: its lines and its amount."""
    names = [f"{item.quantity} × product {item.product_id}" for item in items[:MOST_NAMED]]
    names += [f"{len(items) - MOST_NAMED} other lines"] if len(items) > MOST_NAMED else []
    return f"{', '.join(names)} for {amount}" if items else str(amount)


async def add_late_payment(
    tx: Connection, after: AfterCommit, order: LockedOrder, *, payment_intent: str, amount_minor: int
) -> bool:
    """Decide to refund a payment that has no live order; False when that was decided before."""
    refund_id = new_id()
    added = await ADD_REFUND.run(
        tx,
        refund_id=refund_id,
        order_id=order.id,
        stripe_payment_intent_id=payment_intent,
        amount_minor=amount_minor,
        cause="late_money",
        actor=actor.get(),
        restock=False,
        reason=None,
        wait_seconds=0.0,
    )
    if added:
        after.log("refund decided", order.id, refund_id=refund_id, amount_minor=amount_minor, decided_by="late_money")
    settle_later(after, order.id)
    return added == 1


async def add_unmatched(tx: Connection, after: AfterCommit, order: LockedOrder, intent: PaymentIntent) -> bool:
    """Store what a payment that does not match the order captured, for `settle` to refund; False if it was stored."""
    added = await ADD_UNMATCHED.run(
        tx,
        stripe_payment_intent_id=intent.id,
        order_id=order.id,
        amount_minor=intent.received_minor,
        currency=intent.currency,
    )
    if added:
        await _list_unmatched(tx, after, order, intent.id, (intent.received_minor, intent.currency))
    settle_later(after, order.id)
    return added == 1


async def _list_unmatched(
    tx: Connection, after: AfterCommit, order: LockedOrder, payment_intent: str, captured: tuple[int, str]
) -> None:
    amount, currency = captured
    await stuck.add(
        tx,
        after,
        "unmatched_payment",
        payment_intent,
        order_id=order.id,
        reason=f"{amount} {currency} was paid for an order of {order.total_minor} {order.currency}",
        payment_intent=payment_intent,
        captured_minor=amount,
        currency=currency,
    )


def settle_later(after: AfterCommit, order_id: UUID) -> None:
    """Wake the worker after the commit, to settle the order's refunds."""
    after.add(lambda resources: resources.queue.settle_refunds(order_id))


async def settle(resources: Resources, order_id: UUID) -> None:
    """Ask Stripe for every due refund that it does not list yet, and record its list. Raises StripeUnknown."""
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, SERVICE, order_id)
        rows = await LIST_REFUNDS.all(reader, order_id=order_id)
        unmatched = await LIST_UNMATCHED.all(reader, order_id=order_id)
        resolved = await stuck.resolved_ids(reader, order_id)
    intents = {row.stripe_payment_intent_id for row in rows} | {row.stripe_payment_intent_id for row in unmatched}
    if order.stripe_payment_intent_id is not None:
        intents.add(order.stripe_payment_intent_id)
    # The list comes first: Stripe forgets an idempotency key after a day, but lists a refund forever.
    state = StripeState(
        [
            (intent, listed)
            for intent in sorted(intents)
            for listed in await resources.stripe.refunds_of(intent, order_id=order_id)
        ]
    )
    settled = _settled_elsewhere(rows, resolved)
    stopped = [
        row
        for row in rows
        if row.stripe_payment_intent_id in settled
        # A refund that staff decide for a live order is made all the same.
        and (order.status == "CANCELLED" or row.stripe_payment_intent_id != order.stripe_payment_intent_id)
    ]
    await _create_due(resources, order_id, [row for row in rows if row not in stopped], state)
    state.refused += [(row, SETTLED_ELSEWHERE) for row in stopped if row.status == "REQUESTED"]
    decided = await transitions.run_transition(resources, partial(_record, order_id=order_id, state=state))
    if state.unanswered:
        raise state.unanswered
    if decided:
        await settle(resources, order_id)


async def _create_due(resources: Resources, order_id: UUID, rows: Sequence[Refund], state: StripeState) -> None:
    """Create the due refunds that Stripe does not list, and add what it answers to `state`."""
    known = {listed.refund_id for _, listed in state.listed}
    for row in rows:
        if row.status == "REQUESTED" and row.due and str(row.id) not in known:
            metadata = {"order_id": str(order_id), "refund_id": str(row.id)}
            # The row is the idempotency key: a new row comes only after Stripe has shown that this refund failed.
            intent, key = row.stripe_payment_intent_id, f"refund:{row.id}"
            try:
                made = await resources.stripe.create_refund(intent, row.amount_minor, metadata, key, order_id=order_id)
                state.listed.append((intent, made))
            except StripeRefused as refused:
                state.refused.append((row, refused.code or "refused"))
            except StripeUnknown as unknown:
                if not unknown.replayed:
                    # The other refunds are still made and recorded.
                    state.unanswered = unknown
                    continue
                # Stripe replayed a stored failure, but the failed call may have made the refund; so may another worker
                # since our list. A newer list shows it.
                newer = await resources.stripe.refunds_of(intent, order_id=order_id)
                if own := [(intent, listed) for listed in newer if listed.refund_id == str(row.id)]:
                    state.listed += own
                else:
                    state.refused.append((row, "unknown"))


async def _record(tx: Connection, after: AfterCommit, *, order_id: UUID, state: StripeState) -> bool:
    """Record what Stripe says; True when a refund was decided that can be made at once."""
    order = await transitions.lock(tx, order_id)
    before = {row.id: row for row in await LIST_REFUNDS.all(tx, order_id=order_id)}
    for row, reason in state.refused:
        await FAIL_REFUND.run(tx, refund_id=row.id, failure_reason=reason)
    ids = {str(refund_id): refund_id for refund_id in before}
    for intent, listed in state.listed:
        status = STATUSES.get(listed.status, "PENDING")
        await RECORD_REFUND.run(
            tx,
            # A refund made in the dashboard gets an id derived from Stripe's, the same each time it is listed.
            refund_id=ids.get(listed.refund_id or "") or uuid5(NAMESPACE_URL, listed.id),
            order_id=order_id,
            stripe_payment_intent_id=intent,
            amount_minor=listed.amount_minor,
            status=status,
            stripe_refund_id=listed.id,
            failure_reason=(listed.failure_reason or listed.status) if status == "FAILED" else None,
        )
    await _report_changes(tx, after, order, before)
    decided = await _balance(tx, after, order, before)
    await return_units(tx, after, order)
    for payment in await SETTLE_UNMATCHED.all(tx, order_id=order_id):
        if payment.refunded:
            await stuck.end(tx, "unmatched_payment", [payment.stripe_payment_intent_id])
        else:
            captured = (payment.amount_minor, payment.currency)
            await _list_unmatched(tx, after, order, payment.stripe_payment_intent_id, captured)
    return decided


async def _report_changes(
    tx: Connection, after: AfterCommit, order: LockedOrder, before: Mapping[UUID, Refund]
) -> None:
    """Log what has changed since `before`. Note and count failures, and list those that no later refund replaces."""
    rows = await LIST_REFUNDS.all(tx, order_id=order.id)
    changed = {row.id: row for row in rows if row.id not in before or row.status != before[row.id].status}
    # The refunds by line that fail after they returned units.
    undone = [row.id for row in changed.values() if row.id in before and before[row.id].status == "SUCCEEDED"]
    items = await orders.LIST_REFUND_ITEMS.all(tx, order_id=order.id) if undone else []
    causes = {row.id: str(row.failure_reason) for row in rows}
    for refund_id in {item.refund_id for item in items if item.restock and item.refund_id in undone}:
        causes[refund_id] += "; its units are back in stock"
    for row in changed.values():
        await _add_event(tx, order, row)
        if row.status != "FAILED" or row.failure_reason == SETTLED_ELSEWHERE:
            continue
        named = f"{row.id} ({row.stripe_refund_id})" if row.stripe_refund_id else str(row.id)
        await transitions.add_note(tx, order, f"refund {named} of {row.amount_minor} failed: {causes[row.id]}")
        after.add(_count_failure)
    closed = [str(refund_id) for refund_id in changed if refund_id in before]
    if closed:
        await stuck.end(tx, "refund_open", closed)
    for number, row in enumerate(rows):
        if row.status != "FAILED" or row.failure_reason == SETTLED_ELSEWHERE:
            continue
        later = [r for r in rows[number + 1 :] if r.stripe_payment_intent_id == row.stripe_payment_intent_id]
        # The failure of a repeated refund takes the place of the first one; its success ends the matter.
        if sum(r.amount_minor for r in later if r.status in ("SUCCEEDED", "FAILED")) >= row.amount_minor:
            await stuck.end(tx, "refund_failed", [str(row.id)])
            continue
        if await stuck.add(
            tx,
            after,
            "refund_failed",
            str(row.id),
            order_id=order.id,
            reason=f"a refund of {row.amount_minor} failed: {causes[row.id]}",
            stripe_refund_id=row.stripe_refund_id,
            payment_intent=row.stripe_payment_intent_id,
        ):
            # Its WARNING says that it failed.
            changed.pop(row.id, None)
    for row in changed.values():
        after.log(
            "refund changed",
            order.id,
            refund_id=row.id,
            status=row.status,
            amount_minor=row.amount_minor,
            stripe_refund_id=row.stripe_refund_id,
            reason=row.failure_reason,
        )


def _settled_elsewhere(rows: Sequence[Refund], resolved: Collection[str]) -> set[str]:
    """The payments of which people have resolved the payment itself or one of its refunds."""
    return {*resolved, *(row.stripe_payment_intent_id for row in rows if str(row.id) in resolved)}


async def _add_event(tx: Connection, order: LockedOrder, row: Refund) -> None:
    if row.status in ("SUCCEEDED", "FAILED"):
        shown = await orders.LIST_REFUNDS.all(tx, order_id=order.id, order_currency=order.currency)
        data = {
            "refund_id": str(row.id),
            "amount_minor": row.amount_minor,
            "currency": next(refund.currency for refund in shown if refund.id == row.id),
            "failure_reason": row.failure_reason,
        }
        await outbox.add_event(tx, "refund.succeeded" if row.status == "SUCCEEDED" else "refund.failed", order.id, data)


async def _count_failure(_: Resources) -> None:
    REFUNDS_FAILED.inc()


async def _balance(
    tx: Connection, after: AfterCommit, order: LockedOrder, before: Mapping[UUID, Refund] = MappingProxyType({})
) -> bool:
    """Set the payment's status by its refunds, and the order's status by the payment's.

    `before` are the refunds as they were. True when a refund was decided that can be made at once.
    """
    if not order.captured:
        return False
    rows = await LIST_REFUNDS.all(tx, order_id=order.id)
    failed = [row for row in rows if row.status == "FAILED" and row.id in before and before[row.id].status != "FAILED"]
    decided = await _decide_owed(tx, after, order, rows, failed)
    refunded, pending = _refunded_and_pending(order.stripe_payment_intent_id, rows)
    whole = refunded + pending >= order.captured_minor
    if refunded == order.captured_minor:
        status = "REFUNDED"
    elif whole or order.status == "CANCELLED":
        status = "REFUND_PENDING"
    else:
        status = "SUCCEEDED"
    await SET_BALANCE.run(tx, order_id=order.id, refunded_minor=refunded, status=status)
    if (refunded, status) == (order.refunded_minor, order.payment_status):
        return decided
    await transitions.add_note(tx, order, f"payment {status}, {refunded} refunded")
    after.log("payment changed", order.id, payment_status=status, refunded_minor=refunded)
    if status == "SUCCEEDED" and order.status == "PAID":
        # Fulfilment waited for a refund of the full payment, which failed.
        after.add(lambda resources: resources.queue.post_payment_pipeline(order.id))
    if status != "REFUNDED":
        return decided
    if order.status == "PAID":
        note = "refunded before it was fulfilled"
        await transitions.cancel(tx, after, [order], payment_status=status, note=note)
    return decided


async def return_units(tx: Connection, after: AfterCommit, order: LockedOrder) -> None:
    """Return the units of succeeded refunds that ask for it, as far as they are not back."""
    if order.status == "CANCELLED":
        return
    if due := await LIST_RETURNS.all(tx, order_id=order.id, hold_number=order.hold_number):
        await transitions.lock_products(tx, [order])
        returned = await RETURN_UNITS.all(
            tx,
            order_id=order.id,
            hold_number=order.hold_number,
            actor=actor.get(),
            refund_ids=[each.refund_id for each in due],
            product_ids=[each.product_id for each in due],
            quantities=[each.quantity for each in due],
        )
        await transitions.announce_available(tx, after, returned)


async def _decide_owed(
    tx: Connection, after: AfterCommit, order: LockedOrder, rows: Sequence[Refund], failed: Sequence[Refund]
) -> bool:
    """Decide a refund for every payment that has no live order, for the part not yet refunded or pending.

    True when one of these refunds can be made at once. A refund that follows a failed one waits. Those that have just
    `failed` are made again with their lines.
    """
    # The amount owed by payment intent, from its first decision; an order may have been paid twice.
    owed = {row.stripe_payment_intent_id: row.amount_minor for row in reversed(rows) if row.cause == "late_money"}
    owed |= {row.stripe_payment_intent_id: row.amount_minor for row in await LIST_UNMATCHED.all(tx, order_id=order.id)}
    decided = False
    if order.status == "CANCELLED" and order.stripe_payment_intent_id is not None:
        owed[order.stripe_payment_intent_id] = order.captured_minor
    if owed:
        for intent in _settled_elsewhere(rows, await stuck.resolved_ids(tx, order.id)):
            owed.pop(intent, None)
    failures = sum(row.status == "FAILED" for row in rows)
    for intent, amount in owed.items():
        left = amount - sum(_refunded_and_pending(intent, rows))
        if left <= 0:
            continue
        # A payment may have one `late_money` refund that has not failed (refunds_late_money_once); others are `staff`.
        has_late_refund = any(
            (row.stripe_payment_intent_id, row.cause) == (intent, "late_money") and row.status != "FAILED"
            for row in rows
        )
        first = all(row.cause == "stripe" for row in rows if row.stripe_payment_intent_id == intent)
        # Later refunds wait for up to a day, because a disputed payment cannot be refunded for months, if ever.
        wait_seconds = 0.0 if first else min(86_400.0, 10.0 * 2 ** min(failures, 14))
        repeated = await _failed_lines(tx, order, failed, left) if intent == order.stripe_payment_intent_id else []
        rest = left - sum(part for part, _ in repeated)
        for part, items in [*repeated, *([(rest, [])] if rest else [])]:
            refund_id, decided_by = new_id(), "staff" if items or has_late_refund else "late_money"
            await ADD_REFUND.run(
                tx,
                refund_id=refund_id,
                order_id=order.id,
                stripe_payment_intent_id=intent,
                amount_minor=part,
                cause=decided_by,
                actor=actor.get(),
                restock=False,
                reason=None,
                wait_seconds=wait_seconds,
            )
            await _add_items(tx, refund_id, items)
            again = f"{_named(items, part)} is" if items else "it is"
            text = f"refund of {part} decided" if first else f"a refund failed: {again} tried again"
            await transitions.add_note(tx, order, text)
            after.log("refund decided", order.id, refund_id=refund_id, amount_minor=part, decided_by=decided_by)
        decided |= first
    return decided


async def _failed_lines(
    tx: Connection, order: LockedOrder, failed: Sequence[Refund], left: int
) -> list[tuple[int, list[RefundLine]]]:
    """The refunds by line that are to be made again: each one's amount, within `left`, and its lines."""
    items = await orders.LIST_REFUND_ITEMS.all(tx, order_id=order.id) if failed else []
    repeated = []
    for row in failed:
        own = [RefundLine(i.product_id, i.quantity, i.restock) for i in items if i.refund_id == row.id]
        if own and row.amount_minor <= left:
            left -= row.amount_minor
            repeated.append((row.amount_minor, own))
    return repeated


def _refunded_and_pending(intent: str | None, rows: Sequence[Refund]) -> tuple[int, int]:
    """For one payment: the amount that has been refunded, and the amount that is requested or pending."""
    own = [row for row in rows if row.stripe_payment_intent_id == intent]
    return (
        sum(row.amount_minor for row in own if row.status == "SUCCEEDED"),
        sum(row.amount_minor for row in own if row.status in ("REQUESTED", "PENDING")),
    )
