"""Carts: lines of products in one currency. An open cart shows today's prices, a checked-out one its order's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal
from uuid import UUID

from service.errors import ShopError, invalid, not_found
from service.infra.db import Connection, connection
from service.infra.ids import new_id
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.money import Currency
from service.shop.principals import Principal

MAX_LINES = 100
MAX_QUANTITY = 9_999
# No cart has this id.
MAX_ID = UUID(int=2**128 - 1)

CartStatus = Literal["OPEN", "CHECKED_OUT"]


@dataclass(slots=True)
class Line:
    """A line; money in minor units of the cart's currency. `available` while its quantity is in stock."""

    product_id: int
    name: str
    quantity: int
    unit_price_minor: int
    line_total_minor: int
    active: bool
    available: bool


@dataclass(slots=True)
class Cart:
    """A cart as clients see it; the currency is null while the cart is empty.

    `replaced_by` is the cart that got the lines when a late payment checked this one out with those of its order.
    """

    id: UUID
    status: CartStatus
    items: list[Line]
    total_minor: int
    currency: Currency | None
    reference: str | None
    replaced_by: UUID | None


@dataclass(slots=True)
class CartRow:
    """A cart beside one of its lines, or beside nulls when it is empty."""

    id: UUID
    status: CartStatus
    currency: Currency | None
    reference: str | None
    replaced_by: UUID | None
    product_id: int | None
    quantity: int | None
    active: bool | None
    name: str | None
    unit_price_minor: int | None
    available: bool | None


@dataclass(slots=True)
class Refusal:
    """The state that explains a refused edit; nulls where the cart, product or live order does not exist."""

    cart_status: str | None
    cart_currency: str | None
    order_id: UUID | None
    product_active: bool | None
    product_currency: str | None


@dataclass(slots=True)
class ListedCart:
    """A cart in its owner's listing; `id` is the cursor. Its lines are in the cart itself."""

    id: UUID
    status: CartStatus
    currency: Currency | None
    reference: str | None
    created_at: datetime
    updated_at: datetime
    replaced_by: UUID | None


@dataclass(slots=True)
class CartPage:
    """A keyset page of carts, newest first."""

    items: Sequence[ListedCart]
    next_cursor: UUID | None


CREATE_CART = statement("cart/create_cart")
READ_CART = statement("cart/read_cart", CartRow)
OPEN_FOR_PRODUCT = statement("cart/open_for_product", int)
OPEN_CART = statement("cart/open_cart", UUID)
EXPLAIN_REFUSAL = statement("cart/explain_refusal", Refusal)
ADD_LINE = statement("cart/add_line", int)
SET_LINE = statement("cart/set_line")
REMOVE_LINE = statement("cart/remove_line")
FORGET_CURRENCY = statement("cart/forget_currency")
CHECK_OWNER = statement("cart/check_owner", UUID)
LIST_CARTS = statement("cart/list_carts", ListedCart)


async def create_cart(
    resources: Resources, key: IdempotencyKey | None, principal: Principal, *, reference: str | None = None
) -> StoredResponse:
    """201 with an empty Cart. It is the user's; of other principals nobody owns it."""

    async def create(tx: Connection) -> Cart:
        cart_id = new_id()
        await CREATE_CART.run(tx, cart_id=cart_id, user_id=principal.user_id, reference=reference)
        return Cart(cart_id, "OPEN", [], 0, None, reference, None)

    return await run_once(resources.pool, key, 201, create, location=lambda cart: f"/carts/{cart.id}", autocommit=True)


async def get_cart(resources: Resources, principal: Principal, cart_id: UUID) -> Cart:
    """The cart, read on a connection of its own. Staff with `orders:read` read every cart."""
    async with connection(resources.pool) as reader:
        return await read(reader, principal, cart_id, reads_all=principal.may("orders:read"))


async def read(reader: Connection, principal: Principal, cart_id: UUID, *, reads_all: bool = False) -> Cart:
    """The cart as this connection sees it; 404 when there is none, or it is another's and not `reads_all`."""
    rows = await READ_CART.all(reader, cart_id=cart_id, user_id=principal.user_id, reads_all=reads_all)
    if not rows:
        raise not_found("cart")
    lines = [
        Line(
            row.product_id,
            row.name,
            row.quantity,
            row.unit_price_minor,
            row.quantity * row.unit_price_minor,
            bool(row.active),
            bool(row.available),
        )
        for row in rows
        if row.product_id and row.name and row.quantity and row.unit_price_minor
    ]
    total = sum(line.line_total_minor for line in lines)
    first = rows[0]
    return Cart(cart_id, first.status, lines, total, first.currency, first.reference, first.replaced_by)


async def check_owner(tx: Connection, *, cart_id: UUID, user_id: str | None) -> None:
    """404 unless the user, or a guest, may change the cart: it is their own, or nobody's."""
    if await CHECK_OWNER.one_or_none(tx, cart_id=cart_id, user_id=user_id) is None:
        raise not_found("cart")


async def list_carts(resources: Resources, principal: Principal, *, before_id: UUID, limit: int) -> CartPage:
    """A page of the user's carts with ids below `before_id`, newest first."""
    assert principal.user_id is not None
    async with connection(resources.pool) as reader:
        page = await LIST_CARTS.all(reader, user_id=principal.user_id, before_id=before_id, limit=limit + 1)
    return CartPage(page[:limit], page[limit - 1].id if len(page) > limit else None)


async def add_item(
    resources: Resources,
    key: IdempotencyKey | None,
    principal: Principal,
    cart_id: UUID,
    *,
    product_id: int,
    quantity: int,
) -> StoredResponse:
    """200 with the Cart, after `quantity` units of the product were added."""

    async def add(tx: Connection) -> Cart:
        limit = await _lock_for_product(tx, resources, principal, cart_id, product_id=product_id)
        if not await ADD_LINE.one_or_none(
            tx, cart_id=cart_id, product_id=product_id, quantity=quantity, max_per_order=limit
        ):
            raise quantity_limited(product_id, allowed=limit)
        return await _read_within_limit(tx, principal, cart_id)

    async with resources.checkout_limiter.enter(cart_id):
        check = partial(check_owner, cart_id=cart_id, user_id=principal.user_id)
        return await run_once(resources.pool, key, 200, add, check=check)


async def set_item(
    resources: Resources, principal: Principal, cart_id: UUID, *, product_id: int, quantity: int
) -> StoredResponse:
    """200 with the Cart, after the product's line was set to `quantity` units."""

    async def set_line(tx: Connection) -> Cart:
        limit = await _lock_for_product(tx, resources, principal, cart_id, product_id=product_id)
        if quantity > limit:
            raise quantity_limited(product_id, allowed=limit)
        await SET_LINE.run(tx, cart_id=cart_id, product_id=product_id, quantity=quantity)
        return await _read_within_limit(tx, principal, cart_id)

    async with resources.checkout_limiter.enter(cart_id):
        return await run_once(resources.pool, None, 200, set_line)


async def remove_item(resources: Resources, principal: Principal, cart_id: UUID, product_id: int) -> StoredResponse:
    """200 with the Cart, after the product's line was removed if there was one."""

    async def remove(tx: Connection) -> Cart:
        if await OPEN_CART.one_or_none(tx, cart_id=cart_id, user_id=principal.user_id) is None:
            raise await _explain_refusal(tx, principal, cart_id, product_id)
        await REMOVE_LINE.run(tx, cart_id=cart_id, product_id=product_id)
        await FORGET_CURRENCY.run(tx, cart_id=cart_id)
        return await read(tx, principal, cart_id)

    async with resources.checkout_limiter.enter(cart_id):
        return await run_once(resources.pool, None, 200, remove)


async def _lock_for_product(
    tx: Connection, resources: Resources, principal: Principal, cart_id: UUID, *, product_id: int
) -> int:
    """Lock the cart if it is open and may contain the product, else raise the reason. Returns the line's limit."""
    limit = await OPEN_FOR_PRODUCT.one_or_none(
        tx,
        cart_id=cart_id,
        product_id=product_id,
        max_per_order=resources.settings.max_per_order,
        user_id=principal.user_id,
    )
    if limit is None:
        raise await _explain_refusal(tx, principal, cart_id, product_id)
    return limit


async def _read_within_limit(tx: Connection, principal: Principal, cart_id: UUID) -> Cart:
    """The locked cart; raises `invalid` when the new line made it too long."""
    cart = await read(tx, principal, cart_id)
    if len(cart.items) > MAX_LINES:
        raise invalid("/product_id", f"a cart may have at most {MAX_LINES} lines")
    return cart


async def _explain_refusal(tx: Connection, principal: Principal, cart_id: UUID, product_id: int) -> ShopError:
    """Why the cart could not be locked for an edit of this product."""
    state = await EXPLAIN_REFUSAL.one(tx, cart_id=cart_id, product_id=product_id, user_id=principal.user_id)
    if state.cart_status is None:
        return not_found("cart")
    if state.cart_status != "OPEN":
        return cart_not_open(state.order_id)
    if state.product_active is None:
        return not_found("product")
    if not state.product_active:
        return ShopError("product_inactive", "The product is not for sale.", product_id=product_id)
    if state.cart_currency is not None and state.cart_currency != state.product_currency:
        return ShopError(
            "currency_mismatch",
            "All lines of a cart must be in one currency.",
            cart_currency=state.cart_currency,
            product_currency=state.product_currency,
        )
    # The reason no longer applies.
    return ShopError("busy", "The cart is being changed by another request; try again.")


def quantity_limited(product_id: int, *, allowed: int) -> ShopError:
    """The 409 for more units of a product than the cart may have."""
    return ShopError("quantity_limited", "The cart may not have so many units.", product_id=product_id, allowed=allowed)


def cart_not_open(order_id: UUID | None) -> ShopError:
    """The 409 for a cart that was checked out, with the order it became."""
    return ShopError("cart_not_open", "The cart has been checked out.", order_id=order_id)
