"""What no repairer can finish, for the shop's staff."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BeforeValidator

from service.errors import not_found
from service.http import fields, requests, responses
from service.http.fields import AfterId, Limit
from service.http.policy import authorize
from service.http.requests import ResourcesDep, StaffKey, no_unknown_query
from service.shop import stuck

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])


def _known_kind(text: str) -> str:
    if text not in stuck.KINDS:
        raise not_found("item")
    return text


def _possible_id(text: str) -> str:
    if not (text.isprintable() and 0 < len(text) <= 255):
        raise not_found("item")
    return text


StuckKind = Annotated[stuck.Kind, BeforeValidator(_known_kind)]
StuckId = Annotated[str, BeforeValidator(_possible_id), Path(alias="id")]


class StuckQuery(requests.Query):
    """Which page of what is stuck, or of one kind of it."""

    kind: stuck.Kind | None = None
    limit: Limit = 20
    after_id: AfterId = 0


class Resolution(requests.Body):
    """How people settled it elsewhere."""

    reason: fields.Reason


@router.get("/stuck")
async def list_stuck(query: Annotated[StuckQuery, Query()], resources: ResourcesDep) -> stuck.StuckPage:
    """List what no repairer can finish, oldest first."""
    return await stuck.list_items(resources, kind=query.kind, after_number=query.after_id, limit=query.limit)


@router.post("/stuck/{kind}/{id}/resolve", response_model=stuck.StuckItem)
async def resolve_stuck(
    kind: StuckKind,
    item_id: StuckId,
    resolution: Resolution,
    resources: ResourcesDep,
    key: StaffKey,
) -> Response:
    """Take an item off the list that people settled elsewhere. No refund is made for it any more."""
    return responses.stored(await stuck.resolve(resources, key, kind, item_id, reason=resolution.reason))
