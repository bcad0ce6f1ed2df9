"""Compares Stripe's lists of sessions and events with our tables, and settles what lost webhooks left open."""

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError
from service.infra.db import connection
from service.infra.logs import cause
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import CLOCK_SKEW_SECONDS, Session
from service.infra.transactions import run_transaction
from service.shop import settlement, webhooks

PAGE = 100
# Sessions are listed for their lifetime and this long, which covers a worker that was down.
OVERLAP_SECONDS = 3600

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Position:
    """The time up to which a list has been read, and the time of this query."""

    reached_at: datetime
    asked_at: datetime


FIND_UNSETTLED = statement("reconcile/find_unsettled", UUID)
READ_POSITION = statement("reconcile/read_position", Position)
MOVE_POSITION = statement("reconcile/move_position")
FIND_MISSED_EVENTS = statement("reconcile/find_missed_events", str)


async def reconcile(resources: Resources) -> int:
    """Read Stripe's lists, and return the number of sessions that were settled.

    Events come first, because they may report the refund of a payment that only the list of sessions shows. An order
    with an unhandled refund is not fulfilled. Raises StripeUnknown or StripeRefused; the next run starts again.
    """
    try:
        await fetch_events(resources)
    finally:
        # An API key may be allowed to list sessions but no events.
        settled = await settle_sessions(resources)
    return settled


async def settle_sessions(resources: Resources) -> int:
    """Settle every session of the last hours that has ended at Stripe but not here. Returns their number."""
    cause.set("job reconcile")
    since = int(time.time()) - resources.settings.session_seconds - OVERLAP_SECONDS
    settled = 0
    page: dict[UUID, Session] = {}
    async for session in resources.stripe.sessions_since(since):
        order_id = settlement.order_id_of(session)
        if order_id is not None and session.status != "open":
            # If an order has two sessions, the paid one counts.
            page[order_id] = session if session.payment_status == "paid" else page.get(order_id, session)
        if len(page) == PAGE:
            settled += await _settle(resources, page)
            page = {}
    return settled + await _settle(resources, page)


async def _settle(resources: Resources, page: dict[UUID, Session]) -> int:
    async with connection(resources.pool) as reader:
        unsettled = await FIND_UNSETTLED.all(reader, order_ids=list(page))
    changed = 0
    for order_id in unsettled:
        try:
            outcome = await settlement.settle_session(resources, order_id, page[order_id])
        # The other sessions are settled even if one fails.
        except ShopError as error:
            logger.warning("session deferred", extra={"order_id": str(order_id), "error": str(error)})
            continue
        except Exception:
            logger.exception("session failed and was deferred", extra={"order_id": str(order_id)})
            continue
        changed += outcome != "unchanged"
    return changed


async def fetch_events(resources: Resources) -> int:
    """Store every event that Stripe has created since the last run and that was not received. Returns their number.

    Events report what the sessions of the last hours do not: payments that took days, and refunds made in the
    dashboard. The sweep applies them. Stripe lists events for 30 days, so all workers may be down that long.
    """
    cause.set("job reconcile")
    async with connection(resources.pool) as reader:
        position = await READ_POSITION.one(reader)
    since = int(position.reached_at.timestamp()) - CLOCK_SKEW_SECONDS
    stored = 0
    page: dict[str, dict[str, Any]] = {}
    async for event in resources.stripe.events_since(since, webhooks.EVENT_TYPES):
        page[str(event.get("id"))] = event
        if len(page) == PAGE:
            stored += await _store_missed(resources, page)
            page = {}
    stored += await _store_missed(resources, page)
    await run_transaction(resources.pool, lambda tx: MOVE_POSITION.run(tx, reached_at=position.asked_at))
    return stored


async def _store_missed(resources: Resources, page: dict[str, dict[str, Any]]) -> int:
    async with connection(resources.pool) as reader:
        missed = await FIND_MISSED_EVENTS.all(reader, event_ids=list(page))
    for event_id in missed:
        try:
            payload = webhooks.parse_event(orjson.dumps(page[event_id]))
        except ShopError as error:
            # It would be refused as a webhook too. The other events are stored all the same.
            logger.error("event cannot be stored", extra={"event_id": event_id, "error": str(error)})
            continue
        await webhooks.store_event(resources, payload)
    return len(missed)
