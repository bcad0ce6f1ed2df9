"""`python -m tests.bench.reserve_app PORT`: the service with one more route, which only reserves.

The route is checkout without the call to Stripe and what follows it.
"""

import sys
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request, Response

import service.app
from service.http import carts, responses
from service.http.carts import CheckoutRequest
from service.http.requests import CartId, read, resources_of, uuid_id
from service.http.server.protocol import UVICORN
from service.shop import checkout


def create_app() -> FastAPI:
    """The application, with the settings of the environment."""
    carts.router.add_api_route("/bench/reserve/{cart_id}", reserve, methods=["POST"])
    return service.app.create_process_app()


async def reserve(request: Request, cart_id: CartId) -> Response:
    """Checkout's first transaction, decoded, retried and answered as the service does."""
    body, key = await read(request, CheckoutRequest)
    resources, order_id, cart = resources_of(request), uuid4(), uuid_id(cart_id, "cart")
    reservation = checkout.Reservation(key, cart, body.expected_total_minor)
    outcome = await checkout.reserve_in_turn(resources, reservation, order_id)
    assert isinstance(outcome, checkout.Reserved)
    return responses.json({"order_id": order_id}, 201)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(sys.argv[1]), loop="uvloop", **UVICORN)
