"""What each call needs: one rule for every route, and the guard that applies it.

tests/http/permissions.txt shows what follows from the rules for each kind of credential.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from fastapi import Depends, Request

from service.errors import ShopError
from service.http.identity import identify
from service.infra.logs import actor
from service.shop.principals import GUEST, SCOPES, Principal, Scope

# unread: the Authorization header is not read.
# public: everybody.
# owner: the owner of the cart or order that the path names. While it has none, everybody who knows its id.
# user: people with an access token.
Rule = Literal["unread", "public", "owner", "user"] | Scope

POLICY: dict[str, Rule] = {
    "GET /categories": "public",
    "POST /categories": "catalog:write",
    "PATCH /categories/{category_id}": "catalog:write",
    "DELETE /categories/{category_id}": "catalog:write",
    "GET /products": "public",
    "GET /products/{product_id}": "public",
    "GET /search": "public",
    "POST /products": "catalog:write",
    "PATCH /products/{product_id}": "catalog:write",
    "PUT /products/by-sku/{sku}": "catalog:write",
    "DELETE /products/{product_id}": "catalog:write",
    "POST /products/{product_id}/stock": "stock:write",
    "GET /products/{product_id}/stock": "catalog:read",
    "POST /carts": "public",
    "GET /carts/{cart_id}": "owner",
    "POST /carts/{cart_id}/items": "owner",
    "PUT /carts/{cart_id}/items/{product_id}": "owner",
    "DELETE /carts/{cart_id}/items/{product_id}": "owner",
    "POST /carts/{cart_id}/checkout": "owner",
    "POST /carts/{cart_id}/claim": "user",
    "GET /me/carts": "user",
    "GET /orders": "orders:read",
    "GET /orders/{order_id}": "owner",
    "GET /orders/{order_id}/timeline": "owner",
    "POST /orders/{order_id}/cancel": "owner",
    "POST /orders/{order_id}/claim": "user",
    "GET /me/orders": "user",
    "POST /orders/{order_id}/refund": "orders:refund",
    "GET /stuck": "orders:read",
    "POST /stuck/{kind}/{id}/resolve": "orders:refund",
    "POST /event-endpoints": "events:write",
    "GET /event-endpoints": "events:write",
    "GET /event-endpoints/{endpoint_id}": "events:write",
    "PATCH /event-endpoints/{endpoint_id}": "events:write",
    "DELETE /event-endpoints/{endpoint_id}": "events:write",
    "POST /event-endpoints/{endpoint_id}/rotate": "events:write",
    "GET /event-endpoints/{endpoint_id}/deliveries": "events:write",
    "POST /event-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend": "events:write",
    "GET /audit": "audit:read",
    "POST /auth/revocations": "auth:revoke",
    "POST /webhooks/stripe": "unread",
    "GET /payments/success": "unread",
    "GET /payments/cancel": "unread",
    "GET /problems/{code}": "unread",
    "GET /health/live": "unread",
    "GET /health/ready": "unread",
    "GET /docs": "unread",
    "GET /docs/static/{name}": "unread",
    "GET /openapi.json": "unread",
}

# The beginnings of the paths whose header is not read. The rate limit needs them before a route is found.
UNREAD = tuple(sorted({f"/{call.split('/')[1]}" for call, rule in POLICY.items() if rule == "unread"}))


class MissingRule(Exception):
    """A route has no rule, a rule has no route, or a route does not apply its rule; the text says which."""


async def authorize(request: Request) -> Principal:
    """Guard: who sends the request, if the route's rule allows it.

    Raises `unauthorized`, `forbidden`, and what `identify` raises.
    """
    rule = POLICY[f"{request.method} {request.scope['route'].path}"]
    if rule == "unread":
        return GUEST
    principal = request.scope["app"].state.identity.at_hand(request.scope) or await identify(request.scope)
    if rule == "user" and not principal.user_id:
        if principal is GUEST:
            raise ShopError("unauthorized", "This call is for signed-in customers.")
        raise ShopError("forbidden", "This call is for people with an access token.")
    if rule in SCOPES:
        require(principal, rule)
    actor.set(principal.actor)
    return principal


def require(principal: Principal, scope: str) -> None:
    """Raises `unauthorized` or `forbidden` unless the principal has the scope."""
    if scope not in principal.scopes:
        if principal is GUEST:
            raise ShopError("unauthorized", "This call needs a credential.")
        raise ShopError("forbidden", f"This call needs the scope {scope}.", required_scope=scope)


Caller = Annotated[Principal, Depends(authorize)]


def security_of(call: str) -> list[dict[str, list[str]]]:
    """The `security` of a call in the OpenAPI document: its credentials, where `{}` is none."""
    rule = POLICY[call]
    if rule == "unread":
        return []
    if rule in ("public", "owner"):
        return [{}, {"bearer": []}]
    return [{"bearer": []}] if rule == "user" else [{"bearer": [rule]}]


def check(guards: Mapping[str, Collection[object]]) -> None:
    """Raises MissingRule unless each call has exactly one rule and applies it. `guards`: the functions of each call."""
    if wrong := guards.keys() ^ POLICY.keys():
        raise MissingRule(f"without a route or without a rule: {', '.join(sorted(wrong))}")
    for call, functions in guards.items():
        if POLICY[call] != "unread" and call.partition(" ")[2].startswith(UNREAD):
            raise MissingRule(f"{call} begins like a path whose header is not read")
        if POLICY[call] != "unread" and authorize not in functions:
            raise MissingRule(f"{call} does not depend on `authorize`")
