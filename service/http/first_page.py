"""The catalogue's first page, answered before there is a request: it is what most ask for."""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import cast

from starlette.datastructures import State
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.catalog import shared
from service.http.middleware import SAFE_PUBLIC, dress, request_id_of, told
from service.http.server.transport import CoalescingTransport
from service.infra.logs import cause
from service.infra.resources import Resources

# What says that there is more to the request than its address.
_TELLING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"origin"})


class FirstPage:
    """Writes the page that the cache has as the bytes of an answer, the very ones that the route would give.

    No task, no messages, and a head that is made once: tests/bench/README.md has what that saves. What is not plainly
    that, or not in the cache, goes the way of every request.
    """

    def __init__(self, state: State) -> None:
        """`state` has the resources once the application has started."""
        self._state = state

    def answer(self, cycle: RequestResponseCycle, otherwise: Callable[[], None]) -> None:
        """Answer the request of `cycle` now or soon, by `otherwise` where it is none for this."""
        scope = cycle.scope
        if (
            scope["path"] != "/products"
            or scope["method"] != "GET"
            or scope["query_string"]
            or not _TELLING.isdisjoint([name for name, _ in scope["headers"]])
        ):
            otherwise()
            return
        resources: Resources = self._state.resources
        resources.cache.when_fresh(partial(_write, cycle, otherwise, time.perf_counter()))


def _write(cycle: RequestResponseCycle, otherwise: Callable[[], None], started: float, page: bytes | None) -> None:
    # A client that takes nothing is to be waited for, and a connection that ends here is to be told.
    if page is None or not cycle.keep_alive or cycle.flow.write_paused:
        otherwise()
        return
    request_id = request_id_of(cycle.scope["headers"])
    token = cause.set(f"request {request_id}")
    cycle.response_started = cycle.response_complete = True
    before, after = _answer(page, *cycle.default_headers)
    cast(CoalescingTransport, cycle.transport).write_now(before + request_id.encode() + after)
    cycle.on_response()
    told("GET", "/products", 200, time.perf_counter() - started)
    cause.reset(token)


@lru_cache(maxsize=2)
def _answer(page: bytes, *server_headers: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """What stands before and behind the request's id; the server's headers are the date, new every second."""
    headers = [*server_headers, *dress(shared(page).raw_headers, "", SAFE_PUBLIC)]
    return b"\r\n".join([b"HTTP/1.1 200 OK", *(b"%b: %b" % header for header in headers)]), b"\r\n\r\n" + page
