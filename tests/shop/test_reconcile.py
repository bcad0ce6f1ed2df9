"""Reconciliation: the service learns from Stripe's lists what webhooks did not report."""

import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.infra.stripe import StripeUnknown
from service.infra.transactions import run_transaction
from service.shop import audit, fulfilment, reconcile, sweep, transitions
from service.shop.audit import STRIPE_RULE
from tests.client import Shop
from tests.queries import on
from tests.stripe_events import deliver, end_sessions, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
DEAD_REDIS = {"REDIS_URL": "redis://127.0.0.1:1/0"}
DAY = 86_400

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


# Sessions


@pytest.mark.parametrize("changed_settings", [{**DEAD_REDIS, "RECONCILE_SECONDS": "0.2"}])
async def test_every_paid_order_is_fulfilled_without_any_webhook(
    shop: Shop, stripe: StripeStandin, resources: Resources, worker: None
) -> None:
    product = await shop.create_product(stock=10)
    orders = [await shop.checked_out_cart((product["id"], 1)) for _ in range(6)]
    for placed_order in orders[:4]:
        stripe.pay(placed_order["payment"]["stripe_session_id"], email="ann@example.org")
    stripe.pay(orders[4]["payment"]["stripe_session_id"], later=True)
    stripe.expire_session(orders[5]["payment"]["stripe_session_id"])

    for placed_order in orders[:4]:
        await shop.wait_for_order(placed_order["order_id"], "FULFILLED", "SUCCEEDED")
    await shop.wait_for_order(orders[4]["order_id"], "PENDING_PAYMENT", "PROCESSING")
    await shop.wait_for_order(orders[5]["order_id"], "CANCELLED", "EXPIRED")

    paid = await on(resources.pool).fetch("SELECT email FROM orders WHERE paid_at IS NOT NULL")
    assert {row["email"] for row in paid} == {"ann@example.org"}
    assert await shop.get_stock(product["id"]) == 5
    await assert_ledgers_agree(resources, stripe)


async def test_reconcile_reads_all_pages_and_goes_past_failures(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five paid orders, one of which cannot be settled, after 120 sessions of others on the same account."""
    monkeypatch.setattr(reconcile, "PAGE", 2)
    product = await shop.create_product(stock=10)
    orders = [await shop.checked_out_cart((product["id"], 1)) for _ in range(5)]
    for placed_order in orders:
        stripe.pay(placed_order["payment"]["stripe_session_id"])
    foreign = {**stripe.session(orders[0]["payment"]["stripe_session_id"]), "payment_status": "unpaid", "metadata": {}}
    for number in range(120):
        stripe.sessions.save({**foreign, "id": f"cs_{number}"})
    unpaid = await shop.checked_out_cart((product["id"], 1))
    await database.execute(
        f"ALTER TABLE orders ADD CHECK (id <> '{orders[4]['order_id']}' OR status <> 'PAID') NOT VALID"
    )

    end_sessions(stripe)

    assert await reconcile.reconcile(resources) == 4

    statuses = [(await shop.get_order(placed_order["order_id"]))["status"] for placed_order in (*orders, unpaid)]
    assert statuses == [*["PAID"] * 4, *["PENDING_PAYMENT"] * 2]

    await database.execute("ALTER TABLE orders DROP CONSTRAINT orders_check")
    assert await reconcile.reconcile(resources) == 1
    assert await reconcile.reconcile(resources) == 0
    await assert_ledgers_agree(resources, stripe)


async def test_the_paid_session_of_an_order_counts_beside_unpaid_ones(
    shop: Shop, stripe: StripeStandin, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the calls for known differences, which would settle the order too.
    monkeypatch.setattr(reconcile, "RECHECKS", 0)
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    unpaid = {**session, "status": "expired", "payment_status": "unpaid", "payment_intent": None}
    # Stripe lists the newest first: one unpaid session comes before the paid one and one after it.
    sessions = [{**unpaid, "id": "cs_older"}, session, {**unpaid, "id": "cs_newer"}]
    stripe.sessions._objects[:] = sessions
    stripe.sessions._positions.update({each["id"]: position for position, each in enumerate(sessions)})

    end_sessions(stripe)
    assert await reconcile.reconcile(resources) == 1
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"


async def test_unreadable_sessions_of_others_on_the_account_are_skipped(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    # Stripe's `status` of a session can be null.
    stripe.sessions.save({**session, "id": "cs_foreign", "status": None, "metadata": {}})

    end_sessions(stripe)
    assert await reconcile.settle_sessions(resources) == 1
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"


# What a run costs


async def test_a_run_costs_what_is_new(
    shop: Shop,
    resources: Resources,
    stripe: StripeStandin,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand purchases take at most 30 calls of Stripe, at most 5 a second; the next run takes two."""
    placed = await shop.checked_out_cart()
    session = stripe.session(placed["payment"]["stripe_session_id"])
    await database.execute("UPDATE reconcile_positions SET reached_at = now() - interval '2 hours'")
    start = stripe.now() - 7000
    session["created"] = start
    for number in range(1000):
        paid = {**session, "id": f"cs_{number}", "status": "complete", "payment_status": "paid"}
        paid |= {"payment_intent": f"pi_{number}", "metadata": {"order_id": str(UUID(int=number))}}
        stripe.sessions.save({**paid, "created": start + number})
        stripe.events.save({**make_event(COMPLETED, paid), "created": stripe.now() - 1000 + number})
    calls: list[str] = []
    call = resources.stripe._reply

    async def counted(method: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        calls.append(path)
        return await call(method, path, parameters)

    monkeypatch.setattr(resources.stripe, "_reply", counted)
    monkeypatch.setattr("service.infra.stripe.SECONDS_BETWEEN_PAGES", 0.2)
    begun = time.monotonic()

    await reconcile.reconcile(resources)

    assert 20 <= len(calls) <= 30
    assert len(calls) / 5 - 1 < time.monotonic() - begun
    calls.clear()
    await reconcile.reconcile(resources)
    assert calls == ["events", "checkout/sessions"]


# Captured here and paid at Stripe


def difference(placed: dict[str, Any], session: dict[str, Any]) -> str:
    """The subject of a violation."""
    return f"order {placed['order_id']} {session['id']}"


async def differences(resources: Resources, database: asyncpg.Connection) -> list[str]:
    """The orders and sessions that differ from our payments, after another run."""
    await reconcile.reconcile(resources)
    return [
        row["subject"]
        for row in await database.fetch("SELECT subject FROM audit_violations WHERE rule = $1", STRIPE_RULE)
    ]


async def test_an_order_paid_by_an_event_of_another_account_is_a_difference(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """As if the event had not been refused: it names our order, and a session that is not ours. Nothing was paid."""
    paid, forged = [await shop.checked_out_cart() for _ in range(2)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    session = stripe.session(forged["payment"]["stripe_session_id"])
    other = {**session, "id": "cs_of_another_account", "status": "complete", "payment_status": "paid"}
    await deliver(shop, make_event(COMPLETED, {**other, "payment_intent": "pi_of_another_account"}))
    await shop.wait_for_order(forged["order_id"], "PAID", "SUCCEEDED")
    stripe.expire_session(session["id"])

    end_sessions(stripe)

    assert await differences(resources, database) == [difference(forged, session)]
    # It stays known, and is checked again.
    assert await differences(resources, database) == [difference(forged, session)]
    await database.execute("UPDATE payments SET status = 'EXPIRED' WHERE order_id = $1", UUID(forged["order_id"]))
    assert await differences(resources, database) == []


async def test_a_session_that_is_paid_at_stripe_and_not_here_is_a_difference(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """The payment cannot be recorded, so the difference stays until it can."""
    placed = await shop.checked_out_cart()
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    await database.execute("ALTER TABLE orders ADD CONSTRAINT orders_check CHECK (status <> 'PAID') NOT VALID")
    end_sessions(stripe)

    assert await differences(resources, database) == [difference(placed, session)]

    await database.execute("ALTER TABLE orders DROP CONSTRAINT orders_check")
    assert await differences(resources, database) == []
    assert (await shop.get_order(placed["order_id"]))["payment"]["status"] == "SUCCEEDED"


async def test_an_order_that_its_second_session_paid_is_no_difference(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Only the first session, which expired, is listed in this run. The second one is retrieved."""
    placed = await shop.checked_out_cart()
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    unpaid = {**session, "id": "cs_first", "status": "expired", "payment_status": "unpaid", "payment_intent": None}
    await deliver(shop, make_event(COMPLETED, session))
    await shop.wait_for_order(placed["order_id"], "PAID", "SUCCEEDED")
    stripe.sessions._objects[:] = [{**unpaid, "created": stripe.now() - 7200}, session]
    stripe.sessions._positions.update({"cs_first": 0, session["id"]: 1})

    assert await differences(resources, database) == []


# Everything, by a full audit


async def full_audit(resources: Resources) -> list[str]:
    """The orders and sessions that differ from our payments, after a full audit without failures."""
    report = await audit.check_all(resources.pool, resources.stripe)
    assert report.failures == {}
    return [violation.subject for violation in report.violations[STRIPE_RULE]]


def record_calls(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all calls from now on. During a call all connections are idle."""
    calls: list[str] = []
    call, idle = resources.stripe._reply, len(resources.pool._idle)

    async def counted(method: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        assert len(resources.pool._idle) == idle, "a connection waits for Stripe"
        calls.append(path)
        return await call(method, path, parameters)

    monkeypatch.setattr(resources.stripe, "_reply", counted)
    return calls


@pytest.mark.parametrize("session_of", ["the order", "another account", "another order"])
async def test_a_full_audit_finds_an_order_that_a_later_event_marked_paid(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, session_of: str
) -> None:
    """Reconcile has read the order's session as unpaid before a forged event comes: it reads it no more."""
    paid, forged = [await shop.checked_out_cart() for _ in range(2)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    session = stripe.session(forged["payment"]["stripe_session_id"])
    stripe.expire_session(session["id"])
    end_sessions(stripe)
    assert await differences(resources, database) == []
    event = {**session, "status": "complete", "payment_status": "paid", "payment_intent": "pi_forged"}
    if session_of == "another account":
        event["id"] = "cs_of_another_account"
    elif session_of == "another order":
        event["id"] = "cs_of_another_order"
        metadata = {"order_id": str(UUID(int=1))}
        stripe.sessions.save({**event, "metadata": metadata, "created": session["created"] - DAY})
    await deliver(shop, make_event(COMPLETED, event))
    await shop.wait_for_order(forged["order_id"], "PAID", "SUCCEEDED")
    assert await differences(resources, database) == []

    assert await full_audit(resources) == [difference(forged, event)]

    # It stays known until the payment is no longer captured here.
    assert await differences(resources, database) == [difference(forged, event)]
    assert await full_audit(resources) == [difference(forged, event)]
    await database.execute("UPDATE payments SET status = 'EXPIRED' WHERE order_id = $1", UUID(forged["order_id"]))
    assert await differences(resources, database) == []


async def test_a_full_audit_finds_a_payment_that_was_not_recorded(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """A session that was paid after reconcile has read it, and whose event was lost. Reconcile settles it then."""
    placed = await shop.checked_out_cart()
    session = stripe.session(placed["payment"]["stripe_session_id"])
    stripe.expire_session(session["id"])
    end_sessions(stripe)
    assert await differences(resources, database) == []
    await shop.wait_for_order(placed["order_id"], "CANCELLED", "EXPIRED")
    (stored,) = stripe.sessions
    stored |= {"status": "complete", "payment_status": "paid", "payment_intent": "pi_later"}

    assert await full_audit(resources) == [difference(placed, session)]

    assert await differences(resources, database) == []
    assert (await shop.get_order(placed["order_id"]))["payment"]["status"] == "SUCCEEDED"


async def test_a_full_audit_asks_stripe_slowly_and_goes_on_where_it_was_stopped(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine orders, one still pending, in statements of 100: Stripe is silent for a moment, then until the run fails."""
    product = await shop.create_product(stock=20)
    orders = [await shop.checked_out_cart((product["id"], 1)) for _ in range(9)]
    sessions = [order["payment"]["stripe_session_id"] for order in orders]
    for session_id in sessions[:-1]:
        stripe.pay(session_id)
    end_sessions(stripe)
    for session in list(stripe.sessions)[-1:]:
        session["created"] += 7200
    assert await differences(resources, database) == []
    calls = record_calls(resources, monkeypatch)
    paths = [f"checkout/sessions/{session_id}" for session_id in sessions[:-1]]

    stripe.set_faults(
        [
            {"action": "delay", "seconds": 0, "path": "/v1/checkout/sessions", "times": 3},
            {"action": "status", "status": 429, "path": "/v1/checkout/sessions", "times": 1},
            {"action": "status", "status": 500, "path": "/v1/checkout/sessions", "times": 1},
            {"action": "delay", "seconds": 0, "path": "/v1/checkout/sessions", "times": 1},
            {"action": "status", "status": 403, "path": "/v1/checkout/sessions"},
        ]
    )
    monkeypatch.setattr("service.infra.stripe.SECONDS_BETWEEN_PAGES", 0.2)
    begun = time.monotonic()
    report = await audit.check_all(resources.pool, resources.stripe)
    assert "403" in report.failures[STRIPE_RULE]
    # The limit is retried inside of the call.
    assert calls == [*paths[:3], paths[3], paths[3], paths[4]]
    assert time.monotonic() - begun > 1.0 + 4 * 0.2

    stripe.set_faults([])
    calls.clear()
    begun = time.monotonic()
    assert await full_audit(resources) == []
    assert calls == paths[4:]
    assert time.monotonic() - begun > len(calls) / 5

    calls.clear()
    assert await full_audit(resources) == []
    assert calls == paths, "the next pass begins with the first order"


# Events


@pytest.mark.parametrize("changed_settings", [{**DEAD_REDIS, "RECONCILE_SECONDS": "0.2"}])
async def test_late_payments_and_refunds_of_old_sessions_are_found_in_the_list_of_events(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, worker: None
) -> None:
    """A bank payment that succeeds for an order cancelled long ago, and a refund made in the dashboard.

    Both sessions are four days old, so that only the list of events tells of either.
    """
    product = await shop.create_product(stock=2)
    cancelled, refunded = [await shop.checked_out_cart((product["id"], 1)) for _ in range(2)]
    stripe.pay(cancelled["payment"]["stripe_session_id"], later=True)
    await shop.wait_for_order(cancelled["order_id"], "PENDING_PAYMENT", "PROCESSING")
    # As if the order had been cancelled before Stripe reported the payment in progress.
    cancelled_id = UUID(cancelled["order_id"])
    await database.execute(
        "UPDATE payments SET status = 'INITIATED', stripe_session_id = NULL, session_parameters = '{}'"
        " WHERE order_id = $1",
        cancelled_id,
    )
    async with resources.pool.acquire() as tx, tx.transaction():
        order = await transitions.lock(tx, cancelled_id)
        await transitions.cancel(tx, transitions.AfterCommit(), [order], payment_status="EXPIRED")
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "broken"})
    paid = stripe.pay(refunded["payment"]["stripe_session_id"])
    await shop.wait_for_order(refunded["order_id"], "FULFILLED", "SUCCEEDED")
    for session in stripe.sessions:
        session["created"] -= 4 * DAY

    stripe.settle(cancelled["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(paid["payment_intent"], 1250, {}, "dashboard")

    await shop.wait_for_order(cancelled["order_id"], "CANCELLED", "REFUNDED")
    await shop.wait_for_order(refunded["order_id"], "FULFILLED", "REFUNDED")
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("changed_settings", [DEAD_REDIS])
async def test_an_order_refunded_while_all_workers_were_down_is_not_fulfilled(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.create_product(stock=1)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    await resources.stripe.create_refund(session["payment_intent"], 1250, {}, "dashboard")

    await reconcile.reconcile(resources)
    await fulfilment.fulfil(resources, UUID(placed_order["order_id"]))
    await sweep.sweep(resources)

    await shop.wait_for_order(placed_order["order_id"], "CANCELLED", "REFUNDED")
    assert await shop.get_stock(product["id"]) == 1
    await assert_ledgers_agree(resources, stripe)


async def test_sessions_are_settled_though_the_api_key_may_not_read_events(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    stripe.set_faults([{"action": "status", "status": 403, "path": "/v1/events"}])
    end_sessions(stripe)

    with pytest.raises(StripeUnknown):
        await reconcile.reconcile(resources)

    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"


async def test_events_of_all_pages_are_fetched_once_and_unstorable_ones_skipped(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stripe lists an event that has arrived, 111 that have not, one of another kind and one that cannot be stored."""
    monkeypatch.setattr(reconcile, "PAGE", 3)
    product = await shop.create_product(stock=120)
    placed_order = await shop.checked_out_cart((product["id"], 1))
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    refunded = [make_event("charge.refunded", {"id": f"ch_{number}"}) for number in range(110)]
    missed = [last_event(stripe, COMPLETED), *refunded]
    arrived = make_event(COMPLETED, session)
    await deliver(shop, arrived)
    unstorable = make_event(COMPLETED, session, metadata={"name": "\x00"})
    for event in [arrived, *refunded[:50], unstorable, *refunded[50:], make_event("customer.created", {})]:
        stripe.events.save({**event, "created": stripe.now()})

    assert await reconcile.fetch_events(resources) == len(missed) + 1

    stored = {row["id"] for row in await database.fetch("SELECT id FROM stripe_events WHERE handled_at IS NULL")}
    assert stored == {event["id"] for event in missed}
    assert await reconcile.fetch_events(resources) == 1, "the event that cannot be stored"


async def test_a_list_of_events_that_breaks_off_is_fetched_again(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """The second page of the list fails: the stored position stays, and the list is fetched again from there."""
    position = "SELECT reached_at FROM reconcile_positions WHERE list = 'events'"
    # All workers were down for two hours.
    await database.execute("UPDATE reconcile_positions SET reached_at = now() - interval '40 minutes'")
    before = await database.fetchval(position)
    for number in range(150):
        stripe.events.save({**make_event("charge.refunded", {"id": f"ch_{number}"}), "created": stripe.now() - 1800})
    stripe.set_faults([{"action": "delay", "path": "/v1/events", "times": 1}, {"action": "drop", "path": "/v1/events"}])

    with pytest.raises(StripeUnknown):
        await reconcile.fetch_events(resources)
    assert await database.fetchval(position) == before

    # The first page is already stored.
    stripe.set_faults([])
    assert await reconcile.fetch_events(resources) == 150 - reconcile.PAGE
    after = await database.fetchval(position)
    assert after > before

    # A slower worker, which began earlier, does not move the position back.
    await run_transaction(resources.pool, lambda tx: reconcile.MOVE_POSITION.run(tx, list="events", reached_at=before))
    assert await database.fetchval(position) == after
