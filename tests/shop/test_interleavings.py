"""Every two operations on the same rows, one of them stopped inside its transaction with its locks held.

The first really runs and stops right after one of its statements; the second really starts, and either waits for
the first, as PostgreSQL itself says, or ends. Then the first goes on to its commit, or fails there and rolls back.
Nothing depends on how fast anything is. What both answer and what they leave behind must be what one of the two
does before the other; that is found out by doing so, in the same state made anew.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
import pytest_asyncio

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.webhooks import signature
from service.errors import ShopError
from service.infra.db import Pool
from service.infra.limiters import Limiter
from service.infra.resources import Resources, open_resources
from service.settings import Settings
from service.shop import cart, catalog, checkout, expiry, refunds, sweep, webhooks
from service.shop.audit import audit
from tests.books import balance, emitted, event, hold_ends
from tests.client import eventually
from tests.conftest import WEBHOOK_SECRET, cloned, login, served

COMPLETED = "checkout.session.completed"
# Tells a client to ask again; so it does, once the other has ended.
COME_BACK = {"busy", "checkout_in_progress"}


class Broken(Exception):
    """What ends an operation where it was stopped."""


# An operation stopped on its way


@dataclass
class Watched:
    """The pool as one operation has it: notes its statements in transactions, and stops after one of them.

    `stop` is (transaction, statement), both counted from 0. Stopped, it is `there` until told to `go`.
    """

    pool: Pool
    stop: tuple[int, int] | None = None
    breaks: bool = False
    transactions: list[list[str]] = field(default_factory=list)
    there: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    server_pid: int = 0
    waited_for: bool = False

    @property
    def turns(self) -> Limiter:
        return self.pool.turns

    @property
    def writers(self) -> Limiter:
        return self.pool.writers

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["Connection"]:
        async with self.pool.acquire() as connection:
            yield Connection(self, connection)

    async def ran(self, connection: asyncpg.Connection, statement: str) -> None:
        """A statement has run, and what it locked is locked."""
        if not connection.is_in_transaction():
            return
        self.transactions[-1].append(statement.split("'")[1])
        if self.stop == (len(self.transactions) - 1, len(self.transactions[-1]) - 1):
            self.server_pid = connection.get_server_pid()
            self.there.set()
            await self.go.wait()
            if self.breaks:
                raise Broken

    def commits(self) -> list[tuple[int, int]]:
        """The last statement of each transaction."""
        return [(number, len(names) - 1) for number, names in enumerate(self.transactions) if names]

    def stops(self) -> list[tuple[int, int]]:
        """Those, and the very first statement: with its locks, and with all of them."""
        commits = self.commits()
        return sorted({(number, 0) for number, _ in commits[:1]} | set(commits))


class Connection:
    """A connection that its pool watches; the methods that the service uses."""

    def __init__(self, watched: Watched, connection: asyncpg.Connection) -> None:
        self.watched = watched
        self.connection = connection

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        found = await self.connection.fetchrow(statement, *args)
        await self.watched.ran(self.connection, statement)
        return found

    async def fetch(self, statement: str, *args: Any) -> Any:
        found = await self.connection.fetch(statement, *args)
        await self.watched.ran(self.connection, statement)
        return found

    async def execute(self, statement: str, *args: Any) -> Any:
        status = await self.connection.execute(statement, *args)
        if statement == "BEGIN":
            self.watched.transactions.append([])
        else:
            await self.watched.ran(self.connection, statement)
        return status


# The operations


@dataclass
class Scene:
    """What two operations meet at: a tent of which there is one, the cart it is in, and what became of that."""

    tent: int
    mug: int
    cart: UUID
    rival: UUID
    # The order to expire, cancel or refund, and the event that pays it.
    order: UUID | None = None
    paid: dict[str, Any] | None = None
    # The event that pays an order that was cancelled before.
    late: dict[str, Any] | None = None


async def check_out(resources: Resources, scene: Scene) -> str:
    return str((await checkout.checkout(resources, None, scene.cart, None)).status)


async def check_out_rival(resources: Resources, scene: Scene) -> str:
    """Another cart with the same tent, at the price that was shown."""
    return str((await checkout.checkout(resources, None, scene.rival, 1250)).status)


async def receive(resources: Resources, sent: dict[str, Any] | None) -> str:
    body = orjson.dumps(sent)
    return await webhooks.receive_webhook(resources, body, signature(body, WEBHOOK_SECRET, int(time.time())))


async def pay(resources: Resources, scene: Scene) -> str:
    return await receive(resources, scene.paid)


async def pay_late(resources: Resources, scene: Scene) -> str:
    return await receive(resources, scene.late)


async def expire(resources: Resources, scene: Scene) -> str:
    assert scene.order
    await expiry.expire(resources, scene.order)
    return "done"


async def cancel(resources: Resources, scene: Scene) -> str:
    assert scene.order
    return str((await expiry.cancel(resources, None, scene.order)).status)


async def refund(resources: Resources, scene: Scene) -> str:
    assert scene.order
    return str((await refunds.refund(resources, None, scene.order, amount_minor=None, restock=False)).status)


async def settle(resources: Resources, scene: Scene) -> str:
    assert scene.order
    await refunds.settle(resources, scene.order)
    return "done"


async def move_stock(resources: Resources, scene: Scene) -> str:
    return str((await catalog.move_stock(resources, None, scene.tent, delta=-1, reason="broken")).status)


async def change_price(resources: Resources, scene: Scene) -> str:
    await catalog.update_product(resources, scene.tent, None, catalog.ProductChange(price_minor=1300))
    return "done"


async def edit_cart(resources: Resources, scene: Scene) -> str:
    return str((await cart.add_item(resources, None, scene.cart, product_id=scene.mug, quantity=1)).status)


Ended = tuple[list[str], dict[str, Any]]
Run = Callable[[Resources, Scene], Awaitable[str]]

# By name: what it runs, and how it may end when nothing breaks it.
OPERATIONS: dict[str, tuple[Run, set[str]]] = {
    "checkout": (check_out, {"201", "200", "insufficient_stock", "cart_not_open", "checkout_in_progress"}),
    "rival": (check_out_rival, {"201", "200", "insufficient_stock", "price_changed", "checkout_in_progress"}),
    # Checkout again, after it was cut off before it knew its session.
    "resume": (check_out, {"201", "200", "insufficient_stock", "cart_not_open", "checkout_in_progress"}),
    "pay": (pay, {"applied", "unchanged", "duplicate"}),
    # The same event while it is stored but not applied, as a failure leaves it.
    "duplicate": (pay, {"applied", "unchanged", "duplicate"}),
    "late": (pay_late, {"applied", "unchanged", "duplicate", "late_money_refunded"}),
    "expire": (expire, {"done", "checkout_in_progress"}),
    "cancel": (cancel, {"200", "order_not_cancellable", "checkout_in_progress"}),
    "refund": (refund, {"200", "order_not_refundable"}),
    # A refund is taken to Stripe, which ends its order.
    "settle": (settle, {"done"}),
    "stock": (move_stock, {"200", "insufficient_stock"}),
    "price": (change_price, {"done"}),
    # The only one that may be `busy`: locks make the others wait. Its reason for a refusal may be gone when looked up.
    "edit": (edit_cart, {"200", "cart_not_open", "busy"}),
}


# Those that the worker runs.
JOBS = {"expire", "settle"}

MAKE_SCENE = """
WITH product AS (
    INSERT INTO products (name, price_minor, currency, stock)
    VALUES ('Tent', 1250, 'EUR', 1), ('Mug', 300, 'EUR', 10) RETURNING id, name, stock
), movement AS (
    INSERT INTO stock_movements (product_id, delta, reason) SELECT id, stock, 'initial stock' FROM product
), cart AS (
    INSERT INTO carts (id, currency) VALUES (gen_random_uuid(), 'EUR'), (gen_random_uuid(), 'EUR') RETURNING id
), line AS (
    INSERT INTO cart_items (cart_id, product_id, quantity)
    SELECT cart.id, product.id, 1 FROM cart, product WHERE name = 'Tent'
)
SELECT min(product.id), max(product.id), min(cart.id::text)::uuid, max(cart.id::text)::uuid FROM product, cart"""
# All that operations may change, of the products, carts and events in $1, without what differs each time.
STATE = {
    "products": """
        SELECT stock, price_minor, version,
            ARRAY(SELECT concat_ws(' ', delta, reason, hold) FROM stock_movements
                WHERE product_id = products.id ORDER BY 1)
        FROM products WHERE id = ANY($1::bigint[]) ORDER BY id""",
    "carts": """
        SELECT status, ARRAY(SELECT quantity FROM cart_items WHERE cart_id = carts.id ORDER BY product_id)
        FROM carts WHERE id = ANY($1::uuid[]) ORDER BY array_position($1, id)""",
    "orders": """
        SELECT array_position($1, orders.cart_id), orders.status, hold, total_minor, payments.status, attempt,
            refunded_minor, checkout_url IS NULL, stripe_session_id IS NULL, stripe_payment_intent_id IS NULL,
            ARRAY(SELECT quantity * unit_price_minor FROM order_items WHERE order_id = orders.id ORDER BY product_id),
            ARRAY(SELECT concat_ws(' ', cause, amount_minor, status) FROM refunds
                WHERE order_id = orders.id ORDER BY 1),
            ARRAY(SELECT concat_ws(' ', from_status, to_status, note) FROM order_events
                WHERE order_id = orders.id ORDER BY order_events.id)
        FROM orders JOIN payments ON order_id = orders.id
        WHERE cart_id = ANY($1::uuid[]) ORDER BY 1, number""",
    "events": """
        SELECT outcome, handled_at IS NULL FROM stripe_events
        WHERE id = ANY($1::text[]) ORDER BY array_position($1, id)""",
}
IS_BLOCKED = "SELECT count(*) > 0 FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"


class Stage:
    """Makes scenes in one database, plays two operations in them, and tells what came of it."""

    def __init__(
        self, first: str, resources: Resources, worker: Resources, stripe: StripeStandin, database: asyncpg.Connection
    ) -> None:
        self.first = first
        self.resources = resources
        self.worker = worker
        self.stripe = stripe
        self.database = database
        self.scenes: list[Scene] = []

    # The state before

    async def place(self, cart_id: UUID, cut_off: bool = False) -> tuple[UUID, str]:
        """Check a cart out: the order and its session, which our side does not know where it was cut off."""
        if cut_off:
            self.stripe.set_faults([{"method": "POST", "path": "/v1/checkout/session[s]", "action": "drop_after"}])
            with pytest.raises(ShopError):
                await checkout.checkout(self.resources, None, cart_id, None)
            self.stripe.set_faults([])
        else:
            await checkout.checkout(self.resources, None, cart_id, None)
        order_id = await self.database.fetchval(
            "SELECT id FROM orders WHERE cart_id = $1 ORDER BY number DESC LIMIT 1", cart_id
        )
        sessions = (s["id"] for s in self.stripe.sessions if s["metadata"]["order_id"] == str(order_id))
        return order_id, next(sessions)

    def customer_pays(self, session_id: str) -> dict[str, Any]:
        self.stripe.pay(session_id)
        return emitted(self.stripe, COMPLETED, session_id)

    async def scene(self, *names: str) -> Scene:
        """The state that these operations are interesting in."""
        scene = Scene(*await self.database.fetchrow(MAKE_SCENE))
        self.scenes.append(scene)
        does = set(names)
        if "late" in does:
            scene.order, session_id = await self.place(scene.cart)
            await expiry.cancel(self.resources, None, scene.order)
            # Stripe had promised this money already.
            self.stripe.session(session_id)["status"] = "open"
            scene.late = self.customer_pays(session_id)
        pending = does & {"resume", "pay", "duplicate", "expire", "cancel"}
        if pending or "settle" in does or ("refund" in does and "late" not in does):
            scene.order, session_id = await self.place(scene.cart, cut_off="resume" in does)
            if does & {"pay", "duplicate", "refund", "settle"}:
                scene.paid = self.customer_pays(session_id)
            if "settle" in does or (scene.paid and not pending):
                await receive(self.resources, event(COMPLETED, self.stripe.session(session_id)))
            if "settle" in does:
                await refunds.refund(self.resources, None, scene.order, amount_minor=None, restock=False)
            if "expire" in does:
                await hold_ends(self.database, str(scene.order))
        if "duplicate" in does:
            assert scene.paid
            sent = scene.paid
            await webhooks.STORE_EVENT.run(
                self.resources.pool, event_id=sent["id"], event_type=sent["type"], payload=sent
            )
        return scene

    # The state after

    async def state(self, scene: Scene) -> dict[str, Any]:
        carts = [scene.cart, scene.rival]
        events = [sent["id"] for sent in (scene.paid, scene.late) if sent]
        about = {"products": [scene.tent, scene.mug], "carts": carts, "orders": carts, "events": events}
        found: dict[str, Any] = {
            name: [tuple(row) for row in await self.database.fetch(query, about[name])] for name, query in STATE.items()
        }
        assert all(stock >= 0 for stock, *_ in found["products"]), "sold more than there was"
        orders = await self.database.fetchval("SELECT array_agg(id::text) FROM orders WHERE cart_id = ANY($1)", carts)
        own = [session for session in self.stripe.sessions if session["metadata"]["order_id"] in (orders or ())]
        return {**found, "sessions": sorted((session["status"], session["payment_status"]) for session in own)}

    # The two operations

    def resources_of(self, name: str) -> Resources:
        """The resources of the process that an operation is one of: the worker's or the API's."""
        return self.worker if name in JOBS else self.resources

    async def outcome(self, name: str, scene: Scene, pool: Any = None) -> str:
        """How an operation ends, on this pool."""
        run, allowed = OPERATIONS[name]
        resources = self.resources_of(name)
        try:
            ended = await run(replace(resources, pool=pool or resources.pool), scene)
        except ShopError as error:
            # With the names of what a program is told beside the code, which a mere constraint cannot tell.
            ended = " ".join([error.code, *sorted(error.extra)])
        except Broken:
            return "broken"
        assert ended.split()[0] in allowed, (name, ended)
        return ended

    async def serial(self, names: tuple[str, str], watched: Watched, swapped: bool = False) -> Ended:
        """One after the other; the first of `names` is the watched one, whichever is run first."""
        scene = await self.scene(*names)
        watched.go.set()
        runs = [(0, watched), (1, None)]
        ended = ["", ""]
        for number, pool in reversed(runs) if swapped else runs:
            ended[number] = await self.outcome(names[number], scene, pool)
        return ended, await self.state(scene)

    async def interleaved(self, names: tuple[str, str], watched: Watched) -> Ended:
        """The first stops, the second starts and waits or ends, the first goes on."""
        scene = await self.scene(*names)
        first = asyncio.create_task(self.outcome(names[0], scene, watched))
        there = asyncio.create_task(watched.there.wait())
        await asyncio.wait({first, there}, return_when=asyncio.FIRST_COMPLETED)
        assert watched.there.is_set(), "it ended before it came there"
        second = asyncio.create_task(self.outcome(names[1], scene))
        while not second.done() and not await self.database.fetchval(IS_BLOCKED, watched.server_pid):
            await asyncio.wait({second}, timeout=0.001)
        watched.waited_for = not second.done()
        watched.go.set()
        ended = list(await asyncio.gather(first, second))
        for number in (0, 1):
            if ended[number].split()[0] in COME_BACK:
                ended[number] = await self.outcome(names[number], scene)
        return ended, await self.state(scene)

    async def finish(self) -> None:
        """Stripe sends again what was not answered, the sweep ends what was broken off, and all books balance."""
        for scene in self.scenes:
            for sent in filter(None, (scene.paid, scene.late)):
                await receive(self.resources, sent)
        self.scenes.clear()
        await sweep.sweep(self.worker)
        await balance(self.worker, self.stripe)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=OPERATIONS)
async def stage(request: pytest.FixtureRequest, template: str, servers: tuple[str, str]) -> AsyncIterator[Stage]:
    """One for all pairs that begin with the same operation: most of a pair's time would go into making it."""
    stripe = StripeStandin(webhook_secret=WEBHOOK_SECRET)
    async with cloned(template) as url:
        database = await asyncpg.connect(url)
        async with served(stripe.app) as api_base, AsyncExitStack() as stack:
            environment = {
                "REDIS_URL": servers[1],
                "STRIPE_API_KEY": "sk_test_tests",
                "STRIPE_API_BASE": api_base,
                "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            }
            resources, worker = [
                await stack.enter_async_context(
                    open_resources(Settings.load({**environment, "DATABASE_URL": login(url, role)}), "commerce-tests")
                )
                for role in ("app", "worker")
            ]
            yield Stage(request.param, resources, worker, stripe, database)
        # The connections have ended, which is when they tell what they met.
        ended = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
        await eventually(lambda: database.fetchval(ended))
        deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        await database.close()
    assert deadlocks == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("second", OPERATIONS)
async def test_one_stopped_on_its_way_and_another(stage: Stage, second: str) -> None:
    names = stage.first, second
    pool = stage.resources_of(stage.first).pool
    alone = Watched(pool)
    in_turn = await stage.serial(names, alone)
    other_way = None
    for stop in alone.stops():
        watched = Watched(pool, stop)
        found = await stage.interleaved(names, watched)
        if found != in_turn:
            # The second was first where it had nothing to wait for.
            other_way = other_way or await stage.serial(names, Watched(pool), swapped=True)
            assert found == other_way, (in_turn, alone.transactions, stop)
        assert not any((await audit(pool)).values())
    for stop in alone.commits():
        found = await stage.interleaved(names, Watched(pool, stop, breaks=True))
        expected = await stage.serial(names, Watched(pool, stop, breaks=True))
        if found != expected:
            swapped = await stage.serial(names, Watched(pool, stop, breaks=True), swapped=True)
            assert found == swapped, (expected, alone.transactions, stop)
        assert not any((await audit(pool)).values())
    await stage.finish()
