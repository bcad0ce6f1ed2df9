"""Races: concurrent checkouts against each other and against every other change of carts and products."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.shop import checkout
from service.shop.principals import GUEST
from tests.client import Shop, eventually
from tests.database import insert_carts, wait_for_blocked
from tests.stripe_ledger import assert_ledgers_agree

Json = dict[str, Any]
Outcome = tuple[int, str | None]


async def check_out(shop: Shop, cart: str, **body: int) -> tuple[int, Json]:
    """Check a cart out; the status and JSON of any answer."""
    answer = await shop.http.post(f"/carts/{cart}/checkout", json=body)
    return answer.status_code, answer.json()


async def run_all(calls: list[Awaitable[tuple[int, Json]]]) -> tuple[Counter[Outcome], list[Json]]:
    """Run calls concurrently; how often each status came with each problem's code, and the bodies."""
    answers = await asyncio.gather(*calls)
    return Counter((status, body.get("code")) for status, body in answers), [body for _, body in answers]


@pytest.fixture(autouse=True)
async def race_ends_well(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> AsyncIterator[None]:
    """After every race the ledgers agree and the server has met no deadlock."""
    yield
    await assert_ledgers_agree(resources, stripe)
    # A connection reports its deadlocks when it ends.
    all_ended = (
        "SELECT coalesce(bool_and(pg_terminate_backend(pid)), true) AND count(*) = 0"
        " FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'commerce-api'"
    )
    await eventually(lambda: database.fetchval(all_ended))
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await database.fetchval(deadlocks) == 0


async def test_two_concurrent_checkouts_sell_the_last_unit_once(shop: Shop) -> None:
    tent = await shop.create_product(stock=1)
    carts = [await shop.create_cart((tent["id"], 1)) for _ in range(2)]

    outcomes, bodies = await run_all([check_out(shop, cart) for cart in carts])

    assert outcomes == {(201, None): 1, (409, "insufficient_stock"): 1}
    (missing,) = [body["items"] for body in bodies if "items" in body]
    assert missing == [{"product_id": tent["id"], "requested": 1, "available": 0}]
    assert await shop.get_stock(tent["id"]) == 0


async def test_a_thousand_concurrent_checkouts_sell_a_hundred_units(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    tent = await shop.create_product(stock=100)
    carts = await insert_carts(database, 1000, (tent["id"], 1))

    # aiohttp, as httpx searches all its connections at each call. With more connections than these, some requests
    # would wait on a busy machine for longer than the ten seconds after which the service answers `busy`.
    async with aiohttp.ClientSession(shop.url, connector=aiohttp.TCPConnector(limit=250)) as client:

        async def post_checkout(cart: str) -> tuple[int, Json]:
            async with client.post(f"/carts/{cart}/checkout") as answer:
                return answer.status, await answer.json(content_type=None)

        outcomes, _ = await run_all([post_checkout(cart) for cart in carts])

    assert outcomes == {(201, None): 100, (409, "insufficient_stock"): 900}
    assert await database.fetchval("SELECT count(*) FROM orders WHERE status = 'PENDING_PAYMENT'") == 100
    assert await shop.get_stock(tent["id"]) == 0
    movements = "SELECT reason, sum(delta)::integer, count(*)::integer FROM stock_movements GROUP BY reason"
    assert {tuple(row) for row in await database.fetch(movements)} == {("initial stock", 100, 1), ("hold", -100, 100)}
    assert len({session["metadata"]["order_id"] for session in stripe.sessions}) == len(list(stripe.sessions)) == 100


async def test_checkouts_of_the_same_products_in_opposite_order_do_not_deadlock(
    shop: Shop, database: asyncpg.Connection
) -> None:
    """Half of the carts list six products forwards, half backwards; half of the orders are cancelled at once."""
    products = [(await shop.create_product(stock=1000))["id"] for _ in range(6)]
    lines = [(product, 1) for product in products]

    async def order_and_cancel(cart: str) -> tuple[int, Json]:
        status, placed_order = await check_out(shop, cart)
        assert status == 201
        answer = await shop.http.post(f"/orders/{placed_order['order_id']}/cancel")
        return answer.status_code, answer.json()

    forwards = await insert_carts(database, 40, *lines)
    backwards = await insert_carts(database, 40, *reversed(lines))
    carts = [cart for pair in zip(forwards, backwards, strict=True) for cart in pair]

    outcomes, _ = await run_all(
        [order_and_cancel(cart) if number % 4 < 2 else check_out(shop, cart) for number, cart in enumerate(carts)]
    )

    assert outcomes == {(200, None): 40, (201, None): 40}
    assert [await shop.get_stock(product) for product in products] == [960] * 6


async def test_twenty_concurrent_checkouts_of_one_cart_make_one_order(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    tent = await shop.create_product(stock=50)
    cart = await shop.create_cart((tent["id"], 2))

    outcomes, bodies = await run_all([check_out(shop, cart) for _ in range(20)])

    assert outcomes[201, None] == 1
    assert set(outcomes) <= {(201, None), (200, None), (409, "checkout_in_progress")}
    assert len({body["order_id"] for body in bodies if "order_id" in body}) == 1
    assert await database.fetchval("SELECT count(*) FROM orders") == 1
    assert len(list(stripe.sessions)) == 1
    assert await shop.get_stock(tent["id"]) == 48


@pytest.mark.parametrize("first", ["the line", "the checkout"])
async def test_a_line_added_during_a_checkout_is_in_the_order_or_refused(
    shop: Shop, database: asyncpg.Connection, first: str
) -> None:
    """Both requests wait for the cart's lock, which the test has, and get it in the order in which they came."""
    tent, mug = await shop.create_product(), await shop.create_product(name="Mug")
    cart = await shop.create_cart((tent["id"], 1))

    async def add() -> tuple[int, Json]:
        answer = await shop.http.post(f"/carts/{cart}/items", json={"product_id": mug["id"], "quantity": 1})
        return answer.status_code, answer.json()

    calls: list[Callable[[], Awaitable[tuple[int, Json]]]] = [add, lambda: check_out(shop, cart)]

    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
        running = []
        for count, call in enumerate(calls if first == "the line" else reversed(calls), 1):
            running.append(asyncio.ensure_future(call()))
            await wait_for_blocked(database, count)
    (status, body), (other_status, other_body) = await asyncio.gather(*running)

    if first == "the line":
        assert (status, other_status) == (200, 201)
        order = await shop.get_order(other_body["order_id"])
        assert [line["product_id"] for line in order["items"]] == [tent["id"], mug["id"]]
    else:
        assert (status, other_status, other_body["code"]) == (201, 409, "cart_not_open")
        assert other_body["order_id"] == body["order_id"]
        assert body["total_minor"] == 1250


@pytest.mark.parametrize(
    ("change", "expected_total", "code"),
    [
        ("price_minor = 1300", None, None),
        ("price_minor = 1300", 2500, "price_changed"),
        ("price_minor = 1", None, "amount_out_of_range"),
        ("active = false", None, "product_inactive"),
        ("stock = 1", None, "insufficient_stock"),
        ("max_per_order = 1", None, "quantity_limited"),
    ],
)
async def test_a_checkout_uses_the_product_as_changed_while_it_waited(
    shop: Shop, database: asyncpg.Connection, change: str, expected_total: int | None, code: str | None
) -> None:
    tent = await shop.create_product()
    cart = await shop.create_cart((tent["id"], 2))

    async with database.transaction():
        await database.execute(f"UPDATE products SET {change}")
        if "stock" in change:
            await database.execute(
                "INSERT INTO stock_movements (product_id, delta, reason) VALUES ($1, -9, 'lost')", tent["id"]
            )
        body = {} if expected_total is None else {"expected_total_minor": expected_total}
        waiting = asyncio.create_task(check_out(shop, cart, **body))
        await wait_for_blocked(database)
    status, answer = await waiting

    if code is None:
        assert (status, answer["total_minor"]) == (201, 2600)
        assert (await shop.get_order(answer["order_id"]))["items"][0]["unit_price_minor"] == 1300
    else:
        assert (status, answer["code"]) == (409, code)
        # The CHECK of the stock would refuse it without the lines that are short.
        assert ("items" in answer) == (code == "insufficient_stock")
        assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"


async def test_staff_may_change_a_product_while_it_is_bought(shop: Shop, database: asyncpg.Connection) -> None:
    tent = await shop.create_product(stock=40)
    path = f"/products/{tent['id']}"

    async def staff(method: str, path: str, body: Json) -> tuple[int, Json]:
        answer = await shop.http.request(method, path, json=body)
        return answer.status_code, {"code": f"staff {answer.json().get('code')}"}

    outcomes, bodies = await run_all(
        [
            *(check_out(shop, cart) for cart in await insert_carts(database, 30, (tent["id"], 1))),
            *(staff("POST", f"{path}/stock", {"delta": -1, "reason": "lost"}) for _ in range(20)),
            *(staff("PATCH", path, {"price_minor": 2000 + n}) for n in range(5)),
        ]
    )

    sold = outcomes[201, None]
    removed = 20 - outcomes[409, "staff insufficient_stock"]
    assert set(outcomes) <= {
        (201, None),
        (200, "staff None"),
        (409, "insufficient_stock"),
        (409, "staff insufficient_stock"),
    }
    assert sold + removed == 40
    assert {body["total_minor"] for body in bodies if "order_id" in body} <= {1250, *range(2000, 2005)}
    assert await shop.get_stock(tent["id"]) == 0


async def test_a_running_checkout_blocks_other_checkouts_but_not_adding_to_a_cart(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection
) -> None:
    tent = await shop.create_product()
    checked_out, open_cart = await shop.create_cart((tent["id"], 1)), await shop.create_cart()

    async with api_resources.pool.acquire() as tx:
        reservation = tx.transaction()
        await reservation.start()
        outcome = await checkout.reserve(
            tx, api_resources.settings, checkout.Reservation(None, UUID(checked_out), None), uuid4()
        )
        assert isinstance(outcome, checkout.Reserved)
        await shop.add_item(open_cart, tent["id"])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await database.execute("SELECT FROM products FOR NO KEY UPDATE NOWAIT")
        await reservation.rollback()
    await shop.check_out(open_cart)

    assert await shop.get_stock(tent["id"]) == 9


async def all_connections_are_free(resources: Resources) -> bool:
    async with AsyncExitStack() as slots:
        for _ in range(resources.settings.db_pool_size):
            if resources.pool.limiter.full:
                return False
            await slots.enter_async_context(resources.pool.limiter)
    return True


@asynccontextmanager
async def limiter_full(resources: Resources, product_id: int) -> AsyncIterator[None]:
    """Every slot of a product's limiter is taken."""
    async with AsyncExitStack() as slots:
        for _ in range(resources.settings.db_pool_size // 3):
            await slots.enter_async_context(resources.checkout_limiter.enter(product_id))
        yield


async def test_a_checkout_waits_for_a_full_limiter_without_a_connection(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection
) -> None:
    """The checkout of a tent waits at the tent's limiter; a mug added meanwhile makes it wait at the mug's, too."""
    tent, mug = await shop.create_product(), await shop.create_product(name="Mug")
    cart = await shop.create_cart((tent["id"], 1))

    async def waits_without_connection() -> bool:
        status = await database.fetchval("SELECT status FROM carts WHERE id = $1", UUID(cart))
        waits = api_resources.checkout_limiter.contended and status == "OPEN"
        return waits and await all_connections_are_free(api_resources)

    async with limiter_full(api_resources, mug["id"]):
        async with limiter_full(api_resources, tent["id"]):
            waiting = asyncio.create_task(checkout.checkout(api_resources, None, GUEST, UUID(cart)))
            assert await eventually(waits_without_connection)
            # The checkout has read the cart's products before this one was added.
            await shop.add_item(cart, mug["id"])
        assert await eventually(waits_without_connection)
        assert not waiting.done()

    assert (await waiting).status == 201
    assert not api_resources.checkout_limiter.contended
