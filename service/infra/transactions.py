"""Transactions, which are retried as a whole when they had no effect."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import asyncpg

from service.errors import ShopError
from service.infra.db import Connection, Pool, connection
from service.infra.db_errors import CONNECTION_LOST, is_connection_loss, log_failure

T = TypeVar("T")

ATTEMPTS = 3
# Time for a server to notice that a client is gone.
RECONNECT_SECONDS = 0.1
OUTCOME_UNKNOWN = "The connection was lost during this change. Check whether it was made before you try again."

# Errors that a retry fixes: conflicts with another transaction, a cached plan that a migration invalidated, and a
# demoted server. Nothing was written there, and a new connection finds the new primary.
_RETRYABLE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.ReadOnlySQLTransactionError,
)


async def run_transaction(
    pool: Pool, work: Callable[[Connection], Awaitable[T]], *, idempotent: bool = False, autocommit: bool = False
) -> T:
    """Run `work(tx)` in one READ COMMITTED transaction, and retry it as a whole if it had no effect.

    `work` must change nothing but the database. When the connection is lost during COMMIT, the outcome is unknown.
    `idempotent` work is then retried: it finds what an earlier run did, by its idempotency key, event or order. Other
    work raises `unavailable` with OUTCOME_UNKNOWN. `autocommit` work writes in one statement, without BEGIN and COMMIT.

    Raises ShopError: `busy` after ATTEMPTS conflicts, `unavailable` without a server, or a constraint's meaning.
    """
    for attempt in range(1, ATTEMPTS + 1):
        commit_sent = autocommit
        async with pool.transaction_limiter, connection(pool) as tx:
            try:
                if autocommit:
                    return await work(tx)
                await tx.execute("BEGIN")
                result = await work(tx)
                commit_sent = True
                status = await tx.execute("COMMIT")
                # If `work` ignored the error of a statement, PostgreSQL rolls back here without another error.
                assert status == "COMMIT", status
                return result
            except Exception as error:
                pool.drop_if_unusable(tx, error)
                if not tx.is_closed() and tx.is_in_transaction():
                    with suppress(*CONNECTION_LOST):
                        await tx.execute("ROLLBACK")
                if commit_sent and not idempotent and is_connection_loss(error):
                    log_failure(error)
                    raise ShopError("unavailable", OUTCOME_UNKNOWN) from error
                delay = _retry_delay(attempt, error)
                if delay is None or attempt == ATTEMPTS:
                    raise
                log_failure(error, retried=True)
        await asyncio.sleep(delay)
    raise AssertionError


def _retry_delay(attempt: int, error: Exception) -> float | None:
    """Seconds until the next attempt; None if a retry would not help."""
    if isinstance(error, TimeoutError):
        return None
    if is_connection_loss(error):
        return RECONNECT_SECONDS
    # Random, so that the transactions in conflict do not meet again.
    return random.uniform(0, 0.02 * 2**attempt) if isinstance(error, _RETRYABLE) else None  # noqa: S311
