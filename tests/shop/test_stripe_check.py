"""`stripe-check` proves each permission of the key, names each that is missing, and leaves nothing at Stripe."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import stripe as sdk
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.calls import ROUTES
from service.infra.stripe import Stripe
from service.settings import Settings
from service.shop import stripe_check
from service.shop.stripe_check import PERMISSIONS, Report
from tests.conftest import served


@asynccontextmanager
async def client_of(url: str, **changed: str) -> AsyncIterator[tuple[Stripe, Settings]]:
    settings = Settings.load(
        {
            "DATABASE_URL": "postgresql://x/x",
            "STRIPE_API_KEY": "rk_test_c4nary",
            "STRIPE_API_BASE": url,
            "STRIPE_TIMEOUT_SECONDS": "2",
            **changed,
        }
    )
    client = Stripe(settings)
    try:
        yield client, settings
    finally:
        await client.close()


async def check(stripe: StripeStandin, **changed: str) -> Report:
    async with client_of(stripe.api_base, **changed) as (client, settings):  # type: ignore[attr-defined]
        return await stripe_check.check(client, settings)


def fault(call: str, **fields: Any) -> dict[str, Any]:
    """A fault that affects this call alone."""
    method, _, path = call.partition(" ")
    # A pattern for the whole path: a prefix would match longer paths too.
    pattern = path.replace("{id}", "*") if "{id}" in path else f"{path[:-1]}[{path[-1]}]"
    return {"method": method, "path": pattern, **fields}


async def test_a_key_with_all_permissions_is_proved_by_calls_that_leave_nothing(stripe: StripeStandin) -> None:
    report = await check(stripe, EXCLUDED_PAYMENT_METHODS="boleto")

    assert report.answers == dict.fromkeys(PERMISSIONS, "yes")
    assert (report.missing, report.unknown) == ([], [])
    assert {call for call, count in stripe.requests.items() if count} == PERMISSIONS.keys()
    (session,) = stripe.sessions
    assert (session["status"], session["metadata"]) == ("expired", {})
    assert session["excluded_payment_method_types"] == ["boleto"]
    assert not list(stripe.refunds)
    assert stripe_check.lines(report)[-2:] == [
        f"API version: {sdk.api_version} is sent; newest event: {sdk.api_version}, snapshot",
        "missing: nothing",
    ]


def test_every_call_of_the_service_is_checked() -> None:
    # The service lists refunds, and never needs one alone.
    assert {f"{method} {path}" for method, path in ROUTES} - {"GET /v1/refunds/{id}"} == PERMISSIONS.keys()


NEEDED = ("rak_checkout_session_write", "rak_charge_write", "rak_payment_intent_read", "rak_event_read")


@pytest.mark.parametrize(
    ("lacking", "instead", "missing", "named"),
    [
        (None, [], [], None),
        ("rak_checkout_session_write", [], ["Checkout Sessions, read", "Checkout Sessions, write"], NEEDED[0]),
        ("rak_checkout_session_write", ["rak_checkout_session_read"], ["Checkout Sessions, write"], NEEDED[0]),
        ("rak_charge_write", [], ["Charges and Refunds, read", "Charges and Refunds, write"], NEEDED[1]),
        ("rak_charge_write", ["rak_charge_read"], ["Charges and Refunds, write"], NEEDED[1]),
        ("rak_payment_intent_read", [], ["PaymentIntents, read"], NEEDED[2]),
        ("rak_event_read", [], ["Events, read"], NEEDED[3]),
    ],
)
async def test_a_permission_that_a_restricted_key_lacks_is_named(
    stripe: StripeStandin, lacking: str | None, instead: list[str], missing: list[str], named: str | None
) -> None:
    stripe.restrict_key("rk_test_c4nary", [name for name in (*NEEDED, *instead) if name != lacking])

    report = await check(stripe)

    assert (report.missing, report.unknown) == (missing, [])
    assert named is None or f"no: {named}" in report.answers.values()
    assert report.account == ("unknown" if named is None else "acct_standin")
    assert report.key == "restricted, test mode"
    assert not [session for session in stripe.sessions if session["status"] == "open"]


@pytest.mark.parametrize("call", PERMISSIONS)
async def test_a_call_that_is_forbidden_is_named(stripe: StripeStandin, call: str) -> None:
    stripe.set_faults([fault(call, action="status", status=403)])

    report = await check(stripe)

    assert report.missing == [PERMISSIONS[call]]
    assert {asked for asked, answer in report.answers.items() if answer != "yes"} == {call}
    assert report.answers[call].startswith("no: ")
    assert f"missing: {PERMISSIONS[call]}" in stripe_check.lines(report)
    # Where the session could not be expired, it ends by itself.
    assert [session["status"] for session in stripe.sessions if session["status"] == "open"] == (
        ["open"] if call.endswith("expire") else []
    )


@pytest.mark.parametrize("what", [{"action": "drop"}, {"action": "status", "status": 500}])
@pytest.mark.parametrize("call", ["POST /v1/checkout/sessions", "POST /v1/refunds", "GET /v1/events"])
async def test_what_stripe_does_not_answer_is_unknown(stripe: StripeStandin, call: str, what: dict[str, Any]) -> None:
    stripe.set_faults([fault(call, **what)])

    report = await check(stripe)

    assert (report.missing, report.unknown) == ([], [PERMISSIONS[call]])
    assert report.answers[call].startswith("unknown: status ")


async def test_a_session_that_stripe_refuses_proves_nothing(stripe: StripeStandin) -> None:
    stripe.set_faults([fault("POST /v1/checkout/sessions", action="status", status=400, code="account_invalid")])

    report = await check(stripe)

    assert report.unknown == ["Checkout Sessions, write"]
    assert "account_invalid" in report.answers["POST /v1/checkout/sessions"]


@pytest.mark.parametrize(
    ("status", "message", "answer", "account"),
    [
        (401, "Invalid API Key provided: rk_test_*****nary", "no: Stripe does not know this key", "unknown"),
        (
            403,
            "The provided key 'rk_test_*****c4nary' does not have the required permissions for this endpoint on account"
            " 'acct_7'. Having the 'rak_event_read' permission would allow this request to continue.",
            "no: rak_event_read",
            "acct_7",
        ),
    ],
)
async def test_a_refused_key_is_told_from_a_missing_permission(
    status: int, message: str, answer: str, account: str
) -> None:
    body = json.dumps({"error": {"type": "invalid_request_error", "message": message}}).encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(body, status, media_type="application/json")(scope, receive, send)

    async with served(app) as url, client_of(url) as (client, settings):
        report = await stripe_check.check(client, settings)

    assert report.answers == dict.fromkeys(PERMISSIONS, answer)
    assert (report.account, report.newest_event) == (account, "unknown")
    assert "c4nary" not in "".join(stripe_check.lines(report))


def test_a_thin_event_is_told_from_a_snapshot() -> None:
    assert stripe_check.style({"object": "event"}) == "snapshot"
    assert stripe_check.style({"object": "v2.core.event"}) == "thin"
    assert stripe_check.style({}) == "unknown style"
