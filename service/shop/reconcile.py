"""Stripe's lists against our tables: what lost webhooks left behind is settled."""

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
from service.infra.statements import NoRow, Statement
from service.infra.stripe import CLOCK_SKEW_SECONDS, Session
from service.infra.transactions import run_transaction
from service.shop import settlement, webhooks

PAGE = 100
# Besides their life, sessions are looked at for as long as a worker may have been down.
OVERLAP_SECONDS = 3600

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Unsettled:
    """An order whose payment is not captured."""

    order_id: UUID


@dataclass(slots=True)
class Position:
    """Up to when a list has been gone through, and when that was asked."""

    reached_at: datetime
    asked_at: datetime


@dataclass(slots=True)
class MissedEvent:
    """An event that Stripe has and we do not."""

    id: str


FIND_UNSETTLED = Statement("reconcile/find_unsettled", Unsettled)
READ_POSITION = Statement("reconcile/read_position", Position)
MOVE_POSITION = Statement("reconcile/move_position", NoRow)
FIND_MISSED_EVENTS = Statement("reconcile/find_missed_events", MissedEvent)


async def reconcile(resources: Resources) -> int:
    """Go through Stripe's lists; the number of sessions that were settled.

    Events first: a refund of a payment that we learn of only now is known then, and the order not fulfilled before it.
    Raises StripeUnknown or StripeRefused; the next run begins anew.
    """
    try:
        await fetch_events(resources)
    finally:
        # A key that may not read events may read sessions.
        settled = await settle_sessions(resources)
    return settled


async def settle_sessions(resources: Resources) -> int:
    """Settle every session of the last hours that ended at Stripe and not here; how many there were."""
    cause.set("job reconcile")
    since = int(time.time()) - resources.settings.session_seconds - OVERLAP_SECONDS
    settled = 0
    page: dict[UUID, Session] = {}
    async for found in resources.stripe.sessions_since(since):
        order_id = settlement.order_id_of(found)
        if order_id is not None and found.status != "open":
            # Should there be two of one order, the paid one counts.
            page[order_id] = found if found.payment_status == "paid" else page.get(order_id, found)
        if len(page) == PAGE:
            settled += await _settle(resources, page)
            page = {}
    return settled + await _settle(resources, page)


async def _settle(resources: Resources, page: dict[UUID, Session]) -> int:
    async with connection(resources.pool) as reader:
        behind = await FIND_UNSETTLED.all(reader, list(page))
    changed = 0
    for unsettled in behind:
        order_id, found = unsettled.order_id, page[unsettled.order_id]
        try:
            outcome = await settlement.settle_session(resources, order_id, found)
        # One that fails keeps none of the others waiting.
        except ShopError as error:
            logger.warning("put off", extra={"order_id": str(order_id), "error": str(error)})
            continue
        except Exception:
            logger.exception("not reconciled", extra={"order_id": str(order_id)})
            continue
        changed += outcome != "unchanged"
    return changed


async def fetch_events(resources: Resources) -> int:
    """Store every event that Stripe has made since the last run and that never came; how many there were.

    They tell what no session of the last hours does: money that took days, refunds made in the dashboard. The sweep
    applies them. Stripe keeps events for 30 days, so that long all workers may be down.
    """
    cause.set("job reconcile")
    async with connection(resources.pool) as reader:
        position = await READ_POSITION.one(reader)
    since = int(position.reached_at.timestamp()) - CLOCK_SKEW_SECONDS
    stored = 0
    page: dict[str, dict[str, Any]] = {}
    async for found in resources.stripe.events_since(since, webhooks.EVENT_TYPES):
        page[str(found.get("id"))] = found
        if len(page) == PAGE:
            stored += await _store_missed(resources, page)
            page = {}
    stored += await _store_missed(resources, page)
    await run_transaction(resources.pool, lambda tx: MOVE_POSITION.run(tx, position.asked_at))
    return stored


async def _store_missed(resources: Resources, page: dict[str, dict[str, Any]]) -> int:
    async with connection(resources.pool) as reader:
        missed = await FIND_MISSED_EVENTS.all(reader, list(page))
    for event in missed:
        try:
            payload = webhooks.parse_event(orjson.dumps(page[event.id]))
        except ShopError:
            # It would be refused as a webhook too, and must not keep the others from being read.
            logger.error("an event that cannot be stored", extra={"event": event.id})
            continue
        await webhooks.store_event(resources, payload)
    return len(missed)
