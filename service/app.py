"""The ASGI application: parts opened at start, routes mounted, and our own edge before FastAPI."""

import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ShopError, not_found
from service.http import carts, catalog, operations, orders, payments
from service.http.clients import Clients
from service.http.dispatch import Dispatch
from service.http.first_page import FirstPage
from service.http.middleware import EXPOSED, Envelope, Gate, RateLimit, Unforeseen
from service.http.pages import NOTHING, source
from service.http.responses import Problem, problem
from service.infra import logs
from service.infra.parts import open_parts
from service.settings import Settings

# Somebody waits for each: a server that hangs shall not keep them for as long as the worker gives it.
STATEMENT_SECONDS = 4

DESCRIPTION = """
Catalogue, carts, checkout with reserved stock, payment through Stripe.
Money is an integer in the currency's minor unit. Errors are `application/problem+json` with a `code`.
"""


class Service(FastAPI):
    """FastAPI behind our own edge: what it does around each request takes longer than all that ours does."""

    edge: ASGIApp
    first_page: FirstPage | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at the edge, or by `inside`."""
        scope["app"] = self
        await self.edge(scope, receive, send)

    async def inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as FastAPI does."""
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
        async with open_parts(settings, "commerce-api", STATEMENT_SECONDS) as parts:
            app.state.parts = parts
            yield

    app = Service(
        title="Commerce core",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    rooms = (catalog, carts, orders, payments, operations)
    for room in rooms:
        app.include_router(room.router, tags=[room.__name__.rpartition(".")[2]])
    _serve_docs(app)
    app.add_exception_handler(HTTPException, _http_error)
    app.edge = _edge(app, settings, [cast(APIRoute, route) for room in rooms for route in room.router.routes])
    return app


def _edge(app: Service, settings: Settings, routes: list[APIRoute]) -> ASGIApp:
    """What stands before FastAPI, the innermost first."""
    app.state.clients = Clients(settings)
    edge: ASGIApp = Unforeseen(Dispatch(app.inside, routes))
    if not settings.rate_limit_per_minute:
        # Where each is to be counted, by Redis, none is answered before that.
        app.first_page = FirstPage(app.state)
    else:
        edge = RateLimit(edge, settings.rate_limit_per_minute, app.state.clients, settings.admin_token)
    edge = Gate(edge, settings.max_in_flight)
    if settings.cors_origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    return Envelope(edge)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return problem(not_found("address"))
    answer = problem(ShopError("method_not_allowed", "This address does not take that method."))
    answer.headers.update(error.headers or {})
    if allowed := _methods(request):
        answer.headers["Allow"] = ", ".join(allowed)
    return answer


def _methods(request: Request) -> list[str]:
    """All methods that this address takes: the router names only those of the first route that has its path."""
    taken = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ["HEAD", *taken] if "GET" in taken else taken


def _serve_docs(app: FastAPI) -> None:
    """/docs with files of our own, so that it works without internet, and the Problem that every route refers to."""
    app.mount("/docs/static", StaticFiles(directory=str(files("fastapi_swagger") / "resources")), name="docs")

    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Commerce core",
        swagger_js_url="/docs/static/swagger-ui-bundle.js",
        swagger_css_url="/docs/static/swagger-ui.css",
        swagger_favicon_url="/docs/static/favicon-32x32.png",
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
