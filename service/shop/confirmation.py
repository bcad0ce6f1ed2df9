"""What Stripe says of a pending order's session in the seconds before its webhook, for the pages after a payment."""

import asyncio
import time
from typing import Literal

from service.infra.resources import Resources
from service.infra.stripe import StripeFailed
from service.shop.orders import Order

# Stripe is asked about one order at most once in this time, by all processes together.
ASK_SECONDS = 5
# The page does not wait longer for Stripe.
WAIT_SECONDS = 3.0
# Orders that a process remembers while Redis is gone.
MAX_LOCAL = 10_000

State = Literal["open", "ended", "unknown"]

_asked_locally: dict[str, float] = {}


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
