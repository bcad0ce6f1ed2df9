"""The OpenAPI document, and Swagger UI, which shows it. We serve all of its files: it works without internet."""

import re
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service.errors import not_found
from service.http import openapi, responses
from service.http.server.middleware import NO_SOURCES
from service.pages.layout import hash_source


def serve(app: FastAPI) -> None:
    """Add /openapi.json and /docs; call this after all other routes were added."""
    # Once: it is large, and anybody can ask for it.
    document = bytes(responses.json(openapi.describe(app)).body)
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
        # Otherwise Swagger UI sends the document to a validator on another host.
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
        return Response(document, media_type="application/json")
