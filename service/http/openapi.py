"""The OpenAPI document: FastAPI's, completed with problems, headers, examples and descriptions."""

import json
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from service import __version__
from service.errors import KINDS
from service.http import outgoing
from service.http.policy import security_of

# document.json has the document's texts. Each call has a file with its examples.
_EXAMPLES = files("service.http") / "examples"
_TEXTS: dict[str, Any] = json.loads((_EXAMPLES / "document.json").read_text())
APPLICATION: dict[str, Any] = {
    **_TEXTS["application"],
    "version": __version__,
    "generate_unique_id_function": lambda route: route.name,
    # FastAPI's own pages load files from other hosts.
    **dict.fromkeys(("openapi_url", "docs_url", "redoc_url")),
}
_SHOP_TAGS, _UNLIMITED_TAGS = ("catalog", "carts", "orders", "staff", "events"), ("webhooks", "operations")
_REF = "#/components/schemas/{model}"
STRIPE_EVENT = {"requestBody": _TEXTS["stripe_event"]}
ETAG = {"headers": {"ETag": {"$ref": "#/components/headers/ETag"}}}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route with these codes. `describe` adds the codes that follow from its parameters."""
    return {KINDS[code].status: {"description": "", "codes": codes} for code in codes}


def describe(app: FastAPI) -> dict[str, Any]:
    """The application's document. Raises if a call has no example or a member has no description."""
    document = app.openapi()
    schemas: dict[str, Any] = document["components"]["schemas"]
    del schemas["HTTPValidationError"], schemas["ValidationError"]
    # A documented call never answers 405.
    for code in sorted(KINDS.keys() - {"method_not_allowed"}):
        schemas[_problem_name(code)] = _problem_schema(code, schemas)
    document["components"]["headers"] = _TEXTS["headers"]
    document["components"]["securitySchemes"] = _TEXTS["security_schemes"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            call["security"] = security_of(f"{method.upper()} {path}")
            _complete(call, json.loads((_EXAMPLES / f"{call['operationId']}.json").read_text()))
    document["webhooks"] = outgoing.webhooks(json.loads((_EXAMPLES / "webhooks.json").read_text()), schemas)
    for name, schema in schemas.items():
        for member, own in schema.get("properties", {}).items():
            if "description" not in own:
                own["description"] = _TEXTS["members"].get(f"{name}.{member}") or _TEXTS["members"][member]
    app.openapi = lambda: document  # type: ignore[method-assign]
    return document


def _complete(call: dict[str, Any], example: dict[str, Any]) -> None:
    """Add the problems and headers that follow from the call's parameters, and its examples."""
    (tag,) = call["tags"]
    parameters: list[dict[str, Any]] = call.get("parameters", [])
    for parameter in parameters:
        place, name = parameter["in"], parameter["name"]
        parameter.setdefault("description", _TEXTS["members"].get(f"{place}.{name}", _TEXTS["members"].get(name)))
        if (value := example.get("parameters", {}).get(name)) is not None:
            parameter["example"] = value
    is_keyed = any(parameter["name"] == "Idempotency-Key" for parameter in parameters)
    codes = {code for response in call["responses"].values() for code in response.pop("codes", ())}
    codes |= _codes_of(call, tag, is_keyed=is_keyed)
    responses = {status: response for status, response in call["responses"].items() if int(status) < 400}
    for status, response in responses.items():
        _add_headers(response, tag, {"Location": status == "201", "Idempotent-Replayed": is_keyed})
        for content in response.get("content", {}).values():
            content["example"] = example["response"]
    for status in sorted({str(KINDS[code].status) for code in codes}):
        of_status = [code for code in KINDS if code in codes and str(KINDS[code].status) == status]
        responses[status] = _problem_response(of_status)
        retry_helps = any(KINDS[code].retry_after for code in of_status)
        _add_headers(responses[status], tag, {"Retry-After": retry_helps, "WWW-Authenticate": status == "401"})
    call["responses"] = responses
    if "requestBody" in call:
        call["requestBody"]["content"]["application/json"]["example"] = example["body"]


def _codes_of(call: dict[str, Any], tag: str, *, is_keyed: bool) -> set[str]:
    security = call["security"]
    codes = {"headers_too_large", "internal", "unavailable"}
    for condition, more in (
        (tag != "operations", "busy"),
        (tag not in _UNLIMITED_TAGS, "rate_limited"),
        (tag in _SHOP_TAGS, "invalid"),
        (any(parameter["in"] == "path" for parameter in call.get("parameters", [])), "not_found"),
        (security, "invalid_token auth_unavailable"),
        (security and {} not in security, "unauthorized forbidden"),
        (is_keyed, "idempotency_key_in_use idempotency_key_reused"),
        ("requestBody" in call, "malformed request_timeout body_too_large"),
        ("requestBody" in call and tag in _SHOP_TAGS, "unsupported_media_type"),
    ):
        codes |= set(more.split() if condition else ())
    return codes


def _add_headers(response: dict[str, Any], tag: str, present: dict[str, bool]) -> None:
    limits = dict.fromkeys(("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"), tag not in _UNLIMITED_TAGS)
    headers = response.setdefault("headers", {})
    for name, is_present in {"X-Request-ID": True, **limits, **present}.items():
        headers.update({name: {"$ref": f"#/components/headers/{name}"}} if is_present else {})


def _problem_response(codes: list[str]) -> dict[str, Any]:
    references = {code: _REF.format(model=_problem_name(code)) for code in codes}
    schemas = [{"$ref": reference} for reference in references.values()]
    one_of = {"oneOf": schemas, "discriminator": {"propertyName": "code", "mapping": references}}
    return {
        "description": " ".join(f"`{code}`: {KINDS[code].cause}" for code in codes),
        "content": {"application/problem+json": {"schema": one_of if len(schemas) > 1 else schemas[0]}},
    }


def _problem_schema(code: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of one code's problems, with the members that this code adds."""
    kind = KINDS[code]
    values = {"type": f"/problems/{code}", "title": kind.title, "status": kind.status, "code": code}
    properties: dict[str, Any] = {
        name: {"const": value, **TypeAdapter(type(value)).json_schema()} for name, value in values.items()
    }
    properties["detail"] = {"type": "string"}
    required = [*properties, *(name for name, member in kind.members.items() if member.always)]
    for name, member in kind.members.items():
        properties[name] = {**TypeAdapter(member.type).json_schema(ref_template=_REF), "description": member.meaning}
        schemas.update(properties[name].pop("$defs", {}))
    example = {**values, "detail": kind.cause, **{name: member.example for name, member in kind.members.items()}}
    return {
        "title": _problem_name(code),
        "description": f"{kind.cause} {kind.remedy}",
        "type": "object",
        "required": required,
        "properties": properties,
        "examples": [example],
    }


def _problem_name(code: str) -> str:
    """The name of a code's schema, for example SlugTakenProblem."""
    return f"{code.title().replace('_', '')}Problem"
