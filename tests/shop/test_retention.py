"""Retention: old carts, events and keys are deleted; orders stay; a row that is in use is left alone."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import retention, sweep
from service.worker import work
from tests.client import Shop, eventually
from tests.database import end_hold, make_everything_due, wait_for_blocked
from tests.stripe_events import deliver, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

# The columns that an event can change, without those that each check of an order writes.
COLUMNS = {
    "carts": "id, status",
    "products": "id, stock, version",
    "orders": "id, status, hold, paid_at, fulfilled_at, cancelled_at",
    "payments": "id, status, refunded_minor, attempt, stripe_session_id, stripe_payment_intent_id",
    "refunds": "id, status, amount_minor, cause, stripe_refund_id",
    "order_events": "id, from_status, to_status, cause, note",
    "stock_movements": "id, delta, reason, hold",
}


async def age_carts(database: asyncpg.Connection, *carts: str, by: timedelta = timedelta(days=30, seconds=1)) -> None:
    await database.execute(
        "UPDATE carts SET created_at = created_at - $1::interval, updated_at = updated_at - $1 WHERE id = ANY($2)",
        by,
        [UUID(cart) for cart in carts],
    )


async def stored_carts(database: asyncpg.Connection) -> set[str]:
    return {str(cart_id) for (cart_id,) in await database.fetch("SELECT id FROM carts")}


# Carts


async def test_old_carts_without_an_order_are_deleted_and_all_others_stay(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Carts of each kind become 30 days old; only those that were never ordered and not touched since are deleted."""
    line = ((await shop.create_product())["id"], 1)
    empty, filled = await shop.create_cart(), await shop.create_cart(line)
    young, touched = await shop.create_cart(line), await shop.create_cart(line)
    pending, reopened, unmarked = [await shop.create_cart(line) for _ in range(3)]
    for cart in (pending, reopened, unmarked):
        order = await shop.check_out(cart)
        if cart != pending:
            await shop.call("POST", f"/orders/{order['order_id']}/cancel", 200)
    # As written by code that did not know the column.
    await database.execute("UPDATE carts SET ordered_at = NULL WHERE id = $1", UUID(unmarked))
    marked = await database.fetch("SELECT id FROM carts WHERE ordered_at IS NOT NULL")
    assert {str(cart_id) for (cart_id,) in marked} == {pending, reopened}
    # A cart that our code never leaves in this state is kept, for people to look into.
    strange = await shop.create_cart(line)
    await database.execute("UPDATE carts SET status = 'CHECKED_OUT' WHERE id = $1", UUID(strange))
    await age_carts(database, empty, filled, touched, pending, reopened, unmarked, strange)
    await age_carts(database, young, by=timedelta(days=29, hours=23))
    await shop.add_item(touched, line[0])

    await retention.delete_expired(resources)

    assert await stored_carts(database) == {young, touched, pending, reopened, unmarked, strange}
    assert await database.fetchval("SELECT count(*) FROM cart_items") == 6
    for cart in (empty, filled):
        await shop.call("GET", f"/carts/{cart}", 404)
        await shop.add_item(cart, line[0], expect=404)
        await shop.check_out(cart, 404)
    # The carts that stayed can be checked out.
    assert (await shop.check_out(young))["status"] == "PENDING_PAYMENT"
    assert (await shop.check_out(unmarked))["status"] == "PENDING_PAYMENT"
    await database.execute("UPDATE carts SET status = 'OPEN' WHERE id = $1", UUID(strange))
    await assert_ledgers_agree(resources, stripe)


async def test_a_locked_cart_is_skipped_and_deleted_later(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    edited, other = await shop.create_cart(), await shop.create_cart()
    await age_carts(database, edited, other)
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(edited))
        await retention.delete_expired(resources)
        assert await stored_carts(database) == {edited}

    await retention.delete_expired(resources)
    assert await stored_carts(database) == set()


@pytest.mark.parametrize("use", ["edited", "ordered", "ordered and cancelled"])
async def test_a_cart_that_is_used_just_before_it_is_locked_stays(
    shop: Shop, resources: Resources, database: asyncpg.Connection, database_url: str, use: str
) -> None:
    """The statement has a snapshot in which the cart is old, and stops before it locks the cart.

    A row security policy makes the worker's role wait for an advisory lock, which the test has, at each row.
    """
    product = await shop.create_product()
    cart, other = await shop.create_cart((product["id"], 1)), await shop.create_cart()
    await age_carts(database, cart, other)
    await database.execute("ALTER TABLE carts ENABLE ROW LEVEL SECURITY")
    await database.execute("CREATE POLICY api ON carts TO commerce_app USING (true)")
    await database.execute(
        "CREATE POLICY slow ON carts TO commerce_worker USING (pg_advisory_xact_lock_shared(1)::text IS NOT NULL)"
    )

    async with database.transaction():
        await database.execute("SELECT pg_advisory_xact_lock(1)")
        deleting = asyncio.create_task(retention.delete_expired(resources))
        await wait_for_blocked(database)
        if use == "edited":
            await shop.add_item(cart, product["id"])
        else:
            order_id = (await shop.check_out(cart))["order_id"]
        if use == "ordered and cancelled":
            await shop.call("POST", f"/orders/{order_id}/cancel", 200)
    await deleting

    assert await stored_carts(database) == {cart}
    assert (await shop.call("GET", f"/carts/{cart}", 200))["items"][0]["product_id"] == product["id"]


async def test_a_request_during_the_deletion_of_its_cart_is_not_found(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product()
    cart = await shop.create_cart((product["id"], 1))
    await age_carts(database, cart)

    async with resources.pool.acquire() as worker, worker.transaction():
        assert await retention.DELETE_CARTS.run(worker, days=30, limit=100) == 1
        requests = [
            asyncio.create_task(shop.check_out(cart, 404)),
            asyncio.create_task(shop.add_item(cart, product["id"], expect=404)),
        ]
        await wait_for_blocked(database, len(requests))
    await asyncio.gather(*requests)

    assert await database.fetchval("SELECT count(*) FROM orders") == 0


# Batches


async def test_each_batch_is_bounded_and_commits_by_itself(resources: Resources, database: asyncpg.Connection) -> None:
    count = 2 * sweep.BATCH + 1
    await database.execute(
        "INSERT INTO carts (id, created_at, updated_at) SELECT gen_random_uuid(), old, old"
        " FROM generate_series(1, $1), (SELECT now() - interval '31 days' AS old)",
        count,
    )
    await database.execute(
        "INSERT INTO stripe_events (id, type, payload, outcome, handled_at)"
        " SELECT 'evt_' || n, 'x', '{}', 'ignored', now() - interval '91 days' FROM generate_series(1, $1) AS n",
        count,
    )
    for statement, days in ((retention.DELETE_CARTS, 30), (retention.DELETE_EVENTS, 90)):
        removed = await run_transaction(
            resources.pool, lambda tx, s=statement, d=days: s.run(tx, days=d, limit=sweep.BATCH)
        )
        assert removed == sweep.BATCH
    commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    commits_before = await read_statistic(database, commits)

    await retention.delete_expired(resources)

    assert await stored_carts(database) == set()
    assert await database.fetchval("SELECT count(*) FROM stripe_events") == 0
    # Two batches of carts and two of events, the second of each short, and one batch of keys.
    assert await read_statistic(database, commits, above=commits_before + 4) >= commits_before + 5


async def read_statistic(database: asyncpg.Connection, query: str, above: int = -1) -> int:
    """A number of the server's statistics once it is larger than `above`: the server reports them with a delay."""

    async def number_above() -> int | None:
        await database.execute("SELECT pg_stat_clear_snapshot()")
        number = int(await database.fetchval(query))
        return number if number > above else None

    return await eventually(number_above)


# Events


@pytest.mark.parametrize("locked", [False, True])
async def test_old_handled_events_are_deleted_and_all_others_stay(
    resources: Resources, database: asyncpg.Connection, locked: bool
) -> None:
    await database.execute(
        "INSERT INTO stripe_events (id, type, payload, received_at, outcome, handled_at, next_attempt_at) VALUES"
        " ('evt_old', 'x', '{}', now() - interval '91 days', 'applied', now() - interval '90 days 1 second', NULL),"
        " ('evt_young', 'x', '{}', now() - interval '99 days', 'applied', now() - interval '89 days 23 hours', NULL),"
        " ('evt_unhandled', 'x', '{}', now() - interval '1 year', NULL, NULL, now()),"
        " ('evt_left', 'x', '{}', now() - interval '1 year', 'mismatch', NULL, now())"
    )
    remaining = {"evt_young", "evt_unhandled", "evt_left"} | ({"evt_old"} if locked else set())

    async with database.transaction():
        if locked:
            await database.execute("SELECT FROM stripe_events WHERE id = 'evt_old' FOR NO KEY UPDATE")
        await retention.delete_expired(resources)

    assert {event_id for (event_id,) in await database.fetch("SELECT id FROM stripe_events")} == remaining


async def read_tables(database: asyncpg.Connection) -> dict[str, Any]:
    return {table: await database.fetch(f"SELECT {names} FROM {table} ORDER BY id") for table, names in COLUMNS.items()}


async def test_a_deleted_event_has_no_effect_when_it_is_delivered_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """The state of an order, which is never deleted, guards what an event may do.

    Eight orders go through every kind of event. Then all stored events are deleted, and Stripe's are delivered again:
    they are stored again and change nothing else.
    """
    stripe.set_webhooks(drop=True)
    product = await shop.create_product(stock=20)
    orders = [await shop.checked_out_cart((product["id"], 1)) for _ in range(8)]
    sessions = [order["payment"]["stripe_session_id"] for order in orders]

    async def deliver_all_events() -> None:
        for event in list(stripe.events):
            await deliver(shop, event)
        await make_everything_due(database)
        await sweep.sweep(resources)

    # 0: fulfilled; 1: fulfilled and refunded; 2: fulfilled and disputed.
    for session in sessions[:3]:
        stripe.pay(session)
    # 3: a payment in progress that fails; 4: one that succeeds.
    for session in sessions[3:5]:
        stripe.pay(session, later=True)
    # 5: its session expires at Stripe.
    stripe.expire_session(sessions[5])
    await deliver_all_events()
    await shop.call("POST", f"/orders/{orders[1]['order_id']}/refund", 200, {"restock": True})
    stripe.dispute(stripe.session(sessions[2])["payment_intent"])
    stripe.settle(sessions[3], succeed=False)
    stripe.settle(sessions[4], succeed=True)
    # 6: a late payment whose units are there; 7: one whose cart has a new order.
    for order, session in zip(orders[6:], sessions[6:], strict=True):
        await end_hold(database, order["order_id"])
        await sweep.sweep(resources)
        stripe.session(session)["status"] = "open"
        stripe.pay(session)
    await shop.check_out((await shop.get_order(orders[7]["order_id"]))["cart_id"])
    await sweep.sweep(resources)
    await deliver_all_events()
    await deliver_all_events()

    final_orders = [await shop.get_order(order["order_id"]) for order in orders]
    assert [(order["status"], order["payment"]["status"]) for order in final_orders] == [
        ("FULFILLED", "SUCCEEDED"),
        ("FULFILLED", "REFUNDED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "FAILED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "EXPIRED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "REFUNDED"),
    ]
    assert {event["type"] for event in stripe.events} >= {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
        "charge.refunded",
        "charge.dispute.created",
    }

    tables_before, refunds_before = await read_tables(database), len(list(stripe.refunds))
    await database.execute("UPDATE stripe_events SET handled_at = handled_at - interval '91 days'")
    await retention.delete_expired(resources)
    assert await database.fetchval("SELECT count(*) FROM stripe_events") == 0

    await deliver_all_events()

    assert await database.fetchval("SELECT count(*) FROM stripe_events") == len(list(stripe.events))
    assert await read_tables(database) == tables_before
    assert len(list(stripe.refunds)) == refunds_before
    await assert_ledgers_agree(resources, stripe)


async def test_a_new_event_about_the_same_dispute_adds_a_note(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    stripe.set_webhooks(drop=True)
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    await deliver(shop, make_event("checkout.session.completed", session))
    dispute = stripe.dispute(session["payment_intent"])
    stripe.set_dispute(dispute["id"], "under_review")
    opened, updated = [last_event(stripe, f"charge.dispute.{what}") for what in ("created", "updated")]

    for delivery in (opened, opened, updated):
        await database.execute("DELETE FROM stripe_events")
        await deliver(shop, delivery)

    assert await database.fetchval("SELECT count(*) FROM order_events WHERE note LIKE '%dispute%'") == 2


# The worker


async def test_the_worker_deletes_old_carts_and_events(
    shop: Shop, database: asyncpg.Connection, worker_settings: Settings
) -> None:
    await age_carts(database, await shop.create_cart())
    await database.execute(
        "INSERT INTO stripe_events (id, type, payload, outcome, handled_at)"
        " VALUES ('evt_old', 'x', '{}', 'ignored', now() - interval '91 days')"
    )

    async def everything_is_deleted() -> bool:
        return not await database.fetchval("SELECT (SELECT count(*) FROM carts) + (SELECT count(*) FROM stripe_events)")

    stopping = asyncio.Event()
    working = asyncio.create_task(work(worker_settings, stopping))
    await eventually(everything_is_deleted)
    stopping.set()
    await working
