"""The OpenAPI document: complete, precise, true, and with examples that work."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg
import jsonschema_rs
import pytest

from service.app import create_app
from service.dev.seed import EXAMPLE_CART, EXAMPLE_ORDER, seed
from service.errors import KINDS
from service.http.policy import POLICY
from service.infra.resources import Resources
from service.settings import Settings
from service.shop import money
from tests.client import Shop

Document = dict[str, Any]
NEVER_SERVED = Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",))
EDITS = ("PATCH", "DELETE")


@pytest.fixture(scope="module")
def document() -> Document:
    return create_app(NEVER_SERVED).openapi()


def calls_of(document: Document) -> dict[str, Any]:
    """The operations by method and path."""
    return {
        f"{method.upper()} {path}": call for path, calls in document["paths"].items() for method, call in calls.items()
    }


def find(value: Any, name: str) -> Iterator[Any]:
    """All values under this name, at any depth."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for inner in value.values():
            yield from find(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, name)


def test_every_reference_has_its_component(document: Document) -> None:
    references = {reference for reference in find(document, "$ref") if isinstance(reference, str)}
    components = {f"#/components/{kind}/{name}" for kind, named in document["components"].items() for name in named}
    assert document["openapi"].startswith("3.1")
    assert references <= components
    # Nothing is left over; security schemes are referred to by their names.
    assert {c for c in components - references if "securitySchemes" not in c} == set()


def test_every_call_is_described(document: Document) -> None:
    calls = calls_of(document)
    operations = [call["operationId"] for call in calls.values()]
    assert len(operations) == len(set(operations)) >= 27
    assert "list_products" in operations
    known = {str(kind.status) for kind in KINDS.values()}
    for name, call in calls.items():
        statuses = set(call["responses"])
        assert statuses & {"200", "201", "204"}, name
        assert statuses - known <= {"200", "201", "204", "304"}, name
        for status in statuses & known:
            assert "application/problem+json" in call["responses"][status]["content"], (name, status)
        parameters = {(p["in"], p["name"]) for p in call.get("parameters", [])}
        assert {n for kind, n in parameters if kind == "path"} == set(re.findall(r"{(\w+)}", name))
        keyed = name.startswith("POST") and "webhooks" not in name
        assert (("header", "Idempotency-Key") in parameters) == keyed, name
        for parameter in call.get("parameters", []):
            schema = parameter["schema"]
            assert schema.get("type") != "integer" or "minimum" in schema
            assert schema.get("type") != "integer" or "maximum" in schema or schema["format"] == "int64"
        if "requestBody" in call:
            assert statuses >= {"400", "413", *(() if "webhooks" in name else ("415", "422"))}, name
        assert ("401" in statuses) == bool(call["security"]), name
        # Some parameters of the listing of products are for staff.
        for_staff = call["security"] and ({} not in call["security"] or name == "GET /products")
        assert ("403" in statuses) == bool(for_staff), name
        shop_call = name.split(" ")[1].split("/")[1] in ("products", "categories", "carts", "orders")
        assert ("{" in name and shop_call) <= ("404" in statuses), name
        assert shop_call <= ("503" in statuses), name
    assert all(len(call["security"]) <= 2 for call in calls.values())
    scopes = {name: need for name, call in calls.items() for one in call["security"] for need in one.get("bearer", [])}
    assert scopes == {name: rule for name, rule in POLICY.items() if ":" in rule}
    assert set(scopes) == {
        *(f"{method} /categories{rest}" for method, rest in (("POST", ""), *((m, "/{category_id}") for m in EDITS))),
        *(f"{method} /products{rest}" for method, rest in (("POST", ""), *((m, "/{product_id}") for m in EDITS))),
        "POST /products/{product_id}/stock",
        "GET /products/{product_id}/stock",
        "PUT /products/by-sku/{sku}",
        "GET /orders",
        "POST /orders/{order_id}/refund",
        "GET /audit",
        "POST /auth/revocations",
        "GET /stuck",
        "POST /stuck/{kind}/{id}/resolve",
        "POST /event-endpoints",
        "GET /event-endpoints",
        "GET /event-endpoints/{endpoint_id}",
        "PATCH /event-endpoints/{endpoint_id}",
        "DELETE /event-endpoints/{endpoint_id}",
        "POST /event-endpoints/{endpoint_id}/rotate",
        "GET /event-endpoints/{endpoint_id}/deliveries",
        "POST /event-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend",
    }
    assert ("header", "If-Match") in {(p["in"], p["name"]) for p in calls["PATCH /products/{product_id}"]["parameters"]}
    assert "304" in calls["GET /products/{product_id}"]["responses"]


def test_everything_has_a_description(document: Document) -> None:
    for name, call in calls_of(document).items():
        assert call["summary"], name
        assert call["description"].endswith("."), name
        assert all(parameter["description"] for parameter in call.get("parameters", [])), name
        assert all(response["description"] for response in call["responses"].values()), name
    for name, schema in document["components"]["schemas"].items():
        for member, described in schema.get("properties", {}).items():
            assert described["description"], (name, member)


def test_lists_are_closed(document: Document) -> None:
    schemas = document["components"]["schemas"]

    def values(schema: str, member: str) -> set[str]:
        return set(next(find(schemas[schema]["properties"][member], "enum")))

    orders = {"PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED"}
    payments = {"INITIATED", "PROCESSING", "SUCCEEDED", "FAILED", "EXPIRED", "REFUND_PENDING", "REFUNDED"}
    assert values("Cart", "status") == {"OPEN", "CHECKED_OUT"}
    assert values("ListedCart", "status") == values("Cart", "status")
    for schema in ("Order", "ListedOrder", "OwnOrder", "Checkout"):
        assert values(schema, "status") == orders
        assert values(schema, "currency") == set(money.CURRENCIES)
    assert values("Transition", "from") == values("Transition", "to") == orders
    assert values("Payment", "status") == values("CheckoutPayment", "status") == payments
    assert values("ListedOrder", "payment_status") == payments
    for schema in ("NewProduct", "Product", "ListedProduct", "Cart"):
        assert values(schema, "currency") == set(money.CURRENCIES)
    # A schema for each code, but for a status that no call answers.
    codes = {schema["properties"]["code"]["const"] for name, schema in schemas.items() if name.endswith("Problem")}
    assert codes == KINDS.keys() - {"method_not_allowed"}


def test_a_problem_has_the_members_of_its_code(document: Document) -> None:
    schemas = document["components"]["schemas"]
    for call in calls_of(document).values():
        for status, response in call["responses"].items():
            if content := response.get("content", {}).get("application/problem+json"):
                for reference in {*find(content, "$ref")}:
                    properties = schemas[reference.rpartition("/")[2]]["properties"]
                    code = properties["code"]["const"]
                    assert str(KINDS[code].status) == status == str(properties["status"]["const"])
                    assert properties.keys() == {"type", "title", "status", "detail", "code", *KINDS[code].members}


def test_ids_in_paths_have_types(document: Document) -> None:
    for name, call in calls_of(document).items():
        for parameter in call.get("parameters", []):
            if parameter["in"] == "path" and parameter["name"].endswith("_id"):
                schema = parameter["schema"]
                integer = parameter["name"] in ("product_id", "category_id", "endpoint_id", "delivery_id")
                assert (schema["type"], schema["format"]) == (
                    ("integer", "int64") if integer else ("string", "uuid")
                ), name


def test_javascript_can_represent_every_number(document: Document) -> None:
    for keyword in ("default", "minimum", "maximum", "example"):
        for number in find(document, keyword):
            assert not isinstance(number, int | float) or abs(number) <= 2**53, (keyword, number)


def test_responses_name_their_headers(document: Document) -> None:
    calls = calls_of(document)

    def headers(name: str, status: str) -> set[str]:
        return set(calls[name]["responses"][status].get("headers", {}))

    limits = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
    assert headers("POST /products", "201") == {"X-Request-ID", *limits, "Location", "Idempotent-Replayed"}
    assert headers("GET /products/{product_id}", "200") == {"X-Request-ID", *limits, "ETag"}
    assert headers("GET /products/{product_id}", "304") == {"X-Request-ID", *limits, "ETag"}
    assert headers("POST /products", "401") == {"X-Request-ID", *limits, "WWW-Authenticate"}
    assert headers("GET /products", "503") == {"X-Request-ID", *limits, "Retry-After"}
    assert headers("GET /products", "404") == {"X-Request-ID", *limits}
    # Health and webhooks are not limited.
    assert headers("GET /health/live", "200") == headers("POST /webhooks/stripe", "200") == {"X-Request-ID"}
    # Waiting does not help where Stripe has refused.
    assert "Retry-After" not in headers("POST /carts/{cart_id}/checkout", "502")


def test_titles_are_unique(document: Document) -> None:
    titles = [schema["title"] for schema in document["components"]["schemas"].values()]
    assert len(titles) == len(set(titles))
    assert {"ProductPage", "CategoryPage", "OrderPage"} <= set(titles)


def test_examples_fit_their_schemas(document: Document) -> None:
    def complaints(schema: Any, example: Any) -> list[str]:
        whole = {
            **schema,
            "components": document["components"],
            "$schema": "https://json-schema.org/draft/2020-12/schema",
        }
        validator = jsonschema_rs.validator_for(whole, validate_formats=True)
        return [str(error.message) for error in validator.iter_errors(example)]

    for name, call in calls_of(document).items():
        contents = [response.get("content", {}) for response in call["responses"].values()]
        if "requestBody" in call:
            contents.append(call["requestBody"]["content"])
        for content in contents:
            for media_type, described in content.items():
                if media_type != "application/problem+json":
                    assert complaints(described["schema"], described["example"]) == [], (name, media_type)
        for parameter in call.get("parameters", []):
            assert "example" in parameter or not parameter["required"], (name, parameter["name"])
            assert not ("example" in parameter and complaints(parameter["schema"], parameter["example"])), (
                name,
                parameter,
            )
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Problem"):
            (example,) = schema["examples"]
            assert complaints(schema, example) == [], name


# What the examples cannot do twice, or not without Stripe's secret.
NOT_DONE = {
    "POST /webhooks/stripe": 400,
    # The order of the examples is cancelled.
    "POST /orders/{order_id}/refund": 409,
    # Nothing is stuck.
    "POST /stuck/{kind}/{id}/resolve": 404,
    # Nothing was sent.
    "POST /event-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend": 404,
    # There is no access token.
    **dict.fromkeys(("POST /carts/{cart_id}/claim", "POST /orders/{order_id}/claim"), 403),
    **dict.fromkeys(("GET /me/carts", "GET /me/orders"), 403),
}


async def test_examples_work_with_the_demo_data(
    shop: Shop, document: Document, api_resources: Resources, settings: Settings
) -> None:
    """Goal: Swagger UI's "Execute" works on each call as it is prefilled. Method: all, in the document's order."""
    await seed(api_resources.pool, 300, settings)
    calls = calls_of(document)

    for name, call in sorted(
        calls.items(), key=lambda item: item[0].startswith(("DELETE /categories", "DELETE /event"))
    ):
        method, path = name.split()
        query = {}
        for parameter in call.get("parameters", []):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
            elif parameter["in"] == "query" and "example" in parameter:
                query[parameter["name"]] = str(parameter["example"])
        body = call["requestBody"]["content"]["application/json"]["example"] if "requestBody" in call else None
        answer = await shop.http.request(method, path, params=query, json=body)
        assert answer.status_code == NOT_DONE.get(name, answer.status_code if answer.is_success else 200), (
            name,
            answer.text,
        )
        assert str(answer.status_code) in call["responses"], name


async def test_the_demo_has_a_cart_and_an_order_for_the_examples(
    api_resources: Resources, settings: Settings, database: asyncpg.Connection
) -> None:
    await seed(api_resources.pool, 300, settings)

    carts = await database.fetch("SELECT id, status FROM carts")
    orders = await database.fetch("SELECT id, status FROM orders")
    assert [tuple(row) for row in carts] == [(UUID(str(EXAMPLE_CART)), "OPEN")]
    assert [tuple(row) for row in orders] == [(UUID(str(EXAMPLE_ORDER)), "CANCELLED")]


async def test_the_documented_shapes_are_the_true_ones(shop: Shop) -> None:
    document = (await shop.http.get("/openapi.json")).json()

    def members(path: str, method: str, status: str = "200") -> set[str]:
        return shape(document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"])

    def model(schema: Any) -> Any:
        # The first of several is what everybody gets; the others are for staff.
        (reference, *_) = schema.get("anyOf", [schema])
        return document["components"]["schemas"][reference["$ref"].rpartition("/")[2]]["properties"]

    def shape(schema: Any) -> set[str]:
        return set(model(schema))

    tent = await shop.create_product()
    cart = await shop.call("GET", f"/carts/{await shop.create_cart((tent['id'], 1))}", 200)
    placed = await shop.check_out(cart["id"])
    assert members("/products", "post", "201") == set(tent)
    assert members("/carts/{cart_id}", "get") == set(cart)
    assert members("/carts/{cart_id}/checkout", "post", "201") == set(placed)
    assert members("/orders/{order_id}", "get") == set(await shop.get_order(placed["order_id"]))
    for path in ("/products", "/categories"):
        await shop.call("POST", "/categories", 201, {"name": path})
        page = await shop.call("GET", path, 200)
        assert members(path, "get") == set(page)
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert shape(model(schema)["items"]["items"]) == set(page["items"][0])
    problem = (await shop.http.get("/products/404")).json()
    assert set(problem) == set(document["components"]["schemas"]["NotFoundProblem"]["properties"])
