"""Categories, products, their listing and their stock, as the contract has them."""

import asyncio
import itertools
import unicodedata
from datetime import datetime

import asyncpg
import pytest

from service.infra.db import Connection
from service.shop import catalog
from tests.client import ADMIN_TOKEN, Shop
from tests.database import checksum_tables, wait_for_blocked

TENT = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}


async def test_a_product_is_created_and_read(shop: Shop) -> None:
    answer = await shop.http.post("/products", json=TENT)
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/products/{made['id']}"
    assert made == {
        **TENT,
        "id": made["id"],
        "description": "",
        "category_id": None,
        "active": True,
        "sku": None,
        "image_url": None,
        "max_per_order": None,
        "version": 1,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }
    assert isinstance(made["id"], int)
    for member in ("created_at", "updated_at"):
        assert made[member].endswith("Z")
        assert datetime.fromisoformat(made[member]).utcoffset() is not None
    read = await shop.http.get(answer.headers["location"])
    assert read.json() == made
    assert read.headers["content-type"] == "application/json"


async def test_a_product_is_created_with_all_members(shop: Shop) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    fields = {
        "name": "T" * 200,
        "description": "é" * 10_000,
        "category_id": category["id"],
        "price_minor": 99_999_999,
        "currency": "JPY",
        "stock": 1_000_000_000,
        "active": False,
        "sku": "az.AZ_09-" + 55 * "x",
        "image_url": "https://example.com/" + 2028 * "é",
        "max_per_order": 9_999,
    }
    made = await shop.create_product(**fields)
    assert {name: made[name] for name in fields} == fields
    assert (await shop.create_product(name="  Mug\n"))["name"] == "Mug"
    await shop.call("POST", "/products", 404, {**TENT, "category_id": category["id"] + 1})


async def test_the_listing_says_what_is_for_sale(shop: Shop) -> None:
    assert await shop.call("GET", "/products", 200) == {"items": [], "next_cursor": None}
    camping = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    picture = "https://images.example.com:8443/tent.jpg?w=400"
    tent = await shop.create_product(category_id=camping["id"], sku="T-1", image_url=picture)
    mug = await shop.create_product(name="Mug", stock=0)
    await shop.create_product(active=False)
    listed = {"id": tent["id"], "name": "Tent", "category_id": camping["id"], "price_minor": 1250, "currency": "EUR"}
    sold_out = {**listed, "id": mug["id"], "name": "Mug", "category_id": None, "available": False}
    items = [
        {**listed, "available": True, "sku": "T-1", "image_url": picture},
        {**sold_out, "sku": None, "image_url": None},
    ]
    assert await shop.call("GET", "/products", 200) == {"items": items, "next_cursor": None}
    assert await shop.call("GET", "/products?category=camping", 200) == {"items": items[:1], "next_cursor": None}
    await shop.call("GET", "/products?category=nowhere", 404)


async def test_a_sku_belongs_to_one_product(shop: Shop) -> None:
    tent, mug = await shop.create_product(sku="T-1"), await shop.create_product(name="Mug")
    at_mug = f"/products/{mug['id']}"

    taken = [
        await shop.call("POST", "/products", 409, {**TENT, "sku": "T-1"}),
        await shop.call("PATCH", at_mug, 409, {"sku": "T-1"}),
    ]

    assert [problem["code"] for problem in taken] == ["sku_taken", "sku_taken"]
    assert (await shop.call("GET", at_mug, 200))["version"] == 1
    assert (await shop.call("PATCH", at_mug, 200, {"sku": "t-1"}))["sku"] == "t-1"
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"sku": None})
    assert (await shop.create_product(sku="T-1"))["sku"] == "T-1"


async def test_sku_and_picture_are_changed_and_removed(shop: Shop) -> None:
    tent = await shop.create_product()
    at_tent = f"/products/{tent['id']}"
    await shop.call("GET", "/products", 200)

    changed = await shop.call("PATCH", at_tent, 200, {"sku": "T-1", "image_url": "https://example.com/tent.jpg"})
    listed = (await shop.call("GET", "/products", 200))["items"][0]
    renamed = await shop.call("PATCH", at_tent, 200, {"name": "Big tent"})
    removed = await shop.call("PATCH", at_tent, 200, {"sku": None, "image_url": None})

    values = [(row["sku"], row["image_url"]) for row in (changed, listed, renamed, removed)]
    assert values == [("T-1", "https://example.com/tent.jpg")] * 3 + [(None, None)]


@pytest.mark.parametrize("filed", [False, True], ids=["all", "category"])
async def test_pages_neither_repeat_nor_miss_while_products_come_and_go(shop: Shop, filed: bool) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    among = {"category_id": category["id"]} if filed else {}
    if filed:
        await shop.create_product(name="elsewhere")
    ids = [(await shop.create_product(**among))["id"] for _ in range(11)]
    seen: list[int] = []
    cursor: int | None = 0
    expected = set(ids)
    while cursor is not None:
        query = f"limit=3&after_id={cursor}" + ("&category=camping" if filed else "")
        page = await shop.call("GET", f"/products?{query}", 200)
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if len(seen) == 3:
            assert cursor == ids[2]
            # A product of the page before, the cursor itself, and the first product of the next page.
            for gone in (ids[0], ids[2], ids[3]):
                await shop.call("DELETE", f"/products/{gone}", 204)
            expected -= {ids[3]}
        if len(seen) == 6:
            expected.add((await shop.create_product(**among))["id"])
            await shop.call("PATCH", f"/products/{ids[0]}", 200, {"active": True})
    assert seen == sorted(expected)


@pytest.mark.parametrize("count", [20, 21, 100, 101])
async def test_the_cursor_is_null_on_the_last_page(shop: Shop, database: asyncpg.Connection, count: int) -> None:
    await database.execute(
        "INSERT INTO products (name, price_minor, currency, stock) SELECT 'x', 1, 'EUR', 0 FROM generate_series(1, $1)",
        count,
    )
    for size, query in ((20, ""), (1, "limit=1"), (99, "limit=99"), (100, "limit=100")):
        page = await shop.call("GET", f"/products?{query}", 200)
        assert len(page["items"]) == min(count, size)
        assert page["next_cursor"] == (page["items"][-1]["id"] if count > size else None)
    page = await shop.call("GET", f"/products?after_id={2**63 - 1}", 200)
    assert page == {"items": [], "next_cursor": None}


async def test_if_none_match_saves_the_body(shop: Shop) -> None:
    path = f"/products/{(await shop.create_product())['id']}"
    for header, status in (
        ('"1-10"', 304),
        ('W/"1-10"', 304),
        ('"0-1", "1-10"', 304),
        ("*", 304),
        ('"1-9"', 200),
        ("1-10", 200),
        ("", 200),
    ):
        answer = await shop.http.get(path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.headers["etag"]) == (status, '"1-10"'), header
        assert bool(answer.content) == (status == 200)


async def test_the_etag_follows_version_and_stock(shop: Shop) -> None:
    path = f"/products/{(await shop.create_product())['id']}"

    async def etag() -> str:
        return str((await shop.http.get(path)).headers["etag"])

    await shop.call("POST", f"{path}/stock", 200, {"delta": -1, "reason": "broken"})
    assert await etag() == '"1-9"'
    edited = await shop.http.patch(path, json={"name": "Big tent"})
    assert edited.headers["etag"] == await etag() == '"2-9"'
    await shop.call("DELETE", path, 204)
    assert await etag() == '"3-9"'


async def test_if_match_compares_the_version(shop: Shop) -> None:
    path = f"/products/{(await shop.create_product())['id']}"
    for header in ('W/"1-10"', '"2-10"', "1-10", '"11-10"', ""):
        refused = await shop.call("PATCH", path, 412, {"price_minor": 1}, If_Match=header)
        assert (refused["code"], refused["version"]) == ("precondition_failed", 1), header
    # The second names another stock: units sold since do not matter to an edit.
    for version, header in enumerate(('"1-10"', '"2-7"', '"7-1", "3-10"', "*"), 2):
        edited = await shop.call("PATCH", path, 200, {"price_minor": 1250 + version}, If_Match=header)
        assert (edited["version"], edited["price_minor"]) == (version, 1250 + version)


async def test_one_of_several_edits_of_a_version_wins(shop: Shop, database: asyncpg.Connection) -> None:
    path = f"/products/{(await shop.create_product())['id']}"
    async with database.transaction():
        await database.execute("SELECT FROM products FOR UPDATE")
        edits = [shop.http.patch(path, json={"name": f"Tent {n}"}, headers={"If-Match": '"1-10"'}) for n in range(4)]
        answers = asyncio.gather(*edits)
        await wait_for_blocked(database, 4)
    assert sorted([answer.status_code for answer in await answers]) == [200] + 3 * [412]
    await shop.call("PATCH", "/products/404", 404, {"name": "x"}, If_Match='"1-1"')


async def test_an_edit_changes_what_it_names(shop: Shop) -> None:
    camping = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    tent = await shop.create_product(category_id=camping["id"])
    path = f"/products/{tent['id']}"
    for edit in (
        {"name": "Big tent"},
        {"description": "For four."},
        {"price_minor": 1},
        {"category_id": None},
        {"category_id": camping["id"]},
        {"active": False},
        {"active": True, "description": ""},
    ):
        expected = {**tent, **edit, "version": tent["version"] + 1}
        tent = await shop.call("PATCH", path, 200, edit)
        assert tent == {**expected, "updated_at": tent["updated_at"]}
    await shop.call("PATCH", path, 404, {"category_id": camping["id"] + 1})
    await shop.call("PATCH", "/products/404", 404, {"name": "x"})


async def test_an_edit_refuses_members_that_are_not_writable(shop: Shop) -> None:
    tent = await shop.create_product()
    for member in ("stock", "currency", "version", "id", "created_at"):
        refused = await shop.call("PATCH", f"/products/{tent['id']}", 422, {member: tent[member]})
        assert refused["code"] == "invalid"
    # A writable member cannot be null.
    for member in ("name", "description", "price_minor", "active"):
        refused = await shop.call("PATCH", f"/products/{tent['id']}", 422, {member: None})
        assert [error["pointer"] for error in refused["errors"]] == [f"/{member}"]
    assert await shop.call("GET", f"/products/{tent['id']}", 200) == tent


async def test_deactivating_twice_takes_a_product_off_sale_once(shop: Shop) -> None:
    path = f"/products/{(await shop.create_product())['id']}"
    for _ in range(2):
        assert await shop.call("DELETE", path, 204) is None
    gone = await shop.call("GET", path, 200)
    assert (gone["active"], gone["version"]) == (False, 2)
    assert (await shop.call("GET", "/products", 200))["items"] == []
    await shop.call("DELETE", "/products/404", 404)


class TestStaff:
    """With an ADMIN_TOKEN, what is off sale is theirs alone."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"ADMIN_TOKEN": ADMIN_TOKEN}

    async def test_the_listing_for_staff_needs_its_scope(self, shop: Shop) -> None:
        for query in ("active=true", "active=all", "stock_at_most=0"):
            assert (await shop.call("GET", f"/products?{query}", 401))["code"] == "unauthorized"
        await shop.call("GET", "/products?active=all", 200, Authorization=f"Bearer {ADMIN_TOKEN}")

    async def test_an_inactive_product_is_shown_to_staff_only(self, shop: Shop) -> None:
        staff = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        hidden, shown = [
            await shop.call(
                "POST",
                "/products",
                201,
                {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10, "active": active},
                **staff,
            )
            for active in (False, True)
        ]
        for name, product, credentials, status in (
            ("a stranger", hidden, {}, 404),
            ("a stranger with a guess", hidden, {"Authorization": "Bearer guess"}, 401),
            ("staff", hidden, staff, 200),
            ("a stranger", shown, {}, 200),
        ):
            for method in ("GET", "HEAD"):
                for cached in ({}, {"If-None-Match": "*"}, {"If-None-Match": '"1-10"'}):
                    answer = await shop.http.request(
                        method, f"/products/{product['id']}", headers={**credentials, **cached}
                    )
                    expected = 304 if cached and status == 200 else status
                    assert answer.status_code == expected, (name, method, cached)
                    assert "Tent" not in answer.text or status == 200
        missing = await shop.http.get("/products/404")
        refused = await shop.http.get(f"/products/{hidden['id']}")
        assert refused.json() == missing.json()
        await shop.call("DELETE", f"/products/{shown['id']}", 204, **staff)
        await shop.call("GET", f"/products/{shown['id']}", 404)


async def test_every_stock_move_is_in_the_ledger(shop: Shop, database: asyncpg.Connection) -> None:
    tent = await shop.create_product()
    path = f"/products/{tent['id']}/stock"
    moved = await shop.call("POST", path, 200, {"delta": -3, "reason": " broken "})
    assert moved == {**tent, "stock": 7, "updated_at": moved["updated_at"]}
    await shop.call("POST", path, 200, {"delta": 5, "reason": "delivery"})
    short = await shop.call("POST", path, 409, {"delta": -13, "reason": "theft"})
    assert short["code"] == "insufficient_stock"
    assert short["items"] == [{"product_id": tent["id"], "requested": 13, "available": 12}]
    too_many = await shop.call("POST", path, 422, {"delta": 1_000_000_000, "reason": "delivery"})
    assert too_many["code"] == "invalid"
    await shop.call("POST", "/products/404/stock", 404, {"delta": 1, "reason": "delivery"})
    ledger = await database.fetch("SELECT delta, reason FROM stock_movements ORDER BY id")
    assert [tuple(row) for row in ledger] == [(10, "initial stock"), (-3, "broken"), (5, "delivery")]


async def test_concurrent_stock_moves_never_go_below_zero(shop: Shop) -> None:
    tent = await shop.create_product(stock=10)
    move = {"delta": -1, "reason": "broken"}
    answers = await asyncio.gather(*[shop.http.post(f"/products/{tent['id']}/stock", json=move) for _ in range(25)])
    assert sorted(answer.status_code for answer in answers) == 10 * [200] + 15 * [409]
    assert sorted(a.json()["stock"] for a in answers if a.status_code == 200) == list(range(10))
    assert await shop.get_stock(tent["id"]) == 0


async def test_a_slug_is_made_from_the_name(shop: Shop) -> None:
    for name, slug in (
        ("Camping", "camping"),
        ("Café & Bar", "cafe-bar"),
        (" --Größe__42!  ", "grosse-42"),
        ("Ⅷ ½", "viii-1-2"),
        ("コーヒー", "コーヒー"),
        ("Ꭰ", "ꭰ"),
        ("Книги", "книги"),
        ("㊙ ㍿", "秘-株式会社"),
        ("हिन्दी किताबें", "हिन्दी-किताबें"),
        ("दाल", "दाल"),
        ("दिल", "दिल"),
        ("क़लम", "क\u093cलम"),  # NFC has no letter qa
        ("தமிழ் நூல்கள்", "தமிழ்-நூல்கள்"),
        ("น้ำพริก", "น้ำพริก"),
        ("كِتَاب", "كِتَاب"),
        ("می\u200cخواهم", "میخواهم"),
        ("שָׁלוֹם", "ש\u05b8\u05c1לו\u05b9ם"),
        ("ශ්\u200dරී", "ශ්රී"),
        ("한국어", "한국어"),
        (unicodedata.normalize("NFD", "책 がく"), "책-がく"),
        ("Йод і Ϊο", "йод-і-ϊο"),
        ("Σοφός", "σοφός"),
        ("Tiếng Việt", "tieng-viet"),
        ("İstanbul, Iğdır", "istanbul-igdır"),
        ("Straße ẞ", "strasse-ss"),
        ("1️⃣ 👩\u200d🚀", "1"),
        ("x" * 200, "x" * 200),
        ("ab " + 197 * "ß", "ab-" + 197 * "s"),
        ("y" + 99 * "ß" + " " + 90 * "y", "y" + 198 * "s"),  # cut without a dash at the end
    ):
        answer = await shop.http.post("/categories", json={"name": name})
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"/categories/{made['id']}"
        assert made == {"id": made["id"], "name": name.strip(), "slug": slug}, name
        # A generated slug is accepted as input, and products are found by it.
        assert await shop.call("PATCH", f"/categories/{made['id']}", 200, {"slug": slug}) == made
        for spelling in (slug, unicodedata.normalize("NFD", slug)):
            assert (await shop.http.get("/products", params={"category": spelling})).status_code == 200
            assert await shop.call("PATCH", f"/categories/{made['id']}", 200, {"slug": spelling}) == made


async def test_an_invalid_slug_is_refused(shop: Shop) -> None:
    hidden = ("a\u200db", "a\ufe0f", "\u3164", "\u093f", "क-\u093f", "a\u00ad", "a\u202eb")
    for slug in ("", "Camping", "a b", "a--b", "-a", "a-", "a_b", "a/b", "a\n", "Й", "ǅ", "❤", "x" * 201, *hidden):
        refused = await shop.call("POST", "/categories", 422, {"name": "Camping", "slug": slug})
        assert [error["pointer"] for error in refused["errors"]] == ["/slug"], slug


async def test_a_name_without_letters_needs_a_slug(shop: Shop) -> None:
    for name in ("$ +", "❤️", "👩\u200d🚀", "🏴\U000e0067\U000e0062\U000e007f", "🇮🇳"):
        refused = await shop.call("POST", "/categories", 422, {"name": name})
        assert [error["pointer"] for error in refused["errors"]] == ["/slug"], name
        made = await shop.call("POST", "/categories", 201, {"name": name, "slug": "what"})
        assert made == {"id": made["id"], "name": name, "slug": "what"}
        await shop.call("DELETE", f"/categories/{made['id']}", 204)


async def test_a_name_shows_something_and_has_no_control_characters(shop: Shop) -> None:
    tent = await shop.create_product()
    stock = f"/products/{tent['id']}/stock"
    unseen = ["-", "!?", "\u200b", "\u200d\u200c", "\u3164", "\u2800", "\ufe0f", "\u0301", "\u2060\ufeff"]
    controls = [f"a{c}b" for c in "\x01\t\n\r\x1b\x7f\x85\u2028\u2029\u202a\u202e\u2066\u2069"]
    for name in unseen + controls:
        for method, path, body, pointer in (
            ("POST", "/categories", {"name": name, "slug": "a"}, "/name"),
            ("PATCH", "/categories/1", {"name": name}, "/name"),
            ("POST", "/products", {"name": name, "price_minor": 1, "currency": "EUR", "stock": 0}, "/name"),
            ("PATCH", f"/products/{tent['id']}", {"name": name}, "/name"),
            ("POST", stock, {"delta": 1, "reason": name}, "/reason"),
        ):
            refused = await shop.call(method, path, 422, body)
            assert [error["pointer"] for error in refused["errors"]] == [pointer], (method, path, name)
    for name in ("+", "€", "☕", "👩\u200d🚀", "ශ්\u200dරී", "می\u200cخواهم", "\u200fשלום\u200e", "a\u00adb", "क्\u200dष"):
        assert (await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": name}))["name"] == name


async def test_a_description_has_lines_but_no_control_characters(shop: Shop) -> None:
    tent = await shop.create_product()
    path = f"/products/{tent['id']}"
    for text in ("a\r\n\tb\n", "", "   "):
        assert (await shop.call("PATCH", path, 200, {"description": text}))["description"] == text
    for c in "\x00\x01\x08\x0b\x1b\x7f\x9b\u202e\u2067":
        assert (await shop.call("PATCH", path, 422, {"description": f"a{c}b"}))["code"] == "invalid"


async def test_a_slug_is_unique(shop: Shop) -> None:
    answers = await asyncio.gather(*[shop.http.post("/categories", json={"name": "Camping"}) for _ in range(6)])
    assert sorted(answer.status_code for answer in answers) == [201] + 5 * [409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["code"] == "slug_taken"
    other = await shop.call("POST", "/categories", 201, {"name": "Camping", "slug": "outdoor"})
    refused = await shop.call("PATCH", f"/categories/{other['id']}", 409, {"slug": "camping"})
    assert refused["code"] == "slug_taken"


async def test_categories_are_changed_listed_and_removed(shop: Shop) -> None:
    made = [await shop.call("POST", "/categories", 201, {"name": name}) for name in ("One", "Two", "Three")]
    path = f"/categories/{made[1]['id']}"
    made[1] = await shop.call("PATCH", path, 200, {"name": "Zwei"})
    assert made[1] == {"id": made[1]["id"], "name": "Zwei", "slug": "two"}
    assert await shop.call("GET", "/categories", 200) == {"items": made, "next_cursor": None}
    assert await shop.call("GET", "/categories?limit=3", 200) == {"items": made, "next_cursor": None}
    first = await shop.call("GET", "/categories?limit=2", 200)
    assert first == {"items": made[:2], "next_cursor": made[1]["id"]}
    rest = await shop.call("GET", f"/categories?limit=2&after_id={made[1]['id']}", 200)
    assert rest == {"items": made[2:], "next_cursor": None}
    assert await shop.call("DELETE", path, 204) is None
    for method, body in (("DELETE", None), ("PATCH", {"name": "x"})):
        await shop.call(method, path, 404, body)


@pytest.mark.parametrize("active", [True, False])
async def test_a_category_in_use_cannot_be_deleted(shop: Shop, active: bool) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    tent = await shop.create_product(category_id=category["id"], active=active)
    refused = await shop.call("DELETE", f"/categories/{category['id']}", 409)
    assert refused["code"] == "category_in_use"
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"category_id": None})
    await shop.call("DELETE", f"/categories/{category['id']}", 204)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_category_deleted_under_a_product_is_not_found(
    shop: Shop, database: asyncpg.Connection, method: str
) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    tent = await shop.create_product()
    async with database.transaction():
        await database.execute("DELETE FROM categories")
        path, body = ("/products", TENT) if method == "POST" else (f"/products/{tent['id']}", {})
        writing = asyncio.create_task(shop.call(method, path, 404, {**body, "category_id": category["id"]}))
        await wait_for_blocked(database)
    assert "category" in (await writing)["detail"]


# Products by their sku

AT_SKU = "/products/by-sku/T-1"


async def test_a_put_creates_a_product_and_then_edits_it(shop: Shop) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    answer = await shop.http.put(AT_SKU, json={**TENT, "category_id": category["id"], "max_per_order": 3})
    made = answer.json()

    assert (answer.status_code, answer.headers["location"]) == (201, f"/products/{made['id']}")
    assert answer.headers["etag"] == '"1-10"'
    assert made == await shop.call("GET", f"/products/{made['id']}", 200)
    assert (made["sku"], made["description"], made["active"], made["version"]) == ("T-1", "", True, 1)

    edit = {"price_minor": 1300, "stock": 99, "currency": "EUR", "category_id": None}
    edited = await shop.call("PUT", AT_SKU, 200, edit)

    times = {"updated_at": edited["updated_at"]}
    assert edited == {**made, **times, "price_minor": 1300, "category_id": None, "version": 2}
    ledger = (await shop.call("GET", f"/products/{made['id']}/stock", 200))["items"]
    assert [(row["delta"], row["reason"]) for row in ledger] == [(10, "initial stock")]


async def test_a_put_that_changes_nothing_leaves_no_trace(shop: Shop, database: asyncpg.Connection) -> None:
    made = await shop.call("PUT", AT_SKU, 201, {**TENT, "image_url": "https://example.com/a.jpg"})
    before = await checksum_tables(database)

    for body in ({}, TENT, {**TENT, "stock": 5}, {"image_url": made["image_url"], "max_per_order": None}):
        assert await shop.call("PUT", AT_SKU, 200, body) == made

    assert await checksum_tables(database) == before


@pytest.mark.parametrize("missing", ["name", "price_minor", "currency", "stock"])
async def test_a_put_names_what_a_new_product_lacks(shop: Shop, missing: str) -> None:
    problem = await shop.call("PUT", AT_SKU, 422, {name: value for name, value in TENT.items() if name != missing})

    assert [error["pointer"] for error in problem["errors"]] == [f"/{missing}"]
    await shop.call("PUT", AT_SKU, 201, TENT)
    await shop.call("PUT", AT_SKU, 200, {"name": "Big tent"})


async def test_a_put_keeps_to_the_rules_of_products(shop: Shop) -> None:
    await shop.call("PUT", AT_SKU, 422, {**TENT, "price_minor": 100_000_000})
    await shop.call("PUT", AT_SKU, 404, {**TENT, "category_id": 1})
    await shop.call("PUT", AT_SKU, 412, TENT, If_Match='"1-10"')
    made = await shop.call("PUT", AT_SKU, 201, TENT)
    for body, status in (
        ({"currency": "USD"}, 422),
        ({"price_minor": 100_000_000}, 422),
        ({"category_id": 1}, 404),
        ({"sku": "T-2"}, 422),
    ):
        await shop.call("PUT", AT_SKU, status, body)
    problem = await shop.call("PUT", AT_SKU, 412, {"name": "Mug"}, If_Match='"2-10"')
    assert problem["version"] == 1
    assert await shop.call("GET", f"/products/{made['id']}", 200) == made
    for sku in ("a%20b", 65 * "x", "%C3%A4"):
        await shop.call("PUT", f"/products/by-sku/{sku}", 422, TENT)
    await shop.call("PUT", f"/products/by-sku/{64 * 'x'}", 201, TENT)
    assert (await shop.call("PUT", "/products/by-sku/t-1", 201, TENT))["id"] != made["id"]


async def test_a_put_only_edits_or_only_creates_where_a_precondition_says_so(shop: Shop) -> None:
    missing = [await shop.call("PUT", AT_SKU, 412, TENT, If_Match=tags) for tags in ("*", '"1-10"')]
    assert {(problem["code"], problem["detail"]) for problem in missing} == {
        ("precondition_failed", "There is no product with this sku.")
    }
    assert not any("version" in problem for problem in missing)
    made = await shop.call("PUT", AT_SKU, 201, TENT, If_None_Match="*")
    for body in (TENT, {"name": "Mug"}):
        existing = await shop.call("PUT", AT_SKU, 412, body, If_None_Match="*")
        assert (existing["detail"], existing["version"]) == ("There is a product with this sku.", 1)
    assert await shop.call("GET", f"/products/{made['id']}", 200) == made
    for number, tags in enumerate(("*", '"2-10"')):
        assert (await shop.call("PUT", AT_SKU, 200, {"name": f"Mug {number}"}, If_Match=tags))["version"] == 2 + number


@pytest.mark.parametrize(("misses", "status"), [(2, 200), (3, 503)])
async def test_a_put_whose_sku_comes_and_goes_is_tried_three_times(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, misses: int, status: int
) -> None:
    """Method: the first reads miss the product, as if another request created it right after them."""
    await shop.call("PUT", AT_SKU, 201, TENT)
    reads = iter(range(10))

    class Missing:
        async def one_or_none(self, tx: Connection, sku: str) -> catalog.Product | None:
            return None if next(reads) < misses else await lock.one_or_none(tx, sku=sku)

    lock = catalog.LOCK_PRODUCT_BY_SKU
    monkeypatch.setattr(catalog, "LOCK_PRODUCT_BY_SKU", Missing())
    answer = await shop.call("PUT", AT_SKU, status, {**TENT, "name": "Mug"})

    assert answer.get("code") == (None if status == 200 else "busy")


@pytest.mark.parametrize("body", [TENT, None], ids=["equal", "different"])
async def test_eight_puts_of_a_sku_at_once_make_one_product(
    shop: Shop, database: asyncpg.Connection, body: dict[str, object] | None
) -> None:
    bodies = [body or {**TENT, "name": f"Tent {number}"} for number in range(8)]
    for number in range(5):
        path = f"/products/by-sku/T-{number}"

        answers = await asyncio.gather(*(shop.http.put(path, json=one) for one in bodies))

        assert sorted(answer.status_code for answer in answers) == [*[200] * 7, 201]
        (product_id,) = {answer.json()["id"] for answer in answers}
        rows = await database.fetch("SELECT name, stock, version FROM products WHERE sku = $1", f"T-{number}")
        assert [(row["stock"], row["version"]) for row in rows] == [(10, 1 if body else 8)]
        ledger = "SELECT delta FROM stock_movements WHERE product_id = $1"
        assert [row["delta"] for row in await database.fetch(ledger, product_id)] == [10]
        changes = await database.fetch(
            "SELECT before ->> 'name' AS before, after ->> 'name' AS after FROM audit_log WHERE subject = $1"
            " ORDER BY id",
            f"product:{product_id}",
        )
        # Each begins where the one before it ended.
        assert [row["before"] for row in changes] == [None, *(row["after"] for row in changes[:-1])]
        assert changes[-1]["after"] == rows[0]["name"]
        assert len(changes) == rows[0]["version"]


async def test_a_put_invalidates_the_cached_page_when_it_changes_something(shop: Shop) -> None:
    await shop.call("GET", "/products", 200)
    await shop.call("PUT", AT_SKU, 201, TENT)
    assert [item["name"] for item in (await shop.call("GET", "/products", 200))["items"]] == ["Tent"]
    await shop.call("PUT", AT_SKU, 200, {"name": "Big tent"})
    assert [item["name"] for item in (await shop.call("GET", "/products", 200))["items"]] == ["Big tent"]


# For staff


async def test_no_browser_stores_what_only_staff_see(shop: Shop) -> None:
    tent = await shop.create_product()
    for path, cached in (
        ("/products", "no-cache"),
        ("/products?active=all", "no-store"),
        ("/products?stock_at_most=9", "no-store"),
        (f"/products/{tent['id']}/stock", "no-store"),
    ):
        assert (await shop.http.get(path)).headers["cache-control"] == cached, path


async def walk(shop: Shop, query: str, limit: int) -> list[dict[str, object]]:
    """All products of a listing, page by page."""
    items: list[dict[str, object]] = []
    cursor: int | None = 0
    while cursor is not None:
        page = await shop.call("GET", f"/products?{query}&limit={limit}&after_id={cursor}", 200)
        items += page["items"]
        cursor = page["next_cursor"]
    return items


@pytest.mark.parametrize("limit", [1, 2, 20])
async def test_staff_list_what_is_off_sale_sold_out_or_low(shop: Shop, limit: int) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Camping"})
    ids = {}
    for number, (active, stock, filed) in enumerate(itertools.product((True, False), (0, 3, 9), (True, False))):
        product = await shop.create_product(
            name=f"Product {number}", active=active, stock=stock, category_id=category["id"] if filed else None
        )
        ids[product["id"]] = (active, stock, filed)

    for active, at_most, filed in itertools.product(("true", "false", "all", None), (0, 3, None), (True, False)):
        query = "&".join(
            [
                *([f"active={active}"] if active else []),
                *([f"stock_at_most={at_most}"] if at_most is not None else []),
                *(["category=camping"] if filed else []),
            ]
        )
        items = await walk(shop, query, limit)
        expected = [
            product_id
            for product_id, (is_active, stock, in_category) in ids.items()
            if active == "all" or is_active == (active != "false")
            if at_most is None or stock <= at_most
            if in_category or not filed
        ]
        assert [item["id"] for item in items] == expected, query
        if active or at_most is not None:
            assert [(item["active"], item["stock"], item["available"]) for item in items] == [
                (*ids[product_id][:2], ids[product_id][1] > 0) for product_id in expected
            ]


async def test_a_listing_for_staff_reads_so_many_products_and_the_next_page_goes_on(
    shop: Shop, database: asyncpg.Connection
) -> None:
    """The one product that is sold out comes after 20,000 others: three pages, of which two are empty."""
    await database.execute(
        "INSERT INTO products (name, price_minor, currency, stock)"
        " SELECT 'x', 1, 'EUR', CASE WHEN n = 20001 THEN 0 ELSE 5 END FROM generate_series(1, 20001) AS n"
    )

    pages, cursor = [], 0
    while cursor is not None:
        page = await shop.call("GET", f"/products?stock_at_most=0&after_id={cursor}", 200)
        pages.append([item["stock"] for item in page["items"]])
        cursor = page["next_cursor"]

    assert pages == [[], [], [0]]


async def test_the_ledger_is_read_newest_first(shop: Shop) -> None:
    tent = await shop.create_product()
    at_stock = f"/products/{tent['id']}/stock"
    placed = await shop.checked_out_cart((tent["id"], 2))
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    await shop.call("POST", at_stock, 200, {"delta": -3, "reason": "broken"})
    await shop.create_product(name="Mug")

    pages, query = [], "limit=3"
    for _ in range(2):
        page = await shop.call("GET", f"{at_stock}?{query}", 200)
        pages.append([(row["delta"], row["reason"], row["actor"], row["order_id"]) for row in page["items"]])
        query = f"limit=3&after_id={page['next_cursor']}"

    order = placed["order_id"]
    expected = [(-3, "broken", "open", None), (2, "release", "open", order), (-2, "hold", "open", order)]
    assert pages == [expected, [(10, "initial stock", "open", None)]]
    assert page["next_cursor"] is None
    assert page["items"][0].keys() == {"id", "at", "delta", "reason", "actor", "order_id"}
    empty = await shop.create_product(stock=0)
    assert await shop.call("GET", f"/products/{empty['id']}/stock", 200) == {"items": [], "next_cursor": None}
    await shop.call("GET", f"/products/{empty['id'] + 1}/stock", 404)
