"""`commerce-core stripe-check`: what the configured key may do at Stripe, proved by calls that change nothing.

A session is created and expired. Everything else asks for what does not exist: Stripe answers `resource_missing` only
to a key that may ask.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import stripe as sdk

from service.infra.ids import new_id
from service.infra.stripe import Session, Stripe, StripeFailed, StripeRefused
from service.settings import Settings
from service.shop import payment_session
from service.shop.webhooks import EVENT_TYPES

# Each call that the service makes, and the permission of a restricted key that it needs, as Stripe's dashboard has it.
PERMISSIONS = {
    "POST /v1/checkout/sessions": "Checkout Sessions, write",
    "POST /v1/checkout/sessions/{id}/expire": "Checkout Sessions, write",
    "GET /v1/checkout/sessions": "Checkout Sessions, read",
    "GET /v1/checkout/sessions/{id}": "Checkout Sessions, read",
    "POST /v1/refunds": "Charges and Refunds, write",
    "GET /v1/refunds": "Charges and Refunds, read",
    "GET /v1/payment_intents/{id}": "PaymentIntents, read",
    "GET /v1/events": "Events, read",
    "GET /v1/events/{id}": "Events, read",
}


@dataclass(slots=True)
class Report:
    """What was learned. An answer is "yes", or "no" or "unknown" with the cause."""

    key: str
    account: str
    answers: dict[str, str] = field(default_factory=dict)
    newest_event: str = "unknown"

    @property
    def missing(self) -> list[str]:
        """The permissions that the key lacks."""
        return self._permissions("no")

    @property
    def unknown(self) -> list[str]:
        """The permissions that could not be proved."""
        return self._permissions("unknown")

    def _permissions(self, answer: str) -> list[str]:
        return sorted({PERMISSIONS[call] for call, text in self.answers.items() if text.startswith(answer)})


async def check(stripe: Stripe, settings: Settings) -> Report:
    """Make each call of PERMISSIONS once."""
    restricted = "restricted" if settings.stripe_api_key.startswith("rk_") else "secret"
    report = Report(f"{restricted}, {'live' if settings.live else 'test'} mode", settings.stripe_account or "unknown")
    # Ids that Stripe cannot have.
    nothing, no_intent = new_id().hex, f"pi_{new_id().hex}"

    async def ask(call: str, ask_stripe: Callable[[], Awaitable[Any]]) -> Any:
        try:
            answer = await ask_stripe()
        except StripeFailed as failed:
            report.answers[call] = _answer(failed)
            if account := _named(r"acct_\w+", failed):
                report.account = account
            return None
        report.answers[call] = "yes"
        return answer

    session: Session | None = await ask(
        "POST /v1/checkout/sessions", lambda: stripe.create_session(_parameters(settings), f"stripe-check:{nothing}")
    )
    session_id = session.id if session else f"cs_{nothing}"
    await ask("GET /v1/checkout/sessions/{id}", lambda: stripe.retrieve_session(session_id))
    await ask("POST /v1/checkout/sessions/{id}/expire", lambda: stripe.expire_session(session_id))
    await ask("GET /v1/checkout/sessions", lambda: _first(stripe.sessions_since(int(time.time()))))
    await ask("POST /v1/refunds", lambda: stripe.create_refund(no_intent, 1, {}, f"stripe-check:{no_intent}"))
    await ask("GET /v1/refunds", lambda: stripe.refunds_of(no_intent))
    await ask("GET /v1/payment_intents/{id}", lambda: stripe.retrieve_payment_intent(no_intent))
    await ask("GET /v1/events/{id}", lambda: stripe.retrieve_event(f"evt_{nothing}"))
    event = await ask("GET /v1/events", lambda: _first(stripe.events_since(0, EVENT_TYPES)))
    if event is not None:
        report.newest_event = f"{event.get('api_version') or 'unknown'}, {style(event)}"
    return report


def style(event: dict[str, Any]) -> str:
    """The payload style of an event: a snapshot contains the object, a thin event only its id."""
    kind = str(event.get("object"))
    return "snapshot" if kind == "event" else "thin" if kind.startswith("v2.") else "unknown style"


def lines(report: Report) -> list[str]:
    """The report as text."""
    return [
        f"key: {report.key}",
        f"account: {report.account}",
        *(f"{PERMISSIONS[call]}: {call}: {answer}" for call, answer in report.answers.items()),
        f"API version: {sdk.api_version} is sent; newest event: {report.newest_event}",
        f"missing: {'; '.join(report.missing) or 'nothing'}",
        *([f"not proved: {'; '.join(report.unknown)}"] if report.unknown else []),
    ]


def _parameters(settings: Settings) -> dict[str, Any]:
    """A session that nobody pays. Without an order id, so that webhooks and reconcile pass it over."""
    price = {"currency": "usd", "unit_amount": 10_00, "product_data": {"name": "commerce-core stripe-check"}}
    return {
        "mode": "payment",
        "success_url": settings.stripe_success_url,
        "cancel_url": settings.stripe_cancel_url,
        "expires_at": int(time.time()) + settings.session_seconds,
        "line_items": [{"quantity": 1, "price_data": price}],
        **payment_session.optional_parameters(settings),
    }


def _answer(failed: StripeFailed) -> str:
    """What a failure says about the permission."""
    if isinstance(failed, StripeRefused) and failed.code == "resource_missing":
        return "yes"
    if failed.status == 401:
        return "no: Stripe does not know this key"
    if failed.status == 403:
        return f"no: {_named('rak_[a-z_]+', failed) or failed}"
    return f"unknown: {failed}"


def _named(form: str, failed: StripeFailed) -> str | None:
    """The id of this form in Stripe's own message, which as a whole may contain secrets."""
    named = re.search(rf"\b{form}", str(failed.__cause__))
    return named[0] if named else None


async def _first(items: AsyncIterator[Any]) -> Any:
    """The first item, or None; the rest is not fetched."""
    async for item in items:
        return item
    return None
