"""Health, metrics, documentation and pages, beside the shop itself."""

import asyncio
import html
import platform
import re
from html.parser import HTMLParser
from importlib.metadata import version
from inspect import getsource
from itertools import product
from typing import Any, get_args
from urllib.parse import urlsplit

import asyncpg
import pytest
from fastapi.routing import iter_route_contexts
from prometheus_client.parser import text_string_to_metric_families

from service import worker
from service.app import create_app
from service.dev.servers import free_port
from service.dev.stripe_standin import StripeStandin
from service.errors import KINDS
from service.infra import circuit_breaker
from service.infra import stripe as stripe_calls
from service.infra.health import PERIODIC_TASKS
from service.infra.metrics import DISPUTE_STATUSES, exposition
from service.infra.statements import files
from service.settings import Settings
from service.shop import settlement, stuck, sweep, webhooks
from tests.client import Shop, eventually, is_problem


class Links(HTMLParser):
    """Whatever a page refers to, and its title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.title = page.partition("<title>")[2].partition("</title>")[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "action") and value]


async def test_a_healthy_service_is_live_and_ready(shop: Shop) -> None:
    assert await shop.call("GET", "/health/live", 200) == {"status": "ok"}
    ready = {"status": "ok", "postgresql": "ok", "worker": "not seen", "redis": "ok"}
    assert await shop.call("GET", "/health/ready", 200) == ready


class TestWithoutPostgresql:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"DATABASE_URL": f"postgresql://nobody:x@127.0.0.1:{free_port()}/nothing"}

    async def test_the_answer_is_unavailable_with_retry_after(self, shop: Shop) -> None:
        await shop.call("GET", "/health/live", 200)
        ready = await shop.call("GET", "/health/ready", 503)
        assert (ready["code"], ready["postgresql"], ready["redis"]) == ("unavailable", "unreachable", "ok")
        calls = (("GET", "/products"), ("GET", "/products/1"), ("POST", "/carts"), ("DELETE", "/products/1"))
        for method, path in (*calls, ("GET", "/health/ready")):
            answer = await shop.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0


class TestWithoutRedis:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}

    async def test_the_service_is_ready(self, shop: Shop) -> None:
        ready = await shop.call("GET", "/health/ready", 200)
        assert ready == {"status": "ok", "postgresql": "ok", "worker": "not seen", "redis": "unreachable"}


@pytest.mark.parametrize(
    "missing",
    [
        "DROP TABLE _yoyo_migration",
        "DELETE FROM _yoyo_migration WHERE migration_id = '0021.unmatched_payments'",
        "REVOKE SELECT (migration_id) ON _yoyo_migration FROM commerce_app",
    ],
)
async def test_an_unmigrated_database_is_not_ready(shop: Shop, database: asyncpg.Connection, missing: str) -> None:
    await database.execute(missing)
    ready = await shop.call("GET", "/health/ready", 503)
    assert (ready["postgresql"], ready["detail"]) == ("not_migrated", "PostgreSQL: not_migrated.")


def counted(method: str, route: str, status: int) -> float:
    text = exposition().decode()
    line = f'http_requests_total{{method="{method}",route="{route}",status="{status}"}}'
    return sum(float(found[len(line) :]) for found in text.splitlines() if found.startswith(line))


async def test_metrics_count_by_route(shop: Shop) -> None:
    calls = [
        ("GET", "/products/{product_id}", "/products/1", 404),
        ("GET", "/products/{product_id}", "/products/2", 404),
        ("POST", "/carts", "/carts", 201),
        ("GET", "unknown", "/nope", 404),
        ("DELETE", "unknown", "/carts", 405),
    ]
    head = counted("HEAD", "/products/{product_id}", 404)
    before = [counted(method, route, status) for method, route, _, status in calls]
    for method, _, path, status in calls:
        await shop.call(method, path, status)
    assert (await shop.http.head("/products/1")).status_code == 404
    expected = [count + more for count, more in zip(before, (2, 2, 1, 1, 1), strict=True)]

    async def added() -> bool:
        # A request is counted after its last byte was sent, a moment after the test has read it.
        return [counted(method, route, status) for method, route, _, status in calls] == expected

    await eventually(added)
    assert counted("HEAD", "/products/{product_id}", 404) == head + 1
    assert 'http_request_seconds_bucket{le="0.005",method="POST",route="/carts"}' in exposition().decode()


async def test_metrics_count_what_the_parser_refuses(shop: Shop) -> None:
    before = counted("other", "unknown", 400)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]))
    writer.write(b"GET /c4nary HTTP/1.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert counted("other", "unknown", 400) == before + 1


async def test_the_public_port_has_no_metrics(shop: Shop) -> None:
    for path in ("/metrics", "/metrics/", "/health/metrics", "/health/../metrics"):
        assert is_problem(await shop.http.get(path), 404, "not_found")
    assert "/metrics" not in (await shop.http.get("/openapi.json")).json()["paths"]


async def test_requests_cannot_add_time_series(shop: Shop) -> None:
    """All methods that the server's parser knows, at every kind of path; then others of the same kinds.

    Every label of every metric of ours has a value of a closed list, and the second round adds no line.
    """
    routes = {str(context.path) for context in iter_route_contexts(create_app(NEVER_SERVED).routes)}
    sources = getsource(settlement) + getsource(webhooks)
    statuses = {str(status) for status in (*{kind.status for kind in KINDS.values()}, 200, 201, 204, 304, 499)}
    allowed = {
        "method": {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"},
        "route": {*routes, "unknown"},
        "status": statuses,
        "outcome": set(re.findall(r'(?:EventOutcome\(|return )"(\w+)"', sources)) | {"duplicate", *CALLED, *RAN},
        "what": {"orders", "events", "refunds"},
        "repairer": {*PERIODIC_TASKS, *sweep.REPAIRERS, "deliveries"},
        "query": {*files("audit")},
        "pass": {"changes", "full"},
        "kind": {*stuck.KINDS},
        "state": {"used", "idle"},
        "limiter": {"pool", "transactions", "checkout", "other"},
        "result": {"hit", "miss"},
        "operation": {*get_args(stripe_calls.Operation), *get_args(circuit_breaker.Operation)},
        "folder": {name.partition("/")[0] for name in files()},
        "reason": {"unreachable", "login_refused", "read_only", "timeout", "busy", "other"},
        "retried": {"true", "false"},
        "job": {*worker.JOBS},
        "version": {version("commerce-core")},
        "python": {platform.python_version()},
    }

    def series() -> set[str]:
        found = set()
        for family in text_string_to_metric_families(exposition().decode()):
            for sample in family.samples if not family.name.startswith(("python_", "process_")) else ():
                found.add(f"{sample.name}{sample.labels}")
                for label, value in sample.labels.items():
                    if label == "status" and family.name.startswith("order_transitions"):
                        assert value in STATUSES
                    elif label == "status" and family.name == "disputes":
                        assert value in {*DISPUTE_STATUSES, "other"}
                    else:
                        assert label == "le" or value in allowed[label], (family.name, label, value)
        return found

    async def call_everything(name: str) -> None:
        paths = ["/products", "/products/1", f"/{name}", f"/products/{name}", f"/docs/static/{name}", f"/%0a{name}"]
        for method, path in product(PARSED_METHODS, paths):
            answer = await shop.http.request(method, f"{path}?{name}={name}", headers={"X-Request-ID": name})
            assert answer.status_code < 500

    await call_everything("one")
    before = series()
    await call_everything("other")
    assert series() == before


# The methods of the server's parser, except CONNECT, which has no path.
PARSED_METHODS = """
    DELETE GET HEAD POST PUT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND ACL
    REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK SOURCE
""".split()
STATUSES = {"PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED"}
# The outcomes of calls to Stripe, and of jobs.
CALLED = {"ok", "refused", "key_refused", "rate_limited", "failed", "unanswered", "unreadable", "cancelled"}
RAN = {"done", "deferred", "failed"}
NEVER_SERVED = Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",))


async def test_the_documentation_loads_nothing_from_other_hosts(shop: Shop) -> None:
    page = (await shop.http.get("/docs")).text
    links = Links(page).found
    assert len(links) >= 3
    for link in links:
        assert not urlsplit(link).netloc
        assert (await shop.http.get(link)).status_code == 200, link
    assert re.findall(r"(?:https?:)?//[\w.]+", page) == []
    assert "url: '/openapi.json'" in page
    # By default, Swagger UI sends the document to its makers' validator.
    assert '"validatorUrl": null' in page


@pytest.mark.parametrize("where", ["success", "cancel"])
async def test_without_a_known_order_the_page_is_neutral(shop: Shop, where: str) -> None:
    neutral = (await shop.http.get(f"/payments/{where}")).text
    assert "Order" not in neutral
    assert Links(neutral).found == []
    queries = (
        "order_id=",
        "order_id=x",
        "order_id=00000000-0000-4000-8000-000000000000",
        "order_id=%00",
        "order_id=%ff",
    )
    for query in (*queries, "order_id=" + 3000 * "x", "session_id=" + 3000 * "x", "order_id=<script>"):
        answer = await shop.http.get(f"/payments/{where}?{query}")
        assert (answer.status_code, answer.text) == (200, neutral), query
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"


async def test_the_pages_show_the_orders_true_state(
    shop: Shop, stripe: StripeStandin, worker: None, database: asyncpg.Connection
) -> None:
    tent = await shop.create_product(name="<b>Tent</b> & pegs")
    placed = [await shop.checked_out_cart((tent["id"], 2)) for _ in range(2)]

    async def page(order: dict[str, Any], where: str) -> str:
        query = f"order_id={order['order_id']}&session_id={order['payment']['stripe_session_id']}"
        answer = await shop.http.get(f"/payments/{where}?{query}")
        assert answer.status_code == 200
        assert "<b>" not in answer.text
        assert "&lt;b&gt;Tent&lt;/b&gt; &amp; pegs" in answer.text
        assert "25.00 EUR" in answer.text
        return answer.text

    for where, order in zip(("success", "cancel"), placed, strict=True):
        pending = Links(await page(order, where))
        assert pending.title == "Waiting for your payment"
        assert pending.found == [order["checkout_url"]]
    stripe.pay(placed[0]["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed[0]["order_id"], "FULFILLED")
    await shop.call("POST", f"/orders/{placed[1]['order_id']}/cancel", 200)
    for where in ("success", "cancel"):
        paid, cancelled = Links(await page(placed[0], where)), Links(await page(placed[1], where))
        assert "paid" in paid.title
        assert "cancelled" in cancelled.title
        assert paid.found == cancelled.found == []


async def test_every_code_has_its_page(shop: Shop) -> None:
    for code, kind in KINDS.items():
        answer = await shop.http.get(f"/problems/{code}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert Links(answer.text).title == kind.title.replace("'", "&#x27;")
        assert f"Status {kind.status}, <code>{code}</code>" in answer.text
        assert html.escape(kind.cause) in answer.text
        assert html.escape(kind.remedy) in answer.text
        assert re.findall("<dt><code>(.*?)</code>", answer.text) == [*kind.members]
        assert ("Try again" in answer.text) == (kind.retry_after is not None)
    await shop.call("GET", "/problems/nope", 404)
