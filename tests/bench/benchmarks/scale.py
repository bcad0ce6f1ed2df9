"""Purchases in large tables: the buffers that each statement touches, compared with small tables."""

import asyncio
import time

import uvloop

from tests.bench.benchmarks.catalogue import MILLION
from tests.bench.client import Customers, with_customers
from tests.bench.figures import Figure, Goal, Measured, alternately
from tests.bench.load import Tables
from tests.bench.stage import Shop, Stage

WARMING, PURCHASES = 40, 200
BATCH = 100_000
THOUSANDTH = 1000


def buffers(stage: Stage) -> Measured:
    """The same purchases in large and small tables; the buffers come from pg_stat_statements."""
    large_url, large = stage.database("million", MILLION + 100, history=0)
    small_url, small = stage.database("thousandth", (MILLION + 100) // THOUSANDTH, history=0)
    start = time.monotonic()
    for tables, count in ((small, stage.orders // THOUSANDTH), (large, stage.orders)):
        if tables.orders == 0:
            add_history(tables, count)
    loading = time.monotonic() - start
    with stage.shop(large_url, worker=True) as large_shop, stage.shop(small_url, worker=True) as small_shop:
        buffers_by_size = alternately(
            stage.rounds,
            {
                "large": lambda: _buffers(large_shop, large_url, large),
                "small": lambda: _buffers(small_shop, small_url, small),
            },
        )
    # A statement that only one of them has run is not part of a purchase.
    names = sorted(set.intersection(*(set(touched) for side in buffers_by_size.values() for touched in side)))
    assert {"cart/add_line", "checkout/reserve", "transitions/mark_paid", "fulfilment/mark_fulfilled"} <= set(names), (
        names
    )
    sides = {
        side: {name: [touched[name] for touched in runs] for name in names} for side, runs in buffers_by_size.items()
    }
    worst = [
        max(sides["large"][name][number] / sides["small"][name][number] for name in names)
        for number in range(stage.rounds)
    ]
    goal = Goal(
        f"every statement of a purchase, a million products and {stage.orders:,} orders: buffers touched",
        "at most 1.1 × those at a thousandth of the rows",
        most=1.1,
    )
    figures = []
    for name in names:
        figures.append(Figure(f"{name}, a thousandth", "buffers", sides["small"][name]))
        figures.append(Figure(name, "buffers", sides["large"][name], True, f"{name}, a thousandth"))
    figures.append(Figure("buffers of the statement that grows most", "×", worst, True, "", goal))
    return Measured(figures, {"products": large.products, "orders": stage.orders, "loading_seconds": round(loading)})


def add_history(tables: Tables, count: int, lines: int = 1) -> None:
    """Add past orders, each paid and fulfilled, with all their rows."""
    # Without triggers: the foreign keys would be checked fifty million times.
    tables.connection.execute("SET session_replication_role = replica")
    for first in range(0, count, BATCH):
        tables.add_orders(min(BATCH, count - first), done=True, lines=lines)
    tables.connection.execute("SET session_replication_role = origin")
    tables.settle()


def _buffers(shop: Shop, url: str, tables: Tables) -> dict[str, float]:
    """The buffers that a call of each statement touches, on average."""

    async def buy(customers: Customers) -> list[float]:
        # The first statements of a connection also read the system catalogue.
        await purchases(customers, WARMING)
        tables.reset_costs()
        await purchases(customers, PURCHASES)
        return []

    uvloop.run(with_customers(shop, url, tables.products, buy))
    # Only the purchase's statements, without those of the sweep.
    return {
        name: touched / calls
        for name, calls, _, touched in tables.costs()
        if name and calls > PURCHASES / 2 and touched
    }


async def purchases(customers: Customers, count: int) -> None:
    remaining = iter(range(count))

    async def buyer() -> None:
        for _ in remaining:
            await customers.purchase()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(buyer())
