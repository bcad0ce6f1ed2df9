"""Reading a request's body: bounded, once, and as strict JSON."""

import re
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json

from service.errors import ShopError

BODY_LIMIT = 64 * 1024
WEBHOOK_LIMIT = 1024 * 1024
_JSON = re.compile(r"\s*application/([^/;]+\+)?json\s*(;.*)?", re.IGNORECASE)
# Stands for a body or a parameter that was not sent.
MISSING = object()


async def read_body(request: Request, limit: int = BODY_LIMIT, take: Callable[[int], None] | None = None) -> bytes:
    """The raw body. Raises `body_too_large` as soon as more than `limit` bytes are announced or have arrived.

    `take` gets the size of each chunk, and may refuse it by an exception.
    """
    announced = request.headers.get("content-length", "")
    too_large = ShopError("body_too_large", f"A body of this call may have at most {limit} bytes.")
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


class BoundedRequest(Request):
    """A request whose body is bounded, strict JSON, and read once."""

    _bounded: bytes | None = None

    async def body(self) -> bytes:
        """The body. Raises `body_too_large`."""
        if self._bounded is None:
            self._bounded = await read_body(self)
        return self._bounded

    async def content(self) -> Any:
        """The body's JSON, or MISSING. FastAPI's parser would accept NaN, lone surrogates and UTF-16."""
        body = await self.body()
        if not body:
            return MISSING
        media_type = self.headers.get("content-type", "")
        if media_type != "application/json" and not _JSON.fullmatch(media_type):
            raise ShopError("unsupported_media_type", "Send Content-Type: application/json.")
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError:
            error = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "input": {}}
            raise RequestValidationError([error]) from None
