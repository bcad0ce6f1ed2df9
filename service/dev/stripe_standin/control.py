"""/_control: changes for tests and people that no API call can make. JSON in and out, without authentication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .faults import Faults
from .payments import REFUND_STATUSES, Payments
from .replies import ApiError
from .store import Json
from .webhooks import Deliverer

Change: TypeAlias = Callable[[Request, Json], object]


def control_routes(payments: Payments, faults: Faults, deliverer: Deliverer, requests: Counter[str]) -> list[Route]:
    """The routes; each answers 200 with JSON, or Stripe's error body with its status."""

    def pay(request: Request, body: Json) -> object:
        return payments.pay(request.path_params["id"], email=body.get("email"), later=bool(body.get("later")))

    def settle(request: Request, body: Json) -> object:
        return payments.settle(request.path_params["id"], bool(body.get("succeed", True)))

    def decline(request: Request, body: Json) -> object:
        return payments.decline(request.path_params["id"])

    def set_refund(request: Request, body: Json) -> object:
        return payments.set_refund(request.path_params["id"], str(body.get("status")))

    def set_refund_status(request: Request, body: Json) -> object:
        """The status of new refunds."""
        if body.get("status") not in REFUND_STATUSES:
            raise ApiError(400, f"A refund's status is one of {', '.join(REFUND_STATUSES)}.", param="status")
        payments.refund_status = body["status"]
        return body

    def dispute(request: Request, body: Json) -> object:
        return payments.dispute(str(body.get("payment_intent")))

    def set_faults(request: Request, body: Json) -> object:
        faults.set(body["rules"])
        return body

    def clear_faults(request: Request, body: Json) -> object:
        faults.set([])
        return {}

    def set_webhooks(request: Request, body: Json) -> object:
        return deliverer.change(**body)

    def advance_clock(request: Request, body: Json) -> object:
        return {"now": payments.advance_clock(float(body["advance"]))}

    def ledger(request: Request, body: Json) -> object:
        return payments.ledger()

    def request_counts(request: Request, body: Json) -> object:
        return requests

    def route(method: str, path: str, change: Change) -> Route:
        return Route(f"/_control{path}", endpoint(payments, change), methods=[method])

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


def endpoint(payments: Payments, change: Change) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for a change: decodes the body (a list as {"rules": list}) and commits the outcome."""

    async def answer(request: Request) -> Response:
        status = 200
        try:
            body = orjson.loads(await request.body() or b"{}")
            if isinstance(body, list):
                body = {"rules": body}
            if not isinstance(body, dict):
                raise TypeError("not an object")
            payments.catch_up()
            outcome = change(request, body)
        except ApiError as error:
            status, outcome = error.status, error.body
        except (KeyError, TypeError, ValueError) as error:
            status, outcome = 400, ApiError(400, f"Invalid request: {error!r}").body
        payments.store.commit()
        return Response(orjson.dumps(outcome), status, media_type="application/json")

    return answer
