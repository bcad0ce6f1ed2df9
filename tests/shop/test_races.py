"""Checkouts against each other and against whatever else changes carts and products, all at once."""

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
from tests.books import balance
from tests.client import Shop, eventually, waiting

Json = dict[str, Any]
Outcome = tuple[int, str | None]


async def ask(shop: Shop, cart: str, **body: int) -> tuple[int, Json]:
    """A checkout's status and JSON, whatever it is."""
    answer = await shop.http.post(f"/carts/{cart}/checkout", json=body)
    return answer.status_code, answer.json()


async def at_once(calls: list[Awaitable[tuple[int, Json]]]) -> tuple[Counter[Outcome], list[Json]]:
    """How often each status came with each problem's code, and what came."""
    answers = await asyncio.gather(*calls)
    return Counter((status, body.get("code")) for status, body in answers), [body for _, body in answers]


async def carts(database: asyncpg.Connection, count: int, *lines: tuple[int, int]) -> list[str]:
    """Open carts with these lines, written straight into the tables."""
    ids = [uuid4() for _ in range(count)]
    await database.executemany("INSERT INTO carts (id, currency) VALUES ($1, 'EUR')", [(cart,) for cart in ids])
    await database.executemany(
        "INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ($1, $2, $3)",
        [(cart, *line) for cart in ids for line in lines],
    )
    return [str(cart) for cart in ids]


@pytest.fixture(autouse=True)
async def all_is_well(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> AsyncIterator[None]:
    """However a race ends: the books balance, and no deadlock was met on the way."""
    yield
    await balance(resources, stripe)
    # The connections tell what they met when they end.
    ended = (
        "SELECT coalesce(bool_and(pg_terminate_backend(pid)), true) AND count(*) = 0"
        " FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'commerce-api'"
    )
    await eventually(lambda: database.fetchval(ended))
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await database.fetchval(deadlocks) == 0


async def test_two_at_once_for_the_last_unit(shop: Shop) -> None:
    tent = await shop.product(stock=1)
    both = [await shop.cart((tent["id"], 1)) for _ in range(2)]
    outcomes, bodies = await at_once([ask(shop, cart) for cart in both])
    assert outcomes == {(201, None): 1, (409, "insufficient_stock"): 1}
    assert [body["items"] for body in bodies if "items" in body] == [
        [{"product_id": tent["id"], "requested": 1, "available": 0}]
    ]
    assert await shop.stock(tent["id"]) == 0


async def test_a_thousand_at_once_for_a_hundred_units(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    tent = await shop.product(stock=100)
    wanting = await carts(database, 1000, (tent["id"], 1))
    # Not by httpx, which looks through all its connections at each call. With more connections than these, a machine
    # busy with other things lets some wait for longer than the service lets them (`busy` after ten seconds).
    async with aiohttp.ClientSession(shop.url, connector=aiohttp.TCPConnector(limit=250)) as crowd:

        async def crowding(cart: str) -> tuple[int, Json]:
            async with crowd.post(f"/carts/{cart}/checkout") as answer:
                return answer.status, await answer.json(content_type=None)

        outcomes, _ = await at_once([crowding(cart) for cart in wanting])
    assert outcomes == {(201, None): 100, (409, "insufficient_stock"): 900}
    assert await database.fetchval("SELECT count(*) FROM orders WHERE status = 'PENDING_PAYMENT'") == 100
    assert await shop.stock(tent["id"]) == 0
    moved = "SELECT reason, sum(delta)::integer, count(*)::integer FROM stock_movements GROUP BY reason"
    assert {tuple(row) for row in await database.fetch(moved)} == {("initial stock", 100, 1), ("hold", -100, 100)}
    assert len({session["metadata"]["order_id"] for session in stripe.sessions}) == len(list(stripe.sessions)) == 100


async def test_the_same_products_in_opposite_order(shop: Shop, database: asyncpg.Connection) -> None:
    products = [(await shop.product(stock=1000))["id"] for _ in range(6)]
    lines = [(product, 1) for product in products]

    async def order_and_cancel(cart: str) -> tuple[int, Json]:
        status, placed = await ask(shop, cart)
        assert status == 201
        answer = await shop.http.post(f"/orders/{placed['order_id']}/cancel")
        return answer.status_code, answer.json()

    there, back = await carts(database, 40, *lines), await carts(database, 40, *reversed(lines))
    mixed = [cart for pair in zip(there, back, strict=True) for cart in pair]
    calls = [(order_and_cancel if n % 4 < 2 else lambda cart: ask(shop, cart))(cart) for n, cart in enumerate(mixed)]
    outcomes, _ = await at_once(calls)
    assert outcomes == {(200, None): 40, (201, None): 40}
    assert [await shop.stock(product) for product in products] == [960] * 6


async def test_one_cart_checked_out_by_twenty_at_once(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    tent = await shop.product(stock=50)
    cart = await shop.cart((tent["id"], 2))
    outcomes, bodies = await at_once([ask(shop, cart) for _ in range(20)])
    assert outcomes[201, None] == 1
    assert set(outcomes) <= {(201, None), (200, None), (409, "checkout_in_progress")}
    assert len({body["order_id"] for body in bodies if "order_id" in body}) == 1
    assert await database.fetchval("SELECT count(*) FROM orders") == 1
    assert len(list(stripe.sessions)) == 1
    assert await shop.stock(tent["id"]) == 48


@pytest.mark.parametrize("first", ["the line", "the checkout"])
async def test_a_line_added_while_checkout_waits_is_in_the_order_or_refused(
    shop: Shop, database: asyncpg.Connection, first: str
) -> None:
    tent, mug = await shop.product(), await shop.product(name="Mug")
    cart = await shop.cart((tent["id"], 1))

    async def add() -> tuple[int, Json]:
        answer = await shop.http.post(f"/carts/{cart}/items", json={"product_id": mug["id"], "quantity": 1})
        return answer.status_code, answer.json()

    calls: list[Callable[[], Awaitable[tuple[int, Json]]]] = [add, lambda: ask(shop, cart)]
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
        running = []
        for count, call in enumerate(calls if first == "the line" else reversed(calls), 1):
            running.append(asyncio.ensure_future(call()))
            await waiting(database, count)
    (one, one_body), (other, other_body) = await asyncio.gather(*running)

    if first == "the line":
        assert (one, other) == (200, 201)
        order = await shop.order(other_body["order_id"])
        assert [line["product_id"] for line in order["items"]] == [tent["id"], mug["id"]]
    else:
        assert (one, other, other_body["code"]) == (201, 409, "cart_not_open")
        assert other_body["order_id"] == one_body["order_id"]
        assert one_body["total_minor"] == 1250


@pytest.mark.parametrize(
    ("change", "expected_total", "code"),
    [
        ("price_minor = 1300", None, None),
        ("price_minor = 1300", 2500, "price_changed"),
        ("price_minor = 1", None, "amount_out_of_range"),
        ("active = false", None, "product_inactive"),
        ("stock = 1", None, "insufficient_stock"),
    ],
)
async def test_checkout_goes_by_what_it_waited_for(
    shop: Shop, database: asyncpg.Connection, change: str, expected_total: int | None, code: str | None
) -> None:
    tent = await shop.product()
    cart = await shop.cart((tent["id"], 2))
    async with database.transaction():
        await database.execute(f"UPDATE products SET {change}")
        if "stock" in change:
            await database.execute(
                "INSERT INTO stock_movements (product_id, delta, reason) VALUES ($1, -9, 'lost')", tent["id"]
            )
        body = {} if expected_total is None else {"expected_total_minor": expected_total}
        asking = asyncio.create_task(ask(shop, cart, **body))
        await waiting(database)
    status, answer = await asking
    if code is None:
        assert (status, answer["total_minor"]) == (201, 2600)
        assert (await shop.order(answer["order_id"]))["items"][0]["unit_price_minor"] == 1300
    else:
        assert (status, answer["code"]) == (409, code)
        assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"


async def test_staff_changes_products_while_they_are_bought(shop: Shop, database: asyncpg.Connection) -> None:
    tent = await shop.product(stock=40)
    path = f"/products/{tent['id']}"

    async def staff(method: str, path: str, body: Json) -> tuple[int, Json]:
        answer = await shop.http.request(method, path, json=body)
        return answer.status_code, {"code": f"staff {answer.json().get('code')}"}

    outcomes, bodies = await at_once(
        [
            *(ask(shop, cart) for cart in await carts(database, 30, (tent["id"], 1))),
            *(staff("POST", f"{path}/stock", {"delta": -1, "reason": "lost"}) for _ in range(20)),
            *(staff("PATCH", path, {"price_minor": 2000 + n}) for n in range(5)),
        ]
    )
    sold = outcomes[201, None]
    lost = 20 - outcomes[409, "staff insufficient_stock"]
    assert set(outcomes) <= {
        (201, None),
        (200, "staff None"),
        (409, "insufficient_stock"),
        (409, "staff insufficient_stock"),
    }
    assert sold + lost == 40
    assert {body["total_minor"] for body in bodies if "order_id" in body} <= {1250, *range(2000, 2005)}
    assert await shop.stock(tent["id"]) == 0


async def test_a_checkout_under_way_shuts_out_others_but_not_add_to_cart(
    shop: Shop, api_parts: Resources, database: asyncpg.Connection
) -> None:
    tent = await shop.product()
    buying, filling = await shop.cart((tent["id"], 1)), await shop.cart()
    async with api_parts.pool.acquire() as tx:
        reserving = tx.transaction()
        await reserving.start()
        reservation = checkout.Reservation(None, UUID(buying), None)
        assert isinstance(await checkout.reserve(tx, api_parts.settings, reservation, uuid4()), checkout.Reserved)
        await shop.add(filling, tent["id"])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await database.execute("SELECT FROM products FOR NO KEY UPDATE NOWAIT")
        await reserving.rollback()
    await shop.checkout(filling)
    assert await shop.stock(tent["id"]) == 9


@asynccontextmanager
async def crowd_at(resources: Resources, product_id: int) -> AsyncIterator[None]:
    """All places at a product taken."""
    async with AsyncExitStack() as crowd:
        for _ in range(resources.settings.db_pool_size // 3):
            await crowd.enter_async_context(resources.checkout_limiter.enter(product_id))
        yield


async def test_who_comes_upon_a_crowd_waits_in_it_without_a_connection(
    shop: Shop, api_parts: Resources, database: asyncpg.Connection
) -> None:
    tent, mug = await shop.product(), await shop.product(name="Mug")
    cart = await shop.cart((tent["id"], 1))

    async def waits() -> bool:
        status = await database.fetchval("SELECT status FROM carts WHERE id = $1", UUID(cart))
        pool = api_parts.pool
        return api_parts.checkout_limiter.contended and pool.get_idle_size() == pool.get_size() and status == "OPEN"

    async with crowd_at(api_parts, mug["id"]):
        async with crowd_at(api_parts, tent["id"]):
            placing = asyncio.create_task(checkout.checkout(api_parts, None, UUID(cart), None))
            assert await eventually(waits)
            # Whoever looked what the cart held before it waited, comes upon another crowd.
            await shop.add(cart, mug["id"])
        assert await eventually(waits)
        assert not placing.done()
    assert (await placing).status == 201
    assert not api_parts.checkout_limiter.contended
