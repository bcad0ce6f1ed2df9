"""One purchase, end to end, on real resources."""

from service.dev.stripe_standin import StripeStandin
from tests.client import Shop


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
    assert [e["actor"].split()[0] for e in timeline["items"]] == ["request", "event", "job"]
