"""What a request contains, checked before the shop sees it: body, query, idempotency key."""

import re
from typing import Annotated

from fastapi import Body as BodyParameter
from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from service.errors import invalid
from service.http.fields import UUID_FORM
from service.http.identity import ClientsDep, staff
from service.infra.resources import Resources
from service.shop.idempotency import IdempotencyKey


class Body(BaseModel):
    """The base of every request body: JSON types without conversion, no unknown members."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Query(BaseModel):
    """The base of every query: no unknown parameters; the last of a repeated parameter counts."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Empty(Body):
    """No members; the body may be left out."""


NoBody = Annotated[Empty, BodyParameter(default_factory=Empty)]


async def get_resources(request: Request) -> Resources:
    """What the application opened at start."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


async def no_unknown_query(request: Request) -> None:
    """Refuse a query on a route that declares none. On the others, `Query` refuses unknown parameters."""
    if request.scope["query_string"] and request.query_params and not request.scope["route"].dependant.query_params:
        names = [{"type": "extra_forbidden", "loc": ("query", name), "msg": ""} for name in request.query_params]
        raise RequestValidationError(names)


# Printable ASCII without spaces at its ends.
_KEY_FORM = "[!-~]([ -~]{0,253}[!-~])?"
_KeyHeader = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=f"^{_KEY_FORM}$")
]


async def staff_key(
    request: Request, principal: Annotated[str, Depends(staff)], key: _KeyHeader = None
) -> IdempotencyKey | None:
    """The idempotency key of a staff call; access is checked first."""
    return await _scoped(request, principal, key)


async def client_key(request: Request, clients: ClientsDep, key: _KeyHeader = None) -> IdempotencyKey | None:
    """The idempotency key of a call without an id in its path: it belongs to one client address.

    Without an address, strangers would share the stored response, so the key is not used.
    """
    client = clients.digest(request.scope, whole=True)
    if client is None:
        return None
    return await _scoped(request, f"client:{client.hex()}", key)


async def shared_key(request: Request, key: _KeyHeader = None) -> IdempotencyKey | None:
    """The idempotency key of a call that names a cart or an order: it belongs to all who know that id."""
    return await _scoped(request, "", key)


StaffKey = Annotated[IdempotencyKey | None, Depends(staff_key)]
ClientKey = Annotated[IdempotencyKey | None, Depends(client_key)]
SharedKey = Annotated[IdempotencyKey | None, Depends(shared_key)]


async def _scoped(request: Request, principal: str, key: str | None) -> IdempotencyKey | None:
    if key is None:
        return None
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise invalid("/Idempotency-Key", "must be sent only once")
    # The decoded path, its UUIDs in lower case: one id has one scope, however it is spelled.
    path = re.sub(UUID_FORM, lambda match: match[0].lower(), request.scope["path"])
    body = (await request.body()).strip() or b"{}"
    return IdempotencyKey.of(method=request.method, path=path, principal=principal, key=key, body=body)
