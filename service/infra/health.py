"""Whether the neighbours answer, and whether the worker does its periodic tasks.

The worker's heartbeats are in PostgreSQL, as Redis may be lost. A task records its heartbeat itself after each run,
because a worker that is stuck still has its connections.
"""

import asyncio
import logging
from dataclasses import dataclass

import asyncpg

from service.errors import ShopError
from service.infra.db import connection
from service.infra.packaged import index_names, migration_names
from service.infra.resources import Resources
from service.infra.sql import statement

# The worker itself, and its periodic tasks.
HEARTBEAT = "heartbeat"
PERIODIC_TASKS = ("sweep", "reconcile", "audit", "delete_expired", "measure_holds", "index_products", "deliver_events")
# Read at start, because a deployment may replace the files with those of newer code.
MIGRATIONS, INDEXES = migration_names(), index_names()

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Migrated:
    """Whether every migration was applied and left no invalid index, and whether the server refuses writes."""

    migrated: bool
    read_only: bool


IS_MIGRATED = statement("health/is_migrated", Migrated)
RECORD_HEARTBEAT = statement("health/record_heartbeat")
LIST_TIMELY_LOOPS = statement("health/list_timely_loops", str)


async def check(resources: Resources) -> dict[str, str]:
    """The state of PostgreSQL, the worker and Redis.

    PostgreSQL and Redis are `ok`, `unreachable`, `login_refused` or `read_only`; PostgreSQL may be `not_migrated`. The
    worker is `ok`, `not seen`, or `late` with the names of its late tasks.
    """
    postgresql, worker = await _postgresql(resources)
    return {"postgresql": postgresql, "worker": worker, "redis": await _redis(resources)}


async def record_heartbeat(resources: Resources, task: str, seconds: float) -> None:
    """Record that a task has run. It is late without another heartbeat within `seconds`."""
    async with connection(resources.pool) as writer:
        await RECORD_HEARTBEAT.run(writer, loop=task, seconds=seconds)


async def _postgresql(resources: Resources) -> tuple[str, str]:
    """The state of PostgreSQL, and of the worker by its heartbeats."""
    try:
        async with asyncio.timeout(3), connection(resources.pool) as reader:
            state = await IS_MIGRATED.one(reader, names=MIGRATIONS, indexes=INDEXES)
            if state.read_only:
                # The error that a write would raise: with it, the pool leaves this server even if nobody writes.
                raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")
            if not state.migrated:
                return "not_migrated", "not seen"
            tasks = [HEARTBEAT, *PERIODIC_TASKS]
            timely = await LIST_TIMELY_LOOPS.all(reader, loops=tasks)
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        return "not_migrated", "not seen"
    except ShopError as error:
        return error.extra.get("postgresql", "unreachable"), "not seen"
    except TimeoutError:
        logger.warning("readiness check timed out")
        return "unreachable", "not seen"
    overdue = [task for task in tasks if task not in timely]
    if HEARTBEAT in overdue:
        return "ok", "not seen"
    return "ok", f"late: {', '.join(overdue)}" if overdue else "ok"


async def _redis(resources: Resources) -> str:
    # A write, because a demoted server refuses only those. The key does not exist.
    redis = resources.redis
    await resources.redis_breaker.call(lambda: redis.delete(b"readiness"), operation="readiness", urgent=True)
    return resources.redis_breaker.state
