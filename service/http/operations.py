"""Health, for operators and load balancers."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.errors import ShopError
from service.http.requests import ResourcesDep
from service.infra import health

router = APIRouter()


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(Live):
    """The service can sell; the state of each part."""

    postgresql: Literal["ok"]
    worker: str
    redis: str


@router.get("/health/live")
async def live() -> Live:
    """Whether the process answers at all."""
    return Live(status="ok")


@router.get("/health/ready")
async def ready(resources: ResourcesDep) -> Ready:
    """Whether the service can sell: PostgreSQL answers, is writable and migrated.

    Redis and the worker are only reported: sales go on without them.
    """
    states = await health.check(resources)
    if states["postgresql"] != "ok":
        raise ShopError("unavailable", f"PostgreSQL: {states['postgresql']}.", **states)
    return Ready.model_validate({"status": "ok", **states})
