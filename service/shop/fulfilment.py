"""What follows a payment."""

from uuid import UUID

from service.infra.db import Connection
from service.infra.logs import cause
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.shop import transitions
from service.shop.transitions import AfterCommit, OrderId

MARK_FULFILLED = Statement("fulfilment/mark_fulfilled", OrderId)


async def fulfil(resources: Resources, order_id: UUID) -> None:
    """PAID -> FULFILLED; nothing for an order in another status, or one that is, or may be, refunded whole."""
    await transitions.run_transition(resources, lambda tx, after: _fulfil(tx, after, order_id))


async def _fulfil(tx: Connection, after: AfterCommit, order_id: UUID) -> None:
    order = await transitions.lock(tx, order_id)
    paid = order.status == "PAID" and order.payment_status == "SUCCEEDED"
    if paid and await MARK_FULFILLED.maybe(tx, order_id, cause.get()):
        after.count_transition(order.id, "FULFILLED")
