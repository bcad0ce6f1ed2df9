"""Whether the parts answer."""

import asyncio
from dataclasses import dataclass

from service.errors import ShopError
from service.infra.db import connection
from service.infra.parts import Parts
from service.infra.statements import Statement


@dataclass(slots=True)
class Migrated:
    """Whether the newest index is there."""

    migrated: bool


IS_MIGRATED = Statement("operation/is_migrated", Migrated)


async def check(parts: Parts) -> dict[str, str]:
    """`ok` or what is wrong, for PostgreSQL and Redis."""
    return {"postgresql": await _postgresql(parts), "redis": await _redis(parts)}


async def _postgresql(parts: Parts) -> str:
    try:
        async with asyncio.timeout(3), connection(parts.pool) as reader:
            return "ok" if (await IS_MIGRATED.one(reader)).migrated else "not migrated"
    except (ShopError, TimeoutError):
        return "unreachable"


async def _redis(parts: Parts) -> str:
    return "ok" if await parts.patience.ask(parts.redis.ping, urgent=True) else "unreachable"
