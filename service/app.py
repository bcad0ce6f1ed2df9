"""The ASGI application: FastAPI's routes, our router that answers by them, and the middleware around it."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import (
    access,
    audit,
    carts,
    catalog,
    event_endpoints,
    openapi,
    operations,
    orders,
    policy,
    search,
    stuck,
    webhooks,
)
from service.http.identity import Identity
from service.http.responses import HANDLERS
from service.http.routing import Router
from service.http.server.limits import ConcurrencyLimitMiddleware, RateLimitMiddleware
from service.http.server.middleware import EXPOSED, RequestContextMiddleware, UnhandledErrorMiddleware
from service.infra import logs, startup
from service.infra.clients import Clients
from service.infra.metrics import sampling
from service.infra.parent import end_with_parent
from service.infra.resources import open_resources
from service.pages import docs, problems, returns
from service.settings import Settings

# Less than the worker's limit, because clients wait for each statement.
STATEMENT_SECONDS = 4


class Service(FastAPI):
    """FastAPI describes the routes; `edge`, our router with its middleware, answers requests by that description."""

    edge: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; start and stop as FastAPI does."""
        if scope["type"] == "http":
            scope["app"] = self
            await self.edge(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_process_app() -> Service:
    """The application for a process of its own, with the settings of the environment. Raises UnsafeSettings."""
    end_with_parent()
    settings = Settings.load()
    logs.configure(settings.log_level)
    app = create_app(settings)
    # Otherwise a full collection walks all objects that the imports created, and blocks the loop for 50 ms.
    gc.collect()
    gc.freeze()
    # By default a crowd that comes and goes causes a full collection every few seconds, 80 ms with 5,000 connections.
    gc.set_threshold(700, 10, 100)
    return app


def create_app(settings: Settings) -> Service:
    """The application for these settings. Raises UnsafeSettings, UnsupportedRoute and MissingRule."""
    settings.refuse_unsafe()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if settings.otlp_endpoint:
                from service.shop import traces

                stack.enter_context(traces.tracing(settings, "commerce-api"))
            resources = await stack.enter_async_context(open_resources(settings, "commerce-api", STATEMENT_SECONDS))
            app.state.resources = resources
            app.state.identity = Identity(resources)
            await stack.enter_async_context(sampling(resources.sample, app.state.concurrency.sample))
            # Beside the requests: a server that does not answer must not delay them.
            beside = [asyncio.create_task(startup.report(resources, "api"))]
            beside.append(asyncio.create_task(app.state.identity.watch()))
            try:
                yield
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)

    app = Service(lifespan=lifespan, redirect_slashes=False, exception_handlers=HANDLERS, **openapi.APPLICATION)
    routers: dict[str, tuple[APIRouter, ...]] = {
        "catalog": (catalog.router, search.router),
        "carts": (carts.router,),
        "orders": (orders.router, stuck.router),
        "staff": (access.router, audit.router),
        "events": (event_endpoints.router,),
        "webhooks": (webhooks.router,),
        "pages": (returns.router, problems.router),
        "operations": (operations.router,),
    }
    for tag, tagged in routers.items():
        for router in tagged:
            app.include_router(router, tags=[tag])
    docs.serve(app)
    app.state.clients = Clients(settings)
    app.edge = _edge(app, settings)
    return app


def _edge(app: Service, settings: Settings) -> ASGIApp:
    """The router and its middleware, the innermost first. Raises UnsupportedRoute and MissingRule."""
    clients: Clients = app.state.clients
    router = Router(app)
    policy.check(router.functions)
    edge: ASGIApp = UnhandledErrorMiddleware(router)
    if settings.rate_limit_per_minute:
        edge = RateLimitMiddleware(edge, settings.rate_limit_per_minute, clients)
    edge = app.state.concurrency = ConcurrencyLimitMiddleware(edge, settings.max_in_flight, clients)
    if settings.cors_origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    if settings.otlp_endpoint:
        from service.http.server.tracing import TracedRequestContextMiddleware

        return TracedRequestContextMiddleware(edge)
    return RequestContextMiddleware(edge)
