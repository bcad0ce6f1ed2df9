"""Whole purchases while two endpoints receive their events, beside purchases while none does."""

import sys
import time
from functools import partial

import psycopg
import uvloop

from service.dev.servers import free_port
from tests.bench.benchmarks.purchase import AT_ONCE, WARM_SECONDS
from tests.bench.client import Customers, closed_loop, with_customers
from tests.bench.figures import Figure, Goal, Measured
from tests.bench.stage import Stage, local

ENDPOINTS = 2
# Types of events: placed, paid, fulfilled.
EVENTS = 3
TYPES = "{order.placed,order.paid,order.fulfilled,order.cancelled}"
CAUGHT_UP_SECONDS = 30

BESIDE = Goal("purchases with two endpoints subscribed, against none", "at least 0.9 ×", least=0.9)
WAIT = Goal("events: from the last purchase until all were delivered", "under 1 s", most=1000)


def purchases(stage: Stage) -> Measured:
    """Rounds with two endpoints and with none by turns, on the same database."""
    url, tables = stage.database("events", 1000)
    seconds = 2 * stage.seconds
    port = free_port()
    receiver = (sys.executable, "-m", "tests.bench.receiver", str(port))
    rates: dict[bool, list[float]] = {True: [], False: []}
    waits: list[float] = []
    with (
        psycopg.connect(url, autocommit=True) as database,
        stage.child("receiver", receiver, local(port), "/", stage.environ(url)),
        stage.shop(url, worker=True, ALLOW_PRIVATE_EVENT_ENDPOINTS="true") as shop,
    ):
        for _ in range(ENDPOINTS):
            database.execute(
                "WITH endpoint AS (INSERT INTO event_endpoints (url, types, secret) VALUES (%s, %s, sha256('secret'))"
                " RETURNING id) INSERT INTO event_leases (endpoint_id) SELECT id FROM endpoint",
                (local(port), TYPES),
            )
        for number in range(stage.rounds):
            for subscribed in (True, False) if number % 2 else (False, True):
                database.execute("UPDATE event_endpoints SET active = %s", (subscribed,))
                tables.settle()
                # The worker takes the endpoints, or gives them up.
                time.sleep(3)
                work = partial(_at_full_rate, seconds=seconds)
                durations = uvloop.run(with_customers(shop, url, tables.products, work))
                rates[subscribed].append(len(durations) / seconds)
                if subscribed:
                    waits.append(_until_delivered(database) * 1000)
        events = tables.value("SELECT count(*) FROM event_deliveries WHERE status = 'delivered'")
        late = tables.value("SELECT count(*) FROM event_deliveries WHERE attempts > 1")
    stage.audit(url)
    figures = [
        Figure("purchases, no endpoint", "/s", rates[False]),
        Figure("purchases, two endpoints", "/s", rates[True], True, "purchases, no endpoint", BESIDE),
        Figure("from the last purchase until all events were delivered", "ms", waits, True, "", WAIT),
    ]
    return Measured(figures, {"events delivered": events, "sent again": late})


def _until_delivered(database: psycopg.Connection) -> float:
    """Seconds until no event is due."""
    start = time.monotonic()
    while time.monotonic() - start < CAUGHT_UP_SECONDS:
        if not database.execute("SELECT 1 FROM event_deliveries WHERE status = 'pending' LIMIT 1").fetchone():
            break
        time.sleep(0.01)
    return time.monotonic() - start


async def _at_full_rate(customers: Customers, seconds: float) -> list[float]:
    return await closed_loop(customers.purchase, AT_ONCE, WARM_SECONDS, seconds)
