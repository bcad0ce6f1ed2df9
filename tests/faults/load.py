"""Shoppers and staff who record what the service has acknowledged, and compare it with the tables at the end."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

import aiohttp

from service.infra.resources import Resources
from service.shop.webhooks import EVENT_TYPES
from tests.client import eventually
from tests.faults.stage import Stage
from tests.queries import on
from tests.stripe_ledger import assert_ledgers_agree

Json = dict[str, Any]

# Answers after which a request is repeated; 0 stands for no answer. Unexpected ones are recorded first.
RETRY_STATUSES = {0, 429, 500, 503}
RETRY_CODES = {"checkout_in_progress", "idempotency_key_in_use"}
ANSWER_SECONDS = 30
GIVE_UP_SECONDS = 120
PRODUCTS = 10


@dataclass
class Ledger:
    """What was acknowledged, and which answers were unexpected."""

    # By cart: the acknowledged units of each product, and the units requested without an answer.
    lines: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    unanswered: Counter[str] = field(default_factory=Counter)
    orders: set[str] = field(default_factory=set)
    # The reasons of stock moves, and the orders of refunds.
    moves: set[str] = field(default_factory=set)
    refunds: set[str] = field(default_factory=set)
    acknowledged: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    unexpected: list[str] = field(default_factory=list)

    async def find_lost_writes(self, resources: Resources) -> list[str]:
        """The acknowledged writes that are not in the tables, or are there twice."""
        stored: dict[str, Counter[int]] = defaultdict(Counter)
        rows = await on(resources.pool).fetch(
            "SELECT carts.id::text, product_id, quantity FROM carts LEFT JOIN cart_items ON carts.id = cart_id"
            " WHERE carts.id = ANY($1)",
            [UUID(cart) for cart in self.lines],
        )
        for cart, product, quantity in rows:
            stored[cart] += Counter({product: quantity or 0})
        lost_writes = []
        for cart, lines in self.lines.items():
            too_many = stored[cart].total() - lines.total() > self.unanswered[cart] if cart in stored else True
            if too_many or lines - stored[cart]:
                lost_writes.append(f"cart {cart}: {dict(lines)} acknowledged, {dict(stored[cart])} stored")
        for kind, names, query in (
            ("order", self.orders, "SELECT id::text FROM orders WHERE id = ANY($1::uuid[])"),
            ("stock move", self.moves, "SELECT reason FROM stock_movements WHERE reason = ANY($1)"),
            ("refund", self.refunds, "SELECT order_id::text FROM refunds WHERE order_id = ANY($1::uuid[])"),
        ):
            times = Counter(row[0] for row in await on(resources.pool).fetch(query, list(names)))
            lost_writes += [f"{kind} {name}: {times[name]} stored" for name in names if times[name] != 1]
        return lost_writes


@dataclass
class StripeState:
    """The stand-in's ledger in the form that `assert_ledgers_agree` reads, and the events that were acknowledged."""

    payments: Json
    refunds: list[Json]
    acknowledged_events: list[str]

    def ledger(self) -> Json:
        return self.payments


class Load:
    """Shoppers at work while the block runs, each with a pause of `moment` seconds between two requests."""

    def __init__(self, stage: Stage, shoppers: int = 6, moment: float = 0.02, expected: int = 0) -> None:
        """`expected` is a status of 500 or more that a scenario may cause, as Stripe refuses."""
        self.stage = stage
        self.ledger = Ledger()
        self._shoppers, self._moment, self._expected = shoppers, moment, expected
        self._stopping = False
        # The APIs that requests go to, chosen at random.
        self.bases = [stage.api]

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), connector=aiohttp.TCPConnector(limit=0)
        )
        tent = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1_000_000}
        self.products = [(await self.call("POST", "/products", tent))["id"] for _ in range(PRODUCTS)]
        self._tasks = [asyncio.create_task(self._shop()) for _ in range(self._shoppers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self.http.close()

    async def send(self, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Json]:
        """Send one request and record its answer; the status and the JSON, 0 and nothing where no answer came."""
        headers = {"Idempotency-Key": key} if key else {}
        start = time.monotonic()
        try:
            address = random.choice(self.bases) + path
            async with self.http.request(method, address, json=body, headers=headers) as answer:
                status, document = answer.status, await answer.json(content_type=None)
                is_allowed = status == 503 and "Retry-After" in answer.headers
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status, document, is_allowed = 0, {}, True
        self.ledger.answers[status] += 1
        self.ledger.slowest = max(self.ledger.slowest, time.monotonic() - start)
        self.ledger.acknowledged += method == "POST" and status in (200, 201)
        if status >= 500 and status != self._expected and not is_allowed:
            self.ledger.unexpected.append(f"{method} {path}: {status} {document}")
        return status, document

    async def call(self, method: str, path: str, body: Any = None, key: str = "", refusal: str = "") -> Json:
        """Repeat a request, a POST with its key, until its answer is final; the JSON. `refusal` is an expected code."""
        key = key or (uuid4().hex if method == "POST" else "")
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            status, document = await self.send(method, path, body, key)
            if status not in RETRY_STATUSES and document.get("code") not in RETRY_CODES:
                break
            assert time.monotonic() < deadline, (method, path, status, document)
            await asyncio.sleep(0.1)
        if 400 <= status < 500 and document.get("code") != refusal:
            self.ledger.unexpected.append(f"{method} {path}: {status} {document}")
        await asyncio.sleep(random.uniform(0, 2 * self._moment))
        return document

    async def buy(self) -> None:
        """Repeat whole purchases until one is fulfilled."""
        order: Json = {}
        while order.get("status") != "FULFILLED":
            placed_order = await self.place(await self.cart(1))
            if "order_id" in placed_order:
                await self.pay(placed_order)
                order = await self.end(placed_order["order_id"])

    async def wait_for_traffic(self, requests: int = 30) -> None:
        """Return once so many more requests are acknowledged."""
        goal = self.ledger.acknowledged + requests

        async def enough() -> bool:
            return self.ledger.acknowledged >= goal

        await eventually(enough, GIVE_UP_SECONDS)

    async def _shop(self) -> None:
        while not self._stopping:
            cart = await self.cart(2)
            if random.random() < 0.3:
                await self.add_without_key(cart, self.products[0])
            if random.random() < 0.3:
                move = {"delta": 1, "reason": f"counted {uuid4().hex}"}
                await self.call("POST", f"/products/{random.choice(self.products)}/stock", move)
                self.ledger.moves.add(move["reason"])
            placed_order = await self.place(cart)
            choice = random.random()
            if "order_id" not in placed_order:
                # Stripe refused the session.
                continue
            order_id = placed_order["order_id"]
            if choice < 0.7:
                await self.pay(placed_order)
            elif choice < 0.9:
                await self.call("POST", f"/orders/{order_id}/cancel")
            if choice < 0.2 and (await self.end(order_id))["status"] == "FULFILLED":
                await self.call("POST", f"/orders/{order_id}/refund", {"amount_minor": 50})
                self.ledger.refunds.add(order_id)

    async def cart(self, lines: int) -> str:
        """Create a cart with so many lines; its id."""
        cart = str((await self.call("POST", "/carts"))["id"])
        self.ledger.lines[cart] = Counter()
        for product in random.sample(self.products, lines):
            await self.call("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
            self.ledger.lines[cart][product] += 1
        return cart

    async def place(self, cart: str, key: str = "") -> Json:
        """Check a cart out; the answer, without an order where Stripe refused the session."""
        placed_order = await self.call("POST", f"/carts/{cart}/checkout", key=key)
        if "order_id" in placed_order:
            self.ledger.orders.add(placed_order["order_id"])
        return placed_order

    async def add_without_key(self, cart: str, product: int) -> None:
        """Add a unit without an idempotency key, and therefore without a second try."""
        status, _ = await self.send("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
        self.ledger.lines[cart][product] += status == 200
        self.ledger.unanswered[cart] += status != 200

    async def pay(self, placed_order: Json) -> None:
        """Pay at Stripe as the customer does; its session may already be closed."""
        address = f"{self.stage.standin}/_control/sessions/{placed_order['payment']['stripe_session_id']}/pay"
        while True:
            try:
                async with self.http.post(address, json={"email": "ann@example.org"}) as answer:
                    assert answer.status in (200, 400), await answer.text()
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)

    async def end(self, order_id: str) -> Json:
        """The order, once it is fulfilled or cancelled."""

        async def ended() -> Json | None:
            order = await self.call("GET", f"/orders/{order_id}")
            return order if order["status"] in ("FULFILLED", "CANCELLED") else None

        return await eventually(ended, GIVE_UP_SECONDS)


async def settle(stage: Stage, ledger: Ledger, seconds: float = 90) -> tuple[list[str], list[str]]:
    """The lost writes, and the violations that the audit and Stripe's ledger still show after `seconds`."""
    deadline = time.monotonic() + seconds
    async with stage.resources() as resources, aiohttp.ClientSession(stage.standin) as standin:
        while True:
            state = await _read_stripe_state(standin, stage.settings["STRIPE_API_KEY"])
            try:
                await assert_ledgers_agree(resources, state)  # type: ignore[arg-type]
                payable = Counter(session["metadata"]["order_id"] for session in state.payments["open_sessions"])
                violations = [f"order {order}: two sessions can be paid" for order in payable if payable[order] > 1]
            except AssertionError as error:
                violations = [str(error)[:2000]]
            if not violations or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        query = "SELECT id FROM stripe_events WHERE id = ANY($1) AND outcome IS NOT NULL"
        stored = {row["id"] for row in await on(resources.pool).fetch(query, state.acknowledged_events)}
        lost_events = [f"event {event}" for event in state.acknowledged_events if event not in stored]
        return lost_events + await ledger.find_lost_writes(resources), violations


async def _read_stripe_state(standin: aiohttp.ClientSession, key: str) -> StripeState:
    async def listed(path: str) -> AsyncIterator[Json]:
        query = {"limit": "100"}
        while True:
            async with standin.get(path, params=query, headers={"Authorization": f"Bearer {key}"}) as answer:
                page = await answer.json()
            for item in page["data"]:
                yield item
            if not page["has_more"]:
                return
            query["starting_after"] = page["data"][-1]["id"]

    refunds = [refund async for refund in listed("/v1/refunds")]
    # The webhook endpoint gets events of these types only.
    acknowledged_events = [
        event["id"]
        async for event in listed("/v1/events")
        if event["type"] in EVENT_TYPES and event["pending_webhooks"] == 0
    ]
    async with standin.get("/_control/ledger") as answer:
        return StripeState(await answer.json(), refunds, acknowledged_events)
