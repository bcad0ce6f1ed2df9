"""The sweep: each half-done state is found in the tables and finished, whichever process was to finish it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL, SIGTERM, Signals
from uuid import UUID

import asyncpg
import orjson
import pytest
from arq.constants import job_key_prefix

from service.dev.servers import free_port, scratch_folder, valkey
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.queue import QUEUE
from service.infra.resources import Resources, open_resources
from service.settings import Settings
from service.shop import sweep
from tests.client import Shop, eventually
from tests.database import end_hold, make_everything_due
from tests.queries import on
from tests.stripe_events import deliver, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
DEAD_REDIS = {"REDIS_URL": "redis://127.0.0.1:1/0"}

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


async def create_paid_order(shop: Shop, stripe: StripeStandin, product_id: int) -> str:
    placed_order = await shop.checked_out_cart((product_id, 1))
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    # Stripe's own event: a worker that fetches the list of events finds it stored.
    await deliver(shop, [event for event in stripe.events if event["type"] == COMPLETED][-1])
    return str(placed_order["order_id"])


@pytest.mark.parametrize("changed_settings", [DEAD_REDIS])
@pytest.mark.parametrize(
    "state", ["pending past its hold", "paid", "event stored", "refund not sent", "refund pending at Stripe"]
)
async def test_each_half_done_state_is_finished_by_one_sweep(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, state: str
) -> None:
    """Bring an order into each half-done state; one sweep finishes it, and the next has nothing to do."""
    product = await shop.create_product(stock=1)
    if state == "pending past its hold":
        order_id = (await shop.checked_out_cart((product["id"], 1)))["order_id"]
        await end_hold(database, order_id)
        statuses = ("CANCELLED", "EXPIRED")
    elif state == "event stored":
        placed_order = await shop.checked_out_cart((product["id"], 1))
        order_id, session = placed_order["order_id"], stripe.pay(placed_order["payment"]["stripe_session_id"])
        event = make_event(COMPLETED, session)
        # The row that an event leaves which was stored and could not be applied.
        await on(resources.pool).execute(
            "INSERT INTO stripe_events (id, type, payload, next_attempt_at) VALUES ($1, $2, $3, now())",
            event["id"],
            event["type"],
            event,
        )
        statuses = ("PAID", "SUCCEEDED")
    else:
        order_id = await create_paid_order(shop, stripe, product["id"])
        statuses = ("FULFILLED", "SUCCEEDED")
    if state.startswith("refund"):
        await sweep.sweep(resources)
        stripe.refund_status = "pending"
        await shop.call("POST", f"/orders/{order_id}/refund", 200)
        if state == "refund pending at Stripe":
            await sweep.sweep(resources)
            stripe.set_refund(next(iter(stripe.refunds))["id"], "succeeded")
            await make_everything_due(database)
        stripe.refund_status = "succeeded"
        statuses = ("FULFILLED", "REFUNDED")

    assert await sweep.sweep(resources) == 1

    order = await shop.get_order(order_id)
    assert (order["status"], order["payment"]["status"]) == statuses
    if order["status"] == "PAID":
        assert await sweep.sweep(resources) == 1, "the order is now due for fulfilment"
    due = "SELECT count(*) FROM {} WHERE next_attempt_at IS NOT NULL"
    assert [await database.fetchval(due.format(table)) for table in ("orders", "stripe_events", "refunds")] == [0] * 3
    assert await sweep.sweep(resources) == 0
    await assert_ledgers_agree(resources, stripe)


async def test_a_backlog_that_cannot_be_measured_is_repaired(
    shop: Shop, resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(resources: Resources) -> None:
        raise ShopError("unavailable", "canceling statement due to statement timeout")

    monkeypatch.setattr(sweep, "measure_backlog", fail)
    product = await shop.create_product(stock=1)
    order_id = (await shop.checked_out_cart((product["id"], 1)))["order_id"]
    await end_hold(database, order_id)

    assert await sweep.sweep(resources) == 1


async def test_failing_orders_are_deferred_and_do_not_delay_others(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three of eleven due orders fail: one at a constraint, two because Stripe does not answer.

    The sweep goes past them and defers them; once the causes are gone and they are due, it finishes them.
    """
    monkeypatch.setattr(sweep, "BATCH", 2)
    monkeypatch.setattr(sweep, "CONCURRENCY", 1)
    product = await shop.create_product(stock=20)
    orders = [(await shop.checked_out_cart((product["id"], 1)))["order_id"] for _ in range(8)]
    for number, order_id in enumerate(orders):
        await end_hold(database, order_id)
        # The orders that will fail are always claimed first.
        await database.execute(
            "UPDATE orders SET next_attempt_at = now() - make_interval(secs => $2) WHERE id = $1",
            UUID(order_id),
            100 - number,
        )
    to_fulfil = [await create_paid_order(shop, stripe, product["id"]) for _ in range(3)]
    await database.execute(f"ALTER TABLE orders ADD CHECK (id <> '{orders[0]}' OR status <> 'CANCELLED') NOT VALID")
    failing = [(await shop.get_order(order_id))["payment"]["stripe_session_id"] for order_id in orders[1:3]]
    stripe.set_faults([{"action": "status", "path": f"/v1/checkout/sessions/{session}/*"} for session in failing])

    assert await sweep.sweep(resources) == 11

    statuses = [(await shop.get_order(order_id))["status"] for order_id in orders]
    assert statuses == [*["PENDING_PAYMENT"] * 3, *["CANCELLED"] * 5]
    assert {(await shop.get_order(order_id))["status"] for order_id in to_fulfil} == {"FULFILLED"}
    deferred = await database.fetch("SELECT attempts, next_attempt_at > now() AS later FROM orders WHERE attempts > 0")
    assert [tuple(row) for row in deferred] == [(1, True)] * 3
    assert await sweep.sweep(resources) == 0

    stripe.set_faults([])
    await database.execute("ALTER TABLE orders DROP CONSTRAINT orders_check")
    await make_everything_due(database)
    assert await sweep.sweep(resources) == 3
    assert await shop.get_stock(product["id"]) == 20 - len(to_fulfil)
    await assert_ledgers_agree(resources, stripe)


async def test_concurrent_sweeps_finish_each_row_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=30)
    for _ in range(6):
        await end_hold(database, (await shop.checked_out_cart((product["id"], 1)))["order_id"])
        order_id = await create_paid_order(shop, stripe, product["id"])
        await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 100})
        await create_paid_order(shop, stripe, product["id"])

    finished = await asyncio.gather(*(sweep.sweep(resources) for _ in range(4)))

    # 18 orders and 6 refunds were due.
    assert sum(finished) == 24
    assert stripe.requests["POST /v1/checkout/sessions/{id}/expire"] == 6
    assert stripe.requests["POST /v1/refunds"] == 6

    counts = await database.fetch("SELECT status, count(*) FROM orders GROUP BY status ORDER BY status")
    assert [tuple(row) for row in counts] == [("CANCELLED", 6), ("FULFILLED", 12)]
    assert await shop.get_stock(product["id"]) == 18
    await assert_ledgers_agree(resources, stripe)


# The worker as a process


@asynccontextmanager
async def worker_process(settings: Settings, **changes: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m service worker`, which is killed where it still runs at the end."""
    names = ("database_url", "redis_url", "stripe_api_key", "stripe_api_base")
    environment = {name.upper(): getattr(settings, name) for name in names}
    environment |= {"STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret[0], "SWEEP_SECONDS": "3600"} | changes
    command = (sys.executable, "-m", "service", "worker")
    running = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def create_refund_without_answer(shop: Shop, stripe: StripeStandin, resources: Resources) -> str:
    """An order with a refund that Stripe, when asked for it, does not answer."""
    order_id = await create_paid_order(shop, stripe, (await shop.create_product())["id"])
    await sweep.sweep(resources)
    stripe.set_faults([{"action": "hang", "method": "POST", "path": "/v1/refunds"}])
    await shop.call("POST", f"/orders/{order_id}/refund", 200)
    # Only the job may take the refund; it is not due for a sweep.
    await on(resources.pool).execute("UPDATE refunds SET attempts = 1, next_attempt_at = now() + interval '1 hour'")
    return order_id


@pytest.mark.parametrize("signal", [SIGTERM, SIGKILL])
async def test_a_job_of_a_worker_that_was_stopped_or_killed_is_finished(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, signal: Signals
) -> None:
    """A worker ends while its job waits for Stripe; the next worker, or the sweep, makes the refund once."""
    order_id = await create_refund_without_answer(shop, stripe, resources)
    job = f"settle_refunds:{order_id}"

    async def stripe_was_asked() -> int:
        return stripe.requests["POST /v1/refunds"]

    async with worker_process(resources.settings, STRIPE_TIMEOUT_SECONDS="60") as worker:
        await eventually(stripe_was_asked)
        worker.send_signal(signal)
        assert await worker.wait() == (0 if signal == SIGTERM else -SIGKILL)
    stripe.set_faults([])

    # The job is still queued, as JSON: reading it runs no code.
    assert orjson.loads(await resources.redis.get(job_key_prefix + job))["a"] == [order_id]
    assert await resources.redis.zscore(QUEUE, job) is not None

    if signal == SIGTERM:
        # The worker has given the job back, so that the next worker starts it at once.
        async with worker_process(resources.settings):
            await shop.wait_for_order(order_id, "FULFILLED", "REFUNDED")
    else:
        await resources.redis.flushall()
        await make_everything_due(database)
        await sweep.sweep(resources)

    assert (await shop.get_order(order_id))["payment"]["status"] == "REFUNDED"
    assert len(list(stripe.refunds)) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_the_worker_survives_a_restart_of_redis(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    product = await shop.create_product()
    port = free_port()
    settings = resources.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})

    async with worker_process(settings), open_resources(settings, "commerce-tests") as api_resources:
        for _ in range(2):
            with scratch_folder() as folder, valkey(folder, port=port, durable=False):
                order_id = await create_paid_order(shop, stripe, product["id"])

                async def wakes_and_fulfils(order_id: str = order_id) -> bool:
                    # A wake-up is best effort: it may get lost until worker and Redis are both back.
                    await api_resources.queue.post_payment_pipeline(UUID(order_id))
                    return bool((await shop.get_order(order_id))["status"] == "FULFILLED")

                await eventually(wakes_and_fulfils)

    await assert_ledgers_agree(resources, stripe)
