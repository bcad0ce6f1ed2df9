"""Whose cart and order it is, over HTTP: everybody else gets 404 and changes nothing, on every route."""

from typing import Any

import asyncpg
import pytest

from service.http.policy import POLICY
from service.infra.db import Pool
from service.settings import Settings
from service.shop import access
from tests.client import ADMIN_TOKEN, Shop
from tests.conftest import login
from tests.database import checksum_tables
from tests.provider import AUDIENCE, Provider, bearer

# Every call about one cart or one order.
CALLS = [call for call in POLICY if "{cart_id}" in call or "{order_id}" in call]
BODIES: dict[str, dict[str, Any]] = {
    "POST /carts/{cart_id}/items": {"product_id": 1, "quantity": 1},
    "PUT /carts/{cart_id}/items/{product_id}": {"quantity": 2},
}
ITEMS = "POST /carts/{cart_id}/items"
KEY = {"Idempotency-Key": "the owner's"}


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE, "ADMIN_TOKEN": ADMIN_TOKEN}


@pytest.fixture
async def key(settings: Settings, database_url: str) -> str:
    """A service key without a right to carts or orders."""
    pool = Pool(settings.model_copy(update={"database_url": login(database_url, "owner")}), "tests")
    text = await access.add_key(pool, name="graphs", scopes=["metrics:read"], days=1, created_by="tests")
    await pool.aclose()
    return text


async def make_rows(shop: Shop, **owner: str) -> list[dict[str, str]]:
    """Ids of an open cart with a line, and of a checked-out one with its pending order, of the owner or of nobody."""
    product = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}
    tent = (await shop.call("POST", "/products", 201, product, **bearer(ADMIN_TOKEN)))["id"]
    rows = []
    for _ in range(2):
        cart = (await shop.call("POST", "/carts", 201, **owner))["id"]
        await shop.call("POST", f"/carts/{cart}/items", 200, {"product_id": tent, "quantity": 1}, **owner)
        rows.append({"cart_id": cart, "product_id": str(tent)})
    order = await shop.call("POST", f"/carts/{rows[1]['cart_id']}/checkout", 201, **owner)
    rows[1]["order_id"] = order["order_id"]
    # An order's calls have one order to be about.
    rows[0]["order_id"] = order["order_id"]
    return rows


async def send(shop: Shop, call: str, ids: dict[str, str], **headers: str) -> tuple[int, Any]:
    """The status of a call and the code of its problem."""
    method, path = call.format(**ids).split(" ")
    answer = await shop.http.request(method, path, json=BODIES.get(call), headers=headers)
    return answer.status_code, answer.json().get("code")


@pytest.mark.parametrize("call", CALLS)
async def test_a_stranger_gets_404_and_changes_nothing(
    shop: Shop, provider: Provider, database: asyncpg.Connection, key: str, call: str
) -> None:
    """Another user, a guest and a key, with and without the key of a request that the owner has sent."""
    owner = bearer(provider.token("owner"))
    rows = await make_rows(shop, **owner)
    if call == ITEMS:
        assert (await send(shop, call, rows[0], **owner, **KEY))[0] == 200
    strangers = {
        "user": bearer(provider.token("stranger")),
        "staff of another kind": bearer(provider.token("staff", "catalogue")),
        "guest": {},
        "key": bearer(key),
        "expired": bearer(provider.token("owner", iat=1, exp=100)),
    }
    expected: dict[str, tuple[int, str]] = dict.fromkeys(strangers, (404, "not_found"))
    expected["expired"] = (401, "invalid_token")
    if "claim" in call:
        expected |= {"guest": (401, "unauthorized"), "key": (403, "forbidden")}
    elif "refund" in call:
        expected |= dict.fromkeys(("user", "staff of another kind", "key"), (403, "forbidden"))
        expected["guest"] = (401, "unauthorized")
    before = await checksum_tables(database)

    for ids in rows:
        for name, stranger in strangers.items():
            for more in ({}, KEY):
                assert await send(shop, call, ids, **stranger, **more) == expected[name], (name, ids)

    assert await checksum_tables(database) == before


async def test_the_ledger_names_orders_and_customers_to_those_who_may_read_orders(
    shop: Shop, provider: Provider
) -> None:
    """A guest's order is everybody's who has its id."""
    orders = [(await make_rows(shop, **owner))[1] for owner in ({}, bearer(provider.token("owner")))]
    seen = {}
    for role in ("catalogue", "viewer"):
        ledgers = [f"/products/{ids['product_id']}/stock" for ids in orders]
        staff = bearer(provider.token("staff", role))
        pages = [await shop.call("GET", path, 200, **staff) for path in ledgers]
        seen[role] = [[(row["delta"], row["actor"], row["order_id"]) for row in page["items"]] for page in pages]

    added = (10, "admin", None)
    assert seen["catalogue"] == [[(-1, None, None), added]] * 2
    ids = [order["order_id"] for order in orders]
    assert seen["viewer"] == [[(-1, "customer", ids[0]), added], [(-1, "user:owner", ids[1]), added]]


@pytest.mark.parametrize("owned", [True, False], ids=["owner", "nobody's"])
async def test_the_owner_may_do_all_and_so_may_a_guest_with_what_nobody_owns(
    shop: Shop, provider: Provider, owned: bool
) -> None:
    owner = bearer(provider.token("owner")) if owned else {}
    open_cart, closed_cart = await make_rows(shop, **owner)

    for call in CALLS:
        if "refund" in call or "claim" in call:
            continue
        # A line of the open cart has been removed when a checkout comes: it resumes the other's.
        ids = closed_cart if "order" in call or "checkout" in call else open_cart
        assert (await send(shop, call, ids, **owner))[0] in (200, 201), call


async def test_staff_read_what_others_own_and_only_cancel_it(
    shop: Shop, provider: Provider, database: asyncpg.Connection
) -> None:
    rows = await make_rows(shop, **bearer(provider.token("owner")))
    viewer, support = (bearer(provider.token(f"staff-{role}", role)) for role in ("viewer", "support"))
    before = await checksum_tables(database)

    for ids in rows:
        for call in CALLS:
            if "refund" not in call:
                expected = 200 if call.startswith("GET") else 404
                assert (await send(shop, call, ids, **viewer))[0] == expected, call
    assert await checksum_tables(database) == before

    assert (await send(shop, "POST /orders/{order_id}/cancel", rows[1], **support))[0] == 200


async def test_a_user_claims_over_http_and_finds_it_in_the_lists(shop: Shop, provider: Provider) -> None:
    anna, bob = (bearer(provider.token(name)) for name in ("anna", "bob"))
    open_cart, closed_cart = await make_rows(shop)

    await shop.call("POST", f"/carts/{open_cart['cart_id']}/claim", 200, {}, **anna)
    order = await shop.call("POST", f"/orders/{closed_cart['order_id']}/claim", 200, {}, **anna)

    assert order["id"] == closed_cart["order_id"]
    for headers, expected in ((anna, [closed_cart, open_cart]), (bob, [])):
        carts = await shop.call("GET", "/me/carts", 200, **headers)
        assert [cart["id"] for cart in carts["items"]] == [ids["cart_id"] for ids in expected]
        orders = await shop.call("GET", "/me/orders", 200, **headers)
        assert [item["id"] for item in orders["items"]] == [ids["order_id"] for ids in expected[:1]]
    first = await shop.call("GET", "/me/carts?limit=1", 200, **anna)
    second = await shop.call("GET", f"/me/carts?limit=1&after_id={first['next_cursor']}", 200, **anna)
    assert [page["items"][0]["id"] for page in (first, second)] == [closed_cart["cart_id"], open_cart["cart_id"]]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("path", ["/me/carts", "/me/orders"])
@pytest.mark.parametrize("credential", ["guest", "key", "admin"])
async def test_only_users_have_their_own(shop: Shop, key: str, path: str, credential: str) -> None:
    headers = {"guest": {}, "key": bearer(key), "admin": bearer(ADMIN_TOKEN)}[credential]
    problem = await shop.call("GET", path, 401 if credential == "guest" else 403, **headers)
    assert problem["code"] == ("unauthorized" if credential == "guest" else "forbidden")
    assert "required_scope" not in problem


@pytest.mark.parametrize("call", [call for call in CALLS if "claim" in call])
async def test_a_bad_claim_changes_nothing(
    shop: Shop, provider: Provider, database: asyncpg.Connection, call: str
) -> None:
    method, path = call.format(**(await make_rows(shop))[1]).split(" ")
    headers = {**bearer(provider.token("anna")), "Content-Type": "application/json"}
    before = await checksum_tables(database)

    for body, status in ((b"{", 400), (b'{"user_id": "bob"}', 422), (b"[]", 422), (b'{"a": "\\ud800"}', 400)):
        answer = await shop.http.request(method, path, content=body, headers=headers)
        assert answer.status_code == status, (body, answer.text)
    for impossible in ("1", "0" * 36, "{cart_id}", "%00", f"{path.split('/')[2]}0"):
        wrong = f"/{path.split('/')[1]}/{impossible}/claim"
        assert (await shop.http.request(method, wrong, content=b"{}", headers=headers)).status_code == 404, impossible
    nothing = f"/{path.split('/')[1]}/00000000-0000-4000-8000-000000000000/claim"
    assert (await shop.http.request(method, nothing, content=b"{}", headers=headers)).status_code == 404

    assert await checksum_tables(database) == before


BAD_QUERIES = """
carts?after_id=1 carts?after_id= carts?limit=0 carts?limit=101 carts?status=OPEN
orders?after_id=0 orders?after_id=01%00 orders?limit=x orders?status=PAID orders?after_id=9223372036854775808
"""


@pytest.mark.parametrize("query", BAD_QUERIES.split())
async def test_a_bad_query_for_ones_own_is_refused(shop: Shop, provider: Provider, query: str) -> None:
    problem = await shop.call("GET", f"/me/{query}", 422, **bearer(provider.token("anna")))
    assert problem["code"] == "invalid"
