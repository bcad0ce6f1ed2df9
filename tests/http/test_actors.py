"""Histories and the audit log name the person or the key that did it, by the credential of the call."""

from contextlib import aclosing
from uuid import UUID

import asyncpg
import pytest

from service.infra.db import Pool
from service.settings import Settings
from service.shop import access, erasure
from tests.client import Shop
from tests.conftest import login
from tests.provider import AUDIENCE, Provider, bearer

TENT = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}
HISTORIES = """
SELECT reason, actor FROM stock_movements
UNION ALL
SELECT to_status, actor FROM order_events
"""


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE}


async def test_each_row_names_the_person_or_the_key(
    shop: Shop, provider: Provider, settings: Settings, database_url: str, database: asyncpg.Connection
) -> None:
    """Berta of the staff makes a product, another system fills its stock, Anna orders, and is erased at the end."""
    urls = {
        role: settings.model_copy(update={"database_url": login(database_url, role)}) for role in ("owner", "eraser")
    }
    async with aclosing(Pool(urls["owner"], "tests")) as pool:
        key = await access.add_key(pool, name="erp", scopes=["stock:write"], days=1, created_by="tests")
    berta, anna, erp = bearer(provider.token("berta", "catalogue")), bearer(provider.token("anna")), bearer(key)

    product = (await shop.call("POST", "/products", 201, TENT, **berta))["id"]
    await shop.call("PATCH", f"/products/{product}", 200, {"price_minor": 1300}, **berta)
    await shop.call("POST", f"/products/{product}/stock", 200, {"delta": 5, "reason": "delivery"}, **erp)
    cart = (await shop.call("POST", "/carts", 201, **anna))["id"]
    await shop.call("POST", f"/carts/{cart}/items", 200, {"product_id": product, "quantity": 1}, **anna)
    order_id = (await shop.call("POST", f"/carts/{cart}/checkout", 201, **anna))["order_id"]
    await shop.call("POST", f"/orders/{order_id}/cancel", 200, **anna)

    assert sorted(map(tuple, await database.fetch(HISTORIES))) == [
        ("CANCELLED", "user:anna"),
        ("PENDING_PAYMENT", "user:anna"),
        ("delivery", "key:erp"),
        ("hold", "user:anna"),
        ("initial stock", "user:berta"),
        ("release", "user:anna"),
    ]
    # A customer is not in the audit log.
    admin = bearer(provider.token("cleo", "admin"))
    logged = [(item["actor"], item["action"]) for item in (await shop.call("GET", "/audit", 200, **admin))["items"]]
    assert logged[:3] == [
        ("key:erp", "move_stock"),
        ("user:berta", "update_product"),
        ("user:berta", "create_product"),
    ]
    refused = await shop.call("GET", "/audit", 403, **berta)
    assert (refused["code"], refused["required_scope"]) == ("forbidden", "audit:read")

    async with aclosing(Pool(urls["eraser"], "tests")) as pool:
        await erasure.erase(pool, UUID(order_id))
    assert {actor for _, actor in await database.fetch(HISTORIES)} == {
        "user:erased",
        "user:berta",
        "key:erp",
        "command:erase",
    }
