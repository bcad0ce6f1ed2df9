"""The audit in large tables: its time in PostgreSQL after new purchases, and the pace of a hot product beside it."""

import sys
import time

from service.dev.processes import CannotRun, spawn, stop
from tests.bench.benchmarks.reserve import ARGUMENTS, CARTS_A_SECOND, CLIENTS, one_statement
from tests.bench.benchmarks.scale import BATCH
from tests.bench.drivers import pgbench
from tests.bench.figures import Figure, Goal, Measured, alternately
from tests.bench.load import Tables
from tests.bench.stage import Stage

PRODUCTS, PURCHASES, LINES = 100_000, 10_000, 3

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
        -- A run reads the last minute before the position again.
        ('refunds', (extract(EPOCH FROM now() + interval '1 minute') * 1000000)::bigint)
) AS read (source, position), unnest(%(rules)s::text[]) AS rule
ON CONFLICT (rule, source) DO UPDATE SET position = excluded.position
"""
# As if the audit had read nothing of these, and how far it had read them.
READ_AGAIN = "UPDATE audit_positions SET position = 0 WHERE source = 'order_events'"
READ = "UPDATE audit_positions SET position = %s WHERE source = 'order_events'"
# The claim of an audit that was stopped ends by itself after a minute.
RELEASED = "UPDATE worker_heartbeats SET claimed_until = NULL WHERE loop = 'audit'"
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
    """A run after 10,000 purchases of three lines, in tables of a million such orders; reservations beside a run."""
    url, tables = stage.database("audited", PRODUCTS, history=0)
    start = time.monotonic()
    _add_orders(tables, stage.orders)
    loading = time.monotonic() - start
    catch_up(tables)
    seconds, longest = [], []
    for _ in range(stage.rounds):
        tables.add_orders(PURCHASES, done=True, lines=LINES)
        tables.connection.execute("ANALYZE")
        tables.reset_costs()
        stage.audit(url)
        costs = [(spent, spent / calls) for name, calls, spent, _ in tables.costs() if name.startswith("audit")]
        seconds.append(sum(spent for spent, _ in costs))
        longest.append(1000 * max(mean for _, mean in costs))
    pace = alternately(
        stage.rounds,
        {
            "hot product": lambda: _reserve(stage, url, tables),
            "hot product beside an audit": lambda: _beside_an_audit(stage, url, tables),
        },
    )
    stage.audit(url)
    beside = Goal("reserving one hot product beside a running audit", "at least 0.9 × its pace alone", least=0.9)
    goal = Goal(f"an audit after {PURCHASES:,} purchases, in PostgreSQL", "at most 2 s", most=2.0)
    return Measured(
        [
            Figure(f"audit after {PURCHASES:,} purchases", "s", seconds, True, "", goal),
            Figure("its slowest statement, on average", "ms", longest),
            Figure("hot product", "/s", pace["hot product"]),
            Figure("beside an audit", "/s", pace["hot product beside an audit"], True, "hot product", beside),
        ],
        {"orders": stage.orders, "lines": LINES, "loading_seconds": round(loading)},
    )


def catch_up(tables: Tables) -> None:
    """Record that the audit has read everything, which would take it several runs."""
    for statement in CAUGHT_UP.split(";"):
        tables.connection.execute(statement, {"rules": RULES})


def _add_orders(tables: Tables, count: int) -> None:
    # Without triggers: the foreign keys would be checked many million times.
    tables.connection.execute("SET session_replication_role = replica")
    for first in range(0, count, BATCH):
        tables.add_orders(min(BATCH, count - first), done=True, lines=LINES)
    tables.connection.execute("SET session_replication_role = origin")
    tables.settle()


def _reserve(stage: Stage, url: str, tables: Tables) -> float:
    """Reservations of one product a second, by pgbench; each closes its cart before, as checkout does."""
    *variables, reserve = one_statement().split("\n", 3)
    close = f"UPDATE carts SET status = 'CHECKED_OUT' WHERE id = {ARGUMENTS[2]};"
    script = stage.folder / "closing.sql"
    script.write_text("\n".join([*variables, "BEGIN;", close, f"{reserve}COMMIT;", ""]))
    first = tables.add_carts(int(CARTS_A_SECOND * stage.seconds), hot=True)
    tables.settle()
    return pgbench(url, script, stage.seconds, CLIENTS, {"first": first, "clients": CLIENTS, "turn": 0})


def _beside_an_audit(stage: Stage, url: str, tables: Tables) -> float:
    """The same while an audit reads the history of all orders again."""
    (newest,) = tables.connection.execute("SELECT max(id) FROM order_events").fetchone() or (0,)
    tables.connection.execute(READ_AGAIN)
    command = (sys.executable, "-m", "service", "audit")
    process = spawn(command, stage.folder / "auditing.log", folder=stage.folder, environ=stage.environ(url))
    try:
        rate = _reserve(stage, url, tables)
        if process.poll() is not None:
            raise CannotRun("The audit ended before the reservations: more --orders are needed.")
    finally:
        stop(process)
        tables.connection.execute(READ, [newest])
        tables.connection.execute(RELEASED)
    return rate
