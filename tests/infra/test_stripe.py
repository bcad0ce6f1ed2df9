"""Each failed call to Stripe is logged once, with what an operator needs and without secrets."""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.infra.logs import JsonFormatter
from service.infra.stripe import Stripe, StripeFailed, StripeRefused, StripeUnknown
from service.settings import Settings
from tests.conftest import served

ORDER = uuid4()
KEY = "sk_test_c4nary"
# Stripe quotes what was sent, with the end of the key.
LIMITED = json.dumps({"error": {"type": "rate_limit_error", "code": "rate_limit", "message": "x"}}).encode()
MESSAGE = f"Invalid value ann@c4nary.example for {KEY}"


@dataclass
class Replying:
    """A Stripe that gives the same reply to every call, after `limited` calls that its rate limit refuses."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    limited: int = 0
    keys: list[str | None] = field(default_factory=list)


@pytest.fixture
async def replying() -> AsyncIterator[tuple[Replying, Stripe]]:
    standin = Replying()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        standin.keys.append(Headers(scope=scope).get("idempotency-key"))
        status = 429 if len(standin.keys) <= standin.limited else standin.status
        body = LIMITED if status == 429 else standin.body
        answer = Response(body, status, {"Request-Id": "req_7", **standin.headers}, "application/json")
        await answer(scope, receive, send)

    async with served(app) as url:
        settings = Settings.load(
            {"DATABASE_URL": "postgresql://x/x", "STRIPE_API_KEY": KEY, "STRIPE_API_BASE": url, "MAX_IN_FLIGHT": "2"}
        )
        client = Stripe(settings)
        yield standin, client
        await client.close()


def failures(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of the logged warnings, after a check that they contain no secret."""
    lines = [JsonFormatter().format(record) for record in caplog.records if record.levelno >= logging.WARNING]
    assert "c4nary" not in "".join(lines)
    records = [json.loads(line) for line in lines]
    assert {(record["level"], record["message"]) for record in records} == {("WARNING", "stripe call failed")}
    fields = ("method", "path", "status", "code", "request_id", "order_id", "error")
    return [{name: record.get(name) for name in fields} for record in records]


@pytest.mark.parametrize(
    ("status", "kind", "code", "raised", "error"),
    [
        (400, "invalid_request_error", "parameter_invalid", StripeRefused, "InvalidRequestError"),
        (402, "card_error", "card_declined", StripeRefused, "CardError"),
        (404, "invalid_request_error", "resource_missing", StripeRefused, "InvalidRequestError"),
        (401, "invalid_request_error", None, StripeUnknown, "AuthenticationError"),
        (403, "invalid_request_error", "more_permissions_required", StripeUnknown, "PermissionError"),
        (409, "idempotency_error", "idempotency_key_in_use", StripeUnknown, "APIError"),
        (429, "rate_limit_error", "rate_limit", StripeUnknown, "RateLimitError"),
        (500, "api_error", None, StripeUnknown, "APIError"),
        # Not a code in Stripe's form, so it must not get into the log.
        (500, "api_error", "no code\ud800", StripeUnknown, "APIError"),
    ],
)
async def test_a_refusal_is_logged_with_its_ids(
    replying: tuple[Replying, Stripe],
    caplog: pytest.LogCaptureFixture,
    status: int,
    kind: str,
    code: str | None,
    raised: type[StripeFailed],
    error: str,
) -> None:
    standin, client = replying
    # Longer than the call may take, so that a 429 is not repeated.
    standin.headers = {"Retry-After": "60"}
    reply = {"message": MESSAGE, "type": kind, "code": code, "param": "customer_email"}
    standin.status, standin.body = status, json.dumps({"error": reply}).encode()

    with pytest.raises(raised) as failed:
        await client.retrieve_session("cs_7", order_id=ORDER)

    logged = None if code == "no code\ud800" else code
    assert (failed.value.status, failed.value.code, failed.value.request_id) == (status, logged, "req_7")
    assert "c4nary" not in str(failed.value)
    assert failures(caplog) == [
        {
            "method": "get",
            "path": "checkout/sessions/cs_7",
            "status": status,
            "code": logged,
            "request_id": "req_7",
            "order_id": str(ORDER),
            "error": error,
        }
    ]


async def test_a_call_that_the_rate_limit_refused_is_repeated_with_its_key(
    replying: tuple[Replying, Stripe], caplog: pytest.LogCaptureFixture
) -> None:
    standin, client = replying
    standin.limited, standin.body = 3, json.dumps(SESSION).encode()

    session = await client.create_session({"mode": "payment"}, "key_7")

    assert (session.id, standin.keys) == ("cs_1", ["key_7"] * 4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("retry_after", "calls"), [("1", {2}), ("60", {1}), ("soon", range(3, 100))])
async def test_a_repeated_call_waits_as_long_as_stripe_says(
    replying: tuple[Replying, Stripe], retry_after: str, calls: Collection[int]
) -> None:
    standin, client = replying
    standin.limited, standin.headers, client._timeout = 100, {"Retry-After": retry_after}, 1.9

    with pytest.raises(StripeUnknown) as failed:
        await client.retrieve_session("cs_7")

    assert failed.value.status == 429
    assert len(standin.keys) in calls


SESSION = {"id": "cs_1", "status": "open", "payment_status": "unpaid", "metadata": {"order_id": str(uuid4())}}
Call = Callable[[Stripe], Awaitable[object]]


async def list_sessions(client: Stripe) -> None:
    async for _ in client.sessions_since(0, order_id=ORDER):
        pass


@pytest.mark.parametrize(
    ("call", "reply", "path", "error"),
    [
        (lambda c: c.create_session({}, "k", order_id=ORDER), SESSION, "checkout/sessions", "another order's session"),
        (
            lambda c: c.expire_session("cs_7", order_id=ORDER),
            {},
            "checkout/sessions/cs_7/expire",
            "not a Checkout session",
        ),
        (list_sessions, {}, "checkout/sessions", "not a list"),
        (list_sessions, {"data": [1], "has_more": False}, "checkout/sessions", "not an object"),
        (list_sessions, {"data": [{"metadata": 1}], "has_more": False}, "checkout/sessions", "not a Checkout session"),
        (lambda c: c.create_refund("pi_7", 1, {}, "k", order_id=ORDER), {}, "refunds", "not a refund"),
        (lambda c: c.refunds_of("pi_7", order_id=ORDER), {"data": [{}], "has_more": False}, "refunds", "not a refund"),
        (
            lambda c: c.retrieve_payment_intent("pi_7", order_id=ORDER),
            {"metadata": 1},
            "payment_intents/pi_7",
            "not a payment intent",
        ),
    ],
)
async def test_a_reply_that_cannot_be_read_is_logged(
    replying: tuple[Replying, Stripe],
    caplog: pytest.LogCaptureFixture,
    call: Call,
    reply: object,
    path: str,
    error: str,
) -> None:
    standin, client = replying
    standin.body = json.dumps(reply).encode()

    with pytest.raises(StripeUnknown):
        await call(client)

    (logged,) = failures(caplog)
    assert (logged["path"], logged["order_id"], logged["error"]) == (path, str(ORDER), error)


async def test_an_unreadable_reply_is_logged(
    replying: tuple[Replying, Stripe], caplog: pytest.LogCaptureFixture
) -> None:
    standin, client = replying
    standin.body = b"<html>c4nary</html>"

    with pytest.raises(StripeUnknown):
        await client.retrieve_event("evt_7")

    (failure,) = failures(caplog)
    assert (failure["path"], failure["status"], failure["error"]) == ("events/evt_7", 200, "APIError")


async def test_a_time_out_is_logged(replying: tuple[Replying, Stripe], caplog: pytest.LogCaptureFixture) -> None:
    _, client = replying
    client._timeout = 0

    with pytest.raises(StripeUnknown):
        await client.retrieve_event("evt_7")

    (failure,) = failures(caplog)
    assert (failure["path"], failure["status"], failure["error"]) == ("events/evt_7", None, "TimeoutError")


async def test_a_call_beyond_the_limit_is_logged(
    replying: tuple[Replying, Stripe], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = replying
    client._free = 0

    with pytest.raises(StripeUnknown):
        await client.retrieve_event("evt_7")

    (failure,) = failures(caplog)
    assert (failure["path"], failure["error"]) == ("events/evt_7", "too many calls at once")


async def test_calls_go_through_the_proxy_of_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    """Method: a proxy that refuses every tunnel, and the address of Stripe, which the test must not reach."""
    asked: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    settings = {"DATABASE_URL": "postgresql://x/x", "STRIPE_API_KEY": KEY, "HTTPS_PROXY": f"http://u:c4nary@{address}"}
    client = Stripe(Settings.load(settings))
    try:
        with pytest.raises(StripeUnknown):
            await client.retrieve_session("cs_7", order_id=ORDER)
    finally:
        await client.close()
        proxy.close()

    (request,) = asked
    assert request.startswith("CONNECT api.stripe.com:443 HTTP/1.1\r\n")
    assert f"\r\nProxy-Authorization: Basic {b64encode(b'u:c4nary').decode()}\r\n" in request
    assert KEY not in request
    assert [failure["status"] for failure in failures(caplog)] == [None]
