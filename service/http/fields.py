"""Types of the members, path and query parameters that several calls share."""

import re
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from service.errors import not_found
from service.infra.logs import add_subject
from service.shop.product_fields import NO_CONTROL, check_visible
from service.shop.text import MAX_LENGTH, is_slug, to_nfc

BIGINT_MAX = 2**63 - 1
# The default of a member that may be left out, but not be null: the default is None, while the type refuses null.
LEFT_OUT: Any = Field(default_factory=lambda: None)
UUID_FORM = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


def parse_integer(text: str, what: str) -> int:
    """A product's or category's id. Raises `not_found` for a text that cannot be an id."""
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) and int(text) <= BIGINT_MAX:
        return int(text)
    raise not_found(what)


def parse_uuid(text: str, what: str) -> UUID:
    """A cart's or order's id. Raises `not_found` for a text that cannot be an id."""
    if re.fullmatch(UUID_FORM, text):
        return UUID(text)
    raise not_found(what)


def parse_order_id(text: str) -> UUID:
    """`parse_uuid`; the log lines of the request name the order from here on."""
    order_id = parse_uuid(text, "order")
    add_subject(order_id=order_id)
    return order_id


def int64(minimum: int) -> WithJsonSchema:
    """The schema of a 64-bit integer, without its maximum: JavaScript would round that."""
    return WithJsonSchema({"type": "integer", "format": "int64", "minimum": minimum})


Id = Annotated[int, Field(ge=1, le=BIGINT_MAX), int64(1)]
# Amounts in minor units.
Amount = Annotated[int, Field(ge=1, le=BIGINT_MAX), int64(1)]
Total = Annotated[int, Field(ge=0, le=BIGINT_MAX), int64(0)]
ProductId = Annotated[int, BeforeValidator(partial(parse_integer, what="product")), int64(1)]
CategoryId = Annotated[int, BeforeValidator(partial(parse_integer, what="category")), int64(1)]
CartId = Annotated[UUID, BeforeValidator(partial(parse_uuid, what="cart"))]
OrderId = Annotated[UUID, BeforeValidator(parse_order_id)]


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError("must be a number in digits")
    return text


# For a number in a query; `int` alone would accept `1_0`, `1.0` and `+1` too. It comes after the bounds:
# before them, it would hide them from the OpenAPI document.
DIGITS: Any = BeforeValidator(_digits)
Limit = Annotated[int, Field(ge=1, le=100), DIGITS]
AfterId = Annotated[int, Field(ge=0, le=BIGINT_MAX), DIGITS, int64(0)]

# PostgreSQL's text cannot contain a NUL.
NO_NUL = r"^[^\x00]*$"


def _slug(slug: str) -> str:
    if not is_slug(slug):
        raise ValueError("must be words of small letters and digits, with single dashes between them")
    return slug


Slug = Annotated[
    str,
    BeforeValidator(to_nfc),
    StringConstraints(min_length=1, max_length=MAX_LENGTH),
    AfterValidator(_slug),
    # Few tools that read the document support `\p`.
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH, "pattern": r"^[^\s-]+(-[^\s-]+)*$"}),
]
# A slug to look for; an impossible one is not found.
SlugQuery = Annotated[str, BeforeValidator(to_nfc), StringConstraints(max_length=MAX_LENGTH, pattern=NO_NUL)]
# A storefront's own name of a cart and its order.
Reference = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=NO_CONTROL),
    AfterValidator(check_visible),
]
# What is looked up exactly: a number, a name, an address or an id.
Exact = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=800, pattern=NO_CONTROL)]
# Why staff do something, in their words.
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=NO_CONTROL)]
