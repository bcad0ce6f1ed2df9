"""Who sends a request: staff, by their credential, or a client, by its address."""

from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.errors import ShopError
from service.infra import credentials
from service.infra.clients import Client, Clients
from service.settings import Settings

# For the OpenAPI document only; `is_staff` verifies the credential.
_BEARER = HTTPBearer(scheme_name="staff", description="The ADMIN_TOKEN, where one is set.", auto_error=False)


async def is_staff(request: Request) -> bool:
    """Whether staff send the request; `staff` is the guard.

    Without an ADMIN_TOKEN, everybody is staff who calls this service by its address. A page of a stranger cannot: its
    browser sends the name that the stranger's DNS server bound to this address.
    """
    settings: Settings = request.app.state.resources.settings
    if settings.admin_token:
        return credentials.is_staff(request.headers.get("authorization", ""), settings.admin_token)
    return settings.allow_open_staff or _is_address(request.headers.get("host", ""))


def _is_address(host: str) -> bool:
    """Whether a Host is localhost or an IP address, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname
        return name == "localhost" or bool(ip_address(name or ""))
    except ValueError:
        return False


IsStaff = Annotated[bool, Depends(is_staff)]
# `security` of calls that are open to everybody but tell staff more.
OPTIONAL_STAFF: dict[str, Any] = {"security": [{}, {"staff": []}]}


async def staff(request: Request, is_staff: IsStaff, _: Annotated[object, Depends(_BEARER)]) -> str:
    """Guard: refuse everybody but staff. Returns the principal, which all staff share."""
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


async def pending_orders_client(request: Request, clients: ClientsDep) -> Client | None:
    """The client whose pending orders are limited; None when they are not, or its address is unknown."""
    if not request.app.state.resources.settings.max_pending_per_client:
        return None
    return clients.client(request.scope)


PendingOrdersClient = Annotated[Client | None, Depends(pending_orders_client)]
