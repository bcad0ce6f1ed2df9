"""The repairers: whatever is overdue in the tables is found and finished, whoever was to do it and did not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import connection
from service.infra.logs import cause
from service.infra.metrics import SWEPT
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.infra.stripe import StripeRefused, StripeUnknown
from service.shop import expiry, fulfilment, refunds, webhooks

BATCH = 100
# Calls to Stripe at a time; a slow Stripe must not take every connection there is.
AT_ONCE = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class DueOrder:
    """An order on which something is due, by its status at the time.

    `session_to_close` where its hold has ended and only its session is to be closed before it is cancelled.
    """

    id: UUID
    status: str
    session_to_close: str | None


@dataclass(slots=True)
class DueEvent:
    """A stored event that is not handled."""

    id: str


@dataclass(slots=True)
class DueRefund:
    """An order with a refund, or a payment to be refunded, that is not settled."""

    order_id: UUID


CLAIM_ORDERS = Statement("sweep/claim_orders", DueOrder)
CLAIM_EVENTS = Statement("sweep/claim_events", DueEvent)
CLAIM_REFUNDS = Statement("sweep/claim_refunds", DueRefund)
CLAIM_UNMATCHED = Statement("sweep/claim_unmatched", DueRefund)


async def sweep(resources: Resources) -> int:
    """Take up everything that is due now, batch by batch; how many things that was."""
    cause.set("job sweep")
    count = 0
    while True:
        async with connection(resources.pool) as claimer:
            orders = await CLAIM_ORDERS.all(claimer, BATCH)
            events = await CLAIM_EVENTS.all(claimer, BATCH)
            due_refunds = [*await CLAIM_REFUNDS.all(claimer, BATCH), *await CLAIM_UNMATCHED.all(claimer, BATCH)]
            refunding = {due.order_id for due in due_refunds}
        SWEPT.labels("orders").inc(len(orders))
        SWEPT.labels("events").inc(len(events))
        SWEPT.labels("refunds").inc(len(refunding))
        closed: dict[UUID, str] = {}
        work: list[Callable[[], Awaitable[object]]] = [
            *(partial(advance, resources, due, closed) for due in orders),
            *(partial(webhooks.process_stored_event, resources, due.id) for due in events),
            *(partial(refunds.settle, resources, order_id) for order_id in refunding),
        ]
        await _all(work)
        if closed:
            await _cancel(resources, closed)
        count += len(work)
        if max(len(orders), len(events), len(refunding)) < BATCH:
            return count


async def advance(resources: Resources, due: DueOrder, closed: dict[UUID, str]) -> None:
    """Do what is due on an order; one that is only to be cancelled is put into `closed`, with its session."""
    if due.session_to_close and await expiry.close(resources, due.id, due.session_to_close):
        closed[due.id] = due.session_to_close
    elif due.status == "PENDING_PAYMENT":
        await expiry.expire(resources, due.id)
    elif due.status == "PAID":
        await fulfilment.fulfil(resources, due.id)


async def _cancel(resources: Resources, closed: dict[UUID, str]) -> None:
    """Cancel all in one transaction, a fifth of the work for PostgreSQL; should one of them hinder it, each alone."""
    try:
        await expiry.cancel_closed(resources, closed)
    except Exception as error:
        logger.info("not cancelled together", extra={"error": str(error)})
        await _all(partial(expiry.expire, resources, order_id) for order_id in closed)


async def _all(work: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Run all, a few at a time. One that fails was put off when it was claimed, and starves no other."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(thing: Callable[[], Awaitable[object]]) -> None:
        async with places:
            try:
                await thing()
            except (ShopError, StripeUnknown, StripeRefused) as error:
                logger.info("put off", extra={"error": str(error)})
            except Exception:
                logger.exception("failed, put off")

    await asyncio.gather(*(one(thing) for thing in work))
