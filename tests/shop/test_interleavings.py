"""Interleavings: every pair of operations on the same rows, the first stopped inside its transaction.

The first operation runs for real and pauses right after one of its statements, with its locks. The second starts and
either waits for the first, as PostgreSQL reports, or ends. Then the first goes on to its commit, or fails and rolls
back. No timing is involved. The answers and the final state of both must equal those of the two operations one after
the other, in one of the two orders. The test finds these out by running them so in a new scene of the same state.
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
from service.shop import cart, catalog, checkout, erasure, expiry, ownership, refunds, sweep, webhooks
from service.shop.audit import audit
from service.shop.principals import ADMIN, GUEST, Principal
from tests.client import eventually
from tests.conftest import WEBHOOK_SECRET, cloned, login, served
from tests.database import end_hold
from tests.stripe_events import last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
# Codes that ask a client to try again; the test does so once the other operation has ended.
RETRYABLE = {"busy", "checkout_in_progress"}
USER = Principal("user:anna", user_id="anna")
# The arguments of a refund of everything.
WHOLE: dict[str, Any] = {"amount_minor": None, "restock": False, "reason": None}


class Failure(Exception):
    """Ends an operation where it was stopped."""


# Stopping an operation


@dataclass
class StoppingPool:
    """The pool of one operation: records its statements in transactions, and stops after one of them.

    `stop` is (transaction, statement), both counted from 0. At the stop `stopped` is set, and the operation waits
    until `resume` is set. Then it goes on, or fails where `fails` is true.
    """

    pool: Pool
    stop: tuple[int, int] | None = None
    fails: bool = False
    transactions: list[list[str]] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    server_pid: int = 0

    @property
    def limiter(self) -> Limiter:
        return self.pool.limiter

    @property
    def transaction_limiter(self) -> Limiter:
        return self.pool.transaction_limiter

    def drop_if_unusable(self, connection: "Connection", error: BaseException) -> None:
        self.pool.drop_if_unusable(connection.connection, error)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["Connection"]:
        async with self.pool.acquire() as connection:
            yield Connection(self, connection)

    async def after_statement(self, connection: asyncpg.Connection, statement: str) -> None:
        """Record a statement that has run and has its locks; stop here if this is the place."""
        if not connection.is_in_transaction():
            return
        self.transactions[-1].append(statement.split("'")[1])
        if self.stop == (len(self.transactions) - 1, len(self.transactions[-1]) - 1):
            self.server_pid = connection.get_server_pid()
            self.stopped.set()
            await self.resume.wait()
            if self.fails:
                raise Failure

    def last_statements(self) -> list[tuple[int, int]]:
        """The last statement of each transaction, when all its locks are taken."""
        return [(number, len(names) - 1) for number, names in enumerate(self.transactions) if names]

    def stops(self) -> list[tuple[int, int]]:
        """The last statement of each transaction, and the first statement of the first one."""
        last = self.last_statements()
        return sorted({(number, 0) for number, _ in last[:1]} | set(last))


class Connection:
    """A connection that tells its pool of each statement; it has the methods that the service uses."""

    def __init__(self, pool: StoppingPool, connection: asyncpg.Connection) -> None:
        self.pool = pool
        self.connection = connection

    def is_closed(self) -> bool:
        return bool(self.connection.is_closed())

    def is_in_transaction(self) -> bool:
        return bool(self.connection.is_in_transaction())

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        row = await self.connection.fetchrow(statement, *args)
        await self.pool.after_statement(self.connection, statement)
        return row

    async def fetch(self, statement: str, *args: Any) -> Any:
        rows = await self.connection.fetch(statement, *args)
        await self.pool.after_statement(self.connection, statement)
        return rows

    async def execute(self, statement: str, *args: Any) -> Any:
        status = await self.connection.execute(statement, *args)
        if statement == "BEGIN":
            self.pool.transactions.append([])
        else:
            await self.pool.after_statement(self.connection, statement)
        return status


# The operations


@dataclass
class Scene:
    """The rows that two operations share: a tent with one unit, two carts with it, and the order of one of them."""

    tent: int
    mug: int
    cart: UUID
    rival: UUID
    # The order to expire, cancel or refund, and the event of its payment.
    order: UUID | None = None
    payment: dict[str, Any] | None = None
    # The event of a late payment, for an order that is cancelled.
    late_payment: dict[str, Any] | None = None


async def check_out(resources: Resources, scene: Scene) -> str:
    return str((await checkout.checkout(resources, None, GUEST, scene.cart)).status)


async def check_out_rival(resources: Resources, scene: Scene) -> str:
    """Check out another cart with the same tent, at the price that the customer saw."""
    return str((await checkout.checkout(resources, None, GUEST, scene.rival, expected_total_minor=1250)).status)


async def receive(resources: Resources, event: dict[str, Any] | None) -> str:
    body = orjson.dumps(event)
    return await webhooks.receive_webhook(resources, body, signature(body, WEBHOOK_SECRET, int(time.time())))


async def pay(resources: Resources, scene: Scene) -> str:
    return await receive(resources, scene.payment)


async def pay_late(resources: Resources, scene: Scene) -> str:
    return await receive(resources, scene.late_payment)


async def expire(resources: Resources, scene: Scene) -> str:
    assert scene.order
    await expiry.expire(resources, scene.order)
    return "done"


async def cancel(resources: Resources, scene: Scene) -> str:
    assert scene.order
    return str((await expiry.cancel(resources, None, GUEST, scene.order)).status)


async def refund(resources: Resources, scene: Scene) -> str:
    assert scene.order
    return str(
        (
            await refunds.refund(resources, None, ADMIN, scene.order, amount_minor=None, restock=False, reason=None)
        ).status
    )


async def refund_line(resources: Resources, scene: Scene) -> str:
    assert scene.order
    items = [refunds.RefundLine(scene.tent, 1, restock=True)]
    response = await refunds.refund(
        resources, None, ADMIN, scene.order, amount_minor=None, restock=False, reason=None, items=items
    )
    return str(response.status)


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
    return str((await cart.add_item(resources, None, GUEST, scene.cart, product_id=scene.mug, quantity=1)).status)


async def claim(resources: Resources, scene: Scene) -> str:
    """Claim the cart for a user without a verified address: refused once the order is paid."""
    return str((await ownership.claim_cart(resources, None, USER, scene.cart)).status)


async def erase(resources: Resources, scene: Scene) -> str:
    assert scene.order
    try:
        await erasure.erase(resources.pool, scene.order)
    except erasure.Pending:
        return "pending"
    return "done"


# How both operations ended, and the state that they left.
Result = tuple[list[str], dict[str, Any]]
Run = Callable[[Resources, Scene], Awaitable[str]]

# By name: the function to run, and how it may end when it does not fail. A guest's end with `not_found` after a claim.
OPERATIONS: dict[str, tuple[Run, set[str]]] = {
    "checkout": (check_out, {"201", "200", "insufficient_stock", "cart_not_open", "checkout_in_progress", "not_found"}),
    "rival": (check_out_rival, {"201", "200", "insufficient_stock", "price_changed", "checkout_in_progress"}),
    # Checkout of an order whose first checkout was cut off before it knew its session.
    "resume": (check_out, {"201", "200", "insufficient_stock", "cart_not_open", "checkout_in_progress", "not_found"}),
    "pay": (pay, {"applied", "unchanged", "duplicate"}),
    # The event of a payment that is already stored and, after a failure, not applied.
    "duplicate": (pay, {"applied", "unchanged", "duplicate"}),
    "late": (pay_late, {"applied", "unchanged", "duplicate", "late_money_refunded"}),
    "expire": (expire, {"done", "checkout_in_progress"}),
    "cancel": (cancel, {"200", "order_not_cancellable", "checkout_in_progress", "not_found"}),
    "refund": (refund, {"200", "order_not_refundable"}),
    "refund_line": (refund_line, {"200", "order_not_refundable"}),
    # Make a requested refund at Stripe, which cancels its order.
    "settle": (settle, {"done"}),
    "stock": (move_stock, {"200", "insufficient_stock"}),
    "price": (change_price, {"done"}),
    # Only this one may be `busy`: it explains a refusal after the fact, when the reason may have changed.
    "edit": (edit_cart, {"200", "cart_not_open", "busy", "not_found"}),
    "erase": (erase, {"done", "pending"}),
    "claim": (claim, {"200", "forbidden", "not_found"}),
}


# The operations that do not run in the API, and the roles of their processes.
ROLES = {"expire": "worker", "settle": "worker", "erase": "eraser"}

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
# Everything that operations may change, of the products, carts and events in $1, without ids and times.
STATE = {
    "products": """
        SELECT stock, price_minor, version,
            ARRAY(SELECT concat_ws(' ', delta, reason, hold) FROM stock_movements
                WHERE product_id = products.id ORDER BY 1)
        FROM products WHERE id = ANY($1::bigint[]) ORDER BY id""",
    "carts": """
        SELECT status, currency, user_id,
            ARRAY(SELECT quantity FROM cart_items WHERE cart_id = carts.id ORDER BY product_id),
            ARRAY(SELECT quantity FROM cart_items WHERE cart_id = carts.replaced_by ORDER BY product_id)
        FROM carts WHERE id = ANY($1::uuid[]) ORDER BY array_position($1, id)""",
    "orders": """
        SELECT array_position($1, orders.cart_id), orders.status, hold, total_minor, payments.status, attempt,
            refunded_minor, checkout_url IS NULL, stripe_session_id IS NULL, stripe_payment_intent_id IS NULL,
            email, erased_at IS NULL, user_id, claimed,
            ARRAY(SELECT quantity * unit_price_minor FROM order_items WHERE order_id = orders.id ORDER BY product_id),
            ARRAY(SELECT concat_ws(' ', cause, amount_minor, status, quantity) FROM refunds
                LEFT JOIN refund_items ON id = refund_id WHERE order_id = orders.id ORDER BY 1),
            ARRAY(SELECT concat_ws(' ', from_status, to_status, regexp_replace(note, 'product [0-9]+', 'product'))
                FROM order_events
                WHERE order_id = orders.id ORDER BY order_events.id)
        FROM orders JOIN payments ON order_id = orders.id
        WHERE cart_id = ANY($1::uuid[]) ORDER BY 1, number""",
    "events": """
        SELECT outcome, handled_at IS NULL, payload #>> '{data,object,customer_details,email}' FROM stripe_events
        WHERE id = ANY($1::text[]) ORDER BY array_position($1, id)""",
}
IS_BLOCKED = "SELECT count(*) > 0 FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"


class Stage:
    """Makes scenes in one database, runs two operations in each, and reads the state that they leave."""

    def __init__(
        self, first: str, roles: dict[str, Resources], stripe: StripeStandin, database: asyncpg.Connection
    ) -> None:
        self.first = first
        self.roles = roles
        self.resources = roles["app"]
        self.worker = roles["worker"]
        self.stripe = stripe
        self.database = database
        self.scenes: list[Scene] = []

    # The state before

    async def place_order(self, cart_id: UUID, cut_off: bool = False) -> tuple[UUID, str]:
        """Check a cart out; the order and its session. Where `cut_off`, our side does not know the session."""
        if cut_off:
            self.stripe.set_faults([{"method": "POST", "path": "/v1/checkout/session[s]", "action": "drop_after"}])
            with pytest.raises(ShopError):
                await checkout.checkout(self.resources, None, GUEST, cart_id)
            self.stripe.set_faults([])
        else:
            await checkout.checkout(self.resources, None, GUEST, cart_id)
        order_id = await self.database.fetchval(
            "SELECT id FROM orders WHERE cart_id = $1 ORDER BY number DESC LIMIT 1", cart_id
        )
        sessions = (s["id"] for s in self.stripe.sessions if s["metadata"]["order_id"] == str(order_id))
        return order_id, next(sessions)

    def pay_session(self, session_id: str) -> dict[str, Any]:
        """Pay at Stripe; the event of the payment, which is not delivered."""
        self.stripe.pay(session_id)
        return last_event(self.stripe, COMPLETED, session_id)

    async def make_scene(self, *operations: str) -> Scene:
        """A new scene in the state in which these operations conflict."""
        scene = Scene(*await self.database.fetchrow(MAKE_SCENE))
        self.scenes.append(scene)
        names = set(operations)
        if "late" in names:
            scene.order, session_id = await self.place_order(scene.cart)
            await expiry.cancel(self.resources, None, GUEST, scene.order)
            # As if Stripe had accepted the payment just before the cancel.
            self.stripe.session(session_id)["status"] = "open"
            scene.late_payment = self.pay_session(session_id)
        pending = names & {"resume", "pay", "duplicate", "expire", "cancel"}
        if pending or "settle" in names or (names & {"refund", "refund_line", "erase"} and "late" not in names):
            scene.order, session_id = await self.place_order(scene.cart, cut_off="resume" in names)
            if names & {"pay", "duplicate", "refund", "refund_line", "settle"} or ("erase" in names and not pending):
                scene.payment = self.pay_session(session_id)
            if "settle" in names or (scene.payment and not pending):
                await receive(self.resources, make_event(COMPLETED, self.stripe.session(session_id)))
            if "settle" in names:
                await refunds.refund(
                    self.resources, None, ADMIN, scene.order, amount_minor=None, restock=False, reason=None
                )
            if "expire" in names:
                await end_hold(self.database, str(scene.order))
        if "duplicate" in names:
            assert scene.payment
            event = scene.payment
            await webhooks.store_event(self.resources, event)
        return scene

    # The state after

    async def read_state(self, scene: Scene) -> dict[str, Any]:
        carts = [scene.cart, scene.rival]
        events = [event["id"] for event in (scene.payment, scene.late_payment) if event]
        keys = {"products": [scene.tent, scene.mug], "carts": carts, "orders": carts, "events": events}
        tables: dict[str, Any] = {
            name: [tuple(row) for row in await self.database.fetch(query, keys[name])] for name, query in STATE.items()
        }
        assert all(stock >= 0 for stock, *_ in tables["products"]), "sold more than there was"
        orders = await self.database.fetchval("SELECT array_agg(id::text) FROM orders WHERE cart_id = ANY($1)", carts)
        own = [session for session in self.stripe.sessions if session["metadata"]["order_id"] in (orders or ())]
        return {**tables, "sessions": sorted((session["status"], session["payment_status"]) for session in own)}

    # The two operations

    def resources_of(self, name: str) -> Resources:
        """The resources of the process that runs an operation: the API, the worker or the command."""
        return self.roles[ROLES.get(name, "app")]

    async def run_operation(self, name: str, scene: Scene, pool: Any = None) -> str:
        """Run an operation on this pool; how it ended."""
        run, allowed = OPERATIONS[name]
        resources = self.resources_of(name)
        try:
            end = await run(replace(resources, pool=pool or resources.pool), scene)
        except ShopError as error:
            # The names of the problem's members show that the friendly check refused it, not a constraint.
            end = " ".join([error.code, *sorted(error.extra)])
        except Failure:
            return "failed"
        assert end.split()[0] in allowed, (name, end)
        return end

    async def run_serially(self, names: tuple[str, str], first_pool: StoppingPool, swapped: bool = False) -> Result:
        """Run one operation after the other, the second first where `swapped`. The first of `names` has the pool."""
        scene = await self.make_scene(*names)
        first_pool.resume.set()
        runs = [(0, first_pool), (1, None)]
        ends = ["", ""]
        for number, pool in reversed(runs) if swapped else runs:
            ends[number] = await self.run_operation(names[number], scene, pool)
        return ends, await self.read_state(scene)

    async def run_interleaved(self, names: tuple[str, str], first_pool: StoppingPool) -> Result:
        """Stop the first operation, run the second until it waits or ends, and resume the first.

        An erasure takes fewer statements where Stripe's events come later; then the second follows the first.
        """
        scene = await self.make_scene(*names)
        first = asyncio.create_task(self.run_operation(names[0], scene, first_pool))
        stopped = asyncio.create_task(first_pool.stopped.wait())
        await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
        assert first_pool.stopped.is_set() or names[0] == "erase", "the first operation ended before its stop"

        second = asyncio.create_task(self.run_operation(names[1], scene))
        while not (second.done() or first.done()) and not await self.database.fetchval(
            IS_BLOCKED, first_pool.server_pid
        ):
            await asyncio.wait({second}, timeout=0.001)
        first_pool.resume.set()
        ends = list(await asyncio.gather(first, second))

        for number in (0, 1):
            if ends[number].split()[0] in RETRYABLE:
                ends[number] = await self.run_operation(names[number], scene)
        return ends, await self.read_state(scene)

    async def finish(self) -> None:
        """Deliver every event once more, sweep up what failed, and compare the ledgers."""
        for scene in self.scenes:
            for event in filter(None, (scene.payment, scene.late_payment)):
                await receive(self.resources, event)
        self.scenes.clear()
        await sweep.sweep(self.worker)
        await assert_ledgers_agree(self.worker, self.stripe)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=OPERATIONS)
async def stage(request: pytest.FixtureRequest, template: str, servers: tuple[str, str]) -> AsyncIterator[Stage]:
    """One stage for all pairs with the same first operation: making it takes longer than a pair."""
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
            roles = {
                role: await stack.enter_async_context(
                    open_resources(Settings.load({**environment, "DATABASE_URL": login(url, role)}), "commerce-tests")
                )
                for role in ("app", "worker", "eraser")
            }
            yield Stage(request.param, roles, stripe, database)
        # A connection reports its deadlocks when it ends.
        all_ended = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
        await eventually(lambda: database.fetchval(all_ended))
        deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        await database.close()
    assert deadlocks == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("second", OPERATIONS)
async def test_interleaved_operations_end_as_if_one_ran_after_the_other(stage: Stage, second: str) -> None:
    """Stop the first operation at each stop and let it go on; then stop it before each commit and let it fail."""
    names = stage.first, second
    pool = stage.resources_of(stage.first).pool
    recorded = StoppingPool(pool)
    first_then_second = await stage.run_serially(names, recorded)
    second_then_first = None

    for stop in recorded.stops():
        result = await stage.run_interleaved(names, StoppingPool(pool, stop))
        if result != first_then_second:
            # The second operation came first where it had nothing to wait for.
            second_then_first = second_then_first or await stage.run_serially(names, StoppingPool(pool), swapped=True)
            assert result == second_then_first, (first_then_second, recorded.transactions, stop)
        assert not any((await audit(stage.worker.pool)).values())

    for stop in recorded.last_statements():
        result = await stage.run_interleaved(names, StoppingPool(pool, stop, fails=True))
        expected = await stage.run_serially(names, StoppingPool(pool, stop, fails=True))
        if result != expected:
            swapped = await stage.run_serially(names, StoppingPool(pool, stop, fails=True), swapped=True)
            assert result == swapped, (expected, recorded.transactions, stop)
        assert not any((await audit(stage.worker.pool)).values())

    await stage.finish()
