"""Four sessions around one product, in every order of the kinds there are: none of them ends in a deadlock.

One session fills a cart and stays open. The first taker changes the product and stays open, two more wait for it.
Then the first commits. With a foreign key from cart_items to products, the open session held a KEY SHARE lock on the
product's old version, and the two that waited blocked each other.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from service.infra.db import Connection
from service.infra.resources import Resources, open_resources
from service.infra.stripe import Session
from service.settings import Settings
from service.shop import cart, catalog, checkout, settlement, transitions
from service.shop.checkout import Reservation
from service.shop.transitions import AfterCommit
from tests.client import waiting
from tests.conftest import cloned

SESSIONS = 4


@dataclass
class Scene:
    """One product, and a connection for each session; carts and orders of the product are made as they are needed."""

    resources: Resources
    sessions: list[Connection]
    product_id: int

    async def cart(self) -> UUID:
        cart_id = uuid4()
        await cart.CREATE_CART.run(self.resources.pool, cart_id=cart_id)
        await cart.SET_LINE.run(self.resources.pool, cart_id=cart_id, product_id=self.product_id, quantity=1)
        return cart_id

    async def order(self) -> UUID:
        order_id, cart_id = uuid4(), await self.cart()
        tx = self.sessions[0]
        async with tx.transaction():
            outcome = await checkout.reserve(tx, self.resources.settings, Reservation(None, cart_id, None), order_id)
            assert isinstance(outcome, checkout.Reserved)
        return order_id


Step = Callable[[Connection], Awaitable[object]]


async def check_out(scene: Scene) -> Step:
    cart_id = await scene.cart()
    return lambda tx: checkout.reserve(tx, scene.resources.settings, Reservation(None, cart_id, None), uuid4())


async def cancel(scene: Scene) -> Step:
    order_id = await scene.order()

    async def step(tx: Connection) -> None:
        await transitions.cancel(tx, AfterCommit(), [await transitions.lock(tx, order_id)], payment_status="EXPIRED")

    return step


async def pay_late(scene: Scene) -> Step:
    order_id = await scene.order()
    tx = scene.sessions[0]
    async with tx.transaction():
        await transitions.cancel(tx, AfterCommit(), [await transitions.lock(tx, order_id)], payment_status="EXPIRED")
    paid = Session(f"cs_{order_id}", "complete", "paid", 1250, "EUR", f"pi_{order_id}", None, None, str(order_id))

    async def step(tx: Connection) -> None:
        assert await settlement.apply_session(tx, AfterCommit(), order_id, paid) == "applied"

    return step


async def restock(scene: Scene) -> Step:
    return lambda tx: catalog.MOVE_STOCK.one_or_none(tx, product_id=scene.product_id, delta=5, reason="delivery")


async def edit(scene: Scene) -> Step:
    unchanged = dict.fromkeys(("version", "description", "price_minor", "category_id", "active"))
    return lambda tx: catalog.UPDATE_PRODUCT.one_or_none(
        tx, product_id=scene.product_id, name="Tent", set_category=False, **unchanged
    )


TAKERS = {"checkout": check_out, "cancel": cancel, "late payment": pay_late, "restock": restock, "edit": edit}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(template: str, servers: tuple[str, str]) -> AsyncIterator[Callable[[], Awaitable[Scene]]]:
    """Makes scenes in one database; at the end the server says how many deadlocks it has met."""
    async with cloned(template) as url:
        settings = Settings.load({"DATABASE_URL": url, "REDIS_URL": servers[1], "STRIPE_API_KEY": "sk_test_tests"})
        async with AsyncExitStack() as stack:
            resources = await stack.enter_async_context(open_resources(settings, "commerce-tests"))
            sessions = [await stack.enter_async_context(resources.pool.acquire()) for _ in range(SESSIONS)]
            for session in sessions:
                await session.execute("SET deadlock_timeout = '20ms'")

            async def make() -> Scene:
                new = "INSERT INTO products (name, price_minor, currency, stock) VALUES ('Tent', 1250, 'EUR', 100)"
                return Scene(resources, sessions, await resources.pool.fetchval(f"{new} RETURNING id"))

            yield make
        database = await asyncpg.connect(url)
        deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        await database.close()
    assert deadlocks == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("line", [cart.ADD_LINE, cart.SET_LINE], ids=["add", "set"])
@pytest.mark.parametrize(("first", "second", "third"), list(product(TAKERS, repeat=3)))
async def test_four_sessions_do_not_deadlock(
    scenes: Callable[[], Awaitable[Scene]], line: object, first: str, second: str, third: str
) -> None:
    scene = await scenes()
    steps = [await TAKERS[name](scene) for name in (first, second, third)]
    filling, *takers = scene.sessions
    filled = uuid4()
    await cart.CREATE_CART.run(scene.resources.pool, cart_id=filled)

    await filling.execute("BEGIN")
    assert await cart.OPEN_FOR_PRODUCT.one_or_none(filling, cart_id=filled, product_id=scene.product_id)
    await line.run(filling, cart_id=filled, product_id=scene.product_id, quantity=1)  # type: ignore[attr-defined]
    for taker in takers:
        await taker.execute("BEGIN")
    await steps[0](takers[0])
    others = []
    for number in (1, 2):
        others.append(asyncio.create_task(take(takers[number], steps[number])))
        await waiting(filling, number)
    await takers[0].execute("COMMIT")
    ended = await asyncio.gather(*others, return_exceptions=True)
    for session in scene.sessions:
        await session.execute("COMMIT")

    assert ended == [None, None]

    ledger = "SELECT coalesce(sum(delta), 0) FROM stock_movements WHERE product_id = products.id"
    unexplained = f"SELECT stock - 100 - ({ledger}) FROM products WHERE id = $1"
    assert await scene.resources.pool.fetchval(unexplained, scene.product_id) == 0


async def take(tx: Connection, step: Step) -> None:
    await step(tx)
    await tx.execute("COMMIT")
