"""What Stripe tells of a payment, and what that makes of an order."""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError, not_found
from service.infra.db import Connection, connection, transact
from service.infra.logs import cause
from service.infra.metrics import EVENTS
from service.infra.parts import Parts
from service.infra.statements import NoRow, Statement
from service.infra.stripe import Session, StripeRefused, StripeUnknown, signature_verifies
from service.shop import orders, refunds, session
from service.shop.orders import AfterCommit, Locked

# A payment on its way may take days; the sweep asks for it this often, in case its event is lost.
RECHECK_SECONDS = 600.0
SESSION_EXPIRED = "payment session expired"
MISMATCH = "Stripe has a payment of another amount or currency for it"

logger = logging.getLogger(__name__)


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


@dataclass(slots=True)
class Kept:
    """The order whose late money was kept for its refund."""

    order_id: UUID


@dataclass(slots=True)
class Live:
    """Whether the cart has a live order."""

    live: bool


RECORD_EVENT = Statement("payment/record_event", EventId)
STORE_EVENT = Statement("payment/store_event", NoRow)
FINISH_EVENT = Statement("payment/finish_event", NoRow)
READ_EVENT = Statement("payment/read_event", Event)
MARK_PROCESSING = Statement("orders/mark_processing", orders.OrderId)
CART_HAS_LIVE_ORDER = Statement("payment/cart_has_live_order", Live)
RETAKE_STOCK = Statement("payment/retake_stock", orders.MovedUnits)
KEEP_LATE_MONEY = Statement("payment/keep_late_money", Kept)

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
class Verdict:
    """What became of an event; `handled` is False while a job has to ask Stripe about it."""

    outcome: str
    order_id: UUID | None = None
    handled: bool = True


async def receive(parts: Parts, body: bytes, signature: str | None) -> str:
    """Verify, store and apply one webhook, in one transaction; its outcome, `duplicate` when it came before.

    Raises `invalid_signature` or `malformed` before anything is stored. Any other error means that it was not
    applied, and that Stripe shall send it again.
    """
    secrets = parts.settings.stripe_webhook_secret
    if secrets and not signature_verifies(body, signature, secrets):
        raise ShopError("invalid_signature", "The Stripe-Signature header does not fit the body, or is too old.")
    payload = parse(body)
    cause.set(f"event {payload['id']}")

    async def work(tx: Connection, after: AfterCommit) -> str:
        # Of one that came before nothing comes: applied twice is the same as once.
        verdict = await _judge(tx, after, parts, payload)
        event = (payload["id"], payload["type"], payload)
        recorded = await RECORD_EVENT.maybe(tx, *event, verdict.outcome, verdict.order_id, verdict.handled)
        return verdict.outcome if recorded else "duplicate"

    try:
        outcome = await orders.transition(parts, work)
    except Exception:
        # It must not depend on Stripe's patience: the sweep tries it again too.
        with suppress(ShopError):
            await store(parts, payload)
        raise
    EVENTS.labels(outcome).inc()
    return outcome


def parse(body: bytes) -> dict[str, Any]:
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


async def store(parts: Parts, payload: dict[str, Any]) -> None:
    """Keep an event that is not there yet, for the sweep to apply."""
    await transact(parts.pool, lambda tx: STORE_EVENT.run(tx, payload["id"], payload["type"], payload))


async def _judge(tx: Connection, after: AfterCommit, parts: Parts, payload: dict[str, Any]) -> Verdict:
    kind, data = payload["type"], payload["data"]["object"]
    own_account = parts.settings.stripe_account or None
    if any(payload.get(name) not in (None, own_account) for name in ("account", "context")):
        # A platform gets the events of the accounts connected to it: their money is not ours.
        return Verdict("not_ours")
    if bool(payload.get("livemode")) != parts.settings.live:
        return Verdict("livemode_mismatch")
    if kind in SESSION_EVENTS:
        try:
            found = Session.read(data)
        except StripeUnknown:
            return Verdict("unreadable", handled=False)
        order_id = order_id_of(found)
        if order_id is None:
            return Verdict("not_ours")
        failed = kind == "checkout.session.async_payment_failed"
        outcome = await settle(tx, after, order_id, found, failed=failed)
        return Verdict(outcome, order_id, outcome not in ("mismatch", "order_not_found"))
    if kind.startswith("refund.") or kind == "charge.refunded":
        order_id = await _order_paid_by(tx, data)
        if order_id is not None:
            refunds.settle_later(after, order_id)
        return Verdict("refund_to_settle", order_id, handled=False)
    if kind.startswith("charge.dispute."):
        order_id = await _order_paid_by(tx, data)
        if order_id is not None:
            await orders.note_once(tx, await orders.lock(tx, order_id), f"Stripe reports {kind}")
        return Verdict("recorded", order_id)
    return Verdict("ignored")


async def settle(tx: Connection, after: AfterCommit, order_id: UUID, found: Session, *, failed: bool = False) -> str:
    """Make of an order what its session says, whoever says it: an event, expiry, checkout or reconcile.

    `failed` when a complete session's payment has failed for good. Answers `applied`, `unchanged`, `order_not_found`,
    `late_money_refunded`, `paid_twice` or `mismatch`: the payment has another amount or currency, or belongs to another
    order, or cannot be named; `settle_retrieved` decides on it.
    """
    try:
        order = await orders.lock(tx, order_id)
    except ShopError:
        return "order_not_found"
    if found.payment_status == "paid":
        return await _settle_paid(tx, after, order, found)
    if order.status != "PENDING_PAYMENT" or order.stripe_session_id not in (None, found.id):
        return "unchanged"
    if failed:
        await orders.cancel(tx, after, [order], "FAILED", "payment failed")
    elif found.status == "expired":
        ended = "FAILED" if order.payment_status == "PROCESSING" else "EXPIRED"
        await orders.cancel(tx, after, [order], ended, SESSION_EXPIRED)
    elif found.status != "complete" or not await MARK_PROCESSING.maybe(
        tx, order_id, found.id, cause.get(), RECHECK_SECONDS
    ):
        return "unchanged"
    return "applied"


async def _settle_paid(tx: Connection, after: AfterCommit, order: Locked, found: Session) -> str:
    intent = found.payment_intent
    if order.captured and (intent is None or order.stripe_payment_intent_id in (None, intent)):
        return "unchanged"
    if intent is not None and await refunds.find_order(tx, intent) not in (None, order.id):
        # It has paid another order already.
        return "mismatch"
    if (found.amount_total, found.currency) != (order.total_minor, order.currency):
        return "mismatch"
    if order.captured and intent is not None:
        # Two sessions of one order were paid. We never leave two open, but money that came is answered for.
        if await refunds.add_late_money(tx, after, order, intent, order.total_minor):
            await orders.note(tx, order, "paid a second time: the second payment is refunded")
        return "paid_twice"
    if order.status == "PENDING_PAYMENT":
        await orders.mark_paid(tx, after, order, order.hold, found.id, intent, found.email)
        return "applied"
    return await take_late_money(tx, after, order, found)


async def take_late_money(tx: Connection, after: AfterCommit, order: Locked, found: Session) -> str:
    """Money for a cancelled order: its stock is taken again where all of it is there, else it is refunded."""
    hold = order.hold + 1
    if not (await CART_HAS_LIVE_ORDER.one(tx, order.cart_id)).live:
        taken = await RETAKE_STOCK.all(tx, order.id, hold)
        if taken:
            await orders.mark_paid(tx, after, order, hold, found.id, found.payment_intent, found.email)
            if any(units.stock == 0 for units in taken):
                after.add(lambda parts: parts.cache.invalidate())
            return "applied"
    if found.payment_intent is None:
        return "mismatch"
    if await KEEP_LATE_MONEY.maybe(tx, order.id, found.id, found.payment_intent, None, None) is None:
        return "unchanged"
    await refunds.add_late_money(tx, after, order, found.payment_intent, order.total_minor)
    await orders.note(tx, order, "paid after it was cancelled: the payment is refunded")
    return "late_money_refunded"


async def settle_retrieved(parts: Parts, order_id: UUID, found: Session, *, failed: bool = False) -> str:
    """`settle`, by a session that Stripe was asked for; a payment that does not match the order is given back.

    Answers `unmatched_refunded` then, and `mismatch` only where nothing can be given back. Raises
    `payment_unavailable` or `payment_misconfigured` while Stripe does not say what was captured.
    """
    outcome = await orders.transition(parts, partial(settle, order_id=order_id, found=found, failed=failed))
    if outcome != "mismatch":
        return outcome
    try:
        return await _refund_unmatched(parts, order_id, found)
    except StripeUnknown as unknown:
        raise session.payment_unavailable(unknown) from unknown


async def _refund_unmatched(parts: Parts, order_id: UUID, found: Session) -> str:
    """Cancel the order that a payment does not match, and keep what it captured for its refund; the outcome.

    Raises StripeUnknown.
    """
    intent = None
    if found.payment_intent is not None:
        with suppress(StripeRefused):
            intent = await parts.stripe.retrieve_payment_intent(found.payment_intent, order_id=order_id)

    async def work(tx: Connection, after: AfterCommit) -> str:
        order = await orders.lock(tx, order_id)
        if intent is None or not intent.received_minor or intent.order_id not in (None, str(order_id)):
            return "mismatch"
        if (intent.received_minor, intent.currency) == (order.total_minor, order.currency):
            # The money is what the order asked for, whatever the session's total is.
            fitting = replace(found, amount_total=order.total_minor, currency=order.currency)
            return await settle(tx, after, order_id, fitting)
        if await refunds.find_order(tx, intent.id) not in (None, order_id):
            return "mismatch"
        if not await refunds.add_unmatched(tx, after, order, intent.id, intent.received_minor, intent.currency):
            return "unchanged"
        if not order.captured:
            if order.status == "PENDING_PAYMENT":
                ended = "FAILED" if order.payment_status == "PROCESSING" else "EXPIRED"
                await orders.cancel(tx, after, [order], ended, MISMATCH)
            await KEEP_LATE_MONEY.one(tx, order.id, found.id, intent.id, intent.received_minor, intent.currency)
        return "unmatched_refunded"

    outcome = await orders.transition(parts, work)
    if outcome in ("mismatch", "unmatched_refunded"):
        captured = {"captured_minor": intent.received_minor, "currency": intent.currency} if intent else {}
        names = {"order_id": str(order_id), "stripe_session_id": found.id, "payment_intent": found.payment_intent}
        logger.warning("payment does not match its order", extra={**names, **captured, "outcome": outcome})
    return outcome


async def handle(parts: Parts, event_id: str) -> str:
    """Apply a stored event again, and ask Stripe about one that cannot be applied as it came. Its outcome.

    Applying twice is the same as once. What was left to this job is decided by what Stripe says now, not by the
    body. Raises StripeUnknown or `payment_unavailable` while it says nothing; 404 for an id that was never stored.
    """
    async with connection(parts.pool) as reader:
        event = await READ_EVENT.maybe(reader, event_id)
    if event is None:
        raise not_found("event")
    cause.set(f"event {event_id}")

    async def apply(tx: Connection, after: AfterCommit) -> Verdict:
        verdict = await _judge(tx, after, parts, event.payload)
        await FINISH_EVENT.run(tx, event_id, verdict.outcome, verdict.order_id, verdict.handled)
        return verdict

    verdict = await orders.transition(parts, apply)
    if verdict.handled:
        EVENTS.labels(verdict.outcome).inc()
        return verdict.outcome
    data = event.payload["data"]["object"]
    if event.type in SESSION_EVENTS:
        verdict = await _ask_about_session(parts, str(data.get("id")), verdict)
    else:
        verdict = await _ask_about_refund(parts, event_id, data)
    await transact(parts.pool, lambda tx: FINISH_EVENT.run(tx, event_id, verdict.outcome, verdict.order_id, True))
    EVENTS.labels(verdict.outcome).inc()
    return verdict.outcome


async def replay(parts: Parts, event_id: str) -> str:
    """`handle`, for an event that may never have reached us: then it is fetched from Stripe and stored first."""
    async with connection(parts.pool) as reader:
        stored = await READ_EVENT.maybe(reader, event_id)
    if stored is None:
        try:
            payload = await parts.stripe.retrieve_event(event_id)
        except StripeRefused:
            raise not_found("event") from None
        await store(parts, payload)
    return await handle(parts, event_id)


async def ask(parts: Parts, stripe_session_id: str, order_id: UUID | None) -> tuple[Session, bool]:
    """A session as Stripe has it now, and whether its payment has failed for good."""
    found = await parts.stripe.retrieve_session(stripe_session_id, order_id=order_id)
    if found.status != "complete" or found.payment_status == "paid" or found.payment_intent is None:
        return found, False
    intent = await parts.stripe.retrieve_payment_intent(found.payment_intent, order_id=order_id)
    return found, intent.status in ("requires_payment_method", "canceled")


async def _ask_about_session(parts: Parts, stripe_session_id: str, verdict: Verdict) -> Verdict:
    try:
        found, failed = await ask(parts, stripe_session_id, verdict.order_id)
    except StripeRefused:
        return Verdict(verdict.outcome)
    order_id = order_id_of(found)
    if order_id is None:
        return Verdict("not_ours")
    return Verdict(await settle_retrieved(parts, order_id, found, failed=failed), order_id)


async def _ask_about_refund(parts: Parts, event_id: str, data: dict[str, Any]) -> Verdict:
    intent_id = data.get("payment_intent")
    if not isinstance(intent_id, str):
        return Verdict("not_ours")
    async with connection(parts.pool) as reader:
        order_id = await refunds.find_order(reader, intent_id)
    if order_id is None:
        # Refunded before we heard of the payment: hear of it first.
        try:
            intent = await parts.stripe.retrieve_payment_intent(intent_id)
        except StripeRefused:
            return Verdict("not_ours")
        order_id = _uuid(intent.order_id)
        if order_id is None:
            return Verdict("not_ours")
        # Before the order is paid: until the refund is looked into, it is not fulfilled.
        marked = (event_id, "refund_to_settle", order_id, False)
        await transact(parts.pool, lambda tx: FINISH_EVENT.run(tx, *marked))
        async for found in parts.stripe.sessions_since(0, order_id=order_id, payment_intent=intent_id):
            await settle_retrieved(parts, order_id, found)
    try:
        await refunds.settle(parts, order_id)
    except ShopError as error:
        if error.code != "not_found":
            raise
        # Another shop's order, on the same Stripe account.
        return Verdict("order_not_found", order_id)
    return Verdict("applied", order_id)


async def _order_paid_by(tx: Connection, data: dict[str, Any]) -> UUID | None:
    intent = data.get("payment_intent")
    return await refunds.find_order(tx, intent) if isinstance(intent, str) else None


def order_id_of(found: Session) -> UUID | None:
    """The order that a session names as its own, if any."""
    return _uuid(found.order_id)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
