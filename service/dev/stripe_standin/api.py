"""Stripe's API under /v1: who may call, which call it is, idempotency keys, and faults on demand."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .faults import Faults, Rule
from .objects import API_VERSION, DAY, new_id
from .parameters import ApiError, Parameters, form_values, missing_object
from .payments import NO_REQUEST, Payments
from .store import Collection, Json, public

Handler: TypeAlias = "Callable[[Payments, Call], Json]"


class Dropped(Exception):
    """The connection is to be closed without an answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One API call that was let in and found its handler."""

    request: Request
    request_id: str
    handler: Handler
    # The id in the path, "" without one.
    object_id: str
    form: Parameters
    # SHA-256 over the parameters in one order: what makes two requests the same to an idempotency key.
    fingerprint: str
    key: str | None
    rule: Rule | None
    # The base of the payment page's address.
    base_url: str


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    # Whether an idempotency key remembers it.
    kept: bool = True


def error_reply(error: ApiError) -> Reply:
    reply = Reply(error.status, orjson.dumps(error.body), kept=error.kept)
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = 'Basic realm="Stripe"'
    if error.status == 409:
        reply.headers["Stripe-Should-Retry"] = "true"
    if error.status >= 500 and error.kept:
        # Asking again with the key would only bring the same answer.
        reply.headers["Stripe-Should-Retry"] = "false"
    return reply


# The calls


def page_of(
    collection: Collection, call: Call, url: str, noun: str, matches: Callable[[Json], bool] = lambda _: True
) -> Json:
    """A list object: newest first, `limit` 1..100 (10 unless told), by `created` and a cursor."""
    form = call.form
    cursors = {key: form.text(key) for key in ("starting_after", "ending_before")}
    for key, object_id in cursors.items():
        if object_id is not None and collection.get(object_id) is None:
            raise missing_object(noun, object_id, key)
    since, until = created_bounds(form)
    objects, more = collection.page(
        matches,
        limit=form.integer("limit", least=1, most=100) or 10,
        starting_after=cursors["starting_after"],
        ending_before=cursors["ending_before"],
        since=since,
        until=until,
    )
    return {"object": "list", "data": [public(found) for found in objects], "has_more": more, "url": url}


LISTING = ("created", "ending_before", "limit", "starting_after")


def created_bounds(form: Parameters) -> tuple[int | None, int | None]:
    """The seconds, both included, that `created` or `created[gt|gte|lt|lte]` allows."""
    if "created" not in form:
        return None, None
    if not form.nests("created"):
        exactly = form.integer("created", least=0, most=2**40)
        return exactly, exactly
    bounds = form.section("created")
    bounds.expect(optional=("gt", "gte", "lt", "lte"))
    limits = {key: bounds.integer(key, least=0, most=2**40) for key in ("gt", "gte", "lt", "lte")}
    low = [moment + shift for key, shift in (("gt", 1), ("gte", 0)) if (moment := limits[key]) is not None]
    high = [moment - shift for key, shift in (("lt", 1), ("lte", 0)) if (moment := limits[key]) is not None]
    return max(low, default=None), min(high, default=None)


def equal_to(wanted: dict[str, str | None]) -> Callable[[Json], bool]:
    """A filter on the fields given a value."""
    asked = {key: value for key, value in wanted.items() if value is not None}
    return lambda found: all(found[key] == value for key, value in asked.items())


def create_session(payments: Payments, call: Call) -> Json:
    return payments.create_session(call.form, call.base_url)


def retrieve_session(payments: Payments, call: Call) -> Json:
    call.form.expect()
    return public(payments.session(call.object_id))


def expire_session(payments: Payments, call: Call) -> Json:
    call.form.expect()
    return payments.expire_session(call.object_id)


def list_sessions(payments: Payments, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LISTING, "payment_intent", "status"))
    status = form.choice("status", ("complete", "expired", "open"))
    matches = equal_to({"payment_intent": form.text("payment_intent"), "status": status})
    return page_of(payments.sessions, call, "/v1/checkout/sessions", "checkout.session", matches)


def create_refund(payments: Payments, call: Call) -> Json:
    return payments.create_refund(call.form)


def retrieve_refund(payments: Payments, call: Call) -> Json:
    call.form.expect()
    return public(payments.refund(call.object_id))


def list_refunds(payments: Payments, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LISTING, "charge", "payment_intent"))
    matches = equal_to({"charge": form.text("charge"), "payment_intent": form.text("payment_intent")})
    return page_of(payments.refunds, call, "/v1/refunds", "refund", matches)


def retrieve_intent(payments: Payments, call: Call) -> Json:
    call.form.expect()
    return public(payments.intent(call.object_id))


def retrieve_event(payments: Payments, call: Call) -> Json:
    call.form.expect()
    event = payments.events.get(call.object_id)
    if event is None:
        raise missing_object("event", call.object_id)
    return event


def list_events(payments: Payments, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LISTING, "type", "types"))
    kind = form.text("type")
    kinds = {kind} if kind is not None else set(form.texts("types"))
    return page_of(payments.events, call, "/v1/events", "event", lambda event: not kinds or event["type"] in kinds)


ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/v1/checkout/sessions"): create_session,
    ("GET", "/v1/checkout/sessions"): list_sessions,
    ("GET", "/v1/checkout/sessions/{id}"): retrieve_session,
    ("POST", "/v1/checkout/sessions/{id}/expire"): expire_session,
    ("POST", "/v1/refunds"): create_refund,
    ("GET", "/v1/refunds"): list_refunds,
    ("GET", "/v1/refunds/{id}"): retrieve_refund,
    ("GET", "/v1/payment_intents/{id}"): retrieve_intent,
    ("GET", "/v1/events"): list_events,
    ("GET", "/v1/events/{id}"): retrieve_event,
}


def find_route(method: str, path: str) -> tuple[str, str]:
    """The template of a path and the id in it; ApiError 404 in Stripe's words for anything else."""
    if (method, path) in ROUTES:
        return path, ""
    for prefix in ("/v1/checkout/sessions/", "/v1/refunds/", "/v1/payment_intents/", "/v1/events/"):
        if path.startswith(prefix):
            object_id, slash, action = path.removeprefix(prefix).partition("/")
            template = f"{prefix}{{id}}{slash}{action}"
            if object_id and (method, template) in ROUTES:
                return template, object_id
    message = (
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at"
        " https://support.stripe.com/."
    )
    raise ApiError(404, message)


def authenticate(authorization: str) -> None:
    """A secret or restricted test key, as bearer token or user name of Basic; ApiError 401 otherwise."""
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
        raise ApiError(401, f"Invalid API Key provided: {key[:8]}{'*' * 8}{key[-4:]}")


def fingerprint(encoded: str) -> str:
    return sha256(urlencode(sorted(parse_qsl(encoded, keep_blank_values=True))).encode()).hexdigest()


def refuse_other_request(first: Json, call: Call, key: str) -> None:
    """ApiError 400 when a key comes back with another path or other parameters than the first time."""
    path = call.request.scope["path"]
    if first["path"] != path:
        limit = f"for the same endpoint they were first used for ('{path}' vs '{first['path']}')"
    elif first["fingerprint"] != call.fingerprint:
        limit = "with the same parameters they were first used with"
    else:
        return
    message = (
        f"Keys for idempotent requests can only be used {limit}. Try using a key other than '{key}' if you"
        " meant to execute a different request."
    )
    raise ApiError(400, message, kind="idempotency_error")


# Faults


def failure(status: int, *, kept: bool) -> ApiError:
    kind = "rate_limit_error" if status == 429 else "api_error"
    return ApiError(status, "This failure was asked of the stand-in for Stripe.", kind=kind, kept=kept)


async def before(call: Call) -> None:
    """What a fault does while nothing has happened yet."""
    rule = call.rule
    if rule is None:
        return
    if rule.action == "hang":
        await client_gone(call.request.receive, rule.seconds or None)
        raise Dropped
    await asyncio.sleep(rule.seconds)
    if rule.action == "drop":
        raise Dropped
    if rule.action == "status":
        raise failure(rule.status, kept=rule.stored)


def after(rule: Rule | None, reply: Reply) -> Reply:
    """What a fault makes of the true reply on its way out."""
    if rule is not None and rule.action == "drop_after":
        raise Dropped
    if rule is not None and rule.action == "malformed":
        return Reply(200, reply.body[: len(reply.body) // 2])
    return reply


async def client_gone(receive: Receive, seconds: float | None) -> None:
    """Wait until the client hangs up, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


async def close_connection(receive: Receive, send: Send) -> None:
    """Hang up without an answer. ASGI has no word for it, so this reaches for uvicorn's transport."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("The faults hang, drop and drop_after need uvicorn, with nothing wrapped around `send`.")
    transport.close()
    await client_gone(receive, None)


class Api:
    """ASGI app of everything under /v1. `requests` counts the calls by "METHOD path-template"."""

    def __init__(self, payments: Payments, faults: Faults, base_url: Callable[[Request], str]) -> None:
        self.requests: Counter[str] = Counter()
        self._payments = payments
        self._faults = faults
        self._base_url = base_url
        self._replies = {row["id"]: row for row in payments.store.load("reply")}
        self._running: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        request_id = new_id("req_", 14)
        try:
            reply = await self._answer(request, body, request_id)
        except ApiError as error:
            reply = error_reply(error)
        except Dropped:
            await close_connection(receive, send)
            return
        headers = {
            "Request-Id": request_id,
            "Stripe-Version": request.headers.get("stripe-version", API_VERSION),
            **reply.headers,
        }
        await Response(reply.body, reply.status, headers, media_type="application/json")(scope, receive, send)

    async def _answer(self, request: Request, body: bytes, request_id: str) -> Reply:
        authenticate(request.headers.get("authorization", ""))
        method, path = request.method, request.scope["path"]
        template, object_id = find_route(method, path)
        self.requests[f"{method} {template}"] += 1
        if "json" in request.headers.get("content-type", "") and body:
            message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded)"
            raise ApiError(400, message)
        try:
            encoded = body.decode() if method == "POST" else request.url.query
        except UnicodeDecodeError:
            raise ApiError(400, "Invalid UTF-8 in the request's parameters.") from None
        key = request.headers.get("idempotency-key") if method == "POST" else None
        call = Call(
            request=request,
            request_id=request_id,
            handler=ROUTES[method, template],
            object_id=object_id,
            form=Parameters(form_values(encoded)),
            fingerprint=fingerprint(encoded) if key is not None else "",
            key=key,
            rule=self._faults.take(method, path),
            base_url=self._base_url(request),
        )
        if key is None:
            await before(call)
            reply = self._run(call)
        else:
            reply = await self._run_once(call, key)
        # One commit, as at Stripe: the effect and what the key remembers of it stand or fall together.
        self._payments.store.commit()
        return after(call.rule, reply)

    async def _run_once(self, call: Call, key: str) -> Reply:
        """The answer that the key remembers, or a first one, which it remembers for 24 hours."""
        first = self._replies.get(key)
        if first is not None and first["created"] <= self._payments.now() - DAY:
            first = None
        if first is not None:
            refuse_other_request(first, call, key)
        if key in self._running:
            message = (
                "There is currently another in-progress request using this Idempotent Key (that probably"
                " means you submitted twice, and the other request is still going through):"
                f" {key}. Please try again later."
            )
            raise ApiError(409, message, code="idempotency_key_in_use", kind="idempotency_error")
        self._running.add(key)
        try:
            await before(call)
            if first is not None:
                headers = {
                    "Idempotency-Key": key,
                    "Idempotent-Replayed": "true",
                    "Original-Request": first["request"],
                }
                return Reply(first["status"], first["body"].encode(), headers)
            reply = self._run(call)
        except ApiError as error:
            # From `before`: nothing was done, and only a failure asked for as `stored` is `kept`.
            reply = error_reply(error)
        finally:
            self._running.discard(key)
        if reply.kept:
            self._remember(call, key, reply)
        reply.headers["Idempotency-Key"] = key
        return reply

    def _run(self, call: Call) -> Reply:
        self._payments.catch_up()
        self._payments.cause = {"id": call.request_id, "idempotency_key": call.key}
        try:
            reply = Reply(200, orjson.dumps(call.handler(self._payments, call)))
        except ApiError as error:
            reply = error_reply(error)
        finally:
            self._payments.cause = NO_REQUEST
        if call.rule is not None and call.rule.action == "status_after":
            return error_reply(failure(call.rule.status, kept=True))
        return reply

    def _remember(self, call: Call, key: str, reply: Reply) -> None:
        self._replies[key] = {
            "id": key,
            "path": call.request.scope["path"],
            "fingerprint": call.fingerprint,
            "request": call.request_id,
            "created": self._payments.now(),
            "status": reply.status,
            "body": reply.body.decode(),
        }
        self._payments.store.save("reply", self._replies[key])
