"""Routes as FastAPI's tutorial writes them: answered as FastAPI answers them, or refused at start."""

import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from functools import partial, wraps
from inspect import signature
from itertools import product
from pathlib import Path as File
from typing import Annotated, Any
from urllib.parse import unquote
from uuid import UUID

import aiohttp
import httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    WebSocket,
)
from fastapi.dependencies.models import Dependant
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute, iter_route_contexts, serialize_response
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBearer,
    OAuth2PasswordBearer,
    SecurityScopes,
)
from fastapi.staticfiles import StaticFiles
from pydantic import AliasChoices, BaseModel, Field
from starlette.routing import Host, Route
from yarl import URL

from service.app import create_app
from service.errors import ShopError
from service.http import carts
from service.http.responses import HANDLERS
from service.http.routing import Router, UnsupportedRoute
from service.settings import Settings
from tests.client import Shop, is_problem, is_problem_document
from tests.conftest import served

Declare = Callable[[FastAPI], None]
BEARER = {"Authorization": "Bearer token"}


async def closed(request: Request) -> None:
    """A guard: only the holder of a token passes."""
    if request.headers.get("authorization") != BEARER["Authorization"]:
        raise HTTPException(403, "closed", {"X-Guard": "closed"})


def closed_for_all() -> None:
    raise HTTPException(403, "closed")


async def text(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path} {request.path_params}")


async def token(request: Request) -> str:
    return request.headers.get("authorization", "")


async def closed_by_dependency(credential: Annotated[str, Depends(token)]) -> None:
    if credential != BEARER["Authorization"]:
        raise HTTPException(403, "closed")


async def closed_by_scheme(
    credential: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    if credential is None or credential.credentials != "token":
        raise HTTPException(403, "closed")


async def closed_by_connection(connection: HTTPConnection) -> None:
    if "authorization" not in connection.headers:
        raise HTTPException(403, "closed")


class ClosedObject:
    async def __call__(self, request: Request) -> None:
        await closed(request)


Sent = tuple[str, str, dict[str, str], Any]


async def ask(app: Any, method: str, path: str, headers: dict[str, str], body: Any = b"") -> tuple[int, bytes, Any]:
    """A response's status, body and headers."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.request(method, path, headers=headers, content=body)
        return answer.status_code, answer.content, dict(answer.headers)


async def compare(app: FastAPI, *requests: Sent) -> list[int]:
    """Send each request to FastAPI and to our router, whose responses must be equal. Returns the statuses."""
    router = Router(app)
    statuses = []
    for method, path, headers, body in requests:
        by_fastapi = await ask(app, method, path, headers, body)
        by_router = await ask(router, method, path, headers, body)
        # FastAPI names the methods of one route only, and not HEAD, which the service answers.
        assert set(by_fastapi[2].pop("allow", "").split()) <= set(by_router[2].pop("allow", "").split())
        if by_fastapi[0] == 500:
            # In the service, its middleware answers an unhandled error.
            by_fastapi = 500, b"", {}
        assert by_router == by_fastapi, (method, path, headers, body)
        statuses.append(by_fastapi[0])
    return statuses


SAME: dict[str, Declare] = {}
REFUSED: dict[str, Declare] = {}


def same(declare: Declare) -> Declare:
    SAME[declare.__name__] = declare
    return declare


def refused(declare: Declare) -> Declare:
    REFUSED[declare.__name__] = declare
    return declare


# Ways to close a route. Each has `/closed/{item}`; some have `/open` too.


@same
def on_the_route(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(closed)])(text)
    app.get("/open")(text)


@same
def on_the_router(app: FastAPI) -> None:
    router = APIRouter(prefix="/closed", dependencies=[Depends(closed)])
    router.get("/{item}")(text)
    app.include_router(router)
    app.get("/open")(text)


@same
def on_its_inclusion(app: FastAPI) -> None:
    router = APIRouter()
    router.get("/{item}")(text)
    app.include_router(router, prefix="/closed", dependencies=[Depends(closed)])
    app.get("/open")(text)


@same
def on_a_routeraround(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter(prefix="/closed")
    inner.get("/{item}")(text)
    outer.include_router(inner, dependencies=[Depends(closed)])
    app.include_router(outer)


@same
def on_the_routeraround_it(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter(dependencies=[Depends(closed)])
    outer.include_router(inner)
    app.include_router(outer)
    # FastAPI takes routes that come after the inclusion too.
    inner.get("/closed/{item}")(text)


def on_the_application(app: FastAPI) -> None:
    router = APIRouter()
    router.get("/closed/{item}")(text)
    app.include_router(router)
    app.get("/closed")(text)


@same
def in_the_signature(app: FastAPI) -> None:
    @app.get("/closed/{item}")
    async def f(request: Request, item: str, _: Annotated[None, Depends(closed)]) -> Response:
        return await text(request)


@same
def with_a_dependency_of_its_own(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(closed_by_dependency)])(text)


@same
def by_a_security_scheme(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(HTTPBearer())])(text)


@same
def by_a_password_scheme(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(OAuth2PasswordBearer(tokenUrl="token"))])(text)


@same
def by_a_key_scheme(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(APIKeyHeader(name="Authorization"))])(text)


@same
def by_security(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Security(closed)])(text)


@same
def by_what_a_scheme_found(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(closed_by_scheme)])(text)


@same
def by_the_connection(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(closed_by_connection)])(text)


@same
def by_an_object(app: FastAPI) -> None:
    app.get("/closed/{item}", dependencies=[Depends(ClosedObject())])(text)


@same
def by_the_path(app: FastAPI) -> None:
    async def guard(item: str) -> None:
        if item == "1":
            raise HTTPException(403, "closed")

    app.get("/closed/{item}", dependencies=[Depends(guard)])(text)
    app.get("/closed/{item}/other", dependencies=[Depends(guard)])(text)


@same
def by_the_paths_parameters(app: FastAPI) -> None:
    async def guard(request: Request) -> None:
        if request.path_params["item"] == "1":
            raise HTTPException(403, "closed")

    app.get("/closed/{item}", dependencies=[Depends(guard)])(text)


@same
def by_an_error_with_a_handler(app: FastAPI) -> None:
    async def guard() -> None:
        raise ShopError("unauthorized", "closed")

    @app.exception_handler(ShopError)
    async def handler(request: Request, error: ShopError) -> Response:
        return JSONResponse({"code": error.code}, error.kind.status)

    app.get("/closed/{item}", dependencies=[Depends(guard)])(text)


@same
def in_the_order_of_fastapi_and_each_once(app: FastAPI) -> None:
    def record(request: Request, name: str) -> str:
        request.scope.setdefault("order", []).append(name)
        return name

    async def first(request: Request) -> None:
        record(request, "first")

    async def inner(request: Request) -> str:
        return record(request, "inner")

    async def second(request: Request, value: Annotated[str, Depends(inner)]) -> str:
        return record(request, f"second after {value}")

    router = APIRouter(dependencies=[Depends(second)])

    @router.get("/closed/{item}", dependencies=[Depends(first), Depends(closed)])
    async def f(
        request: Request, value: Annotated[str, Depends(inner)], other: Annotated[str, Depends(second)]
    ) -> Response:
        return PlainTextResponse(f"{request.scope['order']} {value} {other}")

    app.include_router(router, dependencies=[Depends(first)])


CREDENTIALS: list[dict[str, str]] = [{}, BEARER, {"Authorization": "Bearer"}, {"Authorization": "Basic token"}]
TO_A_CLOSED_ROUTE: list[Sent] = [
    (method, path, headers, b"")
    for method, path in [
        *(("GET", path) for path in ("/closed/1", "/closed/2", "/closed/1/other", "/closed", "/open", "/nope", "/")),
        *((method, "/closed/1") for method in ("POST", "OPTIONS", "BREW")),
    ]
    for headers in CREDENTIALS
]


@pytest.mark.parametrize("name", [*SAME, "on_the_application"])
async def test_a_closed_route_is_answered_as_by_fastapi(name: str) -> None:
    if name == "on_the_application":
        app, declare = FastAPI(dependencies=[Depends(closed)], openapi_url=None), on_the_application
    else:
        app, declare = FastAPI(openapi_url=None), SAME[name]
    declare(app)
    statuses = await compare(app, *TO_A_CLOSED_ROUTE)
    assert set(statuses[: len(CREDENTIALS)]) & {401, 403}, "the guard lets everybody in"


# Guards of every form, attached in every way


class Model(BaseModel):
    number: int = 1


class Size(Enum):
    LARGE = "large"


def plain(request: Request) -> None:
    if request.headers.get("authorization") != BEARER["Authorization"]:
        raise HTTPException(401, "closed", {"WWW-Authenticate": "Bearer"})


async def above_plain(_: Annotated[None, Depends(plain)]) -> None: ...


def plain_above_async(_: Annotated[None, Depends(closed)]) -> None: ...


class ClosedClass:
    def __init__(self, request: Request) -> None:
        plain(request)


class PlainObject:
    def __call__(self, request: Request) -> None:
        plain(request)


class ClosedMethod:
    async def check(self, request: Request) -> None:
        await closed(request)


def decorated(function: Callable[[Request], Awaitable[None]]) -> Callable[[Request], Awaitable[None]]:
    @wraps(function)
    async def wrapper(request: Request) -> None:
        await function(request)

    return wrapper


def with_two_values(_: str, request: Request) -> None:
    plain(request)


async def with_header(x_token: Annotated[str, Header()]) -> None:
    if x_token != "token":
        raise HTTPException(403, "closed")


async def with_optional_header(authorization: Annotated[str | None, Header()] = None) -> None:
    if authorization is None:
        raise HTTPException(403, "closed")


async def with_query(q: str) -> None:
    if q != "token":
        raise HTTPException(403, "closed")


async def with_int(item: int) -> None:
    if item == 1:
        raise HTTPException(403, "closed")


async def with_body(model: Model) -> None:
    raise HTTPException(403, "closed")


GUARDS = {
    "an async def": Depends(closed),
    "a plain def": Depends(plain),
    "an async def above a plain def": Depends(above_plain),
    "a plain def above an async def": Depends(plain_above_async),
    "a class": Depends(ClosedClass),
    "an object": Depends(ClosedObject()),
    "a plain object": Depends(PlainObject()),
    "a method": Depends(ClosedMethod().check),
    "a partial": Depends(partial(closed)),
    "a plain partial": Depends(partial(with_two_values, "x")),
    "a decorated function": Depends(decorated(closed)),
    "a header": Depends(with_header),
    "an optional header": Depends(with_optional_header),
    "a query": Depends(with_query),
    "a number of the path": Depends(with_int),
    "a body": Depends(with_body),
    "a bearer token": Depends(HTTPBearer()),
    "a basic login": Depends(HTTPBasic()),
    "a key in a header": Depends(APIKeyHeader(name="X-Token")),
    "a key in the query": Depends(APIKeyQuery(name="q")),
    "a key in a cookie": Depends(APIKeyCookie(name="session")),
    "a password scheme": Depends(OAuth2PasswordBearer(tokenUrl="token")),
    "security": Security(closed),
}
ATTACHED: dict[str, Callable[[Any], FastAPI]] = {}


def attached(make: Callable[[Any], FastAPI]) -> Callable[[Any], FastAPI]:
    ATTACHED[make.__name__] = make
    return make


@attached
def to_the_route(guard: Any) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.get("/closed/{item}", dependencies=[guard])(text)
    return app


@attached
def to_the_router(guard: Any) -> FastAPI:
    app, router = FastAPI(openapi_url=None), APIRouter(dependencies=[guard])
    router.get("/closed/{item}")(text)
    app.include_router(router)
    return app


@attached
def to_its_inclusion(guard: Any) -> FastAPI:
    app, router = FastAPI(openapi_url=None), APIRouter()
    router.get("/closed/{item}")(text)
    app.include_router(router, dependencies=[guard])
    return app


@attached
def to_an_outer_router(guard: Any) -> FastAPI:
    app, outer, inner = FastAPI(openapi_url=None), APIRouter(), APIRouter()
    inner.get("/closed/{item}")(text)
    outer.include_router(inner, dependencies=[guard])
    app.include_router(outer)
    return app


@attached
def to_the_application(guard: Any) -> FastAPI:
    app = FastAPI(openapi_url=None, dependencies=[guard])
    app.get("/closed/{item}")(text)
    return app


@attached
def to_a_parameter(guard: Any) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/closed/{item}")
    async def f(request: Request, item: str, _: Annotated[Any, guard]) -> Response:
        return await text(request)

    return app


TO_A_GUARD: list[Sent] = [
    (method, path, headers, body)
    for method in ("GET", "POST")
    for path in ("/closed/1", "/closed/2", "/closed/x", "/closed/1?q=token", "/closed/1?q=other")
    for headers in (*CREDENTIALS, {"X-Token": "token"}, {"X-Token": "other"}, {"Cookie": "session=1"})
    for body in (b"",)
]


@pytest.mark.parametrize("way", ATTACHED)
@pytest.mark.parametrize("guard", GUARDS)
async def test_a_guard_closes_as_by_fastapi(guard: str, way: str) -> None:
    statuses = await compare(ATTACHED[way](GUARDS[guard]), *TO_A_GUARD)
    assert set(statuses) & {401, 403, 422}, "the guard lets everybody in"


# Parameters and responses of every form


@dataclasses.dataclass(slots=True)
class Row:
    id: UUID
    at: datetime
    name: str | None
    parts: list[Model]


class Filter(BaseModel):
    model_config = {"extra": "forbid"}

    limit: int = Field(default=10, ge=1)
    size: Size | None = None


class Public(BaseModel):
    name: str


class Secret(Public):
    password: str


A_ROW = Row(UUID(int=1), datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), None, [Model(number=2)])
PARAMETERS: dict[str, tuple[Declare, list[str]]] = {}
JSON_BODIES = [b"", b"null", b"{}", b"[]", b"1", b'"x"', b'{"number": 2}', b'{"number": "2"}', b'{"number": "x"}']


def parameters(*paths: str) -> Callable[[Declare], Declare]:
    def add(declare: Declare) -> Declare:
        PARAMETERS[declare.__name__] = declare, list(paths)
        return declare

    return add


@parameters("/x/1", "/x/-1", "/x/01", "/x/1.0", "/x/a", "/x/%201", "/x/1_0", "/x/99999999999999999999999")
def a_number_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: int) -> Response:
        return PlainTextResponse(repr(item))


@parameters(f"/x/{UUID(int=1)}", f"/x/{UUID(int=1).hex}", "/x/1")
def a_uuid_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: UUID) -> Response:
        return PlainTextResponse(repr(item))


@parameters("/x/large", "/x/LARGE", "/x/small")
def a_choice_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: Size) -> Response:
        return PlainTextResponse(repr(item))


@parameters("/x/abc", "/x/abcd")
def a_bounded_text_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: Annotated[str, Path(max_length=3)]) -> Response:
        return PlainTextResponse(repr(item))


@parameters("/x/a", "/x/{item-id}")
def another_name_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item-id}")
    async def f(item: Annotated[str, Path(alias="item-id")]) -> Response:
        return PlainTextResponse(repr(item))

    app.get("/x/{item}")(text)


@parameters("/x/a")
def no_type_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item) -> Response:  # type: ignore[no-untyped-def]
        return PlainTextResponse(repr(item))


@parameters("/x", "/x?q=", "/x?q=a", "/x?q=a&q=b", "/x?n=1", "/x?n=a", "/x?q=a&n=2", "/x?p=1", "/x?%")
def a_query(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: str, n: Annotated[int | None, Query(ge=1)] = None, size: Size = Size.LARGE) -> Response:
        return PlainTextResponse(repr((q, n, size)))


@parameters("/x", "/x?limit=2", "/x?limit=0", "/x?limit=1&limit=3", "/x?size=large&other=1", "/x?a=1&b=2", "/x?limit=")
def a_query_model(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: Annotated[Filter, Query()]) -> Response:
        return PlainTextResponse(repr(q))


@parameters("/x")
def a_header(app: FastAPI) -> None:
    @app.get("/x")
    async def f(
        x_token: Annotated[str | None, Header()] = None, length: Annotated[int, Header(alias="X-Length")] = 3
    ) -> Response:
        return PlainTextResponse(repr((x_token, length)))


@parameters("/x")
def a_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(model: Model) -> Response:
        return PlainTextResponse(repr(model))


@parameters("/x")
def an_optional_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(model: Annotated[Model, Body(default_factory=Model)]) -> Response:
        return PlainTextResponse(repr(model))


@parameters("/x")
def a_body_or_nothing(app: FastAPI) -> None:
    @app.post("/x")
    async def f(model: Model | None = None) -> Response:
        return PlainTextResponse(repr(model))


@parameters("/x")
def a_number_in_the_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(number: Annotated[int, Body()]) -> Response:
        return PlainTextResponse(repr(number))


@parameters("/x")
def a_list_in_the_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(numbers: list[int]) -> Response:
        return PlainTextResponse(repr(numbers))


@parameters("/x/1?q=a", "/x/a?q=a", "/x/1", "/x/a?n=b")
def errors_of_a_dependency_and_of_the_route(app: FastAPI) -> None:
    async def inner(q: str) -> str:
        return q

    async def outer(value: Annotated[str, Depends(inner)], n: int = 1) -> str:
        return f"{value} {n}"

    @app.post("/x/{item}")
    @app.get("/x/{item}")
    async def f(item: int, value: Annotated[str, Depends(outer)]) -> Response:
        return PlainTextResponse(f"{item} {value}")


@parameters("/x")
def a_plain_function(app: FastAPI) -> None:
    @app.get("/x")
    def f() -> Response:
        return PlainTextResponse("plain")


@parameters("/x")
def json_of_a_dictionary(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> dict[str, str]:
        return {"a": "b"}


@parameters("/x")
def nothing_declared(app: FastAPI) -> None:
    @app.get("/x")
    async def f():  # type: ignore[no-untyped-def]
        return {"a": A_ROW}


@parameters("/x", "/y", "/z")
def a_dataclass(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> Row:
        return A_ROW

    @app.get("/y", status_code=201)
    async def g() -> list[Row]:
        return [A_ROW]

    @app.get("/z")
    async def h() -> Row:
        return Row("wrong", None, 1, [])  # type: ignore[arg-type]


@parameters("/x", "/y")
def a_model_that_filters(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> Public:
        return Secret(name="a", password="b")

    @app.get("/y", response_model=Public)
    async def g() -> Any:
        return Secret(name="a", password="b")


@parameters("/x")
def members_left_out(app: FastAPI) -> None:
    @app.get("/x", response_model_exclude_unset=True)
    async def f() -> Filter:
        return Filter(limit=1)


@parameters("/x", "/y")
def no_content(app: FastAPI) -> None:
    @app.get("/x", status_code=204)
    async def f() -> None: ...

    @app.get("/y", status_code=204)
    async def g() -> Response:
        return Response(status_code=204)


@parameters("/x")
def a_response_class(app: FastAPI) -> None:
    @app.get("/x", response_class=HTMLResponse, status_code=202)
    async def f() -> str:
        return "<p>"


@parameters("/x")
def a_file_response_class(app: FastAPI) -> None:
    @app.get("/x", response_class=FileResponse)
    async def f() -> File:
        return File(__file__)


@pytest.mark.parametrize("name", PARAMETERS)
async def test_parameters_and_responses_are_as_by_fastapi(name: str) -> None:
    declare, paths = PARAMETERS[name]
    app = FastAPI(openapi_url=None)
    declare(app)
    kinds = ["application/json", "Application/JSON; charset=utf-8", "application/ld+json"]
    requests: list[Sent] = [
        *(("GET", path, headers, b"") for path in paths for headers in HEADERS),
        *(("POST", path, {"Content-Type": kind}, body) for path in paths for kind in kinds for body in JSON_BODIES),
    ]
    assert 200 in await compare(app, *requests) or name in ("a_dataclass", "no_content", "a_response_class")


HEADERS: list[dict[str, str]] = [{}, {"X-Token": "a", "X-Length": "2"}, {"x-token": "", "x-length": "a"}]


async def test_a_body_is_stricter_than_by_fastapi() -> None:
    app = FastAPI(openapi_url=None, exception_handlers=HANDLERS)
    a_body(app)
    router = Router(app)
    json = {"Content-Type": "application/json"}
    for headers, body, status in (
        (json, b'{"number": NaN}', 400),
        (json, b'{"number": 1e400}', 422),
        (json, b'{"\\ud800": 1}', 400),
        (json, '{"number": 1}'.encode("utf-16"), 400),
        (json, b'\xef\xbb\xbf{"number": 1}', 400),
        (json, b"{", 400),
        (json, b'{"number": 1}'.ljust(2**16), 200),
        (json, b'{"number": 1}'.ljust(2**16 + 1), 413),
        ({}, b'{"number": 1}', 415),
        ({"Content-Type": "text/plain"}, b'{"number": 1}', 415),
        ({"Content-Type": "text/x+json"}, b'{"number": 1}', 415),
        ({"Content-Type": "application/a/b+json"}, b'{"number": 1}', 415),
    ):
        assert (await ask(router, "POST", "/x", headers, body))[0] == status, (headers, body[:40])


async def test_a_guard_runs_before_the_body_is_read() -> None:
    app = FastAPI(openapi_url=None)

    @app.post("/x", dependencies=[Depends(closed)])
    async def f(model: Model) -> Response:
        return Response()

    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"{"

    assert (await ask(Router(app), "POST", "/x", {}, body()))[0] == 403
    assert not read


# What is refused


async def generator() -> AsyncIterator[None]:
    yield


def plain_generator() -> Iterator[None]:
    yield


async def with_scopes(scopes: SecurityScopes) -> None: ...


async def with_cookie(session: Annotated[str, Cookie()]) -> None: ...


async def with_response(response: Response) -> None: ...


async def with_list(q: Annotated[list[str], Query()]) -> None: ...


async def above_generator(_: Annotated[None, Depends(generator)]) -> None: ...


def plainly_decorated(function: Callable[[Request], Awaitable[None]]) -> Callable[[Request], Awaitable[None]]:
    @wraps(function)
    def wrapper(request: Request) -> Awaitable[None]:
        return function(request)

    return wrapper


REFUSED_GUARDS = {
    "a generator": Depends(generator),
    "a plain generator": Depends(plain_generator),
    "a generator below": Depends(above_generator),
    "a cookie": Depends(with_cookie),
    "the response": Depends(with_response),
    "a list in the query": Depends(with_list),
    "scopes": Security(with_scopes, scopes=["x"]),
    "scopes alone": Security(closed, scopes=["x"]),
    "the scopes of whoever asks": Depends(with_scopes),
    "a scope": Depends(closed, scope="function"),
    "an async def in a plain def": Depends(plainly_decorated(closed)),
}


@pytest.mark.parametrize("way", ATTACHED)
@pytest.mark.parametrize("guard", REFUSED_GUARDS)
def test_a_guard_that_would_not_run_as_by_fastapi_is_refused(guard: str, way: str) -> None:
    with pytest.raises(UnsupportedRoute, match=r"^GET /closed/\{item\}: "):
        Router(ATTACHED[way](REFUSED_GUARDS[guard]))


class Later:
    """A result that somebody would have to await."""

    def __await__(self) -> Iterator[None]:
        yield


async def test_a_plain_guard_whose_result_nobody_awaits_does_not_open_the_route() -> None:
    app = FastAPI(openapi_url=None)

    def guard() -> Later:
        return Later()

    app.get("/closed/{item}", dependencies=[Depends(guard)])(text)
    assert (await ask(Router(app), "GET", "/closed/1", BEARER))[0] == 500


@refused
def a_stream(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> AsyncIterator[Model]:
        yield Model()


@refused
def a_cookie(app: FastAPI) -> None:
    @app.get("/x")
    async def f(session: Annotated[str | None, Cookie()] = None) -> Response: ...


@refused
def a_list_in_the_query(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: Annotated[list[int] | None, Query()] = None) -> Response: ...


@refused
def a_set_in_the_headers(app: FastAPI) -> None:
    @app.get("/x")
    async def f(x_token: Annotated[set[str], Header()]) -> Response: ...


@refused
def a_list_in_a_query_model(app: FastAPI) -> None:
    class Lists(BaseModel):
        ids: list[int] = []

    @app.get("/x")
    async def f(q: Annotated[Lists, Query()]) -> Response: ...


@refused
def a_query_model_or_nothing(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: Annotated[Filter | None, Query()] = None) -> Response: ...


@refused
def a_query_model_of_any_name(app: FastAPI) -> None:
    class Open(BaseModel):
        model_config = {"extra": "allow"}

    @app.get("/x")
    async def f(q: Annotated[Open, Query()]) -> Response: ...


@refused
def a_query_model_with_other_names(app: FastAPI) -> None:
    class Renamed(BaseModel):
        limit: int = Field(default=1, alias="l")

    @app.get("/x")
    async def f(q: Annotated[Renamed, Query()]) -> Response: ...


@refused
def several_names(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: Annotated[str, Query(validation_alias=AliasChoices("p", "q"))]) -> Response: ...


@refused
def a_model_of_headers(app: FastAPI) -> None:
    @app.get("/x")
    async def f(headers: Annotated[Model, Header()]) -> Response: ...


@refused
def two_bodies(app: FastAPI) -> None:
    @app.post("/x")
    async def f(one: Model, two: Filter) -> Response: ...


@refused
def a_body_here_and_in_a_dependency(app: FastAPI) -> None:
    @app.post("/x", dependencies=[Depends(with_body)])
    async def f(model: Model) -> Response: ...


@refused
def an_embedded_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(model: Annotated[Model, Body(embed=True)]) -> Response: ...


@refused
def a_lenient_content_type(app: FastAPI) -> None:
    router = APIRouter(strict_content_type=False)

    @router.post("/x")
    async def f(model: Model) -> Response: ...

    app.include_router(router)


@refused
def a_dependency_without_a_cache(app: FastAPI) -> None:
    @app.get("/x")
    async def f(_: Annotated[None, Depends(closed, use_cache=False)]) -> Response: ...


@refused
def background_tasks(app: FastAPI) -> None:
    @app.get("/x")
    async def f(tasks: BackgroundTasks) -> Response: ...


@refused
def the_response_to_come(app: FastAPI) -> None:
    @app.get("/x")
    async def f(response: Response) -> Response: ...


@refused
def a_converter(app: FastAPI) -> None:
    app.get("/x/{item:path}")(text)


@refused
def a_converter_of_an_inclusion(app: FastAPI) -> None:
    router = APIRouter()
    router.get("/x")(text)
    app.include_router(router, prefix="/{shop:int}")


@refused
def a_route_class(app: FastAPI) -> None:
    class Guarded(APIRoute):
        def get_route_handler(self) -> Any:
            async def handler(request: Request) -> Response:
                raise HTTPException(403)

            return handler

    router = APIRouter(route_class=Guarded)
    router.get("/x")(text)
    app.include_router(router)


@refused
def a_starlette_route(app: FastAPI) -> None:
    app.add_route("/x", text)


@refused
def a_mounted_application(app: FastAPI) -> None:
    app.mount("/x", FastAPI())


@refused
def mounted_files(app: FastAPI) -> None:
    app.mount("/x", StaticFiles(directory=str(File(__file__).parent)))


@refused
def mounted_in_a_router(app: FastAPI) -> None:
    router = APIRouter()
    router.mount("/x", FastAPI())
    app.include_router(router)


@refused
def a_host(app: FastAPI) -> None:
    app.router.routes.append(Host("admin.example", FastAPI()))


@refused
def a_websocket(app: FastAPI) -> None:
    @app.websocket("/x")
    async def f(socket: WebSocket) -> None: ...


@refused
def a_starlette_route_in_a_router(app: FastAPI) -> None:
    app.include_router(APIRouter(routes=[Route("/x", text)]))


@refused
def the_openapi_document_of_fastapi(app: FastAPI) -> None:
    app.openapi_url = "/openapi.json"
    app.setup()


@refused
def head(app: FastAPI) -> None:
    app.head("/x")(text)


@refused
def a_body_limit(app: FastAPI) -> None:
    app.post("/x", max_body_size=1)(text)


@refused
def a_body_limit_of_an_inclusion(app: FastAPI) -> None:
    router = APIRouter()
    router.post("/x")(text)
    app.include_router(router, max_body_size=1)


@refused
def a_body_limit_of_the_application(app: FastAPI) -> None:
    app.max_body_size = 1


@refused
def a_root_path(app: FastAPI) -> None:
    app.root_path = "/shop"


@refused
def middleware(app: FastAPI) -> None:
    @app.middleware("http")
    async def closed_for_all(request: Request, call_next: Any) -> Response:
        return Response(status_code=403)


@refused
def another_dependency(app: FastAPI) -> None:
    app.dependency_overrides[token] = closed


@refused
def a_handler_for_a_status(app: FastAPI) -> None:
    @app.exception_handler(404)
    async def handler(request: Request, error: Exception) -> Response: ...


@refused
def a_handler_for_all(app: FastAPI) -> None:
    @app.exception_handler(Exception)
    async def handler(request: Request, error: Exception) -> Response: ...


@refused
def a_plain_handler(app: FastAPI) -> None:
    @app.exception_handler(ShopError)
    def handler(request: Request, error: Exception) -> Response: ...


@refused
def twice(app: FastAPI) -> None:
    app.get("/x/{one}")(text)
    app.get("/x/{other}", dependencies=[Depends(closed)])(text)


@refused
def behind_one_that_takes_it(app: FastAPI) -> None:
    app.get("/x/{item}", dependencies=[Depends(closed)])(text)
    app.get("/x/open")(text)


@pytest.mark.parametrize("name", REFUSED)
def test_a_route_that_would_not_be_answered_as_by_fastapi_is_refused(name: str) -> None:
    app = FastAPI(openapi_url=None)
    Router(app)
    REFUSED[name](app)
    with pytest.raises(UnsupportedRoute):
        Router(app)


@pytest.mark.parametrize("name", ["middleware", "another_dependency", "a_body_limit_of_the_application", "a_root_path"])
async def test_an_application_that_is_closed_later_is_closed(name: str) -> None:
    app = FastAPI(openapi_url=None)
    app.get("/open")(text)
    router = Router(app)
    assert (await ask(router, "GET", "/open", {}))[0] == 200
    REFUSED[name](app)
    assert (await ask(router, "GET", "/open", {}))[0] == 500


async def test_the_first_of_two_that_take_an_address_answers_as_in_fastapi() -> None:
    app = FastAPI(openapi_url=None)
    app.get("/x/first")(text)
    app.get("/x/{item}", dependencies=[Depends(closed)])(text)
    app.post("/x/{item}")(text)
    router = Router(app)
    for method, path in (("GET", "/x/first"), ("GET", "/x/other"), ("POST", "/x/first")):
        assert await ask(router, method, path, {}) == await ask(app, method, path, {})
    # FastAPI names the methods of the first route alone.
    status, _, headers = await ask(router, "DELETE", "/x/first", {})
    assert (status, headers["allow"]) == (405, "HEAD, GET, POST")


# What is used of FastAPI beyond its documentation


def test_fastapi_describes_routes_by_the_fields_that_are_known() -> None:
    """A new field could ask for something that Router does not do; each is to be read, or refused where it is set."""
    assert {field.name for field in dataclasses.fields(Dependant)} == {
        *(
            "path_params",
            "query_params",
            "header_params",
            "cookie_params",
            "body_params",
            "dependencies",
            "name",
            "call",
        ),
        *("request_param_name", "websocket_param_name", "http_connection_param_name", "response_param_name"),
        *("background_tasks_param_name", "security_scopes_param_name", "own_oauth_scopes", "parent_oauth_scopes"),
        *("use_cache", "path", "scope", "concurrency"),
    }
    assert {*signature(APIRoute).parameters} - {"path", "endpoint"} == {
        *("response_model", "status_code", "tags", "dependencies", "summary", "description", "response_description"),
        *("responses", "deprecated", "name", "methods", "operation_id", "response_model_include"),
        *("response_model_exclude", "response_model_by_alias", "response_model_exclude_unset"),
        *("response_model_exclude_defaults", "response_model_exclude_none", "include_in_schema", "response_class"),
        *("dependency_overrides_provider", "callbacks", "openapi_extra", "generate_unique_id_function"),
        *("strict_content_type", "max_body_size", "form_limits"),
    }
    assert {*signature(serialize_response).parameters} == {
        *("field", "response_content", "include", "exclude", "by_alias", "exclude_unset", "exclude_defaults"),
        *("exclude_none", "is_coroutine", "endpoint_ctx", "dump_json"),
    }
    # What `_Parameter` calls.
    (field,) = next(iter(iter_route_contexts([APIRoute("/{item}", with_int)]))).dependant.path_params
    assert (field.name, field.alias, field.get_default() is not None) == ("item", "item", True)
    assert field.validate("1", {}, loc=("path", "item")) == (1, [])
    assert field.validate("x", {}, loc=("path", "item"))[1][0]["loc"] == ("path", "item")


# The service itself


@pytest.mark.parametrize("way", ["router", "inclusion"])
async def test_a_guard_of_a_router_closes_the_service(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def guard() -> None:
        raise ShopError("unauthorized", "closed")

    if way == "router":
        outer = APIRouter(dependencies=[Depends(guard)])
        outer.include_router(carts.router)
    else:
        outer = APIRouter()
        outer.include_router(carts.router, dependencies=[Depends(guard)])
    monkeypatch.setattr(carts, "router", outer)
    async with served(create_app(settings)) as url, Shop(url) as shop:
        assert is_problem(await shop.http.post("/carts"), 401, "unauthorized")
        assert (await shop.http.get("/products")).status_code == 200


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (403, "forbidden"), (402, None), (429, "rate_limited")]
)
async def test_a_guard_as_in_fastapis_documentation_answers_with_its_status(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int, code: str | None
) -> None:
    async def guard() -> None:
        raise HTTPException(status, "Not for you", {"X-Guard": "closed"})

    outer = APIRouter()
    outer.include_router(carts.router, dependencies=[Depends(guard)])
    monkeypatch.setattr(carts, "router", outer)

    async with served(create_app(settings)) as url, Shop(url) as shop:
        answer = await shop.http.post("/carts")

    assert answer.status_code == status
    assert answer.headers["x-guard"] == "closed"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "Not for you"
    assert answer.json().get("code") == code


def test_the_service_does_not_start_with_a_guard_that_would_not_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = APIRouter()
    outer.include_router(carts.router, dependencies=[Depends(generator)])
    monkeypatch.setattr(carts, "router", outer)
    with pytest.raises(UnsupportedRoute, match="generator uses `yield`"):
        create_app(settings)


ODD = "%0a %0d %0d%0a %00 %09 %7f %85 %c2%85 %e2%80%a8 %20 %2f / // %2e ;x x".split()
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


async def test_only_a_routes_own_addresses_are_answered_by_it(shop: Shop, settings: Settings) -> None:
    """Every route's path with something odd after, before and inside it, by every method.

    Each answer is a problem: 404 or 405, or what the call answers where the path is one of its own after all. A newline
    after a path was once a 500 in plain text.
    """
    templates = [str(context.path) for context in iter_route_contexts(create_app(settings).routes)]
    assert len(templates) > 25
    own = [re.compile(re.sub("{.*?}", "[^/\0-\x1f\x7f-\x9f]+", template)) for template in templates]
    paths = sorted({re.sub("{.*?}", "1", template) for template in templates})
    odd_paths = set()
    for path in paths:
        places = {1, path.rfind("/"), path.rfind("/") + 1, len(path)}
        odd_paths |= {path[:place] + odd + path[place:] for place in places for odd in ODD}
        odd_paths |= {path.upper(), path.title(), f"/{path[1:].replace('/', '%2f')}"}
    odd_paths = {path for path in odd_paths if path.startswith("/")} - set(paths)
    assert len(odd_paths) > 1000
    async with aiohttp.ClientSession() as client:
        for path, method in product(sorted(odd_paths), METHODS):
            is_own = any(pattern.fullmatch(unquote(path, errors="replace")) for pattern in own)
            async with client.request(method, URL(shop.url + path, encoded=True)) as answer:
                status, body = answer.status, await answer.read()
            assert status in (404, 405) or (is_own and status < 500), (method, path, status)
            if status >= 400 and method != "HEAD":
                assert is_problem_document(status, answer.headers, body), (method, path)


async def test_fastapis_own_path_answers_with_problems_too(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/busy")
    async def busy() -> Response:
        raise ShopError("busy", "x")

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await FastAPI.__call__(app, scope, receive, send)

    for method, path, status, code in (
        ("GET", "/busy", 503, "busy"),
        ("GET", "/nope", 404, "not_found"),
        ("PUT", "/busy", 405, "method_not_allowed"),
        ("GET", "/problems/nope%0a", 404, "not_found"),
    ):
        given, body, headers = await ask(inside, method, path, {})
        assert (given, headers["content-type"]) == (status, "application/problem+json"), path
        assert f'"code":"{code}"'.encode() in body
