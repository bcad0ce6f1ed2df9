"""Checkout over HTTP: its answers, the session that it creates at Stripe, and what happens when Stripe fails."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.parameters import Parameters, form_values
from service.infra.resources import Resources
from service.shop import checkout, fulfilment, payment_session, sweep, transitions
from tests.client import Shop, eventually
from tests.database import end_hold, wait_for_blocked
from tests.stripe_ledger import assert_ledgers_agree

Json = dict[str, Any]
CREATIONS = "POST /v1/checkout/sessions"
# A session that another shop on the account might create.
OTHER_SESSION = (
    "mode=payment&success_url=http://x.test&line_items[0][quantity]=1&line_items[0][price_data][currency]=eur"
    "&line_items[0][price_data][unit_amount]=50&line_items[0][price_data][product_data][name]=x"
)


def once(action: str, **fields: Any) -> Json:
    """A fault of Stripe's stand-in that affects one creation of a session."""
    return {"action": action, "method": "POST", "path": "/v1/checkout/session[s]", "times": 1, **fields}


def open_sessions(stripe: StripeStandin) -> list[Json]:
    """The sessions that can be paid at Stripe."""
    return [session for session in stripe.sessions if session["status"] == "open"]


async def expect_refusal(shop: Shop, cart: str, status: int, code: str) -> Json:
    """Check out, which must be refused so; the problem, with its Retry-After as `retry_after`."""
    answer = await shop.http.post(f"/carts/{cart}/checkout")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return {**answer.json(), "retry_after": int(answer.headers.get("retry-after", 0))}


async def list_orders(shop: Shop) -> list[Json]:
    """All orders, newest first."""
    return list((await shop.call("GET", "/orders", 200))["items"])


async def check_out_unanswered(shop: Shop, stripe: StripeStandin, fault: Json) -> tuple[str, str, int]:
    """Check out two of three units while Stripe fails; the cart, the order and the product."""
    tent = await shop.create_product(stock=3)
    cart = await shop.create_cart((tent["id"], 2))
    stripe.set_faults([fault])
    refuses_api_key = fault.get("status") in (401, 403)
    code = "payment_misconfigured" if refuses_api_key else "payment_unavailable"

    problem = await expect_refusal(shop, cart, 503, code)

    assert problem["retry_after"] > 0
    (order,) = await list_orders(shop)
    assert (order["status"], order["payment_status"]) == ("PENDING_PAYMENT", "INITIATED")
    assert await shop.get_stock(tent["id"]) == 1
    return cart, order["id"], tent["id"]


# Answers


async def test_a_checkout_answers_with_the_order_and_where_to_pay(shop: Shop, stripe: StripeStandin) -> None:
    tent, mug = await shop.create_product(stock=3), await shop.create_product(name="Mug", price_minor=990)
    cart = await shop.create_cart((mug["id"], 1), (tent["id"], 2))

    answer = await shop.http.post(f"/carts/{cart}/checkout")
    placed_order = answer.json()
    order = await shop.get_order(placed_order["order_id"])
    (session,) = stripe.sessions

    assert (answer.status_code, answer.headers["location"]) == (201, f"/orders/{order['id']}")
    assert placed_order == {
        "order_id": order["id"],
        "number": order["number"],
        "status": "PENDING_PAYMENT",
        "total_minor": 2 * 1250 + 990,
        "currency": "EUR",
        "expires_at": order["expires_at"],
        "payment": {"id": order["payment"]["id"], "status": "INITIATED", "stripe_session_id": session["id"]},
        "checkout_url": session["url"],
    }
    hold = datetime.fromisoformat(order["expires_at"]) - datetime.fromisoformat(order["created_at"])
    assert hold == timedelta(seconds=1800)
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "CHECKED_OUT"
    assert [await shop.get_stock(product["id"]) for product in (tent, mug)] == [1, 9]

    # Repeated checkouts give the same answer without another session.
    for body in (None, {}, {"expected_total_minor": 1}):
        assert await shop.check_out(cart, 200, body) == placed_order
    assert stripe.requests[CREATIONS] == 1


# A line is (price, stock, quantity); product ids start at 1. `details` are further members of the problem.
@pytest.mark.parametrize(
    ("lines", "expected_total", "code", "details"),
    [
        ([], None, "cart_empty", {}),
        (
            [(1250, 1, 2), (990, 5, 5), (500, 0, 3)],
            None,
            "insufficient_stock",
            {
                "items": [
                    {"product_id": 1, "requested": 2, "available": 1},
                    {"product_id": 3, "requested": 3, "available": 0},
                ]
            },
        ),
        ([(1250, 5, 2)], 2499, "price_changed", {"expected_total_minor": 2499, "total_minor": 2500}),
    ],
    ids=["empty", "short", "other total"],
)
async def test_a_refused_checkout_says_why_and_reserves_nothing(
    shop: Shop,
    stripe: StripeStandin,
    database: asyncpg.Connection,
    lines: list[tuple[int, int, int]],
    expected_total: int | None,
    code: str,
    details: Json,
) -> None:
    ids = [(await shop.create_product(price_minor=price, stock=stock))["id"] for price, stock, _ in lines]
    cart = await shop.create_cart(*zip(ids, [quantity for _, _, quantity in lines], strict=True))

    problem = await shop.check_out(cart, 409, {"expected_total_minor": expected_total})

    assert problem["code"] == code
    assert {name: problem[name] for name in details} == details
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    assert [await shop.get_stock(product_id) for product_id in ids] == [stock for _, stock, _ in lines]
    assert not stripe.requests[CREATIONS]
    rows = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM stock_movements WHERE order_id IS NOT NULL)"
    assert await database.fetchval(rows) == 0


async def test_a_product_no_longer_for_sale_is_named(shop: Shop) -> None:
    tent, mug = await shop.create_product(), await shop.create_product()
    cart = await shop.create_cart((tent["id"], 1), (mug["id"], 1))
    await shop.call("DELETE", f"/products/{mug['id']}", 204)

    problem = await shop.check_out(cart, 409)

    assert (problem["code"], problem["product_ids"]) == ("product_inactive", [mug["id"]])
    assert await shop.get_stock(tent["id"]) == 10


async def test_an_unknown_cart_is_not_found(shop: Shop) -> None:
    assert (await shop.check_out("00000000-0000-4000-8000-000000000000", 404))["code"] == "not_found"


async def test_a_paid_cart_is_closed_and_names_its_order(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent = await shop.create_product()
    cart = await shop.create_cart((tent["id"], 1))
    order_id = (await shop.check_out(cart))["order_id"]
    stripe.pay(open_sessions(stripe)[0]["id"])
    await shop.wait_for_order(order_id, "PAID")

    assert (await expect_refusal(shop, cart, 409, "cart_not_open"))["order_id"] == order_id

    await fulfilment.fulfil(resources, UUID(order_id))
    assert (await expect_refusal(shop, cart, 409, "cart_not_open"))["order_id"] == order_id


async def test_a_cart_can_be_checked_out_again_after_a_cancel(shop: Shop, stripe: StripeStandin) -> None:
    tent = await shop.create_product(stock=1)
    cart = await shop.create_cart((tent["id"], 1))
    first = await shop.check_out(cart)
    await shop.call("POST", f"/orders/{first['order_id']}/cancel", 200)

    second = await shop.check_out(cart)

    assert second["order_id"] != first["order_id"]
    assert [session["id"] for session in open_sessions(stripe)] == [second["payment"]["stripe_session_id"]]


@pytest.mark.parametrize("becomes", ["CANCELLED", "PAID"])
async def test_an_order_that_ends_while_its_checkout_is_repeated(
    shop: Shop, database: asyncpg.Connection, becomes: str
) -> None:
    tent = await shop.create_product(stock=1)
    cart = await shop.create_cart((tent["id"], 1))
    first = await shop.check_out(cart)

    async with database.transaction():
        # The repeated checkout has read the order and waits to read its payment.
        await database.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        repeating = asyncio.create_task(shop.http.post(f"/carts/{cart}/checkout"))
        await wait_for_blocked(database)
        order, after = await transitions.lock(database, UUID(first["order_id"])), transitions.AfterCommit()
        if becomes == "CANCELLED":
            await transitions.cancel(database, after, [order], payment_status="EXPIRED")
        else:
            await transitions.mark_paid(
                database,
                after,
                order,
                hold_number=order.hold_number,
                stripe_session_id="cs_test",
                payment_intent="pi_test",
                email=None,
            )
    answer = (await repeating).json()

    if becomes == "CANCELLED":
        assert answer["status"] == "PENDING_PAYMENT"
        assert answer["order_id"] != first["order_id"]
    else:
        assert (answer["code"], answer["order_id"]) == ("cart_not_open", first["order_id"])


# The session at Stripe


@pytest.mark.parametrize(
    ("changed_settings", "session_seconds", "success_url"),
    [
        ({"HOLD_SECONDS": "60"}, 2100, "http://localhost:8080/payments/success?"),
        ({"HOLD_SECONDS": "1800", "STRIPE_SUCCESS_URL": "https://shop.test/?a=b"}, 2100, "https://shop.test/?a=b&"),
        ({"HOLD_SECONDS": "3600"}, 3900, "http://localhost:8080/payments/success?"),
    ],
)
async def test_a_session_is_created_with_the_lines_times_and_urls_of_the_order(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, session_seconds: int, success_url: str
) -> None:
    tent = await shop.create_product(stock=3)
    mug = await shop.create_product(name="Mug", price_minor=990, currency="EUR")

    order_id = (await shop.checked_out_cart((tent["id"], 2), (mug["id"], 1)))["order_id"]

    (session,) = stripe.sessions
    created_at = await database.fetchval("SELECT created_at FROM orders")
    assert session["metadata"] == session["_intent_metadata"] == {"order_id": order_id}
    assert (session["mode"], session["client_reference_id"]) == ("payment", order_id)
    assert session["success_url"] == f"{success_url}session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}"
    assert session["cancel_url"].endswith(f"/payments/cancel?session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}")
    assert session["expires_at"] == int(created_at.timestamp()) + session_seconds
    assert (session["amount_total"], session["currency"]) == (3490, "eur")
    lines = [(line["name"], line["unit_amount"], line["quantity"]) for line in session["_lines"]]
    assert lines == [("Tent", 1250, 2), ("Mug", 990, 1)]


@pytest.mark.parametrize("changed_settings", [{"HOLD_SECONDS": "86100"}])
async def test_stripe_accepts_a_session_for_the_longest_hold(shop: Shop) -> None:
    tent = await shop.create_product()
    # Stripe counts whole seconds: it would refuse an `expires_at` that we had rounded up, in half of the attempts.
    for _ in range(8):
        await shop.checked_out_cart((tent["id"], 1))


@pytest.mark.parametrize("changed_settings", [{"EXCLUDED_PAYMENT_METHODS": "boleto,sepa_debit"}])
async def test_a_session_leaves_out_the_excluded_payment_methods_also_when_it_is_resumed(
    shop: Shop, stripe: StripeStandin
) -> None:
    cart, order_id, _ = await check_out_unanswered(shop, stripe, once("drop_after"))

    assert (await shop.check_out(cart, 200))["order_id"] == order_id

    (session,) = stripe.sessions
    assert session["excluded_payment_method_types"] == ["boleto", "sepa_debit"]
    assert "boleto" not in session["payment_method_types"]


# Stripe refuses


@pytest.mark.parametrize("status", [400, 402, 404])
@pytest.mark.parametrize("before", [None, once("drop")], ids=["at once", "asked again"])
async def test_a_session_that_stripe_refuses_cancels_the_order_at_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, status: int, before: Json | None
) -> None:
    if before:
        cart, _, tent = await check_out_unanswered(shop, stripe, before)
    else:
        tent = (await shop.create_product(stock=3))["id"]
        cart = await shop.create_cart((tent, 2))
    stripe.set_faults([once("status", status=status)])

    problem = await expect_refusal(shop, cart, 502, "payment_refused")

    assert not problem["retry_after"]
    (order,) = await list_orders(shop)
    assert (order["status"], order["payment_status"]) == ("CANCELLED", "FAILED")
    timeline = (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"]
    assert f"refused the payment session: status {status}" in timeline[-1]["note"]
    assert await shop.get_stock(tent) == 3
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    await assert_ledgers_agree(resources, stripe)
    assert (await shop.check_out(cart))["order_id"] != order["id"]


@pytest.mark.parametrize("code", ["amount_too_small", "amount_too_large"])
@pytest.mark.parametrize("before", [None, once("drop")], ids=["at once", "asked again"])
async def test_a_total_that_stripe_refuses_is_out_of_range(
    shop: Shop, stripe: StripeStandin, resources: Resources, code: str, before: Json | None
) -> None:
    if before:
        cart, _, tent = await check_out_unanswered(shop, stripe, before)
    else:
        tent = (await shop.create_product(stock=3))["id"]
        cart = await shop.create_cart((tent, 2))
    stripe.set_faults([once("status", status=400, code=code)])

    problem = await expect_refusal(shop, cart, 409, "amount_out_of_range")

    assert (problem["total_minor"], problem["retry_after"]) == (2500, 0)
    (order,) = await list_orders(shop)
    assert (order["status"], order["payment_status"]) == ("CANCELLED", "FAILED")
    assert code in (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"][-1]["note"]
    assert await shop.get_stock(tent) == 3
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    await assert_ledgers_agree(resources, stripe)


async def test_an_order_of_a_refused_total_ends_though_its_checkout_was_never_repeated(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    _, order_id, tent = await check_out_unanswered(shop, stripe, once("drop"))
    stripe.set_faults([{**once("status", status=400, code="amount_too_small"), "times": None}])
    await end_hold(database, order_id)

    await sweep.sweep(resources)

    assert (await shop.get_order(order_id))["status"] == "CANCELLED"
    assert await shop.get_stock(tent) == 3
    assert await sweep.sweep(resources) == 0


# Stripe gives no usable answer


@pytest.mark.parametrize(
    "fault",
    [
        *(once("status", status=status) for status in (401, 403, 409, 500, 503)),
        once("drop"),
        once("drop_after"),
        once("malformed"),
        once("status_after", status=500),
        once("status", status=500, stored=True),
    ],
    ids=lambda fault: " ".join(str(fault[name]) for name in ("action", "status", "stored") if name in fault),
)
async def test_a_checkout_without_an_answer_from_stripe_is_resumed(
    shop: Shop, stripe: StripeStandin, resources: Resources, fault: Json
) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, fault)

    placed_order = await shop.check_out(cart, 200)

    assert (placed_order["order_id"], placed_order["status"]) == (order_id, "PENDING_PAYMENT")
    (session,) = open_sessions(stripe)
    assert placed_order["payment"]["stripe_session_id"] == session["id"]
    assert placed_order["checkout_url"] == session["url"]
    assert await shop.check_out(cart, 200) == placed_order
    assert await shop.get_stock(tent) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_a_checkout_waits_for_stripes_rate_limit(shop: Shop, stripe: StripeStandin) -> None:
    stripe.set_faults([{**once("status", status=429), "times": 2}])

    placed_order = await shop.checked_out_cart()

    assert stripe.requests[CREATIONS] == 3
    assert [session["url"] for session in stripe.sessions] == [placed_order["checkout_url"]]


@pytest.mark.parametrize("changed_settings", [{"STRIPE_TIMEOUT_SECONDS": "1"}])
async def test_a_checkout_is_resumed_after_a_rate_limit_that_lasted(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    cart, order_id, _ = await check_out_unanswered(shop, stripe, {**once("status", status=429), "times": None})
    assert stripe.requests[CREATIONS] > 1
    stripe.set_faults([])

    assert (await shop.check_out(cart, 200))["order_id"] == order_id

    assert len(open_sessions(stripe)) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_the_session_of_an_order_is_found_behind_a_page_of_newer_ones(shop: Shop, stripe: StripeStandin) -> None:
    cart, _, _ = await check_out_unanswered(shop, stripe, once("status_after", status=500))
    (session,) = open_sessions(stripe)
    for _ in range(101):
        other = Parameters(form_values(f"{OTHER_SESSION}&metadata[order_id]={uuid4()}"))
        stripe.create_session(other, "http://x.test")

    assert (await shop.check_out(cart, 200))["payment"]["stripe_session_id"] == session["id"]


async def test_an_idempotency_key_used_elsewhere_leaves_the_order_pending(shop: Shop, stripe: StripeStandin) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, once("drop"))
    async with httpx.AsyncClient(base_url=stripe.api_base) as other:  # type: ignore[attr-defined]
        headers = {
            "Authorization": "Bearer sk_test_other",
            "Content-Type": "application/x-www-form-urlencoded",
            "Idempotency-Key": f"checkout:{order_id}:1",
        }
        assert (await other.post("/v1/checkout/sessions", headers=headers, content=OTHER_SESSION)).status_code == 200

    await expect_refusal(shop, cart, 503, "payment_unavailable")

    assert (await shop.get_order(order_id))["status"] == "PENDING_PAYMENT"
    assert await shop.get_stock(tent) == 1


@pytest.mark.parametrize("changed_settings", [{"STRIPE_TIMEOUT_SECONDS": "3", "DB_POOL_SIZE": "1"}])
async def test_other_requests_proceed_while_stripe_does_not_answer(shop: Shop, stripe: StripeStandin) -> None:
    tent = await shop.create_product(stock=3)
    cart = await shop.create_cart((tent["id"], 2))
    stripe.set_faults([once("hang")])
    unanswered_checkout = asyncio.create_task(shop.http.post(f"/carts/{cart}/checkout"))

    async def stripe_was_asked() -> int:
        return stripe.requests[CREATIONS]

    await eventually(stripe_was_asked)

    # The first checkout has the claim, so requests for the same order are refused.
    assert (await expect_refusal(shop, cart, 409, "checkout_in_progress"))["retry_after"] > 0
    (order,) = await list_orders(shop)
    assert (await shop.call("POST", f"/orders/{order['id']}/cancel", 409))["code"] == "checkout_in_progress"
    # The only database connection serves other requests.
    assert await shop.get_stock(tent["id"]) == 1
    await shop.checked_out_cart((tent["id"], 1))
    assert not unanswered_checkout.done()

    # The first checkout ends at Stripe's timeout; the next one resumes the order.
    answer = await unanswered_checkout
    assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable")
    assert (await shop.check_out(cart, 200))["order_id"] == order["id"]
    assert len(open_sessions(stripe)) == 2


# Resuming a checkout


@pytest.mark.parametrize("webhook_arrives", [True, False], ids=["webhook came", "webhook lost"])
async def test_a_session_paid_before_it_was_stored_pays_its_order(
    shop: Shop, stripe: StripeStandin, resources: Resources, webhook_arrives: bool
) -> None:
    cart, order_id, _ = await check_out_unanswered(shop, stripe, once("drop_after"))
    (session,) = open_sessions(stripe)
    if not webhook_arrives:
        stripe.webhook_url = None
    stripe.pay(session["id"])
    if webhook_arrives:
        await shop.wait_for_order(order_id, "PAID")

    assert (await expect_refusal(shop, cart, 409, "cart_not_open"))["order_id"] == order_id

    order = await shop.wait_for_order(order_id, "PAID", "SUCCEEDED")
    assert order["payment"]["stripe_session_id"] == session["id"]
    await assert_ledgers_agree(resources, stripe)


async def test_a_replayed_session_is_read_in_its_present_state(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, once("drop_after"))
    (session,) = open_sessions(stripe)
    stripe.webhook_url = None
    stripe.expire_session(session["id"])

    assert (await expect_refusal(shop, cart, 409, "checkout_in_progress"))["retry_after"] > 0
    assert (await shop.get_order(order_id))["status"] == "CANCELLED"
    assert await shop.get_stock(tent) == 3
    assert (await shop.check_out(cart))["order_id"] != order_id
    await assert_ledgers_agree(resources, stripe)


async def test_a_session_with_a_payment_in_progress_has_no_checkout_url(shop: Shop, stripe: StripeStandin) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, once("drop_after"))
    stripe.webhook_url = None
    stripe.pay(open_sessions(stripe)[0]["id"], later=True)

    placed_order = await shop.check_out(cart, 200)

    assert (placed_order["order_id"], placed_order["payment"]["status"]) == (order_id, "PROCESSING")
    assert placed_order["checkout_url"] is None
    assert await shop.get_stock(tent) == 1


@pytest.mark.parametrize("then", ["checkout", "cancel"])
async def test_a_replay_refused_for_its_time_shows_that_no_session_exists(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, resources: Resources, then: str
) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, once("drop"))
    await database.execute(
        "UPDATE payments SET session_parameters ="
        " session_parameters || jsonb_build_object('expires_at', (session_parameters->>'expires_at')::bigint - 600)"
    )

    if then == "cancel":
        assert (await shop.call("POST", f"/orders/{order_id}/cancel", 200))["status"] == "CANCELLED"
        assert open_sessions(stripe) == []
        assert await shop.get_stock(tent) == 3
    else:
        placed_order = await shop.check_out(cart, 200)
        (session,) = stripe.sessions
        assert (placed_order["order_id"], placed_order["checkout_url"]) == (order_id, session["url"])
        attempt, ends = await database.fetchrow(
            "SELECT attempt, session_expires_at FROM payments WHERE stripe_session_id = $1", session["id"]
        )
        assert (attempt, int(ends.timestamp())) == (2, session["expires_at"])
        assert await shop.check_out(cart, 200) == placed_order

    await assert_ledgers_agree(resources, stripe)


# The claim


async def test_the_claim_of_a_dead_process_ends_by_itself(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    cart, order_id, _ = await check_out_unanswered(shop, stripe, once("drop"))
    await database.execute("UPDATE payments SET claimed_until = now() + interval '1 hour'")

    for call in (f"/carts/{cart}/checkout", f"/orders/{order_id}/cancel"):
        refused = await shop.http.post(call)
        # The time left, rounded up, read a moment later.
        seconds = refused.json()["retry_after_seconds"]
        assert (refused.status_code, refused.json()["code"]) == (409, "checkout_in_progress")
        assert 3500 < seconds <= 3600
        assert refused.headers["retry-after"] == str(seconds)

    await database.execute("UPDATE payments SET claimed_until = claimed_until - interval '1 hour'")
    assert (await shop.check_out(cart, 200))["order_id"] == order_id
    assert len(open_sessions(stripe)) == 1


async def test_an_order_cancelled_during_session_creation_leaves_no_open_session(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, resources: Resources
) -> None:
    cart, order_id, tent = await check_out_unanswered(shop, stripe, once("drop"))

    async with database.transaction():
        await database.execute("SELECT FROM orders WHERE id = $1 FOR NO KEY UPDATE", UUID(order_id))
        creating = asyncio.create_task(expect_refusal(shop, cart, 409, "checkout_in_progress"))
        await wait_for_blocked(database)
        # The session exists at Stripe and is about to be stored; a second request creates no other.
        assert len(open_sessions(stripe)) == 1
        await expect_refusal(shop, cart, 409, "checkout_in_progress")
        order = await transitions.lock(database, UUID(order_id))
        await transitions.cancel(database, transitions.AfterCommit(), [order], payment_status="EXPIRED")

    # Nobody has a claim to the cancelled order.
    assert (await creating)["retry_after"] == (await creating)["retry_after_seconds"] == 1
    assert open_sessions(stripe) == []
    assert (await shop.get_order(order_id))["payment"]["stripe_session_id"] is None
    assert await shop.get_stock(tent) == 3
    assert (await shop.check_out(cart))["order_id"] != order_id
    await assert_ledgers_agree(resources, stripe)


async def test_a_cancel_without_an_answer_from_stripe_leaves_no_claim(shop: Shop, stripe: StripeStandin) -> None:
    _, order_id, tent = await check_out_unanswered(shop, stripe, once("drop_after"))
    stripe.set_faults([{"action": "drop", "path": "/v1/checkout/sessions/*/expire", "times": 1}])

    problem = await shop.call("POST", f"/orders/{order_id}/cancel", 503)

    assert problem["code"] == "payment_unavailable"
    assert (await shop.call("POST", f"/orders/{order_id}/cancel", 200))["status"] == "CANCELLED"
    assert open_sessions(stripe) == []
    assert await shop.get_stock(tent) == 3


# Another request is ahead


async def test_a_conclusion_about_an_older_attempt_changes_nothing(
    shop: Shop,
    stripe: StripeStandin,
    api_resources: Resources,
    resources: Resources,
    database: asyncpg.Connection,
) -> None:
    """A cancel and a refused creation act when the cart already has a newer session, which can be paid.

    The cancel waits for the cart's lock, which the test has locked, while a second checkout creates the session.
    """
    cart, order_id, _ = await check_out_unanswered(shop, stripe, once("drop"))
    await database.execute("UPDATE payments SET session_parameters = session_parameters || '{\"expires_at\": 1}'")

    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
        cancelling = asyncio.create_task(shop.call("POST", f"/orders/{order_id}/cancel", 409))
        await wait_for_blocked(database, 1)
        async with api_resources.pool.acquire() as other:
            await other.execute("UPDATE payments SET claimed_until = now()")
        placed_order = await shop.check_out(cart, 200)

    assert (await cancelling)["code"] == "checkout_in_progress"

    await checkout.cancel_refused(api_resources, UUID(order_id), attempt=1, reason="status 400")
    assert (await shop.get_order(order_id))["status"] == "PENDING_PAYMENT"
    assert [session["id"] for session in open_sessions(stripe)] == [placed_order["payment"]["stripe_session_id"]]
    await assert_ledgers_agree(resources, stripe)


async def test_a_refusal_of_an_attempt_with_a_session_changes_nothing(shop: Shop, api_resources: Resources) -> None:
    placed_order = await shop.checked_out_cart()

    await checkout.cancel_refused(api_resources, UUID(placed_order["order_id"]), attempt=1, reason="status 400")

    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"


async def test_a_failure_that_stripe_does_not_replay_keeps_the_attempt(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    cart, order_id, _ = await check_out_unanswered(shop, stripe, once("status", status=500))
    stripe.set_faults([once("status", status=500)])

    await expect_refusal(shop, cart, 503, "payment_unavailable")

    assert await database.fetchval("SELECT attempt FROM payments") == 1
    assert (await shop.check_out(cart, 200))["order_id"] == order_id


async def test_a_refusal_of_an_older_attempt_does_not_end_the_newer_one(
    shop: Shop, stripe: StripeStandin, api_resources: Resources, database: asyncpg.Connection
) -> None:
    _, order_id, _ = await check_out_unanswered(shop, stripe, once("drop"))

    claim = await payment_session.claim_session(api_resources, UUID(order_id))
    assert claim is not None
    assert await payment_session.next_attempt(api_resources, UUID(order_id), claim)

    await checkout.cancel_refused(api_resources, UUID(order_id), attempt=claim.attempt, reason="status 400")
    assert (await shop.get_order(order_id))["status"] == "PENDING_PAYMENT"

    await checkout.cancel_refused(api_resources, UUID(order_id), attempt=claim.attempt + 1, reason="status 400")
    assert (await shop.get_order(order_id))["status"] == "CANCELLED"


async def test_a_line_is_limited_when_it_is_added_and_at_checkout(shop: Shop, stripe: StripeStandin) -> None:
    tent = await shop.create_product(stock=500, max_per_order=3)
    product, other = f"/products/{tent['id']}", await shop.create_product(stock=500)
    cart = await shop.create_cart((other["id"], 100), (tent["id"], 2))
    line = f"/carts/{cart}/items/{tent['id']}"

    async def set_quantity(quantity: int, allowed: int | None = None) -> None:
        answer = await shop.call("PUT", line, 409 if allowed else 200, {"quantity": quantity})
        if allowed:
            assert (answer["code"], answer["product_id"], answer["allowed"]) == (
                "quantity_limited",
                tent["id"],
                allowed,
            )

    refused = await shop.add_item(cart, tent["id"], 2, expect=409)
    assert (refused["code"], refused["product_id"], refused["allowed"]) == ("quantity_limited", tent["id"], 3)
    assert (await shop.add_item(cart, other["id"], expect=409))["allowed"] == 100
    new_cart = await shop.create_cart()
    assert (await shop.add_item(new_cart, tent["id"], 4, expect=409))["allowed"] == 3
    await set_quantity(4, allowed=3)
    await set_quantity(3)

    # The shop lowers the limit: the cart stays, but cannot be checked out.
    assert (await shop.call("PATCH", product, 200, {"max_per_order": 1}))["max_per_order"] == 1
    assert (await shop.call("GET", f"/carts/{cart}", 200))["items"][0]["quantity"] == 3
    refused = await shop.check_out(cart, 409)
    assert (refused["code"], refused["product_id"], refused["allowed"]) == ("quantity_limited", tent["id"], 1)
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    assert await shop.get_stock(tent["id"]) == 500
    await set_quantity(2, allowed=1)

    # Without a limit of its own, the product has that of the settings.
    assert (await shop.call("PATCH", product, 200, {"name": "Big tent"}))["max_per_order"] == 1
    assert (await shop.call("PATCH", product, 200, {"max_per_order": None}))["max_per_order"] is None
    await set_quantity(101, allowed=100)
    await set_quantity(100)
    assert (await shop.call("PATCH", product, 200, {"max_per_order": 9999}))["max_per_order"] == 9999
    await set_quantity(400)
    await shop.check_out(cart)
    assert await shop.get_stock(tent["id"]) == 100
