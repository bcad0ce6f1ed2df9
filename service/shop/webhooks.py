"""The inbox for Stripe's events: each is verified, stored and applied, and can be applied again later.

An event that does not settle its order by itself stays stored as unhandled. `process_stored_event`, which the sweep
runs, then asks Stripe for the current state.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError, not_found
from service.infra.db import Connection, connection
from service.infra.logs import add_subject, begin_event, log_soon
from service.infra.metrics import EVENTS
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import Dispute, Session, StripeRefused, StripeUnknown, object_id, signature_verifies
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import disputes, personal_data, refunds, settlement, stuck, transitions
from service.shop.transitions import AfterCommit


@dataclass(slots=True)
class Event:
    """A stored event and its outcome."""

    id: str
    type: str
    payload: dict[str, Any]
    outcome: str | None
    handled: bool


RECORD_EVENT = statement("webhooks/record_event", str)
STORE_EVENT = statement("webhooks/store_event")
FINISH_EVENT = statement("webhooks/finish_event")
READ_EVENT = statement("webhooks/read_event", Event)

logger = logging.getLogger(__name__)

SESSION_EVENTS = {
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
}
# All event types that are handled here. Stripe's list of events is filtered by them.
EVENT_TYPES = (
    *sorted(SESSION_EVENTS),
    "charge.refunded",
    # Below the API version 2024-10-28 this is the only event about a refund that fails.
    "charge.refund.updated",
    *(f"refund.{what}" for what in ("created", "failed", "updated")),
    *(f"{disputes.PREFIX}{what}" for what in ("closed", "created", "funds_reinstated", "funds_withdrawn", "updated")),
)


THIN = "A thin event does not contain its object: create a webhook endpoint whose payload style is snapshot."
# An escaped NUL, which jsonb refuses. After an escaped backslash the same letters are harmless. Few bodies contain the
# letters at all, and the search for them takes a fiftieth of the time of the expression.
NUL = rb"\u0000"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(slots=True)
class EventOutcome:
    """The outcome of an event; `handled` is False while a job has to ask Stripe about it."""

    outcome: str
    order_id: UUID | None = None
    handled: bool = True


async def receive_webhook(resources: Resources, body: bytes, signature: str | None) -> str:
    """Verify, store and apply one webhook in one transaction. Returns its outcome, or `duplicate` for a repeated one.

    Raises `invalid_signature` or `malformed` before anything is stored. After any other error the event is not
    applied, and Stripe must send it again.
    """
    secrets = resources.settings.stripe_webhook_secret
    if secrets and not signature_verifies(body, signature, secrets):
        raise ShopError("invalid_signature", "The Stripe-Signature header does not match the body, or is too old.")
    payload = parse_event(body)
    begin_event(payload["id"])
    reduced = personal_data.reduced_event(payload)

    async def work(tx: Connection, after: AfterCommit) -> str:
        # A repeated event is applied again, which changes nothing.
        result = await apply_event(tx, after, resources.settings, payload)
        _name_order(result)
        recorded = await RECORD_EVENT.one_or_none(
            tx,
            event_id=payload["id"],
            event_type=payload["type"],
            payload=payload,
            reduced_payload=reduced,
            outcome=result.outcome,
            order_id=result.order_id,
            named_order_id=result.order_id or _order_named_by(payload),
            handled=result.handled,
        )
        return result.outcome if recorded else "duplicate"

    try:
        outcome = await transitions.run_transition(resources, work)
    except Exception:
        # Store it for the sweep, because Stripe stops sending an event after some days.
        with suppress(ShopError):
            await store_event(resources, payload)
        raise
    _report(payload["type"], outcome)
    return outcome


def parse_event(body: bytes) -> dict[str, Any]:
    """An event from its JSON; raises `malformed` when it is not an event, or cannot be stored."""
    try:
        payload = orjson.loads(body)
        if str(payload.get("object")).startswith("v2."):
            raise ShopError("malformed", THIN)
        event_id, event_type = payload["id"], payload["type"]
        if not (
            isinstance(payload["data"]["object"], dict) and 0 < len(event_id) <= 255 and 0 < len(event_type) <= 255
        ):
            raise ValueError
        if not (isinstance(event_id, str) and isinstance(event_type, str)) or (NUL in body and _NUL.search(body)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ShopError("malformed", "The body is not a Stripe event.") from None
    return dict(payload)


async def store_event(resources: Resources, payload: dict[str, Any]) -> None:
    """Store an event for the sweep to apply, unless it is stored already."""

    async def store(tx: Connection) -> None:
        await STORE_EVENT.run(
            tx,
            event_id=payload["id"],
            event_type=payload["type"],
            payload=payload,
            reduced_payload=personal_data.reduced_event(payload),
            named_order_id=_order_named_by(payload) or await _order_paid_by(tx, payload["data"]["object"]),
        )

    await run_transaction(resources.pool, store)


async def apply_event(tx: Connection, after: AfterCommit, settings: Settings, payload: dict[str, Any]) -> EventOutcome:
    """Apply an event by its body alone, and return its outcome. Applying it again changes nothing."""
    kind, data = payload["type"], payload["data"]["object"]
    own_account = settings.stripe_account or None
    if any(payload.get(name) not in (None, own_account) for name in ("account", "context")):
        # A platform receives the events of its connected accounts too; their payments are not ours.
        return EventOutcome("not_ours")
    if bool(payload.get("livemode")) != settings.live:
        return EventOutcome("livemode_mismatch")
    if kind in SESSION_EVENTS:
        try:
            session = Session.read(data)
        except StripeUnknown:
            return EventOutcome("unreadable", handled=False)
        order_id = settlement.order_id_of(session)
        if order_id is None:
            return EventOutcome("not_ours")
        failed = kind == "checkout.session.async_payment_failed"
        outcome = await settlement.apply_session(tx, after, order_id, session, failed=failed)
        return EventOutcome(outcome, order_id, outcome not in ("mismatch", "order_not_found"))
    if kind.startswith("refund.") or kind in ("charge.refunded", "charge.refund.updated"):
        order_id = await _order_paid_by(tx, data)
        if order_id is not None:
            refunds.settle_later(after, order_id)
        return EventOutcome("refund_to_settle", order_id, handled=False)
    if kind.startswith(disputes.PREFIX):
        return await _record_dispute(tx, after, payload)
    return EventOutcome("ignored")


async def _record_dispute(tx: Connection, after: AfterCommit, payload: dict[str, Any]) -> EventOutcome:
    """Record a dispute; while its payment is unknown, a job asks Stripe for its order."""
    try:
        dispute = Dispute.read(payload["data"]["object"])
    except StripeUnknown:
        return EventOutcome("unreadable", handled=False)
    if dispute.payment_intent is None:
        # All our payments have one.
        return EventOutcome("not_ours")
    order_id = await refunds.find_order(tx, dispute.payment_intent)
    await disputes.record(tx, after, payload, dispute, order_id=order_id)
    return EventOutcome("recorded", order_id, handled=order_id is not None)


async def process_stored_event(resources: Resources, event_id: str) -> str:
    """Apply a stored event again, and ask Stripe where its body does not settle it. Returns its outcome.

    If Stripe is asked, its answer decides, not the body. Raises StripeUnknown or `payment_unavailable` without an
    answer, and 404 for an event that is not stored.
    """
    async with connection(resources.pool) as reader:
        event = await READ_EVENT.one_or_none(reader, event_id=event_id)
    if event is None:
        raise not_found("event")
    begin_event(event_id)

    async def apply(tx: Connection, after: AfterCommit) -> EventOutcome:
        result = await apply_event(tx, after, resources.settings, event.payload)
        _name_order(result)
        await _finish(tx, event, result)
        return result

    result = await transitions.run_transition(resources, apply)
    if not result.handled:
        if event.type in SESSION_EVENTS:
            result = await _settle_by_stripe(resources, str(event.payload["data"]["object"].get("id")), result)
        else:
            result = await _settle_charge(resources, event, result)
        _name_order(result)
        await transitions.run_transition(resources, partial(_finish_unhandled, event=event, result=result))
    _report(event.type, result.outcome)
    return result.outcome


def _name_order(result: EventOutcome) -> None:
    """From here on, log lines name the event's order, too."""
    if result.order_id is not None:
        add_subject(order_id=result.order_id)


def _report(event_type: str, outcome: str) -> None:
    EVENTS.labels(outcome).inc()
    log_soon(logger, "event processed", type=event_type, outcome=outcome)


async def _finish_unhandled(tx: Connection, after: AfterCommit, *, event: Event, result: EventOutcome) -> None:
    await _finish(tx, event, result)
    await stuck.end(tx, "event_unhandled", [event.id])
    if result.outcome == "unreadable":
        reason = f"{event.type} has an unknown form, and Stripe has nothing to compare it with"
        await stuck.add(tx, after, "event_unhandled", event.id, order_id=result.order_id, reason=reason)


async def replay_event(resources: Resources, event_id: str) -> str:
    """`process_stored_event`, after fetching an event from Stripe that was never received."""
    async with connection(resources.pool) as reader:
        stored = await READ_EVENT.one_or_none(reader, event_id=event_id)
    if stored is None:
        try:
            payload = await resources.stripe.retrieve_event(event_id)
        except StripeRefused:
            raise not_found("event") from None
        await store_event(resources, payload)
    return await process_stored_event(resources, event_id)


async def _settle_by_stripe(resources: Resources, stripe_session_id: str, result: EventOutcome) -> EventOutcome:
    try:
        session, failed = await settlement.fetch_session(resources, stripe_session_id, result.order_id)
    except StripeRefused:
        return EventOutcome(result.outcome)
    order_id = settlement.order_id_of(session)
    if order_id is None:
        return EventOutcome("not_ours")
    return EventOutcome(await settlement.settle_session(resources, order_id, session, failed=failed), order_id)


async def _settle_charge(resources: Resources, event: Event, result: EventOutcome) -> EventOutcome:
    """Apply an event about a refund or dispute whose order it does not show; the payment is settled first."""
    data = event.payload["data"]["object"]
    intent_id = object_id(data.get("payment_intent"))
    if intent_id is None or result.outcome == "unreadable":
        return EventOutcome("not_ours" if intent_id is None else "unreadable")
    async with connection(resources.pool) as reader:
        order_id = await refunds.find_order(reader, intent_id)
    if order_id is None:
        order_id = await _settle_payment_of(resources, event, intent_id, result)
    try:
        if event.type.startswith(disputes.PREFIX):
            return await transitions.run_transition(resources, partial(_link_dispute, event=event, order_id=order_id))
        if order_id is None:
            return EventOutcome("not_ours")
        await refunds.settle(resources, order_id)
    except ShopError as error:
        if error.code != "not_found":
            raise
        # The order belongs to another shop on the same Stripe account, or was placed after the backup in use.
        return EventOutcome("order_not_found", order_id)
    return EventOutcome("applied", order_id)


async def _settle_payment_of(resources: Resources, event: Event, intent_id: str, result: EventOutcome) -> UUID | None:
    """Settle a payment that was not known when its refund or dispute was reported. Its order; None if not ours."""
    try:
        intent = await resources.stripe.retrieve_payment_intent(intent_id)
    except StripeRefused:
        return None
    order_id = settlement.uuid_or_none(intent.order_id)
    if order_id is None:
        return None
    # An order with an unhandled event is not fulfilled, so the event gets its order before that is paid.
    unhandled = EventOutcome(result.outcome, order_id, handled=False)
    await run_transaction(resources.pool, lambda tx: _finish(tx, event, unhandled))
    async for session in resources.stripe.sessions_since(0, order_id=order_id, payment_intent=intent_id):
        await settlement.settle_session(resources, order_id, session)
    return order_id


async def _link_dispute(tx: Connection, after: AfterCommit, *, event: Event, order_id: UUID | None) -> EventOutcome:
    dispute = Dispute.read(event.payload["data"]["object"])
    if order_id is None:
        await disputes.forget(tx, dispute)
        return EventOutcome("not_ours")
    await disputes.record(tx, after, event.payload, dispute, order_id=order_id)
    return EventOutcome("recorded", order_id)


async def _finish(tx: Connection, event: Event, result: EventOutcome) -> None:
    await FINISH_EVENT.run(
        tx,
        event_id=event.id,
        outcome=result.outcome,
        order_id=result.order_id,
        handled=result.handled,
        reduced_payload=personal_data.reduced_event(event.payload),
    )


def _order_named_by(payload: dict[str, Any]) -> UUID | None:
    """The order in an event's metadata, even if the event is not applied to it."""
    metadata = payload["data"]["object"].get("metadata")
    order_id = metadata.get("order_id") if isinstance(metadata, dict) else None
    return settlement.uuid_or_none(order_id) if isinstance(order_id, str) else None


async def _order_paid_by(tx: Connection, data: dict[str, Any]) -> UUID | None:
    intent = object_id(data.get("payment_intent"))
    return None if intent is None else await refunds.find_order(tx, intent)
