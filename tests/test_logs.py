"""The log: JSON lines that tell an order's whole story, across the API and the worker."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.http.server.middleware import ids_of
from service.infra import logs
from service.infra.db import Connection
from service.infra.logs import JsonFormatter
from service.infra.resources import Resources
from service.shop import transitions
from tests.client import Shop, eventually
from tests.database import make_everything_due
from tests.test_secrets import is_live, is_logged, running

ROOT = Path(__file__).parents[1]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
# What a line of the story says, beside its message.
TELLING = ("route", "status", "payment_status", "type", "outcome", "method")


def lines_of(log: Path, order_id: str) -> list[dict[str, Any]]:
    """What `grep ORDER_ID` finds, without the test's own look at the order."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if order_id in line]
    return [line for line in lines if line.get("route") != "/orders/{order_id}"]


def told(line: dict[str, Any]) -> tuple[object, ...]:
    return line["level"], line["message"], *(line[name] for name in TELLING if name in line)


async def test_an_orders_id_finds_its_whole_story(
    environ: dict[str, str],
    stripe: StripeStandin,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
) -> None:
    """Goal: `grep ORDER_ID` shows, each once, every transition, refund, deferral and failed call.

    Method: a purchase whose first call to Stripe fails, then a refund whose first call fails, so that its job is
    deferred. API and worker are processes that write to one file, as a machine's journal collects them.
    """
    # A login for both.
    environ = {**environ, "DATABASE_URL": database_url}
    async with running(environ, tmp_path / "log") as service, Shop(service.url) as shop:
        await eventually(lambda: is_live(shop))
        stripe.webhook_url = f"{service.url}/webhooks/stripe"
        cart = await shop.create_cart(((await shop.create_product())["id"], 1))

        stripe.set_faults(
            [{"action": "status", "status": 500, "method": "POST", "path": "/v1/checkout/sessions", "times": 1}]
        )
        await shop.check_out(cart, 503)
        placed_order = await shop.check_out(cart, 200, traceparent=TRACEPARENT)
        order_id = placed_order["order_id"]
        stripe.pay(placed_order["payment"]["stripe_session_id"])
        await shop.wait_for_order(order_id, "FULFILLED")

        stripe.set_webhooks(drop=True)
        stripe.set_faults([{"action": "status", "status": 401, "path": "/v1/refunds", "times": 1}])
        await shop.call("POST", f"/orders/{order_id}/refund", 200, {})
        await eventually(lambda: is_logged(service, "job deferred to the sweep"))
        await make_everything_due(database)
        await shop.wait_for_order(order_id, "FULFILLED", "REFUNDED")

    lines = lines_of(tmp_path / "log", order_id)
    checkout, webhook = "/carts/{cart_id}/checkout", "/webhooks/stripe"
    assert [told(line) for line in lines] == [
        ("INFO", "order changed", "PENDING_PAYMENT"),
        ("WARNING", "stripe call failed", 500, "post"),
        ("INFO", "request", checkout, 503, "POST"),
        ("INFO", "request", checkout, 200, "POST"),
        ("INFO", "order changed", "PAID", "SUCCEEDED"),
        ("INFO", "event processed", "checkout.session.completed", "applied"),
        ("INFO", "request", webhook, 200, "POST"),
        ("INFO", "order changed", "FULFILLED"),
        ("INFO", "refund decided"),
        ("INFO", "payment changed", "REFUND_PENDING"),
        ("INFO", "request", "/orders/{order_id}/refund", 200, "POST"),
        ("WARNING", "stripe call failed", 401, "get"),
        ("INFO", "job deferred to the sweep"),
        ("INFO", "refund changed", "SUCCEEDED"),
        ("INFO", "payment changed", "REFUNDED"),
    ]
    assert [line["cause"].split()[0] for line in lines] == 4 * ["request"] + 3 * ["event"] + ["job"] + 3 * [
        "request"
    ] + 4 * ["job"]
    assert all(line["order_id"] == order_id and len(line["trace_id"]) == 32 for line in lines)
    assert [line["trace_id"] == TRACE for line in lines].index(True) == 3
    assert {line.get("event_id") for line in lines[4:7]} == {lines[4]["cause"].removeprefix("event ")}
    history = await database.fetch("SELECT cause FROM order_events WHERE order_id = $1 ORDER BY id", order_id)
    assert {row["cause"] for row in history} <= {line["cause"] for line in lines}


def test_lines_are_in_the_order_of_what_happened() -> None:
    code = """
import asyncio, logging
from service.infra import logs

async def main():
    logs.log_soon(logging.getLogger(), "first")
    logging.warning("second")

logs.configure("INFO")
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert [json.loads(line)["message"] for line in result.stderr.splitlines()] == ["first", "second"]


async def test_an_attempt_that_was_rolled_back_says_nothing(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(transitions, "log_soon", lambda logger, message, **fields: lines.append(fields))
    order_id = uuid4()

    async def work(tx: Connection, after: transitions.AfterCommit) -> None:
        attempt = len(attempts)
        attempts.append(attempt)
        after.count_transition(order_id, "PAID", attempt=attempt)
        after.log("refund decided", order_id, attempt=attempt)
        if attempt == 0:
            raise asyncpg.SerializationError("a conflict")

    attempts: list[int] = []
    await transitions.run_transition(resources, work)

    assert attempts == [0, 1]
    assert [line["attempt"] for line in lines] == [1, 1]


def test_a_requests_id_is_ours_in_the_callers_trace() -> None:
    own, trace, client = ids_of([(b"traceparent", TRACEPARENT.encode()), (b"x-request-id", b"mine")])

    assert (trace, client) == (TRACE, "mine")
    assert own.startswith(f"{TRACE}-")
    other, trace, client = ids_of([(b"traceparent", TRACEPARENT.encode())])
    assert (trace, client) == (TRACE, None)
    assert other != own


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        TRACEPARENT.upper().encode(),
        TRACEPARENT.encode() + b"-00",
        TRACEPARENT.replace("00-", "ff-", 1).encode(),
        f"00-{'0' * 32}-00f067aa0ba902b7-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        b"\xff" * 55,
    ],
)
def test_an_invalid_traceparent_is_ignored(header: bytes) -> None:
    own, trace, _ = ids_of([(b"traceparent", header)])

    assert trace != TRACE
    assert re.fullmatch(f"{trace}-[0-9a-f]{{16}}", own)
    assert re.fullmatch("[0-9a-f]{32}", trace)


def test_a_later_version_of_traceparent_may_have_more_fields() -> None:
    assert ids_of([(b"traceparent", TRACEPARENT.replace("00-", "01-", 1).encode() + b"-more")])[1] == TRACE


async def test_lines_name_the_order_and_event_of_the_work_under_way() -> None:
    order_id = uuid4()

    logs.begin_job("settle_refunds", order_id)
    logs.begin_event("evt_1")
    line = json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x", "other": 1})))

    assert (line["order_id"], line["event_id"], line["cause"]) == (str(order_id), "evt_1", "event evt_1")
    assert len(line["trace_id"]) == 32
    logs.begin_job("sweep")
    line = json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))
    assert not {"order_id", "event_id"} & line.keys()
