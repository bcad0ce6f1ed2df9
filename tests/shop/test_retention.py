"""What is removed when it is old, what stays for ever, and what is left alone because somebody is at it."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import retention, sweep
from service.worker import work
from tests.books import all_due, balance, deliver, event, hold_ends
from tests.client import Shop, eventually, waiting

# Everything that an event could have an effect on, without what every look at an order writes.
BOOKS = {
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


async def left(database: asyncpg.Connection) -> set[str]:
    return {str(cart_id) for (cart_id,) in await database.fetch("SELECT id FROM carts")}


# Carts


async def test_carts_left_behind_go_and_all_others_stay(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    line = ((await shop.product())["id"], 1)
    empty, filled = await shop.cart(), await shop.cart(line)
    young, touched = await shop.cart(line), await shop.cart(line)
    pending, reopened, unmarked = [await shop.cart(line) for _ in range(3)]
    for cart in (pending, reopened, unmarked):
        order = await shop.checkout(cart)
        if cart != pending:
            await shop.call("POST", f"/orders/{order['order_id']}/cancel", 200)
    # As code has left it that did not know the column yet.
    await database.execute("UPDATE carts SET ordered_at = NULL WHERE id = $1", UUID(unmarked))
    marked = await database.fetch("SELECT id FROM carts WHERE ordered_at IS NOT NULL")
    assert {str(cart_id) for (cart_id,) in marked} == {pending, reopened}
    # Nothing of ours leaves one like this, which somebody has to look into then.
    strange = await shop.cart(line)
    await database.execute("UPDATE carts SET status = 'CHECKED_OUT' WHERE id = $1", UUID(strange))
    await age_carts(database, empty, filled, touched, pending, reopened, unmarked, strange)
    await age_carts(database, young, by=timedelta(days=29, hours=23))
    await shop.add(touched, line[0])

    await retention.delete_expired(resources)
    assert await left(database) == {young, touched, pending, reopened, unmarked, strange}
    assert await database.fetchval("SELECT count(*) FROM cart_items") == 6
    for cart in (empty, filled):
        await shop.call("GET", f"/carts/{cart}", 404)
        await shop.add(cart, line[0], expect=404)
        await shop.checkout(cart, 404)
    # What stayed works as ever.
    assert (await shop.checkout(young))["status"] == "PENDING_PAYMENT"
    assert (await shop.checkout(unmarked))["status"] == "PENDING_PAYMENT"
    await balance(resources, stripe)


async def test_a_cart_that_is_being_edited_is_not_waited_for(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    edited, other = await shop.cart(), await shop.cart()
    await age_carts(database, edited, other)
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(edited))
        await retention.delete_expired(resources)
        assert await left(database) == {edited}
    await retention.delete_expired(resources)
    assert await left(database) == set()


@pytest.mark.parametrize("taken", ["edited", "ordered", "ordered and cancelled"])
async def test_a_cart_that_is_taken_up_just_before_its_lock_stays(
    shop: Shop, resources: Resources, database: asyncpg.Connection, database_url: str, taken: str
) -> None:
    """The statement has its snapshot, in which the cart is old, and is stopped on the way to the lock."""
    product = await shop.product()
    cart, other = await shop.cart((product["id"], 1)), await shop.cart()
    await age_carts(database, cart, other)
    # A row is only looked at once an advisory lock is had.
    await database.execute("ALTER TABLE carts ENABLE ROW LEVEL SECURITY")
    await database.execute("CREATE POLICY api ON carts TO commerce_app USING (true)")
    await database.execute(
        "CREATE POLICY slow ON carts TO commerce_worker USING (pg_advisory_xact_lock_shared(1)::text IS NOT NULL)"
    )
    async with database.transaction():
        await database.execute("SELECT pg_advisory_xact_lock(1)")
        tidying = asyncio.create_task(retention.delete_expired(resources))
        await waiting(database)
        if taken == "edited":
            await shop.add(cart, product["id"])
        else:
            order_id = (await shop.checkout(cart))["order_id"]
        if taken == "ordered and cancelled":
            await shop.call("POST", f"/orders/{order_id}/cancel", 200)
    await tidying
    assert await left(database) == {cart}
    assert (await shop.call("GET", f"/carts/{cart}", 200))["items"][0]["product_id"] == product["id"]


async def test_who_comes_while_a_cart_is_removed_is_told_that_it_is_gone(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product()
    cart = await shop.cart((product["id"], 1))
    await age_carts(database, cart)
    async with resources.pool.acquire() as worker, worker.transaction():
        assert await retention.DELETE_CARTS.run(worker, days=30, limit=100) == 1
        coming = [
            asyncio.create_task(shop.checkout(cart, 404)),
            asyncio.create_task(shop.add(cart, product["id"], expect=404)),
        ]
        await waiting(database, len(coming))
    await asyncio.gather(*coming)
    assert await database.fetchval("SELECT count(*) FROM orders") == 0


# Batches


async def test_a_batch_is_bounded_and_a_transaction_of_its_own(
    resources: Resources, database: asyncpg.Connection
) -> None:
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
    before = await settled(database, commits)
    await retention.delete_expired(resources)
    assert await left(database) == set()
    assert await database.fetchval("SELECT count(*) FROM stripe_events") == 0
    # Two batches of each, the last of them short, and one of the keys.
    assert await settled(database, commits, above=before + 4) >= before + 5


async def settled(database: asyncpg.Connection, query: str, above: int = -1) -> int:
    """A number of the server's statistics, which come a little late."""

    async def look() -> int | None:
        await database.execute("SELECT pg_stat_clear_snapshot()")
        found = int(await database.fetchval(query))
        return found if found > above else None

    return await eventually(look)


# Events


@pytest.mark.parametrize("held", [False, True])
async def test_handled_events_go_and_others_stay(
    resources: Resources, database: asyncpg.Connection, held: bool
) -> None:
    await database.execute(
        "INSERT INTO stripe_events (id, type, payload, received_at, outcome, handled_at, next_attempt_at) VALUES"
        " ('evt_old', 'x', '{}', now() - interval '91 days', 'applied', now() - interval '90 days 1 second', NULL),"
        " ('evt_young', 'x', '{}', now() - interval '99 days', 'applied', now() - interval '89 days 23 hours', NULL),"
        " ('evt_unhandled', 'x', '{}', now() - interval '1 year', NULL, NULL, now()),"
        " ('evt_left', 'x', '{}', now() - interval '1 year', 'mismatch', NULL, now())"
    )
    stay = {"evt_young", "evt_unhandled", "evt_left"} | ({"evt_old"} if held else set())
    async with database.transaction():
        if held:
            await database.execute("SELECT FROM stripe_events WHERE id = 'evt_old' FOR NO KEY UPDATE")
        await retention.delete_expired(resources)
    assert {event_id for (event_id,) in await database.fetch("SELECT id FROM stripe_events")} == stay


async def books(database: asyncpg.Connection) -> dict[str, Any]:
    return {table: await database.fetch(f"SELECT {names} FROM {table} ORDER BY id") for table, names in BOOKS.items()}


async def test_an_event_that_was_removed_has_no_effect_when_it_comes_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Whatever an event does is guarded by the state of its order, which stays for ever."""
    stripe.set_webhooks(drop=True)
    product = await shop.product(stock=20)
    placed = [await shop.placed((product["id"], 1)) for _ in range(8)]
    sessions = [order["payment"]["stripe_session_id"] for order in placed]
    # Paid and fulfilled; so, and refunded; paid and disputed.
    for session in sessions[:3]:
        stripe.pay(session)
    # On its way, and then it fails, or comes.
    for session in sessions[3:5]:
        stripe.pay(session, later=True)
    # Ended at Stripe.
    stripe.expire_session(sessions[5])

    async def tell() -> None:
        for sent in list(stripe.events):
            await deliver(shop, sent)
        await all_due(database)
        await sweep.sweep(resources)

    await tell()
    await shop.call("POST", f"/orders/{placed[1]['order_id']}/refund", 200, {"restock": True})
    stripe.dispute(stripe.session(sessions[2])["payment_intent"])
    stripe.settle(sessions[3], succeed=False)
    stripe.settle(sessions[4], succeed=True)
    # Paid although it was cancelled, with the units still there, and with a new order of the same cart.
    for order, session in zip(placed[6:], sessions[6:], strict=True):
        await hold_ends(database, order["order_id"])
        await sweep.sweep(resources)
        stripe.session(session)["status"] = "open"
        stripe.pay(session)
    await shop.checkout((await shop.order(placed[7]["order_id"]))["cart_id"])
    await sweep.sweep(resources)
    await tell()
    await tell()
    ends = [await shop.order(order["order_id"]) for order in placed]
    assert [(order["status"], order["payment"]["status"]) for order in ends] == [
        ("FULFILLED", "SUCCEEDED"),
        ("FULFILLED", "REFUNDED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "FAILED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "EXPIRED"),
        ("FULFILLED", "SUCCEEDED"),
        ("CANCELLED", "REFUNDED"),
    ]
    kinds = {sent["type"] for sent in stripe.events}
    assert kinds >= {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
        "charge.refunded",
        "charge.dispute.created",
    }

    before, made = await books(database), len(list(stripe.refunds))
    await database.execute("UPDATE stripe_events SET handled_at = handled_at - interval '91 days'")
    await retention.delete_expired(resources)
    assert await database.fetchval("SELECT count(*) FROM stripe_events") == 0
    await tell()
    assert await database.fetchval("SELECT count(*) FROM stripe_events") == len(list(stripe.events))
    assert await books(database) == before
    assert len(list(stripe.refunds)) == made
    await balance(resources, stripe)


async def test_a_new_event_about_the_same_dispute_is_another_note(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    stripe.set_webhooks(drop=True)
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    await deliver(shop, event("checkout.session.completed", session))
    stripe.dispute(session["payment_intent"])
    sent = event("charge.dispute.created", {"id": "dp_1", "payment_intent": session["payment_intent"]})
    for again in (sent, sent, {**sent, "id": f"evt_{uuid4().hex}"}):
        await database.execute("DELETE FROM stripe_events")
        await deliver(shop, again)
    assert await database.fetchval("SELECT count(*) FROM order_events WHERE note LIKE '%dispute%'") == 2


# The worker


async def test_the_worker_does_it(shop: Shop, database: asyncpg.Connection, worker_settings: Settings) -> None:
    await age_carts(database, await shop.cart())
    await database.execute(
        "INSERT INTO stripe_events (id, type, payload, outcome, handled_at)"
        " VALUES ('evt_old', 'x', '{}', 'ignored', now() - interval '91 days')"
    )
    stopping = asyncio.Event()
    working = asyncio.create_task(work(worker_settings, stopping))

    async def gone() -> bool:
        return not await database.fetchval("SELECT (SELECT count(*) FROM carts) + (SELECT count(*) FROM stripe_events)")

    await eventually(gone)
    stopping.set()
    await working
