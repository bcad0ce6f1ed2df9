"""What Stripe's webhooks make of an order, in whatever state, order and number they come."""

import asyncio
import os
import random
import sys
import time
from itertools import permutations
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.webhooks import signature
from service.errors import ShopError
from service.infra.metrics import exposition
from service.infra.resources import Resources
from service.settings import Settings, UnsafeSettings
from service.shop import sweep, webhooks
from tests.books import all_due, balance, deliver, emitted, event, post
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET

BODY = orjson.dumps(event("customer.created", {"id": "cus_1"}))
MIB = 1024 * 1024


async def stored(database: asyncpg.Connection) -> list[tuple[str, bool]]:
    """(outcome, handled) of every event."""
    rows = await database.fetch("SELECT outcome, handled_at IS NOT NULL FROM stripe_events ORDER BY received_at")
    return [tuple(row) for row in rows]


@pytest.fixture
def lost(stripe: StripeStandin) -> StripeStandin:
    """Stripe, whose webhooks are lost, so that a test delivers what it wants and when."""
    stripe.set_webhooks(drop=True)
    return stripe


# Who may speak


# Tables of small cases run in one test each: a database of its own is what a test costs most.


def signed(body: bytes, secret: str = WEBHOOK_SECRET, shift: int = 0) -> str:
    return signature(body, secret, int(time.time()) + shift)


async def test_what_stripe_did_not_sign_just_now_is_refused(shop: Shop, database: asyncpg.Connection) -> None:
    headers: list[str | bytes | None] = [None, "", "v1=0", "t=never,v1=0", f"t={int(time.time())},v1=é".encode()]
    headers += [signed(BODY, "whsec_forged"), signed(BODY + b" ")]
    headers += [signed(BODY, shift=-310), signed(BODY, shift=310), signed(BODY, shift=310) + f",t={int(time.time())}"]
    for header in headers:
        answer = await post(shop, BODY, header)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature"), header
    assert await stored(database) == []


async def test_clocks_may_differ_a_little(shop: Shop, database: asyncpg.Connection) -> None:
    outcomes = [(await post(shop, BODY, signed(BODY, shift=shift))).json()["outcome"] for shift in (-250, 250)]
    assert outcomes == ["ignored", "duplicate"]
    assert await stored(database) == [("ignored", True)]


@pytest.mark.parametrize("changed_settings", [{"STRIPE_WEBHOOK_SECRET": "whsec_old, whsec_new"}])
async def test_a_secret_is_rotated_by_giving_both(shop: Shop) -> None:
    secrets = ("whsec_old", "whsec_new", "whsec_older")
    assert [(await post(shop, BODY, signed(BODY, secret))).status_code for secret in secrets] == [200, 200, 400]


@pytest.mark.parametrize(
    ("changed_settings", "status"),
    [
        ({"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "true"}, 200),
        ({"ALLOW_INSECURE_WEBHOOK": "true"}, 400),
    ],
)
async def test_unsigned_is_taken_only_without_a_secret(shop: Shop, status: int) -> None:
    assert (await post(shop, BODY, None)).status_code == status


@pytest.mark.parametrize("changed_settings", [{"STRIPE_WEBHOOK_SECRET": ""}])
async def test_without_secret_and_flag_nothing_starts(settings: Settings) -> None:
    with pytest.raises(UnsafeSettings):
        create_app(settings)


# What they may say


async def test_a_body_that_is_no_event_is_refused(shop: Shop, database: asyncpg.Connection) -> None:
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
        answer = await post(shop, body, signed(body))
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), body[:100]
    assert await stored(database) == []


async def test_letters_that_look_like_a_nul_are_none(shop: Shop) -> None:
    assert await deliver(shop, event("customer.created", {"name": r"\u0000"})) == "ignored"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_webhook_has_up_to_a_mebibyte(shop: Shop, database: asyncpg.Connection, chunked: bool) -> None:
    for size, status in ((MIB + 1, 413), (MIB, 200)):
        body = BODY.ljust(size)

        async def chunks(body: bytes = body) -> Any:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        headers = {"Stripe-Signature": signed(body)}
        content = chunks() if chunked else body
        answer = await shop.http.post("/webhooks/stripe", content=content, headers=headers)
        assert answer.status_code == status
        assert len(await stored(database)) == (status == 200)


# Once


async def test_a_payment_is_applied_once_and_its_email_kept(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product(stock=5)
    placed = await shop.placed((product["id"], 2))
    lost.pay(placed["payment"]["stripe_session_id"], email="ann@example.org")
    paid = emitted(lost, "checkout.session.completed")
    others = [{**paid, "id": f"evt_other_{number}"} for number in range(4)]

    outcomes = await asyncio.gather(*(deliver(shop, sent) for sent in [*[paid] * 8, *others]))
    outcomes += [await deliver(shop, paid)]

    assert sorted(outcomes) == ["applied", *["duplicate"] * 8, *["unchanged"] * 4]
    assert sorted(await stored(database)) == [("applied", True), *[("unchanged", True)] * 4]
    order = await shop.order(placed["order_id"])
    assert (order["status"], order["payment"]["status"]) == ("PAID", "SUCCEEDED")
    timeline = (await shop.call("GET", f"/orders/{order['id']}/timeline", 200))["items"]
    assert [e["to"] for e in timeline] == ["PENDING_PAYMENT", "PAID"]
    (listed,) = (await shop.call("GET", "/orders?status=PAID", 200))["items"]
    assert listed["email"] == "ann@example.org"
    assert await shop.stock(product["id"]) == 3
    await balance(resources, lost)


async def test_a_payment_may_be_heard_of_before_the_session(
    shop: Shop, stripe: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=1)
    cart_id = await shop.cart((product["id"], 1))
    stripe.set_faults([{"action": "drop_after", "method": "POST", "path": "/v1/checkout/session[s]", "times": 1}])
    await shop.checkout(cart_id, 503)
    (session,) = stripe.sessions
    stripe.pay(session["id"])

    order = await shop.until(session["metadata"]["order_id"], "PAID", "SUCCEEDED")
    assert order["payment"]["stripe_session_id"] == session["id"]
    assert (await shop.checkout(cart_id, 409))["code"] == "cart_not_open"
    await balance(resources, stripe)


# In any order

COMPLETED, SUCCEEDED, FAILED, EXPIRED = KINDS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)


def story(stripe: StripeStandin, session_id: str, kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Make of a session at Stripe what these events tell together; the events by kind."""
    if COMPLETED in kinds or SUCCEEDED in kinds or FAILED in kinds:
        stripe.pay(session_id, later=True)
        if SUCCEEDED in kinds or FAILED in kinds:
            stripe.settle(session_id, succeed=SUCCEEDED in kinds)
    else:
        stripe.expire_session(session_id)
    session = stripe.session(session_id)
    return {
        COMPLETED: event(COMPLETED, session, status="complete", payment_status="unpaid"),
        SUCCEEDED: event(SUCCEEDED, session),
        FAILED: event(FAILED, session, status="complete", payment_status="unpaid"),
        EXPIRED: event(EXPIRED, session, status="expired", payment_status="unpaid"),
    }


def ends(kinds: tuple[str, ...]) -> tuple[str, str]:
    """The ends of the order and its payment: money counts before anything else."""
    if SUCCEEDED in kinds:
        return "PAID", "SUCCEEDED"
    if FAILED in kinds or EXPIRED in kinds:
        # Stripe never tells both of one session, nor that a complete one expired: the first counts.
        return "CANCELLED", "EXPIRED" if kinds[0] == EXPIRED else "FAILED"
    return "PENDING_PAYMENT", "PROCESSING"


async def test_the_end_depends_on_what_happened_and_not_on_the_order_of_events(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=100)
    held = 0
    for kinds in (kinds for length in range(1, 5) for kinds in permutations(KINDS, length)):
        placed = await shop.placed((product["id"], 1))
        events = story(lost, placed["payment"]["stripe_session_id"], kinds)
        for kind in kinds:
            other = {**events[kind], "id": f"evt_other_{uuid4().hex}"}
            await asyncio.gather(*(deliver(shop, sent) for sent in (events[kind], events[kind], other)))
        # All of it once more, late.
        for kind in kinds:
            await deliver(shop, events[kind])
            await deliver(shop, {**events[kind], "id": f"evt_late_{uuid4().hex}"})
        order = await shop.order(placed["order_id"])
        assert (order["status"], order["payment"]["status"]) == ends(kinds), kinds
        held += order["status"] != "CANCELLED"
        assert await shop.stock(product["id"]) == 100 - held, kinds
    await balance(resources, lost)


@pytest.mark.parametrize("kinds", [KINDS, (COMPLETED, FAILED), (COMPLETED, SUCCEEDED)])
async def test_all_events_at_once_end_the_same(
    shop: Shop, lost: StripeStandin, resources: Resources, kinds: tuple[str, ...]
) -> None:
    product = await shop.product(stock=20)
    status, _ = ends(kinds)

    async def one() -> None:
        placed = await shop.placed((product["id"], 1))
        events = story(lost, placed["payment"]["stripe_session_id"], kinds)
        sent = [events[kind] for kind in kinds] * 2 + [{**events[kind], "id": f"evt_{uuid4().hex}"} for kind in kinds]
        random.shuffle(sent)
        await asyncio.gather(*(deliver(shop, each) for each in sent))
        assert (await shop.order(placed["order_id"]))["status"] == status

    await asyncio.gather(*(one() for _ in range(5)))
    assert await shop.stock(product["id"]) == (20 if status == "CANCELLED" else 15)
    await balance(resources, lost)


# What cannot be applied as it came


def counted(outcome: str) -> float:
    lines = exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if f'events_total{{outcome="{outcome}"}}' in line)


async def test_a_body_that_does_not_fit_is_kept_and_stripe_is_asked(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product()
    # What a body says, what becomes of it, and what of that once Stripe was asked, where it is.
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"amount_total": 1}, "mismatch", "applied"),
        ({"currency": "usd"}, "mismatch", "applied"),
        ({"metadata": {"order_id": str(uuid4())}}, "order_not_found", "applied"),
        ({"metadata": {"order_id": str(uuid4())}, "id": "cs_unknown"}, "order_not_found", "order_not_found"),
        ({"status": 7}, "unreadable", "applied"),
        ({"metadata": {"order_id": "17"}}, "not_ours", None),
        ({"metadata": {}}, "not_ours", None),
        ({"metadata": None}, "not_ours", None),
    ]
    for changes, outcome, in_the_end in cases:
        placed = await shop.placed((product["id"], 1))
        session = lost.pay(placed["payment"]["stripe_session_id"])
        before = counted(outcome)
        assert await deliver(shop, event(COMPLETED, session, **changes)) == outcome
        assert counted(outcome) == before + 1
        assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT", changes
        assert (await stored(database))[-1] == (outcome, in_the_end is None)

        assert await sweep.sweep(resources) == (in_the_end is not None)
        assert (await stored(database))[-1] == (in_the_end or outcome, True)
        paid = in_the_end == "applied"
        assert (await shop.order(placed["order_id"]))["status"] == ("PAID" if paid else "PENDING_PAYMENT"), changes
        assert await deliver(shop, event(COMPLETED, session)) == ("unchanged" if paid else "applied")
        await sweep.sweep(resources)
    await balance(resources, lost)


async def test_a_body_that_says_paid_does_not_pay_what_stripe_says_is_open(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    product = await shop.product()
    placed = await shop.placed((product["id"], 1))
    session = lost.session(placed["payment"]["stripe_session_id"])
    sent = event(COMPLETED, session, status="complete", payment_status="paid", amount_total=1)
    assert await deliver(shop, sent) == "mismatch"
    assert await webhooks.process_stored_event(resources, sent["id"]) == "unchanged"
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"
    await balance(resources, lost)


async def test_the_other_mode_is_not_ours(shop: Shop, lost: StripeStandin, database: asyncpg.Connection) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    before = counted("livemode_mismatch")
    assert await deliver(shop, {**event(COMPLETED, session), "livemode": True}) == "livemode_mismatch"
    assert counted("livemode_mismatch") == before + 1
    assert await stored(database) == [("livemode_mismatch", True)]
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"


@pytest.mark.parametrize(
    "where", [{"account": "acct_1Other"}, {"context": "acct_1Other"}, {"account": ""}, {"account": []}]
)
async def test_an_event_of_another_account_pays_nothing(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection, where: dict[str, Any]
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = lost.pay(placed["payment"]["stripe_session_id"])
    kinds = (COMPLETED, EXPIRED, "refund.created", "charge.refunded", "charge.dispute.created")
    for kind in kinds:
        assert await deliver(shop, {**event(kind, session), **where}) == "not_ours", kind
    assert await stored(database) == [("not_ours", True)] * len(kinds)
    assert await sweep.sweep(resources) == 0
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"
    # The same without an account is ours.
    assert await deliver(shop, event(COMPLETED, session)) == "applied"


class TestWithAnAccount:
    """STRIPE_ACCOUNT names the connected account whose payments these are."""

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
    async def test_its_events_are_ours(
        self, shop: Shop, lost: StripeStandin, where: dict[str, Any], outcome: str
    ) -> None:
        placed = await shop.placed(((await shop.product())["id"], 1))
        session = lost.pay(placed["payment"]["stripe_session_id"])
        assert await deliver(shop, {**event(COMPLETED, session), **where}) == outcome
        status = "PAID" if outcome == "applied" else "PENDING_PAYMENT"
        assert (await shop.order(placed["order_id"]))["status"] == status


async def test_a_dispute_is_written_into_the_timeline(shop: Shop, stripe: StripeStandin, resources: Resources) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    await shop.until(placed["order_id"], "PAID")
    stripe.set_webhooks(drop=True)
    stripe.dispute(session["payment_intent"])
    assert await deliver(shop, emitted(stripe, "charge.dispute.created")) == "recorded"
    timeline = (await shop.call("GET", f"/orders/{placed['order_id']}/timeline", 200))["items"]
    assert timeline[-1]["note"] == "Stripe reports charge.dispute.created"
    await balance(resources, stripe)


# What fails on the way

BREAK = "ALTER TABLE orders ADD CONSTRAINT {} CHECK (status <> 'PAID') NOT VALID"
MEND = "ALTER TABLE orders DROP CONSTRAINT {}"


# One refusal that nobody foresaw, and one that has the name of a passing one.
@pytest.mark.parametrize("repair", ["delivery", "sweep", "replay"])
@pytest.mark.parametrize(
    ("constraint", "status", "code"), [("broken", 500, "internal"), ("stock_movements_once", 503, "busy")]
)
async def test_an_event_that_could_not_be_applied_is_kept_and_finished_later(
    shop: Shop,
    lost: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    repair: str,
    constraint: str,
    status: int,
    code: str,
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    lost.pay(placed["payment"]["stripe_session_id"])
    await database.execute(BREAK.format(constraint))
    sent = emitted(lost, COMPLETED)
    for _ in range(2):
        assert await deliver(shop, sent, status) == code
        assert await stored(database) == [(None, False)]

    await database.execute(MEND.format(constraint))
    if repair == "delivery":
        assert await deliver(shop, sent) == "applied"
    elif repair == "sweep":
        assert await sweep.sweep(resources) == 1
    else:
        assert await webhooks.replay_event(resources, sent["id"]) == "applied"
    assert await stored(database) == [("applied", True)]
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"
    await all_due(database)
    await balance(resources, lost)


async def test_the_end_of_another_session_ends_no_order(shop: Shop, lost: StripeStandin) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    found = lost.session(placed["payment"]["stripe_session_id"])
    assert await deliver(shop, event(EXPIRED, found, id="cs_older", status="expired")) == "unchanged"
    assert (await shop.order(placed["order_id"]))["status"] == "PENDING_PAYMENT"


async def test_a_payment_that_paid_another_order_pays_no_second(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    product = await shop.product()
    paid, other = [await shop.placed((product["id"], 1)) for _ in range(2)]
    lost.pay(paid["payment"]["stripe_session_id"])
    sent = emitted(lost, COMPLETED)
    assert await deliver(shop, sent) == "applied"
    forged = event(COMPLETED, sent["data"]["object"], id="cs_test_other", metadata={"order_id": other["order_id"]})
    assert await deliver(shop, forged) == "mismatch"
    await sweep.sweep(resources)
    assert (await shop.order(other["order_id"]))["status"] == "PENDING_PAYMENT"
    handled = await database.fetchval("SELECT handled_at FROM stripe_events WHERE id = $1", forged["id"])
    assert handled is not None
    await balance(resources, lost)


async def test_a_payment_that_stands_for_an_order_is_not_given_back_for_another(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    product = await shop.product()
    one, other = [await shop.placed((product["id"], 1)) for _ in range(2)]
    for placed in (one, other):
        lost.pay(placed["payment"]["stripe_session_id"])
        assert await deliver(shop, emitted(lost, COMPLETED)) == "applied"
    session = lost.session(one["payment"]["stripe_session_id"])
    assert await deliver(shop, event(COMPLETED, session, metadata={"order_id": other["order_id"]})) == "mismatch"
    await sweep.sweep(resources)
    assert list(lost.refunds) == []
    await balance(resources, lost)


async def test_an_event_keeps_its_outcome_when_it_is_applied_again(
    shop: Shop, lost: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    lost.pay(placed["payment"]["stripe_session_id"])
    sent = emitted(lost, COMPLETED)
    assert await deliver(shop, sent) == "applied"
    assert await webhooks.replay_event(resources, sent["id"]) == "unchanged"
    assert await stored(database) == [("applied", True)]


async def test_paid_at_once_is_paid_in_every_order_of_events(
    shop: Shop, lost: StripeStandin, resources: Resources
) -> None:
    product = await shop.product(stock=100)
    for kinds in (kinds for length in range(1, 5) for kinds in permutations(KINDS, length) if COMPLETED in kinds):
        placed = await shop.placed((product["id"], 1))
        session = lost.pay(placed["payment"]["stripe_session_id"])
        for kind in kinds:
            changes = {} if kind in (COMPLETED, SUCCEEDED) else {"payment_status": "unpaid"}
            changes |= {"status": "expired"} if kind == EXPIRED else {}
            sent = event(kind, session, **changes)
            await asyncio.gather(deliver(shop, sent), deliver(shop, sent), deliver(shop, {**sent, "id": uuid4().hex}))
        order = await shop.order(placed["order_id"])
        assert (order["status"], order["payment"]["status"]) == ("PAID", "SUCCEEDED"), kinds
    await balance(resources, lost)


async def test_replay_fetches_an_event_that_never_came(shop: Shop, lost: StripeStandin, resources: Resources) -> None:
    placed = await shop.placed(((await shop.product())["id"], 1))
    lost.pay(placed["payment"]["stripe_session_id"])
    environment = {
        **os.environ,
        "DATABASE_URL": resources.settings.database_url,
        "REDIS_URL": resources.settings.redis_url,
        "STRIPE_API_KEY": resources.settings.stripe_api_key,
        "STRIPE_API_BASE": resources.settings.stripe_api_base,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    command = (sys.executable, "-m", "service", "replay", emitted(lost, COMPLETED)["id"])
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert (process.returncode, said.decode().strip()) == (0, "applied")
    assert (await shop.order(placed["order_id"]))["status"] == "PAID"
    # Again changes nothing.
    assert await webhooks.replay_event(resources, emitted(lost, COMPLETED)["id"]) == "unchanged"
    await balance(resources, lost)


async def test_there_is_nothing_to_replay_of_an_unknown_event(resources: Resources) -> None:
    with pytest.raises(ShopError) as refused:
        await webhooks.replay_event(resources, "evt_unknown")
    assert refused.value.code == "not_found"
