"""What no repairer can finish: listed for people, who act at Stripe or here, or say that they settled it elsewhere."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from service.errors import not_found
from service.infra.db import Connection, connection
from service.infra.metrics import STUCK
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop import audit_log, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.transitions import AfterCommit

Kind = Literal[
    "unmatched_payment",
    "refund_failed",
    "refund_open",
    "dispute_open",
    "event_unhandled",
    "event_undelivered",
    "endpoint_switched_off",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The WARNING about a new item of each kind.
MESSAGES: dict[Kind, str] = {
    "unmatched_payment": "payment does not match its order",
    "refund_failed": "refund failed",
    "refund_open": "refund has been open for a day",
    "dispute_open": "payment is disputed",
    "event_unhandled": "event could not be applied",
    "event_undelivered": "event could not be delivered",
    "endpoint_switched_off": "event endpoint was switched off",
}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StuckItem:
    """What is stuck: `id` names a payment intent or session, a refund, a dispute and so on, by its kind."""

    kind: Kind
    order_id: UUID | None
    id: str
    reason: str
    since: datetime


@dataclass(slots=True)
class StuckRow:
    """An item in the list; `number` is the cursor."""

    number: int
    kind: Kind
    order_id: UUID | None
    id: str
    reason: str
    since: datetime

    def item(self) -> StuckItem:
        """The item without its cursor."""
        return StuckItem(self.kind, self.order_id, self.id, self.reason, self.since)


@dataclass(slots=True)
class StuckPage:
    """A keyset page of what is stuck, oldest first."""

    items: Sequence[StuckItem]
    next_cursor: int | None


@dataclass(slots=True)
class StuckCount:
    """How many items of a kind are stuck."""

    kind: Kind
    items: int


@dataclass(slots=True)
class OpenRefund:
    """A refund that has been open for a day."""

    id: UUID
    order_id: UUID


@dataclass(slots=True)
class UnhandledEvent:
    """An event that has been unhandled for a day."""

    id: str
    order_id: UUID | None
    type: str


ADD_ITEM = statement("stuck/add_item", str)
END_ITEMS = statement("stuck/end_items")
LIST_ITEMS = statement("stuck/list_items", StuckRow)
LIST_ITEMS_OF_KIND = statement("stuck/list_items_of_kind", StuckRow)
COUNT_ITEMS = statement("stuck/count_items", StuckCount)
FIND_OPEN_REFUNDS = statement("stuck/find_open_refunds", OpenRefund)
FIND_UNHANDLED_EVENTS = statement("stuck/find_unhandled_events", UnhandledEvent)
FIND_ITEM = statement("stuck/find_item", StuckRow)
RESOLVE_ITEM = statement("stuck/resolve_item")
LIST_RESOLVED = statement("stuck/list_resolved", str)


async def add(
    tx: Connection,
    after: AfterCommit,
    kind: Kind,
    item_id: str,
    *,
    order_id: UUID | None,
    reason: str,
    **fields: Any,
) -> bool:
    """List an item, and log a WARNING with `fields`; False if it is listed already or people have resolved it."""
    if not await ADD_ITEM.one_or_none(tx, kind=kind, id=item_id, order_id=order_id, reason=reason[:500]):
        return False
    named = {"kind": kind, "id": item_id, "order_id": None if order_id is None else str(order_id), "reason": reason}

    async def warn(_: Resources) -> None:
        logger.warning(MESSAGES[kind], extra={**named, **fields})

    after.add(warn)
    return True


async def end(tx: Connection, kind: Kind, item_ids: Sequence[str]) -> None:
    """Take items off the list that are no longer stuck."""
    await END_ITEMS.run(tx, kind=kind, ids=item_ids)


async def resolved_ids(reader: Connection, order_id: UUID) -> set[str]:
    """What people have settled elsewhere for an order: payments and failed refunds, which are not refunded any more."""
    return set(await LIST_RESOLVED.all(reader, order_id=order_id))


async def list_open(resources: Resources, *, refund_ids: Sequence[UUID], event_ids: Sequence[str]) -> None:
    """List those of the refunds and events that were tried again and have been open for a day."""
    async with connection(resources.pool) as reader:
        refunds = await FIND_OPEN_REFUNDS.all(reader, refund_ids=refund_ids) if refund_ids else []
        events = await FIND_UNHANDLED_EVENTS.all(reader, event_ids=event_ids) if event_ids else []
    if refunds or events:

        async def work(tx: Connection, after: AfterCommit) -> None:
            for refund in refunds:
                reason = "Stripe has not decided the refund for a day"
                await add(tx, after, "refund_open", str(refund.id), order_id=refund.order_id, reason=reason)
            for event in events:
                reason = f"{event.type} could not be applied for a day"
                await add(tx, after, "event_unhandled", event.id, order_id=event.order_id, reason=reason)

        await transitions.run_transition(resources, work)


async def set_gauge(resources: Resources) -> None:
    """Set the gauge of what is stuck."""
    async with connection(resources.pool) as reader:
        counts = {count.kind: count.items for count in await COUNT_ITEMS.all(reader)}
    for kind in KINDS:
        STUCK.labels(kind).set(counts.get(kind, 0))


async def list_items(resources: Resources, *, kind: Kind | None, after_number: int, limit: int) -> StuckPage:
    """A page of what is stuck, of one kind or of all, oldest first."""
    async with connection(resources.pool) as reader:
        if kind is None:
            page = await LIST_ITEMS.all(reader, after_number=after_number, limit=limit + 1)
        else:
            page = await LIST_ITEMS_OF_KIND.all(reader, kind=kind, after_number=after_number, limit=limit + 1)
    return StuckPage([row.item() for row in page[:limit]], page[limit - 1].number if len(page) > limit else None)


async def resolve(
    resources: Resources, key: IdempotencyKey | None, kind: Kind, item_id: str, *, reason: str
) -> StoredResponse:
    """200 with the StuckItem that people settled elsewhere; it leaves the list, and no refund is made for it any more.

    Raises 404 for what is not in the list, and the errors of the idempotency key.
    """
    order_id: UUID | None = None

    async def work(tx: Connection) -> StuckItem:
        nonlocal order_id
        row = await FIND_ITEM.one_or_none(tx, kind=kind, id=item_id)
        if row is None:
            raise not_found("item")
        order_id = row.order_id
        order = None if order_id is None else await transitions.lock(tx, order_id)
        if not await RESOLVE_ITEM.run(tx, kind=kind, id=item_id):
            raise not_found("item")
        await audit_log.add(
            tx, "resolve_stuck", f"stuck:{kind}:{item_id}", before={"resolved": False}, after={"resolved": True}
        )
        if order is not None:
            await transitions.add_note(tx, order, f"{kind} {item_id} settled elsewhere: {reason}")
        return row.item()

    response = await run_once(resources.pool, key, 200, work)
    # Without the reason, in which people may quote a customer.
    logger.info("stuck item resolved", extra={"kind": kind, "id": item_id, "order_id": order_id})
    if order_id is not None:
        # The worker stops the refunds that it would have made again.
        await resources.queue.settle_refunds(order_id)
    return response
