"""The server span of each request. Only imported if OTLP_ENDPOINT is set."""

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from starlette.types import Receive, Scope, Send

from service.http.server.middleware import TRACEPARENT, Ids, RequestContextMiddleware, ids_of, record_request
from service.infra import tracing
from service.infra.metrics import method_label


class TracedRequestContextMiddleware(RequestContextMiddleware):
    """Opens a span for each request, below the caller's; the request's own id is then the span's."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request in its span."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        method = method_label(scope["method"])
        with tracing.span(method, SpanKind.SERVER, {"http.request.method": method}, _caller(scope["headers"])):
            await super().__call__(scope, receive, send)

    @staticmethod
    def ids_of(headers: Iterable[tuple[bytes, bytes]]) -> Ids:
        """The ids of the request: those of its span, and the client's."""
        trace_id, span_id = tracing.ids(trace.get_current_span())
        return f"{trace_id}-{span_id}", trace_id, ids_of(headers)[2]

    @staticmethod
    def record(method: str, route: str, status: int, seconds: float) -> None:
        """Record the request, and name its span by the route."""
        record_request(method, route, status, seconds)
        span = trace.get_current_span()
        span.update_name(f"{method_label(method)} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))


def _caller(headers: Iterable[tuple[bytes, bytes]]) -> SpanContext | None:
    """The caller's span, by its `traceparent`."""
    value = next((value for name, value in headers if name == b"traceparent"), b"")
    match = TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id, flags = (group.decode() for group in match.groups())
    return tracing.remote(trace_id, span_id, sampled=bool(int(flags, 16) & 1))
