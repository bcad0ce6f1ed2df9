"""`Idempotency-Key` on every POST that accepts one: one effect, one answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.infra.resources import Resources
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import checkout, idempotency, retention, sweep
from service.shop.idempotency import IdempotencyKey, StoredResponse
from tests.client import ADMIN_TOKEN, Shop
from tests.database import end_hold, wait_for_blocked


@dataclass
class Post:
    """A request that has an effect each time, with a second valid body and a query that counts its effects."""

    path: str
    body: bytes
    other_body: bytes
    effects: str


async def new_cart(shop: Shop, stripe: StripeStandin) -> Post:
    return Post("/carts", b"{}", b"{ }", "SELECT count(*) FROM carts")


async def add_item(shop: Shop, stripe: StripeStandin) -> Post:
    body = b'{"product_id": %d, "quantity": %%d}' % (await shop.create_product())["id"]
    return Post(f"/carts/{await shop.create_cart()}/items", body % 1, body % 2, "SELECT sum(quantity) FROM cart_items")


async def check_out(shop: Shop, stripe: StripeStandin) -> Post:
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    path = f"/carts/{cart}/checkout"
    return Post(path, b"", b'{"expected_total_minor": 1250}', "SELECT count(*) FROM orders")


async def cancel(shop: Shop, stripe: StripeStandin) -> Post:
    order_id = (await shop.checked_out_cart())["order_id"]
    effects = "SELECT count(*) FROM order_events WHERE to_status = 'CANCELLED'"
    return Post(f"/orders/{order_id}/cancel", b"", b"{ }", effects)


async def refund(shop: Shop, stripe: StripeStandin) -> Post:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed_order["order_id"], "PAID")
    path = f"/orders/{placed_order['order_id']}/refund"
    return Post(path, b'{"amount_minor": 100}', b'{"amount_minor": 200}', "SELECT count(*) FROM refunds")


async def new_product(shop: Shop, stripe: StripeStandin) -> Post:
    body = b'{"name": "Tent", "price_minor": %d, "currency": "EUR", "stock": 1}'
    return Post("/products", body % 1250, body % 1300, "SELECT count(*) FROM products")


async def new_category(shop: Shop, stripe: StripeStandin) -> Post:
    return Post("/categories", b'{"name": "Tents"}', b'{"name": "Mugs"}', "SELECT count(*) FROM categories")


async def move_stock(shop: Shop, stripe: StripeStandin) -> Post:
    path = f"/products/{(await shop.create_product())['id']}/stock"
    body = b'{"delta": %d, "reason": "delivery"}'
    return Post(path, body % 1, body % 2, "SELECT sum(stock) FROM products")


Make = Callable[[Shop, StripeStandin], Awaitable[Post]]
POSTS = [new_cart, add_item, check_out, cancel, refund, new_product, new_category, move_stock]
every_post = pytest.mark.parametrize("make", POSTS, ids=lambda make: make.__name__)


async def send(shop: Shop, path: str, body: bytes, key: str, **headers: str) -> httpx.Response:
    all_headers = {"Content-Type": "application/json", "Idempotency-Key": key, **headers}
    return await shop.http.post(path, content=body, headers=all_headers)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def is_replay(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


@every_post
async def test_a_repeated_key_replays_the_first_answer_without_an_effect(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, make: Make
) -> None:
    post = await make(shop, stripe)
    before = await database.fetchval(post.effects) or 0

    first = await send(shop, post.path, post.body, "a key")
    effects = await database.fetchval(post.effects)
    replay = await send(shop, post.path, post.body, "a key")
    other = await send(shop, post.path, post.other_body, "a key")

    assert first.is_success
    assert not is_replay(first)
    assert effects == before + 1
    assert is_replay(replay)
    assert (replay.status_code, replay.content) == (first.status_code, first.content)
    assert replay.headers.get("location") == first.headers.get("location")
    assert problem(other) == (422, "idempotency_key_reused")
    assert await database.fetchval(post.effects) == effects


@every_post
async def test_a_key_is_in_use_while_its_first_request_runs(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, make: Make
) -> None:
    post = await make(shop, stripe)
    # No webhook shall be the request that waits.
    stripe.set_webhooks(drop=True)

    async with database.transaction():
        # The first request has had its effect and waits to store its key.
        await database.execute("LOCK TABLE idempotency_keys IN SHARE MODE")
        running = asyncio.create_task(send(shop, post.path, post.body, "a key"))
        await wait_for_blocked(database)
        refused = await send(shop, post.path, post.body, "a key")
        assert problem(refused) == (409, "idempotency_key_in_use")
        assert int(refused.headers["retry-after"]) > 0

    first = await running
    assert first.is_success
    replay = await send(shop, post.path, post.body, "a key")
    assert (is_replay(replay), replay.content) == (True, first.content)


async def test_concurrent_requests_with_one_key_have_one_effect(shop: Shop, database: asyncpg.Connection) -> None:
    answers = await asyncio.gather(*(send(shop, "/carts", b"", "a key") for _ in range(20)))

    assert await database.fetchval("SELECT count(*) FROM carts") == 1
    succeeded = [answer for answer in answers if answer.is_success]
    assert [is_replay(answer) for answer in succeeded].count(False) == 1
    assert len({answer.content for answer in succeeded}) == 1
    assert {problem(answer) for answer in answers if answer.is_error} <= {(409, "idempotency_key_in_use")}


async def test_a_key_is_separate_for_each_path(shop: Shop, database: asyncpg.Connection) -> None:
    body = b'{"delta": 1, "reason": "delivery"}'
    paths = [f"/products/{(await shop.create_product(stock=0))['id']}/stock" for _ in range(2)]

    for path in paths:
        answer = await send(shop, path, body, "a key")
        assert (answer.status_code, is_replay(answer)) == (200, False)

    assert await database.fetchval("SELECT array_agg(stock) FROM products") == [1, 1]


@pytest.mark.parametrize("make", [add_item, check_out, cancel, refund], ids=lambda make: make.__name__)
async def test_a_key_is_the_same_for_every_spelling_of_an_id(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, make: Make
) -> None:
    post = await make(shop, stripe)
    before = await database.fetchval(post.effects) or 0
    first = await send(shop, post.path, post.body, "a key")
    _, kind, own_id, action = post.path.split("/")

    for spelled in (own_id.upper(), "".join(f"%{ord(letter):02x}" for letter in own_id)):
        replay = await send(shop, f"/{kind}/{spelled}/{action}", post.body, "a key")
        assert (is_replay(replay), replay.content) == (True, first.content), spelled

    assert await database.fetchval(post.effects) == before + 1


class TestDifferentClients:
    """Clients at different addresses, and staff, with the same key."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_TOKEN": ADMIN_TOKEN}

    async def test_each_client_address_gets_its_own_cart(self, shop: Shop, database: asyncpg.Connection) -> None:
        carts: dict[str, str] = {}

        for _ in range(2):
            for address in ("192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:1::2"):
                answer = await send(shop, "/carts", b"", "1", **{"X-Forwarded-For": address})
                assert answer.status_code == 201
                assert carts.setdefault(address, answer.json()["id"]) == answer.json()["id"]

        assert len(set(carts.values())) == 4
        # An unverified token makes no other client.
        assert problem(await send(shop, "/carts", b"", "1", Authorization="Bearer other")) == (401, "invalid_token")
        assert await database.fetchval("SELECT count(*) FROM carts") == 4

    async def test_a_client_without_an_address_gets_a_cart_each_time(self, settings: Settings) -> None:
        """A proxy on a Unix socket that does not pass on the client's address."""
        app = create_app(settings)
        transport = httpx.ASGITransport(app, client=None)  # type: ignore[arg-type]

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://s") as client,
        ):
            answers = [await client.post("/carts", headers={"Idempotency-Key": "1"}) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].json()["id"] != answers[1].json()["id"]

    async def test_staff_is_one_client_in_every_spelling_of_its_token(
        self, shop: Shop, database: asyncpg.Connection
    ) -> None:
        body = b'{"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1}'

        for number, authorization in enumerate(
            f"{scheme}{ADMIN_TOKEN}" for scheme in ("Bearer ", "bearer ", "Bearer  ")
        ):
            answer = await send(shop, "/products", body, "1", Authorization=authorization)
            assert (answer.status_code, is_replay(answer)) == (201, number > 0)
        assert problem(await send(shop, "/products", body, "1", Authorization="Bearer other")) == (401, "invalid_token")
        assert await database.fetchval("SELECT count(*) FROM products") == 1


@pytest.mark.parametrize("end", ["cancelled", "hold ended", "paid late"])
async def test_a_stored_checkout_is_forgotten_once_its_order_is_cancelled(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, end: str
) -> None:
    """The README uses the cart's id as the key of its checkout, which must not replay a cancelled order.

    After the order has ended, the same key makes a new order, unless the first one was paid late.
    """
    tent = await shop.create_product(stock=1)
    cart = await shop.create_cart((tent["id"], 1))
    path = f"/carts/{cart}/checkout"
    first = (await send(shop, path, b"", cart)).json()
    session_id = first["payment"]["stripe_session_id"]

    if end == "hold ended":
        await end_hold(database, first["order_id"])
        await sweep.sweep(resources)
    else:
        await shop.call("POST", f"/orders/{first['order_id']}/cancel", 200)
    if end == "paid late":
        stripe.session(session_id)["status"] = "open"
        stripe.pay(session_id)
        await shop.wait_for_order(first["order_id"], "PAID")
        assert problem(await send(shop, path, b"", cart)) == (409, "cart_not_open")
        return

    # Another body is accepted: the digest is forgotten with the response.
    body = b'{"expected_total_minor": 1250}'
    second = await send(shop, path, body, cart)
    assert (second.status_code, is_replay(second)) == (201, False)
    placed_order = second.json()
    assert placed_order["order_id"] != first["order_id"]
    assert placed_order["status"] == "PENDING_PAYMENT"

    replay = await send(shop, path, body, cart)
    assert (is_replay(replay), replay.content) == (True, second.content)
    assert problem(await send(shop, path, b"", cart)) == (422, "idempotency_key_reused")

    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed_order["order_id"], "PAID")
    assert await database.fetchval("SELECT count(*) FROM orders") == 2


async def test_a_refusal_is_not_stored(shop: Shop) -> None:
    tent = await shop.create_product(stock=0)
    cart = await shop.create_cart((tent["id"], 1))
    path = f"/carts/{cart}/checkout"

    assert problem(await send(shop, path, b"", "a key")) == (409, "insufficient_stock")

    await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": 1, "reason": "delivery"})
    answer = await send(shop, path, b"", "a key")
    assert (answer.status_code, is_replay(answer)) == (201, False)


async def test_a_key_is_forgotten_after_a_day(shop: Shop, database: asyncpg.Connection) -> None:
    first = await send(shop, "/carts", b"{}", "a key")
    shift = "UPDATE idempotency_keys SET created_at = created_at - interval '23 hours 59 minutes'"
    await database.execute(shift)

    assert is_replay(await send(shop, "/carts", b"{}", "a key"))

    await database.execute(shift)
    # Even another body is accepted.
    second = await send(shop, "/carts", b"{ }", "a key")
    assert (second.status_code, is_replay(second)) == (201, False)
    assert second.json()["id"] != first.json()["id"]

    again = await send(shop, "/carts", b"{ }", "a key")
    assert (is_replay(again), again.content) == (True, second.content)


async def test_keys_older_than_a_day_are_deleted(
    shop: Shop, database: asyncpg.Connection, resources: Resources
) -> None:
    await send(shop, "/carts", b"", "young")
    await database.execute(
        "INSERT INTO idempotency_keys (id, request_digest, status, answer, created_at)"
        " SELECT sha256(n::text::bytea), sha256(''), 201, '{}', now() - interval '24 hours 1 second'"
        " FROM generate_series(1, 2 * $1 + 1) AS n",
        sweep.BATCH,
    )

    await retention.delete_expired(resources)

    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 1
    assert is_replay(await send(shop, "/carts", b"", "young"))


@pytest.mark.parametrize(
    "keys",
    [[""], ["x" * 256], ["schlüssel".encode()], ["a\tb"], ["one", "two"]],
    ids=["empty", "long", "ü", "tab", "two"],
)
async def test_an_invalid_key_is_refused(shop: Shop, database: asyncpg.Connection, keys: list[str | bytes]) -> None:
    answer = await shop.http.post("/carts", headers=[("Idempotency-Key", key) for key in keys])  # type: ignore[misc]

    assert problem(answer) == (422, "invalid")
    assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"
    assert await database.fetchval("SELECT count(*) FROM carts") == 0


@pytest.mark.parametrize("key", ["x", "x" * 255, "two words"])
async def test_a_valid_key_is_accepted(shop: Shop, key: str) -> None:
    assert (await send(shop, "/carts", b"", key)).status_code == 201
    assert is_replay(await send(shop, "/carts", b"", key))


# Checkout, which stores its answer in a later transaction than its effect


async def test_a_checkout_that_died_after_its_reservation_is_resumed(
    shop: Shop, database: asyncpg.Connection, api_resources: Resources
) -> None:
    cart, order_id = await shop.create_cart(((await shop.create_product())["id"], 1)), uuid4()
    path = f"/carts/{cart}/checkout"
    # In an open demo everybody is one principal.
    key = IdempotencyKey.of(method="POST", path=path, principal="open", key="a key", body=b"{}")
    reservation = checkout.Reservation(key, UUID(cart), None)
    await run_transaction(
        api_resources.pool, lambda tx: checkout.reserve(tx, api_resources.settings, reservation, order_id)
    )

    # The claim of the dead checkout blocks others until it ends.
    assert problem(await send(shop, path, b"", "a key")) == (409, "checkout_in_progress")
    assert problem(await send(shop, path, b"{ }", "a key")) == (422, "idempotency_key_reused")

    await database.execute("UPDATE payments SET claimed_until = now() - interval '1 second'")
    answer = await send(shop, path, b"", "a key")
    assert (answer.status_code, answer.json()["order_id"], is_replay(answer)) == (200, str(order_id), False)
    replay = await send(shop, path, b"", "a key")
    assert (replay.status_code, replay.content, is_replay(replay)) == (200, answer.content, True)


async def test_a_checkout_that_stripe_did_not_answer_is_resumed(shop: Shop, stripe: StripeStandin) -> None:
    path = f"/carts/{await shop.create_cart(((await shop.create_product())['id'], 1))}/checkout"
    stripe.set_faults([{"action": "drop_after", "times": 1}])

    assert problem(await send(shop, path, b"", "a key")) == (503, "payment_unavailable")

    answer = await send(shop, path, b"", "a key")
    assert (answer.status_code, is_replay(answer)) == (200, False)
    assert is_replay(await send(shop, path, b"", "a key"))
    assert len(list(stripe.sessions)) == 1


async def test_the_key_of_an_order_that_stripe_refused_makes_a_new_order(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    path = f"/carts/{await shop.create_cart(((await shop.create_product())['id'], 1))}/checkout"
    stripe.set_faults([{"action": "status", "status": 402, "times": 1}])

    assert problem(await send(shop, path, b"", "a key")) == (502, "payment_refused")

    answer = await send(shop, path, b"", "a key")
    assert (answer.status_code, is_replay(answer)) == (201, False)
    statuses = await database.fetchval("SELECT array_agg(status ORDER BY number) FROM orders")
    assert statuses == ["CANCELLED", "PENDING_PAYMENT"]


async def test_a_stored_answer_is_never_replaced(api_resources: Resources) -> None:
    """Two checkouts with one key can both reach their answer; the first one stays."""
    key = IdempotencyKey.of(method="POST", path="/carts", principal="", key="a key", body=b"{}")
    for answer in (None, StoredResponse(201, b"first"), StoredResponse(200, b"second")):
        await run_transaction(api_resources.pool, lambda tx, answer=answer: idempotency.store_response(tx, key, answer))

    replay = await run_transaction(api_resources.pool, lambda tx: idempotency.find_stored_response(tx, key))

    assert replay == StoredResponse(201, b"first", replayed=True)
