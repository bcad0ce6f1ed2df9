"""Ending unpaid orders, when the hold ends or the customer cancels. Stripe is asked before an order is cancelled."""

from collections.abc import Mapping
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.stripe import StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.shop import audit_log, orders, payment_session, settlement, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse, find_stored_response, run_once
from service.shop.orders import Order, OrderRow
from service.shop.principals import SERVICE, Principal
from service.shop.transitions import AfterCommit

DAY = 86_400


async def expire(resources: Resources, order_id: UUID) -> None:
    """Cancel an order whose hold has ended, unless Stripe says that it was paid.

    Raises one of `payment_session.NO_ANSWER` or `checkout_in_progress` while that is unknown; the sweep tries again.
    If Stripe has not answered until ten minutes after the session's end, the order is cancelled without an answer.
    """
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, SERVICE, order_id)
    if order.status != "PENDING_PAYMENT":
        return
    if order.payment_status == "PROCESSING":
        await _recheck(resources, order)
        return
    if not order.hold_expired:
        return
    try:
        await _end(resources, order)
    except ShopError as error:
        if error.code not in payment_session.NO_ANSWER or not order.stripe_deadline_passed:
            raise
        await _cancel_unchanged(resources, order, "Stripe did not answer")


async def close(resources: Resources, order_id: UUID, stripe_session_id: str) -> bool:
    """Close an order's session at Stripe; True when it ended unpaid and the order can be cancelled.

    Raises as `expire` does.
    """
    session = await payment_session.close(resources, order_id, stripe_session_id)
    return session is not None and session.status == "expired" and session.payment_status != "paid"


async def cancel_closed(resources: Resources, closed: Mapping[UUID, str]) -> None:
    """Cancel, in one transaction, the orders whose sessions were closed unpaid. Those that have changed are skipped."""
    await transitions.run_transition(resources, partial(_cancel_closed, closed=closed))


async def cancel(
    resources: Resources, key: IdempotencyKey | None, principal: Principal, order_id: UUID
) -> StoredResponse:
    """Cancel a pending order; 200 with the Order, even if it was cancelled before.

    Only with `orders:cancel` another's order is cancelled, or a payment in progress ended. Money that still comes is a
    late payment. Who may cancel is decided before Stripe is asked, since what Stripe has closed cannot be undone.

    Raises `order_not_cancellable` for an order that is paid or being paid, and what `expire` raises.
    """
    check = partial(orders.read, principal=principal, order_id=order_id, scope="orders:cancel")
    if replay := await run_transaction(
        resources.pool, lambda tx: find_stored_response(tx, key, check), idempotent=True
    ):
        return replay
    async with connection(resources.pool) as reader:
        order = await check(reader)
    by_staff = principal.may("orders:cancel")
    if order.status == "PENDING_PAYMENT" and order.payment_status != "PROCESSING":
        await _end(resources, order, by_staff=by_staff)
    elif order.status == "PENDING_PAYMENT" and by_staff:
        await _end_processing(resources, order, "payment in progress ended by staff", by_staff=True)
    ended_by_staff = by_staff and order.status == "PENDING_PAYMENT"
    work = partial(_read_cancelled, principal=principal, order_id=order_id, ended_by_staff=ended_by_staff)
    return await run_once(resources.pool, key, 200, work, order_id=order_id, check=check)


async def _cancel_closed(tx: Connection, after: AfterCommit, closed: Mapping[UUID, str]) -> None:
    unpaid = [
        order
        for order in await transitions.lock_all(tx, list(closed))
        if (order.status, order.payment_status) == ("PENDING_PAYMENT", "INITIATED")
        and order.stripe_session_id == closed[order.id]
    ]
    await transitions.cancel(tx, after, unpaid, payment_status="EXPIRED", note=settlement.SESSION_EXPIRED)


async def _read_cancelled(tx: Connection, principal: Principal, order_id: UUID, *, ended_by_staff: bool) -> Order:
    order = await orders.view(tx, principal, await orders.read(tx, SERVICE, order_id))
    if order.status != "CANCELLED":
        raise ShopError("order_not_cancellable", "The order is paid, or being paid.", order_status=order.status)
    if ended_by_staff:
        # Stripe's event about the session that we closed may have cancelled the order before us.
        changes = {"before": {"status": "PENDING_PAYMENT"}, "after": {"status": "CANCELLED"}}
        await audit_log.add_once(tx, "cancel_order", f"order:{order_id}", **changes)
    return order


async def _end(resources: Resources, order: OrderRow, *, by_staff: bool = False) -> None:
    """Close the session at Stripe, then settle the order by the session's final state."""
    session = await payment_session.close(resources, order.id, order.stripe_session_id)
    if session is None:
        await _cancel_unchanged(resources, order, None, by_staff=by_staff)
        return
    try:
        outcome = await settlement.settle_session(resources, order.id, session, by_staff=by_staff)
    except ShopError:
        await payment_session.release_claim(resources, order.id)
        raise
    if outcome == "mismatch":
        # This payment does not pay the order, so the order is unpaid and its units are released.
        await _cancel_unchanged(resources, order, settlement.MISMATCH, by_staff=by_staff)


async def _cancel_unchanged(resources: Resources, order: OrderRow, note: str | None, *, by_staff: bool = False) -> None:
    """Cancel an order if it is still as it was read, with the same payment status, attempt and session.

    Raises `checkout_in_progress` when another session may have been created since.
    """

    async def work(tx: Connection, after: AfterCommit) -> None:
        locked = await transitions.lock(tx, order.id)
        if locked.status != "PENDING_PAYMENT" or locked.payment_status != order.payment_status:
            return
        if (locked.attempt, locked.stripe_session_id) != (order.attempt, order.stripe_session_id):
            raise await payment_session.in_progress(tx, order.id)
        ended = settlement.unpaid_status(locked)
        await transitions.cancel(tx, after, [locked], payment_status=ended, note=note, by_staff=by_staff)

    await transitions.run_transition(resources, work)


async def _recheck(resources: Resources, order: OrderRow) -> None:
    """Ask Stripe about a payment that takes days, in case its last event was lost; end it after PROCESSING_DAYS.

    Raises as `expire` does.
    """
    assert order.stripe_session_id is not None
    days = resources.settings.processing_days
    if order.age_seconds >= days * DAY:
        try:
            await _end_processing(resources, order, f"not paid within {days} days")
        except ShopError as error:
            if error.code not in payment_session.NO_ANSWER or order.age_seconds < (days + 1) * DAY:
                raise
            await _cancel_unchanged(resources, order, "Stripe did not answer")
        return
    try:
        session, failed = await settlement.fetch_session(resources, order.stripe_session_id, order.id)
    except StripeRefused as refused:
        if not order.stripe_deadline_passed:
            raise payment_session.payment_unavailable(refused) from refused
        await _cancel_unchanged(resources, order, "Stripe knows no such payment session")
        return
    except StripeUnknown as unknown:
        raise payment_session.payment_unavailable(unknown) from unknown
    outcome = await settlement.settle_session(resources, order.id, session, failed=failed)
    if outcome == "mismatch" and order.hold_expired:
        await _cancel_unchanged(resources, order, settlement.MISMATCH)


async def _end_processing(resources: Resources, order: OrderRow, note: str, *, by_staff: bool = False) -> None:
    """Cancel an order whose payment is in progress, unless Stripe says that it has been paid meanwhile.

    Its payment becomes FAILED. Raises one of `payment_session.NO_ANSWER` without an answer from Stripe.
    """
    assert order.stripe_session_id is not None
    try:
        session, failed = await settlement.fetch_session(resources, order.stripe_session_id, order.id)
        if session.status == "open":
            session = await resources.stripe.expire_session(session.id, order_id=order.id)
        await settlement.settle_session(resources, order.id, session, failed=failed, by_staff=by_staff)
    except StripeRefused:
        # Stripe knows no such session or payment, so nothing can come of it.
        pass
    except StripeUnknown as unknown:
        raise payment_session.payment_unavailable(unknown) from unknown
    await _cancel_unchanged(resources, order, note, by_staff=by_staff)
