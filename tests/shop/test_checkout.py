"""Checkout over HTTP: what it answers, what Stripe is sent, and what becomes of it when Stripe does not play along."""

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
from service.shop import checkout, fulfilment, payment_session, transitions
from tests.books import balance
from tests.client import Shop, eventually, waiting

Json = dict[str, Any]
CREATIONS = "POST /v1/checkout/sessions"
# What another shop might create.
OTHER_SESSION = (
    "mode=payment&success_url=http://x.test&line_items[0][quantity]=1&line_items[0][price_data][currency]=eur"
    "&line_items[0][price_data][unit_amount]=50&line_items[0][price_data][product_data][name]=x"
)


def once(action: str, **fields: Any) -> Json:
    """A fault that strikes one creation of a session."""
    return {"action": action, "method": "POST", "path": "/v1/checkout/session[s]", "times": 1, **fields}


def payable(stripe: StripeStandin) -> list[Json]:
    """The sessions that can be paid at Stripe."""
    return [session for session in stripe.sessions if session["status"] == "open"]


async def ask(shop: Shop, cart: str, status: int, code: str) -> Json:
    """A checkout that is refused; the problem, and its Retry-After as `retry_after`."""
    answer = await shop.http.post(f"/carts/{cart}/checkout")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return {**answer.json(), "retry_after": int(answer.headers.get("retry-after", 0))}


async def orders_of(shop: Shop) -> list[Json]:
    """All orders, newest first."""
    return list((await shop.call("GET", "/orders", 200))["items"])


async def unanswered(shop: Shop, stripe: StripeStandin, fault: Json) -> tuple[str, str, int]:
    """A checkout of two of three units that Stripe did not answer; its cart, order and product."""
    tent = await shop.product(stock=3)
    cart = await shop.cart((tent["id"], 2))
    stripe.set_faults([fault])
    refuses_the_key = fault.get("status") in (401, 403)
    problem = await ask(shop, cart, 503, "payment_misconfigured" if refuses_the_key else "payment_unavailable")
    assert problem["retry_after"] > 0
    (order,) = await orders_of(shop)
    assert (order["status"], order["payment_status"]) == ("PENDING_PAYMENT", "INITIATED")
    assert await shop.stock(tent["id"]) == 1
    return cart, order["id"], tent["id"]


# What it answers


async def test_the_answer_is_the_order_and_where_to_pay(shop: Shop, stripe: StripeStandin) -> None:
    tent, mug = await shop.product(stock=3), await shop.product(name="Mug", price_minor=990)
    cart = await shop.cart((mug["id"], 1), (tent["id"], 2))
    answer = await shop.http.post(f"/carts/{cart}/checkout")
    placed = answer.json()
    order = await shop.order(placed["order_id"])
    (session,) = stripe.sessions

    assert (answer.status_code, answer.headers["location"]) == (201, f"/orders/{order['id']}")
    assert placed == {
        "order_id": order["id"],
        "status": "PENDING_PAYMENT",
        "total_minor": 2 * 1250 + 990,
        "currency": "EUR",
        "expires_at": order["expires_at"],
        "payment": {"id": order["payment"]["id"], "status": "INITIATED", "stripe_session_id": session["id"]},
        "checkout_url": session["url"],
    }
    held = datetime.fromisoformat(order["expires_at"]) - datetime.fromisoformat(order["created_at"])
    assert held == timedelta(seconds=1800)
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "CHECKED_OUT"
    assert [await shop.stock(product["id"]) for product in (tent, mug)] == [1, 9]

    for body in (None, {}, {"expected_total_minor": 1}):
        assert await shop.checkout(cart, 200, body) == placed
    assert stripe.requests[CREATIONS] == 1


# Lines as (price, stock, quantity); the products are numbered from 1.
@pytest.mark.parametrize(
    ("lines", "expected_total", "code", "told"),
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
        ([(49, 5, 1)], None, "amount_out_of_range", {"total_minor": 49, "minimum_minor": 50}),
        (
            [(99_999_999, 5, 1), (1, 5, 1)],
            None,
            "amount_out_of_range",
            {"total_minor": 100_000_000, "maximum_minor": 99_999_999},
        ),
    ],
    ids=["empty", "short", "other total", "too little", "too much"],
)
async def test_a_refusal_says_why_and_reserves_nothing(
    shop: Shop,
    stripe: StripeStandin,
    database: asyncpg.Connection,
    lines: list[tuple[int, int, int]],
    expected_total: int | None,
    code: str,
    told: Json,
) -> None:
    ids = [(await shop.product(price_minor=price, stock=stock))["id"] for price, stock, _ in lines]
    cart = await shop.cart(*zip(ids, [quantity for _, _, quantity in lines], strict=True))

    problem = await shop.checkout(cart, 409, {"expected_total_minor": expected_total})

    assert problem["code"] == code
    assert {name: problem[name] for name in told} == told
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    assert [await shop.stock(product_id) for product_id in ids] == [stock for _, stock, _ in lines]
    assert not stripe.requests[CREATIONS]
    left = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM stock_movements WHERE order_id IS NOT NULL)"
    assert await database.fetchval(left) == 0


async def test_a_product_no_longer_for_sale_is_named(shop: Shop) -> None:
    tent, mug = await shop.product(), await shop.product()
    cart = await shop.cart((tent["id"], 1), (mug["id"], 1))
    await shop.call("DELETE", f"/products/{mug['id']}", 204)
    problem = await shop.checkout(cart, 409)
    assert (problem["code"], problem["product_ids"]) == ("product_inactive", [mug["id"]])
    assert await shop.stock(tent["id"]) == 10


@pytest.mark.parametrize("total", [50, 99_999_999])
async def test_the_bounds_of_a_total_can_be_charged(shop: Shop, total: int) -> None:
    tent = await shop.product(price_minor=total)
    placed = await shop.checkout(await shop.cart((tent["id"], 1)), 201, {"expected_total_minor": total})
    assert placed["total_minor"] == total


async def test_an_unknown_cart_is_not_found(shop: Shop) -> None:
    assert (await shop.checkout("00000000-0000-4000-8000-000000000000", 404))["code"] == "not_found"


async def test_a_paid_cart_is_closed_and_names_its_order(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    tent = await shop.product()
    cart = await shop.cart((tent["id"], 1))
    order_id = (await shop.checkout(cart))["order_id"]
    stripe.pay(payable(stripe)[0]["id"])
    await shop.until(order_id, "PAID")
    assert (await ask(shop, cart, 409, "cart_not_open"))["order_id"] == order_id
    await fulfilment.fulfil(resources, UUID(order_id))
    assert (await ask(shop, cart, 409, "cart_not_open"))["order_id"] == order_id


async def test_after_a_cancel_the_same_cart_makes_a_new_order(shop: Shop, stripe: StripeStandin) -> None:
    tent = await shop.product(stock=1)
    cart = await shop.cart((tent["id"], 1))
    first = await shop.checkout(cart)
    await shop.call("POST", f"/orders/{first['order_id']}/cancel", 200)
    second = await shop.checkout(cart)
    assert second["order_id"] != first["order_id"]
    assert [session["id"] for session in payable(stripe)] == [second["payment"]["stripe_session_id"]]


@pytest.mark.parametrize("becomes", ["CANCELLED", "PAID"])
async def test_an_order_that_ends_while_its_checkout_is_asked_again(
    shop: Shop, database: asyncpg.Connection, becomes: str
) -> None:
    tent = await shop.product(stock=1)
    cart = await shop.cart((tent["id"], 1))
    first = await shop.checkout(cart)
    async with database.transaction():
        # Asking again finds the order, and has yet to look at its payment.
        await database.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        asking = asyncio.create_task(shop.http.post(f"/carts/{cart}/checkout"))
        await waiting(database)
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
    answer = (await asking).json()
    if becomes == "CANCELLED":
        assert answer["status"] == "PENDING_PAYMENT"
        assert answer["order_id"] != first["order_id"]
    else:
        assert (answer["code"], answer["order_id"]) == ("cart_not_open", first["order_id"])


# What Stripe is sent


@pytest.mark.parametrize(
    ("changed_settings", "lives", "success_url"),
    [
        ({"HOLD_SECONDS": "60"}, 2100, "http://localhost:8080/payments/success?"),
        ({"HOLD_SECONDS": "1800", "STRIPE_SUCCESS_URL": "https://shop.test/?a=b"}, 2100, "https://shop.test/?a=b&"),
        ({"HOLD_SECONDS": "3600"}, 3900, "http://localhost:8080/payments/success?"),
    ],
)
async def test_what_stripe_is_sent(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, lives: int, success_url: str
) -> None:
    tent, mug = await shop.product(stock=3), await shop.product(name="Mug", price_minor=990, currency="EUR")
    order_id = (await shop.placed((tent["id"], 2), (mug["id"], 1)))["order_id"]
    (session,) = stripe.sessions
    placed_at = await database.fetchval("SELECT created_at FROM orders")

    assert session["metadata"] == session["_intent_metadata"] == {"order_id": order_id}
    assert (session["mode"], session["client_reference_id"]) == ("payment", order_id)
    assert session["success_url"] == f"{success_url}session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}"
    assert session["cancel_url"].endswith(f"/payments/cancel?session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}")
    assert session["expires_at"] == int(placed_at.timestamp()) + lives
    assert (session["amount_total"], session["currency"]) == (3490, "eur")
    sent = [(line["name"], line["unit_amount"], line["quantity"]) for line in session["_lines"]]
    assert sent == [("Tent", 1250, 2), ("Mug", 990, 1)]


@pytest.mark.parametrize("changed_settings", [{"HOLD_SECONDS": "86100"}])
async def test_the_longest_hold_is_not_too_long_for_stripe(shop: Shop) -> None:
    tent = await shop.product()
    # Stripe counts whole seconds: an expires_at rounded up would be refused in every other second's half.
    for _ in range(8):
        await shop.placed((tent["id"], 1))


# Stripe says no


@pytest.mark.parametrize("status", [400, 402, 404])
@pytest.mark.parametrize("before", [None, once("drop")], ids=["at once", "asked again"])
async def test_a_refused_session_ends_the_order_at_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, status: int, before: Json | None
) -> None:
    if before:
        cart, _, tent = await unanswered(shop, stripe, before)
    else:
        tent = (await shop.product(stock=3))["id"]
        cart = await shop.cart((tent, 2))
    stripe.set_faults([once("status", status=status)])

    await ask(shop, cart, 502, "payment_refused")

    (order,) = await orders_of(shop)
    assert (order["status"], order["payment_status"]) == ("CANCELLED", "FAILED")
    assert await shop.stock(tent) == 3
    assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    await balance(resources, stripe)
    assert (await shop.checkout(cart))["order_id"] != order["id"]


# Stripe does not tell


@pytest.mark.parametrize(
    "fault",
    [
        *(once("status", status=status) for status in (401, 403, 409, 429, 500, 503)),
        once("drop"),
        once("drop_after"),
        once("malformed"),
        once("status_after", status=500),
        once("status", status=500, stored=True),
    ],
    ids=lambda fault: " ".join(str(fault[name]) for name in ("action", "status", "stored") if name in fault),
)
async def test_what_stripe_leaves_open_is_taken_up_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, fault: Json
) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, fault)

    placed = await shop.checkout(cart, 200)

    assert (placed["order_id"], placed["status"]) == (order_id, "PENDING_PAYMENT")
    (session,) = payable(stripe)
    assert (placed["payment"]["stripe_session_id"], placed["checkout_url"]) == (session["id"], session["url"])
    assert await shop.checkout(cart, 200) == placed
    assert await shop.stock(tent) == 1
    await balance(resources, stripe)


async def test_a_session_is_found_behind_a_page_of_newer_ones(shop: Shop, stripe: StripeStandin) -> None:
    cart, _, _ = await unanswered(shop, stripe, once("status_after", status=500))
    (session,) = payable(stripe)
    for _ in range(101):
        other = Parameters(form_values(f"{OTHER_SESSION}&metadata[order_id]={uuid4()}"))
        stripe.create_session(other, "http://x.test")
    assert (await shop.checkout(cart, 200))["payment"]["stripe_session_id"] == session["id"]


async def test_a_key_used_for_something_else_is_no_refusal(shop: Shop, stripe: StripeStandin) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, once("drop"))
    async with httpx.AsyncClient(base_url=stripe.api_base) as other:  # type: ignore[attr-defined]
        headers = {
            "Authorization": "Bearer sk_test_other",
            "Content-Type": "application/x-www-form-urlencoded",
            "Idempotency-Key": f"checkout:{order_id}:1",
        }
        assert (await other.post("/v1/checkout/sessions", headers=headers, content=OTHER_SESSION)).status_code == 200
    await ask(shop, cart, 503, "payment_unavailable")
    assert (await shop.order(order_id))["status"] == "PENDING_PAYMENT"
    assert await shop.stock(tent) == 1


@pytest.mark.parametrize("changed_settings", [{"STRIPE_TIMEOUT_SECONDS": "3", "DB_POOL_SIZE": "1"}])
async def test_while_stripe_is_silent_nothing_else_waits(shop: Shop, stripe: StripeStandin) -> None:
    tent = await shop.product(stock=3)
    cart = await shop.cart((tent["id"], 2))
    stripe.set_faults([once("hang")])
    silent = asyncio.create_task(shop.http.post(f"/carts/{cart}/checkout"))

    async def asked() -> int:
        return stripe.requests[CREATIONS]

    await eventually(asked)
    # One claims the session, so whoever comes now is told to come again.
    assert (await ask(shop, cart, 409, "checkout_in_progress"))["retry_after"] > 0
    (order,) = await orders_of(shop)
    assert (await shop.call("POST", f"/orders/{order['id']}/cancel", 409))["code"] == "checkout_in_progress"
    # The only connection there is serves everybody else.
    assert await shop.stock(tent["id"]) == 1
    await shop.placed((tent["id"], 1))
    assert not silent.done()

    answer = await silent
    assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable")
    assert (await shop.checkout(cart, 200))["order_id"] == order["id"]
    assert len(payable(stripe)) == 2


# Resuming


@pytest.mark.parametrize("heard", [True, False], ids=["webhook came", "webhook lost"])
async def test_a_session_paid_before_it_was_attached(
    shop: Shop, stripe: StripeStandin, resources: Resources, heard: bool
) -> None:
    cart, order_id, _ = await unanswered(shop, stripe, once("drop_after"))
    (session,) = payable(stripe)
    if not heard:
        stripe.webhook_url = None
    stripe.pay(session["id"])
    if heard:
        await shop.until(order_id, "PAID")
    assert (await ask(shop, cart, 409, "cart_not_open"))["order_id"] == order_id
    order = await shop.until(order_id, "PAID", "SUCCEEDED")
    assert order["payment"]["stripe_session_id"] == session["id"]
    await balance(resources, stripe)


async def test_a_replayed_session_counts_as_it_is_now(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, once("drop_after"))
    (session,) = payable(stripe)
    stripe.webhook_url = None
    stripe.expire_session(session["id"])
    assert (await ask(shop, cart, 409, "checkout_in_progress"))["retry_after"] > 0
    assert (await shop.order(order_id))["status"] == "CANCELLED"
    assert await shop.stock(tent) == 3
    assert (await shop.checkout(cart))["order_id"] != order_id
    await balance(resources, stripe)


async def test_a_session_whose_payment_is_on_its_way(shop: Shop, stripe: StripeStandin) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, once("drop_after"))
    stripe.webhook_url = None
    stripe.pay(payable(stripe)[0]["id"], later=True)
    placed = await shop.checkout(cart, 200)
    assert (placed["order_id"], placed["payment"]["status"]) == (order_id, "PROCESSING")
    assert placed["checkout_url"] is None
    assert await shop.stock(tent) == 1


@pytest.mark.parametrize("then", ["checkout", "cancel"])
async def test_a_replay_refused_for_its_time_proves_that_there_is_no_session(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, resources: Resources, then: str
) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, once("drop"))
    await database.execute(
        "UPDATE payments SET session_parameters ="
        " session_parameters || jsonb_build_object('expires_at', (session_parameters->>'expires_at')::bigint - 600)"
    )
    if then == "cancel":
        assert (await shop.call("POST", f"/orders/{order_id}/cancel", 200))["status"] == "CANCELLED"
        assert payable(stripe) == []
        assert await shop.stock(tent) == 3
    else:
        placed = await shop.checkout(cart, 200)
        (session,) = stripe.sessions
        assert (placed["order_id"], placed["checkout_url"]) == (order_id, session["url"])
        attempt, ends = await database.fetchrow(
            "SELECT attempt, session_expires_at FROM payments WHERE stripe_session_id = $1", session["id"]
        )
        assert (attempt, int(ends.timestamp())) == (2, session["expires_at"])
        assert await shop.checkout(cart, 200) == placed
    await balance(resources, stripe)


# The claim


async def test_a_dead_claimers_claim_ends_by_itself(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    cart, order_id, _ = await unanswered(shop, stripe, once("drop"))
    await database.execute("UPDATE payments SET claimed_until = now() + interval '1 second' * 45")
    assert (await ask(shop, cart, 409, "checkout_in_progress"))["retry_after"] > 0
    await database.execute("UPDATE payments SET claimed_until = claimed_until - interval '1 second' * 45")
    assert (await shop.checkout(cart, 200))["order_id"] == order_id
    assert len(payable(stripe)) == 1


async def test_an_order_cancelled_while_its_session_is_created_leaves_none(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, resources: Resources
) -> None:
    cart, order_id, tent = await unanswered(shop, stripe, once("drop"))
    async with database.transaction():
        await database.execute("SELECT FROM orders WHERE id = $1 FOR NO KEY UPDATE", UUID(order_id))
        asking = asyncio.create_task(ask(shop, cart, 409, "checkout_in_progress"))
        await waiting(database)
        # The session is there and about to be attached; meanwhile nobody else creates one.
        assert len(payable(stripe)) == 1
        await ask(shop, cart, 409, "checkout_in_progress")
        order = await transitions.lock(database, UUID(order_id))
        await transitions.cancel(database, transitions.AfterCommit(), [order], payment_status="EXPIRED")
    assert (await asking)["retry_after"] > 0
    assert payable(stripe) == []
    assert (await shop.order(order_id))["payment"]["stripe_session_id"] is None
    assert await shop.stock(tent) == 3
    assert (await shop.checkout(cart))["order_id"] != order_id
    await balance(resources, stripe)


async def test_a_cancel_that_stripe_did_not_answer_leaves_no_claim(shop: Shop, stripe: StripeStandin) -> None:
    _, order_id, tent = await unanswered(shop, stripe, once("drop_after"))
    stripe.set_faults([{"action": "drop", "path": "/v1/checkout/sessions/*/expire", "times": 1}])
    problem = await shop.call("POST", f"/orders/{order_id}/cancel", 503)
    assert problem["code"] == "payment_unavailable"
    assert (await shop.call("POST", f"/orders/{order_id}/cancel", 200))["status"] == "CANCELLED"
    assert payable(stripe) == []
    assert await shop.stock(tent) == 3


# Another request is further on


async def test_what_was_concluded_of_an_older_attempt_ends_nothing(
    shop: Shop, stripe: StripeStandin, api_parts: Resources, database: asyncpg.Connection
) -> None:
    """A cancel and a refused creation, each late: by then the cart has a newer session, which can be paid."""
    cart, order_id, _ = await unanswered(shop, stripe, once("drop"))
    await database.execute("UPDATE payments SET session_parameters = session_parameters || '{\"expires_at\": 1}'")
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
        cancelling = asyncio.create_task(shop.call("POST", f"/orders/{order_id}/cancel", 409))
        await waiting(database, 1)
        async with api_parts.pool.acquire() as other:
            await other.execute("UPDATE payments SET claimed_until = now()")
        placed = await shop.checkout(cart, 200)
    assert (await cancelling)["code"] == "checkout_in_progress"
    await checkout.cancel_refused(api_parts, UUID(order_id), attempt=1)
    assert (await shop.order(order_id))["status"] == "PENDING_PAYMENT"
    assert [session["id"] for session in payable(stripe)] == [placed["payment"]["stripe_session_id"]]
    await balance(api_parts, stripe)


async def test_a_refusal_of_an_attempt_that_has_its_session_ends_nothing(shop: Shop, api_parts: Resources) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    await checkout.cancel_refused(api_parts, UUID(placed["order_id"]), attempt=1)
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"


async def test_a_failure_that_is_not_replayed_proves_nothing(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    cart, order_id, _ = await unanswered(shop, stripe, once("status", status=500))
    stripe.set_faults([once("status", status=500)])
    await ask(shop, cart, 503, "payment_unavailable")
    assert await database.fetchval("SELECT attempt FROM payments") == 1
    assert (await shop.checkout(cart, 200))["order_id"] == order_id


async def test_a_late_refusal_does_not_end_the_attempt_that_is_being_created(
    shop: Shop, stripe: StripeStandin, api_parts: Resources, database: asyncpg.Connection
) -> None:
    _, order_id, _ = await unanswered(shop, stripe, once("drop"))
    claim = await payment_session.claim_session(api_parts, UUID(order_id))
    assert claim is not None
    assert await payment_session.next_attempt(api_parts, UUID(order_id), claim)
    await checkout.cancel_refused(api_parts, UUID(order_id), attempt=claim.attempt)
    assert (await shop.order(order_id))["status"] == "PENDING_PAYMENT"
    await checkout.cancel_refused(api_parts, UUID(order_id), attempt=claim.attempt + 1)
    assert (await shop.order(order_id))["status"] == "CANCELLED"
