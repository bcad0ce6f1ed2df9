"""Owners of carts and orders: how they get one, what it opens, and what happens at once with it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.db import Pool
from service.infra.resources import Resources
from service.infra.statements import Statement, files
from service.settings import Settings
from service.shop import cart, checkout, expiry, orders, ownership
from service.shop.erasure import erase
from service.shop.idempotency import IdempotencyKey, StoredResponse
from service.shop.principals import ADMIN, ERASED, GUEST, OPEN, Principal
from tests.client import Shop
from tests.conftest import login
from tests.database import checksum_tables, wait_for_blocked
from tests.shop.test_interleavings import StoppingPool
from tests.stripe_events import deliver, last_event
from tests.stripe_ledger import assert_ledgers_agree

EMAIL = "anna@example.com"
ANNA = Principal("user:anna", user_id="anna", email=EMAIL)
BOB = Principal("user:bob", user_id="bob", email="bob@example.com")
COMPLETED = "checkout.session.completed"

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


@pytest.fixture
async def eraser(settings: Settings, database_url: str) -> AsyncIterator[Pool]:
    """The pool of `commerce-core erase`, under its own role."""
    url = login(database_url, "eraser")
    async with aclosing(Pool(settings.model_copy(update={"database_url": url}), "commerce-erase")) as pool:
        yield pool


def body_of(response: StoredResponse) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(response.body)
    return body


async def new_cart(resources: Resources, principal: Principal, product_id: int) -> UUID:
    """A cart of this principal with one unit."""
    cart_id = UUID(body_of(await cart.create_cart(resources, None, principal))["id"])
    await cart.add_item(resources, None, principal, cart_id, product_id=product_id, quantity=1)
    return cart_id


async def new_order(resources: Resources, principal: Principal, cart_id: UUID) -> UUID:
    return UUID(body_of(await checkout.checkout(resources, None, principal, cart_id))["order_id"])


async def pay(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    order_id: UUID,
    email: str = EMAIL,
    *,
    later: bool = False,
) -> None:
    order = await orders.get_order(resources, ADMIN, order_id)
    assert order.payment.stripe_session_id
    stripe.pay(order.payment.stripe_session_id, email=email, later=later)
    assert await deliver(shop, last_event(stripe, COMPLETED)) == "applied"


async def outcome(work: Awaitable[StoredResponse]) -> int | str:
    """The status of a call, or the code of its problem."""
    try:
        return (await work).status
    except ShopError as error:
        return error.code


async def owners(database: asyncpg.Connection, cart_id: UUID) -> list[tuple[str | None, bool]]:
    """The owner of a cart, then those of its orders, each with whether it was claimed."""
    rows = await database.fetch(
        "SELECT user_id, false FROM carts WHERE id = $1 UNION ALL"
        " (SELECT user_id, claimed FROM orders WHERE cart_id = $1 ORDER BY number)",
        cart_id,
    )
    return [tuple(row) for row in rows]


# Set at creation


async def test_checkout_copies_the_owner(shop: Shop, api_resources: Resources, database: asyncpg.Connection) -> None:
    tent = (await shop.create_product())["id"]
    own, guests = [await new_cart(api_resources, principal, tent) for principal in (ANNA, GUEST)]

    await new_order(api_resources, ANNA, own)
    # The owner of a cart is who created it, not who checks it out.
    await new_order(api_resources, ANNA, guests)

    assert await owners(database, own) == [("anna", False), ("anna", False)]
    assert await owners(database, guests) == [(None, False), (None, False)]


@pytest.mark.parametrize("principal", [GUEST, ADMIN, OPEN, Principal("key:shop", frozenset({"storefront"}))])
async def test_only_a_user_owns_a_new_cart(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection, principal: Principal
) -> None:
    cart_id = await new_cart(api_resources, principal, (await shop.create_product())["id"])

    assert await owners(database, cart_id) == [(None, False)]


async def test_an_owner_reserves_with_the_statements_of_a_guest(shop: Shop, api_resources: Resources) -> None:
    tent = (await shop.create_product())["id"]
    recorded = {}
    for principal in (GUEST, ANNA):
        pool = StoppingPool(api_resources.pool)
        cart_id = await new_cart(api_resources, principal, tent)
        resources = replace(api_resources, pool=pool)  # type: ignore[arg-type]
        assert (await checkout.checkout(resources, None, principal, cart_id)).status == 201
        recorded[principal.actor] = pool.transactions

    assert recorded["customer"] == recorded["user:anna"]
    assert "checkout/reserve" in recorded["customer"][0]


async def test_a_cart_that_replaces_another_is_its_owners(
    shop: Shop, stripe: StripeStandin, api_resources: Resources, resources: Resources, database: asyncpg.Connection
) -> None:
    """A late payment restores the cart of its order; the lines that were added since move to a new cart."""
    tent, mug = [(await shop.create_product())["id"] for _ in range(2)]
    cart_id = await new_cart(api_resources, ANNA, tent)
    order_id = await new_order(api_resources, ANNA, cart_id)
    await expiry.cancel(api_resources, None, ANNA, order_id)
    await cart.add_item(api_resources, None, ANNA, cart_id, product_id=mug, quantity=1)
    order = await orders.get_order(api_resources, ANNA, order_id)
    stripe.session(order.payment.stripe_session_id)["status"] = "open"

    await pay(shop, stripe, api_resources, order_id)

    replaced_by = (await cart.get_cart(api_resources, ANNA, cart_id)).replaced_by
    assert replaced_by
    assert await owners(database, replaced_by) == [("anna", False)]
    with pytest.raises(ShopError, match="cart"):
        await cart.get_cart(api_resources, BOB, replaced_by)
    await assert_ledgers_agree(resources, stripe)


def test_only_a_claim_and_an_erasure_change_an_owner() -> None:
    """A claim changes no other owner: the mutants `claim_cart: owner` and `claim_orders: owner` remove that guard."""
    changes = re.compile(r"\bSET\b(?:(?!\b(?:FROM|WHERE|RETURNING)\b).)*\b(?:user_id|claimed) =", re.DOTALL)

    changing = {name for name in files() if changes.search(Statement(name).sql)}

    assert changing == {"ownership/claim_cart", "ownership/claim_orders", "erasure/erase_columns"}


# Claims


@pytest.mark.parametrize("by", ["cart", "order"])
async def test_a_claim_takes_a_cart_and_its_orders(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection, by: str
) -> None:
    """Once and again; another user gets 404 and changes nothing, staff too."""
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    cancelled = await new_order(api_resources, GUEST, cart_id)
    await expiry.cancel(api_resources, None, GUEST, cancelled)
    await new_order(api_resources, GUEST, cart_id)
    staff = replace(BOB, scopes=ADMIN.scopes)

    def claim(principal: Principal) -> Awaitable[StoredResponse]:
        if by == "cart":
            return ownership.claim_cart(api_resources, None, principal, cart_id)
        return ownership.claim_order(api_resources, None, principal, cancelled)

    assert await outcome(claim(ANNA)) == 200
    claimed = await checksum_tables(database)
    assert [await outcome(claim(principal)) for principal in (ANNA, BOB, staff)] == [200, "not_found", "not_found"]

    assert await owners(database, cart_id) == [("anna", False), ("anna", True), ("anna", True)]
    assert await checksum_tables(database) == claimed
    assert await outcome(expiry.cancel(api_resources, None, GUEST, cancelled)) == "not_found"


@pytest.mark.parametrize(
    ("email", "expected"),
    [
        (" Anna@Example.COM", 200),
        ("bob@example.com", "forbidden"),
        # The identity provider has verified no address.
        (None, "forbidden"),
    ],
)
async def test_a_claim_needs_the_address_of_every_order(
    shop: Shop,
    stripe: StripeStandin,
    api_resources: Resources,
    database: asyncpg.Connection,
    email: str | None,
    expected: int | str,
) -> None:
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    order_id = await new_order(api_resources, GUEST, cart_id)
    await pay(shop, stripe, api_resources, order_id)
    before = await owners(database, cart_id)
    user = replace(ANNA, email=email)

    assert await outcome(ownership.claim_cart(api_resources, None, user, cart_id)) == expected

    assert await owners(database, cart_id) == (before if expected != 200 else [("anna", False), ("anna", True)])
    assert await outcome(ownership.claim_order(api_resources, None, user, order_id)) == expected


async def test_a_claim_needs_the_address_of_a_payment_that_takes_days(
    shop: Shop, stripe: StripeStandin, api_resources: Resources
) -> None:
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    order_id = await new_order(api_resources, GUEST, cart_id)
    await pay(shop, stripe, api_resources, order_id, later=True)
    assert (await orders.get_order(api_resources, ADMIN, order_id)).payment.status == "PROCESSING"

    thief = replace(BOB, email="bob@example.com")
    assert await outcome(ownership.claim_order(api_resources, None, thief, order_id)) == "forbidden"
    assert await outcome(ownership.claim_order(api_resources, None, ANNA, order_id)) == 200


async def test_who_claimed_an_order_sees_its_address_only_as_their_own(
    shop: Shop, stripe: StripeStandin, api_resources: Resources
) -> None:
    """An order that was claimed before it was paid, by whoever knew its id, and one that its owner placed."""
    tent = (await shop.create_product())["id"]
    placed, claimed = [
        await new_order(api_resources, principal, await new_cart(api_resources, principal, tent))
        for principal in (ANNA, GUEST)
    ]
    await ownership.claim_order(api_resources, None, ANNA, claimed)
    for order_id in (placed, claimed):
        await pay(shop, stripe, api_resources, order_id)

    async def email_for(order_id: UUID, email: str | None, *scopes: Any) -> str | None:
        user = replace(ANNA, email=email, scopes=frozenset(scopes))
        return (await orders.get_order(api_resources, user, order_id)).email

    for address, in_claimed in ((EMAIL, EMAIL), ("Anna@example.com", EMAIL), ("other@example.com", None), (None, None)):
        assert await email_for(placed, address) == EMAIL
        assert await email_for(claimed, address) == in_claimed
    assert await email_for(claimed, None, "orders:read") == EMAIL
    assert (await orders.get_order(api_resources, ADMIN, placed)).email == EMAIL


async def test_a_guests_order_shows_no_address(shop: Shop, stripe: StripeStandin, api_resources: Resources) -> None:
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    order_id = await new_order(api_resources, GUEST, cart_id)
    await pay(shop, stripe, api_resources, order_id)

    for principal in (GUEST, ANNA):
        assert (await orders.get_order(api_resources, principal, order_id)).email is None


# At once

Claims = Callable[[Resources, UUID, UUID], Awaitable[StoredResponse]]


async def test_of_two_claims_at_once_one_wins(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection, database_url: str
) -> None:
    """Both wait for the cart; whoever comes second finds it owned."""
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    order_id = await new_order(api_resources, GUEST, cart_id)
    observer = await asyncpg.connect(database_url)
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", cart_id)
        claims = [
            asyncio.create_task(outcome(ownership.claim_cart(api_resources, None, ANNA, cart_id))),
            asyncio.create_task(outcome(ownership.claim_order(api_resources, None, BOB, order_id))),
        ]
        await wait_for_blocked(observer, 2)
    await observer.close()

    ends = dict(zip(("anna", "bob"), await asyncio.gather(*claims), strict=True))

    assert sorted(ends.values(), key=str) == [200, "not_found"]
    winner = next(name for name, end in ends.items() if end == 200)
    assert await owners(database, cart_id) == [(winner, False), (winner, True)]


async def test_a_checkout_that_waits_for_a_claim_is_a_strangers(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection, database_url: str
) -> None:
    """A guest's checkout and edit wait while the cart is claimed: they get 404 and change nothing."""
    tent = (await shop.create_product())["id"]
    cart_id = await new_cart(api_resources, GUEST, tent)
    observer = await asyncpg.connect(database_url)
    async with database.transaction():
        await database.execute("UPDATE carts SET user_id = 'anna' WHERE id = $1", cart_id)
        # The limiter lets one request in a process ask for a cart at a time.
        waiting = asyncio.create_task(outcome(checkout.checkout(api_resources, None, GUEST, cart_id)))
        await wait_for_blocked(observer)
    assert await waiting == "not_found"
    async with database.transaction():
        await database.execute("UPDATE carts SET updated_at = now() WHERE id = $1", cart_id)
        adding = cart.add_item(api_resources, None, GUEST, cart_id, product_id=tent, quantity=1)
        assert await outcome(adding) == "not_found", "a stranger waits for the lock"
    await observer.close()

    assert await owners(database, cart_id) == [("anna", False)]
    assert await shop.get_stock(tent) == 10


@pytest.mark.parametrize("first", ["claim", "erase"])
async def test_an_erasure_and_a_claim_at_once_leave_no_owner(
    shop: Shop,
    stripe: StripeStandin,
    api_resources: Resources,
    eraser: Pool,
    database: asyncpg.Connection,
    database_url: str,
    first: str,
) -> None:
    """Stop the first after its first statement. The second waits for the cart, and then sees what the first did."""
    cart_id = await new_cart(api_resources, GUEST, (await shop.create_product())["id"])
    order_id = await new_order(api_resources, GUEST, cart_id)
    await pay(shop, stripe, api_resources, order_id)
    pool = StoppingPool(api_resources.pool if first == "claim" else eraser, stop=(0, 0))
    stopping: Any = pool
    claim = ownership.claim_cart(
        replace(api_resources, pool=stopping) if first == "claim" else api_resources, None, ANNA, cart_id
    )
    erasure = erase(stopping if first == "erase" else eraser, order_id)
    works: list[Awaitable[Any]] = [outcome(claim), erasure]

    tasks = [asyncio.ensure_future(work) for work in (works if first == "claim" else works[::-1])[:1]]
    await pool.stopped.wait()
    tasks.append(asyncio.ensure_future((works if first == "claim" else works[::-1])[1]))
    await wait_for_blocked(database)
    pool.resume.set()
    ends = await asyncio.gather(*tasks)

    assert ends[0 if first == "claim" else 1] == (200 if first == "claim" else "not_found")
    assert [owner for owner, _ in await owners(database, cart_id)] == [ERASED, ERASED]


# Stored responses


async def test_a_stored_response_is_replayed_to_whom_may_still_make_the_call(
    shop: Shop, api_resources: Resources, database: asyncpg.Connection
) -> None:
    """A guest's calls with a key; the order is then claimed. The guest gets 404, also with another body."""
    tent = (await shop.create_product())["id"]
    cart_id = await new_cart(api_resources, GUEST, tent)

    def key(path: str, body: bytes = b"{}") -> IdempotencyKey:
        return IdempotencyKey.of(method="POST", path=path, principal="", key="a key", body=body)

    async def add(principal: Principal, body: bytes = b"{}") -> StoredResponse:
        return await cart.add_item(api_resources, key("items", body), principal, cart_id, product_id=tent, quantity=1)

    async def check_out(principal: Principal, body: bytes = b"{}") -> StoredResponse:
        return await checkout.checkout(api_resources, key("checkout", body), principal, cart_id)

    async def cancel(principal: Principal, body: bytes = b"{}") -> StoredResponse:
        return await expiry.cancel(api_resources, key("cancel", body), principal, order_id)

    await add(GUEST)
    order_id = UUID(body_of(await check_out(GUEST))["order_id"])
    assert (await check_out(GUEST)).replayed
    await ownership.claim_order(api_resources, None, ANNA, order_id)
    for call in (add, check_out):
        assert (await call(ANNA)).replayed
        for stranger in (GUEST, BOB):
            assert await outcome(call(stranger)) == "not_found"
            assert await outcome(call(stranger, b"another")) == "not_found"
    await cancel(ANNA)
    before = await checksum_tables(database)

    assert (await cancel(ANNA)).replayed
    assert [await outcome(cancel(stranger)) for stranger in (GUEST, BOB)] == ["not_found", "not_found"]

    assert await checksum_tables(database) == before


# Erasing


async def test_an_erased_order_has_no_owner(
    shop: Shop, stripe: StripeStandin, api_resources: Resources, eraser: Pool, database: asyncpg.Connection
) -> None:
    """Of an owner and of a guest: neither reads it any more, staff do. A stored response has no address left."""
    tent = (await shop.create_product())["id"]
    for principal in (ANNA, GUEST):
        cart_id = await new_cart(api_resources, principal, tent)
        order_id = await new_order(api_resources, principal, cart_id)
        await pay(shop, stripe, api_resources, order_id)
        key = IdempotencyKey.of(method="POST", path="/claim", principal=f"{order_id}", key="a key", body=b"{}")
        response = await ownership.claim_order(api_resources, key, ANNA, order_id)
        assert body_of(response)["email"] is None
        assert (await orders.get_order(api_resources, ANNA, order_id)).email == EMAIL

        await erase(eraser, order_id)

        assert [owner for owner, _ in await owners(database, cart_id)] == [ERASED, ERASED]
        for stranger in (ANNA, GUEST):
            with pytest.raises(ShopError, match="order"):
                await orders.get_order(api_resources, stranger, order_id)
            with pytest.raises(ShopError, match="cart"):
                await cart.get_cart(api_resources, stranger, cart_id)
        assert await outcome(ownership.claim_order(api_resources, key, ANNA, order_id)) == "not_found"
        assert (await orders.get_order(api_resources, ADMIN, order_id)).email is None
    answers = await database.fetch("SELECT answer FROM idempotency_keys")
    assert [orjson.loads(answer)["email"] for (answer,) in answers] == [None, None]
    assert not any(b"anna" in answer for (answer,) in answers)


async def test_the_owner_of_another_order_of_the_cart_stays(
    shop: Shop, stripe: StripeStandin, api_resources: Resources, eraser: Pool, database: asyncpg.Connection
) -> None:
    cart_id = await new_cart(api_resources, ANNA, (await shop.create_product())["id"])
    cancelled = await new_order(api_resources, ANNA, cart_id)
    await expiry.cancel(api_resources, None, ANNA, cancelled)
    order_id = await new_order(api_resources, ANNA, cart_id)

    await erase(eraser, cancelled)

    assert [owner for owner, _ in await owners(database, cart_id)] == ["anna", ERASED, "anna"]
    await pay(shop, stripe, api_resources, order_id)
    await erase(eraser, order_id)
    assert [owner for owner, _ in await owners(database, cart_id)] == [ERASED, ERASED, ERASED]


# Lists


async def test_a_user_lists_their_own(shop: Shop, api_resources: Resources) -> None:
    """Newest first, a page after the other; nothing of others, of nobody's or of what was erased."""
    tent = (await shop.create_product())["id"]
    carts = [await new_cart(api_resources, principal, tent) for principal in (ANNA, BOB, GUEST, ANNA)]
    placed = [
        await new_order(api_resources, principal, cart_id)
        for principal, cart_id in zip((ANNA, BOB, GUEST, ANNA), carts, strict=True)
    ]

    first = await cart.list_carts(api_resources, ANNA, before_id=cart.MAX_ID, limit=1)
    assert first.next_cursor
    second = await cart.list_carts(api_resources, ANNA, before_id=first.next_cursor, limit=1)
    newest = await orders.list_own_orders(api_resources, ANNA, before_number=2**62, limit=1)
    assert newest.next_cursor
    oldest = await orders.list_own_orders(api_resources, ANNA, before_number=newest.next_cursor, limit=1)

    assert [listed.id for listed in (*first.items, *second.items)] == [carts[3], carts[0]]
    assert [listed.id for listed in (*newest.items, *oldest.items)] == [placed[3], placed[0]]
    assert (second.next_cursor, oldest.next_cursor) == (None, None)
    assert {listed.status for listed in first.items} == {"CHECKED_OUT"}
