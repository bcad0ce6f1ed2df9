"""What a purchase of three lines writes to the WAL and leaves in the tables, beside many past orders."""

import uvloop

from tests.bench.benchmarks.audit import catch_up
from tests.bench.benchmarks.scale import add_history, purchases
from tests.bench.client import Customers, with_customers
from tests.bench.figures import Figure, Goal, Measured
from tests.bench.load import Tables
from tests.bench.stage import Shop, Stage

PRODUCTS, LINES = 10_000, 3
# As many before, so that VACUUM has freed pages of old row versions, as in a shop that has been open for some time.
WARMING, PURCHASES = 2000, 2000
KILOBYTE = 1000

SIZES = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname !~ 'yoyo'
"""
HOT = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0"


def of_a_purchase(stage: Stage) -> Measured:
    """Purchases from the cart to FULFILLED, each with one event, after a checkpoint.

    Each page that they change is then written whole once: the more purchases, the less WAL for each.
    """
    url, tables = stage.database("storage", PRODUCTS, history=0)
    if tables.orders == 0:
        add_history(tables, stage.orders, LINES)
        catch_up(tables)
    with stage.shop(url, worker=True) as shop:
        uvloop.run(with_customers(shop, url, PRODUCTS, lambda customers: _buy(customers, WARMING)))
        rounds = [_round(shop, url, tables) for _ in range(stage.rounds)]
    stage.audit(url)
    wal = Goal(f"WAL of a purchase of three lines beside {stage.orders:,} orders", "at most 50 kB", most=50)
    stored = Goal("bytes that it leaves in the tables, with one event", "at most 6 kB", most=6)
    written, pages, events, bytes_by_table, hot = zip(*rounds, strict=True)
    grown = [sum(sizes.values()) for sizes in bytes_by_table]
    return Measured(
        [
            Figure("WAL of a purchase", "kB", written, True, "", wal),
            Figure("full pages in it", "pages", pages, True),
            Figure("stored by a purchase", "kB", grown, True, "", stored),
        ],
        {
            "orders": stage.orders,
            "purchases": PURCHASES,
            "events of a purchase": events[-1],
            "kB by table": {table: round(kilobytes, 2) for table, kilobytes in sorted(bytes_by_table[-1].items())},
            "HOT updates of all updates of a purchase": hot[-1],
        },
    )


def _round(shop: Shop, url: str, tables: Tables) -> tuple[float, float, float, dict[str, float], dict[str, str]]:
    """For each purchase: kilobytes of WAL, full pages, events, kilobytes by table, and HOT of all updates by table."""
    tables.settle()
    before, events = dict(tables.connection.execute(SIZES)), tables.value("SELECT count(*) FROM stripe_events")
    tables.connection.execute("SELECT pg_stat_reset_shared('wal'), pg_stat_reset()")
    uvloop.run(with_customers(shop, url, PRODUCTS, lambda customers: _buy(customers, PURCHASES)))
    wal = tables.value("SELECT wal_bytes FROM pg_stat_wal") / PURCHASES / KILOBYTE
    pages = tables.value("SELECT wal_fpi FROM pg_stat_wal") / PURCHASES
    events = tables.value("SELECT count(*) FROM stripe_events") - events
    hot = {
        table: f"{hot_updates / PURCHASES:.1f} of {updates / PURCHASES:.1f}"
        for table, updates, hot_updates in tables.connection.execute(HOT)
        if updates > PURCHASES / 2
    }
    tables.settle()
    after = dict(tables.connection.execute(SIZES))
    grown = {table: (after[table] - before[table]) / PURCHASES / KILOBYTE for table in after}
    return wal, pages, events / PURCHASES, {table: size for table, size in grown.items() if size}, hot


async def _buy(customers: Customers, count: int) -> list[float]:
    customers.lines = LINES
    await purchases(customers, count)
    return []
