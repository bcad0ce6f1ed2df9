"""One log line at the start of a process: what runs, in which mode, with which settings, connected to what."""

import logging
import platform
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError

from service import __version__
from service.errors import ShopError
from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """PostgreSQL as this process sees it."""

    version: str
    role: str
    database: str


DESCRIBE_SERVER = statement("health/describe_server", Server)


async def report(resources: Resources, program: str) -> None:
    """Log that the process has started. A server that does not answer is named with the reason."""
    settings = resources.settings
    fields = {
        "program": program,
        "version": __version__,
        "python": platform.python_version(),
        "stripe": "live" if settings.live else "test",
        "webhooks": "signed" if settings.stripe_webhook_secret else "unsigned",
        "staff": "open" if settings.open_staff else "with credentials",
        "settings": changed(settings),
        **await _describe_postgresql(resources),
        "redis": await _describe_redis(resources),
    }
    logger.info("process started", extra=fields)


def changed(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults, without secrets."""
    return {
        name: value
        for name, field in type(settings).model_fields.items()
        if field.repr and (value := getattr(settings, name)) != field.default
    }


async def _describe_postgresql(resources: Resources) -> dict[str, str]:
    try:
        async with connection(resources.pool) as reader:
            server = await DESCRIBE_SERVER.one(reader)
    except ShopError as error:
        return {"postgresql": error.extra.get("postgresql", "unreachable")}
    return {"postgresql": server.version, "role": server.role, "database": server.database}


async def _describe_redis(resources: Resources) -> str:
    """The name and version of the server; "unknown" if it does not say."""

    async def ask() -> dict[str, Any]:
        try:
            information: dict[str, Any] = await resources.redis.info("server")
        except NoPermissionError:
            # Nothing else needs this right, so this is not a failure.
            return {}
        return information

    answer = await resources.redis_breaker.call(ask, operation="describe_server", seconds=1)
    if answer is None:
        return resources.redis_breaker.state
    for name in ("valkey", "redis"):
        if server_version := answer.get(f"{name}_version"):
            return f"{name} {server_version}"
    return "unknown"
