"""Stripe's API under /v1 as an ASGI app: authentication, idempotency keys, and faults on demand."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .account import Account
from .calls import ROUTES, Call, Handler, find_route, permission_for
from .events import NO_REQUEST
from .faults import ConnectionDropped, Faults, Rule, apply_after, apply_before, close_connection, failure
from .objects import API_VERSION, DAY, new_id
from .parameters import Parameters, form_values
from .rate_limit import RateLimit
from .replies import ApiError, Reply, error_reply
from .store import Json


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One authenticated API request with its handler."""

    id: str
    path: str
    handler: Handler
    call: Call
    idempotency_key: str | None
    # SHA-256 of the sorted parameters: an idempotency key compares requests by it.
    fingerprint: str
    rule: Rule | None
    receive: Receive


class Api:
    """ASGI app of everything under /v1. `requests` counts the calls by "METHOD path-template"."""

    def __init__(self, account: Account, faults: Faults, base_url: Callable[[Request], str]) -> None:
        self.requests: Counter[str] = Counter()
        self.rate_limit = RateLimit()
        self._permissions: dict[str, frozenset[str]] = {}
        self._account = account
        self._faults = faults
        self._base_url = base_url
        self._stored_replies = {row["id"]: row for row in account.store.load("reply")}
        self._keys_in_use: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        request_id = new_id("req_", 14)
        try:
            reply = await self._answer(request, body, request_id)
        except ApiError as error:
            reply = error_reply(error)
        except ConnectionDropped:
            await close_connection(receive, send)
            return
        headers = {
            "Request-Id": request_id,
            "Stripe-Version": request.headers.get("stripe-version", API_VERSION),
            **reply.headers,
        }
        await Response(reply.body, reply.status, headers, media_type="application/json")(scope, receive, send)

    async def _answer(self, request: Request, body: bytes, request_id: str) -> Reply:
        api_request = self._parse(request, body, request_id)
        if api_request.idempotency_key is None:
            await apply_before(api_request.rule, api_request.receive)
            reply = self._run(api_request)
        else:
            reply = await self._run_once(api_request, api_request.idempotency_key)
        # One commit, as at Stripe: the effect and the stored reply become durable together.
        self._account.store.commit()
        return apply_after(api_request.rule, reply)

    def _parse(self, request: Request, body: bytes, request_id: str) -> ApiRequest:
        """Authenticate, route and decode a request, and count it. Raises ApiError."""
        key = authenticate(request.headers.get("authorization", ""))
        method, path = request.method, request.scope["path"]
        template, object_id = find_route(method, path)
        self._authorize(key, permission_for(method, template))
        self.requests[f"{method} {template}"] += 1
        self.rate_limit.take(f"{method} {template}")
        if "json" in request.headers.get("content-type", "") and body:
            message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded)"
            raise ApiError(400, message)
        try:
            encoded = body.decode() if method == "POST" else request.url.query
        except UnicodeDecodeError:
            raise ApiError(400, "Invalid UTF-8 in the request's parameters.") from None
        idempotency_key = request.headers.get("idempotency-key") if method == "POST" else None
        return ApiRequest(
            id=request_id,
            path=path,
            handler=ROUTES[method, template],
            call=Call(object_id, Parameters(form_values(encoded)), self._base_url(request)),
            idempotency_key=idempotency_key,
            fingerprint=fingerprint(encoded) if idempotency_key is not None else "",
            rule=self._faults.take(method, path),
            receive=request.receive,
        )

    def restrict_key(self, key: str, permissions: Sequence[str]) -> None:
        """From now on, a restricted key has these permissions only, such as `rak_event_read`."""
        self._permissions[key] = frozenset(permissions)

    def _authorize(self, key: str, sufficient: Sequence[str]) -> None:
        """Raise ApiError 403 when the key has none of the permissions that would do."""
        granted = self._permissions.get(key)
        if granted is None or granted & set(sufficient):
            return
        message = (
            f"The provided key '{redacted(key)}' does not have the required permissions for this endpoint on account"
            f" 'acct_standin'. Having the '{sufficient[0]}' permission would allow this request to continue."
        )
        raise ApiError(403, message, code="more_permissions_required")

    async def _run_once(self, request: ApiRequest, key: str) -> Reply:
        """The stored reply of this key, else a first one, which is stored for 24 hours."""
        first = self._stored_replies.get(key)
        if first is not None and first["created"] <= self._account.now() - DAY:
            first = None
        if first is not None:
            refuse_different_request(first, request, key)
        if key in self._keys_in_use:
            message = (
                "There is currently another in-progress request using this Idempotent Key (that probably"
                " means you submitted twice, and the other request is still going through):"
                f" {key}. Please try again later."
            )
            raise ApiError(409, message, code="idempotency_key_in_use", kind="idempotency_error")
        self._keys_in_use.add(key)
        try:
            await apply_before(request.rule, request.receive)
            if first is not None:
                headers = {
                    "Idempotency-Key": key,
                    "Idempotent-Replayed": "true",
                    "Original-Request": first["request"],
                }
                return Reply(first["status"], first["body"].encode(), headers)
            reply = self._run(request)
        except ApiError as error:
            # From `apply_before`: the call had no effect, and the key remembers only a rule's `stored` failure.
            reply = error_reply(error)
        finally:
            self._keys_in_use.discard(key)
        if reply.stored:
            self._store_reply(request, key, reply)
        reply.headers["Idempotency-Key"] = key
        return reply

    def _run(self, request: ApiRequest) -> Reply:
        self._account.catch_up()
        self._account.cause = {"id": request.id, "idempotency_key": request.idempotency_key}
        try:
            reply = Reply(200, orjson.dumps(request.handler(self._account, request.call)))
        except ApiError as error:
            reply = error_reply(error)
        finally:
            self._account.cause = NO_REQUEST
        if request.rule is not None and request.rule.action == "status_after":
            return error_reply(failure(request.rule.status, stored=True))
        return reply

    def _store_reply(self, request: ApiRequest, key: str, reply: Reply) -> None:
        self._stored_replies[key] = {
            "id": key,
            "path": request.path,
            "fingerprint": request.fingerprint,
            "request": request.id,
            "created": self._account.now(),
            "status": reply.status,
            "body": reply.body.decode(),
        }
        self._account.store.save("reply", self._stored_replies[key])


def authenticate(authorization: str) -> str:
    """The secret or restricted test key, sent as a bearer token or as Basic's user name. Raises ApiError 401."""
    scheme, _, credentials = authorization.strip().partition(" ")
    key = credentials.strip()
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if scheme.lower() not in ("bearer", "basic") or not key:
        message = (
            "You did not provide an API key. You need to provide your API key in the Authorization header,"
            " using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See"
            " https://stripe.com/docs/api#authentication for details, or we can help at"
            " https://support.stripe.com/."
        )
        raise ApiError(401, message)
    if not key.startswith(("sk_test_", "rk_test_")):
        raise ApiError(401, f"Invalid API Key provided: {redacted(key)}")
    return key


def redacted(key: str) -> str:
    return f"{key[:8]}{'*' * 8}{key[-4:]}"


def fingerprint(encoded: str) -> str:
    return sha256(urlencode(sorted(parse_qsl(encoded, keep_blank_values=True))).encode()).hexdigest()


def refuse_different_request(first: Json, request: ApiRequest, key: str) -> None:
    """Raise ApiError 400 when the key was first used with another path or other parameters."""
    if first["path"] != request.path:
        limit = f"for the same endpoint they were first used for ('{request.path}' vs '{first['path']}')"
    elif first["fingerprint"] != request.fingerprint:
        limit = "with the same parameters they were first used with"
    else:
        return
    message = (
        f"Keys for idempotent requests can only be used {limit}. Try using a key other than '{key}' if you"
        " meant to execute a different request."
    )
    raise ApiError(400, message, kind="idempotency_error")
