"""The benchmarks, in a module for each area of the service."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.benchmarks import (
    audit,
    catalogue,
    events,
    identity,
    processes,
    purchase,
    reserve,
    scale,
    search,
    storage,
    stripe,
)
from tests.bench.figures import Measured
from tests.bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: its name in `make bench NAME=…`, its title, and its function."""

    name: str
    title: str
    measure: Callable[[Stage], Measured]


BENCHMARKS = (
    Benchmark("list", "The cached first page", catalogue.cached_list),
    Benchmark("product", "Products and pages from PostgreSQL", catalogue.from_postgresql),
    Benchmark("search", "The search at a million products", search.pages),
    Benchmark("reserve", "Reserving stock", reserve.over_http),
    Benchmark("identity", "Access tokens and owners", identity.costs),
    Benchmark("distance", "Reserving a hot product, the database 1 ms away", reserve.at_a_distance),
    Benchmark("purchase", "Whole purchases", purchase.whole),
    Benchmark("events", "Purchases whose events are delivered", events.purchases),
    Benchmark("filling", "Carts filled beside checkouts", purchase.filling),
    Benchmark("stripe", "Stripe answering in 300 ms", stripe.slow),
    Benchmark("webhooks", "Webhooks", stripe.webhooks),
    Benchmark("sweep", "10,000 due orders", stripe.sweep),
    Benchmark("scale", "The purchase's statements in large tables", scale.buffers),
    Benchmark("storage", "What a purchase writes and stores", storage.of_a_purchase),
    Benchmark("audit", "The audit after 10,000 purchases", audit.changes),
    Benchmark("memory", "Memory and starting", processes.memory),
    Benchmark("workers", "One process and two", processes.workers),
)
