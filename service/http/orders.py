"""Orders over HTTP, for their customers and for the shop's staff."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import AfterValidator, BaseModel, Field, ValidationInfo

from service.http import fields, requests, responses
from service.http.fields import BIGINT_MAX, DIGITS, LEFT_OUT, Limit, OrderId, int64
from service.http.openapi import problems
from service.http.policy import Caller, authorize
from service.http.requests import NoBody, ResourcesDep, SharedKey, StaffKey, no_unknown_query
from service.shop import expiry, orders, ownership, refunds
from service.shop.cart import MAX_LINES, MAX_QUANTITY

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])


class OwnOrdersQuery(requests.Query):
    """Which page of a user's own orders."""

    limit: Limit = 20
    after_id: Annotated[int, Field(ge=1, le=BIGINT_MAX), DIGITS, int64(1)] | None = None


class OrdersQuery(OwnOrdersQuery):
    """Which page of the orders, or of those that fit all of the other parameters."""

    status: orders.OrderStatus | None = None
    payment_status: orders.PaymentStatus | None = None
    q: fields.Exact | None = None


class RefundLine(requests.Body):
    """Units of a line of the order to refund, at the order's price."""

    product_id: fields.Id
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
    restock: bool = False


def _refund_lines(items: list[RefundLine], others: ValidationInfo) -> list[RefundLine]:
    if others.data.get("amount_minor") is not None or others.data.get("restock"):
        raise ValueError("cannot be combined with amount_minor or restock; each line has its own restock")
    if len({item.product_id for item in items}) < len(items):
        raise ValueError("must name each product once")
    return items


class RefundRequest(requests.Body):
    """An amount to refund, and whether the units return to stock, or `items`; with neither, all that is left."""

    amount_minor: fields.Amount | None = None
    restock: bool = False
    reason: fields.Reason | None = None
    items: Annotated[list[RefundLine], Field(min_length=1, max_length=MAX_LINES), AfterValidator(_refund_lines)] = (
        LEFT_OUT
    )


class Transition(BaseModel):
    """A line of an order's history."""

    at: datetime
    from_: orders.OrderStatus | None = Field(alias="from")
    to: orders.OrderStatus
    actor: str | None = None
    note: str | None = None


class Timeline(BaseModel):
    """An order's history, oldest first."""

    order_id: UUID
    items: list[Transition]
    next_cursor: None = None


@router.get("/orders")
async def list_orders(query: Annotated[OrdersQuery, Query()], resources: ResourcesDep) -> orders.OrderPage:
    """List the orders, newest first: all, or those with a status, a payment status or exactly what `q` says.

    `q` is a number, an e-mail address in any letter case, a reference, or an id of Stripe's: of a session, a payment
    intent, a refund, a dispute or an event. A page may have fewer orders than `limit` while `next_cursor` is not null.
    """
    return await orders.list_orders(
        resources,
        status=query.status,
        payment_status=query.payment_status,
        text=query.q,
        before_number=BIGINT_MAX if query.after_id is None else query.after_id,
        limit=query.limit,
    )


@router.get("/orders/{order_id}")
async def get_order(order_id: OrderId, resources: ResourcesDep, principal: Caller) -> orders.Order:
    """Read an order with its lines, payment, refunds and disputes.

    Only staff see who made refunds, and why; only staff and the owner see e-mail address and shipping.
    """
    return await orders.get_order(resources, principal, order_id)


@router.get(
    "/orders/{order_id}/timeline",
    response_model=Timeline,
    response_model_exclude_unset=True,
)
async def get_timeline(order_id: OrderId, resources: ResourcesDep, principal: Caller) -> dict[str, object]:
    """Read every transition of an order, oldest first. Only staff see the actors and notes."""
    items: list[dict[str, object]] = [
        {"at": event.at, "from": event.from_status, "to": event.to_status, "actor": event.actor, "note": event.note}
        for event in await orders.timeline(resources, principal, order_id)
    ]
    for item in items if not principal.may("orders:read") else ():
        del item["actor"], item["note"]
    return {"order_id": order_id, "items": items, "next_cursor": None}


@router.post("/orders/{order_id}/claim", response_model=orders.Order)
async def claim_order(
    order_id: OrderId, resources: ResourcesDep, principal: Caller, key: SharedKey, _: NoBody
) -> Response:
    """Become the owner of an order that has none, of its cart and of the cart's other orders.

    Once one of them has an e-mail address, the token's verified one must be the same.
    """
    return responses.stored(await ownership.claim_order(resources, key, principal, order_id))


@router.get("/me/orders")
async def list_own_orders(
    query: Annotated[OwnOrdersQuery, Query()], resources: ResourcesDep, principal: Caller
) -> orders.OwnOrderPage:
    """List the user's own orders, newest first."""
    before_number = BIGINT_MAX if query.after_id is None else query.after_id
    return await orders.list_own_orders(resources, principal, before_number=before_number, limit=query.limit)


@router.post(
    "/orders/{order_id}/cancel",
    response_model=orders.Order,
    responses=problems("order_not_cancellable", "checkout_in_progress", "payment_unavailable", "payment_misconfigured"),
)
async def cancel_order(
    order_id: OrderId, resources: ResourcesDep, principal: Caller, key: SharedKey, _: NoBody
) -> Response:
    """Cancel a pending order; only staff also one whose payment is in progress. Repeating the call changes nothing."""
    return responses.stored(await expiry.cancel(resources, key, principal, order_id))


@router.post("/orders/{order_id}/refund", response_model=orders.Order, responses=problems("order_not_refundable"))
async def refund_order(
    order_id: OrderId,
    refund: Annotated[RefundRequest, Body(default_factory=RefundRequest)],
    resources: ResourcesDep,
    key: StaffKey,
    principal: Caller,
) -> Response:
    """Refund an order in full, by an amount or by its lines, and return the order."""
    items = [refunds.RefundLine(item.product_id, item.quantity, item.restock) for item in refund.items or []]
    return responses.stored(
        await refunds.refund(
            resources,
            key,
            principal,
            order_id,
            amount_minor=refund.amount_minor,
            items=items,
            restock=refund.restock,
            reason=refund.reason,
        )
    )
