"""`commerce-core erase`: personal data go from every column; the order, its money and its events work on."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.db import Pool
from service.infra.migrations import migrate, undo
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.settings import Settings
from service.shop import fulfilment, orders, personal_data, refunds, sweep, webhooks
from service.shop.checkout import Checkout
from service.shop.erasure import Erasure, Pending, erase
from service.shop.orders import Order
from service.shop.transitions import AfterCommit
from service.shop.webhooks import EVENT_TYPES
from tests.client import Shop
from tests.conftest import login
from tests.database import checksum_tables, make_everything_due, wait_for_blocked
from tests.personal_data import NOT_PERSONAL, PERSONAL
from tests.stripe_events import Event, deliver, make_event, personal_members
from tests.stripe_ledger import assert_ledgers_agree
from tests.test_command_line import command

CANARY = "c4nary"
EMAIL = f"{CANARY}@example.com"
COMPLETED = "checkout.session.completed"

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


@pytest.fixture
async def eraser(settings: Settings, database_url: str) -> AsyncIterator[Pool]:
    """The pool of the command, under its own role."""
    url = login(database_url, "eraser")
    async with aclosing(Pool(settings.model_copy(update={"database_url": url}), "commerce-erase")) as pool:
        yield pool


def event_about(subject: dict[str, Any], kind: str, **changes: Any) -> Event:
    """An event as Stripe sends it, with personal data wherever Stripe has some."""
    personal = personal_members(CANARY)
    event = make_event(kind, subject, **personal | changes)
    event["data"]["previous_attributes"] = personal
    event["request"] = {"id": "req_1", "idempotency_key": CANARY}
    return event


async def pay(shop: Shop, stripe: StripeStandin, *, email: str = EMAIL, **headers: str) -> tuple[str, dict[str, Any]]:
    """A paid order of this customer, and its session at Stripe."""
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    placed_order = await shop.check_out(cart, X_Request_ID=CANARY, **headers)
    session = stripe.pay(placed_order["payment"]["stripe_session_id"], email=email)
    event = event_about(
        session,
        COMPLETED,
        customer_details={**personal_members(CANARY)["customer_details"], "email": email},
        customer_email=None,
    )
    assert await deliver(shop, event) == "applied"
    return placed_order["order_id"], session


async def places(database: asyncpg.Connection, *wanted: str) -> set[str]:
    """The tables that contain one of these texts, in plain form, in JSON or in bytes."""
    texts = {variant for text in wanted for variant in (text, text.encode().hex())}
    tables = await checksum_tables(database)
    return {
        table
        for table in tables
        for (row,) in await database.fetch(f"SELECT row::text FROM {table} AS row")
        if any(text in row for text in texts)
    }


# Every column


async def test_every_column_that_can_hold_text_is_classified(database: asyncpg.Connection) -> None:
    columns = {
        (table, column)
        for table, column in await database.fetch(
            "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname NOT LIKE '%yoyo%'"
            " AND attnum > 0 AND NOT attisdropped"
            " AND atttypid::regtype::text NOT IN ('bigint', 'boolean', 'integer', 'timestamp with time zone', 'uuid')"
        )
    }

    personal, others = [*classified(PERSONAL)], [*classified(NOT_PERSONAL)]

    assert sorted(personal + others) == sorted(columns), "tests/personal_data.py"


def classified(tables: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((table, column) for table, columns in tables.items() for column in columns.split())


async def test_readers_see_every_column_but_the_personal_ones(database: asyncpg.Connection, database_url: str) -> None:
    reader = await asyncpg.connect(login(database_url, "readonly"))
    refused = set()
    columns = await database.fetch(
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname NOT LIKE '%yoyo%'"
        " AND attnum > 0 AND NOT attisdropped"
    )

    for table, column in columns:
        try:
            await reader.execute(f"SELECT {column} FROM {table}")
        except asyncpg.InsufficientPrivilegeError:
            refused.add((table, column))

    await reader.close()
    # Nor do they see what signs outgoing events.
    assert refused == {*classified(PERSONAL), *classified({"event_endpoints": "previous_secrets secret"})}


async def test_erasing_leaves_personal_data_in_no_column(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, eraser: Pool
) -> None:
    """Every personal column of an order's rows is filled by plain SQL, whether the service fills it today or not."""
    key = {"Idempotency_Key": "a key"}
    order_id, _ = await pay(shop, stripe, **key)
    await shop.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 50}, **key)
    fillers = {
        "jsonb": f'\'{{"data": {{"object": {{"name": "{CANARY}"}}}}, "name": "{CANARY}"}}\'',
        "text": f"'{CANARY}'",
    }
    bytes_of = {
        "answer": f'convert_to(\'{{"email": "{CANARY}", "lines": [{{"name": "{CANARY}"}}]}}\', \'UTF8\')',
        "client": f"convert_to('{CANARY}0123456789', 'UTF8')",
        "client_network": f"convert_to('{CANARY}0123456789', 'UTF8')",
        "email_digest": f"sha256('{EMAIL}')",
        "actor": f"'user:{CANARY}'",
    }
    types = dict(
        await database.fetch(
            "SELECT relname || '.' || attname, atttypid::regtype::text FROM pg_class JOIN pg_attribute"
            " ON attrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
    )
    for table, column in classified(PERSONAL):
        filler = bytes_of.get(column) or fillers[types[f"{table}.{column}"]]
        # Staff move stock without an order.
        only = "WHERE order_id IS NOT NULL" if table == "stock_movements" else ""
        await database.execute(f"UPDATE {table} SET {column} = {filler} {only}")
    digest = hashlib.sha256(EMAIL.encode()).digest()
    wanted = (CANARY, digest.decode("latin-1"), digest.hex())
    assert await places(database, *wanted) == {*PERSONAL}

    await erase(eraser, UUID(order_id))

    assert await places(database, *wanted) == set()


# What stays


async def test_a_customer_is_erased_and_all_else_works_on(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    environ: dict[str, str],
    database_url: str,
) -> None:
    """Two orders of one address are erased, another customer's is not.

    Afterwards the orders can be read, refunded and replayed, Stripe's list is the same, and the audit is clean.
    """
    (first, _), (second, _) = [await pay(shop, stripe, email=email) for email in (EMAIL, EMAIL.upper())]
    other, _ = await pay(shop, stripe, email="other@example.com")
    await fulfilment.fulfil(resources, UUID(first))
    await shop.call("POST", f"/orders/{first}/refund", 200, {"amount_minor": 50})
    before = {order_id: await shop.get_order(order_id) for order_id in (first, second)}
    steps = [(step["from"], step["to"]) for step in (await timeline(shop, first))]
    own = {**environ, "DATABASE_URL": login(database_url, "eraser")}

    for arguments, verb in ((["--dry-run"], "would erase"), ([], "erased")):
        status, output, errors = await command(own, "erase", EMAIL, *arguments)
        assert (status, errors) == (0, "")
        assert output.splitlines()[0] == verb
        assert {line.split()[-1] for line in output.splitlines() if "  order " in line} == {first, second}
        assert "  orders: 2\n" in output
        assert "  shipping addresses: 2\n" in output
        assert "  Stripe events: 2\n" in output
        assert CANARY not in output
        if arguments:
            assert await places(database, EMAIL) >= {"orders", "stripe_events"}

    assert await database.fetch("SELECT email FROM orders WHERE email IS NOT NULL") == [("other@example.com",)]
    assert await database.fetchval("SELECT count(*) FROM stripe_events WHERE payload::text LIKE '%street%'") == 1
    listed = {order["id"]: order["email"] for order in (await shop.call("GET", "/orders", 200))["items"]}
    assert listed == {first: None, second: None, other: "other@example.com"}
    assert {order_id: await shop.get_order(order_id) for order_id in (first, second)} == {
        order_id: {**order, "email": None, "shipping": None} for order_id, order in before.items()
    }
    assert all(order["shipping"]["name"] == CANARY for order in (*before.values(), await shop.get_order(other)))
    assert [(step["from"], step["to"]) for step in (await timeline(shop, first))][: len(steps)] == steps
    last = (await timeline(shop, first))[-1]
    assert (last["actor"], last["note"]) == ("command:erase", "personal data erased")
    # Not of the dry run.
    logged = await database.fetch(
        "SELECT actor, action, subject, before, after, request_id FROM audit_log WHERE action = 'erase'"
    )
    states = ('{"erased": false}', '{"erased": true}')
    assert sorted((*row.values(),) for row in logged) == sorted(
        ("command:erase", "erase", f"order:{order_id}", *states, "command erase") for order_id in (first, second)
    )
    # Once more: there is nothing left, by the address or by the order.
    assert (await command(own, "erase", EMAIL))[:2] == (1, "")
    status, output, _ = await command(own, "erase", str(await number_of(database, first)))
    assert (status, {line.split()[-1] for line in output.splitlines()[2:]}) == (0, {"0"})
    await make_everything_due(database)
    await sweep.sweep(resources)
    await shop.call("POST", f"/orders/{second}/refund", 200, {})
    await refunds.settle(resources, UUID(second))
    assert await shop.get_order_state(second) == ("FULFILLED", "REFUNDED", 1250)
    await fulfilment.fulfil(resources, UUID(other))
    await assert_ledgers_agree(resources, stripe)


async def timeline(shop: Shop, order_id: str) -> list[dict[str, Any]]:
    return list((await shop.call("GET", f"/orders/{order_id}/timeline", 200))["items"])


async def number_of(database: asyncpg.Connection, order_id: str) -> int:
    return int(await database.fetchval("SELECT number FROM orders WHERE id = $1", UUID(order_id)))


def events_of_every_type(session: dict[str, Any], intent: str) -> list[Event]:
    """An event of each type that we handle, about one paid session and its payment."""
    refund = {"id": "re_1", "object": "refund", "amount": 50, "status": "succeeded", "metadata": {"order_id": CANARY}}
    charge = {"id": "ch_1", "object": "charge", "amount": 1250, "amount_refunded": 50, "currency": "eur"}
    dispute = {"id": "du_1", "object": "dispute", "amount": 1250, "currency": "eur", "status": "lost", "reason": "x"}
    subjects = {"checkout": session, "refund": refund, "charge": charge, "dispute": dispute}
    events = []
    for number, kind in enumerate(EVENT_TYPES):
        subject = subjects["dispute" if "dispute" in kind else kind.partition(".")[0]]
        named = {} if subject is session else {"payment_intent": intent, "metadata": {}}
        event = event_about({**subject, **named}, kind)
        events.append({**event, "created": 1_700_000_000 + number})
    return events


async def test_events_of_every_type_are_replayed_after_the_erasure_with_the_same_outcome(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, eraser: Pool
) -> None:
    """Those that were stored before are reduced by the erasure, those that come later are reduced when stored."""
    order_id, session = await pay(shop, stripe)
    events = events_of_every_type(session, session["payment_intent"])
    for event in events:
        await deliver(shop, event)
    outcomes = {event["id"]: await webhooks.process_stored_event(resources, event["id"]) for event in events}
    state = await shop.get_order_state(order_id)

    await erase(eraser, UUID(order_id))

    assert await places(database, CANARY) == set()
    for event in events:
        assert await webhooks.process_stored_event(resources, event["id"]) == outcomes[event["id"]], event["type"]
    later = [{**event, "id": f"evt_{uuid4().hex}"} for event in events]
    for event in later[::2]:
        await deliver(shop, event)
    for event in later[1::2]:
        # As the sweep of Stripe's list does, or a webhook whose transaction failed.
        await webhooks.store_event(resources, event)
    assert await places(database, CANARY) == set()
    for event in later:
        again = await webhooks.process_stored_event(resources, event["id"])
        assert again in (outcomes[f"{events[later.index(event)]['id']}"], "unchanged"), event["type"]
    assert await places(database, CANARY) == set()
    assert await shop.get_order_state(order_id) == state
    await fulfilment.fulfil(resources, UUID(order_id))
    await assert_ledgers_agree(resources, stripe)


class Recording(dict[str, Any]):
    """A document that records which of its members are read, as paths."""

    def __init__(self, document: dict[str, Any], paths: set[str], at: str = "") -> None:
        super().__init__(
            {
                name: Recording(value, paths, f"{at}{name}.") if isinstance(value, dict) else value
                for name, value in document.items()
            }
        )
        self._paths, self._at = paths, at

    def _record(self, name: str) -> None:
        self._paths.add(f"{self._at}{name}")

    def __getitem__(self, name: str) -> Any:
        self._record(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._record(name)
        return super().get(name, default)


async def test_what_applying_an_event_reads_stays(
    shop: Shop, stripe: StripeStandin, settings: Settings, database: asyncpg.Connection
) -> None:
    _, session = await pay(shop, stripe)
    read: set[str] = set()
    # As on the service's connections.
    await database.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )

    for event in events_of_every_type(session, session["payment_intent"]):
        async with database.transaction():
            await webhooks.apply_event(database, AfterCommit(), settings, Recording(event, read))
        # How `_settle_by_stripe` and `_settle_refund` read a stored event.
        read |= {"data.object.id", "data.object.payment_intent"}

    # These are read to be stored with the order, unless it is erased. The page's address is never stored from an event.
    address: dict[str, Any] = {part: {} for part in ("line1", "line2", "city", "state", "postal_code", "country")}
    stored: dict[str, Any] = {
        "customer_details": {"email": {}, "phone": {}},
        "collected_information": {"shipping_details": {"name": {}, "address": address}},
        "url": {},
    }
    allowed = {*paths_of(personal_data.EVENT), *paths_of(stored, "data.object.")}
    assert read - allowed == set(), "service/shop/personal_data.py, EVENT"


def test_members_of_an_unknown_form_do_not_stay() -> None:
    forms = [[CANARY], [[CANARY]], {"name": CANARY}, [{"name": CANARY}]]
    for name in personal_data.EVENT["data"]["object"]:
        for form in forms:
            event = {"id": "evt_1", "email": CANARY, "data": {"object": {name: form}}}
            assert CANARY not in str(personal_data.reduced_event(event)), (name, form)


def paths_of(members: personal_data.Members, at: str = "") -> Iterator[str]:
    for name, inner in members.items():
        yield f"{at}{name}"
        yield from paths_of(inner, f"{at}{name}.")


def test_every_member_of_a_stored_response_stays_or_is_personal() -> None:
    members = {*Order.__dataclass_fields__, *Checkout.__dataclass_fields__}
    assert members - {*personal_data.RESPONSE} == {"checkout_url", "email", "reference", "shipping"}, (
        "service/shop/personal_data.py, RESPONSE"
    )
    assert {*orders.OrderLine.__dataclass_fields__} == {*personal_data.RESPONSE["items"]}
    assert {*orders.Payment.__dataclass_fields__} == {*personal_data.RESPONSE["payment"]}


async def test_a_stored_response_is_replayed_without_personal_data(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, eraser: Pool
) -> None:
    """Of a checkout, and of the whole refund that cancelled its order: neither takes effect again."""
    order_id, _ = await pay(shop, stripe, Idempotency_Key="a key")
    path, key = f"/orders/{order_id}/refund", {"Idempotency_Key": "a key"}
    refunded = await shop.call("POST", path, 200, {}, **key)
    await refunds.settle(resources, UUID(order_id))
    assert await shop.get_order_state(order_id) == ("CANCELLED", "REFUNDED", 1250)
    await database.execute(
        "UPDATE idempotency_keys SET answer = convert_to((convert_from(answer, 'UTF8')::jsonb"
        """ || '{"email": "c4nary", "shipping": {"name": "c4nary"}}')::text, 'UTF8')"""
    )

    erasure = await erase(eraser, UUID(order_id))

    assert erasure.rows["stored responses"] == 2
    assert await places(database, CANARY) == set()
    kept = [{**refund, "reason": None, "actor": None} for refund in refunded["refunds"]]
    without = {"email": None, "shipping": None, "refunds": kept}
    assert await shop.call("POST", path, 200, {}, **key) == {**refunded, **without}
    assert await database.fetchval("SELECT count(*) FROM refunds") == 1


# What does not come back


async def test_a_late_payment_brings_no_address_back(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, eraser: Pool
) -> None:
    placed_order = await shop.checked_out_cart()
    order_id = placed_order["order_id"]
    with pytest.raises(Pending):
        await erase(eraser, UUID(order_id))
    await shop.call("POST", f"/orders/{order_id}/cancel", 200)
    await erase(eraser, UUID(order_id))
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    session["status"] = "open"

    await deliver(shop, event_about(stripe.pay(session["id"], email=EMAIL), COMPLETED))

    assert await shop.get_order_state(order_id) == ("PAID", "SUCCEEDED", 0)
    assert await places(database, CANARY) == set()
    await fulfilment.fulfil(resources, UUID(order_id))
    await assert_ledgers_agree(resources, stripe)


@pytest.mark.parametrize("way", ["delivered", "stored", "processed"])
async def test_an_event_that_meets_the_erasure_is_reduced(
    shop: Shop,
    stripe: StripeStandin,
    resources: Resources,
    database: asyncpg.Connection,
    eraser: Pool,
    database_url: str,
    way: str,
) -> None:
    """The event's transaction waits for the erasure's lock and then reads what that has written.

    Method: stop the erasure after it has marked the order, with all its later statements to come. Store an event, which
    has to wait. Without the lock the event would be stored whole, beside an erasure that does not see it.
    """
    order_id, session = await pay(shop, stripe)
    event = event_about({"id": "re_1", "object": "refund", "metadata": {}}, "refund.updated")
    event["data"]["object"]["payment_intent"] = session["payment_intent"]
    if way == "processed":
        # Nothing in it names the order before Stripe is asked.
        event["data"]["object"]["payment_intent"] = None
        await webhooks.store_event(resources, event)
        (stored,) = await database.fetch("SELECT payload FROM stripe_events WHERE id = $1", event["id"])
        assert CANARY in stored["payload"]
    work = {
        "delivered": lambda: deliver(shop, event),
        "stored": lambda: webhooks.store_event(resources, event),
        "processed": lambda: webhooks.run_transaction(
            resources.pool,
            lambda tx: webhooks._finish(
                tx,
                webhooks.Event(event["id"], event["type"], event, None, handled=False),
                webhooks.EventOutcome("applied", UUID(order_id)),
            ),
        ),
    }[way]
    async with database.transaction():
        await database.fetch(Statement("erasure/lock_orders").sql, [UUID(order_id)])
        await database.execute("UPDATE orders SET email = NULL, email_digest = NULL, erased_at = now()")

        running = asyncio.create_task(work())
        observer = await asyncpg.connect(database_url)
        await wait_for_blocked(observer)
        await observer.close()
    await running

    payload = await database.fetchval("SELECT payload FROM stripe_events WHERE id = $1", event["id"])
    assert CANARY not in payload


async def test_events_without_an_order_are_reduced_by_what_they_name(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, eraser: Pool
) -> None:
    """By the order in their metadata, by its payment, and by an address in any of Stripe's places and in any case."""
    order_id, session = await pay(shop, stripe)
    details = {"name": CANARY, "metadata": {}}
    named = {
        "by its order": {"metadata": {"order_id": order_id}},
        "by its payment": {"payment_intent": session["payment_intent"]},
        **{
            place: {place: {"email": EMAIL.upper()} if "details" in place else EMAIL.upper()}
            for place in ("customer_details", "customer_email", "billing_details", "receipt_email")
        },
        "another customer": {"customer_details": {"email": "other@example.com"}},
    }
    await database.executemany(
        "INSERT INTO stripe_events (id, type, payload, outcome, handled_at)"
        " VALUES ($1, 'x', $2, 'livemode_mismatch', now())",
        [(name, orjson.dumps({"data": {"object": {**details, **data}}}).decode()) for name, data in named.items()],
    )

    await erase(eraser, EMAIL)

    whole = "SELECT id FROM stripe_events WHERE payload::text LIKE '%c4nary%' OR payload::text LIKE '%C4NARY%'"
    assert [name for (name,) in await database.fetch(whole)] == ["another customer"]


async def test_orders_that_were_not_paid_are_found_by_their_events(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, eraser: Pool
) -> None:
    """One session expired after the customer had typed the address; one payment came too late and is refunded."""
    product = await shop.create_product(stock=2)
    expired, refunded = [await shop.checked_out_cart((product["id"], 1)) for _ in range(2)]
    session = stripe.expire_session(expired["payment"]["stripe_session_id"])
    await deliver(shop, event_about(session, "checkout.session.expired"))
    await shop.call("POST", f"/orders/{refunded['order_id']}/cancel", 200)
    await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -2, "reason": "broken"})
    session = stripe.session(refunded["payment"]["stripe_session_id"])
    session["status"] = "open"
    late = event_about(stripe.pay(session["id"], email=EMAIL), COMPLETED)
    assert await deliver(shop, late) == "late_money_refunded"
    assert await database.fetchval("SELECT count(email) FROM orders") == 0

    erasure = await erase(eraser, EMAIL)

    assert {*erasure.order_ids} == {UUID(expired["order_id"]), UUID(refunded["order_id"])}
    assert await places(database, CANARY) == set()
    await deliver(shop, {**late, "id": "evt_again"})
    assert await places(database, CANARY) == set()
    await refunds.settle(resources, UUID(refunded["order_id"]))
    await assert_ledgers_agree(resources, stripe)


# Finding the order


@pytest.mark.parametrize("with_digest", [True, False])
async def test_an_address_is_found_in_any_case_and_form(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, eraser: Pool, with_digest: bool
) -> None:
    stored = (EMAIL, "Müller@example.com", "Zu\u0308rich@example.com", "Straße@example.com")
    asked = (f"  {EMAIL.title()} ", "MÜLLER@EXAMPLE.COM", "zürich@example.com", "straße@example.com")
    order_ids = [UUID((await pay(shop, stripe, email=email))[0]) for email in stored]
    assert await database.fetchval("SELECT count(DISTINCT email_digest) FROM orders") == len(stored)
    if not with_digest:
        # As old code wrote them.
        await database.execute("UPDATE orders SET email_digest = NULL")

    assert (await erase(eraser, "other@example.com")).order_ids == []
    for email, order_id in zip(asked, order_ids, strict=True):
        assert (await erase(eraser, email)).order_ids == [order_id]


async def test_a_migration_makes_the_hashes_of_old_rows(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, database_url: str, settings: Settings
) -> None:
    for email in ("Old@Example.com", "Ölter@example.com"):
        await pay(shop, stripe, email=email)
    await shop.checked_out_cart()
    await database.execute("UPDATE orders SET client = substr(sha256('client'), 1, 16)")
    owner = login(database_url, "owner")
    while await undo(owner) != ["0045.erasure"]:
        pass

    await migrate(owner)

    digests = dict(await database.fetch("SELECT email, email_digest FROM orders"))
    assert digests == {
        "Old@Example.com": personal_data.email_digest("old@example.com"),
        "Ölter@example.com": None,
        None: None,
    }
    clients = "SELECT status FROM orders WHERE client IS NOT NULL"
    assert [tuple(row) for row in await database.fetch(clients)] == [("PENDING_PAYMENT",)]


class TestWithALimit:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"MAX_PENDING_PER_CLIENT": "5"}

    async def test_the_hash_of_a_client_stays_only_while_its_order_is_pending(
        self, shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
    ) -> None:
        placed_orders = [await shop.checked_out_cart() for _ in range(2)]
        assert await database.fetchval("SELECT count(client) FROM orders") == 2

        await shop.call("POST", f"/orders/{placed_orders[0]['order_id']}/cancel", 200)
        await pay(shop, stripe)

        pending = "SELECT count(*) FROM orders WHERE client IS NOT NULL AND status = 'PENDING_PAYMENT'"
        assert await database.fetchval("SELECT count(client) FROM orders") == await database.fetchval(pending) == 1


async def test_a_refusal_is_one_sentence_and_changes_nothing(
    shop: Shop, stripe: StripeStandin, environ: dict[str, str], database: asyncpg.Connection, database_url: str
) -> None:
    own = {**environ, "DATABASE_URL": login(database_url, "eraser")}
    paid, _ = await pay(shop, stripe)
    pending = (await shop.checked_out_cart())["order_id"]
    before = await checksum_tables(database)
    nobody = "Nothing found: there is no such order"
    cases = [
        (own, "404", 1, nobody),
        (own, str(UUID(int=404)), 1, nobody),
        (own, "nobody@example.com", 1, nobody),
        (own, "nobody", 2, "must be an order's id or number, or an e-mail address"),
        (own, pending, 2, f"Order {pending} awaits its payment"),
        # As commerce_app, which has no right to it.
        (environ, paid, 2, "permission denied"),
    ]

    answers = await asyncio.gather(*(command(environment, "erase", subject) for environment, subject, *_ in cases))

    for (_, subject, status, sentence), (code, output, errors) in zip(cases, answers, strict=True):
        assert (code, output) == (status, ""), subject
        assert sentence in errors
        assert "Traceback" not in errors
    assert await checksum_tables(database) == before


async def test_two_at_once_erase_it_once(
    shop: Shop, stripe: StripeStandin, database: asyncpg.Connection, eraser: Pool
) -> None:
    order_id, _ = await pay(shop, stripe)

    erasures: list[Erasure] = await asyncio.gather(*(erase(eraser, UUID(order_id)) for _ in range(3)))

    assert sorted(erasure.rows["orders"] for erasure in erasures) == [0, 0, 1]
    notes = "SELECT count(*) FROM order_events WHERE note = 'personal data erased'"
    assert await database.fetchval(notes) == 1
