"""Stripe's webhooks."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel

from service.errors import ShopError
from service.http.openapi import STRIPE_EVENT, problems
from service.http.requests import ClientsDep, ResourcesDep
from service.http.server.bodies import ByteBudget
from service.http.server.reading import WEBHOOK_LIMIT, read_body
from service.infra.stripe import signature_is_timely
from service.shop import webhooks

router = APIRouter()

# Webhooks that are arriving or being processed. Anybody can send them, and Stripe delivers a refused one again.
UNVERIFIED = ByteBudget(limit=16 * WEBHOOK_LIMIT, limit_per_client=4 * WEBHOOK_LIMIT)


class Received(BaseModel):
    """The outcome of an event."""

    received: Literal[True]
    outcome: str


@router.post("/webhooks/stripe", responses=problems("invalid_signature"), openapi_extra=STRIPE_EVENT)
async def receive_stripe_event(
    request: Request,
    resources: ResourcesDep,
    clients: ClientsDep,
    stripe_signature: Annotated[str | None, Header(alias="Stripe-Signature")] = None,
) -> Received:
    """Receive an event from Stripe; 200 once it is stored and applied."""
    signatures = request.headers.getlist("stripe-signature")
    # Refused without reading the body, which could not change this.
    if resources.settings.stripe_webhook_secret and not (len(signatures) == 1 and signature_is_timely(signatures[0])):
        raise ShopError("invalid_signature", "The Stripe-Signature header is malformed or too old.")
    with UNVERIFIED.account(clients.digest(request.scope)) as take:
        body = await read_body(request, WEBHOOK_LIMIT, take)
        outcome = await webhooks.receive_webhook(resources, body, stripe_signature)
    return Received(received=True, outcome=outcome)
