"""The endpoints of outgoing events: where other systems receive them, and what was delivered."""

import base64
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from service.errors import invalid, not_found
from service.infra.db import Connection, connection
from service.infra.encoding import encode
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.infra.webhook_client import InvalidUrl, check_url
from service.shop import audit_log, deliveries, stuck
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.outbox import EventType

# Each transition writes a row for each of them.
MAX_ENDPOINTS = 20
MAX_PAGE = 101
SECRET_BYTES = 32
DeliveryStatus = Literal["pending", "delivered", "given_up"]


@dataclass(slots=True)
class EventEndpoint:
    """Where events of some types are sent; `failing_since` when every attempt has failed since then."""

    id: int
    url: str
    types: list[EventType]
    description: str
    active: bool
    failing_since: datetime | None
    created_at: datetime


@dataclass(slots=True)
class NewEventEndpoint(EventEndpoint):
    """A new endpoint with its secret, which is shown once: null when the answer is replayed."""

    secret: str | None


@dataclass(slots=True)
class EventSecret:
    """A new secret, which is shown once: null when the answer is replayed."""

    secret: str | None


@dataclass(slots=True)
class EndpointPage:
    """A keyset page of the endpoints, by id."""

    items: Sequence[EventEndpoint]
    next_cursor: int | None


@dataclass(slots=True)
class DeliveryRow:
    """An event for an endpoint, as it is stored."""

    id: int
    event_id: UUID
    type: EventType
    status: DeliveryStatus
    attempts: int
    result: str | None
    next_attempt_at: datetime | None
    attempted_at: datetime | None
    created_at: datetime
    order_id: UUID | None


@dataclass(slots=True)
class Delivery:
    """An event for an endpoint, and what came of its last attempt: a status code, or what went wrong."""

    id: int
    event_id: str
    type: EventType
    order_id: UUID | None
    status: DeliveryStatus
    attempts: int
    result: str | None
    next_attempt_at: datetime | None
    attempted_at: datetime | None
    created_at: datetime


@dataclass(slots=True)
class DeliveryPage:
    """A keyset page of an endpoint's deliveries, newest first."""

    items: Sequence[Delivery]
    next_cursor: int | None


CREATE_ENDPOINT = statement("event_endpoints/create_endpoint", EventEndpoint)
LIST_ENDPOINTS = statement("event_endpoints/list_endpoints", EventEndpoint)
GET_ENDPOINT = statement("event_endpoints/get_endpoint", EventEndpoint)
LOCK_ENDPOINT = statement("event_endpoints/lock_endpoint", int)
UPDATE_ENDPOINT = statement("event_endpoints/update_endpoint")
DELETE_ENDPOINT = statement("event_endpoints/delete_endpoint")
ROTATE_SECRET = statement("event_endpoints/rotate_secret", int)
LIST_DELIVERIES = statement("event_endpoints/list_deliveries", DeliveryRow)
RESEND_DELIVERY = statement("event_endpoints/resend_delivery", DeliveryRow)


async def create(
    resources: Resources, key: IdempotencyKey | None, *, url: str, types: Sequence[EventType], description: str
) -> StoredResponse:
    """201 with the NewEventEndpoint. The stored response has no secret, so that secrets are in one table only.

    Raises `invalid` for a URL that no event is sent to and beyond MAX_ENDPOINTS, and the errors of the key.
    """
    _check(resources, url)
    secret = os.urandom(SECRET_BYTES)

    async def work(tx: Connection) -> NewEventEndpoint:
        endpoint = await CREATE_ENDPOINT.one_or_none(
            tx, url=url, types=types, description=description, secret=secret, max_endpoints=MAX_ENDPOINTS
        )
        if endpoint is None:
            raise invalid("", f"there may be at most {MAX_ENDPOINTS} endpoints")
        after = _decided(endpoint)
        await audit_log.add(tx, "create_event_endpoint", f"endpoint:{endpoint.id}", before=None, after=after)
        return NewEventEndpoint(**asdict(endpoint), secret=None)

    response = await run_once(
        resources.pool, key, 201, work, location=lambda endpoint: f"/event-endpoints/{endpoint.id}"
    )
    return _with_secret(response, secret)


async def list_endpoints(resources: Resources, *, after_id: int, limit: int) -> EndpointPage:
    """A page of the endpoints with ids above `after_id`."""
    async with connection(resources.pool) as reader:
        page = await LIST_ENDPOINTS.all(reader, after_id=after_id, limit=limit + 1)
    return EndpointPage(page[:limit], page[limit - 1].id if len(page) > limit else None)


async def get(resources: Resources, endpoint_id: int) -> EventEndpoint:
    """One endpoint; 404 when there is none."""
    async with connection(resources.pool) as reader:
        return await _read(reader, endpoint_id)


async def update(
    resources: Resources,
    endpoint_id: int,
    *,
    url: str | None = None,
    types: Sequence[str] | None = None,
    description: str | None = None,
    active: bool | None = None,
) -> EventEndpoint:
    """The endpoint after a change of these members; None keeps one. Raises `invalid`, and 404 when there is none."""
    if url is not None:
        _check(resources, url)

    async def work(tx: Connection) -> EventEndpoint:
        before = await _lock(tx, endpoint_id)
        await UPDATE_ENDPOINT.run(
            tx, endpoint_id=endpoint_id, url=url, types=types, description=description, active=active
        )
        if active and not before.active:
            await deliveries.MARK_WORKING.run(tx, endpoint_id=endpoint_id, switched_on=True)
            await stuck.end(tx, "endpoint_switched_off", [str(endpoint_id)])
        endpoint = await _read(tx, endpoint_id)
        await audit_log.add(
            tx, "update_event_endpoint", f"endpoint:{endpoint_id}", **audit_log.changed(before, endpoint)
        )
        return endpoint

    return await run_transaction(resources.pool, work, idempotent=True)


async def delete(resources: Resources, endpoint_id: int) -> None:
    """Delete an endpoint. Nothing is sent to it any more; retention deletes its events."""

    async def work(tx: Connection) -> None:
        before = await _lock(tx, endpoint_id)
        await DELETE_ENDPOINT.run(tx, endpoint_id=endpoint_id)
        await stuck.end(tx, "endpoint_switched_off", [str(endpoint_id)])
        await audit_log.add(tx, "delete_event_endpoint", f"endpoint:{endpoint_id}", before=_decided(before), after=None)

    await run_transaction(resources.pool, work)


async def rotate(resources: Resources, key: IdempotencyKey | None, endpoint_id: int) -> StoredResponse:
    """200 with the EventSecret; the last secrets sign too, each for 24 hours."""
    secret = os.urandom(SECRET_BYTES)

    async def work(tx: Connection) -> EventSecret:
        if await ROTATE_SECRET.one_or_none(tx, endpoint_id=endpoint_id, secret=secret) is None:
            raise not_found("endpoint")
        await audit_log.add(tx, "rotate_event_secret", f"endpoint:{endpoint_id}", before=None, after=None)
        return EventSecret(None)

    return _with_secret(await run_once(resources.pool, key, 200, work), secret)


async def list_deliveries(resources: Resources, endpoint_id: int, *, before_id: int, limit: int) -> DeliveryPage:
    """A page of an endpoint's deliveries with ids below `before_id`, newest first."""
    async with connection(resources.pool) as reader:
        await _read(reader, endpoint_id)
        page = await LIST_DELIVERIES.all(reader, endpoint_id=endpoint_id, before_id=before_id, limit=limit + 1)
    return DeliveryPage(
        [_shown(delivery) for delivery in page[:limit]], page[limit - 1].id if len(page) > limit else None
    )


async def resend(
    resources: Resources, key: IdempotencyKey | None, endpoint_id: int, delivery_id: int
) -> StoredResponse:
    """200 with the Delivery, which is due again, under the same event id."""

    async def work(tx: Connection) -> Delivery:
        await _read(tx, endpoint_id)
        delivery = await RESEND_DELIVERY.one_or_none(tx, endpoint_id=endpoint_id, delivery_id=delivery_id)
        if delivery is None:
            raise not_found("delivery")
        await stuck.end(tx, "event_undelivered", [str(delivery_id)])
        after = {"delivery_id": delivery_id, "type": delivery.type}
        await audit_log.add(tx, "resend_delivery", f"endpoint:{endpoint_id}", before=None, after=after)
        return _shown(delivery)

    return await run_once(resources.pool, key, 200, work)


async def _read(reader: Connection, endpoint_id: int) -> EventEndpoint:
    endpoint = await GET_ENDPOINT.one_or_none(reader, endpoint_id=endpoint_id)
    if endpoint is None:
        raise not_found("endpoint")
    return endpoint


async def _lock(tx: Connection, endpoint_id: int) -> EventEndpoint:
    if await LOCK_ENDPOINT.one_or_none(tx, endpoint_id=endpoint_id) is None:
        raise not_found("endpoint")
    return await _read(tx, endpoint_id)


def _check(resources: Resources, url: str) -> None:
    try:
        check_url(url, allow_private=resources.settings.allow_private_event_endpoints)
    except InvalidUrl as error:
        raise invalid("/url", str(error)) from None


def _shown(row: DeliveryRow) -> Delivery:
    return Delivery(**asdict(row) | {"event_id": deliveries.event_name(row.event_id)})


def _decided(endpoint: EventEndpoint) -> dict[str, Any]:
    """What staff decided of an endpoint."""
    return {name: getattr(endpoint, name) for name in ("url", "types", "description", "active")}


def _with_secret(response: StoredResponse, secret: bytes) -> StoredResponse:
    """The response with the secret in it, unless it is replayed: the secret was shown then."""
    if response.replayed:
        return response
    body = orjson.loads(response.body) | {"secret": f"whsec_{base64.b64encode(secret).decode()}"}
    return replace(response, body=encode(body))
