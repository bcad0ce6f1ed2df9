"""The memory and start of the processes, and the gain of a second process."""

from functools import partial

import uvloop

from tests.bench.client import Customers, closed_loop, with_customers
from tests.bench.drivers import WARM_SECONDS, wrk
from tests.bench.figures import Figure, Goal, Measured, alternately
from tests.bench.machine import resident_mb
from tests.bench.stage import Stage

CUSTOMERS = 32

API = Goal("memory of the API process after the soak", "under 120 MB", most=120)
WORKER = Goal("memory of the worker after the soak", "under 100 MB", most=100)
READY = Goal("from start to ready", "under 2 s", most=2)


def memory(stage: Stage) -> Measured:
    """Start the service in each round, then soak it: purchases by 32 customers, then pages and products."""
    url, tables = stage.database("memory", 1000)
    ready, fresh, api, worker = [], [], [], []
    for _ in range(stage.rounds):
        with stage.shop(url, worker=True) as shop:
            assert shop.worker
            ready.append(shop.api.ready_seconds)
            fresh.append(resident_mb(shop.api.process.pid))

            async def soak(customers: Customers) -> list[float]:
                return await closed_loop(customers.purchase, CUSTOMERS, 0, 2 * stage.seconds)

            uvloop.run(with_customers(shop, url, tables.products, soak))
            wrk(f"{shop.api.url}/products", stage.seconds)
            wrk(shop.api.url, stage.seconds, "/products/", tables.products, 3, script="products")
            api.append(resident_mb(shop.api.process.pid))
            worker.append(resident_mb(shop.worker.process.pid))
    return Measured(
        [
            Figure("start to ready", "s", ready, True, "", READY),
            Figure("API, just started", "MB", fresh, True),
            Figure("API after the soak", "MB", api, True, "", API),
            Figure("worker after the soak", "MB", worker, True, "", WORKER),
        ]
    )


def workers(stage: Stage) -> Measured:
    """`serve --workers`: the rate of reads with one and two processes, where cores are free."""
    url, tables = stage.database("shop", 1000)
    with stage.api(url) as one, stage.api(url, workers=2) as two:
        targets = {
            f"{route}, {processes}": partial(wrk, f"{api.url}{path}", stage.seconds, *arguments, script=script)
            for route, path, script, arguments in (
                ("GET /products", "/products", "report", ()),
                ("GET /products/{id}", "", "products", ("/products/", tables.products, 4)),
            )
            for processes, api in (("one process", one), ("two processes", two))
        }
        for api in (one, two):
            wrk(f"{api.url}/products", WARM_SECONDS)
        loads_by_name = alternately(stage.rounds, targets)
    figures = []
    for name, loads in loads_by_name.items():
        reference = name.replace("two processes", "one process")
        rates = [load.rate for load in loads]
        figures.append(Figure(name, "/s", rates, True, reference if reference != name else ""))
    return Measured(figures)
