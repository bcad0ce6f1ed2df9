"""Disputes: payments that customers contest at their bank. Stripe reports them by events, in any order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.infra.db import Connection
from service.infra.metrics import DISPUTE_STATUSES, DISPUTES
from service.infra.sql import statement
from service.infra.stripe import Dispute
from service.shop import orders, outbox, stuck, transitions
from service.shop.transitions import AfterCommit, LockedOrder

PREFIX = "charge.dispute."
# The statuses that end a dispute.
CLOSED = ("won", "lost", "prevented", "warning_closed")

RECORD_DISPUTE = statement("disputes/record_dispute", str)
LINK_ORDER = statement("disputes/link_order")
DELETE_DISPUTE = statement("disputes/delete_dispute")


async def record(
    tx: Connection, after: AfterCommit, event: dict[str, Any], dispute: Dispute, *, order_id: UUID | None
) -> None:
    """Record what an event says of a dispute, and note it on its order once that is known. Repeating changes nothing.

    A dispute that waits for the shop's answer is listed as stuck.
    """
    assert dispute.payment_intent is not None
    order = None if order_id is None else await transitions.lock(tx, order_id)
    before = [] if order is None else await _linked(tx, order)
    status = await RECORD_DISPUTE.one_or_none(
        tx,
        stripe_dispute_id=dispute.id,
        stripe_payment_intent_id=dispute.payment_intent,
        order_id=order_id,
        amount_minor=dispute.amount_minor,
        currency=dispute.currency,
        reason=dispute.reason,
        status=dispute.status,
        reported_at=_created(event),
    )
    noted = listed = False
    words = f"{dispute.id} of {dispute.amount_minor} {dispute.currency}, {dispute.reason}, {dispute.status}"
    if order is not None:
        await LINK_ORDER.run(tx, stripe_payment_intent_id=dispute.payment_intent, order_id=order.id)
        await _add_events(tx, order, before)
        what = event["type"].removeprefix(PREFIX).replace("_", " ")
        noted = await transitions.add_note_once(tx, order, f"dispute {what}: {words}")
    if status is not None and not status.endswith("needs_response"):
        await stuck.end(tx, "dispute_open", [dispute.id])
    elif status is not None and order is not None:
        reason = f"dispute {words}"
        listed = await stuck.add(tx, after, "dispute_open", dispute.id, order_id=order_id, reason=reason)
    if order is not None and noted:
        after.add(lambda _: _count(dispute.status))
    if order is not None and noted and not listed:
        after.log("dispute changed", order.id, dispute_id=dispute.id, status=dispute.status, reason=dispute.reason)


async def _linked(tx: Connection, order: LockedOrder) -> list[orders.Dispute]:
    return await orders.LIST_DISPUTES.all(tx, order_id=order.id, stripe_payment_intent_id=None)


async def _add_events(tx: Connection, order: LockedOrder, before: Sequence[orders.Dispute]) -> None:
    """Write events of the order's disputes that were opened or closed since `before`."""
    known = {dispute.id: dispute.status for dispute in before}
    for dispute in await _linked(tx, order):
        data = {
            "dispute_id": dispute.id,
            "status": dispute.status,
            "reason": dispute.reason,
            "amount_minor": dispute.amount_minor,
            "currency": dispute.currency,
        }
        if dispute.id not in known:
            await outbox.add_event(tx, "dispute.opened", order.id, data)
        if dispute.status in CLOSED and known.get(dispute.id) not in CLOSED:
            await outbox.add_event(tx, "dispute.closed", order.id, data)


async def _count(status: str) -> None:
    DISPUTES.labels(status if status in DISPUTE_STATUSES else "other").inc()


async def forget(tx: Connection, dispute: Dispute) -> None:
    """Delete a dispute of another application on the same Stripe account."""
    await DELETE_DISPUTE.run(tx, stripe_dispute_id=dispute.id)
    await stuck.end(tx, "dispute_open", [dispute.id])


def _created(event: dict[str, Any]) -> datetime:
    """When Stripe created an event. Without a time it counts as the oldest."""
    created = event.get("created")
    if type(created) is not int or not 0 <= created < 2**32:
        created = 0
    return datetime.fromtimestamp(created, UTC)
