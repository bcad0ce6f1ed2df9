"""Carts: lines of products, in one currency, priced when they are looked at; checked out, as they were ordered."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from service.errors import ShopError, invalid, not_found
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once

MAX_LINES = 100
MAX_QUANTITY = 9_999


@dataclass(slots=True)
class Line:
    """A line; money in minor units of the cart's currency."""

    product_id: int
    name: str
    quantity: int
    unit_price_minor: int
    line_total_minor: int


@dataclass(slots=True)
class Cart:
    """A cart as clients see it; currency is null while it is empty."""

    id: UUID
    status: str
    items: list[Line]
    total_minor: int
    currency: str | None


@dataclass(slots=True)
class CartRow:
    """A cart beside one of its lines, or beside nulls when it is empty."""

    id: UUID
    status: str
    currency: str | None
    product_id: int | None
    quantity: int | None
    name: str | None
    unit_price_minor: int | None


@dataclass(slots=True)
class CartId:
    """The cart that a statement holds."""

    id: UUID


@dataclass(slots=True)
class Refusal:
    """The state behind a refused edit; nulls where there is no such thing."""

    cart_status: str | None
    cart_currency: str | None
    order_id: UUID | None
    product_active: bool | None
    product_currency: str | None


CREATE_CART = Statement("cart/create_cart", NoRow)
READ_CART = Statement("cart/read_cart", CartRow)
OPEN_FOR_PRODUCT = Statement("cart/open_for_product", CartId)
OPEN_CART = Statement("cart/open_cart", CartId)
EXPLAIN_REFUSAL = Statement("cart/explain_refusal", Refusal)
ADD_LINE = Statement("cart/add_line", NoRow)
SET_LINE = Statement("cart/set_line", NoRow)
REMOVE_LINE = Statement("cart/remove_line", NoRow)
FORGET_CURRENCY = Statement("cart/forget_currency", NoRow)


async def create_cart(resources: Resources, key: IdempotencyKey | None) -> StoredResponse:
    """201 with an empty Cart."""

    async def create(tx: Connection) -> Cart:
        cart_id = uuid4()
        await CREATE_CART.run(tx, cart_id)
        return Cart(cart_id, "OPEN", [], 0, None)

    return await run_once(resources.pool, key, 201, create, lambda cart: f"/carts/{cart.id}", autocommit=True)


async def get_cart(resources: Resources, cart_id: UUID) -> Cart:
    """The cart at today's prices."""
    async with connection(resources.pool) as reader:
        return await read(reader, cart_id)


async def read(reader: Connection, cart_id: UUID) -> Cart:
    """The cart at today's prices, as this connection sees it."""
    rows = await READ_CART.all(reader, cart_id)
    if not rows:
        raise not_found("cart")
    lines = [
        Line(row.product_id, row.name, row.quantity, row.unit_price_minor, row.quantity * row.unit_price_minor)
        for row in rows
        if row.product_id and row.name and row.quantity and row.unit_price_minor
    ]
    total = sum(line.line_total_minor for line in lines)
    return Cart(cart_id, rows[0].status, lines, total, rows[0].currency)


async def add_item(
    resources: Resources, key: IdempotencyKey | None, cart_id: UUID, product_id: int, quantity: int
) -> StoredResponse:
    """200 with the Cart after `quantity` more units of the product."""
    async with resources.checkout_limiter.enter(cart_id):
        return await run_once(
            resources.pool, key, 200, lambda tx: put_line(tx, ADD_LINE, cart_id, product_id, quantity)
        )


async def set_item(resources: Resources, cart_id: UUID, product_id: int, quantity: int) -> StoredResponse:
    """200 with the Cart, its line set to `quantity` units."""
    async with resources.checkout_limiter.enter(cart_id):
        return await run_once(
            resources.pool, None, 200, lambda tx: put_line(tx, SET_LINE, cart_id, product_id, quantity)
        )


async def remove_item(resources: Resources, cart_id: UUID, product_id: int) -> StoredResponse:
    """200 with the Cart, without a line for the product; there may have been none."""
    async with resources.checkout_limiter.enter(cart_id):
        return await run_once(resources.pool, None, 200, lambda tx: remove_line(tx, cart_id, product_id))


async def put_line(tx: Connection, statement: Statement[NoRow], cart_id: UUID, product_id: int, quantity: int) -> Cart:
    """Hold the open cart, put the line, and read the whole cart while it is held."""
    if await OPEN_FOR_PRODUCT.maybe(tx, cart_id, product_id) is None:
        raise await refusal(tx, cart_id, product_id)
    await statement.run(tx, cart_id, product_id, quantity)
    cart = await read(tx, cart_id)
    if len(cart.items) > MAX_LINES:
        raise invalid("/product_id", f"a cart holds at most {MAX_LINES} lines")
    return cart


async def remove_line(tx: Connection, cart_id: UUID, product_id: int) -> Cart:
    """Hold the open cart, remove the line, and read the whole cart while it is held."""
    if await OPEN_CART.maybe(tx, cart_id) is None:
        raise await refusal(tx, cart_id, product_id)
    await REMOVE_LINE.run(tx, cart_id, product_id)
    await FORGET_CURRENCY.run(tx, cart_id)
    return await read(tx, cart_id)


async def refusal(tx: Connection, cart_id: UUID, product_id: int) -> ShopError:
    """Why the cart could not be held for this product."""
    seen = await EXPLAIN_REFUSAL.one(tx, cart_id, product_id)
    if seen.cart_status is None:
        return not_found("cart")
    if seen.cart_status != "OPEN":
        return cart_not_open(seen.order_id)
    if seen.product_active is None:
        return not_found("product")
    if not seen.product_active:
        return ShopError("product_inactive", "The product is not for sale.", product_id=product_id)
    if seen.cart_currency is not None and seen.cart_currency != seen.product_currency:
        return ShopError(
            "currency_mismatch",
            "All lines of a cart are in one currency.",
            cart_currency=seen.cart_currency,
            product_currency=seen.product_currency,
        )
    # What stood in the way is gone again.
    return ShopError("busy", "The cart is being changed by another request; try again.")


def cart_not_open(order_id: UUID | None) -> ShopError:
    """The 409 for a cart that was checked out, with the order it became."""
    return ShopError("cart_not_open", "The cart has been checked out.", order_id=order_id)
