"""The Stripe stand-in, asked by the real SDK over HTTP on a real server, as the service asks it."""

import asyncio
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.dev.stripe_standin import StripeStandin
from tests.conftest import served

SECRET = "whsec_of_the_tests"
SHOP = "http://shop.test"


@asynccontextmanager
async def sdk(base: str, key: str = "sk_test_1") -> AsyncIterator[Any]:
    """The SDK's client without retries; untyped, since tests send what its types forbid."""
    transport: Any = stripe.AIOHTTPClient(timeout=5)
    yield stripe.StripeClient(key, base_addresses={"api": base}, http_client=transport, max_network_retries=0)
    await transport.close_async()


class Receiver:
    """A webhook endpoint that verifies every signature and answers the statuses it is given, then 200."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.refused: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/hook", self.receive, methods=["POST"])])

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        stripe.WebhookSignature.verify_header(body, request.headers["stripe-signature"], SECRET, tolerance=60)
        status = self.statuses.pop(0) if self.statuses else 200
        (self.taken if status == 200 else self.refused).append(orjson.loads(body))
        return Response(status_code=status)

    def types(self) -> list[str]:
        return [event["type"] for event in self.taken]

    async def until(self, count: int, seconds: float = 5) -> None:
        await eventually(lambda: len(self.taken) >= count, seconds)


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows of no event
            await asyncio.sleep(0.01)


class World:
    """A stand-in being served, a client of the SDK for it, a plain HTTP client, and a webhook receiver."""

    def __init__(self, standin: StripeStandin, base: str, client: Any, http: aiohttp.ClientSession) -> None:
        self.standin = standin
        self.base = base
        self.client = client
        self.sessions = client.v1.checkout.sessions
        self.refunds = client.v1.refunds
        self.http = http

    async def create(self, key: str | None = None, **changes: Any) -> Any:
        options = {} if key is None else {"idempotency_key": key}
        return await self.sessions.create_async(parameters(**changes), options)

    async def paid(self, amount: int = 2500) -> Any:
        """A session that has been paid, as the API shows it."""
        session = await self.create(line_items=[line(amount, 1)])
        self.standin.pay(session.id)
        return await self.sessions.retrieve_async(session.id)

    async def patiently(self, call: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        """Call until the key in use by an earlier call is free."""
        async with asyncio.timeout(5):
            while True:
                try:
                    return await call(**arguments)
                except stripe.APIError as error:
                    if error.http_status != 409:
                        raise
                    await asyncio.sleep(0.01)

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        async with self.http.request(method, f"{self.base}/_control{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def press(self, session: Any, action: str, **fields: str) -> tuple[int, str, str]:
        """Press a button of the payment page: status, Location and body of the answer."""
        form = {"action": action, **fields}
        async with self.http.post(session.url, data=form, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", ""), await answer.text()


def line(amount: int = 1250, quantity: int = 2, name: str = "Blue cup", currency: str = "usd") -> dict[str, Any]:
    price = {"currency": currency, "unit_amount": amount, "product_data": {"name": name}}
    return {"price_data": price, "quantity": quantity}


def parameters(**changes: Any) -> Any:
    """Parameters of a session of 25.00 USD; a change to None leaves one out."""
    usual = {
        "mode": "payment",
        "line_items": [line()],
        "success_url": f"{SHOP}/done?session_id={{CHECKOUT_SESSION_ID}}",
        "cancel_url": f"{SHOP}/cancelled",
        "client_reference_id": "order-1",
        "metadata": {"order_id": "order-1"},
        "payment_intent_data": {"metadata": {"order_id": "order-1"}},
    }
    return {key: value for key, value in (usual | changes).items() if value is not None}


@asynccontextmanager
async def world_of(standin: StripeStandin) -> AsyncIterator[World]:
    async with served(standin.app) as base, sdk(base) as client, aiohttp.ClientSession() as http:
        yield World(standin, base, client, http)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(StripeStandin(webhook_secret=SECRET, settle_seconds=None)) as made:
        yield made


@pytest.fixture
async def receiver(world: World) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with served(receiver.app) as base:
        world.standin.webhook_url = f"{base}/hook"
        yield receiver
        world.standin.set_webhooks(drop=True)


async def refused(call: Awaitable[Any], status: int, code: str | None = None, param: str | None = None) -> Any:
    """The SDK's error for a call that Stripe refuses, checked against status, code and parameter."""
    with pytest.raises(stripe.StripeError) as caught:
        await call
    error: Any = caught.value
    assert (error.http_status, error.code, getattr(error, "param", None)) == (status, code, param), error
    assert error.request_id.startswith("req_")
    return error


# Sessions


async def test_a_session_begins_open_and_unpaid(world: World) -> None:
    before = int(time.time())
    session = await world.create(customer_email="jo@example.com", expires_at=before + 2100)
    assert re.fullmatch(r"cs_test_\w{58}", session.id)
    assert (session.object, session.mode, session.livemode) == ("checkout.session", "payment", False)
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    assert (session.amount_subtotal, session.amount_total, session.currency) == (2500, 2500, "usd")
    assert session.metadata["order_id"] == session.client_reference_id == "order-1"
    assert (session.customer_email, session.customer_details.email) == ("jo@example.com",) * 2
    assert before <= session.created <= time.time()
    assert session.expires_at == before + 2100
    assert session.url == f"{world.base}/pay/{session.id}"
    assert not [key for key in session.to_dict() if key.startswith("_") or key == "line_items"]
    assert (await world.sessions.retrieve_async(session.id)).to_dict() == session.to_dict()
    assert session.last_response.headers["Request-Id"].startswith("req_")


async def test_the_page_has_the_public_address_when_one_is_set(world: World) -> None:
    world.standin.public_url = "https://pay.example/"
    session = await world.create()
    assert session.url == f"https://pay.example/pay/{session.id}"


@pytest.mark.parametrize(
    ("changes", "code", "param", "words"),
    [
        ({"mode": None}, "parameter_missing", "mode", "Missing required param: mode."),
        ({"success_url": None}, "parameter_missing", "success_url", "success_url"),
        ({"line_items": None}, "parameter_missing", "line_items", "line_items"),
        ({"colour": "blue"}, "parameter_unknown", "colour", "Received unknown parameter: colour"),
        ({"expand": ["payment_intent"]}, None, "expand", "does not expand"),
        ({"success_url": "shop"}, "url_invalid", "success_url", "Not a valid URL"),
        ({"line_items": [line()] * 101}, None, "line_items", "up to 100"),
        ({"line_items": [line(49, 1)]}, "amount_too_small", None, "must add up to at least $0.50 usd"),
        ({"line_items": [line(99_999_999)]}, "amount_too_large", None, "no more than $999,999.99"),
        (
            {"line_items": [line(), line(currency="eur")]}, None,
            "line_items[1][price_data][currency]", "same currency",
        ),
        (
            {"line_items": [line(name="")]}, "parameter_invalid_empty",
            "line_items[0][price_data][product_data][name]", "empty string",
        ),
        (
            {"line_items": [{**line(), "quantity": 0}]}, "parameter_invalid_integer",
            "line_items[0][quantity]", "greater than or equal to 1",
        ),
        (
            {"line_items": [{**line(), "quantity": "two"}]}, "parameter_invalid_integer",
            "line_items[0][quantity]", "Invalid integer: two",
        ),
        ({"metadata": {"note": "x" * 501}}, None, "metadata[note]", "up to 500 characters"),
    ],
)  # fmt: skip
async def test_wrong_parameters_are_refused_in_stripes_words(
    world: World, changes: dict[str, Any], code: str | None, param: str | None, words: str
) -> None:
    error = await refused(world.create(**changes), 400, code, param)
    assert isinstance(error, stripe.InvalidRequestError)
    assert words in error.user_message
    assert world.standin.ledger() == {"payments": [], "open_sessions": []}


async def test_expires_at_lies_between_half_an_hour_and_a_day(world: World) -> None:
    now = int(time.time())
    early = await refused(world.create(expires_at=now + 1790), 400, None, "expires_at")
    assert "at least 30 minutes from Checkout Session creation" in early.user_message
    late = await refused(world.create(expires_at=now + 86_410), 400, None, "expires_at")
    assert "less than 24 hours from Checkout Session creation" in late.user_message
    assert (await world.create(expires_at=now + 1810)).status == "open"
    assert (await world.create()).expires_at - now in range(86_400, 86_402)


async def test_only_open_sessions_can_be_expired(world: World, receiver: Receiver) -> None:
    session = await world.create()
    expired = await world.sessions.expire_async(session.id)
    assert (expired.status, expired.url) == ("expired", None)
    await receiver.until(1)
    assert receiver.types() == ["checkout.session.expired"]
    again = await refused(world.sessions.expire_async(session.id), 400, None, "session")
    assert 'Only Checkout Sessions with a status in ["open"] can be expired.' in again.user_message
    assert "status of `expired`" in again.user_message
    paid = await world.paid()
    error = await refused(world.sessions.expire_async(paid.id), 400, None, "session")
    assert "status of `complete`" in error.user_message


async def test_time_expires_a_session(world: World, receiver: Receiver) -> None:
    session = await world.create(expires_at=int(time.time()) + 1900)
    await world.control("POST", "/clock", {"advance": 1800})
    assert (await world.sessions.retrieve_async(session.id)).status == "open"
    await world.control("POST", "/clock", {"advance": 101})
    assert (await world.sessions.retrieve_async(session.id)).status == "expired"
    await receiver.until(1)
    assert receiver.taken[0]["type"] == "checkout.session.expired"
    assert receiver.taken[0]["data"]["object"]["id"] == session.id
    assert receiver.taken[0]["created"] >= session.expires_at
    async with world.http.get(session.url) as page:
        assert page.status == 410
        assert "expired" in await page.text()


async def test_the_ticker_expires_a_session_that_nobody_asks_for(world: World, receiver: Receiver) -> None:
    await world.create(expires_at=int(time.time()) + 1810)
    # Unlike `advance_clock` this leaves what has come due to the ticker.
    world.standin._clock_shift += 1820
    await receiver.until(1, seconds=3)
    assert receiver.types() == ["checkout.session.expired"]


async def test_sessions_are_listed_newest_first_in_pages(world: World) -> None:
    made = []
    for _ in range(5):
        made.append(await world.create())
        world.standin.advance_clock(10)
    ids = [session.id for session in reversed(made)]

    async def listed(**query: Any) -> tuple[list[str], bool]:
        page = await world.sessions.list_async(query)
        assert (page.object, page.url) == ("list", "/v1/checkout/sessions")
        return [session.id for session in page.data], page.has_more

    assert await listed() == (ids, False)
    assert await listed(limit=2) == (ids[:2], True)
    assert await listed(limit=2, starting_after=ids[1]) == (ids[2:4], True)
    assert await listed(limit=2, starting_after=ids[3]) == (ids[4:], False)
    assert await listed(limit=2, ending_before=ids[4]) == (ids[2:4], True)
    assert await listed(limit=2, ending_before=ids[2]) == (ids[:2], False)
    second, fourth = made[1].created, made[3].created
    assert await listed(created={"gte": second, "lte": fourth}) == (ids[1:4], False)
    assert await listed(created={"gt": second, "lt": fourth}) == (ids[2:3], False)
    assert await listed(created=second) == (ids[3:4], False)
    assert await listed(created={"gte": second}, limit=1, starting_after=ids[0]) == (ids[1:2], True)
    world.standin.pay(ids[2])
    paid = await world.sessions.retrieve_async(ids[2])
    assert await listed(payment_intent=paid.payment_intent) == ([ids[2]], False)
    assert await listed(status="complete") == ([ids[2]], False)
    walked = [session.id async for session in (await world.sessions.list_async({"limit": 2})).auto_paging_iter()]
    assert walked == ids
    await refused(world.sessions.list_async({"limit": 101}), 400, "parameter_invalid_integer", "limit")
    await refused(world.sessions.list_async({"starting_after": "cs_no"}), 404, "resource_missing", "starting_after")


# Who may ask, and for what


async def test_a_test_key_is_needed(world: World) -> None:
    async with world.http.get(f"{world.base}/v1/events") as answer:
        assert answer.status == 401
        assert (await answer.json())["error"]["message"].startswith("You did not provide an API key.")
    async with sdk(world.base, "sk_live_not_here_please") as live:
        error = await refused(live.v1.events.list_async(), 401)
        assert isinstance(error, stripe.AuthenticationError)
        assert "not_here" not in error.user_message
    for authorization in ("Basic " + b64encode(b"sk_test_1:").decode(), "Bearer rk_test_1"):
        headers = {"Authorization": authorization}
        async with world.http.get(f"{world.base}/v1/events", headers=headers) as answer:
            assert answer.status == 200


async def test_what_is_not_there_is_404(world: World) -> None:
    v1 = world.client.v1
    error = await refused(world.sessions.retrieve_async("cs_no"), 404, "resource_missing", "session")
    assert error.user_message == "No such checkout.session: 'cs_no'"
    await refused(world.sessions.expire_async("cs_no"), 404, "resource_missing", "session")
    await refused(world.refunds.retrieve_async("re_no"), 404, "resource_missing", "id")
    await refused(v1.payment_intents.retrieve_async("pi_no"), 404, "resource_missing", "intent")
    await refused(v1.events.retrieve_async("evt_no"), 404, "resource_missing", "id")
    unknown = await refused(v1.customers.list_async(), 404)
    assert "Unrecognized request URL (GET: /v1/customers)." in unknown.user_message
    counts = await world.control("GET", "/requests")
    assert counts["GET /v1/checkout/sessions/{id}"] == counts["POST /v1/checkout/sessions/{id}/expire"] == 1


# Idempotency keys


async def test_a_key_brings_the_first_answer_again(world: World) -> None:
    first = await world.create(key="k1")
    world.standin.pay(first.id)
    again = await world.create(key="k1")
    # The answer is as old as the first: it does not know of the payment.
    assert again.to_dict() == first.to_dict()
    assert again.status == "open"
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert len(list(world.standin.sessions)) == 1


async def test_a_key_belongs_to_its_parameters_and_path(world: World) -> None:
    first = await world.create(key="k1")
    other = await refused(world.create(key="k1", client_reference_id="order-2"), 400)
    assert isinstance(other, stripe.IdempotencyError)
    assert "with the same parameters they were first used with" in other.user_message
    path = await refused(world.sessions.expire_async(first.id, options={"idempotency_key": "k1"}), 400)
    assert isinstance(path, stripe.IdempotencyError)
    assert "('/v1/checkout/sessions/" in path.user_message
    assert (await world.sessions.retrieve_async(first.id)).status == "open"


async def test_a_failed_validation_leaves_the_key_free(world: World) -> None:
    await refused(world.create(key="k1", line_items=[line(1, 1)]), 400, "amount_too_small")
    assert (await world.create(key="k1")).status == "open"


async def test_a_key_in_use_is_a_conflict(world: World) -> None:
    await world.control("PUT", "/faults", [{"action": "delay", "path": "/v1/", "seconds": 0.3, "times": 1}])
    first = asyncio.create_task(world.create(key="k1"))
    await eventually(lambda: bool(world.standin.requests))
    error = await refused(world.create(key="k1"), 409)
    assert error.json_body["error"]["type"] == "idempotency_error"
    assert error.json_body["error"]["code"] == "idempotency_key_in_use"
    made = await first
    assert (await world.create(key="k1")).id == made.id


async def test_a_key_is_forgotten_after_a_day(world: World) -> None:
    first = await world.create(key="k1")
    world.standin.advance_clock(86_401)
    second = await world.create(key="k1")
    assert second.id != first.id


# The payment page


async def test_the_page_shows_the_order(world: World) -> None:
    lines = [line(1250, 2, "<b>Cup</b>"), line(499, 1, "Spoon")]
    session = await world.create(line_items=lines)
    async with world.http.get(session.url) as page:
        assert page.status == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        text = await page.text()
    assert "&lt;b&gt;Cup&lt;/b&gt;" in text
    assert "<b>" not in text
    assert "2 × $12.50" in text
    assert "Pay $29.99" in text
    assert 'value="shopper@example.com"' in text
    assert "no money moves" in text
    assert "<script" not in text
    yen = await world.create(line_items=[line(1500, 1, currency="jpy")])
    async with world.http.get(yen.url) as page:
        assert "Pay ¥1,500" in await page.text()
    async with world.http.get(f"{world.base}/pay/cs_no") as page:
        assert page.status == 404


async def test_paying_on_the_page(world: World, receiver: Receiver) -> None:
    session = await world.create()
    status, location, _ = await world.press(session, "pay", email="jo@example.com")
    assert (status, location) == (303, f"{SHOP}/done?session_id={session.id}")
    paid = await world.sessions.retrieve_async(session.id)
    assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
    assert paid.customer_details.email == "jo@example.com"
    intent = await world.client.v1.payment_intents.retrieve_async(paid.payment_intent)
    assert (intent.status, intent.amount, intent.amount_received) == ("succeeded", 2500, 2500)
    assert (intent.currency, intent.metadata["order_id"]) == ("usd", "order-1")
    assert intent.latest_charge.startswith("ch_")
    await receiver.until(2)
    assert sorted(receiver.types()) == ["checkout.session.completed", "payment_intent.succeeded"]
    completed = next(event for event in receiver.taken if event["type"] == "checkout.session.completed")
    assert completed["data"]["object"] == paid.to_dict()
    # Pressing again pays nothing again.
    status, _, text = await world.press(session, "pay")
    assert status == 200
    assert "paid already" in text
    assert [payment["session"] for payment in world.standin.ledger()["payments"]] == [session.id]


async def test_a_declined_card_leaves_the_session_open(world: World, receiver: Receiver) -> None:
    session = await world.create()
    status, _, text = await world.press(session, "decline")
    assert status == 200
    assert "Your card was declined." in text
    declined = await world.sessions.retrieve_async(session.id)
    assert (declined.status, declined.payment_status) == ("open", "unpaid")
    intent = await world.client.v1.payment_intents.retrieve_async(declined.payment_intent)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", "card_declined")
    await receiver.until(1)
    assert receiver.types() == ["payment_intent.payment_failed"]
    await world.press(session, "pay")
    paid = await world.sessions.retrieve_async(session.id)
    assert (paid.payment_status, paid.payment_intent) == ("paid", intent.id)


async def test_cancelling_on_the_page_changes_nothing(world: World) -> None:
    session = await world.create()
    assert (await world.press(session, "cancel"))[:2] == (303, f"{SHOP}/cancelled")
    assert (await world.sessions.retrieve_async(session.id)).to_dict() == session.to_dict()


@pytest.mark.parametrize(
    ("succeed", "payment_status", "intent_status", "events"),
    [
        (True, "paid", "succeeded", ["checkout.session.async_payment_succeeded", "payment_intent.succeeded"]),
        (
            False, "unpaid", "requires_payment_method",
            ["checkout.session.async_payment_failed", "payment_intent.payment_failed"],
        ),
    ],
)  # fmt: skip
async def test_a_bank_transfer_settles_later(
    world: World,
    receiver: Receiver,
    succeed: bool,
    payment_status: str,
    intent_status: str,
    events: list[str],
) -> None:
    session = await world.create()
    status, location, _ = await world.press(session, "later")
    assert (status, location) == (303, f"{SHOP}/done?session_id={session.id}")
    promised = await world.sessions.retrieve_async(session.id)
    assert (promised.status, promised.payment_status) == ("complete", "unpaid")
    await receiver.until(1)
    assert receiver.types() == ["checkout.session.completed"]
    assert receiver.taken[0]["data"]["object"]["payment_status"] == "unpaid"
    error = await refused(world.refunds.create_async({"payment_intent": promised.payment_intent}), 400)
    assert "does not have a successful charge to refund" in error.user_message
    await world.control("POST", f"/sessions/{session.id}/settle", {"succeed": succeed})
    assert (await world.sessions.retrieve_async(session.id)).payment_status == payment_status
    intent = await world.client.v1.payment_intents.retrieve_async(promised.payment_intent)
    assert intent.status == intent_status
    await receiver.until(3)
    assert sorted(receiver.types()[1:]) == events


async def test_a_bank_transfer_settles_by_itself() -> None:
    async with world_of(StripeStandin(settle_seconds=10)) as world:
        session = await world.create()
        await world.press(session, "later")
        world.standin.advance_clock(9)
        assert (await world.sessions.retrieve_async(session.id)).payment_status == "unpaid"
        world.standin.advance_clock(2)
        assert (await world.sessions.retrieve_async(session.id)).payment_status == "paid"


# Refunds and disputes


async def test_refunds_in_parts_and_no_more_than_was_paid(world: World, receiver: Receiver) -> None:
    paid = await world.paid(2500)
    whole = {"payment_intent": paid.payment_intent}
    part = await world.refunds.create_async({**whole, "amount": 1000, "metadata": {"refund_id": "7"}})
    assert (part.object, part.amount, part.currency, part.status) == ("refund", 1000, "usd", "succeeded")
    assert (part.payment_intent, part.metadata["refund_id"]) == (paid.payment_intent, "7")
    over = await refused(world.refunds.create_async({**whole, "amount": 1501}), 400, None, "amount")
    assert over.user_message == "Refund amount ($15.01) is greater than unrefunded amount on charge ($15.00)"
    rest = await world.refunds.create_async({"charge": part.charge, "reason": "requested_by_customer"})
    assert (rest.amount, rest.reason) == (1500, "requested_by_customer")
    none_left = await refused(world.refunds.create_async(whole), 400, "charge_already_refunded")
    assert none_left.user_message == f"Charge {part.charge} has already been refunded."
    page = await world.refunds.list_async(whole)
    assert [refund.id for refund in page.data] == [rest.id, part.id]
    assert (await world.refunds.retrieve_async(part.id)).to_dict() == part.to_dict()
    assert world.standin.ledger()["payments"][0]["refunded"] == 2500
    await receiver.until(6)
    assert (receiver.types().count("refund.created"), receiver.types().count("charge.refunded")) == (2, 2)


async def test_a_refused_refund_is_remembered_by_its_key(world: World) -> None:
    paid = await world.paid(2500)
    over = {"payment_intent": paid.payment_intent, "amount": 2501}
    for _ in range(2):
        error = await refused(world.refunds.create_async(over, {"idempotency_key": "k"}), 400, None, "amount")
    assert error.headers["Idempotent-Replayed"] == "true"


async def test_a_failed_refund_gives_its_amount_back(world: World, receiver: Receiver) -> None:
    paid = await world.paid(2500)
    await world.control("PUT", "/refunds", {"status": "pending"})
    pending = await world.refunds.create_async({"payment_intent": paid.payment_intent})
    assert pending.status == "pending"
    assert world.standin.ledger()["payments"][0]["refunded"] == 0
    again = {"payment_intent": paid.payment_intent}
    await refused(world.refunds.create_async(again), 400, "charge_already_refunded")
    await world.control("POST", f"/refunds/{pending.id}", {"status": "failed"})
    failed = await world.refunds.retrieve_async(pending.id)
    assert failed.status == "failed"
    assert failed.failure_reason
    await eventually(lambda: "refund.failed" in receiver.types() and "refund.updated" in receiver.types())
    second = await world.refunds.create_async(again)
    await world.control("POST", f"/refunds/{second.id}", {"status": "succeeded"})
    assert world.standin.ledger()["payments"][0]["refunded"] == 2500


async def test_a_dispute(world: World, receiver: Receiver) -> None:
    paid = await world.paid(2500)
    await world.control("POST", "/disputes", {"payment_intent": paid.payment_intent})
    await eventually(lambda: "charge.dispute.created" in receiver.types())
    dispute = next(e for e in receiver.taken if e["type"] == "charge.dispute.created")["data"]["object"]
    assert (dispute["payment_intent"], dispute["amount"]) == (paid.payment_intent, 2500)
    refund = {"payment_intent": paid.payment_intent}
    await refused(world.refunds.create_async(refund), 400, "charge_disputed")


# Events and webhooks


async def test_events_are_kept_and_listed(world: World) -> None:
    paid = await world.paid()
    events = world.client.v1.events
    page = await events.list_async()
    assert [event.type for event in page.data] == ["checkout.session.completed", "payment_intent.succeeded"]
    event = await events.retrieve_async(page.data[0].id)
    assert event.object == "event"
    assert event.data.object["id"] == paid.id
    assert (event.livemode, event.request.id) == (False, None)
    wanted = {"types": ["payment_intent.succeeded", "refund.created"]}
    assert [event.type for event in (await events.list_async(wanted)).data] == ["payment_intent.succeeded"]
    assert (await events.list_async({"type": "refund.created"})).data == []
    assert (await events.list_async({"created": {"gt": event.created}})).data == []
    await world.sessions.expire_async((await world.create()).id, options={"idempotency_key": "k9"})
    newest = (await events.list_async({"limit": 1})).data[0]
    assert (newest.type, newest.request.idempotency_key) == ("checkout.session.expired", "k9")
    assert newest.request.id.startswith("req_")


async def test_an_event_is_retried_until_it_is_taken(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    session = await world.create()
    await world.sessions.expire_async(session.id)
    await receiver.until(1)
    assert [event["id"] for event in receiver.refused] == [receiver.taken[0]["id"]] * 2
    event_id = receiver.taken[0]["id"]
    event = world.standin.events.get(event_id)
    assert event is not None
    await eventually(lambda: event["pending_webhooks"] == 0)


async def test_an_unreachable_endpoint_gets_its_events_later(world: World, receiver: Receiver) -> None:
    reachable, world.standin.webhook_url = world.standin.webhook_url, "http://127.0.0.1:9/hook"
    await world.sessions.expire_async((await world.create()).id)
    await asyncio.sleep(0.1)
    world.standin.webhook_url = reachable
    await receiver.until(1)
    assert receiver.types() == ["checkout.session.expired"]


async def test_deliveries_can_be_held_multiplied_and_dropped(world: World, receiver: Receiver) -> None:
    await world.control("PUT", "/webhooks", {"paused": True, "copies": 3, "shuffle": True})
    for _ in range(4):
        await world.sessions.expire_async((await world.create()).id)
    await asyncio.sleep(0.1)
    assert receiver.taken == []
    await world.control("PUT", "/webhooks", {"paused": False})
    await receiver.until(12)
    counts = [[event["id"] for event in receiver.taken].count(event["id"]) for event in world.standin.events]
    assert counts == [3, 3, 3, 3]
    await world.control("PUT", "/webhooks", {"drop": True})
    await world.sessions.expire_async((await world.create()).id)
    await asyncio.sleep(0.1)
    assert len(receiver.taken) == 12
    assert len((await world.client.v1.events.list_async()).data) == 5


# Faults


async def test_a_failure_after_the_effect_is_what_the_key_remembers(world: World) -> None:
    rule = {"method": "POST", "path": "/v1/checkout/session[s]", "action": "status_after", "times": 1}
    await world.control("PUT", "/faults", [rule])
    error = await refused(world.create(key="k1"), 500)
    assert error.json_body["error"]["type"] == "api_error"
    replayed = await refused(world.create(key="k1"), 500)
    assert replayed.headers["Idempotent-Replayed"] == "true"
    # The session is there all the same, and only the list can find it.
    listed = (await world.sessions.list_async()).data
    assert [session.metadata["order_id"] for session in listed] == ["order-1"]
    assert (await world.create(key="k2")).id != listed[0].id


async def test_a_lost_answer_is_what_the_key_brings(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/checkout/sessions", "action": "drop_after", "times": 1}])
    with pytest.raises(stripe.APIConnectionError):
        await world.create(key="k1")
    found = await world.create(key="k1")
    assert found.last_response.headers["Idempotent-Replayed"] == "true"
    assert [session["id"] for session in world.standin.sessions] == [found.id]


@pytest.mark.parametrize("stored", [False, True])
async def test_a_failure_before_the_effect(world: World, stored: bool) -> None:
    rule = {"action": "status", "status": 503, "times": 1, "stored": stored}
    await world.control("PUT", "/faults", [rule])
    await refused(world.create(key="k1"), 503)
    assert list(world.standin.sessions) == []
    if stored:
        await refused(world.create(key="k1"), 503)
        assert list(world.standin.sessions) == []
    else:
        assert (await world.create(key="k1")).status == "open"


async def test_a_dropped_connection_has_no_effect(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/", "action": "drop", "times": 1}])
    with pytest.raises(stripe.APIConnectionError):
        await world.create(key="k1")
    assert list(world.standin.sessions) == []


async def test_a_hanging_call_is_given_up_by_the_client(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/", "action": "hang"}])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.create(key="k1"), 0.2)
    await world.control("DELETE", "/faults")
    # The key is free again once the server has seen the client go.
    session = await world.patiently(world.create, key="k1")
    assert session.status == "open"
    assert len(list(world.standin.sessions)) == 1


async def test_a_malformed_answer(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/checkout", "action": "malformed", "times": 1}])
    with pytest.raises(stripe.APIError, match="Invalid response body"):
        await world.create(key="k1")
    assert (await world.create(key="k1")).id == next(iter(world.standin.sessions))["id"]


async def test_a_fault_strikes_only_what_it_names(world: World) -> None:
    session = await world.create()
    world.standin.set_faults([{"method": "GET", "path": "/v1/checkout/sessions/*", "action": "status"}])
    assert (await world.create()).status == "open"
    assert len((await world.sessions.list_async()).data) == 2
    await refused(world.sessions.retrieve_async(session.id), 500)
    await refused(world.sessions.retrieve_async(session.id), 500)
    async with world.http.put(f"{world.base}/_control/faults", json=[{"action": "explode"}]) as answer:
        assert answer.status == 400
    assert (await refused(world.sessions.retrieve_async(session.id), 500)).json_body


# Restarts


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    database = tmp_path / "stripe.sqlite"
    receiver = Receiver()
    unreachable = "http://127.0.0.1:9/hook"
    async with world_of(StripeStandin(database=database, webhook_url=unreachable)) as world:
        opened = await world.create(key="k1", expires_at=int(time.time()) + 1900)
        paid = await world.paid()
        refund = await world.refunds.create_async({"payment_intent": paid.payment_intent, "amount": 100})
        ledger = world.standin.ledger()
        events = [event["id"] for event in world.standin.events]
    async with served(receiver.app) as base:
        second = StripeStandin(database=database, webhook_url=f"{base}/hook", webhook_secret=SECRET)
        async with world_of(second) as world:
            assert world.standin.ledger() == ledger
            assert (await world.sessions.retrieve_async(paid.id)).to_dict() == paid.to_dict()
            assert (await world.refunds.retrieve_async(refund.id)).to_dict() == refund.to_dict()
            assert (await world.create(key="k1", expires_at=opened.expires_at)).id == opened.id
            await receiver.until(len(events))
            assert sorted(event["id"] for event in receiver.taken) == sorted(events)
            world.standin.advance_clock(1901)
            assert (await world.sessions.retrieve_async(opened.id)).status == "expired"
            later = await world.create()
    async with world_of(StripeStandin(database=database)) as world:
        # Objects are found by `created`, so the shifted clock must go on from where it was.
        assert (await world.create()).created >= later.created
        undelivered = world.standin.store.load("delivery")
    assert [event["event"] for event in undelivered if event["event"] in events] == []
