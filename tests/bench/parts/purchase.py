"""From an empty cart to FULFILLED, with everything on this machine: API, worker, Stripe, PostgreSQL, Valkey, client."""

import time

import uvloop

from service.dev.servers import CannotRun
from tests.bench.client import Customers, closed_loop, open_loop, with_customers
from tests.bench.figures import Figure, Goal, Measured, percentile
from tests.bench.stage import Stage

AT_ONCE = 32
WARM_SECONDS = 2

RATE = Goal("whole purchase: cart, line, checkout through the SDK, webhook, FULFILLED", "at least 150/s", least=150)
P99 = Goal("the same at half that rate: p99", "under 250 ms", most=250)


def whole(stage: Stage) -> Measured:
    """As many as can be, then half as many a second to see how long one takes."""
    url, tables = stage.database("purchase", 1000)
    rates, cpu, p50, p99 = [], [], [], []
    for _ in range(stage.rounds):
        tables.settle()
        with stage.shop(url, worker=True) as shop:
            seconds = 2 * stage.seconds

            async def as_many_as_can_be(customers: Customers, seconds: float = seconds) -> list[float]:
                return await closed_loop(customers.purchase, AT_ONCE, WARM_SECONDS, seconds)

            began = time.process_time()
            took = uvloop.run(with_customers(shop, url, tables.products, as_many_as_can_be))
            if not took:
                raise CannotRun(f"Not one purchase ended within {seconds:g} s.")
            rates.append(rate := len(took) / seconds)
            # Its warming up was work of the same kind.
            cpu.append((time.process_time() - began) * 1000 / (rate * (seconds + WARM_SECONDS)))

            async def half_of_it(customers: Customers, rate: float = rate / 2, seconds: float = seconds) -> list[float]:
                return await open_loop(customers.purchase, rate, WARM_SECONDS, seconds)

            took = uvloop.run(with_customers(shop, url, tables.products, half_of_it))
            p50.append(percentile(took, 0.5) * 1000)
            p99.append(percentile(took, 0.99) * 1000)
    stage.audit(url)
    figures = [
        Figure(f"purchases, {AT_ONCE} customers at once", "/s", rates, True, "", RATE),
        Figure("purchases at half that rate: median", "ms", p50, True),
        Figure("purchases at half that rate: p99", "ms", p99, True, "", P99),
        Figure("CPU that this client itself takes, a purchase", "ms", cpu),
    ]
    return Measured(figures)
