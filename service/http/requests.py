"""What a request contains, checked before the shop sees it: body, query, idempotency key."""

import re
from typing import Annotated

from fastapi import Body as BodyParameter
from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from service.errors import invalid
from service.http.fields import UUID_FORM
from service.http.identity import client_of
from service.http.policy import Caller
from service.infra.clients import Client, Clients
from service.infra.resources import Resources
from service.shop.idempotency import IdempotencyKey
from service.shop.principals import Principal


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


async def get_clients(request: Request) -> Clients:
    """How this application identifies clients."""
    clients: Clients = request.app.state.clients
    return clients


ClientsDep = Annotated[Clients, Depends(get_clients)]


async def pending_orders_client(request: Request, clients: ClientsDep, principal: Caller) -> Client | None:
    """The client whose pending orders are limited; None when they are not, or it is unknown."""
    if not request.app.state.resources.settings.max_pending_per_client:
        return None
    return client_of(clients, request.scope, principal)


PendingOrdersClient = Annotated[Client | None, Depends(pending_orders_client)]


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


async def staff_key(request: Request, principal: Caller, key: _KeyHeader = None) -> IdempotencyKey | None:
    """The idempotency key of a staff call: it belongs to its principal. Access is checked first."""
    return await _scoped(request, _name(request, principal), key)


async def client_key(
    request: Request, clients: ClientsDep, principal: Caller, key: _KeyHeader = None
) -> IdempotencyKey | None:
    """The idempotency key of a call without an id in its path: it belongs to one user, key or client address.

    Without an address, strangers would share the stored response, so the key is not used.
    """
    client = client_of(clients, request.scope, principal, whole=True)
    if client is None:
        return None
    return await _scoped(request, f"client:{client.digest.hex()}", key)


async def shared_key(request: Request, principal: Caller, key: _KeyHeader = None) -> IdempotencyKey | None:
    """The idempotency key of a call that names a cart or an order: it belongs to all who may make the call.

    Staff see more in the response, so that theirs belong to each principal.
    """
    return await _scoped(request, _name(request, principal) if principal.is_staff else "", key)


StaffKey = Annotated[IdempotencyKey | None, Depends(staff_key)]
ClientKey = Annotated[IdempotencyKey | None, Depends(client_key)]
SharedKey = Annotated[IdempotencyKey | None, Depends(shared_key)]


def _name(request: Request, principal: Principal) -> str:
    """The principal's name for its idempotency keys. Another identity provider may name somebody else by this `sub`."""
    issuer = request.app.state.resources.settings.auth_issuer
    return f"{principal.actor} {issuer}" if principal.user_id else principal.actor


async def _scoped(request: Request, principal: str, key: str | None) -> IdempotencyKey | None:
    if key is None:
        return None
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise invalid("/Idempotency-Key", "must be sent only once")
    # The decoded path, its UUIDs in lower case: one id has one scope, however it is spelled.
    path = re.sub(UUID_FORM, lambda match: match[0].lower(), request.scope["path"])
    body = (await request.body()).strip() or b"{}"
    return IdempotencyKey.of(method=request.method, path=path, principal=principal, key=key, body=body)
