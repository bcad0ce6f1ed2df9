"""What comes in: bodies, ids, keys and credentials, each checked before the shop sees it."""

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import from_json

from service.errors import ShopError, invalid, not_found
from service.http.clients import Clients
from service.infra.credentials import is_staff
from service.infra.resources import Resources
from service.shop.idempotency import IdempotencyKey

BODY_LIMIT = 64 * 1024
WEBHOOK_LIMIT = 1024 * 1024
BIGINT_MAX = 2**63 - 1
# Printable ASCII without spaces at its ends.
IDEMPOTENCY_KEY = "[!-~]([ -~]{0,253}[!-~])?"

UUID_FORM = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

ProductId = Annotated[str, Path(description="A product's id")]
CategoryId = Annotated[str, Path(description="A category's id")]
CartId = Annotated[str, Path(description="A cart's UUID")]
OrderId = Annotated[str, Path(description="An order's UUID")]


def _in_digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError("is a number in digits")
    return text


# A number in a query, beside its type; that alone would take `1_0`, `1.0` and `+1` too. Bounds stand before it, or
# the OpenAPI document would not have them.
DIGITS = BeforeValidator(_in_digits)

# PostgreSQL's text cannot hold a NUL.
NO_NUL = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL)]
Description = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]
# Whatever `catalog.slug_of` makes fits: letters but for capitals, and digits, with single dashes between.
_SLUG = r"[\p{Ll}\p{Lo}\p{Lm}\p{N}]+"
Slug = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=rf"^{_SLUG}(-{_SLUG})*$"),
    # Few programs that read the document know `\p`.
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": r"^[^\s-]+(-[^\s-]+)*$",
            "description": "Letters, none of them a capital, and digits, with single dashes between",
        }
    ),
]


class Body(BaseModel):
    """The base of every request body: JSON types as they are, nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Query(BaseModel):
    """The base of every query: what is not known is not looked at; of what is given twice, the last counts."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Nothing(Body):
    """A body that may be empty or `{}`."""


Model = TypeVar("Model", bound=Body)
Asked = TypeVar("Asked", bound=Query)


def client_of(request: Request) -> bytes | None:
    """The client to count pending orders by; None where they are not counted, or it is not known."""
    if not resources_of(request).settings.max_pending_per_client:
        return None
    clients: Clients = request.app.state.clients
    return clients.digest(request.scope)


def resources_of(request: Request) -> Resources:
    """What the application opened at start."""
    resources: Resources = request.app.state.resources
    return resources


# For the OpenAPI document; what it finds is checked by `is_staff`.
_BEARER = Depends(HTTPBearer(scheme_name="staff", description="The ADMIN_TOKEN, where one is set.", auto_error=False))


async def staff(request: Request, _: object = _BEARER) -> None:
    """Refuse whoever does not bring the ADMIN_TOKEN, where there is one."""
    if not is_staff_request(request):
        raise ShopError("unauthorized", "This call is for the shop's staff.")


def is_staff_request(request: Request) -> bool:
    """Whether a request brings the ADMIN_TOKEN; without one everybody is staff."""
    token = resources_of(request).settings.admin_token
    return not token or is_staff(request.headers.get("authorization", ""), token)


async def read_bytes(request: Request, limit: int = BODY_LIMIT, take: Callable[[int], None] | None = None) -> bytes:
    """The raw body; `body_too_large` as soon as more than `limit` bytes are announced or come.

    `take` gets the size of each part as it comes, and may refuse it.
    """
    announced = request.headers.get("content-length", "")
    too_large = ShopError("body_too_large", f"A body here holds at most {limit} bytes.")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if take:
            take(len(chunk))
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def read(request: Request, model: type[Model]) -> tuple[Model, IdempotencyKey | None]:
    """The body as `model`, with the request's idempotency key.

    Raises `unsupported_media_type`, `body_too_large`, `malformed` or `invalid`.
    """
    body = (await read_bytes(request)).strip()
    if body:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise ShopError("unsupported_media_type", "Send Content-Type: application/json.")
    body = body or b"{}"
    try:
        # Not by model_validate_json, which would take NaN and Infinity. Of a member given twice the last counts.
        data = model.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        raise _refusal(error, model) from None
    except ValueError:
        raise ShopError("malformed", "The body is not JSON in UTF-8.") from None
    return data, _key(request, body)


def read_query(request: Request, model: type[Asked]) -> Asked:
    """The query as `model`; `invalid` where it does not fit."""
    if not request.scope["query_string"]:
        return model()
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _refusal(error, model) from None


def _refusal(error: ValidationError, model: type[BaseModel]) -> ShopError:
    """Which members are wrong and how, in the validator's words and without what was sent."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    known = ", ".join(model.model_fields)
    return ShopError(
        "invalid",
        "The request is not valid.",
        errors=[
            {"pointer": "", "message": f"unknown member; known are: {known or 'none'}"}
            if problem["type"] == "extra_forbidden"
            else {"pointer": pointer(problem["loc"]), "message": problem["msg"]}
            for problem in problems
        ],
    )


def pointer(location: tuple[Any, ...]) -> str:
    """A validator's location as a JSON pointer."""
    return "".join(f"/{part}" for part in location)


def _key(request: Request, body: bytes) -> IdempotencyKey | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not re.fullmatch(IDEMPOTENCY_KEY, keys[0]):
        raise invalid("/Idempotency-Key", "is one header of 1 to 255 printable ASCII characters")
    # Decoded, and its UUIDs as we write them: a key belongs to a cart or an order, however its id is spelled.
    path = re.sub(UUID_FORM, lambda match: match[0].lower(), request.scope["path"])
    principal = _principal(request)
    return (
        None
        if principal is None
        else IdempotencyKey.of(method=request.method, path=path, principal=principal, key=keys[0], body=body)
    )


def _principal(request: Request) -> str | None:
    """The callers who share a key's stored response. None: the caller has no address, so the key is not used.

    All staff shares, whatever its token. A new cart is shared by one client address. Every other call of customers
    names a cart or an order: whoever knows that id shares.
    """
    if any(guard.dependency is staff for guard in request.scope["route"].dependencies):
        return "admin"
    if request.scope["path"] == "/carts":
        client = request.app.state.clients.digest(request.scope, whole=True)
        # Without an address, strangers would share the cart. A second, empty cart does no harm.
        return None if client is None else f"client:{client.hex()}"
    return ""


def integer_id(text: str, what: str) -> int:
    """A product's or category's id; one of impossible form is simply not there."""
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) and int(text) <= BIGINT_MAX:
        return int(text)
    raise not_found(what)


def uuid_id(text: str, what: str) -> UUID:
    """A cart's or order's id; one of impossible form is simply not there."""
    if re.fullmatch(UUID_FORM, text):
        return UUID(text)
    raise not_found(what)
