"""What Stripe tells of a payment, and what that makes of an order."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection
from service.infra.logs import cause
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.infra.stripe import Session, StripeRefused, StripeUnknown
from service.shop import payment_session, refunds, transitions
from service.shop.transitions import AfterCommit, LockedOrder

# A payment on its way may take days; the sweep asks for it this often, in case its event is lost.
RECHECK_SECONDS = 600.0
SESSION_EXPIRED = "payment session expired"
MISMATCH = "Stripe has a payment of another amount or currency for it"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Kept:
    """The order whose late money was kept for its refund."""

    order_id: UUID


@dataclass(slots=True)
class Live:
    """Whether the cart has a live order."""

    live: bool


MARK_PROCESSING = Statement("settlement/mark_processing", transitions.OrderId)
CART_HAS_LIVE_ORDER = Statement("settlement/cart_has_live_order", Live)
RETAKE_STOCK = Statement("settlement/retake_stock", transitions.MovedUnits)
RECORD_LATE_PAYMENT = Statement("settlement/record_late_payment", Kept)


async def apply_session(
    tx: Connection, after: AfterCommit, order_id: UUID, found: Session, *, failed: bool = False
) -> str:
    """Make of an order what its session says, whoever says it: an event, expiry, checkout or reconcile.

    `failed` when a complete session's payment has failed for good. Answers `applied`, `unchanged`, `order_not_found`,
    `late_money_refunded`, `paid_twice` or `mismatch`: the payment has another amount or currency, or belongs to another
    order, or cannot be named; `settle_session` decides on it.
    """
    try:
        order = await transitions.lock(tx, order_id)
    except ShopError:
        return "order_not_found"
    if found.payment_status == "paid":
        return await _apply_paid_session(tx, after, order, found)
    if order.status != "PENDING_PAYMENT" or order.stripe_session_id not in (None, found.id):
        return "unchanged"
    if failed:
        await transitions.cancel(tx, after, [order], "FAILED", "payment failed")
    elif found.status == "expired":
        ended = "FAILED" if order.payment_status == "PROCESSING" else "EXPIRED"
        await transitions.cancel(tx, after, [order], ended, SESSION_EXPIRED)
    elif found.status != "complete" or not await MARK_PROCESSING.maybe(
        tx, order_id, found.id, cause.get(), RECHECK_SECONDS
    ):
        return "unchanged"
    return "applied"


async def _apply_paid_session(tx: Connection, after: AfterCommit, order: LockedOrder, found: Session) -> str:
    intent = found.payment_intent
    if order.captured and (intent is None or order.stripe_payment_intent_id in (None, intent)):
        return "unchanged"
    if intent is not None and await refunds.find_order(tx, intent) not in (None, order.id):
        # It has paid another order already.
        return "mismatch"
    if (found.amount_total, found.currency) != (order.total_minor, order.currency):
        return "mismatch"
    if order.captured and intent is not None:
        # Two sessions of one order were paid. We never leave two open, but money that came is answered for.
        if await refunds.add_late_money(tx, after, order, intent, order.total_minor):
            await transitions.add_note(tx, order, "paid a second time: the second payment is refunded")
        return "paid_twice"
    if order.status == "PENDING_PAYMENT":
        await transitions.mark_paid(tx, after, order, order.hold_number, found.id, intent, found.email)
        return "applied"
    return await apply_late_payment(tx, after, order, found)


async def apply_late_payment(tx: Connection, after: AfterCommit, order: LockedOrder, found: Session) -> str:
    """Money for a cancelled order: its stock is taken again where all of it is there, else it is refunded."""
    hold_number = order.hold_number + 1
    if not (await CART_HAS_LIVE_ORDER.one(tx, order.cart_id)).live:
        taken = await RETAKE_STOCK.all(tx, order.id, hold_number)
        if taken:
            await transitions.mark_paid(tx, after, order, hold_number, found.id, found.payment_intent, found.email)
            if any(units.stock == 0 for units in taken):
                after.add(lambda resources: resources.cache.invalidate())
            return "applied"
    if found.payment_intent is None:
        return "mismatch"
    if await RECORD_LATE_PAYMENT.maybe(tx, order.id, found.id, found.payment_intent, None, None) is None:
        return "unchanged"
    await refunds.add_late_money(tx, after, order, found.payment_intent, order.total_minor)
    await transitions.add_note(tx, order, "paid after it was cancelled: the payment is refunded")
    return "late_money_refunded"


async def settle_session(resources: Resources, order_id: UUID, found: Session, *, failed: bool = False) -> str:
    """`apply_session`, by a session that Stripe was asked for; a payment that does not match the order is given back.

    Answers `unmatched_refunded` then, and `mismatch` only where nothing can be given back. Raises
    `payment_unavailable` or `payment_misconfigured` while Stripe does not say what was captured.
    """
    outcome = await transitions.run_transition(
        resources, partial(apply_session, order_id=order_id, found=found, failed=failed)
    )
    if outcome != "mismatch":
        return outcome
    try:
        return await _refund_unmatched(resources, order_id, found)
    except StripeUnknown as unknown:
        raise payment_session.payment_unavailable(unknown) from unknown


async def _refund_unmatched(resources: Resources, order_id: UUID, found: Session) -> str:
    """Cancel the order that a payment does not match, and keep what it captured for its refund; the outcome.

    Raises StripeUnknown.
    """
    intent = None
    if found.payment_intent is not None:
        with suppress(StripeRefused):
            intent = await resources.stripe.retrieve_payment_intent(found.payment_intent, order_id=order_id)

    async def work(tx: Connection, after: AfterCommit) -> str:
        order = await transitions.lock(tx, order_id)
        if intent is None or not intent.received_minor or intent.order_id not in (None, str(order_id)):
            return "mismatch"
        if (intent.received_minor, intent.currency) == (order.total_minor, order.currency):
            # The money is what the order asked for, whatever the session's total is.
            fitting = replace(found, amount_total=order.total_minor, currency=order.currency)
            return await apply_session(tx, after, order_id, fitting)
        if await refunds.find_order(tx, intent.id) not in (None, order_id):
            return "mismatch"
        if not await refunds.add_unmatched(tx, after, order, intent.id, intent.received_minor, intent.currency):
            return "unchanged"
        if not order.captured:
            if order.status == "PENDING_PAYMENT":
                ended = "FAILED" if order.payment_status == "PROCESSING" else "EXPIRED"
                await transitions.cancel(tx, after, [order], ended, MISMATCH)
            await RECORD_LATE_PAYMENT.one(tx, order.id, found.id, intent.id, intent.received_minor, intent.currency)
        return "unmatched_refunded"

    outcome = await transitions.run_transition(resources, work)
    if outcome in ("mismatch", "unmatched_refunded"):
        captured = {"captured_minor": intent.received_minor, "currency": intent.currency} if intent else {}
        names = {"order_id": str(order_id), "stripe_session_id": found.id, "payment_intent": found.payment_intent}
        logger.warning("payment does not match its order", extra={**names, **captured, "outcome": outcome})
    return outcome


async def fetch_session(resources: Resources, stripe_session_id: str, order_id: UUID | None) -> tuple[Session, bool]:
    """A session as Stripe has it now, and whether its payment has failed for good."""
    found = await resources.stripe.retrieve_session(stripe_session_id, order_id=order_id)
    if found.status != "complete" or found.payment_status == "paid" or found.payment_intent is None:
        return found, False
    intent = await resources.stripe.retrieve_payment_intent(found.payment_intent, order_id=order_id)
    return found, intent.status in ("requires_payment_method", "canceled")


def order_id_of(found: Session) -> UUID | None:
    """The order that a session names as its own, if any."""
    return uuid_or_none(found.order_id)


def uuid_or_none(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
