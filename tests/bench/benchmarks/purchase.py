"""Whole purchases, from an empty cart to FULFILLED, with servers and client on this machine."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from tests.bench.client import Customers, closed_loop, open_loop, with_customers
from tests.bench.figures import Figure, Goal, Measured, alternately, percentile
from tests.bench.stage import Shop, Stage

AT_ONCE = 32
WARM_SECONDS = 2

RATE = Goal("whole purchase: cart, line, checkout through the SDK, webhook, FULFILLED", "at least 150/s", least=150)
P99 = Goal("the same at half that rate: p99", "under 250 ms", most=250)
HOT = Goal(
    "carts filled and checked out, all with one product, 24 clients", "at least 0.9 × spread products", least=0.9
)


def whole(stage: Stage) -> Measured:
    """The highest rate of purchases, then the duration of a purchase at half that rate."""
    url, tables = stage.database("purchase", 1000)
    seconds = 2 * stage.seconds
    first, rates, cpu, p50, p99 = [], [], [], [], []
    for _ in range(stage.rounds):
        tables.settle()
        with stage.shop(url, worker=True) as shop:

            def run(work: Callable[[Customers], Awaitable[list[float]]], shop: Shop = shop) -> list[float]:
                return uvloop.run(with_customers(shop, url, tables.products, work))

            # All at once on a service that has just started: no connection is open yet.
            first.append(max(run(_one_each)) * 1000)
            cpu_start = time.process_time()
            durations = run(partial(_at_full_rate, seconds=seconds))
            # The warm-up used CPU time, too.
            share = seconds / (seconds + WARM_SECONDS)
            cpu.append((time.process_time() - cpu_start) * 1000 * share / max(1, len(durations)))
            rates.append(rate := len(durations) / seconds)
            durations = run(partial(_at_a_rate, rate=max(1.0, rate / 2), seconds=seconds))
            p50.append(percentile(durations, 0.5) * 1000)
            p99.append(percentile(durations, 0.99) * 1000)
    stage.audit(url)
    figures = [
        Figure(f"purchases, {AT_ONCE} customers at once", "/s", rates, True, "", RATE),
        Figure("purchases at half that rate: median", "ms", p50, True),
        Figure("purchases at half that rate: p99", "ms", p99, True, "", P99),
        Figure(f"the slowest of {AT_ONCE} first purchases after a start", "ms", first, True),
        Figure("CPU that this client itself takes, a purchase", "ms", cpu),
    ]
    return Measured(figures)


def filling(stage: Stage) -> Measured:
    """Carts filled beside checkouts, with all products and with one product only."""
    url, tables = stage.database("filling", 1000)
    seconds = 2 * stage.seconds
    with stage.shop(url, worker=False) as shop:

        def rate(products: int) -> float:
            tables.settle()
            work = partial(_place, seconds=seconds)
            return len(uvloop.run(with_customers(shop, url, products, work))) / seconds

        rates = alternately(stage.rounds, {"spread": partial(rate, tables.products), "one product": partial(rate, 1)})
    stage.audit(url)
    deadlocks = tables.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    figures = [
        Figure("carts filled and checked out, spread", "/s", rates["spread"], True),
        Figure(
            "carts filled and checked out, one product",
            "/s",
            rates["one product"],
            True,
            "carts filled and checked out, spread",
            HOT,
        ),
    ]
    return Measured(figures, {"deadlocks": deadlocks})


async def _place(customers: Customers, seconds: float) -> list[float]:
    return await closed_loop(customers.place, 24, WARM_SECONDS, seconds)


async def _one_each(customers: Customers) -> list[float]:
    start = time.monotonic()

    async def purchase() -> float:
        await customers.purchase()
        return time.monotonic() - start

    return await asyncio.gather(*(purchase() for _ in range(AT_ONCE)))


async def _at_full_rate(customers: Customers, seconds: float) -> list[float]:
    return await closed_loop(customers.purchase, AT_ONCE, WARM_SECONDS, seconds)


async def _at_a_rate(customers: Customers, rate: float, seconds: float) -> list[float]:
    return await open_loop(customers.purchase, rate, WARM_SECONDS, seconds)
