"""An order's life: how it is read, held, and moved from one status to the next.

Every transition starts with `lock`, decides on what it returns, and is one guarded UPDATE. The functions that
take `tx` are what checkout, payment, expiry, fulfilment and refunds share.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from service.errors import ShopError, not_found
from service.infra.db import Connection, connection, transact
from service.infra.logs import cause
from service.infra.metrics import TRANSITIONS
from service.infra.parts import Parts
from service.infra.statements import NoRow, Statement

T = TypeVar("T")

CAPTURED = ("SUCCEEDED", "REFUND_PENDING", "REFUNDED")


@dataclass(slots=True)
class OrderRow:
    """An order beside its payment.

    `overdue` once its hold has ended; `given_up` once Stripe has been silent for too long after that.
    """

    id: UUID
    cart_id: UUID
    status: str
    total_minor: int
    currency: str
    expires_at: datetime
    created_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    payment_id: UUID
    payment_status: str
    amount_minor: int
    refunded_minor: int
    attempt: int
    stripe_session_id: str | None
    stripe_payment_intent_id: str | None
    checkout_url: str | None
    overdue: bool
    given_up: bool


@dataclass(slots=True)
class OrderLine:
    """A line at the price it was ordered at, in minor units."""

    product_id: int
    name: str
    quantity: int
    unit_price_minor: int
    line_total_minor: int


@dataclass(slots=True)
class Payment:
    """What clients see of a payment; money in minor units."""

    id: UUID
    status: str
    stripe_session_id: str | None
    amount_minor: int
    refunded_minor: int


@dataclass(slots=True)
class Order:
    """An order as clients see it; `checkout_url` is null once it cannot be paid."""

    id: UUID
    cart_id: UUID
    status: str
    total_minor: int
    currency: str
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    items: Sequence[OrderLine]
    payment: Payment
    checkout_url: str | None


@dataclass(slots=True)
class ListedOrder:
    """An order in staff's listing; `number` is the cursor."""

    id: UUID
    number: int
    cart_id: UUID
    status: str
    total_minor: int
    currency: str
    email: str | None
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    payment_status: str
    refunded_minor: int


@dataclass(slots=True)
class OrderPage:
    """A keyset page of orders, newest first."""

    items: Sequence[ListedOrder]
    next_cursor: int | None


@dataclass(slots=True)
class EventRow:
    """A line of an order's history."""

    at: datetime
    from_status: str | None
    to_status: str
    cause: str
    note: str | None


@dataclass(slots=True)
class Locked:
    """An order while this transaction holds its cart, itself and its payment.

    `captured_minor` is what was captured, else the amount that its payment asks for.
    """

    id: UUID
    cart_id: UUID
    status: str
    hold: int
    total_minor: int
    currency: str
    payment_status: str
    attempt: int
    stripe_session_id: str | None
    stripe_payment_intent_id: str | None
    captured_minor: int
    refunded_minor: int

    @property
    def captured(self) -> bool:
        """Whether the money is, or was, ours."""
        return self.payment_status in CAPTURED


@dataclass(slots=True)
class OrderId:
    """The order that a statement changed; no row where its guard did not hold."""

    id: UUID


@dataclass(slots=True)
class MovedUnits:
    """A product after units of an order came back or were taken."""

    product_id: int
    stock: int
    quantity: int


READ_ORDER = Statement("orders/read_order", OrderRow)
LIST_ITEMS = Statement("orders/list_items", OrderLine)
LIST_ORDERS = Statement("orders/list_orders", ListedOrder)
LIST_ORDERS_BY_STATUS = Statement("orders/list_orders_by_status", ListedOrder)
LIST_EVENTS = Statement("orders/list_events", EventRow)
LOCK_ORDER = Statement("orders/lock_order", Locked)
LOCK_ORDERS = Statement("orders/lock_orders", Locked)
ADD_NOTE = Statement("orders/add_note", NoRow)
MARK_PAID = Statement("orders/mark_paid", OrderId)
MARK_CANCELLED = Statement("orders/mark_cancelled", OrderId)
RETURN_STOCK = Statement("orders/return_stock", MovedUnits)


class AfterCommit:
    """What to do once a transaction has committed: counters, wake-ups, the cache.

    Nothing of it is owed, and nothing of it does harm: what a try wanted that lost to another is done too, for it may
    have been lost in its COMMIT, and the next found all done.
    """

    def __init__(self) -> None:
        self._actions: list[Callable[[Parts], Awaitable[None]]] = []
        self._reached: set[tuple[UUID, str]] = set()

    def reached(self, order_id: UUID, status: str) -> None:
        """Count an order that reached a status."""
        self._reached.add((order_id, status))

    def add(self, action: Callable[[Parts], Awaitable[None]]) -> None:
        """Run `action(parts)` after the commit."""
        self._actions.append(action)

    async def run(self, parts: Parts) -> None:
        """Do it all."""
        for _, status in self._reached:
            TRANSITIONS.labels(status).inc()
        for action in self._actions:
            await action(parts)


async def transition(parts: Parts, work: Callable[[Connection, AfterCommit], Awaitable[T]]) -> T:
    """Run `work(tx, after)` in a transaction, and what it put into `after` once that has committed.

    `work` decides on what it finds, so that a second run does nothing that the first has done.
    """
    after = AfterCommit()
    result = await transact(parts.pool, lambda tx: work(tx, after), repeatable=True)
    await after.run(parts)
    return result


async def read(reader: Connection, order_id: UUID) -> OrderRow:
    """An order beside its payment; 404 when there is none."""
    order = await READ_ORDER.maybe(reader, order_id)
    if order is None:
        raise not_found("order")
    return order


async def get_order(parts: Parts, order_id: UUID) -> Order:
    """An order with its lines and payment."""
    async with connection(parts.pool) as reader:
        return await view(reader, order_id)


async def view(reader: Connection, order_id: UUID) -> Order:
    """An order with its lines and payment, as this connection sees it."""
    row = await read(reader, order_id)
    items = await LIST_ITEMS.all(reader, order_id)
    return Order(
        row.id,
        row.cart_id,
        row.status,
        row.total_minor,
        row.currency,
        row.created_at,
        row.expires_at,
        row.paid_at,
        row.fulfilled_at,
        row.cancelled_at,
        items,
        Payment(row.payment_id, row.payment_status, row.stripe_session_id, row.amount_minor, row.refunded_minor),
        row.checkout_url,
    )


async def list_orders(parts: Parts, status: str | None, before_number: int, limit: int) -> OrderPage:
    """A page of orders with numbers below `before_number`, newest first."""
    async with connection(parts.pool) as reader:
        if status is None:
            found = await LIST_ORDERS.all(reader, before_number, limit + 1)
        else:
            found = await LIST_ORDERS_BY_STATUS.all(reader, status, before_number, limit + 1)
    return OrderPage(found[:limit], found[limit - 1].number if len(found) > limit else None)


async def timeline(parts: Parts, order_id: UUID) -> list[dict[str, Any]]:
    """Every transition, oldest first: `at`, `from`, `to`, `by`, and a `note` where there is more to say."""
    async with connection(parts.pool) as reader:
        events = await LIST_EVENTS.all(reader, order_id)
    if not events:
        raise not_found("order")
    return [
        {"at": event.at, "from": event.from_status, "to": event.to_status, "by": event.cause, "note": event.note}
        for event in events
    ]


async def lock(tx: Connection, order_id: UUID) -> Locked:
    """Hold an order's cart, the order and its payment until the transaction ends; 404 when there is none."""
    order = await LOCK_ORDER.maybe(tx, order_id)
    if order is None:
        raise not_found("order")
    return order


async def lock_all(tx: Connection, order_ids: Sequence[UUID]) -> list[Locked]:
    """`lock` for many, by their ids; those that there are."""
    return await LOCK_ORDERS.all(tx, order_ids)


async def note(tx: Connection, order: Locked, text: str) -> None:
    """Write into the history of an order in its present status."""
    await ADD_NOTE.run(tx, order.id, order.status, cause.get(), text)


async def note_once(tx: Connection, order: Locked, text: str) -> None:
    """`note`, unless the same cause has written that before: the history outlives the event that it tells of."""
    known = await LIST_EVENTS.all(tx, order.id)
    if (cause.get(), text) not in [(event.cause, event.note) for event in known]:
        await note(tx, order, text)


async def cancel(
    tx: Connection, after: AfterCommit, held: Sequence[Locked], payment_status: str, note: str | None = None
) -> None:
    """Cancel orders, all pending or all refunded, give their units back, and open their carts again."""
    if not held:
        return
    ids = [order.id for order in held]
    if len(await MARK_CANCELLED.all(tx, ids, held[0].status, payment_status, cause.get(), note)) < len(held):
        raise ShopError("busy", "An order changed while it was held.")
    await return_stock(tx, after, held)
    for order in held:
        after.reached(order.id, "CANCELLED")


async def return_stock(tx: Connection, after: AfterCommit, held: Sequence[Locked]) -> None:
    """Give back the units of each order's last hold."""
    moved = await RETURN_STOCK.all(tx, [order.id for order in held], [order.hold for order in held])
    if any(units.stock == units.quantity for units in moved):
        after.add(lambda parts: parts.cache.invalidate())


async def mark_paid(
    tx: Connection,
    after: AfterCommit,
    order: Locked,
    hold: int,
    stripe_session_id: str,
    payment_intent: str | None,
    email: str | None,
) -> None:
    """A pending order, or a cancelled one that got its stock again, is paid; fulfilment follows the commit."""
    paid = await MARK_PAID.maybe(
        tx, order.id, order.status, hold, stripe_session_id, payment_intent, email, cause.get()
    )
    if paid is None:
        raise ShopError("busy", "The order changed while it was held.")
    after.reached(order.id, "PAID")
    after.add(lambda parts: parts.queue.post_payment_pipeline(order.id))
