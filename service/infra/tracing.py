"""Traces by OpenTelemetry. Only imported if OTLP_ENDPOINT is set, so that without it they cost nothing.

While `tracing` is entered, the methods that call PostgreSQL, Redis and Stripe are replaced by ones that open a span. A
span has names and ids, never a value that a statement or a call was given.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any

import aiohttp
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from service.infra import circuit_breaker, statements, stripe
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.logs import subject
from service.settings import Settings

_tracer: Tracer = trace.NoOpTracer()
# The functions and methods that are replaced now.
_replaced: set[tuple[Any, str]] = set()


@contextmanager
def tracing(settings: Settings, service: str, *replacements: "Replacement") -> Iterator[None]:
    """Collect spans and send them to OTLP_ENDPOINT until the block ends; `replacements` are made for as long.

    `OTEL_…` variables of the SDK, such as its sampler, apply too. A block inside of another one, as where tests run API
    and worker in one process, adds its replacements.
    """
    with ExitStack() as stack:
        if not _replaced:
            stack.enter_context(_collecting(settings, service))
            replacements = (*_OURS, *replacements)
        for target, name, wrap in replacements:
            if (target, name) not in _replaced:
                _replaced.add((target, name))
                stack.callback(_replaced.discard, (target, name))
                stack.callback(setattr, target, name, getattr(target, name))
                setattr(target, name, wrap(getattr(target, name)))
        yield


@contextmanager
def _collecting(settings: Settings, service: str) -> Iterator[None]:
    global _tracer
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(processor(settings))
    _tracer = provider.get_tracer("commerce-core")
    stripe.TRACE_CONFIGS.append(_trace_config())
    try:
        yield
    finally:
        stripe.TRACE_CONFIGS.clear()
        _tracer = trace.NoOpTracer()
        provider.shutdown()


def processor(settings: Settings) -> BatchSpanProcessor:
    """Sends spans in batches, from a thread of its own. A collector that is gone costs no request."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))


# A function or method, by its owner and name, and what makes its replacement.
Replacement = tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]


@contextmanager
def span(name: str, kind: SpanKind, attributes: Mapping[str, str], parent: SpanContext | None = None) -> Iterator[Span]:
    """A span around the block, below `parent` or the current span. An error that ends it is named, without its text."""
    context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
    with _tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        # The text of an error can contain a row's values.
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            for name in ("order_id", "event_id"):
                if name in subject.get():
                    opened.set_attribute(f"commerce.{name}", subject.get()[name])


def remote(trace_id: str, span_id: str, *, sampled: bool = True) -> SpanContext:
    """A span elsewhere, by its hexadecimal ids."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(sampled)))


def ids(of: Span) -> tuple[str, str]:
    """The trace id and the span id, in hexadecimal."""
    context = of.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _statement(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(original)
    async def run(self: statements.Statement[Any], connection: Any, /, **values: Any) -> Any:
        # The loops of the worker that have nothing to do are no work to trace.
        if not trace.get_current_span().is_recording():
            return await original(self, connection, **values)
        with span(self.name, SpanKind.CLIENT, {"db.system.name": "postgresql", "db.query.summary": self.name}):
            return await original(self, connection, **values)

    return run


def _redis_call(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(original)
    async def call(self: CircuitBreaker, request: Any, *, operation: str, **options: Any) -> Any:
        if not trace.get_current_span().is_recording():
            return await original(self, request, operation=operation, **options)
        attributes = {"db.system.name": "redis", "db.operation.name": operation}
        with span(f"redis {operation}", SpanKind.CLIENT, attributes):
            return await original(self, request, operation=operation, **options)

    return call


def _stripe_call(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @contextmanager
    def measured(operation: str) -> Iterator[None]:
        attributes = {"rpc.system": "stripe", "rpc.method": operation}
        with span(f"stripe {operation}", SpanKind.CLIENT, attributes), original(operation):
            yield

    return measured


def _trace_config() -> aiohttp.TraceConfig:
    """Adds `traceparent` to the requests to Stripe. It has random numbers only, and Stripe ignores it."""

    async def add_traceparent(_: object, __: SimpleNamespace, request: aiohttp.TraceRequestStartParams) -> None:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            value = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            request.headers["traceparent"] = value

    config = aiohttp.TraceConfig()
    config.on_request_start.append(add_traceparent)
    return config


_OURS: tuple[Replacement, ...] = (
    (statements.One, "one", _statement),
    (statements.OneOrNone, "one_or_none", _statement),
    (statements.Many, "all", _statement),
    (statements.Command, "run", _statement),
    (circuit_breaker.CircuitBreaker, "call", _redis_call),
    (stripe, "measured", _stripe_call),
)
