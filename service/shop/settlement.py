"""Settling an order: updating its rows to the state of its payment session at Stripe.

Webhooks, expiry, checkout, the recheck and reconcile all end here, so the same session always has the same effect.
`apply_session` decides by the session alone, inside a transaction. `settle_session` may ask Stripe for more.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection
from service.infra.ids import new_id
from service.infra.logs import actor, cause
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import PaymentIntent, Session, StripeRefused, StripeUnknown
from service.shop import outbox, payment_session, personal_data, refunds, stuck, transitions
from service.shop.transitions import AfterCommit, LockedOrder

# A bank transfer may take days. The sweep asks for it at this interval, in case the event about its end is lost.
RECHECK_SECONDS = 600.0
SESSION_EXPIRED = "payment session expired"
MISMATCH = "Stripe has a payment of another amount or currency for it"

MARK_PROCESSING = statement("settlement/mark_processing", UUID)
CART_HAS_LIVE_ORDER = statement("settlement/cart_has_live_order", bool)
RETAKE_STOCK = statement("settlement/retake_stock", transitions.MovedUnits)
REPLACE_CART = statement("settlement/replace_cart", UUID)
RESTORE_CART = statement("settlement/restore_cart")
STORE_SHIPPING = statement("settlement/store_shipping")
RECORD_LATE_PAYMENT = statement("settlement/record_late_payment", UUID)


async def apply_session(
    tx: Connection,
    after: AfterCommit,
    order_id: UUID,
    session: Session,
    *,
    failed: bool = False,
    by_staff: bool = False,
) -> str:
    """Apply a session's state to its order; `failed` when the payment of a complete session has permanently failed.

    Returns `applied`, `unchanged`, `order_not_found`, `late_money_refunded`, `paid_twice` or `mismatch`: the payment
    has another amount or currency, belongs to another order, or has no payment intent. `settle_session` handles that.
    """
    try:
        order = await transitions.lock(tx, order_id)
    except ShopError:
        return "order_not_found"
    if session.payment_status == "paid":
        return await _apply_paid_session(tx, after, order, session)
    if order.status != "PENDING_PAYMENT" or order.stripe_session_id not in (None, session.id):
        return "unchanged"
    if failed:
        await transitions.cancel(tx, after, [order], payment_status="FAILED", note="payment failed", by_staff=by_staff)
    elif session.status == "expired":
        ended = unpaid_status(order)
        await transitions.cancel(tx, after, [order], payment_status=ended, note=SESSION_EXPIRED, by_staff=by_staff)
    elif session.status == "complete" and session.payment_status != "unpaid":
        # No order totals 0, so `no_payment_required` pays none; nor does a word that we do not know.
        return "mismatch"
    elif session.status != "complete" or not await MARK_PROCESSING.one_or_none(
        tx,
        order_id=order_id,
        stripe_session_id=session.id,
        cause=cause.get(),
        actor=actor.get(),
        recheck_seconds=RECHECK_SECONDS,
        email=session.email,
        email_digest=personal_data.email_digest(session.email) if session.email else None,
    ):
        return "unchanged"
    else:
        await _store_shipping(tx, order, session)
        after.log("payment changed", order_id, payment_status="PROCESSING")
    return "applied"


async def _apply_paid_session(tx: Connection, after: AfterCommit, order: LockedOrder, session: Session) -> str:
    intent = session.payment_intent
    if intent is None:
        # A payment without an intent could never be refunded. An event may lack it; Stripe's own answer decides.
        return "unchanged" if order.captured and order.stripe_session_id == session.id else "mismatch"
    if order.captured and order.stripe_payment_intent_id in (None, intent):
        return "unchanged"
    if await refunds.find_order(tx, intent) not in (None, order.id):
        # The payment has already paid another order.
        return "mismatch"
    if (session.amount_total, session.currency) != (order.total_minor, order.currency):
        return "mismatch"
    if order.captured:
        # Two sessions of one order were paid. We never leave two open, but account for every captured payment.
        if await refunds.add_late_payment(tx, after, order, payment_intent=intent, amount_minor=order.total_minor):
            await transitions.add_note(tx, order, "paid a second time: the second payment is refunded")
        return "paid_twice"
    if order.status == "PENDING_PAYMENT":
        await _mark_paid(tx, after, order, session, hold_number=order.hold_number)
        return "applied"
    return await apply_late_payment(tx, after, order, session)


async def apply_late_payment(tx: Connection, after: AfterCommit, order: LockedOrder, session: Session) -> str:
    """Apply the payment of a cancelled order: take its stock again if all units are there, else refund the payment.

    An order that is paid gets its cart back. If the customer has changed the lines since, they move to a new cart.
    """
    hold_number = order.hold_number + 1
    if not await CART_HAS_LIVE_ORDER.one(tx, cart_id=order.cart_id):
        await transitions.lock_products(tx, [order])
        taken = await RETAKE_STOCK.all(tx, order_id=order.id, hold_number=hold_number, actor=actor.get())
        if taken:
            if await REPLACE_CART.one_or_none(tx, cart_id=order.cart_id, order_id=order.id, new_cart_id=new_id()):
                await RESTORE_CART.run(tx, cart_id=order.cart_id, order_id=order.id)
            await _mark_paid(tx, after, order, session, hold_number=hold_number)
            if sold_out := [units.product_id for units in taken if units.stock == 0]:
                await outbox.announce_products(tx, sold_out)
                after.add(lambda resources: resources.cache.invalidate())
            return "applied"
    intent = session.payment_intent
    assert intent is not None
    recorded = await RECORD_LATE_PAYMENT.one_or_none(
        tx,
        order_id=order.id,
        stripe_session_id=session.id,
        stripe_payment_intent_id=intent,
        captured_minor=None,
        captured_currency=None,
    )
    if recorded is None:
        return "unchanged"
    after.log("payment changed", order.id, payment_status="REFUND_PENDING", payment_intent=intent, reason="late")
    await refunds.add_late_payment(tx, after, order, payment_intent=intent, amount_minor=order.total_minor)
    await transitions.add_note(tx, order, "paid after it was cancelled: the payment is refunded")
    return "late_money_refunded"


async def _mark_paid(
    tx: Connection, after: AfterCommit, order: LockedOrder, session: Session, *, hold_number: int
) -> None:
    await transitions.mark_paid(
        tx,
        after,
        order,
        hold_number=hold_number,
        stripe_session_id=session.id,
        payment_intent=session.payment_intent,
        email=session.email,
    )
    await _store_shipping(tx, order, session)


async def _store_shipping(tx: Connection, order: LockedOrder, session: Session) -> None:
    if (shipping := session.shipping) is not None:
        await STORE_SHIPPING.run(
            tx,
            order_id=order.id,
            name=shipping.name,
            phone=shipping.phone,
            line1=shipping.line1,
            line2=shipping.line2,
            city=shipping.city,
            state=shipping.state,
            postal_code=shipping.postal_code,
            country=shipping.country,
        )


def unpaid_status(order: LockedOrder) -> str:
    """The status of a payment that ends unpaid: FAILED once it was on its way, else EXPIRED."""
    return "FAILED" if order.payment_status == "PROCESSING" else "EXPIRED"


async def settle_session(
    resources: Resources, order_id: UUID, session: Session, *, failed: bool = False, by_staff: bool = False
) -> str:
    """`apply_session` for a session that was just fetched from Stripe; a payment that does not match is refunded.

    `by_staff`: staff cancel the order by this.

    That outcome is `unmatched_refunded`; `mismatch` remains where nothing can be refunded. Raises
    `payment_unavailable` or `payment_misconfigured` while Stripe does not say what was captured.
    """
    outcome = await transitions.run_transition(
        resources, partial(apply_session, order_id=order_id, session=session, failed=failed, by_staff=by_staff)
    )
    if outcome == "order_not_found" and session.payment_status == "paid":
        await transitions.run_transition(resources, partial(_list_orphan, order_id=order_id, session=session))
    if outcome != "mismatch":
        return outcome
    try:
        return await _refund_unmatched(resources, order_id, session, by_staff=by_staff)
    except StripeUnknown as unknown:
        raise payment_session.payment_unavailable(unknown) from unknown


async def _refund_unmatched(resources: Resources, order_id: UUID, session: Session, *, by_staff: bool) -> str:
    """Cancel the order that a payment does not match, and store the captured amount for its refund.

    Raises StripeUnknown.
    """
    intent = None
    if session.payment_intent is not None:
        with suppress(StripeRefused):
            intent = await resources.stripe.retrieve_payment_intent(session.payment_intent, order_id=order_id)
    return await transitions.run_transition(
        resources,
        partial(_apply_unmatched, order_id=order_id, session=session, intent=intent, by_staff=by_staff),
    )


async def _apply_unmatched(
    tx: Connection,
    after: AfterCommit,
    *,
    order_id: UUID,
    session: Session,
    intent: PaymentIntent | None,
    by_staff: bool,
) -> str:
    order = await transitions.lock(tx, order_id)
    if intent is None or not intent.received_minor or intent.order_id not in (None, str(order_id)):
        return await _list_mismatch(tx, after, order, session, intent)
    if (intent.received_minor, intent.currency) == (order.total_minor, order.currency):
        # The captured amount is the order's total; the session's own total does not matter.
        matching = replace(
            session,
            payment_status="paid",
            payment_intent=intent.id,
            amount_total=order.total_minor,
            currency=order.currency,
        )
        return await apply_session(tx, after, order_id, matching)
    if await refunds.find_order(tx, intent.id) not in (None, order_id):
        return await _list_mismatch(tx, after, order, session, intent)
    if not await refunds.add_unmatched(tx, after, order, intent):
        return "unchanged"
    if not order.captured:
        if order.status == "PENDING_PAYMENT":
            ended = unpaid_status(order)
            await transitions.cancel(tx, after, [order], payment_status=ended, note=MISMATCH, by_staff=by_staff)
        recorded = await RECORD_LATE_PAYMENT.one_or_none(
            tx,
            order_id=order.id,
            stripe_session_id=session.id,
            stripe_payment_intent_id=intent.id,
            captured_minor=intent.received_minor,
            captured_currency=intent.currency,
        )
        assert recorded, "an order without a captured payment can record one"
        after.log("payment changed", order.id, payment_status="REFUND_PENDING", payment_intent=intent.id)
    return "unmatched_refunded"


async def _list_mismatch(
    tx: Connection, after: AfterCommit, order: LockedOrder, session: Session, intent: PaymentIntent | None
) -> str:
    """List a paid session of which nothing can be refunded here; returns `mismatch`."""
    if intent is None:
        why = "Stripe names no payment" if session.payment_intent is None else "Stripe does not know its payment"
    elif not intent.received_minor:
        why = "its payment captured nothing"
    else:
        why = "its payment is another order's"
    await stuck.add(
        tx,
        after,
        "unmatched_payment",
        session.payment_intent or session.id,
        order_id=order.id,
        reason=f"Stripe says {session.payment_status} of a session of {order.total_minor} {order.currency}, but {why}",
        stripe_session_id=session.id,
        payment_intent=session.payment_intent,
    )
    return "mismatch"


async def _list_orphan(tx: Connection, after: AfterCommit, *, order_id: UUID, session: Session) -> None:
    """List a paid session that names an order which is not in our tables."""
    await stuck.add(
        tx,
        after,
        "unmatched_payment",
        session.payment_intent or session.id,
        order_id=None,
        reason=f"{session.amount_total} {session.currency} was paid for order {order_id}, which does not exist",
        stripe_session_id=session.id,
        payment_intent=session.payment_intent,
    )


async def fetch_session(resources: Resources, stripe_session_id: str, order_id: UUID | None) -> tuple[Session, bool]:
    """The session as Stripe has it now, and whether its payment has permanently failed."""
    session = await resources.stripe.retrieve_session(stripe_session_id, order_id=order_id)
    if session.status != "complete" or session.payment_status == "paid" or session.payment_intent is None:
        return session, False
    intent = await resources.stripe.retrieve_payment_intent(session.payment_intent, order_id=order_id)
    if intent.status == "succeeded":
        # The money is there, though the session does not say so.
        return replace(
            session, payment_status="paid", amount_total=intent.received_minor, currency=intent.currency
        ), False
    return session, intent.status in ("requires_payment_method", "canceled")


def order_id_of(session: Session) -> UUID | None:
    """The order that a session's metadata names, if any."""
    return uuid_or_none(session.order_id)


def uuid_or_none(text: str | None) -> UUID | None:
    """The UUID in a text from Stripe; None for any other text."""
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
