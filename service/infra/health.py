"""Whether the parts answer, and the workers' signs of life.

These are in PostgreSQL, as Redis may be gone; and written by what knows whether the worker's loops come round, as one
that is stuck is connected all the same.
"""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from service.errors import ShopError
from service.infra.db import connection
from service.infra.parts import Parts
from service.infra.statements import NoRow, Statement

# sql/operation/see_workers.sql looks back three times as far.
BEAT_SECONDS = 5


@dataclass(slots=True)
class Migrated:
    """Whether the newest table is there."""

    migrated: bool


@dataclass(slots=True)
class SeenWorker:
    """A worker that is alive: which of its loops are late, with commas between."""

    late: str


IS_MIGRATED = Statement("operation/is_migrated", Migrated)
BEAT = Statement("operation/beat", NoRow)
SEE_WORKERS = Statement("operation/see_workers", SeenWorker)


async def check(parts: Parts) -> dict[str, str]:
    """`ok` or what is wrong, for PostgreSQL, the worker and Redis."""
    postgresql, worker = await _postgresql(parts)
    return {"postgresql": postgresql, "worker": worker, "redis": await _redis(parts)}


async def beat(parts: Parts, worker_id: UUID, late: list[str]) -> None:
    """A worker is alive, and these of its loops are late."""
    async with connection(parts.pool) as writer:
        await BEAT.run(writer, worker_id, ",".join(late))


async def _postgresql(parts: Parts) -> tuple[str, str]:
    try:
        async with asyncio.timeout(3), connection(parts.pool) as reader:
            if not (await IS_MIGRATED.one(reader)).migrated:
                return "not migrated", "not seen"
            seen = await SEE_WORKERS.maybe(reader)
    except (ShopError, TimeoutError):
        return "unreachable", "not seen"
    if seen is None:
        return "ok", "not seen"
    return "ok", f"late: {seen.late}" if seen.late else "ok"


async def _redis(parts: Parts) -> str:
    return "ok" if await parts.patience.ask(parts.redis.ping, urgent=True) else "unreachable"
