"""Bringing the schema up to date, however many try at once and wherever one was killed."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
import yoyo

from service.errors import ShopError
from service.infra.packaged import packaged_folder
from service.infra.sql import statement

MIGRATIONS = packaged_folder("migrations")
# How often one is tried whose locks are not had in time: each try keeps others waiting for its lock_timeout at most.
ATTEMPTS = 5
PAUSE_SECONDS = 0.5
ASK_SECONDS = 0.1


LOCK_MIGRATIONS = statement("migrations/lock_migrations", bool)


async def migrate(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what has not been applied; the names of what was. Waits for another migrator to end.

    Raises `busy` when a lock could not be had, psycopg's errors for what the server refuses; what was applied
    before that stays, and the next run goes on there.
    """
    return await asyncio.to_thread(_alone, database_url, folder, _apply)


async def undo(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Take the newest migration back, losing what its rollback says; its name. Waits and raises as `migrate` does."""
    return await asyncio.to_thread(_alone, database_url, folder, _roll_back)


def _alone(database_url: str, folder: Path, work: Callable[[Any, Any], list[str]]) -> list[str]:
    """Run `work` while no other migrator does. Raises FileNotFoundError where there is no migration."""
    migrations = yoyo.read_migrations(str(folder))
    if not migrations:
        raise FileNotFoundError(f"There is no migration in {folder}.")
    backend = yoyo.get_backend(_address(database_url))
    try:
        # The session that works holds the lock: it ends with that, also where the client is long dead. It is asked
        # for and not waited for, as CREATE INDEX CONCURRENTLY would wait for who waits inside of a statement.
        while not backend.execute(LOCK_MIGRATIONS.sql).fetchone()[0]:
            time.sleep(ASK_SECONDS)
        # yoyo's own lock is a row, which a killed run leaves behind; whoever is here is alone.
        backend.break_lock()
        with backend.lock():
            return work(backend, migrations)
    finally:
        backend.connection.close()


def _address(database_url: str) -> str:
    """The URL as yoyo takes it, with a name for `pg_stat_activity`."""
    resources = urlsplit(database_url)
    options = dict(parse_qsl(resources.query))
    options["application_name"] = "commerce-migrate"
    # Who is killed must not go on waiting for a lock, or building an index, with nobody there to hear of it.
    options["options"] = f"{options.get('options', '')} -c client_connection_check_interval=1s".strip()
    return resources._replace(scheme="postgresql+psycopg", query=urlencode(options, quote_via=quote)).geturl()


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
    """Run a migration and write that down, again when it lost to others."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if migration.use_transactions:
                # In one transaction, or one killed in between would be run again on what it has done.
                with backend.transaction():
                    migration.process_steps(backend, direction)
                    mark(migration)
            else:
                migration.process_steps(backend, direction)
                mark(migration)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == ATTEMPTS:
                raise ShopError("busy", f"{migration.id} could not have its locks; run this again.") from error
        time.sleep(PAUSE_SECONDS)
