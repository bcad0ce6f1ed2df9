"""The payment session of an order at Stripe: created once, even if an answer is lost, and closed if it is not paid.

A session's idempotency key and parameters are fixed when its order is placed, so a repeated call to Stripe is the same
call. No function here holds a database connection while it waits for Stripe.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import CLOCK_SKEW_SECONDS, Session, StripeFailed, StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop.orders import PaymentStatus


@dataclass(slots=True)
class Claim:
    """The exclusive right to create an order's session until a time: for one attempt, with fixed parameters.

    Stripe's list can contain the session from `created_at` on.
    """

    attempt: int
    session_parameters: dict[str, Any]
    created_at: datetime


@dataclass(slots=True)
class Attached:
    """The pending order that a session was attached to."""

    payment_id: UUID
    payment_status: PaymentStatus
    number: int
    total_minor: int
    currency: str
    expires_at: datetime


# The error codes that mean: Stripe has not reported the state of the session.
NO_ANSWER = ("payment_unavailable", "payment_misconfigured")

CLAIM_SESSION = statement("payment_session/claim_session", Claim)
READ_CLAIM = statement("payment_session/read_claim", int)
RELEASE_CLAIM = statement("payment_session/release_claim")
START_ATTEMPT = statement("payment_session/start_attempt", Claim)
ATTACH_SESSION = statement("payment_session/attach_session", Attached)


def template(settings: Settings, order_id: UUID) -> dict[str, Any]:
    """The session parameters that do not depend on the cart; `checkout/reserve` adds the others."""
    metadata = {"order_id": str(order_id)}
    return {
        "mode": "payment",
        "success_url": _with_order(settings.stripe_success_url, order_id),
        "cancel_url": _with_order(settings.stripe_cancel_url, order_id),
        "client_reference_id": str(order_id),
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
        **optional_parameters(settings),
    }


def optional_parameters(settings: Settings) -> dict[str, Any]:
    """The session parameters that settings add."""
    parameters: dict[str, Any] = {}
    if settings.excluded_payment_methods:
        parameters["excluded_payment_method_types"] = list(settings.excluded_payment_methods)
    if settings.shipping_countries:
        parameters["shipping_address_collection"] = {"allowed_countries": list(settings.shipping_countries)}
        parameters["phone_number_collection"] = {"enabled": True}
    return parameters


def _with_order(url: str, order_id: UUID) -> str:
    split = urlsplit(url)
    # Stripe replaces {CHECKOUT_SESSION_ID}, so the braces must not be percent-encoded.
    added = f"session_id={{CHECKOUT_SESSION_ID}}&{urlencode({'order_id': order_id})}"
    return urlunsplit(split._replace(query=f"{split.query}&{added}" if split.query else added))


def claim_seconds(settings: Settings) -> float:
    """How long a claim lasts: longer than all calls under it (create, list, retrieve), which have a time limit each."""
    return 4 * settings.stripe_timeout_seconds + 5


async def claim_session(resources: Resources, order_id: UUID) -> Claim:
    """Claim the creation of the session.

    Raises `checkout_in_progress` while another request has the claim, or if no session is needed any more.
    """
    async with connection(resources.pool) as writer:
        claim = await CLAIM_SESSION.one_or_none(
            writer, order_id=order_id, claim_seconds=claim_seconds(resources.settings)
        )
        if claim is None:
            raise await in_progress(writer, order_id)
    return claim


async def release_claim(resources: Resources, order_id: UUID) -> None:
    """End the claim early, so that the next request need not wait for its end."""
    async with connection(resources.pool) as writer:
        await RELEASE_CLAIM.run(writer, order_id=order_id)


async def create(resources: Resources, order_id: UUID, claim: Claim) -> Session:
    """Ask Stripe to create this claim's session. Raises StripeRefused or StripeUnknown."""
    return await resources.stripe.create_session(claim.session_parameters, _key(order_id, claim), order_id=order_id)


async def resume(resources: Resources, order_id: UUID, claim: Claim) -> Session | None:
    """The current state of the session that an earlier call may have created; None if there provably is none.

    Stripe may replay an old answer, so the session is retrieved after it. Stripe replays a stored failure too; then
    the session does not exist unless Stripe's list has it. A refusal of `expires_at` also proves that the
    session was never created. Raises StripeRefused or StripeUnknown.
    """
    try:
        session = await create(resources, order_id, claim)
    except StripeRefused as refused:
        if refused.param == "expires_at":
            return None
        raise
    except StripeUnknown as unknown:
        if unknown.status is None or unknown.status < 500:
            raise
        listed = await _find_listed(resources, order_id, claim)
        if listed is None and unknown.replayed:
            return None
        if listed is None:
            raise
        session = listed
    return await resources.stripe.retrieve_session(session.id, order_id=order_id)


async def next_attempt(resources: Resources, order_id: UUID, claim: Claim) -> Claim:
    """The claim on a new session after `resume` showed that this one does not exist.

    Raises `checkout_in_progress` when the order moved on.
    """
    settings = resources.settings

    async def work(tx: Connection) -> Claim:
        next_claim = await START_ATTEMPT.one_or_none(
            tx,
            order_id=order_id,
            attempt=claim.attempt,
            session_seconds=settings.session_seconds,
            claim_seconds=claim_seconds(settings),
        )
        if next_claim is None:
            raise await in_progress(tx, order_id)
        return next_claim

    return await run_transaction(resources.pool, work)


async def attach(tx: Connection, order_id: UUID, session: Session) -> Attached | None:
    """Store an open session with its order; None when the order is no longer pending."""
    return await ATTACH_SESSION.one_or_none(
        tx, order_id=order_id, stripe_session_id=session.id, checkout_url=session.url
    )


async def close(resources: Resources, order_id: UUID, stripe_session_id: str | None) -> Session | None:
    """Expire an order's session at Stripe, so that it can no longer be paid; its state, or None without a session.

    Raises `checkout_in_progress` while a request is creating it, `payment_unavailable` or `payment_misconfigured`
    without an answer from Stripe.
    """
    claim = None
    try:
        if stripe_session_id is None:
            claim = await claim_session(resources, order_id)
            session = await resume(resources, order_id, claim)
            if session is None or session.status != "open":
                return session
            stripe_session_id = session.id
        return await resources.stripe.expire_session(stripe_session_id, order_id=order_id)
    except StripeRefused:
        # Stripe has no such session: the API key was changed, or its test data were deleted.
        return None
    except StripeUnknown as unknown:
        if claim is not None:
            await release_claim(resources, order_id)
        raise payment_unavailable(unknown) from unknown


async def in_progress(reader: Connection, order_id: UUID) -> ShopError:
    """The 409 while another request creates or closes the order's session, with the rest of that request's claim."""
    seconds = await READ_CLAIM.one_or_none(reader, order_id=order_id)
    return ShopError(
        "checkout_in_progress",
        "Another request is creating or closing the payment session; try again.",
        # Without a claim the other request has ended.
        retry_after_seconds=seconds or 1,
    )


def payment_unavailable(failed: StripeFailed) -> ShopError:
    """The 503, one of NO_ANSWER, while Stripe does not report the state of the payment."""
    if failed.status in (401, 403):
        return ShopError("payment_misconfigured", "Stripe refuses our API key; try again once it is corrected.")
    return ShopError("payment_unavailable", "Stripe does not answer; try again to continue.")


def _key(order_id: UUID, claim: Claim) -> str:
    return f"checkout:{order_id}:{claim.attempt}"


async def _find_listed(resources: Resources, order_id: UUID, claim: Claim) -> Session | None:
    since = int(claim.created_at.timestamp()) - CLOCK_SKEW_SECONDS
    async for session in resources.stripe.sessions_since(since, order_id=order_id):
        if session.order_id == str(order_id):
            return session
    return None
