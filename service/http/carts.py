"""Carts and checkout over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response
from pydantic import Field

from service.http import fields, requests, responses
from service.http.fields import CartId, ProductId
from service.http.openapi import problems
from service.http.policy import authorize
from service.http.requests import ClientKey, NoBody, PendingOrdersClient, ResourcesDep, SharedKey, no_unknown_query
from service.shop import cart, checkout

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

LINE_PROBLEMS = problems("cart_not_open", "product_inactive", "currency_mismatch", "quantity_limited")
Units = Annotated[int, Field(ge=1, le=cart.MAX_QUANTITY)]


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


OptionalCheckoutRequest = Annotated[CheckoutRequest, Body(default_factory=CheckoutRequest)]


@router.post("/carts", status_code=201, response_model=cart.Cart)
async def create_cart(resources: ResourcesDep, key: ClientKey, _: NoBody) -> Response:
    """Create an empty cart."""
    return responses.stored(await cart.create_cart(resources, key))


@router.get("/carts/{cart_id}")
async def get_cart(cart_id: CartId, resources: ResourcesDep) -> cart.Cart:
    """Read a cart at today's prices."""
    return await cart.get_cart(resources, cart_id)


@router.post("/carts/{cart_id}/items", response_model=cart.Cart, responses=LINE_PROBLEMS)
async def add_item(cart_id: CartId, item: NewItem, resources: ResourcesDep, key: SharedKey) -> Response:
    """Add units of a product to a cart."""
    return responses.stored(
        await cart.add_item(resources, key, cart_id, product_id=item.product_id, quantity=item.quantity)
    )


@router.put("/carts/{cart_id}/items/{product_id}", response_model=cart.Cart, responses=LINE_PROBLEMS)
async def set_item(cart_id: CartId, product_id: ProductId, line: Quantity, resources: ResourcesDep) -> Response:
    """Set the units of a product in a cart."""
    return responses.stored(await cart.set_item(resources, cart_id, product_id=product_id, quantity=line.quantity))


@router.delete("/carts/{cart_id}/items/{product_id}", response_model=cart.Cart, responses=problems("cart_not_open"))
async def remove_item(cart_id: CartId, product_id: ProductId, resources: ResourcesDep) -> Response:
    """Remove a product from a cart. A product that is not in the cart changes nothing."""
    return responses.stored(await cart.remove_item(resources, cart_id, product_id))


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
    cart_id: CartId, body: OptionalCheckoutRequest, resources: ResourcesDep, key: SharedKey, client: PendingOrdersClient
) -> Response:
    """Reserve the stock and create the payment session. If repeated while the order is pending, return that order."""
    expected = body.expected_total_minor
    return responses.stored(await checkout.checkout(resources, key, cart_id, expected, client=client))
