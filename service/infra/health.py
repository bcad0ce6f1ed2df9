"""Whether the resources answer, and the workers' signs of life.

These are in PostgreSQL, as Redis may be gone; and written by what knows whether the worker's loops come round, as one
that is stuck is connected all the same.
"""

import asyncio
import logging
from dataclasses import dataclass

import asyncpg

from service.errors import ShopError
from service.infra.db import connection
from service.infra.resources import Resources
from service.infra.sql import statement

# What comes round in the worker: that it is there at all, and its repairers.
HEARTBEAT, REPAIRERS = "heartbeat", ("sweep", "reconcile", "audit", "tidy")


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Migrated:
    """Whether the newest index is there, and what the newest migration grants; whether the server takes no writes."""

    migrated: bool
    read_only: bool


IS_MIGRATED = statement("health/is_migrated", Migrated)
BEAT = statement("health/record_heartbeat")
LIST_TIMELY_LOOPS = statement("health/list_timely_loops", str)


async def check(resources: Resources) -> dict[str, str]:
    """How PostgreSQL, the worker and Redis are.

    PostgreSQL and Redis are `ok`, `unreachable`, `login_refused` or `read_only`; PostgreSQL may be `not_migrated`.
    """
    postgresql, worker = await _postgresql(resources)
    return {"postgresql": postgresql, "worker": worker, "redis": await _redis(resources)}


async def beat(resources: Resources, loop: str, seconds: float) -> None:
    """A loop has come round, and is late when it has not again within `seconds`."""
    async with connection(resources.pool) as writer:
        await BEAT.run(writer, loop=loop, seconds=seconds)


async def _postgresql(resources: Resources) -> tuple[str, str]:
    try:
        async with asyncio.timeout(3), connection(resources.pool) as reader:
            state = await IS_MIGRATED.one(reader)
            if state.read_only:
                # As a write would be answered, so that the pool leaves this server though nobody writes.
                raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")
            if not state.migrated:
                return "not_migrated", "not seen"
            loops = [HEARTBEAT, *REPAIRERS]
            timely = await LIST_TIMELY_LOOPS.all(reader, loops=loops)
            late = [loop for loop in loops if loop not in timely]
    except ShopError as error:
        return error.extra.get("postgresql", "unreachable"), "not seen"
    except TimeoutError:
        logger.warning("readiness check timed out")
        return "unreachable", "not seen"
    if HEARTBEAT in late:
        return "ok", "not seen"
    return "ok", f"late: {', '.join(late)}" if late else "ok"


async def _redis(resources: Resources) -> str:
    # A write, which a demoted server refuses. There is nothing under this key.
    await resources.redis_breaker.call(lambda: resources.redis.delete(b"readiness"), urgent=True)
    return resources.redis_breaker.state
