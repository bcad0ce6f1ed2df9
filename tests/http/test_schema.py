"""The OpenAPI document against the service: calls made up from it, fit and unfit, are answered as it says.

Schemathesis makes them up. Most are about things that there are, or all that is read would be their ids.
"""

import asyncio
import time
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from schemathesis import APIOperation, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.webhooks import signature
from service.settings import Settings
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET
from tests.provider import AUDIENCE, Provider, bearer

# The application opens nothing before it is served.
APP = create_app(Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",)))
ROOMS = "catalog carts orders staff events webhooks pages operations".split()
CALLS = {found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(APP.openapi()).get_all_operations()}
# Without the checks that expect a 2xx or a 4xx: a schema cannot state every rule; test_hostile.py has invalid bodies.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
BOUNDS = bounds(
    max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE}


async def some_of_everything(shop: Shop, stripe: StripeStandin, name: str) -> dict[str, list[Any]]:
    """What there is, by the name of the parameter or member that takes it."""
    used, unused = [await shop.call("POST", "/categories", 201, {"name": f"{name} {n}"}) for n in "12"]
    tent = await shop.create_product(category_id=used["id"], stock=9000, max_per_order=9999)
    paid, pending = [await shop.checked_out_cart((tent["id"], 2)) for _ in range(2)]
    stripe.pay(paid["payment"]["stripe_session_id"])
    await shop.wait_for_order(paid["order_id"], "PAID")
    receiver = {"url": "https://example.com", "types": ["order.cancelled"]}
    endpoint = await shop.call("POST", "/event-endpoints", 201, receiver)
    await shop.call("POST", f"/orders/{pending['order_id']}/cancel", 200)
    deliveries = await shop.call("GET", f"/event-endpoints/{endpoint['id']}/deliveries", 200)
    dispute = stripe.dispute(stripe.session(paid["payment"]["stripe_session_id"])["payment_intent"])
    return {
        "amount_minor": [1],
        "restock": [False],
        "kind": ["dispute_open"],
        "id": [dispute["id"]],
        "category_id": [used["id"], unused["id"]],
        "slug": [used["slug"], "another"],
        "product_id": [tent["id"]],
        "cart_id": [await shop.create_cart(), await shop.create_cart((tent["id"], 1))],
        "order_id": [paid["order_id"], pending["order_id"]],
        "code": ["not_found", "busy"],
        "url": ["https://example.com"],
        "endpoint_id": [endpoint["id"]],
        "delivery_id": [deliveries["items"][0]["id"]],
    }


@pytest.mark.parametrize("room", ROOMS)
async def test_it_answers_as_documented(shop: Shop, stripe: StripeStandin, provider: Provider, room: str) -> None:
    # A user of the staff: some calls are for users alone.
    shop.http.headers.update(bearer(provider.token("anna", "admin", exp=int(time.time()) + 3600)))
    calls = {label: call for label, call in CALLS.items() if call.tags == [room]}
    assert calls
    for label, call in calls.items():
        known = await some_of_everything(shop, stripe, label)
        statuses = await asyncio.to_thread(ask, shop, call, known)
        # Some requests succeeded.
        assert any(status < 300 for status in statuses), (label, statuses)


def test_every_call_has_a_tag() -> None:
    assert all(call.tags and call.tags[0] in ROOMS for call in CALLS.values())


def ask(shop: Shop, call: APIOperation, known: dict[str, list[Any]]) -> set[int]:
    """Make a call in many ways; the statuses that it had."""
    statuses = set()

    def once(data: st.DataObject, mode: GenerationMode) -> None:
        case = data.draw(call.as_strategy(mode))
        for members in (case.path_parameters, case.body):
            for name in known.keys() & members.keys() if isinstance(members, dict) else ():
                if data.draw(st.integers(0, 3)):
                    members[name] = data.draw(st.sampled_from(known[name]))
        # A made-up credential is refused, and without one the demo is open.
        if data.draw(st.integers(0, 3)):
            case.headers.pop("Authorization", None)
        if "Stripe-Signature" in call.headers and data.draw(st.integers(0, 3)):
            sent = requests.Request(**case.as_transport_kwargs(shop.url)).prepare()
            case.headers["Stripe-Signature"] = signature(sent.body or b"", WEBHOOK_SECRET, int(time.time()))
        answer = case.call(base_url=shop.url, session=session)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    with requests.Session() as session:
        session.headers["Authorization"] = shop.http.headers["Authorization"]
        for mode in GenerationMode:
            # A call without a body or query has no invalid input.
            if mode is GenerationMode.POSITIVE or len(call.body) + len(call.query):
                BOUNDS(given(data=st.data(), mode=st.just(mode))(once))()
    return statuses
