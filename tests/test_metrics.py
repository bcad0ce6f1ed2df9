"""What the metrics say of calls to the neighbours, of queues and of the backlog."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import asyncpg
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from service.dev.servers import free_port
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra import db_errors, rate_limit
from service.infra.limiters import Limiter
from service.infra.resources import Resources
from service.shop import sweep
from tests.client import Shop, eventually
from tests.database import make_everything_due
from tests.stripe_events import deliver, make_event

ROOT = Path(__file__).parents[1]


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def rise(what: Awaitable[object], name: str, **labels: str) -> float:
    """By how much a series rises during a call."""
    before = value(name, **labels)
    await what
    return value(name, **labels) - before


async def test_calls_to_stripe_are_measured_by_operation_and_outcome(shop: Shop, stripe: StripeStandin) -> None:
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    series = "stripe_call_seconds_count"
    for fault, outcome in (
        ({"action": "status", "status": 500}, "failed"),
        ({"action": "status", "status": 401}, "key_refused"),
        ({"action": "drop"}, "unanswered"),
    ):
        stripe.set_faults([fault])
        assert await rise(shop.check_out(cart, 503), series, operation="create_session", outcome=outcome) == 1
    stripe.set_faults([])

    assert await rise(shop.check_out(cart, 200), series, operation="create_session", outcome="ok") == 1


async def test_statements_and_calls_to_redis_are_measured(shop: Shop) -> None:
    product = (await shop.create_product())["id"]

    assert await rise(shop.create_cart((product, 1)), "postgresql_call_seconds_count", folder="cart") >= 2
    assert await rise(shop.http.get("/products"), "redis_call_seconds_count", operation="store_page") == 1
    assert await rise(shop.http.get("/products"), "redis_call_seconds_count", operation="read_generation") == 1


async def test_the_cached_pages_hits_are_counted(shop: Shop) -> None:
    hits, misses = value("page_cache_requests_total", result="hit"), value("page_cache_requests_total", result="miss")

    for _ in range(5):
        await shop.http.get("/products")

    await eventually(lambda: _is("page_cache_requests_total", hits + 4, result="hit"))
    await eventually(lambda: _is("page_cache_requests_total", misses + 1, result="miss"))


async def test_what_is_in_use_is_sampled(shop: Shop, stripe: StripeStandin) -> None:
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    await eventually(lambda: _is("http_requests_in_flight", 0))
    stripe.set_faults([{"action": "hang", "seconds": 5}])

    checkout = asyncio.create_task(shop.check_out(cart, 503))

    await eventually(lambda: _is("http_requests_in_flight", 1))
    assert value("postgresql_connections", state="idle") >= 1
    stripe.set_faults([])
    await checkout
    await eventually(lambda: _is("http_requests_in_flight", 0))


async def test_who_waits_for_a_limiter_is_measured() -> None:
    limiter = Limiter(1, name="checkout", max_wait_seconds=0.01)

    async def wait() -> None:
        with pytest.raises(ShopError):
            async with limiter:
                pass

    async with limiter:
        assert (limiter.in_use, limiter.waiting) == (1, 0)
        refused = await rise(wait(), "limiter_refused_total", limiter="checkout")
        waited = await rise(wait(), "limiter_wait_seconds_count", limiter="checkout")

    assert (refused, waited, limiter.in_use) == (1, 1, 0)


async def test_connections_that_are_waited_for_are_sampled(resources: Resources) -> None:
    resources.sample()
    assert (value("limiter_waiting", limiter="pool"), value("postgresql_connections", state="used")) == (0, 0)
    async with asyncio.TaskGroup() as group:
        slots = resources.settings.db_pool_size
        free = asyncio.Event()

        async def use() -> None:
            async with resources.pool.limiter:
                await free.wait()

        for _ in range(slots + 2):
            group.create_task(use())
        await asyncio.sleep(0)
        resources.sample()
        free.set()

    assert (value("limiter_waiting", limiter="pool"), value("postgresql_connections", state="used")) == (2, slots)


async def test_the_backlog_is_what_the_sweep_finds_due(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, webhooks_dropped: None
) -> None:
    for _ in range(2):
        await shop.checked_out_cart()
    await make_everything_due(database)
    await database.execute("UPDATE orders SET next_attempt_at = now() - interval '1 hour' WHERE number = 1")

    await sweep.measure_backlog(resources)

    assert value("due_rows", repairer="orders") == 2
    assert value("oldest_due_seconds", repairer="orders") == pytest.approx(3600, abs=60)
    assert (value("due_rows", repairer="events"), value("oldest_due_seconds", repairer="events")) == (0, 0)


async def test_disputes_are_counted_by_status_once(shop: Shop, stripe: StripeStandin, worker: None) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed_order["order_id"], "FULFILLED")
    intent = stripe.ledger()["payments"][0]["payment_intent"]
    subject = {"id": "dp_1", "payment_intent": intent, "amount": 1250, "currency": "eur", "reason": "fraudulent"}
    lost = make_event("charge.dispute.closed", {**subject, "status": "lost"})
    strange = make_event("charge.dispute.updated", {**subject, "id": "dp_2", "status": "of_tomorrow"})

    assert await rise(deliver(shop, lost), "disputes_total", status="lost") == 1
    assert await rise(deliver(shop, lost), "disputes_total", status="lost") == 0
    assert await rise(deliver(shop, strange), "disputes_total", status="other") == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncpg.InvalidPasswordError(""), "login_refused"),
        (asyncpg.InvalidCatalogNameError(""), "login_refused"),
        (asyncpg.ReadOnlySQLTransactionError(""), "read_only"),
        (asyncpg.TargetServerAttributeNotMatched(""), "read_only"),
        (asyncpg.DeadlockDetectedError(""), "busy"),
        (asyncpg.QueryCanceledError(""), "busy"),
        (asyncpg.TooManyConnectionsError(""), "unreachable"),
        (ConnectionRefusedError(), "unreachable"),
        (TimeoutError(), "timeout"),
        (asyncpg.UndefinedTableError(""), "other"),
    ],
)
def test_failures_of_postgresql_are_counted_by_reason(error: Exception, reason: str) -> None:
    before = value("postgresql_failures_total", reason=reason, retried="false")

    db_errors.log_failure(error)

    assert value("postgresql_failures_total", reason=reason, retried="false") == before + 1


class TestRedisGone:
    @pytest.fixture
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{free_port()}/0"

    async def test_failures_are_counted_by_reason(self, resources: Resources) -> None:
        call = rate_limit.count(resources.redis, resources.redis_breaker, b"client")

        assert await rise(call, "redis_failures_total", operation="count_request", reason="unreachable") == 1


def test_what_a_killed_process_had_in_use_is_forgotten(tmp_path: Path) -> None:
    """Several processes sum their gauges through files; one that is killed leaves its file behind."""
    code = "from service.infra.metrics import IN_FLIGHT; IN_FLIGHT.set(7)"
    for end in ("import os; os._exit(9)", "from service.infra import metrics; print(metrics.exposition().decode())"):
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", f"{code}; {end}"], cwd=ROOT, env=environ, capture_output=True)

    families = {family.name: family for family in text_string_to_metric_families(run.stdout.decode())}
    (sample,) = families["http_requests_in_flight"].samples
    assert (sample.value, sample.labels) == (7, {})


async def _is(name: str, expected: float, **labels: str) -> bool:
    return value(name, **labels) == expected
