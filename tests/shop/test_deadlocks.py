"""Deadlocks: four sessions use one product, with every sequence of three changes of it, and none deadlocks.

One session adds the product to a cart and stays open. Another changes the product and stays open; two more changes
wait for it. Then the first change commits. With a foreign key from cart_items to products, the open session had a KEY
SHARE lock on the product's old version, and the two waiting changes blocked each other.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from service.infra.db import Connection
from service.infra.resources import Resources, open_resources
from service.infra.stripe import Session
from service.settings import Settings
from service.shop import cart, catalog, checkout, refunds, settlement, transitions
from service.shop.checkout import Reservation
from service.shop.transitions import AfterCommit
from tests.conftest import cloned
from tests.database import wait_for_blocked
from tests.queries import on

SESSIONS = 4


@dataclass
class Scene:
    """One product and a connection for each session."""

    resources: Resources
    sessions: list[Connection]
    product_id: int
    more_ids: Sequence[int] = ()

    async def create_cart(self) -> UUID:
        cart_id = uuid4()
        await cart.CREATE_CART.run(on(self.resources.pool), cart_id=cart_id, user_id=None, reference=None)
        pool = on(self.resources.pool)
        for product_id in (self.product_id, *self.more_ids):
            # Gives the cart its currency.
            assert await cart.OPEN_FOR_PRODUCT.one_or_none(
                pool, cart_id=cart_id, product_id=product_id, max_per_order=100, user_id=None
            )
            await cart.SET_LINE.run(pool, cart_id=cart_id, product_id=product_id, quantity=1)
        return cart_id

    async def create_order(self) -> UUID:
        order_id, cart_id = uuid4(), await self.create_cart()
        tx = self.sessions[0]
        async with tx.transaction():
            outcome = await checkout.reserve(tx, self.resources.settings, Reservation(None, cart_id, None), order_id)
            assert isinstance(outcome, checkout.Reserved)
        return order_id


# A change of the product, run in a session's transaction. The functions below prepare the rows that it needs.
Change = Callable[[Connection], Awaitable[object]]


async def check_out(scene: Scene) -> Change:
    cart_id = await scene.create_cart()
    return lambda tx: checkout.reserve(tx, scene.resources.settings, Reservation(None, cart_id, None), uuid4())


async def cancel(scene: Scene) -> Change:
    order_id = await scene.create_order()

    async def change(tx: Connection) -> None:
        await transitions.cancel(tx, AfterCommit(), [await transitions.lock(tx, order_id)], payment_status="EXPIRED")

    return change


async def pay_late(scene: Scene) -> Change:
    order_id = await scene.create_order()
    tx = scene.sessions[0]
    async with tx.transaction():
        await transitions.cancel(tx, AfterCommit(), [await transitions.lock(tx, order_id)], payment_status="EXPIRED")
    total = 1250 * (1 + len(scene.more_ids))
    paid = Session(f"cs_{order_id}", "complete", "paid", total, "EUR", f"pi_{order_id}", None, None, str(order_id))

    async def change(tx: Connection) -> None:
        assert await settlement.apply_session(tx, AfterCommit(), order_id, paid) == "applied"

    return change


async def restock(scene: Scene) -> Change:
    return lambda tx: catalog.MOVE_STOCK.one_or_none(
        tx, product_id=scene.product_id, delta=5, reason="delivery", actor="admin"
    )


async def edit(scene: Scene) -> Change:
    kept = ("description", "price_minor", "category_id", "active", "sku", "image_url", "max_per_order")
    unchanged = dict.fromkeys(kept) | {f"set_{name}": False for name in ("category", *kept[4:])}

    async def change(tx: Connection) -> None:
        await catalog.LOCK_PRODUCT.one_or_none(tx, product_id=scene.product_id)
        await catalog.UPDATE_PRODUCT.one_or_none(tx, product_id=scene.product_id, name="Tent", **unchanged)

    return change


async def return_lines(scene: Scene) -> Change:
    """Return the units of a paid order, whose refund by line has succeeded."""
    order_id = await scene.create_order()
    tx = scene.sessions[0]
    lines = (scene.product_id, *scene.more_ids)
    paid = Session(f"cs_{order_id}", "complete", "paid", 1250 * len(lines), "EUR", f"pi_{order_id}", None, None, None)
    async with tx.transaction():
        assert await settlement.apply_session(tx, AfterCommit(), order_id, paid) == "applied"
        items = [refunds.RefundLine(product_id, 1, True) for product_id in lines]
        await refunds.request(tx, AfterCommit(), order_id, amount_minor=None, items=items, restock=False, reason=None)

    async def change(tx: Connection) -> None:
        await tx.execute("UPDATE refunds SET status = 'SUCCEEDED', stripe_refund_id = id, next_attempt_at = NULL")
        order = await transitions.lock(tx, order_id)
        await refunds.return_units(tx, AfterCommit(), order)

    return change


CHANGES = {"checkout": check_out, "cancel": cancel, "late payment": pay_late, "restock": restock, "edit": edit}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(template: str, servers: tuple[str, str]) -> AsyncIterator[Callable[[], Awaitable[Scene]]]:
    """A maker of scenes in one database; at the end the server has counted no deadlock."""
    async with cloned(template) as url:
        settings = Settings.load({"DATABASE_URL": url, "REDIS_URL": servers[1], "STRIPE_API_KEY": "sk_test_tests"})
        async with AsyncExitStack() as stack:
            resources = await stack.enter_async_context(open_resources(settings, "commerce-tests"))
            sessions = [await stack.enter_async_context(resources.pool.acquire()) for _ in range(SESSIONS)]
            for session in sessions:
                await session.execute("SET deadlock_timeout = '20ms'")

            async def make() -> Scene:
                new = "INSERT INTO products (name, price_minor, currency, stock) VALUES ('Tent', 1250, 'EUR', 100)"
                return Scene(resources, sessions, await on(resources.pool).fetchval(f"{new} RETURNING id"))

            yield make
        database = await asyncpg.connect(url)
        deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        await database.close()
    assert deadlocks == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fill", ["add", "set"])
@pytest.mark.parametrize(("first", "second", "third"), list(product(CHANGES, repeat=3)))
async def test_four_sessions_do_not_deadlock(
    scenes: Callable[[], Awaitable[Scene]], fill: str, first: str, second: str, third: str
) -> None:
    scene = await scenes()
    changes = [await CHANGES[name](scene) for name in (first, second, third)]
    cart_session, *sessions = scene.sessions
    cart_id = uuid4()
    await cart.CREATE_CART.run(on(scene.resources.pool), cart_id=cart_id, user_id=None, reference=None)

    await cart_session.execute("BEGIN")
    assert await cart.OPEN_FOR_PRODUCT.one_or_none(
        cart_session, cart_id=cart_id, product_id=scene.product_id, max_per_order=100, user_id=None
    )
    line: dict[str, Any] = {"cart_id": cart_id, "product_id": scene.product_id, "quantity": 1}
    if fill == "add":
        assert await cart.ADD_LINE.one_or_none(cart_session, **line, max_per_order=100)
    else:
        await cart.SET_LINE.run(cart_session, **line)
    for session in sessions:
        await session.execute("BEGIN")
    await changes[0](sessions[0])
    waiting = []
    for number in (1, 2):
        waiting.append(asyncio.create_task(change_and_commit(sessions[number], changes[number])))
        await wait_for_blocked(cart_session, number)
    await sessions[0].execute("COMMIT")
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    for session in scene.sessions:
        await session.execute("COMMIT")

    assert errors == [None, None]
    ledger = "SELECT coalesce(sum(delta), 0) FROM stock_movements WHERE product_id = products.id"
    unexplained = f"SELECT stock - 100 - ({ledger}) FROM products WHERE id = $1"
    assert await on(scene.resources.pool).fetchval(unexplained, scene.product_id) == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("change", ["checkout", "cancel", "late payment", "refund by line"])
async def test_the_products_of_two_lines_are_locked_in_the_order_of_their_ids(
    scenes: Callable[[], Awaitable[Scene]], change: str
) -> None:
    scene = await scenes()
    first, second = scene.product_id, (await scenes()).product_id
    scene.more_ids = [second]
    change_both = await {**CHANGES, "refund by line": return_lines}[change](scene)
    locker, other = scene.sessions[:2]
    # The first product lies behind the second, for a plan that reads the rows as they lie.
    await locker.execute(f"UPDATE products SET updated_at = now() WHERE id = {first}")

    await locker.execute(f"BEGIN; SELECT FROM products WHERE id = {first} FOR NO KEY UPDATE")
    await other.execute("BEGIN")
    changing = asyncio.create_task(change_and_commit(other, change_both))
    await wait_for_blocked(locker)
    # What waits for the first product has not locked the second.
    await locker.execute(f"SELECT FROM products WHERE id = {second} FOR NO KEY UPDATE NOWAIT")
    await locker.execute("COMMIT")
    await changing


async def change_and_commit(tx: Connection, change: Change) -> None:
    try:
        await change(tx)
    except checkout.NotReserved:
        # The product was edited while the checkout waited for it: `checkout.checkout` tries again.
        await tx.execute("ROLLBACK; BEGIN")
        await change(tx)
    await tx.execute("COMMIT")
