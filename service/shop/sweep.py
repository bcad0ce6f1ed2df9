"""The periodic repair of due rows: it finishes what another process, or an outage, left half done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from service.errors import ShopError
from service.infra.db import connection
from service.infra.logs import add_subject, begin_job
from service.infra.metrics import DUE_ROWS, OLDEST_DUE, SWEPT
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import StripeRefused, StripeUnknown
from service.shop import expiry, fulfilment, refunds, stuck, webhooks

BATCH = 100
# How many repairs run at a time. Each may wait for Stripe, and a slow Stripe must not occupy every connection.
CONCURRENCY = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class DueOrder:
    """A due order and its status when it was claimed.

    `session_to_close` is set when the hold has ended and the order only has to be closed at Stripe and cancelled.
    """

    id: UUID
    status: str
    session_to_close: str | None


@dataclass(slots=True)
class DueRefund:
    """A due refund."""

    id: UUID
    order_id: UUID


@dataclass(slots=True)
class Backlog:
    """The due rows of one of REPAIRERS, and for how long the oldest is due."""

    repairer: str
    due_rows: int
    oldest_due_seconds: float


@dataclass(slots=True)
class Repair:
    """What to do for one due row, and the row's name in the log."""

    subject: dict[str, object]
    run: Callable[[], Awaitable[object]]


# What the sweep repairs: the labels of the metrics about the backlog.
REPAIRERS = ("orders", "events", "refunds", "unmatched_payments")

MEASURE_BACKLOG = statement("sweep/measure_backlog", Backlog)
CLAIM_ORDERS = statement("sweep/claim_orders", DueOrder)
CLAIM_EVENTS = statement("sweep/claim_events", str)
CLAIM_REFUNDS = statement("sweep/claim_refunds", DueRefund)
CLAIM_UNMATCHED = statement("sweep/claim_unmatched", UUID)


async def sweep(resources: Resources) -> int:
    """Repair everything that is due now, batch by batch, and list what stays stuck. Returns the number of repairs."""
    begin_job("sweep")
    # A measurement that fails stops no repair.
    with suppress(ShopError):
        await measure_backlog(resources)
    count = 0
    while True:
        async with connection(resources.pool) as claimer:
            orders = await CLAIM_ORDERS.all(claimer, limit=BATCH)
            events = await CLAIM_EVENTS.all(claimer, limit=BATCH)
            due_refunds = await CLAIM_REFUNDS.all(claimer, limit=BATCH)
            unmatched = await CLAIM_UNMATCHED.all(claimer, limit=BATCH)
        refunding = {*(refund.order_id for refund in due_refunds), *unmatched}
        SWEPT.labels("orders").inc(len(orders))
        SWEPT.labels("events").inc(len(events))
        SWEPT.labels("refunds").inc(len(refunding))
        closed: dict[UUID, str] = {}
        repairs = [
            *(Repair({"order_id": due.id}, partial(advance, resources, due, closed)) for due in orders),
            *(
                Repair({"event_id": event}, partial(webhooks.process_stored_event, resources, event))
                for event in events
            ),
            *(Repair({"order_id": order}, partial(refunds.settle, resources, order)) for order in refunding),
        ]
        await _run_all(resources, repairs)
        if closed:
            await _cancel(resources, closed)
        await stuck.list_open(resources, refund_ids=[refund.id for refund in due_refunds], event_ids=events)
        count += len(repairs)
        if max(len(orders), len(events), len(due_refunds), len(unmatched)) < BATCH:
            await stuck.set_gauge(resources)
            return count


async def measure_backlog(resources: Resources) -> None:
    """Show in the metrics what is due: what jobs left since the last run, and what other workers have not got to."""
    async with connection(resources.pool) as reader:
        backlogs = {backlog.repairer: backlog for backlog in await MEASURE_BACKLOG.all(reader)}
    for repairer in REPAIRERS:
        backlog = backlogs.get(repairer, Backlog(repairer, 0, 0.0))
        DUE_ROWS.labels(repairer).set(backlog.due_rows)
        OLDEST_DUE.labels(repairer).set(backlog.oldest_due_seconds)


async def advance(resources: Resources, due: DueOrder, closed: dict[UUID, str]) -> None:
    """Repair a due order. If it only has to be cancelled, its session is closed and added to `closed`."""
    if due.session_to_close and await expiry.close(resources, due.id, due.session_to_close):
        closed[due.id] = due.session_to_close
    elif due.status == "PENDING_PAYMENT":
        await expiry.expire(resources, due.id)
    elif due.status == "PAID":
        await fulfilment.fulfil(resources, due.id)


async def _cancel(resources: Resources, closed: dict[UUID, str]) -> None:
    """Cancel all in one transaction, which costs PostgreSQL a fifth of the time; if that fails, one by one."""
    try:
        await expiry.cancel_closed(resources, closed)
    except Exception as error:
        logger.info("orders not cancelled together", extra={"error": str(error)})
        await _run_all(
            resources, (Repair({"order_id": order}, partial(expiry.expire, resources, order)) for order in closed)
        )


async def run_repair(resources: Resources, repair: Repair) -> None:
    """Run one repair. The traced worker replaces this."""
    await repair.run()


async def _run_all(resources: Resources, repairs: Iterable[Repair]) -> None:
    """Run all repairs, CONCURRENCY at a time. A repair that fails is tried again later: its claim deferred it."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def run(repair: Repair) -> None:
        async with slots:
            # Each runs in a task of its own, with a trace of its own.
            begin_job("sweep")
            add_subject(**repair.subject)
            try:
                await run_repair(resources, repair)
            except (ShopError, StripeUnknown, StripeRefused) as error:
                logger.info("repair deferred", extra={"error": str(error)})
            except Exception:
                logger.exception("repair failed and was deferred")

    await asyncio.gather(*(run(repair) for repair in repairs))
