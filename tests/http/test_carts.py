"""Carts and their lines, as the contract has them."""

import asyncio
from uuid import UUID, uuid4

import asyncpg

from tests.client import Shop, is_problem


async def test_a_cart_is_created_and_read(shop: Shop) -> None:
    answer = await shop.http.post("/carts")
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/carts/{made['id']}"
    empty = {"status": "OPEN", "items": [], "total_minor": 0, "currency": None}
    empty |= {"reference": None, "replaced_by": None}
    assert made == {"id": made["id"], **empty}
    assert UUID(made["id"]).version == 7
    assert await shop.call("GET", answer.headers["location"], 200) == made
    # An empty object is the same as no body.
    key = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    same = [(await shop.http.post("/carts", content=body, headers=key)).json() for body in (b"", b"{}", b" {}\n")]
    assert same == 3 * [same[0]]
    # Blanks are not JSON.
    assert is_problem(await shop.http.post("/carts", content=b" ", headers=key), 400, "malformed")
    assert same[0]["id"] != made["id"]


async def test_lines_are_added_set_and_removed(shop: Shop) -> None:
    tent, mug = await shop.create_product(), await shop.create_product(name="Mug", price_minor=990)
    cart = await shop.create_cart()
    path = f"/carts/{cart}/items"

    def expected(*lines: tuple[dict[str, object], int]) -> dict[str, object]:
        items = [
            {
                "product_id": product["id"],
                "name": product["name"],
                "quantity": quantity,
                "unit_price_minor": product["price_minor"],
                "line_total_minor": quantity * int(str(product["price_minor"])),
                "active": True,
                "available": quantity <= 10,
            }
            for product, quantity in lines
        ]
        total = sum(int(str(item["line_total_minor"])) for item in items)
        currency = "EUR" if lines else None
        whole = {"items": items, "total_minor": total, "currency": currency}
        return {"id": cart, "status": "OPEN", "reference": None, "replaced_by": None, **whole}

    assert await shop.add_item(cart, mug["id"], 2) == expected((mug, 2))
    assert await shop.add_item(cart, tent["id"], 1) == expected((tent, 1), (mug, 2))
    assert await shop.add_item(cart, mug["id"], 3) == expected((tent, 1), (mug, 5))
    assert await shop.call("PUT", f"{path}/{mug['id']}", 200, {"quantity": 1}) == expected((tent, 1), (mug, 1))
    # A cart may hold more than the stock; checkout refuses it.
    put = await shop.call("PUT", f"{path}/{tent['id']}", 200, {"quantity": 100})
    assert put == expected((tent, 100), (mug, 1))
    for _ in range(2):
        assert await shop.call("DELETE", f"{path}/{tent['id']}", 200) == expected((mug, 1))
    assert await shop.call("GET", f"/carts/{cart}", 200) == expected((mug, 1))
    assert await shop.call("DELETE", f"{path}/{mug['id']}", 200) == expected()
    assert await shop.call("PUT", f"{path}/{tent['id']}", 200, {"quantity": 1}) == expected((tent, 1))


async def test_an_open_cart_shows_the_present_catalogue(shop: Shop) -> None:
    tent = await shop.create_product(max_per_order=9_999)
    cart = await shop.create_cart((tent["id"], 9_999))
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"price_minor": 99_999_999, "name": "Palace"})
    line = (await shop.call("GET", f"/carts/{cart}", 200))["items"][0]
    assert (line["name"], line["line_total_minor"]) == ("Palace", 9_999 * 99_999_999)


async def test_a_product_must_be_for_sale(shop: Shop) -> None:
    tent = await shop.create_product()
    cart = await shop.create_cart((tent["id"], 1))
    path = f"/carts/{cart}/items/{tent['id']}"
    await shop.call("DELETE", f"/products/{tent['id']}", 204)
    for refused in (
        await shop.add_item(cart, tent["id"], expect=409),
        await shop.call("PUT", path, 409, {"quantity": 2}),
    ):
        assert (refused["code"], refused["product_id"]) == ("product_inactive", tent["id"])
    await shop.add_item(cart, tent["id"] + 1, expect=404)
    await shop.add_item(cart, 2**63 - 1, expect=404)
    await shop.call("PUT", f"/carts/{cart}/items/{tent['id'] + 1}", 404, {"quantity": 1})
    assert [line["quantity"] for line in (await shop.call("GET", f"/carts/{cart}", 200))["items"]] == [1]
    assert (await shop.call("DELETE", path, 200))["items"] == []


async def test_a_line_holds_up_to_9999_units(shop: Shop) -> None:
    tent = await shop.create_product(max_per_order=9_999)
    cart = await shop.create_cart((tent["id"], 9_998))
    assert (await shop.add_item(cart, tent["id"], 1))["items"][0]["quantity"] == 9_999
    for quantity in (1, 9_999):
        refused = await shop.add_item(cart, tent["id"], quantity, expect=409)
        assert (refused["code"], refused["allowed"]) == ("quantity_limited", 9_999)
    for quantity in (0, -1, 10_000, 2**31, 1.0, "1", True, None):
        body = {"quantity": quantity}
        for method, path in (("POST", f"/carts/{cart}/items"), ("PUT", f"/carts/{cart}/items/{tent['id']}")):
            sent = body if method == "PUT" else {**body, "product_id": tent["id"]}
            refused = await shop.call(method, path, 422, sent)
            assert [error["pointer"] for error in refused["errors"]] == ["/quantity"]
    assert (await shop.call("GET", f"/carts/{cart}", 200))["items"][0]["quantity"] == 9_999


async def test_a_cart_holds_up_to_100_lines(shop: Shop, database: asyncpg.Connection) -> None:
    rows = await database.fetch(
        "INSERT INTO products (name, price_minor, currency, stock)"
        " SELECT 'x', 1, 'EUR', 0 FROM generate_series(1, 110) RETURNING id"
    )
    ids = [row["id"] for row in rows]
    cart = await shop.create_cart((ids[0], 1))
    await database.execute(
        "INSERT INTO cart_items (cart_id, product_id, quantity) SELECT $1, id, 1 FROM products WHERE id = ANY ($2)",
        UUID(cart),
        ids[1:95],
    )
    path = f"/carts/{cart}/items"
    lines = [{"product_id": product, "quantity": 1} for product in ids[95:]]
    answers = await asyncio.gather(*[shop.http.post(path, json=line) for line in lines])
    assert sorted(answer.status_code for answer in answers) == 5 * [200] + 10 * [422]
    full = await shop.call("GET", f"/carts/{cart}", 200)
    assert len(full["items"]) == 100
    (missing, *_) = set(ids) - {line["product_id"] for line in full["items"]}
    refused = await shop.call("PUT", f"{path}/{missing}", 422, {"quantity": 1})
    assert refused["code"] == "invalid"
    # A full cart can still be changed.
    assert (await shop.add_item(cart, full["items"][0]["product_id"]))["total_minor"] == 101
    await shop.call("DELETE", f"{path}/{full['items'][0]['product_id']}", 200)
    await shop.add_item(cart, missing)


async def test_a_cart_is_in_one_currency(shop: Shop) -> None:
    euros, yen = await shop.create_product(), await shop.create_product(currency="JPY")
    cart = await shop.create_cart((euros["id"], 1))
    path = f"/carts/{cart}/items"
    for refused in (
        await shop.add_item(cart, yen["id"], expect=409),
        await shop.call("PUT", f"{path}/{yen['id']}", 409, {"quantity": 1}),
    ):
        assert refused["code"] == "currency_mismatch"
        assert (refused["cart_currency"], refused["product_currency"]) == ("EUR", "JPY")
    assert (await shop.call("DELETE", f"{path}/{yen['id']}", 200))["currency"] == "EUR"
    assert (await shop.call("DELETE", f"{path}/{euros['id']}", 200))["currency"] is None
    assert (await shop.add_item(cart, yen["id"]))["currency"] == "JPY"


async def test_concurrent_first_lines_agree_on_one_currency(shop: Shop) -> None:
    products = [(await shop.create_product(currency=currency))["id"] for currency in ("EUR", "JPY")]
    for _ in range(10):
        cart = await shop.create_cart()
        lines = [{"product_id": product, "quantity": 1} for product in products]
        answers = await asyncio.gather(*[shop.http.post(f"/carts/{cart}/items", json=line) for line in lines])
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        assert len((await shop.call("GET", f"/carts/{cart}", 200))["items"]) == 1


async def test_concurrently_added_units_all_count(shop: Shop) -> None:
    tent = await shop.create_product()
    cart = await shop.create_cart()
    totals = await asyncio.gather(*[shop.add_item(cart, tent["id"], 1) for _ in range(20)])
    # Each answer shows the cart after its own edit.
    assert sorted(total["items"][0]["quantity"] for total in totals) == list(range(1, 21))


async def test_a_cart_checked_out_is_read_only_until_its_order_is_cancelled(shop: Shop) -> None:
    tent = await shop.create_product()
    cart = await shop.create_cart((tent["id"], 2))
    order = (await shop.check_out(cart))["order_id"]
    path = f"/carts/{cart}/items"
    for method, where, body in (
        ("POST", path, {"product_id": tent["id"], "quantity": 1}),
        ("PUT", f"{path}/{tent['id']}", {"quantity": 1}),
        ("DELETE", f"{path}/{tent['id']}", None),
    ):
        refused = await shop.call(method, where, 409, body)
        assert (refused["code"], refused["order_id"]) == ("cart_not_open", order)
    read = await shop.call("GET", f"/carts/{cart}", 200)
    assert (read["status"], read["total_minor"]) == ("CHECKED_OUT", 2500)
    await shop.call("POST", f"/orders/{order}/cancel", 200)
    assert (await shop.add_item(cart, tent["id"], 1))["items"][0]["quantity"] == 3


async def test_an_unknown_cart_is_not_found(shop: Shop) -> None:
    tent = await shop.create_product()
    for cart in (str(uuid4()), "1", "x", "00000000-0000-0000-0000-00000000000g", uuid4().hex, "%00", "é", "%ff"):
        for method, path, body in (
            ("GET", "", None),
            ("POST", "/items", {"product_id": tent["id"], "quantity": 1}),
            ("PUT", f"/items/{tent['id']}", {"quantity": 1}),
            ("DELETE", f"/items/{tent['id']}", None),
        ):
            assert (await shop.call(method, f"/carts/{cart}{path}", 404, body))["code"] == "not_found"


async def test_a_cart_checked_out_shows_what_was_ordered(shop: Shop) -> None:
    tent = await shop.create_product()
    placed = await shop.checked_out_cart((tent["id"], 2))
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": "Renamed", "price_minor": 9900})
    cart_id = (await shop.get_order(placed["order_id"]))["cart_id"]
    cart = await shop.call("GET", f"/carts/{cart_id}", 200)
    assert (cart["items"][0]["name"], cart["total_minor"]) == ("Tent", placed["total_minor"])
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    cart = await shop.call("GET", f"/carts/{cart_id}", 200)
    assert (cart["items"][0]["name"], cart["total_minor"]) == ("Renamed", 2 * 9900)


async def test_a_line_says_whether_it_can_be_bought_now(shop: Shop) -> None:
    tent = await shop.create_product(stock=2)
    cart = await shop.create_cart((tent["id"], 2))

    async def line() -> tuple[bool, bool]:
        (item,) = (await shop.call("GET", f"/carts/{cart}", 200))["items"]
        return item["active"], item["available"]

    states = [await line()]
    await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    states.append(await line())
    await shop.call("DELETE", f"/products/{tent['id']}", 204)
    states.append(await line())

    assert states == [(True, True), (True, False), (False, False)]


async def test_a_reference_goes_with_every_order_of_the_cart(shop: Shop) -> None:
    made = await shop.call("POST", "/carts", 201, {"reference": "  Ä web-4711 ?# \n"})
    tent = await shop.create_product()

    added = await shop.add_item(made["id"], tent["id"])
    orders = []
    for _ in range(2):
        order_id = (await shop.check_out(made["id"]))["order_id"]
        orders.append(await shop.get_order(order_id))
        cancelled = await shop.call("POST", f"/orders/{order_id}/cancel", 200)
        orders.append(cancelled)

    assert {row["reference"] for row in (made, added, *orders)} == {"Ä web-4711 ?#"}
    listed = (await shop.call("GET", "/orders", 200))["items"]
    assert [order["reference"] for order in listed] == ["Ä web-4711 ?#"] * 2
    assert (await shop.call("GET", f"/carts/{made['id']}", 200))["reference"] == "Ä web-4711 ?#"
    other = await shop.checked_out_cart()
    assert (await shop.get_order(other["order_id"]))["reference"] is None
    assert other["number"] == (await shop.get_order(other["order_id"]))["number"]
