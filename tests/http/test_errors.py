"""What does not go well: bad input, limits, who may not, and what nobody foresaw; each a problem document."""

import asyncio
import json
import logging
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.settings import Settings
from tests.client import Shop

TOKEN = "s3cret-tökén"
ORIGIN = "https://shop.example"
JSON = {"Content-Type": "application/json"}
PRODUCT = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}

# Every call of catalogue and carts that reads a body, with a body that it takes.
BODIES: dict[str, dict[str, Any]] = {
    "POST /categories": {"name": "Camping"},
    "PATCH /categories/{category}": {"name": "Camping"},
    "POST /products": PRODUCT,
    "PATCH /products/{product}": {"name": "Tent"},
    "POST /products/{product}/stock": {"delta": 1, "reason": "delivery"},
    "POST /carts": {},
    "POST /carts/{cart}/items": {"product_id": 1, "quantity": 1},
    "PUT /carts/{cart}/items/{product}": {"quantity": 1},
    "POST /carts/{cart}/checkout": {},
}
TOO_LONG = 201 * "x"
ID_BAD = [0, -1, 2**63, 10**400, 1.5, "1", True, []]
# The member at fault: what it cannot be.
WRONG: dict[str, dict[str, list[Any]]] = {
    "POST /categories": {"name": ["", " ", TOO_LONG, "a\0", 1, None, ["x"]], "slug": ["", TOO_LONG, "a\0", 1]},
    "PATCH /categories/{category}": {"name": ["", " ", TOO_LONG, "a\0", 1, None], "slug": ["", "a\0", None]},
    "POST /products": {
        "name": ["", " ", TOO_LONG, "a\0", 1, None, {}],
        "description": ["x" * 10_001, "a\0", None, 1],
        "category_id": ID_BAD,
        "price_minor": [0, -1, 100_000_000, 2**63, 12.5, "1", None, True],
        "currency": ["", "EU", "eur", "XXX", "ISK", "EURO", "EUR\n", None, 978],
        "stock": [-1, 1_000_000_001, 2**31, 2**63, 1.5, "1", None, True],
        "active": [None, 1, "true"],
    },
    "PATCH /products/{product}": {
        "name": ["", " ", TOO_LONG, "a\0", 1, None],
        "description": ["x" * 10_001, "a\0", None],
        "category_id": ID_BAD,
        "price_minor": [0, -1, 100_000_000, 2**63, 12.5, "1", None],
        "active": [None, 1, "true"],
    },
    "POST /products/{product}/stock": {
        "delta": [0, 1_000_000_001, -1_000_000_001, 2**31, 2**63, 1.5, "1", None, True],
        "reason": ["", " ", TOO_LONG, "a\0", 1, None],
    },
    "POST /carts/{cart}/items": {
        "product_id": [*ID_BAD, None],
        "quantity": [0, -1, 10_000, 2**31, 2**63, 1.5, "1", None, True],
    },
    "PUT /carts/{cart}/items/{product}": {"quantity": [0, -1, 10_000, 2**31, 2**63, 1.5, "1", None, True]},
    "POST /carts/{cart}/checkout": {"expected_total_minor": [-1, 2**63, 1.5, "1", True]},
}
# Bytes that are not JSON in UTF-8; and JSON that no call takes.
MALFORMED = [
    b"{",
    b"x",
    b"{'name': 1}",
    b'{"name": "\xff"}',
    b'{"name": "\\ud800"}',
    b'\xef\xbb\xbf{"name": "x"}',
    b'{"name": "x"} {}',
    b'{"name": NaN}',
    b'{"name": -Infinity}',
    b"[" * 60_000,
    b'{"name": 1' + 5000 * b"0" + b"}",
    '{"name": "x"}'.encode("utf-16"),
]
REFUSED = [
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b'{"surprise": 1}',
    b'{"surprise": 1e400}',
    b'{"": 1}',
    b'{"__class__": {}}',
]


@pytest.fixture
async def ids(shop: Shop) -> dict[str, str]:
    category = await shop.call("POST", "/categories", 201, {"name": "One"})
    tent = await shop.product(category_id=category["id"])
    return {"category": category["id"], "product": tent["id"], "cart": await shop.cart((tent["id"], 1))}


async def everything(database: asyncpg.Connection) -> list[Any]:
    return [
        await database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("categories", "products", "carts", "cart_items", "stock_movements", "orders")
    ]


def is_problem(answer: Any, status: int, code: str) -> bool:
    """Whether this is the problem document for that code, and nothing else of it."""
    document = answer.json()
    own = {"type", "title", "status", "detail", "code"}
    return (
        answer.status_code == document["status"] == status
        and document["code"] == code
        and document["type"] == f"/problems/{code}"
        and answer.headers["content-type"] == "application/problem+json"
        and own <= document.keys()
        and all(document[member] for member in own)
        and (code != "invalid" or all(e.keys() == {"pointer", "message"} for e in document["errors"]))
        and bool(answer.headers["x-request-id"])
    )


@pytest.mark.parametrize("call", BODIES)
async def test_a_bad_body_changes_nothing(
    shop: Shop, ids: dict[str, str], database: asyncpg.Connection, call: str
) -> None:
    method, path = call.format(**ids).split()
    before = await everything(database)

    async def send(body: bytes, **headers: str) -> Any:
        return await shop.http.request(method, path, content=body, headers={**JSON, **headers})

    for body in MALFORMED:
        assert is_problem(await send(body), 400, "malformed"), body[:40]
    for body in REFUSED:
        assert is_problem(await send(body), 422, "invalid"), body
    for member, values in WRONG.get(call, {}).items():
        for value in values:
            answer = await send(json.dumps({**BODIES[call], member: value}).encode())
            assert is_problem(answer, 422, "invalid"), (member, value, answer.text)
            assert [error["pointer"].split("/")[1] for error in answer.json()["errors"]] == [member], value
            # What a stranger sent is not sent back.
            assert len(str(value)) < 10 or str(value) not in answer.text
    good = json.dumps(BODIES[call]).encode()
    for kind in ("text/plain", "", "application/x-www-form-urlencoded", "application/jsonp", "text/json"):
        assert is_problem(await send(good, **{"Content-Type": kind}), 415, "unsupported_media_type"), kind
    over = good + (64 * 1024 + 1 - len(good)) * b" "
    assert is_problem(await send(over), 413, "body_too_large")
    assert is_problem(await send(10 * over), 413, "body_too_large")

    async def chunks() -> Any:
        for first in range(0, len(over), 10_000):
            yield over[first : first + 10_000]

    chunked = await shop.http.request(method, path, content=chunks(), headers=JSON)
    assert is_problem(chunked, 413, "body_too_large")
    assert await everything(database) == before


async def test_bodies_at_the_limit_are_taken(shop: Shop) -> None:
    body = json.dumps(PRODUCT).encode().ljust(64 * 1024)
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON", "application/ld+json"):
        answer = await shop.http.post("/products", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text


async def test_errors_name_every_member_at_fault(shop: Shop) -> None:
    refused = await shop.call(
        "POST", "/products", 422, {"name": "", "stock": "1", "currency": "EUR", "colour": "vermilion"}
    )
    pointers = sorted(error["pointer"] for error in refused["errors"])
    assert pointers == ["", "/name", "/price_minor", "/stock"]
    assert all(error["message"] for error in refused["errors"])
    # Neither the value nor the name of what is unknown is sent back.
    assert "vermilion" not in str(refused)
    assert "colour" not in str(refused)


async def test_an_impossible_id_is_not_found(shop: Shop, ids: dict[str, str]) -> None:
    for wrong in ("0", "-1", "x", "1.0", "01", "+1", "1e3", "%20", "%00", "%ff", "é", "１", str(2**63), "9" * 400):
        for call in (
            "GET /products/{}",
            "PATCH /products/{}",
            "DELETE /products/{}",
            "POST /products/{}/stock",
            "PATCH /categories/{}",
            "DELETE /categories/{}",
            f"PUT /carts/{ids['cart']}/items/{{}}",
            f"DELETE /carts/{ids['cart']}/items/{{}}",
        ):
            method, path = call.format(wrong).split()
            body = {"POST": {"delta": 1, "reason": "x"}, "PUT": {"quantity": 1}, "PATCH": {"name": "x"}}.get(method)
            sent = {"json": body} if body else {}
            assert is_problem(await shop.http.request(method, path, **sent), 404, "not_found"), (method, path)


async def test_a_bad_query_is_refused(shop: Shop) -> None:
    numbers = ("", "x", "-1", "1.5", "1e2", str(2**63), "9" * 400, "%00", "%ff")
    queries = [f"/products?limit={limit}" for limit in (*numbers, "0", "101")]
    queries += [f"/products?after_id={after}" for after in numbers]
    queries += [f"/categories?after_id={after}" for after in numbers]
    queries += [f"/categories?limit={limit}" for limit in ("0", "1001", "x")]
    queries += ["/products?category=a%00", "/products?category=" + TOO_LONG]
    for query in queries:
        answer = await shop.http.get(query)
        assert is_problem(answer, 422, "invalid"), query
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/" + query.split("?")[1].split("=")[0]]
    for query in ("/products?category=", "/products?category=%ff", "/products?category=%ED%A0%80"):
        assert is_problem(await shop.http.get(query), 404, "not_found"), query


async def test_an_address_that_is_none_is_not_found(shop: Shop) -> None:
    for path in ("/", "/nope", "/products/", "/carts", "/docs/", "/redoc", "/docs/static/nope", "/problems/nope", "/é"):
        answer = await shop.http.get(path)
        if path == "/carts":
            assert is_problem(answer, 405, "method_not_allowed")
        else:
            assert is_problem(answer, 404, "not_found"), path


async def test_an_address_names_the_methods_it_takes(shop: Shop) -> None:
    document = (await shop.http.get("/openapi.json")).json()
    assert len(document["paths"]) > 15
    for path, calls in document["paths"].items():
        taken = {method.upper() for method in calls} | ({"HEAD"} if "get" in calls else set())
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - taken:
            answer = await shop.http.request(method, path.replace("{", "").replace("}", ""))
            assert set(answer.headers["allow"].split(", ")) == taken, (method, path)
            assert method == "HEAD" or is_problem(answer, 405, "method_not_allowed")


async def test_head_is_get_without_the_body(shop: Shop) -> None:
    path = f"/products/{(await shop.product())['id']}"
    for where in (path, "/products", "/health/live", "/docs", "/products/404"):
        get, head = await shop.http.get(where), await shop.http.head(where)
        assert head.content == b""
        changing = ("x-request-id", "date")
        assert {n: v for n, v in head.headers.items() if n not in changing} == {
            n: v for n, v in get.headers.items() if n not in changing
        }
        assert head.status_code == get.status_code


async def test_every_answer_has_its_request_id(shop: Shop) -> None:
    for given in ("mine", "a" * 128, "1-67891233-abc:def/1.2+3=="):
        answer = await shop.http.get("/products", headers={"X-Request-ID": given})
        assert answer.headers.get_list("x-request-id") == [given]
    made = []
    bad: list[Any] = ["", "a" * 129, "a b", 'a"b', b"\xe9", "a{b}"]
    for given in bad:
        answer = await shop.http.get("/nope", headers={"X-Request-ID": given})
        made.append(answer.headers["x-request-id"])
    assert all(len(request_id) == 32 for request_id in made)
    assert len(set(made)) == len(made)


async def test_what_nobody_foresaw_is_logged_and_not_told(
    shop: Shop, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await database.execute("ALTER TABLE products RENAME description TO secret")
    with caplog.at_level(logging.ERROR):
        answer = await shop.http.get("/products/1", headers={"X-Request-ID": "mine"})
    assert is_problem(answer, 500, "internal")
    assert answer.headers["x-request-id"] == "mine"
    assert "description" not in answer.text
    assert [record.message for record in caplog.records if record.name == "service.http"] == ["unforeseen"]


class TestOrigins:
    """Browsers of other origins."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"CORS_ORIGINS": f"https://admin.example, {ORIGIN}"}

    async def test_those_named_are_let_in(self, shop: Shop, database: asyncpg.Connection) -> None:
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
        asked = {**preflight, "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,if-match"}
        answer = await shop.http.options("/products/1", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
        assert answer.headers["x-request-id"]
        await database.execute("ALTER TABLE products RENAME description TO secret")
        for path, status in (("/products", 200), ("/nope", 404), ("/products/1", 500)):
            answer = await shop.http.get(path, headers={"Origin": ORIGIN})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert "Origin" in answer.headers["vary"]
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert exposed >= {"ETag", "Location", "Retry-After", "Idempotent-Replayed", "X-Request-ID"}

    async def test_others_are_not(self, shop: Shop) -> None:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            await shop.http.options("/carts", headers=headers),
            await shop.http.get("/products", headers=headers),
        ):
            assert "access-control-allow-origin" not in answer.headers


async def test_without_origins_none_is_let_in(shop: Shop) -> None:
    answer = await shop.http.get("/products", headers={"Origin": ORIGIN})
    assert [name for name in answer.headers if name.startswith("access-control")] == []


class TestStaff:
    """Calls that need the ADMIN_TOKEN."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"ADMIN_TOKEN": TOKEN}

    async def test_need_the_token(self, shop: Shop, database: asyncpg.Connection) -> None:
        before = await everything(database)
        wrong: list[Any] = [
            None,
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN}".encode(),
            TOKEN.encode(),
            f"Bearer {TOKEN}x".encode(),
            b"Bearer \xff",
        ]
        for call in (
            "POST /categories",
            "PATCH /categories/1",
            "DELETE /categories/1",
            "POST /products",
            "PATCH /products/1",
            "DELETE /products/1",
            "POST /products/1/stock",
            "GET /orders",
            f"POST /orders/{uuid4()}/refund",
        ):
            method, path = call.split()
            for authorization in wrong:
                headers = {} if authorization is None else {"Authorization": authorization}
                answer = await shop.http.request(method, path, headers=headers, content=b"{")
                assert is_problem(answer, 401, "unauthorized"), (call, authorization)
                assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert await everything(database) == before

    async def test_are_let_in_with_it(self, shop: Shop, settings: Settings) -> None:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {settings.admin_token}".encode()}
            made = await shop.http.post("/products", json=PRODUCT, headers=headers)
            assert made.status_code == 201, scheme
        assert (await shop.http.get("/orders", headers=headers)).status_code == 200
        # Customers need none.
        product = made.json()["id"]
        for path in (f"/products/{product}", "/products", "/categories"):
            await shop.call("GET", path, 200)
        placed = await shop.placed((product, 1))
        for path in (f"/orders/{placed['order_id']}", f"/orders/{placed['order_id']}/timeline"):
            await shop.call("GET", path, 200)
        await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)


async def test_calls_at_once_do_not_mix_up(shop: Shop) -> None:
    products = [(await shop.product(stock=n))["id"] for n in range(10)]

    async def look(n: int) -> bool:
        answer = await shop.http.get(f"/products/{products[n % 10]}", headers={"X-Request-ID": f"id-{n}"})
        return bool(answer.json()["stock"] == n % 10 and answer.headers["x-request-id"] == f"id-{n}")

    assert all(await asyncio.gather(*[look(n) for n in range(200)]))
