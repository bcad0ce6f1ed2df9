"""What operators and programs look at: health, and what each error code means."""

from html import escape
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from service.errors import KINDS, ShopError, not_found
from service.http import pages, responses
from service.http.requests import resources_of
from service.http.responses import problems
from service.infra import health

router = APIRouter()


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(Live):
    """It can sell; how each part is."""

    postgresql: str
    worker: str
    redis: str


@router.get("/health/live", response_model=Live)
async def live(request: Request) -> Response:
    """Whether the process answers at all."""
    return responses.json({"status": "ok"})


@router.get("/health/ready", response_model=Ready, responses=problems())
async def ready(request: Request) -> Response:
    """Whether it can sell: PostgreSQL reachable and migrated.

    Redis and the worker may be gone, and are only reported: sales go on, and to refuse them would make it worse.
    """
    resources = await health.check(resources_of(request))
    if resources["postgresql"] != "ok":
        raise ShopError("unavailable", f"PostgreSQL: {resources['postgresql']}.", **resources)
    return responses.json({"status": "ok", **resources})


@router.get("/problems/{code}", response_class=HTMLResponse, responses=problems("not_found"))
async def explain_problem(request: Request, code: str) -> Response:
    """What an error code means."""
    if code not in KINDS:
        raise not_found("error code")
    kind = KINDS[code]
    again = f" Try again after {kind.retry_after} s." if kind.retry_after else ""
    return pages.page(escape(kind.title), f"<p>Status {kind.status}, <code>{escape(code)}</code>.{again}</p>")
