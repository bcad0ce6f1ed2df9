"""Faults on demand: which API calls fail, how, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from starlette.types import Receive, Send

from .rate_limit import rate_limited
from .replies import ApiError, Reply

ACTIONS = ("delay", "hang", "status", "status_after", "drop", "drop_after", "malformed")


@dataclass(slots=True)
class Rule:
    """One kind of fault.

    `method`: HTTP method, "*" for any. `path`: a prefix, or with any of `*?[` a pattern for the whole path:
    POST "/v1/checkout/session[s]" matches creation alone. `times`: how many calls fail, None for all.

    delay: the answer comes after `seconds`.
    hang: the call has no effect and no answer; the connection is closed after `seconds`, 0 for never.
    status: the call has no effect and answers `status`, with the error `code` if there is one; with `stored` the
    idempotency key remembers it.
    status_after: the call takes effect but answers `status`, which the key remembers.
    drop: the call has no effect; the connection is closed.
    drop_after: the call takes effect and the key remembers its answer; the connection is closed.
    malformed: the call takes effect and the key remembers its answer; half of that answer arrives.

    All but hang first wait `seconds`.
    """

    action: str
    path: str = "/v1/"
    method: str = "*"
    times: int | None = None
    seconds: float = 0.0
    status: int = 500
    stored: bool = False
    code: str | None = None

    def matches(self, method: str, path: str) -> bool:
        if self.method.upper() not in ("*", method):
            return False
        return fnmatchcase(path, self.path) if set("*?[") & set(self.path) else path.startswith(self.path)


class Faults:
    """The rules in force; the first that matches a call applies to it."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def set(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules. Raises ApiError 400 when one is invalid."""
        try:
            parsed = [Rule(**rule) for rule in rules]
        except TypeError as error:
            raise ApiError(400, f"Invalid fault rule: {error}") from None
        for rule in parsed:
            if rule.action not in ACTIONS:
                raise ApiError(400, f"A fault's action is one of {', '.join(ACTIONS)}.", param="action")
        self._rules = parsed

    def take(self, method: str, path: str) -> Rule | None:
        """The rule for this call, which counts against its `times`."""
        for rule in self._rules:
            if rule.times != 0 and rule.matches(method, path):
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None


class ConnectionDropped(Exception):
    """The connection must be closed without an answer."""


async def apply_before(rule: Rule | None, receive: Receive) -> None:
    """Apply a fault before the call takes effect. Raises ApiError or ConnectionDropped."""
    if rule is None:
        return
    if rule.action == "hang":
        await client_disconnected(receive, rule.seconds or None)
        raise ConnectionDropped
    await asyncio.sleep(rule.seconds)
    if rule.action == "drop":
        raise ConnectionDropped
    if rule.action == "status":
        raise failure(rule.status, stored=rule.stored, code=rule.code)


def apply_after(rule: Rule | None, reply: Reply) -> Reply:
    """Apply a fault to the reply on its way out. Raises ConnectionDropped."""
    if rule is not None and rule.action == "drop_after":
        raise ConnectionDropped
    if rule is not None and rule.action == "malformed":
        return Reply(200, reply.body[: len(reply.body) // 2])
    return reply


def failure(status: int, *, stored: bool, code: str | None = None) -> ApiError:
    if status == 429:
        return rate_limited("global-rate", code or "rate_limit")
    message = "This failure was requested from the stand-in for Stripe."
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return ApiError(status, message, code=code, kind=kind, stored=stored)


async def client_disconnected(receive: Receive, seconds: float | None) -> None:
    """Wait until the client disconnects, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


async def close_connection(receive: Receive, send: Send) -> None:
    """Close the connection without an answer. ASGI has no message for that, so this uses uvicorn's transport."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("The faults hang, drop and drop_after need uvicorn, with nothing wrapped around `send`.")
    transport.close()
    await client_disconnected(receive, None)
