"""Shoppers and staff who keep a ledger of what the service has acknowledged, and compare it with what is there."""

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
from tests.books import balance
from tests.client import eventually
from tests.faults.stage import Stage

Json = dict[str, Any]

# Answers after which to ask again: 0 is none at all, and one that should not have been given is noted before.
AGAIN = {0, 429, 500, 503}
AGAIN_CODES = {"checkout_in_progress", "idempotency_key_in_use"}
ANSWER_SECONDS = 30
GIVE_UP_SECONDS = 120
PRODUCTS = 10


@dataclass
class Ledger:
    """What was acknowledged, and which answers should not have been given."""

    lines: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # cart: units by product
    unsure: Counter[str] = field(default_factory=Counter)  # cart: units that were asked for once and not answered for
    orders: set[str] = field(default_factory=set)
    moves: set[str] = field(default_factory=set)  # their reasons
    refunds: set[str] = field(default_factory=set)  # their orders
    acknowledged: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    unexpected: list[str] = field(default_factory=list)

    async def lost(self, resources: Resources) -> list[str]:
        """What was acknowledged and is not there, or is there twice."""
        there: dict[str, Counter[int]] = defaultdict(Counter)
        rows = await resources.pool.fetch(
            "SELECT carts.id::text, product_id, quantity FROM carts LEFT JOIN cart_items ON carts.id = cart_id"
            " WHERE carts.id = ANY($1)",
            [UUID(cart) for cart in self.lines],
        )
        for cart, product, quantity in rows:
            there[cart] += Counter({product: quantity or 0})
        lost = []
        for cart, lines in self.lines.items():
            unasked = there[cart].total() - lines.total() > self.unsure[cart] if cart in there else True
            if unasked or lines - there[cart]:
                lost.append(f"cart {cart}: {dict(lines)} acknowledged, {dict(there[cart])} there")
        for what, names, query in (
            ("order", self.orders, "SELECT id::text FROM orders WHERE id = ANY($1::uuid[])"),
            ("stock move", self.moves, "SELECT reason FROM stock_movements WHERE reason = ANY($1)"),
            ("refund", self.refunds, "SELECT order_id::text FROM refunds WHERE order_id = ANY($1::uuid[])"),
        ):
            times = Counter(row[0] for row in await resources.pool.fetch(query, list(names)))
            lost += [f"{what} {name}: {times[name]} there" for name in names if times[name] != 1]
        return lost


@dataclass
class Books:
    """The stand-in's own books, as `balance` reads them."""

    payments: Json
    refunds: list[Json]
    delivered: list[str]  # events that the service has acknowledged

    def ledger(self) -> Json:
        return self.payments


class Load:
    """So many shoppers while the block lasts, each with a moment between two requests."""

    def __init__(self, stage: Stage, shoppers: int = 6, moment: float = 0.02, expected: int = 0) -> None:
        """`expected` is the status that Stripe's refusal may have, where it refuses."""
        self.stage = stage
        self.ledger = Ledger()
        self._shoppers, self._moment, self._expected = shoppers, moment, expected
        self._stopping = False

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), connector=aiohttp.TCPConnector(limit=0)
        )
        new = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1_000_000}
        self.products = [(await self.ask("POST", "/products", new))["id"] for _ in range(PRODUCTS)]
        self._tasks = [asyncio.create_task(self._shop()) for _ in range(self._shoppers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self.http.close()

    async def send(self, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Json]:
        """One request's status and JSON, noted; 0 and nothing where no answer came."""
        headers = {"Idempotency-Key": key} if key else {}
        since = time.monotonic()
        try:
            async with self.http.request(method, self.stage.api + path, json=body, headers=headers) as answer:
                status, given, later = answer.status, await answer.json(content_type=None), "Retry-After"
                may_pass = status == 503 and later in answer.headers
        except (aiohttp.ClientError, TimeoutError, ValueError):
            status, given, may_pass = 0, {}, True
        self.ledger.answers[status] += 1
        self.ledger.slowest = max(self.ledger.slowest, time.monotonic() - since)
        self.ledger.acknowledged += method == "POST" and status in (200, 201)
        if status >= 500 and status != self._expected and not may_pass:
            self.ledger.unexpected.append(f"{method} {path}: {status} {given}")
        return status, given

    async def ask(self, method: str, path: str, body: Any = None, key: str = "", refusal: str = "") -> Json:
        """The JSON of the answer that is final; a POST is asked again with its key. `refusal` is a code it may have."""
        key = key or (uuid4().hex if method == "POST" else "")
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            status, given = await self.send(method, path, body, key)
            if status not in AGAIN and given.get("code") not in AGAIN_CODES:
                break
            assert time.monotonic() < deadline, (method, path, status, given)
            await asyncio.sleep(0.1)
        if 400 <= status < 500 and given.get("code") != refusal:
            self.ledger.unexpected.append(f"{method} {path}: {status} {given}")
        await asyncio.sleep(random.uniform(0, 2 * self._moment))
        return given

    async def buy(self) -> None:
        """Whole purchases, until one is fulfilled."""
        order: Json = {}
        while order.get("status") != "FULFILLED":
            placed = await self.place(await self.cart(1))
            if "order_id" in placed:
                await self.pay(placed)
                order = await self.end(placed["order_id"])

    async def busy(self, requests: int = 30) -> None:
        """Return once so many more requests were acknowledged."""
        goal = self.ledger.acknowledged + requests

        async def reached() -> bool:
            return self.ledger.acknowledged >= goal

        await eventually(reached, GIVE_UP_SECONDS)

    async def _shop(self) -> None:
        while not self._stopping:
            cart = await self.cart(2)
            if random.random() < 0.3:
                await self.add_once(cart, self.products[0])
            if random.random() < 0.3:
                move = {"delta": 1, "reason": f"found {uuid4().hex}"}
                await self.ask("POST", f"/products/{random.choice(self.products)}/stock", move)
                self.ledger.moves.add(move["reason"])
            placed = await self.place(cart)
            fate = random.random()
            if "order_id" not in placed:
                continue  # Stripe refused it
            if fate < 0.7:
                await self.pay(placed)
            elif fate < 0.9:
                await self.ask("POST", f"/orders/{placed['order_id']}/cancel")
            if fate < 0.2 and (await self.end(placed["order_id"]))["status"] == "FULFILLED":
                await self.ask("POST", f"/orders/{placed['order_id']}/refund", {"amount_minor": 50})
                self.ledger.refunds.add(placed["order_id"])

    async def cart(self, lines: int) -> str:
        """A new cart with so many lines."""
        cart = str((await self.ask("POST", "/carts"))["id"])
        self.ledger.lines[cart] = Counter()
        for product in random.sample(self.products, lines):
            await self.ask("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
            self.ledger.lines[cart][product] += 1
        return cart

    async def place(self, cart: str, key: str = "") -> Json:
        """The checkout of a cart; without an order where Stripe refused it."""
        placed = await self.ask("POST", f"/carts/{cart}/checkout", key=key)
        if "order_id" in placed:
            self.ledger.orders.add(placed["order_id"])
        return placed

    async def add_once(self, cart: str, product: int) -> None:
        """Without a key, and so without another try."""
        status, _ = await self.send("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
        self.ledger.lines[cart][product] += status == 200
        self.ledger.unsure[cart] += status != 200

    async def pay(self, placed: Json) -> None:
        """As the customer does; too late is no fault of anybody's."""
        address = f"{self.stage.standin}/_control/sessions/{placed['payment']['stripe_session_id']}/pay"
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
            order = await self.ask("GET", f"/orders/{order_id}")
            return order if order["status"] in ("FULFILLED", "CANCELLED") else None

        return await eventually(ended, GIVE_UP_SECONDS)


async def settle(stage: Stage, ledger: Ledger, seconds: float = 90) -> tuple[list[str], list[str]]:
    """What was lost, and what the audit and Stripe's books find wrong once all has had time to settle."""
    deadline = time.monotonic() + seconds
    async with stage.resources() as resources, aiohttp.ClientSession(stage.standin) as standin:
        while True:
            books = await _books(standin, stage.settings["STRIPE_API_KEY"])
            try:
                await balance(resources, books)  # type: ignore[arg-type]
                payable = Counter(session["metadata"]["order_id"] for session in books.payments["open_sessions"])
                violations = [f"order {order}: two sessions can be paid" for order in payable if payable[order] > 1]
            except AssertionError as error:
                violations = [str(error)[:2000]]
            if not violations or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        query = "SELECT id FROM stripe_events WHERE id = ANY($1) AND outcome IS NOT NULL"
        stored = {row["id"] for row in await resources.pool.fetch(query, books.delivered)}
        lost = [f"event {event}" for event in books.delivered if event not in stored]
        return lost + await ledger.lost(resources), violations


async def _books(standin: aiohttp.ClientSession, key: str) -> Books:
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
    # Of the others the endpoint is told nothing.
    delivered = [
        event["id"]
        async for event in listed("/v1/events")
        if event["type"] in EVENT_TYPES and event["pending_webhooks"] == 0
    ]
    async with standin.get("/_control/ledger") as answer:
        return Books(await answer.json(), refunds, delivered)
