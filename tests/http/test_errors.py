"""Errors are problem documents: bad input, limits, missing credentials, unhandled errors."""

import asyncio
import json
import logging
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.settings import Settings
from tests.client import Shop, is_problem
from tests.database import checksum_tables

TOKEN = "s3cret-tökén-of-32-characters-…-"
ORIGIN = "https://shop.example"
JSON = {"Content-Type": "application/json"}
PRODUCT = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}


@pytest.fixture
async def ids(shop: Shop) -> dict[str, str]:
    category = await shop.call("POST", "/categories", 201, {"name": "One"})
    tent = await shop.create_product(category_id=category["id"])
    return {"category": category["id"], "product": tent["id"], "cart": await shop.create_cart((tent["id"], 1))}


async def test_a_body_at_the_limit_is_accepted(shop: Shop) -> None:
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
    # The answer repeats neither the value nor the name of an unknown member.
    assert "vermilion" not in str(refused)
    assert "colour" not in str(refused)


async def test_an_unknown_address_is_not_found(shop: Shop) -> None:
    assert is_problem(await shop.http.get("/carts"), 405, "method_not_allowed")
    assert is_problem(await shop.http.get("/nope"), 404, "not_found")


async def test_a_405_names_the_methods_of_the_address(shop: Shop) -> None:
    document = (await shop.http.get("/openapi.json")).json()
    assert len(document["paths"]) > 15
    for path, calls in document["paths"].items():
        taken = {method.upper() for method in calls} | ({"HEAD"} if "get" in calls else set())
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - taken:
            answer = await shop.http.request(method, path.replace("{", "").replace("}", ""))
            assert set(answer.headers["allow"].split(", ")) == taken, (method, path)
            assert method == "HEAD" or is_problem(answer, 405, "method_not_allowed")


async def test_head_is_get_without_the_body(shop: Shop) -> None:
    path = f"/products/{(await shop.create_product())['id']}"
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
    assert all(len(request_id) == 49 for request_id in made)
    assert len(set(made)) == len(made)


async def test_an_unhandled_error_is_logged_and_not_disclosed(
    shop: Shop, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await database.execute("ALTER TABLE products RENAME description TO secret")
    with caplog.at_level(logging.ERROR):
        answer = await shop.http.get("/products/1", headers={"X-Request-ID": "mine"})
    assert is_problem(answer, 500, "internal")
    assert answer.headers["x-request-id"] == "mine"
    assert "description" not in answer.text
    assert [record.message for record in caplog.records if record.name == "service.http"] == ["unhandled error"]


class TestOrigins:
    """Browsers of other origins."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"CORS_ORIGINS": f"https://admin.example, {ORIGIN}"}

    async def test_configured_origins_are_allowed(self, shop: Shop, database: asyncpg.Connection) -> None:
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

    async def test_other_origins_are_not_allowed(self, shop: Shop) -> None:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            await shop.http.options("/carts", headers=headers),
            await shop.http.get("/products", headers=headers),
        ):
            assert "access-control-allow-origin" not in answer.headers

    async def test_every_answer_depends_on_the_origin(self, shop: Shop) -> None:
        """Goal: no shared cache shows one origin's answer to another. Method: each kind of answer, with and without."""
        product = await shop.create_product()
        path = f"/products/{product['id']}"
        tag = (await shop.http.get(path)).headers["etag"]
        calls: list[tuple[str, str, dict[str, str], int]] = [
            *5 * [("GET", "/products", {}, 200)],
            ("HEAD", "/products", {}, 200),
            ("GET", "/products?limit=1", {}, 200),
            ("GET", path, {}, 200),
            ("GET", path, {"If-None-Match": tag}, 304),
            ("GET", "/products?limit=0", {}, 422),
            ("GET", "/products/0", {}, 404),
            ("POST", "/nope", {}, 404),
            ("PUT", "/products", {}, 405),
            ("POST", "/carts", {}, 201),
            ("POST", "/webhooks/stripe", {}, 400),
            ("GET", "/health/live", {}, 200),
            ("GET", "/openapi.json", {}, 200),
            ("GET", "/docs/static/swagger-ui.css", {}, 200),
            ("GET", "/problems/invalid", {}, 200),
        ]
        for origin in (ORIGIN, "https://evil.example", None):
            for method, target, headers, status in calls:
                sent = headers | ({"Origin": origin} if origin else {})
                answer = await shop.http.request(method, target, headers=sent)
                assert answer.status_code == status, target
                assert answer.headers.get_list("vary", split_commas=True).count("Origin") == 1, (target, origin)
                allowed = answer.headers.get_list("access-control-allow-origin")
                assert allowed == ([ORIGIN] if origin == ORIGIN else []), (target, origin)


async def test_without_settings_no_origin_is_allowed(shop: Shop) -> None:
    answer = await shop.http.get("/products", headers={"Origin": ORIGIN})
    assert [name for name in answer.headers if name.startswith("access-control")] == []


class TestStaff:
    """Calls that need the ADMIN_TOKEN."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"ADMIN_TOKEN": TOKEN}

    async def test_calls_need_the_token(self, shop: Shop, database: asyncpg.Connection) -> None:
        before = await checksum_tables(database)
        missing: list[Any] = [None, ""]
        wrong: list[Any] = [
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
            for authorization in missing + wrong:
                headers = {} if authorization is None else {"Authorization": authorization}
                answer = await shop.http.request(method, path, headers=headers, content=b"{")
                code = "invalid_token" if authorization in wrong else "unauthorized"
                assert is_problem(answer, 401, code), (call, authorization)
                challenge = answer.headers["www-authenticate"]
                assert challenge.startswith("Bearer ")
                assert ('error="invalid_token"' in challenge) == (authorization in wrong)
        assert await checksum_tables(database) == before

    async def test_the_token_is_accepted(self, shop: Shop, settings: Settings) -> None:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {settings.admin_token}".encode()}
            made = await shop.http.post("/products", json=PRODUCT, headers=headers)
            assert made.status_code == 201, scheme
        assert (await shop.http.get("/orders", headers=headers)).status_code == 200
        # Customers need no token.
        product = made.json()["id"]
        for path in (f"/products/{product}", "/products", "/categories"):
            await shop.call("GET", path, 200)
        placed = await shop.checked_out_cart((product, 1))
        for path in (f"/orders/{placed['order_id']}", f"/orders/{placed['order_id']}/timeline"):
            await shop.call("GET", path, 200)
        await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)


# Names that anybody's DNS server can bind to this machine's address, and hosts that it cannot.
REBOUND = ("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.1")
OWN = ("localhost:8080", "LOCALHOST", "127.0.0.1", "192.168.1.7:8080", "[::1]:8080", "[::1]")


async def test_open_staff_calls_are_not_open_to_a_strangers_page(shop: Shop) -> None:
    """Its browser sends the Host of a name that the stranger bound to this machine's address."""
    product = await shop.create_product(active=False)
    for host in REBOUND:
        answer = await shop.http.get("/orders", headers={"Host": host})
        assert is_problem(answer, 401, "unauthorized"), host
        assert (await shop.http.get(f"/products/{product['id']}", headers={"Host": host})).status_code == 404
    for host in OWN:
        assert (await shop.http.get("/orders", headers={"Host": host})).status_code == 200, host


@pytest.mark.parametrize("changed_settings", [{"ALLOW_OPEN_STAFF": "true"}])
async def test_allowed_open_staff_calls_are_open_by_any_name(shop: Shop) -> None:
    assert (await shop.http.get("/orders", headers={"Host": "demo.example"})).status_code == 200


async def test_concurrent_calls_get_their_own_answers(shop: Shop) -> None:
    products = [(await shop.create_product(stock=n))["id"] for n in range(10)]

    async def look(n: int) -> bool:
        answer = await shop.http.get(f"/products/{products[n % 10]}", headers={"X-Request-ID": f"id-{n}"})
        return bool(answer.json()["stock"] == n % 10 and answer.headers["x-request-id"] == f"id-{n}")

    assert all(await asyncio.gather(*[look(n) for n in range(200)]))
