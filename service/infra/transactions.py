"""Transactions, retried when they had no effect."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from service.errors import ShopError
from service.infra.db import (
    CONNECTION_LOST,
    Connection,
    Pool,
    abandon,
    connection,
    is_connection_loss,
    leave_server,
    log_failure,
)

T = TypeVar("T")

ATTEMPTS = 3

# Gone for a moment: another transaction was in the way, or a migration made an old plan void.
_RETRYABLE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
    # The server was demoted. The statement had no effect, and a new connection finds the new primary.
    asyncpg.ReadOnlySQLTransactionError,
)


async def run_transaction(
    pool: Pool, work: Callable[[Connection], Awaitable[T]], *, idempotent: bool = False, autocommit: bool = False
) -> T:
    """Run `work(tx)` in one explicit READ COMMITTED transaction, and again when that came to nothing.

    `work` must have no effect but on the database. It came to nothing when it lost to another, and when the
    connection was lost before COMMIT was sent. When it was lost after that, nobody here knows. `idempotent` says
    that `work` looks for what an earlier run has done, by its idempotency key, event or order: so it is run again,
    which waits for the locks of the lost transaction should that still be at its end, and costs those that are not
    lost no round trip for a transaction id to ask about. Other work ends with what is true: that it is not known.
    `autocommit` says that `work` writes by one statement, which the server makes a transaction of without being told.

    Raises ShopError: `busy` when retries are used up, `unavailable` without a server, or what a violated constraint
    means.
    """
    for attempt in range(1, ATTEMPTS + 1):
        committing = False
        async with pool.writers, connection(pool) as tx:
            try:
                if autocommit:
                    committing = True
                    return await work(tx)
                await tx.execute("BEGIN")
                result = await work(tx)
                committing = True
                status = await tx.execute("COMMIT")
                # A transaction in which an error was swallowed ends in ROLLBACK, without another error.
                assert status == "COMMIT", status
                return result
            except Exception as error:
                lost = is_connection_loss(error)
                if lost:
                    abandon(tx)
                elif isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    await leave_server(pool, tx)
                elif not autocommit:
                    await _roll_back(tx)
                if lost and committing and not idempotent:
                    log_failure(error)
                    raise ShopError(
                        "unavailable",
                        "The database was lost just as this was being done; look whether it was before you try again.",
                    ) from error
                again = not isinstance(error, TimeoutError) if lost else isinstance(error, _RETRYABLE)
                if not again or attempt == ATTEMPTS:
                    raise
        # Time for the server to notice that a connection is gone; else not all at once.
        await asyncio.sleep(0.1 if lost else random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter
    raise AssertionError


async def _roll_back(tx: Connection) -> None:
    try:
        await tx.execute("ROLLBACK")
    except CONNECTION_LOST:
        # The server rolls back what it has lost.
        abandon(tx)
