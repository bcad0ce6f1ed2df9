"""The search: what it finds, in which order, page by page while the catalogue changes; whether its index is true."""

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from service.infra.resources import Resources
from service.shop import search
from tests.client import Shop, is_problem
from tests.database import wait_for_blocked


async def names(shop: Shop, query: str = "", **parameters: object) -> list[str]:
    """The names of a page, whose other parameters are given by name."""
    answer = await shop.http.get("/search", params={**({"q": query} if query else {}), **parameters})
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


async def fill(shop: Shop, *products: str | dict[str, Any]) -> list[int]:
    """Create products, the oldest first; their ids."""
    made = [await shop.create_product(**({"name": p} if isinstance(p, str) else p)) for p in products]
    return [product["id"] for product in made]


# Words


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("Café crème à l'eau", ["cafe creme", "CRÈME café", "caf", "eau cr", "l'eau", "café-crème"]),
        ("Straße & Größe", ["strasse", "STRASSE", "größe", "grosse", "straß gr"]),
        ("Ёлка новогодняя", ["елка", "НОВОГОДНЯЯ ёл", "новог"]),
        ("Καφές ΕΛΛΗΝΙΚΌΣ", ["καφες", "ΚΑΦΈΣ", "ελληνικος", "ελλ καφ"]),
        ("T-Shirt 40x60, 1.5 l", ["t-shirt", "shirt t", "40x60", "1.5", "40x"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब हिन्दी"]),
        ("دفتر ملاحظات", ["دفتر", "ملاح دفتر"]),
        ("한국어 사전", ["한국", "사전 한국어"]),
        ("智能手机 128GB", ["手机", "智能", "智能手机", "机", "128gb 手机", "能手机"]),
        ("東京タワーの模型", ["東京", "タワー", "模型", "京タ", "ﾀﾜｰ"]),
        ("กาแฟดำเย็น", ["กาแฟ", "เย็น", "ดำ"]),
        ("Zelt (2-Personen) 'Fjäll'", ["fjall", "zelt 'fjäll'", "personen 2"]),
    ],
)
async def test_words_are_found(shop: Shop, name: str, queries: list[str]) -> None:
    await fill(shop, name, "Something else")
    for query in queries:
        assert await names(shop, query) == [name], query
        assert await names(shop, query, sort="newest") == [name], query


@pytest.mark.parametrize(
    ("name", "mistyped"),
    [
        ("Espresso", ["expresso", "espreso", "esspresso", "esprseso", "spresso", "espressso", "Espresos"]),
        ("Table", ["tble", "able", "tale", "tabe", "tabel", "tbale", "atble", "tavle", "tabble"]),
        ("Шоколад", ["шакалад", "шоколат", "щоколад", "шоклад", "шоколлад", "шокоалд"]),
        ("Καρέκλα", ["καρεκλο", "καρκλα", "καρεεκλα", "καρκελα", "χαρεκλα"]),
        ("ملاحظات", ["ملاحظت", "ملاحضات", "ملاحظاات", "ملاحظتا"]),
        ("Schreibtischlampe", ["schreibtischlmape", "schreibtishlampe", "shreibtischlampe"]),
    ],
)
async def test_one_typing_error_is_corrected(shop: Shop, name: str, mistyped: list[str]) -> None:
    await fill(shop, f"{name} 2000", "Xylophone")
    for query in mistyped:
        # Two letters differ.
        expected = [] if query in ("шакалад",) else [f"{name} 2000"]
        assert await names(shop, query) == expected, query
        assert await names(shop, f"{query} 2000") == expected, query


async def test_what_is_not_corrected(shop: Shop) -> None:
    await fill(shop, "Lamp", "Model 12345", "Coffee")
    # A short word, a number, two errors.
    for query in ("lanp", "12346", "cofffeee", "kofee"):
        assert await names(shop, query) == []
    # A product has the word as it is.
    await fill(shop, "Toffee")
    assert await names(shop, "toffee") == ["Toffee"]
    assert await names(shop, "woffee") == ["Toffee", "Coffee"]


def test_one_error() -> None:
    letters = "abc"
    for word in ("abcab", "aaaaa"):
        near = {word[:n] + word[n + 1 :] for n in range(5)}
        near |= {word[:n] + c + word[n:] for n in range(6) for c in letters}
        near |= {word[:n] + c + word[n + 1 :] for n in range(5) for c in letters}
        near |= {word[:n] + word[n + 1] + word[n] + word[n + 2 :] for n in range(4)}
        for length in range(3, 8):
            for number in range(3**length):
                other = "".join(letters[number // 3**place % 3] for place in range(length))
                assert search.is_one_error(word, other) == (other in near - {word}), (word, other)


async def test_only_products_for_sale(shop: Shop) -> None:
    lamp, _ = await fill(shop, "Lamp", {"name": "Lamp off sale", "active": False})
    assert await names(shop, "lamp") == await names(shop) == ["Lamp"]
    await shop.call("DELETE", f"/products/{lamp}", 204)
    assert await names(shop, "lamp") == await names(shop) == []
    await shop.call("PATCH", f"/products/{lamp}", 200, {"active": True, "name": "Torch", "description": "Not a lamp"})
    assert await names(shop, "lamp") == await names(shop, "torch") == ["Torch"]
    await shop.call("PATCH", f"/products/{lamp}", 200, {"description": ""})
    assert await names(shop, "lamp") == []


async def test_an_item_is_that_of_the_list(shop: Shop) -> None:
    await fill(
        shop, {"name": 'Lamp "A"', "sku": "L-1", "image_url": "https://a.example/1.png"}, {"name": "Off", "stock": 0}
    )
    listed = await shop.call("GET", "/products", 200)
    found = await shop.call("GET", "/search", 200)
    assert found == {"items": listed["items"][::-1], "next_cursor": None}


# Orders and filters


async def test_relevance_is_the_words_in_the_name_then_the_newest(shop: Shop) -> None:
    await fill(
        shop,
        {"name": "Oak table", "description": "With a lamp"},
        "Lamp for the table",
        {"name": "Chair", "description": "Goes with table and lamp"},
        "Table lamp",
        {"name": "Lamp", "description": "Any table"},
        "Table",
    )
    in_name, others = ["Table lamp", "Lamp for the table"], ["Lamp", "Chair", "Oak table"]
    assert await names(shop, "table lamp") == await names(shop, "lamp tab") == in_name + others
    assert await names(shop, "table lamp", sort="newest") == [
        "Lamp",
        "Table lamp",
        "Chair",
        "Lamp for the table",
        "Oak table",
    ]
    assert await names(shop, sort="relevance") == await names(shop)


async def test_sorts_and_filters(shop: Shop) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Tools"})
    tools = {"category_id": category["id"]}
    await fill(
        shop,
        {"name": "éclair", "price_minor": 300},
        {"name": "Zebra", "price_minor": 200, "stock": 0, **tools},
        {"name": "apple", "price_minor": 300, **tools},
        {"name": "Dollar", "price_minor": 100, "currency": "USD", **tools},
        {"name": "Bread", "price_minor": 100},
    )
    assert await names(shop) == ["Bread", "Dollar", "apple", "Zebra", "éclair"]
    assert await names(shop, sort="name") == ["apple", "Bread", "Dollar", "éclair", "Zebra"]
    assert await names(shop, sort="price", currency="EUR") == ["Bread", "Zebra", "éclair", "apple"]
    assert await names(shop, sort="-price", currency="EUR") == ["apple", "éclair", "Zebra", "Bread"]
    assert await names(shop, currency="USD") == ["Dollar"]
    assert await names(shop, category="tools") == ["Dollar", "apple", "Zebra"]
    assert await names(shop, category="tools", currency="EUR", sort="price") == ["Zebra", "apple"]
    assert await names(shop, currency="EUR", min_price_minor=200, max_price_minor=200) == ["Zebra"]
    assert await names(shop, currency="EUR", min_price_minor=201, sort="name") == ["apple", "éclair"]
    assert await names(shop, currency="EUR", max_price_minor=100) == ["Bread"]
    assert await names(shop, available="false") == ["Zebra"]
    assert await names(shop, "zebra", available="true") == []
    assert await names(shop, available="true", category="tools", sort="name") == ["apple", "Dollar"]
    assert is_problem(await shop.http.get("/search?category=nowhere"), 404, "not_found")


@pytest.mark.parametrize(
    "query",
    [
        "sort=price",
        "sort=-price&q=a",
        "min_price_minor=1",
        "max_price_minor=1",
        "min_price_minor=-1&currency=EUR",
        "max_price_minor=1.5&currency=EUR",
        "currency=eur",
        "available=maybe",
        "sort=age",
        "limit=101",
        "q=" + 201 * "a",
        "q=" + "+".join(f"a{n}" for n in range(21)),
        "q=a%00",
        "after=",
        "after=1",
        "after=W10",
        "after=%FF",
        "after=" + 2001 * "a",
        "unknown=1",
    ],
)
async def test_what_is_refused(shop: Shop, query: str) -> None:
    assert is_problem(await shop.http.get(f"/search?{query}"), 422, "invalid")


ODD = [
    "'",
    "''",
    '"',
    "\\",
    "a\\",
    "'a' & 'b'",
    "!a",
    "a:*",
    "a:A",
    "<->",
    "a <-> b",
    "(a",
    "|",
    "&",
    "* ",
    "%",
    "_",
    "--",
    "$EUR",
    "#1",
    "=lamp",
]
ODD += [
    "\u200b",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "\u0301",
    "ﷺ" * 200,
    "a" * 200,
    "手" * 200,
    "ก" * 200,
    "1e999",
    "-5",
    "http://a.example/x?y=z#w",
]
ODD += [
    " ".join("abcdefghijklmnopqrst"),
    "a@b.example",
    "../../etc",
    "\t\n\r",
    "İI",
    "\u202e",
    "NULL",
    "{}",
    "[",
    "x" * 99 + " " + "y" * 99,
]


@pytest.mark.parametrize("query", ODD)
async def test_odd_words_are_searched_for_or_nothing(shop: Shop, query: str) -> None:
    await fill(shop, "Lamp")
    answer = await shop.http.get("/search", params={"q": query})
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    if query in ("$EUR", "#1", "''"):
        assert answer.json()["items"] == []


async def test_a_query_without_a_letter_or_digit_finds_nothing(shop: Shop) -> None:
    await fill(shop, "Lamp")
    assert await names(shop, "?!") == []
    # As if it was left out.
    assert await names(shop, " ") == ["Lamp"]


async def test_products_with_odd_names_are_made_and_found(shop: Shop) -> None:
    for name in ("ﷺ" * 200, "手" * 200, "a" * 200, "'\\:*&|!()<->", "$EUR #1", "😀", "𝕏𝕐", "ก็" * 100):
        await fill(shop, {"name": name, "description": name * 50})
        assert name in await names(shop, sort="name")
    assert await names(shop, "eur 1") == ["$EUR #1"]


# Pages


async def pages(shop: Shop, between: Any = None, **parameters: object) -> list[dict[str, Any]]:
    """The items of all pages; `between` runs before each further page."""
    items: list[dict[str, Any]] = []
    while True:
        page = await shop.call("GET", f"/search?{'&'.join(f'{k}={v}' for k, v in parameters.items())}", 200)
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        parameters["after"] = page["next_cursor"]
        if between:
            await between()


ORDERS = [
    {"sort": sort, **query, **category}
    for sort in ("relevance", "newest", "name", "price", "-price")
    for query in ({}, {"q": "lamp"}, {"q": "lanpshade"}, {"q": "lamp+0"})
    for category in ({}, {"category": "tools"})
]


@pytest.fixture(params=["match", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read a page, which the sample would choose between."""
    if request.param == "walk":
        monkeypatch.setattr(search, "FEW", 0)
    return str(request.param)


@pytest.mark.parametrize("parameters", ORDERS, ids=lambda p: "-".join(p.values()))
async def test_each_product_whose_key_stays_is_shown_once(
    shop: Shop, way: str, database: asyncpg.Connection, parameters: dict[str, str]
) -> None:
    """Products come, change their prices, names and stock, and go off sale between pages; others stay as they are.

    Method: 40 products with few different prices and names, so that keys tie. Before each further page one product
    that is to change is changed. Afterwards each of those that stayed was shown exactly once, in the right order.
    """
    chance = random.Random(str(parameters) + way)
    category = (await shop.call("POST", "/categories", 201, {"name": "Tools"}))["id"]

    def product() -> dict[str, Any]:
        first, second = chance.choice(["Lamp", "lamp", "LÁMP", "Rope"]), chance.choice(["shade", "Lampshade"])
        name = f"{first} {second} {chance.randrange(2)}"
        description = chance.choice(["", "lamp", "rope 0"])
        return {
            "name": name,
            "description": description,
            "price_minor": chance.randrange(100, 103),
            "category_id": chance.choice([category, category, None]),
        }

    ids = await fill(shop, *(product() for _ in range(40)))
    changing, staying = ids[::2], set(ids[1::2])
    parameters = {"currency": "EUR", "limit": "3", **parameters}
    before = [item for item in await pages(shop, **{**parameters, "limit": "100"}) if item["id"] in staying]
    assert before

    async def change() -> None:
        chosen = chance.choice(changing)
        match chance.randrange(4):
            case 0:
                await fill(shop, product())
            case 1:
                await shop.call("DELETE", f"/products/{chosen}", 204)
            case 2:
                await shop.call("PATCH", f"/products/{chosen}", 200, {**product(), "active": True})
            case _:
                await shop.call("POST", f"/products/{chosen}/stock", 200, {"delta": 1, "reason": "x"})

    shown = await pages(shop, change, **parameters)
    assert [item for item in shown if item["id"] in staying] == before


@pytest.mark.parametrize(("bound", "value"), [("MAX_WALKS", 1), ("WALK_SECONDS", 0)])
async def test_a_walk_stops_and_goes_on(
    shop: Shop, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Where few of very many products match against the estimate, a page is shorter, and the next one goes on."""
    monkeypatch.setattr(search, "FEW", 0)
    monkeypatch.setattr(search, bound, value)
    await fill(shop, "Old lamp")
    await database.execute(MANY, 12_000)
    for sort in ("relevance", "newest", "price", "-price", "name"):
        page = await shop.call("GET", f"/search?q=lamp&currency=EUR&sort={sort}&limit=1", 200)
        assert (page["items"] == []) == (sort not in ("price",))
        shown = await pages(shop, q="lamp", currency="EUR", sort=sort, limit=1)
        assert [item["name"] for item in shown] == ["Old lamp"]


async def test_few_products_within_the_prices(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute(MANY, 12_000)
    for query in ("", "a"):
        parameters = {"currency": "EUR", "min_price_minor": 10_005, "max_price_minor": 10_007}
        assert await names(shop, query, **parameters) == ["A 7", "A 6", "A 5"]
        assert await names(shop, query, **parameters, sort="name") == ["A 5", "A 6", "A 7"]
        assert await names(shop, query, **parameters, available="true") == []


# Products that cost more, and whose names come before.
MANY = """
WITH product AS (
    INSERT INTO products (name, price_minor, currency, stock)
    SELECT 'A ' || n, 10000 + n, 'EUR', 0 FROM generate_series(1, $1::integer) AS n
    RETURNING id, name, price_minor
)
INSERT INTO product_search (product_id, version, language, words, name_key, price_minor, currency)
SELECT id, 1, 'simple', '$EUR =a a', lower(name), price_minor, 'EUR' FROM product
"""


async def test_a_cursor_belongs_to_its_order(shop: Shop) -> None:
    await fill(shop, "A", "B")
    cursor = (await shop.call("GET", "/search?limit=1", 200))["next_cursor"]
    assert await names(shop, after=cursor) == ["A"]
    assert is_problem(await shop.http.get(f"/search?sort=name&after={cursor}"), 422, "invalid")
    for wrong in (cursor[:-1], cursor + "A", cursor[::-1], cursor[4:]):
        assert (await shop.http.get(f"/search?after={wrong}")).status_code == 422


# The index


async def stale(resources: Resources, language: str = "simple") -> int:
    """How many search rows were not equal to their products; they are now."""
    return await search.index_stale(resources.pool, language)


async def test_every_change_keeps_the_index_equal(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    lamp, rope = await fill(shop, "Lamp", "Rope")
    await shop.call("PATCH", f"/products/{lamp}", 200, {"price_minor": 7, "description": "Bright"})
    await shop.call("DELETE", f"/products/{rope}", 204)
    kept = await database.fetch("SELECT * FROM product_search ORDER BY product_id")
    assert await stale(resources) == 0
    await database.execute("TRUNCATE product_search")
    assert await stale(resources) == 1
    assert await database.fetch("SELECT * FROM product_search ORDER BY product_id") == kept


async def test_what_is_stale_is_indexed_again(shop: Shop, resources: Resources, database: asyncpg.Connection) -> None:
    ids = await fill(shop, "Lamp", "Rope", "Houses", "Gone")
    await database.execute("DELETE FROM product_search WHERE product_id = $1", ids[0])
    await database.execute("UPDATE products SET name = 'Cord', version = version + 1 WHERE id = $1", ids[1])
    await database.execute("UPDATE products SET active = false WHERE id = $1", ids[3])
    assert await stale(resources) == 3
    assert await names(shop) == ["Houses", "Cord", "Lamp"]
    assert await names(shop, "cord") == ["Cord"]
    # Another language indexes all anew.
    assert await stale(resources, "english") == 3
    assert await stale(resources, "english") == 0


async def test_two_edits_at_once_leave_the_index_equal(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    [lamp] = await fill(shop, "Lamp")
    edits = [{"name": f"Lamp {n}", "price_minor": n} for n in range(1, 21)]
    await asyncio.gather(*(shop.call("PATCH", f"/products/{lamp}", 200, edit) for edit in edits), stale(resources))
    product = await shop.call("GET", f"/products/{lamp}", 200)
    row = await database.fetchrow("SELECT name_key, price_minor, version, words::text FROM product_search")
    number = product["name"].split()[1]
    assert (row["name_key"], row["price_minor"], row["version"]) == (f"lamp {number}", int(number), product["version"])
    assert f"'={number}'" in row["words"]


async def test_indexing_waits_for_an_edit_and_then_sees_it(
    resources: Resources, shop: Shop, database: asyncpg.Connection
) -> None:
    [lamp] = await fill(shop, "Lamp")
    await database.execute("DELETE FROM product_search")
    await database.execute("BEGIN")
    await database.execute("UPDATE products SET name = 'Torch', version = 2 WHERE id = $1", lamp)
    indexing = asyncio.create_task(stale(resources))
    await wait_for_blocked(database)
    await database.execute("COMMIT")
    await indexing
    assert await database.fetchval("SELECT name_key FROM product_search") == "torch"


# Languages


class TestGerman:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"SEARCH_LANGUAGE": "german"}

    async def test_forms_of_a_word_are_found(self, shop: Shop) -> None:
        await fill(shop, "Der Tisch mit Stühlen")
        for query in ("tische", "stuhl", "Stühle tisch", "stühlen mit tisch"):
            assert await names(shop, query) == ["Der Tisch mit Stühlen"], query
        # A word that the language leaves out, unless it comes last: it may be the beginning of another.
        assert await names(shop, "das tisch") == ["Der Tisch mit Stühlen"]
        assert await names(shop, "tisch das") == []

    async def test_beginnings_of_words_are_found(self, shop: Shop) -> None:
        await fill(shop, "Universitäten", "Derby", "Laufschuhe")
        for query, name in (("universitä", "Universitäten"), ("der", "Derby"), ("laufschu", "Laufschuhe")):
            assert await names(shop, query) == [name], query
            assert await names(shop, query, sort="name") == [name], query
        assert await names(shop, "laufschue") == ["Laufschuhe"]


class TestEnglish:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"SEARCH_LANGUAGE": "english"}

    async def test_forms_and_beginnings_of_words_are_found(self, shop: Shop) -> None:
        await fill(shop, "University guide", "Running shoes", "Themes", "Nothing else")
        for query, name in (
            ("universit", "University guide"),
            ("universities", "University guide"),
            ("runnin", "Running shoes"),
            ("runs the shoe", "Running shoes"),
            ("the", "Themes"),
            ("no", "Nothing else"),
            ("runnnig", "Running shoes"),
        ):
            assert await names(shop, query) == [name], query
