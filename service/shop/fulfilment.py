"""Fulfilling an order after its payment."""

from uuid import UUID

from service.infra.db import Connection
from service.infra.logs import actor, cause
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop import transitions
from service.shop.transitions import AfterCommit

MARK_FULFILLED = statement("fulfilment/mark_fulfilled", UUID)


async def fulfil(resources: Resources, order_id: UUID) -> None:
    """PAID -> FULFILLED. Does nothing in another status, or if the full payment is refunded or may be."""
    await transitions.run_transition(resources, lambda tx, after: _fulfil(tx, after, order_id))


async def _fulfil(tx: Connection, after: AfterCommit, order_id: UUID) -> None:
    order = await transitions.lock(tx, order_id)
    paid = order.status == "PAID" and order.payment_status == "SUCCEEDED"
    if paid and await MARK_FULFILLED.one_or_none(tx, order_id=order_id, cause=cause.get(), actor=actor.get()):
        after.count_transition(order.id, "FULFILLED", from_status="PAID")
