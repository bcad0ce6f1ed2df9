"""The one error type, its codes, and the codes for PostgreSQL's constraints and SQLSTATEs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID


@dataclass(slots=True)
class ShortItem:
    """A line with more units than are in stock."""

    product_id: int
    requested: int
    available: int


@dataclass(slots=True)
class InvalidMember:
    """What is wrong with one member or parameter."""

    pointer: str
    message: str


class Member(NamedTuple):
    """A member that a code adds to its problem document."""

    type: Any
    meaning: str
    example: Any
    # Whether every document with this code has it.
    always: bool = False


class Kind(NamedTuple):
    """One error code: the texts of its documentation, and the seconds after which a retry may succeed, if any.

    The member `retry_after_seconds` of a problem replaces these seconds.
    """

    status: int
    title: str
    cause: str
    remedy: str
    retry_after: int | None = None
    members: Mapping[str, Member] = MappingProxyType({})


KINDS: dict[str, Kind] = {
    "malformed": Kind(
        400, "Malformed request", "The request is not valid HTTP, or its body is not JSON in UTF-8.", "Correct it."
    ),
    "invalid_signature": Kind(
        400,
        "Invalid webhook signature",
        "The Stripe-Signature header is missing, too old, or was not made with our secret over this body.",
        "Check the endpoint's secret and the clocks.",
    ),
    "unauthorized": Kind(
        401,
        "Credential required",
        "The call needs a credential, and none was sent.",
        "Send Authorization: Bearer with an access token, a service key or the ADMIN_TOKEN.",
    ),
    "invalid_token": Kind(
        401,
        "Invalid credential",
        "The credential that was sent is not valid, has expired or was revoked.",
        "Get a new access token, or send none.",
    ),
    "forbidden": Kind(
        403,
        "Forbidden",
        "The credential is valid, but does not allow this call.",
        "Use a credential with the scope `required_scope`. Without it, no scope would suffice.",
        members={"required_scope": Member(str, "The scope that the call needs.", "orders:refund")},
    ),
    "not_found": Kind(404, "Not found", "There is nothing under this address or id.", "Check the address and the id."),
    "method_not_allowed": Kind(
        405,
        "Method not allowed",
        "The address does not support this method.",
        "Use a method that the Allow header names.",
    ),
    "request_timeout": Kind(408, "Request timeout", "The body did not arrive in time.", "Send the request again."),
    "slug_taken": Kind(409, "Slug taken", "Another category has this slug.", "Choose another slug."),
    "sku_taken": Kind(409, "SKU taken", "Another product has this sku.", "Edit that product, or choose another sku."),
    "category_in_use": Kind(
        409, "Category in use", "Products still use this category.", "Move these products to another category first."
    ),
    "insufficient_stock": Kind(
        409,
        "Insufficient stock",
        "There are fewer units in stock than requested.",
        "Reduce the quantities to what is available.",
        members={
            "items": Member(
                list[ShortItem],
                "The lines that lack units, with the units available.",
                [{"product_id": 1, "requested": 3, "available": 2}],
            )
        },
    ),
    "quantity_limited": Kind(
        409,
        "Quantity limited",
        "One order may have fewer units of the product, or one client may have fewer of its units unpaid.",
        "Reduce the quantity to `allowed`, or pay or cancel a pending order.",
        members={
            "product_id": Member(int, "The product whose units are limited.", 1, always=True),
            "allowed": Member(int, "The most units that the cart may have of it now.", 100, always=True),
        },
    ),
    "product_inactive": Kind(
        409,
        "Product not for sale",
        "A product was taken off sale.",
        "Remove it from the cart.",
        members={
            "product_id": Member(int, "The product that was to be added.", 1),
            "product_ids": Member(list[int], "The products in the cart that are no longer for sale.", [1, 2]),
        },
    ),
    "currency_mismatch": Kind(
        409,
        "Currency mismatch",
        "All lines of a cart have one currency, and the product has another.",
        "Use a cart for each currency.",
        members={
            "cart_currency": Member(str, "The cart's currency.", "EUR", always=True),
            "product_currency": Member(str, "The product's currency.", "JPY", always=True),
        },
    ),
    "cart_empty": Kind(409, "Cart is empty", "The cart has no lines.", "Add a product first."),
    "cart_not_open": Kind(
        409,
        "Cart not open",
        "The cart has been checked out.",
        "Use its order, or a new cart. The cart opens again when its order is cancelled.",
        members={"order_id": Member(UUID | None, "The cart's order.", "00000000-0000-4000-8000-000000000002")},
    ),
    "price_changed": Kind(
        409,
        "Price changed",
        "The total is not `expected_total_minor`.",
        "Show the customer the new total, and check out with it.",
        members={
            "expected_total_minor": Member(int, "The total that was expected.", 2500, always=True),
            "total_minor": Member(int, "The total at today's prices.", 2700, always=True),
        },
    ),
    "amount_out_of_range": Kind(
        409,
        "Amount out of range",
        "The total is below or above what Stripe can charge in this currency.",
        "Change the cart until its total is within the bounds.",
        members={
            "total_minor": Member(int, "The cart's total.", 49),
            "minimum_minor": Member(int, "The least that can be charged.", 50),
            "maximum_minor": Member(int, "The most that can be charged.", 99_999_999),
        },
    ),
    "checkout_in_progress": Kind(
        409,
        "Checkout in progress",
        "Another request is creating or closing the order's payment session.",
        "Send the request again after `retry_after_seconds`.",
        1,
        members={
            "retry_after_seconds": Member(
                int,
                "The seconds until the other request's claim ends, rounded up. It may end earlier.",
                45,
                always=True,
            )
        },
    ),
    "order_not_cancellable": Kind(
        409,
        "Order not cancellable",
        "The order is paid, or its payment is in progress.",
        "Ask the shop for a refund.",
        members={"order_status": Member(str, "The order's status.", "PAID", always=True)},
    ),
    "order_not_refundable": Kind(
        409,
        "Order not refundable",
        "The order is not paid, or the amount or units are more than what is left to refund.",
        "Refund at most `refundable_minor`, and of the product `product_id` at most `refundable_quantity`.",
        members={
            "refundable_minor": Member(int, "How much can still be refunded.", 1250),
            "product_id": Member(int, "Of a refund by line: the first line of which too much was asked.", 1),
            "refundable_quantity": Member(int, "How many units of this line can still be refunded.", 1),
        },
    ),
    "idempotency_key_in_use": Kind(
        409,
        "Idempotency key in use",
        "The first request with this key is still being processed.",
        "Send the request again, with the same key.",
        1,
    ),
    "precondition_failed": Kind(
        412,
        "Precondition failed",
        "The product was edited since the version that If-Match names, is missing, or exists against If-None-Match.",
        "Read the product again, and repeat the edit on its current version.",
        members={"version": Member(int, "The product's version, unless it is missing.", 2)},
    ),
    "body_too_large": Kind(413, "Body too large", "The body is larger than this call accepts.", "Send a smaller body."),
    "unsupported_media_type": Kind(
        415, "Unsupported media type", "The body's Content-Type is not JSON.", "Send Content-Type: application/json."
    ),
    "invalid": Kind(
        422,
        "Invalid request",
        "A member of the body, a parameter or a header has an invalid value or an unknown name.",
        "Correct what `errors` names.",
        members={
            "errors": Member(
                list[InvalidMember],
                "What is wrong, by JSON pointer.",
                [{"pointer": "/name", "message": "Field required"}],
                always=True,
            )
        },
    ),
    "idempotency_key_reused": Kind(
        422,
        "Idempotency key reused",
        "The key was used before, with another body.",
        "Use a new key for each new request.",
    ),
    "rate_limited": Kind(
        429,
        "Too many requests",
        "This client sent too many requests, or has too many unpaid orders.",
        "Wait, or pay or cancel an order.",
        60,
    ),
    "headers_too_large": Kind(
        431, "Headers too large", "The request line and headers are too large.", "Send fewer or shorter headers."
    ),
    "internal": Kind(
        500, "Internal error", "The service has a defect.", "Report it with the X-Request-ID of the response."
    ),
    "payment_refused": Kind(
        502,
        "Payment refused",
        "Stripe refused to create the payment session, and the order was cancelled.",
        "Do not retry; the service's log has Stripe's reason.",
    ),
    "payment_unavailable": Kind(
        503, "Payment unavailable", "Stripe does not answer, or answers with an error.", "Send the request again.", 5
    ),
    "payment_misconfigured": Kind(
        503,
        "Payment misconfigured",
        "Stripe refuses the service's API key.",
        "Send the request again once the operator has corrected the key.",
        60,
    ),
    "auth_unavailable": Kind(
        503,
        "Authentication unavailable",
        "The identity provider does not answer, and the key of this access token is not known.",
        "Send the request again, or without a token where the call needs none.",
        5,
    ),
    "busy": Kind(503, "Server busy", "Too many requests need the same resource at once.", "Send the request again.", 1),
    "unavailable": Kind(
        503,
        "Service unavailable",
        "A part that the service needs does not answer.",
        "Send the request again.",
        2,
        members={
            "postgresql": Member(str, "The state of PostgreSQL.", "unreachable"),
            "worker": Member(str, "The state of the worker.", "not seen"),
            "redis": Member(str, "The state of Redis.", "ok"),
        },
    ),
}

# Constraint -> code and detail of the error for its violation.
CONSTRAINTS: dict[str, tuple[str, str]] = {
    "categories_slug_unique": ("slug_taken", "Another category has this slug."),
    "products_sku_unique": ("sku_taken", "Another product has this sku."),
    "products_category_fkey": ("category_in_use", "Products still use this category."),
    "products_stock_not_negative": ("insufficient_stock", "There are not enough units in stock."),
    "cart_items_quantity_range": ("invalid", "A line holds 1 to 9,999 units."),
    "orders_total_range": ("amount_out_of_range", "The total of an order is 1 to 999,999,999,999 minor units."),
    "orders_one_live_per_cart": ("cart_not_open", "The cart has another order."),
    "payments_payment_intent_once": ("busy", "This payment is being recorded elsewhere; try again."),
    "payments_refunded_within_amount": ("order_not_refundable", "A refund cannot exceed what was paid."),
    "stock_movements_once": ("busy", "These units are being moved elsewhere; try again."),
}

# SQLSTATE of a temporary error -> code of the error after the last retry.
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

# SQLSTATEs of a refused login. From a statement, the last two mean something else.
LOGIN_SQLSTATES = {
    "28000",  # no rule, or no such role
    "28P01",  # wrong password
    "3D000",  # no such database
    "42501",  # no CONNECT privilege
    "55000",  # a database that takes no connections
}


class ShopError(Exception):
    """An error response, raised anywhere; `responses.problem` turns it into HTTP.

    `code` is a key of KINDS; `detail` is a sentence for people; `extra` has the members that KINDS lists for the code.
    `detail` and `extra` never repeat what the client sent.
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
