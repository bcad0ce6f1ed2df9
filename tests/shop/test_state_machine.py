"""A state machine over the running service: in any sequence of steps, our tables and Stripe's ledger agree.

Hypothesis chooses sequences of steps by customers, staff, Stripe, faults, crashes and the clock. After each step
`check_tables` compares the tables; at the end of a sequence `settle_everything` lets all of it finish and compares
the ledgers. A failure is reported as the shortest sequence of steps that shows it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial, wraps
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.resources import Resources, open_resources
from service.infra.stripe import StripeRefused, StripeUnknown
from service.settings import Settings
from service.shop import checkout, expiry, fulfilment, reconcile, refunds, sweep
from service.shop.audit import audit
from service.shop.principals import GUEST
from tests.client import Shop, eventually
from tests.conftest import WEBHOOK_SECRET, cloned, login, served
from tests.database import end_hold, make_everything_due
from tests.queries import on
from tests.stripe_ledger import assert_ledgers_agree

T = TypeVar("T")

# The same examples in every run, as many as `make test` has time for. To search for more, raise `max_examples` to
# some thousands and set `derandomize` to False.
EFFORT = settings(
    max_examples=25,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)

FAULTS: list[dict[str, Any]] = [
    {"action": "drop"},
    {"action": "drop_after"},
    {"action": "malformed"},
    {"action": "status", "status": 429},
    {"action": "status", "status": 500},
    {"action": "status", "status": 500, "stored": True},
    {"action": "status_after", "status": 500},
]
CALLS: list[dict[str, Any]] = [
    {"method": "*", "path": "/v1/"},
    {"method": "POST", "path": "/v1/checkout/session[s]"},
    {"method": "POST", "path": "/v1/checkout/sessions/*/expire"},
    {"method": "GET", "path": "/v1/checkout/sessions"},
    {"method": "POST", "path": "/v1/refunds"},
    {"method": "GET", "path": "/v1/refunds"},
]

# The position in a list; the newest entry is 0.
positions = st.integers(0, 5)
quantities = st.integers(0, 3)
idempotency_keys = st.sampled_from([None, "one", "two"])
# The status of the refunds that Stripe makes from then on.
refund_statuses = st.sampled_from(["succeeded", "pending"])

COUNT_UNFINISHED = """
SELECT
    (SELECT count(*) FROM orders JOIN payments ON orders.id = order_id
     WHERE orders.status = 'PENDING_PAYMENT' OR (orders.status, payments.status) = ('PAID', 'SUCCEEDED')
     OR payments.status = 'REFUND_PENDING')
    + (SELECT count(*) FROM refunds WHERE status IN ('REQUESTED', 'PENDING'))
    + (SELECT count(*) FROM stripe_events WHERE handled_at IS NULL)
"""


class CancelledAtWait:
    """Awaits a coroutine and cancels the task where it waits for the nth time, counted from 0."""

    def __init__(self, work: Coroutine[Any, Any, object], nth: int) -> None:
        self.work = work
        self.nth = nth

    def __await__(self) -> Generator[Any, None, None]:
        steps, error = self.work.__await__(), None
        while True:
            try:
                future = steps.throw(error) if error else steps.send(None)
            except StopIteration:
                return
            if self.nth == 0 and (task := asyncio.current_task()):
                task.cancel()
            self.nth -= 1
            error = None
            try:
                yield future
            except BaseException as raised:
                error = raised


def step(when: Callable[["ShopMachine"], object] = lambda _: True, **strategies: st.SearchStrategy[Any]) -> Any:
    """Make a rule of an async method: run it in the machine's loop where `when` is true, then check the tables."""

    def make_rule(method: Callable[..., Awaitable[None]]) -> Any:
        @wraps(method)
        def run(self: "ShopMachine", **arguments: Any) -> None:
            self.run(self.run_and_check(method(self, **arguments)))

        return rule(**strategies)(precondition(when)(run))

    return make_rule


class ShopMachine(RuleBasedStateMachine):
    """A shop with two products, its Stripe account, and everything that may happen to them."""

    def __init__(
        self, runner: asyncio.Runner, closing: list[asyncio.Task[None]], template: str, redis_url: str
    ) -> None:
        super().__init__()
        self.runner = runner
        self.closing = closing
        self.stack = AsyncExitStack()
        self.failed = False
        # Whether Stripe may fail calls now, and whether several actions run concurrently.
        self.faulty = self.concurrent = False
        self.products: list[int] = []
        self.carts: list[str] = []
        self.orders: Sequence[asyncpg.Record] = []
        # The answer of a checkout with a key, by cart and key.
        self.answers: dict[tuple[str, str], bytes] = {}
        self.run(self.open(template, redis_url))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self.runner.run(work)
        except BaseException:
            self.failed = True
            raise

    async def open(self, template: str, redis_url: str) -> None:
        database_url = await self.stack.enter_async_context(cloned(template))
        self.stripe = StripeStandin(webhook_secret=WEBHOOK_SECRET)
        url = await self.stack.enter_async_context(served(self.stripe.app))
        api_settings = Settings.load(
            {
                "DATABASE_URL": login(database_url, "app"),
                "REDIS_URL": redis_url,
                "STRIPE_API_KEY": "sk_test_tests",
                "STRIPE_API_BASE": url,
                "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
                "MAX_PENDING_PER_CLIENT": "0",
                "STRIPE_TIMEOUT_SECONDS": "5",
            }
        )
        shop_url = await self.stack.enter_async_context(served(create_app(api_settings)))
        self.stripe.webhook_url = f"{shop_url}/webhooks/stripe"
        self.shop = await self.stack.enter_async_context(Shop(shop_url))
        self.api_resources = await self.stack.enter_async_context(open_resources(api_settings, "commerce-tests"))
        worker_settings = api_settings.model_copy(update={"database_url": login(database_url, "worker")})
        self.resources = await self.stack.enter_async_context(open_resources(worker_settings, "commerce-tests"))
        self.database = await asyncpg.connect(database_url)
        self.stack.push_async_callback(self.database.close)

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.run(self.settle_everything())
        finally:
            # The next example does not wait for the servers of this one to stop.
            self.closing.append(self.runner.get_loop().create_task(self.stack.aclose()))

    # Checks

    async def run_and_check(self, work: Awaitable[None]) -> None:
        await work
        await self.wait_for_webhooks()
        await self.check_tables()

    async def check_tables(self) -> None:
        """Read the orders again. No cancelled order can be paid, no stock is negative, and the audit is clean."""
        self.orders = await self.database.fetch(
            "SELECT o.id::text, o.cart_id::text, o.status, p.status AS payment"
            " FROM orders o JOIN payments p ON o.id = p.order_id ORDER BY o.number DESC"
        )
        cancelled = {order["id"] for order in self.orders if order["status"] == "CANCELLED"}
        assert not any(session["metadata"]["order_id"] in cancelled for session in self.open_sessions())
        assert await self.database.fetchval("SELECT min(stock) FROM products") >= 0
        violations = await audit(self.resources.pool)
        # Steps move the time, and only some of them sweep.
        violations.pop("audit/nothing_is_overdue")
        assert not any(violations.values()), violations

    async def wait_for_webhooks(self) -> None:
        """Wait until Stripe has delivered its webhooks, unless they are paused."""

        async def all_delivered() -> bool:
            return not any(event["pending_webhooks"] for event in self.stripe.events)

        if not self.stripe.set_webhooks().paused:
            await eventually(all_delivered)

    async def settle_everything(self) -> None:
        """End all faults, holds and pending payments, finish everything, and compare the ledgers."""
        self.stripe.set_faults([])
        self.stripe.set_webhooks(paused=False)
        self.stripe.refund_status = "succeeded"
        for refund in self.stripe.refunds:
            if refund["status"] == "pending":
                self.stripe.set_refund(refund["id"], "succeeded")
        for position, session in enumerate(self.processing_sessions()):
            self.stripe.settle(session["id"], succeed=position % 2 == 0)
        for _ in range(10):
            await self.wait_for_webhooks()
            await self.database.execute("UPDATE payments SET claimed_until = NULL WHERE claimed_until IS NOT NULL")
            for order_id in await self.database.fetch("SELECT id::text FROM orders WHERE status = 'PENDING_PAYMENT'"):
                await end_hold(self.database, order_id[0])
            await make_everything_due(self.database)
            await sweep.sweep(self.resources)
            await reconcile.reconcile(self.resources)
            await reconcile.fetch_events(self.resources)
            if await self.database.fetchval(COUNT_UNFINISHED) == 0:
                break
        else:
            raise AssertionError("something is unfinished after ten rounds")
        await assert_ledgers_agree(self.resources, self.stripe)
        assert self.open_sessions() == []

    async def call(self, method: str, path: str, json: Any = None, key: str | None = None) -> httpx.Response:
        """Call the API. A 5xx is allowed only while Stripe fails or other actions run concurrently."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.shop.http.request(method, path, json=json, headers=headers)
        if answer.status_code >= 500:
            allowed = ["payment_unavailable"] * self.faulty + ["busy"] * self.concurrent
            assert answer.json()["code"] in allowed, (method, path, answer.text)
        return answer

    # Choices

    @staticmethod
    def pick(entries: Sequence[T], position: int) -> T:
        return entries[position % len(entries)]

    def paid_orders(self) -> list[asyncpg.Record]:
        return [order for order in self.orders if order["status"] in ("PAID", "FULFILLED")]

    def pending_orders(self) -> list[asyncpg.Record]:
        return [order for order in self.orders if order["status"] == "PENDING_PAYMENT"]

    def open_sessions(self) -> list[dict[str, Any]]:
        return [session for session in self.stripe.sessions if session["status"] == "open"]

    def processing_sessions(self) -> list[dict[str, Any]]:
        intents = self.stripe.intents
        return [
            s for s in self.stripe.sessions if (i := intents.get(s["payment_intent"])) and i["status"] == "processing"
        ]

    def refunds_that_may_change(self) -> list[dict[str, Any]]:
        return [refund for refund in self.stripe.refunds if refund["status"] != "failed"]

    # Actions

    async def checkout(self, cart_id: str, key: str | None = None) -> None:
        """Check out. A repeated key gets the same answer, unless that answer's order was cancelled."""
        stored = self.answers.get((cart_id, key or ""), b"")
        forgotten = await self.was_cancelled(stored)
        answer = await self.call("POST", f"/carts/{cart_id}/checkout", key=key)
        if key and answer.is_success:
            same = answer.content == stored
            assert not (same and forgotten), "the response of a cancelled order"
            # A concurrent action may have cancelled the order of either answer.
            assert same or not stored or await self.was_cancelled(stored) or await self.was_cancelled(answer.content)
            self.answers[cart_id, key] = answer.content

    async def was_cancelled(self, answer: bytes) -> bool:
        """Whether the order of this checkout's answer has ever been cancelled."""
        query = "SELECT EXISTS(SELECT FROM order_events WHERE order_id = $1 AND to_status = 'CANCELLED')"
        return bool(answer and await on(self.resources.pool).fetchval(query, UUID(orjson.loads(answer)["order_id"])))

    async def cancel(self, order_id: str, key: str | None = None) -> None:
        await self.call("POST", f"/orders/{order_id}/cancel", key=key)

    async def refund(self, order_id: str, amount: int | None, restock: bool, key: str | None = None) -> None:
        body = {"restock": restock} | ({"amount_minor": amount} if amount else {})
        await self.call("POST", f"/orders/{order_id}/refund", body, key)

    async def refund_lines(self, order_id: str, quantity: int, restock: bool, key: str | None = None) -> None:
        """Refund so many units of each line."""
        lines = (await self.shop.get_order(order_id))["items"]
        items = [{"product_id": line["product_id"], "quantity": quantity, "restock": restock} for line in lines]
        await self.call("POST", f"/orders/{order_id}/refund", {"items": items}, key)

    async def pay(self, order_id: str, *, later: bool) -> None:
        for session in self.open_sessions():
            if session["metadata"]["order_id"] == order_id:
                self.stripe.pay(session["id"], later=later)

    async def run_job(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a job or periodic task. It may fail: a later run finishes its work."""
        with suppress(ShopError, StripeUnknown, StripeRefused):
            await work

    def operations(self, order: asyncpg.Record) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        """The operations of the service's processes, by name, on this order."""
        order_id = UUID(order["id"])
        return {
            "checkout": lambda: checkout.checkout(self.api_resources, None, GUEST, UUID(order["cart_id"])),
            "cancel": lambda: expiry.cancel(self.api_resources, None, GUEST, order_id),
            "expire": lambda: expiry.expire(self.resources, order_id),
            "fulfil": lambda: fulfilment.fulfil(self.resources, order_id),
            "settle_refunds": lambda: refunds.settle(self.resources, order_id),
            "sweep": lambda: sweep.sweep(self.resources),
            "reconcile": lambda: reconcile.reconcile(self.resources),
            "fetch_events": lambda: reconcile.fetch_events(self.resources),
        }

    OPERATIONS = ("checkout", "cancel", "expire", "fulfil", "settle_refunds", "sweep", "reconcile", "fetch_events")

    # Customers

    @initialize(stocks=st.tuples(quantities, quantities))
    def open_shop(self, stocks: tuple[int, int]) -> None:
        async def open_shop() -> None:
            for stock in stocks:
                self.products.append((await self.shop.create_product(stock=stock + 1))["id"])
            for product_id in self.products:
                self.carts.insert(0, await self.shop.create_cart((product_id, 1)))
            await self.checkout(self.carts[0])

        self.run(self.run_and_check(open_shop()))

    @step(product=positions, quantity=st.integers(1, 2))
    async def customer_fills_a_cart(self, product: int, quantity: int) -> None:
        self.carts.insert(0, await self.shop.create_cart())
        await self.call(
            "POST",
            f"/carts/{self.carts[0]}/items",
            {"product_id": self.pick(self.products, product), "quantity": quantity},
        )

    @step(cart=positions, product=positions, quantity=quantities, how=st.sampled_from(["POST", "PUT", "DELETE"]))
    async def customer_changes_a_line(self, cart: int, product: int, quantity: int, how: str) -> None:
        path, product_id = f"/carts/{self.pick(self.carts, cart)}/items", self.pick(self.products, product)
        if how == "POST":
            await self.call(how, path, {"product_id": product_id, "quantity": quantity})
        else:
            await self.call(how, f"{path}/{product_id}", {"quantity": quantity} if how == "PUT" else None)

    @step(cart=positions, key=idempotency_keys)
    async def customer_checks_out(self, cart: int, key: str | None) -> None:
        await self.checkout(self.pick(self.carts, cart), key)

    @step(when=open_sessions, session=positions, how=st.sampled_from(["now", "later", "declined"]))
    async def customer_pays(self, session: int, how: str) -> None:
        session_id = self.pick(self.open_sessions(), session)["id"]
        if how == "declined":
            self.stripe.decline(session_id)
        else:
            self.stripe.pay(session_id, later=how == "later")

    @step(product=positions, later=st.booleans())
    async def customer_buys(self, product: int, later: bool) -> None:
        """The steps above in one, so that many sequences contain a payment."""
        self.carts.insert(0, await self.shop.create_cart())
        path, line = f"/carts/{self.carts[0]}", {"product_id": self.pick(self.products, product), "quantity": 1}
        await self.call("POST", f"{path}/items", line)
        answer = await self.call("POST", f"{path}/checkout")
        if answer.is_success:
            await self.pay(answer.json()["order_id"], later=later)

    @step(when=lambda self: self.orders, order=positions, key=idempotency_keys)
    async def customer_cancels(self, order: int, key: str | None) -> None:
        await self.cancel(self.pick(self.pending_orders() or self.orders, order)["id"], key)

    @step(
        when=lambda self: self.orders,
        order=positions,
        actions=st.lists(
            st.sampled_from(["checkout again", "pay", "refund", "refund a line", *OPERATIONS]), min_size=2, max_size=4
        ),
    )
    async def several_actions_run_concurrently(self, order: int, actions: list[str]) -> None:
        chosen = self.pick(self.orders, order)
        operations = self.operations(chosen)
        over_http: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "checkout": lambda: self.checkout(chosen["cart_id"], "one"),
            "checkout again": lambda: self.checkout(chosen["cart_id"]),
            "cancel": lambda: self.cancel(chosen["id"]),
            "pay": lambda: self.pay(chosen["id"], later=False),
            "refund": lambda: self.refund(chosen["id"], None, False),
            "refund a line": lambda: self.refund_lines(chosen["id"], 1, True),
        }
        self.concurrent = True
        await asyncio.gather(
            *(over_http[name]() if name in over_http else self.run_job(operations[name]()) for name in actions)
        )
        self.concurrent = False

    # Staff

    @step(product=positions, delta=st.sampled_from([-2, -1, 1, 2]))
    async def staff_moves_stock(self, product: int, delta: int) -> None:
        path = f"/products/{self.pick(self.products, product)}/stock"
        await self.call("POST", path, {"delta": delta, "reason": "counted"})

    @step(product=positions, change=st.sampled_from([{"price_minor": 499}, {"active": False}, {"active": True}]))
    async def staff_changes_a_product(self, product: int, change: dict[str, Any]) -> None:
        await self.call("PATCH", f"/products/{self.pick(self.products, product)}", change)

    @step(
        when=paid_orders,
        order=positions,
        amount=st.sampled_from([None, None, 100, 450]),
        restock=st.booleans(),
        status=refund_statuses,
        key=idempotency_keys,
    )
    async def staff_refunds(self, order: int, amount: int | None, restock: bool, status: str, key: str | None) -> None:
        self.stripe.refund_status = status
        await self.refund(self.pick(self.paid_orders(), order)["id"], amount, restock, key)

    @step(
        when=paid_orders,
        order=positions,
        quantity=st.integers(1, 2),
        restock=st.booleans(),
        status=refund_statuses,
        key=idempotency_keys,
    )
    async def staff_refunds_lines(self, order: int, quantity: int, restock: bool, status: str, key: str | None) -> None:
        self.stripe.refund_status = status
        await self.refund_lines(self.pick(self.paid_orders(), order)["id"], quantity, restock, key)

    @step(
        when=lambda self: self.stripe.ledger()["payments"],
        payment=positions,
        amount=st.sampled_from([None, 100]),
        status=refund_statuses,
    )
    async def dashboard_refunds(self, payment: int, amount: int | None, status: str) -> None:
        self.stripe.refund_status = status
        paid = self.pick(self.stripe.ledger()["payments"], payment)
        with suppress(StripeUnknown, StripeRefused):
            await self.resources.stripe.create_refund(
                paid["payment_intent"], amount or paid["amount"], {}, f"dashboard {uuid4()}"
            )

    # Stripe

    @step(when=processing_sessions, session=positions, succeed=st.booleans())
    async def processing_payment_ends(self, session: int, succeed: bool) -> None:
        self.stripe.settle(self.pick(self.processing_sessions(), session)["id"], succeed)

    @step(when=open_sessions, session=positions)
    async def session_expires(self, session: int) -> None:
        # Without moving Stripe's clock, which must agree with PostgreSQL's for later sessions.
        self.stripe.expire_session(self.pick(self.open_sessions(), session)["id"])

    @step(when=refunds_that_may_change, refund=positions, status=st.sampled_from(["succeeded", "failed"]))
    async def refund_changes(self, refund: int, status: str) -> None:
        self.stripe.set_refund(self.pick(self.refunds_that_may_change(), refund)["id"], status)

    @step(
        how=st.sampled_from(
            [{}, {"paused": True}, {"drop": True}, {"copies": 3}, {"paused": True, "copies": 2, "shuffle": True}]
        )
    )
    async def webhooks_change(self, how: dict[str, Any]) -> None:
        self.stripe.set_webhooks(**{"paused": False, "drop": False, "copies": 1, "shuffle": False} | how)

    @step(fault=st.sampled_from(FAULTS), call=st.sampled_from(CALLS), times=st.integers(1, 3))
    async def stripe_fails(self, fault: dict[str, Any], call: dict[str, Any], times: int) -> None:
        self.faulty = True
        self.stripe.set_faults([{**fault, **call, "times": times}])

    @step(when=lambda self: self.faulty)
    async def stripe_recovers(self) -> None:
        self.faulty = False
        self.stripe.set_faults([])

    @step(when=pending_orders, order=positions, pays=st.sampled_from([None, "now", "later"]))
    async def stripe_does_not_answer_until_the_order_expires(self, order: int, pays: str | None) -> None:
        """A payment made in that time becomes a late payment."""
        order_id = self.pick(self.pending_orders(), order)["id"]
        before = self.stripe.set_webhooks()
        paused = before.paused
        self.stripe.set_webhooks(paused=True)
        if pays:
            await self.pay(order_id, later=pays == "later")
        for session in self.open_sessions():
            if session["metadata"]["order_id"] == order_id:
                self.stripe.expire_session(session["id"])
        self.stripe.set_faults([{"action": "drop"}])
        await self.database.execute(
            "UPDATE payments SET session_expires_at = now() - interval '11 minutes', claimed_until = NULL"
            " WHERE order_id = $1",
            UUID(order_id),
        )
        await end_hold(self.database, order_id)
        await self.run_job(expiry.expire(self.resources, UUID(order_id)))
        self.faulty = False
        self.stripe.set_faults([])
        self.stripe.set_webhooks(paused=paused)

    # Time and the worker

    @step(when=pending_orders, order=positions, swept=st.booleans())
    async def hold_expires(self, order: int, swept: bool) -> None:
        await end_hold(self.database, self.pick(self.pending_orders(), order)["id"])
        if swept:
            await sweep.sweep(self.resources)

    @step(repair=st.sampled_from([sweep.sweep, reconcile.reconcile, reconcile.fetch_events]), later=st.booleans())
    async def periodic_task_runs(self, repair: Callable[[Resources], Coroutine[Any, Any, int]], later: bool) -> None:
        if later:
            await make_everything_due(self.database)
        await self.run_job(repair(self.resources))

    @step(when=lambda self: self.orders, order=positions, name=st.sampled_from(["expire", "fulfil", "settle_refunds"]))
    async def job_runs(self, order: int, name: str) -> None:
        await self.run_job(self.operations(self.pick(self.orders, order))[name]())

    @step(when=lambda self: self.orders, order=positions, name=st.sampled_from(OPERATIONS), nth=st.integers(0, 25))
    async def process_dies(self, order: int, name: str, nth: int) -> None:
        """The process dies where it waits for the nth time, be it for PostgreSQL, Redis or Stripe."""

        async def die() -> None:
            await CancelledAtWait(self.operations(self.pick(self.orders, order))[name](), nth)

        with suppress(ShopError, StripeUnknown, StripeRefused, asyncio.CancelledError):
            await asyncio.create_task(die())


def test_the_ledgers_agree_after_any_sequence_of_steps(template: str, redis_url: str) -> None:
    closing: list[asyncio.Task[None]] = []

    async def wait_until_closed() -> None:
        await asyncio.gather(*closing)

    with asyncio.Runner() as runner:
        try:
            run_state_machine_as_test(partial(ShopMachine, runner, closing, template, redis_url), settings=EFFORT)
        finally:
            runner.run(wait_until_closed())
