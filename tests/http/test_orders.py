"""The search of staff for orders, as the contract has it."""

import logging
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from tests.client import Shop
from tests.stripe_events import deliver, last_event

EMAIL = "Ann.Ö@example.org"

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def search(shop: Shop, **parameters: object) -> list[int]:
    """The numbers of all orders that fit, page by page."""
    numbers: list[int] = []
    cursor: int | None = 2**63 - 1
    while cursor is not None:
        query = "&".join(f"{name}={quote(str(value))}" for name, value in {"after_id": cursor, **parameters}.items())
        page = await shop.call("GET", f"/orders?{query}", 200)
        numbers += [order["number"] for order in page["items"]]
        cursor = page["next_cursor"]
    return numbers


async def buy(shop: Shop, stripe: StripeStandin, reference: str | None = None) -> dict[str, Any]:
    """A paid order, as the staff's list shows it."""
    cart = (await shop.call("POST", "/carts", 201, {"reference": reference}))["id"]
    await shop.add_item(cart, (await shop.create_product())["id"])
    placed = await shop.check_out(cart)
    stripe.pay(placed["payment"]["stripe_session_id"], email=EMAIL)
    assert await deliver(shop, last_event(stripe, "checkout.session.completed")) == "applied"
    return placed


async def test_an_order_is_found_by_everything_that_names_it(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Also: what was looked for is in no log line."""
    caplog.set_level(logging.DEBUG)
    bought = await buy(shop, stripe, "web 4711/Ä")
    other = await shop.checked_out_cart()
    dispute = stripe.dispute(stripe.session(bought["payment"]["stripe_session_id"])["payment_intent"])
    await deliver(shop, last_event(stripe, "charge.dispute.created"))
    await database.execute(
        "INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)"
        " SELECT id, id, 'pi_x', 50, 'staff', 'SUCCEEDED', 're_1' FROM orders WHERE number = $1",
        bought["number"],
    )
    await database.execute(
        "INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency)"
        " SELECT 'pi_other', id, 50, 'EUR' FROM orders WHERE number = $1",
        bought["number"],
    )
    intent = await database.fetchval("SELECT stripe_payment_intent_id FROM payments WHERE status = 'SUCCEEDED'")
    event = last_event(stripe, "checkout.session.completed")["id"]

    await database.execute(
        "INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause)"
        " SELECT gen_random_uuid(), id, 'pi_second', 50, 'late_money' FROM orders WHERE number = $1",
        bought["number"],
    )
    names = [
        *(bought["number"], f" {bought['number']} ", "web 4711/Ä", EMAIL, "ANN.O\u0308@EXAMPLE.ORG"),
        *(bought["payment"]["stripe_session_id"], intent, "pi_other", "pi_second", "re_1", dispute["id"], event),
    ]
    found = {name: await search(shop, q=name) for name in names}
    absent = [other["number"] + 1, "web 4711", "WEB 4711/Ä", "ann", "pi_", "%", "'", 10**18, 10**30, "²"]
    missing = {name: await search(shop, q=name) for name in absent}

    assert found == {name: [bought["number"]] for name in names}
    assert missing == {name: [] for name in absent}
    ours = [record for record in caplog.records if record.name.startswith("service")]
    assert ours
    assert not any(word in str(vars(record)).lower() for record in ours for word in ("example.org", "4711"))


async def test_a_search_fits_all_parameters_and_has_pages(shop: Shop, stripe: StripeStandin) -> None:
    paid = [(await buy(shop, stripe, "web-1"))["number"] for _ in range(3)]
    (cart,) = [(await shop.call("POST", "/carts", 201, {"reference": "web-1"}))["id"]]
    await shop.add_item(cart, (await shop.create_product())["id"])
    pending = (await shop.check_out(cart))["number"]

    newest_first = [pending, *reversed(paid)]
    assert await search(shop, q="web-1", limit=1) == newest_first
    assert await search(shop, q="web-1", status="PAID", limit=2) == newest_first[1:]
    assert await search(shop, q="web-1", payment_status="INITIATED") == [pending]
    assert await search(shop, q=EMAIL, status="PENDING_PAYMENT") == []
    assert await search(shop, q=EMAIL, status="PAID", payment_status="SUCCEEDED", limit=1) == newest_first[1:]


@pytest.mark.parametrize("text", ["web", EMAIL])
async def test_a_search_for_what_most_orders_have_reads_10_000_a_page(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, text: str
) -> None:
    oldest = await buy(shop, stripe, "web")
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "INSERT INTO orders (id, cart_id, total_minor, currency, expires_at, status, cancelled_at, reference, email,"
        " email_digest)"
        " SELECT gen_random_uuid(), cart_id, 1250, 'EUR', now(), 'CANCELLED', now(), reference, email,"
        " email_digest"
        " FROM orders, generate_series(1, 10000)"
    )
    newest = await buy(shop, stripe, "web")

    query = f"/orders?status=PAID&payment_status=SUCCEEDED&q={quote(text)}"
    first = await shop.call("GET", query, 200)
    second = await shop.call("GET", f"{query}&after_id={first['next_cursor']}", 200)

    assert [order["number"] for order in first["items"]] == [newest["number"]]
    assert [order["number"] for order in second["items"]] == [oldest["number"]]
    assert second["next_cursor"] is None
    assert await search(shop, q=newest["number"], status="PAID") == [newest["number"]]


async def test_orders_are_listed_by_the_status_of_their_payment(shop: Shop, stripe: StripeStandin) -> None:
    paid = [(await buy(shop, stripe))["number"] for _ in range(2)]
    cancelled, pending = [], []
    for number in range(5):
        placed = await shop.checked_out_cart()
        if number % 2:
            pending.append(placed["number"])
        else:
            cancelled.append(placed["number"])
            await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)

    expected = {"SUCCEEDED": paid, "EXPIRED": cancelled, "INITIATED": pending, "REFUNDED": [], "PROCESSING": []}
    for payment_status, numbers in expected.items():
        for limit in (1, 2, 20):
            assert await search(shop, payment_status=payment_status, limit=limit) == numbers[::-1], payment_status
    assert await search(shop, payment_status="EXPIRED", status="CANCELLED", limit=2) == cancelled[::-1]
    assert await search(shop, payment_status="EXPIRED", status="PAID") == []
    assert await search(shop, payment_status="SUCCEEDED", status="PAID", limit=1) == paid[::-1]
    assert await search(shop, payment_status="SUCCEEDED", status="CANCELLED") == []
    assert await search(shop, payment_status="INITIATED", status="PAID") == []


@pytest.mark.parametrize(
    ("others", "wanted", "query"),
    [
        ("PENDING_PAYMENT INITIATED", "PENDING_PAYMENT PROCESSING", "status=PENDING_PAYMENT&payment_status=SUCCEEDED"),
        ("PENDING_PAYMENT INITIATED", "PENDING_PAYMENT SUCCEEDED", "payment_status=SUCCEEDED"),
        ("CANCELLED EXPIRED", "PENDING_PAYMENT EXPIRED", "status=PENDING_PAYMENT&payment_status=EXPIRED"),
    ],
)
async def test_a_page_reads_so_many_orders_and_the_next_goes_on(
    shop: Shop, database: asyncpg.Connection, others: str, wanted: str, query: str
) -> None:
    """The one order that fits is older than 20,000 others: three pages, of which two are empty."""
    await database.execute("SET session_replication_role = replica")
    for numbers, statuses in ((range(1, 2), wanted), (range(2, 20_002), others)):
        status, payment_status = statuses.split()
        await database.execute(
            "INSERT INTO orders (id, number, cart_id, status, total_minor, currency, expires_at, next_attempt_at,"
            " cancelled_at) OVERRIDING SYSTEM VALUE SELECT md5(n::text)::uuid, n, md5(n::text)::uuid, $2::text, 2500,"
            " 'EUR', now(), CASE WHEN $2::text <> 'CANCELLED' THEN now() + interval '1 day' END,"
            " CASE WHEN $2::text = 'CANCELLED' THEN now() END FROM unnest($1::bigint[]) AS n",
            [*numbers],
            status,
        )
        await database.execute(
            "INSERT INTO payments (id, order_id, order_number, status, amount_minor, currency, session_parameters,"
            " session_expires_at, stripe_session_id, stripe_payment_intent_id)"
            " SELECT id, id, number, $2, 2500, 'EUR', '{}', now(), 'cs_' || id, 'pi_' || id FROM orders"
            " WHERE number = ANY($1::bigint[])",
            [*numbers],
            query.rpartition("=")[2] if numbers[0] == 1 else payment_status,
        )

    first = await shop.call("GET", f"/orders?{query}", 200)
    second = await shop.call("GET", f"/orders?{query}&after_id={first['next_cursor']}", 200)
    third = await shop.call("GET", f"/orders?{query}&after_id={second['next_cursor']}", 200)

    assert (first["items"], second["items"]) == ([], [])
    assert ([order["number"] for order in third["items"]], third["next_cursor"]) == ([1], None)
