"""Claims of periodic tasks: one run at a time in all processes, by a lease in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Pool, connection
from service.infra.ids import new_id
from service.infra.sql import statement

# A run that was killed blocks the next one for this long.
LEASE_SECONDS = 60.0

CLAIM_TASK = statement("health/claim_task", datetime)
RELEASE_TASK = statement("health/release_task")


@asynccontextmanager
async def claimed(
    pool: Pool, task: str, *, pause_seconds: float = 0.0, wait_seconds: float = 0.0
) -> AsyncIterator[bool]:
    """Whether this run has the task; False if another has it or began less than `pause_seconds` ago.

    A task that another run has is waited for, at most `wait_seconds`.

    The lease is extended until the run ends. If that fails for LEASE_SECONDS, the run ends with a TimeoutError, since
    another one may have begun.
    """
    run_id = new_id()
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while not await _claim(pool, task, run_id, pause_seconds):
        if asyncio.get_running_loop().time() >= deadline:
            yield False
            return
        await asyncio.sleep(0.5)
    try:
        async with asyncio.timeout(LEASE_SECONDS) as lease:
            extending = asyncio.create_task(_extend(pool, task, run_id, lease))
            try:
                yield True
            finally:
                extending.cancel()
    finally:
        # Without the release the lease ends by itself.
        with suppress(ShopError):
            async with connection(pool) as writer:
                await RELEASE_TASK.run(writer, loop=task, run_id=run_id)


async def _claim(pool: Pool, task: str, run_id: UUID, pause_seconds: float) -> bool:
    async with connection(pool) as writer:
        until = await CLAIM_TASK.one_or_none(
            writer, loop=task, run_id=run_id, lease_seconds=LEASE_SECONDS, pause_seconds=pause_seconds
        )
    return until is not None


async def _extend(pool: Pool, task: str, run_id: UUID, lease: asyncio.Timeout) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        started = asyncio.get_running_loop().time()
        with suppress(ShopError):
            if not await _claim(pool, task, run_id, 0.0):
                lease.reschedule(started)
                return
            lease.reschedule(started + LEASE_SECONDS)
