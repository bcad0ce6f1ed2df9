"""Deletes rows that are past their retention time."""

from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.sql import statement

# Rows per statement. Each statement is a transaction of its own, so that none holds many locks.
BATCH = 100

DELETE_KEYS = statement("retention/delete_keys")
DELETE_EVENTS = statement("retention/delete_events")
DELETE_CARTS = statement("retention/delete_carts")


async def delete_expired(resources: Resources) -> None:
    """Delete expired idempotency keys, handled events and abandoned carts, batch by batch."""
    settings = resources.settings
    async with connection(resources.pool) as writer:
        while await DELETE_KEYS.run(writer, limit=BATCH) == BATCH:
            pass
        while await DELETE_EVENTS.run(writer, days=settings.event_days, limit=BATCH) == BATCH:
            pass
        while await DELETE_CARTS.run(writer, days=settings.cart_days, limit=BATCH) == BATCH:
            pass
