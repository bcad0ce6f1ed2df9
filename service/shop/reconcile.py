"""Stripe's list of sessions against our orders: what a lost webhook left behind is settled."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from service.infra.db import connection
from service.infra.logs import cause
from service.infra.parts import Parts
from service.infra.statements import Statement
from service.infra.stripe import Session
from service.shop import orders, payment

PAGE = 100
# Besides their life, sessions are looked at for as long as a worker may have been down.
OVERLAP_SECONDS = 3600

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Unsettled:
    """An order whose payment is not captured."""

    order_id: UUID


FIND_UNSETTLED = Statement("payment/find_unsettled", Unsettled)


async def reconcile(parts: Parts) -> int:
    """Settle every session of the last hours that ended at Stripe and not here; how many there were.

    Raises StripeUnknown or StripeRefused; the next run begins anew.
    """
    cause.set("job reconcile")
    since = int(time.time()) - parts.settings.session_seconds - OVERLAP_SECONDS
    settled = 0
    page: dict[UUID, Session] = {}
    async for found in parts.stripe.sessions_since(since):
        order_id = payment.order_id_of(found)
        if order_id is not None and found.status != "open":
            # Should there be two of one order, the paid one counts.
            page[order_id] = found if found.payment_status == "paid" else page.get(order_id, found)
        if len(page) == PAGE:
            settled += await _settle(parts, page)
            page = {}
    return settled + await _settle(parts, page)


async def _settle(parts: Parts, page: dict[UUID, Session]) -> int:
    async with connection(parts.pool) as reader:
        behind = await FIND_UNSETTLED.all(reader, list(page))
    changed = 0
    for unsettled in behind:
        order_id, found = unsettled.order_id, page[unsettled.order_id]
        try:
            outcome = await orders.transition(parts, partial(payment.settle, order_id=order_id, found=found))
        except Exception:
            # One that fails keeps none of the others waiting.
            logger.exception("not reconciled", extra={"order_id": str(order_id)})
            continue
        changed += outcome != "unchanged"
    return changed
