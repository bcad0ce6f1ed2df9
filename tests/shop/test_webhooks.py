"""The inbox of Stripe's webhooks: which are accepted, applied once, stored, and applied again after a failure."""

import asyncio
import os
import sys
import time
from typing import Any

import asyncpg
import orjson
import pytest

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.rendering import thin
from service.dev.stripe_standin.webhooks import signature
from service.errors import ShopError
from service.infra.resources import Resources
from service.settings import Settings, UnsafeSettings
from service.shop import sweep, webhooks
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET
from tests.database import make_everything_due
from tests.stripe_events import count_events, deliver, event_outcomes, last_event, make_event, post_webhook
from tests.stripe_ledger import assert_ledgers_agree

BODY = orjson.dumps(make_event("customer.created", {"id": "cus_1"}))
COMPLETED, EXPIRED = "checkout.session.completed", "checkout.session.expired"
MIB = 1024 * 1024


def sign(body: bytes, secret: str = WEBHOOK_SECRET, shift_seconds: int = 0) -> str:
    return signature(body, secret, int(time.time()) + shift_seconds)


# Signatures. Tables of small cases run in one test each: a new database costs more than the cases.


async def test_a_webhook_without_a_valid_recent_signature_is_refused(shop: Shop, database: asyncpg.Connection) -> None:
    now = int(time.time())
    headers: list[str | bytes | None] = [None, "", "v1=0", "t=never,v1=0", f"t={now},v1=é".encode()]
    headers += [sign(BODY, "whsec_forged"), sign(BODY + b" ")]
    headers += [sign(BODY, shift_seconds=-310), sign(BODY, shift_seconds=310)]
    headers += [sign(BODY, shift_seconds=310) + f",t={int(time.time())}"]

    for header in headers:
        answer = await post_webhook(shop, BODY, header)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature"), header

    assert await event_outcomes(database) == []


async def test_clocks_may_differ_by_four_minutes(shop: Shop, database: asyncpg.Connection) -> None:
    headers = [sign(BODY, shift_seconds=seconds) for seconds in (-250, 250)]

    outcomes = [(await post_webhook(shop, BODY, header)).json()["outcome"] for header in headers]

    assert outcomes == ["ignored", "duplicate"]
    assert await event_outcomes(database) == [("ignored", True)]


@pytest.mark.parametrize("changed_settings", [{"STRIPE_WEBHOOK_SECRET": "whsec_old, whsec_new"}])
async def test_two_secrets_are_accepted_during_a_rotation(shop: Shop) -> None:
    secrets = ("whsec_old", "whsec_new", "whsec_older")

    answers = [await post_webhook(shop, BODY, sign(BODY, secret)) for secret in secrets]

    assert [answer.status_code for answer in answers] == [200, 200, 400]


@pytest.mark.parametrize(
    ("changed_settings", "status"),
    [
        ({"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "true"}, 200),
        ({"ALLOW_INSECURE_WEBHOOK": "true"}, 400),
    ],
)
async def test_unsigned_webhooks_are_accepted_only_without_a_secret(shop: Shop, status: int) -> None:
    assert (await post_webhook(shop, BODY, None)).status_code == status


@pytest.mark.parametrize("changed_settings", [{"STRIPE_WEBHOOK_SECRET": ""}])
async def test_the_service_refuses_to_start_without_a_secret_or_the_flag(settings: Settings) -> None:
    with pytest.raises(UnsafeSettings):
        create_app(settings)


# Bodies


async def test_a_body_that_is_not_an_event_is_refused(shop: Shop, database: asyncpg.Connection) -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"id": "evt_1", "type": "a"}',
        b'{"id": "", "type": "a", "data": {"object": {}}}',
        b'{"id": 1, "type": "a", "data": {"object": {}}}',
        b'{"id": ["evt_1"], "type": "a", "data": {"object": {}}}',
        b'{"id": "%s", "type": "a", "data": {"object": {}}}' % (b"e" * 256),
        b'{"id": "evt_1", "type": "a", "data": {"object": []}}',
        b'{"id": "evt_1", "type": "a", "data": {"object": {"name": "\\u0000"}}}',
        b'{"id": "evt_1", "type": "a", "data": {"object": {"name": "\\\\\\u0000"}}}',
        b"[" * 100_000,
    ):
        answer = await post_webhook(shop, body, sign(body))
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), body[:100]

    assert await event_outcomes(database) == []


async def test_a_thin_event_is_refused_with_the_style_that_the_endpoint_needs(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, webhooks_dropped: None
) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    body = orjson.dumps(thin(last_event(stripe, "checkout.session.completed"), context=None))

    answer = await post_webhook(shop, body, sign(body))

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert "payload style is snapshot" in answer.json()["detail"]
    assert await event_outcomes(database) == []


@pytest.mark.parametrize("version", ["2020-08-27", "2099-01-01.future"])
async def test_an_event_of_another_api_version_pays_its_order(shop: Shop, stripe: StripeStandin, version: str) -> None:
    stripe.set_webhooks(api_version=version)
    placed_order = await shop.checked_out_cart()

    stripe.pay(placed_order["payment"]["stripe_session_id"])

    await shop.wait_for_order(placed_order["order_id"], "PAID", "SUCCEEDED")


async def test_the_letters_of_an_escaped_nul_are_accepted(shop: Shop) -> None:
    assert await deliver(shop, make_event("customer.created", {"name": r"\u0000"})) == "ignored"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_webhook_body_may_have_up_to_a_mebibyte(
    shop: Shop, database: asyncpg.Connection, chunked: bool
) -> None:
    for size, status in ((MIB + 1, 413), (MIB, 200)):
        body = BODY.ljust(size)

        async def chunks(body: bytes = body) -> Any:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        headers = {"Stripe-Signature": sign(body)}
        content = chunks() if chunked else body
        answer = await shop.http.post("/webhooks/stripe", content=content, headers=headers)

        assert answer.status_code == status
        assert len(await event_outcomes(database)) == (status == 200)


# Applied once


async def test_a_payment_is_applied_once_and_its_email_is_stored(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, database: asyncpg.Connection
) -> None:
    """One event delivered nine times, and four others that tell of the same payment."""
    product = await shop.create_product(stock=5)
    placed_order = await shop.checked_out_cart((product["id"], 2))
    stripe.pay(placed_order["payment"]["stripe_session_id"], email="ann@example.org")
    paid = last_event(stripe, COMPLETED)
    others = [{**paid, "id": f"evt_other_{number}"} for number in range(4)]

    outcomes = await asyncio.gather(*(deliver(shop, event) for event in [*[paid] * 8, *others]))
    outcomes += [await deliver(shop, paid)]

    assert sorted(outcomes) == ["applied", *["duplicate"] * 8, *["unchanged"] * 4]
    assert sorted(await event_outcomes(database)) == [("applied", True), *[("unchanged", True)] * 4]
    order = await shop.get_order(placed_order["order_id"])
    assert (order["status"], order["payment"]["status"]) == ("PAID", "SUCCEEDED")
    timeline = (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"]
    assert [e["to"] for e in timeline] == ["PENDING_PAYMENT", "PAID"]
    (listed,) = (await shop.call("GET", "/orders?status=PAID", 200))["items"]
    assert listed["email"] == "ann@example.org"
    assert await shop.get_stock(product["id"]) == 3
    await assert_ledgers_agree(resources, stripe)


# Events of another mode or account


async def test_an_event_of_the_other_mode_changes_nothing(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, database: asyncpg.Connection
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    count_before = count_events("livemode_mismatch")

    outcome = await deliver(shop, {**make_event(COMPLETED, session), "livemode": True})

    assert outcome == "livemode_mismatch"
    assert count_events("livemode_mismatch") == count_before + 1
    assert await event_outcomes(database) == [("livemode_mismatch", True)]
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"


@pytest.mark.parametrize(
    "where", [{"account": "acct_1Other"}, {"context": "acct_1Other"}, {"account": ""}, {"account": []}]
)
async def test_an_event_of_another_account_changes_nothing(
    shop: Shop,
    stripe: StripeStandin,
    webhooks_dropped: None,
    resources: Resources,
    database: asyncpg.Connection,
    where: dict[str, Any],
) -> None:
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    kinds = (COMPLETED, EXPIRED, "refund.created", "charge.refunded", "charge.dispute.created")

    for kind in kinds:
        assert await deliver(shop, {**make_event(kind, session), **where}) == "not_ours", kind

    assert await event_outcomes(database) == [("not_ours", True)] * len(kinds)
    assert await sweep.sweep(resources) == 0
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PENDING_PAYMENT"
    # The same event without an account is ours.
    assert await deliver(shop, make_event(COMPLETED, session)) == "applied"


class TestWithAnAccount:
    """STRIPE_ACCOUNT names the connected account whose payments are ours."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"STRIPE_ACCOUNT": "acct_1Ours"}

    @pytest.mark.parametrize(
        ("where", "outcome"),
        [
            ({"account": "acct_1Ours"}, "applied"),
            ({"context": "acct_1Ours"}, "applied"),
            ({"account": "acct_1Ours", "context": "acct_1Ours"}, "applied"),
            ({"account": None}, "applied"),
            ({"account": "acct_1ours"}, "not_ours"),
            ({"account": "acct_1Ours", "context": "acct_1Other"}, "not_ours"),
        ],
    )
    async def test_only_events_of_that_account_are_applied(
        self, shop: Shop, stripe: StripeStandin, webhooks_dropped: None, where: dict[str, Any], outcome: str
    ) -> None:
        placed_order = await shop.checked_out_cart()
        session = stripe.pay(placed_order["payment"]["stripe_session_id"])

        assert await deliver(shop, {**make_event(COMPLETED, session), **where}) == outcome

        status = "PAID" if outcome == "applied" else "PENDING_PAYMENT"
        assert (await shop.get_order(placed_order["order_id"]))["status"] == status


# Disputes


@pytest.mark.parametrize("order", ["in order", "reversed", "before its payment"])
async def test_a_dispute_is_recorded_whatever_the_order_of_its_events(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, order: str
) -> None:
    """A dispute is created, its funds are withdrawn, and it is lost. The order shows its last state, with a note each.

    While the dispute waits for an answer it is listed. One that comes before its payment gets its order later.
    """
    placed_order = await shop.checked_out_cart()
    order_id = placed_order["order_id"]
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    paid = last_event(stripe, COMPLETED)
    dispute_id = stripe.dispute(session["payment_intent"])["id"]
    stripe.advance_clock(60)
    stripe.set_dispute(dispute_id, "lost")
    kinds = [f"charge.dispute.{what}" for what in ("created", "funds_withdrawn", "closed")]
    events = [last_event(stripe, kind) for kind in kinds]
    early = order == "before its payment"
    if not early:
        assert await deliver(shop, paid) == "applied"

    for event in reversed(events) if order == "reversed" else events:
        assert await deliver(shop, event) == "recorded"
        if order == "in order" and event is events[0]:
            (item,) = (await shop.call("GET", "/stuck?kind=dispute_open", 200))["items"]
            assert (item["id"], item["order_id"]) == (dispute_id, order_id)
    if early:
        assert await deliver(shop, paid) == "applied"
    expected = {"id": dispute_id, "status": "lost", "reason": "fraudulent", "amount_minor": 1250, "currency": "EUR"}
    assert (await shop.get_order(order_id))["disputes"] == [expected]
    await sweep.sweep(resources)

    assert (await shop.get_order(order_id))["disputes"] == [expected]
    timeline = (await shop.call("GET", f"/orders/{order_id}/timeline", 200))["items"]
    notes = [line["note"] for line in timeline if line["note"] and line["note"].startswith("dispute")]
    end = f"{dispute_id} of 1250 EUR, fraudulent"
    assert sorted(notes) == [
        f"dispute closed: {end}, lost",
        f"dispute created: {end}, needs_response",
        f"dispute funds withdrawn: {end}, needs_response",
    ]
    assert (await shop.call("GET", "/stuck", 200))["items"] == []
    await assert_ledgers_agree(resources, stripe)


async def test_disputes_of_other_applications_are_not_kept(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order = await shop.checked_out_cart()
    intent = stripe.pay(placed_order["payment"]["stripe_session_id"])["payment_intent"]
    stripe.dispute(intent)
    stripe.intent(intent)["metadata"] = {}

    assert await deliver(shop, last_event(stripe, "charge.dispute.created")) == "recorded"
    await sweep.sweep(resources)

    assert await database.fetchval("SELECT count(*) FROM disputes") == 0
    assert (await event_outcomes(database))[-1] == ("not_ours", True)


@pytest.mark.parametrize("odd_id", ["x" * 256, "du_\x01", "du/1", "", None, 7])
async def test_an_event_about_an_odd_id_is_stored_and_listed(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, odd_id: object
) -> None:
    """Such ids fit no column, or nobody could name them to resolve the item."""
    placed_order = await shop.checked_out_cart()
    session = stripe.pay(placed_order["payment"]["stripe_session_id"])
    await deliver(shop, make_event(COMPLETED, session))
    stripe.dispute(session["payment_intent"])
    dispute = last_event(stripe, "charge.dispute.created")["data"]["object"]

    for event in (make_event("charge.dispute.created", dispute, id=odd_id), make_event(COMPLETED, session, id=odd_id)):
        assert await deliver(shop, event) == "unreadable"
    await deliver(shop, make_event(COMPLETED, session, payment_intent=odd_id))
    await sweep.sweep(resources)

    items = (await shop.call("GET", "/stuck", 200))["items"]
    assert [item["kind"] for item in items] == ["event_unhandled"] * 2
    for item in items:
        await shop.call("POST", f"/stuck/event_unhandled/{item['id']}/resolve", 200, {"reason": "seen"})


# Failures and replays

BREAK = "ALTER TABLE orders ADD CONSTRAINT {} CHECK (status <> 'PAID') NOT VALID"
MEND = "ALTER TABLE orders DROP CONSTRAINT {}"


# An unknown constraint is an internal error; the name of a known transient conflict makes the service busy.
@pytest.mark.parametrize("repair", ["delivery", "sweep", "replay"])
@pytest.mark.parametrize(
    ("constraint", "status", "code"), [("broken", 500, "internal"), ("stock_movements_once", 503, "busy")]
)
async def test_an_event_that_fails_is_stored_and_applied_later(
    shop: Shop,
    stripe: StripeStandin,
    webhooks_dropped: None,
    resources: Resources,
    database: asyncpg.Connection,
    repair: str,
    constraint: str,
    status: int,
    code: str,
) -> None:
    """A constraint fails the event twice. Without it, the next delivery, the sweep or a replay applies the event."""
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await database.execute(BREAK.format(constraint))
    event = last_event(stripe, COMPLETED)
    for _ in range(2):
        assert await deliver(shop, event, status) == code
        assert await event_outcomes(database) == [(None, False)]
    await database.execute(MEND.format(constraint))

    if repair == "delivery":
        assert await deliver(shop, event) == "applied"
    elif repair == "sweep":
        assert await sweep.sweep(resources) == 1
    else:
        assert await webhooks.replay_event(resources, event["id"]) == "applied"

    assert await event_outcomes(database) == [("applied", True)]
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"
    await make_everything_due(database)
    await assert_ledgers_agree(resources, stripe)


async def test_an_event_that_is_replayed_keeps_its_first_outcome(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources, database: asyncpg.Connection
) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    event = last_event(stripe, COMPLETED)
    assert await deliver(shop, event) == "applied"

    assert await webhooks.replay_event(resources, event["id"]) == "unchanged"

    assert await event_outcomes(database) == [("applied", True)]


async def test_replay_fetches_an_event_that_never_arrived(
    shop: Shop, stripe: StripeStandin, webhooks_dropped: None, resources: Resources
) -> None:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    environment = {
        **os.environ,
        "DATABASE_URL": resources.settings.database_url,
        "REDIS_URL": resources.settings.redis_url,
        "STRIPE_API_KEY": resources.settings.stripe_api_key,
        "STRIPE_API_BASE": resources.settings.stripe_api_base,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    command = (sys.executable, "-m", "service", "replay", last_event(stripe, COMPLETED)["id"])

    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()

    assert (process.returncode, output.decode().strip()) == (0, "applied")
    assert (await shop.get_order(placed_order["order_id"]))["status"] == "PAID"
    # A second replay changes nothing.
    assert await webhooks.replay_event(resources, last_event(stripe, COMPLETED)["id"]) == "unchanged"
    await assert_ledgers_agree(resources, stripe)


async def test_a_replay_of_an_unknown_event_is_not_found(resources: Resources) -> None:
    with pytest.raises(ShopError) as refused:
        await webhooks.replay_event(resources, "evt_unknown")

    assert refused.value.code == "not_found"
