"""Events as Stripe signs them, moments brought about by SQL, and what Stripe's books and ours must say at the end."""

import time
from copy import deepcopy
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.objects import new_id
from service.dev.stripe_standin.webhooks import signature
from service.infra.resources import Resources
from service.shop.audit import audit
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET

Event = dict[str, Any]


def emitted(stripe: StripeStandin, kind: str, session_id: str | None = None) -> Event:
    """The last event of a kind that Stripe has made, of one session where that is said."""
    found = [e for e in stripe.events if e["type"] == kind and session_id in (None, e["data"]["object"]["id"])]
    return deepcopy(found[-1])


def event(kind: str, subject: dict[str, Any], **changes: Any) -> Event:
    """An event of its own id about an object with some fields changed."""
    return {
        "id": new_id("evt_"),
        "object": "event",
        "type": kind,
        "livemode": False,
        "data": {"object": {key: value for key, value in subject.items() if key[0] != "_"} | changes},
    }


async def post(shop: Shop, body: bytes, header: str | bytes | None) -> httpx.Response:
    """A webhook as it comes over the wire."""
    headers = {} if header is None else {"Stripe-Signature": header}
    return await shop.http.post("/webhooks/stripe", content=body, headers=headers)  # type: ignore[arg-type]


async def deliver(shop: Shop, sent: Event, expect: int = 200) -> str:
    """Deliver an event, signed; its outcome, or the code of the problem."""
    body = orjson.dumps(sent)
    answer = await post(shop, body, signature(body, WEBHOOK_SECRET, int(time.time())))
    assert answer.status_code == expect, answer.text
    said = answer.json()
    return str(said["outcome"] if expect == 200 else said["code"])


async def everything(database: asyncpg.Connection) -> dict[str, str]:
    """A checksum of each table, to see that nothing has changed."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    checksum = "SELECT md5(coalesce(string_agg(row::text, '' ORDER BY row::text), '')) FROM {} AS row"
    return {table: await database.fetchval(checksum.format(table)) for (table,) in tables}


async def hold_ends(database: asyncpg.Connection | asyncpg.Pool, order_id: str) -> None:
    await database.execute(
        "UPDATE orders SET expires_at = now() - interval '1 s', next_attempt_at = now() WHERE id = $1", UUID(order_id)
    )


async def all_due(database: asyncpg.Connection) -> None:
    """Whatever was put off is due now."""
    for table in ("orders", "stripe_events", "refunds", "unmatched_payments"):
        await database.execute(f"UPDATE {table} SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


async def balance(resources: Resources, stripe: StripeStandin) -> None:
    """The audit is clean; each captured payment is either a live order's or given back; only pending orders can be
    paid."""
    found = {rule: violations for rule, violations in (await audit(resources.pool)).items() if violations}
    assert not found
    orders = await resources.pool.fetch(
        "SELECT o.id, o.status, p.status AS payment, p.refunded_minor, p.stripe_payment_intent_id AS intent"
        " FROM orders o JOIN payments p ON o.id = p.order_id"
    )
    unsent = await resources.pool.fetch(
        "SELECT stripe_payment_intent_id AS intent, amount_minor FROM refunds WHERE status = 'REQUESTED'"
    )
    books = stripe.ledger()
    stands = {o["intent"] for o in orders if o["status"] in ("PAID", "FULFILLED") and o["payment"] == "SUCCEEDED"}
    for paid in books["payments"]:
        intent, amount = paid["payment_intent"], paid["amount"]
        made = [r["amount"] for r in stripe.refunds if r["payment_intent"] == intent and r["status"] != "failed"]
        back = sum(made) + sum(r["amount_minor"] for r in unsent if r["intent"] == intent)
        assert back <= amount
        assert (intent in stands) != (back == amount), (paid, back)
    refunded = {paid["payment_intent"]: paid["refunded"] for paid in books["payments"]}
    for order in orders:
        if order["payment"] in ("SUCCEEDED", "REFUND_PENDING", "REFUNDED"):
            assert refunded[order["intent"]] == order["refunded_minor"]
    pending = {str(o["id"]) for o in orders if o["status"] == "PENDING_PAYMENT"}
    assert {s["metadata"]["order_id"] for s in books["open_sessions"]} <= pending
