"""Applying the migrations. Any number of processes may do so at once, and any of them may be killed."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
import yoyo

from service.errors import ShopError
from service.infra.packaged import MIGRATIONS, migration_names
from service.infra.sql import statement

# Attempts to get a migration's locks. During each one other sessions wait at most its lock_timeout.
ATTEMPTS = 5
PAUSE_SECONDS = 0.5
POLL_SECONDS = 0.1


LOCK_MIGRATIONS = statement("migrations/lock_migrations", bool)


async def migrate(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply the pending migrations and return their names. Waits while another process migrates.

    Raises `busy` when a migration could not get its locks, and psycopg's errors for what the server refuses. Earlier
    migrations stay applied, and the next run continues after them.
    """
    return await asyncio.to_thread(_run_alone, database_url, folder, _apply)


async def undo(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Undo the newest migration, dropping its data, and return its name. Waits and raises like `migrate`."""
    return await asyncio.to_thread(_run_alone, database_url, folder, _roll_back)


def _run_alone(database_url: str, folder: Path, work: Callable[[Any, Any], list[str]]) -> list[str]:
    """Run `work` while no other process migrates. Raises FileNotFoundError if there is no migration."""
    migration_names(folder)
    migrations = yoyo.read_migrations(str(folder))
    backend = yoyo.get_backend(_yoyo_url(database_url))
    try:
        # The lock belongs to the session that migrates, so both end together, even if the client was killed. Polling,
        # because CREATE INDEX CONCURRENTLY of one process would wait for the waiting statement of another.
        while not backend.execute(LOCK_MIGRATIONS.sql).fetchone()[0]:
            time.sleep(POLL_SECONDS)
        # yoyo's own lock is a row, which a killed run leaves in its table. No running process has it now.
        backend.break_lock()
        with backend.lock():
            return work(backend, migrations)
    finally:
        backend.connection.close()


def _yoyo_url(database_url: str) -> str:
    """The URL in yoyo's form, with a name for `pg_stat_activity`."""
    url = urlsplit(database_url)
    options = dict(parse_qsl(url.query))
    options["application_name"] = "commerce-migrate"
    # The server then ends the statement of a killed client, which may wait for a lock or build an index.
    options["options"] = f"{options.get('options', '')} -c client_connection_check_interval=1s".strip()
    return url._replace(scheme="postgresql+psycopg", query=urlencode(options, quote_via=quote)).geturl()


def _apply(backend: Any, migrations: Any) -> list[str]:
    def mark(migration: Any) -> None:
        backend.mark_one(migration, log=False)
        backend.log_migration(migration, "apply")

    pending = list(backend.to_apply(migrations))
    for migration in pending:
        _run(backend, migration, "apply", mark)
    return [migration.id for migration in pending]


def _roll_back(backend: Any, migrations: Any) -> list[str]:
    def unmark(migration: Any) -> None:
        backend.unmark_one(migration, log=False)
        backend.log_migration(migration, "rollback")

    newest = list(backend.to_rollback(migrations))[:1]
    for migration in newest:
        _run(backend, migration, "rollback", unmark)
    return [migration.id for migration in newest]


def _run(backend: Any, migration: Any, direction: str, mark: Callable[[Any], None]) -> None:
    """Run a migration and record it. Retry it after a conflict over locks."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if migration.use_transactions:
                # One transaction for both: a migration without its record would run again on its own result.
                with backend.transaction():
                    migration.process_steps(backend, direction)
                    mark(migration)
            else:
                migration.process_steps(backend, direction)
                mark(migration)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == ATTEMPTS:
                raise ShopError("busy", f"{migration.id} could not get its locks; run this again.") from error
        time.sleep(PAUSE_SECONDS)
