"""Orders over HTTP, for their customers and for the shop's staff."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from service.http import responses
from service.http.requests import (
    BIGINT_MAX,
    DIGITS,
    Body,
    Nothing,
    OrderId,
    Query,
    read,
    read_query,
    resources_of,
    staff,
    uuid_id,
)
from service.http.responses import BODY_PROBLEMS, KEY_PROBLEMS, asks, problems, takes
from service.shop import expiry, orders, refunds

router = APIRouter()
STAFF = [Depends(staff)]

Status = Literal["PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED"]


class OrdersQuery(Query):
    """Which page of which orders."""

    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=100), DIGITS] = 20
    after: Annotated[int, Field(ge=1, le=BIGINT_MAX, description="The `next_cursor` of the page before"), DIGITS] = (
        BIGINT_MAX
    )


class RefundRequest(Body):
    """How much to give back, all that is left when it is not said; and whether the units come back too."""

    amount_minor: int | None = Field(default=None, ge=1, le=BIGINT_MAX)
    restock: bool = False


class Transition(BaseModel):
    """A line of an order's history."""

    at: datetime
    from_: str | None = Field(alias="from")
    to: str
    by: str
    note: str | None


class Timeline(BaseModel):
    """An order's history, oldest first."""

    order_id: UUID
    items: list[Transition]


@router.get(
    "/orders",
    dependencies=STAFF,
    response_model=orders.OrderPage,
    responses=problems("unauthorized", "invalid"),
    openapi_extra=asks(OrdersQuery),
)
async def list_orders(request: Request) -> Response:
    """All orders, newest first."""
    query = read_query(request, OrdersQuery)
    return responses.json(
        await orders.list_orders(
            resources_of(request), status=query.status, before_number=query.after, limit=query.limit
        )
    )


@router.get("/orders/{order_id}", response_model=orders.Order, responses=problems("not_found"))
async def get_order(request: Request, order_id: OrderId) -> Response:
    """An order with its lines and payment."""
    return responses.json(await orders.get_order(resources_of(request), uuid_id(order_id, "order")))


@router.get("/orders/{order_id}/timeline", response_model=Timeline, responses=problems("not_found"))
async def get_timeline(request: Request, order_id: OrderId) -> Response:
    """Every transition of an order, oldest first: `at`, `from`, `to`, `by`, `note`."""
    found = uuid_id(order_id, "order")
    return responses.json({"order_id": found, "items": await orders.timeline(resources_of(request), found)})


@router.post(
    "/orders/{order_id}/cancel",
    response_model=orders.Order,
    responses=problems(
        "not_found",
        "order_not_cancellable",
        "checkout_in_progress",
        "payment_unavailable",
        "payment_misconfigured",
        *BODY_PROBLEMS,
        *KEY_PROBLEMS,
    ),
    openapi_extra=takes(Nothing, key=True, required=False),
)
async def cancel_order(request: Request, order_id: OrderId) -> Response:
    """Cancel a pending order; twice is the same as once."""
    _, key = await read(request, Nothing)
    return responses.answer(await expiry.cancel(resources_of(request), key, uuid_id(order_id, "order")))


@router.post(
    "/orders/{order_id}/refund",
    dependencies=STAFF,
    response_model=orders.Order,
    responses=problems("not_found", "order_not_refundable", "unauthorized", *BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(RefundRequest, key=True, required=False),
)
async def refund_order(request: Request, order_id: OrderId) -> Response:
    """Give money back, whole or in part; the order as it is then."""
    wanted, key = await read(request, RefundRequest)
    found = uuid_id(order_id, "order")
    return responses.answer(
        await refunds.refund(
            resources_of(request), key, found, amount_minor=wanted.amount_minor, restock=wanted.restock
        )
    )
