"""The pages where Stripe sends the customer back."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from service.errors import ShopError
from service.http.fields import parse_uuid
from service.http.requests import ResourcesDep
from service.infra.resources import Resources
from service.pages import layout
from service.shop import confirmation, money
from service.shop.orders import Order

router = APIRouter()

REFUND_WORDS = {
    "REQUESTED": "on its way",
    "PENDING": "on its way",
    "SUCCEEDED": "done",
    "FAILED": "it failed, and the shop knows",
}


# A bank transfer may arrive later, and a payment that matches no order waits for staff.
CANCELLED = "The articles are back in your cart. Should money of yours arrive, you get the articles or the money back."


class ReturnQuery(BaseModel):
    """What Stripe sends the customer back with; any text is accepted, and unknown parameters are ignored."""

    order_id: str = ""
    session_id: str = ""


@router.get("/payments/success", response_class=HTMLResponse)
async def payment_success(query: Annotated[ReturnQuery, Query()], resources: ResourcesDep) -> Response:
    """The page after a payment. It shows the order's actual state."""
    return await _page(resources, query, "Thank you")


@router.get("/payments/cancel", response_class=HTMLResponse)
async def payment_cancel(query: Annotated[ReturnQuery, Query()], resources: ResourcesDep) -> Response:
    """The page after leaving the payment. It shows the order's actual state."""
    return await _page(resources, query, "Payment not completed")


async def _page(resources: Resources, query: ReturnQuery, neutral_title: str) -> Response:
    try:
        order_id = parse_uuid(query.order_id, "order")
        order, shows_all = await confirmation.read_order(resources, order_id, query.session_id)
    except ShopError as error:
        if error.code != "not_found":
            raise
        return layout.page(neutral_title, "<p>You can close this page, or go back to the shop.</p>")
    pending = order.status == "PENDING_PAYMENT" and order.payment.status == "INITIATED"
    session = await confirmation.session_state(resources, order) if pending else "unknown"
    title, text, refresh = _state(order, session, may_pay=shows_all)
    lines = "".join(
        f"<tr><td>{escape(line.name)}</td><td>{line.quantity} ×</td>"
        f"<td>{money.readable(line.line_total_minor, order.currency)}</td></tr>"
        for line in order.items
        if shows_all
    )
    refunds = "".join(
        f"<p>Refund of {money.readable(refund.amount_minor, refund.currency)}: {REFUND_WORDS[refund.status]}</p>"
        for refund in order.refunds
        if shows_all
    )
    body = (
        f"<p>{text}</p>{refunds}<table>{lines}<tr><th>Total</th><th></th>"
        f"<th>{money.readable(order.total_minor, order.currency)}</th></tr></table>"
        f"<p class=small>Order {order.number} · {order.status.replace('_', ' ').lower()}</p>"
    )
    return layout.page(title, body, refresh_seconds=3 if refresh else None)


def _state(order: Order, session: confirmation.State, *, may_pay: bool) -> tuple[str, str, bool]:
    """The page's title, its sentence, and whether the page reloads. `session`: what Stripe says of a pending order."""
    if order.payment.status == "REFUNDED":
        return "Your payment was refunded", "The full amount is on its way back to you.", False
    if order.payment.status == "REFUND_PENDING":
        return "Your payment is being refunded", "You will get back the full amount.", False
    if order.status in ("PAID", "FULFILLED"):
        return "Thank you, your order is paid", "We have your payment and are taking care of the rest.", False
    if order.status == "CANCELLED" and order.payment.status == "FAILED":
        return "Your payment failed", CANCELLED, False
    if order.status == "CANCELLED":
        return "This order was cancelled", CANCELLED, False
    if order.payment.status == "PROCESSING":
        return "Your payment is on its way", "Your bank takes a while; your articles are kept for you.", False
    if session != "open":
        # The customer may have paid: Stripe's report is on its way. A second payment must not be offered now.
        return "We are confirming your payment", "This takes a few seconds. Your articles are kept for you.", True
    until = f"{order.expires_at:%H:%M} UTC"
    pay_link = f' <a href="{escape(order.checkout_url)}">Pay now</a>' if may_pay and order.checkout_url else ""
    return "Waiting for your payment", f"Your articles are kept for you until {until}.{pay_link}", True
