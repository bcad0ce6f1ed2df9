"""Reservations: the transaction that takes stock."""

import re
import time
from functools import partial
from pathlib import Path
from statistics import median

import psycopg

from service.shop import checkout
from tests.bench.drivers import WARM_SECONDS, Load, pgbench, wrk
from tests.bench.figures import Figure, Goal, Measured, alternately, pairs
from tests.bench.load import CART_ID, Tables
from tests.bench.stage import Stage

CLIENTS = 8
DELAY_SECONDS = 0.001
# Above the rate of any target here.
CARTS_A_SECOND = 8000
EIGHT = Path(__file__).parents[1] / "eight.sql"

SPREAD = Goal(
    "reserve through HTTP (checkout less the Stripe call), spread products",
    "at least 0.7 × FastAPI + asyncpg + one statement with all our rules",
    least=0.7,
)
HOT = Goal("the same, one hot product, 32 clients", "at least 0.6 × its spread figure", least=0.6)
FAR = Goal(
    "the same, hot, with 1 ms each way between service and database",
    "at least 3 × the transaction in eight round trips under the same delay",
    least=3,
)
LIMIT = Goal("the same against the limit, 1 / (round trip + commit)", "reported")

# The arguments of checkout/reserve for pgbench, whose variables are numbers.
ARGUMENTS = {
    1: "lpad(to_hex(:number::bigint), 32, '0')::uuid",
    2: re.sub(r"\bn\b", ":cart::bigint", CART_ID),
    3: "gen_random_uuid()",
    4: "NULL",
    5: "1800",
    6: "2100",
    7: "45",
    8: """'{"mode": "payment", "success_url": "http://localhost/payments/success", "metadata": {}}'::jsonb""",
    9: "'bench'",
    10: "NULL",
    11: "'EUR'",
    12: "50",
    13: "99999999",
    14: "1",
    15: "NULL",
    16: "0",
    17: "100",
    18: "'customer'",
    19: "NULL",
    20: "NULL",
}


def over_http(stage: Stage) -> Measured:
    """Reservations through HTTP against one statement behind FastAPI, and the transactions alone by pgbench."""
    url, tables = stage.database("reserve", 1000)
    one = stage.folder / "one.sql"
    one.write_text(one_statement())
    with stage.references(url) as references, stage.reserving(url) as api:
        reference, ours = f"{references.url}/reserve/", f"{api.url}/bench/reserve/"
        loads = alternately(
            stage.rounds,
            {
                "one statement, spread": lambda: reserve(tables, reference, stage.seconds),
                "reserve, spread": lambda: reserve(tables, ours, stage.seconds),
                "one statement, hot": lambda: reserve(tables, reference, stage.seconds, hot=True),
                "reserve, hot": lambda: reserve(tables, ours, stage.seconds, hot=True),
            },
        )
    alone = alternately(
        stage.rounds,
        {
            f"pgbench, {name}, {'hot' if hot else 'spread'}": partial(
                _pgbench, tables, url, script, stage.seconds, hot=hot
            )
            for hot in (False, True)
            for name, script in (("eight round trips", EIGHT), ("one statement", one))
        },
    )
    tables.close_carts()
    stage.audit(url)
    figures = [
        Figure(f"FastAPI + asyncpg, {name}" if name.startswith("one") else name, "/s", [load.rate for load in rounds])
        for name, rounds in loads.items()
    ]
    spread, hot = figures[1], figures[3]
    spread.ours, spread.reference, spread.goal = True, figures[0].name, SPREAD
    hot.ours, hot.reference, hot.goal = True, spread.name, HOT
    figures += [Figure(f"{name}: p99", "ms", [load.p99_ms for load in rounds]) for name, rounds in loads.items()]
    return Measured([*figures, *(Figure(name, "/s", rates) for name, rates in alone.items())])


def at_a_distance(stage: Stage) -> Measured:
    """Reservations of a hot product when each round trip takes as long as in a network."""
    url, tables = stage.database("distance", 1000)
    with stage.delayed(url, DELAY_SECONDS) as far, stage.references(far) as references, stage.reserving(far) as api:
        eight, ours = f"{references.url}/reserve-eight/", f"{api.url}/bench/reserve/"
        loads = alternately(
            stage.rounds,
            {
                "eight round trips, hot": lambda: reserve(tables, eight, stage.seconds, hot=True),
                "reserve, hot": lambda: reserve(tables, ours, stage.seconds, hot=True),
                "one statement, hot": lambda: reserve(tables, f"{references.url}/reserve/", stage.seconds, hot=True),
            },
        )
        trips = alternately(stage.rounds, {"far": partial(_round_trip, far), "near": partial(_round_trip, url)})
        commits = [_commit(url) for _ in range(stage.rounds)]
    tables.close_carts()
    stage.audit(url)
    eight_rates, our_rates, one_rates = ([load.rate for load in rounds] for rounds in loads.values())
    # A hot row is unlocked when its COMMIT is on disk: at best one round trip after the lock.
    limits = [1 / (trip + commit) for trip, commit in zip(trips["far"], commits, strict=True)]
    figures = [
        Figure("FastAPI + asyncpg, eight round trips", "/s", eight_rates),
        Figure("FastAPI + asyncpg, one statement", "/s", one_rates),
        Figure("the limit, 1 / (round trip + commit)", "/s", limits),
        Figure("reserve, hot, 1 ms away", "/s", our_rates, True, "FastAPI + asyncpg, eight round trips", FAR),
        Figure("reserve against the limit", "×", pairs(our_rates, limits), True, "", LIMIT),
        Figure("round trip through the delay", "ms", [trip * 1000 for trip in trips["far"]]),
        Figure("round trip without", "ms", [trip * 1000 for trip in trips["near"]]),
        Figure("a commit of one row, over a round trip", "ms", [commit * 1000 for commit in commits]),
    ]
    return Measured(figures)


def reserve(
    tables: Tables, url: str, seconds: float, *, hot: bool = False, owner: str | None = None, token: str = ""
) -> Load:
    """Reserve a new cart with each request, after a second in which connections open and plans are made."""
    warm = tables.add_carts(CARTS_A_SECOND * WARM_SECONDS, hot=hot, owner=owner)
    first = tables.add_carts(int(CARTS_A_SECOND * seconds), hot=hot, owner=owner)
    tables.settle()
    path = url.index("/", len("http://"))
    base, prefix = url[:path], url[path:]
    wrk(base, WARM_SECONDS, warm, prefix, script="carts", token=token)
    load = wrk(base, seconds, first, prefix, script="carts", token=token)
    assert load.taken < CARTS_A_SECOND * seconds, "too few carts"
    return load


def _pgbench(tables: Tables, url: str, script: Path, seconds: float, *, hot: bool) -> float:
    first = tables.add_carts(int(CARTS_A_SECOND * seconds), hot=hot)
    tables.settle()
    return pgbench(url, script, seconds, CLIENTS, {"first": first, "clients": CLIENTS, "turn": 0})


def one_statement() -> str:
    """checkout/reserve as a pgbench script: the text that the service sends, with its parameters filled in."""
    head = "\\set cart :first + :client_id + :clients * :turn\n\\set turn :turn + 1\n"
    head += "\\set number random(1, 9000000000000000000)\n"
    return head + re.sub(r"\$(\d+)", lambda match: ARGUMENTS[int(match[1])], checkout.RESERVE.sql) + ";\n"


def _round_trip(url: str) -> float:
    """The median seconds of a query without work."""
    with psycopg.connect(url, autocommit=True) as connection:
        return median(_seconds(connection, "SELECT 1") for _ in range(200))


def _commit(url: str) -> float:
    """The median seconds of a commit beyond a round trip: the write of its log to the disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (n integer)")
        durations = [_seconds(connection, "INSERT INTO bench_commits VALUES (1)") for _ in range(200)]
        connection.execute("DROP TABLE bench_commits")
        return max(0.0, median(durations) - median(_seconds(connection, "SELECT 1") for _ in range(200)))


def _seconds(connection: psycopg.Connection, query: str) -> float:
    start = time.perf_counter()
    connection.execute(query)
    return time.perf_counter() - start
