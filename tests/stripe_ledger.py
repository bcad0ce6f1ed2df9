"""What Stripe's ledger and ours must agree on when everything has settled."""

from collections.abc import Collection

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop.audit import audit
from tests.queries import on


async def assert_ledgers_agree(
    resources: Resources, stripe: StripeStandin, *, settled_elsewhere: Collection[str] = ()
) -> None:
    """Compare our tables with Stripe's ledger; the payments of orders that people settled elsewhere stay captured.

    The audit finds no violation. Each captured payment belongs to a live order or is refunded in full. Only
    pending orders have a session that can be paid. A cart is checked out exactly while it has a live order, and shows
    its lines.
    """
    violations = {rule: rows for rule, rows in (await audit(resources.pool)).items() if rows}
    assert not violations, str(violations)
    orders = await on(resources.pool).fetch(
        "SELECT o.id, o.status, p.status AS payment, p.refunded_minor, p.stripe_payment_intent_id AS intent"
        " FROM orders o JOIN payments p ON o.id = p.order_id"
    )
    unsent_refunds = await on(resources.pool).fetch(
        "SELECT stripe_payment_intent_id AS intent, amount_minor FROM refunds WHERE status = 'REQUESTED'"
    )
    ledger = stripe.ledger()

    live = {o["intent"] for o in orders if o["status"] in ("PAID", "FULFILLED") and o["payment"] == "SUCCEEDED"}
    for payment in ledger["payments"]:
        intent, amount = payment["payment_intent"], payment["amount"]
        made = [
            r["amount"]
            for r in stripe.refunds
            if r["payment_intent"] == intent and r["status"] not in ("failed", "canceled")
        ]
        refunded = sum(made) + sum(r["amount_minor"] for r in unsent_refunds if r["intent"] == intent)
        assert refunded <= amount
        if payment["metadata"].get("order_id") not in settled_elsewhere:
            assert (intent in live) != (refunded == amount), (payment, refunded)

    refunded_at_stripe = {payment["payment_intent"]: payment["refunded"] for payment in ledger["payments"]}
    for order in orders:
        if order["payment"] in ("SUCCEEDED", "REFUND_PENDING", "REFUNDED"):
            assert refunded_at_stripe[order["intent"]] == order["refunded_minor"]

    pending = {str(o["id"]) for o in orders if o["status"] == "PENDING_PAYMENT"}
    assert {s["metadata"]["order_id"] for s in ledger["open_sessions"]} <= pending

    untrue_carts = await on(resources.pool).fetch(
        "SELECT carts.id, carts.status, orders.id FROM carts"
        " LEFT JOIN orders ON orders.cart_id = carts.id AND orders.status <> 'CANCELLED'"
        " WHERE (carts.status = 'CHECKED_OUT') <> (orders.id IS NOT NULL)"
        " OR carts.currency <> orders.currency"
        " OR (orders.id IS NOT NULL AND array(SELECT (product_id, quantity) FROM cart_items"
        " WHERE cart_id = carts.id ORDER BY product_id) <> array(SELECT (product_id, quantity) FROM order_items"
        " WHERE order_id = orders.id ORDER BY product_id))"
    )
    assert not untrue_carts
