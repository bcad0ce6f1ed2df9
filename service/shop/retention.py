"""Deletes rows that are past their retention time."""

from dataclasses import dataclass

from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.sql import statement

# Rows per statement. Each statement is a transaction of its own, so that none holds many locks.
BATCH = 100
# Outgoing events: several for each order, so that more are deleted at a time.
EVENT_BATCH = 1000
# After a delivery. Long enough to look for one and to send it again.
DELIVERY_DAYS = 30


@dataclass(slots=True)
class OffEndpoint:
    """An endpoint that is switched off, or that staff deleted."""

    id: int
    deleted: bool


DELETE_KEYS = statement("retention/delete_keys")
DELETE_EVENTS = statement("retention/delete_events")
DELETE_CARTS = statement("retention/delete_carts")
DELETE_DELIVERIES = statement("retention/delete_deliveries")
LIST_OFF_ENDPOINTS = statement("retention/list_off_endpoints", OffEndpoint)
DELETE_UNSENT = statement("retention/delete_unsent")
DELETE_ENDPOINTS = statement("retention/delete_endpoints")


async def delete_expired(resources: Resources) -> None:
    """Delete expired idempotency keys, events of both directions and abandoned carts, batch by batch."""
    settings = resources.settings
    async with connection(resources.pool) as writer:
        while await DELETE_KEYS.run(writer, limit=BATCH) == BATCH:
            pass
        while await DELETE_EVENTS.run(writer, days=settings.event_days, limit=BATCH) == BATCH:
            pass
        while await DELETE_CARTS.run(writer, days=settings.cart_days, limit=BATCH) == BATCH:
            pass
        while await DELETE_DELIVERIES.run(writer, days=DELIVERY_DAYS, limit=EVENT_BATCH) == EVENT_BATCH:
            pass
        for off in await LIST_OFF_ENDPOINTS.all(writer):
            days = 0 if off.deleted else DELIVERY_DAYS
            while await DELETE_UNSENT.run(writer, endpoint_id=off.id, days=days, limit=EVENT_BATCH) == EVENT_BATCH:
                pass
        while await DELETE_ENDPOINTS.run(writer, limit=BATCH) == BATCH:
            pass
