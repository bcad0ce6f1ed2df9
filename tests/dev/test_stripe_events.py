"""How the stand-in's events reach an endpoint: shapes of older API versions, thin events, connected accounts."""

import asyncio
import time
from typing import Any

import pytest
import stripe
from stripe.v2.core import EventNotification

from tests.dev.world import SHOP, UNREACHABLE, Receiver, World, eventually, refused

# The list of events


async def test_events_are_stored_and_listed(world: World) -> None:
    paid = await world.create_paid()

    page = await world.events.list_async()
    event = await world.events.retrieve_async(page.data[0].id)

    assert [event.type for event in page.data] == ["checkout.session.completed", "payment_intent.succeeded"]
    assert event.object == "event"
    assert event.data.object["id"] == paid.id
    assert (event.livemode, event.request.id) == (False, None)


async def test_events_are_listed_by_type_and_time(world: World) -> None:
    await world.create_paid()
    newest = (await world.events.list_async()).data[0]

    by_types = await world.events.list_async({"types": ["payment_intent.succeeded", "refund.created"]})
    by_type = await world.events.list_async({"type": "refund.created"})
    later = await world.events.list_async({"created": {"gt": newest.created}})

    assert [event.type for event in by_types.data] == ["payment_intent.succeeded"]
    assert by_type.data == []
    assert later.data == []


async def test_a_type_can_be_a_pattern(world: World) -> None:
    await world.create_paid()

    page = await world.events.list_async({"type": "checkout.*"})

    assert [event.type for event in page.data] == ["checkout.session.completed"]


async def test_a_list_of_events_has_at_most_twenty_types(world: World) -> None:
    types = [f"type.{number}" for number in range(21)]

    await refused(world.events.list_async({"types": types}), 400, None, "types")
    await refused(world.events.list_async({"types": types[:2], "type": "refund.*"}), 400)


async def test_events_are_shown_for_thirty_days(world: World) -> None:
    await world.create_paid()
    event = world.standin.events.newest()

    world.standin.advance_clock(30 * 86_400 - 60)
    assert len((await world.events.list_async()).data) == 2
    world.standin.advance_clock(120)

    assert (await world.events.list_async()).data == []
    await refused(world.events.retrieve_async(event["id"]), 404, "resource_missing", "id")


async def test_an_event_names_the_request_that_caused_it(world: World) -> None:
    session = await world.create()

    await world.sessions.expire_async(session.id, options={"idempotency_key": "k9"})

    newest = (await world.events.list_async({"limit": 1})).data[0]
    assert (newest.type, newest.request.idempotency_key) == ("checkout.session.expired", "k9")
    assert newest.request.id.startswith("req_")


async def test_older_endpoints_learn_of_refunds_by_charge_refund_updated_alone(
    world: World, receiver: Receiver
) -> None:
    await world.control("PUT", "/webhooks", {"api_version": "2023-10-16"})
    paid = await world.create_paid(2500)

    refund = await world.refunds.create_async({"payment_intent": paid.payment_intent})
    world.standin.set_refund(refund.id, "failed")

    await receiver.until(4)
    await asyncio.sleep(0.1)
    assert sorted(receiver.types()) == [
        "charge.refund.updated", "charge.refunded", "checkout.session.completed", "payment_intent.succeeded",
    ]  # fmt: skip
    assert {event["api_version"] for event in receiver.accepted} == {"2023-10-16"}
    # The list has every event, in the account's version.
    assert {event["api_version"] for event in world.standin.events} == {stripe.api_version}


async def test_an_account_of_an_older_version_lists_older_events(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/account", {"api_version": "2023-10-16"})
    session = await world.create(shipping_address_collection={"allowed_countries": ["DE"]})
    world.standin.pay(session.id)
    paid = await world.sessions.retrieve_async(session.id)

    await world.refunds.create_async({"payment_intent": paid.payment_intent})

    listed = (await world.events.list_async()).data
    assert [event.type for event in listed] == [
        "charge.refunded", "checkout.session.completed", "payment_intent.succeeded",
    ]  # fmt: skip
    assert {event.api_version for event in listed} == {"2023-10-16"}
    assert listed[1].data.object["shipping_details"]["address"]["country"] == "DE"
    await receiver.until(3)
    by_id = {event["id"]: event for event in receiver.accepted}
    fetched = (await world.events.retrieve_async(listed[1].id)).to_dict()
    assert {**by_id[listed[1].id], "pending_webhooks": 0} == {**fetched, "pending_webhooks": 0}
    # A call's answer has the version that the call asked for.
    assert paid.collected_information.shipping_details.address.country == "DE"


async def test_older_endpoints_find_the_address_at_its_old_place(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"api_version": "2025-02-24.acacia"})
    session = await world.create(shipping_address_collection={"allowed_countries": ["DE"]})

    world.standin.pay(session.id)

    await receiver.until(2)
    completed = receiver.event("checkout.session.completed")["data"]["object"]
    assert completed["shipping_details"]["address"]["country"] == "DE"
    assert not {"collected_information", "allowed_payment_method_types"} & completed.keys()
    assert receiver.event("payment_intent.succeeded")["data"]["object"]["invoice"] is None


async def test_events_of_a_connected_account_say_so(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"account": "acct_other", "context": "acct_other"})

    await world.sessions.expire_async((await world.create()).id)

    await receiver.until(1)
    assert (receiver.accepted[0]["account"], receiver.accepted[0]["context"]) == ("acct_other", "acct_other")


async def test_a_thin_event_names_the_object_to_fetch(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"style": "thin"})
    session = await world.create()

    await world.sessions.expire_async(session.id)

    await receiver.until(1)
    notification: Any = EventNotification.from_json(receiver.accepted[0], stripe.StripeClient("sk_test_1"))
    assert (notification.object, notification.type) == ("v2.core.event", "v1.checkout.session.expired")
    assert notification.related_object.url == f"/v1/checkout/sessions/{session.id}"
    assert notification.reason.request.id.startswith("req_")
    assert "data" not in receiver.accepted[0]


async def test_any_event_can_be_sent(world: World, receiver: Receiver) -> None:
    subject = {"id": "re_1", "object": "refund", "status": "failed"}
    body = {"type": "refund.updated", "object": subject, "previous_attributes": {"status": "pending"}}

    event = await world.control("POST", "/events", body)

    await receiver.until(1)
    assert receiver.accepted[0]["data"] == {"object": subject, "previous_attributes": {"status": "pending"}}
    assert (await world.events.retrieve_async(event["id"])).type == "refund.updated"


async def test_an_event_that_updates_says_what_it_was_before(world: World) -> None:
    paid = await world.create_paid(2500)

    await world.refunds.create_async({"payment_intent": paid.payment_intent, "amount": 1000})

    refunded = (await world.events.list_async({"type": "charge.refunded"})).data[0]
    assert refunded.data.previous_attributes.to_dict() == {"amount_refunded": 0}
    created = (await world.events.list_async({"type": "refund.created"})).data[0]
    assert "previous_attributes" not in created.data


# The way back from the page


async def test_the_page_redirects_once_the_endpoint_has_answered(world: World, receiver: Receiver) -> None:
    receiver.seconds = 0.4
    session = await world.create()
    begin = time.monotonic()

    status, location, _ = await world.press(session, "pay")

    assert (status, location) == (303, f"{SHOP}/done?session_id={session.id}")
    assert time.monotonic() - begin > 0.4
    assert "checkout.session.completed" in receiver.types()


async def test_the_page_does_not_wait_for_ever(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.dev.stripe_standin.page.REDIRECT_SECONDS", 0.3)
    receiver.seconds = 5
    session = await world.create()
    begin = time.monotonic()

    status, _, _ = await world.press(session, "pay")

    assert status == 303
    assert 0.3 < time.monotonic() - begin < 3
    assert receiver.types() == []


async def test_the_page_does_not_wait_for_a_paused_delivery(world: World, receiver: Receiver) -> None:
    world.standin.set_webhooks(paused=True)
    session = await world.create()

    async with asyncio.timeout(3):
        status, _, _ = await world.press(session, "pay")

    assert (status, receiver.types()) == (303, [])


# Deliveries


async def test_an_event_is_retried_until_the_endpoint_accepts_it(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    session = await world.create()

    await world.sessions.expire_async(session.id)

    await receiver.until(1)
    event_id = receiver.accepted[0]["id"]
    assert [event["id"] for event in receiver.refused] == [event_id] * 2
    event = world.standin.events.get(event_id)
    assert event is not None
    await eventually(lambda: event["pending_webhooks"] == 0)


async def test_an_unreachable_endpoint_gets_its_events_later(world: World, receiver: Receiver) -> None:
    reachable, world.standin.webhook_url = world.standin.webhook_url, UNREACHABLE
    await world.sessions.expire_async((await world.create()).id)
    await asyncio.sleep(0.1)

    world.standin.webhook_url = reachable

    await receiver.until(1)
    assert receiver.types() == ["checkout.session.expired"]


async def test_deliveries_can_be_paused_and_multiplied(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"paused": True, "copies": 3, "shuffle": True})
    for _ in range(4):
        await world.sessions.expire_async((await world.create()).id)
    await asyncio.sleep(0.1)
    assert receiver.accepted == []

    await world.control("PUT", "/webhooks", {"paused": False})

    await receiver.until(12)
    counts = [[event["id"] for event in receiver.accepted].count(event["id"]) for event in world.standin.events]
    assert counts == [3, 3, 3, 3]


async def test_a_dropped_event_is_stored_and_not_sent(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"drop": True})

    await world.sessions.expire_async((await world.create()).id)

    await asyncio.sleep(0.1)
    assert receiver.accepted == []
    assert len((await world.events.list_async()).data) == 1
