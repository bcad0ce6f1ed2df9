"""Carts and checkout over HTTP."""

from fastapi import APIRouter, Request, Response
from pydantic import Field

from service.http import responses
from service.http.requests import (
    BIGINT_MAX,
    Body,
    CartId,
    Nothing,
    ProductId,
    client_of,
    integer_id,
    read,
    resources_of,
    uuid_id,
)
from service.http.responses import BODY_PROBLEMS, KEY_PROBLEMS, problems, takes
from service.shop import cart, checkout

router = APIRouter()

LINE_PROBLEMS = ("not_found", "cart_not_open", "product_inactive", "currency_mismatch")


class NewItem(Body):
    """Units of a product to add."""

    product_id: int = Field(ge=1, le=BIGINT_MAX)
    quantity: int = Field(ge=1, le=cart.MAX_QUANTITY)


class Quantity(Body):
    """Units that a line is to hold."""

    quantity: int = Field(ge=1, le=cart.MAX_QUANTITY)


class CheckoutRequest(Body):
    """The total that the customer was shown, if it is to hold."""

    expected_total_minor: int | None = Field(default=None, ge=0, le=BIGINT_MAX)


@router.post(
    "/carts",
    status_code=201,
    response_model=cart.Cart,
    responses=problems(*BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(Nothing, key=True, required=False),
)
async def create_cart(request: Request) -> Response:
    """An empty cart."""
    _, key = await read(request, Nothing)
    return responses.answer(await cart.create_cart(resources_of(request), key))


@router.get("/carts/{cart_id}", response_model=cart.Cart, responses=problems("not_found"))
async def get_cart(request: Request, cart_id: CartId) -> Response:
    """A cart at today's prices."""
    return responses.json(await cart.get_cart(resources_of(request), uuid_id(cart_id, "cart")))


@router.post(
    "/carts/{cart_id}/items",
    response_model=cart.Cart,
    responses=problems(*LINE_PROBLEMS, *BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(NewItem, key=True),
)
async def add_item(request: Request, cart_id: CartId) -> Response:
    """Add units to a line."""
    item, key = await read(request, NewItem)
    found = uuid_id(cart_id, "cart")
    return responses.answer(
        await cart.add_item(resources_of(request), key, found, product_id=item.product_id, quantity=item.quantity)
    )


@router.put(
    "/carts/{cart_id}/items/{product_id}",
    response_model=cart.Cart,
    responses=problems(*LINE_PROBLEMS, *BODY_PROBLEMS),
    openapi_extra=takes(Quantity),
)
async def set_item(request: Request, cart_id: CartId, product_id: ProductId) -> Response:
    """Set a line's units."""
    line, _ = await read(request, Quantity)
    found, product = uuid_id(cart_id, "cart"), integer_id(product_id, "product")
    return responses.answer(
        await cart.set_item(resources_of(request), found, product_id=product, quantity=line.quantity)
    )


@router.delete(
    "/carts/{cart_id}/items/{product_id}",
    response_model=cart.Cart,
    responses=problems("not_found", "cart_not_open"),
)
async def remove_item(request: Request, cart_id: CartId, product_id: ProductId) -> Response:
    """Remove a line; the cart, also where there was none."""
    found, product = uuid_id(cart_id, "cart"), integer_id(product_id, "product")
    return responses.answer(await cart.remove_item(resources_of(request), found, product))


@router.post(
    "/carts/{cart_id}/checkout",
    status_code=201,
    response_model=checkout.Checkout,
    responses={
        200: {"model": checkout.Checkout, "description": "The order that the cart has already"},
        **problems(
            "not_found",
            "cart_empty",
            "cart_not_open",
            "insufficient_stock",
            "product_inactive",
            "price_changed",
            "amount_out_of_range",
            "checkout_in_progress",
            "payment_refused",
            "payment_unavailable",
            "payment_misconfigured",
            *BODY_PROBLEMS,
            *KEY_PROBLEMS,
        ),
    },
    openapi_extra=takes(CheckoutRequest, key=True, required=False),
)
async def check_out(request: Request, cart_id: CartId) -> Response:
    """Reserve the stock and get the address to pay at."""
    wanted, key = await read(request, CheckoutRequest)
    found = uuid_id(cart_id, "cart")
    expected = wanted.expected_total_minor
    return responses.answer(
        await checkout.checkout(resources_of(request), key, found, expected, client=client_of(request))
    )
