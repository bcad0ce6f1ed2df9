"""Reads Stripe's lists of events and sessions, each from a position: settles what lost webhooks left open, and audits.

A list is read once, so that a run costs what is new. Events are read up to the newest one. A session is read when it
can no longer change, after its end; until then it is a pending order here, whose expiry asks Stripe.
"""

import logging
import random
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError
from service.infra.db import connection
from service.infra.logs import begin_job
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import CLOCK_SKEW_SECONDS, Session, StripeRefused, pause_between_pages
from service.infra.transactions import run_transaction
from service.shop import audit, settlement, webhooks

PAGE = 100
# A list is read in windows of this length, each with its position, so that a long outage is caught up step by step.
WINDOW_SECONDS = 3600
# Events may appear in Stripe's list a little later than their time says.
OVERLAP_SECONDS = 60
# Known differences with Stripe that a run checks again, each by one call.
RECHECKS = 20

logger = logging.getLogger(__name__)

FIND_UNSETTLED = statement("reconcile/find_unsettled", UUID)
FIND_OTHER_SESSIONS = statement("reconcile/find_other_sessions", str)
READ_POSITION = statement("reconcile/read_position", datetime)
MOVE_POSITION = statement("reconcile/move_position")
FIND_MISSED_EVENTS = statement("reconcile/find_missed_events", str)


async def reconcile(resources: Resources) -> int:
    """Read what is new in Stripe's lists, and return the number of sessions that were settled.

    Events come first, because they may report the refund of a payment that only the list of sessions shows. An order
    with an unhandled refund is not fulfilled. Raises StripeUnknown or StripeRefused; the next run goes on.
    """
    try:
        await fetch_events(resources)
    finally:
        # An API key may be allowed to list sessions but no events.
        settled = await settle_sessions(resources)
    return settled


async def _read_position(resources: Resources, name: str) -> int:
    """Up to which Unix time a list was read."""
    async with connection(resources.pool) as reader:
        return int((await READ_POSITION.one(reader, list=name)).timestamp())


async def _move_position(resources: Resources, name: str, reached: int) -> None:
    reached_at = datetime.fromtimestamp(reached, UTC)
    await run_transaction(resources.pool, lambda tx: MOVE_POSITION.run(tx, list=name, reached_at=reached_at))


# Sessions


async def settle_sessions(resources: Resources) -> int:
    """Settle the sessions that have ended since the last run, and compare them with our payments.

    Returns the number of sessions settled.
    """
    begin_job("reconcile")
    # From its end a session is complete or expired. Only a payment that takes days still changes; events report it.
    end = int(time.time()) - resources.settings.session_seconds - CLOCK_SKEW_SECONDS
    since = await _read_position(resources, "sessions")
    settled = 0
    while since < end:
        until = min(since + WINDOW_SECONDS, end)
        page: list[Session] = []
        async for session in resources.stripe.sessions_since(since, until=until):
            page.append(session)
            if len(page) == PAGE:
                settled += await _settle(resources, page)
                page = []
        settled += await _settle(resources, page)
        await _move_position(resources, "sessions", until)
        since = until
        await pause_between_pages()
    settled += await _check_known(resources)
    await audit.record_pass(resources.pool, audit.STRIPE_RULE, datetime.now(UTC), full=False)
    return settled


async def _settle(resources: Resources, sessions: list[Session]) -> int:
    """Settle the orders of these sessions, as far as they are not captured. Returns how many changed."""
    by_order: dict[UUID, Session] = {}
    for session in sessions:
        order_id = settlement.order_id_of(session)
        if order_id is not None and session.status != "open":
            # If an order has two sessions, the paid one counts.
            by_order[order_id] = session if session.payment_status == "paid" else by_order.get(order_id, session)
    if not by_order:
        return 0
    async with connection(resources.pool) as reader:
        unsettled = await FIND_UNSETTLED.all(reader, order_ids=list(by_order))
    changed = 0
    for order_id in unsettled:
        begin_job("reconcile", order_id)
        try:
            outcome = await settlement.settle_session(resources, order_id, by_order[order_id])
        # The other sessions are settled even if one fails. It differs from our payment then, and is tried again.
        except ShopError as error:
            logger.warning("session deferred", extra={"error": str(error)})
            continue
        except Exception:
            logger.exception("session failed and was deferred")
            continue
        changed += outcome != "unchanged"
    begin_job("reconcile")
    await _compare(resources, sessions, by_order)
    return changed


async def _compare(resources: Resources, sessions: list[Session], by_order: dict[UUID, Session]) -> None:
    """Store where Stripe's sessions and our payments differ: paid there and not captured here, or the other way."""
    unpaid = [order_id for order_id, session in by_order.items() if session.payment_status != "paid"]
    async with connection(resources.pool) as reader:
        others = await FIND_OTHER_SESSIONS.all(
            reader, order_ids=unpaid, session_ids=[session.id for session in sessions]
        )
    compared = [session for session in sessions if session.status != "open"]
    for session_id in others:
        # An order has a second session when Stripe refused the first one for good. That is rare.
        try:
            compared.append(await resources.stripe.retrieve_session(session_id))
        except StripeRefused:
            continue
        await pause_between_pages()
    named = [(settlement.order_id_of(session), session) for session in compared]
    await audit.check_sessions(
        resources.pool, [(order_id, session) for order_id, session in named if order_id is not None]
    )


async def _check_known(resources: Resources) -> int:
    """Settle and compare again some of the sessions that differed before. Returns how many orders changed."""
    known = await audit.known_sessions(resources.pool)
    settled = 0
    for order_id, session_id in random.sample(known, min(RECHECKS, len(known))):
        session = await audit.retrieve_session(resources.stripe, order_id, session_id)
        if settlement.order_id_of(session) == order_id:
            settled += await _settle(resources, [session])
        else:
            # It is not at Stripe, or another order's. The difference ends with our payment.
            await audit.check_sessions(resources.pool, [(order_id, session)])
        await pause_between_pages()
    return settled


# Events


async def fetch_events(resources: Resources) -> int:
    """Store every event that Stripe has created since the last run and that was not received. Returns their number.

    The sweep applies them. Stripe lists events for 30 days, so all workers may be down that long.
    """
    begin_job("reconcile")
    # By Stripe's clock: the position is the time of the newest event read.
    since = await _read_position(resources, "events") - OVERLAP_SECONDS
    stored = 0
    while True:
        until = since + WINDOW_SECONDS
        is_last = until > time.time() - CLOCK_SKEW_SECONDS
        newest = since
        page: dict[str, dict[str, Any]] = {}
        events = resources.stripe.events_since(since, webhooks.EVENT_TYPES, until=None if is_last else until)
        async for event in events:
            page[str(event.get("id"))] = event
            if isinstance(event.get("created"), int):
                newest = max(newest, event["created"])
            if len(page) == PAGE:
                stored += await _store_missed(resources, page)
                page = {}
        stored += await _store_missed(resources, page)
        await _move_position(resources, "events", newest if is_last else until)
        await pause_between_pages()
        if is_last:
            return stored
        since = until


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
