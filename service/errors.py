"""The one error type, its codes, and the codes for PostgreSQL's constraints and SQLSTATEs."""

from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One error code: its HTTP status, its title and, for a passing trouble, when to come back (seconds)."""

    status: int
    title: str
    retry_after: int | None = None


KINDS: dict[str, Kind] = {
    "malformed": Kind(400, "The request cannot be understood"),
    "invalid_signature": Kind(400, "The webhook's signature does not verify"),
    "unauthorized": Kind(401, "A valid bearer token is needed"),
    "not_found": Kind(404, "There is no such thing here"),
    "method_not_allowed": Kind(405, "This address does not take that method"),
    "request_timeout": Kind(408, "The body did not come in time"),
    "slug_taken": Kind(409, "Another category has this slug"),
    "category_in_use": Kind(409, "Products still use this category"),
    "insufficient_stock": Kind(409, "Not enough units in stock"),
    "product_inactive": Kind(409, "The product is not for sale"),
    "currency_mismatch": Kind(409, "The cart is in another currency"),
    "cart_empty": Kind(409, "The cart is empty"),
    "cart_not_open": Kind(409, "The cart has been checked out"),
    "price_changed": Kind(409, "The total is not the one expected"),
    "amount_out_of_range": Kind(409, "The total is outside of what can be charged"),
    "checkout_in_progress": Kind(409, "Another request is creating the payment session", 2),
    "order_not_cancellable": Kind(409, "The order can no longer be cancelled"),
    "order_not_refundable": Kind(409, "The order cannot be refunded"),
    "idempotency_key_in_use": Kind(409, "The first request with this key is still running", 1),
    "precondition_failed": Kind(412, "The resource has changed since"),
    "body_too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The body must be application/json"),
    "invalid": Kind(422, "The request is not valid"),
    "idempotency_key_reused": Kind(422, "This key was used for another request"),
    "rate_limited": Kind(429, "Too much from one client", 60),
    "headers_too_large": Kind(431, "The request's headers are too large"),
    "internal": Kind(500, "Something went wrong on our side"),
    "payment_refused": Kind(502, "Stripe refused the payment session", 60),
    "payment_unavailable": Kind(503, "Stripe does not answer", 5),
    "payment_misconfigured": Kind(503, "Payment provider refuses our key", 60),
    "busy": Kind(503, "Too much at once", 1),
    "unavailable": Kind(503, "A part of the service is not there", 2),
}

# Constraint -> code and detail of the error for its violation.
CONSTRAINTS: dict[str, tuple[str, str]] = {
    "categories_slug_unique": ("slug_taken", "Another category has this slug."),
    "products_category_fkey": ("category_in_use", "Products still use this category."),
    "products_stock_not_negative": ("insufficient_stock", "There are not enough units in stock."),
    "cart_items_quantity_range": ("invalid", "A line holds 1 to 9,999 units."),
    "orders_total_range": ("amount_out_of_range", "An order comes to 50 to 99,999,999 minor units."),
    "orders_one_live_per_cart": ("cart_not_open", "The cart has another order."),
    "payments_payment_intent_once": ("busy", "This payment is being recorded elsewhere; try again."),
    "payments_refunded_within_amount": ("order_not_refundable", "More than was paid cannot be given back."),
    "stock_movements_once": ("busy", "These units are being moved elsewhere; try again."),
}

# SQLSTATE of a temporary error -> code, when the retries are used up.
SQLSTATES: dict[str, str] = {
    "40001": "busy",  # serialization failure
    "40P01": "busy",  # deadlock
    "55P03": "busy",  # lock_timeout
    "57014": "busy",  # statement_timeout
    "53300": "unavailable",  # too many connections
    "57P01": "unavailable",  # the server shuts down
    "57P02": "unavailable",  # the server crashed
    "57P03": "unavailable",  # the server starts or shuts down
}

# SQLSTATEs of a refused login. Raised by a statement, the last two have another meaning.
LOGIN_SQLSTATES = {
    "28000",  # no rule, or no such role
    "28P01",  # wrong password
    "3D000",  # no such database
    "42501",  # no CONNECT privilege
    "55000",  # a database that takes no connections
}


class ShopError(Exception):
    """An error that the client is told about. `responses.problem` makes the HTTP response of it.

    `code` is a key of KINDS, `detail` a sentence for people, `extra` the further members of the problem, for programs.
    None of them may contain what a client sent.
    """

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.kind = KINDS[code]
        self.code = code
        self.detail = detail
        self.extra = extra


def not_found(what: str) -> ShopError:
    """The 404 for `what`, e.g. "product"."""
    return ShopError("not_found", f"There is no such {what}.")


def invalid(pointer: str, message: str) -> ShopError:
    """The 422 for one member of the body, named by a JSON pointer."""
    return ShopError("invalid", "The request is not valid.", errors=[{"pointer": pointer, "message": message}])
