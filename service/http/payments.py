"""Stripe's webhooks, and the pages where it sends the customer back."""

from html import escape
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from service.errors import ShopError
from service.http import pages, responses
from service.http.bodies import ByteBudget
from service.http.clients import Clients
from service.http.requests import WEBHOOK_LIMIT, Query, read_bytes, read_query, resources_of, uuid_id
from service.http.responses import asks, problems
from service.infra.stripe import signature_is_timely
from service.shop import money, orders, webhooks
from service.shop.orders import Order

router = APIRouter()


class ReturnQuery(Query):
    """What a customer comes back with, of any form: there is a page for it."""

    order_id: Annotated[str, Field(description="The order that the customer comes back from")] = ""
    session_id: Annotated[str, Field(description="Stripe's session; not looked at")] = ""


_WORD = {"type": "string", "minLength": 1, "maxLength": 255}
# What is read of an event; the rest is Stripe's.
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "data"],
    "properties": {
        "id": _WORD,
        "type": _WORD,
        "data": {"type": "object", "required": ["object"], "properties": {"object": {"type": "object"}}},
    },
}


# Webhooks that are arriving or being worked on. Anybody can send them, and Stripe delivers again what is refused.
UNVERIFIED = ByteBudget(limit=16 * WEBHOOK_LIMIT, limit_per_client=4 * WEBHOOK_LIMIT)


class Received(BaseModel):
    """What became of an event."""

    received: Literal[True]
    outcome: str


@router.post(
    "/webhooks/stripe",
    response_model=Received,
    responses=problems("invalid_signature", "malformed", "request_timeout", "body_too_large"),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": EVENT}}},
        "parameters": [{"name": "Stripe-Signature", "in": "header", "schema": {"type": "string"}}],
    },
)
async def receive(request: Request) -> Response:
    """Take an event from Stripe: 200 once it is stored and applied."""
    resources = resources_of(request)
    signatures = request.headers.getlist("stripe-signature")
    # The body cannot change this, so it need not be read.
    if resources.settings.stripe_webhook_secret and not (len(signatures) == 1 and signature_is_timely(signatures[0])):
        raise ShopError("invalid_signature", "The Stripe-Signature header is not of Stripe's form, or is too old.")
    clients: Clients = request.app.state.clients
    with UNVERIFIED.account(clients.digest(request.scope)) as take:
        body = await read_bytes(request, WEBHOOK_LIMIT, take)
        outcome = await webhooks.receive_webhook(resources, body, signatures[0] if signatures else None)
    return responses.json({"received": True, "outcome": outcome})


@router.get("/payments/success", response_class=HTMLResponse, responses=problems(), openapi_extra=asks(ReturnQuery))
async def success(request: Request) -> Response:
    """Where Stripe sends who has paid; shows what the order really is."""
    return await _page(request, "Thank you")


@router.get("/payments/cancel", response_class=HTMLResponse, responses=problems(), openapi_extra=asks(ReturnQuery))
async def cancel(request: Request) -> Response:
    """Where Stripe sends who went back; shows what the order really is."""
    return await _page(request, "Payment not completed")


async def _page(request: Request, neutral: str) -> Response:
    order_id = read_query(request, ReturnQuery).order_id
    try:
        order = await orders.get_order(resources_of(request), uuid_id(order_id, "order"))
    except ShopError as error:
        if error.code != "not_found":
            raise
        return pages.page(neutral, "<p>You can close this page, or go back to the shop.</p>")
    title, text, refresh = _state(order)
    lines = "".join(
        f"<tr><td>{escape(line.name)}</td><td>{line.quantity} ×</td>"
        f"<td>{money.readable(line.line_total_minor, order.currency)}</td></tr>"
        for line in order.items
    )
    body = (
        f"<p>{text}</p><table>{lines}<tr><th>Total</th><th></th>"
        f"<th>{money.readable(order.total_minor, order.currency)}</th></tr></table>"
        f"<p class=small>Order {order.id} · {order.status.replace('_', ' ').lower()}</p>"
    )
    return pages.page(title, body, refresh_seconds=3 if refresh else None)


def _state(order: Order) -> tuple[str, str, bool]:
    """A page's title, its sentence, and whether it is worth looking again soon."""
    if order.payment.status == "REFUNDED":
        return "Your payment was refunded", "The whole amount is on its way back to you.", False
    if order.payment.status == "REFUND_PENDING":
        return "Your payment is being refunded", "The whole amount goes back to you.", False
    if order.status in ("PAID", "FULFILLED"):
        return "Thank you, your order is paid", "We have your payment and are taking care of the rest.", False
    if order.status == "CANCELLED":
        return "This order was cancelled", "Nothing is due. The articles are back in your cart.", False
    if order.payment.status == "PROCESSING":
        return "Your payment is on its way", "Your bank takes a while; your articles are kept for you.", False
    until = f"{order.expires_at:%H:%M} UTC"
    again = f' <a href="{escape(order.checkout_url)}">Pay now</a>' if order.checkout_url else ""
    return "Waiting for your payment", f"Your articles are kept for you until {until}.{again}", True
