"""Stripe's events: the last one it made, a new one, and their delivery as signed webhooks."""

import time
from copy import deepcopy
from typing import Any

import asyncpg
import httpx
import orjson

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.objects import new_id
from service.dev.stripe_standin.webhooks import signature
from service.infra.metrics import exposition
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET

Event = dict[str, Any]


def last_event(stripe: StripeStandin, kind: str, session_id: str | None = None) -> Event:
    """The last event of a kind that Stripe has made, of one session where `session_id` names it."""
    events = [e for e in stripe.events if e["type"] == kind and session_id in (None, e["data"]["object"]["id"])]
    return deepcopy(events[-1])


def make_event(kind: str, subject: dict[str, Any], **changes: Any) -> Event:
    """An event with a new id about an object, some of whose fields are changed."""
    return {
        "id": new_id("evt_"),
        "object": "event",
        "type": kind,
        "livemode": False,
        "data": {"object": {key: value for key, value in subject.items() if key[0] != "_"} | changes},
    }


def personal_members(canary: str) -> dict[str, Any]:
    """What Stripe's objects say about people, in all places where it may: each text has the canary."""
    email = f"{canary}@example.com"
    address = {"line1": f"{canary} street 1", "line2": None, "city": canary, "postal_code": canary, "country": "DE"}
    details = {"email": email, "name": f"Anna {canary}", "phone": f"+49 {canary}", "address": address}
    return {
        "customer_details": details,
        "customer_email": email,
        "billing_details": details,
        "receipt_email": email,
        "instructions_email": email,
        "shipping": {"name": canary, "phone": canary, "address": address},
        "shipping_details": {"name": canary, "address": address},
        "collected_information": {"shipping_details": {"name": canary, "address": address}},
        "custom_fields": [{"key": "greeting", "text": {"value": canary}}],
        "evidence": {"customer_name": canary, "customer_email_address": email, "customer_purchase_ip": canary},
        "description": f"for {canary}",
    }


async def post_webhook(shop: Shop, body: bytes, signature_header: str | bytes | None) -> httpx.Response:
    """Post a body to the webhook's address, with this `Stripe-Signature` or none."""
    headers = {} if signature_header is None else {"Stripe-Signature": signature_header}
    return await shop.http.post("/webhooks/stripe", content=body, headers=headers)  # type: ignore[arg-type]


async def deliver(shop: Shop, event: Event, expect: int = 200) -> str:
    """Deliver an event, signed; its outcome, or the code of the problem."""
    body = orjson.dumps(event)
    answer = await post_webhook(shop, body, signature(body, WEBHOOK_SECRET, int(time.time())))
    assert answer.status_code == expect, answer.text
    document = answer.json()
    return str(document["outcome"] if expect == 200 else document["code"])


async def event_outcomes(database: asyncpg.Connection) -> list[tuple[str, bool]]:
    """(outcome, handled) of every stored event, in the order of arrival."""
    rows = await database.fetch("SELECT outcome, handled_at IS NOT NULL FROM stripe_events ORDER BY received_at")
    return [tuple(row) for row in rows]


def count_events(outcome: str) -> float:
    """How many events the metrics count with this outcome."""
    lines = exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if f'events_total{{outcome="{outcome}"}}' in line)


def end_sessions(stripe: StripeStandin) -> None:
    """Let the sessions be older than any session lives, so that reconcile reads them in Stripe's list."""
    for session in stripe.sessions:
        session["created"] -= 7200
