"""The pages where Stripe sends the customer back: they show what Stripe says, also before its webhook."""

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop import sweep
from service.shop.principals import ERASED
from tests.client import Shop
from tests.database import make_everything_due
from tests.shop.test_refunds import create_fulfilled_order, request_refund
from tests.stripe_events import deliver, last_event

CONFIRMING, PAY = "We are confirming your payment", "Pay now"

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def read(shop: Shop, order_id: str, page: str = "success", session_id: str = "") -> str:
    answer = await shop.http.get(f"/payments/{page}?order_id={order_id}&session_id={session_id}")
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("page", ["success", "cancel"])
async def test_who_has_just_paid_is_not_asked_to_pay(shop: Shop, stripe: StripeStandin, page: str) -> None:
    """Neither at once, nor while Stripe is not asked again, nor while it does not answer."""
    placed_order = await shop.checked_out_cart()
    order_id, session_id = placed_order["order_id"], placed_order["payment"]["stripe_session_id"]
    stripe.pay(session_id)
    for _ in range(3):
        text = await read(shop, order_id, page)
        assert CONFIRMING in text
        assert PAY not in text
    assert stripe.requests["GET /v1/checkout/sessions/{id}"] == 1

    await deliver(shop, last_event(stripe, "checkout.session.completed"))
    assert "your order is paid" in await read(shop, order_id, page)


async def test_who_has_not_paid_yet_can_pay(shop: Shop, stripe: StripeStandin) -> None:
    order_id = (await shop.checked_out_cart())["order_id"]

    assert PAY in await read(shop, order_id, "cancel")

    other = (await shop.checked_out_cart())["order_id"]
    stripe.set_faults([{"action": "drop"}])
    text = await read(shop, other)
    assert CONFIRMING in text
    assert PAY not in text


@pytest.mark.parametrize("changed_settings", [{"REDIS_URL": "redis://127.0.0.1:1/0"}])
async def test_without_redis_a_process_asks_as_seldom(shop: Shop, stripe: StripeStandin) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])

    assert all([CONFIRMING in await read(shop, placed_order["order_id"]) for _ in range(3)])

    assert stripe.requests["GET /v1/checkout/sessions/{id}"] == 1


async def test_a_failed_payment_and_refunds_are_shown(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    failed = await shop.checked_out_cart()
    stripe.pay(failed["payment"]["stripe_session_id"], later=True)
    stripe.settle(failed["payment"]["stripe_session_id"], succeed=False)
    await deliver(shop, last_event(stripe, "checkout.session.async_payment_failed"))
    text = await read(shop, failed["order_id"])
    assert "Your payment failed" in text
    assert "You have not paid" not in text

    order_id, _ = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, order_id, amount_minor=500)
    assert "on its way" in await read(shop, order_id)
    await make_everything_due(database)
    await sweep.sweep(resources)
    assert "Refund of 5.00 EUR: done" in (await read(shop, order_id)).replace("\xa0", " ")


@pytest.mark.parametrize(
    ("currency", "amount"), [("kwd", "1.250 KWD"), ("isk", "12.50 ISK"), ("mga", "1250 MGA"), ("usd", "12.50 USD")]
)
async def test_a_refund_in_a_currency_that_is_not_sold_is_shown(
    shop: Shop, stripe: StripeStandin, resources: Resources, currency: str, amount: str
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    session["currency"] = currency
    stripe.pay(session["id"])
    await deliver(shop, last_event(stripe, "checkout.session.completed"))
    for _ in range(2):
        await sweep.sweep(resources)

    for page in ("success", "cancel"):
        text = await read(shop, placed_order["order_id"], page)
        assert f"Refund of {amount}" in text.replace("\xa0", " ")


@pytest.mark.parametrize("owner", ["anna", ERASED])
async def test_an_owned_order_is_shown_in_full_only_with_its_session(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, owner: str
) -> None:
    """A pending order's link to pay, then the lines and refunds of a fulfilled one. The rest is for everybody."""
    pending = await shop.checked_out_cart()
    fulfilled, _ = await create_fulfilled_order(shop, stripe, resources)
    await request_refund(shop, fulfilled, amount_minor=500)
    await database.execute("UPDATE orders SET user_id = $1", owner)
    order = await shop.get_order(fulfilled)
    own = order["payment"]["stripe_session_id"]
    pending_session = pending["payment"]["stripe_session_id"]

    for session_id, shows_all in ((own, True), ("", False), (pending_session, False), ("None", False)):
        text = (await read(shop, fulfilled, session_id=session_id)).replace("\xa0", " ")
        assert ("Refund of 5.00 EUR" in text, order["items"][0]["name"] in text) == (shows_all, shows_all)
        assert f"Order {order['number']} · fulfilled" in text
        assert f"{order['total_minor'] / 100:.2f} EUR" in text
        assert "We have your payment" in text

    async def forget_question() -> None:
        await resources.redis.delete(f"confirmation:{pending['order_id']}")

    for session_id, may_pay in ((own, False), ("", False), (pending_session, True)):
        await forget_question()
        text = await read(shop, pending["order_id"], session_id=session_id)
        assert "Waiting for your payment" in text
        assert (PAY in text) == may_pay
