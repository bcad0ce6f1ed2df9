"""Reading orders: one order, a page of orders, and the history of an order."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from service.errors import not_found
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop import personal_data
from service.shop.money import AnyCurrency, Currency
from service.shop.principals import Principal, Scope

OrderStatus = Literal["PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED"]
PaymentStatus = Literal["INITIATED", "PROCESSING", "SUCCEEDED", "FAILED", "EXPIRED", "REFUND_PENDING", "REFUNDED"]
RefundStatus = Literal["REQUESTED", "PENDING", "SUCCEEDED", "FAILED"]


@dataclass(slots=True)
class OrderRow:
    """An order beside its payment. `user_id` is its owner, `claimed` if by a claim.

    `hold_expired` is true once the time to pay is over, `stripe_deadline_passed` from ten minutes after the payment
    session's end. From then on the order is cancelled even if Stripe does not answer.
    """

    id: UUID
    number: int
    cart_id: UUID
    user_id: str | None
    claimed: bool
    status: OrderStatus
    total_minor: int
    currency: Currency
    reference: str | None
    email: str | None
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
class RefundItemRow:
    """Units of a line that a refund is for, and whether they return to the stock."""

    refund_id: UUID
    product_id: int
    quantity: int
    restock: bool


@dataclass(slots=True)
class RefundItem:
    """Units of a line that a refund is for, and whether they return to the stock."""

    product_id: int
    quantity: int
    restock: bool


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
    currency: str


@dataclass(slots=True)
class Payment:
    """A payment as clients see it; money in minor units."""

    id: UUID
    status: PaymentStatus
    stripe_session_id: str | None
    amount_minor: int
    refunded_minor: int


@dataclass(slots=True)
class ShippingRow:
    """Where an order goes, as the customer told Stripe."""

    name: str | None
    phone: str | None
    line1: str | None
    line2: str | None
    city: str | None
    state: str | None
    postal_code: str | None
    country: str | None


@dataclass(slots=True)
class Address:
    """A postal address, as the customer told Stripe."""

    line1: str | None
    line2: str | None
    city: str | None
    state: str | None
    postal_code: str | None
    country: str | None


@dataclass(slots=True)
class Shipping:
    """Who receives an order, and where."""

    name: str | None
    phone: str | None
    address: Address


@dataclass(slots=True)
class Order:
    """An order as clients see it; `checkout_url` is null once it cannot be paid.

    `email` and `shipping` are null where they are unknown or not for the principal, and in every response to a `POST`.
    """

    id: UUID
    number: int
    cart_id: UUID
    status: OrderStatus
    total_minor: int
    currency: Currency
    reference: str | None
    email: str | None
    shipping: Shipping | None
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
    reference: str | None
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
class OwnOrder:
    """An order in its owner's listing; `number` is the cursor."""

    id: UUID
    number: int
    cart_id: UUID
    status: OrderStatus
    total_minor: int
    currency: Currency
    reference: str | None
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    fulfilled_at: datetime | None
    cancelled_at: datetime | None
    payment_status: PaymentStatus
    refunded_minor: int


@dataclass(slots=True)
class OwnOrderPage:
    """A keyset page of a user's orders, newest first."""

    items: Sequence[OwnOrder]
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


@dataclass(slots=True)
class FoundOrders:
    """The numbers of orders that fit a search. `walked_to` is where it goes on, if it ended before the last order."""

    numbers: list[int]
    walked_to: int | None


READ_ORDER = statement("orders/read_order", OrderRow)
LIST_ITEMS = statement("orders/list_items", OrderLine)
READ_SHIPPING = statement("orders/read_shipping", ShippingRow)
LIST_REFUNDS = statement("orders/list_refunds", RefundRow)
LIST_REFUND_ITEMS = statement("orders/list_refund_items", RefundItemRow)
LIST_DISPUTES = statement("orders/list_disputes", Dispute)
LIST_ORDERS = statement("orders/list_orders", ListedOrder)
LIST_ORDERS_BY_STATUS = statement("orders/list_orders_by_status", ListedOrder)
FIND_ORDERS = statement("orders/find_orders", FoundOrders)
FIND_BY_PAYMENT_STATUS = statement("orders/find_by_payment_status", FoundOrders)
WALK_ORDERS = statement("orders/walk_orders", FoundOrders)
WALK_ORDERS_BY_STATUS = statement("orders/walk_orders_by_status", FoundOrders)
LIST_NUMBERED = statement("orders/list_numbered", ListedOrder)
LIST_USER_ORDERS = statement("orders/list_user_orders", OwnOrder)
LIST_EVENTS = statement("orders/list_events", EventRow)


async def read(
    reader: Connection, principal: Principal, order_id: UUID, *, scope: Scope | None = "orders:read"
) -> OrderRow:
    """An order beside its payment; 404 when there is none, or it is another's and the principal lacks the scope."""
    reads_all = scope is not None and principal.may(scope)
    order = await READ_ORDER.one_or_none(reader, order_id=order_id, user_id=principal.user_id, reads_all=reads_all)
    if order is None:
        raise not_found("order")
    return order


async def get_order(resources: Resources, principal: Principal, order_id: UUID) -> Order:
    """An order as the principal sees it, on a connection of its own; raises as `read` does."""
    async with connection(resources.pool) as reader:
        row = await read(reader, principal, order_id)
        order = await view(reader, principal, row)
        if _may_see_customer(row, principal):
            order.email, order.shipping = row.email, await _read_shipping(reader, row)
    return order


async def _read_shipping(reader: Connection, row: OrderRow) -> Shipping | None:
    if row.stripe_session_id is None:
        return None
    shipping = await READ_SHIPPING.one_or_none(reader, order_id=row.id)
    if shipping is None:
        return None
    name, phone, *address = astuple(shipping)
    return Shipping(name, phone, Address(*address))


async def view(reader: Connection, principal: Principal, row: OrderRow) -> Order:
    """An order that was just read, with its lines, payment, refunds and disputes, as this connection sees them.

    With `orders:read` also with who decided refunds, and why. Without the customer's addresses: the response to a
    `POST` is stored for a day, and may be replayed to a principal who no longer sees them.
    """
    order_id, for_staff = row.id, principal.may("orders:read")
    items = await LIST_ITEMS.all(reader, order_id=order_id)
    refunds: list[StaffOrderRefund | OrderRefund] = []
    disputes: list[Dispute] = []
    if row.status != "PENDING_PAYMENT":
        rows = await LIST_REFUNDS.all(reader, order_id=order_id, order_currency=row.currency)
        refund_items = await LIST_REFUND_ITEMS.all(reader, order_id=order_id) if rows else []
        refunds = [_refund(refund, refund_items, for_staff=for_staff) for refund in rows]
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
        row.reference,
        None,
        None,
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


def _may_see_customer(row: OrderRow, principal: Principal) -> bool:
    """Staff and the owner; an owner by claim, whom a leaked id is enough for, only where the address is theirs."""
    if principal.may("orders:read"):
        return True
    if principal.user_id is None or principal.user_id != row.user_id:
        return False
    return not row.claimed or personal_data.same_email(row.email, principal.email)


def _refund(row: RefundRow, order_items: Sequence[RefundItemRow], *, for_staff: bool) -> StaffOrderRefund | OrderRefund:
    own = (row.id, row.amount_minor, row.currency, row.status, row.created_at)
    items = [RefundItem(i.product_id, i.quantity, i.restock) for i in order_items if i.refund_id == row.id]
    if for_staff:
        return StaffOrderRefund(*own, row.failure_reason, items, row.reason, row.actor)
    return OrderRefund(*own, row.failure_reason, items)


async def list_orders(
    resources: Resources,
    *,
    status: OrderStatus | None,
    payment_status: PaymentStatus | None = None,
    text: str | None = None,
    before_number: int,
    limit: int,
) -> OrderPage:
    """A page of orders with numbers below `before_number`, newest first.

    `text` is an order's number, e-mail address, reference or one of Stripe's ids, exactly. A page by these or by the
    payment's status may be short, or empty, before the last one.
    """
    async with connection(resources.pool) as reader:
        if text is not None or payment_status is not None:
            fitting = await _find(
                reader,
                text,
                status=status,
                payment_status=payment_status,
                before_number=before_number,
                limit=limit + 1,
            )
            page = await LIST_NUMBERED.all(reader, numbers=fitting.numbers[:limit])
            cursor = fitting.numbers[limit - 1] if len(fitting.numbers) > limit else fitting.walked_to
            return OrderPage(page, cursor)
        if status is None:
            page = await LIST_ORDERS.all(reader, before_number=before_number, limit=limit + 1)
        else:
            page = await LIST_ORDERS_BY_STATUS.all(reader, status=status, before_number=before_number, limit=limit + 1)
    return OrderPage(page[:limit], page[limit - 1].number if len(page) > limit else None)


async def _find(
    reader: Connection,
    text: str | None,
    *,
    status: OrderStatus | None,
    payment_status: PaymentStatus | None,
    before_number: int,
    limit: int,
) -> FoundOrders:
    """The numbers of the orders that fit all that is not None. Without `text`, a status of the payment is needed."""
    page = {"before_number": before_number, "limit": limit}
    if text is not None:
        is_number = text.isascii() and text.isdecimal() and len(text) <= 18
        return await FIND_ORDERS.one(
            reader,
            number=int(text) if is_number else None,
            email_digest=personal_data.email_digest(text),
            text=text,
            status=status,
            payment_status=payment_status,
            **page,
        )
    assert payment_status is not None
    if payment_status not in ("INITIATED", "SUCCEEDED"):
        return await FIND_BY_PAYMENT_STATUS.one(reader, payment_status=payment_status, status=status, **page)
    if payment_status == "INITIATED":
        # Only pending orders have such a payment.
        status = status or "PENDING_PAYMENT"
    if status is not None:
        return await WALK_ORDERS_BY_STATUS.one(reader, status=status, payment_status=payment_status, **page)
    return await WALK_ORDERS.one(reader, payment_status=payment_status, **page)


async def list_own_orders(
    resources: Resources, principal: Principal, *, before_number: int, limit: int
) -> OwnOrderPage:
    """A page of the user's orders with numbers below `before_number`, newest first."""
    assert principal.user_id is not None
    async with connection(resources.pool) as reader:
        page = await LIST_USER_ORDERS.all(
            reader, user_id=principal.user_id, before_number=before_number, limit=limit + 1
        )
    return OwnOrderPage(page[:limit], page[limit - 1].number if len(page) > limit else None)


async def timeline(resources: Resources, principal: Principal, order_id: UUID) -> Sequence[EventRow]:
    """The history of an order, oldest first; 404 as in `read`."""
    async with connection(resources.pool) as reader:
        events = await LIST_EVENTS.all(
            reader, order_id=order_id, user_id=principal.user_id, reads_all=principal.may("orders:read")
        )
    if not events:
        raise not_found("order")
    return events
