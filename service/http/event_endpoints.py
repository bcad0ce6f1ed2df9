"""The endpoints of outgoing events, for staff and the systems that they connect."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from service.http import fields, requests, responses
from service.http.fields import BIGINT_MAX, DIGITS, LEFT_OUT, NO_NUL, AfterId, Limit, int64
from service.http.policy import authorize
from service.http.requests import NoBody, ResourcesDep, StaffKey, no_unknown_query
from service.shop import event_endpoints
from service.shop.outbox import EventType
from service.shop.product_fields import Description

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

EndpointId = Annotated[int, BeforeValidator(partial(fields.parse_integer, what="endpoint")), int64(1)]
DeliveryId = Annotated[int, BeforeValidator(partial(fields.parse_integer, what="delivery")), int64(1)]


def _distinct(types: list[EventType]) -> list[EventType]:
    if len({*types}) < len(types):
        raise ValueError("must name each type once")
    return types


Url = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=NO_NUL)]
Types = Annotated[list[EventType], Field(min_length=1, max_length=10), AfterValidator(_distinct)]
EndpointDescription = Annotated[Description, Field(max_length=500)]


class EndpointCreation(requests.Body):
    """Where events of some types are sent."""

    url: Url
    types: Types
    description: EndpointDescription = ""


class EndpointEdit(requests.Body):
    """Members that are left out stay unchanged."""

    url: Url = LEFT_OUT
    types: Types = LEFT_OUT
    description: EndpointDescription = LEFT_OUT
    active: bool = LEFT_OUT


class EndpointsQuery(requests.Query):
    """Which page of the endpoints."""

    limit: Limit = 20
    after_id: AfterId = 0


class DeliveriesQuery(requests.Query):
    """Which page of an endpoint's deliveries."""

    limit: Limit = 20
    after_id: Annotated[int, Field(ge=1, le=BIGINT_MAX), DIGITS, int64(1)] | None = None


@router.post("/event-endpoints", status_code=201, response_model=event_endpoints.NewEventEndpoint)
async def create_event_endpoint(new: EndpointCreation, resources: ResourcesDep, key: StaffKey) -> Response:
    """Add an endpoint. Its secret is shown once."""
    return responses.stored(
        await event_endpoints.create(resources, key, url=new.url, types=new.types, description=new.description)
    )


@router.get("/event-endpoints")
async def list_event_endpoints(
    query: Annotated[EndpointsQuery, Query()], resources: ResourcesDep
) -> event_endpoints.EndpointPage:
    """List the endpoints by id."""
    return await event_endpoints.list_endpoints(resources, after_id=query.after_id, limit=query.limit)


@router.get("/event-endpoints/{endpoint_id}")
async def get_event_endpoint(endpoint_id: EndpointId, resources: ResourcesDep) -> event_endpoints.EventEndpoint:
    """Read an endpoint, without its secret."""
    return await event_endpoints.get(resources, endpoint_id)


@router.patch("/event-endpoints/{endpoint_id}")
async def update_event_endpoint(
    endpoint_id: EndpointId, edit: EndpointEdit, resources: ResourcesDep
) -> event_endpoints.EventEndpoint:
    """Change an endpoint. `active` switches it off, or on again."""
    return await event_endpoints.update(resources, endpoint_id, **edit.model_dump(exclude_unset=True))


@router.delete("/event-endpoints/{endpoint_id}", status_code=204)
async def delete_event_endpoint(endpoint_id: EndpointId, resources: ResourcesDep) -> Response:
    """Delete an endpoint; what it has not received is not sent any more."""
    await event_endpoints.delete(resources, endpoint_id)
    return Response(status_code=204)


@router.post("/event-endpoints/{endpoint_id}/rotate", response_model=event_endpoints.EventSecret)
async def rotate_event_secret(endpoint_id: EndpointId, resources: ResourcesDep, key: StaffKey, _: NoBody) -> Response:
    """Give an endpoint a new secret, shown once. For 24 hours the last one signs too."""
    return responses.stored(await event_endpoints.rotate(resources, key, endpoint_id))


@router.get("/event-endpoints/{endpoint_id}/deliveries")
async def list_deliveries(
    endpoint_id: EndpointId, query: Annotated[DeliveriesQuery, Query()], resources: ResourcesDep
) -> event_endpoints.DeliveryPage:
    """List the events for an endpoint and what came of them, newest first."""
    before_id = BIGINT_MAX if query.after_id is None else query.after_id
    return await event_endpoints.list_deliveries(resources, endpoint_id, before_id=before_id, limit=query.limit)


@router.post("/event-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend", response_model=event_endpoints.Delivery)
async def resend_delivery(
    endpoint_id: EndpointId, delivery_id: DeliveryId, resources: ResourcesDep, key: StaffKey, _: NoBody
) -> Response:
    """Send an event again, under the same id."""
    return responses.stored(await event_endpoints.resend(resources, key, endpoint_id, delivery_id))
