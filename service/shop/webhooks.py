"""Stripe's events: verified, stored and applied; what an event does not settle is asked at Stripe."""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError, not_found
from service.infra.db import Connection, connection
from service.infra.logs import cause
from service.infra.metrics import EVENTS
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement
from service.infra.stripe import Session, StripeRefused, StripeUnknown, signature_verifies
from service.infra.transactions import run_transaction
from service.shop import refunds, settlement, transitions
from service.shop.transitions import AfterCommit


@dataclass(slots=True)
class EventId:
    """The event just stored; no row when it was there."""

    id: str


@dataclass(slots=True)
class Event:
    """A stored event and what became of it."""

    id: str
    type: str
    payload: dict[str, Any]
    outcome: str | None
    handled: bool


RECORD_EVENT = Statement("webhooks/record_event", EventId)
STORE_EVENT = Statement("webhooks/store_event", NoRow)
FINISH_EVENT = Statement("webhooks/finish_event", NoRow)
READ_EVENT = Statement("webhooks/read_event", Event)

SESSION_EVENTS = {
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
}
# All that is looked at here, by the names that Stripe's list of events is asked for.
EVENT_TYPES = (
    *sorted(SESSION_EVENTS),
    "charge.refunded",
    *(f"refund.{what}" for what in ("created", "failed", "updated")),
    *(f"charge.dispute.{what}" for what in ("closed", "created", "funds_reinstated", "funds_withdrawn", "updated")),
)


# A NUL, which jsonb does not take; not the same letters behind an escaped backslash. Hardly any body has the letters,
# and to look for these alone takes a fiftieth of the time.
NUL = rb"\u0000"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(slots=True)
class EventOutcome:
    """What became of an event; `handled` is False while a job has to ask Stripe about it."""

    outcome: str
    order_id: UUID | None = None
    handled: bool = True


async def receive_webhook(resources: Resources, body: bytes, signature: str | None) -> str:
    """Verify, store and apply one webhook, in one transaction; its outcome, `duplicate` when it came before.

    Raises `invalid_signature` or `malformed` before anything is stored. Any other error means that it was not
    applied, and that Stripe shall send it again.
    """
    secrets = resources.settings.stripe_webhook_secret
    if secrets and not signature_verifies(body, signature, secrets):
        raise ShopError("invalid_signature", "The Stripe-Signature header does not fit the body, or is too old.")
    payload = parse_event(body)
    cause.set(f"event {payload['id']}")

    async def work(tx: Connection, after: AfterCommit) -> str:
        # Of one that came before nothing comes: applied twice is the same as once.
        result = await apply_event(tx, after, resources, payload)
        event = (payload["id"], payload["type"], payload)
        recorded = await RECORD_EVENT.maybe(tx, *event, result.outcome, result.order_id, result.handled)
        return result.outcome if recorded else "duplicate"

    try:
        outcome = await transitions.run_transition(resources, work)
    except Exception:
        # It must not depend on Stripe's patience: the sweep tries it again too.
        with suppress(ShopError):
            await store_event(resources, payload)
        raise
    EVENTS.labels(outcome).inc()
    return outcome


def parse_event(body: bytes) -> dict[str, Any]:
    """An event from its JSON; raises `malformed` for what is none, or holds what cannot be stored."""
    try:
        payload = orjson.loads(body)
        event_id, event_type = payload["id"], payload["type"]
        if not (
            isinstance(payload["data"]["object"], dict) and 0 < len(event_id) <= 255 and 0 < len(event_type) <= 255
        ):
            raise ValueError
        if not (isinstance(event_id, str) and isinstance(event_type, str)) or (NUL in body and _NUL.search(body)):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ShopError("malformed", "The body is not a Stripe event.") from None
    return dict(payload)


async def store_event(resources: Resources, payload: dict[str, Any]) -> None:
    """Keep an event that is not there yet, for the sweep to apply."""
    await run_transaction(resources.pool, lambda tx: STORE_EVENT.run(tx, payload["id"], payload["type"], payload))


async def apply_event(
    tx: Connection, after: AfterCommit, resources: Resources, payload: dict[str, Any]
) -> EventOutcome:
    kind, data = payload["type"], payload["data"]["object"]
    own_account = resources.settings.stripe_account or None
    if any(payload.get(name) not in (None, own_account) for name in ("account", "context")):
        # A platform gets the events of the accounts connected to it: their money is not ours.
        return EventOutcome("not_ours")
    if bool(payload.get("livemode")) != resources.settings.live:
        return EventOutcome("livemode_mismatch")
    if kind in SESSION_EVENTS:
        try:
            found = Session.read(data)
        except StripeUnknown:
            return EventOutcome("unreadable", handled=False)
        order_id = settlement.order_id_of(found)
        if order_id is None:
            return EventOutcome("not_ours")
        failed = kind == "checkout.session.async_payment_failed"
        outcome = await settlement.apply_session(tx, after, order_id, found, failed=failed)
        return EventOutcome(outcome, order_id, outcome not in ("mismatch", "order_not_found"))
    if kind.startswith("refund.") or kind == "charge.refunded":
        order_id = await _order_paid_by(tx, data)
        if order_id is not None:
            refunds.settle_later(after, order_id)
        return EventOutcome("refund_to_settle", order_id, handled=False)
    if kind.startswith("charge.dispute."):
        order_id = await _order_paid_by(tx, data)
        if order_id is not None:
            await transitions.add_note_once(tx, await transitions.lock(tx, order_id), f"Stripe reports {kind}")
        return EventOutcome("recorded", order_id)
    return EventOutcome("ignored")


async def process_stored_event(resources: Resources, event_id: str) -> str:
    """Apply a stored event again, and ask Stripe about one that cannot be applied as it came. Its outcome.

    Applying twice is the same as once. What was left to this job is decided by what Stripe says now, not by the
    body. Raises StripeUnknown or `payment_unavailable` while it says nothing; 404 for an id that was never stored.
    """
    async with connection(resources.pool) as reader:
        event = await READ_EVENT.maybe(reader, event_id)
    if event is None:
        raise not_found("event")
    cause.set(f"event {event_id}")

    async def apply(tx: Connection, after: AfterCommit) -> EventOutcome:
        result = await apply_event(tx, after, resources, event.payload)
        await FINISH_EVENT.run(tx, event_id, result.outcome, result.order_id, result.handled)
        return result

    result = await transitions.run_transition(resources, apply)
    if result.handled:
        EVENTS.labels(result.outcome).inc()
        return result.outcome
    data = event.payload["data"]["object"]
    if event.type in SESSION_EVENTS:
        result = await _ask_about_session(resources, str(data.get("id")), result)
    else:
        result = await _ask_about_refund(resources, event_id, data)
    await run_transaction(
        resources.pool, lambda tx: FINISH_EVENT.run(tx, event_id, result.outcome, result.order_id, True)
    )
    EVENTS.labels(result.outcome).inc()
    return result.outcome


async def replay_event(resources: Resources, event_id: str) -> str:
    """`process_stored_event`, for an event that may never have reached us: it is fetched
    from Stripe and stored first.
    """
    async with connection(resources.pool) as reader:
        stored = await READ_EVENT.maybe(reader, event_id)
    if stored is None:
        try:
            payload = await resources.stripe.retrieve_event(event_id)
        except StripeRefused:
            raise not_found("event") from None
        await store_event(resources, payload)
    return await process_stored_event(resources, event_id)


async def _ask_about_session(resources: Resources, stripe_session_id: str, result: EventOutcome) -> EventOutcome:
    try:
        found, failed = await settlement.fetch_session(resources, stripe_session_id, result.order_id)
    except StripeRefused:
        return EventOutcome(result.outcome)
    order_id = settlement.order_id_of(found)
    if order_id is None:
        return EventOutcome("not_ours")
    return EventOutcome(await settlement.settle_session(resources, order_id, found, failed=failed), order_id)


async def _ask_about_refund(resources: Resources, event_id: str, data: dict[str, Any]) -> EventOutcome:
    intent_id = data.get("payment_intent")
    if not isinstance(intent_id, str):
        return EventOutcome("not_ours")
    async with connection(resources.pool) as reader:
        order_id = await refunds.find_order(reader, intent_id)
    if order_id is None:
        # Refunded before we heard of the payment: hear of it first.
        try:
            intent = await resources.stripe.retrieve_payment_intent(intent_id)
        except StripeRefused:
            return EventOutcome("not_ours")
        order_id = settlement.uuid_or_none(intent.order_id)
        if order_id is None:
            return EventOutcome("not_ours")
        # Before the order is paid: until the refund is looked into, it is not fulfilled.
        marked = (event_id, "refund_to_settle", order_id, False)
        await run_transaction(resources.pool, lambda tx: FINISH_EVENT.run(tx, *marked))
        async for found in resources.stripe.sessions_since(0, order_id=order_id, payment_intent=intent_id):
            await settlement.settle_session(resources, order_id, found)
    try:
        await refunds.settle(resources, order_id)
    except ShopError as error:
        if error.code != "not_found":
            raise
        # Another shop's order, on the same Stripe account.
        return EventOutcome("order_not_found", order_id)
    return EventOutcome("applied", order_id)


async def _order_paid_by(tx: Connection, data: dict[str, Any]) -> UUID | None:
    intent = data.get("payment_intent")
    return await refunds.find_order(tx, intent) if isinstance(intent, str) else None
