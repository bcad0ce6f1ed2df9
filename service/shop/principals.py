"""Who sends a request, as verified, and what they may do."""

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal[
    "catalog:read",
    "catalog:write",
    "stock:write",
    "orders:read",
    "orders:cancel",
    "orders:refund",
    "events:write",
    "audit:read",
    "metrics:read",
    "auth:revoke",
    "storefront",
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# A storefront's key names the address of its customer, so a person never has this scope.
STAFF_SCOPES: frozenset[Scope] = frozenset(SCOPES) - {"storefront"}

_VIEWER: frozenset[Scope] = frozenset({"catalog:read", "orders:read"})
# The roles of staff, by the names that the identity provider gives them.
ROLES: dict[str, frozenset[Scope]] = {
    "viewer": _VIEWER,
    "catalogue": frozenset({"catalog:read", "catalog:write", "stock:write"}),
    "support": _VIEWER | {"orders:cancel"},
    "refunds": _VIEWER | {"orders:refund"},
    "admin": STAFF_SCOPES,
}

# The owner of what was erased. No token may have it as its subject.
ERASED = "erased"


@dataclass(slots=True, frozen=True)
class Principal:
    """Who sends a request.

    `actor` is their name in histories and in the audit log. `user_id` is the `sub` of an access token: carts and orders
    belong to it. `email` is the token's address, if the identity provider has verified it.
    """

    actor: str
    scopes: frozenset[Scope] = frozenset()
    user_id: str | None = None
    email: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether they have this scope."""
        return scope in self.scopes

    @property
    def is_staff(self) -> bool:
        """Whether they have a scope of staff, of whatever kind."""
        return bool(self.scopes & STAFF_SCOPES)


# Nobody was identified: the id of a cart or an order is enough until somebody owns it.
GUEST = Principal("customer")
# Everybody, in a demo without ADMIN_TOKEN and AUTH_ISSUER.
OPEN = Principal("open", STAFF_SCOPES)
ADMIN = Principal("admin", STAFF_SCOPES)
# The service itself: what it does to an order is nobody's request.
SERVICE = Principal("service", frozenset({"orders:read"}))
