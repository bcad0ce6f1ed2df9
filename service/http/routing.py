"""Routing: FastAPI's own routes, compiled at start into the few calls that each request needs.

Router reads FastAPI's description of each route once, with the guards of its routers. The service does not start if
Router would run a route differently. tests/http/test_same_as_fastapi.py compares both for every route.
"""

import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin

from fastapi import FastAPI, Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts, serialize_response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.http.server.bodies import COMPLETE
from service.http.server.reading import MISSING, BoundedRequest

# Not documented by FastAPI: RouteContext, serialize_response, Dependant and its fields' `validate` (fastapi>=0.165).
# tests/http/test_routing.py fails when one of them changes.
# The fields of a Dependant that are read here. All others must be empty, even if a later FastAPI adds them.
_SUPPORTED = {"call", "name", "path", "use_cache", "scope", "dependencies", "path_params", "query_params"}
_SUPPORTED |= {"header_params", "body_params", "request_param_name", "http_connection_param_name"}
# No path of ours contains a control character, and `$` in a route's pattern ignores a newline at the end.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FAILED = object()


class UnsupportedRoute(Exception):
    """A route or an application uses something that Router does not support; the text says what."""


class Router:
    """Pure ASGI: answers every HTTP request by a route of the application, or by its handler of HTTPException.

    It is stricter than FastAPI. Dependencies run before the body is read, and the body is bounded and strict JSON. A
    route that has no body waits for the end of one that was sent, as it may be malformed. A path with a control
    character is 404, and no path is redirected.
    """

    def __init__(self, app: FastAPI) -> None:
        """Raises UnsupportedRoute. Routes that are added to the application later are not served."""
        self._app = app
        # By "METHOD path": the functions that answer it, its guards included.
        self.functions: dict[str, list[Any]] = {}
        self._fixed: dict[tuple[str, str], _Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], _Route]]] = {}
        self._handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = dict(app.exception_handlers)
        self._refuse_app_options()
        for kind, handler in self._handlers.items():
            if not isinstance(kind, type) or kind is Exception or not inspect.iscoroutinefunction(handler):
                raise UnsupportedRoute(f"the handler of {kind} is not an `async def` for one kind of exception")
        for context in iter_route_contexts(app.routes):
            self._add(_Route(context))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Stores the route in the scope, for the metrics."""
        self._refuse_app_options()
        request = BoundedRequest(scope, receive, send)
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

    def _refuse_app_options(self) -> None:
        """Checked at start and at each request: these can be set at any time, and one of them may close a route."""
        app = self._app
        if app.user_middleware or app.dependency_overrides or app.root_path or getattr(app, "max_body_size", None):
            raise UnsupportedRoute("the application has middleware, dependency_overrides, a root_path or max_body_size")

    def _add(self, route: "_Route") -> None:
        for method in route.context.methods or ():
            if self._find(method, route.path)[0] is not None:
                raise UnsupportedRoute(f"{route.name}: an earlier route answers {method} there")
            self.functions[f"{method} {route.path}"] = route.functions
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
        # The middleware answers HEAD by GET.
        raise HTTPException(405, headers={"Allow": ", ".join(["HEAD", *allowed] if "GET" in allowed else allowed)})


class _Route:
    """The calls of a route, in FastAPI's order: its dependencies, each once per request, then its endpoint."""

    def __init__(self, context: RouteContext) -> None:
        self.context, self.path = context, str(context.path)
        self.name = f"{' '.join(sorted(context.methods or ()))} {self.path}".strip()
        self._steps: list[_Step] = []
        self.functions: list[Any] = []
        try:
            _refuse_route(context)
            _refuse_call(context.dependant)
            self._add(context.dependant, {})
        except UnsupportedRoute as reason:
            raise UnsupportedRoute(f"{self.name}: {reason}") from None
        if sum(len(step.bodies) for step in self._steps) > 1:
            raise UnsupportedRoute(f"{self.name}: its body is declared more than once")
        self._status = {} if context.status_code is None else {"status_code": context.status_code}
        options = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")
        self._options = {name: getattr(context, f"response_model_{name}") for name in options}

    async def answer(self, request: BoundedRequest, path_params: dict[str, str]) -> Response:
        """The endpoint's response. Raises RequestValidationError, or what a function raised."""
        results: list[Any] = []
        errors: list[Any] = []
        for step in self._steps:
            errors_before = len(errors)
            arguments = step.arguments(request, path_params, results, errors)
            for body in step.bodies:
                arguments[body.name] = body.validate(await request.content(), errors)
            if step is self._steps[-1] and not step.reads_body and COMPLETE not in request.scope.get("extensions", ()):
                await request.body()
            if errors and (len(errors) > errors_before or any(value is _FAILED for value in arguments.values())):
                # Skip only this call, as FastAPI does: the response then names the errors of all.
                results.append(_FAILED)
            else:
                results.append(await step.call(**arguments))
        if errors:
            raise RequestValidationError(errors)
        result = results[-1]
        return result if isinstance(result, Response) else await self._serialize(result)

    async def _serialize(self, result: Any) -> Response:
        """The response that FastAPI makes of a result: checked and filtered by the declared model."""
        field, kind = self.context.response_field, self.context.response_class
        # FastAPI's default class is wrapped, so it is not a type. With a model, FastAPI then writes JSON directly.
        quick = field is not None and not isinstance(kind, type)
        content = await serialize_response(field=field, response_content=result, dump_json=quick, **self._options)
        if quick:
            response = Response(content, media_type="application/json", **self._status)
        else:
            response = getattr(kind, "value", kind)(content, **self._status)
        if response.status_code < 200 or response.status_code in (204, 205, 304):
            response.body = b""
        return response

    def _add(self, dependant: Dependant, known: dict[Any, int]) -> int:
        """Add the steps of its dependencies, then its own. Returns the index of its result."""
        indexes = []
        for needed in dependant.dependencies:
            if not needed.use_cache or needed.scope is not None:
                raise UnsupportedRoute(f"{_name(needed.call)} is used with use_cache=False or a scope")
            _refuse_call(needed)
            index = known[needed.call] if needed.call in known else self._add(needed, known)
            if needed.name is not None:
                indexes.append((needed.name, index))
        known[dependant.call] = len(self._steps)
        self.functions.append(dependant.call)
        self._steps.append(_Step(dependant, indexes))
        return known[dependant.call]


def _refuse_route(context: RouteContext) -> None:
    if type(context.original_route) is not APIRoute:
        raise UnsupportedRoute(f"it is a {type(context.original_route).__name__}, not a plain APIRoute")
    if not context.methods or "HEAD" in context.methods:
        raise UnsupportedRoute("it has no method, or HEAD, which GET answers")
    is_strict = getattr(context.strict_content_type, "value", context.strict_content_type)
    convertors = {type(convertor) for convertor in context.param_convertors.values()}
    if not is_strict or context.max_body_size is not None or convertors - {StringConvertor}:
        raise UnsupportedRoute("its strict_content_type, its max_body_size or a converter in its path would be ignored")


def _refuse_call(dependant: Dependant) -> None:
    for field in dataclasses.fields(dependant):
        if field.name not in _SUPPORTED and getattr(dependant, field.name):
            raise UnsupportedRoute(f"{_name(dependant.call)} uses {field.name}")


def _name(call: Any) -> str:
    return str(getattr(call, "__name__", type(call).__name__))


class _Step:
    """One call: the function, and where each of its arguments comes from."""

    def __init__(self, dependant: Dependant, indexes: list[tuple[str, int]]) -> None:
        self.call = _awaitable(dependant.call)
        self._indexes = indexes
        self._path = [_Parameter(field) for field in dependant.path_params]
        self._query = [_Parameter(field) for field in dependant.query_params]
        self._headers = [_Parameter(field) for field in dependant.header_params]
        self.bodies = [_Parameter(field) for field in dependant.body_params]
        self._requests = [*filter(None, (dependant.request_param_name, dependant.http_connection_param_name))]
        # A function that takes the request may read its body by itself.
        self.reads_body = bool(self.bodies or self._requests)

    def arguments(
        self, request: BoundedRequest, path_params: dict[str, str], results: list[Any], errors: list[Any]
    ) -> dict[str, Any]:
        """All arguments except the body, which has to be awaited."""
        arguments: dict[str, Any] = {name: results[index] for name, index in self._indexes}
        for parameter in self._path:
            arguments[parameter.name] = parameter.read(path_params, errors)
        if self._query:
            query: Mapping[str, str] = request.query_params if request.scope["query_string"] else {}
            for parameter in self._query:
                arguments[parameter.name] = parameter.read(query, errors)
        for parameter in self._headers:
            arguments[parameter.name] = parameter.read(request.headers, errors)
        for name in self._requests:
            arguments[name] = request
        return arguments


class _Parameter:
    """One parameter, with FastAPI's own validator."""

    def __init__(self, field: Any) -> None:
        info = field.field_info
        is_body = isinstance(info, params.Body)
        self._is_model = inspect.isclass(info.annotation) and issubclass(info.annotation, BaseModel)
        if not _is_supported(info, self._is_model):
            raise UnsupportedRoute(f"{field.name} is a list, an object, a form, embedded, or has several names")
        place = "body" if is_body else info.in_.value
        self.name: str = field.name
        self._alias: str = field.alias
        self._location = (place,) if is_body or self._is_model else (place, field.alias)
        self._required = info.is_required()
        default = None if self._required else field.get_default()
        self._default: Callable[[], Any] = field.get_default if default is not None else lambda: None
        self._validate = field.validate

    def read(self, source: Mapping[str, str], errors: list[Any]) -> Any:
        """The value in a path, query or headers."""
        if self._is_model:
            return self.validate(dict(source), errors)
        value = source.get(self._alias)
        return self.validate(MISSING if value is None else value, errors)

    def validate(self, value: Any, errors: list[Any]) -> Any:
        """The argument for `value`; for an invalid value, None and an error in `errors`."""
        if value is MISSING:
            if not self._required:
                return self._default()
            errors.append({"type": "missing", "loc": self._location, "msg": "Field required", "input": None})
            return None
        argument, invalid = self._validate(value, {}, loc=self._location)
        errors += invalid
        return argument


def _is_supported(info: Any, is_model: bool) -> bool:
    """Whether Router reads a parameter as FastAPI does: no form, list or object; models only in the body or query."""
    if isinstance(info, params.Body):
        return not (isinstance(info, params.Form) or info.embed or info.validate_default)
    if info.validation_alias not in (None, info.alias) or info.validate_default:
        return False
    if not is_model:
        return _is_scalar(info.annotation)
    model: type[BaseModel] = info.annotation
    return (
        info.in_.value == "query"
        and model.model_config.get("extra") != "allow"
        and all(_is_scalar(m.annotation) and m.alias is m.validation_alias is None for m in model.model_fields.values())
    )


def _is_scalar(annotation: Any) -> bool:
    """Whether its value is one text: neither a list, which FastAPI collects from several texts, nor an object."""
    kind = get_origin(annotation) or annotation
    if inspect.isclass(kind) and issubclass(kind, (Collection, BaseModel)) and not issubclass(kind, (str, bytes)):
        return False
    return kind is Literal or all(map(_is_scalar, get_args(annotation)))


def _awaitable(call: Any) -> Callable[..., Awaitable[Any]]:
    """An `async def` as it is; a plain `def` in a wrapper that runs it in a thread, as FastAPI does."""
    function = call
    while isinstance(function, partial):
        function = function.func
    # The function, and what its decorators wrap. For an object that can be called, its `__call__`.
    layers = [f if inspect.isroutine(f) else type(f).__call__ for f in (function, inspect.unwrap(function))]
    if any(inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer) for layer in layers):
        raise UnsupportedRoute(f"{_name(call)} uses `yield`")
    is_async, *others = map(inspect.iscoroutinefunction, layers)
    if others != [is_async]:
        raise UnsupportedRoute(f"{_name(call)} is an `async def` and a plain `def` in layers")

    async def in_thread(**arguments: Any) -> Any:
        result = await run_in_threadpool(call, **arguments)
        if inspect.isawaitable(result):
            raise TypeError(f"{_name(call)} is a plain function, but returned an awaitable, which nobody would await")
        return result

    return call if is_async else in_thread
