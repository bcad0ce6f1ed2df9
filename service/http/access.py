"""Access of people: ending what their tokens may do."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from service.http import requests, responses
from service.http.policy import authorize
from service.http.requests import ResourcesDep, StaffKey, no_unknown_query
from service.shop import access

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])


class Revocation(requests.Body):
    """Whose access tokens are refused from now on."""

    sub: Annotated[str, Field(min_length=1, max_length=255, pattern="^[ -~]*$")]


@router.post("/auth/revocations", status_code=204)
async def revoke_tokens(revocation: Revocation, resources: ResourcesDep, key: StaffKey) -> Response:
    """Refuse all access tokens of a person that were issued until now, on every process within 10 seconds."""
    return responses.stored(await access.revoke_tokens(resources, key, revocation.sub))
