"""What is measured, a module for each side of the service; every figure stands beside its goal."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.figures import Measured
from tests.bench.parts import catalogue, processes, purchase, reserve, scale, stripe
from tests.bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Part:
    """One run of `make bench NAME=…`."""

    name: str
    title: str
    measure: Callable[[Stage], Measured]


PARTS = (
    Part("list", "The cached first page", catalogue.cached_list),
    Part("product", "Products and pages from PostgreSQL", catalogue.from_postgresql),
    Part("reserve", "Reserving stock", reserve.over_http),
    Part("distance", "Reserving a hot product, the database 1 ms away", reserve.at_a_distance),
    Part("purchase", "Whole purchases", purchase.whole),
    Part("filling", "Carts filled beside checkouts", purchase.filling),
    Part("stripe", "Stripe answering in 300 ms", stripe.slow),
    Part("webhooks", "Webhooks", stripe.webhooks),
    Part("sweep", "10,000 due orders", stripe.sweep),
    Part("scale", "The purchase's statements in large tables", scale.buffers),
    Part("memory", "Memory and starting", processes.memory),
    Part("workers", "One process and two", processes.workers),
)
