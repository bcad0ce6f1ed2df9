"""What goes out, and how it is written in the OpenAPI document."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from service.errors import KINDS, ShopError
from service.http.requests import IDEMPOTENCY_KEY, Body, Query
from service.infra.encoding import encode
from service.shop.idempotency import StoredResponse


def json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(encode(content), status, headers, "application/json")


def answer(given: StoredResponse) -> Response:
    """An answer of the shop, said to be a replay when it is one."""
    headers = {"Location": given.location} if given.location and given.status == 201 else {}
    if given.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(given.body, given.status, headers, "application/json")


def problem(error: ShopError) -> Response:
    """An error as `application/problem+json` (RFC 9457)."""
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
    headers = {}
    if kind.retry_after is not None:
        headers["Retry-After"] = str(kind.retry_after)
    if kind.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="staff"'
    return Response(encode(document), kind.status, headers, "application/problem+json")


class FieldProblem(BaseModel):
    """One member of the body that is wrong."""

    pointer: str
    message: str


class Problem(BaseModel):
    """RFC 9457, with `code` for programs; some codes bring members of their own."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | None = None


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these codes, besides those that any may."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, "rate_limited", "headers_too_large", "busy", "unavailable"):
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {
        status: {
            "description": ", ".join(f"`{code}`" for code in found),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, found in sorted(by_status.items())
    }


# What any route that reads a body may answer.
BODY_PROBLEMS = ("malformed", "request_timeout", "body_too_large", "unsupported_media_type", "invalid")
KEY_PROBLEMS = ("idempotency_key_in_use", "idempotency_key_reused")

ETAG_HEADER = {"ETag": {"schema": {"type": "string"}}}


def request_header(name: str, description: str, **schema: object) -> dict[str, Any]:
    """A header that a route reads itself."""
    return {"name": name, "in": "header", "schema": {"type": "string", **schema}, "description": description}


_KEY = request_header(
    "Idempotency-Key",
    "Repeat a request with the same key to get the first one's answer.",
    minLength=1,
    maxLength=255,
    pattern=f"^{IDEMPOTENCY_KEY}$",
)


def asks(model: type[Query]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads the query `model` itself."""
    members = model.model_json_schema()["properties"]
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in members.items()]}


def takes(model: type[Body], *headers: dict[str, Any], key: bool = False, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads `model`, and these headers, itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body, "parameters": [*headers, *([_KEY] if key else [])]}
