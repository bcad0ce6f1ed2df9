"""A connection cut in COMMIT: the client gets a true answer, and a repeated key has one effect."""

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
from tests.client import Shop, eventually
from tests.faults.proxy import Proxy, When, statements
from tests.stripe_events import deliver, last_event
from tests.stripe_ledger import assert_ledgers_agree

pytestmark = pytest.mark.parametrize("when", ["before", "after"])


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy between the service and PostgreSQL."""
    async with Proxy(urlsplit(database_url).port or 5432, statements) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, proxy: Proxy) -> Settings:
    url = urlsplit(settings.database_url)
    proxied = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}")
    return settings.model_copy(update={"database_url": proxied.geturl()})


async def post(shop: Shop, path: str, body: Any, key: str | None) -> httpx.Response:
    """The answer to a POST; it is repeated while an earlier request with its key is still running."""

    async def final_answer() -> httpx.Response | None:
        answer = await shop.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
        return None if answer.status_code == 409 else answer

    return await eventually(final_answer)


@pytest.mark.parametrize("key", ["a key", None])
async def test_a_post_with_a_key_is_found_again_and_one_without_is_reported_as_unknown(
    shop: Shop,
    stripe: StripeStandin,
    proxy: Proxy,
    resources: Resources,
    database: asyncpg.Connection,
    key: str | None,
    when: When,
) -> None:
    """Four kinds of POST are cut in COMMIT. With a key, the service finds out what happened and answers so.

    Without a key it cannot find the transaction again: it answers 503 and says that the effect is unknown.
    """
    tent = (await shop.create_product())["id"]
    order = await shop.checked_out_cart((tent, 1))
    stripe.pay(order["payment"]["stripe_session_id"])
    await shop.wait_for_order(order["order_id"], "PAID")
    mug = {"name": "Mug", "price_minor": 100, "currency": "EUR", "stock": 1}
    for path, body, effects in (
        (
            f"/carts/{await shop.create_cart()}/items",
            {"product_id": tent, "quantity": 1},
            # One item belongs to the order.
            "SELECT coalesce(sum(quantity), 0) - 1 FROM cart_items",
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

        answer = await post(shop, path, body, key)

        assert trap.sprung.is_set()
        if key:
            assert answer.status_code in (200, 201), answer.text
            replay = await post(shop, path, body, key)
            assert (replay.content, replay.headers["idempotent-replayed"]) == (answer.content, "true")
            assert await database.fetchval(effects) == 1, path
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "Check whether it was" in answer.json()["detail"]
            assert await database.fetchval(effects) == (when == "after"), path

    await sweep.sweep(resources)
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("key", ["a key", None])
async def test_a_checkout_is_found_again_by_its_order(
    shop: Shop,
    stripe: StripeStandin,
    proxy: Proxy,
    resources: Resources,
    database: asyncpg.Connection,
    key: str | None,
    when: When,
) -> None:
    tent = (await shop.create_product())["id"]
    # Without a key the session is attached by one statement, which needs no COMMIT.
    attach = ("COMMIT", 2) if key else ("payment_session/attach_session", 1)
    for point, nth in (("COMMIT", 1), attach):
        path = f"/carts/{await shop.create_cart((tent, 1))}/checkout"
        trap = proxy.set(point, when, nth)

        answer = await post(shop, path, None, key)

        assert trap.sprung.is_set()
        assert answer.status_code in (200, 201), answer.text
        assert (await post(shop, path, None, key)).json() == answer.json()
        assert list(stripe.sessions)[-1]["url"] == answer.json()["checkout_url"]

    assert await database.fetchval("SELECT count(*) FROM orders") == len(list(stripe.sessions)) == 2
    await assert_ledgers_agree(resources, stripe)


async def test_a_payment_is_found_again_by_its_event(
    shop: Shop, stripe: StripeStandin, proxy: Proxy, resources: Resources, when: When
) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.set_webhooks(drop=True)
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    event = last_event(stripe, "checkout.session.completed")
    trap = proxy.set("COMMIT", when)

    assert await deliver(shop, event) == ("applied" if when == "before" else "duplicate")
    assert trap.sprung.is_set()
    assert await deliver(shop, event) == "duplicate"
    order_id = placed_order["order_id"]
    assert (await shop.get_order(order_id))["status"] == "PAID"
    # The after-commit action ran, whether the answer to the COMMIT arrived or not.
    assert await eventually(lambda: resources.redis.exists(f"arq:job:post_payment_pipeline:{order_id}"))
    await assert_ledgers_agree(resources, stripe)


async def test_a_statement_that_was_cut_before_its_commit_is_repeated(
    shop: Shop, proxy: Proxy, database: asyncpg.Connection, when: When
) -> None:
    tent, cart = (await shop.create_product())["id"], await shop.create_cart()
    trap = proxy.set("cart/add_line", when)

    assert (await shop.add_item(cart, tent))["items"][0]["quantity"] == 1
    assert trap.sprung.is_set()
    assert await database.fetchval("SELECT sum(quantity) FROM cart_items") == 1
