"""The OpenAPI document and the page that shows it."""

import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from service.errors import not_found
from service.http import responses
from service.http.responses import NO_SOURCES, hash_source

DESCRIPTION = """
Catalogue, carts, checkout with reserved stock, payment through Stripe.
Money is an integer in the currency's minor unit. Errors are `application/problem+json` with a `code`.
"""
APPLICATION: dict[str, Any] = {
    "title": "Commerce core",
    "description": DESCRIPTION,
    "version": "0.1.0",
    # FastAPI's own documentation routes load their files from other hosts.
    "openapi_url": None,
    "docs_url": None,
    "redoc_url": None,
}


def serve(app: FastAPI) -> None:
    """Add /openapi.json, and /docs with files of our own, which works without internet."""
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
        # Otherwise Swagger UI sends the document to its makers' validator.
        swagger_ui_parameters={"validatorUrl": None},
    ).body
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(page), re.DOTALL)
    # Swagger UI sets styles on its elements.
    policy = (
        f"{NO_SOURCES}; script-src 'self' {hash_source(script)}; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; connect-src 'self'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return responses.json(app.openapi())
