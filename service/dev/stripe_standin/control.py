"""/_control: what no shop can do at Stripe but tests and people want to. JSON in and out, open to all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .parameters import ApiError
from .payments import REFUND_STATUSES
from .store import Json

if TYPE_CHECKING:
    from .standin import StripeStandin

Change = Callable[[Request, Json], object]


def control_routes(standin: StripeStandin) -> list[Route]:
    """The routes, each answering 200 with JSON or Stripe's error body with its status."""

    def pay(request: Request, body: Json) -> object:
        return standin.pay(request.path_params["id"], email=body.get("email"), later=bool(body.get("later")))

    def settle(request: Request, body: Json) -> object:
        return standin.settle(request.path_params["id"], bool(body.get("succeed", True)))

    def decline(request: Request, body: Json) -> object:
        return standin.decline(request.path_params["id"])

    def set_refund(request: Request, body: Json) -> object:
        return standin.set_refund(request.path_params["id"], str(body.get("status")))

    def set_refund_status(request: Request, body: Json) -> object:
        """The status that new refunds have."""
        if body.get("status") not in REFUND_STATUSES:
            raise ApiError(400, f"A refund's status is one of {', '.join(REFUND_STATUSES)}.", param="status")
        standin.refund_status = body["status"]
        return body

    def dispute(request: Request, body: Json) -> object:
        return standin.dispute(str(body.get("payment_intent")))

    def set_faults(request: Request, body: Json) -> object:
        standin.set_faults(body["rules"])
        return body

    def clear_faults(request: Request, body: Json) -> object:
        standin.set_faults([])
        return {}

    def set_webhooks(request: Request, body: Json) -> object:
        return standin.set_webhooks(**body)

    def advance_clock(request: Request, body: Json) -> object:
        return {"now": standin.advance_clock(float(body["advance"]))}

    def ledger(request: Request, body: Json) -> object:
        return standin.ledger()

    def request_counts(request: Request, body: Json) -> object:
        return standin.requests

    def route(method: str, path: str, change: Change) -> Route:
        return Route(f"/_control{path}", answering(change, standin), methods=[method])

    return [
        route("POST", "/sessions/{id}/pay", pay),
        route("POST", "/sessions/{id}/settle", settle),
        route("POST", "/sessions/{id}/decline", decline),
        route("POST", "/refunds/{id}", set_refund),
        route("PUT", "/refunds", set_refund_status),
        route("POST", "/disputes", dispute),
        route("PUT", "/faults", set_faults),
        route("DELETE", "/faults", clear_faults),
        route("PUT", "/webhooks", set_webhooks),
        route("POST", "/clock", advance_clock),
        route("GET", "/ledger", ledger),
        route("GET", "/requests", request_counts),
    ]


def answering(change: Change, standin: StripeStandin) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint around a change: decodes the body (a list as {"rules": list}), commits the outcome."""

    async def endpoint(request: Request) -> Response:
        status = 200
        try:
            body = orjson.loads(await request.body() or b"{}")
            if isinstance(body, list):
                body = {"rules": body}
            if not isinstance(body, dict):
                raise TypeError("not an object")
            standin.catch_up()
            outcome = change(request, body)
        except ApiError as error:
            status, outcome = error.status, error.body
        except (KeyError, TypeError, ValueError) as error:
            status, outcome = 400, ApiError(400, f"The request was not understood: {error!r}").body
        standin.store.commit()
        return Response(orjson.dumps(outcome), status, media_type="application/json")

    return endpoint
