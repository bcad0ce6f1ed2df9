"""Reading the catalogue."""

from collections.abc import Callable
from functools import partial

from tests.bench.drivers import WARM_SECONDS, Load, wrk
from tests.bench.figures import Figure, Goal, Measured, alternately, pairs
from tests.bench.stage import Stage

MILLION = 1_000_000
PER_SECOND = "/s"

LIST = "`GET /products`, cached first page, one process, 32 connections"
LIST_RATE = Goal(LIST, "at least 1.5 × the FastAPI hello route", least=1.5)
LIST_P99 = Goal(f"{LIST}: p99", "under 5 ms", most=5)
PRODUCT = Goal("`GET /products/{id}`", "at least 1.2 × 20 products rendered by PostgreSQL", least=1.2)
DEEP = Goal("a page of 20, a million products deep", "at least 1.2 × 20 products rendered by PostgreSQL", least=1.2)
AS_FIRST = Goal("the deep page against the first, both from PostgreSQL", "within 10 %", least=0.9)


def cached_list(stage: Stage) -> Measured:
    """The cached page against references that send as many bytes."""
    url, _ = stage.database("shop", 1000)
    with stage.bare() as bare, stage.references(url) as references, stage.api(url) as api:
        urls = {
            "a bare ASGI callable": bare.url,
            "FastAPI, hello": f"{references.url}/hello",
            "FastAPI, 20 products in memory": f"{references.url}/list/memory",
            "FastAPI, 20 products in Redis": f"{references.url}/list/redis",
            "FastAPI, 20 products rendered by PostgreSQL": f"{references.url}/list/postgresql",
            "GET /products": f"{api.url}/products",
        }
        loads_by_name = _measure(stage, {name: _get(target) for name, target in urls.items()})
    figures = [Figure(name, PER_SECOND, [load.rate for load in loads]) for name, loads in loads_by_name.items()]
    ours = figures[-1]
    ours.ours, ours.reference, ours.goal = True, "FastAPI, hello", LIST_RATE
    p99 = [load.p99_ms for load in loads_by_name["GET /products"]]
    hello = [load.p99_ms for load in loads_by_name["FastAPI, hello"]]
    return Measured(
        [
            *figures,
            Figure("FastAPI, hello: p99", "ms", hello),
            Figure("GET /products: p99", "ms", p99, True, "", LIST_P99),
        ]
    )


def from_postgresql(stage: Stage) -> Measured:
    """A random product of a million, the first page, and the last page."""
    # A hundred more, so that the last page is full.
    url, tables = stage.database("million", MILLION + 100, history=0)
    with stage.references(url) as references, stage.api(url) as api:
        rendered = f"{references.url}/list/postgresql"
        targets = {
            "FastAPI, 20 products rendered by PostgreSQL": _get(rendered),
            "FastAPI, one product rendered by PostgreSQL": _get(references.url, "/product/", MILLION, 1),
            "GET /products/{id}": _get(api.url, "/products/", MILLION, 2),
            # After 1: the page after 0 is cached.
            "the first page": _get(f"{api.url}/products?after_id=1"),
            "the page a million deep": _get(f"{api.url}/products?after_id={MILLION}"),
        }
        loads_by_name = _measure(stage, targets)
    rates = {name: [load.rate for load in loads] for name, loads in loads_by_name.items()}
    rendering, rendering_one, product, first, deep = rates
    figures = [
        Figure(rendering, PER_SECOND, rates[rendering]),
        Figure(rendering_one, PER_SECOND, rates[rendering_one]),
        Figure(product, PER_SECOND, rates[product], True, rendering, PRODUCT),
        Figure(first, PER_SECOND, rates[first], True, rendering),
        Figure(deep, PER_SECOND, rates[deep], True, rendering, DEEP),
        Figure("the deep page against the first", "×", pairs(rates[deep], rates[first]), True, "", AS_FIRST),
    ]
    p99 = {f"{name}: p99": [load.p99_ms for load in loads_by_name[name]] for name in (product, first, deep)}
    figures += [Figure(name, "ms", values, True) for name, values in p99.items()]
    return Measured(figures, {"products": tables.products})


def _get(url: str, *numbers: object) -> Callable[[float], Load]:
    """A load of one address or, with a prefix, a count and a seed, of random numbers behind the prefix."""
    return lambda seconds: wrk(url, seconds, *numbers, script="products" if numbers else "report")


def _measure(stage: Stage, targets: dict[str, Callable[[float], Load]]) -> dict[str, list[Load]]:
    """Warm each target up for a second, then measure all by turns."""
    for target in targets.values():
        target(WARM_SECONDS)
    return alternately(stage.rounds, {name: partial(target, stage.seconds) for name, target in targets.items()})
