"""The Stripe stand-in, called by the real SDK over HTTP on a real server, as the service calls it."""

import asyncio
import re
import shutil
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from service.dev import stripe_standin
from service.dev.servers import free_port
from service.dev.stripe_standin import StripeStandin
from tests.conftest import served
from tests.dev.world import (
    SECRET,
    SHOP,
    UNREACHABLE,
    Receiver,
    World,
    eventually,
    line,
    parameters,
    refused,
    sdk,
    world_of,
)

# The program


async def test_it_runs_without_the_service(tmp_path: Path) -> None:
    """A copy of its folder runs outside the package `service`, so it imports nothing of the service."""
    folder = Path(stripe_standin.__file__).parent
    shutil.copytree(folder, tmp_path / "stripe_standin", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stripe_standin", "--port", str(port), cwd=tmp_path
    )

    try:
        await wait_until_listening(port)
        async with sdk(f"http://127.0.0.1:{port}") as client:
            session = await client.v1.checkout.sessions.create_async(parameters())
    finally:
        process.terminate()
        status = await process.wait()

    assert session.status == "open"
    assert status == 0


async def wait_until_listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:1", "127.0.0.1", "[::1]:1", "10.0.0.5:1", "pay.example", "stripe:1")),
        *((host, 421) for host in ("evil.example:1", "127.0.0.1.evil.example", "localhost.evil.example")),
        # Our server refuses them before.
        *((host, 400) for host in ("", "[::1")),
    ],
)
async def test_it_answers_its_own_hosts_only(host: str, status: int) -> None:
    """Else a stranger's page could pay and read e-mails, by a name that it binds to this machine's address."""
    standin = StripeStandin(public_url="https://pay.example/", hosts=["stripe"])
    async with served(standin.app) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/_control/requests", "/v1/checkout/sessions"):
            headers = {"Host": host, "Authorization": "Bearer sk_test_x"}
            assert (await client.get(path, headers=headers)).status_code == status


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
    assert session.last_response.headers["Request-Id"].startswith("req_")
    assert (await world.sessions.retrieve_async(session.id)).to_dict() == session.to_dict()


async def test_the_page_has_the_public_address_when_one_is_set(world: World) -> None:
    world.standin.public_url = "https://pay.example/"

    session = await world.create()

    assert session.url == f"https://pay.example/pay/{session.id}"


@pytest.mark.parametrize(
    ("changes", "code", "param", "message"),
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
async def test_invalid_parameters_get_stripes_error_messages(
    world: World, changes: dict[str, Any], code: str | None, param: str | None, message: str
) -> None:
    error = await refused(world.create(**changes), 400, code, param)

    assert isinstance(error, stripe.InvalidRequestError)
    assert message in error.user_message
    assert world.standin.ledger() == {"payments": [], "open_sessions": []}


@pytest.mark.parametrize(("seconds", "message"), [(1790, "at least 30 minutes"), (86_410, "less than 24 hours")])
async def test_expires_at_out_of_bounds_is_refused(world: World, seconds: int, message: str) -> None:
    error = await refused(world.create(expires_at=int(time.time()) + seconds), 400, None, "expires_at")

    assert f"{message} from Checkout Session creation" in error.user_message


async def test_expires_at_can_be_half_an_hour_away(world: World) -> None:
    session = await world.create(expires_at=int(time.time()) + 1810)

    assert session.status == "open"


async def test_expires_at_defaults_to_a_day(world: World) -> None:
    now = int(time.time())

    session = await world.create()

    assert session.expires_at - now in range(86_400, 86_402)


async def test_an_open_session_can_be_expired(world: World, receiver: Receiver) -> None:
    session = await world.create()

    expired = await world.sessions.expire_async(session.id)

    assert (expired.status, expired.url) == ("expired", None)
    await receiver.until(1)
    assert receiver.types() == ["checkout.session.expired"]


async def test_an_expired_session_cannot_be_expired(world: World) -> None:
    session = await world.create()
    await world.sessions.expire_async(session.id)

    error = await refused(world.sessions.expire_async(session.id), 400, None, "session")

    assert 'Only Checkout Sessions with a status in ["open"] can be expired.' in error.user_message
    assert "status of `expired`" in error.user_message


async def test_a_paid_session_cannot_be_expired(world: World) -> None:
    paid = await world.create_paid()

    error = await refused(world.sessions.expire_async(paid.id), 400, None, "session")

    assert "status of `complete`" in error.user_message


async def test_a_session_expires_at_its_time(world: World, receiver: Receiver) -> None:
    session = await world.create(expires_at=int(time.time()) + 1900)

    await world.control("POST", "/clock", {"advance": 1800})
    before = await world.sessions.retrieve_async(session.id)
    await world.control("POST", "/clock", {"advance": 101})
    after = await world.sessions.retrieve_async(session.id)

    assert (before.status, after.status) == ("open", "expired")
    await receiver.until(1)
    event = receiver.accepted[0]
    assert event["type"] == "checkout.session.expired"
    assert event["data"]["object"]["id"] == session.id
    assert event["created"] >= session.expires_at
    status, text = await world.page(session.url)
    assert status == 410
    assert "expired" in text


async def test_the_ticker_expires_a_session_without_any_call(world: World, receiver: Receiver) -> None:
    await world.create(expires_at=int(time.time()) + 1810)

    # Unlike `advance_clock`, this leaves the due session to the ticker.
    world.standin._clock_shift += 1820

    await receiver.until(1, seconds=3)
    assert receiver.types() == ["checkout.session.expired"]


class Listed:
    """Five sessions, ten seconds apart: `ids` newest first."""

    def __init__(self, world: World, sessions: list[Any]) -> None:
        self.ids = [session.id for session in reversed(sessions)]
        self.created = [session.created for session in reversed(sessions)]
        self._world = world

    async def list(self, **query: Any) -> tuple[list[str], bool]:
        """The ids of one page, and whether more follow."""
        page = await self._world.sessions.list_async(query)
        assert (page.object, page.url) == ("list", "/v1/checkout/sessions")
        return [session.id for session in page.data], page.has_more


@pytest.fixture
async def listed(world: World) -> Listed:
    sessions = []
    for _ in range(5):
        sessions.append(await world.create())
        world.standin.advance_clock(10)
    return Listed(world, sessions)


async def test_sessions_are_listed_newest_first(listed: Listed) -> None:
    assert await listed.list() == (listed.ids, False)
    assert await listed.list(limit=2) == (listed.ids[:2], True)


async def test_a_list_is_paged_by_a_cursor(listed: Listed) -> None:
    ids = listed.ids
    assert await listed.list(limit=2, starting_after=ids[1]) == (ids[2:4], True)
    assert await listed.list(limit=2, starting_after=ids[3]) == (ids[4:], False)
    assert await listed.list(limit=2, ending_before=ids[4]) == (ids[2:4], True)
    assert await listed.list(limit=2, ending_before=ids[2]) == (ids[:2], False)


async def test_a_list_is_bounded_by_created(listed: Listed) -> None:
    ids = listed.ids
    fourth, second = listed.created[1], listed.created[3]
    assert await listed.list(created={"gte": second, "lte": fourth}) == (ids[1:4], False)
    assert await listed.list(created={"gt": second, "lt": fourth}) == (ids[2:3], False)
    assert await listed.list(created=second) == (ids[3:4], False)
    assert await listed.list(created={"gte": second}, limit=1, starting_after=ids[0]) == (ids[1:2], True)


async def test_a_list_is_filtered_by_status_and_payment(world: World, listed: Listed) -> None:
    world.standin.pay(listed.ids[2])
    paid = await world.sessions.retrieve_async(listed.ids[2])

    assert await listed.list(payment_intent=paid.payment_intent) == ([paid.id], False)
    assert await listed.list(status="complete") == ([paid.id], False)


async def test_the_sdk_pages_through_a_list(world: World, listed: Listed) -> None:
    first_page = await world.sessions.list_async({"limit": 2})

    assert [session.id async for session in first_page.auto_paging_iter()] == listed.ids


async def test_an_invalid_list_query_is_refused(world: World) -> None:
    await refused(world.sessions.list_async({"limit": 101}), 400, "parameter_invalid_integer", "limit")
    await refused(world.sessions.list_async({"starting_after": "cs_no"}), 404, "resource_missing", "starting_after")


# Authentication and routing


async def test_a_call_without_a_key_is_refused(world: World) -> None:
    async with world.http.get(f"{world.base}/v1/events") as response:
        assert response.status == 401
        assert (await response.json())["error"]["message"].startswith("You did not provide an API key.")


async def test_a_live_key_is_refused_and_not_repeated(world: World) -> None:
    async with sdk(world.base, "sk_live_not_here_please") as live:
        error = await refused(live.v1.events.list_async(), 401)

    assert isinstance(error, stripe.AuthenticationError)
    assert "not_here" not in error.user_message


@pytest.mark.parametrize("authorization", ["Basic " + b64encode(b"sk_test_1:").decode(), "Bearer rk_test_1"])
async def test_a_test_key_is_accepted(world: World, authorization: str) -> None:
    headers = {"Authorization": authorization}
    async with world.http.get(f"{world.base}/v1/events", headers=headers) as response:
        assert response.status == 200


async def test_a_restricted_key_may_do_what_it_is_permitted(world: World) -> None:
    """Without the permission a call is refused before anything else is looked at, so 404 proves the permission."""
    permissions = ["rak_checkout_session_write", "rak_event_read"]
    await world.control("PUT", "/keys/rk_test_limited", {"permissions": permissions})
    nowhere = {"payment_intent": "pi_no"}

    async with sdk(world.base, "rk_test_limited") as limited:
        session = await limited.v1.checkout.sessions.create_async(parameters())
        await limited.v1.checkout.sessions.retrieve_async(session.id)
        await limited.v1.events.list_async()
        refund = await refused(limited.v1.refunds.create_async(nowhere), 403, "more_permissions_required")
        intent = await refused(limited.v1.payment_intents.retrieve_async("pi_no"), 403, "more_permissions_required")
        world.standin.restrict_key("rk_test_limited", ["rak_charge_read"])
        await limited.v1.refunds.list_async()
        await refused(limited.v1.refunds.create_async(nowhere), 403, "more_permissions_required")
        world.standin.restrict_key("rk_test_limited", ["rak_charge_write"])
        await refused(limited.v1.refunds.create_async(nowhere), 404, "resource_missing", "payment_intent")

    assert isinstance(refund, stripe.PermissionError)
    assert "Having the 'rak_charge_write' permission would allow" in refund.user_message
    assert "Having the 'rak_payment_intent_read' permission would allow" in intent.user_message
    assert "limited" not in refund.user_message


async def test_an_unknown_object_is_404(world: World) -> None:
    error = await refused(world.sessions.retrieve_async("cs_no"), 404, "resource_missing", "session")

    assert error.user_message == "No such checkout.session: 'cs_no'"
    await refused(world.sessions.expire_async("cs_no"), 404, "resource_missing", "session")
    await refused(world.refunds.retrieve_async("re_no"), 404, "resource_missing", "id")
    await refused(world.intents.retrieve_async("pi_no"), 404, "resource_missing", "intent")
    await refused(world.events.retrieve_async("evt_no"), 404, "resource_missing", "id")
    counts = await world.control("GET", "/requests")
    assert counts["GET /v1/checkout/sessions/{id}"] == counts["POST /v1/checkout/sessions/{id}/expire"] == 1


async def test_an_unknown_call_is_404(world: World) -> None:
    error = await refused(world.client.v1.customers.list_async(), 404)

    assert "Unrecognized request URL (GET: /v1/customers)." in error.user_message


# Idempotency keys


async def test_a_key_replays_the_first_answer(world: World) -> None:
    first = await world.create(key="k1")
    world.standin.pay(first.id)

    again = await world.create(key="k1")

    # The answer is the stored one, from before the payment.
    assert again.to_dict() == first.to_dict()
    assert again.status == "open"
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert len(list(world.standin.sessions)) == 1


async def test_a_key_with_other_parameters_is_refused(world: World) -> None:
    await world.create(key="k1")

    error = await refused(world.create(key="k1", client_reference_id="order-2"), 400)

    assert isinstance(error, stripe.IdempotencyError)
    assert "with the same parameters they were first used with" in error.user_message


async def test_a_key_with_another_path_is_refused(world: World) -> None:
    first = await world.create(key="k1")

    error = await refused(world.sessions.expire_async(first.id, options={"idempotency_key": "k1"}), 400)

    assert isinstance(error, stripe.IdempotencyError)
    assert "('/v1/checkout/sessions/" in error.user_message
    assert (await world.sessions.retrieve_async(first.id)).status == "open"


async def test_a_failed_validation_leaves_the_key_free(world: World) -> None:
    await refused(world.create(key="k1", line_items=[line(1, 1)]), 400, "amount_too_small")

    assert (await world.create(key="k1")).status == "open"


async def test_a_key_in_use_is_a_conflict(world: World) -> None:
    await world.control("PUT", "/faults", [{"action": "delay", "path": "/v1/", "seconds": 0.3, "times": 1}])
    first = asyncio.create_task(world.create(key="k1"))
    await eventually(lambda: bool(world.standin.requests))

    error = await refused(world.create(key="k1"), 409, "idempotency_key_in_use")

    assert error.json_body["error"]["type"] == "idempotency_error"
    assert (await first).id == (await world.create(key="k1")).id


async def test_a_key_is_forgotten_after_a_day(world: World) -> None:
    first = await world.create(key="k1")

    world.standin.advance_clock(86_401)
    second = await world.create(key="k1")

    assert second.id != first.id


# The payment page


async def test_the_page_shows_the_order(world: World) -> None:
    session = await world.create(line_items=[line(1250, 2, "<b>Cup</b>"), line(499, 1, "Spoon")])

    async with world.http.get(session.url) as page:
        text = await page.text()

    assert page.status == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "&lt;b&gt;Cup&lt;/b&gt;" in text
    assert "<b>" not in text
    assert "2 × $12.50" in text
    assert "Pay $29.99" in text
    assert 'value="shopper@example.com"' in text
    assert "no money moves" in text
    assert "<script" not in text


async def test_the_page_shows_a_currency_without_decimals(world: World) -> None:
    session = await world.create(line_items=[line(1500, 1, currency="jpy")])

    _, text = await world.page(session.url)

    assert "Pay ¥1,500" in text


async def test_an_unknown_page_is_404(world: World) -> None:
    status, _ = await world.page(f"{world.base}/pay/cs_no")

    assert status == 404


async def test_paying_on_the_page(world: World, receiver: Receiver) -> None:
    session = await world.create()

    status, location, _ = await world.press(session, "pay", email="jo@example.com")

    assert (status, location) == (303, f"{SHOP}/done?session_id={session.id}")
    paid = await world.sessions.retrieve_async(session.id)
    assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
    assert paid.customer_details.email == "jo@example.com"
    intent = await world.intents.retrieve_async(paid.payment_intent)
    assert (intent.status, intent.amount, intent.amount_received) == ("succeeded", 2500, 2500)
    assert (intent.currency, intent.metadata["order_id"]) == ("usd", "order-1")
    assert intent.latest_charge.startswith("ch_")
    await receiver.until(2)
    assert sorted(receiver.types()) == ["checkout.session.completed", "payment_intent.succeeded"]
    assert receiver.event("checkout.session.completed")["data"]["object"] == paid.to_dict()


async def test_paying_twice_on_the_page_pays_once(world: World) -> None:
    session = await world.create()
    await world.press(session, "pay")

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
    intent = await world.intents.retrieve_async(declined.payment_intent)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", "card_declined")
    await receiver.until(1)
    assert receiver.types() == ["payment_intent.payment_failed"]


async def test_a_second_attempt_pays_the_same_intent(world: World) -> None:
    session = await world.create()
    await world.press(session, "decline")
    declined = await world.sessions.retrieve_async(session.id)

    await world.press(session, "pay")

    paid = await world.sessions.retrieve_async(session.id)
    assert (paid.payment_status, paid.payment_intent) == ("paid", declined.payment_intent)


async def test_cancelling_on_the_page_changes_nothing(world: World) -> None:
    session = await world.create()

    status, location, _ = await world.press(session, "cancel")

    assert (status, location) == (303, f"{SHOP}/cancelled")
    assert (await world.sessions.retrieve_async(session.id)).to_dict() == session.to_dict()


# Faults


async def test_a_key_remembers_a_failure_after_the_effect(world: World) -> None:
    rule = {"method": "POST", "path": "/v1/checkout/session[s]", "action": "status_after", "times": 1}
    await world.control("PUT", "/faults", [rule])

    error = await refused(world.create(key="k1"), 500)
    replayed = await refused(world.create(key="k1"), 500)

    assert error.json_body["error"]["type"] == "api_error"
    assert replayed.headers["Idempotent-Replayed"] == "true"
    # The session exists, and only the list shows it.
    listed = (await world.sessions.list_async()).data
    assert [session.metadata["order_id"] for session in listed] == ["order-1"]
    assert (await world.create(key="k2")).id != listed[0].id


async def test_a_key_replays_an_answer_that_never_arrived(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/checkout/sessions", "action": "drop_after", "times": 1}])
    with pytest.raises(stripe.APIConnectionError):
        await world.create(key="k1")

    session = await world.create(key="k1")

    assert session.last_response.headers["Idempotent-Replayed"] == "true"
    assert [stored["id"] for stored in world.standin.sessions] == [session.id]


async def test_a_failure_before_the_effect_leaves_the_key_free(world: World) -> None:
    rule = {"action": "status", "status": 503, "times": 1, "stored": False}
    await world.control("PUT", "/faults", [rule])

    await refused(world.create(key="k1"), 503)

    assert list(world.standin.sessions) == []
    assert (await world.create(key="k1")).status == "open"


async def test_a_stored_failure_before_the_effect_is_replayed(world: World) -> None:
    rule = {"action": "status", "status": 503, "times": 1, "stored": True}
    await world.control("PUT", "/faults", [rule])

    await refused(world.create(key="k1"), 503)

    assert list(world.standin.sessions) == []
    await refused(world.create(key="k1"), 503)
    assert list(world.standin.sessions) == []


async def test_a_dropped_connection_has_no_effect(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/", "action": "drop", "times": 1}])

    with pytest.raises(stripe.APIConnectionError):
        await world.create(key="k1")

    assert list(world.standin.sessions) == []


async def test_a_hanging_call_frees_its_key_when_the_client_disconnects(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/", "action": "hang"}])

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.create(key="k1"), 0.2)

    await world.control("DELETE", "/faults")
    session = await world.create_when_key_is_free("k1")
    assert session.status == "open"
    assert len(list(world.standin.sessions)) == 1


async def test_a_malformed_answer_comes_after_the_effect(world: World) -> None:
    world.standin.set_faults([{"path": "/v1/checkout", "action": "malformed", "times": 1}])

    with pytest.raises(stripe.APIError, match="Invalid response body"):
        await world.create(key="k1")

    assert (await world.create(key="k1")).id == next(iter(world.standin.sessions))["id"]


async def test_a_fault_applies_only_to_the_calls_that_it_names(world: World) -> None:
    session = await world.create()

    world.standin.set_faults([{"method": "GET", "path": "/v1/checkout/sessions/*", "action": "status"}])

    assert (await world.create()).status == "open"
    assert len((await world.sessions.list_async()).data) == 2
    await refused(world.sessions.retrieve_async(session.id), 500)
    await refused(world.sessions.retrieve_async(session.id), 500)


async def test_an_invalid_fault_leaves_the_rules_unchanged(world: World) -> None:
    session = await world.create()
    world.standin.set_faults([{"method": "GET", "path": "/v1/checkout/sessions/*", "action": "status"}])

    async with world.http.put(f"{world.base}/_control/faults", json=[{"action": "explode"}]) as response:
        assert response.status == 400

    assert (await refused(world.sessions.retrieve_async(session.id), 500)).json_body


async def test_a_fault_has_the_code_that_its_rule_names(world: World) -> None:
    world.standin.set_faults([{"action": "status", "status": 400, "code": "amount_too_small", "times": 1}])

    error = await refused(world.create(), 400, "amount_too_small")

    assert isinstance(error, stripe.InvalidRequestError)


# Rate limits


async def test_each_endpoint_has_a_rate_limit(world: World) -> None:
    """More calls than Stripe's default in a second: those above it are refused, other endpoints are not."""
    session = await world.create()
    await world.control("PUT", "/rate-limit", {"endpoint": 25})

    calls = [world.sessions.retrieve_async(session.id) for _ in range(30)]
    answers = await asyncio.gather(*calls, return_exceptions=True)

    errors: list[Any] = [answer for answer in answers if isinstance(answer, Exception)]
    # A slow machine may need more than the one second.
    assert 1 <= len(errors) <= 5
    for error in errors:
        assert isinstance(error, stripe.RateLimitError)
        assert error.json_body["error"]["code"] == "rate_limit"
        headers = {name.lower(): value for name, value in error.headers.items()}
        assert headers["stripe-rate-limited-reason"] == "endpoint-rate"
        assert headers["stripe-should-retry"] == "false"
        assert "retry-after" not in headers
    assert (await world.create()).status == "open"


async def test_all_endpoints_have_a_rate_limit_together(world: World) -> None:
    world.standin.set_rate_limit(total=2)
    for _ in range(2):
        await world.create()

    error = await refused(world.create(key="k1"), 429, "rate_limit")

    assert error.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    await asyncio.sleep(1.05)
    # The key is free: the refused call had no effect.
    created = await world.create(key="k1")
    assert "Idempotent-Replayed" not in created.last_response.headers
    assert len(list(world.standin.sessions)) == 3


@pytest.mark.parametrize(("code", "retry"), [(None, "false"), ("rate_limit", "false"), ("lock_timeout", "true")])
async def test_a_fault_can_be_a_rate_limit(world: World, code: str | None, retry: str) -> None:
    world.standin.set_faults([{"action": "status", "status": 429, "code": code, "times": 1}])

    error = await refused(world.create(key="k1"), 429, code or "rate_limit")

    assert error.headers["Stripe-Should-Retry"] == retry
    assert list(world.standin.sessions) == []
    assert (await world.create(key="k1")).status == "open"


# The list of controls


async def test_control_lists_its_calls(world: World) -> None:
    """Every call is explained, and takes its example."""
    calls = await world.control("GET", "")

    assert len(calls) > 15
    for call in calls:
        method, path = call["call"].split(" ")
        example = call["example"]
        if isinstance(example, dict):
            example |= await ids_for(world, path)
        await world.control(method, path.removeprefix("/_control").replace("{id}", await id_for(world, path)), example)
        await world.control("DELETE", "/faults")
        assert call["does"].endswith("."), call


async def ids_for(world: World, path: str) -> dict[str, str]:
    """The members of an example that name an object."""
    paid_for = path in ("/_control/refunds", "/_control/disputes")
    return {"payment_intent": (await world.create_paid()).payment_intent} if paid_for else {}


async def id_for(world: World, path: str) -> str:
    """An object that the call at this path can change."""
    if "/refunds/" in path:
        payment = {"payment_intent": (await world.create_paid()).payment_intent}
        return str((await world.refunds.create_async(payment)).id)
    if "/disputes/" in path:
        return str(world.standin.dispute((await world.create_paid()).payment_intent)["id"])
    session = await world.create()
    if path.endswith("/settle"):
        world.standin.pay(session.id, later=True)
    return str(session.id)


# Restarts


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_its_file_is_nobody_elses(tmp_path: Path) -> None:
    database = tmp_path / "stripe.sqlite"
    database.touch(mode=0o644)

    async with world_of(StripeStandin(database=database)) as world:
        await world.create()
        modes = modes_in(tmp_path)

    assert modes == dict.fromkeys(["stripe.sqlite", "stripe.sqlite-shm", "stripe.sqlite-wal"], 0o600)


async def test_a_restart_preserves_the_state(tmp_path: Path) -> None:
    """Stop a stand-in with undelivered events, start another on its data, and compare."""
    database = tmp_path / "stripe.sqlite"
    receiver = Receiver()
    async with world_of(StripeStandin(database=database, webhook_url=UNREACHABLE)) as world:
        opened = await world.create(key="k1", expires_at=int(time.time()) + 1900)
        paid = await world.create_paid()
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
            assert sorted(event["id"] for event in receiver.accepted) == sorted(events)
            world.standin.advance_clock(1901)
            assert (await world.sessions.retrieve_async(opened.id)).status == "expired"
            later = await world.create()

    async with world_of(StripeStandin(database=database)) as world:
        # Pages rely on the order of `created`, so the shifted clock must continue from where it was.
        assert (await world.create()).created >= later.created
        undelivered = world.standin.store.load("delivery")
    assert [event["event"] for event in undelivered if event["event"] in events] == []
