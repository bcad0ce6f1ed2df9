"""From a request to the function that answers it: FastAPI's own routes, called directly."""

import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.convertors import StringConvertor
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

# What `_Step` does of all that a Dependant can ask for. Every other field must be empty: a later FastAPI may add some.
_SUPPORTED = {"call", "name", "path", "use_cache", "scope", "dependencies", "path_params"}
_SUPPORTED |= {"request_param_name", "http_connection_param_name"}
# What FastAPI itself would do around each request.
_AROUND = ("user_middleware", "dependency_overrides", "max_body_size", "root_path")
# No address of ours has any, and `$` in a route's pattern ignores a newline at the end.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class UnsupportedRoute(Exception):
    """A route or an application that asks for something that Dispatch does not do; the text says what."""


class Dispatch:
    """Pure ASGI: answers every HTTP request by a route of the application, else by its handler of HTTPException.

    FastAPI's own way costs several times what most functions do (tests/bench/README.md). Its description of a route,
    guards of routers included, is read once. Whatever would not be run as FastAPI runs it is refused here, at start.
    Stricter than FastAPI: a path with a control character is 404, and no address is redirected.
    """

    def __init__(self, app: FastAPI) -> None:
        """Raises UnsupportedRoute. Routes that the application gets later are not served."""
        self._app = app
        self._fixed: dict[tuple[str, str], _Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], _Route]]] = {}
        self._handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = dict(app.exception_handlers)
        self._refuse_around()
        for kind, handler in self._handlers.items():
            if not isinstance(kind, type) or kind is Exception or not _is_async(handler):
                raise UnsupportedRoute(f"the handler of {kind} is not an `async def` for one kind of exception")
        for context in iter_route_contexts(app.routes):
            self._add(_Route(context))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the route is left in the scope for the metrics."""
        self._refuse_around()
        request = Request(scope, receive, send)
        try:
            route, path_params = self._match(scope["method"], scope["path"])
            scope["route"], scope["path_params"] = route.context, path_params
            response = await route.answer(request, path_params)
        except Exception as error:
            handler = next(filter(None, map(self._handlers.get, type(error).__mro__)), None)
            if handler is None:
                raise
            response = await handler(request, error)
        await response(scope, receive, send)

    def _refuse_around(self) -> None:
        """At start and at each request, as they can be set at any time and may be what keeps strangers out."""
        for name in _AROUND:
            if getattr(self._app, name, None):
                raise UnsupportedRoute(f"the application's {name} would not be used")

    def _add(self, route: "_Route") -> None:
        for method in route.context.methods or ():
            if self._find(method, route.path)[0] is not None:
                raise UnsupportedRoute(f"{route.name}: an earlier route answers {method} there")
            if "{" in route.path:
                self._patterns.setdefault(method, []).append((route.context.path_regex, route))
            else:
                self._fixed[method, route.path] = route

    def _find(self, method: str, path: str) -> tuple["_Route | None", dict[str, str]]:
        if route := self._fixed.get((method, path)):
            return route, {}
        if not _CONTROL.search(path):
            for pattern, route in self._patterns.get(method, ()):
                if match := pattern.fullmatch(path):
                    return route, match.groupdict()
        return None, {}

    def _match(self, method: str, path: str) -> tuple["_Route", dict[str, str]]:
        route, path_params = self._find(method, path)
        if route is not None:
            return route, path_params
        methods = {*self._patterns, *(method for method, _ in self._fixed)}
        allowed = sorted(method for method in methods if self._find(method, path)[0] is not None)
        if not allowed:
            raise HTTPException(404)
        # The server answers HEAD by GET.
        raise HTTPException(405, headers={"Allow": ", ".join(["HEAD", *allowed] if "GET" in allowed else allowed)})


class _Route:
    """All that a route calls, in FastAPI's order: its dependencies, each once a request, and its endpoint."""

    def __init__(self, context: RouteContext) -> None:
        self.context, self.path = context, str(context.path)
        self.name = f"{' '.join(sorted(context.methods or ()))} {self.path}".strip()
        if reasons := list(_unsupported(context)):
            raise UnsupportedRoute(f"{self.name}: {'; '.join(reasons)}")
        self._steps: list[_Step] = []
        self._add(context.dependant, {})

    async def answer(self, request: Request, path_params: dict[str, str]) -> Response:
        results: list[Any] = []
        for step in self._steps:
            results.append(await step.run(request, path_params, results))
        response: Response = results[-1]
        return response

    def _add(self, dependant: Dependant, known: dict[Any, int]) -> int:
        """Add what it depends on, then itself; the index of its result."""
        indexes = {}
        for needed in dependant.dependencies:
            index = known[needed.call] if needed.call in known else self._add(needed, known)
            if needed.name is not None:
                indexes[needed.name] = index
        known[dependant.call] = len(self._steps)
        self._steps.append(_Step(dependant, indexes))
        return known[dependant.call]


class _Step:
    """One call: the function, and where each of its arguments comes from."""

    def __init__(self, dependant: Dependant, indexes: dict[str, int]) -> None:
        self._call: Callable[..., Any] = dependant.call  # type: ignore[assignment]
        self._indexes = indexes
        self._path = [field.name for field in dependant.path_params]
        self._requests = [*filter(None, (dependant.request_param_name, dependant.http_connection_param_name))]

    async def run(self, request: Request, path_params: dict[str, str], results: list[Any]) -> Any:
        arguments: dict[str, Any] = {name: results[index] for name, index in self._indexes.items()}
        for name in self._path:
            arguments[name] = path_params[name]
        for name in self._requests:
            arguments[name] = request
        return await self._call(**arguments)


def _unsupported(context: RouteContext) -> Iterator[str]:
    """The reasons why a route would not be answered as FastAPI answers it."""
    if type(context.original_route) is not APIRoute:
        yield f"it is a {type(context.original_route).__name__}, not a plain APIRoute"
        return
    if not context.methods or "HEAD" in context.methods:
        yield "it takes no method, or HEAD, which GET answers"
    if any(type(convertor) is not StringConvertor for convertor in context.param_convertors.values()):
        yield "its path has a converter"
    if getattr(context, "max_body_size", None) is not None:
        yield "its max_body_size would not be used"
    # The returned response is sent unchanged. FastAPI would build one from anything else.
    returned = get_type_hints(context.endpoint).get("return") if inspect.isroutine(context.endpoint) else None
    if not inspect.isclass(returned) or not issubclass(returned, Response):
        yield "its function is not declared to return a Response"
    yield from _unsupported_calls(context.dependant, scope="function")


def _unsupported_calls(dependant: Dependant, scope: str | None = None) -> Iterator[str]:
    """The same for a function and all that it depends on; `scope` is what FastAPI gives it by itself."""
    name = getattr(dependant.call, "__name__", type(dependant.call).__name__)
    if not _is_async(dependant.call):
        yield f"{name} is not an `async def` without `yield`"
    for field in dataclasses.fields(dependant):
        if field.name not in _SUPPORTED and getattr(dependant, field.name):
            yield f"{name} uses {field.name}"
    if not dependant.use_cache or dependant.scope != scope:
        yield f"{name} is used with use_cache=False or a scope"
    for parameter in dependant.path_params:
        info = parameter.field_info
        if info.annotation is not str or info.metadata or parameter.alias != parameter.name:
            yield f"{name} takes {parameter.name} of the path as something else than plain text"
    for needed in dependant.dependencies:
        yield from _unsupported_calls(needed)


def _is_async(call: Any) -> bool:
    """Whether it is an `async def`, or an object that is called by one, also below its decorators."""
    return all(
        inspect.iscoroutinefunction(function if inspect.isroutine(function) else type(function).__call__)
        for function in (call, inspect.unwrap(call))
    )
