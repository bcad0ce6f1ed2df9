"""The pages that problem documents link to by `type`: what each error code means."""

from html import escape

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from service.errors import KINDS, not_found
from service.pages import layout

router = APIRouter()


@router.get("/problems/{code}", response_class=HTMLResponse)
async def explain_problem(code: str) -> Response:
    """Explain an error code: its cause, what to do, and the members it adds."""
    if code not in KINDS:
        raise not_found("error code")
    kind = KINDS[code]
    retry = f" Try again after {kind.retry_after} s." if kind.retry_after else ""
    if "retry_after_seconds" in kind.members:
        retry = " Try again after the time that Retry-After says."
    members = "".join(
        f"<dt><code>{name}</code></dt><dd>{escape(member.meaning)}</dd>" for name, member in kind.members.items()
    )
    body = (
        f"<p>Status {kind.status}, <code>{escape(code)}</code>.</p>"
        f"<p>{escape(kind.cause)}</p><p>{escape(kind.remedy)}{retry}</p>"
    )
    return layout.page(escape(kind.title), body + (f"<dl>{members}</dl>" if members else ""))
