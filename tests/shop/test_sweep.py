"""Whatever is left half done is found in the tables and finished, whoever was to do it."""

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
from service.infra.queue import QUEUE
from service.infra.resources import Resources, open_resources
from service.infra.stripe import StripeUnknown
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import fulfilment, reconcile, sweep, transitions
from tests.books import all_due, balance, deliver, emitted, event, hold_ends
from tests.client import Shop, eventually

COMPLETED = "checkout.session.completed"
DEAD_REDIS = {"REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.fixture
def lost(stripe: StripeStandin) -> StripeStandin:
    """Stripe, whose webhooks are lost."""
    stripe.set_webhooks(drop=True)
    return stripe


async def paid(shop: Shop, stripe: StripeStandin, product_id: int) -> str:
    placed = await shop.placed((product_id, 1))
    stripe.pay(placed["payment"]["stripe_session_id"])
    # Stripe's own, which a worker that goes through its list of events finds to be stored.
    await deliver(shop, [sent for sent in stripe.events if sent["type"] == COMPLETED][-1])
    return str(placed["order_id"])


@pytest.mark.parametrize("changed_settings", [DEAD_REDIS])
@pytest.mark.parametrize(
    "state", ["pending past its hold", "paid", "event stored", "refund not sent", "refund pending at Stripe"]
)
async def test_each_half_done_state_is_finished_once(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, state: str
) -> None:
    product = await shop.product(stock=1)
    if state == "pending past its hold":
        order_id = (await shop.placed((product["id"], 1)))["order_id"]
        await hold_ends(database, order_id)
        end = ("CANCELLED", "EXPIRED")
    elif state == "event stored":
        placed = await shop.placed((product["id"], 1))
        order_id, session = placed["order_id"], lost.pay(placed["payment"]["stripe_session_id"])
        sent = event(COMPLETED, session)
        # As `receive` leaves it when it could not be applied.
        await resources.pool.execute(
            "INSERT INTO stripe_events (id, type, payload, next_attempt_at) VALUES ($1, $2, $3, now())",
            sent["id"],
            sent["type"],
            sent,
        )
        end = ("PAID", "SUCCEEDED")
    else:
        order_id = await paid(shop, lost, product["id"])
        end = ("FULFILLED", "SUCCEEDED")
    if state.startswith("refund"):
        await sweep.sweep(resources)
        lost.refund_status = "pending"
        await shop.call("POST", f"/orders/{order_id}/refund", 200)
        if state == "refund pending at Stripe":
            await sweep.sweep(resources)
            lost.set_refund(next(iter(lost.refunds))["id"], "succeeded")
            await all_due(database)
        lost.refund_status = "succeeded"
        end = ("FULFILLED", "REFUNDED")

    assert await sweep.sweep(resources) == 1
    order = await shop.order(order_id)
    assert (order["status"], order["payment"]["status"]) == end
    if end[0] == "PAID":
        assert await sweep.sweep(resources) == 1, "it is due for fulfilment now"
    left = "SELECT count(*) FROM {} WHERE next_attempt_at IS NOT NULL"
    assert [await database.fetchval(left.format(table)) for table in ("orders", "stripe_events", "refunds")] == [0] * 3
    assert await sweep.sweep(resources) == 0
    await balance(resources, lost)


async def test_what_keeps_failing_is_put_off_and_starves_nothing(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    monkeypatch.setattr(sweep, "CONCURRENCY", 1)
    product = await shop.product(stock=20)
    orders = [(await shop.placed((product["id"], 1)))["order_id"] for _ in range(8)]
    for number, order_id in enumerate(orders):
        await hold_ends(database, order_id)
        # The first three are claimed first, each time.
        await database.execute(
            "UPDATE orders SET next_attempt_at = now() - make_interval(secs => $2) WHERE id = $1",
            UUID(order_id),
            100 - number,
        )
    to_fulfil = [await paid(shop, lost, product["id"]) for _ in range(3)]
    # One fails for a reason that nobody foresaw, two because Stripe does not tell.
    broken = ", ".join(f"'{order_id}'" for order_id in orders[:1])
    await database.execute(f"ALTER TABLE orders ADD CHECK (id NOT IN ({broken}) OR status <> 'CANCELLED') NOT VALID")
    failing = [(await shop.order(order_id))["payment"]["stripe_session_id"] for order_id in orders[1:3]]
    lost.set_faults([{"action": "status", "path": f"/v1/checkout/sessions/{session}/*"} for session in failing])

    assert await sweep.sweep(resources) == 11
    statuses = [(await shop.order(order_id))["status"] for order_id in orders]
    assert statuses == [*["PENDING_PAYMENT"] * 3, *["CANCELLED"] * 5]
    assert {(await shop.order(order_id))["status"] for order_id in to_fulfil} == {"FULFILLED"}
    put_off = await database.fetch("SELECT attempts, next_attempt_at > now() AS later FROM orders WHERE attempts > 0")
    assert [tuple(row) for row in put_off] == [(1, True)] * 3
    assert await sweep.sweep(resources) == 0

    lost.set_faults([])
    await database.execute("ALTER TABLE orders DROP CONSTRAINT orders_check")
    await all_due(database)
    assert await sweep.sweep(resources) == 3
    assert await shop.stock(product["id"]) == 20 - len(to_fulfil)
    await balance(resources, lost)


async def test_sweeps_at_once_do_each_thing_once(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=30)
    for _ in range(6):
        await hold_ends(database, (await shop.placed((product["id"], 1)))["order_id"])
        order_id = await paid(shop, lost, product["id"])
        await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 100})
        await paid(shop, lost, product["id"])
    # Due are 18 orders and 6 refunds.
    assert sum(await asyncio.gather(*(sweep.sweep(resources) for _ in range(4)))) == 24
    assert lost.requests["POST /v1/checkout/sessions/{id}/expire"] == 6
    assert lost.requests["POST /v1/refunds"] == 6
    counts = await database.fetch("SELECT status, count(*) FROM orders GROUP BY status ORDER BY status")
    assert [tuple(row) for row in counts] == [("CANCELLED", 6), ("FULFILLED", 12)]
    assert await shop.stock(product["id"]) == 18
    await balance(resources, lost)


# Reconcile


@pytest.mark.parametrize("changed_settings", [{**DEAD_REDIS, "RECONCILE_SECONDS": "0.2"}])
async def test_with_every_webhook_lost_each_paid_order_is_fulfilled(
    shop: Shop, lost: StripeStandin, resources: Resources, worker: None
) -> None:
    product = await shop.product(stock=10)
    orders = [await shop.placed((product["id"], 1)) for _ in range(6)]
    for placed in orders[:4]:
        lost.pay(placed["payment"]["stripe_session_id"], email="ann@example.org")
    lost.pay(orders[4]["payment"]["stripe_session_id"], later=True)
    lost.expire_session(orders[5]["payment"]["stripe_session_id"])
    for placed in orders[:4]:
        await shop.until(placed["order_id"], "FULFILLED", "SUCCEEDED")
    await shop.until(orders[4]["order_id"], "PENDING_PAYMENT", "PROCESSING")
    await shop.until(orders[5]["order_id"], "CANCELLED", "EXPIRED")
    assert {r["email"] for r in await resources.pool.fetch("SELECT email FROM orders WHERE paid_at IS NOT NULL")} == {
        "ann@example.org"
    }
    assert await shop.stock(product["id"]) == 5
    await balance(resources, lost)


async def test_reconcile_goes_through_all_pages_and_past_what_fails(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGE", 2)
    product = await shop.product(stock=10)
    orders = [await shop.placed((product["id"], 1)) for _ in range(5)]
    for placed in orders:
        lost.pay(placed["payment"]["stripe_session_id"])
    # What other people sell on the same account, and what is still open.
    foreign = {**lost.session(orders[0]["payment"]["stripe_session_id"]), "payment_status": "unpaid", "metadata": {}}
    for number in range(120):
        lost.sessions.save({**foreign, "id": f"cs_{number}"})
    left = await shop.placed((product["id"], 1))
    await database.execute(
        f"ALTER TABLE orders ADD CHECK (id <> '{orders[4]['order_id']}' OR status <> 'PAID') NOT VALID"
    )
    assert await reconcile.reconcile(resources) == 4
    statuses = [(await shop.order(placed["order_id"]))["status"] for placed in (*orders, left)]
    assert statuses == [*["PAID"] * 4, *["PENDING_PAYMENT"] * 2]
    await database.execute("ALTER TABLE orders DROP CONSTRAINT orders_check")
    assert await reconcile.reconcile(resources) == 1
    assert await reconcile.reconcile(resources) == 0
    await balance(resources, lost)


async def test_of_two_sessions_of_one_order_the_paid_one_counts(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    unpaid = {**session, "status": "expired", "payment_status": "unpaid", "payment_intent": None}
    # Stripe lists the newest first, so that one of them comes before the paid one and one after it.
    everything = [{**unpaid, "id": "cs_older"}, session, {**unpaid, "id": "cs_newer"}]
    lost.sessions._objects[:] = everything
    lost.sessions._positions.update({found["id"]: place for place, found in enumerate(everything)})
    assert await reconcile.reconcile(resources) == 1
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"


async def test_what_others_sell_on_the_account_need_not_be_readable(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    # A session's `status` can be null at Stripe.
    lost.sessions.save({**session, "id": "cs_foreign", "status": None, "metadata": {}})
    assert await reconcile.settle_sessions(resources) == 1
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"


# Events that never came


@pytest.mark.parametrize("changed_settings", [{**DEAD_REDIS, "RECONCILE_SECONDS": "0.2"}])
async def test_with_every_webhook_lost_what_no_session_of_the_last_hours_tells_is_heard_of(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, worker: None
) -> None:
    """Money that took days and came for an order given up long ago, and refunds made in the dashboard."""
    product = await shop.product(stock=2)
    late, refunded = [await shop.placed((product["id"], 1)) for _ in range(2)]
    lost.pay(late["payment"]["stripe_session_id"], later=True)
    await shop.until(late["order_id"], "PENDING_PAYMENT", "PROCESSING")
    # As if it had been given up before Stripe told that the customer had done his part.
    await database.execute(
        "UPDATE payments SET status = 'INITIATED', stripe_session_id = NULL WHERE order_id = $1",
        UUID(late["order_id"]),
    )
    async with resources.pool.acquire() as tx, tx.transaction():
        order = await transitions.lock(tx, UUID(late["order_id"]))
        await transitions.cancel(tx, transitions.AfterCommit(), [order], payment_status="EXPIRED")
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    paid = lost.pay(refunded["payment"]["stripe_session_id"])
    await shop.until(refunded["order_id"], "FULFILLED", "SUCCEEDED")
    # Their sessions are days old.
    for session in lost.sessions:
        session["created"] -= 4 * 86_400

    lost.settle(late["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(paid["payment_intent"], 1250, {}, "dashboard")
    await shop.until(late["order_id"], "CANCELLED", "REFUNDED")
    await shop.until(refunded["order_id"], "FULFILLED", "REFUNDED")
    await balance(resources, lost)


@pytest.mark.parametrize("changed_settings", [DEAD_REDIS])
async def test_what_was_refunded_while_all_workers_were_down_is_not_fulfilled(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=1)
    placed = await shop.placed((product["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")
    await reconcile.reconcile(resources)
    await fulfilment.fulfil(resources, UUID(placed["order_id"]))
    await sweep.sweep(resources)
    await shop.until(placed["order_id"], "CANCELLED", "REFUNDED")
    assert await shop.stock(product["id"]) == 1
    await balance(resources, lost)


async def test_a_key_that_may_not_read_events_reads_sessions(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    lost.pay(placed["payment"]["stripe_session_id"])
    lost.set_faults([{"action": "status", "status": 403, "path": "/v1/events"}])
    with pytest.raises(StripeUnknown):
        await reconcile.reconcile(resources)
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"


async def test_events_are_fetched_once_through_all_pages_and_past_what_cannot_be_stored(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGE", 3)
    product = await shop.product(stock=120)
    placed = await shop.placed((product["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    # Stripe's own of that payment never came.
    missed = [emitted(lost, COMPLETED), *(event("charge.refunded", {"id": f"ch_{number}"}) for number in range(110))]
    come = event(COMPLETED, session)
    await deliver(shop, come)
    unstorable = event(COMPLETED, session, metadata={"name": "\x00"})
    for sent in [come, *missed[1:51], unstorable, *missed[51:], event("customer.created", {})]:
        lost.events.save({**sent, "created": lost.now()})

    assert await reconcile.fetch_events(resources) == len(missed) + 1
    stored = {row["id"] for row in await database.fetch("SELECT id FROM stripe_events WHERE handled_at IS NULL")}
    assert stored == {sent["id"] for sent in missed}
    assert await reconcile.fetch_events(resources) == 1, "what cannot be stored"


async def test_a_list_that_breaks_off_is_gone_through_again(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    position = "SELECT reached_at FROM reconcile_positions"
    # All workers were down for a while.
    await database.execute("UPDATE reconcile_positions SET reached_at = now() - interval '2 hours'")
    before = await database.fetchval(position)
    for number in range(150):
        lost.events.save({**event("charge.refunded", {"id": f"ch_{number}"}), "created": lost.now() - 5400})
    lost.set_faults([{"action": "delay", "path": "/v1/events", "times": 1}, {"action": "drop", "path": "/v1/events"}])
    with pytest.raises(StripeUnknown):
        await reconcile.fetch_events(resources)
    assert await database.fetchval(position) == before
    lost.set_faults([])
    # The first page is stored already.
    assert await reconcile.fetch_events(resources) == 150 - reconcile.PAGE
    after = await database.fetchval(position)
    assert after > before
    # A slower worker that ends later began earlier.
    await run_transaction(resources.pool, lambda tx: reconcile.MOVE_POSITION.run(tx, reached_at=before))
    assert await database.fetchval(position) == after


# The worker as a process


@asynccontextmanager
async def process(settings: Settings, **changes: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m service worker`, which is killed if it is still there at the end."""
    names = ("database_url", "redis_url", "stripe_api_key", "stripe_api_base")
    given = {name.upper(): getattr(settings, name) for name in names}
    given |= {"STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret[0], "SWEEP_SECONDS": "3600"} | changes
    command = (sys.executable, "-m", "service", "worker")
    running = await asyncio.create_subprocess_exec(*command, env={**os.environ, **given})
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def refund_in_hand(shop: Shop, stripe: StripeStandin, resources: Resources) -> str:
    """An order whose refund a worker is just asking Stripe for, without an answer."""
    order_id = await paid(shop, stripe, (await shop.product())["id"])
    await sweep.sweep(resources)
    stripe.set_faults([{"action": "hang", "method": "POST", "path": "/v1/refunds"}])
    await shop.call("POST", f"/orders/{order_id}/refund", 200)
    # The job has it, and no sweep.
    await resources.pool.execute("UPDATE refunds SET attempts = 1, next_attempt_at = now() + interval '1 hour'")
    return order_id


async def asked(stripe: StripeStandin) -> None:
    async def look() -> int:
        return stripe.requests["POST /v1/refunds"]

    await eventually(look)


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL])
async def test_a_worker_that_ends_in_the_middle_leaves_nothing_undone(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, number: Signals
) -> None:
    job = f"settle_refunds:{await refund_in_hand(shop, lost, resources)}"
    order_id = job.partition(":")[2]
    async with process(resources.settings, STRIPE_TIMEOUT_SECONDS="60") as worker:
        await asked(lost)
        worker.send_signal(number)
        assert await worker.wait() == (0 if number == SIGTERM else -SIGKILL)
    lost.set_faults([])
    # JSON, which runs nothing when it is read.
    assert orjson.loads(await resources.redis.get(job_key_prefix + job))["a"] == [order_id]
    assert await resources.redis.zscore(QUEUE, job) is not None
    if number == SIGTERM:
        # Handed back, so that the next worker takes it up at once.
        async with process(resources.settings):
            await shop.until(order_id, "FULFILLED", "REFUNDED")
    else:
        await resources.redis.flushall()
        await all_due(database)
        await sweep.sweep(resources)
    assert (await shop.order(order_id))["payment"]["status"] == "REFUNDED"
    assert len(list(lost.refunds)) == 1
    await balance(resources, lost)


async def test_the_worker_outlives_a_restart_of_redis(shop: Shop, lost: StripeStandin, resources: Resources) -> None:
    product = await shop.product()
    port = free_port()
    there = resources.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    async with process(there), open_resources(there, "commerce-tests") as wakers:
        for _ in range(2):
            with scratch_folder() as folder, valkey(folder, port=port, durable=False):
                order_id = await paid(shop, lost, product["id"])

                async def fulfilled(order_id: str = order_id) -> bool:
                    # Waking is a courtesy, which may be lost until both are back.
                    await wakers.queue.post_payment_pipeline(UUID(order_id))
                    return bool((await shop.order(order_id))["status"] == "FULFILLED")

                await eventually(fulfilled)
    await balance(resources, lost)
