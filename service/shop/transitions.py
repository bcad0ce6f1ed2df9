"""How an order moves from one status to the next.

Every transition locks the order, decides on the locked row, and is one guarded UPDATE. What follows the commit is
collected in an AfterCommit.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from service.errors import ShopError, not_found
from service.infra.db import Connection
from service.infra.logs import actor, cause, log_soon
from service.infra.metrics import TRANSITIONS
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.shop import audit_log, orders, outbox, personal_data

T = TypeVar("T")

logger = logging.getLogger(__name__)

CAPTURED = ("SUCCEEDED", "REFUND_PENDING", "REFUNDED")


@dataclass(slots=True)
class LockedOrder:
    """An order while this transaction has its cart, itself and its payment locked.

    `captured_minor` is what was captured, or else the amount that the payment asks for.
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
        """Whether a payment was captured, even if it has been refunded since."""
        return self.payment_status in CAPTURED


@dataclass(slots=True)
class MovedUnits:
    """A product after units of an order were returned or taken: its new stock, and how many units moved."""

    product_id: int
    stock: int
    quantity: int


LOCK_ORDER = statement("transitions/lock_order", LockedOrder)
LOCK_ORDERS = statement("transitions/lock_orders", LockedOrder)
ADD_NOTE = statement("transitions/add_note")
MARK_PAID = statement("transitions/mark_paid", UUID)
MARK_CANCELLED = statement("transitions/mark_cancelled", UUID)
LOCK_PRODUCTS = statement("transitions/lock_products", int)
RETURN_STOCK = statement("transitions/return_stock", MovedUnits)


class AfterCommit:
    """Actions that follow the commit of a transaction: counters, log lines, wake-ups of the worker, the page cache.

    Actions are best effort and idempotent.
    """

    def __init__(self) -> None:
        self._actions: list[Callable[[Resources], Awaitable[None]]] = []
        self._transitions: dict[tuple[UUID, str], dict[str, Any]] = {}
        self._lines: list[tuple[str, dict[str, Any]]] = []

    def count_transition(self, order_id: UUID, status: str, **fields: Any) -> None:
        """Count and log that an order got this status: once, even if the transaction is retried."""
        self._transitions[order_id, status] = fields

    def log(self, message: str, order_id: UUID, **fields: Any) -> None:
        """Log what this transaction did to an order, at INFO."""
        self._lines.append((message, {"order_id": order_id, **fields}))

    def add(self, action: Callable[[Resources], Awaitable[None]]) -> None:
        """Run `action(resources)` after the commit."""
        self._actions.append(action)

    def extend(self, other: "AfterCommit") -> None:
        """Add what another one has collected."""
        self._actions += other._actions
        self._transitions |= other._transitions
        self._lines += other._lines

    async def run(self, resources: Resources) -> None:
        """Count and log, then run all actions in the order in which they were added."""
        for (order_id, status), fields in self._transitions.items():
            log_transition(order_id, status, **fields)
        for message, fields in self._lines:
            log_soon(logger, message, **fields)
        for action in self._actions:
            await action(resources)


def log_transition(order_id: UUID, status: str, **fields: Any) -> None:
    """Count and log that an order got a status; its transaction has committed."""
    TRANSITIONS.labels(status).inc()
    log_soon(logger, "order changed", order_id=order_id, status=status, **fields)


async def run_transition(resources: Resources, work: Callable[[Connection, AfterCommit], Awaitable[T]]) -> T:
    """Run `work(tx, after)` in a transaction, then the actions that it added to `after`.

    `work` must decide on the rows that it locks, because it is run again after a COMMIT without an answer. What such
    an attempt collected is done too, as it may have committed; an attempt that failed before its COMMIT did nothing.
    """
    done = AfterCommit()

    async def attempt(tx: Connection) -> T:
        after = AfterCommit()
        result = await work(tx, after)
        done.extend(after)
        return result

    result = await run_transaction(resources.pool, attempt, idempotent=True)
    await done.run(resources)
    return result


async def lock(tx: Connection, order_id: UUID) -> LockedOrder:
    """Lock an order's cart, the order and its payment until the transaction ends; 404 when there is none."""
    order = await LOCK_ORDER.one_or_none(tx, order_id=order_id)
    if order is None:
        raise not_found("order")
    return order


async def lock_all(tx: Connection, order_ids: Sequence[UUID]) -> list[LockedOrder]:
    """Lock those of the orders that exist, in the order of their ids."""
    return await LOCK_ORDERS.all(tx, order_ids=order_ids)


async def lock_products(tx: Connection, locked: Sequence[LockedOrder]) -> None:
    """Lock the products of the orders, before their units are returned or taken again."""
    await LOCK_PRODUCTS.all(tx, order_ids=[order.id for order in locked])


async def add_note(tx: Connection, order: LockedOrder, text: str) -> None:
    """Add a note to the order's history, in its current status."""
    await ADD_NOTE.run(tx, order_id=order.id, status=order.status, cause=cause.get(), actor=actor.get(), note=text)


async def add_note_once(tx: Connection, order: LockedOrder, text: str) -> bool:
    """Add a note; False if the same cause has added it before.

    The history is compared, because it outlives a stored event.
    """
    history = await orders.LIST_EVENTS.all(tx, order_id=order.id, user_id=None, reads_all=True)
    if (cause.get(), text) in [(event.cause, event.note) for event in history]:
        return False
    await add_note(tx, order, text)
    return True


async def cancel(
    tx: Connection,
    after: AfterCommit,
    locked: Sequence[LockedOrder],
    *,
    payment_status: str,
    note: str | None = None,
    by_staff: bool = False,
) -> None:
    """Cancel orders that are all in one status, return their units to the stock, and reopen their carts.

    What staff cancel is in the audit log.
    """
    if not locked:
        return
    cancelled = await MARK_CANCELLED.all(
        tx,
        order_ids=[order.id for order in locked],
        from_status=locked[0].status,
        payment_status=payment_status,
        cause=cause.get(),
        actor=actor.get(),
        note=note,
    )
    if len(cancelled) < len(locked):
        raise ShopError("busy", "An order changed while it was locked.")
    for order in locked if by_staff else ():
        changes = {"before": {"status": order.status}, "after": {"status": "CANCELLED"}}
        await audit_log.add(tx, "cancel_order", f"order:{order.id}", **changes)
    await return_stock(tx, after, locked)
    for order in locked:
        # A captured payment keeps its status, which its refund decides.
        fields = {} if order.captured else {"payment_status": payment_status}
        after.count_transition(order.id, "CANCELLED", from_status=order.status, **fields, reason=note)


async def return_stock(tx: Connection, after: AfterCommit, locked: Sequence[LockedOrder]) -> None:
    """Return the units of each order's last hold that are not back to the stock."""
    await lock_products(tx, locked)
    returned = await RETURN_STOCK.all(
        tx,
        order_ids=[order.id for order in locked],
        hold_numbers=[order.hold_number for order in locked],
        actor=actor.get(),
    )
    await announce_available(tx, after, returned)


async def announce_available(tx: Connection, after: AfterCommit, returned: Sequence[MovedUnits]) -> None:
    """Announce products that were sold out and are available again, and invalidate the cached page."""
    if restocked := [units.product_id for units in returned if units.stock == units.quantity]:
        await outbox.announce_products(tx, restocked)
        after.add(lambda resources: resources.cache.invalidate())


async def mark_paid(
    tx: Connection,
    after: AfterCommit,
    order: LockedOrder,
    *,
    hold_number: int,
    stripe_session_id: str,
    payment_intent: str | None,
    email: str | None,
) -> None:
    """Mark an order paid: a pending one, or a cancelled one whose stock was taken again. Fulfilment follows."""
    paid = await MARK_PAID.one_or_none(
        tx,
        order_id=order.id,
        from_status=order.status,
        hold_number=hold_number,
        stripe_session_id=stripe_session_id,
        stripe_payment_intent_id=payment_intent,
        email=email,
        email_digest=personal_data.email_digest(email) if email else None,
        cause=cause.get(),
        # Stripe says that somebody paid. Who asked Stripe may be staff or a stranger, unless it was a job.
        actor=actor.get() if actor.get().startswith("job:") else "stripe",
    )
    if paid is None:
        raise ShopError("busy", "The order changed while it was locked.")
    after.count_transition(
        order.id, "PAID", from_status=order.status, payment_status="SUCCEEDED", payment_intent=payment_intent
    )
    after.add(lambda resources: resources.queue.post_payment_pipeline(order.id))
