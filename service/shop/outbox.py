"""The outbox: events for other systems, written in the transaction of what happened.

A statement that changes an order writes its event itself, one row for each endpoint that receives the type. Everything
else writes through this module. `deliveries` sends them.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args
from uuid import UUID

from service.infra.db import Connection
from service.infra.ids import new_id
from service.infra.sql import statement

EventType = Literal[
    "order.placed",
    "order.paid",
    "order.fulfilled",
    "order.cancelled",
    "refund.succeeded",
    "refund.failed",
    "dispute.opened",
    "dispute.closed",
    "product.sold_out",
    "product.restocked",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

ADD_EVENT = statement("outbox/add_event")
ANNOUNCE_PRODUCTS = statement("outbox/announce_products")


async def add_event(tx: Connection, event_type: EventType, order_id: UUID, data: dict[str, Any]) -> None:
    """Write an event of a locked order's refund or dispute for the endpoints that receive this type."""
    await ADD_EVENT.run(
        tx, event_id=new_id(), type=event_type, order_id=order_id, data={"order_id": str(order_id), **data}
    )


async def announce_products(tx: Connection, product_ids: Sequence[int]) -> None:
    """Write that products are sold out or restocked: their stock became 0 or left 0, and they are locked."""
    if product_ids:
        await ANNOUNCE_PRODUCTS.run(tx, product_ids=product_ids)
