"""What staff did, for those who may read the audit log."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints

from service.http import requests
from service.http.fields import BIGINT_MAX, DIGITS, NO_NUL, Limit, int64
from service.http.policy import authorize
from service.http.requests import ResourcesDep, no_unknown_query
from service.shop import audit_log

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

_Exactly = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=NO_NUL)]


class AuditQuery(requests.Query):
    """Which page of the audit log, or of what was done to a subject or by an actor."""

    subject: _Exactly | None = None
    actor: _Exactly | None = None
    limit: Limit = 20
    after_id: Annotated[int, Field(ge=1, le=BIGINT_MAX), DIGITS, int64(1)] | None = None


@router.get("/audit")
async def list_audit(query: Annotated[AuditQuery, Query()], resources: ResourcesDep) -> audit_log.AuditPage:
    """List what staff did, newest first."""
    before_id = BIGINT_MAX if query.after_id is None else query.after_id
    return await audit_log.list_entries(
        resources, subject=query.subject, actor=query.actor, before_id=before_id, limit=query.limit
    )
