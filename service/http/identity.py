"""Who sends a request: staff by their credential, everybody else by an address behind our proxies."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.errors import ShopError
from service.infra import credentials
from service.infra.clients import Clients

# For the OpenAPI document. `is_staff` verifies what it finds.
_BEARER = HTTPBearer(scheme_name="staff", description="The ADMIN_TOKEN, where one is set.", auto_error=False)


async def is_staff(request: Request) -> bool:
    """Whether staff asks; without an ADMIN_TOKEN, everybody is staff. No guard: see `staff`."""
    token: str = request.app.state.resources.settings.admin_token
    return not token or credentials.is_staff(request.headers.get("authorization", ""), token)


IsStaff = Annotated[bool, Depends(is_staff)]
# `security` of calls that are open to everybody but tell staff more.
OPTIONAL_STAFF: dict[str, Any] = {"security": [{}, {"staff": []}]}


async def staff(request: Request, is_staff: IsStaff, _: Annotated[object, Depends(_BEARER)]) -> str:
    """A guard: only staff passes. The principal, one for all staff, whatever its token."""
    if is_staff:
        return "admin"
    if request.headers.get("authorization"):
        raise ShopError("invalid_token", "The credential in the Authorization header is not valid.")
    raise ShopError("unauthorized", "This call is for the shop's staff.")


async def get_clients(request: Request) -> Clients:
    """How this application identifies clients."""
    clients: Clients = request.app.state.clients
    return clients


ClientsDep = Annotated[Clients, Depends(get_clients)]


async def pending_orders_client(request: Request, clients: ClientsDep) -> bytes | None:
    """The client whose pending orders are counted; None when they are not counted, or its address is unknown."""
    if not request.app.state.resources.settings.max_pending_per_client:
        return None
    return clients.digest(request.scope)


PendingOrdersClient = Annotated[bytes | None, Depends(pending_orders_client)]
