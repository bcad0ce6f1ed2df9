"""What follows a payment."""

from uuid import UUID

from service.infra.db import Connection
from service.infra.logs import cause
from service.infra.parts import Parts
from service.infra.statements import Statement
from service.shop import orders
from service.shop.orders import AfterCommit, OrderId

MARK_FULFILLED = Statement("fulfilment/mark_fulfilled", OrderId)


async def fulfil(parts: Parts, order_id: UUID) -> None:
    """PAID -> FULFILLED; nothing for an order in another status, or one that is, or may be, refunded whole."""
    await orders.transition(parts, lambda tx, after: _fulfil(tx, after, order_id))


async def _fulfil(tx: Connection, after: AfterCommit, order_id: UUID) -> None:
    order = await orders.lock(tx, order_id)
    paid = order.status == "PAID" and order.payment_status == "SUCCEEDED"
    if paid and await MARK_FULFILLED.maybe(tx, order_id, cause.get()):
        after.reached(order.id, "FULFILLED")
