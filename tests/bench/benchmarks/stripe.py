"""A slow Stripe, its webhooks, and the expiry of unpaid orders."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
import uvloop

from service.dev.stripe_standin.objects import API_VERSION, new_id
from service.dev.stripe_standin.webhooks import signature
from service.infra.resources import open_resources
from service.settings import Settings
from service.shop import sweep as sweeper
from tests.bench.client import Failed, Http, open_loop
from tests.bench.drivers import WARM_SECONDS, wrk
from tests.bench.figures import Figure, Goal, Measured, alternately, percentile
from tests.bench.load import PRICE_MINOR, Tables, cart_id, order_id, session_id
from tests.bench.stage import WEBHOOK_SECRET, Child, Shop, Stage, control

STRIPE_SECONDS = 0.3
# Enough to keep 1000 checkouts a second waiting for Stripe.
CALLERS = 320
CARTS_A_SECOND = 3000
CATALOGUE_RATE = 100
CHECKOUT_RATE = 300
EVENTS_A_SECOND = 5000
DUE = 10_000

ATTACH = """
UPDATE payments SET stripe_session_id = attached.session_id
FROM unnest(%s::uuid[], %s::text[]) AS attached (order_id, session_id) WHERE payments.order_id = attached.order_id
"""

CHECKOUTS = Goal(
    "Stripe answering in 300 ms: checkouts begun, one process, 10 connections", "at least 300/s", least=300
)
CATALOGUE = Goal(
    f"the catalogue's p99 beside {CHECKOUT_RATE} such checkouts a second", "at most twice that without them", most=2
)
WEBHOOKS = Goal("webhooks signed, stored and applied", "at least 800/s", least=800)
SWEPT = Goal("10,000 due orders found, cancelled, restocked: time in PostgreSQL", "at most 3 s", most=3)


def slow(stage: Stage) -> Measured:
    """Checkouts that each wait for Stripe, and their effect on the latency of the catalogue."""
    url, tables = stage.database("stripe", 1000)
    with stage.shop(url, worker=False) as shop:
        rule = {"action": "delay", "path": "/v1/checkout/session[s]", "method": "POST", "seconds": STRIPE_SECONDS}
        control(shop.stripe, "PUT", "/faults", [rule])
        results: dict[str, list[Any]] = alternately(
            stage.rounds,
            {
                "begun": lambda: _checkouts(tables, shop.api, stage.seconds),
                "catalogue alone": lambda: _catalogue(tables, shop, stage.seconds, 0),
                "catalogue beside checkouts": lambda: _catalogue(tables, shop, stage.seconds, CHECKOUT_RATE),
            },
        )
        control(shop.stripe, "DELETE", "/faults", [])
        quick = [_catalogue(tables, shop, stage.seconds, CHECKOUT_RATE) for _ in range(stage.rounds)]
    stage.audit(url)
    alone, beside = results["catalogue alone"], results["catalogue beside checkouts"]
    name = "catalogue's p99 alone"
    figures = [
        Figure("checkouts begun, Stripe at 300 ms", "/s", results["begun"], True, "", CHECKOUTS),
        Figure(name, "ms", [p99 for p99, _ in alone], True),
        Figure(
            f"catalogue's p99 beside {CHECKOUT_RATE} checkouts/s",
            "ms",
            [p99 for p99, _ in beside],
            True,
            name,
            CATALOGUE,
        ),
        Figure("checkouts that began beside it", "in a second", [begun for _, begun in beside], True),
        Figure("catalogue's p99 beside them, Stripe answering at once", "ms", [p99 for p99, _ in quick], True, name),
        Figure("checkouts that began beside that", "in a second", [begun for _, begun in quick], True),
    ]
    return Measured(figures)


def _checkouts(tables: Tables, api: Child, seconds: float) -> float:
    """The highest rate of checkouts a second."""
    first = tables.add_carts(int(CARTS_A_SECOND * seconds) + CALLERS)
    tables.settle()
    load = wrk(api.url, seconds + WARM_SECONDS, first, "/carts/", "/checkout", script="carts", connections=CALLERS)
    assert load.taken < CARTS_A_SECOND * seconds, "too few carts"
    # The requests that wrk left in flight still go on.
    before = -1
    while (now := tables.value("SELECT count(*) FROM payments WHERE stripe_session_id IS NOT NULL")) != before:
        before = now
        time.sleep(2 * STRIPE_SECONDS)
    return load.rate


def _catalogue(tables: Tables, shop: Shop, seconds: float, checkouts: float) -> tuple[float, float]:
    """The p99 in milliseconds of steady reads, and the checkouts a second that began.

    Half of the reads are the cached page, half single products. Of the `checkouts` tried a second a service that is too
    slow refuses some. Another process makes them, so that the reads do not wait for the buying client.
    """
    seconds *= 2
    first = tables.add_carts(int(checkouts * (WARM_SECONDS + seconds)) + 1)
    tables.settle()
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        # The process has started and imported everything before the measurement.
        apart.submit(_check_out, shop.api.url, first, 0, 0).result()
        checking_out = apart.submit(_check_out, shop.api.url, first, checkouts, seconds)
        durations = uvloop.run(_read_catalogue(shop.api.url, tables.products, seconds))
        return percentile(durations, 0.99) * 1000, checking_out.result()


async def _read_catalogue(url: str, products: int, seconds: float) -> list[float]:
    """Read CATALOGUE_RATE times a second; the seconds of each read."""
    api, numbers = Http(url), count(1)

    async def read() -> None:
        number = next(numbers)
        await api.call("GET", "/products" if number % 2 else f"/products/{1 + number * 7919 % products}", 200)

    durations = await open_loop(read, CATALOGUE_RATE, WARM_SECONDS, seconds)
    api.close()
    return durations


def _check_out(url: str, first: int, rate: float, seconds: float) -> float:
    """Check out carts from `first` on, `rate` a second; how many began in a second."""

    async def run() -> float:
        api, numbers, begun = Http(url), count(first), 0
        # Where the service cannot keep up, requests wait here and do not fill its sockets.
        callers = asyncio.Semaphore(CALLERS)

        async def check_out() -> None:
            nonlocal begun
            async with callers:
                with suppress(Failed):
                    await api.call("POST", f"/carts/{cart_id(next(numbers))}/checkout", 201)
                    begun += 1

        start = time.monotonic()
        await open_loop(check_out, rate, WARM_SECONDS, seconds)
        api.close()
        return begun / (time.monotonic() - start)

    return uvloop.run(run())


def webhooks(stage: Stage) -> Measured:
    """Payments reported by signed events. Only the API runs: the worker has its own process and figures."""
    url, tables = stage.database("webhooks", 1000)
    events = stage.folder / "events"
    rates, p99 = [], []
    with stage.api(url) as api:
        for _ in range(stage.rounds):
            count = int(EVENTS_A_SECOND * stage.seconds)
            first = tables.add_orders(count + EVENTS_A_SECOND * WARM_SECONDS)
            tables.settle()
            write_events(events, first + count, EVENTS_A_SECOND * WARM_SECONDS)
            wrk(api.url, WARM_SECONDS, events, script="webhooks")
            before = tables.value("SELECT count(*) FROM stripe_events WHERE outcome = 'applied'")
            write_events(events, first, count)
            load = wrk(api.url, stage.seconds, events, script="webhooks")
            assert load.taken < count, "too few events"
            applied = tables.value("SELECT count(*) FROM stripe_events WHERE outcome = 'applied'") - before
            # Requests in flight at the end are applied, too, but their answers are not counted.
            assert applied >= load.requests, (load, applied)
            rates.append(load.rate)
            p99.append(load.p99_ms)
    return Measured(
        [Figure("webhooks", "/s", rates, True, "", WEBHOOKS), Figure("webhooks: p99", "ms", p99, True)],
    )


def write_events(path: Path, first: int, count: int) -> None:
    """Write events for `webhooks.lua`, signed now: a signature is valid for 300 s."""
    now = int(time.time())
    with path.open("wb") as file:
        for body in _events(first, count, now):
            file.write(signature(body, WEBHOOK_SECRET, now).encode() + b"\t" + body + b"\n")


def _events(first: int, count: int, now: int) -> Iterator[bytes]:
    """Completed and paid sessions with all the fields that Stripe sends."""
    for number in range(first, first + count):
        session = {
            "id": session_id(number),
            "object": "checkout.session",
            "amount_subtotal": PRICE_MINOR,
            "amount_total": PRICE_MINOR,
            "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
            "cancel_url": "http://localhost:8080/payments/cancel?session_id={CHECKOUT_SESSION_ID}",
            "client_reference_id": str(order_id(number)),
            "created": now - 60,
            "currency": "eur",
            "custom_fields": [],
            "custom_text": {"after_submit": None, "shipping_address": None, "submit": None},
            "customer_details": {"address": None, "email": "shopper@example.com", "name": None, "phone": None},
            "expires_at": now + 2040,
            "livemode": False,
            "metadata": {"order_id": str(order_id(number))},
            "mode": "payment",
            "payment_intent": new_id("pi_"),
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "payment_status": "paid",
            "status": "complete",
            "success_url": "http://localhost:8080/payments/success?session_id={CHECKOUT_SESSION_ID}",
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted_page",
            "url": None,
        }
        yield orjson.dumps(
            {
                "id": new_id("evt_"),
                "object": "event",
                "api_version": API_VERSION,
                "created": now,
                "data": {"object": session},
                "livemode": False,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": "checkout.session.completed",
            }
        )


def sweep(stage: Stage) -> Measured:
    """Orders whose hold has ended. Each has an open session, which Stripe is asked to expire first."""
    url, tables = stage.database("sweep", 1000)
    wall, database, statements = [], [], {}
    with stage.shop(url, worker=False) as shop:
        settings = Settings.load(stage.environ(url, STRIPE_API_BASE=shop.stripe.url))
        # Without webhooks, whose work is measured elsewhere.
        control(shop.stripe, "PUT", "/webhooks", {"drop": True})
        for _ in range(stage.rounds):
            first = tables.add_orders(DUE, expires=-1)
            sessions = uvloop.run(_sessions(shop.stripe, first))
            tables.connection.execute(ATTACH, (list(sessions), list(sessions.values())))
            tables.settle()
            tables.reset_costs()
            start = time.monotonic()
            uvloop.run(_sweep(settings))
            wall.append(time.monotonic() - start)
            costs = tables.costs()
            database.append(sum(seconds for _, _, seconds, _ in costs))
            statements = {name: [calls, round(seconds, 3)] for name, calls, seconds, _ in costs if name}
            pending = tables.value("SELECT count(*) FROM orders WHERE status = 'PENDING_PAYMENT'")
            assert pending == 0, f"{pending} orders are still pending"
    stage.audit(url)
    return Measured(
        [
            Figure("10,000 orders swept: in PostgreSQL", "s", database, True, "", SWEPT),
            Figure("10,000 orders swept: in all", "s", wall, True),
        ],
        {"calls and seconds of the last round": statements},
    )


async def _sweep(settings: Settings) -> None:
    async with open_resources(settings, "commerce-bench") as resources:
        await sweeper.sweep(resources)


async def _sessions(stripe: Child, first: int) -> dict[UUID, str]:
    """Create an open session for each order at the stand-in, as the service does; the sessions' ids."""
    api, numbers = Http(stripe.url, "Authorization: Bearer sk_test_bench"), iter(range(first, first + DUE))
    sessions: dict[UUID, str] = {}

    async def caller() -> None:
        for number in numbers:
            form = {
                "mode": "payment",
                "success_url": "http://localhost:8080/payments/success",
                "client_reference_id": order_id(number),
                "metadata[order_id]": order_id(number),
                "line_items[0][quantity]": 1,
                "line_items[0][price_data][currency]": "eur",
                "line_items[0][price_data][unit_amount]": PRICE_MINOR,
                "line_items[0][price_data][product_data][name]": "Halden Storm-Proof Trekking Tent, Forest",
            }
            answer = await api.call("POST", "/v1/checkout/sessions", 200, urlencode(form).encode())
            sessions[order_id(number)] = orjson.loads(answer)["id"]

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(caller())
    api.close()
    return sessions
