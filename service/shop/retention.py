"""Deletes rows that are past their retention time."""

from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement

# Rows a statement; each is a transaction of its own, so that none holds many locks.
BATCH = 100

DELETE_KEYS = Statement("retention/delete_keys", NoRow)
DELETE_EVENTS = Statement("retention/delete_events", NoRow)
DELETE_CARTS = Statement("retention/delete_carts", NoRow)


async def delete_expired(resources: Resources) -> None:
    """Remove what nobody needs any more, in small batches, each a transaction of its own."""
    keep = resources.settings
    async with connection(resources.pool) as writer:
        while await DELETE_KEYS.run(writer, BATCH) == BATCH:
            pass
        while await DELETE_EVENTS.run(writer, keep.event_days, BATCH) == BATCH:
            pass
        while await DELETE_CARTS.run(writer, keep.cart_days, BATCH) == BATCH:
            pass
