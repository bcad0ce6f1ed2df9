"""Responses: JSON, stored ones, and every error as a problem document (RFC 9457)."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.errors import KINDS, ShopError
from service.infra.encoding import encode
from service.shop.idempotency import StoredResponse

# The code and detail for a status that FastAPI or our router raises without them.
_BY_STATUS = {
    400: ("malformed", "The body is not JSON in UTF-8."),
    404: ("not_found", "There is no such address."),
    405: ("method_not_allowed", "This address does not support the method."),
}


def json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(encode(content), status, headers, "application/json")


def stored(response: StoredResponse) -> Response:
    """A response of the shop; Idempotent-Replayed marks a repeated one."""
    headers = {"Location": response.location} if response.location and response.status == 201 else {}
    if response.replayed:
        headers["Idempotent-Replayed"] = "true"
    # 204 has no content.
    body = None if response.status == 204 else response.body
    return Response(body, response.status, headers, "application/json" if body else None)


def problem(error: ShopError) -> Response:
    """An error as `application/problem+json`."""
    kind = error.kind
    document = {
        "type": f"/problems/{error.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": error.detail,
        "code": error.code,
        **error.extra,
    }
    if error.code == "invalid":
        document.setdefault("errors", [{"pointer": "", "message": error.detail}])
    retry_after = error.extra.get("retry_after_seconds", kind.retry_after)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if kind.status == 401:
        reason = ', error="invalid_token"' if error.code == "invalid_token" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="shop"{reason}'
    return Response(encode(document), kind.status, headers, "application/problem+json")


async def shop_error(request: Request, error: ShopError) -> Response:
    """The handler of ShopError."""
    return problem(error)


async def http_error(request: Request, error: HTTPException) -> Response:
    """The handler of HTTPException, raised by FastAPI or by guards written as in its documentation."""
    status, codes = error.status_code, [code for code, kind in KINDS.items() if kind.status == error.status_code]
    # Except for 401, a status with several codes does not say which of them a guard means.
    if status in _BY_STATUS or len(codes) == 1 or status == 401:
        response = problem(ShopError(*_BY_STATUS.get(status, (codes[0], str(error.detail)))))
    else:
        # RFC 9457, section 4.2.1: a problem that its status alone explains has the type about:blank.
        document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": error.detail}
        response = Response(encode(document), status, media_type="application/problem+json")
    response.headers.update(error.headers or {})
    return response


async def validation_error(request: Request, error: RequestValidationError) -> Response:
    """The handler of invalid parameters and bodies: names each and the reason, but not the value that was sent."""
    errors: Sequence[dict[str, Any]] = error.errors()
    if any(one["type"] == "json_invalid" for one in errors):
        return problem(ShopError(*_BY_STATUS[400]))
    members = [
        {"pointer": "", "message": f"a name is unknown; {_expected(request, one['loc'][0])}"}
        if one["type"] == "extra_forbidden"
        else {"pointer": "".join(f"/{part}" for part in one["loc"][1:]), "message": one["msg"]}
        for one in errors
    ]
    return problem(ShopError("invalid", "The request is not valid.", errors=members))


def _expected(request: Request, place: str) -> str:
    """The names that the route knows in the query or the body."""
    dependant = request.scope["route"].dependant
    fields = dependant.query_params if place == "query" else dependant.body_params
    names = [name for field in fields for name in field.field_info.annotation.model_fields]
    return f"the known names are: {', '.join(names) or 'none'}"


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Any]] = {
    ShopError: shop_error,
    HTTPException: http_error,
    RequestValidationError: validation_error,
}
