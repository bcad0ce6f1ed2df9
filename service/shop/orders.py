"""Reading orders: one order, a page of orders, and the history of an order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from service.errors import not_found
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop.money import AnyCurrency, Currency

OrderStatus = Literal["PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED"]
PaymentStatus = Literal["INITIATED", "PROCESSING", "SUCCEEDED", "FAILED", "EXPIRED", "REFUND_PENDING", "REFUNDED"]
RefundStatus = Literal["REQUESTED", "PENDING", "SUCCEEDED", "FAILED"]


@dataclass(slots=True)
class OrderRow:
    """An order beside its payment.

    `hold_expired` is true once the time to pay is over, `stripe_deadline_passed` from ten minutes after the payment
    session's end. From then on the order is cancelled even if Stripe does not answer.
    """

    id: UUID
    number: int
    cart_id: UUID
    status: OrderStatus
    total_minor: int
    currency: Currency
    expires_at: datetime
    created_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    payment_id: UUID
    payment_status: PaymentStatus
    amount_minor: int
    refunded_minor: int
    attempt: int
    stripe_session_id: str | None
    stripe_payment_intent_id: str | None
    checkout_url: str | None
    hold_expired: bool
    age_seconds: int
    stripe_deadline_passed: bool


@dataclass(slots=True)
class OrderLine:
    """A line at the price of the order, in minor units."""

    product_id: int
    name: str
    quantity: int
    unit_price_minor: int
    line_total_minor: int


@dataclass(slots=True)
class RefundRow:
    """A refund of an order; money in minor units.

    `failure_reason` is Stripe's word, `reason` is the staff's. `actor` decided it; null in rows of older code.
    """

    id: UUID
    amount_minor: int
    status: RefundStatus
    created_at: datetime
    failure_reason: str | None
    reason: str | None
    actor: str | None
    currency: AnyCurrency


@dataclass(slots=True)
class RefundItem:
    """Units of a line that a refund is for."""

    product_id: int
    quantity: int


@dataclass(slots=True)
class OrderRefund:
    """A refund as customers see it; `items` is empty for a refund by amount."""

    id: UUID
    amount_minor: int
    # A payment that matches no order may have any currency.
    currency: AnyCurrency
    status: RefundStatus
    created_at: datetime
    failure_reason: str | None
    items: Sequence[RefundItem]


@dataclass(slots=True)
class StaffOrderRefund(OrderRefund):
    """A refund as staff see it."""

    reason: str | None
    actor: str | None


@dataclass(slots=True)
class Dispute:
    """A dispute of a payment of an order, in Stripe's words; money in minor units."""

    id: str
    status: str
    reason: str
    amount_minor: int


@dataclass(slots=True)
class Payment:
    """A payment as clients see it; money in minor units."""

    id: UUID
    status: PaymentStatus
    stripe_session_id: str | None
    amount_minor: int
    refunded_minor: int


@dataclass(slots=True)
class Order:
    """An order as clients see it; `checkout_url` is null once it cannot be paid."""

    id: UUID
    number: int
    cart_id: UUID
    status: OrderStatus
    total_minor: int
    currency: Currency
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    items: Sequence[OrderLine]
    payment: Payment
    refunds: Sequence[StaffOrderRefund | OrderRefund]
    disputes: Sequence[Dispute]
    checkout_url: str | None


@dataclass(slots=True)
class ListedOrder:
    """An order in the listing for staff; `number` is the cursor."""

    id: UUID
    number: int
    cart_id: UUID
    status: OrderStatus
    total_minor: int
    currency: Currency
    email: str | None
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    payment_status: PaymentStatus
    refunded_minor: int


@dataclass(slots=True)
class OrderPage:
    """A keyset page of orders, newest first."""

    items: Sequence[ListedOrder]
    next_cursor: int | None


@dataclass(slots=True)
class EventRow:
    """An entry of an order's history."""

    at: datetime
    from_status: OrderStatus | None
    to_status: OrderStatus
    cause: str
    # Null in rows of older code.
    actor: str | None
    note: str | None


READ_ORDER = statement("orders/read_order", OrderRow)
LIST_ITEMS = statement("orders/list_items", OrderLine)
LIST_REFUNDS = statement("orders/list_refunds", RefundRow)
LIST_DISPUTES = statement("orders/list_disputes", Dispute)
LIST_ORDERS = statement("orders/list_orders", ListedOrder)
LIST_ORDERS_BY_STATUS = statement("orders/list_orders_by_status", ListedOrder)
LIST_EVENTS = statement("orders/list_events", EventRow)


async def read(reader: Connection, order_id: UUID) -> OrderRow:
    """An order beside its payment; 404 when there is none."""
    order = await READ_ORDER.one_or_none(reader, order_id=order_id)
    if order is None:
        raise not_found("order")
    return order


async def get_order(resources: Resources, order_id: UUID, *, for_staff: bool = False) -> Order:
    """`view` on a connection of its own."""
    async with connection(resources.pool) as reader:
        return await view(reader, order_id, for_staff=for_staff)


async def view(reader: Connection, order_id: UUID, *, for_staff: bool = False) -> Order:
    """An order with its lines, payment, refunds and disputes, as this connection sees it.

    `for_staff`: with who decided refunds, and why.
    """
    row = await read(reader, order_id)
    items = await LIST_ITEMS.all(reader, order_id=order_id)
    refunds: list[StaffOrderRefund | OrderRefund] = []
    disputes: list[Dispute] = []
    if row.status != "PENDING_PAYMENT":
        rows = await LIST_REFUNDS.all(reader, order_id=order_id, order_currency=row.currency)
        refunds = [_refund(refund, for_staff=for_staff) for refund in rows]
        disputes = await LIST_DISPUTES.all(
            reader, order_id=order_id, stripe_payment_intent_id=row.stripe_payment_intent_id
        )
    return Order(
        row.id,
        row.number,
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
        refunds,
        disputes,
        row.checkout_url,
    )


def _refund(row: RefundRow, *, for_staff: bool) -> StaffOrderRefund | OrderRefund:
    own = (row.id, row.amount_minor, row.currency, row.status, row.created_at)
    if for_staff:
        return StaffOrderRefund(*own, row.failure_reason, [], row.reason, row.actor)
    return OrderRefund(*own, row.failure_reason, [])


async def list_orders(resources: Resources, *, status: OrderStatus | None, before_number: int, limit: int) -> OrderPage:
    """A page of orders with numbers below `before_number`, newest first."""
    async with connection(resources.pool) as reader:
        if status is None:
            page = await LIST_ORDERS.all(reader, before_number=before_number, limit=limit + 1)
        else:
            page = await LIST_ORDERS_BY_STATUS.all(reader, status=status, before_number=before_number, limit=limit + 1)
    return OrderPage(page[:limit], page[limit - 1].number if len(page) > limit else None)


async def timeline(resources: Resources, order_id: UUID) -> Sequence[EventRow]:
    """The history of an order, oldest first."""
    async with connection(resources.pool) as reader:
        events = await LIST_EVENTS.all(reader, order_id=order_id)
    if not events:
        raise not_found("order")
    return events
