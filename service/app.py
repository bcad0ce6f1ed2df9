"""The ASGI application: resources opened at start, FastAPI's routes, and our own edge that answers by them."""

import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import KINDS, ShopError, not_found
from service.http import carts, catalog, operations, orders, payments, responses
from service.http.clients import Clients
from service.http.dispatch import Dispatch
from service.http.first_page import FirstPage
from service.http.middleware import EXPOSED, Envelope, Gate, RateLimit, Unforeseen
from service.http.pages import NOTHING, source
from service.http.responses import Problem, problem
from service.infra import logs
from service.infra.resources import open_resources
from service.settings import Settings

# Somebody waits for each: a server that hangs shall not keep them for as long as the worker gives it.
STATEMENT_SECONDS = 4

DESCRIPTION = """
Catalogue, carts, checkout with reserved stock, payment through Stripe.
Money is an integer in the currency's minor unit. Errors are `application/problem+json` with a `code`.
"""


class Service(FastAPI):
    """FastAPI, which describes the routes, behind our own edge, which answers by them."""

    edge: ASGIApp
    first_page: FirstPage | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request at the edge; start and stop as FastAPI does."""
        if scope["type"] == "http":
            scope["app"] = self
            await self.edge(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_process_app() -> Service:
    """The application of a process of its own, by the environment's settings. Raises UnsafeSettings."""
    settings = Settings.load()
    logs.configure(settings.log_level)
    app = create_app(settings)
    # A full collection would walk all that importing has made, and nobody is answered for 50 ms meanwhile.
    gc.collect()
    gc.freeze()
    return app


def create_app(settings: Settings) -> Service:
    """The application for these settings. Raises UnsafeSettings."""
    settings.refuse_unsafe()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_resources(settings, "commerce-api", STATEMENT_SECONDS) as resources:
            app.state.resources = resources
            yield

    app = Service(
        title="Commerce core",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    rooms = (catalog, carts, orders, payments, operations)
    for room in rooms:
        app.include_router(room.router, tags=[room.__name__.rpartition(".")[2]])
    _serve_docs(app)
    app.add_exception_handler(ShopError, _shop_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.edge = _edge(app, settings)
    return app


def _edge(app: Service, settings: Settings) -> ASGIApp:
    """What stands around the routes, the innermost first. Raises UnsupportedRoute."""
    app.state.clients = Clients(settings)
    edge: ASGIApp = Unforeseen(Dispatch(app))
    if not settings.rate_limit_per_minute:
        # Where each is to be counted, by Redis, none is answered before that.
        app.first_page = FirstPage(app.state)
    else:
        edge = RateLimit(edge, settings.rate_limit_per_minute, app.state.clients, settings.admin_token)
    edge = Gate(edge, settings.max_in_flight, app.state.clients)
    if settings.cors_origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    return Envelope(edge)


async def _shop_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShopError)
    return problem(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such address, or not with this method; other errors of FastAPI's kind if one code alone has their status."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(not_found("address"))
    codes = [code for code, kind in KINDS.items() if kind.status == error.status_code]
    if len(codes) != 1:
        raise error
    answer = problem(ShopError(codes[0], f"{KINDS[codes[0]].title}."))
    answer.headers.update(error.headers or {})
    return answer


def _serve_docs(app: FastAPI) -> None:
    """/docs with files of our own, so that it works without internet, and the Problem that every route refers to."""
    static = StaticFiles(directory=str(files("fastapi_swagger") / "resources"))
    names = script_file, style_file, icon_file = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"

    @app.get("/docs/static/{name}", include_in_schema=False)
    async def docs_file(request: Request, name: str) -> Response:
        if name not in names:
            raise not_found("file")
        return await static.get_response(name, request.scope)

    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Commerce core",
        swagger_js_url=f"/docs/static/{script_file}",
        swagger_css_url=f"/docs/static/{style_file}",
        swagger_favicon_url=f"/docs/static/{icon_file}",
        # Or it would have the document checked by a site of its makers.
        swagger_ui_parameters={"validatorUrl": None},
    ).body
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(page), re.DOTALL)
    # Swagger UI writes styles into its elements.
    policy = (
        f"{NOTHING}; script-src 'self' {source(script)}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    make = app.openapi

    def openapi() -> dict[str, object]:
        document = make()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components = document["components"]["schemas"]
        components.update(schema.pop("$defs"))
        components["Problem"] = schema
        for path in document["paths"].values():
            for call in path.values():
                # FastAPI's own 422 never goes out: every 422 here is a problem.
                if "HTTPValidationError" in str(call["responses"].get("422")):
                    del call["responses"]["422"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return responses.json(app.openapi())
