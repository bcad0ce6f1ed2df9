"""`python -m tests.bench.reserve_app PORT`: the service with one more route, which only reserves.

The route is checkout without the call to Stripe and what follows it.
"""

import sys

import uvicorn
from fastapi import FastAPI, Response

import service.app
from service.http import carts, responses
from service.http.carts import OptionalCheckoutRequest
from service.http.fields import CartId
from service.http.policy import POLICY, Caller
from service.http.requests import ResourcesDep, SharedKey
from service.http.server.protocol import UVICORN
from service.infra.ids import new_id
from service.shop import checkout


def create_app() -> FastAPI:
    """The application, with the settings of the environment."""
    POLICY["POST /bench/reserve/{cart_id}"] = "owner"
    carts.router.add_api_route("/bench/reserve/{cart_id}", reserve, methods=["POST"], include_in_schema=False)
    return service.app.create_process_app()


async def reserve(
    cart_id: CartId,
    checkout_request: OptionalCheckoutRequest,
    resources: ResourcesDep,
    key: SharedKey,
    principal: Caller,
) -> Response:
    """The first of checkout's transactions, decoded, retried and answered as the service does it."""
    order_id = new_id()
    expected = checkout_request.expected_total_minor
    reservation = checkout.Reservation(key, cart_id, expected, user_id=principal.user_id)
    outcome = await checkout.reserve_in_turn(resources, reservation, order_id)
    assert isinstance(outcome, checkout.Reserved)
    return responses.json({"order_id": order_id}, 201)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(sys.argv[1]), loop="uvloop", **UVICORN)
