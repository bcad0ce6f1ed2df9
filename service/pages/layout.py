"""The layout of our HTML pages: readable without JavaScript, and nothing is loaded from elsewhere."""

from base64 import b64encode
from hashlib import sha256

from fastapi.responses import HTMLResponse

from service.http.server.middleware import NO_SOURCES

_STYLE = """
:root { color-scheme: light dark }
body { font: 17px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1.2rem }
h1 { font-size: 1.6rem; line-height: 1.2 }
table { border-collapse: collapse; width: 100%; margin: 1.2rem 0 }
td, th { padding: .4rem 0; border-top: 1px solid #8884; text-align: left; font-variant-numeric: tabular-nums }
td:last-child, th:last-child { text-align: right }
.small { font-size: .8rem; opacity: .7 }
code { font-size: .95em }
"""


def hash_source(text: bytes) -> str:
    """The source expression for an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{b64encode(sha256(text).digest()).decode()}'"


_POLICY = f"{NO_SOURCES}; style-src {hash_source(_STYLE.encode())}"


def page(title: str, body: str, *, refresh_seconds: int | None = None) -> HTMLResponse:
    """A page. `title` and `body` are HTML: callers escape text."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>",
        headers={"Content-Security-Policy": _POLICY},
    )
