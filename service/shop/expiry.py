"""The end of orders that are not paid: the hold runs out, or the customer cancels. Stripe is asked first."""

from collections.abc import Mapping
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.stripe import StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.shop import orders, payment_session, settlement, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse, find_stored_response, run_once
from service.shop.orders import Order, OrderRow
from service.shop.transitions import AfterCommit


async def expire(resources: Resources, order_id: UUID) -> None:
    """Cancel an order whose hold has ended, unless Stripe says that it was paid.

    Raises one of `payment_session.NO_ANSWER` or `checkout_in_progress` when that cannot be told
    yet: the sweep comes back.
    Once Stripe has been silent until ten minutes past the session's end, the order is cancelled without it.
    """
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, order_id)
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
        await transitions.run_transition(resources, partial(_cancel_unasked, order=order, note="Stripe did not answer"))


async def close(resources: Resources, order_id: UUID, stripe_session_id: str) -> bool:
    """Close an order's session at Stripe; whether that leaves nothing but to cancel the order. Raises as `expire`."""
    found = await payment_session.close(resources, order_id, stripe_session_id)
    return found is not None and found.status == "expired" and found.payment_status != "paid"


async def cancel_closed(resources: Resources, closed: Mapping[UUID, str]) -> None:
    """Cancel in one transaction all orders whose sessions were closed unpaid, but those that moved on since."""
    await transitions.run_transition(resources, partial(_cancel_closed, closed=closed))


async def cancel(resources: Resources, key: IdempotencyKey | None, order_id: UUID) -> StoredResponse:
    """Cancel a pending order for its customer; 200 with the Order. Twice is the same as once.

    Raises `order_not_cancellable` for one that is paid or being paid, else as `expire` does.
    """
    if replay := await run_transaction(resources.pool, lambda tx: find_stored_response(tx, key), idempotent=True):
        return replay
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, order_id)
    if order.status == "PENDING_PAYMENT" and order.payment_status != "PROCESSING":
        await _end(resources, order)
    return await run_once(resources.pool, key, 200, lambda tx: _cancelled(tx, order_id))


async def _cancel_closed(tx: Connection, after: AfterCommit, closed: Mapping[UUID, str]) -> None:
    held = await transitions.lock_all(tx, list(closed))
    unpaid = [
        order
        for order in held
        if (order.status, order.payment_status) == ("PENDING_PAYMENT", "INITIATED")
        and order.stripe_session_id == closed[order.id]
    ]
    await transitions.cancel(tx, after, unpaid, "EXPIRED", settlement.SESSION_EXPIRED)


async def _cancelled(tx: Connection, order_id: UUID) -> Order:
    order = await orders.view(tx, order_id)
    if order.status != "CANCELLED":
        raise ShopError("order_not_cancellable", "The order is paid, or being paid.", order_status=order.status)
    return order


async def _end(resources: Resources, order: OrderRow) -> None:
    """Close the session at Stripe, then make of the order what it came to."""
    found = await payment_session.close(resources, order.id, order.stripe_session_id)
    if found is None:
        await transitions.run_transition(resources, partial(_cancel_unasked, order=order, note=None))
        return
    try:
        outcome = await settlement.settle_session(resources, order.id, found)
    except ShopError:
        await payment_session.release(resources, order.id)
        raise
    if outcome == "mismatch":
        # Not what it was to pay, so it is not paid; the units do not wait for people to look into it.
        await transitions.run_transition(resources, partial(_cancel_unasked, order=order, note=settlement.MISMATCH))


async def _cancel_unasked(tx: Connection, after: AfterCommit, order: OrderRow, note: str | None) -> None:
    """Cancel the order as it was looked into, and not when another session may have come of it since."""
    held = await transitions.lock(tx, order.id)
    if held.status != "PENDING_PAYMENT" or held.payment_status != order.payment_status:
        return
    if (held.attempt, held.stripe_session_id) != (order.attempt, order.stripe_session_id):
        raise payment_session.in_progress()
    await transitions.cancel(tx, after, [held], "FAILED" if held.payment_status == "PROCESSING" else "EXPIRED", note)


async def _recheck(resources: Resources, order: OrderRow) -> None:
    """A payment that takes days: what has become of it, should its event have been lost."""
    assert order.stripe_session_id is not None
    try:
        found, failed = await settlement.fetch_session(resources, order.stripe_session_id, order.id)
    except StripeRefused as refused:
        if not order.stripe_deadline_passed:
            raise payment_session.payment_unavailable(refused) from refused
        await transitions.run_transition(
            resources, partial(_cancel_unasked, order=order, note="Stripe knows no such payment session")
        )
        return
    except StripeUnknown as unknown:
        raise payment_session.payment_unavailable(unknown) from unknown
    outcome = await settlement.settle_session(resources, order.id, found, failed=failed)
    if outcome == "mismatch" and order.hold_expired:
        await transitions.run_transition(resources, partial(_cancel_unasked, order=order, note=settlement.MISMATCH))
