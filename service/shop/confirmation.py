"""What the pages after a payment show: an order, and what Stripe says of its session before the webhook."""

import asyncio
import time
from typing import Literal
from uuid import UUID

from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.stripe import StripeFailed
from service.shop import orders
from service.shop.orders import Order
from service.shop.principals import GUEST, SERVICE

# Stripe is asked about one order at most once in this time, by all processes together.
ASK_SECONDS = 5
# The page does not wait longer for Stripe.
WAIT_SECONDS = 3.0
# Orders that a process remembers while Redis is gone.
MAX_LOCAL = 10_000

State = Literal["open", "ended", "unknown"]

_asked_locally: dict[str, float] = {}


async def read_order(resources: Resources, order_id: UUID, session_id: str) -> tuple[Order, bool]:
    """An order, and whether the page may show all of it: nobody owns it, or the page's address names its session.

    The page takes no credential, and an owned order's id alone opens no lines. 404 when there is no order.
    """
    async with connection(resources.pool) as reader:
        row = await orders.read(reader, SERVICE, order_id)
        shows_all = row.user_id is None or session_id == row.stripe_session_id
        return await orders.view(reader, GUEST, row), shows_all


async def session_state(resources: Resources, order: Order) -> State:
    """Whether the session of a pending order is open or has ended at Stripe; unknown where it was asked just now."""
    session_id = order.payment.stripe_session_id
    if session_id is None or not await _may_ask(resources, f"confirmation:{order.id}"):
        return "unknown"
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            session = await resources.stripe.retrieve_session(session_id, order_id=order.id)
    except (StripeFailed, TimeoutError):
        return "unknown"
    return "open" if session.status == "open" else "ended"


async def _may_ask(resources: Resources, key: str) -> bool:
    async def claim() -> bool:
        return bool(await resources.redis.set(key, b"", ex=ASK_SECONDS, nx=True))

    claimed = await resources.redis_breaker.call(claim, operation="confirm")
    if claimed is not None:
        return claimed
    now = time.monotonic()
    if now < _asked_locally.get(key, 0):
        return False
    if len(_asked_locally) >= MAX_LOCAL:
        _asked_locally.clear()
    _asked_locally[key] = now + ASK_SECONDS
    return True
