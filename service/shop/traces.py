"""What links an order's traces. Only imported if OTLP_ENDPOINT is set.

Webhooks, jobs and repairs have traces of their own, which end in seconds. Each has a link to the request that placed
the order: the order's history has the ids of that request's span.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from service.errors import ShopError
from service.infra import tracing as infra_tracing
from service.infra.db import connection
from service.infra.logs import add_subject, subject
from service.infra.resources import Resources
from service.settings import Settings
from service.shop import orders, sweep, webhooks
from service.shop.sweep import Repair

_REQUEST = re.compile("request ([0-9a-f]{32})-([0-9a-f]{16})")

Run = Callable[..., Awaitable[Any]]


@contextmanager
def tracing(settings: Settings, service: str, job: tuple[object, str] | None = None) -> Iterator[None]:
    """Collect and send the spans of the shop until the block ends; `job` is the function that runs a job."""
    replacements: list[infra_tracing.Replacement] = [
        (webhooks, "receive_webhook", _webhook),
        (sweep, "run_repair", _repair),
    ]
    if job is not None:
        replacements.append((*job, _job))
    with infra_tracing.tracing(settings, service, *replacements):
        yield


async def link_to_order(resources: Resources) -> None:
    """Link the current span to the request that placed the order which this work is about."""
    order_id, span = subject.get().get("order_id"), trace.get_current_span()
    if order_id is None or not span.is_recording():
        return
    with suppress(ShopError):
        async with connection(resources.pool) as reader:
            events = await orders.LIST_EVENTS.all(reader, order_id=UUID(order_id), user_id=None, reads_all=True)
        # Erased orders have no such id.
        if events and (match := _REQUEST.fullmatch(events[0].cause)):
            span.add_link(infra_tracing.remote(match[1], match[2]))


def _webhook(original: Run) -> Run:
    @wraps(original)
    async def receive_webhook(resources: Resources, body: bytes, signature: str | None) -> str:
        outcome: str = await original(resources, body, signature)
        await link_to_order(resources)
        return outcome

    return receive_webhook


def _job(original: Run) -> Run:
    @wraps(original)
    async def run_job(name: str, resources: Resources, order_id: UUID) -> None:
        await _in_span(f"job {name}", resources, lambda: original(name, resources, order_id))

    return run_job


def _repair(original: Run) -> Run:
    @wraps(original)
    async def run_repair(resources: Resources, repair: Repair) -> None:
        await _in_span("job sweep", resources, lambda: original(resources, repair))

    return run_repair


async def _in_span(name: str, resources: Resources, run: Callable[[], Awaitable[Any]]) -> None:
    with infra_tracing.span(name, SpanKind.CONSUMER, {}) as span:
        add_subject(trace_id=infra_tracing.ids(span)[0])
        try:
            await run()
        finally:
            await link_to_order(resources)
