"""Stripe's webhooks."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel

from service.errors import ShopError
from service.http.bodies import ByteBudget
from service.http.identity import ClientsDep
from service.http.openapi import problems
from service.http.requests import WEBHOOK_LIMIT, ResourcesDep, read_body
from service.infra.stripe import signature_is_timely
from service.shop import webhooks

router = APIRouter()

_WORD = {"type": "string", "minLength": 1, "maxLength": 255}
# The part of an event that is read.
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "data"],
    "properties": {
        "id": _WORD,
        "type": _WORD,
        "data": {"type": "object", "required": ["object"], "properties": {"object": {"type": "object"}}},
    },
}
# Webhooks that are arriving or being processed. Anybody can send them, and Stripe delivers a refused one again.
UNVERIFIED = ByteBudget(limit=16 * WEBHOOK_LIMIT, limit_per_client=4 * WEBHOOK_LIMIT)


class Received(BaseModel):
    """What became of an event."""

    received: Literal[True]
    outcome: str


@router.post(
    "/webhooks/stripe",
    responses=problems("invalid_signature"),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _EVENT}}}},
)
async def receive_stripe_event(
    request: Request,
    resources: ResourcesDep,
    clients: ClientsDep,
    stripe_signature: Annotated[
        str | None, Header(alias="Stripe-Signature", description="Stripe's signature over the raw body.")
    ] = None,
) -> Received:
    """Take an event from Stripe: 200 once it is stored and applied."""
    signatures = request.headers.getlist("stripe-signature")
    # The body cannot change this, so it need not be read.
    if resources.settings.stripe_webhook_secret and not (len(signatures) == 1 and signature_is_timely(signatures[0])):
        raise ShopError("invalid_signature", "The Stripe-Signature header is not of Stripe's form, or is too old.")
    with UNVERIFIED.account(clients.digest(request.scope)) as take:
        body = await read_body(request, WEBHOOK_LIMIT, take)
        outcome = await webhooks.receive_webhook(resources, body, stripe_signature)
    return Received(received=True, outcome=outcome)
