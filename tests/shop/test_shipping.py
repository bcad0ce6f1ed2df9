"""Where an order goes: what Stripe collects, whom the order shows it to, and that erasing removes it."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.db import Pool
from service.infra.resources import Resources
from service.infra.stripe import Shipping
from service.settings import Settings
from service.shop import expiry, orders, refunds
from service.shop.erasure import erase
from service.shop.principals import ADMIN, GUEST
from tests.client import Shop
from tests.conftest import login
from tests.database import end_hold
from tests.shop.test_ownership import ANNA, EMAIL, new_cart, new_order
from tests.stripe_events import deliver, last_event, make_event
from tests.stripe_ledger import assert_ledgers_agree

COMPLETED = "checkout.session.completed"
SHIPPING = {
    "name": "Jenny Rosen",
    "phone": "+14155550132",
    "address": {
        "line1": "354 Oyster Point Blvd",
        "line2": None,
        "city": "San Francisco",
        "state": "CA",
        "postal_code": "94080",
        "country": "DE",
    },
}

pytestmark = [
    pytest.mark.usefixtures("webhooks_dropped"),
    pytest.mark.parametrize("changed_settings", [{"SHIPPING_COUNTRIES": "DE,AT"}]),
]


@pytest.fixture
async def eraser(settings: Settings, database_url: str) -> AsyncIterator[Pool]:
    url = login(database_url, "eraser")
    async with aclosing(Pool(settings.model_copy(update={"database_url": url}), "commerce-erase")) as pool:
        yield pool


async def shipping_of(resources: Resources, order_id: str, principal: Any = ADMIN) -> dict[str, Any] | None:
    shipping = (await orders.get_order(resources, principal, UUID(order_id))).shipping
    return shipping and asdict(shipping)


async def test_a_session_collects_address_and_phone_for_the_order(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    api_resources: Resources,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From the event, and from the session that the worker retrieves; nobody but staff sees it, and no log has it."""
    caplog.set_level(logging.DEBUG)
    for learned in ("event", "retrieved", "after processing", "old event"):
        placed = await shop.checked_out_cart()
        order_id, session_id = placed["order_id"], placed["payment"]["stripe_session_id"]
        session = stripe.session(session_id)
        assert session["shipping_address_collection"] == {"allowed_countries": ["DE", "AT"]}
        assert session["phone_number_collection"] == {"enabled": True}
        assert await shipping_of(api_resources, order_id) is None

        stripe.pay(session_id, later=learned == "after processing")
        event = last_event(stripe, COMPLETED)
        if learned == "old event":
            # Before API version 2025-03-31.
            collected = event["data"]["object"].pop("collected_information")
            event["data"]["object"]["shipping_details"] = collected["shipping_details"]
        if learned == "retrieved":
            await end_hold(database, order_id)
            await expiry.expire(resources, UUID(order_id))
        else:
            assert await deliver(shop, event) == "applied"
        assert await shipping_of(api_resources, order_id) == SHIPPING
        if learned == "after processing":
            stripe.settle(session_id, succeed=True)
            assert await deliver(shop, make_event("checkout.session.async_payment_succeeded", session)) == "applied"
            assert await shipping_of(api_resources, order_id) == SHIPPING

        assert (await shop.get_order(order_id))["shipping"] == SHIPPING
        answer = await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 50})
        assert (answer["shipping"], answer["email"]) == (None, None)
        assert await shipping_of(api_resources, order_id, GUEST) is None
    # Debug lines of HTTP libraries have whole bodies; the service does not write them.
    own = [record for record in caplog.records if record.name.partition(".")[0] not in ("httpcore", "httpx", "stripe")]
    assert not [record for record in own if "Oyster" in str(record.__dict__) or "4155550132" in str(record.__dict__)]
    await assert_ledgers_agree(resources, stripe)


async def test_the_owner_sees_where_an_order_goes(
    shop: Shop, stripe: StripeStandin, resources: Resources, api_resources: Resources
) -> None:
    tent = await shop.create_product()
    placed = await new_order(api_resources, ANNA, await new_cart(api_resources, ANNA, tent["id"]))
    session_id = (await orders.get_order(api_resources, ADMIN, placed)).payment.stripe_session_id
    assert session_id
    stripe.pay(session_id, email=EMAIL)
    await deliver(shop, last_event(stripe, COMPLETED))

    assert await shipping_of(api_resources, str(placed), replace(ANNA, email=None)) == SHIPPING


async def test_long_texts_are_cut_and_odd_forms_ignored(
    shop: Shop, stripe: StripeStandin, api_resources: Resources
) -> None:
    for changes, shown in (
        ({"collected_information": {"shipping_details": {"name": "x" * 600, "address": None}}}, "x" * 500),
        ({"collected_information": {"shipping_details": {"name": 7, "address": {"line1": ["x"]}}}}, None),
        ({"collected_information": None}, "no shipping"),
        *(
            ({"collected_information": odd, "shipping_details": odd}, "no shipping")
            for odd in ([], ["x"], "x", 7, True)
        ),
        *(({"collected_information": {"shipping_details": odd}}, "no shipping") for odd in (["x"], "x", 7, True)),
        *(
            ({"collected_information": {"shipping_details": {"name": "x", "address": odd}}}, "x")
            for odd in (["x"], "x", 7, True)
        ),
        *(({"customer_details": odd}, "Jenny Rosen") for odd in (["x"], "x", 7, True)),
    ):
        placed = await shop.checked_out_cart()
        session = stripe.pay(placed["payment"]["stripe_session_id"])
        assert await deliver(shop, make_event(COMPLETED, {**session, **changes})) == "applied"
        shipping = await shipping_of(api_resources, placed["order_id"])
        assert (shipping["name"] if shipping else "no shipping") == shown


def test_characters_that_cannot_be_stored_are_left_out(changed_settings: dict[str, str]) -> None:
    """Of a session that is retrieved: PostgreSQL refuses an event with such characters."""
    shipping = Shipping.read({"shipping_details": {"name": "x\0y", "address": {"city": "\ud800"}}})

    assert shipping
    assert (shipping.name, shipping.city) == ("xy", None)


async def test_erasing_removes_the_address_for_good(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    api_resources: Resources,
    eraser: Pool,
    database: asyncpg.Connection,
) -> None:
    """An event of the same session after the erasure does not bring it back, nor does its retrieval."""
    placed = await shop.checked_out_cart()
    session_id = placed["payment"]["stripe_session_id"]
    await expiry.cancel(resources, None, GUEST, UUID(placed["order_id"]))
    await erase(eraser, UUID(placed["order_id"]))
    # As if the customer had paid just before the cancel.
    stripe.session(session_id)["status"] = "open"
    assert await deliver(shop, make_event(COMPLETED, stripe.pay(session_id))) == "applied"
    assert await database.fetchval("SELECT count(*) FROM order_shipping") == 0

    other = await shop.checked_out_cart()
    session = stripe.pay(other["payment"]["stripe_session_id"])
    await deliver(shop, make_event(COMPLETED, session))
    assert await shipping_of(api_resources, other["order_id"]) == SHIPPING
    await erase(eraser, UUID(other["order_id"]))

    assert await deliver(shop, {**make_event(COMPLETED, session), "id": "evt_other"}) == "unchanged"
    await refunds.settle(resources, UUID(other["order_id"]))
    assert await database.fetchval("SELECT count(*) FROM order_shipping") == 0
    payloads = await database.fetchval("SELECT string_agg(payload::text, '') FROM stripe_events")
    assert "Oyster" not in payloads
    assert "4155550132" not in payloads
    assert (await shop.get_order(other["order_id"]))["shipping"] is None


async def test_the_payment_page_asks_for_address_and_phone(
    shop: Shop, stripe: StripeStandin, api_resources: Resources
) -> None:
    placed = await shop.checked_out_cart()
    async with httpx.AsyncClient() as browser:
        form = (await browser.get(placed["checkout_url"])).text
        assert all(f'name="{name}"' in form for name in ("line1", "city", "postal_code", "country", "phone"))
        filled = {
            "action": "pay",
            "email": EMAIL,
            "name": "Anna Schmidt",
            "line1": "Gasse 1",
            "line2": "",
            "postal_code": "1010",
            "city": "Wien",
            "state": "",
            "country": "AT",
            "phone": "+43 1 234",
        }
        assert (await browser.post(placed["checkout_url"], data=filled)).status_code == 303

    await deliver(shop, last_event(stripe, COMPLETED))

    assert await shipping_of(api_resources, placed["order_id"]) == {
        "name": "Anna Schmidt",
        "phone": "+43 1 234",
        "address": {
            "line1": "Gasse 1",
            "line2": None,
            "city": "Wien",
            "state": None,
            "postal_code": "1010",
            "country": "AT",
        },
    }
