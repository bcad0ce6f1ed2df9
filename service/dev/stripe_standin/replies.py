"""What the API answers: replies, and errors in Stripe's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from .store import Json


class ApiError(Exception):
    """An error that Stripe's API answers.

    `stored`: the idempotency key remembers it. Stripe stores an answer once the endpoint has begun its work. It stores
    none for failed validation or authentication, or for a key that another request is using.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        stored: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        self.headers = dict(headers or {})
        error = {"type": kind, "message": message}
        if code is not None:
            error |= {
                "code": code,
                "doc_url": doc_url(code),
            }
        if param is not None:
            error["param"] = param
        self.body: Json = {"error": error}


def doc_url(code: str) -> str:
    """The page about an error code."""
    return f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"


def missing_object(noun: str, object_id: str, param: str = "id") -> ApiError:
    return ApiError(404, f"No such {noun}: '{object_id}'", code="resource_missing", param=param)


@dataclass(slots=True)
class Reply:
    """A response before it is sent; `stored`: an idempotency key remembers it."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    stored: bool = True


def error_reply(error: ApiError) -> Reply:
    reply = Reply(error.status, orjson.dumps(error.body), dict(error.headers), stored=error.stored)
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = 'Basic realm="Stripe"'
    if error.status == 409:
        reply.headers["Stripe-Should-Retry"] = "true"
    if error.status >= 500 and error.stored:
        # A retry with the same key would get the same error.
        reply.headers["Stripe-Should-Retry"] = "false"
    return reply
