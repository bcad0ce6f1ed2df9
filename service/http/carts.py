"""Carts and checkout over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import Field

from service.http import fields, requests, responses
from service.http.fields import CartId, Limit, ProductId
from service.http.openapi import problems
from service.http.policy import Caller, authorize
from service.http.requests import ClientKey, NoBody, PendingOrdersClient, ResourcesDep, SharedKey, no_unknown_query
from service.shop import cart, checkout, ownership

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

LINE_PROBLEMS = problems("cart_not_open", "product_inactive", "currency_mismatch", "quantity_limited")
Units = Annotated[int, Field(ge=1, le=cart.MAX_QUANTITY)]


class NewCart(requests.Body):
    """What the storefront calls the cart; its order gets it."""

    reference: fields.Reference | None = None


class NewItem(requests.Body):
    """Units of a product to add."""

    product_id: fields.Id
    quantity: Units


class Quantity(requests.Body):
    """The units of a line."""

    quantity: Units


class CheckoutRequest(requests.Body):
    """The total that the customer was shown; a different total is refused."""

    expected_total_minor: fields.Total | None = None


class OwnCartsQuery(requests.Query):
    """Which page of a user's own carts."""

    limit: Limit = 20
    after_id: UUID | None = None


OptionalNewCart = Annotated[NewCart, Body(default_factory=NewCart)]
OptionalCheckoutRequest = Annotated[CheckoutRequest, Body(default_factory=CheckoutRequest)]


@router.post("/carts", status_code=201, response_model=cart.Cart)
async def create_cart(new: OptionalNewCart, resources: ResourcesDep, key: ClientKey, principal: Caller) -> Response:
    """Create an empty cart. With an access token it is the user's own; otherwise its id is enough to use it."""
    return responses.stored(await cart.create_cart(resources, key, principal, reference=new.reference))


@router.get("/carts/{cart_id}")
async def get_cart(cart_id: CartId, resources: ResourcesDep, principal: Caller) -> cart.Cart:
    """Read a cart at today's prices."""
    return await cart.get_cart(resources, principal, cart_id)


@router.post("/carts/{cart_id}/items", response_model=cart.Cart, responses=LINE_PROBLEMS)
async def add_item(
    cart_id: CartId, item: NewItem, resources: ResourcesDep, key: SharedKey, principal: Caller
) -> Response:
    """Add units of a product to a cart."""
    return responses.stored(
        await cart.add_item(resources, key, principal, cart_id, product_id=item.product_id, quantity=item.quantity)
    )


@router.put("/carts/{cart_id}/items/{product_id}", response_model=cart.Cart, responses=LINE_PROBLEMS)
async def set_item(
    cart_id: CartId, product_id: ProductId, line: Quantity, resources: ResourcesDep, principal: Caller
) -> Response:
    """Set the units of a product in a cart."""
    return responses.stored(
        await cart.set_item(resources, principal, cart_id, product_id=product_id, quantity=line.quantity)
    )


@router.delete("/carts/{cart_id}/items/{product_id}", response_model=cart.Cart, responses=problems("cart_not_open"))
async def remove_item(cart_id: CartId, product_id: ProductId, resources: ResourcesDep, principal: Caller) -> Response:
    """Remove a product from a cart. A product that is not in the cart changes nothing."""
    return responses.stored(await cart.remove_item(resources, principal, cart_id, product_id))


@router.post("/carts/{cart_id}/claim", response_model=cart.Cart)
async def claim_cart(
    cart_id: CartId, resources: ResourcesDep, key: SharedKey, principal: Caller, _: NoBody
) -> Response:
    """Become the owner of a cart that has none, and of its orders.

    Once one of them has an e-mail address, the token's verified one must be the same.
    """
    return responses.stored(await ownership.claim_cart(resources, key, principal, cart_id))


@router.get("/me/carts")
async def list_own_carts(
    query: Annotated[OwnCartsQuery, Query()], resources: ResourcesDep, principal: Caller
) -> cart.CartPage:
    """List the user's own carts, newest first."""
    before_id = query.after_id or cart.MAX_ID
    return await cart.list_carts(resources, principal, before_id=before_id, limit=query.limit)


@router.post(
    "/carts/{cart_id}/checkout",
    status_code=201,
    response_model=checkout.Checkout,
    responses={
        200: {"model": checkout.Checkout, "description": "The cart's pending order, from an earlier request."},
        **problems(
            *("cart_empty", "cart_not_open", "insufficient_stock", "product_inactive", "price_changed"),
            *("quantity_limited", "amount_out_of_range", "checkout_in_progress"),
            *("payment_refused", "payment_unavailable", "payment_misconfigured"),
        ),
    },
)
async def check_out(
    cart_id: CartId,
    body: OptionalCheckoutRequest,
    resources: ResourcesDep,
    key: SharedKey,
    principal: Caller,
    client: PendingOrdersClient,
) -> Response:
    """Reserve the stock and create the payment session. If repeated while the order is pending, return that order."""
    return responses.stored(
        await checkout.checkout(
            resources, key, principal, cart_id, expected_total_minor=body.expected_total_minor, client=client
        )
    )
