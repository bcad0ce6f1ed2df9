"""Routes as FastAPI's tutorial writes them: answered as FastAPI alone answers them, or refused at start."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
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
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import (
    APIKeyHeader,
    HTTPAuthorizationCredentials,
    HTTPBearer,
    OAuth2PasswordBearer,
    SecurityScopes,
)
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from service.http.dispatch import Dispatch, UnsupportedRoute
from starlette.routing import Host, Route
from yarl import URL

from service.app import create_app
from service.errors import ShopError
from service.http import carts
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


async def closed_below(given: Annotated[str, Depends(token)]) -> None:
    if given != BEARER["Authorization"]:
        raise HTTPException(403, "closed")


async def closed_by_scheme(
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    if given is None or given.credentials != "token":
        raise HTTPException(403, "closed")


async def closed_by_connection(connection: HTTPConnection) -> None:
    if "authorization" not in connection.headers:
        raise HTTPException(403, "closed")


class ClosedObject:
    async def __call__(self, request: Request) -> None:
        await closed(request)


async def asked(app: Any, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        given = await client.request(method, path, headers=headers)
        return given.status_code, given.content, dict(given.headers)


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
def on_a_router_around(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter(prefix="/closed")
    inner.get("/{item}")(text)
    outer.include_router(inner, dependencies=[Depends(closed)])
    app.include_router(outer)


@same
def on_the_router_around_it(app: FastAPI) -> None:
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
    app.get("/closed/{item}", dependencies=[Depends(closed_below)])(text)


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
    def note(request: Request, name: str) -> str:
        request.scope.setdefault("order", []).append(name)
        return name

    async def first(request: Request) -> None:
        note(request, "first")

    async def below(request: Request) -> str:
        return note(request, "below")

    async def second(request: Request, given: Annotated[str, Depends(below)]) -> str:
        return note(request, f"second after {given}")

    router = APIRouter(dependencies=[Depends(second)])

    @router.get("/closed/{item}", dependencies=[Depends(first), Depends(closed)])
    async def f(
        request: Request, given: Annotated[str, Depends(below)], other: Annotated[str, Depends(second)]
    ) -> Response:
        return PlainTextResponse(f"{request.scope['order']} {given} {other}")

    app.include_router(router, dependencies=[Depends(first)])


@pytest.mark.parametrize("name", [*SAME, "on_the_application"])
async def test_what_is_served_is_answered_as_by_fastapi(name: str) -> None:
    if name == "on_the_application":
        app, declare = FastAPI(dependencies=[Depends(closed)], openapi_url=None), on_the_application
    else:
        app, declare = FastAPI(openapi_url=None), SAME[name]
    declare(app)
    dispatch = Dispatch(app)
    statuses = set()
    for method, path in [
        *(("GET", path) for path in ("/closed/1", "/closed/2", "/closed/1/other", "/closed", "/open", "/nope", "/")),
        *((method, "/closed/1") for method in ("POST", "OPTIONS", "BREW")),
    ]:
        for headers in ({}, BEARER, {"Authorization": "Bearer"}, {"Authorization": "Basic token"}):
            expected, given = await asked(app, method, path, headers), await asked(dispatch, method, path, headers)
            # FastAPI names the methods of one route there, and not HEAD, which the service answers.
            assert set(expected[2].pop("allow", "").split()) <= set(given[2].pop("allow", "").split())
            assert given == expected, (method, path, headers)
            if (method, path) == ("GET", "/closed/1"):
                statuses.add(expected[0])
    assert statuses & {401, 403}, "the guard lets everybody in"


# What is refused


class Model(BaseModel):
    number: int = 1


class Size(Enum):
    LARGE = "large"


async def generator() -> AsyncIterator[None]:
    yield


def plain_generator() -> Iterator[None]:
    yield


async def with_scopes(scopes: SecurityScopes) -> None: ...


async def with_header(x_token: Annotated[str, Header()]) -> None: ...


async def with_query(q: str) -> None: ...


async def with_cookie(session: Annotated[str, Cookie()]) -> None: ...


async def with_body(model: Model) -> None: ...


async def with_response(response: Response) -> None: ...


async def with_int(item: int) -> None: ...


async def below_plain(_: Annotated[None, Depends(closed_for_all)]) -> None: ...


async def below_generator(_: Annotated[None, Depends(generator)]) -> None: ...


class ClosedClass:
    def __init__(self, request: Request) -> None:
        closed_for_all()


GUARDS = {
    "a plain def": Depends(closed_for_all),
    "a generator": Depends(generator),
    "a plain generator": Depends(plain_generator),
    "a class": Depends(ClosedClass),
    "a header": Depends(with_header),
    "a query": Depends(with_query),
    "a cookie": Depends(with_cookie),
    "a body": Depends(with_body),
    "the response": Depends(with_response),
    "a number of the path": Depends(with_int),
    "a plain def below": Depends(below_plain),
    "a generator below": Depends(below_generator),
    "scopes": Security(with_scopes, scopes=["x"]),
    "scopes alone": Security(closed, scopes=["x"]),
    "the scopes of whoever asks": Depends(with_scopes),
    "a scope": Depends(closed, scope="function"),
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
def to_a_router_around(guard: Any) -> FastAPI:
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


@pytest.mark.parametrize("way", ATTACHED)
@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_would_not_run_as_fastapi_runs_it_is_refused(guard: str, way: str) -> None:
    with pytest.raises(UnsupportedRoute, match=r"^GET /closed/\{item\}: "):
        Dispatch(ATTACHED[way](GUARDS[guard]))


@refused
def a_plain_function(app: FastAPI) -> None:
    @app.get("/x")
    def f() -> Response: ...


@refused
def json_of_a_dictionary(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> dict[str, str]: ...


@refused
def nothing_said(app: FastAPI) -> None:
    @app.get("/x")
    async def f(): ...  # type: ignore[no-untyped-def]


@refused
def a_response_class(app: FastAPI) -> None:
    @app.get("/x", response_class=HTMLResponse)
    async def f() -> str: ...


@refused
def a_file_response_class(app: FastAPI) -> None:
    @app.get("/x", response_class=FileResponse)
    async def f() -> File: ...


@refused
def a_stream(app: FastAPI) -> None:
    @app.get("/x")
    async def f() -> AsyncIterator[Model]:
        yield Model()


@refused
def a_number_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: int) -> Response: ...


@refused
def a_uuid_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: UUID) -> Response: ...


@refused
def a_choice_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: Size) -> Response: ...


@refused
def a_bounded_text_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item: Annotated[str, Path(max_length=3)]) -> Response: ...


@refused
def another_name_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item-id}")
    async def f(item: Annotated[str, Path(alias="item-id")]) -> Response: ...


@refused
def no_type_in_the_path(app: FastAPI) -> None:
    @app.get("/x/{item}")
    async def f(item) -> Response: ...  # type: ignore[no-untyped-def]


@refused
def a_query(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: str = "") -> Response: ...


@refused
def a_query_model(app: FastAPI) -> None:
    @app.get("/x")
    async def f(q: Annotated[Model, Query()]) -> Response: ...


@refused
def a_header(app: FastAPI) -> None:
    @app.get("/x")
    async def f(x_token: Annotated[str, Header()]) -> Response: ...


@refused
def a_cookie(app: FastAPI) -> None:
    @app.get("/x")
    async def f(session: Annotated[str | None, Cookie()] = None) -> Response: ...


@refused
def a_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(model: Model) -> Response: ...


@refused
def a_number_in_the_body(app: FastAPI) -> None:
    @app.post("/x")
    async def f(number: Annotated[int, Body()]) -> Response: ...


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
def test_what_would_not_be_answered_as_by_fastapi_is_refused(name: str) -> None:
    app = FastAPI(openapi_url=None)
    Dispatch(app)
    REFUSED[name](app)
    with pytest.raises(UnsupportedRoute):
        Dispatch(app)


@pytest.mark.parametrize("name", ["middleware", "another_dependency", "a_body_limit_of_the_application", "a_root_path"])
async def test_what_closes_an_application_later_closes_it(name: str) -> None:
    app = FastAPI(openapi_url=None)
    app.get("/open")(text)
    dispatch = Dispatch(app)
    assert (await asked(dispatch, "GET", "/open", {}))[0] == 200
    REFUSED[name](app)
    assert (await asked(dispatch, "GET", "/open", {}))[0] == 500


async def test_the_first_of_two_that_take_an_address_answers_as_in_fastapi() -> None:
    app = FastAPI(openapi_url=None)
    app.get("/x/first")(text)
    app.get("/x/{item}", dependencies=[Depends(closed)])(text)
    app.post("/x/{item}")(text)
    dispatch = Dispatch(app)
    for method, path in (("GET", "/x/first"), ("GET", "/x/other"), ("POST", "/x/first")):
        assert await asked(dispatch, method, path, {}) == await asked(app, method, path, {})
    # FastAPI names the methods of the first route alone.
    status, _, headers = await asked(dispatch, "DELETE", "/x/first", {})
    assert (status, headers["allow"]) == (405, "HEAD, GET, POST")


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


def test_the_service_does_not_start_with_a_guard_that_would_not_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = APIRouter()
    outer.include_router(carts.router, dependencies=[Depends(closed_for_all)])
    monkeypatch.setattr(carts, "router", outer)
    with pytest.raises(UnsupportedRoute, match="closed_for_all is not an `async def`"):
        create_app(settings)


ODD = "%0a %0d %0d%0a %00 %09 %7f %85 %c2%85 %e2%80%a8 %20 %2f / // %2e ;x x".split()
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


async def test_no_address_but_a_routes_own_is_answered_by_it(shop: Shop, settings: Settings) -> None:
    """Every route's path with something odd behind, before and between, by every method.

    Each answer is a problem: 404 or 405, or what the call answers where the path is one of its own after all. A newline
    behind a path was once a 500 in plain text.
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


async def test_what_reaches_fastapi_itself_is_a_problem_too(settings: Settings) -> None:
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
        given, body, headers = await asked(inside, method, path, {})
        assert (given, headers["content-type"]) == (status, "application/problem+json"), path
        assert f'"code":"{code}"'.encode() in body
