"""The Stripe session of an order: created once, whatever is lost on the way, and never left behind open.

The key and the parameters of a session are fixed when its order is placed, so that asking Stripe again is asking
the same. No function here holds a connection while it waits for Stripe.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.statements import NoRow, Statement
from service.infra.stripe import CLOCK_SKEW_SECONDS, Session, StripeFailed, StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.settings import Settings


@dataclass(slots=True)
class Claim:
    """The right to create an order's session for a while: which attempt, with which parameters, since when."""

    attempt: int
    session_parameters: dict[str, Any]
    created_at: datetime


@dataclass(slots=True)
class Attached:
    """The pending order that a session was attached to."""

    payment_id: UUID
    payment_status: str
    total_minor: int
    currency: str
    expires_at: datetime


# The codes by which Stripe has said nothing about the session.
NO_ANSWER = ("payment_unavailable", "payment_misconfigured")

CLAIM_SESSION = Statement("payment_session/claim_session", Claim)
RELEASE_CLAIM = Statement("payment_session/release_claim", NoRow)
NEW_ATTEMPT = Statement("payment_session/start_attempt", Claim)
ATTACH_SESSION = Statement("payment_session/attach_session", Attached)


def template(settings: Settings, order_id: UUID) -> dict[str, Any]:
    """What of a session's parameters does not depend on the cart; the reserve statement adds the rest."""
    metadata = {"order_id": str(order_id)}
    return {
        "mode": "payment",
        "success_url": _with_order(settings.stripe_success_url, order_id),
        "cancel_url": _with_order(settings.stripe_cancel_url, order_id),
        "client_reference_id": str(order_id),
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
    }


def _with_order(url: str, order_id: UUID) -> str:
    resources = urlsplit(url)
    # Stripe fills in the session id; its braces must reach it as they are.
    added = f"session_id={{CHECKOUT_SESSION_ID}}&{urlencode({'order_id': order_id})}"
    return urlunsplit(resources._replace(query=f"{resources.query}&{added}" if resources.query else added))


def claim_seconds(settings: Settings) -> float:
    """A claim outlives every call that can be made under it: creating, looking for and retrieving a session."""
    return 4 * settings.stripe_timeout_seconds + 5


async def claim(resources: Resources, order_id: UUID) -> Claim | None:
    """Become the one that creates the session; None while another does, or when there is nothing to create."""
    async with connection(resources.pool) as writer:
        return await CLAIM_SESSION.maybe(writer, order_id, claim_seconds(resources.settings))


async def release(resources: Resources, order_id: UUID) -> None:
    """Give the claim back, so that asking again need not wait for its end."""
    async with connection(resources.pool) as writer:
        await RELEASE_CLAIM.run(writer, order_id)


async def create(resources: Resources, order_id: UUID, held: Claim) -> Session:
    """The first call for this claim's session. Raises StripeRefused or StripeUnknown."""
    return await resources.stripe.create_session(held.session_parameters, _key(order_id, held), order_id=order_id)


async def resume(resources: Resources, order_id: UUID, held: Claim) -> Session | None:
    """The session that an earlier call may have created, as it is now; None when there provably is none.

    A replayed answer is old, so the session is retrieved after it. A stored failure is replayed too: then the
    session is looked for, and not found there is none. That Stripe minds `expires_at` now proves the same.
    Raises StripeRefused or StripeUnknown.
    """
    try:
        session = await create(resources, order_id, held)
    except StripeRefused as refused:
        if refused.param == "expires_at":
            return None
        raise
    except StripeUnknown as unknown:
        if unknown.status is None or unknown.status < 500:
            raise
        found = await _look_for(resources, order_id, held)
        if found is None and unknown.replayed:
            return None
        if found is None:
            raise
        session = found
    return await resources.stripe.retrieve_session(session.id, order_id=order_id)


async def next_attempt(resources: Resources, order_id: UUID, held: Claim) -> Claim | None:
    """A claim on a new session, once `resume` has shown that this one's is none; None when the order moved on."""
    seconds = resources.settings.session_seconds
    return await run_transaction(
        resources.pool,
        lambda tx: NEW_ATTEMPT.maybe(tx, order_id, held.attempt, seconds, claim_seconds(resources.settings)),
    )


async def attach(tx: Connection, order_id: UUID, session: Session) -> Attached | None:
    """Keep an open session with its order; None when that is no longer pending."""
    return await ATTACH_SESSION.maybe(tx, order_id, session.id, session.url)


async def close(resources: Resources, order_id: UUID, stripe_session_id: str | None) -> Session | None:
    """Make sure that an order's session can no longer be paid: what it came to, None when there is none.

    Raises `checkout_in_progress` while a request is creating it, `payment_unavailable` or `payment_misconfigured` while
    Stripe does not say.
    """
    held = None
    try:
        if stripe_session_id is None:
            held = await claim(resources, order_id)
            if held is None:
                raise in_progress()
            session = await resume(resources, order_id, held)
            if session is None or session.status != "open":
                return session
            stripe_session_id = session.id
        return await resources.stripe.expire_session(stripe_session_id, order_id=order_id)
    except StripeRefused:
        # It makes or knows no such session: the key was changed, or Stripe's test data were cleared.
        return None
    except StripeUnknown as unknown:
        if held is not None:
            await release(resources, order_id)
        raise payment_unavailable(unknown) from unknown


def in_progress() -> ShopError:
    """The 409 while another request is about the order's session."""
    return ShopError("checkout_in_progress", "Another request is creating the payment session; try again.")


def payment_unavailable(failed: StripeFailed) -> ShopError:
    """The 503, one of NO_ANSWER, while Stripe gives no answer that tells."""
    if failed.status in (401, 403):
        return ShopError("payment_misconfigured", "Stripe refuses our key; once that is right, asking again goes on.")
    return ShopError("payment_unavailable", "Stripe does not answer; asking again goes on where this stopped.")


def _key(order_id: UUID, held: Claim) -> str:
    return f"checkout:{order_id}:{held.attempt}"


async def _look_for(resources: Resources, order_id: UUID, held: Claim) -> Session | None:
    since = int(held.created_at.timestamp()) - CLOCK_SKEW_SECONDS
    async for session in resources.stripe.sessions_since(since, order_id=order_id):
        if session.order_id == str(order_id):
            return session
    return None
