"""One purchase, end to end, on real resources."""

from collections import Counter
from collections.abc import Awaitable
from uuid import UUID

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop import refunds, sweep
from tests.client import Shop
from tests.stripe_events import deliver, last_event


async def test_a_purchase_ends_fulfilled(shop: Shop, stripe: StripeStandin, worker: None) -> None:
    tent, mug = await shop.create_product(stock=3), await shop.create_product(name="Mug", price_minor=990)
    placed_order = await shop.checked_out_cart((tent["id"], 2), (mug["id"], 1))
    assert placed_order["status"] == "PENDING_PAYMENT"
    assert placed_order["total_minor"] == 2 * 1250 + 990
    assert placed_order["payment"]["status"] == "INITIATED"
    assert await shop.get_stock(tent["id"]) == 1

    stripe.pay(placed_order["payment"]["stripe_session_id"])
    order = await shop.wait_for_order(placed_order["order_id"], "FULFILLED", "SUCCEEDED")

    assert order["checkout_url"] is None
    assert [(line["product_id"], line["quantity"]) for line in order["items"]] == [(tent["id"], 2), (mug["id"], 1)]
    timeline = await shop.call("GET", f"/orders/{placed_order['order_id']}/timeline", 200)
    assert [(e["from"], e["to"]) for e in timeline["items"]] == [
        (None, "PENDING_PAYMENT"),
        ("PENDING_PAYMENT", "PAID"),
        ("PAID", "FULFILLED"),
    ]
    assert [e["actor"] for e in timeline["items"]] == ["open", "stripe", "job:post_payment_pipeline"]


async def test_stripe_is_called_as_often_as_operations_says(
    shop: Shop, stripe: StripeStandin, resources: Resources, webhooks_dropped: None
) -> None:
    tent = await shop.create_product()

    async def calls(what: Awaitable[object]) -> dict[str, int]:
        before = Counter(stripe.requests)
        await what
        return dict(stripe.requests - before)

    async def buy() -> None:
        placed_order = await shop.checked_out_cart((tent["id"], 1))
        stripe.pay(placed_order["payment"]["stripe_session_id"])
        await deliver(shop, last_event(stripe, "checkout.session.completed"))
        await sweep.sweep(resources)

    async def cancel() -> None:
        placed_order = await shop.checked_out_cart((tent["id"], 1))
        await shop.call("POST", f"/orders/{placed_order['order_id']}/cancel", 200)

    async def refund() -> None:
        (order,) = (await shop.call("GET", "/orders?status=FULFILLED", 200))["items"]
        await shop.call("POST", f"/orders/{order['id']}/refund", 200, {})
        await refunds.settle(resources, UUID(order["id"]))

    creation = {"POST /v1/checkout/sessions": 1}
    assert await calls(buy()) == creation
    assert await calls(cancel()) == creation | {"POST /v1/checkout/sessions/{id}/expire": 1}
    assert await calls(refund()) == {"POST /v1/refunds": 1, "GET /v1/refunds": 1}
