"""The audit by position: what changed is checked once, what is wrong stays known, and a rule that fails is visible."""

import asyncio
import logging
from uuid import UUID

import asyncpg
import pytest

from service.errors import ShopError
from service.infra import claims
from service.infra.claims import claimed
from service.infra.metrics import exposition
from service.infra.resources import Resources
from service.infra.statements import files
from service.shop import audit
from service.shop.audit import SOURCES, STOCK_RULE, STRIPE_RULE, check_all, check_changes
from service.shop.audit import audit as audit_all
from tests.client import Shop
from tests.database import wait_for_blocked
from tests.queries import on

EVENT = "INSERT INTO order_events (order_id, from_status, to_status, cause) SELECT id, status, status, 'x' FROM orders"
MOVEMENT = "INSERT INTO stock_movements (product_id, delta, reason) VALUES (1, 1, 'x')"


def test_every_rule_is_run() -> None:
    assert {*SOURCES, STRIPE_RULE} == set(files("audit"))


async def found(resources: Resources) -> dict[str, list[str]]:
    """What the audit of the changes knows: the subjects by rule."""
    report = await check_changes(resources.pool)
    assert report.failures == {}
    return {
        rule: [violation.subject for violation in violations]
        for rule, violations in report.violations.items()
        if violations
    }


async def test_a_violation_stays_known_until_it_is_gone(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    first, second = [await shop.checked_out_cart() for _ in range(2)]
    assert await found(resources) == {}

    # No row of the sources changes, so only a full audit can find this.
    await database.execute("UPDATE orders SET total_minor = total_minor + 1 WHERE id = $1", UUID(first["order_id"]))
    assert await found(resources) == {}
    everything = await check_all(resources.pool, resources.stripe)
    assert everything.violations["audit/order_lines_add_up"][0].subject == f"order {first['order_id']}"

    subject = f"order {first['order_id']}"
    assert await found(resources) == {"audit/order_lines_add_up": [subject], "audit/payment_fits_order": [subject]}
    since = await database.fetch("SELECT rule, since FROM audit_violations")
    assert await found(resources) == {"audit/order_lines_add_up": [subject], "audit/payment_fits_order": [subject]}
    assert await database.fetch("SELECT rule, since FROM audit_violations") == since
    await audit.export_results(resources.pool)
    assert b'audit_violations{query="audit/payment_fits_order"} 1.0' in exposition()

    await database.execute("UPDATE orders SET total_minor = total_minor - 1 WHERE id = $1", UUID(first["order_id"]))
    assert await found(resources) == {}
    await audit.export_results(resources.pool)
    text = exposition().decode()
    assert 'audit_violations{query="audit/payment_fits_order"} 0.0' in text
    for rule in (*SOURCES, STRIPE_RULE):
        for kind in ("changes", "full"):
            assert f'audit_pass_timestamp_seconds{{pass="{kind}",query="{rule}"}} 1' in text
    assert second


async def test_all_known_violations_are_checked_again(resources: Resources, database: asyncpg.Connection) -> None:
    """More of them than a statement lists; none is true any more."""
    await database.execute(
        "INSERT INTO audit_violations (rule, subject, detail)"
        " SELECT 'audit/payment_fits_order', 'order ' || gen_random_uuid(), 'wrong' FROM generate_series(1, 1001)"
    )

    assert await found(resources) == {}
    assert await database.fetchval("SELECT count(*) FROM audit_violations") == 0


async def test_an_audit_leaves_time_to_the_shop(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch it waits for a multiple of the time that the batch took: here, for minutes."""
    monkeypatch.setattr(audit, "PAUSE", 1e6)

    for check in (check_changes(resources.pool), check_all(resources.pool, resources.stripe)):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(check, 1)


async def test_two_processes_store_violations_of_a_rule_in_turn(
    resources: Resources, database: asyncpg.Connection
) -> None:
    """Together they could insert and delete the same rows in different orders, and deadlock."""
    wrong = [audit.Violation("order 1", "wrong")]
    async with database.transaction():
        await database.execute("INSERT INTO audit_passes (rule) VALUES ('audit/x')")
        storing = asyncio.create_task(audit.store(resources.pool, "audit/x", None, wrong))
        await wait_for_blocked(database)
    await storing

    assert await database.fetchval("SELECT subject FROM audit_violations") == "order 1"


async def test_the_first_rows_of_a_new_shop_are_counted(shop: Shop, resources: Resources) -> None:
    """A sequence that was never used has the same last value as one that was used once."""
    assert await found(resources) == {}

    await shop.checked_out_cart()

    assert await found(resources) == {}
    assert not any((await audit_all(resources.pool)).values())


@pytest.mark.parametrize("source", ["order_events", "stock_movements"])
async def test_a_row_that_is_committed_after_a_newer_one_is_not_missed(
    shop: Shop, resources: Resources, database: asyncpg.Connection, database_url: str, source: str
) -> None:
    """Two transactions draw numbers in one order and commit in the other; the audit runs between the two commits.

    The older one breaks a rule by a row whose number the positions would have passed.
    """
    await shop.checked_out_cart()
    assert await found(resources) == {}
    older = await asyncpg.connect(database_url)
    transaction = older.transaction()
    await transaction.start()
    if source == "order_events":
        await older.execute(EVENT.replace("status, status", "'PAID', 'FULFILLED'"))
        await database.execute(EVENT)
    else:
        await older.execute(MOVEMENT)
        await database.execute("INSERT INTO stock_movements (product_id, delta, reason) VALUES (1, 2, 'x')")
        await database.execute("UPDATE products SET stock = stock + 2 WHERE id = 1")

    auditing = asyncio.create_task(check_changes(resources.pool))
    await asyncio.sleep(0.3)
    assert not auditing.done(), "it waits for the older transaction"
    await transaction.commit()
    await older.close()

    violated = {rule for rule, violations in (await auditing).violations.items() if violations}
    assert violated == {"audit/history_is_legal" if source == "order_events" else STOCK_RULE}


async def test_positions_stay_while_an_older_transaction_runs(
    shop: Shop,
    resources: Resources,
    database: asyncpg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A transaction that is open for longer than an audit waits: changes are checked, and again at the next run."""
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.1)
    placed = await shop.checked_out_cart()
    assert await found(resources) == {}
    before = await database.fetch("SELECT * FROM audit_positions ORDER BY rule, source")
    passed = await database.fetch("SELECT rule, changes_at FROM audit_passes ORDER BY rule")
    older = await asyncpg.connect(database_url)
    transaction = older.transaction()
    await transaction.start()
    await older.execute(EVENT.replace("status, status", "'PAID', 'FULFILLED'"))
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    await database.execute("UPDATE stock_movements SET delta = delta + 1 WHERE reason = 'release'")

    with caplog.at_level(logging.WARNING):
        violated = await found(resources)

    assert list(violated) == ["audit/units_add_up", STOCK_RULE]
    assert "audit positions wait for an old transaction" in caplog.text
    moved = await database.fetch("SELECT * FROM audit_positions ORDER BY rule, source")
    assert [row for row in moved if row["source"] != "refunds"] == [row for row in before if row["source"] != "refunds"]
    assert await database.fetch("SELECT rule, changes_at FROM audit_passes ORDER BY rule") == passed

    await transaction.commit()
    await older.close()
    assert set(await found(resources)) >= {"audit/units_add_up", "audit/history_is_legal"}


async def test_a_changed_refund_is_checked(shop: Shop, resources: Resources, database: asyncpg.Connection) -> None:
    placed = await shop.checked_out_cart()
    assert await found(resources) == {}
    await database.execute(
        "INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause)"
        " SELECT gen_random_uuid(), id, 'pi_1', 100, 'staff' FROM orders"
    )

    assert await found(resources) == {"audit/payment_fits_order": [f"order {placed['order_id']}"]}

    # Committed later than its time says, as by a transaction that began before the last audit.
    await database.execute("DELETE FROM refunds")
    assert await found(resources) == {}
    await database.execute(
        "INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, updated_at)"
        " SELECT gen_random_uuid(), id, 'pi_1', 100, 'staff', now() - interval '50 seconds' FROM orders"
    )
    assert await found(resources) == {"audit/payment_fits_order": [f"order {placed['order_id']}"]}


async def test_a_run_costs_what_has_changed(shop: Shop, resources: Resources, database: asyncpg.Connection) -> None:
    """The second run looks through no window again, and a rule sees only the ids that have changed."""
    for _ in range(3):
        await shop.checked_out_cart()
    assert await found(resources) == {}
    placed = await shop.checked_out_cart()
    looked_at: list[object] = []

    async def find(pool: object, rule: object, ids: object) -> list[audit.Violation]:
        looked_at.append(ids)
        return []

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit, "_find", find)
        await check_changes(resources.pool)
    cart_id = UUID((await shop.get_order(placed["order_id"]))["cart_id"])
    products = {row["product_id"] for row in await database.fetch("SELECT product_id FROM order_items")}
    ids = [each for batch in looked_at if batch is not None for each in batch]  # type: ignore[attr-defined]
    assert {each for each in ids if isinstance(each, UUID)} == {UUID(placed["order_id"]), cart_id}
    assert {each for each in ids if isinstance(each, int)} <= products
    with pytest.MonkeyPatch.context() as patched:
        looked_at.clear()
        patched.setattr(audit, "_find", find)
        await check_changes(resources.pool)
    assert [batch for batch in looked_at if batch is not None] == []


async def test_balances_are_the_ledger_up_to_their_position(
    shop: Shop, resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is added up window by window. A full audit adds it up again, after somebody has corrected it."""
    monkeypatch.setattr(audit, "WINDOW", 2)
    monkeypatch.setattr(audit, "LEDGER_BATCH", 5000)
    products = [(await shop.create_product(stock=10))["id"] for _ in range(3)]
    for product in products:
        await shop.checked_out_cart((product, 2))
    assert await found(resources) == {}
    balances = "SELECT product_id, units FROM audit_balances ORDER BY product_id"
    assert [tuple(row) for row in await database.fetch(balances)] == [(product, 8) for product in products]
    last = await database.fetchval("SELECT max(id) FROM stock_movements")
    assert await database.fetchval("SELECT position FROM audit_positions WHERE source = 'balances'") == last

    await database.execute("UPDATE stock_movements SET delta = 11 WHERE delta = 10")
    await database.execute("UPDATE products SET stock = stock + 1")
    assert await found(resources) == {}
    report = await check_all(resources.pool, resources.stripe)
    assert not any(report.violations.values()), report
    assert {row["units"] for row in await database.fetch(balances)} == {9}
    assert not any((await audit_all(resources.pool)).values())


async def test_movements_are_added_to_balances_once(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=10)
    last = await database.fetchval("SELECT max(id) FROM stock_movements")
    async with resources.pool.acquire() as writer:
        assert await audit.FOLD_BALANCES.one_or_none(writer, after_id=0, to_id=last) == last
        # As from another process, which read the position before.
        assert await audit.FOLD_BALANCES.one_or_none(writer, after_id=0, to_id=last) is None
    assert await database.fetchval("SELECT units FROM audit_balances WHERE product_id = $1", product["id"]) == 10


async def test_a_rule_that_fails_stops_no_other(
    shop: Shop,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first rule is stuck, one in the middle has an error: the last one still finds its violation."""
    await shop.checked_out_cart()
    await database.execute("UPDATE products SET stock = stock + 1")
    await database.execute(EVENT.replace("status, status", "'PAID', 'FULFILLED'"))
    monkeypatch.setattr(audit, "RULE_SECONDS", 1.0)
    find = audit._find

    async def failing(pool: object, rule: audit.Many[audit.Violation], ids: object) -> list[audit.Violation]:
        if rule.name == "audit/nothing_is_overdue":
            await asyncio.sleep(60)
        if rule.name == "audit/history_is_legal":
            raise ShopError("busy", "for a test")
        return await find(pool, rule, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(audit, "_find", failing)
    report = await check_changes(resources.pool)

    assert report.failures == {
        "audit/nothing_is_overdue": "TimeoutError",
        "audit/history_is_legal": "ShopError busy: for a test",
    }
    assert [rule for rule, violations in report.violations.items() if violations] == [STOCK_RULE]
    assert caplog.text.count("audit rule failed") == 2
    assert b'audit_failures_total{query="audit/history_is_legal"} 1.0' in exposition()
    failed = await database.fetch("SELECT rule FROM audit_passes ORDER BY rule")
    assert {row["rule"] for row in failed} == set(SOURCES) - set(report.failures)
    # It goes on where it failed.
    monkeypatch.setattr(audit, "_find", find)
    assert list(await found(resources)) == ["audit/history_is_legal", STOCK_RULE]


async def test_a_rule_that_needs_more_time_goes_on_at_the_next_run(
    shop: Shop,
    resources: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each run has time for one window of one row: no failure, and after some runs all is checked."""
    placed = await shop.checked_out_cart()
    assert await found(resources) == {}
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    await database.execute(EVENT.replace("status, status", "'PAID', 'FULFILLED'"))
    await database.execute("UPDATE products SET stock = stock + 1")
    monkeypatch.setattr(audit, "WINDOW", 1)
    monkeypatch.setattr(audit, "RULE_SECONDS", 0.0)
    # Of the run itself, not of a statement: twice RULE_SECONDS is no time at all here.
    monkeypatch.setattr(asyncio, "timeout", lambda seconds, timeout=asyncio.timeout: timeout(seconds or None))

    with caplog.at_level(logging.INFO):
        runs = [await check_changes(resources.pool) for _ in range(9)]

    assert "goes on at the next run" in runs[0].failures["audit/history_is_legal"]
    assert runs[-1].failures == {}
    violated = [rule for rule, violations in runs[-1].violations.items() if violations]
    assert violated == ["audit/history_is_legal", STOCK_RULE]
    assert "audit rule goes on at the next run" in caplog.text
    assert "ERROR" not in caplog.text
    assert b'audit_failures_total{query="audit/stock_matches_ledger"} 0.0' in exposition()


# The claim


async def test_one_run_at_a_time_has_a_task(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claimed(resources.pool, "audit") as first, claimed(resources.pool, "audit") as second:
        assert (first, second) == (True, False)
        async with claimed(resources.pool, "reconcile") as other:
            assert other
    async with claimed(resources.pool, "audit", pause_seconds=60) as too_early:
        assert not too_early
    async with claimed(resources.pool, "audit") as again:
        assert again


async def test_a_claim_is_extended_and_ends_with_its_lease(
    resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run outlasts its first lease. One whose claim was taken away ends, and one that was killed is followed."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.6)
    async with claimed(resources.pool, "audit") as ours:
        assert ours
        await asyncio.sleep(1.0)
        async with claimed(resources.pool, "audit") as second:
            assert not second

    async def lose_the_claim() -> None:
        async with claimed(resources.pool, "audit"):
            await database.execute("UPDATE worker_heartbeats SET claimed_by = gen_random_uuid() WHERE loop = 'audit'")
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await lose_the_claim()

    await database.execute(
        "UPDATE worker_heartbeats SET claimed_until = now() + interval '0.5 seconds' WHERE loop = 'audit'"
    )
    async with claimed(resources.pool, "audit") as early:
        assert not early
    async with claimed(resources.pool, "audit", wait_seconds=5) as later:
        assert later
    assert await on(resources.pool).fetchval("SELECT claimed_until FROM worker_heartbeats WHERE loop = 'audit'") is None
