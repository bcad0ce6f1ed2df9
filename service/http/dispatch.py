"""From a request to the function that answers it, by our routes."""

import re
from collections.abc import Sequence

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ShopError
from service.http.responses import problem


class Dispatch:
    """Pure ASGI: calls the function of the route, which takes the request and the parts of its path as text.

    FastAPI describes these routes in /openapi.json, and has whatever is none of them: /docs, and the refusals. Its own
    way to such a function, which solves dependencies that ours have not, costs several times what most of them do
    (tests/bench/README.md).
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self.app = app
        self._fixed: dict[tuple[str, str], APIRoute] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], APIRoute]]] = {}
        for route in routes:
            for method in route.methods or ():
                if "{" in route.path:
                    self._patterns.setdefault(method, []).append((route.path_regex, route))
                else:
                    self._fixed[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with a problem where the shop refuses; the route is left in the scope for whoever counts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        route, found = self._fixed.get((method, path)), {}
        if route is None:
            for pattern, candidate in self._patterns.get(method, ()):
                if match := pattern.match(path):
                    route, found = candidate, match.groupdict()
                    break
            else:
                await self.app(scope, receive, send)
                return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            for guard in route.dependencies:
                await guard.dependency(request)  # type: ignore[misc]
            response = await route.endpoint(request, **found)
        except ShopError as error:
            response = problem(error)
        await response(scope, receive, send)
