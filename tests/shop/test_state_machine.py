"""Customers, staff, Stripe, faults, crashes and time, in whatever sequence Hypothesis thinks of: the books agree.

Against the running service. What Hypothesis found is reported as the shortest sequence of steps that shows it.
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
from tests.books import all_due, balance, hold_ends
from tests.client import Shop, eventually
from tests.conftest import WEBHOOK_SECRET, cloned, login, served

T = TypeVar("T")

# The same examples every time, and as many as `make test` has time for. To look for more, raise `max_examples` to
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

# Which of several: the newest is 0.
which = st.integers(0, 5)
units = st.integers(0, 3)
keys = st.sampled_from([None, "one", "two"])
# How Stripe makes refunds from then on.
made = st.sampled_from(["succeeded", "pending"])

UNFINISHED = """
SELECT
    (SELECT count(*) FROM orders JOIN payments ON orders.id = order_id
     WHERE orders.status = 'PENDING_PAYMENT' OR (orders.status, payments.status) = ('PAID', 'SUCCEEDED')
     OR payments.status = 'REFUND_PENDING')
    + (SELECT count(*) FROM refunds WHERE status IN ('REQUESTED', 'PENDING'))
    + (SELECT count(*) FROM stripe_events WHERE handled_at IS NULL)
"""


class Dying:
    """Work that is cancelled where it waits for something for the nth time, counted from 0."""

    def __init__(self, work: Coroutine[Any, Any, object], nth: int) -> None:
        self.work = work
        self.nth = nth

    def __await__(self) -> Generator[Any, None, None]:
        steps, error = self.work.__await__(), None
        while True:
            try:
                waited_for = steps.throw(error) if error else steps.send(None)
            except StopIteration:
                return
            if self.nth == 0 and (task := asyncio.current_task()):
                task.cancel()
            self.nth -= 1
            error = None
            try:
                yield waited_for
            except BaseException as caught:
                error = caught


def step(when: Callable[["Market"], object] = lambda _: True, **drawn: st.SearchStrategy[Any]) -> Any:
    """A rule that runs an async method in the machine's loop, and then looks whether all is well."""

    def made(work: Callable[..., Awaitable[None]]) -> Any:
        @wraps(work)
        def run(self: "Market", **given: Any) -> None:
            self.run(self.checked(work(self, **given)))

        return rule(**drawn)(precondition(when)(run))

    return made


class Market(RuleBasedStateMachine):
    """One shop with two products, its Stripe account, and all that befalls them."""

    def __init__(
        self, runner: asyncio.Runner, closing: list[asyncio.Task[None]], template: str, redis_url: str
    ) -> None:
        super().__init__()
        self.runner = runner
        self.closing = closing
        self.stack = AsyncExitStack()
        self.failed = False
        # Whether Stripe may fail calls now, and several things happen at once.
        self.faulty = self.contended = False
        self.products: list[int] = []
        self.carts: list[str] = []
        self.orders: Sequence[asyncpg.Record] = []
        # What a checkout with a key has answered, by cart and key.
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
        told = Settings.load(
            {
                "DATABASE_URL": login(database_url, "app"),
                "REDIS_URL": redis_url,
                "STRIPE_API_KEY": "sk_test_tests",
                "STRIPE_API_BASE": url,
                "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
                "STRIPE_TIMEOUT_SECONDS": "5",
            }
        )
        shop_url = await self.stack.enter_async_context(served(create_app(told)))
        self.stripe.webhook_url = f"{shop_url}/webhooks/stripe"
        self.shop = await self.stack.enter_async_context(Shop(shop_url))
        self.api_parts = await self.stack.enter_async_context(open_resources(told, "commerce-tests"))
        told = told.model_copy(update={"database_url": login(database_url, "worker")})
        self.resources = await self.stack.enter_async_context(open_resources(told, "commerce-tests"))
        self.database = await asyncpg.connect(database_url)
        self.stack.push_async_callback(self.database.close)

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.run(self.ends_well())
        finally:
            # Servers take a while to stop, for which the next example does not wait.
            self.closing.append(self.runner.get_loop().create_task(self.stack.aclose()))

    # What is looked at

    async def checked(self, work: Awaitable[None]) -> None:
        await work
        await self.delivered()
        self.orders = await self.database.fetch(
            "SELECT o.id::text, o.cart_id::text, o.status, p.status AS payment"
            " FROM orders o JOIN payments p ON o.id = p.order_id ORDER BY o.number DESC"
        )
        cancelled = {order["id"] for order in self.orders if order["status"] == "CANCELLED"}
        assert not any(session["metadata"]["order_id"] in cancelled for session in self.open_sessions())
        assert await self.database.fetchval("SELECT min(stock) FROM products") >= 0
        found = await audit(self.resources.pool)
        # Time was moved, and nobody sweeps until a step does.
        found.pop("audit/nothing_is_overdue")
        assert not any(found.values()), found

    async def delivered(self) -> None:
        """Wait until Stripe has delivered its webhooks, where it does."""

        async def all_are() -> bool:
            return not any(event["pending_webhooks"] for event in self.stripe.events)

        if not self.stripe.set_webhooks().paused:
            await eventually(all_are)

    async def ends_well(self) -> None:
        """Faults end, holds end, what is on its way arrives; then everything is finished, and the books agree."""
        self.stripe.set_faults([])
        self.stripe.set_webhooks(paused=False)
        self.stripe.refund_status = "succeeded"
        for refund in self.stripe.refunds:
            if refund["status"] == "pending":
                self.stripe.set_refund(refund["id"], "succeeded")
        for position, session in enumerate(self.to_settle()):
            self.stripe.settle(session["id"], succeed=position % 2 == 0)
        for _ in range(10):
            await self.delivered()
            await self.database.execute("UPDATE payments SET claimed_until = NULL WHERE claimed_until IS NOT NULL")
            for order_id in await self.database.fetch("SELECT id::text FROM orders WHERE status = 'PENDING_PAYMENT'"):
                await hold_ends(self.database, order_id[0])
            await all_due(self.database)
            await sweep.sweep(self.resources)
            await reconcile.reconcile(self.resources)
            await reconcile.fetch_events(self.resources)
            if await self.database.fetchval(UNFINISHED) == 0:
                break
        else:
            raise AssertionError("it is not quiet after ten rounds")
        await balance(self.resources, self.stripe)
        assert self.open_sessions() == []

    async def ask(self, method: str, path: str, json: Any = None, key: str | None = None) -> httpx.Response:
        """A call of the API; no answer may be a failure, but where Stripe fails or others are in the way."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.shop.http.request(method, path, json=json, headers=headers)
        if answer.status_code >= 500:
            allowed = ["payment_unavailable"] * self.faulty + ["busy"] * self.contended
            assert answer.json()["code"] in allowed, (method, path, answer.text)
        return answer

    # Which of several

    @staticmethod
    def one(things: Sequence[T], position: int) -> T:
        return things[position % len(things)]

    def paid_orders(self) -> list[asyncpg.Record]:
        return [order for order in self.orders if order["status"] in ("PAID", "FULFILLED")]

    def pending_orders(self) -> list[asyncpg.Record]:
        return [order for order in self.orders if order["status"] == "PENDING_PAYMENT"]

    def open_sessions(self) -> list[dict[str, Any]]:
        return [session for session in self.stripe.sessions if session["status"] == "open"]

    def to_settle(self) -> list[dict[str, Any]]:
        intents = self.stripe.intents
        return [
            s for s in self.stripe.sessions if (i := intents.get(s["payment_intent"])) and i["status"] == "processing"
        ]

    def refunds_to_end(self) -> list[dict[str, Any]]:
        return [refund for refund in self.stripe.refunds if refund["status"] != "failed"]

    # What is done

    async def checkout(self, cart_id: str, key: str | None = None) -> None:
        known = self.answers.get((cart_id, key or ""), b"")
        forgotten = await self.was_cancelled(known)
        answer = await self.ask("POST", f"/carts/{cart_id}/checkout", key=key)
        if key and answer.is_success:
            same = answer.content == known
            assert not (same and forgotten), "the response of a cancelled order"
            # In a crowd, the order of either may have been cancelled meanwhile.
            assert same or not known or await self.was_cancelled(known) or await self.was_cancelled(answer.content)
            self.answers[cart_id, key] = answer.content

    async def was_cancelled(self, answer: bytes) -> bool:
        """Whether the order of a checkout's answer has ever been cancelled."""
        query = "SELECT EXISTS(SELECT FROM order_events WHERE order_id = $1 AND to_status = 'CANCELLED')"
        return bool(answer and await self.resources.pool.fetchval(query, UUID(orjson.loads(answer)["order_id"])))

    async def cancel(self, order_id: str, key: str | None = None) -> None:
        await self.ask("POST", f"/orders/{order_id}/cancel", key=key)

    async def refund(self, order_id: str, amount: int | None, restock: bool, key: str | None = None) -> None:
        body = {"restock": restock} | ({"amount_minor": amount} if amount else {})
        await self.ask("POST", f"/orders/{order_id}/refund", body, key)

    async def pay(self, order_id: str, *, later: bool) -> None:
        for session in self.open_sessions():
            if session["metadata"]["order_id"] == order_id:
                self.stripe.pay(session["id"], later=later)

    async def job(self, work: Coroutine[Any, Any, object]) -> None:
        """A job or repairer of the worker's: what it cannot do now is done another time."""
        with suppress(ShopError, StripeUnknown, StripeRefused):
            await work

    def works(self, order: asyncpg.Record) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        """What a process may die of, by name."""
        order_id = UUID(order["id"])
        return {
            "checkout": lambda: checkout.checkout(self.api_parts, None, UUID(order["cart_id"]), None),
            "cancel": lambda: expiry.cancel(self.api_parts, None, order_id),
            "expire": lambda: expiry.expire(self.resources, order_id),
            "fulfil": lambda: fulfilment.fulfil(self.resources, order_id),
            "settle_refunds": lambda: refunds.settle(self.resources, order_id),
            "sweep": lambda: sweep.sweep(self.resources),
            "reconcile": lambda: reconcile.reconcile(self.resources),
            "fetch_events": lambda: reconcile.fetch_events(self.resources),
        }

    WORKS = ("checkout", "cancel", "expire", "fulfil", "settle_refunds", "sweep", "reconcile", "fetch_events")

    # Customers

    @initialize(stocks=st.tuples(units, units))
    def opens(self, stocks: tuple[int, int]) -> None:
        async def work() -> None:
            for stock in stocks:
                self.products.append((await self.shop.product(stock=stock + 1))["id"])
            for product_id in self.products:
                self.carts.insert(0, await self.shop.cart((product_id, 1)))
            await self.checkout(self.carts[0])

        self.run(self.checked(work()))

    @step(product=which, quantity=st.integers(1, 2))
    async def fills_a_cart(self, product: int, quantity: int) -> None:
        self.carts.insert(0, await self.shop.cart())
        await self.ask(
            "POST",
            f"/carts/{self.carts[0]}/items",
            {"product_id": self.one(self.products, product), "quantity": quantity},
        )

    @step(cart=which, product=which, quantity=units, how=st.sampled_from(["POST", "PUT", "DELETE"]))
    async def changes_a_line(self, cart: int, product: int, quantity: int, how: str) -> None:
        path, product_id = f"/carts/{self.one(self.carts, cart)}/items", self.one(self.products, product)
        if how == "POST":
            await self.ask(how, path, {"product_id": product_id, "quantity": quantity})
        else:
            await self.ask(how, f"{path}/{product_id}", {"quantity": quantity} if how == "PUT" else None)

    @step(cart=which, key=keys)
    async def checks_out(self, cart: int, key: str | None) -> None:
        await self.checkout(self.one(self.carts, cart), key)

    @step(when=open_sessions, session=which, how=st.sampled_from(["now", "later", "declined"]))
    async def pays(self, session: int, how: str) -> None:
        session_id = self.one(self.open_sessions(), session)["id"]
        if how == "declined":
            self.stripe.decline(session_id)
        else:
            self.stripe.pay(session_id, later=how == "later")

    @step(product=which, later=st.booleans())
    async def buys(self, product: int, later: bool) -> None:
        """All of the above in one step, so that there is something to give back."""
        self.carts.insert(0, await self.shop.cart())
        path, line = f"/carts/{self.carts[0]}", {"product_id": self.one(self.products, product), "quantity": 1}
        await self.ask("POST", f"{path}/items", line)
        placed = await self.ask("POST", f"{path}/checkout")
        if placed.is_success:
            await self.pay(placed.json()["order_id"], later=later)

    @step(when=lambda self: self.orders, order=which, key=keys)
    async def cancels(self, order: int, key: str | None) -> None:
        await self.cancel(self.one(self.pending_orders() or self.orders, order)["id"], key)

    @step(
        when=lambda self: self.orders,
        order=which,
        doings=st.lists(st.sampled_from(["checkout again", "pay", "refund", *WORKS]), min_size=2, max_size=4),
    )
    async def all_at_once(self, order: int, doings: list[str]) -> None:
        chosen = self.one(self.orders, order)
        works = self.works(chosen)
        over_http: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "checkout": lambda: self.checkout(chosen["cart_id"], "one"),
            "checkout again": lambda: self.checkout(chosen["cart_id"]),
            "cancel": lambda: self.cancel(chosen["id"]),
            "pay": lambda: self.pay(chosen["id"], later=False),
            "refund": lambda: self.refund(chosen["id"], None, False),
        }
        self.contended = True
        await asyncio.gather(*(over_http[name]() if name in over_http else self.job(works[name]()) for name in doings))
        self.contended = False

    # Staff

    @step(product=which, delta=st.sampled_from([-2, -1, 1, 2]))
    async def moves_stock(self, product: int, delta: int) -> None:
        path = f"/products/{self.one(self.products, product)}/stock"
        await self.ask("POST", path, {"delta": delta, "reason": "counted"})

    @step(product=which, change=st.sampled_from([{"price_minor": 499}, {"active": False}, {"active": True}]))
    async def changes_a_product(self, product: int, change: dict[str, Any]) -> None:
        await self.ask("PATCH", f"/products/{self.one(self.products, product)}", change)

    @step(
        when=paid_orders,
        order=which,
        amount=st.sampled_from([None, None, 100, 450]),
        restock=st.booleans(),
        status=made,
        key=keys,
    )
    async def refunds_by_staff(
        self, order: int, amount: int | None, restock: bool, status: str, key: str | None
    ) -> None:
        self.stripe.refund_status = status
        await self.refund(self.one(self.paid_orders(), order)["id"], amount, restock, key)

    @step(
        when=lambda self: self.stripe.ledger()["payments"],
        payment=which,
        amount=st.sampled_from([None, 100]),
        status=made,
    )
    async def refunds_in_the_dashboard(self, payment: int, amount: int | None, status: str) -> None:
        self.stripe.refund_status = status
        paid = self.one(self.stripe.ledger()["payments"], payment)
        with suppress(StripeUnknown, StripeRefused):
            await self.resources.stripe.create_refund(
                paid["payment_intent"], amount or paid["amount"], {}, f"dashboard {uuid4()}"
            )

    # Stripe

    @step(when=to_settle, session=which, succeed=st.booleans())
    async def settles(self, session: int, succeed: bool) -> None:
        self.stripe.settle(self.one(self.to_settle(), session)["id"], succeed)

    @step(when=open_sessions, session=which)
    async def session_expires(self, session: int) -> None:
        # By its own time; Stripe's clock stays with PostgreSQL's, or no later session could be created.
        self.stripe.expire_session(self.one(self.open_sessions(), session)["id"])

    @step(when=refunds_to_end, refund=which, status=st.sampled_from(["succeeded", "failed"]))
    async def refund_ends(self, refund: int, status: str) -> None:
        self.stripe.set_refund(self.one(self.refunds_to_end(), refund)["id"], status)

    @step(
        how=st.sampled_from(
            [{}, {"paused": True}, {"drop": True}, {"copies": 3}, {"paused": True, "copies": 2, "shuffle": True}]
        )
    )
    async def webhooks_come(self, how: dict[str, Any]) -> None:
        self.stripe.set_webhooks(**{"paused": False, "drop": False, "copies": 1, "shuffle": False} | how)

    @step(fault=st.sampled_from(FAULTS), call=st.sampled_from(CALLS), times=st.integers(1, 3))
    async def stripe_fails(self, fault: dict[str, Any], call: dict[str, Any], times: int) -> None:
        self.faulty = True
        self.stripe.set_faults([{**fault, **call, "times": times}])

    @step(when=lambda self: self.faulty)
    async def stripe_recovers(self) -> None:
        self.faulty = False
        self.stripe.set_faults([])

    @step(when=pending_orders, order=which, pays=st.sampled_from([None, "now", "later"]))
    async def stripe_is_silent_for_an_hour(self, order: int, pays: str | None) -> None:
        """What is paid in that time is late money."""
        order_id = self.one(self.pending_orders(), order)["id"]
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
        await hold_ends(self.database, order_id)
        await self.job(expiry.expire(self.resources, UUID(order_id)))
        self.faulty = False
        self.stripe.set_faults([])
        self.stripe.set_webhooks(paused=paused)

    # Time and the worker

    @step(when=pending_orders, order=which, swept=st.booleans())
    async def hold_ends(self, order: int, swept: bool) -> None:
        await hold_ends(self.database, self.one(self.pending_orders(), order)["id"])
        if swept:
            await sweep.sweep(self.resources)

    @step(repair=st.sampled_from([sweep.sweep, reconcile.reconcile, reconcile.fetch_events]), later=st.booleans())
    async def repairer_runs(self, repair: Callable[[Resources], Coroutine[Any, Any, int]], later: bool) -> None:
        if later:
            await all_due(self.database)
        await self.job(repair(self.resources))

    @step(when=lambda self: self.orders, order=which, name=st.sampled_from(["expire", "fulfil", "settle_refunds"]))
    async def runs_a_job(self, order: int, name: str) -> None:
        await self.job(self.works(self.one(self.orders, order))[name]())

    @step(when=lambda self: self.orders, order=which, name=st.sampled_from(WORKS), nth=st.integers(0, 25))
    async def process_dies(self, order: int, name: str, nth: int) -> None:
        async def dying() -> None:
            await Dying(self.works(self.one(self.orders, order))[name](), nth)

        with suppress(ShopError, StripeUnknown, StripeRefused, asyncio.CancelledError):
            await asyncio.create_task(dying())


def test_the_books_agree_whatever_happens(template: str, redis_url: str) -> None:
    closing: list[asyncio.Task[None]] = []

    async def closed() -> None:
        await asyncio.gather(*closing)

    with asyncio.Runner() as runner:
        try:
            run_state_machine_as_test(partial(Market, runner, closing, template, redis_url), settings=EFFORT)
        finally:
            runner.run(closed())
