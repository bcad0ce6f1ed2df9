"""The audit after new purchases in large tables: its time in PostgreSQL, by pg_stat_statements."""

import time

from tests.bench.benchmarks.scale import BATCH
from tests.bench.figures import Figure, Goal, Measured
from tests.bench.load import Tables
from tests.bench.stage import Stage

PRODUCTS, PURCHASES, LINES = 100_000, 10_000, 3

# As if the audit had read everything.
CAUGHT_UP = """
INSERT INTO audit_balances (product_id, units)
SELECT product_id, sum(delta) FROM stock_movements GROUP BY product_id
ON CONFLICT (product_id) DO UPDATE SET units = excluded.units;
INSERT INTO audit_positions (rule, source, position)
SELECT 'audit/' || rule, source, position
FROM (
    VALUES
        ('order_events', (SELECT last_value FROM order_events_id_seq)),
        ('stock_movements', (SELECT last_value FROM stock_movements_id_seq)),
        ('balances', (SELECT last_value FROM stock_movements_id_seq)),
        ('refunds', (extract(EPOCH FROM now()) * 1000000)::bigint)
) AS read (source, position), unnest(%(rules)s::text[]) AS rule
ON CONFLICT (rule, source) DO UPDATE SET position = excluded.position
"""
RULES = [
    "carts_match_orders",
    "cart_lines_have_products",
    "history_is_legal",
    "order_lines_add_up",
    "payment_fits_order",
    "units_add_up",
    "stock_matches_ledger",
]


def changes(stage: Stage) -> Measured:
    """A run of the audit after 10,000 purchases of three lines, in tables of a million such orders."""
    url, tables = stage.database("audited", PRODUCTS, history=0)
    start = time.monotonic()
    _add_orders(tables, stage.orders)
    loading = time.monotonic() - start
    for statement in CAUGHT_UP.split(";"):
        tables.connection.execute(statement, {"rules": RULES})
    seconds, longest = [], []
    for _ in range(stage.rounds):
        tables.add_orders(PURCHASES, done=True, lines=LINES)
        tables.connection.execute("ANALYZE")
        tables.reset_costs()
        stage.audit(url)
        costs = [(spent, spent / calls) for name, calls, spent, _ in tables.costs() if name.startswith("audit")]
        seconds.append(sum(spent for spent, _ in costs))
        longest.append(1000 * max(mean for _, mean in costs))
    goal = Goal(f"an audit after {PURCHASES:,} purchases, in PostgreSQL", "at most 2 s", most=2.0)
    return Measured(
        [
            Figure(f"audit after {PURCHASES:,} purchases", "s", seconds, True, "", goal),
            Figure("its slowest statement, on average", "ms", longest),
        ],
        {"orders": stage.orders, "lines": LINES, "loading_seconds": round(loading)},
    )


def _add_orders(tables: Tables, count: int) -> None:
    # Without triggers: the foreign keys would be checked many million times.
    tables.connection.execute("SET session_replication_role = replica")
    for first in range(0, count, BATCH):
        tables.add_orders(min(BATCH, count - first), done=True, lines=LINES)
    tables.connection.execute("SET session_replication_role = origin")
    tables.settle()
