"""The audit log: each write by staff leaves one row in its transaction; a refused or replayed call leaves none."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.resources import Resources
from service.infra.stripe import Session
from service.shop import expiry, refunds, settlement, sweep
from tests.client import ADMIN_TOKEN, Shop
from tests.database import checksum_tables, end_hold
from tests.shop.test_erasure import places
from tests.shop.test_refunds import create_fulfilled_order
from tests.test_command_line import command

# In texts of staff about people, and in the callers' own ids of their requests.
CANARY, CALLERS_ID = "c4nary", "callers-id"
STAFF = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
OUR_ID = re.compile("[0-9a-f]{32}-[0-9a-f]{16}")
# A row: its action, subject, before and after.
Row = tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]

pytestmark = pytest.mark.usefixtures("webhooks_dropped")


@pytest.fixture
def changed_settings() -> dict[str, str]:
    return {"ADMIN_TOKEN": ADMIN_TOKEN}


@pytest.fixture(autouse=True)
def staff_send_their_credential(shop: Shop) -> None:
    shop.http.headers.update(STAFF)


def as_customer(shop: Shop) -> None:
    del shop.http.headers["Authorization"]


class Log:
    """The audit log, from one look to the next."""

    def __init__(self, database: asyncpg.Connection) -> None:
        self.database = database
        self.last_id = 0

    async def new_rows(self) -> list[Row]:
        """The rows since the last look; each is of the admin and has an id of ours."""
        rows = await self.database.fetch("SELECT * FROM audit_log WHERE id > $1 ORDER BY id", self.last_id)
        self.last_id = max([self.last_id, *(row["id"] for row in rows)])
        for row in rows:
            assert row["actor"] == "admin"
            assert OUR_ID.fullmatch(row["request_id"]), row["request_id"]
        return [(row["action"], row["subject"], *map(_json, (row["before"], row["after"]))) for row in rows]


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


@pytest.fixture
def log(database: asyncpg.Connection) -> Log:
    return Log(database)


async def some_writes(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> list[tuple[str, str, Any, Row]]:
    """Every call with which staff change something: its method, path and body, and the row that it leaves.

    They can be made in this order. A subject or member of a row may depend on the answer: `{id}` stands for its id.
    """
    product, category = (
        await shop.create_product(stock=5),
        await shop.call("POST", "/categories", 201, {"name": "Mugs"}),
    )
    paid_order, _ = await create_fulfilled_order(shop, stripe, resources)
    lines_order, _ = await create_fulfilled_order(shop, stripe, resources)
    bought = (await shop.get_order(lines_order))["items"][0]["product_id"]
    receiver = {"url": "https://example.com", "types": ["order.placed"], "description": ""}
    endpoint = (await shop.call("POST", "/event-endpoints", 201, receiver))["id"]
    pending = (await shop.checked_out_cart((product["id"], 1)))["order_id"]
    delivery = await database.fetchval("SELECT id FROM event_deliveries")
    at_endpoint, of_endpoint = f"/event-endpoints/{endpoint}", f"endpoint:{endpoint}"
    resent = {"delivery_id": delivery, "type": "order.placed"}
    await database.execute("INSERT INTO stuck_items (kind, id, reason) VALUES ('dispute_open', 'dp_1', 'x')")
    at_product, at_category = f"/products/{product['id']}", f"/categories/{category['id']}"
    of_product, of_category = f"product:{product['id']}", f"category:{category['id']}"
    new = {"name": "Pan", "description": "", "category_id": None, "price_minor": 700, "currency": "EUR", "stock": 3}
    new |= {"active": True, "sku": None, "image_url": None, "max_per_order": None}
    put = {name: value for name, value in new.items() if name != "sku"}
    about_people = f"{CANARY} called"
    refunded = {"refund_id": "{refund}", "amount_minor": 50, "currency": "EUR", "restock": False}
    edit, edited = {"price_minor": 1300, "name": "Tent"}, ({"price_minor": 1250}, {"price_minor": 1300})
    moved = {"delta": 2, "reason": about_people}
    revoked = {"sub": "anna"}
    settled = {"reason": about_people}
    refund = {"amount_minor": 50, "reason": about_people}
    refund_lines = {"items": [{"product_id": bought, "quantity": 1, "restock": True}], "reason": about_people}
    refunded_lines = {"refund_id": "{refund}", "amount_minor": 1250, "currency": "EUR", "items": refund_lines["items"]}
    return [
        (
            "POST",
            "/categories",
            {"name": "Pots", "slug": "pots"},
            ("create_category", "category:{id}", None, {"name": "Pots", "slug": "pots"}),
        ),
        (
            "PATCH",
            at_category,
            {"slug": "cups"},
            ("update_category", of_category, {"slug": "mugs"}, {"slug": "cups"}),
        ),
        ("DELETE", at_category, None, ("delete_category", of_category, {"name": "Mugs", "slug": "cups"}, None)),
        ("POST", "/products", new, ("create_product", "product:{id}", None, new)),
        ("PUT", "/products/by-sku/P-1", put, ("create_product", "product:{id}", None, {**new, "sku": "P-1"})),
        ("PATCH", at_product, edit, ("update_product", of_product, *edited)),
        ("POST", f"{at_product}/stock", moved, ("move_stock", of_product, {"stock": 4}, {"stock": 6})),
        ("DELETE", at_product, None, ("delete_product", of_product, {"active": True}, {"active": False})),
        (
            "POST",
            f"/orders/{pending}/cancel",
            None,
            ("cancel_order", f"order:{pending}", {"status": "PENDING_PAYMENT"}, {"status": "CANCELLED"}),
        ),
        ("POST", f"/orders/{paid_order}/refund", refund, ("refund_order", f"order:{paid_order}", None, refunded)),
        (
            "POST",
            f"/orders/{lines_order}/refund",
            refund_lines,
            ("refund_order", f"order:{lines_order}", None, refunded_lines),
        ),
        (
            "POST",
            "/stuck/dispute_open/dp_1/resolve",
            settled,
            ("resolve_stuck", "stuck:dispute_open:dp_1", {"resolved": False}, {"resolved": True}),
        ),
        ("POST", "/auth/revocations", revoked, ("revoke_tokens", "user:anna", None, None)),
        (
            "POST",
            "/event-endpoints",
            receiver,
            ("create_event_endpoint", "endpoint:{id}", None, receiver | {"active": True}),
        ),
        (
            "PATCH",
            at_endpoint,
            {"active": False},
            ("update_event_endpoint", of_endpoint, {"active": True}, {"active": False}),
        ),
        ("POST", f"{at_endpoint}/rotate", None, ("rotate_event_secret", of_endpoint, None, None)),
        (
            "POST",
            f"{at_endpoint}/deliveries/{delivery}/resend",
            None,
            ("resend_delivery", of_endpoint, None, resent),
        ),
        (
            "DELETE",
            at_endpoint,
            None,
            ("delete_event_endpoint", of_endpoint, receiver | {"active": False}, None),
        ),
    ]


def filled(row: Row, answer: Any) -> Row:
    """The row with the ids of the answer."""
    if answer is None:
        return row
    action, subject, before, after = row
    if after and after.get("refund_id") == "{refund}":
        after = {**after, "refund_id": answer["refunds"][-1]["id"]}
    return action, subject.replace("{id}", str(answer.get("id"))), before, after


async def test_each_write_by_staff_leaves_one_row(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, log: Log
) -> None:
    """Goal: each call leaves one row, also if it is sent again with its key; no row has personal data.

    Method: make every call, then the POSTs again. The OpenAPI document says which calls there are.
    """
    writes = await some_writes(shop, stripe, resources, database)
    await log.new_rows()

    for number, (method, path, body, row) in enumerate(writes):
        key = {"Idempotency-Key": f"write {number}"} if method == "POST" else {}
        headers = {**key, "X-Request-ID": CALLERS_ID}
        answer = await shop.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, (path, answer.text)
        assert await log.new_rows() == [filled(row, answer.json() if answer.content else None)]
        if key:
            again = await shop.http.request(method, path, json=body, headers=headers)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert await log.new_rows() == []

    rows = await database.fetch("SELECT row::text FROM audit_log AS row")
    assert not any(CANARY in row for (row,) in rows)
    assert await places(database, CALLERS_ID) == set()
    # Whoever holds a scope makes these calls; a customer may cancel, too.
    document = (await shop.http.get("/openapi.json")).json()
    calls = {
        call["operationId"]
        for path in document["paths"].values()
        for method, call in path.items()
        if method != "get" and call["security"] and {} not in call["security"]
    }
    # Nobody but people with access tokens make these: they are no staff.
    for_users = {name for name in calls if name.startswith("claim_")}
    # It either creates a product or edits one.
    calls -= {"put_product"}
    assert {action for *_, (action, *_) in writes} == calls - for_users | {"cancel_order"}


async def test_refused_calls_leave_no_row(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, log: Log
) -> None:
    tent, rope = await shop.create_product(stock=1), await shop.create_product()
    used = await shop.call("POST", "/categories", 201, {"name": "Used"})
    await shop.create_product(category_id=used["id"])
    await shop.call("POST", "/categories", 201, {"name": "Mugs"})
    paid_order, _ = await create_fulfilled_order(shop, stripe, resources)
    await log.new_rows()
    at_tent, none = f"/products/{tent['id']}", "/products/404"
    missing = "/orders/00000000-0000-4000-8000-000000000000"
    refused = [
        ("POST", "/categories", {"name": "Mugs"}, 409),
        ("PATCH", f"/categories/{used['id']}", {"slug": "mugs"}, 409),
        ("PATCH", "/categories/404", {"name": "x"}, 404),
        ("DELETE", f"/categories/{used['id']}", None, 409),
        ("DELETE", "/categories/404", None, 404),
        ("POST", "/products", {"name": "x", "price_minor": 1, "currency": "EUR", "stock": 1, "category_id": 404}, 404),
        ("PATCH", at_tent, {"category_id": 404}, 404),
        ("PATCH", at_tent, {"price_minor": 100_000_000_000}, 422),
        ("PATCH", none, {"name": "x"}, 404),
        ("DELETE", none, None, 404),
        ("POST", f"{at_tent}/stock", {"delta": -2, "reason": "x"}, 409),
        ("POST", f"{none}/stock", {"delta": 2, "reason": "x"}, 404),
        ("POST", f"{missing}/cancel", None, 404),
        ("POST", f"/orders/{paid_order}/cancel", None, 409),
        ("POST", f"{missing}/refund", {}, 404),
        ("POST", f"/orders/{paid_order}/refund", {"amount_minor": 9999}, 409),
        ("POST", "/stuck/dispute_open/dp_1/resolve", {"reason": "x"}, 404),
        ("POST", "/auth/revocations", {"sub": ""}, 422),
        ("POST", "/event-endpoints", {"url": "https://127.0.0.1", "types": ["order.paid"]}, 422),
        ("PATCH", "/event-endpoints/404", {"active": False}, 404),
        ("POST", "/event-endpoints/404/rotate", None, 404),
        ("POST", "/event-endpoints/404/deliveries/1/resend", None, 404),
        ("DELETE", "/event-endpoints/404", None, 404),
    ]

    for method, path, body, status in refused:
        await shop.call(method, path, status, body)
    await shop.call("PATCH", at_tent, 412, {"name": "x"}, If_Match='"9-9"')
    as_customer(shop)
    await shop.call("PATCH", f"/products/{rope['id']}", 401, {"name": "x"})

    assert await log.new_rows() == []


async def test_nothing_is_written_without_its_row(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    """Goal: the row and the write are one transaction. Method: where no row can be added, every call fails whole."""
    writes = await some_writes(shop, stripe, resources, database)
    await database.execute("REVOKE INSERT ON audit_log FROM commerce_app")
    before = await checksum_tables(database)

    for method, path, body, row in writes:
        answer = await shop.http.request(method, path, json=body)
        assert answer.status_code == 500, row
        assert await checksum_tables(database) == before, row


async def test_the_command_leaves_a_row_for_each_key(environ: dict[str, str], database: asyncpg.Connection) -> None:
    scopes = ("--scopes", "stock:write,catalog:read")
    for arguments, status in (
        (("add", "--name", "erp", *scopes, "--days", "30"), 0),
        (("add", "--name", "erp", *scopes, "--days", "30"), 2),
        (("revoke", "erp"), 0),
        (("revoke", "erp"), 2),
    ):
        assert (await command(environ, "key", *arguments))[0] == status

    rows = await database.fetch("SELECT actor, action, subject, before, after, request_id FROM audit_log ORDER BY id")
    added, revoked = [(*row.values(),) for row in rows]
    assert added[:3] == ("command:key", "add_key", "key:erp")
    assert (added[3], _json(added[4])) == (None, {"scopes": ["catalog:read", "stock:write"], "days": 30})
    assert (*revoked[:3], revoked[5]) == ("command:key", "revoke_key", "key:erp", "command key")
    assert [*map(_json, revoked[3:5])] == [{"revoked": False}, {"revoked": True}]


# Who cancels an order


async def open_session(shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection) -> str:
    return str((await shop.checked_out_cart())["order_id"])


async def no_session(shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection) -> str:
    cart = await shop.create_cart(((await shop.create_product())["id"], 1))
    stripe.set_faults([{"method": "POST", "path": "/v1/checkout/session[s]", "action": "drop"}])
    await shop.check_out(cart, 503)
    stripe.set_faults([])
    # Now Stripe refuses to create it.
    stripe.advance_clock(3600)
    return str(await database.fetchval("SELECT id FROM orders"))


async def in_progress(shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection) -> str:
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"], later=True)
    await end_hold(database, placed_order["order_id"])
    await sweep.sweep(resources)
    return str(placed_order["order_id"])


async def failed(shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection) -> str:
    """Its payment took days and failed; the event about that is lost."""
    order_id = await in_progress(shop, stripe, resources, database)
    session_id = await database.fetchval("SELECT stripe_session_id FROM payments")
    stripe.settle(session_id, succeed=False)
    return order_id


async def mismatch(shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection) -> str:
    """Stripe captured another amount for it."""
    placed_order = await shop.checked_out_cart()
    session = stripe.session(placed_order["payment"]["stripe_session_id"])
    session["amount_total"] -= 1
    stripe.pay(session["id"])
    return str(placed_order["order_id"])


State = Callable[[Shop, StripeStandin, Resources, asyncpg.Connection], Awaitable[str]]


@pytest.mark.parametrize("state", [open_session, no_session, in_progress, failed, mismatch])
async def test_an_order_that_staff_cancel_has_one_row(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, log: Log, state: State
) -> None:
    """Staff cancel an order in each state that has a way of its own through the code; twice, without a key."""
    order_id = await state(shop, stripe, resources, database)
    await log.new_rows()

    for _ in range(2):
        await shop.call("POST", f"/orders/{order_id}/cancel", 200)

    status = {"before": {"status": "PENDING_PAYMENT"}, "after": {"status": "CANCELLED"}}
    assert await log.new_rows() == [("cancel_order", f"order:{order_id}", *status.values())]
    last = await database.fetchrow("SELECT * FROM order_events WHERE to_status = 'CANCELLED' ORDER BY id LIMIT 1")
    assert last["actor"] == "admin"


async def test_an_order_that_stripes_event_cancels_before_staff_has_one_row(
    shop: Shop, resources: Resources, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe tells about the session that staff have closed, before the staff's own request records it."""
    order = await shop.checked_out_cart()
    await log.new_rows()
    settle = settlement.settle_session

    async def settle_later(own: Resources, order_id: UUID, session: Session, **options: Any) -> str:
        await expiry.cancel_closed(resources, {order_id: session.id})
        return await settle(own, order_id, session, **options)

    monkeypatch.setattr(settlement, "settle_session", settle_later)
    for _ in range(2):
        await shop.call("POST", f"/orders/{order['order_id']}/cancel", 200, Idempotency_Key="k")

    status = {"before": {"status": "PENDING_PAYMENT"}, "after": {"status": "CANCELLED"}}
    assert await log.new_rows() == [("cancel_order", f"order:{order['order_id']}", *status.values())]


async def test_the_row_of_a_cancel_stands_in_the_transaction_that_cancels(
    shop: Shop, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after that transaction, before it answers."""
    order_id = (await shop.checked_out_cart())["order_id"]
    await log.new_rows()

    async def dies(*_: Any, **__: Any) -> None:
        raise ShopError("unavailable", "The process died.")

    monkeypatch.setattr(expiry, "_read_cancelled", dies)
    await shop.call("POST", f"/orders/{order_id}/cancel", 503)

    assert [row[:2] for row in await log.new_rows()] == [("cancel_order", f"order:{order_id}")]


async def test_an_order_that_nobody_of_the_staff_cancels_has_none(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, log: Log
) -> None:
    """A customer cancels an order, the hold of another ends, and a third is refunded, which cancels it later."""
    tent = await shop.create_product()
    cancelled, expired, refunded = [await shop.checked_out_cart((tent["id"], 1)) for _ in range(3)]
    stripe.pay(refunded["payment"]["stripe_session_id"])
    await end_hold(database, refunded["order_id"])
    await expiry.expire(resources, UUID(refunded["order_id"]))
    await shop.call("POST", f"/orders/{refunded['order_id']}/refund", 200, {})
    await log.new_rows()

    await refunds.settle(resources, UUID(refunded["order_id"]))
    await end_hold(database, expired["order_id"])
    await expiry.expire(resources, UUID(expired["order_id"]))
    as_customer(shop)
    await shop.call("POST", f"/orders/{cancelled['order_id']}/cancel", 200)

    assert await database.fetchval("SELECT count(*) FROM orders WHERE status = 'CANCELLED'") == 3
    assert await log.new_rows() == []
    actors = dict(
        await database.fetch("SELECT order_id::text, actor FROM order_events WHERE to_status = 'CANCELLED' ORDER BY id")
    )
    assert actors[cancelled["order_id"]] == "customer"


# Two edits at once


async def test_concurrent_writes_chain(shop: Shop, log: Log) -> None:
    """Each row's `before` is the `after` of the row before it, however the writes meet."""
    product, category = await shop.create_product(stock=50), await shop.call("POST", "/categories", 201, {"name": "A"})
    at_product, at_category = f"/products/{product['id']}", f"/categories/{category['id']}"
    await log.new_rows()

    await asyncio.gather(
        *(shop.call("PATCH", at_product, 200, {"price_minor": 2000 + number}) for number in range(20)),
        *(shop.call("POST", f"{at_product}/stock", 200, {"delta": number, "reason": "x"}) for number in range(1, 21)),
        *(shop.call("PATCH", at_category, 200, {"name": f"A {number}"}) for number in range(20)),
    )

    rows = await log.new_rows()
    first = {"price_minor": 1250, "stock": 50, "name": "A"}
    for member, initial in first.items():
        states = [(before[member], after[member]) for *_, before, after in rows if before and after and member in after]
        assert len(states) == 20
        assert states[0][0] == initial
        assert all(earlier[1] == later[0] for earlier, later in pairwise(states)), (member, states)
    assert (await shop.call("GET", at_product, 200))["price_minor"] == states_of(rows, "price_minor")[-1]


def states_of(rows: list[Row], member: str) -> list[Any]:
    return [after[member] for *_, after in rows if after and member in after]


# Reading it


async def test_the_log_is_listed_newest_first_by_subject_and_actor(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO audit_log (actor, action, subject, before, after, request_id)"
        " SELECT CASE n % 3 WHEN 0 THEN 'user:anna' ELSE 'key:erp' END, 'update_product', 'product:' || n % 2,"
        " jsonb_build_object('price_minor', n - 1), jsonb_build_object('price_minor', n), 'r' || n"
        " FROM generate_series(1, 12) AS n"
    )

    async def prices(query: str) -> list[int]:
        """Of all pages, which are followed by their cursors."""
        listed, cursor = [], ""
        while True:
            page = await shop.call("GET", f"/audit?limit=2{query}{cursor}", 200)
            assert len(page["items"]) <= 2
            listed += [item["after"]["price_minor"] for item in page["items"]]
            if page["next_cursor"] is None:
                return listed
            assert page["next_cursor"] == page["items"][-1]["id"]
            cursor = f"&after_id={page['next_cursor']}"

    assert await prices("") == [*range(12, 0, -1)]
    assert await prices("&subject=product:1") == [11, 9, 7, 5, 3, 1]
    assert await prices("&actor=user:anna") == [12, 9, 6, 3]
    assert await prices("&actor=user:anna&subject=product:1") == [9, 3]
    assert await prices("&actor=user:ann") == await prices("&subject=product") == []
    (newest,) = (await shop.call("GET", "/audit?limit=1", 200))["items"]
    assert newest == {
        "id": 12,
        "at": newest["at"],
        "actor": "user:anna",
        "action": "update_product",
        "subject": "product:0",
        "before": {"price_minor": 11},
        "after": {"price_minor": 12},
        "request_id": "r12",
    }
    as_customer(shop)
    assert (await shop.call("GET", "/audit", 401))["code"] == "unauthorized"
