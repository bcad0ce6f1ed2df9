"""/_control: changes for tests and people that no API call can make. JSON in and out, without authentication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .account import Account
from .faults import Faults
from .parameters import Parameters
from .payments import METHODS
from .rate_limit import RateLimit
from .refunds import STATUSES as REFUND_STATUSES
from .refunds import require_status
from .replies import ApiError
from .store import Json
from .webhooks import Deliverer

Change: TypeAlias = Callable[[str, Json], object]


@dataclass(frozen=True, slots=True)
class Control:
    """One call: `change` takes the id in the path, "" where there is none, and the body."""

    method: str
    path: str
    says: str
    # A body that is taken; every member is optional unless `says` says otherwise.
    example: object
    change: Change

    def described(self) -> Json:
        return {"call": f"{self.method} /_control{self.path}", "does": self.says, "example": self.example}


def control_routes(
    account: Account,
    faults: Faults,
    deliverer: Deliverer,
    *,
    rate_limit: RateLimit,
    requests: Counter[str],
    restrict_key: Callable[[str, list[str]], None],
) -> list[Route]:
    """The routes; each answers 200 with JSON, or Stripe's error body with its status."""

    def set_refund_status(_: str, body: Json) -> object:
        require_status(str(body.get("status")))
        account.refund_status = body["status"]
        return body

    def create_refund(_: str, body: Json) -> object:
        return account.create_refund(Parameters({name: str(value) for name, value in body.items()}))

    def set_faults(_: str, body: Json) -> object:
        faults.set(body["rules"])
        return body

    def clear_faults(_: str, body: Json) -> object:
        faults.set([])
        return {}

    def set_rate_limit(_: str, body: Json) -> object:
        rate_limit.set(**body)
        return body

    def set_api_version(_: str, body: Json) -> object:
        account.api_version = str(body["api_version"])
        return body

    def set_permissions(key: str, body: Json) -> object:
        restrict_key(key, body["permissions"])
        return body

    def emit_event(_: str, body: Json) -> object:
        return account.emit_event(body["type"], body["object"], body.get("previous_attributes"))

    controls = [
        Control("GET", "", "Lists these calls.", None, lambda _, body: [c.described() for c in controls]),
        Control(
            "POST",
            "/sessions/{id}/pay",
            "The customer pays. A sepa_debit settles, and a boleto is paid, by `settle`; `settles_in` seconds later"
            " the one settles and the other fails. `no_payment`: a discount leaves nothing to pay."
            f" Methods: {', '.join(METHODS)}.",
            {"method": "card", "email": "jo@example.com"},
            lambda session_id, body: account.pay(session_id, **body),
        ),
        Control(
            "POST",
            "/sessions/{id}/settle",
            "The money of a sepa_debit or boleto arrives, or the payment fails.",
            {"succeed": True},
            lambda session_id, body: account.settle(session_id, bool(body.get("succeed", True))),
        ),
        Control(
            "POST",
            "/sessions/{id}/require-action",
            "The bank asks for 3-D Secure: `pay` passes it, `decline` fails it.",
            {},
            lambda session_id, body: account.require_action(session_id),
        ),
        Control(
            "POST",
            "/sessions/{id}/decline",
            "The card is declined, or 3-D Secure fails; the session stays open.",
            {},
            lambda session_id, body: account.decline(session_id),
        ),
        Control(
            "POST",
            "/sessions/{id}/expand-intent",
            "From now on, `payment_intent` of the session is shown as an object.",
            {},
            lambda session_id, body: account.expand_intent(session_id),
        ),
        Control(
            "POST",
            "/objects/{id}",
            "From now on, the API and events show these members of a session, payment intent, charge, refund or"
            " dispute in place of the true ones.",
            {"payment_intent": None},
            lambda object_id, body: account.show(object_id, **body),
        ),
        Control(
            "PUT",
            "/refunds",
            f"The status of new refunds: {', '.join(REFUND_STATUSES)}.",
            {"status": "succeeded"},
            set_refund_status,
        ),
        Control(
            "POST",
            "/refunds",
            "A refund made in Stripe's dashboard; `payment_intent` is required.",
            {"payment_intent": "pi_…", "amount": 100},
            create_refund,
        ),
        Control(
            "POST",
            "/refunds/{id}",
            "Changes a refund's status; `status` is required. A succeeded refund can fail, weeks later too.",
            {"status": "failed", "failure_reason": "expired_or_canceled_card"},
            lambda refund_id, body: account.set_refund(refund_id, **body),
        ),
        Control(
            "POST",
            "/disputes",
            "The bank disputes a payment; `payment_intent` is required. `warning_needs_response` is an inquiry, which"
            " moves no money.",
            {"payment_intent": "pi_…", "amount": 100, "reason": "fraudulent", "status": "needs_response"},
            lambda _, body: account.dispute(str(body.pop("payment_intent", None)), **body),
        ),
        Control(
            "POST",
            "/disputes/{id}",
            "Changes a dispute's status: under_review, won, lost, appeal_needs_response, appeal_under_review; for an"
            " inquiry warning_under_review, warning_closed, prevented, needs_response.",
            {"status": "won"},
            lambda dispute_id, body: account.set_dispute(dispute_id, **body),
        ),
        Control(
            "POST",
            "/events",
            "Records and delivers any event about any object.",
            {"type": "refund.updated", "object": {"id": "re_1", "object": "refund"}, "previous_attributes": {}},
            emit_event,
        ),
        Control(
            "PUT",
            "/faults",
            "Replaces the rules of which API calls fail; faults.py explains their members.",
            [{"method": "POST", "path": "/v1/checkout/session[s]", "action": "status", "status": 503, "times": 1}],
            set_faults,
        ),
        Control("DELETE", "/faults", "Removes all rules.", None, clear_faults),
        Control(
            "PUT",
            "/rate-limit",
            "Admits so many requests a second for each endpoint and in total, as Stripe does; null admits any number.",
            {"endpoint": 25, "total": None},
            set_rate_limit,
        ),
        Control(
            "PUT",
            "/account",
            "The account's API version: its new events are listed in the shapes of this version, and delivered so to an"
            " endpoint that has none of its own. Below 2024-10-28 there are no events refund.*.",
            {"api_version": "2023-10-16"},
            set_api_version,
        ),
        Control(
            "PUT",
            "/keys/{id}",
            "A restricted key has these permissions only, by Stripe's names: read or write of checkout_session, charge"
            " (refunds), payment_intent, event. A key that was never restricted may do everything.",
            {"permissions": ["rak_checkout_session_write", "rak_event_read"]},
            set_permissions,
        ),
        Control(
            "PUT",
            "/webhooks",
            "Changes how events are delivered: paused, multiplied, shuffled, dropped; with the shapes of an older"
            " `api_version`; with `style` thin; for a connected `account`.",
            {"paused": False, "copies": 1, "shuffle": False, "drop": False, "api_version": None,
             "style": "snapshot", "account": None, "context": None},
            lambda _, body: deliverer.change(**body),
        ),
        Control(
            "POST",
            "/clock",
            "Shifts the clock forward by seconds: sessions expire, payments settle, vouchers fail.",
            {"advance": 1800},
            lambda _, body: {"now": account.advance_clock(float(body["advance"]))},
        ),
        Control(
            "GET", "/ledger", "Every captured payment, and every open session.", None, lambda _, body: account.ledger()
        ),
        Control("GET", "/requests", "How often each API call was made.", None, lambda _, body: requests),
    ]  # fmt: skip
    return [Route(f"/_control{c.path}", endpoint(account, c.change), methods=[c.method]) for c in controls]


def endpoint(account: Account, change: Change) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for a change: decodes the body (a list as {"rules": list}) and commits the outcome."""

    async def answer(request: Request) -> Response:
        status = 200
        try:
            body: Any = orjson.loads(await request.body() or b"{}")
            if isinstance(body, list):
                body = {"rules": body}
            if not isinstance(body, dict):
                raise TypeError("not an object")
            account.catch_up()
            outcome = change(request.path_params.get("id", ""), body)
        except ApiError as error:
            status, outcome = error.status, error.body
        except (KeyError, TypeError, ValueError) as error:
            status, outcome = 400, ApiError(400, f"Invalid request: {error!r}").body
        account.store.commit()
        return Response(orjson.dumps(outcome), status, media_type="application/json")

    return answer
