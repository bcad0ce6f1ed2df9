"""A connection cut in COMMIT: what the client is told is true, and asking again with the same key has one effect."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.settings import Settings
from service.shop import sweep
from tests.books import balance, deliver, emitted
from tests.client import Shop, eventually
from tests.faults.proxy import Proxy, When, statements

pytestmark = pytest.mark.parametrize("when", ["before", "after"])


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """Between the service and PostgreSQL."""
    async with Proxy(urlsplit(database_url).port or 5432, statements) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, proxy: Proxy) -> Settings:
    at = urlsplit(settings.database_url)
    address = at._replace(netloc=f"{at.username}:{at.password}@127.0.0.1:{proxy.port}")
    return settings.model_copy(update={"database_url": address.geturl()})


async def asked(shop: Shop, path: str, body: Any, key: str | None) -> httpx.Response:
    """The answer to a POST, but not that its first run, which nobody waits for any more, has not ended."""

    async def ended() -> httpx.Response | None:
        answer = await shop.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
        return None if answer.status_code == 409 else answer

    return await eventually(ended)


@pytest.mark.parametrize("key", ["a key", None])
async def test_a_post_is_looked_up_by_its_key_and_else_said_to_be_unknown(
    shop: Shop,
    stripe: StripeStandin,
    proxy: Proxy,
    resources: Resources,
    database: asyncpg.Connection,
    key: str | None,
    when: When,
) -> None:
    tent = (await shop.product())["id"]
    order = await shop.placed((tent, 1))
    stripe.pay(order["payment"]["stripe_session_id"])
    await shop.until(order["order_id"], "PAID")
    mug = {"name": "Mug", "price_minor": 100, "currency": "EUR", "stock": 1}
    for path, body, effects in (
        (
            f"/carts/{await shop.cart()}/items",
            {"product_id": tent, "quantity": 1},
            "SELECT coalesce(sum(quantity), 0) - 1 FROM cart_items",  # one is the order's
        ),
        (
            f"/products/{tent}/stock",
            {"delta": 1, "reason": "found"},
            "SELECT count(*) FROM stock_movements WHERE reason = 'found'",
        ),
        ("/products", mug, "SELECT count(*) FROM products WHERE name = 'Mug'"),
        (f"/orders/{order['order_id']}/refund", {"amount_minor": 100}, "SELECT count(*) FROM refunds"),
    ):
        trap = proxy.set("COMMIT", when)
        answer = await asked(shop, path, body, key)
        assert trap.sprung.is_set()
        if key:
            assert answer.status_code in (200, 201), answer.text
            again = await asked(shop, path, body, key)
            assert (again.content, again.headers["idempotent-replayed"]) == (answer.content, "true")
            assert await database.fetchval(effects) == 1, path
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "look whether it was" in answer.json()["detail"]
            assert await database.fetchval(effects) == (when == "after"), path
    await sweep.sweep(resources)
    await balance(resources, stripe)


@pytest.mark.parametrize("key", ["a key", None])
async def test_a_checkout_is_looked_up_by_its_order(
    shop: Shop,
    stripe: StripeStandin,
    proxy: Proxy,
    resources: Resources,
    database: asyncpg.Connection,
    key: str | None,
    when: When,
) -> None:
    tent = (await shop.product())["id"]
    # Without a key attaching is one statement, and no COMMIT.
    attach = ("COMMIT", 2) if key else ("payment_session/attach_session", 1)
    for point, nth in (("COMMIT", 1), attach):
        path = f"/carts/{await shop.cart((tent, 1))}/checkout"
        trap = proxy.set(point, when, nth)
        placed = await asked(shop, path, None, key)
        assert trap.sprung.is_set()
        assert placed.status_code in (200, 201), placed.text
        again = await asked(shop, path, None, key)
        assert again.json() == placed.json()
        assert list(stripe.sessions)[-1]["url"] == placed.json()["checkout_url"]
    assert await database.fetchval("SELECT count(*) FROM orders") == len(list(stripe.sessions)) == 2
    await balance(resources, stripe)


async def test_a_payment_is_looked_up_by_its_event(
    shop: Shop, stripe: StripeStandin, proxy: Proxy, resources: Resources, when: When
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    stripe.set_webhooks(drop=True)
    stripe.pay(placed["payment"]["stripe_session_id"])
    event = emitted(stripe, "checkout.session.completed")
    trap = proxy.set("COMMIT", when)
    assert await deliver(shop, event) == ("applied" if when == "before" else "duplicate")
    assert trap.sprung.is_set()
    assert await deliver(shop, event) == "duplicate"
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"
    # What follows a commit has followed it, seen or not.
    assert await eventually(lambda: resources.redis.exists(f"arq:job:post_payment_pipeline:{placed['order_id']}"))
    await balance(resources, stripe)


async def test_what_is_cut_before_its_commit_has_not_been_and_is_done(
    shop: Shop, proxy: Proxy, database: asyncpg.Connection, when: When
) -> None:
    tent, cart = (await shop.product())["id"], await shop.cart()
    trap = proxy.set("cart/add_line", when)
    assert (await shop.add(cart, tent))["items"][0]["quantity"] == 1
    assert trap.sprung.is_set()
    assert await database.fetchval("SELECT sum(quantity) FROM cart_items") == 1
