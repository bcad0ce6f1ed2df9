"""Traces by OpenTelemetry: one linked picture of a purchase, and no cost without a collector."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from starlette.types import Receive, Scope, Send

from service.dev.stripe_standin import StripeStandin
from service.settings import Settings, UnsafeSettings, has_tracing
from tests.client import Shop
from tests.conftest import WEBHOOK_SECRET, served
from tests.test_logs import TRACE, TRACEPARENT

ROOT = Path(__file__).parents[1]
needs_extra = pytest.mark.skipif(not has_tracing(), reason="needs the extra `tracing`")


@pytest.fixture
def changed_settings() -> dict[str, str]:
    return {"OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Collects the spans of API and worker, instead of sending them."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from service.infra import tracing

    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "processor", lambda settings: SimpleSpanProcessor(exporter))
    return exporter


class Observed(StripeStandin):
    """Stripe's stand-in, which remembers the `traceparent` of each call."""

    api_base = ""
    traceparents: list[str]


@pytest.fixture
async def stripe() -> AsyncIterator[Observed]:
    standin = Observed(webhook_secret=WEBHOOK_SECRET)
    standin.traceparents = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        standin.traceparents += [headers[b"traceparent"].decode()] if b"traceparent" in headers else []
        await standin.app(scope, receive, send)

    async with served(app) as url:
        standin.api_base = url
        yield standin


@pytest.fixture
def shop(spans: Any, shop: Shop) -> Shop:
    """A client whose API collects spans."""
    return shop


def linked(spans: Iterable[Any]) -> dict[int, int]:
    """The connected part of each trace: its smallest trace id. A link connects two traces."""
    parts = {span.context.trace_id: span.context.trace_id for span in spans}
    pairs = [(span.context.trace_id, link.context.trace_id) for span in spans for link in span.links]
    for _ in parts:
        for one, other in pairs:
            smallest = min(parts[one], parts.get(other, parts[one]))
            parts[one] = smallest
            parts[other] = smallest
    return parts


@needs_extra
async def test_a_purchase_is_one_linked_picture(spans: Any, shop: Shop, stripe: StripeStandin, worker: None) -> None:
    """Goal: from the cart to FULFILLED, every span belongs to one picture, and another order's spans do not.

    Method: a storefront sends one `traceparent` for cart and checkout; Stripe's webhook and the worker's job know
    nothing of it. A second purchase has another trace.
    """
    product = (await shop.create_product())["id"]
    spans.clear()
    cart = (await shop.call("POST", "/carts", 201, traceparent=TRACEPARENT))["id"]
    line = {"product_id": product, "quantity": 1}
    await shop.call("POST", f"/carts/{cart}/items", 200, line, traceparent=TRACEPARENT)
    placed_order = await shop.check_out(cart, traceparent=TRACEPARENT)
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed_order["order_id"], "FULFILLED")
    other_order = await shop.checked_out_cart((product, 1))
    stripe.pay(other_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(other_order["order_id"], "FULFILLED")

    finished = spans.get_finished_spans()

    parts = linked(finished)
    picture = [span for span in finished if parts[span.context.trace_id] == parts[int(TRACE, 16)]]
    names = {span.name for span in picture}
    assert names >= {
        "POST /carts",
        "POST /carts/{cart_id}/items",
        "POST /carts/{cart_id}/checkout",
        "checkout/reserve",
        "stripe create_session",
        "payment_session/attach_session",
        "redis enqueue",
        "POST /webhooks/stripe",
        "transitions/mark_paid",
        "job post_payment_pipeline",
        "fulfilment/mark_fulfilled",
    }
    assert {span.attributes["commerce.order_id"] for span in picture if "commerce.order_id" in span.attributes} == {
        placed_order["order_id"]
    }
    roots = {"POST /carts", "POST /carts/{cart_id}/items", "POST /carts/{cart_id}/checkout"}
    ids = {span.context.span_id for span in picture}
    for span in picture:
        if span.name in roots:
            assert (span.parent.span_id, span.parent.is_remote) == (int("00f067aa0ba902b7", 16), True)
        elif span.parent is not None:
            assert span.parent.span_id in ids


@needs_extra
async def test_the_history_and_stripe_know_the_span(
    spans: Any, shop: Shop, stripe: Observed, database: asyncpg.Connection
) -> None:
    await shop.checked_out_cart()

    cause = await database.fetchval("SELECT cause FROM order_events")
    by_name = {span.name: span.context for span in spans.get_finished_spans()}
    checkout, call = by_name["POST /carts/{cart_id}/checkout"], by_name["stripe create_session"]
    assert cause == f"request {checkout.trace_id:032x}-{checkout.span_id:016x}"
    (sent,) = stripe.traceparents
    assert sent.rpartition("-")[0] == f"00-{call.trace_id:032x}-{call.span_id:016x}"


@needs_extra
async def test_spans_have_no_values(spans: Any, shop: Shop, stripe: StripeStandin, worker: None) -> None:
    cart = await shop.create_cart(((await shop.create_product(name="c4nary"))["id"], 1))
    stripe.set_faults(
        [{"action": "status", "status": 500, "method": "POST", "path": "/v1/checkout/sessions", "times": 1}]
    )
    await shop.check_out(cart, 503, Idempotency_Key="c4nary")
    placed_order = await shop.check_out(cart, 200)
    stripe.pay(placed_order["payment"]["stripe_session_id"], email="c4nary@example.com")
    await shop.wait_for_order(placed_order["order_id"], "FULFILLED")

    shown = [span.to_json() for span in spans.get_finished_spans()]

    assert len(shown) > 20
    assert "c4nary" not in "".join(shown)


def test_without_a_collector_opentelemetry_is_not_imported() -> None:
    code = "import sys, service.app, service.worker; sys.exit('opentelemetry.sdk' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


def test_a_collector_without_the_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(
        {
            "DATABASE_URL": "postgresql://db",
            "STRIPE_API_KEY": "sk_test_1",
            "STRIPE_WEBHOOK_SECRET": "whsec_1",
            "OTLP_ENDPOINT": "http://collector:4318",
        }
    )

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("service.settings.find_spec", missing)
    with pytest.raises(UnsafeSettings, match="OTLP_ENDPOINT needs the extra"):
        settings.refuse_unsafe()
