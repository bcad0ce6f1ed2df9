"""How an order moves from one status to the next.

Every transition starts with `lock`, decides on the row that it returns, and is one guarded UPDATE.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from service.errors import ShopError, not_found
from service.infra.db import Connection
from service.infra.logs import cause
from service.infra.metrics import TRANSITIONS
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement
from service.infra.transactions import run_transaction
from service.shop import orders

T = TypeVar("T")

CAPTURED = ("SUCCEEDED", "REFUND_PENDING", "REFUNDED")


@dataclass(slots=True)
class LockedOrder:
    """An order while this transaction holds its cart, itself and its payment.

    `captured_minor` is what was captured, else the amount that its payment asks for.
    """

    id: UUID
    cart_id: UUID
    status: str
    hold_number: int
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


LOCK_ORDER = Statement("transitions/lock_order", LockedOrder)
LOCK_ORDERS = Statement("transitions/lock_orders", LockedOrder)
ADD_NOTE = Statement("transitions/add_note", NoRow)
MARK_PAID = Statement("transitions/mark_paid", OrderId)
MARK_CANCELLED = Statement("transitions/mark_cancelled", OrderId)
RETURN_STOCK = Statement("transitions/return_stock", MovedUnits)


class AfterCommit:
    """What to do once a transaction has committed: counters, wake-ups, the cache.

    Nothing of it is owed, and nothing of it does harm: what a try wanted that lost to another is done too, for it may
    have been lost in its COMMIT, and the next found all done.
    """

    def __init__(self) -> None:
        self._actions: list[Callable[[Resources], Awaitable[None]]] = []
        self._reached: set[tuple[UUID, str]] = set()

    def count_transition(self, order_id: UUID, status: str) -> None:
        """Count an order that count_transition a status."""
        self._reached.add((order_id, status))

    def add(self, action: Callable[[Resources], Awaitable[None]]) -> None:
        """Run `action(resources)` after the commit."""
        self._actions.append(action)

    async def run(self, resources: Resources) -> None:
        """Do it all."""
        for _, status in self._reached:
            TRANSITIONS.labels(status).inc()
        for action in self._actions:
            await action(resources)


async def run_transition(resources: Resources, work: Callable[[Connection, AfterCommit], Awaitable[T]]) -> T:
    """Run `work(tx, after)` in a transaction, and what it put into `after` once that has committed.

    `work` decides on what it finds, so that a second run does nothing that the first has done.
    """
    after = AfterCommit()
    result = await run_transaction(resources.pool, lambda tx: work(tx, after), idempotent=True)
    await after.run(resources)
    return result


async def lock(tx: Connection, order_id: UUID) -> LockedOrder:
    """Hold an order's cart, the order and its payment until the transaction ends; 404 when there is none."""
    order = await LOCK_ORDER.maybe(tx, order_id)
    if order is None:
        raise not_found("order")
    return order


async def lock_all(tx: Connection, order_ids: Sequence[UUID]) -> list[LockedOrder]:
    """`lock` for many, by their ids; those that there are."""
    return await LOCK_ORDERS.all(tx, order_ids)


async def add_note(tx: Connection, order: LockedOrder, text: str) -> None:
    """Write into the history of an order in its present status."""
    await ADD_NOTE.run(tx, order.id, order.status, cause.get(), text)


async def add_note_once(tx: Connection, order: LockedOrder, text: str) -> None:
    """`add_note`, unless the same cause has written that before: the history outlives the event that it tells of."""
    known = await orders.LIST_EVENTS.all(tx, order.id)
    if (cause.get(), text) not in [(event.cause, event.note) for event in known]:
        await add_note(tx, order, text)


async def cancel(
    tx: Connection, after: AfterCommit, held: Sequence[LockedOrder], payment_status: str, note: str | None = None
) -> None:
    """Cancel orders, all pending or all refunded, give their units back, and open their carts again."""
    if not held:
        return
    ids = [order.id for order in held]
    if len(await MARK_CANCELLED.all(tx, ids, held[0].status, payment_status, cause.get(), note)) < len(held):
        raise ShopError("busy", "An order changed while it was held.")
    await return_stock(tx, after, held)
    for order in held:
        after.count_transition(order.id, "CANCELLED")


async def return_stock(tx: Connection, after: AfterCommit, held: Sequence[LockedOrder]) -> None:
    """Give back the units of each order's last hold."""
    moved = await RETURN_STOCK.all(tx, [order.id for order in held], [order.hold_number for order in held])
    if any(units.stock == units.quantity for units in moved):
        after.add(lambda resources: resources.cache.invalidate())


async def mark_paid(
    tx: Connection,
    after: AfterCommit,
    order: LockedOrder,
    hold_number: int,
    stripe_session_id: str,
    payment_intent: str | None,
    email: str | None,
) -> None:
    """A pending order, or a cancelled one that got its stock again, is paid; fulfilment follows the commit."""
    paid = await MARK_PAID.maybe(
        tx, order.id, order.status, hold_number, stripe_session_id, payment_intent, email, cause.get()
    )
    if paid is None:
        raise ShopError("busy", "The order changed while it was held.")
    after.count_transition(order.id, "PAID")
    after.add(lambda resources: resources.queue.post_payment_pipeline(order.id))
