"""Outgoing events: each transition writes its event once, and receivers get them signed, in order, at least once."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uvloop
from standardwebhooks import Webhook, WebhookVerificationError

from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra import webhook_client
from service.infra.resources import Resources
from service.infra.statements import SQL
from service.shop import deliveries, expiry, fulfilment, refunds, retention
from service.shop.outbox import EVENT_TYPES
from tests.client import Shop, eventually
from tests.database import end_hold
from tests.receiver import Received, Receiver, receiving
from tests.shop.test_refunds import create_fulfilled_order, create_paid_order
from tests.stripe_events import deliver, last_event

ORDER_EVENTS = ["order.placed", "order.paid", "order.fulfilled"]

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


@pytest.fixture
def changed_settings() -> dict[str, str]:
    return {"ALLOW_PRIVATE_EVENT_ENDPOINTS": "true"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for a while does so for less."""
    for name, seconds in (("IDLE_SECONDS", 0.02), ("MAX_PAUSE_SECONDS", 0.05), ("FULL_SECONDS", 0.5)):
        monkeypatch.setattr(deliveries, name, seconds)
    monkeypatch.setattr(webhook_client, "TOTAL_SECONDS", 1.0)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def delivering(resources: Resources) -> AsyncIterator[None]:
    """Deliveries that run beside the block, as in the worker."""

    async def renew_forever(running: deliveries.Deliveries) -> None:
        while True:
            await running.renew()
            await asyncio.sleep(0.05)

    async with deliveries.delivering(resources) as running:
        renewing = asyncio.create_task(renew_forever(running))
        try:
            yield
        finally:
            renewing.cancel()


async def add_endpoint(shop: Shop, url: str, *types: str) -> dict[str, Any]:
    endpoint: dict[str, Any] = await shop.call(
        "POST", "/event-endpoints", 201, {"url": url, "types": types or EVENT_TYPES}
    )
    return endpoint


async def written(database: asyncpg.Connection, endpoint_id: int = 1) -> list[str]:
    """The types of the events for an endpoint, in the order in which they were written."""
    rows = await database.fetch("SELECT type FROM event_deliveries WHERE endpoint_id = $1 ORDER BY id", endpoint_id)
    return [event_type for (event_type,) in rows]


async def insert_events(database: asyncpg.Connection, endpoint_id: int, count: int) -> None:
    """Write events of so many orders."""
    await database.execute(
        "INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)"
        " SELECT $1, gen_random_uuid(), 'order.placed', 'order:' || gen_random_uuid(), '{}'"
        " FROM generate_series(1, $2::integer)",
        endpoint_id,
        count,
    )


async def retry_now(database: asyncpg.Connection) -> None:
    await database.execute("UPDATE event_deliveries SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


async def wait_for(receiver: Receiver, *types: str, path: str | None = None) -> None:
    """Return once the receiver has got exactly these events in this order."""

    async def has_them() -> bool:
        return receiver.types(path) == [*types]

    await eventually(has_them)


async def is_finished(shop: Shop, endpoint_id: int, status: str = "delivered") -> bool:
    page = await shop.call("GET", f"/event-endpoints/{endpoint_id}/deliveries", 200)
    return bool(page["items"]) and all(delivery["status"] == status for delivery in page["items"])


# What is written


async def test_each_transition_writes_its_event_once(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: an order's whole life, each step tried twice, leaves each event once and in order."""
    await add_endpoint(shop, "https://example.com")
    product = await shop.create_product(stock=5)

    order_id, intent = await create_paid_order(shop, stripe, (product["id"], 1))
    await deliver(shop, last_event(stripe, "checkout.session.completed"))
    for _ in range(2):
        await fulfilment.fulfil(resources, UUID(order_id))
    await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 50})
    for _ in range(2):
        await refunds.settle(resources, UUID(order_id))
    dispute = stripe.dispute(intent)
    for _ in range(2):
        await deliver(shop, last_event(stripe, "charge.dispute.created"))
    stripe.set_dispute(dispute["id"], "won")
    for _ in range(2):
        await deliver(shop, last_event(stripe, "charge.dispute.closed"))

    assert await written(database) == [*ORDER_EVENTS, "refund.succeeded", "dispute.opened", "dispute.closed"]
    events = await database.fetch("SELECT DISTINCT subject FROM event_deliveries")
    assert [subject for (subject,) in events] == [f"order:{order_id}"]


async def test_a_cancelled_order_and_a_failed_refund_are_events(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    await add_endpoint(shop, "https://example.com", "order.cancelled", "refund.failed")
    pending = await shop.checked_out_cart()
    expired = await shop.checked_out_cart()
    paid_order, _ = await create_fulfilled_order(shop, stripe, resources)

    await shop.call("POST", f"/orders/{pending['order_id']}/cancel", 200)
    await end_hold(database, expired["order_id"])
    await expiry.expire(resources, UUID(expired["order_id"]))
    await shop.call("POST", f"/orders/{paid_order}/refund", 200, {"amount_minor": 50})
    await refunds.settle(resources, UUID(paid_order))
    stripe.set_refund([*stripe.refunds][-1]["id"], "failed")
    await refunds.settle(resources, UUID(paid_order))

    assert await written(database) == ["order.cancelled", "order.cancelled", "refund.failed"]


async def test_only_subscribed_types_of_active_endpoints_are_written(shop: Shop, database: asyncpg.Connection) -> None:
    first = await add_endpoint(shop, "https://example.com", "order.placed")
    other = await add_endpoint(shop, "https://example.com", "order.paid")
    await shop.checked_out_cart()
    await shop.call("PATCH", f"/event-endpoints/{first['id']}", 200, {"active": False})
    await shop.checked_out_cart()
    await shop.call("PATCH", f"/event-endpoints/{first['id']}", 200, {"active": True})
    await shop.call("DELETE", f"/event-endpoints/{other['id']}", 204)
    await shop.checked_out_cart()

    assert await written(database, first["id"]) == ["order.placed", "order.placed"]
    assert await written(database, other["id"]) == []


async def test_a_refused_checkout_writes_nothing(shop: Shop, database: asyncpg.Connection) -> None:
    await add_endpoint(shop, "https://example.com")
    product = await shop.create_product(stock=1)

    await shop.check_out(await shop.create_cart((product["id"], 2)), 409)

    assert await written(database) == []


async def test_products_are_announced_once_a_minute_and_last_as_they_are(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: one event of each type a minute, and the last state in the end. Method: move stock, and time by SQL."""
    await add_endpoint(shop, "https://example.com", "product.sold_out", "product.restocked")
    product = await shop.create_product(stock=1)

    async def move(delta: int) -> None:
        await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": delta, "reason": "x"})

    order = await shop.checked_out_cart((product["id"], 1))
    await shop.call("POST", f"/orders/{order['order_id']}/cancel", 200)
    first = ["product.sold_out", "product.restocked"]
    assert await written(database) == first
    # Each type again within the minute: both wait, and the last state is what was announced.
    await move(-1)
    await move(+1)
    await pass_a_minute(resources, database)
    assert await written(database) == first
    # Sold out, after the minute of the last one.
    await move(-1)
    assert await written(database) == [*first, "product.sold_out"]
    await move(+3)
    await move(-3)
    await move(+2)
    assert await written(database) == [*first, "product.sold_out", "product.restocked"]
    await move(-2)
    assert len(await written(database)) == 4
    await pass_a_minute(resources, database)

    assert await written(database) == [*first, "product.sold_out", "product.restocked", "product.sold_out"]


async def test_a_product_that_is_restocked_without_an_endpoint_is_announced_when_sold_out_again(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.create_product(stock=5)

    async def move(*deltas: int) -> None:
        for delta in deltas:
            await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": delta, "reason": "x"})

    first = await add_endpoint(shop, "https://example.com", "product.sold_out")
    await move(-5)
    await shop.call("DELETE", f"/event-endpoints/{first['id']}", 204)
    # Sold out within the minute: it is over before the next endpoint is added.
    await move(5, -5)
    await pass_a_minute(resources, database)
    other = await add_endpoint(shop, "https://example.com", "product.sold_out")
    await pass_a_minute(resources, database)
    assert await written(database, other["id"]) == []
    await shop.call("DELETE", f"/event-endpoints/{other['id']}", 204)
    await move(5)
    last = await add_endpoint(shop, "https://example.com", "product.sold_out")
    await move(-5)

    assert await written(database, first["id"]) == ["product.sold_out"]
    assert await written(database, last["id"]) == ["product.sold_out"]


async def pass_a_minute(resources: Resources, database: asyncpg.Connection) -> None:
    """Move the announcements by a minute into the past, and let the worker announce what is due."""
    await database.execute(
        "UPDATE product_announcements SET sold_out_at = sold_out_at - interval '61 s',"
        " restocked_at = restocked_at - interval '61 s', due_at = due_at - interval '61 s'"
    )
    async with deliveries.delivering(resources) as running:
        await running.renew()


async def test_payloads_have_no_personal_data(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: no payload has a member beside those that are listed here: ids, amounts and states."""
    await add_endpoint(shop, "https://example.com")
    product = await shop.create_product(stock=1)
    order_id, intent = await create_fulfilled_order(shop, stripe, resources, (product["id"], 1))
    stripe.dispute(intent)
    await deliver(shop, last_event(stripe, "charge.dispute.created"))
    await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 50, "reason": "c4nary"})
    await refunds.settle(resources, UUID(order_id))

    members = await database.fetch(
        "SELECT DISTINCT split_part(type, '.', 1),"
        " (SELECT string_agg(key, ' ' ORDER BY key) FROM jsonb_object_keys(data) AS key)"
        " FROM event_deliveries ORDER BY 1"
    )
    assert [(*row,) for row in members] == [
        ("dispute", "amount_minor currency dispute_id order_id reason status"),
        ("order", "currency number order_id status total_minor"),
        ("product", "product_id stock"),
        ("refund", "amount_minor currency failure_reason order_id refund_id"),
    ]


# What is delivered


async def test_a_purchase_is_delivered_signed_and_in_order(
    shop: Shop, stripe: StripeStandin, resources: Resources, receiver: Receiver
) -> None:
    endpoint = await add_endpoint(shop, f"{receiver.url}/events?shop=1")
    async with delivering(resources):
        order_id, _ = await create_fulfilled_order(shop, stripe, resources)
        await wait_for(receiver, *ORDER_EVENTS)
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    order = await shop.get_order(order_id)
    for received in receiver.received:
        event = Webhook(endpoint["secret"]).verify(received.body, received.headers)
        assert [*event] == ["type", "timestamp", "data"]
        assert event["data"]["order_id"] == order_id
        assert (event["data"]["number"], event["data"]["total_minor"]) == (order["number"], order["total_minor"])
        with pytest.raises(WebhookVerificationError):
            Webhook(endpoint["secret"]).verify(received.body + b" ", received.headers)
    assert [received.event["data"]["status"] for received in receiver.received] == [
        "PENDING_PAYMENT",
        "PAID",
        "FULFILLED",
    ]
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 3


async def test_a_failed_attempt_is_repeated_with_the_same_id_and_holds_the_next_event_back(
    shop: Shop, stripe: StripeStandin, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """Goal: the next event of an order waits until the last is delivered; other orders go on."""
    endpoint = await add_endpoint(shop, receiver.url, "order.placed", "order.paid")
    receiver.fail(500, 302)
    receiver.headers = {"location": f"{receiver.url}/elsewhere"}
    async with delivering(resources):
        order_id, _ = await create_paid_order(shop, stripe)
        await wait_for(receiver, "order.placed")
        other = await shop.checked_out_cart()
        # The other order is not held back, and a redirect is not followed.
        await wait_for(receiver, "order.placed", "order.placed")
        await eventually(lambda: attempts_are(database, [(0, "None"), (1, "302"), (1, "500")]))
        # The first retry comes after seconds.
        wait = await database.fetchval("SELECT max(next_attempt_at) - max(attempted_at) FROM event_deliveries")
        assert wait.total_seconds() == 5
        await retry_now(database)
        await wait_for(receiver, "order.placed", "order.placed", "order.placed", "order.placed", "order.paid")
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    ids = [received.headers["webhook-id"] for received in receiver.received]
    assert len(set(ids)) == 3
    assert {*ids[:2]} == {*ids[2:4]}
    of_first = [r.type for r in receiver.received if r.event["data"]["order_id"] == order_id]
    assert of_first == ["order.placed", "order.placed", "order.paid"]
    assert {received.path for received in receiver.received} == {"/"}
    assert other["order_id"] != order_id


async def attempts_are(database: asyncpg.Connection, expected: list[tuple[int, str]]) -> bool:
    rows = await database.fetch("SELECT attempts, result FROM event_deliveries")
    return sorted((attempts, str(result)) for attempts, result in rows) == expected


async def test_a_slow_endpoint_holds_back_neither_others_nor_sales(
    shop: Shop, stripe: StripeStandin, resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_client, "TOTAL_SECONDS", 60.0)
    async with receiving() as slow:
        slow.hang()
        await add_endpoint(shop, slow.url)
        await add_endpoint(shop, receiver.url)
        async with delivering(resources):
            for _ in range(2):
                await create_fulfilled_order(shop, stripe, resources)

            async def has_all() -> bool:
                return sorted(receiver.types()) == sorted(2 * ORDER_EVENTS)

            await eventually(has_all)

    assert slow.types() == ["order.placed", "order.placed"]


async def test_every_secret_of_a_day_signs_after_rotations(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    secrets = [endpoint["secret"]]
    for _ in range(2):
        rotated = await shop.call("POST", f"/event-endpoints/{endpoint['id']}/rotate", 200)
        secrets.append(rotated["secret"])
    oldest, old, new = map(Webhook, secrets)
    async with delivering(resources):
        await shop.checked_out_cart()
        await wait_for(receiver, "order.placed")
        # The end of the oldest.
        await database.execute("UPDATE event_endpoints SET previous_until[2] = now()")
        await shop.checked_out_cart()
        await wait_for(receiver, "order.placed", "order.placed")

    first, second = receiver.received
    for webhook, received in ((oldest, first), (old, first), (new, first), (old, second), (new, second)):
        webhook.verify(received.body, received.headers)
    assert [len(received.headers["webhook-signature"].split()) for received in (first, second)] == [3, 2]
    with pytest.raises(WebhookVerificationError):
        oldest.verify(second.body, second.headers)


async def test_only_the_last_five_secrets_are_kept(shop: Shop, database: asyncpg.Connection) -> None:
    endpoint = await add_endpoint(shop, "https://example.com")
    secrets = [endpoint["secret"]]
    for _ in range(6):
        rotated = await shop.call("POST", f"/event-endpoints/{endpoint['id']}/rotate", 200)
        secrets.append(rotated["secret"])

    kept = await database.fetchval("SELECT previous_secrets FROM event_endpoints")
    assert [f"whsec_{base64.b64encode(secret).decode()}" for secret in kept] == secrets[-2:0:-1]


async def test_what_a_killed_worker_was_sending_is_sent_by_the_next(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """Goal: at least once. Method: a worker that ends between the answer and its record gives no lease back."""
    await add_endpoint(shop, receiver.url, "order.placed")
    await shop.checked_out_cart()
    killed = deliveries.Deliveries(resources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliveries._Sender, "_record", lambda self: asyncio.sleep(0))
        await killed.renew()
        await wait_for(receiver, "order.placed")
        for _, task in killed._senders.values():
            task.cancel()

    async with delivering(resources):
        await asyncio.sleep(0.3)
        assert len(receiver.received) == 1, "another worker has the lease"
        await database.execute("UPDATE event_leases SET leased_until = now()")
        await wait_for(receiver, "order.placed", "order.placed")

    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    killed._client.close()


async def test_a_worker_whose_lease_may_have_ended_sends_nothing(
    shop: Shop, resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "LEASE_SECONDS", deliveries.ATTEMPT_SECONDS)
    await add_endpoint(shop, receiver.url, "order.placed")
    await shop.checked_out_cart()

    async with delivering(resources):
        await asyncio.sleep(0.5)

    assert receiver.received == []


async def test_an_endpoint_that_fails_for_three_days_is_switched_off_and_listed(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await shop.checked_out_cart()
    receiver.fail(*100 * [500])
    async with delivering(resources):
        await eventually(lambda: attempts_are(database, [(1, "500")]))
        failing = await shop.call("GET", f"/event-endpoints/{endpoint['id']}", 200)
        assert (failing["active"], failing["failing_since"] is None) == (True, False)
        await database.execute("UPDATE event_leases SET failing_since = now() - interval '3 days 1 s'")
        await retry_now(database)
        (item,) = await eventually(lambda: stuck_items(shop))
        assert (item["kind"], item["id"]) == ("endpoint_switched_off", str(endpoint["id"]))
        assert not (await shop.call("GET", f"/event-endpoints/{endpoint['id']}", 200))["active"]
        sent = len(receiver.received)
        await retry_now(database)
        await asyncio.sleep(0.3)
        assert len(receiver.received) == sent, "nothing is sent to it any more"
        # Switched on again, it gets what it has not got, and leaves the list.
        receiver.fail()
        await shop.call("PATCH", f"/event-endpoints/{endpoint['id']}", 200, {"active": True})
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    assert await stuck_items(shop) == []
    assert (await shop.call("GET", f"/event-endpoints/{endpoint['id']}", 200))["failing_since"] is None


async def stuck_items(shop: Shop) -> list[dict[str, Any]]:
    return list((await shop.call("GET", "/stuck", 200))["items"])


async def test_an_endpoint_that_is_gone_is_switched_off_at_once(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    await add_endpoint(shop, receiver.url, "order.placed")
    await shop.checked_out_cart()
    receiver.fail(410)

    async with delivering(resources):
        (item,) = await eventually(lambda: stuck_items(shop))

    assert item["reason"] == "it answered 410 Gone"


async def test_an_event_is_given_up_after_three_days_and_the_next_one_sent(
    shop: Shop, stripe: StripeStandin, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """Goal: the event is listed as stuck, the next of the order goes on, and staff can send it again."""
    endpoint = await add_endpoint(shop, receiver.url, "order.placed", "order.paid")
    order_id, _ = await create_paid_order(shop, stripe)
    await database.execute(
        "UPDATE event_deliveries SET created_at = now() - interval '3 days 1 s' WHERE type = 'order.placed'"
    )
    await database.execute("UPDATE event_leases SET switched_on_at = now() - interval '3 days 1 s'")
    receiver.fail(500)
    async with delivering(resources):
        await wait_for(receiver, "order.placed", "order.paid")
        (item,) = await eventually(lambda: stuck_items(shop))
        paid, placed = (await shop.call("GET", f"/event-endpoints/{endpoint['id']}/deliveries", 200))["items"]
        assert (item["kind"], item["id"], item["order_id"]) == ("event_undelivered", str(placed["id"]), order_id)
        assert (placed["status"], placed["attempts"], placed["result"]) == ("given_up", 1, "500")
        assert placed["order_id"] == order_id

        path = f"/event-endpoints/{endpoint['id']}/deliveries/{placed['id']}/resend"
        again = await shop.call("POST", path, 200)
        assert (again["status"], again["event_id"]) == ("pending", placed["event_id"])
        await wait_for(receiver, "order.placed", "order.paid", "order.placed")
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    assert await stuck_items(shop) == []
    ids = [received.headers["webhook-id"] for received in receiver.received]
    assert ids == [placed["event_id"], paid["event_id"], placed["event_id"]]


@pytest.mark.parametrize("again", ["resent", "switched on"])
async def test_an_old_event_is_sent_for_three_days_after_it_is_due_again(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection, again: str
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    path = f"/event-endpoints/{endpoint['id']}"
    await insert_events(database, endpoint["id"], 1)
    await database.execute("UPDATE event_deliveries SET created_at = now() - interval '4 days'")
    await database.execute("UPDATE event_leases SET switched_on_at = now() - interval '4 days'")
    if again == "resent":
        delivery_id = await database.fetchval("SELECT id FROM event_deliveries")
        await shop.call("POST", f"{path}/deliveries/{delivery_id}/resend", 200)
    else:
        await shop.call("PATCH", path, 200, {"active": False})
        await shop.call("PATCH", path, 200, {"active": True})
    receiver.fail(500)
    async with delivering(resources):
        await eventually(lambda: attempts_are(database, [(1, "500")]))
        await retry_now(database)
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    assert await stuck_items(shop) == []


async def test_what_happens_again_after_it_was_resolved_is_listed_again(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    path = f"/event-endpoints/{endpoint['id']}"
    await insert_events(database, endpoint["id"], 1)
    delivery_id = await database.fetchval("SELECT id FROM event_deliveries")
    old = "now() - interval '4 days'"

    async def answer(_: Received) -> int:
        return 410

    receiver.answer = answer
    async with delivering(resources):
        for _ in range(2):
            await database.execute(f"UPDATE event_deliveries SET created_at = {old}, resent_at = {old}")
            await database.execute(f"UPDATE event_leases SET switched_on_at = {old}")

            async def are_listed() -> bool:
                kinds = [item["kind"] for item in await stuck_items(shop)]
                return sorted(kinds) == ["endpoint_switched_off", "event_undelivered"]

            await eventually(are_listed)
            for item in await stuck_items(shop):
                await shop.call("POST", f"/stuck/{item['kind']}/{item['id']}/resolve", 200, {"reason": "x"})
            await shop.call("POST", f"{path}/deliveries/{delivery_id}/resend", 200)
            await database.execute(f"UPDATE event_deliveries SET resent_at = {old}")
            await shop.call("PATCH", path, 200, {"active": True})
            await database.execute(f"UPDATE event_leases SET switched_on_at = {old}")


async def test_events_of_one_endpoint_go_out_at_a_time_and_each_once(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """Goal: many orders' events are sent in parallel, none twice. Method: a receiver that takes 20 ms for each."""
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await insert_events(database, endpoint["id"], 500)
    running = most = 0

    async def answer(_: Received) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return 200

    receiver.answer = answer
    async with delivering(resources):

        async def all_delivered() -> bool:
            left = await database.fetchval("SELECT count(*) FROM event_deliveries WHERE status <> 'delivered'")
            return left == 0

        await eventually(all_delivered)

    assert len(receiver.received) == 500
    assert 8 < most <= deliveries.CONCURRENCY


async def test_many_failures_in_a_row_pause_an_endpoint(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_PAUSE_SECONDS", 60.0)
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await insert_events(database, endpoint["id"], 300)
    receiver.fail(*1000 * [503])

    async with delivering(resources):
        await asyncio.sleep(1.0)

    # What was under way when the failures began, and a few attempts since.
    assert len(receiver.received) <= deliveries.CONCURRENCY + 5


async def test_one_burst_of_failures_pauses_an_endpoint_for_a_second(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: forty failures at a time count as few. Method: the pause doubles with each failure that counts."""
    monkeypatch.setattr(deliveries, "MAX_PAUSE_SECONDS", 60.0)
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await insert_events(database, endpoint["id"], 40)
    receiver.fail(*40 * [503])
    async with delivering(resources):

        async def are_recorded() -> bool:
            return await attempts_are(database, 40 * [(1, "503")])

        await eventually(are_recorded)
        await insert_events(database, endpoint["id"], 1)
        await eventually(lambda: is_delivered(database))


async def test_a_failure_that_the_run_before_recorded_ends_with_a_delivery(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    async with deliveries.delivering(resources) as running:
        await running.renew()
        await database.execute("UPDATE event_leases SET failing_since = now()")
        await running.renew()
        await insert_events(database, endpoint["id"], 1)
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    assert (await shop.call("GET", f"/event-endpoints/{endpoint['id']}", 200))["failing_since"] is None


async def is_delivered(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval("SELECT EXISTS (SELECT FROM event_deliveries WHERE status = 'delivered')"))


async def test_a_lease_that_is_locked_while_it_is_renewed_ends_no_attempt(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await insert_events(database, endpoint["id"], 1)
    answered = asyncio.Event()

    async def answer(_: Received) -> int:
        await answered.wait()
        return 204

    receiver.answer = answer
    async with deliveries.delivering(resources) as running:
        await running.renew()
        await wait_for(receiver, "order.placed")
        # As a sender that records a failure does.
        async with database.transaction():
            await database.execute("UPDATE event_leases SET failing_since = NULL")
            await running.renew()
        await running.renew()
        await asyncio.sleep(0.2)
        answered.set()
        await eventually(lambda: is_finished(shop, endpoint["id"]))
        sent = len(receiver.received)
        # Without a renewal for so long, another worker may have it.
        async with database.transaction():
            await database.execute("UPDATE event_leases SET failing_since = NULL")
            for sender, _ in running._senders.values():
                sender.may_send_until = 0.0
            await running.renew()
        assert running._senders == {}

    assert sent == 1


async def test_failures_beside_the_sending_stop_no_deliveries(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: events go out while the measurement and the announcements fail, which hold back neither each other."""

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.calls, self.error = 0, error

        async def one(self, *_: object, **__: object) -> None:
            self.calls += 1
            raise self.error

        all = one

    measure, announce = Failing(ShopError("busy", "statement timeout")), Failing(RuntimeError())
    monkeypatch.setattr(deliveries, "MEASURE_BACKLOG", measure)
    monkeypatch.setattr(deliveries, "LIST_DUE_PRODUCTS", announce)
    endpoint = await add_endpoint(shop, receiver.url, "order.placed")
    await insert_events(database, endpoint["id"], 1)

    async with deliveries.delivering(resources) as running:
        await running.renew()
        await running.renew()
        await eventually(lambda: is_finished(shop, endpoint["id"]))

    assert (announce.calls, measure.calls) == (2, 1), "the measurement is made less often"


async def test_an_event_that_a_working_endpoint_misses_for_an_hour_is_overdue(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, "https://example.com", "order.placed")
    await shop.checked_out_cart()

    async def overdue(change: str) -> list[str]:
        await database.execute(change)
        rows = await database.fetch((SQL / "audit/nothing_is_overdue.sql").read_text())
        return [row["subject"].split()[0] for row in rows]

    ago = "now() - interval '61 minutes'"
    assert await overdue(f"UPDATE event_deliveries SET created_at = {ago}") == []
    assert await overdue(f"UPDATE event_leases SET working_since = {ago}") == ["delivery"]
    assert await overdue("UPDATE event_leases SET failing_since = now()") == []
    assert await overdue("UPDATE event_leases SET failing_since = NULL") == ["delivery"]
    # A short failure of others does not hide it; what a long one held back has its hour.
    mark_working = (SQL / "deliveries/mark_working.sql").read_text()
    for minutes, subjects in ((29, ["delivery"]), (31, [])):
        await database.execute(f"UPDATE event_leases SET failing_since = now() - interval '{minutes} minutes'")
        await database.execute(mark_working, endpoint["id"], False)
        assert await overdue("SELECT 1") == subjects
    await database.execute(f"UPDATE event_leases SET working_since = {ago}")
    await shop.call("PATCH", f"/event-endpoints/{endpoint['id']}", 200, {"active": False})
    assert await overdue("SELECT 1") == []
    # Staff have just switched it on.
    await shop.call("PATCH", f"/event-endpoints/{endpoint['id']}", 200, {"active": True})
    assert await overdue("SELECT 1") == []


# What must not be reached


@pytest.mark.parametrize(
    "url",
    [
        *"http://example.com https://user@example.com https://user:pass@example.com https://example.com#x".split(),
        *"https://127.0.0.1 https://127.1 https://127.0.1 https://2130706433 https://0x7f000001 https://0x7f.1".split(),
        *"https://0177.0.0.1 https://017700000001 https://0 https://0.0.0.0 https://127.0.0.1. https://00000.1".split(),
        *"https://10.0.0.1 https://172.16.0.1 https://192.168.0.1 https://169.254.169.254 https://100.64.0.1".split(),
        *"https://192.0.0.192 https://168.63.129.16 https://224.0.0.1 https://255.255.255.255 https://240.0.0.1".split(),
        *"https://[::1] https://[::] https://[::ffff:127.0.0.1] https://[::ffff:7f00:1] https://[::127.0.0.1]".split(),
        *"https://[64:ff9b::7f00:1] https://[64:ff9b:1::7f00:1] https://[2002:7f00:1::] https://[fe80::1]".split(),
        *"https://[2001:0:4136:e378:8000:63bf:3fff:fdd2] https://[fd00:ec2::254] https://[fec0::1] https://[ff02::1]".split(),
        *"https://[2606:4700::1]evil.com/ https://[fe80::1%25eth0] https://[fe80::1%eth0] https://%31%32%37.0.0.1 https://127。0。0。1".split(),
        *"https://①②⑦.0.0.1 https://example.com\\@127.0.0.1 https:// https:///x https://[::1 ftp://example.com".split(),
        *"https://example.com:0 https://example.com:99999 https://a..b //example.com javascript:alert(1)".split(),
        *("https://exa mple.com", "https://example.com/\r\nX: y", f"https://example.com/{2000 * 'x'}"),
    ],
)
def test_a_url_of_something_private_is_refused(url: str) -> None:
    with pytest.raises(webhook_client.InvalidUrl):
        webhook_client.check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        *"https://example.com https://example.com:8443/x?y=1 https://8.8.8.8 https://[2606:4700::1111]".split(),
        *"https://[64:ff9b::8.8.8.8] HTTPS://EXAMPLE.COM https://xn--bcher-kva.example https://localhost".split(),
    ],
)
def test_a_url_on_the_internet_or_a_name_is_accepted(url: str) -> None:
    assert webhook_client.check_url(url, allow_private=False).hostname


@pytest.mark.parametrize("changed_settings", [{}])
async def test_the_api_refuses_a_private_url(shop: Shop, database: asyncpg.Connection) -> None:
    endpoint = await add_endpoint(shop, "https://example.com", "order.paid")
    new = {"url": "https://0x7f.1", "types": ["order.paid"]}

    refused = await shop.call("POST", "/event-endpoints", 422, new)
    await shop.call("PATCH", f"/event-endpoints/{endpoint['id']}", 422, {"url": "http://127.0.0.1"})

    assert [error["pointer"] for error in refused["errors"]] == ["/url"]
    assert await database.fetchval("SELECT array_agg(url) FROM event_endpoints") == ["https://example.com"]


@pytest.mark.parametrize("changed_settings", [{}])
async def test_a_name_with_a_private_address_is_never_connected(
    shop: Shop, resources: Resources, receiver: Receiver, database: asyncpg.Connection
) -> None:
    """Goal: names are checked at each delivery. The row also says so for what an earlier setting allowed."""
    port = receiver.url.rpartition(":")[2]
    await add_endpoint(shop, f"https://localhost:{port}", "order.placed")
    old = await add_endpoint(shop, "https://example.com", "order.placed")
    await database.execute("UPDATE event_endpoints SET url = $1 WHERE id = $2", receiver.url, old["id"])
    await shop.checked_out_cart()

    async with delivering(resources):
        await eventually(lambda: attempts_are(database, [(1, "address_not_allowed"), (1, "url_not_allowed")]))

    assert receiver.received == []


async def test_another_answer_of_the_resolver_cannot_win(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the checked address is the one that is connected. Method: a resolver with another answer each time."""
    port = int(receiver.url.rpartition(":")[2])
    answers = [["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "127.0.0.1"]]
    asked: list[str] = []
    connected: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in answers[len(asked) - 1]]

    async def connect(_: object, host: str, port: int, **__: object) -> Any:
        connected.append(host)
        raise ConnectionRefusedError

    monkeypatch.setattr(webhook_client.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect, raising=False)
    client = webhook_client.WebhookClient(allow_private=False)
    reasons = []
    for _ in answers:
        with pytest.raises(webhook_client.NotSent) as reason:
            await client.post(f"https://rebinding.example:{port}/", "evt_1", b"{}", [b"x" * 32])
        reasons.append(str(reason.value))
    client.close()

    assert asked == 3 * ["rebinding.example"]
    assert connected == 2 * ["93.184.215.14"]
    assert reasons == ["connection_refused", "address_not_allowed", "connection_refused"]


async def test_a_name_without_an_answer_holds_back_no_others(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: all attempts of a name wait for one answer, also those that come after the first has given up."""
    port = receiver.url.rpartition(":")[2]
    asked: list[str] = []
    answered = threading.Event()

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        if host == "silent.example":
            answered.wait(10)
            raise OSError
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(webhook_client.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(webhook_client, "CONNECT_SECONDS", 0.2)
    client = webhook_client.WebhookClient(allow_private=True)

    async def post(host: str) -> int | str:
        try:
            return await client.post(f"http://{host}:{port}/", "evt_1", b'{"type": "x"}', [b"x" * 32])
        except webhook_client.NotSent as reason:
            return str(reason)

    for _ in range(2):
        silent = [asyncio.create_task(post("silent.example")) for _ in range(webhook_client.RESOLVING)]
        await asyncio.sleep(0)
        assert await post("other.example") == 204
        assert await asyncio.gather(*silent) == webhook_client.RESOLVING * ["connect_timeout"]
    late = asyncio.create_task(post("silent.example"))
    await asyncio.sleep(0.05)
    answered.set()
    assert await late == "name_not_found"
    assert await post("silent.example") == "name_not_found"
    client.close()

    # The connection to the other is kept, and its name not resolved again.
    assert asked == ["silent.example", "other.example", "silent.example"]


def post_twice(url: str) -> list[int]:
    """The answers to two events, sent on the worker's event loop."""

    async def post() -> list[int]:
        client = webhook_client.WebhookClient(allow_private=True)
        try:
            return [await client.post(url, "evt_1", b"{}", [b"x" * 32]) for _ in range(2)]
        finally:
            client.close()

    return uvloop.run(post())


async def test_events_are_sent_on_the_workers_event_loop_over_one_connection(receiver: Receiver) -> None:
    assert await asyncio.to_thread(post_twice, receiver.url) == [204, 204]
    assert len({received.client for received in receiver.received}) == 1


async def test_an_answer_is_read_only_so_far(receiver: Receiver) -> None:
    client = webhook_client.WebhookClient(allow_private=True)
    receiver.body = 10_000_000 * b"x"
    receiver.fail(200, 200)

    statuses = [await client.post(receiver.url, "evt_1", b"{}", [b"x" * 32]) for _ in range(2)]
    client.close()

    assert statuses == [200, 200]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "200"),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nx", "invalid_answer"),
        (b"HTTP/1.0 200 OK\r\n\r\nbody", "200"),
        (b"nonsense\r\n\r\n", "invalid_answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + 20_000 * b"y", "200"),
        (20_000 * b"HTTP/1.1 100 Continue\r\n\r\n", "invalid_answer"),
        (b"", "connection_lost"),
        (None, "timeout"),
    ],
)
async def test_any_answer_becomes_a_result(answer: bytes | None, result: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = webhook_client.WebhookClient(allow_private=True)
    port = server.sockets[0].getsockname()[1]
    try:
        status = str(await client.post(f"http://127.0.0.1:{port}/", "evt_1", b"{}", [b"x" * 32]))
    except webhook_client.NotSent as reason:
        status = str(reason)
    client.close()
    server.close()

    assert (status, errors) == (result, [])


# What staff do


async def test_a_secret_is_shown_once_and_stored_in_one_place(shop: Shop, database: asyncpg.Connection) -> None:
    new = {"url": "https://example.com", "types": ["order.paid"]}
    created = await shop.call("POST", "/event-endpoints", 201, new, Idempotency_Key="a")
    replayed = await shop.call("POST", "/event-endpoints", 201, new, Idempotency_Key="a")
    path = f"/event-endpoints/{created['id']}"
    rotated = await shop.call("POST", f"{path}/rotate", 200, Idempotency_Key="b")
    again = await shop.call("POST", f"{path}/rotate", 200, Idempotency_Key="b")

    assert replayed == created | {"secret": None}
    assert again == {"secret": None}
    assert "secret" not in await shop.call("GET", path, 200)
    assert all("secret" not in item for item in (await shop.call("GET", "/event-endpoints", 200))["items"])
    secrets = [base64.b64decode(answer["secret"].removeprefix("whsec_")) for answer in (created, rotated)]
    assert [len(secret) for secret in secrets] == [32, 32]
    stored = await database.fetch("SELECT secret, previous_secrets FROM event_endpoints")
    assert [(*row,) for row in stored] == [(secrets[1], [secrets[0]])]
    answers = await database.fetchval("SELECT string_agg(convert_from(answer, 'UTF8'), '') FROM idempotency_keys")
    assert "whsec_" not in answers


async def test_there_are_only_so_many_endpoints(shop: Shop) -> None:
    endpoints = [await add_endpoint(shop, "https://example.com", "order.paid") for _ in range(20)]
    await shop.call("POST", "/event-endpoints", 422, {"url": "https://example.com", "types": ["order.paid"]})
    await shop.call("DELETE", f"/event-endpoints/{endpoints[0]['id']}", 204)

    await add_endpoint(shop, "https://example.com", "order.paid")


async def test_lists_are_pages(shop: Shop) -> None:
    endpoints = [await add_endpoint(shop, f"https://example.com/{n}", "order.placed") for n in range(3)]
    for _ in range(3):
        await shop.checked_out_cart()

    for path, ids in (
        ("/event-endpoints", [endpoint["id"] for endpoint in endpoints]),
        (f"/event-endpoints/{endpoints[0]['id']}/deliveries", None),
    ):
        everything = (await shop.call("GET", path, 200))["items"]
        first = await shop.call("GET", f"{path}?limit=2", 200)
        second = await shop.call("GET", f"{path}?limit=2&after_id={first['next_cursor']}", 200)
        assert first["items"] + second["items"] == everything
        assert second["next_cursor"] is None
        listed = [item["id"] for item in everything]
        assert listed == (ids or sorted(listed, reverse=True))


async def test_a_deleted_endpoint_is_not_found_and_its_events_go(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    endpoint = await add_endpoint(shop, "https://example.com", "order.placed")
    kept = await add_endpoint(shop, "https://example.com", "order.placed")
    await shop.checked_out_cart()
    path = f"/event-endpoints/{endpoint['id']}"

    await shop.call("DELETE", path, 204)
    for method, rest, body in (
        ("GET", "", None),
        ("PATCH", "", {"active": True}),
        ("DELETE", "", None),
        ("POST", "/rotate", None),
        ("GET", "/deliveries", None),
        ("POST", "/deliveries/1/resend", None),
    ):
        await shop.call(method, f"{path}{rest}", 404, body)
    await database.execute("UPDATE event_endpoints SET deleted_at = deleted_at - interval '2 hours'")
    await retention.delete_expired(resources)

    assert [item["id"] for item in (await shop.call("GET", "/event-endpoints", 200))["items"]] == [kept["id"]]
    assert await database.fetchval("SELECT array_agg(endpoint_id) FROM event_deliveries") == [kept["id"]]
    assert await database.fetchval("SELECT array_agg(id) FROM event_endpoints") == [kept["id"]]


async def test_events_are_deleted_after_thirty_days_and_never_while_they_are_to_be_sent(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    await add_endpoint(shop, "https://example.com", "order.placed")
    for days, status in ((31, "delivered"), (31, "given_up"), (29, "delivered"), (365, "pending")):
        await database.execute(
            "INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data, status, next_attempt_at,"
            " finished_at, created_at) SELECT 1, gen_random_uuid(), 'order.placed', 'order:1', '{}', $2,"
            " CASE WHEN $2 = 'pending' THEN now() END,"
            " CASE WHEN $2 <> 'pending' THEN at END, at FROM (VALUES (now() - make_interval(days => $1))) AS old (at)",
            days,
            status,
        )

    await retention.delete_expired(resources)

    left = await database.fetch("SELECT status FROM event_deliveries ORDER BY status")
    assert [status for (status,) in left] == ["delivered", "pending"]
