"""Claims: a user becomes the owner of a cart that nobody owns, and of its orders.

The id of a cart or order may have leaked. So once a payment has told us an e-mail address, the user's verified address
must be the same.
"""

from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.shop import cart, orders, personal_data
from service.shop.cart import Cart
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.orders import Order, OrderRow
from service.shop.principals import Principal

CLAIM_CART = statement("ownership/claim_cart", UUID)
CLAIM_ORDERS = statement("ownership/claim_orders", str)


async def claim_cart(
    resources: Resources, key: IdempotencyKey | None, principal: Principal, cart_id: UUID
) -> StoredResponse:
    """200 with the Cart, which is the user's, with its orders; also if it was before.

    Raises `not_found` for another's cart, `forbidden` where one of its orders has another e-mail address.
    """

    async def claim(tx: Connection) -> Cart:
        await _claim(tx, principal, cart_id)
        return await read(tx)

    async def read(tx: Connection) -> Cart:
        return await cart.read(tx, principal, cart_id)

    return await run_once(resources.pool, key, 200, claim, check=read)


async def claim_order(
    resources: Resources, key: IdempotencyKey | None, principal: Principal, order_id: UUID
) -> StoredResponse:
    """200 with the Order, which is the user's, with its cart and the cart's other orders. Raises as `claim_cart`."""

    async def claim(tx: Connection) -> Order:
        await _claim(tx, principal, (await read(tx)).cart_id)
        return await orders.view(tx, principal, await read(tx))

    async def read(tx: Connection) -> OrderRow:
        return await orders.read(tx, principal, order_id, scope=None)

    return await run_once(resources.pool, key, 200, claim, order_id=order_id, check=read)


async def _claim(tx: Connection, principal: Principal, cart_id: UUID) -> None:
    """Make the user the owner of a cart and of its orders, if nobody owns the cart."""
    user_id = principal.user_id
    assert user_id is not None
    if await CLAIM_CART.one_or_none(tx, cart_id=cart_id, user_id=user_id) is None:
        return
    for email in await CLAIM_ORDERS.all(tx, cart_id=cart_id, user_id=user_id):
        if email is not None and not personal_data.same_email(email, principal.email):
            raise ShopError("forbidden", "The order has another e-mail address than your account's verified one.")
